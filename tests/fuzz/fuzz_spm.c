/* tests/fuzz/fuzz_spm.c - bytes as a tokenizer's model, which then encodes a short text.
 * First byte even: the rest is the model. Odd: the rest is a text, behind changes (how many, then offset of
 * 16 bits and byte each) to a small good model, which leads past the checks much more often. */
#include <stdint.h>
#include <stdlib.h>

#include "tests/tiny_spm.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Buf good;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    Buf charsmap = {0};
    tiny_charsmap(&charsmap);
    tiny_spm(&good, &(TinySpm){.charsmap = &charsmap});
    buf_free(&charsmap);
    return good.failed ? 1 : 0;
}

static void encode(const Tokenizer *t, const char *text, size_t n) {
    Buf ids = {0};
    size_t whole;
    if (tokenizer_encode(t, &(TokenizerRule){0}, text, n, &ids, &whole, NULL) != ERR_OK) abort();
    if (whole * sizeof(int32_t) != ids.len) abort();
    for (size_t i = 0; i < whole; i++) {
        int32_t id;
        memcpy(&id, ids.data + i * sizeof id, sizeof id);
        if (id < 0 || id >= tokenizer_ids(t) || !tokenizer_piece(t, id)[0]) abort();
    }
    buf_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    Buf model = {0};
    size_t at = 1;
    if (data[0] & 1) {
        buf_put(&model, good.data, good.len);
        const size_t changes = size > at ? data[at++] : 0;
        for (size_t i = 0; i < changes && size - at >= 3; i++, at += 3)
            model.data[(data[at] | (size_t)data[at + 1] << 8) % model.len] = (char)data[at + 2];
    } else {
        buf_put(&model, data + 1, size - 1);
    }
    Tokenizer *t = NULL;
    const ErrCode rc = tokenizer_open_bytes(&t, model.data ? model.data : "", model.len, NULL);
    if (rc == ERR_OK) {
        static const char TEXT[] = "a abc  the A[CLS]AAAA \xff\xe2\x96 caf\xc3\xa9 \0 AA";
        encode(t, TEXT, sizeof TEXT - 1);
        encode(t, (const char *)data + at, size - at);
    } else if (rc != ERR_FORMAT) {
        abort();
    }
    tokenizer_close(t);
    buf_free(&model);
    return 0;
}
