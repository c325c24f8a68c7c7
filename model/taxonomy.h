/* model/taxonomy.h - what the labels of a router are, over time.
 *
 * A router begins as revision 1. Whoever changes what its labels are begins the next revision and names the parent by
 * the SHA-256 of its model file (weights_digest). Ids are frozen: new labels are appended, none is renumbered or
 * removed. A label that is no longer answered is retired: it keeps id and name, and its row of the head is made so
 * that it cannot win. A label may be renamed; what it was called before stays with it, and comes back with no other
 * meaning.
 *
 * In config.json this is one key, which other programs pass over. It is not written where there is nothing to say:
 *
 *   "router_taxonomy": {
 *     "revision": 2,                       1 .. TAXONOMY_REVISION_MAX; absent: 1
 *     "parent": "5891b5b5...",             64 hexadecimal digits in lower case; at revision 1 there is none
 *     "labels": [                          one for each id, in their order; absent: nothing to say about any
 *       {"name": "math",                   as in id2label
 *        "description": "Proofs, sums.",   absent: none
 *        "active": false,                  absent: true
 *        "since": 1,                       the revision in which it came; absent: 1; never less than of the id before
 *        "formerly": ["maths"]}]}          absent: it was always called so
 *
 * Names: 1 to TAXONOMY_NAME_MAX bytes. Descriptions: at most TAXONOMY_DESCRIPTION_MAX bytes. Both are valid UTF-8
 * without control characters. No two of all names and former names are the same. Of two labels and more at least two
 * are active. The names themselves are with whoever has a Taxonomy (Config, Blob) and are handed to the functions. */
#ifndef MODEL_TAXONOMY_H
#define MODEL_TAXONOMY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define TAXONOMY_REVISION_MAX    1000000
#define TAXONOMY_NAME_MAX        256
#define TAXONOMY_DESCRIPTION_MAX 1000
#define TAXONOMY_FORMER_MAX      64

typedef struct {
    char *description; /* or NULL; owned, as is all that follows */
    char **former;     /* former_count names, the oldest first */
    int former_count;
    int since;
    bool retired;
} TaxonomyLabel;

/* One of zeros says nothing and has no labels: wherever one is read, that is revision 1 with all labels active. */
typedef struct {
    int revision;
    char parent[65]; /* "" at revision 1 */
    int count;
    TaxonomyLabel *labels; /* count, by id */
} Taxonomy;

/* Revision 1 of count >= 1 labels. */
ErrCode taxonomy_alloc(Taxonomy *out, int count, Err *err) ERR_CHECKED;
ErrCode taxonomy_copy(Taxonomy *out, const Taxonomy *from, Err *err) ERR_CHECKED;
void taxonomy_free(Taxonomy *t);

/* Whether there is anything beyond revision 1 and the bare names. */
bool taxonomy_says(const Taxonomy *t);

/* Labels that are not retired. */
int taxonomy_active(const Taxonomy *t);

/* Whether the label was once called so. */
bool taxonomy_was(const TaxonomyLabel *label, const char *name);

/* The id of a name. ERR_ARGUMENT: there is none, with the nearest one; or it is a former name, with today's. */
ErrCode taxonomy_find(int *id, const Taxonomy *t, const char *const *names, const char *name,
                      Err *err) ERR_CHECKED;

/* ---- changes: all or nothing; ERR_ARGUMENT says what is not possible ---- */

/* The next revision: once for all changes that are made together, before them. parent: 64 digits. */
ErrCode taxonomy_begin(Taxonomy *t, const char *parent, Err *err) ERR_CHECKED;

/* Appends n labels. names: count + n, the old ones too; descriptions: n, each may be NULL, or all. */
ErrCode taxonomy_grow(Taxonomy *t, const char *const *names, const char *const *descriptions, int n,
                      Err *err) ERR_CHECKED;

ErrCode taxonomy_retire(Taxonomy *t, const char *const *names, int id, Err *err) ERR_CHECKED;

/* names: as they are before; label `id` is called `name` from now on. Its own former name may come back. */
ErrCode taxonomy_rename(Taxonomy *t, const char *const *names, int id, const char *name,
                        Err *err) ERR_CHECKED;

/* NULL takes the description away. */
ErrCode taxonomy_describe(Taxonomy *t, const char *const *names, int id, const char *description,
                          Err *err) ERR_CHECKED;

/* ---- what a file says ---- */

/* All rules of this comment, of `count` labels; ERR_FORMAT says which is broken, and names the label. */
ErrCode taxonomy_check(const Taxonomy *t, const char *const *names, Err *err) ERR_CHECKED;

struct cJSON; /* <cjson/cJSON.h> */

/* The value of router_taxonomy (or NULL: it says nothing), for `count` labels. ERR_FORMAT names the key. In
 * taxonomy_json.c, as the next one. */
ErrCode taxonomy_parse(Taxonomy *out, const struct cJSON *value, const char *const *names, int count,
                       Err *err) ERR_CHECKED;

/* What taxonomy_parse reads back to the same. */
ErrCode taxonomy_json(struct cJSON **out, const Taxonomy *t, const char *const *names, Err *err) ERR_CHECKED;

#endif
