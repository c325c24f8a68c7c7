#include "data/scan.h"

#include <stdbool.h>
#include <string.h>

#include "core/buf.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/stop.h"
#include "core/text.h"

typedef struct {
    uint32_t file;
    uint64_t line;
    size_t at, n; /* in Group.lines */
    Record record;
    ErrCode code;
    char *why; /* owned; NULL where code is ERR_OK, or memory is short */
} Waiting;

typedef struct {
    const Scan *scan;
    Buf lines;
    Waiting *rows; /* (SCAN_GROUP_ROWS); records keep their memory from group to group */
    char *slots;   /* (SCAN_GROUP_ROWS, slot_bytes) */
    size_t count;
    uint64_t number; /* of the group's first row */
} Group;

static ScanRow row_of(const Group *g, size_t i) {
    const Waiting *w = &g->rows[i];
    return (ScanRow){.number = g->number + i,
                     .file = w->file,
                     .line = w->line,
                     .json = g->lines.data + w->at,
                     .json_len = w->n,
                     .record = w->code == ERR_OK ? &w->record : NULL,
                     .why = w->why};
}

static void parse_task(void *arg, size_t i, int thread) {
    Group *g = arg;
    Waiting *w = &g->rows[i];
    Err why = {0};
    w->code = record_parse(&w->record, &g->scan->record, g->lines.data + w->at, w->n, &why);
    if (w->code != ERR_OK && !(w->why = mem_strdup(why.msg))) w->code = ERR_MEMORY;
    if (!g->scan->work) return;
    const ScanRow row = row_of(g, i);
    g->scan->work(g->scan->arg, &row, g->slots ? g->slots + i * g->scan->slot_bytes : NULL, thread);
}

static ErrCode flush(Group *g, Err *err) {
    const Scan *s = g->scan;
    ErrCode rc = ERR_OK;
    threads_run(s->threads, parse_task, g, g->count);
    for (size_t i = 0; i < g->count; i++) {
        const ScanRow row = row_of(g, i);
        if (rc == ERR_OK && g->rows[i].code == ERR_MEMORY)
            rc = err_set(err, ERR_MEMORY, "out of memory for a row");
        if (rc == ERR_OK) rc = s->take(s->arg, &row, g->slots ? g->slots + i * s->slot_bytes : NULL, err);
        mem_free(g->rows[i].why);
        g->rows[i].why = NULL;
    }
    g->number += g->count;
    g->count = 0;
    buf_clear(&g->lines);
    if (rc != ERR_OK) return rc;
    if (s->progress) progress_update(s->progress, g->number, "%llu rows", (unsigned long long)g->number);
    return stop_requested() ? err_set(err, ERR_INTERRUPTED, "interrupted; nothing was written") : ERR_OK;
}

static ErrCode read_input(Group *g, size_t file, Err *err) {
    Lines *lines;
    TRY(lines_open(&lines, g->scan->inputs->items[file].path, err));
    ErrCode rc;
    for (;;) {
        const char *line;
        size_t n;
        bool more;
        rc = lines_next(lines, &line, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        if (text_is_blank(line, n)) continue;
        if (g->count == SCAN_GROUP_ROWS || (g->count && g->lines.len + n > SCAN_GROUP_BYTES))
            rc = flush(g, err);
        Waiting *w = &g->rows[g->count];
        w->file = (uint32_t)file;
        w->line = lines_number(lines);
        w->at = g->lines.len;
        w->n = n;
        buf_put(&g->lines, line, n);
        if (rc == ERR_OK) rc = buf_ok(&g->lines, err);
        if (rc != ERR_OK) break;
        g->count++;
    }
    lines_close(lines);
    return rc;
}

ErrCode scan_rows(const Scan *scan, Err *err) {
    Group g = {.scan = scan};
    ErrCode rc = mem_new(&g.rows, SCAN_GROUP_ROWS, sizeof *g.rows, "a group of rows", err);
    if (rc == ERR_OK && scan->slot_bytes)
        rc = mem_new(&g.slots, SCAN_GROUP_ROWS, scan->slot_bytes, "a group of rows", err);
    for (size_t i = 0; rc == ERR_OK && i < scan->inputs->count; i++) rc = read_input(&g, i, err);
    if (rc == ERR_OK) rc = flush(&g, err);
    for (size_t i = 0; g.rows && i < SCAN_GROUP_ROWS; i++) record_free(&g.rows[i].record);
    mem_free(g.rows);
    mem_free(g.slots);
    buf_free(&g.lines);
    return rc;
}

ErrCode scan_bad_row(const Inputs *inputs, const ScanRow *row, Err *err) {
    return err_set(err, ERR_FORMAT, "%s:%llu: %s", inputs->items[row->file].name,
                   (unsigned long long)row->line, row->why);
}
