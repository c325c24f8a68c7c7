/* tests/test_slices.c - accuracy by groups of rows, the members and choices that rows bring along, and figures of others. */
#include <cjson/cJSON.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "eval/report.h"
#include "eval/rows.h"
#include "eval/slices.h"
#include "tests/unit.h"

static const char *const LABELS[] = {"math", "health", "other"};

/* ---- slices ---- */

/* Eight rows; the answers are 0 0 1 2 2 1 0 1. */
static const double P[] = {0.8, 0.1, 0.1, 0.6, 0.3, 0.1, 0.2, 0.5, 0.3, 0.1, 0.2, 0.7,
                           0,   0,   1,   0.1, 0.9, 0,   0.4, 0.3, 0.3, 0.2, 0.6, 0.2};
static const double BASELINE[] = {1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0};
static const int Y[] = {0, 1, 1, 2, 0, 1, 0, 2};
/* group b: rows 0, 1, 2; group d: rows 3, 4, 7; row 5 in c; row 6 in none; a has no rows */
static const int GROUP[] = {1, 1, 1, 3, 3, 2, -1, 3};
static const char *const NAMES[] = {"a", "b", "c", "d"};

static void test_by_hand(void **state) {
    (void)state;
    Slices s;
    Err err = {0};
    const SlicesRows rows = {P, BASELINE, Y, 8, 3};
    assert_int_equal(slices_compute(&s, "subject", NAMES, 4, GROUP, &rows, &err), ERR_OK);
    assert_int_equal(s.count, 3);
    assert_int_equal(s.without, 1);
    const SlicesGroup *b = &s.groups[0], *c = &s.groups[1], *d = &s.groups[2];
    assert_string_equal(b->name, "b");
    assert_int_equal(b->n, 3);
    assert_int_equal(b->correct, 2); /* rows 0 and 2 */
    assert_int_equal(b->baseline_correct, 1);
    assert_near(b->accuracy.value, 2.0 / 3, 1e-15);
    const Interval wilson = metrics_wilson(2, 3);
    assert_near(b->accuracy.low, wilson.low, 0);
    assert_near(b->accuracy.high, wilson.high, 0);
    assert_near(b->confidence, (0.8 + 0.6 + 0.5) / 3, 1e-15);
    assert_near(b->macro_recall, (1.0 + 0.5) / 2, 1e-15); /* math 1 of 1, health 1 of 2 */
    const uint64_t b_labels[] = {1, 2, 0}, b_answers[] = {2, 1, 0}, d_answers[] = {0, 1, 2};
    assert_memory_equal(b->labels, b_labels, sizeof b_labels);
    assert_memory_equal(b->answers, b_answers, sizeof b_answers);
    assert_int_equal(c->n, 1);
    assert_near(c->accuracy.value, 1, 0);
    assert_near(d->accuracy.value, 1.0 / 3, 1e-15);
    assert_memory_equal(d->answers, d_answers, sizeof d_answers);
    assert_near(s.mean_accuracy, (2.0 / 3 + 1 + 1.0 / 3) / 3, 1e-15);
    assert_near(s.baseline_mean, (1.0 / 3 + 0 + 1.0 / 3) / 3, 1e-15);
    size_t worst[SLICES_WORST];
    assert_int_equal(slices_worst(worst, &s), 3);
    assert_int_equal(worst[0], 2); /* d's interval ends lowest */
    assert_int_equal(worst[1], 0);
    assert_int_equal(worst[2], 1);
    slices_free(&s);
    const SlicesRows alone = {P, NULL, Y, 8, 3};
    assert_int_equal(slices_compute(&s, "subject", NAMES, 4, GROUP, &alone, &err), ERR_OK);
    assert_true(s.baseline_mean < 0);
    slices_free(&s);
}

/* The worst five by the upper end of the interval: many rows at 20 % come before two that are both wrong. */
static void test_worst(void **state) {
    (void)state;
    enum { N = 170 };
    static const char *const SUBJECTS[] = {"two", "s1", "s2", "s3", "s4", "s5", "s6", "s7"};
    double p[N * 2];
    int y[N], group[N];
    size_t at = 0;
    for (int i = 0; i < 2; i++) { /* wrong twice */
        group[at] = 0;
        y[at++] = 1;
    }
    for (int s = 1; s <= 7; s++) /* 24 rows each, 3 s of them right */
        for (int i = 0; i < 24; i++) {
            group[at] = s;
            y[at++] = i >= 3 * s;
        }
    for (size_t i = 0; i < N; i++) {
        p[2 * i] = 0.75;
        p[2 * i + 1] = 0.25;
    }
    Slices s;
    Err err = {0};
    const SlicesRows rows = {p, NULL, y, N, 2};
    assert_int_equal(at, N);
    assert_int_equal(slices_compute(&s, "k", SUBJECTS, 8, group, &rows, &err), ERR_OK);
    size_t worst[SLICES_WORST];
    assert_int_equal(slices_worst(worst, &s), SLICES_WORST);
    const size_t expected[] = {1, 2, 3, 0, 4}; /* upper ends .31 .45 .57 .66 .69 */
    assert_memory_equal(worst, expected, sizeof expected);
    Buf table = {0}, json = {0};
    slices_table(&table, &s, LABELS, 3);
    slices_json(&json, &s, LABELS);
    assert_non_null(strstr(table.data, "and 5 more, in the JSON"));
    assert_non_null(strstr(table.data, "12.50 %  math 24"));
    cJSON *tree;
    assert_int_equal(json_parse(&tree, json.data, json.len, &err), ERR_OK);
    assert_int_equal(cJSON_GetObjectItem(tree, "groups")->valueint, 8);
    assert_string_equal(cJSON_GetArrayItem(cJSON_GetObjectItem(tree, "worst"), 3)->valuestring, "two");
    const cJSON *second = cJSON_GetArrayItem(cJSON_GetObjectItem(tree, "rows"), 2);
    assert_int_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(second, "labels"), "math")->valueint, 6);
    assert_int_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(second, "labels"), "health")->valueint, 18);
    assert_int_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(second, "answers"), "math")->valueint, 24);
    assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(second, "answers"), "health"));
    cJSON_Delete(tree);
    buf_free(&table);
    buf_free(&json);
    slices_free(&s);
}

static void test_bins(void **state) {
    (void)state;
    static const struct {
        int tokens;
        const char *name;
    } TOKENS[] = {{0, "1-16"},      {16, "1-16"},     {17, "17-32"},           {128, "65-128"},
                  {129, "129-256"}, {512, "257-512"}, {1025, "1025 and more"}, {1 << 30, "1025 and more"}};
    for (size_t i = 0; i < sizeof TOKENS / sizeof *TOKENS; i++)
        assert_string_equal(SLICES_TOKENS[slices_tokens(TOKENS[i].tokens)], TOKENS[i].name);
    Buf text = {0};
    for (int i = 0; i < 33; i++) buf_puts(&text, "\xe6\x95\xb0"); /* one character, three bytes */
    assert_string_equal(SLICES_CHARACTERS[slices_characters((RowText){text.data, text.len})], "33-64");
    assert_string_equal(SLICES_CHARACTERS[slices_characters((RowText){text.data, text.len - 3})], "1-32");
    buf_free(&text);
}

/* ---- rows ---- */

static void test_members_and_choices(void **state) {
    (void)state;
    const char *path =
        save("rows.jsonl",
             "{\"text\": \"q\", \"label\": \"math\", \"subject\": \"algebra\", \"level\": 3, "
             "\"choices\": [\"x\", 4, \"z\"]}\n"
             "{\"text\": \"r\", \"label\": \"other\", \"subject\": \"law\", \"level\": true, "
             "\"split\": \"train\"}\n"
             "{\"text\": \"s\", \"label\": \"health\", \"subject\": null, \"choices\": null}\n"
             "{\"text\": \"t\", \"label\": \"health\", \"subject\": \"algebra\", \"choices\": []}\n");
    char *keys[] = {(char[]){"subject"}, (char[]){"level"}};
    const RowsRule rule = {.split = SPLIT_COUNT, .members = {keys, 2}, .with_choices = true};
    Rows rows = {0};
    Err err = {0};
    assert_int_equal(rows_read(&rows, path, &rule, LABELS, 3, &err), ERR_OK);
    assert_int_equal(rows.count, 4);
    assert_int_equal(rows.train, 1);
    assert_int_equal(rows.values[0].count, 2);
    assert_string_equal(rows.values[0].items[rows_tag(&rows, 0, 0)], "algebra");
    assert_string_equal(rows.values[0].items[rows_tag(&rows, 1, 0)], "law");
    assert_int_equal(rows_tag(&rows, 2, 0), -1);
    assert_int_equal(rows_tag(&rows, 3, 0), rows_tag(&rows, 0, 0));
    assert_string_equal(rows.values[1].items[rows_tag(&rows, 0, 1)], "3");
    assert_string_equal(rows.values[1].items[rows_tag(&rows, 1, 1)], "true");
    assert_int_equal(rows_tag(&rows, 3, 1), -1);
    assert_int_equal(rows.items[3].line, 4);
    assert_string_equal(rows.files.items[rows.items[3].file], path);
    RowText *texts;
    int *labels;
    assert_int_equal(rows_views(&texts, &labels, &rows, &err), ERR_OK);
    static const char *const TEXTS[] = {"q\nA. x\nB. 4\nC. z", "r", "s", "t"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(texts[i].n, strlen(TEXTS[i]));
        assert_memory_equal(texts[i].text, TEXTS[i], texts[i].n);
    }
    assert_string_equal(rows_id(&rows, 0) + strlen(path), ":1");
    mem_free(texts);
    mem_free(labels);
    rows_free(&rows);
}

static void expect_bad(const char *line, const char *problem) {
    const char *path = save("bad.jsonl", line);
    char *keys[] = {(char[]){"subject"}}, expected[400];
    const RowsRule rule = {.split = SPLIT_COUNT, .members = {keys, 1}, .with_choices = true};
    Rows rows = {0};
    Err err = {0};
    (void)snprintf(expected, sizeof expected, "%s:1: %s", path, problem);
    assert_int_equal(rows_read(&rows, path, &rule, LABELS, 3, &err), ERR_FORMAT);
    assert_string_equal(err.msg, expected);
    rows_free(&rows);
}

static void test_bad_members(void **state) {
    (void)state;
    expect_bad("{\"text\": \"q\", \"label\": \"math\", \"subject\": [1]}",
               "subject: found an array, expected a string, a number or a boolean");
    expect_bad("{\"text\": \"q\", \"label\": \"math\", \"choices\": \"A, B\"}", "choices: expected an array");
    expect_bad("{\"text\": \"q\", \"label\": \"math\", \"choices\": [\"a\", {}]}",
               "choices: option B is neither a string nor a number");
    expect_bad(
        "{\"text\": \"q\", \"label\": \"math\", \"choices\": "
        "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27]}",
        "choices: expected at most 26");
}

static void test_many_values(void **state) {
    (void)state;
    enum { N = ROWS_VALUES_MAX + 40 };
    Buf text = {0};
    for (int i = 0; i < N; i++)
        buf_printf(&text, "{\"text\": \"q\", \"label\": \"math\", \"subject\": \"s%d\"}\n", i);
    const char *path = save("many.jsonl", text.data);
    char *keys[] = {(char[]){"subject"}};
    const RowsRule rule = {.split = SPLIT_COUNT, .members = {keys, 1}};
    Rows rows = {0};
    Err err = {0};
    assert_int_equal(rows_read(&rows, path, &rule, LABELS, 3, &err), ERR_OK);
    assert_int_equal(rows.values[0].count, ROWS_VALUES_MAX);
    assert_string_equal(rows.values[0].items[rows_tag(&rows, ROWS_VALUES_MAX - 2, 0)], "s1022");
    assert_string_equal(rows.values[0].items[rows_tag(&rows, ROWS_VALUES_MAX - 1, 0)], "(further values)");
    assert_string_equal(rows.values[0].items[rows_tag(&rows, N - 1, 0)], "(further values)");
    rows_free(&rows);
    buf_free(&text);
}

/* ---- the map and its context ---- */

static void test_map(void **state) {
    (void)state;
    cJSON *map = NULL, *file = NULL;
    Err err = {0};
    assert_int_equal(rows_label_map(&map, ROUTER_SOURCE_DIR "/configs/mmlu-domains.json", &err), ERR_OK);
    assert_int_equal(cJSON_GetArraySize(map), 57); /* what is for people is not in it */
    int domains[5] = {0};
    static const char *const NAMES_OF[] = {"math", "health", "science", "coding", "other"};
    const cJSON *item;
    cJSON_ArrayForEach(item, map) for (int k = 0; k < 5; k++) domains[k] +=
        strcmp(item->valuestring, NAMES_OF[k]) == 0;
    const int expected[] = {5, 9, 9, 4, 30};
    assert_memory_equal(domains, expected, sizeof domains);
    cJSON_Delete(map);
    assert_int_equal(json_read(&file, ROUTER_SOURCE_DIR "/configs/mmlu-domains.json", &err), ERR_OK);
    const cJSON *context = cJSON_GetObjectItem(file, "_context");
    assert_int_equal(report_context_check(context, &err), ERR_OK);
    ReportContext c;
    report_context(&c, cJSON_GetArrayItem(context, 0));
    assert_near(c.accuracy.value, 0.81, 0);
    assert_near(c.accuracy.low, metrics_wilson(405, 500).low, 0);
    assert_int_equal(c.n, 500);
    cJSON_Delete(file);
}

static void expect_bad_context(const char *text, const char *problem) {
    cJSON *tree;
    Err err = {0};
    assert_int_equal(json_parse(&tree, text, strlen(text), &err), ERR_OK);
    assert_int_equal(report_context_check(tree, &err), ERR_FORMAT);
    assert_string_equal(err.msg, problem);
    cJSON_Delete(tree);
}

static void test_bad_context(void **state) {
    (void)state;
    assert_int_equal(report_context_check(NULL, NULL), ERR_OK);
    expect_bad_context("{}", "_context: expected an array of objects");
    expect_bad_context("[3]", "_context, entry 1: expected an object");
    expect_bad_context("[{\"what\": \"x\", \"source\": \"y\"}]",
                       "_context, entry 1: expected members what, source and accuracy (0 to 1)");
    expect_bad_context("[{\"what\": \"x\", \"source\": \"y\", \"accuracy\": 81}]",
                       "_context, entry 1: key \"accuracy\": found 81, expected 0 to 1");
    expect_bad_context("[{\"what\": \"x\", \"source\": \"y\", \"accuracy\": 1, \"n\": 0}]",
                       "_context, entry 1: key \"n\": found 0, expected an integer from 1 to 1000000000000");
}

/* ---- memory ---- */

static void test_memory(void **state) {
    (void)state;
    const char *path =
        save("memory.jsonl",
             "{\"text\": \"q\", \"label\": \"math\", \"subject\": \"a\", \"choices\": [\"x\"]}\n"
             "{\"text\": \"q\", \"label\": \"math\", \"subject\": \"b\"}\n");
    char *keys[] = {(char[]){"subject"}};
    const RowsRule rule = {.split = SPLIT_COUNT, .members = {keys, 1}, .with_choices = true};
    const SlicesRows sliced = {P, BASELINE, Y, 8, 3};
    int failures = 0;
    for (size_t n = 1;; n++) {
        Rows rows = {0};
        Slices s = {0};
        Err err = {0};
        mem_fail_at(n);
        ErrCode rc = rows_read(&rows, path, &rule, LABELS, 3, &err);
        if (rc == ERR_OK) rc = slices_compute(&s, "k", NAMES, 4, GROUP, &sliced, &err);
        mem_fail_at(0);
        rows_free(&rows);
        slices_free(&s);
        if (rc == ERR_OK) break;
        failures++;
        /* (a tree of cJSON that finds no memory is told as what does not parse) */
        assert_true(rc == ERR_MEMORY || rc == ERR_FORMAT);
        assert_true(n < 500);
    }
    assert_true(failures > 8);
}

int main(void) {
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),     cmocka_unit_test(test_worst),
        cmocka_unit_test(test_bins),        cmocka_unit_test(test_members_and_choices),
        cmocka_unit_test(test_bad_members), cmocka_unit_test(test_many_values),
        cmocka_unit_test(test_map),         cmocka_unit_test(test_bad_context),
        cmocka_unit_test(test_memory),
    };
    return folder_close(cmocka_run_group_tests_name("slices", tests, NULL, NULL));
}
