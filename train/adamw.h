/* train/adamw.h - AdamW (Loshchilov, Hutter 2019) as PyTorch computes it, dense in its numbers and sparse in
 * its cost.
 *
 * One step: norm = L2 of all gradients, in double; scale = min(1, max_grad_norm / (norm + 1e-6));
 *   p *= 1 - lr wd for decayed weights; m, v; p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
 *
 * The word embedding: a row that no batch has touched yet has m = v = 0, so its dense update is the decay
 * factor alone. Moments are kept for rows that were ever touched; dense AdamW runs on those; `decay` is the
 * running product of (1 - lr wd) that all others still owe. It is paid when a row is first touched, and in
 * the copy that a checkpoint saves. Equal to dense AdamW up to one rounding per row. */
#ifndef TRAIN_ADAMW_H
#define TRAIN_ADAMW_H

#include "core/err.h"
#include "model/deberta.h"

typedef struct {
    double learning_rate; /* of this step, after the schedule */
    double beta1, beta2, epsilon, weight_decay;
    double max_grad_norm;    /* 0: no clipping */
    double layer_rate_decay; /* 1: none; layer l learns with rate * decay^(layers - l), embeddings with
                                decay^(layers + 1) */
} AdamwRule;

typedef struct {
    Deberta *model; /* borrowed */
    Arena m_arena, v_arena;
    Params m, v;                          /* word is NULL */
    ParamView *weights, *grads, *ms, *vs; /* lists in one order */
    size_t params;
    int64_t step;          /* steps done */
    int32_t *row;          /* (V) row of the moments, or -1 */
    int32_t *ids;          /* (capacity) token of each row */
    real *word_m, *word_v; /* (capacity,H) */
    int rows, capacity;
    double decay; /* what untouched rows owe */
} Adamw;

/* capacity: most different tokens that training will ever touch. */
ErrCode adamw_open(Adamw *a, Deberta *model, int capacity, Err *err) ERR_CHECKED;
void adamw_close(Adamw *a);

/* One step from the model's gradients; *norm before clipping. A norm that is not finite is ERR_NUMERIC, and
 * nothing has changed then; so is a backend's failure. */
ErrCode adamw_step(Adamw *a, const AdamwRule *rule, double *norm, Err *err) ERR_CHECKED;

/* Rows of the word embedding as dense AdamW would have them, into out (V,H). */
void adamw_word(const Adamw *a, real *out);

#endif
