/* model/gemm_bf16.c - packing for gemm.h, and its kernel for AVX512-BF16. Compiled with those instructions. */
#include <string.h>

#include "core/simd.h"
#include "model/gemm.h"
#include "model/gemm_kernels.h"

enum { LINE = 32, ROWS = 8, PANELS = 2 }; /* bfloat16 numbers of a cache line; a register block */

static __mmask16 mask16(int n) {
    return (__mmask16)(n >= W ? 0xffffu : (1u << n) - 1);
}
static __mmask32 mask32(int n) {
    return n >= LINE ? 0xffffffffu : (1u << n) - 1;
}

static __m512 floats(const float *p, int n) {
    return _mm512_maskz_loadu_ps(mask16(n < 0 ? 0 : n), p);
}

/* 32 numbers of which the first n count. */
static __m512i line(const float *p, int n) {
    return (__m512i)_mm512_cvtne2ps_pbh(floats(n > W ? p + W : p, n - W), floats(p, n));
}

/* Sixteen pairs: `low` in the lower halves, `high` in the upper ones. */
static __m512i pairs(__m512 low, __m512 high) {
    const __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
    const __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
    return _mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

/* ---- A ---- */

void gemm_bf16_pack_a(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows) {
    GemmRows r = gemm_rows(to, next, rows);
    for (int m = 0; m < M; m++, x += stride, gemm_rows_step(&r))
        for (int k = 0; k < K; k += LINE)
            _mm512_storeu_si512(gemm_rows_line(&r, k / LINE), line(x + k, K - k));
    gemm_rows_finish(&r, (K + LINE - 1) / LINE);
}

void gemm_bf16_pack_a_act(void *to, size_t next, const void *in, size_t stride, int M, int K, int rows) {
    const uint16_t *x = in;
    GemmRows r = gemm_rows(to, next, rows);
    for (int m = 0; m < M; m++, x += stride, gemm_rows_step(&r))
        for (int k = 0; k < K; k += LINE)
            _mm512_storeu_si512(gemm_rows_line(&r, k / LINE), _mm512_maskz_loadu_epi16(mask32(K - k), x + k));
    gemm_rows_finish(&r, (K + LINE - 1) / LINE);
}

/* Sixteen columns of up to 32 rows: pairs of rows, transposed. */
static void load_pairs(V r[W], __m512 *sum, const float *x, size_t stride, int rows, int n) {
    for (int p = 0; p < W; p++, x += 2 * stride) {
        const int left = rows - 2 * p;
        const __m512 low = left > 0 ? floats(x, n) : _mm512_setzero_ps();
        const __m512 high = left > 1 ? floats(x + stride, n) : _mm512_setzero_ps();
        *sum = _mm512_add_ps(*sum, _mm512_add_ps(low, high));
        r[p] = (V)pairs(low, high);
    }
    transpose(r);
}

/* Columns inside, so that rows of x are read from one end to the other. */
void gemm_bf16_pack_a_transposed(void *to, size_t next, const float *x, size_t stride, int M, int K, int rows,
                                 float *sums) {
    GemmRows r = gemm_rows(to, next, rows);
    for (int k = 0; k < K; k += LINE, x += LINE * stride) {
        r = gemm_rows(to, next, rows);
        for (int m = 0; m < M; m += W) {
            const int n = M - m < W ? M - m : W;
            __m512 sum = _mm512_setzero_ps();
            V lines[W];
            load_pairs(lines, &sum, x + m, stride, K - k, n);
            for (int i = 0; i < n; i++, gemm_rows_step(&r)) store(gemm_rows_line(&r, k / LINE), lines[i]);
            _mm512_mask_storeu_ps(sums + m, mask16(n), k ? _mm512_add_ps(floats(sums + m, n), sum) : sum);
        }
    }
    gemm_rows_finish(&r, (K + LINE - 1) / LINE);
}

/* ---- B ---- */

void gemm_bf16_pack_b(void *out, size_t next, const float *x, size_t stride, int k0, int K, int N) {
    const int padded = gemm_padded(N, 2 * GEMM_PANEL);
    for (int k = 0; k < K; k += 2, x += 2 * stride) {
        char *row = (char *)out + (size_t)(k0 + k) * GEMM_PANEL * sizeof(uint16_t);
        for (int n = 0; n < padded; n += W, row += next) {
            const float *at = n < N ? x + n : x;
            const bool second = k + 1 < K;
            _mm512_storeu_si512(
                row, pairs(floats(at, N - n), floats(second ? at + stride : x, second ? N - n : 0)));
        }
    }
}

void gemm_bf16_pack_b_act(void *out, size_t next, const void *in, size_t stride, int k0, int K, int N) {
    const uint16_t *x = in;
    const int padded = gemm_padded(N, 2 * GEMM_PANEL);
    for (int k = 0; k < K; k += 2, x += 2 * stride) {
        char *row = (char *)out + (size_t)(k0 + k) * GEMM_PANEL * sizeof(uint16_t);
        for (int n = 0; n < padded; n += W, row += next) {
            const uint16_t *at = n < N ? x + n : x;
            const bool second = k + 1 < K;
            const __mmask16 some = mask16(N - n < 0 ? 0 : N - n);
            const __m256i low = _mm256_maskz_loadu_epi16(some, at);
            const __m256i high = _mm256_maskz_loadu_epi16(second ? some : 0, second ? at + stride : x);
            const __m512i pair = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                                 _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
            _mm512_storeu_si512(row, pair);
        }
    }
}

void gemm_bf16_pack_panel(void *out, const float *x, size_t stride, int N, int K) {
    uint16_t *to = out;
    for (int k = 0; k < K; k += LINE) {
        V r[W];
        for (int n = 0; n < W; n++) r[n] = n < N ? (V)line(x + (size_t)n * stride + k, K - k) : splat(0);
        transpose(r);
        for (int p = 0; p < W; p++) _mm512_storeu_ps(to + (size_t)k * GEMM_PANEL + p * LINE, (__m512)r[p]);
    }
}

/* ---- the kernel ---- */

/* 16 sums of 16 numbers: a pair of A, the same in all lanes, times a pair of each of 32 columns. Any block of this kind
 * keeps the unit busy as long as its sums are more than the instruction's latency. */
static void block(float *c, size_t ldc, const void *packed_a, const void *packed_b, size_t next, int chunks,
                  bool add) {
    const uint16_t *a = packed_a, *b = packed_b;
    const size_t panel = next / sizeof *b;
    __m512 sum[ROWS][PANELS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANELS; j++)
            sum[i][j] = add ? _mm512_loadu_ps(c + (size_t)i * ldc + j * W) : _mm512_setzero_ps();
    for (; chunks > 0; chunks--, a += ROWS * LINE, b += W * LINE) {
#pragma GCC unroll 4
        for (int p = 0; p < W; p++) {
            __m512bh column[PANELS];
            for (int j = 0; j < PANELS; j++)
                column[j] = (__m512bh)_mm512_loadu_si512(b + (size_t)j * panel + p * LINE);
            for (int i = 0; i < ROWS; i++) {
                int32_t pair;
                memcpy(&pair, a + i * LINE + 2 * p, sizeof pair);
                const __m512bh row = (__m512bh)_mm512_set1_epi32(pair);
                for (int j = 0; j < PANELS; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], column[j], row);
            }
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANELS; j++) _mm512_storeu_ps(c + (size_t)i * ldc + j * W, sum[i][j]);
}

const GemmKernel gemm_kernel_avx512bf16 = {
    .name = "avx512bf16", .rows = ROWS, .block = block, GEMM_BF16_PACKING};
