#include "data/doctor.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/dedup.h"
#include "data/overlap.h"
#include "data/scan.h"
#include "data/words.h"

const uint32_t DOCTOR_CUT_AT[DOCTOR_CUTS] = {64, 128, 256, 512};

/* Of a label in the sample at least so many rows, where it has them and there is room. */
enum { LABEL_SAMPLE = 1000 };

/* Longer texts are tokenised up to here, and the number of tokens scaled up: a tokenizer needs much memory for them, and they
 * are far beyond every cut. */
#define TOKENISED_BYTES ((size_t)1 << 20)

/* What is known of a row alone. */
typedef struct {
    DedupSignature signature;
    OverlapHit hit;
    uint32_t length;
    uint8_t script, language, defects, failed;
} Slot;

/* A finding that has no excerpt yet. */
typedef struct {
    uint32_t row;
    DoctorFinding *finding;
} Wanted;

typedef struct {
    Doctor *d;
    const DoctorRule *rule;
    Dedup *dedup;
    Overlap *overlap;
    Buf *ids; /* (threads), for the tokenizer */
    int threads;
    uint32_t cap;
    uint64_t text_bytes; /* what all rows would take in the sample */
    uint32_t at;         /* passes 2 and 3: the good row that comes next */
    double *rates;       /* (labels): share of its rows that is in the sample */
    Buf texts;
    size_t *text_at; /* (sample_cap + 1) */
    int *text_labels;
    uint8_t *text_folds;
    size_t sample_cap;
    Wanted *wanted; /* by row */
    size_t wanted_count, wanted_at;
} Run;

/* ---- findings ---- */

static ErrCode listed(DoctorFinding **out, Doctor *d, DoctorKind kind, Err *err) {
    DoctorFindings *f = &d->found[kind];
    *out = NULL;
    f->count++;
    if (f->listed_count == d->rule->list) return ERR_OK;
    if (f->listed_count % 64 == 0) {
        DoctorFinding *more = mem_resize(f->listed, f->listed_count + 64, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for findings");
        f->listed = more;
    }
    *out = &f->listed[f->listed_count++];
    **out = (DoctorFinding){.label = -1, .other_label = -1};
    return ERR_OK;
}

static ErrCode set_excerpt(DoctorFinding *f, const char *text, size_t n, Err *err) {
    char excerpt[DOCTOR_EXCERPT + 4];
    f->text = mem_strdup(text_excerpt(excerpt, DOCTOR_EXCERPT, text, n));
    return f->text ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for findings");
}

/* A finding about the row that is being read. */
static ErrCode note_row(Doctor *d, DoctorKind kind, const ScanRow *row, const char *text, size_t n,
                        const OverlapHit *hit, const Overlap *overlap, Err *err) {
    DoctorFinding *f;
    TRY(listed(&f, d, kind, err));
    if (!f) return ERR_OK;
    f->place = (DoctorPlace){row->file, row->line};
    if (hit) {
        overlap_place(overlap, hit->row, &f->other.file, &f->other.line);
        f->similarity = (double)hit->similarity;
        f->shares_words = hit->words;
    }
    return set_excerpt(f, text, n, err);
}

/* ---- pass 1 ---- */

static uint32_t words_in(const char *text, size_t n) {
    Words words = {.text = text, .n = n};
    Word word;
    uint32_t count = 0;
    while (words_next(&words, &word)) count++;
    return count;
}

static bool tokens_in(uint32_t *out, const Run *run, const char *text, size_t n, int thread) {
    const size_t part = n < TOKENISED_BYTES ? n : TOKENISED_BYTES;
    Buf *ids = &run->ids[thread];
    size_t whole;
    buf_clear(ids);
    const TokenizerRule rule = {.plain = true};
    if (tokenizer_encode(run->rule->tokenizer, &rule, text, part, ids, &whole, NULL) != ERR_OK) return false;
    const double tokens = (double)whole * (double)n / (double)part;
    *out = tokens < 4e9 ? (uint32_t)tokens : UINT32_MAX;
    return true;
}

static void look(void *arg, const ScanRow *row, void *slot, int thread) {
    const Run *run = arg;
    Slot *s = slot;
    if (!row->record) return;
    const char *text = row->record->text;
    const size_t n = row->record->text_len;
    size_t characters;
    Language language;
    dedup_signature(&s->signature, text, n);
    s->defects = (uint8_t)defects_of(&characters, text, n, run->rule->characters_max);
    s->script = (uint8_t)script_of(&language, text, n);
    s->language = (uint8_t)language;
    s->failed = 0;
    if (run->rule->tokenizer)
        s->failed = !tokens_in(&s->length, run, text, n, thread);
    else
        s->length = words_in(text, n);
    s->hit = (OverlapHit){.row = OVERLAP_NONE};
    if (run->overlap) s->hit = overlap_find(run->overlap, text, n, &s->signature);
}

static ErrCode add_row(Run *run, const DoctorRow *row, Err *err) {
    Doctor *d = run->d;
    if (d->row_count == UINT32_MAX) return err_set(err, ERR_FORMAT, "more than %u rows", UINT32_MAX);
    if (d->row_count == run->cap) {
        const uint32_t cap = run->cap < UINT32_MAX / 2 ? run->cap + run->cap / 2 + 4096 : UINT32_MAX;
        DoctorRow *rows = mem_resize(d->rows, cap, sizeof *rows);
        if (!rows) return err_set(err, ERR_MEMORY, "out of memory for %u rows", cap);
        d->rows = rows;
        run->cap = cap;
    }
    d->rows[d->row_count++] = *row;
    return ERR_OK;
}

/* Its index, and room for its counts. */
static ErrCode find_label(int32_t *out, Doctor *d, const char *name, Err *err) {
    size_t index;
    const size_t before = d->labels.count;
    TRY(names_add(&index, &d->labels, name, err));
    if (d->labels.count > before) {
        if (d->labels.count > INT32_MAX / 2) return err_set(err, ERR_FORMAT, "too many labels");
        if ((before & (before - 1)) == 0) { /* at each power of two */
            DoctorLabel *label = mem_resize(d->label, before ? 2 * before : 1, sizeof *label);
            if (!label) return err_set(err, ERR_MEMORY, "out of memory for the labels");
            d->label = label;
        }
        d->label[before] = (DoctorLabel){0};
    }
    *out = (int32_t)index;
    return ERR_OK;
}

static int bin_of(uint32_t length) {
    const int bin = length ? (int)floor(4 * log2((double)length)) : 0;
    return bin < DOCTOR_BINS ? bin : DOCTOR_BINS - 1;
}

static void count_row(Doctor *d, const DoctorRow *row) {
    DoctorLabel *const both[2] = {&d->all, &d->label[row->label]};
    for (int i = 0; i < 2; i++) {
        both[i]->split[row->split]++;
        both[i]->script[row->script]++;
        both[i]->language[row->language]++;
    }
    d->file_rows[row->file]++;
    d->histogram[bin_of(row->length)]++;
}

static ErrCode note_defects(Doctor *d, const ScanRow *row, unsigned defects, Err *err) {
    d->defective += (defects & ~(unsigned)(DEFECT_LONG | DEFECT_WORDLESS)) != 0;
    for (int i = 0; i < DEFECTS_COUNT; i++)
        if (defects >> i & 1)
            TRY(note_row(d, (DoctorKind)(DOCTOR_DEFECT + i), row, row->record->text, row->record->text_len,
                         NULL, NULL, err));
    return ERR_OK;
}

static ErrCode take_first(void *arg, const ScanRow *row, const void *slot, Err *err) {
    Run *run = arg;
    const Slot *s = slot;
    Doctor *d = run->d;
    const Record *r = row->record;
    if (!r) return note_row(d, DOCTOR_BAD, row, row->why, strlen(row->why), NULL, NULL, err);
    if (s->failed) return err_set(err, ERR_MEMORY, "out of memory for the tokens of a row");
    DoctorRow new = {.line = row->line,
                     .file = row->file,
                     .length = s->length,
                     .split = SPLIT_COUNT,
                     .script = s->script,
                     .language = s->language};
    if (r->split) new.split = (uint8_t)split_find(r->split);
    if (r->split && new.split == SPLIT_COUNT)
        TRY(note_row(d, DOCTOR_SPLIT, row, r->split, strlen(r->split), NULL, NULL, err));
    TRY(note_defects(d, row, s->defects, err));
    if (s->hit.row != OVERLAP_NONE)
        TRY(note_row(d, DOCTOR_OVERLAP, row, r->text, r->text_len, &s->hit, run->overlap, err));
    TRY(find_label(&new.label, d, r->label, err));
    TRY(add_row(run, &new, err));
    count_row(d, &new);
    run->text_bytes += r->text_len < SUSPECTS_TEXT ? r->text_len : SUSPECTS_TEXT;
    return dedup_add(run->dedup, &s->signature, err);
}

static ErrCode pass(Run *run, const char *what, size_t slot_bytes,
                    void (*work)(void *, const ScanRow *, void *, int),
                    ErrCode (*take)(void *, const ScanRow *, const void *, Err *), Err *err) {
    const DoctorRule *rule = run->rule;
    const Scan scan = {
        .inputs = rule->inputs,
        .record = {.text_field = rule->record.text_field, .label_field = rule->record.label_field},
        .slot_bytes = slot_bytes,
        .work = work,
        .take = take,
        .arg = run,
        .threads = rule->threads,
        .progress = rule->progress};
    const uint64_t known = run->d->row_count ? run->d->row_count + run->d->found[DOCTOR_BAD].count : 0;
    if (rule->progress) progress_begin(rule->progress, what, known, 0);
    run->at = 0;
    const ErrCode rc = scan_rows(&scan, err);
    if (rule->progress) progress_end(rule->progress);
    return rc;
}

static ErrCode read_rows(Run *run, Err *err) {
    const DoctorRule *rule = run->rule;
    if (rule->against) {
        if (rule->progress) progress_begin(rule->progress, "reading benchmarks", 0, 0);
        const ErrCode rc = overlap_open(&run->overlap, rule->against, NULL, rule->threshold, rule->threads,
                                        rule->progress, err);
        if (rule->progress) progress_end(rule->progress);
        if (rc != ERR_OK) return rc;
        run->d->benchmark_rows = overlap_rows(run->overlap);
    }
    run->threads = threads_count(rule->threads);
    TRY(mem_new(&run->ids, (size_t)run->threads, sizeof *run->ids, "tokens", err));
    TRY(mem_new(&run->d->file_rows, rule->inputs->count, sizeof(uint64_t), "the inputs", err));
    TRY(dedup_open(&run->dedup, rule->threshold, err));
    return pass(run, "reading rows", sizeof(Slot), look, take_first, err);
}

/* ---- groups ---- */

/* `row` repeats `first`, an earlier one. */
static ErrCode note_repeat(Run *run, DoctorKind kind, DoctorRepeats *repeats, uint32_t row, uint32_t first,
                           Err *err) {
    Doctor *d = run->d;
    const DoctorRow *a = &d->rows[first], *b = &d->rows[row];
    const bool crossing = a->split != b->split && a->split != SPLIT_COUNT && b->split != SPLIT_COUNT;
    if (crossing)
        repeats->across_splits++;
    else if (a->file != b->file)
        repeats->across_files++;
    else
        repeats->within_file++;
    DoctorKind kinds[3] = {kind};
    int count = 1;
    if (crossing) kinds[count++] = DOCTOR_CROSSING;
    if (a->label != b->label) kinds[count++] = kind == DOCTOR_EXACT ? DOCTOR_CONFLICT : DOCTOR_NEAR_CONFLICT;
    for (int i = 0; i < count; i++) {
        DoctorFinding *f;
        TRY(listed(&f, d, kinds[i], err));
        if (!f) continue;
        f->place = (DoctorPlace){b->file, b->line};
        f->other = (DoctorPlace){a->file, a->line};
        f->label = b->label;
        f->other_label = a->label;
        f->similarity = dedup_similarity(dedup_at(run->dedup, row), dedup_at(run->dedup, first));
        f->row = row;
    }
    return ERR_OK;
}

typedef struct {
    uint64_t key;
    uint32_t row;
} Member;

/* Rows of one text follow each other, the first of them first; the texts are in no order of interest. */
static int by_text(const void *a, const void *b) {
    const Member *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* earlier[row]: for rows of groups, the first row of the same text. */
static void find_texts(uint32_t *earlier, Member *members, size_t n) {
    if (n > 1) qsort(members, n, sizeof *members, by_text);
    for (size_t i = 0, first = 0; i < n; i++) {
        if (members[i].key != members[first].key) first = i;
        earlier[members[i].row] = members[first].row;
    }
}

/* A row's group is that of its first row; `next` chains the rows of a group in order. */
static ErrCode note_groups(Run *run, uint32_t *next, uint32_t *last, uint32_t *earlier, Member *members,
                           Err *err) {
    const uint32_t n = run->d->row_count;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t first = dedup_first(run->dedup, i);
        next[i] = UINT32_MAX;
        if (first != i) next[last[first]] = i;
        last[first] = i;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (dedup_first(run->dedup, i) != i) continue;
        size_t count = 0;
        for (uint32_t r = i; r != UINT32_MAX; r = next[r])
            members[count++] = (Member){dedup_at(run->dedup, r)->key, r};
        find_texts(earlier, members, count);
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t first = dedup_first(run->dedup, i);
        if (earlier[i] != i)
            TRY(note_repeat(run, DOCTOR_EXACT, &run->d->exact, i, earlier[i], err));
        else if (first != i)
            TRY(note_repeat(run, DOCTOR_NEAR, &run->d->near, i, first, err));
    }
    return ERR_OK;
}

static ErrCode group_rows(Run *run, Err *err) {
    const size_t n = run->d->row_count;
    TRY(dedup_group(run->dedup, run->rule->threads, err));
    uint32_t *links = NULL;
    Member *members = NULL;
    ErrCode rc = mem_new(&links, 3 * n + 1, sizeof *links, "groups of rows", err);
    if (rc == ERR_OK) rc = mem_new(&members, n + 1, sizeof *members, "groups of rows", err);
    if (rc == ERR_OK) rc = note_groups(run, links, links + n, links + 2 * n, members, err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++)
        run->d->rows[i].fold =
            (uint8_t)(rng_key(run->rule->seed, "fold", dedup_first(run->dedup, (uint32_t)i)) %
                      SUSPECTS_FOLDS);
    mem_free(links);
    mem_free(members);
    dedup_close(run->dedup); /* the largest part of the memory; nothing below needs it */
    run->dedup = NULL;
    return rc;
}

/* ---- lengths ---- */

static int by_value(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void measure(DoctorLengths *out, uint32_t *lengths, size_t n) {
    *out = (DoctorLengths){.rows = n};
    if (n == 0) return;
    qsort(lengths, n, sizeof *lengths, by_value);
    for (size_t i = 0; i < n; i++) {
        out->sum += lengths[i];
        for (int c = 0; c < DOCTOR_CUTS; c++) {
            if (lengths[i] <= DOCTOR_CUT_AT[c]) continue;
            out->cut_rows[c]++;
            out->cut_sum[c] += lengths[i] - DOCTOR_CUT_AT[c];
        }
    }
    /* the smallest length that at least p % of the rows do not exceed */
    static const int PERCENT[5] = {5, 50, 90, 95, 99};
    uint32_t *const value[5] = {&out->p5, &out->p50, &out->p90, &out->p95, &out->p99};
    for (int i = 0; i < 5; i++) *value[i] = lengths[(n * (size_t)PERCENT[i] + 99) / 100 - 1];
    out->max = lengths[n - 1];
}

static ErrCode measure_all(Doctor *d, Err *err) {
    uint32_t *lengths = NULL;
    size_t *start = NULL;
    ErrCode rc = mem_new(&lengths, (size_t)d->row_count + 1, sizeof *lengths, "lengths", err);
    if (rc == ERR_OK) rc = mem_new(&start, d->labels.count + 1, sizeof *start, "lengths", err);
    if (rc == ERR_OK) {
        for (uint32_t i = 0; i < d->row_count; i++) start[d->rows[i].label]++;
        for (size_t k = 0, at = 0; k < d->labels.count; k++) {
            const size_t n = start[k];
            start[k] = at;
            at += n;
        }
        for (uint32_t i = 0; i < d->row_count; i++) lengths[start[d->rows[i].label]++] = d->rows[i].length;
        for (size_t k = 0, from = 0; k < d->labels.count; from = start[k++])
            measure(&d->label[k].lengths, lengths + from, start[k] - from);
        measure(&d->all.lengths, lengths, d->row_count);
    }
    mem_free(lengths);
    mem_free(start);
    return rc;
}

/* ---- pass 2: the sample, and excerpts of what was found by groups ---- */

static int by_row(const void *a, const void *b) {
    const Wanted *x = a, *y = b;
    return x->row < y->row ? -1 : x->row > y->row;
}

static ErrCode want_excerpts(Run *run, Err *err) {
    Doctor *d = run->d;
    size_t n = 0;
    for (DoctorKind k = DOCTOR_EXACT; k <= DOCTOR_NEAR_CONFLICT; k++) n += d->found[k].listed_count;
    TRY(mem_new(&run->wanted, n + 1, sizeof *run->wanted, "findings", err));
    for (DoctorKind k = DOCTOR_EXACT; k <= DOCTOR_NEAR_CONFLICT; k++)
        for (size_t i = 0; i < d->found[k].listed_count; i++)
            run->wanted[run->wanted_count++] = (Wanted){d->found[k].listed[i].row, &d->found[k].listed[i]};
    if (n) qsort(run->wanted, n, sizeof *run->wanted, by_row);
    return ERR_OK;
}

static ErrCode plan_sample(Run *run, Err *err) {
    const Doctor *d = run->d;
    const size_t K = d->labels.count;
    TRY(mem_new(&run->rates, K + 1, sizeof *run->rates, "the sample", err));
    double size = (double)run->rule->sample_rows, total = 0;
    const double rows = (double)d->row_count, mean = rows > 0 ? (double)run->text_bytes / rows : 0;
    if (size * mean > (double)DOCTOR_SAMPLE_BYTES) size = (double)DOCTOR_SAMPLE_BYTES / mean;
    for (size_t k = 0; k < K; k++) {
        const double own = (double)d->label[k].lengths.rows;
        const double least = LABEL_SAMPLE < size / (double)K ? LABEL_SAMPLE : size / (double)K;
        const double wanted = size * own / rows > least ? size * own / rows : least;
        run->rates[k] = wanted < own ? wanted / own : 1;
        total += run->rates[k] * own;
    }
    run->sample_cap = (size_t)(total + 6 * sqrt(total)) + 16; /* six standard deviations more than expected */
    if (run->sample_cap > d->row_count) run->sample_cap = d->row_count;
    TRY(mem_new(&run->text_at, run->sample_cap + 1, sizeof *run->text_at, "the sample", err));
    TRY(mem_new(&run->text_labels, run->sample_cap + 1, sizeof *run->text_labels, "the sample", err));
    return mem_new(&run->text_folds, run->sample_cap + 1, sizeof *run->text_folds, "the sample", err);
}

/* The good row that pass 1 found here; NULL with *err set when the file is another now. */
static const DoctorRow *same_row(Run *run, const ScanRow *row, Err *err) {
    const Doctor *d = run->d;
    const DoctorRow *was = run->at < d->row_count ? &d->rows[run->at] : NULL;
    if (was && was->file == row->file && was->line == row->line &&
        strcmp(d->labels.items[was->label], row->record->label) == 0) {
        run->at++;
        return was;
    }
    (void)err_set(err, ERR_IO, "%s changed while it was read", run->rule->inputs->items[row->file].name);
    return NULL;
}

static ErrCode take_sample(void *arg, const ScanRow *row, const void *slot, Err *err) {
    (void)slot;
    Run *run = arg;
    if (!row->record) return ERR_OK;
    const uint32_t at = run->at;
    const DoctorRow *was = same_row(run, row, err);
    if (!was) return ERR_IO;
    const char *text = row->record->text;
    const size_t n = row->record->text_len;
    while (run->wanted_at < run->wanted_count && run->wanted[run->wanted_at].row == at)
        TRY(set_excerpt(run->wanted[run->wanted_at++].finding, text, n, err));
    const double rate = run->rates[was->label];
    if (run->d->sampled == run->sample_cap ||
        (rate < 1 && rng_uniform(rng_key(run->rule->seed, "sample", 0), at) >= rate))
        return ERR_OK;
    const size_t i = run->d->sampled++;
    run->text_labels[i] = was->label;
    run->text_folds[i] = was->fold;
    buf_put(&run->texts, text, n < SUSPECTS_TEXT ? n : SUSPECTS_TEXT);
    run->text_at[i + 1] = run->texts.len;
    return buf_ok(&run->texts, err);
}

static ErrCode learn(Run *run, const RowText *texts, Err *err) {
    Doctor *d = run->d;
    const int K = (int)d->labels.count;
    uint64_t *rows;
    TRY(mem_new(&rows, (size_t)K, sizeof *rows, "labels", err));
    for (int k = 0; k < K; k++) rows[k] = d->label[k].lengths.rows;
    const ErrCode rc =
        leak_open(&d->leak, texts, run->text_labels, d->sampled, &d->labels, rows, run->threads, err);
    mem_free(rows);
    if (rc != ERR_OK) return rc;
    if (!run->rule->suspects)
        d->suspects_why = "switched off";
    else if (K > SUSPECTS_LABELS_MAX)
        d->suspects_why = "too many labels";
    else
        return suspects_open(&d->suspects, texts, run->text_labels, run->text_folds, d->sampled, K,
                             run->rule->seed, run->rule->threads, err);
    return ERR_OK;
}

static ErrCode sample_rows(Run *run, Err *err) {
    Doctor *d = run->d;
    TRY(want_excerpts(run, err));
    TRY(plan_sample(run, err));
    TRY(pass(run, "sampling rows", 0, NULL, take_sample, err));
    if (d->labels.count < 2) {
        d->suspects_why = "fewer than two labels";
        return ERR_OK;
    }
    RowText *texts;
    TRY(mem_new(&texts, d->sampled + 1, sizeof *texts, "the sample", err));
    for (size_t i = 0; i < d->sampled; i++)
        texts[i] = (RowText){run->texts.data + run->text_at[i], run->text_at[i + 1] - run->text_at[i]};
    const ErrCode rc = learn(run, texts, err);
    mem_free(texts);
    buf_free(&run->texts);
    return rc;
}

/* ---- pass 3 ---- */

static void count_grams(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)slot;
    const Run *run = arg;
    if (!row->record) return;
    const size_t label = names_find(&run->d->labels, row->record->label);
    if (label != SIZE_MAX)
        leak_count(run->d->leak, (int)label, row->record->text, row->record->text_len, thread);
}

static ErrCode take_last(void *arg, const ScanRow *row, const void *slot, Err *err) {
    (void)slot;
    Run *run = arg;
    if (!row->record) return ERR_OK;
    const uint32_t at = run->at;
    const DoctorRow *was = same_row(run, row, err);
    if (!was) return ERR_IO;
    if (!run->d->suspects) return ERR_OK;
    const SuspectsRow suspect = {.row = at,
                                 .label = was->label,
                                 .fold = was->fold,
                                 .text = {row->record->text, row->record->text_len},
                                 .id = row->record->id};
    return suspects_add(run->d->suspects, &suspect, run->rule->threads, err);
}

static ErrCode judge_rows(Run *run, Err *err) {
    Doctor *d = run->d;
    if (!d->leak) return ERR_OK;
    TRY(pass(run, "judging rows", 0, count_grams, take_last, err));
    leak_finish(d->leak);
    return d->suspects ? suspects_finish(d->suspects, run->rule->threads, err) : ERR_OK;
}

/* ---- all of it ---- */

ErrCode doctor_run(Doctor **out, const DoctorRule *rule, Err *err) {
    *out = NULL;
    Run run = {.rule = rule};
    TRY(mem_new(&run.d, 1, sizeof *run.d, "the report", err));
    Doctor *d = run.d;
    d->rule = rule;
    ErrCode rc = read_rows(&run, err);
    if (rc == ERR_OK) rc = group_rows(&run, err);
    if (rc == ERR_OK) rc = measure_all(d, err);
    if (rc == ERR_OK) rc = sample_rows(&run, err);
    if (rc == ERR_OK) rc = judge_rows(&run, err);
    dedup_close(run.dedup);
    overlap_close(run.overlap);
    for (int i = 0; run.ids && i < run.threads; i++) buf_free(&run.ids[i]);
    mem_free(run.ids);
    mem_free(run.rates);
    buf_free(&run.texts);
    mem_free(run.text_at);
    mem_free(run.text_labels);
    mem_free(run.text_folds);
    mem_free(run.wanted);
    if (rc == ERR_OK)
        *out = d;
    else
        doctor_free(d);
    return rc;
}

void doctor_free(Doctor *d) {
    if (!d) return;
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        for (size_t i = 0; i < d->found[k].listed_count; i++) mem_free(d->found[k].listed[i].text);
        mem_free(d->found[k].listed);
    }
    names_free(&d->labels);
    mem_free(d->label);
    mem_free(d->file_rows);
    leak_close(d->leak);
    suspects_close(d->suspects);
    mem_free(d->rows);
    mem_free(d);
}

/* ---- names and limits ---- */

static const struct {
    const char *name, *key;
} KINDS[DOCTOR_KINDS] = {
    {"bad lines", "bad"},
    {NULL, "nul"}, /* defects: their own names */
    {NULL, "control"},
    {NULL, "replacement"},
    {NULL, "base64"},
    {NULL, "wordless"},
    {NULL, "long"},
    {"a split of no known name", "split"},
    {"repeat the text of an earlier row", "exact"},
    {"near-duplicates of an earlier row", "near"},
    {"same or nearly the same in another split", "crossing"},
    {"the same text with another label", "conflict"},
    {"nearly the same text with another label", "near_conflict"},
    {"also in a benchmark", "overlap"},
};

const char *doctor_kind_name(DoctorKind kind) {
    if ((unsigned)kind >= DOCTOR_KINDS) return "none";
    return KINDS[kind].name ? KINDS[kind].name : defects_name((int)kind - DOCTOR_DEFECT);
}

const char *doctor_kind_key(DoctorKind kind) {
    return (unsigned)kind < DOCTOR_KINDS ? KINDS[kind].key : "none";
}

static double leaks_over(const Doctor *d) {
    double found = 0;
    for (size_t k = 0; d->leak && k < d->labels.count; k++) {
        size_t n;
        const LeakGram *grams = leak_of(d->leak, (int)k, &n);
        for (size_t i = 0; i < n; i++)
            found += grams[i].rows_own >= SUSPECTS_LABEL_ROWS && grams[i].share >= DOCTOR_LEAK_SHARE &&
                     grams[i].precision >= DOCTOR_LEAK_PRECISION;
    }
    return found;
}

size_t doctor_limits(const Doctor *d, DoctorLimit limits[DOCTOR_LIMITS]) {
    const double rows = d->row_count ? (double)d->row_count : 1;
    double least = HUGE_VAL, most = 0;
    for (size_t k = 0; k < d->labels.count; k++) {
        const double n = (double)d->label[k].lengths.rows;
        least = n < least ? n : least;
        most = n > most ? n : most;
    }
    const DoctorLimit all[DOCTOR_LIMITS] = {
        {"bad lines", (double)d->found[DOCTOR_BAD].count, 0, false},
        {"rows with binary or damaged text", (double)d->defective, 0, false},
        {"rows whose text has another label elsewhere", (double)d->found[DOCTOR_CONFLICT].count, 0, false},
        {"rows whose text is in another split", (double)d->exact.across_splits, 0, false},
        {"% of rows with a near-duplicate in another split", 100 * (double)d->near.across_splits / rows, 0.5,
         false},
        {"% of rows that repeat an earlier text", 100 * (double)d->found[DOCTOR_EXACT].count / rows, 1,
         false},
        {"rows that are also in a benchmark", (double)d->found[DOCTOR_OVERLAP].count, 0, false},
        {"times the largest label has the rows of the smallest", most > 0 ? most / least : 1, 100, false},
        {"n-grams that give a label away", leaks_over(d), 0, false},
        {"% of rows with a label that is probably wrong",
         d->suspects ? 100 * (double)suspects_confident(d->suspects) / rows : 0, 5, false},
    };
    size_t over = 0;
    for (size_t i = 0; i < DOCTOR_LIMITS; i++) {
        limits[i] = all[i];
        limits[i].over = all[i].found > all[i].limit;
        over += limits[i].over;
    }
    return over;
}
