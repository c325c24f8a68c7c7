/* eval/head_fit.h - a classifier fitted to vectors that do not change: softmax regression.
 *
 *   minimises  sum_i weight_i * -ln softmax(W x_i + b)[label_i] / sum_i weight_i  +  lambda / 2 * ||W - W0||^2
 *
 * over the rows of W and b that are free; the others stay as they are, to the bit. Biases are not penalised: a prior on them
 * would draw the predicted shares of the classes away from those of the rows, and depend on where the vectors' origin lies.
 * It is convex; with lambda > 0, W is unique, and so is b but for a number added to all of them where all are free (they
 * keep the mean that they begin with). With lambda = 0 rows that a plane separates have no minimum: W then grows until the slope
 * is below the tolerance.
 *
 * How: L-BFGS (core/minimise.h) over V = W L and b + W mean, where L L^T = covariance + 4 lambda I (of a sample of the
 * vectors): a softmax bends by a quarter of the covariance at most, so that the curvature is about the same in every direction,
 * however much the columns say the same (a router's vectors do: 45 steps where columns that are only scaled take 570). What is
 * minimised remains the formula above, of the vectors as they are. It ends where the slope in V is at most
 * slope * (1 + value): then the value is above the minimum by about the square of that.
 *
 * In double precision. Sums are made of at most HEAD_FIT_PARTS parts that depend on n alone, added in their order: results
 * depend neither on the number of threads nor on the instruction set. Time: 4 n H K operations a step, and 8 H^3 for the
 * covariance. Memory: HEAD_FIT_PARTS + 46 times W and 9 H^2 numbers, in double; the vectors (n, H) are the caller's and are read
 * once a step. */
#ifndef EVAL_HEAD_FIT_H
#define EVAL_HEAD_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"

#define HEAD_FIT_SLOPE       1e-7
#define HEAD_FIT_SLOPE_ROUGH 1e-4 /* where probabilities to four digits do */
#define HEAD_FIT_STEPS       2000
#define HEAD_FIT_PARTS       32

/* A relative lambda to judge rows by other rows with. */
#define HEAD_FIT_FOLDS_LAMBDA 1e-3

typedef struct {
    const float *vectors; /* (n, H) */
    const int *labels;    /* (n): 0 .. K-1 */
    const float *weights; /* (n): 0 or more; NULL: 1 each */
    const bool *use;      /* (n); NULL: all */
    size_t n;
    int H, K;
} HeadFitRows;

typedef struct {
    const float *w0, *b0; /* (K, H), (K): where W and b begin; both NULL: zeros */
    const bool *free;     /* (K): rows of W and b that are fitted; NULL: all */
    double lambda, slope; /* slope 0: HEAD_FIT_SLOPE */
    bool
        relative; /* lambda is in units of the mean variance of a column, so that the vectors' scale is of no account */
    bool complete; /* a free label without a row is an error */
} HeadFitRule;

/* Zeroed: empty, valid to free. */
typedef struct {
    int H, K;
    double *w, *b;      /* (K, H), (K) */
    double value, loss; /* what was minimised, and its first term alone */
    double slope;
    int steps; /* HEAD_FIT_STEPS: they were not enough */
} HeadFit;

/* A free label without a row of weight > 0 has no bias that is best: unless `complete` forbids it, it stays as it begins, and
 * without w0 its bias is -INFINITY and its probability 0. Errors: ERR_ARGUMENT: no rows, or a label without rows, by
 * its number; ERR_NUMERIC: a value, weight or beginning that is not finite, or a weight below 0; ERR_INTERRUPTED. */
ErrCode head_fit(HeadFit *out, const HeadFitRows *rows, const HeadFitRule *rule, Threads *threads,
                 Err *err) ERR_CHECKED;
void head_fit_free(HeadFit *head);

/* Probabilities (n, K) of vectors (n, H) where `use` (NULL: all) says so; the other rows of p are not touched. */
void head_fit_apply(const HeadFit *head, double *p, const float *vectors, const bool *use, size_t n,
                    Threads *threads);

/* Probabilities p (n, K): of the rows with folds[i] == f by a head fitted, by the rule, to those rows of `rows` with another
 * fold, f = 0 .. count - 1. The rows' `use` is of the rows that are fitted; all get probabilities. Progress is named "folds".
 * ERR_ARGUMENT: a fold outside of which there is no row. */
ErrCode head_fit_folds(double *p, const HeadFitRows *rows, const HeadFitRule *rule, const uint8_t *folds,
                       int count, Threads *threads, Err *err) ERR_CHECKED;

#endif
