/* tests/cuda/test_emulator.cpp - that kernels run here as they would on a GPU, and that their faults are found.
 * usage: test_emulator [fault]: one of "barrier", "different", "past", "host", "copy", which has to abort. */
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/cuda.h"
#include "model/cuda_tile.h"

static int failures;

#define CHECK(ok) \
    if (!(ok)) failures++, printf("FAIL %s:%d: %s\n", __FILE__, __LINE__, #ok)

/* Reverses each block's part by static, and adds it to itself by dynamic shared memory. */
static __global__ void __launch_bounds__(128) reverse(float *to, const float *from, int n) {
    __shared__ float part[128];
    CUDA_DYNAMIC_SHARED(bytes);
    float *other = (float *)bytes;
    const int t = (int)threadIdx.x, first = (int)(blockIdx.x * blockDim.x);
    if (part[t] == part[t] || other[t] == other[t]) to[0] = -1; /* poison is NaN */
    __syncthreads();
    part[t] = first + t < n ? from[first + t] : 0;
    other[t] = part[t];
    __syncthreads();
    const int at = (int)blockDim.x - 1 - t;
    if (first + t < n) to[first + t] = part[at] + other[at];
}

/* c (16,8) = a (16,16) b (16,8), with b read transposed by a matrix load. */
static __global__ void multiply(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b) {
    CUDA_DYNAMIC_SHARED(bytes);
    __nv_bfloat16 *sa = (__nv_bfloat16 *)bytes, *sb = sa + 16 * 24;
    const int lane = (int)threadIdx.x;
    cuda_tile_copy16(sa + lane / 2 * 24 + lane % 2 * 8, a + lane * 8, true);
    if (lane < 16) cuda_tile_copy16(sb + lane * 8, b + lane * 8, true);
    cuda_tile_commit();
    cuda_tile_wait<0>();
    __syncwarp();
    uint32_t x[4], y[4];
    float d[4] = {0, 0, 0, 0};
    cuda_tile_load4(x, sa + lane % 16 * 24 + lane / 16 * 8);
    cuda_tile_load4_t(y, sb + lane % 16 * 8); /* the last two matrices are the first two again */
    cuda_tile_mma(d, x, y[0], y[1]);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

static __global__ void warps(int *to) {
    const int t = (int)threadIdx.x;
    int sum = t;
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    const unsigned odd = __ballot_sync(0xffffffffu, t & 1);
    const int up = __shfl_up_sync(0xffffffffu, t, 1), from = __shfl_sync(0xffffffffu, t, 5, 8);
    to[t] = sum == (t / 32 * 1024 + 496) && odd == 0xaaaaaaaau && up == (t % 32 ? t - 1 : t) &&
            from == t / 8 * 8 + 5 && __syncthreads_count(t & 1) == (int)blockDim.x / 2;
    atomicAdd(to + blockDim.x, 1);
}

static __global__ void faulty(float *p, int n, int what) {
    CUDA_DYNAMIC_SHARED(bytes);
    const int t = (int)threadIdx.x;
    if (what == 0 && t == 3) return;
    if (what == 1 && t == 3)
        __syncthreads();
    else
        __syncthreads();
    if (what == 2) p[n + t] = 0;
    if (what == 4) cuda_tile_copy16(bytes + t * 16, p, true);
}

static void fault(int what) {
    float *p;
    cudaMalloc(&p, 1000);
    if (what == 3) p[0] = 0;
    CUDA_LAUNCH(faulty, 1, 32, 4096, NULL, p, 250, what);
    cudaFree(p);
}

int main(int argc, char **argv) {
    static const char *const FAULTS[] = {"barrier", "different", "past", "host", "copy"};
    for (int i = 0; argc > 1 && i < 5; i++)
        if (strcmp(argv[1], FAULTS[i]) == 0) {
            fault(i);
            printf("FAIL %s was not found\n", FAULTS[i]);
            return 0; /* the caller expects an abort */
        }
    enum { N = 1000 };
    static float host[N], back[N];
    float *from = NULL, *to = NULL, *c = NULL;
    int *votes = NULL;
    __nv_bfloat16 *a = NULL, *b = NULL, ha[256], hb[128];
    for (int i = 0; i < N; i++) host[i] = (float)i;
    CHECK(cudaMalloc(&from, sizeof host) == cudaSuccess && cudaMalloc(&to, sizeof host) == cudaSuccess);
    CHECK(cudaMemcpy(from, host, sizeof host, cudaMemcpyHostToDevice) == cudaSuccess);
    CUDA_LAUNCH(reverse, (N + 127) / 128, 128, 128 * sizeof(float), NULL, to, from, N);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaMemcpy(back, to, sizeof host, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (int i = 0; i < N; i++) {
        const int mirror = i / 128 * 128 + 127 - i % 128;
        CHECK(back[i] == (mirror < N ? 2 * (float)mirror : 0));
    }
    CHECK(cudaMemcpy(to, host, sizeof host, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
    CUDA_LAUNCH(reverse, 1, 2048, 0, NULL, to, from, N);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CUDA_LAUNCH(reverse, 1, 128, 60000, NULL, to, from, N);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000) == cudaSuccess);
    CUDA_LAUNCH(reverse, 1, 128, 60000, NULL, to, from, N);
    CHECK(cudaGetLastError() == cudaSuccess);

    for (int i = 0; i < 256; i++) ha[i] = __float2bfloat16((float)(i * 7 % 31 - 15));
    for (int i = 0; i < 128; i++) hb[i] = __float2bfloat16((float)(i * 5 % 29 - 14));
    CHECK(cudaMalloc(&a, sizeof ha) == cudaSuccess && cudaMalloc(&b, sizeof hb) == cudaSuccess &&
          cudaMalloc(&c, 128 * sizeof *c) == cudaSuccess);
    cudaMemcpy(a, ha, sizeof ha, cudaMemcpyHostToDevice);
    cudaMemcpy(b, hb, sizeof hb, cudaMemcpyHostToDevice);
    CUDA_LAUNCH(multiply, 1, 32, (16 * 24 + 128) * sizeof *a, NULL, c, a, b);
    cudaMemcpy(back, c, 128 * sizeof *c, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = 0;
            for (int k = 0; k < 16; k++)
                sum += __bfloat162float(ha[i * 16 + k]) * __bfloat162float(hb[k * 8 + j]);
            CHECK(back[i * 8 + j] == sum); /* whole numbers */
        }

    int counts[97];
    CHECK(cudaMalloc(&votes, sizeof counts) == cudaSuccess);
    cudaMemset(votes, 0, sizeof counts);
    CUDA_LAUNCH(warps, 1, 96, 0, NULL, votes);
    cudaMemcpy(counts, votes, sizeof counts, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 96; i++) CHECK(counts[i] == 1);
    CHECK(counts[96] == 96);
    CHECK(__float2bfloat16(1.00390625f).bits == 0x3f80 && __float2bfloat16(1.01171875f).bits == 0x3f82);
    emulator_device(9, 0, 1 << 20);
    float *much;
    CHECK(cudaMalloc(&much, 1 << 20) == cudaErrorMemoryAllocation);
    CHECK(cudaFree(a) == cudaSuccess && cudaFree(b) == cudaSuccess && cudaFree(c) == cudaSuccess &&
          cudaFree(votes) == cudaSuccess && cudaFree(from) == cudaSuccess && cudaFree(to) == cudaSuccess);
    printf(failures ? "%d failures\n" : "the emulator does as a GPU would\n", failures);
    return failures != 0;
}
