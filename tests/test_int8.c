/* tests/test_int8.c - every set of kernels that this processor can run, and two that stand in for
 * processors it is not, against the portable set, bit for bit; and that against the definitions in int8.h,
 * lanes.h and approx.h. */
#include "core/cpu.h"
#include "core/threads.h"
#include "export/approx.h"
#include "export/forward.h"
#include "export/int8.h"
#include "tests/tiny_blob.h"
#include "tests/unit.h"

/* int8_amx.c with C code in the place of the tile instructions, and int8_vnni.c for AVX-VNNI in AVX-512's
 * encoding. */
extern const Int8Kernels int8_amx_emulated;
#if defined(__x86_64__)
extern const Int8Kernels int8_avxvnni_evex;
#endif

static double spread(uint64_t key, uint64_t i) {
    return 2 * rng_uniform(seed ^ key, i) - 1;
}

static int below(uint64_t key, uint64_t i, int n) {
    return (int)(rng_bits(seed ^ key, i) % (uint64_t)n);
}

/* -most .. most, never 0: a zero would hide what is multiplied with it. */
static int8_t byte(uint64_t key, uint64_t i, int most) {
    const int v = 1 + below(key, i, most);
    return (int8_t)(rng_bits(seed ^ key ^ 99, i) & 1 ? v : -v);
}

typedef struct {
    const char *name;
    const Int8Kernels *kernels;
} Set;

static Set sets[8];
static size_t set_count;

static void find_sets(void) {
    const unsigned features = cpu_features();
    sets[set_count++] = (Set){"portable", &int8_portable};
    sets[set_count++] = (Set){"amx, emulated", &int8_amx_emulated};
#if defined(__x86_64__)
    if (features & CPU_AVX2) sets[set_count++] = (Set){"avx2", &int8_avx2};
    if (features & CPU_AVX_VNNI) sets[set_count++] = (Set){"avxvnni", &int8_avxvnni};
    if (features & CPU_AVX512_VNNI) sets[set_count++] = (Set){"avx512vnni", &int8_avx512vnni};
    if (features & CPU_AVX512_VNNI) sets[set_count++] = (Set){"avxvnni in EVEX", &int8_avxvnni_evex};
    if (features & CPU_AMX_INT8) sets[set_count++] = (Set){"amx", &int8_amx};
#elif defined(__aarch64__)
    if (features & CPU_NEON_DOT) sets[set_count++] = (Set){"neon", &int8_neon};
#endif
    for (size_t s = 0; s < set_count; s++) (void)printf("%s%s", s ? ", " : "sets: ", sets[s].name);
    (void)printf(" (features %#x)\n", features);
}

/* ---- integer products ---- */

enum { GUARD = 64 };
static const float POISON = -12345.0f;

typedef struct {
    int rows, in, out;
    int8_t *w, *packed;
    float *scale, *bias, *expected, *y;
    Int8Rows x;
    void *scratch;
} Case;

static void case_free(Case *c) {
    mem_free(c->w), mem_free(c->packed), mem_free(c->scale), mem_free(c->bias), mem_free(c->expected);
    mem_free(c->y), mem_free(c->x.q), mem_free(c->x.scale), mem_free(c->x.start), mem_free(c->scratch);
}

/* worst: weights of -128 and activations of 127, which a file may hold and sums must bear. */
static void case_make(Case *c, uint64_t key, int rows, int in, int out, bool worst) {
    const size_t N = (size_t)rows, I = (size_t)in, O = (size_t)out, stride = I + (size_t)below(key, 1, 9);
    *c = (Case){.rows = rows, .in = in, .out = out};
    c->w = mem_alloc(O * I + GUARD, 1);
    c->packed = mem_alloc(O * I + GUARD, 1);
    c->scale = mem_alloc(O, sizeof *c->scale);
    c->bias = mem_alloc(O, sizeof *c->bias);
    c->expected = mem_alloc(N * O + 1, sizeof *c->expected);
    c->y = mem_alloc(N * O + 2 * GUARD, sizeof *c->y);
    c->x = (Int8Rows){mem_alloc(N * stride + 1, 1), mem_alloc(N + 1, sizeof(float)),
                      mem_alloc(N + 1, sizeof(int32_t)), stride};
    c->scratch = mem_alloc(int8_scratch(in) + INT8_PANEL * I, 1);
    for (size_t i = 0; i < O * I; i++) c->w[i] = worst ? -128 : byte(key + 10, i, 127);
    for (size_t i = 0; i < GUARD; i++) c->w[O * I + i] = 77;
    if (!worst && O * I > 5) c->w[rng_bits(key, 5) % (O * I)] = -128;
    memcpy(c->packed, c->w, O * I + GUARD);
    int8_pack(c->packed, out, in, c->scratch);
    for (size_t o = 0; o < O; o++) {
        c->scale[o] = (float)(0.01 + 0.009 * spread(key + 11, o));
        c->bias[o] = (float)spread(key + 12, o);
    }
    for (size_t n = 0; n < N; n++) {
        c->x.scale[n] = (float)(0.02 + 0.01 * spread(key + 13, n));
        for (size_t i = 0; i < I; i++) {
            const int8_t q = worst ? (n % 2 ? -127 : 127) : byte(key + 14, n * I + i, 127);
            c->x.q[n * stride + i] = q;
            c->x.start[n] -= 128 * q;
        }
        for (size_t o = 0; o < O; o++) {
            int64_t sum = 0;
            for (size_t i = 0; i < I; i++) sum += (int64_t)c->x.q[n * stride + i] * c->w[o * I + i];
            assert_true(sum < INT32_MAX && sum > INT32_MIN);
            const float step = c->x.scale[n] * c->scale[o], product = (float)sum * step;
            c->expected[n * O + o] = product + c->bias[o];
        }
    }
}

/* In two pieces where there is a border between panels; nothing but the outputs asked for is written. */
static void case_check(const Case *c, const Set *set, uint64_t key) {
    const size_t O = (size_t)c->out, total = (size_t)c->rows * O;
    const Int8Linear layer = {set->kernels->packs ? c->packed : c->w, c->scale, c->bias, c->out, c->in};
    const Int8Next next = {c->w, O * (size_t)c->in};
    const int border = INT8_PANEL * below(key, 3, c->out / INT8_PANEL + 1);
    for (size_t i = 0; i < total + 2 * GUARD; i++) c->y[i] = POISON;
    float *y = c->y + GUARD;
    set->kernels->linear(y, &c->x, c->rows, &layer, 0, border, next, c->scratch);
    for (size_t i = 0; i < total; i++)
        if ((int)(i % O) >= border) assert_true(y[i] == POISON);
    set->kernels->linear(y, &c->x, c->rows, &layer, border, c->out, (Int8Next){0}, c->scratch);
    for (size_t i = 0; i < total; i++)
        if (y[i] != c->expected[i])
            fail_msg("%s: %d x %d x %d (seed %llu): output %zu of token %zu is %a, expected %a", set->name,
                     c->rows, c->out, c->in, (unsigned long long)seed, i % O, i / O, (double)y[i],
                     (double)c->expected[i]);
    for (size_t i = 0; i < GUARD; i++) {
        assert_true(c->y[i] == POISON && c->y[GUARD + total + i] == POISON);
        assert_true(c->w[O * (size_t)c->in + i] == 77 && c->packed[O * (size_t)c->in + i] == 77);
    }
}

static void test_linear(void **state) {
    (void)state;
    static const int SHAPES[][3] = {{0, 64, 64},   {1, 1, 1},      {1, 3, 16},   {2, 4, 15},    {3, 64, 16},
                                    {6, 63, 17},   {7, 65, 31},    {16, 64, 64}, {17, 128, 80}, {31, 127, 79},
                                    {32, 192, 64}, {33, 129, 144}, {1, 256, 64}, {5, 4, 65},    {13, 5, 128}};
    for (uint64_t round = 0; round < 120; round++) {
        const size_t fixed = sizeof SHAPES / sizeof *SHAPES;
        Case c;
        if (round < fixed)
            case_make(&c, round, SHAPES[round][0], SHAPES[round][1], SHAPES[round][2], round % 2);
        else
            case_make(&c, round, below(round, 0, 70), 1 + below(round, 1, 300), 1 + below(round, 2, 150),
                      false);
        for (size_t s = 0; s < set_count; s++) case_check(&c, &sets[s], round);
        case_free(&c);
    }
    Case c; /* the largest sums that there can be */
    case_make(&c, 1000, 3, INT8_INPUTS_MAX, 17, true);
    for (size_t s = 0; s < set_count; s++) case_check(&c, &sets[s], 0);
    case_free(&c);
}

static void test_pack(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 40; round++) {
        const int out = 1 + below(round, 0, 50), in = 1 + below(round, 1, 50), fours = in / 4 * 4;
        const size_t I = (size_t)in;
        Case c;
        case_make(&c, round, 0, in, out, false);
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++) {
                const int panel = o / INT8_PANEL, k = o % INT8_PANEL;
                const int at = i < fours ? INT8_PANEL * (i / 4 * 4) + 4 * k + i % 4 : INT8_PANEL * i + k;
                const int8_t w = c.w[(size_t)o * I + (size_t)i];
                if (o < out / INT8_PANEL * INT8_PANEL)
                    assert_int_equal((uint8_t)c.packed[(size_t)panel * INT8_PANEL * I + (size_t)at], w + 128);
                else
                    assert_int_equal(c.packed[(size_t)o * I + (size_t)i], w);
            }
        case_free(&c);
    }
}

/* ---- choosing ---- */

/* A unit that gets one sum of thousands wrong. */
static void wrong_linear(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                         Int8Next next, void *scratch) {
    int8_amx_emulated.linear(y, x, rows, layer, from, to, next, scratch);
    y[(size_t)rows * (size_t)layer->out - 1] += 1.0f;
}

static void test_pick(void **state) {
    (void)state;
    Int8Kernels wrong = int8_amx_emulated;
    wrong.linear = wrong_linear;
    assert_true(int8_agrees(&int8_amx_emulated));
    assert_false(int8_agrees(&wrong));
    assert_string_equal(int8_pick(0)->name, "portable");
#if defined(__x86_64__)
    static const struct {
        const char *name;
        unsigned bits;
    } LEVELS[] = {{"avx2", CPU_AVX2},
                  {"avxvnni", CPU_AVX2 | CPU_AVX_VNNI},
                  {"avx512vnni", CPU_AVX512 | CPU_AVX512_VNNI},
                  {"amx", CPU_AVX512_VNNI | CPU_AMX_INT8}};
    const unsigned has = cpu_features();
    for (unsigned mask = 0; mask < 128; mask++) { /* as if the processor had no more */
        const char *expected = "portable";
        for (size_t i = 0; i < 4; i++)
            if ((has & mask & LEVELS[i].bits) == LEVELS[i].bits) expected = LEVELS[i].name;
        assert_string_equal(int8_pick(has & mask)->name, expected);
    }
    /* A set is not chosen for another one's bit (the functions themselves do not run here). */
    assert_string_equal(int8_pick(CPU_AVX2)->name, "avx2");
    assert_string_equal(int8_pick(CPU_AVX2 | CPU_AVX_VNNI)->name, "avxvnni");
    assert_string_equal(int8_pick(CPU_AVX2 | CPU_AVX512)->name, "avx2");
    assert_string_equal(int8_pick(CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI)->name, "avx512vnni");
    assert_string_equal(int8_pick(CPU_AVX_VNNI)->name, "portable");
#elif defined(__aarch64__)
    assert_string_equal(int8_pick(CPU_NEON_DOT)->name, "neon");
#endif
}

/* ---- float parts ---- */

static const Lanes *lanes[3];
static size_t lanes_count;

static void find_lanes(void) {
    lanes[lanes_count++] = &lanes_baseline;
#if defined(__x86_64__)
    if (cpu_features() & CPU_AVX2) lanes[lanes_count++] = &lanes_avx2;
    if (cpu_features() & CPU_AVX512_VNNI) lanes[lanes_count++] = &lanes_avx512;
#endif
}

static float add_up(const float lane[LANES_SUM]) {
    float eight[8], four[4];
    for (int c = 0; c < 8; c++) eight[c] = lane[c] + lane[c + 8];
    for (int c = 0; c < 4; c++) four[c] = eight[c] + eight[c + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

static float dot_by_definition(const float *a, const float *b, int n) {
    float lane[LANES_SUM] = {0};
    for (int i = 0; i < n; i++) {
        const float product = b ? a[i] * b[i] : a[i];
        lane[i % LANES_SUM] += product;
    }
    return add_up(lane);
}

static float exponentials_by_definition(float *x, int n) {
    float max = x[0];
    for (int j = 1; j < n; j++) max = x[j] > max ? x[j] : max;
    for (int j = 0; j < n; j++) x[j] = approx_exp(x[j] - max);
    return dot_by_definition(x, NULL, n);
}

enum { LONGEST = 1100 };

static void rows_of_lanes(const Lanes *k, uint64_t key, int n) {
    static float x[LONGEST], r[LONGEST], w[LONGEST], b[LONGEST], y[LONGEST + 1], z[LONGEST];
    const size_t bytes = (size_t)n * sizeof *x;
    for (size_t i = 0; i < (size_t)n; i++) {
        x[i] = (float)(5 * spread(key, i)), r[i] = (float)spread(key + 1, i);
        w[i] = (float)spread(key + 2, i), b[i] = (float)spread(key + 3, i);
    }
    assert_true(k->dot(x, w, n) == dot_by_definition(x, w, n));

    for (int in_place = 0; in_place < 3; in_place++) { /* y is x; y is r; r is NULL */
        const bool no_r = in_place == 2;
        for (int i = 0; i < n; i++) z[i] = no_r ? x[i] : x[i] + r[i];
        const float mean = dot_by_definition(z, NULL, n) / (float)n;
        for (int i = 0; i < n; i++) z[i] -= mean;
        const float rstd = 1.0f / sqrtf(dot_by_definition(z, z, n) / (float)n + 1e-7f);
        for (int i = 0; i < n; i++) {
            const float product = z[i] * rstd * w[i];
            z[i] = product + b[i];
        }
        memcpy(y, in_place == 1 ? r : x, bytes);
        y[n] = POISON;
        k->norm(y, in_place == 1 ? x : y, no_r ? NULL : in_place == 1 ? y : r, w, b, 1e-7f, n);
        assert_memory_equal(y, z, bytes);
        assert_true(y[n] == POISON);
    }

    for (int i = 0; i < n; i++) y[i] = 4 * x[i], z[i] = approx_gelu(y[i]);
    k->gelu(y, (size_t)n);
    assert_memory_equal(y, z, bytes);
    assert_true(y[n] == POISON);
    for (int i = 0; i < n; i++) y[i] = z[i] = 20 * x[i];
    assert_true(k->exponentials(y, n) == exponentials_by_definition(z, n));
    assert_memory_equal(y, z, bytes);
    assert_true(y[n] == POISON);

    static int8_t q[LONGEST + 1];
    float scale, max = 0;
    int32_t start, sum = 0;
    q[n] = 55;
    k->quantize(q, &scale, &start, x, n);
    for (int i = 0; i < n; i++) max = fmaxf(max, fabsf(x[i]));
    for (int i = 0; i < n; i++) {
        assert_int_equal(q[i], (int)rintf(x[i] * (127.0f / max)));
        sum += q[i];
    }
    assert_true(scale == max / 127.0f && start == -128 * sum && q[n] == 55);
    k->embed(y, q, 0.3f, n);
    for (int i = 0; i < n; i++) assert_true(y[i] == (float)q[i] * 0.3f);
    x[below(key, 7, n)] = below(key, 8, 2) ? NAN : INFINITY; /* is not to be lost, nor undefined behaviour */
    k->quantize(q, &scale, &start, x, n);
    assert_true(!isfinite(scale));
    memset(x, 0, bytes);
    k->quantize(q, &scale, &start, x, n);
    assert_true(scale == 0 && start == 0 && q[0] == 0 && q[n - 1] == 0);
}

static void test_lanes(void **state) {
    (void)state;
    for (size_t k = 0; k < lanes_count; k++) {
        for (int n = 1; n < 70; n++) rows_of_lanes(lanes[k], (uint64_t)n, n);
        for (uint64_t round = 0; round < 20; round++)
            rows_of_lanes(lanes[k], 100 + round, 1 + below(round, 0, LONGEST - 1));
        enum { ODD = 17 };
        float odd[ODD] = {-0.0f, 0.0f, NAN, INFINITY, -INFINITY, -40, 40, 1e-40f, -18.5f,
                          17.9f, 1,    2,   3,        4,         5,   6,  7};
        float y[ODD];
        memcpy(y, odd, sizeof y);
        lanes[k]->gelu(y, ODD);
        for (int i = 0; i < ODD; i++) {
            const float expected = approx_gelu(odd[i]);
            assert_true(isnan(expected) ? isnan(y[i]) : memcmp(&y[i], &expected, sizeof expected) == 0);
        }
    }
}

/* ---- attention ---- */

typedef struct {
    LanesHead h;
    float *block, *expected;
    uint16_t *tables;
    int32_t *column;
    size_t size; /* of out, guards included */
} Heads;

static void heads_make(Heads *a, uint64_t key, int L, int D, int queries, int columns) {
    const size_t l = (size_t)L, stride = (size_t)D + (size_t)below(key, 0, 20), C = (size_t)columns;
    const size_t rows = l * stride;
    *a = (Heads){.size = rows + 2 * GUARD};
    a->block = mem_alloc(3 * rows + a->size, sizeof(float));
    a->expected = mem_alloc(a->size, sizeof(float));
    a->tables = mem_alloc(2 * (size_t)D * C + LANES_OVERREAD, sizeof(uint16_t));
    a->column = mem_alloc(2 * l, sizeof(int32_t));
    for (size_t i = 0; i < 3 * rows; i++) a->block[i] = (float)spread(key, i);
    for (size_t i = 0; i < 2 * (size_t)D * C; i++)
        a->tables[i] =
            tensor_f32_to_f16((float)(spread(key + 1, i) * (i % 7 ? 1 : 1e-6))); /* some subnormal */
    const int reach = columns / 2 - 1; /* one column each up to there, then shared ones */
    for (int t = 0; t < 2 * L - 1; t++) {
        const int d = t - (L - 1), far = reach / 2;
        int c = d > far ? far + (d - far) / 3 : d < -far ? -far + (d + far) / 3 : d;
        c += columns / 2;
        a->column[t] = c < 0 ? 0 : c >= columns ? columns - 1 : c;
    }
    for (size_t i = 0; i < a->size; i++) a->block[3 * rows + i] = a->expected[i] = POISON;
    a->h = (LanesHead){a->block,
                       a->block + rows,
                       a->block + 2 * rows,
                       a->block + 3 * rows + GUARD,
                       a->tables,
                       a->tables + (size_t)D * C,
                       a->column,
                       L,
                       queries,
                       D,
                       columns,
                       stride};
}

static void heads_free(Heads *a) {
    mem_free(a->block), mem_free(a->expected), mem_free(a->tables), mem_free(a->column);
}

static void attention_by_definition(Heads *a) {
    const LanesHead *h = &a->h;
    float *score = mem_alloc((size_t)h->L, sizeof *score);
    for (int i = 0; i < h->queries; i++) {
        const float *q = h->q + (size_t)i * h->stride;
        for (int j = 0; j < h->L; j++) {
            const size_t c = (size_t)h->column[j - i + h->L - 1];
            float sum = 0;
            for (size_t d = 0; d < (size_t)h->D; d++) {
                const float k = h->k[(size_t)j * h->stride + d];
                const float key = k + tensor_f16_to_f32(h->position_key[d * (size_t)h->columns + c]);
                const float first = q[d] * key;
                const float second = k * tensor_f16_to_f32(h->position_query[d * (size_t)h->columns + c]);
                const float both = first + second;
                sum += both;
            }
            score[j] = sum * (1.0f / sqrtf(3.0f * (float)h->D));
        }
        const float inverse = 1.0f / exponentials_by_definition(score, h->L);
        for (size_t d = 0; d < (size_t)h->D; d++) {
            float sum = 0;
            for (size_t j = 0; j < (size_t)h->L; j++) {
                const float product = score[j] * h->v[j * h->stride + d];
                sum += product;
            }
            a->expected[GUARD + (size_t)i * h->stride + d] = sum * inverse;
        }
    }
    mem_free(score);
}

static void test_attention(void **state) {
    (void)state;
    static const int SHAPES[][4] = {{1, 64, 1, 512},     {2, 1, 2, 8},        {15, 64, 15, 512},
                                    {16, 64, 16, 512},   {17, 64, 17, 512},   {33, 64, 1, 512},
                                    {128, 64, 128, 512}, {129, 64, 129, 512}, {300, 64, 300, 512},
                                    {65, 96, 65, 64},    {31, 33, 31, 16},    {40, 17, 1, 2}};
    for (uint64_t round = 0; round < 60; round++) {
        Heads a;
        if (round < sizeof SHAPES / sizeof *SHAPES) {
            const int *s = SHAPES[round];
            heads_make(&a, round, s[0], s[1], s[2], s[3]);
        } else {
            const int L = 1 + below(round, 1, 90), D = 1 + below(round, 2, 80);
            heads_make(&a, round, L, D, below(round, 3, 3) ? L : 1, 2 + 2 * below(round, 4, 60));
        }
        attention_by_definition(&a);
        for (size_t k = 0; k < lanes_count; k++) {
            const size_t numbers = lanes[k]->attention_scratch(a.h.L, a.h.D, a.h.columns);
            float *scratch = mem_alloc(numbers, sizeof *scratch), *out = a.h.out - GUARD;
            memset(scratch, 0xff,
                   numbers * sizeof *scratch); /* what is left from another text may be anything */
            for (size_t i = 0; i < a.size; i++) out[i] = POISON;
            lanes[k]->attention(&a.h, scratch);
            if (memcmp(out, a.expected, a.size * sizeof *out) != 0)
                fail_msg("%s: L %d, D %d, %d queries, %d columns (seed %llu): other numbers", lanes[k]->name,
                         a.h.L, a.h.D, a.h.queries, a.h.columns, (unsigned long long)seed);
            mem_free(scratch);
        }
        heads_free(&a);
    }
}

/* ---- the whole model ---- */

enum { TEXTS = 9 };

/* All sets, 1 to 5 threads, alone and in groups: the same bits. */
static void test_forward(void **state) {
    (void)state;
    static const int SHAPES[][4] = {
        {8, 2, 12, 4}, {24, 3, 40, 8}, {64, 4, 144, 16}, {70, 5, 33, 8}, {1, 1, 1, 2}};
    Threads *pools[4] = {NULL};
    static const int COUNTS[] = {1, 2, 3, 5};
    for (int p = 1; p < 4; p++) assert_int_equal(threads_open(&pools[p], COUNTS[p], NULL), ERR_OK);
    for (size_t shape = 0; shape < sizeof SHAPES / sizeof *SHAPES; shape++) {
        BlobConfig config = tiny_config();
        config.hidden_size = SHAPES[shape][0];
        config.num_attention_heads = SHAPES[shape][1];
        config.intermediate_size = SHAPES[shape][2];
        config.position_buckets = SHAPES[shape][3];
        config.max_relative_positions = 30;
        config.max_tokens = 90;
        Buf bytes = {0};
        assert_int_equal(tiny_blob(&bytes, &config, seed + shape, NULL), ERR_OK);
        int32_t ids[TEXTS][90];
        ForwardText texts[TEXTS];
        for (uint64_t t = 0; t < TEXTS; t++) {
            texts[t] = (ForwardText){ids[t], t == 0 ? 90 : 1 + below(shape, t, 60)};
            for (uint64_t i = 0; i < 90; i++) ids[t][i] = below(t, i, config.vocab_size);
        }
        float expected[TEXTS][3], logits[TEXTS][3];
        for (size_t s = 0; s < set_count; s++) {
            Blob blob;
            Forward forward;
            ForwardSpace space = {0};
            Threads *pool = pools[s % 4];
            assert_int_equal(blob_open_memory(&blob, bytes.data, bytes.len, false, NULL, NULL), ERR_OK);
            assert_int_equal(forward_init(&forward, &blob, sets[s].kernels, pool, NULL), ERR_OK);
            for (int t = 0; t < TEXTS; t++)
                assert_int_equal(forward_run(&forward, &space, logits[t], &texts[t], 1, NULL, NULL, NULL),
                                 ERR_OK);
            if (s == 0) memcpy(expected, logits, sizeof expected);
            assert_memory_equal(logits, expected, sizeof expected);
            for (int p = 0; p < 4; p++)
                for (int count = 1; count <= TEXTS; count += 4) {
                    memset(logits, 0, sizeof logits);
                    assert_int_equal(
                        forward_run(&forward, &space, logits[0], texts, count, pools[p], NULL, NULL), ERR_OK);
                    assert_memory_equal(logits, expected, (size_t)count * sizeof *logits);
                }
            forward_space_free(&space);
            forward_free(&forward);
            blob_close(&blob);
        }
        buf_free(&bytes);
    }
    for (int p = 1; p < 4; p++) threads_close(pools[p]);
}

int main(void) {
    seed_open();
    find_sets();
    find_lanes();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_pack),      cmocka_unit_test(test_pick),
        cmocka_unit_test(test_lanes),  cmocka_unit_test(test_attention), cmocka_unit_test(test_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
