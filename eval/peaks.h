/* eval/peaks.h - what this machine's cores and memory can do at most: the yardstick of `router bench`.
 *
 * Arithmetic peaks are loops in registers, without memory traffic, one for each instruction set that the processor has;
 * memory is read through buffers far larger than its caches, as one stream and as eight that alternate (one stream alone
 * does not keep the memory busy), and changed in place (read and written, both counted). Each is measured on one thread and on all of the pool, in short samples: the best one
 * says what the hardware can do, the median what it did while other work ran beside.
 *
 * AMX units of virtual machines were seen to run in two modes, about 16 and about 38 cycles for a multiplication of tiles,
 * which change within milliseconds and which nobody here chooses. A sample slower than PEAKS_SLOW of the best one counts
 * as slow, and each mode has a median of its own. */
#ifndef EVAL_PEAKS_H
#define EVAL_PEAKS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"

typedef enum { PEAKS_FP32, PEAKS_BF16, PEAKS_INT8, PEAKS_READ, PEAKS_UPDATE } PeaksKind;

#define PEAKS_MAX     16
#define PEAKS_SAMPLES 64
#define PEAKS_SLOW    0.65 /* between 16/38 and 1, at their geometric mean */

/* Operations (a multiply-add is two) or bytes, per second. */
typedef struct {
    double best, median;
    double slow_median; /* AMX: of the slow samples, or 0; the median above is then that of the fast ones */
    int samples, slow;
} PeaksRate;

typedef struct {
    const char *name, *key; /* "fp32 FMA, AVX-512", "fp32_avx512" */
    PeaksKind kind;
    PeaksRate one, all;
} PeaksRow;

typedef struct {
    PeaksRow rows[PEAKS_MAX];
    int count, threads;
} Peaks;

/* Takes about `seconds` for each row and number of threads, and half a gigabyte while it runs. */
ErrCode peaks_measure(Peaks *out, Threads *threads, double seconds, Err *err) ERR_CHECKED;

/* The best of all rows of a kind; 0 when the processor has none. */
double peaks_best(const Peaks *peaks, PeaksKind kind, bool all_threads);

/* ---- shared by peaks.c and peaks_x86.c ---- */

typedef struct {
    const char *name, *key;
    PeaksKind kind;
    bool amx;
    double operations; /* of one iteration */
    void (*run)(int64_t iterations);
} PeaksKernel;

/* Those of an x86 processor that this one has, at most `most`; returns their number (0 on others). */
int peaks_x86(PeaksKernel *out, int most);

#endif
