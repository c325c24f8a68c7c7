/* core/html.h - one self-contained HTML page: text, tables, and plots drawn as SVG.
 *
 * No scripts, nothing fetched (the page's own policy forbids both), readable offline, in print, on a phone and in dark mode.
 * Every text that is given is escaped: prompts are hostile. Invalid UTF-8 becomes U+FFFD, control characters become '?'.
 * All functions append to a Buf, whose failures are sticky. Numbers that are not finite are not drawn. */
#ifndef CORE_HTML_H
#define CORE_HTML_H

#include <stdbool.h>
#include <stddef.h>

#include "core/buf.h"

void html_begin(Buf *out, const char *title, const char *subtitle); /* subtitle may be NULL */
void html_end(Buf *out);

void html_section(Buf *out, const char *title);                  /* ends the one before */
void html_text(Buf *out, const char *fmt, ...) ERR_PRINTF(2, 3); /* a paragraph */
void html_text_of(Buf *out, Buf *text); /* of what is in text, which is emptied; nothing: none */
void html_escape(Buf *out, const char *s, size_t n);

/* head: `columns` texts, or NULL; cells: (rows, columns) texts, NULL for an empty one. Cells that begin with a digit or a sign
 * are set as numbers. Long texts wrap, wide tables scroll. */
void html_table(Buf *out, const char *const *head, const char *const *cells, size_t rows, size_t columns);

/* Horizontal bars, one a row. */
typedef struct {
    const char *label, *text; /* left of the bar; right of it (NULL: none) */
    double value, low, high;  /* low < high: an interval drawn over the bar */
    bool marked;              /* in the second colour */
} HtmlBar;
void html_bars(Buf *out, const HtmlBar *bars, size_t count, double max); /* max <= 0: the largest */

/* A table of counts (rows, columns), each cell coloured by its share of its row: a confusion matrix. */
void html_heat(Buf *out, const char *row_title, const char *const *row_names, size_t rows,
               const char *column_title, const char *const *column_names, size_t columns,
               const double *values);

/* Curves, dots or steps over two axes. */
typedef enum { HTML_LINE, HTML_DOTS, HTML_STEPS } HtmlMark;
typedef struct {
    const char *name; /* in the legend; NULL: not there */
    const double *x, *y;
    const char *const *labels; /* beside each point, or NULL */
    size_t count;
    HtmlMark mark;
} HtmlSeries;
typedef struct {
    const char *title, *x_title, *y_title;
    const HtmlSeries *series;
    size_t series_count;               /* at most HTML_SERIES */
    double x_min, x_max, y_min, y_max; /* min >= max: from the data */
    bool log_x;                        /* x > 0 only */
    bool diagonal;                     /* the line y = x */
} HtmlPlot;
#define HTML_SERIES 8
void html_plot(Buf *out, const HtmlPlot *plot);

/* Columns over bins [edges[i], edges[i + 1]), `count` of them. */
void html_histogram(Buf *out, const char *title, const char *x_title, const double *edges,
                    const double *counts, size_t count);

#endif
