/* export/check.h - whether a blob still answers as it did when it was made: its digests and golden vectors.
 */
#ifndef EXPORT_CHECK_H
#define EXPORT_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "core/err.h"
#include "export/librouter.h"

/* How far logits x (K) are from stated ones: largest |x - stated| / max(1, largest |stated|). */
double check_difference(const float *x, const float *stated, int K);

/* How many golden vectors the metadata say that there are. */
ErrCode check_golden_count(size_t *out, const Router *router, Err *err) ERR_CHECKED;

typedef struct {
    size_t golden;                  /* vectors in the blob */
    size_t exact;                   /* of them, with the very same ids and bits of the logits */
    double worst;                   /* largest difference */
    double tolerance;               /* that the blob allows */
    double float_worst, float_mean; /* difference between the int8 and the float model, both as stated */
    size_t float_agree;             /* vectors for which both have the same most probable label */
} CheckReport;

/* Opens the blob as librouter does, all digests checked, and computes its golden vectors from their texts.
 * ERR_GATE names the first vector with other ids, or a logit that differs by more than the tolerance;
 * ERR_FORMAT: damaged, or golden vectors that cannot be read. */
ErrCode check_blob(CheckReport *out, const char *path, Err *err) ERR_CHECKED;

/* The same for one that is open. */
ErrCode check_router(CheckReport *out, Router *router, Err *err) ERR_CHECKED;

#endif
