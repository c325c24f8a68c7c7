#include "export/int8.h"

#include <string.h>

#include "core/cpu.h"

enum { OUTPUTS = 4, TOKENS = 2 }; /* a block of sums that stays in 8 registers of any vector width */

/* ---- portable ---- */

static void widen(int16_t *to, const int8_t *from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = from[i];
}

/* Sums of TOKENS x OUTPUTS products; compilers turn it into pmaddwd and its relatives. */
static void block(int32_t sum[TOKENS][OUTPUTS], const int16_t *restrict x, const int16_t *restrict w,
                  int in) {
    const int16_t *restrict x1 = x + in;
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
    return (OUTPUTS + TOKENS) * (size_t)in * sizeof(int16_t);
}

static void portable(float *y, const Int8Rows *x, int rows, const Int8Linear *layer, int from, int to,
                     Int8Next next, void *scratch) {
    const size_t in = (size_t)layer->in, out = (size_t)layer->out;
    int16_t *w = scratch, *q = w + OUTPUTS * in;
    (void)next;
    for (int o = from; o < to; o += OUTPUTS) {
        const int outputs = to - o < OUTPUTS ? to - o : OUTPUTS;
        memset(w, 0, OUTPUTS * in * sizeof *w);
        widen(w, (const int8_t *)layer->w + (size_t)o * in, (size_t)outputs * in);
        for (int n = 0; n < rows; n += TOKENS) {
            const int tokens = rows - n < TOKENS ? rows - n : TOKENS;
            int32_t sum[TOKENS][OUTPUTS];
            for (int t = 0; t < TOKENS; t++)
                widen(q + (size_t)t * in, x->q + (size_t)(t < tokens ? n + t : n) * x->stride, in);
            block(sum, q, w, layer->in);
            for (int t = 0; t < tokens; t++)
                for (int k = 0; k < outputs; k++) {
                    const float scale = x->scale[n + t] * layer->scale[o + k];
                    y[(size_t)(n + t) * out + (size_t)(o + k)] =
                        (float)sum[t][k] * scale + layer->bias[o + k];
                }
        }
    }
}

const Int8Kernels int8_portable = {"portable", &lanes_baseline, 0, portable};

/* ---- packing ---- */

static void pack_panel(uint8_t *panel, size_t in, uint8_t *copy) {
    memcpy(copy, panel, INT8_PANEL * in);
    const size_t fours = in / 4;
    for (size_t k = 0; k < fours; k++)
        for (size_t o = 0; o < INT8_PANEL; o++, panel += 4) {
            uint32_t four;
            memcpy(&four, copy + o * in + 4 * k, 4);
            four ^= 0x80808080u;
            memcpy(panel, &four, 4);
        }
    for (size_t i = 4 * fours; i < in; i++)
        for (size_t o = 0; o < INT8_PANEL; o++) *panel++ = copy[o * in + i] ^ 0x80u;
}

void int8_pack(void *w, int out, int in, void *scratch) {
    uint8_t *panel = w;
    for (int o = 0; o + INT8_PANEL <= out; o += INT8_PANEL, panel += INT8_PANEL * (size_t)in)
        pack_panel(panel, (size_t)in, scratch);
}

void int8_tail(int32_t *sums, const int8_t *q, const uint8_t *w, int in, int from, int outputs) {
    const int whole = in / 4 * 4;
    for (int o = 0; o < outputs; o++) {
        const uint8_t *panel = w + (size_t)(o / INT8_PANEL) * INT8_PANEL * (size_t)in;
        const int k = o % INT8_PANEL;
        for (int i = from; i < whole; i++) sums[o] += q[i] * panel[INT8_PANEL * (i / 4 * 4) + 4 * k + i % 4];
        for (int i = whole; i < in; i++) sums[o] += q[i] * panel[INT8_PANEL * i + k];
    }
}

void int8_rest(float *y, const Int8Rows *x, int rows, const Int8Linear *layer) {
    const size_t in = (size_t)layer->in, out = (size_t)layer->out;
    for (size_t o = out / INT8_PANEL * INT8_PANEL; o < out; o++) {
        const int8_t *w = (const int8_t *)layer->w + o * in;
        for (int n = 0; n < rows; n++) {
            const int8_t *q = x->q + (size_t)n * x->stride;
            int32_t sum = 0;
            for (size_t i = 0; i < in; i++) sum += q[i] * w[i];
            const float scale = x->scale[n] * layer->scale[o];
            y[(size_t)n * out + o] = (float)sum * scale + layer->bias[o];
        }
    }
}

/* ---- choosing ---- */

int int8_agrees(const Int8Kernels *kernels) {
    /* Every size has a tail. */
    enum { ROWS = 35, OUT = 5 * INT8_PANEL, IN = 64 * 2 + 12 };
    static const float BIAS[OUT], SCALE[OUT] = {1, 0.5f, 3};
    int8_t q[ROWS][IN], w[OUT * IN], packed[OUT * IN];
    float scale[ROWS], y[2][ROWS * OUT];
    int32_t start[ROWS];
    _Alignas(64) char scratch[INT8_PANEL * IN];
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof w; i++)
        w[i] = (int8_t)(uint8_t)((random = random * 1664525u + 1013904223u) >> 24);
    for (int n = 0; n < ROWS; n++) {
        start[n] = 0;
        scale[n] = 1.0f;
        for (int i = 0; i < IN; i++) {
            q[n][i] = (int8_t)((int)((random = random * 1664525u + 1013904223u) >> 24) % 255 - 127);
            start[n] -= 128 * q[n][i];
        }
    }
    memcpy(packed, w, sizeof w);
    int8_pack(packed, OUT, IN, scratch);
    const Int8Rows x = {&q[0][0], scale, start, IN};
    portable(y[0], &x, ROWS, &(Int8Linear){w, SCALE, BIAS, OUT, IN}, 0, OUT, (Int8Next){0}, scratch);
    kernels->linear(y[1], &x, ROWS, &(Int8Linear){packed, SCALE, BIAS, OUT, IN}, 0, OUT, (Int8Next){0},
                    scratch);
    int same = 1;
    for (size_t i = 0; i < ROWS * OUT; i++) same = same && y[0][i] == y[1][i];
    return same;
}

const Int8Kernels *int8_pick(unsigned features) {
    static const struct {
        const Int8Kernels *kernels;
        unsigned needs;
    } SETS[] = {
#if defined(__x86_64__)
        {&int8_amx, CPU_AMX_INT8 | CPU_AVX512_VNNI},
        {&int8_avx512vnni, CPU_AVX512 | CPU_AVX512_VNNI},
        {&int8_avxvnni, CPU_AVX2 | CPU_AVX_VNNI},
        {&int8_avx2, CPU_AVX2},
#elif defined(__aarch64__)
        {&int8_neon, CPU_NEON_DOT},
#endif
        {&int8_portable, 0}
    };
    for (size_t i = 0; i < sizeof SETS / sizeof *SETS; i++) {
        if ((features & SETS[i].needs) != SETS[i].needs) continue;
        if (!(SETS[i].needs & CPU_AMX_INT8) || int8_agrees(SETS[i].kernels)) return SETS[i].kernels;
    }
    return &int8_portable;
}
