#include "data/manifest.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/record.h"

static const char *const TOP_KEYS[] = {"sources", "seed", "near", "against", "temperature", "total", "about"};
static const char *const SOURCE_KEYS[] = {
    "path",   "name",  "kind",      "text_field", "label_field", "label", "label_map", "split",   "cap",
    "weight", "where", "min_chars", "max_chars",  "skip_bad",    "about", "optional",  "licence", "license"};
static const char *const PATH_KEYS[] = {"path", "optional"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char *kind_of(const cJSON *item) {
    if (!item || cJSON_IsNull(item)) return "null";
    if (cJSON_IsBool(item)) return "true or false";
    if (cJSON_IsNumber(item)) return "a number";
    if (cJSON_IsString(item)) return "a string";
    return cJSON_IsArray(item) ? "an array" : "an object";
}

static const cJSON *member(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static ErrCode check_keys(const cJSON *object, const char *const *known, size_t count, Err *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        size_t i = 0;
        while (i < count && strcmp(item->string, known[i]) != 0) i++;
        if (i < count) continue;
        char shown[68];
        text_excerpt(shown, 64, item->string, strlen(item->string));
        const char *near = text_nearest(item->string, known, count);
        return err_set(err, ERR_FORMAT, "unknown key '%s'%s%s%s", shown, near ? "; did you mean '" : "",
                       near ? near : "", near ? "'?" : "");
    }
    return ERR_OK;
}

/* A text for people, a file's name, a member's: not empty, no NUL. */
static ErrCode get_name(const char **out, const cJSON *object, const char *key, Err *err) {
    const char *found = NULL;
    TRY(json_get_string(&found, object, key, err));
    if (!found) return ERR_OK;
    if (!*found || strstr(found, "\xc0\x80"))
        return err_set(err, ERR_FORMAT, "%s: found %s, expected a name", key,
                       *found ? "a NUL" : "an empty string");
    *out = found;
    return ERR_OK;
}

static ErrCode check_label(const char *key, const char *label, Err *err) {
    const size_t n = strlen(label);
    if (n == strspn(label, " \t\r\n\v\f")) return err_set(err, ERR_FORMAT, "%s: an empty label", key);
    if (n > RECORD_NAME_MAX)
        return err_set(err, ERR_FORMAT, "%s: a label of %zu bytes, expected at most %d", key, n,
                       RECORD_NAME_MAX);
    return ERR_OK;
}

/* ---- paths ---- */

static ErrCode add_path(ManifestPaths *out, const Manifest *m, const cJSON *item, Err *err) {
    if (!cJSON_IsString(item))
        return err_set(err, ERR_FORMAT, "path: found %s, expected a string", kind_of(item));
    const char *path = item->valuestring;
    if (!*path || strstr(path, "\xc0\x80"))
        return err_set(err, ERR_FORMAT, "path: found %s, expected the name of a file",
                       *path ? "a NUL" : "an empty string");
    Buf full = {0};
    buf_printf(&full, "%s%s", *path == '/' ? "" : m->folder, path);
    ErrCode rc = buf_ok(&full, err);
    if (rc == ERR_OK) rc = flags_list_add(&out->paths, full.data, full.len, err);
    buf_free(&full);
    return rc;
}

static ErrCode read_paths(ManifestPaths *out, const Manifest *m, const cJSON *object, Err *err) {
    const cJSON *path = member(object, "path"), *item;
    TRY(json_get_bool(&out->optional, object, "optional", err));
    if (!path) return err_set(err, ERR_FORMAT, "no path: expected the file, or files, of the source");
    if (!cJSON_IsArray(path)) return add_path(out, m, path, err);
    if (!path->child) return err_set(err, ERR_FORMAT, "path: found an empty array, expected names of files");
    cJSON_ArrayForEach(item, path) TRY(add_path(out, m, item, err));
    return ERR_OK;
}

static ErrCode read_against_one(Manifest *m, const cJSON *item, Err *err) {
    ManifestPaths *more = mem_resize(m->against, m->against_count + 1, sizeof *more);
    if (!more) return err_set(err, ERR_MEMORY, "out of memory for the manifest");
    m->against = more;
    ManifestPaths *new = &more[m->against_count++];
    *new = (ManifestPaths){0};
    if (!cJSON_IsObject(item)) return add_path(new, m, item, err);
    TRY(check_keys(item, PATH_KEYS, COUNT(PATH_KEYS), err));
    return read_paths(new, m, item, err);
}

static ErrCode read_against(Manifest *m, Err *err) {
    const cJSON *against = member(m->tree, "against"), *item;
    if (!against) return ERR_OK;
    if (!cJSON_IsArray(against)) return read_against_one(m, against, err);
    cJSON_ArrayForEach(item, against) TRY(read_against_one(m, item, err));
    return ERR_OK;
}

/* ---- sources ---- */

static ErrCode read_labels(ManifestSource *s, const cJSON *object, Err *err) {
    TRY(get_name(&s->label, object, "label", err));
    if (s->label) TRY(check_label("label", s->label, err));
    s->label_map = member(object, "label_map");
    if (!s->label_map) return ERR_OK;
    if (s->label) return err_set(err, ERR_FORMAT, "label and label_map: expected one of them");
    if (!cJSON_IsObject(s->label_map))
        return err_set(err, ERR_FORMAT, "label_map: found %s, expected an object", kind_of(s->label_map));
    const cJSON *item;
    cJSON_ArrayForEach(item, s->label_map) {
        char shown[68];
        text_excerpt(shown, 64, item->string, strlen(item->string));
        if (cJSON_IsNull(item)) continue;
        if (!cJSON_IsString(item) || strstr(item->valuestring, "\xc0\x80"))
            return err_set(err, ERR_FORMAT, "label_map: '%s': found %s, expected a label or null", shown,
                           cJSON_IsString(item) ? "a NUL" : kind_of(item));
        TRY(check_label("label_map", item->valuestring, err));
    }
    return ERR_OK;
}

static ErrCode read_where(ManifestSource *s, const cJSON *object, Err *err) {
    s->where = member(object, "where");
    if (!s->where) return ERR_OK;
    if (!cJSON_IsObject(s->where))
        return err_set(err, ERR_FORMAT, "where: found %s, expected an object of members and values",
                       kind_of(s->where));
    const cJSON *item, *value;
    cJSON_ArrayForEach(item, s->where) {
        bool fits = !cJSON_IsObject(item);
        if (cJSON_IsArray(item))
            cJSON_ArrayForEach(value, item) fits = fits && !cJSON_IsArray(value) && !cJSON_IsObject(value);
        if (fits) continue;
        char shown[68];
        return err_set(err, ERR_FORMAT,
                       "where: '%s': expected a string, number, true, false or null, or an array of these",
                       text_excerpt(shown, 64, item->string, strlen(item->string)));
    }
    return ERR_OK;
}

static ErrCode read_choices(ManifestSource *s, const cJSON *object, Err *err) {
    const char *kind = NULL, *split = NULL, *other = NULL;
    TRY(json_get_string(&kind, object, "kind", err));
    if (kind && strcmp(kind, "real") != 0 && strcmp(kind, "synthetic") != 0)
        return err_set(err, ERR_FORMAT, "kind: found '%.64s', expected real or synthetic", kind);
    s->kind = !kind ? MANIFEST_AS_ROW : kind[0] == 'r' ? MANIFEST_REAL : MANIFEST_SYNTHETIC;
    TRY(json_get_string(&split, object, "split", err));
    s->drop_split = split && strcmp(split, "drop") == 0;
    s->split = split ? split_find(split) : SPLIT_COUNT;
    if (split && s->split == SPLIT_COUNT && !s->drop_split && strcmp(split, "keep") != 0)
        return err_set(err, ERR_FORMAT,
                       "split: found '%.64s', expected keep, drop, train, dev, calibration or test", split);
    TRY(get_name(&s->licence, object, "licence", err));
    TRY(get_name(&other, object, "license", err));
    if (s->licence && other) return err_set(err, ERR_FORMAT, "licence and license: expected one of them");
    if (other) s->licence = other;
    return ERR_OK;
}

/* A whole number up to 2^53; *out stays as it is when the key is absent. */
static ErrCode get_count(uint64_t *out, const cJSON *object, const char *key, int64_t min, Err *err) {
    int64_t value = -1;
    TRY(json_get_int(&value, object, key, min, 9007199254740992, err));
    if (value >= 0) *out = (uint64_t)value;
    return ERR_OK;
}

static ErrCode read_source(ManifestSource *s, const Manifest *m, const cJSON *object, Err *err) {
    *s = (ManifestSource){.weight = 1, .cap = UINT64_MAX, .max_chars = UINT64_MAX};
    if (!cJSON_IsObject(object))
        return err_set(err, ERR_FORMAT, "found %s, expected an object", kind_of(object));
    TRY(check_keys(object, SOURCE_KEYS, COUNT(SOURCE_KEYS), err));
    TRY(read_paths(&s->files, m, object, err));
    TRY(get_name(&s->name, object, "name", err));
    TRY(get_name(&s->text_field, object, "text_field", err));
    TRY(get_name(&s->label_field, object, "label_field", err));
    TRY(read_labels(s, object, err));
    TRY(read_where(s, object, err));
    TRY(read_choices(s, object, err));
    TRY(json_get_double(&s->weight, object, "weight", 0, 1000, err));
    if (!(s->weight > 0)) return err_set(err, ERR_FORMAT, "weight: found 0, expected more than 0");
    TRY(get_count(&s->cap, object, "cap", 1, err));
    TRY(get_count(&s->min_chars, object, "min_chars", 0, err));
    TRY(get_count(&s->max_chars, object, "max_chars", 1, err));
    if (s->min_chars > s->max_chars)
        return err_set(err, ERR_FORMAT, "min_chars is more than max_chars: no text fits");
    return json_get_bool(&s->skip_bad, object, "skip_bad", err);
}

static ErrCode read_sources(Manifest *m, Err *err) {
    const cJSON *list = member(m->tree, "sources"), *item;
    if (!cJSON_IsArray(list))
        return err_set(err, ERR_FORMAT, "sources: found %s, expected an array of objects",
                       list ? kind_of(list) : "none");
    const int count = cJSON_GetArraySize(list);
    if (count < 1 || count > MANIFEST_SOURCES)
        return err_set(err, ERR_FORMAT, "sources: found %d, expected 1 to %d", count, MANIFEST_SOURCES);
    TRY(mem_new(&m->sources, (size_t)count, sizeof *m->sources, "the manifest", err));
    cJSON_ArrayForEach(item, list) {
        const size_t at = m->source_count++;
        const ErrCode rc = read_source(&m->sources[at], m, item, err);
        if (rc != ERR_OK) return err_context(err, rc, "sources[%zu]", at);
    }
    return ERR_OK;
}

/* ---- the whole ---- */

static ErrCode read_top(Manifest *m, Err *err) {
    if (!cJSON_IsObject(m->tree))
        return err_set(err, ERR_FORMAT, "found %s, expected an object", kind_of(m->tree));
    TRY(check_keys(m->tree, TOP_KEYS, COUNT(TOP_KEYS), err));
    TRY(get_count(&m->seed, m->tree, "seed", 0, err));
    TRY(get_count(&m->total, m->tree, "total", 1, err));
    if (m->total > UINT32_MAX)
        return err_set(err, ERR_FORMAT, "total: found more than %u", (unsigned)UINT32_MAX);
    TRY(json_get_double(&m->temperature, m->tree, "temperature", 0.1, 1000, err));
    if (cJSON_IsFalse(member(m->tree, "near")))
        m->near = 0;
    else
        TRY(json_get_double(&m->near, m->tree, "near", 0.5, 1, err));
    const ErrCode rc = read_against(m, err);
    if (rc != ERR_OK) return err_context(err, rc, "against");
    return read_sources(m, err);
}

ErrCode manifest_parse(Manifest *out, const char *path, const char *text, size_t n, Err *err) {
    *out = (Manifest){.seed = 42, .near = 0.8, .temperature = 1};
    const char *slash = strrchr(path, '/');
    out->path = mem_strdup(path);
    out->folder = mem_strndup(path, slash ? (size_t)(slash + 1 - path) : 0);
    ErrCode rc = out->path && out->folder ? json_parse(&out->tree, text, n, err)
                                          : err_set(err, ERR_MEMORY, "out of memory for the manifest");
    if (rc == ERR_OK) rc = read_top(out, err);
    if (rc == ERR_OK) return rc;
    manifest_free(out);
    return err_context(err, rc, "%s", path);
}

ErrCode manifest_read(Manifest *out, const char *path, Err *err) {
    Buf text = {0};
    *out = (Manifest){0};
    ErrCode rc = file_read(&text, path, JSON_FILE_MAX, err);
    if (rc == ERR_OK) rc = manifest_parse(out, path, text.data ? text.data : "", text.len, err);
    buf_free(&text);
    return rc;
}

void manifest_free(Manifest *m) {
    for (size_t i = 0; i < m->source_count; i++) flags_list_free(&m->sources[i].files.paths);
    for (size_t i = 0; i < m->against_count; i++) flags_list_free(&m->against[i].paths);
    mem_free(m->sources);
    mem_free(m->against);
    mem_free(m->path);
    mem_free(m->folder);
    cJSON_Delete(m->tree);
    *m = (Manifest){0};
}

/* The first line that is not blank: a whole row in JSON lines, the beginning of an object in a manifest, or all of one. */
bool manifest_is(const char *path) {
    const size_t n = strlen(path);
    if (n < 6 || strcmp(path + n - 5, ".json") != 0 || !file_exists(path) || file_is_dir(path)) return false;
    Lines *lines;
    if (lines_open(&lines, path, NULL) != ERR_OK) return false;
    const char *line = "";
    size_t len = 0, at = 0;
    bool more = true, is = false;
    while (more && at == len && lines_next(lines, &line, &len, &more, NULL) == ERR_OK && more)
        for (at = 0; at < len && strchr(" \t\r", line[at]);) at++;
    if (at < len && line[at] == '{') {
        cJSON *row = NULL;
        is = json_parse(&row, line + at, len - at, NULL) != ERR_OK || member(row, "sources");
        cJSON_Delete(row);
    }
    lines_close(lines);
    return is;
}

ErrCode manifest_label(const char **out, const ManifestSource *s, const char *label, Err *err) {
    *out = s->label ? s->label : label;
    if (!s->label_map) return ERR_OK;
    const cJSON *item = member(s->label_map, label);
    char shown[68];
    if (!item)
        return err_set(err, ERR_FORMAT,
                       "label '%s' is not in label_map: map it to a label, or to null to leave such rows out",
                       text_excerpt(shown, 64, label, strlen(label)));
    *out = cJSON_IsNull(item) ? NULL : item->valuestring;
    return ERR_OK;
}

static bool is_value(const cJSON *wanted, const cJSON *found) {
    if (cJSON_IsNull(wanted)) return !found || cJSON_IsNull(found);
    return found && cJSON_Compare(wanted, found, 1);
}

bool manifest_wants(const ManifestSource *s, const cJSON *tree) {
    const cJSON *item, *value;
    cJSON_ArrayForEach(item, s->where) {
        const cJSON *found = member(tree, item->string);
        bool any = !cJSON_IsArray(item) && is_value(item, found);
        if (cJSON_IsArray(item)) cJSON_ArrayForEach(value, item) any = any || is_value(value, found);
        if (!any) return false;
    }
    return true;
}
