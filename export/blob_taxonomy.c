#include "export/blob_taxonomy.h"

#include <stdio.h>
#include <string.h>

#include "core/mem.h"

enum { KEY_BYTES = 64 };

/* ---- reading ---- */

typedef struct {
    BlobRuleGet *get;
    const void *arg;
} Source;

static const char *label_value(char key[KEY_BYTES], const Source *from, int id, const char *what) {
    (void)snprintf(key, KEY_BYTES, "router.label.%d.%s", id, what);
    return from->get(from->arg, key);
}

static ErrCode keep(char **out, const char *text, Err *err) {
    *out = mem_strdup(text);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the taxonomy");
}

static ErrCode read_former(TaxonomyLabel *out, const Source *from, int id, Err *err) {
    const char *name;
    for (int n = 0;; n++) {
        char key[KEY_BYTES], what[24];
        (void)snprintf(what, sizeof what, "formerly.%d", n);
        name = label_value(key, from, id, what);
        if (!name) return ERR_OK;
        if (n == TAXONOMY_FORMER_MAX)
            return err_set(err, ERR_FORMAT, "metadata %s: expected at most %d former names", key,
                           TAXONOMY_FORMER_MAX);
        if (n == 0) TRY(mem_new(&out->former, TAXONOMY_FORMER_MAX, sizeof *out->former, "the taxonomy", err));
        TRY(keep(&out->former[n], name, err));
        out->former_count = n + 1;
    }
}

static ErrCode read_label(TaxonomyLabel *out, const Source *from, int id, Err *err) {
    char key[KEY_BYTES];
    const char *since = label_value(key, from, id, "since");
    if (since) TRY(blob_number(&out->since, key, since, 1, TAXONOMY_REVISION_MAX, err));
    const char *active = label_value(key, from, id, "active");
    out->retired = active && strcmp(active, "false") == 0;
    if (active && !out->retired && strcmp(active, "true") != 0)
        return err_set(err, ERR_FORMAT, "metadata %s: found \"%.40s\", expected true or false", key, active);
    const char *description = label_value(key, from, id, "description");
    if (description) TRY(keep(&out->description, description, err));
    return read_former(out, from, id, err);
}

static ErrCode read_all(Taxonomy *out, const Source *from, const char *const *labels, Err *err) {
    static const char REVISION[] = "router.taxonomy.revision", PARENT[] = "router.taxonomy.parent";
    const char *revision = from->get(from->arg, REVISION), *parent = from->get(from->arg, PARENT);
    if (revision) TRY(blob_number(&out->revision, REVISION, revision, 1, TAXONOMY_REVISION_MAX, err));
    if (parent && strlen(parent) != sizeof out->parent - 1)
        return err_set(err, ERR_FORMAT,
                       "metadata %s: found %zu characters, expected 64 hexadecimal digits in lower case",
                       PARENT, strlen(parent));
    if (parent) memcpy(out->parent, parent, sizeof out->parent);
    for (int id = 0; id < out->count; id++) TRY(read_label(&out->labels[id], from, id, err));
    const ErrCode rc = taxonomy_check(out, labels, err);
    return rc == ERR_OK ? rc : err_context(err, rc, "taxonomy");
}

ErrCode blob_taxonomy_read(Taxonomy *out, BlobRuleGet *get, const void *arg, const char *const *labels, int K,
                           Err *err) {
    const Source from = {get, arg};
    TRY(taxonomy_alloc(out, K, err));
    const ErrCode rc = read_all(out, &from, labels, err);
    if (rc != ERR_OK) taxonomy_free(out);
    return rc;
}

/* ---- writing ---- */

size_t blob_taxonomy_pairs(const Taxonomy *t) {
    size_t n = 0;
    if (t->revision > 1) n += 2;
    for (int id = 0; id < t->count; id++) {
        const TaxonomyLabel *label = &t->labels[id];
        n += (size_t)label->former_count + (label->description != NULL) + label->retired + (label->since > 1);
    }
    return n;
}

void blob_taxonomy_write(const Taxonomy *t, BlobRulePut *put, void *arg) {
    char key[KEY_BYTES], number[16];
    if (t->revision > 1) {
        (void)snprintf(number, sizeof number, "%d", t->revision);
        put(arg, "router.taxonomy.revision", number);
        put(arg, "router.taxonomy.parent", t->parent);
    }
    for (int id = 0; id < t->count; id++) {
        const TaxonomyLabel *label = &t->labels[id];
        const int n = snprintf(key, sizeof key, "router.label.%d.", id);
        char *const what = key + n;
        const size_t room = sizeof key - (size_t)n;
        if (label->description) {
            (void)snprintf(what, room, "description");
            put(arg, key, label->description);
        }
        if (label->retired) {
            (void)snprintf(what, room, "active");
            put(arg, key, "false");
        }
        if (label->since > 1) {
            (void)snprintf(what, room, "since");
            (void)snprintf(number, sizeof number, "%d", label->since);
            put(arg, key, number);
        }
        for (int i = 0; i < label->former_count; i++) {
            (void)snprintf(what, room, "formerly.%d", i);
            put(arg, key, label->former[i]);
        }
    }
}
