#include "data/jsonl.h"

#include <stdbool.h>
#include <string.h>
#include <zstd.h>

#include "core/mem.h"

enum { LEVEL = 9, PACKED_BYTES = 1 << 17 };

struct JsonlPacker {
    ZSTD_CCtx *context;
    const char *failed; /* zstd's reason, or NULL */
    char packed[PACKED_BYTES];
};

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

ErrCode jsonl_create(Jsonl *out, const char *path, Err *err) {
    *out = (Jsonl){0};
    if (ends_with(path, ".zst")) {
        TRY(mem_new(&out->packer, 1, sizeof *out->packer, "a compressor", err));
        out->packer->context = ZSTD_createCCtx();
        if (!out->packer->context ||
            ZSTD_isError(ZSTD_CCtx_setParameter(out->packer->context, ZSTD_c_compressionLevel, LEVEL)) ||
            ZSTD_isError(ZSTD_CCtx_setParameter(out->packer->context, ZSTD_c_checksumFlag, 1))) {
            jsonl_abort(out);
            return err_set(err, ERR_MEMORY, "out of memory for zstd");
        }
    }
    const ErrCode rc = file_create(&out->file, path, err);
    if (rc != ERR_OK) jsonl_abort(out);
    return rc;
}

static void put(Jsonl *out, const void *bytes, size_t n, ZSTD_EndDirective end) {
    JsonlPacker *p = out->packer;
    if (!p) {
        file_write(&out->file, bytes, n);
        return;
    }
    ZSTD_inBuffer in = {bytes, n, 0};
    for (size_t left = 1; !p->failed && (in.pos < in.size || (end == ZSTD_e_end && left > 0));) {
        ZSTD_outBuffer to = {p->packed, PACKED_BYTES, 0};
        left = ZSTD_compressStream2(p->context, &to, &in, end);
        if (ZSTD_isError(left)) p->failed = ZSTD_getErrorName(left);
        file_write(&out->file, p->packed, to.pos);
    }
}

void jsonl_put(Jsonl *out, const char *line, size_t n) {
    put(out, line, n, ZSTD_e_continue);
    put(out, "\n", 1, ZSTD_e_continue);
    out->lines++;
}

ErrCode jsonl_commit(Jsonl *out, Err *err) {
    if (out->packer) put(out, "", 0, ZSTD_e_end);
    const char *failed = out->packer ? out->packer->failed : NULL;
    const ErrCode rc = failed
                           ? err_set(err, ERR_BACKEND, "%s: zstd cannot compress: %s", out->file.path, failed)
                           : file_commit(&out->file, err);
    jsonl_abort(out);
    return rc;
}

void jsonl_abort(Jsonl *out) {
    file_abort(&out->file);
    if (out->packer) ZSTD_freeCCtx(out->packer->context);
    mem_free(out->packer);
    *out = (Jsonl){0};
}
