#include "eval/system_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/html.h"
#include "core/mem.h"
#include "core/text.h"
#include "eval/grid.h"

enum { TEXT_CELLS = 8, TEXT_POINTS = 15, PAGE_CELLS = 40 };

static const char *const KIND_KEYS[] = {"single", "routed", "robust", "labels", "perfect"};
static const char *const MAP_KEYS[] = {"by_hand", "coe"};
static const char *const MAP_WORDS[] = {"map by hand", "CoE map"};

static const char *expert_name(const SystemReport *r, int expert) {
    return r->experts->items[expert].name;
}

static double billions(double millions) {
    return millions / 1000;
}

/* ---- misrouted cells, most lost first ---- */

typedef struct {
    int label, sent;
    uint64_t n;
    double lost;
} Cell;

static int most_lost(const void *a, const void *b) {
    const Cell *x = a, *y = b;
    if (x->lost != y->lost) return x->lost > y->lost ? -1 : 1;
    return x->label != y->label ? x->label - y->label : x->sent - y->sent;
}

/* Freed with mem_free; NULL: out of memory, or none. */
static Cell *sorted_cells(size_t *count, const System *s) {
    const size_t all = (size_t)s->K * (size_t)s->K;
    Cell *cells = mem_alloc(all, sizeof *cells);
    *count = 0;
    for (size_t i = 0; cells && i < all; i++) {
        const int label = (int)i / s->K, sent = (int)i % s->K;
        if (label != sent && s->confusion[i])
            cells[(*count)++] = (Cell){label, sent, s->confusion[i], s->misrouting[i]};
    }
    if (cells) qsort(cells, *count, sizeof *cells, most_lost);
    return cells;
}

static double all_lost(const System *s) {
    return s->lines[s->main].regret_labels;
}

/* ---- JSON ---- */

static void put_string(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_number(Buf *out, const char *key, double value) {
    buf_printf(out, ", \"%s\": ", key);
    if (isfinite(value))
        buf_printf(out, "%.10g", value);
    else
        buf_puts(out, "null");
}

static void put_interval(Buf *out, const char *key, const Interval *i) {
    buf_printf(out, ", \"%s\": {\"value\": %.10g, \"low\": %.10g, \"high\": %.10g}", key, i->value, i->low,
               i->high);
}

static void put_named(Buf *out, const char *key, const char *value) {
    buf_printf(out, ", \"%s\": ", key);
    if (value)
        put_string(out, value);
    else
        buf_puts(out, "null");
}

static void put_map(Buf *out, const SystemReport *r, const int *map) {
    buf_puts(out, map ? "{" : "null");
    for (int k = 0; map && k < r->system->K; k++) {
        if (k) buf_puts(out, ", ");
        put_string(out, r->labels[k]);
        buf_puts(out, ": ");
        put_string(out, expert_name(r, map[k]));
    }
    if (map) buf_puts(out, "}");
}

static void put_lines(Buf *out, const SystemReport *r) {
    const System *s = r->system;
    buf_puts(out, "  \"systems\": [");
    for (size_t i = 0; i < s->count; i++) {
        const SystemLine *line = &s->lines[i];
        const bool mapped = line->kind != SYSTEM_SINGLE && line->kind != SYSTEM_PERFECT;
        const bool robust = line->kind == SYSTEM_ROBUST;
        buf_printf(out, "%s\n    {\"system\": \"%s\"", i ? "," : "", KIND_KEYS[line->kind]);
        put_named(out, "map", mapped ? MAP_KEYS[line->map] : NULL);
        put_named(out, "expert", line->expert >= 0 ? expert_name(r, line->expert) : NULL);
        if (robust) {
            put_number(out, "threshold", line->threshold);
            put_number(out, "routed", line->routed);
        }
        put_interval(out, "accuracy", &line->accuracy);
        put_interval(out, "gain", &line->gain);
        put_number(out, "cost", line->cost);
        put_number(out, "cost_ratio", line->cost_ratio);
        put_number(out, "active_b", billions(line->active));
        put_number(out, "total_b", billions(line->total));
        if (robust || line->kind == SYSTEM_ROUTED) put_number(out, "regret_labels", line->regret_labels);
        put_number(out, "regret_perfect", line->regret_perfect);
        if (robust) {
            put_number(out, "chosen_accuracy", line->chosen_accuracy);
            put_number(out, "chosen_cost", line->chosen_cost);
        }
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ],\n  \"best_single\": ");
    put_string(out, expert_name(r, s->best_single));
    buf_puts(out, ",\n  \"maps\": {\"by_hand\": ");
    put_map(out, r, s->maps[SYSTEM_BY_HAND]);
    buf_puts(out, ", \"coe\": ");
    put_map(out, r, s->maps[SYSTEM_COE]);
    buf_puts(out, "},\n");
}

static void put_misrouting(Buf *out, const SystemReport *r) {
    const System *s = r->system;
    const SystemMap map = s->lines[s->main].map;
    size_t count;
    Cell *cells = sorted_cells(&count, s);
    out->failed |= !cells;
    buf_printf(out, "  \"misrouting\": {\"map\": \"%s\"", MAP_KEYS[map]);
    put_number(out, "total", all_lost(s));
    buf_puts(out, ", \"cells\": [");
    for (size_t i = 0; cells && i < count; i++) {
        buf_printf(out, "%s\n    {\"n\": %llu", i ? "," : "", (unsigned long long)cells[i].n);
        put_named(out, "label", r->labels[cells[i].label]);
        put_named(out, "predicted", r->labels[cells[i].sent]);
        put_named(out, "needed", expert_name(r, s->maps[map][cells[i].label]));
        put_named(out, "got", expert_name(r, s->maps[map][cells[i].sent]));
        put_number(out, "lost", cells[i].lost);
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ]},\n");
    mem_free(cells);
}

static void put_points(Buf *out, const SystemPoint *points, size_t count, const char *routed) {
    buf_puts(out, ", \"points\": [");
    for (size_t i = 0; i < count; i++) {
        buf_printf(out, "%s\n    {\"threshold\": %.10g", i ? "," : "", points[i].threshold);
        put_number(out, routed, points[i].routed);
        put_number(out, "accuracy", points[i].accuracy);
        put_number(out, "cost", points[i].cost);
        put_number(out, "active_b", billions(points[i].active));
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ]}");
}

static void put_curves(Buf *out, const SystemReport *r) {
    const System *s = r->system;
    buf_printf(out, "  \"curve\": {\"map\": \"%s\"", MAP_KEYS[s->lines[s->main].map]);
    put_named(out, "fallback", expert_name(r, s->curve_fallback));
    put_points(out, s->points, s->point_count, "routed");
    buf_puts(out, ",\n  \"frontier\": [");
    for (size_t i = 0; i < s->frontier.count; i++) {
        const CoePoint *p = &s->frontier.points[i];
        buf_printf(out, "%s\n    {\"total_b\": %.10g, \"accuracy\": %.10g, \"map\": ", i ? "," : "",
                   billions((double)p->parameters), (double)p->quality / COE_UNITS);
        put_map(out, r, p->expert);
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ],\n  \"two_models\": ");
    if (s->two.there) {
        buf_puts(out, "{\"weak\": ");
        put_string(out, expert_name(r, s->two.weak));
        put_named(out, "strong", expert_name(r, s->two.strong));
        put_number(out, "apgr", s->two.apgr);
        put_number(out, "cpt50", s->two.cpt50);
        put_number(out, "cpt80", s->two.cpt80);
        put_points(out, s->two.points, s->two.count, "strong");
    } else {
        buf_puts(out, "null");
    }
    buf_puts(out, "\n}\n");
}

void system_report_json(Buf *out, const SystemReport *r) {
    buf_puts(out, "{\n  \"set\": ");
    put_string(out, r->set->name.data);
    buf_printf(out, ",\n  \"n\": %zu,\n  \"skipped\": %llu,\n  \"router\": {\"path\": ", r->set->rows.count,
               (unsigned long long)r->set->rows.skipped);
    put_string(out, r->path);
    buf_printf(out, ", \"kind\": \"%s\", \"labels\": %d},\n  \"experts_file\": ", r->kind, r->system->K);
    put_string(out, r->experts->path);
    buf_puts(out, ",\n  \"currency\": ");
    put_string(out, r->experts->currency);
    buf_printf(out, ",\n  \"chosen_by\": {\"n\": %zu", (r->chosen ? r->chosen : r->set)->rows.count);
    put_named(out, "set", r->chosen ? r->chosen->name.data : NULL);
    put_number(out, "lambda", r->rule.lambda);
    put_number(out, "budget_b", r->rule.budget < 0 ? (double)NAN : billions((double)r->rule.budget));
    buf_puts(out, "},\n");
    put_lines(out, r);
    put_misrouting(out, r);
    put_curves(out, r);
}

/* ---- what the text and the page share ---- */

static void name_line(char out[200], const SystemReport *r, const SystemLine *line) {
    const char *map = MAP_WORDS[line->map];
    switch (line->kind) {
        case SYSTEM_SINGLE:
            (void)snprintf(out, 200, "%.60s%s", expert_name(r, line->expert),
                           line->expert == r->system->best_single ? " (best single)" : "");
            break;
        case SYSTEM_ROUTED: (void)snprintf(out, 200, "routed, %s", map); break;
        case SYSTEM_ROBUST:
            (void)snprintf(out, 200, "routed, %s, below %.3f to %.40s", map, fmin(line->threshold, 1),
                           expert_name(r, line->expert));
            break;
        case SYSTEM_LABELS: (void)snprintf(out, 200, "labels known, %s", map); break;
        case SYSTEM_PERFECT: (void)snprintf(out, 200, "best expert of each prompt known"); break;
    }
}

static void put_head(Grid *g, const char *const *head, size_t count) {
    for (size_t i = 0; i < count; i++) grid_put(g, "%s", head[i]);
}

/* A number, or an empty cell. */
static void put_where(Grid *g, bool there, int decimals, double value) {
    if (there)
        grid_put(g, "%.*f", decimals, value);
    else
        grid_put_name(g, "");
}

static void fill_lines(Grid *g, const SystemReport *r) {
    static const char *const HEAD[] = {"system",           "accuracy % [95 % interval]",
                                       "over best single", "cost / 1,000",
                                       "of best",          "active B",
                                       "total B",          "routed %",
                                       "misrouting costs", "to perfect"};
    grid_init(g, "lrrrrrrrrr");
    put_head(g, HEAD, sizeof HEAD / sizeof HEAD[0]);
    for (size_t i = 0; i < r->system->count; i++) {
        const SystemLine *line = &r->system->lines[i];
        const bool real = line->kind == SYSTEM_ROUTED || line->kind == SYSTEM_ROBUST;
        char name[200];
        name_line(name, r, line);
        grid_put(g, "%s", name);
        grid_put(g, "%.2f [%.2f, %.2f]", 100 * line->accuracy.value, 100 * line->accuracy.low,
                 100 * line->accuracy.high);
        grid_put_interval(g, 2, 100, &line->gain);
        grid_put(g, "%.4f", line->cost);
        grid_put(g, isfinite(line->cost_ratio) ? "%.3f" : "-", line->cost_ratio);
        grid_put(g, "%.2f", billions(line->active));
        grid_put(g, "%.1f", billions(line->total));
        put_where(g, line->kind == SYSTEM_ROBUST, 1, 100 * line->routed);
        put_where(g, real, 2, 100 * line->regret_labels);
        grid_put(g, "%.2f", 100 * line->regret_perfect);
    }
}

static void fill_maps(Grid *g, const SystemReport *r) {
    const System *s = r->system;
    const bool by_hand = s->maps[SYSTEM_BY_HAND] != NULL;
    grid_init(g, by_hand ? "lll" : "ll");
    grid_put(g, "label");
    if (by_hand) grid_put(g, "%s", MAP_WORDS[SYSTEM_BY_HAND]);
    grid_put(g, "%s", MAP_WORDS[SYSTEM_COE]);
    for (int k = 0; k < s->K; k++) {
        grid_put_name(g, r->labels[k]);
        if (by_hand) grid_put_name(g, expert_name(r, s->maps[SYSTEM_BY_HAND][k]));
        grid_put_name(g, expert_name(r, s->maps[SYSTEM_COE][k]));
    }
}

static void fill_misrouting(Grid *g, const SystemReport *r, size_t most) {
    static const char *const HEAD[] = {"label", "taken for", "rows", "needed", "got", "points lost"};
    const System *s = r->system;
    const int *map = s->maps[s->lines[s->main].map];
    size_t count;
    Cell *cells = sorted_cells(&count, s);
    grid_init(g, "llrllr");
    put_head(g, HEAD, sizeof HEAD / sizeof HEAD[0]);
    g->bytes.failed |= !cells;
    for (size_t i = 0; cells && i < count && i < most; i++) {
        char n[32];
        grid_put_name(g, r->labels[cells[i].label]);
        grid_put_name(g, r->labels[cells[i].sent]);
        grid_put(g, "%s", grid_count(n, cells[i].n));
        grid_put_name(g, expert_name(r, map[cells[i].label]));
        grid_put_name(g, expert_name(r, map[cells[i].sent]));
        grid_put(g, "%.3f", 100 * cells[i].lost);
    }
    mem_free(cells);
}

static void fill_curve(Grid *g, const SystemReport *r, size_t step) {
    static const char *const HEAD[] = {"threshold", "routed %", "accuracy %", "cost / 1,000", "active B"};
    const System *s = r->system;
    grid_init(g, "rrrrr");
    put_head(g, HEAD, sizeof HEAD / sizeof HEAD[0]);
    for (size_t i = 0; i < s->point_count; i++) {
        const SystemPoint *p = &s->points[i];
        if (i % step && i + 1 < s->point_count) continue;
        grid_put(g, p->threshold > 1 ? "> 1" : "%.4f", p->threshold);
        grid_put(g, "%.1f", 100 * p->routed);
        grid_put(g, "%.2f", 100 * p->accuracy);
        grid_put(g, "%.4f", p->cost);
        grid_put(g, "%.2f", billions(p->active));
    }
}

static void fill_frontier(Grid *g, const SystemReport *r, size_t most) {
    const System *s = r->system;
    grid_init(g, "rrl");
    grid_put(g, "total B");
    grid_put(g, "accuracy %%");
    grid_put(g, "experts");
    const size_t skip = s->frontier.count > most ? s->frontier.count - most : 0;
    for (size_t i = skip; i < s->frontier.count; i++) {
        const CoePoint *p = &s->frontier.points[i];
        Buf names = {0};
        for (int x = 0; x < s->E; x++) {
            bool serves = false;
            for (int k = 0; k < s->K; k++) serves |= p->expert[k] == x;
            if (serves) buf_printf(&names, "%s%.40s", names.len ? ", " : "", expert_name(r, x));
        }
        grid_put(g, "%.1f", billions((double)p->parameters));
        grid_put(g, "%.2f", 100 * (double)p->quality / COE_UNITS);
        grid_put_text(g, names.data ? names.data : "", names.len, 200);
        g->bytes.failed |= names.failed;
        buf_free(&names);
    }
}

static void put_two(Buf *out, const SystemReport *r) {
    const SystemTwo *t = &r->system->two;
    buf_printf(out, "Two models, %.60s and %.60s (the stronger): APGR %.4f (chance 0.5)",
               expert_name(r, t->weak), expert_name(r, t->strong), t->apgr);
    const double cpt[] = {t->cpt50, t->cpt80};
    for (int i = 0; i < 2; i++) {
        buf_printf(out, ", CPT(%d %%) ", i ? 80 : 50);
        if (isfinite(cpt[i]))
            buf_printf(out, "%.1f %% of the calls", 100 * cpt[i]);
        else
            buf_puts(out, "never reached");
    }
    buf_puts(out, ".");
}

static void put_words(Buf *out, const SystemReport *r) {
    char n[32];
    buf_printf(out, "%s rows, %d experts, cost in %s for 1,000 prompts. ", grid_count(n, r->set->rows.count),
               r->experts->count, r->experts->currency);
    if (r->chosen)
        buf_printf(out, "Maps, fallbacks and thresholds were chosen on %s other rows: %s.",
                   grid_count(n, r->chosen->rows.count), r->chosen->name.data);
    else
        buf_puts(out,
                 "The CoE map was chosen on these rows themselves, which flatters it; --calibration gives it "
                 "others.");
    if (!r->experts->per_prompt)
        buf_puts(out,
                 " Intervals are of the rows alone: accuracies in the experts' file are taken as exact.");
    if (r->rule.budget >= 0)
        buf_printf(out, " Budget: %.6g billion parameters.", billions((double)r->rule.budget));
    if (r->chosen && r->rule.lambda > 0)
        buf_printf(out, " A fallback must bring %.6g points for each %s.", r->rule.lambda,
                   r->experts->currency);
}

static void put_lost(Buf *out, const SystemReport *r) {
    const System *s = r->system;
    buf_printf(out, "Misrouting costs the %s %.2f points in all; where most is lost:",
               MAP_WORDS[s->lines[s->main].map], 100 * all_lost(s));
}

static void put_curve_words(Buf *out, const SystemReport *r) {
    buf_printf(out, "The %s, with prompts below a confidence sent to %.60s:",
               MAP_WORDS[r->system->lines[r->system->main].map], expert_name(r, r->system->curve_fallback));
}

static void put_frontier_words(Buf *out, const SystemReport *r, size_t most) {
    const size_t count = r->system->frontier.count;
    buf_printf(out, "CoE, the best map within each budget (on the rows chosen by, labels known; exact)");
    if (count > most) buf_printf(out, ", the largest %zu of %zu", most, count);
    buf_puts(out, ":");
}

/* ---- text ---- */

static void put_grid(Buf *out, Grid *g) {
    grid_end_text(out, g);
    buf_puts(out, "\n");
}

void system_report_table(Buf *out, const SystemReport *r) {
    const System *s = r->system;
    Grid g;
    buf_printf(out, "router   %s (%s)\nexperts  %s\nset      %s\n", r->path, r->kind, r->experts->path,
               r->set->name.data);
    put_words(out, r);
    buf_puts(out, "\n\n");
    fill_lines(&g, r);
    put_grid(out, &g);
    fill_maps(&g, r);
    put_grid(out, &g);
    put_lost(out, r);
    buf_puts(out, "\n");
    fill_misrouting(&g, r, TEXT_CELLS);
    put_grid(out, &g);
    put_curve_words(out, r);
    buf_puts(out, "\n");
    fill_curve(&g, r, s->point_count > 20 ? 10 : 1);
    put_grid(out, &g);
    put_frontier_words(out, r, TEXT_POINTS);
    buf_puts(out, "\n");
    fill_frontier(&g, r, TEXT_POINTS);
    put_grid(out, &g);
    if (s->two.there) {
        put_two(out, r);
        buf_puts(out, "\n");
    }
}

/* ---- the page ---- */

/* Singles, systems and those that cannot be had, each with its name, and the main map's curve. */
static void page_plane(Buf *out, const SystemReport *r) {
    enum { SINGLES, SYSTEMS, KNOWN, CURVE, SERIES };
    const System *s = r->system;
    const size_t room = s->count > SYSTEM_POINTS ? s->count : SYSTEM_POINTS;
    double *xy = mem_alloc(SERIES * 2 * room, sizeof *xy);
    char(*names)[200] = mem_alloc(s->count, sizeof *names);
    const char **labels = mem_alloc(SERIES * room, sizeof *labels);
    if (xy && names && labels) {
        static const char *const TITLES[SERIES] = {"one model for all", "routed", "known in advance",
                                                   "over the threshold"};
        HtmlSeries series[SERIES];
        double low = 1, high = 0, dearest = 0;
        for (size_t i = 0; i < SERIES; i++)
            series[i] = (HtmlSeries){TITLES[i],
                                     xy + 2 * i * room,
                                     xy + (2 * i + 1) * room,
                                     i == CURVE ? NULL : labels + i * room,
                                     0,
                                     i == CURVE ? HTML_LINE : HTML_DOTS};
        for (size_t i = 0; i < s->count; i++) {
            const SystemLine *line = &s->lines[i];
            const size_t to = line->kind == SYSTEM_SINGLE                                   ? SINGLES
                              : line->kind == SYSTEM_LABELS || line->kind == SYSTEM_PERFECT ? KNOWN
                                                                                            : SYSTEMS;
            const size_t at = series[to].count++;
            if (line->kind == SYSTEM_ROBUST)
                (void)snprintf(names[i], sizeof names[i], "%s with fallback", MAP_WORDS[line->map]);
            else
                name_line(names[i], r, line);
            low = fmin(low, line->accuracy.value);
            high = fmax(high, line->accuracy.value);
            dearest = fmax(dearest, line->cost);
            xy[2 * to * room + at] = line->cost;
            xy[(2 * to + 1) * room + at] = 100 * line->accuracy.value;
            labels[to * room + at] = names[i];
        }
        for (size_t i = 0; i < s->point_count; i++) {
            xy[2 * CURVE * room + i] = s->points[i].cost;
            xy[(2 * CURVE + 1) * room + i] = 100 * s->points[i].accuracy;
        }
        series[CURVE].count = s->point_count;
        char x_title[80];
        (void)snprintf(x_title, sizeof x_title, "%.40s for 1,000 prompts", r->experts->currency);
        const HtmlPlot plot = {.title = "Cost and quality",
                               .x_title = x_title,
                               .y_title = "accuracy %",
                               .series = series,
                               .series_count = SERIES,
                               .x_max = 1.05 * dearest, /* room for the names */
                               .y_min = 100 * (low - 0.05 * (high - low)),
                               .y_max = 100 * (high + 0.1 * (high - low))};
        html_plot(out, &plot);
    } else {
        out->failed = true;
    }
    mem_free(xy);
    mem_free(names);
    mem_free(labels);
}

static void page_frontier(Buf *out, const SystemReport *r) {
    const CoeFrontier *f = &r->system->frontier;
    double *xy = mem_alloc(2 * f->count, sizeof *xy);
    if (!xy) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < f->count; i++) {
        xy[i] = billions((double)f->points[i].parameters);
        xy[f->count + i] = 100 * (double)f->points[i].quality / COE_UNITS;
    }
    const HtmlSeries series = {NULL, xy, xy + f->count, NULL, f->count, HTML_STEPS};
    const HtmlPlot plot = {.x_title = "parameters of all experts kept, billions",
                           .y_title = "accuracy %, labels known",
                           .series = &series,
                           .series_count = 1};
    html_plot(out, &plot);
    mem_free(xy);
}

static void page_confusion(Buf *out, const SystemReport *r) {
    const size_t K = (size_t)r->system->K;
    double *counts = mem_alloc(K * K, sizeof *counts);
    if (!counts) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < K * K; i++) counts[i] = (double)r->system->confusion[i];
    html_heat(out, "label", r->labels, K, "sent as", r->labels, K, counts);
    mem_free(counts);
}

void system_report_html(Buf *out, const SystemReport *r) {
    Grid g;
    Buf text = {0};
    html_begin(out, "A router and its experts", r->set->name.data);
    html_text(out, "Router: %s (%s). Experts: %s.", r->path, r->kind, r->experts->path);
    put_words(&text, r);
    html_text_of(out, &text);
    fill_lines(&g, r);
    grid_end_html(out, &g);
    page_plane(out, r);
    html_section(out, "Who answers what");
    fill_maps(&g, r);
    grid_end_html(out, &g);
    html_section(out, "What misrouting costs");
    put_lost(&text, r);
    html_text_of(out, &text);
    fill_misrouting(&g, r, PAGE_CELLS);
    grid_end_html(out, &g);
    page_confusion(out, r);
    html_section(out, "When the router is not sure");
    put_curve_words(&text, r);
    html_text_of(out, &text);
    fill_curve(&g, r, 5);
    grid_end_html(out, &g);
    html_section(out, "Budget and quality");
    put_frontier_words(&text, r, SIZE_MAX);
    html_text_of(out, &text);
    page_frontier(out, r);
    fill_frontier(&g, r, SIZE_MAX);
    grid_end_html(out, &g);
    if (r->system->two.there) {
        html_section(out, "Two models");
        put_two(&text, r);
        html_text_of(out, &text);
    }
    html_end(out);
    buf_free(&text);
}
