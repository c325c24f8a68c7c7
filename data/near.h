/* data/near.h - an index of texts that answers, one text at a time, whether one like it is already there: the near-duplicates
 * of data/dedup.h for rows that keep arriving. Memory: about 900 bytes a text. */
#ifndef DATA_NEAR_H
#define DATA_NEAR_H

#include <stdint.h>

#include "core/err.h"
#include "data/dedup.h"

#define NEAR_NONE UINT32_MAX

typedef struct Near Near;

/* threshold: as for dedup_open. */
ErrCode near_open(Near **out, double threshold, Err *err) ERR_CHECKED;
void near_close(Near *near);

/* The first text of those added whose similarity reaches the threshold, as far as bands find it (dedup_group says how
 * far), or NEAR_NONE. Exact duplicates are always found. */
uint32_t near_find(const Near *near, const DedupSignature *signature);

/* Text 0, 1, ... */
ErrCode near_add(Near *near, const DedupSignature *signature, Err *err) ERR_CHECKED;
uint32_t near_count(const Near *near);

#endif
