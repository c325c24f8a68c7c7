#include "export/blob_rule.h"

#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "export/hexfloat.h"

#define BASE         "int8-rows f16-positions"
#define VECTOR       " calibration-vector"
#define THRESHOLD    " decision-threshold"
#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { KEY_BYTES = 48 };

/* ---- reading ---- */

typedef struct {
    BlobRuleGet *get;
    const void *arg;
    const char *const *labels;
    int K;
} Source;

static bool has(const Source *from, const char *key) {
    return from->get(from->arg, key) != NULL;
}

static ErrCode need(const char **out, const Source *from, const char *key, Err *err) {
    *out = from->get(from->arg, key);
    return *out ? ERR_OK : err_set(err, ERR_FORMAT, "metadata %s is missing", key);
}

static ErrCode get_float(float *out, const Source *from, const char *key, bool positive, Err *err) {
    const char *text;
    TRY(need(&text, from, key, err));
    ErrCode rc = hexfloat_only(out, text, err);
    if (rc == ERR_OK && positive && !(*out > 0))
        rc = err_set(err, ERR_FORMAT, "found \"%.40s\", expected a number above 0", text);
    return rc == ERR_OK ? rc : err_context(err, rc, "metadata %s", key);
}

/* prefix0 .. prefixK-1 */
static ErrCode get_floats(float *out, const Source *from, const char *prefix, bool positive, Err *err) {
    for (int k = 0; k < from->K; k++) {
        char key[KEY_BYTES];
        (void)snprintf(key, sizeof key, "%s%d", prefix, k);
        TRY(get_float(&out[k], from, key, positive, err));
    }
    return ERR_OK;
}

/* Which of the optional words there are. */
static ErrCode read_required(bool *vector, bool *threshold, const Source *from, Err *err) {
    const char *text;
    TRY(need(&text, from, "router.required", err));
    const size_t base = strlen(BASE);
    const char *rest = text + (strncmp(text, BASE, base) == 0 ? base : 0);
    *vector = strncmp(rest, VECTOR, strlen(VECTOR)) == 0;
    if (*vector) rest += strlen(VECTOR);
    *threshold = strncmp(rest, THRESHOLD, strlen(THRESHOLD)) == 0;
    if (*threshold) rest += strlen(THRESHOLD);
    if (rest == text || *rest)
        return err_set(
            err, ERR_FORMAT,
            "metadata router.required: found \"%.80s\", expected \"" BASE
            "\" and then at most \"calibration-vector\" and \"decision-threshold\"; a newer router "
            "may know other words",
            text);
    return ERR_OK;
}

/* Keys that a reader would pass over, since no word demands them. */
static ErrCode refuse(const Source *from, const char *const *keys, size_t count, const char *word, Err *err) {
    for (size_t i = 0; i < count; i++)
        if (has(from, keys[i]))
            return err_set(err, ERR_FORMAT, "metadata %s without the word%s in router.required", keys[i],
                           word);
    return ERR_OK;
}

static ErrCode read_decision(DecideRule *out, const Source *from, Err *err) {
    const char *name;
    TRY(need(&name, from, "router.decision.score", err));
    out->score = decide_score_find(name);
    if (out->score == DECIDE_SCORES)
        return err_set(err, ERR_FORMAT,
                       "metadata router.decision.score: found \"%.40s\", expected max_probability, margin, "
                       "entropy or energy",
                       name);
    const int K = from->K;
    out->per_class = !has(from, "router.decision.threshold");
    if (out->per_class) {
        TRY(get_floats(out->threshold, from, "router.decision.threshold.", false, err));
    } else {
        static const char *const BOTH[] = {"router.decision.threshold.0"};
        if (has(from, BOTH[0]))
            return err_set(err, ERR_FORMAT, "metadata router.decision.threshold and %s: expected one of them",
                           BOTH[0]);
        TRY(get_float(&out->threshold[0], from, "router.decision.threshold", false, err));
        for (int k = 1; k < K; k++) out->threshold[k] = out->threshold[0];
    }
    const char *label = from->get(from->arg, "router.decision.fallback");
    if (!label) return ERR_OK;
    for (int k = 0; k < K && out->fallback < 0; k++)
        if (strcmp(from->labels[k], label) == 0) out->fallback = k;
    if (out->fallback < 0)
        return err_set(err, ERR_FORMAT, "metadata router.decision.fallback: \"%.80s\" is none of the labels",
                       label);
    return ERR_OK;
}

static ErrCode read_all(DecideRule *out, const Source *from, Err *err) {
    static const char *const OF_VECTOR[] = {"router.scale.0", "router.bias.0"};
    static const char *const OF_DECISION[] = {"router.decision.score", "router.decision.threshold",
                                              "router.decision.threshold.0", "router.decision.fallback"};
    bool threshold;
    TRY(get_float(&out->temperature, from, "router.temperature", true, err));
    TRY(read_required(&out->vector, &threshold, from, err));
    if (!out->vector) TRY(refuse(from, OF_VECTOR, COUNT(OF_VECTOR), VECTOR, err));
    if (!threshold) TRY(refuse(from, OF_DECISION, COUNT(OF_DECISION), THRESHOLD, err));
    if (out->vector) TRY(get_floats(out->scale, from, "router.scale.", true, err));
    if (out->vector) TRY(get_floats(out->bias, from, "router.bias.", false, err));
    return threshold ? read_decision(out, from, err) : ERR_OK;
}

ErrCode blob_rule_read(DecideRule *out, BlobRuleGet *get, const void *arg, const char *const *labels, int K,
                       Err *err) {
    const Source from = {get, arg, labels, K};
    TRY(decide_alloc(out, K, err));
    const ErrCode rc = read_all(out, &from, err);
    if (rc != ERR_OK) decide_free(out);
    return rc;
}

/* ---- writing ---- */

size_t blob_rule_pairs(size_t K) {
    return 3 * K + 4;
}

typedef struct {
    BlobRulePut *put;
    void *arg;
    bool failed;
} Writer;

static void put_float(Writer *w, const char *key, float value) {
    Buf text = {0};
    hexfloat_put(&text, value);
    w->failed = w->failed || text.failed;
    if (!text.failed) w->put(w->arg, key, text.data);
    buf_free(&text);
}

static void put_floats(Writer *w, const char *prefix, const float *values, int K) {
    for (int k = 0; k < K; k++) {
        char key[KEY_BYTES];
        (void)snprintf(key, sizeof key, "%s%d", prefix, k);
        put_float(w, key, values[k]);
    }
}

bool blob_rule_write(const DecideRule *rule, const char *const *labels, int K, BlobRulePut *put, void *arg) {
    Writer w = {put, arg, false};
    const bool decides = rule->score != DECIDE_ALWAYS;
    char words[96];
    (void)snprintf(words, sizeof words, "%s%s%s", BASE, rule->vector ? VECTOR : "", decides ? THRESHOLD : "");
    put(arg, "router.required", words);
    put_float(&w, "router.temperature", rule->temperature);
    if (rule->vector) {
        put_floats(&w, "router.scale.", rule->scale, K);
        put_floats(&w, "router.bias.", rule->bias, K);
    }
    if (!decides) return !w.failed;
    put(arg, "router.decision.score", decide_score_name(rule->score));
    if (rule->per_class)
        put_floats(&w, "router.decision.threshold.", rule->threshold, K);
    else
        put_float(&w, "router.decision.threshold", rule->threshold[0]);
    if (rule->fallback >= 0) put(arg, "router.decision.fallback", labels[rule->fallback]);
    return !w.failed;
}

bool blob_rule_writes(const char *key) {
    static const char *const BEGINNINGS[] = {"router.scale.", "router.bias.", "router.decision.threshold."};
    static const char *const KEYS[] = {"router.required", "router.temperature", "router.decision.score",
                                       "router.decision.threshold", "router.decision.fallback"};
    for (size_t i = 0; i < COUNT(BEGINNINGS); i++)
        if (strncmp(key, BEGINNINGS[i], strlen(BEGINNINGS[i])) == 0) return true;
    for (size_t i = 0; i < COUNT(KEYS); i++)
        if (strcmp(key, KEYS[i]) == 0) return true;
    return false;
}

static const SafetensorsPair *find(const SafetensorsPair *pairs, size_t count, const char *key) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(pairs[i].key, key) == 0) return &pairs[i];
    return NULL;
}

ErrCode blob_rule_replace(Buf *out, const Blob *blob, const DecideRule *rule, const SafetensorsPair *more,
                          size_t more_count, Err *err) {
    const SafetensorsHeader *h = &blob->header;
    SafetensorsPair *pairs;
    size_t count = 0;
    TRY(mem_new(&pairs, h->metadata_count + more_count, sizeof *pairs, "the blob's metadata", err));
    for (size_t i = 0; i < h->metadata_count; i++)
        if (!blob_writes(h->metadata[i].key) && !find(more, more_count, h->metadata[i].key))
            pairs[count++] = h->metadata[i];
    for (size_t i = 0; i < more_count; i++)
        if (more[i].value) pairs[count++] = more[i];
    BlobConfig config = blob->config;
    config.decide = *rule;
    const ErrCode rc = blob_write(out, &config, blob->labels, (const void *const *)blob->data,
                                  blob->spm_bytes, pairs, count, err);
    mem_free(pairs);
    return rc;
}
