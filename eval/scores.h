/* eval/scores.h - how well a score tells good rows from bad ones: answers that are right from those that are wrong
 * (selective prediction), or prompts of the training's kind from others (out of distribution). Pure functions; the
 * higher a score, the surer. What they return depends on the scores and flags, not on the order of the rows: rows of
 * equal score are taken together.
 *
 *   AUROC      share of (good, bad) pairs in which the good row has the higher score, equal ones counting half
 *   FPR95      share of bad rows with a score of at least t, t the highest for which 95 % of the good rows have one
 *   AUPR       average precision for good rows: sum over the distinct scores t, falling, of
 *              (recall at t - recall above t) * precision at t
 *   risk at coverage c   share of bad rows among the share c of rows with the highest scores
 *   AURC       mean of the risk over the coverages 1/n, 2/n .. 1, each the expectation over the orders of rows of equal
 *              score; 0 is perfect, and the share of bad rows is what no score at all gives
 *
 * As scikit-learn's roc_auc_score, roc_curve and average_precision_score. A score that is not finite is ERR_NUMERIC
 * naming the row; no rows are ERR_ARGUMENT. What needs rows of both kinds is NaN where one kind is absent. */
#ifndef EVAL_SCORES_H
#define EVAL_SCORES_H

#include <stdbool.h>
#include <stddef.h>

#include "core/err.h"

typedef struct {
    size_t good, bad;
    double auroc, fpr95, aupr, aurc;
} Scores;

ErrCode scores_compute(Scores *out, const double *score, const bool *good, size_t n, Err *err) ERR_CHECKED;

/* The curve: a point for each distinct score, falling. */
typedef struct {
    double threshold;       /* rows with at least this score */
    size_t answered, wrong; /* of them; how many are bad */
} ScoresPoint;

/* *points (*count) is freed with mem_free. */
ErrCode scores_curve(ScoresPoint **points, size_t *count, const double *score, const bool *good, size_t n,
                     Err *err) ERR_CHECKED;

/* Two sets in one call: score of the good ones (n), of the bad ones (m). */
ErrCode scores_compare(Scores *out, const double *good, size_t n, const double *bad, size_t m,
                       Err *err) ERR_CHECKED;

#endif
