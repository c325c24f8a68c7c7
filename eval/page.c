#include "eval/page.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/html.h"
#include "core/mem.h"
#include "core/text.h"
#include "eval/grid.h"
#include "eval/metrics.h"

enum { HEAT_MAX = 40, BARS_MAX = 80, WORST_ANSWERS = 3 };

/* ---- reading the tree: what is not there is NaN, NULL or empty ---- */

static const cJSON *member(const cJSON *o, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static double number(const cJSON *o, const char *key) {
    const cJSON *item = member(o, key);
    return cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
}

static const char *text(const cJSON *o, const char *key) {
    const cJSON *item = member(o, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static uint64_t count(const cJSON *o, const char *key) {
    const double v = number(o, key);
    return v >= 0 && v < 9e15 ? (uint64_t)v : 0;
}

static Interval interval(const cJSON *o, const char *key) {
    const cJSON *i = member(o, key);
    return (Interval){number(i, "value"), number(i, "low"), number(i, "high")};
}

static size_t length(const cJSON *list) {
    const int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    return n > 0 ? (size_t)n : 0;
}

/* ---- cells ---- */

static void put_percent(Grid *g, double share) {
    if (isfinite(share))
        grid_put(g, "%.2f %%", 100 * share);
    else
        grid_put(g, "-");
}

static void put_decimal(Grid *g, double value) {
    if (isfinite(value))
        grid_put(g, "%.4f", value);
    else
        grid_put(g, "-");
}

static void put_share(Grid *g, const Interval *i) {
    if (isfinite(i->value) && isfinite(i->low) && isfinite(i->high))
        grid_put(g, "%.2f %% [%.2f, %.2f]", 100 * i->value, 100 * i->low, 100 * i->high);
    else
        put_percent(g, i->value);
}

static void put_loss(Grid *g, const Interval *i) {
    if (isfinite(i->value) && isfinite(i->low) && isfinite(i->high))
        grid_put(g, "%.4f [%.4f, %.4f]", i->value, i->low, i->high);
    else
        put_decimal(g, i->value);
}

static void put_count(Grid *g, uint64_t n) {
    char shown[32];
    grid_put(g, "%s", grid_count(shown, n));
}

static void head(Grid *g, const char *align, const char *const *names) {
    grid_init(g, align);
    for (size_t i = 0; align[i]; i++) grid_put(g, "%s", names[i]);
}

static void show(Buf *out, Grid *g) {
    grid_html(out, g);
    grid_free(g);
}

/* ---- summary ---- */

static void put_summary_row(Grid *g, const cJSON *r) {
    const Interval accuracy = interval(r, "accuracy");
    const cJSON *constant = member(r, "constant");
    const double always = interval(constant, "accuracy").value;
    grid_put_text(g, text(r, "set"), strlen(text(r, "set")), 200);
    put_count(g, count(r, "n"));
    put_share(g, &accuracy);
    put_percent(g, interval(r, "macro_f1").value);
    put_decimal(g, interval(r, "ece").value);
    put_percent(g, interval(member(member(r, "baselines"), "ngram"), "accuracy").value);
    if (isfinite(always)) {
        char label[44];
        grid_put(g, "%.2f %% (%s)", 100 * always,
                 text_excerpt(label, 40, text(constant, "label"), strlen(text(constant, "label"))));
    } else {
        grid_put(g, "-");
    }
}

static void put_context(Buf *out, const cJSON *r) {
    const cJSON *item;
    cJSON_ArrayForEach(item, member(r, "context")) {
        const Interval a = interval(item, "accuracy");
        char n[32], range[160] = "";
        if (count(item, "n"))
            (void)snprintf(range, sizeof range, " [%.2f, %.2f] on %s rows", 100 * a.low, 100 * a.high,
                           grid_count(n, count(item, "n")));
        html_text(out, "Beside %s: %s: %.2f %%%s. Source: %s", text(r, "set"), text(item, "what"),
                  100 * a.value, range, text(item, "source"));
    }
}

static void put_summary(Buf *out, const cJSON *report) {
    static const char *const HEAD[] = {"set", "rows", "accuracy", "macro F1", "ECE", "n-gram", "one answer"};
    Grid g;
    const cJSON *other;
    head(&g, "lrrrrrr", HEAD);
    put_summary_row(&g, report);
    cJSON_ArrayForEach(other, member(report, "also")) put_summary_row(&g, other);
    show(out, &g);
    html_text(
        out,
        "Intervals are 95 %% intervals: Wilson's for shares of rows, percentiles of a bootstrap over rows "
        "for "
        "the rest. n-gram: accuracy of a model of word and character n-grams that learnt from the same rows. "
        "One answer: what the most frequent label of the set, given as the answer to everything, would "
        "reach.");
    put_context(out, report);
    cJSON_ArrayForEach(other, member(report, "also")) put_context(out, other);
}

/* ---- training ---- */

typedef struct {
    double *x, *y, *z;
    size_t n;
} Points;

/* [[x, y, z]] into arrays of which x alone is owned. */
static bool read_points(Points *p, const cJSON *list) {
    const size_t n = length(list);
    *p = (Points){.x = mem_alloc(n + 1, 3 * sizeof(double))};
    if (!p->x) return false;
    p->y = p->x + n;
    p->z = p->y + n;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        const cJSON *v[3] = {cJSON_GetArrayItem(item, 0), cJSON_GetArrayItem(item, 1),
                             cJSON_GetArrayItem(item, 2)};
        p->x[p->n] = cJSON_IsNumber(v[0]) ? v[0]->valuedouble : (double)NAN;
        p->y[p->n] = cJSON_IsNumber(v[1]) ? v[1]->valuedouble : (double)NAN;
        p->z[p->n++] = cJSON_IsNumber(v[2]) ? v[2]->valuedouble : (double)NAN;
    }
    return true;
}

static void put_training(Buf *out, const cJSON *report) {
    const cJSON *training = member(report, "training");
    Points train, dev;
    if (!length(member(training, "train"))) return;
    if (!read_points(&train, member(training, "train")) || !read_points(&dev, member(training, "dev"))) {
        out->failed = true;
        mem_free(train.x);
        return;
    }
    html_section(out, "Training");
    const HtmlSeries losses[] = {{"training loss", train.x, train.y, NULL, train.n, HTML_LINE},
                                 {"dev loss", dev.x, dev.y, NULL, dev.n, HTML_LINE}};
    const HtmlPlot loss = {.title = "Loss (nats)",
                           .x_title = "step",
                           .series = losses,
                           .series_count = dev.n ? 2 : 1,
                           .y_min = 0};
    html_plot(out, &loss);
    if (dev.n) {
        const HtmlSeries accuracy = {"dev accuracy", dev.x, dev.z, NULL, dev.n, HTML_LINE};
        const HtmlPlot plot = {
            .title = "Accuracy on the dev split", .x_title = "step", .series = &accuracy, .series_count = 1};
        html_plot(out, &plot);
    }
    mem_free(train.x);
    mem_free(dev.x);
}

/* ---- one set ---- */

static void put_measures(Buf *out, const cJSON *r) {
    static const struct {
        const char *key, *name;
        bool share;
    } ROWS[] = {{"accuracy", "accuracy", true},         {"macro_f1", "macro F1", true},
                {"macro_recall", "macro recall", true}, {"nll", "NLL (nats)", false},
                {"brier", "Brier score", false},        {"ece", "ECE", false},
                {"adaptive_ece", "adaptive ECE", false}};
    const cJSON *baselines = member(r, "baselines");
    const struct {
        const char *name;
        const cJSON *tree;
    } ALL[] = {{"router", r},
               {"before calibration", member(member(r, "calibration"), "before")},
               {"n-gram baseline", member(baselines, "ngram")},
               {"majority of the training rows", member(baselines, "majority")}};
    enum { COLUMNS = sizeof ALL / sizeof *ALL };
    const cJSON *columns[COLUMNS];
    const char *names[COLUMNS + 1] = {""};
    size_t used = 0;
    for (size_t c = 0; c < COLUMNS; c++) {
        if (!cJSON_IsObject(ALL[c].tree)) continue;
        columns[used++] = ALL[c].tree;
        names[used] = ALL[c].name;
    }
    Grid g;
    static const char *const ALIGN[COLUMNS + 1] = {"l", "lr", "lrr", "lrrr", "lrrrr"};
    head(&g, ALIGN[used], names);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        grid_put(&g, "%s", ROWS[i].name);
        for (size_t c = 0; c < used; c++) {
            const Interval v = interval(columns[c], ROWS[i].key);
            (ROWS[i].share ? put_share : put_loss)(&g, &v);
        }
    }
    show(out, &g);
}

static void put_classes(Buf *out, const cJSON *r) {
    static const char *const HEAD[] = {"label", "rows", "answers", "precision", "recall", "F1"};
    const Interval none = {(double)NAN, (double)NAN, (double)NAN};
    const cJSON *item;
    Grid g;
    head(&g, "lrrrrr", HEAD);
    cJSON_ArrayForEach(item, member(r, "classes")) {
        const Interval precision = interval(item, "precision"), recall = interval(item, "recall");
        grid_put_name(&g, text(item, "label"));
        put_count(&g, count(item, "support"));
        put_count(&g, count(item, "predicted"));
        put_share(&g, count(item, "predicted") ? &precision : &none);
        put_share(&g, count(item, "support") ? &recall : &none);
        put_percent(&g, number(item, "f1"));
    }
    show(out, &g);
}

static void put_confusion(Buf *out, const cJSON *r) {
    const cJSON *rows = member(r, "confusion"), *labels = member(r, "labels"), *row, *cell;
    const size_t K = length(labels);
    if (K == 0 || K > HEAT_MAX || length(rows) != K) return;
    const char **names = mem_alloc(K, sizeof *names);
    double *values = mem_alloc(K * K, sizeof *values);
    if (names && values) {
        size_t i = 0, at = 0;
        cJSON_ArrayForEach(cell, labels) names[i++] = cJSON_IsString(cell) ? cell->valuestring : "";
        cJSON_ArrayForEach(row, rows) {
            const size_t end = at + K;
            cJSON_ArrayForEach(cell, row) if (at < end && cJSON_IsNumber(cell)) values[at++] =
                cell->valuedouble;
            at = end;
        }
        html_heat(out, "label", names, K, "answer", names, K, values);
    } else {
        out->failed = true;
    }
    mem_free(names);
    mem_free(values);
}

/* The bins that have rows, as a curve. */
static size_t read_bins(double x[METRICS_BINS], double y[METRICS_BINS], const cJSON *bins) {
    size_t n = 0;
    const cJSON *bin;
    cJSON_ArrayForEach(bin, bins) {
        if (n == METRICS_BINS || !isfinite(number(bin, "confidence"))) continue;
        x[n] = number(bin, "confidence");
        y[n++] = interval(bin, "accuracy").value;
    }
    return n;
}

static void put_reliability(Buf *out, const cJSON *r) {
    double x[2][METRICS_BINS], y[2][METRICS_BINS], edges[METRICS_BINS + 1], counts[METRICS_BINS];
    const cJSON *bins = member(r, "reliability"), *bin;
    const cJSON *before = member(member(member(r, "calibration"), "before"), "reliability");
    const size_t n = read_bins(x[0], y[0], bins), m = read_bins(x[1], y[1], before);
    if (n == 0) return;
    const HtmlSeries series[] = {{m ? "after calibration" : "router", x[0], y[0], NULL, n, HTML_LINE},
                                 {"before calibration", x[1], y[1], NULL, m, HTML_LINE}};
    const HtmlPlot plot = {.title = "Reliability: accuracy of the answers of each bin of confidence",
                           .x_title = "confidence (highest probability)",
                           .y_title = "accuracy",
                           .series = series,
                           .series_count = m ? 2 : 1,
                           .x_max = 1,
                           .y_max = 1,
                           .diagonal = true};
    html_plot(out, &plot);
    size_t i = 0;
    cJSON_ArrayForEach(bin, bins) {
        if (i == METRICS_BINS) break;
        edges[i] = number(bin, "low");
        edges[i + 1] = number(bin, "high");
        counts[i++] = number(bin, "n");
    }
    html_histogram(out, "Rows in each bin of confidence", "confidence", edges, counts, i);
}

static void put_risk(Buf *out, const cJSON *r) {
    const cJSON *risk = member(r, "risk_coverage"), *points = member(risk, "points"), *point;
    const cJSON *decision = member(r, "decision");
    const size_t n = length(points);
    if (n == 0) return;
    double *x = mem_alloc(2 * n, sizeof *x);
    if (!x) {
        out->failed = true;
        return;
    }
    size_t at = 0;
    cJSON_ArrayForEach(point, points) {
        x[at] = number(point, "coverage");
        x[n + at++] = number(point, "risk");
    }
    const HtmlSeries series = {text(risk, "score"), x, x + n, NULL, n, HTML_STEPS};
    const HtmlPlot plot = {
        .title = "Risk and coverage: if only the surest rows are answered, how many are wrong",
        .x_title = "share of rows answered",
        .y_title = "share of these wrong",
        .series = &series,
        .series_count = 1,
        .x_max = 1};
    html_plot(out, &plot);
    mem_free(x);
    if (isfinite(number(risk, "auroc")))
        html_text(out,
                  "Area under this curve: %.4f. Right against wrong answers by this score: AUROC %.4f; at a "
                  "threshold that 95 %% of the right answers reach, %.2f %% of the wrong ones do.",
                  number(risk, "aurc"), number(risk, "auroc"), 100 * number(risk, "fpr95"));
    if (cJSON_IsObject(decision)) {
        const Interval c = interval(decision, "coverage"), p = interval(decision, "precision");
        char answered[32];
        html_text(
            out,
            "The router's own threshold (on %s) answers %s rows, %.2f %% [%.2f, %.2f]; of these %.2f %% "
            "[%.2f, %.2f] are right. %s%s",
            text(decision, "score"), grid_count(answered, count(decision, "answered")), 100 * c.value,
            100 * c.low, 100 * c.high, 100 * p.value, 100 * p.low, 100 * p.high,
            *text(decision, "fallback") ? "The others go to " : "", text(decision, "fallback"));
    }
}

/* ---- bars of groups ---- */

enum { BAR_TEXT = 96 };

static void put_group_bars(Buf *out, const cJSON *groups) {
    const size_t all = length(groups), n = all < BARS_MAX ? all : BARS_MAX;
    if (n == 0) return;
    HtmlBar *bars = mem_alloc(n, sizeof *bars);
    char *texts = mem_alloc(n, BAR_TEXT), shown[32];
    if (bars && texts) {
        size_t i = 0;
        const cJSON *group;
        cJSON_ArrayForEach(group, groups) {
            if (i == n) break;
            const Interval a = interval(group, "accuracy");
            char *note = texts + i * BAR_TEXT;
            (void)snprintf(note, BAR_TEXT, "%.2f %% [%.2f, %.2f] of %s", 100 * a.value, 100 * a.low,
                           100 * a.high, grid_count(shown, count(group, "n")));
            bars[i++] = (HtmlBar){
                .label = text(group, "name"), .text = note, .value = a.value, .low = a.low, .high = a.high};
        }
        html_bars(out, bars, n, 1);
        if (all > n) html_text(out, "Further groups are in the JSON.");
    } else {
        out->failed = true;
    }
    mem_free(bars);
    mem_free(texts);
}

/* "other 62, health 5", the most frequent first. */
static void put_answers(Buf *out, const cJSON *answers) {
    const cJSON *used[WORST_ANSWERS] = {NULL};
    for (int shown = 0; shown < WORST_ANSWERS; shown++) {
        const cJSON *best = NULL, *item;
        cJSON_ArrayForEach(item, answers) {
            bool again = !cJSON_IsNumber(item);
            for (int i = 0; i < shown; i++) again |= used[i] == item;
            if (!again && (!best || item->valuedouble > best->valuedouble)) best = item;
        }
        if (!best) return;
        char label[36], n[32];
        const double v = best->valuedouble;
        text_excerpt(label, 32, best->string, strlen(best->string));
        buf_printf(out, "%s%s %s", shown ? ", " : "", label,
                   grid_count(n, v >= 0 && v < 9e15 ? (uint64_t)v : 0));
        used[shown] = best;
    }
}

static void put_worst(Buf *out, const cJSON *slices) {
    static const char *const HEAD[] = {"worst", "rows", "accuracy", "answers"};
    const cJSON *name, *group;
    Grid g;
    if (length(member(slices, "worst")) == 0 ||
        length(member(slices, "rows")) <= length(member(slices, "worst")))
        return;
    head(&g, "lrrl", HEAD);
    cJSON_ArrayForEach(name, member(slices, "worst")) cJSON_ArrayForEach(group, member(slices, "rows")) {
        if (!cJSON_IsString(name) || strcmp(name->valuestring, text(group, "name")) != 0) continue;
        const Interval a = interval(group, "accuracy");
        Buf to = {0};
        put_answers(&to, member(group, "answers"));
        grid_put_name(&g, text(group, "name"));
        put_count(&g, count(group, "n"));
        put_share(&g, &a);
        grid_put_text(&g, to.data ? to.data : "", to.len, 200);
        out->failed |= to.failed;
        buf_free(&to);
        break;
    }
    show(out, &g);
}

static void put_slices(Buf *out, const cJSON *r) {
    const cJSON *slices;
    char groups[32], without[32];
    if (length(member(r, "sources"))) {
        html_text(out, "Accuracy by source:");
        put_group_bars(out, member(r, "sources"));
    }
    cJSON_ArrayForEach(slices, member(r, "slices")) {
        if (strcmp(text(slices, "key"), "source") == 0 && length(member(r, "sources"))) continue;
        html_text(out, "Accuracy by %s: mean over %s groups %.2f %%; %s rows without a value.",
                  text(slices, "key"), grid_count(groups, count(slices, "groups")),
                  100 * number(slices, "mean_accuracy"), grid_count(without, count(slices, "without")));
        put_group_bars(out, member(slices, "rows"));
        put_worst(out, slices);
    }
}

static void put_set(Buf *out, const cJSON *r) {
    char title[220], n[32], skipped[32], cut[32];
    (void)snprintf(title, sizeof title, "Set: ");
    text_excerpt(title + 5, 200, text(r, "set"), strlen(text(r, "set")));
    html_section(out, title);
    html_text(out,
              "%s rows; %s with a label that the router does not know were left out; %s were cut at the "
              "router's maximum length.",
              grid_count(n, count(r, "n")), grid_count(skipped, count(r, "skipped")),
              grid_count(cut, count(r, "truncated")));
    put_measures(out, r);
    put_classes(out, r);
    put_confusion(out, r);
    put_reliability(out, r);
    put_risk(out, r);
    put_slices(out, r);
}

/* ---- robustness ---- */

static void put_robust_table(Buf *out, const cJSON *robust) {
    static const char *const HEAD[] = {"change",   "strength",    "rows changed",
                                       "accuracy", "points lost", "flipped, of the changed",
                                       "as named"};
    const cJSON *c;
    Grid g;
    head(&g, "lrrrrrr", HEAD);
    cJSON_ArrayForEach(c, member(robust, "cases")) {
        const Interval accuracy = interval(c, "accuracy"), drop = interval(c, "drop"),
                       flips = interval(c, "flip_rate");
        grid_put_name(&g, text(c, "kind"));
        grid_put(&g, "%g", number(c, "strength"));
        put_count(&g, count(c, "changed"));
        put_share(&g, &accuracy);
        grid_put_interval(&g, 2, 100, &drop);
        if (count(c, "changed"))
            put_share(&g, &flips);
        else
            grid_put(&g, "-");
        if (member(c, "toward"))
            put_count(&g, count(c, "toward"));
        else
            grid_put(&g, "%s", "");
    }
    show(out, &g);
}

static void put_robust(Buf *out, const cJSON *r) {
    const cJSON *robust = member(r, "robust"), *cases = member(robust, "cases"), *c;
    const size_t n = length(cases) + 1;
    char rows[32];
    if (n == 1) return;
    html_section(out, "Robustness");
    html_text(out, "%s rows of %s, written otherwise and asked again (seed %.0f). Accuracy:",
              grid_count(rows, count(robust, "rows")), text(r, "set"), number(robust, "seed"));
    HtmlBar *bars = mem_alloc(n, sizeof *bars);
    char *texts = mem_alloc(n, 2 * BAR_TEXT);
    if (bars && texts) {
        size_t i = 0;
        const Interval as_is = interval(robust, "accuracy");
        (void)snprintf(texts, BAR_TEXT, "%.2f %% [%.2f, %.2f]", 100 * as_is.value, 100 * as_is.low,
                       100 * as_is.high);
        bars[i++] = (HtmlBar){"as they are", texts, as_is.value, as_is.low, as_is.high, true};
        cJSON_ArrayForEach(c, cases) {
            char *note = texts + i * 2 * BAR_TEXT, *name = note + BAR_TEXT;
            const Interval a = interval(c, "accuracy");
            (void)snprintf(note, BAR_TEXT, "%.2f %% [%.2f, %.2f]", 100 * a.value, 100 * a.low, 100 * a.high);
            (void)snprintf(name, BAR_TEXT, "%.60s %g", text(c, "kind"), number(c, "strength"));
            bars[i++] = (HtmlBar){name, note, a.value, a.low, a.high, false};
        }
        html_bars(out, bars, n, 1);
    } else {
        out->failed = true;
    }
    mem_free(bars);
    mem_free(texts);
    put_robust_table(out, robust);
}

/* ---- cost and quality of the whole system ---- */

/* "perfect", or the expert that answers everything. */
static const char *system_name(const cJSON *item) {
    return *text(item, "expert") && strcmp(text(item, "system"), "single") == 0 ? text(item, "expert")
                                                                                : text(item, "system");
}

static void put_systems_table(Buf *out, const cJSON *list) {
    static const char *const HEAD[] = {"who answers", "map", "accuracy", "cost of 1,000 prompts"};
    const cJSON *item;
    Grid g;
    head(&g, "llrr", HEAD);
    cJSON_ArrayForEach(item, list) {
        const Interval accuracy = interval(item, "accuracy");
        grid_put_name(&g, system_name(item));
        grid_put_name(&g, text(item, "map"));
        put_share(&g, &accuracy);
        if (isfinite(number(item, "cost")))
            grid_put(&g, "%.6g", number(item, "cost"));
        else
            grid_put(&g, "-");
    }
    show(out, &g);
}

static void put_system(Buf *out, const cJSON *report) {
    const cJSON *system = member(report, "system"), *list = member(system, "systems"), *item;
    const size_t n = length(list);
    char rows[32];
    if (n == 0) return;
    double *xy = mem_alloc(4 * n, sizeof *xy);
    const char **names = mem_alloc(2 * n, sizeof *names);
    if (xy && names) {
        size_t single = 0, routed = 0;
        cJSON_ArrayForEach(item, list) {
            const bool alone = strcmp(text(item, "system"), "single") == 0;
            const size_t at = alone ? single++ : n + routed++;
            xy[at] = number(item, "cost");
            xy[2 * n + at] = interval(item, "accuracy").value;
            names[at] = system_name(item);
        }
        const HtmlSeries series[] = {{"one expert for everything", xy, xy + 2 * n, names, single, HTML_DOTS},
                                     {"routed", xy + n, xy + 3 * n, names + n, routed, HTML_DOTS}};
        const HtmlPlot plot = {.title = "Cost and quality of the whole system",
                               .x_title = "cost of 1,000 prompts",
                               .y_title = "accuracy of the answers",
                               .series = series,
                               .series_count = 2};
        html_section(out, "Cost and quality");
        html_text(out, "%s rows of %s; experts: %s.", grid_count(rows, count(system, "n")),
                  text(system, "set"), text(system, "experts_file"));
        html_plot(out, &plot);
        put_systems_table(out, list);
    } else {
        out->failed = true;
    }
    mem_free(xy);
    mem_free(names);
}

/* ---- mistakes and suspects ---- */

static void put_mistakes(Buf *out, const cJSON *report) {
    static const char *const HEAD[] = {"label",        "answer", "probability of the answer",
                                       "of the label", "text",   "id"};
    enum { COLUMNS = sizeof HEAD / sizeof *HEAD, NUMBER = 16 };
    const cJSON *list = member(report, "mistakes"), *item;
    const size_t n = length(list);
    if (n == 0) return;
    const char **cells = mem_alloc(n * COLUMNS, sizeof *cells);
    char *numbers = mem_alloc(n * 2, NUMBER);
    if (cells && numbers) {
        size_t at = 0, used = 0;
        cJSON_ArrayForEach(item, list) {
            char *score = numbers + NUMBER * used++, *label_score = numbers + NUMBER * used++;
            (void)snprintf(score, NUMBER, "%.4f", number(item, "score"));
            (void)snprintf(label_score, NUMBER, "%.4f", number(item, "label_score"));
            cells[at++] = text(item, "label");
            cells[at++] = text(item, "predicted");
            cells[at++] = score;
            cells[at++] = label_score;
            cells[at++] = text(item, "text");
            cells[at++] = text(item, "id");
        }
        html_section(out, "The wrong answers that it was surest of");
        html_text(out, "Of %s. Some of these labels may be wrong, not the router.", text(report, "set"));
        html_table(out, HEAD, cells, n, COLUMNS);
    } else {
        out->failed = true;
    }
    mem_free(cells);
    mem_free(numbers);
}

static void put_suspects(Buf *out, const cJSON *report) {
    const cJSON *s = member(report, "suspects");
    const cJSON *held_out = member(s, "held_out");
    char judged[32], found[32], confident[32], folds[32], trained[32];
    if (!cJSON_IsObject(s)) return;
    html_section(out, "Labels that may be wrong");
    if (cJSON_IsNumber(member(s, "folds"))) {
        html_text(out,
                  "Of %s labels of %s, %s are doubted, %s of them by the rule of confident learning: "
                  "cross-validated over %s folds, near-duplicates in the same one.",
                  grid_count(judged, count(s, "judged")), text(s, "set"),
                  grid_count(found, count(s, "suspects")), grid_count(confident, count(s, "confident")),
                  grid_count(folds, count(s, "folds")));
        if (cJSON_IsFalse(held_out))
            html_text(out,
                      "For each fold the classifier is fitted anew, to the others. The encoder is not: it "
                      "has seen %s "
                      "of these rows in training, with the labels that they have.",
                      grid_count(trained, count(s, "trained")));
        else
            html_text(out, "%s",
                      cJSON_IsTrue(held_out) ? "For each fold the classifier is fitted anew, to the others. "
                                               "The encoder has seen none of "
                                               "these rows in training."
                                             : "For each fold the classifier is fitted anew, to the others. "
                                               "The encoder is not, and which "
                                               "of these rows it has seen in training is not known.");
        return;
    }
    html_text(out,
              "Of %s rows whose labels were judged, the router would rather give another to %s, to %s of "
              "them by the "
              "rule of confident learning.%s",
              grid_count(judged, count(s, "judged")), grid_count(found, count(s, "suspects")),
              grid_count(confident, count(s, "confident")),
              cJSON_IsTrue(member(s, "held_out"))    ? ""
              : cJSON_IsFalse(member(s, "held_out")) ? " These rows are of the training split: a router "
                                                       "agrees with labels that it has learnt, so that this "
                                                       "finds fewer than there are."
                                                     : " Whether the router was trained on these rows is not "
                                                       "known; where it was, this finds fewer than there "
                                                       "are.");
}

/* ---- provenance ---- */

static void put_pair(Grid *g, const char *what, const char *value) {
    grid_put(g, "%s", what);
    grid_put_text(g, value, strlen(value), 200);
}

static void put_files(Grid *g, const char *what, const char *key, const cJSON *files) {
    const cJSON *file;
    char shown[32], line[GRID_CELL];
    cJSON_ArrayForEach(file, files) {
        (void)snprintf(line, sizeof line, "%.200s, %s bytes, SHA-256 %.64s", text(file, key),
                       grid_count(shown, count(file, "bytes")), text(file, "sha256"));
        grid_put(g, "%s", what);
        grid_put_text(g, line, strlen(line), 400);
    }
}

static void put_provenance_of(Grid *g, const cJSON *r) {
    const cJSON *p = member(r, "provenance"), *rows = member(member(p, "shard"), "rows"), *item;
    Buf list = {0};
    char n[32];
    put_files(g, "data", "path", member(p, "data"));
    if (!cJSON_IsObject(member(p, "model"))) return;
    put_pair(g, "model", text(r, "model"));
    put_pair(g, "kind", text(member(p, "model"), "kind"));
    put_files(g, "file", "name", member(member(p, "model"), "files"));
    if (cJSON_IsObject(member(p, "train_config")))
        put_pair(g, "train_config.json, SHA-256", text(member(p, "train_config"), "sha256"));
    if (!cJSON_IsObject(rows)) return;
    put_pair(g, "corpus, content digest", text(member(p, "shard"), "content"));
    put_pair(g, "tokenizer digest", text(member(p, "shard"), "tokenizer"));
    cJSON_ArrayForEach(item, rows) buf_printf(&list, "%s%.40s %s", list.len ? ", " : "", item->string,
                                              grid_count(n, count(rows, item->string)));
    put_pair(g, "rows of the corpus", list.data ? list.data : "");
    static const char *const COUNTS[] = {"max_tokens", "duplicates", "conflicting",
                                         "crossing",   "skipped",    "truncated"};
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++) {
        grid_put(g, "%s", COUNTS[i]);
        put_count(g, count(member(p, "shard"), COUNTS[i]));
    }
    g->bytes.failed |= list.failed;
    buf_free(&list);
}

static void put_option(Grid *g, const cJSON *item) {
    char *shown = cJSON_PrintUnformatted(item);
    grid_put_name(g, item->string);
    grid_put_text(g, shown ? shown : "", shown ? strlen(shown) : 0, 200);
    g->bytes.failed |= !shown;
    cJSON_free(shown);
}

static void put_provenance(Buf *out, const cJSON *report) {
    static const char *const HEAD[] = {"what", "value"}, *const OPTIONS[] = {"training option", "value"};
    const cJSON *item, *options = member(member(member(report, "provenance"), "train_config"), "options");
    Grid g;
    html_section(out, "Where this comes from");
    head(&g, "ll", HEAD);
    put_provenance_of(&g, report);
    cJSON_ArrayForEach(item, member(report, "also"))
        put_files(&g, "data", "path", member(member(item, "provenance"), "data"));
    show(out, &g);
    if (!cJSON_IsObject(options)) return;
    head(&g, "ll", OPTIONS);
    cJSON_ArrayForEach(item, options) put_option(&g, item);
    show(out, &g);
}

/* ---- the page ---- */

ErrCode page_check(const cJSON *report, Err *err) {
    if (!cJSON_IsObject(report))
        return err_set(err, ERR_FORMAT, "expected the JSON object of router eval --out");
    const bool known = cJSON_IsString(member(report, "set")) && number(report, "n") >= 0 &&
                       number(report, "n") < 9e15 && cJSON_IsArray(member(report, "labels")) &&
                       cJSON_IsObject(member(report, "accuracy"));
    if (!known)
        return err_set(err, ERR_FORMAT,
                       "not a report of router eval --out: expected members set, n, labels, accuracy");
    return ERR_OK;
}

void page_put(Buf *out, const cJSON *report) {
    const cJSON *other;
    html_begin(out, "Prompt router: evaluation", text(report, "model"));
    put_summary(out, report);
    put_set(out, report);
    cJSON_ArrayForEach(other, member(report, "also")) put_set(out, other);
    put_robust(out, report);
    cJSON_ArrayForEach(other, member(report, "also")) put_robust(out, other);
    put_system(out, report);
    put_mistakes(out, report);
    put_suspects(out, report);
    put_training(out, report);
    put_provenance(out, report);
    html_end(out);
}
