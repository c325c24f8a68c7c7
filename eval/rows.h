/* eval/rows.h - labelled prompts in memory, from JSONL files or from a split of a shard: what is evaluated,
 * and what the n-gram baseline learns from. Memory: the texts and 64 bytes a row. A Rows of zeros is empty
 * and valid to free. */
#ifndef EVAL_ROWS_H
#define EVAL_ROWS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"
#include "data/names.h"
#include "data/record.h"
#include "data/shard.h"

/* Sources counted apart; rows of any further ones share the last, named "(further sources)". */
#define ROWS_SOURCES_MAX 256

/* Other members whose values are kept, and values of one that are kept apart; rows of any further ones share the last,
 * named "(further values)". */
#define ROWS_MEMBERS_MAX 8
#define ROWS_VALUES_MAX  1024

typedef struct {
    size_t text_at, text_len; /* in Rows.bytes */
    size_t id_at;             /* likewise, NUL-terminated: the row's id, or "file:line" */
    int label;                /* index into the labels given; -1: RowsRule.unlabelled */
    int source;               /* index into sources, -1: none named */
    int file;                 /* index into files */
    uint64_t line;            /* 1-based, of the file */
} Row;

typedef struct {
    Row *items;
    size_t count, cap;
    Buf bytes;
    FlagList sources, files;
    size_t member_count;
    Names values
        [ROWS_MEMBERS_MAX]; /* of RowsRule.members: different values, in the order of first occurrence */
    Buf tags;               /* int32_t (count, member_count): index into values, -1: no such member */
    uint64_t filtered,
        skipped;    /* rows outside the split or the filters; rows with a label that is not known */
    uint64_t train; /* rows that are said to be of split train */
} Rows;

typedef struct {
    RecordRule record;
    const char *map_field;  /* not NULL: the label is label_map[value of this member] */
    const cJSON *label_map; /* an object of strings */
    FlagList filters;   /* "key=value": only rows whose member `key` (a string, number or boolean) is value */
    Split split;        /* only rows of this split; SPLIT_COUNT: all */
    bool split_default; /* a row that names no split belongs to `split` */
    bool skip_unknown;  /* count rows whose label is not among the labels, instead of stopping */
    FlagList members;   /* whose values are kept (strings, numbers, booleans), at most ROWS_MEMBERS_MAX */
    bool
        with_choices; /* the strings of member `choices`, where there is one, go behind the text: "\nA. ...\nB. ..." */
    bool unlabelled; /* keep them, and rows without a label, with the label -1 */
    /* NULL, or called for each row that is about to be kept, with the text that is: it may put another one there, valid
     * until its next call, or none (NULL) to leave the row out, which then counts as skipped. */
    ErrCode (*take)(void *arg, const Record *record, RowText *text, Err *err);
    void *arg;
} RowsRule;

/* Adds the rows of a JSONL file (plain, gzip, zstd, or "-"). Errors name file:line. */
ErrCode rows_read(Rows *rows, const char *path, const RowsRule *rule, const char *const *labels, int K,
                  Err *err) ERR_CHECKED;

/* Adds the rows of a split (SPLIT_COUNT: of all) of the shard at `path`; its labels are found among `labels` by name. */
ErrCode rows_read_shard(Rows *rows, const char *path, Split split, bool skip_unknown,
                        const char *const *labels, int K, Err *err) ERR_CHECKED;

/* Views of all texts, and all labels: freed with mem_free, valid until more rows are added. */
ErrCode rows_views(RowText **texts, int **labels, const Rows *rows, Err *err) ERR_CHECKED;

const char *rows_id(const Rows *rows, size_t i);
int rows_tag(const Rows *rows, size_t i, size_t member); /* index into values[member], or -1 */
void rows_free(Rows *rows);

/* Reads a --label-map: a JSON object whose values are strings, but for members that begin with "_", which are for people.
 * Free with cJSON_Delete. */
ErrCode rows_label_map(cJSON **out, const char *path, Err *err) ERR_CHECKED;

#endif
