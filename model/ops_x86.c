/* model/ops_x86.c - the backend for x86 processors: linear layers by gemm.h, in float or with bfloat16 operands, all else
 * by the kernels of the blas backend; with bfloat16, activations are kept in it. Weights, gradients, moments and sums are
 * float always.
 *
 * In bfloat16, weights are packed twice when they change, for y = x w^T and for dx = dz w: on the way of adamw, which has
 * just read them, or before the next product. (In float that would double their memory, to save a hundredth of the time.)
 * The other operands are packed block by block on their way into the second-level cache. A task makes one block of a result; the depth of a block's passes is fixed, so that neither the cut nor the
 * threads show in a result. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/mem.h"
#include "core/progress.h"
#include "model/gemm.h"
#include "model/ops.h"
#include "model/ops_blas.h"
#include "model/ops_x86.h"

enum {
    SIDE = 256,  /* most rows and columns of a task's block; */
    ROWS = 128,  /* where B is packed already, fewer rows ... */
    COLS = 512,  /* ... and more columns, so that A is packed less often */
    LEAST = 64,  /* what sides are cut down to in small problems, so that all threads have work */
    PASS = 1024, /* bytes of a row in a pass: operands and sums of a block fit the second-level cache */
    STRIP = 16,  /* rows of a weight that adamw updates and packs at a time */
    TOKENS = 64, /* rows of dz that are packed at a time: whole groups and chunks of every kernel */
    WIDE = 1024  /* columns of dz that are packed at a time: gelu' leaves them in Space.c */
};

/* A weight (O,I) that is known, and its packed forms. */
typedef struct {
    const float *w;
    int O, I;
    char *forward;  /* B (I,O) */
    char *backward; /* B (O,I); NULL without training */
} Bound;

typedef struct {
    Blas blas; /* first: the functions of that backend are called with this context */
    const GemmKernel *gemm;
    Bound *bound; /* sorted by w */
    size_t count;
    char *packed;   /* of all; NULL in float */
    bool stale;     /* weights are newer than their packed forms */
    char *space;    /* (threads, sizeof(Space)) */
    int tokens;     /* most rows of a linear layer's input */
    char *gradient; /* operands of linear_grad */
} X86;

/* What a task works in. */
typedef struct {
    char a[SIDE * PASS], b[SIDE * (PASS + GEMM_LINE)];
    float c[SIDE * SIDE]; /* = ROWS x COLS >= TOKENS x WIDE */
} Space;

/* ---- weights ---- */

static const Bound *find(const X86 *x, const float *w) {
    size_t low = 0, high = x->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if ((uintptr_t)x->bound[middle].w < (uintptr_t)w)
            low = middle + 1;
        else
            high = middle;
    }
    return low < x->count && x->bound[low].w == w ? &x->bound[low] : NULL;
}

static void pack_strip(const GemmKernel *g, const Bound *b, int strip) {
    const int from = strip * STRIP, rows = b->O - from < STRIP ? b->O - from : STRIP;
    const float *w = b->w + (size_t)from * (size_t)b->I;
    g->pack_panel(b->forward + (size_t)strip * gemm_b_next(g, b->I), w, (size_t)b->I, rows, b->I);
    if (b->backward) g->pack_b(b->backward, gemm_b_next(g, b->O), w, (size_t)b->I, from, rows, b->I);
}

typedef struct {
    const X86 *x86;
    const Bound *bound;
    const AdamwTensor *tensor;
    const AdamwRates *rates;
} Strips;

static int strips(int O) {
    return (O + STRIP - 1) / STRIP;
}

static void pack_task(void *arg, size_t i, int thread) {
    const Strips *s = arg;
    (void)thread;
    pack_strip(s->x86->gemm, s->bound, (int)i);
}

static void refresh(Ops *o) {
    X86 *x = o->context;
    for (size_t i = 0; x->packed && x->stale && i < x->count; i++) {
        Strips s = {.x86 = x, .bound = &x->bound[i]};
        threads_run(o->threads, pack_task, &s, (size_t)strips(s.bound->O));
    }
    x->stale = false;
}

static void unbind(X86 *x) {
    mem_free(x->bound);
    mem_free(x->packed);
    mem_free(x->gradient);
    x->bound = NULL;
    x->packed = x->gradient = NULL;
    x->count = 0;
}

static size_t packed_bytes(const GemmKernel *g, const ParamView *p, bool train) {
    const int O = (int)p->rows, I = (int)p->cols;
    if (g->bytes == sizeof(float)) return 0;
    return gemm_b_bytes(g, I, O) + (train ? gemm_b_bytes(g, O, I) : 0);
}

/* The operands of linear_grad's two products, packed whole, pass after pass. */
typedef struct {
    char *dz, *dz_t, *x; /* A (N,O), A (O,N), B (N,I) */
    float *sums;         /* (blocks of TOKENS, O): columns of dz */
} Gradient;

/* Passes are padded to chunks one by one: to a chunk more than the whole each. Returns the bytes. */
static size_t gradient_layout(Gradient *out, char *base, const GemmKernel *g, int N, int O, int I) {
    const int most = PASS / g->bytes;
    const size_t tokens = (size_t)gemm_padded(N, TOKENS), bytes = (size_t)g->bytes,
                 o = (size_t)gemm_padded(O, most), i = (size_t)gemm_padded(I, most);
    const size_t dz = tokens * o * bytes, x = tokens * i * bytes;
    if (out) *out = (Gradient){base, base + dz, base + 2 * dz, (float *)(void *)(base + 2 * dz + x)};
    return 2 * dz + x + tokens / TOKENS * o * sizeof(float);
}

static ErrCode x86_bind(Ops *o, const ParamView *list, size_t count, bool train, Err *err) {
    X86 *x = o->context;
    unbind(x);
    o->kept_bytes = 0;
    size_t linear = 0, bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (list[i].kind != PARAM_LINEAR) continue;
        linear++;
        bytes += packed_bytes(x->gemm, &list[i], train);
    }
    if (!linear) return ERR_OK;
    size_t gradient = 0;
    for (size_t i = 0; train && i < count; i++) {
        if (list[i].kind != PARAM_LINEAR) continue;
        const size_t more =
            gradient_layout(NULL, NULL, x->gemm, x->tokens, (int)list[i].rows, (int)list[i].cols);
        gradient = more > gradient ? more : gradient;
    }
    if (gradient) TRY(mem_new(&x->gradient, gradient, 1, "operands of gradients", err));
    TRY(mem_new(&x->bound, linear, sizeof *x->bound, "the packed weights", err));
    if (bytes) TRY(mem_new(&x->packed, bytes, 1, "the packed weights", err)); /* zeros: padding */
    char *next = x->packed;
    for (size_t i = 0; i < count; i++) {
        if (list[i].kind != PARAM_LINEAR) continue;
        Bound b = {.w = list[i].data, .O = (int)list[i].rows, .I = (int)list[i].cols, .forward = next};
        if (train && next) b.backward = next + gemm_b_bytes(x->gemm, b.I, b.O);
        if (next) next += packed_bytes(x->gemm, &list[i], train);
        size_t at = x->count++;
        for (; at > 0 && (uintptr_t)x->bound[at - 1].w > (uintptr_t)b.w; at--)
            x->bound[at] = x->bound[at - 1];
        x->bound[at] = b;
    }
    x->stale = true;
    o->kept_bytes = bytes + gradient;
    return ERR_OK;
}

static void x86_weights_changed(Ops *o) {
    ((X86 *)o->context)->stale = true;
}

static void adamw_task(void *arg, size_t i, int thread) {
    const Strips *s = arg;
    (void)thread;
    const size_t from = i * STRIP * (size_t)s->bound->I, all = (size_t)s->bound->O * (size_t)s->bound->I,
                 n = all - from < STRIP * (size_t)s->bound->I ? all - from : STRIP * (size_t)s->bound->I;
    const AdamwTensor *t = s->tensor;
    s->x86->blas.kernels->adamw(t->p + from, t->m + from, t->v + from, t->g + from, n, s->rates);
    memset(t->g + from, 0, n * sizeof *t->g);
    pack_strip(s->x86->gemm, s->bound, (int)i);
}

static void x86_adamw(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step) {
    const X86 *x = o->context;
    for (size_t i = 0; i < count && !isnan(step->norm->clip); i++) {
        const AdamwRates rates = ops_adamw_rates(step, list[i].rate, list[i].decays);
        Strips s = {.x86 = x, .bound = find(x, list[i].p), .tensor = &list[i], .rates = &rates};
        if (s.bound && x->packed)
            threads_run(o->threads, adamw_task, &s, (size_t)strips(s.bound->O));
        else
            ops_blas_adamw_tensor(o, &list[i], &rates);
    }
}

/* ---- products ---- */

typedef enum { FORWARD, GRAD_X, GRAD_W } Kind;

/* One product C (M,N), K deep, cut into blocks of rows x cols. */
typedef struct {
    Kind kind;
    int M, N, K, rows, cols;
} Product;

typedef struct {
    X86 *x86;
    Product product[2];
    int products;
    const Bound *w;
    Act *y, *pre;
    const char *x; /* (N,I), activations */
    const float *bias, *dy;
    float *dx, *dw, *db;
    int N, O, I, add_dx;
    Gradient packed;
} Linear;

/* n cut into equal parts of at most `most`, each a multiple of `unit`. */
static int part(int n, int most, int unit) {
    const int parts = (n + most - 1) / most;
    return parts ? gemm_padded((n + parts - 1) / parts, unit) : unit;
}

static int blocks(const Product *p) {
    return ((p->M + p->rows - 1) / p->rows) * ((p->N + p->cols - 1) / p->cols);
}

/* Smaller blocks until all threads have work: columns first, as rows share weights. */
static Product cut(Kind kind, int M, int N, int K, const X86 *x, int threads) {
    const bool packed = kind != GRAD_W && x->packed;
    int rows = packed ? ROWS : SIDE, cols = packed ? COLS : SIDE;
    for (;;) {
        const Product p = {kind, M, N, K, part(M, rows, x->gemm->rows), part(N, cols, 2 * GEMM_PANEL)};
        if (blocks(&p) >= 2 * threads || (rows <= LEAST && cols <= LEAST)) return p;
        if (cols >= rows && cols > LEAST)
            cols /= 2;
        else
            rows /= 2;
    }
}

/* Zeros where the last chunk of `depth` rows of B is not whole: pack_b leaves them to us. */
static void clear_rest(const GemmKernel *g, char *b, size_t next, int depth, int cols) {
    const size_t chunk = (size_t)g->depth * GEMM_PANEL * (size_t)g->bytes,
                 last = (size_t)(depth / g->depth) * chunk;
    for (int n = 0; depth % g->depth && n < gemm_padded(cols, 2 * GEMM_PANEL); n += GEMM_PANEL)
        memset(b + (size_t)(n / GEMM_PANEL) * next + last, 0, chunk);
}

/* Where the pass that holds k begins, and how deep it is, in an operand K deep. */
static int pass_of(const GemmKernel *g, int k, int K, int *from) {
    const int most = PASS / g->bytes;
    *from = k / most * most;
    return K - *from < most ? K - *from : most;
}

/* TOKENS rows of dz = dy gelu'(pre), packed both ways, and of x. */
static void gradient_task(void *arg, size_t i, int thread) {
    const Linear *l = arg;
    const GemmKernel *g = l->x86->gemm;
    const Kernels *kernels = l->x86->blas.kernels;
    Space *s = (Space *)(void *)(l->x86->space + (size_t)thread * sizeof(Space));
    const int n0 = (int)i * TOKENS, rows = l->N - n0 < TOKENS ? l->N - n0 : TOKENS;
    const size_t O = (size_t)l->O, n = (size_t)n0, bytes = (size_t)g->bytes;
    int at;
    const int depth = pass_of(g, n0, l->N, &at);
    const size_t next_t = gemm_a_next(g, depth), pad_o = (size_t)gemm_padded(l->O, g->rows);
    char *dz_t = l->packed.dz_t + (size_t)at * pad_o * bytes + (size_t)(n0 - at) * (size_t)g->rows * bytes;
    for (int c = 0; c < l->O; c += WIDE) {
        const int cols = l->O - c < WIDE ? l->O - c : WIDE;
        const float *dz = l->dy + n * O + (size_t)c;
        size_t stride = O;
        if (l->pre) {
            for (int r = 0; r < rows; r++)
                kernels->gelu_grad(s->c + (size_t)r * WIDE, dz + (size_t)r * O,
                                   (const char *)l->pre + ((n + (size_t)r) * O + (size_t)c) * bytes,
                                   (size_t)cols);
            dz = s->c;
            stride = WIDE;
        }
        g->pack_a_transposed(dz_t + (size_t)(c / g->rows) * next_t, next_t, dz, stride, cols, rows, g->rows,
                             l->packed.sums + i * O + (size_t)c);
        for (int k = 0; l->dx && k < cols; k += PASS / g->bytes) {
            int from;
            const int deep = pass_of(g, c + k, l->O, &from), some = cols - k < deep ? cols - k : deep;
            const size_t next = gemm_a_next(g, deep);
            g->pack_a(l->packed.dz + (size_t)from * (size_t)gemm_padded(l->N, g->rows) * bytes +
                          (size_t)(n0 / g->rows) * next,
                      next, dz + k, stride, rows, some, g->rows);
        }
    }
    char *x = l->packed.x + (size_t)at * (size_t)gemm_padded(l->I, 2 * GEMM_PANEL) * bytes;
    if (n0 + rows == l->N) clear_rest(g, x, gemm_b_next(g, depth), depth, l->I);
    g->pack_b_act(x, gemm_b_next(g, depth), l->x + n * (size_t)l->I * bytes, (size_t)l->I, n0 - at, rows,
                  l->I);
}

typedef struct {
    const char *a, *b;
    size_t next_a, next_b;
} Operands;

/* B = w^T or w, of columns n0 .. and a pass: as bound, or packed now. */
static void weight_operand(Operands *out, const Linear *l, const Product *p, Space *s, int n0, int cols,
                           int k0, int depth) {
    const GemmKernel *g = l->x86->gemm;
    const size_t I = (size_t)l->I, n = (size_t)n0, k = (size_t)k0;
    if (l->w->forward) {
        out->next_b = gemm_b_next(g, p->K);
        out->b = (p->kind == FORWARD ? l->w->forward : l->w->backward) + n / GEMM_PANEL * out->next_b +
                 k * (size_t)(GEMM_PANEL * g->bytes);
        return;
    }
    out->b = s->b;
    out->next_b = gemm_b_next(g, depth) +
                  GEMM_LINE; /* panels a power of two apart would share a few sets of the cache */
    if (p->kind == GRAD_X) {
        clear_rest(g, s->b, out->next_b, depth, cols);
        g->pack_b(s->b, out->next_b, l->w->w + k * I + n, I, 0, depth, cols);
        return;
    }
    for (int c = 0; c < gemm_padded(cols, 2 * GEMM_PANEL); c += GEMM_PANEL) {
        const int some = cols - c < 0 ? 0 : cols - c < GEMM_PANEL ? cols - c : GEMM_PANEL;
        g->pack_panel(s->b + (size_t)(c / GEMM_PANEL) * out->next_b,
                      l->w->w + (n + (some ? (size_t)c : 0)) * I + k, I, some, depth);
    }
}

/* A from row m0 and B from column n0 on, of the pass k0 .. k0 + depth - 1. */
static Operands operands(const Linear *l, const Product *p, Space *s, int m0, int rows, int n0, int cols,
                         int k0, int depth) {
    const GemmKernel *g = l->x86->gemm;
    const size_t I = (size_t)l->I, m = (size_t)m0, n = (size_t)n0, k = (size_t)k0, bytes = (size_t)g->bytes;
    const size_t pass_a = k * (size_t)gemm_padded(p->M, g->rows) * bytes;
    Operands out = {.next_a = gemm_a_next(g, depth), .next_b = gemm_b_next(g, depth)};
    if (p->kind == GRAD_W) { /* C (O,I) = dz^T x */
        out.a = l->packed.dz_t + pass_a + m / (size_t)g->rows * out.next_a;
        out.b =
            l->packed.x + k * (size_t)gemm_padded(l->I, 2 * GEMM_PANEL) * bytes + n / GEMM_PANEL * out.next_b;
        return out;
    }
    weight_operand(&out, l, p, s, n0, cols, k0, depth);
    if (p->kind == GRAD_X) { /* C (N,I) = dz w */
        out.a = l->packed.dz + pass_a + m / (size_t)g->rows * out.next_a;
        return out;
    }
    g->pack_a_act(s->a, out.next_a, l->x + (m * I + k) * bytes, I, rows, depth,
                  g->rows); /* C (N,O) = x w^T */
    out.a = s->a;
    return out;
}

/* What becomes of a finished block. */
static void finish(const Linear *l, const Product *p, const Space *s, int m0, int rows, int n0, int cols) {
    const Kernels *k = l->x86->blas.kernels;
    const size_t ldc = (size_t)p->cols, at = (size_t)m0 * (size_t)p->N + (size_t)n0;
    if (p->kind == FORWARD)
        k->linear_out((char *)l->y + at * k->act_bytes, l->pre ? (char *)l->pre + at * k->act_bytes : NULL,
                      (size_t)p->N, s->c, ldc, l->bias + n0, rows, cols);
    else if (p->kind == GRAD_X)
        k->rows_out(l->dx + at, (size_t)p->N, s->c, ldc, rows, cols, l->add_dx);
    else
        k->rows_out(l->dw + at, (size_t)p->N, s->c, ldc, rows, cols, 1);
    for (int t = 0; p->kind == GRAD_W && n0 == 0 && t < p->K; t += TOKENS)
        k->rows_out(l->db + m0, 0, l->packed.sums + (size_t)(t / TOKENS) * (size_t)l->O + (size_t)m0, 0, 1,
                    rows, 1);
}

static void product_task(void *arg, size_t task, int thread) {
    const Linear *l = arg;
    const GemmKernel *g = l->x86->gemm;
    Space *s = (Space *)(void *)(l->x86->space + (size_t)thread * sizeof(Space));
    BlasMeter *meter = &l->x86->blas.meters[thread];
    const double began = progress_clock();
    int t = (int)task;
    const Product *p = l->product;
    for (; t >= blocks(p); p++) t -= blocks(p);
    const int across = (p->N + p->cols - 1) / p->cols, m0 = t / across * p->rows, n0 = t % across * p->cols;
    const int rows = p->M - m0 < p->rows ? p->M - m0 : p->rows,
              cols = p->N - n0 < p->cols ? p->N - n0 : p->cols;
    if (g->begin) g->begin();
    const int pass = PASS / g->bytes;
    for (int k0 = 0; k0 < p->K; k0 += pass) {
        const int depth = p->K - k0 < pass ? p->K - k0 : pass, chunks = (depth + g->depth - 1) / g->depth;
        const Operands x = operands(l, p, s, m0, rows, n0, cols, k0, depth);
        for (int n = 0; n < cols; n += 2 * GEMM_PANEL)
            for (int m = 0; m < rows; m += g->rows)
                g->block(s->c + (size_t)m * (size_t)p->cols + n, (size_t)p->cols,
                         x.a + (size_t)(m / g->rows) * x.next_a, x.b + (size_t)(n / GEMM_PANEL) * x.next_b,
                         x.next_b, chunks, k0 > 0);
    }
    if (g->end) g->end();
    finish(l, p, s, m0, rows, n0, cols);
    meter->seconds += progress_clock() - began;
    meter->flops += 2.0 * rows * cols * p->K;
}

static void run_products(Ops *o, Linear *l) {
    size_t tasks = 0;
    for (int i = 0; i < l->products; i++) tasks += (size_t)blocks(&l->product[i]);
    threads_run(o->threads, product_task, l, tasks);
}

static void x86_linear(Ops *o, Act *y, Act *pre, const Act *x, const float *w, const float *b, int N, int O,
                       int I) {
    X86 *x86 = o->context;
    refresh(o);
    Linear l = {
        .x86 = x86, .products = 1, .w = find(x86, w), .y = y, .pre = pre, .x = x, .bias = b, .O = O, .I = I};
    assert(l.w && l.w->O == O && l.w->I == I);
    l.product[0] = cut(FORWARD, N, O, I, x86, threads_count(o->threads));
    run_products(o, &l);
}

static void x86_linear_grad(Ops *o, float *dx, int add_dx, float *dw, float *db, float *dy, const Act *x,
                            const float *w, const Act *pre, int N, int O, int I) {
    X86 *x86 = o->context;
    const int threads = threads_count(o->threads);
    if (N == 0) return; /* nothing to add */
    refresh(o);
    Linear l = {.x86 = x86,
                .products = 1,
                .w = find(x86, w),
                .x = x,
                .pre = (Act *)pre, /* read only */
                .dy = dy,
                .dx = dx,
                .dw = dw,
                .db = db,
                .N = N,
                .O = O,
                .I = I,
                .add_dx = add_dx};
    assert(l.w && l.w->O == O && l.w->I == I && (l.w->backward || !x86->packed) && N <= x86->tokens);
    (void)gradient_layout(&l.packed, x86->gradient, x86->gemm, N, O, I);
    threads_run(o->threads, gradient_task, &l, ((size_t)N + TOKENS - 1) / TOKENS);
    l.product[0] = cut(GRAD_W, O, I, N, x86, threads);
    if (dx) l.product[l.products++] = cut(GRAD_X, N, I, O, x86, threads);
    run_products(o, &l);
}

/* ---- life ---- */

static ErrCode x86_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) {
    ((X86 *)o->context)->tokens = tokens;
    return ops_blas_prepare(o, tokens, longest, A, D, err);
}

static void x86_close(Ops *o) {
    X86 *x = o->context;
    unbind(x);
    mem_free(x->space);
    ops_blas_close(o);
}

ErrCode ops_x86_fill(Ops *o, bool bf16, Err *err) {
    const GemmKernel *gemm = gemm_kernel(bf16 ? 2 : 4);
    if (!gemm && bf16)
        return err_set(
            err, ERR_BACKEND,
            "bf16 needs a processor with AVX512-BF16 or AMX, and this one lacks both; --precision fp32 runs "
            "everywhere");
    if (!gemm)
        return err_set(err, ERR_BACKEND,
                       "backend x86 needs a processor with AVX2; --backend blas runs everywhere");
    TRY(ops_blas_open(o, sizeof(X86), err));
    X86 *x = o->context;
    x->gemm = gemm;
    const ErrCode rc =
        mem_new(&x->space, (size_t)threads_count(o->threads), sizeof(Space), "the backend", err);
    if (rc != ERR_OK) {
        x86_close(o);
        *o = (Ops){0};
        return rc;
    }
#if defined(__x86_64__)
    if (bf16) x->blas.kernels = &kernels_bf16;
#endif
    o->act_bytes = x->blas.kernels->act_bytes;
    o->close = x86_close;
    o->prepare = x86_prepare;
    o->bind = x86_bind;
    o->weights_changed = x86_weights_changed;
    o->linear = x86_linear;
    o->linear_grad = x86_linear_grad;
    o->adamw = x86_adamw;
    return ERR_OK;
}

const char *ops_x86_kernel(bool bf16) {
    const GemmKernel *gemm = gemm_kernel(bf16 ? 2 : 4);
    return gemm ? gemm->name : NULL;
}

/* Seconds of a small product of zeros, which take as long as other numbers. */
static double time_of(const GemmKernel *g, Space *s) {
    enum { M = 96, N = 128, K = 256, TRIES = 9 };
    double best = 1e9;
    for (int i = 0; i < TRIES; i++) {
        const double from = progress_clock();
        if (g->begin) g->begin();
        for (int n = 0; n < N; n += 2 * GEMM_PANEL)
            for (int m = 0; m < M; m += g->rows)
                g->block(s->c + m * N + n, N, s->a + m * K * g->bytes,
                         s->b + (size_t)(n / GEMM_PANEL) * gemm_b_next(g, K), gemm_b_next(g, K), K / g->depth,
                         false);
        if (g->end) g->end();
        const double seconds = progress_clock() - from;
        best = seconds < best ? seconds : best;
    }
    return best;
}

bool ops_x86_gains(void) {
    const GemmKernel *bf16 = gemm_kernel(2), *fp32 = gemm_kernel(4);
    Space *s = bf16 && fp32 ? mem_alloc(1, sizeof *s) : NULL;
    if (!s) return false;
    const bool gains = time_of(bf16, s) * 1.2 < time_of(fp32, s);
    mem_free(s);
    return gains;
}
