/* tests/test_gemm.c - the bfloat16 products of model/gemm.h: packing, register blocks and edges of every kernel against
 * sums in double. The AMX kernel is tested twice: over tiles in plain C everywhere, and on the unit where there is one.
 * Also which instruction sets are chosen when the processor lacks some. */
#include "core/cpu.h"
#include "core/rng.h"
#include "model/gemm_kernels.h"
#include "tests/unit.h"

static uint16_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static float float_of(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float *normals(size_t n) {
    float *p = malloc((n + 1) * sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) p[i] = (float)rng_normal(seed, drawn++);
    return p;
}

static void *poisoned(size_t bytes) {
    void *p = malloc(bytes);
    assert_non_null(p);
    memset(p, 0xff, bytes); /* NaN: what packing leaves out shows */
    return p;
}

typedef struct {
    const GemmKernel *kernel;
    int M, N, K;
} Shape;

/* C of packed operands, in one pass or in two. */
static float *multiply(const Shape *s, const char *a, const char *b) {
    const GemmKernel *g = s->kernel;
    const int rows = gemm_padded(s->M, g->rows), cols = gemm_padded(s->N, 2 * GEMM_PANEL);
    float *c = malloc((size_t)rows * (size_t)cols * sizeof *c);
    assert_non_null(c);
    for (int i = 0; i < rows * cols; i++) c[i] = NAN;
    const int chunks = gemm_padded(s->K, g->depth) / g->depth, first = chunks > 1 ? draw(chunks - 1) + 1 : 1;
    const size_t next = gemm_b_next(g, s->K), row = (size_t)chunks * GEMM_LINE;
    if (g->begin) g->begin();
    for (int m = 0; m < rows; m += g->rows)
        for (int n = 0; n < cols; n += 2 * GEMM_PANEL) {
            float *to = c + (size_t)m * (size_t)cols + n;
            const char *from_a = a + (size_t)m * row, *from_b = b + (size_t)(n / GEMM_PANEL) * next;
            g->block(to, (size_t)cols, from_a, from_b, next, first, false);
            g->block(to, (size_t)cols, from_a + first * GEMM_LINE * g->rows,
                     from_b + first * GEMM_LINE * GEMM_PANEL, next, chunks - first, true);
        }
    if (g->end) g->end();
    return c;
}

static float seen(const GemmKernel *g, float x) {
    return g->bytes == 2 ? float_of(bf16_of(x)) : x;
}

/* a (M,K) and b (N,K) are what was packed, before rounding. */
static void check(const Shape *s, const float *a, const float *b, const void *packed_a, const void *packed_b,
                  const char *what) {
    float *c = multiply(s, packed_a, packed_b);
    const int cols = gemm_padded(s->N, 2 * GEMM_PANEL);
    for (int m = 0; m < s->M; m++)
        for (int n = 0; n < s->N; n++) {
            double sum = 0, size = 0;
            for (int k = 0; k < s->K; k++) {
                const double x =
                    (double)seen(s->kernel, a[m * s->K + k]) * (double)seen(s->kernel, b[n * s->K + k]);
                sum += x;
                size += fabs(x);
            }
            const double error = fabs((double)c[(size_t)m * (size_t)cols + (size_t)n] - sum);
            if (!(error <= 1e-6 * size)) /* up to 600 additions in float */
                fail_msg("%s, %s M=%d N=%d K=%d: c(%d,%d) is %g, expected %g (seed %llu)", s->kernel->name,
                         what, s->M, s->N, s->K, m, n, (double)c[(size_t)m * (size_t)cols + (size_t)n], sum,
                         (unsigned long long)seed);
        }
    free(c);
}

/* to (cols, rows) = x (rows, cols) transposed */
static float *transposed(const float *x, int rows, int cols) {
    float *to = malloc((size_t)rows * (size_t)cols * sizeof *to);
    assert_non_null(to);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) to[c * rows + r] = x[r * cols + c];
    return to;
}

/* As activations of the kernel. */
static void *activations(const GemmKernel *g, const float *x, size_t n) {
    char *to = malloc((n + 1) * (size_t)g->bytes);
    assert_non_null(to);
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = bf16_of(x[i]);
        memcpy(to + i * (size_t)g->bytes, g->bytes == 2 ? (const void *)&half : (const void *)&x[i],
               (size_t)g->bytes);
    }
    return to;
}

static void test_shape(const Shape *s) {
    const GemmKernel *g = s->kernel;
    const int M = s->M, N = s->N, K = s->K;
    const size_t a_bytes = gemm_a_bytes(g, M, K), b_bytes = gemm_b_bytes(g, K, N), next = gemm_b_next(g, K);
    float *a = normals((size_t)M * (size_t)K), *b = normals((size_t)N * (size_t)K);
    float *a_t = transposed(a, M, K), *b_t = transposed(b, N, K);
    void *act_a = activations(g, a, (size_t)M * (size_t)K),
         *act_b_t = activations(g, b_t, (size_t)N * (size_t)K);
    char *pa = poisoned(a_bytes), *pb = poisoned(b_bytes);

    /* b by its columns: weights of a forward pass; panels of nobody are zeros */
    memset(pb, 0, b_bytes);
    for (int n = 0; n < N; n += GEMM_PANEL)
        g->pack_panel(pb + (size_t)(n / GEMM_PANEL) * next, b + (size_t)n * (size_t)K, (size_t)K,
                      N - n < GEMM_PANEL ? N - n : GEMM_PANEL, K);
    g->pack_a(pa, gemm_a_next(g, K), a, (size_t)K, M, K, g->rows);
    check(s, a, b, pa, pb, "rows of floats");
    memset(pa, 0xff, a_bytes);
    g->pack_a_act(pa, gemm_a_next(g, K), act_a, (size_t)K, M, K, g->rows);
    check(s, a, b, pa, pb, "rows of activations");
    memset(pa, 0xff, a_bytes);
    float *sums = normals((size_t)M);
    g->pack_a_transposed(pa, gemm_a_next(g, K), a_t, (size_t)M, M, K, g->rows, sums);
    check(s, a, b, pa, pb, "columns of floats");
    for (int m = 0; m < M; m++) {
        double sum = 0, size = 0;
        for (int k = 0; k < K; k++) {
            sum += (double)a[m * K + k];
            size += fabs((double)a[m * K + k]);
        }
        assert_true(fabs((double)sums[m] - sum) <= 1e-6 * size);
    }

    /* b by its rows, in pieces of an even number of them */
    memset(pb, 0, b_bytes);
    for (int k = 0; k < K;) {
        int depth = 2 * (1 + draw(20));
        if (depth > K - k) depth = K - k;
        g->pack_b(pb, next, b_t + (size_t)k * (size_t)N, (size_t)N, k, depth, N);
        k += depth;
    }
    check(s, a, b, pa, pb, "rows of floats as B");
    memset(pb, 0, b_bytes);
    g->pack_b_act(pb, next, act_b_t, (size_t)N, 0, K, N);
    check(s, a, b, pa, pb, "rows of activations as B");
    void *all[] = {a, b, a_t, b_t, act_a, act_b_t, pa, pb, sums};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

static void test_kernel(const GemmKernel *kernel) {
    static const int SIZES[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100};
    static const int DEPTHS[] = {1, 2, 3, 31, 32, 33, 63, 64, 65, 96, 257, 600};
    assert_true(gemm_kernel_works(kernel));
    for (int i = 0; i < 60; i++) {
        const Shape s = {kernel, SIZES[draw(16)], SIZES[draw(16)], DEPTHS[draw(12)]};
        test_shape(&s);
    }
}

static void skip_without(unsigned feature, const char *name) {
    if (cpu_features() & feature) return;
    print_message("skipped: this processor has no %s\n", name);
    skip();
}

static void test_avx2(void **state) {
    (void)state;
    skip_without(CPU_AVX2, "AVX2");
    test_kernel(&gemm_kernel_avx2);
}

static void test_avx512(void **state) {
    (void)state;
    skip_without(CPU_AVX512, "AVX-512");
    test_kernel(&gemm_kernel_avx512);
}

static void test_avx512bf16(void **state) {
    (void)state;
    skip_without(CPU_AVX512_BF16, "AVX512-BF16");
    test_kernel(&gemm_kernel_avx512bf16);
}

static void test_amx_emulated(void **state) {
    (void)state;
    skip_without(CPU_AVX512_BF16, "AVX512-BF16, with which operands are packed");
    test_kernel(&gemm_kernel_amx_emulated);
}

static void test_amx(void **state) {
    (void)state;
    skip_without(CPU_AMX_BF16, "AMX");
    test_kernel(&gemm_kernel_amx);
}

/* A kernel that is wrong is noticed before it is chosen. */
static void wrong_block(float *c, size_t ldc, const void *a, const void *b, size_t next, int chunks,
                        bool add) {
    gemm_kernel_avx2.block(c, ldc, a, b, next, chunks, add);
    c[3 * ldc + 5] += 1;
}

static void test_self_check(void **state) {
    (void)state;
    skip_without(CPU_AVX2, "AVX2");
    GemmKernel wrong = gemm_kernel_avx2;
    wrong.block = wrong_block;
    assert_false(gemm_kernel_works(&wrong));
}

/* What a processor lacks is not chosen. */
static void test_masks(void **state) {
    (void)state;
    const unsigned all = CPU_AVX2 | CPU_AVX_VNNI | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AVX512_BF16 |
                         CPU_AMX_BF16 | CPU_AMX_INT8;
    assert_int_equal(cpu_within(all, NULL), all);
    assert_int_equal(cpu_within(all, "amx"), all);
    assert_int_equal(cpu_within(all, "baseline"), 0);
    assert_int_equal(cpu_within(all, "avx2"), CPU_AVX2);
    assert_int_equal(cpu_within(all, "avxvnni"), CPU_AVX2 | CPU_AVX_VNNI);
    assert_int_equal(cpu_within(all, "avx512"), CPU_AVX2 | CPU_AVX512);
    assert_int_equal(cpu_within(CPU_AVX2, "avx512bf16"), CPU_AVX2);
    setenv("ROUTER_KERNELS", "avx512", 1); /* NOLINT(concurrency-mt-unsafe): one thread */
    assert_int_equal(cpu_features() & (CPU_AVX512_BF16 | CPU_AMX_BF16), 0);
    assert_null(gemm_kernel(2));
    setenv("ROUTER_KERNELS", "avx512bf16", 1); /* NOLINT(concurrency-mt-unsafe): one thread */
    const GemmKernel *g = gemm_kernel(2);
    assert_true(!g || g == &gemm_kernel_avx512bf16);
    setenv("ROUTER_KERNELS", "baseline", 1); /* NOLINT(concurrency-mt-unsafe): one thread */
    assert_null(gemm_kernel(4));
    unsetenv("ROUTER_KERNELS"); /* NOLINT(concurrency-mt-unsafe): one thread */
}

int main(void) {
    seed_open();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_avx2),         cmocka_unit_test(test_avx512), cmocka_unit_test(test_avx512bf16),
        cmocka_unit_test(test_amx_emulated), cmocka_unit_test(test_amx),    cmocka_unit_test(test_self_check),
        cmocka_unit_test(test_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
