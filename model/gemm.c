#include "model/gemm.h"

#include <math.h>
#include <string.h>

#include "core/cpu.h"
#include "core/rng.h"
#include "model/gemm_kernels.h"

#if defined(__x86_64__)

/* A product of two register blocks by two, several chunks deep, in two calls: against sums in double. */
bool gemm_kernel_works(const GemmKernel *kernel) {
    enum { M = 64, N = 64, K = 4 * GEMM_DEPTH, HALF = K / 2 };
    float a[M * K], b[N * K], c[M * N];
    uint16_t packed_a[2][M * HALF], packed_b[N * K];
    for (size_t i = 0; i < M * K; i++)
        a[i] = (float)((int)(rng_bits(1, i) % 255) - 127) / 64; /* exact in bfloat16 */
    for (size_t i = 0; i < N * K; i++) b[i] = (float)((int)(rng_bits(2, i) % 255) - 127) / 64;
    const size_t next = gemm_b_next(K);
    for (int h = 0; h < 2; h++) gemm_pack_a(packed_a[h], a + h * HALF, K, M, HALF, kernel->rows);
    for (int n = 0; n < N; n += GEMM_PANEL)
        gemm_pack_panel_transposed(packed_b + (size_t)(n / GEMM_PANEL) * next, b + (size_t)n * K, K,
                                   GEMM_PANEL, K);
    if (kernel->begin) kernel->begin();
    for (int h = 0; h < 2; h++)
        for (int m = 0; m < M; m += kernel->rows)
            for (int n = 0; n < N; n += 2 * GEMM_PANEL)
                kernel->block(c + m * N + n, N, packed_a[h] + (size_t)m * HALF,
                              packed_b + (size_t)(n / GEMM_PANEL) * next + (size_t)h * HALF * GEMM_PANEL,
                              next, HALF / GEMM_DEPTH, h > 0);
    if (kernel->end) kernel->end();
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)a[m * K + k] * (double)b[n * K + k];
            if (!(fabs((double)c[m * N + n] - sum) <= 1e-3))
                return false; /* sums of 128 numbers below 4, in float */
        }
    return true;
}

const GemmKernel *gemm_kernel(const char *name) {
    static const struct {
        const GemmKernel *kernel;
        unsigned needs;
    } ALL[] = {{&gemm_kernel_amx, CPU_AMX_BF16 | CPU_AVX512_BF16},
               {&gemm_kernel_avx512bf16, CPU_AVX512_BF16}};
    const unsigned has = cpu_features();
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        if (name && strcmp(name, ALL[i].kernel->name) != 0) continue;
        if ((has & ALL[i].needs) == ALL[i].needs && gemm_kernel_works(ALL[i].kernel)) return ALL[i].kernel;
    }
    return NULL;
}

#else

const GemmKernel *gemm_kernel(const char *name) {
    (void)name;
    return NULL;
}

#endif
