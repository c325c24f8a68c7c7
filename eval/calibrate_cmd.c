#include "eval/calibrate_cmd.h"

#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/calibrate_model.h"
#include "eval/calibrate_report.h"
#include "eval/predict.h"
#include "eval/rowset.h"

typedef struct {
    RowsetOptions rows; /* of these data, split and the fields */
    FlagList eval, ood;
    char *policy, *score, *fallback, *out;
    bool per_class, vector, save, json;
    int64_t seed;
    PredictOptions model;
} Options;

/* Everything of one run; freed by close_all. */
typedef struct {
    const Options *options;
    Threads *threads;
    Predictor *predictor;
    Rows rows[CALIBRATE_SETS];
    Buf names[CALIBRATE_SETS];
    CalibrateModel model;
} Run;

static void close_all(Run *r) {
    calibrate_model_free(&r->model);
    for (int s = 0; s < CALIBRATE_SETS; s++) {
        rows_free(&r->rows[s]);
        buf_free(&r->names[s]);
    }
    predict_close(r->predictor);
    threads_close(r->threads);
}

/* ---- rows ---- */

/* Names of sets go into the model: without the folders of this machine. */
static void put_name(Run *r, int set, const char *path, Split split) {
    Buf *name = &r->names[set];
    buf_printf(name, "%s%s", name->len ? ", " : "", file_base(path));
    if (split != SPLIT_COUNT) buf_printf(name, " (%s)", split_name(split));
}

static ErrCode read_shard(Run *r, int set, const char *path, Split split, Err *err) {
    TRY(rows_read_shard(&r->rows[set], path, split, r->options->rows.skip_unknown,
                        predict_labels(r->predictor), predict_classes(r->predictor), err));
    put_name(r, set, path, split);
    return ERR_OK;
}

/* A file, or a run folder: the split of its shard. */
static ErrCode read_path(Run *r, int set, const char *path, const RowsRule *rule, Split split, Err *err) {
    if (!file_is_dir(path)) {
        TRY(rows_read(&r->rows[set], path, rule, predict_labels(r->predictor), predict_classes(r->predictor),
                      err));
        put_name(r, set, path, rule->split);
        return ERR_OK;
    }
    char *shard = file_join(path, "data.shard");
    if (!shard) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const ErrCode rc = read_shard(r, set, shard, split, err);
    mem_free(shard);
    return rc;
}

static ErrCode read_fitted(Run *r, const char *model, Err *err) {
    const RowsetOptions *o = &r->options->rows;
    const char *shard = predict_shard(r->predictor);
    const Split named = o->split ? split_find(o->split) : SPLIT_COUNT;
    if (o->split && named == SPLIT_COUNT)
        return err_set(err, ERR_ARGUMENT, "split: found '%s', expected train, dev, calibration or test",
                       o->split);
    const Split split = o->split ? named : SPLIT_CALIBRATION;
    RowsRule rule = rowset_plain_rule(o);
    rule.split = named;
    for (size_t i = 0; i < o->data.count; i++)
        TRY(read_path(r, CALIBRATE_FITTED, o->data.items[i], &rule, split, err));
    if (o->data.count == 0) {
        if (!shard)
            return err_set(
                err, ERR_ARGUMENT,
                "%s: no run folder with a data.shard: give labelled rows that training did not see "
                "with --data FILE, or its run folder",
                model);
        TRY(read_shard(r, CALIBRATE_FITTED, shard, split, err));
    }
    TRY(buf_ok(&r->names[CALIBRATE_FITTED], err));
    if (r->rows[CALIBRATE_FITTED].count == 0)
        return err_set(err, ERR_ARGUMENT, "%s: no rows to calibrate on; give some with --data",
                       r->names[CALIBRATE_FITTED].data);
    return ERR_OK;
}

static ErrCode read_rows(Run *r, const char *model, Err *err) {
    const Options *o = r->options;
    const FlagList *data = &o->rows.data;
    RowsRule rule = rowset_plain_rule(&o->rows);
    TRY(read_fitted(r, model, err));
    for (size_t i = 0; i < o->eval.count; i++)
        TRY(read_path(r, CALIBRATE_TEST, o->eval.items[i], &rule, SPLIT_TEST, err));
    for (size_t i = 0; o->eval.count == 0 && i < data->count; i++)
        if (file_is_dir(data->items[i]))
            TRY(read_path(r, CALIBRATE_TEST, data->items[i], &rule, SPLIT_TEST, err));
    if (o->eval.count == 0 && data->count == 0)
        TRY(read_shard(r, CALIBRATE_TEST, predict_shard(r->predictor), SPLIT_TEST, err));
    rule.unlabelled = true;
    for (size_t i = 0; i < o->ood.count; i++)
        TRY(read_path(r, CALIBRATE_OOD, o->ood.items[i], &rule, SPLIT_TEST, err));
    for (int s = 0; s < CALIBRATE_SETS; s++)
        if (r->names[s].len) TRY(buf_ok(&r->names[s], err));
    return ERR_OK;
}

/* ---- the command ---- */

static ErrCode fit(Run *r, Err *err) {
    const Options *o = r->options;
    const Rows *rows[CALIBRATE_SETS];
    const char *names[CALIBRATE_SETS];
    for (int s = 0; s < CALIBRATE_SETS; s++) {
        rows[s] = &r->rows[s];
        names[s] = r->names[s].data ? r->names[s].data : "";
    }
    const CalibrateModelRule rule = {.policy = o->policy,
                                     .score = decide_score_find(o->score),
                                     .per_class = o->per_class,
                                     .fallback = o->fallback,
                                     .vector = o->vector,
                                     .seed = (uint64_t)o->seed};
    return calibrate_model_fit(&r->model, r->predictor, rows, names, &rule, r->threads, err);
}

static ErrCode save(const Run *r, Err *err) {
    const char *path = predict_path(r->predictor), *out = r->options->out;
    if (!r->options->save) return ERR_OK;
    return predict_is_blob(r->predictor) ? calibrate_model_save_blob(&r->model, path, out ? out : path, err)
                                         : calibrate_model_save_folder(&r->model, path, err);
}

static ErrCode print(const Run *r, FILE *out, Err *err) {
    Buf text = {0};
    if (r->options->json) {
        calibrate_report_json(&text, &r->model);
    } else {
        const char *path = r->options->out ? r->options->out : predict_path(r->predictor);
        calibrate_report_table(&text, &r->model);
        if (r->options->save)
            buf_printf(&text, "\nstored in %s%s\n", path,
                       predict_is_blob(r->predictor) ? "" : "/config.json");
        else
            buf_puts(&text, "\nnot stored (--no-save)\n");
    }
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode work(Run *r, const char *model, FILE *out, Err *err) {
    const Options *o = r->options;
    if (o->out && (file_is_dir(model) || !o->save))
        return err_set(err, ERR_ARGUMENT,
                       "out: only for an exported file that is stored; a folder's config.json "
                       "is changed in place");
    TRY(threads_open(&r->threads, (int)o->model.threads, err));
    const PredictRule rule = predict_options_rule(&o->model);
    TRY(predict_open(&r->predictor, model, &rule, r->threads, err));
    TRY(read_rows(r, model, err));
    TRY(fit(r, err));
    TRY(save(r, err));
    return print(r, out, err);
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Run r = {.options = options};
    progress_quiet(r.options->model.quiet);
    const ErrCode rc = work(&r, arguments->items[0], out, err);
    close_all(&r);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    {"data", NULL, FLAG_LIST, AT(rows.data), NULL, 0, 0, "FILE",
     "#Rows\nLabelled rows that training did not see, to fit on: JSONL, or a run folder (the split of its "
     "shard); "
     "default: the run's."},
    {"split", NULL, FLAG_STRING, AT(rows.split), NULL, 0, 0, "NAME",
     "Split to fit on: calibration of a run; of JSONL all rows, unless a split is named."},
    {"eval", NULL, FLAG_LIST, AT(eval), NULL, 0, 0, "FILE",
     "Labelled rows to report on, from which nothing is fitted; default: the test split of the run."},
    {"ood", NULL, FLAG_LIST, AT(ood), NULL, 0, 0, "FILE",
     "Rows from elsewhere (labels optional): how well scores tell them apart, and calibration on them."},
    ROWSET_FIELD_FLAGS(Options, rows),
    {"policy", NULL, FLAG_STRING, AT(policy), NULL, 0, 0, "POLICY",
     "#Decision\nWhen to answer: precision=0.98, coverage=0.9 or cost=FILE; without, always."},
    {"score", NULL, FLAG_CHOICE, AT(score), "max_probability", 0, 0, "max_probability|margin|entropy|energy",
     "What thresholds are compared with."},
    {"per_class", NULL, FLAG_BOOL, AT(per_class), NULL, 0, 0, NULL,
     "A threshold for each label instead of one for all."},
    {"fallback", NULL, FLAG_STRING, AT(fallback), NULL, 0, 0, "LABEL",
     "The label whose expert gets the prompts that are not answered."},
    {"vector", NULL, FLAG_BOOL, AT(vector), "true", 0, 0, NULL,
     "#Fit\nTry a scale and a bias for each label beside the temperature."},
    {"seed", NULL, FLAG_INT, AT(seed), "0", 0, 9e15, NULL, "Seed of the folds and of the intervals."},
    {"save", NULL, FLAG_BOOL, AT(save), "true", 0, 0, NULL,
     "#Output\nStore the result where the model is; --no-save only reports."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "FILE",
     "Write an exported file's result to this file, and leave it as it is."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    PREDICT_FLAGS_UNCUT(Options, model),
};

const Command calibrate_cmd = {
    .name = "calibrate",
    .summary = "make probabilities honest, and choose when not to answer",
    .usage = "calibrate MODEL [--data FILE] [--policy POLICY] [OPTIONS]",
    .details =
        "MODEL is a run folder (its calibration split is fitted on), a Hugging Face folder or an exported "
        "file,\n"
        "which is fitted on its own int8 logits. Fitted are a temperature and, where rows held out show that "
        "it\n"
        "helps, a scale and bias for each label; nothing is kept that would raise the calibration error "
        "(ECE).\n"
        "The result is stored in config.json or in the exported file; librouter and every command apply "
        "it.\n\n"
        "With --policy the router may abstain: precision=P answers as much as it can while a test shows, "
        "with\n"
        "95 % confidence, that the share P of the answers is right; coverage=C answers the surest C; "
        "cost=FILE\n"
        "has the least mean cost, by JSON such as\n"
        "  {\"abstain\": 0.2, \"wrong\": 1, \"costs\": {\"math\": {\"coding\": 0.5}}}\n"
        "(true label, then answer). To abstain is a decision, not a label: 'other' remains an answer.\n\n"
        "Examples:\n"
        "  router calibrate runs/first --policy precision=0.98 --fallback other\n"
        "  router calibrate router.safetensors --data runs/first --ood elsewhere.jsonl\n"
        "  router calibrate router.safetensors --data held_out.jsonl --out calibrated.safetensors\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 1,
    .takes_config = true,
    .run = run,
};
