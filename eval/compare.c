#include "eval/compare.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"

/* ---- tests and intervals of counts ---- */

/* ln P(X = k) for X of Bin(n, 1/2). */
static double log_half(uint64_t n, uint64_t k) {
    return lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) - (double)n * log(2);
}

void compare_mcnemar(CompareMcnemar *out, uint64_t both, uint64_t only_a, uint64_t only_b, uint64_t neither) {
    const uint64_t n = only_a + only_b, low = only_a < only_b ? only_a : only_b;
    *out = (CompareMcnemar){both, only_a, only_b, neither, 1, 1, 0, 1};
    if (n == 0) return;
    /* from the largest term down; they fall at least geometrically once small */
    const double top = exp(log_half(n, low));
    double sum = top, term = top;
    for (uint64_t k = low; k > 0 && term > 1e-18 * sum; k--) sum += term *= (double)k / (double)(n - k + 1);
    out->exact_p = fmin(1, 2 * sum);
    out->mid_p = only_a == only_b ? 1 : 2 * sum - top;
    const double apart = fmax(fabs((double)only_a - (double)only_b) - 1, 0);
    out->chi2 = apart * apart / (double)n;
    out->chi2_p = erfc(sqrt(out->chi2 / 2));
}

Interval compare_paired(uint64_t both, uint64_t only_a, uint64_t only_b, uint64_t neither) {
    const uint64_t n = both + only_a + only_b + neither;
    if (n == 0) return (Interval){0, -1, 1};
    const Interval a = metrics_wilson(both + only_a, n), b = metrics_wilson(both + only_b, n);
    const double e = (double)both, f = (double)only_b, g = (double)only_a, h = (double)neither;
    const double margins = (e + f) * (g + h) * (e + g) * (f + h);
    double phi = e * h - f * g;
    if (phi > 0) phi = fmax(phi - (double)n / 2, 0);
    phi = margins > 0 ? phi / sqrt(margins) : 0;
    const double low_a = a.value - a.low, high_a = a.high - a.value;
    const double low_b = b.value - b.low, high_b = b.high - b.value;
    const double value = (f - g) / (double)n;
    const double down = low_b * low_b - 2 * phi * low_b * high_a + high_a * high_a;
    const double up = high_b * high_b - 2 * phi * high_b * low_a + low_a * low_a;
    return (Interval){value, fmax(value - sqrt(fmax(down, 0)), -1), fmin(value + sqrt(fmax(up, 0)), 1)};
}

/* ---- the bootstrap ---- */

/* What is drawn: all of a row that the measures need. */
typedef struct {
    double confidence_a, confidence_b, nll, brier; /* the last two are differences */
    int16_t label, a, b, bin_a, bin_b;
} Pair;

enum { MACRO_F1, MACRO_RECALL, NLL, BRIER, ECE, MEASURES };
enum { SUPPORT, CORRECT_A, PREDICTED_A, CORRECT_B, PREDICTED_B, COUNTS };

typedef struct {
    double right_a[METRICS_BINS], right_b[METRICS_BINS]; /* hits minus confidences */
    double nll, brier;
} Sums;

/* Right-closed bins, the first holding 0: as in metrics.h. */
static int16_t bin_of(double confidence) {
    const int bin = (int)ceil(confidence * METRICS_BINS) - 1;
    return (int16_t)(bin < 0 ? 0 : bin >= METRICS_BINS ? METRICS_BINS - 1 : bin);
}

static Pair pair_of(const double *p, const double *q, int label, int K) {
    const int a = metrics_best(p, K), b = metrics_best(q, K);
    double brier = 0;
    for (int k = 0; k < K; k++) {
        const double x = p[k] - (k == label), y = q[k] - (k == label);
        brier += y * y - x * x;
    }
    return (Pair){.confidence_a = p[a],
                  .confidence_b = q[b],
                  .nll = log(fmax(p[label], 1e-15)) - log(fmax(q[label], 1e-15)),
                  .brier = brier,
                  .label = (int16_t)label,
                  .a = (int16_t)a,
                  .b = (int16_t)b,
                  .bin_a = bin_of(p[a]),
                  .bin_b = bin_of(q[b])};
}

static void count_pair(Sums *sums, uint64_t *counts, size_t K, const Pair *r) {
    counts[SUPPORT * K + (size_t)r->label]++;
    counts[PREDICTED_A * K + (size_t)r->a]++;
    counts[PREDICTED_B * K + (size_t)r->b]++;
    counts[CORRECT_A * K + (size_t)r->a] += r->a == r->label;
    counts[CORRECT_B * K + (size_t)r->b] += r->b == r->label;
    sums->right_a[r->bin_a] += (r->a == r->label) - r->confidence_a;
    sums->right_b[r->bin_b] += (r->b == r->label) - r->confidence_b;
    sums->nll += r->nll;
    sums->brier += r->brier;
}

static double ratio(uint64_t part, uint64_t whole) {
    return whole ? (double)part / (double)whole : 0;
}

static double f1_of(uint64_t correct, uint64_t support, uint64_t predicted) {
    return ratio(2 * correct, support + predicted);
}

/* out: the MEASURES, then precision, recall and F1 of each class; each B minus A. */
static void measure(double *out, const Sums *sums, const uint64_t *counts, size_t K, size_t n) {
    double f1[2] = {0}, recall[2] = {0};
    int f1_classes[2] = {0}, recall_classes = 0;
    for (size_t k = 0; k < K; k++) {
        const uint64_t support = counts[SUPPORT * K + k];
        double class_f1[2], class_recall[2], class_precision[2];
        for (int side = 0; side < 2; side++) {
            const uint64_t correct = counts[(side ? CORRECT_B : CORRECT_A) * K + k];
            const uint64_t predicted = counts[(side ? PREDICTED_B : PREDICTED_A) * K + k];
            class_precision[side] = ratio(correct, predicted);
            class_recall[side] = ratio(correct, support);
            class_f1[side] = f1_of(correct, support, predicted);
            f1[side] += class_f1[side];
            f1_classes[side] += support + predicted > 0;
            recall[side] += class_recall[side];
        }
        recall_classes += support > 0;
        double *of_class = out + MEASURES + 3 * k;
        of_class[0] = class_precision[1] - class_precision[0];
        of_class[1] = class_recall[1] - class_recall[0];
        of_class[2] = class_f1[1] - class_f1[0];
    }
    double ece = 0;
    for (int b = 0; b < METRICS_BINS; b++) ece += fabs(sums->right_b[b]) - fabs(sums->right_a[b]);
    out[MACRO_F1] = f1[1] / f1_classes[1] - f1[0] / f1_classes[0];
    out[MACRO_RECALL] = (recall[1] - recall[0]) / recall_classes;
    out[NLL] = sums->nll / (double)n;
    out[BRIER] = sums->brier / (double)n;
    out[ECE] = ece / (double)n;
}

typedef struct {
    const Pair *pairs;
    size_t n, K, samples, values; /* values: of one sample */
    uint64_t seed;
    uint64_t *counts; /* (threads, COUNTS, K) */
    double *drawn;    /* (threads, values) */
    double *results;  /* (values, samples) */
} Bootstrap;

static void bootstrap_task(void *arg, size_t sample, int thread) {
    const Bootstrap *b = arg;
    uint64_t *counts = b->counts + (size_t)thread * COUNTS * b->K;
    double *drawn = b->drawn + (size_t)thread * b->values;
    memset(counts, 0, COUNTS * b->K * sizeof *counts);
    Sums sums = {0};
    const uint64_t key = rng_key(b->seed, "paired bootstrap", sample);
    for (size_t i = 0; i < b->n; i++)
        count_pair(&sums, counts, b->K, &b->pairs[(rng_bits(key, i) >> 32) * b->n >> 32]);
    measure(drawn, &sums, counts, b->K, b->n);
    for (size_t m = 0; m < b->values; m++) b->results[m * b->samples + sample] = drawn[m];
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between order statistics. */
static double percentile(const double *sorted, size_t n, double share) {
    const double at = share * (double)(n - 1);
    const size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

static Interval *interval_of(Compare *c, size_t m) {
    Interval *const measures[MEASURES] = {&c->macro_f1, &c->macro_recall, &c->nll, &c->brier, &c->ece};
    if (m < MEASURES) return measures[m];
    CompareClass *k = &c->classes[(m - MEASURES) / 3];
    Interval *const of_class[3] = {&k->precision, &k->recall, &k->f1};
    return of_class[(m - MEASURES) % 3];
}

static ErrCode bootstrap(Compare *out, const Pair *pairs, size_t samples, uint64_t seed, Threads *threads,
                         Err *err) {
    const size_t n_threads = (size_t)threads_count(threads), K = (size_t)out->K;
    Bootstrap b = {
        .pairs = pairs, .n = out->n, .K = K, .samples = samples, .values = MEASURES + 3 * K, .seed = seed};
    ErrCode rc = mem_new(&b.counts, n_threads * COUNTS * K, sizeof *b.counts, "the bootstrap", err);
    if (rc == ERR_OK) rc = mem_new(&b.drawn, n_threads * b.values, sizeof *b.drawn, "the bootstrap", err);
    if (rc == ERR_OK) rc = mem_new(&b.results, b.values * samples, sizeof *b.results, "the bootstrap", err);
    if (rc == ERR_OK) {
        threads_run(threads, bootstrap_task, &b, samples);
        for (size_t m = 0; m < b.values; m++) {
            double *sorted = b.results + m * samples;
            qsort(sorted, samples, sizeof *sorted, ascending);
            Interval *i = interval_of(out, m);
            i->low = fmin(i->value, percentile(sorted, samples, 0.025));
            i->high = fmax(i->value, percentile(sorted, samples, 0.975));
        }
    }
    mem_free(b.counts);
    mem_free(b.drawn);
    mem_free(b.results);
    return rc;
}

static ErrCode differences(Compare *out, const Pair *pairs, Err *err) {
    const size_t K = (size_t)out->K;
    uint64_t *counts = NULL;
    double *values = NULL;
    ErrCode rc = mem_new(&counts, COUNTS * K, sizeof *counts, "class counts", err);
    if (rc == ERR_OK) rc = mem_new(&values, MEASURES + 3 * K, sizeof *values, "class metrics", err);
    if (rc == ERR_OK) {
        Sums sums = {0};
        for (size_t i = 0; i < out->n; i++) count_pair(&sums, counts, K, &pairs[i]);
        measure(values, &sums, counts, K, out->n);
        for (size_t m = 0; m < MEASURES + 3 * K; m++)
            *interval_of(out, m) = (Interval){values[m], values[m], values[m]};
    }
    mem_free(counts);
    mem_free(values);
    return rc;
}

/* ---- flips ---- */

static int surest_first(const void *a, const void *b) {
    const CompareFlip *x = a, *y = b;
    const double sure_x = fmin(x->p_a, x->p_b), sure_y = fmin(y->p_a, y->p_b);
    if (sure_x != sure_y) return sure_x > sure_y ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

static ErrCode find_flips(Compare *out, const Pair *pairs, Err *err) {
    uint64_t right[2][2] = {{0}}; /* [A right][B right] */
    for (size_t i = 0; i < out->n; i++) {
        right[pairs[i].a == pairs[i].label][pairs[i].b == pairs[i].label]++;
        out->flip_count += pairs[i].a != pairs[i].b;
    }
    compare_mcnemar(&out->mcnemar, right[1][1], right[1][0], right[0][1], right[0][0]);
    out->accuracy = compare_paired(right[1][1], right[1][0], right[0][1], right[0][0]);
    TRY(mem_new(&out->flips, out->flip_count + 1, sizeof *out->flips, "the flips", err));
    size_t count = 0;
    for (size_t i = 0; i < out->n; i++) {
        const Pair *r = &pairs[i];
        if (r->a == r->b) continue;
        const CompareKind kind = r->b == r->label   ? COMPARE_FIXED
                                 : r->a == r->label ? COMPARE_BROKEN
                                                    : COMPARE_OTHER;
        out->flips[count++] = (CompareFlip){i, r->a, r->b, r->confidence_a, r->confidence_b, kind};
        out->kinds[kind]++;
    }
    qsort(out->flips, count, sizeof *out->flips, surest_first);
    return ERR_OK;
}

const char *compare_kind_name(CompareKind kind) {
    static const char *const NAMES[] = {"fixed", "broken", "other"};
    return NAMES[kind];
}

/* ---- all of it ---- */

ErrCode compare_compute(Compare *out, const double *p, const double *q, const int *labels, size_t n, int K,
                        int samples, uint64_t seed, Threads *threads, Err *err) {
    *out = (Compare){.n = n, .K = K};
    Pair *pairs = NULL;
    ErrCode rc = metrics_compute(&out->a, p, labels, n, K, samples, seed, threads, err);
    if (rc == ERR_OK) rc = metrics_compute(&out->b, q, labels, n, K, samples, seed, threads, err);
    if (rc == ERR_OK) rc = mem_new(&pairs, n, sizeof *pairs, "the rows' losses", err);
    if (rc == ERR_OK) rc = mem_new(&out->classes, (size_t)K, sizeof *out->classes, "class metrics", err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++)
        pairs[i] = pair_of(p + i * (size_t)K, q + i * (size_t)K, labels[i], K);
    if (rc == ERR_OK) rc = find_flips(out, pairs, err);
    if (rc == ERR_OK) rc = differences(out, pairs, err);
    size_t draws = samples > 0 ? (size_t)samples : METRICS_SAMPLES;
    if (samples == 0 && (n > 400000 || K > 1000)) draws = 200; /* time; memory */
    if (rc == ERR_OK && samples != 1) rc = bootstrap(out, pairs, draws, seed, threads, err);
    mem_free(pairs);
    if (rc != ERR_OK) compare_free(out);
    return rc;
}

void compare_free(Compare *compare) {
    metrics_free(&compare->a);
    metrics_free(&compare->b);
    mem_free(compare->classes);
    mem_free(compare->flips);
    *compare = (Compare){0};
}

/* ---- labels ---- */

ErrCode compare_labels(CompareLabels *out, const char *const *a, int Ka, const char *const *b, int Kb,
                       Err *err) {
    *out = (CompareLabels){0};
    ErrCode rc = mem_new(&out->names, (size_t)(Ka + Kb), sizeof *out->names, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&out->column_a, (size_t)Ka, sizeof *out->column_a, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&out->column_b, (size_t)Kb, sizeof *out->column_b, "the labels", err);
    if (rc != ERR_OK) {
        compare_labels_free(out);
        return rc;
    }
    for (int k = 0; k < Ka; k++) {
        out->names[k] = a[k];
        out->column_a[k] = k;
    }
    out->K = Ka;
    for (int k = 0; k < Kb; k++) {
        int at = 0;
        while (at < Ka && strcmp(a[at], b[k]) != 0) at++;
        out->shared += at < Ka;
        out->column_b[k] = at < Ka ? at : out->K;
        if (at == Ka) out->names[out->K++] = b[k];
    }
    return ERR_OK;
}

void compare_labels_free(CompareLabels *labels) {
    mem_free(labels->names);
    mem_free(labels->column_a);
    mem_free(labels->column_b);
    *labels = (CompareLabels){0};
}
