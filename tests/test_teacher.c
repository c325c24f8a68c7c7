/* tests/test_teacher.c - `router train --teacher` and --freeze_layers, as a run meets them: what is kept, what is refused,
 * what does not change. tests/test_grad.c has their gradients, tests/test_backend.c the backends, tests/test_train.c
 * stopped runs. */
#include <fcntl.h>

#include "core/file.h"
#include "core/progress.h"
#include "model/classifier.h"
#include "model/safetensors.h"
#include "tests/tiny_spm.h"
#include "tests/unit.h"
#include "tokenizer/tokenizer.h"
#include "train/train_cmd.h"
#include "train/trainer.h"

static const char *const CONFIG = ROUTER_SOURCE_DIR "/configs/model-tiny.json";
static const char *const LABELS[] = {"coding", "maths", "other", "trips"};
static const char *const WORDS[] = {"the", "abc", "zz", "q"};
enum { ROWS = 160, LAYERS = 2, HIDDEN = 32, MOST_ARGUMENTS = 31 };

/* ---- running ---- */

static bool noting; /* the next run tells what it does */

/* `router train` on a file of the folder; options end with NULL. */
static ErrCode train(const char *out, const char *data, Err *err, const char *const *options) {
    const char *args[MOST_ARGUMENTS + 1] = {in_folder("%s", data),
                                            "--out",
                                            in_folder("%s", out),
                                            "--max_length=24",
                                            "--batch_size=8",
                                            "--dev_share=0.1",
                                            "--threads=1",
                                            "--logging_steps=1",
                                            "--dropout=0",
                                            "--overwrite",
                                            noting ? "--no-quiet" : "--quiet"};
    int n = 11;
    for (; *options; options++) {
        assert_true(n < MOST_ARGUMENTS);
        args[n++] = *options;
    }
    return run_command(&train_cmd, NULL, err, args);
}

static void refused(const char *data, const char *expected, const char *const *options) {
    Err err = {0};
    assert_int_equal(train("refused", data, &err, options), ERR_ARGUMENT);
    assert_string_equal(err.msg, expected);
}

#define BEGIN    "--model", in_folder("model.json"), "--tokenizer", in_folder("spm.model")
#define TEACHER  "--teacher", in_folder("teacher")
#define CONTINUE "--model", in_folder("teacher/model-best")

/* A trainer opened with options as above; flags_free takes them back. */
typedef struct {
    TrainOptions options;
    FlagList arguments;
    Trainer t;
} Opened;

static void open_run(Opened *o, const char *out, const char *const *options) {
    Err err = {0};
    const char *args[MOST_ARGUMENTS + 1] = {
        in_folder("truth.jsonl"), "--out",       in_folder("%s", out), "--max_length=24", "--threads=2",
        "--batch_size=8",         "--dropout=0", "--dev_share=0"};
    int n = 8;
    bool help = false;
    *o = (Opened){0};
    for (; *options; options++) args[n++] = *options;
    OK(flags_parse(&train_cmd, &o->options, &o->arguments, &help, n, (char **)(uintptr_t)args, &err));
    OK(trainer_open(&o->t, &o->options, &o->arguments, &err));
}

static void close_run(Opened *o) {
    trainer_close(&o->t);
    flags_free(&train_cmd, &o->options, &o->arguments);
}

/* ---- what a run leaves ---- */

/* Values of a key over metrics.jsonl; the number of them. */
static size_t series(double *out, size_t most, const char *run, const char *key) {
    Buf text = {0};
    char quoted[64];
    size_t n = 0;
    (void)snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    read_file(&text, in_folder("%s/metrics.jsonl", run));
    for (const char *p = text.data; (p = strstr(p, quoted)) != NULL && n < most; p++)
        out[n++] = strtod(p + strlen(quoted), NULL);
    buf_free(&text);
    return n;
}

/* Best labels of a model for the prompts of truth.jsonl, each made again from its label. */
static void answers(int out[ROWS], const char *model) {
    Err err = {0};
    Threads *threads;
    Tokenizer *tokenizer;
    Classifier c;
    OK(threads_open(&threads, 1, &err));
    OK(tokenizer_open(&tokenizer, in_folder("spm.model"), &err));
    OK(classifier_open(&c, in_folder("%s", model), "blas", 24, threads, &err));
    const int K = c.config.num_labels;
    for (int i = 0; i < ROWS; i++) {
        Buf ids = {0};
        char text[64];
        float logits[8];
        (void)snprintf(text, sizeof text, "%d %s %s", i, WORDS[i % 3], WORDS[i % 3]);
        OK(tokenizer_encode(tokenizer, &(TokenizerRule){.max_tokens = 24}, text, strlen(text), &ids, NULL,
                            &err));
        const int32_t *const sequence = (const int32_t *)(const void *)ids.data;
        const int length = (int)(ids.len / sizeof *sequence);
        OK(classifier_logits(&c, logits, &sequence, &length, 1, &err));
        out[i] = 0;
        for (int k = 1; k < K; k++) out[i] = logits[k] > logits[out[i]] ? k : out[i];
        buf_free(&ids);
    }
    classifier_close(&c);
    tokenizer_close(tokenizer);
    threads_close(threads);
}

static int agreement(const int *a, const int *b) {
    int same = 0;
    for (int i = 0; i < ROWS; i++) same += a[i] == b[i];
    return same;
}

/* ---- answers are kept ---- */

/* Rows whose labels are all wrong: without the teacher the model learns them, with it the old answers stay. */
static void test_keeps_answers(void **state) {
    (void)state;
    Err err = {0};
    int before[ROWS], held[ROWS], lost[ROWS], right = 0;
    answers(before, "teacher/model-best");
    for (int i = 0; i < ROWS; i++) right += before[i] == i % 3;
    if (right < ROWS * 9 / 10) fail_msg("the teacher knows %d of %d", right, ROWS);
    OK(train("held", "wrong.jsonl", &err,
             ARGS(CONTINUE, TEACHER, "--distill_weight=100", "--epochs=6", "--lr=2e-3")));
    OK(train("lost", "wrong.jsonl", &err,
             ARGS(CONTINUE, TEACHER, "--distill_weight=0", "--epochs=6", "--lr=2e-3")));
    answers(held, "held/model-last");
    answers(lost, "lost/model-last");
    if (agreement(before, held) < ROWS * 9 / 10 || agreement(before, lost) > ROWS / 10)
        fail_msg("of %d answers %d are kept with the teacher, %d without", ROWS, agreement(before, held),
                 agreement(before, lost));
    /* and what is reported says so: the loss holds the term, at its weight */
    double loss[200], kept[200], away[200];
    const size_t n = series(loss, 200, "held", "loss"), m = series(kept, 200, "held", "distill_loss");
    assert_true(n == m && n == series(away, 200, "lost", "distill_loss") && n > 50);
    assert_true(kept[0] < 1e-10 && away[0] < 1e-10); /* the same model; rounding of float logits, squared */
    for (size_t i = 0; i < n; i++) assert_true(loss[i] >= 100 * kept[i]);
    assert_true(kept[n - 1] < 0.2 * away[n - 1] && away[n - 1] > 1);
    assert_int_equal(series(kept, 200, "teacher", "distill_loss"), 0);
}

/* The weight 0 trains as no teacher does, to the bit; so does, but for rounding, the first step beside itself. */
static void test_no_term(void **state) {
    (void)state;
    Err err = {0};
    double loss[3], norm[3], next;
    bool end;
    for (int i = 0; i < 3; i++) {
        static const char *const WEIGHTS[] = {"--distill_weight=0", "--distill_weight=0",
                                              "--distill_weight=1"};
        Opened o;
        open_run(&o, "inside",
                 i ? ARGS(CONTINUE, TEACHER, WEIGHTS[i], "--micro_batch_tokens=40")
                   : ARGS(CONTINUE, "--micro_batch_tokens=40"));
        OK(trainer_step(&o.t, &loss[i], &norm[i], &end, &err));
        assert_true(!end && o.t.distill_loss < 1e-10);
        const size_t allocated = mem_count();
        for (int k = 0; k < 5; k++) OK(trainer_step(&o.t, &next, &next, &end, &err));
        assert_int_equal(mem_count(), allocated);
        close_run(&o);
    }
    assert_true(loss[0] == loss[1] && norm[0] == norm[1]);
    assert_near(loss[2], loss[0], 1e-6 * loss[0]); /* position tables of other sizes: float rounding */
    assert_near(norm[2], norm[0], 1e-4 * norm[0]);
}

/* The teacher reads the prompt's own tokens, where the student's are dropped. */
static void test_token_dropout(void **state) {
    (void)state;
    Err err = {0};
    Opened o;
    double loss, norm;
    bool end;
    open_run(&o, "inside", ARGS(CONTINUE, TEACHER, "--token_dropout=0.5"));
    OK(trainer_step(&o.t, &loss, &norm, &end, &err));
    assert_true(o.t.distill_loss > 1e-8 && loss > o.t.distill_loss);
    close_run(&o);
}

/* Fewer labels, another size, another name of one: told, and learnt from. */
static void test_fewer_labels(void **state) {
    (void)state;
    Err err = {0};
    Buf text = {0};
    (void)fflush(stderr);
    const int kept = dup(2), log = open(in_folder("notes"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(kept >= 0 && log >= 0 && dup2(log, 2) == 2);
    noting = true;
    const ErrCode rc = train("wider", "more.jsonl", &err,
                             ARGS("--model", in_folder("wide.json"), "--tokenizer", in_folder("spm.model"),
                                  TEACHER, "--max_steps=8", "--labels=coding,mathematics,other,trips"));
    noting = false;
    (void)fflush(stderr);
    (void)dup2(kept, 2);
    (void)close(kept);
    (void)close(log);
    OK(rc);
    read_file(&text, in_folder("notes"));
    if (!strstr(text.data, "\nteacher: label 1 is \"maths\" there and \"mathematics\" here\n") ||
        strstr(text.data, "teacher: label 0") ||
        !strstr(text.data, path_of("\nteacher: %s, 3 of 4 labels; ", in_folder("teacher/model-best"))))
        fail_msg("the notes are: %s", text.data);
    buf_free(&text);
    double kept_loss[20];
    assert_int_equal(series(kept_loss, 20, "wider", "distill_loss"), 8);
    for (int i = 0; i < 8; i++) assert_true(kept_loss[i] > 0 && kept_loss[i] < 100);
}

/* ---- what is refused ---- */

static void test_refusals(void **state) {
    (void)state;
    Err err = {0};
    char expected[1100];
    (void)snprintf(
        expected, sizeof expected,
        "--teacher: %s: found neither config.json (a model) nor model-best/config.json (a training "
        "run)",
        in_folder("nowhere"));
    refused("truth.jsonl", expected, ARGS(BEGIN, "--teacher", in_folder("nowhere")));
    OK(train("four", "more.jsonl", &err,
             ARGS(BEGIN, "--max_steps=1", "--labels=coding,mathematics,other,trips")));
    (void)snprintf(
        expected, sizeof expected,
        "--teacher: %s has 4 labels, but this run has 3: expected the first of the run's labels, in "
        "their order",
        in_folder("four/model-best"));
    refused("truth.jsonl", expected, ARGS(BEGIN, "--teacher", in_folder("four")));
    /* a teacher that the run would remove first */
    assert_int_equal(
        train("four", "more.jsonl", &err, ARGS(BEGIN, "--teacher", in_folder("four/model-last"))),
        ERR_ARGUMENT);
    (void)snprintf(expected, sizeof expected, "--teacher: %s is in the folder %s, which --overwrite empties",
                   in_folder("four/model-last"), in_folder("four"));
    assert_string_equal(err.msg, expected);
    assert_true(file_exists(in_folder("four/model-last/model.safetensors")));
    /* the same model beside another tokenizer */
    OK(file_mkdirs(in_folder("foreign"), &err));
    static const char *const FILES[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++)
        OK(file_copy(in_folder("foreign/%s", FILES[i]), in_folder("teacher/model-best/%s", FILES[i]), &err));
    Buf spm = {0}, piece = {0};
    tiny_piece(&piece, "zz", 2, -1, 1);
    tiny_spm(&spm, &(TinySpm){.pieces = &piece});
    buf_free(&piece);
    OK(file_save(in_folder("foreign/spm.model"), spm.data, spm.len, &err));
    buf_free(&spm);
    (void)snprintf(expected, sizeof expected, "--teacher: %s has another tokenizer (digest ",
                   in_folder("foreign"));
    assert_int_equal(train("refused", "truth.jsonl", &err, ARGS(BEGIN, "--teacher", in_folder("foreign"))),
                     ERR_ARGUMENT);
    assert_memory_equal(err.msg, expected, strlen(expected));
    /* an encoder: its classifier is not there */
    OK(file_copy(in_folder("foreign/spm.model"), in_folder("spm.model"), &err));
    Safetensors st;
    OK(safetensors_open(&st, in_folder("teacher/model-best/model.safetensors"), &err));
    SafetensorsItem items[64];
    size_t n = 0;
    assert_true(st.header.count <= 64);
    for (size_t i = 0; i < st.header.count; i++) {
        const SafetensorsEntry *e = &st.header.entries[i];
        if (strncmp(e->name, "classifier.", 11) == 0) continue;
        items[n] = (SafetensorsItem){e->name, {.rank = e->rank, .dtype = e->dtype}};
        memcpy(items[n].tensor.shape, e->shape, sizeof e->shape);
        items[n].tensor.data = malloc((size_t)(e->end - e->begin));
        OK(safetensors_read(&st, e, items[n++].tensor.data, &err));
    }
    OK(safetensors_save(in_folder("foreign/model.safetensors"), items, n, NULL, 0, &err));
    for (size_t i = 0; i < n; i++) free(items[i].tensor.data);
    safetensors_close(&st);
    (void)snprintf(expected, sizeof expected,
                   "--teacher: %s: the tensor classifier.weight is missing: it is not a trained classifier",
                   in_folder("foreign"));
    refused("truth.jsonl", expected, ARGS(BEGIN, "--teacher", in_folder("foreign")));
    /* prompts that are longer than it takes */
    Buf json = {0};
    read_file(&json, in_folder("teacher/model-best/config.json"));
    char *positions = strstr(json.data, "\"max_position_embeddings\":");
    assert_non_null(positions);
    for (positions += strlen("\"max_position_embeddings\":"); *positions == ' ' || *positions == '\t';)
        positions++;
    while (*positions >= '0' && *positions <= '9') *positions++ = ' ';
    positions[-1] = '3';
    OK(file_save(in_folder("foreign/config.json"), json.data, json.len, &err));
    buf_free(&json);
    assert_int_equal(train("refused", "truth.jsonl", &err, ARGS(BEGIN, "--teacher", in_folder("foreign"))),
                     ERR_ARGUMENT);
    (void)snprintf(expected, sizeof expected,
                   "--teacher: %s: max_position_embeddings is 3, but the data has prompts of ",
                   in_folder("foreign"));
    assert_memory_equal(err.msg, expected, strlen(expected));
    /* numbers out of their range */
    refused("truth.jsonl", "freeze_layers: found 3, but the model's num_hidden_layers is 2",
            ARGS(BEGIN, "--freeze_layers=3"));
    refused("truth.jsonl",
            "new_token_rate: no label of the model is newer than another (router_taxonomy): 'router "
            "add-domain' makes "
            "such a model",
            ARGS(BEGIN, "--new_token_rate=5"));
    assert_int_equal(train("refused", "truth.jsonl", &err, ARGS(BEGIN, "--distill_temperature=0")),
                     ERR_ARGUMENT);
    assert_int_equal(train("refused", "truth.jsonl", &err, ARGS(BEGIN, "--distill_weight=101")),
                     ERR_ARGUMENT);
    assert_int_equal(train("refused", "truth.jsonl", &err, ARGS(BEGIN, "--freeze_layers=-2")), ERR_ARGUMENT);
}

/* Finite weights whose product is not: the run stops before a weight changes, and says whose answer it was. */
static void test_not_finite(void **state) {
    (void)state;
    Err err = {0};
    Opened o;
    double loss, norm;
    bool end;
    open_run(&o, "inside", ARGS(CONTINUE, TEACHER));
    Deberta *d = &o.t.teacher.model;
    for (int i = 0; i < HIDDEN; i++) d->host_weights.head_w[i] = d->host_weights.pool_b[i] = 3e38f;
    deberta_weights_changed(d);
    assert_int_equal(trainer_step(&o.t, &loss, &norm, &end, &err), ERR_NUMERIC);
    char expected[600];
    (void)snprintf(expected, sizeof expected,
                   "step 1, no weight was changed: --teacher: %s: logit 0 of a prompt is ",
                   in_folder("teacher/model-best"));
    assert_memory_equal(err.msg, expected, strlen(expected));
    assert_int_equal(o.t.state.step, 0);
    close_run(&o);
}

static ErrCode open_teacher(const Tokenizer *tokenizer, const Deberta *student, Err *err) {
    Teacher t;
    TRY(teacher_open(&t, in_folder("teacher"), tokenizer, err));
    const ErrCode rc = teacher_load(&t, student, err);
    teacher_close(&t);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    Err err = {0};
    Opened o;
    open_run(&o, "inside", ARGS(CONTINUE));
    EACH_ALLOCATION_FAILS(2000, open_teacher(o.t.tokenizer, &o.t.model, &err));
    close_run(&o);
}

/* ---- frozen layers ---- */

static bool frozen(const char *name, int layers) {
    static const char LAYER[] = "deberta.encoder.layer.";
    if (layers < 0 || strncmp(name, "deberta.", 8) != 0) return false;
    return strncmp(name, LAYER, sizeof LAYER - 1) != 0 || name[sizeof LAYER - 1] - '0' < layers;
}

/* Each tensor of two files is the same bytes, or not, as `layers` says; those of the optimiser are of the others. */
static void compare_models(const char *run, int layers) {
    Err err = {0};
    Safetensors st[3];
    OK(safetensors_open(&st[0], in_folder("teacher/model-best/model.safetensors"), &err));
    OK(safetensors_open(&st[1], in_folder("%s/model-last/model.safetensors", run), &err));
    OK(safetensors_open(&st[2], in_folder("%s/model-last/optimizer.safetensors", run), &err));
    int same = 0;
    for (size_t i = 0; i < st[0].header.count; i++) {
        const SafetensorsEntry *a = &st[0].header.entries[i], *b = safetensors_find(&st[1].header, a->name);
        const size_t bytes = (size_t)(a->end - a->begin);
        assert_true(b && b->end - b->begin == bytes);
        char *x = malloc(bytes), *y = malloc(bytes);
        OK(safetensors_read(&st[0], a, x, &err));
        OK(safetensors_read(&st[1], b, y, &err));
        const bool expected = frozen(a->name, layers), word = strstr(a->name, "word_embeddings") != NULL;
        if ((memcmp(x, y, bytes) == 0) != expected)
            fail_msg("%d layers frozen: %s %s", layers, a->name, expected ? "has changed" : "is as it was");
        same += expected;
        free(x);
        free(y);
        if ((safetensors_find(&st[2].header, path_of("m.%s", a->name)) != NULL) != (!expected && !word) ||
            (safetensors_find(&st[2].header, path_of("v.%s", a->name)) != NULL) != (!expected && !word))
            fail_msg("%d layers frozen: moments of %s", layers, a->name);
    }
    assert_int_equal(same, layers < 0 ? 0 : 6 + 16 * layers);
    for (int i = 0; i < 3; i++) safetensors_close(&st[i]);
}

static void test_frozen(void **state) {
    (void)state;
    Err err = {0};
    for (int layers = -1; layers <= LAYERS; layers++) {
        const char *run = path_of("frozen%d", layers), *option = path_of("--freeze_layers=%d", layers);
        OK(train(run, "truth.jsonl", &err,
                 ARGS(CONTINUE, option, "--max_steps=6", "--lr=1e-3", "--weight_decay=0.5",
                      layers % 2 ? "--dropout=0.1" : "--gradient_checkpointing", "--layer_rate_decay=0.9")));
        compare_models(run, layers);
    }
}

/* ---- data ---- */

static void write_prompts(const char *name, int labels, int shift) {
    Buf text = {0};
    for (int i = 0; i < ROWS; i++) {
        const int label = i % labels;
        const char *word = WORDS[label], *named = LABELS[(label + shift) % labels];
        if (labels == 4 && label == 1) named = "mathematics";
        buf_printf(&text, "{\"text\": \"%d %s %s\", \"label\": \"%s\"}\n", i, word, word, named);
    }
    (void)save(name, text.data);
    buf_free(&text);
}

static int prepare(void **state) {
    (void)state;
    Err err = {0};
    Buf text = {0};
    write_prompts("truth.jsonl", 3, 0);
    write_prompts("wrong.jsonl", 3, 1);
    write_prompts("more.jsonl", 4, 0);
    tiny_spm(&text, &(TinySpm){0});
    (void)save_bytes("spm.model", text.data, text.len);
    read_file(&text, CONFIG);
    char *range = strstr(text.data, "\"initializer_range\": 0.02"),
         *size = strstr(text.data, "\"hidden_size\": 32");
    if (!range || !size) return 1;
    memcpy(range, "\"initializer_range\": 0.2 ", 25); /* so that a model so small learns at once */
    (void)save("model.json", text.data);
    memcpy(size, "\"hidden_size\": 48", 17);
    (void)save("wide.json", text.data);
    buf_free(&text);
    OK(train("teacher", "truth.jsonl", &err,
             ARGS(BEGIN, "--epochs=12", "--lr=5e-3", "--seed", path_of("%d", draw(1000)))));
    return 0;
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/dev/shm") && !folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeps_answers), cmocka_unit_test(test_no_term),
        cmocka_unit_test(test_token_dropout), cmocka_unit_test(test_fewer_labels),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_memory),        cmocka_unit_test(test_frozen),
    };
    return folder_close(cmocka_run_group_tests_name("teacher", tests, prepare, NULL));
}
