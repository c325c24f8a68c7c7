/* tests/unit.h - what the cmocka programs share: a seed that can be given again, a folder that is removed at the end, small
 * files in it, errors told where they are met, a command run as its users run it, and memory that runs out.
 *
 *     int main(void) {
 *         seed_open();
 *         if (!folder_open("/tmp")) return 1;
 *         const struct CMUnitTest tests[] = {...};
 *         return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
 *     }
 *
 * TEST_SEED in the environment is the seed, TEST_KEEP leaves the folder. */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h wants the four above first */
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/flags.h"
#include "core/mem.h"
#include "core/rng.h"

/* ---- what is expected ---- */

/* Not ERR_OK: the test fails, at this line, with the message. OK is for a call that has `&err` for its last. */
#define ok(rc, err) unit_ok((rc), (err), __FILE__, __LINE__)
#define OK(call)    ok((call), &err)

static inline void unit_ok(ErrCode rc, const Err *err, const char *file, int line) {
    if (rc == ERR_OK) return;
    print_error("ERROR: %s\n", err->msg);
    _fail(file, line);
}

#define assert_near(found, expected, tolerance) \
    unit_near((found), (expected), (tolerance), __FILE__, __LINE__)

static inline void unit_near(double found, double expected, double tolerance, const char *file, int line) {
    if (fabs(found - expected) <= tolerance) return;
    print_error("ERROR: found %.17g, expected %.17g\n", found, expected);
    _fail(file, line);
}

/* Whichever allocation of the call fails, it returns ERR_MEMORY; it makes fewer than `most`. */
#define EACH_ALLOCATION_FAILS(most, call)                                                               \
    do {                                                                                                \
        for (size_t fail_at = 1;; fail_at++) {                                                          \
            mem_fail_at(fail_at);                                                                       \
            const ErrCode failed = (call);                                                              \
            mem_fail_at(0);                                                                             \
            if (failed == ERR_OK) break;                                                                \
            if (failed != ERR_MEMORY) fail_msg("allocation %zu fails: error %d", fail_at, (int)failed); \
            assert_true(fail_at < (most));                                                              \
        }                                                                                               \
    } while (0)

/* ---- random numbers ---- */

static uint64_t seed, drawn; /* fresh for each run, printed */

static inline void seed_open(void) {
    const char *given = getenv("TEST_SEED"); /* NOLINT(concurrency-mt-unsafe) */
    seed = given ? (uint64_t)strtoull(given, NULL, 10) : (uint64_t)time(NULL) * 1000 + (uint64_t)getpid();
    print_message("TEST_SEED=%llu\n", (unsigned long long)seed);
}

/* The next number below a bound. */
static inline uint64_t draw64(uint64_t below) {
    return rng_bits(seed, drawn++) % below;
}

static inline int draw(int below) {
    return (int)draw64((uint64_t)below);
}

/* The same for the same (where, i): a number below n, one in (0, 1). */
static inline size_t pick(const char *where, uint64_t i, size_t n) {
    return (size_t)(rng_key(seed, where, i) % n);
}

static inline double uniform(const char *where, uint64_t i) {
    return rng_uniform(rng_key(seed, where, 0), i);
}

/* ---- the folder of this run, and files in it ---- */

static char folder[64];

static inline bool folder_open(const char *dir) {
    (void)snprintf(folder, sizeof folder, "%s/router-test.XXXXXX", dir);
    return mkdtemp(folder) != NULL;
}

/* Exit status of a program with so many failed tests. */
static inline int folder_close(int failed) {
    if (getenv("TEST_KEEP")) return failed; /* NOLINT(concurrency-mt-unsafe) */
    return file_remove_dir(folder, NULL) == ERR_OK ? failed : 1;
}

/* A path, which stays valid for the next 127 calls; in_folder makes two of them. */
static inline __attribute__((format(printf, 1, 2))) const char *path_of(const char *fmt, ...) {
    static char paths[128][512];
    static size_t next;
    char *path = paths[next++ % 64];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(path, sizeof paths[0], fmt, ap);
    va_end(ap);
    return path;
}

#define in_folder(...) path_of("%s/%s", folder, path_of(__VA_ARGS__))

/* Where the data lies that is not in the repository: corpora, golden values. */
static inline const char *shared(const char *name) {
    const char *dir = getenv("ROUTER_SHARED"); /* NOLINT(concurrency-mt-unsafe) */
    return path_of("%s/%s", dir && *dir ? dir : ROUTER_SOURCE_DIR "/../shared", name);
}

/* The test is skipped where it is absent. */
static inline const char *need_shared(const char *name) {
    const char *path = shared(name);
    if (file_exists(path) || file_is_dir(path)) return path;
    print_message("skipped: %s is absent (ROUTER_SHARED names another folder)\n", path);
    skip();
    return path;
}

/* The file's path. */
static inline const char *save_bytes(const char *name, const void *bytes, size_t n) {
    const char *path = in_folder("%s", name);
    assert_int_equal(file_save(path, bytes, n, NULL), ERR_OK);
    return path;
}

static inline const char *save(const char *name, const char *text) {
    return save_bytes(name, text, strlen(text));
}

/* Terminated, also where it is empty. */
static inline void read_file(Buf *out, const char *path) {
    Err err = {0};
    OK(file_read(out, path, (size_t)64 << 20, &err));
    if (!out->data) buf_puts(out, "");
}

/* The message, from behind the folder where it begins with that. */
static inline void assert_says(const Err *err, const char *expected) {
    const char *found = err->msg;
    if (strncmp(found, folder, strlen(folder)) == 0) found += strlen(folder) + 1;
    assert_string_equal(found, expected);
}

/* ---- commands ---- */

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* What the command prints is in *out, which may be NULL. Where mem_fail_at was called before, it is for the command alone. */
static inline ErrCode run_command(const Command *command, Buf *out, Err *err, const char *const *args) {
    char *argv[32];
    int argc = 0;
    for (; args[argc]; argc++) argv[argc] = (char *)(uintptr_t)args[argc];
    FlagList arguments = {0};
    bool help = false;
    char *text = NULL;
    size_t n = 0;
    void *options = calloc(1, command->options_bytes);
    FILE *file = open_memstream(&text, &n);
    assert_true(options && file);
    ErrCode rc = flags_parse(command, options, &arguments, &help, argc, argv, err);
    if (rc == ERR_OK) rc = command->run(options, &arguments, file, err);
    mem_fail_at(0);
    (void)fclose(file);
    if (out) {
        buf_clear(out);
        buf_put(out, text, n);
    }
    free(text);
    flags_free(command, options, &arguments);
    free(options);
    return rc;
}

/* Waits for a child. Its exit status, or minus the signal that ended it. */
static inline int finish(pid_t pid) {
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#endif
