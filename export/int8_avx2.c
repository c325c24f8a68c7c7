/* export/int8_avx2.c - int8.h with vpmaddwd: bytes widened to 16 bits, products added by twos.
 * (vpmaddubsw, which takes bytes, saturates, and its usual remedies either lose a bit of the weights or
 * need as many instructions.) */
#include <immintrin.h>
#include <string.h>

#include "export/int8_panel.h"
#include "export/unroll.h"

enum { TOKENS = 3, QUARTERS = 4 /* of a panel: four outputs, two sums each */ };

/* Sums of whole fours of inputs, (tokens, INT8_PANEL). q: (tokens, 4 fours) in 16 bits. */
static inline __attribute__((always_inline)) void dots(int32_t *sums, const int16_t *q, const uint8_t *w,
                                                       size_t fours, int tokens, PanelFetch *fetch) {
    __m256i sum[TOKENS][QUARTERS];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int p = 0; p < QUARTERS; p++) sum[t][p] = _mm256_setzero_si256();
    }
    for (size_t k = 0; k < fours; k++, w += 64) {
        UNROLL
        for (int p = 0; p < QUARTERS; p++) {
            const __m256i weights =
                _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + 16 * p)));
            UNROLL
            for (int t = 0; t < tokens; t++) {
                int64_t four;
                memcpy(&four, q + 4 * ((size_t)t * fours + k), 8);
                sum[t][p] = _mm256_add_epi32(sum[t][p], _mm256_madd_epi16(weights, _mm256_set1_epi64x(four)));
            }
        }
        panel_fetch(fetch);
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int p = 0; p < QUARTERS; p += 2) {
            /* twos of outputs 0 1 4 5 2 3 6 7 */
            const __m256i twos = _mm256_hadd_epi32(sum[t][p], sum[t][p + 1]);
            _mm256_storeu_si256((__m256i *)(void *)(sums + INT8_PANEL * t + 4 * p),
                                _mm256_permute4x64_epi64(twos, _MM_SHUFFLE(3, 1, 2, 0)));
        }
    }
}

typedef void Dots(int32_t *sums, const int16_t *q, const uint8_t *w, size_t fours, PanelFetch *fetch);

/* Not inlined: with other code around them compilers stop keeping the sums in registers. */
#define DOTS(tokens)                                                                                       \
    static __attribute__((noinline)) void dots_##tokens(int32_t *sums, const int16_t *q, const uint8_t *w, \
                                                        size_t fours, PanelFetch *fetch) {                 \
        dots(sums, q, w, fours, tokens, fetch);                                                            \
    }
DOTS(1)
DOTS(2)
DOTS(3)
static Dots *const BY_TOKENS[TOKENS] = {dots_1, dots_2, dots_3};

static void widen(int16_t *to, const int8_t *from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = from[i];
}

static void linear(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                   Int8Next next, void *scratch) {
    const size_t in = (size_t)layer->in, fours = in / 4;
    const int whole = layer->out / INT8_PANEL * INT8_PANEL, end = to < whole ? to : whole;
    int16_t *q = scratch;
    int32_t sums[TOKENS * INT8_PANEL];
    for (int n = 0, tokens; n < rows; n += tokens) {
        tokens = rows - n < TOKENS ? rows - n : TOKENS;
        for (int t = 0; t < tokens; t++)
            widen(q + (size_t)t * 4 * fours, x->q + (size_t)(n + t) * x->stride, 4 * fours);
        for (int o = from; o < end; o += INT8_PANEL) {
            const uint8_t *w = (const uint8_t *)layer->w + (size_t)o * in;
            PanelFetch fetch =
                panel_fetch_begin(layer, o, INT8_PANEL, end, n == 0 ? next : (Int8Next){0}, fours);
            BY_TOKENS[tokens - 1](sums, q, w, fours, &fetch);
            panel_finish(y, x, n, layer, o, tokens, INT8_PANEL, layer->in / 4 * 4, sums);
        }
    }
    if (to > whole) int8_rest(y, x, rows, layer);
}

const Int8Kernels int8_avx2 = {"avx2", &lanes_avx2, 1, linear};
