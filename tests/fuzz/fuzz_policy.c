/* tests/fuzz/fuzz_policy.c - bytes as a file of costs; costs that are taken choose thresholds, and measure them. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/json.h"
#include "eval/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const LABELS[] = {"math", "coding", "other"};
    static const int TRUTH[] = {0, 1, 2, 0, 1, 2, 0, 2}, LABEL[] = {0, 1, 2, 1, 1, 0, 0, 2};
    static const float SCORE[] = {0.9f, 0.8f, 0.8f, 0.2f, -1.0f, 0.5f, 0.4f, FLT_MAX};
    const PolicyRows rows = {TRUTH, LABEL, SCORE, 8, 3};
    Policy policy;
    DecideRule rule;
    cJSON *tree;
    if (json_parse(&tree, (const char *)data, size, NULL) != ERR_OK) return 0;
    if (policy_costs(&policy, tree, LABELS, 3, NULL) != ERR_OK) return 0;
    if (decide_alloc(&rule, 3, NULL) != ERR_OK) abort();
    for (int per_class = 0; per_class < 2; per_class++) {
        policy.per_class = per_class;
        if (policy_choose(&rule, NULL, &policy, &rows, NULL) != ERR_OK) abort();
        const PolicyOutcome outcome = policy_measure(&rule, &policy, &rows);
        if (!isfinite(outcome.cost) || outcome.cost > outcome.cost_always + 1e-3) abort();
        for (int k = 0; k < 3; k++)
            if (!isfinite(rule.threshold[k])) abort();
    }
    decide_free(&rule);
    policy_free(&policy);
    return 0;
}
