/* model/cuda_vectors.h - what the kernels of cuda_kernels.cu and cuda_update.cu read, write and add up with: numbers side by
 * side in one access of 16 bytes where pointers and rows allow it, sums over a warp and a block. */
#ifndef MODEL_CUDA_VECTORS_H
#define MODEL_CUDA_VECTORS_H

#ifdef __cplusplus
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

namespace {

typedef __nv_bfloat16 Bf16;

enum { WARP = 32 };

const unsigned ALL = 0xffffffffu;

/* ---- vectors ---- */

template <int W>
__device__ __forceinline__ void load(float (&out)[W], const float *p) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W / 4; i++) {
            const float4 f = reinterpret_cast<const float4 *>(p)[i];
            out[4 * i] = f.x;
            out[4 * i + 1] = f.y;
            out[4 * i + 2] = f.z;
            out[4 * i + 3] = f.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) out[i] = p[i];
    }
}

template <int W>
__device__ __forceinline__ void store(float *p, const float (&x)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W / 4; i++)
            reinterpret_cast<float4 *>(p)[i] =
                make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) p[i] = x[i];
    }
}

/* A pair in one register: the first in the lower half. */
__device__ __forceinline__ void unpack(float &first, float &second, unsigned pair) {
    first = __uint_as_float(pair << 16);
    second = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ unsigned pack(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

template <int W>
__device__ __forceinline__ void load(float (&out)[W], const Bf16 *p) {
    if constexpr (W == 8) {
        const uint4 u = *reinterpret_cast<const uint4 *>(p);
        unpack(out[0], out[1], u.x);
        unpack(out[2], out[3], u.y);
        unpack(out[4], out[5], u.z);
        unpack(out[6], out[7], u.w);
    } else if constexpr (W == 4) {
        const uint2 u = *reinterpret_cast<const uint2 *>(p);
        unpack(out[0], out[1], u.x);
        unpack(out[2], out[3], u.y);
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) out[i] = __bfloat162float(p[i]);
    }
}

template <int W>
__device__ __forceinline__ void store(Bf16 *p, const float (&x)[W]) {
    if constexpr (W == 8)
        *reinterpret_cast<uint4 *>(p) =
            make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
    else if constexpr (W == 4)
        *reinterpret_cast<uint2 *>(p) = make_uint2(pack(x[0], x[1]), pack(x[2], x[3]));
    else {
#pragma unroll
        for (int i = 0; i < W; i++) p[i] = __float2bfloat16_rn(x[i]);
    }
}

/* Whether rows of `columns` numbers are cut into whole vectors of W, all pointers (NULL too) being aligned to 16. */
inline bool aligned(int W, size_t columns, const void *a, const void *b = nullptr, const void *c = nullptr,
                    const void *d = nullptr, const void *e = nullptr, const void *f = nullptr) {
    const uintptr_t bits =
        (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d | (uintptr_t)e | (uintptr_t)f;
    return bits % 16 == 0 && columns % (size_t)W == 0;
}

inline unsigned blocks_of(size_t n, size_t each) {
    return (unsigned)((n + each - 1) / each);
}

/* ---- sums ---- */

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(ALL, x, lanes);
    return x;
}

/* Of all threads of the block, of which there are a power of two up to 1024; known to thread 0. */
__device__ inline double block_sum(double x) {
    __shared__ double sums[1024];
    sums[threadIdx.x] = x;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

} // namespace
#endif

#endif
