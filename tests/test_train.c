/* tests/test_train.c - `router train` as its users meet it: same bits twice, interrupted, killed, on a full disk,
 * with weights that are not finite, with options that differ. The program itself is run, on a tiny model and a few
 * hundred prompts; what it leaves behind is compared byte by byte. */
#include "core/file.h"
#include "core/flags.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "model/ops_x86.h"
#include "model/safetensors.h"
#include "tests/program.h"
#include "tests/tiny_spm.h"
#include "tests/unit.h"
#include "train/train_cmd.h"
#include "train/trainer.h"

static char spm[96], begin_at[96],
    tutor[96]; /* in the folder: the tokenizer, a model to fine-tune, a teacher */
static const char *const CONFIG = ROUTER_SOURCE_DIR "/configs/model-tiny.json";

/* ---- running ---- */

/* `router train` on the prompts with these options, NULL at the end. */
static Run start(const char *out, const char *const *options) {
    const char *args[64] = {ROUTER_PROGRAM, "train", in_folder("prompts.jsonl"), "--out", out, "--quiet"};
    int n = 6;
    for (; options && *options; options++) args[n++] = *options;
    return spawn(args);
}

#define WITH(...) ((const char *const[]){__VA_ARGS__, NULL})
#define COMMON                                                                                            \
    "--max_length", "24", "--batch_size", "8", "--epochs", "3", "--eval_steps", "5", "--save_steps", "2", \
        "--logging_steps", "1", "--dev_share", "0.2", "--weight_decay", "0.2", "--lr", "1e-2"
#define SCRATCH COMMON, "--model", CONFIG, "--tokenizer", spm
#define TUNED   COMMON, "--model", begin_at

/* ---- comparing ---- */

static void assert_same_folder(const char *a, const char *b) {
    Err err = {0};
    char **names[2];
    size_t count[2];
    OK(file_list(&names[0], &count[0], a, &err));
    OK(file_list(&names[1], &count[1], b, &err));
    assert_int_equal(count[0], count[1]);
    assert_true(count[0] >= 7);
    for (size_t i = 0; i < count[0]; i++) {
        assert_string_equal(names[0][i], names[1][i]);
        char *x = file_join(a, names[0][i]), *y = file_join(b, names[0][i]);
        assert_same_file(x, y);
        mem_free(x);
        mem_free(y);
    }
    file_list_free(names[0], count[0]);
    file_list_free(names[1], count[1]);
}

/* All that two equal runs leave, and nothing that they should have tidied up. */
static void assert_same_run(const char *a, const char *b) {
    Err err = {0};
    assert_same_folder(in_folder("%s/model-last", a), in_folder("%s/model-last", b));
    assert_same_folder(in_folder("%s/model-best", a), in_folder("%s/model-best", b));
    assert_same_file(in_folder("%s/metrics.jsonl", a), in_folder("%s/metrics.jsonl", b));
    assert_same_file(in_folder("%s/data.shard", a), in_folder("%s/data.shard", b));
    char **names;
    size_t count;
    OK(file_list(&names, &count, in_folder("%s", b), &err));
    for (size_t i = 0; i < count; i++)
        if (strstr(names[i], ".tmp") || strstr(names[i], ".old"))
            fail_msg("%s/%s was left behind", b, names[i]);
    file_list_free(names, count);
}

static int64_t state_step(const char *run) {
    cJSON *root;
    Err err = {0};
    int64_t step = -1;
    /* A run that is going on replaces the folder: between two renames there is none, for a moment. */
    ErrCode rc = ERR_IO;
    for (int tries = 0; tries < 2000 && rc == ERR_IO; tries++) {
        rc = json_read(&root, in_folder("%s/model-last/trainer_state.json", run), &err);
        if (rc == ERR_IO) wait_seconds(0.001);
    }
    OK(rc);
    OK(json_get_int(&step, root, "global_step", 0, 1 << 20, &err));
    cJSON_Delete(root);
    return step;
}

/* Values of a key over metrics.jsonl; the number of them. */
static size_t series(double *out, size_t most, const char *run, const char *key) {
    Buf text = {0};
    Err err = {0};
    char quoted[64];
    size_t n = 0;
    (void)snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    OK(file_read(&text, in_folder("%s/metrics.jsonl", run), 1 << 20, &err));
    for (const char *p = text.data; (p = strstr(p, quoted)) != NULL && n < most; p++)
        out[n++] = strtod(p + strlen(quoted), NULL);
    buf_free(&text);
    return n;
}

/* ---- the same bits ---- */

static double base_seconds; /* how long an undisturbed run takes */

static void test_twice(void **state) {
    (void)state;
    Run run = start(in_folder("base"), WITH(SCRATCH, "--threads", "1"));
    expect(0, run);
    base_seconds = progress_clock() - run.started;
    assert_true(state_step("base") >= 45);
    expect(0, start(in_folder("again"), WITH(SCRATCH, "--threads", "1")));
    assert_same_run("base", "again");
    expect(0, start(in_folder("threads"), WITH(SCRATCH, "--threads", "2")));
    assert_same_run("base", "threads");
    expect(0, start(in_folder("seed"), WITH(SCRATCH, "--seed", "43")));
    Buf x = {0}, y = {0};
    Err err = {0};
    OK(file_read(&x, in_folder("base/model-last/model.safetensors"), 1 << 26, &err));
    OK(file_read(&y, in_folder("seed/model-last/model.safetensors"), 1 << 26, &err));
    assert_true(x.len != y.len || memcmp(x.data, y.data, x.len) != 0);
    buf_free(&x);
    buf_free(&y);
    /* resuming what is finished changes nothing */
    expect(0, start(in_folder("again"), WITH(SCRATCH, "--resume")));
    assert_same_run("base", "again");
}

static void test_learns(void **state) {
    (void)state;
    expect(0, start(in_folder("learns"), WITH(SCRATCH, "--epochs", "20", "--lr", "5e-3", "--save_steps",
                                              "1000", "--eval_steps", "50")));
    double loss[800], accuracy[50];
    const size_t n = series(loss, 800, "learns", "loss"), m = series(accuracy, 50, "learns", "dev_accuracy");
    assert_true((int64_t)n == state_step("learns") && m >= 4);
    double first = 0, last = 0;
    for (int i = 0; i < 5; i++) {
        first += loss[i] / 5;
        last += loss[n - 1 - (size_t)i] / 5;
    }
    /* Half of the prompts are of one label; a model so small may stop for long where it tells only that one from
     * the other two, at an accuracy of 3/4 and a loss of log(2)/2. */
    if (!(fabs(loss[0] - log(3)) < 0.1 && last < 0.5 * first && accuracy[m - 1] > 0.66))
        fail_msg("loss %g, then %g, at last %g; dev accuracy %g", loss[0], first, last, accuracy[m - 1]);
}

/* A run that gets SIGINT as soon as something is saved, and stops before its end. On a machine that is busy it may
 * end first: then once more. */
static void interrupt(const char *name, const char *const *options) {
    int status = 0;
    for (int tries = 0; tries < 10 && status == 0; tries++) {
        assert_int_equal(file_remove_dir(in_folder("%s", name), NULL), ERR_OK);
        const Run run = start(in_folder("%s", name), options);
        while (!file_exists(in_folder("%s/model-last/trainer_state.json", name))) {
            if (progress_clock() - run.started > 60) fail_msg("nothing is saved: %s", messages());
            wait_seconds(0.001);
        }
        (void)kill(run.pid, SIGINT);
        status = finish(run.pid);
    }
    if (status != 130) fail_msg("exit status %d, expected 130: %s", status, messages());
}

/* Interrupted, and again in the middle of the continuation. */
static void interrupt_and_resume(const char *name, const char *const *options, const char *const *resume,
                                 const char *base) {
    interrupt(name, options);
    const int64_t step = state_step(name);
    char expected[512];
    (void)snprintf(expected, sizeof expected,
                   "router: interrupted after step %lld of %lld, saved in %s; continue with --resume\n",
                   (long long)step, (long long)state_step(base), in_folder("%s/model-last", name));
    assert_string_equal(messages(), expected);
    assert_true(step >= 2 && step < state_step(base));
    const Run run = start(in_folder("%s", name), resume);
    while (state_step(name) == step && progress_clock() - run.started < 60) wait_seconds(0.001);
    (void)kill(run.pid, SIGTERM);
    const int status = finish(run.pid);
    if (status != 130 && status != 0) fail_msg("exit status %d, expected 130: %s", status, messages());
    assert_true(state_step(name) > step);
    expect(0, start(in_folder("%s", name), resume));
    assert_same_run(base, name);
}

static void test_interrupt(void **state) {
    (void)state;
    interrupt_and_resume("interrupted", WITH(SCRATCH), WITH(SCRATCH, "--resume", "--threads", "2"), "base");
}

/* kill -9 at random moments until a run gets through; with a save every other step many fall into saves. */
static void kill_until_done(const char *name, const char *const *options, const char *base) {
    int kills = 0, status = -1;
    while (status != 0) {
        const Run run = start(in_folder("%s", name), options);
        if (kills < 25) {
            wait_seconds(base_seconds * draw(1000) /
                         (kills < 4 ? 2400 : 1200)); /* the first ones surely in time */
            (void)kill(run.pid, SIGKILL);
        }
        status = finish(run.pid);
        if (status == -SIGKILL)
            kills++;
        else if (status != 0)
            fail_msg("after %d kills: exit status %d, %s", kills, status, messages());
    }
    if (kills == 0) print_message("%s: never killed in time\n", name);
    assert_same_run(base, name);
}

static void test_kill(void **state) {
    (void)state;
    kill_until_done("killed", WITH(SCRATCH, "--resume"), "base");
    kill_until_done("killed2", WITH(SCRATCH, "--resume"), "base");
}

/* From a folder with weights: rows of tokens that never occur only decay, and must continue from the bits that
 * they began with. */
static void test_tuned(void **state) {
    (void)state;
    Err err = {0};
    OK(file_mkdirs(in_folder("start"), &err));
    static const char *const FILES[] = {"config.json", "model.safetensors", "spm.model",
                                        "tokenizer_config.json"};
    for (int i = 0; i < 4; i++)
        OK(file_copy(in_folder("start/%s", FILES[i]), in_folder("base/model-best/%s", FILES[i]), &err));
    expect(0, start(in_folder("tuned"), WITH(TUNED)));
    assert_true(file_exists(in_folder("tuned/base_embeddings.safetensors")));
    interrupt_and_resume("tuned-interrupted", WITH(TUNED), WITH(TUNED, "--resume"), "tuned");
    kill_until_done("tuned-killed", WITH(TUNED, "--resume"), "tuned");
    /* row 100, a byte piece that no prompt has, is as at the start but for the decay; those of words and digits are not */
    Safetensors st;
    float *rows[2];
    static const char *const NAMES[] = {"start/model.safetensors", "tuned/model-last/model.safetensors"};
    size_t n = 0;
    for (int i = 0; i < 2; i++) {
        OK(safetensors_open(&st, in_folder("%s", NAMES[i]), &err));
        const SafetensorsEntry *e = safetensors_find(&st.header, "deberta.embeddings.word_embeddings.weight");
        assert_non_null(e);
        n = (size_t)(e->end - e->begin) / sizeof(float);
        rows[i] = malloc(n * sizeof(float));
        OK(safetensors_read_f32(&st, e, rows[i], &err));
        safetensors_close(&st);
    }
    const double factor = (double)rows[1][100 * 32] / (double)rows[0][100 * 32];
    assert_true(factor < 1 - 1e-4 && factor > 0.9);
    for (size_t k = 100 * 32; k < 101 * 32; k++)
        assert_true(fabs((double)rows[1][k] - factor * (double)rows[0][k]) <=
                    3e-7 * fabs((double)rows[0][k]));
    size_t moved =
        0; /* numbers of learnt pieces: all would be as the decay says if training had not touched them */
    for (size_t k = 260 * 32; k < n; k++)
        moved += fabs((double)rows[1][k] - factor * (double)rows[0][k]) > 1e-4;
    if (moved < 100) fail_msg("%zu of %zu numbers moved", moved, n - 260 * 32);
    free(rows[0]);
    free(rows[1]);
}

static void scale_tensor(const char *path, const char *name, float factor) {
    Err err = {0};
    Safetensors st;
    SafetensorsItem items[64];
    OK(safetensors_open(&st, path, &err));
    for (size_t i = 0; i < st.header.count; i++) {
        const SafetensorsEntry *e = &st.header.entries[i];
        items[i] = (SafetensorsItem){e->name, {.rank = e->rank, .dtype = e->dtype}};
        memcpy(items[i].tensor.shape, e->shape, sizeof e->shape);
        items[i].tensor.data = malloc((size_t)(e->end - e->begin));
        OK(safetensors_read(&st, e, items[i].tensor.data, &err));
        float *x = items[i].tensor.data;
        for (size_t k = 0; strcmp(e->name, name) == 0 && k < (size_t)(e->end - e->begin) / sizeof *x; k++)
            x[k] *= factor;
    }
    OK(safetensors_save(path, items, st.header.count, NULL, 0, &err));
    for (size_t i = 0; i < st.header.count; i++) free(items[i].tensor.data);
    safetensors_close(&st);
}

/* With a teacher and a frozen part: stopped and resumed to the same bits, unless the teacher is another by then. */
static void test_teacher(void **state) {
    (void)state;
    Err err = {0};
    OK(file_mkdirs(in_folder("tutor"), &err));
    static const char *const FILES[] = {"config.json", "model.safetensors", "spm.model"};
    for (int i = 0; i < 3; i++)
        OK(file_copy(in_folder("tutor/%s", FILES[i]), in_folder("base/model-best/%s", FILES[i]), &err));
#define TAUGHT TUNED, "--teacher", tutor, "--freeze_layers", "1", "--distill_weight", "3"
    expect(0, start(in_folder("taught"), WITH(TAUGHT, "--threads", "1")));
    double kept[200];
    const size_t n = series(kept, 200, "taught", "distill_loss");
    assert_true((int64_t)n == state_step("taught") && kept[n - 1] > 0);
    interrupt_and_resume("taught-interrupted", WITH(TAUGHT), WITH(TAUGHT, "--resume", "--threads", "2"),
                         "taught");
    interrupt("taught-other", WITH(TAUGHT));
    scale_tensor(in_folder("tutor/model.safetensors"), "classifier.bias", 1.5f);
    expect(2, start(in_folder("taught-other"), WITH(TAUGHT, "--resume")));
    char expected[700];
    (void)snprintf(expected, sizeof expected,
                   "router: --teacher: %s is not the model that the run in %s began with (digest ",
                   in_folder("tutor"), in_folder("taught-other"));
    assert_memory_equal(messages(), expected, strlen(expected));
    OK(file_copy(in_folder("tutor/model.safetensors"), in_folder("base/model-best/model.safetensors"), &err));
    expect(0, start(in_folder("taught-other"), WITH(TAUGHT, "--resume")));
    assert_same_run("taught", "taught-other");
    (void)snprintf(expected, sizeof expected,
                   "router: --resume: teacher was \"%s\" when the run began, now it is null\n",
                   in_folder("tutor"));
    expect(2, start(in_folder("taught"),
                    WITH(TUNED, "--freeze_layers", "1", "--distill_weight", "3", "--resume")));
    assert_string_equal(messages(), expected);
#undef TAUGHT
}

/* ---- a full disk ---- */

static void test_full_disk(void **state) {
    (void)state;
    interrupt("full", WITH(SCRATCH));
    Err err = {0};
    OK(file_mkdirs(in_folder("kept"), &err));
    char **names;
    size_t count;
    OK(file_list(&names, &count, in_folder("full/model-last"), &err));
    for (size_t i = 0; i < count; i++)
        OK(file_copy(in_folder("kept/%s", names[i]), in_folder("full/model-last/%s", names[i]), &err));
    file_list_free(names, count);
    file_limit = 100000; /* enough for all but the model's and the optimiser's file */
    const Run run = start(in_folder("full"), WITH(SCRATCH, "--resume"));
    file_limit = RLIM_INFINITY;
    expect(1, run);
    const char *text = messages();
    if (!strstr(text, "router: saving ") || !strstr(text, ".safetensors: cannot write: File too large"))
        fail_msg("the message is: %s", text);
    assert_same_folder(in_folder("kept"), in_folder("full/model-last"));
    expect(0, start(in_folder("full"), WITH(SCRATCH, "--resume")));
    assert_same_run("base", "full");
}

/* ---- numbers that are not finite ---- */

static void test_not_finite(void **state) {
    (void)state;
    Err err = {0};
    OK(file_mkdirs(in_folder("bad"), &err));
    static const char *const FILES[] = {"config.json", "model.safetensors", "spm.model"};
    for (int i = 0; i < 3; i++)
        OK(file_copy(in_folder("bad/%s", FILES[i]), in_folder("base/model-best/%s", FILES[i]), &err));
    /* each weight is finite, but the logits are not: two factors of 1e36 */
    scale_tensor(in_folder("bad/model.safetensors"), "classifier.weight", 1e36f);
    scale_tensor(in_folder("bad/model.safetensors"), "pooler.dense.weight", 1e36f);
    expect(1, start(in_folder("nan"), WITH(COMMON, "--model", in_folder("bad"))));
    const char *text = messages();
    const char *const begin = "router: step 1: the loss is ",
                      *const middle = "; no weight was changed. Rows of the batch: ",
                      *const end = " and 3 more. A lower learning rate or more warm-up is the usual cure\n";
    const char *rows = strstr(text, middle);
    if (strncmp(text, begin, strlen(begin)) != 0 || !rows || strlen(text) < strlen(end) ||
        strcmp(text + strlen(text) - strlen(end), end) != 0)
        fail_msg("the message is: %s", text);
    const char *file = in_folder("prompts.jsonl:");
    assert_true(strncmp(rows + strlen(middle), file, strlen(file)) == 0);
    const long line = strtol(rows + strlen(middle) + strlen(file), NULL, 10);
    assert_in_range(line, 1, 300);
    assert_int_equal(state_step("nan"), 0);
    /* the last good state is the start's: it loads, and the same happens again */
    expect(1, start(in_folder("nan"), WITH(COMMON, "--model", in_folder("bad"), "--resume")));
    assert_true(strncmp(messages(), begin, strlen(begin)) == 0);
}

/* ---- options ---- */

static void expect_refusal(int status, const char *message, Run run) {
    expect(status, run);
    assert_string_equal(messages(), message);
}

/* A run goes on in the precision that "auto" was, or says why it cannot. */
static void test_precision(void **state) {
    (void)state;
    char expected[700];
    expect(0, start(in_folder("fp32"), WITH(SCRATCH, "--max_steps", "2", "--precision", "fp32")));
    expect_refusal(2, "router: precision: found bf16, but backend blas computes in fp32\n",
                   start(in_folder("refused"), WITH(SCRATCH, "--backend", "blas", "--precision", "bf16")));
    expect_refusal(2, "router: precision: found 'bf17', expected one of auto|fp32|tf32|bf16\n",
                   start(in_folder("refused"), WITH(SCRATCH, "--precision", "bf17")));
    if (!ops_x86_kernel(true)) {
        expect(1, start(in_folder("refused"), WITH(SCRATCH, "--precision", "bf16")));
        assert_true(strncmp(messages(), "router: bf16 needs a processor with ", 36) == 0);
        return;
    }
    expect(0, start(in_folder("bf16"), WITH(SCRATCH, "--max_steps", "2", "--backend", "x86")));
    const char *given = getenv("ROUTER_KERNELS"); /* NOLINT(concurrency-mt-unsafe): one thread */
    setenv("ROUTER_KERNELS", "avx2", 1);          /* NOLINT(concurrency-mt-unsafe) */
    (void)snprintf(
        expected, sizeof expected,
        "router: the run in %s began on backend x86 in bf16: continue it where it began, or begin anew with "
        "--overwrite: bf16 needs a processor with AVX512-BF16 or AMX, and this one lacks both; --precision "
        "fp32 runs "
        "everywhere\n",
        in_folder("bf16"));
    expect_refusal(
        1, expected,
        start(in_folder("bf16"), WITH(SCRATCH, "--max_steps", "2", "--backend", "x86", "--resume")));
    if (given)
        setenv("ROUTER_KERNELS", given, 1); /* NOLINT(concurrency-mt-unsafe) */
    else
        unsetenv("ROUTER_KERNELS"); /* NOLINT(concurrency-mt-unsafe) */
}

static void test_options(void **state) {
    (void)state;
    char expected[700];
    expect_refusal(2, "router: --resume: learning_rate was 0.01 when the run began, now it is 0.001\n",
                   start(in_folder("base"), WITH(SCRATCH, "--resume", "--lr", "1e-3")));
    expect_refusal(2, "router: --resume: seed was 42 when the run began, now it is 7\n",
                   start(in_folder("base"), WITH(SCRATCH, "--resume", "--seed", "7")));
    (void)snprintf(
        expected, sizeof expected,
        "router: %s holds a run already: continue it with --resume, or begin anew with --overwrite\n",
        in_folder("base"));
    expect_refusal(2, expected, start(in_folder("base"), WITH(SCRATCH)));
    expect_refusal(
        2,
        "router: class_weights: found 'sports=2', expected 'balanced' or LABEL=WEIGHT with a label of the "
        "data\n",
        start(in_folder("refused"), WITH(SCRATCH, "--class_weights", "sports=2")));
    expect_refusal(2, "router: max_length: found 200, but the model's max_position_embeddings is 128\n",
                   start(in_folder("refused"), WITH(SCRATCH, "--max_length", "200", "--overwrite")));
    expect_refusal(2, "router: backend: found 'cudo', expected one of auto, blas, cuda, ref, torch, x86\n",
                   start(in_folder("refused"), WITH(SCRATCH, "--backend", "cudo", "--overwrite")));
    /* other data than the run began with */
    Err err = {0};
    Buf text = {0};
    OK(file_read(&text, in_folder("prompts.jsonl"), 1 << 20, &err));
    const size_t n = text.len;
    buf_puts(&text, "{\"text\": \"one more\", \"label\": \"maths\"}\n");
    OK(file_save(in_folder("prompts.jsonl"), text.data, text.len, &err));
    expect(2, start(in_folder("seed"), WITH(SCRATCH, "--seed", "43", "--resume")));
    (void)snprintf(expected, sizeof expected, "router: %s was trained on other data (content digest ",
                   in_folder("seed"));
    assert_true(strncmp(messages(), expected, strlen(expected)) == 0);
    OK(file_save(in_folder("prompts.jsonl"), text.data, n, &err));
    buf_free(&text);
    /* anew: the same as the first time */
    expect(0, start(in_folder("again"), WITH(SCRATCH, "--overwrite")));
    assert_same_run("base", "again");
}

/* ref trains the same model but for rounding, which shows only slowly. */
static void test_variants(void **state) {
    (void)state;
    static const char *const VARIANTS[][2] = {{"--class_weights", "balanced"},
                                              {"--class_weights", "maths=3"},
                                              {"--label_smoothing", "0.2"},
                                              {"--lr_scheduler_type", "cosine"},
                                              {"--token_dropout", "0.3"},
                                              {"--layer_rate_decay", "0.7"},
                                              {"--dropout", "0"},
                                              {"--metric_for_best_model", "loss"},
                                              {"--micro_batch_tokens", "30"},
                                              {"--backend", "ref"},
                                              {"--max_grad_norm", "0"},
                                              {"--metric_for_best_model", "macro_f1"}};
    double base[200], found[200];
    const size_t n = series(base, 200, "base", "loss");
    for (size_t i = 0; i < sizeof VARIANTS / sizeof VARIANTS[0]; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "variant%zu", i);
        expect(0, start(in_folder("%s", name), WITH(SCRATCH, VARIANTS[i][0], VARIANTS[i][1])));
        assert_int_equal(series(found, 200, name, "loss"), n);
        const bool exact = i == 7 || i == 11, close = i == 8 || i == 9;
        bool same = true;
        for (size_t k = 0; k < n; k++) {
            assert_true(isfinite(found[k]));
            same = same && found[k] == base[k];
            if (close && k < 5 && !(fabs(found[k] - base[k]) <= 1e-4 * base[k]))
                fail_msg("%s: loss %zu is %.9g, expected %.9g", VARIANTS[i][0], k, found[k], base[k]);
        }
        if (same != exact && !close) fail_msg("%s %s: same is %d", VARIANTS[i][0], VARIANTS[i][1], same);
        if (i == 2)
            assert_true(found[n - 1] > 0.4); /* a smoothed target cannot be met: its entropy remains */
        assert_int_equal(file_remove_dir(in_folder("%s", name), NULL), ERR_OK);
    }
}

/* model-best has the highest macro F1 of all evaluations, where that chooses; each is of so many dev rows as are asked for. */
static void test_macro_f1(void **state) {
    (void)state;
    double f1[50], rows[50], best = 0;
    expect(0, start(in_folder("macro"), WITH(SCRATCH, "--epochs", "6", "--eval_steps", "10", "--eval_rows",
                                             "7", "--metric_for_best_model", "macro_f1")));
    const size_t n = series(f1, 50, "macro", "dev_macro_f1");
    assert_true(n >= 3);
    assert_int_equal(series(rows, 50, "macro", "dev_rows"), n);
    for (size_t k = 0; k < n; k++) {
        assert_true(f1[k] >= 0 && f1[k] <= 1);
        best = fmax(best, f1[k]);
        assert_int_equal((int)rows[k], 7);
    }
    cJSON *root;
    Err err = {0};
    OK(json_read(&root, in_folder("macro/model-last/trainer_state.json"), &err));
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(root, "best_metric");
    assert_non_null(text);
    const double kept = cJSON_IsString(text) ? strtod(text->valuestring, NULL) : text->valuedouble;
    assert_near(kept, best, 1e-6); /* metrics.jsonl has nine digits */
    cJSON_Delete(root);
}

/* With a rate of 0 no evaluation is better than the first. */
static void test_early_stopping(void **state) {
    (void)state;
    expect(0, start(in_folder("early"), WITH(SCRATCH, "--lr", "0", "--early_stopping_patience", "2")));
    assert_int_equal(state_step("early"), 15);
    double accuracy[50];
    assert_int_equal(series(accuracy, 50, "early", "dev_accuracy"), 3);
    expect(0, start(in_folder("early"),
                    WITH(SCRATCH, "--lr", "0", "--early_stopping_patience", "2", "--resume")));
    assert_int_equal(state_step("early"), 15);
}

/* ---- inside the process ---- */

static void test_allocates_nothing(void **state) {
    (void)state;
    Err err = {0};
    TrainOptions options = {0};
    FlagList arguments = {0};
    bool help = false;
    char *argv[] = {(char *)(uintptr_t)in_folder("prompts.jsonl"),
                    (char[]){"--model"},
                    (char *)(uintptr_t)CONFIG,
                    (char[]){"--tokenizer"},
                    spm,
                    (char[]){"--out"},
                    (char *)(uintptr_t)in_folder("inside"),
                    (char[]){"--threads=2"},
                    (char[]){"--batch_size=8"},
                    (char[]){"--max_length=24"},
                    (char[]){"--token_dropout=0.1"},
                    (char[]){"--micro_batch_tokens=64"}};
    OK(flags_parse(&train_cmd, &options, &arguments, &help, (int)(sizeof argv / sizeof argv[0]), argv, &err));
    Trainer t;
    OK(trainer_open(&t, &options, &arguments, &err));
    double loss, norm;
    bool end = false;
    size_t before = 0;
    for (int i = 0; i < 12; i++) {
        OK(trainer_step(&t, &loss, &norm, &end, &err));
        assert_true(!end && isfinite(loss) && norm > 0);
        if (i == 0) before = mem_count(); /* the first may read a block of the shard */
    }
    assert_int_equal(mem_count(), before);
    trainer_close(&t);
    flags_free(&train_cmd, &options, &arguments);
}

/* ---- data ---- */

/* Labels that single words tell apart, among words that tell nothing. */
static void write_prompts(void) {
    static const char *const LABELS[] = {"coding", "maths", "other"};
    static const char *const WORDS[3][3] = {
        {"the", "e", "the the"}, {"abc", "abcabc", "abc abc"}, {"zz", "q", "zq"}};
    static const char *const NOISE[] = {"a", "x1", "b", "2", "c"};
    Buf text = {0};
    Err err = {0};
    for (int i = 0; i < 300; i++) {
        const int label = draw(10) < 5 ? 0 : 1 + draw(2); /* uneven, so that balancing differs */
        buf_printf(&text, "{\"text\": \"%d", i);
        for (int k = 0, n = 2 + draw(4); k < n; k++)
            buf_printf(&text, " %s", k % 2 ? NOISE[draw(5)] : WORDS[label][draw(3)]);
        buf_printf(&text, "\", \"label\": \"%s\"}\n", LABELS[label]);
    }
    OK(file_save(in_folder("prompts.jsonl"), text.data, text.len, &err));
    buf_clear(&text);
    tiny_spm(&text, &(TinySpm){0});
    OK(file_save(in_folder("spm.model"), text.data, text.len, &err));
    buf_free(&text);
}

static int prepare(void **state) {
    (void)state;
    (void)snprintf(spm, sizeof spm, "%s/spm.model", folder);
    (void)snprintf(begin_at, sizeof begin_at, "%s/start", folder);
    (void)snprintf(tutor, sizeof tutor, "%s/tutor", folder);
    write_prompts();
    return 0;
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/dev/shm") && !folder_open("/tmp")) return 1; /* memory: saves are many */
    const struct CMUnitTest tests[] = {
        /* in this order: the later ones need what the first leaves */
        cmocka_unit_test(test_twice),          cmocka_unit_test(test_learns),
        cmocka_unit_test(test_interrupt),      cmocka_unit_test(test_kill),
        cmocka_unit_test(test_tuned),          cmocka_unit_test(test_teacher),
        cmocka_unit_test(test_full_disk),      cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_precision),      cmocka_unit_test(test_options),
        cmocka_unit_test(test_variants),       cmocka_unit_test(test_macro_f1),
        cmocka_unit_test(test_early_stopping), cmocka_unit_test(test_allocates_nothing),
    };
    return folder_close(cmocka_run_group_tests_name("train", tests, prepare, NULL));
}
