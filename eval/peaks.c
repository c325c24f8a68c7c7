#include "eval/peaks.h"

#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/progress.h"

enum { STREAMS = 8, SAMPLES_LEAST = 3, TARGET_SAMPLES = 12 };

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

/* ---- reading ---- */

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

static void read_one(const Words *p, size_t n) {
    read_as(p, n, 1);
}
static void read_many(const Words *p, size_t n) {
    read_as(p, n, STREAMS);
}

/* ---- samples ---- */

/* Either a kernel for some iterations on each thread, or the buffer once, a part of it on each. */
typedef struct {
    const PeaksKernel *kernel;
    int64_t iterations;
    void (*read)(const Words *p, size_t n);
    const Words *buffer;
    size_t words; /* of one part */
} Sample;

static void sample_task(void *arg, size_t i, int thread) {
    const Sample *s = arg;
    (void)thread;
    if (s->kernel)
        s->kernel->run(s->iterations);
    else
        s->read(s->buffer + i * s->words, s->words);
}

/* Operations or bytes per second of one sample by `parts` threads. */
static double rate_of(const Sample *s, Threads *threads, int parts) {
    const double from = progress_clock();
    threads_run(threads, sample_task, (void *)s, (size_t)parts);
    const double seconds = progress_clock() - from;
    const size_t read = s->words / STREAMS / 4 * 4 * STREAMS; /* what all streams have alike */
    const double work =
        s->kernel ? s->kernel->operations * (double)s->iterations : (double)read * sizeof(Words);
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

static PeaksRate measure(Sample *s, Threads *threads, int parts, double seconds) {
    double rates[PEAKS_SAMPLES];
    int n = 0;
    if (s->kernel) { /* as many iterations as take a twelfth of the time; the first runs also wake the unit */
        const double target = seconds / TARGET_SAMPLES;
        double rate = 0;
        for (s->iterations = 1000; s->iterations < INT64_MAX / 4; s->iterations *= 2) {
            rate = rate_of(s, threads, parts);
            if ((double)s->iterations * s->kernel->operations * parts / rate > target / 4) break;
        }
        s->iterations = (int64_t)(target * rate / s->kernel->operations / parts) + 1;
    }
    const double begin = progress_clock();
    while (n < PEAKS_SAMPLES && (n < SAMPLES_LEAST || progress_clock() - begin < seconds))
        rates[n++] = rate_of(s, threads, parts);
    return summary(rates, n, s->kernel && s->kernel->amx);
}

static void add(Peaks *out, Sample s, Threads *threads, double seconds, const PeaksRow *row) {
    PeaksRow *r = &out->rows[out->count++];
    *r = *row;
    const size_t words = s.words;
    r->one = measure(&s, NULL, 1, seconds);
    s.words = words / (size_t)out->threads;
    r->all = out->threads > 1 ? measure(&s, threads, out->threads, seconds) : r->one;
}

ErrCode peaks_measure(Peaks *out, Threads *threads, double seconds, Err *err) {
    PeaksKernel kernels[PEAKS_MAX - 2];
    *out = (Peaks){.threads = threads_count(threads)};
    Words *buffer;
    TRY(mem_new(&buffer, BUFFER_BYTES, 1, "the buffer whose reading is timed", err));
    kernels[0] = (PeaksKernel){
        "fp32 multiply and add, 128 bits", "fp32_baseline", PEAKS_FP32, false, 96, fp32_baseline};
    const int count = 1 + peaks_x86(kernels + 1, PEAKS_MAX - 3);
    for (int i = 0; i < count; i++)
        add(out, (Sample){.kernel = &kernels[i]}, threads, seconds,
            &(PeaksRow){.name = kernels[i].name, .key = kernels[i].key, .kind = kernels[i].kind});
    const Sample one = {.read = read_one, .buffer = buffer, .words = BUFFER_BYTES / sizeof *buffer};
    const Sample many = {.read = read_many, .buffer = buffer, .words = BUFFER_BYTES / sizeof *buffer};
    add(out, one, threads, seconds,
        &(PeaksRow){.name = "memory, 1 stream", .key = "read_1_stream", .kind = PEAKS_READ});
    add(out, many, threads, seconds,
        &(PeaksRow){.name = "memory, 8 streams", .key = "read_8_streams", .kind = PEAKS_READ});
    mem_free(buffer);
    return ERR_OK;
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
