#define _GNU_SOURCE /* syscall */
#include "core/cpu.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILES = 18 };

/* Register sets that the operating system saves (XCR0). */
static unsigned saved_states(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static unsigned processor(void) {
    unsigned a, b, c, d, a1 = 0, b1, c1, d1, features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX)) return 0;
    const unsigned states = saved_states();
    const int fma = (c & bit_FMA) && (c & bit_F16C);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (a >= 1) (void)__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    if ((states & 0x6) != 0x6 || !fma || !(b & 1u << 5)) return 0;
    features |= CPU_AVX2;
    if (a1 & 1u << 4) features |= CPU_AVX_VNNI;
    const unsigned foundation = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((states & 0xe6) != 0xe6 || (b & foundation) != foundation) return features;
    features |= CPU_AVX512;
    if (c & 1u << 11) features |= CPU_AVX512_VNNI;
    if (a1 & 1u << 5) features |= CPU_AVX512_BF16;
    const unsigned tiles = 1u << 24;
    if ((states & 0x60000) != 0x60000 || !(d & tiles)) return features;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILES) != 0) return features;
    if (d & 1u << 22) features |= CPU_AMX_BF16;
    if (d & 1u << 25) features |= CPU_AMX_INT8;
    return features;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static unsigned processor(void) {
    enum { DOT_PRODUCTS = 1 << 20 }; /* HWCAP_ASIMDDP */
    return getauxval(AT_HWCAP) & DOT_PRODUCTS ? CPU_NEON_DOT : 0;
}
#else
static unsigned processor(void) {
    return 0;
}
#endif

unsigned cpu_within(unsigned features, const char *most) {
    static const struct {
        const char *name;
        unsigned features;
    } LEVELS[] = {
        {"baseline", 0},
        {"avx2", CPU_AVX2},
        {"avxvnni", CPU_AVX2 | CPU_AVX_VNNI},
        {"avx512", CPU_AVX2 | CPU_AVX512},
        {"avx512vnni", CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI},
        {"avx512bf16", CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AVX512_BF16},
    };
    for (size_t i = 0; most && i < sizeof LEVELS / sizeof LEVELS[0]; i++)
        if (strcmp(most, LEVELS[i].name) == 0) return features & LEVELS[i].features;
    return features;
}

unsigned cpu_features(void) {
    return cpu_within(processor(),
                      getenv("ROUTER_KERNELS")); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
}
