/* model/ops_blas.c - the CPU backend: GEMMs by OpenBLAS, one thread per call, inside our pool; the rest by
 * kernels.c. Every product is cut into the same tiles whatever the number of threads, so results do not
 * depend on it. */
#include <cblas.h>
#undef I /* <complex.h> comes with cblas.h; here I is the number of inputs */
#include <math.h>
#include <string.h>

#include "core/cpu.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "model/kernels.h"
#include "model/ops.h"
#include "model/ops_blas.h"

enum {
    TILE = 256,      /* rows and columns of a GEMM task: OpenBLAS is at its full rate from here on */
    ROWS = 64,       /* rows of a task that streams through memory */
    NORM_PARTS = 16, /* partial sums of norm gradients */
    CHUNKS = 4,      /* partial position gradients of a head */
    TASKS_EACH = 4,  /* attention tasks of a thread, where there are so many */
    BLOCK_NUMBERS = 65536,
    ADAMW_NUMBERS = 8192, /* a gradient is still in the first-level cache when it becomes zero */
    SUM_BLOCKS = 4096
};

static const Kernels *pick(void) {
#if defined(__x86_64__)
    const unsigned has = cpu_features();
    if (has & CPU_AVX512) return &kernels_avx512;
    if (has & CPU_AVX2) return &kernels_avx2;
#endif
    return &kernels_baseline;
}

/* ---- GEMM tasks ---- */

typedef enum { GEMM_FORWARD, GEMM_DX, GEMM_DW, GEMM_DB } GemmKind;

typedef struct {
    GemmKind kind;
    int rows, cols; /* tiles of the result */
} GemmGrid;

typedef struct {
    Blas *b;
    GemmGrid grid[3];
    int grids, N, O, I, add_dx;
    float *y, *pre, *dx, *dw, *db, *dy;
    const float *x, *w, *bias;
} Gemm;

static int tiles(int n) {
    return (n + TILE - 1) / TILE;
}
static int tile_size(int n, int i) {
    return n - i * TILE < TILE ? n - i * TILE : TILE;
}

static void sgemm(BlasMeter *meter, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int M, int N, int K,
                  const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    const double from = progress_clock();
    cblas_sgemm(CblasRowMajor, ta, tb, M, N, K, 1, a, lda, b, ldb, beta, c, ldc);
    meter->seconds += progress_clock() - from;
    meter->flops += 2.0 * M * N * K;
}

static void forward_tile(const Gemm *g, BlasMeter *meter, int r, int c) {
    const int M = tile_size(g->N, r), N = tile_size(g->O, c), col = c * TILE;
    float *z = (g->pre ? g->pre : g->y) + (size_t)r * TILE * (size_t)g->O + col;
    for (int i = 0; i < M; i++) memcpy(z + (size_t)i * (size_t)g->O, g->bias + col, (size_t)N * sizeof *z);
    sgemm(meter, CblasNoTrans, CblasTrans, M, N, g->I, g->x + (size_t)r * TILE * (size_t)g->I, g->I,
          g->w + (size_t)col * (size_t)g->I, g->I, 1, z, g->O);
    if (!g->pre) return;
    float *y = g->y + (size_t)r * TILE * (size_t)g->O + col;
    for (int i = 0; i < M; i++)
        g->b->float_kernels->gelu(y + (size_t)i * (size_t)g->O, z + (size_t)i * (size_t)g->O, (size_t)N);
}

static void gemm_task(void *arg, size_t task, int thread) {
    const Gemm *g = arg;
    BlasMeter *meter = &g->b->meters[thread];
    int t = (int)task, k = 0;
    while (t >= g->grid[k].rows * g->grid[k].cols) {
        t -= g->grid[k].rows * g->grid[k].cols;
        k++;
    }
    const int r = t / g->grid[k].cols, c = t % g->grid[k].cols;
    const size_t row = (size_t)r * TILE, col = (size_t)c * TILE, O = (size_t)g->O, I = (size_t)g->I;
    switch (g->grid[k].kind) {
        case GEMM_FORWARD: forward_tile(g, meter, r, c); break;
        case GEMM_DX:
            sgemm(meter, CblasNoTrans, CblasNoTrans, tile_size(g->N, r), tile_size(g->I, c), g->O,
                  g->dy + row * O, g->O, g->w + col, g->I, g->add_dx ? 1 : 0, g->dx + row * I + col, g->I);
            break;
        case GEMM_DW:
            sgemm(meter, CblasTrans, CblasNoTrans, tile_size(g->O, r), tile_size(g->I, c), g->N, g->dy + row,
                  g->O, g->x + col, g->I, 1, g->dw + row * I + col, g->I);
            break;
        case GEMM_DB:
            g->b->float_kernels->column_sums(g->db, g->dy, g->N, g->O, (int)col,
                                             (int)col + tile_size(g->O, c));
            break;
    }
}

static void gemm_run(Ops *o, Gemm *g) {
    size_t tasks = 0;
    for (int k = 0; k < g->grids; k++) tasks += (size_t)g->grid[k].rows * (size_t)g->grid[k].cols;
    threads_run(o->threads, gemm_task, g, tasks);
}

static void blas_linear_real(Ops *o, float *y, float *pre, const float *x, const float *w, const float *b,
                             int N, int O, int I) {
    Gemm g = {
        .b = o->context, .grids = 1, .N = N, .O = O, .I = I, .y = y, .pre = pre, .x = x, .w = w, .bias = b};
    g.grid[0] = (GemmGrid){GEMM_FORWARD, tiles(N), tiles(O)};
    gemm_run(o, &g);
}

static void blas_linear(Ops *o, Act *y, Act *pre, const Act *x, const float *w, const float *b, int N, int O,
                        int I) {
    blas_linear_real(o, y, pre, x, w, b, N, O, I);
}

/* ---- rows shared among threads ---- */

typedef struct {
    const Kernels *kernels;
    Ops *ops;
    Act *act_y, *act_xhat;
    const Act *act_x, *act_r;
    float *y, *rstd_out, *dr, *m, *v;
    const float *x, *w, *b, *rstd;
    const Dropout *drop;
    const int32_t *ids;
    const AdamwRates *rates;
    double *sums;
    int N, H;
    size_t n, block;
    float eps;
} Rows;

static int last_row(const Rows *a, size_t i) {
    return (int)i * ROWS + ROWS < a->N ? (int)i * ROWS + ROWS : a->N;
}

static size_t row_tasks(int N) {
    return ((size_t)N + ROWS - 1) / ROWS;
}

static size_t block_at(const Rows *a, size_t i) {
    return a->n - i * a->block < a->block ? a->n - i * a->block : a->block;
}

static size_t block_tasks(const Rows *a) {
    return (a->n + a->block - 1) / a->block;
}

static void gelu_grad_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    (void)thread;
    a->kernels->gelu_grad(a->y + i * a->block, a->y + i * a->block,
                          (const char *)a->act_x + i * a->block * a->kernels->act_bytes, block_at(a, i));
}

static void gelu_grad(Ops *o, const Kernels *kernels, float *dy, const Act *pre, size_t n) {
    Rows a = {.kernels = kernels, .y = dy, .act_x = pre, .n = n, .block = BLOCK_NUMBERS};
    threads_run(o->threads, gelu_grad_task, &a, block_tasks(&a));
}

static void blas_linear_real_grad(Ops *o, float *dx, int add_dx, float *dw, float *db, float *dy,
                                  const float *x, const float *w, const float *pre, int N, int O, int I) {
    Blas *b = o->context;
    if (pre) gelu_grad(o, b->float_kernels, dy, pre, (size_t)N * (size_t)O);
    Gemm g = {.b = b,
              .N = N,
              .O = O,
              .I = I,
              .add_dx = add_dx,
              .dx = dx,
              .dw = dw,
              .db = db,
              .dy = dy,
              .x = x,
              .w = w};
    g.grid[g.grids++] = (GemmGrid){GEMM_DW, tiles(O), tiles(I)};
    if (dx) g.grid[g.grids++] = (GemmGrid){GEMM_DX, tiles(N), tiles(I)};
    g.grid[g.grids++] = (GemmGrid){GEMM_DB, 1, tiles(O)};
    gemm_run(o, &g);
}

static void blas_linear_grad(Ops *o, float *dx, int add_dx, float *dw, float *db, float *dy, const Act *x,
                             const float *w, const Act *pre, int N, int O, int I) {
    blas_linear_real_grad(o, dx, add_dx, dw, db, dy, x, w, pre, N, O, I);
}

static void norm_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    const Blas *b = a->ops->context;
    a->kernels->norm(a->act_y, a->act_xhat, a->rstd_out, a->act_x, a->act_r, a->w, a->b, a->drop,
                     (int)i * ROWS, last_row(a, i), a->H, a->eps,
                     b->scratch + (size_t)thread * b->scratch_stride);
}

static void blas_norm(Ops *o, Act *y, Act *xhat, float *rstd, const Act *x, const Act *r, const float *w,
                      const float *b, const Dropout *drop, int N, int H, float eps) {
    const Blas *c = o->context;
    Rows a = {.kernels = c->kernels,
              .ops = o,
              .act_y = y,
              .act_xhat = xhat,
              .rstd_out = rstd,
              .act_x = x,
              .act_r = r,
              .w = w,
              .b = b,
              .drop = drop,
              .N = N,
              .H = H,
              .eps = eps};
    threads_run(o->threads, norm_task, &a, row_tasks(N));
}

/* Part i takes a fixed sixteenth of the rows and has sums of its own: dw at 2 i H, db behind it. */
static void norm_grad_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    (void)thread;
    float *dw = ((Blas *)a->ops->context)->norm_parts + 2 * i * (size_t)a->H;
    memset(dw, 0, 2 * (size_t)a->H * sizeof *dw);
    const int from = (int)((size_t)a->N * i / NORM_PARTS), to = (int)((size_t)a->N * (i + 1) / NORM_PARTS);
    a->kernels->norm_grad(a->y, a->dr, dw, dw + a->H, a->x, a->act_xhat, a->rstd, a->w, a->drop, from, to,
                          a->H);
}

static void blas_norm_grad(Ops *o, float *dx, float *dr, float *dw, float *db, const float *dy,
                           const Act *xhat, const float *rstd, const float *w, const Dropout *drop, int N,
                           int H) {
    const Blas *c = o->context;
    Rows a = {.kernels = c->kernels,
              .ops = o,
              .y = dx,
              .dr = dr,
              .x = dy,
              .rstd = rstd,
              .w = w,
              .drop = drop,
              .N = N,
              .H = H};
    a.act_xhat = (Act *)xhat; /* read only */
    threads_run(o->threads, norm_grad_task, &a, NORM_PARTS);
    for (int i = 0; i < NORM_PARTS; i++) {
        const float *part = c->norm_parts + 2 * (size_t)i * (size_t)H;
        for (int h = 0; h < H; h++) dw[h] += part[h];
        for (int h = 0; h < H; h++) db[h] += part[H + h];
    }
}

static void dropout_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    (void)thread;
    a->kernels->dropout(a->act_y, a->act_x, a->drop, (int)i * ROWS, last_row(a, i), a->H);
}

static void drop(Ops *o, const Kernels *kernels, void *y, const void *x, const Dropout *mask, int N, int H) {
    if (!(mask->p > 0)) {
        if (y != x && N) memcpy(y, x, (size_t)N * (size_t)H * kernels->act_bytes);
        return;
    }
    Rows a = {.kernels = kernels, .act_y = y, .act_x = x, .drop = mask, .N = N, .H = H};
    threads_run(o->threads, dropout_task, &a, row_tasks(N));
}

static void blas_dropout(Ops *o, Act *y, const Act *x, const Dropout *dropout, int N, int H) {
    drop(o, ((const Blas *)o->context)->kernels, y, x, dropout, N, H);
}

/* The kernels of floats: their activations are real numbers. */
static void blas_dropout_real(Ops *o, float *y, const float *x, const Dropout *dropout, int N, int H) {
    drop(o, ((const Blas *)o->context)->float_kernels, y, x, dropout, N, H);
}

static void embed_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    (void)thread;
    a->kernels->embed(a->act_y, a->x, a->ids, (int)i * ROWS, last_row(a, i), a->H);
}

static void blas_embed(Ops *o, Act *y, const float *table, const int32_t *ids, int N, int H) {
    const Blas *c = o->context;
    Rows a = {.kernels = c->kernels, .act_y = y, .x = table, .ids = ids, .N = N, .H = H};
    threads_run(o->threads, embed_task, &a, row_tasks(N));
}

static void blas_widen(Ops *o, float *y, const Act *x, size_t n) {
    ((const Blas *)o->context)->kernels->widen(y, x, n);
}

/* Rows of a few sequences. */
static void blas_gather(Ops *o, Act *y, const Act *x, const int32_t *at, int S, int H) {
    const size_t bytes = (size_t)H * o->act_bytes;
    for (int s = 0; s < S; s++)
        memcpy((char *)y + (size_t)s * bytes, (const char *)x + (size_t)at[s] * bytes, bytes);
}

static void adamw_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    (void)thread;
    const size_t at = i * a->block;
    a->kernels->adamw(a->y + at, a->m + at, a->v + at, a->dr + at, block_at(a, i), a->rates);
    memset(a->dr + at, 0, block_at(a, i) * sizeof *a->dr);
}

void ops_blas_adamw_tensor(Ops *o, const AdamwTensor *t, const AdamwRates *rates) {
    const Blas *c = o->context;
    Rows a = {.kernels = c->kernels,
              .y = t->p,
              .m = t->m,
              .v = t->v,
              .dr = t->g,
              .n = t->n,
              .block = ADAMW_NUMBERS,
              .rates = rates};
    threads_run(o->threads, adamw_task, &a, block_tasks(&a));
}

static void blas_adamw(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step) {
    for (size_t i = 0; i < count && !isnan(step->norm->clip); i++) {
        const AdamwRates rates = ops_adamw_rates(step, list[i].rate, list[i].decays);
        ops_blas_adamw_tensor(o, &list[i], &rates);
    }
}

typedef struct {
    const Blas *blas;
    const AdamwRows *rows;
    AdamwRates rates;
} RowRates;

static void adamw_rows_task(void *arg, size_t i, int thread) {
    const RowRates *task = arg;
    const AdamwRows *a = task->rows;
    const Blas *c = task->blas;
    (void)thread;
    const size_t H = (size_t)a->H;
    const int to = (int)(i + 1) * ROWS < a->rows ? (int)(i + 1) * ROWS : a->rows;
    for (int r = (int)i * ROWS; r < to; r++) {
        float *p = a->table + (size_t)a->ids[r] * H;
        AdamwRates rates = task->rates;
        if (a->boost) rates.lr *= (double)a->boost[r];
        for (size_t h = 0; r >= a->fresh && a->owed != 1 && h < H; h++)
            p[h] = (float)((double)p[h] * a->owed);
        c->kernels->adamw(p, a->m + (size_t)r * H, a->v + (size_t)r * H,
                          a->slot[r] < 0 ? c->zeros : a->grad + (size_t)a->slot[r] * H, H, &rates);
    }
}

static void blas_adamw_rows(Ops *o, const AdamwRows *rows) {
    RowRates a = {o->context, rows, ops_adamw_rates(rows->step, rows->rate, true)};
    if (!isnan(a.rates.clip)) threads_run(o->threads, adamw_rows_task, &a, row_tasks(rows->rows));
}

static void sumsq_task(void *arg, size_t i, int thread) {
    const Rows *a = arg;
    (void)thread;
    a->sums[i] = a->kernels->sumsq(a->x + i * a->block, block_at(a, i));
}

static void blas_sumsq(Ops *o, OpsNorm *norm, const float *x, size_t n) {
    const Blas *c = o->context;
    Rows a = {.kernels = c->kernels, .x = x, .n = n, .block = BLOCK_NUMBERS, .sums = c->sums};
    while (block_tasks(&a) > SUM_BLOCKS) a.block *= 2;
    threads_run(o->threads, sumsq_task, &a, block_tasks(&a));
    double sum = 0;
    for (size_t i = 0; i < block_tasks(&a); i++) sum += c->sums[i];
    norm->sum += sum;
}

/* ---- attention ---- */

typedef struct {
    Blas *b;
    KernelsAttention sizes;
    Attention shape;
    int chunks, heads; /* position gradients of a head; heads of a task, one after the other */
    bool with_rows;    /* tables for gradients as well */
    Act *out;
    float *dq, *dk, *dv, *dkr, *dqr;
    const Act *q, *k, *v, *kr, *qr;
    const float *dout;
} Attend;

/* Products of pairs of bfloat16 have twice the rate of products of floats on AMD's processors and half of it on Intel's,
 * which have AMX besides. */
static const AttentionKernels *attention_kernels(const Kernels *kernels) {
#if defined(__x86_64__)
    if (kernels == &kernels_bf16 && cpu_features() & CPU_AMX_BF16) return &kernels_attention_bf16_floats;
#endif
    return kernels->attention;
}

/* A call sees only the distances of its own longest sequence: the index table is entered further in. */
static Attend attend(Blas *b, const Attention *shape) {
    Attend a = {.b = b, .shape = *shape, .chunks = shape->packed->S < CHUNKS ? shape->packed->S : CHUNKS};
    a.shape.longest = shape->packed->longest;
    a.shape.index += shape->longest - shape->packed->longest;
    a.sizes = b->attention->sizes(a.shape.longest, shape->D);
    return a;
}

static void tables_task(void *arg, size_t head, int thread) {
    const Attend *a = arg;
    (void)thread;
    KernelsTables t = a->b->tables[head];
    if (!a->with_rows) t.kr = t.qr = NULL;
    a->b->attention->tables(&t, &a->sizes, a->kr, a->qr, &a->shape, (int)head);
}

/* Longest sequences first: batches come in ascending length. */
static void attention_task(void *arg, size_t i, int thread) {
    const Attend *a = arg;
    const int A = a->shape.A, parts = (A + a->heads - 1) / a->heads, from = (int)i % parts * a->heads,
              to = from + a->heads < A ? from + a->heads : A;
    KernelsTile tile = {.seq = a->shape.packed->S - 1 - (int)i / parts};
    for (tile.head = from; tile.head < to; tile.head++) {
        tile.next_seq = tile.head + 1 < to ? tile.seq : -1;
        tile.next_head = tile.head + 1;
        a->b->attention->forward(a->out, a->q, a->k, a->v, &a->b->tables[tile.head], &a->sizes, &a->shape,
                                 &tile, a->b->scratch + (size_t)thread * a->b->scratch_stride);
    }
}

static void blas_attention(Ops *o, Act *out, const Act *q, const Act *k, const Act *v, const Act *kr,
                           const Act *qr, const Attention *shape) {
    Attend a = attend(o->context, shape);
    a.out = out;
    a.q = q;
    a.k = k;
    a.v = v;
    a.kr = kr;
    a.qr = qr;
    threads_run(o->threads, tables_task, &a, (size_t)shape->A);
    a.heads = shape->packed->S / threads_count(o->threads) < TASKS_EACH ? 1 : shape->A;
    threads_run(o->threads, attention_task, &a,
                (size_t)((shape->A + a.heads - 1) / a.heads) * (size_t)shape->packed->S);
}

/* One head over every CHUNKS-th sequence, with position gradients of its own. */
static void attention_grad_task(void *arg, size_t i, int thread) {
    const Attend *a = arg;
    const int head = (int)i / a->chunks, chunk = (int)i % a->chunks;
    const KernelsTableGrads *dt = &a->b->dtables[head * CHUNKS + chunk];
    const size_t numbers = (size_t)a->sizes.window * (size_t)a->sizes.Dp;
    memset(dt->kr, 0, numbers * sizeof *dt->kr);
    memset(dt->qr, 0, numbers * sizeof *dt->qr);
    KernelsTile tile = {.seq = chunk, .head = head, .next_head = head};
    for (; tile.seq < a->shape.packed->S; tile.seq += CHUNKS) {
        tile.next_seq = tile.seq + CHUNKS < a->shape.packed->S ? tile.seq + CHUNKS : -1;
        a->b->attention->grad(a->dq, a->dk, a->dv, dt, a->dout, a->q, a->k, a->v, &a->b->tables[head],
                              &a->sizes, &a->shape, &tile,
                              a->b->scratch + (size_t)thread * a->b->scratch_stride);
    }
}

static void fold_task(void *arg, size_t head, int thread) {
    const Attend *a = arg;
    (void)thread;
    for (int chunk = 0; chunk < a->chunks; chunk++)
        a->b->attention->fold(a->dkr, a->dqr, &a->b->dtables[head * CHUNKS + (size_t)chunk], &a->sizes,
                              &a->shape, (int)head);
}

static void blas_attention_grad(Ops *o, float *dq, float *dk, float *dv, float *dkr, float *dqr,
                                const float *dout, const Act *q, const Act *k, const Act *v, const Act *kr,
                                const Act *qr, const Attention *shape) {
    Attend a = attend(o->context, shape);
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    a.dkr = dkr;
    a.dqr = dqr;
    a.dout = dout;
    a.q = q;
    a.k = k;
    a.v = v;
    a.kr = kr;
    a.qr = qr;
    a.with_rows = true;
    threads_run(o->threads, tables_task, &a, (size_t)shape->A);
    threads_run(o->threads, attention_grad_task, &a, (size_t)shape->A * (size_t)a.chunks);
    threads_run(o->threads, fold_task, &a, (size_t)shape->A);
}

/* ---- life ---- */

static void free_scratch(Blas *b) {
    for (int i = 0; b->tables && i < b->A; i++) {
        mem_free(b->tables[i].kr_panels);
        mem_free(b->tables[i].qr_panels);
        mem_free(b->tables[i].kr);
        mem_free(b->tables[i].qr);
    }
    for (int i = 0; b->dtables && i < b->A * CHUNKS; i++) {
        mem_free(b->dtables[i].kr);
        mem_free(b->dtables[i].qr);
    }
    mem_free(b->tables);
    mem_free(b->dtables);
    mem_free(b->scratch);
    mem_free(b->norm_parts);
    mem_free(b->zeros);
    b->tables = NULL;
    b->dtables = NULL;
    b->scratch = b->norm_parts = b->zeros = NULL;
}

void ops_blas_close(Ops *o) {
    free_scratch(o->context);
    mem_free(((Blas *)o->context)->sums);
    mem_free(o->context);
}

ErrCode ops_blas_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) {
    (void)tokens;
    static const char WHAT[] = "attention scratch";
    Blas *b = o->context;
    free_scratch(b);
    b->attention = attention_kernels(b->kernels);
    const KernelsAttention sizes = b->attention->sizes(longest, D);
    b->A = A;
    const size_t numbers = (size_t)sizes.window * (size_t)sizes.Dp;
    TRY(mem_new(&b->tables, (size_t)A, sizeof *b->tables, WHAT, err));
    TRY(mem_new(&b->dtables, (size_t)A * CHUNKS, sizeof *b->dtables, WHAT, err));
    for (int i = 0; i < A; i++) {
        TRY(mem_new(&b->tables[i].kr_panels, numbers, sizeof(float), WHAT, err));
        TRY(mem_new(&b->tables[i].qr_panels, numbers, sizeof(float), WHAT, err));
        TRY(mem_new(&b->tables[i].kr, numbers, sizeof(float), WHAT, err));
        TRY(mem_new(&b->tables[i].qr, numbers, sizeof(float), WHAT, err));
    }
    for (int i = 0; i < A * CHUNKS; i++) {
        TRY(mem_new(&b->dtables[i].kr, numbers, sizeof(float), WHAT, err));
        TRY(mem_new(&b->dtables[i].qr, numbers, sizeof(float), WHAT, err));
    }
    b->scratch_stride = b->attention->scratch(&sizes);
    if (b->scratch_stride < (size_t)A * (size_t)D)
        b->scratch_stride = (size_t)A * (size_t)D; /* a row, for norm */
    TRY(mem_new(&b->scratch, (size_t)threads_count(o->threads) * b->scratch_stride, sizeof(float), WHAT,
                err));
    TRY(mem_new(&b->zeros, (size_t)A * (size_t)D, sizeof(float), WHAT, err));
    return mem_new(&b->norm_parts, (size_t)NORM_PARTS * 2 * (size_t)A * (size_t)D, sizeof(float), WHAT, err);
}

ErrCode ops_blas_open(Ops *o, size_t context_bytes, Err *err) {
    ops_ref_fill(o);
    Blas *b;
    TRY(mem_new(&b, 1, context_bytes, "the backend", err));
    if (mem_new(&b->sums, SUM_BLOCKS, sizeof *b->sums, "the backend", err) != ERR_OK) {
        mem_free(b);
        return ERR_MEMORY;
    }
    b->kernels = b->float_kernels = pick();
    openblas_set_num_threads(1);
    o->name = "blas";
    o->context = b;
    o->close = ops_blas_close;
    o->prepare = ops_blas_prepare;
    o->embed = blas_embed;
    o->linear = blas_linear;
    o->linear_grad = blas_linear_grad;
    o->linear_real = blas_linear_real;
    o->linear_real_grad = blas_linear_real_grad;
    o->widen = blas_widen;
    o->gather = blas_gather;
    o->norm = blas_norm;
    o->norm_grad = blas_norm_grad;
    o->dropout = blas_dropout;
    o->dropout_real = blas_dropout_real;
    o->attention = blas_attention;
    o->attention_grad = blas_attention_grad;
    o->sumsq = blas_sumsq;
    o->adamw = blas_adamw;
    o->adamw_rows = blas_adamw_rows;
    return ERR_OK;
}

ErrCode ops_blas_fill(Ops *o, Err *err) {
    return ops_blas_open(o, sizeof(Blas), err);
}

OpsBlasMeter ops_blas_meter(const Ops *o) {
    if (strcmp(o->name, "blas") != 0 && strcmp(o->name, "x86") != 0)
        return (OpsBlasMeter){.kernels = o->device ? o->hardware : o->name};
    const Blas *b = o->context;
    OpsBlasMeter sum = {.kernels = b->kernels->name};
    for (int t = 0; t < threads_count(o->threads); t++) {
        sum.seconds += b->meters[t].seconds;
        sum.flops += b->meters[t].flops;
    }
    return sum;
}

double ops_blas_alone(char kind, int M, int N, int K, int threads, double budget) {
    const size_t sizes[3] = {(size_t)M * (size_t)K, (size_t)N * (size_t)K, (size_t)M * (size_t)N};
    float *m[3] = {0};
    double best = -1;
    for (int i = 0; i < 3; i++) {
        m[i] = mem_alloc(sizes[i], sizeof(float));
        for (size_t j = 0; m[i] && j < sizes[i]; j++) m[i][j] = (float)rng_uniform(7, j) - 0.5f;
    }
    const CBLAS_TRANSPOSE ta = kind == 'w' ? CblasTrans : CblasNoTrans,
                          tb = kind == 'f' ? CblasTrans : CblasNoTrans;
    const int lda = kind == 'w' ? M : K, ldb = kind == 'f' ? K : N;
    openblas_set_num_threads(threads);
    const double begin = progress_clock();
    for (int i = 0; m[0] && m[1] && m[2] && (i < 3 || progress_clock() - begin < budget); i++) {
        const double from = progress_clock();
        cblas_sgemm(CblasRowMajor, ta, tb, M, N, K, 1, m[0], lda, m[1], ldb, 0, m[2], N);
        const double seconds = progress_clock() - from;
        if (best < 0 || seconds < best) best = seconds;
    }
    openblas_set_num_threads(1);
    for (int i = 0; i < 3; i++) mem_free(m[i]);
    return best;
}
