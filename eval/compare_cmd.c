#include "eval/compare_cmd.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/stop.h"
#include "core/threads.h"
#include "eval/answers.h"
#include "eval/compare.h"
#include "eval/compare_report.h"
#include "eval/outputs.h"
#include "eval/rowset.h"
#include "eval/rules.h"

typedef struct {
    RowsetOptions rows;
    char *rules, *flips, *out, *report;
    bool speed, json;
    int64_t show_flips, seed;
    PredictOptions model;
} Options;

enum { A, B, SIDES };

typedef struct {
    Answers answers;
    double *p;         /* (n, K of the union) */
    double *own;       /* (batch, own K) */
    PredictSeen *seen; /* (batch) */
    const int *column; /* own class to class of the union */
    double seconds;    /* of all rows */
    uint64_t truncated;
} Side;

/* Everything of one comparison; freed by close_all. */
typedef struct {
    const Options *options;
    Threads *threads;
    Side sides[SIDES];
    CompareLabels labels;
    Rowset set;
    Rules rules;
    Compare compare;
    CompareReport report;
} Run;

static void close_all(Run *r) {
    compare_free(&r->compare);
    rules_free(&r->rules);
    rowset_free(&r->set);
    compare_labels_free(&r->labels);
    for (int s = 0; s < SIDES; s++) {
        mem_free(r->sides[s].p);
        mem_free(r->sides[s].own);
        mem_free(r->sides[s].seen);
        answers_close(&r->sides[s].answers);
    }
    threads_close(r->threads);
}

/* ---- opening ---- */

static ErrCode open_sides(Run *r, const FlagList *arguments, Err *err) {
    const Options *o = r->options;
    const PredictRule rule = predict_options_rule(&o->model);
    for (int s = 0; s < SIDES; s++)
        TRY(answers_open(&r->sides[s].answers, arguments->items[s], &rule, r->threads, err));
    const Answers *a = &r->sides[A].answers, *b = &r->sides[B].answers;
    TRY(compare_labels(&r->labels, answers_labels(a), answers_classes(a), answers_labels(b),
                       answers_classes(b), err));
    r->sides[A].column = r->labels.column_a;
    r->sides[B].column = r->labels.column_b;
    return ERR_OK;
}

static ErrCode open_all(Run *r, const FlagList *arguments, Err *err) {
    const Options *o = r->options;
    if (o->rules) TRY(rules_read(&r->rules, o->rules, err));
    TRY(threads_open(&r->threads, (int)o->model.threads, err));
    TRY(open_sides(r, arguments, err));
    const Answers *a = &r->sides[A].answers, *b = &r->sides[B].answers;
    const bool models = a->predictor && b->predictor;
    r->report.facts =
        (RulesFacts){.size_ratio = a->bytes && b->bytes ? (double)b->bytes / (double)a->bytes : (double)NAN,
                     .time_ratio = models && o->speed ? 1 : (double)NAN /* measured later */};
    const ErrCode rc = rules_check(&r->rules, r->labels.names, r->labels.K, &r->report.facts, err);
    if (rc != ERR_OK) return err_context(err, rc, "%s", o->rules);
    const RowsetRule rows = {.shard = answers_shard(a) ? answers_shard(a) : answers_shard(b)};
    TRY(rowset_open(&r->set, &o->rows, &rows, r->labels.names, r->labels.K, err));
    const size_t n = r->set.rows.count, batch = (size_t)o->model.batch < n ? (size_t)o->model.batch : n;
    for (int s = 0; s < SIDES; s++) {
        Side *side = &r->sides[s];
        TRY(mem_new(&side->p, n * (size_t)r->labels.K, sizeof *side->p, "probabilities", err));
        TRY(mem_new(&side->own, batch * (size_t)answers_classes(&side->answers), sizeof *side->own,
                    "probabilities", err));
        TRY(mem_new(&side->seen, batch, sizeof *side->seen, "token counts", err));
        TRY(answers_match(&side->answers, &r->set.rows, err));
    }
    return ERR_OK;
}

/* ---- answering, in turn ---- */

static ErrCode answer_group(Run *r, Side *side, size_t first, size_t count, Err *err) {
    const size_t K = (size_t)r->labels.K, own = (size_t)answers_classes(&side->answers);
    const double started = progress_clock();
    TRY(answers_batch(&side->answers, side->own, side->seen, r->set.texts, first, count, err));
    side->seconds += progress_clock() - started;
    for (size_t i = 0; i < count; i++) {
        side->truncated += side->seen[i].truncated;
        for (size_t k = 0; k < own; k++)
            side->p[(first + i) * K + (size_t)side->column[k]] = side->own[i * own + k];
    }
    return ERR_OK;
}

/* Groups of rows go to A then B, the next to B then A, so that both meet the same moods of the machine; one group
 * that is not counted comes before, so that neither pays for the first pages and the first clock speed. */
static ErrCode answer_all(Run *r, Err *err) {
    const size_t n = r->set.rows.count, group = (size_t)r->options->model.batch;
    const bool timed = isfinite(r->report.facts.time_ratio);
    Progress progress;
    progress_begin(&progress, "compare", n, 0);
    ErrCode rc = ERR_OK;
    for (int s = 0; rc == ERR_OK && timed && s < SIDES; s++) {
        rc = answer_group(r, &r->sides[s], 0, n < group ? n : group, err);
        r->sides[s].seconds = 0;
        r->sides[s].truncated = 0;
    }
    int first = A;
    for (size_t at = 0; rc == ERR_OK && at < n; first = !first) {
        const size_t count = n - at < group ? n - at : group;
        rc = answer_group(r, &r->sides[first], at, count, err);
        if (rc == ERR_OK) rc = answer_group(r, &r->sides[!first], at, count, err);
        at += count;
        if (progress_due(&progress)) progress_update(&progress, at, "rows to both routers");
        if (rc == ERR_OK && at < n && stop_requested())
            rc = err_set(err, ERR_INTERRUPTED, "stopped after %zu of %zu rows", at, n);
    }
    progress_end(&progress);
    if (timed) r->report.facts.time_ratio = r->sides[B].seconds / r->sides[A].seconds;
    return rc;
}

static CompareSide side_of(const Run *r, int s, bool timed) {
    const Side *side = &r->sides[s];
    const Answers *a = &side->answers;
    return (CompareSide){
        .path = a->path,
        .kind = answers_kind(a),
        .labels = answers_classes(a),
        .bytes = a->bytes,
        .truncated = answers_sees(a) ? (int64_t)side->truncated : -1,
        .seconds = timed ? side->seconds / (double)r->set.rows.count : (double)NAN,
    };
}

static ErrCode compare_all(Run *r, Err *err) {
    const Options *o = r->options;
    TRY(answer_all(r, err));
    TRY(compare_compute(&r->compare, r->sides[A].p, r->sides[B].p, r->set.labels, r->set.rows.count,
                        r->labels.K, 0, (uint64_t)o->seed, r->threads, err));
    CompareReport *report = &r->report;
    const bool timed = isfinite(report->facts.time_ratio);
    report->a = side_of(r, A, timed);
    report->b = side_of(r, B, timed);
    report->labels = &r->labels;
    report->set = &r->set;
    report->compare = &r->compare;
    report->rules = o->rules ? &r->rules : NULL;
    report->timed_rows =
        (size_t)o->model.batch < r->set.rows.count ? (size_t)o->model.batch : r->set.rows.count;
    report->threads = threads_count(r->threads);
    report->flips = (size_t)o->show_flips;
    return rules_judge(&r->rules, &r->compare, r->labels.names, &report->facts, err);
}

/* ---- output ---- */

static ErrCode save_flips(const Run *r, const char *path, Err *err) {
    FileWriter writer = {0};
    Buf line = {0};
    ErrCode rc = file_create(&writer, path, err);
    for (size_t i = 0; rc == ERR_OK && i < r->compare.flip_count; i++) {
        buf_clear(&line);
        compare_report_flip(&line, &r->report, i);
        buf_puts(&line, "\n");
        rc = buf_ok(&line, err);
        if (rc == ERR_OK) file_write(&writer, line.data, line.len);
    }
    if (rc == ERR_OK) rc = file_commit(&writer, err);
    file_abort(&writer);
    buf_free(&line);
    return rc;
}

static ErrCode write_all(const Run *r, FILE *out, Err *err) {
    const Options *o = r->options;
    Outputs text = {0};
    compare_report_json(&text.json, &r->report);
    compare_report_table(&text.table, &r->report);
    if (o->report) compare_report_html(&text.page, &r->report);
    ErrCode rc = o->flips ? save_flips(r, o->flips, err) : ERR_OK;
    if (rc == ERR_OK) rc = outputs_write(&text, o->out, o->report, o->json, out, err);
    outputs_free(&text);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Run r = {.options = options};
    progress_quiet(r.options->model.quiet);
    ErrCode rc = open_all(&r, arguments, err);
    if (rc == ERR_OK) rc = compare_all(&r, err);
    if (rc == ERR_OK) rc = write_all(&r, out, err);
    if (rc == ERR_OK) rc = rules_verdict(&r.rules, err);
    close_all(&r);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    ROWSET_FLAGS(Options, rows),
    {"rules", NULL, FLAG_STRING, AT(rules), NULL, 0, 0, "FILE",
     "#Gate\nJSON object of limits (see below); exit status 3 when one is not met."},
    {"show_flips", NULL, FLAG_INT, AT(show_flips), "10", 0, 1e6, NULL,
     "#Output\nHow many of the answers that differ are shown, those that both routers are surest of first."},
    {"flips", NULL, FLAG_STRING, AT(flips), NULL, 0, 0, "FILE",
     "Write all answers that differ, with their whole texts, as JSONL."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "FILE", "Write the comparison as JSON to this file."},
    {"report", NULL, FLAG_STRING, AT(report), NULL, 0, 0, "FILE.html",
     "Write the comparison as one HTML page that needs nothing else."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    {"speed", NULL, FLAG_BOOL, AT(speed), "true", 0, 0, NULL,
     "Time both while they answer in turn (two models only; the output then differs from run to run)."},
    {"seed", NULL, FLAG_INT, AT(seed), "0", 0, 9e15, NULL, "Seed of the bootstrap."},
    PREDICT_FLAGS(Options, model),
};

const Command compare_cmd = {
    .name = "compare",
    .summary = "two routers on the same rows: which is better, and what changed",
    .usage = "compare A B [--data FILE] [--rules FILE] [OPTIONS]",
    .details =
        "A (the old) and B (the new) are run folders, Hugging Face folders, exported files, or files of "
        "answers\n"
        "that eval --predictions or predict wrote, whose rows are found again by id, else by order. All\n"
        "differences are B minus A. Routers with different labels are compared on the labels of both.\n\n"
        "Rules, in points (hundredths) where nothing else is said:\n"
        "  max_accuracy_drop, max_macro_f1_drop, max_macro_recall_drop, max_ece_increase\n"
        "  max_class_recall_drop, max_class_precision_drop, max_class_f1_drop  a number, or {\"math\": 1}\n"
        "  max_flip_rate, max_broken_rate (% of rows), min_accuracy (%), min_rows, max_nll_increase,\n"
        "  max_brier_increase, mcnemar_p_at_least, max_size_ratio, max_time_ratio\n\n"
        "Examples:\n"
        "  router compare runs/first router.safetensors\n"
        "  router compare old.safetensors new.safetensors --data test.jsonl --flips flips.jsonl\n"
        "  router compare old.safetensors new.safetensors --data test.jsonl --rules gate.json --report "
        "diff.html\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 2,
    .positional_max = 2,
    .takes_config = true,
    .run = run,
};
