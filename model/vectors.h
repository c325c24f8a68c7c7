/* model/vectors.h - what the files that are compiled once per instruction set (kernels.c, kernels_attention.c) share:
 * vectors of W floats by the compilers' vector types, whose width follows the instruction set, elementary
 * functions on them, dropout masks, and activations as vectors of floats. */
#ifndef MODEL_VECTORS_H
#define MODEL_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model/ops.h"

#ifdef KERNELS_BF16
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
typedef uint32_t VU __attribute__((vector_size(4 * W)));

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
/* A NaN in `a` stays, so that it reaches the loss and is noticed. */
static inline V vmin(V a, V b) {
    return either(b < a, b, a);
}
static inline V vmax(V a, V b) {
    return either(b > a, b, a);
}

/* n <= W values, the rest `fill`; whole vectors must not become calls of memcpy. */
static inline V load_some(const float *p, int n, float fill) {
    if (n == W) return load(p);
    V v = splat(fill);
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
static inline void store_some(float *p, V v, int n) {
    if (n == W)
        store(p, v);
    else
        memcpy(p, &v, (size_t)n * sizeof *p);
}

static inline float sum_of(V v) {
    float part[W], sum = 0;
    store(part, v);
    for (int width = W / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    sum = part[0];
    return sum;
}

/* e^x, relative error below 2e-7; x <= 88. Range reduction by ln 2 in two parts, degree-6 polynomial (Cephes
 * expf). */
static inline V vexp(V x) {
    x = vmax(vmin(x, splat(88.0f)), splat(-87.3f));
    const V magic = splat(12582912.0f); /* adding it rounds to the nearest integer */
    const V shifted = x * splat(1.44269504088896341f) + magic;
    const V n = shifted - magic;
    x = x - n * splat(0.693359375f);
    x = x - n * splat(-2.12194440e-4f);
    V y = splat(1.9875691500e-4f);
    y = y * x + splat(1.3981999507e-3f);
    y = y * x + splat(8.3334519073e-3f);
    y = y * x + splat(4.1665795894e-2f);
    y = y * x + splat(1.6666665459e-1f);
    y = y * x + splat(5.0000001201e-1f);
    y = y * x * x + x + splat(1.0f);
    return (V)((VI)y + ((VI)shifted << 23));
}

/* erf by the rational approximation x P(x^2) / Q(x^2) on [-4, 4] (Eigen's, absolute error below 3e-7). */
static inline V verf(V x) {
    x = vmax(vmin(x, splat(4.0f)), splat(-4.0f));
    const V s = x * x;
    V p = splat(-2.72614225801306e-10f);
    p = p * s + splat(2.77068142495902e-08f);
    p = p * s + splat(-2.10102402082508e-06f);
    p = p * s + splat(-5.69250639462346e-05f);
    p = p * s + splat(-7.34990630326855e-04f);
    p = p * s + splat(-2.95459980854025e-03f);
    p = p * s + splat(-1.60960333262415e-02f);
    V q = splat(-1.45660718464996e-05f);
    q = q * s + splat(-2.13374055278905e-04f);
    q = q * s + splat(-1.68282697438203e-03f);
    q = q * s + splat(-7.37332916720468e-03f);
    q = q * s + splat(-1.42647390514189e-02f);
    return x * p / q;
}

static inline V vgelu(V z) {
    return splat(0.5f) * z * (splat(1.0f) + verf(z * splat(0.70710678f)));
}

static inline V vgelu_slope(V z) {
    const V density = splat(0.39894228f) * vexp(splat(-0.5f) * z * z);
    return splat(0.5f) * (splat(1.0f) + verf(z * splat(0.70710678f))) + z * density;
}

/* ---- dropout ---- */

typedef struct {
    uint32_t low, high, limit;
    float scale;
} Mask;

static inline Mask mask_of(const Dropout *drop, uint64_t row) {
    const uint64_t key = ops_drop_row(drop->key, row);
    return (Mask){(uint32_t)key, (uint32_t)(key >> 32), ops_drop_limit(drop->p), 1 / (1 - drop->p)};
}

static inline VU iota(uint32_t from) {
    VU v;
    for (int i = 0; i < W; i++) v[i] = from + (uint32_t)i;
    return v;
}

/* ops_drop_bits on a vector of columns: `scale` where kept, 0 where dropped. */
static inline V mask_factor(const Mask *m, VU column) {
    VU x = m->low + column * 0x9e3779b1u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x += m->high;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    const VI keep = (VI)(x >= m->limit);
    return (V)((VI)splat(m->scale) & keep);
}

/* ---- activations: floats, or bfloat16 where the file is compiled with KERNELS_BF16 ---- */

#ifdef KERNELS_BF16
typedef uint16_t ActNumber;
typedef uint16_t VH __attribute__((vector_size(2 * W)));

static inline V act_load(const ActNumber *p) {
    VH h;
    memcpy(&h, p, sizeof h);
    return (V)(__builtin_convertvector(h, VU) << 16);
}
static inline V act_load_some(const ActNumber *p, int n) {
    if (n == W) return act_load(p);
    VH h = {0};
    memcpy(&h, p, (size_t)n * sizeof *p);
    return (V)(__builtin_convertvector(h, VU) << 16);
}
static inline void act_store_some(ActNumber *p, V v, int n) {
    const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    if (n == W)
        memcpy(p, &h, sizeof h);
    else
        memcpy(p, &h, (size_t)n * sizeof *p);
}
static inline void act_store(ActNumber *p, V v) {
    act_store_some(p, v, W);
}
#else
typedef float ActNumber;

static inline V act_load(const ActNumber *p) {
    return load(p);
}
static inline V act_load_some(const ActNumber *p, int n) {
    return load_some(p, n, 0);
}
static inline void act_store(ActNumber *p, V v) {
    store(p, v);
}
static inline void act_store_some(ActNumber *p, V v, int n) {
    store_some(p, v, n);
}
#endif

/* ---- the name of a table of kernels: kernels_ and what CMake calls this compilation ---- */

#define VECTORS_JOIN(a, b) a##b
#define VECTORS_NAME(a, b) VECTORS_JOIN(a, b)
#define VECTORS_QUOTE(x)   #x
#define VECTORS_TEXT(x)    VECTORS_QUOTE(x)

#endif
