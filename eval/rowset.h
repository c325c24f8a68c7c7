/* eval/rowset.h - the rows that a command works on, as its flags name them: JSONL files, or a split of the shard of a
 * run folder. */
#ifndef EVAL_ROWSET_H
#define EVAL_ROWSET_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"
#include "eval/rows.h"

/* First in a command's options; ROWSET_FLAGS in its table. */
typedef struct {
    FlagList data, filter;
    char *split, *text_field, *label_field, *map_field, *label_map;
    bool skip_unknown;
} RowsetOptions;

/* clang-format off */
#define ROWSET_FLAGS \
    {"data", NULL, FLAG_LIST, offsetof(RowsetOptions, data), NULL, 0, 0, "FILE", \
     "#Rows\nJSONL file with labelled rows (.gz, .zst, or - for stdin); default: the test split of a run folder."}, \
    {"split", NULL, FLAG_STRING, offsetof(RowsetOptions, split), NULL, 0, 0, "NAME", \
     "Only this split: test in a run folder's shard; with --data all rows, unless a split is named."}, \
    {"filter", NULL, FLAG_LIST, offsetof(RowsetOptions, filter), NULL, 0, 0, "KEY=VALUE", \
     "Only rows of --data whose JSON member KEY is VALUE."}, \
    {"text_field", NULL, FLAG_STRING, offsetof(RowsetOptions, text_field), NULL, 0, 0, "NAME", "Member with the text."}, \
    {"label_field", NULL, FLAG_STRING, offsetof(RowsetOptions, label_field), NULL, 0, 0, "NAME", "Member with the label."}, \
    {"map_field", NULL, FLAG_STRING, offsetof(RowsetOptions, map_field), NULL, 0, 0, "NAME", \
     "Take the label from the label map, by the value of this member."}, \
    {"label_map", NULL, FLAG_STRING, offsetof(RowsetOptions, label_map), NULL, 0, 0, "FILE", \
     "JSON object from values of --map-field to labels."}, \
    {"skip_unknown", NULL, FLAG_BOOL, offsetof(RowsetOptions, skip_unknown), NULL, 0, 0, NULL, \
     "Leave out rows whose label is not known, instead of stopping."}
/* clang-format on */

/* Zeroed: empty, valid to free. */
typedef struct {
    Rows rows;
    RowText *texts; /* (rows.count) */
    int *labels;    /* (rows.count) */
    Buf name;       /* what the rows are, for people */
    cJSON *map;
} Rowset;

/* `shard`: of the run folder, or NULL. No rows at all is an error. */
ErrCode rowset_open(Rowset *out, const RowsetOptions *options, const char *shard, const char *const *labels,
                    int K, Err *err) ERR_CHECKED;

/* The same from files alone, with RowsRule's `take`. */
ErrCode rowset_open_taking(Rowset *out, const RowsetOptions *options,
                           ErrCode (*take)(void *arg, const Record *record, RowText *text, Err *err),
                           void *arg, const char *const *labels, int K, Err *err) ERR_CHECKED;

/* Rows to choose something by: of `data`, those of `split` and those that name no split (split NULL or "all": all);
 * without data, those of the shard's split. The filters do not apply: they pick what is measured. */
ErrCode rowset_open_chosen(Rowset *out, const RowsetOptions *options, const FlagList *data, const char *split,
                           const char *shard, const char *const *labels, int K, Err *err) ERR_CHECKED;
void rowset_free(Rowset *rowset);

#endif
