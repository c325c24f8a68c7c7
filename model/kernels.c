/* model/kernels.c - see kernels.h. Written with the compilers' vector types, whose width follows the
 * instruction set that this file is being compiled for. */
#include "model/kernels.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { W = 16, ROWS = 8 }; /* floats of a vector; rows of the register block, two vectors wide */
#elif defined(__AVX2__)
enum { W = 8, ROWS = 4 };
#else
enum { W = 4, ROWS = 4 };
#endif

typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t VI __attribute__((vector_size(4 * W)));
typedef uint32_t VU __attribute__((vector_size(4 * W)));

static inline V load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, V v) {
    memcpy(p, &v, sizeof v);
}
static inline V splat(float x) {
    return x - (V){0};
}
static inline V select(VI mask, V a, V b) {
    return (V)(((VI)a & mask) | ((VI)b & ~mask));
}
/* A NaN in `a` stays, so that it reaches the loss and is noticed. */
static inline V vmin(V a, V b) {
    return select(b < a, b, a);
}
static inline V vmax(V a, V b) {
    return select(b > a, b, a);
}

/* n <= W values, the rest `fill`; whole vectors must not become calls of memcpy. */
static inline V load_some(const float *p, int n, float fill) {
    if (n == W) return load(p);
    V v = splat(fill);
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
static inline void store_some(float *p, V v, int n) {
    if (n == W)
        store(p, v);
    else
        memcpy(p, &v, (size_t)n * sizeof *p);
}

static inline float sum_of(V v) {
    float part[W], sum = 0;
    store(part, v);
    for (int width = W / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    sum = part[0];
    return sum;
}

/* e^x, relative error below 2e-7; x <= 88. Range reduction by ln 2 in two parts, degree-6 polynomial (Cephes
 * expf). */
static inline V vexp(V x) {
    x = vmax(vmin(x, splat(88.0f)), splat(-87.3f));
    const V magic = splat(12582912.0f); /* adding it rounds to the nearest integer */
    const V shifted = x * splat(1.44269504088896341f) + magic;
    const V n = shifted - magic;
    x = x - n * splat(0.693359375f);
    x = x - n * splat(-2.12194440e-4f);
    V y = splat(1.9875691500e-4f);
    y = y * x + splat(1.3981999507e-3f);
    y = y * x + splat(8.3334519073e-3f);
    y = y * x + splat(4.1665795894e-2f);
    y = y * x + splat(1.6666665459e-1f);
    y = y * x + splat(5.0000001201e-1f);
    y = y * x * x + x + splat(1.0f);
    return (V)((VI)y + ((VI)shifted << 23));
}

/* erf by the rational approximation x P(x^2) / Q(x^2) on [-4, 4] (Eigen's, absolute error below 3e-7). */
static inline V verf(V x) {
    x = vmax(vmin(x, splat(4.0f)), splat(-4.0f));
    const V s = x * x;
    V p = splat(-2.72614225801306e-10f);
    p = p * s + splat(2.77068142495902e-08f);
    p = p * s + splat(-2.10102402082508e-06f);
    p = p * s + splat(-5.69250639462346e-05f);
    p = p * s + splat(-7.34990630326855e-04f);
    p = p * s + splat(-2.95459980854025e-03f);
    p = p * s + splat(-1.60960333262415e-02f);
    V q = splat(-1.45660718464996e-05f);
    q = q * s + splat(-2.13374055278905e-04f);
    q = q * s + splat(-1.68282697438203e-03f);
    q = q * s + splat(-7.37332916720468e-03f);
    q = q * s + splat(-1.42647390514189e-02f);
    return x * p / q;
}

static inline V vgelu(V z) {
    return splat(0.5f) * z * (splat(1.0f) + verf(z * splat(0.70710678f)));
}

static inline V vgelu_slope(V z) {
    const V density = splat(0.39894228f) * vexp(splat(-0.5f) * z * z);
    return splat(0.5f) * (splat(1.0f) + verf(z * splat(0.70710678f))) + z * density;
}

static void gelu(float *y, const float *z, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, vgelu(load(z + i)));
    if (i < n) store_some(y + i, vgelu(load_some(z + i, (int)(n - i), 0)), (int)(n - i));
}

static void gelu_grad(float *dy, const float *z, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) store(dy + i, load(dy + i) * vgelu_slope(load(z + i)));
    if (i < n) {
        const int rest = (int)(n - i);
        store_some(dy + i, load_some(dy + i, rest, 0) * vgelu_slope(load_some(z + i, rest, 0)), rest);
    }
}

/* ---- dropout ---- */

typedef struct {
    uint32_t low, high, limit;
    float scale;
} Mask;

static inline Mask mask_of(const Dropout *drop, uint64_t row) {
    const uint64_t key = ops_drop_row(drop->key, row);
    return (Mask){(uint32_t)key, (uint32_t)(key >> 32), ops_drop_limit(drop->p), 1 / (1 - drop->p)};
}

static inline VU iota(uint32_t from) {
    VU v;
    for (int i = 0; i < W; i++) v[i] = from + (uint32_t)i;
    return v;
}

/* ops_drop_bits on a vector of columns: `scale` where kept, 0 where dropped. */
static inline V mask_factor(const Mask *m, VU column) {
    VU x = m->low + column * 0x9e3779b1u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x += m->high;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    const VI keep = (VI)(x >= m->limit);
    return (V)((VI)splat(m->scale) & keep);
}

static void dropout(float *y, const float *x, const Dropout *drop, int from, int to, int H) {
    const VU first = iota(0);
    for (int n = from; n < to; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const Mask m = mask_of(drop, drop->row[n]);
        int h = 0;
        for (; h + W <= H; h += W) store(y + at + h, load(x + at + h) * mask_factor(&m, first + (uint32_t)h));
        if (h < H)
            store_some(y + at + h, load_some(x + at + h, H - h, 0) * mask_factor(&m, first + (uint32_t)h),
                       H - h);
    }
}

/* ---- norm ---- */

static void norm(float *y, float *xhat, float *rstd, const float *x, const float *r, const float *w,
                 const float *b, const Dropout *drop, int from, int to, int H, float eps) {
    const VU first = iota(0);
    const int whole = H - H % W, rest = H - whole;
    for (int n = from; n < to; n++) {
        const size_t at = (size_t)n * (size_t)H;
        float *s = y + at;
        Mask m = {0};
        if (drop->p > 0) m = mask_of(drop, drop->row[n]);
        V sum = splat(0);
        for (int h = 0; h < H; h += W) {
            const int k = h < whole ? W : rest;
            V v = k == W ? load(x + at + h) : load_some(x + at + h, k, 0);
            if (drop->p > 0) v *= mask_factor(&m, first + (uint32_t)h);
            if (r) v += k == W ? load(r + at + h) : load_some(r + at + h, k, 0);
            sum += v;
            if (k == W)
                store(s + h, v);
            else
                store_some(s + h, v, k);
        }
        const float mean = sum_of(sum) / (float)H;
        V squares = splat(0);
        for (int h = 0; h < H; h += W) {
            const V c = (h < whole ? load(s + h) : load_some(s + h, rest, mean)) - mean;
            squares += c * c;
        }
        const float inverse = 1 / sqrtf(sum_of(squares) / (float)H + eps);
        if (rstd) rstd[n] = inverse;
        for (int h = 0; h < whole; h += W) {
            const V c = (load(s + h) - mean) * inverse;
            if (xhat) store(xhat + at + h, c);
            store(s + h, c * load(w + h) + load(b + h));
        }
        if (rest) {
            const V c = (load_some(s + whole, rest, mean) - mean) * inverse;
            if (xhat) store_some(xhat + at + whole, c, rest);
            store_some(s + whole, c * load_some(w + whole, rest, 0) + load_some(b + whole, rest, 0), rest);
        }
    }
}

static void norm_grad(float *dx, float *dr, float *dw, float *db, const float *dy, const float *xhat,
                      const float *rstd, const float *w, const Dropout *drop, int from, int to, int H) {
    const VU first = iota(0);
    for (int n = from; n < to; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const float *g = dy + at, *c = xhat + at;
        V sum = splat(0), sum_c = splat(0);
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            const V gv = load_some(g + h, k, 0), cv = load_some(c + h, k, 0),
                    gw = gv * load_some(w + h, k, 0);
            sum += gw;
            sum_c += gw * cv;
            store_some(dw + h, load_some(dw + h, k, 0) + gv * cv, k);
            store_some(db + h, load_some(db + h, k, 0) + gv, k);
        }
        const float mean = sum_of(sum) / (float)H, mean_c = sum_of(sum_c) / (float)H;
        Mask m = {0};
        if (drop->p > 0) m = mask_of(drop, drop->row[n]);
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            const V gw = load_some(g + h, k, 0) * load_some(w + h, k, 0);
            V ds = rstd[n] * (gw - mean - load_some(c + h, k, 0) * mean_c);
            if (dr) store_some(dr + at + h, ds, k);
            if (drop->p > 0) ds *= mask_factor(&m, first + (uint32_t)h);
            store_some(dx + at + h, ds, k);
        }
    }
}

/* ---- the optimiser and plain rows: the compiler's own vectors do ---- */

static void bias(float *y, const float *b, int from, int to, int O) {
    for (int n = from; n < to; n++) {
        float *row = y + (size_t)n * (size_t)O;
        for (int j = 0; j < O; j++) row[j] += b[j];
    }
}

static void column_sums(float *sums, const float *x, int N, int O, int from, int to) {
    for (int n = 0; n < N; n++) {
        const float *row = x + (size_t)n * (size_t)O;
        for (int j = from; j < to; j++) sums[j] += row[j];
    }
}

static void adamw(float *restrict p, float *restrict m, float *restrict v, const float *restrict g, size_t n,
                  const AdamwStep *a) {
    const float b1 = (float)a->beta1, b2 = (float)a->beta2, c1 = (float)(1 - a->beta1),
                c2 = (float)(1 - a->beta2);
    const float clip = (float)a->clip, decay = (float)a->decay, rate = (float)(a->lr / a->bias1),
                eps = (float)a->eps;
    const float root = (float)(1 / sqrt(a->bias2));
    for (size_t i = 0; i < n; i++) {
        const float d = g[i] * clip;
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        p[i] -= decay * p[i] + rate * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

static double sumsq(const float *x, size_t n) {
    double part[8] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) part[j] += (double)x[i + (size_t)j] * (double)x[i + (size_t)j];
    for (; i < n; i++) part[0] += (double)x[i] * (double)x[i];
    for (int j = 0; j < 8; j++) sum += part[j];
    return sum;
}

/* ---- attention: small matrix products in registers ---- */

/* c[m][n] (+)= sum_k a[m * a_row + k * a_col] * b[k * ldb + n]; N is a multiple of W, rows of b and c are
 * contiguous. One block: ROWS (or fewer) rows of a, two vectors (or one) of b. */
#define BLOCK(rows, wide)                                                                             \
    do {                                                                                              \
        V acc[rows][wide];                                                                            \
        for (int i = 0; i < (rows); i++)                                                              \
            for (int j = 0; j < (wide); j++) acc[i][j] = add ? load(cc + i * ldc + j * W) : splat(0); \
        for (int k = 0; k < K; k++) {                                                                 \
            V bb[wide];                                                                               \
            for (int j = 0; j < (wide); j++) bb[j] = load(b + n + k * ldb + j * W);                   \
            for (int i = 0; i < (rows); i++)                                                          \
                for (int j = 0; j < (wide); j++) acc[i][j] += aa[i * a_row + k * a_col] * bb[j];      \
        }                                                                                             \
        for (int i = 0; i < (rows); i++)                                                              \
            for (int j = 0; j < (wide); j++) store(cc + i * ldc + j * W, acc[i][j]);                  \
    } while (0)

static void product(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t a_row, ptrdiff_t a_col, const float *b,
                    ptrdiff_t ldb, int M, int N, int K, int add) {
    for (int n = 0; n < N;) {
        const int wide = N - n >= 2 * W ? 2 : 1;
        for (int m = 0; m < M;) {
            const float *aa = a + m * a_row;
            float *cc = c + m * ldc + n;
            if (M - m >= ROWS) {
                if (wide == 2)
                    BLOCK(ROWS, 2);
                else
                    BLOCK(ROWS, 1);
                m += ROWS;
            } else {
                if (wide == 2)
                    BLOCK(1, 2);
                else
                    BLOCK(1, 1);
                m++;
            }
        }
        n += wide * W;
    }
}

static int padded(int n) {
    return (n + W - 1) / W * W;
}

/* The strips of 16 rows look at windows of padded(L + 15) columns, from up to 15 left of the first distance.
 */
static int window_of(int L) {
    return padded(L + KERNELS_STRIP - 1);
}

typedef struct {
    int L, Lp;
    float *q, *k, *v;           /* (L, Dp) */
    float *kt, *vt;             /* (Dp, Lp) */
    float *p, *dp;              /* (L, Lp) */
    float *strip;               /* (16, window) */
    float *dout, *dq, *dk, *dv; /* (L, Dp) */
} Scratch;

static size_t scratch_layout(Scratch *s, const KernelsAttention *z, int L, float *base) {
    const size_t Dp = (size_t)z->Dp, Lp = (size_t)padded(L), rows = (size_t)L + KERNELS_STRIP;
    const size_t sizes[12] = {rows * Dp, rows * Dp, rows * Dp, Dp * Lp,
                              Dp * Lp,   rows * Lp, rows * Lp, KERNELS_STRIP * (size_t)window_of(L),
                              rows * Dp, rows * Dp, rows * Dp, rows * Dp};
    float **const parts[12] = {&s->q,  &s->k,     &s->v,    &s->kt, &s->vt, &s->p,
                               &s->dp, &s->strip, &s->dout, &s->dq, &s->dk, &s->dv};
    size_t at = 0;
    for (int i = 0; i < 12; i++) {
        if (base) *parts[i] = base + at;
        at += (sizes[i] + 15) / 16 * 16;
    }
    s->L = L;
    s->Lp = (int)Lp;
    return at;
}

static size_t attention_scratch(const KernelsAttention *z) {
    Scratch s;
    return scratch_layout(&s, z, z->longest, NULL);
}

static void attention_tables(const KernelsTables *out, const KernelsAttention *z, const float *kr,
                             const float *qr, const Attention *shape, int head) {
    const size_t stride = (size_t)shape->A * (size_t)shape->D, column = (size_t)head * (size_t)shape->D;
    const size_t window = (size_t)z->window, Dp = (size_t)z->Dp;
    const int span = 2 * shape->longest - 1;
    memset(out->kr, 0, window * Dp * sizeof(float));
    memset(out->qr, 0, window * Dp * sizeof(float));
    memset(out->kr_t, 0, window * Dp * sizeof(float));
    memset(out->qr_t, 0, window * Dp * sizeof(float));
    for (int x = 0; x < span;
         x++) { /* kr runs by j - i, so that a row of scores reads it forwards; qr by i - j */
        const float *k = kr + (size_t)shape->index[span - 1 - x] * stride + column;
        const float *q = qr + (size_t)shape->index[x] * stride + column;
        const size_t at = (size_t)(x + KERNELS_MARGIN);
        for (size_t d = 0; d < (size_t)shape->D; d++) {
            out->kr[at * Dp + d] = out->kr_t[d * window + at] = k[d];
            out->qr[at * Dp + d] = out->qr_t[d * window + at] = q[d];
        }
    }
}

static void copy_in(float *to, const float *from, int L, int D, int Dp, size_t stride) {
    for (int i = 0; i < L; i++) {
        memcpy(to + (size_t)i * (size_t)Dp, from + (size_t)i * stride, (size_t)D * sizeof *to);
        for (int d = D; d < Dp; d++) to[(size_t)i * (size_t)Dp + (size_t)d] = 0;
    }
}

static void transpose(float *to, const float *from, int L, int Lp, int Dp) {
    for (int d = 0; d < Dp; d++) {
        float *row = to + (size_t)d * (size_t)Lp;
        for (int i = 0; i < L; i++) row[i] = from[(size_t)i * (size_t)Dp + (size_t)d];
        for (int i = L; i < Lp; i++) row[i] = 0;
    }
}

/* First column of the window of the strip that begins at row `from`: that of its last row's first partner. */
static ptrdiff_t window_start(const Attention *shape, int from) {
    return (ptrdiff_t)shape->longest - 1 + KERNELS_MARGIN - (from + KERNELS_STRIP - 1);
}

/* s->p = scores before scaling */
static void scores(const Scratch *s, const KernelsTables *t, const KernelsAttention *z,
                   const Attention *shape) {
    const int L = s->L, Lp = s->Lp, Dp = z->Dp, width = window_of(L);
    product(s->p, Lp, s->q, Dp, 1, s->kt, Lp, L, Lp, Dp, 0);
    for (int from = 0; from < L; from += KERNELS_STRIP) {
        const int rows = L - from < KERNELS_STRIP ? L - from : KERNELS_STRIP;
        const ptrdiff_t start = window_start(shape, from);
        product(s->strip, width, s->q + (ptrdiff_t)from * Dp, Dp, 1, t->kr_t + start, z->window, rows, width,
                Dp, 0);
        for (int i = 0; i < rows; i++) {
            float *to = s->p + (ptrdiff_t)(from + i) * Lp;
            const float *add = s->strip + (ptrdiff_t)i * width + (KERNELS_STRIP - 1 - i);
            for (int j = 0; j < L; j++) to[j] += add[j];
        }
        product(s->strip, width, s->k + (ptrdiff_t)from * Dp, Dp, 1, t->qr_t + start, z->window, rows, width,
                Dp, 0);
        for (int i = 0; i < L; i++) {
            float *to = s->p + (ptrdiff_t)i * Lp + from;
            const float *add = s->strip + (KERNELS_STRIP - 1) + i;
            for (int j = 0; j < rows; j++) to[j] += add[(ptrdiff_t)j * (width - 1)];
        }
    }
}

/* Rows of s->p to probabilities; columns L .. Lp-1 become 0. */
static void softmax(const Scratch *s, float scale) {
    const int L = s->L, Lp = s->Lp;
    for (int i = 0; i < L; i++) {
        float *row = s->p + (ptrdiff_t)i * Lp;
        for (int j = L; j < Lp; j++) row[j] = -3.0e38f;
        V most = splat(-3.0e38f);
        for (int j = 0; j < Lp; j += W) most = vmax(most, load(row + j));
        float best = most[0];
        for (int j = 1; j < W; j++) best = most[j] > best ? most[j] : best;
        V sum = splat(0);
        for (int j = 0; j < Lp; j += W) {
            const V e = vexp((load(row + j) - best) * scale);
            store(row + j, e);
            sum += e;
        }
        const float inverse = 1 / sum_of(sum);
        for (int j = 0; j < Lp; j += W) store(row + j, load(row + j) * inverse);
        for (int j = L; j < Lp; j++) row[j] = 0; /* it was e^-87, too small to show in the sum */
    }
}

static void load_tile(Scratch *s, const KernelsAttention *z, const Attention *shape, const float *q,
                      const float *k, const float *v, int seq, int head, float *scratch) {
    const int first = shape->packed->start[seq], L = shape->packed->start[seq + 1] - first;
    const size_t stride = (size_t)shape->A * (size_t)shape->D,
                 at = (size_t)first * stride + (size_t)head * (size_t)shape->D;
    scratch_layout(s, z, L, scratch);
    copy_in(s->q, q + at, L, z->D, z->Dp, stride);
    copy_in(s->k, k + at, L, z->D, z->Dp, stride);
    copy_in(s->v, v + at, L, z->D, z->Dp, stride);
    transpose(s->kt, s->k, L, s->Lp, z->Dp);
}

static Mask probability_mask(const Attention *shape, int seq, int head, int i) {
    const uint64_t row = shape->drop->row[shape->packed->start[seq] + i];
    return mask_of(shape->drop, row * (uint64_t)shape->A + (uint64_t)head);
}

static void copy_out(float *to, const float *from, const KernelsAttention *z, const Attention *shape, int seq,
                     int head, int L) {
    const size_t stride = (size_t)shape->A * (size_t)shape->D;
    float *base = to + (size_t)shape->packed->start[seq] * stride + (size_t)head * (size_t)shape->D;
    for (int i = 0; i < L; i++)
        memcpy(base + (size_t)i * stride, from + (ptrdiff_t)i * z->Dp, (size_t)z->D * sizeof *to);
}

static void attention(float *out, const float *q, const float *k, const float *v, const KernelsTables *tables,
                      const KernelsAttention *z, const Attention *shape, int seq, int head, float *scratch) {
    Scratch s;
    load_tile(&s, z, shape, q, k, v, seq, head, scratch);
    scores(&s, tables, z, shape);
    softmax(&s, shape->scale);
    if (shape->drop->p > 0) {
        const VU first = iota(0);
        for (int i = 0; i < s.L; i++) {
            const Mask m = probability_mask(shape, seq, head, i);
            float *row = s.p + (ptrdiff_t)i * s.Lp;
            for (int j = 0; j < s.Lp; j += W)
                store(row + j, load(row + j) * mask_factor(&m, first + (uint32_t)j));
        }
    }
    product(s.dout, z->Dp, s.p, s.Lp, 1, s.v, z->Dp, s.L, z->Dp, s.L, 0);
    copy_out(out, s.dout, z, shape, seq, head, s.L);
}

/* From s->p (probabilities) and s->dp = dout v^T: s->dp becomes d scores (scaled), s->p the dropped
 * probabilities. */
static void softmax_grad(const Scratch *s, const Attention *shape, int seq, int head) {
    const VU first = iota(0);
    for (int i = 0; i < s->L; i++) {
        float *p = s->p + (ptrdiff_t)i * s->Lp, *dp = s->dp + (ptrdiff_t)i * s->Lp;
        Mask m = {0};
        if (shape->drop->p > 0) m = probability_mask(shape, seq, head, i);
        V sum = splat(0);
        for (int j = 0; j < s->Lp; j += W) {
            V g = load(dp + j);
            if (shape->drop->p > 0) g *= mask_factor(&m, first + (uint32_t)j);
            sum += g * load(p + j);
            store(dp + j, g);
        }
        const float mean = sum_of(sum);
        for (int j = 0; j < s->Lp; j += W) {
            const V prob = load(p + j);
            store(dp + j, prob * (load(dp + j) - mean) * shape->scale);
            if (shape->drop->p > 0) store(p + j, prob * mask_factor(&m, first + (uint32_t)j));
        }
    }
}

/* Gradients through both position terms, strip by strip: the scores' gradients are skewed back into windows.
 */
static void position_grad(const Scratch *s, const KernelsTables *dt, const KernelsTables *t,
                          const KernelsAttention *z, const Attention *shape) {
    const int L = s->L, Lp = s->Lp, Dp = z->Dp, width = window_of(L);
    for (int from = 0; from < L; from += KERNELS_STRIP) {
        const int rows = L - from < KERNELS_STRIP ? L - from : KERNELS_STRIP;
        const ptrdiff_t start = window_start(shape, from) * Dp;
        memset(s->strip, 0, (size_t)KERNELS_STRIP * (size_t)width * sizeof(float));
        for (int i = 0; i < rows; i++)
            memcpy(s->strip + (ptrdiff_t)i * width + (KERNELS_STRIP - 1 - i),
                   s->dp + (ptrdiff_t)(from + i) * Lp, (size_t)L * sizeof(float));
        product(s->dq + (ptrdiff_t)from * Dp, Dp, s->strip, width, 1, t->kr + start, Dp, rows, Dp, width, 1);
        product(dt->kr + start, Dp, s->strip, 1, width, s->q + (ptrdiff_t)from * Dp, Dp, width, Dp, rows, 1);
        memset(s->strip, 0, (size_t)KERNELS_STRIP * (size_t)width * sizeof(float));
        for (int i = 0; i < L; i++)
            for (int j = 0; j < rows; j++)
                s->strip[(ptrdiff_t)j * (width - 1) + (KERNELS_STRIP - 1) + i] =
                    s->dp[(ptrdiff_t)i * Lp + from + j];
        product(s->dk + (ptrdiff_t)from * Dp, Dp, s->strip, width, 1, t->qr + start, Dp, rows, Dp, width, 1);
        product(dt->qr + start, Dp, s->strip, 1, width, s->k + (ptrdiff_t)from * Dp, Dp, width, Dp, rows, 1);
    }
}

static void attention_grad(float *dq, float *dk, float *dv, const KernelsTables *dtables, const float *dout,
                           const float *q, const float *k, const float *v, const KernelsTables *tables,
                           const KernelsAttention *z, const Attention *shape, int seq, int head,
                           float *scratch) {
    Scratch s;
    load_tile(&s, z, shape, q, k, v, seq, head, scratch);
    const int L = s.L, Lp = s.Lp, Dp = z->Dp;
    const size_t stride = (size_t)shape->A * (size_t)shape->D;
    copy_in(s.dout, dout + (size_t)shape->packed->start[seq] * stride + (size_t)head * (size_t)shape->D, L,
            z->D, Dp, stride);
    transpose(s.vt, s.v, L, Lp, Dp);
    scores(&s, tables, z, shape);
    softmax(&s, shape->scale);
    product(s.dp, Lp, s.dout, Dp, 1, s.vt, Lp, L, Lp, Dp, 0);
    softmax_grad(&s, shape, seq, head);
    product(s.dv, Dp, s.p, 1, Lp, s.dout, Dp, L, Dp, L, 0);
    product(s.dq, Dp, s.dp, Lp, 1, s.k, Dp, L, Dp, L, 0);
    product(s.dk, Dp, s.dp, 1, Lp, s.q, Dp, L, Dp, L, 0);
    position_grad(&s, dtables, tables, z, shape);
    copy_out(dq, s.dq, z, shape, seq, head, L);
    copy_out(dk, s.dk, z, shape, seq, head, L);
    copy_out(dv, s.dv, z, shape, seq, head, L);
}

#define JOIN(a, b)  a##b
#define JOIN_(a, b) JOIN(a, b)
#define NAMED(name) JOIN_(kernels_, name)
#define TEXT_(x)    #x
#define TEXT(x)     TEXT_(x)

const Kernels NAMED(KERNELS_SUFFIX) = {
    .name = TEXT(KERNELS_SUFFIX),
    .gelu = gelu,
    .gelu_grad = gelu_grad,
    .norm = norm,
    .norm_grad = norm_grad,
    .dropout = dropout,
    .bias = bias,
    .column_sums = column_sums,
    .adamw = adamw,
    .sumsq = sumsq,
    .vector = W,
    .attention_scratch = attention_scratch,
    .attention_tables = attention_tables,
    .attention = attention,
    .attention_grad = attention_grad,
};
