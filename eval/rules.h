/* eval/rules.h - limits that turn a comparison of two routers into a gate.
 *
 * rules.json is an object of limits on what changed from A (the old router) to B (the new one); points are hundredths:
 *   max_accuracy_drop, max_macro_f1_drop, max_macro_recall_drop        points of B below A
 *   max_class_recall_drop, max_class_precision_drop, max_class_f1_drop points, of every class that occurs (a number), or
 *                                                                      of the classes named ({"math": 1})
 *   max_flip_rate, max_broken_rate    percent of the rows whose answer changed; whose answer was right and now is wrong
 *   max_ece_increase                  points;   max_nll_increase  nats;   max_brier_increase
 *   mcnemar_p_at_least                exact p of McNemar's test where B is less accurate; where it is not, 1 counts
 *   min_accuracy (percent of B), min_rows
 *   max_size_ratio, max_time_ratio    B over A: bytes on disk, seconds for a prompt
 * Limits are numbers; those of a drop or an increase may be negative, which asks for an improvement. Keys that begin with
 * "_" are comments. Unknown keys and classes are errors with the nearest known name. */
#ifndef EVAL_RULES_H
#define EVAL_RULES_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/err.h"
#include "eval/compare.h"

typedef struct {
    int kind;           /* of the table in rules.c */
    char *label;        /* the class that is meant; NULL: all, or none */
    double limit;       /* as written */
    double measured;    /* in the same unit; after rules_judge */
    int worst;          /* class that was measured; -1: none */
    bool least, passed; /* `least`: measured must be at least the limit, not at most */
} Rule;

/* Zeroed: empty, valid to free. */
typedef struct {
    Rule *items;
    size_t count, cap, failed;
} Rules;

/* ERR_ARGUMENT where a rule is wrong; rules_read names the file. */
ErrCode rules_parse(Rules *out, const cJSON *root, Err *err) ERR_CHECKED;
ErrCode rules_read(Rules *out, const char *path, Err *err) ERR_CHECKED;
void rules_free(Rules *rules);

const char *rules_key(const Rule *rule);
const char *rules_unit(const Rule *rule); /* "points", "%", "nats", "" */

/* What is not in a Compare; NAN where it is not known. */
typedef struct {
    double size_ratio, time_ratio;
} RulesFacts;

/* Classes named by rules are among the labels, and what rules ask for can be known: asked before routers run. */
ErrCode rules_check(const Rules *rules, const char *const *labels, int K, const RulesFacts *facts,
                    Err *err) ERR_CHECKED;

/* Measures each rule. ERR_ARGUMENT where a class that a rule names does not occur in the rows. */
ErrCode rules_judge(Rules *rules, const Compare *compare, const char *const *labels, const RulesFacts *facts,
                    Err *err) ERR_CHECKED;

/* ERR_GATE naming the rules that failed, else ERR_OK. */
ErrCode rules_verdict(const Rules *rules, Err *err) ERR_CHECKED;

#endif
