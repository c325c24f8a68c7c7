#include "eval/grow.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/sha256.h"
#include "export/decide_json.h"
#include "model/weights.h"
#include "tokenizer/tokenizer.h"

/* A folder's model in memory. Zeroed: nothing, valid to close. */
typedef struct {
    Config config;
    Arena arena;
    Params params;
} Folder;

static void folder_close(Folder *f) {
    arena_free(&f->arena);
    config_free(&f->config);
}

static ErrCode folder_open(Folder *f, const char *dir, Err *err) {
    *f = (Folder){0};
    TRY(config_read(&f->config, dir, err));
    Arena count = {0};
    ErrCode rc = ERR_OK;
    if (f->config.num_labels < 2)
        rc = err_set(err, ERR_ARGUMENT, "%s: a model with %d labels, expected a trained classifier", dir,
                     f->config.num_labels);
    params_layout(&f->params, &count, &f->config, true, NULL);
    if (rc == ERR_OK) rc = arena_init(&f->arena, count.used, "the weights", err);
    if (rc == ERR_OK) {
        WeightsReport report = {0};
        params_layout(&f->params, &f->arena, &f->config, true, NULL);
        rc = weights_load(&f->params, &f->config, dir, 0, &report, err);
        if (rc == ERR_OK && report.initialised.count)
            rc = err_set(err, ERR_ARGUMENT, "%s: tensor %s is missing: expected a trained classifier", dir,
                         report.initialised.items[0]);
        weights_report_free(&report);
    }
    if (rc != ERR_OK) folder_close(f);
    return rc;
}

static ErrCode path_in(char **out, const char *dir, const char *name, Err *err) {
    *out = file_join(dir, name);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
}

/* ---- the head ---- */

void grow_mute(float *w, float *b, int H, int k, const int *rows, int count, double margin) {
    double bias = 0;
    for (int i = 0; i < count; i++) bias += (double)b[rows[i]];
    for (int h = 0; h < H; h++) {
        double sum = 0;
        for (int i = 0; i < count; i++) sum += (double)w[(size_t)rows[i] * (size_t)H + (size_t)h];
        w[(size_t)k * (size_t)H + (size_t)h] = (float)(sum / count);
    }
    b[k] = (float)(bias / count - margin);
}

ErrCode grow_head_read(Config *config, float **w, float **b, const char *folder, Err *err) {
    Folder f;
    *w = *b = NULL;
    *config = (Config){0};
    TRY(folder_open(&f, folder, err));
    const size_t K = (size_t)f.config.num_labels, H = (size_t)f.config.hidden_size;
    ErrCode rc = mem_new(w, K * H, sizeof **w, "the classifier", err);
    if (rc == ERR_OK) rc = mem_new(b, K, sizeof **b, "the classifier", err);
    if (rc == ERR_OK) {
        memcpy(*w, f.params.head_w, K * H * sizeof **w);
        memcpy(*b, f.params.head_b, K * sizeof **b);
        rc = config_copy(config, &f.config, err);
    }
    folder_close(&f);
    if (rc == ERR_OK) return ERR_OK;
    mem_free(*w);
    mem_free(*b);
    *w = *b = NULL;
    return rc;
}

static ErrCode save_weights(const char *dir, const Params *params, const Config *config, Err *err) {
    char *path;
    TRY(path_in(&path, dir, "model.safetensors", err));
    const ErrCode rc = weights_save(path, params, config, err);
    mem_free(path);
    return rc;
}

ErrCode grow_head_write(const char *folder, const float *w, const float *b, Err *err) {
    Folder f;
    TRY(folder_open(&f, folder, err));
    const size_t K = (size_t)f.config.num_labels, H = (size_t)f.config.hidden_size;
    memcpy(f.params.head_w, w, K * H * sizeof *w);
    memcpy(f.params.head_b, b, K * sizeof *b);
    const ErrCode rc = save_weights(folder, &f.params, &f.config, err);
    folder_close(&f);
    return rc;
}

/* ---- labels ---- */

static bool is_active(const Taxonomy *t, int k) {
    return t->count == 0 || !t->labels[k].retired;
}

static ErrCode find_label(int *out, const Config *c, const char *name, const char *what, Err *err) {
    const ErrCode rc = taxonomy_find(out, &c->taxonomy, (const char *const *)c->labels, name, err);
    return rc == ERR_OK ? rc : err_context(err, rc, "%s", what);
}

static ErrCode append_labels(Config *c, const GrowRule *rule, Err *err) {
    const size_t n = (size_t)rule->label_count;
    const char **names = NULL, **descriptions = NULL;
    ErrCode rc = mem_new(&names, n + 1, sizeof *names, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&descriptions, n + 1, sizeof *descriptions, "the labels", err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        names[i] = rule->labels[i].name;
        descriptions[i] = rule->labels[i].description;
    }
    if (rc == ERR_OK && n) rc = config_grow_labels(c, names, descriptions, rule->label_count, err);
    mem_free(names);
    mem_free(descriptions);
    return rc;
}

/* In a taxonomy that begins its next revision. */
static ErrCode change_labels(Config *c, const GrowRule *rule, const char *parent, Err *err) {
    int k;
    if (c->taxonomy.count == 0) TRY(taxonomy_alloc(&c->taxonomy, c->num_labels, err));
    TRY(taxonomy_begin(&c->taxonomy, parent, err));
    for (size_t i = 0; i < rule->retired_count; i++) {
        TRY(find_label(&k, c, rule->retired[i], "retire", err));
        TRY(taxonomy_retire(&c->taxonomy, (const char *const *)c->labels, k, err));
    }
    for (size_t i = 0; i < rule->rename_count; i++) {
        TRY(find_label(&k, c, rule->renames[i].old, "rename", err));
        TRY(config_rename_label(c, k, rule->renames[i].new, err));
    }
    return append_labels(c, rule, err);
}

/* The rows of the child's head: the parent's, then those of labels that cannot win. */
static ErrCode grow_head(float **w, float **b, const Folder *parent, const Config *child, int split_from,
                         double margin, Err *err) {
    const int H = child->hidden_size, K = child->num_labels, old = parent->config.num_labels;
    int *active = NULL, count = 0;
    *b = NULL;
    TRY(mem_new(w, (size_t)K * (size_t)H, sizeof **w, "the classifier", err));
    ErrCode rc = mem_new(b, (size_t)K, sizeof **b, "the classifier", err);
    if (rc == ERR_OK) rc = mem_new(&active, (size_t)old, sizeof *active, "the classifier", err);
    if (rc == ERR_OK) {
        memcpy(*w, parent->params.head_w, (size_t)old * (size_t)H * sizeof **w);
        memcpy(*b, parent->params.head_b, (size_t)old * sizeof **b);
        for (int k = 0; k < old; k++)
            if (is_active(&child->taxonomy, k)) active[count++] = k;
        for (int k = 0; k < old; k++)
            if (!is_active(&child->taxonomy, k) && is_active(&parent->config.taxonomy, k))
                grow_mute(*w, *b, H, k, active, count, GROW_MARGIN_RETIRED);
        for (int k = old; k < K; k++)
            grow_mute(*w, *b, H, k, split_from < 0 ? active : &split_from, split_from < 0 ? count : 1,
                      margin);
    }
    mem_free(active);
    return rc;
}

/* ---- the folder ---- */

/* The temperature divides the margin. */
static ErrCode new_margin(double *out, const char *from, const Config *parent, Err *err) {
    DecideRule rule = {0};
    cJSON *root = NULL;
    char *path;
    TRY(path_in(&path, from, "config.json", err));
    ErrCode rc = json_read(&root, path, err);
    if (rc == ERR_OK)
        rc = decide_json_read(&rule, root, (const char *const *)parent->labels, parent->num_labels, err);
    if (rc == ERR_OK) *out = GROW_MARGIN_NEW * fmax(1, (double)rule.temperature);
    decide_free(&rule);
    cJSON_Delete(root);
    mem_free(path);
    return rc;
}

/* Of the parent's file: all of it stays but for what says its labels, and the decision rule, which knows the new ones. The
 * policy and its costs (eval/calibrate_model.h) stay for whoever fits the thresholds again. */
static ErrCode change_config(cJSON *root, const Config *parent, const Config *child, Err *err) {
    static const char *const TAKEN[] = {"id2label", "label2id", "num_labels", "router_taxonomy"};
    cJSON *tree = NULL, *old = cJSON_GetObjectItemCaseSensitive(root, "router_decision");
    cJSON *policy = cJSON_DetachItemFromObjectCaseSensitive(old, "policy");
    cJSON *cost = cJSON_DetachItemFromObjectCaseSensitive(old, "cost");
    DecideRule before = {0}, after = {0};
    const int K = parent->num_labels;
    ErrCode rc = decide_json_read(&before, root, (const char *const *)parent->labels, K, err);
    if (rc == ERR_OK) rc = decide_alloc(&after, child->num_labels, err);
    if (rc == ERR_OK) {
        decide_extend(&after, &before, K, child->num_labels - K);
        rc = decide_json_write(root, &after, (const char *const *)child->labels, child->num_labels, err);
    }
    cJSON *new = cJSON_GetObjectItemCaseSensitive(root, "router_decision");
    if (rc == ERR_OK && new &&policy && cJSON_AddItemToObject(new, "policy", policy)) policy = NULL;
    if (rc == ERR_OK && new &&cost && cJSON_AddItemToObject(new, "cost", cost)) cost = NULL;
    if (rc == ERR_OK) rc = config_json(&tree, child, err);
    for (size_t i = 0; rc == ERR_OK && i < sizeof TAKEN / sizeof *TAKEN; i++) {
        cJSON *item = cJSON_DetachItemFromObjectCaseSensitive(tree, TAKEN[i]);
        cJSON_DeleteItemFromObjectCaseSensitive(root, TAKEN[i]);
        if (item && !cJSON_AddItemToObject(root, TAKEN[i], item)) {
            cJSON_Delete(item);
            rc = err_set(err, ERR_MEMORY, "out of memory for the configuration");
        }
    }
    cJSON_Delete(policy);
    cJSON_Delete(cost);
    cJSON_Delete(tree);
    decide_free(&before);
    decide_free(&after);
    return rc;
}

static ErrCode write_config(const char *to, const char *from, const Config *parent, const Config *child,
                            Err *err) {
    char *source, *target = NULL;
    cJSON *root = NULL;
    TRY(path_in(&source, from, "config.json", err));
    ErrCode rc = path_in(&target, to, "config.json", err);
    if (rc == ERR_OK) rc = json_read(&root, source, err);
    if (rc == ERR_OK) rc = change_config(root, parent, child, err);
    if (rc == ERR_OK) rc = json_save(target, root, err);
    cJSON_Delete(root);
    mem_free(source);
    mem_free(target);
    return rc;
}

static ErrCode copy_file(const char *to, const char *from, const char *name, Err *err) {
    char *source, *target = NULL;
    TRY(path_in(&source, from, name, err));
    ErrCode rc = path_in(&target, to, name, err);
    if (rc == ERR_OK && file_exists(source)) rc = file_copy(target, source, err);
    mem_free(source);
    mem_free(target);
    return rc;
}

static ErrCode copy_tokenizer(const char *to, const char *from, Err *err) {
    static const char *const FILES[] = {"spm.model", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json"};
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) TRY(copy_file(to, from, FILES[i], err));
    return ERR_OK;
}

static ErrCode write_folder(const char *to, const char *from, const Folder *parent, const Config *child,
                            int split_from, Err *err) {
    float *w = NULL, *b = NULL;
    double margin = 0;
    ErrCode rc = file_mkdirs(to, err);
    if (rc == ERR_OK) rc = new_margin(&margin, from, &parent->config, err);
    if (rc == ERR_OK) rc = grow_head(&w, &b, parent, child, split_from, margin, err);
    if (rc == ERR_OK) {
        Params params = parent->params;
        params.head_w = w;
        params.head_b = b;
        rc = save_weights(to, &params, child, err);
    }
    if (rc == ERR_OK) rc = copy_tokenizer(to, from, err);
    if (rc == ERR_OK) rc = write_config(to, from, &parent->config, child, err);
    mem_free(w);
    mem_free(b);
    return rc;
}

/* Behind a failure, which is the one to tell. */
static void discard(const char *folder) {
    const ErrCode rc = file_remove_dir(folder, NULL);
    (void)rc;
}

/* Beside its place, then renamed into it. */
static ErrCode replace_folder(const char *to, const char *from, const Folder *parent, const Config *child,
                              int split_from, Err *err) {
    Buf temporary = {0};
    buf_printf(&temporary, "%s.tmp", to);
    ErrCode rc = buf_ok(&temporary, err);
    if (rc == ERR_OK) rc = file_remove_dir(temporary.data, err);
    if (rc == ERR_OK) rc = write_folder(temporary.data, from, parent, child, split_from, err);
    if (rc == ERR_OK) rc = file_replace_dir(to, temporary.data, err);
    if (rc != ERR_OK && temporary.data) discard(temporary.data);
    buf_free(&temporary);
    return rc;
}

ErrCode grow_folder(const char *to, const char *from, const GrowRule *rule, Err *err) {
    Folder parent;
    Config child = {0};
    char digest[SHA256_HEX];
    int split_from = -1;
    TRY(folder_open(&parent, from, err));
    ErrCode rc = weights_digest(digest, from, err);
    if (rc == ERR_OK && !digest[0])
        rc = err_set(err, ERR_ARGUMENT,
                     "%s: the weights are in several files: expected one model.safetensors, whose digest "
                     "the child can name",
                     from);
    if (rc == ERR_OK) rc = config_copy(&child, &parent.config, err);
    if (rc == ERR_OK && rule->split_from)
        rc = find_label(&split_from, &parent.config, rule->split_from, "split-from", err);
    if (rc == ERR_OK && split_from >= 0 && !is_active(&parent.config.taxonomy, split_from))
        rc = err_set(err, ERR_ARGUMENT, "split-from: the label '%.100s' is retired", rule->split_from);
    if (rc == ERR_OK) rc = change_labels(&child, rule, digest, err);
    if (rc == ERR_OK) rc = replace_folder(to, from, &parent, &child, split_from, err);
    config_free(&child);
    folder_close(&parent);
    return rc;
}

ErrCode grow_copy(const char *to, const char *from, Err *err) {
    Buf temporary = {0};
    char **names = NULL;
    size_t count = 0;
    buf_printf(&temporary, "%s.tmp", to);
    ErrCode rc = buf_ok(&temporary, err);
    if (rc == ERR_OK) rc = file_list(&names, &count, from, err);
    if (rc == ERR_OK) rc = file_remove_dir(temporary.data, err);
    if (rc == ERR_OK) rc = file_mkdirs(temporary.data, err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) rc = copy_file(temporary.data, from, names[i], err);
    if (rc == ERR_OK) rc = file_replace_dir(to, temporary.data, err);
    if (rc != ERR_OK && temporary.data) discard(temporary.data);
    file_list_free(names, count);
    buf_free(&temporary);
    return rc;
}
