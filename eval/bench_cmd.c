/* eval/bench_cmd.c - speed and memory, as ratios to what this machine's own sgemm reaches in the same run. */
#include "eval/bench_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/threads.h"
#include "model/deberta.h"
#include "model/ops_blas.h"
#include "model/weights.h"
#include "train/adamw.h"

typedef struct {
    char *size, *model, *precision;
    int64_t rows, tokens, steps, threads, layers;
    bool json, quiet;
} BenchOptions;

#define AT(field) offsetof(BenchOptions, field)

static const Flag FLAGS[] = {
    {"size", NULL, FLAG_CHOICE, AT(size), "small", 0, 0, "mini|xsmall|small|base|large",
     "#What\nPublished DeBERTa-v3 shape with random weights; mini is configs/model-small.json's."},
    {"model", NULL, FLAG_STRING, AT(model), NULL, 0, 0, "FILE",
     "A config.json instead (its weights are not read)."},
    {"layers", NULL, FLAG_INT, AT(layers), "0", 0, 256, NULL, "Use only so many layers; 0: all."},
    {"rows", NULL, FLAG_INT, AT(rows), "32", 1, 1024, NULL, "Prompts of one training step."},
    {"tokens", NULL, FLAG_INT, AT(tokens), "64", 2, 512, NULL, "Tokens of one prompt."},
    {"steps", NULL, FLAG_INT, AT(steps), "3", 1, 1000, NULL,
     "Training steps that are timed, after one that is not."},
    {"precision", NULL, FLAG_CHOICE, AT(precision), "auto", 0, 0, "auto|fp32|bf16", "Of training."},
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

typedef struct {
    const BenchOptions *o;
    Threads *threads;
    Ops ops;
    Config config;
    Deberta model;
    Adamw adamw;
    int32_t *ids, *start;
    float *target;
} Bench;

/* Random prompts of equal length. */
static ErrCode make_batch(Bench *b, int rows, int tokens, Err *err) {
    const size_t N = (size_t)rows * (size_t)tokens, K = (size_t)b->config.num_labels;
    TRY(mem_new(&b->ids, N, sizeof *b->ids, "prompts", err));
    TRY(mem_new(&b->start, (size_t)rows + 1, sizeof *b->start, "prompts", err));
    TRY(mem_new(&b->target, (size_t)rows * K, sizeof *b->target, "labels", err));
    for (size_t i = 0; i < N; i++)
        b->ids[i] = (int32_t)(1 + rng_bits(11, i) % (uint64_t)(b->config.vocab_size - 1));
    for (int s = 0; s <= rows; s++) b->start[s] = s * tokens;
    for (int s = 0; s < rows; s++) b->target[(size_t)s * K + rng_bits(12, (uint64_t)s) % K] = 1;
    return ERR_OK;
}

static ErrCode train_step(Bench *b, int rows, int tokens, uint64_t step, Err *err) {
    const Packed packed = {rows * tokens, rows, tokens, b->ids, b->start, NULL};
    const AdamwRule rule = {1e-5, 0.9, 0.999, 1e-8, 0.01, 1, 1};
    double norm;
    deberta_begin(&b->model, tokens, true, step);
    deberta_forward(&b->model, &packed);
    (void)deberta_loss(&b->model, b->target, NULL, 1 / (float)rows);
    deberta_backward(&b->model);
    deberta_end(&b->model);
    return adamw_step(&b->adamw, &rule, &norm, err);
}

static double peak_megabytes(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss / 1024 : 0;
}

/* ---- GEMM: our tiles on our pool against one call with OpenBLAS's own threads ---- */

static double best_linear(Bench *b, char kind, int N, int O, int I, float *x, float *w, float *y,
                          float *bias) {
    double best = -1;
    const double begin = progress_clock();
    for (int i = 0; i < 3 || progress_clock() - begin < 0.3; i++) {
        const double from = progress_clock();
        if (kind == 'f')
            b->ops.linear(&b->ops, y, NULL, x, w, bias, N, O, I);
        else /* both gradients at once: twice the work of a forward pass */
            b->ops.linear_grad(&b->ops, x, 0, w, bias, y, x, w, NULL, N, O, I);
        const double seconds = progress_clock() - from;
        if (best < 0 || seconds < best) best = seconds;
    }
    return best;
}

static ErrCode bench_gemm(Bench *b, FILE *out, double *alone_rate, Err *err) {
    const int N = (int)(b->o->rows * b->o->tokens), H = b->config.hidden_size,
              F = b->config.intermediate_size;
    const int shapes[3][2] = {{H, H}, {F, H}, {H, F}};
    const size_t wide = (size_t)(H > F ? H : F);
    const int threads = threads_count(b->threads);
    float *x = NULL, *y = NULL, *w = NULL, *bias = NULL;
    double alone_seconds = 0, flops_all = 0;
    ErrCode rc = mem_new(&x, (size_t)N * wide, sizeof *x, "matrices", err);
    if (rc == ERR_OK) rc = mem_new(&y, (size_t)N * wide, sizeof *y, "matrices", err);
    if (rc == ERR_OK) rc = mem_new(&w, (size_t)H * wide, sizeof *w, "matrices", err);
    if (rc == ERR_OK) rc = mem_new(&bias, wide, sizeof *bias, "matrices", err);
    if (rc == ERR_OK && !b->o->json)
        (void)fprintf(
            out,
            "GEMM, %d threads: linear layers as the model runs them / cblas_sgemm alone, OpenBLAS threading, "
            "same shapes\n  tokens x out x in          forward GFLOP/s         gradients GFLOP/s\n",
            threads);
    for (int i = 0; rc == ERR_OK && i < 3; i++) {
        const int O = shapes[i][0], I = shapes[i][1];
        const ParamView view = {.data = w, .rows = O, .cols = I, .kind = PARAM_LINEAR};
        rc = b->ops.bind(&b->ops, &view, 1, true, err);
        if (rc != ERR_OK) break;
        const double flops = 2.0 * N * O * I;
        const double f = best_linear(b, 'f', N, O, I, x, w, y, bias),
                     g = best_linear(b, 'g', N, O, I, x, w, y, bias);
        const double fa = ops_blas_alone('f', N, O, I, threads, 0.3);
        const double ga =
            ops_blas_alone('x', N, I, O, threads, 0.3) + ops_blas_alone('w', O, I, N, threads, 0.3);
        alone_seconds += (fa + ga) * (i == 0 ? 4 : 1); /* four H x H layers to one each of the others */
        flops_all += 3 * flops * (i == 0 ? 4 : 1);
        if (b->o->json)
            (void)fprintf(
                out,
                "%s{\"tokens\": %d, \"out\": %d, \"in\": %d, \"forward_gflops\": %.1f, "
                "\"forward_alone_gflops\": %.1f, \"gradient_gflops\": %.1f, \"gradient_alone_gflops\": %.1f}",
                i ? ", " : "\"gemm\": [", N, O, I, flops / f * 1e-9, flops / fa * 1e-9, 2 * flops / g * 1e-9,
                2 * flops / ga * 1e-9);
        else
            (void)fprintf(out, "  %6d x %4d x %4d    %7.1f / %7.1f = %3.0f %%    %7.1f / %7.1f = %3.0f %%\n",
                          N, O, I, flops / f * 1e-9, flops / fa * 1e-9, 100 * fa / f, 2 * flops / g * 1e-9,
                          2 * flops / ga * 1e-9, 100 * ga / g);
    }
    if (b->o->json) (void)fprintf(out, "], ");
    *alone_rate = flops_all / alone_seconds;
    mem_free(x);
    mem_free(y);
    mem_free(w);
    mem_free(bias);
    return rc;
}

/* ---- training ---- */

static ErrCode bench_train(Bench *b, FILE *out, double alone_rate, Err *err) {
    const BenchOptions *o = b->o;
    const int rows = (int)o->rows, tokens = (int)o->tokens, N = rows * tokens;
    const DebertaLimits limits = {N, rows, tokens, N, true, false};
    TRY(deberta_open(&b->model, &b->config, &b->ops, &limits, err));
    weights_init(&b->model.weights, &b->config, 1);
    TRY(adamw_open(&b->adamw, &b->model, b->model.touched.capacity, err));
    Progress p;
    progress_begin(&p, "bench", (uint64_t)o->steps, 0);
    TRY(train_step(b, rows, tokens, 0, err));
    const OpsBlasMeter before = ops_blas_meter(&b->ops);
    const double from = progress_clock();
    for (int64_t s = 0; s < o->steps; s++) {
        TRY(train_step(b, rows, tokens, (uint64_t)s + 1, err));
        progress_update(&p, (uint64_t)s + 1, "training steps");
    }
    progress_end(&p);
    const double seconds = (progress_clock() - from) / (double)o->steps;
    const OpsBlasMeter after = ops_blas_meter(&b->ops);
    const double gemm = (after.seconds - before.seconds) / (double)o->steps / threads_count(b->threads);
    const double rate =
        (after.flops - before.flops) / (after.seconds - before.seconds) * threads_count(b->threads);
    if (o->json)
        (void)fprintf(out,
                      "\"train\": {\"rows\": %d, \"tokens\": %d, \"step_seconds\": %.6f, "
                      "\"tokens_per_second\": %.1f, \"gemm_share\": %.4f, \"gemm_gflops\": %.1f, "
                      "\"sgemm_alone_gflops\": %.1f, \"peak_megabytes\": %.0f}",
                      rows, tokens, seconds, N / seconds, gemm / seconds, rate * 1e-9, alone_rate * 1e-9,
                      peak_megabytes());
    else
        (void)fprintf(out,
                      "Training step, %d prompts x %d tokens (batch in memory, dropout on, AdamW):\n  %.3f "
                      "s, %.0f tokens/s; GEMM takes %.0f %% of it at %.1f GFLOP/s = %.0f %% of cblas_sgemm "
                      "alone (%.1f); peak memory %.0f MB; other kernels: %s\n",
                      rows, tokens, seconds, N / seconds, 100 * gemm / seconds, rate * 1e-9,
                      100 * rate / alone_rate, alone_rate * 1e-9, peak_megabytes(), after.kernels);
    adamw_close(&b->adamw);
    deberta_close(&b->model);
    return ERR_OK;
}

/* ---- inference in float ---- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static ErrCode bench_infer(Bench *b, FILE *out, Err *err) {
    static const int LENGTHS[] = {16, 32, 64, 128, 512};
    enum { SAMPLES = 200 };
    const DebertaLimits limits = {.micro_tokens = 512, .micro_sequences = 1, .longest = 512};
    TRY(deberta_open(&b->model, &b->config, &b->ops, &limits, err));
    weights_init(&b->model.weights, &b->config, 1);
    deberta_begin(&b->model, 512, false, 0);
    (void)fprintf(
        out, b->o->json
                 ? ", \"latency\": ["
                 : "One prompt, float32 checkpoint, milliseconds:\n  tokens      p50      p95      p99\n");
    for (int i = 0; i < 5; i++) {
        double ms[SAMPLES];
        int n = 0;
        const int32_t start[2] = {0, LENGTHS[i]};
        int32_t ids[512];
        for (int k = 0; k < LENGTHS[i]; k++)
            ids[k] = (int32_t)(1 + rng_bits(13, (uint64_t)k) % (uint64_t)(b->config.vocab_size - 1));
        const Packed packed = {LENGTHS[i], 1, LENGTHS[i], ids, start, NULL};
        deberta_forward(&b->model, &packed);
        const double begin = progress_clock();
        while (n < SAMPLES && (n < 10 || progress_clock() - begin < 3)) {
            const double from = progress_clock();
            deberta_forward(&b->model, &packed);
            ms[n++] = 1e3 * (progress_clock() - from);
        }
        qsort(ms, (size_t)n, sizeof *ms, by_value);
        const double p50 = ms[n / 2], p95 = ms[n * 95 / 100], p99 = ms[n * 99 / 100];
        if (b->o->json)
            (void)fprintf(out, "%s{\"tokens\": %d, \"p50_ms\": %.4f, \"p95_ms\": %.4f, \"p99_ms\": %.4f}",
                          i ? ", " : "", LENGTHS[i], p50, p95, p99);
        else
            (void)fprintf(out, "  %6d %8.2f %8.2f %8.2f\n", LENGTHS[i], p50, p95, p99);
    }
    if (b->o->json) (void)fprintf(out, "]");
    deberta_close(&b->model);
    return ERR_OK;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    (void)arguments;
    Bench b = {.o = options};
    progress_quiet(b.o->quiet);
    double alone_rate = 0;
    ErrCode rc = shape_of(&b.config, b.o, err);
    if (rc == ERR_OK) rc = threads_open(&b.threads, (int)b.o->threads, err);
    if (rc == ERR_OK) rc = ops_open(&b.ops, "auto", b.o->precision, b.threads, err);
    if (rc == ERR_OK) rc = make_batch(&b, (int)b.o->rows, (int)b.o->tokens, err);
    if (rc == ERR_OK) {
        const Config *c = &b.config;
        (void)fprintf(out,
                      b.o->json ? "{\"hidden\": %d, \"layers\": %d, \"threads\": %d, "
                                : "hidden %d, %d layers, %d threads\n",
                      c->hidden_size, c->num_hidden_layers, threads_count(b.threads));
        rc = bench_gemm(&b, out, &alone_rate, err);
    }
    if (rc == ERR_OK) rc = bench_train(&b, out, alone_rate, err);
    if (rc == ERR_OK) rc = bench_infer(&b, out, err);
    if (rc == ERR_OK && b.o->json) (void)fprintf(out, "}\n");
    adamw_close(&b.adamw);
    deberta_close(&b.model);
    if (b.ops.close) ops_close(&b.ops);
    threads_close(b.threads);
    config_free(&b.config);
    mem_free(b.ids);
    mem_free(b.start);
    mem_free(b.target);
    return rc;
}

const Command bench_cmd = {
    .name = "bench",
    .summary = "measure training and inference against this machine's own sgemm",
    .usage = "bench [--size NAME | --model CONFIG] [options]",
    .details =
        "Weights and prompts are random: nothing is downloaded. Run it on an otherwise idle machine.\n\n"
        "Example:\n  router bench --size large --layers 4 --rows 32 --tokens 64\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(BenchOptions),
    .run = run,
};
