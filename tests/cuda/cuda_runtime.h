/* tests/cuda/cuda_runtime.h - as much of NVIDIA's header of that name as model/ uses, for machines without a GPU.
 *
 * The host part is C. For C++ (a .cu file compiled as such) there is the device part too: kernels are ordinary functions
 * that emulator.cpp runs one block at a time, each thread of it as a fiber that gives way at barriers and at what a warp
 * does together. What a GPU would not forgive ends the program with a message: a barrier that not all threads reach, a
 * write past an allocation, a copy that was not waited for, host code that touches device memory. Memory that nobody
 * wrote holds 0xff bytes, which are NaN as float and as bfloat16.
 *
 * Environment: CUDA_EMULATOR_ORDER=reverse or =mixed runs the threads of a block in another order, and lets asynchronous
 * copies arrive at once instead of last; results that depend on it show a missing barrier. */
#ifndef TESTS_CUDA_RUNTIME_H
#define TESTS_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define CUDA_EMULATED  1
#define CUDART_VERSION 13000

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999
} cudaError_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrClockRate = 13,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMemoryClockRate = 36,
    cudaDevAttrGlobalMemoryBusWidth = 37,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

#define cudaStreamDefault      0x0
#define cudaStreamNonBlocking  0x1
#define cudaEventDefault       0x0
#define cudaEventDisableTiming 0x2

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock;
    int regsPerBlock, warpSize, maxThreadsPerBlock, major, minor, multiProcessorCount, l2CacheSize,
        integrated;
    int ECCEnabled, memoryBusWidth;
    size_t sharedMemPerMultiprocessor, sharedMemPerBlockOptin;
};
#ifndef __cplusplus
typedef struct cudaDeviceProp cudaDeviceProp;
#endif

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemset(void *p, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);

/* What the emulated device is; to be changed before it is first used. Compute capability 9.0, 132 multiprocessors,
 * 16 GiB unless changed. */
void emulator_device(int major, int minor, size_t memory_bytes);
/* Kernels launched since the program began. */
unsigned long emulator_launches(void);
/* 0: threads in ascending order; 1: descending; 2: another permutation each time a block is gone through. */
void emulator_order(int order);

#ifdef __cplusplus
} /* extern "C" */

#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__    static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
/* One block runs at a time. (Inside a template the section would clash with that of plain functions: take
 * CUDA_DYNAMIC_SHARED there.) */
#define __shared__ static __attribute__((section("emulated_shared")))

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
static inline int2 make_int2(int x, int y) {
    return {x, y};
}
static inline int4 make_int4(int x, int y, int z, int w) {
    return {x, y, z, w};
}
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

/* Of the fiber that runs. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* ---- what emulator.cpp does for kernels ---- */
/* Dynamic shared memory of the block. */
void *emulator_shared();
/* The whole block waits for each other here; file and line say whether it is the same barrier. `vote` is summed. */
int emulator_block(const char *file, int line, int vote);
/* A warp comes together; lane i's `mine` is in lanes[i] (NULL where the block has no such thread), and the last to
 * arrive calls combine (may be NULL) once for all. */
typedef void EmulatorCombine(void *const lanes[32], const void *arg);
void emulator_warp(const char *what, unsigned mask, void *mine, EmulatorCombine *combine, const void *arg);
/* With threads in ascending order an asynchronous copy arrives as late as it may, in the wait for its group; in other
 * orders at once. */
void emulator_copy(void *to, const void *from, int bytes, int bytes_read);
void emulator_copy_commit();
void emulator_copy_wait(int groups_left);
void emulator_run(const void *kernel, dim3 grid, dim3 block, size_t shared, void (*run)(void *), void *arg);

template <class... P, class... A>
static inline void emulator_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t,
                                   A... args) {
    auto body = [=] { kernel(args...); };
    emulator_run(
        reinterpret_cast<const void *>(kernel), grid, block, shared,
        [](void *p) { (*static_cast<decltype(body) *>(p))(); }, &body);
}

#define __syncthreads()        ((void)emulator_block(__FILE__, __LINE__, 0))
#define __syncthreads_or(x)    (emulator_block(__FILE__, __LINE__, (x) ? 1 : 0) != 0)
#define __syncthreads_count(x) emulator_block(__FILE__, __LINE__, (x) ? 1 : 0)
#define __syncthreads_and(x)   (emulator_block(__FILE__, __LINE__, (x) ? 0 : 1) == 0)
#define __threadfence()        ((void)0)
#define __threadfence_block()  ((void)0)
#define __CUDA_EMULATOR_ALL    0xffffffffu
#define __activemask()         __CUDA_EMULATOR_ALL

static inline void __syncwarp(unsigned mask = __CUDA_EMULATOR_ALL) {
    emulator_warp("__syncwarp", mask, NULL, NULL, NULL);
}

enum EmulatorShuffle { EMULATOR_INDEX, EMULATOR_UP, EMULATOR_DOWN, EMULATOR_XOR };
struct EmulatorShuffled {
    unsigned long long value, result;
    int by, width;
};
void emulator_shuffle(EmulatorShuffled *mine, unsigned mask, EmulatorShuffle how);

template <class T>
static inline T emulator_shuffled(unsigned mask, T value, int by, int width, EmulatorShuffle how) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    EmulatorShuffled s = {0, 0, by, width};
    memcpy(&s.value, &value, sizeof value);
    emulator_shuffle(&s, mask, how);
    memcpy(&value, &s.result, sizeof value);
    return value;
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return emulator_shuffled(mask, value, lane, width, EMULATOR_INDEX);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return emulator_shuffled(mask, value, (int)by, width, EMULATOR_UP);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return emulator_shuffled(mask, value, (int)by, width, EMULATOR_DOWN);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
    return emulator_shuffled(mask, value, by, width, EMULATOR_XOR);
}
unsigned __ballot_sync(unsigned mask, int predicate);
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, !predicate) == 0;
}

/* Fibers change places at waits alone, so these need no more than this. */
template <class T>
static inline T emulator_add(T *at, T by) {
    const T old = *at;
    *at = (T)(old + by);
    return old;
}
static inline float atomicAdd(float *at, float by) {
    return emulator_add(at, by);
}
static inline double atomicAdd(double *at, double by) {
    return emulator_add(at, by);
}
static inline int atomicAdd(int *at, int by) {
    return emulator_add(at, by);
}
static inline unsigned atomicAdd(unsigned *at, unsigned by) {
    return emulator_add(at, by);
}
static inline int atomicMin(int *at, int by) {
    const int old = *at;
    if (by < old) *at = by;
    return old;
}
static inline int atomicMax(int *at, int by) {
    const int old = *at;
    if (by > old) *at = by;
    return old;
}

template <class T>
static inline T __ldg(const T *p) {
    return *p;
}
#define __expf(x) expf(x) /* glibc has functions of these names */
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline float __frcp_rn(float x) {
    return 1.0f / x;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
template <class T, class F>
static inline T emulator_cast(F from) {
    static_assert(sizeof(T) == sizeof(F), "the same bits");
    T to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) {
    return emulator_cast<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return emulator_cast<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulator_cast<float>(x);
}
static inline float __int_as_float(int x) {
    return emulator_cast<float>(x);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int min(int a, int b) {
    return a < b ? a : b;
}
static inline int max(int a, int b) {
    return a > b ? a : b;
}

template <class T>
static inline cudaError_t cudaMalloc(T **p, size_t bytes) {
    return cudaMalloc(reinterpret_cast<void **>(p), bytes);
}
template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
#endif /* __cplusplus */
#endif
