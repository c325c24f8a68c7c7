/* tests/tiny_blob.h - a small valid blob of arbitrary weights, made with blob_write, and ways to make it
 * wrong. */
#ifndef TESTS_TINY_BLOB_H
#define TESTS_TINY_BLOB_H

#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "export/blob.h"
#include "tests/tiny_spm.h"

/* The digits of the header's digest. */
enum { TINY_DIGEST = 8 + 41 };

static inline BlobConfig tiny_config(void) {
    return (BlobConfig){.vocab_size = TINY_FIRST + TINY_COUNT,
                        .hidden_size = 8,
                        .num_hidden_layers = 2,
                        .num_attention_heads = 2,
                        .intermediate_size = 12,
                        .position_buckets = 4,
                        .max_relative_positions = 16,
                        .num_labels = 3,
                        .max_tokens = 12,
                        .cls = 1,
                        .sep = 2,
                        .unk = 3,
                        .mask = TINY_FIRST + TINY_COUNT,
                        .plain_text = true,
                        .layer_norm_eps = 1e-7f,
                        .decide.temperature = 1.0f};
}

static inline void tiny_fill(void *to, const BlobSpec *spec, size_t n, uint64_t key) {
    const size_t len = strlen(spec->name);
    const bool scale = len > 6 && strcmp(spec->name + len - 6, "_scale") == 0;
    for (size_t i = 0; i < n; i++) {
        const float value = (float)(rng_uniform(key, i) - 0.5);
        if (spec->dtype == DTYPE_I8) ((int8_t *)to)[i] = (int8_t)(254 * value);
        if (spec->dtype == DTYPE_F16) ((uint16_t *)to)[i] = tensor_f32_to_f16(value);
        if (spec->dtype == DTYPE_F32) ((float *)to)[i] = scale ? 0.01f + 0.01f * (value + 0.5f) : 2 * value;
    }
}

/* ERR_OK, or what failed. */
static inline ErrCode tiny_blob(Buf *out, const BlobConfig *config, uint64_t seed, Err *err) {
    static const char *const LABELS[] = {"math", "coding", "other"};
    const size_t count = blob_count(config);
    Buf spm = {0};
    Arena arena = {0};
    const void **data = NULL;
    tiny_spm(&spm, &(TinySpm){0});
    ErrCode rc = buf_ok(&spm, err);
    if (rc == ERR_OK) rc = mem_new(&data, count, sizeof *data, "a test", err);
    for (int pass = 0; pass < 2 && rc == ERR_OK; pass++) {
        for (size_t i = 0; i < count; i++) {
            BlobSpec spec;
            blob_spec(&spec, config, i);
            if (spec.shape[0] < 0) {
                data[i] = spm.data;
                continue;
            }
            const size_t n = (size_t)(spec.shape[0] * (spec.rank > 1 ? spec.shape[1] : 1));
            void *to = arena_push(&arena, n, tensor_dtype_bytes(spec.dtype));
            if (to) tiny_fill(to, &spec, n, rng_key(seed, "tiny", i));
            data[i] = to;
        }
        const size_t bytes = arena.used;
        if (pass == 0) rc = arena_init(&arena, bytes, "a test", err);
    }
    if (rc == ERR_OK) rc = blob_write(out, config, LABELS, data, spm.len, NULL, 0, err);
    mem_free(data);
    arena_free(&arena);
    buf_free(&spm);
    return rc;
}

static inline size_t tiny_header(const Buf *blob) {
    size_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | (unsigned char)blob->data[i];
    return n + 8;
}

/* The header's digest anew. */
static inline void tiny_seal(Buf *blob) {
    char hex[SHA256_HEX];
    memset(blob->data + TINY_DIGEST, '0', 64);
    sha256_hex_of(hex, blob->data, tiny_header(blob));
    memcpy(blob->data + TINY_DIGEST, hex, 64);
}

/* out: the blob with the first `from` of its header replaced, the header padded and sealed again; false where
 * it has none. */
static inline bool tiny_replace(Buf *out, const Buf *blob, const char *from, const char *to) {
    const size_t head = tiny_header(blob), n = strlen(from);
    size_t at = 8, end = head;
    while (at + n <= head && memcmp(blob->data + at, from, n) != 0) at++;
    if (at + n > head) return false;
    while (blob->data[end - 1] == ' ') end--;
    buf_clear(out);
    buf_put(out, blob->data, at);
    buf_puts(out, to);
    buf_put(out, blob->data + at + n, end - at - n);
    while (out->len % BLOB_ALIGN) buf_puts(out, " ");
    const uint64_t length = out->len - 8;
    for (int i = 0; i < 8; i++) out->data[i] = (char)(length >> (8 * i) & 255);
    buf_put(out, blob->data + head, blob->len - head);
    if (out->failed) return false;
    tiny_seal(out);
    return true;
}

/* Bytes of listed tensor i, and their digest made right again with tiny_reseal. */
static inline char *tiny_tensor(Buf *blob, size_t *bytes, const char *name) {
    SafetensorsHeader h;
    const size_t head = tiny_header(blob);
    char *found = NULL;
    *bytes = 0;
    if (safetensors_parse(&h, blob->data + 8, head - 8, blob->len - head, NULL) != ERR_OK) return NULL;
    const SafetensorsEntry *e = safetensors_find(&h, name);
    if (e) {
        found = blob->data + head + e->begin;
        *bytes = (size_t)(e->end - e->begin);
    }
    safetensors_header_free(&h);
    return found;
}

static inline void tiny_reseal(Buf *blob, const char *name) {
    size_t bytes;
    char key[160], hex[SHA256_HEX];
    const char *data = tiny_tensor(blob, &bytes, name);
    const int n = snprintf(key, sizeof key, "\"router.sha256.%s\":\"", name);
    const size_t head = tiny_header(blob);
    if (!data || n < 0) return;
    sha256_hex_of(hex, data, bytes);
    for (size_t at = 8; at + (size_t)n + 64 < head; at++)
        if (memcmp(blob->data + at, key, (size_t)n) == 0) memcpy(blob->data + at + n, hex, 64);
    tiny_seal(blob);
}

#endif
