/* model/cuda_kernels.cu - layers of the model but attention and the large products: see cuda.h.
 *
 * All of it is bound by memory: an array is read once and written once, in accesses of 16 bytes where `W` numbers of a
 * thread lie side by side (8 of bfloat16 or 4 floats; 1 where pointers or rows are not aligned to it). */
#include "model/cuda.h"
#include "model/cuda_vectors.h"

namespace {

enum { ELEMENTS = 256, ROW_WARPS = 4 };

/* ---- dropout ---- */

struct Drop {
    uint64_t key;
    const uint64_t *row; /* NULL: none */
    uint32_t limit;
    float kept;
};

Drop drop_of(const Dropout *d) {
    Drop drop = {0, nullptr, 0, 1};
    if (d->p > 0) drop = {d->key, d->row, ops_drop_limit(d->p), 1 / (1 - d->p)};
    return drop;
}

__device__ __forceinline__ uint64_t drop_row(const Drop &drop, int n) {
    return drop.row ? ops_drop_row(drop.key, drop.row[n]) : 0;
}

template <int W>
__device__ __forceinline__ void drop_columns(float (&x)[W], const Drop &drop, uint64_t row, int column) {
    if (!drop.row) return;
#pragma unroll
    for (int i = 0; i < W; i++)
        x[i] *= ops_drop_bits(row, (uint32_t)(column + i)) >= drop.limit ? drop.kept : 0.0f;
}

/* One W-vector a thread: rows in threadIdx.y, columns in threadIdx.x and blockIdx.y. */
template <typename T, int W>
__global__ void dropout_kernel(T *y, const T *x, Drop drop, int N, int H) {
    const int n = (int)(blockIdx.x * blockDim.y + threadIdx.y),
              h = (int)(blockIdx.y * WARP + threadIdx.x) * W;
    if (n >= N || h >= H) return;
    const size_t at = (size_t)n * (size_t)H + (size_t)h;
    float v[W];
    load(v, x + at);
    drop_columns(v, drop, drop_row(drop, n), h);
    store(y + at, v);
}

/* ---- elements ---- */

__device__ __forceinline__ float gelu(float z) {
    return 0.5f * z * (1.0f + erff(z * 0.70710678118654752440f));
}

__device__ __forceinline__ float gelu_slope(float z) {
    const float density = 0.39894228040143267794f * expf(-0.5f * z * z);
    return 0.5f * (1.0f + erff(z * 0.70710678118654752440f)) + z * density;
}

struct Widen {
    __device__ float operator()(float, float x) const { return x; }
};
struct Add {
    __device__ float operator()(float y, float x) const { return y + x; }
};
struct Gelu {
    __device__ float operator()(float, float x) const { return gelu(x); }
};
struct GeluGrad {
    __device__ float operator()(float y, float x) const { return y * gelu_slope(x); }
};

/* y = f(y, x), or with READS false f(0, x) */
template <typename Out, typename In, int W, bool READS, class F>
__global__ void element_kernel(Out *y, const In *x, size_t n, F f) {
    const size_t at = ((size_t)blockIdx.x * ELEMENTS + threadIdx.x) * W;
    if (at + W <= n) {
        float a[W], b[W] = {0};
        load(a, x + at);
        if (READS) load(b, y + at);
#pragma unroll
        for (int i = 0; i < W; i++) a[i] = f(b[i], a[i]);
        store(y + at, a);
        return;
    }
    for (size_t i = at; i < n; i++) {
        float a[1], b[1] = {0};
        load(a, x + i);
        if (READS) load(b, y + i);
        a[0] = f(b[0], a[0]);
        store(y + i, a);
    }
}

template <int W, bool READS, typename Out, typename In, class F>
void elements(cudaStream_t stream, Out *y, const In *x, size_t n, F f) {
    if (n == 0) return;
    if (aligned(1, 1, y, x)) {
        auto *kernel = element_kernel<Out, In, W, READS, F>;
        CUDA_LAUNCH(kernel, blocks_of(n, ELEMENTS * W), ELEMENTS, 0, stream, y, x, n, f);
    } else {
        auto *kernel = element_kernel<Out, In, 1, READS, F>;
        CUDA_LAUNCH(kernel, blocks_of(n, ELEMENTS), ELEMENTS, 0, stream, y, x, n, f);
    }
}

/* ---- rows that move ---- */

/* A block for each row: y[n] = x[at[n]], or with SCATTERS y[at[n]] = x[n]. */
template <typename Out, typename In, int W, bool SCATTERS>
__global__ void rows_kernel(Out *y, const In *x, const int32_t *at, int H) {
    const size_t n = blockIdx.x, moved = (size_t)at[n];
    const In *from = x + (SCATTERS ? n : moved) * (size_t)H;
    Out *to = y + (SCATTERS ? moved : n) * (size_t)H;
    for (int h = (int)threadIdx.x * W; h < H; h += (int)blockDim.x * W) {
        float v[W];
        load(v, from + h);
        store(to + h, v);
    }
}

template <int W, bool SCATTERS, typename Out, typename In>
void move_rows(cudaStream_t stream, Out *y, const In *x, const int32_t *at, int rows, int H) {
    if (rows == 0) return;
    if (aligned(W, (size_t)H, y, x)) {
        auto *kernel = rows_kernel<Out, In, W, SCATTERS>;
        CUDA_LAUNCH(kernel, (unsigned)rows, 128, 0, stream, y, x, at, H);
    } else {
        auto *kernel = rows_kernel<Out, In, 1, SCATTERS>;
        CUDA_LAUNCH(kernel, (unsigned)rows, 128, 0, stream, y, x, at, H);
    }
}

/* Which of the next EMBED_THREADS slots are this one: their numbers, ascending, to all threads. */
enum { EMBED_THREADS = 256 };
__device__ int matches(const int **list, const int32_t *slots, int32_t slot, int from, int N) {
    __shared__ int found[EMBED_THREADS], before[EMBED_THREADS / WARP];
    const int t = (int)threadIdx.x, warp = t / WARP, lane = t % WARP;
    const bool mine = from + t < N && slots[from + t] == slot;
    const unsigned votes = __ballot_sync(ALL, mine);
    const int total = __syncthreads_count(mine); /* the list's last readers have passed here, too */
    *list = found;
    if (total == 0) return 0;
    if (lane == 0) before[warp] = __popc(votes);
    __syncthreads();
    int at = __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < warp; w++) at += before[w];
    if (mine) found[at] = from + t;
    __syncthreads();
    return total;
}

/* A block for each n: the first of its slot adds the rows of all of that slot, in their order. The others find that they
 * are not the first, mostly soon. */
template <int W>
__global__ void __launch_bounds__(EMBED_THREADS)
    embed_grad_kernel(float *dtable, const int32_t *slots, const float *dy, int N, int H) {
    const int n = (int)blockIdx.x, t = (int)threadIdx.x;
    const int32_t slot = slots[n];
    if (slot < 0) return;
    for (int end = n; end > 0; end -= EMBED_THREADS) /* the nearest are the likeliest */
        if (__syncthreads_or(t < end && slots[end - 1 - t] == slot)) return;
    float *row = dtable + (size_t)slot * (size_t)H;
    for (int from = n; from < N; from += EMBED_THREADS) {
        const int *list, count = matches(&list, slots, slot, from, N);
        for (int h = t * W; count > 0 && h < H; h += EMBED_THREADS * W) {
            float sum[W];
            load(sum, row + h);
#pragma unroll 4
            for (int k = 0; k < count; k++) {
                float v[W];
                load(v, dy + (size_t)list[k] * (size_t)H + h);
#pragma unroll
                for (int i = 0; i < W; i++) sum[i] += v[i];
            }
            store(row + h, sum);
        }
    }
}

/* ---- norm ---- */

/* A warp for each row, which it keeps in registers: C vectors a lane. */
template <typename T, int W, int C>
__global__ void __launch_bounds__(ROW_WARPS *WARP)
    norm_kernel(T *y, T *xhat, float *rstd, const T *x, const T *r, const float *w, const float *b, Drop drop,
                int N, int H, float eps) {
    const int n = (int)(blockIdx.x * ROW_WARPS + threadIdx.x / WARP), lane = (int)threadIdx.x % WARP;
    if (n >= N) return;
    const size_t at = (size_t)n * (size_t)H;
    float s[C][W], sum = 0;
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int h = (c * WARP + lane) * W;
        if (h >= H) continue;
        load(s[c], x + at + h);
    }
    const uint64_t row = drop_row(drop, n);
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int h = (c * WARP + lane) * W;
        if (h >= H) continue;
        drop_columns(s[c], drop, row, h);
        float more[W] = {0};
        if (r) load(more, r + at + h);
#pragma unroll
        for (int i = 0; i < W; i++) sum += s[c][i] += more[i];
    }
    const float mean = warp_sum(sum) / (float)H;
    float squares = 0;
#pragma unroll
    for (int c = 0; c < C; c++) {
        if ((c * WARP + lane) * W >= H) continue;
#pragma unroll
        for (int i = 0; i < W; i++) {
            s[c][i] -= mean;
            squares += s[c][i] * s[c][i];
        }
    }
    const float inverse = 1.0f / sqrtf(warp_sum(squares) / (float)H + eps);
    if (rstd && lane == 0) rstd[n] = inverse;
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int h = (c * WARP + lane) * W;
        if (h >= H) continue;
        float scale[W], shift[W];
        load(scale, w + h);
        load(shift, b + h);
#pragma unroll
        for (int i = 0; i < W; i++) s[c][i] *= inverse;
        if (xhat) store(xhat + at + h, s[c]);
#pragma unroll
        for (int i = 0; i < W; i++) s[c][i] = s[c][i] * scale[i] + shift[i];
        store(y + at + h, s[c]);
    }
}

/* The same for any row, which it reads three times. y may be x: a lane reads what it writes itself last. */
template <typename T>
__global__ void __launch_bounds__(ROW_WARPS *WARP)
    norm_any_kernel(T *y, T *xhat, float *rstd, const T *x, const T *r, const float *w, const float *b,
                    Drop drop, int N, int H, float eps) {
    const int n = (int)(blockIdx.x * ROW_WARPS + threadIdx.x / WARP), lane = (int)threadIdx.x % WARP;
    if (n >= N) return;
    const size_t at = (size_t)n * (size_t)H;
    const uint64_t row = drop_row(drop, n);
    float mean = 0, inverse = 0;
    for (int pass = 0; pass < 3; pass++) {
        float sum = 0;
        for (int h = lane; h < H; h += WARP) {
            float s[1], more[1] = {0};
            load(s, x + at + h);
            drop_columns(s, drop, row, h);
            if (r) load(more, r + at + h);
            s[0] += more[0];
            if (pass == 0) {
                sum += s[0];
                continue;
            }
            s[0] -= mean;
            if (pass == 1) {
                sum += s[0] * s[0];
                continue;
            }
            s[0] *= inverse;
            if (xhat) store(xhat + at + h, s);
            s[0] = s[0] * w[h] + b[h];
            store(y + at + h, s);
        }
        sum = warp_sum(sum);
        if (pass == 0) mean = sum / (float)H;
        if (pass == 1) inverse = 1.0f / sqrtf(sum / (float)H + eps);
    }
    if (rstd && lane == 0) rstd[n] = inverse;
}

template <typename T, int W>
void norm(cudaStream_t stream, T *y, T *xhat, float *rstd, const T *x, const T *r, const float *w,
          const float *b, const Drop &drop, int N, int H, float eps) {
    auto *kernel = norm_any_kernel<T>;
    if (aligned(W, (size_t)H, y, xhat, x, r, w, b)) {
        if (H <= 4 * WARP * W)
            kernel = norm_kernel<T, W, 4>;
        else if (H <= 8 * WARP * W)
            kernel = norm_kernel<T, W, 8>;
    }
    CUDA_LAUNCH(kernel, blocks_of((size_t)N, ROW_WARPS), ROW_WARPS * WARP, 0, stream, y, xhat, rstd, x, r, w,
                b, drop, N, H, eps);
}

/* Two sums over a block of up to 8 warps, known to all its threads. `turn` alternates from call to call: a slow thread
 * still reads the other half. */
enum { GRAD_WARPS = 8 };
__device__ void block_sums(float *a, float *b, int turn) {
    __shared__ float sums[2][2][GRAD_WARPS];
    const int warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    const float x = warp_sum(*a), y = warp_sum(*b);
    if (threadIdx.x % WARP == 0) {
        sums[turn][0][warp] = x;
        sums[turn][1][warp] = y;
    }
    __syncthreads();
    *a = *b = 0;
    for (int i = 0; i < warps; i++) {
        *a += sums[turn][0][i];
        *b += sums[turn][1][i];
    }
}

/* A block goes through `rows` rows and keeps the sums of its columns. Its thread has the same C vectors of each row. */
template <typename T, int W, int C>
__global__ void __launch_bounds__(GRAD_WARPS *WARP)
    norm_grad_kernel(float *dx, float *dr, float *partial, const float *dy, const T *xhat, const float *rstd,
                     const float *w, Drop drop, int N, int H, int rows) {
    const int from = (int)blockIdx.x * rows, end = from + rows < N ? from + rows : N;
    const int stride = (int)blockDim.x * W, first = (int)threadIdx.x * W;
    float scale[C][W] = {{0}}, dw[C][W] = {{0}}, db[C][W] = {{0}};
#pragma unroll
    for (int c = 0; c < C; c++)
        if (first + c * stride < H) load(scale[c], w + first + c * stride);
    for (int n = from; n < end; n++) {
        const size_t at = (size_t)n * (size_t)H;
        float g[C][W] = {{0}}, normed[C][W] = {{0}}, mean = 0, slope = 0;
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int h = first + c * stride;
            if (h >= H) continue;
            load(g[c], dy + at + h);
            load(normed[c], xhat + at + h);
        }
#pragma unroll
        for (int c = 0; c < C; c++) {
#pragma unroll
            for (int i = 0; i < W; i++) {
                dw[c][i] += g[c][i] * normed[c][i];
                db[c][i] += g[c][i];
                g[c][i] *= scale[c][i];
                mean += g[c][i];
                slope += g[c][i] * normed[c][i];
            }
        }
        block_sums(&mean, &slope, n & 1);
        mean /= (float)H;
        slope /= (float)H;
        const float inverse = rstd[n];
        const uint64_t row = drop_row(drop, n);
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int h = first + c * stride;
            if (h >= H) continue;
#pragma unroll
            for (int i = 0; i < W; i++) g[c][i] = inverse * (g[c][i] - mean - normed[c][i] * slope);
            if (dr) store(dr + at + h, g[c]);
            drop_columns(g[c], drop, row, h);
            store(dx + at + h, g[c]);
        }
    }
    float *out = partial + (size_t)blockIdx.x * 2 * (size_t)H;
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int h = first + c * stride;
        if (h >= H) continue;
        store(out + h, dw[c]);
        store(out + H + h, db[c]);
    }
}

/* The rows of any size, a warp for each; and their columns, a thread for each. */
template <typename T>
__global__ void __launch_bounds__(ROW_WARPS *WARP)
    norm_grad_rows_kernel(float *dx, float *dr, const float *dy, const T *xhat, const float *rstd,
                          const float *w, Drop drop, int N, int H) {
    const int n = (int)(blockIdx.x * ROW_WARPS + threadIdx.x / WARP), lane = (int)threadIdx.x % WARP;
    if (n >= N) return;
    const size_t at = (size_t)n * (size_t)H;
    const uint64_t row = drop_row(drop, n);
    float mean = 0, slope = 0, normed[1];
    for (int h = lane; h < H; h += WARP) {
        const float g = dy[at + h] * w[h];
        load(normed, xhat + at + h);
        mean += g;
        slope += g * normed[0];
    }
    mean = warp_sum(mean) / (float)H;
    slope = warp_sum(slope) / (float)H;
    for (int h = lane; h < H; h += WARP) {
        load(normed, xhat + at + h);
        float ds[1] = {rstd[n] * (dy[at + h] * w[h] - mean - normed[0] * slope)};
        if (dr) dr[at + h] = ds[0];
        drop_columns(ds, drop, row, h);
        dx[at + h] = ds[0];
    }
}

template <typename T>
__global__ void norm_grad_columns_kernel(float *partial, const float *dy, const T *xhat, int N, int H,
                                         int rows) {
    const int h = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    const int from = (int)blockIdx.x * rows, end = from + rows < N ? from + rows : N;
    if (h >= H) return;
    float dw = 0, db = 0;
    for (int n = from; n < end; n++) {
        const size_t at = (size_t)n * (size_t)H + (size_t)h;
        float normed[1];
        load(normed, xhat + at);
        dw += dy[at] * normed[0];
        db += dy[at];
    }
    partial[(size_t)blockIdx.x * 2 * (size_t)H + (size_t)h] = dw;
    partial[((size_t)blockIdx.x * 2 + 1) * (size_t)H + (size_t)h] = db;
}

/* Rows of a block of norm_grad, and how many blocks that makes. */
enum { NORM_BLOCKS = 1024 };
int norm_rows(int N) {
    return (N + NORM_BLOCKS - 1) / NORM_BLOCKS;
}
int norm_blocks(int N) {
    return (N + norm_rows(N) - 1) / norm_rows(N);
}

template <typename T, int W>
void norm_grad(cudaStream_t stream, float *dx, float *dr, float *partial, const float *dy, const T *xhat,
               const float *rstd, const float *w, const Drop &drop, int N, int H) {
    const int rows = norm_rows(N), blocks = norm_blocks(N);
    const int vectors = (H + W - 1) / W, most = GRAD_WARPS * WARP;
    if (aligned(W, (size_t)H, dx, dr, partial, dy, xhat, w) && vectors <= 2 * most) {
        const int each = vectors <= most ? 1 : 2;
        const unsigned threads = blocks_of((size_t)vectors, (size_t)(each * WARP)) * WARP;
        auto *kernel = each == 1 ? norm_grad_kernel<T, W, 1> : norm_grad_kernel<T, W, 2>;
        CUDA_LAUNCH(kernel, (unsigned)blocks, threads, 0, stream, dx, dr, partial, dy, xhat, rstd, w, drop, N,
                    H, rows);
        return;
    }
    auto *by_row = norm_grad_rows_kernel<T>;
    CUDA_LAUNCH(by_row, blocks_of((size_t)N, ROW_WARPS), ROW_WARPS * WARP, 0, stream, dx, dr, dy, xhat, rstd,
                w, drop, N, H);
    auto *by_column = norm_grad_columns_kernel<T>;
    CUDA_LAUNCH(by_column, dim3((unsigned)blocks, blocks_of((size_t)H, 128)), 128, 0, stream, partial, dy,
                xhat, N, H, rows);
}

/* ---- sums of columns ---- */

/* Columns 0 .. each - 1 are those of the first array, and so on. */
struct Targets {
    float *array[OPS_GROUP];
    int each;
};
struct Sources {
    const float *array[OPS_GROUP];
};

/* first[c] += sum of x[n][c] for c < split, second[c - split] for the others. A block has 32 columns, which 32 threads each
 * share. */
__global__ void __launch_bounds__(1024) fold_kernel(Targets to, const float *x, int N, int columns) {
    __shared__ float sums[WARP][WARP + 1];
    const int c = (int)(blockIdx.x * WARP + threadIdx.x);
    float sum = 0;
    if (c < columns) {
#pragma unroll 8
        for (int n = (int)threadIdx.y; n < N; n += WARP) sum += x[(size_t)n * (size_t)columns + (size_t)c];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(sums[threadIdx.x][threadIdx.y]); /* of column threadIdx.y */
    const int column = (int)(blockIdx.x * WARP + threadIdx.y);
    if (threadIdx.x != 0 || column >= columns) return;
    to.array[column / to.each][column % to.each] += sum;
}

void fold(cudaStream_t stream, const Targets &to, const float *x, int N, int columns) {
    if (N > 0)
        CUDA_LAUNCH(fold_kernel, blocks_of((size_t)columns, WARP), dim3(WARP, WARP), 0, stream, to, x, N,
                    columns);
}

/* Where the threads of a column meet: the numbers of a thread lie so far apart that neither they, being written, nor the
 * columns, being read, share banks. */
enum { BIAS_ROWS = 32, BIAS_THREADS = 8, BIAS_PITCH = WARP + 4 };
__device__ float *bias_sums(unsigned row) {
    __shared__ float sums[BIAS_THREADS][8 * BIAS_PITCH];
    return sums[row];
}

/* BIAS_ROWS rows and WARP * W columns a block: dz, and the sums of its columns. */
template <typename T, int W>
__global__ void __launch_bounds__(BIAS_THREADS *WARP)
    bias_grad_kernel(T *dz, float *partial, Sources from, const T *pre, int N, int O) {
    const float *dy = from.array[blockIdx.z];
    const size_t row = (size_t)gridDim.z * (size_t)O,
                 first = (size_t)blockIdx.z * (size_t)O; /* of dz and partial */
    const int left = (int)blockIdx.x * WARP * W, column = left + (int)threadIdx.x * W;
    float sum[W] = {0};
    if (column < O) {
#pragma unroll
        for (int k = 0; k < BIAS_ROWS / BIAS_THREADS; k++) {
            const int n = (int)blockIdx.y * BIAS_ROWS + k * BIAS_THREADS + (int)threadIdx.y;
            if (n >= N) break;
            const size_t at = (size_t)n * (size_t)O + (size_t)column;
            float g[W], z[W];
            load(g, dy + at);
            if (pre) {
                load(z, pre + at);
#pragma unroll
                for (int i = 0; i < W; i++) g[i] *= gelu_slope(z[i]);
            }
            if (pre || sizeof(T) == 2) store(dz + (size_t)n * row + first + (size_t)column, g);
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] += g[i];
        }
    }
#pragma unroll
    for (int i = 0; i < W; i++) bias_sums(threadIdx.y)[i * BIAS_PITCH + (int)threadIdx.x] = sum[i];
    __syncthreads();
    const int c = (int)(threadIdx.y * WARP + threadIdx.x);
    if (c >= WARP * W || left + c >= O) return;
    float total = 0;
    for (unsigned i = 0; i < BIAS_THREADS; i++) total += bias_sums(i)[c % W * BIAS_PITCH + c / W];
    partial[(size_t)blockIdx.y * row + first + (size_t)(left + c)] = total;
}

template <typename T, int W>
void bias_grad(cudaStream_t stream, T *dz, float *partial, const Sources &dy, int count, const T *pre, int N,
               int O) {
    bool vectors = true;
    for (int i = 0; i < count; i++) vectors = vectors && aligned(W, (size_t)O, dz, dy.array[i], pre);
    auto *kernel = vectors ? bias_grad_kernel<T, W> : bias_grad_kernel<T, 1>;
    const dim3 grid(blocks_of((size_t)O, (size_t)(WARP * (vectors ? W : 1))), blocks_of((size_t)N, BIAS_ROWS),
                    (unsigned)count);
    CUDA_LAUNCH(kernel, grid, dim3(WARP, BIAS_THREADS), 0, stream, dz, partial, dy, pre, N, O);
}

/* ---- product ---- */

/* 64 x 64 of C for 256 threads, 4 x 4 each; 16 deep at a time. */
enum { TILE = 64, DEEP = 16, PITCH = TILE + 4 };
__device__ float (*tile_of(int which))[PITCH] {
    __shared__ float tiles[2][DEEP][PITCH];
    return tiles[which];
}

/* to[k][m] = x(m, k), m from `first`; zeros outside. Threads that follow each other read what lies together. */
template <typename T>
__device__ void load_tile(float (*to)[PITCH], const T *x, size_t row, size_t column, int first, int rows,
                          int from, int depth) {
    for (int i = (int)threadIdx.x; i < TILE * DEEP; i += 256) {
        const int m = column == 1 ? i / DEEP : i % TILE, k = column == 1 ? i % DEEP : i / TILE;
        float v[1] = {0};
        if (first + m < rows && from + k < depth)
            load(v, x + (size_t)(first + m) * row + (size_t)(from + k) * column);
        to[k][m] = v[0];
    }
}

template <typename In, typename Out>
__global__ void __launch_bounds__(256) product_kernel(CudaProduct p) {
    float(*a)[PITCH] = tile_of(0), (*b)[PITCH] = tile_of(1);
    const int m0 = (int)blockIdx.y * TILE, n0 = (int)blockIdx.x * TILE;
    const int m = (int)threadIdx.x / 16 * 4, n = (int)threadIdx.x % 16 * 4;
    float sum[4][4] = {{0}};
    for (int k0 = 0; k0 < p.K; k0 += DEEP) {
        load_tile(a, (const In *)p.a, p.a_row, p.a_column, m0, p.M, k0, p.K);
        load_tile(b, (const In *)p.b, p.b_column, p.b_row, n0, p.N, k0, p.K);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEEP; k++) {
            float x[4], y[4];
            load(x, &a[k][m]);
            load(y, &b[k][n]);
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i / 4][i % 4] += x[i / 4] * y[i % 4];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int row = m0 + m + i / 4, column = n0 + n + i % 4;
        if (row >= p.M || column >= p.N) continue;
        float v[1] = {sum[i / 4][i % 4]}, more[1] = {0};
        Out *to = (Out *)p.c + (size_t)row * (size_t)p.N + column;
        if (p.bias) load(more, (const Out *)p.bias + column);
        v[0] += more[0];
        if (p.add) {
            load(more, to);
            v[0] += more[0];
        }
        store(to, v);
    }
}

/* ---- loss ---- */

/* A thread for each row: K is small. In double, as rows are few and what is left of a small loss counts. */
__global__ void loss_kernel(float *loss, float *dlogits, const float *logits, const float *target,
                            const float *weight, float scale, int S, int K) {
    const int s = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (s >= S) return;
    const float *z = logits + (size_t)s * (size_t)K, *t = target + (size_t)s * (size_t)K;
    float *dz = dlogits + (size_t)s * (size_t)K;
    const double w = weight ? (double)weight[s] : 1;
    if (K == 1) {
        const double off = (double)z[0] - (double)t[0];
        loss[s] = (float)(w * off * off);
        dz[0] = (float)(2 * (double)scale * w * off);
        return;
    }
    double most = (double)z[0], sum = 0, total = 0, cross = 0;
    for (int k = 1; k < K; k++) most = (double)z[k] > most ? (double)z[k] : most;
    for (int k = 0; k < K; k++) sum += exp((double)z[k] - most);
    const double log_sum = log(sum);
    for (int k = 0; k < K; k++) {
        total += (double)t[k];
        if (t[k] != 0) cross -= (double)t[k] * ((double)z[k] - most - log_sum);
    }
    loss[s] = (float)(w * cross);
    for (int k = 0; k < K; k++)
        dz[k] = (float)((double)scale * w * (total * (exp((double)z[k] - most) / sum) - (double)t[k]));
}

} // namespace

/* ---- what the host calls ---- */

/* One of two calls, by the type of activations. */
#define BY_TYPE(call_bf16, call_float) \
    do {                               \
        if (bf16)                      \
            call_bf16;                 \
        else                           \
            call_float;                \
    } while (0)

void cuda_widen(cudaStream_t stream, bool bf16, float *y, const Act *x, size_t n) {
    BY_TYPE((elements<8, false>(stream, y, (const Bf16 *)x, n, Widen())),
            (elements<4, false>(stream, y, (const float *)x, n, Widen())));
}

void cuda_add(cudaStream_t stream, float *y, const float *x, size_t n) {
    elements<4, true>(stream, y, x, n, Add());
}

void cuda_gelu(cudaStream_t stream, bool bf16, Act *y, const Act *pre, size_t n) {
    BY_TYPE((elements<8, false>(stream, (Bf16 *)y, (const Bf16 *)pre, n, Gelu())),
            (elements<4, false>(stream, (float *)y, (const float *)pre, n, Gelu())));
}

void cuda_gelu_grad(cudaStream_t stream, float *dy, const float *pre, size_t n) {
    elements<4, true>(stream, dy, pre, n, GeluGrad());
}

template <typename T, int W>
static void dropout(cudaStream_t stream, T *y, const T *x, const Dropout *drop, int N, int H) {
    const bool vectors = aligned(W, (size_t)H, y, x);
    auto *kernel = vectors ? dropout_kernel<T, W> : dropout_kernel<T, 1>;
    const dim3 grid(blocks_of((size_t)N, ROW_WARPS),
                    blocks_of((size_t)H, (size_t)(WARP * (vectors ? W : 1))));
    CUDA_LAUNCH(kernel, grid, dim3(WARP, ROW_WARPS), 0, stream, y, x, drop_of(drop), N, H);
}

void cuda_dropout(cudaStream_t stream, bool bf16, Act *y, const Act *x, const Dropout *drop, int N, int H) {
    if (N == 0) return;
    BY_TYPE((dropout<Bf16, 8>(stream, (Bf16 *)y, (const Bf16 *)x, drop, N, H)),
            (dropout<float, 4>(stream, (float *)y, (const float *)x, drop, N, H)));
}

void cuda_embed(cudaStream_t stream, bool bf16, Act *y, const float *table, const int32_t *ids, int N,
                int H) {
    BY_TYPE((move_rows<8, false>(stream, (Bf16 *)y, table, ids, N, H)),
            (move_rows<4, false>(stream, (float *)y, table, ids, N, H)));
}

void cuda_embed_grad(cudaStream_t stream, float *dtable, const int32_t *slot, const float *dy, int N, int H) {
    if (N == 0) return;
    auto *kernel = aligned(4, (size_t)H, dtable, dy) ? embed_grad_kernel<4> : embed_grad_kernel<1>;
    CUDA_LAUNCH(kernel, (unsigned)N, EMBED_THREADS, 0, stream, dtable, slot, dy, N, H);
}

void cuda_gather(cudaStream_t stream, bool bf16, Act *y, const Act *x, const int32_t *at, int S, int H) {
    BY_TYPE((move_rows<8, false>(stream, (Bf16 *)y, (const Bf16 *)x, at, S, H)),
            (move_rows<4, false>(stream, (float *)y, (const float *)x, at, S, H)));
}

void cuda_scatter(cudaStream_t stream, float *dx, const float *dy, const int32_t *at, int S, int H) {
    move_rows<4, true>(stream, dx, dy, at, S, H);
}

void cuda_loss(cudaStream_t stream, float *loss, float *dlogits, const float *logits, const float *target,
               const float *weight, float scale, int S, int K) {
    if (S > 0)
        CUDA_LAUNCH(loss_kernel, blocks_of((size_t)S, 64), 64, 0, stream, loss, dlogits, logits, target,
                    weight, scale, S, K);
}

size_t cuda_norm_partials(int N, int H) {
    return (size_t)(N < NORM_BLOCKS ? N : NORM_BLOCKS) * 2 * (size_t)H; /* fewer rows may be more blocks */
}

size_t cuda_bias_partials(int N, int O) {
    return (size_t)blocks_of((size_t)N, BIAS_ROWS) * (size_t)O;
}

void cuda_norm(cudaStream_t stream, bool bf16, Act *y, Act *xhat, float *rstd, const Act *x, const Act *r,
               const float *w, const float *b, const Dropout *drop, int N, int H, float eps) {
    if (N == 0) return;
    BY_TYPE((norm<Bf16, 8>(stream, (Bf16 *)y, (Bf16 *)xhat, rstd, (const Bf16 *)x, (const Bf16 *)r, w, b,
                           drop_of(drop), N, H, eps)),
            (norm<float, 4>(stream, (float *)y, (float *)xhat, rstd, (const float *)x, (const float *)r, w, b,
                            drop_of(drop), N, H, eps)));
}

void cuda_norm_grad(cudaStream_t stream, bool bf16, float *dx, float *dr, const float *dy, const Act *xhat,
                    const float *rstd, const float *w, const Dropout *drop, int N, int H, float *partial) {
    if (N == 0) return;
    BY_TYPE(
        (norm_grad<Bf16, 8>(stream, dx, dr, partial, dy, (const Bf16 *)xhat, rstd, w, drop_of(drop), N, H)),
        (norm_grad<float, 4>(stream, dx, dr, partial, dy, (const float *)xhat, rstd, w, drop_of(drop), N,
                             H)));
}

void cuda_norm_fold(cudaStream_t stream, float *dw, float *db, const float *partial, int N, int H) {
    if (N > 0) fold(stream, {{dw, db}, H}, partial, norm_blocks(N), 2 * H);
}

void cuda_bias_grad(cudaStream_t stream, bool bf16, Act *dz, float *const *dy, int count, const Act *pre,
                    int N, int O, float *partial) {
    if (N == 0) return;
    Sources from = {};
    for (int i = 0; i < count; i++) from.array[i] = dy[i];
    BY_TYPE((bias_grad<Bf16, 8>(stream, (Bf16 *)dz, partial, from, count, (const Bf16 *)pre, N, O)),
            (bias_grad<float, 4>(stream, (float *)dz, partial, from, count, (const float *)pre, N, O)));
}

void cuda_bias_fold(cudaStream_t stream, float *const *db, int count, const float *partial, int N, int O) {
    Targets to = {{}, O};
    for (int i = 0; i < count; i++) to.array[i] = db[i];
    fold(stream, to, partial, (int)blocks_of((size_t)N, BIAS_ROWS), count * O);
}

void cuda_column_sums(cudaStream_t stream, float *sums, const float *x, int N, int O) {
    fold(stream, {{sums}, O}, x, N, O);
}

void cuda_product(cudaStream_t stream, const CudaProduct *p) {
    if (p->M == 0 || p->N == 0) return;
    auto *kernel = !p->in_bf16   ? product_kernel<float, float>
                   : p->out_bf16 ? product_kernel<Bf16, Bf16>
                                 : product_kernel<Bf16, float>;
    const dim3 grid(blocks_of((size_t)p->N, TILE), blocks_of((size_t)p->M, TILE));
    CUDA_LAUNCH(kernel, grid, 256, 0, stream, *p);
}
