#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "data/mix.h"

static const char *const FATES[MIX_FATES] = {"taken",      "bad",          "where", "length",
                                             "label_null", "in_benchmark", "equal", "near_duplicate",
                                             "over_cap",   "not_drawn"};

const char *mix_fate_name(MixFate fate) {
    return (unsigned)fate < MIX_FATES ? FATES[fate] : "none";
}

static const char *source_name(const ManifestSource *s) {
    return s->name ? s->name : s->files.paths.items[0];
}

static const char *kind_name(ManifestKind kind) {
    return kind == MANIFEST_REAL ? "real" : kind == MANIFEST_SYNTHETIC ? "synthetic" : "as rows say";
}

static const char *licence_of(const ManifestSource *s) {
    return s->licence ? s->licence : "not stated";
}

/* ---- JSON ---- */

static void put_key(Buf *out, const char *key) {
    text_put_json(out, key, strlen(key));
    buf_puts(out, ":");
}

static void put_string(Buf *out, const char *key, const char *value) {
    put_key(out, key);
    text_put_json(out, value, strlen(value));
}

static void put_count_json(Buf *out, const MixCount *c) {
    buf_printf(out, "\"in\":%llu,\"dropped\":{", (unsigned long long)c->in);
    for (int f = MIX_BAD; f < MIX_FATES; f++)
        buf_printf(out, "%s\"%s\":%llu", f > MIX_BAD ? "," : "", FATES[f], (unsigned long long)c->fate[f]);
    buf_printf(out, "},\"rows\":%llu,\"out\":%llu,\"synthetic\":%llu,\"weight\":%.17g",
               (unsigned long long)c->fate[MIX_TAKEN], (unsigned long long)c->lines,
               (unsigned long long)c->synthetic, c->weight);
}

/* Licences, each with the sources that have it: few, so that each is looked for among those before. */
static void put_licences(Buf *out, const MixReport *r, const Manifest *m) {
    bool any = false;
    for (size_t i = 0; i < m->source_count; i++) {
        const char *licence = licence_of(&m->sources[i]);
        bool before = false;
        uint64_t lines = 0;
        for (size_t k = 0; k < m->source_count; k++) {
            if (strcmp(licence_of(&m->sources[k]), licence) != 0) continue;
            before = before || k < i;
            lines += r->sources[k].lines;
        }
        if (before) continue;
        if (any) buf_puts(out, ",");
        any = true;
        put_key(out, licence);
        buf_printf(out, "%llu", (unsigned long long)lines);
    }
}

void mix_report_json(Buf *out, const MixReport *r, const MixRule *rule) {
    const Manifest *m = rule->manifest;
    buf_puts(out, "{");
    put_string(out, "manifest", m->path);
    buf_puts(out, ",");
    put_string(out, "file", rule->out);
    buf_printf(out,
               ",\"seed\":%llu,\"near\":%.9g,\"temperature\":%.9g,\"weights\":%s,\"benchmark_rows\":%llu,",
               (unsigned long long)m->seed, m->near, m->temperature, rule->weights ? "true" : "false",
               (unsigned long long)r->against);
    put_count_json(out, &r->all);
    buf_puts(out, ",\"domains\":{");
    for (size_t k = 0; k < r->labels.count; k++) {
        if (k) buf_puts(out, ",");
        put_key(out, r->labels.items[k]);
        buf_puts(out, "{");
        put_count_json(out, &r->domains[k]);
        buf_puts(out, "}");
    }
    buf_puts(out, "},\"sources\":[");
    for (size_t i = 0; i < m->source_count; i++) {
        buf_puts(out, i ? ",{" : "{");
        put_string(out, "name", source_name(&m->sources[i]));
        buf_puts(out, ",");
        put_string(out, "kind", kind_name(m->sources[i].kind));
        buf_puts(out, ",");
        put_string(out, "licence", licence_of(&m->sources[i]));
        buf_printf(out, ",\"files\":%u,", (unsigned)r->files[i]);
        put_count_json(out, &r->sources[i]);
        buf_puts(out, "}");
    }
    buf_puts(out, "],\"licences\":{");
    put_licences(out, r, m);
    buf_puts(out, "}}\n");
}

/* ---- text ---- */

enum { NAME_WIDTH = 28 };

static void put_name(Buf *out, const char *name) {
    char shown[NAME_WIDTH + 4];
    const size_t n = strlen(name), skip = n > NAME_WIDTH ? n - NAME_WIDTH : 0; /* the end tells files apart */
    text_excerpt(shown, NAME_WIDTH, name + skip, n - skip);
    const int columns = text_columns(shown);
    buf_printf(out, "  %s%*s", shown, columns < NAME_WIDTH ? NAME_WIDTH - columns : 0, "");
}

static void put_number(Buf *out, uint64_t n) {
    char text[32];
    buf_printf(out, " %11s", text_grouped(text, n));
}

static void put_source_line(Buf *out, const char *name, const MixCount *c, const char *licence) {
    put_name(out, name);
    put_number(out, c->in);
    put_number(out, c->fate[MIX_BAD] + c->fate[MIX_WHERE] + c->fate[MIX_LENGTH] + c->fate[MIX_LABEL]);
    put_number(out, c->fate[MIX_AGAINST]);
    put_number(out, c->fate[MIX_EQUAL] + c->fate[MIX_ALIKE]);
    put_number(out, c->fate[MIX_CAP] + c->fate[MIX_DRAWN]);
    put_number(out, c->lines);
    buf_printf(out, "%s%s\n", *licence ? "  " : "", licence);
}

static void put_sources(Buf *out, const MixReport *r, const Manifest *m) {
    buf_printf(out, "\n  %-*s %11s %11s %11s %11s %11s %11s  %s\n", NAME_WIDTH, "source", "in", "unfit",
               "benchmark", "repeated", "not drawn", "out", "licence");
    for (size_t i = 0; i < m->source_count; i++) {
        if (r->files[i]) {
            put_source_line(out, source_name(&m->sources[i]), &r->sources[i], licence_of(&m->sources[i]));
            continue;
        }
        put_name(out, source_name(&m->sources[i]));
        buf_puts(out, "   not there; optional\n");
    }
    put_source_line(out, "all", &r->all, "");
}

static void put_domains(Buf *out, const MixReport *r, bool weights) {
    buf_printf(out, "\n  %-*s %11s %11s %11s %11s %9s %9s\n", NAME_WIDTH, "domain", "different", "real",
               "synthetic", "out", "share", weights ? "weight" : "repeated");
    for (size_t k = 0; k < r->labels.count; k++) {
        const MixCount *c = &r->domains[k];
        const double each = c->fate[MIX_TAKEN] ? c->weight / (double)c->fate[MIX_TAKEN] : 0;
        put_name(out, r->labels.items[k]);
        put_number(out, c->fate[MIX_TAKEN]);
        put_number(out, c->lines - c->synthetic);
        put_number(out, c->synthetic);
        put_number(out, c->lines);
        buf_printf(out, " %7.2f %% %9.3f\n", r->all.weight > 0 ? 100 * c->weight / r->all.weight : 0, each);
    }
}

void mix_report_text(Buf *out, const MixReport *r, const MixRule *rule) {
    char in[32], lines[32], rows[32];
    buf_printf(out, "%s: %s rows in, %s out, %s of them different\n", rule->out, text_grouped(in, r->all.in),
               text_grouped(lines, r->all.lines), text_grouped(rows, r->all.fate[MIX_TAKEN]));
    put_sources(out, r, rule->manifest);
    put_domains(out, r, rule->weights);
    static const char *const WHY[MIX_FATES] = {
        [MIX_BAD] = "bad rows",
        [MIX_WHERE] = "not what 'where' asks for",
        [MIX_LENGTH] = "too short or too long",
        [MIX_LABEL] = "label mapped to null",
        [MIX_AGAINST] = "in a benchmark",
        [MIX_EQUAL] = "equal to an earlier row but for case and punctuation",
        [MIX_ALIKE] = "near-duplicates of an earlier row",
        [MIX_CAP] = "over the cap of their source",
        [MIX_DRAWN] = "not drawn: weight, temperature or total"};
    buf_puts(out, "\n");
    for (int f = MIX_BAD; f < MIX_FATES; f++)
        if (r->all.fate[f])
            buf_printf(out, "  %12s  dropped: %s\n", text_grouped(in, r->all.fate[f]), WHY[f]);
}
