/* eval/slices.h - the same answers by groups of rows: by source, by subject, by length, by script.
 *
 * A slicing puts each row in one of several named groups, or in none. Of a group:
 *   accuracy       share of its rows whose prediction is the label, with Wilson's interval
 *   macro_recall   mean of recall over the classes that occur in it as label
 *   confidence     mean of the highest probability: far above the accuracy, it is sure of what is wrong
 *   labels, answers  rows with each label; rows that were answered so
 * and over the groups that have rows, mean_accuracy: their unweighted mean (of MMLU's subjects, macro accuracy).
 * The worst groups are those with the lowest upper end of the interval, so that a group of two rows that are both
 * wrong does not come before one of a hundred.
 *
 * JSON of one slicing, keys stable:
 *   {key, groups: n, without: rows in no group, mean_accuracy, ngram_mean_accuracy, worst: [names],
 *    rows: [{name, n, accuracy (interval), macro_recall, confidence, ngram_accuracy, labels: {name: n}, answers: {name: n}}]}
 * ngram_accuracy only with a baseline; counts of 0 are left out. */
#ifndef EVAL_SLICES_H
#define EVAL_SLICES_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "data/record.h"
#include "eval/metrics.h"

#define SLICES_WORST 5

typedef struct {
    const char *name; /* borrowed */
    uint64_t n, correct, baseline_correct;
    Interval accuracy;
    double macro_recall, confidence;
    uint64_t *labels, *answers; /* (K) */
} SlicesGroup;

/* Zeroed: empty, valid to free. */
typedef struct {
    const char *key; /* borrowed */
    int K;
    SlicesGroup *groups; /* those with rows, in the order of the names */
    size_t count;
    uint64_t without;
    double mean_accuracy, baseline_mean; /* baseline_mean < 0: no baseline */
    uint64_t *counts;                    /* what the groups point to */
} Slices;

/* What is sliced. */
typedef struct {
    const double *p, *baseline; /* (n, K); baseline may be NULL */
    const int *labels;          /* (n) */
    size_t n;
    int K;
} SlicesRows;

/* group (n): index into names, or -1. */
ErrCode slices_compute(Slices *out, const char *key, const char *const *names, size_t name_count,
                       const int *group, const SlicesRows *rows, Err *err) ERR_CHECKED;
void slices_free(Slices *slices);

/* Indices of the worst groups, the worst first, at most SLICES_WORST; their number. */
size_t slices_worst(size_t worst[SLICES_WORST], const Slices *slices);

/* ---- groups that are computed ---- */

#define SLICES_LENGTHS 8
extern const char *const SLICES_TOKENS[SLICES_LENGTHS];     /* "1-16", "17-32", ... */
extern const char *const SLICES_CHARACTERS[SLICES_LENGTHS]; /* "1-32", "33-64", ... */
int slices_tokens(int tokens);
int slices_characters(RowText text);

/* ---- output ---- */

void slices_json(Buf *out, const Slices *slices, const char *const *labels);

/* Up to `most` groups (0: all) in at most 100 columns, then the worst and where their rows go. */
void slices_table(Buf *out, const Slices *slices, const char *const *labels, size_t most);

#endif
