/* eval/outputs.h - what a command found, as JSON, as a table and as a page: saved where that was asked for, and one of
 * the first two printed. */
#ifndef EVAL_OUTPUTS_H
#define EVAL_OUTPUTS_H

#include <stdbool.h>
#include <stdio.h>

#include "core/buf.h"
#include "core/err.h"

/* Zeroed: empty, valid to free. */
typedef struct {
    Buf json, table, page;
} Outputs;

/* A path that is NULL: not saved. Where memory was short for any of them, nothing is written. */
ErrCode outputs_write(const Outputs *outputs, const char *json_path, const char *page_path, bool print_json,
                      FILE *out, Err *err) ERR_CHECKED;
void outputs_free(Outputs *outputs);

#endif
