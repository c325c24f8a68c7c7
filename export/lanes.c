/* export/lanes.c - see lanes.h. Written with the compilers' vector types, whose width follows the
 * instruction set that this file is being compiled for; what only one instruction does well is behind a
 * small function. */
#include "export/lanes.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core/simd.h"
#include "export/approx.h"
#include "export/unroll.h"

enum { ROWS = W == 16 ? 16 : 8 }; /* queries of a register block */

/* Vectors of one LANES_SUM; columns before the first key that a block of skewed queries touches. */
enum { VECTORS = LANES_SUM / W, MARGIN = 16 };

/* Queries whose contexts are summed together. */
enum { MIX_ROWS = 4 };

/* The value as something that came from nowhere: else compilers fold a load into each of its uses, and one
 * that crosses cache lines costs as much as two. */
static inline V loaded(V v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

static inline VI imax(VI a, VI b) {
#if defined(__AVX512F__)
    return (VI)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (VI)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const VI larger = a > b;
    return (a & larger) | (b & ~larger);
#endif
}

/* W numbers of half precision, finite. Where there is no instruction, the exponent is moved by a
 * multiplication, which also gets subnormal numbers right; exact, so all ways agree. */
static inline V load_half(const uint16_t *p) {
#if defined(__AVX512F__)
    return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
#elif defined(__AVX2__)
    return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
#else
    VU wide;
    for (int c = 0; c < W; c++) wide[c] = p[c];
    const V size = (V)((wide & 0x7fff) << 13) * splat(0x1p112f);
    return (V)((VU)size | (wide & 0x8000) << 16);
#endif
}

/* The low bytes of W numbers. */
static inline void store_bytes(int8_t *p, VU v) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
    const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4,
                                           8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i fours = _mm256_shuffle_epi8((__m256i)v, first);
    const __m128i eight =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    _mm_storel_epi64((__m128i *)(void *)p, eight);
#else
    for (int c = 0; c < W; c++) p[c] = (int8_t)(uint8_t)v[c];
#endif
}

/* ---- sums over a row ---- */

static float add_lanes(const V part[VECTORS]) {
    float lane[LANES_SUM], eight[8], four[4];
    memcpy(lane, part, sizeof lane);
    for (int c = 0; c < 8; c++) eight[c] = lane[c] + lane[c + 8];
    for (int c = 0; c < 4; c++) four[c] = eight[c] + eight[c + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* The last, incomplete LANES_SUM numbers are filled up with zeros, which change no sum that began with +0. */
static float dot(const float *a, const float *b, int n) {
    V part[VECTORS] = {{0}};
    int i = 0;
    for (; i + LANES_SUM <= n; i += LANES_SUM)
        for (int k = 0; k < VECTORS; k++) part[k] += load(a + i + k * W) * load(b + i + k * W);
    if (i < n) {
        float rest[2][LANES_SUM] = {{0}};
        memcpy(rest[0], a + i, (size_t)(n - i) * sizeof *a);
        memcpy(rest[1], b + i, (size_t)(n - i) * sizeof *b);
        for (int k = 0; k < VECTORS; k++) part[k] += load(rest[0] + k * W) * load(rest[1] + k * W);
    }
    return add_lanes(part);
}

static float sum(const float *x, int n) {
    V part[VECTORS] = {{0}};
    int i = 0;
    for (; i + LANES_SUM <= n; i += LANES_SUM)
        for (int k = 0; k < VECTORS; k++) part[k] += load(x + i + k * W);
    if (i < n) {
        float rest[LANES_SUM] = {0};
        memcpy(rest, x + i, (size_t)(n - i) * sizeof *x);
        for (int k = 0; k < VECTORS; k++) part[k] += load(rest + k * W);
    }
    return add_lanes(part);
}

/* ---- row by row ---- */

static void embed(float *x, const int8_t *row, float scale, int n) {
    for (int i = 0; i < n; i++) x[i] = (float)row[i] * scale;
}

static void norm(float *y, const float *x, const float *r, const float *w, const float *b, float eps, int n) {
    if (r)
        for (int i = 0; i < n; i++) y[i] = x[i] + r[i];
    const float *t = r ? y : x;
    const float mean = sum(t, n) / (float)n;
    for (int i = 0; i < n; i++) y[i] = t[i] - mean;
    const float rstd = 1.0f / sqrtf(dot(y, y, n) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = y[i] * rstd * w[i] + b[i];
}

/* approx_exp and approx_gelu are long chains in which each step waits for the one before; a few vectors go
 * through them side by side, so that the processor has something to do meanwhile. */
enum { TOGETHER = W == 16 ? 4 : 2, SPAN = TOGETHER * W };

#define EACH \
    UNROLL   \
    for (int k = 0; k < together; k++)

/* The steps of approx_exp. */
static inline __attribute__((always_inline)) void exp_each(V *x, int together) {
    static const float TERMS[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                                  5.0000001201e-1f};
    V shifted[TOGETHER], n[TOGETHER], r[TOGETHER], p[TOGETHER];
    EACH x[k] = vmin(vmax(x[k], splat(-87.0f)), splat(88.0f));
    EACH shifted[k] = x[k] * splat(1.44269504f) + splat(APPROX_ROUND);
    EACH n[k] = shifted[k] - splat(APPROX_ROUND);
    EACH r[k] = (x[k] - n[k] * splat(0.693359375f)) + n[k] * splat(2.12194440e-4f);
    EACH p[k] = splat(1.9875691500e-4f);
    UNROLL
    for (int i = 0; i < 5; i++) EACH p[k] = p[k] * r[k] + splat(TERMS[i]);
    EACH p[k] = (p[k] * (r[k] * r[k]) + r[k]) + splat(1.0f);
    EACH x[k] = p[k] * (V)(((VU)shifted[k] + (127u - 0x4b400000u)) << 23);
}

/* The steps of approx_gelu; its "- c" is the same as "+ -c". */
static inline __attribute__((always_inline)) void gelu_each(V *x, int together) {
    static const float TERMS[] = {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f,
                                  0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
    V z[TOGETHER], t[TOGETHER], p[TOGETHER];
    EACH z[k] = vmin((V)((VI)x[k] & 0x7fffffff), splat(18.0f)) * splat(0.707106781f);
    EACH t[k] = splat(1.0f) / (splat(1.0f) + splat(0.5f) * z[k]);
    EACH p[k] = splat(0.17087277f);
    UNROLL
    for (int i = 0; i < 9; i++) EACH p[k] = p[k] * t[k] + splat(TERMS[i]);
    EACH p[k] -= z[k] * z[k];
    exp_each(p, together);
    EACH p[k] *= splat(0.5f) * t[k];
    /* The sign of -0 too, for which both choices are the same. */
    EACH x[k] *= either((VI)x[k] >> 31, p[k], splat(1.0f) - p[k]);
}

static inline __attribute__((always_inline)) void gelu_at(float *y, int together) {
    V x[TOGETHER];
    EACH x[k] = load(y + k * W);
    gelu_each(x, together);
    EACH store(y + k * W, x[k]);
}

static void gelu(float *y, size_t n) {
    size_t i = 0;
    for (; i + SPAN <= n; i += SPAN) gelu_at(y + i, TOGETHER);
    for (; i + W <= n; i += W) gelu_at(y + i, 1);
    for (; i < n; i++) y[i] = approx_gelu(y[i]);
}

static void quantize(int8_t *q, float *scale, int32_t *start, const float *x, int n) {
    VI most = {0}; /* bits of |x|: as integers in the same order, infinity and what is no number above all */
    int i = 0;
    for (; i + W <= n; i += W) most = imax(most, (VI)load(x + i) & 0x7fffffff);
    int32_t bits = 0;
    for (int c = 0; c < W; c++) bits = most[c] > bits ? most[c] : bits;
    for (int k = i; k < n; k++) {
        int32_t size;
        memcpy(&size, &x[k], sizeof size);
        size &= 0x7fffffff;
        bits = size > bits ? size : bits;
    }
    float max;
    memcpy(&max, &bits, sizeof max);
    const float inverse = max < 1e-30f ? 0.0f : 127.0f / max;
    *scale = max < 1e-30f ? 0.0f : max / 127.0f;
    VU total = {0};
    for (i = 0; i + W <= n; i += W) {
        const V shifted = load(x + i) * splat(inverse) + splat(APPROX_ROUND);
        const VU value = (VU)shifted - 0x4b400000u;
        store_bytes(q + i, value);
        total += value;
    }
    uint32_t all = 0; /* unsigned: any value may stand for what is no number, but it must not overflow */
    for (int c = 0; c < W; c++) all += total[c];
    for (; i < n; i++) {
        const float shifted = x[i] * inverse + APPROX_ROUND;
        uint32_t value;
        memcpy(&value, &shifted, sizeof value);
        value -= 0x4b400000u;
        q[i] = (int8_t)(uint8_t)value;
        all += value;
    }
    *start = (int32_t)(0u - 128u * all);
}

static inline __attribute__((always_inline)) void exp_at(float *x, float max, int together) {
    V e[TOGETHER];
    EACH e[k] = load(x + k * W) - splat(max);
    exp_each(e, together);
    EACH store(x + k * W, e[k]);
}

static float exponentials(float *x, int n) {
    V high = splat(x[0]);
    int i = 0;
    for (; i + W <= n; i += W) high = vmax(high, load(x + i));
    float max = high[0];
    for (int c = 1; c < W; c++) max = high[c] > max ? high[c] : max;
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (i = 0; i + SPAN <= n; i += SPAN) exp_at(x + i, max, TOGETHER);
    for (; i + W <= n; i += W) exp_at(x + i, max, 1);
    for (; i < n; i++) x[i] = approx_exp(x[i] - max);
    return sum(x, n);
}

/* ---- attention ---- */

/* Scratch of one head. Everything that a block of queries reads lies in rows over the keys or over the
 * distance t = j - i + L - 1, so that for one query a vector of distances is a vector of neighbouring
 * keys. */
typedef struct {
    float *key;      /* (D, key_stride): key j in column MARGIN + j */
    float *pk, *pq;  /* (D, wide): distance t in column t - (L - queries) */
    float *v;        /* (L, Dp) */
    float *score;    /* (ROWS, key_stride): key j in column MARGIN + j */
    float *query;    /* (D, ROWS) */
    float *expanded; /* one row of a table */
    size_t key_stride, wide, Dp, used;
} Space;

static size_t padded(size_t n) {
    return (n + LANES_SUM - 1) / LANES_SUM * LANES_SUM;
}

/* An odd number of cache lines: rows a power of two apart would share a few cache sets. */
static size_t odd_lines(size_t columns) {
    return (padded(columns) / LANES_SUM | 1) * LANES_SUM;
}

static float *take(Space *s, float *base, size_t n) {
    const size_t at = s->used;
    s->used += padded(n);
    return base ? base + at : NULL;
}

/* The same code counts (base NULL) and lays out. */
static void space_layout(Space *s, float *base, int L, int queries, int D, int columns) {
    const size_t l = (size_t)L, d = (size_t)D;
    *s = (Space){.key_stride = odd_lines(MARGIN + l + ROWS + W),
                 .wide = odd_lines(l + (size_t)queries + ROWS + W),
                 .Dp = padded(d)};
    s->key = take(s, base, d * s->key_stride);
    s->pk = take(s, base, d * s->wide);
    s->pq = take(s, base, d * s->wide);
    s->v = take(s, base, l * s->Dp);
    s->score = take(s, base, ROWS * s->key_stride);
    s->query = take(s, base, d * ROWS);
    s->expanded = take(s, base, (size_t)columns + W);
}

static size_t attention_scratch(int L, int D, int columns) {
    Space s;
    space_layout(&s, NULL, L, L, D, columns);
    return s.used;
}

static void copy_head(const Space *s, const LanesHead *h) {
    const size_t D = (size_t)h->D;
    for (size_t d = 0; d < D; d++) memset(s->key + d * s->key_stride, 0, s->key_stride * sizeof *s->key);
    for (size_t j = 0; j < (size_t)h->L; j++) {
        const float *k = h->k + j * h->stride, *v = h->v + j * h->stride;
        for (size_t d = 0; d < D; d++) s->key[d * s->key_stride + MARGIN + j] = k[d];
        memcpy(s->v + j * s->Dp, v, D * sizeof *v);
        memset(s->v + j * s->Dp + D, 0, (s->Dp - D) * sizeof *v);
    }
}

/* One table in float, by distance: near distances have a column each, far ones share them. Of a short
 * text's rows only a few bytes are read, too far apart for the processor to foresee. */
static void expand(float *to, const Space *s, const LanesHead *h, const uint16_t *table) {
    enum { AHEAD = 16 };
    const int32_t *column = h->column + (h->L - h->queries);
    const int n = h->L + h->queries - 1, first = column[0], last = column[n - 1];
    bool contiguous = last - first == n - 1;
    for (int t = 1; contiguous && t < n; t++) contiguous = column[t] == first + t;
    for (int d = 0; d < h->D; d++, to += s->wide) {
        const uint16_t *from = table + (size_t)d * (size_t)h->columns + first;
        float *into = contiguous ? to : s->expanded;
        for (int c = 0; d + AHEAD < h->D && c <= last - first; c += 32)
            __builtin_prefetch(from + AHEAD * (size_t)h->columns + c);
        for (int c = 0; c <= last - first; c += W) store(into + c, load_half(from + c));
        if (contiguous) continue;
        for (int t = 0; t < n; t++) to[t] = into[column[t] - first];
    }
}

/* Scores of `rows` queries from i on, by vectors of W distances that all of them share: a vector of keys for
 * query i + r then begins r later. What falls outside 0 .. L-1 lands in the margins. */
static inline __attribute__((always_inline)) void scores(const Space *s, const LanesHead *h, int i,
                                                         int rows) {
    const float scale = 1.0f / sqrtf(3.0f * (float)h->D);
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < h->D; d++) s->query[d * rows + r] = h->q[(size_t)(i + r) * h->stride + (size_t)d];
    for (int t = 0; t < h->L + rows - 1; t += W) {
        const size_t at = (size_t)(h->queries - i - rows + t), from = (size_t)(MARGIN + t - (rows - 1));
        const float *pk = s->pk + at, *pq = s->pq + at, *key = s->key + from, *q = s->query;
        V acc[ROWS] = {{0}};
        for (int d = 0; d < h->D; d++) {
            const V position_key = load(pk), position_query = load(pq);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const V k = loaded(load(key + r));
                acc[r] += splat(q[r]) * (k + position_key) + k * position_query;
            }
            pk += s->wide;
            pq += s->wide;
            key += s->key_stride;
            q += rows;
        }
        UNROLL
        for (int r = 0; r < rows; r++)
            store(s->score + (size_t)r * s->key_stride + from + r, acc[r] * splat(scale));
    }
}

/* out(r,d) = inverse[r] * sum_j p(r,j) v(j,d) over j = 0 .. L-1 in that order, for `vectors` vectors of d. */
static inline __attribute__((always_inline)) void mix_block(const Space *s, const LanesHead *h,
                                                            const float *inverse, int i, int r0, int rows,
                                                            int d, int vectors) {
    const float *p = s->score + (size_t)r0 * s->key_stride + MARGIN, *v = s->v + d;
    V acc[MIX_ROWS][4] = {{{0}}};
    for (int j = 0; j < h->L; j++, v += s->Dp) {
        UNROLL
        for (int r = 0; r < rows; r++) {
            const V weight = splat(p[(size_t)r * s->key_stride + (size_t)j]);
            UNROLL
            for (int k = 0; k < vectors; k++) acc[r][k] += weight * load(v + k * W);
        }
    }
    for (int r = 0; r < rows; r++) {
        float *out = h->out + (size_t)(i + r0 + r) * h->stride + (size_t)d;
        for (int k = 0; k < vectors; k++, out += W) {
            const V y = acc[r][k] * splat(inverse[r0 + r]);
            const int left = h->D - d - k * W;
            if (left >= W)
                store(out, y);
            else if (left > 0)
                memcpy(out, &y, (size_t)left * sizeof *out);
        }
    }
}

static inline __attribute__((always_inline)) void mix(const Space *s, const LanesHead *h,
                                                      const float *inverse, int i, int r0, int rows) {
    enum { VECTORS_AT_ONCE = W == 16 ? 4 : 2 };
    const int D = h->D;
    int d = 0;
    for (; d + (VECTORS_AT_ONCE - 1) * W < D; d += VECTORS_AT_ONCE * W)
        mix_block(s, h, inverse, i, r0, rows, d, VECTORS_AT_ONCE);
    for (; d < D; d += W) mix_block(s, h, inverse, i, r0, rows, d, 1);
}

static inline __attribute__((always_inline)) void attend(const Space *s, const LanesHead *h, int i,
                                                         int rows) {
    float inverse[ROWS];
    scores(s, h, i, rows);
    for (int r = 0; r < rows; r++)
        inverse[r] = 1.0f / exponentials(s->score + (size_t)r * s->key_stride + MARGIN, h->L);
    if (rows % MIX_ROWS)
        for (int r = 0; r < rows; r++) mix(s, h, inverse, i, r, 1);
    else
        for (int r = 0; r < rows; r += MIX_ROWS) mix(s, h, inverse, i, r, MIX_ROWS);
}

static void attend_block(const Space *s, const LanesHead *h, int i) {
    attend(s, h, i, ROWS);
}

static void attend_few(const Space *s, const LanesHead *h, int i) {
    attend(s, h, i, MIX_ROWS);
}

static void attend_one(const Space *s, const LanesHead *h, int i) {
    attend(s, h, i, 1);
}

static void attention(const LanesHead *h, float *scratch) {
    Space s;
    space_layout(&s, scratch, h->L, h->queries, h->D, h->columns);
    copy_head(&s, h);
    expand(s.pk, &s, h, h->position_key);
    expand(s.pq, &s, h, h->position_query);
    int i = 0;
    for (; i + ROWS <= h->queries; i += ROWS) attend_block(&s, h, i);
    for (; i + MIX_ROWS <= h->queries; i += MIX_ROWS) attend_few(&s, h, i);
    for (; i < h->queries; i++) attend_one(&s, h, i);
}

const Lanes SIMD_NAME(lanes_, LANES_SUFFIX) = {
    .name = SIMD_TEXT(LANES_SUFFIX),
    .embed = embed,
    .norm = norm,
    .gelu = gelu,
    .quantize = quantize,
    .dot = dot,
    .exponentials = exponentials,
    .attention_scratch = attention_scratch,
    .attention = attention,
};
