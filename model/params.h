/* model/params.h - the one list of the weights.
 *
 * From it come the struct, the memory layout, the names in a checkpoint, the weight-decay mask, the
 * quantiser's loop and the labels of the tests. A new weight is one line here and its use in deberta.c and
 * deberta_grad.c.
 *
 * X(field, name in a checkpoint, kind, rows, columns); columns 0 is a vector.
 * H hidden, F feed-forward, V vocabulary, R = 2 * position_buckets rows of relative positions, K classes.
 * Linear weights are [out, in]. Kinds: see ParamKind. */
#ifndef MODEL_PARAMS_H
#define MODEL_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "model/config.h"
#include "model/real.h"

typedef enum {
    PARAM_EMBEDDING,  /* decayed; initialised normal */
    PARAM_LINEAR,     /* decayed; initialised normal; quantised per row by export */
    PARAM_BIAS,       /* not decayed; starts at 0 */
    PARAM_NORM_SCALE, /* not decayed; starts at 1 */
    PARAM_NORM_BIAS   /* not decayed; starts at 0 */
} ParamKind;

#define PARAMS_EMBEDDINGS(X)                                                       \
    X(word, "deberta.embeddings.word_embeddings.weight", PARAM_EMBEDDING, V, H)    \
    X(embed_norm_w, "deberta.embeddings.LayerNorm.weight", PARAM_NORM_SCALE, H, 0) \
    X(embed_norm_b, "deberta.embeddings.LayerNorm.bias", PARAM_NORM_BIAS, H, 0)

/* names follow "deberta.encoder.layer.N." */
#define PARAMS_LAYER(X)                                                         \
    X(q_w, "attention.self.query_proj.weight", PARAM_LINEAR, H, H)              \
    X(q_b, "attention.self.query_proj.bias", PARAM_BIAS, H, 0)                  \
    X(k_w, "attention.self.key_proj.weight", PARAM_LINEAR, H, H)                \
    X(k_b, "attention.self.key_proj.bias", PARAM_BIAS, H, 0)                    \
    X(v_w, "attention.self.value_proj.weight", PARAM_LINEAR, H, H)              \
    X(v_b, "attention.self.value_proj.bias", PARAM_BIAS, H, 0)                  \
    X(o_w, "attention.output.dense.weight", PARAM_LINEAR, H, H)                 \
    X(o_b, "attention.output.dense.bias", PARAM_BIAS, H, 0)                     \
    X(attn_norm_w, "attention.output.LayerNorm.weight", PARAM_NORM_SCALE, H, 0) \
    X(attn_norm_b, "attention.output.LayerNorm.bias", PARAM_NORM_BIAS, H, 0)    \
    X(up_w, "intermediate.dense.weight", PARAM_LINEAR, F, H)                    \
    X(up_b, "intermediate.dense.bias", PARAM_BIAS, F, 0)                        \
    X(down_w, "output.dense.weight", PARAM_LINEAR, H, F)                        \
    X(down_b, "output.dense.bias", PARAM_BIAS, H, 0)                            \
    X(ffn_norm_w, "output.LayerNorm.weight", PARAM_NORM_SCALE, H, 0)            \
    X(ffn_norm_b, "output.LayerNorm.bias", PARAM_NORM_BIAS, H, 0)

#define PARAMS_POSITIONS(X)                                                   \
    X(rel, "deberta.encoder.rel_embeddings.weight", PARAM_EMBEDDING, R, H)    \
    X(rel_norm_w, "deberta.encoder.LayerNorm.weight", PARAM_NORM_SCALE, H, 0) \
    X(rel_norm_b, "deberta.encoder.LayerNorm.bias", PARAM_NORM_BIAS, H, 0)

#define PARAMS_HEAD(X)                                   \
    X(pool_w, "pooler.dense.weight", PARAM_LINEAR, H, H) \
    X(pool_b, "pooler.dense.bias", PARAM_BIAS, H, 0)     \
    X(head_w, "classifier.weight", PARAM_LINEAR, K, H)   \
    X(head_b, "classifier.bias", PARAM_BIAS, K, 0)

#define PARAMS_TOP(X) PARAMS_POSITIONS(X) PARAMS_HEAD(X)

#define PARAMS_FIELD(field, name, kind, rows, cols) real *field;

typedef struct {
    PARAMS_LAYER(PARAMS_FIELD)
} LayerParams;

/* Weights, gradients, and both AdamW moments are four of these, each laid out in a block of its own. */
typedef struct {
    PARAMS_EMBEDDINGS(PARAMS_FIELD)
    PARAMS_TOP(PARAMS_FIELD)
    LayerParams *layer; /* num_hidden_layers of them */
} Params;

#define PARAM_NAME_MAX 96

typedef struct {
    char name[PARAM_NAME_MAX];
    real *data;         /* NULL where the block does not hold it */
    int64_t rows, cols; /* cols 0: a vector of `rows` */
    ParamKind kind;
    int layer; /* -1 for embeddings, num_hidden_layers for pooler and classifier, as layer-wise decay counts
                  them */
} ParamView;

/* Gives every weight its place in `arena` (which may be counting). Without `with_word` the word embeddings
 * get none: their gradient and moments are kept for touched rows only (train/adamw.h). The order in memory is
 * that of the list: embeddings, layers, top. table: where out->layer is, num_hidden_layers of them, for an arena that is
 * not the program's memory; NULL: the arena's first bytes. */
void params_layout(Params *out, Arena *arena, const Config *config, bool with_word, LayerParams *table);

/* The same for gradients and moments: no word embeddings, and no place (NULL) for what is frozen. frozen 0: nothing; 1:
 * embeddings and position table; n + 1: these and the lowest n layers. */
void params_layout_learnt(Params *out, Arena *arena, const Config *config, int frozen, LayerParams *table);

/* All weights in that order, word embeddings included; *count of them. Free with mem_free. NULL when memory
 * is short. */
ParamView *params_list(const Params *params, const Config *config, size_t *count);

static inline int64_t param_count(const ParamView *p) {
    return p->cols ? p->rows * p->cols : p->rows;
}
static inline bool param_decays(ParamKind kind) {
    return kind == PARAM_EMBEDDING || kind == PARAM_LINEAR;
}

#endif
