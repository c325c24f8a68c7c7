/* eval/distance.h - how far a prompt lies from every class in the space in front of the classifier (Lee et al. 2018):
 * what a router was trained on lies near the mean of its class, and what it never saw does not.
 *
 *   mean_c        mean of the vectors labelled c, for the classes that occur
 *   S             1/n sum (x - mean_label)(x - mean_label)^T, shared by the classes
 *   covariance    (1 - a) S + a trace(S)/H I, with Ledoit and Wolf's (2004) a:
 *                 a = min(1, (1/n^2) sum ||(x - mean)(x - mean)^T - S||^2 / ||S - trace(S)/H I||^2)
 *   distance_c    (x - mean_c)^T covariance^-1 (x - mean_c)
 *   score         - min_c distance_c, so that higher is nearer
 *
 * In double precision, by a Cholesky factor. Without it, H > n would have no inverse. It does not travel in an exported
 * file: H (H + 1) / 2 floats take as many bytes as two of the model's int8 matrices, for a score that the report of
 * `router calibrate` shows beside those that do travel (export/decide.h). */
#ifndef EVAL_DISTANCE_H
#define EVAL_DISTANCE_H

#include <stddef.h>

#include "core/err.h"
#include "core/threads.h"

typedef struct {
    int H, K;
    double shrinkage; /* a */
    double *mean;     /* (K, H) */
    double *factor;   /* (H, H): lower triangle L, L L^T = covariance */
    size_t *count;    /* (K): vectors of each class */
} Distance;

/* vectors (n, H), labels 0 .. K-1. ERR_ARGUMENT: n = 0; ERR_NUMERIC: a value that is not finite, or vectors that are
 * all equal to their means. Results do not depend on threads. */
ErrCode distance_fit(Distance *out, const float *vectors, const int *labels, size_t n, int H, int K,
                     Threads *threads, Err *err) ERR_CHECKED;
void distance_free(Distance *distance);

/* score (n) of vectors (n, H). */
ErrCode distance_score(const Distance *distance, double *score, const float *vectors, size_t n,
                       Threads *threads, Err *err) ERR_CHECKED;

#endif
