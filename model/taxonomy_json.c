#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"
#include "model/taxonomy.h"

#define KEY "router_taxonomy"

static ErrCode no_memory(Err *err) {
    return err_set(err, ERR_MEMORY, "out of memory for the taxonomy");
}

/* ---- reading ---- */

/* A misspelt member would be passed over, and with it what it says. */
static ErrCode check_members(const cJSON *object, const char *const *known, size_t count, Err *err) {
    if (!cJSON_IsObject(object)) return err_set(err, ERR_FORMAT, "expected an object");
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        char shown[84];
        size_t k = 0;
        while (k < count && strcmp(known[k], item->string) != 0) k++;
        if (k < count) continue;
        const char *near = text_nearest(item->string, known, count);
        return err_set(err, ERR_FORMAT, "unknown key \"%s\"%s%s%s",
                       text_excerpt(shown, 80, item->string, strlen(item->string)),
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return ERR_OK;
}

static ErrCode parse_former(TaxonomyLabel *out, const cJSON *list, Err *err) {
    const int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (n < 0 || n > TAXONOMY_FORMER_MAX)
        return err_set(err, ERR_FORMAT, "key \"formerly\": expected an array of at most %d names",
                       TAXONOMY_FORMER_MAX);
    if (n) TRY(mem_new(&out->former, (size_t)n, sizeof *out->former, "the taxonomy", err));
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item))
            return err_set(err, ERR_FORMAT, "key \"formerly\": element %d is not a string",
                           out->former_count);
        char *name = mem_strdup(item->valuestring);
        if (!name) return no_memory(err);
        out->former[out->former_count++] = name;
    }
    return ERR_OK;
}

static ErrCode parse_label(TaxonomyLabel *out, const cJSON *item, const char *name, Err *err) {
    static const char *const KEYS[] = {"name", "description", "active", "since", "formerly"};
    const char *stated = NULL, *description = NULL;
    bool active = true;
    int64_t since = 1;
    TRY(check_members(item, KEYS, sizeof KEYS / sizeof *KEYS, err));
    TRY(json_get_string(&stated, item, "name", err));
    TRY(json_get_string(&description, item, "description", err));
    TRY(json_get_bool(&active, item, "active", err));
    TRY(json_get_int(&since, item, "since", 1, TAXONOMY_REVISION_MAX, err));
    char a[84], b[84];
    if (!stated || strcmp(stated, name) != 0)
        return err_set(err, ERR_FORMAT, "key \"name\": found %s%s%s, but id2label says \"%s\"",
                       stated ? "\"" : "", stated ? text_excerpt(a, 80, stated, strlen(stated)) : "nothing",
                       stated ? "\"" : "", text_excerpt(b, 80, name, strlen(name)));
    out->since = (int)since;
    out->retired = !active;
    if (description && !(out->description = mem_strdup(description))) return no_memory(err);
    const cJSON *former = cJSON_GetObjectItemCaseSensitive(item, "formerly");
    return former ? parse_former(out, former, err) : ERR_OK;
}

static ErrCode parse_labels(Taxonomy *out, const cJSON *list, const char *const *names, Err *err) {
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != out->count)
        return err_set(err, ERR_FORMAT, "key \"labels\": expected an array of %d objects, one for each label",
                       out->count);
    int id = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        const ErrCode rc = parse_label(&out->labels[id], item, names[id], err);
        if (rc != ERR_OK) return err_context(err, rc, "labels[%d]", id);
        id++;
    }
    return ERR_OK;
}

static ErrCode parse_all(Taxonomy *out, const cJSON *value, const char *const *names, Err *err) {
    static const char *const KEYS[] = {"revision", "parent", "labels"};
    int64_t revision = 1;
    const char *parent = NULL;
    TRY(check_members(value, KEYS, sizeof KEYS / sizeof *KEYS, err));
    TRY(json_get_int(&revision, value, "revision", 1, TAXONOMY_REVISION_MAX, err));
    TRY(json_get_string(&parent, value, "parent", err));
    out->revision = (int)revision;
    if (parent && strlen(parent) != sizeof out->parent - 1)
        return err_set(err, ERR_FORMAT,
                       "key \"parent\": found %zu characters, expected 64 hexadecimal digits in lower case",
                       strlen(parent));
    if (parent) memcpy(out->parent, parent, sizeof out->parent);
    const cJSON *labels = cJSON_GetObjectItemCaseSensitive(value, "labels");
    if (labels) TRY(parse_labels(out, labels, names, err));
    return taxonomy_check(out, names, err);
}

ErrCode taxonomy_parse(Taxonomy *out, const cJSON *value, const char *const *names, int count, Err *err) {
    *out = (Taxonomy){0};
    if (count < 1 && value)
        return err_set(err, ERR_FORMAT, "key \"" KEY "\": the model has no labels, expected none either");
    if (count < 1) return ERR_OK;
    TRY(taxonomy_alloc(out, count, err));
    if (!value) return ERR_OK;
    const ErrCode rc = parse_all(out, value, names, err);
    if (rc == ERR_OK) return rc;
    taxonomy_free(out);
    return err_context(err, rc, "key \"" KEY "\"");
}

/* ---- writing ---- */

static bool put_former(cJSON *object, const TaxonomyLabel *label) {
    cJSON *list = cJSON_AddArrayToObject(object, "formerly");
    for (int i = 0; list && i < label->former_count; i++) {
        cJSON *name = cJSON_CreateString(label->former[i]);
        if (name && cJSON_AddItemToArray(list, name)) continue;
        cJSON_Delete(name);
        return false;
    }
    return list != NULL;
}

static bool put_label(cJSON *list, const TaxonomyLabel *label, const char *name) {
    cJSON *object = cJSON_CreateObject();
    if (!object || !cJSON_AddItemToArray(list, object)) {
        cJSON_Delete(object);
        return false;
    }
    return cJSON_AddStringToObject(object, "name", name) &&
           (!label->description || cJSON_AddStringToObject(object, "description", label->description)) &&
           (!label->retired || cJSON_AddFalseToObject(object, "active")) &&
           (label->since == 1 || cJSON_AddNumberToObject(object, "since", label->since)) &&
           (!label->former_count || put_former(object, label));
}

ErrCode taxonomy_json(cJSON **out, const Taxonomy *t, const char *const *names, Err *err) {
    cJSON *root = cJSON_CreateObject();
    bool good = root && cJSON_AddNumberToObject(root, "revision", t->count ? t->revision : 1) &&
                (!t->parent[0] || cJSON_AddStringToObject(root, "parent", t->parent));
    cJSON *labels = good && t->count ? cJSON_AddArrayToObject(root, "labels") : NULL;
    good = good && (labels || !t->count);
    for (int id = 0; good && id < t->count; id++) good = put_label(labels, &t->labels[id], names[id]);
    *out = good ? root : NULL;
    if (good) return ERR_OK;
    cJSON_Delete(root);
    return no_memory(err);
}
