#include "model/gemm.h"

#include <math.h>

#include "core/cpu.h"
#include "core/rng.h"
#include "model/gemm_kernels.h"

#if defined(__x86_64__)

/* A product of several register blocks, several chunks deep, in two calls: against sums in double. */
bool gemm_kernel_works(const GemmKernel *g) {
    enum { M = 96, N = 64, K = 128, HALF = K / 2 };
    float a[M * K], b[N * K], c[M * N];
    float packed_a[2][M * HALF], packed_b[N * K]; /* room for floats */
    for (size_t i = 0; i < M * K; i++)
        a[i] = (float)((int)(rng_bits(1, i) % 255) - 127) / 64; /* exact in bfloat16 */
    for (size_t i = 0; i < N * K; i++) b[i] = (float)((int)(rng_bits(2, i) % 255) - 127) / 64;
    const size_t next = gemm_b_next(g, K), bytes = (size_t)g->bytes;
    for (int h = 0; h < 2; h++)
        g->pack_a(packed_a[h], gemm_a_next(g, HALF), a + h * HALF, K, M, HALF, g->rows);
    for (int n = 0; n < N; n += GEMM_PANEL)
        g->pack_panel((char *)packed_b + (size_t)(n / GEMM_PANEL) * next, b + (size_t)n * K, K, GEMM_PANEL,
                      K);
    if (g->begin) g->begin();
    for (int h = 0; h < 2; h++)
        for (int m = 0; m < M; m += g->rows)
            for (int n = 0; n < N; n += 2 * GEMM_PANEL)
                g->block(c + m * N + n, N, (const char *)packed_a[h] + (size_t)m * HALF * bytes,
                         (const char *)packed_b + (size_t)(n / GEMM_PANEL) * next +
                             (size_t)h * HALF * GEMM_PANEL * bytes,
                         next, HALF / g->depth, h > 0);
    if (g->end) g->end();
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)a[m * K + k] * (double)b[n * K + k];
            if (!(fabs((double)c[m * N + n] - sum) <= 1e-3))
                return false; /* sums of 128 numbers below 4, in float */
        }
    return true;
}

const GemmKernel *gemm_kernel(int bytes) {
    static const struct {
        const GemmKernel *kernel;
        unsigned needs;
    } ALL[] = {{&gemm_kernel_amx, CPU_AMX_BF16 | CPU_AVX512_BF16},
               {&gemm_kernel_avx512bf16, CPU_AVX512_BF16},
               {&gemm_kernel_avx512, CPU_AVX512},
               {&gemm_kernel_avx2, CPU_AVX2}};
    const unsigned has = cpu_features();
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        const GemmKernel *g = ALL[i].kernel;
        if (g->bytes == bytes && (has & ALL[i].needs) == ALL[i].needs && gemm_kernel_works(g)) return g;
    }
    return NULL;
}

#else

const GemmKernel *gemm_kernel(int bytes) {
    (void)bytes;
    return NULL;
}

#endif
