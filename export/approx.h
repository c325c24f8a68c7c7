/* export/approx.h - exp and GELU from +, *, / and bit operations alone, so that an int8 router gives the same
 * bits on every machine (no libm, no fused multiply-add: compile with -ffp-contract=off) and the loops over
 * them vectorise. NaN stays NaN. */
#ifndef EXPORT_APPROX_H
#define EXPORT_APPROX_H

#include <stdint.h>
#include <string.h>

/* Adding it to |x| < 2^22 leaves x, rounded half to even, in the low bits. */
#define APPROX_ROUND 12582912.0f

/* e^x for x clamped to [-87, 88]; relative error below 3e-7.
 * e^x = 2^n e^r, |r| <= ln(2) / 2, with the polynomial of Cephes' expf (S. Moshier). */
static inline float approx_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + APPROX_ROUND, n = shifted - APPROX_ROUND;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + (127u - 0x4b400000u)) << 23; /* unsigned: a NaN's bits wrap and do no harm */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* x * (1 + erf(x / sqrt 2)) / 2, the exact form of GELU; absolute error below 1e-6 * max(1, |x|).
 * erfc by the Chebyshev fit of Press et al., Numerical Recipes 6.2 (relative error 1.2e-7). */
static inline float approx_gelu(float x) {
    const float size = x < 0.0f ? -x : x, z = (size > 18.0f ? 18.0f : size) * 0.707106781f;
    const float t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    const float tail = 0.5f * t * approx_exp(p - z * z);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

#endif
