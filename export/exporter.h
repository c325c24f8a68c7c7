/* export/exporter.h - a trained checkpoint to a blob: quantises, folds the position tables, adds the
 * tokenizer and what is known about its making, and lets librouter answer the golden prompts.
 *
 * The folder is a Hugging Face folder (config.json, weights, spm.model) or a training run: its model-best,
 * else model-last, is then taken, and train_config.json, the dev metrics of that model, and the report
 * eval.json, where `router eval` left one, go along. How texts are cut and read is in config.json
 * (router_max_length, router_plain_text), as training wrote it.
 *
 * On one machine the same folder and options give the same bytes: nothing in a blob says when or where it was
 * made, but "router.date" where the environment has SOURCE_DATE_EPOCH. Another machine's float arithmetic may
 * differ in the last bits of the float logits and the folded tables. */
#ifndef EXPORT_EXPORTER_H
#define EXPORT_EXPORTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/threads.h"
#include "export/check.h"
#include "export/quant.h"

typedef struct {
    int max_tokens;                    /* 0: the folder's "router_max_length" (in config.json), else 256 */
    bool pack;                         /* a zstd frame, for shipping */
    const char *license, *description; /* or NULL */
    const char *metrics; /* a JSON report to take along instead of the run's eval.json, or NULL */
} ExporterOptions;

typedef struct {
    size_t blob_bytes, file_bytes; /* unpacked; as written */
    uint64_t float_bytes;          /* of the weights in float32 */
    size_t tensors, layers, labels;
    int max_tokens;
    bool calibrated; /* the folder's config.json had a calibration or thresholds, which went along */
    QuantError words, linears, positions; /* rounding of the embeddings, linear layers, position tables */
    double worst_relative;                /* of the tensor that lost most */
    char worst_name[96];
    CheckReport check; /* golden vectors, float against int8 */
} ExporterReport;

ErrCode exporter_run(ExporterReport *report, const char *path, const char *folder,
                     const ExporterOptions *options, Threads *threads, Err *err) ERR_CHECKED;

#endif
