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

/* A member of a command's options; ROWSET_FLAGS(Options, member) stand in its table. A command that reads its rows in a
 * way of its own has at least ROWSET_FIELD_FLAGS, and a RowsetOptions in which nothing else is set. */
typedef struct {
    FlagList data, filter, remap;
    char *split, *text_field, *label_field, *map_field, *label_map;
    bool skip_unknown;
} RowsetOptions;

/* clang-format off */
#define ROWSET_FIELD_FLAGS(type, member) \
    {"text_field", NULL, FLAG_STRING, offsetof(type, member.text_field), NULL, 0, 0, "NAME", \
     "Member with the text, where it is not one of the usual names."}, \
    {"label_field", NULL, FLAG_STRING, offsetof(type, member.label_field), NULL, 0, 0, "NAME", \
     "Member with the label, where it is not one of the usual names."}, \
    {"skip_unknown", NULL, FLAG_BOOL, offsetof(type, member.skip_unknown), NULL, 0, 0, NULL, \
     "Leave out (and count) rows whose label is not known, instead of stopping."}
#define ROWSET_MAP_FLAGS(type, member) \
    {"filter", NULL, FLAG_LIST, offsetof(type, member.filter), NULL, 0, 0, "KEY=VALUE", \
     "Only rows whose JSON member KEY is VALUE."}, \
    {"map_field", NULL, FLAG_STRING, offsetof(type, member.map_field), NULL, 0, 0, "NAME", \
     "Take the label from the label map, by the value of this member."}, \
    {"label_map", NULL, FLAG_STRING, offsetof(type, member.label_map), NULL, 0, 0, "FILE", \
     "JSON object from values of --map-field to labels."}, \
    {"remap", NULL, FLAG_LIST, offsetof(type, member.remap), NULL, 0, 0, "VALUE=LABEL", \
     "An entry that differs from the label map's."}
#define ROWSET_FLAGS(type, member) \
    {"data", NULL, FLAG_LIST, offsetof(type, member.data), NULL, 0, 0, "FILE", \
     "#Rows\nJSONL file with labelled rows (.gz, .zst, or - for stdin); default: the test split of a run folder."}, \
    {"split", NULL, FLAG_STRING, offsetof(type, member.split), NULL, 0, 0, "NAME", \
     "Only this split: test in a run folder's shard; with --data all rows, unless a split is named."}, \
    ROWSET_FIELD_FLAGS(type, member), \
    ROWSET_MAP_FLAGS(type, member)
/* clang-format on */

/* Zeroed: empty, valid to free. */
typedef struct {
    Rows rows;
    RowText *texts; /* (rows.count) */
    int *labels;    /* (rows.count) */
    Buf name;       /* what the rows are, for people */
    cJSON *map;
} Rowset;

/* What a command adds to its options; zeroed: nothing. */
typedef struct {
    const char *model, *shard; /* what an error names, and the shard of its run folder; NULL: none */
    const FlagList *files;     /* instead of RowsetOptions' data */
    const FlagList *members;   /* not NULL: a command that slices; as these three in RowsRule */
    bool with_choices;
    ErrCode (*take)(void *arg, const Record *record, RowText *text, Err *err); /* for files alone */
    void *arg;
} RowsetRule;

/* Rows of the files, else of the shard. No rows at all is an error. */
ErrCode rowset_open(Rowset *out, const RowsetOptions *options, const RowsetRule *rule,
                    const char *const *labels, int K, Err *err) ERR_CHECKED;

/* How a file's rows are read by these options: all of them, with labels of their own. */
RowsRule rowset_plain_rule(const RowsetOptions *options);

/* Rows to choose something by: of `data`, those of `split` and those that name no split (split NULL or "all": all);
 * without data, those of the shard's split. The filters do not apply: they pick what is measured. */
ErrCode rowset_open_chosen(Rowset *out, const RowsetOptions *options, const FlagList *data, const char *split,
                           const char *shard, const char *const *labels, int K, Err *err) ERR_CHECKED;

/* All rows of a shard, whatever their split. */
ErrCode rowset_open_shard(Rowset *out, const char *shard, bool skip_unknown, const char *const *labels, int K,
                          Err *err) ERR_CHECKED;
void rowset_free(Rowset *rowset);

#endif
