/* tests/test_calibrate.c - calibrated probabilities against their definition or by hand; then a whole model, calibrated and stored. */
#include "core/file.h"
#include "core/json.h"
#include "core/progress.h"
#include "eval/calibrate.h"
#include "eval/calibrate_model.h"
#include "eval/calibrate_report.h"
#include "eval/metrics.h"
#include "eval/policy.h"
#include "export/decide_json.h"
#include "export/librouter.h"
#include "tests/tiny_rule.h"
#include "tests/unit.h"

static const char *const LABELS[] = {"math", "coding", "other"};

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
        cmocka_unit_test(test_adaptive_ece), cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_vector),       cmocka_unit_test(test_fit),
        cmocka_unit_test(test_model),        cmocka_unit_test(test_folder),
    };
    return folder_close(cmocka_run_group_tests_name("calibrate", tests, NULL, NULL));
}
