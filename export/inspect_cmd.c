#include "export/inspect_cmd.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "core/text.h"
#include "export/blob.h"

typedef struct {
    bool json, tensors, verify;
} InspectOptions;

static const Flag FLAGS[] = {
    {"tensors", NULL, FLAG_BOOL, offsetof(InspectOptions, tensors), NULL, 0, 0, NULL,
     "List every tensor with its type, shape, place and digest."},
    {"json", NULL, FLAG_BOOL, offsetof(InspectOptions, json), NULL, 0, 0, NULL,
     "Print metadata and tensors as one JSON object."},
    {"verify", NULL, FLAG_BOOL, offsetof(InspectOptions, verify), "true", 0, 0, NULL,
     "Check the digests; --no-verify shows a damaged file as far as it makes sense."},
};

static const char *digest_of(const Blob *b, const char *name) {
    char key[BLOB_NAME_MAX + 16];
    (void)snprintf(key, sizeof key, "router.sha256.%.96s", name);
    const char *digest = blob_metadata(b, key);
    return digest ? digest : "";
}

/* As config.json has it. */
static ErrCode put_taxonomy(Buf *out, const Blob *b, Err *err) {
    cJSON *tree;
    TRY(taxonomy_json(&tree, &b->config.taxonomy, b->labels, err));
    char *text = cJSON_PrintUnformatted(tree);
    const ErrCode rc = text ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the taxonomy");
    buf_puts(out, ",\"taxonomy\":");
    buf_puts(out, text ? text : "");
    cJSON_free(text);
    cJSON_Delete(tree);
    return rc;
}

static ErrCode put_json(Buf *out, const Blob *b, const char *path, Err *err) {
    buf_puts(out, "{\"file\":");
    text_put_json(out, path, strlen(path));
    buf_printf(out, ",\"bytes\":%zu,\"compressed\":%s,\"metadata\":{", b->size, b->packed ? "true" : "false");
    for (size_t i = 0; i < b->header.metadata_count; i++) {
        const SafetensorsPair *p = &b->header.metadata[i];
        if (i) buf_puts(out, ",");
        text_put_json(out, p->key, strlen(p->key));
        buf_puts(out, ":");
        text_put_json(out, p->value, p->value_len);
    }
    buf_puts(out, "}");
    TRY(put_taxonomy(out, b, err));
    buf_puts(out, ",\"tensors\":[");
    for (size_t i = 0; i < b->header.count; i++) {
        const SafetensorsEntry *e = &b->header.entries[i];
        char shape[96];
        buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        text_put_json(out, e->name, strlen(e->name));
        buf_printf(out, ",\"dtype\":\"%s\",\"shape\":%s,\"begin\":%llu,\"end\":%llu}",
                   tensor_dtype_name(e->dtype), tensor_shape_text(shape, e->shape, e->rank),
                   (unsigned long long)e->begin, (unsigned long long)e->end);
    }
    buf_puts(out, "]}\n");
    return ERR_OK;
}

/* Text of strangers, for a terminal: at most `max` bytes, without control characters. */
static void put_text(Buf *out, const char *name, const char *value, size_t max) {
    char shown[1204];
    if (!value) return;
    buf_printf(out, "  %-20s %s\n", name, text_excerpt(shown, max, value, strlen(value)));
}

static void put_model(Buf *out, const Blob *b) {
    const BlobConfig *c = &b->config;
    buf_puts(out, "model\n");
    put_text(out, "architecture", blob_metadata(b, "router.architecture"), 80);
    buf_printf(out, "  %-20s %d layers, width %d, %d heads, feed-forward %d, %d word embeddings\n", "shape",
               c->num_hidden_layers, c->hidden_size, c->num_attention_heads, c->intermediate_size,
               c->vocab_size);
    buf_printf(out, "  %-20s %d buckets for distances below %d, tables folded in 16 bits\n", "positions",
               c->position_buckets, c->max_relative_positions);
    put_text(out, "weights", blob_metadata(b, "router.weights"), 80);
    put_text(out, "activations", blob_metadata(b, "router.activations"), 80);
    buf_puts(out, "input\n");
    buf_printf(out, "  %-20s %d tokens, the first ones are kept\n", "longest", c->max_tokens);
    buf_printf(out, "  %-20s %s, %zu bytes; ids [PAD] %d [CLS] %d [SEP] %d [UNK] %d [MASK] %d\n", "tokenizer",
               "sentencepiece", b->spm_bytes, c->pad, c->cls, c->sep, c->unk, c->mask);
    buf_printf(out, "  %-20s %s\n", "special strings", c->plain_text ? "are text" : "are tokens");
}

static void put_history(Buf *out, const TaxonomyLabel *label) {
    char shown[TAXONOMY_DESCRIPTION_MAX + 4];
    if (label->retired) buf_puts(out, "  retired");
    if (label->since > 1) buf_printf(out, "  since revision %d", label->since);
    for (int i = 0; i < label->former_count; i++)
        buf_printf(out, "%s%s", i ? ", " : "  formerly ",
                   text_excerpt(shown, TAXONOMY_NAME_MAX, label->former[i], strlen(label->former[i])));
    if (label->description)
        buf_printf(
            out, "\n        %s",
            text_excerpt(shown, TAXONOMY_DESCRIPTION_MAX, label->description, strlen(label->description)));
}

/* Per label: what the calibration vector, the thresholds and the taxonomy say, where they say anything. */
static void put_labels(Buf *out, const Blob *b) {
    const DecideRule *rule = &b->config.decide;
    const Taxonomy *t = &b->config.taxonomy;
    buf_printf(out, "labels (%d)\n", b->config.num_labels);
    buf_printf(out, "  %-20s %d%s\n", "revision", t->revision, t->revision == 1 ? ", without a parent" : "");
    if (t->revision > 1) put_text(out, "parent", t->parent, 80);
    for (int k = 0; k < b->config.num_labels; k++) {
        char shown[BLOB_LABEL_MAX + 4];
        buf_printf(out, "  %4d  %s", k,
                   text_excerpt(shown, BLOB_LABEL_MAX, b->labels[k], strlen(b->labels[k])));
        if (rule->vector)
            buf_printf(out, "  scale %.6g, bias %.6g", (double)rule->scale[k], (double)rule->bias[k]);
        if (rule->per_class) buf_printf(out, "  threshold %.6g", (double)rule->threshold[k]);
        put_history(out, &t->labels[k]);
        buf_puts(out, "\n");
    }
}

static void put_decision(Buf *out, const Blob *b) {
    const DecideRule *rule = &b->config.decide;
    buf_puts(out, "decision\n");
    buf_printf(out, "  %-20s %g%s\n", "temperature", (double)rule->temperature,
               rule->vector ? ", and a scale and bias for each label" : "");
    if (rule->score == DECIDE_ALWAYS) {
        buf_printf(out, "  %-20s never\n", "abstains");
    } else if (rule->per_class) {
        buf_printf(out, "  %-20s where %s is below the label's threshold\n", "abstains",
                   decide_score_name(rule->score));
    } else {
        buf_printf(out, "  %-20s where %s is below %.9g\n", "abstains", decide_score_name(rule->score),
                   (double)rule->threshold[0]);
    }
    if (rule->score != DECIDE_ALWAYS)
        put_text(out, "fallback", rule->fallback < 0 ? "none" : b->labels[rule->fallback], BLOB_LABEL_MAX);
    put_text(out, "policy", blob_metadata(b, "router.decision.policy"), 200);
    put_text(out, "calibration", blob_metadata(b, "router.calibration"), 600);
}

static void put_tensors(Buf *out, const Blob *b) {
    buf_printf(out, "tensors (%zu)\n", b->header.count);
    for (size_t i = 0; i < b->header.count; i++) {
        const SafetensorsEntry *e = &b->header.entries[i];
        char shape[96];
        buf_printf(out, "  %12llu  %-3s %-16s %-60s %.12s\n", (unsigned long long)(b->data_start + e->begin),
                   tensor_dtype_name(e->dtype), tensor_shape_text(shape, e->shape, e->rank), e->name,
                   digest_of(b, e->name));
    }
}

static void put_summary(Buf *out, const Blob *b, const char *path, const InspectOptions *o) {
    buf_printf(out, "%s: router blob %s, %zu bytes%s\n", path, blob_metadata(b, "router.format"), b->size,
               b->packed ? " (packed with zstd)" : "");
    buf_puts(out, o->verify ? "  digests: all as stated\n" : "  digests: not checked\n");
    put_text(out, "description", blob_metadata(b, "router.description"), 1200);
    put_model(out, b);
    put_decision(out, b);
    put_labels(out, b);
    buf_puts(out, "made\n");
    static const char *const KEYS[][2] = {
        {"by", "router.tool"},
        {"date", "router.date"},
        {"license", "router.license"},
        {"model file", "router.source.model_sha256"},
        {"weights", "router.source.weights_sha256"},
        {"tokenizer", "router.source.tokenizer_sha256"},
        {"header", "router.header_sha256"},
        {"golden vectors", "router.golden.count"},
        {"training", "router.train_config"},
        {"dev metrics", "router.metrics.dev"},
        {"metrics", "router.metrics"},
    };
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        put_text(out, KEYS[i][0], blob_metadata(b, KEYS[i][1]), 600);
    if (o->tensors) put_tensors(out, b);
}

static ErrCode run_inspect(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const InspectOptions *o = options;
    const char *path = arguments->items[0];
    Blob blob;
    TRY(blob_open(&blob, path, &(BlobOptions){.trust = !o->verify}, NULL, err));
    Buf text = {0};
    ErrCode rc = ERR_OK;
    if (o->json)
        rc = put_json(&text, &blob, path, err);
    else
        put_summary(&text, &blob, path, o);
    if (rc == ERR_OK) rc = buf_print(&text, out, err);
    buf_free(&text);
    blob_close(&blob);
    return rc;
}

const Command inspect_cmd = {
    .name = "inspect",
    .summary = "show what an exported file says about itself",
    .usage = "inspect FILE",
    .details = "Opens the file as strictly as librouter does, so that it also says why a file is refused.",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(InspectOptions),
    .positional_min = 1,
    .positional_max = 1,
    .run = run_inspect,
};
