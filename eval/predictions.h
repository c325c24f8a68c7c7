/* eval/predictions.h - a file of answers: a third kind of router beside a folder and a blob, so that what was answered
 * elsewhere, earlier, or by a program that is no longer there can be compared.
 *
 * JSONL (plain, gzip or zstd), as `router eval --predictions` and `router predict` write it. Each line is an object:
 *   scores or probabilities   {"math": 0.97, ...}: every class and its probability; the same classes in every line, in
 *                             any order; they sum to 1 within PREDICTIONS_SUM (the writers round to six digits)
 *   predicted, else label     the answer, where present: a class with the highest probability (within the rounding)
 *   id                        optional, string or integer
 *   text                      optional: the prompt or its first 80 bytes, as eval writes it; for checking only
 *   truncated                 optional boolean
 * Other members are ignored. The classes are in the order of the first line. Blank lines do not count.
 *
 * Errors are ERR_FORMAT and name file:line. */
#ifndef EVAL_PREDICTIONS_H
#define EVAL_PREDICTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/buf.h"
#include "core/err.h"
#include "data/names.h"
#include "eval/rows.h"

#define PREDICTIONS_SUM     0.001
#define PREDICTIONS_EXCERPT 80 /* bytes of a text that are written and compared */

typedef struct {
    size_t id_at, text_at; /* in Predictions.bytes, NUL-terminated; SIZE_MAX: none */
    size_t line;
    bool truncated;
} Prediction;

/* Zeroed: empty, valid to free. */
typedef struct {
    char *path;
    Names labels; /* K classes */
    Prediction *items;
    double *p; /* (count, K) */
    size_t count, cap;
    Buf bytes;
    bool truncation; /* every line says whether its text was cut */
} Predictions;

ErrCode predictions_read(Predictions *out, const char *path, Err *err) ERR_CHECKED;
void predictions_free(Predictions *predictions);

/* Whether a file is one of these, rather than a blob (compressed or not): its first line that is not blank has eight
 * bytes or more, of which the first eight hold no NUL. */
ErrCode predictions_recognise(bool *out, const char *path, Err *err) ERR_CHECKED;

/* at (rows): which prediction belongs to each row. Where both have as many and each pair agrees (same id, or same
 * text, or nothing to judge by), they pair up in order; else each row is found by its id, and predictions may be left
 * over. A pair whose texts differ is an error. */
ErrCode predictions_match(size_t *at, const Predictions *predictions, const Rows *rows, Err *err) ERR_CHECKED;

#endif
