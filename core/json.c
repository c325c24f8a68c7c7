#include "core/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/text.h"

static ErrCode error_at(Err *err, const char *text, size_t at, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        column++;
        if (text[i] == '\n') line++, column = 1;
    }
    return err_set(err, ERR_FORMAT, "not valid JSON at line %zu, column %zu: %s", line, column, what);
}

/* Depth and encoding are judged before cJSON recurses. */
static ErrCode check_text(const char *text, size_t n, Err *err) {
    const size_t valid = text_utf8_prefix(text, n);
    if (valid != n) return error_at(err, text, valid, "not UTF-8");
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (c == 0) return error_at(err, text, i, "a NUL byte");
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH_MAX) return error_at(err, text, i, "nested more than 64 deep");
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return ERR_OK;
}

/* A copy of text in which each escape \u0000 is the two bytes C0 80, and which ends with a NUL: cJSON before
 * 1.7.18 looks one byte behind the end of {"a":1, (CVE-2023-53154). */
static char *without_nul(const char *text, size_t *n) {
    char *copy = mem_resize(NULL, *n + 1, 1);
    if (!copy) return NULL;
    size_t at = 0;
    for (size_t i = 0; i < *n;) {
        if (text[i] == '\\' && *n - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0) {
            copy[at++] = (char)0xc0;
            copy[at++] = (char)0x80;
            i += 6;
        } else if (text[i] == '\\' && i + 1 < *n) {
            copy[at++] = text[i++];
            copy[at++] = text[i++];
        } else {
            copy[at++] = text[i++];
        }
    }
    *n = at;
    copy[at] = 0;
    return copy;
}

static int by_key(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Depth is bounded by check_text. */
static ErrCode refuse_duplicates(const cJSON *item, Err *err) { /* NOLINT(misc-no-recursion) */
    ErrCode rc = ERR_OK;
    const cJSON *child;
    if (cJSON_IsObject(item)) {
        size_t n = 0;
        cJSON_ArrayForEach(child, item) n++;
        const char **keys = n > 1 ? mem_resize(NULL, n, sizeof *keys) : NULL;
        if (n > 1 && !keys) return err_set(err, ERR_MEMORY, "out of memory for %zu keys", n);
        n = 0;
        if (keys) {
            cJSON_ArrayForEach(child, item) keys[n++] = child->string;
            qsort(keys, n, sizeof *keys, by_key);
            for (size_t i = 1; i < n && rc == ERR_OK; i++)
                if (strcmp(keys[i - 1], keys[i]) == 0)
                    rc = err_set(err, ERR_FORMAT, "the key \"%.200s\" occurs twice in one object", keys[i]);
        }
        mem_free(keys);
    }
    cJSON_ArrayForEach(child, item) {
        if (rc != ERR_OK) break;
        if (child->child) rc = refuse_duplicates(child, err);
    }
    return rc;
}

ErrCode json_parse(cJSON **out, const char *text, size_t n, Err *err) {
    *out = NULL;
    TRY(check_text(text, n, err));
    size_t body_n = n;
    char *body = without_nul(text, &body_n);
    if (!body) return err_set(err, ERR_MEMORY, "out of memory for %zu bytes of JSON", n);
    const char *end = NULL;
    cJSON *item = cJSON_ParseWithLengthOpts(body, body_n, &end, 0);
    ErrCode rc = ERR_OK;
    const size_t at = end ? (size_t)(end - body) : 0;
    if (!item) {
        rc = error_at(err, body, at < body_n ? at : body_n, body_n == 0 ? "empty" : "unexpected text");
    } else {
        for (size_t i = at; i < body_n && rc == ERR_OK; i++)
            if (!strchr(" \t\r\n", body[i])) rc = error_at(err, body, i, "text behind the value");
        if (rc == ERR_OK) rc = refuse_duplicates(item, err);
    }
    mem_free(body);
    if (rc != ERR_OK) {
        cJSON_Delete(item);
        return rc;
    }
    *out = item;
    return ERR_OK;
}

ErrCode json_read(cJSON **out, const char *path, Err *err) {
    *out = NULL;
    Buf text = {0};
    ErrCode rc = file_read(&text, path, JSON_FILE_MAX, err);
    if (rc == ERR_OK) {
        rc = json_parse(out, text.data ? text.data : "", text.len, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    buf_free(&text);
    return rc;
}

const char *json_text(cJSON *item, size_t *n) {
    char *s = item->valuestring;
    size_t at = 0;
    for (size_t i = 0; s[i]; i++) {
        if ((unsigned char)s[i] == 0xc0 && (unsigned char)s[i + 1] == 0x80) {
            s[at++] = 0;
            i++;
        } else {
            s[at++] = s[i];
        }
    }
    s[at] = 0;
    *n = at;
    return s;
}

static const char *kind(const cJSON *item) {
    if (cJSON_IsNull(item)) return "null";
    if (cJSON_IsBool(item)) return "true or false";
    if (cJSON_IsNumber(item)) return "a number";
    if (cJSON_IsString(item)) return "a string";
    return cJSON_IsArray(item) ? "an array" : "an object";
}

static const cJSON *member(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

ErrCode json_get_int(int64_t *out, const cJSON *object, const char *key, int64_t min, int64_t max, Err *err) {
    const cJSON *item = member(object, key);
    if (!item) return ERR_OK;
    if (!cJSON_IsNumber(item))
        return err_set(err, ERR_FORMAT, "key \"%s\": found %s, expected an integer", key, kind(item));
    const double d = item->valuedouble;
    if (!(fabs(d) <= 9007199254740992.0) || d != floor(d) || (int64_t)d < min || (int64_t)d > max)
        return err_set(err, ERR_FORMAT, "key \"%s\": found %g, expected an integer from %lld to %lld", key, d,
                       (long long)min, (long long)max);
    *out = (int64_t)d;
    return ERR_OK;
}

ErrCode json_get_double(double *out, const cJSON *object, const char *key, double min, double max, Err *err) {
    const cJSON *item = member(object, key);
    if (!item) return ERR_OK;
    if (!cJSON_IsNumber(item))
        return err_set(err, ERR_FORMAT, "key \"%s\": found %s, expected a number", key, kind(item));
    if (!(item->valuedouble >= min && item->valuedouble <= max))
        return err_set(err, ERR_FORMAT, "key \"%s\": found %g, expected %g to %g", key, item->valuedouble,
                       min, max);
    *out = item->valuedouble;
    return ERR_OK;
}

ErrCode json_get_bool(bool *out, const cJSON *object, const char *key, Err *err) {
    const cJSON *item = member(object, key);
    if (!item) return ERR_OK;
    if (!cJSON_IsBool(item))
        return err_set(err, ERR_FORMAT, "key \"%s\": found %s, expected true or false", key, kind(item));
    *out = cJSON_IsTrue(item);
    return ERR_OK;
}

ErrCode json_get_string(const char **out, const cJSON *object, const char *key, Err *err) {
    const cJSON *item = member(object, key);
    if (!item) return ERR_OK;
    if (!cJSON_IsString(item))
        return err_set(err, ERR_FORMAT, "key \"%s\": found %s, expected a string", key, kind(item));
    *out = item->valuestring;
    return ERR_OK;
}

void json_print(Buf *out, const cJSON *item) {
    static const char NUL[] = "\xc0\x80"; /* see without_nul */
    char *text = cJSON_Print(item);
    if (!text) {
        out->failed = true;
        return;
    }
    const char *from = text;
    for (const char *at; (at = strstr(from, NUL)); from = at + 2) {
        buf_put(out, from, (size_t)(at - from));
        buf_puts(out, "\\u0000");
    }
    buf_puts(out, from);
    buf_puts(out, "\n");
    cJSON_free(text);
}

ErrCode json_save(const char *path, const cJSON *item, Err *err) {
    Buf text = {0};
    json_print(&text, item);
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) rc = file_save(path, text.data, text.len, err);
    buf_free(&text);
    return rc;
}
