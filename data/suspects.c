#include "data/suspects.h"

#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"
#include "data/ngram.h"

enum { GROUP = 4096, BITS_MAX = 18, BITS_MIN = 12, ROW_BUCKETS = 256, SHOWN_ROWS = 50000, EPOCHS_MAX = 20 };

typedef struct {
    uint32_t row;
    int label, fold;
    size_t at, n, id_len; /* in Suspects.texts: the text, and behind it the id */
} Waiting;

struct Suspects {
    int K;
    Ngram *models[SUSPECTS_FOLDS]; /* NULL: nothing to train on outside of the fold */
    double *thresholds;            /* (K) */
    bool *judged_label;            /* (K) */
    uint64_t *joint;               /* (K, K) */
    Suspect *found;
    size_t count, cap;
    uint64_t judged, confident;
    Waiting *waiting; /* (GROUP) */
    size_t waiting_count;
    Buf texts, kept;       /* of those that wait, of suspects */
    RowText *batch;        /* (GROUP) */
    size_t *batch_rows;    /* (GROUP): index into waiting */
    double *probabilities; /* (GROUP, K) */
};

/* n, or less than max bytes up to the end of a character. */
static size_t cut(const char *text, size_t n, size_t max) {
    if (n <= max) return n;
    size_t at = max;
    while (at > max - 4 && ((unsigned char)text[at] & 0xc0) == 0x80) at--;
    return at;
}

/* ---- training ---- */

static NgramRule rule_of(size_t count, int K, uint64_t seed) {
    NgramRule rule = {.bits = BITS_MAX, .seed = seed};
    const size_t bucket_bytes = SUSPECTS_FOLDS * ((size_t)K + 1) * sizeof(float);
    while (rule.bits > BITS_MIN &&
           (bucket_bytes << rule.bits > SUSPECTS_BYTES || (size_t)1 << rule.bits > ROW_BUCKETS * count))
        rule.bits--;
    /* On 161,000 prompts of 5 domains 2 epochs find wrong labels as well as 4, in half the time; few rows need more. */
    const size_t epochs = SHOWN_ROWS / count;
    rule.epochs = epochs < 2 ? 2 : epochs > EPOCHS_MAX ? EPOCHS_MAX : (int)epochs;
    return rule;
}

typedef struct {
    RowText *texts;
    int *labels;
    size_t *rows;
    double *probabilities;
} Part;

static ErrCode part_new(Part *p, size_t count, size_t K, Err *err) {
    TRY(mem_new(&p->texts, count + 1, sizeof *p->texts, "a fold", err));
    TRY(mem_new(&p->labels, count + 1, sizeof *p->labels, "a fold", err));
    TRY(mem_new(&p->rows, count + 1, sizeof *p->rows, "a fold", err));
    return mem_new(&p->probabilities, GROUP * K, sizeof *p->probabilities, "a fold", err);
}

static void part_free(Part *p) {
    mem_free(p->texts);
    mem_free(p->labels);
    mem_free(p->rows);
    mem_free(p->probabilities);
}

/* Rows of the sample outside of a fold (or in it) into part; their number. */
static size_t select_rows(Part *p, const RowText *texts, const int *labels, const uint8_t *folds,
                          size_t count, int fold, bool inside) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if ((folds[i] == fold) != inside) continue;
        p->texts[n] = (RowText){texts[i].text, cut(texts[i].text, texts[i].n, SUSPECTS_TEXT)};
        p->labels[n++] = labels[i];
    }
    return n;
}

/* Sums of p(own label) over a fold's rows, by the model that did not see them. */
static ErrCode add_thresholds(Suspects *s, const Part *p, size_t n, int fold, uint64_t *rows,
                              Threads *threads, Err *err) {
    const size_t K = (size_t)s->K;
    for (size_t from = 0; from < n; from += GROUP) {
        const size_t group = n - from < GROUP ? n - from : GROUP;
        TRY(ngram_predict(s->models[fold], p->probabilities, p->texts + from, group, threads, err));
        for (size_t i = 0; i < group; i++) {
            const int k = p->labels[from + i];
            s->thresholds[k] += p->probabilities[i * K + (size_t)k];
            rows[k]++;
        }
    }
    return ERR_OK;
}

static ErrCode train(Suspects *s, const RowText *texts, const int *labels, const uint8_t *folds, size_t count,
                     uint64_t seed, Threads *threads, Err *err) {
    Part part = {0};
    uint64_t *rows = NULL, *predicted = NULL;
    ErrCode rc = part_new(&part, count, (size_t)s->K, err);
    if (rc == ERR_OK) rc = mem_new(&rows, (size_t)s->K, sizeof *rows, "labels", err);
    if (rc == ERR_OK) rc = mem_new(&predicted, (size_t)s->K, sizeof *predicted, "labels", err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) rows[labels[i]]++;
    for (int fold = 0; rc == ERR_OK && fold < SUSPECTS_FOLDS; fold++) {
        size_t n = select_rows(&part, texts, labels, folds, count, fold, false);
        if (n == 0) continue;
        const NgramRule rule = rule_of(n, s->K, seed + (uint64_t)fold);
        rc = ngram_train(&s->models[fold], part.texts, part.labels, n, s->K, &rule, threads, err);
        if (rc != ERR_OK) break;
        n = select_rows(&part, texts, labels, folds, count, fold, true);
        rc = add_thresholds(s, &part, n, fold, predicted, threads, err);
    }
    for (int k = 0; rc == ERR_OK && k < s->K; k++) {
        s->judged_label[k] = rows[k] >= SUSPECTS_LABEL_ROWS;
        s->thresholds[k] = predicted[k] ? s->thresholds[k] / (double)predicted[k] : 1;
    }
    part_free(&part);
    mem_free(rows);
    mem_free(predicted);
    return rc;
}

static ErrCode new_suspects(Suspects **out, int K, Err *err) {
    *out = NULL;
    if (K < 1 || K > SUSPECTS_LABELS_MAX)
        return err_set(err, ERR_ARGUMENT, "labels are judged where there are 1 to %d of them, found %d",
                       SUSPECTS_LABELS_MAX, K);
    Suspects *s;
    TRY(mem_new(&s, 1, sizeof *s, "label suspects", err));
    s->K = K;
    const size_t n = (size_t)K;
    ErrCode rc = mem_new(&s->thresholds, n, sizeof *s->thresholds, "label suspects", err);
    if (rc == ERR_OK) rc = mem_new(&s->judged_label, n, sizeof *s->judged_label, "label suspects", err);
    if (rc == ERR_OK) rc = mem_new(&s->joint, n * n, sizeof *s->joint, "label suspects", err);
    if (rc == ERR_OK)
        *out = s;
    else
        suspects_close(s);
    return rc;
}

ErrCode suspects_open(Suspects **out, const RowText *texts, const int *labels, const uint8_t *folds,
                      size_t count, int K, uint64_t seed, Threads *threads, Err *err) {
    Suspects *s;
    *out = NULL;
    TRY(new_suspects(&s, K, err));
    const size_t n = (size_t)K;
    ErrCode rc = mem_new(&s->waiting, GROUP, sizeof *s->waiting, "label suspects", err);
    if (rc == ERR_OK) rc = mem_new(&s->batch, GROUP, sizeof *s->batch, "label suspects", err);
    if (rc == ERR_OK) rc = mem_new(&s->batch_rows, GROUP, sizeof *s->batch_rows, "label suspects", err);
    if (rc == ERR_OK) rc = mem_new(&s->probabilities, GROUP * n, sizeof(double), "label suspects", err);
    if (rc == ERR_OK) rc = train(s, texts, labels, folds, count, seed, threads, err);
    if (rc == ERR_OK)
        *out = s;
    else
        suspects_close(s);
    return rc;
}

ErrCode suspects_open_given(Suspects **out, const double *p, const int *labels, size_t count, int K,
                            Err *err) {
    Suspects *s;
    uint64_t *rows;
    *out = NULL;
    TRY(new_suspects(&s, K, err));
    const ErrCode rc = mem_new(&rows, (size_t)K, sizeof *rows, "labels", err);
    if (rc != ERR_OK) {
        suspects_close(s);
        return rc;
    }
    for (size_t i = 0; i < count; i++) {
        s->thresholds[labels[i]] += p[i * (size_t)K + (size_t)labels[i]];
        rows[labels[i]]++;
    }
    for (int k = 0; k < K; k++) {
        s->judged_label[k] = rows[k] >= SUSPECTS_LABEL_ROWS;
        s->thresholds[k] = rows[k] ? s->thresholds[k] / (double)rows[k] : 1;
    }
    mem_free(rows);
    *out = s;
    return ERR_OK;
}

void suspects_close(Suspects *s) {
    if (!s) return;
    for (int fold = 0; fold < SUSPECTS_FOLDS; fold++) ngram_free(s->models[fold]);
    mem_free(s->thresholds);
    mem_free(s->judged_label);
    mem_free(s->joint);
    mem_free(s->found);
    mem_free(s->waiting);
    mem_free(s->batch);
    mem_free(s->batch_rows);
    mem_free(s->probabilities);
    buf_free(&s->texts);
    buf_free(&s->kept);
    mem_free(s);
}

/* ---- judging ---- */

/* A row beside its probabilities. */
typedef struct {
    uint32_t row;
    int label;
    RowText text, id;
} Judged;

static ErrCode keep(Suspects *s, const Judged *j, Suspect suspect, Err *err) {
    if (s->count == s->cap) {
        const size_t cap = s->cap + s->cap / 2 + 256;
        Suspect *more = mem_resize(s->found, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for label suspects");
        s->found = more;
        s->cap = cap;
    }
    suspect.at = s->kept.len;
    suspect.text_len = (uint16_t)cut(j->text.text, j->text.n, SUSPECTS_EXCERPT);
    suspect.id_len = (uint16_t)cut(j->id.text, j->id.n, SUSPECTS_EXCERPT);
    buf_put(&s->kept, j->text.text, suspect.text_len);
    buf_put(&s->kept, j->id.text, suspect.id_len);
    s->found[s->count++] = suspect;
    return buf_ok(&s->kept, err);
}

static ErrCode judge(Suspects *s, const Judged *j, const double *p, Err *err) {
    int best = 0, sure = -1;
    for (int k = 0; k < s->K; k++) {
        if (p[k] > p[best]) best = k;
        if (s->judged_label[k] && p[k] >= s->thresholds[k] && (sure < 0 || p[k] > p[sure])) sure = k;
    }
    s->judged++;
    if (sure >= 0) s->joint[(size_t)j->label * (size_t)s->K + (size_t)sure]++;
    const bool confident = sure >= 0 && sure != j->label;
    s->confident += confident;
    if (best == j->label && !confident) return ERR_OK;
    if (confident) best = sure; /* where the given label has the greatest p, but not its threshold */
    return keep(s, j,
                (Suspect){.row = j->row,
                          .label = j->label,
                          .suggested = best,
                          .p_label = (float)p[j->label],
                          .p_suggested = (float)p[best],
                          .confident = confident},
                err);
}

static ErrCode flush(Suspects *s, Threads *threads, Err *err) {
    for (int fold = 0; fold < SUSPECTS_FOLDS; fold++) {
        if (!s->models[fold]) continue;
        size_t n = 0;
        for (size_t i = 0; i < s->waiting_count; i++) {
            const Waiting *w = &s->waiting[i];
            if (w->fold != fold || !s->judged_label[w->label]) continue;
            s->batch[n] = (RowText){s->texts.data + w->at, w->n};
            s->batch_rows[n++] = i;
        }
        TRY(ngram_predict(s->models[fold], s->probabilities, s->batch, n, threads, err));
        for (size_t i = 0; i < n; i++) {
            const Waiting *w = &s->waiting[s->batch_rows[i]];
            const char *text = s->texts.data + w->at;
            const Judged j = {w->row, w->label, {text, w->n}, {text + w->n, w->id_len}};
            TRY(judge(s, &j, s->probabilities + i * (size_t)s->K, err));
        }
    }
    s->waiting_count = 0;
    buf_clear(&s->texts);
    return ERR_OK;
}

ErrCode suspects_add(Suspects *s, const SuspectsRow *row, Threads *threads, Err *err) {
    if (s->waiting_count == GROUP) TRY(flush(s, threads, err));
    Waiting *w = &s->waiting[s->waiting_count++];
    *w = (Waiting){.row = row->row,
                   .label = row->label,
                   .fold = row->fold,
                   .at = s->texts.len,
                   .n = cut(row->text.text, row->text.n, SUSPECTS_TEXT),
                   .id_len = row->id ? strlen(row->id) : 0};
    buf_put(&s->texts, row->text.text, w->n);
    if (row->id) buf_put(&s->texts, row->id, w->id_len);
    return buf_ok(&s->texts, err);
}

ErrCode suspects_judge(Suspects *s, const SuspectsRow *row, const double *p, Err *err) {
    if (!s->judged_label[row->label]) return ERR_OK;
    const char *id = row->id ? row->id : "";
    const Judged j = {row->row, row->label, row->text, {id, strlen(id)}};
    return judge(s, &j, p, err);
}

static double margin(const Suspect *s) {
    return (double)s->p_suggested - (double)s->p_label;
}

static int by_rank(const void *a, const void *b) {
    const Suspect *x = a, *y = b;
    const double p = margin(x), q = margin(y);
    if (p > q || p < q) return p > q ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

ErrCode suspects_finish(Suspects *s, Threads *threads, Err *err) {
    TRY(flush(s, threads, err));
    if (s->count) qsort(s->found, s->count, sizeof *s->found, by_rank);
    return ERR_OK;
}

const Suspect *suspects_all(const Suspects *s, size_t *count) {
    *count = s->count;
    return s->found;
}

const char *suspects_text(const Suspects *s, const Suspect *suspect) {
    return s->kept.data + suspect->at;
}

uint64_t suspects_judged(const Suspects *s) {
    return s->judged;
}

uint64_t suspects_confident(const Suspects *s) {
    return s->confident;
}

const uint64_t *suspects_joint(const Suspects *s) {
    return s->joint;
}

void suspects_put(Buf *out, const Suspects *s, const Suspect *suspect, size_t rank,
                  const SuspectsPlace *place) {
    const char *text = suspects_text(s, suspect);
    buf_printf(out, "{\"rank\":%zu,\"file\":", rank);
    text_put_json(out, place->file, strlen(place->file));
    buf_printf(out, ",\"line\":%llu", (unsigned long long)place->line);
    if (suspect->id_len) {
        buf_puts(out, ",\"id\":");
        text_put_json(out, text + suspect->text_len, suspect->id_len);
    }
    buf_puts(out, ",\"label\":");
    text_put_json(out, place->label, strlen(place->label));
    buf_puts(out, ",\"suggested\":");
    text_put_json(out, place->suggested, strlen(place->suggested));
    buf_printf(out,
               ",\"p_label\":%.4f,\"p_suggested\":%.4f,\"confident\":%s,\"text\":", (double)suspect->p_label,
               (double)suspect->p_suggested, suspect->confident ? "true" : "false");
    text_put_json(out, text, suspect->text_len);
    buf_puts(out, "}");
}
