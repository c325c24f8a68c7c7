/* eval/system.h - a router and its experts as one: how often the prompt's answer is good, what it costs, and what wrong
 * turns cost, beside each single model and beside routers that are never wrong.
 *
 * For n rows with probabilities p (n, K) and an ExpertsOutcome (quality q and cost of each row at each expert):
 *   accuracy       mean of q[i][the expert that row i is sent to]; its 95 % interval and that of the difference to the
 *                  best single model (paired) are normal, mean +- 1.96 standard errors, of rows drawn at random; accuracies
 *                  that experts.json states are taken as exact
 *   cost           of 1,000 prompts, the router's own share added where one is used
 *   active, total  mean parameters of the expert that answers; parameters of all experts that may be called; in millions,
 *                  the router's own added
 *   best single    the expert with the highest accuracy on these rows (of equal ones the cheaper): the choice favours it
 *   misrouting     label l sent as if it were m: sum over such rows of q[expert of l] - q[expert of m], over n. The cells
 *                  sum to the regret against the same map with the labels known
 *   fallback       a row whose confidence is below a threshold goes to the fallback expert instead
 *   Robust-CoE     fallback and threshold with the largest 100 accuracy - lambda * cost on the rows to choose by; of equal
 *                  ones the lower threshold, then the expert named first
 *   two models     of a map with exactly two experts: rows in the order of the probability of labels that go to the
 *                  stronger; PGR is the share of the gap between the two that is recovered when the first share of rows goes
 *                  to the stronger; APGR is its mean over shares (0.5: chance), CPT(x) the least share with PGR >= x
 *                  (Ong and others 2024, RouteLLM)
 * Ties of confidence or score are never split. A pure function: no threads, no randomness. */
#ifndef EVAL_SYSTEM_H
#define EVAL_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "eval/coe.h"
#include "eval/experts.h"
#include "eval/metrics.h"

#define SYSTEM_POINTS 101 /* of a curve at most */

typedef struct {
    const double *p;
    const int *labels;
    size_t n;
    int K;
    const ExpertsOutcome *outcome;
} SystemRows;

typedef enum {
    SYSTEM_SINGLE,  /* one expert for all */
    SYSTEM_ROUTED,  /* the map's expert of the predicted label */
    SYSTEM_ROBUST,  /* the same with a fallback */
    SYSTEM_LABELS,  /* the map's expert of the true label */
    SYSTEM_PERFECT, /* for each row the expert with the highest quality, the cheapest of equals */
} SystemKind;

typedef enum { SYSTEM_BY_HAND, SYSTEM_COE, SYSTEM_MAPS } SystemMap;

typedef struct {
    SystemKind kind;
    SystemMap map;           /* of those that have one */
    int expert;              /* SYSTEM_SINGLE: which; SYSTEM_ROBUST: the fallback; else -1 */
    double threshold;        /* SYSTEM_ROBUST: below it the fallback answers; above 1: always */
    double routed;           /* share of rows that the fallback does not answer */
    Interval accuracy, gain; /* gain: over the best single model */
    double cost, cost_ratio; /* cost_ratio: to the best single model; NAN where that costs nothing */
    double active, total;
    double
        regret_labels; /* of SYSTEM_ROUTED and SYSTEM_ROBUST: accuracy that SYSTEM_LABELS of the same map has more */
    double regret_perfect;               /* the same for SYSTEM_PERFECT */
    double chosen_accuracy, chosen_cost; /* SYSTEM_ROBUST: on the rows that it was chosen by */
} SystemLine;

/* One point of a curve over thresholds. */
typedef struct {
    double threshold, routed, accuracy, cost, active;
} SystemPoint;

typedef struct {
    bool there;
    int weak, strong;
    double apgr, cpt50, cpt80; /* NAN: never reached */
    SystemPoint
        points[SYSTEM_POINTS]; /* routed: share to the stronger; threshold: least score that goes there */
    size_t count;
} SystemTwo;

typedef struct {
    double lambda;  /* points of accuracy for one unit of currency per 1,000 prompts */
    int64_t budget; /* of a CoE map and its fallback, in millions; negative: none */
} SystemRule;

/* Zeroed: valid to free. */
typedef struct {
    int K, E;
    int *maps[SYSTEM_MAPS]; /* (K) each; NULL: none by hand */
    CoeFrontier frontier;   /* within the budget; its last point is the map SYSTEM_COE */
    SystemLine *lines;      /* singles in the order of experts.json, then maps, then what cannot be had */
    size_t count;
    int best_single;     /* line and expert */
    size_t main;         /* line whose misrouting and curve follow: the map by hand, else SYSTEM_COE */
    double *misrouting;  /* (K, K): accuracy lost, label by prediction */
    uint64_t *confusion; /* (K, K) */
    SystemPoint points[SYSTEM_POINTS]; /* of the main map over thresholds */
    size_t point_count;
    int curve_fallback;
    SystemTwo two;
    bool chosen_apart; /* the maps, fallbacks and thresholds were chosen on other rows than these */
} System;

/* `chosen`: rows to choose by; NULL: `rows` themselves, and then no SYSTEM_ROBUST lines. */
ErrCode system_compute(System *out, const Experts *experts, const SystemRows *rows, const SystemRows *chosen,
                       const SystemRule *rule, Err *err) ERR_CHECKED;
void system_free(System *sys);

/* How sure the router is of a row: the highest probability. The one place to change for another score. */
double system_confidence(const double *p, int K);

#endif
