#include "eval/robust.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "data/noise.h"
#include "eval/grid.h"

static const RobustCase CASES[] = {
    {"typos", 0.05},    {"typos", 0.1},     {"typos", 0.2},    {"typos", 0.4},       {"case", 0.5},
    {"case", 1},        {"space", 0.2},     {"space", 0.5},    {"punctuation", 0.5}, {"punctuation", 1},
    {"prefix", 1},      {"suffix", 1},      {"quote", 1},      {"system", 1},        {"fence", 1},
    {"label_first", 1}, {"label_first", 3}, {"label_last", 1}, {"label_last", 3},    {"truncate", 128},
    {"truncate", 256}};
enum { CASE_COUNT = sizeof CASES / sizeof *CASES };
_Static_assert(CASE_COUNT <= ROBUST_CASES_MAX, "room for all results");

size_t robust_cases(const RobustCase **cases) {
    *cases = CASES;
    return CASE_COUNT;
}

static bool is(const RobustCase *c, const char *kind) {
    return strcmp(c->kind, kind) == 0;
}

static bool cuts(const RobustCase *c) {
    return is(c, "truncate");
}

/* ---- texts ---- */

/* As applications put them before what their users write. */
static const char *const SYSTEMS[][2] = {
    {"You are a helpful assistant.\n\n", ""},
    {"System: You answer briefly and correctly.\nUser: ", ""},
    {"### Instruction:\n", "\n\n### Response:\n"},
    {"You will be given a question. Think step by step, then give the answer.\n\nQuestion: ", "\nAnswer:"},
    {"Below is a request from a customer. Reply politely.\n---\n", "\n---"},
};

static void put_around(Buf *out, const char *before, RowText text, const char *behind) {
    buf_puts(out, before);
    buf_put(out, text.text, text.n);
    buf_puts(out, behind);
}

static void put_label(Buf *out, const RobustCase *which, RowText text, const char *label) {
    const bool first = is(which, "label_first");
    if (!first) buf_put(out, text.text, text.n);
    for (int i = 0; i < (int)which->strength; i++)
        buf_printf(out, first ? "This is about %s. " : " This is about %s.", label);
    if (first) buf_put(out, text.text, text.n);
}

ErrCode robust_text(Buf *out, bool *changed, int *named, const RobustCase *which, RowText text, int label,
                    const char *const *labels, int K, uint64_t key, Err *err) {
    *changed = false;
    *named = -1;
    assert(!cuts(which));
    const NoiseKind noise = noise_find(which->kind);
    if (noise != NOISE_COUNT)
        return noise_apply(out, changed, text.text, text.n, noise, which->strength, key, err);
    const uint64_t bits = rng_bits(rng_key(key, which->kind, 0), 0) >> 32;
    if (is(which, "system")) {
        const char *const *around = SYSTEMS[bits % (sizeof SYSTEMS / sizeof *SYSTEMS)];
        put_around(out, around[0], text, around[1]);
    } else if (is(which, "fence")) {
        put_around(out, "```\n", text, "\n```");
    } else if (K > 1) {
        *named = (int)(bits % (uint64_t)(K - 1));
        *named += *named >= label;
        put_label(out, which, text, labels[*named]);
    } else {
        return ERR_OK;
    }
    *changed = true;
    return buf_ok(out, err);
}

/* ---- counting ---- */

static Interval paired(uint64_t broken, uint64_t mended, size_t n) {
    const double z = 1.959963984540054, rows = (double)n;
    const double value = ((double)broken - (double)mended) / rows;
    const double b = (double)broken + 0.5, m = (double)mended + 0.5, d = b - m;
    const double middle = d / (rows + 2);
    const double half = z * sqrt(fmax(b + m - d * d / (rows + 2), 0)) / (rows + 2);
    return (Interval){value, fmax(fmin(middle - half, value), -1), fmin(fmax(middle + half, value), 1)};
}

void robust_count(RobustResult *out, const int *before, const int *after, const bool *changed,
                  const int *named, const int *labels, size_t n) {
    uint64_t right = 0;
    for (size_t i = 0; i < n; i++) {
        const bool was = before[i] == labels[i], now = after[i] == labels[i];
        out->changed += changed[i];
        out->flips += before[i] != after[i];
        out->broken += was && !now;
        out->mended += !was && now;
        if (named && named[i] >= 0) out->toward += before[i] != named[i] && after[i] == named[i];
        right += now;
    }
    out->accuracy = metrics_wilson(right, n);
    out->flip_rate = metrics_wilson(out->flips, out->changed);
    if (out->changed) out->drop = paired(out->broken, out->mended, n);
}

/* ---- running ---- */

typedef struct {
    const RobustRule *rule;
    RowText *texts;    /* (n): the sample, and the changed ones of a case behind each other */
    RowText *variants; /* (n) */
    int *labels, *before, *after, *named, *tokens;
    bool *changed;
    double *p; /* (n, K) */
    size_t n, K;
    Buf bytes;
} Sample;

static void sample_free(Sample *s) {
    mem_free(s->texts);
    mem_free(s->variants);
    mem_free(s->labels);
    mem_free(s->before);
    mem_free(s->after);
    mem_free(s->named);
    mem_free(s->tokens);
    mem_free(s->changed);
    mem_free(s->p);
    buf_free(&s->bytes);
}

static int ascending(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static ErrCode sample_new(Sample *s, size_t n, Err *err) {
    TRY(mem_new(&s->texts, n, sizeof *s->texts, "the sample", err));
    TRY(mem_new(&s->variants, n, sizeof *s->variants, "the sample", err));
    TRY(mem_new(&s->labels, n, sizeof *s->labels, "the sample", err));
    TRY(mem_new(&s->before, n, sizeof *s->before, "the sample", err));
    TRY(mem_new(&s->after, n, sizeof *s->after, "the sample", err));
    TRY(mem_new(&s->named, n, sizeof *s->named, "the sample", err));
    TRY(mem_new(&s->tokens, n, sizeof *s->tokens, "the sample", err));
    TRY(mem_new(&s->changed, n, sizeof *s->changed, "the sample", err));
    return mem_new(&s->p, n, s->K * sizeof *s->p, "the sample", err);
}

/* Rows without repetition, in their order. */
static ErrCode choose(Sample *s, const RowText *texts, const int *labels, const double *p,
                      const PredictSeen *seen, size_t n, Err *err) {
    uint32_t *order;
    if (n > UINT32_MAX)
        return err_set(err, ERR_ARGUMENT, "found %zu rows, expected at most %u", n, UINT32_MAX);
    TRY(mem_new(&order, n, sizeof *order, "the sample", err));
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    rng_shuffle(order, n, rng_key(s->rule->seed, "robust", 0));
    qsort(order, s->n, sizeof *order, ascending);
    for (size_t i = 0; i < s->n; i++) {
        const size_t row = order[i];
        s->texts[i] = texts[row];
        s->labels[i] = labels[row];
        s->before[i] = metrics_best(p + row * s->K, (int)s->K);
        s->tokens[i] = seen[row].tokens;
    }
    mem_free(order);
    return ERR_OK;
}

static ErrCode vary(Sample *s, const RobustCase *which, Err *err) {
    buf_clear(&s->bytes);
    const char *const *labels = predict_labels(s->rule->predictor);
    size_t count = 0;
    for (size_t i = 0; i < s->n; i++) {
        const size_t at = s->bytes.len;
        const uint64_t key = rng_key(s->rule->seed, "robust row", i);
        TRY(robust_text(&s->bytes, &s->changed[i], &s->named[i], which, s->texts[i], s->labels[i], labels,
                        (int)s->K, key, err));
        if (s->changed[i]) s->variants[count++].n = s->bytes.len - at;
    }
    const char *text = s->bytes.data;
    for (size_t i = 0; i < count; text += s->variants[i++].n) s->variants[i].text = text;
    return ERR_OK;
}

static size_t find_long(Sample *s, int most) {
    size_t count = 0;
    for (size_t i = 0; i < s->n; i++) {
        s->named[i] = -1;
        s->changed[i] = s->tokens[i] > most;
        if (s->changed[i]) s->variants[count++] = s->texts[i];
    }
    return count;
}

static ErrCode answer(Sample *s, const RobustCase *which, Err *err) {
    char what[64];
    (void)snprintf(what, sizeof what, "%s %g", which->kind, which->strength);
    size_t count = 0;
    Predictor *shorter = NULL;
    ErrCode rc = ERR_OK;
    if (cuts(which)) {
        PredictRule rule = s->rule->rule;
        rule.max_tokens = (int)which->strength;
        count = find_long(s, rule.max_tokens);
        if (count) rc = predict_open(&shorter, s->rule->path, &rule, s->rule->threads, err);
    } else {
        rc = vary(s, which, err);
        for (size_t i = 0; rc == ERR_OK && i < s->n; i++) count += s->changed[i];
    }
    if (rc == ERR_OK && count)
        rc = predict_all(shorter ? shorter : s->rule->predictor, s->p, NULL, s->variants, count, what, err);
    predict_close(shorter);
    for (size_t i = 0, at = 0; rc == ERR_OK && i < s->n; i++)
        s->after[i] = s->changed[i] ? metrics_best(s->p + at++ * s->K, (int)s->K) : s->before[i];
    return rc;
}

ErrCode robust_run(Robust *out, const RobustRule *rule, const RowText *texts, const int *labels,
                   const double *p, const PredictSeen *seen, size_t n, Err *err) {
    Sample s = {
        .rule = rule, .n = rule->rows < n ? rule->rows : n, .K = (size_t)predict_classes(rule->predictor)};
    *out = (Robust){.seed = rule->seed, .rows = s.n};
    if (s.n == 0) return err_set(err, ERR_ARGUMENT, "no rows to change");
    ErrCode rc = sample_new(&s, s.n, err);
    if (rc == ERR_OK) rc = choose(&s, texts, labels, p, seen, n, err);
    uint64_t right = 0;
    for (size_t i = 0; rc == ERR_OK && i < s.n; i++) right += s.before[i] == s.labels[i];
    out->accuracy = metrics_wilson(right, s.n);
    for (size_t c = 0; rc == ERR_OK && c < CASE_COUNT; c++) {
        RobustResult *r = &out->results[out->count++];
        r->which = CASES[c];
        r->names_label = strncmp(CASES[c].kind, "label", 5) == 0;
        rc = answer(&s, &CASES[c], err);
        if (rc == ERR_OK) robust_count(r, s.before, s.after, s.changed, s.named, s.labels, s.n);
    }
    sample_free(&s);
    if (rc != ERR_OK) *out = (Robust){0};
    return rc;
}

/* ---- output ---- */

void robust_json(Buf *out, const Robust *robust) {
    buf_printf(out, "{\"seed\": %llu, \"rows\": %zu, ", (unsigned long long)robust->seed, robust->rows);
    metrics_put_json(out, "accuracy", &robust->accuracy);
    buf_puts(out, ", \"cases\": [");
    for (size_t i = 0; i < robust->count; i++) {
        const RobustResult *r = &robust->results[i];
        buf_printf(out, "%s\n    {\"kind\": \"%s\", \"strength\": %g, \"changed\": %llu, ", i ? "," : "",
                   r->which.kind, r->which.strength, (unsigned long long)r->changed);
        metrics_put_json(out, "accuracy", &r->accuracy);
        buf_puts(out, ", ");
        metrics_put_json(out, "drop", &r->drop);
        buf_puts(out, ", ");
        metrics_put_json(out, "flip_rate", &r->flip_rate);
        buf_printf(out, ", \"broken\": %llu, \"mended\": %llu", (unsigned long long)r->broken,
                   (unsigned long long)r->mended);
        if (r->names_label) buf_printf(out, ", \"toward\": %llu", (unsigned long long)r->toward);
        buf_puts(out, "}");
    }
    buf_puts(out, robust->count ? "\n  ]}" : "]}");
}

void robust_table(Buf *out, const Robust *robust) {
    char n[32];
    Grid grid;
    buf_printf(out, "\n  %s rows changed (seed %llu); as they are: %.2f %%  [%.2f, %.2f]\n",
               grid_count(n, robust->rows), (unsigned long long)robust->seed, 100 * robust->accuracy.value,
               100 * robust->accuracy.low, 100 * robust->accuracy.high);
    grid_init(&grid, "lrrrrrr");
    static const char *const HEAD[] = {
        "change",  "strength",       "changed", "accuracy", "points lost [95 % interval]",
        "flipped", "[95 % interval]"};
    for (size_t i = 0; i < sizeof HEAD / sizeof *HEAD; i++) grid_put(&grid, "%s", HEAD[i]);
    for (size_t i = 0; i < robust->count; i++) {
        const RobustResult *r = &robust->results[i];
        grid_put(&grid, "%s", r->which.kind);
        grid_put(&grid, "%g", r->which.strength);
        grid_put(&grid, "%s", grid_count(n, r->changed));
        grid_put(&grid, "%.2f %%", 100 * r->accuracy.value);
        if (r->changed) {
            grid_put_interval(&grid, 2, 100, &r->drop);
            grid_put(&grid, "%.2f %%", 100 * r->flip_rate.value);
            grid_put(&grid, "[%.2f, %.2f]", 100 * r->flip_rate.low, 100 * r->flip_rate.high);
        } else {
            for (int c = 0; c < 3; c++) grid_put(&grid, "-");
        }
    }
    grid_text(out, &grid);
    grid_free(&grid);
}
