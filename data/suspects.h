/* data/suspects.h - rows whose label is probably wrong, by confident learning (Northcutt, Jiang, Chuang 2021).
 *
 * Each row gets probabilities from an n-gram model (data/ngram.h) that was not trained on it: rows are in one of
 * SUSPECTS_FOLDS folds, near-duplicates in the same one, and a model is trained for each fold on a sample of the other folds' rows.
 * Any number of rows is then judged one after another, in the sample or not: memory is that of the models (at most
 * SUSPECTS_BYTES together), of the sample, and of the suspects.
 *   confident:  the label j with the greatest p(j) among those with p(j) >= t(j) is not the given one, where t(j) is the mean
 *               of p(j) over the sample's rows with label j: the off-diagonal of the paper's confident joint
 *   suggested:  that label, or, of rows that are not confident, the one with the greatest p
 *   suspect:    suggested is not the given label; ranked by p(suggested) - p(label), largest first
 * Labels with fewer than SUSPECTS_LABEL_ROWS rows in the sample are not judged, and of none of them is anything confident: no
 * model could have learnt them. */
#ifndef DATA_SUSPECTS_H
#define DATA_SUSPECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/threads.h"
#include "data/record.h"

#define SUSPECTS_FOLDS      5
#define SUSPECTS_LABEL_ROWS 20
#define SUSPECTS_LABELS_MAX 1024
#define SUSPECTS_TEXT       ((size_t)4096) /* bytes of a text that count */
#define SUSPECTS_BYTES      ((size_t)256 << 20)
#define SUSPECTS_EXCERPT    200 /* bytes of a suspect's text, and of its id, that are kept */

typedef struct {
    uint32_t row; /* the caller's number */
    int label, suggested;
    float p_label, p_suggested;
    bool confident;
    size_t at; /* of its texts: see suspects_text */
    uint16_t text_len, id_len;
} Suspect;

typedef struct Suspects Suspects;

/* Trains on texts with labels 0 .. K-1 (K <= SUSPECTS_LABELS_MAX) in folds 0 .. SUSPECTS_FOLDS-1. ERR_INTERRUPTED when a stop
 * was requested. */
ErrCode suspects_open(Suspects **out, const RowText *texts, const int *labels, const uint8_t *folds,
                      size_t count, int K, uint64_t seed, Threads *threads, Err *err) ERR_CHECKED;
void suspects_close(Suspects *suspects);

typedef struct {
    uint32_t row;
    int label, fold;
    RowText text;
    const char *id; /* NULL: none */
} SuspectsRow;

/* Without models: the probabilities p (count, K) of these rows come from elsewhere, from what was not trained on them.
 * Thresholds are taken from them; suspects_judge then takes each row, with its own K probabilities. */
ErrCode suspects_open_given(Suspects **out, const double *p, const int *labels, size_t count, int K,
                            Err *err) ERR_CHECKED;
ErrCode suspects_judge(Suspects *suspects, const SuspectsRow *row, const double *p, Err *err) ERR_CHECKED;

/* Judges a row; what it points to is copied until then. Results are complete after suspects_finish. */
ErrCode suspects_add(Suspects *suspects, const SuspectsRow *row, Threads *threads, Err *err) ERR_CHECKED;
ErrCode suspects_finish(Suspects *suspects, Threads *threads, Err *err) ERR_CHECKED;

/* In order of rank. */
const Suspect *suspects_all(const Suspects *suspects, size_t *count);
/* The beginning of its text (text_len bytes, cut at a character), and behind it its id (id_len bytes). */
const char *suspects_text(const Suspects *suspects, const Suspect *suspect);
uint64_t suspects_judged(const Suspects *suspects);
uint64_t suspects_confident(const Suspects *suspects);
/* The confident joint: (K, K) counts, [given][the label that the model is confident of]. */
const uint64_t *suspects_joint(const Suspects *suspects);

/* A suspect as one JSON object, without a line end:
 * {"rank", "file", "line", "id" where there is one, "label", "suggested", "p_label", "p_suggested", "confident", "text"} */
typedef struct {
    const char *file, *label, *suggested;
    uint64_t line;
} SuspectsPlace;
void suspects_put(Buf *out, const Suspects *suspects, const Suspect *suspect, size_t rank,
                  const SuspectsPlace *place);

#endif
