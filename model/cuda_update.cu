/* model/cuda_update.cu - gradients to new weights: the norm of all, clipping, AdamW, and weights once more in bfloat16: see
 * cuda.h. */
#include "model/cuda.h"
#include "model/cuda_vectors.h"

namespace {

/* Which numbers a thread sums does not depend on whether it may read four at once. */
__global__ void __launch_bounds__(256) sumsq_kernel(double *partial, const float *x, size_t n, bool vectors) {
    double sum = 0;
    const size_t stride = (size_t)gridDim.x * 256 * 4;
    for (size_t i = ((size_t)blockIdx.x * 256 + threadIdx.x) * 4; i < n; i += stride) {
        float v[4] = {0};
        if (vectors && i + 4 <= n)
            load(v, x + i);
        else
            for (size_t k = 0; k < 4 && i + k < n; k++) v[k] = x[i + k];
#pragma unroll
        for (int k = 0; k < 4; k++) sum += (double)v[k] * (double)v[k];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void sumsq_fold_kernel(OpsNorm *norm, const double *partial, int count) {
    double sum = 0;
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) norm->sum += sum;
}

__global__ void clip_kernel(OpsNorm *norm, double most) {
    const double length = sqrt(norm->sum), clip = most > 0 ? most / (length + 1e-6) : 1;
    norm->norm = length;
    norm->sum = 0;
    norm->clip = !isfinite(length) ? (double)NAN : clip < 1 ? clip : 1;
}

/* What a step comes to, in float (lr is divided by bias1): what is rounded here is a few parts in 10^8 of a change, and p is rounded once. */
struct Rates {
    float clip, lr, decay, beta1, beta2, rest1, rest2, eps, per_bias2;
};

__device__ __forceinline__ void adamw(float &p, float &m, float &v, float g, const Rates &a) {
    const float d = g * a.clip;
    m = a.beta1 * m + a.rest1 * d;
    v = a.beta2 * v + a.rest2 * d * d;
    const float change = a.decay * p + a.lr * m / (sqrtf(v * a.per_bias2) + a.eps);
    p -= change;
}

/* CHUNK numbers a block, of the tensor whose blocks it is one of. */
enum { CHUNK = 8192, CHUNK_THREADS = 256 };

__device__ __forceinline__ int tensor_of(const CudaTensors &list) {
    int low = 0, high = list.count; /* the last whose first block is not beyond this one */
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (list.tensor[middle].first <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

template <int W>
__device__ __forceinline__ void adamw_at(const CudaTensor &t, size_t i, const Rates &rates) {
    float p[W], m[W], v[W], g[W], zero[W] = {0};
    load(p, t.p + i);
    load(m, t.m + i);
    load(v, t.v + i);
    load(g, t.g + i);
#pragma unroll
    for (int k = 0; k < W; k++) adamw(p[k], m[k], v[k], g[k], rates);
    store(t.p + i, p);
    store(t.m + i, m);
    store(t.v + i, v);
    store(t.g + i, zero);
    if (t.copy) store((Bf16 *)t.copy + i, p);
}

__device__ __forceinline__ bool lies_well(const CudaTensor &t) {
    const uintptr_t bits =
        (uintptr_t)t.p | (uintptr_t)t.m | (uintptr_t)t.v | (uintptr_t)t.g | (uintptr_t)t.copy * 2;
    return bits % 16 == 0;
}

__global__ void __launch_bounds__(CHUNK_THREADS) adamw_kernel(const __grid_constant__ CudaTensors list) {
    const double clip = list.norm->clip;
    if (isnan(clip)) return;
    const CudaTensor &t = list.tensor[tensor_of(list)];
    const Rates rates = {(float)clip, t.lr,       t.decay,  list.beta1,    list.beta2,
                         list.rest1,  list.rest2, list.eps, list.per_bias2};
    const size_t from = (size_t)(blockIdx.x - t.first) * CHUNK;
    const size_t end = from + CHUNK < t.n ? from + CHUNK : t.n;
    size_t i = from;
    if (lies_well(t)) {
        for (i += threadIdx.x * 4; i + 4 <= end; i += CHUNK_THREADS * 4) adamw_at<4>(t, i, rates);
        i = from + (end - from) / 4 * 4;
    }
    for (i += threadIdx.x; i < end; i += CHUNK_THREADS) adamw_at<1>(t, i, rates);
}

__global__ void __launch_bounds__(CHUNK_THREADS) narrow_kernel(const __grid_constant__ CudaTensors list) {
    const CudaTensor &t = list.tensor[tensor_of(list)];
    const size_t from = (size_t)(blockIdx.x - t.first) * CHUNK;
    const size_t end = from + CHUNK < t.n ? from + CHUNK : t.n;
    size_t i = from;
    if (((uintptr_t)t.p | (uintptr_t)t.copy) % 16 == 0) {
        for (i += threadIdx.x * 8; i + 8 <= end; i += CHUNK_THREADS * 8) {
            float p[8];
            load(p, t.p + i);
            store((Bf16 *)t.copy + i, p);
        }
        i = from + (end - from) / 8 * 8;
    }
    for (i += threadIdx.x; i < end; i += CHUNK_THREADS) ((Bf16 *)t.copy)[i] = __float2bfloat16_rn(t.p[i]);
}

/* A block for each row. */
__global__ void adamw_rows_kernel(AdamwRows a, const OpsNorm *norm, Rates rates) {
    const double clip = norm->clip;
    if (isnan(clip)) return;
    rates.clip = (float)clip;
    const int r = (int)blockIdx.x;
    if (a.boost) rates.lr *= a.boost[r];
    const int32_t slot = a.slot[r];
    float *p = a.table + (size_t)a.ids[r] * (size_t)a.H;
    const size_t at = (size_t)r * (size_t)a.H;
    for (int h = (int)threadIdx.x; h < a.H; h += (int)blockDim.x) {
        float value = r >= a.fresh ? (float)((double)p[h] * a.owed) : p[h];
        const float g = slot < 0 ? 0.0f : a.grad[(size_t)slot * (size_t)a.H + (size_t)h];
        adamw(value, a.m[at + h], a.v[at + h], g, rates);
        p[h] = value;
    }
}

/* Numbers the blocks of a list; returns how many. */
unsigned number_blocks(CudaTensors *list) {
    unsigned blocks = 0;
    for (int i = 0; i < list->count; i++) {
        list->tensor[i].first = blocks;
        blocks += blocks_of(list->tensor[i].n, CHUNK);
    }
    return blocks;
}

} // namespace

void cuda_adamw(cudaStream_t stream, CudaTensors *list) {
    const unsigned blocks = number_blocks(list);
    if (blocks > 0) CUDA_LAUNCH(adamw_kernel, blocks, CHUNK_THREADS, 0, stream, *list);
}

void cuda_narrow(cudaStream_t stream, CudaTensors *list) {
    const unsigned blocks = number_blocks(list);
    if (blocks > 0) CUDA_LAUNCH(narrow_kernel, blocks, CHUNK_THREADS, 0, stream, *list);
}

void cuda_adamw_rows(cudaStream_t stream, const AdamwRows *rows) {
    if (rows->rows == 0) return;
    const AdamwStep *s = rows->step;
    const double lr = s->lr * rows->rate;
    const Rates rates = {1,
                         (float)(lr / s->bias1),
                         (float)(lr * s->weight_decay),
                         (float)s->beta1,
                         (float)s->beta2,
                         (float)(1 - s->beta1),
                         (float)(1 - s->beta2),
                         (float)s->eps,
                         (float)(1 / s->bias2)};
    CUDA_LAUNCH(adamw_rows_kernel, (unsigned)rows->rows, 256, 0, stream, *rows, s->norm, rates);
}

void cuda_sumsq(cudaStream_t stream, OpsNorm *norm, const float *x, size_t n, double *partial) {
    const unsigned most = CUDA_SUM_BLOCKS, needed = blocks_of(n, 1024),
                   blocks = needed < most ? needed : most;
    if (n == 0) return;
    CUDA_LAUNCH(sumsq_kernel, blocks, 256, 0, stream, partial, x, n, aligned(1, 1, x));
    CUDA_LAUNCH(sumsq_fold_kernel, 1, 256, 0, stream, norm, partial, (int)blocks);
}

void cuda_clip(cudaStream_t stream, OpsNorm *norm, double most) {
    CUDA_LAUNCH(clip_kernel, 1, 1, 0, stream, norm, most);
}
