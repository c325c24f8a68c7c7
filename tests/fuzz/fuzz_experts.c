/* tests/fuzz/fuzz_experts.c - any bytes as experts.json, and as a file of correctness. */
#include <stdint.h>
#include <stdlib.h>

#include "eval/experts.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void read_table(const char *path) {
    static const char *const LABELS[] = {"a", "b"};
    Experts e;
    Err err = {0};
    if (experts_read(&e, path, LABELS, 2, &err) != ERR_OK) {
        require(err.msg[0] && e.count == 0);
        return;
    }
    require(e.count >= 1 && e.count <= EXPERTS_MAX && e.fallback < e.count && e.currency);
    for (int i = 0; i < e.count; i++) {
        const Expert *x = &e.items[i];
        const int neither = !x->accuracy && !x->correctness;
        require(x->name && x->price_in >= 0 && !(x->accuracy && x->correctness));
        require(x->chat.url ? x->chat.model && x->chat.max_tokens >= 1 : x->parameters >= 1 && !neither);
        for (int k = 0; k < 2 && x->accuracy; k++) require(x->accuracy[k] >= 0 && x->accuracy[k] <= 1);
    }
    for (int k = 0; k < 2 && e.routes; k++) require(e.routes[k] >= 0 && e.routes[k] < e.count);
    experts_free(&e);
}

static void read_correctness(const char *path) {
    static char bytes[] = "text\0a\0b", name[] = "x";
    static Row items[] = {{.text_len = 4, .id_at = 5}, {.text_len = 4, .id_at = 7}};
    char copy[64];
    const Rows rows = {.items = items, .count = 2, .bytes = {.data = bytes, .len = sizeof bytes}};
    (void)snprintf(copy, sizeof copy, "%s", path);
    Expert expert = {.name = name, .parameters = 1, .correctness = copy};
    const Experts e = {.items = &expert, .count = 1, .K = 2};
    ExpertsOutcome o;
    Err err = {0};
    if (experts_outcome(&o, &e, &rows, &err) != ERR_OK) {
        require(err.msg[0] != 0);
        return;
    }
    for (int i = 0; i < 2; i++) require(o.quality[i] >= 0 && o.quality[i] <= 1 && o.cost[i] >= 0);
    experts_outcome_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = scratch_file(data, size);
    read_table(path);
    read_correctness(path);
    return 0;
}
