#include "eval/held_out.h"

#include <stdbool.h>
#include <stdlib.h>

#include "core/mem.h"
#include "core/rng.h"
#include "data/shard.h"

static uint64_t hash(const char *text, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * 0x100000001b3ULL;
    return rng_mix(h);
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static ErrCode read_hashes(uint64_t *hashes, Shard *shard, Err *err) {
    ShardBlock block = {0};
    size_t at = 0;
    const size_t blocks = shard_blocks(shard, SPLIT_TRAIN);
    ErrCode rc = ERR_OK;
    for (size_t b = 0; rc == ERR_OK && b < blocks; b++) {
        rc = shard_read(shard, &block, SPLIT_TRAIN, b, true, err);
        for (size_t i = 0; rc == ERR_OK && i < block.count; i++)
            hashes[at++] = hash(block.rows[i].text, block.rows[i].text_len);
    }
    shard_block_free(&block);
    return rc;
}

ErrCode held_out_check(uint64_t *count, size_t *first, const char *path, const RowText *texts, size_t n,
                       Err *err) {
    Shard *shard;
    uint64_t *hashes = NULL;
    *count = 0;
    *first = 0;
    TRY(shard_open(&shard, path, err));
    const size_t rows = (size_t)shard_rows(shard, SPLIT_TRAIN);
    ErrCode rc = mem_new(&hashes, rows + 1, sizeof *hashes, "the training rows", err);
    if (rc == ERR_OK) rc = read_hashes(hashes, shard, err);
    if (rc == ERR_OK) {
        qsort(hashes, rows, sizeof *hashes, ascending);
        for (size_t i = 0; i < n; i++) {
            const uint64_t key = hash(texts[i].text, texts[i].n);
            if (!bsearch(&key, hashes, rows, sizeof *hashes, ascending)) continue;
            if ((*count)++ == 0) *first = i;
        }
    }
    mem_free(hashes);
    shard_close(shard);
    return rc;
}
