#include "eval/calibrate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "core/minimise.h"
#include "core/rng.h"
#include "eval/metrics.h"

static const char *const NAMES[CALIBRATE_KINDS] = {"none", "temperature", "vector"};

const char *calibrate_kind_name(CalibrateKind kind) {
    return NAMES[kind];
}

/* Rows to fit: logits (n, K) where `use` (NULL: all) says so. */
typedef struct {
    const float *logits;
    const int *labels;
    const bool *use;
    size_t n;
    int K;
} Set;

static size_t used(const Set *set) {
    size_t count = 0;
    for (size_t i = 0; i < set->n; i++) count += !set->use || set->use[i];
    return count;
}

static ErrCode check(const float *logits, const int *labels, size_t n, int K, Err *err) {
    if (n == 0) return err_set(err, ERR_ARGUMENT, "no rows to calibrate on");
    for (size_t i = 0; i < n; i++) {
        assert(labels[i] >= 0 && labels[i] < K);
        for (int k = 0; k < K; k++)
            if (!isfinite(logits[i * (size_t)K + (size_t)k]))
                return err_set(err, ERR_NUMERIC, "logit %d of row %zu is not finite", k, i);
    }
    return ERR_OK;
}

/* ---- temperature ---- */

/* Slope of the mean NLL in b = 1 / T, and its curvature: the variance of the logits under p. */
static void slope(double *first, double *second, const Set *set, double b) {
    const size_t K = (size_t)set->K;
    double sum = 0, curve = 0, rows = 0;
    for (size_t i = 0; i < set->n; i++) {
        if (set->use && !set->use[i]) continue;
        const float *l = set->logits + i * K;
        double top = (double)l[0], total = 0, mean = 0, square = 0;
        for (size_t k = 1; k < K; k++) top = (double)l[k] > top ? (double)l[k] : top;
        for (size_t k = 0; k < K; k++) { /* logits less the largest: their squares do not cancel */
            const double d = (double)l[k] - top, e = exp(b * d);
            total += e;
            mean += e * d;
            square += e * d * d;
        }
        mean /= total;
        square /= total;
        sum += mean - ((double)l[set->labels[i]] - top);
        curve += square - mean * mean;
        rows++;
    }
    *first = sum / rows;
    *second = curve / rows;
}

static double solve_temperature(const Set *set) {
    double low = 1 / CALIBRATE_T_MAX, high = 1 / CALIBRATE_T_MIN, b = 1, first, second;
    slope(&first, &second, set, low);
    if (first >= 0) return second > 0 ? CALIBRATE_T_MAX : 1; /* without curvature all logits are equal */
    slope(&first, &second, set, high);
    if (first <= 0) return CALIBRATE_T_MIN;
    for (int step = 0; step < 100 && high - low > 1e-13 * high; step++) {
        slope(&first, &second, set, b);
        if (first > 0)
            high = b;
        else
            low = b;
        const double next = b - first / second;
        const bool inside = second > 0 && next > low && next < high;
        if (inside && fabs(next - b) <= 1e-14 * b) {
            b = next;
            break;
        }
        b = inside ? next : (low + high) / 2;
    }
    return 1 / b;
}

ErrCode calibrate_temperature(double *temperature, const float *logits, const int *labels, size_t n, int K,
                              Err *err) {
    const Set set = {logits, labels, NULL, n, K};
    TRY(check(logits, labels, n, K, err));
    *temperature = solve_temperature(&set);
    return ERR_OK;
}

/* ---- vector ---- */

/* Below this a scale is no longer one: a class's logit would not count. */
static const double SCALE_MIN = 0x1p-10;

typedef struct {
    const Set *set;
    double temperature;
    double *p; /* (K) */
} VectorJob;

/* Of x = (scale - 1, bias). */
static double objective(void *arg, double *g, const double *x) {
    const VectorJob *v = arg;
    const Set *set = v->set;
    const size_t K = (size_t)set->K;
    double sum = 0, penalty = 0;
    for (size_t i = 0; i < 2 * K; i++) {
        penalty += x[i] * x[i];
        g[i] = CALIBRATE_PENALTY * x[i];
    }
    for (size_t i = 0; i < set->n; i++) {
        if (set->use && !set->use[i]) continue;
        const float *l = set->logits + i * K;
        const size_t label = (size_t)set->labels[i];
        double top = -(double)INFINITY, total = 0, z_label = 0;
        for (size_t k = 0; k < K; k++) {
            v->p[k] = (double)l[k] / v->temperature * (1 + x[k]) + x[K + k];
            top = v->p[k] > top ? v->p[k] : top;
            if (k == label) z_label = v->p[k];
        }
        for (size_t k = 0; k < K; k++) total += v->p[k] = exp(v->p[k] - top);
        sum += log(total) - (z_label - top);
        for (size_t k = 0; k < K; k++) {
            const double d = v->p[k] / total - (k == label);
            g[k] += d * (double)l[k] / v->temperature;
            g[K + k] += d;
        }
    }
    return sum + CALIBRATE_PENALTY / 2 * penalty;
}

static ErrCode solve_vector(double *scale, double *bias, const Set *set, double temperature, Err *err) {
    static const MinimiseRule RULE = {.steps = 500, .slope = 1e-9};
    const size_t K = (size_t)set->K;
    double *x;
    TRY(mem_new(&x, 3, K * sizeof *x, "the calibration", err));
    VectorJob job = {set, temperature, x + 2 * K};
    const ErrCode rc = minimise(NULL, x, 2 * K, objective, &job, &RULE, err);
    for (size_t k = 0; rc == ERR_OK && k < K; k++) {
        scale[k] = 1 + x[k] > SCALE_MIN ? 1 + x[k] : SCALE_MIN;
        bias[k] = x[K + k];
    }
    mem_free(x);
    return rc;
}

ErrCode calibrate_vector(double *scale, double *bias, const float *logits, const int *labels, size_t n, int K,
                         double temperature, Err *err) {
    const Set set = {logits, labels, NULL, n, K};
    TRY(check(logits, labels, n, K, err));
    return solve_vector(scale, bias, &set, temperature, err);
}

/* ---- what to take ---- */

typedef struct {
    DecideRule rules[CALIBRATE_KINDS]; /* the first one is a plain softmax */
    double *scale, *bias;              /* (K) */
    double *p[CALIBRATE_KINDS];        /* (n, K): of rows held out */
    bool *use;                         /* (n) */
    uint32_t *order;                   /* (n): rows shuffled; row order[i] is in fold i % folds */
} Work;

static void work_free(Work *w) {
    for (int kind = 0; kind < CALIBRATE_KINDS; kind++) {
        decide_free(&w->rules[kind]);
        mem_free(w->p[kind]);
    }
    mem_free(w->scale);
    mem_free(w->bias);
    mem_free(w->use);
    mem_free(w->order);
}

static ErrCode work_init(Work *w, size_t n, int K, uint64_t seed, Err *err) {
    for (int kind = 0; kind < CALIBRATE_KINDS; kind++) {
        TRY(decide_alloc(&w->rules[kind], K, err));
        TRY(mem_new(&w->p[kind], n, (size_t)K * sizeof *w->p[kind], "probabilities", err));
    }
    TRY(mem_new(&w->scale, (size_t)K, sizeof *w->scale, "the calibration", err));
    TRY(mem_new(&w->bias, (size_t)K, sizeof *w->bias, "the calibration", err));
    TRY(mem_new(&w->use, n, sizeof *w->use, "the folds", err));
    TRY(mem_new(&w->order, n, sizeof *w->order, "the folds", err));
    for (size_t i = 0; i < n; i++) w->order[i] = (uint32_t)i;
    rng_shuffle(w->order, n, rng_key(seed, "calibrate", 0));
    return ERR_OK;
}

/* The rules of temperature and vector for a set, in the float32 numbers that will be stored. */
static ErrCode fit_rules(Work *w, const Set *set, bool vector, double *temperature, Err *err) {
    DecideRule *t = &w->rules[CALIBRATE_TEMPERATURE], *v = &w->rules[CALIBRATE_VECTOR];
    *temperature = solve_temperature(set);
    t->temperature = v->temperature = (float)*temperature;
    if (!vector) return ERR_OK;
    TRY(solve_vector(w->scale, w->bias, set, *temperature, err));
    v->vector = true;
    for (int k = 0; k < set->K; k++) {
        v->scale[k] = (float)w->scale[k];
        v->bias[k] = (float)w->bias[k];
    }
    return ERR_OK;
}

static ErrCode cross_validate(Work *w, Calibration *out, Set set, bool vector, Err *err) {
    const size_t K = (size_t)set.K, folds = (size_t)out->folds;
    set.use = w->use;
    for (size_t fold = 0; fold < folds; fold++) {
        double temperature;
        for (size_t i = 0; i < set.n; i++) w->use[w->order[i]] = i % folds != fold;
        if (used(&set)) TRY(fit_rules(w, &set, vector, &temperature, err)); /* one row: stay as we are */
        for (size_t i = fold; i < set.n; i += folds)
            for (int kind = 0; kind < CALIBRATE_KINDS; kind++) {
                const size_t row = w->order[i];
                (void)decide_probabilities(w->p[kind] + row * K, set.logits + row * K, set.K,
                                           &w->rules[kind]);
            }
    }
    return ERR_OK;
}

static double loss(const double *p, int label) {
    return -log(p[label] > 1e-15 ? p[label] : 1e-15);
}

/* Mean and standard error of the difference in NLL, temperature less vector. */
static void compare(Calibration *out, const Work *w, const Set *set) {
    const size_t K = (size_t)set->K;
    double sum = 0, square = 0;
    for (size_t i = 0; i < set->n; i++) {
        const int label = set->labels[i];
        const double d =
            loss(w->p[CALIBRATE_TEMPERATURE] + i * K, label) - loss(w->p[CALIBRATE_VECTOR] + i * K, label);
        sum += d;
        square += d * d;
    }
    const double n = (double)set->n, mean = sum / n, variance = square / n - mean * mean;
    out->gain = mean;
    out->gain_error = set->n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0;
}

static CalibrateKind judge(const Calibration *c) {
    const double *nll = c->nll, *ece = c->ece;
    if (c->vector_tried && c->gain > 1.96 * c->gain_error && c->gain_error > 0 &&
        nll[CALIBRATE_VECTOR] <= nll[CALIBRATE_NOTHING] && ece[CALIBRATE_VECTOR] <= ece[CALIBRATE_NOTHING])
        return CALIBRATE_VECTOR;
    const bool better = nll[CALIBRATE_TEMPERATURE] < nll[CALIBRATE_NOTHING] &&
                        ece[CALIBRATE_TEMPERATURE] <= ece[CALIBRATE_NOTHING];
    return better ? CALIBRATE_TEMPERATURE : CALIBRATE_NOTHING;
}

static ErrCode fit(Calibration *out, DecideRule *rule, double *held_out, Work *w, const Set *set, Err *err) {
    const size_t K = (size_t)set->K;
    TRY(cross_validate(w, out, *set, out->vector_tried, err));
    for (int kind = 0; kind < CALIBRATE_KINDS; kind++) {
        Metrics m;
        TRY(metrics_compute(&m, w->p[kind], set->labels, set->n, set->K, 1, 0, NULL, err));
        out->nll[kind] = m.nll.value;
        out->ece[kind] = m.ece.value;
        metrics_free(&m);
    }
    compare(out, w, set);
    out->kind = judge(out);
    memcpy(held_out, w->p[out->kind], set->n * K * sizeof *held_out);
    TRY(fit_rules(w, set, out->kind == CALIBRATE_VECTOR, &out->temperature, err));
    const DecideRule *taken = &w->rules[out->kind];
    rule->temperature = taken->temperature;
    rule->vector = out->kind == CALIBRATE_VECTOR;
    for (size_t k = 0; k < K; k++) {
        rule->scale[k] = rule->vector ? taken->scale[k] : 1;
        rule->bias[k] = rule->vector ? taken->bias[k] : 0;
    }
    return ERR_OK;
}

ErrCode calibrate_fit(Calibration *out, DecideRule *rule, double *held_out, const float *logits,
                      const int *labels, size_t n, int K, bool vector, uint64_t seed, Err *err) {
    *out = (Calibration){.folds = n < CALIBRATE_FOLDS ? (int)n : CALIBRATE_FOLDS, .vector_tried = vector};
    TRY(check(logits, labels, n, K, err));
    if (n > UINT32_MAX)
        return err_set(err, ERR_ARGUMENT, "found %zu rows, expected at most %u", n, UINT32_MAX);
    Work w = {0};
    const Set set = {logits, labels, NULL, n, K};
    ErrCode rc = work_init(&w, n, K, seed, err);
    if (rc == ERR_OK) rc = fit(out, rule, held_out, &w, &set, err);
    work_free(&w);
    return rc;
}
