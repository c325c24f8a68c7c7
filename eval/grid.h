/* eval/grid.h - a small table that is filled once and shown as text or as HTML.
 *
 * Cells are put one after the other, row by row; the first row is the head. Failures are sticky and
 * pass to the Buf that the grid is shown into. A grid of more than GRID_COLUMNS columns is a bug of ours. */
#ifndef EVAL_GRID_H
#define EVAL_GRID_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "eval/metrics.h"

#define GRID_COLUMNS 16
#define GRID_CELL    500 /* bytes of a cell at most; longer ones are cut */

typedef struct {
    const char *align; /* 'l' or 'r' for each column; borrowed */
    size_t count;      /* cells */
    Buf bytes;         /* the cells, each with a NUL behind it */
} Grid;

/* `align` has one letter per column; borrowed. */
void grid_init(Grid *grid, const char *align);

/* The next cell. */
void grid_put(Grid *grid, const char *fmt, ...) ERR_PRINTF(2, 3);

/* The next cell: text[0..n) of any bytes, cut at `max` (at most GRID_CELL) of them. */
void grid_put_text(Grid *grid, const char *text, size_t n, size_t max);
void grid_put_name(Grid *grid, const char *name); /* the same, of a string, cut at 40 */

/* The next cell: a difference with its interval, "+1.25 [-0.30, +2.80]", all times `scale`. */
void grid_put_interval(Grid *grid, int decimals, double scale, const Interval *interval);

/* Lines that begin with two spaces. */
void grid_text(Buf *out, const Grid *grid);
void grid_html(Buf *out, const Grid *grid);
void grid_free(Grid *grid);

/* The same two, and frees it. */
void grid_end_text(Buf *out, Grid *grid);
void grid_end_html(Buf *out, Grid *grid);

/* 22394 as "22,394". */
const char *grid_count(char out[32], uint64_t n);

#endif
