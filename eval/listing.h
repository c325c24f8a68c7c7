/* eval/listing.h - what a router said to each row, as files.
 *
 * Predictions, JSONL, a line per row in the order of the rows (a file name that ends in .csv gives the other format):
 *   {"id", "source" where it names one, "label", "predicted", "score": highest probability, "probabilities": {label: p},
 *    "abstained": true or false, where the router may, "text": the first 80 bytes}
 * Predictions, CSV by RFC 4180 (CRLF, fields quoted where they must be), with a head:
 *   id,source,label,predicted,score,abstained,text, then one column per label, named as it
 * Suspects, JSONL as of `router data check --suspects` (data/suspects.h). */
#ifndef EVAL_LISTING_H
#define EVAL_LISTING_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/buf.h"
#include "core/err.h"
#include "eval/rows.h"

typedef struct {
    const Rows *rows;
    const RowText *texts;
    const int *label;      /* (n): of the rows */
    const double *p;       /* (n, K) */
    const bool *abstained; /* (n), or NULL: never */
    const char *const *labels;
    int K;
} Listing;

ErrCode listing_predictions(const Listing *listing, const char *path, Err *err) ERR_CHECKED;

/* The wrong answers that the router was surest of: [{id, source or null, label, predicted, score, label_score, text: the
 * first LISTING_TEXT bytes}], at most `most`. *out is freed with cJSON_Delete. */
#define LISTING_TEXT 300
ErrCode listing_mistakes(cJSON **out, const Listing *listing, size_t most, Err *err) ERR_CHECKED;

typedef struct {
    uint64_t judged, suspects, confident;
} ListingSuspects;
ErrCode listing_suspects(ListingSuspects *out, const Listing *listing, const char *path,
                         Err *err) ERR_CHECKED;

#endif
