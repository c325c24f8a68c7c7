/* tests/test_export.c - quantising, the blob's format, librouter, and what hostile files get for an answer.
 */
#include <pthread.h>
#include <zstd.h>

#include "core/cpu.h"
#include "core/file.h"
#include "core/json.h"
#include "export/approx.h"
#include "export/check.h"
#include "export/exporter.h"
#include "export/forward.h"
#include "export/hexfloat.h"
#include "export/int8.h"
#include "export/quant.h"
#include "model/config.h"
#include "model/weights.h"
#include "tests/tiny_blob.h"
#include "tests/unit.h"

static Buf tiny;  /* of tiny_blob.h */
static Buf whole; /* an exported model, with golden vectors */

static double spread(uint64_t key, uint64_t i) {
    return 2 * rng_uniform(seed ^ key, i) - 1;
}

/* ---- arithmetic ---- */

static void test_approx(void **state) {
    (void)state;
    double worst = 0, gelu = 0;
    for (uint64_t i = 0; i < 200000; i++) {
        const float x = (float)(87 * spread(1, i)), g = (float)(12 * spread(2, i));
        const double e = exp((double)x), d = fabs((double)approx_exp(x) - e) / e;
        const double exact = (double)g * (1 + erf((double)g / sqrt(2))) / 2;
        const double off = fabs((double)approx_gelu(g) - exact) / fmax(1, fabs((double)g));
        worst = fmax(worst, d);
        gelu = fmax(gelu, off);
    }
    (void)printf("exp: relative error %.3g, gelu: %.3g\n", worst, gelu);
    assert_true(worst < 3e-7); /* as the header promises */
    assert_true(gelu < 1e-6);
    assert_true(approx_exp(0.0f) == 1.0f && approx_exp(-1e30f) < 2e-38f && isfinite(approx_exp(1e30f)));
    assert_true(isnan(approx_exp(NAN)) && isnan(approx_gelu(NAN)));
    assert_true(approx_gelu(0.0f) == 0.0f && fabsf(approx_gelu(-40.0f)) < 1e-30f &&
                approx_gelu(40.0f) == 40.0f);
}

static void test_hexfloat(void **state) {
    (void)state;
    Buf text = {0};
    for (uint64_t i = 0; i < 20000; i++) {
        const uint32_t bits = i < 40 ? (uint32_t)i * 0x00400001u : (uint32_t)rng_bits(seed, i);
        float x, y;
        memcpy(&x, &bits, sizeof x);
        if (!isfinite(x)) continue;
        buf_clear(&text);
        hexfloat_put(&text, x);
        assert_int_equal(hexfloat_only(&y, text.data, NULL), ERR_OK);
        assert_true(x == y && signbit(x) == signbit(y));
        assert_true(strtof(text.data, NULL) == x); /* C's own reading */
    }
    static const char *const BAD[] = {"",
                                      "1.5",
                                      "0x",
                                      "0x1",
                                      "0x1p",
                                      "0x1p+",
                                      "0x1p99999",
                                      "0x1p128",
                                      "-0x1p1024",
                                      "0x1.8p0 ",
                                      "0x1.8p0x",
                                      "0x.8p1",
                                      "0x1..8p1",
                                      "nan",
                                      "inf",
                                      "0x1.000001p0x",
                                      "0x1.00000001p0",
                                      "+0x1p0",
                                      "0x1p-200",
                                      "0x11111111111111p0"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        float y;
        Err err = {0};
        assert_int_equal(hexfloat_only(&y, BAD[i], &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "expected a hexadecimal float like 0x1.8p-1"));
    }
    buf_free(&text);
}

static void test_quant(void **state) {
    (void)state;
    enum { R = 37, C = 53 };
    static float w[R * C], scale[R];
    static int8_t q[R * C];
    QuantError e = {0};
    for (size_t i = 0; i < (size_t)R * C; i++) w[i] = (float)(spread(3, i) * exp(8 * spread(4, i / C)));
    memset(w + 2 * C, 0, C * sizeof *w);
    assert_int_equal(quant_rows(q, scale, w, R, C, &e, NULL), ERR_OK);
    for (size_t r = 0; r < R; r++) {
        int largest = 0;
        for (size_t c = 0; c < C; c++) {
            const float v = w[r * C + c], back = (float)q[r * C + c] * scale[r];
            assert_true(fabsf(v - back) <= 0.501f * scale[r]); /* half a step, and float rounding */
            if (abs(q[r * C + c]) > largest) largest = abs(q[r * C + c]);
        }
        assert_int_equal(largest, r == 2 ? 0 : 127);
        assert_true(scale[r] > 0);
    }
    assert_true(scale[2] == 1.0f && quant_relative(&e) > 0 && quant_relative(&e) < 0.01 && e.worst > 0);

    const float ties[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f};
    const int8_t even[] = {127, 0, 2, 2, 0, -2, -2};
    assert_int_equal(quant_rows(q, scale, ties, 1, 7, &e, NULL), ERR_OK);
    assert_memory_equal(q, even, sizeof even);

    Err err = {0};
    w[C + 3] = NAN;
    assert_int_equal(quant_rows(q, scale, w, R, C, &e, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "row 1, column 3 is not a finite number");
    uint16_t half[2];
    const float large[] = {65504.0f, -65520.0f};
    assert_int_equal(quant_f16(half, large, 2, &e, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "value 1 is -65520, which 16 bits cannot hold");
}

/* Against the definition, on odd sizes; sums of the largest size must not overflow. */
static void test_int8(void **state) {
    (void)state;
    const Int8Kernels *k = &int8_portable;
    for (uint64_t round = 0; round < 60; round++) {
        const int in = round == 0 ? INT8_INPUTS_MAX : 1 + (int)(rng_bits(seed, round) % 150);
        const int out = 1 + (int)(rng_bits(seed, 100 + round) % 40),
                  rows = 1 + (int)(rng_bits(seed, 200 + round) % 9);
        const size_t I = (size_t)in, O = (size_t)out, N = (size_t)rows;
        float *x = mem_alloc(N * I, sizeof *x), *y = mem_alloc(N * O, sizeof *y);
        float *scale = mem_alloc(O, sizeof *scale), *bias = mem_alloc(O, sizeof *bias);
        int8_t *w = mem_alloc(O * I, 1);
        Int8Rows q = {mem_alloc(N * I, sizeof *q.q), mem_alloc(N, sizeof *q.scale),
                      mem_alloc(N, sizeof *q.start), I};
        void *scratch = mem_alloc(int8_scratch(in), 1);
        for (size_t i = 0; i < N * I; i++) x[i] = round == 0 ? -1.0f : (float)(3 * spread(round, i));
        for (size_t i = 0; i < O * I; i++) w[i] = round == 0 ? -128 : (int8_t)(127 * spread(round + 1000, i));
        for (size_t i = 0; i < O; i++) scale[i] = 0.01f + (float)i, bias[i] = (float)spread(round + 2000, i);
        if (round == 1) memset(x, 0, I * sizeof *x);
        for (size_t n = 0; n < N; n++)
            k->lanes->quantize(q.q + n * I, &q.scale[n], &q.start[n], x + n * I, in);
        k->linear(y, &q, rows, &(Int8Linear){w, scale, bias, out, in}, 0, out, (Int8Next){0}, scratch);
        for (size_t n = 0; n < N; n++) {
            float max = 0;
            for (size_t i = 0; i < I; i++) max = fmaxf(max, fabsf(x[n * I + i]));
            assert_true(q.scale[n] == max / 127.0f);
            for (size_t i = 0; i < I; i++)
                assert_int_equal(q.q[n * I + i], max > 0 ? (int)rintf(x[n * I + i] * (127.0f / max)) : 0);
            for (size_t o = 0; o < O; o++) {
                int64_t sum = 0;
                for (size_t i = 0; i < I; i++) sum += (int64_t)q.q[n * I + i] * w[o * I + i];
                const float step = q.scale[n] * scale[o], product = (float)sum * step;
                assert_true(y[n * O + o] == product + bias[o]);
            }
        }
        x[0] = NAN; /* must not be undefined behaviour */
        k->lanes->quantize(q.q, &q.scale[0], &q.start[0], x, in);
        mem_free(x), mem_free(y), mem_free(scale), mem_free(bias), mem_free(w), mem_free(scratch);
        mem_free(q.q), mem_free(q.scale), mem_free(q.start);
    }
}

/* ---- exporting ---- */

static const char CONFIG[] =
    "{\"model_type\": \"deberta-v2\", \"vocab_size\": 280, \"hidden_size\": 24, \"num_hidden_layers\": 2,"
    " \"num_attention_heads\": 3, \"intermediate_size\": 40, \"max_position_embeddings\": 40,"
    " \"position_buckets\": 8, \"max_relative_positions\": -1, \"relative_attention\": true,"
    " \"share_att_key\": true, \"pos_att_type\": [\"p2c\", \"c2p\"], \"norm_rel_ebd\": \"layer_norm\","
    " \"position_biased_input\": false, \"type_vocab_size\": 0, \"hidden_act\": \"gelu\","
    " \"layer_norm_eps\": 1e-7, \"initializer_range\": 0.3, \"router_max_length\": 33,"
    " \"id2label\": {\"0\": \"math\", \"1\": \"caf\\u00e9 & <more>\", \"2\": \"other\"}}";

static void write_model(const char *dir) {
    Err err = {0};
    Config config;
    cJSON *root;
    Buf spm = {0};
    Arena arena = {0};
    Params p;
    char path[300];
    assert_int_equal(file_mkdirs(dir, &err), ERR_OK);
    assert_int_equal(json_parse(&root, CONFIG, strlen(CONFIG), &err), ERR_OK);
    assert_int_equal(config_parse(&config, root, &err), ERR_OK);
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(file_save(path, CONFIG, strlen(CONFIG), &err), ERR_OK);
    params_layout(&p, &arena, &config, true, NULL);
    const size_t bytes = arena.used;
    assert_int_equal(arena_init(&arena, bytes, "a test", &err), ERR_OK);
    params_layout(&p, &arena, &config, true, NULL);
    weights_init(&p, &config, seed);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(weights_save(path, &p, &config, &err), ERR_OK);
    tiny_spm(&spm, &(TinySpm){0});
    (void)snprintf(path, sizeof path, "%s/spm.model", dir);
    assert_int_equal(file_save(path, spm.data, spm.len, &err), ERR_OK);
    buf_free(&spm);
    arena_free(&arena);
    config_free(&config);
    cJSON_Delete(root);
}

static void export_ok(const char *out, const char *from, const ExporterOptions *options,
                      ExporterReport *report) {
    Err err = {0};
    const ErrCode rc = exporter_run(report, out, from, options, NULL, &err);
    assert_string_equal(err.msg, "");
    assert_int_equal(rc, ERR_OK);
}

static void read_ok(Buf *out, const char *path) {
    assert_int_equal(file_read(out, path, (size_t)1 << 30, NULL), ERR_OK);
}

static void test_export(void **state) {
    (void)state;
    ExporterReport report;
    Buf again = {0}, packed = {0};
    const ExporterOptions plain = {.license = "MIT", .description = "a \"test\"\n\x01"};
    write_model(in_folder("model"));
    export_ok(in_folder("a.safetensors"), in_folder("model"), &plain, &report);
    read_ok(&whole, in_folder("a.safetensors"));
    assert_int_equal(report.check.golden, 16);
    assert_int_equal(report.check.exact, 16);
    assert_int_equal(report.max_tokens, 33);
    assert_int_equal(report.file_bytes, whole.len);
    (void)printf(
        "8 bits against float: logits differ by %.3g, %zu of 16 agree; rounding of linear layers %.3g\n",
        report.check.float_worst, report.check.float_agree, quant_relative(&report.linears));
    assert_true(report.check.float_worst < 0.4); /* weights of 0.3 make it large; seen: 0.02 to 0.1 */
    assert_true(quant_relative(&report.linears) < 0.02 && quant_relative(&report.words) < 0.02);
    assert_true(quant_relative(&report.positions) < 0.001);

    export_ok(in_folder("b.safetensors"), in_folder("model"), &plain, &report);
    read_ok(&again, in_folder("b.safetensors"));
    assert_int_equal(again.len, whole.len);
    assert_memory_equal(again.data, whole.data, whole.len);

    ExporterOptions pack = plain;
    pack.pack = true;
    export_ok(in_folder("c.zst"), in_folder("model"), &pack, &report);
    read_ok(&packed, in_folder("c.zst"));
    assert_true(packed.len < whole.len && report.blob_bytes == whole.len && report.file_bytes == packed.len);
    Blob blob;
    assert_int_equal(blob_open(&blob, in_folder("c.zst"), NULL, NULL, NULL), ERR_OK);
    assert_true(blob.packed && blob.size == whole.len);
    assert_memory_equal(blob.bytes, whole.data, whole.len);
    assert_string_equal(blob_metadata(&blob, "router.license"), "MIT");
    assert_string_equal(blob_metadata(&blob, "router.description"), plain.description);
    assert_string_equal(blob.labels[1], "caf\xc3\xa9 & <more>");
    for (size_t i = 0; i < blob_count(&blob.config); i++)
        assert_int_equal((uintptr_t)blob.data[i] % BLOB_ALIGN, 0);
    blob_close(&blob);
    assert_true(blob_is(in_folder("c.zst")) && blob_is(in_folder("a.safetensors")));
    assert_false(blob_is(in_folder("model/model.safetensors")) || blob_is(in_folder("none")));
    buf_free(&again);
    buf_free(&packed);
}

/* A training run: the best model is taken, and what the run knows goes along. */
static void test_run_folder(void **state) {
    (void)state;
    ExporterReport report;
    Err err = {0};
    const ExporterOptions none = {0};
    write_model(in_folder("run/model-last"));
    const char *made = in_folder("run.safetensors");
    static const char EVAL[] = "{\n  \"set\": \"test\", \"n\": 7\n}\n";
    static const char STATE[] = "{\"best_step\": 20, \"global_step\": 30}";
    static const char LOG[] =
        "{\"step\": 20, \"loss\": 1}\n{\"step\": 10, \"dev_loss\": 3}\n{\"st\n"
        "{\"step\": 20, \"dev_loss\": 2, \"dev_rows\": 9}\n{\"step\": 30, \"dev_loss\": 4}\n";
    assert_int_equal(file_save(in_folder("run/eval.json"), EVAL, strlen(EVAL), &err), ERR_OK);
    assert_int_equal(file_save(in_folder("run/metrics.jsonl"), LOG, strlen(LOG), &err), ERR_OK);
    assert_int_equal(file_save(in_folder("run/model-last/trainer_state.json"), STATE, strlen(STATE), &err),
                     ERR_OK);
    export_ok(made, in_folder("run"), &none, &report);
    write_model(in_folder("run/model-best"));
    export_ok(made, in_folder("run"), &(ExporterOptions){.max_tokens = 40}, &report);
    Blob blob;
    assert_int_equal(blob_open(&blob, made, NULL, NULL, NULL), ERR_OK);
    assert_string_equal(blob_metadata(&blob, "router.metrics"), "{\"set\":\"test\",\"n\":7}");
    assert_string_equal(blob_metadata(&blob, "router.metrics.dev"),
                        "{\"step\":20,\"dev_loss\":2,\"dev_rows\":9}");
    assert_null(blob_metadata(&blob, "router.train_config"));
    assert_int_equal(blob.config.max_tokens, 40);
    blob_close(&blob);

    const ErrCode rc =
        exporter_run(&report, made, in_folder("run"), &(ExporterOptions){.max_tokens = 41}, NULL, &err);
    assert_int_equal(rc, ERR_ARGUMENT);
    assert_string_equal(err.msg, "max_length: found 41, expected 2 to 40, which the model can take");
    assert_int_equal(exporter_run(&report, made, folder, &none, NULL, &err), ERR_ARGUMENT);
    assert_non_null(
        strstr(err.msg, ": found neither config.json (a model) nor model-best/config.json (a training run)"));

    /* A model that was trained with special strings as tokens: [MASK] has an embedding here, so that is fine.
     */
    Buf config = {0};
    buf_puts(&config, "{\"router_plain_text\": false,");
    buf_puts(&config, CONFIG + 1);
    assert_int_equal(file_save(in_folder("run/model-best/config.json"), config.data, config.len, &err),
                     ERR_OK);
    export_ok(made, in_folder("run"), &none, &report);
    assert_int_equal(blob_open(&blob, made, NULL, NULL, NULL), ERR_OK);
    assert_false(blob.config.plain_text);
    const char *ids = blob_metadata(&blob, "router.golden.12.ids"); /* [CLS] ignore ... */
    assert_memory_equal(ids, "1 1 ", 4);
    blob_close(&blob);
    buf_free(&config);
}

static Router *open_ok(const Buf *blob, const RouterOptions *options) {
    char error[ROUTER_ERROR_BYTES];
    Router *router;
    const int rc = router_open_memory(&router, blob->data, blob->len, options, error, sizeof error);
    assert_string_equal(error, "");
    assert_int_equal(rc, ROUTER_OK);
    return router;
}

/* ---- librouter ---- */

enum { TEXTS = 40 };

typedef struct {
    char text[TEXTS][120];
    const char *texts[TEXTS];
    size_t lengths[TEXTS];
    RouterAnswer answers[TEXTS];
    float p[TEXTS][3];
    Router *router;
    bool wrong;
} Corpus;

static void make_texts(Corpus *c) {
    for (uint64_t i = 0; i < TEXTS; i++) {
        const size_t n = (size_t)(rng_bits(seed, i) % sizeof c->text[0]);
        for (size_t k = 0; k < n; k++) {
            static const char LETTERS[] = "abce the [CLS]\xc3\xa9\xff";
            c->text[i][k] = LETTERS[rng_bits(seed ^ 77, i * 1000 + k) % (sizeof LETTERS - 1)];
        }
        c->texts[i] = c->text[i];
        c->lengths[i] = n;
    }
}

static void *ask_all(void *arg) {
    Corpus *c = arg;
    for (int i = 0; i < TEXTS; i++) {
        RouterAnswer a;
        float p[3];
        if (router_classify(c->router, c->texts[i], c->lengths[i], &a, p, NULL, 0) != ROUTER_OK ||
            p[0] != c->p[i][0] || p[1] != c->p[i][1] || p[2] != c->p[i][2] || a.label != c->answers[i].label)
            c->wrong = true;
    }
    return NULL;
}

static void test_router(void **state) {
    (void)state;
    static Corpus c;
    Router *router = open_ok(&whole, NULL), *many = open_ok(&whole, &(RouterOptions){.threads = 3});
    make_texts(&c);
    c.router = many;
    int truncated = 0;
    for (int i = 0; i < TEXTS; i++) {
        char error[ROUTER_ERROR_BYTES] = "x";
        RouterAnswer *a = &c.answers[i];
        assert_int_equal(router_classify(router, c.texts[i], c.lengths[i], a, c.p[i], error, sizeof error),
                         ROUTER_OK);
        assert_string_equal(error, "");
        const float *p = c.p[i];
        assert_true(fabsf(p[0] + p[1] + p[2] - 1) < 1e-5f && a->probability == p[a->label]);
        assert_true(p[a->label] >= p[0] && p[a->label] >= p[1] && p[a->label] >= p[2]);
        int32_t ids[33];
        size_t count;
        int cut;
        float logits[3], q[3];
        RouterAnswer from_logits;
        assert_int_equal(router_encode(router, c.texts[i], c.lengths[i], ids, 33, &count, &cut, NULL, 0),
                         ROUTER_OK);
        assert_true((int)count == a->tokens && cut == a->truncated && ids[0] == 1 && ids[count - 1] == 2);
        assert_true(!cut || count == 33);
        truncated += cut;
        assert_int_equal(router_logits(router, ids, count, logits, NULL, 0), ROUTER_OK);
        assert_int_equal(router_decide(router, logits, &from_logits, q, NULL, 0), ROUTER_OK);
        assert_true(from_logits.label == a->label && from_logits.score == a->score);
        assert_true(!a->abstained && a->fallback == -1 && a->score == a->probability);
        assert_memory_equal(p, q, sizeof q);
    }
    assert_true(truncated > 0 && truncated < TEXTS);

    static RouterAnswer answers[TEXTS];
    static float p[TEXTS][3];
    for (int round = 0; round < 3; round++) {
        Router *r = round ? many : router;
        assert_int_equal(router_classify_batch(r, c.texts, c.lengths, TEXTS, answers,
                                               round == 2 ? NULL : &p[0][0], NULL, 0),
                         ROUTER_OK);
        assert_memory_equal(p, c.p, sizeof p);
        for (int i = 0; i < TEXTS; i++)
            assert_true(answers[i].label == c.answers[i].label && answers[i].tokens == c.answers[i].tokens &&
                        answers[i].truncated == c.answers[i].truncated &&
                        answers[i].probability == c.answers[i].probability);
    }
    pthread_t threads[4];
    for (int t = 0; t < 4; t++) assert_int_equal(pthread_create(&threads[t], NULL, ask_all, &c), 0);
    assert_int_equal(router_classify_batch(many, c.texts, c.lengths, TEXTS, answers, NULL, NULL, 0),
                     ROUTER_OK);
    for (int t = 0; t < 4; t++) assert_int_equal(pthread_join(threads[t], NULL), 0);
    assert_false(c.wrong);
    router_close(router);
    router_close(many);
}

/* Batches of all sizes, cut into groups of texts by several threads, answer what each text alone gets. */
static void test_batches(void **state) {
    (void)state;
    enum { MANY = 300 };
    static Corpus c;
    static const char *texts[MANY];
    static size_t lengths[MANY];
    static RouterAnswer answers[MANY];
    static float p[MANY][3];
    static const size_t COUNTS[] = {1, 2, 7, 8, 41, 160, MANY};
    make_texts(&c);
    Router *one = open_ok(&whole, NULL);
    for (int i = 0; i < TEXTS; i++)
        assert_int_equal(router_classify(one, c.texts[i], c.lengths[i], &c.answers[i], c.p[i], NULL, 0),
                         ROUTER_OK);
    for (int i = 0; i < MANY; i++) texts[i] = c.texts[i % TEXTS], lengths[i] = c.lengths[i % TEXTS];
    for (int threads = 1; threads <= 5; threads++) {
        Router *router = open_ok(&whole, &(RouterOptions){.threads = threads});
        for (size_t k = 0; k < sizeof COUNTS / sizeof *COUNTS; k++) {
            memset(p, 0, sizeof p);
            assert_int_equal(
                router_classify_batch(router, texts, lengths, COUNTS[k], answers, &p[0][0], NULL, 0),
                ROUTER_OK);
            for (size_t i = 0; i < COUNTS[k]; i++) {
                assert_memory_equal(p[i], c.p[i % TEXTS], sizeof p[i]);
                assert_int_equal(answers[i].label, c.answers[i % TEXTS].label);
                assert_int_equal(answers[i].tokens, c.answers[i % TEXTS].tokens);
                assert_int_equal(answers[i].truncated, c.answers[i % TEXTS].truncated);
            }
        }
        char error[ROUTER_ERROR_BYTES]; /* the first that fails is named, whoever meets it */
        texts[57] = texts[203] = NULL;
        lengths[57] = lengths[203] = 1;
        assert_int_equal(
            router_classify_batch(router, texts, lengths, MANY, answers, NULL, error, sizeof error),
            ROUTER_ARGUMENT);
        assert_string_equal(error, "text 57: text is NULL");
        texts[57] = c.texts[57 % TEXTS], texts[203] = c.texts[203 % TEXTS];
        lengths[57] = c.lengths[57 % TEXTS], lengths[203] = c.lengths[203 % TEXTS];
        router_close(router);
    }
    router_close(one);
}

/* A mapped file answers the same, and is not written to. */
static void test_map(void **state) {
    (void)state;
    char error[ROUTER_ERROR_BYTES];
    static Corpus c;
    make_texts(&c);
    Router *read = open_ok(&whole, NULL);
    Buf after = {0};
    for (int i = 0; i < TEXTS; i++)
        assert_int_equal(router_classify(read, c.texts[i], c.lengths[i], &c.answers[i], c.p[i], NULL, 0),
                         ROUTER_OK);
    for (int round = 0; round < 4; round++) {
        const RouterOptions options = {.map = 1, .trust = round & 1, .threads = 2};
        const char *path = in_folder(round & 2 ? "c.zst" : "a.safetensors"); /* a packed one is read */
        assert_int_equal(router_open(&c.router, path, &options, error, sizeof error), ROUTER_OK);
        c.wrong = false;
        (void)ask_all(&c);
        assert_false(c.wrong);
        router_close(c.router);
    }
    read_ok(&after, in_folder("a.safetensors"));
    assert_int_equal(after.len, whole.len);
    assert_memory_equal(after.data, whole.data, whole.len);
    after.data[after.len - 200] ^= 1;
    assert_int_equal(file_save(in_folder("changed"), after.data, after.len, NULL), ERR_OK);
    assert_int_equal(
        router_open(&c.router, in_folder("changed"), &(RouterOptions){.map = 1}, error, sizeof error),
        ROUTER_FORMAT);
    assert_non_null(strstr(error, "is damaged: its SHA-256 is not the stated one"));
    buf_free(&after);
    router_close(read);
}

static void test_router_questions(void **state) {
    (void)state;
    Router *router = open_ok(&whole, &(RouterOptions){.max_tokens = 5});
    RouterAnswer a;
    char error[ROUTER_ERROR_BYTES];
    assert_int_equal(router_label_count(router), 3);
    assert_string_equal(router_label(router, 0), "math");
    assert_null(router_label(router, 3));
    assert_null(router_label(router, -1));
    assert_int_equal(router_max_tokens(router), 5);
    assert_string_equal(router_metadata(router, "router.format"), "1.2");
    assert_null(router_metadata(router, "no such key"));
    assert_string_equal(router_version(), LIBROUTER_VERSION);
    assert_string_equal(router_kernels(router), int8_pick(cpu_features())->name);
    assert_int_equal(router_classify(router, "", 0, &a, NULL, NULL, 0), ROUTER_OK);
    assert_true(a.tokens == 2 && !a.truncated);
    assert_int_equal(router_classify(router, NULL, 0, &a, NULL, NULL, 0), ROUTER_OK);
    assert_int_equal(router_classify(router, "a b c a b c", ROUTER_TERMINATED, &a, NULL, NULL, 0), ROUTER_OK);
    assert_true(a.tokens == 5 && a.truncated);

    assert_int_equal(router_classify(router, NULL, 3, &a, NULL, error, sizeof error), ROUTER_ARGUMENT);
    assert_string_equal(error, "text is NULL");
    const char *texts[] = {"a", NULL};
    const size_t lengths[] = {1, 1};
    RouterAnswer two[2];
    assert_int_equal(router_classify_batch(router, texts, lengths, 2, two, NULL, error, sizeof error),
                     ROUTER_ARGUMENT);
    assert_string_equal(error, "text 1: text is NULL");
    assert_int_equal(router_classify_batch(router, NULL, NULL, 0, NULL, NULL, NULL, 0), ROUTER_OK);
    const int32_t bad[] = {1, 280, 2};
    float logits[3];
    assert_int_equal(router_logits(router, bad, 3, logits, error, sizeof error), ROUTER_ARGUMENT);
    assert_string_equal(error, "token 1 has the id 280, expected 0 to 279");
    assert_int_equal(router_logits(router, bad, 0, logits, error, 12), ROUTER_ARGUMENT);
    assert_string_equal(error, "a sequence ");
    Router *none = router;
    assert_int_equal(router_open(&none, in_folder("missing"), NULL, error, sizeof error), ROUTER_IO);
    assert_null(none);
    assert_non_null(strstr(error, "/missing: cannot open: No such file"));
    assert_int_equal(router_open_memory(&none, whole.data, whole.len, &(RouterOptions){.max_tokens = 34},
                                        error, sizeof error),
                     ROUTER_ARGUMENT);
    assert_string_equal(error, "max_tokens: found 34, expected 2 to the blob's 33, or 0");
    router_close(router);
    router_close(NULL);
}

static void test_check(void **state) {
    (void)state;
    CheckReport report;
    Err err = {0};
    Buf changed = {0};
    assert_int_equal(check_blob(&report, in_folder("a.safetensors"), &err), ERR_OK);
    assert_true(report.golden == 16 && report.exact == 16 && report.worst <= 0 && report.tolerance >= 0x1p-6);
    static const struct {
        const char *from, *to, *message;
        ErrCode code;
    } CASES[] = {
        {"\"router.golden.4.ids\":\"1 2\"", "\"router.golden.4.ids\":\"1 9 2\"",
         "golden vector 4: the text is other tokens than the blob says: found 1 2, expected 1 9 2", ERR_GATE},
        {"\"router.golden.0.logits\":\"", "\"router.golden.0.logits\":\"0x1p60 0x1p1 0x1p1\",\"x\":\"",
         "golden vector 0: a logit differs by 1 of the largest, more than the ", ERR_GATE},
        {"\"router.golden.0.logits\":\"", "\"router.golden.0.logits\":\"0x1p60 0x1p1\",\"x\":\"",
         "metadata router.golden.0.logits: expected 3 numbers", ERR_FORMAT},
        {"\"router.golden.0.logits\":\"", "\"router.golden.0.logits\":\"one \",\"x\":\"",
         "metadata router.golden.0.logits: found \"one \", expected a hexadecimal float like 0x1.8p-1",
         ERR_FORMAT},
        {"\"router.golden.count\":\"16\"", "\"router.golden.count\":\"17\"",
         "metadata router.golden.16.text is missing", ERR_FORMAT},
        {"\"router.golden.count\":\"16\"", "\"router.golden.count\":\"99999\"",
         "metadata router.golden.count: found \"99999\", expected an integer from 0 to 4096", ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_true(tiny_replace(&changed, &whole, CASES[i].from, CASES[i].to));
        assert_int_equal(file_save(in_folder("x"), changed.data, changed.len, NULL), ERR_OK);
        assert_int_equal(check_blob(&report, in_folder("x"), &err), CASES[i].code);
        if (!strstr(err.msg, CASES[i].message)) assert_string_equal(err.msg, CASES[i].message);
    }
    buf_free(&changed);
}

/* The reader that shares no code with us agrees on the file and on the answers. */
static void test_peer(void **state) {
    (void)state;
#ifdef ROUTER_BLOB_PEER
    for (int damaged = 0; damaged < 2; damaged++) {
        Buf blob = {0};
        buf_put(&blob, whole.data, whole.len);
        if (damaged) blob.data[blob.len - 100] ^= 1;
        char *path = mem_strdup(in_folder("peer"));
        assert_int_equal(file_save(path, blob.data, blob.len, NULL), ERR_OK);
        (void)fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            if (damaged) (void)close(STDERR_FILENO); /* what it says is not for this log */
            char *const arguments[] = {(char[]){"blob_peer"}, path, NULL};
            (void)execv(ROUTER_BLOB_PEER, arguments);
            _exit(127);
        }
        int status = -1;
        assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), damaged);
        mem_free(path);
        buf_free(&blob);
    }
#else
    (void)printf("the peer was not built\n");
    skip();
#endif
}

/* ---- damaged and hostile files ---- */

/* Opens and, where that works, asks: for what must not crash. A copy of the exact size lets sanitizers see.
 */
static int try_open(const void *bytes, size_t n, int trust, char error[ROUTER_ERROR_BYTES]) {
    Router *router;
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n) memcpy(copy, bytes, n);
    const int rc =
        router_open_memory(&router, copy, n, &(RouterOptions){.trust = trust}, error, ROUTER_ERROR_BYTES);
    free(copy);
    if (rc == ROUTER_OK) {
        RouterAnswer a;
        const int asked = router_classify(router, "abc the a", ROUTER_TERMINATED, &a, NULL, NULL, 0);
        assert_true(asked == ROUTER_OK || asked == ROUTER_NUMERIC);
    } else {
        assert_null(router);
        assert_true(error[0] != 0);
    }
    router_close(router);
    return rc;
}

static void test_flips(void **state) {
    (void)state;
    char error[ROUTER_ERROR_BYTES];
    Buf blob = {0};
    buf_put(&blob, tiny.data, tiny.len);
    assert_int_equal(try_open(blob.data, blob.len, 0, error), ROUTER_OK);
    for (size_t i = 0; i < blob.len; i++) {
        blob.data[i] = (char)(blob.data[i] ^ (char)(1 + rng_bits(seed, i) % 255));
        assert_int_equal(try_open(blob.data, blob.len, 0, error), ROUTER_FORMAT);
        if (rng_bits(seed ^ 5, i) % 8 == 0) /* only must not crash; the fuzzer does the rest */
            (void)try_open(blob.data, blob.len, 1, error);
        blob.data[i] = tiny.data[i];
    }
    for (size_t n = 0; n < blob.len; n += n < 200 ? 1 : 1 + (size_t)(rng_bits(seed, n) % 30)) {
        assert_int_equal(try_open(blob.data, n, 0, error), ROUTER_FORMAT);
        assert_int_equal(try_open(blob.data, n, 1, error), ROUTER_FORMAT);
    }
    buf_puts(&blob, "x");
    assert_int_equal(try_open(blob.data, blob.len, 0, error), ROUTER_FORMAT);
    assert_string_equal(error, "blob: the tensors end at byte 12032 of 12033 bytes of data");
    buf_free(&blob);
}

static void test_hostile_header(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } CASES[] = {
        {"router.format\":\"1.2", "router.format\":\"2.0",
         "metadata router.format: found \"2.0\", expected 1.x (this program writes 1.2); a newer router may "
         "read it"},
        {"router.format\":\"1.2", "router.format\":\"1.7", NULL},
        {"\"router.format\":\"1.2\",", "\"router.format\":\"1.2\",\"router.new\":\"ignored\",", NULL},
        {"router.format", "router.fermat", "metadata router.format is missing"},
        {"int8-rows f16-positions", "int8-rows f16-positions int4",
         "metadata router.required: found \"int8-rows f16-positions int4\", expected \"int8-rows "
         "f16-positions\""},
        {"router.byte_order\":\"little", "router.byte_order\":\"big",
         "metadata router.byte_order: found \"big\", expected \"little\""},
        {"hidden_size\":\"8\"", "hidden_size\":\"08\"",
         "metadata router.hidden_size: found \"08\", expected an integer from 1 to 8192"},
        {"hidden_size\":\"8\"", "hidden_size\":\"-8\"",
         "metadata router.hidden_size: found \"-8\", expected an integer from 1 to 8192"},
        {"hidden_size\":\"8\"", "hidden_size\":\"99999999999999999999\"",
         "metadata router.hidden_size: found \"99999999999999999999\", expected an integer from 1 to 8192"},
        {"hidden_size\":\"8\"", "hidden_size\":\"8192\"",
         "tensor deberta.embeddings.word_embeddings.weight: found I8 [270, 8], expected I8 [270, 8192]"},
        {"num_attention_heads\":\"2\"", "num_attention_heads\":\"3\"",
         "metadata router.num_attention_heads: 3 does not divide the 8 of router.hidden_size"},
        {"num_hidden_layers\":\"2\"", "num_hidden_layers\":\"256\"",
         "tensor 52 is \"pooler.dense.weight\", expected "
         "deberta.encoder.layer.2.attention.self.query_proj.weight"},
        {"num_hidden_layers\":\"2\"", "num_hidden_layers\":\"1\"",
         "tensor 28 is \"deberta.encoder.layer.1.attention.self.query_proj.weight\", expected "
         "pooler.dense.weight"},
        {"max_tokens\":\"12\"", "max_tokens\":\"8193\"",
         "metadata router.max_tokens: found \"8193\", expected an integer from 2 to 8192"},
        {"special.cls\":\"1\"", "special.cls\":\"270\"", "a special id is 270, but there are 270 embeddings"},
        {"special.cls\":\"1\"", "special.cls\":\"0\"",
         "the tokenizer's special ids are 0 1 2 3 270, but router.special says 0 0 2 3 270"},
        {"plain_text\":\"true\"", "plain_text\":\"false\"",
         "a special id is 270, but there are 270 embeddings"},
        {"plain_text\":\"true\"", "plain_text\":\"yes\"",
         "metadata router.plain_text: found \"yes\", expected true or false"},
        {"temperature\":\"0x1p+0\"", "temperature\":\"0x0p+0\"",
         "metadata router.temperature: found \"0x0p+0\", expected a number above 0"},
        {"temperature\":\"0x1p+0\"", "temperature\":\"nan\"",
         "metadata router.temperature: found \"nan\", expected a hexadecimal float like 0x1.8p-1"},
        {"num_labels\":\"3\"", "num_labels\":\"4\"", "metadata router.label.3 is missing"},
        {"num_labels\":\"3\"", "num_labels\":\"4096\"",
         "metadata router.num_labels: found 4096, but there are fewer labels"},
        {"\"coding\"", "\"math\"", "the label \"math\" occurs twice"},
        {"\"coding\"", "\"\"", "metadata router.label.1: a label of 0 bytes, expected 1 to 256"},
        {"\"coding\"", "\"co\\u001b[2J\"", "metadata router.label.1: a control character in a label"},
        {"\"coding\"", "\"co\\u0085\"", "metadata router.label.1: a control character in a label"},
        {"router.pad.3\"", "router.pad.4\"",
         "tensor router.pad.3 is missing behind deberta.embeddings.LayerNorm.bias"},
        {"classifier.bias\":{", "classifier.bios\":{",
         "tensor 55 is \"classifier.bios\", expected classifier.bias"},
        {"\"dtype\":\"I8\"", "\"dtype\":\"U8\"",
         "tensor deberta.embeddings.word_embeddings.weight: found U8 [270, 8], expected I8 [270, 8]"},
        {"\"shape\":[270,8]", "\"shape\":[8,270]",
         "tensor deberta.embeddings.word_embeddings.weight: found I8 [8, 270], expected I8 [270, 8]"},
        {"\"shape\":[270,8]", "\"shape\":[4611686018427387904,8]",
         "tensor \"deberta.embeddings.word_embeddings.weight\": the shape [4611686018427387904, 8] "
         "overflows"},
        {"[0,2160]", "[0,2161]", "has 2161 bytes, expected 2160 for I8 [270, 8]"},
        {"\"router.format\"", "\"router.required\":\"x\",\"router.format\"",
         "metadata key \"router.required\" occurs twice"},
    };
    Buf changed = {0};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char error[ROUTER_ERROR_BYTES];
        assert_true(tiny_replace(&changed, &tiny, CASES[i].from, CASES[i].to));
        const int rc = try_open(changed.data, changed.len, 0, error);
        assert_int_equal(rc, CASES[i].message ? ROUTER_FORMAT : ROUTER_OK);
        if (CASES[i].message && !strstr(error, CASES[i].message))
            assert_string_equal(error, CASES[i].message);
    }
    buf_free(&changed);
}

static void test_hostile_data(void **state) {
    (void)state;
    char error[ROUTER_ERROR_BYTES];
    static const struct {
        const char *tensor, *message;
        uint32_t bits;
    } CASES[] = {
        {"deberta.embeddings.word_embeddings.weight_scale", "value 0 is 0, expected a finite number above 0",
         0},
        {"deberta.embeddings.word_embeddings.weight_scale", "value 0 is -1, expected a finite number above 0",
         0xbf800000u},
        {"deberta.encoder.layer.1.output.LayerNorm.bias", "value 0 is inf, expected a finite number",
         0x7f800000u},
        {"classifier.weight", "nan, expected a finite number", 0xffc00000u},
        {"deberta.encoder.layer.0.attention.self.position_key", "value 1 is not a finite number",
         0x7c000000u},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Buf blob = {0};
        size_t bytes;
        buf_put(&blob, tiny.data, tiny.len);
        char *data = tiny_tensor(&blob, &bytes, CASES[i].tensor);
        assert_non_null(data);
        memcpy(data, &CASES[i].bits, 4);
        assert_int_equal(try_open(blob.data, blob.len, 0, error), ROUTER_FORMAT);
        assert_non_null(strstr(error, "is damaged: its SHA-256 is not the stated one"));
        tiny_reseal(&blob, CASES[i].tensor);
        assert_int_equal(try_open(blob.data, blob.len, 0, error), ROUTER_FORMAT);
        assert_non_null(strstr(error, CASES[i].tensor));
        assert_non_null(strstr(error, CASES[i].message));
        buf_free(&blob);
    }
    /* Finite, but the answer is not: an error, not a crash and not a wrong answer. */
    Buf blob = {0};
    size_t bytes;
    buf_put(&blob, tiny.data, tiny.len);
    static const char NAME[] = "deberta.encoder.layer.0.intermediate.dense.weight_scale";
    float *scale = (float *)(void *)tiny_tensor(&blob, &bytes, NAME);
    for (size_t i = 0; i < bytes / 4; i++) {
        const float huge = 3e38f;
        memcpy(scale + i, &huge, 4);
    }
    tiny_reseal(&blob, NAME);
    Router *router = open_ok(&blob, NULL);
    RouterAnswer a;
    assert_int_equal(router_classify(router, "abc", 3, &a, NULL, error, sizeof error), ROUTER_NUMERIC);
    assert_non_null(strstr(error, "is not a finite number: the blob's weights overflow"));
    router_close(router);
    /* A tokenizer that is none, digests right. */
    memset(tiny_tensor(&blob, &bytes, "tokenizer.spm"), 0xff, 100);
    tiny_reseal(&blob, "tokenizer.spm");
    assert_int_equal(try_open(blob.data, blob.len, 0, error), ROUTER_FORMAT);
    assert_non_null(strstr(error, "blob: tensor tokenizer.spm: "));
    buf_free(&blob);
}

/* Not blobs at all, and packed ones that lie. */
static void test_hostile_files(void **state) {
    (void)state;
    char error[ROUTER_ERROR_BYTES];
    Buf packed = {0}, file = {0};
    assert_int_equal(try_open("", 0, 0, error), ROUTER_FORMAT);
    assert_string_equal(error, "blob: has 0 bytes, too few for a blob");
    assert_int_equal(try_open("\xff\xff\xff\xff\xff\xff\xff\xff????????", 16, 0, error), ROUTER_FORMAT);
    assert_string_equal(
        error, "blob: not a blob, or cut short: a header of 18446744073709551615 bytes in a file of 16");
    read_ok(&file, in_folder("model/model.safetensors"));
    assert_int_equal(try_open(file.data, file.len, 0, error), ROUTER_FORMAT);
    assert_non_null(strstr(error, "not a blob"));

    assert_int_equal(blob_pack(&packed, &tiny, NULL), ERR_OK);
    assert_int_equal(try_open(packed.data, packed.len, 0, error), ROUTER_OK);
    /* Refused, or (unused bits of zstd's header) the very same content. */
    for (size_t i = 0; i < packed.len; i += i < 64 ? 1 : 1 + (size_t)(rng_bits(seed, i) % 16)) {
        const char kept = packed.data[i];
        packed.data[i] = (char)(kept ^ (1 << (rng_bits(seed, i) % 8)));
        (void)try_open(packed.data, packed.len, 0, error);
        (void)try_open(packed.data, packed.len, 1, error);
        assert_int_equal(try_open(packed.data, i, 0, error), ROUTER_FORMAT);
        packed.data[i] = kept;
    }
    buf_puts(&packed, "x");
    assert_int_equal(try_open(packed.data, packed.len, 0, error), ROUTER_FORMAT);
    assert_string_equal(error, "blob: the zstd frame is damaged, cut short or followed by other bytes");

    const size_t bomb = (size_t)256 << 20;
    void *zeros = mem_alloc(bomb, 1);
    assert_non_null(zeros);
    buf_clear(&packed);
    assert_non_null(buf_reserve(&packed, ZSTD_compressBound(bomb)));
    packed.len = ZSTD_compress(packed.data, packed.cap, zeros, bomb, 1);
    mem_free(zeros);
    assert_false(ZSTD_isError(packed.len));
    assert_int_equal(try_open(packed.data, packed.len, 1, error), ROUTER_FORMAT);
    assert_non_null(strstr(error, "that claims to hold 268435456"));
    buf_free(&packed);
    buf_free(&file);
}

static void test_memory(void **state) {
    (void)state;
    char error[ROUTER_ERROR_BYTES];
    int rc = ROUTER_MEMORY;
    size_t n = 0;
    while (rc == ROUTER_MEMORY) {
        Router *router;
        RouterAnswer a;
        mem_fail_at(++n);
        rc = router_open_memory(&router, tiny.data, tiny.len, NULL, error, sizeof error);
        if (rc == ROUTER_OK) rc = router_classify(router, "abc the", 7, &a, NULL, error, sizeof error);
        mem_fail_at(0);
        if (rc == ROUTER_MEMORY) assert_non_null(strstr(error, "out of memory"));
        router_close(router);
    }
    assert_int_equal(rc, ROUTER_OK);
    assert_true(n > 10);
    Err err = {0};
    const ExporterOptions pack = {.pack = true};
    ErrCode code = ERR_MEMORY;
    for (n = 1; code == ERR_MEMORY; n += 1 + n / 16) { /* thousands: not each of them */
        ExporterReport report;
        mem_fail_at(n);
        code = exporter_run(&report, in_folder("memory"), in_folder("model"), &pack, NULL, &err);
        mem_fail_at(0);
    }
    if (code != ERR_OK) print_message("%s\n", err.msg);
    assert_int_equal(code, ERR_OK);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const BlobConfig config = tiny_config();
    if (tiny_blob(&tiny, &config, seed, NULL) != ERR_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_approx),       cmocka_unit_test(test_hexfloat),
        cmocka_unit_test(test_quant),        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_export),       cmocka_unit_test(test_run_folder),
        cmocka_unit_test(test_router),       cmocka_unit_test(test_router_questions),
        cmocka_unit_test(test_batches),      cmocka_unit_test(test_map),
        cmocka_unit_test(test_check),        cmocka_unit_test(test_peer),
        cmocka_unit_test(test_flips),        cmocka_unit_test(test_hostile_header),
        cmocka_unit_test(test_hostile_data), cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_memory),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    buf_free(&tiny);
    buf_free(&whole);
    return folder_close(failed);
}
