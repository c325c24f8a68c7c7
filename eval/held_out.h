/* eval/held_out.h - whether rows are among those that a run was trained on: by their texts, byte for byte. Memory: 8 bytes a
 * training row (a hash; two different texts in a corpus of a million share one with a chance of 3e-8). */
#ifndef EVAL_HELD_OUT_H
#define EVAL_HELD_OUT_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "data/record.h"

/* *count: how many of texts[0..n) are in the train split of the shard at `path`; *first: the first of them. */
ErrCode held_out_check(uint64_t *count, size_t *first, const char *path, const RowText *texts, size_t n,
                       Err *err) ERR_CHECKED;

#endif
