#include "data/ngram.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/stop.h"
#include "core/text.h"

/* Ranges of buckets that are updated independently: a constant, so that no order depends on the threads. */
enum { PARTS_LOG2 = 4, PARTS = 1 << PARTS_LOG2, CHARS_MAX = 5, CHARS_MIN = 3 };

struct Ngram {
    int K, bits;
    float *table; /* (2^bits, K + 1): weights, then the sum of squared gradients */
    float *bias;  /* (K) */
};

/* ---- features ---- */

enum { KIND_SPACE, KIND_WORD, KIND_SINGLE };

static int kind_of(uint32_t c) {
    if (c < 128) {
        if (c <= ' ' || c == 127) return KIND_SPACE;
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        return letter ? KIND_WORD : KIND_SINGLE;
    }
    if (c <= 0xA0 || (c >= 0x2000 && c <= 0x200F) || (c >= 0x2028 && c <= 0x202F) || c == 0x3000)
        return KIND_SPACE;
    if (c <= 0xBF || c == 0xD7 || c == 0xF7) return KIND_SINGLE;
    /* punctuation, symbols, ideographs and what follows them; Hangul stays in words */
    return c >= 0x2010 && !(c >= 0xAC00 && c <= 0xD7A3) ? KIND_SINGLE : KIND_WORD;
}

static uint32_t lower(uint32_t c) {
    if (c >= 'A' && c <= 'Z') return c + 32;
    if ((c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F))
        return c + 32;
    return c >= 0x400 && c <= 0x40F ? c + 80 : c;
}

typedef struct {
    uint32_t *out;
    size_t count;
    int bits;
    uint32_t last[CHARS_MAX]; /* the latest characters of "<word", newest first */
    int chars;
    uint64_t word, previous;
} Features;

static void feature(Features *f, uint64_t hash) {
    if (f->count < NGRAM_FEATURES_MAX) f->out[f->count++] = (uint32_t)(rng_mix(hash) >> (64 - f->bits));
}

/* One more character of "<word>": the n-grams that end with it. */
static void feature_char(Features *f, uint32_t c) {
    memmove(f->last + 1, f->last, (CHARS_MAX - 1) * sizeof *f->last);
    f->last[0] = c;
    if (f->chars < CHARS_MAX) f->chars++;
    uint64_t hash = 0x51ed270b2f3c96c5u; /* any odd word: keeps character n-grams apart from words */
    for (int i = 0; i < f->chars; i++) {
        hash = (hash ^ f->last[i]) * 0x100000001b3u;
        hash ^= hash >> 29;
        if (i + 1 >= CHARS_MIN) feature(f, hash + (uint64_t)i);
    }
}

static void word_end(Features *f) {
    feature(f, f->word);
    if (f->previous) feature(f, f->word * 31 + rng_mix(f->previous));
    f->previous = f->word | 1;
}

/* Features of a text into out (room for NGRAM_FEATURES_MAX); their number. */
static size_t features_of(uint32_t *out, int bits, const RowText *text) {
    Features f = {.out = out, .bits = bits};
    bool inside = false;
    for (size_t i = 0; i < text->n && f.count < NGRAM_FEATURES_MAX;) {
        uint32_t c;
        i += text_utf8_next(text->text + i, text->n - i, &c);
        const int kind = kind_of(c);
        if (inside && kind != KIND_WORD) {
            feature_char(&f, '>');
            word_end(&f);
            inside = false;
        }
        if (kind == KIND_SPACE) continue;
        c = lower(c);
        if (!inside) f.word = 0xcbf29ce484222325u;
        f.word = (f.word ^ c) * 0x100000001b3u;
        if (kind == KIND_SINGLE) {
            word_end(&f);
            continue;
        }
        if (!inside) {
            f.chars = 0;
            feature_char(&f, '<');
        }
        inside = true;
        feature_char(&f, c);
    }
    if (inside) {
        feature_char(&f, '>');
        word_end(&f);
    }
    return f.count;
}

/* ---- the model ---- */

/* p = softmax(bias + scale * sum of the features' weights), in K values of z. */
static void forward(const Ngram *m, double *z, const uint32_t *features, size_t count, double scale) {
    const size_t stride = (size_t)m->K + 1;
    for (int k = 0; k < m->K; k++) z[k] = 0;
    for (size_t i = 0; i < count; i++) {
        const float *row = m->table + features[i] * stride;
        for (int k = 0; k < m->K; k++) z[k] += (double)row[k];
    }
    double top = -HUGE_VAL, sum = 0;
    for (int k = 0; k < m->K; k++) {
        z[k] = z[k] * scale + (double)m->bias[k];
        top = z[k] > top ? z[k] : top;
    }
    for (int k = 0; k < m->K; k++) sum += z[k] = exp(z[k] - top);
    for (int k = 0; k < m->K; k++) z[k] /= sum;
}

static double scale_of(size_t count) {
    return count ? 1 / sqrt((double)count) : 0;
}

void ngram_free(Ngram *m) {
    if (!m) return;
    mem_free(m->table);
    mem_free(m->bias);
    mem_free(m);
}

/* ---- training ---- */

typedef struct {
    Ngram *model;
    const RowText *texts;
    const int *labels;
    const uint32_t *order; /* of the whole epoch */
    size_t from, rows;     /* the batch: order[from .. from + rows - 1] */
    uint32_t *scratch;     /* (threads, NGRAM_FEATURES_MAX) */
    uint32_t *features;    /* (NGRAM_BATCH, NGRAM_FEATURES_MAX), grouped by part */
    uint32_t *start;       /* (NGRAM_BATCH, PARTS + 1) */
    double *delta;         /* (NGRAM_BATCH, K): target - p */
    double loss[NGRAM_BATCH];
    double rate;
} Training;

static void row_task(void *arg, size_t i, int thread) {
    Training *t = arg;
    const Ngram *m = t->model;
    const uint32_t row = t->order[t->from + i];
    uint32_t *raw = t->scratch + (size_t)thread * NGRAM_FEATURES_MAX;
    uint32_t *out = t->features + i * NGRAM_FEATURES_MAX, *start = t->start + i * (PARTS + 1);
    const size_t count = features_of(raw, m->bits, &t->texts[row]);
    const int shift = m->bits - PARTS_LOG2;
    uint32_t at[PARTS + 1] = {0};
    for (size_t f = 0; f < count; f++) at[(raw[f] >> shift) + 1]++;
    for (int p = 0; p < PARTS; p++) at[p + 1] += at[p];
    memcpy(start, at, sizeof at);
    for (size_t f = 0; f < count; f++) out[at[raw[f] >> shift]++] = raw[f];
    double *delta = t->delta + i * (size_t)m->K;
    forward(m, delta, out, count, scale_of(count));
    const int label = t->labels[row];
    t->loss[i] = -log(delta[label] + 1e-12);
    for (int k = 0; k < m->K; k++) delta[k] = (k == label) - delta[k];
}

static void part_task(void *arg, size_t part, int thread) {
    (void)thread;
    const Training *t = arg;
    const int K = t->model->K;
    const size_t stride = (size_t)K + 1;
    for (size_t i = 0; i < t->rows; i++) {
        const double *delta = t->delta + i * (size_t)K;
        const uint32_t *start = t->start + i * (PARTS + 1), *features = t->features + i * NGRAM_FEATURES_MAX;
        const double scale = scale_of(start[PARTS]);
        double squares = 0;
        for (int k = 0; k < K; k++) squares += delta[k] * delta[k];
        const float square = (float)(squares * scale * scale);
        for (uint32_t f = start[part]; f < start[part + 1]; f++) {
            float *w = t->model->table + features[f] * stride;
            w[K] += square;
            const double step = t->rate * scale / sqrt((double)w[K] + 1e-12);
            for (int k = 0; k < K; k++) w[k] += (float)(step * delta[k]);
        }
        /* The bias is shared by all rows and moves slowly: a tenth of the rate, without an accumulator. */
        for (int k = 0; part == 0 && k < K; k++) t->model->bias[k] += (float)(0.1 * t->rate * delta[k]);
    }
}

static ErrCode train_epochs(Training *t, uint32_t *order, size_t count, const NgramRule *rule,
                            Threads *threads, Err *err) {
    const size_t total = count * (size_t)rule->epochs;
    Progress progress;
    progress_begin(&progress, "n-gram baseline", total, 0);
    ErrCode rc = ERR_OK;
    size_t done = 0;
    for (int epoch = 0; rc == ERR_OK && epoch < rule->epochs; epoch++) {
        rng_shuffle(order, count, rng_key(rule->seed, "ngram", (uint64_t)epoch));
        double loss = 0;
        for (t->from = 0; t->from < count; t->from += t->rows) {
            t->rows = count - t->from < NGRAM_BATCH ? count - t->from : NGRAM_BATCH;
            t->rate = rule->rate * (1 - (double)done / (double)total);
            threads_run(threads, row_task, t, t->rows);
            threads_run(threads, part_task, t, PARTS);
            for (size_t i = 0; i < t->rows; i++) loss += t->loss[i];
            done += t->rows;
            if (progress_due(&progress))
                progress_update(&progress, done, "epoch %d/%d loss %.3f", epoch + 1, rule->epochs,
                                loss / (double)(t->from + t->rows));
            if (stop_requested()) {
                rc = err_set(err, ERR_INTERRUPTED, "stopped while training the n-gram baseline");
                break;
            }
        }
    }
    progress_end(&progress);
    return rc;
}

static NgramRule resolve(const NgramRule *rule, size_t count, int K) {
    NgramRule r = *rule;
    if (r.bits <= 0) {
        r.bits = 21;
        while (r.bits > 12 && ((uint64_t)K + 1) << r.bits > (uint64_t)1 << 27) r.bits--;
    }
    if (r.epochs <= 0) r.epochs = count >= 40000 ? 5 : count <= 8000 ? 25 : (int)(200000 / count);
    if (!(r.rate > 0)) r.rate = 0.4;
    return r;
}

ErrCode ngram_train(Ngram **out, const RowText *texts, const int *labels, size_t count, int K,
                    const NgramRule *given, Threads *threads, Err *err) {
    *out = NULL;
    if (count == 0 || count > UINT32_MAX / 2)
        return err_set(err, ERR_ARGUMENT, "the n-gram baseline needs 1 to %u training rows, found %zu",
                       UINT32_MAX / 2, count);
    if (K < 1) return err_set(err, ERR_ARGUMENT, "the n-gram baseline needs labels, found none");
    const NgramRule rule = resolve(given, count, K);
    assert(rule.bits >= PARTS_LOG2 && rule.bits <= 24);
    const size_t stride = (size_t)K + 1, threads_n = (size_t)threads_count(threads);
    Training t = {.texts = texts, .labels = labels};
    uint32_t *order = NULL;
    Ngram *m = NULL;
    ErrCode rc = mem_new(&m, 1, sizeof *m, "the n-gram baseline", err);
    if (rc != ERR_OK) goto done;
    *m = (Ngram){.K = K, .bits = rule.bits};
    t.model = m;
    if ((rc =
             mem_new(&m->table, ((size_t)1 << rule.bits) * stride, sizeof(float), "the n-gram table", err)) ||
        (rc = mem_new(&m->bias, (size_t)K, sizeof(float), "the n-gram table", err)) ||
        (rc = mem_new(&order, count, sizeof *order, "the order of rows", err)) ||
        (rc = mem_new(&t.scratch, threads_n * NGRAM_FEATURES_MAX, sizeof(uint32_t), "n-grams", err)) ||
        (rc = mem_new(&t.features, (size_t)NGRAM_BATCH * NGRAM_FEATURES_MAX, sizeof(uint32_t), "n-grams",
                      err)) ||
        (rc = mem_new(&t.start, (size_t)NGRAM_BATCH * (PARTS + 1), sizeof(uint32_t), "n-grams", err)) ||
        (rc = mem_new(&t.delta, (size_t)NGRAM_BATCH * (size_t)K, sizeof(double), "n-gram gradients", err)))
        goto done;
    for (size_t i = 0; i < count; i++) {
        assert(labels[i] >= 0 && labels[i] < K);
        order[i] = (uint32_t)i;
    }
    t.order = order;
    rc = train_epochs(&t, order, count, &rule, threads, err);
done:
    mem_free(order);
    mem_free(t.scratch);
    mem_free(t.features);
    mem_free(t.start);
    mem_free(t.delta);
    if (rc == ERR_OK)
        *out = m;
    else
        ngram_free(m);
    return rc;
}

/* ---- prediction ---- */

typedef struct {
    const Ngram *model;
    double *probabilities;
    const RowText *texts;
    uint32_t *scratch; /* (threads, NGRAM_FEATURES_MAX) */
} Prediction;

static void predict_task(void *arg, size_t i, int thread) {
    const Prediction *p = arg;
    uint32_t *features = p->scratch + (size_t)thread * NGRAM_FEATURES_MAX;
    const size_t count = features_of(features, p->model->bits, &p->texts[i]);
    forward(p->model, p->probabilities + i * (size_t)p->model->K, features, count, scale_of(count));
}

ErrCode ngram_predict(const Ngram *model, double *probabilities, const RowText *texts, size_t count,
                      Threads *threads, Err *err) {
    Prediction p = {.model = model, .probabilities = probabilities, .texts = texts};
    TRY(mem_new(&p.scratch, (size_t)threads_count(threads) * NGRAM_FEATURES_MAX, sizeof(uint32_t), "n-grams",
                err));
    threads_run(threads, predict_task, &p, count);
    mem_free(p.scratch);
    return ERR_OK;
}
