/* core/minimise.h - the minimum of a smooth convex function, by L-BFGS (Nocedal 1980; the last MINIMISE_MEMORY steps) with
 * steps that are halved until Armijo's condition holds, as far as rounding lets it be seen.
 *
 * It ends where the slope's length is at most `slope` * (1 + |value|), where no step goes down any more, or after `steps`.
 * Everything is in double precision and sequential: the result is a function of the start and of what `function` returns. */
#ifndef CORE_MINIMISE_H
#define CORE_MINIMISE_H

#include <stddef.h>

#include "core/err.h"

#define MINIMISE_MEMORY 20

/* The value at x (count), and the slope g (count) there. */
typedef double MinimiseFunction(void *arg, double *g, const double *x);

typedef struct {
    int steps;
    double slope;
} MinimiseRule;

typedef struct {
    double value, slope; /* at x: the value, and the slope's length */
    int steps;           /* taken */
} Minimum;

/* From x (count) to the minimum, in place. out may be NULL. Memory: 4 + 2 MINIMISE_MEMORY vectors. ERR_MEMORY, and
 * ERR_INTERRUPTED when a stop was requested. */
ErrCode minimise(Minimum *out, double *x, size_t count, MinimiseFunction *function, void *arg,
                 const MinimiseRule *rule, Err *err) ERR_CHECKED;

#endif
