#include "eval/export_cmd.h"

#include "core/file.h"
#include "core/mem.h"
#include "data/shard.h"
#include "eval/calibrate_model.h"
#include "eval/calibrate_report.h"
#include "export/exporter.h"

typedef struct {
    char *out, *license, *description, *metrics;
    int64_t max_length, threads;
    bool compress, calibrate;
} ExportOptions;

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, offsetof(ExportOptions, out), NULL, 0, 0, "FILE",
     "The file to write, by convention NAME.safetensors."},
    {"max_length", NULL, FLAG_INT, offsetof(ExportOptions, max_length), "0", 0, 8192, NULL,
     "Most tokens of a prompt; 0 is what the model was trained with (router_max_length in its config.json), "
     "else 256."},
    {"compress", NULL, FLAG_BOOL, offsetof(ExportOptions, compress), NULL, 0, 0, NULL,
     "Wrap the file in zstd for shipping; every reader of ours opens it as it is."},
    {"license", NULL, FLAG_STRING, offsetof(ExportOptions, license), NULL, 0, 0, "SPDX",
     "Licence to write into the file, such as MIT."},
    {"description", NULL, FLAG_STRING, offsetof(ExportOptions, description), NULL, 0, 0, "TEXT",
     "What to say about the model in the file."},
    {"metrics", NULL, FLAG_STRING, offsetof(ExportOptions, metrics), NULL, 0, 0, "FILE",
     "Report of `router eval --json` to take along; default: eval.json of the run."},
    {"calibrate", NULL, FLAG_BOOL, offsetof(ExportOptions, calibrate), "true", 0, 0, NULL,
     "Fit temperature and thresholds again, on the file's own logits of the run's calibration split; "
     "--no-calibrate keeps what the folder has."},
    {"threads", NULL, FLAG_INT, offsetof(ExportOptions, threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU."},
};

static void put_error(Buf *out, const char *what, const QuantError *e) {
    buf_printf(out, "  %-18s %9.4f %%   largest %.3g\n", what, 100 * quant_relative(e), e->worst);
}

static void put_report(Buf *out, const char *path, const ExporterReport *r) {
    const double MB = 1e6;
    buf_printf(out, "%s\n", path);
    buf_printf(out, "  size               %9.2f MB   %.1f %% of the %.2f MB in float32\n",
               (double)r->file_bytes / MB, 100 * (double)r->file_bytes / (double)r->float_bytes,
               (double)r->float_bytes / MB);
    if (r->file_bytes != r->blob_bytes)
        buf_printf(out, "  unpacked           %9.2f MB\n", (double)r->blob_bytes / MB);
    buf_printf(out, "  model              %zu layers, %zu labels, up to %d tokens\n", r->layers, r->labels,
               r->max_tokens);
    buf_printf(out, "rounding (root mean square, of the weights')\n");
    put_error(out, "word embeddings", &r->words);
    put_error(out, "linear layers", &r->linears);
    put_error(out, "position tables", &r->positions);
    buf_printf(out, "  %-18s %9.4f %%   %s\n", "worst tensor", 100 * r->worst_relative, r->worst_name);
    const CheckReport *c = &r->check;
    buf_printf(out, "golden vectors, 8 bits against float\n");
    buf_printf(out, "  same label         %6zu of %zu\n", c->float_agree, c->golden);
    buf_printf(out, "  logits differ      %9.4f      on average %.4f (of max(1, the largest))\n",
               c->float_worst, c->float_mean);
}

/* The calibration rows of the run's shard; none where there is no run. */
static ErrCode read_rows(Rows *rows, const Predictor *p, const char *folder, Err *err) {
    char *path = file_join(folder, "data.shard");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const ErrCode rc = file_exists(path) ? rows_read_shard(rows, path, SPLIT_CALIBRATION, true,
                                                           predict_labels(p), predict_classes(p), err)
                                         : ERR_OK;
    mem_free(path);
    return rc;
}

static ErrCode fit_again(Buf *text, bool *done, const char *path, const char *folder, Threads *threads,
                         Err *err) {
    Predictor *p = NULL;
    Rows rows = {0};
    Blob blob = {0};
    CalibrateModelRule rule = {0};
    CalibrateModel model = {0};
    cJSON *cost = NULL;
    *done = false;
    ErrCode rc = predict_open(&p, path, &(PredictRule){0}, threads, err);
    if (rc == ERR_OK) rc = read_rows(&rows, p, folder, err);
    if (rc != ERR_OK || rows.count == 0) goto done;
    rc = blob_open(&blob, path, &(BlobOptions){.map = true, .trust = true}, NULL, err);
    if (rc == ERR_OK) rc = calibrate_model_rule(&rule, &cost, &blob, err);
    if (rc == ERR_OK) {
        const Rows *const sets[CALIBRATE_SETS] = {[CALIBRATE_FITTED] = &rows};
        const char *const names[CALIBRATE_SETS] = {"data.shard (calibration)", "", ""};
        rc = calibrate_model_fit(&model, p, sets, names, &rule, threads, err);
    }
    if (rc == ERR_OK) rc = calibrate_model_save_blob(&model, path, path, err);
    if (rc == ERR_OK) {
        *done = true;
        buf_puts(text, "calibration, on the file's own logits\n  ");
        calibrate_report_line(text, &model);
        if (rule.policy) buf_printf(text, "\n  policy %s kept", rule.policy);
        buf_puts(text, "\n");
    }
done:
    calibrate_model_free(&model);
    cJSON_Delete(cost);
    blob_close(&blob);
    rows_free(&rows);
    predict_close(p);
    return rc;
}

static ErrCode calibrate(Buf *text, const ExportOptions *o, const char *folder, bool carried,
                         Threads *threads, Err *err) {
    bool done = false;
    if (o->calibrate) {
        const ErrCode rc = fit_again(text, &done, o->out, folder, threads, err);
        if (rc != ERR_OK) return err_context(err, rc, "%s is written, but calibrating it failed", o->out);
    }
    if (!done)
        buf_printf(text,
                   "calibration: %s; `router calibrate %s --data FILE` fits it on the file's own logits\n",
                   carried ? "the folder's, which was fitted on float logits" : "none", o->out);
    return ERR_OK;
}

static ErrCode run_export(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const ExportOptions *o = options;
    if (!o->out) return err_set(err, ERR_ARGUMENT, "export: --out FILE is missing");
    const ExporterOptions e = {.max_tokens = (int)o->max_length,
                               .pack = o->compress,
                               .license = o->license,
                               .description = o->description,
                               .metrics = o->metrics};
    Threads *threads;
    TRY(threads_open(&threads, (int)o->threads, err));
    ExporterReport report;
    Buf text = {0};
    ErrCode rc = exporter_run(&report, o->out, arguments->items[0], &e, threads, err);
    if (rc == ERR_OK) {
        put_report(&text, o->out, &report);
        rc = calibrate(&text, o, arguments->items[0], report.calibrated, threads, err);
    }
    threads_close(threads);
    if (rc == ERR_OK) rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

const Command export_cmd = {
    .name = "export",
    .summary = "write a trained model as one quantised, checked file",
    .usage = "export FOLDER --out FILE",
    .details =
        "FOLDER is a training run (its model-best, else model-last, is taken) or a Hugging Face folder of a "
        "trained classifier with spm.model.\n"
        "The file is a safetensors container with int8 weights, the tokenizer, the labels, digests of "
        "everything, and golden vectors; `router predict`, `router verify` and librouter read it. The same "
        "folder gives the same bytes. The format is described in export/blob.h.\n"
        "8 bits shift the logits a little, so a run's calibration split is answered by the new file and its\n"
        "temperature fitted on that; thresholds are chosen again by the policy that `router calibrate` left "
        "in the "
        "run.\n\n"
        "Examples:\n"
        "  router export runs/quickstart --out router.safetensors\n"
        "  router export model/ --out router.safetensors.zst --compress --license MIT",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(ExportOptions),
    .positional_min = 1,
    .positional_max = 1,
    .run = run_export,
};
