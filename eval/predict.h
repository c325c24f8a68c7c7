/* eval/predict.h - a router opened to answer, whatever its kind: a run folder (its model-best, else
 * model-last), a Hugging Face folder (config.json, weights, spm.model), or an exported blob.
 *
 * A folder's texts are cut at `max_tokens` tokens: the caller's, else config.json's router_max_length, else
 * 256 (or max_position_embeddings where that is less); strings like "[SEP]" in them are plain text unless
 * config.json's router_plain_text is false. A blob carries both rules itself. From logits on, both follow the decision
 * rule (export/decide.h) that `router calibrate` left in config.json or in the blob. */
#ifndef EVAL_PREDICT_H
#define EVAL_PREDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/flags.h"
#include "core/threads.h"
#include "eval/rows.h"
#include "export/decide.h"

#define PREDICT_MAX_TOKENS 256

typedef struct Predictor Predictor;

typedef struct {
    const char *backend; /* for folders; NULL: blas */
    int max_tokens;      /* for folders; 0: see above */
    int batch_rows;      /* texts of one group in predict_all; 0: 256 */
} PredictRule;

/* What a command is told about its model, as a member of its options. PREDICT_FLAGS(Options, member) stand in its table;
 * of a command that never cuts texts by a rule of its own, PREDICT_FLAGS_UNCUT, and max_length remains 0. */
typedef struct {
    char *backend;
    int64_t max_length, batch, threads;
    bool quiet;
} PredictOptions;

/* clang-format off */
#define PREDICT_FLAGS_IN(group, type, member) \
    {"backend", NULL, FLAG_STRING, offsetof(type, member.backend), NULL, 0, 0, "NAME", \
     group "Backend for a folder, in fp32: auto (the default), x86, blas or ref."}, \
    {"batch", "batch_size", FLAG_INT, offsetof(type, member.batch), "256", 1, 65536, NULL, \
     "Rows handed to the model at once."}, \
    {"threads", NULL, FLAG_INT, offsetof(type, member.threads), "0", 0, 1024, NULL, "Threads; 0: one per CPU."}, \
    {"quiet", NULL, FLAG_BOOL, offsetof(type, member.quiet), NULL, 0, 0, NULL, "No progress."}
#define PREDICT_FLAGS_UNCUT(type, member) PREDICT_FLAGS_IN("#Model\n", type, member)
#define PREDICT_FLAGS(type, member) \
    {"max_length", "max_seq_length", FLAG_INT, offsetof(type, member.max_length), "0", 0, 65536, NULL, \
     "#Model\nTokens at which a folder's texts are cut; 0: the model's own rule."}, \
    PREDICT_FLAGS_IN("", type, member)
/* clang-format on */

/* Borrows the strings of `options`. */
PredictRule predict_options_rule(const PredictOptions *options);

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

/* How logits become probabilities and decisions; its arrays are there. Borrowed. */
const DecideRule *predict_rule(const Predictor *p);

/* Numbers of the vector that the classifier takes its logits from. */
int predict_width(const Predictor *p);

/* Where the model is: the folder of config.json and weights, or the blob. Borrowed. */
const char *predict_path(const Predictor *p);

/* Bytes of the blob, or of the files in the model's folder. */
ErrCode predict_bytes(uint64_t *bytes, const Predictor *p, Err *err) ERR_CHECKED;

/* The shard of the run folder that was opened, or NULL: another kind, or a run without one. Borrowed. */
const char *predict_shard(const Predictor *p);

/* Logits (count, K), before the decision rule; vectors (count, width) in front of the classifier, and seen (count),
 * may be NULL. One group at once: memory grows with count. */
ErrCode predict_logits(Predictor *p, float *logits, float *vectors, PredictSeen *seen, const RowText *texts,
                       size_t count, Err *err) ERR_CHECKED;

/* The same for any number of texts, in groups, with progress named `what`; ERR_INTERRUPTED when asked to
 * stop. */
ErrCode predict_all_logits(Predictor *p, float *logits, float *vectors, PredictSeen *seen,
                           const RowText *texts, size_t count, const char *what, Err *err) ERR_CHECKED;

/* Probabilities (count, K), in the two ways. */
ErrCode predict_batch(Predictor *p, double *probabilities, PredictSeen *seen, const RowText *texts,
                      size_t count, Err *err) ERR_CHECKED;

ErrCode predict_all(Predictor *p, double *probabilities, PredictSeen *seen, const RowText *texts,
                    size_t count, const char *what, Err *err) ERR_CHECKED;

#endif
