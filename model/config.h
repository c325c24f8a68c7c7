/* model/config.h - what a model is made of: sizes, probabilities, labels; and config.json of a DeBERTa-v3 sequence
 * classifier, as Hugging Face writes it (config_json.c).
 *
 * Every key is either honoured, known to make no difference here (name_or_path, torch_dtype, ...), or an
 * error that names it: a value that asks for another computation (position_biased_input true, type_vocab_size
 * > 0, share_att_key false, pos_att_type other than c2p and p2c, hidden_act other than gelu, conv_kernel_size
 * > 0, ...) is never ignored. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <stdbool.h>

#include "core/err.h"
#include "model/taxonomy.h"

#define CONFIG_LABELS_MAX 4096

typedef struct {
    int vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size;
    int max_position_embeddings, position_buckets;
    int max_relative_positions; /* resolved: >= 1 (max_position_embeddings where the file says -1) */
    int pad_token_id;
    int num_labels; /* 0: the file has none (an encoder-only checkpoint) */
    double layer_norm_eps, initializer_range;
    double hidden_dropout_prob, attention_probs_dropout_prob, pooler_dropout;
    double cls_dropout; /* resolved: hidden_dropout_prob where absent */
    char **labels;      /* num_labels names in the order of their ids; owned */
    Taxonomy taxonomy;  /* of these labels, or of none: it then says nothing */
} Config;

struct cJSON; /* <cjson/cJSON.h> */

/* Parses an object. Ranges are checked so that every size that is computed from a Config fits: sizes >= 1,
 * hidden_size divisible by the heads, hidden_size <= 8192, layers <= 256, vocabulary <= 4 M, positions <=
 * 65536. Absent keys take DebertaV2Config's defaults; where the default asks for another computation, absence
 * is an error. Names of labels come from id2label (LABEL_0 ... where only num_labels says how many; two where
 * architectures says DebertaV2ForSequenceClassification and nothing says how many, since Hugging Face leaves
 * its default out); ids must be 0 .. n-1 without a gap, names differ, and label2id, if there, must agree; so must
 * router_taxonomy (model/taxonomy.h). */
ErrCode config_parse(Config *out, const struct cJSON *root, Err *err) ERR_CHECKED;

/* The folder of config.json that a model's path stands for: itself, or of a training run its model-best, else its
 * model-last, and *run is then true. *dir is freed with mem_free. ERR_ARGUMENT where there is none. */
ErrCode config_folder(char **dir, bool *run, const char *path, Err *err) ERR_CHECKED;

/* config.json itself, or a folder that holds one. */
ErrCode config_read(Config *out, const char *path, Err *err) ERR_CHECKED;

/* A tree that Hugging Face's DebertaV2Config reads back to the same values, with architectures, model_type,
 * id2label and label2id; and router_taxonomy, where it says anything. */
ErrCode config_json(struct cJSON **out, const Config *config, Err *err) ERR_CHECKED;

/* Replaces the labels by copies of names[0..n). Where they are the same as before, in the same order, the taxonomy
 * stays; otherwise it is another router, of revision 1. */
ErrCode config_set_labels(Config *config, const char *const *names, int n, Err *err) ERR_CHECKED;

/* Whether the labels are names[0..n), in this order. */
bool config_has_labels(const Config *config, const char *const *names, int n);

/* The same router with n more labels behind the others, or another name for one; the taxonomy says so (see
 * taxonomy_grow, taxonomy_rename: taxonomy_begin comes first). All or nothing. */
ErrCode config_grow_labels(Config *config, const char *const *names, const char *const *descriptions, int n,
                           Err *err) ERR_CHECKED;
ErrCode config_rename_label(Config *config, int id, const char *name, Err *err) ERR_CHECKED;

ErrCode config_copy(Config *out, const Config *from, Err *err) ERR_CHECKED;
void config_free(Config *config);

#endif
