/* model/gemm_amx.c - the kernel of gemm.h for AMX: two by two tiles of sums, so that each tile that is loaded is used
 * twice. Written over five operations on tiles, which are the instructions, or (compiled with GEMM_AMX_EMULATED) plain C
 * with the semantics of the architecture's manual, so that a test can run the same code where there is no AMX.
 *
 * Written without access to such a processor: it is chosen only after gemm_kernel_works. */
#include <string.h>

#include "model/gemm_kernels.h"

enum {
    TILE_ROWS = 16,
    LINE = 32,
    ROWS = 2 * TILE_ROWS,
    TILE = TILE_ROWS * LINE /* numbers of an operand's tile */
};

#ifdef GEMM_AMX_EMULATED

static float sums[4][TILE_ROWS][TILE_ROWS];
static uint16_t operands[4][TILE_ROWS][LINE];

static float widen(uint16_t h) {
    const uint32_t bits =
        (h & 0x7f80u) ? (uint32_t)h << 16 : (uint32_t)(h & 0x8000u) << 16; /* subnormals are zero */
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void emulated_multiply(float to[TILE_ROWS][TILE_ROWS], uint16_t a[TILE_ROWS][LINE],
                              uint16_t b[TILE_ROWS][LINE]) {
    for (int m = 0; m < TILE_ROWS; m++)
        for (int k = 0; k < TILE_ROWS; k++)
            for (int n = 0; n < TILE_ROWS; n++) {
                to[m][n] += widen(a[m][2 * k]) * widen(b[k][2 * n]);
                to[m][n] += widen(a[m][2 * k + 1]) * widen(b[k][2 * n + 1]);
            }
}

#define TILE_ZERO(t) memset(sums[t], 0, sizeof sums[t])
#define TILE_LOAD_SUMS(t, p, s) \
    for (int r = 0; r < TILE_ROWS; r++) memcpy(sums[t][r], (p) + (size_t)r * (s), sizeof sums[t][r])
#define TILE_STORE(t, p, s) \
    for (int r = 0; r < TILE_ROWS; r++) memcpy((p) + (size_t)r * (s), sums[t][r], sizeof sums[t][r])
#define TILE_LOAD(t, p)        memcpy(operands[(t)-4], p, sizeof operands[0])
#define TILE_MULTIPLY(t, a, b) emulated_multiply(sums[t], operands[(a)-4], operands[(b)-4])
#define KERNEL                 gemm_kernel_amx_emulated
#define KERNEL_NAME            "amx-emulated"
#define BEGIN                  NULL
#define END                    NULL

#else

#include <immintrin.h>

/* All eight tiles: 16 rows of 64 bytes. By asm, as gcc 12's intrinsic claims to read 8 of the 64 bytes only, so that the
 * stores into it may be left out. */
static void begin(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.bytes[t] = 2 * LINE;
        config.rows[t] = TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

static void end(void) {
    __asm__ volatile("tilerelease" ::: "memory");
}

#define TILE_ZERO(t)            _tile_zero(t)
#define TILE_LOAD_SUMS(t, p, s) _tile_loadd(t, p, (s) * sizeof(float))
#define TILE_STORE(t, p, s)     _tile_stored(t, p, (s) * sizeof(float))
#define TILE_LOAD(t, p)         _tile_loadd(t, p, 2 * LINE)
#define TILE_MULTIPLY(t, a, b)  _tile_dpbf16ps(t, a, b)
#define KERNEL                  gemm_kernel_amx
#define KERNEL_NAME             "amx"
#define BEGIN                   begin
#define END                     end

#endif

/* Tiles 0 .. 3 are sums (0 1 / 2 3), 4 and 5 rows of A, 6 and 7 panels of B. */
static void block(float *c, size_t ldc, const void *packed_a, const void *packed_b, size_t next, int chunks,
                  bool add) {
    const uint16_t *a = packed_a, *b = packed_b;
    const size_t panel = next / sizeof *b;
    float *lower = c + TILE_ROWS * ldc;
    __asm__ volatile("" ::: "memory"); /* tile loads do not tell the compiler what they read */
    if (add) {
        TILE_LOAD_SUMS(0, c, ldc);
        TILE_LOAD_SUMS(1, c + TILE_ROWS, ldc);
        TILE_LOAD_SUMS(2, lower, ldc);
        TILE_LOAD_SUMS(3, lower + TILE_ROWS, ldc);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    for (; chunks > 0; chunks--, a += 2 * TILE, b += TILE) {
        TILE_LOAD(6, b);
        TILE_LOAD(7, b + panel);
        TILE_LOAD(4, a);
        TILE_LOAD(5, a + TILE);
        TILE_MULTIPLY(0, 4, 6);
        TILE_MULTIPLY(1, 4, 7);
        TILE_MULTIPLY(2, 5, 6);
        TILE_MULTIPLY(3, 5, 7);
    }
    TILE_STORE(0, c, ldc);
    TILE_STORE(1, c + TILE_ROWS, ldc);
    TILE_STORE(2, lower, ldc);
    TILE_STORE(3, lower + TILE_ROWS, ldc);
    __asm__ volatile("" ::: "memory");
}

const GemmKernel KERNEL = {
    .name = KERNEL_NAME, .rows = ROWS, .block = block, .begin = BEGIN, .end = END, GEMM_BF16_PACKING};
