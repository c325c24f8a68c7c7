/* tests/test_decide.c - decisions from logits against their definition, their rule in config.json and in exported files,
 * and what librouter decides against a reader that shares no code with it. */
#include <float.h>

#include "core/file.h"
#include "core/json.h"
#include "export/blob_rule.h"
#include "export/decide_json.h"
#include "export/librouter.h"
#include "tests/tiny_rule.h"
#include "tests/unit.h"

static const char *const LABELS[] = {"math", "coding", "other"};

/* ---- decide ---- */

static void test_exp_log(void **state) {
    (void)state;
    double worst = 0, worst_log = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        const double x = -708 * uniform("exp", i) * (i % 2 ? 1 : uniform("small", i));
        const double y = exp(690 * uniform("log", i) * (i % 2 ? 1 : uniform("small", i)));
        worst = fmax(worst, fabs(decide_exp(x) / exp(x) - 1));
        worst_log = fmax(worst_log, fabs(decide_log(y) - log(y)) / fmax(log(y), 1e-300));
    }
    (void)printf("exp: relative error %.3g, log: %.3g\n", worst, worst_log);
    assert_true(worst < 4e-16);     /* a little over one unit of the last place, 2.2e-16 */
    assert_true(worst_log < 4e-16); /* likewise */
    assert_true(decide_exp(0) == 1 && decide_log(1) == 0 && decide_exp(-1e300) == 0 && decide_exp(-745) > 0);
}

static void test_decide(void **state) {
    (void)state;
    enum { MOST = 40 };
    Err err = {0};
    for (uint64_t round = 0; round < 300; round++) {
        const int K = 1 + (int)(uniform("K", round) * (MOST - 1));
        const double width = pow(10, 4 * uniform("width", round) - 2);
        DecideRule rule;
        ok(decide_alloc(&rule, K, &err), &err);
        rule.temperature = (float)exp(2 * uniform("T", round) - 1);
        rule.vector = round % 2;
        float logits[MOST];
        long double z[MOST], q[MOST] = {0}, total = 0, entropy = 0, lse = 0, second = 0;
        int best = 0;
        for (int k = 0; k < K; k++) {
            const uint64_t at = round * MOST + (uint64_t)k;
            logits[k] = (float)(width * (2 * uniform("logits", at) - 1));
            rule.scale[k] = (float)(0.5 + uniform("scale", at));
            rule.bias[k] = (float)uniform("bias", at);
            z[k] = (long double)logits[k] / (long double)rule.temperature;
            if (rule.vector) z[k] = z[k] * (long double)rule.scale[k] + (long double)rule.bias[k];
            if (z[k] > z[best]) best = k;
            lse += expl((long double)logits[k]);
        }
        for (int k = 0; k < K; k++) total += q[k] = expl(z[k] - z[best]);
        for (int k = 0; k < K; k++) {
            q[k] /= total;
            if (q[k] > 0) entropy -= q[k] * logl(q[k]);
            if (k != best && q[k] > second) second = q[k];
        }
        double p[MOST];
        DecideAnswer answer = decide(p, logits, K, &rule);
        assert_int_equal(answer.label, best);
        assert_false(answer.abstained);
        for (int k = 0; k < K; k++) assert_near(p[k], (double)q[k], 1e-13);
        const double expected[DECIDE_SCORES] = {
            [DECIDE_ALWAYS] = (double)q[best],
            [DECIDE_MAX_PROBABILITY] = (double)q[best],
            [DECIDE_MARGIN] = K > 1 ? (double)(q[best] - second) : 0,
            [DECIDE_ENTROPY] = K > 1 ? (double)(1 - entropy / logl((long double)K)) : 1,
            [DECIDE_ENERGY] = (double)logl(lse)};
        for (int kind = 0; kind < DECIDE_SCORES; kind++) {
            rule.score = (DecideScore)kind;
            const float score = decide_score(rule.score, p, best, logits, K);
            assert_near((double)score, expected[kind], 1e-7 * fmax(1, fabs(expected[kind])));
            for (int k = 0; k < K; k++) rule.threshold[k] = k == best ? score : FLT_MAX;
            answer = decide(p, logits, K, &rule);
            assert_true(answer.score == score && !answer.abstained); /* at the threshold it answers */
            rule.threshold[best] = nextafterf(score, FLT_MAX);
            assert_int_equal(decide(p, logits, K, &rule).abstained, kind != DECIDE_ALWAYS);
        }
        decide_free(&rule);
    }
    /* Numbers at the edge of float32 overflow nothing. */
    const float huge[] = {-FLT_MAX, FLT_MAX, 0};
    double p[3];
    DecideRule rule = {.temperature = FLT_MIN};
    assert_int_equal(decide_probabilities(p, huge, 3, &rule), 1);
    assert_true(p[0] == 0 && p[1] == 1 && p[2] == 0);
    for (int kind = 0; kind < DECIDE_SCORES; kind++)
        assert_true(isfinite(decide_score((DecideScore)kind, p, 1, huge, 3)));
    assert_int_equal(decide_score_find("entropy"), DECIDE_ENTROPY);
    assert_int_equal(decide_score_find("entropie"), DECIDE_SCORES);
}

/* ---- the rule in files ---- */

static void test_config(void **state) {
    (void)state;
    Err err = {0};
    for (uint64_t round = 0; round < 40; round++) {
        DecideRule rule, back;
        tiny_rule(&rule, 3, seed, round);
        if (rule.per_class) rule.threshold[0] = -FLT_MAX, rule.threshold[1] = FLT_MAX;
        cJSON *root = cJSON_Parse("{\"hidden_size\": 8, \"router_scale\": 3, \"layer_norm_eps\": 1e-7}"),
              *again;
        ok(decide_json_write(root, &rule, LABELS, 3, &err), &err);
        Buf text = {0};
        json_print(&text, root);
        ok(json_parse(&again, text.data, text.len, &err), &err);
        ok(decide_json_read(&back, again, LABELS, 3, &err), &err);
        assert_true(tiny_rules_equal(&rule, &back, 3));
        assert_int_equal(cJSON_GetObjectItem(again, "hidden_size")->valueint, 8);
        assert_true(cJSON_GetObjectItem(again, "layer_norm_eps")->valuedouble == 1e-7);
        buf_free(&text);
        cJSON_Delete(root);
        cJSON_Delete(again);
        decide_free(&rule);
        decide_free(&back);
    }
    static const struct {
        const char *json, *message;
    } BAD[] = {
        {"{\"router_temperature\": 0}",
         "key \"router_temperature\": found 0, expected 1.17549e-38 to 3.40282e+38"},
        {"{\"router_temperature\": \"x\"}", "key \"router_temperature\": found a string, expected a number"},
        {"{\"router_scale\": [1, 1, 1]}", "router_scale and router_bias belong together: found one of them"},
        {"{\"router_scale\": [1, 1], \"router_bias\": [0, 0, 0]}",
         "key \"router_scale\": expected an array of 3 numbers, one for each label"},
        {"{\"router_scale\": [1, 0, 1], \"router_bias\": [0, 0, 0]}",
         "key \"router_scale\": element 1 is no number from 1.17549e-38 to 3.40282e+38"},
        {"{\"router_decision\": []}", "router_decision: expected an object"},
        {"{\"router_decision\": {}}",
         "router_decision: key \"score\": found 'nothing', expected max_probability, "
         "margin, entropy or energy"},
        {"{\"router_decision\": {\"score\": \"margin\"}}",
         "router_decision: key \"threshold\": found nothing, expected a number or an array"},
        {"{\"router_decision\": {\"score\": \"margin\", \"threshold\": [0.5, null, 1]}}",
         "router_decision: key \"threshold\": element 1 is no number from -3.40282e+38 to 3.40282e+38"},
        {"{\"router_decision\": {\"score\": \"margin\", \"threshold\": 0.5, \"fallback\": \"law\"}}",
         "router_decision: key \"fallback\": 'law' is none of the model's labels"}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        cJSON *root = cJSON_Parse(BAD[i].json);
        DecideRule rule;
        assert_int_equal(decide_json_read(&rule, root, LABELS, 3, &err), ERR_FORMAT);
        assert_string_equal(err.msg, BAD[i].message);
        cJSON_Delete(root);
    }
}

static void test_blob_rule(void **state) {
    (void)state;
    Err err = {0};
    for (uint64_t round = 0; round < 20; round++) {
        DecideRule rule;
        Buf file = {0}, again = {0};
        Blob blob;
        tiny_rule(&rule, 3, seed, round);
        ok(tiny_rule_blob(&file, &rule, &err), &err);
        ok(blob_open_memory(&blob, file.data, file.len, false, NULL, &err), &err);
        assert_true(tiny_rules_equal(&rule, &blob.config.decide, 3));
        assert_string_equal(blob_metadata(&blob, "router.decision.policy"), "a test");
        assert_string_equal(blob_metadata(&blob, "router.format"), "1.2");
        ok(blob_rule_replace(&again, &blob, &rule, NULL, 0, &err),
           &err); /* nothing changes, nothing gets lost */
        assert_true(again.len == file.len && memcmp(again.data, file.data, file.len) == 0);
        blob_close(&blob);
        buf_free(&file);
        buf_free(&again);
        decide_free(&rule);
    }
    static const struct {
        const char *from, *to, *message;
    } CASES[] = {
        {"f16-positions calibration-vector", "f16-positions",
         "metadata router.scale.0 without the word calibration-vector in router.required"},
        {" decision-threshold", "",
         "metadata router.decision.score without the word decision-threshold in router.required"},
        {"calibration-vector decision-threshold", "decision-threshold calibration-vector",
         "metadata router.required: found \"int8-rows f16-positions decision-threshold calibration-vector\", "
         "expected \"int8-rows f16-positions\" and then at most \"calibration-vector\" and "
         "\"decision-threshold\"; a newer router may know other words"},
        {"decision-threshold\"", "decision-threshold int4\"", "decision-threshold int4\", expected"},
        {"\"int8-rows f16-positions calibration-vector decision-threshold\"", "\"calibration-vector\"",
         "metadata router.required: found \"calibration-vector\", expected"},
        {"\"router.scale.1\":", "\"router.scale.x\":", "metadata router.scale.1 is missing"},
        {"\"router.scale.1\":\"0x", "\"router.scale.1\":\"-0x", "expected a number above 0"},
        {"\"router.bias.2\":\"", "\"router.bias.2\":\"nan ", "metadata router.bias.2: found \"nan "},
        {"\"router.decision.score\":\"", "\"router.decision.score\":\"max ",
         "expected max_probability, margin, entropy or energy"},
        {"\"router.decision.threshold.0\":",
         "\"router.decision.threshold\":\"0x1p-1\",\"router.decision.threshold.0\":",
         "metadata router.decision.threshold and router.decision.threshold.0: expected one of them"},
        {"\"router.decision.threshold.2\":", "\"router.decision.threshold.3\":",
         "metadata router.decision.threshold.2 is missing"},
        {"\"router.decision.fallback\":\"", "\"router.decision.fallback\":\"un", "\" is none of the labels"},
        {"\"router.decision.fallback\":", "\"router.decision.fellback\":", NULL},
    };
    DecideRule rule;
    Buf file = {0}, changed = {0};
    tiny_rule(&rule, 3, seed, 13); /* a vector, thresholds of each label, a fallback */
    assert_true(rule.vector && rule.per_class && rule.fallback >= 0);
    ok(tiny_rule_blob(&file, &rule, &err), &err);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Blob blob;
        assert_true(tiny_replace(&changed, &file, CASES[i].from, CASES[i].to));
        const ErrCode rc = blob_open_memory(&blob, changed.data, changed.len, false, NULL, &err);
        assert_int_equal(rc, CASES[i].message ? ERR_FORMAT : ERR_OK);
        if (CASES[i].message && !strstr(err.msg, CASES[i].message))
            assert_string_equal(err.msg, CASES[i].message);
        if (rc == ERR_OK) blob_close(&blob);
    }
    for (size_t n = 1;; n++) {
        Blob blob;
        mem_fail_at(n);
        ErrCode rc = blob_open_memory(&blob, file.data, file.len, false, NULL, &err);
        if (rc == ERR_OK) {
            rc = blob_rule_replace(&changed, &blob, &rule, NULL, 0, &err);
            mem_fail_at(0);
            blob_close(&blob);
        }
        mem_fail_at(0);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
        assert_true(n < 3000);
    }
    buf_free(&file);
    buf_free(&changed);
    decide_free(&rule);
}

/* ---- librouter and a stranger decide alike ---- */

enum { ASKED = 300 };

typedef struct {
    int label, abstained;
    char fallback[40];
    float score;
} Decided;

/* What the peer says to logits (ASKED, 3). */
static void ask_peer(Decided *out, const char *blob, float (*logits)[3]) {
#ifdef ROUTER_BLOB_PEER
    char in[256], answers[256];
    (void)snprintf(in, sizeof in, "%s/logits", folder);
    (void)snprintf(answers, sizeof answers, "%s/answers", folder);
    FILE *f = fopen(in, "w");
    assert_non_null(f);
    for (int i = 0; i < ASKED; i++)
        (void)fprintf(f, "%a %a %a\n", (double)logits[i][0], (double)logits[i][1], (double)logits[i][2]);
    assert_int_equal(fclose(f), 0);
    (void)fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen(in, "r", stdin) || !freopen(answers, "w", stdout)) _exit(126);
        char *const arguments[] = {(char[]){"blob_peer"}, (char *)blob, (char[]){"--decide"}, NULL};
        (void)execv(ROUTER_BLOB_PEER, arguments);
        _exit(127);
    }
    int status = -1;
    assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
                WEXITSTATUS(status) == 0);
    f = fopen(answers, "r");
    assert_non_null(f);
    char line[200];
    assert_non_null(fgets(line, sizeof line, f)); /* digests */
    for (int i = 0; i < ASKED; i++) {
        char *at;
        assert_non_null(fgets(line, sizeof line, f));
        out[i].label = (int)strtol(line, &at, 10);
        out[i].abstained = (int)strtol(at, &at, 10);
        char *end = strchr(++at, ' ');
        assert_non_null(end);
        *end = 0;
        (void)snprintf(out[i].fallback, sizeof out[i].fallback, "%s", at);
        out[i].score = strtof(end + 1, NULL);
    }
    (void)fclose(f);
#else
    (void)out, (void)blob, (void)logits;
    (void)printf("the peer was not built\n");
    skip();
#endif
}

static void test_decisions(void **state) {
    (void)state;
    static float logits[ASKED][3];
    static Decided peer[ASKED];
    char error[ROUTER_ERROR_BYTES];
    Err err = {0};
    int abstained = 0, at_threshold = 0;
    for (uint64_t round = 0; round < 40; round++) {
        DecideRule rule;
        tiny_rule(&rule, 3, seed, round);
        for (int i = 0; i < ASKED; i++)
            for (int k = 0; k < 3; k++)
                logits[i][k] = (float)(4 * rng_normal(rng_key(seed, "asked", round), (uint64_t)(3 * i + k)));
        /* Thresholds that are some of these logits' own scores. */
        for (int k = 0; k < 3; k++) {
            double p[3];
            int i = 0;
            while (i + 1 < ASKED && decide_probabilities(p, logits[i], 3, &rule) != k) i++;
            const int label = decide_probabilities(p, logits[i], 3, &rule);
            if (rule.per_class || k == 0)
                rule.threshold[k] = decide_score(rule.score, p, label, logits[i], 3);
            if (!rule.per_class) rule.threshold[k] = rule.threshold[0];
        }
        Buf file = {0};
        ok(tiny_rule_blob(&file, &rule, &err), &err);
        const char *path = in_folder("decide.safetensors");
        assert_int_equal(file_save(path, file.data, file.len, NULL), ERR_OK);
        ask_peer(peer, path, logits);
        Router *router;
        assert_int_equal(router_open(&router, path, NULL, error, sizeof error), ROUTER_OK);
        for (int i = 0; i < ASKED; i++) {
            RouterAnswer a;
            float p[3];
            assert_int_equal(router_decide(router, logits[i], &a, p, error, sizeof error), ROUTER_OK);
            assert_int_equal(a.label, peer[i].label);
            assert_true(a.score == peer[i].score);
            assert_int_equal(a.abstained, peer[i].abstained);
            assert_string_equal(a.fallback < 0 ? "-" : router_label(router, a.fallback), peer[i].fallback);
            assert_true(a.probability == p[a.label] && fabsf(p[0] + p[1] + p[2] - 1) < 1e-6f);
            assert_true(a.tokens == 0 && !a.truncated);
            abstained += a.abstained;
            at_threshold += rule.score != DECIDE_ALWAYS && a.score == rule.threshold[a.label];
        }
        /* A text's answer is the decision of its logits. */
        RouterAnswer whole, part;
        int32_t ids[12];
        size_t count;
        float l[3], pooled[8], without[3];
        assert_int_equal(router_classify(router, "abc the", 7, &whole, NULL, error, sizeof error), ROUTER_OK);
        assert_int_equal(router_encode(router, "abc the", 7, ids, 12, &count, NULL, error, sizeof error),
                         ROUTER_OK);
        assert_int_equal(router_pooled(router, ids, count, l, pooled, error, sizeof error), ROUTER_OK);
        assert_int_equal(router_logits(router, ids, count, without, error, sizeof error), ROUTER_OK);
        assert_memory_equal(l, without, sizeof l);
        assert_int_equal(router_decide(router, l, &part, NULL, error, sizeof error), ROUTER_OK);
        assert_true(whole.label == part.label && whole.abstained == part.abstained &&
                    whole.score == part.score && whole.fallback == rule.fallback &&
                    whole.probability == part.probability);
        /* The classifier's weights on the pooled vector are the logits. */
        Blob blob;
        assert_int_equal(blob_open(&blob, path, NULL, NULL, NULL), ERR_OK);
        assert_int_equal(router_width(router), 8);
        const float *w = blob.data[blob_top(&blob.config) + BLOB_HEAD_W];
        const float *b = blob.data[blob_top(&blob.config) + BLOB_HEAD_B];
        for (size_t k = 0; k < 3; k++) {
            double sum = (double)b[k];
            for (size_t h = 0; h < 8; h++) sum += (double)w[k * 8 + h] * (double)pooled[h];
            assert_near((double)l[k], sum, 1e-5 * (1 + fabs(sum)));
        }
        blob_close(&blob);
        l[1] = NAN;
        assert_int_equal(router_decide(router, l, &part, NULL, error, sizeof error), ROUTER_ARGUMENT);
        assert_string_equal(error, "logit 1 is not a finite number");
        assert_int_equal(router_decide(router, NULL, &part, NULL, error, sizeof error), ROUTER_ARGUMENT);
        assert_int_equal(router_pooled(router, ids, count, l, NULL, error, sizeof error), ROUTER_ARGUMENT);
        router_close(router);
        buf_free(&file);
        decide_free(&rule);
    }
    (void)printf("%d of %d abstained, %d were at their threshold\n", abstained, 40 * ASKED, at_threshold);
    assert_true(abstained > 100 && at_threshold >= 32);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_log),   cmocka_unit_test(test_decide),    cmocka_unit_test(test_config),
        cmocka_unit_test(test_blob_rule), cmocka_unit_test(test_decisions),
    };
    return folder_close(cmocka_run_group_tests_name("decide", tests, NULL, NULL));
}
