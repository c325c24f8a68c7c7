/* tests/test_add_domain.c - `router add-domain` as its users meet it, on a tiny model that tells prompts apart by one word:
 * what it learns, what it keeps, what it reports (against the same counted here), stopped runs, and what it refuses.
 * tests/test_grow.c has the head by itself. */
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/sha256.h"
#include "eval/add_domain_cmd.h"
#include "eval/add_rows.h"
#include "eval/calibrate_cmd.h"
#include "eval/export_cmd.h"
#include "eval/grow.h"
#include "eval/predict.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/program.h"
#include "tests/tiny_spm.h"
#include "tests/unit.h"
#include "train/train_cmd.h"

static const char *const CONFIG = ROUTER_SOURCE_DIR "/configs/model-tiny.json";
static const char *const LABELS[] = {"coding", "maths", "other", "law", "trips"};
static const char *const WORDS[] = {"the", "abc", "zz", "q", "e9"};
enum { CODING, MATHS, OTHER, LAW, TRIPS, OLD = 3 };
enum { ROWS = 80, NEW = 60, BATCH = 8, STEPS = 60, MOST_ARGUMENTS = 31 };

/* Rows under two old labels that are of the new domain, which here has the word of the third: the parent's vectors tell it
 * from those two. */
enum { PLANTED_OTHER = 4, PLANTED_CODING = 3 };

/* ---- prompts ---- */

/* Of i below 99991, all different, and no two near each other: of the pairs of words most hold a number. That says nothing
 * about the label: it has as many digits whatever i is. */
static const char *prompt(int label, int i) {
    static char texts[8][64];
    static int next;
    char *text = texts[next++ % 8];
    (void)snprintf(text, 64, "%s %03d %s %05d", WORDS[label], (int)pick("prompt", (uint64_t)i, 1000),
                   WORDS[label], (int)((uint64_t)i * 7919 % 99991));
    return text;
}

/* A file of prompts, made by puts. */
static Buf lines;

static void put(int word, int i, const char *label, const char *split) {
    buf_printf(&lines, "{\"text\": \"%s\"", prompt(word, i));
    if (label) buf_printf(&lines, ", \"label\": \"%s\"", label);
    if (split) buf_printf(&lines, ", \"split\": \"%s\"", split);
    buf_puts(&lines, "}\n");
}

static void save_lines(const char *name) {
    if (!lines.data) buf_puts(&lines, "");
    (void)save(name, lines.data);
    buf_clear(&lines);
}

/* ---- running ---- */

/* What all runs have. */
#define OPTIONS(out)                                                                                    \
    "--from", in_folder("parent"), "--out", in_folder("%s", out), "--batch_size", path_of("%d", BATCH), \
        "--max_steps", path_of("%d", STEPS), "--test_share=0.25", "--calibration_share=0.1", "--quiet"

/* `router add-domain` of the parent, or of the run that is named in `options`; they end with NULL. */
static ErrCode add(const char *out, Buf *printed, Err *err, const char *const *options) {
    const char *args[MOST_ARGUMENTS + 1] = {OPTIONS(out), "--threads=1"};
    int n = 0;
    while (args[n]) n++;
    for (; *options; options++) {
        assert_true(n < MOST_ARGUMENTS);
        args[n++] = *options;
    }
    *err = (Err){0};
    return run_command(&add_domain_cmd, printed, err, args);
}

#define LAW_DATA "--domain=law", "--data", in_folder("law.jsonl")
#define TWO_DATA "--domain=law", "--domain=trips=where to go", "--data", in_folder("two.jsonl")

static void run_add(const char *out, const char *const *options) {
    Err err = {0};
    OK(add(out, NULL, &err, options));
}

static void refused_as(ErrCode code, const char *out, const char *expected, const char *const *options) {
    Err err = {0};
    assert_int_equal(add(out, NULL, &err, options), code);
    assert_says(&err, expected);
}

#define REFUSED(expected, ...) refused_as(ERR_ARGUMENT, "refused", expected, ARGS(__VA_ARGS__))

static cJSON *json_of(const char *path) {
    cJSON *root;
    Err err = {0};
    OK(json_read(&root, path, &err));
    return root;
}

static const cJSON *at(const cJSON *root, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    if (!item) fail_msg("%s is missing", key);
    return item;
}

static double number(const cJSON *root, const char *key) {
    const cJSON *item = at(root, key);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

static const char *string(const cJSON *root, const char *key) {
    const cJSON *item = at(root, key);
    assert_true(cJSON_IsString(item));
    return item->valuestring;
}

static const cJSON *element(const cJSON *array, int i) {
    const cJSON *item = cJSON_GetArrayItem(array, i);
    assert_non_null(item);
    return item;
}

/* ---- rows.jsonl.zst ---- */

enum { SPLIT_MEMBER, ORIGIN, WAS, WEIGHT, MEMBERS };

static const char *const CHILD_LABELS[] = {"coding", "maths", "other", "law", "trips"};

static void read_rows(Rows *rows, const char *run, const char *const *labels, int K) {
    static char *members[] = {"split", "origin", "was", "sample_weight"};
    const RowsRule rule = {.split = SPLIT_COUNT, .members = {members, MEMBERS}};
    Err err = {0};
    *rows = (Rows){0};
    OK(rows_read(rows, in_folder("%s/rows.jsonl.zst", run), &rule, labels, K, &err));
    assert_true(rows->count > 0);
}

static const char *member(const Rows *rows, size_t i, size_t which) {
    const int tag = rows_tag(rows, i, which);
    return tag < 0 ? NULL : rows->values[which].items[tag];
}

static bool is(const Rows *rows, size_t i, size_t which, const char *value) {
    const char *found = member(rows, i, which);
    return found && strcmp(found, value) == 0;
}

static const char *text_at(const Rows *rows, size_t i) {
    return path_of("%.*s", (int)rows->items[i].text_len, rows->bytes.data + rows->items[i].text_at);
}

/* The parent's shard, a Rows for each split. */
static void read_parent(Rows shard[SPLIT_COUNT]) {
    Err err = {0};
    for (int s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) {
        shard[s] = (Rows){0};
        OK(rows_read_shard(&shard[s], in_folder("parent/data.shard"), (Split)s, false, CHILD_LABELS, OLD,
                           &err));
    }
}

static bool same_text(const Rows *a, size_t i, const Rows *b, size_t j) {
    return a->items[i].text_len == b->items[j].text_len &&
           memcmp(a->bytes.data + a->items[i].text_at, b->bytes.data + b->items[j].text_at,
                  a->items[i].text_len) == 0;
}

/* Where row i of `rows` is in it; SPLIT_COUNT: nowhere. */
static Split find_text(const Rows shard[SPLIT_COUNT], const Rows *rows, size_t i, int *label) {
    for (int s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
        for (size_t j = 0; j < shard[s].count; j++)
            if (same_text(rows, i, &shard[s], j)) {
                *label = shard[s].items[j].label;
                return (Split)s;
            }
    return SPLIT_COUNT;
}

/* ---- models that answer ---- */

typedef struct {
    Threads *threads;
    Predictor *p;
} Router;

static void router_open(Router *r, const char *run) {
    Err err = {0};
    OK(threads_open(&r->threads, 1, &err));
    OK(predict_open(&r->p, in_folder("%s", run), &(PredictRule){.backend = "auto"}, r->threads, &err));
}

static void router_close(Router *r) {
    predict_close(r->p);
    threads_close(r->threads);
}

/* Answers to n texts (mem_free). */
static int *answers_of(const char *run, const RowText *texts, size_t n) {
    Err err = {0};
    Router r;
    router_open(&r, run);
    const int K = predict_classes(r.p);
    double *p = malloc(n * (size_t)K * sizeof *p);
    int *out = malloc(n * sizeof *out);
    OK(predict_all(r.p, p, NULL, texts, n, "test", &err));
    for (size_t i = 0; i < n; i++) {
        out[i] = 0;
        for (int k = 1; k < K; k++)
            if (p[i * (size_t)K + (size_t)k] > p[i * (size_t)K + (size_t)out[i]]) out[i] = k;
    }
    free(p);
    router_close(&r);
    return out;
}

/* ---- the report, counted again ---- */

enum { LABELS_MAX = 5 };

typedef struct {
    int K, old;
    Rows rows;
    size_t n, n_old;
    int *before, *after;
    int confusion[2][LABELS_MAX]
                 [LABELS_MAX]; /* side, label, answer; all rows of the child, old ones of the parent */
    int of_old[LABELS_MAX][LABELS_MAX]; /* the child's, of old rows */
    int moved[LABELS_MAX][LABELS_MAX];
    int right[2], flips, fixed, broken;
} Count;

static void count_test(Count *c, const char *parent, const char *child, const char *const *labels, int K,
                       int old) {
    Err err = {0};
    RowText *texts;
    int *truth;
    *c = (Count){.K = K, .old = old};
    OK(rows_read_shard(&c->rows, in_folder("%s/data.shard", child), SPLIT_TEST, false, labels, K, &err));
    OK(rows_views(&texts, &truth, &c->rows, &err));
    c->n = c->rows.count;
    c->before = answers_of(parent, texts, c->n);
    c->after = answers_of(child, texts, c->n);
    for (size_t i = 0; i < c->n; i++) {
        c->confusion[1][truth[i]][c->after[i]]++;
        if (truth[i] >= old) continue;
        c->n_old++;
        c->confusion[0][truth[i]][c->before[i]]++;
        c->of_old[truth[i]][c->after[i]]++;
        c->moved[c->before[i]][c->after[i]]++;
        const bool was = c->before[i] == truth[i], is_now = c->after[i] == truth[i];
        c->right[0] += was;
        c->right[1] += is_now;
        c->flips += c->before[i] != c->after[i];
        c->fixed += !was && is_now;
        c->broken += was && !is_now;
    }
    mem_free(texts);
    mem_free(truth);
}

static void count_free(Count *c) {
    rows_free(&c->rows);
    free(c->before);
    free(c->after);
}

static double share(double a, double b) {
    return b > 0 ? a / b : 0;
}

static int sum_row(const int table[LABELS_MAX][LABELS_MAX], int k) {
    int sum = 0;
    for (int j = 0; j < LABELS_MAX; j++) sum += table[k][j];
    return sum;
}

static int sum_column(const int table[LABELS_MAX][LABELS_MAX], int k) {
    int sum = 0;
    for (int j = 0; j < LABELS_MAX; j++) sum += table[j][k];
    return sum;
}

static double f1_of(const int table[LABELS_MAX][LABELS_MAX], int k) {
    return share(2.0 * table[k][k], sum_row(table, k) + sum_column(table, k));
}

/* Numbers are printed with 10 digits. */
#define EXACT 1e-9

static void check_old(const cJSON *old, const Count *c) {
    const cJSON *accuracy = at(old, "accuracy"), *flips = at(old, "flips");
    assert_int_equal(number(old, "n"), c->n_old);
    const double before = share(c->right[0], (double)c->n_old), after = share(c->right[1], (double)c->n_old);
    assert_near(number(at(accuracy, "before"), "value"), before, EXACT);
    assert_near(number(at(accuracy, "after"), "value"), after, EXACT);
    assert_near(number(at(accuracy, "difference"), "value"), after - before, EXACT);
    assert_true(number(at(accuracy, "before"), "low") < before &&
                number(at(accuracy, "difference"), "high") >= after - before);
    assert_int_equal(number(flips, "count"), c->flips);
    assert_near(number(flips, "rate"), share(c->flips, (double)c->n_old), EXACT);
    assert_int_equal(number(flips, "fixed"), c->fixed);
    assert_int_equal(number(flips, "broken"), c->broken);
    assert_int_equal(number(flips, "other"), c->flips - c->fixed - c->broken);
    double macro[2] = {0};
    int seen[2] = {0};
    for (int k = 0; k < c->K; k++)
        for (int side = 0; side < 2; side++) {
            const int(*table)[LABELS_MAX] = side ? c->of_old : c->confusion[0];
            if (sum_row(table, k) + sum_column(table, k) == 0) continue;
            macro[side] += f1_of(table, k);
            seen[side]++;
        }
    assert_near(number(at(at(old, "macro_f1"), "before"), "value"), macro[0] / seen[0], EXACT);
    assert_near(number(at(at(old, "macro_f1"), "after"), "value"), macro[1] / seen[1], EXACT);
    for (int k = 0; k < c->old; k++) {
        const cJSON *one = element(at(old, "classes"), k);
        int lost = 0;
        for (int j = c->old; j < c->K; j++) lost += c->of_old[k][j];
        assert_int_equal(number(one, "n"), sum_row(c->of_old, k));
        assert_int_equal(number(one, "lost"), lost);
        for (int side = 0; side < 2; side++) {
            const int(*table)[LABELS_MAX] = side ? c->of_old : c->confusion[0];
            const char *key = side ? "after" : "before";
            assert_near(number(at(one, "recall"), key), share(table[k][k], sum_row(table, k)), EXACT);
            assert_near(number(at(one, "f1"), key), f1_of(table, k), EXACT);
        }
        for (int j = 0; j < c->K; j++)
            assert_int_equal(element(element(at(old, "moved"), k), j)->valuedouble, c->moved[k][j]);
    }
}

static void check_new(const cJSON *new, const Count *c) {
    assert_int_equal(number(new, "n"), c->n - c->n_old);
    for (int k = c->old; k < c->K; k++) {
        const cJSON *one = element(at(new, "classes"), k - c->old);
        const int(*table)[LABELS_MAX] = c->confusion[1];
        int took = 0;
        for (int j = 0; j < c->old; j++) took += table[j][k];
        assert_int_equal(number(one, "n"), sum_row(table, k));
        assert_int_equal(number(one, "took"), took);
        assert_near(number(at(one, "precision"), "value"), share(table[k][k], sum_column(table, k)), EXACT);
        assert_near(number(at(one, "recall"), "value"), share(table[k][k], sum_row(table, k)), EXACT);
        assert_near(number(one, "f1"), f1_of(table, k), EXACT);
    }
}

static void check_step0(const cJSON *report) {
    const cJSON *step0 = at(report, "step0");
    assert_true(number(step0, "rows") > 0 && number(step0, "rows") == number(step0, "same"));
    assert_true(number(step0, "logit_difference") < 1e-4);
}

/* report.json of a run: of the parent, and of the rows that both are asked. */
static cJSON *check_report(const char *parent, const char *child, const char *const *labels, int K, int old) {
    cJSON *report = json_of(in_folder("%s/report.json", child));
    Count c;
    check_step0(report);
    count_test(&c, parent, child, labels, K, old);
    const cJSON *set = element(at(report, "sets"), 0);
    check_old(at(set, "old"), &c);
    check_new(at(set, "new"), &c);
    assert_int_equal(number(at(report, "child"), "labels"), K);
    assert_int_equal(number(at(report, "parent"), "labels"), old);
    for (int k = 0; k < K; k++) {
        assert_string_equal(string(element(at(report, "labels"), k), "label"), labels[k]);
        assert_int_equal(number(element(at(report, "labels"), k), "id"), k);
        assert_int_equal(cJSON_IsTrue(at(element(at(report, "labels"), k), "added")), k >= old);
    }
    count_free(&c);
    return report;
}

static void expect_in(const Buf *text, const char *where, const char *expected) {
    if (!strstr(text->data, expected)) fail_msg("%s does not say: %s\nbut: %s", where, expected, text->data);
}

/* Table and page say in words what report.json says in numbers. */
static void check_words(const Buf *text, const char *where, const cJSON *report) {
    const cJSON *old = at(element(at(report, "sets"), 0), "old"), *accuracy = at(old, "accuracy"),
                *new = element(at(at(element(at(report, "sets"), 0), "new"), "classes"), 0);
    const cJSON *before = at(accuracy, "before"), *after = at(accuracy, "after"),
                *d = at(accuracy, "difference");
    char line[512];
    (void)snprintf(
        line, sizeof line,
        "Old labels, %.0f rows: accuracy %.2f %% [%.2f, %.2f] before, %.2f %% [%.2f, %.2f] after, "
        "difference %+.2f points [%+.2f, %+.2f], McNemar mid-p %.3g. %.0f answers differ (%.2f %%): %.0f "
        "right now, %.0f wrong now.",
        number(old, "n"), 100 * number(before, "value"), 100 * number(before, "low"),
        100 * number(before, "high"), 100 * number(after, "value"), 100 * number(after, "low"),
        100 * number(after, "high"), 100 * number(d, "value"), 100 * number(d, "low"),
        100 * number(d, "high"), number(old, "mcnemar_p"), number(at(old, "flips"), "count"),
        100 * number(at(old, "flips"), "rate"), number(at(old, "flips"), "fixed"),
        number(at(old, "flips"), "broken"));
    expect_in(text, where, line);
    (void)snprintf(line, sizeof line, "%.2f [%.2f, %.2f]", 100 * number(at(new, "precision"), "value"),
                   100 * number(at(new, "precision"), "low"), 100 * number(at(new, "precision"), "high"));
    expect_in(text, where, line);
    (void)snprintf(line, sizeof line, "%.2f [%.2f, %.2f]", 100 * number(at(new, "recall"), "value"),
                   100 * number(at(new, "recall"), "low"), 100 * number(at(new, "recall"), "high"));
    expect_in(text, where, line);
    for (int k = 0; k < OLD; k++) {
        const cJSON *one = element(at(old, "classes"), k);
        expect_in(text, where, string(one, "label"));
        expect_in(text, where, path_of("%.2f", 100 * number(at(one, "recall"), "after")));
        expect_in(text, where, path_of("%.2f", 100 * number(at(one, "f1"), "before")));
    }
    (void)snprintf(line, sizeof line,
                   "Before training the grown head decided %.0f of %.0f old prompts as the parent does.",
                   number(at(report, "step0"), "same"), number(at(report, "step0"), "rows"));
    expect_in(text, where, line);
}

/* ---- a domain is added ---- */

static void test_adds(void **state) {
    (void)state;
    Err err = {0};
    Buf printed = {0}, page = {0};
    OK(add("base", &printed, &err,
           ARGS(LAW_DATA, "--report", in_folder("base.html"), "--held-out", in_folder("held.jsonl"),
                "--show-flips=1000", "--max-regression=100")));
    cJSON *report = check_report("parent", "base", CHILD_LABELS, 4, OLD);
    check_words(&printed, "the table", report);
    read_file(&page, in_folder("base.html"));
    check_words(&page, "the page", report);
    const cJSON *sets = at(report, "sets"), *set = element(sets, 0), *old = at(set, "old");
    const double recall = number(at(element(at(at(set, "new"), "classes"), 0), "recall"), "value"),
                 lost = -number(at(at(old, "accuracy"), "difference"), "value");
    if (recall < 0.6) fail_msg("recall of the new label %.3f; chance gives 0.25", recall);
    if (lost > 0.12) fail_msg("the old labels lost %.3f", lost);
    assert_int_equal(cJSON_GetArraySize(at(old, "shown")), number(at(old, "flips"), "count"));
    /* the other source: the same words, so the same knowledge; and what it is about by --map-field is not asked */
    assert_int_equal(cJSON_GetArraySize(sets), 2);
    const cJSON *held = element(sets, 1);
    assert_int_equal(number(at(held, "old"), "n"), 30);
    assert_int_equal(number(at(held, "new"), "n"), 20);
    assert_true(cJSON_IsNull(at(held, "values")));
    assert_true(cJSON_IsTrue(at(at(report, "gate"), "passed")));
    assert_near(number(at(report, "gate"), "regression"), 100 * lost, 1e-7);
    const cJSON *train = at(at(report, "rows"), "train");
    assert_int_equal(number(train, "relabelled") + number(train, "pseudo") + number(train, "left_out"), 0);
    Rows rows;
    size_t count[2] = {0};
    read_rows(&rows, "base", CHILD_LABELS, 4);
    for (size_t i = 0; i < rows.count; i++)
        if (is(&rows, i, SPLIT_MEMBER, "train")) count[is(&rows, i, ORIGIN, "new")]++;
    assert_int_equal(number(train, "old"), count[0]);
    assert_int_equal(number(train, "new"), count[1]);
    rows_free(&rows);
    cJSON_Delete(report);
    buf_free(&printed);
    buf_free(&page);
}

/* Ids are the parent's and then the new one's; a later model file, and the taxonomy of the next revision. */
static void test_ids(void **state) {
    (void)state;
    Err err = {0};
    char digest[65];
    Config c;
    OK(weights_digest(digest, in_folder("parent/model-best"), &err));
    OK(config_read(&c, in_folder("base/model-best"), &err));
    assert_true(config_has_labels(&c, CHILD_LABELS, 4));
    assert_int_equal(c.taxonomy.revision, 2);
    assert_string_equal(c.taxonomy.parent, digest);
    assert_int_equal(c.taxonomy.labels[LAW].since, 2);
    config_free(&c);
    Config start;
    OK(config_read(&start, in_folder("base/start"), &err));
    assert_true(config_has_labels(&start, CHILD_LABELS, 4));
    config_free(&start);
    char **names;
    size_t count;
    OK(file_list(&names, &count, in_folder("base"), &err));
    for (size_t i = 0; i < count; i++)
        if (strstr(names[i], ".tmp") || strstr(names[i], ".old") || strcmp(names[i], "grown") == 0)
            fail_msg("%s stays behind", names[i]);
    file_list_free(names, count);
}

/* Held-out rows by a member: how many, and how many are right before and after. */
static void test_values(void **state) {
    (void)state;
    static const char *const SUBJECTS[] = {"algebra", "statutes", "verse \"x\""};
    static const int TRUTH[] = {MATHS, LAW, OTHER};
    Err err = {0};
    enum { EACH = 11 };
    for (int i = 0; i < 3 * EACH; i++)
        buf_printf(&lines, "{\"text\": \"%s\", \"subject\": \"%s\"}\n", prompt(TRUTH[i % 3], 18000 + i),
                   i % 3 == 2 ? "verse \\\"x\\\"" : SUBJECTS[i % 3]);
    save_lines("subjects.jsonl");
    (void)save("map.json", "{\"algebra\": \"maths\", \"statutes\": \"other\"}");
    run_add("values",
            ARGS(LAW_DATA, "--head-only", "--held-out", in_folder("subjects.jsonl"), "--map-field=subject",
                 "--label-map", in_folder("map.json"), "--remap=statutes=law", "--remap=verse \"x\"=other"));
    cJSON *report = json_of(in_folder("values/report.json"));
    const cJSON *values = at(element(at(report, "sets"), 1), "values");
    for (int v = 0; v < 3; v++) {
        char texts[EACH][64];
        RowText views[EACH];
        int right[2] = {0}, to_new = 0;
        for (int i = 0; i < EACH; i++) {
            (void)snprintf(texts[i], sizeof texts[i], "%s", prompt(TRUTH[v], 18000 + 3 * i + v));
            views[i] = (RowText){texts[i], strlen(texts[i])};
        }
        int *before = answers_of("parent", views, EACH), *after = answers_of("values", views, EACH);
        for (int i = 0; i < EACH; i++) {
            right[0] += before[i] == TRUTH[v];
            right[1] += after[i] == TRUTH[v];
            to_new += after[i] >= OLD;
        }
        free(before);
        free(after);
        const cJSON *one = element(values, v);
        assert_string_equal(string(one, "value"), SUBJECTS[v]);
        assert_string_equal(string(one, "label"), LABELS[TRUTH[v]]);
        assert_int_equal(number(one, "n"), EACH);
        assert_near(number(one, "before"), share(right[0], EACH), EXACT);
        assert_near(number(one, "after"), share(right[1], EACH), EXACT);
        assert_near(number(one, "to_new"), share(to_new, EACH), EXACT);
    }
    cJSON_Delete(report);
    assert_int_equal(
        add("values3", NULL, &err,
            ARGS(LAW_DATA, "--head-only", "--held-out", in_folder("subjects.jsonl"), "--remap=x=law")),
        ERR_ARGUMENT);
    assert_string_equal(err.msg, "remap: found 'x=law', expected VALUE=LABEL beside a --label-map");
    /* what is wrong with it is told before anything is trained, and is no other run once it is put right */
    (void)save("map.json", "{\"algebra\": \"maths\", \"statutes\": \"lawn\"}");
    assert_int_equal(add("values2", NULL, &err,
                         ARGS(LAW_DATA, "--head-only", "--held-out", in_folder("subjects.jsonl"),
                              "--map-field=subject", "--label-map", in_folder("map.json"))),
                     ERR_FORMAT);
    assert_false(file_exists(in_folder("values2/model-best")));
    run_add("values2", ARGS(LAW_DATA, "--head-only", "--resume"));
}

/* ---- the rows ---- */

/* Of a run: old rows keep their split, held-out ones are all there, no text is in two splits, and weights hold. */
static void check_rows(const char *run, int domains, double new_share) {
    Rows rows, parent[SPLIT_COUNT];
    double seen[2] = {0}, each[LABELS_MAX] = {0};
    bool capped = false;
    size_t held_out = 0;
    read_rows(&rows, run, CHILD_LABELS, OLD + domains);
    read_parent(parent);
    for (size_t i = 0; i < rows.count; i++) {
        const char *split = member(&rows, i, SPLIT_MEMBER), *weight = member(&rows, i, WEIGHT);
        assert_non_null(split);
        assert_int_equal(strcmp(split, "train") == 0, weight != NULL);
        if (!is(&rows, i, ORIGIN, "new")) {
            int label = -1;
            const Split was = find_text(parent, &rows, i, &label);
            assert_true(was != SPLIT_COUNT);
            assert_string_equal(split_name(was), split);
            assert_true(label == rows.items[i].label || is(&rows, i, WAS, LABELS[label]));
            held_out += was != SPLIT_TRAIN;
        }
        if (!weight) continue;
        const double w = strtod(weight, NULL);
        assert_true(w > 0 && w <= ADD_ROWS_VISITS);
        capped |= w >= ADD_ROWS_VISITS * (1 - 1e-6);
        seen[rows.items[i].label >= OLD] += w;
        each[rows.items[i].label] += w;
    }
    assert_int_equal(held_out,
                     parent[SPLIT_DEV].count + parent[SPLIT_CALIBRATION].count + parent[SPLIT_TEST].count);
    for (int s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) rows_free(&parent[s]);
    for (size_t i = 0; i < rows.count; i++)
        for (size_t j = i + 1; j < rows.count; j++)
            if (same_text(&rows, i, &rows, j))
                assert_true(is(&rows, i, SPLIT_MEMBER, member(&rows, j, SPLIT_MEMBER)));
    if (capped) {
        assert_true(seen[1] <= STEPS * BATCH * new_share * (1 + 1e-6));
    } else {
        assert_near(seen[0] + seen[1], STEPS * BATCH, 1e-3); /* weights are written with 9 digits */
        assert_near(seen[1], STEPS * BATCH * new_share, 1e-3);
        for (int k = OLD + 1; k < OLD + domains; k++) assert_near(each[k], each[OLD], 1e-3);
    }
    rows_free(&rows);
}

/* Where none is asked for, new rows are shown as often as they occur, a tenth of the time at least. */
static double natural_share(void) {
    Rows parent[SPLIT_COUNT];
    read_parent(parent);
    const double rows = NEW * (1 - 0.05 - 0.1 - 0.25), old = (double)parent[SPLIT_TRAIN].count;
    for (int s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) rows_free(&parent[s]);
    return fmin(fmax(rows / (rows + old), 0.1), 0.5);
}

static void test_rows(void **state) {
    (void)state;
    check_rows("base", 1, natural_share());
    /* new rows that are old ones of the test split but for a sign: test */
    Err err = {0};
    Rows test = {0};
    OK(rows_read_shard(&test, in_folder("parent/data.shard"), SPLIT_TEST, false, CHILD_LABELS, OLD, &err));
    const size_t copies = 6;
    assert_true(test.count > copies);
    for (int i = 0; i < NEW; i++) put(LAW, 4000 + i, NULL, NULL);
    for (size_t i = 0; i < copies; i++)
        buf_printf(&lines, "{\"text\": \"%s !\", \"label\": \"law\"}\n", text_at(&test, i));
    save_lines("near.jsonl");
    const double share_of_new = 0.1 + 0.5 * uniform("new_share", 0);
    run_add("near", ARGS("--domain=law", "--data", in_folder("near.jsonl"), "--head-only", "--new-share",
                         path_of("%.6f", share_of_new)));
    check_rows("near", 1, strtod(path_of("%.6f", share_of_new), NULL));
    Rows rows;
    size_t found = 0;
    read_rows(&rows, "near", CHILD_LABELS, 4);
    for (size_t i = 0; i < rows.count; i++) {
        if (!is(&rows, i, ORIGIN, "new") || !strchr(text_at(&rows, i), '!')) continue;
        assert_true(is(&rows, i, SPLIT_MEMBER, "test"));
        found++;
    }
    assert_int_equal(found, copies);
    rows_free(&rows);
    rows_free(&test);
}

/* Few new rows: none is seen more than 20 times, and old rows have the rest. */
static void test_few(void **state) {
    (void)state;
    static const char *const OTHERS[] = {"dev", "calibration",
                                         "test"}; /* what is named is not cut from train */
    for (int i = 0; i < 15; i++) put(LAW, 5000 + i, NULL, i < 12 ? "train" : OTHERS[i - 12]);
    save_lines("few.jsonl");
    run_add("few", ARGS("--domain=law", "--data", in_folder("few.jsonl"), "--head-only", "--new-share=0.9"));
    Rows rows;
    double seen[2] = {0};
    read_rows(&rows, "few", CHILD_LABELS, 4);
    for (size_t i = 0; i < rows.count; i++) {
        if (!member(&rows, i, WEIGHT)) continue;
        const double w = strtod(member(&rows, i, WEIGHT), NULL);
        seen[rows.items[i].label >= OLD] += w;
        if (rows.items[i].label == LAW) assert_near(w, ADD_ROWS_VISITS, 1e-6);
    }
    assert_near(seen[1], 12 * ADD_ROWS_VISITS, 1e-3);
    assert_near(seen[0], STEPS * BATCH - 12 * ADD_ROWS_VISITS, 1e-3);
    rows_free(&rows);
}

/* Where nothing is said: 20 visits of each new row, but 1,000 steps at most, in which new rows are a tenth and a half at most. */
static void test_plan(void **state) {
    (void)state;
    static const char *const OTHERS[] = {"dev", "calibration", "test"};
    static const int TRAIN[] = {12, 300}; /* of the parent's 120 and these: 9 and 71 % */
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < TRAIN[c] + 3; i++)
            put(LAW, 50000 + i, NULL, i < TRAIN[c] ? "train" : OTHERS[i - TRAIN[c]]);
        save_lines("plan.jsonl");
        run_add("plan", ARGS("--overwrite", "--domain=law", "--data", in_folder("plan.jsonl"), "--head-only",
                             "--max-steps=0"));
        Rows rows;
        double seen[2] = {0};
        size_t old = 0;
        read_rows(&rows, "plan", CHILD_LABELS, 4);
        for (size_t i = 0; i < rows.count; i++) {
            if (!member(&rows, i, WEIGHT)) continue;
            const bool new = rows.items[i].label >= OLD;
            seen[new] += strtod(member(&rows, i, WEIGHT), NULL);
            old += !new;
        }
        rows_free(&rows);
        const double steps = c ? 1000 : 20 * 12 / (BATCH * 0.1), share = c ? 0.5 : 0.1;
        assert_near(seen[1], steps * BATCH * share, 1e-3);
        assert_near(seen[0], fmin(steps * BATCH * (1 - share), (double)old * ADD_ROWS_VISITS), 1e-3);
    }
}

/* Training gets the parent as its teacher, unless its answers count for nothing: they would be a quarter of the time. */
static void test_recipe(void **state) {
    (void)state;
    for (int weight = 0; weight < 2; weight++) {
        Err err = {0};
        cJSON *recipe;
        run_add("recipe", ARGS("--overwrite", LAW_DATA, "--head-only",
                               weight ? "--distill-weight=1" : "--distill-weight=0"));
        OK(json_read(&recipe, in_folder("recipe/train_config.json"), &err));
        const cJSON *teacher = cJSON_GetObjectItemCaseSensitive(recipe, "teacher"),
                    *rate = cJSON_GetObjectItemCaseSensitive(recipe, "new_token_rate");
        assert_true(weight ? cJSON_IsString(teacher) : cJSON_IsNull(teacher));
        assert_true(cJSON_IsNumber(rate) && rate->valuedouble == 8);
        cJSON_Delete(recipe);
    }
}

/* Of more dev rows than choosing the step needs some 2,000 are kept: a binomial number, here within 7 of its deviations. */
static void test_dev_rows(void **state) {
    (void)state;
    enum { DEV = 2600, OTHERS = 100 };
    for (int i = 0; i < DEV; i++) put(i % OLD, 30000 + i, LABELS[i % OLD], "dev");
    for (int i = 0; i < 2 * OTHERS; i++)
        put(i % OLD, 40000 + i, LABELS[i % OLD], i < OTHERS ? "train" : "test");
    save_lines("dev.jsonl");
    run_add("dev", ARGS(LAW_DATA, "--head-only", "--replay", in_folder("dev.jsonl")));
    Rows rows;
    size_t dev = 0, test = 0;
    read_rows(&rows, "dev", CHILD_LABELS, 4);
    for (size_t i = 0; i < rows.count; i++) {
        if (is(&rows, i, ORIGIN, "new")) continue;
        dev += is(&rows, i, SPLIT_MEMBER, "dev");
        test += is(&rows, i, SPLIT_MEMBER, "test");
    }
    assert_int_equal(test, OTHERS);
    if (!(dev > 1850 && dev < 2150)) fail_msg("%zu dev rows are kept, expected about 2000", dev);
    rows_free(&rows);
}

/* The replay by the square root of each label's rows: of those that are not used up, take / sqrt(rows) is one number, but
 * for rounding up in each of two rounds, and for what the last ones lack. Held-out rows are none of its business. */
static void test_replay(void **state) {
    (void)state;
    for (int round = 0; round < 2; round++) {
        size_t rows_of[OLD], taken[OLD] = {0}, total = 0, all = 0, test = 0;
        for (int k = 0; k < OLD; k++) {
            rows_of[k] = (size_t)(4 + draw(k == draw(OLD) ? 20 : 120));
            all += rows_of[k];
            for (size_t i = 0; i < rows_of[k]; i++) put(k, 6000 + 1000 * k + (int)i, LABELS[k], "train");
            for (int i = 0; i < 20 * (k + 1); i++) put(k, 9000 + 100 * k + i, LABELS[k], "test");
            put(k, 9900 + k, LABELS[k], "dev"); /* a split that no row names takes of the others */
            put(k, 9950 + k, LABELS[k], "calibration");
        }
        save_lines("old.jsonl");
        const size_t most = (size_t)(10 + draw(150));
        run_add("replay", ARGS("--overwrite", LAW_DATA, "--replay", in_folder("old.jsonl"), "--replay-rows",
                               path_of("%zu", most), "--head-only"));
        Rows rows;
        read_rows(&rows, "replay", CHILD_LABELS, 4);
        for (size_t i = 0; i < rows.count; i++) {
            if (is(&rows, i, ORIGIN, "new")) continue;
            test += is(&rows, i, SPLIT_MEMBER, "test");
            if (is(&rows, i, SPLIT_MEMBER, "train")) taken[rows.items[i].label]++;
        }
        assert_int_equal(test, 120);
        for (int k = 0; k < OLD; k++) total += taken[k];
        if (total != (most < all ? most : all)) fail_msg("%zu of %zu rows, %zu wanted", total, all, most);
        for (int k = 0; k < OLD; k++)
            for (int j = 0; j < OLD; j++) {
                if (taken[k] == rows_of[k] || taken[j] == rows_of[j]) continue;
                const double a = (double)taken[k] / sqrt((double)rows_of[k]),
                             b = (double)taken[j] / sqrt((double)rows_of[j]);
                assert_near(a, b,
                            2 * OLD / sqrt((double)(rows_of[k] < rows_of[j] ? rows_of[k] : rows_of[j])));
            }
        rows_free(&rows);
    }
}

/* ---- suspects ---- */

typedef struct {
    size_t count, planted, first,
        moved; /* first: planted ones among the first `PLANTED_OTHER + PLANTED_CODING` */
    bool only_other;
} Suspects;

static Suspects read_suspects(const char *run, double above) {
    Buf text = {0};
    Suspects s = {.only_other = true};
    double last = 1;
    read_file(&text, in_folder("%s/suspects.jsonl", run));
    for (char *line = text.data; *line; s.count++) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        *end = 0;
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        const bool planted = strncmp(string(row, "text"), "abc ", 4) == 0,
                   moved = cJSON_IsTrue(at(row, "relabelled"));
        const double p = number(row, "p_suggested");
        assert_string_equal(string(row, "suggested"), "law");
        assert_int_equal(number(row, "rank"), s.count + 1);
        assert_true(p <= last && p >= 0.5 && p + number(row, "p_label") < 1.0001);
        assert_int_equal(moved, p >= above);
        last = p;
        s.planted += planted;
        s.first += planted && s.count < PLANTED_OTHER + PLANTED_CODING;
        s.moved += moved;
        s.only_other = s.only_other && strcmp(string(row, "label"), "other") == 0;
        cJSON_Delete(row);
        line = end + 1;
    }
    buf_free(&text);
    return s;
}

static void check_moved(const char *run, size_t moved) {
    Rows rows;
    size_t found = 0, left = 0;
    read_rows(&rows, run, CHILD_LABELS, 4);
    for (size_t i = 0; i < rows.count; i++) {
        if (member(&rows, i, WAS)) {
            assert_int_equal(rows.items[i].label, LAW);
            assert_true(is(&rows, i, ORIGIN, "old") && is(&rows, i, SPLIT_MEMBER, "train"));
            found++;
        }
        left += rows.items[i].label < OLD && strncmp(text_at(&rows, i), "abc ", 4) == 0;
    }
    assert_int_equal(found, moved);
    cJSON *report = json_of(in_folder("%s/report.json", run));
    assert_int_equal(number(at(at(report, "rows"), "train"), "relabelled"), moved);
    cJSON_Delete(report);
    rows_free(&rows);
    assert_true(left < PLANTED_OTHER + PLANTED_CODING || moved == 0);
}

#define REPLAY                                                                                 \
    "--domain=law", "--data", in_folder("many.jsonl"), "--replay", in_folder("planted.jsonl"), \
        "--head-only", "--replay-rows=1000", "--new-share=0.5"

static void test_suspects(void **state) {
    (void)state;
    const size_t planted = PLANTED_OTHER + PLANTED_CODING;
    run_add("suspects", ARGS(REPLAY));
    Suspects s = read_suspects("suspects", 2);
    if (s.planted < planted / 2 || s.first < s.planted)
        fail_msg("of %zu planted rows %zu are listed, %zu first", planted, s.planted, s.first);
    assert_true(!s.only_other && s.moved == 0);
    check_moved("suspects", 0);
    run_add("moved", ARGS(REPLAY, "--relabel=above=0.9"));
    s = read_suspects("moved", 0.9);
    assert_true(s.moved > 0);
    check_moved("moved", s.moved);
    run_add("split", ARGS(REPLAY, "--relabel=above=0.6", "--split-from=other"));
    s = read_suspects("split", 0.6);
    assert_true(s.only_other && s.planted >= PLANTED_OTHER / 2);
    check_moved("split", s.moved);
    /* called otherwise from now on: it is still the parent's label that is split */
    run_add("split2",
            ARGS("--domain=law", "--data", in_folder("many.jsonl"), "--head-only", "--split-from=other",
                 "--rename=other=rest", "--replay", in_folder("renamed.jsonl")));
    Buf text = {0};
    read_file(&text, in_folder("split2/suspects.jsonl"));
    expect_in(&text, "suspects.jsonl", "\"label\": \"rest\"");
    buf_free(&text);
}

/* Old train rows that the new file has too, with punctuation of its own: they are there once, under the new label. Held-out
 * ones stay, and take the new row along. */
static void test_replaced(void **state) {
    (void)state;
    Rows parent[SPLIT_COUNT], rows;
    enum { GIVEN = 9 };
    read_parent(parent);
    for (size_t i = 0; i < GIVEN; i++) {
        const Row *row = &parent[SPLIT_TRAIN].items[i * 3];
        buf_printf(&lines, "{\"text\": \"%.*s !\", \"label\": \"law\"}\n", (int)row->text_len,
                   parent[SPLIT_TRAIN].bytes.data + row->text_at);
    }
    for (int i = 0; i < 40; i++) put(LAW, 21000 + i, "law", NULL);
    save_lines("again.jsonl");
    run_add("again",
            ARGS("--domain=law", "--data", in_folder("again.jsonl"), "--head-only", "--replay-rows=100000"));
    read_rows(&rows, "again", CHILD_LABELS, 4);
    size_t old = 0, new = 0;
    for (size_t i = 0; i < rows.count; i++) {
        const Row *row = &rows.items[i];
        for (size_t j = 0; j < GIVEN; j++) {
            const Row *given = &parent[SPLIT_TRAIN].items[j * 3];
            const bool same = row->text_len >= given->text_len &&
                              memcmp(rows.bytes.data + row->text_at,
                                     parent[SPLIT_TRAIN].bytes.data + given->text_at, given->text_len) == 0;
            old += same && row->text_len == given->text_len && is(&rows, i, ORIGIN, "old");
            new += same && row->text_len == given->text_len + 2 && row->label == LAW;
        }
    }
    assert_int_equal(old, 0);
    assert_int_equal(new, GIVEN);
    cJSON *report = json_of(in_folder("again/report.json"));
    assert_int_equal(number(at(at(report, "rows"), "train"), "replaced"), GIVEN);
    cJSON_Delete(report);
    for (int k = SPLIT_TRAIN; k < SPLIT_COUNT; k++) rows_free(&parent[k]);
    rows_free(&rows);
}

/* ---- two at once, and what else becomes of labels ---- */

static void test_two(void **state) {
    (void)state;
    static const char *const NAMES[] = {"programming", "maths", "other", "law", "trips"};
    Err err = {0};
    Config c;
    run_add("two", ARGS(TWO_DATA, "--rename=coding=programming", "--retire=maths"));
    cJSON *report = json_of(in_folder("two/report.json"));
    check_step0(report);
    OK(config_read(&c, in_folder("two/model-best"), &err));
    assert_true(config_has_labels(&c, NAMES, 5));
    assert_true(c.taxonomy.labels[MATHS].retired && !c.taxonomy.labels[CODING].retired);
    assert_true(taxonomy_was(&c.taxonomy.labels[CODING], "coding"));
    assert_string_equal(c.taxonomy.labels[TRIPS].description, "where to go");
    config_free(&c);
    const cJSON *labels = at(report, "labels");
    assert_string_equal(string(element(labels, 0), "was"), "coding");
    assert_true(cJSON_IsTrue(at(element(labels, 1), "retired")) &&
                !cJSON_GetObjectItem(element(labels, 2), "was"));
    assert_int_equal(number(at(at(report, "rows"), "train"), "left_out"), ROWS);
    const cJSON *new = at(at(element(at(report, "sets"), 0), "new"), "classes");
    for (int i = 0; i < 2; i++)
        if (number(at(element(new, i), "recall"), "value") < 0.5)
            fail_msg("recall of %s %.3f; chance gives 0.2", NAMES[LAW + i],
                     number(at(element(new, i), "recall"), "value"));
    /* nothing is answered with what is retired, not even its own prompts */
    char texts[ROWS][64];
    RowText views[ROWS];
    for (int i = 0; i < ROWS; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%s", prompt(i % 5, 12000 + i));
        views[i] = (RowText){texts[i], strlen(texts[i])};
    }
    int *said = answers_of("two", views, ROWS);
    for (int i = 0; i < ROWS; i++) assert_true(said[i] != MATHS);
    free(said);
    cJSON_Delete(report);
}

/* ---- without training ---- */

/* All that is not the classifier's is the parent's to the bit, and the classifier is not. */
static void test_head_only(void **state) {
    (void)state;
    Err err = {0};
    Safetensors a, b;
    int same = 0;
    OK(safetensors_open(&a, in_folder("parent/model-best/model.safetensors"), &err));
    OK(safetensors_open(&b, in_folder("suspects/model-best/model.safetensors"), &err));
    for (size_t i = 0; i < a.header.count; i++) {
        const SafetensorsEntry *x = &a.header.entries[i], *y = safetensors_find(&b.header, x->name);
        const size_t n = (size_t)(x->end - x->begin);
        char *p = malloc(n), *q = malloc(n);
        const bool head = strncmp(x->name, "classifier.", 11) == 0;
        assert_true(y && y->end - y->begin >= n);
        OK(safetensors_read(&a, x, p, &err));
        char *whole = malloc((size_t)(y->end - y->begin));
        OK(safetensors_read(&b, y, whole, &err));
        memcpy(q, whole, n);
        assert_int_equal(memcmp(p, q, n) == 0, !head);
        same += !head;
        free(whole);
        free(p);
        free(q);
    }
    assert_true(same > 30);
    safetensors_close(&a);
    safetensors_close(&b);
    cJSON *report = check_report("parent", "suspects", CHILD_LABELS, 4, OLD);
    assert_int_equal(number(at(report, "rows"), "steps"), 0);
    assert_true(cJSON_IsNull(at(report, "gate")));
    cJSON_Delete(report);
}

/* ---- a parent that abstains ---- */

/* A copy of the parent that is calibrated; then its child has thresholds of its own, by the same policy. */
static void calibrated_child(const char *name, const char *const *how, const char *const *extra) {
    Err err = {0};
    const char *args[12] = {in_folder("%s", name), "--policy=coverage=0.9", "--quiet"}, *options[12] = {NULL};
    int n = 3;
    for (; *how; how++) args[n++] = *how;
    OK(file_mkdirs(in_folder("%s", name), &err));
    OK(grow_copy(in_folder("%s/model-best", name), in_folder("parent/model-best"), &err));
    OK(file_copy(in_folder("%s/data.shard", name), in_folder("parent/data.shard"), &err));
    OK(run_command(&calibrate_cmd, NULL, &err, args));
    const char *const base[] = {LAW_DATA, "--from", in_folder("%s", name), "--head-only"};
    n = 0;
    for (size_t i = 0; i < sizeof base / sizeof *base; i++) options[n++] = base[i];
    for (; *extra; extra++) options[n++] = *extra;
    const char *child = path_of("%s-child", name);
    OK(add(child, NULL, &err, options));
    cJSON *before = json_of(in_folder("%s/model-best/config.json", name)),
          *after = json_of(in_folder("%s-child/model-best/config.json", name)),
          *report = json_of(in_folder("%s-child/report.json", name)),
          *start = json_of(in_folder("%s-child/start/config.json", name));
    check_step0(report);
    const cJSON *a = at(before, "router_decision"), *b = at(after, "router_decision"),
                *c = at(start, "router_decision");
    assert_string_equal(string(b, "policy"), "coverage=0.9");
    assert_string_equal(string(c, "policy"), "coverage=0.9");
    assert_string_equal(string(b, "score"), string(a, "score"));
    assert_int_equal(cJSON_IsArray(at(b, "threshold")), cJSON_IsArray(at(a, "threshold")));
    if (cJSON_IsArray(at(b, "threshold"))) {
        assert_int_equal(cJSON_GetArraySize(at(b, "threshold")), 4);
        assert_int_equal(cJSON_GetArraySize(at(c, "threshold")), 4);
    }
    assert_non_null(cJSON_GetObjectItem(after, "router_calibration"));
    assert_true(cJSON_IsObject(at(report, "calibration")));
    cJSON_Delete(before);
    cJSON_Delete(after);
    cJSON_Delete(report);
    cJSON_Delete(start);
}

static void test_calibrated(void **state) {
    (void)state;
    calibrated_child("calibrated", ARGS("--per-class"), ARGS("--seed=7"));
    calibrated_child("entropy", ARGS("--score=entropy"), ARGS("--seed=7"));
    calibrated_child("margin", ARGS("--score=margin"), ARGS("--retire=coding"));
}

/* A run folder of the parent's model and data, whose config.json has other decisions. */
static void copy_parent(const char *name, const char *temperature, const char *with) {
    Err err = {0};
    Buf text = {0}, changed = {0};
    OK(file_mkdirs(in_folder("%s", name), &err));
    OK(grow_copy(in_folder("%s/model-best", name), in_folder("parent/model-best"), &err));
    OK(file_copy(in_folder("%s/data.shard", name), in_folder("parent/data.shard"), &err));
    read_file(&text, in_folder("%s/model-best/config.json", name));
    buf_printf(&changed, "{%s%s,%s", temperature, with, strchr(text.data, '{') + 1);
    OK(file_save(in_folder("%s/model-best/config.json", name), changed.data, changed.len, &err));
    buf_free(&text);
    buf_free(&changed);
}

/* What cannot be kept is told before training, where that can be known, or else behind the report. */
static void test_policies(void **state) {
    (void)state;
    Err err = {0};
    static const char *const SURE = "\"router_temperature\": 1";
    copy_parent(
        "costs", SURE,
        ",\"router_decision\": {\"score\": \"margin\", \"threshold\": 0.2, \"policy\": \"cost=c.json\", "
        "\"cost\": {\"abstain\": {\"coding\": 0.1, \"maths\": 0.1, \"other\": 0.2}}}");
    assert_int_equal(add("refused", NULL, &err, ARGS(LAW_DATA, "--from", in_folder("costs"))), ERR_FORMAT);
    assert_non_null(
        strstr(err.msg, "the costs that the parent was calibrated by are not of the child's labels"));
    copy_parent(
        "fallback", SURE,
        ",\"router_decision\": {\"score\": \"margin\", \"threshold\": 0.2, \"policy\": \"coverage=0.9\", "
        "\"fallback\": \"other\"}");
    REFUSED(path_of("retire: 'other' is the fallback of the parent's decisions (%s)",
                    in_folder("fallback/model-best/config.json")),
            LAW_DATA, "--from", in_folder("fallback"), "--retire=other");
    OK(add("fallback-child", NULL, &err,
           ARGS(LAW_DATA, "--from", in_folder("fallback"), "--head-only", "--rename=other=rest")));
    cJSON *config = json_of(in_folder("fallback-child/model-best/config.json"));
    assert_string_equal(string(at(config, "router_decision"), "fallback"), "rest");
    cJSON_Delete(config);
    copy_parent("strict", SURE,
                ",\"router_decision\": {\"score\": \"margin\", \"threshold\": 0.2, \"policy\": "
                "\"precision=0.99999\"}");
    assert_int_equal(
        add("strict-child", NULL, &err, ARGS(LAW_DATA, "--from", in_folder("strict"), "--head-only")),
        ERR_GATE);
    assert_non_null(strstr(err.msg, "no threshold shows a precision"));
    cJSON *report = json_of(in_folder("strict-child/report.json"));
    assert_true(cJSON_IsNull(at(report, "calibration")));
    cJSON_Delete(report);
    assert_false(file_exists(in_folder("refused/grown")) || file_exists(in_folder("refused/model-best")));
}

/* ---- the gate ---- */

/* The new domain's prompts are like any old ones, and more, also to calibrate with: that costs these. */
#define GREEDY                                                                             \
    "--domain=law", "--data", in_folder("greedy.jsonl"), "--head-only", "--new-share=0.8", \
        "--calibration-share=0.4"

static void test_gate(void **state) {
    (void)state;
    Err err = {0};
    for (int i = 0; i < 5 * NEW; i++) put(i % OLD, 15000 + i, NULL, NULL);
    save_lines("greedy.jsonl");
    assert_int_equal(add("gate", NULL, &err, ARGS(GREEDY, "--max-regression=0.5")), ERR_GATE);
    cJSON *report = check_report("parent", "gate", CHILD_LABELS, 4, OLD);
    const cJSON *gate = at(report, "gate");
    char expected[512];
    (void)snprintf(
        expected, sizeof expected,
        "the old labels lost %.2f points of accuracy, more than --max-regression 0.5: %s stays in place",
        number(gate, "regression"), in_folder("parent"));
    assert_string_equal(err.msg, expected);
    assert_true(number(gate, "regression") > 0.5 && cJSON_IsFalse(at(gate, "passed")));
    assert_true(file_exists(in_folder("gate/model-best/model.safetensors")));
    cJSON_Delete(report);
    /* asked again with another limit it goes on to the end, without one there is no gate */
    OK(add("gate", NULL, &err, ARGS(GREEDY, "--max-regression=100", "--resume")));
    OK(add("gate", NULL, &err, ARGS(GREEDY, "--resume")));
    report = json_of(in_folder("gate/report.json"));
    assert_true(cJSON_IsNull(at(report, "gate")));
    cJSON_Delete(report);
}

/* ---- a parent without its data ---- */

static void test_no_data(void **state) {
    (void)state;
    Err err = {0};
    char expected[700];
    OK(grow_copy(in_folder("hf"), in_folder("parent/model-best"), &err));
    (void)snprintf(
        expected, sizeof expected,
        "the parent's data are gone (no data.shard beside %s): name old rows with --replay, or any prompts "
        "such as data/corpus without labels, which the parent then labels",
        in_folder("hf"));
    assert_int_equal(add("refused", NULL, &err, ARGS(LAW_DATA, "--from", in_folder("hf"))), ERR_ARGUMENT);
    assert_string_equal(err.msg, expected);
    for (int i = 0; i < ROWS; i++) put(i % OLD, 17000 + i, i % 4 ? NULL : LABELS[i % OLD], NULL);
    save_lines("bare.jsonl");
    OK(add("pseudo", NULL, &err,
           ARGS(LAW_DATA, "--from", in_folder("hf"), "--replay", in_folder("bare.jsonl"), "--head-only")));
    cJSON *report = json_of(in_folder("pseudo/report.json"));
    check_step0(report);
    assert_int_equal(number(at(at(report, "rows"), "train"), "pseudo"), ROWS - ROWS / 4);
    cJSON_Delete(report);
    Rows rows;
    RowText *texts;
    int *labels;
    size_t old = 0;
    read_rows(&rows, "pseudo", CHILD_LABELS, 4);
    OK(rows_views(&texts, &labels, &rows, &err));
    int *said = answers_of("hf", texts, rows.count);
    for (size_t i = 0; i < rows.count; i++) {
        if (is(&rows, i, ORIGIN, "new")) continue;
        int which = 0;
        while (which < ROWS && strcmp(prompt(which % OLD, 17000 + which), text_at(&rows, i)) != 0) which++;
        assert_true(which < ROWS);
        assert_int_equal(labels[i], which % 4 ? said[i] : which % OLD);
        old++;
    }
    assert_int_equal(old, ROWS);
    free(said);
    mem_free(texts);
    mem_free(labels);
    rows_free(&rows);
}

/* ---- stopped runs ---- */

static Run start(const char *out, const char *const *options) {
    const char *args[48] = {ROUTER_PROGRAM,        "add-domain", OPTIONS(out),
                            "--precision=fp32", /* auto measures which is faster: other bits on another day */
                            "--relabel=above=0.9", LAW_DATA};
    int n = 0;
    while (args[n]) n++;
    for (; *options; options++) args[n++] = *options;
    return spawn(args);
}

/* Without what a clock says. */
static char *timeless_report(const char *run) {
    cJSON *report = json_of(in_folder("%s/report.json", run));
    cJSON_DeleteItemFromObject(cJSON_GetObjectItem(report, "rows"),
                               "seconds"); /* null of a run that was resumed */
    cJSON_SetNumberHelper(cJSON_GetObjectItem(cJSON_GetObjectItem(report, "parent"), "ms_per_prompt"), 0);
    cJSON_SetNumberHelper(cJSON_GetObjectItem(cJSON_GetObjectItem(report, "child"), "ms_per_prompt"), 0);
    char *text = cJSON_Print(report);
    cJSON_Delete(report);
    return text;
}

static void assert_same_run(const char *a, const char *b) {
    static const char *const FILES[] = {
        "model-best/model.safetensors", "model-best/config.json", "rows.jsonl.zst", "suspects.jsonl",
        "start/model.safetensors",      "prepared.json",          "data.shard"};
    Err err = {0};
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        assert_same_file(in_folder("%s/%s", a, FILES[i]), in_folder("%s/%s", b, FILES[i]));
    char *x = timeless_report(a), *y = timeless_report(b);
    size_t same = 0;
    while (x[same] && x[same] == y[same]) same++;
    if (x[same] || y[same])
        fail_msg("the reports of %s and %s differ:\n%.200s\n%.200s", a, b,
                 x + same - (same > 100 ? 100 : same), y + same - (same > 100 ? 100 : same));
    cJSON_free(x);
    cJSON_free(y);
    char **names;
    size_t count;
    OK(file_list(&names, &count, in_folder("%s", b), &err));
    for (size_t i = 0; i < count; i++)
        if (strstr(names[i], ".tmp") || strstr(names[i], ".old") || strcmp(names[i], "grown") == 0)
            fail_msg("%s/%s was left behind", b, names[i]);
    file_list_free(names, count);
}

static double unbroken_seconds;

/* kill -9 at random moments until a run gets through. All runs are at one path, which reports and shards name. */
static void test_kill(void **state) {
    (void)state;
    Err err = {0};
    Run run = start("run", ARGS("--threads=1"));
    expect(0, run);
    unbroken_seconds = progress_clock() - run.started;
    assert_int_equal(rename(in_folder("run"), in_folder("unbroken")), 0);
    for (int round = 0; round < 2; round++) {
        int kills = 0, status = -1;
        while (status != 0) {
            run = start("run", ARGS("--resume", kills % 2 ? "--threads=2" : "--threads=1"));
            if (kills < 5) {
                /* the first falls into the preparation, which is about a third */
                wait_seconds(unbroken_seconds * draw(1000) / (kills == 0 ? 3000 : 1000));
                (void)kill(run.pid, SIGKILL);
            }
            status = finish(run.pid);
            if (status == -SIGKILL)
                kills++;
            else if (status != 0)
                fail_msg("after %d kills: exit status %d, %s", kills, status, messages());
        }
        if (kills == 0) print_message("never killed in time\n");
        assert_same_run("unbroken", "run");
        if (round == 0) { /* once more to the end, from what is finished */
            expect(0, start("run", ARGS("--resume", "--show-flips=10")));
            assert_same_run("unbroken", "run");
            OK(file_remove_dir(in_folder("run"), &err));
        }
    }
    OK(file_remove_dir(in_folder("run"), &err));
}

/* A run that gets SIGINT as soon as training has saved. */
static void test_interrupt(void **state) {
    (void)state;
    Err err = {0};
    int status = 0;
    for (int tries = 0; tries < 10 && status == 0; tries++) {
        OK(file_remove_dir(in_folder("run"), &err));
        const Run run = start("run", ARGS("--threads=1"));
        while (!file_exists(in_folder("run/model-last/trainer_state.json"))) {
            if (progress_clock() - run.started > 60) fail_msg("nothing is saved: %s", messages());
            wait_seconds(0.001);
        }
        (void)kill(run.pid, SIGINT);
        status = finish(run.pid);
    }
    if (status != 130) fail_msg("exit status %d, expected 130: %s", status, messages());
    if (!strstr(messages(), "continue with --resume")) fail_msg("it says: %s", messages());
    assert_false(file_exists(in_folder("run/report.json")));
    expect(2, start("run", ARGS("--resume", "--distill-weight=3")));
    assert_string_equal(messages(),
                        "router: --resume: distill_weight was 0.3 when the run began, now it is 3\n");
    expect(2, start("run", ARGS("--resume", "--domain=trips")));
    assert_string_equal(messages(),
                        "router: --resume: domain was [\"law\"] when the run began, now it is "
                        "[\"law\",\"trips\"]\n");
    expect(2, start("run", ARGS("--threads=1")));
    char expected[400];
    (void)snprintf(
        expected, sizeof expected,
        "router: %s holds a run already: continue it with --resume, or begin anew with --overwrite\n",
        in_folder("run"));
    assert_string_equal(messages(), expected);
    expect(2, start("run", ARGS("--resume", "--overwrite")));
    assert_string_equal(messages(), "router: --resume and --overwrite exclude each other\n");
    expect(0, start("run", ARGS("--resume", "--threads=2", "--max-regression=99")));
    expect(0, start("run", ARGS("--resume")));
    assert_same_run("unbroken", "run");
    /* anew, and stopped before it trains: what is left of the run before does not matter */
    OK(file_remove_dir(in_folder("run/model-best"), &err));
    OK(file_remove_dir(in_folder("run/model-last"), &err));
    OK(file_remove_dir(in_folder("run/start"), &err));
    status = 0;
    for (int tries = 0; tries < 10 && status != -SIGKILL; tries++) {
        const Run run = start("run", ARGS("--overwrite", "--lr=4e-3"));
        while (file_exists(in_folder("run/train_config.json")) && progress_clock() - run.started < 60)
            wait_seconds(0.001);
        (void)kill(run.pid, SIGKILL);
        status = finish(run.pid);
    }
    assert_int_equal(status, -SIGKILL);
    expect(0, start("run", ARGS("--resume", "--lr=4e-3")));
    expect(0, start("run", ARGS("--overwrite")));
    assert_same_run("unbroken", "run");
}

/* ---- what is refused ---- */

/* Of the options alone. */
static void test_refused_options(void **state) {
    (void)state;
    REFUSED("there is a label 'coding' already (id 0)", "--domain=coding", "--data", in_folder("law.jsonl"));
    REFUSED("there is a label 'law' already (id 3)", "--domain=law", "--domain=law", "--data",
            in_folder("law.jsonl"));
    REFUSED("label '': a name of 0 bytes, expected 1 to 256", "--domain=", "--data", in_folder("law.jsonl"));
    REFUSED("rename: found 'coding', expected OLD=NEW", LAW_DATA, "--rename=coding");
    REFUSED("rename: 'codding' is none of the 3 labels; did you mean 'coding'?", LAW_DATA,
            "--rename=codding=x");
    REFUSED("there is a label 'maths' already (id 1)", LAW_DATA, "--rename=coding=maths");
    REFUSED("retire: 'rest' is none of the 3 labels", LAW_DATA, "--retire=rest");
    REFUSED("the label 'maths' cannot be retired: 2 labels are active, and a router needs 2", LAW_DATA,
            "--retire=coding", "--retire=maths");
    REFUSED("split-from: 'otter' is none of the 3 labels; did you mean 'other'?", LAW_DATA,
            "--split-from=otter");
    static const char *const NONSENSE[] = {"0.9",       "above=",    "above=x",   "above=1",
                                           "above=0.2", "above=nan", "below=0.9", "above=0.9 "};
    for (size_t i = 0; i < sizeof NONSENSE / sizeof *NONSENSE; i++)
        REFUSED(path_of("relabel: found '%s', expected above=P with P from 0.5 to below 1", NONSENSE[i]),
                LAW_DATA, "--relabel", NONSENSE[i]);
    REFUSED("--domain: expected the name of a new domain", "--data", in_folder("law.jsonl"));
    REFUSED("--data: expected JSONL with prompts of the new domain", "--domain=law");
    Err err = {0};
    assert_int_equal(run_command(&add_domain_cmd, NULL, &err, ARGS(LAW_DATA, "--out", in_folder("refused"))),
                     ERR_ARGUMENT);
    assert_string_equal(err.msg, "--from: expected the router's run folder");
    assert_int_equal(run_command(&add_domain_cmd, NULL, &err, ARGS(LAW_DATA, "--from", in_folder("parent"))),
                     ERR_ARGUMENT);
    assert_string_equal(err.msg, "--out: expected the new router's run folder");
}

/* However it is spelt, and with --overwrite too. */
static void test_refused_places(void **state) {
    (void)state;
    refused_as(ERR_ARGUMENT, "layers", "freeze_layers: found 9, but the model's num_hidden_layers is 2",
               ARGS(LAW_DATA, "--freeze-layers=9"));
    assert_false(file_exists(in_folder("layers"))); /* nothing was begun */
    static const char *const SPELT[] = {"parent", "parent/", "./parent/../parent", "parent/model-best"};
    Err err = {0};
    for (size_t i = 0; i < sizeof SPELT / sizeof *SPELT; i++)
        for (int model = 0; model < 2; model++) {
            const char *out = in_folder("%s", SPELT[i]);
            assert_int_equal(add(SPELT[i], NULL, &err,
                                 ARGS(LAW_DATA, "--overwrite", "--from",
                                      in_folder(model ? "parent/model-best" : "parent"))),
                             ERR_ARGUMENT);
            assert_string_equal(err.msg,
                                path_of("--out: found %s, the parent's folder, which stays as it is", out));
        }
    /* a run of `router train` is another router: not to be lost by accident */
    OK(file_mkdirs(in_folder("another"), &err));
    OK(grow_copy(in_folder("another/model-last"), in_folder("parent/model-best"), &err));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(add("another", NULL, &err, ARGS(LAW_DATA, i ? "--resume" : "--no-resume")),
                         ERR_ARGUMENT);
        assert_string_equal(
            err.msg, path_of("%s holds a run already: begin anew with --overwrite", in_folder("another")));
    }
    char **names;
    size_t count;
    OK(file_list(&names, &count, in_folder("another"), &err));
    assert_int_equal(count, 1);
    file_list_free(names, count);
    OK(run_command(&export_cmd, NULL, &err,
                   ARGS(in_folder("parent"), "--out", in_folder("parent.safetensors"))));
    REFUSED(path_of("--from: %s is an exported file, which cannot be trained: expected its run folder",
                    in_folder("parent.safetensors")),
            LAW_DATA, "--from", in_folder("parent.safetensors"));
}

#define DATA_REFUSED(code, expected, ...)                                               \
    do {                                                                                \
        save_lines("bad.jsonl");                                                        \
        refused_as(code, "bad", expected,                                               \
                   ARGS("--overwrite", "--data", in_folder("bad.jsonl"), __VA_ARGS__)); \
    } while (0)

static void test_refused_data(void **state) {
    (void)state;
    Err err = {0};
    DATA_REFUSED(ERR_ARGUMENT,
                 "domain 'law' has 0 train rows, expected at least 10: a label cannot be learnt from fewer",
                 "--domain=law");
    static const char *const OTHERS[] = {"dev", "calibration", "test"};
    for (int i = 0; i < 12; i++) put(LAW, i, NULL, i < 9 ? "train" : OTHERS[i - 9]);
    DATA_REFUSED(ERR_ARGUMENT,
                 "domain 'law' has 9 train rows, expected at least 10: a label cannot be learnt from fewer",
                 "--domain=law");
    for (int i = 0; i < 30; i++) put(LAW, i, "law", NULL);
    DATA_REFUSED(ERR_ARGUMENT,
                 "domain 'trips' has 0 train rows, expected at least 10: a label cannot be learnt from fewer",
                 "--domain=law", "--domain=trips");
    for (int i = 0; i < 4; i++) put(LAW, i, i == 2 ? "lawn" : NULL, NULL);
    DATA_REFUSED(
        ERR_FORMAT,
        "bad.jsonl:3: label 'lawn' is neither one of the router's nor one that is added; did you mean "
        "'law'?",
        "--domain=law");
    for (int i = 0; i < 4; i++) put(LAW, i, i == 3 ? NULL : "law", NULL);
    DATA_REFUSED(ERR_FORMAT,
                 "bad.jsonl:4: no label: several domains are added, and the row must say which it belongs to",
                 "--domain=law", "--domain=trips");
    for (int i = 0; i < 40; i++) put(LAW, i, i == 30 ? "maths" : "law", NULL);
    DATA_REFUSED(ERR_FORMAT, "bad.jsonl:31: label 'maths' is retired", "--domain=law", "--retire=maths");
    for (int i = 0; i < 40; i++) put(LAW, i, NULL, i == 7 ? "tests" : NULL);
    DATA_REFUSED(ERR_FORMAT, "bad.jsonl:8: split 'tests' is not one of train, dev, calibration, test",
                 "--domain=law");
    refused_as(ERR_IO, "bad", "absent.jsonl: cannot open: No such file or directory",
               ARGS("--overwrite", "--domain=law", "--data", in_folder("absent.jsonl")));
    refused_as(ERR_IO, "bad", "absent.jsonl: cannot open: No such file or directory",
               ARGS("--overwrite", LAW_DATA, "--replay", in_folder("absent.jsonl")));
    refused_as(ERR_IO, "bad", "absent.jsonl: cannot open: No such file or directory",
               ARGS("--overwrite", LAW_DATA, "--held-out", in_folder("absent.jsonl")));
    assert_false(file_exists(in_folder("bad/model-best")) || file_exists(in_folder("bad/data.shard")));
    for (int i = 0; i < 40; i++) put(LAW, i, NULL, i ? NULL : "test");
    save_lines("bad.jsonl");
    for (int i = 0; i < 5; i++) put(CODING, 100 + i, "coding", "test");
    save_lines("bad2.jsonl");
    refused_as(ERR_ARGUMENT, "bad", "there are no old train rows to replay",
               ARGS("--overwrite", "--domain=law", "--data", in_folder("bad.jsonl"), "--replay",
                    in_folder("bad2.jsonl")));
    for (int i = 0; i < 40; i++) put(CODING, 100 + i, "coding", "train");
    save_lines("bad2.jsonl");
    refused_as(ERR_ARGUMENT, "bad", "--max-regression: there are no old test rows to measure it on",
               ARGS("--overwrite", "--domain=law", "--data", in_folder("bad.jsonl"), "--replay",
                    in_folder("bad2.jsonl"), "--max-regression=1"));
    for (int i = 0; i < 40; i++) put(LAW, i, NULL, NULL);
    save_lines("bad.jsonl");
    refused_as(ERR_ARGUMENT, "bad", "there are no test rows to report on: give --test-share",
               ARGS("--overwrite", "--domain=law", "--data", in_folder("bad.jsonl"), "--replay",
                    in_folder("bad2.jsonl"), "--test-share=0"));
    assert_int_equal(add("refused", NULL, &err, ARGS(LAW_DATA, "--from", in_folder("absent"))), ERR_IO);
    assert_non_null(strstr(err.msg, in_folder("absent")));
}

/* Of a router with a past: names that were, labels that are retired. */
static void test_refused_past(void **state) {
    (void)state;
#define PAST "--from", in_folder("two"), "--data", in_folder("law.jsonl")
    REFUSED(
        "'coding' is what the label 'programming' was called before: an old name does not come back with "
        "another "
        "meaning",
        PAST, "--domain=coding");
    REFUSED("there is a label 'maths' already (id 1)", PAST, "--domain=maths");
    REFUSED("split-from: the label 'maths' is retired", PAST, "--domain=x", "--split-from=maths");
    REFUSED("split-from: the label 'coding' is called 'programming' today", PAST, "--domain=x",
            "--split-from=coding");
    REFUSED("the label 'maths' is retired already", PAST, "--domain=x", "--retire=maths");
    REFUSED("retire: the label 'coding' is called 'programming' today", PAST, "--domain=x",
            "--retire=coding");
#undef PAST
}

/* Whatever allocation fails, there is an error, and a run that resumes gets to the end. */
static void test_memory(void **state) {
    (void)state;
    Err err = {0};
    size_t failures = 0;
    for (size_t fail_at = 1 + draw64(30);; fail_at += 1 + fail_at / 16) {
        const size_t before = mem_count();
        err = (Err){0};
        mem_fail_at(fail_at);
        const ErrCode rc = add("memory", NULL, &err, ARGS(LAW_DATA, "--head-only", "--resume"));
        const size_t made = mem_count() - before;
        if (rc == ERR_OK && made < fail_at) break; /* there were not so many */
        if (rc != ERR_MEMORY)
            fail_msg("allocation %zu of %zu fails: error %d, %s", fail_at, made, (int)rc, err.msg);
        failures++;
    }
    assert_true(failures > 5);
    run_add("plenty", ARGS(LAW_DATA, "--head-only"));
    assert_same_file(in_folder("memory/model-best/model.safetensors"),
                     in_folder("plenty/model-best/model.safetensors"));
}

/* ---- the parent ---- */

static Buf parent_before;

/* Each file of a folder with its SHA-256. */
static void put_digests(Buf *out, const char *dir) {
    Err err = {0};
    char **names;
    size_t count;
    OK(file_list(&names, &count, dir, &err));
    for (size_t i = 0; i < count; i++) {
        char *path = file_join(dir, names[i]), hex[SHA256_HEX];
        unsigned char digest[SHA256_BYTES];
        if (file_is_dir(path)) {
            put_digests(out, path);
        } else {
            OK(sha256_file(digest, NULL, path, &err));
            sha256_hex(hex, digest);
            buf_printf(out, "%s %s\n", hex, path);
        }
        mem_free(path);
    }
    file_list_free(names, count);
}

/* After everything. */
static void test_parent(void **state) {
    (void)state;
    Buf now = {0};
    put_digests(&now, in_folder("parent"));
    assert_string_equal(now.data, parent_before.data);
    buf_free(&now);
    buf_free(&parent_before);
    buf_free(&lines);
}

static void write_prompts(void) {
    for (int i = 0; i < OLD * ROWS; i++) put(i % OLD, i, LABELS[i % OLD], NULL);
    save_lines("old.jsonl");
    for (int renamed = 0; renamed < 2; renamed++) {
        const char *const other = renamed ? "rest" : LABELS[OTHER];
        for (int i = 0; i < 2 * ROWS; i++)
            put(i % 2 ? CODING : OTHER, i, i % 2 ? LABELS[CODING] : other, i % 5 ? "train" : "test");
        for (int i = 0; i < PLANTED_OTHER + PLANTED_CODING; i++)
            put(MATHS, 1000 + i, i < PLANTED_OTHER ? other : LABELS[CODING], "train");
        save_lines(renamed ? "renamed.jsonl" : "planted.jsonl");
    }
    for (int i = 0; i < NEW; i++) put(LAW, 2000 + i, NULL, NULL);
    save_lines("law.jsonl");
    for (int i = 0; i < 4 * NEW; i++) put(MATHS, 20000 + i, NULL, NULL);
    save_lines("many.jsonl");
    for (int i = 0; i < 2 * NEW; i++) put(LAW + i % 2, 2000 + i, LABELS[LAW + i % 2], NULL);
    save_lines("two.jsonl");
    for (int i = 0; i < 50; i++) put(i < 30 ? i % OLD : LAW, 3000 + i, LABELS[i < 30 ? i % OLD : LAW], NULL);
    save_lines("held.jsonl");
}

static int prepare(void **state) {
    (void)state;
    Err err = {0};
    Buf text = {0};
    write_prompts();
    tiny_spm(&text, &(TinySpm){0});
    (void)save_bytes("spm.model", text.data, text.len);
    read_file(&text, CONFIG);
    char *range = strstr(text.data, "\"initializer_range\": 0.02");
    if (!range) return 1;
    memcpy(range, "\"initializer_range\": 0.2 ", 25); /* so that a model so small learns at once */
    (void)save("model.json", text.data);
    buf_free(&text);
    OK(run_command(
        &train_cmd, NULL, &err,
        ARGS(in_folder("old.jsonl"), "--out", in_folder("parent"), "--model", in_folder("model.json"),
             "--tokenizer", in_folder("spm.model"), "--max_length=24", "--batch_size=8", "--dev_share=0.1",
             "--calibration_share=0.15", "--test_share=0.25", "--threads=1", "--dropout=0", "--epochs=12",
             "--lr=5e-3", "--quiet", "--seed", path_of("%d", draw(1000)))));
    put_digests(&parent_before, in_folder("parent"));
    return 0;
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/dev/shm") && !folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adds),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_few),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_recipe),
        cmocka_unit_test(test_dev_rows),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_suspects),
        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_head_only),
        cmocka_unit_test(test_calibrated),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_gate),
        cmocka_unit_test(test_no_data),
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_refused_options),
        cmocka_unit_test(test_refused_places),
        cmocka_unit_test(test_refused_data),
        cmocka_unit_test(test_refused_past),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_parent),
    };
    return folder_close(cmocka_run_group_tests_name("add_domain", tests, prepare, NULL));
}
