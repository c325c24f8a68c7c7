/* data/jsonl.h - a file of JSON lines that appears complete or not at all; one whose name ends in .zst is compressed. The
 * same lines give the same bytes. */
#ifndef DATA_JSONL_H
#define DATA_JSONL_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/file.h"

typedef struct JsonlPacker JsonlPacker;

/* Zeroed: nothing, valid to abort. */
typedef struct {
    FileWriter file;
    JsonlPacker *packer; /* NULL: not compressed */
    uint64_t lines;
} Jsonl;

ErrCode jsonl_create(Jsonl *out, const char *path, Err *err) ERR_CHECKED;

/* One line, its newline added here; failures are kept and returned by jsonl_commit. */
void jsonl_put(Jsonl *out, const char *line, size_t n);
ErrCode jsonl_commit(Jsonl *out, Err *err) ERR_CHECKED;
void jsonl_abort(Jsonl *out);

#endif
