/* eval/report.h - what `router eval` found, as a table for people (100 columns) and as JSON.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}):
 *   set        name of the evaluated rows
 *   model      path given;  n rows;  skipped: rows whose label was not known
 *   labels     names in the order of the classes
 *   accuracy, macro_f1, macro_recall, nll, brier, ece      intervals; see eval/metrics.h
 *   classes    [{label, support, predicted, precision, recall (intervals), f1}]
 *   confusion  [[rows of label i predicted as j]]
 *   truncated  rows cut at the model's maximum length
 *   sources    [{name, n, accuracy (interval), macro_recall}] of the rows that name one
 *   baselines  {majority: {...}, ngram: {...}} or null; each {train_n, accuracy, macro_f1, macro_recall, nll,
 *              brier, ece (intervals), classes: [{label, f1, recall: value}]}, majority also {label}
 * The bytes are a function of the model, the data and the options. */
#ifndef EVAL_REPORT_H
#define EVAL_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/buf.h"
#include "eval/metrics.h"

typedef struct {
    const char *name;
    Metrics metrics;
    double ngram_accuracy; /* of the baseline on the same rows; negative: none */
} ReportSource;

typedef struct {
    const char *set, *model;
    const char *const *labels;
    uint64_t skipped, truncated, train_n;
    Metrics router, majority, ngram; /* baselines: n = 0 without */
    int majority_label;
    ReportSource *sources;
    size_t source_count;
} Report;

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
