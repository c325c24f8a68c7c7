/* data/split.h - which of four disjoint sets a prompt belongs to. */
#ifndef DATA_SPLIT_H
#define DATA_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

typedef enum { SPLIT_TRAIN, SPLIT_DEV, SPLIT_CALIBRATION, SPLIT_TEST, SPLIT_COUNT } Split;

const char *split_name(Split split);
/* Split of a name: train; dev, validation, valid, val; calibration, calib; test. SPLIT_COUNT when it is none
 * of them. */
Split split_find(const char *name);

/* Key of a text: equal for texts that differ only in case (ASCII), white space and punctuation (ASCII,
 * no-break space, U+2000..206F, U+3000..3003); of a text that has nothing else, all bytes count. */
uint64_t split_text_key(const char *text, size_t n);

/* Whether it is of no account to that key: white space, punctuation. */
bool split_is_filler(uint32_t cp);

/* The assignment: rows are first counted (add), some of them joined (near-duplicates, rows of one source ...), then
 * assigned (decide). Memory: 21 bytes a row, 25 while it decides.
 *
 * Rows with equal keys and rows that were joined form a group, which always shares a side, except for rows whose file
 * names different splits: those keep theirs, or with `whole` the group goes to the most held out of them (test, then
 * calibration, dev). A group with a row given to dev, calibration or test takes its other rows there. The rest is
 * stratified by label, a group having the label of most of its rows (its first row's, where that ties): of
 * each label's groups those with the smallest hashes (by seed) go to test, the next to calibration, the next to dev,
 * as long as the split has no more than its share of the rows; a group that would exceed that by more than a quarter
 * is passed over, unless it is what comes nearest to the share, or the label has 10 groups or more and the split would
 * stay empty. One group always stays in train. Groups given to train take part only in the cut of splits that no row
 * of any file names (a file set with train and test but without dev gets its dev from train); rows without a given
 * split take part in all. The result depends on seed, keys, labels and what was joined, and on the order of rows only
 * where labels conflict. */
typedef struct SplitPlan SplitPlan;

typedef struct {
    double dev, calibration, test; /* shares in [0, 0.5], less than 1 together */
    uint64_t seed;
    bool whole; /* no group crosses, whatever was given */
} SplitRule;

typedef struct {
    uint64_t rows[SPLIT_COUNT];
    uint64_t given;      /* rows whose file named the split */
    uint64_t duplicates; /* rows whose key occurred before */
    uint64_t joined;     /* other rows of a group that are not its first */
    uint64_t
        crossing; /* rows with a given split of groups that are in another split too; with whole: rows that
                             were taken from the split that they were given */
    uint64_t conflicting; /* rows whose key occurred before with another label */
} SplitReport;

ErrCode split_open(SplitPlan **out, const SplitRule *rule, Err *err) ERR_CHECKED;
/* given: SPLIT_COUNT when the row names none. */
ErrCode split_add(SplitPlan *plan, uint64_t key, int label, Split given, Err *err) ERR_CHECKED;
/* Rows a and b, in the order of split_add, share a group. */
void split_join(SplitPlan *plan, uint64_t a, uint64_t b);
ErrCode split_decide(SplitPlan *plan, Err *err) ERR_CHECKED;
/* Row i in the order of split_add: its split; the first row of its group; whether it was taken from a given split. */
Split split_of(const SplitPlan *plan, uint64_t row);
uint64_t split_group(const SplitPlan *plan, uint64_t row);
bool split_moved(const SplitPlan *plan, uint64_t row);
SplitReport split_report(const SplitPlan *plan);
void split_close(SplitPlan *plan);

#endif
