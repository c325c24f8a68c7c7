/* model/vectors.h - what kernels.c and kernels_attention.c share beside core/simd.h: elementary functions on vectors,
 * dropout masks, and activations as vectors of floats. */
#ifndef MODEL_VECTORS_H
#define MODEL_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/simd.h"
#include "model/ops.h"

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

/* Halves are added to halves, in every instruction set. */
static inline float sum_of(V v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float part[W], sum = 0;
    store(part, v);
    for (int width = W / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    sum = part[0];
    return sum;
#endif
}

static inline float most_of(V v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (int i = 1; i < W; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
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
    return (V)((VU)y + ((VU)shifted << 23)); /* unsigned: a NaN's bits wrap and do no harm */
}

/* 2^x, relative error below 2e-7; x < 127.5, and what is below -126 counts as -126. Degree-6 polynomial on
 * [-1/2, 1/2] (Cephes exp2f). */
static inline V vexp2(V x) {
    x = vmax(x, splat(-126.0f));
    const V magic = splat(12582912.0f);
    const V shifted = x + magic;
    x -= shifted - magic;
    V y = splat(1.535336188319500e-4f);
    y = y * x + splat(1.339887440266574e-3f);
    y = y * x + splat(9.618437357674640e-3f);
    y = y * x + splat(5.550332471162809e-2f);
    y = y * x + splat(2.402264791363012e-1f);
    y = y * x + splat(6.931472028550421e-1f);
    y = y * x + splat(1.0f);
    return (V)((VU)y + ((VU)shifted << 23)); /* unsigned: a NaN's bits wrap and do no harm */
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
    for (int i = 0; i < W; i++) v[i] = (uint32_t)i;
    return v + from; /* a constant and one addition */
}

/* ops_drop_bits on a vector of columns: all bits set where kept, none where dropped. */
static inline VI mask_keep(const Mask *m, VU column) {
    VU x = m->low + column * 0x9e3779b1u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x += m->high;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return (VI)(x >= m->limit);
}

/* `scale` where kept, 0 where dropped */
static inline V mask_factor(const Mask *m, VU column) {
    return (V)((VI)splat(m->scale) & mask_keep(m, column));
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

#endif
