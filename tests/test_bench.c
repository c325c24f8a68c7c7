/* tests/test_bench.c - `router bench` measures what it says it does: every section is in its JSON, with numbers that can
 * be right. No speed is asserted. And what it is made of: the metered backend, the formula. */
#include "core/json.h"
#include "core/mem.h"
#include "eval/bench.h"
#include "eval/bench_cmd.h"
#include "model/formula.h"
#include "model/ops_meter.h"
#include "tests/unit.h"

static char *const QUICK[] = {"--size",   "mini",   "--layers",  "1", "--rows",    "3",
                              "--tokens", "4-9",    "--steps",   "2", "--seconds", "0.001",
                              "--quiet",  "--json", "--threads", "2", "--only=x"};
enum { QUICK_COUNT = sizeof QUICK / sizeof *QUICK };

/* The JSON of a run of these sections, or NULL with the error's text in *err. */
static cJSON *bench(const char *only, const char *extra, Err *err) {
    BenchOptions options = {0};
    FlagList arguments = {0};
    bool help = false;
    char last[64], more[64];
    char *argv[QUICK_COUNT + 1];
    memcpy(argv, QUICK, sizeof QUICK);
    (void)snprintf(last, sizeof last, "--only=%s", only);
    (void)snprintf(more, sizeof more, "%s", extra ? extra : "");
    argv[QUICK_COUNT - 1] = last;
    argv[QUICK_COUNT] = more;
    FILE *out = tmpfile();
    assert_non_null(out);
    assert_int_equal(
        flags_parse(&bench_cmd, &options, &arguments, &help, QUICK_COUNT + (extra != NULL), argv, err),
        ERR_OK);
    cJSON *json = NULL;
    if (bench_cmd.run(&options, &arguments, out, err) == ERR_OK) {
        static char text[1 << 16];
        rewind(out);
        const size_t n = fread(text, 1, sizeof text, out);
        assert_int_equal(json_parse(&json, text, n, err), ERR_OK);
    }
    (void)fclose(out);
    flags_free(&bench_cmd, &options, &arguments);
    return json;
}

static const cJSON *at(const cJSON *json, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!item) fail_msg("%s is missing", key);
    return item;
}

static void is_positive(const cJSON *json, const char *key) {
    const double value = at(json, key)->valuedouble;
    if (!(value > 0) || !isfinite(value)) fail_msg("%s is %g", key, value);
}

static void test_sections(void **state) {
    (void)state;
    Err err = {0};
    cJSON *json = bench("peaks,ops,train,infer", NULL, &err);
    if (!json) fail_msg("%s", err.msg);
    assert_true(at(json, "peaks")->child != NULL);
    const cJSON *item;
    cJSON_ArrayForEach(item, at(json, "peaks")) {
        is_positive(item, "best");
        assert_true(at(item, "median")->valuedouble <= at(item, "best")->valuedouble);
    }
    const cJSON *ops = at(json, "ops");
    assert_int_equal(cJSON_GetArraySize(at(ops, "linear")), 6);
    cJSON_ArrayForEach(item, at(ops, "linear")) {
        is_positive(at(item, "forward"), "of_peak");
        is_positive(at(item, "gradients"), "median");
        is_positive(at(item, "dw"), "sgemm_alone");
    }
    assert_int_equal(cJSON_GetArraySize(at(ops, "attention")), 4);
    cJSON_ArrayForEach(item, at(ops, "attention")) is_positive(at(item, "both"), "microseconds");
    assert_int_equal(cJSON_GetArraySize(at(ops, "stream")), 3);
    const cJSON *train = at(json, "train");
    is_positive(train, "step_seconds");
    is_positive(train, "of_peak");
    is_positive(train, "peak_bytes");
    assert_int_equal(cJSON_GetArraySize(at(train, "steps")), 2);
    double shares = 0;
    cJSON_ArrayForEach(item, at(train, "shares")) shares += at(item, "share")->valuedouble;
    assert_true(fabs(shares - 1) < 1e-4); /* numbers have six digits */
    const cJSON *infer = at(json, "infer");
    is_positive(at(infer, "load"), "checked_ms");
    int int8 = 0;
    cJSON_ArrayForEach(item, at(infer, "latency")) {
        is_positive(item, "p50_ms");
        assert_true(at(item, "p50_ms")->valuedouble <= at(item, "p99_ms")->valuedouble);
        int8 += strcmp(at(item, "precision")->valuestring, "int8") == 0;
    }
    assert_true(int8 >= 5);
    cJSON_ArrayForEach(item, at(infer, "batch")) is_positive(item, "prompts_per_second");
    cJSON_Delete(json);
}

static void test_lengths(void **state) {
    (void)state;
    Err err = {0};
    cJSON *json = bench("train", "--lengths=9,4,12,5", &err);
    if (!json) fail_msg("%s", err.msg);
    assert_null(cJSON_GetObjectItemCaseSensitive(json, "ops"));
    const cJSON *train = at(json, "train");
    assert_int_equal(at(train, "rows")->valueint, 4);
    assert_int_equal(at(train, "tokens")->valueint, 30);
    assert_int_equal(at(train, "longest")->valueint, 12);
    assert_int_equal(at(train, "micro_batches")->valueint, 1);
    cJSON_Delete(json);
    json = bench("train", "--lengths=9,1000", &err);
    assert_null(json);
    assert_non_null(strstr(err.msg, "--lengths: found '1000', expected numbers from 2 to 512"));
    json = bench("train", "--tokens=9-", &err);
    assert_null(json);
    assert_non_null(strstr(err.msg, "--tokens: found ''"));
    json = bench("train,speed", NULL, &err);
    assert_null(json);
    assert_non_null(strstr(err.msg, "--only: found 'speed'"));
}

/* The meter changes no number and counts what it forwards. */
static void test_meter(void **state) {
    (void)state;
    Ops inner, metered;
    OpsMeter meter;
    Err err = {0};
    enum { N = 3, O = 4, I = 5 };
    float x[N * I], w[O * I], b[O] = {0}, y[N * O], want[N * O];
    for (int i = 0; i < N * I; i++) x[i] = (float)i;
    for (int i = 0; i < O * I; i++) w[i] = (float)(i % 7);
    assert_int_equal(ops_open(&inner, "ref", "auto", NULL, &err), ERR_OK);
    ops_meter_fill(&metered, &meter, &inner);
    inner.linear(&inner, want, NULL, x, w, b, N, O, I);
    metered.linear(&metered, y, NULL, x, w, b, N, O, I);
    metered.linear(&metered, y, NULL, x, w, b, N, O, I);
    assert_memory_equal(y, want, sizeof y);
    assert_int_equal(meter.sum[OPS_METER_LINEAR].calls, 2);
    assert_true(meter.sum[OPS_METER_LINEAR].flops == 2.0 * 2 * N * O * I);
    /* Every entry that a backend has is forwarded: a missing one would be called as NULL. */
    for (size_t at = offsetof(Ops, alloc); at < sizeof(Ops); at += sizeof(void (*)(void))) {
        void *a, *m;
        memcpy(&a, (const char *)&inner + at, sizeof a);
        memcpy(&m, (const char *)&metered + at, sizeof m);
        if (a && !m && at != offsetof(Ops, close)) fail_msg("the entry at byte %zu is not forwarded", at);
    }
    ops_meter_reset(&meter);
    assert_int_equal(meter.sum[OPS_METER_LINEAR].calls, 0);
    for (int i = 0; i < OPS_METER_COUNT; i++) assert_non_null(ops_meter_name((OpsMeterEntry)i));
    ops_close(&inner);
}

/* The numbers that the golden files' README gives, exact in float. */
static void test_formula(void **state) {
    (void)state;
    const float want[4] = {-0.9405783414840698f, -0.19985544681549072f, 0.4532569646835327f,
                           0.07234883308410645f};
    float got[4];
    const ParamView p = {.name = "classifier.weight", .data = got, .rows = 4, .kind = PARAM_LINEAR};
    formula_fill(&p, &(FormulaRule){.seed = 1});
    assert_memory_equal(got, want, sizeof got);
    formula_range(got, &p, 2, 2, &(FormulaRule){.seed = 1, .head = -3});
    assert_true(got[0] == want[2] / 8 && got[1] == want[3] / 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sections), cmocka_unit_test(test_lengths),
                                       cmocka_unit_test(test_meter), cmocka_unit_test(test_formula)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
