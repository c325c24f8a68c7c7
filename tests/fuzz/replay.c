/* tests/fuzz/replay.c - runs a fuzz target over stored inputs with any compiler, as an ordinary test.
 * usage: replay_NAME DIR_OR_FILE... */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

static int ran;

static int fail(const char *path, const char *why) {
    (void)fprintf(stderr, "replay: %s: %s\n", path, why);
    return 1;
}

static int replay_file(const char *path) {
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || stat(path, &st) != 0) {
        if (f) (void)fclose(f);
        return fail(path, "cannot be opened");
    }
    /* A heap block of exactly this size, so that AddressSanitizer sees a read of one byte too many. */
    const size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size ? size : 1);
    const int bad = !data || fread(data, 1, size, f) != size;
    (void)fclose(f);
    if (!bad) {
        (void)printf("%s (%zu bytes)\n", path, size);
        (void)fflush(stdout);
        (void)LLVMFuzzerTestOneInput(data, size);
        ran++;
    }
    free(data);
    return bad ? fail(path, "cannot be read") : 0;
}

static int replay_dir(const char *dir) {
    struct dirent **names;
    const int count = scandir(dir, &names, NULL, alphasort);
    if (count < 0) return replay_file(dir);
    int bad = 0;
    for (int i = 0; i < count; i++) {
        char path[4096];
        const int n = snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            bad |= n < 0 || (size_t)n >= sizeof path ? fail(dir, "path too long") : replay_file(path);
        free(names[i]);
    }
    free(names);
    return bad;
}

int main(int argc, char **argv) {
    int bad = 0;
    if (LLVMFuzzerInitialize) (void)LLVMFuzzerInitialize(&argc, &argv);
    (void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) bad |= replay_dir(argv[i]);
    if (!ran) return fail(argc > 1 ? argv[1] : "arguments", "no inputs found");
    (void)printf("%d inputs, none crashed\n", ran);
    return bad;
}
