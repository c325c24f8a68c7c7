/* model/ops_ref.c - every operation in plain C, one thread, in the order of the formulas: what the others are
 * compared with. Inside an operation everything is double, so that a difference is the other one's error. Compiled twice:
 * arrays of float and (for the finite differences) of double. */
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "model/ops.h"

#define SQRT_HALF    0.70710678118654752440
#define INV_SQRT_2PI 0.39894228040143267794 /* 1 / sqrt(2 pi) */

/* Eight partial sums, so that the compiler may use vectors without reordering what we wrote. */
static double dot(const real *a, const real *b, int n) {
    double part[8] = {0};
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) part[j] += (double)a[i + j] * (double)b[i + j];
    double sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    for (; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static void axpy(real *y, double a, const real *x, int n) {
    for (int i = 0; i < n; i++) y[i] = (real)((double)y[i] + a * (double)x[i]);
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
    return mem_new(&o->context, 2 * (size_t)longest * (size_t)longest, sizeof(double), "attention scratch",
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

static void ref_widen(Ops *o, real *y, const Act *x, size_t n) {
    (void)o;
    if (n) memcpy(y, x, n * sizeof *y);
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
            const double z = dot(x + (size_t)n * (size_t)I, w + (size_t)j * (size_t)I, I) + (double)b[j];
            if (pre) pre[at] = (real)z; /* y may be pre */
            y[at] = (real)(pre ? 0.5 * z * (1 + erf(z * SQRT_HALF)) : z);
        }
}

/* y[0..I) (+)= sum over t < terms of a[t * stride] * rows[t][0..I), rounded once: what others are compared with may not
 * round at every term. */
static void add_products(real *y, bool add, const real *a, size_t stride, const real *rows, int terms,
                         int I) {
    enum { BLOCK = 64 };
    for (int from = 0; from < I; from += BLOCK) {
        const int count = I - from < BLOCK ? I - from : BLOCK;
        double sum[BLOCK] = {0};
        for (int t = 0; t < terms; t++)
            for (int i = 0; i < count; i++)
                sum[i] +=
                    (double)a[(size_t)t * stride] * (double)rows[(size_t)t * (size_t)I + (size_t)(from + i)];
        for (int i = 0; i < count; i++) y[from + i] = (real)((add ? (double)y[from + i] : 0) + sum[i]);
    }
}

static void ref_linear_real_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const real *x,
                                 const real *w, const real *pre, int N, int O, int I) {
    (void)o;
    const size_t total = (size_t)N * (size_t)O;
    for (size_t i = 0; pre && i < total; i++) {
        const double z = (double)pre[i];
        dy[i] =
            (real)((double)dy[i] * (0.5 * (1 + erf(z * SQRT_HALF)) + z * INV_SQRT_2PI * exp(-0.5 * z * z)));
    }
    for (int n = 0; dx && n < N; n++)
        add_products(dx + (size_t)n * (size_t)I, add_dx, dy + (size_t)n * (size_t)O, 1, w, O, I);
    for (int j = 0; j < O; j++) {
        add_products(dw + (size_t)j * (size_t)I, true, dy + j, (size_t)O, x, N, I);
        double sum = 0;
        for (int n = 0; n < N; n++) sum += (double)dy[(size_t)n * (size_t)O + (size_t)j];
        db[j] = (real)((double)db[j] + sum);
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

/* By the backend's own linear and linear_grad. */
static void ref_linear_group(Ops *o, Act *const *y, const Act *x, const real *const *w, const real *const *b,
                             int count, int N, int O, int I) {
    for (int i = 0; i < count; i++) o->linear(o, y[i], NULL, x, w[i], b[i], N, O, I);
}

static void ref_linear_group_grad(Ops *o, real *dx, int add_dx, real *const *dw, real *const *db,
                                  real *const *dy, const Act *x, const real *const *w, int count, int N,
                                  int O, int I) {
    for (int i = 0; i < count; i++)
        o->linear_grad(o, dx, add_dx || i, dw[i], db[i], dy[i], x, w[i], NULL, N, O, I);
}

static double drop_factor(const Dropout *drop, uint64_t row_key, int column) {
    if (!(drop->p > 0)) return 1;
    return ops_drop_bits(row_key, (uint32_t)column) >= ops_drop_limit(drop->p) ? (double)(1 / (1 - drop->p))
                                                                               : 0;
}

static void ref_norm(Ops *o, Act *to, Act *kept_xhat, real *rstd, const Act *from, const Act *residual,
                     const real *w, const real *b, const Dropout *drop, int N, int H, real eps) {
    (void)o;
    real *y = to, *xhat = kept_xhat;
    const real *x = from, *r = residual;
    for (int n = 0; n < N; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const uint64_t key = drop->p > 0 ? ops_drop_row(drop->key, drop->row[n]) : 0;
        double mean = 0, squares = 0;
        for (int pass = 0; pass < 2; pass++) /* of the mean, then of what is left */
            for (int h = 0; h < H; h++) {
                const size_t i = at + (size_t)h;
                const double s = (double)x[i] * drop_factor(drop, key, h) + (r ? (double)r[i] : 0);
                if (pass)
                    squares += (s - mean) * (s - mean);
                else
                    mean += s / H;
            }
        const double inverse = 1 / sqrt(squares / H + (double)eps);
        if (rstd) rstd[n] = (real)inverse;
        for (int h = 0; h < H; h++) {
            const size_t i = at + (size_t)h;
            const double s = (double)x[i] * drop_factor(drop, key, h) + (r ? (double)r[i] : 0);
            const double normed = (s - mean) * inverse;
            if (xhat) xhat[i] = (real)normed;
            y[i] = (real)(normed * (double)w[h] + (double)b[h]); /* y may be x */
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
        double mean = 0, mean_xhat = 0;
        for (int h = 0; h < H; h++) {
            const double g = (double)dy[at + (size_t)h], c = (double)xhat[at + (size_t)h];
            mean += g * (double)w[h] / H;
            mean_xhat += g * (double)w[h] * c / H;
        }
        for (int h = 0; h < H; h++) {
            const size_t i = at + (size_t)h;
            const double ds =
                (double)rstd[n] * ((double)dy[i] * (double)w[h] - mean - (double)xhat[i] * mean_xhat);
            if (dr) dr[i] = (real)ds;
            dx[i] = (real)(ds * drop_factor(drop, key, h));
        }
    }
    for (int h = 0; h < H; h++) {
        double sum = 0, sum_xhat = 0;
        for (int n = 0; n < N; n++) {
            const size_t i = (size_t)n * (size_t)H + (size_t)h;
            sum += (double)dy[i];
            sum_xhat += (double)dy[i] * (double)xhat[i];
        }
        dw[h] = (real)((double)dw[h] + sum_xhat);
        db[h] = (real)((double)db[h] + sum);
    }
}

static void ref_dropout_real(Ops *o, real *y, const real *x, const Dropout *drop, int N, int H) {
    (void)o;
    for (int n = 0; n < N; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const uint64_t key = drop->p > 0 ? ops_drop_row(drop->key, drop->row[n]) : 0;
        for (int h = 0; h < H; h++) y[at + (size_t)h] = x[at + (size_t)h] * (real)drop_factor(drop, key, h);
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
static void tile_probabilities(double *p, const Tile *t, real scale) {
    for (int i = 0; i < t->L; i++) {
        double *row = p + (size_t)i * (size_t)t->L, most = -(double)INFINITY, sum = 0;
        const real *q = t->q + (size_t)i * t->stride;
        for (int j = 0; j < t->L; j++) {
            const real *k = t->k + (size_t)j * t->stride;
            const size_t at = (size_t)t->index[i - j] * t->stride;
            row[j] = (dot(q, k, t->D) + dot(q, t->kr + at, t->D) + dot(k, t->qr + at, t->D)) * (double)scale;
            if (row[j] > most) most = row[j];
        }
        for (int j = 0; j < t->L; j++) sum += row[j] = exp(row[j] - most);
        for (int j = 0; j < t->L; j++) row[j] /= sum;
    }
}

static uint64_t attention_key(const Attention *s, int n, int head) {
    return s->drop->p > 0 ? ops_drop_row(s->drop->key, s->drop->row[n] * (uint64_t)s->A + (uint64_t)head) : 0;
}

static void ref_attention(Ops *o, Act *to, const Act *q, const Act *k, const Act *v, const Act *kr,
                          const Act *qr, const Attention *s) {
    double *p = o->context;
    real *out = to;
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
                    const double prob = p[(size_t)i * (size_t)t.L + (size_t)j] * drop_factor(s->drop, key, j);
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
    double *p = o->context, *dp = p + (size_t)s->longest * (size_t)s->longest;
    for (int seq = 0; seq < s->packed->S; seq++)
        for (int head = 0; head < s->A; head++) {
            const Tile t = tile_of(s, q, k, v, kr, qr, seq, head);
            const int first = s->packed->start[seq];
            const size_t column = (size_t)head * (size_t)s->D, base = (size_t)first * stride + column;
            tile_probabilities(p, &t, s->scale);
            for (int i = 0; i < t.L; i++) {
                const real *g = dout + base + (size_t)i * stride;
                const uint64_t key = attention_key(s, first + i, head);
                double *row = p + (size_t)i * (size_t)t.L, mean = 0;
                for (int j = 0; j < t.L; j++) {
                    const double keep = drop_factor(s->drop, key, j);
                    axpy(dv + base + (size_t)j * stride, row[j] * keep, g, t.D);
                    dp[j] = keep * dot(g, t.v + (size_t)j * stride, t.D);
                    mean += row[j] * dp[j];
                }
                for (int j = 0; j < t.L; j++) {
                    const double ds = row[j] * (dp[j] - mean) * (double)s->scale;
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
        const double w = weight ? (double)weight[s] : 1;
        if (K == 1) {
            const double off = (double)z[0] - (double)t[0];
            loss[s] = (real)(w * off * off);
            dz[0] = (real)(2 * (double)scale * w * off);
            continue;
        }
        double most = (double)z[0], sum = 0, total = 0, cross = 0;
        for (int k = 1; k < K; k++) most = (double)z[k] > most ? (double)z[k] : most;
        for (int k = 0; k < K; k++) sum += exp((double)z[k] - most);
        const double log_sum = log(sum);
        for (int k = 0; k < K; k++) {
            total += (double)t[k];
            if (t[k] != 0) cross -= (double)t[k] * ((double)z[k] - most - log_sum);
        }
        loss[s] = (real)(w * cross);
        for (int k = 0; k < K; k++)
            dz[k] = (real)((double)scale * w * (total * (exp((double)z[k] - most) / sum) - (double)t[k]));
    }
}

static void ref_sumsq(Ops *o, OpsNorm *norm, const real *x, size_t n) {
    (void)o;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    norm->sum += sum;
}

static void ref_clip(Ops *o, OpsNorm *norm, double most) {
    (void)o;
    norm->norm = sqrt(norm->sum);
    norm->sum = 0;
    const double clip = most > 0 ? most / (norm->norm + 1e-6) : 1;
    norm->clip = !isfinite(norm->norm) ? (double)NAN : clip < 1 ? clip : 1;
}

static void adamw(real *p, real *m, real *v, const real *g, size_t n, const AdamwRates *a) {
    for (size_t i = 0; i < n; i++) {
        const double d = (double)g[i] * a->clip;
        m[i] = (real)(a->beta1 * (double)m[i] + (1 - a->beta1) * d);
        v[i] = (real)(a->beta2 * (double)v[i] + (1 - a->beta2) * d * d);
        const double step = a->lr * ((double)m[i] / a->bias1) / (sqrt((double)v[i] / a->bias2) + a->eps);
        p[i] = (real)((double)p[i] - (a->decay * (double)p[i] + step));
    }
}

static void ref_adamw(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step) {
    (void)o;
    for (size_t i = 0; i < count && !isnan(step->norm->clip); i++) {
        const AdamwTensor *t = &list[i];
        const AdamwRates rates = ops_adamw_rates(step, t->rate, t->decays);
        adamw(t->p, t->m, t->v, t->g, t->n, &rates);
        memset(t->g, 0, t->n * sizeof *t->g);
    }
}

static void ref_adamw_rows(Ops *o, const AdamwRows *a) {
    (void)o;
    const size_t H = (size_t)a->H;
    const AdamwRates rates = ops_adamw_rates(a->step, a->rate, true);
    for (int r = 0; r < a->rows && !isnan(rates.clip); r++) {
        real *p = a->table + (size_t)a->ids[r] * H, *m = a->m + (size_t)r * H, *v = a->v + (size_t)r * H;
        static const real ZERO = 0;
        AdamwRates own = rates;
        if (a->boost) own.lr *= (double)a->boost[r];
        for (size_t h = 0; h < H; h++) {
            if (r >= a->fresh) p[h] = (real)((double)p[h] * a->owed);
            adamw(p + h, m + h, v + h, a->slot[r] < 0 ? &ZERO : a->grad + (size_t)a->slot[r] * H + h, 1,
                  &own);
        }
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
    o->widen = ref_widen;
    o->embed = ref_embed;
    o->embed_grad = ref_embed_grad;
    o->linear = ref_linear;
    o->linear_grad = ref_linear_grad;
    o->linear_group = ref_linear_group;
    o->linear_group_grad = ref_linear_group_grad;
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
    o->clip = ref_clip;
    o->adamw = ref_adamw;
    o->adamw_rows = ref_adamw_rows;
}
