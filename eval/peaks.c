#include "eval/peaks.h"

#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/progress.h"

enum { STREAMS = 8, SAMPLES_LEAST = 2, TARGET_SAMPLES = 12, ROUNDS = 2 };

/* Not a power of two, so that the streams do not meet in the same sets of the caches. */
#define BUFFER_BYTES ((size_t)500000000)

typedef float Floats __attribute__((vector_size(16)));
typedef uint64_t Words __attribute__((vector_size(16)));

/* Keeps a value alive without storing it. */
#define KEEP(value) __asm__ volatile("" : : "m"(value))

/* What every processor with 16-byte vectors does: multiply, then add. */
static void fp32_baseline(int64_t iterations) {
    Floats a[12];
    const Floats m = {0.999f, 0.998f, 0.997f, 0.996f}, c = {0.001f, 0.002f, 0.003f, 0.004f};
    for (int i = 0; i < 12; i++) a[i] = c * (float)(i + 1);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = a[i] * m + c;
    for (int i = 0; i < 12; i++) KEEP(a[i]);
}

/* ---- memory ---- */

static inline __attribute__((always_inline)) void read_as(const Words *p, size_t n, int streams) {
    Words sum[4] = {{0}};
    const size_t each = n / (size_t)streams / 4 * 4;
    for (size_t i = 0; i < each; i += 4)
        for (int s = 0; s < streams; s++) {
            const Words *at = p + (size_t)s * each + i;
            for (int k = 0; k < 4; k++) sum[k] ^= at[k];
        }
    for (int k = 0; k < 4; k++) KEEP(sum[k]);
}

static void read_one(Words *p, size_t n) {
    read_as(p, n, 1);
}
static void read_many(Words *p, size_t n) {
    read_as(p, n, STREAMS);
}

static void update(Words *p, size_t n) {
    const Words change = {1, 2};
    for (size_t i = 0; i < n; i++) p[i] ^= change;
}

static const struct {
    const char *name, *key;
    PeaksKind kind;
    int times; /* that each byte passes */
    void (*run)(Words *p, size_t n);
} MEMORY[] = {{"memory, read as 1 stream", "read_1_stream", PEAKS_READ, 1, read_one},
              {"memory, read as 8 streams", "read_8_streams", PEAKS_READ, 1, read_many},
              {"memory, changed in place", "update", PEAKS_UPDATE, 2, update}};
enum { MEMORY_COUNT = 3 };

/* ---- samples ---- */

/* Either a kernel for some iterations on each thread, or the buffer once, a part of it on each. */
typedef struct {
    const PeaksKernel *kernel;
    int64_t iterations;
    int memory; /* number of the line above */
    Words *buffer;
    size_t words; /* of one part, a multiple of 4 * STREAMS */
} Sample;

static void sample_task(void *arg, size_t i, int thread) {
    const Sample *s = arg;
    (void)thread;
    if (s->kernel)
        s->kernel->run(s->iterations);
    else
        MEMORY[s->memory].run(s->buffer + i * s->words, s->words);
}

/* Operations or bytes per second of one sample by `parts` threads. */
static double rate_of(const Sample *s, Threads *threads, int parts) {
    const double from = progress_clock();
    threads_run(threads, sample_task, (void *)s, (size_t)parts);
    const double seconds = progress_clock() - from;
    const double work = s->kernel ? s->kernel->operations * (double)s->iterations
                                  : (double)s->words * sizeof(Words) * (double)MEMORY[s->memory].times;
    return work * parts / seconds;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static PeaksRate summary(double *rates, int n, bool amx) {
    qsort(rates, (size_t)n, sizeof *rates, by_value);
    PeaksRate r = {.best = rates[n - 1], .samples = n};
    while (amx && rates[r.slow] < PEAKS_SLOW * r.best) r.slow++;
    r.median = rates[r.slow + (n - r.slow) / 2];
    if (r.slow) r.slow_median = rates[r.slow / 2];
    return r;
}

/* As many iterations as take this long; the runs that find it also wake the unit. */
static int64_t iterations_for(const Sample *sample, Threads *threads, int parts, double seconds) {
    Sample s = *sample;
    double rate = 0;
    for (s.iterations = 1000; s.iterations < INT64_MAX / 4; s.iterations *= 2) {
        rate = rate_of(&s, threads, parts);
        if ((double)s.iterations * s.kernel->operations * parts / rate > seconds / 4) break;
    }
    return (int64_t)(seconds * rate / s.kernel->operations / parts) + 1;
}

/* ---- rows, each on one thread and on all, in rounds: what else runs here for a second spoils one of them ---- */

typedef struct {
    double rates[PEAKS_SAMPLES];
    int n;
} Series;

typedef struct {
    Peaks *peaks;
    Threads *threads;
    double seconds;
    Sample samples[PEAKS_MAX];
    Series series[PEAKS_MAX][2];
} Rounds;

static void add(Rounds *r, const Sample *s, const char *name, const char *key, PeaksKind kind) {
    r->peaks->rows[r->peaks->count] = (PeaksRow){.name = name, .key = key, .kind = kind};
    r->samples[r->peaks->count++] = *s;
}

static void round_of(Rounds *r, int row, bool all) {
    Sample *s = &r->samples[row];
    Series *series = &r->series[row][all];
    Threads *threads = all ? r->threads : NULL;
    const int parts = all ? r->peaks->threads : 1, before = series->n;
    const double seconds = r->seconds / ROUNDS;
    const size_t unit = (size_t)4 * STREAMS;
    s->words = BUFFER_BYTES / sizeof(Words) / (size_t)parts / unit * unit;
    if (s->kernel) s->iterations = iterations_for(s, threads, parts, r->seconds / TARGET_SAMPLES);
    const double begin = progress_clock();
    while (series->n - before < PEAKS_SAMPLES / ROUNDS &&
           (series->n - before < SAMPLES_LEAST || progress_clock() - begin < seconds))
        series->rates[series->n++] = rate_of(s, threads, parts);
}

static void run_rounds(Rounds *r) {
    Peaks *out = r->peaks;
    const int both = out->threads > 1 ? 2 : 1;
    for (int k = 0; k < ROUNDS; k++)
        for (int row = 0; row < out->count; row++)
            for (int all = 0; all < both; all++) round_of(r, row, all == 1);
    for (int row = 0; row < out->count; row++) {
        const bool amx = r->samples[row].kernel && r->samples[row].kernel->amx;
        Series *s = r->series[row];
        out->rows[row].one = summary(s[0].rates, s[0].n, amx);
        out->rows[row].all = both > 1 ? summary(s[1].rates, s[1].n, amx) : out->rows[row].one;
    }
}

ErrCode peaks_measure(Peaks *out, Threads *threads, double seconds, Err *err) {
    PeaksKernel kernels[PEAKS_MAX - MEMORY_COUNT];
    Rounds *r;
    Words *buffer;
    *out = (Peaks){.threads = threads_count(threads)};
    TRY(mem_new(&r, 1, sizeof *r, "peaks", err));
    const ErrCode rc = mem_new(&buffer, BUFFER_BYTES, 1, "the buffer whose reading is timed", err);
    if (rc == ERR_OK) {
        *r = (Rounds){.peaks = out, .threads = threads, .seconds = seconds};
        kernels[0] = (PeaksKernel){
            "fp32 multiply and add, 128 bits", "fp32_baseline", PEAKS_FP32, false, 96, fp32_baseline};
        const int count = 1 + peaks_x86(kernels + 1, PEAKS_MAX - MEMORY_COUNT - 1);
        for (int i = 0; i < count; i++)
            add(r, &(Sample){.kernel = &kernels[i]}, kernels[i].name, kernels[i].key, kernels[i].kind);
        for (int i = 0; i < MEMORY_COUNT; i++)
            add(r, &(Sample){.memory = i, .buffer = buffer}, MEMORY[i].name, MEMORY[i].key, MEMORY[i].kind);
        run_rounds(r);
        mem_free(buffer);
    }
    mem_free(r);
    return rc;
}

double peaks_best(const Peaks *peaks, PeaksKind kind, bool all_threads) {
    double best = 0;
    for (int i = 0; i < peaks->count; i++) {
        const PeaksRow *r = &peaks->rows[i];
        const double rate = all_threads ? r->all.best : r->one.best;
        if (r->kind == kind && rate > best) best = rate;
    }
    return best;
}
