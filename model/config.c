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

ErrCode config_set_labels(Config *config, const char *const *names, int n, Err *err) {
    Config fresh = {0};
    if (n < 1 || n > CONFIG_LABELS_MAX)
        return err_set(err, ERR_ARGUMENT, "found %d labels, expected 1 to %d", n, CONFIG_LABELS_MAX);
    ErrCode rc = alloc_labels(&fresh, n, err);
    for (int id = 0; id < n && rc == ERR_OK; id++) rc = put_label(&fresh, id, names[id], err);
    if (rc == ERR_OK) rc = refuse_equal_labels(&fresh, err);
    if (rc == ERR_OK) { /* the old ones go with `fresh` */
        char **old = config->labels;
        const int old_n = config->num_labels;
        config->labels = fresh.labels;
        config->num_labels = n;
        fresh.labels = old;
        fresh.num_labels = old_n;
    }
    config_free(&fresh);
    return rc;
}

ErrCode config_copy(Config *out, const Config *from, Err *err) {
    *out = *from;
    out->labels = NULL;
    out->num_labels = 0;
    ErrCode rc = ERR_OK;
    if (from->num_labels) rc = alloc_labels(out, from->num_labels, err);
    for (int id = 0; id < from->num_labels && rc == ERR_OK; id++)
        rc = put_label(out, id, from->labels[id], err);
    if (rc != ERR_OK) config_free(out);
    return rc;
}

void config_free(Config *config) {
    for (int id = 0; id < config->num_labels; id++) mem_free(config->labels[id]);
    mem_free(config->labels);
    *config = (Config){0};
}
