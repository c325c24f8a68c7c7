#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/html.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/doctor.h"

enum { LABELS_SHOWN = 60, GRAMS_SHOWN = 8, SUSPECTS_SHOWN = 50, HEAT_MAX = 32, NAME = 64 };

static double percent(uint64_t part, uint64_t whole) {
    return whole ? 100 * (double)part / (double)whole : 0;
}

/* ---- tables: cells are texts that end in NUL, one behind the other ---- */

static void put_cell(Buf *cells, const char *fmt, ...) ERR_PRINTF(2, 3);
static void put_cell(Buf *cells, const char *fmt, ...) {
    char text[ERR_MESSAGE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_put(cells, text, strlen(text) + 1);
}

static void put_table(Buf *out, const char *const *head, Buf *cells, size_t columns) {
    size_t count = 0;
    for (size_t i = 0; i < cells->len; i++) count += cells->data[i] == 0;
    const char **items = cells->failed ? NULL : mem_alloc(count + 1, sizeof *items);
    if (items) {
        size_t n = 0;
        for (size_t at = 0; at < cells->len; at += strlen(cells->data + at) + 1)
            items[n++] = cells->data + at;
        html_table(out, head, items, n / columns, columns);
    } else {
        out->failed = true;
    }
    mem_free(items);
    buf_free(cells);
}

/* A label's name, cut to fit. */
static const char *label_of(char out[NAME + 4], const Doctor *d, int label) {
    const char *name = d->labels.items[label];
    return text_excerpt(out, NAME, name, strlen(name));
}

/* ---- sections ---- */

static void put_limits(Buf *out, const Doctor *d) {
    static const char *const HEAD[] = {"", "found", "limit", "what"};
    DoctorLimit limits[DOCTOR_LIMITS];
    Buf cells = {0};
    const size_t over = doctor_limits(d, limits);
    html_section(out, "Fit to train on?");
    html_text(out, "%zu of %d limits are exceeded.", over, DOCTOR_LIMITS);
    for (size_t i = 0; i < DOCTOR_LIMITS; i++) {
        put_cell(&cells, "%s", limits[i].over ? "OVER" : "ok");
        put_cell(&cells, "%.7g", limits[i].found);
        put_cell(&cells, "%g", limits[i].limit);
        put_cell(&cells, "%s", limits[i].what);
    }
    put_table(out, HEAD, &cells, 4);
}

static void put_bars(Buf *out, const Doctor *d) {
    HtmlBar bars[LABELS_SHOWN];
    char names[LABELS_SHOWN][NAME + 4], texts[LABELS_SHOWN][48];
    size_t n = 0;
    for (; n < d->labels.count && n < LABELS_SHOWN; n++) {
        char rows[32];
        const uint64_t own = d->label[n].lengths.rows;
        (void)snprintf(texts[n], sizeof texts[n], "%s (%.2f %%)", text_grouped(rows, own),
                       percent(own, d->row_count));
        bars[n] = (HtmlBar){label_of(names[n], d, (int)n), texts[n], (double)own, 0, 0, false};
    }
    html_bars(out, bars, n, 0);
    if (d->labels.count > n) html_text(out, "And %zu more labels.", d->labels.count - n);
}

static void put_labels(Buf *out, const Doctor *d) {
    static const char *const HEAD[] = {"label", "rows", "5 %", "50 %", "90 %", "95 %", "99 %", "longest"};
    const char *unit = d->rule->tokenizer ? "tokens" : "words";
    char name[NAME + 4];
    Buf cells = {0};
    html_section(out, "Labels and lengths");
    put_bars(out, d);
    html_text(out, "Lengths in %s%s.", unit,
              d->rule->tokenizer ? ", [CLS] and [SEP] counted" : " (an estimate: --tokenizer counts tokens)");
    for (size_t k = 0; k <= d->labels.count && k <= LABELS_SHOWN; k++) {
        const bool all = k == d->labels.count || k == LABELS_SHOWN;
        const DoctorLengths *l = all ? &d->all.lengths : &d->label[k].lengths;
        put_cell(&cells, "%s", all ? "all" : label_of(name, d, (int)k));
        put_cell(&cells, "%llu", (unsigned long long)l->rows);
        const uint32_t values[6] = {l->p5, l->p50, l->p90, l->p95, l->p99, l->max};
        for (int i = 0; i < 6; i++) put_cell(&cells, "%u", values[i]);
    }
    put_table(out, HEAD, &cells, 8);
    double edges[DOCTOR_BINS + 1], counts[DOCTOR_BINS];
    size_t bins = 0;
    for (size_t i = 0; i < DOCTOR_BINS; i++) {
        edges[i] = pow(2, (double)i / 4);
        counts[i] = (double)d->histogram[i];
        if (d->histogram[i]) bins = i + 1;
    }
    edges[DOCTOR_BINS] = pow(2, (double)DOCTOR_BINS / 4);
    char title[64];
    (void)snprintf(title, sizeof title, "Rows by number of %s", unit);
    html_histogram(out, title, unit, edges, counts, bins);
    static const char *const CUT_HEAD[] = {"cut at", "rows longer", "% of rows", "% of their content lost"};
    for (int c = 0; c < DOCTOR_CUTS; c++) {
        put_cell(&cells, "%u", DOCTOR_CUT_AT[c]);
        put_cell(&cells, "%llu", (unsigned long long)d->all.lengths.cut_rows[c]);
        put_cell(&cells, "%.2f", percent(d->all.lengths.cut_rows[c], d->row_count));
        put_cell(&cells, "%.2f", percent(d->all.lengths.cut_sum[c], d->all.lengths.sum));
    }
    put_table(out, CUT_HEAD, &cells, 4);
}

static void put_mix(Buf *out, const Doctor *d) {
    HtmlBar bars[SCRIPT_COUNT + LANGUAGE_COUNT];
    char texts[SCRIPT_COUNT + LANGUAGE_COUNT][32];
    size_t n = 0;
    html_section(out, "Scripts and languages");
    html_text(out, "The script of most letters; the language where the script or frequent words tell it.");
    for (Script s = SCRIPT_NONE; s < SCRIPT_COUNT; s++) {
        if (!d->all.script[s]) continue;
        (void)snprintf(texts[n], sizeof texts[n], "%.2f %%", percent(d->all.script[s], d->row_count));
        bars[n] = (HtmlBar){script_name(s), texts[n], percent(d->all.script[s], d->row_count), 0, 0, false};
        n++;
    }
    for (Language l = LANGUAGE_UNKNOWN; l < LANGUAGE_COUNT; l++) {
        if (!d->all.language[l]) continue;
        (void)snprintf(texts[n], sizeof texts[n], "%.2f %%", percent(d->all.language[l], d->row_count));
        bars[n] = (HtmlBar){
            script_language_name(l), texts[n], percent(d->all.language[l], d->row_count), 0, 0, true};
        n++;
    }
    html_bars(out, bars, n, 100);
}

static void put_finding(Buf *cells, const Doctor *d, DoctorKind kind, const DoctorFinding *f) {
    char a[NAME + 4], b[NAME + 4];
    put_cell(cells, "%s:%llu", d->rule->inputs->items[f->place.file].name, (unsigned long long)f->place.line);
    const Inputs *others = kind == DOCTOR_OVERLAP ? d->rule->against : d->rule->inputs;
    if (f->other.line)
        put_cell(cells, "%s:%llu", others->items[f->other.file].name, (unsigned long long)f->other.line);
    else
        put_cell(cells, "%s", "");
    if (f->label >= 0 && f->label != f->other_label)
        put_cell(cells, "%s / %s", label_of(a, d, f->label), label_of(b, d, f->other_label));
    else
        put_cell(cells, "%s", f->label >= 0 ? label_of(a, d, f->label) : "");
    put_cell(cells, "%s", f->text ? f->text : "");
}

static void put_findings(Buf *out, const Doctor *d) {
    static const char *const HEAD[] = {"row", "the other", "label", "text, or what is wrong"};
    html_section(out, "Findings");
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        const DoctorFindings *f = &d->found[k];
        if (k == DOCTOR_OVERLAP && !d->rule->against) continue;
        html_text(out, "%llu %s", (unsigned long long)f->count, doctor_kind_name(k));
        if (k == DOCTOR_EXACT || k == DOCTOR_NEAR) {
            const DoctorRepeats *r = k == DOCTOR_EXACT ? &d->exact : &d->near;
            html_text(out, "Of these %llu within a file, %llu across files, %llu across splits.",
                      (unsigned long long)r->within_file, (unsigned long long)r->across_files,
                      (unsigned long long)r->across_splits);
        }
        Buf cells = {0};
        for (size_t i = 0; i < f->listed_count; i++) put_finding(&cells, d, k, &f->listed[i]);
        if (f->listed_count) put_table(out, HEAD, &cells, 4);
    }
}

static void put_leaks(Buf *out, const Doctor *d) {
    static const char *const HEAD[] = {"label", "n-gram", "kind", "rows", "% of the label's rows", "% right"};
    if (!d->leak) return;
    html_section(out, "What gives a label away");
    html_text(
        out,
        "Of the rows of a label, the share that has the n-gram; of the rows with it, the share with that "
        "label. What is frequent and always right is learnt instead of the subject.");
    Buf cells = {0};
    for (size_t k = 0; k < d->labels.count && k < LABELS_SHOWN; k++) {
        size_t n;
        const LeakGram *grams = leak_of(d->leak, (int)k, &n);
        const LeakGram name = leak_name(d->leak, (int)k);
        for (size_t i = 0; i <= n && i <= GRAMS_SHOWN; i++) {
            const LeakGram *g = i == n || i == GRAMS_SHOWN ? &name : &grams[i];
            char label[NAME + 4], text[NAME + 4];
            put_cell(&cells, "%s", label_of(label, d, (int)k));
            put_cell(&cells, "%s", text_excerpt(text, NAME, g->text, strlen(g->text)));
            put_cell(&cells, "%s", leak_kind_name(g->kind));
            put_cell(&cells, "%llu", (unsigned long long)g->rows);
            put_cell(&cells, "%.2f", 100 * g->share);
            put_cell(&cells, "%.2f", 100 * g->precision);
        }
    }
    put_table(out, HEAD, &cells, 6);
}

static void put_heat(Buf *out, const Doctor *d) {
    const size_t K = d->labels.count;
    if (K > HEAT_MAX) return;
    double values[HEAT_MAX * HEAT_MAX];
    char texts[HEAT_MAX][NAME + 4];
    const char *names[HEAT_MAX];
    const uint64_t *joint = suspects_joint(d->suspects);
    for (size_t k = 0; k < K; k++) names[k] = label_of(texts[k], d, (int)k);
    for (size_t i = 0; i < K * K; i++) values[i] = (double)joint[i];
    html_text(out, "Rows by given label and by the label that the models are confident of:");
    html_heat(out, "given", names, K, "confident", names, K, values);
}

static void put_suspects(Buf *out, const Doctor *d) {
    static const char *const HEAD[] = {"row", "label", "suggested", "p(label)", "p(suggested)", "text"};
    html_section(out, "Labels that are probably wrong");
    if (!d->suspects) {
        html_text(out, "Labels were not audited: %s.", d->suspects_why);
        return;
    }
    size_t n;
    const Suspect *s = suspects_all(d->suspects, &n);
    html_text(
        out,
        "%llu rows of %llu confidently, %zu in all, by n-gram models of %d folds, near-duplicates in one "
        "fold, trained on %zu rows.",
        (unsigned long long)suspects_confident(d->suspects), (unsigned long long)suspects_judged(d->suspects),
        n, SUSPECTS_FOLDS, d->sampled);
    put_heat(out, d);
    Buf cells = {0};
    for (size_t i = 0; i < n && i < SUSPECTS_SHOWN; i++) {
        const DoctorRow *row = &d->rows[s[i].row];
        char a[NAME + 4], b[NAME + 4], text[SUSPECTS_EXCERPT + 4];
        put_cell(&cells, "%s:%llu", d->rule->inputs->items[row->file].name, (unsigned long long)row->line);
        put_cell(&cells, "%s", label_of(a, d, s[i].label));
        put_cell(&cells, "%s", label_of(b, d, s[i].suggested));
        put_cell(&cells, "%.3f", (double)s[i].p_label);
        put_cell(&cells, "%.3f", (double)s[i].p_suggested);
        put_cell(&cells, "%s",
                 text_excerpt(text, SUSPECTS_EXCERPT, suspects_text(d->suspects, &s[i]), s[i].text_len));
    }
    if (n) put_table(out, HEAD, &cells, 6);
}

static void put_files(Buf *out, const Doctor *d) {
    static const char *const HEAD[] = {"file", "rows"};
    Buf cells = {0};
    html_section(out, "Files");
    for (size_t i = 0; i < d->rule->inputs->count; i++) {
        put_cell(&cells, "%s", d->rule->inputs->items[i].name);
        put_cell(&cells, "%llu", (unsigned long long)d->file_rows[i]);
    }
    put_table(out, HEAD, &cells, 2);
}

void doctor_put_html(Buf *out, const Doctor *d) {
    char subtitle[128], rows[32];
    (void)snprintf(subtitle, sizeof subtitle, "%s rows in %zu files, %zu labels, %llu bad lines",
                   text_grouped(rows, d->row_count), d->rule->inputs->count, d->labels.count,
                   (unsigned long long)d->found[DOCTOR_BAD].count);
    html_begin(out, "router data check", subtitle);
    put_limits(out, d);
    put_labels(out, d);
    put_mix(out, d);
    put_findings(out, d);
    put_leaks(out, d);
    put_suspects(out, d);
    put_files(out, d);
    html_end(out);
}
