/* data/lockfile.h - what was fetched, so that the same can be fetched again or missed with an error: a JSON object
 *   {"format": "router-lock-1", "url": "hf:org/name", "revision": "main", "commit": "40 digits",
 *    "files": [{"path": "a/b", "size": 12, "sha256": "64 digits"}]}
 * revision and commit only for hubs. Paths are relative to the folder that the files are in, and checked as those of a server.
 */
#ifndef DATA_LOCKFILE_H
#define DATA_LOCKFILE_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

typedef struct {
    char *path;
    uint64_t size;
    char sha256[65];
} LockedFile;

/* Zeroed: empty, valid to free. */
typedef struct {
    char *url, *revision; /* revision: NULL for a plain URL */
    char commit[41];      /* "" likewise */
    LockedFile *files;
    size_t count;
} Lockfile;

/* ERR_FORMAT begins with the path. */
ErrCode lockfile_read(Lockfile *out, const char *path, Err *err) ERR_CHECKED;
ErrCode lockfile_parse(Lockfile *out, const char *json, size_t n, Err *err) ERR_CHECKED;
ErrCode lockfile_save(const Lockfile *lock, const char *path, Err *err) ERR_CHECKED;

ErrCode lockfile_add(Lockfile *lock, const char *path, uint64_t size, const char *sha256,
                     Err *err) ERR_CHECKED;

/* The entry of a path, or NULL. */
const LockedFile *lockfile_find(const Lockfile *lock, const char *path);
void lockfile_free(Lockfile *lock);

#endif
