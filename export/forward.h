/* export/forward.h - the computation that export/blob.h specifies: ids to logits of an opened blob. Sequences
 * are computed one at a time, so an answer never depends on what else is in a batch, nor on threads. */
#ifndef EXPORT_FORWARD_H
#define EXPORT_FORWARD_H

#include "core/arena.h"
#include "export/blob.h"
#include "export/int8.h"

typedef struct {
    Int8Linear q, k, v, o, up, down;
    const float *attn_norm_w, *attn_norm_b, *ffn_norm_w, *ffn_norm_b;
    const uint16_t *position_key, *position_query; /* (2B, H), half precision */
} ForwardLayer;

/* Read-only after forward_init: any number of threads may run it, each with a ForwardSpace of its own. */
typedef struct {
    const Blob *blob; /* borrowed */
    const Int8Kernels *kernels;
    ForwardLayer *layers;
    int32_t *row; /* (2 max_tokens - 1): row of the position tables for i - j = index - (max_tokens - 1) */
} Forward;

ErrCode forward_init(Forward *out, const Blob *blob, Err *err) ERR_CHECKED;
void forward_free(Forward *forward);

/* Working memory; grows to the longest sequence that it was used for. Zeroed is valid. */
typedef struct {
    Arena arena;
    int longest;
    float *x, *q, *k, *v, *context, *y; /* (L, H) */
    float *up;                          /* (L, F) */
    Int8Rows rows;                      /* (L, max(H, F)) */
    void *scratch;
    float *key, *position_key, *position_query,
        *score; /* one head, transposed: (D, L), (D, 2L), (D, 2L), (L) */
} ForwardSpace;

void forward_space_free(ForwardSpace *space);

/* logits (K) of ids[0 .. n-1]. ERR_ARGUMENT: n is not in 1 .. max_tokens, or an id is not below the
 * vocabulary; ERR_NUMERIC: a logit is not finite; ERR_MEMORY. */
ErrCode forward_run(const Forward *forward, ForwardSpace *space, float *logits, const int32_t *ids, int n,
                    Err *err) ERR_CHECKED;

/* p = softmax(logits / temperature) over K values; returns the index of the largest, the first of equals. */
int forward_softmax(float *p, const float *logits, int K, float temperature);

#endif
