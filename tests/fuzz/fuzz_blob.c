/* tests/fuzz/fuzz_blob.c - bytes as a blob, which is asked a question if it opens.
 * Digests would keep a fuzzer out, so what they refuse is opened once more with digests trusted. An input
 * that begins with 'C' (no blob does) is changes to a small good blob: how many, then offset (16 bits) and
 * byte each; what is behind them is the text. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "export/librouter.h"
#include "tests/tiny_blob.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Buf good;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    const BlobConfig config = tiny_config();
    return tiny_blob(&good, &config, 1, NULL) == ERR_OK ? 0 : 1;
}

static void ask(Router *router, const char *text, size_t n) {
    char error[ROUTER_ERROR_BYTES];
    RouterAnswer answer;
    const int K = router_label_count(router);
    float *p = calloc((size_t)K, sizeof *p);
    if (!p) abort();
    const int rc = router_classify(router, text, n, &answer, p, error, sizeof error);
    if (rc == ROUTER_OK) {
        double total = 0;
        for (int k = 0; k < K; k++) {
            if (!(p[k] >= 0 && p[k] <= p[answer.label])) abort();
            total += (double)p[k];
        }
        if (fabs(total - 1) > 1e-3 || answer.tokens < 2 || answer.tokens > router_max_tokens(router)) abort();
        if (!router_label(router, answer.label) || !isfinite(answer.score)) abort();
        if (answer.fallback < -1 || answer.fallback >= K) abort();
    } else if (rc != ROUTER_NUMERIC) {
        abort();
    }
    free(p);
}

static void check_taxonomy(const Router *router) {
    const char *parent = router_metadata(router, "router.taxonomy.parent");
    const int K = router_label_count(router), revision = router_revision(router);
    int active = 0;
    if (revision < 1 || (revision > 1) != (parent && strlen(parent) == 64)) abort();
    for (int k = 0; k < K; k++) {
        const char *said = router_label_description(router, k);
        if (said && (!*said || strlen(said) > 1000)) abort();
        active += router_label_active(router, k);
    }
    if (active < (K < 2 ? K : 2)) abort();
}

static int try_open(const void *bytes, size_t size, int trust, const char *text, size_t n) {
    char error[ROUTER_ERROR_BYTES];
    Router *router;
    const RouterOptions options = {.trust = trust};
    const int rc = router_open_memory(&router, bytes, size, &options, error, sizeof error);
    if (rc == ROUTER_OK) {
        check_taxonomy(router);
        ask(router, "a abc the [CLS] \xff", ROUTER_TERMINATED);
        ask(router, text, n);
    } else if (rc != ROUTER_FORMAT || !error[0]) {
        abort();
    }
    router_close(router);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 && data[0] == 'C') {
        Buf changed = {0};
        size_t at = 2;
        buf_put(&changed, good.data, good.len);
        for (size_t i = 0; i < data[1] && size - at >= 3; i++, at += 3)
            changed.data[(data[at] | (size_t)data[at + 1] << 8) % changed.len] = (char)data[at + 2];
        (void)try_open(changed.data, changed.len, 1, (const char *)data + at, size - at);
        buf_free(&changed);
        return 0;
    }
    if (try_open(data, size, 0, "b", 1) != ROUTER_OK) (void)try_open(data, size, 1, "b", 1);
    return 0;
}
