/* data/csv.h - records of comma-separated values (RFC 4180): quoted fields may hold separators, line ends and "" for a
 * quote; lines end with LF or CRLF; a byte order mark is passed over, as are blank lines. A quote inside an unquoted field is an
 * ordinary character. Plain, gzip, zstd. Memory: the longest record, at most CSV_MAX bytes. */
#ifndef DATA_CSV_H
#define DATA_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

#define CSV_MAX ((size_t)32 << 20)

typedef struct {
    char separator; /* 0: that of , tab ; which is most frequent in the first record */
    bool plain;     /* quotes mean nothing */
} CsvRule;

typedef struct Csv Csv;

ErrCode csv_open(Csv **out, const char *path, CsvRule rule, Err *err) ERR_CHECKED;

/* The bytes of the next record without its line end, borrowed until the next call, and the line where it begins (from
 * 1). ERR_FORMAT "file:line: ..." for a quote that is never closed and a too long record. */
ErrCode csv_next(Csv *csv, const char **record, size_t *n, uint64_t *line, bool *more, Err *err) ERR_CHECKED;

/* The rule, its separator found. */
CsvRule csv_rule(const Csv *csv);
void csv_close(Csv *csv);

/* Zeroed: empty, valid to free. Field i is bytes.data[at[i] .. at[i + 1]). */
typedef struct {
    Buf bytes;
    size_t *at;
    size_t count, cap;
} CsvFields;

/* The fields of one record. ERR_FORMAT, without file:line, where something is behind a closing quote. */
ErrCode csv_split(CsvFields *out, const char *record, size_t n, CsvRule rule, Err *err) ERR_CHECKED;
void csv_free(CsvFields *fields);

#endif
