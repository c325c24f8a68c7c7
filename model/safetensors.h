/* model/safetensors.h - the safetensors container, read strictly and written.
 *
 *   offset 0    u64 little-endian: n, length of the header
 *   offset 8    n bytes of JSON: {"__metadata__": {string: string, ...}, "name": {"dtype": "F32", "shape": [2, 3],
 *               "data_offsets": [begin, end]}, ...}; trailing spaces are allowed
 *   offset 8+n  the data; offsets count from here
 *
 * Reading refuses: a header longer than 100 MB or than the file; anything but that grammar (the scanner does not
 * recurse); a name or metadata key twice; an unknown dtype; more than 4 dimensions; a product of dimensions that
 * overflows; a range that is not exactly shape x dtype, lies outside the data, overlaps another or leaves a hole. All is
 * validated before a tensor is read or memory for it is allocated. Strings are decoded (escapes, surrogates) and must be
 * valid UTF-8 without NUL. This file depends on core alone: librouter uses it. */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/file.h"
#include "core/tensor.h"

#define SAFETENSORS_HEADER_MAX ((uint64_t)100 << 20)

typedef struct {
    const char *name;
    Dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
    uint64_t begin, end; /* bytes, from the start of the data */
} SafetensorsEntry;

typedef struct {
    const char *key, *value; /* value_len bytes; NUL-terminated as well */
    size_t value_len;
} SafetensorsPair;

/* Names, keys and values point into `strings`. Entries are sorted by begin. */
typedef struct {
    SafetensorsEntry *entries;
    size_t count;
    SafetensorsPair *metadata;
    size_t metadata_count;
    char *strings;
} SafetensorsHeader;

/* Parses header JSON json[0..n) of a file with data_bytes bytes of data. */
ErrCode safetensors_parse(SafetensorsHeader *out, const char *json, size_t n, uint64_t data_bytes,
                          Err *err) ERR_CHECKED;
void safetensors_header_free(SafetensorsHeader *header);

const SafetensorsEntry *safetensors_find(const SafetensorsHeader *header, const char *name);
const char *safetensors_metadata(const SafetensorsHeader *header, const char *key); /* or NULL */

/* ---- a file ---- */
typedef struct {
    File file;
    SafetensorsHeader header;
    uint64_t data_start;
} Safetensors;

ErrCode safetensors_open(Safetensors *out, const char *path, Err *err) ERR_CHECKED;
/* The entry's bytes as they are in the file: end - begin of them. */
ErrCode safetensors_read(const Safetensors *st, const SafetensorsEntry *entry, void *out,
                         Err *err) ERR_CHECKED;
/* The entry's values as float32; ERR_FORMAT when its dtype is no float. */
ErrCode safetensors_read_f32(const Safetensors *st, const SafetensorsEntry *entry, float *out,
                             Err *err) ERR_CHECKED;
void safetensors_close(Safetensors *st);

/* ---- writing ---- */
typedef struct {
    const char *name;
    Tensor tensor;
} SafetensorsItem;

/* The header's bytes (length word and JSON, padded with spaces so that the data starts at a multiple of
 * `align`, a power of two >= 8) for items laid out in the given order, without holes. Metadata values are
 * NUL-terminated. */
ErrCode safetensors_header(Buf *out, const SafetensorsItem *items, size_t count,
                           const SafetensorsPair *metadata, size_t metadata_count, size_t align,
                           Err *err) ERR_CHECKED;

/* Writes a whole file atomically. */
ErrCode safetensors_save(const char *path, const SafetensorsItem *items, size_t count,
                         const SafetensorsPair *metadata, size_t metadata_count, Err *err) ERR_CHECKED;

#endif
