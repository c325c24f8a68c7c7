/* tests/fuzz/fuzz_rules.c - any bytes as rules.json: refused, or judged on three rows. */
#include <stdint.h>
#include <stdlib.h>

#include "core/json.h"
#include "eval/rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const LABELS[] = {"a", "b"};
    static const double P[] = {0.9, 0.1, 0.6, 0.4, 0.2, 0.8}, Q[] = {0.6, 0.4, 0.3, 0.7, 0.4, 0.6};
    static const int TRUE_LABELS[] = {0, 0, 1};
    const RulesFacts facts = {0.5, 2};
    cJSON *root = NULL;
    Rules rules = {0};
    Compare compare = {0};
    Err err = {0};
    if (json_parse(&root, (const char *)data, size, &err) != ERR_OK) return 0;
    require(compare_compute(&compare, P, Q, TRUE_LABELS, 3, 2, 1, 0, NULL, &err) == ERR_OK);
    if (rules_parse(&rules, root, &err) == ERR_OK) {
        require(rules.count > 0);
        if (rules_check(&rules, LABELS, 2, &facts, &err) == ERR_OK) {
            require(rules_judge(&rules, &compare, LABELS, &facts, &err) == ERR_OK);
            require((rules_verdict(&rules, &err) == ERR_OK) == (rules.failed == 0));
        }
    } else {
        require(err.msg[0] && rules.count == 0);
    }
    rules_free(&rules);
    compare_free(&compare);
    cJSON_Delete(root);
    return 0;
}
