/* model/gemm.h - matrix products C (M,N) = A (M,K) B (K,N) with float sums, on operands that were packed for the
 * registers: in float on x86 processors with AVX2 or AVX-512, in bfloat16 on those with AVX512-BF16 or AMX.
 *
 * Packed A: groups of kernel->rows rows, each group in chunks of kernel->depth columns: (group, chunk, row, depth). A chunk
 * of a row is one cache line, so that a group is read from one end to the other.
 * Packed B: panels of GEMM_PANEL columns; in float (panel, K, 16), in bfloat16 pairs of rows side by side (panel, K / 2, 16,
 * 2): that is what both instructions multiply with, a pair of neighbours in K times a pair, added to one sum.
 * M is padded to whole groups, N to an even number of panels, K to whole chunks, all with zeros, so that the kernels
 * know no edges.
 *
 * Numbers: bfloat16 operands are rounded half to even (subnormals to zero), and their products are exact in float; the order
 * of a sum depends on K alone, so results depend neither on how C is cut into blocks nor on threads. */
#ifndef MODEL_GEMM_H
#define MODEL_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GEMM_PANEL = 16, GEMM_LINE = 64 /* bytes of a chunk of a row */ };

/* Strides are numbers from a row of x to the next one; `next` is bytes from a panel of B, or a group of A, to the next
 * one. */
typedef struct {
    const char *name;
    int rows, depth; /* of a register block, which is two panels wide; numbers of a chunk */
    int bytes;       /* of a packed number, and of an activation */
    /* c[i * ldc + j] (+)= sum_k a(i,k) b(k,j) over rows x 2 panels, `chunks` deep */
    void (*block)(float *c, size_t ldc, const void *a, const void *b, size_t next, int chunks, bool add);
    /* Around the blocks of a thread's task; NULL: nothing to do. */
    void (*begin)(void);
    void (*end)(void);

    /* A = x (M,K), floats or activations; whole groups, whole chunks */
    void (*pack_a)(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows);
    void (*pack_a_act)(void *to, size_t next, const void *x, size_t stride, int M, int K, int rows);
    /* A = x^T, x (K,M); sums[m] = sum_k x(k,m), of the numbers before rounding */
    void (*pack_a_transposed)(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows,
                              float *sums);
    /* Rows k0 .. k0 + K - 1 of B = x (K,N); k0 is even, K too unless they are the last rows. Pads to whole panels, and K
     * to pairs: where B ends within a chunk, the chunk's rest must be zero already. */
    void (*pack_b)(void *to, size_t next, const float *x, size_t stride, int k0, int K, int N);
    void (*pack_b_act)(void *to, size_t next, const void *x, size_t stride, int k0, int K, int N);
    /* One panel of B = x^T: x (N,K), N <= GEMM_PANEL */
    void (*pack_panel)(void *to, const float *x, size_t stride, int N, int K);
} GemmKernel;

/* The best for activations of so many bytes (4: float, 2: bfloat16) that this processor has and that has just multiplied
 * a small random product correctly on it (so that a hypervisor's half-truth about it costs speed and nothing else); NULL:
 * none. */
const GemmKernel *gemm_kernel(int bytes);

static inline int gemm_padded(int n, int to) {
    return (n + to - 1) / to * to;
}
/* Bytes from a panel of B to the next one, and of packed operands. */
static inline size_t gemm_b_next(const GemmKernel *g, int K) {
    return (size_t)gemm_padded(K, g->depth) * GEMM_PANEL * (size_t)g->bytes;
}
static inline size_t gemm_b_bytes(const GemmKernel *g, int K, int N) {
    return gemm_b_next(g, K) * (size_t)(gemm_padded(N, 2 * GEMM_PANEL) / GEMM_PANEL);
}
/* The same of A. */
static inline size_t gemm_a_next(const GemmKernel *g, int K) {
    return (size_t)gemm_padded(K, g->depth) * (size_t)(g->rows * g->bytes);
}
static inline size_t gemm_a_bytes(const GemmKernel *g, int M, int K) {
    return gemm_a_next(g, K) * (size_t)(gemm_padded(M, g->rows) / g->rows);
}

#endif
