/* data/dedup.h - near-duplicates: MinHash signatures of word shingles, bands of them as keys (LSH), groups by union-find.
 *
 * A text's words (as split_text_key sees them: case, white space and punctuation of no account; where a script puts no
 * spaces between words, each character is one) give a set of shingles, DEDUP_SHINGLE words in a row each. The
 * similarity of two texts is the Jaccard similarity of their sets, and two signatures agree in about that share of their
 * values (Broder 1997). A signature has many values of one byte rather than few of four (Li, Koenig 2010): for the same
 * memory its error is half as large, and error is what joins the rows of a template that differ in their subject.
 * Rows whose signatures collide in a band are candidates; those whose estimate reaches the threshold are joined. Groups
 * are the connected components; they depend on texts and threshold alone, neither on the order of the rows nor on the number of threads. */
#ifndef DATA_DEDUP_H
#define DATA_DEDUP_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"

#define DEDUP_SHINGLE 2 /* words: a prompt has ten or twenty, and one that differs touches as many shingles */
#define DEDUP_VALUES  256 /* of a signature; the estimate's standard error is at most 1/32 */

typedef struct {
    uint64_t key; /* split_text_key of the text: equal keys are exact duplicates */
    uint8_t values[DEDUP_VALUES];
} DedupSignature;

/* Any thread. Of any bytes; a text of fewer words than a shingle is one shingle of what it has. */
void dedup_signature(DedupSignature *out, const char *text, size_t n);

/* Estimated Jaccard similarity, in [0, 1]; 1 for equal keys. */
double dedup_similarity(const DedupSignature *a, const DedupSignature *b);

typedef struct Dedup Dedup;

/* threshold: similarity from which rows are near-duplicates, in [0.5, 1]; 1: exact duplicates only. */
ErrCode dedup_open(Dedup **out, double threshold, Err *err) ERR_CHECKED;

/* Row 0, 1, ... (fewer than 2^32). Memory: sizeof(DedupSignature) bytes a row. */
ErrCode dedup_add(Dedup *dedup, const DedupSignature *signature, Err *err) ERR_CHECKED;

/* Makes the groups of all rows added; once. Exact duplicates are always joined. Of the pairs whose estimate is just the
 * threshold about 95 in 100 become candidates, of those 0.1 above it practically all. Of rows that share a band with
 * very many others (a template) each is compared with a bounded number of its likeliest neighbours, so that the work is
 * at most proportional to the rows. Memory while it runs: 8 bytes a row, and 20 for each thread (8 of them at most).
 * ERR_INTERRUPTED when a stop was requested. */
ErrCode dedup_group(Dedup *dedup, Threads *threads, Err *err) ERR_CHECKED;

/* The first (smallest) row of a row's group; after dedup_group. */
uint32_t dedup_first(const Dedup *dedup, uint32_t row);
const DedupSignature *dedup_at(const Dedup *dedup, uint32_t row);
uint32_t dedup_rows(const Dedup *dedup);

/* How many pairs of signatures dedup_group compared. */
uint64_t dedup_compared(const Dedup *dedup);
void dedup_close(Dedup *dedup);

#endif
