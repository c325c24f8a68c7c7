/* model/ops_blas.h - what the blas backend measured of itself, and what backends that stand on it need: their context
 * begins with a Blas. */
#ifndef MODEL_OPS_BLAS_H
#define MODEL_OPS_BLAS_H

#include "model/kernels.h"
#include "model/ops.h"

typedef struct {
    double seconds,
        flops; /* spent and done inside cblas_sgemm since the backend was opened, all threads together */
    const char *kernels; /* instruction set of the other kernels: "avx512" */
} OpsBlasMeter;

/* Of a backend that does not stand on blas: nothing but what it runs on. */
OpsBlasMeter ops_blas_meter(const Ops *o);

/* What to be measured against: seconds of one cblas_sgemm call by OpenBLAS's own threading, best of several
 * within about `budget` seconds. kind 'f': (M,K) x (N,K)^T as in the forward pass; 'x': (M,K) x (K,N),
 * gradient of the input; 'w': (K,M)^T x (K,N), gradient of the weights. Operands are random. Negative when
 * memory is short. */
double ops_blas_alone(char kind, int M, int N, int K, int threads, double budget);

enum { OPS_BLAS_THREADS_MAX = 1024 };

typedef struct {
    double seconds, flops;
    char pad[48]; /* a cache line of its own */
} BlasMeter;

typedef struct {
    const Kernels *kernels, *float_kernels; /* the second for real numbers where activations are others */
    const AttentionKernels *attention;      /* chosen by prepare */
    int A;
    KernelsTables *tables;      /* (A) */
    KernelsTableGrads *dtables; /* (A * CHUNKS) */
    float *scratch, *norm_parts, *zeros /* (H) */;
    size_t scratch_stride;
    double *sums;
    BlasMeter meters[OPS_BLAS_THREADS_MAX];
} Blas;

/* Fills o as the blas backend, on a zeroed context of at least a Blas. */
ErrCode ops_blas_open(Ops *o, size_t context_bytes, Err *err) ERR_CHECKED;
void ops_blas_close(Ops *o);
ErrCode ops_blas_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) ERR_CHECKED;
void ops_blas_adamw_tensor(Ops *o, const AdamwTensor *tensor, const AdamwRates *rates);

#endif
