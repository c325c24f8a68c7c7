/* tests/fuzz/fuzz_pickle.c - any bytes as pytorch_model.bin, in both formats; what opens is read. A first
 * byte 'P' that begins no zip stands for a zip whose data.pkl is the rest, so that the opcodes are within
 * easy reach. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <zip.h>

#include "core/mem.h"
#include "model/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_open(const uint8_t *data, size_t size) {
    Err err = {0};
    Pickle *p;
    uint8_t *copy = mem_resize(NULL, size, 1);
    if (!copy) return;
    if (size) memcpy(copy, data, size);
    if (pickle_open_bytes(&p, copy, size, &err) == ERR_OK) {
        for (size_t i = 0; i < pickle_count(p) && i < 16; i++) {
            const PickleEntry e = pickle_entry(p, i);
            Tensor t = {.rank = e.rank, .dtype = e.dtype};
            memcpy(t.shape, e.shape, sizeof t.shape);
            const int64_t count = tensor_count(&t);
            assert(count >= 0 && e.name);
            if (count > 1 << 16) continue; /* a stride of 0 makes any size of few bytes */
            float *values = mem_resize(NULL, (size_t)count, sizeof *values);
            if (values && pickle_read_f32(p, i, values, &err) != ERR_OK) assert(err.msg[0]);
            mem_free(values);
        }
    } else {
        assert(err.msg[0] && !p);
    }
    pickle_close(p);
    mem_free(copy);
}

static void try_code(const uint8_t *code, size_t n) {
    static const uint8_t STORAGE[32] = {0};
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *file = zip_source_buffer_create(NULL, 0, 0, &why);
    if (!file) return;
    zip_source_keep(file);
    zip_t *z = zip_open_from_source(file, ZIP_TRUNCATE, &why);
    assert(z);
    const struct {
        const char *name;
        const void *bytes;
        size_t n;
    } entries[] = {{"a/data.pkl", code, n}, {"a/data/0", STORAGE, 32}, {"a/data/1", STORAGE, 8}};
    for (size_t i = 0; i < 3; i++) {
        const zip_int64_t at =
            zip_file_add(z, entries[i].name, zip_source_buffer(z, entries[i].bytes, entries[i].n, 0), 0);
        assert(at >= 0);
        (void)zip_set_file_compression(z, (zip_uint64_t)at, ZIP_CM_STORE, 0);
    }
    zip_stat_t st;
    if (zip_close(z) == 0 && zip_source_stat(file, &st) == 0 && zip_source_open(file) == 0) {
        uint8_t *bytes = mem_resize(NULL, st.size, 1);
        if (bytes && zip_source_read(file, bytes, st.size) == (zip_int64_t)st.size) try_open(bytes, st.size);
        mem_free(bytes);
        (void)zip_source_close(file);
    }
    zip_source_free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 && data[0] == 'P' && data[1] != 'K')
        try_code(data + 1, size - 1);
    else
        try_open(data, size);
    return 0;
}
