/* eval/report.h - what `router eval` found, as a table for people (100 columns) and as JSON.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}):
 *   set        name of the evaluated rows
 *   model      path given;  n rows;  skipped: rows whose label was not known
 *   labels     names in the order of the classes
 *   accuracy, macro_f1, macro_recall, nll, brier, ece, adaptive_ece
 *              intervals; see eval/metrics.h
 *   classes    [{label, support, predicted, precision, recall (intervals), f1}]
 *   confusion  [[rows of label i predicted as j]]
 *   truncated  rows cut at the model's maximum length
 *   sources    [{name, n, accuracy (interval), macro_recall, ngram_accuracy}] of the rows that name one
 *   baselines  {majority: {...}, ngram: {...}} or null; each {train_n, accuracy, macro_f1, macro_recall, nll,
 *              brier, ece, adaptive_ece (intervals), classes: [{label, f1, recall: value}]}, majority also {label}
 *   constant   {label, accuracy (interval)}: the best that one answer to everything does on these very rows
 *   context    [{what, source, accuracy (interval; without n its ends are null), n or null}]: figures of others, from
 *              "_context" of the label map
 *   calibration  what the router's own rule changes: {temperature, vector, before: {accuracy .. adaptive_ece (intervals),
 *              reliability}}, or null where it is a plain softmax
 *   reliability, risk_coverage   see eval/curves.h
 *   decision   {score, fallback (label or null), n, answered, coverage, precision (intervals)}, or null: always answers
 *   slices     [one of eval/slices.h for each --slice]
 *   robust     see eval/robust.h, or null
 *   suspects   {file, set: name of the rows, folds: of the cross-validation, or null: the router's own answers,
 *              judged, suspects, confident, trained: how many of the rows the router was trained on, held_out: none of
 *              them; both null where it is not known}: see data/suspects.h; or null
 *   provenance see eval/provenance.h
 * The bytes are a function of the model, the data and the options. */
#ifndef EVAL_REPORT_H
#define EVAL_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "core/buf.h"
#include "eval/curves.h"
#include "eval/listing.h"
#include "eval/metrics.h"
#include "eval/policy.h"
#include "eval/robust.h"
#include "eval/slices.h"
#include "export/decide.h"

typedef struct {
    const char *set, *model;
    const char *const *labels;
    uint64_t skipped, truncated, train_n;
    Metrics router, majority, ngram; /* baselines: n = 0 without */
    Metrics uncalibrated;            /* n = 0: the rule is a plain softmax */
    int majority_label;
    const DecideRule *rule; /* borrowed; NULL: a plain softmax that always answers */
    PolicyOutcome outcome;  /* where it may abstain */
    CurvesReliability reliability, reliability_before;
    CurvesRisk risk;
    Slices sources; /* count 0: no row names one */
    Slices *slices; /* (slice_count) */
    size_t slice_count;
    Robust robust;             /* rows 0: not asked for */
    ListingSuspects suspects;  /* judged 0: not asked for, or no label has rows enough */
    const char *suspects_path; /* NULL: not asked for */
    const char *suspects_set;  /* the rows among which suspects were looked for */
    int folds;        /* 0: they are doubted by the router's own answers; else by heads fitted anew */
    uint64_t trained; /* of these rows, those that the router was trained on */
    enum { REPORT_UNKNOWN, REPORT_TRAINED, REPORT_HELD_OUT } held_out; /* whether there are such */
    const cJSON *context;                                              /* an array, borrowed, or NULL */
    const cJSON *provenance;                                           /* borrowed, or NULL */
} Report;

/* The label that one answer to everything would best be. */
int report_constant(const Report *report);
bool report_may_abstain(const Report *report);

/* A figure of others: {"what": ..., "source": ..., "accuracy": 0 to 1, "n": rows, if known}. The check is of a file's array,
 * NULL included; ERR_FORMAT names the entry. */
typedef struct {
    const char *what, *source; /* borrowed */
    Interval accuracy;         /* Wilson's where n is known, else the value alone */
    uint64_t n;
} ReportContext;
ErrCode report_context_check(const cJSON *context, Err *err) ERR_CHECKED;
void report_context(ReportContext *out, const cJSON *item); /* of a checked array */

void report_json(Buf *out, const Report *report);
void report_table(Buf *out, const Report *report);

/* For verify: the exported model against a checkpoint. */
typedef struct {
    const char *set, *model, *against;
    const char *const *labels;
    Metrics first, second; /* of the model, of what it is compared with */
    MetricsDrop drop;
    double max_drop, max_class_drop; /* gates; 1 and more: none */
    bool passed;
} ReportDrop;

void report_drop_json(Buf *out, const ReportDrop *report);
void report_drop_table(Buf *out, const ReportDrop *report);

/* Frees the metrics; the strings are borrowed. */
void report_free(Report *report);
void report_drop_free(ReportDrop *report);

#endif
