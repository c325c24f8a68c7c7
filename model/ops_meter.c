#include "model/ops_meter.h"

#include <string.h>

#include "core/progress.h"

static const char *const NAMES[OPS_METER_COUNT] = {
    [OPS_METER_EMBED] = "embed",
    [OPS_METER_EMBED_GRAD] = "embed_grad",
    [OPS_METER_LINEAR] = "linear",
    [OPS_METER_LINEAR_GRAD] = "linear_grad",
    [OPS_METER_LINEAR_GROUP] = "linear_group",
    [OPS_METER_LINEAR_GROUP_GRAD] = "linear_group_grad",
    [OPS_METER_LINEAR_REAL] = "linear_real",
    [OPS_METER_LINEAR_REAL_GRAD] = "linear_real_grad",
    [OPS_METER_NORM] = "norm",
    [OPS_METER_NORM_GRAD] = "norm_grad",
    [OPS_METER_DROPOUT] = "dropout",
    [OPS_METER_DROPOUT_REAL] = "dropout_real",
    [OPS_METER_ATTENTION] = "attention",
    [OPS_METER_ATTENTION_GRAD] = "attention_grad",
    [OPS_METER_GATHER] = "gather",
    [OPS_METER_SCATTER] = "scatter",
    [OPS_METER_ADD] = "add",
    [OPS_METER_LOSS] = "loss",
    [OPS_METER_SUMSQ] = "sumsq",
    [OPS_METER_ADAMW] = "adamw",
    [OPS_METER_ADAMW_ROWS] = "adamw_rows",
    [OPS_METER_ZERO] = "zero",
};

const char *ops_meter_name(OpsMeterEntry entry) {
    return NAMES[entry];
}

void ops_meter_reset(OpsMeter *meter) {
    memset(meter->sum, 0, sizeof meter->sum);
}

double ops_meter_attention_flops(const Attention *shape) {
    return 8 * shape->pairs * shape->A * shape->D;
}

static Ops *inner_of(const Ops *o) {
    return ((OpsMeter *)o->context)->inner;
}

static void add(const Ops *o, OpsMeterEntry entry, double from, double flops) {
    OpsMeter *meter = o->context;
    OpsMeterSum *sum = &meter->sum[entry];
    if (meter->waits) (void)meter->inner->sync(meter->inner, NULL);
    sum->seconds += progress_clock() - from;
    sum->flops += flops;
    sum->calls++;
}

/* ---- memory: forwarded, only zero is timed ---- */

static void *meter_alloc(Ops *o, size_t bytes) {
    return inner_of(o)->alloc(inner_of(o), bytes);
}
static void meter_release(Ops *o, void *p) {
    inner_of(o)->release(inner_of(o), p);
}
static void meter_put(Ops *o, void *device, const void *host, size_t bytes) {
    inner_of(o)->put(inner_of(o), device, host, bytes);
}
static void meter_get(Ops *o, void *host, const void *device, size_t bytes) {
    ((OpsMeter *)o->context)->asked = progress_clock();
    inner_of(o)->get(inner_of(o), host, device, bytes);
}
static void meter_zero(Ops *o, void *device, size_t bytes) {
    const double from = progress_clock();
    inner_of(o)->zero(inner_of(o), device, bytes);
    add(o, OPS_METER_ZERO, from, 0);
}
static ErrCode meter_sync(Ops *o, Err *err) {
    return inner_of(o)->sync(inner_of(o), err);
}
static ErrCode meter_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) {
    return inner_of(o)->prepare(inner_of(o), tokens, longest, A, D, err);
}

static ErrCode meter_bind(Ops *o, const ParamView *list, size_t count, bool train, Err *err) {
    return inner_of(o)->bind(inner_of(o), list, count, train, err);
}
static void meter_weights_changed(Ops *o) {
    inner_of(o)->weights_changed(inner_of(o));
}
static void meter_widen(Ops *o, real *y, const Act *x, size_t n) {
    inner_of(o)->widen(inner_of(o), y, x, n);
}

/* ---- operations ---- */

static void meter_embed(Ops *o, Act *y, const real *table, const int32_t *ids, int N, int H) {
    const double from = progress_clock();
    inner_of(o)->embed(inner_of(o), y, table, ids, N, H);
    add(o, OPS_METER_EMBED, from, 0);
}

static void meter_embed_grad(Ops *o, real *dtable, const int32_t *slot, const real *dy, int N, int H) {
    const double from = progress_clock();
    inner_of(o)->embed_grad(inner_of(o), dtable, slot, dy, N, H);
    add(o, OPS_METER_EMBED_GRAD, from, 0);
}

static void meter_linear(Ops *o, Act *y, Act *pre, const Act *x, const real *w, const real *b, int N, int O,
                         int I) {
    const double from = progress_clock();
    inner_of(o)->linear(inner_of(o), y, pre, x, w, b, N, O, I);
    add(o, OPS_METER_LINEAR, from, 2.0 * N * O * I);
}

static void meter_linear_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const Act *x,
                              const real *w, const Act *pre, int N, int O, int I) {
    const double from = progress_clock();
    inner_of(o)->linear_grad(inner_of(o), dx, add_dx, dw, db, dy, x, w, pre, N, O, I);
    add(o, OPS_METER_LINEAR_GRAD, from, (dx ? 4.0 : 2.0) * N * O * I);
}

static void meter_linear_group(Ops *o, Act *const *y, const Act *x, const real *const *w,
                               const real *const *b, int count, int N, int O, int I) {
    const double from = progress_clock();
    inner_of(o)->linear_group(inner_of(o), y, x, w, b, count, N, O, I);
    add(o, OPS_METER_LINEAR_GROUP, from, 2.0 * count * N * O * I);
}

static void meter_linear_group_grad(Ops *o, real *dx, int add_dx, real *const *dw, real *const *db,
                                    real *const *dy, const Act *x, const real *const *w, int count, int N,
                                    int O, int I) {
    const double from = progress_clock();
    inner_of(o)->linear_group_grad(inner_of(o), dx, add_dx, dw, db, dy, x, w, count, N, O, I);
    add(o, OPS_METER_LINEAR_GROUP_GRAD, from, (dx ? 4.0 : 2.0) * count * N * O * I);
}

static void meter_linear_real(Ops *o, real *y, real *pre, const real *x, const real *w, const real *b, int N,
                              int O, int I) {
    const double from = progress_clock();
    inner_of(o)->linear_real(inner_of(o), y, pre, x, w, b, N, O, I);
    add(o, OPS_METER_LINEAR_REAL, from, 2.0 * N * O * I);
}

static void meter_linear_real_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const real *x,
                                   const real *w, const real *pre, int N, int O, int I) {
    const double from = progress_clock();
    inner_of(o)->linear_real_grad(inner_of(o), dx, add_dx, dw, db, dy, x, w, pre, N, O, I);
    add(o, OPS_METER_LINEAR_REAL_GRAD, from, (dx ? 4.0 : 2.0) * N * O * I);
}

static void meter_norm(Ops *o, Act *y, Act *xhat, real *rstd, const Act *x, const Act *r, const real *w,
                       const real *b, const Dropout *drop, int N, int H, real eps) {
    const double from = progress_clock();
    inner_of(o)->norm(inner_of(o), y, xhat, rstd, x, r, w, b, drop, N, H, eps);
    add(o, OPS_METER_NORM, from, 0);
}

static void meter_norm_grad(Ops *o, real *dx, real *dr, real *dw, real *db, const real *dy, const Act *xhat,
                            const real *rstd, const real *w, const Dropout *drop, int N, int H) {
    const double from = progress_clock();
    inner_of(o)->norm_grad(inner_of(o), dx, dr, dw, db, dy, xhat, rstd, w, drop, N, H);
    add(o, OPS_METER_NORM_GRAD, from, 0);
}

static void meter_dropout(Ops *o, Act *y, const Act *x, const Dropout *drop, int N, int H) {
    const double from = progress_clock();
    inner_of(o)->dropout(inner_of(o), y, x, drop, N, H);
    add(o, OPS_METER_DROPOUT, from, 0);
}

static void meter_dropout_real(Ops *o, real *y, const real *x, const Dropout *drop, int N, int H) {
    const double from = progress_clock();
    inner_of(o)->dropout_real(inner_of(o), y, x, drop, N, H);
    add(o, OPS_METER_DROPOUT_REAL, from, 0);
}

static void meter_attention(Ops *o, Act *out, const Act *q, const Act *k, const Act *v, const Act *kr,
                            const Act *qr, const Attention *shape) {
    const double from = progress_clock();
    inner_of(o)->attention(inner_of(o), out, q, k, v, kr, qr, shape);
    add(o, OPS_METER_ATTENTION, from, ops_meter_attention_flops(shape));
}

static void meter_attention_grad(Ops *o, real *dq, real *dk, real *dv, real *dkr, real *dqr, const real *dout,
                                 const Act *q, const Act *k, const Act *v, const Act *kr, const Act *qr,
                                 const Attention *shape) {
    const double from = progress_clock();
    inner_of(o)->attention_grad(inner_of(o), dq, dk, dv, dkr, dqr, dout, q, k, v, kr, qr, shape);
    add(o, OPS_METER_ATTENTION_GRAD, from, 2 * ops_meter_attention_flops(shape));
}

static void meter_gather(Ops *o, Act *y, const Act *x, const int32_t *at, int S, int H) {
    const double from = progress_clock();
    inner_of(o)->gather(inner_of(o), y, x, at, S, H);
    add(o, OPS_METER_GATHER, from, 0);
}

static void meter_scatter(Ops *o, real *dx, const real *dy, const int32_t *at, int N, int S, int H) {
    const double from = progress_clock();
    inner_of(o)->scatter(inner_of(o), dx, dy, at, N, S, H);
    add(o, OPS_METER_SCATTER, from, 0);
}

static void meter_add(Ops *o, real *y, const real *x, size_t n) {
    const double from = progress_clock();
    inner_of(o)->add(inner_of(o), y, x, n);
    add(o, OPS_METER_ADD, from, 0);
}

static void meter_loss(Ops *o, real *loss, real *dlogits, const real *logits, const real *target,
                       const real *weight, real scale, int S, int K) {
    const double from = progress_clock();
    inner_of(o)->loss(inner_of(o), loss, dlogits, logits, target, weight, scale, S, K);
    add(o, OPS_METER_LOSS, from, 0);
}

static void meter_sumsq(Ops *o, OpsNorm *norm, const real *x, size_t n) {
    const double from = progress_clock();
    inner_of(o)->sumsq(inner_of(o), norm, x, n);
    add(o, OPS_METER_SUMSQ, from, 0);
}

static void meter_clip(Ops *o, OpsNorm *norm, double most) {
    inner_of(o)->clip(inner_of(o), norm, most);
}

static void meter_adamw(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step) {
    const double from = progress_clock();
    inner_of(o)->adamw(inner_of(o), list, count, step);
    add(o, OPS_METER_ADAMW, from, 0);
}

static void meter_adamw_rows(Ops *o, const AdamwRows *rows) {
    const double from = progress_clock();
    inner_of(o)->adamw_rows(inner_of(o), rows);
    add(o, OPS_METER_ADAMW_ROWS, from, 0);
}

void ops_meter_fill(Ops *out, OpsMeter *meter, Ops *inner) {
    *meter = (OpsMeter){.inner = inner};
    *out = (Ops){.name = inner->name,
                 .precision = inner->precision,
                 .threads = inner->threads,
                 .context = meter,
                 .device = inner->device,
                 .act_bytes = inner->act_bytes,
                 .alloc = meter_alloc,
                 .release = meter_release,
                 .put = meter_put,
                 .get = meter_get,
                 .zero = meter_zero,
                 .sync = meter_sync,
                 .prepare = meter_prepare,
                 .bind = meter_bind,
                 .weights_changed = meter_weights_changed,
                 .widen = meter_widen,
                 .embed = meter_embed,
                 .embed_grad = meter_embed_grad,
                 .linear = meter_linear,
                 .linear_grad = meter_linear_grad,
                 .linear_group = meter_linear_group,
                 .linear_group_grad = meter_linear_group_grad,
                 .linear_real = meter_linear_real,
                 .linear_real_grad = meter_linear_real_grad,
                 .norm = meter_norm,
                 .norm_grad = meter_norm_grad,
                 .dropout = meter_dropout,
                 .dropout_real = meter_dropout_real,
                 .attention = meter_attention,
                 .attention_grad = meter_attention_grad,
                 .gather = meter_gather,
                 .scatter = meter_scatter,
                 .add = meter_add,
                 .loss = meter_loss,
                 .sumsq = meter_sumsq,
                 .clip = meter_clip,
                 .adamw = meter_adamw,
                 .adamw_rows = meter_adamw_rows};
}
