/* model/ops_ref.c - every operation in plain C, one thread, in the order of the formulas: what the others are
 * compared with. Compiled twice, in float and (for the finite differences) in double. */
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "model/ops.h"

#ifdef ROUTER_DOUBLE
#define R_EXP  exp
#define R_LOG  log
#define R_ERF  erf
#define R_SQRT sqrt
#else
#define R_EXP  expf
#define R_LOG  logf
#define R_ERF  erff
#define R_SQRT sqrtf
#endif

#define SQRT_HALF    ((real)0.70710678118654752440)
#define INV_SQRT_2PI ((real)0.39894228040143267794) /* 1 / sqrt(2 pi) */

/* Eight partial sums, so that the compiler may use vectors without reordering what we wrote. */
static real dot(const real *a, const real *b, int n) {
    real part[8] = {0};
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) part[j] += a[i + j] * b[i + j];
    real sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void axpy(real *y, real a, const real *x, int n) {
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

static void *ref_alloc(Ops *o, size_t bytes) {
    (void)o;
    return mem_alloc(bytes, 1);
}

static void ref_release(Ops *o, void *p) {
    (void)o;
    mem_free(p);
}

static void ref_copy_in(Ops *o, void *device, const void *host, size_t bytes) {
    (void)o;
    if (bytes) memcpy(device, host, bytes);
}

static void ref_zero(Ops *o, void *device, size_t bytes) {
    (void)o;
    if (bytes) memset(device, 0, bytes);
}

static ErrCode ref_sync(Ops *o, Err *err) {
    if (o->failed != ERR_OK && err) *err = o->why;
    return o->failed;
}

static void ref_close(Ops *o) {
    mem_free(o->context);
}

/* The context is scratch for attention: one row of scores' worth of a whole L x L matrix, twice. */
static ErrCode ref_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) {
    (void)tokens;
    (void)A;
    (void)D;
    mem_free(o->context);
    o->context = NULL;
    return mem_new(&o->context, 2 * (size_t)longest * (size_t)longest, sizeof(real), "attention scratch",
                   err);
}

static ErrCode ref_bind(Ops *o, const ParamView *list, size_t count, bool train, Err *err) {
    (void)o;
    (void)list;
    (void)count;
    (void)train;
    (void)err;
    return ERR_OK;
}

static void ref_weights_changed(Ops *o) {
    (void)o;
}

static void ref_get_act(Ops *o, real *host, const Act *x, size_t n) {
    (void)o;
    if (n) memcpy(host, x, n * sizeof *host);
}

static void ref_embed(Ops *o, Act *to, const real *table, const int32_t *ids, int N, int H) {
    (void)o;
    real *y = to;
    for (int n = 0; n < N; n++)
        memcpy(y + (size_t)n * (size_t)H, table + (size_t)ids[n] * (size_t)H, (size_t)H * sizeof *y);
}

static void ref_embed_grad(Ops *o, real *dtable, const int32_t *slot, const real *dy, int N, int H) {
    (void)o;
    for (int n = 0; n < N; n++)
        if (slot[n] >= 0) axpy(dtable + (size_t)slot[n] * (size_t)H, 1, dy + (size_t)n * (size_t)H, H);
}

static void ref_linear_real(Ops *o, real *y, real *pre, const real *x, const real *w, const real *b, int N,
                            int O, int I) {
    (void)o;
    for (int n = 0; n < N; n++)
        for (int j = 0; j < O; j++) {
            const size_t at = (size_t)n * (size_t)O + (size_t)j;
            const real z = dot(x + (size_t)n * (size_t)I, w + (size_t)j * (size_t)I, I) + b[j];
            if (pre) pre[at] = z;
            y[at] = pre ? (real)0.5 * z * (1 + R_ERF(z * SQRT_HALF)) : z;
        }
}

static void ref_linear_real_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const real *x,
                                 const real *w, const real *pre, int N, int O, int I) {
    (void)o;
    const size_t total = (size_t)N * (size_t)O;
    for (size_t i = 0; pre && i < total; i++) {
        const real z = pre[i];
        dy[i] *= (real)0.5 * (1 + R_ERF(z * SQRT_HALF)) + z * INV_SQRT_2PI * R_EXP((real)-0.5 * z * z);
    }
    if (dx && !add_dx) memset(dx, 0, (size_t)N * (size_t)I * sizeof *dx);
    for (int n = 0; n < N; n++)
        for (int j = 0; j < O; j++) {
            const real g = dy[(size_t)n * (size_t)O + (size_t)j];
            if (dx) axpy(dx + (size_t)n * (size_t)I, g, w + (size_t)j * (size_t)I, I);
            axpy(dw + (size_t)j * (size_t)I, g, x + (size_t)n * (size_t)I, I);
            db[j] += g;
        }
}

static void ref_linear(Ops *o, Act *y, Act *pre, const Act *x, const real *w, const real *b, int N, int O,
                       int I) {
    ref_linear_real(o, y, pre, x, w, b, N, O, I);
}

static void ref_linear_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const Act *x,
                            const real *w, const Act *pre, int N, int O, int I) {
    ref_linear_real_grad(o, dx, add_dx, dw, db, dy, x, w, pre, N, O, I);
}

static real drop_factor(const Dropout *drop, uint64_t row_key, int column) {
    return ops_drop_bits(row_key, (uint32_t)column) >= ops_drop_limit(drop->p) ? 1 / (1 - drop->p) : 0;
}

static void ref_norm(Ops *o, Act *to, Act *kept_xhat, real *rstd, const Act *from, const Act *residual,
                     const real *w, const real *b, const Dropout *drop, int N, int H, real eps) {
    (void)o;
    real *y = to, *xhat = kept_xhat;
    const real *x = from, *r = residual;
    for (int n = 0; n < N; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const uint64_t key = drop->p > 0 ? ops_drop_row(drop->key, drop->row[n]) : 0;
        real mean = 0, var = 0;
        for (int h = 0; h < H; h++) { /* y holds s for a while */
            const real kept = drop->p > 0 ? x[at + (size_t)h] * drop_factor(drop, key, h) : x[at + (size_t)h];
            y[at + (size_t)h] = r ? kept + r[at + (size_t)h] : kept;
            mean += y[at + (size_t)h];
        }
        mean /= (real)H;
        for (int h = 0; h < H; h++) var += (y[at + (size_t)h] - mean) * (y[at + (size_t)h] - mean);
        const real inverse = 1 / R_SQRT(var / (real)H + eps);
        if (rstd) rstd[n] = inverse;
        for (int h = 0; h < H; h++) {
            const real normed = (y[at + (size_t)h] - mean) * inverse;
            if (xhat) xhat[at + (size_t)h] = normed;
            y[at + (size_t)h] = normed * w[h] + b[h];
        }
    }
}

static void ref_norm_grad(Ops *o, real *dx, real *dr, real *dw, real *db, const real *dy,
                          const Act *kept_xhat, const real *rstd, const real *w, const Dropout *drop, int N,
                          int H) {
    (void)o;
    const real *xhat = kept_xhat;
    for (int n = 0; n < N; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const uint64_t key = drop->p > 0 ? ops_drop_row(drop->key, drop->row[n]) : 0;
        real mean = 0, mean_xhat = 0;
        for (int h = 0; h < H; h++) {
            const real g = dy[at + (size_t)h];
            mean += g * w[h];
            mean_xhat += g * w[h] * xhat[at + (size_t)h];
            dw[h] += g * xhat[at + (size_t)h];
            db[h] += g;
        }
        mean /= (real)H;
        mean_xhat /= (real)H;
        for (int h = 0; h < H; h++) {
            const real ds = rstd[n] * (dy[at + (size_t)h] * w[h] - mean - xhat[at + (size_t)h] * mean_xhat);
            if (dr) dr[at + (size_t)h] = ds;
            dx[at + (size_t)h] = drop->p > 0 ? ds * drop_factor(drop, key, h) : ds;
        }
    }
}

static void ref_dropout_real(Ops *o, real *y, const real *x, const Dropout *drop, int N, int H) {
    (void)o;
    for (int n = 0; n < N; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const uint64_t key = drop->p > 0 ? ops_drop_row(drop->key, drop->row[n]) : 0;
        for (int h = 0; h < H; h++)
            y[at + (size_t)h] =
                drop->p > 0 ? x[at + (size_t)h] * drop_factor(drop, key, h) : x[at + (size_t)h];
    }
}

static void ref_dropout(Ops *o, Act *y, const Act *x, const Dropout *drop, int N, int H) {
    ref_dropout_real(o, y, x, drop, N, H);
}

/* Pointers to one sequence in one head: rows are `stride` apart. */
typedef struct {
    const real *q, *k, *v, *kr, *qr;
    const int32_t *index; /* of distance 0 */
    int L, D;
    size_t stride;
} Tile;

static Tile tile_of(const Attention *s, const Act *q, const Act *k, const Act *v, const Act *kr,
                    const Act *qr, int seq, int head) {
    const size_t stride = (size_t)s->A * (size_t)s->D, column = (size_t)head * (size_t)s->D;
    const size_t at = (size_t)s->packed->start[seq] * stride + column;
    return (Tile){(const real *)q + at,
                  (const real *)k + at,
                  (const real *)v + at,
                  (const real *)kr + column,
                  (const real *)qr + column,
                  s->index + s->longest - 1,
                  s->packed->start[seq + 1] - s->packed->start[seq],
                  s->D,
                  stride};
}

/* p[i*L + j]: probabilities before dropout */
static void tile_probabilities(real *p, const Tile *t, real scale) {
    for (int i = 0; i < t->L; i++) {
        real *row = p + (size_t)i * (size_t)t->L, most = (real)-INFINITY, sum = 0;
        const real *q = t->q + (size_t)i * t->stride;
        for (int j = 0; j < t->L; j++) {
            const real *k = t->k + (size_t)j * t->stride;
            const size_t at = (size_t)t->index[i - j] * t->stride;
            row[j] = (dot(q, k, t->D) + dot(q, t->kr + at, t->D) + dot(k, t->qr + at, t->D)) * scale;
            if (row[j] > most) most = row[j];
        }
        for (int j = 0; j < t->L; j++) sum += row[j] = R_EXP(row[j] - most);
        for (int j = 0; j < t->L; j++) row[j] /= sum;
    }
}

static uint64_t attention_key(const Attention *s, int n, int head) {
    return s->drop->p > 0 ? ops_drop_row(s->drop->key, s->drop->row[n] * (uint64_t)s->A + (uint64_t)head) : 0;
}

static void ref_attention(Ops *o, Act *to, const Act *q, const Act *k, const Act *v, const Act *kr,
                          const Act *qr, const Attention *s) {
    real *p = o->context, *out = to;
    for (int seq = 0; seq < s->packed->S; seq++)
        for (int head = 0; head < s->A; head++) {
            const Tile t = tile_of(s, q, k, v, kr, qr, seq, head);
            const int first = s->packed->start[seq];
            tile_probabilities(p, &t, s->scale);
            for (int i = 0; i < t.L; i++) {
                real *y = out + (size_t)(first + i) * t.stride + (size_t)head * (size_t)t.D;
                const uint64_t key = attention_key(s, first + i, head);
                memset(y, 0, (size_t)t.D * sizeof *y);
                for (int j = 0; j < t.L; j++) {
                    real prob = p[(size_t)i * (size_t)t.L + (size_t)j];
                    if (s->drop->p > 0) prob *= drop_factor(s->drop, key, j);
                    axpy(y, prob, t.v + (size_t)j * t.stride, t.D);
                }
            }
        }
}

static void ref_attention_grad(Ops *o, real *dq, real *dk, real *dv, real *dkr, real *dqr, const real *dout,
                               const Act *q, const Act *k, const Act *v, const Act *kr, const Act *qr,
                               const Attention *s) {
    const size_t stride = (size_t)s->A * (size_t)s->D, bytes = (size_t)s->packed->N * stride * sizeof *dq;
    memset(dq, 0, bytes);
    memset(dk, 0, bytes);
    memset(dv, 0, bytes);
    real *p = o->context, *dp = p + (size_t)s->longest * (size_t)s->longest;
    for (int seq = 0; seq < s->packed->S; seq++)
        for (int head = 0; head < s->A; head++) {
            const Tile t = tile_of(s, q, k, v, kr, qr, seq, head);
            const int first = s->packed->start[seq];
            const size_t column = (size_t)head * (size_t)s->D, base = (size_t)first * stride + column;
            tile_probabilities(p, &t, s->scale);
            for (int i = 0; i < t.L; i++) {
                const real *g = dout + base + (size_t)i * stride;
                const uint64_t key = attention_key(s, first + i, head);
                real *row = p + (size_t)i * (size_t)t.L, mean = 0;
                for (int j = 0; j < t.L; j++) {
                    const real keep = s->drop->p > 0 ? drop_factor(s->drop, key, j) : 1;
                    axpy(dv + base + (size_t)j * stride, row[j] * keep, g, t.D);
                    dp[j] = keep * dot(g, t.v + (size_t)j * stride, t.D);
                    mean += row[j] * dp[j];
                }
                for (int j = 0; j < t.L; j++) {
                    const real ds = row[j] * (dp[j] - mean) * s->scale;
                    const size_t at = (size_t)t.index[i - j] * stride;
                    const real *qi = t.q + (size_t)i * stride, *kj = t.k + (size_t)j * stride;
                    axpy(dq + base + (size_t)i * stride, ds, kj, t.D);
                    axpy(dq + base + (size_t)i * stride, ds, t.kr + at, t.D);
                    axpy(dk + base + (size_t)j * stride, ds, qi, t.D);
                    axpy(dk + base + (size_t)j * stride, ds, t.qr + at, t.D);
                    axpy(dkr + at + column, ds, qi, t.D);
                    axpy(dqr + at + column, ds, kj, t.D);
                }
            }
        }
}

static void ref_gather(Ops *o, Act *y, const Act *x, const int32_t *at, int S, int H) {
    ref_embed(o, y, x, at, S, H);
}

static void ref_scatter(Ops *o, real *dx, const real *dy, const int32_t *at, int N, int S, int H) {
    (void)o;
    memset(dx, 0, (size_t)N * (size_t)H * sizeof *dx);
    for (int s = 0; s < S; s++)
        memcpy(dx + (size_t)at[s] * (size_t)H, dy + (size_t)s * (size_t)H, (size_t)H * sizeof *dx);
}

static void ref_add(Ops *o, real *y, const real *x, size_t n) {
    (void)o;
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

static void ref_loss(Ops *o, real *loss, real *dlogits, const real *logits, const real *target,
                     const real *weight, real scale, int S, int K) {
    (void)o;
    for (int s = 0; s < S; s++) {
        const real *z = logits + (size_t)s * (size_t)K, *t = target + (size_t)s * (size_t)K;
        real *dz = dlogits + (size_t)s * (size_t)K;
        const real w = weight ? weight[s] : 1;
        if (K == 1) {
            loss[s] = w * (z[0] - t[0]) * (z[0] - t[0]);
            dz[0] = 2 * scale * w * (z[0] - t[0]);
            continue;
        }
        real most = z[0], sum = 0, total = 0, cross = 0;
        for (int k = 1; k < K; k++) most = z[k] > most ? z[k] : most;
        for (int k = 0; k < K; k++) sum += R_EXP(z[k] - most);
        const real log_sum = R_LOG(sum);
        for (int k = 0; k < K; k++) {
            total += t[k];
            if (t[k] != 0) cross -= t[k] * (z[k] - most - log_sum);
        }
        loss[s] = w * cross;
        for (int k = 0; k < K; k++) dz[k] = scale * w * (total * (R_EXP(z[k] - most) / sum) - t[k]);
    }
}

static double ref_sumsq(Ops *o, const real *x, size_t n) {
    (void)o;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void adamw(real *p, real *m, real *v, const real *g, size_t n, const AdamwStep *a) {
    const real b1 = (real)a->beta1, b2 = (real)a->beta2, c1 = (real)(1 - a->beta1), c2 = (real)(1 - a->beta2);
    const real clip = (real)a->clip, decay = (real)a->decay, rate = (real)(a->lr / a->bias1),
               eps = (real)a->eps;
    const real root = (real)(1 / sqrt(a->bias2));
    for (size_t i = 0; i < n; i++) {
        const real d = g[i] * clip;
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        p[i] -= decay * p[i] + rate * m[i] / (R_SQRT(v[i]) * root + eps);
    }
}

static void ref_adamw(Ops *o, real *p, real *m, real *v, real *g, size_t n, const AdamwStep *a) {
    (void)o;
    adamw(p, m, v, g, n, a);
    memset(g, 0, n * sizeof *g);
}

static void ref_adamw_rows(Ops *o, const AdamwRows *a) {
    (void)o;
    const size_t H = (size_t)a->H;
    for (int r = 0; r < a->rows; r++) {
        const int32_t slot = a->slot[a->ids[r]];
        real *p = a->table + (size_t)a->ids[r] * H, *m = a->m + (size_t)r * H, *v = a->v + (size_t)r * H;
        static const real ZERO = 0;
        for (size_t h = 0; h < H; h++)
            adamw(p + h, m + h, v + h, slot < 0 ? &ZERO : a->grad + (size_t)slot * H + h, 1, a->step);
    }
}

void ops_ref_fill(Ops *o) {
    o->name = "ref";
    o->alloc = ref_alloc;
    o->release = ref_release;
    o->put = ref_copy_in;
    o->get = ref_copy_in;
    o->zero = ref_zero;
    o->sync = ref_sync;
    o->close = ref_close;
    o->prepare = ref_prepare;
    o->act_bytes = sizeof(real);
    o->bind = ref_bind;
    o->weights_changed = ref_weights_changed;
    o->get_act = ref_get_act;
    o->embed = ref_embed;
    o->embed_grad = ref_embed_grad;
    o->linear = ref_linear;
    o->linear_grad = ref_linear_grad;
    o->linear_real = ref_linear_real;
    o->linear_real_grad = ref_linear_real_grad;
    o->norm = ref_norm;
    o->norm_grad = ref_norm_grad;
    o->dropout = ref_dropout;
    o->dropout_real = ref_dropout_real;
    o->attention = ref_attention;
    o->attention_grad = ref_attention_grad;
    o->gather = ref_gather;
    o->scatter = ref_scatter;
    o->add = ref_add;
    o->loss = ref_loss;
    o->sumsq = ref_sumsq;
    o->adamw = ref_adamw;
    o->adamw_rows = ref_adamw_rows;
}
