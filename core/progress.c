#include "core/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static bool is_quiet;

double progress_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_quiet(bool quiet) {
    is_quiet = quiet;
}

void progress_begin(Progress *p, const char *what, uint64_t total, uint64_t done) {
    const char *term = getenv("TERM"); /* NOLINT(concurrency-mt-unsafe): nobody sets the environment */
    *p = (Progress){.what = what, .total = total, .start_done = done, .started = progress_clock()};
    p->terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    p->drawn = p->started - (p->terminal ? 1 : 9); /* the first line comes early */
}

bool progress_due(const Progress *p) {
    return !is_quiet && progress_clock() - p->drawn >= (p->terminal ? 0.1 : 10.0);
}

static void put_duration(char *out, size_t n, double seconds) {
    const long s = seconds < 0 ? 0 : (long)(seconds + 0.5);
    if (s >= 3600)
        (void)snprintf(out, n, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else
        (void)snprintf(out, n, "%ldm%02lds", s / 60, s % 60);
}

static size_t terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) return size.ws_col;
    return 80;
}

void progress_update(Progress *p, uint64_t done, const char *fmt, ...) {
    if (!progress_due(p)) return;
    const double now = progress_clock();
    p->drawn = now;
    char text[256], line[512], eta[32] = "?";
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const double share = p->total ? (double)done / (double)p->total : 0;
    if (p->total && done > p->start_done)
        put_duration(eta, sizeof eta,
                     (now - p->started) / (double)(done - p->start_done) * (double)(p->total - done));
    if (p->terminal) {
        char bar[21];
        for (int i = 0; i < 20; i++) bar[i] = share * 20 > i ? '#' : '.';
        bar[20] = 0;
        (void)snprintf(line, sizeof line, "%s [%s] %3.0f%% %s ETA %s", p->what, bar, 100 * share, text, eta);
        const size_t columns = terminal_columns();
        if (strlen(line) >= columns) line[columns - 1] = 0;
        (void)fprintf(stderr, "\r\033[K%s", line);
        (void)fflush(stderr);
    } else {
        (void)fprintf(stderr, "%s %.1f%% %s ETA %s\n", p->what, 100 * share, text, eta);
    }
}

void progress_note(Progress *p, const char *fmt, ...) {
    if (is_quiet) return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "%s%s\n", p && p->terminal ? "\r\033[K" : "", text);
}

void progress_end(Progress *p) {
    if (p->terminal && !is_quiet) (void)fprintf(stderr, "\r\033[K");
}
