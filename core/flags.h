/* core/flags.h - one table per command: JSON key, flag, type, default, range, help.
 *
 * The same line parses `--learning-rate 1e-5`, `--learning-rate=1e-5`, `--lr 1e-5` and {"learning_rate": 1e-5}, checks the
 * range, is printed by --help, and is written into the effective configuration. Keys are snake_case; on the command line
 * '_' and '-' are the same. Booleans are `--flag` / `--no-flag`. Unknown names are errors that give the nearest known one.
 *
 * Options live in a struct of the command's own; a Flag holds the offset of its field:
 *   FLAG_BOOL bool, FLAG_INT int64_t, FLAG_FLOAT double, FLAG_STRING and FLAG_CHOICE char *, FLAG_LIST FlagList (repeatable)
 * A zeroed struct is valid to free. */
#ifndef CORE_FLAGS_H
#define CORE_FLAGS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/buf.h"
#include "core/err.h"

typedef enum { FLAG_BOOL, FLAG_INT, FLAG_FLOAT, FLAG_STRING, FLAG_CHOICE, FLAG_LIST } FlagType;

typedef struct {
    char **items;
    size_t count;
} FlagList;

typedef struct {
    const char *key;   /* snake_case, Hugging Face's name where it has one */
    const char *alias; /* a short form, or NULL */
    FlagType type;
    size_t offset;       /* of the field in the command's options */
    const char *initial; /* default as text; NULL: false, empty list, or no string */
    double min, max;     /* for numbers; both 0: any (finite) */
    const char
        *values; /* FLAG_CHOICE: "linear|cosine|constant"; else what to call the value in the help, or NULL */
    const char *help; /* one sentence; a leading "#Title" line starts a group of options in the help */
} Flag;

typedef struct Command {
    const char *name, *summary; /* "train", one line */
    const char *usage;          /* "train DATA... --model DIR --out DIR" */
    const char *details;        /* paragraphs and examples below the options */
    const Flag *flags;
    size_t flag_count, options_bytes;
    size_t positional_min, positional_max; /* how many arguments without a flag */
    bool takes_config;                     /* accepts --config FILE, a JSON object of the same keys */
    /* Results go to out; progress goes through core/progress. */
    ErrCode (*run)(const void *options, const FlagList *arguments, FILE *out, Err *err);
} Command;

/* Parses argv (behind the command's name) into options, a struct of command->options_bytes zero bytes. Order
 * of precedence: flag, --config file, default. *help is set, and nothing else judged, when --help or -h
 * occurs. */
ErrCode flags_parse(const Command *command, void *options, FlagList *arguments, bool *help, int argc,
                    char **argv, Err *err) ERR_CHECKED;

void flags_free(const Command *command, void *options, FlagList *arguments);

/* Effective options as a JSON object (NULL when memory is short); free with cJSON_Delete. */
cJSON *flags_json(const Command *command, const void *options);

/* A run that goes on must have the options that it began with, which are in the file at `path`: ERR_ARGUMENT names the first
 * of `now` that differs. Those of free_keys[0..free_count) may differ. */
ErrCode flags_compare(const cJSON *now, const char *path, const char *const *free_keys, size_t free_count,
                      Err *err) ERR_CHECKED;

void flags_help(Buf *out, const Command *command);

/* Appends a copy of text[0..n). */
ErrCode flags_list_add(FlagList *list, const char *text, size_t n, Err *err) ERR_CHECKED;
void flags_list_free(FlagList *list);

#endif
