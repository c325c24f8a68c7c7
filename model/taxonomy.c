#include "model/taxonomy.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"

enum { PARENT_DIGITS = 64, SHOWN = 80 };

static ErrCode no_memory(Err *err) {
    return err_set(err, ERR_MEMORY, "out of memory for the taxonomy");
}

static const char *shown(char out[SHOWN + 4], const char *text) {
    return text_excerpt(out, SHOWN, text, strlen(text));
}

/* ---- memory ---- */

static void free_label(TaxonomyLabel *label) {
    for (int i = 0; i < label->former_count; i++) mem_free(label->former[i]);
    mem_free(label->former);
    mem_free(label->description);
    *label = (TaxonomyLabel){0};
}

void taxonomy_free(Taxonomy *t) {
    for (int id = 0; id < t->count; id++) free_label(&t->labels[id]);
    mem_free(t->labels);
    *t = (Taxonomy){0};
}

ErrCode taxonomy_alloc(Taxonomy *out, int count, Err *err) {
    assert(count >= 1);
    *out = (Taxonomy){.revision = 1};
    TRY(mem_new(&out->labels, (size_t)count, sizeof *out->labels, "the taxonomy", err));
    out->count = count;
    for (int id = 0; id < count; id++) out->labels[id].since = 1;
    return ERR_OK;
}

static ErrCode copy_label(TaxonomyLabel *out, const TaxonomyLabel *from, Err *err) {
    *out = (TaxonomyLabel){.since = from->since, .retired = from->retired};
    if (from->description && !(out->description = mem_strdup(from->description))) return no_memory(err);
    if (!from->former_count) return ERR_OK;
    TRY(mem_new(&out->former, (size_t)from->former_count, sizeof *out->former, "the taxonomy", err));
    for (; out->former_count < from->former_count; out->former_count++)
        if (!(out->former[out->former_count] = mem_strdup(from->former[out->former_count])))
            return no_memory(err);
    return ERR_OK;
}

ErrCode taxonomy_copy(Taxonomy *out, const Taxonomy *from, Err *err) {
    *out = (Taxonomy){0};
    if (!from->count) return ERR_OK;
    TRY(taxonomy_alloc(out, from->count, err));
    out->revision = from->revision;
    memcpy(out->parent, from->parent, sizeof out->parent);
    ErrCode rc = ERR_OK;
    for (int id = 0; id < from->count && rc == ERR_OK; id++)
        rc = copy_label(&out->labels[id], &from->labels[id], err);
    if (rc != ERR_OK) taxonomy_free(out);
    return rc;
}

/* ---- questions ---- */

bool taxonomy_says(const Taxonomy *t) {
    if (t->count && t->revision > 1) return true;
    for (int id = 0; id < t->count; id++) {
        const TaxonomyLabel *label = &t->labels[id];
        if (label->description || label->former_count || label->retired || label->since > 1) return true;
    }
    return false;
}

int taxonomy_active(const Taxonomy *t) {
    int active = 0;
    for (int id = 0; id < t->count; id++) active += !t->labels[id].retired;
    return active;
}

bool taxonomy_was(const TaxonomyLabel *label, const char *name) {
    for (int i = 0; i < label->former_count; i++)
        if (strcmp(label->former[i], name) == 0) return true;
    return false;
}

/* Ids of who is, or was, called so; -1: nobody. */
static int called(const char *const *names, int count, const char *name) {
    for (int id = 0; id < count; id++)
        if (strcmp(names[id], name) == 0) return id;
    return -1;
}

static int formerly_called(const Taxonomy *t, const char *name) {
    for (int id = 0; id < t->count; id++)
        if (taxonomy_was(&t->labels[id], name)) return id;
    return -1;
}

ErrCode taxonomy_find(int *id, const Taxonomy *t, const char *const *names, const char *name, Err *err) {
    char a[SHOWN + 4], b[SHOWN + 4];
    *id = called(names, t->count, name);
    if (*id >= 0) return ERR_OK;
    const int was = formerly_called(t, name);
    if (was >= 0)
        return err_set(err, ERR_ARGUMENT, "the label '%s' is called '%s' today", shown(a, name),
                       shown(b, names[was]));
    const char *near = text_nearest(name, names, (size_t)t->count);
    return err_set(err, ERR_ARGUMENT, "'%s' is none of the %d labels%s%s%s", shown(a, name), t->count,
                   near ? "; did you mean '" : "", near ? shown(b, near) : "", near ? "'?" : "");
}

/* ---- rules ---- */

/* ERR_FORMAT without a place. */
static ErrCode check_text(const char *what, const char *text, size_t min, size_t max, Err *err) {
    const size_t n = strlen(text);
    if (n < min || n > max)
        return err_set(err, ERR_FORMAT, "%s of %zu bytes, expected %zu to %zu", what, n, min, max);
    if (text_utf8_prefix(text, n) != n) /* a NUL in a JSON string is among these: see core/json.h */
        return err_set(err, ERR_FORMAT, "%s that holds a NUL or is no valid UTF-8", what);
    for (size_t at = 0; at < n;) {
        uint32_t cp;
        at += text_utf8_next(text + at, n - at, &cp);
        if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0))
            return err_set(err, ERR_FORMAT, "%s with a control character", what);
    }
    return ERR_OK;
}

static bool is_digest(const char *text) {
    return strlen(text) == PARENT_DIGITS && strspn(text, "0123456789abcdef") == PARENT_DIGITS;
}

static ErrCode check_label(const TaxonomyLabel *label, int revision, int since_before, Err *err) {
    if (label->since < since_before || label->since > revision)
        return err_set(err, ERR_FORMAT,
                       "since: found %d, expected %d (of the label before it) to %d (the revision)",
                       label->since, since_before, revision);
    if (label->description)
        TRY(check_text("a description", label->description, 1, TAXONOMY_DESCRIPTION_MAX, err));
    if (label->former_count > TAXONOMY_FORMER_MAX)
        return err_set(err, ERR_FORMAT, "formerly: found %d names, expected at most %d", label->former_count,
                       TAXONOMY_FORMER_MAX);
    for (int i = 0; i < label->former_count; i++)
        TRY(check_text("a former name", label->former[i], 1, TAXONOMY_NAME_MAX, err));
    return ERR_OK;
}

typedef struct {
    const char *name;
    int id;
} Called;

static int by_name(const void *a, const void *b) {
    return strcmp(((const Called *)a)->name, ((const Called *)b)->name);
}

static ErrCode check_distinct(const Taxonomy *t, const char *const *names, Err *err) {
    size_t n = 0, all = (size_t)t->count;
    for (int id = 0; id < t->count; id++) all += (size_t)t->labels[id].former_count;
    if (all == (size_t)t->count) return ERR_OK; /* the names alone are whoever has them's to check */
    Called *list;
    TRY(mem_new(&list, all, sizeof *list, "the names of the taxonomy", err));
    for (int id = 0; id < t->count; id++) {
        list[n++] = (Called){names[id], id};
        for (int i = 0; i < t->labels[id].former_count; i++)
            list[n++] = (Called){t->labels[id].former[i], id};
    }
    qsort(list, n, sizeof *list, by_name);
    ErrCode rc = ERR_OK;
    for (size_t i = 1; i < n && rc == ERR_OK; i++) {
        char a[SHOWN + 4];
        const int first = list[i - 1].id < list[i].id ? list[i - 1].id : list[i].id;
        if (strcmp(list[i - 1].name, list[i].name) == 0)
            rc = err_set(err, ERR_FORMAT,
                         "\"%s\" is or was the name of the labels %d and %d, expected different ones",
                         shown(a, list[i].name), first, list[i - 1].id + list[i].id - first);
    }
    mem_free(list);
    return rc;
}

ErrCode taxonomy_check(const Taxonomy *t, const char *const *names, Err *err) {
    if (t->revision < 1 || t->revision > TAXONOMY_REVISION_MAX)
        return err_set(err, ERR_FORMAT, "revision: found %d, expected 1 to %d", t->revision,
                       TAXONOMY_REVISION_MAX);
    if (t->revision == 1 && t->parent[0])
        return err_set(err, ERR_FORMAT, "revision 1 has a parent, expected none");
    if (t->revision > 1 && !is_digest(t->parent))
        return err_set(err, ERR_FORMAT,
                       "parent: found \"%s\" at revision %d, expected 64 hexadecimal digits in lower case",
                       t->parent, t->revision);
    for (int id = 0; id < t->count; id++) {
        char a[SHOWN + 4];
        const ErrCode rc = check_label(&t->labels[id], t->revision, id ? t->labels[id - 1].since : 1, err);
        if (rc != ERR_OK) return err_context(err, rc, "label %d (\"%s\")", id, shown(a, names[id]));
    }
    const int least = t->count < 2 ? t->count : 2;
    if (taxonomy_active(t) < least)
        return err_set(err, ERR_FORMAT, "%d of %d labels are active, expected at least %d",
                       taxonomy_active(t), t->count, least);
    return check_distinct(t, names, err);
}

/* ---- changes ---- */

ErrCode taxonomy_begin(Taxonomy *t, const char *parent, Err *err) {
    char a[SHOWN + 4];
    if (!is_digest(parent))
        return err_set(err, ERR_ARGUMENT,
                       "the parent's digest: found \"%s\", expected 64 hexadecimal digits in lower case",
                       shown(a, parent));
    if (t->revision >= TAXONOMY_REVISION_MAX)
        return err_set(err, ERR_ARGUMENT, "revision %d is the last that there can be", t->revision);
    t->revision++;
    memcpy(t->parent, parent, sizeof t->parent);
    return ERR_OK;
}

/* Whether label `id` (one that is there, or a new one) may be called so. */
static ErrCode check_new_name(const Taxonomy *t, const char *const *names, int count, int id,
                              const char *name, Err *err) {
    char a[SHOWN + 4], b[SHOWN + 4];
    if (check_text("a name", name, 1, TAXONOMY_NAME_MAX, err) != ERR_OK)
        return err_context(err, ERR_ARGUMENT, "label '%s'", shown(a, name));
    const int is = called(names, count, name), was = formerly_called(t, name);
    if (is >= 0)
        return err_set(err, ERR_ARGUMENT, "there is a label '%s' already (id %d)", shown(a, name), is);
    if (was >= 0 && was != id)
        return err_set(err, ERR_ARGUMENT,
                       "'%s' is what the label '%s' was called before: an old name does not come back with "
                       "another meaning",
                       shown(a, name), shown(b, names[was]));
    return ERR_OK;
}

ErrCode taxonomy_grow(Taxonomy *t, const char *const *names, const char *const *descriptions, int n,
                      Err *err) {
    assert(t->count >= 1 && t->revision > 1 && n >= 0);
    char a[SHOWN + 4];
    for (int i = 0; i < n; i++) {
        const int id = t->count + i;
        TRY(check_new_name(t, names, id, id, names[id], err));
        if (descriptions && descriptions[i] &&
            check_text("a description", descriptions[i], 1, TAXONOMY_DESCRIPTION_MAX, err) != ERR_OK)
            return err_context(err, ERR_ARGUMENT, "label '%s'", shown(a, names[id]));
    }
    Taxonomy grown = *t;
    grown.count = t->count + n;
    TRY(mem_new(&grown.labels, (size_t)grown.count, sizeof *grown.labels, "the taxonomy", err));
    memcpy(grown.labels, t->labels, (size_t)t->count * sizeof *grown.labels);
    for (int i = 0; i < n; i++) {
        TaxonomyLabel *label = &grown.labels[t->count + i];
        label->since = t->revision;
        if (!descriptions || !descriptions[i]) continue;
        label->description = mem_strdup(descriptions[i]);
        if (label->description) continue;
        for (int k = 0; k < i; k++) mem_free(grown.labels[t->count + k].description);
        mem_free(grown.labels);
        return no_memory(err);
    }
    mem_free(t->labels);
    *t = grown;
    return ERR_OK;
}

ErrCode taxonomy_retire(Taxonomy *t, const char *const *names, int id, Err *err) {
    assert(id >= 0 && id < t->count && t->revision > 1);
    char a[SHOWN + 4];
    if (t->labels[id].retired)
        return err_set(err, ERR_ARGUMENT, "the label '%s' is retired already", shown(a, names[id]));
    if (taxonomy_active(t) <= 2)
        return err_set(err, ERR_ARGUMENT,
                       "the label '%s' cannot be retired: %d labels are active, and a router needs 2",
                       shown(a, names[id]), taxonomy_active(t));
    t->labels[id].retired = true;
    return ERR_OK;
}

ErrCode taxonomy_rename(Taxonomy *t, const char *const *names, int id, const char *name, Err *err) {
    assert(id >= 0 && id < t->count && t->revision > 1);
    TaxonomyLabel *label = &t->labels[id];
    char a[SHOWN + 4];
    TRY(check_new_name(t, names, t->count, id, name, err));
    int back = 0; /* the former name that it gets again */
    while (back < label->former_count && strcmp(label->former[back], name) != 0) back++;
    const bool again = back < label->former_count;
    if (!again && label->former_count == TAXONOMY_FORMER_MAX)
        return err_set(err, ERR_ARGUMENT, "the label '%s' has had %d other names, and more are not kept",
                       shown(a, names[id]), label->former_count);
    char **more = mem_resize(label->former, (size_t)label->former_count + 1, sizeof *more);
    if (more) label->former = more;
    char *old = more ? mem_strdup(names[id]) : NULL;
    if (!old) return no_memory(err);
    if (again) {
        mem_free(more[back]);
        label->former_count--;
        memmove(more + back, more + back + 1, (size_t)(label->former_count - back) * sizeof *more);
    }
    more[label->former_count++] = old;
    return ERR_OK;
}

ErrCode taxonomy_describe(Taxonomy *t, const char *const *names, int id, const char *description, Err *err) {
    assert(id >= 0 && id < t->count);
    char *copy = NULL, a[SHOWN + 4];
    if (description && check_text("a description", description, 1, TAXONOMY_DESCRIPTION_MAX, err) != ERR_OK)
        return err_context(err, ERR_ARGUMENT, "label '%s'", shown(a, names[id]));
    if (description && !(copy = mem_strdup(description))) return no_memory(err);
    mem_free(t->labels[id].description);
    t->labels[id].description = copy;
    return ERR_OK;
}
