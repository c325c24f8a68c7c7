/* model/kernels.h - the parts of the blas backend that are not GEMMs, compiled once per instruction set from
 * one source (kernels.c); the fastest that this CPU has is chosen when the backend opens. All work on rows,
 * so that the caller can share them among threads. float32 only. */
#ifndef MODEL_KERNELS_H
#define MODEL_KERNELS_H

#include <stddef.h>

#include "model/ops.h"

/* Sizes of attention's tables and scratch. Tables by distance have `window` places; r = 0 is at `origin`. */
typedef struct {
    int longest, D;
    int Dp, Dq; /* D rounded up to whole vectors: of floats, and of activations */
    int origin, window;
} KernelsAttention;

/* Tables of one head by distance, read by every sequence, (window * Dp) floats each: kr is in order of key - query, so
 * that a row of scores reads it forwards as the key moves on, and qr in order of query - key, as a column reads it.
 * Layouts: kernels_attention.c, Operands. */
typedef struct {
    void *kr_panels, *qr_panels; /* for scores */
    void *kr, *qr;               /* for their gradients; NULL: not wanted */
} KernelsTables;

/* Their gradients, (window, Dp) each */
typedef struct {
    float *kr, *qr;
} KernelsTableGrads;

/* One sequence in one head; and the one that this thread will take next, which is fetched into the cache meanwhile. */
typedef struct {
    int seq, head, next_seq, next_head; /* next_seq -1: not known */
} KernelsTile;

/* kernels_attention.c */
typedef struct {
    KernelsAttention (*sizes)(int longest, int D);
    size_t (*scratch)(const KernelsAttention *sizes); /* floats that one running tile needs */
    void (*tables)(const KernelsTables *out, const KernelsAttention *sizes, const Act *kr, const Act *qr,
                   const Attention *shape, int head);
    void (*forward)(Act *out, const Act *q, const Act *k, const Act *v, const KernelsTables *tables,
                    const KernelsAttention *sizes, const Attention *shape, const KernelsTile *tile,
                    float *scratch);
    /* dtables: added to */
    void (*grad)(float *dq, float *dk, float *dv, const KernelsTableGrads *dtables, const float *dout,
                 const Act *q, const Act *k, const Act *v, const KernelsTables *tables,
                 const KernelsAttention *sizes, const Attention *shape, const KernelsTile *tile,
                 float *scratch);
    /* dkr, dqr += what one head's sequences left in dtables */
    void (*fold)(float *dkr, float *dqr, const KernelsTableGrads *dtables, const KernelsAttention *sizes,
                 const Attention *shape, int head);
} AttentionKernels;

typedef struct {
    const char *name;
    size_t act_bytes;
    int vector; /* floats of one vector */
    /* z (n) to gelu(z), in place or not; and dz = dy * gelu'(z), in place or not */
    void (*gelu)(float *y, const float *z, size_t n);
    void (*gelu_grad)(float *dz, const float *dy, const Act *z, size_t n);
    void (*widen)(float *y, const Act *x, size_t n);
    /* rows [from, to) of the operations of the same name in ops.h; s (H) is scratch */
    void (*embed)(Act *y, const float *table, const int32_t *ids, int from, int to, int H);
    void (*norm)(Act *y, Act *xhat, float *rstd, const Act *x, const Act *r, const float *w, const float *b,
                 const Dropout *drop, int from, int to, int H, float eps, float *s);
    void (*norm_grad)(float *dx, float *dr, float *dw, float *db, const float *dy, const Act *xhat,
                      const float *rstd, const float *w, const Dropout *drop, int from, int to, int H);
    void (*dropout)(Act *y, const Act *x, const Dropout *drop, int from, int to, int H);
    void (*bias)(float *y, const float *b, int from, int to, int O); /* y[n] += b */
    void (*column_sums)(float *sums, const float *x, int N, int O, int from,
                        int to); /* += over columns [from, to) */
    /* What becomes of a block of a product, c (rows, cols) with ldc numbers to a row: y = c + bias, pre NULL; else pre =
     * c + bias, y = gelu(pre). Rows of y and pre are `stride` apart. */
    void (*linear_out)(Act *y, Act *pre, size_t stride, const float *c, size_t ldc, const float *bias,
                       int rows, int cols);
    void (*rows_out)(float *y, size_t stride, const float *c, size_t ldc, int rows, int cols,
                     int add); /* y (+)= c */
    void (*adamw)(float *p, float *m, float *v, const float *g, size_t n, const AdamwRates *rates);
    double (*sumsq)(const float *x, size_t n);
    const AttentionKernels *attention;
} Kernels;

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
extern const Kernels kernels_bf16; /* avx512, activations in bfloat16: needs AVX512-BF16 as well */
extern const AttentionKernels kernels_attention_bf16_floats; /* the same with products of floats */
#endif

#endif
