/* eval/predict.h - a router opened to answer, whatever its kind: a run folder (its model-best, else
 * model-last), a Hugging Face folder (config.json, weights, spm.model), or an exported blob.
 *
 * A folder's texts are cut at `max_tokens` tokens: the caller's, else config.json's router_max_length, else
 * 256 (or max_position_embeddings where that is less); strings like "[SEP]" in them are plain text unless
 * config.json's router_plain_text is false. A blob carries both rules itself, and its own temperature. */
#ifndef EVAL_PREDICT_H
#define EVAL_PREDICT_H

#include <stdbool.h>
#include <stddef.h>

#include "core/err.h"
#include "core/threads.h"
#include "eval/rows.h"

#define PREDICT_MAX_TOKENS 256

typedef struct Predictor Predictor;

typedef struct {
    const char *backend; /* for folders; NULL: blas */
    int max_tokens;      /* for folders; 0: see above */
    int batch_rows;      /* texts of one group in predict_all; 0: 256 */
} PredictRule;

typedef struct {
    int tokens; /* that the model saw, [CLS] and [SEP] among them */
    bool truncated;
} PredictSeen;

/* `threads` outlives the Predictor. */
ErrCode predict_open(Predictor **out, const char *path, const PredictRule *rule, Threads *threads,
                     Err *err) ERR_CHECKED;
void predict_close(Predictor *p);

int predict_classes(const Predictor *p);
const char *const *predict_labels(const Predictor *p); /* in the order of the classes; borrowed */
bool predict_is_blob(const Predictor *p);

/* The shard of the run folder that was opened, or NULL: another kind, or a run without one. Borrowed. */
const char *predict_shard(const Predictor *p);

/* Probabilities (count, K); seen (count) may be NULL. One group at once: memory grows with count. */
ErrCode predict_batch(Predictor *p, double *probabilities, PredictSeen *seen, const RowText *texts,
                      size_t count, Err *err) ERR_CHECKED;

/* The same for any number of texts, in groups, with progress named `what`; ERR_INTERRUPTED when asked to
 * stop. */
ErrCode predict_all(Predictor *p, double *probabilities, PredictSeen *seen, const RowText *texts,
                    size_t count, const char *what, Err *err) ERR_CHECKED;

#endif
