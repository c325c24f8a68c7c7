/* tests/test_policy.c - when to answer: scores, distances, thresholds, each against its definition or by hand. */
#include <float.h>

#include "core/file.h"
#include "eval/distance.h"
#include "eval/policy.h"
#include "eval/scores.h"
#include "tests/tiny_rule.h"
#include "tests/unit.h"

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

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_by_hand), cmocka_unit_test(test_scores_definition),
        cmocka_unit_test(test_distance),       cmocka_unit_test(test_bound),
        cmocka_unit_test(test_policies),       cmocka_unit_test(test_promise),
        cmocka_unit_test(test_policy_errors),
    };
    return folder_close(cmocka_run_group_tests_name("policy", tests, NULL, NULL));
}
