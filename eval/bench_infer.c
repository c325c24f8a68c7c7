/* Inference: a blob of weights by the formula, made in memory, opened and asked as librouter does; and the
 * float checkpoint beside it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu.h"
#include "core/mem.h"
#include "core/progress.h"
#include "eval/bench.h"
#include "export/blob.h"
#include "export/forward.h"
#include "export/quant.h"
#include "model/deberta.h"
#include "model/formula.h"

enum {
    LATENCY_SAMPLES = 400,
    LATENCY_LEAST = 3,
    LATENCY_TIMES = 4, /* percentiles need more samples than a median: so many times --seconds */
    CHUNK_ROWS = 512,
    BATCH_PROMPTS = 256,
    BATCH_GROUPS = 4, /* of each thread between looks at the clock */
    BATCH_TIMES = 12
};

static const int LENGTHS[] = {16, 32, 64, 128, 512};
enum { LENGTH_COUNT = 5 };

/* ---- the blob ---- */

/* Tensor i into `to`; an int8 tensor's scales, the tensor behind it, into `scale`. */
static ErrCode fill_tensor(const BlobSpec *spec, void *to, float *scale, real *chunk, const FormulaRule *rule,
                           Err *err) {
    ParamView p = {.kind = strstr(spec->name, "embeddings.weight") ? PARAM_EMBEDDING : PARAM_LINEAR};
    QuantError ignored = {0};
    const size_t cols = spec->rank > 1 ? (size_t)spec->shape[1] : 1;
    FormulaRule unit = *rule;
    if (spec->dtype == DTYPE_F16) unit.other = 0; /* position tables: projections of normalised rows */
    (void)snprintf(p.name, sizeof p.name, "%s", spec->name);
    for (size_t r = 0; r < (size_t)spec->shape[0]; r += CHUNK_ROWS) {
        const size_t left = (size_t)spec->shape[0] - r, rows = left < CHUNK_ROWS ? left : CHUNK_ROWS,
                     n = rows * cols, at = r * cols;
        formula_range(chunk, &p, at, n, &unit);
        if (spec->dtype == DTYPE_I8)
            TRY(quant_rows((int8_t *)to + at, scale + r, chunk, rows, cols, &ignored, err));
        else if (spec->dtype == DTYPE_F16)
            TRY(quant_f16((uint16_t *)to + at, chunk, n, &ignored, err));
        else
            memcpy((float *)to + at, chunk, n * sizeof *chunk);
    }
    return ERR_OK;
}

/* The same code counts (a zeroed arena) and fills. */
static ErrCode fill_tensors(const void **data, Arena *arena, const BlobConfig *config, real *chunk,
                            const FormulaRule *rule, Err *err) {
    static const char NO_TOKENIZER[4] = "none"; /* only its reader would mind */
    const size_t count = blob_count(config);
    for (size_t i = 0; i < count; i++) {
        BlobSpec spec;
        blob_spec(&spec, config, i);
        if (spec.shape[0] < 0) {
            data[i] = NO_TOKENIZER;
            continue;
        }
        const size_t n = (size_t)spec.shape[0] * (spec.rank > 1 ? (size_t)spec.shape[1] : 1);
        void *to = arena_push(arena, n, tensor_dtype_bytes(spec.dtype));
        float *scale =
            spec.dtype == DTYPE_I8 ? arena_push(arena, (size_t)spec.shape[0], sizeof *scale) : NULL;
        data[i] = to;
        if (scale) data[i + 1] = scale;
        if (arena->base) TRY(fill_tensor(&spec, to, scale, chunk, rule, err));
        if (spec.dtype == DTYPE_I8) i++;
    }
    return ERR_OK;
}

static BlobConfig blob_config(const Config *c) {
    return (BlobConfig){.vocab_size = c->vocab_size,
                        .hidden_size = c->hidden_size,
                        .num_hidden_layers = c->num_hidden_layers,
                        .num_attention_heads = c->num_attention_heads,
                        .intermediate_size = c->intermediate_size,
                        .position_buckets = c->position_buckets,
                        .max_relative_positions = c->max_relative_positions,
                        .num_labels = c->num_labels,
                        .max_tokens = c->max_position_embeddings,
                        .cls = 1,
                        .sep = 2,
                        .unk = 3,
                        .mask = c->vocab_size - 1,
                        .plain_text = true,
                        .layer_norm_eps = (float)c->layer_norm_eps,
                        .decide.temperature = 1};
}

static ErrCode make_blob(Buf *out, const Config *c, Err *err) {
    const BlobConfig config = blob_config(c);
    const FormulaRule rule = formula_rule(c, 1);
    const size_t wide =
        (size_t)(c->hidden_size > c->intermediate_size ? c->hidden_size : c->intermediate_size);
    const void **data;
    real *chunk = NULL;
    Arena arena = {0};
    TRY(mem_new(&data, blob_count(&config), sizeof *data, "the tensor table", err));
    ErrCode rc = mem_new(&chunk, CHUNK_ROWS * wide, sizeof *chunk, "weights", err);
    if (rc == ERR_OK) rc = fill_tensors(data, &arena, &config, chunk, &rule, err);
    const size_t bytes = arena.used;
    if (rc == ERR_OK) rc = arena_init(&arena, bytes, "the quantised weights", err);
    if (rc == ERR_OK) rc = fill_tensors(data, &arena, &config, chunk, &rule, err);
    if (rc == ERR_OK) rc = blob_write(out, &config, (const char *const *)c->labels, data, 4, NULL, 0, err);
    arena_free(&arena);
    mem_free(chunk);
    mem_free(data);
    return rc;
}

/* Bytes that an answer to a prompt of L tokens has to read at least: linear layers, and the rows of the
 * position tables that it reaches. The word embeddings' few rows do not count. */
static double bytes_read(const Config *c, int L) {
    const double H = c->hidden_size, F = c->intermediate_size;
    const int reach = 2 * L - 1 < 2 * c->position_buckets ? 2 * L - 1 : 2 * c->position_buckets;
    return c->num_hidden_layers * (4 * H * H + 2 * H * F + 4 * (5 * H + F) * 2 + 2 * 2 * reach * H);
}

/* Multiplications and additions of its linear layers; attention does not count. */
static double operations(const Config *c, int L) {
    const double H = c->hidden_size, F = c->intermediate_size;
    return 2 * c->num_hidden_layers * (4 * H * H + 2 * H * F) * L;
}

/* What int8 inference cannot be faster than, in seconds. */
typedef struct {
    double stream, compute; /* reading the weights; the products at the peak of the processor */
} Bound;

static Bound bound_of(const Bench *b, int L, bool all_threads) {
    const double peak = peaks_best(&b->peaks, PEAKS_INT8, all_threads),
                 read = peaks_best(&b->peaks, PEAKS_READ, all_threads);
    return (Bound){bytes_read(&b->config, L) / read, peak > 0 ? operations(&b->config, L) / peak : 0};
}

/* ---- asking ---- */

typedef struct {
    const Bench *b;
    Blob blob;
    Forward forward;
    ForwardSpace *spaces; /* one for each thread */
    int32_t *ids;         /* (BATCH_PROMPTS, 512) */
    ForwardText *texts;   /* (BATCH_PROMPTS) */
    float *logits;        /* (BATCH_PROMPTS, K) */
    ErrCode *failed;      /* of each thread */
    Err *why;
    Threads *sharing; /* that compute one prompt together, or NULL */
    int group;        /* prompts that a thread computes at a time */
} Infer;

static void ask(Infer *f, int first, int count, Threads *sharing, int thread) {
    if (f->failed[thread] != ERR_OK) return;
    f->failed[thread] = forward_run(&f->forward, &f->spaces[thread],
                                    f->logits + (size_t)first * (size_t)f->b->config.num_labels,
                                    f->texts + first, count, sharing, NULL, &f->why[thread]);
}

static void ask_one(void *context) {
    Infer *f = context;
    ask(f, 0, 1, f->sharing, 0);
}

static void ask_group(void *arg, size_t i, int thread) {
    Infer *f = arg;
    const int groups = BATCH_PROMPTS / f->group;
    ask(f, (int)(i % (size_t)groups) * f->group, f->group, NULL, thread);
}

static void set_length(Infer *f, int length) {
    for (int i = 0; i < BATCH_PROMPTS; i++) f->texts[i] = (ForwardText){f->ids + (size_t)i * 512, length};
}

static ErrCode first_failure(const Infer *f, Err *err) {
    for (int t = 0; t < threads_count(f->b->threads); t++)
        if (f->failed[t] != ERR_OK) return err_set(err, f->failed[t], "%s", f->why[t].msg);
    return ERR_OK;
}

/* ---- latency ---- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void latency_title(const Bench *b) {
    bench_print(b,
                "\nOne prompt after the other, milliseconds; beside reading the weights once, and their "
                "products, at the "
                "peaks;\ntimes the larger of the two\n"
                "  weights  threads  tokens       p50       p95       p99  samples      read  products\n");
}

/* bound may be NULL. */
static void latency(const Bench *b, cJSON *list, const char *precision, int threads, int tokens,
                    const Bound *bound, BenchWork *work, void *context) {
    double ms[LATENCY_SAMPLES];
    int n = 0;
    work(context);
    const double begin = progress_clock();
    while (n < LATENCY_SAMPLES &&
           (n < LATENCY_LEAST || progress_clock() - begin < LATENCY_TIMES * b->options->seconds)) {
        const double from = progress_clock();
        work(context);
        ms[n++] = 1e3 * (progress_clock() - from);
    }
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    const double p50 = ms[n / 2], p95 = ms[n * 95 / 100], p99 = ms[n * 99 / 100];
    cJSON *o = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(o, "precision", precision);
    (void)cJSON_AddNumberToObject(o, "threads", threads);
    (void)cJSON_AddNumberToObject(o, "tokens", tokens);
    bench_number(o, "p50_ms", p50);
    bench_number(o, "p95_ms", p95);
    bench_number(o, "p99_ms", p99);
    (void)cJSON_AddNumberToObject(o, "samples", n);
    bench_print(b, "  %-8s %7d %7d %9.2f %9.2f %9.2f %8d", precision, threads, tokens, p50, p95, p99, n);
    if (bound) {
        const double stream = 1e3 * bound->stream, compute = 1e3 * bound->compute;
        bench_number(o, "stream_ms", stream);
        bench_number(o, "compute_ms", compute);
        bench_number(o, "of_bound", p50 / fmax(stream, compute));
        bench_print(b, " %9.2f %9.2f %6.1f x", stream, compute, p50 / fmax(stream, compute));
    }
    bench_print(b, "\n");
    (void)cJSON_AddItemToArray(list, o);
}

static void latency_int8(Infer *f, cJSON *list, Threads *sharing) {
    const Bench *b = f->b;
    f->sharing = sharing;
    for (int i = 0; i < LENGTH_COUNT; i++) {
        if (LENGTHS[i] > b->config.max_position_embeddings) continue;
        set_length(f, LENGTHS[i]);
        const Bound bound = bound_of(b, LENGTHS[i], sharing != NULL);
        latency(b, list, "int8", threads_count(sharing), LENGTHS[i], &bound, ask_one, f);
    }
}

/* ---- throughput: every thread computes groups of its own, as librouter does with many texts ---- */

static ErrCode throughput(Infer *f, cJSON *list, Threads *threads, int length, Err *err) {
    const Bench *b = f->b;
    const int groups = BATCH_GROUPS * threads_count(threads);
    int done = 0;
    f->group = FORWARD_GROUP_TOKENS / length;
    set_length(f, length);
    const double begin = progress_clock();
    while (done < BATCH_PROMPTS && (!done || progress_clock() - begin < BATCH_TIMES * b->options->seconds)) {
        threads_run(threads, ask_group, f, (size_t)groups);
        done += groups * f->group;
    }
    const double rate = done / (progress_clock() - begin);
    cJSON *o = cJSON_CreateObject();
    (void)cJSON_AddNumberToObject(o, "threads", threads_count(threads));
    (void)cJSON_AddNumberToObject(o, "tokens", length);
    (void)cJSON_AddNumberToObject(o, "prompts", done);
    bench_number(o, "prompts_per_second", rate);
    bench_number(o, "tokens_per_second", rate * length);
    (void)cJSON_AddItemToArray(list, o);
    bench_print(b, "  %7d %7d %8d %12.1f %12.0f\n", threads_count(threads), length, done, rate,
                rate * length);
    return first_failure(f, err);
}

static ErrCode throughputs(Infer *f, cJSON *list, Err *err) {
    static const int BATCH_LENGTHS[] = {32, 64};
    Threads *all = f->b->threads;
    bench_print(f->b, "\nMany prompts\n  threads  tokens  prompts    prompts/s     tokens/s\n");
    for (int i = 0; i < 2; i++) {
        if (BATCH_LENGTHS[i] > f->b->config.max_position_embeddings) continue;
        TRY(throughput(f, list, NULL, BATCH_LENGTHS[i], err));
        if (threads_count(all) > 1) TRY(throughput(f, list, all, BATCH_LENGTHS[i], err));
    }
    return ERR_OK;
}

/* ---- opening ---- */

/* Twice: with digests checked, as a file from elsewhere is; and trusted. The second one stays open. */
static ErrCode load(Infer *f, const Buf *bytes, cJSON *json, Err *err) {
    const Bench *b = f->b;
    double ms[2];
    for (int trust = 0; trust < 2; trust++) {
        const double from = progress_clock();
        TRY(blob_open_memory(&f->blob, bytes->data, bytes->len, trust == 1, b->threads, err));
        TRY(forward_init(&f->forward, &f->blob, int8_pick(cpu_features()), b->threads, err));
        ms[trust] = 1e3 * (progress_clock() - from);
        if (trust) break;
        forward_free(&f->forward);
        f->forward = (Forward){0};
        blob_close(&f->blob);
        f->blob = (Blob){0};
    }
    cJSON *o = cJSON_AddObjectToObject(json, "load");
    bench_number(o, "bytes", (double)bytes->len);
    bench_number(o, "checked_ms", ms[0]);
    bench_number(o, "trusted_ms", ms[1]);
    (void)cJSON_AddStringToObject(o, "kernels", f->forward.kernels->name);
    bench_print(
        b, "\nInference, int8 (%s)\n  opening %.1f MB from memory: %.1f ms with digests, %.1f ms trusted\n",
        f->forward.kernels->name, 1e-6 * (double)bytes->len, ms[0], ms[1]);
    return ERR_OK;
}

static ErrCode infer_open(Infer *f, cJSON *json, Err *err) {
    const size_t T = (size_t)threads_count(f->b->threads), K = (size_t)f->b->config.num_labels;
    Buf bytes = {0};
    ErrCode rc = make_blob(&bytes, &f->b->config, err);
    if (rc == ERR_OK) rc = load(f, &bytes, json, err);
    buf_free(&bytes);
    if (rc != ERR_OK) return rc;
    TRY(mem_new(&f->spaces, T, sizeof *f->spaces, "inference", err));
    TRY(mem_new(&f->ids, (size_t)BATCH_PROMPTS * 512, sizeof *f->ids, "inference", err));
    TRY(mem_new(&f->texts, BATCH_PROMPTS, sizeof *f->texts, "inference", err));
    TRY(mem_new(&f->logits, BATCH_PROMPTS * K, sizeof *f->logits, "inference", err));
    TRY(mem_new(&f->failed, T, sizeof *f->failed, "inference", err));
    TRY(mem_new(&f->why, T, sizeof *f->why, "inference", err));
    bench_ids(f->ids, (size_t)BATCH_PROMPTS * 512, f->b->config.vocab_size, 13);
    return ERR_OK;
}

static void infer_close(Infer *f) {
    for (int t = 0; f->spaces && t < threads_count(f->b->threads); t++) forward_space_free(&f->spaces[t]);
    forward_free(&f->forward);
    blob_close(&f->blob);
    mem_free(f->spaces);
    mem_free(f->ids);
    mem_free(f->texts);
    mem_free(f->logits);
    mem_free(f->failed);
    mem_free(f->why);
}

/* ---- the float checkpoint ---- */

typedef struct {
    Deberta model;
    Packed packed;
    int32_t ids[512], start[2];
} Floats;

static void float_one(void *context) {
    Floats *f = context;
    deberta_forward(&f->model, &f->packed);
    (void)deberta_logits(&f->model); /* waits */
}

static ErrCode latency_floats(Bench *b, Floats *f, cJSON *list, Err *err) {
    const int most = b->config.max_position_embeddings < 512 ? b->config.max_position_embeddings : 512;
    const DebertaLimits limits = {.micro_tokens = most, .micro_sequences = 1, .longest = most};
    const FormulaRule rule = formula_rule(&b->config, 1);
    TRY(deberta_open(&f->model, &b->config, &b->ops, &limits, err));
    TRY(formula_weights(&f->model.host_weights, &b->config, &rule, err));
    deberta_weights_changed(&f->model);
    deberta_begin(&f->model, most, false, 0);
    bench_ids(f->ids, 512, b->config.vocab_size, 13);
    for (int i = 0; i < LENGTH_COUNT; i++) {
        if (LENGTHS[i] > most) continue;
        f->start[1] = LENGTHS[i];
        f->packed = (Packed){LENGTHS[i], 1, LENGTHS[i], f->ids, f->start, NULL};
        latency(b, list, b->ops.precision, threads_count(b->threads), LENGTHS[i], NULL, float_one, f);
    }
    return b->ops.sync(&b->ops, err);
}

ErrCode bench_int8(Bench *b, cJSON *infer, Err *err) {
    Infer f = {.b = b};
    cJSON *list = cJSON_GetObjectItemCaseSensitive(infer, "latency");
    ErrCode rc = infer_open(&f, infer, err);
    if (rc == ERR_OK) {
        latency_title(b);
        latency_int8(&f, list, NULL);
        if (threads_count(b->threads) > 1) latency_int8(&f, list, b->threads);
        rc = first_failure(&f, err);
    }
    if (rc == ERR_OK) rc = throughputs(&f, cJSON_AddArrayToObject(infer, "batch"), err);
    infer_close(&f);
    return rc;
}

ErrCode bench_checkpoint(Bench *b, cJSON *infer, Err *err) {
    Floats *floats;
    TRY(mem_new(&floats, 1, sizeof *floats, "inference", err));
    bench_print(b, "\nThe checkpoint");
    latency_title(b);
    const ErrCode rc = latency_floats(b, floats, cJSON_GetObjectItemCaseSensitive(infer, "latency"), err);
    deberta_close(&floats->model);
    mem_free(floats);
    return rc;
}
