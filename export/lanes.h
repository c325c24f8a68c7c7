/* export/lanes.h - the float parts of an int8 router, compiled once per instruction set from one source
 * (lanes.c) and chosen together with the integer kernels (int8.h).
 *
 * Every set gives the same bits: each number is made by the same single IEEE operations in the same order
 * (-ffp-contract=off, no libm), and a sum over a row is always LANES_SUM sums side by side that are added
 * in one fixed order, whatever the width of the machine's vectors. */
#ifndef EXPORT_LANES_H
#define EXPORT_LANES_H

#include <stddef.h>
#include <stdint.h>

enum { LANES_SUM = 16, LANES_OVERREAD = 32 };

/* One head of one sequence: context_i = sum_j softmax_j(score(i,j)) v_j for the first `queries` of L
 * tokens,
 *   score(i,j) = sum_d (q(i,d) (k(j,d) + pk(d,c)) + k(j,d) pq(d,c)) / sqrt(3 D),   c = column[j - i + L - 1]
 * q, k, v and out point to the first token's first column of this head, `stride` numbers apart from token
 * to token. pk and pq are half precision, finite, (D, columns), and LANES_OVERREAD bytes behind them can
 * be read. */
typedef struct {
    const float *q, *k, *v;
    float *out;
    const uint16_t *position_key, *position_query;
    const int32_t *column; /* (2 L - 1), not decreasing */
    int L, queries, D, columns;
    size_t stride;
} LanesHead;

typedef struct {
    const char *name;
    /* x[i] = row[i] * scale, i < n */
    void (*embed)(float *x, const int8_t *row, float scale, int n);
    /* y = (t - mean(t)) / sqrt(variance(t) + eps) * w + b, t = x + r or, where r is NULL, x; y may be x */
    void (*norm)(float *y, const float *x, const float *r, const float *w, const float *b, float eps, int n);
    /* y[i] = gelu(y[i]) as approx.h has it */
    void (*gelu)(float *y, size_t n);
    /* One token's activations in 8 bits, see int8.h: q (n), *scale, and *start = -128 sum_i q[i]. A value
     * that is not finite makes *scale so, and with it all that is computed from the token. */
    void (*quantize)(int8_t *q, float *scale, int32_t *start, const float *x, int n);
    float (*dot)(const float *a, const float *b, int n);
    /* Turns x[i] into e^(x[i] - max x) and returns their sum; n >= 1. */
    float (*exponentials)(float *x, int n);
    /* scratch: 64-byte aligned, as many numbers as attention_scratch says. */
    size_t (*attention_scratch)(int L, int D, int columns);
    void (*attention)(const LanesHead *head, float *scratch);
} Lanes;

extern const Lanes lanes_baseline;
#if defined(__x86_64__)
extern const Lanes lanes_avx2, lanes_avx512;
#endif

#endif
