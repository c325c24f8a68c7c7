/* export/int8.h - linear layers in 8 bits: weights symmetric per output row, activations symmetric per
 * token and dynamic, exact 32-bit sums.
 *
 *   scale_x[n] = max_i |x(n,i)| / 127       q(n,i) = round half to even(x(n,i) * (127 / max))
 *   y(n,o) = (float)(sum_i q(n,i) w(o,i)) * (scale_x[n] * scale_w[o]) + bias[o]
 *
 * A token whose largest |x| is below 1e-30 counts as zeros. All float steps are single IEEE operations in
 * the order written, so that every set of kernels gives the same bits.
 *
 * PANELS. All sets but "portable" read weights as int8_pack leaves them, in the very bytes where they
 * were: each INT8_PANEL = 16 outputs are a panel of 16 `in` bytes,
 *   for each four inputs      64 bytes: four of output 0, of output 1, ... of output 15
 *   for each of the in % 4 that remain   16 bytes: one of each output
 * every byte being weight + 128, that is 0 .. 255: the multipliers of x86 take one factor without a sign.
 * Sums therefore begin with -128 sum_i q(n,i). The last out % 16 rows stay as they were. */
#ifndef EXPORT_INT8_H
#define EXPORT_INT8_H

#include <stddef.h>
#include <stdint.h>

#include "export/lanes.h"

/* 127 * 255 * INT8_INPUTS_MAX < 2^31: the sums cannot overflow, whatever bytes a file holds. */
#define INT8_INPUTS_MAX 65536

enum {
    INT8_PANEL = 16,
    INT8_BLOCK = 4 * INT8_PANEL /* outputs that a kernel works on at once: four streams of weights */
};

typedef struct {
    const void *w;      /* (out, in) in int8, or packed where the kernels want it */
    const float *scale; /* (out) */
    const float *bias;  /* (out) */
    int out, in;        /* in <= INT8_INPUTS_MAX */
} Int8Linear;

/* Activations of some tokens. Borrowed memory. */
typedef struct {
    int8_t *q;      /* token n's values, -127 .. 127, begin at q + n * stride */
    float *scale;   /* (tokens) */
    int32_t *start; /* (tokens): -128 sum_i q(n,i) */
    size_t stride;
} Int8Rows;

/* Weights that will probably be needed next on this thread: fetched meanwhile. NULL: none. */
typedef struct {
    const void *w;
    size_t bytes;
} Int8Next;

typedef struct {
    const char *name;
    const Lanes *lanes; /* the float parts that go with it */
    int packs;          /* whether weights must have been through int8_pack */
    /* Outputs [from, to) of y (rows, out): from is a multiple of INT8_PANEL, to too or equal to out. scratch:
     * int8_scratch(in) bytes, 64-byte aligned. */
    void (*linear)(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                   Int8Next next, void *scratch);
} Int8Kernels;

/* The fastest set for a processor with these CPU_... features (core/cpu.h). AMX is only taken when a small product
 * on the real unit is right. */
const Int8Kernels *int8_pick(unsigned features);

/* Whether a set that packs computes a small random layer as the portable one does. */
int int8_agrees(const Int8Kernels *kernels);

size_t int8_scratch(int in);

/* Turns the rows w (out, in) into panels, in place. scratch: INT8_PANEL * in bytes. */
void int8_pack(void *w, int out, int in, void *scratch);

/* For the kernels: sums[o] += the products of the inputs of a token q (in) from number `from`, a multiple
 * of 4, on, for `outputs` outputs of the panels at w; and y of the last, unpacked rows of a packed layer. */
void int8_tail(int32_t *sums, const int8_t *q, const uint8_t *w, int in, int from, int outputs);
void int8_rest(float *y, const Int8Rows *x, int rows, const Int8Linear *layer);

extern const Int8Kernels int8_portable;
#if defined(__x86_64__)
extern const Int8Kernels int8_avx2, int8_avxvnni, int8_avx512vnni, int8_amx;
#elif defined(__aarch64__)
extern const Int8Kernels int8_neon;
#endif

#endif
