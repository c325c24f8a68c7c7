/* model/gemm_f32.c - packing and the kernel of gemm.h in float, for AVX-512 and, compiled a second time, for AVX2. */
#include <immintrin.h>
#include <string.h>

#include "model/gemm_kernels.h"

enum { LINE = 16, PANELS = 2 }; /* floats of a cache line */

#if defined(__AVX512F__)

enum { ROWS = 8, W = 16 };
typedef __m512 V;
#define LOAD(p)      _mm512_loadu_ps(p)
#define STORE(p, v)  _mm512_storeu_ps(p, v)
#define ZERO()       _mm512_setzero_ps()
#define SPLAT(x)     _mm512_set1_ps(x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define KERNEL       gemm_kernel_avx512
#define KERNEL_NAME  "avx512"

/* to[j * LINE + i] = from[i * stride + j], 16 x 16 */
static void transpose(float *to, const float *from, size_t stride) {
    __m512 t[LINE], r[LINE];
    for (int i = 0; i < LINE; i += 2) {
        const __m512 a = LOAD(from + (size_t)i * stride), b = LOAD(from + (size_t)(i + 1) * stride);
        t[i] = _mm512_unpacklo_ps(a, b);
        t[i + 1] = _mm512_unpackhi_ps(a, b);
    }
    for (int i = 0; i < LINE; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        STORE(to + i * LINE, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
        STORE(to + (i + 4) * LINE, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
        STORE(to + (i + 8) * LINE, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
        STORE(to + (i + 12) * LINE, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

#else

enum { ROWS = 4, W = 8 }; /* 4 x 2 sums: as many as the unit's latency asks for */
typedef __m256 V;
#define LOAD(p)      _mm256_loadu_ps(p)
#define STORE(p, v)  _mm256_storeu_ps(p, v)
#define ZERO()       _mm256_setzero_ps()
#define SPLAT(x)     _mm256_set1_ps(x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define KERNEL       gemm_kernel_avx2
#define KERNEL_NAME  "avx2"

/* One quarter: 8 x 8 */
static void transpose_part(float *to, const float *from, size_t stride) {
    __m256 t[8], r[8];
    for (int i = 0; i < 8; i += 2) {
        const __m256 a = LOAD(from + (size_t)i * stride), b = LOAD(from + (size_t)(i + 1) * stride);
        t[i] = _mm256_unpacklo_ps(a, b);
        t[i + 1] = _mm256_unpackhi_ps(a, b);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        STORE(to + i * LINE, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        STORE(to + (i + 4) * LINE, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* to[j * LINE + i] = from[i * stride + j], 16 x 16 */
static void transpose(float *to, const float *from, size_t stride) {
    for (int i = 0; i < LINE; i += 8)
        for (int j = 0; j < LINE; j += 8)
            transpose_part(to + j * LINE + i, from + (size_t)i * stride + j, stride);
}

#endif

/* n <= 16 numbers, the rest zero */
static void copy_line(float *to, const float *from, int n) {
    if (n >= LINE) {
        for (int i = 0; i < LINE; i += W) STORE(to + i, LOAD(from + i));
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
        transpose(to, from, stride);
        return;
    }
    for (int i = 0; i < LINE; i++)
        copy_line(in[i], i < rows ? from + (size_t)i * stride : from, i < rows ? cols : 0);
    transpose(to, in[0], LINE);
}

/* sums (n) += columns of x (rows, n), n <= 16 */
static void add_columns(float *sums, const float *x, size_t stride, int rows, int n) {
    float sum[LINE], row[LINE];
    copy_line(sum, sums, n);
    for (int i = 0; i < rows; i++) {
        copy_line(row, x + (size_t)i * stride, n);
        for (int j = 0; j < LINE; j += W) STORE(sum + j, LOAD(sum + j) + LOAD(row + j));
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
        for (int j = 0; j < wide; j++) sum[i][j] = add ? LOAD(c + (size_t)i * ldc + j * W) : ZERO();
    for (; chunks > 0; chunks--, a += ROWS * LINE, b += LINE * GEMM_PANEL) {
#pragma GCC unroll 4
        for (int k = 0; k < LINE; k++) {
            V column[PANELS];
            for (int j = 0; j < wide; j++)
                column[j] = LOAD(b + (W == 16 ? (size_t)j * panel : (size_t)j * W) + k * GEMM_PANEL);
            for (int i = 0; i < ROWS; i++) {
                const V row = SPLAT(a[i * LINE + k]);
                for (int j = 0; j < wide; j++) sum[i][j] = FMA(row, column[j], sum[i][j]);
            }
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < wide; j++) STORE(c + (size_t)i * ldc + j * W, sum[i][j]);
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
