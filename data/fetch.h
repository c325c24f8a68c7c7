/* data/fetch.h - one file over HTTP, however often the connection breaks, and whether it is the right one.
 *
 * Bytes go to PATH.part, and the server's ETag to PATH.part.etag; what is there is gone on from by Range and If-Range when
 * the server still has the same file, and begun anew when it has another one or gives the whole again. The file gets
 * its name only when its size and digests are right, after a sync: a file at PATH is always whole. */
#ifndef DATA_FETCH_H
#define DATA_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/http.h"
#include "core/progress.h"

typedef struct {
    const char *url, *path, *name; /* name: the file's, for messages */
    const char *secret;            /* a header for the URL's own origin, or NULL */
    const char *token_variable;    /* where the secret comes from, for messages; NULL: nowhere */
    const char *repo;              /* "org/name", for messages; NULL: not of a hub */
    const char *commit;            /* what X-Repo-Commit must be, where the server names one; or NULL */
    const char *sha256, *git_sha1; /* what the digests must be; NULL or "": not known */
    int64_t size;                  /* what the size must be; -1: not known */
    double backoff_s;              /* before the first retry, doubled each time; 0: 1 */
    int attempts;                  /* that may fail in a row without a new byte; 0: 6 */
    Progress *progress;            /* NULL: nothing is shown */
    uint64_t done_before;          /* of progress: bytes of other files */
} FetchRule;

typedef struct {
    uint64_t size;
    char sha256[65];
    uint64_t received; /* bytes over the network */
    int attempts;
    bool resumed;
} FetchResult;

/* Errors: ERR_IO where the network or the disk fails for good or the server refuses; ERR_FORMAT where the file is not what
 * it must be (the .part is then removed); ERR_INTERRUPTED, the .part kept. */
ErrCode fetch_file(FetchResult *out, Http *http, const FetchRule *rule, Err *err) ERR_CHECKED;

/* A small answer into *out, with the same retries and messages. */
ErrCode fetch_text(Buf *out, Http *http, const FetchRule *rule, Err *err) ERR_CHECKED;

/* Size and SHA-256 of a file, and the SHA-1 that git names it by. ERR_INTERRUPTED when a stop was requested. */
ErrCode fetch_digest(uint64_t *size, char sha256[65], char git_sha1[41], const char *path,
                     Err *err) ERR_CHECKED;

#endif
