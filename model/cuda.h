/* model/cuda.h - what the host's part of the CUDA backend (C) calls in the files of kernels (.cu).
 *
 * All pointers are to device memory unless said otherwise; structs are the host's. Nothing waits. Functions of
 * cuda_attention.cu return the cudaError_t of their launches as int; those of cuda_kernels.cu and
 * cuda_update.cu leave it in cudaPeekAtLastError.
 *
 * In these two, `bf16` says that Act arrays are bfloat16, otherwise they are float. Sizes and alignment are arbitrary:
 * accesses of 16 bytes are taken where the pointers and the rows allow them. Sums are taken in an order that depends on the
 * sizes alone. */
#ifndef MODEL_CUDA_H
#define MODEL_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/ops.h"

typedef struct CUstream_st *cudaStream_t; /* as in cuda_runtime.h */

#ifdef __cplusplus
extern "C" {
#endif

/* A launch, and the dynamic shared memory of a kernel, also where .cu files are compiled as C++ for a CPU: see
 * tests/cuda. A kernel with commas in its name stands in parentheses. */
#ifdef __CUDACC__
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...) \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define CUDA_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#else
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...) \
    emulator_launch(kernel, grid, block, shared, stream, __VA_ARGS__)
#define CUDA_DYNAMIC_SHARED(name) unsigned char *const name = (unsigned char *)emulator_shared()
#endif

/* ---- rows and elements ---- */
void cuda_widen(cudaStream_t stream, bool bf16, float *y, const Act *x, size_t n);
void cuda_add(cudaStream_t stream, float *y, const float *x, size_t n);
void cuda_gelu(cudaStream_t stream, bool bf16, Act *y, const Act *pre, size_t n);
/* dy *= gelu'(pre) */
void cuda_gelu_grad(cudaStream_t stream, float *dy, const float *pre, size_t n);
void cuda_dropout(cudaStream_t stream, bool bf16, Act *y, const Act *x, const Dropout *drop, int N, int H);
void cuda_embed(cudaStream_t stream, bool bf16, Act *y, const float *table, const int32_t *ids, int N, int H);
void cuda_embed_grad(cudaStream_t stream, float *dtable, const int32_t *slot, const float *dy, int N, int H);
void cuda_gather(cudaStream_t stream, bool bf16, Act *y, const Act *x, const int32_t *at, int S, int H);
/* the rows at[s] of dx alone */
void cuda_scatter(cudaStream_t stream, float *dx, const float *dy, const int32_t *at, int S, int H);
void cuda_loss(cudaStream_t stream, float *loss, float *dlogits, const float *logits, const float *target,
               const float *weight, float scale, int S, int K);

/* ---- sums over rows: partial sums of fixed blocks of rows, then these in their order ---- */
/* Floats of `partial` that norm_grad and bias_grad need for up to N rows. */
size_t cuda_norm_partials(int N, int H);
size_t cuda_bias_partials(int N, int O);
void cuda_norm(cudaStream_t stream, bool bf16, Act *y, Act *xhat, float *rstd, const Act *x, const Act *r,
               const float *w, const float *b, const Dropout *drop, int N, int H, float eps);
void cuda_norm_grad(cudaStream_t stream, bool bf16, float *dx, float *dr, const float *dy, const Act *xhat,
                    const float *rstd, const float *w, const Dropout *drop, int N, int H, float *partial);
void cuda_norm_fold(cudaStream_t stream, float *dw, float *db, const float *partial, int N, int H);
/* Of `count` layers: dz = pre ? dy gelu'(pre) : dy, (N, count, O), and partial sums of its columns, which the fold adds to
 * db. Without bf16, count is 1 and dz is dy. */
void cuda_bias_grad(cudaStream_t stream, bool bf16, Act *dz, float *const *dy, int count, const Act *pre,
                    int N, int O, float *partial);
void cuda_bias_fold(cudaStream_t stream, float *const *db, int count, const float *partial, int N, int O);
/* sums[c] += sum of x[n][c] */
void cuda_column_sums(cudaStream_t stream, float *sums, const float *x, int N, int O);

/* ---- product: C (M,N) = A (M,K) B (K,N), + bias[n] or added to C. An element is at row * its matrix's `row` + column *
 * its `column`. For shapes that the library does not take. ---- */
typedef struct {
    const void *a, *b;
    void *c;          /* rows of N */
    const void *bias; /* of c's type, or NULL */
    size_t a_row, a_column, b_row, b_column;
    int M, N, K;
    bool in_bf16, out_bf16, add;
} CudaProduct;
void cuda_product(cudaStream_t stream, const CudaProduct *p);

/* ---- the optimiser ---- */
enum { CUDA_TENSORS = 56, CUDA_SUM_BLOCKS = 1024 };
typedef struct {
    float *p, *m, *v, *g;
    void *copy; /* of p in bfloat16, or NULL */
    size_t n;
    float lr, decay; /* lr: divided by bias1 */
    unsigned first;  /* block of this tensor; filled in by the launcher */
} CudaTensor;
/* A list by value: kernels have no table in memory to wait for. */
typedef struct {
    CudaTensor tensor[CUDA_TENSORS];
    int count;
    float beta1, beta2, rest1, rest2, eps, per_bias2; /* rest: 1 - beta; per: 1 / */
    const OpsNorm *norm;
} CudaTensors;
/* At least one tensor each. */
void cuda_adamw(cudaStream_t stream, CudaTensors *list);
void cuda_narrow(cudaStream_t stream, CudaTensors *list); /* copy = p; no copy is NULL */
void cuda_adamw_rows(cudaStream_t stream, const AdamwRows *rows);
/* partial: CUDA_SUM_BLOCKS doubles */
void cuda_sumsq(cudaStream_t stream, OpsNorm *norm, const float *x, size_t n, double *partial);
void cuda_clip(cudaStream_t stream, OpsNorm *norm, double most);

/* ---- attention ---- */
/* Made by the host from Attention of model/ops.h. */
typedef struct {
    const int32_t *start; /* (S + 1) */
    const int32_t *index; /* of distance 0; reaches from 1 - longest to longest - 1 */
    const uint64_t *row;  /* (N) identities for dropout, read where p > 0 */
    int N, S;
    int longest; /* of this batch */
    int A, D, R;
    float scale, p;
    uint64_t key;
    bool bf16; /* what q, k, v, kr, qr and out are made of; else float */
} CudaAttention;

/* D is 1 .. 256. Arrays are (N,A*D), tables (R,A*D), 16-byte aligned where bf16 and D = 64. */
int cuda_attention(void *out, const void *q, const void *k, const void *v, const void *kr, const void *qr,
                   const CudaAttention *shape, cudaStream_t stream);
/* dq, dk, dv are written, dkr and dqr added to; the same bits on every run. */
int cuda_attention_grad(float *dq, float *dk, float *dv, float *dkr, float *dqr, const float *dout,
                        const void *q, const void *k, const void *v, const void *kr, const void *qr,
                        const CudaAttention *shape, void *scratch, cudaStream_t stream);
/* Bytes that the gradient needs for any batch of so many tokens whose longest sequence is no longer than this. */
size_t cuda_attention_scratch(int tokens, int longest, int A, int D, bool bf16);

#ifdef __cplusplus
}
#endif
#endif
