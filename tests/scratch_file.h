/* tests/scratch_file.h - bytes as a file, for fuzz targets that read files: one nameless file, written anew.
 */
#ifndef TESTS_SCRATCH_FILE_H
#define TESTS_SCRATCH_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static inline const char *scratch_file(const void *bytes, size_t size) {
    static int fd = -1;
    static char path[40];
    if (fd < 0) {
        char in_memory[] = "/dev/shm/fuzz.XXXXXX", on_disk[] = "/tmp/fuzz.XXXXXX";
        fd = mkstemp(in_memory);
        if (fd >= 0) {
            (void)unlink(in_memory);
        } else {
            fd = mkstemp(on_disk);
            if (fd < 0) abort();
            (void)unlink(on_disk);
        }
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || (size && pwrite(fd, bytes, size, 0) != (ssize_t)size)) abort();
    return path;
}

#endif
