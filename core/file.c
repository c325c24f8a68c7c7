#include "core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/mem.h"

static ErrCode io_error(Err *err, const char *path, const char *verb) {
    char why[128];
    if (strerror_r(errno, why, sizeof why) != 0) (void)snprintf(why, sizeof why, "error %d", errno);
    return err_set(err, ERR_IO, "%s: cannot %s: %s", path, verb, why);
}

ErrCode file_read(Buf *out, const char *path, size_t max_bytes, Err *err) {
    buf_clear(out);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_error(err, path, "open");
    ErrCode rc = ERR_OK;
    for (;;) {
        char *to = buf_reserve(out, 65536);
        if (!to) {
            rc = buf_ok(out, err);
            break;
        }
        const ssize_t n = read(fd, to, 65536);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            rc = io_error(err, path, "read");
            break;
        }
        out->len += (size_t)n;
        out->data[out->len] = 0;
        if (out->len > max_bytes) {
            rc = err_set(err, ERR_FORMAT, "%s: larger than the %zu bytes that such a file may have", path,
                         max_bytes);
            break;
        }
        if (n == 0) break;
    }
    close(fd);
    return rc;
}

ErrCode file_open(File *file, const char *path, Err *err) {
    *file = (File){0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_error(err, path, "open");
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, ERR_IO, "%s: not a regular file", path);
    }
    file->path = mem_strdup(path);
    if (!file->path) {
        close(fd);
        return err_set(err, ERR_MEMORY, "out of memory opening %s", path);
    }
    file->fd_plus_1 = fd + 1;
    file->size = (uint64_t)st.st_size;
    return ERR_OK;
}

ErrCode file_read_at(const File *file, void *out, uint64_t offset, size_t n, Err *err) {
    char *to = out;
    while (n > 0) {
        const size_t want = n < ((size_t)1 << 30) ? n : (size_t)1 << 30;
        const ssize_t got = pread(file->fd_plus_1 - 1, to, want, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return io_error(err, file->path, "read");
        if (got == 0)
            return err_set(err, ERR_FORMAT, "%s: ends at byte %llu where %zu more bytes were expected",
                           file->path, (unsigned long long)offset, n);
        to += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return ERR_OK;
}

void file_close(File *file) {
    if (file->fd_plus_1) close(file->fd_plus_1 - 1);
    mem_free(file->path);
    *file = (File){0};
}

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

ErrCode file_list(char ***names, size_t *count, const char *dir, Err *err) {
    *names = NULL;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d) return io_error(err, dir, "open");
    ErrCode rc = ERR_OK;
    const struct dirent *entry;
    while ((entry = readdir(d)) != NULL) { /* NOLINT(concurrency-mt-unsafe): the stream is ours alone */
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char **more = mem_resize(*names, *count + 1, sizeof **names);
        if (more) *names = more;
        char *name = more ? mem_strdup(entry->d_name) : NULL;
        if (!name) {
            rc = err_set(err, ERR_MEMORY, "out of memory listing %s", dir);
            break;
        }
        (*names)[(*count)++] = name;
    }
    closedir(d);
    if (rc != ERR_OK) {
        file_list_free(*names, *count);
        *names = NULL;
        *count = 0;
        return rc;
    }
    if (*count) qsort(*names, *count, sizeof **names, by_bytes);
    return ERR_OK;
}

void file_list_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++) mem_free(names[i]);
    mem_free(names);
}

const char *file_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *file_join(const char *dir, const char *name) {
    const size_t a = strlen(dir), b = strlen(name);
    char *path = mem_resize(NULL, a + b + 2, 1);
    if (!path) return NULL;
    memcpy(path, dir, a);
    size_t at = a;
    if (at && path[at - 1] != '/') path[at++] = '/';
    memcpy(path + at, name, b + 1);
    return path;
}

ErrCode file_create(FileWriter *w, const char *path, Err *err) {
    *w = (FileWriter){0};
    Buf name = {0};
    buf_printf(&name, "%s.%ld.tmp", path, (long)getpid());
    w->path = mem_strdup(path);
    w->temporary = name.data;
    if (name.failed || !w->path) {
        file_abort(w);
        return err_set(err, ERR_MEMORY, "out of memory creating %s", path);
    }
    const int fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        const ErrCode rc = io_error(err, w->temporary, "create");
        mem_free(w->temporary); /* nothing to remove */
        w->temporary = NULL;
        file_abort(w);
        return rc;
    }
    w->fd_plus_1 = fd + 1;
    return ERR_OK;
}

static void write_all(FileWriter *w, const char *bytes, size_t n) {
    while (n > 0 && w->failed == ERR_OK) {
        const ssize_t put = write(w->fd_plus_1 - 1, bytes, n < ((size_t)1 << 30) ? n : (size_t)1 << 30);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            w->failed = io_error(&w->why, w->path, "write");
            return;
        }
        bytes += put;
        n -= (size_t)put;
    }
}

static void flush_pending(FileWriter *w) {
    write_all(w, w->pending.data, w->pending.len);
    buf_clear(&w->pending);
}

void file_write(FileWriter *w, const void *bytes, size_t n) {
    if (w->failed != ERR_OK) return;
    w->written += n;
    if (n < 65536) {
        buf_put(&w->pending, bytes, n);
        if (w->pending.failed) w->failed = buf_ok(&w->pending, &w->why);
        if (w->pending.len >= ((size_t)1 << 20)) flush_pending(w);
        return;
    }
    flush_pending(w);
    write_all(w, bytes, n);
}

static ErrCode sync_dir_of(const char *path, Err *err) {
    char *dir = mem_strdup(path);
    if (!dir) return err_set(err, ERR_MEMORY, "out of memory");
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = 0;
    const char *name = slash ? dir : ".";
    ErrCode rc = ERR_OK;
    const int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP)) rc = io_error(err, name, "sync");
    if (fd >= 0) close(fd);
    mem_free(dir);
    return rc;
}

ErrCode file_commit(FileWriter *w, Err *err) {
    if (w->failed == ERR_OK) flush_pending(w);
    if (w->failed == ERR_OK && fsync(w->fd_plus_1 - 1) != 0 && errno != EINVAL)
        w->failed = io_error(&w->why, w->path, "sync");
    if (w->fd_plus_1 && close(w->fd_plus_1 - 1) != 0 && w->failed == ERR_OK)
        w->failed = io_error(&w->why, w->path, "close");
    w->fd_plus_1 = 0;
    if (w->failed == ERR_OK && rename(w->temporary, w->path) != 0)
        w->failed = io_error(&w->why, w->path, "rename to");
    ErrCode rc = w->failed;
    if (rc != ERR_OK) {
        if (err) *err = w->why;
    } else {
        mem_free(w->temporary); /* it has another name now */
        w->temporary = NULL;
        rc = sync_dir_of(w->path, err);
    }
    file_abort(w);
    return rc;
}

void file_abort(FileWriter *w) {
    if (w->fd_plus_1) close(w->fd_plus_1 - 1);
    if (w->temporary) unlink(w->temporary);
    mem_free(w->temporary);
    mem_free(w->path);
    buf_free(&w->pending);
    *w = (FileWriter){0};
}

ErrCode file_save(const char *path, const void *bytes, size_t n, Err *err) {
    FileWriter w;
    TRY(file_create(&w, path, err));
    file_write(&w, bytes, n);
    return file_commit(&w, err);
}

ErrCode file_copy(const char *to, const char *from, Err *err) {
    File in;
    TRY(file_open(&in, from, err));
    FileWriter out = {0};
    char *block = NULL;
    ErrCode rc = mem_new(&block, 1 << 20, 1, "a copy buffer", err);
    if (rc == ERR_OK) rc = file_create(&out, to, err);
    for (uint64_t at = 0; rc == ERR_OK && at < in.size;) {
        const size_t n = in.size - at < (1 << 20) ? (size_t)(in.size - at) : (size_t)1 << 20;
        rc = file_read_at(&in, block, at, n, err);
        if (rc == ERR_OK) file_write(&out, block, n);
        at += n;
    }
    if (rc == ERR_OK) rc = file_commit(&out, err);
    file_abort(&out);
    file_close(&in);
    mem_free(block);
    return rc;
}

ErrCode file_mkdirs(const char *path, Err *err) {
    char *copy = mem_strdup(path);
    if (!copy) return err_set(err, ERR_MEMORY, "out of memory");
    ErrCode rc = ERR_OK;
    for (char *p = copy + 1; rc == ERR_OK; p++) {
        if (*p != '/' && *p != 0) continue;
        const char end = *p;
        *p = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) rc = io_error(err, copy, "create the directory");
        *p = end;
        if (end == 0) break;
    }
    if (rc == ERR_OK && !file_is_dir(path))
        rc = err_set(err, ERR_IO, "%s: exists and is not a directory", path);
    mem_free(copy);
    return rc;
}

ErrCode file_remove_dir(const char *path, Err *err) {
    struct stat st;
    if (lstat(path, &st) != 0) return ERR_OK;
    if (!S_ISDIR(st.st_mode)) return unlink(path) == 0 ? ERR_OK : io_error(err, path, "remove");
    char **names;
    size_t count;
    TRY(file_list(&names, &count, path, err));
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        char *child = file_join(path, names[i]);
        if (!child) {
            rc = err_set(err, ERR_MEMORY, "out of memory");
        } else if (lstat(child, &st) == 0 && S_ISDIR(st.st_mode)) {
            rc = file_remove_dir(child, err); /* NOLINT(misc-no-recursion) */
        } else if (unlink(child) != 0) {
            rc = io_error(err, child, "remove");
        }
        mem_free(child);
    }
    file_list_free(names, count);
    if (rc == ERR_OK && rmdir(path) != 0) rc = io_error(err, path, "remove");
    return rc;
}

static ErrCode old_name(char **out, const char *path, Err *err) {
    Buf name = {0};
    buf_printf(&name, "%s.old", path);
    *out = name.data;
    return buf_ok(&name, err);
}

ErrCode file_recover_dir(const char *path, Err *err) {
    char *old;
    TRY(old_name(&old, path, err));
    ErrCode rc = ERR_OK;
    if (file_exists(old)) {
        if (file_exists(path))
            rc = file_remove_dir(old, err);
        else if (rename(old, path) != 0)
            rc = io_error(err, old, "rename");
    }
    mem_free(old);
    return rc;
}

ErrCode file_replace_dir(const char *path, const char *temporary, Err *err) {
    TRY(file_recover_dir(path, err));
    char *old;
    TRY(old_name(&old, path, err));
    ErrCode rc = sync_dir_of(temporary, err);
    if (rc == ERR_OK && file_exists(path) && rename(path, old) != 0) rc = io_error(err, path, "rename");
    if (rc == ERR_OK && rename(temporary, path) != 0) rc = io_error(err, temporary, "rename");
    if (rc == ERR_OK) rc = sync_dir_of(path, err);
    if (rc == ERR_OK) rc = file_remove_dir(old, err);
    mem_free(old);
    return rc;
}
