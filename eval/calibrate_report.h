/* eval/calibrate_report.h - what `router calibrate` found, as a table for people (100 columns) and as JSON.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}; what cannot be measured is null):
 *   model, precision ("fp32" or "int8")
 *   labels       names in the order of the classes
 *   fit          {method ("none", "temperature", "vector"), temperature: fitted, whether taken or not, folds, seed,
 *                vector_gain, vector_gain_error: nats a row by which the vector beats the temperature on rows held out, or
 *                null}
 *   rule         {temperature, scale, bias: [K] or null, score, threshold: number, [K] or null, fallback: label or null}
 *   policy       {policy, answers: [{label: of per-class thresholds, threshold, n, answered, right, at_least: lower bound
 *                of the precision or null}]} or null
 *   sets         {calibration, test, ood: {name, rows, n: with a label, before, after: {accuracy, nll, brier, ece,
 *                adaptive_ece: intervals} or null, answered: {n, coverage, precision: intervals, cost, cost_always} or
 *                null, scores: {max_probability, margin, entropy, energy: {auroc, fpr95, aurc}}: right against wrong
 *                answers}} or null. Of calibration, after is of rows held out
 *   ood          {against: name of the set it is told from, scores: {max_probability ... distance: {auroc, fpr95, aupr}},
 *                shrinkage} or null */
#ifndef EVAL_CALIBRATE_REPORT_H
#define EVAL_CALIBRATE_REPORT_H

#include "core/buf.h"
#include "eval/calibrate_model.h"

void calibrate_report_json(Buf *out, const CalibrateModel *m);
void calibrate_report_table(Buf *out, const CalibrateModel *m);

/* One line: "temperature 1.31 from 446 rows; ECE 0.0812 -> 0.0301 on rows held out". */
void calibrate_report_line(Buf *out, const CalibrateModel *m);

#endif
