/* export/int8_vnni.c - int8.h with vpdpbusd: 64 products of an unsigned and a signed byte, added by fours
 * to 16 sums (or half of that). Compiled for AVX512-VNNI, for AVX-VNNI, and in the tests for the 256-bit
 * form of the former, so that the code for AVX-VNNI is run where only AVX-512 is at hand.
 *
 * Sums of up to TOKENS x 64 outputs stay in registers over all inputs, so that per step of four inputs
 * there are four loads of weights for up to TOKENS x 4 multiplications. While a block is being multiplied,
 * the weights of the next are fetched in even portions: a short prompt reads every weight from memory just
 * once, and the multiplier does not wait for it. */
#include <immintrin.h>
#include <string.h>

#include "export/int8_panel.h"
#include "export/unroll.h"

#if defined(INT8_VNNI_512)
enum { WIDTH = 16, TOKENS = 6, PANELS = 4 };
typedef __m512i I;
#define DOT(sum, w, x) _mm512_dpbusd_epi32(sum, w, x)
#define SPLAT_I(x)     _mm512_set1_epi32(x)
#define LOAD_I(p)      _mm512_loadu_si512(p)
#define STORE_I(p, v)  _mm512_storeu_si512(p, v)
#define KERNELS        int8_avx512vnni
#define KERNELS_NAME   "avx512vnni"
#define KERNELS_LANES  lanes_avx512
#else
enum { WIDTH = 8, TOKENS = 6, PANELS = 1 };
typedef __m256i I;
#if defined(INT8_VNNI_256_EVEX)
#define DOT(sum, w, x) _mm256_dpbusd_epi32(sum, w, x)
#define KERNELS        int8_avxvnni_evex
#else
#define DOT(sum, w, x) _mm256_dpbusd_avx_epi32(sum, w, x)
#define KERNELS        int8_avxvnni
#endif
#define SPLAT_I(x)    _mm256_set1_epi32(x)
#define LOAD_I(p)     _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE_I(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define KERNELS_NAME  "avxvnni"
#define KERNELS_LANES lanes_avx2
#endif

enum { PARTS = INT8_PANEL / WIDTH, VECTORS_MAX = PANELS * PARTS };

/* Sums of whole fours of inputs, (tokens, panels * INT8_PANEL). They go through memory: with anything else
 * in this function compilers stop keeping them in registers. */
static inline __attribute__((always_inline)) void dots(int32_t *sums, const int8_t *q, size_t stride,
                                                       const uint8_t *w, size_t in, int tokens, int panels,
                                                       PanelFetch *fetch) {
    const size_t fours = in / 4, panel = INT8_PANEL * in;
    I sum[TOKENS][VECTORS_MAX];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int v = 0; v < panels * PARTS; v++) sum[t][v] = SPLAT_I(0);
    }
    for (size_t k = 0; k < fours; k++) {
        I weights[VECTORS_MAX];
        UNROLL
        for (int v = 0; v < panels * PARTS; v++)
            weights[v] = LOAD_I(w + (size_t)(v / PARTS) * panel + 64 * k + (size_t)(v % PARTS) * 32);
        UNROLL
        for (int t = 0; t < tokens; t++) {
            int32_t four;
            memcpy(&four, q + (size_t)t * stride + 4 * k, 4);
            const I inputs = SPLAT_I(four);
            UNROLL
            for (int v = 0; v < panels * PARTS; v++) sum[t][v] = DOT(sum[t][v], weights[v], inputs);
        }
        panel_fetch(fetch);
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int v = 0; v < panels * PARTS; v++) STORE_I(sums + (t * panels * PARTS + v) * WIDTH, sum[t][v]);
    }
}

typedef void Block(float *y, const Int8Rows *x, int n, const Int8Linear *layer, int o, PanelFetch *fetch);

#define BLOCK(tokens, panels)                                                                              \
    static void block_##tokens##_##panels(float *y, const Int8Rows *x, int n, const Int8Linear *layer,     \
                                          int o, PanelFetch *fetch) {                                      \
        _Alignas(64) int32_t sums[tokens * panels * INT8_PANEL];                                           \
        dots(sums, x->q + (size_t)n * x->stride, x->stride,                                                \
             (const uint8_t *)layer->w + (size_t)o * (size_t)layer->in, (size_t)layer->in, tokens, panels, \
             fetch);                                                                                       \
        panel_finish(y, x, n, layer, o, tokens, panels *INT8_PANEL, layer->in / 4 * 4, sums);              \
    }
BLOCK(1, 1)
BLOCK(2, 1)
BLOCK(3, 1)
BLOCK(4, 1)
BLOCK(5, 1)
BLOCK(6, 1)
#if defined(INT8_VNNI_512)
BLOCK(1, 4)
BLOCK(2, 4)
BLOCK(3, 4)
BLOCK(4, 4)
BLOCK(5, 4)
BLOCK(6, 4)
#endif

/* By panels, 1 or PANELS, and tokens. */
static Block *const BLOCKS[][TOKENS] = {
    {block_1_1, block_2_1, block_3_1, block_4_1, block_5_1, block_6_1},
#if defined(INT8_VNNI_512)
    {block_1_4, block_2_4, block_3_4, block_4_4, block_5_4, block_6_4},
#endif
};

static void linear(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                   Int8Next next, void *scratch) {
    (void)scratch;
    const int whole = layer->out / INT8_PANEL * INT8_PANEL, end = to < whole ? to : whole;
    const int blocks = (rows + TOKENS - 1) / TOKENS;
    for (int o = from, width; o < end; o += width) {
        const int many = PANELS > 1 && end - o >= PANELS * INT8_PANEL;
        width = many ? PANELS * INT8_PANEL : INT8_PANEL;
        PanelFetch fetch =
            panel_fetch_begin(layer, o, width, end, next, (size_t)blocks * (size_t)(layer->in / 4));
        for (int n = 0, b = blocks; b > 0; b--) { /* blocks of nearly one size */
            const int tokens = (rows - n + b - 1) / b;
            BLOCKS[many][tokens - 1](y, x, n, layer, o, &fetch);
            n += tokens;
        }
    }
    if (to > whole) int8_rest(y, x, rows, layer);
}

const Int8Kernels KERNELS = {KERNELS_NAME, &KERNELS_LANES, 1, linear};
