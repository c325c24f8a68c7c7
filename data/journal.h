/* data/journal.h - an append-only file of JSON entries that survive a crash at any moment.
 *
 * One entry a line: {"sum":"16 hex digits","entry":ENTRY}, where sum is the beginning of the SHA-256 of ENTRY's bytes. What
 * journal_sync has returned from is on the disk. A last line without its newline or with a wrong sum was being written when
 * the program ended; it is cut off when the journal is opened again. Any other wrong line is an error. While a
 * journal is open no other process can open it. */
#ifndef DATA_JOURNAL_H
#define DATA_JOURNAL_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define JOURNAL_LINE_MAX ((size_t)16 << 20)

typedef struct Journal Journal;

/* Takes the entry of a line; the tree is freed afterwards. A failure ends the reading; file and line are added. */
typedef ErrCode JournalEntry(void *arg, cJSON *entry, Err *err);

/* Opens or creates it and gives what it holds, entry by entry. *entries: how many there were. */
ErrCode journal_open(Journal **out, const char *path, JournalEntry *take, void *arg, uint64_t *entries,
                     Err *err) ERR_CHECKED;

/* Appends in memory (entry stays the caller's; NULL counts as out of memory). */
ErrCode journal_add(Journal *journal, const cJSON *entry, Err *err) ERR_CHECKED;
/* Makes what was added durable. After a failure the journal accepts no more. */
ErrCode journal_sync(Journal *journal, Err *err) ERR_CHECKED;
void journal_close(Journal *journal);

/* The entry's bytes within a line (without its newline), or NULL when the line is none. */
const char *journal_line(const char *line, size_t n, size_t *entry_bytes);

#endif
