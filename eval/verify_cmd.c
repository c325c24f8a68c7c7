#include "eval/verify_cmd.h"

#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/lineage.h"
#include "eval/metrics.h"
#include "eval/outputs.h"
#include "eval/predict.h"
#include "eval/report.h"
#include "eval/rowset.h"
#include "export/check.h"

typedef struct {
    RowsetOptions rows;
    char *against, *parent, *out;
    int64_t max_flips;
    bool json;
    double max_drop, max_class_drop;
    PredictOptions model;
} Options;

typedef struct {
    const Options *options;
    Threads *threads;
    Predictor *first, *second;
    Rowset set;
    int *column;           /* column (K): class of the first model as class of the second */
    double *p, *q, *mixed; /* (n, K): first; second in the first's order; second as it answers */
    ReportDrop report;
    Lineage lineage;
} Verify;

static void close_all(Verify *v) {
    report_drop_free(&v->report);
    lineage_free(&v->lineage);
    mem_free(v->column);
    mem_free(v->p);
    mem_free(v->q);
    mem_free(v->mixed);
    rowset_free(&v->set);
    predict_close(v->first);
    predict_close(v->second);
    threads_close(v->threads);
}

/* Both models must have the same labels; the order may differ. */
static ErrCode match_labels(Verify *v, const char *first, const char *second, Err *err) {
    const int K = predict_classes(v->first);
    const char *const *a = predict_labels(v->first), *const *b = predict_labels(v->second);
    if (predict_classes(v->second) != K)
        return err_set(err, ERR_ARGUMENT, "%s has %d labels, but %s has %d", first, K, second,
                       predict_classes(v->second));
    TRY(mem_new(&v->column, (size_t)K, sizeof *v->column, "the labels", err));
    for (int i = 0; i < K; i++) {
        v->column[i] = -1;
        for (int j = 0; j < K; j++)
            if (strcmp(a[i], b[j]) == 0) v->column[i] = j;
        if (v->column[i] < 0)
            return err_set(err, ERR_ARGUMENT, "%s has the label '%.80s', which %s does not have", first, a[i],
                           second);
    }
    return ERR_OK;
}

static ErrCode compare(Verify *v, const char *model, Err *err) {
    const Options *o = v->options;
    const PredictRule rule = predict_options_rule(&o->model);
    TRY(predict_open(&v->first, model, &rule, v->threads, err));
    TRY(predict_open(&v->second, o->against, &rule, v->threads, err));
    TRY(match_labels(v, model, o->against, err));
    const RowsetRule rows = {.model = o->against, .shard = predict_shard(v->second)};
    TRY(rowset_open(&v->set, &o->rows, &rows, predict_labels(v->first), predict_classes(v->first), err));
    const size_t n = v->set.rows.count, K = (size_t)predict_classes(v->first);
    TRY(mem_new(&v->p, n * K, sizeof *v->p, "probabilities", err));
    TRY(mem_new(&v->q, n * K, sizeof *v->q, "probabilities", err));
    TRY(mem_new(&v->mixed, n * K, sizeof *v->mixed, "probabilities", err));
    TRY(predict_all(v->first, v->p, NULL, v->set.texts, n, "verify", err));
    TRY(predict_all(v->second, v->mixed, NULL, v->set.texts, n, "verify against", err));
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < K; k++) v->q[i * K + k] = v->mixed[i * K + (size_t)v->column[k]];
    ReportDrop *r = &v->report;
    TRY(metrics_compute(&r->first, v->p, v->set.labels, n, (int)K, 0, 0, v->threads, err));
    TRY(metrics_compute(&r->second, v->q, v->set.labels, n, (int)K, 0, 0, v->threads, err));
    TRY(metrics_compare(&r->drop, v->q, &r->second, v->p, &r->first, err));
    r->set = v->set.name.data;
    r->model = model;
    r->against = o->against;
    r->labels = predict_labels(v->first);
    r->max_drop = o->max_drop;
    r->max_class_drop = o->max_class_drop;
    r->passed = r->drop.macro_f1_drop <= o->max_drop && r->drop.worst_drop <= o->max_class_drop;
    return ERR_OK;
}

static ErrCode judge(const Verify *v, Err *err) {
    const ReportDrop *r = &v->report;
    if (r->drop.macro_f1_drop > r->max_drop)
        return err_set(err, ERR_GATE, "%s: macro F1 is %.5f below that of %s, allowed are %.5f (max_drop)",
                       r->model, r->drop.macro_f1_drop, r->against, r->max_drop);
    if (r->drop.worst_drop > r->max_class_drop)
        return err_set(err, ERR_GATE,
                       "%s: F1 of class '%.80s' is %.5f below that of %s, allowed are %.5f (max_class_drop)",
                       r->model, r->labels[r->drop.worst_class], r->drop.worst_drop, r->against,
                       r->max_class_drop);
    return ERR_OK;
}

static void put_check(Buf *json, Buf *table, const char *model, const CheckReport *c) {
    buf_printf(json,
               "{\"vectors\": %zu, \"exact\": %zu, \"worst\": %.6g, \"tolerance\": %.6g, "
               "\"float_worst\": %.6g, \"float_mean\": %.6g, \"float_agree\": %zu}",
               c->golden, c->exact, c->worst, c->tolerance, c->float_worst, c->float_mean, c->float_agree);
    buf_printf(table, "%s: digests right; %zu golden vectors, %zu of them bit for bit", model, c->golden,
               c->exact);
    if (c->exact < c->golden)
        buf_printf(table, " (worst difference %.2g of %.2g allowed)", c->worst, c->tolerance);
    if (c->golden)
        buf_printf(
            table,
            "\n  against the float model, as stated at export: %zu of %zu labels equal, logits differ by "
            "%.4f (worst %.4f)",
            c->float_agree, c->golden, c->float_mean, c->float_worst);
    buf_puts(table, "\n");
}

static ErrCode report_all(Verify *v, const char *model, const CheckReport *check, FILE *out, Err *err) {
    Outputs text = {0};
    Buf *json = &text.json, *table = &text.table;
    buf_puts(json, "{\n\"golden\": ");
    if (check)
        put_check(json, table, model, check);
    else
        buf_puts(json, "null");
    buf_puts(json, ",\n\"comparison\": ");
    if (v->options->against) {
        report_drop_json(json, &v->report);
        if (check) buf_puts(table, "\n");
        report_drop_table(table, &v->report);
    } else {
        buf_puts(json, "null");
    }
    buf_puts(json, ",\n\"lineage\": ");
    if (v->options->parent) {
        buf_puts(table, "\n");
        lineage_json(json, &v->lineage);
        lineage_table(table, &v->lineage);
    } else {
        buf_puts(json, "null");
    }
    buf_puts(json, "\n}\n");
    const ErrCode rc = outputs_write(&text, v->options->out, NULL, v->options->json, out, err);
    outputs_free(&text);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Verify v = {.options = options};
    progress_quiet(v.options->model.quiet);
    const char *model = arguments->items[0];
    const bool folder = file_is_dir(model);
    CheckReport check = {0};
    ErrCode rc = ERR_OK;
    if (folder && !v.options->against)
        rc = err_set(err, ERR_ARGUMENT, "%s: a folder has no digests: give an exported file, or --against",
                     model);
    if (rc == ERR_OK && folder && v.options->parent)
        rc = err_set(err, ERR_ARGUMENT, "%s: a folder has no golden vectors: --parent needs an exported file",
                     model);
    if (!v.options->parent && v.options->max_flips)
        rc = err_set(err, ERR_ARGUMENT, "--max-flips needs --parent FILE");
    if (!v.options->against &&
        (v.options->rows.data.count || v.options->max_drop < 1 || v.options->max_class_drop < 1))
        rc = err_set(err, ERR_ARGUMENT, "--data, --max-drop and --max-class-drop need --against MODEL");
    if (rc == ERR_OK && !folder) rc = check_blob(&check, model, err);
    if (rc == ERR_OK && v.options->against) {
        rc = threads_open(&v.threads, (int)v.options->model.threads, err);
        if (rc == ERR_OK) rc = compare(&v, model, err);
    }
    if (rc == ERR_OK && v.options->parent)
        rc = lineage_open(&v.lineage, model, v.options->parent, v.options->max_flips, err);
    if (rc == ERR_OK) rc = report_all(&v, model, folder ? NULL : &check, out, err);
    if (rc == ERR_OK && v.options->against) rc = judge(&v, err);
    if (rc == ERR_OK && v.options->parent) rc = lineage_judge(&v.lineage, err);
    close_all(&v);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    {"against", NULL, FLAG_STRING, AT(against), NULL, 0, 0, "MODEL",
     "#Comparison\nAlso compare the answers with those of this model (run folder, folder or exported file), "
     "on "
     "the test split of its run folder where there is no --data."},
    {"max_drop", NULL, FLAG_FLOAT, AT(max_drop), "1", -1, 1, NULL,
     "Gate: exit status 3 where macro F1 is more than this below the other model's (0.005: half a point)."},
    {"max_class_drop", NULL, FLAG_FLOAT, AT(max_class_drop), "1", -1, 1, NULL,
     "Gate: the same for the F1 of the class that loses most."},
    ROWSET_FLAGS(Options, rows),
    {"parent", NULL, FLAG_STRING, AT(parent), NULL, 0, 0, "FILE",
     "#Lineage\nAlso check that FILE is a later revision of this exported file, whose ids keep their "
     "meaning, and "
     "ask both the golden prompts of this one."},
    {"max_flips", NULL, FLAG_INT, AT(max_flips), "0", 0, 4096, NULL,
     "Gate: exit status 3 where more of these prompts than that get another label."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "FILE",
     "#Output\nWrite the report as JSON to this file."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    PREDICT_FLAGS_UNCUT(Options, model),
};

const Command verify_cmd = {
    .name = "verify",
    .summary = "check an exported file, alone or against a checkpoint",
    .usage = "verify FILE [--against MODEL [--data FILE] [--max-drop X]] [--parent FILE [--max-flips N]]",
    .details =
        "Checks all digests of an exported file and computes its golden vectors again. With --against, both\n"
        "models also answer labelled rows: reported are how often they agree, the drop of macro F1 and of "
        "each\n"
        "class's F1, and the exit status is 3 where a drop is larger than allowed. With --parent, the exit "
        "status is\n3 where the file is no later revision of that one, or the parent's golden prompts are "
        "answered otherwise.\n\n"
        "Examples:\n"
        "  router verify router.safetensors\n"
        "  router verify router.safetensors --against runs/first --max-drop 0.005\n"
        "  router verify grown.safetensors --parent router.safetensors --max-flips 1\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 1,
    .takes_config = true,
    .run = run,
};
