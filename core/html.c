#include "core/html.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"

/* Eight colours that the colour-blind can tell apart (Okabe and Ito 2008, the yellow darkened for white paper). */
static const char STYLE[] =
    "*{box-sizing:border-box}"
    ":root{color-scheme:light dark;--bg:#fff;--ink:#1c2126;--soft:#5b6670;--line:#d5dbe0;--panel:#f5f7f9;"
    "--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#b58900;--c5:#56b4e9;--c6:#e69f00;--c7:#777}"
    "@media(prefers-color-scheme:dark){:root{--bg:#14181c;--ink:#e4e8ec;--soft:#98a4ae;--line:#37424b;"
    "--panel:#1c2228;--c0:#4aa8e0;--c1:#f0884a;--c2:#35c79b;--c3:#dd9bc0;--c4:#d9b23a;--c7:#aaa}}"
    "body{margin:0 auto;padding:1.2rem;max-width:64rem;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}"
    "h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:0 0 .6rem}"
    "h1+p{color:var(--soft);margin-top:0}"
    "section{border-top:1px solid var(--line);padding:1rem 0}p{margin:.5rem 0;max-width:48rem}"
    ".w{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;font-size:.93em}"
    "th,td{padding:.22rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);"
    "min-width:3em}"
    "td{overflow-wrap:anywhere;min-width:6.5em}" /* long paths wrap, so that texts have room */
    "th{color:var(--soft);font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums;"
    "white-space:nowrap;min-width:3em}.h td{min-width:3em;text-align:right;border:1px solid var(--bg)}"
    "figure{margin:.8rem 0;overflow-x:auto}figcaption{color:var(--soft);margin-bottom:.2rem}"
    "svg{max-width:100%;min-width:34rem;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--ink)}"
    "svg .s{fill:var(--soft)}svg .g{stroke:var(--line)}"
    "@media print{body{max-width:none}section{break-inside:avoid}"
    ":root{--bg:#fff;--ink:#000;--soft:#444;--line:#bbb}}";

void html_escape(Buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t c;
        const size_t bytes = text_utf8_next(s + i, n - i, &c);
        if (c == '&')
            buf_puts(out, "&amp;");
        else if (c == '<')
            buf_puts(out, "&lt;");
        else if (c == '>')
            buf_puts(out, "&gt;");
        else if (c == '"')
            buf_puts(out, "&quot;");
        else if (c == '\'')
            buf_puts(out, "&#39;");
        else if (c == 0xFFFD)
            buf_puts(out, "\xef\xbf\xbd"); /* so that invalid bytes do not pass */
        else if ((c < ' ' && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0) ||
                 (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069))
            buf_puts(out, "?"); /* nor what would turn the text around it */
        else
            buf_put(out, s + i, bytes);
        i += bytes;
    }
}

static void put(Buf *out, const char *s) {
    if (s) html_escape(out, s, strlen(s));
}

void html_begin(Buf *out, const char *title, const char *subtitle) {
    buf_puts(out,
             "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
             "<meta http-equiv=\"Content-Security-Policy\" "
             "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>");
    put(out, title);
    buf_puts(out, "</title>\n<style>");
    buf_puts(out, STYLE);
    buf_puts(out, "</style></head>\n<body><header><h1>");
    put(out, title);
    buf_puts(out, "</h1><p>");
    put(out, subtitle);
    buf_puts(out, "</p></header>\n<section>\n");
}

void html_end(Buf *out) {
    buf_puts(out, "</section></body></html>\n");
}

void html_section(Buf *out, const char *title) {
    buf_puts(out, "</section>\n<section><h2>");
    put(out, title);
    buf_puts(out, "</h2>\n");
}

void html_text(Buf *out, const char *fmt, ...) {
    va_list args;
    Buf text = {0};
    va_start(args, fmt);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *room = n >= 0 ? buf_reserve(&text, (size_t)n + 1) : NULL;
    if (room) {
        va_start(args, fmt);
        (void)vsnprintf(room, (size_t)n + 1, fmt, args);
        va_end(args);
        buf_puts(out, "<p>");
        html_escape(out, room, (size_t)n);
        buf_puts(out, "</p>\n");
    } else {
        out->failed = true;
    }
    buf_free(&text);
}

void html_text_of(Buf *out, Buf *text) {
    out->failed |= text->failed;
    if (text->data) html_text(out, "%s", text->data);
    buf_clear(text);
}

/* ---- tables ---- */

static bool is_number(const char *s) {
    if (*s == '+' || *s == '-') s++;
    return *s >= '0' && *s <= '9';
}

void html_table(Buf *out, const char *const *head, const char *const *cells, size_t rows, size_t columns) {
    buf_puts(out, "<div class=\"w\"><table>\n");
    if (head) {
        buf_puts(out, "<tr>");
        for (size_t c = 0; c < columns; c++) {
            buf_puts(out, "<th>");
            put(out, head[c]);
            buf_puts(out, "</th>");
        }
        buf_puts(out, "</tr>\n");
    }
    for (size_t r = 0; r < rows; r++) {
        buf_puts(out, "<tr>");
        for (size_t c = 0; c < columns; c++) {
            const char *cell = cells[r * columns + c];
            buf_puts(out, cell && is_number(cell) ? "<td class=\"n\">" : "<td>");
            put(out, cell);
            buf_puts(out, "</td>");
        }
        buf_puts(out, "</tr>\n");
    }
    buf_puts(out, "</table></div>\n");
}

void html_heat(Buf *out, const char *row_title, const char *const *row_names, size_t rows,
               const char *column_title, const char *const *column_names, size_t columns,
               const double *values) {
    buf_puts(out, "<div class=\"w\"><table class=\"h\">\n<tr><th></th>");
    buf_printf(out, "<th colspan=\"%zu\">", columns);
    put(out, column_title);
    buf_puts(out, "</th></tr>\n<tr><th>");
    put(out, row_title);
    buf_puts(out, "</th>");
    for (size_t c = 0; c < columns; c++) {
        buf_puts(out, "<th>");
        put(out, column_names[c]);
        buf_puts(out, "</th>");
    }
    buf_puts(out, "</tr>\n");
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < columns; c++)
            if (isfinite(values[r * columns + c])) sum += fabs(values[r * columns + c]);
        buf_puts(out, "<tr><th>");
        put(out, row_names[r]);
        buf_puts(out, "</th>");
        for (size_t c = 0; c < columns; c++) {
            const double v = values[r * columns + c], share = sum > 0 && isfinite(v) ? fabs(v) / sum : 0;
            buf_printf(out, "<td style=\"background:color-mix(in srgb,var(--c0) %.0f%%,transparent)\">",
                       70 * share);
            if (isfinite(v)) buf_printf(out, "%.6g", v);
            buf_puts(out, "</td>");
        }
        buf_puts(out, "</tr>\n");
    }
    buf_puts(out, "</table></div>\n");
}

/* ---- bars ---- */

static double clamp(double v, double low, double high) {
    return v < low ? low : v > high ? high : v;
}

void html_bars(Buf *out, const HtmlBar *bars, size_t count, double max) {
    enum { LEFT = 250, LENGTH = 300, WIDTH = 760, STEP = 22 }; /* LEFT: 32 characters */
    const bool given = max > 0;
    for (size_t i = 0; !given && i < count; i++)
        if (isfinite(bars[i].value)) max = fmax(max, fmax(bars[i].value, bars[i].high));
    if (!(max > 0) || !isfinite(max)) max = 1;
    buf_printf(out, "<figure><svg viewBox=\"0 0 %d %zu\" width=\"%d\" role=\"img\">\n", WIDTH,
               count * STEP + 4, WIDTH);
    for (size_t i = 0; i < count; i++) {
        const HtmlBar *b = &bars[i];
        const double y = (double)i * STEP + 3;
        const double scale = LENGTH / max;
        char shown[64];
        text_excerpt(shown, 32, b->label, strlen(b->label));
        buf_printf(out, "<text x=\"%d\" y=\"%.0f\" text-anchor=\"end\">", LEFT - 8, y + 13);
        put(out, shown);
        buf_puts(out, "</text>");
        double end = 0;
        if (isfinite(b->value)) {
            end = clamp(b->value * scale, 0, LENGTH);
            buf_printf(out,
                       "<rect x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"16\" style=\"fill:var(--c%d)\"/>",
                       LEFT, y, end, b->marked);
        }
        if (b->low < b->high && isfinite(b->low) && isfinite(b->high)) {
            const double from = clamp(b->low * scale, 0, LENGTH), to = clamp(b->high * scale, 0, LENGTH);
            buf_printf(out,
                       "<path d=\"M%.1f %.0fh%.1fm0 -4v8M%.1f %.0fv8\" "
                       "style=\"stroke:var(--ink);fill:none\"/>",
                       LEFT + from, y + 8, to - from, LEFT + from, y + 4);
            end = fmax(end, to);
        }
        if (b->text) {
            buf_printf(out, "<text class=\"s\" x=\"%.1f\" y=\"%.0f\">", LEFT + end + 6, y + 13);
            put(out, b->text);
            buf_puts(out, "</text>");
        }
        buf_puts(out, "\n");
    }
    buf_puts(out, "</svg></figure>\n");
}

/* ---- axes ---- */

enum {
    PLOT_WIDTH = 640,
    PLOT_HEIGHT = 340,
    PLOT_LEFT = 64,
    PLOT_RIGHT = 16,
    PLOT_TOP = 12,
    PLOT_BOTTOM = 46
};

typedef struct {
    double x0, x1, y0, y1; /* of the data; x already in logarithms when log_x */
    bool log_x;
} Axes;

static double at_x(const Axes *a, double x) {
    const double v = a->log_x ? log10(x) : x;
    return PLOT_LEFT + (v - a->x0) / (a->x1 - a->x0) * (PLOT_WIDTH - PLOT_LEFT - PLOT_RIGHT);
}

static double at_y(const Axes *a, double y) {
    return PLOT_HEIGHT - PLOT_BOTTOM - (y - a->y0) / (a->y1 - a->y0) * (PLOT_HEIGHT - PLOT_TOP - PLOT_BOTTOM);
}

/* A step of 1, 2 or 5 times a power of ten that cuts the range into 4 to 10 parts. */
static double step_of(double range) {
    const double power = pow(10, floor(log10(range / 5)));
    const double times = range / 5 / power;
    return power * (times < 1.5 ? 1 : times < 3.5 ? 2 : times < 7.5 ? 5 : 10);
}

/* Ticks are whole multiples of the step; widen() keeps these numbers below 1e12. */
static long long first_tick(double low, double step) {
    return (long long)ceil(low / step - 1e-9);
}

static long long last_tick(double high, double step) {
    return (long long)floor(high / step + 1e-9);
}

/* A range that can be divided by: the data's own where it has any width. */
static void widen(double *low, double *high) {
    if (!(*low <= *high) || !isfinite(*low) || !isfinite(*high)) {
        *low = 0;
        *high = 1;
    }
    const double least = fmax(fabs(*low), fabs(*high)) * 1e-9 + 1e-12;
    if (*high - *low < least) {
        *low -= fmax(0.5 * fabs(*low), 0.5);
        *high += fmax(0.5 * fabs(*high), 0.5);
    }
}

static void draw_axes(Buf *out, const Axes *a, const char *title, const char *x_title, const char *y_title) {
    buf_puts(out, "<figure>");
    if (title) {
        buf_puts(out, "<figcaption>");
        put(out, title);
        buf_puts(out, "</figcaption>");
    }
    buf_printf(out, "<svg viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\">\n", PLOT_WIDTH, PLOT_HEIGHT,
               PLOT_WIDTH);
    const double bottom = PLOT_HEIGHT - PLOT_BOTTOM, right = PLOT_WIDTH - PLOT_RIGHT;
    double step = step_of(a->y1 - a->y0);
    for (long long i = first_tick(a->y0, step); i <= last_tick(a->y1, step); i++) {
        const double value = (double)i * step, y = at_y(a, value);
        buf_printf(out,
                   "<path class=\"g\" d=\"M%d %.1fH%.0f\"/><text class=\"s\" x=\"%d\" y=\"%.1f\" "
                   "text-anchor=\"end\">%.5g</text>\n",
                   PLOT_LEFT, y, right, PLOT_LEFT - 6, y + 4, value);
    }
    step = a->log_x ? fmax(1, ceil((a->x1 - a->x0) / 8)) : step_of(a->x1 - a->x0);
    for (long long i = first_tick(a->x0, step); i <= last_tick(a->x1, step); i++) {
        const double at = (double)i * step, value = a->log_x ? pow(10, at) : at, x = at_x(a, value);
        buf_printf(out,
                   "<path class=\"g\" d=\"M%.1f %.0fv5\"/><text class=\"s\" x=\"%.1f\" y=\"%.0f\" "
                   "text-anchor=\"middle\">%.5g</text>\n",
                   x, bottom, x, bottom + 18, value);
    }
    buf_printf(out, "<path class=\"g\" d=\"M%d %d V%.0f H%.0f\" fill=\"none\"/>\n", PLOT_LEFT, PLOT_TOP,
               bottom, right);
    if (x_title) {
        buf_printf(out, "<text class=\"s\" x=\"%.0f\" y=\"%d\" text-anchor=\"middle\">",
                   (PLOT_LEFT + right) / 2, PLOT_HEIGHT - 8);
        put(out, x_title);
        buf_puts(out, "</text>\n");
    }
    if (y_title) {
        buf_printf(out,
                   "<text class=\"s\" transform=\"translate(14 %.0f) rotate(-90)\" text-anchor=\"middle\">",
                   (PLOT_TOP + bottom) / 2);
        put(out, y_title);
        buf_puts(out, "</text>\n");
    }
}

/* ---- curves ---- */

static bool drawn(const HtmlPlot *p, double x, double y) {
    return fabs(x) < 1e150 && fabs(y) < 1e150 && (!p->log_x || x > 0); /* differences stay finite */
}

static Axes axes_of(const HtmlPlot *p) {
    Axes a = {HUGE_VAL, -HUGE_VAL, HUGE_VAL, -HUGE_VAL, p->log_x};
    for (size_t s = 0; s < p->series_count; s++)
        for (size_t i = 0; i < p->series[s].count; i++) {
            const double x = p->series[s].x[i], y = p->series[s].y[i];
            if (!drawn(p, x, y)) continue;
            const double v = p->log_x ? log10(x) : x;
            a.x0 = fmin(a.x0, v);
            a.x1 = fmax(a.x1, v);
            a.y0 = fmin(a.y0, y);
            a.y1 = fmax(a.y1, y);
        }
    if (p->x_min < p->x_max && (!p->log_x || p->x_min > 0)) {
        a.x0 = p->log_x ? log10(p->x_min) : p->x_min;
        a.x1 = p->log_x ? log10(p->x_max) : p->x_max;
    }
    if (p->y_min < p->y_max) {
        a.y0 = p->y_min;
        a.y1 = p->y_max;
    }
    widen(&a.x0, &a.x1);
    widen(&a.y0, &a.y1);
    return a;
}

static bool inside(const Axes *a, double x, double y) {
    const double v = a->log_x ? log10(x) : x, ex = (a->x1 - a->x0) * 1e-9, ey = (a->y1 - a->y0) * 1e-9;
    return v >= a->x0 - ex && v <= a->x1 + ex && y >= a->y0 - ey && y <= a->y1 + ey;
}

static void draw_series(Buf *out, const HtmlPlot *p, const Axes *a, const HtmlSeries *s, size_t colour) {
    if (s->mark != HTML_DOTS) {
        bool open = false;
        double before = 0;
        buf_printf(out, "<path style=\"stroke:var(--c%zu);fill:none;stroke-width:2\" d=\"", colour);
        for (size_t i = 0; i < s->count; i++) {
            if (!drawn(p, s->x[i], s->y[i]) || !inside(a, s->x[i], s->y[i])) {
                open = false;
                continue;
            }
            const double x = at_x(a, s->x[i]), y = at_y(a, s->y[i]);
            if (open && s->mark == HTML_STEPS) buf_printf(out, "L%.1f %.1f", x, before);
            buf_printf(out, "%c%.1f %.1f", open ? 'L' : 'M', x, y);
            before = y;
            open = true;
        }
        buf_puts(out, "\"/>\n");
    }
    for (size_t i = 0; i < s->count; i++) {
        if (!drawn(p, s->x[i], s->y[i]) || !inside(a, s->x[i], s->y[i])) continue;
        const double x = at_x(a, s->x[i]), y = at_y(a, s->y[i]);
        if (s->mark == HTML_DOTS)
            buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" style=\"fill:var(--c%zu)\"/>", x, y,
                       colour);
        if (!s->labels || !s->labels[i]) continue;
        const bool left = x > PLOT_WIDTH * 0.75;
        buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", left ? x - 7 : x + 7, y - 5,
                   left ? "end" : "start");
        put(out, s->labels[i]);
        buf_puts(out, "</text>\n");
    }
}

static void draw_legend(Buf *out, const HtmlPlot *p) {
    buf_puts(out, "<figcaption>");
    for (size_t s = 0; s < p->series_count && s < HTML_SERIES; s++) {
        if (!p->series[s].name) continue;
        buf_printf(out, "<span style=\"color:var(--c%zu)\">&#9632;</span> ", s);
        put(out, p->series[s].name);
        buf_puts(out, "&emsp;");
    }
    buf_puts(out, "</figcaption>");
}

void html_plot(Buf *out, const HtmlPlot *p) {
    const Axes a = axes_of(p);
    draw_axes(out, &a, p->title, p->x_title, p->y_title);
    const double low = fmax(a.x0, a.y0), high = fmin(a.x1, a.y1);
    if (p->diagonal && !p->log_x && low < high)
        buf_printf(out,
                   "<path d=\"M%.1f %.1fL%.1f %.1f\" style=\"stroke:var(--soft);stroke-dasharray:4 4\"/>\n",
                   at_x(&a, low), at_y(&a, low), at_x(&a, high), at_y(&a, high));
    for (size_t s = 0; s < p->series_count && s < HTML_SERIES; s++) draw_series(out, p, &a, &p->series[s], s);
    buf_puts(out, "</svg>");
    draw_legend(out, p);
    buf_puts(out, "</figure>\n");
}

void html_histogram(Buf *out, const char *title, const char *x_title, const double *edges,
                    const double *counts, size_t count) {
    Axes a = {0, 1, 0, 0, false};
    if (count) {
        a.x0 = edges[0];
        a.x1 = edges[count];
    }
    for (size_t i = 0; i < count; i++)
        if (isfinite(counts[i])) a.y1 = fmax(a.y1, counts[i]);
    widen(&a.x0, &a.x1);
    if (!(a.y1 > 0)) a.y1 = 1;
    draw_axes(out, &a, title, x_title, NULL);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(counts[i]) || !isfinite(edges[i]) || !isfinite(edges[i + 1])) continue;
        const double x = at_x(&a, edges[i]), y = at_y(&a, fmax(counts[i], 0));
        buf_printf(out,
                   "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" style=\"fill:var(--c0)\"/>\n",
                   x, y, fmax(at_x(&a, edges[i + 1]) - x - 1, 0.5), at_y(&a, 0) - y);
    }
    buf_puts(out, "</svg></figure>\n");
}
