/* data/split.h - which of four disjoint sets a prompt belongs to. */
#ifndef DATA_SPLIT_H
#define DATA_SPLIT_H

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

/* The assignment: rows are first counted (add), then assigned (decide). Memory: 17 bytes a row.
 *
 * Rows with equal keys form a group, which has the label of its first row and always shares a side, except
 * for rows whose file names different splits: those keep theirs. A group with a row given to dev, calibration
 * or test takes its other rows there. The rest is stratified by label: of each label's groups those with the
 * smallest hashes (by seed) go to test, the next to calibration, the next to dev, round(share * groups) each,
 * but at least one where a label has 10 groups or more and the share is not 0; one group always stays in
 * train. Groups given to train take part only in the cut of splits that no row of any file names (a file set
 * with train and test but without dev gets its dev from train); rows without a given split take part in all.
 * The result depends on seed, keys and labels, and on the order of rows only where labels conflict. */
typedef struct SplitPlan SplitPlan;

typedef struct {
    double dev, calibration, test; /* shares in [0, 0.5], less than 1 together */
    uint64_t seed;
} SplitRule;

typedef struct {
    uint64_t rows[SPLIT_COUNT];
    uint64_t given;       /* rows whose file named the split */
    uint64_t duplicates;  /* rows whose key occurred before */
    uint64_t crossing;    /* rows with a given split whose key also occurs in another split */
    uint64_t conflicting; /* rows whose key occurred before with another label */
} SplitReport;

ErrCode split_open(SplitPlan **out, const SplitRule *rule, Err *err) ERR_CHECKED;
/* given: SPLIT_COUNT when the row names none. */
ErrCode split_add(SplitPlan *plan, uint64_t key, int label, Split given, Err *err) ERR_CHECKED;
ErrCode split_decide(SplitPlan *plan, Err *err) ERR_CHECKED;
/* Row i in the order of split_add. */
Split split_of(const SplitPlan *plan, uint64_t row);
SplitReport split_report(const SplitPlan *plan);
void split_close(SplitPlan *plan);

#endif
