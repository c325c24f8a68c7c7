#include "eval/endpoint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

enum { KEY_HIDDEN_MIN = 8 };
#define HEADER "Authorization: Bearer "

static const char *const KEYS[] = {ENDPOINT_KEYS};

bool endpoint_there(const cJSON *object) {
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (cJSON_GetObjectItemCaseSensitive(object, KEYS[i])) return true;
    return false;
}

static ErrCode copy(char **out, const cJSON *object, const char *key, Err *err) {
    const char *found = NULL;
    TRY(json_get_string(&found, object, key, err));
    if (!found) return ERR_OK;
    if (!found[0] || strstr(found, "\xc0\x80"))
        return err_set(err, ERR_ARGUMENT, "key \"%s\": empty, or with a NUL", key);
    *out = mem_strdup(found);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for an endpoint");
}

static ErrCode read_url(Endpoint *e, const cJSON *object, Err *err) {
    const char *base = NULL;
    TRY(json_get_string(&base, object, "base_url", err));
    if (!base || (strncmp(base, "http://", 7) != 0 && strncmp(base, "https://", 8) != 0))
        return err_set(err, ERR_ARGUMENT, "base_url: expected one such as \"http://127.0.0.1:8000/v1\"");
    if (strpbrk(base, "@?#"))
        return err_set(err, ERR_ARGUMENT, "base_url: expected a URL without a name, a password or a query");
    size_t n = strlen(base);
    while (n && base[n - 1] == '/') n--;
    Buf url = {0};
    buf_put(&url, base, n);
    buf_puts(&url, "/chat/completions");
    const ErrCode rc = buf_ok(&url, err);
    if (rc == ERR_OK) e->url = mem_strdup(url.data);
    buf_free(&url);
    TRY(rc);
    return e->url ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for an endpoint");
}

static ErrCode read_temperature(Endpoint *e, const cJSON *object, Err *err) {
    if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(object, "temperature"))) {
        e->temperature = NAN;
        return ERR_OK;
    }
    return json_get_double(&e->temperature, object, "temperature", 0, 2, err);
}

static ErrCode read_tokens_field(Endpoint *e, const cJSON *object, Err *err) {
    const char *field = "max_tokens";
    TRY(json_get_string(&field, object, "tokens_field", err));
    e->completion_tokens = strcmp(field, "max_completion_tokens") == 0;
    if (e->completion_tokens || strcmp(field, "max_tokens") == 0) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "tokens_field: expected \"max_tokens\" or \"max_completion_tokens\"");
}

static ErrCode read_extra(Endpoint *e, const cJSON *object, Err *err) {
    static const char *const OWN[] = {
        "model", "messages", "stream", "n", "temperature", "max_tokens", "max_completion_tokens"};
    const cJSON *extra = cJSON_GetObjectItemCaseSensitive(object, "extra");
    if (!extra) return ERR_OK;
    if (!cJSON_IsObject(extra)) return err_set(err, ERR_ARGUMENT, "extra: expected an object");
    for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++)
        if (cJSON_GetObjectItemCaseSensitive(extra, OWN[i]))
            return err_set(err, ERR_ARGUMENT, "extra: \"%s\" is set by the protocol", OWN[i]);
    if (!extra->child) return ERR_OK;
    char *text = cJSON_PrintUnformatted(extra);
    if (text) e->extra = mem_strndup(text + 1, strlen(text) - 2);
    cJSON_free(text);
    return e->extra ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for an endpoint");
}

ErrCode endpoint_read(Endpoint *out, const cJSON *object, Err *err) {
    *out = (Endpoint){.max_tokens = ENDPOINT_MAX_TOKENS, .timeout_s = 300, .connect_s = 20};
    TRY(read_url(out, object, err));
    TRY(copy(&out->model, object, "model", err));
    if (!out->model) return err_set(err, ERR_ARGUMENT, "no model: expected its name at the server");
    TRY(copy(&out->key_env, object, "api_key_env", err));
    TRY(json_get_int(&out->max_tokens, object, "max_tokens", 1, 1 << 20, err));
    TRY(read_tokens_field(out, object, err));
    TRY(read_temperature(out, object, err));
    TRY(json_get_double(&out->timeout_s, object, "timeout_seconds", 0.1, 86400, err));
    TRY(json_get_double(&out->connect_s, object, "connect_seconds", 0.1, 3600, err));
    return read_extra(out, object, err);
}

void endpoint_free(Endpoint *e) {
    mem_free(e->url);
    mem_free(e->model);
    mem_free(e->key_env);
    mem_free(e->extra);
    mem_free(e->secret);
    *e = (Endpoint){0};
}

ErrCode endpoint_unlock(Endpoint *e, Err *err) {
    if (!e->key_env) return ERR_OK;
    const char *key = getenv(e->key_env); /* NOLINT(concurrency-mt-unsafe): nobody sets the environment */
    if (!key || !*key)
        return err_set(err, ERR_ARGUMENT,
                       "the environment variable %.80s, which api_key_env names, is not set", e->key_env);
    Buf text = {0};
    buf_printf(&text, HEADER "%s", key);
    const ErrCode rc = buf_ok(&text, err);
    mem_free(e->secret);
    e->secret = rc == ERR_OK ? mem_strdup(text.data) : NULL;
    buf_free(&text);
    TRY(rc);
    return e->secret ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a key");
}

bool endpoint_same(const Endpoint *a, const Endpoint *b) {
    return a->url && b->url && strcmp(a->model, b->model) == 0;
}

void endpoint_body(Buf *out, const Endpoint *e, const char *user, size_t n) {
    buf_puts(out, "{\"model\":");
    text_put_json(out, e->model, strlen(e->model));
    buf_puts(out, ",\"messages\":[{\"role\":\"user\",\"content\":");
    text_put_json(out, user, n);
    buf_puts(out, "}]");
    if (isfinite(e->temperature)) buf_printf(out, ",\"temperature\":%.6g", e->temperature);
    buf_printf(out, ",\"%s\":%lld", e->completion_tokens ? "max_completion_tokens" : "max_tokens",
               (long long)e->max_tokens);
    if (e->extra) buf_printf(out, ",%s", e->extra);
    buf_puts(out, "}");
}

int64_t endpoint_tokens_in(const Buf *body) {
    return (int64_t)body->len + ENDPOINT_TEMPLATE_TOKENS;
}

/* Short ones ("none", "EMPTY") are what local servers are given: no secrets, and words of answers. */
void endpoint_hide(const Endpoint *e, char *text, size_t n) {
    const char *key = e->secret ? e->secret + strlen(HEADER) : "";
    const size_t length = strlen(key);
    if (length < KEY_HIDDEN_MIN) return;
    for (size_t i = 0; i + length <= n;) {
        if (memcmp(text + i, key, length) == 0) {
            memset(text + i, '*', length);
            i += length;
        } else {
            i++;
        }
    }
}
