/* export/int8_amx.c - int8.h with AMX-INT8: tiles of 16 tokens x 64 inputs times 64 inputs x 16 outputs. A
 * panel of int8.h is such tiles of weights one after the other, 1024 bytes each.
 *
 * Written without an AMX machine at hand and not yet run on one. What stands in for that: everything here
 * goes through the six operations below, which the tests replace by C code for what the manual says of
 * each (INT8_AMX_EMULATED) and then compare with the portable kernels bit for bit; and int8_pick compares
 * once more on the real unit before it takes this set. */
#include <string.h>

#include "export/int8_panel.h"

enum { TILE_ROWS = 16, TILE_BYTES = 64, TILE_COUNT = 8, TOKENS = 2 * TILE_ROWS, PANELS = 4 };

/* The 64 bytes that ldtilecfg reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

#if defined(INT8_AMX_EMULATED)

typedef struct {
    TileConfig config;
    uint8_t data[TILE_COUNT][TILE_ROWS][TILE_BYTES];
} Tiles;

static _Thread_local Tiles unit;

static void tile_config(const TileConfig *config) {
    unit = (Tiles){.config = *config};
}

static void tile_zero(int t) {
    memset(unit.data[t], 0, sizeof unit.data[t]);
}

static void tile_load(int t, const void *base, size_t stride) {
    tile_zero(t);
    for (size_t r = 0; r < unit.config.rows[t]; r++)
        memcpy(unit.data[t][r], (const char *)base + r * stride, unit.config.row_bytes[t]);
}

static void tile_store(int t, void *base, size_t stride) {
    for (size_t r = 0; r < unit.config.rows[t]; r++)
        memcpy((char *)base + r * stride, unit.data[t][r], unit.config.row_bytes[t]);
}

/* TDPBSUD: signed bytes of a, unsigned ones of b. */
static void tile_dot(int sum, int a, int b) {
    for (int m = 0; m < unit.config.rows[sum]; m++)
        for (int k = 0; k < unit.config.row_bytes[a] / 4; k++)
            for (int n = 0; n < unit.config.row_bytes[sum] / 4; n++) {
                uint32_t total;
                memcpy(&total, &unit.data[sum][m][4 * n], 4);
                for (int i = 0; i < 4; i++)
                    total += (uint32_t)((int8_t)unit.data[a][m][4 * k + i] * unit.data[b][k][4 * n + i]);
                memcpy(&unit.data[sum][m][4 * n], &total, 4);
            }
}

#define TILE_CONFIG(config)         tile_config(config)
#define TILE_ZERO(t)                tile_zero(t)
#define TILE_LOAD(t, base, stride)  tile_load(t, base, stride)
#define TILE_STORE(t, base, stride) tile_store(t, base, stride)
#define TILE_DOT(sum, a, b)         tile_dot(sum, a, b)
#define TILE_RELEASE()              (void)0
#define KERNELS                     int8_amx_emulated
#define KERNELS_LANES               lanes_baseline

#else

#include <immintrin.h>

/* Not _tile_loadconfig: gcc 12 tells its optimiser that only the first 8 of the 64 bytes are read. */
#define TILE_CONFIG(config)         __asm__ volatile("ldtilecfg %0" : : "m"(*(config)) : "memory")
#define TILE_ZERO(t)                _tile_zero(t)
#define TILE_LOAD(t, base, stride)  _tile_loadd(t, base, stride)
#define TILE_STORE(t, base, stride) _tile_stored(t, base, stride)
#define TILE_DOT(sum, a, b)         _tile_dpbsud(sum, a, b)
#define TILE_RELEASE()              _tile_release()
#define KERNELS                     int8_amx
#define KERNELS_LANES               lanes_avx512

#endif

/* Sums in tiles 0 to 3, activations in 4 and 5, weights in 6 and 7 (5 to 7 where one tile of tokens is
 * enough). */
static void configure(int first, int second) {
    TileConfig config = {.palette = 1};
    const int rows[TILE_COUNT] = {first,
                                  first,
                                  second ? second : first,
                                  second ? second : first,
                                  first,
                                  second ? second : TILE_ROWS,
                                  TILE_ROWS,
                                  TILE_ROWS};
    for (int t = 0; t < TILE_COUNT; t++) {
        config.rows[t] = (uint8_t)rows[t];
        config.row_bytes[t] = TILE_BYTES;
    }
    TILE_CONFIG(&config);
}

typedef struct {
    const int8_t *q; /* of the block's first token */
    const uint8_t *w;
    size_t stride, panel, steps; /* bytes to the next token, to the next panel; tiles along the inputs */
    PanelFetch *fetch;
} Block;

/* Up to 16 tokens, one panel. sums: (tokens, width). */
static void one_by_one(int32_t *sums, size_t width, const Block *b) {
    TILE_ZERO(0);
    for (size_t k = 0; k < b->steps; k++) {
        TILE_LOAD(4, b->q + TILE_BYTES * k, b->stride);
        TILE_LOAD(6, b->w + 1024 * k, TILE_BYTES);
        TILE_DOT(0, 4, 6);
        panel_fetch(b->fetch);
    }
    TILE_STORE(0, sums, 4 * width);
}

/* Up to 16 tokens, four panels at once: as many streams of weights, of which each is read just once. */
static void one_by_four(int32_t *sums, size_t width, const Block *b) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (size_t k = 0; k < b->steps; k++) {
        const uint8_t *w = b->w + 1024 * k;
        TILE_LOAD(4, b->q + TILE_BYTES * k, b->stride);
        TILE_LOAD(5, w, TILE_BYTES);
        TILE_DOT(0, 4, 5);
        TILE_LOAD(6, w + b->panel, TILE_BYTES);
        TILE_DOT(1, 4, 6);
        TILE_LOAD(7, w + 2 * b->panel, TILE_BYTES);
        TILE_DOT(2, 4, 7);
        TILE_LOAD(5, w + 3 * b->panel, TILE_BYTES);
        TILE_DOT(3, 4, 5);
        panel_fetch(b->fetch);
    }
    TILE_STORE(0, sums, 4 * width);
    TILE_STORE(1, sums + INT8_PANEL, 4 * width);
    TILE_STORE(2, sums + 2 * INT8_PANEL, 4 * width);
    TILE_STORE(3, sums + 3 * INT8_PANEL, 4 * width);
}

/* 17 to 32 tokens, two panels: one load for each product. */
static void two_by_two(int32_t *sums, size_t width, const Block *b) {
    const int8_t *second = b->q + TILE_ROWS * b->stride;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (size_t k = 0; k < b->steps; k++) {
        const uint8_t *w = b->w + 1024 * k;
        TILE_LOAD(6, w, TILE_BYTES);
        TILE_LOAD(4, b->q + TILE_BYTES * k, b->stride);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(5, second + TILE_BYTES * k, b->stride);
        TILE_DOT(2, 5, 6);
        TILE_LOAD(7, w + b->panel, TILE_BYTES);
        TILE_DOT(1, 4, 7);
        TILE_DOT(3, 5, 7);
        panel_fetch(b->fetch);
    }
    TILE_STORE(0, sums, 4 * width);
    TILE_STORE(1, sums + INT8_PANEL, 4 * width);
    TILE_STORE(2, sums + TILE_ROWS * width, 4 * width);
    TILE_STORE(3, sums + TILE_ROWS * width + INT8_PANEL, 4 * width);
}

/* 17 to 32 tokens, one panel. */
static void two_by_one(int32_t *sums, size_t width, const Block *b) {
    TILE_ZERO(0);
    TILE_ZERO(2);
    for (size_t k = 0; k < b->steps; k++) {
        TILE_LOAD(6, b->w + 1024 * k, TILE_BYTES);
        TILE_LOAD(4, b->q + TILE_BYTES * k, b->stride);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(5, b->q + TILE_ROWS * b->stride + TILE_BYTES * k, b->stride);
        TILE_DOT(2, 5, 6);
        panel_fetch(b->fetch);
    }
    TILE_STORE(0, sums, 4 * width);
    TILE_STORE(2, sums + TILE_ROWS * width, 4 * width);
}

/* sums (tokens, panels * INT8_PANEL), up to PANELS panels. */
static void block(int32_t *sums, Block b, int tokens, int panels) {
    const size_t width = (size_t)panels * INT8_PANEL;
    if (tokens <= TILE_ROWS && panels == PANELS) {
        one_by_four(sums, width, &b);
        return;
    }
    for (int p = 0; p < panels;) {
        const int two = tokens > TILE_ROWS && panels - p >= 2;
        if (two)
            two_by_two(sums, width, &b);
        else if (tokens > TILE_ROWS)
            two_by_one(sums, width, &b);
        else
            one_by_one(sums, width, &b);
        p += 1 + two;
        sums += (1 + two) * INT8_PANEL;
        b.w += (size_t)(1 + two) * b.panel;
    }
}

static void linear(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                   Int8Next next, void *scratch) {
    (void)scratch;
    const size_t in = (size_t)layer->in, steps = in / TILE_BYTES;
    const int whole = layer->out / INT8_PANEL * INT8_PANEL, end = to < whole ? to : whole;
    const int blocks = (rows + TOKENS - 1) / TOKENS;
    _Alignas(64) int32_t sums[TOKENS * PANELS * INT8_PANEL];
    PanelFetch fetch = panel_fetch_begin(layer, from, end - from, end, next, (size_t)blocks * steps);
    for (int n = 0, b = blocks; b > 0; b--) { /* blocks of nearly one size */
        const int tokens = (rows - n + b - 1) / b;
        if (steps)
            configure(tokens < TILE_ROWS ? tokens : TILE_ROWS, tokens > TILE_ROWS ? tokens - TILE_ROWS : 0);
        for (int o = from; o < end; o += PANELS * INT8_PANEL) {
            const int panels = end - o < PANELS * INT8_PANEL ? (end - o) / INT8_PANEL : PANELS;
            if (steps)
                block(sums,
                      (Block){x->q + (size_t)n * x->stride, (const uint8_t *)layer->w + (size_t)o * in,
                              x->stride, INT8_PANEL * in, steps, &fetch},
                      tokens, panels);
            else
                memset(sums, 0, sizeof sums);
            panel_finish(y, x, n, layer, o, tokens, panels * INT8_PANEL, (int)(TILE_BYTES * steps), sums);
        }
        n += tokens;
    }
    if (steps) TILE_RELEASE();
    if (to > whole) int8_rest(y, x, rows, layer);
}

const Int8Kernels KERNELS = {"amx", &KERNELS_LANES, 1, linear};
