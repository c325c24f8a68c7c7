/* Whole training steps: forward, loss, backward, AdamW, as train/trainer.c makes them, with prompts in memory. */
#include <string.h>

#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "eval/bench.h"
#include "model/deberta.h"
#include "model/formula.h"
#include "model/ops_meter.h"
#include "train/adamw.h"

enum { STEPS_MOST = 1000 };

typedef struct {
    const Bench *b;
    OpsMeter meter;
    Ops ops; /* the bench's, metered */
    Deberta model;
    Adamw adamw;
    int32_t *ids, *start /* (S + 1) */, *micro_start, *seq;
    float *target;
    int longest, micros;
} Train;

static ErrCode make_batch(Train *t, Err *err) {
    const Bench *b = t->b;
    const size_t N = (size_t)b->tokens, S = (size_t)b->rows, K = (size_t)b->config.num_labels;
    TRY(mem_new(&t->ids, N, sizeof *t->ids, "prompts", err));
    TRY(mem_new(&t->start, S + 1, sizeof *t->start, "prompts", err));
    TRY(mem_new(&t->micro_start, S + 1, sizeof *t->micro_start, "prompts", err));
    TRY(mem_new(&t->seq, S, sizeof *t->seq, "prompts", err));
    TRY(mem_new(&t->target, S * K, sizeof *t->target, "labels", err));
    bench_ids(t->ids, N, b->config.vocab_size, 11);
    for (size_t s = 0; s < S; s++) {
        t->start[s + 1] = t->start[s] + b->lengths[s];
        t->target[s * K + rng_bits(12, s) % K] = 1;
    }
    t->longest = b->lengths[S - 1];
    return ERR_OK;
}

/* Rows from `from` on that fit into a micro-batch, as data/batch.c cuts them; returns the row behind. */
static int cut(const Train *t, Packed *out, int from) {
    const int S = t->b->rows, most = t->model.limits.micro_tokens;
    int to = from + 1;
    while (to < S && t->start[to + 1] - t->start[from] <= most) to++;
    for (int s = from; s <= to; s++) t->micro_start[s - from] = t->start[s] - t->start[from];
    for (int s = from; s < to; s++) t->seq[s - from] = s;
    *out = (Packed){.N = t->start[to] - t->start[from],
                    .S = to - from,
                    .longest = t->b->lengths[to - 1],
                    .ids = t->ids + t->start[from],
                    .start = t->micro_start,
                    .seq = t->seq};
    return to;
}

static ErrCode train_step(Train *t, uint64_t step, Err *err) {
    const AdamwRule rule = {1e-5, 0.9, 0.999, 1e-8, 0.01, 1, 1};
    const size_t K = (size_t)t->b->config.num_labels;
    double norm;
    t->micros = 0;
    deberta_begin(&t->model, t->longest, true, step);
    for (int from = 0, next; from < t->b->rows; from = next, t->micros++) {
        Packed micro;
        next = cut(t, &micro, from);
        deberta_forward(&t->model, &micro);
        deberta_loss(&t->model, t->target + (size_t)from * K, NULL, 1 / (float)t->b->rows);
        deberta_backward(&t->model);
    }
    deberta_end(&t->model);
    return adamw_step(&t->adamw, &rule, &norm, err);
}

static ErrCode train_open(Train *t, Err *err) {
    const Bench *b = t->b;
    const FormulaRule rule = formula_rule(&b->config, 1);
    TRY(make_batch(t, err));
    ops_meter_fill(&t->ops, &t->meter, (Ops *)&b->ops);
    int micro = (int)b->options->micro_batch_tokens;
    if (micro > b->tokens) micro = b->tokens;
    if (micro < t->longest) micro = t->longest;
    const DebertaLimits limits = {.micro_tokens = micro,
                                  .micro_sequences = b->rows,
                                  .longest = t->longest,
                                  .step_tokens = b->tokens,
                                  .train = true,
                                  .recompute = b->options->gradient_checkpointing};
    TRY(deberta_open(&t->model, &b->config, &t->ops, &limits, err));
    TRY(formula_weights(&t->model.host_weights, &b->config, &rule, err));
    deberta_weights_changed(&t->model);
    return adamw_open(&t->adamw, &t->model, t->model.touched.capacity, err);
}

static void train_close(Train *t) {
    adamw_close(&t->adamw);
    deberta_close(&t->model);
    mem_free(t->ids);
    mem_free(t->start);
    mem_free(t->micro_start);
    mem_free(t->seq);
    mem_free(t->target);
}

/* Shares of the time by operation, largest first; what is left over is the code between them. */
static void report_shares(const Bench *b, const OpsMeter *meter, cJSON *list, double seconds, int64_t steps) {
    bool done[OPS_METER_COUNT] = {false};
    double left = seconds;
    bench_print(b, "  operation          ms/step   share     calls   GFLOP/s\n");
    for (int n = 0; n < OPS_METER_COUNT; n++) {
        int most = -1;
        for (int i = 0; i < OPS_METER_COUNT; i++)
            if (!done[i] && (most < 0 || meter->sum[i].seconds > meter->sum[most].seconds)) most = i;
        done[most] = true;
        const OpsMeterSum *sum = &meter->sum[most];
        if (!sum->calls) continue;
        const double each = sum->seconds / (double)steps,
                     rate = sum->seconds > 0 ? sum->flops / sum->seconds : 0;
        left -= each;
        cJSON *o = cJSON_CreateObject();
        (void)cJSON_AddStringToObject(o, "op", ops_meter_name((OpsMeterEntry)most));
        bench_number(o, "seconds", each);
        bench_number(o, "calls", (double)sum->calls / (double)steps);
        bench_number(o, "share", each / seconds);
        bench_number(o, "operations_per_second", rate);
        (void)cJSON_AddItemToArray(list, o);
        if (each / seconds < 0.0005) continue;
        bench_print(b, "  %-16s %9.2f  %5.1f %%  %8.0f", ops_meter_name((OpsMeterEntry)most), 1e3 * each,
                    100 * each / seconds, (double)sum->calls / (double)steps);
        bench_print(b, rate > 0 ? "  %8.1f\n" : "\n", rate * 1e-9);
    }
    cJSON *o = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(o, "op", "between");
    bench_number(o, "seconds", left);
    bench_number(o, "share", left / seconds);
    (void)cJSON_AddItemToArray(list, o);
    bench_print(b, "  %-16s %9.2f  %5.1f %%\n", "between them", 1e3 * left, 100 * left / seconds);
}

/* A device's memory is what was asked of it. */
static double memory_of(const Train *t) {
    return t->b->ops.device
               ? (double)(deberta_bytes(&t->model) + adamw_bytes(&t->adamw) + t->b->ops.kept_bytes)
               : bench_memory_peak();
}

static void report(const Train *t, cJSON *json, double *took, int64_t steps) {
    const Bench *b = t->b;
    cJSON *list = cJSON_AddArrayToObject(json, "steps");
    double flops = 0, sum = 0;
    for (int i = 0; i < OPS_METER_COUNT; i++) flops += t->meter.sum[i].flops / (double)steps;
    for (int64_t i = 0; i < steps; i++) {
        char text[32];
        sum += took[i];
        (void)snprintf(text, sizeof text, "%.6g", took[i]);
        (void)cJSON_AddItemToArray(list, cJSON_CreateRaw(text));
    }
    const double median = bench_median(took, (int)steps), peak = bench_peak(b);
    const char *precision = b->ops.precision;
    (void)cJSON_AddStringToObject(json, "precision", precision);
    (void)cJSON_AddNumberToObject(json, "rows", b->rows);
    (void)cJSON_AddNumberToObject(json, "tokens", b->tokens);
    bench_number(json, "mean_length", (double)b->tokens / b->rows);
    (void)cJSON_AddNumberToObject(json, "longest", t->longest);
    (void)cJSON_AddNumberToObject(json, "micro_batches", t->micros);
    bench_number(json, "step_seconds", median);
    bench_number(json, "best_seconds", took[0]);
    bench_number(json, "tokens_per_second", b->tokens / median);
    bench_number(json, "operations", flops);
    bench_number(json, "of_peak", flops / median / peak);
    bench_number(json, "peak_bytes", memory_of(t));
    bench_print(
        b,
        "\nTraining step, %d prompts of %d to %d tokens (mean %.1f), %d micro-batch%s, dropout, AdamW\n"
        "  %.3f s, %.0f tokens/s; %.1f GFLOP/s = %.0f %% of the %s peak; peak memory %.0f MB\n",
        b->rows, b->lengths[0], t->longest, (double)b->tokens / b->rows, t->micros,
        t->micros == 1 ? "" : "es", median, b->tokens / median, flops / median * 1e-9,
        100 * flops / median / peak, precision, 1e-6 * memory_of(t));
    if (!b->ops.device)
        report_shares(b, &t->meter, cJSON_AddArrayToObject(json, "shares"), sum / (double)steps, steps);
}

/* One more step, in which each operation is waited for. */
static ErrCode device_shares(Train *t, cJSON *json, Err *err) {
    ops_meter_reset(&t->meter);
    t->meter.waits = true;
    const double from = progress_clock();
    TRY(train_step(t, 1, err));
    bench_print(t->b, "  One operation after the other:\n");
    report_shares(t->b, &t->meter, cJSON_AddArrayToObject(json, "shares"), progress_clock() - from, 1);
    return ERR_OK;
}

ErrCode bench_train(Bench *b, Err *err) {
    Train t = {.b = b};
    double took[STEPS_MOST], asked = 0;
    const int64_t steps = b->options->steps < STEPS_MOST ? b->options->steps : STEPS_MOST;
    Progress p;
    bench_memory_reset();
    ErrCode rc = train_open(&t, err);
    if (rc == ERR_OK) rc = train_step(&t, 0, err);
    ops_meter_reset(&t.meter);
    progress_begin(&p, "bench", (uint64_t)steps, 0);
    for (int64_t s = 0; rc == ERR_OK && s < steps; s++) {
        const double from = progress_clock();
        rc = train_step(&t, (uint64_t)s + 1, err);
        took[s] = progress_clock() - from;
        asked += (t.meter.asked - from) / (double)steps;
        progress_update(&p, (uint64_t)s + 1, "training steps");
    }
    progress_end(&p);
    cJSON *json = cJSON_AddObjectToObject(b->json, "train");
    if (rc == ERR_OK) report(&t, json, took, steps);
    if (rc == ERR_OK && b->ops.device) {
        bench_number(json, "asked_seconds", asked);
        bench_print(b, "  The program had asked for all of it after %.1f ms\n", 1e3 * asked);
        rc = device_shares(&t, json, err);
    }
    train_close(&t);
    return rc;
}
