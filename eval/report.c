#include "eval/report.h"

#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

enum { CONFUSION_COLUMNS = 10, NAME_COLUMNS = 22 };

/* ---- context ---- */

ErrCode report_context_check(const cJSON *context, Err *err) {
    if (!context) return ERR_OK;
    if (!cJSON_IsArray(context)) return err_set(err, ERR_FORMAT, "_context: expected an array of objects");
    const cJSON *item;
    int number = 1;
    cJSON_ArrayForEach(item, context) {
        const char *what = NULL, *source = NULL;
        double accuracy = -1;
        int64_t n = 1;
        ErrCode rc = cJSON_IsObject(item) ? ERR_OK : err_set(err, ERR_FORMAT, "expected an object");
        if (rc == ERR_OK) rc = json_get_string(&what, item, "what", err);
        if (rc == ERR_OK) rc = json_get_string(&source, item, "source", err);
        if (rc == ERR_OK) rc = json_get_double(&accuracy, item, "accuracy", 0, 1, err);
        if (rc == ERR_OK) rc = json_get_int(&n, item, "n", 1, 1000000000000, err);
        if (rc == ERR_OK && (!what || !source || accuracy < 0))
            rc = err_set(err, ERR_FORMAT, "expected members what, source and accuracy (0 to 1)");
        if (rc != ERR_OK) return err_context(err, rc, "_context, entry %d", number);
        number++;
    }
    return ERR_OK;
}

void report_context(ReportContext *out, const cJSON *item) {
    *out = (ReportContext){0};
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(item, "n");
    out->what = cJSON_GetObjectItemCaseSensitive(item, "what")->valuestring;
    out->source = cJSON_GetObjectItemCaseSensitive(item, "source")->valuestring;
    out->n = n ? (uint64_t)n->valuedouble : 0;
    const double accuracy = cJSON_GetObjectItemCaseSensitive(item, "accuracy")->valuedouble;
    if (out->n) out->accuracy = metrics_wilson((uint64_t)(accuracy * n->valuedouble + 0.5), out->n);
    out->accuracy.value = accuracy;
}

/* ---- JSON ---- */

static void put_text(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_measures(Buf *out, const Metrics *m, const char *indent) {
    const struct {
        const char *key;
        const Interval *value;
    } ALL[] = {{"accuracy", &m->accuracy},
               {"macro_f1", &m->macro_f1},
               {"macro_recall", &m->macro_recall},
               {"nll", &m->nll},
               {"brier", &m->brier},
               {"ece", &m->ece},
               {"adaptive_ece", &m->adaptive_ece}};
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++) {
        buf_puts(out, indent);
        metrics_put_json(out, ALL[i].key, ALL[i].value);
        buf_puts(out, ",\n");
    }
}

static void put_baseline(Buf *out, const char *name, const Report *r, const Metrics *m, const char *label) {
    buf_printf(out, "    \"%s\": {\n      \"train_n\": %llu,\n", name, (unsigned long long)r->train_n);
    if (label) {
        buf_puts(out, "      \"label\": ");
        put_text(out, label);
        buf_puts(out, ",\n");
    }
    put_measures(out, m, "      ");
    buf_puts(out, "      \"classes\": [");
    for (int k = 0; k < m->K; k++) {
        buf_printf(out, "%s\n        {\"label\": ", k ? "," : "");
        put_text(out, r->labels[k]);
        buf_printf(out, ", \"f1\": %.10g, \"recall\": %.10g}", m->classes[k].f1, m->classes[k].recall.value);
    }
    buf_puts(out, "\n      ]\n    }");
}

static void put_classes(Buf *out, const Metrics *m, const char *const *labels) {
    buf_puts(out, "  \"classes\": [");
    for (int k = 0; k < m->K; k++) {
        const MetricsClass *c = &m->classes[k];
        buf_printf(out, "%s\n    {\"label\": ", k ? "," : "");
        put_text(out, labels[k]);
        buf_printf(out, ", \"support\": %llu, \"predicted\": %llu, ", (unsigned long long)c->support,
                   (unsigned long long)c->predicted);
        metrics_put_json(out, "precision", &c->precision);
        buf_puts(out, ", ");
        metrics_put_json(out, "recall", &c->recall);
        buf_printf(out, ", \"f1\": %.10g}", c->f1);
    }
    buf_puts(out, "\n  ],\n  \"confusion\": [");
    for (int i = 0; i < m->K; i++) {
        buf_printf(out, "%s\n    [", i ? "," : "");
        for (int j = 0; j < m->K; j++)
            buf_printf(out, "%s%llu", j ? ", " : "", (unsigned long long)m->confusion[i * m->K + j]);
        buf_puts(out, "]");
    }
    buf_puts(out, "\n  ],\n");
}

static void put_labels(Buf *out, const char *const *labels, int K) {
    buf_puts(out, "  \"labels\": [");
    for (int k = 0; k < K; k++) {
        if (k) buf_puts(out, ", ");
        put_text(out, labels[k]);
    }
    buf_puts(out, "],\n");
}

static void put_sources_json(Buf *out, const Slices *sources) {
    buf_puts(out, "  \"sources\": [");
    for (size_t i = 0; i < sources->count; i++) {
        const SlicesGroup *g = &sources->groups[i];
        buf_printf(out, "%s\n    {\"name\": ", i ? "," : "");
        put_text(out, g->name);
        buf_printf(out, ", \"n\": %llu, ", (unsigned long long)g->n);
        metrics_put_json(out, "accuracy", &g->accuracy);
        buf_printf(out, ", \"macro_recall\": %.10g", g->macro_recall);
        if (sources->baseline_mean >= 0)
            buf_printf(out, ", \"ngram_accuracy\": %.10g", (double)g->baseline_correct / (double)g->n);
        buf_puts(out, "}");
    }
    buf_puts(out, sources->count ? "\n  ],\n" : "],\n");
}

int report_constant(const Report *r) {
    int best = 0;
    for (int k = 1; k < r->router.K; k++)
        if (r->router.classes[k].support > r->router.classes[best].support) best = k;
    return best;
}

static void put_constant(Buf *out, const Report *r) {
    const int label = report_constant(r);
    const Interval accuracy = metrics_wilson(r->router.classes[label].support, r->router.n);
    buf_puts(out, "  \"constant\": {\"label\": ");
    put_text(out, r->labels[label]);
    buf_puts(out, ", ");
    metrics_put_json(out, "accuracy", &accuracy);
    buf_puts(out, "},\n");
}

static void put_context(Buf *out, const cJSON *context) {
    buf_puts(out, "  \"context\": [");
    const cJSON *item;
    bool first = true;
    cJSON_ArrayForEach(item, context) {
        ReportContext c;
        report_context(&c, item);
        buf_puts(out, first ? "\n    {\"what\": " : ",\n    {\"what\": ");
        put_text(out, c.what);
        buf_puts(out, ", \"source\": ");
        put_text(out, c.source);
        if (c.n) {
            buf_puts(out, ", ");
            metrics_put_json(out, "accuracy", &c.accuracy);
            buf_printf(out, ", \"n\": %llu}", (unsigned long long)c.n);
        } else {
            buf_printf(out, ", \"accuracy\": {\"value\": %.10g, \"low\": null, \"high\": null}, \"n\": null}",
                       c.accuracy.value);
        }
        first = false;
    }
    buf_puts(out, first ? "],\n" : "\n  ],\n");
}

static void put_calibration(Buf *out, const Report *r) {
    if (!r->uncalibrated.n) {
        buf_puts(out, "  \"calibration\": null,\n");
        return;
    }
    buf_printf(out, "  \"calibration\": {\"temperature\": %.9g, \"vector\": %s, \"before\": {\n",
               (double)r->rule->temperature, r->rule->vector ? "true" : "false");
    put_measures(out, &r->uncalibrated, "    ");
    buf_puts(out, "    \"reliability\": ");
    curves_reliability_json(out, &r->reliability_before);
    buf_puts(out, "}},\n");
}

bool report_may_abstain(const Report *r) {
    return r->rule && r->rule->score != DECIDE_ALWAYS;
}

static void put_decision(Buf *out, const Report *r) {
    if (!report_may_abstain(r)) {
        buf_puts(out, ",\n  \"decision\": null");
        return;
    }
    const PolicyOutcome *o = &r->outcome;
    buf_printf(out,
               ",\n  \"decision\": {\"score\": \"%s\", \"fallback\": ", decide_score_name(r->rule->score));
    if (r->rule->fallback >= 0)
        put_text(out, r->labels[r->rule->fallback]);
    else
        buf_puts(out, "null");
    buf_printf(out, ", \"n\": %llu, \"answered\": %llu, ", (unsigned long long)o->rows,
               (unsigned long long)o->answered);
    metrics_put_json(out, "coverage", &o->coverage);
    buf_puts(out, ", ");
    metrics_put_json(out, "precision", &o->precision);
    buf_puts(out, "}");
}

static void put_suspects(Buf *out, const Report *r) {
    const ListingSuspects *s = &r->suspects;
    buf_puts(out, ",\n  \"suspects\": ");
    if (!r->suspects_path) {
        buf_puts(out, "null");
        return;
    }
    buf_puts(out, "{\"file\": ");
    put_text(out, r->suspects_path);
    buf_puts(out, ", \"set\": ");
    put_text(out, r->suspects_set);
    if (r->folds)
        buf_printf(out, ", \"folds\": %d", r->folds);
    else
        buf_puts(out, ", \"folds\": null");
    buf_printf(out, ", \"judged\": %llu, \"suspects\": %llu, \"confident\": %llu, \"trained\": ",
               (unsigned long long)s->judged, (unsigned long long)s->suspects,
               (unsigned long long)s->confident);
    if (r->held_out == REPORT_UNKNOWN)
        buf_puts(out, "null, \"held_out\": null}");
    else
        buf_printf(out, "%llu, \"held_out\": %s}", (unsigned long long)r->trained,
                   r->held_out == REPORT_HELD_OUT ? "true" : "false");
}

/* Without the line end that json_print puts behind it. */
static void put_tree(Buf *out, const cJSON *tree) {
    Buf text = {0};
    if (tree)
        json_print(&text, tree);
    else
        buf_puts(&text, "null");
    while (text.len && text.data[text.len - 1] == '\n') text.len--;
    buf_put(out, text.data, text.len);
    out->failed |= text.failed;
    buf_free(&text);
}

void report_json(Buf *out, const Report *r) {
    const Metrics *m = &r->router;
    buf_puts(out, "{\n  \"set\": ");
    put_text(out, r->set);
    buf_puts(out, ",\n  \"model\": ");
    put_text(out, r->model);
    buf_printf(out, ",\n  \"n\": %zu,\n  \"skipped\": %llu,\n  \"truncated\": %llu,\n", m->n,
               (unsigned long long)r->skipped, (unsigned long long)r->truncated);
    put_labels(out, r->labels, m->K);
    put_measures(out, m, "  ");
    put_classes(out, m, r->labels);
    put_sources_json(out, &r->sources);
    if (r->majority.n) {
        buf_puts(out, "  \"baselines\": {\n");
        put_baseline(out, "majority", r, &r->majority, r->labels[r->majority_label]);
        buf_puts(out, ",\n");
        put_baseline(out, "ngram", r, &r->ngram, NULL);
        buf_puts(out, "\n  },\n");
    } else {
        buf_puts(out, "  \"baselines\": null,\n");
    }
    put_constant(out, r);
    put_context(out, r->context);
    put_calibration(out, r);
    buf_puts(out, "  \"reliability\": ");
    curves_reliability_json(out, &r->reliability);
    buf_puts(out, ",\n  \"risk_coverage\": ");
    curves_risk_json(out, &r->risk);
    put_decision(out, r);
    buf_puts(out, ",\n  \"slices\": [");
    for (size_t i = 0; i < r->slice_count; i++) {
        buf_puts(out, i ? ",\n    " : "\n    ");
        slices_json(out, &r->slices[i], r->labels);
    }
    buf_puts(out, r->slice_count ? "\n  ],\n  \"robust\": " : "],\n  \"robust\": ");
    if (r->robust.rows)
        robust_json(out, &r->robust);
    else
        buf_puts(out, "null");
    put_suspects(out, r);
    buf_puts(out, ",\n  \"provenance\": ");
    put_tree(out, r->provenance);
    buf_puts(out, "\n}\n");
}

/* ---- table ---- */

/* `text`, cut to `columns` characters and padded, in front where `right` (wide characters count as one). */
static void put_cell_at(Buf *out, const char *text, int columns, bool right) {
    const size_t n = strlen(text);
    size_t at = 0, cut = 0; /* cut: bytes that leave room for "..." */
    int used = 0;
    while (at < n && used < columns) {
        uint32_t c;
        if (used == columns - 3) cut = at;
        at += text_utf8_next(text + at, n - at, &c);
        used++;
    }
    const bool whole = at == n;
    for (int i = used; right && i < columns; i++) buf_puts(out, " ");
    const size_t shown = whole ? n : cut;
    for (size_t i = 0; i < shown; i++) buf_put(out, (unsigned char)text[i] < ' ' ? "?" : text + i, 1);
    if (!whole) buf_puts(out, "...");
    for (int i = used; !right && i < columns; i++) buf_puts(out, " ");
}

static void put_cell(Buf *out, const char *text, int columns) {
    put_cell_at(out, text, columns, false);
}

/* 22394 as "22,394". */
static const char *count_text(char out[32], uint64_t n) {
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

static void put_percent_row(Buf *out, const char *name, const Report *r, const Interval *a, const Interval *b,
                            const Interval *c) {
    buf_puts(out, "  ");
    put_cell(out, name, 14);
    buf_printf(out, "%8.2f %%  [%6.2f, %6.2f]", 100 * a->value, 100 * a->low, 100 * a->high);
    if (r->majority.n)
        buf_printf(out, "%10.2f %%%10.2f %%  [%6.2f, %6.2f]", 100 * b->value, 100 * c->value, 100 * c->low,
                   100 * c->high);
    buf_puts(out, "\n");
}

static void put_number_row(Buf *out, const char *name, const Report *r, const Interval *a, const Interval *b,
                           const Interval *c) {
    buf_puts(out, "  ");
    put_cell(out, name, 14);
    buf_printf(out, "%8.4f    [%6.4f, %6.4f]", a->value, a->low, a->high);
    if (r->majority.n)
        buf_printf(out, "%10.4f  %10.4f    [%6.4f, %6.4f]", b->value, c->value, c->low, c->high);
    buf_puts(out, "\n");
}

static void put_summary(Buf *out, const Report *r) {
    const Metrics *m = &r->router, *b = &r->majority, *c = &r->ngram;
    buf_puts(out, "                  router  [95 % interval]");
    buf_puts(out, b->n ? "    majority      n-gram  [95 % interval]\n" : "\n");
    put_percent_row(out, "accuracy", r, &m->accuracy, &b->accuracy, &c->accuracy);
    put_percent_row(out, "macro F1", r, &m->macro_f1, &b->macro_f1, &c->macro_f1);
    put_percent_row(out, "macro recall", r, &m->macro_recall, &b->macro_recall, &c->macro_recall);
    put_number_row(out, "NLL (nats)", r, &m->nll, &b->nll, &c->nll);
    put_number_row(out, "Brier", r, &m->brier, &b->brier, &c->brier);
    put_number_row(out, "ECE (15 bins)", r, &m->ece, &b->ece, &c->ece);
    put_number_row(out, "ECE, adaptive", r, &m->adaptive_ece, &b->adaptive_ece, &c->adaptive_ece);
    if (b->n) {
        char n[32];
        buf_printf(out, "  baselines learnt from %s training rows; the majority label is ",
                   count_text(n, r->train_n));
        char label[64];
        const char *name = r->labels[r->majority_label];
        buf_printf(out, "'%s'\n", text_excerpt(label, 40, name, strlen(name)));
    }
}

static void put_class_table(Buf *out, const Report *r) {
    const Metrics *m = &r->router;
    buf_puts(out, "\n  ");
    put_cell(out, "class", NAME_COLUMNS);
    buf_puts(out, " support   precision      recall  [95 % interval]        F1");
    buf_puts(out, r->majority.n ? "   n-gram F1\n" : "\n");
    for (int k = 0; k < m->K; k++) {
        const MetricsClass *c = &m->classes[k];
        char n[32];
        buf_puts(out, "  ");
        put_cell(out, r->labels[k], NAME_COLUMNS);
        buf_printf(out, "%8s%10.2f %%%10.2f %%  [%6.2f, %6.2f]%8.2f %%", count_text(n, c->support),
                   100 * c->precision.value, 100 * c->recall.value, 100 * c->recall.low, 100 * c->recall.high,
                   100 * c->f1);
        if (r->majority.n) buf_printf(out, "%10.2f %%", 100 * r->ngram.classes[k].f1);
        buf_puts(out, "\n");
    }
}

static void put_confusion(Buf *out, const Metrics *m, const char *const *labels) {
    if (m->K > CONFUSION_COLUMNS) {
        buf_printf(out, "\n  The confusion matrix of %d classes is in the JSON report.\n", m->K);
        return;
    }
    const int columns = m->K <= 7 ? 10 : 7;
    buf_puts(out, "\n  ");
    put_cell(out, "label \\ predicted", NAME_COLUMNS);
    for (int k = 0; k < m->K; k++) {
        buf_puts(out, " ");
        put_cell_at(out, labels[k], columns - 1, true);
    }
    buf_puts(out, "\n");
    for (int i = 0; i < m->K; i++) {
        buf_puts(out, "  ");
        put_cell(out, labels[i], NAME_COLUMNS);
        for (int j = 0; j < m->K; j++) {
            char n[32];
            buf_puts(out, " ");
            put_cell_at(out, count_text(n, m->confusion[i * m->K + j]), columns - 1, true);
        }
        buf_puts(out, "\n");
    }
}

/* What the numbers may be held against. */
static void put_references(Buf *out, const Report *r) {
    char shown[64];
    const int label = report_constant(r);
    const double constant = (double)r->router.classes[label].support / (double)r->router.n;
    buf_printf(out, "\n  always '%s': %.2f %%\n",
               text_excerpt(shown, 40, r->labels[label], strlen(r->labels[label])), 100 * constant);
    const cJSON *item;
    cJSON_ArrayForEach(item, r->context) {
        ReportContext c;
        char what[84];
        report_context(&c, item);
        buf_printf(out, "  %s: %.2f %%", text_excerpt(what, 60, c.what, strlen(c.what)),
                   100 * c.accuracy.value);
        if (c.n)
            buf_printf(out, "  [%.2f, %.2f], n %llu", 100 * c.accuracy.low, 100 * c.accuracy.high,
                       (unsigned long long)c.n);
        buf_printf(out, "\n    (%s)\n", text_excerpt(what, 80, c.source, strlen(c.source)));
    }
}

static void put_decided(Buf *out, const Report *r) {
    const PolicyOutcome *o = &r->outcome;
    if (!report_may_abstain(r)) return;
    buf_printf(out, "  answered %.2f %%  [%.2f, %.2f] of the rows, of them right %.2f %%  [%.2f, %.2f]\n",
               100 * o->coverage.value, 100 * o->coverage.low, 100 * o->coverage.high,
               100 * o->precision.value, 100 * o->precision.low, 100 * o->precision.high);
}

/* A line of the head: up to 90 columns of a path or name. */
static void put_head(Buf *out, const char *what, const char *text) {
    char shown[94];
    text_excerpt(shown, 90, text, strlen(text));
    buf_printf(out, "%-8s%s\n", what, shown);
}

static void put_doubts(Buf *out, const Report *r) {
    const ListingSuspects *c = &r->suspects;
    char n[32], t[32], u[32], shown[94];
    put_head(out, "\n  suspects:", r->suspects_path);
    buf_printf(out, "  %s labels judged, %s doubted, %s of them confidently", count_text(n, c->judged),
               count_text(t, c->suspects), count_text(u, c->confident));
    if (!r->folds) {
        buf_printf(out, "%s\n",
                   r->held_out == REPORT_TRAINED ? "; of training rows, where doubts are too few"
                   : r->held_out == REPORT_UNKNOWN
                       ? "; a file does not tell whether it was trained on these rows"
                       : "");
        return;
    }
    buf_printf(out, ",\n  of %s,\n", text_excerpt(shown, 90, r->suspects_set, strlen(r->suspects_set)));
    buf_printf(out, "  cross-validated over %d folds: the classifier is fitted anew for each, ", r->folds);
    if (r->held_out == REPORT_TRAINED)
        buf_printf(out, "but the\n  encoder has seen %s of these rows in training\n",
                   count_text(n, r->trained));
    else
        buf_puts(out,
                 r->held_out == REPORT_HELD_OUT
                     ? "and the\n  encoder has seen none of these rows in training\n"
                     : "but a\n  file does not tell which of these rows the encoder has seen in training\n");
}

void report_table(Buf *out, const Report *r) {
    char n[32], t[32], u[32];
    put_head(out, "model", r->model);
    put_head(out, "set", r->set);
    buf_printf(out, "rows    %s with %d labels", count_text(n, r->router.n), r->router.K);
    if (r->truncated) buf_printf(out, "; %s truncated", count_text(t, r->truncated));
    if (r->skipped) buf_printf(out, "; %s left out (label not known)", count_text(u, r->skipped));
    buf_puts(out, "\n\n");
    put_summary(out, r);
    put_class_table(out, r);
    put_confusion(out, &r->router, r->labels);
    put_references(out, r);
    put_decided(out, r);
    if (r->sources.count) slices_table(out, &r->sources, r->labels, 0);
    for (size_t i = 0; i < r->slice_count; i++) slices_table(out, &r->slices[i], r->labels, 0);
    if (r->robust.rows) robust_table(out, &r->robust);
    if (r->suspects_path) put_doubts(out, r);
}

/* ---- verify ---- */

static void put_side(Buf *out, const char *key, const char *path, const Metrics *m) {
    buf_printf(out, "  \"%s\": {\n    \"path\": ", key);
    put_text(out, path);
    buf_puts(out, ",\n    ");
    metrics_put_json(out, "accuracy", &m->accuracy);
    buf_puts(out, ",\n    ");
    metrics_put_json(out, "macro_f1", &m->macro_f1);
    buf_printf(out, ",\n    \"nll\": %.10g\n  },\n", m->nll.value);
}

void report_drop_json(Buf *out, const ReportDrop *r) {
    const MetricsDrop *d = &r->drop;
    buf_puts(out, "{\n  \"set\": ");
    put_text(out, r->set);
    buf_printf(out, ",\n  \"n\": %zu,\n", r->first.n);
    put_side(out, "model", r->model, &r->first);
    put_side(out, "against", r->against, &r->second);
    buf_puts(out, "  ");
    metrics_put_json(out, "agreement", &d->agreement);
    buf_printf(out, ",\n  \"macro_f1_drop\": %.10g,\n  \"worst_class\": {\"label\": ", d->macro_f1_drop);
    put_text(out, d->worst_class >= 0 ? r->labels[d->worst_class] : "");
    buf_printf(out, ", \"f1_drop\": %.10g},\n  \"class_f1_drop\": {", d->worst_drop);
    for (int k = 0; k < r->first.K; k++) {
        if (k) buf_puts(out, ", ");
        put_text(out, r->labels[k]);
        buf_printf(out, ": %.10g", d->class_drop[k]);
    }
    buf_printf(out,
               "},\n  \"mean_probability_shift\": %.10g,\n  \"max_probability_shift\": %.10g,\n"
               "  \"max_drop\": %.10g,\n  \"max_class_drop\": %.10g,\n  \"passed\": %s\n}\n",
               d->mean_shift, d->max_shift, r->max_drop, r->max_class_drop, r->passed ? "true" : "false");
}

void report_drop_table(Buf *out, const ReportDrop *r) {
    const MetricsDrop *d = &r->drop;
    char n[32];
    put_head(out, "model", r->model);
    put_head(out, "against", r->against);
    put_head(out, "set", r->set);
    buf_printf(out, "rows    %s\n\n", count_text(n, r->first.n));
    buf_printf(out, "  same prediction    %8.3f %%  [%7.3f, %7.3f]\n", 100 * d->agreement.value,
               100 * d->agreement.low, 100 * d->agreement.high);
    buf_printf(out, "  probability shift  %8.5f mean, %.5f most\n", d->mean_shift, d->max_shift);
    buf_puts(out, "\n                         before       after        drop\n");
    buf_printf(out, "  accuracy         %10.3f %%%10.3f %%%10.3f points\n", 100 * r->second.accuracy.value,
               100 * r->first.accuracy.value, 100 * (r->second.accuracy.value - r->first.accuracy.value));
    buf_printf(out, "  macro F1         %10.3f %%%10.3f %%%10.3f points\n", 100 * r->second.macro_f1.value,
               100 * r->first.macro_f1.value, 100 * d->macro_f1_drop);
    for (int k = 0; k < r->first.K; k++) {
        buf_puts(out, "  F1 ");
        put_cell(out, r->labels[k], 14);
        buf_printf(out, "%10.3f %%%10.3f %%%10.3f points%s\n", 100 * r->second.classes[k].f1,
                   100 * r->first.classes[k].f1, 100 * d->class_drop[k],
                   k == d->worst_class && d->worst_drop > 0 ? "  worst" : "");
    }
}

void report_free(Report *r) {
    metrics_free(&r->router);
    metrics_free(&r->majority);
    metrics_free(&r->ngram);
    metrics_free(&r->uncalibrated);
    slices_free(&r->sources);
    for (size_t i = 0; i < r->slice_count; i++) slices_free(&r->slices[i]);
    mem_free(r->slices);
    *r = (Report){0};
}

void report_drop_free(ReportDrop *r) {
    metrics_free(&r->first);
    metrics_free(&r->second);
    metrics_drop_free(&r->drop);
    *r = (ReportDrop){0};
}
