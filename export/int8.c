#include "export/int8.h"

#include <string.h>

#include "export/approx.h"

enum { OUTPUTS = 4, TOKENS = 2 }; /* a block of sums that stays in 8 registers of any vector width */

static void quantize(Int8Rows *q, const float *x, int rows, int in) {
    for (int n = 0; n < rows; n++, x += in) {
        float lane[16] = {0};
        int i = 0;
        for (; i + 16 <= in; i += 16)
            for (int c = 0; c < 16; c++) {
                const float size = x[i + c] < 0.0f ? -x[i + c] : x[i + c];
                lane[c] = size > lane[c] ? size : lane[c];
            }
        float max = 0;
        for (; i < in; i++) {
            const float size = x[i] < 0.0f ? -x[i] : x[i];
            max = size > max ? size : max;
        }
        for (int c = 0; c < 16; c++) max = lane[c] > max ? lane[c] : max;
        const float inverse = max < 1e-30f ? 0.0f : 127.0f / max;
        q->scale[n] = max < 1e-30f ? 0.0f : max / 127.0f;
        int16_t *to = q->q + (size_t)n * (size_t)in;
        for (i = 0; i < in; i++) {
            const float shifted = x[i] * inverse + APPROX_ROUND;
            uint32_t bits;
            memcpy(&bits, &shifted, sizeof bits);
            to[i] = (int8_t)(uint8_t)bits; /* the low byte of the shifted value; anything for a NaN */
        }
    }
}

static void widen(int16_t *to, const int8_t *from, int n) {
    for (int i = 0; i < n; i++) to[i] = from[i];
}

/* Sums of TOKENS x OUTPUTS products; compilers turn it into pmaddwd and its relatives. */
static void block(int32_t sum[TOKENS][OUTPUTS], const int16_t *restrict x, size_t next,
                  const int16_t *restrict w, int in) {
    const int16_t *restrict x1 = x + next;
    const int16_t *restrict w1 = w + in, *restrict w2 = w1 + in, *restrict w3 = w2 + in;
    int32_t s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
    for (int i = 0; i < in; i++) {
        s00 += (int32_t)x[i] * w[i];
        s01 += (int32_t)x[i] * w1[i];
        s02 += (int32_t)x[i] * w2[i];
        s03 += (int32_t)x[i] * w3[i];
        s10 += (int32_t)x1[i] * w[i];
        s11 += (int32_t)x1[i] * w1[i];
        s12 += (int32_t)x1[i] * w2[i];
        s13 += (int32_t)x1[i] * w3[i];
    }
    const int32_t all[TOKENS][OUTPUTS] = {{s00, s01, s02, s03}, {s10, s11, s12, s13}};
    memcpy(sum, all, sizeof all);
}

size_t int8_scratch(int in) {
    return OUTPUTS * (size_t)in * sizeof(int16_t);
}

static void linear(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, void *scratch) {
    const int in = layer->in, out = layer->out;
    int16_t *wide = scratch;
    for (int o = 0; o < out; o += OUTPUTS) {
        const int outputs = out - o < OUTPUTS ? out - o : OUTPUTS;
        widen(wide, layer->w + (size_t)o * (size_t)in, outputs * in);
        if (outputs < OUTPUTS)
            memset(wide + outputs * in, 0, (size_t)((OUTPUTS - outputs) * in) * sizeof *wide);
        for (int n = 0; n < rows; n += TOKENS) {
            const int tokens = rows - n < TOKENS ? rows - n : TOKENS;
            int32_t sum[TOKENS][OUTPUTS];
            block(sum, x->q + (size_t)n * (size_t)in, tokens < TOKENS ? 0 : (size_t)in, wide, in);
            for (int t = 0; t < tokens; t++)
                for (int k = 0; k < outputs; k++) {
                    const float scale = x->scale[n + t] * layer->scale[o + k];
                    y[(size_t)(n + t) * (size_t)out + (size_t)(o + k)] =
                        (float)sum[t][k] * scale + layer->bias[o + k];
                }
        }
    }
}

const Int8Kernels *int8_kernels(void) {
    static const Int8Kernels PORTABLE = {"portable", quantize, linear};
    return &PORTABLE;
}
