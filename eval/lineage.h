/* eval/lineage.h - whether an exported file is a later revision (model/taxonomy.h) of another one, and what that
 * costs: which of the parent's golden prompts get another label.
 *
 * JSON, keys stable:
 *   parent           path given
 *   revision, parent_revision
 *   digest           "same": the parent's model file is the one that the child names; "not stated": a parent that was
 *                    exported before 0.3.0 or from weights in several files; "not checked": there are revisions between
 *   labels, parent_labels   how many
 *   added, retired   names;  renamed  [{from, to}]
 *   prompts, same    golden prompts of the parent, and how many get the same label (by id) from both
 *   max_flips        allowed;  passed
 *   flips            [{golden, text, from, from_probability, to, to_probability, kept_probability}]: number and beginning
 *                    of the prompt, what the parent and the child answer, and what the child still gives to `from` */
#ifndef EVAL_LINEAGE_H
#define EVAL_LINEAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "export/librouter.h"
#include "model/taxonomy.h"

typedef struct {
    size_t golden;
    const char *text; /* of the parent's metadata */
    int from, to;     /* ids */
    float from_p, to_p, kept_p;
} LineageFlip;

/* Zeroed: valid to free. */
typedef struct {
    const char *path, *parent_path; /* borrowed */
    Router *router, *parent;
    Taxonomy taxonomy, parent_taxonomy;
    const char *digest; /* as in JSON */
    size_t prompts;
    LineageFlip *flips; /* (flip_count) */
    size_t flip_count;
    int64_t max_flips;
} Lineage;

/* Opens both, all digests checked. ERR_GATE: the first is no later revision of the second (its labels are not the
 * beginning of the first's by id, a revision that is not later, another parent). Free with lineage_free in any case. */
ErrCode lineage_open(Lineage *out, const char *path, const char *parent_path, int64_t max_flips,
                     Err *err) ERR_CHECKED;
void lineage_free(Lineage *lineage);

/* ERR_GATE: more flips than allowed. */
ErrCode lineage_judge(const Lineage *lineage, Err *err) ERR_CHECKED;

void lineage_json(Buf *out, const Lineage *lineage);
void lineage_table(Buf *out, const Lineage *lineage);

#endif
