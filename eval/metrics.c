#include "eval/metrics.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"

/* What the bootstrap needs of a row: 32 bytes, so that drawing rows at random stays in the cache. */
typedef struct {
    double nll, brier, confidence;
    int16_t label, best;
    int16_t bin;
} Row;

typedef struct {
    uint64_t hits[METRICS_BINS];
    double confidence[METRICS_BINS];
    double nll, brier;
} Sums;

enum { MACRO_F1, MACRO_RECALL, NLL, BRIER, ECE, ADAPTIVE_ECE, MEASURES };

Interval metrics_wilson(uint64_t hits, uint64_t n) {
    if (n == 0) return (Interval){0, 0, 1};
    const double z = 1.959963984540054, count = (double)n, share = (double)hits / count;
    const double middle = share + z * z / (2 * count);
    const double half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count));
    const double scale = 1 + z * z / count;
    const double low = (middle - half) / scale, high = (middle + half) / scale;
    /* exact at the ends, where rounding could leave the value outside */
    return (Interval){share, hits == 0 || low < 0 ? 0 : low, hits == n || high > 1 ? 1 : high};
}

void metrics_put_json(Buf *out, const char *key, const Interval *i) {
    buf_printf(out, "\"%s\": {\"value\": %.10g, \"low\": %.10g, \"high\": %.10g}", key, i->value, i->low,
               i->high);
}

int metrics_bin(double confidence) {
    const int bin = (int)ceil(confidence * METRICS_BINS) - 1;
    return bin < 0 ? 0 : bin >= METRICS_BINS ? METRICS_BINS - 1 : bin;
}

int metrics_best(const double *p, int K) {
    int best = 0;
    for (int k = 1; k < K; k++)
        if (p[k] > p[best]) best = k;
    return best;
}

static ErrCode row_of(Row *row, const double *p, int label, int K, size_t number, Err *err) {
    assert(label >= 0 && label < K);
    double brier = 0;
    for (int k = 0; k < K; k++) {
        if (!(p[k] >= 0 && p[k] <= 1.0 + 1e-6))
            return err_set(err, ERR_NUMERIC, "probability %d of row %zu is %g, expected 0 to 1", k, number,
                           p[k]);
        const double d = p[k] - (k == label);
        brier += d * d;
    }
    const int best = metrics_best(p, K);
    const int bin = metrics_bin(p[best]);
    *row = (Row){.nll = -log(p[label] > 1e-15 ? p[label] : 1e-15), .brier = brier, .confidence = p[best]};
    row->label = (int16_t)label;
    row->best = (int16_t)best;
    row->bin = (int16_t)bin;
    return ERR_OK;
}

static double f1_of(uint64_t correct, uint64_t support, uint64_t predicted) {
    return support + predicted ? 2.0 * (double)correct / (double)(support + predicted) : 0;
}

/* Adaptive ECE of rows by rising confidence, row i counted drawn[i] times (NULL: once each), n in all. */
static double adaptive_ece(const Row *rows, const uint32_t *drawn, size_t count, size_t n) {
    double hits[METRICS_BINS] = {0}, confidence[METRICS_BINS] = {0}, sum = 0;
    size_t before = 0, next = 0; /* rows of lower confidence; the same and equal ones */
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || rows[i].confidence > rows[i - 1].confidence) before = next;
        const size_t times = drawn ? drawn[i] : 1;
        if (times == 0) continue;
        const size_t bin = before * METRICS_BINS / n;
        next += times;
        hits[bin] += rows[i].label == rows[i].best ? (double)times : 0;
        confidence[bin] += (double)times * rows[i].confidence;
    }
    for (int b = 0; b < METRICS_BINS; b++) sum += fabs(hits[b] - confidence[b]);
    return sum / (double)n;
}

/* Rows that are equal here are equal in all that is measured. */
static int by_confidence(const void *a, const void *b) {
    const Row *x = a, *y = b;
    if (x->confidence != y->confidence) return x->confidence < y->confidence ? -1 : 1;
    if (x->best != y->best) return x->best - y->best;
    if (x->label != y->label) return x->label - y->label;
    if (x->nll != y->nll) return x->nll < y->nll ? -1 : 1;
    return (x->brier > y->brier) - (x->brier < y->brier);
}

/* All measures but ADAPTIVE_ECE. counts (3, K): correct, support, predicted. */
static void measure(double out[MEASURES], const Sums *sums, const uint64_t *counts, int K, size_t n) {
    const uint64_t *correct = counts, *support = counts + K, *predicted = counts + 2 * (size_t)K;
    double f1 = 0, recall = 0;
    int f1_classes = 0, recall_classes = 0;
    for (int k = 0; k < K; k++) {
        if (support[k] + predicted[k]) {
            f1 += f1_of(correct[k], support[k], predicted[k]);
            f1_classes++;
        }
        if (support[k]) {
            recall += (double)correct[k] / (double)support[k];
            recall_classes++;
        }
    }
    double ece = 0;
    for (int b = 0; b < METRICS_BINS; b++) ece += fabs((double)sums->hits[b] - sums->confidence[b]);
    out[MACRO_F1] = f1 / f1_classes;
    out[MACRO_RECALL] = recall / recall_classes;
    out[NLL] = sums->nll / (double)n;
    out[BRIER] = sums->brier / (double)n;
    out[ECE] = ece / (double)n;
}

static void count_row(Sums *sums, uint64_t *counts, int K, const Row *r) {
    const bool hit = r->label == r->best;
    counts[r->label] += hit;
    counts[K + r->label]++;
    counts[2 * K + r->best]++;
    sums->hits[r->bin] += hit;
    sums->confidence[r->bin] += r->confidence;
    sums->nll += r->nll;
    sums->brier += r->brier;
}

typedef struct {
    const Row *rows; /* by rising confidence */
    size_t n;
    int K;
    uint64_t seed;
    uint64_t *counts; /* (threads, 3, K) */
    uint32_t *drawn;  /* (threads, n): how often each row is in the sample */
    double *results;  /* (MEASURES, samples) */
    size_t samples;
} Bootstrap;

static void bootstrap_task(void *arg, size_t sample, int thread) {
    const Bootstrap *b = arg;
    uint64_t *counts = b->counts + (size_t)thread * 3 * (size_t)b->K;
    uint32_t *drawn = b->drawn + (size_t)thread * b->n;
    memset(counts, 0, 3 * (size_t)b->K * sizeof *counts);
    memset(drawn, 0, b->n * sizeof *drawn);
    Sums sums = {0};
    const uint64_t key = rng_key(b->seed, "bootstrap", sample);
    for (size_t i = 0; i < b->n; i++) {
        /* 32 bits times n < 2^32, upper half: uniform to 2^-32, without a division */
        const uint64_t at = (rng_bits(key, i) >> 32) * b->n >> 32;
        count_row(&sums, counts, b->K, &b->rows[at]);
        drawn[at]++;
    }
    double out[MEASURES];
    measure(out, &sums, counts, b->K, b->n);
    out[ADAPTIVE_ECE] = adaptive_ece(b->rows, drawn, b->n, b->n);
    for (size_t m = 0; m < MEASURES; m++) b->results[m * b->samples + sample] = out[m];
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between order statistics, as numpy's default. */
static double percentile(const double *sorted, size_t n, double share) {
    const double at = share * (double)(n - 1);
    const size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

/* See metrics.h. */
static void reflect(Interval *i) {
    const double low = 2 * i->value - i->high, high = 2 * i->value - i->low;
    i->low = low < 0 ? 0 : low < i->value ? low : i->value;
    i->high = high > 1 ? 1 : high > i->value ? high : i->value;
}

static ErrCode bootstrap(Interval *intervals[MEASURES], const Row *rows, size_t n, int K, size_t samples,
                         uint64_t seed, Threads *threads, Err *err) {
    Bootstrap b = {.rows = rows, .n = n, .K = K, .seed = seed, .samples = samples};
    const size_t workers = (size_t)threads_count(threads);
    ErrCode rc = mem_new(&b.counts, workers * 3 * (size_t)K, sizeof *b.counts, "the bootstrap", err);
    if (rc == ERR_OK) rc = mem_new(&b.drawn, workers, n * sizeof *b.drawn, "the bootstrap", err);
    if (rc == ERR_OK) rc = mem_new(&b.results, MEASURES * samples, sizeof *b.results, "the bootstrap", err);
    if (rc == ERR_OK) {
        threads_run(threads, bootstrap_task, &b, samples);
        for (size_t m = 0; m < MEASURES; m++) {
            double *sorted = b.results + m * samples;
            qsort(sorted, samples, sizeof *sorted, ascending);
            intervals[m]->low = percentile(sorted, samples, 0.025);
            intervals[m]->high = percentile(sorted, samples, 0.975);
        }
        reflect(intervals[ECE]);
        reflect(intervals[ADAPTIVE_ECE]);
    }
    mem_free(b.counts);
    mem_free(b.drawn);
    mem_free(b.results);
    return rc;
}

static void fill_classes(Metrics *m, const uint64_t *counts) {
    const size_t K = (size_t)m->K;
    uint64_t hits = 0;
    for (size_t k = 0; k < K; k++) {
        MetricsClass *c = &m->classes[k];
        c->correct = counts[k];
        c->support = counts[K + k];
        c->predicted = counts[2 * K + k];
        c->precision = metrics_wilson(c->correct, c->predicted);
        c->recall = metrics_wilson(c->correct, c->support);
        c->f1 = f1_of(c->correct, c->support, c->predicted);
        hits += c->correct;
    }
    m->accuracy = metrics_wilson(hits, m->n);
}

ErrCode metrics_compute(Metrics *out, const double *p, const int *labels, size_t n, int K, int samples,
                        uint64_t seed, Threads *threads, Err *err) {
    *out = (Metrics){.n = n, .K = K};
    assert(K >= 1 && K <= INT16_MAX);
    if (n == 0) return err_set(err, ERR_ARGUMENT, "no rows to evaluate");
    if (n > UINT32_MAX)
        return err_set(err, ERR_ARGUMENT, "found %zu rows, expected at most %u", n, UINT32_MAX);
    Row *rows = NULL;
    uint64_t *counts = NULL;
    ErrCode rc = mem_new(&rows, n, sizeof *rows, "the rows' losses", err);
    if (rc == ERR_OK) rc = mem_new(&counts, 3 * (size_t)K, sizeof *counts, "class counts", err);
    if (rc == ERR_OK) rc = mem_new(&out->classes, (size_t)K, sizeof *out->classes, "class metrics", err);
    if (rc == ERR_OK)
        rc = mem_new(&out->confusion, (size_t)K * (size_t)K, sizeof *out->confusion, "the confusion matrix",
                     err);
    Sums sums = {0};
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        rc = row_of(&rows[i], p + i * (size_t)K, labels[i], K, i, err);
        if (rc != ERR_OK) break;
        count_row(&sums, counts, K, &rows[i]);
        out->confusion[(size_t)rows[i].label * (size_t)K + (size_t)rows[i].best]++;
    }
    if (rc == ERR_OK) {
        fill_classes(out, counts);
        double value[MEASURES];
        measure(value, &sums, counts, K, n);
        qsort(rows, n, sizeof *rows, by_confidence);
        value[ADAPTIVE_ECE] = adaptive_ece(rows, NULL, n, n);
        Interval *intervals[MEASURES] = {[MACRO_F1] = &out->macro_f1, [MACRO_RECALL] = &out->macro_recall,
                                         [NLL] = &out->nll,           [BRIER] = &out->brier,
                                         [ECE] = &out->ece,           [ADAPTIVE_ECE] = &out->adaptive_ece};
        for (size_t m = 0; m < MEASURES; m++) *intervals[m] = (Interval){value[m], value[m], value[m]};
        size_t draws = samples > 0 ? (size_t)samples : METRICS_SAMPLES;
        if (samples == 0 && n > 400000) draws = n > 2000000 ? 200 : 400000000 / n;
        if (samples != 1) rc = bootstrap(intervals, rows, n, K, draws, seed, threads, err);
    }
    mem_free(rows);
    mem_free(counts);
    if (rc != ERR_OK) metrics_free(out);
    return rc;
}

void metrics_free(Metrics *m) {
    mem_free(m->classes);
    mem_free(m->confusion);
    *m = (Metrics){0};
}

ErrCode metrics_compare(MetricsDrop *out, const double *p, const Metrics *a, const double *q,
                        const Metrics *b, Err *err) {
    assert(a->n == b->n && a->K == b->K && a->n > 0);
    *out = (MetricsDrop){.worst_class = -1};
    const size_t K = (size_t)a->K;
    TRY(mem_new(&out->class_drop, K, sizeof *out->class_drop, "class metrics", err));
    uint64_t agree = 0;
    for (size_t i = 0; i < a->n; i++) {
        const double *x = p + i * K, *y = q + i * K;
        agree += metrics_best(x, a->K) == metrics_best(y, a->K);
        for (size_t k = 0; k < K; k++) {
            const double shift = fabs(x[k] - y[k]);
            out->mean_shift += shift;
            out->max_shift = shift > out->max_shift ? shift : out->max_shift;
        }
    }
    out->mean_shift /= (double)a->n * (double)K;
    out->agreement = metrics_wilson(agree, a->n);
    out->macro_f1_drop = a->macro_f1.value - b->macro_f1.value;
    for (size_t k = 0; k < K; k++) {
        const MetricsClass *x = &a->classes[k], *y = &b->classes[k];
        out->class_drop[k] = x->f1 - y->f1;
        if (x->support + x->predicted + y->predicted == 0) continue;
        if (out->worst_class < 0 || out->class_drop[k] > out->worst_drop) {
            out->worst_class = (int)k;
            out->worst_drop = out->class_drop[k];
        }
    }
    return ERR_OK;
}

void metrics_drop_free(MetricsDrop *drop) {
    mem_free(drop->class_drop);
    *drop = (MetricsDrop){0};
}
