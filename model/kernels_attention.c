/* model/kernels_attention.c - disentangled attention of one sequence and head: see kernels.h. */
#include "model/kernels.h"
#include "model/vectors.h"

#if defined(__AVX512F__)
enum { ROWS = 8 }; /* rows of the register block, two vectors wide */
#else
enum { ROWS = 4 };
#endif

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

static void copy_row(float *to, const ActNumber *from, int D) {
    for (int d = 0; d < D; d += W) {
        const int n = D - d < W ? D - d : W;
        store_some(to + d, act_load_some(from + d, n), n);
    }
}

static size_t attention_scratch(const KernelsAttention *z) {
    Scratch s;
    return scratch_layout(&s, z, z->longest, NULL);
}

static void tables(const KernelsTables *out, const KernelsAttention *z, const Act *kr, const Act *qr,
                   const Attention *shape, int head) {
    const size_t stride = (size_t)shape->A * (size_t)shape->D, column = (size_t)head * (size_t)shape->D;
    const size_t window = (size_t)z->window, Dp = (size_t)z->Dp;
    const int span = 2 * shape->longest - 1;
    memset(out->kr, 0, window * Dp * sizeof(float));
    memset(out->qr, 0, window * Dp * sizeof(float));
    memset(out->kr_t, 0, window * Dp * sizeof(float));
    memset(out->qr_t, 0, window * Dp * sizeof(float));
    for (int x = 0; x < span;
         x++) { /* kr runs by j - i, so that a row of scores reads it forwards; qr by i - j */
        const size_t at = (size_t)(x + KERNELS_MARGIN);
        float *k = out->kr + at * Dp, *q = out->qr + at * Dp;
        copy_row(k, (const ActNumber *)kr + (size_t)shape->index[span - 1 - x] * stride + column, shape->D);
        copy_row(q, (const ActNumber *)qr + (size_t)shape->index[x] * stride + column, shape->D);
        for (size_t d = 0; d < (size_t)shape->D; d++) {
            out->kr_t[d * window + at] = k[d];
            out->qr_t[d * window + at] = q[d];
        }
    }
}

/* `from` are activations. */
static void copy_in(float *to, const ActNumber *from, int L, int D, int Dp, size_t stride) {
    for (int i = 0; i < L; i++) {
        copy_row(to + (size_t)i * (size_t)Dp, from + (size_t)i * stride, D);
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

static void load_tile(Scratch *s, const KernelsAttention *z, const Attention *shape, const Act *q,
                      const Act *k, const Act *v, int seq, int head, float *scratch) {
    const int first = shape->packed->start[seq], L = shape->packed->start[seq + 1] - first;
    const size_t stride = (size_t)shape->A * (size_t)shape->D,
                 at = (size_t)first * stride + (size_t)head * (size_t)shape->D;
    scratch_layout(s, z, L, scratch);
    copy_in(s->q, (const ActNumber *)q + at, L, z->D, z->Dp, stride);
    copy_in(s->k, (const ActNumber *)k + at, L, z->D, z->Dp, stride);
    copy_in(s->v, (const ActNumber *)v + at, L, z->D, z->Dp, stride);
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

static void forward(Act *out, const Act *q, const Act *k, const Act *v, const KernelsTables *by_distance,
                    const KernelsAttention *z, const Attention *shape, int seq, int head, float *scratch) {
    Scratch s;
    load_tile(&s, z, shape, q, k, v, seq, head, scratch);
    scores(&s, by_distance, z, shape);
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
    const size_t stride = (size_t)shape->A * (size_t)shape->D;
    ActNumber *to =
        (ActNumber *)out + (size_t)shape->packed->start[seq] * stride + (size_t)head * (size_t)shape->D;
    for (int i = 0; i < s.L; i++, to += stride)
        for (int d = 0; d < z->D; d += W)
            act_store_some(to + d, load(s.dout + (ptrdiff_t)i * z->Dp + d), z->D - d < W ? z->D - d : W);
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

static void grad(float *dq, float *dk, float *dv, const KernelsTables *dtables, const float *dout,
                 const Act *q, const Act *k, const Act *v, const KernelsTables *by_distance,
                 const KernelsAttention *z, const Attention *shape, int seq, int head, float *scratch) {
    Scratch s;
    load_tile(&s, z, shape, q, k, v, seq, head, scratch);
    const int L = s.L, Lp = s.Lp, Dp = z->Dp;
    const size_t stride = (size_t)shape->A * (size_t)shape->D;
    const float *from = dout + (size_t)shape->packed->start[seq] * stride + (size_t)head * (size_t)shape->D;
    for (int i = 0; i < L; i++) {
        memcpy(s.dout + (ptrdiff_t)i * Dp, from + (size_t)i * stride, (size_t)z->D * sizeof *from);
        for (int d = z->D; d < Dp; d++) s.dout[(ptrdiff_t)i * Dp + d] = 0;
    }
    transpose(s.vt, s.v, L, Lp, Dp);
    scores(&s, by_distance, z, shape);
    softmax(&s, shape->scale);
    product(s.dp, Lp, s.dout, Dp, 1, s.vt, Lp, L, Lp, Dp, 0);
    softmax_grad(&s, shape, seq, head);
    product(s.dv, Dp, s.p, 1, Lp, s.dout, Dp, L, Dp, L, 0);
    product(s.dq, Dp, s.dp, Lp, 1, s.k, Dp, L, Dp, L, 0);
    product(s.dk, Dp, s.dp, 1, Lp, s.q, Dp, L, Dp, L, 0);
    position_grad(&s, dtables, by_distance, z, shape);
    copy_out(dq, s.dq, z, shape, seq, head, L);
    copy_out(dk, s.dk, z, shape, seq, head, L);
    copy_out(dv, s.dv, z, shape, seq, head, L);
}

extern const AttentionKernels VECTORS_NAME(kernels_attention_, KERNELS_SUFFIX);

const AttentionKernels VECTORS_NAME(kernels_attention_, KERNELS_SUFFIX) = {
    .scratch = attention_scratch,
    .tables = tables,
    .forward = forward,
    .grad = grad,
};
