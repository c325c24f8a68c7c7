/* model/gemm.h - products of bfloat16 matrices with float sums, C (M,N) = A (M,K) B (K,N), on operands that were packed
 * for the registers. What x86 processors with AVX512-BF16 or AMX have; nothing here may be called on others.
 *
 * Packed A: groups of kernel->rows rows, each group in chunks of GEMM_DEPTH columns: (group, chunk, row, 32). A chunk of
 * a row is one cache line, so that a group is read from one end to the other.
 * Packed B: panels of GEMM_PANEL columns, pairs of rows side by side: (panel, K / 2, 16, 2). That is what both
 * instructions multiply with: a pair of neighbours in K times a pair, added to one sum.
 * M is padded to whole groups, N to an even number of panels, K to whole chunks, all with zeros, so that the kernels
 * know no edges.
 *
 * Numbers: operands are rounded to bfloat16 half to even (subnormals to zero); products are exact in float; the order
 * of a sum depends on K alone, so results depend neither on how C is cut into blocks nor on threads. */
#ifndef MODEL_GEMM_H
#define MODEL_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GEMM_PANEL = 16, GEMM_DEPTH = 32 };

typedef struct {
    const char *name;
    int rows; /* of a register block, which is two panels wide */
    /* c[i * ldc + j] (+)= sum_k a(i,k) b(k,j) over rows x 2 panels, `chunks` deep. next: numbers from a panel to the
     * next one. */
    void (*block)(float *c, size_t ldc, const uint16_t *a, const uint16_t *b, size_t next, int chunks,
                  bool add);
    /* Around the blocks of a thread's task; NULL: nothing to do. */
    void (*begin)(void);
    void (*end)(void);
} GemmKernel;

/* The best that this processor has and that has just multiplied a small random product correctly on it (so that a
 * hypervisor's half-truth about it costs speed and nothing else); NULL: none. name: only that one ("avx512bf16",
 * "amx"). */
const GemmKernel *gemm_kernel(const char *name);

static inline int gemm_padded(int n, int to) {
    return (n + to - 1) / to * to;
}
/* Numbers of a packed operand. */
static inline size_t gemm_a_size(int M, int K, int rows) {
    return (size_t)gemm_padded(M, rows) * (size_t)gemm_padded(K, GEMM_DEPTH);
}
static inline size_t gemm_b_size(int K, int N) {
    return (size_t)gemm_padded(N, 2 * GEMM_PANEL) * (size_t)gemm_padded(K, GEMM_DEPTH);
}
/* From a panel to the next one. */
static inline size_t gemm_b_next(int K) {
    return (size_t)gemm_padded(K, GEMM_DEPTH) * GEMM_PANEL;
}

/* ---- packing; stride: numbers from a row of x to the next one ---- */

/* A = x (M,K), in float or in bfloat16. */
void gemm_pack_a(uint16_t *to, const float *x, size_t stride, int M, int K, int rows);
void gemm_pack_a_bf16(uint16_t *to, const uint16_t *x, size_t stride, int M, int K, int rows);
/* A = x^T, x (K,M); sums[m] += sum_k x(k,m), from the numbers before rounding, if sums is not NULL. */
void gemm_pack_a_transposed(uint16_t *to, const float *x, size_t stride, int M, int K, int rows, float *sums);

/* Rows k0 .. k0 + K - 1 of B = x (K,N), in float or in bfloat16; k0 is even, K too unless they are the last rows. next as
 * above. Pads to whole panels, and K to whole pairs: where K ends within a chunk, its rest must be zero already. */
void gemm_pack_b(uint16_t *to, size_t next, const float *x, size_t stride, int k0, int K, int N);
void gemm_pack_b_bf16(uint16_t *to, size_t next, const uint16_t *x, size_t stride, int k0, int K, int N);
/* One panel of B = x^T: x (N,K) with N <= GEMM_PANEL. */
void gemm_pack_panel_transposed(uint16_t *to, const float *x, size_t stride, int N, int K);

#endif
