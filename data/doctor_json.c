#include <string.h>

#include "core/text.h"
#include "data/doctor.h"
#include "data/jsonl.h"

enum { GRAMS_GIVEN = 20, SUSPECTS_GIVEN = 100 };

static void put_string(Buf *out, const char *key, const char *s) {
    buf_printf(out, ",\"%s\":", key);
    text_put_json(out, s, strlen(s));
}

static void put_count(Buf *out, const char *key, uint64_t n) {
    buf_printf(out, ",\"%s\":%llu", key, (unsigned long long)n);
}

static void put_lengths(Buf *out, const DoctorLengths *l) {
    buf_printf(out,
               "\"rows\":%llu,\"sum\":%llu,\"p5\":%u,\"p50\":%u,\"p90\":%u,\"p95\":%u,\"p99\":%u,\"max\":%u,"
               "\"cut\":[",
               (unsigned long long)l->rows, (unsigned long long)l->sum, l->p5, l->p50, l->p90, l->p95, l->p99,
               l->max);
    for (int c = 0; c < DOCTOR_CUTS; c++)
        buf_printf(out, "%s{\"at\":%u,\"rows\":%llu,\"lost\":%llu}", c ? "," : "", DOCTOR_CUT_AT[c],
                   (unsigned long long)l->cut_rows[c], (unsigned long long)l->cut_sum[c]);
    buf_puts(out, "]");
}

/* {"name":count, ...} of those that are not 0. */
#define PUT_COUNTS(out, key, array, count, name)                                                     \
    do {                                                                                             \
        buf_printf(out, ",\"%s\":{", key);                                                           \
        const char *separator_ = "";                                                                 \
        for (unsigned i_ = 0; i_ < (unsigned)(count); i_++) {                                        \
            if (!(array)[i_]) continue;                                                              \
            buf_printf(out, "%s\"%s\":%llu", separator_, name(i_), (unsigned long long)(array)[i_]); \
            separator_ = ",";                                                                        \
        }                                                                                            \
        buf_puts(out, "}");                                                                          \
    } while (0)

static void put_label(Buf *out, const DoctorLabel *label) {
    put_lengths(out, &label->lengths);
    PUT_COUNTS(out, "splits", label->split, SPLIT_COUNT + 1, split_name);
    PUT_COUNTS(out, "scripts", label->script, SCRIPT_COUNT, script_name);
    PUT_COUNTS(out, "languages", label->language, LANGUAGE_COUNT, script_language_name);
}

static void put_gram(Buf *out, const LeakGram *g) {
    buf_printf(out, "{\"kind\":\"%s\"", leak_kind_name(g->kind));
    put_string(out, "text", g->text);
    put_count(out, "rows", g->rows);
    put_count(out, "rows_of_label", g->rows_own);
    buf_printf(out, ",\"share\":%.6f,\"precision\":%.6f,\"score\":%.6f}", g->share, g->precision, g->score);
}

static void put_labels(Buf *out, const Doctor *d) {
    buf_puts(out, ",\"labels\":[");
    for (size_t k = 0; k < d->labels.count; k++) {
        buf_puts(out, k ? ",{\"label\":" : "{\"label\":");
        text_put_json(out, d->labels.items[k], strlen(d->labels.items[k]));
        buf_puts(out, ",");
        put_label(out, &d->label[k]);
        if (d->leak) {
            const LeakGram name = leak_name(d->leak, (int)k);
            size_t n;
            const LeakGram *grams = leak_of(d->leak, (int)k, &n);
            buf_puts(out, ",\"name_in_texts\":");
            put_gram(out, &name);
            buf_puts(out, ",\"n_grams\":[");
            for (size_t i = 0; i < n && i < GRAMS_GIVEN; i++) {
                if (i) buf_puts(out, ",");
                put_gram(out, &grams[i]);
            }
            buf_puts(out, "]");
        }
        buf_puts(out, "}");
    }
    buf_puts(out, "]");
}

static void put_place(Buf *out, const Inputs *inputs, const DoctorPlace *place) {
    const char *name = inputs->items[place->file].name;
    buf_puts(out, "{\"file\":");
    text_put_json(out, name, strlen(name));
    buf_printf(out, ",\"line\":%llu}", (unsigned long long)place->line);
}

static void put_finding(Buf *out, const Doctor *d, DoctorKind kind, const DoctorFinding *f) {
    buf_puts(out, "{\"at\":");
    put_place(out, d->rule->inputs, &f->place);
    if (f->other.line) {
        buf_puts(out, ",\"other\":");
        put_place(out, kind == DOCTOR_OVERLAP ? d->rule->against : d->rule->inputs, &f->other);
        buf_printf(out, ",\"similarity\":%.4f", f->similarity);
    }
    if (f->label >= 0) put_string(out, "label", d->labels.items[f->label]);
    if (f->other_label >= 0) put_string(out, "other_label", d->labels.items[f->other_label]);
    if (kind == DOCTOR_OVERLAP) buf_printf(out, ",\"shares_words\":%s", f->shares_words ? "true" : "false");
    put_string(out, kind == DOCTOR_BAD ? "what" : "text", f->text ? f->text : "");
    buf_puts(out, "}");
}

static void put_repeats(Buf *out, const DoctorRepeats *r) {
    put_count(out, "within_file", r->within_file);
    put_count(out, "across_files", r->across_files);
    put_count(out, "across_splits", r->across_splits);
}

static void put_findings(Buf *out, const Doctor *d) {
    buf_puts(out, ",\"findings\":{");
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        const DoctorFindings *f = &d->found[k];
        buf_printf(out, "%s\"%s\":{\"count\":%llu", k ? "," : "", doctor_kind_key(k),
                   (unsigned long long)f->count);
        if (k == DOCTOR_EXACT) put_repeats(out, &d->exact);
        if (k == DOCTOR_NEAR) put_repeats(out, &d->near);
        buf_puts(out, ",\"first\":[");
        for (size_t i = 0; i < f->listed_count; i++) {
            if (i) buf_puts(out, ",");
            put_finding(out, d, k, &f->listed[i]);
        }
        buf_puts(out, "]}");
    }
    buf_puts(out, "}");
}

static void put_suspect(Buf *out, const Doctor *d, const Suspect *s, size_t rank) {
    const DoctorRow *row = &d->rows[s->row];
    const SuspectsPlace place = {.file = d->rule->inputs->items[row->file].name,
                                 .line = row->line,
                                 .label = d->labels.items[s->label],
                                 .suggested = d->labels.items[s->suggested]};
    suspects_put(out, d->suspects, s, rank, &place);
}

static void put_joint(Buf *out, const Doctor *d) {
    const uint64_t *joint = suspects_joint(d->suspects);
    const size_t K = d->labels.count;
    buf_puts(out, ",\"joint\":[");
    for (size_t i = 0; i < K * K; i++)
        buf_printf(out, "%s%llu", i == 0 ? "[" : i % K ? "," : "],[", (unsigned long long)joint[i]);
    buf_puts(out, "]]");
}

static void put_suspects(Buf *out, const Doctor *d) {
    if (!d->suspects) {
        buf_puts(out, ",\"suspects\":null");
        put_string(out, "suspects_why", d->suspects_why);
        return;
    }
    size_t n;
    const Suspect *s = suspects_all(d->suspects, &n);
    buf_printf(out, ",\"suspects\":{\"count\":%zu", n);
    put_count(out, "confident", suspects_confident(d->suspects));
    put_count(out, "judged", suspects_judged(d->suspects));
    put_count(out, "sample", d->sampled);
    put_joint(out, d);
    buf_puts(out, ",\"first\":[");
    for (size_t i = 0; i < n && i < SUSPECTS_GIVEN && i < d->rule->list; i++) {
        if (i) buf_puts(out, ",");
        put_suspect(out, d, &s[i], i + 1);
    }
    buf_puts(out, "]}");
}

static void put_limits(Buf *out, const Doctor *d) {
    DoctorLimit limits[DOCTOR_LIMITS];
    const size_t over = doctor_limits(d, limits);
    buf_printf(out, ",\"over_limits\":%zu,\"limits\":[", over);
    for (size_t i = 0; i < DOCTOR_LIMITS; i++) {
        buf_puts(out, i ? ",{\"what\":" : "{\"what\":");
        text_put_json(out, limits[i].what, strlen(limits[i].what));
        buf_printf(out, ",\"found\":%.10g,\"limit\":%g,\"over\":%s}", limits[i].found, limits[i].limit,
                   limits[i].over ? "true" : "false");
    }
    buf_puts(out, "]");
}

void doctor_put_json(Buf *out, const Doctor *d) {
    buf_puts(out, "{\"files\":[");
    for (size_t i = 0; i < d->rule->inputs->count; i++) {
        const char *name = d->rule->inputs->items[i].name;
        buf_puts(out, i ? ",{\"file\":" : "{\"file\":");
        text_put_json(out, name, strlen(name));
        put_count(out, "rows", d->file_rows[i]);
        buf_puts(out, "}");
    }
    buf_printf(out, "],\"unit\":\"%s\",\"threshold\":%g,", d->rule->tokenizer ? "tokens" : "words",
               d->rule->threshold);
    put_label(out, &d->all);
    put_labels(out, d);
    put_count(out, "benchmark_rows", d->benchmark_rows);
    put_findings(out, d);
    put_suspects(out, d);
    put_limits(out, d);
    buf_puts(out, "}\n");
}

ErrCode doctor_save_suspects(const Doctor *d, const char *path, Err *err) {
    if (!d->suspects)
        return err_set(err, ERR_ARGUMENT, "%s: labels were not audited: %s", path, d->suspects_why);
    Jsonl file = {0};
    Buf line = {0};
    size_t n;
    const Suspect *s = suspects_all(d->suspects, &n);
    ErrCode rc = jsonl_create(&file, path, err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        buf_clear(&line);
        put_suspect(&line, d, &s[i], i + 1);
        rc = buf_ok(&line, err);
        if (rc == ERR_OK) jsonl_put(&file, line.data, line.len);
    }
    if (rc == ERR_OK) rc = jsonl_commit(&file, err);
    jsonl_abort(&file);
    buf_free(&line);
    return rc;
}
