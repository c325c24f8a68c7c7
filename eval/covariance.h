/* eval/covariance.h - a covariance, its Cholesky factor L (L L^T = it), and products with L's inverse. Matrices are (H, H), of
 * which only the lower triangle is read and written. Results do not depend on threads. */
#ifndef EVAL_COVARIANCE_H
#define EVAL_COVARIANCE_H

#include <stddef.h>

#include "core/threads.h"

/* 1/n sum_i x_i x_i^T of x (n, H), onto a zeroed matrix. */
void covariance_of(double *lower, const double *x, size_t n, size_t H, Threads *threads);

/* In place. A pivot that rounding leaves at nothing (fewer vectors than dimensions, say) is lifted to the smallest share of
 * the diagonal that a double tells apart from it. */
void covariance_factor(double *lower, size_t H);

void covariance_solve(double *x, const double *factor, size_t H);               /* x (H) becomes L^-1 x */
void covariance_solve_transposed(double *x, const double *factor, size_t H);    /* x becomes L^-T x */
void covariance_multiply_transposed(double *x, const double *factor, size_t H); /* x becomes L^T x */

#endif
