/* eval/curves.h - the two curves behind single numbers: reliability (ECE is its area between curve and diagonal, weighted by
 * rows) and risk against coverage (AURC is the area under it).
 *
 * JSON, keys stable:
 *   reliability    [{low, high, n, confidence, accuracy (interval)}] of the METRICS_BINS bins; confidence and accuracy are
 *                  null where n is 0
 *   risk_coverage  {score, auroc, fpr95, aurc (null where all answers are right, or all wrong: aurc is always there),
 *                  points: [{threshold, coverage, risk}]}, by rising coverage, at most CURVES_POINTS */
#ifndef EVAL_CURVES_H
#define EVAL_CURVES_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "eval/metrics.h"
#include "eval/scores.h"

#define CURVES_POINTS 100

/* Of one bin of the highest probability, right-closed as those of ECE (eval/metrics.h). */
typedef struct {
    uint64_t n, correct;
    double confidence; /* mean */
} CurvesBin;

typedef struct {
    CurvesBin bins[METRICS_BINS];
} CurvesReliability;

/* p (n, K), labels (n). */
void curves_reliability(CurvesReliability *out, const double *p, const int *labels, size_t n, int K);
void curves_reliability_json(Buf *out, const CurvesReliability *reliability);

typedef struct {
    double threshold, coverage,
        risk; /* rows with at least this score, as a share; the share of them that is wrong */
} CurvesPoint;

typedef struct {
    const char *score; /* borrowed */
    Scores scores;
    CurvesPoint points[CURVES_POINTS];
    size_t count;
} CurvesRisk;

/* score (n): the higher, the surer; right (n). */
ErrCode curves_risk(CurvesRisk *out, const char *name, const double *score, const bool *right, size_t n,
                    Err *err) ERR_CHECKED;
void curves_risk_json(Buf *out, const CurvesRisk *risk);

#endif
