/* model/cuda_attention.cu - disentangled attention on tensor cores, bfloat16 with D = 64, and what chooses between it
 * and cuda_attention_any.cu.
 *
 * A block of four warps keeps 64 rows of one kind (forward and for dq: queries, for dk and dv: keys), each warp 16 of
 * them, and goes through the 64-row tiles of the other kind. X is the side that stays, Y the side that comes by, D0 the
 * distance between their first rows. A pair of tiles needs the distances D0 - 64 .. D0 + 63 of both tables, which lie in
 * rings of 128 rows: of the next pair's, half are there already. Products of rows with a table go through shared memory
 * (`bias`), written where their score is: a row of 16 rows' product has 80 distances of which 64 are its scores.
 *
 * Tiles have rows of 128 bytes, whose 16-byte chunks are exchanged by the row's number, so that a matrix load meets all
 * banks. Scores are in units of log2. */
#include "model/cuda_attention.h"
#include "model/cuda_tile.h"

#define TILE         64
#define HEAD         64 /* D */
#define THREADS      128
#define BIAS_STRIDE  72 /* words: 4 rows read as pairs meet all banks */
#define BAND_STRIDE  88 /* halves: 80 and padding */
#define FOLD_ROWS    8
#define MOST_LONGEST 1024 /* bits of Distances.written */

#define PARTS_BYTES ((size_t)160 << 20)

/* Blocks of a gradient, two on each multiprocessor of the largest GPUs, three of the forward kernel's. Tests take fewer, so
 * that each has several items. */
#ifndef CUDA_ATTENTION_BLOCKS
#define CUDA_ATTENTION_BLOCKS 264
#endif
#define FORWARD_BLOCKS (CUDA_ATTENTION_BLOCKS * 3 / 2)

typedef __nv_bfloat16 Bf16;

/* Dynamic shared memory. */
typedef struct {
    Bf16 x[TILE * HEAD], y[TILE * HEAD], y2[TILE * HEAD]; /* y2: v or dout beside y */
    Bf16 xr[2 * TILE * HEAD], yr[2 * TILE * HEAD]; /* rings of the tables that x and y are multiplied with */
    float bias[TILE * BIAS_STRIDE];
    CudaAttentionQueue queue;
    int padding; /* to a multiple of 16 bytes */
} Shared;

typedef struct {
    Shared s;
    Bf16 x2[TILE * HEAD]; /* dout or v beside x */
    Bf16 band[TILE *
              BAND_STRIDE]; /* dS of row x by distance, from the first that its warp needs; zeros around */
    uint64_t key[TILE];     /* of queries that come by */
    float lse[TILE], delta[TILE];
} SharedGrad;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800 /* as in the kernels: others have none of bfloat16 */
static __device__ __forceinline__ Bf16 *at(Bf16 *tile, int row, int chunk) {
    return tile + row * HEAD + ((chunk ^ (row & 7)) << 3);
}

/* ---- from global to shared memory ---- */
/* TILE rows, of which `rows` exist; the others become zeros. */
static __device__ __forceinline__ void load_tile(Bf16 *tile, const Bf16 *from, int rows, size_t stride) {
    UNROLL
    for (int i = 0; i < TILE * 8 / THREADS; i++) {
        const int n = (int)threadIdx.x + i * THREADS, row = n >> 3, chunk = n & 7;
        cuda_tile_copy16(at(tile, row, chunk), from + (size_t)min(row, rows - 1) * stride + chunk * 8,
                         row < rows);
    }
}

static __device__ __forceinline__ void load_floats(Bf16 *tile, const float *from, int rows, size_t stride) {
    UNROLL
    for (int i = 0; i < TILE * 8 / THREADS; i++) {
        const int n = (int)threadIdx.x + i * THREADS, row = n >> 3, chunk = n & 7;
        uint4 packed = make_uint4(0, 0, 0, 0);
        if (row < rows) {
            const float4 *f = (const float4 *)(from + (size_t)row * stride + chunk * 8);
            const float4 a = f[0], b = f[1];
            packed = make_uint4(cuda_tile_pack(a.x, a.y), cuda_tile_pack(a.z, a.w), cuda_tile_pack(b.x, b.y),
                                cuda_tile_pack(b.z, b.w));
        }
        *(uint4 *)at(tile, row, chunk) = packed;
    }
}

/* The distances around d0, of which those around `had` are there: rows of the tables for this thread's copies, asked for
 * before other copies are, so that they are known after them. */
typedef struct {
    int first, count, row[8];
} Window;

static __device__ __forceinline__ Window window_rows(int d0, int had, const CudaAttention &s) {
    Window w;
    w.first = d0 == had + TILE ? d0 : d0 - TILE;
    w.count = d0 == had ? 0 : d0 == had + TILE || d0 == had - TILE ? 4 : 8;
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int d = w.first + ((int)threadIdx.x + i * THREADS) / 8, most = s.longest - 1;
        w.row[i] = i < w.count ? s.index[max(-most, min(most, d))] : 0; /* those beyond are of no score */
    }
    return w;
}

/* They go into both rings. */
static __device__ __forceinline__ void load_window(Shared *m, const Window &w, const Bf16 *xr, const Bf16 *yr,
                                                   size_t stride) {
    const int chunk = (int)(threadIdx.x & 7);
    UNROLL
    for (int i = 0; i < 8; i++) {
        if (i >= w.count) continue;
        const int slot = (w.first + ((int)threadIdx.x + i * THREADS) / 8) & (2 * TILE - 1);
        const size_t from = (size_t)w.row[i] * stride + (size_t)(chunk * 8);
        cuda_tile_copy16(at(m->xr, slot, chunk), xr + from, true);
        cuda_tile_copy16(at(m->yr, slot, chunk), yr + from, true);
    }
}

/* ---- fragments ---- */
/* A: 16 rows from `row` on, columns 16 k .. */
static __device__ __forceinline__ void load_a(uint32_t (&a)[4], Bf16 *tile, int row, int k) {
    const int lane = (int)(threadIdx.x & 31);
    cuda_tile_load4(a, at(tile, row + (lane & 15), 2 * k + (lane >> 4)));
}

/* Two Bs: the transpose of 16 rows, columns 16 k .. */
static __device__ __forceinline__ void load_b(uint32_t (&b)[4], Bf16 *tile, int row, int k) {
    const int lane = (int)(threadIdx.x & 31);
    cuda_tile_load4(b, at(tile, row + (lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1)));
}

/* Two Bs: 16 rows, columns 16 n .. */
static __device__ __forceinline__ void load_b_rows(uint32_t (&b)[4], Bf16 *tile, int row, int n) {
    const int lane = (int)(threadIdx.x & 31);
    cuda_tile_load4_t(b, at(tile, row + (lane & 15), 2 * n + (lane >> 4)));
}

/* c (16,64) += a (16,16) b (16,64), with b the rows from `row` on. */
static __device__ __forceinline__ void add_product(float (&c)[8][4], const uint32_t (&a)[4], Bf16 *tile,
                                                   int row) {
    UNROLL
    for (int n = 0; n < 4; n++) {
        uint32_t b[4];
        load_b_rows(b, tile, row, n);
        cuda_tile_mma(c[2 * n], a, b[0], b[1]);
        cuda_tile_mma(c[2 * n + 1], a, b[2], b[3]);
    }
}

static __device__ __forceinline__ void clear(float (&c)[8][4]) {
    UNROLL
    for (int n = 0; n < 8; n++) UNROLL
    for (int i = 0; i < 4; i++) c[n][i] = 0;
}

/* ---- scores ---- */
/* Row f of the 80 distances that the warp's 16 rows need has distance d0 - 64 + band_first + f, and belongs with row r of
 * them to the other side's row r - f + 64 (rows that are queries) or f + r - 16 (keys). */
template <bool KEYS>
static __device__ __forceinline__ int band_first(int warp) {
    return KEYS ? 48 - 16 * warp : 16 * warp;
}

template <bool KEYS>
static __device__ __forceinline__ int other_row(int r, int f) {
    return KEYS ? f + r - 16 : r - f + 64;
}

/* Whether distances 16 f .. of those 80 belong to none of the other side's rows that there are. */
template <bool KEYS>
static __device__ __forceinline__ bool beyond(int f, int others) {
    return KEYS ? 16 * f - 16 >= others : 49 - 16 * f >= others;
}

/* Where the score of row and column is in bias. CROSS: columns are exchanged by eights in every second four of rows, so
 * that 8 rows written down 8 columns meet all banks. */
template <bool CROSS>
static __device__ __forceinline__ int bias_at(int row, int column) {
    return row * BIAS_STRIDE + (CROSS ? column ^ ((row & 4) * 2) : column);
}

/* The warp's 16 rows of `tile` times its distances in the ring, to where their scores are: bias[row][other] or, CROSS,
 * bias[other][row]. */
template <bool KEYS, bool CROSS>
static __device__ __forceinline__ void multiply_window(float *bias, Bf16 *tile, Bf16 *ring, int d0,
                                                       int others) {
    const int warp = (int)threadIdx.x / 32, g = (int)(threadIdx.x & 31) / 4, c = (int)(threadIdx.x & 3) * 2;
    uint32_t a[4][4];
    UNROLL
    for (int k = 0; k < 4; k++) load_a(a[k], tile, 16 * warp, k);
    UNROLL
    for (int p = 0; p < 5; p++) {
        if (beyond<KEYS>(p, others)) continue;
        const int row = (d0 - TILE + band_first<KEYS>(warp) + 16 * p) & (2 * TILE - 1);
        float t[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
        UNROLL
        for (int k = 0; k < 4; k++) {
            uint32_t b[4];
            load_b(b, ring, row, k);
            cuda_tile_mma(t[0], a[k], b[0], b[1]);
            cuda_tile_mma(t[1], a[k], b[2], b[3]);
        }
        UNROLL
        for (int i = 0; i < 8; i++) {
            const int r = g + (i >> 1 & 1) * 8,
                      other = other_row<KEYS>(r, 16 * p + (i >> 2) * 8 + c + (i & 1));
            const int mine = 16 * warp + r;
            if ((p > 0 && p < 4) || (unsigned)other < TILE)
                bias[CROSS ? bias_at<true>(other, mine) : bias_at<false>(mine, other)] = t[i >> 2][i & 3];
        }
    }
}

/* s += this lane's part of the warp's rows of bias */
template <bool CROSS>
static __device__ __forceinline__ void add_bias(float (&s)[8][4], const float *bias) {
    const int warp = (int)threadIdx.x / 32, g = (int)(threadIdx.x & 31) / 4, c = (int)(threadIdx.x & 3) * 2;
    UNROLL
    for (int n = 0; n < 8; n++) UNROLL
    for (int h = 0; h < 2; h++) {
        const float2 t = *(const float2 *)(bias + bias_at<CROSS>(16 * warp + g + 8 * h, 8 * n + c));
        s[n][2 * h] += t.x;
        s[n][2 * h + 1] += t.y;
    }
}

/* s (16,64) += the warp's rows of x times y's rows, the first ny of them */
static __device__ __forceinline__ void multiply_rows(float (&s)[8][4], Bf16 *x, Bf16 *y, int ny) {
    const int warp = (int)threadIdx.x / 32;
    uint32_t a[4][4];
    UNROLL
    for (int k = 0; k < 4; k++) load_a(a[k], x, 16 * warp, k);
    UNROLL
    for (int p = 0; p < 4; p++) {
        if (16 * p >= ny) continue;
        UNROLL
        for (int k = 0; k < 4; k++) {
            uint32_t b[4];
            load_b(b, y, 16 * p, k);
            cuda_tile_mma(s[2 * p], a[k], b[0], b[1]);
            cuda_tile_mma(s[2 * p + 1], a[k], b[2], b[3]);
        }
    }
}

/* Scores, not scaled, of the warp's 16 rows with the y tile; what lies beyond nx and ny is anything, NaN too. All threads
 * of the block call it, with all tiles in place. */
template <bool KEYS>
static __device__ __forceinline__ void scores(float (&s)[8][4], Shared *m, int d0, int nx, int ny) {
    const int warp = (int)threadIdx.x / 32;
    if (16 * warp < ny) multiply_window<!KEYS, true>(m->bias, m->y, m->yr, d0, nx);
    __syncthreads();
    if (16 * warp >= nx) return;
    clear(s);
    add_bias<true>(s, m->bias);
    __syncwarp();
    multiply_window<KEYS, false>(m->bias, m->x, m->xr, d0, ny);
    __syncwarp();
    add_bias<false>(s, m->bias);
    multiply_rows(s, m->x, m->y, ny);
}

static __device__ __forceinline__ float most_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

static __device__ __forceinline__ float sum_of_row(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* ---- forward ---- */
/* Takes the scores in, leaves probabilities (of the running maximum, dropped but not scaled up) in s. */
static __device__ __forceinline__ void soften(float (&s)[8][4], float (&o)[8][4], float (&most)[2],
                                              float (&sum)[2], const uint64_t (&key)[2], uint32_t limit,
                                              int y0, int ny, const CudaAttention &shape) {
    const int c = (int)(threadIdx.x & 3) * 2;
    const float scale = shape.scale * CUDA_ATTENTION_LOG2E;

    UNROLL
    for (int h = 0; h < 2; h++) {
        float high = most[h], part = 0;
        UNROLL
        for (int n = 0; n < 8; n++) UNROLL
        for (int i = 0; i < 2; i++) {
            float &x = s[n][2 * h + i];
            x = 8 * n + c + i < ny ? x * scale : -INFINITY;
            high = fmaxf(high, x);
        }
        high = most_of_row(high);
        const float owed = cuda_tile_exp2(most[h] - high);
        most[h] = high;
        UNROLL
        for (int n = 0; n < 8; n++) UNROLL
        for (int i = 0; i < 2; i++) {
            float &x = s[n][2 * h + i];
            x = cuda_tile_exp2(x - high);
            part += x;
        }
        sum[h] = sum[h] * owed + sum_of_row(part);
        UNROLL
        for (int n = 0; n < 8; n++) UNROLL
        for (int i = 0; i < 2; i++) {
            o[n][2 * h + i] *= owed;
            if (limit && ops_drop_bits(key[h], (uint32_t)(y0 + 8 * n + c + i)) < limit) s[n][2 * h + i] = 0;
        }
    }
}

/* The fragment of A that columns 16 k .. of these accumulators are. */
static __device__ __forceinline__ void pack_a(uint32_t (&a)[4], const float (&s)[8][4], int k) {
    a[0] = cuda_tile_pack(s[2 * k][0], s[2 * k][1]);
    a[1] = cuda_tile_pack(s[2 * k][2], s[2 * k][3]);
    a[2] = cuda_tile_pack(s[2 * k + 1][0], s[2 * k + 1][1]);
    a[3] = cuda_tile_pack(s[2 * k + 1][2], s[2 * k + 1][3]);
}

#endif

static __global__ void __launch_bounds__(THREADS, 3)
    attention_forward(Bf16 *out, const Bf16 *q, const Bf16 *k, const Bf16 *v, const Bf16 *kr, const Bf16 *qr,
                      const CudaAttention shape) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    CUDA_DYNAMIC_SHARED(memory);
    Shared *const m = (Shared *)memory;
    const int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32, g = (int)(threadIdx.x & 31) / 4;
    const int c = (int)(threadIdx.x & 3) * 2;
    const size_t stride = (size_t)shape.A * HEAD, column = (size_t)head * HEAD;
    const uint32_t limit = shape.p > 0 ? ops_drop_limit(shape.p) : 0;
    int window = CUDA_ATTENTION_NONE;
    cuda_attention_next<TILE>(&m->queue, true, shape.start, shape.S);
    __syncthreads();
    while (m->queue.more) {
        const CudaAttentionItem item = m->queue.item;
        const size_t base = (size_t)item.first * stride + column;
        const int nx = min(TILE, item.L - item.x), row = 16 * warp + g;
        float o[8][4], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        uint64_t key[2];
        clear(o);
        UNROLL
        for (int h = 0; h < 2; h++)
            key[h] = cuda_attention_key(shape, item.first + item.x + min(row + 8 * h, nx - 1), head);
        __syncthreads();
        load_tile(m->x, q + base + (size_t)item.x * stride, nx, stride);
        for (int y = 0; y < item.L; y += TILE) {
            const int ny = min(TILE, item.L - y), d0 = item.x - y;
            const Window w = window_rows(d0, window, shape);
            if (y) __syncthreads();
            load_tile(m->y, k + base + (size_t)y * stride, ny, stride);
            load_window(m, w, kr + column, qr + column, stride);
            cuda_tile_commit();
            load_tile(m->y2, v + base + (size_t)y * stride, ny, stride);
            cuda_tile_commit();
            window = d0;
            if (y == 0) cuda_attention_next<TILE>(&m->queue, false, shape.start, shape.S);
            cuda_tile_wait<1>();
            __syncthreads();
            float s[8][4];
            scores<false>(s, m, d0, nx, ny);
            if (16 * warp < nx) soften(s, o, most, sum, key, limit, y, ny, shape);
            cuda_tile_wait<0>();
            __syncthreads();
            if (16 * warp >= nx) continue;
            UNROLL
            for (int i = 0; i < 4; i++) {
                uint32_t a[4];
                pack_a(a, s, i);
                if (16 * i < ny) add_product(o, a, m->y2, 16 * i);
            }
        }
        UNROLL
        for (int h = 0; h < 2; h++) {
            if (row + 8 * h >= nx) continue;
            const float by = 1 / ((1 - shape.p) * sum[h]);
            Bf16 *to = out + base + (size_t)(item.x + row + 8 * h) * stride + c;
            UNROLL
            for (int i = 0; i < 8; i++)
                *(uint32_t *)(to + 8 * i) = cuda_tile_pack(o[i][2 * h] * by, o[i][2 * h + 1] * by);
        }
    }
#endif
}

/* ---- gradient ---- */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
/* What a block sums for its table: of the distances around d0 those 16 of either half that belong to the warp. */
typedef struct {
    float low[8][4], high[8][4];
    int d0;
    float *part;      /* of the block, distance 0 */
    uint32_t written; /* bit i: the 64 distances from 64 i - reach on; the others hold anything yet */
} Distances;

static __device__ __forceinline__ void flush_half(float (&sum)[8][4], Distances *t, int d, int reach,
                                                  float scale) {
    const int warp = (int)threadIdx.x / 32, g = (int)(threadIdx.x & 31) / 4, c = (int)(threadIdx.x & 3) * 2;
    const uint32_t bit = 1u << ((d + reach) / TILE);
    const bool again = (t->written & bit) != 0;
    t->written |= bit;
    UNROLL
    for (int h = 0; h < 2; h++) {
        float *row = t->part + (d + 16 * warp + g + 8 * h) * HEAD + c;
        UNROLL
        for (int n = 0; n < 8; n++) {
            float2 *to = (float2 *)(row + 8 * n);
            const float2 had = again ? *to : make_float2(0, 0);
            *to = make_float2(had.x + scale * sum[n][2 * h], had.y + scale * sum[n][2 * h + 1]);
        }
    }
    clear(sum);
}

static __device__ __forceinline__ void move(float (&to)[8][4], float (&from)[8][4]) {
    UNROLL
    for (int n = 0; n < 8; n++) UNROLL
    for (int i = 0; i < 4; i++) {
        to[n][i] = from[n][i];
        from[n][i] = 0;
    }
}

/* Makes the sums those of the distances around d0. */
static __device__ __forceinline__ void turn_to(Distances *t, int d0, int reach, float scale) {
    if (t->d0 == d0) return;
    if (t->d0 != CUDA_ATTENTION_NONE) {
        if (d0 != t->d0 - TILE) flush_half(t->low, t, t->d0 - TILE, reach, scale);
        if (d0 != t->d0 + TILE) flush_half(t->high, t, t->d0, reach, scale);
        if (d0 == t->d0 + TILE) move(t->low, t->high);
        if (d0 == t->d0 - TILE) move(t->high, t->low);
    }
    t->d0 = d0;
}

/* The band of dS, transposed, times x: what the distances get from all rows of the block. */
template <bool KEYS>
static __device__ __forceinline__ void add_distances(Distances *t, SharedGrad *m, int nx, int ny) {
    const int lane = (int)(threadIdx.x & 31), mine = (int)threadIdx.x / 32;
    UNROLL
    for (int half = 0; half < 2; half++)
        for (int warp = 0; warp < 4; warp++) { /* of whom these rows of the band are */
            const int f = KEYS ? mine + 4 * half + warp - 3 : mine + 4 * half - warp;
            if (f < 0 || f > 4 || 16 * warp >= nx || beyond<KEYS>(f, ny)) continue;
            uint32_t a[4];
            cuda_tile_load4_t(a, m->band + (16 * warp + (lane & 7) + (lane >> 4) * 8) * BAND_STRIDE + 16 * f +
                                     (lane >> 3 & 1) * 8);
            add_product(half ? t->high : t->low, a, m->s.x, 16 * warp);
        }
}

/* dx += dS of columns 16 k .. of y times y, and puts dS into the band. */
template <bool KEYS>
static __device__ __forceinline__ void add_rows(float (&dx)[8][4], const float (&ds)[2][4], SharedGrad *m,
                                                int k, int ny) {
    const int warp = (int)threadIdx.x / 32, g = (int)(threadIdx.x & 31) / 4, c = (int)(threadIdx.x & 3) * 2;
    uint32_t a[4];
    a[0] = cuda_tile_pack(ds[0][0], ds[0][1]);
    a[1] = cuda_tile_pack(ds[0][2], ds[0][3]);
    a[2] = cuda_tile_pack(ds[1][0], ds[1][1]);
    a[3] = cuda_tile_pack(ds[1][2], ds[1][3]);
    if (16 * k < ny) add_product(dx, a, m->s.y, 16 * k);
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = g + (i >> 1 & 1) * 8, y = 16 * k + (i >> 2) * 8 + c + (i & 1);
        const int f = KEYS ? y - r + 16 : r - y + 64;
        const uint32_t pair = a[(i >> 1 & 1) + (i >> 2) * 2];
        m->band[(16 * warp + r) * BAND_STRIDE + f] =
            __ushort_as_bfloat16((unsigned short)(i & 1 ? pair >> 16 : pair));
    }
}

/* dx += the band times the table's rows */
template <bool KEYS>
static __device__ __forceinline__ void add_band(float (&dx)[8][4], SharedGrad *m, int d0, int ny) {
    const int lane = (int)(threadIdx.x & 31), warp = (int)threadIdx.x / 32;
    UNROLL
    for (int f = 0; f < 5; f++) {
        if (beyond<KEYS>(f, ny)) continue;
        uint32_t a[4];
        cuda_tile_load4(a, m->band + (16 * warp + (lane & 15)) * BAND_STRIDE + 16 * f + (lane >> 4) * 8);
        add_product(dx, a, m->s.xr, (d0 - TILE + band_first<KEYS>(warp) + 16 * f) & (2 * TILE - 1));
    }
}

static __device__ __forceinline__ void distances_init(Distances *t, float *parts, int reach) {
    t->d0 = CUDA_ATTENTION_NONE;
    t->part = parts + ((size_t)(blockIdx.x * gridDim.y + blockIdx.y) * 2 + 1) * (size_t)(reach * HEAD);
    t->written = 0;
    clear(t->low);
    clear(t->high);
}

/* What is left, and zeros for the distances that the block never met. */
static __device__ __forceinline__ void distances_end(Distances *t, int reach, float scale) {
    turn_to(t, CUDA_ATTENTION_NONE, reach, scale);
    for (int d = -reach; d < reach; d += TILE)
        if (!(t->written >> ((d + reach) / TILE) & 1)) flush_half(t->low, t, d, reach, scale);
}

/* Zeros where the band has none of dS. */
static __device__ __forceinline__ void clear_band(SharedGrad *m) {
    for (int i = (int)threadIdx.x; i < TILE * BAND_STRIDE; i += THREADS) m->band[i] = __ushort_as_bfloat16(0);
}

static __device__ __forceinline__ void store_rows(float *to, const float (&c)[8][4], float by, int nx,
                                                  size_t stride) {
    const int row = (int)threadIdx.x / 32 * 16 + (int)(threadIdx.x & 31) / 4;
    UNROLL
    for (int h = 0; h < 2; h++) {
        if (row + 8 * h >= nx) continue;
        float *at_row = to + (size_t)(row + 8 * h) * stride + (int)(threadIdx.x & 3) * 2;
        UNROLL
        for (int n = 0; n < 8; n++)
            *(float2 *)(at_row + 8 * n) = make_float2(c[n][2 * h] * by, c[n][2 * h + 1] * by);
    }
}

/* Of the two rows that a lane has. */
typedef struct {
    float most[2], sum[2],
        mean[2]; /* mean: of dP under exp(score - most), at last lse in `most` and delta here */
    uint64_t key[2];
} RowState;

/* Scales the scores, makes dp the gradient of the probabilities, and takes both into the rows' state. */
static __device__ __forceinline__ void take_in(RowState *r, float (&s)[8][4], float (&dp)[8][4],
                                               uint32_t limit, int y0, int ny, bool first,
                                               const CudaAttention &shape) {
    const int c = (int)(threadIdx.x & 3) * 2;
    const float scale = shape.scale * CUDA_ATTENTION_LOG2E, up = 1 / (1 - shape.p);

    UNROLL
    for (int h = 0; h < 2; h++) {
        float high = r->most[h], part = 0, mean = 0;
        UNROLL
        for (int n = 0; n < 8; n++) UNROLL
        for (int i = 0; i < 2; i++) {
            float &x = s[n][2 * h + i], &d = dp[n][2 * h + i];
            x = 8 * n + c + i < ny ? x * scale : -INFINITY;
            high = fmaxf(high, x);
            const bool drop = limit && ops_drop_bits(r->key[h], (uint32_t)(y0 + 8 * n + c + i)) < limit;
            d = drop ? 0 : d * up;
        }
        if (!first) continue;
        high = most_of_row(high);
        UNROLL
        for (int n = 0; n < 8; n++) UNROLL
        for (int i = 0; i < 2; i++) {
            const float e = cuda_tile_exp2(s[n][2 * h + i] - high);
            part += e;
            mean += e * dp[n][2 * h + i];
        }
        const float owed = cuda_tile_exp2(r->most[h] - high);
        r->most[h] = high;
        r->sum[h] = r->sum[h] * owed + sum_of_row(part);
        r->mean[h] = r->mean[h] * owed + sum_of_row(mean);
    }
}

/* After the last tile: lse and delta, for the kernel of the keys too. */
static __device__ __forceinline__ void close_rows(RowState *r, float *lse, float *delta, int nx, int A) {
    const int row = (int)threadIdx.x / 32 * 16 + (int)(threadIdx.x & 31) / 4;
    UNROLL
    for (int h = 0; h < 2; h++) {
        r->mean[h] /= r->sum[h];
        r->most[h] += log2f(r->sum[h]);
        if ((threadIdx.x & 3) != 0 || row + 8 * h >= nx) continue;
        lse[(size_t)(row + 8 * h) * (size_t)A] = r->most[h];
        delta[(size_t)(row + 8 * h) * (size_t)A] = r->mean[h];
    }
}

#endif

/* dq, and dkr by distance. Each block of rows meets the tiles of keys twice, there for lse and delta and back for the
 * gradient, the last one of them once. */
static __global__ void __launch_bounds__(THREADS, 2)
    attention_grad_queries(float *dq, const float *dout, const Bf16 *q, const Bf16 *k, const Bf16 *v,
                           const Bf16 *kr, const Bf16 *qr, const CudaAttention shape,
                           const CudaAttentionScratch scratch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    CUDA_DYNAMIC_SHARED(memory);
    SharedGrad *const m = (SharedGrad *)memory;
    const int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32,
              row = 16 * warp + (int)(threadIdx.x & 31) / 4;
    const size_t stride = (size_t)shape.A * HEAD, column = (size_t)head * HEAD;
    Distances t;
    distances_init(&t, scratch.part_kr, scratch.reach);
    clear_band(m);
    const uint32_t limit = shape.p > 0 ? ops_drop_limit(shape.p) : 0;
    int window = CUDA_ATTENTION_NONE;
    cuda_attention_next<TILE>(&m->s.queue, true, shape.start, shape.S);
    __syncthreads();
    while (m->s.queue.more) {
        const CudaAttentionItem item = m->s.queue.item;
        const size_t base = (size_t)item.first * stride + column, mine = base + (size_t)item.x * stride;
        const int nx = min(TILE, item.L - item.x), tiles = (item.L + TILE - 1) / TILE;
        float dx[8][4];
        RowState r = {{-INFINITY, -INFINITY}, {0, 0}, {0, 0}, {0, 0}};
        clear(dx);
        UNROLL
        for (int h = 0; h < 2; h++)
            r.key[h] = cuda_attention_key(shape, item.first + item.x + min(row + 8 * h, nx - 1), head);
        for (int step = 0; step < 2 * tiles - 1; step++) {
            const int y = TILE * (step < tiles ? step : 2 * tiles - 2 - step);
            const int ny = min(TILE, item.L - y), d0 = item.x - y;
            const Window w = window_rows(d0, window, shape);
            __syncthreads();
            if (step == 0) load_tile(m->s.x, q + mine, nx, stride);
            load_tile(m->s.y, k + base + (size_t)y * stride, ny, stride);
            load_tile(m->s.y2, v + base + (size_t)y * stride, ny, stride);
            load_window(&m->s, w, kr + column, qr + column, stride);
            cuda_tile_commit();
            window = d0;
            if (step == 0) {
                load_floats(m->x2, dout + mine, nx, stride);
                cuda_attention_next<TILE>(&m->s.queue, false, shape.start, shape.S);
            }
            cuda_tile_wait<0>();
            __syncthreads();
            float s[8][4], dp[8][4];
            scores<false>(s, &m->s, d0, nx, ny);
            if (16 * warp < nx) {
                clear(dp);
                multiply_rows(dp, m->x2, m->s.y2, ny);
                take_in(&r, s, dp, limit, y, ny, step < tiles, shape);
            }
            if (step < tiles - 1) continue;
            if (16 * warp < nx) {
                const size_t at_row = (size_t)(item.first + item.x) * (size_t)shape.A + (size_t)head;
                if (step == tiles - 1)
                    close_rows(&r, scratch.lse + at_row, scratch.delta + at_row, nx, shape.A);
                UNROLL
                for (int i = 0; i < 4; i++) {
                    float ds[2][4];
                    UNROLL
                    for (int j = 0; j < 8; j++) {
                        const int h = j >> 1 & 1;
                        const float p = cuda_tile_exp2(s[2 * i + (j >> 2)][j & 3] - r.most[h]);
                        const float d = p * (dp[2 * i + (j >> 2)][j & 3] - r.mean[h]);
                        ds[j >> 2][j & 3] = row + 8 * h < nx ? d : 0;
                    }
                    add_rows<false>(dx, ds, m, i, ny);
                }
                __syncwarp();
                add_band<false>(dx, m, d0, ny);
            }
            turn_to(&t, d0, scratch.reach, shape.scale);
            __syncthreads();
            add_distances<false>(&t, m, nx, ny);
        }
        store_rows(dq + mine, dx, shape.scale, nx, stride);
    }
    distances_end(&t, scratch.reach, shape.scale);
#endif
}

/* dk, dv, and dqr by distance, after the queries' kernel. */
static __global__ void __launch_bounds__(THREADS, 2)
    attention_grad_keys(float *dk, float *dv, const float *dout, const Bf16 *q, const Bf16 *k, const Bf16 *v,
                        const Bf16 *kr, const Bf16 *qr, const CudaAttention shape,
                        const CudaAttentionScratch scratch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    CUDA_DYNAMIC_SHARED(memory);
    SharedGrad *const m = (SharedGrad *)memory;
    const int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32,
              row = 16 * warp + (int)(threadIdx.x & 31) / 4;
    const int c = (int)(threadIdx.x & 3) * 2;
    const size_t stride = (size_t)shape.A * HEAD, column = (size_t)head * HEAD;
    const float scale = shape.scale * CUDA_ATTENTION_LOG2E, up = 1 / (1 - shape.p);
    Distances t;
    distances_init(&t, scratch.part_qr, scratch.reach);
    clear_band(m);
    const uint32_t limit = shape.p > 0 ? ops_drop_limit(shape.p) : 0;
    int window = CUDA_ATTENTION_NONE;
    cuda_attention_next<TILE>(&m->s.queue, true, shape.start, shape.S);
    __syncthreads();
    while (m->s.queue.more) {
        const CudaAttentionItem item = m->s.queue.item;
        const size_t base = (size_t)item.first * stride + column, mine = base + (size_t)item.x * stride;
        const int nx = min(TILE, item.L - item.x);
        float dx[8][4], dvx[8][4];
        clear(dx);
        clear(dvx);
        for (int y = 0; y < item.L; y += TILE) {
            const int ny = min(TILE, item.L - y), d0 = y - item.x;
            const Window w = window_rows(d0, window, shape);
            __syncthreads();
            if (y == 0) {
                load_tile(m->s.x, k + mine, nx, stride);
                load_tile(m->x2, v + mine, nx, stride);
            }
            load_tile(m->s.y, q + base + (size_t)y * stride, ny, stride);
            load_window(&m->s, w, qr + column, kr + column, stride);
            cuda_tile_commit();
            if (y == 0) cuda_attention_next<TILE>(&m->s.queue, false, shape.start, shape.S);
            load_floats(m->s.y2, dout + base + (size_t)y * stride, ny, stride);
            if (threadIdx.x < TILE) {
                const int i = (int)threadIdx.x, token = item.first + y + min(i, ny - 1);
                const size_t at_row = (size_t)token * (size_t)shape.A + (size_t)head;
                m->lse[i] = scratch.lse[at_row];
                m->delta[i] = scratch.delta[at_row];
                m->key[i] = cuda_attention_key(shape, token, head);
            }
            window = d0;
            cuda_tile_wait<0>();
            __syncthreads();
            float s[8][4];
            scores<true>(s, &m->s, d0, nx, ny);
            if (16 * warp < nx) {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    float dp[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}}, p[2][4];
                    UNROLL
                    for (int l = 0; l < 4; l++) {
                        uint32_t a[4], b[4];
                        load_a(a, m->x2, 16 * warp, l);
                        load_b(b, m->s.y2, 16 * i, l);
                        cuda_tile_mma(dp[0], a, b[0], b[1]);
                        cuda_tile_mma(dp[1], a, b[2], b[3]);
                    }
                    UNROLL
                    for (int j = 0; j < 8; j++) {
                        const int x = row + (j >> 1 & 1) * 8, z = 16 * i + (j >> 2) * 8 + c + (j & 1);
                        const float e = cuda_tile_exp2(s[2 * i + (j >> 2)][j & 3] * scale - m->lse[z]);
                        const float prob = x < nx && z < ny ? e : 0;
                        const bool drop = limit && ops_drop_bits(m->key[z], (uint32_t)(item.x + x)) < limit;
                        float &d = dp[j >> 2][j & 3];
                        d = prob * ((drop ? 0 : d * up) - m->delta[z]);
                        p[j >> 2][j & 3] = drop ? 0 : prob;
                    }
                    const uint32_t a[4] = {cuda_tile_pack(p[0][0], p[0][1]), cuda_tile_pack(p[0][2], p[0][3]),
                                           cuda_tile_pack(p[1][0], p[1][1]),
                                           cuda_tile_pack(p[1][2], p[1][3])};
                    add_product(dvx, a, m->s.y2, 16 * i);
                    add_rows<true>(dx, dp, m, i, ny);
                }
                __syncwarp();
                add_band<true>(dx, m, d0, ny);
            }
            turn_to(&t, d0, scratch.reach, shape.scale);
            __syncthreads();
            add_distances<true>(&t, m, nx, ny);
        }
        store_rows(dk + mine, dx, shape.scale, nx, stride);
        store_rows(dv + mine, dvx, up, nx, stride);
    }
    distances_end(&t, scratch.reach, shape.scale);
#endif
}

/* d(table) += the sum of all blocks' parts, folded from distances to rows. A warp has one row of one head. */
static __global__ void __launch_bounds__(32 * FOLD_ROWS)
    attention_fold(float *dkr, float *dqr, const CudaAttention shape, const CudaAttentionScratch scratch) {
    const int row = (int)(blockIdx.x * FOLD_ROWS + threadIdx.x / 32), head = (int)blockIdx.y;
    const int lane = (int)(threadIdx.x & 31), most = shape.longest - 1, D = shape.D;
    if (row >= shape.R) return;
    const size_t slot = (size_t)shape.A * (size_t)(2 * scratch.reach) * (size_t)D;
    const float *part = (blockIdx.z ? scratch.part_qr : scratch.part_kr) +
                        ((size_t)head * 2 + 1) * (size_t)scratch.reach * (size_t)D;
    float *to = (blockIdx.z ? dqr : dkr) + ((size_t)row * (size_t)shape.A + (size_t)head) * (size_t)D;
    int first = CUDA_ATTENTION_NONE, last = -CUDA_ATTENTION_NONE;
    for (int d = lane - most; d <= most; d += 32)
        if (shape.index[d] == row) {
            first = min(first, d);
            last = d;
        }
    for (int by = 16; by; by /= 2) {
        first = min(first, __shfl_xor_sync(0xffffffffu, first, by));
        last = max(last, __shfl_xor_sync(0xffffffffu, last, by));
    }
    for (int column = lane; column < D && first <= last; column += 32) {
        float sum = 0;
        for (int d = first; d <= last; d++) {
            if (shape.index[d] != row) continue;
            const float *from = part + (ptrdiff_t)d * D + column;
            UNROLL
            for (int i = 0; i < scratch.slots; i++) sum += from[(size_t)i * slot];
        }
        to[column] += sum;
    }
}

/* ---- the host's side ---- */
int cuda_attention_slots(int items, int most) {
    if (items < 1) return 1;
    const int each = (items + most - 1) / most;
    return (items + each - 1) / each;
}

static int items_at_most(const CudaAttention *s, int tile) {
    const int by_length = s->S * ((s->longest + tile - 1) / tile), by_tokens = s->S + s->N / tile;
    return by_length < by_tokens ? by_length : by_tokens;
}

/* Whether this device and these arrays are for the tensor cores' kernels. */
static bool has_tiles(const CudaAttention *s, const void *const *arrays, int count) {
    int device = 0, major = 0;
    if (!s->bf16 || s->D != HEAD || s->longest > MOST_LONGEST || cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess || major < 8)
        return false;
    for (int i = 0; i < count; i++)
        if ((uintptr_t)arrays[i] % 16) return false;
    return true;
}

static int reach_of(int longest) {
    return (longest + TILE - 1) / TILE * TILE;
}

static size_t bytes_of_slot(int longest, int A, int D) {
    return 4 * sizeof(float) * (size_t)reach_of(longest) * (size_t)A * (size_t)D; /* two tables, both signs */
}

static int most_slots(int longest, int A, int D) {
    const int blocks = CUDA_ATTENTION_BLOCKS / A > 1 ? CUDA_ATTENTION_BLOCKS / A : 1;
    const size_t fit = PARTS_BYTES / bytes_of_slot(longest, A, D);
    return fit < 1 ? 1 : fit < (size_t)blocks ? (int)fit : blocks;
}

extern "C" size_t cuda_attention_scratch(int tokens, int longest, int A, int D, bool bf16) {
    (void)bf16;
    const size_t slot = bytes_of_slot(longest, A, D), slots = (size_t)most_slots(longest, A, D);
    size_t parts = slot * slots;
    if ((int)slots < CUDA_ATTENTION_BLOCKS / A && parts < PARTS_BYTES)
        parts = PARTS_BYTES; /* shorter ones have more slots */
    return parts + 2 * sizeof(float) * (size_t)tokens * (size_t)A;
}

extern "C" int cuda_attention(void *out, const void *q, const void *k, const void *v, const void *kr,
                              const void *qr, const CudaAttention *shape, cudaStream_t stream) {
    const void *const arrays[] = {out, q, k, v, kr, qr};
    if (!has_tiles(shape, arrays, 6)) return cuda_attention_any(out, q, k, v, kr, qr, shape, stream);
    const int most = FORWARD_BLOCKS / shape->A > 1 ? FORWARD_BLOCKS / shape->A : 1;
    const dim3 grid((unsigned)cuda_attention_slots(items_at_most(shape, TILE), most), (unsigned)shape->A);
    const cudaError_t e = cudaFuncSetAttribute(attention_forward, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               (int)sizeof(Shared));
    if (e != cudaSuccess) return (int)e;
    CUDA_LAUNCH(attention_forward, grid, THREADS, sizeof(Shared), stream, (Bf16 *)out, (const Bf16 *)q,
                (const Bf16 *)k, (const Bf16 *)v, (const Bf16 *)kr, (const Bf16 *)qr, *shape);
    return (int)cudaGetLastError();
}

static int grad_tiles(float *dq, float *dk, float *dv, const float *dout, const Bf16 *q, const Bf16 *k,
                      const Bf16 *v, const Bf16 *kr, const Bf16 *qr, const CudaAttention *shape,
                      const CudaAttentionScratch *scratch, cudaStream_t stream) {
    const dim3 grid((unsigned)scratch->slots, (unsigned)shape->A);
    const size_t bytes = sizeof(SharedGrad);
    cudaError_t e =
        cudaFuncSetAttribute(attention_grad_queries, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(attention_grad_keys, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)bytes);
    if (e != cudaSuccess) return (int)e;
    CUDA_LAUNCH(attention_grad_queries, grid, THREADS, bytes, stream, dq, dout, q, k, v, kr, qr, *shape,
                *scratch);
    CUDA_LAUNCH(attention_grad_keys, grid, THREADS, bytes, stream, dk, dv, dout, q, k, v, kr, qr, *shape,
                *scratch);
    return (int)cudaGetLastError();
}

extern "C" int cuda_attention_grad(float *dq, float *dk, float *dv, float *dkr, float *dqr, const float *dout,
                                   const void *q, const void *k, const void *v, const void *kr,
                                   const void *qr, const CudaAttention *shape, void *scratch,
                                   cudaStream_t stream) {
    const void *const arrays[] = {dq, dk, dv, dout, q, k, v, kr, qr};
    const bool tiles = has_tiles(shape, arrays, 9);
    const size_t rows = (size_t)shape->N * (size_t)shape->A;
    CudaAttentionScratch s;
    s.reach = reach_of(shape->longest);
    s.slots = cuda_attention_slots(items_at_most(shape, tiles ? TILE : CUDA_ATTENTION_ANY_TILE),
                                   most_slots(shape->longest, shape->A, shape->D));
    s.part_kr = (float *)scratch;
    s.part_qr = s.part_kr + bytes_of_slot(shape->longest, shape->A, shape->D) / 8 * (size_t)s.slots;
    s.lse = s.part_qr + bytes_of_slot(shape->longest, shape->A, shape->D) / 8 * (size_t)s.slots;
    s.delta = s.lse + rows;
    const int e = tiles ? grad_tiles(dq, dk, dv, dout, (const Bf16 *)q, (const Bf16 *)k, (const Bf16 *)v,
                                     (const Bf16 *)kr, (const Bf16 *)qr, shape, &s, stream)
                        : cuda_attention_any_grad(dq, dk, dv, dout, q, k, v, kr, qr, shape, &s, stream);
    if (e != (int)cudaSuccess) return e;
    CUDA_LAUNCH(attention_fold,
                dim3((unsigned)((shape->R + FOLD_ROWS - 1) / FOLD_ROWS), (unsigned)shape->A, 2),
                32 * FOLD_ROWS, 0, stream, dkr, dqr, *shape, s);
    return (int)cudaGetLastError();
}
