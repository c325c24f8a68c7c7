/* model/gemm_f32.c - packing and the kernel of gemm.h in float, for AVX-512 and, compiled a second time, for AVX2. */
#include <string.h>

#include "core/simd.h"
#include "model/gemm_kernels.h"

enum { LINE = 16, PANELS = 2 }; /* floats of a cache line */

#if defined(__AVX512F__)
enum { ROWS = 8 };
#define KERNEL      gemm_kernel_avx512
#define KERNEL_NAME "avx512"

static inline V fused(V a, V b, V c) {
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#else
enum { ROWS = 4 }; /* times two vectors: as many sums as the unit's latency asks for */
#define KERNEL      gemm_kernel_avx2
#define KERNEL_NAME "avx2"

static inline V fused(V a, V b, V c) {
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
#endif

/* to[j * LINE + i] = from[i * stride + j], 16 x 16 */
static void transpose_line(float *to, const float *from, size_t stride) {
    for (int i = 0; i < LINE; i += W)
        for (int j = 0; j < LINE; j += W) {
            V m[W];
            for (int k = 0; k < W; k++) m[k] = load(from + (size_t)(i + k) * stride + j);
            transpose(m);
            for (int k = 0; k < W; k++) store(to + (j + k) * LINE + i, m[k]);
        }
}

/* n <= 16 numbers, the rest zero */
static void copy_line(float *to, const float *from, int n) {
    if (n >= LINE) {
        for (int i = 0; i < LINE; i += W) store(to + i, load(from + i));
        return;
    }
    for (int i = 0; i < LINE; i++) to[i] = i < n ? from[i] : 0;
}

/* ---- A ---- */

static void pack_a(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows) {
    GemmRows r = gemm_rows(to, next, rows);
    for (int m = 0; m < M; m++, x += stride, gemm_rows_step(&r))
        for (int k = 0; k < K; k += LINE) copy_line(gemm_rows_line(&r, k / LINE), x + k, K - k);
    gemm_rows_finish(&r, (K + LINE - 1) / LINE);
}

static void pack_a_act(void *to, size_t next, const void *x, size_t stride, int M, int K, int rows) {
    pack_a(to, next, x, stride, M, K, rows);
}

/* transpose of rows x cols <= 16 x 16 numbers, the rest zero. */
static void transpose_some(float *to, const float *from, size_t stride, int rows, int cols) {
    float in[LINE][LINE];
    if (rows >= LINE && cols >= LINE) {
        transpose_line(to, from, stride);
        return;
    }
    for (int i = 0; i < LINE; i++)
        copy_line(in[i], i < rows ? from + (size_t)i * stride : from, i < rows ? cols : 0);
    transpose_line(to, in[0], LINE);
}

/* sums (n) += columns of x (rows, n), n <= 16 */
static void add_columns(float *sums, const float *x, size_t stride, int rows, int n) {
    float sum[LINE], row[LINE];
    copy_line(sum, sums, n);
    for (int i = 0; i < rows; i++) {
        copy_line(row, x + (size_t)i * stride, n);
        for (int j = 0; j < LINE; j += W) store(sum + j, load(sum + j) + load(row + j));
    }
    memcpy(sums, sum, (size_t)n * sizeof *sums);
}

/* Columns inside, so that rows of x are read from one end to the other. */
static void pack_a_transposed(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows,
                              float *sums) {
    float out[LINE * LINE];
    GemmRows r = gemm_rows(to, next, rows);
    for (int k = 0; k < K; k += LINE, x += LINE * stride) {
        r = gemm_rows(to, next, rows);
        for (int m = 0; m < M; m += LINE) {
            const int n = M - m < LINE ? M - m : LINE;
            transpose_some(out, x + m, stride, K - k, n);
            for (int i = 0; i < n; i++, gemm_rows_step(&r))
                copy_line(gemm_rows_line(&r, k / LINE), out + i * LINE, LINE);
            if (k == 0) memset(sums + m, 0, (size_t)n * sizeof *sums);
            add_columns(sums + m, x + m, stride, K - k < LINE ? K - k : LINE, n);
        }
    }
    gemm_rows_finish(&r, (K + LINE - 1) / LINE);
}

/* ---- B ---- */

static void pack_b(void *to, size_t next, const float *x, size_t stride, int k0, int K, int N) {
    for (int k = 0; k < K; k++, x += stride) {
        char *row = (char *)to + (size_t)(k0 + k) * GEMM_PANEL * sizeof(float);
        for (int n = 0; n < gemm_padded(N, PANELS * GEMM_PANEL); n += GEMM_PANEL, row += next)
            copy_line((float *)(void *)row, n < N ? x + n : x, n < N ? N - n : 0);
    }
}

static void pack_b_act(void *to, size_t next, const void *x, size_t stride, int k0, int K, int N) {
    pack_b(to, next, x, stride, k0, K, N);
}

static void pack_panel(void *to, const float *x, size_t stride, int N, int K) {
    for (int k = 0; k < K; k += LINE)
        transpose_some((float *)to + (size_t)k * GEMM_PANEL, x + k, stride, N, K - k);
}

/* ---- the kernel ---- */

/* Rows x `wide` vectors of sums, from column j of the two panels on. */
static inline __attribute__((always_inline)) void part(float *c, size_t ldc, const float *a, const float *b,
                                                       size_t panel, int chunks, bool add, int wide) {
    V sum[ROWS][PANELS * LINE / 16];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++) sum[i][j] = add ? load(c + (size_t)i * ldc + j * W) : splat(0);
    for (; chunks > 0; chunks--, a += ROWS * LINE, b += LINE * GEMM_PANEL) {
#pragma GCC unroll 4
        for (int k = 0; k < LINE; k++) {
            V column[PANELS];
            for (int j = 0; j < wide; j++)
                column[j] = load(b + (W == 16 ? (size_t)j * panel : (size_t)j * W) + k * GEMM_PANEL);
            for (int i = 0; i < ROWS; i++) {
                const V row = splat(a[i * LINE + k]);
                for (int j = 0; j < wide; j++) sum[i][j] = fused(row, column[j], sum[i][j]);
            }
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++) store(c + (size_t)i * ldc + j * W, sum[i][j]);
}

/* AVX-512 holds both panels of a block in its registers, AVX2 one. */
static void block(float *c, size_t ldc, const void *a, const void *b, size_t next, int chunks, bool add) {
    const size_t panel = next / sizeof(float);
    part(c, ldc, a, b, panel, chunks, add, PANELS);
    if ((int)W < (int)LINE)
        part(c + GEMM_PANEL, ldc, a, (const float *)b + panel, panel, chunks, add, PANELS);
}

const GemmKernel KERNEL = {.name = KERNEL_NAME,
                           .rows = ROWS,
                           .depth = LINE,
                           .bytes = sizeof(float),
                           .block = block,
                           .pack_a = pack_a,
                           .pack_a_act = pack_a_act,
                           .pack_a_transposed = pack_a_transposed,
                           .pack_b = pack_b,
                           .pack_b_act = pack_b_act,
                           .pack_panel = pack_panel};
