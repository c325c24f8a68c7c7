#include "eval/curves.h"

#include <math.h>

#include "core/mem.h"

void curves_reliability(CurvesReliability *out, const double *p, const int *labels, size_t n, int K) {
    *out = (CurvesReliability){0};
    for (size_t i = 0; i < n; i++) {
        const double *row = p + i * (size_t)K;
        const int best = metrics_best(row, K);
        CurvesBin *bin = &out->bins[metrics_bin(row[best])];
        bin->n++;
        bin->correct += best == labels[i];
        bin->confidence += row[best];
    }
    for (int b = 0; b < METRICS_BINS; b++)
        if (out->bins[b].n) out->bins[b].confidence /= (double)out->bins[b].n;
}

void curves_reliability_json(Buf *out, const CurvesReliability *r) {
    buf_puts(out, "[");
    for (int b = 0; b < METRICS_BINS; b++) {
        const CurvesBin *bin = &r->bins[b];
        buf_printf(out, "%s\n    {\"low\": %.10g, \"high\": %.10g, \"n\": %llu, ", b ? "," : "",
                   (double)b / METRICS_BINS, (double)(b + 1) / METRICS_BINS, (unsigned long long)bin->n);
        if (bin->n) {
            const Interval accuracy = metrics_wilson(bin->correct, bin->n);
            buf_printf(out, "\"confidence\": %.10g, ", bin->confidence);
            metrics_put_json(out, "accuracy", &accuracy);
            buf_puts(out, "}");
        } else {
            buf_puts(out, "\"confidence\": null, \"accuracy\": null}");
        }
    }
    buf_puts(out, "\n  ]");
}

/* Of many points those nearest behind each hundredth of the rows, and the last. */
ErrCode curves_risk(CurvesRisk *out, const char *name, const double *score, const bool *right, size_t n,
                    Err *err) {
    *out = (CurvesRisk){.score = name};
    ScoresPoint *points;
    size_t count;
    TRY(scores_compute(&out->scores, score, right, n, err));
    TRY(scores_curve(&points, &count, score, right, n, err));
    for (size_t i = 0; i < count; i++) {
        const size_t step = points[i].answered * CURVES_POINTS / n;
        const size_t before = i ? points[i - 1].answered * CURVES_POINTS / n : 0;
        if (step == before && i + 1 < count) continue;
        if (out->count == CURVES_POINTS) out->count--; /* only where the last point shares a hundredth */
        out->points[out->count++] =
            (CurvesPoint){.threshold = points[i].threshold,
                          .coverage = (double)points[i].answered / (double)n,
                          .risk = (double)points[i].wrong / (double)points[i].answered};
    }
    mem_free(points);
    return ERR_OK;
}

static void put_number(Buf *out, const char *key, double value) {
    buf_printf(out, ", \"%s\": ", key);
    if (isfinite(value))
        buf_printf(out, "%.10g", value);
    else
        buf_puts(out, "null");
}

void curves_risk_json(Buf *out, const CurvesRisk *r) {
    buf_printf(out, "{\"score\": \"%s\"", r->score);
    put_number(out, "auroc", r->scores.auroc);
    put_number(out, "fpr95", r->scores.fpr95);
    put_number(out, "aurc", r->scores.aurc);
    buf_puts(out, ", \"points\": [");
    for (size_t i = 0; i < r->count; i++) {
        const CurvesPoint *p = &r->points[i];
        buf_printf(out, "%s\n    {\"threshold\": %.10g, \"coverage\": %.10g, \"risk\": %.10g}", i ? "," : "",
                   p->threshold, p->coverage, p->risk);
    }
    buf_puts(out, r->count ? "\n  ]}" : "]}");
}
