/* eval/add_report.h - what a grown router forgot and learnt: the parent and the child on the same rows.
 *
 * Old rows are those with a label of the parent's, new ones those with an added label. The parent never says an added label,
 * so that new rows tell about the child alone.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}; differences are child minus parent; what was not measured is
 * null):
 *   parent, child  {path, revision, labels: their number, bytes: of the model, ms_per_prompt}
 *   labels         [{label, id, added, retired, was: the parent's name where it is another}]
 *   step0          {rows, same: of the parent's decisions, logit_difference: the largest of an old label}: before training
 *   rows           {train: {old, new, relabelled, pseudo, left_out, replaced}, steps, seconds: of preparing and training, null
 *                 where the run was resumed}
 *   sets           [one for the test split, and one for --held-out:
 *     {set, old: null or {n, accuracy: {before, after, difference: intervals}, macro_f1: likewise, flips: {count, rate,
 *         fixed, broken, other}, mcnemar_p: mid-p,
 *         classes: [{label, n, recall, f1: {before, after}, difference: interval of the F1, lost: to added labels}],
 *         moved: [[answers: before, after]], shown: [{id, label, before, after, p_before, p_after, text}]},
 *      new: null or {n, classes: [{label, n, precision, recall: intervals, f1}], took: old rows answered with it},
 *      values: null or [{value: of --map-field, label, n, before, after: shares right, to_new}]}]
 *   calibration    as router calibrate, or null
 *   gate           null or {max_regression, regression: points, passed} */
#ifndef EVAL_ADD_REPORT_H
#define EVAL_ADD_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/threads.h"
#include "eval/calibrate_model.h"
#include "eval/compare.h"
#include "eval/predict.h"
#include "eval/rowset.h"

typedef struct {
    uint64_t n, right_before, right_after, to_new;
    int label;
} AddValue;

/* One set of rows, with what both answered. Zeroed: none, valid to free. */
typedef struct {
    Rowset rows;
    double *before, *after; /* (n, K) of the child's labels */
    size_t *old;            /* (old_count) their rows */
    size_t old_count;
    Compare compare;  /* of the old rows */
    Metrics all;      /* of the child on all rows */
    uint64_t *moved;  /* (old labels, K): before, after; of old rows */
    uint64_t *lost;   /* (old labels): old rows answered with an added label */
    AddValue *values; /* of member 0, or NULL */
} AddSet;

enum { ADD_TEST, ADD_HELD_OUT, ADD_SETS };

typedef struct {
    const char *parent, *child;             /* paths */
    const char *const *labels, *const *was; /* (K) of the child; (old) of the parent */
    const bool *retired;                    /* (K) */
    int K, old, revision;
    uint64_t parent_bytes, child_bytes;
    double parent_seconds, child_seconds; /* a prompt */
    uint64_t step0_rows, step0_same;
    double step0_difference;
    uint64_t train_old, train_new, relabelled, pseudo;
    uint64_t left_out, replaced; /* rows of retired labels; old ones that --data has too */
    int64_t steps;
    double seconds; /* 0: the run was resumed */
    AddSet sets[ADD_SETS];
    const CalibrateModel *calibration; /* NULL: none */
    double max_regression;             /* points; below 0: no gate */
    size_t flips;                      /* to show */
} AddReport;

/* Both answers to the rows of a set, in turn, and all that is made of them. */
ErrCode add_report_measure(AddReport *report, AddSet *set, Predictor *parent, Predictor *child, uint64_t seed,
                           Threads *threads, Err *err) ERR_CHECKED;
void add_report_free(AddReport *report);

/* Points of accuracy that old test rows lost; below 0: they gained. */
double add_report_regression(const AddReport *report);
bool add_report_passed(const AddReport *report);

void add_report_json(Buf *out, const AddReport *report);
void add_report_table(Buf *out, const AddReport *report);
void add_report_html(Buf *out, const AddReport *report);

#endif
