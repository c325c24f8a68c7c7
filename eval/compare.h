/* eval/compare.h - two routers on the same rows: is B better than A, and where did it change its mind?
 *
 * All differences are B minus A: positive accuracy and negative NLL are improvements.
 *   McNemar        of the rows that only one of the two gets right (b: A alone, c: B alone), is the split like a fair
 *                  coin's? exact: two-sided binomial, min(1, 2 P(X <= min(b, c))) for X of Bin(b + c, 1/2); mid-p: less
 *                  P(X = min(b, c)), which is less timid and still keeps its level (Fagerland and others 2013);
 *                  chi-square: max(|b - c| - 1, 0)^2 / (b + c), good for large counts (McNemar 1947, Edwards 1948)
 *   accuracy       difference with Newcombe's paired interval from Wilson's (1998, method 10)
 *   the rest       difference of the measures of eval/metrics.h; the 95 % interval is percentiles 2.5 and 97.5 of a
 *                  bootstrap that draws rows, the same for both routers, widened to hold the value. Such an interval
 *                  takes the rows as independent draws.
 * A function of (p, q, labels, seed), never of the number of threads. */
#ifndef EVAL_COMPARE_H
#define EVAL_COMPARE_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"
#include "eval/metrics.h"

typedef struct {
    uint64_t both, only_a, only_b, neither; /* rows that are right */
    double exact_p, mid_p, chi2, chi2_p;    /* 1, 1, 0, 1 where only_a + only_b is 0 */
} CompareMcnemar;

typedef struct {
    Interval precision, recall, f1;
} CompareClass;

typedef enum { COMPARE_FIXED, COMPARE_BROKEN, COMPARE_OTHER } CompareKind;

/* A row whose prediction differs: A wrong and B right, the other way round, or both wrong. */
typedef struct {
    size_t row;
    int a, b;        /* predictions */
    double p_a, p_b; /* their probabilities, each its own router's */
    CompareKind kind;
} CompareFlip;

typedef struct {
    size_t n;
    int K;
    Metrics a, b;
    CompareMcnemar mcnemar;
    Interval accuracy, macro_f1, macro_recall, nll, brier, ece;
    CompareClass *classes; /* (K) */
    CompareFlip *flips;    /* (flip_count): surest first, by the lower of both probabilities */
    size_t flip_count;
    uint64_t kinds[3];
} Compare;

/* p (n, K) of A, q (n, K) of B, labels 0 .. K-1; samples and errors as metrics_compute. */
ErrCode compare_compute(Compare *out, const double *p, const double *q, const int *labels, size_t n, int K,
                        int samples, uint64_t seed, Threads *threads, Err *err) ERR_CHECKED;
void compare_free(Compare *compare);

void compare_mcnemar(CompareMcnemar *out, uint64_t both, uint64_t only_a, uint64_t only_b, uint64_t neither);

/* Share right of B minus that of A. */
Interval compare_paired(uint64_t both, uint64_t only_a, uint64_t only_b, uint64_t neither);

const char *compare_kind_name(CompareKind kind); /* "fixed", "broken", "other" */

/* Two label sets as one: A's in their order, then B's that A lacks. column_a and column_b (classes of each) say where
 * each class went; names and both columns are freed with mem_free; the strings are borrowed. */
typedef struct {
    const char **names;
    int K, shared;
    int *column_a, *column_b;
} CompareLabels;
ErrCode compare_labels(CompareLabels *out, const char *const *a, int Ka, const char *const *b, int Kb,
                       Err *err) ERR_CHECKED;
void compare_labels_free(CompareLabels *labels);

#endif
