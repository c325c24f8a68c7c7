/* eval/metrics.h - how good probabilities are: pure functions over arrays, for n rows and K classes.
 *
 * Probabilities p (n, K), each row summing to 1; labels 0 .. K-1; the prediction is the first class with the highest
 * probability.
 *   accuracy      share of rows whose prediction is the label
 *   precision, recall, F1 of a class c
 *                 tp / predicted as c,  tp / labelled c,  2 tp / (predicted + labelled); 0 where the denominator is 0
 *   macro F1      mean of F1 over the classes that occur as label or prediction (as scikit-learn's)
 *   macro recall  mean of recall over the classes that occur as label (balanced accuracy)
 *   NLL           mean of -ln max(p[label], 1e-15), in nats
 *   Brier         mean over rows of sum_c (p_c - [c = label])^2, from 0 to 2
 *   ECE           15 bins of equal width over the highest probability (right-closed, the first holds 0): sum over bins of
 *                 |correct - sum of confidences| / n   (Guo et al. 2017)
 *   adaptive ECE  the same over 15 bins of equal mass: rows by rising confidence, a row of which `before` have a lower
 *                 confidence is in bin floor(15 before / n). Rows of equal confidence thus share a bin, whatever their
 *                 order, and bins may be empty
 *
 * 95 % intervals: Wilson's for proportions (accuracy, precision, recall); percentiles 2.5 and 97.5 of a seeded bootstrap
 * over rows for the rest. Those of both ECEs are reflected (2 value - percentile) because resampling adds to the bias
 * which they have by themselves, cut to [0, 1] and widened to hold the value. Results are a function of
 * (p, labels, seed), never of the number of threads. */
#ifndef EVAL_METRICS_H
#define EVAL_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/threads.h"

#define METRICS_BINS    15
#define METRICS_SAMPLES 1000 /* of the bootstrap; fewer (at least 200) above 400,000 rows */

typedef struct {
    double value, low, high;
} Interval;

typedef struct {
    uint64_t support, predicted, correct; /* rows labelled so, predicted so, both */
    Interval precision, recall;
    double f1;
} MetricsClass;

typedef struct {
    size_t n;
    int K;
    Interval accuracy, macro_f1, macro_recall, nll, brier, ece, adaptive_ece;
    MetricsClass *classes; /* (K) */
    uint64_t *confusion;   /* (K, K): row is the label, column the prediction */
} Metrics;

/* samples: 0 takes METRICS_SAMPLES; 1 leaves the bootstrap out (low = high = value). A label outside 0 .. K-1
 * is a bug of ours; a probability that is not in [0, 1] is ERR_NUMERIC naming the row; n = 0 is ERR_ARGUMENT.
 */
ErrCode metrics_compute(Metrics *out, const double *p, const int *labels, size_t n, int K, int samples,
                        uint64_t seed, Threads *threads, Err *err) ERR_CHECKED;
void metrics_free(Metrics *m);

/* Wilson's score interval for `hits` of n (n = 0: 0 in [0, 1]). */
Interval metrics_wilson(uint64_t hits, uint64_t n);

/* "key": {"value": ..., "low": ..., "high": ...} */
void metrics_put_json(Buf *out, const char *key, const Interval *interval);

/* The bin of ECE that a highest probability is in, 0 .. METRICS_BINS-1. */
int metrics_bin(double confidence);

/* First class with the highest probability. */
int metrics_best(const double *p, int K);

/* One model against another on the same rows: what verify reports. */
typedef struct {
    Interval agreement;   /* share of rows with equal predictions */
    double macro_f1_drop; /* of the first minus of the second: positive is worse */
    int worst_class;      /* with the largest drop of F1 among classes that occur */
    double worst_drop;
    double mean_shift, max_shift; /* |p - q| over all rows and classes */
    double *class_drop;           /* (K) F1 of the first minus of the second */
} MetricsDrop;

/* p (n, K) and its Metrics a, against q (n, K) and b. */
ErrCode metrics_compare(MetricsDrop *out, const double *p, const Metrics *a, const double *q,
                        const Metrics *b, Err *err) ERR_CHECKED;
void metrics_drop_free(MetricsDrop *drop);

#endif
