/* data/manifest.h - what a corpus is mixed from: a JSON file that lists sources.
 *
 *   {"seed": 42, "near": 0.8, "temperature": 2, "total": 100000,
 *    "against": ["benchmarks/mmlu.jsonl", {"path": "benchmarks/arc.jsonl", "optional": true}],
 *    "sources": [
 *      {"path": "math/gsm8k.jsonl.zst", "name": "gsm8k", "label": "math", "licence": "MIT", "cap": 5000},
 *      {"path": ["tickets/2024.jsonl", "tickets/2025-*.jsonl"], "text_field": "body", "label_field": "queue",
 *       "label_map": {"billing": "other", "spam": null}, "where": {"lang": ["en", "de"]}, "min_chars": 10},
 *      {"path": "synthetic/", "kind": "synthetic", "weight": 0.5, "optional": true}]}
 *
 * Top level; sources is required:
 *   seed         integer, 42: what is drawn where not all rows are taken, or not as often
 *   near         number from 0.5 to 1, 0.8: rows at least so alike (data/dedup.h) are one, the first source's; or false
 *   against      path, {"path", "optional"}, or a list of these: benchmarks; rows that are in them (data/overlap.h) are
 *                left out
 *   temperature  number from 0.1 to 1000, 1: a domain (label) of n rows has a part of the mix in proportion to
 *                n^(1/temperature); 1: as they are; large: all domains the same
 *   total        integer: rows of the mix; without it as many as there are, weights counted
 *   sources      array of objects
 *   about        string: for people
 * A source; path is required:
 *   path         file, pattern, folder (see data/inputs.h), or an array of these; relative to the manifest's folder
 *   optional     boolean: what is not there is passed over, and reported
 *   name         string: "source" of its rows; without it the row's own, or else the file's name
 *   kind         "real" or "synthetic"; without it the row's own "kind", or else real
 *   text_field, label_field  strings: see data/record.h
 *   label        string: of all rows; or
 *   label_map    object: from the rows' labels to those of the mix; null leaves a row out
 *   split        "keep" (the rows' own, where they have one), "drop", or the split of all rows
 *   weight       number above 0, at most 1000; 1: how often a row is taken: 2.5: twice, and half of them once more
 *   cap          integer: at most so many of its rows, drawn by seed after duplicates are gone
 *   where        object from members to a value or an array of values: rows that have one of them, in each member
 *   min_chars, max_chars  integers: length of the text in characters
 *   skip_bad     boolean: leave out rows that cannot be used, instead of stopping
 *   licence (or license), about  strings, for the report and for people
 * Any other key is an error. */
#ifndef DATA_MANIFEST_H
#define DATA_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "core/err.h"
#include "core/flags.h"
#include "data/split.h"

#define MANIFEST_SOURCES 4096 /* most sources */

typedef struct {
    FlagList paths; /* owned, relative to where the program runs */
    bool optional;
} ManifestPaths;

typedef enum { MANIFEST_AS_ROW, MANIFEST_REAL, MANIFEST_SYNTHETIC } ManifestKind;

/* Strings and trees are borrowed from the manifest; NULL when absent. */
typedef struct {
    ManifestPaths files;
    const char *name, *text_field, *label_field, *label, *licence;
    const cJSON *label_map, *where;
    ManifestKind kind;
    bool drop_split, skip_bad;
    Split split; /* SPLIT_COUNT: the row's, unless dropped */
    double weight;
    uint64_t cap;                  /* UINT64_MAX: none */
    uint64_t min_chars, max_chars; /* 0, UINT64_MAX: any */
} ManifestSource;

/* Zeroed: valid to free. */
typedef struct {
    char *path, *folder; /* folder: with its '/', or "" */
    cJSON *tree;
    ManifestSource *sources;
    size_t source_count;
    ManifestPaths *against;
    size_t against_count;
    uint64_t seed, total; /* total 0: not set */
    double near;          /* 0: rows that are alike stay */
    double temperature;
} Manifest;

/* Errors begin with `path`, then the source's index: "mix.json: sources[2]: ...". */
ErrCode manifest_parse(Manifest *out, const char *path, const char *text, size_t n, Err *err) ERR_CHECKED;
ErrCode manifest_read(Manifest *out, const char *path, Err *err) ERR_CHECKED;
void manifest_free(Manifest *manifest);

/* Whether a file is meant as one, rather than as JSON lines: its name ends in ".json", and it begins with an object that
 * its first line does not end, or that has "sources". */
bool manifest_is(const char *path);

/* Sets *out to the source's label for a row's label (NULL: none): NULL means that the row is left out. A label that
 * label_map does not know: ERR_FORMAT. */
ErrCode manifest_label(const char **out, const ManifestSource *source, const char *label,
                       Err *err) ERR_CHECKED;

/* Whether a row, parsed to `tree`, has what `where` asks for. */
bool manifest_wants(const ManifestSource *source, const cJSON *tree);

#endif
