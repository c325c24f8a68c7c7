/* export/int8.h - linear layers in 8 bits: weights symmetric per output row, activations symmetric per token
 * and dynamic, exact 32-bit sums.
 *
 *   scale_x[n] = max_i |x(n,i)| / 127       q(n,i) = round half to even(x(n,i) * (127 / max))
 *   y(n,o) = (float)(sum_i q(n,i) w(o,i)) * (scale_x[n] * scale_w[o]) + bias[o]
 *
 * A token whose largest |x| is below 1e-30 counts as zeros. All float steps are single IEEE operations in the
 * order written, so that every kernel gives the same bits; a faster one only has to fill an Int8Kernels. */
#ifndef EXPORT_INT8_H
#define EXPORT_INT8_H

#include <stddef.h>
#include <stdint.h>

/* 127 * 128 * INT8_INPUTS_MAX < 2^31: the sums cannot overflow, whatever bytes a file holds. */
#define INT8_INPUTS_MAX 65536

typedef struct {
    const int8_t *w;    /* (out, in) */
    const float *scale; /* (out) */
    const float *bias;  /* (out) */
    int out, in;        /* in <= INT8_INPUTS_MAX */
} Int8Linear;

/* Activations of `rows` tokens: values in -127 .. 127, kept in 16 bits because the portable product is
 * 16 x 16 -> 32. Borrowed memory. */
typedef struct {
    int16_t *q;   /* (rows, in) */
    float *scale; /* (rows) */
} Int8Rows;

typedef struct {
    const char *name;
    /* x (rows, in) into q. */
    void (*quantize)(Int8Rows *q, const float *x, int rows, int in);
    /* y (rows, out); scratch: int8_scratch(in) bytes, 64-byte aligned. */
    void (*linear)(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, void *scratch);
} Int8Kernels;

/* The fastest that this processor has. */
const Int8Kernels *int8_kernels(void);

size_t int8_scratch(int in);

#endif
