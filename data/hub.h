/* data/hub.h - what a hub of models and data sets (Hugging Face's protocol) is asked and answers; no network here.
 *
 *   GET ENDPOINT/api/models/ORG/NAME/revision/REV?blobs=true   {"sha": commit, "siblings": [{"rfilename": path, "size",
 *       "blobId": SHA-1 as git names it, "lfs": {"size", "sha256"}}]}; all but sha and rfilename may be missing
 *   GET ENDPOINT/ORG/NAME/resolve/COMMIT/PATH                  the file
 * with "datasets/" before ORG where it is a data set. */
#ifndef DATA_HUB_H
#define DATA_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"

#define HUB_COMMIT    41 /* hexadecimal digits and NUL */
#define HUB_FILES_MAX 100000
#define HUB_PATH_MAX  1024 /* bytes */
#define HUB_DEPTH_MAX 16

/* Zeroed: valid to free. */
typedef struct {
    bool dataset;
    char *id, *revision; /* "org/name"; "main" where none was named */
} HubRepo;

/* "hf:org/name@revision", "hf:datasets/org/name". ERR_ARGUMENT where it is none. */
ErrCode hub_parse(HubRepo *repo, const char *spec, Err *err) ERR_CHECKED;
void hub_repo_free(HubRepo *repo);

/* Append the URLs above; names are percent-encoded. */
void hub_put_api(Buf *out, const char *endpoint, const HubRepo *repo, const char *revision);
void hub_put_file(Buf *out, const char *endpoint, const HubRepo *repo, const char *commit, const char *path);

typedef struct {
    char *path;
    int64_t size;                  /* -1: not told */
    char sha256[65], git_sha1[41]; /* "": not told */
} HubFile;

/* Zeroed: empty, valid to free. */
typedef struct {
    char commit[HUB_COMMIT];
    HubFile *files; /* in the order of their names' bytes */
    size_t count;
} HubListing;

/* The API's answer. ERR_FORMAT for what is no such answer, and for paths that hub_check_path refuses or that occur twice. */
ErrCode hub_listing(HubListing *out, const char *json, size_t n, Err *err) ERR_CHECKED;
void hub_listing_free(HubListing *listing);

/* Whether a path that a server names may be a file below our folder: UTF-8 without control characters and backslashes, not
 * empty, relative, no part that is empty, "." or "..", none of more than 255 bytes, at most HUB_PATH_MAX bytes and
 * HUB_DEPTH_MAX parts, and no name that unfinished downloads have (".part", ".part.etag"). */
ErrCode hub_check_path(const char *path, Err *err) ERR_CHECKED;

/* Whether a file is wanted: it matches one of the patterns ("*" also matches "/") or, without patterns and of a model, is
 * not weights in another format than the best one that is there (safetensors, else PyTorch's). */
bool hub_wanted(const HubListing *listing, size_t file, const FlagList *include, bool dataset);

bool hub_is_hex(const char *s, size_t digits);

#endif
