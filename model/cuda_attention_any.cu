/* model/cuda_attention_any.cu - disentangled attention in float arithmetic for any D and any GPU.
 *
 * The same walk as in cuda_attention.cu with tiles of 32 rows: x is the side that stays, y the one that comes by, and all
 * arrays go through shared memory 32 columns at a time. Warp w has rows w, w + 8, w + 16 and w + 24 of x; its lanes are
 * rows of y, or columns; CHUNKS is how many it holds for each row. Scores are in units of log2. */
#include "model/cuda_attention.h"
#include "model/cuda_tile.h"

#define TILE   CUDA_ATTENTION_ANY_TILE
#define WARPS  8
#define ROWS   (TILE / WARPS) /* of a warp */
#define STRIDE 33

typedef struct {
    float x[TILE][STRIDE], y[TILE][STRIDE];           /* rows by columns of one chunk */
    float xr[2 * TILE][STRIDE], yr[2 * TILE][STRIDE]; /* distances d0 - 31 .. d0 + 31 of the tables */
    float p[TILE][STRIDE], ds[TILE][STRIDE];
} Shared;

static __device__ __forceinline__ float number(const float *p, size_t i) {
    return p[i];
}

static __device__ __forceinline__ float number(const __nv_bfloat16 *p, size_t i) {
    return __bfloat162float(p[i]);
}

static __device__ __forceinline__ void store(float *p, float x) {
    *p = x;
}

static __device__ __forceinline__ void store(__nv_bfloat16 *p, float x) {
    *p = __float2bfloat16(x);
}

/* Columns `column` .. of up to TILE rows of one head, zeros around. */
template <class T>
static __device__ void load_rows(float (*to)[STRIDE], const T *from, int rows, int column,
                                 const CudaAttention &s) {
    const int lane = (int)(threadIdx.x & 31);
    for (int r = (int)threadIdx.x / 32; r < TILE; r += WARPS)
        to[r][lane] = r < rows && column + lane < s.D
                          ? number(from, (size_t)r * (size_t)(s.A * s.D) + (size_t)(column + lane))
                          : 0;
}

template <class T>
static __device__ void load_window(float (*to)[STRIDE], const T *table, int d0, int column,
                                   const CudaAttention &s) {
    const int lane = (int)(threadIdx.x & 31), most = s.longest - 1;
    for (int r = (int)threadIdx.x / 32; r < 2 * TILE - 1; r += WARPS) {
        const int d = max(-most, min(most, d0 - TILE + 1 + r)); /* those beyond are of no score */
        to[r][lane] = column + lane < s.D
                          ? number(table, (size_t)s.index[d] * (size_t)(s.A * s.D) + (size_t)(column + lane))
                          : 0;
    }
}

/* Where in the window the distance of rows x and y is. */
template <bool KEYS>
static __device__ __forceinline__ int window_row(int x, int y) {
    return KEYS ? y - x + TILE - 1 : x - y + TILE - 1;
}

/* sum[i] += x y' of row warp + 8 i of x and row lane of y, WINDOW: with the tables' part; without the scale. */
template <bool KEYS, bool WINDOW, class T, class U>
static __device__ void add_dots(float (&sum)[ROWS], Shared *m, const T *x, const U *y, const U *xr,
                                const U *yr, int d0, int nx, int ny, const CudaAttention &s) {
    const int lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    for (int column = 0; column < s.D; column += 32) {
        __syncthreads();
        load_rows(m->x, x, nx, column, s);
        load_rows(m->y, y, ny, column, s);
        if (WINDOW) {
            load_window(m->xr, xr, d0, column, s);
            load_window(m->yr, yr, d0, column, s);
        }
        __syncthreads();
        const int wide = min(32, s.D - column);
        for (int c = 0; c < wide; c++) {
            const float b = m->y[lane][c];
            UNROLL
            for (int i = 0; i < ROWS; i++) {
                const int r = warp + WARPS * i, e = window_row<KEYS>(r, lane);
                const float a = m->x[r][c];
                sum[i] += WINDOW ? a * (b + m->xr[e][c]) + b * m->yr[e][c] : a * b;
            }
        }
    }
}

/* to[i][chunk] += weights (32,32) times y, WINDOW: y plus the table's row of each distance. */
template <bool KEYS, bool WINDOW, int CHUNKS, class T, class U>
static __device__ void add_weighted(float (&to)[ROWS][CHUNKS], const float (*weights)[STRIDE], Shared *m,
                                    const T *y, const U *xr, int d0, int ny, const CudaAttention &s) {
    const int lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    UNROLL
    for (int n = 0; n < CHUNKS; n++) {
        if (32 * n >= s.D) continue;
        __syncthreads();
        load_rows(m->y, y, ny, 32 * n, s);
        if (WINDOW) load_window(m->xr, xr, d0, 32 * n, s);
        __syncthreads();
        for (int j = 0; j < ny; j++) {
            const float b = m->y[j][lane];
            UNROLL
            for (int i = 0; i < ROWS; i++) {
                const int r = warp + WARPS * i;
                to[i][n] += weights[r][j] * (WINDOW ? b + m->xr[window_row<KEYS>(r, j)][lane] : b);
            }
        }
    }
}

/* part[distance] += scale * sum over x of dS x */
template <bool KEYS, class T>
static __device__ void add_distances(float *part, Shared *m, const T *x, int d0, int nx,
                                     const CudaAttention &s) {
    const int lane = (int)(threadIdx.x & 31);
    for (int column = 0; column < s.D; column += 32) {
        __syncthreads();
        load_rows(m->x, x, nx, column, s);
        __syncthreads();
        for (int e = (int)threadIdx.x / 32; e < 2 * TILE - 1; e += WARPS) {
            float sum = 0;
            for (int r = 0; r < nx; r++) {
                const int y = KEYS ? e + r - TILE + 1 : r - e + TILE - 1;
                if (y >= 0 && y < TILE) sum += m->ds[r][y] * m->x[r][lane];
            }
            if (column + lane < s.D)
                part[(ptrdiff_t)(d0 - TILE + 1 + e) * s.D + column + lane] += s.scale * sum;
        }
    }
}

template <int CHUNKS, class T>
static __device__ void store_rows(T *to, const float (&c)[ROWS][CHUNKS], const float (&by)[ROWS], int nx,
                                  const CudaAttention &s) {
    const int lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    UNROLL
    for (int i = 0; i < ROWS; i++) UNROLL
    for (int n = 0; n < CHUNKS; n++) {
        const int r = warp + WARPS * i, column = 32 * n + lane;
        if (r < nx && column < s.D) store(to + (size_t)r * (size_t)(s.A * s.D) + column, c[i][n] * by[i]);
    }
}

static __device__ __forceinline__ float most_of_warp(float x) {
    for (int by = 16; by; by /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, by));
    return x;
}

static __device__ __forceinline__ float sum_of_warp(float x) {
    for (int by = 16; by; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
    return x;
}

template <class T, int CHUNKS>
static __global__ void __launch_bounds__(32 * WARPS, CHUNKS > 2 ? 1 : 2)
    any_forward(T *out, const T *q, const T *k, const T *v, const T *kr, const T *qr, const CudaAttention s) {
    CUDA_DYNAMIC_SHARED(memory);
    Shared *const m = (Shared *)memory;
    const int head = (int)blockIdx.y, lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    const size_t stride = (size_t)s.A * (size_t)s.D, column = (size_t)head * (size_t)s.D;
    const float scale = s.scale * CUDA_ATTENTION_LOG2E;
    const uint32_t limit = s.p > 0 ? ops_drop_limit(s.p) : 0;
    CudaAttentionWalk walk = {0, 0};
    CudaAttentionItem item;
    for (int n = (int)blockIdx.x; cuda_attention_find<TILE>(&item, &walk, n, s.start, s.S);
         n += (int)gridDim.x) {
        const size_t base = (size_t)item.first * stride + column, mine = base + (size_t)item.x * stride;
        const int nx = min(TILE, item.L - item.x);
        float o[ROWS][CHUNKS] = {{0}}, most[ROWS], sum[ROWS];
        for (int i = 0; i < ROWS; i++) {
            most[i] = -INFINITY;
            sum[i] = 0;
        }
        for (int y = 0; y < item.L; y += TILE) {
            const int ny = min(TILE, item.L - y), d0 = item.x - y;
            float x[ROWS] = {0};
            add_dots<false, true>(x, m, q + mine, k + base + (size_t)y * stride, kr + column, qr + column, d0,
                                  nx, ny, s);
            UNROLL
            for (int i = 0; i < ROWS; i++) {
                const int r = warp + WARPS * i;
                x[i] = lane < ny ? x[i] * scale : -INFINITY;
                const float high = fmaxf(most[i], most_of_warp(x[i])), owed = exp2f(most[i] - high);
                const float e = exp2f(x[i] - high);
                most[i] = high;
                sum[i] = sum[i] * owed + sum_of_warp(e);
                UNROLL
                for (int c = 0; c < CHUNKS; c++) o[i][c] *= owed;
                const uint64_t key = cuda_attention_key(s, item.first + item.x + min(r, nx - 1), head);
                m->p[r][lane] = limit && ops_drop_bits(key, (uint32_t)(y + lane)) < limit ? 0 : e;
            }
            add_weighted<false, false>(o, m->p, m, v + base + (size_t)y * stride, kr, d0, ny, s);
        }
        for (int i = 0; i < ROWS; i++) sum[i] = 1 / ((1 - s.p) * sum[i]);
        store_rows(out + mine, o, sum, nx, s);
    }
}

template <class T, int CHUNKS>
static __global__ void __launch_bounds__(32 * WARPS, CHUNKS > 2 ? 1 : 2)
    any_grad_queries(float *dq, const float *dout, const T *q, const T *k, const T *v, const T *kr,
                     const T *qr, const CudaAttention s, const CudaAttentionScratch scratch) {
    CUDA_DYNAMIC_SHARED(memory);
    Shared *const m = (Shared *)memory;
    const int head = (int)blockIdx.y, lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    const size_t stride = (size_t)s.A * (size_t)s.D, column = (size_t)head * (size_t)s.D;
    const size_t size = (size_t)(2 * scratch.reach) * (size_t)s.D;
    const float scale = s.scale * CUDA_ATTENTION_LOG2E, up = 1 / (1 - s.p);
    float *part = scratch.part_kr + (size_t)(blockIdx.x * gridDim.y + blockIdx.y) * size;
    for (size_t i = threadIdx.x; i < size; i += 32 * WARPS) part[i] = 0;
    const uint32_t limit = s.p > 0 ? ops_drop_limit(s.p) : 0;
    CudaAttentionWalk walk = {0, 0};
    CudaAttentionItem item;
    for (int n = (int)blockIdx.x; cuda_attention_find<TILE>(&item, &walk, n, s.start, s.S);
         n += (int)gridDim.x) {
        const size_t base = (size_t)item.first * stride + column, mine = base + (size_t)item.x * stride;
        const int nx = min(TILE, item.L - item.x), tiles = (item.L + TILE - 1) / TILE;
        float dx[ROWS][CHUNKS] = {{0}}, most[ROWS], sum[ROWS], mean[ROWS];
        for (int i = 0; i < ROWS; i++) {
            most[i] = -INFINITY;
            sum[i] = mean[i] = 0;
        }
        for (int step = 0; step < 2 * tiles - 1; step++) { /* there and back: see attention_grad_queries */
            const int y = TILE * (step < tiles ? step : 2 * tiles - 2 - step);
            const int ny = min(TILE, item.L - y), d0 = item.x - y;
            const size_t come = base + (size_t)y * stride;
            float x[ROWS] = {0}, dp[ROWS] = {0};
            add_dots<false, true>(x, m, q + mine, k + come, kr + column, qr + column, d0, nx, ny, s);
            add_dots<false, false>(dp, m, dout + mine, v + come, kr, qr, d0, nx, ny, s);
            UNROLL
            for (int i = 0; i < ROWS; i++) {
                const int r = warp + WARPS * i, token = item.first + item.x + min(r, nx - 1);
                const uint64_t key = cuda_attention_key(s, token, head);
                x[i] = lane < ny ? x[i] * scale : -INFINITY;
                dp[i] = limit && ops_drop_bits(key, (uint32_t)(y + lane)) < limit ? 0 : dp[i] * up;
                if (step < tiles) {
                    const float high = fmaxf(most[i], most_of_warp(x[i])), owed = exp2f(most[i] - high);
                    const float e = exp2f(x[i] - high);
                    most[i] = high;
                    sum[i] = sum[i] * owed + sum_of_warp(e);
                    mean[i] = mean[i] * owed + sum_of_warp(e * dp[i]);
                }
                if (step == tiles - 1) {
                    most[i] += log2f(sum[i]);
                    mean[i] /= sum[i];
                    if (lane == 0 && r < nx) {
                        scratch.lse[(size_t)token * (size_t)s.A + (size_t)head] = most[i];
                        scratch.delta[(size_t)token * (size_t)s.A + (size_t)head] = mean[i];
                    }
                }
                m->ds[r][lane] = r < nx ? exp2f(x[i] - most[i]) * (dp[i] - mean[i]) : 0;
            }
            if (step < tiles - 1) continue;
            add_weighted<false, true>(dx, m->ds, m, k + come, kr + column, d0, ny, s);
            add_distances<false>(part + (size_t)scratch.reach * (size_t)s.D, m, q + mine, d0, nx, s);
            __syncthreads();
        }
        for (int i = 0; i < ROWS; i++) sum[i] = s.scale;
        store_rows(dq + mine, dx, sum, nx, s);
    }
}

template <class T, int CHUNKS>
static __global__ void __launch_bounds__(32 * WARPS, CHUNKS > 2 ? 1 : 2)
    any_grad_keys(float *dk, float *dv, const float *dout, const T *q, const T *k, const T *v, const T *kr,
                  const T *qr, const CudaAttention s, const CudaAttentionScratch scratch) {
    CUDA_DYNAMIC_SHARED(memory);
    Shared *const m = (Shared *)memory;
    const int head = (int)blockIdx.y, lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    const size_t stride = (size_t)s.A * (size_t)s.D, column = (size_t)head * (size_t)s.D;
    const size_t size = (size_t)(2 * scratch.reach) * (size_t)s.D;
    const float scale = s.scale * CUDA_ATTENTION_LOG2E, up = 1 / (1 - s.p);
    float *part = scratch.part_qr + (size_t)(blockIdx.x * gridDim.y + blockIdx.y) * size;
    for (size_t i = threadIdx.x; i < size; i += 32 * WARPS) part[i] = 0;
    const uint32_t limit = s.p > 0 ? ops_drop_limit(s.p) : 0;
    CudaAttentionWalk walk = {0, 0};
    CudaAttentionItem item;
    for (int n = (int)blockIdx.x; cuda_attention_find<TILE>(&item, &walk, n, s.start, s.S);
         n += (int)gridDim.x) {
        const size_t base = (size_t)item.first * stride + column, mine = base + (size_t)item.x * stride;
        const int nx = min(TILE, item.L - item.x);
        float dx[ROWS][CHUNKS] = {{0}}, dvx[ROWS][CHUNKS] = {{0}};
        for (int y = 0; y < item.L; y += TILE) {
            const int ny = min(TILE, item.L - y), d0 = y - item.x, token = item.first + y + min(lane, ny - 1);
            const size_t come = base + (size_t)y * stride, at = (size_t)token * (size_t)s.A + (size_t)head;
            const float lse = scratch.lse[at], delta = scratch.delta[at];
            const uint64_t key = cuda_attention_key(s, token, head);
            float x[ROWS] = {0}, dp[ROWS] = {0};
            add_dots<true, true>(x, m, k + mine, q + come, qr + column, kr + column, d0, nx, ny, s);
            add_dots<true, false>(dp, m, v + mine, dout + come, (const float *)NULL, (const float *)NULL, d0,
                                  nx, ny, s);
            UNROLL
            for (int i = 0; i < ROWS; i++) {
                const int r = warp + WARPS * i;
                const bool drop = limit && ops_drop_bits(key, (uint32_t)(item.x + r)) < limit;
                const float p = r < nx && lane < ny ? exp2f(x[i] * scale - lse) : 0;
                m->p[r][lane] = drop ? 0 : p;
                m->ds[r][lane] = p * ((drop ? 0 : dp[i] * up) - delta);
            }
            add_weighted<true, false>(dvx, m->p, m, dout + come, qr, d0, ny, s);
            add_weighted<true, true>(dx, m->ds, m, q + come, qr + column, d0, ny, s);
            add_distances<true>(part + (size_t)scratch.reach * (size_t)s.D, m, k + mine, d0, nx, s);
            __syncthreads();
        }
        float by[ROWS];
        for (int i = 0; i < ROWS; i++) by[i] = s.scale;
        store_rows(dk + mine, dx, by, nx, s);
        for (int i = 0; i < ROWS; i++) by[i] = up;
        store_rows(dv + mine, dvx, by, nx, s);
    }
}

/* ---- the host's side ---- */
template <class T, int CHUNKS>
static int forward(void *out, const void *q, const void *k, const void *v, const void *kr, const void *qr,
                   const CudaAttention *shape, cudaStream_t stream) {
    const int items = shape->S * ((shape->longest + TILE - 1) / TILE), by_tokens = shape->S + shape->N / TILE;
    const int blocks = 1024 / shape->A > 1 ? 1024 / shape->A : 1;
    const int slots = cuda_attention_slots(items < by_tokens ? items : by_tokens, blocks);
    CUDA_LAUNCH((any_forward<T, CHUNKS>), dim3((unsigned)slots, (unsigned)shape->A), 32 * WARPS,
                sizeof(Shared), stream, (T *)out, (const T *)q, (const T *)k, (const T *)v, (const T *)kr,
                (const T *)qr, *shape);
    return (int)cudaGetLastError();
}

template <class T, int CHUNKS>
static int backward(float *dq, float *dk, float *dv, const float *dout, const void *q, const void *k,
                    const void *v, const void *kr, const void *qr, const CudaAttention *shape,
                    const CudaAttentionScratch *scratch, cudaStream_t stream) {
    const dim3 grid((unsigned)scratch->slots, (unsigned)shape->A);
    CUDA_LAUNCH((any_grad_queries<T, CHUNKS>), grid, 32 * WARPS, sizeof(Shared), stream, dq, dout,
                (const T *)q, (const T *)k, (const T *)v, (const T *)kr, (const T *)qr, *shape, *scratch);
    CUDA_LAUNCH((any_grad_keys<T, CHUNKS>), grid, 32 * WARPS, sizeof(Shared), stream, dk, dv, dout,
                (const T *)q, (const T *)k, (const T *)v, (const T *)kr, (const T *)qr, *shape, *scratch);
    return (int)cudaGetLastError();
}

int cuda_attention_any(void *out, const void *q, const void *k, const void *v, const void *kr, const void *qr,
                       const CudaAttention *shape, cudaStream_t stream) {
    if (shape->bf16)
        return shape->D <= 64 ? forward<__nv_bfloat16, 2>(out, q, k, v, kr, qr, shape, stream)
                              : forward<__nv_bfloat16, 8>(out, q, k, v, kr, qr, shape, stream);
    return shape->D <= 64 ? forward<float, 2>(out, q, k, v, kr, qr, shape, stream)
                          : forward<float, 8>(out, q, k, v, kr, qr, shape, stream);
}

int cuda_attention_any_grad(float *dq, float *dk, float *dv, const float *dout, const void *q, const void *k,
                            const void *v, const void *kr, const void *qr, const CudaAttention *shape,
                            const CudaAttentionScratch *scratch, cudaStream_t stream) {
    const bool narrow = shape->D <= 64;
    if (shape->bf16)
        return narrow ? backward<__nv_bfloat16, 2>(dq, dk, dv, dout, q, k, v, kr, qr, shape, scratch, stream)
                      : backward<__nv_bfloat16, 8>(dq, dk, dv, dout, q, k, v, kr, qr, shape, scratch, stream);
    return narrow ? backward<float, 2>(dq, dk, dv, dout, q, k, v, kr, qr, shape, scratch, stream)
                  : backward<float, 8>(dq, dk, dv, dout, q, k, v, kr, qr, shape, scratch, stream);
}
