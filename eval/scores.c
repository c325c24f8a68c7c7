#include "eval/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"

typedef struct {
    double score;
    bool good;
} Row;

static int falling(const void *a, const void *b) {
    const double x = ((const Row *)a)->score, y = ((const Row *)b)->score;
    return (x < y) - (x > y);
}

static ErrCode sorted_rows(Row **out, const double *score, const bool *good, size_t n, Err *err) {
    if (n == 0) return err_set(err, ERR_ARGUMENT, "no rows with scores");
    TRY(mem_new(out, n, sizeof **out, "the scores", err));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(score[i])) {
            mem_free(*out);
            *out = NULL;
            return err_set(err, ERR_NUMERIC, "the score of row %zu is %g, expected a finite number", i,
                           score[i]);
        }
        (*out)[i] = (Row){score[i], good[i]};
    }
    qsort(*out, n, sizeof **out, falling);
    return ERR_OK;
}

ErrCode scores_curve(ScoresPoint **points, size_t *count, const double *score, const bool *good, size_t n,
                     Err *err) {
    Row *rows = NULL;
    *points = NULL;
    *count = 0;
    ErrCode rc = sorted_rows(&rows, score, good, n, err);
    if (rc == ERR_OK) rc = mem_new(points, n, sizeof **points, "the curve", err);
    for (size_t i = 0, wrong = 0; rc == ERR_OK && i < n; i++) {
        wrong += !rows[i].good;
        if (i + 1 < n && rows[i + 1].score >= rows[i].score) continue; /* equal, as they fall */
        (*points)[(*count)++] = (ScoresPoint){rows[i].score, i + 1, wrong};
    }
    mem_free(rows);
    return rc;
}

/* Sum of risks at each row of a group of equal scores, behind `before` rows of which `wrong` are bad. */
static double group_risk(size_t before, size_t wrong, size_t rows, size_t bad) {
    const double share = (double)bad / (double)rows;
    double sum = 0;
    for (size_t i = 1; i <= rows; i++) sum += ((double)wrong + share * (double)i) / (double)(before + i);
    return sum;
}

ErrCode scores_compute(Scores *out, const double *score, const bool *good, size_t n, Err *err) {
    ScoresPoint *points;
    size_t count;
    *out = (Scores){.auroc = (double)NAN, .fpr95 = (double)NAN, .aupr = (double)NAN};
    TRY(scores_curve(&points, &count, score, good, n, err));
    out->bad = points[count - 1].wrong;
    out->good = n - out->bad;
    const double P = (double)out->good, N = (double)out->bad;
    const bool both = out->good && out->bad;
    double pairs = 0, precision = 0;
    ScoresPoint last = {0};
    for (size_t i = 0; i < count; i++) {
        const ScoresPoint p = points[i];
        const double right = (double)(p.answered - p.wrong), before = (double)(last.answered - last.wrong);
        pairs += (double)(p.wrong - last.wrong) * (before + right) / 2;
        precision += (right - before) / (double)p.answered * right;
        if (both && isnan(out->fpr95) && right >= 0.95 * P) out->fpr95 = (double)p.wrong / N;
        out->aurc += group_risk(last.answered, last.wrong, p.answered - last.answered, p.wrong - last.wrong);
        last = p;
    }
    out->aurc /= (double)n;
    if (both) {
        out->auroc = pairs / (P * N);
        out->aupr = precision / P;
    }
    mem_free(points);
    return ERR_OK;
}

ErrCode scores_compare(Scores *out, const double *good, size_t n, const double *bad, size_t m, Err *err) {
    double *score = NULL;
    bool *flag = NULL;
    *out = (Scores){0};
    ErrCode rc = mem_new(&score, n + m + 1, sizeof *score, "the scores", err);
    if (rc == ERR_OK) rc = mem_new(&flag, n + m + 1, sizeof *flag, "the scores", err);
    if (rc == ERR_OK) {
        if (n) memcpy(score, good, n * sizeof *score);
        if (m) memcpy(score + n, bad, m * sizeof *score);
        for (size_t i = 0; i < n; i++) flag[i] = true;
        rc = scores_compute(out, score, flag, n + m, err);
    }
    mem_free(score);
    mem_free(flag);
    return rc;
}
