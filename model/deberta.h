/* model/deberta.h - DeBERTa-v3 with a sequence-classification head, forward and backward, over packed sequences.
 *
 *   x0 = dropout(LN(word[ids]))
 *   R = LN(rel[0 .. 2B-1])                              once per step, shared by all layers
 *   per layer:
 *     Rl = dropout(R)                                   a mask per layer
 *     kr = Rl Wk^T + bk,  qr = Rl Wq^T + bq             the content's own projections (share_att_key)
 *     q, k, v = x Wq^T + bq,  x Wk^T + bk,  x Wv^T + bv
 *     score(i,j) = (q_i.k_j + q_i.kr[idx] + k_j.qr[idx]) / sqrt(3 D)
 *                                                       idx = clamp(bucket(i-j) + B, 0, 2B-1)
 *     a = LN(dropout(dropout(softmax(score)) v Wo^T + bo) + x)
 *     x = LN(dropout(gelu(a Wup^T + bup) Wdown^T + bdown) + a)
 *   pooled = gelu(dropout(x[first token]) Wpool^T + bpool)
 *   logits = dropout(pooled) Whead^T + bhead
 *
 * bucket() and its B = position_buckets and P = max_relative_positions: model/buckets.h. gelu is the exact erf form; LN
 * has eps 1e-7 inside the root. Source: He et al. 2021 (arXiv 2111.09543) and the computation of Hugging Face's
 * DebertaV2ForSequenceClassification, against which tests/golden_check compares every hidden state and gradient.
 *
 * The position tables kr and qr depend on the weights and the step's dropout only: deberta_begin projects them once per
 * step, over the rows that the step's longest sequence can reach; micro-batches share them, and deberta_end takes the
 * gradient through them once. So
 *   a training step is   begin, (forward, loss, backward) per micro-batch, end
 *   inference is         begin once, forward per batch.
 *
 * Weights, gradients and activations lie in the backend's memory. The program reads and writes `host_weights` and the
 * functions below that say so; on a host backend these are the same bytes. */
#ifndef MODEL_DEBERTA_H
#define MODEL_DEBERTA_H

#include <stdbool.h>

#include "core/err.h"
#include "model/mirror.h"
#include "model/ops.h"
#include "model/packed.h"
#include "model/params.h"

typedef struct {
    int micro_tokens;    /* most tokens of one forward (a longer single sequence must fit as well) */
    int micro_sequences; /* most sequences of one forward */
    int longest;         /* most tokens of one sequence */
    int step_tokens; /* training: most tokens of a whole step, which bounds the touched rows of the embedding
                      */
    bool train;      /* keep activations, allocate gradients */
    bool recompute;  /* training: of each layer its output alone is kept, the rest computed again */
    bool
        all_hidden; /* compute all rows of the last layer's output, not only the first tokens', which is all that the
                        head reads */
    int frozen; /* training: what has no gradient, as params_layout_learnt says; its activations are not kept */
} DebertaLimits;

/* Activations of one layer; without training all layers share them, and so do those that are frozen. (N,H) unless said otherwise. */
typedef struct {
    Act *q, *k, *v, *context, *attn_xhat, *a;
    Act *up_pre, *up /* (N,F) */, *ffn_xhat, *y;
    real *attn_rstd, *ffn_rstd; /* (N) */
    Act *kr, *qr;               /* (R,H) */
    real *dkr, *dqr;            /* (R,H) */
} DebertaLayer;

/* The word embedding's gradient: rows of the tokens that occurred in this step. */
typedef struct {
    int32_t *slot; /* (V) row in `grad`, or -1; the program's */
    int32_t *ids;  /* (count) token of each row, in order of first occurrence; the program's */
    real *grad;    /* (capacity, H); the backend's */
    int count, capacity;
} DebertaTouched;

/* Integers that go with a batch or a step, filled by the program and read by operations. */
typedef struct {
    uint64_t *token_row, *first_row, *seq_row, *rel_row; /* dropout identities (N), (S), (S), (2B) */
    int32_t *ids, *start;                                /* (N), (S + 1): of the packed batch */
    int32_t *first_token, *slots;                        /* (S), (N) */
    int32_t *rel_ids, *index;                            /* (2B), (2 longest - 1) of the step */
    real *target, *weight; /* (S,K), (S); target is what deberta_distill adds, once the loss was taken */
} DebertaMaps;

typedef struct {
    Config config; /* a copy */
    Ops *ops;      /* borrowed */
    DebertaLimits limits;
    Params weights, grads; /* grads.word is NULL: see touched; so are those of what is frozen */
    Params host_weights;   /* the program's view: deberta_weights_changed, _read_weights */
    LayerParams *tables;   /* of the three */
    Mirror weight_memory, grad_memory, work_memory, map_memory;
    size_t grad_count; /* numbers in the gradient block */
    real *grad_block;
    bool grads_used; /* something was added to the gradients since they were zero */
    DebertaTouched touched;
    DebertaLayer *layers;
    Act *x0, *x0_xhat, *rel, *rel_xhat; /* embeddings and position table: output, normalised; (N,H), (R,H) */
    real *x0_rstd, *rel_rstd, *drel;    /* 1 / std (N), (R); (R,H) */
    Act *last_context, *last_x;         /* rows of the first tokens at the last layer (S,H) */
    Act *sum;                           /* what a norm is about to take, (N,H) or (R,H) */
    real *cls, *pool_in, *pool_pre, *pooled, *pooled_drop, *logits; /* (S,H), (S,K) */
    real *dlogits, *scratch[8];            /* scratch: (N,H) each but [3], which is (N,F) */
    real *loss;                            /* (S) of rows since deberta_loss_sum, not scaled ... */
    int losses;                            /* ... so many */
    real *host_loss, *host_logits;         /* (S), (S,K): the program's */
    double *log_p;                         /* (2,K): deberta_distill's */
    DebertaMaps maps, host_maps;           /* the backend's, the program's */
    int step_longest, rel_first, rel_rows; /* rows of the position table that the step reaches */
    bool dropping;
    uint64_t drop_key;
    double pairs;  /* Attention.pairs of the last forward */
    Packed packed; /* of the last forward; ids and start are the backend's */
} Deberta;

/* Allocates everything; weights are zero until weights_load or weights_init fills deberta->weights. `config`
 * is copied. */
ErrCode deberta_open(Deberta *d, const Config *config, Ops *ops, const DebertaLimits *limits,
                     Err *err) ERR_CHECKED;
void deberta_close(Deberta *d);

/* Bytes that the model holds, what the backend keeps for itself left out. */
size_t deberta_bytes(const Deberta *d);

/* To be called when host_weights were written; and before they are read, as the optimiser changes the backend's. */
void deberta_weights_changed(Deberta *d);
void deberta_read_weights(const Deberta *d);

/* Starts a step (zeroes the gradients when training) or, for inference, prepares the position tables.
 * longest: of all sequences that follow until deberta_end. drop_key: dropout masks; used only when `dropout`.
 */
void deberta_begin(Deberta *d, int longest, bool dropout, uint64_t drop_key);

/* logits in d->logits (deberta_logits reads them), hidden states in d->x0 and d->layers[l].y: of the last layer, unless
 * limits.all_hidden, the first tokens' only, (S,H). */
void deberta_forward(Deberta *d, const Packed *packed);

/* Logits (S,K) of the last forward, until the next; waits. */
const real *deberta_logits(const Deberta *d);

/* Likewise what the classifier took them from, (S,H), into out. */
void deberta_pooled(const Deberta *d, real *out);

/* Loss of the last forward: per row, times weight[s] (NULL: 1). target (S,K) sums to 1 per row (or is the number to
 * predict when K = 1). scale multiplies the gradients: 1 / (rows or weights of the whole step) gives the mean. Writes
 * d->dlogits, which deberta_backward starts from. Does not wait. */
void deberta_loss(Deberta *d, const real *target, const real *weight, real scale);

/* Sum over all rows since it was called last, of at most micro_sequences; not scaled; waits. */
double deberta_loss_sum(Deberta *d);

/* Adds scale * weight[s] * share * T^2 KL(softmax(teacher[s] / T) || softmax(logits[s][0 .. classes) / T)) of each row
 * to what deberta_backward starts from: logits from `classes` on have no part in it. After deberta_loss, which it must
 * follow. teacher (S,classes) is finite, classes at most K, temperature > 0. Returns the rows' sum of
 * weight[s] * T^2 KL, neither scaled nor shared, in double; waits. Source: learning without forgetting (Li, Hoiem 2016,
 * arXiv 1606.09282); T^2, which keeps gradients of one size: Hinton et al. 2015 (arXiv 1503.02531). */
double deberta_distill(Deberta *d, const real *teacher, int classes, double temperature, double share,
                       const real *weight, real scale);

void deberta_backward(Deberta *d);

/* Takes the gradients of the position tables through their projections; closes the step. */
void deberta_end(Deberta *d);

/* ---- shared by deberta.c and deberta_grad.c ---- */

/* The lowest layer that has a gradient; num_hidden_layers: none has. */
int deberta_first_learnt(const Deberta *d);

/* Where a dropout mask is used; layer is -1 outside the layers. */
enum {
    DEBERTA_SITE_EMBEDDING = 1,
    DEBERTA_SITE_HEAD,
    DEBERTA_SITE_POOL,
    DEBERTA_SITE_REL,
    DEBERTA_SITE_PROBS,
    DEBERTA_SITE_ATTENTION,
    DEBERTA_SITE_FFN
};

/* What follows the attention of layer l runs over these rows: all tokens, or at the last layer the first ones alone. */
typedef struct {
    bool first;          /* of each sequence, the first token */
    int N;               /* rows */
    const uint64_t *row; /* their dropout identities, in the backend's memory */
} DebertaRows;
DebertaRows deberta_rows(const Deberta *d, int l);

/* Dropout of the running step with probability p (none when it does not drop). */
Dropout deberta_dropout(const Deberta *d, double p, int layer, int site, const uint64_t *row);
Attention deberta_attention(const Deberta *d, const Dropout *drop);

/* Activations of layer l from its input. */
void deberta_layer_forward(Deberta *d, int l, const Act *x);

#endif
