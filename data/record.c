#include "data/record.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"

static const char *const TEXT_NAMES[] = {"text",     "prompt",      "query", "sentence",
                                         "question", "instruction", "input", "messages"};
static const char *const LABEL_NAMES[] = {"label", "domain", "category", "target", "intent", "class"};

enum { TEXT_COUNT = 8, LABEL_COUNT = 6, LABEL = 0, SPLIT = 1, SOURCE = 2, ID = 3 };

static cJSON *member(const cJSON *object, const char *key) {
    cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static const char *kind(const cJSON *item) {
    if (cJSON_IsNull(item)) return "null";
    if (cJSON_IsBool(item)) return "true or false";
    if (cJSON_IsNumber(item)) return "a number";
    if (cJSON_IsString(item)) return "a string";
    return cJSON_IsArray(item) ? "an array" : "an object";
}

static bool is_blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\v\f", s[i])) return false; /* strchr finds NUL too: a text of NULs is blank */
    return true;
}

/* "no label: expected ..., found the members a, b, c" */
static ErrCode missing(const cJSON *root, const char *what, const char *field, const char *const *names,
                       size_t count, Err *err) {
    char found[256] = "", wanted[160] = "";
    size_t at = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        char key[44];
        text_excerpt(key, 40, item->string, strlen(item->string));
        if (at + strlen(key) + 8 > sizeof found) {
            (void)snprintf(found + at, sizeof found - at, ", ...");
            break;
        }
        at += (size_t)snprintf(found + at, sizeof found - at, "%s%s", at ? ", " : "", key);
    }
    at = 0;
    if (field)
        (void)snprintf(wanted, sizeof wanted, "the member %.100s", field);
    else
        for (size_t i = 0; i < count; i++)
            at += (size_t)snprintf(wanted + at, sizeof wanted - at, "%s%s",
                                   i == 0           ? "one of "
                                   : i + 1 == count ? " or "
                                                    : ", ",
                                   names[i]);
    if (!found[0]) return err_set(err, ERR_FORMAT, "no %s: expected %s, found no members", what, wanted);
    return err_set(err, ERR_FORMAT, "no %s: expected %s, found only %s", what, wanted, found);
}

/* ---- text ---- */

static ErrCode add_turn(Record *r, cJSON *text, bool *first) {
    size_t n;
    const char *s = json_text(text, &n);
    if (!*first) buf_put(&r->joined, "\n", 1);
    *first = false;
    buf_put(&r->joined, s, n);
    return ERR_OK;
}

static ErrCode read_turn(Record *r, const cJSON *turn, const char *name, int number, bool *first, Err *err) {
    if (!cJSON_IsObject(turn))
        return err_set(err, ERR_FORMAT, "%.100s[%d]: found %s, expected an object with role and content",
                       name, number, kind(turn));
    const cJSON *role = member(turn, "role");
    if (!cJSON_IsString(role))
        return err_set(err, ERR_FORMAT, "%.100s[%d]: found no role, expected user, assistant or system", name,
                       number);
    if (strcmp(role->valuestring, "user") != 0) return ERR_OK;
    cJSON *content = member(turn, "content");
    if (cJSON_IsString(content)) return add_turn(r, content, first);
    if (!cJSON_IsArray(content))
        return err_set(err, ERR_FORMAT, "%.100s[%d].content: expected a string or an array of parts", name,
                       number);
    const cJSON *part;
    cJSON_ArrayForEach(part, content) {
        const cJSON *type = member(part, "type");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0) continue; /* an image, say */
        cJSON *text = member(part, "text");
        if (!cJSON_IsString(text))
            return err_set(err, ERR_FORMAT, "%.100s[%d].content: a part of type text without a string text",
                           name, number);
        TRY(add_turn(r, text, first));
    }
    return ERR_OK;
}

static ErrCode read_chat(Record *r, const cJSON *turns, Err *err) {
    bool first = true;
    int number = 0;
    buf_clear(&r->joined);
    const cJSON *turn;
    cJSON_ArrayForEach(turn, turns) TRY(read_turn(r, turn, turns->string, number++, &first, err));
    TRY(buf_ok(&r->joined, err));
    r->text = r->joined.data ? r->joined.data : "";
    r->text_len = r->joined.len;
    return ERR_OK;
}

static ErrCode read_text_of(Record *r, cJSON *item, Err *err) {
    r->text_member = item->string;
    if (cJSON_IsArray(item)) return read_chat(r, item, err);
    if (!cJSON_IsString(item))
        return err_set(err, ERR_FORMAT, "%.100s: found %s, expected a string", item->string, kind(item));
    r->text = json_text(item, &r->text_len);
    return ERR_OK;
}

static ErrCode read_text(Record *r, const RecordRule *rule, Err *err) {
    cJSON *item = NULL;
    if (rule->text_field) {
        item = member(r->tree, rule->text_field);
        if (item) TRY(read_text_of(r, item, err));
    } else {
        for (size_t i = 0; i < TEXT_COUNT; i++) {
            cJSON *next = member(r->tree, TEXT_NAMES[i]);
            if (!next) continue;
            item = next;
            TRY(read_text_of(r, item, err));
            if (!is_blank(r->text, r->text_len)) break;
        }
    }
    if (!item) return missing(r->tree, "text", rule->text_field, TEXT_NAMES, TEXT_COUNT, err);
    if (is_blank(r->text, r->text_len)) {
        if (cJSON_IsArray(item))
            return err_set(err, ERR_FORMAT, "%.100s: no text in a user turn", item->string);
        return err_set(err, ERR_FORMAT, "%.100s: the text is empty", item->string);
    }
    if (r->text_len > RECORD_TEXT_MAX)
        return err_set(err, ERR_FORMAT, "%.100s: a text of %zu bytes, expected at most %zu", item->string,
                       r->text_len, RECORD_TEXT_MAX);
    return ERR_OK;
}

/* ---- names ---- */

/* A string, or an integer or boolean as text; NULL for anything else. */
static const char *name_of(cJSON *item, char digits[24]) {
    if (cJSON_IsBool(item)) return cJSON_IsTrue(item) ? "true" : "false";
    if (cJSON_IsNumber(item)) {
        const double v = item->valuedouble;
        if (!(fabs(v) <= 9007199254740992.0) || v != floor(v)) return NULL;
        (void)snprintf(digits, 24, "%.0f", v + 0.0); /* + 0.0 turns -0 into 0 */
        return digits;
    }
    if (!cJSON_IsString(item)) return NULL;
    return item->valuestring;
}

static ErrCode read_label(Record *r, const RecordRule *rule, Err *err) {
    cJSON *item = rule->label_field ? member(r->tree, rule->label_field) : NULL;
    for (size_t i = 0; !rule->label_field && !item && i < LABEL_COUNT; i++)
        item = member(r->tree, LABEL_NAMES[i]);
    if (!item)
        return rule->label_optional
                   ? ERR_OK
                   : missing(r->tree, "label", rule->label_field, LABEL_NAMES, LABEL_COUNT, err);
    const char *label = name_of(item, r->digits[LABEL]);
    if (!label)
        return err_set(err, ERR_FORMAT, "%.100s: found %s as label, expected a string or an integer",
                       item->string, cJSON_IsNumber(item) ? "a fraction or a too large number" : kind(item));
    const size_t n = strlen(label);
    if (is_blank(label, n)) return err_set(err, ERR_FORMAT, "%.100s: the label is empty", item->string);
    if (n > RECORD_NAME_MAX)
        return err_set(err, ERR_FORMAT, "%.100s: a label of %zu bytes, expected at most %d", item->string, n,
                       RECORD_NAME_MAX);
    if (strstr(label, "\xc0\x80")) return err_set(err, ERR_FORMAT, "%.100s: NUL in the label", item->string);
    r->label = label;
    r->label_member = item->string;
    return ERR_OK;
}

/* source and id are for people: what is no name counts as absent, and a NUL ends it. */
static const char *read_name(const Record *r, const char *key, char digits[24]) {
    cJSON *item = member(r->tree, key);
    if (!item) return NULL;
    const char *name = name_of(item, digits);
    size_t n;
    return cJSON_IsString(item) ? json_text(item, &n) : name;
}

static ErrCode read_weight(Record *r, Err *err) {
    const cJSON *item = member(r->tree, "sample_weight");
    r->weight = 1;
    if (!item) return ERR_OK;
    if (!cJSON_IsNumber(item))
        return err_set(err, ERR_FORMAT, "sample_weight: found %s, expected a number", kind(item));
    r->weight = item->valuedouble;
    if (!(r->weight > 0 && r->weight <= 1000) || (float)r->weight <= 0)
        return err_set(err, ERR_FORMAT, "sample_weight: found %g, expected more than 0 and at most 1000",
                       r->weight);
    return ERR_OK;
}

ErrCode record_parse(Record *r, const RecordRule *rule, const char *line, size_t n, Err *err) {
    cJSON_Delete(r->tree);
    *r = (Record){.joined = r->joined};
    TRY(json_parse(&r->tree, line, n, err));
    ErrCode rc = ERR_OK;
    if (!cJSON_IsObject(r->tree))
        rc = err_set(err, ERR_FORMAT,
                     "found %s, expected a JSON object such as {\"text\": ..., \"label\": ...}",
                     kind(r->tree));
    if (rc == ERR_OK) rc = read_label(r, rule, err); /* before json_text could shorten a shared member */
    if (rc == ERR_OK) {
        const cJSON *split = member(r->tree, "split");
        if (split && !cJSON_IsString(split))
            rc = err_set(err, ERR_FORMAT, "split: found %s, expected a string", kind(split));
    }
    if (rc == ERR_OK) rc = read_weight(r, err);
    if (rc == ERR_OK) rc = read_text(r, rule, err);
    if (rc == ERR_OK) {
        r->split = read_name(r, "split", r->digits[SPLIT]);
        r->source = read_name(r, "source", r->digits[SOURCE]);
        r->id = read_name(r, "id", r->digits[ID]);
    } else {
        record_free(r);
    }
    return rc;
}

void record_free(Record *r) {
    cJSON_Delete(r->tree);
    buf_free(&r->joined);
    *r = (Record){0};
}
