/* model/ops_blas.h - what the blas backend measured of itself. */
#ifndef MODEL_OPS_BLAS_H
#define MODEL_OPS_BLAS_H

#include "model/ops.h"

typedef struct {
    double seconds,
        flops; /* spent and done inside cblas_sgemm since the backend was opened, all threads together */
    const char *kernels; /* instruction set of the other kernels: "avx512" */
} OpsBlasMeter;

OpsBlasMeter ops_blas_meter(const Ops *o);

/* What to be measured against: seconds of one cblas_sgemm call by OpenBLAS's own threading, best of several
 * within about `budget` seconds. kind 'f': (M,K) x (N,K)^T as in the forward pass; 'x': (M,K) x (K,N),
 * gradient of the input; 'w': (K,M)^T x (K,N), gradient of the weights. Operands are random. Negative when
 * memory is short. */
double ops_blas_alone(char kind, int M, int N, int K, int threads, double budget);

#endif
