#include "eval/bench.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"

enum { SAMPLES_MOST = 1000, SAMPLES_LEAST = 3, DEVICE_TIMES = 10 };

/* ---- prompts ---- */

/* A number from 2 tokens to what the model takes, at *at, which moves behind it. */
static ErrCode parse_length(int32_t *out, const char **at, const char *flag, int most, Err *err) {
    char *end;
    errno = 0;
    const long n = strtol(*at, &end, 10);
    if (end == *at || errno || n < 2 || n > most)
        return err_set(err, ERR_ARGUMENT, "%s: found '%.40s', expected numbers from 2 to %d", flag, *at,
                       most);
    *out = (int32_t)n;
    *at = end;
    return ERR_OK;
}

static ErrCode parse_lengths(Bench *b, int most, Err *err) {
    const char *at = b->options->lengths;
    b->rows = 1;
    for (const char *p = at; *p; p++) b->rows += *p == ',';
    TRY(mem_new(&b->lengths, (size_t)b->rows, sizeof *b->lengths, "the lengths of the prompts", err));
    for (int i = 0; i < b->rows; i++) {
        TRY(parse_length(&b->lengths[i], &at, "--lengths", most, err));
        if (*at != (i + 1 < b->rows ? ',' : '\0'))
            return err_set(err, ERR_ARGUMENT, "--lengths: found '%.40s', expected numbers and commas", at);
        if (*at) at++;
    }
    return ERR_OK;
}

static ErrCode draw_lengths(Bench *b, int most, Err *err) {
    const char *at = b->options->tokens;
    int32_t low, high;
    TRY(parse_length(&low, &at, "--tokens", most, err));
    high = low;
    if (*at == '-') {
        at++;
        TRY(parse_length(&high, &at, "--tokens", most, err));
    }
    if (*at || high < low)
        return err_set(err, ERR_ARGUMENT, "--tokens: found '%s', expected a number or a range such as 16-128",
                       b->options->tokens);
    b->rows = (int)b->options->rows;
    TRY(mem_new(&b->lengths, (size_t)b->rows, sizeof *b->lengths, "the lengths of the prompts", err));
    for (int i = 0; i < b->rows; i++)
        b->lengths[i] = low + (int32_t)(rng_bits(10, (uint64_t)i) % (uint64_t)(high - low + 1));
    return ERR_OK;
}

static int by_length(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

ErrCode bench_lengths(Bench *b, Err *err) {
    const int most = b->config.max_position_embeddings;
    TRY(b->options->lengths ? parse_lengths(b, most, err) : draw_lengths(b, most, err));
    qsort(b->lengths, (size_t)b->rows, sizeof *b->lengths, by_length);
    b->tokens = 0;
    for (int i = 0; i < b->rows; i++) b->tokens += b->lengths[i];
    return ERR_OK;
}

void bench_ids(int32_t *ids, size_t n, int vocabulary, uint64_t key) {
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(1 + rng_bits(key, i) % (uint64_t)(vocabulary - 1));
}

/* ---- time ---- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

BenchTime bench_time(double seconds, Ops *ops, BenchWork *work, void *context) {
    double took[SAMPLES_MOST];
    const bool device = ops->device;
    const int times = device ? DEVICE_TIMES : 1;
    int n = 0;
    work(context);
    if (device) (void)ops->sync(ops, NULL);
    const double begin = progress_clock();
    while (n < SAMPLES_MOST && (n < SAMPLES_LEAST || progress_clock() - begin < seconds)) {
        const double from = progress_clock();
        for (int i = 0; i < times; i++) work(context);
        if (device) (void)ops->sync(ops, NULL);
        took[n++] = (progress_clock() - from) / times;
    }
    const double median = bench_median(took, n); /* sorts */
    return (BenchTime){took[0], median, n};
}

double bench_peak(const Bench *b) {
    return b->ops.device ? b->device_flops : peaks_best(&b->peaks, b->precision, true);
}

double bench_memory_rate(const Bench *b) {
    return b->ops.device ? b->device_bytes : peaks_best(&b->peaks, PEAKS_UPDATE, true);
}

/* ---- results ---- */

void bench_print(const Bench *b, const char *fmt, ...) {
    if (!b->out) return;
    va_list args;
    va_start(args, fmt);
    (void)vfprintf(b->out, fmt, args);
    va_end(args);
    (void)fflush(b->out); /* whoever watches sees each line when it is known */
}

void bench_number(cJSON *object, const char *key, double value) {
    char text[32];
    (void)snprintf(text, sizeof text, "%.6g", value);
    (void)cJSON_AddRawToObject(object, key, isfinite(value) ? text : "null");
}

/* ---- memory: the kernel's own high-water mark, which it lets us set back ---- */

void bench_memory_reset(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return; /* the mark then stays that of the whole process */
    (void)fputs("5", f);
    (void)fclose(f);
}

double bench_memory_peak(void) {
    double bytes = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0) bytes = 1024 * strtod(line + 6, NULL);
    if (f) (void)fclose(f);
    struct rusage u;
    if (!(bytes > 0) && getrusage(RUSAGE_SELF, &u) == 0) bytes = 1024 * (double)u.ru_maxrss;
    return bytes;
}
