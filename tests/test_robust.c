/* tests/test_robust.c - what is done to prompts, and how answers before and after are counted. */
#include <cjson/cJSON.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/text.h"
#include "core/threads.h"
#include "data/noise.h"
#include "eval/predict.h"
#include "eval/robust.h"
#include "tests/tiny_blob.h"
#include "tests/unit.h"

static const char *const LABELS[] = {"math", "coding", "other"};
enum { K = 3 };

/* ---- texts ---- */

static const char *changed_text(Buf *out, const char *kind, double strength, const char *text, int label,
                                uint64_t key, int *named) {
    const RobustCase which = {kind, strength};
    bool changed;
    Err err = {0};
    buf_clear(out);
    assert_int_equal(
        robust_text(out, &changed, named, &which, (RowText){text, strlen(text)}, label, LABELS, K, key, &err),
        ERR_OK);
    if (!changed) assert_int_equal(out->len, 0);
    return changed ? out->data : NULL;
}

static void test_texts(void **state) {
    (void)state;
    Buf out = {0};
    int named;
    bool seen[K] = {false};
    assert_string_equal(changed_text(&out, "fence", 1, "x = 1", 0, 3, &named), "```\nx = 1\n```");
    assert_int_equal(named, -1);
    for (uint64_t key = 0; key < 60; key++) {
        char expected[200];
        const char *text = changed_text(&out, "label_last", 1, "what is it?", 1, key, &named);
        assert_true(named == 0 || named == 2); /* never the row's own */
        seen[named] = true;
        (void)snprintf(expected, sizeof expected, "what is it? This is about %s.", LABELS[named]);
        assert_string_equal(text, expected);
        text = changed_text(&out, "label_first", 3, "what?", 2, key, &named);
        const char *l = LABELS[named];
        (void)snprintf(expected, sizeof expected,
                       "This is about %s. This is about %s. This is about %s. what?", l, l, l);
        assert_string_equal(text, expected);
        text = changed_text(&out, "system", 1, "what is it?", 1, key, &named);
        assert_non_null(strstr(text, "what is it?"));
        assert_true(strlen(text) > 20);
        assert_int_equal(named, -1);
    }
    assert_true(seen[0] && seen[2] && !seen[1]);
    assert_null(changed_text(&out, "punctuation", 1, "no marks here", 0, 1, &named));
    assert_string_equal(changed_text(&out, "punctuation", 1, "no, marks!", 0, 1, &named), "no marks");
    buf_free(&out);
}

/* Every case is one of a known kind, and the same key gives the same text. */
static void test_cases(void **state) {
    (void)state;
    const RobustCase *cases;
    const size_t n = robust_cases(&cases);
    int cuts = 0;
    assert_true(n >= 15 && n <= ROBUST_CASES_MAX);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++)
            assert_false(strcmp(cases[i].kind, cases[j].kind) == 0 &&
                         cases[i].strength - cases[j].strength == 0);
        if (strcmp(cases[i].kind, "truncate") == 0) {
            cuts += cases[i].strength - 128 == 0 || cases[i].strength - 256 == 0;
            continue;
        }
        const char *text = "Please solve this, quickly: what is the derivative of the function?";
        Buf a = {0}, b = {0};
        int named_a, named_b;
        for (uint64_t key = 0; key < 20; key++) {
            assert_non_null(changed_text(&a, cases[i].kind, cases[i].strength, text, 0, key, &named_a));
            (void)changed_text(&b, cases[i].kind, cases[i].strength, text, 0, key, &named_b);
            assert_string_equal(a.data, b.data);
            assert_int_equal(named_a, named_b);
            assert_string_not_equal(a.data, text);
            assert_int_equal(text_utf8_prefix(a.data, a.len), a.len);
        }
        buf_free(&a);
        buf_free(&b);
    }
    assert_int_equal(cuts, 2);
}

/* ---- counting ---- */

static void test_counts(void **state) {
    (void)state;
    /*                      kept mended broken kept-wrong wrong-to-wrong unchanged broken toward */
    const int labels[] = {0, 1, 2, 0, 1, 2, 0, 0};
    const int before[] = {0, 0, 2, 1, 0, 2, 0, 1};
    const int after[] = {0, 1, 1, 1, 2, 2, 2, 2};
    const int named[] = {1, 2, 1, 1, 2, -1, 1, 2};
    const bool changed[] = {true, true, true, true, true, false, true, true};
    RobustResult r = {0};
    robust_count(&r, before, after, changed, named, labels, 8);
    assert_int_equal(r.changed, 7);
    assert_int_equal(r.flips, 5);
    assert_int_equal(r.broken, 2);
    assert_int_equal(r.mended, 1);
    assert_int_equal(r.toward, 3);                 /* rows 2, 4 and 7 */
    assert_near(r.accuracy.value, 3.0 / 8, 1e-15); /* rows 0, 1, 5 */
    assert_near(r.flip_rate.value, 5.0 / 7, 1e-15);
    assert_near(r.flip_rate.low, metrics_wilson(5, 7).low, 0);
    assert_near(r.drop.value, 1.0 / 8, 1e-15);
    /* b 2.5, m 1.5, n 10: middle 0.1, half 1.96 sqrt(4 - 0.1) / 10 */
    assert_near(r.drop.low, 0.1 - 1.959963984540054 * sqrt(3.9) / 10, 1e-12);
    assert_near(r.drop.high, 0.1 + 1.959963984540054 * sqrt(3.9) / 10, 1e-12);
    const bool none[8] = {false};
    RobustResult same = {0};
    robust_count(&same, before, before, none, NULL, labels, 8);
    assert_int_equal(same.flips, 0);
    assert_near(same.drop.value, 0, 0);
    assert_near(same.drop.high, 0, 0);
    assert_near(same.accuracy.value, 4.0 / 8, 1e-15); /* rows 0, 2, 5, 6 */
}

/* Of 2,000 simulated pairs of shares, the interval for paired shares holds the true difference in about 95 %. */
static void test_coverage(void **state) {
    (void)state;
    enum { N = 120, ROUNDS = 2000 };
    int held = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        const uint64_t key = rng_key(5, "coverage", round);
        int labels[N] = {0}, before[N], after[N];
        bool changed[N];
        for (uint64_t i = 0; i < N; i++) { /* broken 15 %, mended 5 %, right 60 %, wrong 20 % */
            const double u = rng_uniform(key, i);
            before[i] = u < 0.15 || (u >= 0.2 && u < 0.8) ? 0 : 1;
            after[i] = (u >= 0.15 && u < 0.8) ? 0 : 1;
            changed[i] = true;
        }
        RobustResult r = {0};
        robust_count(&r, before, after, changed, NULL, labels, N);
        held += r.drop.low <= 0.1 && 0.1 <= r.drop.high;
    }
    assert_true(held > 0.93 * ROUNDS && held < 0.98 * ROUNDS); /* a standard error is 0.5 points */
}

/* ---- with a model ---- */

static const char *blob_path(void) {
    static char path[100];
    (void)snprintf(path, sizeof path, "%s/tiny.safetensors", folder);
    return path;
}

static void run(Robust *out, int threads, size_t rows, uint64_t start) {
    enum { N = 40 };
    char texts_bytes[N][40];
    RowText texts[N];
    int labels[N];
    double p[N * K];
    PredictSeen seen[N];
    Threads *pool;
    Err err = {0};
    for (size_t i = 0; i < N; i++) {
        (void)snprintf(texts_bytes[i], sizeof texts_bytes[i], "abc, cab ba%c%c ab!", (int)('a' + i % 7),
                       (int)('a' + i % 5));
        texts[i] = (RowText){texts_bytes[i], strlen(texts_bytes[i])};
        labels[i] = (int)(i % K);
    }
    assert_int_equal(threads_open(&pool, threads, &err), ERR_OK);
    RobustRule rule = {.rows = rows, .seed = start, .path = blob_path(), .threads = pool};
    assert_int_equal(predict_open(&rule.predictor, rule.path, &rule.rule, pool, &err), ERR_OK);
    assert_int_equal(predict_all(rule.predictor, p, seen, texts, N, "test", &err), ERR_OK);
    OK(robust_run(out, &rule, texts, labels, p, seen, N, &err));
    predict_close(rule.predictor);
    threads_close(pool);
}

static void test_run(void **state) {
    (void)state;
    Robust one, two, other, all;
    const RobustCase *cases;
    run(&one, 1, 25, 7);
    run(&two, 3, 25, 7);
    run(&other, 1, 25, 8);
    run(&all, 1, 1000, 7);
    assert_int_equal(one.count, robust_cases(&cases));
    assert_int_equal(one.rows, 25);
    assert_int_equal(all.rows, 40);
    Buf a = {0}, b = {0}, c = {0}, table = {0};
    robust_json(&a, &one);
    robust_json(&b, &two);
    robust_json(&c, &other);
    robust_table(&table, &one);
    assert_string_equal(a.data, b.data); /* whatever the threads */
    assert_string_not_equal(a.data, c.data);
    cJSON *tree;
    Err err = {0};
    assert_int_equal(json_parse(&tree, a.data, a.len, &err), ERR_OK);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(tree, "cases")), one.count);
    for (size_t i = 0; i < all.count; i++) {
        const RobustResult *r = &all.results[i];
        assert_near(r->drop.value, all.accuracy.value - r->accuracy.value, 1e-12);
        assert_true(r->flips <= r->changed && r->broken + r->mended <= r->flips);
        if (strcmp(r->which.kind, "fence") == 0) assert_int_equal(r->changed, 40);
        if (strcmp(r->which.kind, "truncate") == 0) assert_int_equal(r->changed, 0); /* none is that long */
    }
    for (const char *line = table.data; *line;) { /* no line is wider than 100 characters */
        const char *end = strchr(line, '\n');
        assert_true(end - line <= 100);
        line = end + 1;
    }
    cJSON_Delete(tree);
    buf_free(&a);
    buf_free(&b);
    buf_free(&c);
    buf_free(&table);
}

/* The cut is the model's own: with tokens seen that are more than it, those rows are answered again. */
static void test_truncate(void **state) {
    (void)state;
    enum { N = 4 };
    Buf bytes = {0};
    BlobConfig config = tiny_config();
    char path[100], text[900];
    Err err = {0};
    config.max_tokens = 300;
    (void)snprintf(path, sizeof path, "%s/long.safetensors", folder);
    assert_int_equal(tiny_blob(&bytes, &config, 5, &err), ERR_OK);
    assert_int_equal(file_save(path, bytes.data, bytes.len, &err), ERR_OK);
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 3 == 2 ? ' ' : (char)('a' + i % 5 % 3);
    const RowText texts[N] = {{text, 20}, {text, 180}, {text, 880}, {text, 890}};
    const int labels[N] = {0, 1, 2, 0};
    double p[N * K];
    PredictSeen seen[N];
    RobustRule rule = {.rows = N, .path = path};
    Robust out;
    assert_int_equal(predict_open(&rule.predictor, path, &rule.rule, NULL, &err), ERR_OK);
    assert_int_equal(predict_all(rule.predictor, p, seen, texts, N, "test", &err), ERR_OK);
    uint64_t over[2] = {0};
    for (size_t i = 0; i < N; i++) {
        over[0] += seen[i].tokens > 128;
        over[1] += seen[i].tokens > 256;
    }
    assert_true(over[0] > over[1] && over[1] > 0 && over[0] < N);
    OK(robust_run(&out, &rule, texts, labels, p, seen, N, &err));
    int found = 0;
    for (size_t i = 0; i < out.count; i++) {
        if (strcmp(out.results[i].which.kind, "truncate") != 0) continue;
        assert_int_equal(out.results[i].changed, over[out.results[i].which.strength > 200]);
        found++;
    }
    assert_int_equal(found, 2);
    predict_close(rule.predictor);
    buf_free(&bytes);
}

static void test_memory(void **state) {
    (void)state;
    const RowText texts[2] = {{"abc, ab", 7}, {"cab! ba", 7}};
    const int labels[2] = {0, 1};
    const double p[2 * K] = {1, 0, 0, 0, 1, 0};
    const PredictSeen seen[2] = {{4, false}, {4, false}};
    RobustRule rule = {.rows = 2, .path = blob_path()};
    Err err = {0};
    assert_int_equal(predict_open(&rule.predictor, rule.path, &rule.rule, NULL, &err), ERR_OK);
    int failures = 0;
    for (size_t n = 1;; n += 1 + n / 8) {
        Robust out;
        mem_fail_at(n);
        const ErrCode rc = robust_run(&out, &rule, texts, labels, p, seen, 2, &err);
        mem_fail_at(0);
        if (rc == ERR_OK) break;
        failures++;
        assert_int_equal(rc, ERR_MEMORY);
        assert_int_equal(out.count, 0);
        assert_true(n < 100000);
    }
    assert_true(failures > 10);
    predict_close(rule.predictor);
}

static int prepare(void **state) {
    (void)state;
    Buf bytes = {0};
    const BlobConfig config = tiny_config();
    if (tiny_blob(&bytes, &config, 3, NULL) != ERR_OK) return -1;
    const ErrCode rc = file_save(blob_path(), bytes.data, bytes.len, NULL);
    buf_free(&bytes);
    return rc == ERR_OK ? 0 : -1;
}

int main(void) {
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),    cmocka_unit_test(test_cases), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_coverage), cmocka_unit_test(test_run),   cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_memory),
    };
    return folder_close(cmocka_run_group_tests_name("robust", tests, prepare, NULL));
}
