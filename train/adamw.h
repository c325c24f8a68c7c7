/* train/adamw.h - AdamW (Loshchilov, Hutter 2019) as PyTorch computes it, dense in its numbers and sparse in
 * its cost.
 *
 * One step: norm = L2 of all gradients, in double; scale = min(1, max_grad_norm / (norm + 1e-6));
 *   p *= 1 - lr wd for decayed weights; m, v; p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
 *
 * The word embedding: a row that no batch has touched yet has m = v = 0, so its dense update is the decay
 * factor alone. Moments are kept for rows that were ever touched; dense AdamW runs on those; `decay` is the
 * running product of (1 - lr wd) that all others still owe. It is paid when a row is first touched, and in
 * the copy that a checkpoint saves. Equal to dense AdamW up to one rounding per row.
 *
 * What the model's limits freeze has no moments, is not in the norm and keeps its bits: no decay either. */
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

/* Everything that a checkpoint holds has the program's view beside the backend's array: adamw_read brings it up to date,
 * adamw_written takes what was loaded there. */
typedef struct {
    Deberta *model; /* borrowed */
    Mirror m_memory, v_memory, row_memory;
    LayerParams *tables;  /* of host_m and host_v */
    AdamwTensor *tensors; /* every weight that learns but the word embedding; the backend's arrays */
    ParamView *weights, *ms,
        *vs; /* all weights, and the moments in the program's view (NULL for the word embedding and
                                     what is frozen), in one order */
    size_t params, tensor_count;
    int64_t step;          /* steps done */
    int32_t *row;          /* (V) row of the moments, or -1; the program's */
    int32_t *ids, *slot;   /* (capacity) token of each row, and its row of the gradient or -1 */
    float *boost;          /* (capacity) of each row's token */
    const float *boosts;   /* (V) borrowed, set behind adamw_open: what each token's steps, not its decay, are
                               multiplied by; NULL: 1 */
    real *word_m, *word_v; /* (capacity,H) */
    AdamwRows at;          /* the backend's word_m, word_v, ids, slot, boost */
    OpsNorm *norm;         /* the backend's */
    int rows, capacity;
    double decay; /* what untouched rows owe */
} Adamw;

/* capacity: most different tokens that training will ever touch. */
ErrCode adamw_open(Adamw *a, Deberta *model, int capacity, Err *err) ERR_CHECKED;
void adamw_close(Adamw *a);

/* Bytes of the moments. */
size_t adamw_bytes(const Adamw *a);

/* One step from the model's gradients; *norm before clipping. A norm that is not finite is ERR_NUMERIC, and
 * nothing has changed then; so is a backend's failure. */
ErrCode adamw_step(Adamw *a, const AdamwRule *rule, double *norm, Err *err) ERR_CHECKED;

/* Brings the program's views of moments and of the model's weights up to date; waits. And the way back, after the views
 * were written. */
void adamw_read(const Adamw *a);
void adamw_written(Adamw *a);

/* Rows of the word embedding as dense AdamW would have them, from the program's view, into out (V,H). */
void adamw_word(const Adamw *a, real *out);

#endif
