/* export/forward.h - the computation that export/blob.h specifies: ids to logits of an opened blob. The
 * tokens of several texts may go through the layers together, so that weights are read once for all of
 * them; only attention looks at one text alone. Every number is made from its own text by the same
 * operations in the same order, so an answer never depends on what else is in a group, on threads, or on
 * the kernels. */
#ifndef EXPORT_FORWARD_H
#define EXPORT_FORWARD_H

#include "core/arena.h"
#include "export/blob.h"
#include "export/int8.h"

/* Tokens of a group beyond which larger ones are hardly faster. */
enum { FORWARD_GROUP_TOKENS = 256 };

typedef struct {
    Int8Linear q, k, v, o, up, down;
    const float *attn_norm_w, *attn_norm_b, *ffn_norm_w, *ffn_norm_b;
    const uint16_t *position_key,
        *position_query; /* (H, 2B), half precision: column c is table row 2B - 1 - c */
} ForwardLayer;

/* Read-only after forward_init: any number of threads may run it, each with a ForwardSpace of its own. */
typedef struct {
    const Blob *blob; /* borrowed */
    const Int8Kernels *kernels;
    ForwardLayer *layers;
    int32_t
        *column; /* (2 max_tokens - 1): column of the position tables for j - i = index - (max_tokens - 1) */
} Forward;

/* Puts the blob's linear layers (where the kernels want it) and position tables into the order in which
 * they are read, in place: the bytes of those tensors are then no longer the file's, and nobody else may
 * read them. Needs little memory of its own. threads may be NULL. */
ErrCode forward_init(Forward *out, Blob *blob, const Int8Kernels *kernels, Threads *threads,
                     Err *err) ERR_CHECKED;
void forward_free(Forward *forward);

typedef struct {
    const int32_t *ids;
    int n;
} ForwardText;

/* Working memory; grows to what it was used for. Zeroed is valid. */
typedef struct {
    Arena arena;
    int tokens, texts, longest, threads; /* that it is large enough for */
    float *x, *q, *k, *v, *context, *y;  /* (N, H) */
    float *up;                           /* (N, F) */
    Int8Rows rows;                       /* (N, max(H, F)) */
    int32_t *ids;                        /* (N) */
    size_t *first;                       /* (texts): number of a text's first token */
    char *scratch;                       /* (threads, scratch_bytes) */
    size_t scratch_bytes;
} ForwardSpace;

void forward_space_free(ForwardSpace *space);

/* logits (count, K) of `count` texts, count >= 1, computed together on `threads` (NULL: here). What the
 * classifier took them from, gelu(pooler.dense(...)), is then in space->y (count, H).
 * ERR_ARGUMENT: a text has not 1 .. max_tokens ids, or an id is not below the vocabulary; ERR_NUMERIC: a
 * logit is not finite; ERR_MEMORY. *failed (may be NULL) is the first text that is at fault. */
ErrCode forward_run(const Forward *forward, ForwardSpace *space, float *logits, const ForwardText *texts,
                    int count, Threads *threads, int *failed, Err *err) ERR_CHECKED;

#endif
