/* eval/robust.h - what becomes of a router's answers when prompts are written otherwise but ask the same.
 *
 * A sample of the rows is changed by each case, a kind and a strength, and answered again:
 *   typos, case, space, punctuation   data/noise.h; strength: the share of the places that is changed
 *   prefix, suffix, quote             data/noise.h: small talk before and behind, quotes around; strength 1
 *   system      an instruction to an assistant before the text; strength 1
 *   fence       the text in a code fence; strength 1
 *   label_first, label_last
 *               "This is about LABEL." before or behind the text, LABEL being a label that is not the row's, said
 *               `strength` times
 *   truncate    only the first `strength` tokens are read
 * A row that a case cannot change (no marks to lose, no longer than the cut) keeps its answer. Of a case:
 *   changed     rows that it changed
 *   accuracy    of all rows of the sample
 *   flip_rate   share of the changed rows whose answer became another
 *   broken, mended   right answers that became wrong, wrong ones that became right
 *   drop        accuracy before - after = (broken - mended) / rows, with a 95 % interval for paired shares (Agresti and Min
 *               2005: half a row is added to both counts), widened to hold the value
 *   toward      label_*: rows that were not answered with the label that was named, and now are
 * Everything is a function of (model, rows, seed).
 *
 * JSON: {seed, rows, accuracy (interval), cases: [{kind, strength, changed, accuracy (interval), drop (interval), flip_rate
 * (interval), broken, mended, toward: label_* only}]} */
#ifndef EVAL_ROBUST_H
#define EVAL_ROBUST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/threads.h"
#include "data/record.h"
#include "eval/metrics.h"
#include "eval/predict.h"

#define ROBUST_CASES_MAX 32

typedef struct {
    const char *kind;
    double strength;
} RobustCase;

/* The cases, in the order of reports; their number. */
size_t robust_cases(const RobustCase **cases);

/* Appends the changed text; *changed is false, and nothing is appended, where the case cannot change it. *named is the label
 * that the text now names, or -1. Not for "truncate", which is not a matter of text. */
ErrCode robust_text(Buf *out, bool *changed, int *named, const RobustCase *which, RowText text, int label,
                    const char *const *labels, int K, uint64_t key, Err *err) ERR_CHECKED;

typedef struct {
    RobustCase which;
    uint64_t changed, flips, broken, mended, toward;
    bool names_label;
    Interval accuracy, flip_rate, drop;
} RobustResult;

/* Zeroed: empty. */
typedef struct {
    uint64_t seed;
    size_t rows;
    Interval accuracy; /* of the sample as it is */
    RobustResult results[ROBUST_CASES_MAX];
    size_t count;
} Robust;

/* From answers before and after (n), whether each row was changed, and what label it was made to name (NULL: none).
 * Rows that were not changed have after = before. */
void robust_count(RobustResult *out, const int *before, const int *after, const bool *changed,
                  const int *named, const int *labels, size_t n);

typedef struct {
    size_t rows; /* of the sample; all if there are fewer */
    uint64_t seed;
    Predictor *predictor;
    const char *path; /* of the model and how it was opened: the cuts open it again */
    PredictRule rule;
    Threads *threads;
} RobustRule;

/* p (n, K): the answers to the texts as they are; seen (n). ERR_INTERRUPTED when asked to stop. */
ErrCode robust_run(Robust *out, const RobustRule *rule, const RowText *texts, const int *labels,
                   const double *p, const PredictSeen *seen, size_t n, Err *err) ERR_CHECKED;

void robust_json(Buf *out, const Robust *robust);
void robust_table(Buf *out, const Robust *robust);

#endif
