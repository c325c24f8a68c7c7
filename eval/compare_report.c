#include "eval/compare_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/html.h"
#include "core/mem.h"
#include "core/text.h"
#include "eval/grid.h"

enum { TEXT_FLIP = 60, PAGE_FLIP = 400, PAGE_FLIPS = 200 };

/* ---- JSON ---- */

static void put_string(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_interval(Buf *out, const char *key, const Interval *i) {
    buf_printf(out, "\"%s\": {\"value\": %.10g, \"low\": %.10g, \"high\": %.10g}", key, i->value, i->low,
               i->high);
}

static void put_number(Buf *out, double value) {
    if (isfinite(value))
        buf_printf(out, "%.10g", value);
    else
        buf_puts(out, "null");
}

static void put_side(Buf *out, const char *key, const CompareSide *side, const Metrics *m) {
    const struct {
        const char *key;
        const Interval *value;
    } ALL[] = {{"accuracy", &m->accuracy}, {"macro_f1", &m->macro_f1}, {"macro_recall", &m->macro_recall},
               {"nll", &m->nll},           {"brier", &m->brier},       {"ece", &m->ece}};
    buf_printf(out, "  \"%s\": {\n    \"path\": ", key);
    put_string(out, side->path);
    buf_printf(out, ",\n    \"kind\": \"%s\",\n    \"bytes\": ", side->kind);
    put_number(out, side->bytes ? (double)side->bytes : (double)NAN);
    buf_printf(out, ",\n    \"labels\": %d", side->labels);
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        buf_puts(out, ",\n    ");
        put_interval(out, ALL[i].key, ALL[i].value);
    }
    buf_puts(out, ",\n    \"truncated\": ");
    put_number(out, side->truncated >= 0 ? (double)side->truncated : (double)NAN);
    buf_puts(out, ",\n    \"ms_per_prompt\": ");
    put_number(out, 1000 * side->seconds);
    buf_puts(out, "\n  },\n");
}

/* The classes that are only in one of the two, or (which 0) all. */
static void put_names(Buf *out, const char *key, const CompareReport *r, char which) {
    const CompareLabels *l = r->labels;
    bool any = false;
    buf_printf(out, "\"%s\": [", key);
    for (int k = 0; k < l->K; k++) {
        const bool in_a = k < r->a.labels;
        bool in_b = !in_a;
        for (int j = 0; j < r->b.labels; j++) in_b |= l->column_b[j] == k;
        if ((which == 'a' && in_b) || (which == 'b' && in_a)) continue;
        if (any) buf_puts(out, ", ");
        put_string(out, l->names[k]);
        any = true;
    }
    buf_puts(out, "]");
}

static void put_difference(Buf *out, const Compare *c) {
    const struct {
        const char *key;
        const Interval *value;
    } ALL[] = {{"accuracy", &c->accuracy}, {"macro_f1", &c->macro_f1}, {"macro_recall", &c->macro_recall},
               {"nll", &c->nll},           {"brier", &c->brier},       {"ece", &c->ece}};
    buf_puts(out, "  \"difference\": {\n");
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        buf_puts(out, i ? ",\n    " : "    ");
        put_interval(out, ALL[i].key, ALL[i].value);
    }
    const CompareMcnemar *m = &c->mcnemar;
    buf_printf(
        out,
        "\n  },\n  \"mcnemar\": {\"both\": %llu, \"only_a\": %llu, \"only_b\": %llu, \"neither\": %llu, "
        "\"exact_p\": %.10g, \"mid_p\": %.10g, \"chi2\": %.10g, \"chi2_p\": %.10g},\n",
        (unsigned long long)m->both, (unsigned long long)m->only_a, (unsigned long long)m->only_b,
        (unsigned long long)m->neither, m->exact_p, m->mid_p, m->chi2, m->chi2_p);
}

static void put_classes(Buf *out, const CompareReport *r) {
    const Compare *c = r->compare;
    buf_puts(out, "  \"classes\": [");
    for (int k = 0; k < c->K; k++) {
        const MetricsClass *a = &c->a.classes[k], *b = &c->b.classes[k];
        buf_printf(out, "%s\n    {\"label\": ", k ? "," : "");
        put_string(out, r->labels->names[k]);
        buf_printf(out,
                   ", \"support\": %llu, \"recall_a\": %.10g, \"recall_b\": %.10g, \"precision_a\": %.10g, "
                   "\"precision_b\": %.10g, \"f1_a\": %.10g, \"f1_b\": %.10g,\n     ",
                   (unsigned long long)a->support, a->recall.value, b->recall.value, a->precision.value,
                   b->precision.value, a->f1, b->f1);
        put_interval(out, "recall", &c->classes[k].recall);
        buf_puts(out, ", ");
        put_interval(out, "precision", &c->classes[k].precision);
        buf_puts(out, ",\n     ");
        put_interval(out, "f1", &c->classes[k].f1);
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ],\n");
}

static void put_answer(Buf *out, const char *key, const char *label, double score) {
    buf_printf(out, "\"%s\": {\"label\": ", key);
    put_string(out, label);
    buf_printf(out, ", \"score\": %.6g}, ", score);
}

void compare_report_flip(Buf *out, const CompareReport *r, size_t i) {
    const CompareFlip *f = &r->compare->flips[i];
    const char *const *names = r->labels->names;
    buf_puts(out, "{\"id\": ");
    put_string(out, rows_id(&r->set->rows, f->row));
    buf_printf(out, ", \"kind\": \"%s\", \"label\": ", compare_kind_name(f->kind));
    put_string(out, names[r->set->labels[f->row]]);
    buf_puts(out, ", ");
    put_answer(out, "a", names[f->a], f->p_a);
    put_answer(out, "b", names[f->b], f->p_b);
    buf_puts(out, "\"text\": ");
    text_put_json(out, r->set->texts[f->row].text, r->set->texts[f->row].n);
    buf_puts(out, "}");
}

static void put_rules(Buf *out, const CompareReport *r) {
    buf_puts(out, "  \"rules\": ");
    if (!r->rules) {
        buf_puts(out, "null\n");
        return;
    }
    buf_printf(out, "{\"passed\": %s, \"rules\": [", r->rules->failed ? "false" : "true");
    for (size_t i = 0; i < r->rules->count; i++) {
        const Rule *rule = &r->rules->items[i];
        buf_printf(out, "%s\n    {\"rule\": \"%s\", \"label\": ", i ? "," : "", rules_key(rule));
        if (rule->worst >= 0)
            put_string(out, r->labels->names[rule->worst]);
        else
            buf_puts(out, "null");
        buf_puts(out, ", \"measured\": ");
        put_number(out, rule->measured);
        buf_printf(out, ", \"limit\": %.10g, \"unit\": \"%s\", \"passed\": %s}", rule->limit,
                   rules_unit(rule), rule->passed ? "true" : "false");
    }
    buf_puts(out, "\n  ]}\n");
}

void compare_report_json(Buf *out, const CompareReport *r) {
    const Compare *c = r->compare;
    buf_puts(out, "{\n  \"set\": ");
    put_string(out, r->set->name.data);
    buf_printf(out, ",\n  \"n\": %zu,\n  \"skipped\": %llu,\n", c->n,
               (unsigned long long)r->set->rows.skipped);
    put_side(out, "a", &r->a, &c->a);
    put_side(out, "b", &r->b, &c->b);
    buf_printf(out, "  \"labels\": {\"shared\": %d, ", r->labels->shared);
    put_names(out, "all", r, 0);
    buf_puts(out, ", ");
    put_names(out, "only_a", r, 'a');
    buf_puts(out, ", ");
    put_names(out, "only_b", r, 'b');
    buf_puts(out, "},\n");
    put_difference(out, c);
    put_classes(out, r);
    buf_printf(out,
               "  \"flips\": {\"count\": %zu, \"rate\": %.10g, \"fixed\": %llu, \"broken\": %llu, "
               "\"other\": %llu, \"shown\": [",
               c->flip_count, (double)c->flip_count / (double)c->n,
               (unsigned long long)c->kinds[COMPARE_FIXED], (unsigned long long)c->kinds[COMPARE_BROKEN],
               (unsigned long long)c->kinds[COMPARE_OTHER]);
    for (size_t i = 0; i < c->flip_count && i < r->flips; i++) {
        buf_puts(out, i ? ",\n    " : "\n    ");
        compare_report_flip(out, r, i);
    }
    buf_puts(out, "]},\n  \"size_ratio\": ");
    put_number(out, r->facts.size_ratio);
    buf_puts(out, ",\n  \"time_ratio\": ");
    put_number(out, r->facts.time_ratio);
    buf_puts(out, ",\n");
    put_rules(out, r);
    buf_puts(out, "}\n");
}

/* ---- what the text and the page share ---- */

static void fill_measures(Grid *g, const Compare *c) {
    const struct {
        const char *name;
        const Interval *a, *b, *difference;
        double scale;
        int decimals;
    } ALL[] = {
        {"accuracy (%)", &c->a.accuracy, &c->b.accuracy, &c->accuracy, 100, 2},
        {"macro F1 (%)", &c->a.macro_f1, &c->b.macro_f1, &c->macro_f1, 100, 2},
        {"macro recall (%)", &c->a.macro_recall, &c->b.macro_recall, &c->macro_recall, 100, 2},
        {"ECE, 15 bins (%)", &c->a.ece, &c->b.ece, &c->ece, 100, 2},
        {"NLL (nats)", &c->a.nll, &c->b.nll, &c->nll, 1, 4},
        {"Brier", &c->a.brier, &c->b.brier, &c->brier, 1, 4},
    };
    grid_init(g, "lrrr");
    grid_put(g, "measure");
    grid_put(g, "A");
    grid_put(g, "B");
    grid_put(g, "B - A [95 %% interval]");
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        grid_put(g, "%s", ALL[i].name);
        grid_put(g, "%.*f", ALL[i].decimals, ALL[i].scale * ALL[i].a->value);
        grid_put(g, "%.*f", ALL[i].decimals, ALL[i].scale * ALL[i].b->value);
        grid_put_interval(g, ALL[i].decimals, ALL[i].scale, ALL[i].difference);
    }
}

static void fill_classes(Grid *g, const CompareReport *r) {
    static const char *const HEAD[] = {
        "class", "rows", "recall A %", "recall B %", "difference", "precision difference", "F1 difference"};
    grid_init(g, "lrrrrrr");
    for (size_t i = 0; i < sizeof HEAD / sizeof HEAD[0]; i++) grid_put(g, "%s", HEAD[i]);
    for (int k = 0; k < r->compare->K; k++) {
        const CompareClass *d = &r->compare->classes[k];
        const MetricsClass *a = &r->compare->a.classes[k], *b = &r->compare->b.classes[k];
        char n[32];
        grid_put_name(g, r->labels->names[k]);
        grid_put(g, "%s", grid_count(n, a->support));
        grid_put(g, "%.2f", 100 * a->recall.value);
        grid_put(g, "%.2f", 100 * b->recall.value);
        grid_put_interval(g, 2, 100, &d->recall);
        grid_put_interval(g, 2, 100, &d->precision);
        grid_put_interval(g, 2, 100, &d->f1);
    }
}

static void fill_flips(Grid *g, const CompareReport *r, size_t most, size_t text_bytes) {
    static const char *const HEAD[] = {"kind", "label", "A says", "B says", "id", "text"};
    const char *const *names = r->labels->names;
    grid_init(g, "llllll");
    for (size_t i = 0; i < sizeof HEAD / sizeof HEAD[0]; i++) grid_put(g, "%s", HEAD[i]);
    for (size_t i = 0; i < r->compare->flip_count && i < most; i++) {
        const CompareFlip *f = &r->compare->flips[i];
        const RowText *text = &r->set->texts[f->row];
        grid_put(g, "%s", compare_kind_name(f->kind));
        grid_put_name(g, names[r->set->labels[f->row]]);
        grid_put(g, "%.40s %.3f", names[f->a], f->p_a);
        grid_put(g, "%.40s %.3f", names[f->b], f->p_b);
        grid_put_name(g, rows_id(&r->set->rows, f->row));
        grid_put_text(g, text->text, text->n, text_bytes);
    }
}

static void fill_sides(Grid *g, const CompareReport *r) {
    const CompareSide *const sides[] = {&r->a, &r->b};
    static const char *const HEAD[] = {"", "router", "kind", "labels", "bytes", "ms a prompt", "texts cut"};
    grid_init(g, "lllrrrr");
    for (size_t i = 0; i < sizeof HEAD / sizeof HEAD[0]; i++) grid_put(g, "%s", HEAD[i]);
    for (int i = 0; i < 2; i++) {
        const CompareSide *s = sides[i];
        char n[32];
        grid_put(g, "%c", 'A' + i);
        grid_put_text(g, s->path, strlen(s->path), 90);
        grid_put(g, "%s", s->kind);
        grid_put(g, "%d", s->labels);
        grid_put(g, "%s", s->bytes ? grid_count(n, s->bytes) : "-");
        grid_put(g, isfinite(s->seconds) ? "%.3f" : "-", 1000 * s->seconds);
        grid_put(g, "%s", s->truncated >= 0 ? grid_count(n, (uint64_t)s->truncated) : "not known");
    }
}

static void fill_rules(Grid *g, const CompareReport *r) {
    static const char *const HEAD[] = {"rule", "class", "measured", "limit", "unit", "result"};
    grid_init(g, "llrrll");
    for (size_t i = 0; i < sizeof HEAD / sizeof HEAD[0]; i++) grid_put(g, "%s", HEAD[i]);
    for (size_t i = 0; i < r->rules->count; i++) {
        const Rule *rule = &r->rules->items[i];
        grid_put(g, "%s", rules_key(rule));
        if (rule->worst >= 0)
            grid_put(g, "%.40s%s", r->labels->names[rule->worst], rule->label ? "" : " (worst)");
        else
            grid_put(g, "%s", "");
        grid_put(g, "%.4g", rule->measured);
        grid_put(g, "%s %.4g", rule->least ? ">=" : "<=", rule->limit);
        grid_put(g, "%s", rules_unit(rule));
        grid_put(g, "%s", rule->passed ? "passed" : "FAILED");
    }
}

/* Up to three sentences; what is compared, and how fast. */
static void put_words(Buf *out, const CompareReport *r) {
    const Compare *c = r->compare;
    char n[32];
    buf_printf(out, "%s rows", grid_count(n, c->n));
    if (r->set->rows.skipped)
        buf_printf(out, " (%s left out: label not known)", grid_count(n, r->set->rows.skipped));
    if (r->labels->shared == c->K && r->a.labels == r->b.labels)
        buf_printf(out, "; both routers have the same %d labels.", c->K);
    else
        buf_printf(
            out,
            "; the label sets differ (%d shared, %d only A's, %d only B's) and are compared as one of %d "
            "by name: a router is never right, and never sure, about a label that it does not have.",
            r->labels->shared, r->a.labels - r->labels->shared, r->b.labels - r->labels->shared, c->K);
    if (isfinite(r->facts.size_ratio)) buf_printf(out, " Size B / A: %.3f.", r->facts.size_ratio);
    if (isfinite(r->facts.time_ratio))
        buf_printf(out, " Time B / A: %.3f (%zu rows at a time, in turn, on %d %s).", r->facts.time_ratio,
                   r->timed_rows, r->threads, r->threads == 1 ? "thread" : "threads");
}

static void put_mcnemar(Buf *out, const Compare *c) {
    const CompareMcnemar *m = &c->mcnemar;
    char both[32], a[32], b[32], neither[32];
    buf_printf(
        out,
        "Right: both %s, only A %s, only B %s, neither %s. McNemar: exact p %.4g, mid-p %.4g, chi-square "
        "%.3f with p %.4g.",
        grid_count(both, m->both), grid_count(a, m->only_a), grid_count(b, m->only_b),
        grid_count(neither, m->neither), m->exact_p, m->mid_p, m->chi2, m->chi2_p);
}

static void put_flip_words(Buf *out, const CompareReport *r, size_t shown) {
    const Compare *c = r->compare;
    char n[32], fixed[32], broken[32], other[32];
    buf_printf(out, "%s answers differ (%.2f %%): %s fixed by B, %s broken by B, %s wrong in both",
               grid_count(n, c->flip_count), 100 * (double)c->flip_count / (double)c->n,
               grid_count(fixed, c->kinds[COMPARE_FIXED]), grid_count(broken, c->kinds[COMPARE_BROKEN]),
               grid_count(other, c->kinds[COMPARE_OTHER]));
    if (c->flip_count > shown) buf_printf(out, "; the %zu that both are surest of", shown);
    buf_puts(out, c->flip_count && shown ? ":" : ".");
}

void compare_report_table(Buf *out, const CompareReport *r) {
    Grid g;
    fill_sides(&g, r);
    grid_end_text(out, &g);
    buf_puts(out, "\n");
    buf_printf(out, "set     %s\n", r->set->name.data);
    put_words(out, r);
    buf_puts(out, "\n\n");
    fill_measures(&g, r->compare);
    grid_end_text(out, &g);
    buf_puts(out, "\n");
    put_mcnemar(out, r->compare);
    buf_puts(out, "\n\n");
    fill_classes(&g, r);
    grid_end_text(out, &g);
    buf_puts(out, "\n");
    put_flip_words(out, r, r->flips);
    buf_puts(out, "\n");
    if (r->compare->flip_count && r->flips) {
        fill_flips(&g, r, r->flips, TEXT_FLIP);
        grid_end_text(out, &g);
    }
    if (!r->rules) return;
    buf_puts(out, "\n");
    fill_rules(&g, r);
    grid_end_text(out, &g);
    buf_printf(out, "%zu of %zu rules passed\n", r->rules->count - r->rules->failed, r->rules->count);
}

/* ---- the page ---- */

/* Recall of each class, A above B. */
static void page_bars(Buf *out, const CompareReport *r) {
    const Compare *c = r->compare;
    const size_t count = 2 * (size_t)c->K;
    HtmlBar *bars = mem_alloc(count, sizeof *bars);
    char(*texts)[32] = mem_alloc(count, sizeof *texts);
    if (bars && texts) {
        for (size_t i = 0; i < count; i++) {
            const Interval *v = i % 2 ? &c->b.classes[i / 2].recall : &c->a.classes[i / 2].recall;
            (void)snprintf(texts[i], sizeof texts[i], "%s %.2f %%", i % 2 ? "B" : "A", 100 * v->value);
            bars[i] =
                (HtmlBar){i % 2 ? "" : r->labels->names[i / 2], texts[i], v->value, v->low, v->high, i % 2};
        }
        html_text(out, "Recall of each class with Wilson's 95 %% interval:");
        html_bars(out, bars, count, 1);
    } else {
        out->failed = true;
    }
    mem_free(bars);
    mem_free(texts);
}

void compare_report_html(Buf *out, const CompareReport *r) {
    Grid g;
    Buf text = {0};
    html_begin(out, "Two routers compared", r->set->name.data);
    fill_sides(&g, r);
    grid_end_html(out, &g);
    put_words(&text, r);
    html_text_of(out, &text);
    if (r->rules) {
        html_section(out, r->rules->failed ? "The gate failed" : "The gate passed");
        fill_rules(&g, r);
        grid_end_html(out, &g);
    }
    html_section(out, "Measures");
    fill_measures(&g, r->compare);
    grid_end_html(out, &g);
    put_mcnemar(&text, r->compare);
    html_text_of(out, &text);
    html_section(out, "Classes");
    page_bars(out, r);
    fill_classes(&g, r);
    grid_end_html(out, &g);
    html_section(out, "Answers that differ");
    put_flip_words(&text, r, PAGE_FLIPS);
    html_text_of(out, &text);
    fill_flips(&g, r, PAGE_FLIPS, PAGE_FLIP);
    grid_end_html(out, &g);
    html_end(out);
    buf_free(&text);
}
