/* Single operations at the sizes of the chosen model. */
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "eval/bench.h"
#include "model/buckets.h"
#include "model/ops_blas.h"
#include "model/ops_meter.h"

enum {
    SMALL_TOKENS = 32,
    WEIGHT_NUMBERS = 1 << 24, /* weights in turn, 64 MB of them: none is in a cache when its layer comes */
    STREAM_NUMBERS = 1 << 24, /* likewise for what streams through memory */
    ATTENTION_TOKENS = 2048
};

/* Small random numbers: what is added up again and again stays finite. */
static ErrCode numbers(float **out, size_t n, double size, uint64_t key, Err *err) {
    TRY(mem_new(out, n, sizeof **out, "matrices", err));
    for (size_t i = 0; i < n; i++)
        (*out)[i] = (float)(size * ((double)(rng_bits(key, i) >> 40) * 0x1p-23 - 1));
    return ERR_OK;
}

/* ---- linear layers ---- */

typedef struct {
    Ops *ops;
    int N, O, I;
    float *x, *dx, *y, *pre, *dw, *db, *bias;
    float *w; /* (copies, O, I) */
    size_t copies, turn;
} Linear;

static float *next_weight(Linear *l) {
    l->turn = (l->turn + 1) % l->copies;
    return l->w + l->turn * (size_t)l->O * (size_t)l->I;
}

static void linear_forward(void *context) {
    Linear *l = context;
    l->ops->linear(l->ops, l->y, NULL, l->x, next_weight(l), l->bias, l->N, l->O, l->I);
}

static void linear_weights(void *context) {
    Linear *l = context;
    l->ops->linear_grad(l->ops, NULL, 0, l->dw, l->db, l->y, l->x, next_weight(l), NULL, l->N, l->O, l->I);
}

static void linear_both(void *context) {
    Linear *l = context;
    l->ops->linear_grad(l->ops, l->dx, 0, l->dw, l->db, l->y, l->x, next_weight(l), NULL, l->N, l->O, l->I);
}

/* `alone`: seconds of cblas_sgemm by OpenBLAS's own threads for the same. */
static void linear_result(const Bench *b, cJSON *to, const char *key, double flops, BenchTime t,
                          double alone) {
    const double of_peak = flops / t.best / peaks_best(&b->peaks, b->precision, true);
    const double alone_rate = alone > 0 ? flops / alone : 0;
    cJSON *o = cJSON_AddObjectToObject(to, key);
    bench_number(o, "median", flops / t.median);
    bench_number(o, "best", flops / t.best);
    bench_number(o, "of_peak", of_peak);
    bench_number(o, "sgemm_alone", alone_rate);
    bench_print(b, "  %8.1f %3.0f %% %8.1f", flops / t.median * 1e-9, 100 * of_peak, alone_rate * 1e-9);
}

static void bench_linear(const Bench *b, Linear *l, cJSON *list) {
    const double seconds = b->options->seconds, flops = 2.0 * l->N * l->O * l->I;
    const int threads = threads_count(b->threads);
    const double forward = ops_blas_alone('f', l->N, l->O, l->I, threads, seconds),
                 dx = ops_blas_alone('x', l->N, l->I, l->O, threads, seconds),
                 dw = ops_blas_alone('w', l->O, l->I, l->N, threads, seconds);
    l->copies = (size_t)WEIGHT_NUMBERS / ((size_t)l->O * (size_t)l->I);
    cJSON *o = cJSON_CreateObject();
    (void)cJSON_AddNumberToObject(o, "tokens", l->N);
    (void)cJSON_AddNumberToObject(o, "out", l->O);
    (void)cJSON_AddNumberToObject(o, "in", l->I);
    bench_print(b, "  %6d x %4d x %4d ", l->N, l->O, l->I);
    linear_result(b, o, "forward", flops, bench_time(seconds, linear_forward, l), forward);
    linear_result(b, o, "gradients", 2 * flops, bench_time(seconds, linear_both, l), dx + dw);
    linear_result(b, o, "dw", flops, bench_time(seconds, linear_weights, l), dw);
    bench_print(b, "\n");
    (void)cJSON_AddItemToArray(list, o);
}

static ErrCode bench_linears(const Bench *b, cJSON *list, Err *err) {
    const int H = b->config.hidden_size, F = b->config.intermediate_size, most = b->tokens;
    const int shapes[3][2] = {{H, H}, {F, H}, {H, F}}, tokens[2] = {most, SMALL_TOKENS};
    const size_t wide = (size_t)(H > F ? H : F), N = (size_t)(most > SMALL_TOKENS ? most : SMALL_TOKENS);
    Linear l = {.ops = (Ops *)&b->ops};
    ErrCode rc = numbers(&l.x, N * wide, 1, 1, err);
    if (rc == ERR_OK) rc = numbers(&l.dx, N * wide, 1, 2, err);
    if (rc == ERR_OK) rc = numbers(&l.y, N * wide, 1, 3, err);
    if (rc == ERR_OK) rc = numbers(&l.w, WEIGHT_NUMBERS + (size_t)H * wide, 0.03, 4, err);
    if (rc == ERR_OK) rc = numbers(&l.dw, (size_t)H * wide, 0, 5, err);
    if (rc == ERR_OK) rc = numbers(&l.db, wide, 0, 6, err);
    if (rc == ERR_OK) rc = numbers(&l.bias, wide, 0.03, 7, err);
    if (rc == ERR_OK)
        bench_print(b,
                    "\nLinear layers, GFLOP/s: median, best as share of the %s peak, cblas_sgemm alone\n"
                    "  tokens x  out x   in             forward                  dX + dW"
                    "                    dW\n",
                    b->precision == PEAKS_BF16 ? "bf16" : "fp32");
    for (int t = 0; rc == ERR_OK && t < 2; t++)
        for (int i = 0; i < 3; i++) {
            l.N = tokens[t];
            l.O = shapes[i][0];
            l.I = shapes[i][1];
            bench_linear(b, &l, list);
        }
    float *const owned[] = {l.x, l.dx, l.y, l.w, l.dw, l.db, l.bias};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    return rc;
}

/* ---- attention ---- */

typedef struct {
    Ops *ops;
    Attention shape;
    Packed packed;
    Dropout none, drop;
    float *q, *k, *v, *out, *dq, *dk, *dv, *dout; /* (N,H) */
    float *kr, *qr, *dkr, *dqr;                   /* (R,H) */
    int32_t *index, *start;
    uint64_t *row;
} Attend;

static void attention_forward(void *context) {
    Attend *a = context;
    a->shape.drop = &a->none;
    a->ops->attention(a->ops, a->out, a->q, a->k, a->v, a->kr, a->qr, &a->shape);
}

static void attention_both(void *context) {
    Attend *a = context;
    a->shape.drop = &a->drop;
    a->ops->attention(a->ops, a->out, a->q, a->k, a->v, a->kr, a->qr, &a->shape);
    a->ops->attention_grad(a->ops, a->dq, a->dk, a->dv, a->dkr, a->dqr, a->dout, a->q, a->k, a->v, a->kr,
                           a->qr, &a->shape);
}

static ErrCode attend_open(Attend *a, const Bench *b, int longest, Err *err) {
    const size_t H = (size_t)b->config.hidden_size, N = ATTENTION_TOKENS,
                 R = 2 * (size_t)b->config.position_buckets;
    float **const arrays[] = {&a->q, &a->k, &a->v, &a->out, &a->dq, &a->dk, &a->dv, &a->dout};
    float **const tables[] = {&a->kr, &a->qr, &a->dkr, &a->dqr};
    a->ops = (Ops *)&b->ops;
    for (size_t i = 0; i < 8; i++) TRY(numbers(arrays[i], N * H, 1, 20 + i, err));
    for (size_t i = 0; i < 4; i++) TRY(numbers(tables[i], R * H, 1, 30 + i, err));
    TRY(mem_new(&a->index, 2 * (size_t)longest, sizeof *a->index, "positions", err));
    TRY(mem_new(&a->start, N + 1, sizeof *a->start, "positions", err));
    TRY(mem_new(&a->row, N, sizeof *a->row, "positions", err));
    for (size_t n = 0; n < N; n++) a->row[n] = n;
    a->drop = (Dropout){(real)b->config.attention_probs_dropout_prob, 1, a->row};
    return b->ops.prepare(a->ops, longest, b->config.num_attention_heads,
                          b->config.hidden_size / b->config.num_attention_heads, err);
}

static void attend_shape(Attend *a, const Config *c, int L) {
    const int B = c->position_buckets, P = c->max_relative_positions, S = ATTENTION_TOKENS / L,
              D = c->hidden_size / c->num_attention_heads, first = buckets_row(-(L - 1), B, P);
    for (int i = 0; i < 2 * L - 1; i++) a->index[i] = buckets_row(i - (L - 1), B, P) - first;
    for (int s = 0; s <= S; s++) a->start[s] = s * L;
    a->packed = (Packed){.N = S * L, .S = S, .longest = L, .start = a->start};
    a->shape = (Attention){.packed = &a->packed,
                           .A = c->num_attention_heads,
                           .D = D,
                           .index = a->index,
                           .longest = L,
                           .R = buckets_row(L - 1, B, P) - first + 1,
                           .scale = (real)(1 / sqrt(3.0 * D))};
}

static void attention_result(const Bench *b, cJSON *to, const char *key, const Attend *a, double times,
                             BenchTime t) {
    const double flops = times * ops_meter_attention_flops(&a->shape);
    const double microseconds = 1e6 * t.median / a->packed.S / a->shape.A;
    cJSON *o = cJSON_AddObjectToObject(to, key);
    bench_number(o, "median", flops / t.median);
    bench_number(o, "best", flops / t.best);
    bench_number(o, "microseconds", microseconds);
    bench_print(b, "  %10.1f %10.2f", flops / t.median * 1e-9, microseconds);
}

static ErrCode bench_attention(const Bench *b, cJSON *list, Err *err) {
    static const int LENGTHS[] = {32, 64, 128, 512};
    Attend a = {0};
    ErrCode rc = attend_open(&a, b, 512, err);
    if (rc == ERR_OK)
        bench_print(b,
                    "\nAttention of all heads: GFLOP/s (8 L^2 D, three times that with its gradient), "
                    "microseconds for a sequence and head\n"
                    "  tokens        forward                 with gradient, dropout\n");
    for (size_t i = 0; rc == ERR_OK && i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        attend_shape(&a, &b->config, LENGTHS[i]);
        cJSON *o = cJSON_CreateObject();
        (void)cJSON_AddNumberToObject(o, "tokens", LENGTHS[i]);
        (void)cJSON_AddNumberToObject(o, "sequences", a.packed.S);
        bench_print(b, "  %6d", LENGTHS[i]);
        attention_result(b, o, "forward", &a, 1, bench_time(b->options->seconds, attention_forward, &a));
        attention_result(b, o, "both", &a, 3, bench_time(b->options->seconds, attention_both, &a));
        bench_print(b, "\n");
        (void)cJSON_AddItemToArray(list, o);
    }
    void *const owned[] = {a.q,  a.k,  a.v,   a.out, a.dq,    a.dk,    a.dv, a.dout,
                           a.kr, a.qr, a.dkr, a.dqr, a.index, a.start, a.row};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    return rc;
}

/* ---- what streams through memory ---- */

typedef struct {
    Ops *ops;
    float *a, *b, *c, *d, *rstd, *w, *dw;
    int N, H;
    Dropout none;
    AdamwStep step;
} Stream;

static void stream_norm(void *context) {
    Stream *s = context;
    s->ops->norm(s->ops, s->a, s->b, s->rstd, s->c, s->d, s->w, s->w, &s->none, s->N, s->H, 1e-7f);
}

static void stream_norm_grad(void *context) {
    Stream *s = context;
    s->ops->norm_grad(s->ops, s->c, s->d, s->dw, s->dw + s->H, s->a, s->b, s->rstd, s->w, &s->none, s->N,
                      s->H);
}

static void stream_adamw(void *context) {
    Stream *s = context;
    s->ops->adamw(s->ops, s->a, s->b, s->c, s->d, (size_t)s->N * (size_t)s->H, &s->step);
}

static ErrCode bench_stream(const Bench *b, cJSON *list, Err *err) {
    /* Bytes for each number: norm reads two and writes two, so does its gradient; AdamW reads four and writes
     * three. The gradient follows norm, from which it has xhat and rstd. */
    static const struct {
        const char *name;
        BenchWork *work;
        double bytes;
    } OPS[] = {{"norm", stream_norm, 16}, {"norm_grad", stream_norm_grad, 16}, {"adamw", stream_adamw, 28}};
    const int H = b->config.hidden_size;
    const double peak = peaks_best(&b->peaks, PEAKS_READ, true);
    Stream s = {.ops = (Ops *)&b->ops,
                .N = STREAM_NUMBERS / H,
                .H = H,
                .step = {1e-5, 0.9, 0.999, 1e-8, 1e-7, 1, 0.1, 0.001}};
    const size_t n = (size_t)s.N * (size_t)H;
    ErrCode rc = numbers(&s.a, n, 1, 40, err);
    if (rc == ERR_OK) rc = numbers(&s.b, n, 1, 41, err);
    if (rc == ERR_OK) rc = numbers(&s.c, n, 1, 42, err);
    if (rc == ERR_OK) rc = numbers(&s.d, n, 1, 43, err);
    if (rc == ERR_OK) rc = numbers(&s.rstd, (size_t)s.N, 1, 44, err);
    if (rc == ERR_OK) rc = numbers(&s.w, (size_t)H, 1, 45, err);
    if (rc == ERR_OK) rc = numbers(&s.dw, 2 * (size_t)H, 0, 46, err);
    if (rc == ERR_OK)
        bench_print(
            b, "\nThrough memory, GB/s: median, best as share of the reading peak (writing costs more)\n");
    for (size_t i = 0; rc == ERR_OK && i < sizeof OPS / sizeof *OPS; i++) {
        if (OPS[i].work == stream_adamw) /* second moments are not negative */
            for (size_t k = 0; k < n; k++) s.c[k] = fabsf(s.c[k]);
        const BenchTime t = bench_time(b->options->seconds, OPS[i].work, &s);
        const double bytes = OPS[i].bytes * (double)n;
        cJSON *o = cJSON_CreateObject();
        (void)cJSON_AddStringToObject(o, "op", OPS[i].name);
        bench_number(o, "median", bytes / t.median);
        bench_number(o, "best", bytes / t.best);
        bench_number(o, "of_peak", bytes / t.best / peak);
        (void)cJSON_AddItemToArray(list, o);
        bench_print(b, "  %-16s %8.1f %3.0f %%\n", OPS[i].name, bytes / t.median * 1e-9,
                    100 * bytes / t.best / peak);
    }
    float *const owned[] = {s.a, s.b, s.c, s.d, s.rstd, s.w, s.dw};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    return rc;
}

ErrCode bench_ops(Bench *b, Err *err) {
    cJSON *ops = cJSON_AddObjectToObject(b->json, "ops");
    TRY(bench_linears(b, cJSON_AddArrayToObject(ops, "linear"), err));
    TRY(bench_attention(b, cJSON_AddArrayToObject(ops, "attention"), err));
    return bench_stream(b, cJSON_AddArrayToObject(ops, "stream"), err);
}
