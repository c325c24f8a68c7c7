/* data/leak.h - words that give a label away: what a classifier could learn instead of the subject.
 *
 * Looked at are single words, pairs of neighbouring words and beginnings (the first 3 and the first 4 words: templates), each
 * counted once a row, in the first LEAK_WORDS words of a text; and, apart from these, each label's own name (its words, one
 * behind the other). For an n-gram and a label:
 *   share     = rows of the label with it / rows of the label
 *   precision = rows of the label with it / rows with it
 *   score     = share * ((precision - prior) / (1 - prior))^2,   prior = rows of the label / all rows
 * An n-gram belongs to the label for which its score is highest.
 *
 * Candidates come from a sample, by lossy counting (Manku, Motwani 2002) in LEAK_TABLE entries; then all rows are
 * counted exactly for these. So memory is bounded, and what is reported is exact; an n-gram in less than about one in a
 * thousand of a label's rows may be missed. */
#ifndef DATA_LEAK_H
#define DATA_LEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "data/names.h"
#include "data/record.h"

#define LEAK_WORDS      512
#define LEAK_TABLE      ((size_t)1 << 20)
#define LEAK_CANDIDATES 16384 /* of all labels together */

typedef enum { LEAK_WORD, LEAK_PAIR, LEAK_START, LEAK_NAME } LeakKind;

typedef struct {
    LeakKind kind;
    int label;
    char *text;              /* lower case, words with one space between; borrowed */
    uint64_t rows_own, rows; /* of the label; of all */
    double share, precision, score;
} LeakGram;

typedef struct Leak Leak;

/* Chooses candidates. labels: names of 0 .. K-1; label_rows (K): rows of each in the whole corpus; the sample may have
 * another mix. `threads`: how many will count. */
ErrCode leak_open(Leak **out, const RowText *texts, const int *text_labels, size_t count, const Names *labels,
                  const uint64_t *label_rows, int threads, Err *err) ERR_CHECKED;
void leak_close(Leak *leak);

/* Counts a row of the corpus; `thread` (below `threads`) counts one row at a time. */
void leak_count(Leak *leak, int label, const char *text, size_t n, int thread);

/* After the last row: totals and order. */
void leak_finish(Leak *leak);

/* The n-grams of a label, best score first, and how many; then the label's own name (rows are 0 where its name has no word;
 * its text is ""). */
const LeakGram *leak_of(const Leak *leak, int label, size_t *count);
LeakGram leak_name(const Leak *leak, int label);

const char *leak_kind_name(LeakKind kind);

#endif
