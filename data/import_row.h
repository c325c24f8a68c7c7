/* data/import_row.h - what a reader of one format of data/import.h gets and gives. */
#ifndef DATA_IMPORT_ROW_H
#define DATA_IMPORT_ROW_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/buf.h"
#include "core/err.h"
#include "data/csv.h"
#include "data/import.h"

/* One prompt. Pointers are borrowed from the tree or the rule; NULL: absent. */
typedef struct {
    Buf text, choices; /* choices: JSON strings with commas between them */
    const char *id, *subject, *label, *split, *source;
    const char *key; /* set before reading: the member that the element is of, or NULL */
    char digits[24]; /* an id that was a number */
} ImportRow;

typedef ErrCode ImportRead(ImportRow *row, cJSON *json, const ImportRule *rule, Err *err);

struct ImportFormat {
    const char *name;
    ImportRead *read; /* NULL: columns with names, through data/record.h */
    /* What tells it from others: members that all must be there; none: it is never guessed. */
    const char *keys[4];
    bool (*is)(const cJSON *json); /* and this, where not NULL */
    bool members;                  /* an object at the top is taken apart */
    const char *columns[7];        /* of CSV without a header */
    const char *endings[12];       /* of the files in a folder */
};

extern const ImportFormat IMPORT_FORMATS[];
extern const size_t IMPORT_FORMAT_COUNT;

/* ---- import_json.c: help for readers ---- */

/* Appends member `key`, a string, to the text; an absent or null one is an error unless `optional`. */
ErrCode import_add_text(ImportRow *row, const cJSON *object, const char *key, bool optional,
                        Err *err) ERR_CHECKED;

/* [{"text": "...", "label": "A"}, ...] or {"text": [...], "label": [...]} or ["...", ...]; what is no string is left out:
 * options are for people, and for other programs to come. */
void import_add_choices(ImportRow *row, const cJSON *choices);

/* Member that is neither absent nor null; NULL otherwise. */
cJSON *import_member(const cJSON *object, const char *key);

/* A string without NUL or an integer (in digits) as it is; NULL for anything else. */
const char *import_name(cJSON *item, char digits[24]);

/* "no question: found only a, b" */
ErrCode import_lacks(const cJSON *object, const char *what, Err *err);
const char *import_kind(const cJSON *item);

/* ---- import_guess.c ---- */

/* The format of a file by its name and first element; ERR_FORMAT when it is none that is known. `path` is read, `name` is
 * for messages and endings. */
ErrCode import_guess(const ImportFormat **out, const char *path, const char *name, CsvRule csv,
                     Err *err) ERR_CHECKED;

/* Whether the name of a file says that it is CSV. */
bool import_is_csv(const char *name);

/* The split that a path tells: by the last or first word of the file's name, or the last word of a folder before it; NULL
 * when none does. */
const char *import_split_of(const char *path);

/* The file's name without its endings and, where that is a split, its last word. */
void import_put_subject(Buf *out, const char *path);

/* Appends {"column": "field", ...}; ERR_FORMAT when there are more or fewer fields than columns. */
ErrCode import_put_fields(Buf *out, const FlagList *columns, const CsvFields *fields, Err *err) ERR_CHECKED;

/* Columns of a header; ERR_FORMAT where two have one name. */
ErrCode import_columns(FlagList *out, const CsvFields *header, Err *err) ERR_CHECKED;

/* ---- import_text.c ---- */

/* Cuts white space at both ends and the wrappers that data sets put around a prompt. */
void import_unwrap(Buf *text);
void import_trim(Buf *text);

/* ---- the readers ---- */

ImportRead import_gsm8k, import_math, import_mathqa, import_aqua, import_medmcqa, import_medqa,
    import_pubmedqa, import_sciq, import_arc, import_humaneval, import_mbpp, import_mmlu, import_clinc150,
    import_alpaca, import_dolly, import_chat;

#endif
