#include "export/decide_json.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"

/* ---- reading ---- */

static ErrCode get_array(float *out, const cJSON *array, const char *key, int K, double least, Err *err) {
    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) != K)
        return err_set(err, ERR_FORMAT, "key \"%s\": expected an array of %d numbers, one for each label",
                       key, K);
    const cJSON *item;
    int k = 0;
    cJSON_ArrayForEach(item, array) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= least && item->valuedouble <= (double)FLT_MAX))
            return err_set(err, ERR_FORMAT, "key \"%s\": element %d is no number from %g to %g", key, k,
                           least, (double)FLT_MAX);
        out[k++] = (float)item->valuedouble;
    }
    return ERR_OK;
}

static ErrCode get_fallback(int *out, const cJSON *decision, const char *const *labels, int K, Err *err) {
    const char *label = NULL;
    TRY(json_get_string(&label, decision, "fallback", err));
    if (!label) return ERR_OK;
    for (int k = 0; k < K && *out < 0; k++)
        if (strcmp(labels[k], label) == 0) *out = k;
    char shown[84];
    if (*out < 0)
        return err_set(err, ERR_FORMAT, "key \"fallback\": '%s' is none of the model's labels",
                       text_excerpt(shown, 80, label, strlen(label)));
    return ERR_OK;
}

static ErrCode get_decision(DecideRule *out, const cJSON *decision, const char *const *labels, int K,
                            Err *err) {
    const char *name = NULL;
    if (!cJSON_IsObject(decision)) return err_set(err, ERR_FORMAT, "expected an object");
    TRY(json_get_string(&name, decision, "score", err));
    const DecideScore score = name ? decide_score_find(name) : DECIDE_SCORES;
    if (score == DECIDE_SCORES)
        return err_set(err, ERR_FORMAT,
                       "key \"score\": found '%.40s', expected max_probability, margin, entropy or energy",
                       name ? name : "nothing");
    out->score = score;
    const cJSON *threshold = cJSON_GetObjectItemCaseSensitive(decision, "threshold");
    out->per_class = cJSON_IsArray(threshold);
    if (out->per_class) {
        TRY(get_array(out->threshold, threshold, "threshold", K, -(double)FLT_MAX, err));
    } else {
        double value = (double)NAN;
        TRY(json_get_double(&value, decision, "threshold", -(double)FLT_MAX, (double)FLT_MAX, err));
        if (isnan(value))
            return err_set(err, ERR_FORMAT,
                           "key \"threshold\": found nothing, expected a number or an array");
        for (int k = 0; k < K; k++) out->threshold[k] = (float)value;
    }
    return get_fallback(&out->fallback, decision, labels, K, err);
}

static ErrCode read_rule(DecideRule *out, const cJSON *root, const char *const *labels, int K, Err *err) {
    double temperature = 1;
    TRY(json_get_double(&temperature, root, "router_temperature", (double)FLT_MIN, (double)FLT_MAX, err));
    out->temperature = (float)temperature;
    const cJSON *scale = cJSON_GetObjectItemCaseSensitive(root, "router_scale");
    const cJSON *bias = cJSON_GetObjectItemCaseSensitive(root, "router_bias");
    if (!scale != !bias)
        return err_set(err, ERR_FORMAT, "router_scale and router_bias belong together: found one of them");
    out->vector = scale != NULL;
    if (scale) TRY(get_array(out->scale, scale, "router_scale", K, (double)FLT_MIN, err));
    if (bias) TRY(get_array(out->bias, bias, "router_bias", K, -(double)FLT_MAX, err));
    const cJSON *decision = cJSON_GetObjectItemCaseSensitive(root, "router_decision");
    if (!decision) return ERR_OK;
    const ErrCode rc = get_decision(out, decision, labels, K, err);
    return rc == ERR_OK ? rc : err_context(err, rc, "router_decision");
}

ErrCode decide_json_read(DecideRule *out, const cJSON *root, const char *const *labels, int K, Err *err) {
    TRY(decide_alloc(out, K, err));
    const ErrCode rc = read_rule(out, root, labels, K, err);
    if (rc != ERR_OK) decide_free(out);
    return rc;
}

/* ---- writing ---- */

/* A float32 in the fewest digits that give it back, so that files are read by people as well. */
static cJSON *number(float value) {
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break; /* NOLINT(clang-diagnostic-float-equal): the very same */
    }
    const double shortest = strtod(text, NULL);
    return cJSON_CreateNumber(fabs(shortest) <= (double)FLT_MAX ? shortest : (double)value);
}

static cJSON *array(const float *values, int K) {
    cJSON *out = cJSON_CreateArray();
    for (int k = 0; out && k < K; k++) {
        cJSON *item = number(values[k]);
        if (!item || !cJSON_AddItemToArray(out, item)) {
            cJSON_Delete(item);
            cJSON_Delete(out);
            return NULL;
        }
    }
    return out;
}

static bool put(cJSON *object, const char *key, cJSON *item) {
    if (item && cJSON_AddItemToObject(object, key, item)) return true;
    cJSON_Delete(item);
    return false;
}

static bool put_decision(cJSON *root, const DecideRule *rule, const char *const *labels, int K) {
    cJSON *out = cJSON_AddObjectToObject(root, "router_decision");
    if (!out || !cJSON_AddStringToObject(out, "score", decide_score_name(rule->score))) return false;
    cJSON *threshold = rule->per_class ? array(rule->threshold, K) : number(rule->threshold[0]);
    if (!put(out, "threshold", threshold)) return false;
    return rule->fallback < 0 || cJSON_AddStringToObject(out, "fallback", labels[rule->fallback]);
}

ErrCode decide_json_write(cJSON *root, const DecideRule *rule, const char *const *labels, int K, Err *err) {
    static const char *const KEYS[] = {"router_temperature", "router_scale", "router_bias",
                                       "router_decision"};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        cJSON_DeleteItemFromObjectCaseSensitive(root, KEYS[i]);
    bool ok = put(root, KEYS[0], number(rule->temperature));
    if (ok && rule->vector)
        ok = put(root, KEYS[1], array(rule->scale, K)) && put(root, KEYS[2], array(rule->bias, K));
    if (ok && rule->score != DECIDE_ALWAYS) ok = put_decision(root, rule, labels, K);
    return ok ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the decision rule");
}
