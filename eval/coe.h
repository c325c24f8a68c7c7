/* eval/coe.h - composition of experts: which experts to keep under a budget of parameters, and which one serves which
 * category (Jain and others, arXiv 2412.01868; the program below is our reading of it, solved exactly by GLPK).
 *
 *   maximise    sum over c, e of weight[c][e] x[c][e]
 *   subject to  sum over e of x[c][e] = 1    each category has one expert
 *               x[c][e] <= y[e]              who serves is kept
 *               sum over e of size[e] y[e] <= budget
 *               x, y in {0, 1}
 *
 * Sizes are whole millions of parameters. weight[c][e] is share of the category times quality of the expert on it, in
 * whole COE_UNITS of a share (coe_weights rounds to the nearest), so that optima are exact: GLPK's tolerance of 1e-7 is
 * less than one unit of the whole. A solution that keeps the budget only within GLPK's tolerance for integers is cut off
 * and the program solved again. */
#ifndef EVAL_COE_H
#define EVAL_COE_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define COE_UNITS      1000000
#define COE_SIZE_MAX   ((int64_t)1000000000) /* millions */
#define COE_CELLS_MAX  20000                 /* categories times experts */
#define COE_POINTS_MAX 100000

typedef struct {
    int C, E;              /* categories, experts */
    const int64_t *size;   /* (E), at least 1 */
    const int64_t *weight; /* (C, E), 0 .. COE_UNITS; a category's rows sum to at most COE_UNITS over all */
} CoeProblem;

/* The best map within some budget. */
typedef struct {
    int64_t parameters; /* of the experts that serve, in millions */
    int64_t quality;    /* in COE_UNITS */
    int *expert;        /* (C); borrowed from the frontier */
} CoePoint;

/* Every budget's best map: from the fewest parameters up, each point better than all before it. Zeroed: valid to free. */
typedef struct {
    CoePoint *points;
    size_t count, cap;
} CoeFrontier;

/* weight (C, E) of share (C) and quality (C, E), both from 0 to 1. */
void coe_weights(int64_t *weight, const double *share, const double *quality, int C, int E);

/* All points within `budget` millions (a negative one: all of them). ERR_ARGUMENT: no expert is that small, or the sizes
 * are outside the limits above; ERR_BACKEND: GLPK's own words; ERR_INTERRUPTED when a stop was requested. */
ErrCode coe_frontier(CoeFrontier *out, const CoeProblem *problem, int64_t budget, Err *err) ERR_CHECKED;
void coe_free(CoeFrontier *frontier);

#endif
