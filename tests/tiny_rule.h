/* tests/tiny_rule.h - decision rules for tests: of every kind, in the blob of tiny_blob.h, and whether two are the same. */
#ifndef TESTS_TINY_RULE_H
#define TESTS_TINY_RULE_H

#include <math.h>

#include "export/blob_rule.h"
#include "tests/tiny_blob.h"

/* 40 rounds go through all combinations of vector, score, thresholds of each label, fallback. Free with decide_free. */
static inline void tiny_rule(DecideRule *rule, int K, uint64_t seed, uint64_t round) {
    const uint64_t key = rng_key(seed, "rule", round);
    if (decide_alloc(rule, K, NULL) != ERR_OK) abort();
    rule->temperature = (float)exp(rng_uniform(key, 1000));
    rule->vector = round % 2;
    rule->score = (DecideScore)(round / 2 % DECIDE_SCORES);
    rule->per_class = rule->score != DECIDE_ALWAYS && round / 10 % 2;
    rule->fallback = rule->score != DECIDE_ALWAYS ? (int)(round % 4) - 1 : -1;
    for (int k = 0; k < K; k++) {
        const uint64_t at = 3 * (uint64_t)k;
        if (rule->vector) rule->scale[k] = (float)(0.5 + rng_uniform(key, at));
        if (rule->vector) rule->bias[k] = (float)(rng_uniform(key, at + 1) - 0.5);
        if (rule->score == DECIDE_ALWAYS) continue;
        rule->threshold[k] = rule->per_class || k == 0 ? (float)rng_uniform(key, at + 2) : rule->threshold[0];
    }
}

static inline bool tiny_rules_equal(const DecideRule *a, const DecideRule *b, int K) {
    bool equal = a->temperature == b->temperature && a->vector == b->vector && a->score == b->score &&
                 a->per_class == b->per_class && a->fallback == b->fallback;
    for (int k = 0; k < K; k++)
        equal = equal && a->scale[k] == b->scale[k] && a->bias[k] == b->bias[k] &&
                a->threshold[k] == b->threshold[k];
    return equal;
}

/* The tiny blob with a rule and a policy's name. */
static inline ErrCode tiny_rule_blob(Buf *out, const DecideRule *rule, Err *err) {
    const BlobConfig config = tiny_config();
    const SafetensorsPair more[] = {{"router.decision.policy", "a test", 0}, {"router.none", NULL, 0}};
    Buf plain = {0};
    Blob blob = {0};
    ErrCode rc = tiny_blob(&plain, &config, 7, err);
    if (rc == ERR_OK) rc = blob_open_memory(&blob, plain.data, plain.len, false, NULL, err);
    if (rc == ERR_OK) rc = blob_rule_replace(out, &blob, rule, more, 2, err);
    blob_close(&blob);
    buf_free(&plain);
    return rc;
}

#endif
