/* The register loops of x86 processors: enough independent sums to hide the latency of each instruction, few
 * enough to stay in registers. */
#if defined(__x86_64__)
#define _GNU_SOURCE /* syscall */
#endif

#include "eval/peaks.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET(sets) __attribute__((target(sets), noinline))

/* A register that the compiler must take as changed, so that it hoists nothing out of a loop. */
#define CHANGED(value) __asm__ volatile("" : "+v"(value))

TARGET("avx2,fma") static void fp32_avx2(int64_t iterations) {
    __m256 a[12];
    const __m256 m = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
    for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps((float)i);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = _mm256_fmadd_ps(a[i], m, c);
    for (int i = 0; i < 12; i++) CHANGED(a[i]);
}

TARGET("avx512f") static void fp32_avx512(int64_t iterations) {
    __m512 a[16];
    const __m512 m = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int i = 0; i < 16; i++) a[i] = _mm512_set1_ps((float)i);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = _mm512_fmadd_ps(a[i], m, c);
    for (int i = 0; i < 16; i++) CHANGED(a[i]);
}

TARGET("avx512f,avx512bf16") static void bf16_avx512(int64_t iterations) {
    __m512 a[16];
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c243c25), y = (__m512bh)_mm512_set1_epi32(0x3c26bc23);
    for (int i = 0; i < 16; i++) a[i] = _mm512_set1_ps((float)i);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = _mm512_dpbf16_ps(a[i], x, y);
    for (int i = 0; i < 16; i++) CHANGED(a[i]);
}

/* Without VNNI: bytes to 16 bits, to 32 bits, added. */
TARGET("avx2") static void int8_avx2(int64_t iterations) {
    __m256i a[8], x[2], y[4];
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 8; i++) a[i] = _mm256_set1_epi32(i);
    for (int i = 0; i < 2; i++) x[i] = _mm256_set1_epi8((char)(i + 3));
    for (int i = 0; i < 4; i++) y[i] = _mm256_set1_epi8((char)(i - 2));
    for (int64_t n = 0; n < iterations; n++) {
        CHANGED(x[0]);
        CHANGED(x[1]);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x[i / 4], y[i % 4]), ones));
    }
    for (int i = 0; i < 8; i++) CHANGED(a[i]);
}

TARGET("avx2,avxvnni") static void int8_avxvnni(int64_t iterations) {
    __m256i a[12];
    const __m256i x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(-2);
    for (int i = 0; i < 12; i++) a[i] = _mm256_set1_epi32(i);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = _mm256_dpbusd_avx_epi32(a[i], x, y);
    for (int i = 0; i < 12; i++) CHANGED(a[i]);
}

TARGET("avx512f,avx512vnni") static void int8_avx512(int64_t iterations) {
    __m512i a[16];
    const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(-2);
    for (int i = 0; i < 16; i++) a[i] = _mm512_set1_epi32(i);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
    for (int i = 0; i < 16; i++) CHANGED(a[i]);
}

/* ---- AMX: two by two tiles of sums, the shape that a product of matrices uses ---- */

/* Eight tiles of 16 rows of 64 bytes. The instruction as such, for gcc 12's intrinsic says that it reads eight
 * bytes only. */
TARGET("amx-tile") static void amx_begin(void) {
    struct {
        unsigned char palette, start_row, reserved[14];
        uint16_t columns[16];
        unsigned char rows[16];
    } config = {.palette = 1};
    _Static_assert(sizeof config == 64, "the processor reads 64 bytes");
    for (int i = 0; i < 8; i++) {
        config.columns[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

TARGET("amx-tile,amx-bf16") static void bf16_amx(int64_t iterations) {
    amx_begin();
    for (int64_t n = 0; n < iterations; n++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

TARGET("amx-tile,amx-int8") static void int8_amx(int64_t iterations) {
    amx_begin();
    for (int64_t n = 0; n < iterations; n++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
}

/* ---- what the processor has: asked by cpuid, for compilers name only some of these sets ---- */

typedef struct {
    bool avx2, avx512, avxvnni, avx512vnni, avx512bf16, amx_bf16, amx_int8;
} Has;

static bool bit(unsigned word, int i) {
    return (word >> i) & 1u;
}

static Has ask(void) {
    Has h = {0};
    unsigned a, b, c, d, most, xcr0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return h; /* OSXSAVE */
    const bool fma = bit(c, 12);
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &most, &b, &c, &d)) return h;
    const bool ymm = (xcr0 & 0x6u) == 0x6u, zmm = (xcr0 & 0xe6u) == 0xe6u;
    h.avx2 = ymm && fma && bit(b, 5);
    h.avx512 = zmm && bit(b, 16);
    h.avx512vnni = h.avx512 && bit(c, 11);
    /* The kernel must be asked for the tiles' state: ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA. */
    const bool tiles =
        bit(d, 24) && (xcr0 & 0x60000u) == 0x60000u && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    h.amx_bf16 = tiles && bit(d, 22);
    h.amx_int8 = tiles && bit(d, 25);
    if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        h.avxvnni = h.avx2 && bit(a, 4);
        h.avx512bf16 = h.avx512 && bit(a, 5);
    }
    return h;
}

int peaks_x86(PeaksKernel *out, int most) {
    const Has h = ask();
    const struct {
        bool has;
        PeaksKernel kernel;
    } all[] = {
        {h.avx2, {"fp32 FMA, AVX2", "fp32_avx2", PEAKS_FP32, false, 12 * 16, fp32_avx2}},
        {h.avx512, {"fp32 FMA, AVX-512", "fp32_avx512", PEAKS_FP32, false, 16 * 32, fp32_avx512}},
        {h.avx512bf16, {"bf16 dot, AVX512-BF16", "bf16_avx512", PEAKS_BF16, false, 16 * 64, bf16_avx512}},
        {h.amx_bf16, {"bf16 tiles, AMX", "bf16_amx", PEAKS_BF16, true, 4 * 16384, bf16_amx}},
        {h.avx2, {"int8 dot, AVX2", "int8_avx2", PEAKS_INT8, false, 8 * 64, int8_avx2}},
        {h.avxvnni, {"int8 dot, AVX-VNNI", "int8_avxvnni", PEAKS_INT8, false, 12 * 64, int8_avxvnni}},
        {h.avx512vnni,
         {"int8 dot, AVX512-VNNI", "int8_avx512vnni", PEAKS_INT8, false, 16 * 128, int8_avx512}},
        {h.amx_int8, {"int8 tiles, AMX", "int8_amx", PEAKS_INT8, true, 4 * 32768, int8_amx}},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all && count < most; i++)
        if (all[i].has) out[count++] = all[i].kernel;
    return count;
}

#else

int peaks_x86(PeaksKernel *out, int most) {
    (void)out;
    (void)most;
    return 0;
}

#endif
