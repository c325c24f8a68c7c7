/* export/int8_neon.c - int8.h with ARM's sdot: 16 products of signed bytes, added by fours to 4 sums. */
#include <arm_neon.h>

#include "export/int8_panel.h"
#include "export/unroll.h"

enum { TOKENS = 6, QUARTERS = 4 /* of a panel: four outputs each */ };

/* -128 times the sum of a token's first 4 fours inputs. */
static int32_t start_of(const Int8Rows *x, int n, size_t in) {
    int32_t start = x->start[n];
    for (size_t i = in / 4 * 4; i < in; i++) start += 128 * x->q[(size_t)n * x->stride + i];
    return start;
}

/* Sums of whole fours of inputs, (tokens, INT8_PANEL). The 128 of the panels is taken off before
 * multiplying, and in the end these sums are made what panel_finish expects. */
static inline __attribute__((always_inline)) void dots(int32_t *sums, const Int8Rows *x, int n,
                                                       const uint8_t *w, size_t in, int tokens,
                                                       PanelFetch *fetch) {
    const int8_t *q = x->q + (size_t)n * x->stride;
    const size_t fours = in / 4;
    const int8x16_t sign = vdupq_n_s8(-128);
    int32x4_t sum[TOKENS][QUARTERS];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int p = 0; p < QUARTERS; p++) sum[t][p] = vdupq_n_s32(0);
    }
    for (size_t k = 0; k < fours; k++, w += 64) {
        int8x16_t weights[QUARTERS];
        UNROLL
        for (int p = 0; p < QUARTERS; p++)
            weights[p] = veorq_s8(vreinterpretq_s8_u8(vld1q_u8(w + 16 * p)), sign);
        UNROLL
        for (int t = 0; t < tokens; t++) {
            int32_t four;
            __builtin_memcpy(&four, q + (size_t)t * x->stride + 4 * k, 4);
            const int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(four));
            UNROLL
            for (int p = 0; p < QUARTERS; p++) sum[t][p] = vdotq_s32(sum[t][p], weights[p], inputs);
        }
        panel_fetch(fetch);
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        const int32x4_t start = vdupq_n_s32(start_of(x, n + t, in));
        UNROLL
        for (int p = 0; p < QUARTERS; p++)
            vst1q_s32(sums + INT8_PANEL * t + 4 * p, vsubq_s32(sum[t][p], start));
    }
}

typedef void Dots(int32_t *sums, const Int8Rows *x, int n, const uint8_t *w, size_t in, PanelFetch *fetch);

#define DOTS(tokens)                                                                                      \
    static __attribute__((noinline)) void dots_##tokens(int32_t *sums, const Int8Rows *x, int n,          \
                                                        const uint8_t *w, size_t in, PanelFetch *fetch) { \
        dots(sums, x, n, w, in, tokens, fetch);                                                           \
    }
DOTS(1)
DOTS(2)
DOTS(3)
DOTS(4)
DOTS(5)
DOTS(6)
static Dots *const BY_TOKENS[TOKENS] = {dots_1, dots_2, dots_3, dots_4, dots_5, dots_6};

static void linear(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                   Int8Next next, void *scratch) {
    (void)scratch;
    const size_t in = (size_t)layer->in;
    const int whole = layer->out / INT8_PANEL * INT8_PANEL, end = to < whole ? to : whole;
    const int blocks = (rows + TOKENS - 1) / TOKENS;
    int32_t sums[TOKENS * INT8_PANEL];
    for (int o = from; o < end; o += INT8_PANEL) {
        PanelFetch fetch = panel_fetch_begin(layer, o, INT8_PANEL, end, next, (size_t)blocks * (in / 4));
        for (int n = 0, b = blocks; b > 0; b--) { /* blocks of nearly one size */
            const int tokens = (rows - n + b - 1) / b;
            BY_TOKENS[tokens - 1](sums, x, n, (const uint8_t *)layer->w + (size_t)o * in, in, &fetch);
            panel_finish(y, x, n, layer, o, tokens, INT8_PANEL, layer->in / 4 * 4, sums);
            n += tokens;
        }
    }
    if (to > whole) int8_rest(y, x, rows, layer);
}

const Int8Kernels int8_neon = {"neon", &lanes_baseline, 1, linear};
