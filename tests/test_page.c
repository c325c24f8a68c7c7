/* tests/test_page.c - the curves, lists and provenance of an evaluation, and that its page says what its JSON says. */
#include <cjson/cJSON.h>
#include <ctype.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "data/csv.h"
#include "data/shard.h"
#include "eval/curves.h"
#include "eval/eval_cmd.h"
#include "eval/held_out.h"
#include "eval/listing.h"
#include "eval/page.h"
#include "eval/predictions.h"
#include "eval/provenance.h"
#include "tests/tiny_blob.h"
#include "tests/unit.h"
#include "train/card.h"

static cJSON *read_tree(const char *path) {
    cJSON *tree;
    Err err = {0};
    OK(json_read(&tree, path, &err));
    return tree;
}

static double at(const cJSON *tree, const char *a, const char *b) {
    const cJSON *item = cJSON_GetObjectItem(tree, a);
    if (b) item = cJSON_GetObjectItem(item, b);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

/* ---- curves ---- */

static void test_curves(void **state) {
    (void)state;
    /* confidences 0.7 hit, 0.9 hit, 0.6 miss, 0.68 miss, 1 hit */
    const double p[] = {0.7, 0.3, 0.1, 0.9, 0.6, 0.4, 0.68, 0.32, 0, 1};
    const int y[] = {0, 1, 1, 1, 1};
    CurvesReliability r;
    curves_reliability(&r, p, y, 5, 2);
    assert_int_equal(r.bins[10].n, 2); /* (10/15, 11/15] */
    assert_int_equal(r.bins[10].correct, 1);
    assert_near(r.bins[10].confidence, 0.69, 1e-15);
    assert_int_equal(r.bins[8].n, 1); /* 9/15 = 0.6 is the right end of bin 8 */
    assert_int_equal(r.bins[8].correct, 0);
    assert_int_equal(r.bins[13].n, 1);
    assert_int_equal(r.bins[14].n, 1);
    CurvesRisk risk;
    Err err = {0};
    const double score[] = {0.7, 0.9, 0.6, 0.68, 1};
    const bool right[] = {true, true, false, false, true};
    assert_int_equal(curves_risk(&risk, "s", score, right, 5, &err), ERR_OK);
    assert_int_equal(risk.count, 5);
    const double coverage[] = {0.2, 0.4, 0.6, 0.8, 1}, wrong[] = {0, 0, 0, 0.25, 0.4};
    for (size_t i = 0; i < 5; i++) {
        assert_near(risk.points[i].coverage, coverage[i], 1e-15);
        assert_near(risk.points[i].risk, wrong[i], 1e-15);
    }
    assert_near(risk.scores.auroc, 1, 0);
    assert_near(risk.scores.aurc, (0.25 + 0.4) / 5, 1e-15);
    const bool all[] = {true, true, true, true, true};
    assert_int_equal(curves_risk(&risk, "s", score, all, 5, &err), ERR_OK);
    Buf json = {0};
    curves_risk_json(&json, &risk);
    assert_non_null(strstr(json.data, "\"auroc\": null"));
    buf_free(&json);
}

/* ECE is the sum over these bins, and the curve ends at coverage 1 with the error rate. */
static void test_curves_random(void **state) {
    (void)state;
    enum { N = 3000, K = 4 };
    double *p = calloc((size_t)N * K, sizeof *p), *score = calloc(N, sizeof *score);
    int *y = calloc(N, sizeof *y);
    bool *right = calloc(N, sizeof *right);
    const uint64_t key = rng_key(3, "curves", 0);
    for (size_t i = 0; i < N; i++) {
        double sum = 0;
        for (size_t k = 0; k < K; k++) sum += p[i * K + k] = exp(2 * rng_normal(key, i * K + k));
        for (size_t k = 0; k < K; k++) p[i * K + k] /= sum;
        y[i] =
            rng_uniform(key + 1, i) < 0.6 ? metrics_best(p + i * K, K) : (int)(4 * rng_uniform(key + 2, i));
        score[i] = round(100 * p[i * K + (size_t)metrics_best(p + i * K, K)]) / 100; /* ties */
        right[i] = metrics_best(p + i * K, K) == y[i];
    }
    Metrics m;
    CurvesReliability r;
    CurvesRisk risk;
    Err err = {0};
    assert_int_equal(metrics_compute(&m, p, y, N, K, 1, 0, NULL, &err), ERR_OK);
    curves_reliability(&r, p, y, N, K);
    double ece = 0;
    uint64_t rows = 0;
    for (int b = 0; b < METRICS_BINS; b++) {
        rows += r.bins[b].n;
        ece += fabs((double)r.bins[b].correct - (double)r.bins[b].n * r.bins[b].confidence) / N;
    }
    assert_int_equal(rows, N);
    assert_near(ece, m.ece.value, 1e-12);
    assert_int_equal(curves_risk(&risk, "s", score, right, N, &err), ERR_OK);
    assert_true(risk.count > 20 && risk.count <= CURVES_POINTS);
    assert_near(risk.points[risk.count - 1].coverage, 1, 0);
    assert_near(risk.points[risk.count - 1].risk, 1 - m.accuracy.value, 1e-12);
    for (size_t i = 1; i < risk.count; i++)
        assert_true(risk.points[i].coverage > risk.points[i - 1].coverage);
    metrics_free(&m);
    free(p);
    free(score);
    free(y);
    free(right);
}

/* ---- lists ---- */

static const char *const HOSTILE[] = {"ma,th", "\"quoted\"", "three"};
#define HOSTILE_ROWS                                                                               \
    "{\"text\": \"a, \\\"b\\\"\", \"label\": \"ma,th\", \"source\": \"s\\n1\", \"id\": \"i,1\"}\n" \
    "{\"text\": \"<script>alert(1)</script>\", \"label\": \"\\\"quoted\\\"\"}\n"                   \
    "{\"text\": \"=1+1\", \"label\": \"three\", \"id\": 7}\n"

static void test_predictions(void **state) {
    (void)state;
    const double p[] = {0.7, 0.2, 0.1, 0.25, 0.5, 0.25, 0.6, 0.3, 0.1};
    const bool abstained[] = {false, true, false};
    Rows rows = {0};
    Err err = {0};
    const RowsRule rule = {.split = SPLIT_COUNT};
    assert_int_equal(rows_read(&rows, save("hostile.jsonl", HOSTILE_ROWS), &rule, HOSTILE, 3, &err), ERR_OK);
    RowText *texts;
    int *labels;
    assert_int_equal(rows_views(&texts, &labels, &rows, &err), ERR_OK);
    const Listing l = {&rows, texts, labels, p, abstained, HOSTILE, 3};
    const char *csv = in_folder("p.csv"), *jsonl = in_folder("p.jsonl");
    assert_int_equal(listing_predictions(&l, csv, &err), ERR_OK);
    assert_int_equal(listing_predictions(&l, jsonl, &err), ERR_OK);
    Buf bytes = {0};
    read_file(&bytes, csv);
    static const char BEGIN[] =
        "id,source,label,predicted,score,abstained,text,\"ma,th\",\"\"\"quoted\"\"\",three\r\n"
        "\"i,1\",\"s\n1\",\"ma,th\",\"ma,th\",0.7,false,\"a, \"\"b\"\"\",0.7,0.2,0.1\r\n";
    assert_memory_equal(bytes.data, BEGIN, sizeof BEGIN - 1);
    Csv *reader;
    const CsvRule comma = {.separator = ','};
    CsvFields fields = {0};
    assert_int_equal(csv_open(&reader, csv, comma, &err), ERR_OK);
    for (size_t i = 0; i < 4; i++) {
        const char *record;
        size_t n;
        uint64_t line;
        bool more;
        assert_int_equal(csv_next(reader, &record, &n, &line, &more, &err), ERR_OK);
        assert_true(more);
        assert_int_equal(csv_split(&fields, record, n, csv_rule(reader), &err), ERR_OK);
        assert_int_equal(fields.count, 7 + 3);
        char cell[10][200];
        for (size_t f = 0; f < 10; f++)
            (void)snprintf(cell[f], sizeof cell[f], "%.*s", (int)(fields.at[f + 1] - fields.at[f]),
                           fields.bytes.data + fields.at[f]);
        if (i == 0) {
            for (size_t k = 0; k < 3; k++) assert_string_equal(cell[7 + k], HOSTILE[k]);
            continue;
        }
        assert_string_equal(cell[0], rows_id(&rows, i - 1));
        assert_string_equal(cell[1], i == 1 ? "s\n1" : "");
        assert_string_equal(cell[2], HOSTILE[labels[i - 1]]);
        assert_string_equal(cell[5], i == 2 ? "true" : "false");
        for (size_t k = 0; k < 3; k++) assert_near(strtod(cell[7 + k], NULL), p[3 * (i - 1) + k], 1e-6);
    }
    csv_close(reader);
    csv_free(&fields);
    Predictions read = {0}; /* the other half of the same format */
    assert_int_equal(predictions_read(&read, jsonl, &err), ERR_OK);
    assert_int_equal(read.count, 3);
    for (size_t i = 0; i < 9; i++) assert_near(read.p[i], p[i], 1e-6);
    predictions_free(&read);
    read_file(&bytes, jsonl);
    assert_non_null(strstr(bytes.data, "\"abstained\": true"));
    cJSON *mistakes;
    assert_int_equal(listing_mistakes(&mistakes, &l, 10, &err), ERR_OK);
    assert_int_equal(cJSON_GetArraySize(mistakes), 1); /* row 3 is "three", answered "ma,th" */
    assert_string_equal(cJSON_GetObjectItem(cJSON_GetArrayItem(mistakes, 0), "text")->valuestring, "=1+1");
    assert_near(at(cJSON_GetArrayItem(mistakes, 0), "label_score", NULL), 0.1, 1e-12);
    cJSON_Delete(mistakes);
    buf_free(&bytes);
    mem_free(texts);
    mem_free(labels);
    rows_free(&rows);
}

/* 20 rows of each of two labels, given 0.9 for their own but for two of the first label: thresholds 0.835 and 0.9. */
static void test_suspects(void **state) {
    (void)state;
    enum { N = 41 };
    Buf text = {0};
    for (int i = 0; i < N; i++)
        buf_printf(&text, "{\"text\": \"t%d\", \"label\": \"%s\"%s}\n", i,
                   i < 20   ? "a"
                   : i < 40 ? "b"
                            : "rare",
                   i == 3 ? ", \"id\": \"three\"" : "");
    static const char *const LABELS[] = {"a", "b", "rare"};
    const char *path = save("suspects.jsonl", text.data), *out = in_folder("found.jsonl");
    const RowsRule rule = {.split = SPLIT_COUNT};
    Rows rows = {0};
    Err err = {0};
    RowText *texts;
    int *labels;
    double p[3 * N] = {0};
    assert_int_equal(rows_read(&rows, path, &rule, LABELS, 3, &err), ERR_OK);
    assert_int_equal(rows_views(&texts, &labels, &rows, &err), ERR_OK);
    for (int i = 0; i < N; i++) {
        p[3 * i + (labels[i] == 1)] = 0.9;
        p[3 * i + (labels[i] != 1)] = 0.1;
    }
    p[3 * 3] = 0.05, p[3 * 3 + 1] = 0.95; /* above b's 0.9: confident */
    p[3 * 7] = 0.45, p[3 * 7 + 1] = 0.55; /* doubted, not confidently */
    const Listing l = {&rows, texts, labels, p, NULL, LABELS, 3};
    ListingSuspects found;
    assert_int_equal(listing_suspects(&found, &l, out, &err), ERR_OK);
    assert_int_equal(found.judged, 40); /* "rare" has too few rows */
    assert_int_equal(found.suspects, 2);
    assert_int_equal(found.confident, 1);
    char expected[900];
    (void)snprintf(
        expected, sizeof expected,
        "{\"rank\":1,\"file\":\"%s\",\"line\":4,\"id\":\"three\",\"label\":\"a\",\"suggested\":\"b\","
        "\"p_label\":0.0500,\"p_suggested\":0.9500,\"confident\":true,\"text\":\"t3\"}\n"
        "{\"rank\":2,\"file\":\"%s\",\"line\":8,\"label\":\"a\",\"suggested\":\"b\","
        "\"p_label\":0.4500,\"p_suggested\":0.5500,\"confident\":false,\"text\":\"t7\"}\n",
        path, path);
    buf_clear(&text);
    read_file(&text, out);
    assert_string_equal(text.data, expected);
    buf_free(&text);
    mem_free(texts);
    mem_free(labels);
    rows_free(&rows);
}

/* ---- provenance ---- */

static void write_shard(const char *path) {
    static const int32_t IDS[] = {1, 4, 2};
    static const char *const LABELS[] = {"math"}, *const FILES[] = {"f.jsonl"}, *const SOURCES[] = {"s"};
    static const char *const TEXTS[] = {"seen", "also seen", "held out"};
    ShardWriter *w;
    Err err = {0};
    assert_int_equal(shard_create(&w, path, &err), ERR_OK);
    for (uint32_t i = 0; i < 3; i++) {
        const ShardRow row = {.ids = IDS,
                              .tokens = 3,
                              .weight = 1,
                              .split = i < 2 ? SPLIT_TRAIN : SPLIT_TEST,
                              .line = i + 1,
                              .text = TEXTS[i],
                              .text_len = strlen(TEXTS[i])};
        assert_int_equal(shard_append(w, &row, &err), ERR_OK);
    }
    const char *digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const ShardInfo info = {.tokenizer_digest = digest,
                            .content_digest = digest,
                            .max_tokens = 8,
                            .vocabulary = 9,
                            .labels = LABELS,
                            .label_count = 1,
                            .files = FILES,
                            .file_count = 1,
                            .sources = SOURCES,
                            .source_count = 1};
    OK(shard_finish(w, &info, &err));
}

static void test_held_out(void **state) {
    (void)state;
    const char *path = in_folder("rows.shard");
    write_shard(path);
    const RowText texts[] = {{"new", 3}, {"held out", 8}, {"seen!", 5}, {"seen", 4}, {"also seen", 9}};
    uint64_t count;
    size_t first;
    Err err = {0};
    assert_int_equal(held_out_check(&count, &first, path, texts, 5, &err), ERR_OK);
    assert_int_equal(count, 2);
    assert_int_equal(first, 3);
    assert_int_equal(held_out_check(&count, &first, path, texts, 3, &err), ERR_OK);
    assert_int_equal(count, 0);
    assert_int_equal(held_out_check(&count, &first, "/nonexistent", texts, 3, &err), ERR_IO);
}

static void test_training(void **state) {
    (void)state;
    cJSON *tree;
    Err err = {0};
    Buf log = {0};
    assert_int_equal(provenance_training(&tree, "/nonexistent", &err), ERR_OK);
    assert_null(tree);
    for (int i = 1; i <= 2 * PROVENANCE_POINTS; i++)
        buf_printf(&log, "{\"step\": %d, \"epoch\": 0, \"loss\": %d, \"grad_norm\": 1}\n", i, 1000 - i);
    buf_puts(&log,
             "not json\n{\"step\": 5, \"dev_loss\": 0.5, \"dev_accuracy\": 0.75, \"dev_rows\": "
             "9}\n{\"step\": 6, \"lo");
    (void)save("metrics.jsonl", log.data);
    assert_int_equal(provenance_training(&tree, folder, &err), ERR_OK);
    const cJSON *train = cJSON_GetObjectItem(tree, "train"), *dev = cJSON_GetObjectItem(tree, "dev");
    assert_int_equal(cJSON_GetArraySize(train), PROVENANCE_POINTS);
    assert_near(cJSON_GetArrayItem(cJSON_GetArrayItem(train, 0), 0)->valuedouble, 1.5,
                0); /* of steps 1 and 2 */
    assert_near(cJSON_GetArrayItem(cJSON_GetArrayItem(train, 0), 1)->valuedouble, 998.5, 0);
    assert_int_equal(cJSON_GetArraySize(dev), 1);
    assert_near(cJSON_GetArrayItem(cJSON_GetArrayItem(dev, 0), 2)->valuedouble, 0.75, 0);
    cJSON_Delete(tree);
    buf_free(&log);
}

/* ---- the model card ---- */

static void expect_card(const char *before, const char *after) {
    const CardResult results[] = {{"a|b\nc", 7, 0.5, 0.25, 0.75, 0.4, 0.1}};
    Err err = {0};
    Buf text = {0};
    (void)save("README.md", before);
    for (int again = 0; again < 2; again++) { /* and what was put there is found again */
        OK(card_set_results(folder, results, 1, &err));
        buf_clear(&text);
        read_file(&text, in_folder("README.md"));
        assert_string_equal(text.data, after);
    }
    buf_free(&text);
}

#define CARD_INDEX                                                                                         \
    "model-index:\n- name: router\n  results:\n  - task:\n      type: text-classification\n    dataset:\n" \
    "      name: \"a|b\\nc\"\n      type: jsonl\n    metrics:\n    - type: accuracy\n      value: "        \
    "0.500000\n"                                                                                           \
    "    - type: f1\n      name: macro F1\n      value: 0.400000\n"
#define CARD_SECTION                                                                      \
    "## Evaluation\n\n| set | rows | accuracy, % [95 % interval] | macro F1, % | ECE |\n" \
    "| --- | ---: | ---: | ---: | ---: |\n| a\\|b c | 7 | 50.00 [25.00, 75.00] | 40.00 | 0.1000 |\n"

static void test_card(void **state) {
    (void)state;
    Err err = {0};
    expect_card(
        "---\nlibrary_name: transformers\nmodel-index:\n- name: old\n  results: []\nlicense: mit\n---\n\n# "
        "Router\n\n"
        "## Evaluation\n\nold\n\n## Use\n\nnew\n",
        "---\nlibrary_name: transformers\n" CARD_INDEX "license: mit\n---\n\n# Router\n\n" CARD_SECTION
        "\n## Use\n\nnew\n");
    expect_card("---\na: b\n---\n# Router\n", "---\na: b\n" CARD_INDEX "---\n# Router\n\n" CARD_SECTION);
    expect_card("---\n---\n", "---\n" CARD_INDEX "---\n\n" CARD_SECTION);
    (void)save("README.md", "# no front matter\n---\n");
    assert_int_equal(card_set_results(folder, NULL, 0, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "README.md: expected a model card that begins with front matter"));
    (void)save("README.md", "---\nnever closed");
    assert_int_equal(card_set_results(folder, NULL, 0, &err), ERR_FORMAT);
    (void)save("README.md", "");
    assert_int_equal(card_set_results(folder, NULL, 0, &err), ERR_FORMAT);
}

/* ---- the command and its page ---- */

static ErrCode eval(Buf *shown, Err *err, ...) {
    const char *argv[32];
    int argc = 0;
    va_list more;
    va_start(more, err);
    for (const char *next = va_arg(more, char *); next; next = va_arg(more, char *)) argv[argc++] = next;
    va_end(more);
    argv[argc] = NULL;
    return run_command(&eval_cmd, shown, err, argv);
}

static void write_rows(const char *name, size_t rows, bool with_train) {
    static const char *const LABELS[] = {"math", "coding", "other"};
    Buf text = {0};
    for (size_t i = 0; i < rows; i++)
        buf_printf(&text,
                   "{\"text\": \"<b>abc & cab</b> %c%c ba, ab%zu\", \"label\": \"%s\", \"source\": \"s%zu\", "
                   "\"subject\": "
                   "\"%s\"%s}\n",
                   (int)('a' + i % 3), (int)('a' + i % 5), i, LABELS[i % 7 % 3], i % 2,
                   i % 4 ? "law & order" : "algebra", with_train && i == 3 ? ", \"split\": \"train\"" : "");
    (void)save(name, text.data);
    buf_free(&text);
}

/* What a reader sees, without the axes of plots; tags become blanks. */
static void visible(Buf *out, const char *html) {
    const char *s = strstr(html, "<body>");
    assert_non_null(s);
    while (*s) {
        if (strncmp(s, "<text class=\"s\"", 15) == 0) {
            const char *end = strchr(s, '>');
            Buf tag = {0};
            buf_put(&tag, s, (size_t)(end - s));
            const bool tick = strstr(tag.data, "text-anchor") || strstr(tag.data, "transform");
            buf_free(&tag);
            if (tick) s = strstr(s, "</text>");
        }
        if (strncmp(s, "&#", 2) == 0) { /* entities with digits: apostrophes, and the legends' squares */
            buf_puts(out, strncmp(s, "&#39;", 5) == 0 ? "'" : " ");
            s = strchr(s, ';') + 1;
            continue;
        }
        if (*s == '<') {
            s = strchr(s, '>') + 1;
            buf_puts(out, " ");
        } else {
            buf_put(out, s++, 1);
        }
    }
}

/* Blanks out text where it occurs in page. */
static void remove_text(Buf *page, const char *text) {
    Buf escaped = {0};
    const size_t n = strlen(text);
    for (size_t cut = n;; cut--) { /* whole, or as far as it is shown */
        buf_clear(&escaped);
        for (size_t i = 0; i < cut; i++) {
            const char *entity = text[i] == '&'   ? "&amp;"
                                 : text[i] == '<' ? "&lt;"
                                 : text[i] == '>' ? "&gt;"
                                 : text[i] == '"' ? "&quot;"
                                                  : NULL;
            if (entity)
                buf_puts(&escaped, entity);
            else
                buf_put(&escaped, text + i, 1);
        }
        bool found = false;
        for (char *s = page->data; escaped.len && (s = strstr(s, escaped.data)); found = true)
            memset(s, ' ', escaped.len);
        if (found || cut < 101) break;
    }
    buf_free(&escaped);
}

typedef struct {
    char (*items)[40];
    size_t count, cap;
} Known;

static void know(Known *k, const char *fmt, double v) {
    if (k->count == k->cap) {
        k->cap = 2 * k->cap + 1000;
        k->items = realloc(k->items, k->cap * sizeof *k->items);
        assert_non_null(k->items);
    }
    (void)snprintf(k->items[k->count++], sizeof *k->items, fmt, v); /* NOLINT: the formats are below */
}

/* Every way in which the page may show a number of the JSON. */
static void know_all(Known *k, const cJSON *tree) {
    const cJSON *item;
    if (cJSON_IsNumber(tree)) {
        const double v = tree->valuedouble;
        know(k, "%.2f", 100 * v);
        know(k, "%+.2f", 100 * v);
        know(k, "%.4f", v);
        know(k, "%.6g", v);
        know(k, "%.0f", v);
        if (v >= 1000 && v < 1e6) {
            char grouped[40];
            (void)snprintf(grouped, sizeof grouped, "%d,%03d", (int)v / 1000, (int)v % 1000);
            know(k, "", 0);
            memcpy(k->items[k->count - 1], grouped, sizeof grouped);
        }
    }
    cJSON_ArrayForEach(item, tree) know_all(k, item);
}

typedef struct {
    const char **items;
    size_t count;
} Strings;

static void collect(Strings *s, const cJSON *tree) {
    const cJSON *item;
    if (cJSON_IsString(tree) && strlen(tree->valuestring) > 1) {
        s->items = realloc(s->items, (s->count + 1) * sizeof *s->items);
        assert_non_null(s->items);
        s->items[s->count++] = tree->valuestring;
    }
    cJSON_ArrayForEach(item, tree) collect(s, item);
}

static int longest_first(const void *a, const void *b) {
    const size_t x = strlen(*(const char *const *)a), y = strlen(*(const char *const *)b);
    return (x < y) - (x > y);
}

static void remove_strings(Buf *page, const cJSON *tree) {
    Strings s = {0};
    collect(&s, tree);
    qsort(s.items, s.count, sizeof *s.items, longest_first);
    for (size_t i = 0; i < s.count; i++) remove_text(page, s.items[i]);
    free(s.items);
}

static int order(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Every number of the page is one of the JSON's, as it is rounded there. */
static size_t check_numbers(const char *html, const cJSON *tree) {
    Buf text = {0};
    Known known = {0};
    size_t checked = 0;
    visible(&text, html);
    remove_strings(&text, tree);
    static const char *const PROSE[] = {"Intervals are 95 %", "SHA-256", "threshold that 95 %",
                                        "cost of 1,000 prompts"};
    for (size_t i = 0; i < sizeof PROSE / sizeof *PROSE; i++) remove_text(&text, PROSE[i]);
    know_all(&known, tree);
    qsort(known.items, known.count, sizeof *known.items, order);
    for (const char *s = text.data; *s;) {
        const bool word = s > text.data && (s[-1] == '_' || isalpha((unsigned char)s[-1]));
        const bool sign = (*s == '+' || *s == '-') && s[1] >= '0' && s[1] <= '9';
        if (!sign && !(*s >= '0' && *s <= '9')) {
            s++;
            continue;
        }
        char token[40];
        size_t n = 0;
        if (sign) token[n++] = *s++;
        while (((*s >= '0' && *s <= '9') ||
                ((*s == ',' || *s == '.' || *s == 'e') && s[1] >= '0' && s[1] <= '9')) &&
               n < sizeof token - 1)
            token[n++] = *s++;
        token[n] = 0;
        if (word) continue; /* F1 */
        if (!bsearch(token, known.items, known.count, sizeof *known.items, order))
            fail_msg("'%s' is on the page and not in the JSON: ...%.100s...", token,
                     s - n - (s - n - text.data > 50 ? 50 : 0));
        checked++;
    }
    free(known.items);
    buf_free(&text);
    return checked;
}

static void test_page(void **state) {
    (void)state;
    Err err = {0};
    Buf html = {0}, table = {0};
    write_rows("set.jsonl", 60, false);
    write_rows("other.jsonl", 24, false);
    (void)save("map.json",
               "{\"law & order\": \"other\", \"algebra\": \"math\", \"_context\": [{\"what\": \"a "
               "<paper>\", \"accuracy\": 0.8125, "
               "\"n\": 480, \"source\": \"where & when\"}]}");
    char model[200], data[200], other[200], map[200], page[200], json[200], more[200], found[200],
        system[200];
    (void)snprintf(system, sizeof system, "%s",
                   save("system.json",
                        "{\"set\": \"rows\", \"n\": 4321, \"experts_file\": \"e.json\", \"systems\": "
                        "[{\"system\": \"single\", "
                        "\"expert\": \"<big>\", \"accuracy\": {\"value\": 0.8, \"low\": 0.7, \"high\": "
                        "0.9}, \"cost\": 3.25}, "
                        "{\"system\": \"routed\", \"map\": \"coe\", \"accuracy\": {\"value\": 0.85, "
                        "\"low\": 0.75, \"high\": "
                        "0.95}, \"cost\": 1.5}]}"));
    (void)snprintf(model, sizeof model, "%s", in_folder("tiny.safetensors"));
    (void)snprintf(data, sizeof data, "%s", in_folder("set.jsonl"));
    (void)snprintf(other, sizeof other, "%s", in_folder("other.jsonl"));
    (void)snprintf(map, sizeof map, "%s", in_folder("map.json"));
    (void)snprintf(page, sizeof page, "%s", in_folder("page.html"));
    (void)snprintf(json, sizeof json, "%s", in_folder("page.json"));
    (void)snprintf(more, sizeof more, "%s", in_folder("more.json"));
    (void)snprintf(found, sizeof found, "%s", in_folder("doubted.jsonl"));
    ok(eval(NULL, &err, model, "--data", other, "--map-field", "subject", "--label-map", map,
            "--no-baselines", "--out", more, NULL),
       &err);
    ok(eval(&table, &err, model, "--data", data, "--train-data", data, "--slice", "subject", "--slice",
            "length", "--slice", "source", "--slice", "script", "--robust", "--robust-rows", "30", "--report",
            page, "--also", more, "--system", system, "--suspects", found, NULL),
       &err);
    read_file(&html, page);
    cJSON *tree = read_tree(json);
    assert_true(check_numbers(html.data, tree) > 300);
    assert_null(strstr(html.data, "<b>"));
    assert_null(strstr(html.data, "<paper>"));
    assert_non_null(strstr(html.data, "&lt;b&gt;abc &amp; cab&lt;/b&gt;"));
    assert_non_null(strstr(html.data, "81.25 %"));
    assert_non_null(strstr(html.data, "4,321 rows of rows"));
    assert_null(strstr(html.data, "nan"));
    char accuracy[40];
    (void)snprintf(accuracy, sizeof accuracy, "%.2f %% [%.2f", 100 * at(tree, "accuracy", "value"),
                   100 * at(tree, "accuracy", "low"));
    assert_non_null(strstr(html.data, accuracy));
    assert_non_null(strstr(table.data, "law & order"));
    /* the test itself would notice a number that is not the JSON's: */
    cJSON_SetNumberValue(cJSON_GetObjectItem(cJSON_GetObjectItem(tree, "nll"), "value"), 7.77);
    Buf text = {0};
    Known known = {0};
    visible(&text, html.data);
    assert_null(strstr(text.data, "7.7700"));
    know_all(&known, tree);
    qsort(known.items, known.count, sizeof *known.items, order);
    assert_non_null(bsearch("7.7700", known.items, known.count, sizeof *known.items, order));
    free(known.items);
    buf_free(&text);
    cJSON_Delete(tree);
    buf_free(&html);
    buf_free(&table);
}

static void expect_eval(ErrCode code, const char *message, const char *data, const char *flag,
                        const char *value) {
    char model[200], path[200], expected[600];
    Err err = {0};
    (void)snprintf(model, sizeof model, "%s", in_folder("tiny.safetensors"));
    (void)snprintf(path, sizeof path, "%s", in_folder("%s", data));
    (void)snprintf(expected, sizeof expected, "%s", message);
    assert_int_equal(eval(NULL, &err, model, "--data", path, "--no-baselines", flag, value, NULL), code);
    if (!strstr(err.msg, expected)) fail_msg("found: %s", err.msg);
}

static void test_command_errors(void **state) {
    (void)state;
    write_rows("set.jsonl", 6, false);
    write_rows("train.jsonl", 6, true);
    char found[200], bad[200], model[200], train[200];
    (void)snprintf(found, sizeof found, "%s", in_folder("doubted2.jsonl"));
    (void)snprintf(bad, sizeof bad, "%s", save("bad.json", "{\"set\": 3}"));
    expect_eval(ERR_ARGUMENT,
                "--suspects: 1 of 6 rows are of the training split, whose labels the router has learnt, "
                "right or wrong: name "
                "another with --split, or train with --split train",
                "train.jsonl", "--suspects", found);
    assert_false(file_exists(found));
    expect_eval(ERR_ARGUMENT, "--also and --system show in the page: give --report FILE.html", "set.jsonl",
                "--also", bad);
    expect_eval(
        ERR_FORMAT, "subject: found an object",
        save("object.jsonl", "{\"text\": \"a\", \"label\": \"math\", \"subject\": {}}") + strlen(folder) + 1,
        "--slice", "subject");
    (void)snprintf(model, sizeof model, "%s", in_folder("tiny.safetensors"));
    (void)snprintf(train, sizeof train, "%s", in_folder("train.jsonl"));
    Err err = {0};
    ok(eval(NULL, &err, model, "--data", train, "--split", "train", "--no-baselines", "--suspects", found,
            NULL),
       &err); /* named: warned about, and written */
    assert_true(file_exists(found));
    char page[200];
    (void)snprintf(page, sizeof page, "%s", in_folder("none.html"));
    assert_int_equal(
        eval(NULL, &err, model, "--data", train, "--no-baselines", "--report", page, "--also", bad, NULL),
        ERR_FORMAT);
    assert_non_null(strstr(err.msg, "bad.json: not a report of router eval --out"));
    assert_false(file_exists(page));
}

/* Any tree that passes the check gives a page: members missing, of other kinds, or absurd. */
static void spoil(cJSON *item, uint64_t key, uint64_t *number) {
    for (cJSON *child = item->child, *next; child; child = next) {
        next = child->next;
        const uint64_t bits = rng_bits(key, (*number)++);
        if (bits % 40 == 0) {
            cJSON_Delete(cJSON_DetachItemViaPointer(item, child));
        } else if (bits % 40 == 1 && !child->child) {
            child->type =
                (child->type & cJSON_StringIsConst) | cJSON_NULL; /* (its string, if any, is freed with it) */
        } else if (bits % 40 == 2 && cJSON_IsNumber(child)) {
            static const double ODD[] = {-1, 1e300, -1e300, 0, 9e15, 1e-300};
            cJSON_SetNumberValue(child, ODD[bits / 40 % 6]);
        } else {
            spoil(child, key, number);
        }
    }
}

static void test_odd_reports(void **state) {
    (void)state;
    cJSON *whole = read_tree(in_folder("page.json"));
    Err err = {0};
    int pages = 0;
    for (uint64_t round = 0; round < 60; round++) {
        cJSON *tree = cJSON_Duplicate(whole, true);
        uint64_t number = 0;
        spoil(tree, rng_key(11, "odd", round), &number);
        Buf page = {0};
        if (page_check(tree, &err) == ERR_OK) {
            page_put(&page, tree);
            assert_int_equal(buf_ok(&page, &err), ERR_OK);
            assert_string_equal(page.data + page.len - 8, "</html>\n");
            pages++;
        }
        buf_free(&page);
        cJSON_Delete(tree);
    }
    assert_true(pages > 30);
    assert_int_equal(page_check(NULL, &err), ERR_FORMAT);
    for (size_t n = 1;; n += 1 + n / 4) { /* memory that runs out is told by the Buf */
        Buf page = {0};
        mem_fail_at(n);
        page_put(&page, whole);
        mem_fail_at(0);
        const ErrCode rc = buf_ok(&page, &err);
        buf_free(&page);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
    }
    cJSON_Delete(whole);
}

static void test_memory(void **state) {
    (void)state;
    write_rows("few.jsonl", 4, false);
    char model[200], data[200], page[200], found[200];
    (void)snprintf(model, sizeof model, "%s", in_folder("tiny.safetensors"));
    (void)snprintf(data, sizeof data, "%s", in_folder("few.jsonl"));
    (void)snprintf(page, sizeof page, "%s", in_folder("memory.html"));
    (void)snprintf(found, sizeof found, "%s", in_folder("memory.jsonl"));
    int failures = 0;
    for (size_t n = 1;; n += 1 + n / 16) {
        Err err = {0};
        mem_fail_at(n);
        const ErrCode rc = eval(NULL, &err, model, "--data", data, "--no-baselines", "--slice", "subject",
                                "--report", page, "--suspects", found, "--threads", "1", NULL);
        mem_fail_at(0);
        if (rc == ERR_OK) break;
        failures++;
        assert_false(file_exists(page));
        assert_true(n < 100000);
    }
    assert_true(failures > 40);
}

static int prepare(void **state) {
    (void)state;
    Buf bytes = {0};
    const BlobConfig config = tiny_config();
    if (tiny_blob(&bytes, &config, 3, NULL) != ERR_OK) return -1;
    const ErrCode rc = file_save(in_folder("tiny.safetensors"), bytes.data, bytes.len, NULL);
    buf_free(&bytes);
    return rc == ERR_OK ? 0 : -1;
}

int main(void) {
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curves),         cmocka_unit_test(test_curves_random),
        cmocka_unit_test(test_predictions),    cmocka_unit_test(test_suspects),
        cmocka_unit_test(test_held_out),       cmocka_unit_test(test_training),
        cmocka_unit_test(test_card),           cmocka_unit_test(test_page),
        cmocka_unit_test(test_command_errors), cmocka_unit_test(test_odd_reports),
        cmocka_unit_test(test_memory),
    };
    return folder_close(cmocka_run_group_tests_name("page", tests, prepare, NULL));
}
