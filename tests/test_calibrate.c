/* tests/test_calibrate.c - calibrated probabilities, scores, thresholds: each against its definition or by hand; then a
 * whole model, calibrated and stored. */
#include <float.h>

#include "core/file.h"
#include "core/json.h"
#include "core/progress.h"
#include "eval/calibrate.h"
#include "eval/calibrate_model.h"
#include "eval/calibrate_report.h"
#include "eval/distance.h"
#include "eval/metrics.h"
#include "eval/policy.h"
#include "eval/scores.h"
#include "export/decide_json.h"
#include "export/librouter.h"
#include "tests/tiny_rule.h"
#include "tests/unit.h"

/* ---- adaptive ECE ---- */

static double adaptive_of(const double *p, const int *labels, size_t n, int K) {
    Metrics m;
    Err err = {0};
    ok(metrics_compute(&m, p, labels, n, K, 1, 0, NULL, &err), &err);
    const double found = m.adaptive_ece.value;
    metrics_free(&m);
    return found;
}

static void test_adaptive_ece(void **state) {
    (void)state;
    /* One row; then four rows, each in a bin of its own, but for a tie of two in the bin of their first. */
    const double one[] = {0.3, 0.7};
    assert_near(adaptive_of(one, (int[]){0}, 1, 2), 0.7, 1e-15);
    const double p[] = {0.4, 0.6, 0.2, 0.8, 0.2, 0.8, 0.1, 0.9};
    assert_near(adaptive_of(p, (int[]){1, 1, 0, 1}, 4, 2), (0.4 + fabs(1 - 1.6) + 0.1) / 4, 1e-15);
    /* Apart, the tied rows would give 0.2 + 0.8: order must not matter. */
    const double q[] = {0.1, 0.9, 0.2, 0.8, 0.4, 0.6, 0.2, 0.8};
    assert_near(adaptive_of(q, (int[]){1, 0, 1, 1}, 4, 2), (0.4 + fabs(1 - 1.6) + 0.1) / 4, 1e-15);
    /* All tied: one bin, |accuracy - confidence|. */
    double same[200];
    int labels[100];
    for (int i = 0; i < 100; i++) {
        same[2 * i] = 0.25;
        same[2 * i + 1] = 0.75;
        labels[i] = i % 10 < 6;
    }
    assert_near(adaptive_of(same, labels, 100, 2), 0.15, 1e-12);
    /* Against the definition, by counting lower confidences for every row. */
    for (uint64_t round = 0; round < 20; round++) {
        enum { MOST = 150 };
        double r[2 * MOST], hits[15] = {0}, sums[15] = {0}, expected = 0;
        int y[MOST];
        const size_t n = 1 + (size_t)(uniform("n", round) * (MOST - 1));
        for (size_t i = 0; i < n; i++) {
            r[2 * i] = floor(uniform("p", round * MOST + i) * 20) / 20; /* many ties */
            r[2 * i + 1] = 1 - r[2 * i];
            y[i] = uniform("y", round * MOST + i) < 0.5;
        }
        for (size_t i = 0; i < n; i++) {
            size_t before = 0;
            const double c = fmax(r[2 * i], r[2 * i + 1]);
            for (size_t j = 0; j < n; j++) before += fmax(r[2 * j], r[2 * j + 1]) < c;
            hits[before * 15 / n] += metrics_best(r + 2 * i, 2) == y[i];
            sums[before * 15 / n] += c;
        }
        for (int b = 0; b < 15; b++) expected += fabs(hits[b] - sums[b]) / (double)n;
        assert_near(adaptive_of(r, y, n, 2), expected, 1e-12);
    }
    /* The interval holds the value, and threads make no difference. */
    Metrics a, b;
    Err err = {0};
    Threads *threads;
    ok(threads_open(&threads, 3, &err), &err);
    ok(metrics_compute(&a, same, labels, 100, 2, 200, 5, NULL, &err), &err);
    ok(metrics_compute(&b, same, labels, 100, 2, 200, 5, threads, &err), &err);
    assert_true(a.adaptive_ece.low <= a.adaptive_ece.value && a.adaptive_ece.value <= a.adaptive_ece.high);
    assert_true(a.adaptive_ece.low < a.adaptive_ece.high);
    assert_memory_equal(&a.adaptive_ece, &b.adaptive_ece, sizeof a.adaptive_ece);
    metrics_free(&a);
    metrics_free(&b);
    threads_close(threads);
}

/* ---- scores ---- */

static void test_scores_by_hand(void **state) {
    (void)state;
    const double score[] = {0.8, 0.9, 0.7, 0.8};
    const bool good[] = {false, true, false, true};
    Scores s;
    Err err = {0};
    ok(scores_compute(&s, score, good, 4, &err), &err);
    assert_near(s.auroc, 3.5 / 4, 1e-15);
    assert_near(s.fpr95, 0.5, 1e-15);
    assert_near(s.aupr, 0.5 + 0.5 * 2 / 3, 1e-15);
    assert_near(s.aurc, (0 + 0.5 / 2 + 1.0 / 3 + 2.0 / 4) / 4, 1e-15);
    assert_true(s.good == 2 && s.bad == 2);
    /* one kind absent, one row */
    ok(scores_compute(&s, score, (bool[]){true, true, true, true}, 4, &err), &err);
    assert_true(isnan(s.auroc) && isnan(s.fpr95) && isnan(s.aupr));
    assert_near(s.aurc, 0, 0);
    ok(scores_compute(&s, score, (bool[]){false}, 1, &err), &err);
    assert_near(s.aurc, 1, 0);
    /* what is refused */
    const double bad[] = {0.5, (double)NAN};
    assert_int_equal(scores_compute(&s, bad, good, 2, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "the score of row 1 is nan, expected a finite number");
    assert_int_equal(scores_compute(&s, bad, good, 0, &err), ERR_ARGUMENT);
    ScoresPoint *points;
    size_t count;
    ok(scores_curve(&points, &count, score, good, 4, &err), &err);
    assert_int_equal(count, 3);
    assert_true(points[1].threshold == 0.8 && points[1].answered == 3 && points[1].wrong == 1);
    mem_free(points);
    ok(scores_compare(&s, score, 2, score + 2, 2, &err), &err); /* 0.8 0.9 against 0.7 0.8 */
    assert_near(s.auroc, 3.5 / 4, 1e-15);
}

static void test_scores_definition(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 40; round++) {
        enum { MOST = 60 };
        double score[MOST], pairs = 0, fpr = (double)NAN, aupr = 0, best = -1;
        bool good[MOST];
        const size_t n = 2 + (size_t)(uniform("scores n", round) * (MOST - 2));
        double P = 0, N = 0;
        for (size_t i = 0; i < n; i++) {
            score[i] = floor(uniform("scores", round * MOST + i) * (round % 2 ? 8 : 1e9));
            good[i] = uniform("good", round * MOST + i) < 0.6;
            P += good[i];
            N += !good[i];
        }
        if (P < 1 || N < 1) continue;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                if (good[i] && !good[j]) pairs += score[i] > score[j] ? 1 : score[i] < score[j] ? 0 : 0.5;
        for (size_t i = 0; i < n; i++) { /* every row's score as a threshold */
            double tp = 0, fp = 0, equal = 0;
            for (size_t j = 0; j < n; j++) {
                tp += good[j] && score[j] >= score[i];
                fp += !good[j] && score[j] >= score[i];
                equal += good[j] && score[j] >= score[i] && score[j] <= score[i];
            }
            if (good[i]) aupr += tp / (tp + fp) / P;
            if (tp >= 0.95 * P && score[i] > best) {
                best = score[i];
                fpr = fp / N;
            }
            assert_true(equal <= tp);
        }
        Scores s;
        Err err = {0};
        ok(scores_compute(&s, score, good, n, &err), &err);
        assert_near(s.auroc, pairs / (P * N), 1e-12);
        assert_near(s.fpr95, fpr, 1e-12);
        assert_near(s.aupr, aupr, 1e-12);
    }
    /* AURC: the mean over all orders of rows of equal score. */
    enum { ROWS = 5 };
    const double score[ROWS] = {1, 1, 1, 2, 1};
    const bool good[ROWS] = {true, false, true, false, true};
    double sum = 0;
    int orders = 0, order[ROWS] = {3};
    for (int a = 0; a < 256; a++) { /* the other four in every order */
        const int rest[4] = {0, 1, 2, 4};
        const int at[4] = {a & 3, a >> 2 & 3, a >> 4 & 3, a >> 6};
        if ((1 << at[0] | 1 << at[1] | 1 << at[2] | 1 << at[3]) != 15) continue;
        for (int i = 0; i < 4; i++) order[i + 1] = rest[at[i]];
        double wrong = 0;
        for (int i = 0; i < ROWS; i++) {
            wrong += !good[order[i]];
            sum += wrong / (i + 1) / ROWS;
        }
        orders++;
    }
    Scores s;
    Err err = {0};
    ok(scores_compute(&s, score, good, ROWS, &err), &err);
    assert_int_equal(orders, 24);
    assert_near(s.aurc, sum / orders, 1e-12);
}

/* ---- temperature and vector ---- */

/* Rows whose labels are drawn from softmax(scale * logits + bias): known best answers. */
static void draw_rows(float *logits, int *labels, size_t n, int K, double scale, const double *bias,
                      const char *what) {
    for (size_t i = 0; i < n; i++) {
        double p[8], total = 0;
        for (int k = 0; k < K; k++) {
            const size_t at = i * (size_t)K + (size_t)k;
            logits[at] = (float)(3 * rng_normal(rng_key(seed, what, 0), at));
            total += p[k] = exp(scale * (double)logits[at] + (bias ? bias[k] : 0));
        }
        double u = rng_uniform(rng_key(seed, what, 1), i) * total;
        for (labels[i] = 0; labels[i] + 1 < K && (u -= p[labels[i]]) > 0; labels[i]++) {
        }
    }
}

static void test_temperature(void **state) {
    (void)state;
    Err err = {0};
    double T;
    /* Two classes, a margin of 2, three of four right: sigmoid(2 / T) = 3/4. */
    const float logits[] = {2, 0, 0, 2, 3, 1, 5, 3};
    const int labels[] = {0, 1, 0, 1};
    ok(calibrate_temperature(&T, logits, labels, 4, 2, &err), &err);
    assert_near(T, 2 / log(3), 1e-9);
    /* The same with huge offsets, which must cancel. */
    const float far[] = {1002, 1000, -1000, -998, 3, 1, 5, 3};
    ok(calibrate_temperature(&T, far, labels, 4, 2, &err), &err);
    assert_near(T, 2 / log(3), 1e-9);
    /* All right, all wrong, all equal. */
    ok(calibrate_temperature(&T, logits, (int[]){0, 1, 0, 0}, 4, 2, &err), &err);
    assert_near(T, CALIBRATE_T_MIN, 0);
    ok(calibrate_temperature(&T, logits, (int[]){1, 0, 1, 1}, 4, 2, &err), &err);
    assert_near(T, CALIBRATE_T_MAX, 0);
    ok(calibrate_temperature(&T, (float[]){1, 1, 7, 7}, (int[]){1, 0}, 2, 2, &err), &err);
    assert_near(T, 1, 0);
    /* The minimum: no other temperature has a lower NLL. */
    enum { N = 500, K = 4 };
    static float l[N * K];
    int y[N];
    draw_rows(l, y, N, K, 0.4, NULL, "temperature");
    ok(calibrate_temperature(&T, l, y, N, K, &err), &err);
    double nll[3] = {0};
    for (int t = 0; t < 3; t++) {
        const double at = T * (1 + 1e-4 * (t - 1));
        for (size_t i = 0; i < N; i++) {
            double total = 0;
            for (int k = 0; k < K; k++)
                total += exp((double)(l[i * K + (size_t)k] - l[i * K + (size_t)y[i]]) / at);
            nll[t] += log(total) / N;
        }
    }
    assert_true(nll[1] < nll[0] && nll[1] < nll[2]);
    assert_near(T, 2.5, 0.6); /* what drew them, to five standard errors or so */
    l[7] = INFINITY;
    assert_int_equal(calibrate_temperature(&T, l, y, N, K, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "logit 3 of row 1 is not finite");
    assert_int_equal(calibrate_temperature(&T, l, y, 0, K, &err), ERR_ARGUMENT);
}

static double objective(const float *l, const int *y, size_t n, int K, double T, const double *scale,
                        const double *bias) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double total = 0, z_label = 0;
        for (int k = 0; k < K; k++) {
            const double z = (double)l[i * (size_t)K + (size_t)k] / T * scale[k] + bias[k];
            total += exp(z);
            if (k == y[i]) z_label = z;
        }
        sum += log(total) - z_label;
    }
    for (int k = 0; k < K; k++)
        sum += CALIBRATE_PENALTY / 2 * ((scale[k] - 1) * (scale[k] - 1) + bias[k] * bias[k]);
    return sum;
}

static void test_vector(void **state) {
    (void)state;
    enum { N = 800, K = 4 };
    static float l[N * K];
    int y[N];
    const double offset[K] = {1, -1, 0.5, -0.5};
    double T, scale[K], bias[K];
    Err err = {0};
    draw_rows(l, y, N, K, 0.5, offset, "vector");
    ok(calibrate_temperature(&T, l, y, N, K, &err), &err);
    ok(calibrate_vector(scale, bias, l, y, N, K, T, &err), &err);
    const double least = objective(l, y, N, K, T, scale, bias);
    double slopes = 0;
    for (int k = 0; k < K; k++)
        for (int which = 0; which < 2; which++) {
            double *x = which ? &bias[k] : &scale[k];
            const double kept = *x;
            *x = kept + 1e-4;
            const double up = objective(l, y, N, K, T, scale, bias);
            *x = kept - 1e-4;
            const double down = objective(l, y, N, K, T, scale, bias);
            *x = kept;
            assert_true(up > least && down > least);
            slopes = fmax(slopes, fabs(up - down) / 2e-4);
        }
    (void)printf("vector: largest slope at the minimum %.3g\n", slopes);
    assert_true(slopes < 1e-4); /* of a sum of about 800; central differences are exact to some 1e-7 */
    for (int k = 0; k < K; k++)
        assert_near(bias[k] - bias[0], offset[k] - offset[0], 0.9); /* six standard errors */
}

static void test_fit(void **state) {
    (void)state;
    enum { N = 3000, K = 3 };
    static float l[N * K];
    static double p[N * K];
    static int y[N];
    const double none[K] = {0}, skew[K] = {1.5, 0, -1.5};
    const struct {
        double scale;
        const double *bias;
        CalibrateKind kind;
    } CASES[] = {{0.4, none, CALIBRATE_TEMPERATURE}, {0.4, skew, CALIBRATE_VECTOR}};
    Err err = {0};
    DecideRule rule;
    ok(decide_alloc(&rule, K, &err), &err);
    Calibration c;
    for (size_t i = 0; i < 2; i++) {
        draw_rows(l, y, N, K, CASES[i].scale, CASES[i].bias, i ? "skew" : "fit");
        ok(calibrate_fit(&c, &rule, p, l, y, N, K, true, 1, &err), &err);
        /* a gain of noise alone passes in about 2.5 of 100 runs */
        if (i == 1 || c.gain <= 1.96 * c.gain_error) assert_int_equal(c.kind, CASES[i].kind);
        assert_true(c.folds == 5 && c.ece[c.kind] < c.ece[0] && c.nll[c.kind] < c.nll[0]);
        assert_true(rule.vector == (c.kind == CALIBRATE_VECTOR));
        assert_near((double)rule.temperature, c.temperature, 1e-6 * c.temperature);
        Metrics m;
        ok(metrics_compute(&m, p, y, N, K, 1, 0, NULL, &err), &err);
        assert_near(m.ece.value, c.ece[c.kind], 1e-12);
        metrics_free(&m);
        static double again[N * K];
        DecideRule other;
        ok(decide_alloc(&other, K, &err), &err);
        ok(calibrate_fit(&c, &other, again, l, y, N, K, true, 1, &err), &err);
        assert_memory_equal(p, again, sizeof p);
        assert_memory_equal(rule.scale, other.scale, K * sizeof(float));
        decide_free(&other);
        ok(calibrate_fit(&c, &rule, p, l, y, N, K, false, 1, &err), &err);
        assert_true(c.kind != CALIBRATE_VECTOR && !rule.vector && rule.scale[0] == 1);
    }
    /* Whatever the rows: what is taken is no worse on rows held out, and else everything stays at 1. */
    int stayed = 0;
    for (uint64_t round = 0; round < 60; round++) {
        const size_t n = 1 + (size_t)(uniform("fit n", round) * 200);
        char what[32];
        (void)snprintf(what, sizeof what, "rows %d", (int)round);
        draw_rows(l, y, n, K, 0.8 + 0.4 * uniform("fit scale", round), NULL, what);
        ok(calibrate_fit(&c, &rule, p, l, y, n, K, true, round, &err), &err);
        assert_true(c.ece[c.kind] <= c.ece[0] && c.nll[c.kind] <= c.nll[0]);
        stayed += c.kind == CALIBRATE_NOTHING;
        if (c.kind == CALIBRATE_NOTHING) {
            assert_true(rule.temperature == 1 && !rule.vector);
            DecideRule plain = {.temperature = 1};
            double q[K];
            (void)decide_probabilities(q, l, K, &plain);
            assert_memory_equal(p, q, sizeof q);
        }
    }
    assert_true(stayed > 3); /* nearly calibrated rows, few of them: seen 20 to 35 */
    ok(calibrate_fit(&c, &rule, p, l, y, 1, K, true, 0, &err), &err); /* one row proves nothing */
    assert_true(c.kind == CALIBRATE_NOTHING && rule.temperature == 1);
    assert_int_equal(calibrate_fit(&c, &rule, p, l, y, 0, K, true, 0, &err), ERR_ARGUMENT);
    EACH_ALLOCATION_FAILS(300, calibrate_fit(&c, &rule, p, l, y, 40, K, true, 0, &err));
    decide_free(&rule);
}

/* ---- distance ---- */

/* x^T A^-1 x by Gauss and Jordan. */
static double quadratic(const double *A, const double *x, size_t H) {
    double a[8][9], sum = 0;
    for (size_t i = 0; i < H; i++) {
        for (size_t j = 0; j < H; j++) a[i][j] = A[i * H + j];
        a[i][H] = x[i];
    }
    for (size_t i = 0; i < H; i++)
        for (size_t r = 0; r < H; r++) {
            if (r == i) continue;
            const double f = a[r][i] / a[i][i];
            for (size_t j = 0; j <= H; j++) a[r][j] -= f * a[i][j];
        }
    for (size_t i = 0; i < H; i++) sum += x[i] * a[i][H] / a[i][i];
    return sum;
}

static void test_distance(void **state) {
    (void)state;
    enum { N = 60, H = 5, K = 4 }; /* class 3 does not occur */
    float x[N * H];
    int y[N];
    double mean[K][H] = {{0}}, count[K] = {0}, S[H * H] = {0}, noise = 0, away = 0, trace = 0, square = 0;
    for (size_t i = 0; i < N; i++) {
        y[i] = (int)(i % 3);
        count[y[i]]++;
        for (size_t h = 0; h < H; h++) {
            x[i * H + h] = (float)(rng_normal(seed, i * H + h) * (1 + (double)h) + 3 * y[i] +
                                   (h ? (double)x[i * H] : 0));
            mean[y[i]][h] += (double)x[i * H + h];
        }
    }
    for (int k = 0; k < 3; k++)
        for (size_t h = 0; h < H; h++) mean[k][h] /= count[k];
    for (size_t i = 0; i < N; i++)
        for (size_t a = 0; a < H; a++)
            for (size_t b = 0; b < H; b++)
                S[a * H + b] +=
                    ((double)x[i * H + a] - mean[y[i]][a]) * ((double)x[i * H + b] - mean[y[i]][b]) / N;
    for (size_t a = 0; a < H; a++) trace += S[a * H + a];
    for (size_t a = 0; a < H; a++)
        for (size_t b = 0; b < H; b++) {
            away += pow(S[a * H + b] - (a == b ? trace / H : 0), 2);
            square += pow(S[a * H + b], 2);
            for (size_t i = 0; i < N; i++)
                noise += pow(((double)x[i * H + a] - mean[y[i]][a]) * ((double)x[i * H + b] - mean[y[i]][b]) -
                                 S[a * H + b],
                             2) /
                         N / N;
        }
    const double shrinkage = fmin(1, noise / away);
    for (size_t a = 0; a < H; a++)
        for (size_t b = 0; b < H; b++)
            S[a * H + b] = (1 - shrinkage) * S[a * H + b] + (a == b ? shrinkage * trace / H : 0);
    Distance d;
    Err err = {0};
    Threads *threads;
    ok(threads_open(&threads, 3, &err), &err);
    ok(distance_fit(&d, x, y, N, H, K, threads, &err), &err);
    assert_near(d.shrinkage, shrinkage, 1e-12);
    assert_true(shrinkage > 0.001 && shrinkage < 0.999);
    double score[N], alone[N];
    ok(distance_score(&d, score, x, N, threads, &err), &err);
    ok(distance_score(&d, alone, x, N, NULL, &err), &err);
    assert_memory_equal(score, alone, sizeof score);
    for (size_t i = 0; i < N; i++) {
        double least = (double)INFINITY;
        for (int k = 0; k < 3; k++) {
            double from[H];
            for (size_t h = 0; h < H; h++) from[h] = (double)x[i * H + h] - mean[k][h];
            least = fmin(least, quadratic(S, from, H));
        }
        assert_near(score[i], -least, 1e-9 * (1 + least));
    }
    distance_free(&d);
    /* Fewer vectors than dimensions; all equal; not finite; none. */
    ok(distance_fit(&d, x, (int[]){0, 0, 0}, 3, H, 1, NULL, &err), &err);
    ok(distance_score(&d, score, x, N, NULL, &err), &err);
    for (size_t i = 0; i < N; i++) assert_true(isfinite(score[i]) && score[i] <= 0);
    distance_free(&d);
    const float same[] = {1, 2, 1, 2};
    assert_int_equal(distance_fit(&d, same, (int[]){0, 0}, 2, 2, 1, NULL, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "all vectors are equal to the means of their classes");
    assert_int_equal(distance_fit(&d, (float[]){1, NAN}, (int[]){0}, 1, 2, 1, NULL, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "value 1 of vector 0 is not finite");
    assert_int_equal(distance_fit(&d, same, (int[]){0}, 0, 2, 1, NULL, &err), ERR_ARGUMENT);
    for (size_t n = 1;; n++) {
        mem_fail_at(n);
        ErrCode rc = distance_fit(&d, x, y, N, H, K, NULL, &err);
        if (rc == ERR_OK) rc = distance_score(&d, score, x, N, NULL, &err);
        mem_fail_at(0);
        distance_free(&d);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
        assert_true(n < 20);
    }
    threads_close(threads);
}

/* ---- policies ---- */

static const char *const LABELS[] = {"math", "coding", "other"};

static void test_bound(void **state) {
    (void)state;
    /* scipy.stats.beta.ppf(risk, hits, n - hits + 1) */
    static const struct {
        uint64_t hits, n;
        double risk, bound;
    } CASES[] = {{1, 1, 0.05, 0.05},
                 {99, 100, 0.05, 0.9534401885464611},
                 {9, 10, 0.05, 0.6058366975634952},
                 {1, 10, 0.05, 0.005116196891823701},
                 {2955, 3000, 0.0025, 0.9776383543707055},
                 {990, 1000, 0.0025, 0.9775400833116464},
                 {297, 297, 0.0025, 0.9800288379181334}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_near(policy_lower_bound(CASES[i].hits, CASES[i].n, CASES[i].risk), CASES[i].bound, 1e-10);
    assert_near(policy_lower_bound(0, 10, 0.05), 0, 0);
    /* Its promise: below the truth in at least 95 of 100 samples. */
    const double share = 0.9;
    int above = 0;
    for (uint64_t round = 0; round < 2000; round++) {
        uint64_t hits = 0;
        for (uint64_t i = 0; i < 60; i++) hits += uniform("bound", round * 60 + i) < share;
        above += policy_lower_bound(hits, 60, 0.05) > share;
    }
    assert_true(above < 2000 * 0.05 + 5 * sqrt(2000 * 0.05 * 0.95)); /* five standard errors */
}

enum { ROWS = 400 };

typedef struct {
    int truth[ROWS], label[ROWS];
    float score[ROWS];
} Said;

static PolicyRows make_said(Said *s, uint64_t round) {
    for (size_t i = 0; i < ROWS; i++) {
        const uint64_t at = round * ROWS + i;
        const double sure = floor(uniform("sure", at) * 50) / 50;
        s->score[i] = (float)sure;
        s->truth[i] = (int)(uniform("truth", at) * 3);
        s->label[i] = uniform("right", at) < 0.7 + 0.3 * sure ? s->truth[i] : (int)(uniform("other", at) * 3);
    }
    return (PolicyRows){s->truth, s->label, s->score, ROWS, 3};
}

static void rows_at(const PolicyRows *rows, int label, float threshold, uint64_t *of, uint64_t *answered,
                    uint64_t *right) {
    *of = *answered = *right = 0;
    for (size_t i = 0; i < rows->n; i++) {
        if (label >= 0 && rows->label[i] != label) continue;
        ++*of;
        if (rows->score[i] < threshold) continue;
        ++*answered;
        *right += rows->label[i] == rows->truth[i];
    }
}

static void test_policies(void **state) {
    (void)state;
    static Said said;
    Err err = {0};
    DecideRule rule;
    Policy policy;
    PolicyChoice choices[3];
    ok(decide_alloc(&rule, 3, &err), &err);
    for (uint64_t round = 0; round < 30; round++) {
        const PolicyRows rows = make_said(&said, round);
        for (int per_class = 0; per_class < 2; per_class++) {
            const int groups = per_class ? 3 : 1;
            uint64_t of, answered, right, less;
            ok(policy_parse(&policy, "coverage=0.8", LABELS, 3, &err), &err);
            policy.per_class = per_class;
            ok(policy_choose(&rule, choices, &policy, &rows, &err), &err);
            for (int k = 0; k < groups; k++) {
                const int label = per_class ? k : -1;
                rows_at(&rows, label, rule.threshold[k], &of, &answered, &right);
                assert_true(answered == choices[k].answered && right == choices[k].right &&
                            of == choices[k].rows);
                assert_true((double)answered >= 0.8 * (double)of);
                /* without the least sure of those answered it would be too few */
                float lowest = FLT_MAX;
                for (size_t i = 0; i < ROWS; i++)
                    if ((label < 0 || rows.label[i] == label) && rows.score[i] >= rule.threshold[k])
                        lowest = fminf(lowest, rows.score[i]);
                rows_at(&rows, label, nextafterf(lowest, 2), &of, &less, &right);
                assert_true((double)less < 0.8 * (double)of);
            }
            policy_free(&policy);
            ok(policy_parse(&policy, "precision=0.75", LABELS, 3, &err), &err);
            policy.per_class = per_class;
            ok(policy_choose(&rule, choices, &policy, &rows, &err), &err);
            for (int k = 0; k < groups; k++) {
                rows_at(&rows, per_class ? k : -1, rule.threshold[k], &of, &answered, &right);
                assert_true(answered == choices[k].answered && right == choices[k].right);
                if (answered == 0) continue;
                assert_true(choices[k].bound >= 0.75);
                assert_near(choices[k].bound, policy_lower_bound(right, answered, 0.0025), 1e-12);
            }
            policy_free(&policy);
        }
        /* Costs: no threshold has less, tried for each score and for none. */
        cJSON *tree = cJSON_Parse(
            "{\"abstain\": {\"math\": 0.1, \"coding\": 0.2, \"other\": 0.15}, \"wrong\": 1,"
            " \"right\": 0, \"costs\": {\"math\": {\"other\": 0.5}}}");
        ok(policy_costs(&policy, tree, LABELS, 3, &err), &err);
        ok(policy_choose(&rule, choices, &policy, &rows, &err), &err);
        const double least = policy_measure(&rule, &policy, &rows).cost;
        DecideRule other;
        ok(decide_copy(&other, &rule, 3, &err), &err);
        for (int t = 0; t <= 51; t++) {
            for (int k = 0; k < 3; k++) other.threshold[k] = (float)t / 50 - 0.01f;
            assert_true(policy_measure(&other, &policy, &rows).cost >= least - 1e-12);
        }
        policy.per_class = true; /* three thresholds are no worse than one */
        ok(policy_choose(&other, NULL, &policy, &rows, &err), &err);
        assert_true(other.per_class && policy_measure(&other, &policy, &rows).cost <= least + 1e-12);
        decide_free(&other);
        policy_free(&policy);
    }
    /* By hand: scores 0.9 0.8 0.8 0.6, of which 0.6 is wrong. */
    const int truth[] = {0, 1, 0, 2}, label[] = {0, 1, 0, 0};
    const float score[] = {0.9f, 0.8f, 0.8f, 0.6f};
    const PolicyRows four = {truth, label, score, 4, 3};
    ok(policy_costs(&policy, cJSON_Parse("{\"abstain\": 0.4}"), LABELS, 3, &err), &err);
    ok(policy_choose(&rule, choices, &policy, &four, &err), &err);
    assert_near((double)rule.threshold[0], 0.7, 1e-7);
    assert_true(choices[0].answered == 3 && choices[0].right == 3);
    PolicyOutcome outcome = policy_measure(&rule, &policy, &four);
    assert_near(outcome.cost, 0.1, 1e-12);
    assert_near(outcome.cost_always, 0.25, 1e-12);
    assert_near(outcome.coverage.value, 0.75, 0);
    policy.abstain[0] = policy.abstain[1] = policy.abstain[2] = -1; /* paid for not answering */
    ok(policy_choose(&rule, choices, &policy, &four, &err), &err);
    assert_true(choices[0].answered == 0 && rule.threshold[0] >= FLT_MAX);
    policy.abstain[0] = policy.abstain[1] = policy.abstain[2] = 2;
    ok(policy_choose(&rule, choices, &policy, &four, &err), &err);
    assert_true(choices[0].answered == 4 && rule.threshold[0] <= -FLT_MAX);
    policy_free(&policy);
    ok(policy_parse(&policy, "precision=0.98", LABELS, 3, &err), &err);
    assert_int_equal(policy_choose(&rule, choices, &policy, &four, &err), ERR_GATE);
    assert_string_equal(err.msg,
                        "policy: no threshold shows a precision of 0.98 with 95 % confidence; the most that "
                        "can be shown is 0.1357, for the surest 3 of 4 rows: ask for less, or give more "
                        "calibration rows");
    const PolicyRows no = {truth, label, score, 0, 3};
    assert_int_equal(policy_choose(&rule, choices, &policy, &no, &err), ERR_ARGUMENT);
    policy_free(&policy);
    decide_free(&rule);
}

/* What precision=P promises: new rows of the same kind keep it, but for 5 of 100 runs. */
static void test_promise(void **state) {
    (void)state;
    enum { RUNS = 300, NEW = 20000 };
    Err err = {0};
    DecideRule rule;
    Policy policy;
    static Said said;
    ok(decide_alloc(&rule, 3, &err), &err);
    ok(policy_parse(&policy, "precision=0.9", LABELS, 3, &err), &err);
    int broken = 0, shown = 0;
    for (uint64_t round = 0; round < RUNS; round++) {
        const PolicyRows rows = make_said(&said, 1000 + round);
        if (policy_choose(&rule, NULL, &policy, &rows, &err) != ERR_OK) continue;
        shown++;
        /* of scores 0, 0.02 .. 0.98, right with 0.7 + 0.3 s, or else by one chance in three */
        double right = 0, answered = 0;
        for (int s = 0; s < 50; s++) {
            if ((float)(s / 50.0) < rule.threshold[0]) continue;
            const double p = 0.7 + 0.3 * s / 50;
            right += p + (1 - p) / 3;
            answered++;
        }
        broken += right / answered < 0.9;
    }
    (void)printf("precision 0.9 was shown in %d of %d runs, and broken in %d\n", shown, RUNS, broken);
    assert_true(shown > RUNS / 2);
    assert_true(broken <= 0.05 * shown + 5 * sqrt(0.05 * 0.95 * shown)); /* five standard errors */
    policy_free(&policy);
    decide_free(&rule);
}

static void test_policy_errors(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } TEXTS[] = {
        {"precision", "policy: found 'precision', expected precision=P, coverage=C or cost=FILE"},
        {"precision=1", "policy: found 'precision=1', expected a number between 0 and 1 behind precision="},
        {"precision=98%",
         "policy: found 'precision=98%', expected a number between 0 and 1 behind precision="},
        {"coverage=nan", "policy: found 'coverage=nan', expected a number between 0 and 1 behind coverage="},
        {"coverage=", "policy: found 'coverage=', expected a number between 0 and 1 behind coverage="}};
    static const struct {
        const char *json, *message;
    } FILES[] = {
        {"[]", "expected a JSON object such as {\"abstain\": 0.2, \"wrong\": 1}"},
        {"{}", "abstain is missing: what not answering costs, such as 0.2 (a wrong answer costs 1)"},
        {"{\"abstain\": \"x\"}", "abstain: expected a number between -1e+12 and 1e+12"},
        {"{\"abstain\": 1e300}", "abstain: expected a number between -1e+12 and 1e+12"},
        {"{\"abstain\": 0, \"costs\": 3}", "costs: expected an object from true labels to objects"},
        {"{\"abstain\": 0, \"costs\": {\"maht\": {}}}",
         "costs: maht: 'maht' is none of the router's labels; did you mean 'math'?"},
        {"{\"abstain\": 0, \"costs\": {\"math\": {\"xyzzy\": 1}}}",
         "costs: math: 'xyzzy' is none of the router's labels"},
        {"{\"abstain\": 0, \"costs\": {\"math\": {\"other\": null}}}",
         "costs: math: other: expected a number between -1e+12 and 1e+12"},
        {"{\"abstain\": {\"math\": 1}}", "abstain: costs for 1 labels, expected one for each of 3"},
        {"{\"abstain\": 0, \"wrogn\": 1}", "unknown key 'wrogn', expected abstain, wrong, right or costs"},
        {"{\"abstain\": 0, \"wrong\": true}", "key \"wrong\": found true or false, expected a number"},
    };
    Err err = {0};
    Policy policy;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        assert_int_equal(policy_parse(&policy, TEXTS[i].text, LABELS, 3, &err), ERR_ARGUMENT);
        assert_string_equal(err.msg, TEXTS[i].message);
    }
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        char text[300], message[600];
        const char *path = in_folder("cost.json");
        ok(file_save(path, FILES[i].json, strlen(FILES[i].json), &err), &err);
        (void)snprintf(text, sizeof text, "cost=%s", path);
        (void)snprintf(message, sizeof message, "%s: %s", path, FILES[i].message);
        assert_int_equal(policy_parse(&policy, text, LABELS, 3, &err), ERR_FORMAT);
        assert_string_equal(err.msg, message);
    }
    assert_int_equal(policy_parse(&policy, "cost=/nonexistent/x", LABELS, 3, &err), ERR_IO);
}

/* ---- a whole model ---- */

/* Rows for the tiny blob, whose texts it can tell apart a little. */
static const char *write_rows(const char *name, int n, bool labels) {
    Buf out = {0};
    for (int i = 0; i < n; i++) {
        buf_printf(&out, "{\"text\": \"");
        for (int w = 0; w < 4; w++)
            buf_puts(&out, (const char *[]){"a ", "b ", "the ", "abc ",
                                            "e "}[(int)(5 * uniform(name, (uint64_t)(4 * i + w)))]);
        buf_puts(&out, "\"");
        if (labels) buf_printf(&out, ", \"label\": \"%s\"", LABELS[(int)(3 * uniform("label", (uint64_t)i))]);
        buf_puts(&out, "}\n");
    }
    const char *path = in_folder("%s", name);
    assert_int_equal(file_save(path, out.data, out.len, NULL), ERR_OK);
    buf_free(&out);
    return path;
}

typedef struct {
    Predictor *p;
    Rows rows[CALIBRATE_SETS];
    CalibrateModel model;
} Whole;

static ErrCode calibrate_whole(Whole *w, const char *blob, const CalibrateModelRule *rule, Err *err) {
    static const char *const FILES[] = {"fitted", "test", "ood"}, *const NAMES[] = {"fitted rows",
                                                                                    "test rows", "o\"od"};
    const Rows *sets[CALIBRATE_SETS];
    *w = (Whole){0};
    ErrCode rc = predict_open(&w->p, blob, &(PredictRule){0}, NULL, err);
    for (int s = 0; rc == ERR_OK && s < CALIBRATE_SETS; s++) {
        const RowsRule rows = {.split = SPLIT_COUNT, .unlabelled = s == CALIBRATE_OOD};
        rc = rows_read(&w->rows[s], in_folder("%s", FILES[s]), &rows, predict_labels(w->p), 3, err);
        sets[s] = &w->rows[s];
    }
    if (rc == ERR_OK) rc = calibrate_model_fit(&w->model, w->p, sets, NAMES, rule, NULL, err);
    return rc;
}

static void free_whole(Whole *w) {
    calibrate_model_free(&w->model);
    for (int s = 0; s < CALIBRATE_SETS; s++) rows_free(&w->rows[s]);
    predict_close(w->p);
}

static void test_model(void **state) {
    (void)state;
    const DecideRule plain = {.temperature = 1};
    char path[256]; /* in_folder's own is used again */
    (void)snprintf(path, sizeof path, "%s", in_folder("model.safetensors"));
    Buf file = {0};
    Err err = {0};
    ok(tiny_rule_blob(&file, &plain, &err), &err);
    ok(file_save(path, file.data, file.len, &err), &err);
    (void)write_rows("fitted", 90, true);
    (void)write_rows("test", 60, true);
    (void)write_rows("ood", 30, false);
    const CalibrateModelRule rule = {
        .policy = "coverage=0.6", .score = DECIDE_MARGIN, .fallback = "other", .vector = true};
    Whole w;
    ok(calibrate_whole(&w, path, &rule, &err), &err);
    const CalibrateModel *m = &w.model;
    assert_true(m->blob && m->sets[0].n == 90 && m->sets[1].n == 60 && m->sets[2].n == 0 &&
                m->sets[2].rows == 30);
    assert_true(m->has_ood && m->has_distance && m->rule.fallback == 2 && m->rule.score == DECIDE_MARGIN);
    assert_true(m->sets[0].outcome.coverage.value >= 0.6 && m->sets[0].after.n == 90);
    assert_near(m->sets[0].after.nll.value, m->fit.nll[m->fit.kind], 1e-12);
    ok(calibrate_model_save_blob(m, path, path, &err), &err);

    /* librouter answers what the report says. */
    char error[ROUTER_ERROR_BYTES];
    Router *router;
    uint64_t answered = 0;
    assert_int_equal(router_open(&router, path, NULL, error, sizeof error), ROUTER_OK);
    RowText *texts;
    int *labels;
    ok(rows_views(&texts, &labels, &w.rows[1], &err), &err);
    for (size_t i = 0; i < 60; i++) {
        RouterAnswer a;
        assert_int_equal(router_classify(router, texts[i].text, texts[i].n, &a, NULL, error, sizeof error),
                         ROUTER_OK);
        answered += !a.abstained;
        assert_int_equal(a.fallback, 2);
    }
    assert_int_equal(answered, m->sets[1].outcome.answered);
    mem_free(texts);
    mem_free(labels);
    router_close(router);

    /* The report: JSON that parses and says the same, a table that fits. */
    Buf json = {0}, table = {0};
    calibrate_report_json(&json, m);
    calibrate_report_table(&table, m);
    cJSON *root;
    ok(json_parse(&root, json.data, json.len, &err), &err);
    const cJSON *sets = cJSON_GetObjectItem(root, "sets"), *test = cJSON_GetObjectItem(sets, "test");
    const cJSON *after = cJSON_GetObjectItem(test, "after");
    assert_near(cJSON_GetObjectItem(cJSON_GetObjectItem(after, "adaptive_ece"), "value")->valuedouble,
                m->sets[1].after.adaptive_ece.value, 1e-9);
    assert_int_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(test, "answered"), "n")->valueint,
                     (int)answered);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(cJSON_GetObjectItem(sets, "ood"), "after")));
    assert_string_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(sets, "ood"), "name")->valuestring, "o\"od");
    const cJSON *ood = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "ood"), "scores");
    assert_near(cJSON_GetObjectItem(cJSON_GetObjectItem(ood, "distance"), "auroc")->valuedouble,
                m->distance.auroc, 1e-9);
    size_t columns = 0;
    for (size_t i = 0; i < table.len; i++) {
        columns = table.data[i] == '\n' ? 0 : columns + 1;
        if (columns > 100) fail_msg("a line of more than 100 columns:\n%s", table.data);
    }
    if (getenv("TEST_SHOW")) print_message("%s", table.data);
    cJSON_Delete(root);
    buf_free(&json);
    buf_free(&table);
    free_whole(&w);

    /* The blob remembers its policy; doing it again changes nothing. */
    Blob blob;
    CalibrateModelRule kept;
    cJSON *cost;
    Buf before = {0}, again = {0};
    ok(file_read(&before, path, (size_t)1 << 30, &err), &err);
    ok(blob_open(&blob, path, NULL, NULL, &err), &err);
    ok(calibrate_model_rule(&kept, &cost, &blob, &err), &err);
    assert_null(cost);
    assert_string_equal(kept.policy, "coverage=0.6");
    assert_true(kept.score == DECIDE_MARGIN && !kept.per_class && strcmp(kept.fallback, "other") == 0);
    ok(calibrate_whole(&w, path, &kept, &err), &err);
    ok(calibrate_model_save_blob(&w.model, path, path, &err), &err);
    ok(file_read(&again, path, (size_t)1 << 30, &err), &err);
    assert_true(before.len == again.len && memcmp(before.data, again.data, again.len) == 0);
    free_whole(&w);
    blob_close(&blob);

    /* What cannot be. */
    CalibrateModelRule wrong = {.policy = "coverage=0.6", .fallback = "othr", .score = DECIDE_MARGIN};
    assert_int_equal(calibrate_whole(&w, path, &wrong, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "fallback: 'othr' is none of the router's labels; did you mean 'other'?");
    free_whole(&w);
    wrong = (CalibrateModelRule){.fallback = "other"};
    assert_int_equal(calibrate_whole(&w, path, &wrong, &err), ERR_ARGUMENT);
    free_whole(&w);
    for (size_t n = 1, rc = 1; rc; n += 1 + n / 20) {
        mem_fail_at(n);
        const ErrCode found = calibrate_whole(&w, path, &rule, &err);
        mem_fail_at(0);
        free_whole(&w);
        if (found != ERR_OK) assert_int_equal(found, ERR_MEMORY);
        rc = found != ERR_OK;
    }
    buf_free(&file);
    buf_free(&before);
    buf_free(&again);
}

/* A folder's config.json keeps what is not ours. */
static void test_folder(void **state) {
    (void)state;
    static const char CONFIG[] =
        "{\"model_type\": \"deberta-v2\", \"layer_norm_eps\": 1e-07, \"router_max_length\": 33,"
        " \"router_bias\": [1], \"label2id\": {\"a\\u0000b\": 1}}";
    Err err = {0};
    const char *path = in_folder("config.json");
    ok(file_save(path, CONFIG, strlen(CONFIG), &err), &err);
    CalibrateModel m = {.labels = LABELS, .K = 3, .policy_text = "cost=c.json", .choices = NULL};
    m.sets[0].name = "data.shard (calibration)";
    m.sets[0].n = 12;
    m.sets[0].before.ece = (Interval){0.25, 0.2, 0.3};
    m.fit = (Calibration){.kind = CALIBRATE_TEMPERATURE, .folds = 5};
    tiny_rule(&m.rule, 3, seed, 12);
    ok(policy_costs(&m.policy, cJSON_Parse("{\"abstain\": 0.25}"), LABELS, 3, &err), &err);
    for (int twice = 0; twice < 2; twice++) {
        ok(calibrate_model_save_folder(&m, folder, &err), &err);
        cJSON *root;
        DecideRule rule;
        ok(json_read(&root, path, &err), &err);
        ok(decide_json_read(&rule, root, LABELS, 3, &err), &err);
        assert_true(tiny_rules_equal(&rule, &m.rule, 3));
        assert_int_equal(cJSON_GetObjectItem(root, "router_max_length")->valueint, 33);
        assert_true(cJSON_GetObjectItem(root, "layer_norm_eps")->valuedouble == 1e-7);
        assert_null(cJSON_GetObjectItem(root, "router_bias"));
        assert_int_equal(cJSON_GetArraySize(root), 7);
        const cJSON *decision = cJSON_GetObjectItem(root, "router_decision");
        assert_string_equal(cJSON_GetObjectItem(decision, "policy")->valuestring, "cost=c.json");
        assert_true(cJSON_GetObjectItem(cJSON_GetObjectItem(decision, "cost"), "abstain")->valuedouble ==
                    0.25);
        const cJSON *record = cJSON_GetObjectItem(root, "router_calibration");
        assert_string_equal(cJSON_GetObjectItem(record, "precision")->valuestring, "fp32");
        assert_true(cJSON_GetObjectItem(cJSON_GetObjectItem(record, "before"), "ece")->valuedouble == 0.25);
        decide_free(&rule);
        cJSON_Delete(root);
    }
    ok(file_save(path, "[1]", 3, &err), &err);
    assert_int_equal(calibrate_model_save_folder(&m, folder, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "/config.json: expected a JSON object"));
    Buf kept = {0};
    ok(file_read(&kept, path, 100, &err), &err);
    assert_memory_equal(kept.data, "[1]", 3);
    buf_free(&kept);
    calibrate_model_free(&m);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adaptive_ece),
        cmocka_unit_test(test_scores_by_hand),
        cmocka_unit_test(test_scores_definition),
        cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_promise),
        cmocka_unit_test(test_policy_errors),
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_folder),
    };
    return folder_close(cmocka_run_group_tests_name("calibrate", tests, NULL, NULL));
}
