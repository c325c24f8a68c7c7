/* tests/fuzz/fuzz_shard.c - hostile shards. Checksums would stop nearly every change of the bytes, so that
 * the first byte says what the rest is: '{' the index of a shard without blocks, 'B' the parts of one block
 * under a fitting index, anything else the file itself. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "core/buf.h"
#include "core/sha256.h"
#include "data/shard.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

/* Appends a zstd frame; its size and hash as JSON to `json`. */
static size_t put_frame(Buf *file, const void *bytes, size_t n, unsigned char digest[SHA256_BYTES],
                        Buf *json) {
    const size_t bound = ZSTD_compressBound(n);
    char *to = buf_reserve(file, bound);
    require(to != NULL);
    const size_t packed = ZSTD_compress(to, bound, bytes, n, 1);
    require(!ZSTD_isError(packed));
    Sha256 sha;
    sha256_init(&sha);
    sha256_add(&sha, to, packed);
    sha256_end(&sha, digest);
    char hex[SHA256_HEX];
    sha256_hex(hex, digest);
    if (json) buf_printf(json, ",%zu,\"%s\"", packed, hex);
    file->len += packed;
    return packed;
}

static void put_u64(Buf *file, uint64_t v) {
    for (int i = 0; i < 8; i++, v >>= 8) {
        const char byte = (char)(v & 255);
        buf_put(file, &byte, 1);
    }
}

static void put_index(Buf *file, const void *index, size_t n) {
    unsigned char digest[SHA256_BYTES];
    const size_t at = file->len, packed = put_frame(file, index, n, digest, NULL);
    put_u64(file, at);
    put_u64(file, packed);
    put_u64(file, n);
    buf_put(file, digest, sizeof digest);
    buf_puts(file, "RSHARDE\n");
}

static unsigned u16(const uint8_t *bytes) {
    return bytes[0] + 256u * bytes[1];
}

/* data: rows, tokens, bytes of text (2 each), then the token part and the text part. */
static void put_block(Buf *file, const uint8_t *data, size_t size) {
    if (size < 6) return;
    const unsigned rows = u16(data) % 4097, tokens = u16(data + 2), text = u16(data + 4);
    data += 6;
    size -= 6;
    const size_t need = 4 * (size_t)tokens + 25 * (size_t)rows, n = size < need ? size : need;
    unsigned char digest[SHA256_BYTES];
    Buf json = {0}, index = {0};
    buf_printf(&json, "[2,%u,%u", rows, tokens);
    (void)put_frame(file, data, n, digest, &json);
    buf_printf(&json, ",%u", text);
    (void)put_frame(file, data + n, size - n, digest, &json);
    buf_printf(
        &index,
        "{\"tokenizer\":\"t\",\"content\":\"c\",\"max_tokens\":9000,\"vocabulary\":70000,\"longest\":8000,"
        "\"skipped\":0,\"truncated\":0,\"labels\":[\"x\"],\"files\":[\"f\",\"g\"],\"sources\":[\"\"],"
        "\"messages\":[],"
        "\"report\":{\"given\":0,\"duplicates\":0,\"crossing\":0,\"conflicting\":0},"
        "\"label_rows\":[[0],[0],[%u],[0]],\"label_tokens\":[[0],[0],[%u],[0]],\"blocks\":[%s]]}",
        rows, tokens, json.data);
    require(!index.failed && !json.failed);
    put_index(file, index.data, index.len);
    buf_free(&json);
    buf_free(&index);
}

static void read_all(Shard *shard) {
    const ShardInfo *info = shard_info(shard);
    ShardBlock block = {0};
    Err err = {0};
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) {
        uint64_t tokens = 0, rows = 0;
        bool whole = true;
        for (size_t i = 0; i < shard_blocks(shard, s); i++) {
            const ErrCode rc = shard_read(shard, &block, s, i, (i & 1) == 0, &err);
            require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
            whole = whole && rc == ERR_OK;
            for (size_t k = 0; rc == ERR_OK && k < block.count; k++) {
                const ShardRow *row = &block.rows[k];
                require(row->tokens >= 1 && row->tokens <= shard_longest(shard));
                require(row->label >= 0 && row->label < info->label_count && row->file < info->file_count &&
                        row->source < info->source_count && row->weight > 0);
                for (int t = 0; t < row->tokens; t++)
                    require(row->ids[t] >= 0 && row->ids[t] < info->vocabulary);
                uint64_t sum = 0;
                for (size_t t = 0; row->text && t < row->text_len; t++) sum += (unsigned char)row->text[t];
                require(sum < UINT64_MAX);
                tokens += (uint64_t)row->tokens;
                rows++;
            }
        }
        require(!whole || (tokens == shard_tokens(shard, s) && rows == shard_rows(shard, s)));
    }
    shard_block_free(&block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Buf file = {0};
    if (size && (data[0] == '{' || data[0] == 'B')) {
        buf_puts(&file, "RSHARD1\n");
        if (data[0] == '{')
            put_index(&file, data, size);
        else
            put_block(&file, data + 1, size - 1);
    } else {
        buf_put(&file, data, size);
    }
    require(!file.failed);
    Shard *shard;
    Err err = {0};
    const ErrCode rc = shard_open(&shard, scratch_file(file.data ? file.data : "", file.len), &err);
    require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0] && !shard));
    if (rc == ERR_OK) read_all(shard);
    shard_close(shard);
    buf_free(&file);
    return 0;
}
