/* tests/test_compare.c - two routers compared: tests and intervals against sums and simulations, flips, rules, files of
 * predictions, and the command. */
#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/threads.h"
#include "eval/answers.h"
#include "eval/compare.h"
#include "eval/compare_cmd.h"
#include "eval/predictions.h"
#include "eval/rules.h"
#include "tests/unit.h"

/* ---- McNemar, Newcombe ---- */

static void test_mcnemar(void **state) {
    (void)state;
    CompareMcnemar m;
    compare_mcnemar(&m, 5, 10, 2, 7); /* 2 (1 + 12 + 66) / 4096 */
    assert_near(m.exact_p, 0.03857421875, 1e-15);
    assert_near(m.mid_p, 0.03857421875 - 66.0 / 4096, 1e-15);
    assert_near(m.chi2, 49.0 / 12, 1e-14);
    assert_near(m.chi2_p, 0.043308142810792, 1e-12);
    compare_mcnemar(&m, 5, 0, 0, 7);
    assert_near(m.exact_p + m.mid_p + m.chi2 + m.chi2_p, 3, 0);
    compare_mcnemar(&m, 0, 3, 3, 0);
    assert_near(m.exact_p, 1, 0);
    assert_near(m.mid_p, 1, 0);
    assert_near(m.chi2, 0, 0);
    /* all sums of Pascal's triangle up to 120 rows that differ */
    long double row[121] = {1};
    for (uint64_t n = 1; n <= 120; n++) {
        for (uint64_t k = n; k > 0; k--) row[k] = (row[k] + row[k - 1]) / 2;
        row[0] /= 2;
        long double below = 0;
        for (uint64_t k = 0; 2 * k <= n; k++) {
            below += row[k];
            compare_mcnemar(&m, 1, k, n - k, 1);
            assert_near(m.exact_p, fmin(1, (double)(2 * below)),
                        1e-12 * m.exact_p); /* lgamma's last bits, times e to their size */
            assert_near(m.mid_p, 2 * k == n ? 1 : (double)(2 * below - row[k]), 1e-12);
            CompareMcnemar swapped;
            compare_mcnemar(&swapped, 1, n - k, k, 1);
            assert_near(swapped.exact_p, m.exact_p, 0);
            assert_near(swapped.mid_p, m.mid_p, 0);
        }
    }
    /* where there are many, the three agree */
    compare_mcnemar(&m, 0, 1000000, 1003000, 0);
    assert_near(m.exact_p, m.chi2_p, 1e-5);
    assert_true(m.mid_p < m.exact_p && m.exact_p > 0.03 && m.exact_p < 0.04);
    compare_mcnemar(&m, 0, 0, 5000, 0);
    assert_near(m.exact_p, 0, 0);
}

static void test_paired(void **state) {
    (void)state;
    /* Newcombe's first example (1998): 36, 12, 2, 0 */
    Interval i = compare_paired(36, 2, 12, 0);
    assert_near(i.value, 0.2, 1e-15);
    assert_near(i.low, 0.0569, 5e-5);
    assert_near(i.high, 0.3404, 5e-5);
    const Interval swapped = compare_paired(36, 12, 2, 0);
    assert_near(swapped.low, -i.high, 1e-15);
    assert_near(swapped.high, -i.low, 1e-15);
    i = compare_paired(0, 0, 0, 0);
    assert_true(i.low == -1 && i.high == 1);
    i = compare_paired(50, 0, 0, 0);
    assert_true(i.value == 0 && i.low < 0 && i.high > 0);
    /* it holds the truth about as often as it says */
    int held = 0;
    for (uint64_t round = 0; round < 2000; round++) {
        uint64_t n[4] = {0};
        for (uint64_t k = 0; k < 60; k++) {
            const double u = rng_uniform(rng_key(seed, "paired", round), k);
            n[u < 0.6 ? 0 : u < 0.7 ? 1 : u < 0.85 ? 2 : 3]++;
        }
        i = compare_paired(n[0], n[1], n[2], n[3]);
        assert_true(i.low <= i.value && i.value <= i.high);
        held += i.low <= 0.05 && 0.05 <= i.high;
    }
    assert_in_range(held, 1840, 1980); /* 1,900 expected, standard error 10 */
}

/* ---- differences ---- */

static void test_by_hand(void **state) {
    (void)state;
    /* labels 0 0 1 1 2; A says 0 1 1 0 2, B says 0 0 1 2 1 */
    const int labels[] = {0, 0, 1, 1, 2};
    const double p[] = {0.8, 0.1, 0.1, 0.3, 0.6, 0.1, 0.2, 0.7, 0.1, 0.9, 0.05, 0.05, 0.1, 0.1, 0.8};
    const double q[] = {0.6, 0.2, 0.2, 0.5, 0.25, 0.25, 0, 1, 0, 0.1, 0.2, 0.7, 0.2, 0.75, 0.05};
    Compare c;
    Err err = {0};
    ok(compare_compute(&c, p, q, labels, 5, 3, 0, 1, NULL, &err), &err);
    assert_int_equal(c.mcnemar.both, 2);
    assert_int_equal(c.mcnemar.only_a, 1);
    assert_int_equal(c.mcnemar.only_b, 1);
    assert_int_equal(c.mcnemar.neither, 1);
    assert_near(c.accuracy.value, 0, 0);
    assert_int_equal(c.flip_count, 3);
    assert_int_equal(c.kinds[COMPARE_FIXED], 1);
    assert_int_equal(c.kinds[COMPARE_BROKEN], 1);
    assert_int_equal(c.kinds[COMPARE_OTHER], 1);
    /* lower probabilities 0.75, 0.7, 0.5 */
    const size_t rows[] = {4, 3, 1};
    const CompareKind kinds[] = {COMPARE_BROKEN, COMPARE_OTHER, COMPARE_FIXED};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(c.flips[i].row, rows[i]);
        assert_int_equal(c.flips[i].kind, kinds[i]);
    }
    assert_int_equal(c.flips[0].a, 2);
    assert_int_equal(c.flips[0].b, 1);
    assert_near(c.flips[0].p_a, 0.8, 0);
    assert_near(c.flips[0].p_b, 0.75, 0);
    /* class 0: recall 1/2 to 1, precision 1/2 to 1, F1 1/2 to 1 */
    assert_near(c.classes[0].recall.value, 0.5, 1e-15);
    assert_near(c.classes[0].precision.value, 0.5, 1e-15);
    assert_near(c.classes[0].f1.value, 0.5, 1e-15);
    assert_near(c.classes[2].recall.value, -1, 1e-15);
    const double nll = log(0.8 * 0.3 * 0.7 * 0.05 * 0.8) - log(0.6 * 0.5 * 1 * 0.2 * 0.05);
    assert_near(c.nll.value, nll / 5, 1e-14);
    compare_free(&c);
    compare_free(&c);
    assert_string_equal(compare_kind_name(COMPARE_BROKEN), "broken");
}

static void random_rows(double *p, double *q, int *labels, size_t n, int K, uint64_t key) {
    for (size_t i = 0; i < n; i++) {
        double sum_p = 0, sum_q = 0;
        labels[i] = (int)(rng_uniform(key, i) * K);
        for (int k = 0; k < K; k++) {
            const size_t at = i * (size_t)K + (size_t)k;
            const double shared = rng_normal(key + 1, at) + (k == labels[i]);
            sum_p += p[at] = exp(shared + 0.5 * rng_normal(key + 2, at));
            sum_q += q[at] = exp(1.4 * shared + 0.5 * rng_normal(key + 3, at));
        }
        for (int k = 0; k < K; k++) {
            p[i * (size_t)K + (size_t)k] /= sum_p;
            q[i * (size_t)K + (size_t)k] /= sum_q;
        }
    }
}

static void assert_same(const Interval *a, const Interval *b) {
    assert_memory_equal(a, b, sizeof *a);
}

static void assert_negated(const Interval *a, const Interval *b) {
    assert_near(a->value, -b->value, 1e-12);
    assert_near(a->low, -b->high, 1e-12);
    assert_near(a->high, -b->low, 1e-12);
}

static void test_differences(void **state) {
    (void)state;
    enum { N = 400, K = 4 };
    static double p[N * K], q[N * K];
    static int labels[N];
    random_rows(p, q, labels, N, K, rng_key(seed, "differences", 0));
    Threads *threads;
    Compare c, again, swapped;
    Err err = {0};
    ok(threads_open(&threads, 3, &err), &err);
    ok(compare_compute(&c, p, q, labels, N, K, 0, 7, NULL, &err), &err);
    ok(compare_compute(&again, p, q, labels, N, K, 0, 7, threads, &err), &err);
    ok(compare_compute(&swapped, q, p, labels, N, K, 0, 7, threads, &err), &err);
    threads_close(threads);
    const Interval *mine[] = {&c.macro_f1, &c.macro_recall, &c.nll, &c.brier, &c.ece, &c.classes[1].f1};
    const Interval *threaded[] = {&again.macro_f1, &again.macro_recall, &again.nll,
                                  &again.brier,    &again.ece,          &again.classes[1].f1};
    const Interval *other[] = {&swapped.macro_f1, &swapped.macro_recall, &swapped.nll,
                               &swapped.brier,    &swapped.ece,          &swapped.classes[1].f1};
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++) {
        assert_same(mine[i], threaded[i]);
        assert_negated(mine[i], other[i]);
        assert_true(mine[i]->low < mine[i]->value && mine[i]->value < mine[i]->high);
    }
    assert_near(c.macro_f1.value, c.b.macro_f1.value - c.a.macro_f1.value, 1e-14);
    assert_near(c.macro_recall.value, c.b.macro_recall.value - c.a.macro_recall.value, 1e-14);
    assert_near(c.nll.value, c.b.nll.value - c.a.nll.value, 1e-14);
    assert_near(c.brier.value, c.b.brier.value - c.a.brier.value, 1e-14);
    assert_near(c.ece.value, c.b.ece.value - c.a.ece.value, 1e-14);
    assert_near(c.accuracy.value, c.b.accuracy.value - c.a.accuracy.value, 1e-14);
    for (int k = 0; k < K; k++) {
        assert_near(c.classes[k].recall.value, c.b.classes[k].recall.value - c.a.classes[k].recall.value,
                    1e-14);
        assert_near(c.classes[k].precision.value,
                    c.b.classes[k].precision.value - c.a.classes[k].precision.value, 1e-14);
        assert_near(c.classes[k].f1.value, c.b.classes[k].f1 - c.a.classes[k].f1, 1e-14);
    }
    assert_int_equal(c.kinds[0] + c.kinds[1] + c.kinds[2], c.flip_count);
    for (size_t i = 1; i < c.flip_count; i++)
        assert_true(fmin(c.flips[i - 1].p_a, c.flips[i - 1].p_b) >= fmin(c.flips[i].p_a, c.flips[i].p_b));
    /* of a mean the bootstrap must find about what the normal approximation does */
    double mean = 0, squares = 0;
    for (int i = 0; i < N; i++) mean += log(p[i * K + labels[i]]) - log(q[i * K + labels[i]]);
    mean /= N;
    for (int i = 0; i < N; i++)
        squares += pow(log(p[i * K + labels[i]]) - log(q[i * K + labels[i]]) - mean, 2);
    const double half = 1.96 * sqrt(squares / (N - 1) / N);
    assert_near(c.nll.low, mean - half, 0.15 * half);
    assert_near(c.nll.high, mean + half, 0.15 * half);
    compare_free(&c);
    compare_free(&again);
    compare_free(&swapped);
    /* a router against itself */
    ok(compare_compute(&c, p, p, labels, N, K, 50, 7, NULL, &err), &err);
    assert_true(c.flip_count == 0 && c.nll.low == 0 && c.nll.high == 0 && c.ece.high == 0);
    assert_near(c.mcnemar.exact_p, 1, 0);
    compare_free(&c);
    assert_int_equal(compare_compute(&c, p, q, labels, 0, K, 0, 0, NULL, &err), ERR_ARGUMENT);
    p[5] = NAN;
    assert_int_equal(compare_compute(&c, p, q, labels, N, K, 0, 0, NULL, &err), ERR_NUMERIC);
    random_rows(p, q, labels, N, K, rng_key(seed, "differences", 1));
    EACH_ALLOCATION_FAILS(100, compare_compute(&c, p, q, labels, 40, K, 20, 0, NULL, NULL));
    compare_free(&c);
}

static void test_labels(void **state) {
    (void)state;
    const char *const a[] = {"math", "code"}, *const b[] = {"law", "code", "art"};
    CompareLabels l;
    Err err = {0};
    ok(compare_labels(&l, a, 2, b, 3, &err), &err);
    assert_int_equal(l.K, 4);
    assert_int_equal(l.shared, 1);
    const char *const all[] = {"math", "code", "law", "art"};
    for (int k = 0; k < 4; k++) assert_string_equal(l.names[k], all[k]);
    const int column_a[] = {0, 1}, column_b[] = {2, 1, 3};
    assert_memory_equal(l.column_a, column_a, sizeof column_a);
    assert_memory_equal(l.column_b, column_b, sizeof column_b);
    compare_labels_free(&l);
    EACH_ALLOCATION_FAILS(100, compare_labels(&l, a, 2, b, 3, NULL));
    compare_labels_free(&l);
}

/* ---- rules ---- */

static ErrCode parse_rules(Rules *rules, const char *text, Err *err) {
    cJSON *root;
    ok(json_parse(&root, text, strlen(text), err), err);
    const ErrCode rc = rules_parse(rules, root, err);
    cJSON_Delete(root);
    return rc;
}

static void test_rules(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } BAD[] = {
        {"[]", "expected a JSON object of rules such as {\"max_accuracy_drop\": 0.5}"},
        {"{}", "no rules: such a gate passes everything"},
        {"{\"_comment\": 1}", "no rules: such a gate passes everything"},
        {"{\"max_acuracy_drop\": 1}", "unknown rule 'max_acuracy_drop'; did you mean 'max_accuracy_drop'?"},
        {"{\"speed\": 1}", "unknown rule 'speed'; 'router compare --help' lists them"},
        {"{\"max_flip_rate\": \"2\"}", "max_flip_rate: expected a number"},
        {"{\"max_flip_rate\": -1}", "max_flip_rate: found -1, expected 0 to 100"},
        {"{\"max_flip_rate\": {\"math\": 1}}", "max_flip_rate: expected a number"},
        {"{\"max_class_f1_drop\": {\"math\": 101}}",
         "max_class_f1_drop: math: found 101, expected -100 to 100"},
        {"{\"max_class_f1_drop\": null}", "max_class_f1_drop: expected a number"},
    };
    Rules rules;
    Err err = {0};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(parse_rules(&rules, BAD[i].text, &err), ERR_ARGUMENT);
        assert_string_equal(err.msg, BAD[i].message);
        assert_int_equal(rules.count, 0);
    }
    assert_int_equal(rules_read(&rules, save("rules.json", "{\"max_flip_rat\": 1}"), &err), ERR_ARGUMENT);
    assert_says(&err, "rules.json: unknown rule 'max_flip_rat'; did you mean 'max_flip_rate'?");

    /* rows of test_by_hand */
    const int labels[] = {0, 0, 1, 1, 2};
    const double p[] = {0.8, 0.1, 0.1, 0.3, 0.6, 0.1, 0.2, 0.7, 0.1, 0.9, 0.05, 0.05, 0.1, 0.1, 0.8};
    const double q[] = {0.6, 0.2, 0.2, 0.5, 0.25, 0.25, 0, 1, 0, 0.1, 0.2, 0.7, 0.2, 0.75, 0.05};
    static const char *const NAMES[] = {"math", "code", "law", "art"};
    const RulesFacts facts = {0.25, NAN};
    Compare c;
    ok(compare_compute(&c, p, q, labels, 5, 3, 1, 1, NULL, &err), &err);
    static const struct {
        const char *text;
        double measured;
        bool passed;
    } RULES[] = {
        {"{\"max_accuracy_drop\": 0}", 0, true},
        {"{\"max_accuracy_drop\": -1}", 0, false},
        {"{\"max_class_recall_drop\": {\"math\": 1}}", -50, true},
        {"{\"max_class_recall_drop\": {\"law\": 99}}", 100, false},
        {"{\"max_class_recall_drop\": 99}", 100, false},
        {"{\"max_class_precision_drop\": 100}", 100, true},
        {"{\"max_flip_rate\": 60}", 60, true},
        {"{\"max_flip_rate\": 59.9}", 60, false},
        {"{\"max_broken_rate\": 20}", 20, true},
        {"{\"mcnemar_p_at_least\": 1}", 1, true},
        {"{\"min_accuracy\": 60}", 60, true},
        {"{\"min_accuracy\": 61}", 60, false},
        {"{\"min_rows\": 6}", 5, false},
        {"{\"max_size_ratio\": 0.25}", 0.25, true},
    };
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++) {
        ok(parse_rules(&rules, RULES[i].text, &err), &err);
        ok(rules_check(&rules, NAMES, 3, &facts, &err), &err);
        ok(rules_judge(&rules, &c, NAMES, &facts, &err), &err);
        assert_int_equal(rules.count, 1);
        assert_near(rules.items[0].measured, RULES[i].measured, 1e-12);
        assert_int_equal(rules.items[0].passed, RULES[i].passed);
        assert_int_equal(rules_verdict(&rules, &err), RULES[i].passed ? ERR_OK : ERR_GATE);
        rules_free(&rules);
    }
    ok(parse_rules(&rules,
                   "{\"_why\": 0, \"min_rows\": 6, \"max_class_recall_drop\": {\"law\": 5, \"math\": 5}}",
                   &err),
       &err);
    ok(rules_judge(&rules, &c, NAMES, &facts, &err), &err);
    assert_int_equal(rules_verdict(&rules, &err), ERR_GATE);
    assert_string_equal(
        err.msg,
        "2 of 3 rules failed: min_rows is 5 (at least 6); max_class_recall_drop of law is 100 "
        "(at most 5)");
    rules_free(&rules);
    static const struct {
        const char *text, *message;
    } UNKNOWN[] = {
        {"{\"max_class_f1_drop\": {\"mats\": 1}}",
         "max_class_f1_drop: 'mats' is not a label of either router; did you mean 'math'?"},
        {"{\"max_time_ratio\": 1}",
         "max_time_ratio: times are measured where both are models, and without --no-speed"},
    };
    for (size_t i = 0; i < sizeof UNKNOWN / sizeof *UNKNOWN; i++) {
        ok(parse_rules(&rules, UNKNOWN[i].text, &err), &err);
        assert_int_equal(rules_check(&rules, NAMES, 3, &facts, &err), ERR_ARGUMENT);
        assert_string_equal(err.msg, UNKNOWN[i].message);
        rules_free(&rules);
    }
    ok(parse_rules(&rules, "{\"max_size_ratio\": 1, \"max_class_recall_drop\": {\"art\": 1}}", &err), &err);
    assert_int_equal(rules_check(&rules, NAMES, 4, &(RulesFacts){NAN, NAN}, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "max_size_ratio: a file of predictions has no size to compare");
    assert_int_equal(rules_judge(&rules, &c, NAMES, &facts, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "max_class_recall_drop: no row has anything to do with the class 'art'");
    rules_free(&rules);
    compare_free(&c);
    for (size_t n = 1;; n++) {
        cJSON *root;
        ok(json_parse(&root, "{\"max_class_f1_drop\": {\"a\": 1}}", 31, &err), &err);
        mem_fail_at(n);
        const ErrCode rc = rules_parse(&rules, root, NULL);
        mem_fail_at(0);
        cJSON_Delete(root);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
    }
    rules_free(&rules);
}

/* ---- predictions ---- */

static void test_predictions(void **state) {
    (void)state;
    Predictions p;
    Err err = {0};
    const char *path =
        save("good.jsonl",
             "{\"id\": \"r1\", \"label\": \"b\", \"predicted\": \"a\", \"score\": 0.7, "
             "\"probabilities\": {\"a\": 0.7, \"b\": 0.3}, \"text\": \"one\"}\n\n"
             "{\"id\": 7, \"label\": \"b\", \"scores\": {\"b\": 0.5, \"a\": 0.5}, \"truncated\": true}\n");
    ok(predictions_read(&p, path, &err), &err);
    assert_int_equal(p.count, 2);
    assert_int_equal(p.labels.count, 2);
    assert_string_equal(p.labels.items[0], "a");
    assert_near(p.p[0], 0.7, 0);
    assert_near(p.p[2], 0.5, 0);
    assert_true(p.p[3] > 0.5 && p.p[3] < 0.5 + 1e-15); /* the answer that was given stays the answer */
    assert_int_equal(p.items[1].line, 3);
    assert_true(p.items[1].truncated && !p.truncation);
    assert_string_equal(p.bytes.data + p.items[1].id_at, "7");
    predictions_free(&p);
    EACH_ALLOCATION_FAILS(100, predictions_read(&p, path, NULL));
    predictions_free(&p);
    static const struct {
        const char *text, *message;
    } BAD[] = {
        {"", "bad.jsonl: no predictions"},
        {"nonsense\n", "bad.jsonl:1: not valid JSON at line 1, column 1: unexpected text"},
        {"[]\n", "bad.jsonl:1: expected a JSON object such as {\"id\": ..., \"scores\": {...}}"},
        {"{\"id\": 1}\n",
         "bad.jsonl:1: expected an object scores or probabilities, {\"class\": probability, ...}, found "
         "none"},
        {"{\"probabilities\": [0.5, 0.5]}\n",
         "bad.jsonl:1: expected an object scores or probabilities, {\"class\": probability, ...}, found an "
         "array, which "
         "does not name the classes"},
        {"{\"error\": \"no text\"}\n",
         "bad.jsonl:1: no answer but an error (no text): such rows cannot be compared"},
        {"{\"scores\": {\"a\": 1}}\n", "bad.jsonl:1: found 1 classes, expected 2 to 32767"},
        {"{\"scores\": {\"a\": 0.5, \"b\": 0.4}}\n", "bad.jsonl:1: the probabilities sum to 0.9, expected 1"},
        {"{\"scores\": {\"a\": 1.5, \"b\": -0.5}}\n",
         "bad.jsonl:1: the probability of 'a' must be a number from 0 to 1"},
        {"{\"scores\": {\"math\": 0.5, \"b\": 0.5}}\n{\"scores\": {\"maths\": 0.5, \"b\": 0.5}}\n",
         "bad.jsonl:2: the class 'maths' is not among the 2 of the first line; did you mean 'math'?"},
        {"{\"scores\": {\"a\": 0.5, \"b\": 0.5}}\n{\"scores\": {\"a\": 1}}\n",
         "bad.jsonl:2: found 1 of the 2 classes (predict needs --top 0, its default)"},
        {"{\"scores\": {\"a\": 0.9, \"b\": 0.1}, \"label\": \"b\"}\n",
         "bad.jsonl:1: the answer is 'b' with 0.1, but 'a' has 0.9"},
        {"{\"scores\": {\"a\": 0.9, \"b\": 0.1}, \"label\": 1}\n",
         "bad.jsonl:1: predicted: expected a string, the name of a class"},
        {"{\"scores\": {\"a\": 0.9, \"b\": 0.1}, \"id\": 0.5}\n",
         "bad.jsonl:1: id: expected a string or an integer"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(predictions_read(&p, save("bad.jsonl", BAD[i].text), &err), ERR_FORMAT);
        assert_says(&err, BAD[i].message);
    }
    bool is;
    ok(predictions_recognise(&is, path, &err), &err);
    assert_true(is);
    /* headers of 16, 10 ("\n") and 2,683 bytes ("{\n") */
    static const char HEADS[][8] = {{16}, {10}, {'{', 10}};
    for (size_t i = 0; i < sizeof HEADS / sizeof *HEADS; i++) {
        char blob[18] = "........{\"a\": 1}\n";
        memcpy(blob, HEADS[i], 8);
        assert_int_equal(file_save(in_folder("blob"), blob, sizeof blob, NULL), ERR_OK);
        ok(predictions_recognise(&is, in_folder("blob"), &err), &err);
        assert_false(is);
    }
    ok(predictions_recognise(&is, save("table.csv", "id,math,code\n"), &err), &err);
    assert_true(is); /* and refused by what reads it */
}

/* Rows r0, r1, ... with texts "text 0", ...; labels in turn. */
static void make_rows(Rows *rows, size_t n, int K, const char *const *labels) {
    Buf text = {0};
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "{\"id\": \"r%zu\", \"text\": \"text %zu\", \"label\": \"%s\"}\n", i, i,
                   labels[i % (size_t)K]);
    const char *path = save("rows.jsonl", text.data);
    buf_free(&text);
    Err err = {0};
    *rows = (Rows){0};
    ok(rows_read(rows, path, &(RowsRule){.split = SPLIT_COUNT}, labels, K, &err), &err);
}

static void test_match(void **state) {
    (void)state;
    static const char *const LABELS[] = {"a", "b"};
    static const struct {
        const char *text;
        const char *message; /* NULL: at[] is: */
        size_t at[3];
    } CASES[] = {
        {"{S}\n{S}\n{S}\n", NULL, {0, 1, 2}},
        {"{S,\"id\":\"r2\"}\n{S,\"id\":\"r0\"}\n{S,\"id\":\"r9\"}\n{S,\"id\":\"r1\"}\n", NULL, {1, 3, 0}},
        {"{S,\"id\":\"x\",\"text\":\"text 0\"}\n{S}\n{S,\"id\":\"r2\"}\n", NULL, {0, 1, 2}},
        {"{S}\n{S}\n", "p.jsonl:1: no id, and the 2 predictions are not the 3 rows in order", {0}},
        {"{S,\"id\":\"r0\"}\n{S,\"id\":\"r1\"}\n",
         "p.jsonl: no prediction has the id 'r2' of row 3 of the data",
         {0}},
        {"{S,\"id\":\"r1\"}\n{S,\"id\":\"r1\"}\n", "p.jsonl:2: the id 'r1' is that of line 1", {0}},
        {"{S,\"id\":\"r0\"}\n{S,\"id\":\"r1\"}\n{S,\"id\":\"r2\",\"text\":\"else\"}\n",
         "p.jsonl:3: the text \"else\" is not that of the row with the id 'r2'",
         {0}},
        {"{S,\"text\":\"text 0\"}\n{S,\"text\":\"text 2\"}\n{S,\"text\":\"text 1\"}\n",
         "p.jsonl:1: no id, and the 3 predictions are not the 3 rows in order",
         {0}},
    };
    Rows rows;
    make_rows(&rows, 3, 2, LABELS);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Buf text = {0};
        for (const char *s = CASES[i].text; *s; s++) {
            if (*s == 'S')
                buf_puts(&text, "\"scores\":{\"a\":0.75,\"b\":0.25}");
            else
                buf_put(&text, s, 1);
        }
        Predictions p;
        Err err = {0};
        size_t at[3];
        ok(predictions_read(&p, save("p.jsonl", text.data), &err), &err);
        buf_free(&text);
        const ErrCode rc = predictions_match(at, &p, &rows, &err);
        assert_int_equal(rc, CASES[i].message ? ERR_FORMAT : ERR_OK);
        if (CASES[i].message)
            assert_says(&err, CASES[i].message);
        else
            assert_memory_equal(at, CASES[i].at, sizeof at);
        for (size_t n = 1; rc == ERR_OK; n++) {
            mem_fail_at(n);
            const ErrCode again = predictions_match(at, &p, &rows, NULL);
            mem_fail_at(0);
            if (again == ERR_OK) break;
            assert_int_equal(again, ERR_MEMORY);
        }
        predictions_free(&p);
    }
    rows_free(&rows);
}

/* ---- the command ---- */

static double number_at(const cJSON *root, const char *a, const char *b) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, a);
    if (b) item = cJSON_GetObjectItemCaseSensitive(item, b);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

/* Two files of answers with different labels, on rows of a third. */
static void test_command(void **state) {
    (void)state;
    save("data.jsonl",
         "{\"id\": \"x\", \"text\": \"<b>one</b>\", \"label\": \"math\"}\n"
         "{\"id\": \"y\", \"text\": \"two\", \"label\": \"code\"}\n"
         "{\"id\": \"z\", \"text\": \"three\", \"label\": \"law\"}\n");
    save("a.jsonl",
         "{\"id\": \"x\", \"scores\": {\"math\": 0.9, \"code\": 0.1}, \"truncated\": false}\n"
         "{\"id\": \"y\", \"scores\": {\"math\": 0.2, \"code\": 0.8}, \"truncated\": true}\n"
         "{\"id\": \"z\", \"scores\": {\"math\": 0.6, \"code\": 0.4}, \"truncated\": false}\n");
    save("b.jsonl",
         "{\"id\": \"z\", \"scores\": {\"law\": 0.7, \"code\": 0.2, \"math\": 0.1}}\n"
         "{\"id\": \"y\", \"scores\": {\"law\": 0.1, \"code\": 0.8, \"math\": 0.1}}\n"
         "{\"id\": \"x\", \"scores\": {\"law\": 0.5, \"code\": 0.3, \"math\": 0.2}}\n");
    save("gate.json", "{\"max_broken_rate\": 30, \"min_rows\": 3}");
    const char *const *args = ARGS(in_folder("a.jsonl"), in_folder("b.jsonl"), "--data",
                                   in_folder("data.jsonl"), "--json", "--rules", in_folder("gate.json"));
    Buf out = {0};
    Err err = {0};
    assert_int_equal(run_command(&compare_cmd, &out, &err, args), ERR_GATE);
    assert_string_equal(err.msg, "1 of 2 rules failed: max_broken_rate is 33.33 (at most 30)");
    cJSON *root;
    ok(json_parse(&root, out.data, out.len, &err), &err);
    assert_near(number_at(root, "n", NULL), 3, 0);
    assert_near(number_at(root, "labels", "shared"), 2, 0);
    assert_near(number_at(root, "a", "truncated"), 1, 0);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "b"), "truncated")));
    assert_near(number_at(root, "mcnemar", "only_a"), 1, 0);
    assert_near(number_at(root, "mcnemar", "only_b"), 1, 0);
    assert_near(number_at(root, "flips", "count"), 2, 0);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(root, "size_ratio")));
    /* A cannot say law: -ln 1e-15 there */
    const cJSON *a = cJSON_GetObjectItem(root, "a");
    assert_near(number_at(a, "nll", "value"), -(log(0.9) + log(0.8) + log(1e-15)) / 3, 1e-9);
    const cJSON *only_b = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "labels"), "only_b");
    assert_string_equal(cJSON_GetArrayItem(only_b, 0)->valuestring, "law");
    assert_false(cJSON_IsTrue(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "rules"), "passed")));
    cJSON_Delete(root);

    const char *const *page =
        ARGS(in_folder("a.jsonl"), in_folder("b.jsonl"), "--data", in_folder("data.jsonl"), "--report",
             in_folder("c.html"), "--flips", in_folder("f.jsonl"));
    ok(run_command(&compare_cmd, &out, &err, page), &err);
    assert_non_null(strstr(out.data, "the label sets differ (2 shared, 0 only A's, 1 only B's)"));
    assert_non_null(
        strstr(out.data, "2 answers differ (66.67 %): 1 fixed by B, 1 broken by B, 0 wrong in both:"));
    Buf file = {0};
    ok(file_read(&file, in_folder("c.html"), 1 << 20, &err), &err);
    assert_non_null(strstr(file.data, "&lt;b&gt;one&lt;/b&gt;"));
    assert_null(strstr(file.data, "<b>one"));
    ok(file_read(&file, in_folder("f.jsonl"), 1 << 20, &err), &err);
    assert_string_equal(
        file.data,
        "{\"id\": \"z\", \"kind\": \"fixed\", \"label\": \"law\", \"a\": {\"label\": \"math\", \"score\": "
        "0.6}, \"b\": {\"label\": \"law\", \"score\": 0.7}, \"text\": \"three\"}\n"
        "{\"id\": \"x\", \"kind\": \"broken\", \"label\": \"math\", \"a\": {\"label\": \"math\", \"score\": "
        "0.9}, \"b\": {\"label\": \"law\", \"score\": 0.5}, \"text\": \"<b>one</b>\"}\n");
    buf_free(&file);

    static const struct {
        const char *argv[4], *message;
    } BAD[] = {
        {{"a.jsonl", "b.jsonl", NULL, NULL},
         "no run folder with a data.shard: give the rows with --data FILE"},
        {{"a.jsonl", "none", "--data", "data.jsonl"}, "none: cannot open: No such file or directory"},
        {{"a.jsonl", "a.jsonl", "--data", "data.jsonl"},
         "data.jsonl:3: label 'law' is not one of the router's 2 labels (math, code); --skip-unknown leaves "
         "such rows out"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        const char *argv[5] = {0};
        int argc = 0;
        while (argc < 4 && BAD[i].argv[argc]) {
            argv[argc] = BAD[i].argv[argc][0] == '-' ? BAD[i].argv[argc] : in_folder("%s", BAD[i].argv[argc]);
            argc++;
        }
        assert_int_not_equal(run_command(&compare_cmd, &out, &err, argv), ERR_OK);
        assert_says(&err, BAD[i].message);
    }
    EACH_ALLOCATION_FAILS(2000, run_command(&compare_cmd, &out, &err, page));
    buf_free(&out);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mcnemar),     cmocka_unit_test(test_paired), cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_differences), cmocka_unit_test(test_labels), cmocka_unit_test(test_rules),
        cmocka_unit_test(test_predictions), cmocka_unit_test(test_match),  cmocka_unit_test(test_command),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
