/* model/classifier.h - a checkpoint folder opened to answer: config, weights and a model without gradients.
 */
#ifndef MODEL_CLASSIFIER_H
#define MODEL_CLASSIFIER_H

#include "core/err.h"
#include "core/threads.h"
#include "model/deberta.h"

typedef struct {
    Config config;
    Ops ops;
    Deberta model;
    bool ready; /* position tables are prepared for limits.longest */
} Classifier;

/* Opens `dir` (config.json and weights) on a backend. longest: most tokens of one sequence, at most
 * max_position_embeddings; 0 takes that. A folder without a trained classifier (num_labels 0, or missing
 * tensors) is an error. */
ErrCode classifier_open(Classifier *c, const char *dir, const char *backend, int longest, Threads *threads,
                        Err *err) ERR_CHECKED;
void classifier_close(Classifier *c);

/* Logits (count, K) of sequences given as ids: sequence i is ids[i][0 .. lengths[i]-1], 1 <= length <=
 * longest. Any count: they are packed into batches of similar length. ERR_NUMERIC names the first sequence
 * with a logit that is not finite. */
ErrCode classifier_logits(Classifier *c, float *logits, const int32_t *const *ids, const int *lengths,
                          size_t count, Err *err) ERR_CHECKED;

/* The same with the pooled vectors (count, H) that the logits were taken from, unless vectors is NULL. */
ErrCode classifier_pooled(Classifier *c, float *logits, float *vectors, const int32_t *const *ids,
                          const int *lengths, size_t count, Err *err) ERR_CHECKED;

#endif
