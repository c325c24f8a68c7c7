#include "model/config.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

/* Every key that may occur. Those that nothing below asks for make no difference to what is computed here:
 * bookkeeping of transformers, options of text generation, options of the pre-training heads, and keys that
 * Hugging Face's DebertaV2ForSequenceClassification does not read either (classifier_dropout, z_steps). */
static const char *const KEYS[] = {
    /* the model */
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "attention_head_size", "intermediate_size", "hidden_act", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size", "initializer_range",
    "layer_norm_eps", "relative_attention", "max_relative_positions", "position_buckets", "norm_rel_ebd",
    "share_att_key", "pos_att_type", "position_biased_input", "pad_token_id", "embedding_size",
    "conv_kernel_size", "pooler_dropout", "pooler_hidden_act", "pooler_hidden_size", "cls_dropout",
    "num_labels", "id2label", "label2id", "problem_type", "architectures", "is_decoder", "is_encoder_decoder",
    "add_cross_attention", "pruned_heads", "quantization_config",
    /* no difference */
    "name_or_path", "torch_dtype", "dtype", "transformers_version", "tokenizer_class", "finetuning_task",
    "task_specific_params", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
    "return_unused_kwargs", "torchscript", "use_bfloat16", "tf_legacy_loss", "tie_word_embeddings",
    "tie_encoder_decoder", "cross_attention_hidden_size", "chunk_size_feed_forward", "gradient_checkpointing",
    "attn_implementation", "legacy", "classifier_dropout", "z_steps", "conv_act", "conv_groups",
    "padding_idx", "pooling", "discriminator", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id",
    "mask_token_id", "unk_token_id", "decoder_start_token_id", "prefix", "max_length", "min_length",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature",
    "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"};
#define KEY_COUNT (sizeof KEYS / sizeof KEYS[0])

static ErrCode check_keys(const cJSON *root, Err *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        const char *key = item->string;
        if (key[0] == '_' || strncmp(key, "router_", 7) == 0) continue;
        size_t k = 0;
        while (k < KEY_COUNT && strcmp(KEYS[k], key) != 0) k++;
        if (k < KEY_COUNT) continue;
        char shown[84];
        text_excerpt(shown, 80, key, strlen(key));
        const char *near = text_nearest(key, KEYS, KEY_COUNT);
        if (near) return err_set(err, ERR_FORMAT, "unknown key \"%s\"; did you mean \"%s\"?", shown, near);
        return err_set(err, ERR_FORMAT, "unknown key \"%s\"; whether it changes the model is not known",
                       shown);
    }
    return ERR_OK;
}

/* Member `key`, or NULL where it is absent or null. */
static const cJSON *get(const cJSON *root, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

static ErrCode wrong(const cJSON *root, const char *key, const char *expected, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    char found[100] = "null", shown[84];
    if (!item)
        (void)snprintf(found, sizeof found, "nothing");
    else if (cJSON_IsString(item))
        (void)snprintf(found, sizeof found, "\"%s\"",
                       text_excerpt(shown, 80, item->valuestring, strlen(item->valuestring)));
    else if (cJSON_IsNumber(item))
        (void)snprintf(found, sizeof found, "%.10g", item->valuedouble);
    else if (cJSON_IsBool(item))
        (void)snprintf(found, sizeof found, "%s", cJSON_IsTrue(item) ? "true" : "false");
    else if (!cJSON_IsNull(item))
        (void)snprintf(found, sizeof found, "%s", cJSON_IsArray(item) ? "an array" : "an object");
    return err_set(err, ERR_FORMAT, "key \"%s\": found %s, expected %s", key, found, expected);
}

static ErrCode want_text(const cJSON *root, const char *key, const char *text, bool required, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    if (!item && !required) return ERR_OK;
    if (item && cJSON_IsString(item) && strcmp(item->valuestring, text) == 0) return ERR_OK;
    char expected[64];
    (void)snprintf(expected, sizeof expected, "\"%s\"", text);
    return wrong(root, key, expected, err);
}

static ErrCode want_bool(const cJSON *root, const char *key, bool value, bool required, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    if (!item && !required) return ERR_OK;
    if (item && cJSON_IsBool(item) && cJSON_IsTrue(item) == (int)value) return ERR_OK;
    return wrong(root, key, value ? "true" : "false", err);
}

/* null counts as absent. */
static ErrCode want_int(const cJSON *root, const char *key, int value, Err *err) {
    const cJSON *item = get(root, key);
    if (!item || (cJSON_IsNumber(item) && item->valuedouble == (double)value)) return ERR_OK;
    char expected[32];
    (void)snprintf(expected, sizeof expected, "%d", value);
    return wrong(root, key, expected, err);
}

/* The next piece of a "p2c | C2P" as Hugging Face reads it: case and blanks do not count. */
static bool is_term(const char *text, size_t n, const char *lower) {
    while (n && text[0] == ' ') text++, n--;
    while (n && text[n - 1] == ' ') n--;
    if (n != 3) return false;
    for (size_t i = 0; i < 3; i++) {
        const char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] - 'A' + 'a') : text[i];
        if (c != lower[i]) return false;
    }
    return true;
}

static ErrCode check_pos_att_type(const cJSON *root, Err *err) {
    const cJSON *item = get(root, "pos_att_type");
    bool c2p = false, p2c = false, other = false;
    if (cJSON_IsString(item)) {
        for (const char *p = item->valuestring;; p++) {
            const size_t n = strcspn(p, "|");
            c2p |= is_term(p, n, "c2p");
            p2c |= is_term(p, n, "p2c");
            other |= !is_term(p, n, "c2p") && !is_term(p, n, "p2c");
            p += n;
            if (!*p) break;
        }
    } else if (cJSON_IsArray(item)) {
        const cJSON *one;
        cJSON_ArrayForEach(one, item) {
            const bool c = cJSON_IsString(one) && strcmp(one->valuestring, "c2p") == 0;
            const bool p = cJSON_IsString(one) && strcmp(one->valuestring, "p2c") == 0;
            c2p |= c;
            p2c |= p;
            other |= !c && !p;
        }
    }
    if (c2p && p2c && !other) return ERR_OK;
    return wrong(root, "pos_att_type", "\"c2p\" and \"p2c\", as \"p2c|c2p\" or as an array", err);
}

/* What would be another computation than ours. */
static ErrCode check_kind(const cJSON *root, Err *err) {
    TRY(want_text(root, "model_type", "deberta-v2", false, err));
    TRY(want_text(root, "hidden_act", "gelu", false, err));
    TRY(want_text(root, "pooler_hidden_act", "gelu", false, err));
    TRY(want_text(root, "norm_rel_ebd", "layer_norm", true, err));
    TRY(want_bool(root, "relative_attention", true, true, err));
    TRY(want_bool(root, "share_att_key", true, true, err));
    TRY(want_bool(root, "position_biased_input", false, true, err));
    TRY(want_bool(root, "is_decoder", false, false, err));
    TRY(want_bool(root, "is_encoder_decoder", false, false, err));
    TRY(want_bool(root, "add_cross_attention", false, false, err));
    TRY(want_int(root, "type_vocab_size", 0, err));
    TRY(want_int(root, "conv_kernel_size", 0, err));
    const cJSON *heads = get(root, "pruned_heads");
    if (heads && !((cJSON_IsObject(heads) || cJSON_IsArray(heads)) && !heads->child))
        return wrong(root, "pruned_heads", "none", err);
    if (get(root, "quantization_config")) return wrong(root, "quantization_config", "none", err);
    return check_pos_att_type(root, err);
}

static ErrCode get_size(int *out, const cJSON *root, const char *key, int min, int max, Err *err) {
    int64_t v = *out;
    TRY(json_get_int(&v, root, key, min, max, err));
    *out = (int)v;
    return ERR_OK;
}

#define POSITIONS_MAX 65536

static ErrCode read_sizes(Config *c, const cJSON *root, Err *err) {
    TRY(get_size(&c->vocab_size, root, "vocab_size", 1, 4 << 20, err));
    TRY(get_size(&c->hidden_size, root, "hidden_size", 1, 8192, err));
    TRY(get_size(&c->num_hidden_layers, root, "num_hidden_layers", 1, 256, err));
    TRY(get_size(&c->num_attention_heads, root, "num_attention_heads", 1, 8192, err));
    TRY(get_size(&c->intermediate_size, root, "intermediate_size", 1, 65536, err));
    TRY(get_size(&c->max_position_embeddings, root, "max_position_embeddings", 1, POSITIONS_MAX, err));
    TRY(get_size(&c->max_relative_positions, root, "max_relative_positions", -1, POSITIONS_MAX, err));
    if (c->max_relative_positions < 1) c->max_relative_positions = c->max_position_embeddings;
    /* With one bucket the logarithmic rule divides by zero; without any the table has another meaning. */
    if (!cJSON_GetObjectItemCaseSensitive(root, "position_buckets"))
        return wrong(root, "position_buckets", "an integer from 2 to 65536", err);
    TRY(get_size(&c->position_buckets, root, "position_buckets", 2, POSITIONS_MAX, err));
    TRY(get_size(&c->pad_token_id, root, "pad_token_id", 0, c->vocab_size - 1, err));
    if (c->hidden_size % c->num_attention_heads != 0)
        return err_set(err, ERR_FORMAT,
                       "key \"num_attention_heads\": found %d, expected a divisor of hidden_size %d",
                       c->num_attention_heads, c->hidden_size);
    TRY(want_int(root, "attention_head_size", c->hidden_size / c->num_attention_heads, err));
    TRY(want_int(root, "embedding_size", c->hidden_size, err));
    return want_int(root, "pooler_hidden_size", c->hidden_size, err);
}

static ErrCode read_numbers(Config *c, const cJSON *root, Err *err) {
    const double below_one = nextafter(1.0, 0.0); /* a dropout of 1 divides by zero */
    TRY(json_get_double(&c->layer_norm_eps, root, "layer_norm_eps", 1e-30, 1, err));
    TRY(json_get_double(&c->initializer_range, root, "initializer_range", 0, 100, err));
    TRY(json_get_double(&c->hidden_dropout_prob, root, "hidden_dropout_prob", 0, below_one, err));
    TRY(json_get_double(&c->attention_probs_dropout_prob, root, "attention_probs_dropout_prob", 0, below_one,
                        err));
    TRY(json_get_double(&c->pooler_dropout, root, "pooler_dropout", 0, below_one, err));
    c->cls_dropout = c->hidden_dropout_prob;
    if (!get(root, "cls_dropout")) return ERR_OK; /* null is how Hugging Face spells its default */
    return json_get_double(&c->cls_dropout, root, "cls_dropout", 0, below_one, err);
}

/* ---- labels ---- */

static ErrCode number_labels(Config *c, int n, Err *err) {
    enum { NAME_BYTES = 24 };
    char *names;
    const char **list = NULL;
    TRY(mem_new(&names, (size_t)n, NAME_BYTES, "the labels", err));
    ErrCode rc = mem_new(&list, (size_t)n, sizeof *list, "the labels", err);
    for (int id = 0; id < n && rc == ERR_OK; id++) {
        char *name = names + (size_t)id * NAME_BYTES;
        (void)snprintf(name, NAME_BYTES, "LABEL_%d", id);
        list[id] = name;
    }
    if (rc == ERR_OK) rc = config_set_labels(c, list, n, err);
    mem_free(list);
    mem_free(names);
    return rc;
}

/* The id of a key of id2label, or -1: digits without a sign, a leading zero or more than four places. */
static int label_id(const char *key) {
    int id = 0;
    const size_t n = strlen(key);
    if (n < 1 || n > 4 || (n > 1 && key[0] == '0')) return -1;
    for (size_t i = 0; i < n; i++) {
        if (key[i] < '0' || key[i] > '9') return -1;
        id = id * 10 + (key[i] - '0');
    }
    return id;
}

/* names[id] (n) of an object of n members. */
static ErrCode name_by_id(const char **names, int n, const cJSON *object, Err *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        char shown[84];
        text_excerpt(shown, 80, item->string, strlen(item->string));
        const int id = label_id(item->string);
        if (id < 0 || id >= n)
            return err_set(err, ERR_FORMAT, "id2label: found the id \"%s\" among %d labels, expected 0 to %d",
                           shown, n, n - 1);
        if (!cJSON_IsString(item))
            return err_set(err, ERR_FORMAT, "id2label: the label of id %d is not a string", id);
        if (strstr(item->valuestring, "\xc0\x80")) /* how core/json carries \u0000 */
            return err_set(err, ERR_FORMAT, "id2label: the label of id %d holds a NUL character", id);
        names[id] = item->valuestring; /* ids are distinct: JSON keys are */
    }
    return ERR_OK;
}

static ErrCode read_id2label(Config *c, const cJSON *object, Err *err) {
    int n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, object) n++;
    if (!cJSON_IsObject(object) || n < 1 || n > CONFIG_LABELS_MAX)
        return err_set(err, ERR_FORMAT, "key \"id2label\": expected an object of 1 to %d labels",
                       CONFIG_LABELS_MAX);
    const char **names;
    TRY(mem_new(&names, (size_t)n, sizeof *names, "the labels", err));
    ErrCode rc = name_by_id(names, n, object, err);
    if (rc == ERR_OK) rc = config_set_labels(c, names, n, err);
    mem_free(names);
    return rc;
}

static ErrCode check_label2id(const Config *c, const cJSON *ids, Err *err) {
    if (!cJSON_IsObject(ids))
        return err_set(err, ERR_FORMAT, "key \"label2id\": expected an object from label to id");
    int n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, ids) {
        char shown[84];
        text_excerpt(shown, 80, item->string, strlen(item->string));
        const double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(id >= 0 && id < c->num_labels) || id != floor(id) ||
            strcmp(c->labels[(int)id], item->string) != 0)
            return err_set(err, ERR_FORMAT, "label2id: the label \"%s\" has another id than in id2label",
                           shown);
        n++;
    }
    if (n == c->num_labels) return ERR_OK;
    return err_set(err, ERR_FORMAT, "label2id: found %d labels, id2label has %d", n, c->num_labels);
}

/* Hugging Face leaves its default of two labels out of the file, so a classifier without any key for labels
 * has two. */
static bool is_classifier(const cJSON *root) {
    const cJSON *one, *list = get(root, "architectures");
    cJSON_ArrayForEach(one, list) {
        if (cJSON_IsString(one) && strcmp(one->valuestring, "DebertaV2ForSequenceClassification") == 0)
            return true;
    }
    return false;
}

static ErrCode read_labels(Config *c, const cJSON *root, Err *err) {
    int n = 0;
    if (get(root, "num_labels")) TRY(get_size(&n, root, "num_labels", 1, CONFIG_LABELS_MAX, err));
    const cJSON *names = get(root, "id2label"), *ids = get(root, "label2id");
    if (names) {
        TRY(read_id2label(c, names, err));
        if (n && n != c->num_labels)
            return err_set(err, ERR_FORMAT, "key \"num_labels\": found %d, but id2label has %d labels", n,
                           c->num_labels);
    } else if (n || is_classifier(root)) {
        TRY(number_labels(c, n ? n : 2, err));
    }
    if (ids && !c->num_labels)
        return err_set(err, ERR_FORMAT, "key \"label2id\": there is no \"id2label\" beside it");
    if (ids) TRY(check_label2id(c, ids, err));
    if (!get(root, "problem_type")) return ERR_OK;
    /* The loss follows from the number of labels: one is regression. */
    if (c->num_labels == 1) return want_text(root, "problem_type", "regression", true, err);
    return want_text(root, "problem_type", "single_label_classification", true, err);
}

static ErrCode read_taxonomy(Config *c, const cJSON *root, Err *err) {
    taxonomy_free(&c->taxonomy);
    return taxonomy_parse(&c->taxonomy, cJSON_GetObjectItemCaseSensitive(root, "router_taxonomy"),
                          (const char *const *)c->labels, c->num_labels, err);
}

ErrCode config_parse(Config *out, const cJSON *root, Err *err) {
    *out = (Config){0};
    if (!cJSON_IsObject(root)) return err_set(err, ERR_FORMAT, "expected a JSON object");
    /* DebertaV2Config's defaults */
    Config c = {.vocab_size = 128100,
                .hidden_size = 1536,
                .num_hidden_layers = 24,
                .num_attention_heads = 24,
                .intermediate_size = 6144,
                .max_position_embeddings = 512,
                .max_relative_positions = -1,
                .layer_norm_eps = 1e-7,
                .initializer_range = 0.02,
                .hidden_dropout_prob = 0.1,
                .attention_probs_dropout_prob = 0.1};
    ErrCode rc = check_keys(root, err);
    if (rc == ERR_OK) rc = check_kind(root, err);
    if (rc == ERR_OK) rc = read_sizes(&c, root, err);
    if (rc == ERR_OK) rc = read_numbers(&c, root, err);
    if (rc == ERR_OK) rc = read_labels(&c, root, err);
    if (rc == ERR_OK) rc = read_taxonomy(&c, root, err);
    if (rc == ERR_OK)
        *out = c;
    else
        config_free(&c);
    return rc;
}

ErrCode config_folder(char **dir, bool *run, const char *path, Err *err) {
    static const char *const FILES[] = {"config.json", "model-best/config.json", "model-last/config.json"};
    *dir = NULL;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        char *file = file_join(path, FILES[i]);
        if (!file) return err_set(err, ERR_MEMORY, "out of memory for a path");
        if (file_exists(file)) {
            *strrchr(file, '/') = '\0';
            *dir = file;
            *run = i > 0;
            return ERR_OK;
        }
        mem_free(file);
    }
    return err_set(err, ERR_ARGUMENT,
                   "%s: found neither config.json (a model) nor model-best/config.json (a training run)",
                   path);
}

ErrCode config_read(Config *out, const char *path, Err *err) {
    *out = (Config){0};
    char *inside = file_is_dir(path) ? file_join(path, "config.json") : mem_strdup(path);
    if (!inside) return err_set(err, ERR_MEMORY, "out of memory reading %s", path);
    cJSON *root = NULL;
    ErrCode rc = json_read(&root, inside, err);
    if (rc == ERR_OK) {
        rc = config_parse(out, root, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", inside);
    }
    cJSON_Delete(root);
    mem_free(inside);
    return rc;
}

static bool add_labels(cJSON *root, const Config *c) {
    cJSON *names = cJSON_AddObjectToObject(root, "id2label");
    cJSON *ids = cJSON_AddObjectToObject(root, "label2id");
    bool ok = names && ids;
    for (int id = 0; ok && id < c->num_labels; id++) {
        char key[16];
        (void)snprintf(key, sizeof key, "%d", id);
        ok = cJSON_AddStringToObject(names, key, c->labels[id]) &&
             cJSON_AddNumberToObject(ids, c->labels[id], id);
    }
    return ok;
}

ErrCode config_json(cJSON **out, const Config *c, Err *err) {
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"vocab_size", c->vocab_size},
        {"hidden_size", c->hidden_size},
        {"num_hidden_layers", c->num_hidden_layers},
        {"num_attention_heads", c->num_attention_heads},
        {"intermediate_size", c->intermediate_size},
        {"max_position_embeddings", c->max_position_embeddings},
        {"max_relative_positions",
         c->max_relative_positions == c->max_position_embeddings ? -1 : c->max_relative_positions},
        {"position_buckets", c->position_buckets},
        {"type_vocab_size", 0},
        {"pad_token_id", c->pad_token_id},
        {"layer_norm_eps", c->layer_norm_eps},
        {"initializer_range", c->initializer_range},
        {"hidden_dropout_prob", c->hidden_dropout_prob},
        {"attention_probs_dropout_prob", c->attention_probs_dropout_prob},
        {"cls_dropout", c->cls_dropout},
        {"pooler_dropout", c->pooler_dropout},
        {"pooler_hidden_size", c->hidden_size},
    };
    static const struct {
        const char *key, *value;
    } TEXTS[] = {{"model_type", "deberta-v2"},   {"hidden_act", "gelu"},      {"pooler_hidden_act", "gelu"},
                 {"norm_rel_ebd", "layer_norm"}, {"pos_att_type", "p2c|c2p"}, {"torch_dtype", "float32"}};
    cJSON *root = cJSON_CreateObject();
    cJSON *list = root ? cJSON_AddArrayToObject(root, "architectures") : NULL;
    cJSON *name = cJSON_CreateString(c->num_labels ? "DebertaV2ForSequenceClassification" : "DebertaV2Model");
    bool ok = list && name && cJSON_AddItemToArray(list, name);
    if (!ok) cJSON_Delete(name);
    for (size_t i = 0; ok && i < sizeof TEXTS / sizeof TEXTS[0]; i++)
        ok = cJSON_AddStringToObject(root, TEXTS[i].key, TEXTS[i].value) != NULL;
    for (size_t i = 0; ok && i < sizeof numbers / sizeof numbers[0]; i++)
        ok = cJSON_AddNumberToObject(root, numbers[i].key, numbers[i].value) != NULL;
    ok = ok && cJSON_AddTrueToObject(root, "relative_attention") &&
         cJSON_AddTrueToObject(root, "share_att_key") &&
         cJSON_AddFalseToObject(root, "position_biased_input");
    if (ok && c->num_labels) ok = add_labels(root, c);
    if (ok && taxonomy_says(&c->taxonomy)) {
        cJSON *taxonomy;
        ok = taxonomy_json(&taxonomy, &c->taxonomy, (const char *const *)c->labels, NULL) == ERR_OK;
        if (ok && !cJSON_AddItemToObject(root, "router_taxonomy", taxonomy)) {
            cJSON_Delete(taxonomy);
            ok = false;
        }
    }
    *out = ok ? root : NULL;
    if (ok) return ERR_OK;
    cJSON_Delete(root);
    return err_set(err, ERR_MEMORY, "out of memory writing config.json");
}
