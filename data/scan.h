/* data/scan.h - all rows of some inputs in their order, parsed by all threads: what the commands read corpora with that do
 * not fit in memory. */
#ifndef DATA_SCAN_H
#define DATA_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/inputs.h"
#include "data/record.h"

/* A line that is not blank. Everything is borrowed until the callback returns. */
typedef struct {
    uint64_t number;  /* 0, 1, ... through all inputs, bad lines counted */
    uint32_t file;    /* index into the inputs */
    uint64_t line;    /* from 1 */
    const char *json; /* the line */
    size_t json_len;
    const Record *record; /* NULL: the line is bad */
    const char *why;      /* then what is wrong with it, without file:line */
} ScanRow;

typedef struct {
    const Inputs *inputs;
    RecordRule record;
    size_t slot_bytes; /* of what `work` hands to `take` for each row; may be 0 */
    /* Any thread: what is costly about a row, into its slot (slot_bytes, not cleared). NULL: nothing. */
    void (*work)(void *arg, const ScanRow *row, void *slot, int thread);
    /* One thread, row after row in order; a failure ends the scan and is returned. */
    ErrCode (*take)(void *arg, const ScanRow *row, const void *slot, Err *err);
    void *arg;
    Threads *threads;
    Progress *progress; /* NULL: nothing is shown; begun and ended by the caller */
} Scan;

/* Memory: SCAN_GROUP_ROWS rows or SCAN_GROUP_BYTES of lines, parsed. ERR_INTERRUPTED when a stop was requested;
 * a file that cannot be read on (a damaged .zst, say) is an error that names it. */
#define SCAN_GROUP_ROWS  4096
#define SCAN_GROUP_BYTES ((size_t)8 << 20)
ErrCode scan_rows(const Scan *scan, Err *err) ERR_CHECKED;

/* Sets *err to ERR_FORMAT "file:line: why" for a bad row. */
ErrCode scan_bad_row(const Inputs *inputs, const ScanRow *row, Err *err);

#endif
