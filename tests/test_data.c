/* tests/test_data.c - from a line of JSONL to a side of the split: record, sort, names, split. */
#include "core/rng.h"
#include "data/names.h"
#include "data/record.h"
#include "data/sort.h"
#include "data/split.h"
#include "tests/unit.h"

/* ---- record ---- */

static void test_record(void **state) {
    (void)state;
    static const struct {
        const char *line, *text, *label, *split, *source, *id;
    } GOOD[] = {
        {"{\"text\":\"a\",\"label\":\"x\"}", "a", "x", NULL, NULL, NULL},
        {" {\"prompt\":\"a\",\"domain\":\"x\",\"split\":\"test\",\"source\":\"s\",\"id\":\"7\"}\t", "a", "x",
         "test", "s", "7"},
        {"{\"category\":\"x\",\"query\":\"a\",\"id\":12}", "a", "x", NULL, NULL, "12"},
        {"{\"sentence\":\"a\",\"target\":3,\"source\":{\"no\":\"name\"}}", "a", "3", NULL, NULL, NULL},
        {"{\"question\":\"a\",\"intent\":true}", "a", "true", NULL, NULL, NULL},
        {"{\"input\":\"a\",\"class\":-0}", "a", "0", NULL, NULL, NULL},
        {"{\"instruction\":\"sort\",\"input\":\"3 1\",\"label\":9007199254740991}", "sort",
         "9007199254740991", NULL, NULL, NULL},
        {"{\"instruction\":\"\",\"input\":\"3 1\",\"label\":\"x\"}", "3 1", "x", NULL, NULL, NULL},
        {"{\"text\":null,\"prompt\":\"p\",\"label\":null,\"domain\":\"d\",\"split\":null}", "p", "d", NULL,
         NULL, NULL},
        {"{\"query\":\"q\",\"text\":\"t\",\"domain\":\"d\",\"label\":\"l\"}", "t", "l", NULL, NULL, NULL},
        {"{\"text\":\" a\\n\\u00e4\\ud83d\\ude00 \",\"label\":\"\\u00e4 b\"}",
         " a\n\xc3\xa4\xf0\x9f\x98\x80 ", "\xc3\xa4 b", NULL, NULL, NULL},
        {"{\"messages\":[{\"role\":\"system\",\"content\":\"be "
         "kind\"},{\"role\":\"user\",\"content\":\"one\"},"
         "{\"role\":\"assistant\",\"content\":null},{\"role\":\"user\",\"content\":[{\"type\":\"text\","
         "\"text\":\"two\"},"
         "{\"type\":\"image_url\",\"image_url\":{}},{\"type\":\"text\",\"text\":\"three\"}]}],\"label\":"
         "\"x\"}",
         "one\ntwo\nthree", "x", NULL, NULL, NULL},
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"one\"}],\"label\":\"x\"}", "one", "x", NULL, NULL,
         NULL},
        {"\xef\xbb\xbf{\"text\":\"a\",\"label\":\"x\"}", "a", "x", NULL, NULL, NULL},
    };
    Record r = {0};
    Err err = {0};
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        ok(record_parse(&r, &(RecordRule){0}, GOOD[i].line, strlen(GOOD[i].line), &err), &err);
        assert_int_equal(r.text_len, strlen(GOOD[i].text));
        assert_memory_equal(r.text, GOOD[i].text, r.text_len);
        assert_string_equal(r.label, GOOD[i].label);
        const char *const got[3] = {r.split, r.source, r.id};
        const char *const expected[3] = {GOOD[i].split, GOOD[i].source, GOOD[i].id};
        for (int k = 0; k < 3; k++) {
            assert_int_equal(got[k] == NULL, expected[k] == NULL);
            if (got[k]) assert_string_equal(got[k], expected[k]);
        }
    }
    const char *line = "{\"body\":\"a\\u0000b\",\"text\":\"no\",\"kind\":\"k\",\"label\":\"no\"}";
    ok(record_parse(&r, &(RecordRule){"body", "kind", false}, line, strlen(line), &err), &err);
    assert_int_equal(r.text_len, 3);
    assert_memory_equal(r.text, "a\0b", 4);
    assert_string_equal(r.label, "k");
    ok(record_parse(&r, &(RecordRule){"body", "missing", true}, line, strlen(line), &err), &err);
    assert_null(r.label);
    record_free(&r);
    record_free(&r);
}

static void test_record_bad(void **state) {
    (void)state;
    static const struct {
        const char *line, *message;
    } BAD[] = {
        {"", "not valid JSON at line 1, column 1: empty"},
        {"hello", "not valid JSON at line 1, column 1: unexpected text"},
        {"\"hello\"", "found a string, expected a JSON object such as {\"text\": ..., \"label\": ...}"},
        {"[]", "found an array, expected a JSON object such as {\"text\": ..., \"label\": ...}"},
        {"{\"text\":\"a\",\"label\":\"x\",\"text\":\"b\"}", "the key \"text\" occurs twice in one object"},
        {"{}",
         "no label: expected one of label, domain, category, target, intent or class, found no members"},
        {"{\"label\":\"x\"}",
         "no text: expected one of text, prompt, query, sentence, question, instruction, input or messages, "
         "found "
         "only label"},
        {"{\"txt\":\"a\",\"lbl\":\"x\"}",
         "no label: expected one of label, domain, category, target, intent or class, found only txt, lbl"},
        {"{\"text\":\"\",\"label\":\"x\"}", "text: the text is empty"},
        {"{\"text\":\" \\n\\t\\u0000 \",\"label\":\"x\"}", "text: the text is empty"},
        {"{\"prompt\":\" \",\"input\":\"\",\"label\":\"x\"}", "input: the text is empty"},
        {"{\"text\":5,\"label\":\"x\"}", "text: found a number, expected a string"},
        {"{\"text\":{},\"label\":\"x\"}", "text: found an object, expected a string"},
        {"{\"text\":\"a\",\"label\":\"\"}", "label: the label is empty"},
        {"{\"text\":\"a\",\"domain\":\"  \"}", "domain: the label is empty"},
        {"{\"text\":\"a\",\"label\":{\"name\":\"x\"}}",
         "label: found an object as label, expected a string or an integer"},
        {"{\"text\":\"a\",\"label\":0.5}",
         "label: found a fraction or a too large number as label, expected a string or an integer"},
        {"{\"text\":\"a\",\"label\":1e300}",
         "label: found a fraction or a too large number as label, expected a string or an integer"},
        {"{\"text\":\"a\",\"label\":\"x\\u0000y\"}", "label: NUL in the label"},
        {"{\"text\":\"a\",\"label\":\"x\",\"split\":1}", "split: found a number, expected a string"},
        {"{\"messages\":[],\"label\":\"x\"}", "messages: no text in a user turn"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}],\"label\":\"x\"}",
         "messages: no text in a user turn"},
        {"{\"messages\":[\"a\"],\"label\":\"x\"}",
         "messages[0]: found a string, expected an object with role and content"},
        {"{\"messages\":[{\"content\":\"a\"}],\"label\":\"x\"}",
         "messages[0]: found no role, expected user, assistant or system"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\"}],\"label\":\"x\"}",
         "messages[1].content: expected a string or an array of parts"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}],\"label\":\"x\"}",
         "messages[0].content: a part of type text without a string text"},
    };
    Record r = {0};
    Err err = {0};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(record_parse(&r, &(RecordRule){0}, BAD[i].line, strlen(BAD[i].line), &err),
                         ERR_FORMAT);
        assert_string_equal(err.msg, BAD[i].message);
        assert_null(r.tree);
    }
    const char *line = "{\"text\":\"a\",\"label\":\"x\"}";
    assert_int_equal(record_parse(&r, &(RecordRule){"body", NULL, false}, line, strlen(line), &err),
                     ERR_FORMAT);
    assert_string_equal(err.msg, "no text: expected the member body, found only text, label");
    Buf large = {0};
    buf_puts(&large, "{\"label\":\"x\",\"text\":\"");
    char *a = buf_reserve(&large, RECORD_TEXT_MAX + 1);
    memset(a, 'a', RECORD_TEXT_MAX + 1);
    large.len += RECORD_TEXT_MAX + 1;
    buf_puts(&large, "\"}");
    assert_int_equal(record_parse(&r, &(RecordRule){0}, large.data, large.len, &err), ERR_FORMAT);
    assert_string_equal(err.msg, "text: a text of 16777217 bytes, expected at most 16777216");
    large.len = 0;
    buf_puts(&large, "{\"text\":\"a\",\"label\":\"");
    for (int i = 0; i < 257; i++) buf_puts(&large, "y");
    buf_puts(&large, "\"}");
    assert_int_equal(record_parse(&r, &(RecordRule){0}, large.data, large.len, &err), ERR_FORMAT);
    assert_string_equal(err.msg, "label: a label of 257 bytes, expected at most 256");
    buf_free(&large);
    /* cJSON's own allocations are its own affair */
    EACH_ALLOCATION_FAILS(100, record_parse(&r, &(RecordRule){0}, line, strlen(line), NULL));
    record_free(&r);
}

/* ---- sort, names ---- */

static bool by_value(const void *context, uint32_t a, uint32_t b) {
    const uint32_t *v = context;
    return v[a] != v[b] ? v[a] < v[b] : a < b;
}

static void test_sort_and_names(void **state) {
    (void)state;
    uint32_t value[500] = {0}, order[500];
    for (size_t n = 0; n < 500; n += 1 + n / 3) {
        for (size_t i = 0; i < n; i++) {
            value[i] = (uint32_t)pick("values", 1000 * n + i, n / 2 + 1);
            order[i] = (uint32_t)(n - 1 - i);
        }
        sort_rows(order, n, by_value, value);
        bool seen[500] = {false};
        for (size_t i = 0; i < n; i++) {
            assert_false(seen[order[i]]);
            seen[order[i]] = true;
            assert_true(i == 0 || by_value(value, order[i - 1], order[i]));
        }
    }
    Names names = {0};
    assert_int_equal(names_find(&names, "x"), SIZE_MAX);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < 1000; i++) {
            char name[16];
            size_t at;
            (void)snprintf(name, sizeof name, "n%zu", i);
            assert_int_equal(names_add(&at, &names, name, NULL), ERR_OK);
            assert_int_equal(at, i);
            assert_int_equal(names_find(&names, name), i);
        }
    }
    assert_int_equal(names.count, 1000);
    assert_int_equal(names_find(&names, "n1000"), SIZE_MAX);
    names_free(&names);
}

/* ---- split ---- */

static uint64_t key_of(const char *s) {
    return split_text_key(s, strlen(s));
}

static void test_split_key(void **state) {
    (void)state;
    const uint64_t key = key_of("What is 2 apples?");
    assert_true(key == key_of("what is  2\tAPPLES"));
    assert_true(key == key_of("  \xe2\x80\x9cWhat\xc2\xa0is 2 apples\xe2\x80\x9d\xe2\x80\xa6\n"));
    assert_true(key != key_of("what is 3 apples"));
    assert_true(key_of("\xc3\xa4") != key_of("\xc3\xb6"));
    assert_true(key_of("+-") != key_of("-+")); /* nothing but punctuation: then it counts */
    assert_true(key_of("!") != key_of(""));
    assert_true(split_text_key("a\xff", 2) != split_text_key("a\xfe", 2));
    assert_int_equal(split_find("validation"), SPLIT_DEV);
    assert_int_equal(split_find("calib"), SPLIT_CALIBRATION);
    assert_int_equal(split_find("Test"), SPLIT_COUNT);
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) assert_int_equal(split_find(split_name(s)), s);
}

enum { ROWS = 6000, LABELS = 7 };
typedef struct {
    uint64_t key[ROWS];
    int label[ROWS];
    Split given[ROWS], side[ROWS];
    SplitReport report;
} Rows;

static void decide(Rows *rows, SplitRule rule) {
    SplitPlan *plan;
    Err err = {0};
    ok(split_open(&plan, &rule, &err), &err);
    for (int i = 0; i < ROWS; i++)
        ok(split_add(plan, rows->key[i], rows->label[i], rows->given[i], &err), &err);
    ok(split_decide(plan, &err), &err);
    for (int i = 0; i < ROWS; i++) rows->side[i] = split_of(plan, (uint64_t)i);
    rows->report = split_report(plan);
    split_close(plan);
}

/* Distinct keys of a label on each side; label 6 has only 9 of them, label 5 has 10. */
static void fill_rows(Rows *rows, uint64_t variant) {
    for (int i = 0; i < ROWS; i++) {
        const size_t r = pick("label", variant * ROWS + (uint64_t)i, 100);
        const int label = i < 40 ? 5 + (i & 1) : r < 50 ? 0 : r < 75 ? 1 : r < 90 ? 2 : r < 97 ? 3 : 4;
        const size_t distinct = label == 6 ? 9 : label == 5 ? 10 : 2000;
        const size_t text =
            i < 40 ? (size_t)(i / 2) % distinct : pick("text", variant * ROWS + (uint64_t)i, distinct);
        rows->label[i] = label;
        rows->key[i] = rng_key(seed, "key", (uint64_t)label * 100000 + text);
        rows->given[i] = SPLIT_COUNT;
    }
}

static int compare_keys(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static size_t distinct_keys(const Rows *rows, int label, Split side) {
    static uint64_t keys[ROWS];
    size_t n = 0, distinct = 0;
    for (int i = 0; i < ROWS; i++)
        if (rows->label[i] == label && (side == SPLIT_COUNT || rows->side[i] == side))
            keys[n++] = rows->key[i];
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 0; i < n; i++) distinct += i == 0 || keys[i] != keys[i - 1];
    return distinct;
}

static Split side_of_key(const Rows *rows, uint64_t key) {
    for (int i = 0; i < ROWS; i++)
        if (rows->key[i] == key) return rows->side[i];
    return SPLIT_COUNT;
}

static void test_split(void **state) {
    (void)state;
    static Rows rows, other;
    const SplitRule rule = {0.05, 0.08, 0.1, seed, false};
    fill_rows(&rows, 0);
    decide(&rows, rule);
    uint64_t count[SPLIT_COUNT] = {0};
    for (int i = 0; i < ROWS; i++) {
        count[rows.side[i]]++;
        assert_int_equal(rows.side[i], side_of_key(&rows, rows.key[i])); /* equal texts share a side */
    }
    size_t distinct = 0;
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) assert_int_equal(rows.report.rows[s], count[s]);
    for (int label = 0; label < LABELS; label++) {
        const size_t all = distinct_keys(&rows, label, SPLIT_COUNT);
        distinct += all;
        const double share[SPLIT_COUNT] = {0, rule.dev, rule.calibration, rule.test};
        for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++) {
            size_t total = 0, have = 0;
            for (int i = 0; i < ROWS; i++) {
                total += rows.label[i] == label;
                have += rows.label[i] == label && rows.side[i] == s;
            }
            const size_t want = (size_t)floor(share[s] * (double)total + 0.5);
            if (label < 5) /* groups of a few rows fill a split up to its share; the last may exceed it */
                assert_in_range(have, want, want + 12);
            else /* groups of two or three, of which the nearest number is taken */
                assert_in_range(have, 1, want + 2);
        }
    }
    assert_int_equal(rows.report.duplicates, ROWS - distinct);
    assert_int_equal(rows.report.conflicting, 0);
    assert_int_equal(rows.report.given + rows.report.crossing, 0);

    other = rows; /* the same again, in another order, and with another seed */
    for (int i = 0; i < ROWS; i++) {
        other.key[i] = rows.key[ROWS - 1 - i];
        other.label[i] = rows.label[ROWS - 1 - i];
    }
    decide(&other, rule);
    for (int i = 0; i < ROWS; i++) assert_int_equal(other.side[i], rows.side[ROWS - 1 - i]);
    decide(&other, (SplitRule){0.05, 0.08, 0.1, seed + 1, false});
    int changed = 0;
    for (int i = 0; i < ROWS; i++) changed += other.side[i] != rows.side[ROWS - 1 - i];
    assert_in_range(changed, ROWS / 10, ROWS); /* of the 23 % about 77 % move, and others come */
    decide(&other, (SplitRule){0, 0, 0, seed, false});
    assert_int_equal(other.report.rows[SPLIT_TRAIN], ROWS);
}

static void test_split_given(void **state) {
    (void)state;
    static Rows rows;
    fill_rows(&rows, 1); /* train and test are named, dev and calibration are not: they come out of train */
    for (int i = 0; i < ROWS; i++)
        rows.given[i] = rng_key(seed, "given", rows.key[i]) % 5 ? SPLIT_TRAIN : SPLIT_TEST;
    decide(&rows, (SplitRule){0.1, 0.1, 0.4, seed, false});
    size_t train = 0, moved = 0;
    for (int i = 0; i < ROWS; i++) {
        if (rows.given[i] == SPLIT_TEST) assert_int_equal(rows.side[i], SPLIT_TEST);
        if (rows.given[i] != SPLIT_TRAIN) continue;
        assert_true(rows.side[i] != SPLIT_TEST);
        train++;
        moved += rows.side[i] != SPLIT_TRAIN;
    }
    assert_true(fabs((double)moved / (double)train - 0.2) < 0.05); /* duplicates are not spread evenly */
    assert_int_equal(rows.report.given, ROWS);
    assert_int_equal(rows.report.crossing, 0);

    for (int i = 0; i < ROWS;
         i++) /* all four named: nothing moves; some rows stay open and follow their twins */
        rows.given[i] = (Split)pick("any", (uint64_t)i, SPLIT_COUNT + 1);
    decide(&rows, (SplitRule){0.1, 0.1, 0.1, seed, false});
    uint64_t crossing = 0, given = 0;
    for (int i = 0; i < ROWS; i++) {
        given += rows.given[i] != SPLIT_COUNT;
        if (rows.given[i] != SPLIT_COUNT) assert_int_equal(rows.side[i], rows.given[i]);
        bool other_side = false, eval_twin = false, on_twin = rows.given[i] != SPLIT_COUNT;
        for (int k = 0; k < ROWS; k++) {
            if (rows.key[k] != rows.key[i]) continue;
            other_side = other_side || rows.side[k] != rows.side[i];
            eval_twin = eval_twin || (rows.given[k] != SPLIT_COUNT && rows.given[k] != SPLIT_TRAIN);
            on_twin = on_twin || (rows.given[k] == rows.side[i]);
        }
        if (rows.given[i] != SPLIT_COUNT) crossing += other_side;
        if (rows.given[i] == SPLIT_COUNT && eval_twin) assert_true(on_twin && rows.side[i] != SPLIT_TRAIN);
    }
    assert_true(crossing > 0);
    assert_int_equal(rows.report.crossing, crossing);
    assert_int_equal(rows.report.given, given);
}

static SplitPlan *plan_of(const SplitRule *rule) {
    SplitPlan *plan;
    Err err = {0};
    ok(split_open(&plan, rule, &err), &err);
    return plan;
}

static void add_row(SplitPlan *plan, uint64_t key, int label, Split given) {
    Err err = {0};
    ok(split_add(plan, key, label, given, &err), &err);
}

/* Groups that are joined rather than equal: one side, whatever their sizes and labels; shares hold by rows. */
static void test_split_joined(void **state) {
    (void)state;
    enum { GROUPED = 4000, OF = 7 };
    const SplitRule rule = {0.1, 0.1, 0.2, seed, true};
    SplitPlan *plan = plan_of(&rule);
    Err err = {0};
    for (uint64_t i = 0; i < GROUPED; i++) add_row(plan, i, i % 3 == 0, SPLIT_COUNT);
    for (uint64_t i = 0; i < GROUPED; i++) /* groups of 1 to 7 rows, joined in chains from behind */
        if (i % OF && i / OF % OF >= i % OF) split_join(plan, GROUPED - 1 - i, GROUPED - i);
    ok(split_decide(plan, &err), &err);
    size_t groups = 0;
    for (uint64_t i = 0; i < GROUPED; i++) {
        const uint64_t first = split_group(plan, i);
        assert_true(first <= i && split_group(plan, first) == first);
        groups += first == i;
        assert_int_equal(split_of(plan, i), split_of(plan, first));
        assert_false(split_moved(plan, i));
    }
    const SplitReport report = split_report(plan);
    assert_int_equal(report.joined, GROUPED - groups);
    assert_int_equal(report.duplicates + report.crossing + report.conflicting, 0);
    assert_in_range(report.rows[SPLIT_TEST], GROUPED / 5 - 7, GROUPED / 5 + 7);
    assert_in_range(report.rows[SPLIT_DEV], GROUPED / 10 - 7, GROUPED / 10 + 7);
    split_close(plan);

    /* One large group is not taken where it exceeds the share; nothing but one group stays in train. */
    plan = plan_of(&rule);
    for (uint64_t i = 0; i < 200; i++) add_row(plan, i, 0, SPLIT_COUNT);
    for (uint64_t i = 1; i < 100; i++) split_join(plan, 0, i);
    ok(split_decide(plan, &err), &err);
    assert_int_equal(split_of(plan, 0), SPLIT_TRAIN);
    assert_int_equal(split_report(plan).rows[SPLIT_TEST], 40);
    split_close(plan);
    plan = plan_of(&(SplitRule){0.45, 0, 0.5, seed, true});
    for (uint64_t i = 0; i < 50; i++) add_row(plan, i, 0, SPLIT_COUNT);
    for (uint64_t i = 1; i < 50; i++) split_join(plan, 0, i);
    ok(split_decide(plan, &err), &err);
    assert_int_equal(split_report(plan).rows[SPLIT_TRAIN], 50);
    split_close(plan);

    /* Given splits: with whole the most held out takes the group, else each row keeps its own. */
    for (int whole = 0; whole < 2; whole++) {
        static const Split GIVEN[] = {SPLIT_TRAIN, SPLIT_COUNT,       SPLIT_DEV,
                                      SPLIT_TEST,  SPLIT_CALIBRATION, SPLIT_TRAIN};
        plan = plan_of(&(SplitRule){0.1, 0.1, 0.1, seed, whole});
        for (uint64_t i = 0; i < 6; i++) add_row(plan, i, 0, GIVEN[i]);
        for (uint64_t i = 1; i < 5; i++) split_join(plan, i - 1, i);
        ok(split_decide(plan, &err), &err);
        for (uint64_t i = 0; i < 5; i++) {
            if (whole) assert_int_equal(split_of(plan, i), SPLIT_TEST);
            if (!whole) assert_int_equal(split_of(plan, i), GIVEN[i] == SPLIT_COUNT ? SPLIT_DEV : GIVEN[i]);
            assert_int_equal(split_moved(plan, i),
                             whole && GIVEN[i] != SPLIT_COUNT && GIVEN[i] != SPLIT_TEST);
        }
        assert_int_equal(split_of(plan, 5), SPLIT_TRAIN);
        assert_int_equal(split_report(plan).crossing, whole ? 3 : 4);
        split_close(plan);
    }
}

static void test_split_bad(void **state) {
    (void)state;
    SplitPlan *plan;
    Err err = {0};
    assert_int_equal(split_open(&plan, &(SplitRule){0.6, 0, 0, 1, false}, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "share of dev: found 0.6, expected 0 to 0.5");
    assert_int_equal(split_open(&plan, &(SplitRule){0, 0, (double)NAN, 1, false}, &err), ERR_ARGUMENT);
    assert_int_equal(split_open(&plan, &(SplitRule){0.4, 0.3, 0.3, 1, false}, &err), ERR_ARGUMENT);
    assert_string_equal(
        err.msg, "the shares of dev, calibration and test are 1 together: nothing is left to train on");
    /* Shares that would leave no group to train on; one text with two labels. */
    ok(split_open(&plan, &(SplitRule){0.45, 0, 0.5, 1, false}, &err), &err);
    ok(split_add(plan, 1, 0, SPLIT_COUNT, &err), &err);
    ok(split_add(plan, 2, 1, SPLIT_COUNT, &err), &err);
    ok(split_add(plan, 3, 1, SPLIT_COUNT, &err), &err);
    ok(split_add(plan, 2, 2, SPLIT_COUNT, &err), &err);
    ok(split_decide(plan, &err), &err);
    assert_int_equal(split_of(plan, 0), SPLIT_TRAIN);
    assert_true((split_of(plan, 1) == SPLIT_TRAIN) != (split_of(plan, 2) == SPLIT_TRAIN));
    assert_int_equal(split_of(plan, 1), split_of(plan, 3));
    assert_int_equal(split_report(plan).conflicting, 1);
    assert_int_equal(split_report(plan).duplicates, 1);
    split_close(plan);
    ok(split_open(&plan, &(SplitRule){0.1, 0.1, 0.1, 1, false}, &err), &err);
    ok(split_decide(plan, &err), &err); /* no rows at all */
    split_close(plan);
}

int main(void) {
    seed_open();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),         cmocka_unit_test(test_record_bad),
        cmocka_unit_test(test_sort_and_names), cmocka_unit_test(test_split_key),
        cmocka_unit_test(test_split),          cmocka_unit_test(test_split_given),
        cmocka_unit_test(test_split_joined),   cmocka_unit_test(test_split_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
