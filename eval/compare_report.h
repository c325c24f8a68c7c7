/* eval/compare_report.h - what `router compare` found: as a table for people, as JSON, and as a page to send.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}; differences are B minus A):
 *   set, n, skipped
 *   a, b          {path, kind, bytes (null: predictions), labels (their number), accuracy, macro_f1, macro_recall, nll,
 *                 brier, ece (intervals), truncated (null: not known), ms_per_prompt (null: not measured)}
 *   labels        {shared, all: [names], only_a: [names], only_b: [names]}
 *   difference    {accuracy, macro_f1, macro_recall, nll, brier, ece}: intervals
 *   mcnemar       {both, only_a, only_b, neither, exact_p, mid_p, chi2, chi2_p}
 *   classes       [{label, support, recall_a, recall_b, precision_a, precision_b, f1_a, f1_b,
 *                 recall, precision, f1: intervals of the difference}]
 *   flips         {count, rate, fixed, broken, other, shown: [as in the file of flips]}
 *   size_ratio, time_ratio   B over A, or null
 *   rules         null or {passed, rules: [{rule, label, measured, limit, unit, passed}]}
 *
 * A file of flips is JSONL, surest first: {"id", "kind": "fixed|broken|other", "label", "a": {"label", "score"},
 * "b": {...}, "text"}. */
#ifndef EVAL_COMPARE_REPORT_H
#define EVAL_COMPARE_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "eval/compare.h"
#include "eval/rowset.h"
#include "eval/rules.h"

typedef struct {
    const char *path, *kind;
    int labels;
    uint64_t bytes;    /* 0: not known */
    int64_t truncated; /* -1: not known */
    double seconds;    /* for a prompt; NAN: not measured */
} CompareSide;

typedef struct {
    CompareSide a, b;
    const CompareLabels *labels;
    const Rowset *set;
    const Compare *compare;
    const Rules *rules; /* NULL: none */
    RulesFacts facts;
    size_t timed_rows; /* of a group that was timed */
    int threads;
    size_t flips; /* to show */
} CompareReport;

void compare_report_table(Buf *out, const CompareReport *report);
void compare_report_json(Buf *out, const CompareReport *report);
void compare_report_html(Buf *out, const CompareReport *report);

/* One line of a file of flips. */
void compare_report_flip(Buf *out, const CompareReport *report, size_t i);

#endif
