/* Questions, problems and programming tasks; what one element of each looks like is in import_formats.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "data/import_row.h"

cJSON *import_member(const cJSON *object, const char *key) {
    cJSON *item = cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
    return cJSON_IsNull(item) ? NULL : item;
}

const char *import_kind(const cJSON *item) {
    if (!item || cJSON_IsNull(item)) return "null";
    if (cJSON_IsBool(item)) return "true or false";
    if (cJSON_IsNumber(item)) return "a number";
    if (cJSON_IsString(item)) return "a string";
    return cJSON_IsArray(item) ? "an array" : "an object";
}

ErrCode import_lacks(const cJSON *object, const char *what, Err *err) {
    char found[256] = "";
    size_t at = 0;
    const cJSON *item;
    if (!cJSON_IsObject(object))
        return err_set(err, ERR_FORMAT, "found %s, expected an object with %s", import_kind(object), what);
    cJSON_ArrayForEach(item, object) {
        char key[44];
        text_excerpt(key, 40, item->string, strlen(item->string));
        if (at + strlen(key) + 8 > sizeof found) {
            (void)snprintf(found + at, sizeof found - at, ", ...");
            break;
        }
        at += (size_t)snprintf(found + at, sizeof found - at, "%s%s", at ? ", " : "", key);
    }
    return err_set(err, ERR_FORMAT, "no %s: found %s%s", what, found[0] ? "only " : "no members", found);
}

ErrCode import_add_text(ImportRow *row, const cJSON *object, const char *key, bool optional, Err *err) {
    cJSON *item = import_member(object, key);
    if (!item) return optional ? ERR_OK : import_lacks(object, key, err);
    if (!cJSON_IsString(item))
        return err_set(err, ERR_FORMAT, "%s: found %s, expected a string", key, import_kind(item));
    size_t n;
    const char *s = json_text(item, &n);
    buf_put(&row->text, s, n);
    return ERR_OK;
}

const char *import_name(cJSON *item, char digits[24]) {
    if (cJSON_IsString(item)) return item->valuestring;
    if (!cJSON_IsNumber(item)) return NULL;
    const double v = item->valuedouble;
    if (!(fabs(v) <= 9007199254740992.0) || v != floor(v)) return NULL;
    (void)snprintf(digits, 24, "%.0f", v + 0.0);
    return digits;
}

static const char *string_of(const cJSON *object, const char *key) {
    const cJSON *item = import_member(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* ---- options of a question ---- */

static void put_choice(ImportRow *row, const char *s, size_t n) {
    while (n && strchr(" \t\r\n", s[n - 1])) n--;
    while (n && strchr(" \t\r\n", s[0])) s++, n--;
    if (row->choices.len) buf_put(&row->choices, ",", 1);
    text_put_json(&row->choices, s, n);
}

/* One more option. */
static void add_choice(ImportRow *row, cJSON *item) {
    if (!cJSON_IsString(item)) return;
    size_t n;
    const char *s = json_text(item, &n);
    put_choice(row, s, n);
}

static void add_choices_of(ImportRow *row, const cJSON *list) {
    cJSON *item;
    cJSON_ArrayForEach(item, list) add_choice(row, item);
}

/* "A)21" without its letter. */
static void add_lettered_choices(ImportRow *row, const cJSON *list) {
    cJSON *item;
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item)) continue;
        size_t n;
        const char *s = json_text(item, &n);
        const size_t from = n >= 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] == ')' ? 2 : 0;
        put_choice(row, s + from, n - from);
    }
}

/* Where ", b )" or, for the first, "a )" is, and how long it is; the end when it is not there. */
static size_t find_letter(const char *s, size_t from, char letter, size_t *length) {
    const size_t n = strlen(s);
    for (size_t i = from; i < n; i++) {
        size_t at = i;
        if (letter != 'a') {
            if (s[at++] != ',') continue;
            while (s[at] == ' ') at++;
        }
        if (s[at] != letter) continue;
        at++;
        while (s[at] == ' ') at++;
        if (s[at] != ')') continue;
        *length = at + 1 - i;
        return i;
    }
    *length = 0;
    return n;
}

/* "a ) 38 , b ) 27.675 , c ) 30" */
static void add_joined_choices(ImportRow *row, const char *s) {
    size_t length, at = find_letter(s, 0, 'a', &length);
    for (char letter = 'b'; length && letter <= 'z'; letter++) {
        const size_t from = at + length;
        at = find_letter(s, from, letter, &length);
        put_choice(row, s + from, at - from);
    }
}

void import_add_choices(ImportRow *row, const cJSON *choices) {
    cJSON *item;
    if (cJSON_IsObject(choices)) {
        add_choices_of(row, import_member(choices, "text"));
        return;
    }
    cJSON_ArrayForEach(item, choices)
        add_choice(row, cJSON_IsObject(item) ? import_member(item, "text") : item);
}

/* ---- formats ---- */

ErrCode import_gsm8k(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    return import_add_text(row, json, "question", false, err);
}

ErrCode import_math(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    row->subject = string_of(json, "type");
    if (!row->subject) row->subject = string_of(json, "subject");
    row->id = string_of(json, "unique_id");
    return import_add_text(row, json, "problem", false, err);
}

ErrCode import_mathqa(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    row->subject = string_of(json, "category");
    const char *options = string_of(json, "options");
    if (options) add_joined_choices(row, options);
    return import_add_text(row, json, "Problem", false, err);
}

ErrCode import_aqua(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    add_lettered_choices(row, import_member(json, "options"));
    return import_add_text(row, json, "question", false, err);
}

ErrCode import_medmcqa(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    static const char *const OPTIONS[] = {"opa", "opb", "opc", "opd"};
    (void)rule;
    for (size_t i = 0; i < 4; i++) add_choice(row, import_member(json, OPTIONS[i]));
    row->subject = string_of(json, "subject_name");
    return import_add_text(row, json, "question", false, err);
}

ErrCode import_medqa(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    add_choices_of(row, import_member(json, "options"));
    row->subject = string_of(json, "meta_info");
    return import_add_text(row, json, "question", false, err);
}

ErrCode import_pubmedqa(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    row->id = row->key;
    if (!row->id) row->id = import_name(import_member(json, "pubid"), row->digits);
    return import_add_text(row, json, import_member(json, "QUESTION") ? "QUESTION" : "question", false, err);
}

ErrCode import_sciq(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    static const char *const OPTIONS[] = {"distractor1", "distractor2", "distractor3", "correct_answer"};
    (void)rule;
    for (size_t i = 0; i < 4; i++) add_choice(row, import_member(json, OPTIONS[i]));
    return import_add_text(row, json, "question", false, err);
}

ErrCode import_arc(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    const cJSON *question = import_member(json, "question");
    const bool nested = cJSON_IsObject(question);
    const cJSON *holder = nested ? question : json;
    import_add_choices(row, import_member(holder, "choices"));
    const char *key = nested ? "stem" : import_member(json, "question_stem") ? "question_stem" : "question";
    const ErrCode rc = import_add_text(row, holder, key, false, err);
    return rc == ERR_FORMAT && nested ? err_context(err, rc, "question") : rc;
}

ErrCode import_humaneval(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    row->id = import_name(import_member(json, "task_id"), row->digits);
    return import_add_text(row, json, "prompt", false, err);
}

ErrCode import_mbpp(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    row->id = import_name(import_member(json, "task_id"), row->digits);
    return import_add_text(row, json, import_member(json, "text") ? "text" : "prompt", false, err);
}

ErrCode import_mmlu(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    static const char *const OPTIONS[] = {"A", "B", "C", "D"};
    (void)rule;
    const cJSON *choices = import_member(json, "choices");
    add_choices_of(row, choices);
    for (size_t i = 0; !choices && i < 4; i++) add_choice(row, import_member(json, OPTIONS[i]));
    row->subject = string_of(json, "subject");
    return import_add_text(row, json, "question", false, err);
}

/* key is "train", "val", "test" or one of these behind "oos_", for prompts that have no intent. */
ErrCode import_clinc150(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    cJSON *text = cJSON_IsArray(json) ? cJSON_GetArrayItem(json, 0) : NULL;
    const cJSON *intent = cJSON_IsArray(json) ? cJSON_GetArrayItem(json, 1) : NULL;
    if (!row->key || !text || !intent || !cJSON_IsString(text) || !cJSON_IsString(intent) ||
        cJSON_GetArraySize(json) != 2)
        return err_set(err, ERR_FORMAT, "found %s, expected {\"train\": [[\"text\", \"intent\"], ...], ...}",
                       import_kind(json));
    row->split = strncmp(row->key, "oos_", 4) == 0 ? row->key + 4 : row->key;
    row->subject = intent->valuestring;
    size_t n;
    const char *s = json_text(text, &n);
    buf_put(&row->text, s, n);
    return ERR_OK;
}

/* ---- instructions and chats ---- */

/* Instruction and what it is about, one line break between them. */
static ErrCode add_both(ImportRow *row, const cJSON *json, const char *first, const char *second, Err *err) {
    TRY(import_add_text(row, json, first, false, err));
    import_trim(&row->text);
    const size_t before = row->text.len;
    buf_put(&row->text, "\n", 1);
    return before ? import_add_text(row, json, second, true, err) : ERR_OK;
}

ErrCode import_alpaca(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    return add_both(row, json, "instruction", "input", err);
}

ErrCode import_dolly(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    (void)rule;
    row->subject = string_of(json, "category");
    return add_both(row, json, "instruction", "context", err);
}

/* The text of a turn: a string, or parts of which those of type text count. */
static ErrCode add_turn(ImportRow *row, cJSON *content, int number, Err *err) {
    size_t n;
    if (cJSON_IsString(content)) {
        const char *s = json_text(content, &n);
        buf_put(&row->text, s, n);
        return ERR_OK;
    }
    if (!cJSON_IsArray(content))
        return err_set(err, ERR_FORMAT, "turn %d: found %s, expected a string or an array of parts", number,
                       import_kind(content));
    const cJSON *part;
    cJSON_ArrayForEach(part, content) {
        const char *type = string_of(part, "type");
        cJSON *text = import_member(part, "text");
        if (!type || strcmp(type, "text") != 0 || !cJSON_IsString(text)) continue;
        const char *s = json_text(text, &n);
        buf_put(&row->text, s, n);
    }
    return ERR_OK;
}

ErrCode import_chat(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err) {
    static const char *const TURNS[] = {"conversations", "conversation", "messages"};
    const cJSON *turns = NULL, *turn;
    for (size_t i = 0; i < 3 && !turns; i++) turns = import_member(json, TURNS[i]);
    if (!turns) return import_lacks(json, "conversations or messages", err);
    if (!cJSON_IsArray(turns))
        return err_set(err, ERR_FORMAT, "%s: found %s, expected an array of turns", turns->string,
                       import_kind(turns));
    int number = 0;
    cJSON_ArrayForEach(turn, turns) {
        number++;
        const char *role = string_of(turn, "from");
        if (!role) role = string_of(turn, "role");
        if (!role) return err_set(err, ERR_FORMAT, "turn %d: found neither from nor role", number);
        if (strcmp(role, "human") != 0 && strcmp(role, "user") != 0 && strcmp(role, "prompter") != 0)
            continue;
        cJSON *content = import_member(turn, "value");
        if (row->text.len) buf_put(&row->text, "\n", 1);
        TRY(add_turn(row, content ? content : import_member(turn, "content"), number, err));
        if (!rule->all_turns && row->text.len) break;
    }
    return ERR_OK;
}
