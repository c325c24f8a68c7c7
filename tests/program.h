/* tests/program.h - the program as a process of its own, which a test can stop: its messages go to "stderr" in the folder
 * of tests/unit.h, its output nowhere. */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "core/progress.h"
#include "tests/unit.h"

typedef struct {
    pid_t pid;
    double started;
} Run;

static rlim_t file_limit = RLIM_INFINITY; /* what the disk can still take, for the next run */

/* args: the program's, its own name first; NULL at the end. */
static inline Run spawn(const char *const *args) {
    (void)fflush(NULL);
    const Run run = {fork(), progress_clock()};
    if (run.pid < 0) fail_msg("fork failed"); /* kill(-1, ...) would end everything */
    if (run.pid != 0) return run;
    const int log = open(in_folder("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0600),
              null = open("/dev/null", O_WRONLY);
    const struct rlimit limit = {file_limit, file_limit};
    if (log < 0 || null < 0 || dup2(log, 2) < 0 || dup2(null, 1) < 0 || setrlimit(RLIMIT_FSIZE, &limit) != 0)
        _exit(99);
    (void)execv(ROUTER_PROGRAM, (char *const *)(uintptr_t)args);
    _exit(98);
}

static inline const char *messages(void) {
    static Buf text;
    read_file(&text, in_folder("stderr"));
    return text.data;
}

static inline void expect(int status, Run run) {
    const int found = finish(run.pid);
    if (found != status) fail_msg("exit status %d, expected %d: %s", found, status, messages());
}

static inline void wait_seconds(double seconds) {
    const struct timespec t = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    (void)nanosleep(&t, NULL);
}

static inline void assert_same_file(const char *a, const char *b) {
    Buf x = {0}, y = {0};
    read_file(&x, a);
    read_file(&y, b);
    if (x.len != y.len || memcmp(x.data, y.data, x.len) != 0) fail_msg("%s and %s differ", a, b);
    buf_free(&x);
    buf_free(&y);
}

#endif
