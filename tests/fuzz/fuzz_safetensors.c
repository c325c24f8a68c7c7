/* tests/fuzz/fuzz_safetensors.c - any bytes as a safetensors file: refused, or every entry lies inside. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/mem.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const SafetensorsHeader *h, uint64_t data_bytes) {
    uint64_t at = 0;
    for (size_t i = 0; i < h->count; i++) {
        const SafetensorsEntry *e = &h->entries[i];
        Tensor t = {.rank = e->rank, .dtype = e->dtype};
        memcpy(t.shape, e->shape, sizeof t.shape);
        assert(e->begin == at && e->end >= at);
        assert((uint64_t)tensor_count(&t) * tensor_dtype_bytes(t.dtype) == e->end - e->begin);
        if (i < 16) assert(safetensors_find(h, e->name) == e);
        at = e->end;
    }
    assert(at == data_bytes);
    for (size_t i = 0; i < h->metadata_count; i++)
        assert(strlen(h->metadata[i].value) == h->metadata[i].value_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Err err = {0};
    SafetensorsHeader h = {0};
    uint64_t n = 0;
    for (size_t i = 0; i < 8 && i < size; i++) n |= (uint64_t)data[i] << (8 * i);
    if (size < 8 || n > size - 8) n = size < 8 ? 0 : size - 8; /* the length is easy; what follows is not */
    char *json =
        mem_resize(NULL, (size_t)n, 1); /* ends where the header does, so that a read too far shows */
    if (!json) return 0;
    if (n) memcpy(json, data + 8, (size_t)n);
    const uint64_t rest = size < 8 ? 0 : size - 8 - n;
    if (safetensors_parse(&h, json, (size_t)n, rest, &err) == ERR_OK)
        check(&h, rest);
    else
        assert(err.msg[0] && !h.strings && !h.entries);
    safetensors_header_free(&h);
    mem_free(json);
    return 0;
}
