/* tests/fuzz/fuzz_decide.c - bytes as a config.json with a decision rule; a rule that is taken decides, and is the same
 * when it is written and read again. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/json.h"
#include "export/decide_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { K = 3 };

static void use(const DecideRule *rule) {
    static const float LOGITS[][K] = {{1, 2, 3}, {-3e38f, 3e38f, 0}, {0, 0, 0}};
    for (size_t i = 0; i < sizeof LOGITS / sizeof *LOGITS; i++) {
        double p[K];
        const DecideAnswer answer = decide(p, LOGITS[i], K, rule);
        if (answer.label < 0 || answer.label >= K || !isfinite(answer.score)) abort();
        if (!(fabs(p[0] + p[1] + p[2] - 1) < 1e-9)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const LABELS[] = {"math", "coding", "other"};
    cJSON *root;
    DecideRule rule, again;
    if (json_parse(&root, (const char *)data, size, NULL) != ERR_OK) return 0;
    if (cJSON_IsObject(root) && decide_json_read(&rule, root, LABELS, K, NULL) == ERR_OK) {
        use(&rule);
        if (decide_json_write(root, &rule, LABELS, K, NULL) != ERR_OK) abort();
        if (decide_json_read(&again, root, LABELS, K, NULL) != ERR_OK) abort();
        if (rule.score != again.score || rule.fallback != again.fallback || rule.vector != again.vector)
            abort();
        for (int i = 0; i < 3 * K; i++)
            if (rule.scale[i] != again.scale[i]) abort(); /* biases and thresholds lie behind the scales */
        decide_free(&rule);
        decide_free(&again);
    }
    cJSON_Delete(root);
    return 0;
}
