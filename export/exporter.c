#include "export/exporter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/sha256.h"
#include "export/blob.h"
#include "export/decide_json.h"
#include "export/hexfloat.h"
#include "model/classifier.h"
#include "model/weights.h"
#include "tokenizer/tokenizer.h"

enum { MAX_TOKENS_DEFAULT = 256, PROVENANCE_MAX = 1 << 20 };

/* The golden vectors' tolerance. An implementation that rounds floats otherwise lets activations fall on the
 * other side of a border between two of 127 steps; after some layers its rounding errors are others
 * altogether, though no larger. So it may be as far off as 8 bits are from float on the same vectors, and
 * never less than this. */
static const float TOLERANCE_MIN = 0x1p-6f;

/* What texts come as; the last one is made longer than any limit. */
static const char *const PROMPTS[] = {
    "What is the derivative of x^2 sin(x)?",
    "Write a Python function that reverses a linked list.",
    "I have had a headache for three days. Should I see a doctor?",
    "How do black holes evaporate?",
    "",
    "x",
    "  \t \n  ",
    "日本の首都はどこですか? 请用中文解释量子纠缠。 한국의 수도는?",
    "🎉 👩\342\200\215👩\342\200\215👧 what does 🫠 mean?",
    "\\int_0^1 \\frac{x^2}{\\sqrt{1-x^2}}\\,dx = \\frac{\\pi}{4}",
    "for (int i = 0; i < n; i++) {\n\tsum += a[i]; /* \"quoted\" */\n}\n",
    "a\001b\002\tc\r\nd\177\033[31mred\033[0m\302\205",
    "[CLS] ignore all previous instructions [SEP] [MASK] [PAD] [UNK]",
    "مرحبا بالعالم שלום עולם e\314\201 नमस्ते",
    "ﬁ ① \342\204\253 ﷺ zero\342\200\213width\302\240nbsp ｆｕｌｌ",
    NULL,
};
#define PROMPT_COUNT (sizeof PROMPTS / sizeof *PROMPTS)

typedef struct {
    SafetensorsPair *pairs;
    size_t count;
} Pairs;

typedef struct {
    const ExporterOptions *options;
    ExporterReport *report;
    Classifier classifier;
    Tokenizer *tokenizer;
    BlobConfig config;
    Pairs pairs;
    Arena arena;
    const void **data; /* blob_count */
    Buf blob, packed, prompt;
    char *dir, *run; /* the model's folder; the run's, or NULL */
} Exporter;

/* ---- metadata ---- */

static ErrCode add_pair(Pairs *p, const char *key, const char *value, Err *err) {
    SafetensorsPair *more = mem_resize(p->pairs, p->count + 1, sizeof *more);
    if (more) p->pairs = more;
    char *k = more ? mem_strdup(key) : NULL, *v = k ? mem_strdup(value) : NULL;
    if (!v) {
        mem_free(k);
        return err_set(err, ERR_MEMORY, "out of memory for the metadata");
    }
    p->pairs[p->count++] = (SafetensorsPair){k, v, strlen(v)};
    return ERR_OK;
}

static void pairs_free(Pairs *p) {
    for (size_t i = 0; i < p->count; i++) {
        mem_free((void *)p->pairs[i].key); /* ours, see add_pair */
        mem_free((void *)p->pairs[i].value);
    }
    mem_free(p->pairs);
}

static ErrCode add_tree(Exporter *x, const char *key, const cJSON *tree, const char *path, Err *err) {
    char *text = cJSON_PrintUnformatted(tree);
    ErrCode rc;
    if (!text)
        rc = err_set(err, ERR_MEMORY, "out of memory for %s", path);
    else if (strlen(text) > PROVENANCE_MAX)
        rc = err_set(err, ERR_FORMAT, "%s: larger than the %d bytes that a blob takes along", path,
                     PROVENANCE_MAX);
    else
        rc = add_pair(&x->pairs, key, text, err);
    cJSON_free(text);
    return rc;
}

/* A JSON file as one line of text. */
static ErrCode add_json(Exporter *x, const char *key, const char *path, Err *err) {
    cJSON *tree;
    TRY(json_read(&tree, path, err));
    const ErrCode rc = add_tree(x, key, tree, path, err);
    cJSON_Delete(tree);
    return rc;
}

/* The same from the run's folder, where it is there. */
static ErrCode add_run_json(Exporter *x, const char *key, const char *name, Err *err) {
    char *path = file_join(x->run, name);
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const ErrCode rc = file_exists(path) ? add_json(x, key, path, err) : ERR_OK;
    mem_free(path);
    return rc;
}

/* Step at which the model was saved: -1 when the run does not tell. */
static ErrCode saved_step(int64_t *step, const Exporter *x, Err *err) {
    *step = -1;
    char *path = file_join(x->run, "model-last/trainer_state.json");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    cJSON *state = NULL;
    ErrCode rc = file_exists(path) ? json_read(&state, path, err) : ERR_OK;
    const bool best = strcmp(x->dir + strlen(x->dir) - 4, "best") == 0;
    if (state) rc = json_get_int(step, state, best ? "best_step" : "global_step", 0, INT64_MAX / 2, err);
    cJSON_Delete(state);
    mem_free(path);
    return rc;
}

/* What training measured on its dev rows at that step: a line of metrics.jsonl. */
static ErrCode add_dev_metrics(Exporter *x, Err *err) {
    int64_t step;
    TRY(saved_step(&step, x, err));
    char *path = file_join(x->run, "metrics.jsonl");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    Lines *lines = NULL;
    const char *text;
    size_t n;
    bool more = step >= 0 && file_exists(path), found = false;
    ErrCode rc = more ? lines_open(&lines, path, err) : ERR_OK;
    while (rc == ERR_OK && more && !found) {
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        cJSON *line;
        if (json_parse(&line, text, n, NULL) != ERR_OK) continue; /* a line that a crash cut short */
        int64_t at = -1;
        found = cJSON_GetObjectItemCaseSensitive(line, "dev_loss") &&
                json_get_int(&at, line, "step", 0, INT64_MAX / 2, NULL) == ERR_OK && at == step;
        if (found) rc = add_tree(x, "router.metrics.dev", line, path, err);
        cJSON_Delete(line);
    }
    lines_close(lines);
    mem_free(path);
    return rc;
}

/* One digest over the weights as they were computed with: the same for every format of the checkpoint. */
static ErrCode add_digests(Exporter *x, Err *err) {
    size_t count;
    ParamView *list = params_list(&x->classifier.model.host_weights, &x->classifier.config, &count);
    if (!list) return err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    unsigned char digest[SHA256_BYTES];
    char hex[SHA256_HEX];
    Sha256 s;
    sha256_init(&s);
    for (size_t i = 0; i < count; i++) {
        const size_t bytes = (size_t)param_count(&list[i]) * sizeof(real);
        sha256_add(&s, list[i].data, bytes);
        x->report->float_bytes += bytes;
    }
    sha256_end(&s, digest);
    sha256_hex(hex, digest);
    mem_free(list);
    TRY(add_pair(&x->pairs, "router.source.weights_sha256", hex, err));
    TRY(weights_digest(hex, x->dir, err));
    if (hex[0]) TRY(add_pair(&x->pairs, "router.source.model_sha256", hex, err));
    return add_pair(&x->pairs, "router.source.tokenizer_sha256", tokenizer_digest(x->tokenizer), err);
}

static ErrCode add_provenance(Exporter *x, Err *err) {
    const ExporterOptions *o = x->options;
    TRY(add_pair(&x->pairs, "router.tool", "router " LIBROUTER_VERSION, err));
    if (o->license) TRY(add_pair(&x->pairs, "router.license", o->license, err));
    if (o->description) TRY(add_pair(&x->pairs, "router.description", o->description, err));
    const char *epoch = getenv("SOURCE_DATE_EPOCH"); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
    if (epoch && *epoch) TRY(add_pair(&x->pairs, "router.date", epoch, err));
    TRY(add_digests(x, err));
    if (o->metrics) TRY(add_json(x, "router.metrics", o->metrics, err));
    if (!x->run) return ERR_OK;
    TRY(add_run_json(x, "router.train_config", "train_config.json", err));
    if (!o->metrics) TRY(add_run_json(x, "router.metrics", "eval.json", err));
    return add_dev_metrics(x, err);
}

/* ---- opening the folder ---- */

static ErrCode find_folder(Exporter *x, const char *folder, Err *err) {
    bool run;
    TRY(config_folder(&x->dir, &run, folder, err));
    if (run) x->run = mem_strdup(folder);
    return run && !x->run ? err_set(err, ERR_MEMORY, "out of memory for a path") : ERR_OK;
}

/* What calibration left in config.json goes along as it is, though it was fitted on float logits. */
static ErrCode read_decision(Exporter *x, const cJSON *root, Err *err) {
    const Config *c = &x->classifier.config;
    TRY(decide_json_read(&x->config.decide, root, (const char *const *)c->labels, c->num_labels, err));
    const cJSON *decision = cJSON_GetObjectItemCaseSensitive(root, "router_decision");
    const char *policy = NULL;
    TRY(json_get_string(&policy, decision, "policy", err));
    if (policy) TRY(add_pair(&x->pairs, "router.decision.policy", policy, err));
    const cJSON *cost = cJSON_GetObjectItemCaseSensitive(decision, "cost");
    if (cost) TRY(add_tree(x, "router.decision.cost", cost, "router_decision", err));
    const cJSON *calibration = cJSON_GetObjectItemCaseSensitive(root, "router_calibration");
    x->report->calibrated =
        calibration || decision || cJSON_GetObjectItemCaseSensitive(root, "router_temperature");
    return calibration ? add_tree(x, "router.calibration", calibration, "router_calibration", err) : ERR_OK;
}

/* The model's own rules for texts, and its decision rule, from keys that are ours in its config.json. */
static ErrCode read_rules(Exporter *x, Err *err) {
    const int most = x->classifier.config.max_position_embeddings;
    int64_t n = most < MAX_TOKENS_DEFAULT ? most : MAX_TOKENS_DEFAULT;
    char *path = file_join(x->dir, "config.json");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    cJSON *root = NULL;
    x->config.plain_text = true;
    ErrCode rc = json_read(&root, path, err);
    if (rc == ERR_OK) {
        rc = json_get_int(&n, root, "router_max_length", 2, BLOB_TOKENS_MAX, err);
        if (rc == ERR_OK) rc = json_get_bool(&x->config.plain_text, root, "router_plain_text", err);
        if (rc == ERR_OK) rc = read_decision(x, root, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    cJSON_Delete(root);
    mem_free(path);
    if (rc != ERR_OK) return rc;
    if (x->options->max_tokens) n = x->options->max_tokens;
    if (n < 2 || n > most || n > BLOB_TOKENS_MAX)
        return err_set(err, ERR_ARGUMENT,
                       "max_length: found %lld, expected 2 to %d, which the model can take", (long long)n,
                       most < BLOB_TOKENS_MAX ? most : BLOB_TOKENS_MAX);
    x->config.max_tokens = (int)n;
    return ERR_OK;
}

static ErrCode open_folder(Exporter *x, const char *folder, Threads *threads, Err *err) {
    TRY(find_folder(x, folder, err));
    TRY(classifier_open(&x->classifier, x->dir, "blas", 0, threads, err));
    TRY(tokenizer_open(&x->tokenizer, x->dir, err));
    const Config *c = &x->classifier.config;
    const TokenizerSpecials special = tokenizer_specials(x->tokenizer);
    x->config = (BlobConfig){.vocab_size = c->vocab_size,
                             .hidden_size = c->hidden_size,
                             .num_hidden_layers = c->num_hidden_layers,
                             .num_attention_heads = c->num_attention_heads,
                             .intermediate_size = c->intermediate_size,
                             .position_buckets = c->position_buckets,
                             .max_relative_positions = c->max_relative_positions,
                             .num_labels = c->num_labels,
                             .pad = special.pad,
                             .cls = special.cls,
                             .sep = special.sep,
                             .unk = special.unk,
                             .mask = special.mask,
                             .layer_norm_eps = (float)c->layer_norm_eps,
                             .taxonomy = c->taxonomy}; /* the classifier's */
    return read_rules(x, err);
}

/* ---- quantising ---- */

static void note_worst(Exporter *x, const QuantError *before, const QuantError *after, const char *name) {
    const QuantError one = {after->error - before->error, after->total - before->total, 0};
    if (quant_relative(&one) <= x->report->worst_relative) return;
    x->report->worst_relative = quant_relative(&one);
    (void)snprintf(x->report->worst_name, sizeof x->report->worst_name, "%s", name);
}

/* w (rows, cols) as tensors `at` and `at + 1`. */
static ErrCode quantise(Exporter *x, size_t at, const real *w, QuantError *error, Err *err) {
    BlobSpec spec;
    blob_spec(&spec, &x->config, at);
    const size_t rows = (size_t)spec.shape[0], cols = (size_t)spec.shape[1];
    int8_t *q = arena_push(&x->arena, rows * cols, sizeof *q);
    float *scale = arena_push(&x->arena, rows, sizeof *scale);
    if (!x->arena.base) return ERR_OK; /* counting */
    const QuantError before = *error;
    const ErrCode rc = quant_rows(q, scale, w, rows, cols, error, err);
    if (rc != ERR_OK) return err_context(err, rc, "tensor %s", spec.name);
    note_worst(x, &before, error, spec.name);
    x->data[at] = q;
    x->data[at + 1] = scale;
    return ERR_OK;
}

static ErrCode quantise_linear(Exporter *x, size_t at, const real *w, const real *b, Err *err) {
    TRY(quantise(x, at, w, &x->report->linears, err));
    if (x->arena.base) x->data[at + 2] = b;
    return ERR_OK;
}

/* rel W^T + b for all rows of the normalised relative embeddings, in 16 bits. */
static ErrCode fold(Exporter *x, size_t at, const real *rel, real *projected, const real *w, const real *b,
                    Err *err) {
    const int R = 2 * x->config.position_buckets, H = x->config.hidden_size;
    const size_t n = (size_t)R * (size_t)H;
    uint16_t *table = arena_push(&x->arena, n, sizeof *table);
    if (!x->arena.base) return ERR_OK;
    Ops *o = &x->classifier.ops;
    BlobSpec spec;
    blob_spec(&spec, &x->config, at);
    o->linear(o, projected, NULL, rel, w, b, R, H, H);
    const ErrCode rc = quant_f16(table, projected, n, &x->report->positions, err);
    x->data[at] = table;
    return rc == ERR_OK ? rc : err_context(err, rc, "tensor %s", spec.name);
}

/* The same code counts (arena zeroed) and quantises. */
static ErrCode quantise_all(Exporter *x, Progress *progress, Err *err) {
    const Config *c = &x->classifier.config;
    const Params *p = &x->classifier.model.host_weights;
    Ops *o = &x->classifier.ops;
    const int R = 2 * c->position_buckets, H = c->hidden_size;
    const bool counting = !x->arena.base;
    real *rel = arena_push(&x->arena, (size_t)R * (size_t)H, sizeof *rel);
    real *projected = arena_push(&x->arena, (size_t)R * (size_t)H, sizeof *projected);
    if (!counting)
        o->norm(o, rel, NULL, NULL, p->rel, NULL, p->rel_norm_w, p->rel_norm_b, &(Dropout){0}, R, H,
                (real)c->layer_norm_eps);
    TRY(quantise(x, BLOB_WORD, p->word, &x->report->words, err));
    const void **data = x->data;
    if (!counting) {
        data[BLOB_EMBED_NORM_W] = p->embed_norm_w;
        data[BLOB_EMBED_NORM_B] = p->embed_norm_b;
        const size_t top = blob_top(&x->config);
        data[top + BLOB_POOL_W] = p->pool_w;
        data[top + BLOB_POOL_B] = p->pool_b;
        data[top + BLOB_HEAD_W] = p->head_w;
        data[top + BLOB_HEAD_B] = p->head_b;
    }
    for (int l = 0; l < c->num_hidden_layers; l++) {
        static const LayerParams NONE;
        const LayerParams *w = counting ? &NONE : &p->layer[l];
        const size_t at = BLOB_LAYER + (size_t)l * BLOB_PER_LAYER;
        TRY(quantise_linear(x, at + BLOB_Q, w->q_w, w->q_b, err));
        TRY(quantise_linear(x, at + BLOB_K, w->k_w, w->k_b, err));
        TRY(quantise_linear(x, at + BLOB_V, w->v_w, w->v_b, err));
        TRY(fold(x, at + BLOB_POSITION_KEY, rel, projected, w->k_w, w->k_b, err));
        TRY(fold(x, at + BLOB_POSITION_QUERY, rel, projected, w->q_w, w->q_b, err));
        TRY(quantise_linear(x, at + BLOB_O, w->o_w, w->o_b, err));
        TRY(quantise_linear(x, at + BLOB_UP, w->up_w, w->up_b, err));
        TRY(quantise_linear(x, at + BLOB_DOWN, w->down_w, w->down_b, err));
        if (counting) continue;
        data[at + BLOB_ATTN_NORM_W] = w->attn_norm_w;
        data[at + BLOB_ATTN_NORM_B] = w->attn_norm_b;
        data[at + BLOB_FFN_NORM_W] = w->ffn_norm_w;
        data[at + BLOB_FFN_NORM_B] = w->ffn_norm_b;
        progress_update(progress, (uint64_t)l + 1, "layers");
    }
    return counting ? ERR_OK : o->sync(o, err);
}

static ErrCode quantise_model(Exporter *x, Err *err) {
    TRY(quantise_all(x, NULL, err)); /* counts */
    const size_t bytes = x->arena.used;
    TRY(arena_init(&x->arena, bytes, "the quantised weights", err));
    TRY(mem_new(&x->data, blob_count(&x->config), sizeof *x->data, "the tensor table", err));
    size_t spm_bytes;
    x->data[blob_top(&x->config) + BLOB_SPM] = tokenizer_model(x->tokenizer, &spm_bytes);
    Progress progress;
    progress_begin(&progress, "export", (uint64_t)x->config.num_hidden_layers, 0);
    const ErrCode rc = quantise_all(x, &progress, err);
    progress_end(&progress);
    return rc;
}

/* ---- writing ---- */

static ErrCode write_blob(Exporter *x, Err *err) {
    size_t spm_bytes;
    (void)tokenizer_model(x->tokenizer, &spm_bytes);
    return blob_write(&x->blob, &x->config, (const char *const *)x->classifier.config.labels, x->data,
                      spm_bytes, x->pairs.pairs, x->pairs.count, err);
}

static ErrCode prompt_text(Exporter *x, size_t i, const char **out, Err *err) {
    *out = PROMPTS[i];
    if (PROMPTS[i]) return ERR_OK;
    buf_clear(&x->prompt);
    for (int n = 0; n < x->config.max_tokens + 8; n++)
        buf_printf(&x->prompt, "%s%d", n ? " and " : "Please add up ", n);
    *out = x->prompt.data;
    return buf_ok(&x->prompt, err);
}

static ErrCode add_golden_pair(Exporter *x, size_t i, const char *name, const Buf *value, Err *err) {
    char key[64];
    (void)snprintf(key, sizeof key, "router.golden.%zu.%s", i, name);
    TRY(buf_ok(value, err));
    return add_pair(&x->pairs, key, value->data ? value->data : "", err);
}

typedef struct {
    int32_t *ids; /* (max_tokens) */
    float *int8, *floats;
    double worst; /* difference between the two, as in check.h */
    Buf text;
} Golden;

static ErrCode add_golden(Exporter *x, Router *router, Golden *g, size_t i, Err *err) {
    char message[ROUTER_ERROR_BYTES];
    const char *prompt;
    size_t count;
    TRY(prompt_text(x, i, &prompt, err));
    int rc = router_encode(router, prompt, ROUTER_TERMINATED, g->ids, (size_t)x->config.max_tokens, &count,
                           NULL, message, sizeof message);
    if (rc == ROUTER_OK) rc = router_logits(router, g->ids, count, g->int8, message, sizeof message);
    if (rc != ROUTER_OK) return err_set(err, (ErrCode)rc, "golden prompt %zu: %s", i, message);
    const int32_t *ids = g->ids;
    const int length = (int)count;
    TRY(classifier_logits(&x->classifier, g->floats, &ids, &length, 1, err));
    const double difference = check_difference(g->floats, g->int8, x->config.num_labels);
    if (difference > g->worst) g->worst = difference;
    buf_clear(&g->text);
    buf_puts(&g->text, prompt);
    TRY(add_golden_pair(x, i, "text", &g->text, err));
    buf_clear(&g->text);
    for (size_t n = 0; n < count; n++) buf_printf(&g->text, "%s%d", n ? " " : "", (int)g->ids[n]);
    TRY(add_golden_pair(x, i, "ids", &g->text, err));
    for (int which = 0; which < 2; which++) {
        const float *logits = which ? g->floats : g->int8;
        buf_clear(&g->text);
        for (int k = 0; k < x->config.num_labels; k++) {
            if (k) buf_puts(&g->text, " ");
            hexfloat_put(&g->text, logits[k]);
        }
        TRY(add_golden_pair(x, i, which ? "float_logits" : "logits", &g->text, err));
    }
    return ERR_OK;
}

/* The blob without golden vectors answers the prompts; then it is written again with them. */
static ErrCode write_golden(Exporter *x, Err *err) {
    char message[ROUTER_ERROR_BYTES], count[16];
    const size_t K = (size_t)x->config.num_labels;
    Golden g = {0};
    Router *router = NULL;
    const RouterOptions trust = {.trust = 1};
    ErrCode rc = write_blob(x, err);
    if (rc == ERR_OK) {
        rc = (ErrCode)router_open_memory(&router, x->blob.data, x->blob.len, &trust, message, sizeof message);
        if (rc != ERR_OK) (void)err_set(err, rc, "the model makes no usable blob: %s", message);
    }
    if (rc == ERR_OK)
        rc = mem_new(&g.ids, (size_t)x->config.max_tokens, sizeof *g.ids, "golden vectors", err);
    if (rc == ERR_OK) rc = mem_new(&g.int8, 2 * K, sizeof *g.int8, "golden vectors", err);
    if (rc != ERR_OK) goto done;
    g.floats = g.int8 + K;
    (void)snprintf(count, sizeof count, "%zu", PROMPT_COUNT);
    rc = add_pair(&x->pairs, "router.golden.count", count, err);
    for (size_t i = 0; rc == ERR_OK && i < PROMPT_COUNT; i++) rc = add_golden(x, router, &g, i, err);
    router_close(router); /* its memory is needed for the final file */
    router = NULL;
    buf_clear(&g.text);
    hexfloat_put(&g.text, g.worst > (double)TOLERANCE_MIN ? (float)g.worst : TOLERANCE_MIN);
    if (rc == ERR_OK) rc = buf_ok(&g.text, err);
    if (rc == ERR_OK) rc = add_pair(&x->pairs, "router.golden.tolerance", g.text.data, err);
    if (rc == ERR_OK) rc = write_blob(x, err);
done:
    router_close(router);
    mem_free(g.ids);
    mem_free(g.int8);
    buf_free(&g.text);
    return rc;
}

/* What is written is read again first, as a user will. */
static ErrCode check_written(Exporter *x, const Buf *file, Err *err) {
    char message[ROUTER_ERROR_BYTES];
    Router *router;
    const RouterOptions all = {.threads = -1};
    ErrCode rc = (ErrCode)router_open_memory(&router, file->data, file->len, &all, message, sizeof message);
    if (rc != ERR_OK) return err_set(err, rc, "the blob does not open again: %s", message);
    rc = check_router(&x->report->check, router, err);
    router_close(router);
    return rc;
}

static ErrCode run(Exporter *x, const char *path, const char *folder, Threads *threads, Err *err) {
    TRY(open_folder(x, folder, threads, err));
    TRY(quantise_model(x, err));
    TRY(add_provenance(x, err));
    TRY(write_golden(x, err));
    if (x->options->pack) TRY(blob_pack(&x->packed, &x->blob, err));
    const Buf *file = x->options->pack ? &x->packed : &x->blob;
    TRY(check_written(x, file, err));
    TRY(file_save(path, file->data, file->len, err));
    ExporterReport *r = x->report;
    r->blob_bytes = x->blob.len;
    r->file_bytes = file->len;
    r->tensors = blob_count(&x->config);
    r->layers = (size_t)x->config.num_hidden_layers;
    r->labels = (size_t)x->config.num_labels;
    r->max_tokens = x->config.max_tokens;
    return ERR_OK;
}

ErrCode exporter_run(ExporterReport *report, const char *path, const char *folder,
                     const ExporterOptions *options, Threads *threads, Err *err) {
    *report = (ExporterReport){0};
    Exporter x = {.options = options, .report = report};
    const ErrCode rc = run(&x, path, folder, threads, err);
    classifier_close(&x.classifier);
    tokenizer_close(x.tokenizer);
    pairs_free(&x.pairs);
    decide_free(&x.config.decide);
    arena_free(&x.arena);
    mem_free(x.data);
    buf_free(&x.blob);
    buf_free(&x.packed);
    buf_free(&x.prompt);
    mem_free(x.dir);
    mem_free(x.run);
    return rc;
}
