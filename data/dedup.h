/* data/dedup.h - near-duplicates: MinHash signatures of word shingles, bands of them as keys (LSH), groups by union-find.
 *
 * A text's words (as split_text_key sees them: case, white space and punctuation of no account) give a set of shingles; the
 * similarity of two texts is the Jaccard similarity of their sets, and two signatures agree in about that share of
 * their values (Broder 1997). Rows whose signatures collide in a band are candidates; those whose estimate reaches
 * the threshold are joined. Groups are the connected components; they do not depend on the number of threads. */
#ifndef DATA_DEDUP_H
#define DATA_DEDUP_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"

#define DEDUP_VALUES 64 /* of a signature; the estimate's standard error is at most 1/16 */

typedef struct {
    uint32_t values[DEDUP_VALUES];
    uint64_t key; /* split_text_key of the text: equal keys are exact duplicates */
} DedupSignature;

/* Any thread. Of any bytes; a text of fewer words than a shingle is one shingle of what it has. */
void dedup_signature(DedupSignature *out, const char *text, size_t n);

/* Estimated Jaccard similarity, in [0, 1]; 1 for equal keys. */
double dedup_similarity(const DedupSignature *a, const DedupSignature *b);

typedef struct Dedup Dedup;

/* threshold: similarity from which rows are near-duplicates, in [0.5, 1]; 1: exact duplicates only. */
ErrCode dedup_open(Dedup **out, double threshold, Err *err) ERR_CHECKED;

/* Row 0, 1, ... (fewer than 2^32). */
ErrCode dedup_add(Dedup *dedup, const DedupSignature *signature, Err *err) ERR_CHECKED;

/* Makes the groups of all rows added so far. ERR_INTERRUPTED when a stop was requested. */
ErrCode dedup_group(Dedup *dedup, Threads *threads, Err *err) ERR_CHECKED;

/* The first (smallest) row of a row's group; after dedup_group. */
uint32_t dedup_first(const Dedup *dedup, uint32_t row);
const DedupSignature *dedup_at(const Dedup *dedup, uint32_t row);
uint32_t dedup_rows(const Dedup *dedup);
void dedup_close(Dedup *dedup);

#endif
