#include "eval/experts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/names.h"

/* ---- reading experts.json ---- */

static ErrCode known_keys(const cJSON *object, const char *const *keys, size_t count, Err *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        bool known = item->string[0] == '_';
        for (size_t i = 0; i < count && !known; i++) known = strcmp(item->string, keys[i]) == 0;
        if (known) continue;
        char shown[64];
        text_excerpt(shown, 60, item->string, strlen(item->string));
        const char *near = text_nearest(item->string, keys, count);
        return err_set(err, ERR_ARGUMENT, "unknown key \"%s\"%s%s%s", shown, near ? "; did you mean \"" : "",
                       near ? near : "", near ? "\"?" : "");
    }
    return ERR_OK;
}

static ErrCode no_name(const char *what, const char *name, const char *const *names, size_t count, Err *err) {
    char shown[84];
    text_excerpt(shown, 80, name, strlen(name));
    const char *near = text_nearest(name, names, count);
    return err_set(err, ERR_ARGUMENT, "'%s' is no %s%s%.80s%s", shown, what, near ? "; did you mean '" : "",
                   near ? near : "", near ? "'?" : "");
}

static int find(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static int find_expert(const Experts *e, const char *name) {
    for (int i = 0; i < e->count; i++)
        if (strcmp(e->items[i].name, name) == 0) return i;
    return -1;
}

/* Index of the expert that a string names. */
static ErrCode expert_of(int *out, const Experts *e, const cJSON *item, Err *err) {
    if (!cJSON_IsString(item)) return err_set(err, ERR_ARGUMENT, "expected a string, the name of an expert");
    *out = find_expert(e, item->valuestring);
    if (*out >= 0) return ERR_OK;
    const char *names[EXPERTS_MAX];
    for (int i = 0; i < e->count; i++) names[i] = e->items[i].name;
    return no_name("expert", item->valuestring, names, (size_t)e->count, err);
}

static ErrCode copy_string(char **out, const cJSON *object, const char *key, Err *err) {
    const char *found = NULL;
    TRY(json_get_string(&found, object, key, err));
    if (!found) return ERR_OK;
    if (!found[0]) return err_set(err, ERR_ARGUMENT, "key \"%s\": empty", key);
    *out = mem_strdup(found);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a name");
}

static ErrCode get_parameters(int64_t *millions, const cJSON *object, Err *err) {
    double billions = (double)*millions / 1000;
    TRY(json_get_double(&billions, object, "parameters_b", 0.001, 1e6, err));
    *millions = llround(1000 * billions);
    return ERR_OK;
}

static ErrCode read_accuracy(Expert *expert, const cJSON *item, const char *const *labels, int K, Err *err) {
    TRY(mem_new(&expert->accuracy, (size_t)K, sizeof *expert->accuracy, "accuracies", err));
    const bool one = cJSON_IsNumber(item);
    if (!one && !cJSON_IsObject(item))
        return err_set(err, ERR_ARGUMENT, "accuracy: expected a number, or {\"label\": number, ...}");
    const cJSON *member;
    if (!one) cJSON_ArrayForEach(member, item) {
            if (find(labels, K, member->string) >= 0) continue;
            const ErrCode rc = no_name("label of the router", member->string, labels, (size_t)K, err);
            return err_context(err, rc, "accuracy");
        }
    for (int k = 0; k < K; k++) {
        member = one ? item : cJSON_GetObjectItemCaseSensitive(item, labels[k]);
        if (!member)
            return err_set(err, ERR_ARGUMENT, "accuracy: nothing about the label '%.80s'", labels[k]);
        if (!cJSON_IsNumber(member) || !(member->valuedouble >= 0 && member->valuedouble <= 1))
            return err_set(err, ERR_ARGUMENT, "accuracy of '%.80s': expected a share from 0 to 1", labels[k]);
        expert->accuracy[k] = member->valuedouble;
    }
    return ERR_OK;
}

/* A path beside experts.json, unless absolute. */
static ErrCode beside(char **out, const char *path, const char *name, Err *err) {
    const char *slash = strrchr(path, '/');
    Buf full = {0};
    if (name[0] != '/' && slash) buf_put(&full, path, (size_t)(slash - path) + 1);
    buf_puts(&full, name);
    const ErrCode rc = buf_ok(&full, err);
    if (rc == ERR_OK) *out = mem_strdup(full.data);
    buf_free(&full);
    TRY(rc);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
}

/* The members by which a model can be asked. */
#define CHAT_KEYS                                                                                       \
    "base_url", "model", "api_key_env", "max_tokens", "tokens_field", "temperature", "timeout_seconds", \
        "connect_seconds", "extra"

static bool has_chat(const cJSON *object) {
    static const char *const KEYS[] = {CHAT_KEYS};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (cJSON_GetObjectItemCaseSensitive(object, KEYS[i])) return true;
    return false;
}

ErrCode experts_chat(Chat *out, const cJSON *object, Err *err) {
    const char *base = NULL;
    *out = chat_default();
    TRY(json_get_string(&base, object, "base_url", err));
    if (!base || (strncmp(base, "http://", 7) != 0 && strncmp(base, "https://", 8) != 0))
        return err_set(err, ERR_ARGUMENT, "base_url: expected one such as \"http://127.0.0.1:8000/v1\"");
    if (strpbrk(base, "@?#"))
        return err_set(err, ERR_ARGUMENT, "base_url: expected a URL without a name, a password or a query");
    TRY(chat_set_url(out, base, err));
    TRY(chat_read(out, object, err));
    return out->model ? ERR_OK : err_set(err, ERR_ARGUMENT, "no model: expected its name at the server");
}

static ErrCode read_expert(Experts *e, const cJSON *item, const char *const *labels, Err *err) {
    static const char *const KEYS[] = {"name",         "parameters_b",  "price_in",
                                       "price_out",    "accuracy",      "correctness",
                                       "input_tokens", "output_tokens", CHAT_KEYS};
    if (!cJSON_IsObject(item)) return err_set(err, ERR_ARGUMENT, "expected an object");
    TRY(known_keys(item, KEYS, sizeof KEYS / sizeof KEYS[0], err));
    Expert *expert = &e->items[e->count++];
    expert->price_in = expert->price_out = -1;
    TRY(copy_string(&expert->name, item, "name", err));
    if (!expert->name) return err_set(err, ERR_ARGUMENT, "no name");
    if (find_expert(e, expert->name) != e->count - 1)
        return err_set(err, ERR_ARGUMENT, "the name '%.80s' occurs twice", expert->name);
    TRY(get_parameters(&expert->parameters, item, err));
    TRY(json_get_double(&expert->price_in, item, "price_in", 0, 1e6, err));
    TRY(json_get_double(&expert->price_out, item, "price_out", 0, 1e6, err));
    TRY(json_get_double(&expert->input_tokens, item, "input_tokens", 0, 1e9, err));
    TRY(json_get_double(&expert->output_tokens, item, "output_tokens", 0, 1e9, err));
    if (has_chat(item)) {
        const ErrCode rc = experts_chat(&expert->chat, item, err);
        if (rc != ERR_OK) return err_context(err, rc, "'%.80s'", expert->name);
    }
    const bool live = expert->chat.url != NULL;
    if ((expert->parameters == 0 && !live) || expert->price_in < 0 || expert->price_out < 0)
        return err_set(err, ERR_ARGUMENT, "'%.80s': expected %sprice_in and price_out", expert->name,
                       live ? "" : "parameters_b, ");
    const cJSON *accuracy = cJSON_GetObjectItemCaseSensitive(item, "accuracy");
    const char *file = NULL;
    TRY(json_get_string(&file, item, "correctness", err));
    if (!accuracy && !file && live) return ERR_OK;
    if (!accuracy == !file)
        return err_set(err, ERR_ARGUMENT, "'%.80s': expected either accuracy or correctness", expert->name);
    if (file) return beside(&expert->correctness, e->path, file, err);
    const ErrCode rc = read_accuracy(expert, accuracy, labels, e->K, err);
    return rc == ERR_OK ? rc : err_context(err, rc, "'%.80s'", expert->name);
}

static ErrCode read_list(Experts *e, const cJSON *root, const char *const *labels, Err *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "experts"), *item;
    const int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (count < 1 || count > EXPERTS_MAX)
        return err_set(err, ERR_ARGUMENT, "experts: expected an array of 1 to %d objects", EXPERTS_MAX);
    double input = 0, output = EXPERTS_OUTPUT_TOKENS;
    TRY(json_get_double(&input, root, "input_tokens", 0, 1e9, err));
    TRY(json_get_double(&output, root, "output_tokens", 0, 1e9, err));
    TRY(mem_new(&e->items, (size_t)count, sizeof *e->items, "the experts", err));
    e->per_prompt = true;
    cJSON_ArrayForEach(item, list) {
        Expert *expert = &e->items[e->count];
        expert->input_tokens = input;
        expert->output_tokens = output;
        const ErrCode rc = read_expert(e, item, labels, err);
        if (rc != ERR_OK) return err_context(err, rc, "experts[%d]", (int)(expert - e->items));
        e->per_prompt &= expert->correctness != NULL;
    }
    return ERR_OK;
}

static ErrCode read_routes(Experts *e, const cJSON *routes, const char *const *labels, Err *err) {
    if (!routes) return ERR_OK;
    if (!cJSON_IsObject(routes)) return err_set(err, ERR_ARGUMENT, "expected {\"label\": \"expert\", ...}");
    TRY(mem_new(&e->routes, (size_t)e->K, sizeof *e->routes, "the routes", err));
    const cJSON *item;
    cJSON_ArrayForEach(item, routes) {
        const int k = find(labels, e->K, item->string);
        if (k < 0) return no_name("label of the router", item->string, labels, (size_t)e->K, err);
        const ErrCode rc = expert_of(&e->routes[k], e, item, err);
        if (rc != ERR_OK) return err_context(err, rc, "'%.80s'", labels[k]);
    }
    for (int k = 0; k < e->K; k++)
        if (!cJSON_GetObjectItemCaseSensitive(routes, labels[k]))
            return err_set(err, ERR_ARGUMENT, "no expert for the label '%.80s'", labels[k]);
    return ERR_OK;
}

static ErrCode read_router(Experts *e, const cJSON *router, Err *err) {
    static const char *const KEYS[] = {"parameters_b", "price_in"};
    if (!router) return ERR_OK;
    if (!cJSON_IsObject(router)) return err_set(err, ERR_ARGUMENT, "expected an object");
    TRY(known_keys(router, KEYS, 2, err));
    TRY(get_parameters(&e->router_parameters, router, err));
    return json_get_double(&e->router_price_in, router, "price_in", 0, 1e6, err);
}

/* A model that grades its own answers favours them. */
static ErrCode read_judge(Experts *e, const cJSON *judge, Err *err) {
    static const char *const KEYS[] = {"price_in", "price_out", "may_be_expert", CHAT_KEYS};
    if (!judge) return ERR_OK;
    if (!cJSON_IsObject(judge)) return err_set(err, ERR_ARGUMENT, "expected an object");
    TRY(known_keys(judge, KEYS, sizeof KEYS / sizeof KEYS[0], err));
    TRY(experts_chat(&e->judge, judge, err));
    bool may = false;
    TRY(json_get_bool(&may, judge, "may_be_expert", err));
    for (int x = 0; x < e->count; x++) {
        if (!e->items[x].chat.model || strcmp(e->items[x].chat.model, e->judge.model) != 0) continue;
        e->judge_is_expert = true;
        if (may) continue;
        return err_set(err, ERR_ARGUMENT,
                       "the same model as the expert '%.80s', which would grade itself; \"may_be_expert\": "
                       "true allows it",
                       e->items[x].name);
    }
    return ERR_OK;
}

static ErrCode read_root(Experts *e, const cJSON *root, const char *const *labels, Err *err) {
    static const char *const KEYS[] = {"experts",  "input_tokens", "output_tokens", "routes",
                                       "fallback", "router",       "currency",      "judge"};
    if (!cJSON_IsObject(root)) return err_set(err, ERR_ARGUMENT, "expected a JSON object with experts");
    TRY(known_keys(root, KEYS, sizeof KEYS / sizeof KEYS[0], err));
    TRY(copy_string(&e->currency, root, "currency", err));
    if (!e->currency) e->currency = mem_strdup("USD");
    if (!e->currency) return err_set(err, ERR_MEMORY, "out of memory for a name");
    TRY(read_list(e, root, labels, err));
    ErrCode rc = read_routes(e, cJSON_GetObjectItemCaseSensitive(root, "routes"), labels, err);
    if (rc != ERR_OK) return err_context(err, rc, "routes");
    rc = read_router(e, cJSON_GetObjectItemCaseSensitive(root, "router"), err);
    if (rc != ERR_OK) return err_context(err, rc, "router");
    rc = read_judge(e, cJSON_GetObjectItemCaseSensitive(root, "judge"), err);
    if (rc != ERR_OK) return err_context(err, rc, "judge");
    const cJSON *fallback = cJSON_GetObjectItemCaseSensitive(root, "fallback");
    rc = fallback ? expert_of(&e->fallback, e, fallback, err) : ERR_OK;
    return rc == ERR_OK ? rc : err_context(err, rc, "fallback");
}

ErrCode experts_read(Experts *out, const char *path, const char *const *labels, int K, Err *err) {
    *out = (Experts){.K = K, .fallback = -1};
    cJSON *root;
    TRY(json_read(&root, path, err));
    out->path = mem_strdup(path);
    ErrCode rc = out->path ? read_root(out, root, labels, err) : err_set(err, ERR_MEMORY, "out of memory");
    cJSON_Delete(root);
    if (rc == ERR_FORMAT) { /* json_get's word for a wrong value: this file is configuration */
        rc = ERR_ARGUMENT;
        if (err) err->code = rc;
    }
    if (rc != ERR_OK) {
        (void)err_context(err, rc, "%s", path);
        experts_free(out);
    }
    return rc;
}

void experts_free(Experts *experts) {
    for (int i = 0; i < experts->count; i++) {
        mem_free(experts->items[i].name);
        mem_free(experts->items[i].accuracy);
        mem_free(experts->items[i].correctness);
        chat_free(&experts->items[i].chat);
    }
    mem_free(experts->items);
    mem_free(experts->routes);
    mem_free(experts->path);
    mem_free(experts->currency);
    chat_free(&experts->judge);
    *experts = (Experts){0};
}

/* ---- outcomes ---- */

/* A file of correctness: rows[i] is what its line says about data row i. */
typedef struct {
    double correct, input_tokens, output_tokens; /* tokens below 0: not said */
    size_t line;                                 /* 0: none */
} Seen;

static ErrCode read_line(Seen *seen, const Names *ids, const cJSON *line, size_t number, Err *err) {
    static const char *const KEYS[] = {"id", "correct", "input_tokens", "output_tokens"};
    if (!cJSON_IsObject(line))
        return err_set(err, ERR_FORMAT, "expected an object such as {\"id\": \"7\", \"correct\": true}");
    const ErrCode known = known_keys(line, KEYS, 4, err);
    if (known != ERR_OK)
        return err_set(err, ERR_FORMAT, "expected id, correct, input_tokens and output_tokens only");
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(line, "id"),
                *correct = cJSON_GetObjectItemCaseSensitive(line, "correct");
    char digits[32];
    if (cJSON_IsNumber(id) && id->valuedouble == floor(id->valuedouble) && fabs(id->valuedouble) <= 0x1p53)
        (void)snprintf(digits, sizeof digits, "%.0f", id->valuedouble);
    else if (!cJSON_IsString(id))
        return err_set(err, ERR_FORMAT, "id: expected a string or an integer");
    Seen row = {.correct = cJSON_IsTrue(correct), .input_tokens = -1, .output_tokens = -1, .line = number};
    if (cJSON_IsNumber(correct))
        row.correct = correct->valuedouble;
    else if (!cJSON_IsBool(correct))
        return err_set(err, ERR_FORMAT, "correct: expected true, false or a share from 0 to 1");
    if (!(row.correct >= 0 && row.correct <= 1))
        return err_set(err, ERR_FORMAT, "correct: found %g, expected a share from 0 to 1", row.correct);
    TRY(json_get_double(&row.input_tokens, line, "input_tokens", 0, 1e9, err));
    TRY(json_get_double(&row.output_tokens, line, "output_tokens", 0, 1e9, err));
    const size_t at = names_find(ids, cJSON_IsString(id) ? id->valuestring : digits);
    if (at == SIZE_MAX) return ERR_OK; /* of another set */
    if (seen[at].line)
        return err_set(err, ERR_FORMAT, "the id '%.80s' is that of line %zu", ids->items[at], seen[at].line);
    seen[at] = row;
    return ERR_OK;
}

static ErrCode read_correctness(Seen *seen, const Names *ids, const char *path, Err *err) {
    Lines *lines = NULL;
    ErrCode rc = lines_open(&lines, path, err);
    while (rc == ERR_OK) {
        const char *text;
        size_t n;
        bool more;
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        if (text_is_blank(text, n)) continue;
        cJSON *line;
        rc = json_parse(&line, text, n, err);
        if (rc == ERR_OK) {
            rc = read_line(seen, ids, line, lines_number(lines), err);
            cJSON_Delete(line);
        }
        if (rc == ERR_FORMAT) (void)err_context(err, rc, "%s:%zu", path, lines_number(lines));
    }
    lines_close(lines);
    if (rc != ERR_OK) return rc;
    for (size_t i = 0; i < ids->count; i++)
        if (!seen[i].line)
            return err_set(err, ERR_FORMAT, "%s: nothing about the row with the id '%.80s'", path,
                           ids->items[i]);
    return ERR_OK;
}

/* ids of the rows; `of` (rows): which of them a row has. Files of correctness need them to differ. */
static ErrCode collect_ids(Names *ids, size_t *of, const Experts *e, const Rows *rows, Err *err) {
    bool differ = false;
    for (int x = 0; x < e->count; x++) differ |= e->items[x].correctness != NULL;
    for (size_t i = 0; i < rows->count; i++) {
        TRY(names_add(&of[i], ids, rows_id(rows, i), err));
        if (differ && of[i] != i)
            return err_set(err, ERR_FORMAT, "two rows have the id '%.80s': correctness cannot be told by id",
                           rows_id(rows, i));
    }
    return ERR_OK;
}

static ErrCode fill(ExpertsOutcome *out, const Experts *e, int x, const Rows *rows, const Names *ids,
                    const size_t *of, Seen *seen, Err *err) {
    const Expert *expert = &e->items[x];
    if (expert->correctness) {
        memset(seen, 0, ids->count * sizeof *seen);
        TRY(read_correctness(seen, ids, expert->correctness, err));
    }
    for (size_t i = 0; i < rows->count; i++) {
        const Seen *s = expert->correctness ? &seen[of[i]] : NULL;
        const double by_bytes = ceil((double)rows->items[i].text_len / EXPERTS_TOKEN_BYTES);
        const double in = s && s->input_tokens >= 0  ? s->input_tokens
                          : expert->input_tokens > 0 ? expert->input_tokens
                                                     : by_bytes;
        const double answer = s && s->output_tokens >= 0 ? s->output_tokens : expert->output_tokens;
        const size_t at = i * (size_t)e->count + (size_t)x;
        out->quality[at] = s ? s->correct : expert->accuracy[rows->items[i].label];
        out->cost[at] = 1e-6 * (in * expert->price_in + answer * expert->price_out);
        out->router_cost[i] = 1e-6 * by_bytes * e->router_price_in;
    }
    return ERR_OK;
}

/* What `router live` can do without. */
static ErrCode check_known(const Experts *e, Err *err) {
    for (int x = 0; x < e->count; x++) {
        const Expert *expert = &e->items[x];
        const bool quality = expert->accuracy || expert->correctness;
        if (quality && expert->parameters) continue;
        return err_set(err, ERR_ARGUMENT, "%s: '%.80s': expected %s", e->path, expert->name,
                       quality ? "parameters_b" : "either accuracy or correctness");
    }
    return ERR_OK;
}

ErrCode experts_outcome(ExpertsOutcome *out, const Experts *experts, const Rows *rows, Err *err) {
    *out = (ExpertsOutcome){.n = rows->count, .E = experts->count};
    const size_t n = rows->count, cells = n * (size_t)experts->count;
    Names ids = {0};
    size_t *of = NULL;
    Seen *seen = NULL;
    ErrCode rc = check_known(experts, err);
    if (rc == ERR_OK) rc = mem_new(&out->quality, cells, sizeof *out->quality, "the outcomes", err);
    if (rc == ERR_OK) rc = mem_new(&out->cost, cells, sizeof *out->cost, "the outcomes", err);
    if (rc == ERR_OK) rc = mem_new(&out->router_cost, n, sizeof *out->router_cost, "the outcomes", err);
    if (rc == ERR_OK) rc = mem_new(&of, n, sizeof *of, "the rows' ids", err);
    if (rc == ERR_OK) rc = mem_new(&seen, n, sizeof *seen, "the rows' ids", err);
    if (rc == ERR_OK) rc = collect_ids(&ids, of, experts, rows, err);
    for (int x = 0; rc == ERR_OK && x < experts->count; x++)
        rc = fill(out, experts, x, rows, &ids, of, seen, err);
    names_free(&ids);
    mem_free(of);
    mem_free(seen);
    if (rc != ERR_OK) experts_outcome_free(out);
    return rc;
}

void experts_outcome_free(ExpertsOutcome *outcome) {
    mem_free(outcome->quality);
    mem_free(outcome->cost);
    mem_free(outcome->router_cost);
    *outcome = (ExpertsOutcome){0};
}
