/* model/gemm_kernels.h - the kernels that gemm_kernel() chooses from. */
#ifndef MODEL_GEMM_KERNELS_H
#define MODEL_GEMM_KERNELS_H

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

/* Compares a kernel with plain sums on a random product of several blocks and chunks. */
bool gemm_kernel_works(const GemmKernel *kernel);

#endif
