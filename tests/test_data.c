/* tests/test_data.c - from a line of JSONL to a batch: record, split, shard, batch, corpus, pack. */
#include <dirent.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "core/file.h"
#include "core/flags.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/batch.h"
#include "data/corpus.h"
#include "data/names.h"
#include "data/pack_cmd.h"
#include "data/record.h"
#include "data/shard.h"
#include "data/sort.h"
#include "data/split.h"
#include "tests/unit.h"
#include "tokenizer/spm.h"
#include "tokenizer/tokenizer.h"

static Tokenizer *tokenizer;

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

/* ---- shard ---- */

static const char *const LABEL_NAMES[] = {"math", "health", "\xc3\xa4rger \"x\""};
static const char *const FILE_NAMES[] = {"a.jsonl", "b\xff.jsonl"};
static const char *const SOURCE_NAMES[] = {"", "forum"};
static const char *const MESSAGES[] = {"a.jsonl:3: bad"};

typedef struct {
    ShardRow row;
    int32_t ids[300];
    char text[400];
} Made;

static void make_row(Made *m, uint64_t i, int longest) {
    const uint64_t r = rng_key(seed, "row", i);
    m->row = (ShardRow){.ids = m->ids,
                        .tokens = 1 + (int)(r % (uint64_t)longest),
                        .truncated = r >> 20 & 1,
                        .label = (int)(r >> 21) % 3 < 0 ? 0 : (int)((r >> 21) % 3),
                        .weight = (float)((r >> 24) % 8 + 1) / 4,
                        .split = (Split)((r >> 28) % SPLIT_COUNT),
                        .file = (uint32_t)(r >> 31) % 2,
                        .line = (uint32_t)i + 1,
                        .source = (uint32_t)(r >> 32) % 2,
                        .text = m->text,
                        .text_len = (size_t)(r >> 33) % 60};
    for (int k = 0; k < m->row.tokens; k++) m->ids[k] = (int32_t)(rng_bits(r, (uint64_t)k) % 1000);
    for (size_t k = 0; k < m->row.text_len; k++) m->text[k] = (char)rng_bits(r + 1, k);
}

static ShardInfo make_info(int max_tokens) {
    return (ShardInfo){.tokenizer_digest = "aa",
                       .content_digest = "bb",
                       .max_tokens = max_tokens,
                       .vocabulary = 1000,
                       .labels = LABEL_NAMES,
                       .label_count = 3,
                       .files = FILE_NAMES,
                       .file_count = 2,
                       .sources = SOURCE_NAMES,
                       .source_count = 2,
                       .split = {.given = 1, .duplicates = 2, .crossing = 3, .conflicting = 4},
                       .skipped = 5,
                       .truncated = 6,
                       .messages = MESSAGES,
                       .message_count = 1};
}

/* Rows 0 .. rows-1 of make_row; with `split` below SPLIT_COUNT all of them there. */
static void write_shard(const char *path, uint64_t rows, int longest, Split split, float weight) {
    ShardWriter *w;
    Err err = {0};
    Made made;
    ok(shard_create(&w, path, &err), &err);
    for (uint64_t i = 0; i < rows; i++) {
        make_row(&made, i, longest);
        if (split != SPLIT_COUNT) made.row.split = split;
        if (weight > 0) made.row.weight = weight;
        ok(shard_append(w, &made.row, &err), &err);
    }
    const ShardInfo info = make_info(longest);
    ok(shard_finish(w, &info, &err), &err);
}

static void test_shard(void **state) {
    (void)state;
    const char *path = in_folder("round.shard");
    const uint64_t rows = 30000;
    write_shard(path, rows, 40, SPLIT_COUNT, 0);
    Shard *s;
    Err err = {0};
    ok(shard_open(&s, path, &err), &err);
    const ShardInfo *info = shard_info(s);
    assert_string_equal(info->tokenizer_digest, "aa");
    assert_string_equal(info->content_digest, "bb");
    assert_int_equal(info->max_tokens, 40);
    assert_int_equal(info->vocabulary, 1000);
    assert_int_equal(info->label_count, 3);
    assert_string_equal(info->labels[2], LABEL_NAMES[2]);
    assert_string_equal(info->files[1], "b\xef\xbf\xbd.jsonl");
    assert_string_equal(info->sources[1], "forum");
    assert_string_equal(info->messages[0], MESSAGES[0]);
    assert_true(info->split.given == 1 && info->split.duplicates == 2 && info->split.crossing == 3 &&
                info->split.conflicting == 4 && info->skipped == 5 && info->truncated == 6);
    assert_int_equal(shard_longest(s), 40);
    ShardBlock block = {0};
    uint64_t seen = 0;
    size_t blocks = 0;
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++) {
        uint64_t number = 0, next = 0, tokens = 0, by_label[3] = {0};
        for (size_t k = 0; k < shard_blocks(s, split); k++, blocks++) {
            ok(shard_read(s, &block, split, k, true, &err), &err);
            assert_int_equal(block.first, number);
            assert_in_range(block.count, 1, SHARD_BLOCK_ROWS);
            for (size_t i = 0; i < block.count; i++, number++) {
                const ShardRow *got = &block.rows[i];
                Made made;
                do make_row(&made, next++, 40); /* the next one of this split, in the order of appending */
                while (made.row.split != split);
                assert_int_equal(got->tokens, made.row.tokens);
                assert_memory_equal(got->ids, made.ids, 4 * (size_t)got->tokens);
                assert_int_equal(got->text_len, made.row.text_len);
                assert_memory_equal(got->text, made.text, got->text_len);
                assert_true(got->truncated == made.row.truncated && got->label == made.row.label &&
                            got->weight == made.row.weight && got->split == split &&
                            got->file == made.row.file && got->line == made.row.line &&
                            got->source == made.row.source);
                tokens += (uint64_t)got->tokens;
                by_label[got->label]++;
            }
        }
        assert_int_equal(number, shard_rows(s, split));
        assert_int_equal(tokens, shard_tokens(s, split));
        for (int k = 0; k < 3; k++) assert_int_equal(by_label[k], shard_label_rows(s, split, k));
        seen += number;
    }
    assert_int_equal(seen, rows);
    assert_true(blocks >= 8);
    ok(shard_read(s, &block, SPLIT_TRAIN, 0, false, &err), &err);
    assert_null(block.rows[0].text);
    shard_block_free(&block);
    shard_block_free(&block);
    shard_close(s);

    Buf first = {0}, second = {0}; /* the same rows give the same bytes */
    ok(file_read(&first, path, 1 << 26, &err), &err);
    write_shard(path, rows, 40, SPLIT_COUNT, 0);
    ok(file_read(&second, path, 1 << 26, &err), &err);
    assert_int_equal(first.len, second.len);
    assert_memory_equal(first.data, second.data, first.len);
    buf_free(&first);
    buf_free(&second);
}

/* Long rows end a block early: by tokens, and by bytes of text. */
static void test_shard_blocks(void **state) {
    (void)state;
    const char *path = in_folder("long.shard");
    const size_t tokens = SHARD_ROW_TOKENS, bytes = 3 << 20;
    int32_t *ids = mem_alloc(tokens, sizeof *ids);
    char *text = mem_alloc(bytes, 1);
    assert_true(ids && text);
    ShardWriter *w;
    Err err = {0};
    ok(shard_create(&w, path, &err), &err);
    ShardRow row = {.ids = ids, .tokens = (int)tokens, .weight = 1, .text = text};
    for (int i = 0; i < 9; i++) ok(shard_append(w, &row, &err), &err); /* 4 in a block */
    row.tokens = 1;
    row.text_len = bytes;
    row.split = SPLIT_TEST;
    for (int i = 0; i < 3; i++) ok(shard_append(w, &row, &err), &err); /* 1 in a block */
    row.tokens = SHARD_ROW_TOKENS + 1;
    assert_int_equal(shard_append(w, &row, &err), ERR_ARGUMENT);
    const ShardInfo info = make_info(SHARD_ROW_TOKENS);
    ok(shard_finish(w, &info, &err), &err);
    Shard *s;
    ok(shard_open(&s, path, &err), &err);
    assert_int_equal(shard_blocks(s, SPLIT_TRAIN), 3);
    assert_int_equal(shard_blocks(s, SPLIT_TEST), 3);
    ShardBlock block = {0};
    for (size_t i = 0; i < 3; i++) {
        ok(shard_read(s, &block, SPLIT_TRAIN, i, true, &err), &err);
        assert_int_equal(block.count, i < 2 ? 4 : 1);
        ok(shard_read(s, &block, SPLIT_TEST, i, true, &err), &err);
        assert_int_equal(block.rows[0].text_len, bytes);
    }
    shard_block_free(&block);
    shard_close(s);

    static const struct {
        int label, tokens;
        uint32_t file, source;
        int32_t id;
    } ODD[] = {{3, 1, 0, 0, 0}, {0, 6, 0, 0, 0}, {0, 1, 2, 0, 0}, {0, 1, 0, 2, 0}, {0, 1, 0, 0, 1000}};
    for (size_t i = 0; i < sizeof ODD / sizeof *ODD;
         i++) { /* rows that do not fit what shard_finish is told */
        ok(shard_create(&w, path, &err), &err);
        ids[0] = ODD[i].id;
        row = (ShardRow){.ids = ids,
                         .tokens = ODD[i].tokens,
                         .label = ODD[i].label,
                         .weight = 1,
                         .file = ODD[i].file,
                         .source = ODD[i].source,
                         .text = ""};
        ok(shard_append(w, &row, &err), &err);
        const ShardInfo five = make_info(5);
        assert_int_equal(shard_finish(w, &five, &err), ERR_ARGUMENT);
    }
    ok(shard_open(&s, path, &err), &err); /* and the file is still the one from before */
    shard_close(s);
    mem_free(ids);
    mem_free(text);
}

/* Reads everything; the first error, or ERR_OK. */
static ErrCode read_whole(const char *path, Err *err) {
    Shard *s;
    TRY(shard_open(&s, path, err));
    ShardBlock block = {0};
    ErrCode rc = ERR_OK;
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++)
        for (size_t k = 0; k < shard_blocks(s, split) && rc == ERR_OK; k++)
            rc = shard_read(s, &block, split, k, true, err);
    shard_block_free(&block);
    shard_close(s);
    return rc;
}

static void test_shard_damaged(void **state) {
    (void)state;
    const char *path = in_folder("small.shard");
    write_shard(path, 12, 9, SPLIT_COUNT, 0);
    Buf bytes = {0};
    Err err = {0};
    ok(file_read(&bytes, path, 1 << 20, &err), &err);
    ok(read_whole(path, &err), &err);
    char start[300];
    (void)snprintf(start, sizeof start, "%s: ", path);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    for (size_t i = 0; i < bytes.len; i++) { /* every byte, with one bit flipped and as another value */
        for (int k = 0; k < 2; k++) {
            const int changed = k ? (bytes.data[i] ^ (1 << pick("bit", i, 8))) & 0xff
                                  : (unsigned char)(bytes.data[i] + 1 + (int)pick("add", i, 255));
            assert_int_equal(fseek(f, (long)i, SEEK_SET), 0);
            assert_true(fputc(changed, f) == changed && fflush(f) == 0);
            const ErrCode rc = read_whole(path, &err);
            if (rc != ERR_FORMAT)
                fail_msg("byte %zu of %zu changed to %d: %d", i, bytes.len, changed, (int)rc);
            assert_memory_equal(err.msg, start, strlen(start));
        }
        assert_int_equal(fseek(f, (long)i, SEEK_SET), 0);
        assert_true(fputc((unsigned char)bytes.data[i], f) != EOF && fflush(f) == 0);
    }
    ok(read_whole(path, &err), &err);
    (void)fclose(f);
    for (size_t n = bytes.len; n-- > 0;) { /* every shorter file, and longer ones */
        assert_int_equal(truncate(path, (off_t)n), 0);
        assert_int_equal(read_whole(path, &err), ERR_FORMAT);
    }
    (void)snprintf(start, sizeof start, "%s: not a shard: it has only 0 bytes", path);
    assert_string_equal(err.msg, start);
    buf_put(&bytes, "x", 1);
    assert_int_equal(read_whole(save_bytes("more.shard", bytes.data, bytes.len), &err), ERR_FORMAT);
    bytes.data[6] = '2';
    path = save_bytes("v2.shard", bytes.data, bytes.len - 1);
    assert_int_equal(read_whole(path, &err), ERR_FORMAT);
    (void)snprintf(start, sizeof start, "%s: shard version '2', expected version 1; pack it again", path);
    assert_string_equal(err.msg, start);
    path = save("text.shard", "{\"text\":1}\n{\"text\":2}\n");
    assert_int_equal(read_whole(path, &err), ERR_FORMAT);
    (void)snprintf(start, sizeof start, "%s: not a shard: it does not begin with RSHARD", path);
    assert_string_equal(err.msg, start);
    buf_free(&bytes);
    const char *good = in_folder("small2.shard");
    write_shard(good, 12, 9, SPLIT_COUNT, 0);
    EACH_ALLOCATION_FAILS(1000, read_whole(good, NULL));
}

/* ---- batch ---- */

typedef struct {
    uint64_t rows, batches;
    uint64_t *number; /* in the order in which they came */
    size_t *size;     /* of each batch */
} Epoch;

static void check_batch(Batcher *b, const Batch *batch) {
    const Packed *p = &batch->packed;
    Made made;
    assert_null(p->seq);
    assert_int_equal(p->start[0], 0);
    assert_int_equal(p->start[p->S], p->N);
    for (int i = 0; i < p->S; i++) {
        const ShardRow *row = &batch->rows[i];
        make_row(&made, row->line - 1, 40);
        assert_int_equal(p->start[i + 1] - p->start[i], made.row.tokens);
        assert_memory_equal(p->ids + p->start[i], made.ids, 4 * (size_t)made.row.tokens);
        assert_ptr_equal(row->ids, p->ids + p->start[i]);
        assert_int_equal(batch->label[i], made.row.label);
        if (row->text) assert_memory_equal(row->text, made.text, made.row.text_len);
        assert_true(i == 0 || row->tokens >= batch->rows[i - 1].tokens);
    }
    assert_int_equal(p->longest, batch->rows[p->S - 1].tokens);
    const int budget = 1 + (int)pick("budget", (uint64_t)p->N, 400);
    for (int from = 0, next; from < p->S; from = next) {
        Packed micro;
        batch_micro(b, batch, from, budget, &micro, &next);
        assert_true(next > from && micro.S == next - from && micro.start[0] == 0 &&
                    micro.start[micro.S] == micro.N);
        assert_true(micro.N <= budget || micro.S == 1);
        assert_true(next == p->S || p->start[next + 1] - p->start[from] > budget); /* as many as fit */
        assert_ptr_equal(micro.ids, p->ids + p->start[from]);
        int longest = 0;
        for (int i = 0; i < micro.S; i++) {
            const int n = micro.start[i + 1] - micro.start[i];
            assert_int_equal(n, p->start[from + i + 1] - p->start[from + i]);
            assert_int_equal(micro.seq[i], from + i);
            if (n > longest) longest = n;
        }
        assert_int_equal(micro.longest, longest);
    }
}

static Epoch read_epoch(Batcher *b, uint64_t epoch, uint64_t skip, bool check) {
    Err err = {0};
    Epoch e = {0};
    uint64_t batches;
    ok(batch_count(b, epoch, &batches, &err), &err);
    ok(batch_seek(b, epoch, skip, &err), &err);
    e.number = malloc(4000000 * sizeof *e.number);
    e.size = malloc((batches + 1) * sizeof *e.size);
    assert_true(e.number && e.size);
    for (;;) {
        Batch batch;
        ok(batch_next(b, &batch, &err), &err);
        if (batch.packed.S == 0) break;
        if (check) check_batch(b, &batch);
        assert_true(e.batches + skip < batches);
        e.size[e.batches++] = (size_t)batch.packed.S;
        for (int i = 0; i < batch.packed.S; i++) e.number[e.rows++] = batch.number[i];
    }
    assert_int_equal(e.batches + skip, skip < batches ? batches : skip + e.batches);
    return e;
}

static void epoch_free(Epoch *e) {
    free(e->number);
    free(e->size);
}

static void test_batch_order(void **state) {
    (void)state;
    const char *path = in_folder("batch.shard");
    const uint64_t rows = 39001; /* more than two windows */
    write_shard(path, rows, 40, SPLIT_TRAIN, 1);
    Shard *s;
    Batcher *b;
    Err err = {0};
    ok(shard_open(&s, path, &err), &err);
    const BatchRule rule = {.split = SPLIT_TRAIN, .batch_rows = 64, .seed = seed, .with_text = true};
    ok(batch_open(&b, s, &rule, &err), &err);
    Epoch first = read_epoch(b, 0, 0, true);
    assert_int_equal(first.rows, rows);
    uint8_t *seen = mem_alloc(rows, 1);
    assert_non_null(seen);
    for (uint64_t i = 0; i < rows; i++) { /* each row once; only the last batch is small */
        assert_true(first.number[i] < rows && !seen[first.number[i]]);
        seen[first.number[i]] = 1;
    }
    for (uint64_t i = 0; i < first.batches; i++)
        assert_int_equal(first.size[i], i + 1 < first.batches ? 64 : rows % 64);
    double distance =
        0; /* neighbours in a batch come from anywhere, though blocks lie together in a window */
    for (uint64_t i = 1; i < rows; i++)
        distance += fabs((double)first.number[i] - (double)first.number[i - 1]);
    assert_true(distance / (double)rows > 2000);

    Epoch again = read_epoch(b, 0, 0, false), second = read_epoch(b, 1, 0, false);
    assert_memory_equal(first.number, again.number, rows * sizeof *first.number);
    assert_true(memcmp(first.number, second.number, 1000 * sizeof *first.number) != 0);
    epoch_free(&again);
    for (uint64_t i = 0; i < 20; i++) { /* going to a place gives what comes there */
        const uint64_t skip = i == 0   ? 0
                              : i == 1 ? first.batches
                              : i == 2 ? first.batches + 5
                                       : pick("skip", i, first.batches);
        again = read_epoch(b, 0, skip, false);
        const uint64_t at = skip * 64 < rows ? skip * 64 : rows;
        assert_int_equal(again.rows, rows - at);
        assert_memory_equal(first.number + at, again.number, again.rows * sizeof *first.number);
        epoch_free(&again);
    }
    batch_close(b);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 64, .seed = seed + 1}, &err), &err);
    again = read_epoch(b, 0, 0, false);
    assert_true(memcmp(first.number, again.number, 1000 * sizeof *first.number) != 0);
    epoch_free(&again);
    batch_close(b);

    /* In file order: batches are runs, sorted inside. A steady state allocates nothing. */
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 100, .ordered = true}, &err), &err);
    again = read_epoch(b, 0, 0, true);
    assert_int_equal(again.rows, rows);
    for (uint64_t i = 0; i < rows; i++) assert_int_equal(again.number[i] / 100, i / 100);
    epoch_free(&again);
    ok(batch_seek(b, 0, 0, &err), &err);
    const size_t allocations = mem_count();
    for (Batch batch = {.packed = {.S = 1}}; batch.packed.S;) ok(batch_next(b, &batch, &err), &err);
    assert_int_equal(mem_count(), allocations);
    batch_close(b);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TEST, .batch_rows = 3}, &err),
       &err); /* an empty split */
    Batch none;
    ok(batch_next(b, &none, &err), &err);
    assert_int_equal(none.packed.S, 0);
    batch_close(b);
    assert_int_equal(batch_open(&b, s, &(BatchRule){.batch_rows = 0}, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "batch size: found 0, expected 1 to 65536");
    epoch_free(&first);
    epoch_free(&second);
    mem_free(seen);
    shard_close(s);
}

/* Small corpora, batch sizes around them, every position of batch_seek. */
static void test_batch_small(void **state) {
    (void)state;
    const char *path = in_folder("tiny.shard");
    for (uint64_t round = 0; round < 12; round++) {
        const uint64_t rows = 1 + pick("rows", round, 120);
        write_shard(path, rows, 40, SPLIT_DEV, 1);
        Shard *s;
        Batcher *b;
        Err err = {0};
        ok(shard_open(&s, path, &err), &err);
        const int size = 1 + (int)pick("size", round, 50);
        ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_DEV, .batch_rows = size, .seed = round}, &err),
           &err);
        Epoch all = read_epoch(b, 3, 0, true);
        assert_int_equal(all.rows, rows);
        for (uint64_t skip = 0; skip <= all.batches; skip++) {
            Epoch rest = read_epoch(b, 3, skip, false);
            assert_int_equal(rest.batches, all.batches - skip);
            assert_memory_equal(rest.number, all.number + (rows - rest.rows), rest.rows * sizeof *all.number);
            epoch_free(&rest);
        }
        epoch_free(&all);
        batch_close(b);
        shard_close(s);
    }
}

static void test_batch_weights(void **state) {
    (void)state;
    const char *path = in_folder("weights.shard");
    const uint64_t rows = 12000; /* weights 0.25 to 2 */
    write_shard(path, rows, 40, SPLIT_TRAIN, 0);
    Shard *s;
    Batcher *b;
    Err err = {0};
    ok(shard_open(&s, path, &err), &err);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 32, .seed = seed}, &err), &err);
    static unsigned visits[12000];
    memset(visits, 0, sizeof visits);
    const int epochs = 8;
    for (int epoch = 0; epoch < epochs; epoch++) {
        Epoch e = read_epoch(b, (uint64_t)epoch, 0, epoch == 0);
        unsigned now[12000] = {0};
        for (uint64_t i = 0; i < e.rows; i++) now[e.number[i]]++;
        for (uint64_t i = 0; i < rows; i++) {
            Made made;
            make_row(&made, i, 40);
            const unsigned whole = (unsigned)made.row.weight;
            assert_in_range(now[i], whole, whole + (made.row.weight > (float)whole));
            visits[i] += now[i];
        }
        epoch_free(&e);
    }
    double expected = 0, got = 0;
    for (uint64_t i = 0; i < rows; i++) {
        Made made;
        make_row(&made, i, 40);
        expected += (double)made.row.weight * epochs;
        got += visits[i];
    }
    /* Each fractional visit has a variance below 1/4: 6 standard errors. */
    assert_true(fabs(got - expected) < 6 * sqrt(0.25 * (double)rows * epochs));
    batch_close(b);
    shard_close(s);
    write_shard(path, 70, 40, SPLIT_TRAIN, 1000); /* more visits than rows by far, over several windows */
    ok(shard_open(&s, path, &err), &err);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 77, .with_text = true}, &err),
       &err);
    Epoch e = read_epoch(b, 0, 0, true);
    assert_int_equal(e.rows, 70000);
    unsigned count[70] = {0};
    for (uint64_t i = 0; i < e.rows; i++) count[e.number[i]]++;
    for (int i = 0; i < 70; i++) assert_int_equal(count[i], 1000);
    epoch_free(&e);
    batch_close(b);
    shard_close(s);
}

/* ---- corpus ---- */

static void add_json_row(Buf *out, const char *text, const char *label, const char *more) {
    buf_puts(out, "{\"text\":");
    text_put_json(out, text, strlen(text));
    buf_printf(out, ",\"label\":\"%s\"%s}\n", label, more);
}

static const char *const WORDS[] = {"sum", "triangle", "fever", "dose", "loop", "stack", "film", "river",
                                    "of",  "the",      "a",     "what", "is",   "how",   "to",   "please"};

static void add_rows(Buf *out, const char *where, size_t rows, const char *more) {
    static const char *const NAMES[] = {"math", "health", "coding"};
    for (size_t i = 0; i < rows; i++) {
        Buf text = {0};
        const size_t n = 4 + pick(where, 100 * i, 12);
        for (size_t k = 0; k < n; k++)
            buf_printf(&text, "%s%s", k ? " " : "",
                       WORDS[pick(where, 100 * i + k + 1, sizeof WORDS / sizeof *WORDS)]);
        buf_printf(&text, " %zu", i);
        add_json_row(out, text.data, NAMES[i % 3], more);
        buf_free(&text);
    }
}

static int open_tokenizer(void **state) {
    (void)state;
    char sentences[200][96];
    const char *texts[200];
    size_t lengths[200];
    for (size_t i = 0; i < 200; i++) {
        size_t n = 0;
        for (size_t k = 0; k < 6; k++)
            n += (size_t)snprintf(sentences[i] + n, sizeof sentences[i] - n, "%s ",
                                  WORDS[(i * 7 + k * k * 3 + i / 16) % (sizeof WORDS / sizeof *WORDS)]);
        texts[i] = sentences[i];
        lengths[i] = n;
    }
    Buf model = {0};
    Err err = {0};
    ErrCode rc = spm_train(&model, texts, lengths, 200, 330, 1, &err);
    if (rc == ERR_OK) rc = file_save(in_folder("spm.model"), model.data, model.len, &err);
    if (rc == ERR_OK) rc = tokenizer_open_bytes(&tokenizer, model.data, model.len, &err);
    if (rc != ERR_OK) (void)fprintf(stderr, "%s\n", err.msg);
    buf_free(&model);
    return rc != ERR_OK;
}

static int close_tokenizer(void **state) {
    (void)state;
    tokenizer_close(tokenizer);
    tokenizer = NULL;
    return 0;
}

static CorpusRule rule_for(FlagList *inputs, ...) {
    va_list ap;
    va_start(ap, inputs);
    for (const char *input; (input = va_arg(ap, const char *)) != NULL;)
        assert_int_equal(flags_list_add(inputs, input, strlen(input), NULL), ERR_OK);
    va_end(ap);
    return (CorpusRule){.inputs = *inputs,
                        .split = {0.1, 0.1, 0.2, seed, false},
                        .near = 0.8,
                        .max_tokens = 16,
                        .plain = true};
}

static void assert_same_file(const char *a, const char *b, bool same) {
    Buf x = {0}, y = {0};
    assert_int_equal(file_read(&x, a, 1 << 26, NULL), ERR_OK);
    assert_int_equal(file_read(&y, b, 1 << 26, NULL), ERR_OK);
    assert_int_equal(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, same);
    buf_free(&x);
    buf_free(&y);
}

/* Every row of test_corpus is there once, with its text, its tokens, its place. */
static void check_corpus_rows(const char *shard, const char *input) {
    Buf raw = {0};
    Err err = {0};
    Shard *s;
    ok(shard_open(&s, shard, &err), &err);
    const ShardInfo *info = shard_info(s);
    assert_int_equal(info->label_count, 3);
    assert_string_equal(info->labels[0], "coding");
    assert_string_equal(info->labels[1], "health");
    assert_string_equal(info->labels[2], "math");
    assert_string_equal(info->tokenizer_digest, tokenizer_digest(tokenizer));
    assert_int_equal(info->vocabulary, tokenizer_ids(tokenizer));
    assert_string_equal(info->files[0], input);
    static bool seen[5004];
    memset(seen, 0, sizeof seen);
    ShardBlock block = {0};
    uint64_t truncated = 0;
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++) {
        for (size_t k = 0; k < shard_blocks(s, split); k++) {
            ok(shard_read(s, &block, split, k, true, &err), &err);
            for (size_t i = 0; i < block.count; i++) {
                const ShardRow *row = &block.rows[i];
                assert_true(row->line >= 1 && row->line <= 5003 && !seen[row->line]);
                seen[row->line] = true;
                assert_string_equal(info->sources[row->source], row->line <= 5000 ? "made" : "");
                const char *const labels[] = {"math", "health", "coding"};
                assert_string_equal(info->labels[row->label],
                                    row->line <= 5000 ? labels[(row->line - 1) % 3] : "math");
                buf_clear(&raw);
                size_t whole;
                const TokenizerRule how = {.plain = true, .max_tokens = 16};
                ok(tokenizer_encode(tokenizer, &how, row->text, row->text_len, &raw, &whole, &err), &err);
                assert_int_equal(raw.len, 4 * (size_t)row->tokens);
                assert_memory_equal(raw.data, row->ids, raw.len);
                assert_int_equal(row->truncated, whole > 16);
                truncated += whole > 16;
            }
        }
    }
    assert_true(seen[1] && seen[5000] && !seen[5001] && !seen[5002] && seen[5003]);
    assert_true(truncated > 0 && truncated == info->truncated);
    shard_block_free(&block);
    shard_close(s);
    buf_free(&raw);
}

/* The digest knows each option. */
static void check_digest(const CorpusRule *rule, const char *shard) {
    const char *other = in_folder("c2.shard");
    Err err = {0};
    bool reused;
    Shard *s;
    for (int i = 0; i < 8; i++) {
        CorpusRule changed = *rule;
        FlagList labels = {0};
        if (i == 0) changed.max_tokens++;
        if (i == 1) changed.split.seed++;
        if (i == 2) changed.split.dev = 0.11;
        if (i == 3) changed.plain = false;
        if (i == 4) changed.skip_bad = true;
        if (i == 5) changed.record.text_field = "text";
        if (i == 6) {
            ok(flags_list_add(&labels, "math", 4, &err), &err);
            changed.labels = labels;
        }
        if (i == 7) changed.record.label_field = "label";
        ok(corpus_pack(other, &changed, tokenizer, NULL, &reused, &err), &err);
        assert_false(reused);
        assert_same_file(shard, other, false);
        ok(shard_open(&s, other, &err), &err);
        if (i == 6) {
            assert_string_equal(shard_info(s)->labels[0], "math");
            assert_string_equal(shard_info(s)->labels[1], "coding");
        }
        shard_close(s);
        flags_list_free(&labels);
    }
}

static void test_corpus(void **state) {
    (void)state;
    Buf rows = {0};
    Err err = {0};
    add_rows(&rows, "corpus", 5000, ",\"source\":\"made\"");
    buf_puts(&rows, "\n  \t\r\n");
    add_json_row(&rows, "[CLS] is a word 7", "math", "");
    const char *plain = save_bytes("c.jsonl", rows.data, rows.len);
    const size_t cap = ZSTD_compressBound(rows.len);
    char *packed = mem_alloc(cap, 1);
    assert_non_null(packed);
    const size_t n = ZSTD_compress(packed, cap, rows.data, rows.len, 3);
    const char *zst = save_bytes("c.jsonl.zst", packed, n);
    gzFile gz = gzopen(in_folder("c.jsonl.gz"), "wb");
    assert_int_equal(gzwrite(gz, rows.data, (unsigned)rows.len), (int)rows.len);
    assert_int_equal(gzclose(gz), Z_OK);
    mem_free(packed);

    FlagList inputs = {0}, inputs_z = {0}, inputs_g = {0};
    CorpusRule rule = rule_for(&inputs, plain, NULL);
    const char *shard = in_folder("c.shard"), *other = in_folder("c2.shard");
    bool reused;
    for (int threads = 1; threads <= 3; threads++) { /* the same bytes on any number of threads */
        Threads *pool;
        ok(threads_open(&pool, threads, &err), &err);
        const char *path = threads == 1 ? shard : other;
        (void)unlink(path);
        ok(corpus_pack(path, &rule, tokenizer, pool, &reused, &err), &err);
        assert_false(reused);
        assert_same_file(shard, path, true);
        threads_close(pool);
    }
    ok(corpus_pack(shard, &rule, tokenizer, NULL, &reused, &err), &err);
    assert_true(reused);

    check_corpus_rows(shard, plain);

    /* Compressed files give the same rows. */
    CorpusRule rule_z = rule_for(&inputs_z, zst, NULL),
               rule_g = rule_for(&inputs_g, in_folder("c.jsonl.gz"), NULL);
    ok(corpus_pack(other, &rule_z, tokenizer, NULL, &reused, &err), &err);
    assert_false(reused);
    ok(corpus_pack(in_folder("c3.shard"), &rule_g, tokenizer, NULL, &reused, &err), &err);
    Shard *z, *g;
    ok(shard_open(&z, other, &err), &err);
    ok(shard_open(&g, in_folder("c3.shard"), &err), &err);
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++) {
        assert_int_equal(shard_rows(z, split), shard_rows(g, split));
        assert_int_equal(shard_tokens(z, split), shard_tokens(g, split));
    }
    shard_close(z);
    shard_close(g);
    check_digest(&rule, shard);

    FILE *f = fopen(shard, "r+b"); /* a damaged shard is packed again */
    assert_non_null(f);
    assert_true(fseek(f, 100, SEEK_SET) == 0 && fputc(0xee, f) == 0xee && fclose(f) == 0);
    ok(corpus_pack(shard, &rule, tokenizer, NULL, &reused, &err), &err);
    assert_false(reused);
    ok(read_whole(shard, &err), &err);
    flags_list_free(&inputs);
    flags_list_free(&inputs_z);
    flags_list_free(&inputs_g);
    buf_free(&rows);
}

static size_t count_files(const char *dir) {
    char **names;
    size_t count;
    assert_int_equal(file_list(&names, &count, dir, NULL), ERR_OK);
    file_list_free(names, count);
    return count;
}

/* Near-duplicates share a side unless only equal texts count; a row's weight is that of its file times its own. */
static void test_corpus_near(void **state) {
    (void)state;
    enum { FAMILIES = 120, OF = 3 };
    Buf rows = {0};
    for (uint64_t i = 0; i < FAMILIES; i++)
        for (int k = 0; k < OF; k++) {
            buf_puts(&rows, "{\"text\":\"");
            for (uint64_t w = 0; w < 24; w++) buf_printf(&rows, "w%zu ", pick("near", i * 100 + w, 100000));
            buf_printf(&rows, "%d\",\"label\":\"%s\",\"sample_weight\":%s}\n", k, i % 2 ? "a" : "b",
                       k ? "0.5" : "3");
        }
    const char *plain = save_bytes("near.jsonl", rows.data, rows.len);
    Buf weighted = {0};
    buf_printf(&weighted, "%s=2", plain);
    for (int exact = 0; exact < 2; exact++) {
        FlagList inputs = {0};
        CorpusRule rule = rule_for(&inputs, weighted.data, NULL);
        rule.near = exact ? 1 : 0.8;
        rule.max_tokens = 64;
        const char *path = in_folder(exact ? "exact.shard" : "near.shard");
        Err err = {0};
        bool reused;
        ok(corpus_pack(path, &rule, tokenizer, NULL, &reused, &err), &err);
        Shard *s;
        ShardBlock block = {0};
        ok(shard_open(&s, path, &err), &err);
        int side[FAMILIES * OF], crossing = 0;
        for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++)
            for (size_t b = 0; b < shard_blocks(s, split); b++) {
                ok(shard_read(s, &block, split, b, false, &err), &err);
                for (size_t r = 0; r < block.count; r++) {
                    side[block.rows[r].line - 1] = (int)split;
                    const double expected = (block.rows[r].line - 1) % OF ? 1 : 6;
                    assert_true((double)block.rows[r].weight == expected);
                }
            }
        for (int i = 0; i < FAMILIES * OF; i++) crossing += side[i] != side[i / OF * OF];
        assert_int_equal(crossing > 0, exact);
        assert_int_equal(shard_info(s)->split.joined, exact ? 0 : FAMILIES * (OF - 1));
        shard_block_free(&block);
        shard_close(s);
        flags_list_free(&inputs);
    }
    buf_free(&weighted);
    buf_free(&rows);
    const char *const BAD[] = {"0", "-1", "1001", "\"1\"", "1e-60"};
    Record record = {0};
    for (size_t i = 0; i < 5; i++) {
        char line[96];
        Err err = {0};
        (void)snprintf(line, sizeof line, "{\"text\":\"a\",\"label\":\"b\",\"sample_weight\":%s}", BAD[i]);
        assert_int_equal(record_parse(&record, &(RecordRule){0}, line, strlen(line), &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "sample_weight: found "));
    }
}

static void test_corpus_inputs(void **state) {
    (void)state;
    Err err = {0};
    ok(file_mkdirs(in_folder("in/b/deep"), &err), &err);
    Buf rows = {0};
    add_json_row(&rows, "one", "x", ",\"split\":\"train\"");
    save_bytes("in/z.jsonl", rows.data, rows.len);
    save_bytes("in/b/deep/a.jsonl", rows.data, rows.len);
    save_bytes("in/b.jsonl", rows.data, rows.len);
    save("in/b/notes.txt", "no");
    save("in/.hidden.jsonl", "no");
    save_bytes("in/odd=2.jsonl", rows.data, rows.len);
    save_bytes("in/w=3", rows.data, rows.len);
    assert_int_equal(symlink(in_folder("in"), in_folder("in/b/circle")), 0);
    char weighted[300], odd[300], same[300];
    (void)snprintf(weighted, sizeof weighted, "%s=2.5", in_folder("in/z.jsonl"));
    (void)snprintf(odd, sizeof odd, "%s", in_folder("in/odd=2.jsonl"));
    (void)snprintf(same, sizeof same, "%s", in_folder("in/w=3"));
    int pipe_ends[2]; /* stdin is read twice, though it can be read only once */
    assert_int_equal(pipe(pipe_ends), 0);
    assert_int_equal(write(pipe_ends[1], rows.data, rows.len), (ssize_t)rows.len);
    close(pipe_ends[1]);
    const int saved = dup(STDIN_FILENO);
    assert_true(dup2(pipe_ends[0], STDIN_FILENO) == STDIN_FILENO);
    FlagList inputs = {0};
    CorpusRule rule = rule_for(&inputs, in_folder("in"), weighted, odd, same, "-", NULL);
    const size_t before = count_files(folder);
    const char *path = in_folder("in.shard");
    bool reused;
    ok(corpus_pack(path, &rule, tokenizer, NULL, &reused, &err), &err);
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
    close(pipe_ends[0]);
    assert_int_equal(count_files(folder), before + 1); /* the spool is gone */
    static const char *const NAMES[] = {"in/b.jsonl", "in/b/deep/a.jsonl", "in/odd=2.jsonl", "in/z.jsonl",
                                        "in/z.jsonl", "in/odd=2.jsonl",    "in/w=3",         NULL};
    Shard *s;
    ok(shard_open(&s, path, &err), &err);
    assert_int_equal(shard_info(s)->file_count, 8);
    for (size_t i = 0; i < 7; i++) assert_string_equal(shard_info(s)->files[i], in_folder("%s", NAMES[i]));
    assert_string_equal(shard_info(s)->files[7], "stdin");
    assert_int_equal(shard_info(s)->split.duplicates, 7);
    ShardBlock block = {0};
    ok(shard_read(s, &block, SPLIT_TRAIN, 0, true, &err), &err);
    for (size_t i = 0; i < 8; i++) assert_true(block.rows[i].weight == (i == 4 ? 2.5F : 1.0F));
    shard_block_free(&block);
    shard_close(s);
    flags_list_free(&inputs);
    buf_free(&rows);
}

static void pack_fails(const CorpusRule *rule, ErrCode code, const char *message) {
    Err err = {0};
    bool reused;
    const char *path = in_folder("never.shard");
    assert_int_equal(corpus_pack(path, rule, tokenizer, NULL, &reused, &err), code);
    assert_string_equal(err.msg, message);
    assert_false(file_exists(path));
}

static void test_corpus_bad(void **state) {
    (void)state;
    static const char ROWS_TEXT[] =
        "{\"text\":\"one\",\"label\":\"math\"}\n"
        "{\"text\":\"\",\"label\":\"math\"}\n"
        "{\"text\":\"two\",\"label\":\"maths\"}\n"
        "{\"text\":\"three\",\"label\":\"math\",\"split\":\"extra\"}\n"
        "nonsense\n"
        "{\"text\":\"four\",\"label\":\"health\"}\n";
    char expected[700];
    const char *path = save_bytes("bad.jsonl", ROWS_TEXT, sizeof ROWS_TEXT - 1);
    FlagList inputs = {0}, none = {0}, labels = {0};
    CorpusRule rule = rule_for(&inputs, path, NULL);
    (void)snprintf(expected, sizeof expected, "%s:2: text: the text is empty", path);
    pack_fails(&rule, ERR_FORMAT, expected);
    Err err = {0};
    ok(flags_list_add(&labels, "math", 4, &err), &err);
    ok(flags_list_add(&labels, "health", 6, &err), &err);
    rule.labels = labels;
    rule.labels_closed = true;
    rule.skip_bad = true;
    bool reused;
    ok(corpus_pack(in_folder("skip.shard"), &rule, tokenizer, NULL, &reused, &err), &err);
    Shard *s;
    ok(shard_open(&s, in_folder("skip.shard"), &err), &err);
    assert_int_equal(shard_info(s)->skipped, 4);
    assert_int_equal(shard_info(s)->message_count, 3);
    (void)snprintf(expected, sizeof expected,
                   "%s:3: label 'maths' is not one of the 2: math, health; did you mean 'math'?", path);
    assert_string_equal(shard_info(s)->messages[1], expected);
    (void)snprintf(expected, sizeof expected,
                   "%s:4: split 'extra' is not one of train, dev, calibration, test", path);
    assert_string_equal(shard_info(s)->messages[2], expected);
    assert_int_equal(shard_rows(s, SPLIT_TRAIN), 2);
    shard_close(s);

    rule = rule_for(&none, NULL);
    pack_fails(&rule, ERR_ARGUMENT, "no input files");
    flags_list_free(&none);
    rule = rule_for(&none, "/nonexistent.jsonl", NULL);
    pack_fails(&rule, ERR_IO, "/nonexistent.jsonl: cannot open: No such file or directory");
    flags_list_free(&none);
    rule = rule_for(&none, "x.jsonl=1001", NULL);
    pack_fails(&rule, ERR_ARGUMENT, "x.jsonl=1001: found weight 1001, expected more than 0 and at most 1000");
    flags_list_free(&none);
    path = save("empty.jsonl", "\n\n");
    rule = rule_for(&none, path, NULL);
    (void)snprintf(expected, sizeof expected, "%s: no rows", path);
    pack_fails(&rule, ERR_FORMAT, expected);
    rule.max_tokens = 2;
    pack_fails(&rule, ERR_ARGUMENT, "max_length: found 2, expected 3 to 65536");
    flags_list_free(&none);
    ok(file_mkdirs(in_folder("void"), &err), &err);
    rule = rule_for(&none, in_folder("void"), NULL);
    (void)snprintf(expected, sizeof expected, "%s: no *.jsonl, *.jsonl.gz or *.jsonl.zst in this folder",
                   in_folder("void"));
    pack_fails(&rule, ERR_ARGUMENT, expected);
    flags_list_free(&none);
    rule = rule_for(&none, "-", "-", NULL);
    const int saved = dup(STDIN_FILENO);
    assert_non_null(freopen("/dev/null", "r", stdin));
    pack_fails(&rule, ERR_ARGUMENT, "stdin can be read only once");
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
    flags_list_free(&none);

    /* Never over a file that is no shard. */
    path = in_folder("bad.jsonl");
    assert_int_equal(corpus_pack(path, &(CorpusRule){.inputs = inputs, .max_tokens = 8, .near = 0.8},
                                 tokenizer, NULL, &reused, &err),
                     ERR_ARGUMENT);
    (void)snprintf(expected, sizeof expected, "%s: is there already and is no shard: choose another name",
                   path);
    assert_string_equal(err.msg, expected);
    struct stat st;
    assert_true(stat(path, &st) == 0 && st.st_size == sizeof ROWS_TEXT - 1);

    /* Whichever allocation fails: an error, no leak, no file or a whole one (only the sync of the folder
     * comes after the renaming). */
    path = save("two.jsonl", "{\"text\":\"one\",\"label\":\"a\"}\n{\"text\":\"two\",\"label\":\"b\"}\n");
    rule = rule_for(&none, path, NULL);
    for (size_t n = 1;; n++) {
        mem_fail_at(n);
        const ErrCode rc = corpus_pack(in_folder("never.shard"), &rule, tokenizer, NULL, &reused, NULL);
        mem_fail_at(0);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
        if (file_exists(in_folder("never.shard"))) ok(read_whole(in_folder("never.shard"), &err), &err);
        (void)unlink(in_folder("never.shard"));
        assert_true(n < 10000);
    }
    flags_list_free(&none);
    flags_list_free(&inputs);
    flags_list_free(&labels);
}

/* ---- pack ---- */

static void test_pack(void **state) {
    (void)state;
    Buf rows = {0}, out = {0};
    Err err = {0};
    add_rows(&rows, "pack", 300, "");
    buf_puts(&rows, "broken\n");
    const char *data = save_bytes("p.jsonl", rows.data, rows.len);
    const char *model = in_folder("spm.model"), *shard = in_folder("p.shard");
    progress_quiet(true);
    assert_int_equal(run_command(&pack_cmd, &out, &err, ARGS(data, "--model", model, "--out", shard)),
                     ERR_FORMAT);
    char expected[400];
    (void)snprintf(expected, sizeof expected, "%s:301: not valid JSON at line 1, column 1: unexpected text",
                   data);
    assert_string_equal(err.msg, expected);
    ok(run_command(&pack_cmd, &out, &err,
                   ARGS(data, "--model", model, "--out", shard, "--skip-bad", "--max-seq-length", "12")),
       &err);
    assert_non_null(strstr(out.data, "300 rows"));
    assert_non_null(strstr(out.data, "bad rows left out"));
    ok(run_command(&pack_cmd, &out, &err,
                   ARGS(data, "--model", folder, "--out", shard, "--skip-bad", "--max-length=12", "--json",
                        "--threads", "2")),
       &err);
    cJSON *json;
    ok(json_parse(&json, out.data, out.len, &err), &err);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(json, "reused")));
    int64_t skipped = 0, train = 0, test = 0;
    ok(json_get_int(&skipped, json, "skipped", 0, 1000, &err), &err);
    assert_int_equal(skipped, 1);
    ok(json_get_int(&train, cJSON_GetObjectItem(json, "rows"), "train", 0, 1000, &err), &err);
    ok(json_get_int(&test, cJSON_GetObjectItem(json, "rows"), "test", 0, 1000, &err), &err);
    assert_true(train == 240 && test == 30);
    cJSON_Delete(json);
    ok(run_command(&pack_cmd, &out, &err,
                   ARGS(data, "--model", model, "--out", shard, "--skip-bad", "--labels", "coding,math",
                        "--labels", "health")),
       &err);
    Shard *s;
    ok(shard_open(&s, shard, &err), &err);
    assert_string_equal(shard_info(s)->labels[0], "coding");
    assert_string_equal(shard_info(s)->labels[1], "math");
    shard_close(s);
    assert_int_equal(run_command(&pack_cmd, &out, &err, ARGS(data, "--out", shard)), ERR_ARGUMENT);
    assert_string_equal(err.msg, "--model: expected spm.model or a folder that holds it");
    assert_int_equal(
        run_command(&pack_cmd, &out, &err, ARGS(data, "--model", model, "--out", shard, "--labels", "a,,b")),
        ERR_ARGUMENT);
    assert_string_equal(err.msg, "labels: an empty label");
    assert_int_equal(
        run_command(&pack_cmd, &out, &err, ARGS(data, "--model", model, "--out", shard, "--labels", "a,b,a")),
        ERR_ARGUMENT);
    assert_string_equal(err.msg, "labels: 'a' is given twice");
    progress_quiet(false);
    buf_free(&rows);
    buf_free(&out);
}

/* The real corpus, where it is there: every file of it packs, and each batch of an epoch comes. */
static void test_real_corpus(void **state) {
    (void)state;
    const char *corpus = need_shared("corpus/math"), *model = need_shared("deberta-v3-tokenizer");
    Err err = {0};
    Tokenizer *t;
    Threads *threads;
    ok(tokenizer_open(&t, model, &err), &err);
    ok(threads_open(&threads, 0, &err), &err);
    FlagList inputs = {0};
    CorpusRule rule = rule_for(&inputs, corpus, NULL);
    rule.max_tokens = 128;
    bool reused;
    ok(corpus_pack(in_folder("math.shard"), &rule, t, threads, &reused, &err), &err);
    Shard *s;
    Batcher *b;
    ok(shard_open(&s, in_folder("math.shard"), &err), &err);
    assert_int_equal(shard_rows(s, SPLIT_TEST), 4182); /* as its README says */
    assert_int_equal(shard_rows(s, SPLIT_TRAIN) + shard_rows(s, SPLIT_DEV) + shard_rows(s, SPLIT_CALIBRATION),
                     20670);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 32}, &err), &err);
    Epoch e = read_epoch(b, 0, 0, false);
    assert_int_equal(e.rows, shard_rows(s, SPLIT_TRAIN));
    epoch_free(&e);
    batch_close(b);
    shard_close(s);
    threads_close(threads);
    tokenizer_close(t);
    flags_list_free(&inputs);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),         cmocka_unit_test(test_record_bad),
        cmocka_unit_test(test_sort_and_names), cmocka_unit_test(test_split_key),
        cmocka_unit_test(test_split),          cmocka_unit_test(test_split_given),
        cmocka_unit_test(test_split_joined),   cmocka_unit_test(test_split_bad),
        cmocka_unit_test(test_shard),          cmocka_unit_test(test_shard_blocks),
        cmocka_unit_test(test_shard_damaged),  cmocka_unit_test(test_batch_order),
        cmocka_unit_test(test_batch_small),    cmocka_unit_test(test_batch_weights),
        cmocka_unit_test(test_corpus),         cmocka_unit_test(test_corpus_near),
        cmocka_unit_test(test_corpus_inputs),  cmocka_unit_test(test_corpus_bad),
        cmocka_unit_test(test_pack),           cmocka_unit_test(test_real_corpus),
    };
    return folder_close(cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer));
}
