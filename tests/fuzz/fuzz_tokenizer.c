/* tests/fuzz/fuzz_tokenizer.c - random bytes as text. First byte: rule; second: max_tokens; rest: text.
 * Truncating early must give what truncating late gives. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "tokenizer/spm.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Tokenizer *tokenizer;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    enum { COUNT = 200 };
    static const char *const PARTS[] = {"ka", "lo", "mi",       "the", "ing",
                                        " ",  " ",  "\xc3\xa9", "1",   "\xe4\xb8\xad"};
    Buf texts[COUNT] = {{0}}, model = {0};
    const char *sentences[COUNT];
    size_t lengths[COUNT];
    const uint64_t key = rng_key(1, "fuzz", 0);
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t k = 0; k < 40; k++) buf_puts(&texts[i], PARTS[rng_bits(key, i * 40 + k) % 10]);
        sentences[i] = texts[i].data;
        lengths[i] = texts[i].len;
    }
    if (spm_train(&model, sentences, lengths, COUNT, 400, 1, NULL) != ERR_OK) abort();
    if (tokenizer_open_bytes(&tokenizer, model.data, model.len, NULL) != ERR_OK) abort();
    for (size_t i = 0; i < COUNT; i++) buf_free(&texts[i]);
    buf_free(&model);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const TokenizerRule all = {.plain = data[0] & 1, .no_specials = data[0] & 2};
    TokenizerRule cut = all;
    cut.max_tokens = 2 + data[1];
    const char *text = (const char *)data + 2;
    Buf a = {0}, late = {0}, early = {0};
    size_t whole = 0, whole_late = 0;
    if (tokenizer_encode(tokenizer, &all, text, size - 2, &a, &whole, NULL) != ERR_OK ||
        tokenizer_encode(tokenizer, &cut, text, size - 2, &late, &whole_late, NULL) != ERR_OK ||
        tokenizer_encode(tokenizer, &cut, text, size - 2, &early, NULL, NULL) != ERR_OK)
        abort();
    if (whole != whole_late || whole * sizeof(int32_t) != a.len) abort();
    if (late.len != early.len || (late.len && memcmp(late.data, early.data, late.len) != 0)) abort();
    if (late.len > (size_t)cut.max_tokens * sizeof(int32_t)) abort();
    for (size_t i = 0; i < whole; i++) {
        int32_t id;
        memcpy(&id, a.data + i * sizeof id, sizeof id);
        if (id < 0 || id >= tokenizer_ids(tokenizer)) abort();
        if (all.plain && id == tokenizer_specials(tokenizer).mask) abort();
    }
    buf_free(&a);
    buf_free(&late);
    buf_free(&early);
    return 0;
}
