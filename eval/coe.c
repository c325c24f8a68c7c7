#include "eval/coe.h"

#include <glpk.h>
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <string.h>

#include "core/mem.h"
#include "core/stop.h"

/* On the heap, because what a longjmp passes by must not live in registers. */
typedef struct {
    jmp_buf back;
    char said[256]; /* what GLPK last wanted to print */
    const CoeProblem *problem;
    glp_prob *lp;
    bool *open;    /* (E) experts of a solution */
    int *expert;   /* (C) its map */
    int *index;    /* (E + 2) a row's columns; GLPK counts from 1 */
    double *value; /* (E + 2) and their coefficients */
    CoeFrontier *out;
} Solver;

/* ---- GLPK's manners: it prints, and ends the program when memory is short ---- */

static int keep_words(void *arg, const char *words) {
    Solver *s = arg;
    const size_t n = strlen(words);
    if (n > 1 && n < sizeof s->said) {
        memcpy(s->said, words, n);
        s->said[words[n - 1] == '\n' ? n - 1 : n] = 0;
    }
    return 1; /* printed enough */
}

static void leave_glpk(void *arg) {
    Solver *s = arg;
    longjmp(s->back, 1);
}

static void ask_stop(glp_tree *tree, void *arg) {
    (void)arg;
    if (stop_requested()) glp_ios_terminate(tree);
}

/* ---- the program ---- */

static int column_y(int e) {
    return 1 + e;
}

static int column_x(const CoeProblem *p, int c, int e) {
    return 1 + p->E + c * p->E + e;
}

static void add_row(Solver *s, int count, int kind, double bound) {
    const int row = glp_add_rows(s->lp, 1);
    glp_set_row_bnds(s->lp, row, kind, kind == GLP_FX ? bound : 0, bound);
    glp_set_mat_row(s->lp, row, count, s->index, s->value);
}

static void build(Solver *s) {
    const CoeProblem *p = s->problem;
    s->lp = glp_create_prob();
    glp_set_obj_dir(s->lp, GLP_MAX);
    glp_add_cols(s->lp, p->E + p->C * p->E);
    for (int j = 1; j <= p->E + p->C * p->E; j++) glp_set_col_kind(s->lp, j, GLP_BV);
    for (int e = 0; e < p->E; e++) { /* row 1: the budget */
        s->index[1 + e] = column_y(e);
        s->value[1 + e] = (double)p->size[e];
    }
    add_row(s, p->E, GLP_UP, 0);
    for (int c = 0; c < p->C; c++) {
        for (int e = 0; e < p->E; e++) {
            s->index[1 + e] = column_x(p, c, e);
            s->value[1 + e] = 1;
            glp_set_obj_coef(s->lp, column_x(p, c, e), (double)p->weight[c * p->E + e]);
        }
        add_row(s, p->E, GLP_FX, 1);
    }
    for (int c = 0; c < p->C; c++)
        for (int e = 0; e < p->E; e++) {
            s->index[1] = column_x(p, c, e);
            s->value[1] = 1;
            s->index[2] = column_y(e);
            s->value[2] = -1;
            add_row(s, 2, GLP_UP, 0);
        }
}

/* Sum of the sizes of the experts kept, who need not all serve. */
static int64_t kept_size(const Solver *s) {
    int64_t sum = 0;
    for (int e = 0; e < s->problem->E; e++)
        if (s->open[e]) sum += s->problem->size[e];
    return sum;
}

/* The same experts, or more of them, shall not be kept together: their sizes pass the budget. */
static void cut_off(Solver *s) {
    int count = 0;
    for (int e = 0; e < s->problem->E; e++) {
        if (!s->open[e]) continue;
        s->index[++count] = column_y(e);
        s->value[count] = 1;
    }
    add_row(s, count, GLP_UP, count - 1);
}

static ErrCode solve_once(Solver *s, int64_t budget, Err *err) {
    const CoeProblem *p = s->problem;
    glp_set_row_bnds(s->lp, 1, GLP_UP, 0, (double)budget);
    for (int e = 0; e < p->E; e++)
        if (p->size[e] > budget) glp_set_col_bnds(s->lp, column_y(e), GLP_FX, 0, 0);
    glp_iocp rule;
    glp_init_iocp(&rule);
    rule.msg_lev = GLP_MSG_OFF;
    rule.presolve = GLP_ON;
    rule.cb_func = ask_stop;
    const int rc = glp_intopt(s->lp, &rule);
    if (rc == GLP_ESTOP || stop_requested())
        return err_set(err, ERR_INTERRUPTED, "stopped while choosing experts");
    if (rc != 0 || glp_mip_status(s->lp) != GLP_OPT)
        return err_set(err, ERR_BACKEND,
                       "GLPK did not find the best experts for %lld million parameters (%d)%s%s",
                       (long long)budget, rc, s->said[0] ? ": " : "", s->said);
    for (int e = 0; e < p->E; e++) s->open[e] = glp_mip_col_val(s->lp, column_y(e)) > 0.5;
    return ERR_OK;
}

/* The best map of the experts kept: of equal ones the smaller, then the first. */
static void serve(Solver *s, CoePoint *point) {
    const CoeProblem *p = s->problem;
    point->quality = 0;
    for (int c = 0; c < p->C; c++) {
        const int64_t *weight = p->weight + (size_t)c * (size_t)p->E;
        int best = -1;
        for (int e = 0; e < p->E; e++)
            if (s->open[e] && (best < 0 || weight[e] > weight[best] ||
                               (weight[e] == weight[best] && p->size[e] < p->size[best])))
                best = e;
        s->expert[c] = best;
        point->quality += weight[best];
    }
    memset(s->open, 0, (size_t)p->E * sizeof *s->open);
    for (int c = 0; c < p->C; c++) s->open[s->expert[c]] = true;
    point->parameters = kept_size(s);
}

static ErrCode best_within(Solver *s, CoePoint *point, int64_t budget, Err *err) {
    for (;;) {
        TRY(solve_once(s, budget, err));
        if (kept_size(s) <= budget) break;
        cut_off(s);
    }
    serve(s, point);
    return ERR_OK;
}

/* ---- the frontier ---- */

/* Takes the place of the last point where that is no better. */
static ErrCode add_point(Solver *s, const CoePoint *point, Err *err) {
    CoeFrontier *out = s->out;
    const size_t C = (size_t)s->problem->C;
    if (out->count && out->points[out->count - 1].quality == point->quality) {
        mem_free(out->points[--out->count].expert);
    } else if (out->count == out->cap) {
        const size_t cap = out->cap ? 2 * out->cap : 16;
        CoePoint *points = cap <= COE_POINTS_MAX ? mem_resize(out->points, cap, sizeof *points) : NULL;
        if (!points) return err_set(err, ERR_MEMORY, "out of memory for %zu budgets", cap);
        out->points = points;
        out->cap = cap;
    }
    CoePoint kept = *point;
    TRY(mem_new(&kept.expert, C, sizeof *kept.expert, "a map of experts", err));
    memcpy(kept.expert, s->expert, C * sizeof *kept.expert);
    out->points[out->count++] = kept;
    return ERR_OK;
}

/* From the largest budget down, each just too small for the solution before: no sum of sizes is passed over. */
static ErrCode walk(Solver *s, int64_t budget, Err *err) {
    const CoeProblem *p = s->problem;
    int64_t least = p->size[0];
    for (int e = 1; e < p->E; e++) least = p->size[e] < least ? p->size[e] : least;
    build(s);
    while (budget >= least) {
        CoePoint point = {0};
        TRY(best_within(s, &point, budget, err));
        TRY(add_point(s, &point, err));
        budget = point.parameters - 1;
    }
    for (size_t i = 0, j = s->out->count; i + 1 < j; i++) {
        const CoePoint swap = s->out->points[i];
        s->out->points[i] = s->out->points[--j];
        s->out->points[j] = swap;
    }
    if (s->out->count == 0)
        return err_set(err, ERR_ARGUMENT, "a budget of %.6g billion parameters: the smallest expert has %.6g",
                       (double)budget / 1000, (double)least / 1000);
    return ERR_OK;
}

static ErrCode guarded(Solver *s, int64_t budget, Err *err) {
    if (setjmp(s->back) == 0) return walk(s, budget, err);
    return err_set(err, ERR_BACKEND, "GLPK gave up: %s", s->said);
}

static ErrCode check(const CoeProblem *p, Err *err) {
    if (p->C < 1 || p->E < 1 || p->E > COE_CELLS_MAX / p->C)
        return err_set(err, ERR_ARGUMENT,
                       "%d categories and %d experts, expected at least one of each and at most %d pairs",
                       p->C, p->E, COE_CELLS_MAX);
    for (int e = 0; e < p->E; e++)
        if (p->size[e] < 1 || p->size[e] > COE_SIZE_MAX)
            return err_set(err, ERR_ARGUMENT, "expert %d has %lld million parameters, expected 1 to %lld", e,
                           (long long)p->size[e], (long long)COE_SIZE_MAX);
    return ERR_OK;
}

ErrCode coe_frontier(CoeFrontier *out, const CoeProblem *problem, int64_t budget, Err *err) {
    *out = (CoeFrontier){0};
    TRY(check(problem, err));
    const size_t E = (size_t)problem->E;
    Solver *s = NULL;
    TRY(mem_new(&s, 1, sizeof *s, "the choice of experts", err));
    s->problem = problem;
    s->out = out;
    ErrCode rc = mem_new(&s->open, E, sizeof *s->open, "the choice of experts", err);
    if (rc == ERR_OK)
        rc = mem_new(&s->expert, (size_t)problem->C, sizeof *s->expert, "a map of experts", err);
    if (rc == ERR_OK) rc = mem_new(&s->index, E + 2, sizeof *s->index, "the choice of experts", err);
    if (rc == ERR_OK) rc = mem_new(&s->value, E + 2, sizeof *s->value, "the choice of experts", err);
    if (budget < 0) {
        budget = 0;
        for (size_t e = 0; e < E; e++) budget += problem->size[e];
    }
    if (rc == ERR_OK) {
        glp_term_hook(keep_words, s);
        glp_error_hook(leave_glpk, s);
        rc = guarded(s, budget, err);
        (void)glp_free_env(); /* and with it the program, and whatever GLPK was doing */
    }
    mem_free(s->open);
    mem_free(s->expert);
    mem_free(s->index);
    mem_free(s->value);
    mem_free(s);
    if (rc != ERR_OK) coe_free(out);
    return rc;
}

void coe_free(CoeFrontier *frontier) {
    for (size_t i = 0; i < frontier->count; i++) mem_free(frontier->points[i].expert);
    mem_free(frontier->points);
    *frontier = (CoeFrontier){0};
}

void coe_weights(int64_t *weight, const double *share, const double *quality, int C, int E) {
    for (int c = 0; c < C; c++)
        for (int e = 0; e < E; e++) weight[c * E + e] = llround(COE_UNITS * share[c] * quality[c * E + e]);
}
