/* model/kernels_attention.c - disentangled attention of one sequence and head: see kernels.h.
 *
 * Everything is small matrix products in registers. The score of query i and key j needs q_i.kr[j-i] and k_j.qr[i-j]: a
 * product of rows of q with all columns of kr has (i, r) where (i, i+r) is wanted, which is the same memory read with
 * a row stride longer by one. So a tile of scores takes those products as they are, and gives its gradients to products
 * that walk it along rows, columns or diagonals; around it are margins for what looks past its ends.
 *
 * Only some rows of queries are in the tile at a time, with all keys, so that it stays in the second-level cache. */
#include "model/kernels.h"
#include "model/vectors.h"

/* Operands of products are floats, or bfloat16 where activations are and the file is compiled with KERNELS_PAIRS: then
 * probabilities and the gradients of scores are rounded to it as well, and sums are still floats. A unit is what one
 * step of a sum takes of each operand: 32 bits, a float, or two bfloat16 that are neighbours in the dimension that is
 * summed over. An operand on the left is read unit by unit with any strides. One on the right is vectors of W units,
 * either
 *   panels  (n / W, K, W): made by transposing rows (n, Dq) whose numbers are summed over, or
 *   rows    (K, Dp): for sums over tokens or distances; with two numbers in a unit they come from two rows. */
#ifdef KERNELS_PAIRS
typedef ActNumber Number;
enum { UNIT = 2 };
#else
typedef float Number;
enum { UNIT = 1 };
#endif

#if defined(__AVX512F__)
enum { ROWS = 8, WIDE = 3 }; /* the register block: rows, and vectors of W columns */
#elif defined(__AVX2__)
enum { ROWS = 4, WIDE = 3 };
#else
enum { ROWS = 4, WIDE = 2 };
#endif

enum {
    STRIP = 16,                   /* queries or keys that share a window of distances */
    BLOCK = UNIT == 1 ? 128 : 64, /* queries of a tile; a multiple of STRIP; measured */
    MARGIN =
        16, /* numbers that may be touched left of a tile's row: STRIP - 1; ROWS of zeros are above and below */
};

static int up(int n, int multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

/* ---- products in registers ---- */

/* Rows of arrays that this thread will read next: fetched into the second-level cache while it computes, because the
 * hardware does not see ahead from one short row of a wide array to the next. */
enum { AHEAD_ARRAYS = 7, AHEAD_ROWS = 128 /* of all of them: a quarter of that cache */ };

typedef struct {
    const char *at[AHEAD_ARRAYS];
    size_t step[AHEAD_ARRAYS]; /* from row to row, in bytes */
    size_t bytes[AHEAD_ARRAYS];
    int arrays, rows;
} Ahead;

static void fetch_row(Ahead *a) {
    a->rows--;
    for (int i = 0; i < a->arrays; i++) {
        for (size_t byte = 0; byte < a->bytes[i]; byte += 64) __builtin_prefetch(a->at[i] + byte, 0, 2);
        a->at[i] += a->step[i];
    }
}

/* c[m][n] (+)= sum_k a[m * a_row + k * a_col] b[k * b_row + n], vector n of b and c: n * b_vector, n * W */
typedef struct {
    float *c;
    ptrdiff_t c_row;
    const Number *a;
    ptrdiff_t a_row, a_col;
    const Number *b;
    ptrdiff_t b_row, b_vector;
    int M, N, K; /* N vectors, K units */
    int add;
    Ahead *ahead; /* NULL: nothing */
} Product;

static inline V units(const Number *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline V multiply_add(V sum, const Number *a, V b) {
#ifdef KERNELS_PAIRS
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
#else
    return sum + *a * b;
#endif
}

/* Unrolled early, so that the compiler sees registers and not an array. */
#if defined(__clang__)
#define EACH(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)
#endif

static inline __attribute__((always_inline)) void block(const Product *p, float *c, const Number *a,
                                                        const Number *b, const int rows, const int wide) {
    const ptrdiff_t a_row = p->a_row, a_col = p->a_col, b_row = p->b_row, b_vector = p->b_vector,
                    c_row = p->c_row;
    V sum[ROWS][WIDE];
    if (p->add) {
        EACH(i, rows) EACH(j, wide) sum[i][j] = load(c + i * c_row + j * W);
    } else {
        EACH(i, rows) EACH(j, wide) sum[i][j] = splat(0);
    }
    for (int k = p->K; k > 0; k--) {
        V right[WIDE];
        EACH(j, wide) right[j] = units(b + j * b_vector);
        EACH(i, rows) EACH(j, wide) sum[i][j] = multiply_add(sum[i][j], a + i * a_row, right[j]);
        a += a_col;
        b += b_row;
    }
    EACH(i, rows) EACH(j, wide) store(c + i * c_row + j * W, sum[i][j]);
}

typedef void Block(const Product *p, float *c, const Number *a, const Number *b);

#define BLOCK_OF(rows, wide)                                                                          \
    static void block_##rows##_##wide(const Product *p, float *c, const Number *a, const Number *b) { \
        block(p, c, a, b, rows, wide);                                                                \
    }
#define BLOCKS_OF(wide) \
    BLOCK_OF(1, wide)   \
    BLOCK_OF(2, wide)   \
    BLOCK_OF(3, wide)   \
    BLOCK_OF(4, wide)
#define BLOCKS_MORE(wide) \
    BLOCK_OF(5, wide)     \
    BLOCK_OF(6, wide)     \
    BLOCK_OF(7, wide)     \
    BLOCK_OF(8, wide)

BLOCKS_OF(1)
BLOCKS_OF(2)
#if defined(__AVX512F__)
BLOCKS_OF(3)
BLOCKS_MORE(1)
BLOCKS_MORE(2)
BLOCKS_MORE(3)
#define BLOCKS_NAMED(wide)                                                                              \
    {                                                                                                   \
        block_1_##wide, block_2_##wide, block_3_##wide, block_4_##wide, block_5_##wide, block_6_##wide, \
            block_7_##wide, block_8_##wide                                                              \
    }
#else
#define BLOCKS_NAMED(wide) \
    { block_1_##wide, block_2_##wide, block_3_##wide, block_4_##wide }
#if defined(__AVX2__)
BLOCKS_OF(3)
#endif
#endif

static Block *const BLOCKS[WIDE][ROWS] = {BLOCKS_NAMED(1), BLOCKS_NAMED(2),
#if defined(__AVX2__)
                                          BLOCKS_NAMED(3)
#endif
};

/* The next part when `left` is cut into few parts of nearly the same size, `most` at most. */
static int part(int left, int most) {
    const int parts = (left + most - 1) / most;
    return (left + parts - 1) / parts;
}

static void product(const Product *p) {
    if (p->K <= 0 && p->add) return;
    for (int n = 0; n < p->N;) {
        const int wide = part(p->N - n, WIDE);
        for (int m = 0; m < p->M;) {
            const int rows = part(p->M - m, ROWS);
            BLOCKS[wide - 1][rows - 1](p, p->c + m * p->c_row + n * W, p->a + m * p->a_row,
                                       p->b + n * p->b_vector);
            m += rows;
            for (int i = 0; i < 2 && p->ahead && p->ahead->rows > 0; i++) fetch_row(p->ahead);
        }
        n += wide;
    }
}

/* ---- operands ---- */

/* n <= W * UNIT activations as a vector of units */
static inline V take(const ActNumber *p, int n) {
#ifdef KERNELS_PAIRS
    if (n == W * UNIT) return units(p);
    V v = splat(0);
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
#else
    return act_load_some(p, n);
#endif
}

static inline void put(Number *to, V units_of_it) {
    memcpy(to, &units_of_it, sizeof units_of_it);
}

/* W floats as numbers */
static inline void narrow(Number *to, V v) {
#ifdef KERNELS_PAIRS
    act_store(to, v);
#else
    store(to, v);
#endif
}

/* (L, D) of a wider array to (L, Dq), the rest zero */
static void copy_rows(Number *to, const ActNumber *from, int L, const KernelsAttention *z, size_t stride) {
    for (int i = 0; i < L; i++, to += z->Dq, from += stride)
        for (int d = 0; d < z->Dq; d += W * UNIT)
            put(to + d, take(from + d, z->D - d < W * UNIT ? z->D - d : W * UNIT));
}

static void panel_put(Number *panel, V m[W]) {
    transpose(m);
    for (int u = 0; u < W; u++) put(panel + u * W * UNIT, m[u]);
}

/* Rows (L, Dq) to panels; columns from L on are zero. */
static void panels_of(Number *to, const Number *rows, int L, const KernelsAttention *z) {
    for (int from = 0; from < L; from += W)
        for (int d = 0; d < z->Dq; d += W * UNIT, to += W * W * UNIT) {
            V m[W];
            for (int i = 0; i < W; i++)
                m[i] = from + i < L ? units(rows + (ptrdiff_t)(from + i) * z->Dq + d) : splat(0);
            panel_put(to, m);
        }
}

/* Rows (L, Dq) to the form for sums over them; returns where that is. */
static const Number *rows_of(Number *to, const Number *rows, int L, const KernelsAttention *z) {
#ifdef KERNELS_PAIRS
    for (int i = 0; i < L; i += 2)
        for (int d = 0; d < z->Dp; d += W) {
            VH low, high = {0};
            memcpy(&low, rows + (ptrdiff_t)i * z->Dq + d, sizeof low);
            if (i + 1 < L) memcpy(&high, rows + (ptrdiff_t)(i + 1) * z->Dq + d, sizeof high);
            const VU pair = __builtin_convertvector(low, VU) | __builtin_convertvector(high, VU) << 16;
            memcpy(to + (ptrdiff_t)i * z->Dp + 2 * d, &pair, sizeof pair);
        }
    return to;
#else
    (void)to;
    (void)L;
    (void)z;
    return rows;
#endif
}

/* ---- sizes ---- */

static KernelsAttention sizes(int longest, int D) {
    const int origin = up(longest - 1, STRIP) + STRIP - 1;
    return (KernelsAttention){
        .longest = longest,
        .D = D,
        .Dp = up(D, W),
        .Dq = up(D, W * UNIT),
        .origin = origin, /* windows begin at distances 1 - 16 n: at whole vectors */
        .window = up(origin + longest + 2 * STRIP, STRIP),
    };
}

typedef struct {
    int L, ld, block;                         /* row stride of tiles; queries of a tile */
    Number *q, *k, *v, *dout;                 /* (L, Dq) */
    Number *q_sum, *k_sum, *v_sum, *dout_sum; /* room for rows_of these */
    Number *k_panels, *v_panels;
    float *p, *dp;            /* (block, ld) with margins: scores, then probabilities; and their gradients */
    float *strip;             /* (STRIP, block + 2 STRIP) */
    float *out, *inverse;     /* (block, Dp), (block) */
    float *dk, *dv;           /* (L, Dp) */
    Number *rows, *diagonals; /* dp as operands */
    Number *rests;            /* diagonals of what rounding took from dp */
} Scratch;

static int strip_stride(const Scratch *s) {
    return s->block + 2 * STRIP;
}

static size_t scratch_layout(Scratch *s, const KernelsAttention *z, int L, float *base) {
    const int blocks = (L + BLOCK - 1) / BLOCK;
    s->L = L;
    s->block = up((L + blocks - 1) / blocks, STRIP);
    s->ld = up(L, STRIP) + 2 * STRIP;
    if (s->ld / STRIP % 2 == 0) s->ld += STRIP; /* an odd number of cache lines: rows spread over all sets */
    const size_t N = (size_t)up(L, STRIP), Dp = (size_t)z->Dp, rows = N * (size_t)z->Dq / UNIT,
                 sums = N * Dp / UNIT, tile = (size_t)(s->block + 2 * ROWS) * (size_t)s->ld + 2 * MARGIN;
    struct {
        void *at;
        size_t numbers;
    } const parts[] = {
        {&s->q, rows},
        {&s->k, rows},
        {&s->v, rows},
        {&s->dout, rows},
        {&s->q_sum, sums},
        {&s->k_sum, sums},
        {&s->v_sum, sums},
        {&s->dout_sum, sums},
        {&s->k_panels, rows},
        {&s->v_panels, rows},
        {&s->p, tile},
        {&s->dp, tile},
        {&s->strip, (size_t)STRIP * (size_t)strip_stride(s)},
        {&s->out, (size_t)s->block * Dp},
        {&s->inverse, (size_t)s->block},
        {&s->dk, N * Dp},
        {&s->dv, N * Dp},
        {&s->rows, UNIT == 1 ? 0 : tile / UNIT},
        {&s->diagonals, UNIT == 1 ? 0 : tile},
        {&s->rests, UNIT == 1 ? 0 : tile},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base) {
            float *const p = base + at;
            memcpy(parts[i].at, &p, sizeof p);
        }
        at += (parts[i].numbers + 15) / 16 * 16;
    }
    if (base) {
        s->p += ROWS * s->ld + MARGIN;
        s->dp += ROWS * s->ld + MARGIN;
        s->rows += ROWS * s->ld + MARGIN;
        s->diagonals += UNIT * (ROWS * s->ld + MARGIN);
        s->rests += UNIT * (ROWS * s->ld + MARGIN);
    }
    return at;
}

static size_t attention_scratch(const KernelsAttention *z) {
    Scratch s;
    size_t most = 0; /* shorter ones may have larger blocks */
    for (int L = 1; L <= z->longest; L++) {
        const size_t n = scratch_layout(&s, z, L, NULL);
        most = n > most ? n : most;
    }
    return most;
}

/* ---- tables by distance ---- */

static const ActNumber *table_row(const Act *table, const Attention *shape, int head, int distance) {
    const size_t stride = (size_t)shape->A * (size_t)shape->D;
    const size_t row = (size_t)shape->index[distance + shape->longest - 1];
    return (const ActNumber *)table + row * stride + (size_t)head * (size_t)shape->D;
}

/* W places from `at` on; sign: the distance of place origin + r is sign * r. */
static void table_panel(Number *panels, Number *sums, const KernelsAttention *z, const Act *table,
                        const Attention *shape, int head, int sign, int at) {
    const ActNumber *from[W];
    for (int i = 0; i < W; i++) {
        const int r = at + i - z->origin;
        from[i] = r > -z->longest && r < z->longest ? table_row(table, shape, head, sign * r) : NULL;
    }
    Number *panel = panels + (ptrdiff_t)at * z->Dq;
    Number *sum = sums ? sums + (ptrdiff_t)at * z->Dp : NULL;
    for (int d = 0; d < z->Dq; d += W * UNIT, panel += W * W * UNIT) {
        const int n = z->D - d < W * UNIT ? z->D - d : W * UNIT;
        V m[W];
        for (int i = 0; i < W; i++) m[i] = from[i] ? take(from[i] + d, n) : splat(0);
#ifdef KERNELS_PAIRS
        for (int half = 0; sum && half < 2 && d + half * W < z->Dp; half++)
            for (int i = 0; i < W; i += 2) {
                VH low, high;
                memcpy(&low, (const char *)&m[i] + half * (int)sizeof low, sizeof low);
                memcpy(&high, (const char *)&m[i + 1] + half * (int)sizeof high, sizeof high);
                const VU pair = __builtin_convertvector(low, VU) | __builtin_convertvector(high, VU) << 16;
                memcpy(sum + (ptrdiff_t)i * z->Dp + 2 * (d + half * W), &pair, sizeof pair);
            }
#else
        for (int i = 0; sum && i < W; i++) store(sum + (ptrdiff_t)i * z->Dp + d, m[i]);
#endif
        panel_put(panel, m);
    }
}

static void tables(const KernelsTables *out, const KernelsAttention *z, const Act *kr, const Act *qr,
                   const Attention *shape, int head) {
    for (int at = 0; at < z->window; at += W) {
        table_panel(out->kr_panels, out->kr, z, kr, shape, head, -1, at);
        table_panel(out->qr_panels, out->qr, z, qr, shape, head, 1, at);
    }
}

/* Distances that share a bucket share a row. */
static void fold(float *dkr, float *dqr, const KernelsTableGrads *dt, const KernelsAttention *z,
                 const Attention *shape, int head) {
    const size_t stride = (size_t)shape->A * (size_t)shape->D, column = (size_t)head * (size_t)shape->D;
    for (int r = 1 - z->longest; r < z->longest; r++) {
        const int32_t *zero = shape->index + z->longest - 1;
        float *to[2] = {dkr + (size_t)zero[-r] * stride + column, dqr + (size_t)zero[r] * stride + column};
        const float *from[2] = {dt->kr + (ptrdiff_t)(z->origin + r) * z->Dp,
                                dt->qr + (ptrdiff_t)(z->origin + r) * z->Dp};
        for (int t = 0; t < 2; t++)
            for (int d = 0; d < z->D; d += W) {
                const int n = z->D - d < W ? z->D - d : W;
                store_some(to[t] + d, load_some(to[t] + d, n, 0) + load(from[t] + d), n);
            }
    }
}

/* ---- forward ---- */

typedef struct {
    const KernelsAttention *z;
    const KernelsTables *tables;
    const Attention *shape;
    KernelsTile at;
    size_t first, stride; /* of this sequence and head in an array of activations or gradients; row stride */
    size_t next_first;
    int next_L;   /* 0: no next tile */
    Ahead *ahead; /* NULL: not now */
    Scratch s;
} Tile;

static int depth(const KernelsAttention *z) { /* units of a head */
    return (z->D + UNIT - 1) / UNIT;
}

static Tile tile_of(const KernelsAttention *z, const KernelsTables *by_distance, const Attention *shape,
                    const KernelsTile *at, float *scratch) {
    const size_t stride = (size_t)shape->A * (size_t)shape->D;
    const int32_t *start = shape->packed->start;
    Tile t = {.z = z, .tables = by_distance, .shape = shape, .at = *at, .stride = stride};
    t.first = (size_t)start[at->seq] * stride + (size_t)at->head * (size_t)shape->D;
    if (at->next_seq >= 0) {
        t.next_first = (size_t)start[at->next_seq] * stride + (size_t)at->next_head * (size_t)shape->D;
        t.next_L = start[at->next_seq + 1] - start[at->next_seq];
    }
    scratch_layout(&t.s, z, start[at->seq + 1] - start[at->seq], scratch);
    return t;
}

static void load_tile(Tile *t, const Act *q, const Act *k, const Act *v) {
    Scratch *s = &t->s;
    copy_rows(s->q, (const ActNumber *)q + t->first, s->L, t->z, t->stride);
    copy_rows(s->k, (const ActNumber *)k + t->first, s->L, t->z, t->stride);
    copy_rows(s->v, (const ActNumber *)v + t->first, s->L, t->z, t->stride);
    panels_of(s->k_panels, s->k, s->L, t->z);
}

/* s->p += strip by strip what keys add by their distance from queries `from` .. from + rows - 1. */
static void add_key_terms(const Tile *t, int from, int rows) {
    const Scratch *s = &t->s;
    const int stride = strip_stride(s);
    for (int key = 0; key < s->L; key += STRIP) {
        const int keys = s->L - key < STRIP ? s->L - key : STRIP;
        const int place = t->z->origin + from - (key + STRIP - 1); /* of the first query and the last key */
        product(&(Product){.c = s->strip,
                           .c_row = stride,
                           .a = s->k + (ptrdiff_t)key * t->z->Dq,
                           .a_row = t->z->Dq,
                           .a_col = UNIT,
                           .b = (const Number *)t->tables->qr_panels + (ptrdiff_t)place * t->z->Dq,
                           .b_row = W * UNIT,
                           .b_vector = W * t->z->Dq,
                           .M = keys,
                           .N = (rows + STRIP - 1 + W - 1) / W,
                           .K = depth(t->z),
                           .ahead = t->ahead});
        for (int i = 0; i < rows; i += W)
            for (int j = 0; j < STRIP; j += W) {
                V m[W];
                for (int u = 0; u < W; u++)
                    m[u] = load(s->strip + (j + u) * stride + (STRIP - 1 - j - u) + i);
                transpose(m);
                float *to = s->p + (ptrdiff_t)i * s->ld + key + j;
                const int n = rows - i < W ? rows - i : W;
                for (int u = 0; u < n; u++, to += s->ld) store(to, load(to) + m[u]);
            }
    }
}

/* s->p = scores of queries `from` .. from + rows - 1 before scaling; columns from L on are left undefined. */
static void scores(const Tile *t, int from, int rows) {
    const Scratch *s = &t->s;
    const KernelsAttention *z = t->z;
    Product p = {.c_row = s->ld + 1,
                 .a_row = z->Dq,
                 .a_col = UNIT,
                 .b_row = W * UNIT,
                 .b_vector = W * z->Dq,
                 .N = (s->L + STRIP - 1 + W - 1) / W,
                 .K = depth(z),
                 .ahead = t->ahead};
    for (int strip = 0; strip < rows; strip += STRIP) {
        const int r = -(from + strip + STRIP - 1); /* the first key seen from the last query */
        p.c = s->p + (ptrdiff_t)strip * s->ld - (STRIP - 1);
        p.a = s->q + (ptrdiff_t)(from + strip) * z->Dq;
        p.b = (const Number *)t->tables->kr_panels + (ptrdiff_t)(z->origin + r) * z->Dq;
        p.M = rows - strip < STRIP ? rows - strip : STRIP;
        product(&p);
    }
    p.c = s->p;
    p.c_row = s->ld;
    p.a = s->q + (ptrdiff_t)from * z->Dq;
    p.b = s->k_panels;
    p.M = rows;
    p.N = (s->L + W - 1) / W;
    p.add = 1;
    product(&p);
    add_key_terms(t, from, rows);
}

/* The first n numbers of v, `fill` behind them */
static inline V first_of(V v, int n, float fill) {
    return either((VI)iota(0) < (VI){0} + n, v, splat(fill));
}

static inline float row_most(const float *row, int L) {
    V best = splat(-3.0e38f);
    int j = 0;
    for (; j + W <= L; j += W) best = vmax(best, load(row + j));
    if (j < L) best = vmax(best, first_of(load(row + j), L - j, -3.0e38f));
    return most_of(best);
}

typedef struct {
    V most, scale; /* of the row's scores; what they are multiplied by, for powers of 2 */
    V sum, dot;
    bool drop;
    Mask mask;
} Softmax;

static Softmax softmax_of(const Tile *t, const float *row, int query) {
    const Attention *a = t->shape;
    Softmax x = {.most = splat(row_most(row, t->s.L)),
                 .scale = splat(a->scale * 1.44269504f),
                 .drop = a->drop->p > 0,
                 .mask = {.scale = 1}};
    if (x.drop)
        x.mask = mask_of(a->drop, a->drop->row[a->packed->start[t->at.seq] + query] * (uint64_t)a->A +
                                      (uint64_t)t->at.head);
    return x;
}

/* e^(score - most) of scores j .. j + n - 1, dropped where they are to be; 0 behind them */
static inline __attribute__((always_inline)) void softmax_step(Softmax *x, const float *row, Number *to,
                                                               int j, int n, bool drop) {
    V e = vexp2((load(row + j) - x->most) * x->scale);
    if (n < W) e = first_of(e, n, 0);
    x->sum += e;
    if (drop) e = (V)((VI)e & mask_keep(&x->mask, iota((uint32_t)j)));
    narrow(to + j, e);
}

/* Row i of the tile, query `query`, becomes an operand; returns what it has to be multiplied by. */
static float softmax_row(const Tile *t, int i, int query) {
    const int L = t->s.L;
    float *row = t->s.p + (ptrdiff_t)i * t->s.ld;
    Number *to = (Number *)row;
    Softmax x = softmax_of(t, row, query);
    int j = 0;
    if (x.drop) {
        for (; j + W <= L; j += W) softmax_step(&x, row, to, j, W, true);
    } else {
        for (; j + W <= L; j += W) softmax_step(&x, row, to, j, W, false);
    }
    if (j < L) softmax_step(&x, row, to, j, L - j, x.drop);
    return x.mask.scale / sum_of(x.sum);
}

static void look_ahead(const Tile *t, Ahead *a, const Act *array, size_t number) {
    a->at[a->arrays] = (const char *)array + t->next_first * number;
    a->step[a->arrays] = t->stride * number;
    a->bytes[a->arrays++] = (size_t)t->z->D * number;
    a->rows = t->next_L < AHEAD_ROWS ? t->next_L : AHEAD_ROWS;
}

/* Rows of queries of the tile that begins at `from`; the next one is fetched during the last. */
static int rows_at(Tile *t, Ahead *ahead, int from) {
    const int left = t->s.L - from;
    if (left > t->s.block) return t->s.block;
    t->ahead = ahead;
    return left;
}

static void forward(Act *out, const Act *q, const Act *k, const Act *v, const KernelsTables *by_distance,
                    const KernelsAttention *z, const Attention *shape, const KernelsTile *at,
                    float *scratch) {
    Tile t = tile_of(z, by_distance, shape, at, scratch);
    const Scratch *s = &t.s;
    load_tile(&t, q, k, v);
    Ahead ahead = {.arrays = 0};
    look_ahead(&t, &ahead, q, sizeof(ActNumber));
    look_ahead(&t, &ahead, k, sizeof(ActNumber));
    look_ahead(&t, &ahead, v, sizeof(ActNumber));
    look_ahead(&t, &ahead, out, sizeof(ActNumber));
    const Number *v_sum = rows_of(s->v_sum, s->v, s->L, z);
    ActNumber *to = (ActNumber *)out + t.first;
    for (int from = 0; from < s->L; from += s->block) {
        const int rows = rows_at(&t, &ahead, from);
        scores(&t, from, rows);
        for (int i = 0; i < rows; i++) s->inverse[i] = softmax_row(&t, i, from + i);
        product(&(Product){.c = s->out,
                           .c_row = z->Dp,
                           .a = (const Number *)s->p,
                           .a_row = (ptrdiff_t)s->ld * UNIT,
                           .a_col = UNIT,
                           .b = v_sum,
                           .b_row = (ptrdiff_t)z->Dp * UNIT,
                           .b_vector = W * UNIT,
                           .M = rows,
                           .N = z->Dp / W,
                           .K = (s->L + UNIT - 1) / UNIT,
                           .ahead = t.ahead});
        for (int i = 0; i < rows; i++, to += t.stride)
            for (int d = 0; d < z->D; d += W)
                act_store_some(to + d, load(s->out + (ptrdiff_t)i * z->Dp + d) * s->inverse[i],
                               z->D - d < W ? z->D - d : W);
    }
}

/* ---- backward ---- */

/* Probabilities (not divided by their sum yet) and the gradients of what is left of them; what is dropped is marked by
 * its sign, so that the mask need not be made again. */
static inline __attribute__((always_inline)) void softmax_grad_step(Softmax *x, float *p, float *dp, int j,
                                                                    int n, bool drop) {
    V e = vexp2((load(p + j) - x->most) * x->scale), g = load(dp + j);
    if (n < W) e = first_of(e, n, 0);
    x->sum += e;
    if (drop) {
        const VI keep = mask_keep(&x->mask, iota((uint32_t)j));
        g = (V)((VI)g & keep);
        x->dot += e * g;
        e = (V)((VI)e | ((VI)splat(-0.0f) & ~keep));
        store(dp + j, g * x->mask.scale);
    } else {
        x->dot += e * g;
    }
    store(p + j, e);
}

/* Row i of s->p from scores to dropped probabilities, and of s->dp from the gradients of those to the gradients of the
 * scores, times the scale. The margin right of it becomes zero. */
static void softmax_grad_row(const Tile *t, int i, int query) {
    const int L = t->s.L, ld = t->s.ld;
    float *p = t->s.p + (ptrdiff_t)i * ld, *dp = t->s.dp + (ptrdiff_t)i * ld;
    Softmax x = softmax_of(t, p, query);
    int j = 0;
    if (x.drop) {
        for (; j + W <= L; j += W) softmax_grad_step(&x, p, dp, j, W, true);
    } else {
        for (; j + W <= L; j += W) softmax_grad_step(&x, p, dp, j, W, false);
    }
    if (j < L) softmax_grad_step(&x, p, dp, j, L - j, x.drop);
    const float inverse = 1 / sum_of(x.sum), kept = inverse * x.mask.scale,
                factor = inverse * t->shape->scale, mean = sum_of(x.dot) * kept;
    const VI magnitude = ~(VI)splat(-0.0f);
    for (j = 0; j < L; j += W) {
        const V e = load(p + j);
        store(p + j, vmax(e, splat(0)) * kept);
        store(dp + j, (V)((VI)e & magnitude) * factor * (load(dp + j) - mean));
    }
    for (; j < ld; j += W) store(dp + j, splat(0));
}

#ifdef KERNELS_PAIRS
/* Distances from 0 on, either way, that have a row of the tables of their own; `longest` if all have. */
static int own_rows(const Attention *shape) {
    const int32_t *zero = shape->index + shape->longest - 1;
    int r = 1;
    while (r < shape->longest && zero[r] != zero[r - 1] && zero[-r] != zero[1 - r]) r++;
    return r < shape->longest ? r - 1 : r;
}

static inline V rest(V v) {
    const VU rounded = __builtin_convertvector((VH)_mm512_cvtneps_pbh((__m512)v), VU) << 16;
    return v - (V)rounded;
}

static inline V pairs(V low, V high) {
    static const uint16_t ORDER[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    return (V)_mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER), (__m512i)both);
}

static void diagonals_end(Number *diagonals, ptrdiff_t ld, int rows) {
    memset(diagonals - UNIT * (ROWS * ld + MARGIN), 0, (size_t)(ROWS - 1) * (size_t)ld * sizeof(float));
    memset(diagonals + UNIT * (rows * ld - MARGIN), 0, (size_t)ROWS * (size_t)ld * sizeof(float));
}

/* Products with sums over tokens take pairs of numbers that are neighbours along a row (s->rows), a column (left in
 * s->dp and, for even rows, s->p) or a diagonal (s->diagonals, and s->rests if asked for): (i, j) of them begins at
 * number (i, j). */
static void pair_up(const Scratch *s, int rows, bool rests) {
    const ptrdiff_t ld = s->ld;
    diagonals_end(s->diagonals, ld, rows);
    if (rests) diagonals_end(s->rests, ld, rows);
    for (int i = -1; i < rows; i++)
        for (int j = -MARGIN; j < ld - MARGIN; j += W) {
            float *at = s->dp + i * ld + j;
            const V here = load(at), next = load(at + ld + 1);
            if (i >= 0) narrow(s->rows + i * ld + j, here);
            put(s->diagonals + UNIT * (i * ld + j), pairs(here, next));
            if (rests) put(s->rests + UNIT * (i * ld + j), pairs(rest(here), rest(next)));
            store(at, pairs(here, load(at + ld)));
        }
    for (int i = 0; i < rows; i += 2)
        for (int j = 0; j < s->L; j += W) {
            float *at = s->p + i * ld + j;
            store(at, pairs(load(at), i + 1 < rows ? load(at + ld) : splat(0)));
        }
}
#endif

typedef struct {
    const Number *rows, *columns, *diagonals, *rests,
        *p;                     /* the gradients of the tile's scores; its probabilities' columns */
    int own;                    /* distances that need no rests: see own_rows */
    const Number *q, *k, *dout; /* for sums over tokens */
} Operands;

/* A product whose right operand is summed over tokens or distances: all D columns. */
static Product sum_product(const Tile *t, float *c, const Number *b) {
    const ptrdiff_t Dp = t->z->Dp;
    return (Product){.c = c,
                     .c_row = Dp,
                     .b = b,
                     .b_row = Dp * UNIT,
                     .b_vector = W * UNIT,
                     .N = (int)Dp / W,
                     .ahead = t->ahead};
}

/* s->out = gradients of queries `from` .. from + rows - 1 */
static void query_grad(const Tile *t, const Operands *o, int from, int rows) {
    const KernelsAttention *z = t->z;
    const int L = t->s.L;
    const ptrdiff_t ld = t->s.ld;
    Product p = sum_product(t, t->s.out, o->k);
    p.a = o->rows;
    p.a_row = ld;
    p.a_col = UNIT;
    p.M = rows;
    p.K = (L + UNIT - 1) / UNIT;
    product(&p);
    p.a_row = ld + 1;
    p.add = 1;
    for (int i = 0; i < rows; i += p.M) {
        p.M = part(rows - i, ROWS);
        const int place = (z->origin - (from + i + p.M - 1)) & -UNIT, end = z->origin + L - (from + i);
        p.c = t->s.out + (ptrdiff_t)i * z->Dp;
        p.a = o->rows + i * ld + (from + i) + (place - z->origin);
        p.b = (const Number *)t->tables->kr + (ptrdiff_t)place * z->Dp;
        p.K = (end - place + UNIT - 1) / UNIT;
        product(&p);
    }
}

/* s->dk and s->dv (+)= what queries `from` .. from + rows - 1 give to them */
static void key_grad(const Tile *t, const Operands *o, int from, int rows) {
    const KernelsAttention *z = t->z;
    const int L = t->s.L;
    const ptrdiff_t ld = t->s.ld;
    Product p = sum_product(t, t->s.dv, o->dout + (ptrdiff_t)from * z->Dp);
    p.a = o->p;
    p.a_row = UNIT;
    p.a_col = ld * UNIT * UNIT;
    p.M = L;
    p.K = (rows + UNIT - 1) / UNIT;
    p.add = from > 0;
    product(&p);
    p.c = t->s.dk;
    p.a = o->columns;
    p.b = o->q + (ptrdiff_t)from * z->Dp;
    product(&p);
    p.a_row = (ld + 1) * UNIT;
    p.add = 1;
    for (int j = 0; j < L; j += p.M) {
        p.M = part(L - j, ROWS);
        const int place = (z->origin + from - (j + p.M - 1)) & -UNIT, end = z->origin + from + rows - j;
        p.c = t->s.dk + (ptrdiff_t)j * z->Dp;
        p.a = o->columns + ((j + place - z->origin - from) * ld + j) * UNIT;
        p.b = (const Number *)t->tables->qr + (ptrdiff_t)place * z->Dp;
        p.K = (end - place + UNIT - 1) / UNIT;
        product(&p);
    }
}

static int most(int a, int b) {
    return a > b ? a : b;
}
static int least(int a, int b) {
    return a < b ? a : b;
}

/* Gradients of the tables: sums along diagonals of the tile. A query's gradients of scores add up to 0. Where many of
 * them meet in one row of kr, the roundings would be what is left, so that those are added as well. */
static void table_grad(const Tile *t, const Operands *o, const KernelsTableGrads *dt, int from, int rows) {
    const KernelsAttention *z = t->z;
    const int L = t->s.L, to = from + rows;
    const ptrdiff_t ld = t->s.ld;
    Product p = sum_product(t, NULL, NULL);
    p.a_row = UNIT;
    p.a_col = (ld + 1) * UNIT * UNIT;
    p.add = 1;
    for (int r = 1 - to; r < L - from; r += p.M) { /* key - query */
        p.M = part(L - from - r, ROWS);
        const int i = most(from, 1 - r - p.M) & -UNIT;
        const ptrdiff_t first = ((i - from) * ld + i + r) * UNIT;
        p.c = dt->kr + (ptrdiff_t)(z->origin + r) * z->Dp;
        p.a = o->diagonals + first;
        p.b = o->q + (ptrdiff_t)i * z->Dp;
        p.K = (least(to, L - r) - i + UNIT - 1) / UNIT;
        product(&p);
        if (r > -o->own && r + p.M <= o->own) continue;
        p.a = o->rests + first;
        product(&p);
    }
    p.a_row = ld * UNIT;
    for (int r = from + 1 - L; r < to; r += p.M) { /* query - key */
        p.M = part(to - r, ROWS);
        const int j = most(0, from + 1 - r - p.M) & -UNIT;
        p.c = dt->qr + (ptrdiff_t)(z->origin + r) * z->Dp;
        p.a = o->diagonals + ((j + r - from) * ld + j) * UNIT;
        p.b = o->k + (ptrdiff_t)j * z->Dp;
        p.K = (least(L, to - r) - j + UNIT - 1) / UNIT;
        product(&p);
    }
}

static void copy_out(float *to, const float *from, int L, const Tile *t) {
    for (int i = 0; i < L; i++, to += t->stride, from += t->z->Dp)
        for (int d = 0; d < t->z->D; d += W)
            store_some(to + d, load(from + d), t->z->D - d < W ? t->z->D - d : W);
}

static void load_dout(const Tile *t, const float *dout) {
    const int D = t->z->D, Dq = t->z->Dq;
    const float *from = dout + t->first;
    Number *to = t->s.dout;
    for (int i = 0; i < t->s.L; i++, from += t->stride, to += Dq)
        for (int d = 0; d < Dq; d += W) {
            const int n = D - d < 0 ? 0 : D - d < W ? D - d : W;
            narrow(to + d, load_some(from + d, n, 0));
        }
}

static void grad(float *dq, float *dk, float *dv, const KernelsTableGrads *dtables, const float *dout,
                 const Act *q, const Act *k, const Act *v, const KernelsTables *by_distance,
                 const KernelsAttention *z, const Attention *shape, const KernelsTile *at, float *scratch) {
    Tile t = tile_of(z, by_distance, shape, at, scratch);
    const Scratch *s = &t.s;
    load_tile(&t, q, k, v);
    load_dout(&t, dout);
    Ahead ahead = {.arrays = 0};
    look_ahead(&t, &ahead, q, sizeof(ActNumber));
    look_ahead(&t, &ahead, k, sizeof(ActNumber));
    look_ahead(&t, &ahead, v, sizeof(ActNumber));
    look_ahead(&t, &ahead, dout, sizeof(float));
    look_ahead(&t, &ahead, dq, sizeof(float));
    look_ahead(&t, &ahead, dk, sizeof(float));
    look_ahead(&t, &ahead, dv, sizeof(float));
    panels_of(s->v_panels, s->v, s->L, z);
    Operands o = {.rows = s->rows,
                  .columns = (const Number *)s->dp,
                  .diagonals = s->diagonals,
                  .rests = s->rests,
                  .own = s->L, /* nothing is rounded */
                  .p = (const Number *)s->p,
                  .q = rows_of(s->q_sum, s->q, s->L, z),
                  .k = rows_of(s->k_sum, s->k, s->L, z),
                  .dout = rows_of(s->dout_sum, s->dout, s->L, z)};
#ifdef KERNELS_PAIRS
    o.own = own_rows(shape);
#else
    o.rows = o.diagonals = o.columns;
#endif
    const size_t zeros = (size_t)ROWS * (size_t)s->ld;
    for (int from = 0; from < s->L; from += s->block) {
        const int rows = rows_at(&t, &ahead, from);
        scores(&t, from, rows);
        product(&(Product){.c = s->dp,
                           .c_row = s->ld,
                           .a = s->dout + (ptrdiff_t)from * z->Dq,
                           .a_row = z->Dq,
                           .a_col = UNIT,
                           .b = s->v_panels,
                           .b_row = W * UNIT,
                           .b_vector = W * z->Dq,
                           .M = rows,
                           .N = (s->L + W - 1) / W,
                           .K = depth(z),
                           .ahead = t.ahead});
        memset(s->dp - zeros - MARGIN, 0, (zeros + MARGIN) * sizeof(float));
        for (int i = 0; i < rows; i++) softmax_grad_row(&t, i, from + i);
        memset(s->dp + (ptrdiff_t)rows * s->ld, 0, zeros * sizeof(float));
#ifdef KERNELS_PAIRS
        pair_up(s, rows, o.own < s->L);
#endif
        query_grad(&t, &o, from, rows);
        copy_out(dq + (size_t)from * t.stride + t.first, s->out, rows, &t);
        key_grad(&t, &o, from, rows);
        table_grad(&t, &o, dtables, from, rows);
    }
    copy_out(dk + t.first, s->dk, s->L, &t);
    copy_out(dv + t.first, s->dv, s->L, &t);
}

extern const AttentionKernels SIMD_NAME(kernels_attention_, KERNELS_SUFFIX);

const AttentionKernels SIMD_NAME(kernels_attention_, KERNELS_SUFFIX) = {
    .sizes = sizes,
    .scratch = attention_scratch,
    .tables = tables,
    .forward = forward,
    .grad = grad,
    .fold = fold,
};
