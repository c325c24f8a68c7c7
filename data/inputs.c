#include "data/inputs.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/stop.h"

static ErrCode add_input(Inputs *in, const char *name, const char *path, float weight, Err *err) {
    Input *more = mem_resize(in->items, in->count + 1, sizeof *more);
    if (!more) return err_set(err, ERR_MEMORY, "out of memory for the inputs");
    in->items = more;
    Input *new = &more[in->count++];
    *new = (Input){mem_strdup(name), mem_strdup(path), weight, false};
    return new->name &&new->path ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the inputs");
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

/* What lies in one folder: files to `files`, folders to `folders`. */
static ErrCode list_folder(FlagList *files, FlagList *folders, const char *dir, const char *const *endings,
                           size_t ending_count, Err *err) {
    char **names;
    size_t count;
    TRY(file_list(&names, &count, dir, err));
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        if (names[i][0] == '.') continue;
        char *path = file_join(dir, names[i]);
        struct stat st;
        if (!path) {
            rc = err_set(err, ERR_MEMORY, "out of memory listing %s", dir);
        } else if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) { /* a linked one could lead in a circle */
            rc = flags_list_add(folders, path, strlen(path), err);
        } else {
            bool wanted = false;
            for (size_t k = 0; k < ending_count; k++) wanted = wanted || ends_with(path, endings[k]);
            if (wanted) rc = flags_list_add(files, path, strlen(path), err);
        }
        mem_free(path);
    }
    file_list_free(names, count);
    return rc;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "*.a, *.b or *.c" */
static void put_endings(Buf *out, const char *const *endings, size_t count) {
    for (size_t i = 0; i < count; i++)
        buf_printf(out, "%s*%s", i == 0 ? "" : i + 1 == count ? " or " : ", ", endings[i]);
}

ErrCode inputs_add_folder(Inputs *in, const char *dir, float weight, const char *const *endings,
                          size_t ending_count, Err *err) {
    FlagList files = {0}, folders = {0};
    ErrCode rc = flags_list_add(&folders, dir, strlen(dir), err);
    for (size_t i = 0; i < folders.count && rc == ERR_OK; i++)
        rc = list_folder(&files, &folders, folders.items[i], endings, ending_count, err);
    if (rc == ERR_OK && files.count == 0) {
        Buf wanted = {0};
        put_endings(&wanted, endings, ending_count);
        rc = err_set(err, ERR_ARGUMENT, "%s: no %s in this folder", dir, wanted.data ? wanted.data : "file");
        buf_free(&wanted);
    }
    if (files.count) qsort(files.items, files.count, sizeof *files.items, by_bytes);
    for (size_t i = 0; i < files.count && rc == ERR_OK; i++)
        rc = add_input(in, files.items[i], files.items[i], weight, err);
    flags_list_free(&files);
    flags_list_free(&folders);
    return rc;
}

/* Splits "path=WEIGHT" in place. */
static ErrCode cut_weight(char *path, float *weight, Err *err) {
    *weight = 1;
    char *equals = strrchr(path, '=');
    if (!equals || file_exists(path)) return ERR_OK;
    char *end = NULL;
    const double w = strtod(equals + 1, &end);
    if (end == equals + 1 || *end) return ERR_OK; /* a path that happens to hold '=' */
    *weight = (float)w;
    if (!(w > 0 && w <= 1000) || *weight <= 0)
        return err_set(err, ERR_ARGUMENT, "%s: found weight %s, expected more than 0 and at most 1000", path,
                       equals + 1);
    *equals = 0;
    return ERR_OK;
}

/* What cannot be read twice is copied. */
static ErrCode copy(Inputs *in, const char *name, float weight, const char *spool, Err *err) {
    const bool is_stdin = strcmp(name, "-") == 0;
    Buf path = {0};
    buf_printf(&path, "%s.%ld.input%zu", spool, (long)getpid(), in->count);
    ErrCode rc = buf_ok(&path, err);
    char *block = NULL;
    FileWriter out = {0};
    int fd = -1;
    if (rc == ERR_OK) rc = mem_new(&block, 1 << 16, 1, "a copy of the input", err);
    if (rc == ERR_OK) {
        fd = is_stdin ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0) rc = err_set(err, ERR_IO, "%s: cannot open", name);
    }
    if (rc == ERR_OK) rc = file_create(&out, path.data, err);
    while (rc == ERR_OK) {
        const ssize_t n = read(fd, block, 1 << 16);
        if (n == 0) break;
        if (n > 0) file_write(&out, block, (size_t)n);
        if (stop_requested())
            rc = err_set(err, ERR_INTERRUPTED, "interrupted; nothing was written");
        else if (n < 0 && errno != EINTR)
            rc = err_set(err, ERR_IO, "%s: cannot read", is_stdin ? "stdin" : name);
    }
    if (rc == ERR_OK) rc = file_commit(&out, err);
    if (rc == ERR_OK) {
        rc = add_input(in, is_stdin ? "stdin" : name, path.data, weight, err);
        if (rc == ERR_OK)
            in->items[in->count - 1].spooled = true;
        else
            unlink(path.data);
    }
    file_abort(&out);
    if (!is_stdin && fd >= 0) close(fd);
    mem_free(block);
    buf_free(&path);
    return rc;
}

static ErrCode add_matches(Inputs *in, const char *pattern, float weight, const char *spool, Err *err) {
    glob_t found;
    const int rc_glob = glob(pattern, 0, NULL, &found); /* sorted by bytes: the program sets no locale */
    if (rc_glob == GLOB_NOMATCH) return err_set(err, ERR_IO, "%s: no file has such a name", pattern);
    if (rc_glob != 0) return err_set(err, ERR_IO, "%s: cannot look for such files", pattern);
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < found.gl_pathc && rc == ERR_OK; i++)
        rc = inputs_add(in, found.gl_pathv[i], weight, spool, err);
    globfree(&found);
    return rc;
}

ErrCode inputs_add(Inputs *in, const char *path, float weight, const char *spool, Err *err) {
    if (strcmp(path, "-") == 0) {
        for (size_t i = 0; i < in->count; i++)
            if (in->items[i].spooled && strcmp(in->items[i].name, "stdin") == 0)
                return err_set(err, ERR_ARGUMENT, "stdin can be read only once");
        return copy(in, path, weight, spool, err);
    }
    struct stat st;
    if (stat(path, &st) != 0) {
        const int why = errno;
        if (strpbrk(path, "*?[")) return add_matches(in, path, weight, spool, err);
        char text[128] = "";
        if (strerror_r(why, text, sizeof text) != 0) text[0] = 0;
        return err_set(err, ERR_IO, "%s: cannot open: %s", path, text);
    }
    static const char *const JSONL[] = {".jsonl", ".jsonl.gz", ".jsonl.zst"};
    if (S_ISDIR(st.st_mode)) return inputs_add_folder(in, path, weight, JSONL, 3, err);
    return S_ISREG(st.st_mode) ? add_input(in, path, path, weight, err) : copy(in, path, weight, spool, err);
}

ErrCode inputs_open(Inputs *in, const FlagList *given, const char *spool, Err *err) {
    *in = (Inputs){0};
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < given->count && rc == ERR_OK; i++) {
        char *path = mem_strdup(given->items[i]);
        if (!path) return err_set(err, ERR_MEMORY, "out of memory for the inputs");
        float weight;
        rc = cut_weight(path, &weight, err);
        if (rc == ERR_OK) rc = inputs_add(in, path, weight, spool, err);
        mem_free(path);
    }
    if (rc == ERR_OK && in->count == 0) rc = err_set(err, ERR_ARGUMENT, "no input files");
    return rc;
}

void inputs_close(Inputs *in) {
    for (size_t i = 0; i < in->count; i++) {
        if (in->items[i].spooled) unlink(in->items[i].path);
        mem_free(in->items[i].name);
        mem_free(in->items[i].path);
    }
    mem_free(in->items);
    *in = (Inputs){0};
}
