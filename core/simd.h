/* core/simd.h - vectors for the files that are compiled once per instruction set: W floats by the compilers' vector
 * types, as wide as the instruction set that the file is being compiled for. */
#ifndef CORE_SIMD_H
#define CORE_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { W = 16 }; /* floats of a vector */
#elif defined(__AVX2__)
enum { W = 8 };
#else
enum { W = 4 };
#endif

typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t VI __attribute__((vector_size(4 * W)));
typedef uint32_t VU __attribute__((vector_size(4 * W))); /* where a sum or a shift may overflow */

static inline V load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, V v) {
    memcpy(p, &v, sizeof v);
}
static inline V splat(float x) {
    return x - (V){0};
}
static inline V either(VI mask, V a, V b) {
    return (V)(((VI)a & mask) | ((VI)b & ~mask));
}
/* a < b ? a : b and a > b ? a : b, but where one is not a number, a: so that it is noticed. */
static inline V vmin(V a, V b) {
#if defined(__AVX512F__)
    return (V)_mm512_min_ps((__m512)b, (__m512)a);
#elif defined(__AVX2__)
    return (V)_mm256_min_ps((__m256)b, (__m256)a);
#else
    return either(b < a, b, a);
#endif
}
static inline V vmax(V a, V b) {
#if defined(__AVX512F__)
    return (V)_mm512_max_ps((__m512)b, (__m512)a);
#elif defined(__AVX2__)
    return (V)_mm256_max_ps((__m256)b, (__m256)a);
#else
    return either(b > a, b, a);
#endif
}

/* m[i][j] becomes m[j][i], whatever the 32 bits mean. */
static inline void transpose(V m[W]) {
#if defined(__AVX512F__)
    __m512 a[W], b[W];
    for (int i = 0; i < W; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)m[i], (__m512)m[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)m[i], (__m512)m[i + 1]);
    }
    for (int i = 0; i < W; i += 4) {
        for (int j = 0; j < 2; j++) {
            const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + 2 + j]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    /* b[4 g + c], 128-bit lane l: rows 4 g .. 4 g + 3 of column 4 l + c */
    for (int c = 0; c < 4; c++) {
        const __m512 x = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88),
                     y = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
        const __m512 z = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd),
                     w = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
        m[c] = (V)_mm512_shuffle_f32x4(x, y, 0x88);
        m[8 + c] = (V)_mm512_shuffle_f32x4(x, y, 0xdd);
        m[4 + c] = (V)_mm512_shuffle_f32x4(z, w, 0x88);
        m[12 + c] = (V)_mm512_shuffle_f32x4(z, w, 0xdd);
    }
#elif defined(__AVX2__)
    __m256 a[W], b[W];
    for (int i = 0; i < W; i += 2) {
        a[i] = _mm256_unpacklo_ps((__m256)m[i], (__m256)m[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps((__m256)m[i], (__m256)m[i + 1]);
    }
    for (int i = 0; i < W; i += 4) {
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0xee);
        }
    }
    for (int c = 0; c < 4; c++) {
        m[c] = (V)_mm256_permute2f128_ps(b[c], b[4 + c], 0x20);
        m[4 + c] = (V)_mm256_permute2f128_ps(b[c], b[4 + c], 0x31);
    }
#else
    for (int i = 0; i < W; i++)
        for (int j = 0; j < i; j++) {
            const float x = m[i][j];
            m[i][j] = m[j][i];
            m[j][i] = x;
        }
#endif
}

/* The name of a file's table of kernels in this compilation: SIMD_NAME(kernels_, KERNELS_SUFFIX). */
#define SIMD_JOIN(a, b) a##b
#define SIMD_NAME(a, b) SIMD_JOIN(a, b)
#define SIMD_QUOTE(x)   #x
#define SIMD_TEXT(x)    SIMD_QUOTE(x)

#endif
