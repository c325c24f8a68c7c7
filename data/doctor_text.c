#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "data/doctor.h"

enum { GRAMS_SHOWN = 5, LABELS_SHOWN = 200, SUSPECTS_SHOWN = 10 };

static double percent(uint64_t part, uint64_t whole) {
    return whole ? 100 * (double)part / (double)whole : 0;
}

/* A text in `width` columns of a terminal at most, filled up with spaces. */
static void put_padded(Buf *out, const char *s, int width) {
    char cut[128];
    text_excerpt(cut, width - 3 > 0 ? (size_t)width - 3 : 1, s, strlen(s));
    const int columns = text_columns(cut);
    buf_printf(out, "%s%*s", cut, width > columns ? width - columns : 0, "");
}

static int label_width(const Doctor *d) {
    size_t width = 8;
    for (size_t k = 0; k < d->labels.count; k++) {
        const size_t n = strlen(d->labels.items[k]) + 3;
        width = n > width ? n : width;
    }
    return width > 32 ? 32 : (int)width;
}

/* ---- rows, labels, lengths ---- */

static void put_head(Buf *out, const Doctor *d) {
    char rows[32], bad[32];
    buf_printf(out, "%s rows in %zu file%s, %zu labels; %s bad lines\n", text_grouped(rows, d->row_count),
               d->rule->inputs->count, d->rule->inputs->count == 1 ? "" : "s", d->labels.count,
               text_grouped(bad, d->found[DOCTOR_BAD].count));
}

static void put_lengths(Buf *out, const DoctorLengths *l) {
    buf_printf(out, " %6u %6u %6u %6u %6u %7u\n", l->p5, l->p50, l->p90, l->p95, l->p99, l->max);
}

static void put_labels(Buf *out, const Doctor *d) {
    const int width = label_width(d);
    const char *unit = d->rule->tokenizer ? "tokens" : "words";
    char text[32];
    buf_printf(out, "\nLabels, and %s a row ([CLS] and [SEP] %s)\n  %-*s %12s %7s", unit,
               d->rule->tokenizer ? "counted" : "not counted: these are no tokens; see --tokenizer", width,
               "label", "rows", "share");
    buf_puts(out, "     5%    50%    90%    95%    99%     max\n");
    for (size_t k = 0; k < d->labels.count && k < LABELS_SHOWN; k++) {
        buf_puts(out, "  ");
        put_padded(out, d->labels.items[k], width);
        buf_printf(out, " %12s %6.2f%%", text_grouped(text, d->label[k].lengths.rows),
                   percent(d->label[k].lengths.rows, d->row_count));
        put_lengths(out, &d->label[k].lengths);
    }
    if (d->labels.count > LABELS_SHOWN)
        buf_printf(out, "  ... and %zu more labels\n", d->labels.count - LABELS_SHOWN);
    buf_printf(out, "  %-*s %12s %6.2f%%", width, "all", text_grouped(text, d->row_count), 100.0);
    put_lengths(out, &d->all.lengths);
    buf_printf(out, "\nWhat cutting rows at N %s would cost\n", unit);
    for (int c = 0; c < DOCTOR_CUTS; c++)
        buf_printf(out, "  N = %-4u %12s rows are longer (%.2f %%), %.2f %% of all %s would be lost\n",
                   DOCTOR_CUT_AT[c], text_grouped(text, d->all.lengths.cut_rows[c]),
                   percent(d->all.lengths.cut_rows[c], d->row_count),
                   percent(d->all.lengths.cut_sum[c], d->all.lengths.sum), unit);
}

static void put_splits(Buf *out, const Doctor *d) {
    if (d->all.split[SPLIT_COUNT] == d->row_count) return;
    char text[32];
    buf_puts(out, "\nSplits\n ");
    for (Split s = SPLIT_TRAIN; s <= SPLIT_COUNT; s++)
        buf_printf(out, " %s %s%s", split_name(s), text_grouped(text, d->all.split[s]),
                   s < SPLIT_COUNT ? "," : "\n");
}

static void put_scripts(Buf *out, const Doctor *d) {
    buf_puts(out, "\nScripts (by most letters), and languages where script or frequent words tell\n ");
    const char *separator = " ";
    for (Script s = SCRIPT_NONE; s < SCRIPT_COUNT; s++) {
        if (!d->all.script[s]) continue;
        buf_printf(out, "%s%s %.2f %%", separator, script_name(s), percent(d->all.script[s], d->row_count));
        separator = ", ";
    }
    separator = "\n  ";
    for (Language l = LANGUAGE_UNKNOWN; l < LANGUAGE_COUNT; l++) {
        if (!d->all.language[l]) continue;
        buf_printf(out, "%s%s %.2f %%", separator, script_language_name(l),
                   percent(d->all.language[l], d->row_count));
        separator = ", ";
    }
    buf_puts(out, "\n");
}

/* ---- findings ---- */

static void put_place(Buf *out, const Inputs *inputs, const DoctorPlace *place) {
    buf_printf(out, "%s:%llu", inputs->items[place->file].name, (unsigned long long)place->line);
}

static void put_finding(Buf *out, const Doctor *d, DoctorKind kind, const DoctorFinding *f) {
    buf_puts(out, "    ");
    put_place(out, d->rule->inputs, &f->place);
    if (kind == DOCTOR_CONFLICT || kind == DOCTOR_NEAR_CONFLICT) {
        char label[68];
        const char *name = d->labels.items[f->label];
        buf_printf(out, " %s", text_excerpt(label, 64, name, strlen(name)));
    }
    if (f->other.line) {
        buf_puts(out, kind == DOCTOR_EXACT || kind == DOCTOR_CONFLICT ? " = " : " ~ ");
        put_place(out, kind == DOCTOR_OVERLAP ? d->rule->against : d->rule->inputs, &f->other);
    }
    if (kind == DOCTOR_CONFLICT || kind == DOCTOR_NEAR_CONFLICT) {
        char label[68];
        const char *name = d->labels.items[f->other_label];
        buf_printf(out, " %s", text_excerpt(label, 64, name, strlen(name)));
    }
    if (kind == DOCTOR_NEAR || kind == DOCTOR_NEAR_CONFLICT || kind == DOCTOR_CROSSING)
        buf_printf(out, " (%.2f)", f->similarity);
    if (kind == DOCTOR_OVERLAP)
        buf_printf(out, " (%s)",
                   f->shares_words      ? "13 words"
                   : f->similarity >= 1 ? "same text"
                                        : "near-duplicate");
    buf_printf(out, ": %s\n", f->text ? f->text : "");
}

static void put_repeats(Buf *out, const DoctorRepeats *r) {
    char a[32], b[32], c[32];
    buf_printf(out, "                of these %s within a file, %s across files, %s across splits\n",
               text_grouped(a, r->within_file), text_grouped(b, r->across_files),
               text_grouped(c, r->across_splits));
}

static void put_findings(Buf *out, const Doctor *d) {
    char text[32];
    buf_puts(out, "\nFindings\n");
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        const DoctorFindings *f = &d->found[k];
        if (k == DOCTOR_OVERLAP && !d->rule->against) continue;
        buf_printf(out, "  %12s  %s", text_grouped(text, f->count), doctor_kind_name(k));
        if (k == DOCTOR_NEAR || k == DOCTOR_NEAR_CONFLICT)
            buf_printf(out, " (similarity from %.2f)", d->rule->threshold);
        if (k == DOCTOR_DEFECT + 5) buf_printf(out, " (%zu characters)", d->rule->characters_max);
        if (k == DOCTOR_OVERLAP) buf_printf(out, " of %s rows", text_grouped(text, d->benchmark_rows));
        buf_puts(out, "\n");
        if (f->count && k == DOCTOR_EXACT) put_repeats(out, &d->exact);
        if (f->count && k == DOCTOR_NEAR) put_repeats(out, &d->near);
        for (size_t i = 0; i < f->listed_count; i++) put_finding(out, d, k, &f->listed[i]);
        if (f->count > f->listed_count && f->listed_count)
            buf_printf(out, "    ... and %s more (--list)\n", text_grouped(text, f->count - f->listed_count));
    }
}

/* ---- n-grams, suspects, limits ---- */

static void put_leaks(Buf *out, const Doctor *d) {
    if (!d->leak) return;
    buf_puts(out,
             "\nWhat gives a label away: share of the label's rows that have it, and of the rows with it "
             "those of the label\n");
    for (size_t k = 0; k < d->labels.count && k < LABELS_SHOWN; k++) {
        size_t n;
        const LeakGram *grams = leak_of(d->leak, (int)k, &n);
        const LeakGram name = leak_name(d->leak, (int)k);
        char label[68];
        const double others = (double)(d->row_count - d->label[k].lengths.rows);
        const double elsewhere = others > 0 ? (double)(name.rows - name.rows_own) / others : 0;
        buf_printf(out, "  %s: its name is in %.2f %% of its rows and in %.2f %% of the others",
                   text_excerpt(label, 64, d->labels.items[k], strlen(d->labels.items[k])), 100 * name.share,
                   100 * elsewhere);
        if (elsewhere > 0) buf_printf(out, " (lift %.1f)", name.share / elsewhere);
        buf_puts(out, "\n");
        for (size_t i = 0; i < n && i < GRAMS_SHOWN; i++) {
            if (grams[i].rows_own < 3) break;
            char text[100], rows[32];
            buf_printf(out, "    %6.2f %% of its rows, %6.2f %% right  %12s rows  %-9s  %s\n",
                       100 * grams[i].share, 100 * grams[i].precision, text_grouped(rows, grams[i].rows),
                       leak_kind_name(grams[i].kind),
                       text_excerpt(text, 96, grams[i].text, strlen(grams[i].text)));
        }
    }
}

static void put_suspects(Buf *out, const Doctor *d) {
    if (!d->suspects) {
        buf_printf(out, "\nLabels were not audited: %s\n", d->suspects_why);
        return;
    }
    char text[32], all[32], rows[32], sampled[32];
    size_t n;
    const Suspect *s = suspects_all(d->suspects, &n);
    buf_printf(out,
               "\nLabels that are probably wrong: %s confidently, %s in all of %s judged rows (by n-gram "
               "models of %d "
               "folds of %s rows)\n",
               text_grouped(text, suspects_confident(d->suspects)), text_grouped(all, n),
               text_grouped(rows, suspects_judged(d->suspects)), SUSPECTS_FOLDS,
               text_grouped(sampled, d->sampled));
    for (size_t i = 0; i < n && i < SUSPECTS_SHOWN && i < d->rule->list; i++) {
        const DoctorRow *row = &d->rows[s[i].row];
        char label[68], suggested[68], excerpt[DOCTOR_EXCERPT + 4];
        buf_puts(out, "    ");
        put_place(out, d->rule->inputs, &(DoctorPlace){row->file, row->line});
        buf_printf(out, " %s -> %s (%.3f, %.3f): %s\n",
                   text_excerpt(label, 64, d->labels.items[s[i].label], strlen(d->labels.items[s[i].label])),
                   text_excerpt(suggested, 64, d->labels.items[s[i].suggested],
                                strlen(d->labels.items[s[i].suggested])),
                   (double)s[i].p_label, (double)s[i].p_suggested,
                   text_excerpt(excerpt, DOCTOR_EXCERPT, suspects_text(d->suspects, &s[i]), s[i].text_len));
    }
}

static void put_limits(Buf *out, const Doctor *d) {
    DoctorLimit limits[DOCTOR_LIMITS];
    const size_t over = doctor_limits(d, limits);
    buf_printf(out, "\nLimits (--strict): %zu of %d exceeded\n", over, DOCTOR_LIMITS);
    for (size_t i = 0; i < DOCTOR_LIMITS; i++)
        buf_printf(
            out, "  %-4s %12.10g  %s (limit %g)\n", limits[i].over ? "OVER" : "ok",
            limits[i].found < 1e6 ? (double)(long)(100 * limits[i].found + 0.5) / 100 : limits[i].found,
            limits[i].what, limits[i].limit);
}

void doctor_put_text(Buf *out, const Doctor *d) {
    put_head(out, d);
    put_labels(out, d);
    put_splits(out, d);
    put_scripts(out, d);
    put_findings(out, d);
    put_leaks(out, d);
    put_suspects(out, d);
    put_limits(out, d);
}
