/* eval/bench.h - the sections of `router bench`: operations, a training step, inference. Each prints a table as it goes, or
 * adds an object to the JSON; rates are given beside the peaks of the same run (eval/peaks.h).
 *
 * JSON, keys stable; seconds, bytes and operations are plain numbers, a multiply-add is two operations:
 *   machine  {cpu, threads, kernels, precision (of training), product (the kernel of its matrices,
 *            or null: OpenBLAS), openblas_coretype (of the environment, or null)}
 *   model    {size, hidden, layers, heads, intermediate, vocabulary, buckets}
 *   peaks    [{key, kind, threads, best, median, samples, slow_samples, slow_median}]
 *   ops      {linear: [{tokens, out, in, forward, gradients (dx and dw), dw: {median, best (operations/s), of_peak, sgemm_alone}}],
 *             attention: [{tokens, sequences, forward, both: {median, best (operations/s), microseconds}}],
 *             stream: [{op, median, best (bytes/s), of_peak}]}
 *   train    {rows, tokens, mean_length, longest, micro_batches, steps: [seconds], step_seconds (their median),
 *             tokens_per_second, operations, of_peak, peak_bytes, shares: [{op, seconds, calls, share, operations_per_second}]}
 *   infer    {load: {bytes, checked_ms, trusted_ms, kernels},
 *             latency: [{precision (int8, or that of the checkpoint), threads, tokens, p50_ms, p95_ms, p99_ms, samples,
 *                        stream_ms, compute_ms, of_bound}],
 *             batch: [{tokens, threads, prompts_per_second, tokens_per_second}]}
 * of_peak compares the best sample with the best peak of the precision that computed it. */
#ifndef EVAL_BENCH_H
#define EVAL_BENCH_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>

#include "core/flags.h"
#include "eval/peaks.h"
#include "model/config.h"
#include "model/ops.h"

typedef struct {
    char *size, *model, *only, *tokens, *lengths, *backend, *precision;
    int64_t rows, steps, threads, layers, micro_batch_tokens;
    double seconds; /* that one measurement takes, about */
    bool json, quiet, gradient_checkpointing;
} BenchOptions;

typedef struct {
    const BenchOptions *options;
    Threads *threads;
    Ops ops;
    Config config;
    Peaks peaks;
    double device_flops,
        device_bytes;    /* a device's: of large products in the precision of training, of y += x */
    PeaksKind precision; /* of the linear layers in training */
    FILE *out;           /* for tables; NULL with --json */
    cJSON *json;         /* the object, in any case */
    int32_t *lengths;    /* (rows), ascending */
    int rows, tokens;    /* prompts of a training step, and their tokens in all */
} Bench;

/* The sections; those of operations and of inference add to one object each (inference to its list "latency"). Memory that they take is free again when they
 * return. */
ErrCode bench_device(Bench *b, Err *err) ERR_CHECKED; /* measures a device's peaks */
ErrCode bench_linear(Bench *b, cJSON *ops, Err *err) ERR_CHECKED;
ErrCode bench_attention(Bench *b, cJSON *ops, Err *err) ERR_CHECKED;
ErrCode bench_stream(Bench *b, cJSON *ops, Err *err) ERR_CHECKED;
ErrCode bench_train(Bench *b, Err *err) ERR_CHECKED;
ErrCode bench_int8(Bench *b, cJSON *infer, Err *err) ERR_CHECKED;
ErrCode bench_checkpoint(Bench *b, cJSON *infer, Err *err) ERR_CHECKED;

/* ---- shared by the sections ---- */

/* Lengths of the prompts from --lengths, or --rows of --tokens (a number or a range): ascending, as training sorts them. */
ErrCode bench_lengths(Bench *b, Err *err) ERR_CHECKED;

/* Random ids; never 0, which is padding. */
void bench_ids(int32_t *ids, size_t n, int vocabulary, uint64_t key);

typedef struct {
    double best, median; /* seconds */
    int samples;
} BenchTime;

/* Repeats work(context), after one run that is not timed, for about `seconds` and at least three times. On a device it is
 * asked for several times before it is waited for, as training does. */
typedef void BenchWork(void *context);
BenchTime bench_time(double seconds, Ops *ops, BenchWork *work, void *context);

double bench_median(double *values, int n); /* sorts them */

/* What products and the memory of the backend's machine can do, in operations and bytes a second. */
double bench_peak(const Bench *b);
double bench_memory_rate(const Bench *b);

/* A line for people, when tables are wanted. */
void bench_print(const Bench *b, const char *fmt, ...) ERR_PRINTF(2, 3);

/* A number in six digits. */
void bench_number(cJSON *object, const char *key, double value);

/* The most memory that the process held since the last bench_memory_reset, in bytes. */
void bench_memory_reset(void);
double bench_memory_peak(void);

#endif
