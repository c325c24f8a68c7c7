#include "eval/add_report.h"

#include <string.h>

#include "core/html.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/stop.h"
#include "core/text.h"
#include "eval/calibrate_report.h"
#include "eval/grid.h"

enum { GROUP = 256, TABLE_TEXT = 60, PAGE_TEXT = 400, PAGE_FLIPS = 200 };

/* ---- measuring ---- */

typedef struct {
    Predictor *predictor;
    double *own, *p; /* (GROUP, own K), (n, K) */
    size_t classes, K;
    double seconds;
} Side;

static ErrCode answer_group(Side *s, const RowText *texts, size_t at, size_t count, Err *err) {
    const double started = progress_clock();
    TRY(predict_batch(s->predictor, s->own, NULL, texts + at, count, err));
    s->seconds += progress_clock() - started;
    for (size_t i = 0; i < count; i++)
        memcpy(s->p + (at + i) * s->K, s->own + i * s->classes, s->classes * sizeof *s->p);
    return ERR_OK;
}

/* Groups in turn, the first of each not counted, so that both meet the same moods of the machine. */
static ErrCode answer_rows(Side sides[2], const RowText *texts, size_t n, Err *err) {
    Progress progress;
    ErrCode rc = ERR_OK;
    for (int s = 0; rc == ERR_OK && s < 2; s++) {
        rc = answer_group(&sides[s], texts, 0, n < GROUP ? n : GROUP, err);
        sides[s].seconds = 0;
    }
    progress_begin(&progress, "measure", n, 0);
    for (size_t at = 0, first = 0; rc == ERR_OK && at < n; at += GROUP, first = !first) {
        const size_t count = n - at < GROUP ? n - at : GROUP;
        rc = answer_group(&sides[first], texts, at, count, err);
        if (rc == ERR_OK) rc = answer_group(&sides[!first], texts, at, count, err);
        if (progress_due(&progress)) progress_update(&progress, at + count, "rows to parent and child");
        if (rc == ERR_OK && at + count < n && stop_requested())
            rc = err_set(err, ERR_INTERRUPTED, "stopped after %zu of %zu rows", at + count, n);
    }
    progress_end(&progress);
    return rc;
}

static ErrCode answer(AddReport *r, AddSet *set, Predictor *parent, Predictor *child, Err *err) {
    const size_t n = set->rows.rows.count, K = (size_t)r->K;
    Side sides[2] = {{.predictor = parent, .classes = (size_t)r->old, .K = K},
                     {.predictor = child, .classes = K, .K = K}};
    TRY(mem_new(&set->before, n * K, sizeof *set->before, "probabilities", err));
    TRY(mem_new(&set->after, n * K, sizeof *set->after, "probabilities", err));
    sides[0].p = set->before;
    sides[1].p = set->after;
    ErrCode rc = mem_new(&sides[0].own, GROUP * (size_t)r->old, sizeof(double), "probabilities", err);
    if (rc == ERR_OK) rc = mem_new(&sides[1].own, GROUP * K, sizeof(double), "probabilities", err);
    if (rc == ERR_OK) rc = answer_rows(sides, set->rows.texts, n, err);
    mem_free(sides[0].own);
    mem_free(sides[1].own);
    if (rc == ERR_OK && set == &r->sets[ADD_TEST]) {
        r->parent_seconds = sides[0].seconds / (double)n;
        r->child_seconds = sides[1].seconds / (double)n;
    }
    return rc;
}

/* The old rows by themselves: what the parent could be right about. */
static ErrCode compare_old(const AddReport *r, AddSet *set, uint64_t seed, Threads *threads, Err *err) {
    const size_t K = (size_t)r->K, n = set->old_count;
    double *p = NULL, *q = NULL;
    int *labels = NULL;
    ErrCode rc = mem_new(&p, n * K, sizeof *p, "the old rows", err);
    if (rc == ERR_OK) rc = mem_new(&q, n * K, sizeof *q, "the old rows", err);
    if (rc == ERR_OK) rc = mem_new(&labels, n, sizeof *labels, "the old rows", err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        memcpy(p + i * K, set->before + set->old[i] * K, K * sizeof *p);
        memcpy(q + i * K, set->after + set->old[i] * K, K * sizeof *q);
        labels[i] = set->rows.labels[set->old[i]];
    }
    if (rc == ERR_OK) rc = compare_compute(&set->compare, p, q, labels, n, r->K, 0, seed, threads, err);
    mem_free(p);
    mem_free(q);
    mem_free(labels);
    return rc;
}

static ErrCode count_moves(const AddReport *r, AddSet *set, Err *err) {
    const size_t K = (size_t)r->K;
    TRY(mem_new(&set->moved, (size_t)r->old * K, sizeof *set->moved, "the answers", err));
    TRY(mem_new(&set->lost, (size_t)r->old, sizeof *set->lost, "the answers", err));
    for (size_t i = 0; i < set->old_count; i++) {
        const size_t row = set->old[i];
        const int before = metrics_best(set->before + row * K, r->K),
                  after = metrics_best(set->after + row * K, r->K);
        set->moved[(size_t)before * K + (size_t)after]++;
        set->lost[set->rows.labels[row]] += after >= r->old;
    }
    return ERR_OK;
}

static ErrCode count_values(const AddReport *r, AddSet *set, Err *err) {
    const Rows *rows = &set->rows.rows;
    const size_t K = (size_t)r->K;
    if (rows->member_count == 0) return ERR_OK;
    TRY(mem_new(&set->values, rows->values[0].count, sizeof *set->values, "the values", err));
    for (size_t i = 0; i < rows->count; i++) {
        const int tag = rows_tag(rows, i, 0);
        if (tag < 0) continue;
        AddValue *v = &set->values[tag];
        const int label = set->rows.labels[i], after = metrics_best(set->after + i * K, r->K);
        v->n++;
        v->label = label;
        v->right_before += metrics_best(set->before + i * K, r->K) == label;
        v->right_after += after == label;
        v->to_new += after >= r->old;
    }
    return ERR_OK;
}

ErrCode add_report_measure(AddReport *r, AddSet *set, Predictor *parent, Predictor *child, uint64_t seed,
                           Threads *threads, Err *err) {
    const size_t n = set->rows.rows.count;
    TRY(answer(r, set, parent, child, err));
    TRY(mem_new(&set->old, n + 1, sizeof *set->old, "the old rows", err));
    for (size_t i = 0; i < n; i++)
        if (set->rows.labels[i] < r->old) set->old[set->old_count++] = i;
    TRY(metrics_compute(&set->all, set->after, set->rows.labels, n, r->K, 1, seed, threads, err));
    TRY(count_values(r, set, err));
    TRY(count_moves(r, set, err));
    return set->old_count ? compare_old(r, set, seed, threads, err) : ERR_OK;
}

static void set_free(AddSet *s) {
    compare_free(&s->compare);
    metrics_free(&s->all);
    mem_free(s->before);
    mem_free(s->after);
    mem_free(s->old);
    mem_free(s->moved);
    mem_free(s->lost);
    mem_free(s->values);
    rowset_free(&s->rows);
}

void add_report_free(AddReport *r) {
    for (int s = 0; s < ADD_SETS; s++) set_free(&r->sets[s]);
    *r = (AddReport){0};
}

double add_report_regression(const AddReport *r) {
    const AddSet *s = &r->sets[ADD_TEST];
    return s->old_count ? -100 * s->compare.accuracy.value : 0;
}

bool add_report_passed(const AddReport *r) {
    return r->max_regression < 0 ||
           (r->sets[ADD_TEST].old_count && add_report_regression(r) <= r->max_regression);
}

/* ---- JSON ---- */

static void put_string(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_pair(Buf *out, const char *key, const Interval *before, const Interval *after,
                     const Interval *difference) {
    buf_printf(out, "\"%s\": {", key);
    metrics_put_json(out, "before", before);
    buf_puts(out, ", ");
    metrics_put_json(out, "after", after);
    buf_puts(out, ", ");
    metrics_put_json(out, "difference", difference);
    buf_puts(out, "}");
}

static const RowText *flip_text(const AddSet *s, const CompareFlip *f) {
    return &s->rows.texts[s->old[f->row]];
}

static void put_flips(Buf *out, const AddReport *r, const AddSet *s) {
    const Compare *c = &s->compare;
    for (size_t i = 0; i < c->flip_count && i < r->flips; i++) {
        const CompareFlip *f = &c->flips[i];
        buf_puts(out, i ? ",\n      {\"id\": " : "\n      {\"id\": ");
        put_string(out, rows_id(&s->rows.rows, s->old[f->row]));
        buf_puts(out, ", \"label\": ");
        put_string(out, r->labels[s->rows.labels[s->old[f->row]]]);
        buf_puts(out, ", \"before\": ");
        put_string(out, r->labels[f->a]);
        buf_puts(out, ", \"after\": ");
        put_string(out, r->labels[f->b]);
        buf_printf(out, ", \"p_before\": %.6g, \"p_after\": %.6g, \"text\": ", f->p_a, f->p_b);
        text_put_json(out, flip_text(s, f)->text, flip_text(s, f)->n);
        buf_puts(out, "}");
    }
}

static void put_old(Buf *out, const AddReport *r, const AddSet *s) {
    const Compare *c = &s->compare;
    if (!s->old_count) {
        buf_puts(out, "null");
        return;
    }
    buf_printf(out, "{\"n\": %zu, ", s->old_count);
    put_pair(out, "accuracy", &c->a.accuracy, &c->b.accuracy, &c->accuracy);
    buf_puts(out, ",\n     ");
    put_pair(out, "macro_f1", &c->a.macro_f1, &c->b.macro_f1, &c->macro_f1);
    buf_printf(out,
               ",\n     \"flips\": {\"count\": %zu, \"rate\": %.10g, \"fixed\": %llu, \"broken\": %llu, "
               "\"other\": %llu}, "
               "\"mcnemar_p\": %.10g,\n     \"classes\": [",
               c->flip_count, (double)c->flip_count / (double)c->n,
               (unsigned long long)c->kinds[COMPARE_FIXED], (unsigned long long)c->kinds[COMPARE_BROKEN],
               (unsigned long long)c->kinds[COMPARE_OTHER], c->mcnemar.mid_p);
    for (int k = 0; k < r->old; k++) {
        const MetricsClass *a = &c->a.classes[k], *b = &c->b.classes[k];
        buf_puts(out, k ? ",\n      {\"label\": " : "\n      {\"label\": ");
        put_string(out, r->labels[k]);
        buf_printf(
            out,
            ", \"n\": %llu, \"recall\": {\"before\": %.10g, \"after\": %.10g}, \"f1\": {\"before\": %.10g, "
            "\"after\": %.10g}, ",
            (unsigned long long)a->support, a->recall.value, b->recall.value, a->f1, b->f1);
        metrics_put_json(out, "difference", &c->classes[k].f1);
        buf_printf(out, ", \"lost\": %llu}", (unsigned long long)s->lost[k]);
    }
    buf_puts(out, "],\n     \"moved\": [");
    for (int k = 0; k < r->old; k++) {
        buf_puts(out, k ? ", [" : "[");
        for (int j = 0; j < r->K; j++)
            buf_printf(out, "%s%llu", j ? ", " : "",
                       (unsigned long long)s->moved[(size_t)k * (size_t)r->K + (size_t)j]);
        buf_puts(out, "]");
    }
    buf_puts(out, "],\n     \"shown\": [");
    put_flips(out, r, s);
    buf_puts(out, "]}");
}

static uint64_t count_lost(const AddReport *r, const AddSet *s, int to) {
    uint64_t sum = 0;
    for (int k = 0; k < r->old; k++) sum += s->all.confusion[(size_t)k * (size_t)r->K + (size_t)to];
    return sum;
}

static void put_new(Buf *out, const AddReport *r, const AddSet *s) {
    const size_t n = s->rows.rows.count - s->old_count;
    buf_printf(out, "{\"n\": %zu, \"classes\": [", n);
    for (int k = r->old; k < r->K; k++) {
        const MetricsClass *c = &s->all.classes[k];
        buf_puts(out, k > r->old ? ", {\"label\": " : "{\"label\": ");
        put_string(out, r->labels[k]);
        buf_printf(out, ", \"n\": %llu, ", (unsigned long long)c->support);
        metrics_put_json(out, "precision", &c->precision);
        buf_puts(out, ", ");
        metrics_put_json(out, "recall", &c->recall);
        buf_printf(out, ", \"f1\": %.10g, \"took\": %llu}", c->f1, (unsigned long long)count_lost(r, s, k));
    }
    buf_puts(out, "]}");
}

static void put_values(Buf *out, const AddReport *r, const AddSet *s) {
    if (!s->values) {
        buf_puts(out, "null");
        return;
    }
    const Names *names = &s->rows.rows.values[0];
    buf_puts(out, "[");
    for (size_t i = 0; i < names->count; i++) {
        const AddValue *v = &s->values[i];
        buf_puts(out, i ? ",\n      {\"value\": " : "\n      {\"value\": ");
        put_string(out, names->items[i]);
        buf_puts(out, ", \"label\": ");
        put_string(out, r->labels[v->label]);
        buf_printf(out, ", \"n\": %llu, \"before\": %.10g, \"after\": %.10g, \"to_new\": %.10g}",
                   (unsigned long long)v->n, (double)v->right_before / (double)v->n,
                   (double)v->right_after / (double)v->n, (double)v->to_new / (double)v->n);
    }
    buf_puts(out, "]");
}

static void put_side(Buf *out, const char *key, const char *path, int revision, int labels, uint64_t bytes,
                     double seconds) {
    buf_printf(out, "  \"%s\": {\"path\": ", key);
    put_string(out, path);
    buf_printf(out, ", \"revision\": %d, \"labels\": %d, \"bytes\": %llu, \"ms_per_prompt\": %.6g},\n",
               revision, labels, (unsigned long long)bytes, 1000 * seconds);
}

static void put_labels(Buf *out, const AddReport *r) {
    buf_puts(out, "  \"labels\": [");
    for (int k = 0; k < r->K; k++) {
        buf_puts(out, k ? ", {\"label\": " : "{\"label\": ");
        put_string(out, r->labels[k]);
        buf_printf(out, ", \"id\": %d, \"added\": %s, \"retired\": %s", k, k < r->old ? "false" : "true",
                   r->retired[k] ? "true" : "false");
        if (k < r->old && strcmp(r->labels[k], r->was[k]) != 0) {
            buf_puts(out, ", \"was\": ");
            put_string(out, r->was[k]);
        }
        buf_puts(out, "}");
    }
    buf_puts(out, "],\n");
}

void add_report_json(Buf *out, const AddReport *r) {
    buf_puts(out, "{\n");
    put_side(out, "parent", r->parent, r->revision - 1, r->old, r->parent_bytes, r->parent_seconds);
    put_side(out, "child", r->child, r->revision, r->K, r->child_bytes, r->child_seconds);
    put_labels(out, r);
    buf_printf(out, "  \"step0\": {\"rows\": %llu, \"same\": %llu, \"logit_difference\": %.10g},\n",
               (unsigned long long)r->step0_rows, (unsigned long long)r->step0_same, r->step0_difference);
    buf_printf(out,
               "  \"rows\": {\"train\": {\"old\": %llu, \"new\": %llu, \"relabelled\": %llu, \"pseudo\": "
               "%llu, \"left_out\": %llu, \"replaced\": %llu}, "
               "\"steps\": %lld, \"seconds\": ",
               (unsigned long long)r->train_old, (unsigned long long)r->train_new,
               (unsigned long long)r->relabelled, (unsigned long long)r->pseudo,
               (unsigned long long)r->left_out, (unsigned long long)r->replaced, (long long)r->steps);
    if (r->seconds > 0)
        buf_printf(out, "%.3f", r->seconds);
    else
        buf_puts(out, "null");
    buf_puts(out, "},\n  \"sets\": [");
    for (int i = 0; i < ADD_SETS; i++) {
        const AddSet *s = &r->sets[i];
        if (!s->before) continue;
        buf_puts(out, i ? ",\n    {\"set\": " : "\n    {\"set\": ");
        put_string(out, s->rows.name.data);
        buf_puts(out, ",\n     \"old\": ");
        put_old(out, r, s);
        buf_puts(out, ",\n     \"new\": ");
        put_new(out, r, s);
        buf_puts(out, ",\n     \"values\": ");
        put_values(out, r, s);
        buf_puts(out, "}");
    }
    buf_puts(out, "\n  ],\n  \"calibration\": ");
    if (r->calibration)
        calibrate_report_json(out, r->calibration);
    else
        buf_puts(out, "null");
    if (r->max_regression < 0)
        buf_puts(out, ",\n  \"gate\": null\n}\n");
    else
        buf_printf(out,
                   ",\n  \"gate\": {\"max_regression\": %.10g, \"regression\": %.10g, \"passed\": %s}\n}\n",
                   r->max_regression, add_report_regression(r), add_report_passed(r) ? "true" : "false");
}

/* ---- what the table and the page share ---- */

static void fill_old(Grid *g, const AddReport *r, const AddSet *s) {
    static const char *const HEAD[] = {"old label",   "rows",       "recall before %", "after %",
                                       "F1 before %", "F1 after %", "difference",      "to a new label"};
    const Compare *c = &s->compare;
    char n[32];
    grid_init(g, "lrrrrrrr");
    for (size_t i = 0; i < sizeof HEAD / sizeof *HEAD; i++) grid_put(g, "%s", HEAD[i]);
    for (int k = 0; k < r->old; k++) {
        const MetricsClass *a = &c->a.classes[k], *b = &c->b.classes[k];
        grid_put(g, "%.40s%s", r->labels[k], r->retired[k] ? " (retired)" : "");
        grid_put(g, "%s", grid_count(n, a->support));
        grid_put(g, "%.2f", 100 * a->recall.value);
        grid_put(g, "%.2f", 100 * b->recall.value);
        grid_put(g, "%.2f", 100 * a->f1);
        grid_put(g, "%.2f", 100 * b->f1);
        grid_put_interval(g, 2, 100, &c->classes[k].f1);
        grid_put(g, "%s", grid_count(n, s->lost[k]));
    }
}

static void fill_new(Grid *g, const AddReport *r, const AddSet *s) {
    static const char *const HEAD[] = {"new label", "rows", "precision %",
                                       "recall %",  "F1 %", "old rows taken"};
    char n[32];
    grid_init(g, "lrrrrr");
    for (size_t i = 0; i < sizeof HEAD / sizeof *HEAD; i++) grid_put(g, "%s", HEAD[i]);
    for (int k = r->old; k < r->K; k++) {
        const MetricsClass *c = &s->all.classes[k];
        grid_put_name(g, r->labels[k]);
        grid_put(g, "%s", grid_count(n, c->support));
        grid_put(g, "%.2f [%.2f, %.2f]", 100 * c->precision.value, 100 * c->precision.low,
                 100 * c->precision.high);
        grid_put(g, "%.2f [%.2f, %.2f]", 100 * c->recall.value, 100 * c->recall.low, 100 * c->recall.high);
        grid_put(g, "%.2f", 100 * c->f1);
        grid_put(g, "%s", grid_count(n, count_lost(r, s, k)));
    }
}

static void fill_values(Grid *g, const AddReport *r, const AddSet *s) {
    static const char *const HEAD[] = {"value",          "label",         "rows",
                                       "right before %", "right after %", "to a new label %"};
    const Names *names = &s->rows.rows.values[0];
    char n[32];
    grid_init(g, "llrrrr");
    for (size_t i = 0; i < sizeof HEAD / sizeof *HEAD; i++) grid_put(g, "%s", HEAD[i]);
    for (size_t i = 0; i < names->count; i++) {
        const AddValue *v = &s->values[i];
        if (v->label < r->old && v->right_before == v->right_after && !v->to_new) continue;
        grid_put_name(g, names->items[i]);
        grid_put_name(g, r->labels[v->label]);
        grid_put(g, "%s", grid_count(n, v->n));
        grid_put(g, "%.1f", 100 * (double)v->right_before / (double)v->n);
        grid_put(g, "%.1f", 100 * (double)v->right_after / (double)v->n);
        grid_put(g, "%.1f", 100 * (double)v->to_new / (double)v->n);
    }
}

static void fill_flips(Grid *g, const AddReport *r, const AddSet *s, size_t most, size_t bytes) {
    static const char *const HEAD[] = {"label", "before", "after", "text"};
    grid_init(g, "llll");
    for (size_t i = 0; i < sizeof HEAD / sizeof *HEAD; i++) grid_put(g, "%s", HEAD[i]);
    for (size_t i = 0; i < s->compare.flip_count && i < most; i++) {
        const CompareFlip *f = &s->compare.flips[i];
        grid_put_name(g, r->labels[s->rows.labels[s->old[f->row]]]);
        grid_put(g, "%.40s %.3f", r->labels[f->a], f->p_a);
        grid_put(g, "%.40s %.3f", r->labels[f->b], f->p_b);
        grid_put_text(g, flip_text(s, f)->text, flip_text(s, f)->n, bytes);
    }
}

static void put_words(Buf *out, const AddReport *r) {
    char old[32], new[32], moved[32];
    buf_printf(out, "Revision %d: %d labels, %d of them new. Trained on %s old and %s new rows", r->revision,
               r->K, r->K - r->old, grid_count(old, r->train_old), grid_count(new, r->train_new));
    if (r->relabelled)
        buf_printf(out, ", %s of these relabelled from old ones", grid_count(moved, r->relabelled));
    if (r->steps)
        buf_printf(out, ", about %lld steps", (long long)r->steps);
    else
        buf_puts(out, ", the head alone");
    if (r->seconds > 0) buf_printf(out, "; %.0f s with preparation", r->seconds);
    buf_puts(out, ". ");
    buf_printf(out, "Before training the grown head decided %llu of %llu old prompts as the parent does.",
               (unsigned long long)r->step0_same, (unsigned long long)r->step0_rows);
}

static void put_old_words(Buf *out, const AddSet *s) {
    const Compare *c = &s->compare;
    const Interval *a = &c->a.accuracy, *b = &c->b.accuracy, *d = &c->accuracy;
    char n[32];
    buf_printf(out,
               "Old labels, %s rows: accuracy %.2f %% [%.2f, %.2f] before, %.2f %% [%.2f, %.2f] after, "
               "difference %+.2f "
               "points [%+.2f, %+.2f], McNemar mid-p %.3g. %zu answers differ (%.2f %%): %llu right now, "
               "%llu wrong now.",
               grid_count(n, s->old_count), 100 * a->value, 100 * a->low, 100 * a->high, 100 * b->value,
               100 * b->low, 100 * b->high, 100 * d->value, 100 * d->low, 100 * d->high, c->mcnemar.mid_p,
               c->flip_count, 100 * (double)c->flip_count / (double)c->n,
               (unsigned long long)c->kinds[COMPARE_FIXED], (unsigned long long)c->kinds[COMPARE_BROKEN]);
}

static void put_gate(Buf *out, const AddReport *r) {
    buf_printf(out, "The gate %s: the old labels lost %.2f points of accuracy, at most %g are allowed.",
               add_report_passed(r) ? "passed" : "FAILED", add_report_regression(r), r->max_regression);
}

static void put_speed(Buf *out, const AddReport *r) {
    char a[32], b[32];
    buf_printf(out, "Size %s -> %s bytes; %.3f -> %.3f ms a prompt, in turn, %d at a time.",
               grid_count(a, r->parent_bytes), grid_count(b, r->child_bytes), 1000 * r->parent_seconds,
               1000 * r->child_seconds, GROUP);
}

/* ---- the table ---- */

void add_report_table(Buf *out, const AddReport *r) {
    Grid g;
    put_words(out, r);
    buf_puts(out, "\n");
    put_speed(out, r);
    buf_puts(out, "\n");
    for (int i = 0; i < ADD_SETS; i++) {
        const AddSet *s = &r->sets[i];
        if (!s->before) continue;
        buf_printf(out, "\nset     %s\n", s->rows.name.data);
        if (s->old_count) {
            put_old_words(out, s);
            buf_puts(out, "\n");
            fill_old(&g, r, s);
            grid_end_text(out, &g);
        }
        fill_new(&g, r, s);
        grid_end_text(out, &g);
        if (s->values) {
            fill_values(&g, r, s);
            grid_end_text(out, &g);
        }
        if (!s->compare.flip_count || !r->flips) continue;
        fill_flips(&g, r, s, r->flips, TABLE_TEXT);
        grid_end_text(out, &g);
    }
    if (r->calibration) {
        buf_puts(out, "\ncalibrated anew: ");
        calibrate_report_line(out, r->calibration);
        buf_puts(out, "\n");
    }
    if (r->max_regression < 0) return;
    put_gate(out, r);
    buf_puts(out, "\n");
}

/* ---- the page ---- */

/* F1 of each label, the parent's above the child's; new labels have the child's alone. */
static void page_bars(Buf *out, const AddReport *r, const AddSet *s) {
    HtmlBar *bars = mem_alloc(2 * (size_t)r->K, sizeof *bars);
    char(*texts)[40] = mem_alloc(2 * (size_t)r->K, sizeof *texts);
    size_t n = 0;
    if (!bars || !texts) {
        out->failed = true;
    } else {
        for (int k = 0; k < r->K; k++) {
            const double f1[2] = {
                k < r->old && s->old_count ? s->compare.a.classes[k].f1 : 0,
                k < r->old && s->old_count ? s->compare.b.classes[k].f1 : s->all.classes[k].f1};
            for (int side = k < r->old ? 0 : 1; side < 2; side++, n++) {
                (void)snprintf(texts[n], sizeof texts[n], "%s %.2f %%", side ? "after" : "before",
                               100 * f1[side]);
                bars[n] = (HtmlBar){side && k < r->old ? "" : r->labels[k], texts[n], f1[side], 0, 0, side};
            }
        }
        html_text(out, "F1 of each label before and after; that of old labels on old rows.");
        html_bars(out, bars, n, 1);
    }
    mem_free(bars);
    mem_free(texts);
}

static void page_moves(Buf *out, const AddReport *r, const AddSet *s) {
    const size_t count = (size_t)r->old * (size_t)r->K;
    double *values = mem_alloc(count, sizeof *values);
    if (!values) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++) values[i] = (double)s->moved[i];
    html_text(out, "Where the answers to old rows went:");
    html_heat(out, "before", r->labels, (size_t)r->old, "after", r->labels, (size_t)r->K, values);
    mem_free(values);
}

static void page_set(Buf *out, Buf *text, const AddReport *r, const AddSet *s) {
    Grid g;
    html_section(out, s->rows.name.data);
    if (s->old_count) {
        put_old_words(text, s);
        html_text_of(out, text);
        page_bars(out, r, s);
        fill_old(&g, r, s);
        grid_end_html(out, &g);
    }
    fill_new(&g, r, s);
    grid_end_html(out, &g);
    if (s->old_count) page_moves(out, r, s);
    if (s->values) {
        html_text(out, "Values whose answers changed, or that belong to a new label:");
        fill_values(&g, r, s);
        grid_end_html(out, &g);
    }
    if (!s->compare.flip_count) return;
    html_text(out, "Old rows that get another answer, those that both are surest of first:");
    fill_flips(&g, r, s, PAGE_FLIPS, PAGE_TEXT);
    grid_end_html(out, &g);
}

void add_report_html(Buf *out, const AddReport *r) {
    Buf text = {0};
    html_begin(out, "A router with more domains", r->child);
    put_words(&text, r);
    html_text_of(out, &text);
    put_speed(&text, r);
    html_text_of(out, &text);
    if (r->max_regression >= 0) {
        put_gate(&text, r);
        html_text_of(out, &text);
    }
    if (r->calibration) {
        buf_puts(&text, "Calibrated anew: ");
        calibrate_report_line(&text, r->calibration);
        html_text_of(out, &text);
    }
    for (int i = 0; i < ADD_SETS; i++)
        if (r->sets[i].before) page_set(out, &text, r, &r->sets[i]);
    html_end(out);
    buf_free(&text);
}
