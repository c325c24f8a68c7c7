#include "eval/rules.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

enum {
    ACCURACY,
    MACRO_F1,
    MACRO_RECALL,
    CLASS_RECALL,
    CLASS_PRECISION,
    CLASS_F1,
    FLIPS,
    BROKEN,
    ECE,
    NLL,
    BRIER,
    MCNEMAR,
    LEAST_ACCURACY,
    LEAST_ROWS,
    SIZE_RATIO,
    TIME_RATIO,
    KINDS
};

static const struct {
    const char *key, *unit;
    double min, max;
    bool of_class, least;
} TABLE[KINDS] = {
    [ACCURACY] = {"max_accuracy_drop", "points", -100, 100, false, false},
    [MACRO_F1] = {"max_macro_f1_drop", "points", -100, 100, false, false},
    [MACRO_RECALL] = {"max_macro_recall_drop", "points", -100, 100, false, false},
    [CLASS_RECALL] = {"max_class_recall_drop", "points", -100, 100, true, false},
    [CLASS_PRECISION] = {"max_class_precision_drop", "points", -100, 100, true, false},
    [CLASS_F1] = {"max_class_f1_drop", "points", -100, 100, true, false},
    [FLIPS] = {"max_flip_rate", "%", 0, 100, false, false},
    [BROKEN] = {"max_broken_rate", "%", 0, 100, false, false},
    [ECE] = {"max_ece_increase", "points", -100, 100, false, false},
    [NLL] = {"max_nll_increase", "nats", -100, 100, false, false},
    [BRIER] = {"max_brier_increase", "", -2, 2, false, false},
    [MCNEMAR] = {"mcnemar_p_at_least", "", 0, 1, false, true},
    [LEAST_ACCURACY] = {"min_accuracy", "%", 0, 100, false, true},
    [LEAST_ROWS] = {"min_rows", "rows", 0, 1e9, false, true},
    [SIZE_RATIO] = {"max_size_ratio", "times", 0, 1e9, false, false},
    [TIME_RATIO] = {"max_time_ratio", "times", 0, 1e9, false, false},
};

/* ---- reading ---- */

static ErrCode add(Rules *rules, int kind, const char *label, double limit, Err *err) {
    if (rules->count == rules->cap) {
        const size_t cap = rules->cap ? 2 * rules->cap : 16;
        Rule *items = mem_resize(rules->items, cap, sizeof *items);
        if (!items) return err_set(err, ERR_MEMORY, "out of memory for %zu rules", cap);
        rules->items = items;
        rules->cap = cap;
    }
    char *copy = label ? mem_strdup(label) : NULL;
    if (label && !copy) return err_set(err, ERR_MEMORY, "out of memory for a label");
    rules->items[rules->count++] = (Rule){.kind = kind,
                                          .label = copy,
                                          .limit = limit,
                                          .measured = (double)NAN,
                                          .worst = -1,
                                          .least = TABLE[kind].least};
    return ERR_OK;
}

static ErrCode limit_of(double *out, const cJSON *item, int kind, Err *err) {
    if (!cJSON_IsNumber(item)) return err_set(err, ERR_ARGUMENT, "expected a number");
    *out = item->valuedouble;
    if (*out >= TABLE[kind].min && *out <= TABLE[kind].max) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "found %g, expected %g to %g", *out, TABLE[kind].min, TABLE[kind].max);
}

static ErrCode parse_rule(Rules *out, const cJSON *item, Err *err) {
    const char *keys[KINDS];
    int kind = 0;
    double limit;
    for (int i = 0; i < KINDS; i++) keys[i] = TABLE[i].key;
    while (kind < KINDS && strcmp(item->string, keys[kind]) != 0) kind++;
    if (kind == KINDS) {
        char shown[64];
        text_excerpt(shown, 60, item->string, strlen(item->string));
        const char *near = text_nearest(item->string, keys, KINDS);
        if (near) return err_set(err, ERR_ARGUMENT, "unknown rule '%s'; did you mean '%s'?", shown, near);
        return err_set(err, ERR_ARGUMENT, "unknown rule '%s'; 'router compare --help' lists them", shown);
    }
    if (!cJSON_IsObject(item) || !TABLE[kind].of_class) {
        const ErrCode rc = limit_of(&limit, item, kind, err);
        if (rc != ERR_OK) return err_context(err, rc, "%s", keys[kind]);
        return add(out, kind, NULL, limit, err);
    }
    const cJSON *one;
    cJSON_ArrayForEach(one, item) {
        const ErrCode rc = limit_of(&limit, one, kind, err);
        if (rc != ERR_OK) return err_context(err, rc, "%s: %.80s", keys[kind], one->string);
        TRY(add(out, kind, one->string, limit, err));
    }
    return ERR_OK;
}

ErrCode rules_parse(Rules *out, const cJSON *root, Err *err) {
    *out = (Rules){0};
    ErrCode rc = ERR_OK;
    if (!cJSON_IsObject(root))
        rc = err_set(err, ERR_ARGUMENT,
                     "expected a JSON object of rules such as {\"max_accuracy_drop\": 0.5}");
    const cJSON *item;
    if (rc == ERR_OK) cJSON_ArrayForEach(item, root) {
            if (item->string[0] == '_') continue;
            rc = parse_rule(out, item, err);
            if (rc != ERR_OK) break;
        }
    if (rc == ERR_OK && out->count == 0)
        rc = err_set(err, ERR_ARGUMENT, "no rules: such a gate passes everything");
    if (rc != ERR_OK) rules_free(out);
    return rc;
}

ErrCode rules_read(Rules *out, const char *path, Err *err) {
    *out = (Rules){0};
    cJSON *root;
    TRY(json_read(&root, path, err));
    const ErrCode rc = rules_parse(out, root, err);
    cJSON_Delete(root);
    return rc == ERR_OK ? rc : err_context(err, rc, "%s", path);
}

void rules_free(Rules *rules) {
    for (size_t i = 0; i < rules->count; i++) mem_free(rules->items[i].label);
    mem_free(rules->items);
    *rules = (Rules){0};
}

const char *rules_key(const Rule *rule) {
    return TABLE[rule->kind].key;
}

const char *rules_unit(const Rule *rule) {
    return TABLE[rule->kind].unit;
}

/* ---- judging ---- */

static int find_label(const char *name, const char *const *labels, int K) {
    for (int k = 0; k < K; k++)
        if (strcmp(labels[k], name) == 0) return k;
    return -1;
}

ErrCode rules_check(const Rules *rules, const char *const *labels, int K, const RulesFacts *facts, Err *err) {
    for (size_t i = 0; i < rules->count; i++) {
        const Rule *r = &rules->items[i];
        if (r->label && find_label(r->label, labels, K) < 0) {
            const char *near = text_nearest(r->label, labels, (size_t)K);
            return err_set(err, ERR_ARGUMENT, "%s: '%.80s' is not a label of either router%s%.80s%s",
                           rules_key(r), r->label, near ? "; did you mean '" : "", near ? near : "",
                           near ? "'?" : "");
        }
        if (r->kind == SIZE_RATIO && isnan(facts->size_ratio))
            return err_set(err, ERR_ARGUMENT, "%s: a file of predictions has no size to compare",
                           rules_key(r));
        if (r->kind == TIME_RATIO && isnan(facts->time_ratio))
            return err_set(err, ERR_ARGUMENT,
                           "%s: times are measured where both are models, and without --no-speed",
                           rules_key(r));
    }
    return ERR_OK;
}

/* Points that a class lost; NAN where the rows do not tell. */
static double class_drop(const Compare *c, int kind, int k) {
    const MetricsClass *a = &c->a.classes[k], *b = &c->b.classes[k];
    const CompareClass *d = &c->classes[k];
    switch (kind) {
        case CLASS_RECALL: return a->support ? -100 * d->recall.value : (double)NAN;
        case CLASS_PRECISION: return a->predicted + b->predicted ? -100 * d->precision.value : (double)NAN;
        default: return a->support + a->predicted + b->predicted ? -100 * d->f1.value : (double)NAN;
    }
}

static double measure(const Compare *c, int kind, const RulesFacts *facts) {
    const double n = (double)c->n;
    switch (kind) {
        case ACCURACY: return -100 * c->accuracy.value;
        case MACRO_F1: return -100 * c->macro_f1.value;
        case MACRO_RECALL: return -100 * c->macro_recall.value;
        case FLIPS: return 100 * (double)c->flip_count / n;
        case BROKEN: return 100 * (double)c->kinds[COMPARE_BROKEN] / n;
        case ECE: return 100 * c->ece.value;
        case NLL: return c->nll.value;
        case BRIER: return c->brier.value;
        case MCNEMAR: return c->accuracy.value < 0 ? c->mcnemar.exact_p : 1;
        case LEAST_ACCURACY: return 100 * c->b.accuracy.value;
        case LEAST_ROWS: return n;
        case SIZE_RATIO: return facts->size_ratio;
        default: return facts->time_ratio;
    }
}

ErrCode rules_judge(Rules *rules, const Compare *compare, const char *const *labels, const RulesFacts *facts,
                    Err *err) {
    rules->failed = 0;
    for (size_t i = 0; i < rules->count; i++) {
        Rule *r = &rules->items[i];
        if (r->label) {
            r->worst = find_label(r->label, labels, compare->K);
            r->measured = r->worst >= 0 ? class_drop(compare, r->kind, r->worst) : (double)NAN;
            if (isnan(r->measured))
                return err_set(err, ERR_ARGUMENT, "%s: no row has anything to do with the class '%.80s'",
                               rules_key(r), r->label);
        } else if (TABLE[r->kind].of_class) {
            r->measured = -HUGE_VAL;
            for (int k = 0; k < compare->K; k++) {
                const double drop = class_drop(compare, r->kind, k);
                if (!(drop > r->measured)) continue;
                r->measured = drop;
                r->worst = k;
            }
        } else {
            r->measured = measure(compare, r->kind, facts);
        }
        r->measured += 0.0; /* no "-0" */
        /* a limit of 0.5 lets 0.5 pass, whatever its last bit */
        r->passed = r->least ? r->measured >= r->limit - 1e-9 : r->measured <= r->limit + 1e-9;
        rules->failed += !r->passed;
    }
    return ERR_OK;
}

ErrCode rules_verdict(const Rules *rules, Err *err) {
    if (rules->failed == 0) return ERR_OK;
    char list[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < rules->count; i++) {
        const Rule *r = &rules->items[i];
        if (r->passed || at + 160 > sizeof list) continue;
        const int n = snprintf(list + at, sizeof list - at, "%s%s%s%.40s is %.4g (%s %.4g)", at ? "; " : "",
                               rules_key(r), r->label ? " of " : "", r->label ? r->label : "", r->measured,
                               r->least ? "at least" : "at most", r->limit);
        if (n > 0) at += (size_t)n;
    }
    return err_set(err, ERR_GATE, "%zu of %zu rules failed: %s", rules->failed, rules->count, list);
}
