#include "data/synth_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/http.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/ask.h"

enum { PLAN_MAX = 16 << 20, TOPICS_MAX = 100000, TOPIC_BYTES = 400 };

const char *synth_plan_trait(SynthTrait trait) {
    static const char *const NAMES[] = {"style", "length", "difficulty", "persona", "language"};
    return NAMES[trait];
}

/* What a name of a style, length or difficulty means to the model, unless the plan says it itself. */
static const struct {
    SynthTrait trait;
    const char *name, *text;
} KNOWN[] = {
    {SYNTH_STYLE, "chat",
     "casual messages to a chat assistant, as people type them: direct, often without a greeting"},
    {SYNTH_STYLE, "exam",
     "exam or homework questions in the wording of a teacher or textbook, some with answer options"},
    {SYNTH_STYLE, "code paste",
     "a pasted snippet, log, formula, table or error output with at most a few words around it"},
    {SYNTH_STYLE, "story",
     "a personal situation told in several sentences, in which the actual question is embedded"},
    {SYNTH_STYLE, "half sentence",
     "fragments and half sentences such as people type into a search box; no full grammar"},
    {SYNTH_STYLE, "typos",
     "typed in a hurry on a phone: typos, missing punctuation, lower case, abbreviations"},
    {SYNTH_STYLE, "formal", "polite, complete and precise, as in a letter or a request to a professional"},
    {SYNTH_STYLE, "instruction",
     "imperative tasks for an assistant to carry out, with concrete material or constraints"},
    {SYNTH_STYLE, "follow-up",
     "a message from the middle of a conversation that still shows by itself what it is about"},
    {SYNTH_LENGTH, "very short", "2 to 6 words each"},
    {SYNTH_LENGTH, "short", "one sentence each"},
    {SYNTH_LENGTH, "medium", "2 to 4 sentences each"},
    {SYNTH_LENGTH, "long", "100 to 200 words each"},
    {SYNTH_DIFFICULTY, "easy", "what a beginner or a child would ask"},
    {SYNTH_DIFFICULTY, "medium", "what someone with some schooling in the subject would ask"},
    {SYNTH_DIFFICULTY, "hard", "what an advanced student or professional would ask"},
};

/* ---- members ---- */

/* Everything wrong in a plan is a wrong configuration. */
static ErrCode wrong(Err *err, ErrCode rc) {
    if (rc != ERR_FORMAT) return rc;
    if (err) err->code = ERR_ARGUMENT;
    return ERR_ARGUMENT;
}

#define GET(call)                                   \
    do {                                            \
        const ErrCode get_rc_ = wrong(err, (call)); \
        if (get_rc_ != ERR_OK) return get_rc_;      \
    } while (0)

static ErrCode check_keys(const cJSON *object, const char *const *names, size_t count, Err *err) {
    if (!cJSON_IsObject(object)) return err_set(err, ERR_ARGUMENT, "expected an object");
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        size_t i = 0;
        while (i < count && strcmp(item->string, names[i]) != 0) i++;
        if (i < count || item->string[0] == '_') continue;
        char shown[68];
        text_excerpt(shown, 64, item->string, strlen(item->string));
        const char *near = text_nearest(item->string, names, count);
        if (near) return err_set(err, ERR_ARGUMENT, "unknown key \"%s\"; did you mean \"%s\"?", shown, near);
        Buf all = {0};
        for (i = 0; i < count; i++) buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
        const ErrCode rc = err_set(err, ERR_ARGUMENT, "unknown key \"%s\"; known are %s", shown,
                                   all.failed ? "others" : all.data);
        buf_free(&all);
        return rc;
    }
    return ERR_OK;
}
#define CHECK_KEYS(object, names) TRY(check_keys(object, names, sizeof(names) / sizeof *(names), err))

static const cJSON *member(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* A string that is there and not blank. */
static ErrCode get_text(const char **out, const cJSON *object, const char *key, Err *err) {
    GET(json_get_string(out, object, key, err));
    if (!*out) return err_set(err, ERR_ARGUMENT, "key \"%s\" is missing: expected a string", key);
    if ((*out)[strspn(*out, " \t\r\n")]) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "key \"%s\": the text is empty", key);
}

/* ---- models ---- */

static bool is_environment_name(const char *s) {
    if (!*s || (*s >= '0' && *s <= '9')) return false;
    for (; *s; s++)
        if (!(*s == '_' || (*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z')))
            return false;
    return true;
}

static ErrCode get_url(Chat *m, const cJSON *object, Err *err) {
    const char *base = NULL;
    Buf shown = {0};
    if (m->url && !member(object, "base_url")) return ERR_OK;
    TRY(get_text(&base, object, "base_url", err));
    http_put_url(&shown, base);
    const ErrCode rc = buf_ok(&shown, err);
    const bool odd = rc == ERR_OK && (shown.data[0] == '(' || strpbrk(base, "@?#"));
    buf_free(&shown);
    TRY(rc);
    if (!odd) return chat_set_url(m, base, err);
    return err_set(
        err, ERR_ARGUMENT,
        "key \"base_url\": expected a URL such as http://127.0.0.1:8000/v1, without name, password or query");
}

/* What is missing stays as it is. */
static ErrCode get_model(Chat *m, const cJSON *object, Err *err) {
    static const char *const OURS[] = {"top_p", "seed", "response_format"};
    TRY(get_url(m, object, err));
    GET(chat_read(m, object, err));
    if (!m->model) return err_set(err, ERR_ARGUMENT, "key \"model\" is missing: expected a string");
    if (m->key_env && !is_environment_name(m->key_env))
        return err_set(err, ERR_ARGUMENT,
                       "key \"api_key_env\": expected the name of an environment variable, such as "
                       "OPENAI_API_KEY (a key "
                       "itself must not stand in a plan)");
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++)
        if (member(member(object, "extra"), OURS[i]))
            return err_set(err, ERR_ARGUMENT,
                           "key \"extra\": \"%s\" is set by the plan's other keys, or not at all", OURS[i]);
    return ERR_OK;
}

#define MODEL_KEYS                                                                                    \
    "base_url", "model", "api_key_env", "stream", "json", "tokens_field", "send_seed", "temperature", \
        "top_p", "max_tokens", "price_in", "price_out", "connect_seconds", "timeout_seconds", "extra"

static ErrCode parse_models(SynthPlan *p, Err *err) {
    static const char *const KEYS[] = {MODEL_KEYS}, *const JUDGE_KEYS[] = {MODEL_KEYS, "votes", "agree"};
    const cJSON *endpoint = member(p->tree, "endpoint"), *judge = member(p->tree, "judge");
    p->writer = chat_default();
    p->judge = chat_default();
    p->writer.send_seed = p->judge.send_seed = true;
    p->writer.temperature = 1;
    if (!endpoint)
        return err_set(err, ERR_ARGUMENT,
                       "key \"endpoint\" is missing: expected {\"base_url\": ..., \"model\": ...}");
    ErrCode rc = check_keys(endpoint, KEYS, sizeof KEYS / sizeof *KEYS, err);
    if (rc == ERR_OK) rc = get_model(&p->writer, endpoint, err);
    if (rc != ERR_OK) return err_context(err, rc, "endpoint");
    if (!judge) return ERR_OK;
    rc = get_model(&p->judge, endpoint, err);
    p->judge.temperature = 0;
    p->judge.max_tokens = 1024;
    if (rc == ERR_OK) rc = check_keys(judge, JUDGE_KEYS, sizeof JUDGE_KEYS / sizeof *JUDGE_KEYS, err);
    if (rc == ERR_OK) rc = get_model(&p->judge, judge, err);
    if (rc == ERR_OK && !http_same_origin(p->judge.url, p->writer.url) && !member(judge, "api_key_env"))
        rc = err_set(err, ERR_ARGUMENT,
                     "key \"api_key_env\" is missing: a key of the endpoint is not sent to another host");
    p->votes = 1;
    if (rc == ERR_OK) rc = wrong(err, json_get_int(&p->votes, judge, "votes", 1, SYNTH_PLAN_VOTES_MAX, err));
    p->agree = p->votes / 2 + 1;
    if (rc == ERR_OK) rc = wrong(err, json_get_int(&p->agree, judge, "agree", 1, p->votes, err));
    return rc == ERR_OK ? ERR_OK : err_context(err, rc, "judge");
}

/* ---- domains ---- */

/* Adds the leaves of a tree of topics, each with the names above it. Depth is bounded by core/json. */
static ErrCode add_topics(FlagList *out, const cJSON *item, const char *above,
                          Err *err) { /* NOLINT(misc-no-recursion) */
    Buf path = {0};
    ErrCode rc = ERR_OK;
    buf_puts(&path, above);
    const char *name = cJSON_IsString(item) ? item->valuestring : item->string;
    if (name && (cJSON_IsString(item) || cJSON_IsArray(item) || cJSON_IsObject(item)) && *name)
        buf_printf(&path, "%s%s", path.len ? ": " : "", name);
    rc = buf_ok(&path, err);
    if (rc == ERR_OK && path.len > TOPIC_BYTES)
        rc = err_set(err, ERR_ARGUMENT, "topics: '%.40s...' is longer than %d bytes", path.data, TOPIC_BYTES);
    if (rc == ERR_OK && cJSON_IsString(item)) {
        if (out->count >= TOPICS_MAX) rc = err_set(err, ERR_ARGUMENT, "topics: more than %d", TOPICS_MAX);
        if (rc == ERR_OK && (!name || !name[strspn(name, " \t\r\n")]))
            rc = err_set(err, ERR_ARGUMENT, "topics: one is empty");
        if (rc == ERR_OK) rc = flags_list_add(out, path.data, path.len, err);
    } else if (rc == ERR_OK && (cJSON_IsArray(item) || cJSON_IsObject(item))) {
        const cJSON *child;
        cJSON_ArrayForEach(child, item) if (rc == ERR_OK) rc =
            add_topics(out, child, path.len ? path.data : "", err);
        if (rc == ERR_OK && !item->child && path.len) rc = flags_list_add(out, path.data, path.len, err);
    } else if (rc == ERR_OK) {
        rc = err_set(err, ERR_ARGUMENT, "topics: expected strings, and arrays and objects of them");
    }
    buf_free(&path);
    return rc;
}

static ErrCode get_topics(SynthDomain *d, const cJSON *topics, Err *err) {
    static const char *const KEYS[] = {"ask", "subtopics"};
    if (!topics) return ERR_OK;
    const cJSON *ask = cJSON_IsObject(topics) ? member(topics, "ask") : NULL;
    if (!ask || !cJSON_IsNumber(ask)) {
        /* The key "topics" is no part of the paths. */
        const cJSON *child;
        if (!cJSON_IsArray(topics) && !cJSON_IsObject(topics))
            return err_set(err, ERR_ARGUMENT, "topics: expected a tree of strings, or {\"ask\": 40}");
        cJSON_ArrayForEach(child, topics) TRY(add_topics(&d->topics, child, "", err));
        return d->topics.count ? ERR_OK : err_set(err, ERR_ARGUMENT, "topics: there are none");
    }
    CHECK_KEYS(topics, KEYS);
    GET(json_get_int(&d->ask_topics, topics, "ask", 1, 500, err));
    GET(json_get_int(&d->ask_subtopics, topics, "subtopics", 0, 50, err));
    if (d->ask_topics * (d->ask_subtopics + 1) <= 2000) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "topics: ask for at most 2000, subtopics included");
}

static ErrCode get_domain(SynthPlan *p, SynthDomain *d, const cJSON *object, int64_t rows, Err *err) {
    static const char *const KEYS[] = {"name", "description", "not", "rows", "topics"};
    CHECK_KEYS(object, KEYS);
    d->description = d->excludes = "";
    d->rows = rows;
    TRY(get_text(&d->name, object, "name", err));
    if (strlen(d->name) > 64) return err_set(err, ERR_ARGUMENT, "key \"name\": longer than 64 bytes");
    for (const SynthDomain *other = p->domains; other < d; other++)
        if (other->name && strcmp(other->name, d->name) == 0)
            return err_set(err, ERR_ARGUMENT, "another domain is also named \"%s\"", d->name);
    GET(json_get_string(&d->description, object, "description", err));
    GET(json_get_string(&d->excludes, object, "not", err));
    GET(json_get_int(&d->rows, object, "rows", 0, 100000000, err));
    return get_topics(d, member(object, "topics"), err);
}

static ErrCode parse_domains(SynthPlan *p, int64_t rows, Err *err) {
    const cJSON *domains = member(p->tree, "domains"), *item;
    const int count = cJSON_IsArray(domains) ? cJSON_GetArraySize(domains) : 0;
    if (count < 2 || count > SYNTH_PLAN_DOMAINS_MAX)
        return err_set(err, ERR_ARGUMENT, "key \"domains\": expected an array of 2 to %d domains",
                       SYNTH_PLAN_DOMAINS_MAX);
    TRY(mem_new(&p->domains, (size_t)count, sizeof *p->domains, "the domains", err));
    int64_t sum = 0;
    cJSON_ArrayForEach(item, domains) {
        SynthDomain *d = &p->domains[p->domain_count++];
        const ErrCode rc = get_domain(p, d, item, rows, err);
        if (rc != ERR_OK) return err_context(err, rc, "domains[%zu]", p->domain_count - 1);
        sum += d->rows;
    }
    return sum > 0 ? ERR_OK : err_set(err, ERR_ARGUMENT, "no domain wants any rows: set \"rows\"");
}

/* ---- traits ---- */

static const char *known_text(SynthTrait trait, const char *name) {
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (KNOWN[i].trait == trait && strcmp(KNOWN[i].name, name) == 0) return KNOWN[i].text;
    return name;
}

static ErrCode get_trait(SynthChoice *c, SynthTrait trait, const cJSON *item, Err *err) {
    static const char *const KEYS[] = {"name", "text", "weight"};
    c->weight = 1;
    if (cJSON_IsString(item)) {
        c->name = item->valuestring;
        if (!c->name[strspn(c->name, " \t\r\n")]) return err_set(err, ERR_ARGUMENT, "the name is empty");
    } else {
        CHECK_KEYS(item, KEYS);
        TRY(get_text(&c->name, item, "name", err));
        GET(json_get_string(&c->text, item, "text", err));
        GET(json_get_double(&c->weight, item, "weight", 0, 1e6, err));
    }
    if (!c->text) c->text = known_text(trait, c->name);
    return ERR_OK;
}

static ErrCode parse_trait(SynthPlan *p, SynthTrait trait, const char *key, Err *err) {
    const cJSON *array = member(p->tree, key), *item;
    SynthChoices *choices = &p->traits[trait];
    if (!array) return ERR_OK;
    const int count = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : 0;
    if (count < 1 || count > 1000)
        return err_set(err, ERR_ARGUMENT,
                       "key \"%s\": expected an array of 1 to 1000 names or {name, text, weight}", key);
    TRY(mem_new(&choices->items, (size_t)count, sizeof *choices->items, key, err));
    double sum = 0;
    cJSON_ArrayForEach(item, array) {
        SynthChoice *c = &choices->items[choices->count++];
        const ErrCode rc = get_trait(c, trait, item, err);
        if (rc != ERR_OK) return err_context(err, rc, "%s[%zu]", key, choices->count - 1);
        sum += c->weight;
    }
    return sum > 0 ? ERR_OK : err_set(err, ERR_ARGUMENT, "key \"%s\": all weights are 0", key);
}

static ErrCode find_domain(size_t *out, const SynthPlan *p, const char *name, const char *key, Err *err) {
    const char *names[SYNTH_PLAN_DOMAINS_MAX];
    for (size_t i = 0; i < p->domain_count; i++) {
        names[i] = p->domains[i].name;
        if (strcmp(names[i], name) != 0) continue;
        *out = i;
        return ERR_OK;
    }
    char shown[68];
    text_excerpt(shown, 64, name, strlen(name));
    const char *near = text_nearest(name, names, p->domain_count);
    if (near)
        return err_set(err, ERR_ARGUMENT, "key \"%s\": no domain \"%s\"; did you mean \"%s\"?", key, shown,
                       near);
    return err_set(err, ERR_ARGUMENT, "key \"%s\": no domain is named \"%s\"", key, shown);
}

static ErrCode get_negative(SynthPlan *p, SynthNegative *n, const cJSON *item, Err *err) {
    static const char *const KEYS[] = {"label", "near", "share", "hint"};
    const char *label = NULL, *near = NULL;
    CHECK_KEYS(item, KEYS);
    n->hint = "";
    n->share = 0.1;
    TRY(get_text(&label, item, "label", err));
    TRY(get_text(&near, item, "near", err));
    TRY(find_domain(&n->label, p, label, "label", err));
    TRY(find_domain(&n->near, p, near, "near", err));
    if (n->label == n->near) return err_set(err, ERR_ARGUMENT, "\"label\" and \"near\" are the same domain");
    GET(json_get_double(&n->share, item, "share", 0, 1, err));
    GET(json_get_string(&n->hint, item, "hint", err));
    return ERR_OK;
}

static ErrCode parse_negatives(SynthPlan *p, Err *err) {
    const cJSON *array = member(p->tree, "hard_negatives"), *item;
    if (!array) return ERR_OK;
    const int count = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : -1;
    if (count < 0 || count > 10000)
        return err_set(err, ERR_ARGUMENT,
                       "key \"hard_negatives\": expected an array of {label, near, share, hint}");
    TRY(mem_new(&p->negatives, (size_t)count + 1, sizeof *p->negatives, "the hard negatives", err));
    cJSON_ArrayForEach(item, array) {
        const ErrCode rc = get_negative(p, &p->negatives[p->negative_count++], item, err);
        if (rc != ERR_OK) return err_context(err, rc, "hard_negatives[%zu]", p->negative_count - 1);
    }
    for (size_t d = 0; d < p->domain_count; d++) {
        double sum = 0;
        for (size_t i = 0; i < p->negative_count; i++)
            sum += p->negatives[i].label == d ? p->negatives[i].share : 0;
        if (sum > 1 + 1e-9) /* shares such as 0.7 + 0.3 */
            return err_set(err, ERR_ARGUMENT,
                           "hard_negatives: the shares of \"%s\" are %g together, expected at most 1",
                           p->domains[d].name, sum);
    }
    return ERR_OK;
}

/* ---- the rest ---- */

static ErrCode parse_filter(SynthPlan *p, Err *err) {
    static const char *const KEYS[] = {"near", "min_chars", "max_chars"};
    const cJSON *filter = member(p->tree, "filter");
    p->near = 0.7;
    p->min_chars = 4;
    p->max_chars = 8000;
    if (!filter) return ERR_OK;
    CHECK_KEYS(filter, KEYS);
    GET(json_get_double(&p->near, filter, "near", 0.5, 1, err));
    GET(json_get_int(&p->min_chars, filter, "min_chars", 1, 100000, err));
    GET(json_get_int(&p->max_chars, filter, "max_chars", p->min_chars, 1000000, err));
    return ERR_OK;
}

static ErrCode parse_budget(SynthPlan *p, Err *err) {
    static const char *const KEYS[] = {"rows", "requests", "tokens", "cost", "minutes"};
    const cJSON *budget = member(p->tree, "budget");
    const int64_t many = (int64_t)1 << 52;
    if (!budget) return ERR_OK;
    CHECK_KEYS(budget, KEYS);
    GET(json_get_int(&p->max_rows, budget, "rows", 0, many, err));
    GET(json_get_int(&p->max_requests, budget, "requests", 0, many, err));
    GET(json_get_int(&p->max_tokens, budget, "tokens", 0, many, err));
    GET(json_get_double(&p->max_cost, budget, "cost", 0, 1e12, err));
    GET(json_get_double(&p->max_minutes, budget, "minutes", 0, 1e7, err));
    return ERR_OK;
}

static ErrCode parse_retry(SynthPlan *p, Err *err) {
    static const char *const KEYS[] = {"attempts", "first_seconds", "longest_seconds", "retry_after_seconds"};
    const cJSON *retry = member(p->tree, "retry");
    p->attempts = 6;
    p->first_s = 1;
    p->longest_s = 60;
    p->retry_after_s = 600;
    if (!retry) return ERR_OK;
    CHECK_KEYS(retry, KEYS);
    GET(json_get_int(&p->attempts, retry, "attempts", 1, 100, err));
    GET(json_get_double(&p->first_s, retry, "first_seconds", 0.001, 3600, err));
    GET(json_get_double(&p->longest_s, retry, "longest_seconds", 0.001, 86400, err));
    GET(json_get_double(&p->retry_after_s, retry, "retry_after_seconds", 0, 86400, err));
    return ERR_OK;
}

/* What may change between a run and its continuation does not count; comments neither. */
static void strip(cJSON *object) {
    static const char *const FREE[] = {"base_url",  "api_key_env",     "price_in",
                                       "price_out", "connect_seconds", "timeout_seconds",
                                       "budget",    "retry",           "concurrency"};
    for (size_t i = 0; i < sizeof FREE / sizeof *FREE; i++)
        cJSON_DeleteItemFromObjectCaseSensitive(object, FREE[i]);
    for (cJSON *item = object ? object->child : NULL; item;) {
        cJSON *next = item->next;
        if (item->string && item->string[0] == '_') cJSON_Delete(cJSON_DetachItemViaPointer(object, item));
        item = next;
    }
}

static ErrCode make_digest(SynthPlan *p, Err *err) {
    cJSON *copy = cJSON_Duplicate(p->tree, true);
    if (copy) {
        strip(copy);
        strip(cJSON_GetObjectItemCaseSensitive(copy, "endpoint"));
        strip(cJSON_GetObjectItemCaseSensitive(copy, "judge"));
    }
    char *text = copy ? cJSON_PrintUnformatted(copy) : NULL;
    cJSON_Delete(copy);
    if (!text) return err_set(err, ERR_MEMORY, "out of memory for the plan");
    sha256_hex_of(p->digest, text, strlen(text));
    cJSON_free(text);
    return ERR_OK;
}

static ErrCode parse_tree(SynthPlan *p, Err *err) {
    static const char *const KEYS[] = {"endpoint",
                                       "judge",
                                       "seed",
                                       "rows",
                                       "rows_per_request",
                                       "examples_per_request",
                                       "concurrency",
                                       "domains",
                                       "styles",
                                       "lengths",
                                       "difficulties",
                                       "personas",
                                       "languages",
                                       "hard_negatives",
                                       "filter",
                                       "budget",
                                       "retry"};
    static const char *const TRAIT_KEYS[] = {"styles", "lengths", "difficulties", "personas", "languages"};
    int64_t rows = 0;
    CHECK_KEYS(p->tree, KEYS);
    TRY(parse_models(p, err));
    p->rows_per_request = 10;
    p->examples_per_request = 3;
    p->concurrency = 8;
    GET(json_get_int(&p->seed, p->tree, "seed", 0, (int64_t)1 << 52, err));
    GET(json_get_int(&rows, p->tree, "rows", 0, 100000000, err));
    GET(json_get_int(&p->rows_per_request, p->tree, "rows_per_request", 1, SYNTH_PLAN_ROWS_MAX, err));
    GET(json_get_int(&p->examples_per_request, p->tree, "examples_per_request", 0, 20, err));
    GET(json_get_int(&p->concurrency, p->tree, "concurrency", 1, ASK_AT_ONCE_MAX, err));
    TRY(parse_domains(p, rows, err));
    for (SynthTrait t = SYNTH_STYLE; t < SYNTH_TRAITS; t++) TRY(parse_trait(p, t, TRAIT_KEYS[t], err));
    TRY(parse_negatives(p, err));
    ErrCode rc = parse_filter(p, err);
    if (rc != ERR_OK) return err_context(err, rc, "filter");
    rc = parse_budget(p, err);
    if (rc != ERR_OK) return err_context(err, rc, "budget");
    rc = parse_retry(p, err);
    if (rc != ERR_OK) return err_context(err, rc, "retry");
    return make_digest(p, err);
}

ErrCode synth_plan_parse(SynthPlan *p, const char *text, size_t n, Err *err) {
    *p = (SynthPlan){0};
    TRY(wrong(err, json_parse(&p->tree, text, n, err)));
    return parse_tree(p, err);
}

ErrCode synth_plan_read(SynthPlan *p, const char *path, Err *err) {
    *p = (SynthPlan){0};
    Buf text = {0};
    ErrCode rc = wrong(err, file_read(&text, path, PLAN_MAX, err));
    if (rc == ERR_OK) {
        rc = synth_plan_parse(p, text.data ? text.data : "", text.len, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    buf_free(&text);
    return rc;
}

void synth_plan_free(SynthPlan *p) {
    for (size_t i = 0; i < p->domain_count; i++) flags_list_free(&p->domains[i].topics);
    for (SynthTrait t = SYNTH_STYLE; t < SYNTH_TRAITS; t++) mem_free(p->traits[t].items);
    mem_free(p->domains);
    mem_free(p->negatives);
    chat_free(&p->writer);
    chat_free(&p->judge);
    cJSON_Delete(p->tree);
    *p = (SynthPlan){0};
}
