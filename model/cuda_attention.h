/* model/cuda_attention.h - what the kernels for attention share; for .cu files alone.
 *
 * A block takes every gridDim.x-th of the items (sequence, tile of its rows) of one head. With the gradient each of these
 * `slots` sums what it finds for the position tables into a part of its own, by distance instead of row: (slots, A,
 * 2 * reach, D) floats, distance 0 at `reach`. A last kernel adds the parts up in order. */
#ifndef MODEL_CUDA_ATTENTION_H
#define MODEL_CUDA_ATTENTION_H

#include "model/cuda.h"

#ifdef __cplusplus
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "model/dropout.h"

#define CUDA_ATTENTION_LOG2E    1.44269504088896340736f
#define CUDA_ATTENTION_NONE     (1 << 30) /* no distance that there is */
#define CUDA_ATTENTION_ANY_TILE 32

/* Scratch of the gradient: of each token and head the logarithm (base 2) of the sum of its scores' exponentials and
 * the mean of dP under P; parts of dkr and dqr. */
typedef struct {
    float *lse, *delta;       /* (N,A) */
    float *part_kr, *part_qr; /* (slots,A,2*reach,D) */
    int slots, reach;
} CudaAttentionScratch;

typedef struct {
    int first, L; /* the sequence */
    int x;        /* the tile's first row within it */
} CudaAttentionItem;

/* Where the search for items goes on. */
typedef struct {
    int seq, items;
} CudaAttentionWalk;

#if defined(__CUDACC__) || defined(CUDA_EMULATED)
/* Item k, asked for in ascending order; false when there is none. The same in all threads of a warp. */
template <int TILE>
static __device__ __forceinline__ bool cuda_attention_find(CudaAttentionItem *item, CudaAttentionWalk *walk,
                                                           int k, const int32_t *start, int S) {
    const int lane = (int)(threadIdx.x & 31);
    for (; walk->seq < S; walk->seq += 32) {
        const int seq = walk->seq + lane;
        const int first = seq < S ? start[seq] : 0, L = seq < S ? start[seq + 1] - first : 0;
        const int tiles = (L + TILE - 1) / TILE;
        int end = tiles;
        for (int by = 1; by < 32; by *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, end, by);
            if (lane >= by) end += other;
        }
        const int all = __shfl_sync(0xffffffffu, end, 31), at = k - walk->items;
        if (at < all) {
            const unsigned mine = __ballot_sync(0xffffffffu, at >= end - tiles && at < end);
            const int from = __ffs((int)mine) - 1;
            item->first = __shfl_sync(0xffffffffu, first, from);
            item->L = __shfl_sync(0xffffffffu, L, from);
            item->x = (at - __shfl_sync(0xffffffffu, end - tiles, from)) * TILE;
            return true;
        }
        walk->items += all;
    }
    return false;
}

/* The block's next item, looked for by its first warp and of use after a barrier. */
typedef struct {
    CudaAttentionItem item;
    CudaAttentionWalk walk;
    int n; /* it is the n-th */
    int more;
} CudaAttentionQueue;

template <int TILE>
static __device__ __forceinline__ void cuda_attention_next(CudaAttentionQueue *q, bool first,
                                                           const int32_t *start, int S) {
    if (threadIdx.x >= 32) return;
    CudaAttentionQueue next = *q;
    if (first) {
        next.walk.seq = next.walk.items = 0;
        next.n = (int)blockIdx.x;
    } else {
        next.n += (int)gridDim.x;
    }
    next.more = cuda_attention_find<TILE>(&next.item, &next.walk, next.n, start, S);
    __syncwarp();
    if (threadIdx.x == 0) *q = next;
}

static __device__ __forceinline__ uint64_t cuda_attention_key(const CudaAttention &s, int n, int head) {
    return s.p > 0 ? ops_drop_row(s.key, s.row[n] * (uint64_t)s.A + (uint64_t)head) : 0;
}
#endif

/* Blocks for each head, no more than `most`, so that no block has an item more than it must. */
int cuda_attention_slots(int items, int most);

/* For any D, either type, any GPU. */
int cuda_attention_any(void *out, const void *q, const void *k, const void *v, const void *kr, const void *qr,
                       const CudaAttention *shape, cudaStream_t stream);
int cuda_attention_any_grad(float *dq, float *dk, float *dv, const float *dout, const void *q, const void *k,
                            const void *v, const void *kr, const void *qr, const CudaAttention *shape,
                            const CudaAttentionScratch *scratch, cudaStream_t stream);
#endif
#endif
