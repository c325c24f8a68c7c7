/* eval/answers.h - what a router of any kind answers to rows: a run folder, a Hugging Face folder, a blob
 * (eval/predict.h), or a file of predictions (eval/predictions.h). */
#ifndef EVAL_ANSWERS_H
#define EVAL_ANSWERS_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"
#include "eval/predict.h"
#include "eval/predictions.h"
#include "eval/rows.h"

/* Zeroed: valid to close. */
typedef struct {
    const char *path;     /* as given; borrowed */
    Predictor *predictor; /* NULL: a file of predictions */
    Predictions predictions;
    size_t *at;     /* then the prediction of each row, after answers_match */
    uint64_t bytes; /* on disk: of the blob, of the files in the model's folder; 0: a file of predictions */
} Answers;

ErrCode answers_open(Answers *out, const char *path, const PredictRule *rule, Threads *threads,
                     Err *err) ERR_CHECKED;
void answers_close(Answers *answers);

int answers_classes(const Answers *answers);
const char *const *answers_labels(const Answers *answers);
const char *answers_shard(const Answers *answers); /* of a run folder, or NULL */

/* "run folder", "folder", "blob" or "predictions". */
const char *answers_kind(const Answers *answers);

/* Whether `seen` is filled in: a predictions file of eval does not say whether a text was cut. */
bool answers_sees(const Answers *answers);

/* Before the first answer: which prediction belongs to each row. */
ErrCode answers_match(Answers *answers, const Rows *rows, Err *err) ERR_CHECKED;

/* Of rows first .. first + count - 1: probabilities (count, K) and, where seen is not NULL, what was seen (count). */
ErrCode answers_batch(Answers *answers, double *p, PredictSeen *seen, const RowText *texts, size_t first,
                      size_t count, Err *err) ERR_CHECKED;

/* Of all rows, with progress; ERR_INTERRUPTED when asked to stop. p (count, K), seen (count) or NULL. */
ErrCode answers_all(Answers *answers, double *p, PredictSeen *seen, const RowText *texts, size_t count,
                    const char *what, Err *err) ERR_CHECKED;

#endif
