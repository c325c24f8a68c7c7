/* data/batch.h - rows of a shard's split in training order, or in file order for evaluation.
 *
 * Training order, a function of (seed, epoch) and the shard alone: blocks are shuffled; a window of
 * BATCH_WINDOW_ROWS rows (fewer where they are long) is filled from them (a row occurs floor(weight) times,
 * and once more with probability of the fraction, decided by hash); the window's rows are shuffled, then
 * sorted by length inside groups of 16 batches, cut into batches of batch_rows and these shuffled: batches of
 * even length, without an order that the model could learn. Rows left over at the end of a window go on to
 * the next; only the epoch's last batch may be smaller. With `ordered`, batches are consecutive rows of the
 * file; within each, rows are in order of ascending length too: Batch.number tells which is which. A Batch is
 * cut into micro-batches of at most max_tokens tokens (a longer single row is one by itself) by batch_micro.
 * A Batch is borrowed: valid until the next batch_next, batch_seek or batch_close. */
#ifndef DATA_BATCH_H
#define DATA_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "data/shard.h"
#include "model/packed.h"

#define BATCH_ROWS_MAX      65536
#define BATCH_WINDOW_ROWS   262144    /* or 4 batches, if those are more */
#define BATCH_WINDOW_TOKENS (1 << 25) /* or 2 batches of the longest rows, if those are more */

typedef struct {
    Packed packed;          /* all rows, in order of ascending length; packed.seq is NULL */
    const int32_t *label;   /* (S) */
    const ShardRow *rows;   /* (S) */
    const uint64_t *number; /* (S) row numbers within the split */
} Batch;

typedef struct Batcher Batcher;

typedef struct {
    Split split;
    int batch_rows; /* 1 to BATCH_ROWS_MAX */
    bool ordered;   /* file order, no weights: evaluation */
    bool with_text;
    uint64_t seed;
    /* With ordered: so many rows, one at random of each of as many equal stretches of the split, so that files that lie one
     * label behind the other give each label its part. 0: all. */
    uint64_t sample;
} BatchRule;

/* Ready at the beginning of epoch 0. The shard is borrowed and must outlive the Batcher. All memory is taken
 * here, except for what blocks (see shard.h) and, with_text, texts need. */
ErrCode batch_open(Batcher **out, Shard *shard, const BatchRule *rule, Err *err) ERR_CHECKED;
void batch_close(Batcher *b);

/* Batches in one epoch (weights counted exactly: this reads the split once). Where batch_next is does not
 * change. */
ErrCode batch_count(Batcher *b, uint64_t epoch, uint64_t *count, Err *err) ERR_CHECKED;

/* Goes to batch `skip` of `epoch`: batch_next then returns what an uninterrupted run would. */
ErrCode batch_seek(Batcher *b, uint64_t epoch, uint64_t skip, Err *err) ERR_CHECKED;

/* Next batch of the epoch; packed.S is 0 at its end. Allocates only while blocks and texts grow to their
 * largest size. After an error only batch_seek and batch_close are allowed. */
ErrCode batch_next(Batcher *b, Batch *out, Err *err) ERR_CHECKED;

/* Micro-batch of `batch` beginning with row `from`: views into it, with packed.seq set; *next is the row
 * behind it. The start array is the Batcher's. */
void batch_micro(Batcher *b, const Batch *batch, int from, int max_tokens, Packed *out, int *next);

#endif
