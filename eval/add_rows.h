/* eval/add_rows.h - the rows that a domain is added with: new ones, and old ones that keep the router from forgetting.
 *
 * Old rows keep the split that they had when the parent was trained. All of its calibration and test rows come along, some
 * ADD_ROWS_DEV of its dev rows, and a sample of its train rows (the replay), in which labels stand by the square root of their
 * number, so that a large one does not drown the others. New rows are divided as `router data split` does: near-duplicates, of
 * old rows too, stay on one side; those that are said to be train rows too, for splits that no new row names. An old train row
 * that is among the new ones, but for case, space and punctuation, is left out: what the new file says of it counts. Rows of
 * retired labels are left out.
 *
 * A row's weight says how often an epoch shows it (data/record.h): new train rows make up new_share of what is seen,
 * each new label an equal part of that, but none is seen more than ADD_ROWS_VISITS times.
 *
 * Memory: the texts, and 100 bytes a row. */
#ifndef EVAL_ADD_ROWS_H
#define EVAL_ADD_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/threads.h"
#include "data/split.h"
#include "eval/predict.h"
#include "eval/rows.h"

#define ADD_ROWS_VISITS    20
#define ADD_ROWS_STEPS_MAX 1000
#define ADD_ROWS_SHARE_MIN 0.1 /* for each new label */
#define ADD_ROWS_SHARE_MAX 0.5
#define ADD_ROWS_DEV       2000

typedef struct {
    const FlagList *data, *replay; /* JSONL; replay empty: the parent's shard */
    RecordRule record;
    const char *const *labels; /* (K): the child's; the first `old` are the parent's ids */
    const bool *active;        /* (K) */
    int K, old;
    Predictor *parent; /* labels rows of `replay` that have none */
    int64_t batch;
    int64_t steps; /* 0: as many as show each new row ADD_ROWS_VISITS times, but ADD_ROWS_STEPS_MAX at most */
    int64_t replay_rows; /* 0: as many as the steps show */
    double new_share;    /* in (0, 1); 0: as large as they are among all train rows, within the two limits */
    double near;         /* as for dedup_open */
    SplitRule split;     /* of new rows, and of replay rows that name none */
    const char *folder;  /* for temporary files */
    Threads *threads;
} AddRowsRule;

/* Zeroed: empty, valid to free. Arrays are (count). */
typedef struct {
    Rows rows;
    RowText *texts;
    int *labels;
    int *was;  /* label before relabelling, or -1: as it was */
    bool *new; /* from --data */
    Split *split;
    double *weight;
    size_t count;
    int64_t steps;
    double new_share;   /* of what is seen, as far as ADD_ROWS_VISITS allow */
    uint64_t old_train; /* old train rows before the replay was drawn from them */
    uint64_t pseudo;    /* old rows that the parent labelled */
    uint64_t retired,
        replaced; /* left out: of retired labels; old train rows that --data has too, with a label of its own */
} AddRows;

/* Errors name file and line: a row without a label where several are added, or with one that nobody knows. ERR_ARGUMENT: a
 * new label has fewer than ADD_ROWS_MIN train rows; there are no old rows. */
#define ADD_ROWS_MIN 10
ErrCode add_rows_gather(AddRows *out, const AddRowsRule *rule, Err *err) ERR_CHECKED;
void add_rows_free(AddRows *rows);

/* Weights of the train rows, from the labels as they are now; those of old rows from what is replayed. */
void add_rows_weigh(AddRows *rows, const AddRowsRule *rule);

/* One JSONL(.zst): text, label, split, source, sample_weight, id, "origin": "old" or "new", and "was" of rows that were
 * relabelled. */
ErrCode add_rows_save(const AddRows *rows, const char *const *labels, const char *path, Err *err) ERR_CHECKED;

#endif
