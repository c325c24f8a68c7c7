/* eval/folds.h - rows in folds for cross-validation: near-duplicates (data/dedup.h) in the same one, so that no row is judged
 * by what was learnt from its like. */
#ifndef EVAL_FOLDS_H
#define EVAL_FOLDS_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"
#include "data/record.h"

#define FOLDS_MIN  2
#define FOLDS_MAX  20
#define FOLDS_NEAR 0.8 /* similarity of near-duplicates, as data check's */

/* folds (n): 0 .. count - 1, by the seed and the first row of each group. Memory while it runs: about 300 bytes a row.
 * ERR_INTERRUPTED when a stop was requested. */
ErrCode folds_assign(uint8_t *folds, const RowText *texts, size_t n, int count, uint64_t seed,
                     Threads *threads, Err *err) ERR_CHECKED;

#endif
