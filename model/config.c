#include "model/config.h"

#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static ErrCode refuse_equal_labels(const Config *c, Err *err) {
    const size_t n = (size_t)c->num_labels;
    char **sorted;
    TRY(mem_new(&sorted, n, sizeof *sorted, "the labels", err));
    memcpy(sorted, c->labels, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_name);
    ErrCode rc = ERR_OK;
    for (size_t i = 1; i < n && rc == ERR_OK; i++) {
        char shown[84];
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            rc = err_set(err, ERR_FORMAT, "id2label: the label \"%s\" occurs twice",
                         text_excerpt(shown, 80, sorted[i], strlen(sorted[i])));
    }
    mem_free(sorted);
    return rc;
}

static ErrCode alloc_labels(Config *c, int n, Err *err) {
    TRY(mem_new(&c->labels, (size_t)n, sizeof *c->labels, "the labels", err));
    c->num_labels = n;
    return ERR_OK;
}

static ErrCode put_label(Config *c, int id, const char *name, Err *err) {
    c->labels[id] = mem_strdup(name);
    return c->labels[id] ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the labels");
}

/* fresh's labels are config's from now on; the old ones go. The taxonomy is not touched. */
static void take_labels(Config *config, Config *fresh) {
    char **old = config->labels;
    const int old_n = config->num_labels;
    config->labels = fresh->labels;
    config->num_labels = fresh->num_labels;
    fresh->labels = old;
    fresh->num_labels = old_n;
    config_free(fresh);
}

static ErrCode copy_labels(Config *out, const char *const *names, int n, Err *err) {
    if (n < 1 || n > CONFIG_LABELS_MAX)
        return err_set(err, ERR_ARGUMENT, "found %d labels, expected 1 to %d", n, CONFIG_LABELS_MAX);
    ErrCode rc = alloc_labels(out, n, err);
    for (int id = 0; id < n && rc == ERR_OK; id++) rc = put_label(out, id, names[id], err);
    if (rc == ERR_OK) rc = refuse_equal_labels(out, err);
    return rc;
}

bool config_has_labels(const Config *config, const char *const *names, int n) {
    if (config->num_labels != n) return false;
    for (int id = 0; id < n; id++)
        if (strcmp(config->labels[id], names[id]) != 0) return false;
    return true;
}

ErrCode config_set_labels(Config *config, const char *const *names, int n, Err *err) {
    Config fresh = {0};
    Taxonomy taxonomy = {0};
    const bool same = config_has_labels(config, names, n) && config->taxonomy.count == n;
    ErrCode rc = copy_labels(&fresh, names, n, err);
    if (rc == ERR_OK && !same) rc = taxonomy_alloc(&taxonomy, n, err);
    if (rc != ERR_OK) {
        config_free(&fresh);
        return rc;
    }
    take_labels(config, &fresh);
    if (same) return ERR_OK;
    taxonomy_free(&config->taxonomy);
    config->taxonomy = taxonomy;
    return ERR_OK;
}

ErrCode config_grow_labels(Config *config, const char *const *names, const char *const *descriptions, int n,
                           Err *err) {
    const int old = config->num_labels;
    if (n < 0 || n > CONFIG_LABELS_MAX - old)
        return err_set(err, ERR_ARGUMENT, "found %d labels and %d more, expected at most %d", old, n,
                       CONFIG_LABELS_MAX);
    const char **all;
    Config fresh = {0};
    TRY(mem_new(&all, (size_t)(old + n), sizeof *all, "the labels", err));
    for (int id = 0; id < old; id++) all[id] = config->labels[id];
    for (int i = 0; i < n; i++) all[old + i] = names[i];
    ErrCode rc = alloc_labels(&fresh, old + n, err);
    for (int id = 0; id < old + n && rc == ERR_OK; id++) rc = put_label(&fresh, id, all[id], err);
    if (rc == ERR_OK) rc = taxonomy_grow(&config->taxonomy, all, descriptions, n, err);
    if (rc == ERR_OK)
        take_labels(config, &fresh);
    else
        config_free(&fresh);
    mem_free(all);
    return rc;
}

ErrCode config_rename_label(Config *config, int id, const char *name, Err *err) {
    char *copy = mem_strdup(name);
    if (!copy) return err_set(err, ERR_MEMORY, "out of memory for the labels");
    const ErrCode rc = taxonomy_rename(&config->taxonomy, (const char *const *)config->labels, id, copy, err);
    if (rc == ERR_OK) {
        mem_free(config->labels[id]);
        config->labels[id] = copy;
    } else {
        mem_free(copy);
    }
    return rc;
}

ErrCode config_copy(Config *out, const Config *from, Err *err) {
    *out = *from;
    out->labels = NULL;
    out->num_labels = 0;
    out->taxonomy = (Taxonomy){0};
    ErrCode rc = ERR_OK;
    if (from->num_labels) rc = alloc_labels(out, from->num_labels, err);
    for (int id = 0; id < from->num_labels && rc == ERR_OK; id++)
        rc = put_label(out, id, from->labels[id], err);
    if (rc == ERR_OK) rc = taxonomy_copy(&out->taxonomy, &from->taxonomy, err);
    if (rc != ERR_OK) config_free(out);
    return rc;
}

void config_free(Config *config) {
    for (int id = 0; id < config->num_labels; id++) mem_free(config->labels[id]);
    mem_free(config->labels);
    taxonomy_free(&config->taxonomy);
    *config = (Config){0};
}
