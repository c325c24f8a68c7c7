/* data/import.h - public data sets as they are published, to rows of JSONL.
 *
 * A format (the table in import_formats.c) says how one published element becomes a prompt: the prompt side only, without
 * the wrappers that some publishers put around it; answers and solutions are left out. Rows are written in the order of
 * the inputs as
 *   {"text", "label", "source", "split", "id", "kind": "real", "choices": [...], "subject"} and members to keep,
 * label, split, choices and subject only where known. The split is the row's own, or is told by the file's name ("test.jsonl",
 * "anatomy_dev.csv") or the folders below the one that was given; the id is the row's own, or the file's name and the line
 * (lines, CSV) or number (from 0) of the element.
 *
 * Elements are converted by all threads in groups; memory does not grow with the input but for 16 bytes a row that find exact
 * duplicates. */
#ifndef DATA_IMPORT_H
#define DATA_IMPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/flags.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/csv.h"
#include "data/names.h"

typedef struct ImportFormat ImportFormat;

const ImportFormat *import_find(const char *name); /* NULL: none of that name */
const char *import_format_name(const ImportFormat *format);

/* The format's name that `name` may be a misspelling of, or NULL; the name of
 * format i, NULL behind the last. */
const char *import_nearest(const char *name);
const char *import_name_at(size_t i);

/* Names and what they stand for, read from a JSON object of strings. Zeroed: empty, valid to free. */
typedef struct {
    Names names;
    const char **labels; /* [names.count], borrowed from tree */
    cJSON *tree;
    const char *path; /* borrowed */
} ImportMap;

ErrCode import_map_read(ImportMap *map, const char *path, Err *err) ERR_CHECKED;
void import_map_free(ImportMap *map);

/* Zeroed but for threads: as published, nothing labelled. Strings are borrowed; NULL: not given. */
typedef struct {
    const ImportFormat *format;                      /* NULL: guessed for each input by its first element */
    const char *text_field, *label_field, *id_field; /* members; else the format's own */
    const char *label, *source, *split;              /* for all rows */
    const FlagList *keep, *columns; /* members to copy; names of the columns of a CSV without header */
    const ImportMap *map;           /* of what label_field (else the subject) holds, to labels */
    CsvRule csv;
    bool skip_unknown, skip_bad, keep_duplicates, keep_wrappers, all_turns;
    Threads *threads;
    Progress *progress; /* NULL: nothing is shown */
} ImportRule;

#define IMPORT_MESSAGES 5

/* Zeroed: valid to free. */
typedef struct {
    uint64_t read, rows, duplicates, empty, bad, unknown; /* unknown: to the map */
    Names splits, labels;                                 /* "" for rows without */
    uint64_t *split_rows, *label_rows;                    /* of these */
    Names formats;                                        /* that were used */
    char *messages[IMPORT_MESSAGES];                      /* of the first rows that were left out */
    size_t message_count;
} ImportReport;

/* `inputs`: files, folders, or "-". ERR_FORMAT "file:line: what" or "file: element N (line L): what" at the first bad row,
 * unless those are to be skipped; then nothing is written, nor is when no row is left. */
ErrCode import_run(ImportReport *report, const char *out, const FlagList *inputs, const ImportRule *rule,
                   Err *err) ERR_CHECKED;
void import_report_free(ImportReport *report);

/* One element as JSON into one line of output (appended), for tests and fuzzing: what import_run does for each. */
ErrCode import_element(Buf *line, const ImportFormat *format, const ImportRule *rule, const char *json,
                       size_t n, const char *key, Err *err) ERR_CHECKED;

#endif
