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

/* Bytes of the program in memory of the backend. */
static ErrCode memory(void *out, Ops *o, const void *bytes, size_t size, Err *err) {
    void *p = o->alloc(o, size ? size : 1);
    memcpy(out, &p, sizeof p);
    if (!p) return err_set(err, ERR_MEMORY, "out of memory for arrays to measure with");
    o->put(o, p, bytes, size);
    return ERR_OK;
}

/* Small random numbers: what is added up again and again stays finite. */
static ErrCode fill(float **out, size_t n, double size, uint64_t key, Err *err) {
    TRY(mem_new(out, n, sizeof **out, "matrices", err));
    for (size_t i = 0; i < n; i++)
        (*out)[i] = (float)(size * ((double)(rng_bits(key, i) >> 40) * 0x1p-23 - 1));
    return ERR_OK;
}

static ErrCode numbers(float **out, Ops *o, size_t n, double size, uint64_t key, Err *err) {
    float *values;
    TRY(fill(&values, n, size, key, err));
    const ErrCode rc = memory(out, o, values, n * sizeof *values, err);
    mem_free(values);
    return rc;
}

/* The same as activations of the backend. */
static ErrCode activations(Act **out, Ops *o, size_t n, uint64_t key, Err *err) {
    float *values;
    TRY(fill(&values, n, 1, key, err));
    if (o->act_bytes != sizeof *values)
        for (size_t i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            const uint16_t half = (uint16_t)(bits >> 16);
            memcpy((char *)values + i * sizeof half, &half,
                   sizeof half); /* behind what is still to be read */
        }
    const ErrCode rc = memory(out, o, values, n * o->act_bytes, err);
    mem_free(values);
    return rc;
}

static void release(Ops *o, void *const *owned, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (owned[i]) o->release(o, owned[i]);
}

static ErrCode all_activations(Act **const *out, size_t count, Ops *o, size_t n, uint64_t key, Err *err) {
    for (size_t i = 0; i < count; i++) TRY(activations(out[i], o, n, key + i, err));
    return ERR_OK;
}

static ErrCode all_numbers(float **const *out, size_t count, Ops *o, size_t n, uint64_t key, Err *err) {
    for (size_t i = 0; i < count; i++) TRY(numbers(out[i], o, n, 1, key + i, err));
    return ERR_OK;
}

static ErrCode prepare(Bench *b, int tokens, int longest, Err *err) {
    const int A = b->config.num_attention_heads;
    return b->ops.prepare(&b->ops, tokens, longest, A, b->config.hidden_size / A, err);
}

/* ---- linear layers ---- */

typedef struct {
    Ops *ops;
    int N, O, I;
    Act *x, *y;
    float *dx, *dy, *dw, *db, *bias;
    float *w;        /* (copies, O, I) */
    ParamView *list; /* (copies) of them */
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
    l->ops->linear_grad(l->ops, NULL, 0, l->dw, l->db, l->dy, l->x, next_weight(l), NULL, l->N, l->O, l->I);
}

static void linear_both(void *context) {
    Linear *l = context;
    l->ops->linear_grad(l->ops, l->dx, 0, l->dw, l->db, l->dy, l->x, next_weight(l), NULL, l->N, l->O, l->I);
}

/* `alone`: seconds of cblas_sgemm by OpenBLAS's own threads for the same. */
static void linear_result(const Bench *b, cJSON *to, const char *key, double flops, BenchTime t,
                          double alone) {
    const double of_peak = flops / t.best / bench_peak(b);
    const double alone_rate = alone > 0 ? flops / alone : 0;
    cJSON *o = cJSON_AddObjectToObject(to, key);
    bench_number(o, "median", flops / t.median);
    bench_number(o, "best", flops / t.best);
    bench_number(o, "of_peak", of_peak);
    bench_number(o, "sgemm_alone", alone_rate);
    bench_print(b, "  %8.1f %3.0f %% %8.1f", flops / t.median * 1e-9, 100 * of_peak, alone_rate * 1e-9);
}

static ErrCode bind_weights(Linear *l, Err *err) {
    const size_t n = (size_t)l->O * (size_t)l->I;
    l->copies = (size_t)WEIGHT_NUMBERS / n;
    if (!l->copies) l->copies = 1;
    mem_free(l->list);
    l->list = NULL;
    TRY(mem_new(&l->list, l->copies, sizeof *l->list, "the list of weights", err));
    for (size_t i = 0; i < l->copies; i++)
        l->list[i] = (ParamView){.data = l->w + i * n, .rows = l->O, .cols = l->I, .kind = PARAM_LINEAR};
    return l->ops->bind(l->ops, l->list, l->copies, true, err);
}

static ErrCode linear_shape(const Bench *b, Linear *l, cJSON *list, Err *err) {
    const double seconds = b->options->seconds, flops = 2.0 * l->N * l->O * l->I;
    const int threads = threads_count(b->threads);
    double forward = 0, dx = 0, dw = 0;
    if (!l->ops->device) {
        forward = ops_blas_alone('f', l->N, l->O, l->I, threads, seconds);
        dx = ops_blas_alone('x', l->N, l->I, l->O, threads, seconds);
        dw = ops_blas_alone('w', l->O, l->I, l->N, threads, seconds);
    }
    TRY(bind_weights(l, err));
    cJSON *o = cJSON_CreateObject();
    (void)cJSON_AddNumberToObject(o, "tokens", l->N);
    (void)cJSON_AddNumberToObject(o, "out", l->O);
    (void)cJSON_AddNumberToObject(o, "in", l->I);
    bench_print(b, "  %6d x %4d x %4d ", l->N, l->O, l->I);
    linear_result(b, o, "forward", flops, bench_time(seconds, l->ops, linear_forward, l), forward);
    linear_result(b, o, "gradients", 2 * flops, bench_time(seconds, l->ops, linear_both, l), dx + dw);
    linear_result(b, o, "dw", flops, bench_time(seconds, l->ops, linear_weights, l), dw);
    bench_print(b, "\n");
    (void)cJSON_AddItemToArray(list, o);
    return ERR_OK;
}

ErrCode bench_linear(Bench *b, cJSON *ops, Err *err) {
    cJSON *list = cJSON_AddArrayToObject(ops, "linear");
    const int H = b->config.hidden_size, F = b->config.intermediate_size, most = b->tokens;
    const int shapes[3][2] = {{H, H}, {F, H}, {H, F}}, tokens[2] = {most, SMALL_TOKENS};
    const size_t wide = (size_t)(H > F ? H : F), N = (size_t)(most > SMALL_TOKENS ? most : SMALL_TOKENS);
    Linear l = {.ops = &b->ops};
    Act **const acts[] = {&l.x, &l.y};
    float **const reals[] = {&l.dx, &l.dy};
    ErrCode rc = prepare(b, (int)N, 2, err);
    if (rc == ERR_OK) rc = all_activations(acts, 2, l.ops, N * wide, 1, err);
    if (rc == ERR_OK) rc = all_numbers(reals, 2, l.ops, N * wide, 3, err);
    if (rc == ERR_OK) rc = numbers(&l.w, l.ops, WEIGHT_NUMBERS + (size_t)H * wide, 0.03, 5, err);
    if (rc == ERR_OK) rc = numbers(&l.dw, l.ops, (size_t)H * wide, 0, 6, err);
    if (rc == ERR_OK) rc = numbers(&l.db, l.ops, wide, 0, 7, err);
    if (rc == ERR_OK) rc = numbers(&l.bias, l.ops, wide, 0.03, 8, err);
    if (rc == ERR_OK)
        bench_print(b,
                    "\nLinear layers, GFLOP/s: median, best as share of the %s peak, cblas_sgemm alone\n"
                    "  tokens x  out x   in             forward                  dX + dW"
                    "                    dW\n",
                    b->ops.precision);
    for (int t = 0; rc == ERR_OK && t < 2; t++)
        for (int i = 0; rc == ERR_OK && i < 3; i++) {
            l.N = tokens[t];
            l.O = shapes[i][0];
            l.I = shapes[i][1];
            rc = linear_shape(b, &l, list, err);
        }
    const ErrCode unbound = l.ops->bind(l.ops, NULL, 0, false, rc == ERR_OK ? err : NULL);
    if (rc == ERR_OK) rc = unbound;
    void *const owned[] = {l.x, l.dx, l.y, l.dy, l.w, l.dw, l.db, l.bias};
    release(l.ops, owned, sizeof owned / sizeof *owned);
    mem_free(l.list);
    return rc;
}

/* ---- a device's peaks ---- */

enum { PEAK_SIDE = 8192 };

typedef struct {
    Ops *ops;
    float *x, *y;
} Add;

static void add_streams(void *context) {
    Add *a = context;
    a->ops->add(a->ops, a->y, a->x, (size_t)PEAK_SIDE * PEAK_SIDE);
}

ErrCode bench_device(Bench *b, Err *err) {
    Linear l = {.ops = &b->ops, .N = PEAK_SIDE, .O = PEAK_SIDE, .I = PEAK_SIDE, .copies = 1};
    const size_t n = (size_t)PEAK_SIDE * PEAK_SIDE;
    ParamView view = {.rows = PEAK_SIDE, .cols = PEAK_SIDE, .kind = PARAM_LINEAR};
    ErrCode rc = prepare(b, PEAK_SIDE, 2, err);
    if (rc == ERR_OK) rc = activations(&l.x, l.ops, n, 60, err);
    if (rc == ERR_OK) rc = activations(&l.y, l.ops, n, 61, err);
    if (rc == ERR_OK) rc = numbers(&l.w, l.ops, n, 0.03, 62, err);
    if (rc == ERR_OK) rc = numbers(&l.dx, l.ops, n, 1, 63, err);
    if (rc == ERR_OK) rc = numbers(&l.bias, l.ops, PEAK_SIDE, 1, 64, err);
    view.data = l.w;
    if (rc == ERR_OK) rc = l.ops->bind(l.ops, &view, 1, false, err);
    if (rc == ERR_OK) {
        Add add = {l.ops, l.w, l.dx};
        b->device_flops =
            2.0 * PEAK_SIDE * (double)n / bench_time(b->options->seconds, l.ops, linear_forward, &l).best;
        b->device_bytes =
            3.0 * (double)n * sizeof(float) / bench_time(b->options->seconds, l.ops, add_streams, &add).best;
        cJSON *o = cJSON_AddObjectToObject(b->json, "device_peaks");
        bench_number(o, "operations_per_second", b->device_flops);
        bench_number(o, "bytes_per_second", b->device_bytes);
        bench_print(b, "\nPeaks: products of %d in %s %.1f TFLOP/s, y += x %.0f GB/s\n", PEAK_SIDE,
                    b->ops.precision, b->device_flops * 1e-12, b->device_bytes * 1e-9);
    }
    (void)l.ops->bind(l.ops, NULL, 0, false, NULL);
    void *const owned[] = {l.x, l.y, l.w, l.dx, l.bias};
    release(l.ops, owned, sizeof owned / sizeof *owned);
    return rc;
}

/* ---- attention ---- */

typedef struct {
    Ops *ops;
    Attention shape;
    Packed packed;
    Dropout none, drop;
    Act *q, *k, *v, *out, *kr, *qr; /* (N,H), (R,H) */
    float *dq, *dk, *dv, *dout, *dkr, *dqr;
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

static ErrCode attend_open(Attend *a, Bench *b, int longest, Err *err) {
    const size_t H = (size_t)b->config.hidden_size, N = ATTENTION_TOKENS,
                 R = 2 * (size_t)b->config.position_buckets;
    Act **const acts[] = {&a->q, &a->k, &a->v, &a->out}, **const tables[] = {&a->kr, &a->qr};
    float **const grads[] = {&a->dq, &a->dk, &a->dv, &a->dout}, **const table_grads[] = {&a->dkr, &a->dqr};
    a->ops = &b->ops;
    TRY(all_activations(acts, 4, a->ops, N * H, 20, err));
    TRY(all_activations(tables, 2, a->ops, R * H, 24, err));
    TRY(all_numbers(grads, 4, a->ops, N * H, 26, err));
    TRY(all_numbers(table_grads, 2, a->ops, R * H, 30, err));
    uint64_t row[ATTENTION_TOKENS];
    for (size_t n = 0; n < N; n++) row[n] = n;
    TRY(memory(&a->row, a->ops, row, sizeof row, err));
    TRY(memory(&a->index, a->ops, row, sizeof row, err)); /* room: attend_shape fills them */
    TRY(memory(&a->start, a->ops, row, sizeof row, err));
    a->drop = (Dropout){(real)b->config.attention_probs_dropout_prob, 1, a->row};
    return prepare(b, (int)N, longest, err);
}

static void attend_shape(Attend *a, const Config *c, int L) {
    const int B = c->position_buckets, P = c->max_relative_positions, S = ATTENTION_TOKENS / L,
              D = c->hidden_size / c->num_attention_heads, first = buckets_row(-(L - 1), B, P);
    int32_t index[ATTENTION_TOKENS], start[ATTENTION_TOKENS + 1];
    for (int i = 0; i < 2 * L - 1; i++) index[i] = buckets_row(i - (L - 1), B, P) - first;
    for (int s = 0; s <= S; s++) start[s] = s * L;
    a->ops->put(a->ops, a->index, index, (size_t)(2 * L - 1) * sizeof *index);
    a->ops->put(a->ops, a->start, start, (size_t)(S + 1) * sizeof *start);
    a->packed = (Packed){.N = S * L, .S = S, .longest = L, .start = a->start};
    a->shape = (Attention){.packed = &a->packed,
                           .A = c->num_attention_heads,
                           .D = D,
                           .index = a->index,
                           .longest = L,
                           .R = buckets_row(L - 1, B, P) - first + 1,
                           .pairs = (double)S * L * L,
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

ErrCode bench_attention(Bench *b, cJSON *ops, Err *err) {
    cJSON *list = cJSON_AddArrayToObject(ops, "attention");
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
        attention_result(b, o, "forward", &a, 1,
                         bench_time(b->options->seconds, a.ops, attention_forward, &a));
        attention_result(b, o, "both", &a, 3, bench_time(b->options->seconds, a.ops, attention_both, &a));
        bench_print(b, "\n");
        (void)cJSON_AddItemToArray(list, o);
    }
    void *const owned[] = {a.q,  a.k,  a.v,   a.out, a.dq,    a.dk,    a.dv, a.dout,
                           a.kr, a.qr, a.dkr, a.dqr, a.index, a.start, a.row};
    release(a.ops, owned, sizeof owned / sizeof *owned);
    return rc;
}

/* ---- what streams through memory ---- */

typedef struct {
    Ops *ops;
    Act *x, *r, *y, *xhat;
    float *rstd, *w, *dw;
    float *p, *m, *v, *g; /* AdamW's; before it, gradients of the norm */
    int N, H;
    Dropout none;
    OpsNorm *norm;
    AdamwStep step;
} Stream;

static void stream_norm(void *context) {
    Stream *s = context;
    s->ops->norm(s->ops, s->y, s->xhat, s->rstd, s->x, s->r, s->w, s->w, &s->none, s->N, s->H, 1e-7f);
}

static void stream_norm_grad(void *context) {
    Stream *s = context;
    s->ops->norm_grad(s->ops, s->p, s->m, s->dw, s->dw + s->H, s->g, s->xhat, s->rstd, s->w, &s->none, s->N,
                      s->H);
}

static void stream_adamw(void *context) {
    Stream *s = context;
    s->ops->adamw(s->ops, &(AdamwTensor){s->p, s->m, s->v, s->g, (size_t)s->N * (size_t)s->H, 1, true}, 1,
                  &s->step);
}

static ErrCode stream_open(Stream *s, Bench *b, Err *err) {
    const size_t H = (size_t)b->config.hidden_size, n = STREAM_NUMBERS / H * H;
    Act **const acts[] = {&s->x, &s->r, &s->y, &s->xhat};
    float **const reals[] = {&s->p, &s->m, &s->v, &s->g};
    *s = (Stream){.ops = &b->ops,
                  .N = (int)(n / H),
                  .H = (int)H,
                  .step = {1e-5, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001, NULL}};
    TRY(all_activations(acts, 4, s->ops, n, 40, err));
    TRY(all_numbers(reals, 4, s->ops, n, 44, err));
    s->ops->zero(s->ops, s->v, n * sizeof *s->v); /* second moments are not negative */
    TRY(numbers(&s->rstd, s->ops, n / H, 1, 48, err));
    TRY(numbers(&s->w, s->ops, H, 1, 49, err));
    TRY(memory(&s->norm, s->ops, &(OpsNorm){0, 1, 1}, sizeof *s->norm, err));
    s->step.norm = s->norm;
    return numbers(&s->dw, s->ops, 2 * H, 0, 50, err);
}

static void stream_close(Stream *s) {
    void *const owned[] = {s->x, s->r, s->y, s->xhat, s->rstd, s->w, s->dw, s->p, s->m, s->v, s->g, s->norm};
    release(s->ops, owned, sizeof owned / sizeof *owned);
}

ErrCode bench_stream(Bench *b, cJSON *ops, Err *err) {
    cJSON *list = cJSON_AddArrayToObject(ops, "stream");
    Stream s;
    ErrCode rc = stream_open(&s, b, err);
    const double act = (double)b->ops.act_bytes, real_bytes = sizeof(real), peak = bench_memory_rate(b),
                 n = (double)s.N * s.H;
    /* Bytes for each number: norm reads x and r and writes y and xhat; its gradient reads dy and xhat and
     * writes dx and dr; AdamW reads and writes p, m, v and g. The gradient follows norm, which makes xhat. */
    const struct {
        const char *name;
        BenchWork *work;
        double bytes;
    } work[] = {{"norm", stream_norm, 4 * act},
                {"norm_grad", stream_norm_grad, act + 3 * real_bytes},
                {"adamw", stream_adamw, 8 * real_bytes}};
    if (rc == ERR_OK)
        bench_print(
            b, "\nThrough memory, GB/s: median, best as share of the peak of changing memory in place\n");
    for (size_t i = 0; rc == ERR_OK && i < sizeof work / sizeof *work; i++) {
        const BenchTime t = bench_time(b->options->seconds, s.ops, work[i].work, &s);
        const double median = work[i].bytes * n / t.median, best = work[i].bytes * n / t.best;
        cJSON *o = cJSON_CreateObject();
        (void)cJSON_AddStringToObject(o, "op", work[i].name);
        bench_number(o, "median", median);
        bench_number(o, "best", best);
        bench_number(o, "of_peak", best / peak);
        (void)cJSON_AddItemToArray(list, o);
        bench_print(b, "  %-16s %8.1f %3.0f %%\n", work[i].name, median * 1e-9, 100 * best / peak);
    }
    stream_close(&s);
    return rc;
}
