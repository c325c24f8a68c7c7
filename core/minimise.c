#include "core/minimise.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core/mem.h"
#include "core/stop.h"

enum { MEMORY = MINIMISE_MEMORY, LINE_STEPS = 40 };

typedef struct {
    MinimiseFunction *function;
    void *arg;
    size_t count;
    double *x, *next, *g, *next_g, *direction; /* (count) */
    double *s, *y;                             /* (MEMORY, count): last steps and changes of the slope */
    double rho[MEMORY];
} Solver;

static double dot(const double *a, const double *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* -H g by the two loops of Nocedal (1980), from `have` pairs of which `last` is the newest. */
static void choose_direction(Solver *v, int have, int last) {
    double alpha[MEMORY];
    const size_t n = v->count;
    memcpy(v->direction, v->g, n * sizeof *v->direction);
    for (int i = 0, at = last; i < have; i++, at = (at + MEMORY - 1) % MEMORY) {
        const double *s = v->s + (size_t)at * n, *y = v->y + (size_t)at * n;
        alpha[at] = v->rho[at] * dot(s, v->direction, n);
        for (size_t k = 0; k < n; k++) v->direction[k] -= alpha[at] * y[k];
    }
    if (have) {
        const double *y = v->y + (size_t)last * n;
        const double size = 1 / (v->rho[last] * dot(y, y, n));
        for (size_t k = 0; k < n; k++) v->direction[k] *= size;
    } else {
        const double size = sqrt(dot(v->g, v->g, n));
        for (size_t k = 0; k < n; k++) v->direction[k] /= size > 1 ? size : 1;
    }
    for (int i = 0, at = (last + MEMORY - have + 1) % MEMORY; i < have; i++, at = (at + 1) % MEMORY) {
        const double *s = v->s + (size_t)at * n, *y = v->y + (size_t)at * n;
        const double beta = v->rho[at] * dot(y, v->direction, n);
        for (size_t k = 0; k < n; k++) v->direction[k] += s[k] * (alpha[at] - beta);
    }
    for (size_t k = 0; k < n; k++) v->direction[k] = -v->direction[k];
}

/* What rounding does to the value: a sum of some thousands of terms, each right to an ulp. */
static double rounding(double value) {
    return 1e-14 * (1 + fabs(value));
}

/* One step down with Armijo's condition, as far as rounding lets it be seen; false where none goes down any more. */
static bool step_down(Solver *v, double *value) {
    const size_t n = v->count;
    const double fall = dot(v->g, v->direction, n);
    double length = 1;
    if (!(fall < 0)) return false;
    for (int i = 0; i < LINE_STEPS; i++) {
        for (size_t k = 0; k < n; k++) v->next[k] = v->x[k] + length * v->direction[k];
        const double found = v->function(v->arg, v->next_g, v->next);
        if (found <= *value + 1e-4 * length * fall + rounding(*value)) {
            *value = found;
            return true;
        }
        length /= 2;
    }
    return false;
}

static ErrCode descend(Solver *v, Minimum *out, const MinimiseRule *rule, Err *err) {
    const size_t n = v->count;
    int have = 0, last = 0, step = 0, stuck = 0;
    double value = v->function(v->arg, v->g, v->x);
    for (; step < rule->steps && sqrt(dot(v->g, v->g, n)) > rule->slope * (1 + fabs(value)); step++) {
        if (stop_requested()) return err_set(err, ERR_INTERRUPTED, "stopped");
        const double before = value;
        choose_direction(v, have, last);
        if (!step_down(v, &value)) break;
        /* Neither lower nor flatter, twice in a row: as near as doubles come. Once may be a poor direction. */
        const bool better =
            before - value > rounding(value) || dot(v->next_g, v->next_g, n) < dot(v->g, v->g, n);
        stuck = better ? 0 : stuck + 1;
        if (stuck == 2) break;
        const int at = have ? (last + 1) % MEMORY : 0;
        double *s = v->s + (size_t)at * n, *y = v->y + (size_t)at * n;
        for (size_t k = 0; k < n; k++) {
            s[k] = v->next[k] - v->x[k];
            y[k] = v->next_g[k] - v->g[k];
        }
        memcpy(v->x, v->next, n * sizeof *v->x);
        memcpy(v->g, v->next_g, n * sizeof *v->g);
        const double bend = dot(s, y, n);
        if (!(bend > 0)) continue; /* rounding alone, where the function is strictly convex */
        v->rho[at] = 1 / bend;
        last = at;
        have = have < MEMORY ? have + 1 : MEMORY;
    }
    if (out) *out = (Minimum){value, sqrt(dot(v->g, v->g, n)), step};
    return ERR_OK;
}

ErrCode minimise(Minimum *out, double *x, size_t count, MinimiseFunction *function, void *arg,
                 const MinimiseRule *rule, Err *err) {
    Solver v = {.function = function, .arg = arg, .count = count, .x = x};
    double *memory;
    TRY(mem_new(&memory, 4 + 2 * MEMORY, count * sizeof *memory, "the minimisation", err));
    double **const parts[] = {&v.next, &v.g, &v.next_g, &v.direction};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) *parts[i] = memory + i * count;
    v.s = memory + 4 * count;
    v.y = v.s + MEMORY * count;
    const ErrCode rc = descend(&v, out, rule, err);
    mem_free(memory);
    return rc;
}
