#include "eval/add_domain.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "eval/add_calibrate.h"
#include "eval/add_domain_cmd.h"
#include "eval/add_start.h"
#include "eval/add_train.h"
#include "eval/outputs.h"
#include "train/train_cmd.h"

static void close_all(AddJob *a) {
    add_report_free(&a->report);
    if (a->calibrated) calibrate_model_free(&a->calibration);
    predict_close(a->parent);
    predict_close(a->child);
    predict_close(a->raw);
    cJSON_Delete(a->parent_tree);
    add_rows_free(&a->rows);
    config_free(&a->config);
    mem_free(a->active);
    mem_free(a->retired);
    mem_free(a->labels);
    mem_free(a->renames);
    buf_free(&a->names);
    char *const paths[] = {a->grown,        a->start,        a->rows_path,    a->suspects_path,
                           a->options_path, a->report_path,  a->facts_path,   a->best,
                           a->last,         a->train_config, a->parent_config};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) mem_free(paths[i]);
    threads_close(a->threads);
}

/* ---- options ---- */

/* "NAME<separator>REST" into two strings of a->names, by offset: it may move while it grows. */
static ErrCode split_at(size_t *left, size_t *right, Buf *names, const char *text, char separator) {
    const char *at = strchr(text, separator);
    *left = names->len;
    buf_put(names, text, at ? (size_t)(at - text) : strlen(text));
    buf_put(names, "", 1);
    *right = names->len;
    buf_put(names, at ? at + 1 : "", at ? strlen(at + 1) : 0);
    buf_put(names, "", 1);
    return at ? ERR_OK : ERR_ARGUMENT;
}

static ErrCode parse_labels(AddJob *a, Err *err) {
    const AddDomainOptions *o = a->o;
    size_t *at;
    const size_t domains = o->domain.count, renames = o->rename.count;
    TRY(mem_new(&at, 2 * (domains + renames) + 1, sizeof *at, "the labels", err));
    ErrCode rc = mem_new(&a->labels, domains + 1, sizeof *a->labels, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&a->renames, renames + 1, sizeof *a->renames, "the labels", err);
    for (size_t i = 0; rc == ERR_OK && i < domains; i++)
        (void)split_at(&at[2 * i], &at[2 * i + 1], &a->names, o->domain.items[i], '=');
    for (size_t i = 0; rc == ERR_OK && i < renames; i++) {
        size_t *pair = at + 2 * (domains + i);
        if (split_at(&pair[0], &pair[1], &a->names, o->rename.items[i], '=') != ERR_OK)
            rc = err_set(err, ERR_ARGUMENT, "rename: found '%.100s', expected OLD=NEW", o->rename.items[i]);
    }
    if (rc == ERR_OK) rc = buf_ok(&a->names, err);
    const char *names = a->names.data;
    for (size_t i = 0; rc == ERR_OK && i < domains; i++) {
        const char *description = names + at[2 * i + 1];
        a->labels[i] = (GrowLabel){names + at[2 * i], *description ? description : NULL};
    }
    for (size_t i = 0; rc == ERR_OK && i < renames; i++) {
        const size_t *pair = at + 2 * (domains + i);
        a->renames[i] = (GrowRename){names + pair[0], names + pair[1]};
    }
    a->label_count = domains;
    a->rename_count = renames;
    mem_free(at);
    return rc;
}

static ErrCode parse_relabel(AddJob *a, Err *err) {
    const char *text = a->o->relabel;
    a->relabel = HUGE_VAL;
    if (!text) return ERR_OK;
    char *end = NULL;
    const bool named = strncmp(text, "above=", 6) == 0;
    const double value = named ? strtod(text + 6, &end) : -1;
    if (!named || end == text + 6 || *end || !(value >= ADD_SUSPECT_MIN && value < 1))
        return err_set(err, ERR_ARGUMENT,
                       "relabel: found '%.100s', expected above=P with P from %g to below 1", text,
                       ADD_SUSPECT_MIN);
    a->relabel = value;
    return ERR_OK;
}

static ErrCode check_options(const AddDomainOptions *o, Err *err) {
    if (!o->from) return err_set(err, ERR_ARGUMENT, "--from: expected the router's run folder");
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected the new router's run folder");
    if (o->domain.count == 0)
        return err_set(err, ERR_ARGUMENT, "--domain: expected the name of a new domain");
    if (o->data.count == 0)
        return err_set(err, ERR_ARGUMENT, "--data: expected JSONL with prompts of the new domain");
    if (o->resume && o->overwrite)
        return err_set(err, ERR_ARGUMENT, "--resume and --overwrite exclude each other");
    return ERR_OK;
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* However the paths are spelt: --overwrite would remove the parent. */
static ErrCode check_apart(const AddJob *a, Err *err) {
    const char *model = predict_path(a->parent), *out = a->o->out;
    char *above = file_join(model, "..");
    if (!above) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const bool same = same_file(a->o->from, out) || same_file(model, out) || same_file(above, out);
    mem_free(above);
    if (!same) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "--out: found %s, the parent's folder, which stays as it is", out);
}

/* Training would refuse it too, but only when all is prepared. */
static ErrCode check_layers(const AddJob *a, Err *err) {
    Config config;
    TRY(config_read(&config, predict_path(a->parent), err));
    const int layers = config.num_hidden_layers;
    config_free(&config);
    if (a->o->freeze_layers <= layers) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "freeze_layers: found %lld, but the model's num_hidden_layers is %d",
                   (long long)a->o->freeze_layers, layers);
}

static ErrCode in_out(char **path, const AddJob *a, const char *name, Err *err) {
    *path = file_join(a->o->out, name);
    return *path ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
}

static ErrCode open_paths(AddJob *a, Err *err) {
    TRY(in_out(&a->grown, a, "grown", err)); /* becomes start once its head is fitted */
    TRY(in_out(&a->start, a, "start", err));
    TRY(in_out(&a->rows_path, a, "rows.jsonl.zst", err));
    TRY(in_out(&a->suspects_path, a, "suspects.jsonl", err));
    TRY(in_out(&a->options_path, a, "add_domain.json", err));
    TRY(in_out(&a->report_path, a, "report.json", err));
    TRY(in_out(&a->facts_path, a, "prepared.json", err));
    TRY(in_out(&a->best, a, "model-best", err));
    TRY(in_out(&a->last, a, "model-last", err));
    TRY(in_out(&a->train_config, a, "train_config.json", err));
    a->parent_config = file_join(a->o->from, "train_config.json");
    return a->parent_config ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
}

static ErrCode remove_file(const char *path, Err *err) {
    if (remove(path) == 0 || errno == ENOENT) return ERR_OK;
    return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
}

/* A continued run has the options that it began with; one that is there already is not lost by accident. One that was
 * refused has saved nothing, and is no run. */
static ErrCode begin(AddJob *a, Err *err) {
    static const char *const FREE[] = {"resume",    "overwrite",  "threads",        "quiet",       "json",
                                       "report",    "show_flips", "max_regression", "held_out",    "filter",
                                       "map_field", "label_map",  "remap",          "skip_unknown"};
    const AddDomainOptions *o = a->o;
    cJSON *now = flags_json(&add_domain_cmd, o);
    if (!now) return err_set(err, ERR_MEMORY, "out of memory for the options");
    ErrCode rc = ERR_OK;
    const bool begun = file_exists(a->options_path),
               holds = file_exists(a->start) || file_exists(a->best) || file_exists(a->last);
    if (begun && o->resume)
        rc = flags_compare(now, a->options_path, FREE, sizeof FREE / sizeof *FREE, err);
    else if (holds && !o->overwrite)
        rc = err_set(err, ERR_ARGUMENT, "%s holds a run already: %sbegin anew with --overwrite", o->out,
                     begun ? "continue it with --resume, or " : "");
    if (rc == ERR_OK) rc = file_mkdirs(o->out, err);
    if (rc == ERR_OK && o->overwrite && !o->resume) {
        /* the options first and last, so that --resume does not go on with those of another run, here or in training */
        rc = remove_file(a->options_path, err);
        if (rc == ERR_OK) rc = file_remove_dir(a->start, err);
        if (rc == ERR_OK) rc = train_cmd_remove(o->out, err);
        if (rc == ERR_OK) rc = remove_file(a->train_config, err);
    }
    if (rc == ERR_OK && !(begun && o->resume)) rc = json_save(a->options_path, now, err);
    cJSON_Delete(now);
    return rc;
}

/* ---- the report ---- */

/* Before training: what is wrong with the files is told at once. */
static ErrCode open_held_out(AddJob *a, Err *err) {
    const AddDomainOptions *o = a->o;
    char *field = o->rows.map_field;
    const FlagList member = {&field, field ? 1 : 0};
    const RowsetRule held_out = {.files = &o->held_out, .members = &member};
    if (o->held_out.count == 0) return ERR_OK;
    return rowset_open(&a->report.sets[ADD_HELD_OUT].rows, &o->rows, &held_out, a->child_labels, a->K, err);
}

static ErrCode count_rows(AddJob *a, Err *err) {
    Rows train = {0};
    TRY(rows_read_shard(&train, predict_shard(a->child), SPLIT_TRAIN, false, a->child_labels, a->K, err));
    for (size_t i = 0; i < train.count; i++)
        *(train.items[i].label < a->old ? &a->report.train_old : &a->report.train_new) += 1;
    rows_free(&train);
    return ERR_OK;
}

static ErrCode measure(AddJob *a, Err *err) {
    const AddDomainOptions *o = a->o;
    AddReport *r = &a->report;
    const RowsetOptions none = {0};
    const RowsetRule test = {.shard = predict_shard(a->child)};
    r->parent = o->from;
    r->child = o->out;
    r->labels = a->child_labels;
    r->was = predict_labels(a->parent);
    r->retired = a->retired;
    r->K = a->K;
    r->old = a->old;
    r->revision = a->config.taxonomy.revision;
    r->calibration = a->calibrated ? &a->calibration : NULL;
    r->max_regression = o->max_regression;
    r->flips = (size_t)o->show_flips;
    TRY(predict_bytes(&r->parent_bytes, a->parent, err));
    TRY(predict_bytes(&r->child_bytes, a->child, err));
    TRY(count_rows(a, err));
    TRY(rowset_open(&r->sets[ADD_TEST].rows, &none, &test, a->child_labels, a->K, err));
    TRY(add_report_measure(r, &r->sets[ADD_TEST], a->parent, a->child, (uint64_t)o->seed, a->threads, err));
    if (o->held_out.count == 0) return ERR_OK;
    return add_report_measure(r, &r->sets[ADD_HELD_OUT], a->parent, a->child, (uint64_t)o->seed, a->threads,
                              err);
}

static ErrCode print(const AddJob *a, FILE *out, Err *err) {
    Outputs text = {0};
    add_report_json(&text.json, &a->report);
    add_report_table(&text.table, &a->report);
    if (a->o->report) add_report_html(&text.page, &a->report);
    const ErrCode rc = outputs_write(&text, a->report_path, a->o->report, a->o->json, out, err);
    outputs_free(&text);
    return rc;
}

/* ---- all of it ---- */

static ErrCode run(AddJob *a, FILE *out, Err *err) {
    const AddDomainOptions *o = a->o;
    const PredictRule rule = {.backend = o->backend};
    TRY(check_options(o, err));
    TRY(parse_labels(a, err));
    TRY(parse_relabel(a, err));
    TRY(open_paths(a, err));
    TRY(threads_open(&a->threads, (int)o->threads, err));
    TRY(predict_open(&a->parent, o->from, &rule, a->threads, err));
    if (predict_is_blob(a->parent))
        return err_set(err, ERR_ARGUMENT,
                       "--from: %s is an exported file, which cannot be trained: expected its run folder",
                       o->from);
    TRY(check_apart(a, err));
    TRY(check_layers(a, err));
    TRY(begin(a, err));
    const ErrCode ready =
        o->resume && file_exists(a->start) ? add_start_read(a, a->start, err) : add_start_prepare(a, err);
    if (ready != ERR_OK) {
        const ErrCode rc = file_remove_dir(a->grown, NULL); /* behind a failure, which is the one to tell */
        (void)rc;
        return ready;
    }
    TRY(open_held_out(a, err));
    TRY(add_start_facts(a, err));
    TRY(add_train_run(a, err));
    const ErrCode kept =
        add_calibrate_run(a, err); /* ERR_GATE, a policy that cannot be kept, is told behind the report */
    if (kept != ERR_OK && kept != ERR_GATE) return kept;
    TRY(predict_open(&a->child, o->out, &rule, a->threads, err));
    if (o->head_only) a->report.steps = 0;
    if (!o->resume) a->report.seconds = progress_clock() - a->started;
    TRY(measure(a, err));
    TRY(print(a, out, err));
    if (kept != ERR_OK) return kept;
    if (add_report_passed(&a->report)) return ERR_OK;
    return err_set(
        err, ERR_GATE,
        "the old labels lost %.2f points of accuracy, more than --max-regression %g: %s stays in place",
        add_report_regression(&a->report), o->max_regression, o->from);
}

ErrCode add_domain_run(const AddDomainOptions *options, FILE *out, Err *err) {
    AddJob a = {.o = options, .started = progress_clock()};
    progress_quiet(options->quiet);
    const ErrCode rc = run(&a, out, err);
    close_all(&a);
    return rc;
}
