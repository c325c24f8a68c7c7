/* eval/provenance.h - what a report is about: which model, trained how and on what, measured on which files.
 *
 * JSON:
 *   model         {kind: "run folder", "folder" or "blob", files: [{name, bytes, sha256}]}
 *   train_config  {sha256: of the file, options: the options themselves} or null: no run folder, or without the file
 *   shard         {content, tokenizer: digests, max_tokens, rows: {train, dev, calibration, test}, given, duplicates, crossing,
 *                 conflicting, skipped, truncated} or null
 *   data          [{path, bytes, sha256}]: the files that were read (compressed as they are); null for stdin and pipes */
#ifndef EVAL_PROVENANCE_H
#define EVAL_PROVENANCE_H

#include <cjson/cJSON.h>

#include "core/err.h"
#include "core/flags.h"
#include "eval/predict.h"

/* *out is freed with cJSON_Delete. `model` as it was given on the command line. */
ErrCode provenance_collect(cJSON **out, const char *model, const Predictor *predictor, const FlagList *data,
                           Err *err) ERR_CHECKED;

/* RUN/metrics.jsonl: {train: [[step, loss]], dev: [[step, loss, accuracy]]}, each at most PROVENANCE_POINTS long (means of
 * neighbours), or NULL in *out where there is none. Lines that a crash cut short are passed over. */
#define PROVENANCE_POINTS 200
ErrCode provenance_training(cJSON **out, const char *run, Err *err) ERR_CHECKED;

#endif
