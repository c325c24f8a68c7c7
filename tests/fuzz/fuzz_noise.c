/* tests/fuzz/fuzz_noise.c - any bytes as a text that becomes noisy: the first two choose the kind and the strength. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/noise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const char *text = (const char *)data + 2;
    const size_t n = size - 2;
    Buf out = {0};
    bool changed;
    require(noise_apply(&out, &changed, text, n, (NoiseKind)(data[0] % NOISE_COUNT), data[1] / 255.0, data[0],
                        NULL) == ERR_OK);
    require(changed ? out.len != n || memcmp(out.data, text, n) != 0 : out.len == 0);
    if (text_utf8_prefix(text, n) == n) require(text_utf8_prefix(out.data, out.len) == out.len);
    buf_free(&out);
    return 0;
}
