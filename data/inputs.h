/* data/inputs.h - the files that a command reads its rows from. */
#ifndef DATA_INPUTS_H
#define DATA_INPUTS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/err.h"
#include "core/flags.h"

typedef struct {
    char *name, *path; /* for messages; to read */
    float weight;
    bool spooled; /* path is a copy that inputs_close removes */
} Input;

/* Zeroed: empty, valid to close. */
typedef struct {
    Input *items;
    size_t count;
} Inputs;

/* `given`: paths, or "-" for stdin (once), each optionally with "=WEIGHT" behind it (0 < weight <= 1000; a file of that
 * very name wins). A folder stands for the *.jsonl, *.jsonl.gz and *.jsonl.zst below it (hidden ones and linked folders
 * left out), recursively, in byte order. What cannot be read twice (stdin, a pipe) is copied to a file whose name begins
 * with `spool`. ERR_INTERRUPTED when stopped while copying. */
ErrCode inputs_open(Inputs *inputs, const FlagList *given, const char *spool, Err *err) ERR_CHECKED;

/* Adds what one path stands for; no "=WEIGHT" is looked for. */
ErrCode inputs_add(Inputs *inputs, const char *path, float weight, const char *spool, Err *err) ERR_CHECKED;

/* Adds the files below a folder whose names have one of these endings, as inputs_open does. */
ErrCode inputs_add_folder(Inputs *inputs, const char *dir, float weight, const char *const *endings,
                          size_t ending_count, Err *err) ERR_CHECKED;
void inputs_close(Inputs *inputs);

#endif
