/* tests/whole_shard.h - a shard read to its end: every block of it, or every batch of an epoch. */
#ifndef TESTS_WHOLE_SHARD_H
#define TESTS_WHOLE_SHARD_H

#include "data/batch.h"
#include "data/shard.h"
#include "tests/unit.h"

/* Reads everything; the first error, or ERR_OK. */
static inline ErrCode read_whole(const char *path, Err *err) {
    Shard *s;
    TRY(shard_open(&s, path, err));
    ShardBlock block = {0};
    ErrCode rc = ERR_OK;
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++)
        for (size_t k = 0; k < shard_blocks(s, split) && rc == ERR_OK; k++)
            rc = shard_read(s, &block, split, k, true, err);
    shard_block_free(&block);
    shard_close(s);
    return rc;
}

typedef struct {
    uint64_t rows, batches;
    uint64_t *number; /* in the order in which they came */
    size_t *size;     /* of each batch */
} Epoch;

/* Batches from number `skip`, each shown to check where that is not NULL. Free with epoch_free. */
static inline Epoch read_epoch(Batcher *b, uint64_t epoch, uint64_t skip,
                               void (*check)(Batcher *b, const Batch *batch)) {
    Err err = {0};
    Epoch e = {0};
    uint64_t batches;
    ok(batch_count(b, epoch, &batches, &err), &err);
    ok(batch_seek(b, epoch, skip, &err), &err);
    e.number = malloc(4000000 * sizeof *e.number);
    e.size = malloc((batches + 1) * sizeof *e.size);
    assert_true(e.number && e.size);
    for (;;) {
        Batch batch;
        ok(batch_next(b, &batch, &err), &err);
        if (batch.packed.S == 0) break;
        if (check) check(b, &batch);
        assert_true(e.batches + skip < batches);
        e.size[e.batches++] = (size_t)batch.packed.S;
        for (int i = 0; i < batch.packed.S; i++) e.number[e.rows++] = batch.number[i];
    }
    assert_int_equal(e.batches + skip, skip < batches ? batches : skip + e.batches);
    return e;
}

static inline void epoch_free(Epoch *e) {
    free(e->number);
    free(e->size);
}

#endif
