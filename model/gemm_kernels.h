/* model/gemm_kernels.h - the kernels that gemm_kernel() chooses from. */
#ifndef MODEL_GEMM_KERNELS_H
#define MODEL_GEMM_KERNELS_H

#include "model/gemm.h"

extern const GemmKernel gemm_kernel_avx512bf16;
extern const GemmKernel gemm_kernel_amx;
extern const GemmKernel gemm_kernel_amx_emulated; /* the same code over tiles in plain C: tests only */

/* Compares a kernel with plain sums on a random product of several blocks and chunks. */
bool gemm_kernel_works(const GemmKernel *kernel);

#endif
