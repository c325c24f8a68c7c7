/* data/overlap.h - which rows of a corpus are also in a benchmark, wholly or in part.
 *
 * A text overlaps when OVERLAP_WORDS consecutive words of it are in a text of the benchmark (the rule of GPT-3's paper, Brown
 * et al. 2020), or when it is a near-duplicate of one (data/dedup.h): short questions have fewer words than that.
 * Memory: about 24 bytes for each word of the benchmarks and 400 for each of their rows. */
#ifndef DATA_OVERLAP_H
#define DATA_OVERLAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/dedup.h"
#include "data/inputs.h"

#define OVERLAP_WORDS 13

typedef struct Overlap Overlap;

/* The first text of the benchmarks that shares something; row OVERLAP_NONE: none. */
#define OVERLAP_NONE UINT32_MAX
typedef struct {
    uint32_t row;
    float similarity; /* of the whole texts, by their signatures */
    bool words;       /* OVERLAP_WORDS consecutive words are shared; else a near-duplicate */
} OverlapHit;

/* Reads the benchmarks (labels are not needed; `text_field` as in RecordRule). A bad line is an error. */
ErrCode overlap_open(Overlap **out, const Inputs *benchmarks, const char *text_field, double threshold,
                     Threads *threads, Progress *progress, Err *err) ERR_CHECKED;
void overlap_close(Overlap *overlap);

/* Any thread; `signature` is that of the text. */
OverlapHit overlap_find(const Overlap *overlap, const char *text, size_t n, const DedupSignature *signature);

uint32_t overlap_rows(const Overlap *overlap);

/* Where a row of the benchmarks is: index of the file, line from 1. */
void overlap_place(const Overlap *overlap, uint32_t row, uint32_t *file, uint64_t *line);

#endif
