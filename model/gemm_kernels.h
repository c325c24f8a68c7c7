/* model/gemm_kernels.h - the kernels that gemm_kernel() chooses from. */
#ifndef MODEL_GEMM_KERNELS_H
#define MODEL_GEMM_KERNELS_H

#include <string.h>

#include "model/gemm.h"

extern const GemmKernel gemm_kernel_avx2, gemm_kernel_avx512; /* float */
extern const GemmKernel gemm_kernel_avx512bf16, gemm_kernel_amx;
extern const GemmKernel gemm_kernel_amx_emulated; /* the same code over tiles in plain C: tests only */

/* Fills in the packing of bfloat16 kernels, which needs AVX512-BF16. */
#define GEMM_BF16_PACKING                                                                    \
    .depth = 32, .bytes = 2, .pack_a = gemm_bf16_pack_a, .pack_a_act = gemm_bf16_pack_a_act, \
    .pack_a_transposed = gemm_bf16_pack_a_transposed, .pack_b = gemm_bf16_pack_b,            \
    .pack_b_act = gemm_bf16_pack_b_act, .pack_panel = gemm_bf16_pack_panel
void gemm_bf16_pack_a(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows);
void gemm_bf16_pack_a_act(void *to, size_t next, const void *x, size_t stride, int M, int K, int rows);
void gemm_bf16_pack_a_transposed(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows,
                                 float *sums);
void gemm_bf16_pack_b(void *to, size_t next, const float *x, size_t stride, int k0, int K, int N);
void gemm_bf16_pack_b_act(void *to, size_t next, const void *x, size_t stride, int k0, int K, int N);
void gemm_bf16_pack_panel(void *to, const float *x, size_t stride, int N, int K);

/* Walks down the rows of a packed A: chunk c of the row lies c * rows lines behind its first one. */
typedef struct {
    char *at; /* the row's first line */
    int row, rows;
    size_t group; /* bytes from a group's last row to the next group's first */
} GemmRows;

static inline GemmRows gemm_rows(void *to, size_t next, int rows) {
    return (GemmRows){to, 0, rows, next - (size_t)(rows - 1) * GEMM_LINE};
}
static inline void gemm_rows_step(GemmRows *r) {
    if (++r->row < r->rows) {
        r->at += GEMM_LINE;
    } else {
        r->row = 0;
        r->at += r->group;
    }
}
static inline void *gemm_rows_line(const GemmRows *r, int chunk) {
    return r->at + (size_t)chunk * (size_t)r->rows * GEMM_LINE;
}
/* Zeros for the rest of a group that has been begun. */
static inline void gemm_rows_finish(GemmRows *r, int chunks) {
    for (; r->row; gemm_rows_step(r))
        for (int c = 0; c < chunks; c++) memset(gemm_rows_line(r, c), 0, GEMM_LINE);
}

/* Compares a kernel with plain sums on a random product of several blocks and chunks. */
bool gemm_kernel_works(const GemmKernel *kernel);

#endif
