#include "eval/grid.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/html.h"
#include "core/mem.h"
#include "core/text.h"

void grid_init(Grid *grid, const char *align) {
    assert(strlen(align) >= 1 && strlen(align) <= GRID_COLUMNS);
    *grid = (Grid){.align = align};
}

static void end_cell(Grid *grid) {
    buf_put(&grid->bytes, "", 1);
    grid->count++;
}

void grid_put(Grid *grid, const char *fmt, ...) {
    char cell[GRID_CELL + 4];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(cell, sizeof cell, fmt, args);
    va_end(args);
    buf_puts(&grid->bytes, cell);
    end_cell(grid);
}

void grid_put_text(Grid *grid, const char *text, size_t n, size_t max) {
    char shown[GRID_CELL + 4];
    assert(max <= GRID_CELL);
    buf_puts(&grid->bytes, text_excerpt(shown, max, text, n));
    end_cell(grid);
}

void grid_put_name(Grid *grid, const char *name) {
    grid_put_text(grid, name, strlen(name), 40);
}

void grid_put_interval(Grid *grid, int decimals, double scale, const Interval *interval) {
    grid_put(grid, "%+.*f [%+.*f, %+.*f]", decimals, scale * interval->value, decimals, scale * interval->low,
             decimals, scale * interval->high);
}

/* Characters, wide ones as one. */
static size_t width_of(const char *s) {
    size_t width = 0, n = strlen(s);
    for (size_t i = 0; i < n; width++) {
        uint32_t c;
        i += text_utf8_next(s + i, n - i, &c);
    }
    return width;
}

static void put_spaces(Buf *out, size_t n) {
    while (n-- > 0) buf_puts(out, " ");
}

void grid_text(Buf *out, const Grid *grid) {
    const size_t columns = strlen(grid->align);
    assert(grid->bytes.failed || grid->count % columns == 0);
    size_t widest[GRID_COLUMNS] = {0};
    if (grid->bytes.failed) {
        out->failed = true;
        return;
    }
    const char *cell = grid->bytes.data;
    for (size_t i = 0; i < grid->count; i++, cell += strlen(cell) + 1) {
        const size_t width = width_of(cell);
        if (width > widest[i % columns]) widest[i % columns] = width;
    }
    cell = grid->bytes.data;
    for (size_t i = 0; i < grid->count; i++, cell += strlen(cell) + 1) {
        const size_t c = i % columns, room = widest[c] - width_of(cell);
        buf_puts(out, "  ");
        if (grid->align[c] == 'r') put_spaces(out, room);
        buf_puts(out, cell);
        if (c + 1 == columns)
            buf_puts(out, "\n");
        else if (grid->align[c] != 'r')
            put_spaces(out, room);
    }
}

void grid_html(Buf *out, const Grid *grid) {
    const size_t columns = strlen(grid->align), rows = grid->count / columns;
    const char **cells = mem_alloc(grid->count + 1, sizeof *cells);
    if (grid->bytes.failed || !cells || rows == 0) {
        out->failed |= grid->bytes.failed || !cells;
        mem_free(cells);
        return;
    }
    const char *cell = grid->bytes.data;
    for (size_t i = 0; i < grid->count; i++, cell += strlen(cell) + 1) cells[i] = cell;
    html_table(out, cells, cells + columns, rows - 1, columns);
    mem_free(cells);
}

void grid_free(Grid *grid) {
    buf_free(&grid->bytes);
    *grid = (Grid){0};
}

void grid_end_text(Buf *out, Grid *grid) {
    grid_text(out, grid);
    grid_free(grid);
}

void grid_end_html(Buf *out, Grid *grid) {
    grid_html(out, grid);
    grid_free(grid);
}

const char *grid_count(char out[32], uint64_t n) {
    char digits[24];
    const int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    int at = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}
