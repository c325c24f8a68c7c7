#include "data/chat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

enum { KEY_HIDDEN_MIN = 8 };
#define HEADER "Authorization: Bearer "

static const char *const TOKENS_FIELDS[] = {"max_tokens", "max_completion_tokens"};

static const cJSON *member(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* ---- what is known of a model ---- */

Chat chat_default(void) {
    return (Chat){
        .tokens_field = TOKENS_FIELDS[0], .top_p = 1, .connect_s = 20, .timeout_s = 300, .max_tokens = 2048};
}

void chat_free(Chat *c) {
    mem_free(c->url);
    mem_free(c->model);
    mem_free(c->key_env);
    mem_free(c->extra);
    mem_free(c->secret);
    *c = (Chat){0};
}

static ErrCode replace(char **out, const char *text, size_t n, Err *err) {
    mem_free(*out);
    *out = mem_strndup(text, n);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for an endpoint");
}

static ErrCode read_string(char **out, const cJSON *object, const char *key, Err *err) {
    const char *found = NULL;
    TRY(json_get_string(&found, object, key, err));
    if (!found) return ERR_OK;
    if (!found[strspn(found, " \t\r\n")] || strstr(found, "\xc0\x80"))
        return err_set(err, ERR_ARGUMENT, "key \"%s\": the text is empty, or has a NUL", key);
    return replace(out, found, strlen(found), err);
}

/* The number of the name that a member holds. */
static ErrCode read_choice(int *out, const cJSON *object, const char *key, const char *const *names,
                           int count, Err *err) {
    const char *text = NULL;
    TRY(json_get_string(&text, object, key, err));
    if (!text) return ERR_OK;
    for (int i = 0; i < count; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = i;
        return ERR_OK;
    }
    char shown[68];
    Buf all = {0};
    for (int i = 0; i < count; i++) buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    const ErrCode rc = err_set(err, ERR_ARGUMENT, "key \"%s\": found \"%s\", expected one of %s", key,
                               text_excerpt(shown, 64, text, strlen(text)), all.failed ? "others" : all.data);
    buf_free(&all);
    return rc;
}

static ErrCode read_extra(Chat *c, const cJSON *extra, Err *err) {
    static const char *const OURS[] = {"model", "messages",    "stream",     "stream_options",
                                       "n",     "temperature", "max_tokens", "max_completion_tokens"};
    if (!extra) return ERR_OK;
    if (!cJSON_IsObject(extra))
        return err_set(err, ERR_ARGUMENT,
                       "key \"extra\": expected an object of further members of a request");
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++)
        if (member(extra, OURS[i]))
            return err_set(err, ERR_ARGUMENT, "key \"extra\": \"%s\" is set by other keys, or not at all",
                           OURS[i]);
    mem_free(c->extra);
    c->extra = NULL;
    if (!extra->child) return ERR_OK;
    char *text = cJSON_PrintUnformatted(extra);
    if (!text) return err_set(err, ERR_MEMORY, "out of memory for an endpoint");
    const ErrCode rc = replace(&c->extra, text + 1, strlen(text) - 2, err);
    cJSON_free(text);
    return rc;
}

ErrCode chat_read(Chat *c, const cJSON *object, Err *err) {
    static const char *const JSON[] = {"off", "object", "schema"};
    int json = (int)c->json, field = c->tokens_field == TOKENS_FIELDS[1];
    TRY(read_string(&c->model, object, "model", err));
    TRY(read_string(&c->key_env, object, "api_key_env", err));
    TRY(read_choice(&json, object, "json", JSON, 3, err));
    TRY(read_choice(&field, object, "tokens_field", TOKENS_FIELDS, 2, err));
    c->json = (ChatJson)json;
    c->tokens_field = TOKENS_FIELDS[field];
    TRY(json_get_bool(&c->stream, object, "stream", err));
    TRY(json_get_bool(&c->send_seed, object, "send_seed", err));
    if (cJSON_IsNull(member(object, "temperature")))
        c->temperature = (double)NAN;
    else
        TRY(json_get_double(&c->temperature, object, "temperature", 0, 5, err));
    TRY(json_get_double(&c->top_p, object, "top_p", 0, 1, err));
    TRY(json_get_double(&c->price_in, object, "price_in", 0, 1e6, err));
    TRY(json_get_double(&c->price_out, object, "price_out", 0, 1e6, err));
    TRY(json_get_double(&c->connect_s, object, "connect_seconds", 0.01, 3600, err));
    TRY(json_get_double(&c->timeout_s, object, "timeout_seconds", 0.01, 86400, err));
    TRY(json_get_int(&c->max_tokens, object, "max_tokens", 1, 1 << 20, err));
    return read_extra(c, member(object, "extra"), err);
}

ErrCode chat_set_url(Chat *c, const char *base, Err *err) {
    Buf url = {0};
    size_t n = strlen(base);
    while (n && base[n - 1] == '/') n--;
    buf_put(&url, base, n);
    buf_puts(&url, "/chat/completions");
    ErrCode rc = buf_ok(&url, err);
    if (rc == ERR_OK) rc = replace(&c->url, url.data, url.len, err);
    buf_free(&url);
    return rc;
}

/* ---- keys ---- */

static const char *environment(const char *name) {
    const char *value = getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody sets the environment */
    return value && *value ? value : NULL;
}

bool chat_has_variable(const char *name) {
    return environment(name) != NULL;
}

ErrCode chat_unlock_from(Chat *c, const char *variable, Err *err) {
    if (!variable) return ERR_OK;
    const char *key = environment(variable);
    if (!key)
        return err_set(err, ERR_ARGUMENT,
                       "the environment variable %.80s, which api_key_env names, is not set", variable);
    Buf text = {0};
    buf_printf(&text, HEADER "%s", key);
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) rc = replace(&c->secret, text.data, text.len, err);
    buf_free(&text);
    return rc;
}

ErrCode chat_unlock(Chat *c, Err *err) {
    return chat_unlock_from(c, c->key_env, err);
}

/* Short ones ("none", "EMPTY") are what local servers are given: no secrets, and words of answers. */
void chat_hide(const Chat *c, char *text, size_t n) {
    const char *key = c->secret ? c->secret + strlen(HEADER) : "";
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

/* ---- requests ---- */

/* response_format; a schema of an object whose one member is an array. */
static void put_format(Buf *out, ChatJson json, const char *list, const char *item) {
    if (json == CHAT_JSON_OFF) return;
    if (json == CHAT_JSON_OBJECT) {
        buf_puts(out, ",\"response_format\":{\"type\":\"json_object\"}");
        return;
    }
    buf_printf(out,
               ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"%s\",\"strict\":"
               "true,\"schema\":{\"type\":\"object\",\"properties\":{\"%s\":{\"type\":\"array\",\"items\":%s}"
               "},\"required\":[\"%s\"],\"additionalProperties\":false}}}",
               list, list, item ? item : "{\"type\":\"string\"}", list);
}

void chat_turn(Buf *out, const Chat *c, const ChatTurn *t) {
    buf_puts(out, "{\"model\":");
    text_put_json(out, c->model, strlen(c->model));
    buf_puts(out, ",\"messages\":[");
    if (t->system) {
        buf_puts(out, "{\"role\":\"system\",\"content\":");
        text_put_json(out, t->system, strlen(t->system));
        buf_puts(out, "},");
    }
    buf_puts(out, "{\"role\":\"user\",\"content\":");
    text_put_json(out, t->user ? t->user : "", t->user_bytes);
    buf_puts(out, "}]");
    if (isfinite(c->temperature)) buf_printf(out, ",\"temperature\":%.6g", c->temperature);
    if (c->top_p < 1) buf_printf(out, ",\"top_p\":%.6g", c->top_p);
    buf_printf(out, ",\"%s\":%lld", c->tokens_field, (long long)c->max_tokens);
    if (c->send_seed) buf_printf(out, ",\"seed\":%llu", (unsigned long long)(t->seed & 0x7fffffff));
    if (c->stream) buf_puts(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (t->list) put_format(out, c->json, t->list, t->item);
    if (c->extra) buf_printf(out, ",%s", c->extra);
    buf_puts(out, "}");
}

void chat_body(Buf *out, const Chat *c, const char *user, size_t n) {
    chat_turn(out, c, &(ChatTurn){.user = user, .user_bytes = n});
}

int64_t chat_tokens_in(const Buf *body) {
    return (int64_t)body->len + CHAT_TEMPLATE_TOKENS;
}

double chat_cost(const Chat *c, double tokens_in, double tokens_out) {
    return 1e-6 * (tokens_in * c->price_in + tokens_out * c->price_out);
}

ChatSpend chat_spend(const Chat *c, int64_t in, int64_t out) {
    return (ChatSpend){in, out, chat_cost(c, (double)in, (double)out)};
}

void chat_add(ChatSpend *sum, const ChatSpend *s, int sign) {
    sum->in += sign * s->in;
    sum->out += sign * s->out;
    sum->cost += sign * s->cost;
}

/* ---- answers ---- */

void chat_answer_free(ChatAnswer *a) {
    buf_free(&a->content);
    *a = (ChatAnswer){0};
}

const char *chat_error(char *out, size_t max, const char *body, size_t n) {
    cJSON *tree = NULL;
    const char *text = body ? body : "";
    size_t length = n;
    if (json_parse(&tree, text, n, NULL) == ERR_OK) {
        const cJSON *error = member(tree, "error");
        const cJSON *message = cJSON_IsObject(error) ? member(error, "message") : error;
        if (!cJSON_IsString(message)) message = member(tree, "message");
        if (!cJSON_IsString(message)) message = member(tree, "detail");
        if (cJSON_IsString(message)) {
            text = message->valuestring;
            length = strlen(text);
        }
    }
    text_excerpt(out, max, text, length);
    cJSON_Delete(tree);
    return out;
}

/* A string, or an array of parts with texts. */
static void put_content(Buf *out, const cJSON *content) {
    const cJSON *part;
    size_t n;
    if (cJSON_IsString(content)) {
        const char *text = content->valuestring;
        for (n = 0; text[n]; n++) /* a NUL, which core/json carries as C0 80, is a space here */
            if ((unsigned char)text[n] == 0xc0) break;
        if (!text[n]) {
            buf_put(out, text, n);
            return;
        }
        for (n = 0; text[n]; n++) {
            const bool nul = (unsigned char)text[n] == 0xc0;
            buf_put(out, nul ? " " : text + n, 1);
            if (nul && text[n + 1]) n++;
        }
    } else if (cJSON_IsArray(content)) {
        cJSON_ArrayForEach(part, content) {
            const cJSON *text = member(part, "text");
            if (cJSON_IsString(text)) put_content(out, text); /* NOLINT(misc-no-recursion): one level */
        }
    }
}

static void take_usage(ChatAnswer *a, const cJSON *usage) {
    int64_t in = -1, out = -1;
    const int64_t many = (int64_t)1 << 40;
    if (json_get_int(&in, usage, "prompt_tokens", 0, many, NULL) != ERR_OK ||
        json_get_int(&out, usage, "completion_tokens", 0, many, NULL) != ERR_OK || in < 0 || out < 0)
        return;
    a->tokens_in = in;
    a->tokens_out = out;
    a->counted = true;
}

static ErrCode take_choice(ChatAnswer *a, const cJSON *tree, const char *holder, Err *err) {
    const cJSON *choices = member(tree, "choices"), *choice = cJSON_IsArray(choices) ? choices->child : NULL;
    const cJSON *error = member(tree, "error");
    if (error && !cJSON_IsNull(error)) {
        const cJSON *message = cJSON_IsObject(error) ? member(error, "message") : error;
        char shown[304];
        const char *text = cJSON_IsString(message) ? message->valuestring : "no message";
        return err_set(err, ERR_FORMAT, "the server reports an error: %s",
                       text_excerpt(shown, 300, text, strlen(text)));
    }
    const cJSON *usage = member(tree, "usage");
    if (cJSON_IsObject(usage)) take_usage(a, usage);
    if (!cJSON_IsArray(choices))
        return err_set(err, ERR_FORMAT, "not a chat completion: expected an object with \"choices\"");
    if (!choice) return ERR_OK; /* the last event of a stream: usage alone */
    const cJSON *finish = member(choice, "finish_reason");
    if (cJSON_IsString(finish)) {
        a->ended = true;
        a->cut = strcmp(finish->valuestring, "length") == 0;
    }
    put_content(&a->content, member(member(choice, holder), "content"));
    if (a->content.len > CHAT_TEXT_MAX)
        return err_set(err, ERR_FORMAT, "the completion is longer than %zu bytes", CHAT_TEXT_MAX);
    return buf_ok(&a->content, err);
}

static ErrCode take(ChatAnswer *a, const char *text, size_t n, const char *holder, Err *err) {
    cJSON *tree = NULL;
    ErrCode rc = json_parse(&tree, text, n, err);
    if (rc == ERR_OK && !cJSON_IsObject(tree))
        rc = err_set(err, ERR_FORMAT, "not a chat completion: expected an object");
    if (rc == ERR_OK) rc = take_choice(a, tree, holder, err);
    cJSON_Delete(tree);
    return rc;
}

ErrCode chat_answer(ChatAnswer *a, const char *body, size_t n, Err *err) {
    *a = (ChatAnswer){0};
    const ErrCode rc = take(a, body ? body : "", n, "message", err);
    if (rc != ERR_OK) chat_answer_free(a);
    return rc;
}

ErrCode chat_event(ChatAnswer *a, const char *data, size_t n, Err *err) {
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        a->ended = true;
        return ERR_OK;
    }
    return take(a, data, n, "delta", err);
}
