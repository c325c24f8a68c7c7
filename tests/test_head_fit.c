/* tests/test_head_fit.c - the minimiser, classifiers fitted to vectors: by hand, against gradient descent, odd rows; folds that
 * do not leak; and `router eval --suspects --folds` on a run and on a file. */
#include <cjson/cJSON.h>

#include "core/file.h"
#include "core/json.h"
#include "core/minimise.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/covariance.h"
#include "eval/eval_cmd.h"
#include "eval/folds.h"
#include "eval/head_fit.h"
#include "tests/tiny_blob.h"
#include "tests/tiny_spm.h"
#include "tests/unit.h"
#include "train/train_cmd.h"

/* ---- the minimiser ---- */

enum { SIDE = 12 };

/* 1/2 sum_i 10^(i / 3) (x_i - i)^2 + 7 */
static double bowl(void *arg, double *g, const double *x) {
    int *calls = arg;
    double value = 7;
    if (calls) ++*calls;
    for (int i = 0; i < SIDE; i++) {
        const double bend = pow(10, i / 3.0);
        g[i] = bend * (x[i] - i);
        value += g[i] * (x[i] - i) / 2;
    }
    return value;
}

static void test_minimise(void **state) {
    (void)state;
    Err err = {0};
    Minimum m;
    double x[SIDE];
    for (int i = 0; i < SIDE; i++) x[i] = 10 * (uniform("bowl", (uint64_t)i) - 0.5);
    int calls = 0;
    OK(minimise(&m, x, SIDE, bowl, &calls, &(MinimiseRule){.steps = 500, .slope = 1e-10}, &err));
    for (int i = 0; i < SIDE; i++) assert_near(x[i], i, 1e-5); /* 7 hides differences of 1e-13 */
    assert_near(m.value, 7, 1e-11);
    assert_true(m.slope < 1e-3 && m.steps > 5 && m.steps < 200 && calls >= m.steps);
    /* At the minimum already, after no step at all, and without anything to solve for. */
    OK(minimise(&m, x, SIDE, bowl, NULL, &(MinimiseRule){.steps = 500, .slope = 1e-3}, &err));
    assert_int_equal(m.steps, 0);
    x[3] = 30;
    OK(minimise(&m, x, SIDE, bowl, NULL, &(MinimiseRule){.steps = 0, .slope = 1e-6}, &err));
    assert_true(x[3] == 30 && m.steps == 0 && m.slope > 1);
    EACH_ALLOCATION_FAILS(10, minimise(NULL, x, SIDE, bowl, NULL, &(MinimiseRule){.steps = 3}, &err));
}

static void test_covariance(void **state) {
    (void)state;
    enum { N = 60, H = 19 };
    static double x[N * H], a[H * H], full[H * H];
    double v[H], w[H];
    Threads *threads;
    Err err = {0};
    OK(threads_open(&threads, 3, &err));
    for (size_t i = 0; i < N * H; i++) x[i] = rng_normal(seed, i) * (1 + (double)(i % H));
    memset(a, 0, sizeof a);
    covariance_of(a, x, N, H, threads);
    for (size_t i = 0; i < H; i++)
        for (size_t j = 0; j < H; j++) full[i * H + j] = a[i >= j ? i * H + j : j * H + i];
    double by_hand = 0;
    for (size_t i = 0; i < N; i++) by_hand += x[i * H + 3] * x[i * H + 11] / N;
    assert_near(full[3 * H + 11], by_hand, 1e-10); /* sums of about 100 */
    covariance_factor(a, H);
    for (size_t h = 0; h < H; h++) w[h] = v[h] = uniform("v", h) - 0.5;
    covariance_multiply_transposed(w, a, H); /* L L^T v is the covariance times v */
    for (size_t i = 0; i < H; i++) {
        double product = 0, expected = 0;
        for (size_t j = 0; j <= i; j++) product += a[i * H + j] * w[j];
        for (size_t j = 0; j < H; j++) expected += full[i * H + j] * v[j];
        assert_near(product, expected, 1e-9); /* of sums of about 1,000 */
    }
    double u[H];
    memcpy(u, w, sizeof u);
    covariance_solve_transposed(u, a, H);
    for (size_t h = 0; h < H; h++) assert_near(u[h], v[h], 1e-9); /* condition about 1e4 */
    for (size_t i = 0; i < H; i++) {
        w[i] = 0;
        for (size_t j = 0; j <= i; j++) w[i] += a[i * H + j] * v[j];
    }
    covariance_solve(w, a, H);
    for (size_t h = 0; h < H; h++) assert_near(w[h], v[h], 1e-9);
    threads_close(threads);
}

/* ---- by hand ---- */

static void test_by_hand(void **state) {
    (void)state;
    Err err = {0};
    HeadFit head;
    /* Vectors that say nothing: the biases are the logarithms of the shares, the loss is their entropy. */
    const float nothing[4] = {0};
    HeadFitRows rows = {.vectors = nothing, .labels = (int[]){0, 0, 1, 0}, .n = 4, .H = 1, .K = 2};
    HeadFitRule rule = {.lambda = 0.5};
    OK(head_fit(&head, &rows, &rule, NULL, &err));
    assert_near(head.b[0] - head.b[1], log(3), 1e-6); /* slope 1e-7 / curvature 3/16 */
    assert_near(head.b[0] + head.b[1], 0, 1e-12);
    assert_near(head.loss, -0.75 * log(0.75) - 0.25 * log(0.25), 1e-12);
    assert_true(head.w[0] == 0 && head.w[1] == 0 && head.value == head.loss);
    head_fit_free(&head);
    rows.weights = (float[]){1, 1, 3, 1};
    OK(head_fit(&head, &rows, &rule, NULL, &err));
    assert_near(head.b[0] - head.b[1], 0, 1e-6);
    head_fit_free(&head);
    /* x = 1 and -1, one label each: w = (a, -a) with lambda a = 1 / (1 + e^2a); a = 1. */
    rows = (HeadFitRows){.vectors = (float[]){1, -1}, .labels = (int[]){0, 1}, .n = 2, .H = 1, .K = 2};
    rule.lambda = 1 / (1 + exp(2));
    OK(head_fit(&head, &rows, &rule, NULL, &err));
    assert_near(head.w[0], 1, 1e-6);
    assert_near(head.w[1], -1, 1e-6);
    assert_near(head.b[0], head.b[1], 1e-6);
    assert_near(head.value, log(1 + exp(-2)) + rule.lambda, 1e-12);
    double p[4];
    head_fit_apply(&head, p, rows.vectors, NULL, 2, NULL);
    assert_near(p[0], 1 / (1 + exp(-2)), 1e-6);
    assert_near(p[0] + p[1], 1, 1e-15);
    assert_near(p[0], p[3], 1e-6);
    head_fit_free(&head);
    /* The variance of that column is 1: the same by a relative lambda, and 1,024 times as large, nearly so. */
    rule.relative = true;
    rows.vectors = (float[]){1024, -1024};
    OK(head_fit(&head, &rows, &rule, NULL, &err));
    assert_near(head.w[0] * 1024, 1, 1e-6);
    head_fit_free(&head);
    /* One row, of one label: nothing is left to learn. */
    rows.n = 1;
    OK(head_fit(&head, &rows, &rule, NULL, &err));
    assert_near(head.loss, 0, 0);
    assert_true(head.b[1] < -1e300 && isinf(head.b[1]));
    head_fit_apply(&head, p, rows.vectors, NULL, 1, NULL);
    assert_true(p[0] == 1 && p[1] == 0);
    head_fit_free(&head);
}

/* ---- against gradient descent ---- */

enum { N_MAX = 60, H_MAX = 7, K_MAX = 5 };

typedef struct {
    float x[N_MAX * H_MAX], weights[N_MAX], w0[K_MAX * H_MAX], b0[K_MAX];
    int labels[N_MAX];
    bool use[N_MAX], free[K_MAX];
    HeadFitRows rows;
    HeadFitRule rule;
} Problem;

/* Every free label has a row. */
static void draw_problem(Problem *p, uint64_t round) {
    const uint64_t key = rng_key(seed, "problem", round);
    const int K = 2 + draw(K_MAX - 1), H = 1 + draw(H_MAX);
    const size_t n = (size_t)(3 * K) + draw64((uint64_t)(N_MAX - 3 * K));
    for (size_t i = 0; i < n; i++) {
        p->labels[i] = i < (size_t)K ? (int)i : draw(K);
        p->weights[i] = i >= (size_t)K && draw(5) == 0 ? 0 : 0.1f + (float)rng_uniform(key, i);
        p->use[i] = i < (size_t)K || draw(4) > 0;
        for (int h = 0; h < H; h++) {
            const uint64_t at = i * H_MAX + (uint64_t)h;
            p->x[i * (size_t)H + (size_t)h] =
                (float)(1 + rng_normal(key + 1, at) + (h == p->labels[i] % H) * 1.5);
        }
    }
    for (int k = 0; k < K; k++) {
        p->free[k] = k == 0 || draw(3) > 0;
        p->b0[k] = (float)rng_normal(key + 2, (uint64_t)k);
        for (int h = 0; h < H; h++) p->w0[k * H + h] = (float)rng_normal(key + 3, (uint64_t)(k * H_MAX + h));
    }
    const bool start = draw(2), fixed = draw(2), weights = draw(2), use = draw(2);
    p->rows = (HeadFitRows){.vectors = p->x,
                            .labels = p->labels,
                            .weights = weights ? p->weights : NULL,
                            .use = use ? p->use : NULL,
                            .n = n,
                            .H = H,
                            .K = K};
    p->rule = (HeadFitRule){.w0 = start ? p->w0 : NULL,
                            .b0 = start ? p->b0 : NULL,
                            .free = fixed ? p->free : NULL,
                            .lambda = 0.05 + uniform("lambda", round),
                            .complete = true};
}

/* The formula of the header; the slope of what is free, NULL: not asked for. */
static double objective(const Problem *p, const double *w, const double *b, double *gw, double *gb) {
    const HeadFitRows *r = &p->rows;
    const int H = r->H, K = r->K;
    double loss = 0, total = 0, penalty = 0;
    if (gw) memset(gw, 0, sizeof(double) * (size_t)(K * H));
    if (gb) memset(gb, 0, sizeof(double) * (size_t)K);
    for (size_t i = 0; i < r->n; i++)
        total += r->use && !r->use[i] ? 0 : r->weights ? (double)r->weights[i] : 1;
    for (size_t i = 0; i < r->n; i++) {
        const double weight = r->use && !r->use[i] ? 0 : r->weights ? (double)r->weights[i] : 1;
        double z[K_MAX] = {0}, sum = 0;
        for (int k = 0; k < K; k++) {
            z[k] = b[k];
            for (int h = 0; h < H; h++) z[k] += w[k * H + h] * (double)r->vectors[i * (size_t)H + (size_t)h];
            sum += exp(z[k]);
        }
        loss += weight * (log(sum) - z[r->labels[i]]) / total;
        for (int k = 0; gw && k < K; k++) {
            const double d = weight / total * (exp(z[k]) / sum - (k == r->labels[i]));
            gb[k] += d;
            for (int h = 0; h < H; h++) gw[k * H + h] += d * (double)r->vectors[i * (size_t)H + (size_t)h];
        }
    }
    for (int k = 0; k < K; k++) {
        const bool fixed = p->rule.free && !p->rule.free[k];
        if (gb && fixed) gb[k] = 0;
        for (int h = 0; h < H; h++) {
            const double away = w[k * H + h] - (p->rule.w0 ? (double)p->rule.w0[k * H + h] : 0);
            penalty += away * away;
            if (gw) gw[k * H + h] = fixed ? 0 : gw[k * H + h] + p->rule.lambda * away;
        }
    }
    return loss + p->rule.lambda / 2 * penalty;
}

/* Plain gradient descent, with the step that its largest curvature allows. */
static double descend(const Problem *p) {
    const int H = p->rows.H, K = p->rows.K;
    double w[K_MAX * H_MAX] = {0}, b[K_MAX] = {0}, gw[K_MAX * H_MAX], gb[K_MAX], most = 0;
    for (size_t i = 0; i < p->rows.n; i++) {
        double square = 1;
        for (int h = 0; h < H; h++) square += pow((double)p->x[i * (size_t)H + (size_t)h], 2);
        most = fmax(most, square);
    }
    for (int k = 0; p->rule.w0 && k < K; k++) {
        b[k] = (double)p->b0[k];
        for (int h = 0; h < H; h++) w[k * H + h] = (double)p->w0[k * H + h];
    }
    const double step = 1 / (most / 2 + p->rule.lambda);
    for (int round = 0; round < 40000; round++) {
        double square = 0;
        (void)objective(p, w, b, gw, gb);
        for (int i = 0; i < K * H; i++) {
            w[i] -= step * gw[i];
            square += gw[i] * gw[i];
        }
        for (int k = 0; k < K; k++) {
            b[k] -= step * gb[k];
            square += gb[k] * gb[k];
        }
        if (square < 1e-22) break;
    }
    return objective(p, w, b, NULL, NULL);
}

static void test_reference(void **state) {
    (void)state;
    Problem p;
    Err err = {0};
    for (uint64_t round = 0; round < 20; round++) {
        HeadFit head;
        draw_problem(&p, round);
        OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
        double gw[K_MAX * H_MAX], gb[K_MAX], square = 0;
        const double found = objective(&p, head.w, head.b, gw, gb), expected = descend(&p);
        assert_near(head.value, found, 1e-12 * (1 + fabs(found)));
        /* ours has a slope of 1e-7 in columns of curvature 1/4 at most: 1e-12 above the minimum or so, where p (1 - p) does
         * not vanish; descent is as near as 40,000 steps bring it */
        if (found > expected + 1e-10 || found < expected - 1e-4)
            fail_msg("round %d: %.15g, expected %.15g", (int)round, found, expected);
        for (int i = 0; i < p.rows.K * p.rows.H; i++) square += gw[i] * gw[i];
        for (int k = 0; k < p.rows.K; k++) square += gb[k] * gb[k];
        /* b is about 0 at the columns' means: its slope is added to those of W times the means, about 2 */
        assert_true(sqrt(square) < 1e-5);
        for (int k = 0; k < p.rows.K; k++) {
            if (!p.rule.free || p.rule.free[k]) continue;
            assert_true(head.b[k] == (p.rule.b0 ? (double)p.b0[k] : 0));
            for (int h = 0; h < p.rows.H; h++) {
                const double w = head.w[k * p.rows.H + h];
                assert_true(w == (p.rule.w0 ? (double)p.w0[k * p.rows.H + h] : 0));
            }
        }
        head_fit_free(&head);
    }
}

/* ---- odd rows ---- */

static void test_odd(void **state) {
    (void)state;
    Err err = {0};
    HeadFit head, again;
    Problem p;
    draw_problem(&p, 100);
    p.rows.K = 3;
    p.rows.H = 3;
    p.rows.n = 40;
    p.rows.weights = NULL;
    p.rows.use = NULL;
    p.rule = (HeadFitRule){.lambda = 0.1};
    for (size_t i = 0; i < 40; i++) { /* the second column three times the first, the last constant */
        p.labels[i] = (int)(i % 3);
        p.x[3 * i] = (float)(rng_normal(seed, i) + (double)(i % 3));
        p.x[3 * i + 1] = 3 * p.x[3 * i];
        p.x[3 * i + 2] = 5;
    }
    OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
    for (int k = 0; k < 3; k++) {
        assert_near(head.w[3 * k + 1], 3 * head.w[3 * k], 1e-6); /* of all that fit alike, the shortest */
        assert_near(head.w[3 * k + 2], 0, 1e-12);
    }
    /* The same rows twice over, or each of weight 2: the same. */
    static float twice[2 * 40 * 3];
    static int labels[2 * 40];
    for (size_t i = 0; i < 80; i++) {
        labels[i] = p.labels[i % 40];
        memcpy(twice + 3 * i, p.x + 3 * (i % 40), 3 * sizeof *twice);
    }
    const HeadFitRows both = {.vectors = twice, .labels = labels, .n = 80, .H = 3, .K = 3};
    OK(head_fit(&again, &both, &p.rule, NULL, &err));
    assert_near(again.value, head.value, 1e-12);
    head_fit_free(&again);
    for (size_t i = 0; i < 40; i++) p.weights[i] = 2;
    p.rows.weights = p.weights;
    OK(head_fit(&again, &p.rows, &p.rule, NULL, &err));
    assert_near(again.value, head.value, 1e-12);
    head_fit_free(&again);
    head_fit_free(&head);
    /* Separable, without a penalty: it ends, with numbers. */
    for (size_t i = 0; i < 40; i++)
        p.x[3 * i] = (float)(i % 3) * 10, p.x[3 * i + 1] = p.x[3 * i] * p.x[3 * i];
    p.rule.lambda = 0;
    OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
    assert_true(head.loss >= 0 && head.loss < 1e-4 && isfinite(head.w[0]) && isfinite(head.b[0]));
    head_fit_free(&head);
    /* A label without rows: as it begins; -INFINITY without a beginning; an error if that was asked for. */
    p.rule.lambda = 0.1;
    for (size_t i = 0; i < 40; i++) p.labels[i] = (int)(i % 2) * 2;
    OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
    assert_true(isinf(head.b[1]) && head.b[1] < 0 && head.w[3] == 0 && isfinite(head.b[0]));
    double q[3];
    head_fit_apply(&head, q, p.x, NULL, 1, NULL);
    assert_true(q[1] == 0 && q[0] > 0 && q[2] > 0 && fabs(q[0] + q[2] - 1) < 1e-15);
    head_fit_free(&head);
    p.rule.w0 = p.w0;
    p.rule.b0 = p.b0;
    OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
    assert_true(head.b[1] == (double)p.b0[1] && head.w[4] == (double)p.w0[4] && head.w[0] != (double)p.w0[0]);
    head_fit_free(&head);
    p.rule.complete = true;
    assert_int_equal(head_fit(&head, &p.rows, &p.rule, NULL, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "label 1 has no rows that a classifier could be fitted to");
    /* Nothing free: what was given, and its loss. */
    const bool none[3] = {false};
    p.rule.free = none;
    OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
    for (int i = 0; i < 9; i++) assert_true(head.w[i] == (double)p.w0[i]);
    assert_true(head.steps == 0 && head.loss > 0 && head.value == head.loss);
    head_fit_free(&head);
}

static void expect_error(Problem *p, ErrCode code, const char *message) {
    HeadFit head;
    Err err = {0};
    assert_int_equal(head_fit(&head, &p->rows, &p->rule, NULL, &err), code);
    assert_string_equal(err.msg, message);
    assert_null(head.w);
}

static void test_errors(void **state) {
    (void)state;
    Problem p;
    HeadFit head;
    Err err = {0};
    draw_problem(&p, 200);
    p.rows.weights = p.weights;
    p.rows.use = p.use;
    p.rows.H = 2;
    p.rule = (HeadFitRule){.lambda = 0.1, .w0 = p.w0, .b0 = p.b0};
    p.x[2 * 1 + 1] = -INFINITY;
    expect_error(&p, ERR_NUMERIC, "value 1 of vector 1 is not finite");
    p.x[0] = NAN; /* the first row is where the means are taken from */
    expect_error(&p, ERR_NUMERIC, "value 0 of vector 0 is not finite");
    p.use[0] = p.use[1] = false; /* what is not used may be anything */
    OK(head_fit(&head, &p.rows, &p.rule, NULL, &err));
    head_fit_free(&head);
    p.weights[2] = -1;
    p.use[2] = true;
    expect_error(&p, ERR_NUMERIC, "the weight of vector 2 is -1, expected 0 or more");
    p.weights[2] = INFINITY;
    expect_error(&p, ERR_NUMERIC, "the weight of vector 2 is inf, expected 0 or more");
    p.weights[2] = 1;
    p.w0[3] = NAN;
    expect_error(&p, ERR_NUMERIC, "weight 1 of label 1 is not finite");
    p.w0[3] = 0;
    p.b0[1] = NAN;
    expect_error(&p, ERR_NUMERIC, "the bias of label 1 is not finite");
    p.b0[1] = 0;
    memset(p.use, 0, sizeof p.use);
    expect_error(&p, ERR_ARGUMENT, "no rows to fit a classifier to");
    p.rows.n = 0;
    expect_error(&p, ERR_ARGUMENT, "no rows to fit a classifier to");
    draw_problem(&p, 201);
    EACH_ALLOCATION_FAILS(40, (head_fit(&head, &p.rows, &p.rule, NULL, &err)));
    assert_non_null(head.w);
    head_fit_free(&head);
}

/* ---- threads, folds ---- */

enum { ROWS = 700, WIDE = 33, LABELS = 4, FOLDS = 4 };
static float vectors[ROWS * WIDE];
static int truth[ROWS];
static uint8_t folds[ROWS];
static double p_once[ROWS * LABELS], p_again[ROWS * LABELS];

static void draw_rows(void) {
    for (size_t i = 0; i < ROWS; i++) {
        truth[i] = draw(LABELS);
        folds[i] = (uint8_t)draw(FOLDS);
        for (size_t h = 0; h < WIDE; h++)
            vectors[i * WIDE + h] =
                (float)(rng_normal(seed + 5, i * WIDE + h) + ((int)h % LABELS == truth[i]) * 0.5);
    }
}

static HeadFitRows all_rows(void) {
    return (HeadFitRows){.vectors = vectors, .labels = truth, .n = ROWS, .H = WIDE, .K = LABELS};
}

static void test_threads(void **state) {
    (void)state;
    Err err = {0};
    HeadFit one, more;
    draw_rows();
    const HeadFitRows rows = all_rows();
    const HeadFitRule rule = {.lambda = 0.01, .relative = true};
    OK(head_fit(&one, &rows, &rule, NULL, &err));
    for (int count = 2; count <= 3; count++) {
        Threads *threads;
        OK(threads_open(&threads, count, &err));
        OK(head_fit(&more, &rows, &rule, threads, &err));
        assert_memory_equal(one.w, more.w, sizeof(double) * LABELS * WIDE);
        assert_memory_equal(one.b, more.b, sizeof(double) * LABELS);
        assert_true(one.steps == more.steps && one.steps > 3);
        head_fit_free(&more);
        threads_close(threads);
    }
    head_fit_free(&one);
}

/* What a fold's probabilities are made of: everything but its own labels. */
static void test_folds(void **state) {
    (void)state;
    Err err = {0};
    draw_rows();
    const HeadFitRows rows = all_rows();
    const HeadFitRule rule = {.lambda = 0.01, .relative = true};
    OK(head_fit_folds(p_once, &rows, &rule, folds, FOLDS, NULL, &err));
    for (size_t i = 0; i < ROWS; i++) {
        double sum = 0;
        for (size_t k = 0; k < LABELS; k++) sum += p_once[i * LABELS + k];
        assert_near(sum, 1, 1e-12);
    }
    const int changed = draw(FOLDS);
    for (size_t i = 0; i < ROWS; i++)
        if (folds[i] == changed) truth[i] = (truth[i] + 1 + draw(LABELS - 1)) % LABELS;
    memset(p_again, 0xa5, sizeof p_again);
    OK(head_fit_folds(p_again, &rows, &rule, folds, FOLDS, NULL, &err));
    size_t same = 0, others = 0;
    for (size_t i = 0; i < ROWS; i++) {
        bool differ = false;
        for (size_t k = 0; k < LABELS; k++) differ |= p_once[i * LABELS + k] != p_again[i * LABELS + k];
        if (folds[i] == changed)
            assert_false(differ);
        else
            others++, same += !differ;
    }
    assert_true(others > 0 && same == 0);
    /* A label that only one fold has is answered there with nothing; an empty fold is no fault, all in one is. */
    for (size_t i = 0; i < ROWS; i++) {
        if (folds[i] == 2) folds[i] = 1;
        if (truth[i] == 3) truth[i] = 0;
        if (folds[i] == 0 && i % 2) truth[i] = 3;
    }
    OK(head_fit_folds(p_again, &rows, &rule, folds, FOLDS, NULL, &err));
    for (size_t i = 0; i < ROWS; i++) assert_true((p_again[i * LABELS + 3] == 0) == (folds[i] == 0));
    memset(folds, 1, sizeof folds);
    assert_int_equal(head_fit_folds(p_again, &rows, &rule, folds, FOLDS, NULL, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "no rows to fit a classifier to outside of fold 2, which has 700 of 700");
    draw_rows();
    EACH_ALLOCATION_FAILS(100, head_fit_folds(p_again, &rows, &rule, folds, FOLDS, NULL, &err));
}

static void test_assign(void **state) {
    (void)state;
    enum { N = 300, COUNT = 5 };
    static char text[N][160];
    RowText texts[N];
    uint8_t once[N], again[N];
    size_t rows[COUNT] = {0}, moved = 0;
    Err err = {0};
    for (size_t i = 0; i < N;
         i++) { /* the second half: copies of the first, in capitals or with a word more */
        size_t at = 0;
        for (int word = 0; word < 16; word++)
            at += (size_t)snprintf(
                text[i] + at, sizeof text[i] - at, "w%llu ",
                (unsigned long long)(rng_key(seed, "word", i % (N / 2) * 16 + (size_t)word) % 100000));
        if (i >= N / 2 && i % 2) text[i][0] = 'W';
        if (i >= N / 2 && i % 2 == 0) (void)snprintf(text[i] + at, sizeof text[i] - at, "please");
        texts[i] = (RowText){text[i], strlen(text[i])};
    }
    OK(folds_assign(once, texts, N, COUNT, 7, NULL, &err));
    for (size_t i = 0; i < N; i++) {
        assert_true(once[i] < COUNT && once[i] == once[i % (N / 2)]);
        rows[once[i]]++;
    }
    for (int f = 0; f < COUNT; f++) assert_true(rows[f] > N / COUNT / 3); /* 60 of 300 in pairs: 4 spreads */
    Threads *threads;
    OK(threads_open(&threads, 3, &err));
    OK(folds_assign(again, texts, N, COUNT, 7, threads, &err));
    assert_memory_equal(once, again, N);
    OK(folds_assign(again, texts, N, COUNT, 8, threads, &err));
    for (size_t i = 0; i < N; i++) moved += once[i] != again[i];
    assert_true(moved > N / 2);
    threads_close(threads);
    EACH_ALLOCATION_FAILS(60, folds_assign(again, texts, N, COUNT, 7, NULL, &err));
}

/* ---- the command ---- */

static const char *const TINY = ROUTER_SOURCE_DIR "/configs/model-tiny.json";
static const char *const KINDS[] = {"math", "coding", "other"};

/* Rows that even a tiny model tells apart, of `labels` kinds; those of `planted` have another's label. */
static const char *write_rows(const char *name, size_t n, size_t from, const size_t *planted, size_t count) {
    static const char *const WORDS[3][4] = {{"add", "sum", "divide", "integral"},
                                            {"python", "loop", "pointer", "compile"},
                                            {"cat", "song", "rain", "bread"}};
    Buf text = {0};
    for (size_t i = from; i < from + n; i++) {
        size_t label = i % 3;
        for (size_t j = 0; j < count; j++)
            if (planted[j] == i) label = (label + 1) % 3;
        buf_puts(&text, "{\"text\": \"");
        for (size_t word = 0; word < 5; word++)
            buf_printf(&text, "%s ", WORDS[i % 3][rng_key(3, "word", i * 8 + word) % 4]);
        buf_printf(&text, "%zu\", \"label\": \"%s\"}\n", i * 7919, KINDS[label]);
    }
    const char *path = save(name, text.data);
    buf_free(&text);
    return path;
}

static const cJSON *suspects_of(cJSON **tree, Buf *json) {
    Err err = {0};
    cJSON_Delete(*tree);
    OK(json_parse(tree, json->data, json->len, &err));
    return cJSON_GetObjectItem(*tree, "suspects");
}

static double number(const cJSON *o, const char *key) {
    const cJSON *item = cJSON_GetObjectItem(o, key);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

static void test_run(void **state) {
    (void)state;
    const size_t planted[] = {20, 76, 133};
    Err err = {0};
    Buf spm = {0}, json = {0}, table = {0}, first = {0}, second = {0};
    cJSON *tree = NULL;
    char data[200], model[200], run[200], found[200], other[200], fresh[200];
    (void)snprintf(data, sizeof data, "%s", write_rows("rows.jsonl", 180, 0, planted, 3));
    (void)snprintf(fresh, sizeof fresh, "%s", write_rows("fresh.jsonl", 90, 1000, NULL, 0));
    tiny_spm(&spm, &(TinySpm){0});
    (void)snprintf(model, sizeof model, "%s", save_bytes("spm.model", spm.data, spm.len));
    (void)snprintf(run, sizeof run, "%s", in_folder("run"));
    (void)snprintf(found, sizeof found, "%s", in_folder("found.jsonl"));
    (void)snprintf(other, sizeof other, "%s", in_folder("other.jsonl"));
    OK(run_command(&train_cmd, NULL, &err,
                   ARGS(data, "--model", TINY, "--tokenizer", model, "--out", run, "--max_length", "48",
                        "--batch_size", "16", "--max_steps", "200", "--lr", "3e-3", "--test_share", "0.2",
                        "--precision", "fp32", "--quiet")));
    OK(run_command(&eval_cmd, &json, &err,
                   ARGS(run, "--suspects", found, "--folds", "3", "--json", "--no-baselines", "--quiet",
                        "--threads", "1")));
    const cJSON *s = suspects_of(&tree, &json);
    assert_true(number(tree, "n") < 60); /* the test split is measured, all splits are judged */
    assert_true(number(s, "folds") == 3 && number(s, "judged") == 180);
    assert_true(number(s, "trained") > 100 && number(s, "trained") < 180);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(s, "held_out")));
    assert_non_null(strstr(cJSON_GetObjectItem(s, "set")->valuestring, "run/data.shard (all splits)"));
    read_file(&first, found);
    size_t named = 0;
    for (size_t j = 0; j < 3; j++)
        named += strstr(first.data, path_of("\"line\":%zu,", planted[j] + 1)) != NULL;
    assert_true(named >= 2); /* of 3, by a model that has seen them */
    OK(run_command(&eval_cmd, &table, &err,
                   ARGS(run, "--suspects", other, "--folds", "3", "--no-baselines", "--quiet", "--threads",
                        "2", "--report", in_folder("folds.html"))));
    read_file(&second, other);
    assert_true(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
    assert_non_null(strstr(table.data,
                           "cross-validated over 3 folds: the classifier is fitted anew for each, but "
                           "the\n  encoder has seen "));
    buf_clear(&second);
    read_file(&second, in_folder("folds.html"));
    assert_non_null(strstr(second.data, "cross-validated over 3 folds"));
    assert_non_null(strstr(second.data, "The encoder is not: it has seen "));
    /* Given rows, that were not trained on, are measured and judged. */
    OK(run_command(&eval_cmd, &json, &err,
                   ARGS(run, "--data", fresh, "--suspects", found, "--folds", "2", "--json", "--no-baselines",
                        "--quiet")));
    s = suspects_of(&tree, &json);
    assert_true(number(tree, "n") == 90 && number(s, "judged") == 90 && number(s, "trained") == 0);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(s, "held_out")));
    assert_string_equal(cJSON_GetObjectItem(s, "set")->valuestring, fresh);
    /* Without folds nothing is as before but for a name. */
    OK(run_command(&eval_cmd, &json, &err,
                   ARGS(run, "--suspects", found, "--json", "--no-baselines", "--quiet")));
    s = suspects_of(&tree, &json);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(s, "folds")));
    /* Memory runs out: no file, and nothing is left of it. */
    assert_int_equal(unlink(found), 0);
    for (size_t n = 1;; n += 1 + n / 6) {
        mem_fail_at(n);
        const ErrCode rc = run_command(
            &eval_cmd, NULL, &err,
            ARGS(run, "--suspects", found, "--folds", "2", "--no-baselines", "--quiet", "--threads", "1"));
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
        assert_false(file_exists(found));
    }
    cJSON_Delete(tree);
    buf_free(&spm);
    buf_free(&json);
    buf_free(&table);
    buf_free(&first);
    buf_free(&second);
}

static void expect_eval(const char *message, const char *const *args) {
    Err err = {0};
    assert_int_equal(run_command(&eval_cmd, NULL, &err, args), ERR_ARGUMENT);
    if (!strstr(err.msg, message)) fail_msg("found: %s", err.msg);
}

/* An exported file has vectors too; what it was trained on it does not know. */
static void test_blob(void **state) {
    (void)state;
    Err err = {0};
    Buf bytes = {0}, json = {0};
    cJSON *tree = NULL;
    const BlobConfig config = tiny_config();
    char model[200], data[200], found[200];
    (void)snprintf(data, sizeof data, "%s", write_rows("blob-rows.jsonl", 90, 0, NULL, 0));
    (void)snprintf(found, sizeof found, "%s", in_folder("blob-found.jsonl"));
    OK(tiny_blob(&bytes, &config, 3, &err));
    (void)snprintf(model, sizeof model, "%s", save_bytes("tiny.safetensors", bytes.data, bytes.len));
    OK(run_command(&eval_cmd, &json, &err,
                   ARGS(model, "--data", data, "--suspects", found, "--folds", "20", "--json",
                        "--no-baselines", "--quiet")));
    const cJSON *s = suspects_of(&tree, &json);
    assert_true(number(s, "folds") == 20 && number(s, "judged") == 90);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(s, "trained")));
    expect_eval("--folds ranks labels that may be wrong: give --suspects FILE",
                ARGS(model, "--data", data, "--folds", "5", "--quiet"));
    expect_eval("folds: found 1, expected 0 (none) or 2 to 20",
                ARGS(model, "--data", data, "--suspects", found, "--folds", "1", "--quiet"));
    expect_eval("folds", ARGS(model, "--data", data, "--suspects", found, "--folds", "21", "--quiet"));
    expect_eval("no run folder with a data.shard: give the rows with --data FILE",
                ARGS(model, "--suspects", found, "--folds", "5", "--quiet"));
    cJSON_Delete(tree);
    buf_free(&bytes);
    buf_free(&json);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_minimise),  cmocka_unit_test(test_covariance), cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_reference), cmocka_unit_test(test_odd),        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_threads),   cmocka_unit_test(test_folds),      cmocka_unit_test(test_assign),
        cmocka_unit_test(test_run),       cmocka_unit_test(test_blob),
    };
    return folder_close(cmocka_run_group_tests_name("head_fit", tests, NULL, NULL));
}
