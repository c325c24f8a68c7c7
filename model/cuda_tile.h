/* model/cuda_tile.h - what a warp does with tiles of bfloat16 and C++ has no words for: tensor cores, matrix loads from
 * shared memory, asynchronous copies. From compute capability 8.0 on. Where there is no GPU the same in plain code.
 *
 * Fragments as the PTX ISA lays them out, with g = lane / 4 and c = lane % 4 (pairs: lower half first):
 *   A (16 x 16)  a[0] = (g, 2c..) a[1] = (g+8, 2c..) a[2] = (g, 2c+8..) a[3] = (g+8, 2c+8..)
 *   B (16 x 8)   b[0] = (2c.., g) b[1] = (2c+8.., g)     that is, rows of B's transpose like rows of A
 *   C (16 x 8)   c[0], c[1] = (g, 2c..) c[2], c[3] = (g+8, 2c..) */
#ifndef MODEL_CUDA_TILE_H
#define MODEL_CUDA_TILE_H

#ifdef __cplusplus
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll") /* the next loop */
#else
#define UNROLL
#endif

/* Two floats to bfloat16, x in the lower half. */
static __device__ __forceinline__ uint32_t cuda_tile_pack(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

static __device__ __forceinline__ float cuda_tile_low(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

static __device__ __forceinline__ float cuda_tile_high(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

/* 2^x within 2 units in the last place; 0 at minus infinity. */
static __device__ __forceinline__ float cuda_tile_exp2(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

#ifndef __CUDA_ARCH__
#ifndef __CUDACC__
struct CudaTileMma {
    float *d;
    const uint32_t *a, *b;
};

static inline void cuda_tile_mma_all(void *const lanes[32], const void *) {
    float a[16][16], b[8][16];
    for (int l = 0; l < 32; l++) {
        const CudaTileMma *m = static_cast<const CudaTileMma *>(lanes[l]);
        const int g = l / 4, c = l % 4 * 2;
        for (int i = 0; i < 4; i++) {
            a[g + i % 2 * 8][c + i / 2 * 8] = cuda_tile_low(m->a[i]);
            a[g + i % 2 * 8][c + i / 2 * 8 + 1] = cuda_tile_high(m->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[g][c + i * 8] = cuda_tile_low(m->b[i]);
            b[g][c + i * 8 + 1] = cuda_tile_high(m->b[i]);
        }
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            float *d = static_cast<CudaTileMma *>(lanes[l])->d + i, sum = *d;
            const float *x = a[l / 4 + i / 2 * 8], *y = b[l % 4 * 2 + i % 2];
            for (int k = 0; k < 16; k++) sum += x[k] * y[k];
            *d = sum;
        }
}

struct CudaTileLoad {
    uint32_t *r;
    const void *row;
};

/* arg: number of matrices, negative when they are transposed */
static inline void cuda_tile_load_all(void *const lanes[32], const void *arg) {
    const int count = *static_cast<const int *>(arg), matrices = count < 0 ? -count : count;
    for (int m = 0; m < matrices; m++)
        for (int l = 0; l < 32; l++) {
            uint16_t pair[2];
            for (int h = 0; h < 2; h++) {
                const int row = count < 0 ? l % 4 * 2 + h : l / 4, column = count < 0 ? l / 4 : l % 4 * 2 + h;
                const CudaTileLoad *from = static_cast<const CudaTileLoad *>(lanes[m * 8 + row]);
                pair[h] = static_cast<const uint16_t *>(from->row)[column];
            }
            static_cast<CudaTileLoad *>(lanes[l])->r[m] = pair[0] | (uint32_t)pair[1] << 16;
        }
}
#endif
#endif

/* d += a b */
static __device__ __forceinline__ void cuda_tile_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                     uint32_t b1) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
#elif !defined(__CUDACC__)
    const uint32_t b[2] = {b0, b1};
    CudaTileMma m = {d, a, b};
    emulator_warp("mma", 0xffffffffu, &m, cuda_tile_mma_all, NULL);
#endif
}

/* Four 8 x 8 matrices: lanes 8m .. 8m+7 give the rows of matrix m (16 bytes each, so aligned, in shared memory);
 * r[m] is the lane's pair of it as in a fragment of A. */
static __device__ __forceinline__ void cuda_tile_load4(uint32_t (&r)[4], const void *row) {
#ifdef __CUDA_ARCH__
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#elif !defined(__CUDACC__)
    const int count = 4;
    CudaTileLoad load = {r, row};
    if ((uintptr_t)row % 16) __builtin_trap();
    emulator_warp("ldmatrix", 0xffffffffu, &load, cuda_tile_load_all, &count);
#endif
}

/* The same, each matrix transposed. */
static __device__ __forceinline__ void cuda_tile_load4_t(uint32_t (&r)[4], const void *row) {
#ifdef __CUDA_ARCH__
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#elif !defined(__CUDACC__)
    const int count = -4;
    CudaTileLoad load = {r, row};
    if ((uintptr_t)row % 16) __builtin_trap();
    emulator_warp("ldmatrix.trans", 0xffffffffu, &load, cuda_tile_load_all, &count);
#endif
}

/* 16 bytes to shared memory, there after the wait for the group; zeros where they are not `valid` (`from` has to be an
 * address that could be read all the same). */
static __device__ __forceinline__ void cuda_tile_copy16(void *to, const void *from, bool valid) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
#endif
#elif !defined(__CUDACC__)
    emulator_copy(to, from, 16, valid ? 16 : 0);
#endif
}

/* Ends a group of copies. */
static __device__ __forceinline__ void cuda_tile_commit(void) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#elif !defined(__CUDACC__)
    emulator_copy_commit();
#endif
}

/* Until no more than so many of this thread's groups are under way; other threads' need a barrier after it. */
template <int GROUPS_LEFT>
static __device__ __forceinline__ void cuda_tile_wait(void) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
#endif
#elif !defined(__CUDACC__)
    emulator_copy_wait(GROUPS_LEFT);
#endif
}
#endif
#endif
