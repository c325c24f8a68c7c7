/* export/quant.h - float weights to 8 and 16 bits. */
#ifndef EXPORT_QUANT_H
#define EXPORT_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

/* How far quantised values are from the weights. */
typedef struct {
    double error, total; /* sums of squares of (weight - restored) and of the weights */
    double worst;        /* largest |weight - restored| */
} QuantError;

/* q(r,c) = round half to even(w(r,c) / scale[r]), scale[r] = max_c |w(r,c)| / 127, so that q is in -127 ..
 * 127 and scale finite and > 0; a row without a weight of 1e-30 counts as zeros and has scale 1. ERR_NUMERIC
 * when a weight is not finite. error is added to. */
ErrCode quant_rows(int8_t *q, float *scale, const float *w, size_t rows, size_t cols, QuantError *error,
                   Err *err) ERR_CHECKED;

/* To half precision, round half to even; ERR_NUMERIC for what is not finite or beyond +-65504. */
ErrCode quant_f16(uint16_t *out, const float *x, size_t n, QuantError *error, Err *err) ERR_CHECKED;

/* sqrt(error / total), 0 when there is nothing. */
double quant_relative(const QuantError *error);

#endif
