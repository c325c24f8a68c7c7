/* model/ops_cuda.c - the backend for NVIDIA's GPUs, a module: memory of the device, and the operations as calls of cuda.h
 * (own kernels) and cuda_matmul.h (products). In bf16, activations are bfloat16 and products take bfloat16 copies of the
 * weights, which adamw writes on its way. Weights, gradients, moments and sums are float always.
 *
 * All work is queued on one stream, in the order of the calls, but gradients of weights: see join. Only get and sync wait,
 * and put where 32 MB of copies are still on their way. */
#include <assert.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "model/cuda.h"
#include "model/cuda_matmul.h"
#include "model/ops_module.h"

enum { GRADIENTS = 3, JOBS = 8, RING = 4, PIECE = 8 << 20, ALIGN = 256 };

/* A weight or bias that has a copy in bfloat16. */
typedef struct {
    float *p;
    void *copy;
    size_t n;
} Bound;

typedef struct {
    cudaStream_t stream, other;
    CudaMatmuls matmuls;
    bool bf16;
    char *piece[RING];      /* pinned memory of the host, which put copies through */
    cudaEvent_t free[RING]; /* the copies from this piece have been made */
    int now;
    size_t used;  /* of piece[now] */
    Bound *bound; /* sorted by p; in bfloat16 only */
    size_t count;
    void *copies, *bias;       /* of the bound; of a bias that is not bound */
    void *gradient[GRADIENTS]; /* dz in bfloat16, in turn */
    int user[GRADIENTS], turn; /* the job that was given it last */
    float *partial[JOBS];      /* sums of blocks of rows, of each job */
    size_t partial_count;      /* floats of each */
    int job;
    cudaEvent_t made, spent[JOBS]; /* what a job reads is there; it has been read */
    bool aside;                    /* a job may not be finished */
    bool stale;                    /* weights are newer than their copies */
    int tokens;
    size_t widest; /* outputs of a layer that there is scratch for */
    double *squares;
    void *attention; /* scratch of its gradient */
} Cuda;

/* ---- failures ---- */

static void keep(Ops *o, const Err *why) {
    if (o->failed != ERR_OK) return;
    o->failed = why->code;
    o->why = *why;
}

static void check(Ops *o, cudaError_t status, const char *what) {
    if (status == cudaSuccess || o->failed != ERR_OK) return;
    Err why;
    (void)err_set(&why, status == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_BACKEND,
                  "backend cuda: %s: %s", what, cudaGetErrorString(status));
    keep(o, &why);
}

/* After kernels were queued: what can be known now. */
static void launched(Ops *o, const char *what) {
    check(o, cudaGetLastError(), what);
}

/* ---- two streams ---- */

/* In bfloat16, gradients of weights are computed aside: nothing of the backward pass waits for them, and they fill what
 * its small kernels leave idle. They read scratch and activations, which only operations of the forward pass write;
 * those, and whatever reads the gradients, join first. */
static void join(Ops *o) {
    Cuda *c = o->context;
    if (!c->aside) return;
    check(o, cudaStreamWaitEvent(c->stream, c->spent[(c->job + JOBS - 1) % JOBS], 0),
          "waiting for gradients");
    c->aside = false;
}

/* Room for this job's partial sums, which nobody reads any more. */
static float *begin_job(Ops *o) {
    Cuda *c = o->context;
    if (!c->bf16) return c->partial[0];
    check(o, cudaStreamWaitEvent(c->stream, c->spent[c->job], 0), "waiting for gradients");
    return c->partial[c->job];
}

/* Room for its dz. That of the job whose room it was has been read when that job's event has come, or a later job's in
 * its place. */
static void *next_gradient(Ops *o) {
    Cuda *c = o->context;
    check(o, cudaStreamWaitEvent(c->stream, c->spent[c->user[c->turn]], 0), "waiting for gradients");
    c->user[c->turn] = c->job;
    void *dz = c->gradient[c->turn];
    c->turn = (c->turn + 1) % GRADIENTS;
    return dz;
}

/* What is there now may be read on the stream that is returned, which end_job is given. */
static cudaStream_t go_aside(Ops *o) {
    Cuda *c = o->context;
    if (!c->bf16) return c->stream;
    check(o, cudaEventRecord(c->made, c->stream), "gradients");
    check(o, cudaStreamWaitEvent(c->other, c->made, 0), "gradients");
    return c->other;
}

static void end_job(Ops *o) {
    Cuda *c = o->context;
    if (!c->bf16) return;
    check(o, cudaEventRecord(c->spent[c->job], c->other), "gradients");
    c->job = (c->job + 1) % JOBS;
    c->aside = true;
}

/* ---- memory ---- */

static void *gpu_alloc(Ops *o, size_t bytes) {
    const Cuda *c = o->context;
    void *p = NULL;
    const cudaError_t status = cudaMalloc(&p, bytes ? bytes : 1);
    if (status != cudaSuccess) {
        (void)cudaGetLastError();
        if (status != cudaErrorMemoryAllocation) check(o, status, "new memory"); /* of an earlier failure */
        return NULL;
    }
    check(o, cudaMemsetAsync(p, 0, bytes ? bytes : 1, c->stream), "zeroing new memory");
    return p;
}

static void gpu_release(Ops *o, void *p) {
    join(o);
    if (p) check(o, cudaFree(p), "releasing memory");
}

static ErrCode alloc_scratch(Ops *o, void *out, size_t bytes, const char *what, Err *err) {
    void *p = gpu_alloc(o, bytes);
    memcpy(out, &p, sizeof p);
    return p ? ERR_OK
             : err_set(err, ERR_MEMORY, "out of memory on the device: %s needs %zu bytes", what, bytes);
}

static void release_scratch(Ops *o, void *at) {
    void *p;
    memcpy(&p, at, sizeof p);
    gpu_release(o, p);
    memset(at, 0, sizeof p);
}

static void gpu_put(Ops *o, void *device, const void *host, size_t bytes) {
    join(o);
    Cuda *c = o->context;
    const char *from = host;
    char *to = device;
    while (bytes > 0) {
        if (c->used == PIECE) {
            check(o, cudaEventRecord(c->free[c->now], c->stream), "a copy to the device");
            c->now = (c->now + 1) % RING;
            c->used = 0;
            check(o, cudaEventSynchronize(c->free[c->now]), "a copy to the device");
        }
        const size_t left = PIECE - c->used, n = bytes < left ? bytes : left;
        char *staged = c->piece[c->now] + c->used;
        memcpy(staged, from, n);
        check(o, cudaMemcpyAsync(to, staged, n, cudaMemcpyHostToDevice, c->stream), "a copy to the device");
        from += n;
        to += n;
        bytes -= n;
        c->used = n < left ? (c->used + n + ALIGN - 1) / ALIGN * ALIGN : PIECE;
    }
}

static void gpu_get(Ops *o, void *host, const void *device, size_t bytes) {
    join(o);
    const Cuda *c = o->context;
    if (bytes == 0) return;
    check(o, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, c->stream),
          "a copy from the device");
    check(o, cudaStreamSynchronize(c->stream), "the device's work");
}

static void gpu_zero(Ops *o, void *device, size_t bytes) {
    join(o);
    const Cuda *c = o->context;
    if (bytes) check(o, cudaMemsetAsync(device, 0, bytes, c->stream), "zeroing memory");
}

static ErrCode gpu_sync(Ops *o, Err *err) {
    join(o);
    const Cuda *c = o->context;
    check(o, cudaStreamSynchronize(c->stream), "the device's work");
    if (o->failed != ERR_OK && err) *err = o->why;
    return o->failed;
}

/* ---- weights ---- */

static void unbind(Ops *o) {
    Cuda *c = o->context;
    mem_free(c->bound);
    c->bound = NULL;
    c->count = 0;
    release_scratch(o, &c->copies);
    for (int i = 0; i < GRADIENTS; i++) release_scratch(o, &c->gradient[i]);
    release_scratch(o, &c->bias);
    o->kept_bytes = 0;
}

/* Partial sums of both kinds lie in the same place. */
static ErrCode need_partial(Ops *o, size_t count, Err *err) {
    Cuda *c = o->context;
    if (count <= c->partial_count) return ERR_OK;
    c->partial_count = 0;
    for (int i = 0; i < (c->bf16 ? JOBS : 1); i++) {
        release_scratch(o, &c->partial[i]);
        TRY(alloc_scratch(o, &c->partial[i], count * sizeof(float), "partial sums", err));
    }
    c->partial_count = count;
    return ERR_OK;
}

static ErrCode gpu_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) {
    Cuda *c = o->context;
    c->tokens = tokens;
    TRY(need_partial(o, cuda_norm_partials(tokens, A * D), err));
    release_scratch(o, &c->attention);
    return alloc_scratch(o, &c->attention, cuda_attention_scratch(tokens, longest, A, D, c->bf16),
                         "attention's gradient", err);
}

static bool copied(const ParamView *p) {
    return p->data && (p->kind == PARAM_LINEAR || p->kind == PARAM_BIAS);
}

static size_t padded(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Scratch for the widest layer of the list. */
static ErrCode need_scratch(Ops *o, const ParamView *list, size_t count, bool train, Err *err) {
    Cuda *c = o->context;
    c->widest = 0;
    for (size_t i = 0; i < count; i++)
        if (list[i].kind == PARAM_LINEAR && (size_t)list[i].rows > c->widest)
            c->widest = (size_t)list[i].rows;
    if (c->widest == 0) return ERR_OK;
    if (train) TRY(need_partial(o, cuda_bias_partials(c->tokens, (int)c->widest), err));
    if (!c->bf16) return ERR_OK;
    TRY(alloc_scratch(o, &c->bias, c->widest * 2, "a bias", err));
    if (!train) return ERR_OK;
    const size_t bytes = (size_t)c->tokens * c->widest * 2;
    for (int i = 0; i < GRADIENTS; i++)
        TRY(alloc_scratch(o, &c->gradient[i], bytes, "gradients in bfloat16", err));
    o->kept_bytes += GRADIENTS * bytes;
    return ERR_OK;
}

static ErrCode gpu_bind(Ops *o, const ParamView *list, size_t count, bool train, Err *err) {
    Cuda *c = o->context;
    unbind(o);
    TRY(need_scratch(o, list, count, train, err));
    size_t some = 0, bytes = 0;
    for (size_t i = 0; c->bf16 && i < count; i++) {
        if (!copied(&list[i])) continue;
        some++;
        bytes += padded((size_t)param_count(&list[i]) * 2);
    }
    if (some == 0) return ERR_OK;
    TRY(mem_new(&c->bound, some, sizeof *c->bound, "the list of weights", err));
    TRY(alloc_scratch(o, &c->copies, bytes, "weights in bfloat16", err));
    o->kept_bytes += bytes;
    char *next = c->copies;
    for (size_t i = 0; i < 2 * count; i++) { /* weights first, so that those of a layer lie end to end */
        if (!copied(&list[i % count]) || (list[i % count].kind == PARAM_LINEAR) != (i < count)) continue;
        const Bound b = {.p = list[i % count].data, .copy = next, .n = (size_t)param_count(&list[i % count])};
        next += padded(b.n * 2);
        size_t at = c->count++;
        for (; at > 0 && (uintptr_t)c->bound[at - 1].p > (uintptr_t)b.p; at--)
            c->bound[at] = c->bound[at - 1];
        c->bound[at] = b;
    }
    c->stale = true;
    return ERR_OK;
}

static void gpu_weights_changed(Ops *o) {
    ((Cuda *)o->context)->stale = true;
}

static void *copy_of(const Cuda *c, const float *p) {
    size_t low = 0, high = c->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if ((uintptr_t)c->bound[middle].p < (uintptr_t)p)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->count && c->bound[low].p == p ? c->bound[low].copy : NULL;
}

static void refresh(Ops *o) {
    Cuda *c = o->context;
    CudaTensors list = {.count = 0};
    for (size_t i = 0; c->stale && i < c->count; i++) {
        list.tensor[list.count++] =
            (CudaTensor){.p = c->bound[i].p, .copy = c->bound[i].copy, .n = c->bound[i].n};
        if (list.count < CUDA_TENSORS && i + 1 < c->count) continue;
        cuda_narrow(c->stream, &list);
        list.count = 0;
    }
    if (c->stale) launched(o, "copying weights");
    c->stale = false;
}

/* ---- linear layers ---- */

static void product(Ops *o, const CudaMatmul *call, const char *what) {
    Cuda *c = o->context;
    Err why;
    if (cuda_matmul_run(&c->matmuls, call, &why) != ERR_OK) keep(o, &why);
    launched(o, what);
}

static CudaMatmulType type_of(const Cuda *c) {
    return c->bf16 ? CUDA_MATMUL_BF16 : CUDA_MATMUL_FLOAT;
}

/* A weight in the form that products take. */
static const void *operand(Ops *o, const float *w, const char *what) {
    const Cuda *c = o->context;
    if (!c->bf16) return w;
    refresh(o);
    const void *copy = copy_of(c, w);
    Err why;
    if (!copy) {
        (void)err_set(&why, ERR_BACKEND, "backend cuda: %s with a weight that was not bound", what);
        keep(o, &why);
    }
    return copy;
}

static const void *bias_operand(Ops *o, const float *b, int O) {
    const Cuda *c = o->context;
    if (!c->bf16) return b;
    const void *copy = copy_of(c, b);
    if (copy) return copy;
    CudaTensors list = {.tensor = {{.p = (float *)b, .copy = c->bias, .n = (size_t)O}},
                        .count = 1}; /* read */
    cuda_narrow(c->stream, &list);
    return c->bias;
}

static void gpu_linear(Ops *o, Act *y, Act *pre, const Act *x, const float *w, const float *b, int N, int O,
                       int I) {
    join(o);
    const Cuda *c = o->context;
    if (N == 0) return;
    assert((size_t)O <= c->widest);
    const void *weight = operand(o, w, "linear");
    if (!weight) return;
    const CudaMatmul call = {.kind = CUDA_MATMUL_FORWARD,
                             .type = type_of(c),
                             .out = pre ? pre : y,
                             .a = x,
                             .b = weight,
                             .bias = bias_operand(o, b, O),
                             .N = N,
                             .O = O,
                             .I = I};
    product(o, &call, "linear");
    if (pre) cuda_gelu(c->stream, c->bf16, y, pre, (size_t)N * (size_t)O);
    launched(o, "gelu");
}

/* dx, then on the other stream what db and dw get. */
static void grad_products(Ops *o, CudaMatmulType type, float *dx, int add_dx, float *dw, const void *dz,
                          const void *x, const void *w, int N, int O, int I, int stream) {
    CudaMatmul call = {.type = type, .a = dz, .N = N, .O = O, .I = I};
    if (dx) {
        call.kind = CUDA_MATMUL_GRAD_X;
        call.out = dx;
        call.b = w;
        call.add = add_dx != 0;
        product(o, &call, "linear_grad");
    }
    call.kind = CUDA_MATMUL_GRAD_W;
    call.out = dw;
    call.b = x;
    call.add = true;
    call.stream = stream;
    product(o, &call, "linear_grad");
}

static void gpu_linear_grad(Ops *o, float *dx, int add_dx, float *dw, float *db, float *dy, const Act *x,
                            const float *w, const Act *pre, int N, int O, int I) {
    const Cuda *c = o->context;
    if (N == 0) return; /* nothing to add */
    assert(N <= c->tokens && (size_t)O <= c->widest);
    const void *weight = dx ? operand(o, w, "linear_grad") : w;
    if (!weight) return;
    float *partial = begin_job(o);
    void *dz = c->bf16 ? next_gradient(o) : dy;
    cuda_bias_grad(c->stream, c->bf16, dz, &dy, 1, pre, N, O, partial);
    cuda_bias_fold(go_aside(o), &db, 1, partial, N, O);
    launched(o, "linear_grad");
    grad_products(o, type_of(c), dx, add_dx, dw, dz, x, weight, N, O, I, c->bf16);
    end_job(o);
}

/* What lies between one pointer and the next in numbers of `bytes`, where it is the same everywhere; else 0. */
static int64_t spacing(const void *const *p, int count, size_t bytes) {
    const int64_t apart = (const char *)p[1] - (const char *)p[0];
    for (int i = 2; i < count; i++)
        if ((const char *)p[i] - (const char *)p[i - 1] != apart) return 0;
    return apart > 0 && apart % (int64_t)bytes == 0 ? apart / (int64_t)bytes : 0;
}

/* Copies of weights and, where asked for, of biases. */
static bool group_operands(Ops *o, const void **copies, const float *const *p, int count, int64_t *apart) {
    const Cuda *c = o->context;
    for (int i = 0; i < count; i++) copies[i] = copy_of(c, p[i]);
    for (int i = 0; i < count; i++)
        if (!copies[i]) return false;
    *apart = spacing(copies, count, 2);
    return *apart != 0;
}

static void gpu_linear_group(Ops *o, Act *const *y, const Act *x, const float *const *w,
                             const float *const *b, int count, int N, int O, int I) {
    join(o);
    const Cuda *c = o->context;
    const void *weights[OPS_GROUP], *biases[OPS_GROUP];
    int64_t w_next, b_next;
    const int64_t y_next = count > 1 ? spacing((const void *const *)y, count, 2) : 0;
    if (N == 0 || !c->bf16 || y_next == 0 || !group_operands(o, weights, w, count, &w_next) ||
        !group_operands(o, biases, b, count, &b_next)) {
        for (int i = 0; i < count; i++) gpu_linear(o, y[i], NULL, x, w[i], b[i], N, O, I);
        return;
    }
    refresh(o);
    const CudaMatmul call = {.kind = CUDA_MATMUL_FORWARD,
                             .type = CUDA_MATMUL_BF16,
                             .out = y[0],
                             .a = x,
                             .b = weights[0],
                             .bias = biases[0],
                             .N = N,
                             .O = O,
                             .I = I,
                             .count = count,
                             .out_next = y_next,
                             .b_next = w_next,
                             .bias_next = b_next};
    product(o, &call, "linear_group");
}

/* dz of all layers side by side and their weights one under the other make dx one product. */
static void gpu_linear_group_grad(Ops *o, float *dx, int add_dx, float *const *dw, float *const *db,
                                  float *const *dy, const Act *x, const float *const *w, int count, int N,
                                  int O, int I) {
    const Cuda *c = o->context;
    const void *weights[OPS_GROUP];
    int64_t w_next = 0;
    const int64_t dw_next = count > 1 ? spacing((const void *const *)dw, count, sizeof(float)) : 0;
    if (N == 0 || !c->bf16 || dw_next == 0 || (size_t)count * (size_t)O > c->widest ||
        !group_operands(o, weights, w, count, &w_next) || w_next != (int64_t)O * I) {
        for (int i = 0; i < count; i++)
            gpu_linear_grad(o, dx, add_dx || i, dw[i], db[i], dy[i], x, w[i], NULL, N, O, I);
        return;
    }
    refresh(o);
    float *partial = begin_job(o);
    void *dz = next_gradient(o);
    cuda_bias_grad(c->stream, true, dz, dy, count, NULL, N, O, partial);
    cuda_bias_fold(go_aside(o), db, count, partial, N, O);
    launched(o, "linear_group_grad");
    CudaMatmul call = {.kind = CUDA_MATMUL_GRAD_X,
                       .type = CUDA_MATMUL_BF16,
                       .out = dx,
                       .a = dz,
                       .b = weights[0],
                       .N = N,
                       .O = count * O,
                       .I = I,
                       .add = add_dx != 0};
    if (dx) product(o, &call, "linear_group_grad");
    call.stream = 1;
    call.kind = CUDA_MATMUL_GRAD_W;
    call.out = dw[0];
    call.b = x;
    call.O = O;
    call.add = true;
    call.a_row = count * O;
    call.count = count;
    call.a_next = O;
    call.out_next = dw_next;
    product(o, &call, "linear_group_grad");
    end_job(o);
}

static void gpu_linear_real(Ops *o, float *y, float *pre, const float *x, const float *w, const float *b,
                            int N, int O, int I) {
    const Cuda *c = o->context;
    if (N == 0) return;
    const CudaMatmul call = {.kind = CUDA_MATMUL_FORWARD,
                             .type = CUDA_MATMUL_REAL,
                             .out = pre ? pre : y,
                             .a = x,
                             .b = w,
                             .bias = b,
                             .N = N,
                             .O = O,
                             .I = I};
    product(o, &call, "linear_real");
    if (pre) cuda_gelu(c->stream, false, y, pre, (size_t)N * (size_t)O);
    launched(o, "gelu");
}

static void gpu_linear_real_grad(Ops *o, float *dx, int add_dx, float *dw, float *db, float *dy,
                                 const float *x, const float *w, const float *pre, int N, int O, int I) {
    join(o);
    const Cuda *c = o->context;
    if (N == 0) return;
    if (pre) cuda_gelu_grad(c->stream, dy, pre, (size_t)N * (size_t)O);
    cuda_column_sums(c->stream, db, dy, N, O);
    launched(o, "linear_real_grad");
    grad_products(o, CUDA_MATMUL_REAL, dx, add_dx, dw, dy, x, w, N, O, I, 0);
}

/* ---- the other operations, in the order of ops.h ---- */

static void gpu_widen(Ops *o, float *y, const Act *x, size_t n) {
    join(o);
    const Cuda *c = o->context;
    cuda_widen(c->stream, c->bf16, y, x, n);
    launched(o, "widen");
}

static void gpu_embed(Ops *o, Act *y, const float *table, const int32_t *ids, int N, int H) {
    join(o);
    const Cuda *c = o->context;
    cuda_embed(c->stream, c->bf16, y, table, ids, N, H);
    launched(o, "embed");
}

static void gpu_embed_grad(Ops *o, float *dtable, const int32_t *slot, const float *dy, int N, int H) {
    const Cuda *c = o->context;
    cuda_embed_grad(c->stream, dtable, slot, dy, N, H);
    launched(o, "embed_grad");
}

static void gpu_norm(Ops *o, Act *y, Act *xhat, float *rstd, const Act *x, const Act *r, const float *w,
                     const float *b, const Dropout *drop, int N, int H, float eps) {
    join(o);
    const Cuda *c = o->context;
    cuda_norm(c->stream, c->bf16, y, xhat, rstd, x, r, w, b, drop, N, H, eps);
    launched(o, "norm");
}

static void gpu_norm_grad(Ops *o, float *dx, float *dr, float *dw, float *db, const float *dy,
                          const Act *xhat, const float *rstd, const float *w, const Dropout *drop, int N,
                          int H) {
    const Cuda *c = o->context;
    assert(cuda_norm_partials(N, H) <= c->partial_count);
    float *partial = begin_job(o);
    cuda_norm_grad(c->stream, c->bf16, dx, dr, dy, xhat, rstd, w, drop, N, H, partial);
    cuda_norm_fold(go_aside(o), dw, db, partial, N, H);
    launched(o, "norm_grad");
    end_job(o);
}

static void gpu_dropout(Ops *o, Act *y, const Act *x, const Dropout *drop, int N, int H) {
    join(o);
    const Cuda *c = o->context;
    cuda_dropout(c->stream, c->bf16, y, x, drop, N, H);
    launched(o, "dropout");
}

static void gpu_dropout_real(Ops *o, float *y, const float *x, const Dropout *drop, int N, int H) {
    const Cuda *c = o->context;
    cuda_dropout(c->stream, false, y, x, drop, N, H);
    launched(o, "dropout");
}

static CudaAttention attention_of(const Cuda *c, const Attention *s) {
    return (CudaAttention){.start = s->packed->start,
                           .index = s->index + s->longest - 1,
                           .row = s->drop->row,
                           .N = s->packed->N,
                           .S = s->packed->S,
                           .longest = s->packed->longest,
                           .A = s->A,
                           .D = s->D,
                           .R = s->R,
                           .scale = s->scale,
                           .p = s->drop->p,
                           .key = s->drop->key,
                           .bf16 = c->bf16};
}

static void gpu_attention(Ops *o, Act *out, const Act *q, const Act *k, const Act *v, const Act *kr,
                          const Act *qr, const Attention *shape) {
    join(o);
    const Cuda *c = o->context;
    const CudaAttention a = attention_of(c, shape);
    check(o, (cudaError_t)cuda_attention(out, q, k, v, kr, qr, &a, c->stream), "attention");
}

static void gpu_attention_grad(Ops *o, float *dq, float *dk, float *dv, float *dkr, float *dqr,
                               const float *dout, const Act *q, const Act *k, const Act *v, const Act *kr,
                               const Act *qr, const Attention *shape) {
    const Cuda *c = o->context;
    const CudaAttention a = attention_of(c, shape);
    check(o,
          (cudaError_t)cuda_attention_grad(dq, dk, dv, dkr, dqr, dout, q, k, v, kr, qr, &a, c->attention,
                                           c->stream),
          "attention_grad");
}

static void gpu_gather(Ops *o, Act *y, const Act *x, const int32_t *at, int S, int H) {
    join(o);
    const Cuda *c = o->context;
    cuda_gather(c->stream, c->bf16, y, x, at, S, H);
    launched(o, "gather");
}

static void gpu_scatter(Ops *o, float *dx, const float *dy, const int32_t *at, int N, int S, int H) {
    const Cuda *c = o->context;
    gpu_zero(o, dx, (size_t)N * (size_t)H * sizeof *dx);
    cuda_scatter(c->stream, dx, dy, at, S, H);
    launched(o, "scatter");
}

static void gpu_add(Ops *o, float *y, const float *x, size_t n) {
    const Cuda *c = o->context;
    cuda_add(c->stream, y, x, n);
    launched(o, "add");
}

static void gpu_loss(Ops *o, float *loss, float *dlogits, const float *logits, const float *target,
                     const float *weight, float scale, int S, int K) {
    const Cuda *c = o->context;
    cuda_loss(c->stream, loss, dlogits, logits, target, weight, scale, S, K);
    launched(o, "loss");
}

static void gpu_sumsq(Ops *o, OpsNorm *norm, const float *x, size_t n) {
    join(o);
    const Cuda *c = o->context;
    cuda_sumsq(c->stream, norm, x, n, c->squares);
    launched(o, "sumsq");
}

static void gpu_clip(Ops *o, OpsNorm *norm, double most) {
    join(o);
    const Cuda *c = o->context;
    cuda_clip(c->stream, norm, most);
    launched(o, "clip");
}

static void gpu_adamw(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step) {
    join(o);
    const Cuda *c = o->context;
    CudaTensors some = {.beta1 = (float)step->beta1,
                        .beta2 = (float)step->beta2,
                        .rest1 = (float)(1 - step->beta1),
                        .rest2 = (float)(1 - step->beta2),
                        .eps = (float)step->eps,
                        .per_bias2 = (float)(1 / step->bias2),
                        .norm = step->norm};
    for (size_t i = 0; i < count; i++) {
        const AdamwTensor *t = &list[i];
        const double lr = step->lr * t->rate;
        if (t->n > 0)
            some.tensor[some.count++] =
                (CudaTensor){.p = t->p,
                             .m = t->m,
                             .v = t->v,
                             .g = t->g,
                             .copy = copy_of(c, t->p),
                             .n = t->n,
                             .lr = (float)(lr / step->bias1),
                             .decay = (float)(t->decays ? lr * step->weight_decay : 0)};
        if (some.count == 0 || (some.count < CUDA_TENSORS && i + 1 < count)) continue;
        cuda_adamw(c->stream, &some);
        some.count = 0;
    }
    launched(o, "adamw");
}

static void gpu_adamw_rows(Ops *o, const AdamwRows *rows) {
    const Cuda *c = o->context;
    cuda_adamw_rows(c->stream, rows);
    launched(o, "adamw_rows");
}

/* ---- life ---- */

static void gpu_close(Ops *o) {
    Cuda *c = o->context;
    if (!c) return;
    if (c->stream) (void)cudaStreamSynchronize(c->stream);
    unbind(o);
    for (int i = 0; i < JOBS; i++) release_scratch(o, &c->partial[i]);
    release_scratch(o, &c->squares);
    release_scratch(o, &c->attention);
    cuda_matmul_close(&c->matmuls);
    for (int i = 0; i < RING; i++) {
        if (c->free[i]) (void)cudaEventDestroy(c->free[i]);
        if (c->piece[i]) (void)cudaFreeHost(c->piece[i]);
    }
    if (c->made) (void)cudaEventDestroy(c->made);
    for (int i = 0; i < JOBS; i++)
        if (c->spent[i]) (void)cudaEventDestroy(c->spent[i]);
    if (c->stream) (void)cudaStreamDestroy(c->stream);
    if (c->other) (void)cudaStreamDestroy(c->other);
    mem_free(c);
    o->context = NULL;
}

static void fill_functions(Ops *o) {
    o->alloc = gpu_alloc;
    o->release = gpu_release;
    o->put = gpu_put;
    o->get = gpu_get;
    o->zero = gpu_zero;
    o->sync = gpu_sync;
    o->close = gpu_close;
    o->prepare = gpu_prepare;
    o->bind = gpu_bind;
    o->weights_changed = gpu_weights_changed;
    o->widen = gpu_widen;
    o->embed = gpu_embed;
    o->embed_grad = gpu_embed_grad;
    o->linear = gpu_linear;
    o->linear_grad = gpu_linear_grad;
    o->linear_group = gpu_linear_group;
    o->linear_group_grad = gpu_linear_group_grad;
    o->linear_real = gpu_linear_real;
    o->linear_real_grad = gpu_linear_real_grad;
    o->norm = gpu_norm;
    o->norm_grad = gpu_norm_grad;
    o->dropout = gpu_dropout;
    o->dropout_real = gpu_dropout_real;
    o->attention = gpu_attention;
    o->attention_grad = gpu_attention_grad;
    o->gather = gpu_gather;
    o->scatter = gpu_scatter;
    o->add = gpu_add;
    o->loss = gpu_loss;
    o->sumsq = gpu_sumsq;
    o->clip = gpu_clip;
    o->adamw = gpu_adamw;
    o->adamw_rows = gpu_adamw_rows;
}

/* Takes the first device, if it can run our kernels; *bf16: whether it multiplies bfloat16. */
static ErrCode find_device(Ops *o, bool *bf16, Err *err) {
    struct cudaDeviceProp properties = {.name = ""};
    int count = 0, driver = 0, major = 0, minor = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    (void)cudaDriverGetVersion(&driver);
    if (status == cudaErrorInsufficientDriver && driver == 0)
        return err_set(err, ERR_BACKEND, "backend cuda: there is no NVIDIA driver on this machine");
    if (status == cudaErrorInsufficientDriver)
        return err_set(
            err, ERR_BACKEND,
            "backend cuda: the NVIDIA driver knows CUDA %d.%d, this build needs %d.%d: update the driver",
            driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
        return err_set(
            err, ERR_BACKEND,
            "backend cuda: no device was found (CUDA_VISIBLE_DEVICES names those that may be used)");
    if (status == cudaSuccess) status = cudaSetDevice(0);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, 0);
    if (status != cudaSuccess)
        return err_set(err, ERR_BACKEND, "backend cuda: the device: %s", cudaGetErrorString(status));
    if (major * 10 + minor < 75)
        return err_set(err, ERR_BACKEND,
                       "backend cuda: the device has compute capability %d.%d, expected 7.5 or later", major,
                       minor);
    *bf16 = major >= 8;
    (void)snprintf(o->hardware, sizeof o->hardware, "%.63s", properties.name);
    return ERR_OK;
}

static ErrCode open_parts(Ops *o, bool tf32, Err *err) {
    Cuda *c = o->context;
    int least = 0, greatest = 0;
    cudaError_t status = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest);
    if (status == cudaSuccess) status = cudaStreamCreateWithPriority(&c->other, cudaStreamNonBlocking, least);
    if (status == cudaSuccess) status = cudaEventCreateWithFlags(&c->made, cudaEventDisableTiming);
    for (int i = 0; i < JOBS && status == cudaSuccess; i++)
        status = cudaEventCreateWithFlags(&c->spent[i], cudaEventDisableTiming);
    void *pinned;
    for (int i = 0; i < RING && status == cudaSuccess; i++) {
        status = cudaEventCreateWithFlags(&c->free[i], cudaEventDisableTiming);
        if (status == cudaSuccess) status = cudaMallocHost(&pinned, PIECE);
        if (status == cudaSuccess) c->piece[i] = pinned;
    }
    if (status != cudaSuccess) {
        (void)cudaGetLastError();
        return err_set(err, status == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_BACKEND,
                       "backend cuda: opening the device: %s", cudaGetErrorString(status));
    }
    const cudaStream_t streams[CUDA_MATMUL_STREAMS] = {c->stream, c->other};
    TRY(cuda_matmul_open(&c->matmuls, streams, tf32, err));
    return alloc_scratch(o, &c->squares, CUDA_SUM_BLOCKS * sizeof(double), "sums of squares", err);
}

static ErrCode fill(Ops *o, const char *precision, Err *err) {
    bool can_bf16;
    TRY(find_device(o, &can_bf16, err));
    const bool tf32 = strcmp(precision, "tf32") == 0, any = strcmp(precision, "auto") == 0;
    if (!can_bf16 && (tf32 || strcmp(precision, "bf16") == 0))
        return err_set(
            err, ERR_BACKEND,
            "backend cuda: %s needs a device of compute capability 8.0 or later; --precision fp32 runs on "
            "this one",
            precision);
    Cuda *c;
    TRY(mem_new(&c, 1, sizeof *c, "the backend", err));
    o->context = c;
    c->bf16 = can_bf16 && (any || strcmp(precision, "bf16") == 0);
    const ErrCode rc = open_parts(o, tf32, err);
    if (rc != ERR_OK) {
        gpu_close(o);
        return rc;
    }
    fill_functions(o);
    o->device = true;
    o->act_bytes = c->bf16 ? 2 : sizeof(float);
    o->precision = c->bf16 ? "bf16" : tf32 ? "tf32" : "fp32";
    return ERR_OK;
}

extern const OpsModule ops_module;
__attribute__((visibility("default"))) const OpsModule ops_module = {sizeof(Ops), ROUTER_VERSION, fill};
