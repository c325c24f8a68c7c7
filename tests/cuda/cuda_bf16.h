/* tests/cuda/cuda_bf16.h - as much of NVIDIA's header of that name as model/ uses; see cuda_runtime.h beside it. */
#ifndef TESTS_CUDA_BF16_H
#define TESTS_CUDA_BF16_H

#ifdef __cplusplus
#include <cuda_runtime.h>

struct alignas(2) __nv_bfloat16 {
    unsigned short bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y; /* x is the lower half */
};

/* half to even; NaN stays one */
static inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    const unsigned u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(unsigned short)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16(float f) {
    return __float2bfloat16_rn(f);
}
static inline float __bfloat162float(__nv_bfloat16 b) {
    return __uint_as_float((unsigned)b.bits << 16);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 f) {
    return __floats2bfloat162_rn(f.x, f.y);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 b) {
    return {__bfloat162float(b.x), __bfloat162float(b.y)};
}
static inline float __low2float(__nv_bfloat162 b) {
    return __bfloat162float(b.x);
}
static inline float __high2float(__nv_bfloat162 b) {
    return __bfloat162float(b.y);
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
    return {x, y};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) {
    return b.bits;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    return {bits};
}
#endif
#endif
