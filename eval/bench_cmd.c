/* eval/bench_cmd.c - `router bench`: speed and memory, beside what this machine can do at most, measured in the same run. */
#include "eval/bench_cmd.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "eval/bench.h"
#include "model/config.h"
#include "model/ops_blas.h"
#include "model/ops_x86.h"

#define AT(field) offsetof(BenchOptions, field)

static const Flag FLAGS[] = {
    {"size", NULL, FLAG_CHOICE, AT(size), "small", 0, 0, "mini|xsmall|small|base|large",
     "#What\nPublished DeBERTa-v3 shape with weights by a formula; mini is configs/model-small.json's."},
    {"model", NULL, FLAG_STRING, AT(model), NULL, 0, 0, "FILE",
     "A config.json instead (its weights are not read)."},
    {"layers", NULL, FLAG_INT, AT(layers), "0", 0, 256, NULL, "Use only so many layers; 0: all."},
    {"only", NULL, FLAG_STRING, AT(only), "peaks,ops,train,infer", 0, 0, "SECTIONS",
     "Sections to measure. Peaks are measured in any case, for the rest is compared with them."},
    {"rows", NULL, FLAG_INT, AT(rows), "32", 1, 1024, NULL, "Prompts of one training step."},
    {"tokens", NULL, FLAG_STRING, AT(tokens), "64", 0, 0, "N|N-M",
     "Tokens of each of them, or a range that they are drawn from."},
    {"lengths", NULL, FLAG_STRING, AT(lengths), NULL, 0, 0, "N,N,...",
     "Their tokens one by one, instead of --rows and --tokens."},
    {"micro_batch_tokens", NULL, FLAG_INT, AT(micro_batch_tokens), "4096", 1, 1 << 20, NULL,
     "Tokens computed at once, as in `router train`."},
    {"steps", NULL, FLAG_INT, AT(steps), "3", 1, 1000, NULL,
     "#How\nTraining steps that are timed, after one that is not."},
    {"seconds", NULL, FLAG_FLOAT, AT(seconds), "0.3", 0.001, 60, NULL,
     "About how long each measurement is repeated; latencies four times that."},
    {"backend", NULL, FLAG_STRING, AT(backend), "auto", 0, 0, "NAME",
     "What computes, as in `router train`: cuda for a GPU."},
    {"gradient_checkpointing", NULL, FLAG_BOOL, AT(gradient_checkpointing), NULL, 0, 0, NULL,
     "Training as with this option of `router train`."},
    {"precision", NULL, FLAG_CHOICE, AT(precision), "auto", 0, 0, "auto|fp32|tf32|bf16",
     "Numbers that are multiplied in training, as in `router train`."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL, "Threads; 0 is one for each CPU."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "One JSON object instead of tables."},
    {"quiet", NULL, FLAG_BOOL, AT(quiet), NULL, 0, 0, NULL, "No progress."},
};

/* From the published config.json files; mini is ours. */
static const struct {
    const char *name;
    int hidden, layers, heads, feed_forward, vocabulary, buckets;
} SHAPES[] = {{"mini", 256, 4, 4, 1024, 16000, 64},
              {"xsmall", 384, 12, 6, 1536, 128100, 256},
              {"small", 768, 6, 12, 3072, 128100, 256},
              {"base", 768, 12, 12, 3072, 128100, 256},
              {"large", 1024, 24, 16, 4096, 128100, 256}};

static ErrCode shape_of(Config *c, const BenchOptions *o, Err *err) {
    static const char *const LABELS[] = {"math", "health", "science", "coding", "other"};
    *c = (Config){0};
    if (o->model) {
        TRY(config_read(c, o->model, err));
    } else {
        for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++)
            if (strcmp(SHAPES[i].name, o->size) == 0)
                *c = (Config){.vocab_size = SHAPES[i].vocabulary,
                              .hidden_size = SHAPES[i].hidden,
                              .num_hidden_layers = SHAPES[i].layers,
                              .num_attention_heads = SHAPES[i].heads,
                              .intermediate_size = SHAPES[i].feed_forward,
                              .max_position_embeddings = 512,
                              .position_buckets = SHAPES[i].buckets,
                              .max_relative_positions = 512,
                              .layer_norm_eps = 1e-7,
                              .initializer_range = 0.02,
                              .hidden_dropout_prob = 0.1,
                              .attention_probs_dropout_prob = 0.1,
                              .cls_dropout = 0.1};
    }
    if (o->layers && o->layers < c->num_hidden_layers) c->num_hidden_layers = (int)o->layers;
    return config_set_labels(c, LABELS, 5, err);
}

/* ---- sections ---- */

enum {
    SECTION_PEAKS = 1,
    SECTION_LINEAR = 2,
    SECTION_ATTENTION = 4,
    SECTION_STREAM = 8,
    SECTION_OPS = SECTION_LINEAR | SECTION_ATTENTION | SECTION_STREAM,
    SECTION_TRAIN = 16,
    SECTION_INT8 = 32,
    SECTION_CHECKPOINT = 64,
    SECTION_INFER = SECTION_INT8 | SECTION_CHECKPOINT
};

static const struct {
    const char *name;
    int sections;
} SECTIONS[] = {
    {"peaks", SECTION_PEAKS},         {"ops", SECTION_OPS},       {"linear", SECTION_LINEAR},
    {"attention", SECTION_ATTENTION}, {"stream", SECTION_STREAM}, {"train", SECTION_TRAIN},
    {"infer", SECTION_INFER},         {"int8", SECTION_INT8},     {"checkpoint", SECTION_CHECKPOINT}};
#define SECTION_NAMES "peaks, ops (linear, attention, stream), train, infer (int8, checkpoint)"

static ErrCode sections_of(int *out, const char *only, Err *err) {
    *out = 0;
    for (const char *at = only; *at;) {
        const size_t n = strcspn(at, ",");
        int found = 0;
        for (size_t i = 0; i < sizeof SECTIONS / sizeof *SECTIONS; i++)
            if (strlen(SECTIONS[i].name) == n && strncmp(at, SECTIONS[i].name, n) == 0)
                found = SECTIONS[i].sections;
        if (!found)
            return err_set(err, ERR_ARGUMENT, "--only: found '%.*s', expected some of " SECTION_NAMES, (int)n,
                           at);
        *out |= found;
        at += n + (at[n] == ',');
    }
    return *out ? ERR_OK : err_set(err, ERR_ARGUMENT, "--only: found nothing, expected " SECTION_NAMES);
}

/* ---- what it ran on ---- */

/* The processor's name from /proc/cpuinfo, or "unknown". */
static void cpu_name(char *out, size_t n) {
    char line[256];
    (void)snprintf(out, n, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *value = strstr(line, ": ");
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        (void)snprintf(out, n, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        break;
    }
    if (f) (void)fclose(f);
}

static void add_text(cJSON *object, const char *key, const char *text) {
    if (text)
        (void)cJSON_AddStringToObject(object, key, text);
    else
        (void)cJSON_AddNullToObject(object, key);
}

static void describe(const Bench *b) {
    const Config *c = &b->config;
    const char *size = b->options->model ? b->options->model : b->options->size;
    const char *coretype = getenv("OPENBLAS_CORETYPE"); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
    const char *kernels = b->ops.device ? b->ops.hardware : ops_blas_meter(&b->ops).kernels,
               *product = strcmp(b->ops.name, "x86") == 0 ? ops_x86_kernel(b->precision == PEAKS_BF16) : NULL;
    const int threads = threads_count(b->threads);
    char cpu[200];
    cpu_name(cpu, sizeof cpu);
    cJSON *machine = cJSON_AddObjectToObject(b->json, "machine");
    (void)cJSON_AddStringToObject(machine, "cpu", cpu);
    (void)cJSON_AddNumberToObject(machine, "threads", threads);
    (void)cJSON_AddStringToObject(machine, "kernels", kernels);
    add_text(machine, "precision", b->ops.precision);
    add_text(machine, "product", product);
    add_text(machine, "openblas_coretype", coretype);
    cJSON *model = cJSON_AddObjectToObject(b->json, "model");
    (void)cJSON_AddStringToObject(model, "size", size);
    (void)cJSON_AddNumberToObject(model, "hidden", c->hidden_size);
    (void)cJSON_AddNumberToObject(model, "layers", c->num_hidden_layers);
    (void)cJSON_AddNumberToObject(model, "heads", c->num_attention_heads);
    (void)cJSON_AddNumberToObject(model, "intermediate", c->intermediate_size);
    (void)cJSON_AddNumberToObject(model, "vocabulary", c->vocab_size);
    (void)cJSON_AddNumberToObject(model, "buckets", c->position_buckets);
    bench_print(b, "%s, %d thread%s, kernels %s, training in %s%s%s%s%s\n", cpu, threads,
                threads == 1 ? "" : "s", kernels, b->ops.precision, product ? " by " : "",
                product ? product : "", coretype ? ", OPENBLAS_CORETYPE=" : "", coretype ? coretype : "");
    bench_print(b, "%s: %d layers of %d, %d heads, feed-forward %d, vocabulary %d\n", size,
                c->num_hidden_layers, c->hidden_size, c->num_attention_heads, c->intermediate_size,
                c->vocab_size);
}

/* ---- peaks ---- */

static void report_rate(const PeaksRow *row, cJSON *list, const PeaksRate *rate, int threads) {
    static const char *const KINDS[] = {"fp32", "bf16", "int8", "read", "update"};
    cJSON *o = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(o, "key", row->key);
    (void)cJSON_AddStringToObject(o, "kind", KINDS[row->kind]);
    (void)cJSON_AddNumberToObject(o, "threads", threads);
    bench_number(o, "best", rate->best);
    bench_number(o, "median", rate->median);
    (void)cJSON_AddNumberToObject(o, "samples", rate->samples);
    (void)cJSON_AddNumberToObject(o, "slow_samples", rate->slow);
    bench_number(o, "slow_median", rate->slow_median);
    (void)cJSON_AddItemToArray(list, o);
}

static void report_peaks(const Bench *b) {
    cJSON *list = cJSON_AddArrayToObject(b->json, "peaks");
    const int threads = b->peaks.threads;
    bench_print(b,
                "\nPeaks, 10^9 operations or bytes a second: best, median\n  %-36s    1 thread          %4d "
                "threads\n",
                "", threads);
    for (int i = 0; i < b->peaks.count; i++) {
        const PeaksRow *r = &b->peaks.rows[i];
        report_rate(r, list, &r->one, 1);
        if (threads > 1) report_rate(r, list, &r->all, threads);
        bench_print(b, "  %-36s %8.1f %8.1f  %8.1f %8.1f", r->name, r->one.best * 1e-9, r->one.median * 1e-9,
                    r->all.best * 1e-9, r->all.median * 1e-9);
        if (r->one.slow + r->all.slow)
            bench_print(b, "   slow mode: %d of %d at %.1f, %d of %d at %.1f", r->one.slow, r->one.samples,
                        r->one.slow_median * 1e-9, r->all.slow, r->all.samples, r->all.slow_median * 1e-9);
        bench_print(b, "\n");
    }
}

/* ---- the command ---- */

static ErrCode measure(Bench *b, int sections, Err *err) {
    const BenchOptions *o = b->options;
    TRY(shape_of(&b->config, o, err));
    TRY(bench_lengths(b, err));
    TRY(threads_open(&b->threads, (int)o->threads, err));
    TRY(ops_open(&b->ops, o->backend, o->precision, b->threads, err));
    if (strcmp(b->ops.name, "ref") == 0 || strcmp(b->ops.name, "torch") == 0)
        return err_set(err, ERR_ARGUMENT, "--backend: %s is there to be compared with, not to be measured",
                       b->ops.name);
    b->precision = strcmp(b->ops.precision, "bf16") == 0 ? PEAKS_BF16 : PEAKS_FP32;
    describe(b);
    if (b->ops.device) {
        TRY(bench_device(b, err));
    } else {
        TRY(peaks_measure(&b->peaks, b->threads, o->seconds, err));
        if (sections & SECTION_PEAKS) report_peaks(b);
    }
    cJSON *ops = sections & SECTION_OPS ? cJSON_AddObjectToObject(b->json, "ops") : NULL;
    if (sections & SECTION_LINEAR) TRY(bench_linear(b, ops, err));
    if (sections & SECTION_ATTENTION) TRY(bench_attention(b, ops, err));
    if (sections & SECTION_STREAM) TRY(bench_stream(b, ops, err));
    if (sections & SECTION_TRAIN) TRY(bench_train(b, err));
    cJSON *infer = sections & SECTION_INFER ? cJSON_AddObjectToObject(b->json, "infer") : NULL;
    if (infer) (void)cJSON_AddArrayToObject(infer, "latency");
    if (sections & SECTION_INT8 && !b->ops.device)
        TRY(bench_int8(b, infer, err)); /* exported files run on processors */
    if (sections & SECTION_CHECKPOINT) TRY(bench_checkpoint(b, infer, err));
    return ERR_OK;
}

static ErrCode print_json(const cJSON *json, FILE *out, Err *err) {
    Buf text = {0};
    json_print(&text, json);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    (void)arguments;
    const BenchOptions *o = options;
    int sections;
    Bench b = {.options = o, .out = o->json ? NULL : out};
    progress_quiet(o->quiet);
    TRY(sections_of(&sections, o->only, err));
    b.json = cJSON_CreateObject();
    ErrCode rc = b.json ? measure(&b, sections, err) : err_set(err, ERR_MEMORY, "out of memory");
    if (rc == ERR_OK && o->json) rc = print_json(b.json, out, err);
    cJSON_Delete(b.json);
    if (b.ops.close) ops_close(&b.ops);
    threads_close(b.threads);
    config_free(&b.config);
    mem_free(b.lengths);
    return rc;
}

const Command bench_cmd = {
    .name = "bench",
    .summary = "measure training and inference against this machine's peaks",
    .usage = "bench [--size NAME | --model CONFIG] [--only SECTIONS] [options]",
    .details =
        "Sections: peaks (what the cores and the memory can do), ops (single operations: linear, attention, "
        "stream for what streams through memory), train (whole steps, by operation), infer (int8: latency "
        "and throughput of an exported file; checkpoint: latency of the model as it was trained). Weights "
        "come from a formula and prompts are random: nothing is downloaded. Run it on an otherwise idle "
        "machine.\n\n"
        "Examples:\n  router bench\n"
        "  router bench --size large --only train --rows 32 --tokens 16-128\n"
        "  router bench --size base --only infer --threads 1 --json\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(BenchOptions),
    .run = run,
};
