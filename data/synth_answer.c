#include "data/synth_answer.h"

#include <string.h>

#include "core/json.h"
#include "core/text.h"

typedef struct {
    const char *text;
    size_t n, at;
} Scan;

static void skip_space(Scan *s) {
    while (s->at < s->n && strchr(" \t\r\n", s->text[s->at])) s->at++;
}

static char peek(const Scan *s, size_t ahead) {
    return s->at + ahead < s->n ? s->text[s->at + ahead] : 0;
}

/* Whether the quote at `at` can end a string: what follows is what may follow a string, or the next one on a line of its
 * own (a comma was forgotten). */
static bool can_end(const Scan *s, size_t at) {
    Scan after = {s->text, s->n, at + 1};
    skip_space(&after);
    if (after.at == s->n || strchr(",]}:", after.text[after.at])) return true;
    return after.text[after.at] == '"' && memchr(s->text + at, '\n', after.at - at);
}

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* An escape at s->at, made a valid one. \b and \f are no characters of a message: they begin \beta and \frac. */
static void put_escape(Buf *out, Scan *s) {
    const char c = peek(s, 1);
    if (c == 'u' && is_hex(peek(s, 2)) && is_hex(peek(s, 3)) && is_hex(peek(s, 4)) && is_hex(peek(s, 5))) {
        buf_put(out, s->text + s->at, 6);
        s->at += 6;
    } else if (c && strchr("\"\\/nrt", c)) {
        buf_put(out, s->text + s->at, 2);
        s->at += 2;
    } else {
        buf_puts(out, "\\\\");
        s->at++;
    }
}

/* A string from its quote on, as valid JSON; false when it does not end. */
static bool put_string(Buf *out, Scan *s) {
    buf_put(out, "\"", 1);
    s->at++;
    while (s->at < s->n) {
        const char c = s->text[s->at];
        if (c == '\\') {
            put_escape(out, s);
            continue;
        }
        if (c == '"' && can_end(s, s->at)) {
            buf_put(out, "\"", 1);
            s->at++;
            return true;
        }
        if (c == '"')
            buf_puts(out, "\\\"");
        else if ((unsigned char)c < 0x20)
            buf_printf(out, "\\u%04x", (unsigned)(unsigned char)c);
        else
            buf_put(out, &c, 1);
        s->at++;
    }
    return false;
}

/* An object or array from its bracket on, without commas at an end; false when it does not end. */
static bool put_nested(Buf *out, Scan *s) {
    int depth = 0;
    while (s->at < s->n) {
        const char c = s->text[s->at];
        if (c == '"') {
            if (!put_string(out, s)) return false;
            continue;
        }
        s->at++;
        if (c == ',') {
            skip_space(s);
            if (s->at < s->n && strchr("]}", s->text[s->at])) continue;
        }
        buf_put(out, &c, 1);
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && --depth == 0) return true;
    }
    return false;
}

static bool starts_list(Scan s) {
    if (peek(&s, 0) != '[') return false;
    s.at++;
    skip_space(&s);
    return s.at < s.n && strchr("\"{]", s.text[s.at]);
}

/* Where the list begins (its '['), or n. */
static size_t find_list(const char *text, size_t n, const char *key) {
    const size_t length = strlen(key);
    for (size_t i = 0; i + length + 2 < n; i++) {
        if (text[i] != '"' || memcmp(text + i + 1, key, length) != 0 || text[i + 1 + length] != '"') continue;
        Scan s = {text, n, i + length + 2};
        skip_space(&s);
        if (peek(&s, 0) != ':') continue;
        s.at++;
        skip_space(&s);
        if (starts_list(s)) return s.at;
    }
    for (size_t i = 0; i < n; i++)
        if (text[i] == '[' && starts_list((Scan){text, n, i})) return i;
    return n;
}

/* Behind the last "</think>"; n when thinking has begun and not ended. */
static size_t skip_thinking(const char *text, size_t n) {
    size_t begin = n, end = n;
    for (size_t i = 0; i + 7 <= n; i++) {
        if (memcmp(text + i, "<think>", 7) == 0) begin = i;
        if (i + 8 <= n && memcmp(text + i, "</think>", 8) == 0) end = i + 8;
    }
    if (end < n || (end == n && n >= 8 && memcmp(text + n - 8, "</think>", 8) == 0)) return end;
    Scan s = {text, n, 0};
    skip_space(&s);
    return begin == s.at && begin < n ? n : 0;
}

static ErrCode add_item(cJSON *list, const Buf *item, bool *whole, Err *err) {
    cJSON *tree = NULL;
    TRY(buf_ok(item, err));
    const ErrCode rc = json_parse(&tree, item->data, item->len, NULL);
    if (rc == ERR_OK && cJSON_AddItemToArray(list, tree)) return ERR_OK;
    cJSON_Delete(tree);
    if (rc == ERR_MEMORY || rc == ERR_OK) return err_set(err, ERR_MEMORY, "out of memory for an answer");
    *whole = false;
    return ERR_OK;
}

/* Skips a number, null, true or false, which is an item of no use; false where something else is. */
static bool skip_literal(Scan *s) {
    Scan after = *s;
    while (after.at < s->n && after.text[after.at] && strchr("+-.0123456789Eaeflnrstu", after.text[after.at]))
        after.at++;
    const bool any = after.at > s->at;
    skip_space(&after);
    if (!any || after.at == s->n || !strchr(",]", after.text[after.at])) return false;
    *s = after;
    return true;
}

/* Items up to the ']' or the end of the text. */
static ErrCode take_items(cJSON *list, bool *whole, Scan *s, Err *err) {
    Buf item = {0};
    ErrCode rc = ERR_OK;
    *whole = true;
    s->at++;
    for (int count = 0; rc == ERR_OK && count < SYNTH_ANSWER_ITEMS_MAX; count++) {
        while (s->at < s->n && strchr(" \t\r\n,", s->text[s->at])) s->at++;
        const char c = peek(s, 0);
        if (c == ']' || c == 0) {
            *whole = *whole && c == ']';
            break;
        }
        buf_clear(&item);
        if (c == '"' || c == '{') {
            if (!(c == '"' ? put_string(&item, s) : put_nested(&item, s))) {
                *whole = false;
                break;
            }
            rc = add_item(list, &item, whole, err);
        } else if (skip_literal(s)) {
            *whole = false;
        } else { /* a quote ended the string before this too early: half an item is none */
            *whole = false;
            cJSON_DeleteItemFromArray(list, cJSON_GetArraySize(list) - 1);
            while (s->at < s->n && !strchr("\n]", s->text[s->at])) s->at++;
        }
    }
    buf_free(&item);
    return rc;
}

ErrCode synth_answer_list(cJSON **list, bool *whole, const char *text, size_t n, const char *key, Err *err) {
    *list = NULL;
    *whole = false;
    const size_t skipped = text ? skip_thinking(text, n) : n;
    Scan s = {text, n, 0};
    if (skipped < n) s = (Scan){text + skipped, n - skipped, 0};
    const size_t start = skipped < n ? find_list(s.text, s.n, key) : s.n;
    if (skipped >= n || start == s.n)
        return err_set(err, ERR_FORMAT, "the answer holds no JSON list \"%s\"", key);
    s.at = start;
    cJSON *array = cJSON_CreateArray();
    if (!array) return err_set(err, ERR_MEMORY, "out of memory for an answer");
    const ErrCode rc = take_items(array, whole, &s, err);
    if (rc != ERR_OK) {
        cJSON_Delete(array);
        return rc;
    }
    *list = array;
    return ERR_OK;
}

const char *synth_answer_text(const cJSON *item, const char *names) {
    const cJSON *found = cJSON_IsString(item) ? item : NULL;
    for (const char *p = names; !found && cJSON_IsObject(item) && *p;) {
        const size_t n = strcspn(p, "|");
        const cJSON *child;
        cJSON_ArrayForEach(child, item) if (!found && cJSON_IsString(child) && strlen(child->string) == n &&
                                            memcmp(child->string, p, n) == 0) found = child;
        p += n + (p[n] == '|');
    }
    if (!found) return NULL;
    const size_t n = strlen(found->valuestring);
    return text_utf8_prefix(found->valuestring, n) == n ? found->valuestring : NULL;
}
