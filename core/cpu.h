/* core/cpu.h - which instruction sets the kernels may use: those that the processor has, the operating system saves,
 * and the environment does not forbid. */
#ifndef CORE_CPU_H
#define CORE_CPU_H

typedef enum {
    CPU_AVX2 = 1, /* and FMA, F16C */
    CPU_AVX_VNNI = 2,
    CPU_AVX512 = 4, /* F, BW, DQ and VL */
    CPU_AVX512_VNNI = 8,
    CPU_AVX512_BF16 = 16,
    CPU_AMX_BF16 = 32, /* with AMX-TILE; this process may use it */
    CPU_AMX_INT8 = 64,
    CPU_NEON_DOT = 128 /* ARM: dot products of 8 bits */
} CpuFeature;

/* The set, within what ROUTER_KERNELS names: see cpu_within. 0 on processors that no kernel is for. AMX is asked of the
 * operating system here, and left out when that refuses. */
unsigned cpu_features(void);

/* features without what is above `most`: "baseline", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16" or "amx",
 * each including those before it (but avx512 not avxvnni's instructions). NULL or any other word: no limit. */
unsigned cpu_within(unsigned features, const char *most);

#endif
