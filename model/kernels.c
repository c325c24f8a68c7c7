/* model/kernels.c - see kernels.h. Written with the compilers' vector types, whose width follows the
 * instruction set that this file is being compiled for. */
#include "model/kernels.h"

#include "model/vectors.h"

static void gelu(float *y, const float *z, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, vgelu(load(z + i)));
    if (i < n) store_some(y + i, vgelu(load_some(z + i, (int)(n - i), 0)), (int)(n - i));
}

static void gelu_grad(float *dz, const float *dy, const Act *pre, size_t n) {
    const ActNumber *z = pre;
    for (size_t i = 0; i < n; i += W) {
        const int k = n - i < W ? (int)(n - i) : W;
        store_some(dz + i, load_some(dy + i, k, 0) * vgelu_slope(act_load_some(z + i, k)), k);
    }
}

static void dropout(Act *out, const Act *in, const Dropout *drop, int from, int to, int H) {
    ActNumber *y = out;
    const ActNumber *x = in;
    const VU first = iota(0);
    for (int n = from; n < to; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const Mask m = mask_of(drop, drop->row[n]);
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            act_store_some(y + at + h, act_load_some(x + at + h, k) * mask_factor(&m, first + (uint32_t)h),
                           k);
        }
    }
}

static void embed(Act *out, const float *table, const int32_t *ids, int from, int to, int H) {
    ActNumber *y = out;
    for (int n = from; n < to; n++) {
        const float *row = table + (size_t)ids[n] * (size_t)H;
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            act_store_some(y + (size_t)n * (size_t)H + h, load_some(row + h, k, 0), k);
        }
    }
}

static void widen(float *y, const Act *in, size_t n) {
    const ActNumber *x = in;
    for (size_t i = 0; i < n; i += W) {
        const int k = n - i < W ? (int)(n - i) : W;
        store_some(y + i, act_load_some(x + i, k), k);
    }
}

/* ---- norm ---- */

/* A sum in two levels: the rounding is that of a few sums of 16, not of one of hundreds. */
typedef struct {
    V all, some;
    int count;
} Sum;

static inline void sum_add(Sum *s, V v) {
    s->some += v;
    if (++s->count % 16) return;
    s->all += s->some;
    s->some = splat(0);
}

static inline float sum_end(const Sum *s) {
    return sum_of(s->all + s->some);
}

static void norm(Act *out, Act *kept, float *rstd, const Act *in, const Act *residual, const float *w,
                 const float *b, const Dropout *drop, int from, int to, int H, float eps, float *s) {
    const VU first = iota(0);
    const ActNumber *x = in, *r = residual;
    ActNumber *y = out, *xhat = kept;
    for (int n = from; n < to; n++) {
        const size_t at = (size_t)n * (size_t)H;
        Mask m = {0};
        if (drop->p > 0) m = mask_of(drop, drop->row[n]);
        Sum sum = {splat(0), splat(0), 0}, squares = sum;
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            V v = act_load_some(x + at + h, k);
            if (drop->p > 0) v *= mask_factor(&m, first + (uint32_t)h);
            if (r) v += act_load_some(r + at + h, k);
            sum_add(&sum, v);
            store_some(s + h, v, k);
        }
        const float mean = sum_end(&sum) / (float)H;
        for (int h = 0; h < H; h += W) {
            const V c = load_some(s + h, H - h < W ? H - h : W, mean) - mean;
            sum_add(&squares, c * c);
        }
        const float inverse = 1 / sqrtf(sum_end(&squares) / (float)H + eps);
        if (rstd) rstd[n] = inverse;
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            const V c = (load_some(s + h, k, mean) - mean) * inverse;
            if (xhat) act_store_some(xhat + at + h, c, k);
            act_store_some(y + at + h, c * load_some(w + h, k, 0) + load_some(b + h, k, 0), k);
        }
    }
}

static void norm_grad(float *dx, float *dr, float *dw, float *db, const float *dy, const Act *kept,
                      const float *rstd, const float *w, const Dropout *drop, int from, int to, int H) {
    const VU first = iota(0);
    const ActNumber *xhat = kept;
    for (int n = from; n < to; n++) {
        const size_t at = (size_t)n * (size_t)H;
        const float *g = dy + at;
        const ActNumber *c = xhat + at;
        Sum sum = {splat(0), splat(0), 0}, sum_c = sum;
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            const V gv = load_some(g + h, k, 0), cv = act_load_some(c + h, k),
                    gw = gv * load_some(w + h, k, 0);
            sum_add(&sum, gw);
            sum_add(&sum_c, gw * cv);
            store_some(dw + h, load_some(dw + h, k, 0) + gv * cv, k);
            store_some(db + h, load_some(db + h, k, 0) + gv, k);
        }
        const float mean = sum_end(&sum) / (float)H, mean_c = sum_end(&sum_c) / (float)H;
        Mask m = {0};
        if (drop->p > 0) m = mask_of(drop, drop->row[n]);
        for (int h = 0; h < H; h += W) {
            const int k = H - h < W ? H - h : W;
            const V gw = load_some(g + h, k, 0) * load_some(w + h, k, 0);
            V ds = rstd[n] * (gw - mean - act_load_some(c + h, k) * mean_c);
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

/* Blocks of rows have sums of their own, so that the rounding is not that of N terms. */
static void column_sums(float *sums, const float *x, int N, int O, int from, int to) {
    enum { COLUMNS = 64, ROWS = 64 };
    for (int j0 = from; j0 < to; j0 += COLUMNS) {
        const int columns = to - j0 < COLUMNS ? to - j0 : COLUMNS;
        for (int n0 = 0; n0 < N; n0 += ROWS) {
            float part[COLUMNS] = {0};
            for (int n = n0; n < N && n < n0 + ROWS; n++) {
                const float *row = x + (size_t)n * (size_t)O + j0;
                for (int j = 0; j < columns; j++) part[j] += row[j];
            }
            for (int j = 0; j < columns; j++) sums[j0 + j] += part[j];
        }
    }
}

static void linear_out(Act *out, Act *kept, size_t stride, const float *c, size_t ldc, const float *b,
                       int rows, int cols) {
    ActNumber *y = out, *pre = kept;
    for (int i = 0; i < rows; i++, c += ldc) {
        const size_t at = (size_t)i * stride;
        for (int j = 0; j < cols; j += W) {
            const int n = cols - j < W ? cols - j : W;
            const V z = load_some(c + j, n, 0) + load_some(b + j, n, 0);
            if (pre) act_store_some(pre + at + j, z, n); /* y may be pre */
            act_store_some(y + at + j, pre ? vgelu(z) : z, n);
        }
    }
}

static void rows_out(float *y, size_t stride, const float *c, size_t ldc, int rows, int cols, int add) {
    for (int i = 0; i < rows; i++, c += ldc, y += stride)
        for (int j = 0; j < cols; j += W) {
            const int n = cols - j < W ? cols - j : W;
            const V z = load_some(c + j, n, 0);
            store_some(y + j, add ? load_some(y + j, n, 0) + z : z, n);
        }
}

static void adamw(float *restrict p, float *restrict m, float *restrict v, const float *restrict g, size_t n,
                  const AdamwRates *a) {
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

extern const AttentionKernels SIMD_NAME(kernels_attention_, KERNELS_SUFFIX);

const Kernels SIMD_NAME(kernels_, KERNELS_SUFFIX) = {
    .name = SIMD_TEXT(KERNELS_SUFFIX),
    .act_bytes = sizeof(ActNumber),
    .vector = W,
    .gelu = gelu,
    .gelu_grad = gelu_grad,
    .embed = embed,
    .widen = widen,
    .norm = norm,
    .norm_grad = norm_grad,
    .dropout = dropout,
    .bias = bias,
    .column_sums = column_sums,
    .linear_out = linear_out,
    .rows_out = rows_out,
    .adamw = adamw,
    .sumsq = sumsq,
    .attention = &SIMD_NAME(kernels_attention_, KERNELS_SUFFIX),
};
