/* eval/policy.h - from which score on a router should answer: thresholds chosen on calibration rows.
 *
 *   precision=P   the most answers of which, with 95 % confidence, at least the share P is right. Twenty thresholds, which
 *                 answer 5 %, 10 % .. 100 % of these rows, are tried; one holds if an exact binomial test refuses
 *                 "precision <= P" at 5 % / 20, so that trying many costs confidence and the best of them is no lucky
 *                 one (Bonferroni; as in "learn then test", Angelopoulos et al. 2021). The rows must be such as the router
 *                 will meet. Of n answers that are all right, n must be ln(0.0025) / ln(P): 297 for 0.98
 *   coverage=C    answers at least the share C of these rows, the surest ones. A point estimate: new rows differ by chance
 *   cost=FILE     the least mean cost on these rows, of all thresholds, no answer at all included. Likewise
 *
 * FILE is JSON: {"abstain": 0.2, "wrong": 1, "right": 0, "costs": {"math": {"coding": 0.5}}}. abstain, a number or an
 * object with one for every label, is what not answering costs (by the true label); costs[truth][answer] is what that answer
 * costs, where it is not given `wrong` (default 1) or `right` (default 0). Any unit.
 *
 * One threshold holds for all labels, or with per_class each label that the router may say has its own: precision then
 * holds for each label's answers (each with 95 % confidence), coverage for each. A label whose precision cannot be shown is
 * never answered; one that the router never said on these rows takes the common threshold of coverage and cost.
 *
 * A threshold lies in the middle between the lowest score that is answered and the next lower one. */
#ifndef EVAL_POLICY_H
#define EVAL_POLICY_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/metrics.h"
#include "export/decide.h"

#define POLICY_RISK  0.05 /* that a precision does not hold */
#define POLICY_TRIES 20

typedef enum { POLICY_NONE, POLICY_PRECISION, POLICY_COVERAGE, POLICY_COST } PolicyKind;

typedef struct {
    PolicyKind kind;
    double target; /* of precision and coverage */
    DecideScore score;
    bool per_class;
    int K;
    double *cost;    /* (K, K): truth, answer; or NULL */
    double *abstain; /* (K): truth */
    cJSON *tree;     /* of the file of costs, so that it can be kept */
} Policy;

/* text is "precision=0.98", "coverage=0.9" or "cost=FILE". score and per_class are left to the caller. ERR_ARGUMENT,
 * ERR_FORMAT. */
ErrCode policy_parse(Policy *out, const char *text, const char *const *labels, int K, Err *err) ERR_CHECKED;
/* The costs alone, as above; the tree becomes the policy's, also when it fails. */
ErrCode policy_costs(Policy *out, cJSON *tree, const char *const *labels, int K, Err *err) ERR_CHECKED;
void policy_free(Policy *policy);

/* What a router said. */
typedef struct {
    const int *truth, *label; /* (n): in 0 .. K-1 */
    const float *score;       /* (n) */
    size_t n;
    int K;
} PolicyRows;

/* What was chosen for all labels, or for one. */
typedef struct {
    float threshold; /* -FLT_MAX answers all, FLT_MAX nothing */
    uint64_t rows, answered, right;
    double bound; /* precision: what it is at least, with the confidence above; 0 where nothing is answered */
} PolicyChoice;

/* Sets rule's score, per_class and threshold (allocated); choices (K, or one without per_class) may be NULL. ERR_GATE: no
 * threshold reaches the precision for any label. */
ErrCode policy_choose(DecideRule *rule, PolicyChoice *choices, const Policy *policy, const PolicyRows *rows,
                      Err *err) ERR_CHECKED;

/* What a rule's thresholds do to rows. */
typedef struct {
    uint64_t rows, answered, right;
    Interval coverage, precision; /* Wilson's */
    double cost, cost_always;     /* mean; without abstaining. Of a policy with costs */
} PolicyOutcome;
PolicyOutcome policy_measure(const DecideRule *rule, const Policy *policy, const PolicyRows *rows);

/* Clopper and Pearson's lower bound of a share of which `hits` of n were seen, which is wrong with probability `risk`. */
double policy_lower_bound(uint64_t hits, uint64_t n, double risk);

#endif
