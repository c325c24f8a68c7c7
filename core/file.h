/* core/file.h - files: whole reads, positioned reads, and writes that appear complete or not at all. */
#ifndef CORE_FILE_H
#define CORE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

/* ---- reading ---- */

/* The whole file into *out (cleared first). ERR_IO names the path; ERR_FORMAT when it is larger than
 * max_bytes. */
ErrCode file_read(Buf *out, const char *path, size_t max_bytes, Err *err) ERR_CHECKED;

/* An open regular file, read at positions; never mapped, so that a file which shrinks gives an error, not a
 * signal. */
typedef struct {
    int fd_plus_1; /* 0: closed, so that a zeroed File is valid to close */
    uint64_t size;
    char *path;
} File;

ErrCode file_open(File *file, const char *path, Err *err) ERR_CHECKED;
ErrCode file_read_at(const File *file, void *out, uint64_t offset, size_t n, Err *err) ERR_CHECKED;
void file_close(File *file);

bool file_exists(const char *path);
bool file_is_dir(const char *path);

/* Names in a directory (without "." and ".."), sorted by bytes; names[i] and names are freed by
 * file_list_free. */
ErrCode file_list(char ***names, size_t *count, const char *dir, Err *err) ERR_CHECKED;
void file_list_free(char **names, size_t count);

/* What follows the last '/'. Borrowed. */
const char *file_base(const char *path);

/* "dir/name" into a new string, or NULL. Free with mem_free. */
char *file_join(const char *dir, const char *name);

/* ---- writing ---- */

/* Bytes go to a temporary name beside `path`; file_commit syncs and renames, so a crash or a full disk at any
 * moment leaves the old file or the new one. file_abort (valid on a zeroed or committed writer) removes the
 * temporary. */
typedef struct {
    int fd_plus_1;
    char *path, *temporary;
    Buf pending;
    uint64_t written; /* bytes so far, pending ones included */
    ErrCode failed;
    Err why;
} FileWriter;

ErrCode file_create(FileWriter *w, const char *path, Err *err) ERR_CHECKED;
void file_write(FileWriter *w, const void *bytes,
                size_t n); /* failures are kept and returned by file_commit */
ErrCode file_commit(FileWriter *w, Err *err) ERR_CHECKED;
void file_abort(FileWriter *w);

/* Bytes as a whole file, by the same rules. */
ErrCode file_save(const char *path, const void *bytes, size_t n, Err *err) ERR_CHECKED;

ErrCode file_copy(const char *to, const char *from, Err *err) ERR_CHECKED;

/* Creates the directory and its parents. */
ErrCode file_mkdirs(const char *path, Err *err) ERR_CHECKED;

/* Puts a finished directory `temporary` in the place of `path` (which may exist, and is then removed
 * afterwards); both lie in one directory. After a crash either the old or the new directory is at `path`, or
 * the old one is at "path.old" and the next call, or file_recover_dir, puts things right. */
ErrCode file_replace_dir(const char *path, const char *temporary, Err *err) ERR_CHECKED;
ErrCode file_recover_dir(const char *path, Err *err) ERR_CHECKED;

/* Removes a directory and what is in it (not following links); a missing one is fine. */
ErrCode file_remove_dir(const char *path, Err *err) ERR_CHECKED;

#endif
