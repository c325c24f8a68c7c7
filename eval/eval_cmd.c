#include "eval/eval_cmd.h"

#include <errno.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/text.h"
#include "core/threads.h"
#include "data/ngram.h"
#include "data/shard.h"
#include "data/split.h"
#include "eval/metrics.h"
#include "eval/predict.h"
#include "eval/report.h"
#include "eval/rows.h"

typedef struct {
    FlagList data, train_data, filter;
    char *split, *set, *text_field, *label_field, *map_field, *label_map;
    char *out, *predictions, *backend;
    bool skip_unknown, baselines, json, quiet;
    int64_t seed, threads, batch, max_length;
} Options;

/* Everything of one evaluation; freed by close_all. */
typedef struct {
    const Options *options;
    Threads *threads;
    Predictor *predictor;
    cJSON *map;
    Buf set;
    Rows rows, train;
    RowText *texts, *train_texts;
    int *labels, *train_labels;
    double *p, *other; /* (n, K): of the router; of a baseline */
    PredictSeen *seen;
    Report report;
} Eval;

static void close_all(Eval *e) {
    report_free(&e->report);
    mem_free(e->texts);
    mem_free(e->train_texts);
    mem_free(e->labels);
    mem_free(e->train_labels);
    mem_free(e->p);
    mem_free(e->other);
    mem_free(e->seen);
    rows_free(&e->rows);
    rows_free(&e->train);
    buf_free(&e->set);
    cJSON_Delete(e->map);
    predict_close(e->predictor);
    threads_close(e->threads);
}

/* ---- rows ---- */

static ErrCode split_of_flag(Split *out, const char *name, Split initial, Err *err) {
    *out = name ? split_find(name) : initial;
    if (name && strcmp(name, "all") == 0) return ERR_OK;
    if (name && *out == SPLIT_COUNT)
        return err_set(err, ERR_ARGUMENT,
                       "split: found '%s', expected train, dev, calibration, test or (with --data) all",
                       name);
    return ERR_OK;
}

static ErrCode read_shard(Rows *rows, const char *path, Split split, bool skip_unknown, const Predictor *p,
                          Err *err) {
    Shard *shard = NULL;
    TRY(shard_open(&shard, path, err));
    const ErrCode rc =
        rows_read_shard(rows, shard, split, skip_unknown, predict_labels(p), predict_classes(p), err);
    shard_close(shard);
    return rc;
}

static ErrCode read_rows(Eval *e, const FlagList *arguments, Err *err) {
    const Options *o = e->options;
    const char *shard = predict_shard(e->predictor);
    const size_t files = o->data.count + arguments->count - 1;
    Split split;
    if (files == 0) {
        if (!shard)
            return err_set(err, ERR_ARGUMENT,
                           "%s: no run folder with a data.shard: give the rows with --data FILE",
                           arguments->items[0]);
        if (o->filter.count || o->map_field)
            return err_set(err, ERR_ARGUMENT,
                           "--filter and --map-field need --data: a shard keeps no other members");
        TRY(split_of_flag(&split, o->split, SPLIT_TEST, err));
        if (split == SPLIT_COUNT) return err_set(err, ERR_ARGUMENT, "split: all needs --data");
        buf_printf(&e->set, "%s (%s)", shard, split_name(split));
        return read_shard(&e->rows, shard, split, o->skip_unknown, e->predictor, err);
    }
    RowsRule rule = {.record = {.text_field = o->text_field, .label_field = o->label_field},
                     .map_field = o->map_field,
                     .label_map = e->map,
                     .filters = o->filter,
                     .skip_unknown = o->skip_unknown};
    TRY(split_of_flag(&rule.split, o->split, SPLIT_COUNT, err));
    for (size_t i = 0; i < files; i++) {
        const char *path = i < o->data.count ? o->data.items[i] : arguments->items[1 + i - o->data.count];
        TRY(rows_read(&e->rows, path, &rule, predict_labels(e->predictor), predict_classes(e->predictor),
                      err));
        buf_printf(&e->set, "%s%s", i ? ", " : "", path);
    }
    for (size_t i = 0; i < o->filter.count; i++)
        buf_printf(&e->set, "%s%s", i ? ", " : " (", o->filter.items[i]);
    if (o->filter.count) buf_puts(&e->set, ")");
    if (rule.split != SPLIT_COUNT) buf_printf(&e->set, " (%s)", split_name(rule.split));
    return ERR_OK;
}

static ErrCode read_train(Eval *e, const char *model, Err *err) {
    const Options *o = e->options;
    const char *shard = predict_shard(e->predictor);
    if (o->train_data.count == 0) {
        if (!shard)
            return err_set(err, ERR_ARGUMENT,
                           "%s: no run folder with a data.shard: give the baselines' training rows with "
                           "--train-data FILE, or leave them out with --no-baselines",
                           model);
        TRY(read_shard(&e->train, shard, SPLIT_TRAIN, true, e->predictor, err));
    }
    const RowsRule rule = {.record = {.text_field = o->text_field, .label_field = o->label_field},
                           .split = SPLIT_TRAIN,
                           .split_default = true,
                           .skip_unknown = o->skip_unknown};
    for (size_t i = 0; i < o->train_data.count; i++)
        TRY(rows_read(&e->train, o->train_data.items[i], &rule, predict_labels(e->predictor),
                      predict_classes(e->predictor), err));
    if (e->train.count == 0) return err_set(err, ERR_ARGUMENT, "no training rows for the baselines");
    return rows_views(&e->train_texts, &e->train_labels, &e->train, err);
}

/* ---- numbers ---- */

static ErrCode measure(Metrics *out, const Eval *e, const double *p, Err *err) {
    return metrics_compute(out, p, e->labels, e->rows.count, predict_classes(e->predictor), 0,
                           (uint64_t)e->options->seed, e->threads, err);
}

/* The majority class's probabilities are the shares of the training rows. */
static ErrCode majority_baseline(Eval *e, Err *err) {
    const size_t K = (size_t)predict_classes(e->predictor);
    double *share;
    TRY(mem_new(&share, K, sizeof *share, "class shares", err));
    for (size_t i = 0; i < e->train.count; i++) share[e->train_labels[i]] += 1 / (double)e->train.count;
    for (size_t i = 0; i < e->rows.count; i++) memcpy(e->other + i * K, share, K * sizeof *share);
    e->report.majority_label = metrics_best(share, (int)K);
    mem_free(share);
    return measure(&e->report.majority, e, e->other, err);
}

static ErrCode ngram_baseline(Eval *e, Err *err) {
    const NgramRule rule = {.seed = (uint64_t)e->options->seed};
    Ngram *ngram = NULL;
    ErrCode rc = ngram_train(&ngram, e->train_texts, e->train_labels, e->train.count,
                             predict_classes(e->predictor), &rule, e->threads, err);
    if (rc == ERR_OK) rc = ngram_predict(ngram, e->other, e->texts, e->rows.count, e->threads, err);
    if (rc == ERR_OK) rc = measure(&e->report.ngram, e, e->other, err);
    ngram_free(ngram);
    return rc;
}

/* Metrics of each source, from the probabilities of its rows copied together. e->other holds the n-gram's. */
static ErrCode measure_sources(Eval *e, Err *err) {
    const size_t K = (size_t)predict_classes(e->predictor), sources = e->rows.sources.count;
    if (sources == 0) return ERR_OK;
    double *p = NULL;
    int *labels = NULL;
    ErrCode rc = mem_new(&e->report.sources, sources, sizeof *e->report.sources, "the sources", err);
    if (rc == ERR_OK) rc = mem_new(&p, e->rows.count * K, sizeof *p, "a source's rows", err);
    if (rc == ERR_OK) rc = mem_new(&labels, e->rows.count, sizeof *labels, "a source's rows", err);
    for (size_t s = 0; rc == ERR_OK && s < sources; s++) {
        size_t n = 0, ngram_hits = 0;
        for (size_t i = 0; i < e->rows.count; i++) {
            if (e->rows.items[i].source != (int)s) continue;
            memcpy(p + n * K, e->p + i * K, K * sizeof *p);
            labels[n++] = e->labels[i];
            if (e->train.count) ngram_hits += metrics_best(e->other + i * K, (int)K) == e->labels[i];
        }
        if (n == 0) continue;
        ReportSource *out = &e->report.sources[e->report.source_count++];
        out->name = e->rows.sources.items[s];
        out->ngram_accuracy = e->train.count ? (double)ngram_hits / (double)n : -1;
        rc = metrics_compute(&out->metrics, p, labels, n, (int)K, 1, 0, NULL, err);
    }
    mem_free(p);
    mem_free(labels);
    return rc;
}

/* ---- output ---- */

static void put_prediction(Buf *out, const Eval *e, size_t i) {
    const int K = predict_classes(e->predictor);
    const char *const *labels = predict_labels(e->predictor);
    const double *p = e->p + i * (size_t)K;
    const int best = metrics_best(p, K), source = e->rows.items[i].source;
    char excerpt[84];
    const char *id = rows_id(&e->rows, i);
    buf_puts(out, "{\"id\": ");
    text_put_json(out, id, strlen(id));
    if (source >= 0) {
        buf_puts(out, ", \"source\": ");
        text_put_json(out, e->rows.sources.items[source], strlen(e->rows.sources.items[source]));
    }
    buf_puts(out, ", \"label\": ");
    text_put_json(out, labels[e->labels[i]], strlen(labels[e->labels[i]]));
    buf_puts(out, ", \"predicted\": ");
    text_put_json(out, labels[best], strlen(labels[best]));
    buf_printf(out, ", \"score\": %.6g, \"probabilities\": [", p[best]);
    for (int k = 0; k < K; k++) buf_printf(out, "%s%.6g", k ? ", " : "", p[k]);
    text_excerpt(excerpt, 80, e->texts[i].text, e->texts[i].n);
    buf_puts(out, "], \"text\": ");
    text_put_json(out, excerpt, strlen(excerpt));
    buf_puts(out, "}\n");
}

static ErrCode save_predictions(const Eval *e, const char *path, Err *err) {
    FileWriter writer = {0};
    Buf line = {0};
    ErrCode rc = file_create(&writer, path, err);
    for (size_t i = 0; rc == ERR_OK && i < e->rows.count; i++) {
        buf_clear(&line);
        put_prediction(&line, e, i);
        rc = buf_ok(&line, err);
        if (rc == ERR_OK) file_write(&writer, line.data, line.len);
    }
    if (rc == ERR_OK) rc = file_commit(&writer, err);
    file_abort(&writer);
    buf_free(&line);
    return rc;
}

static ErrCode save_json(const Buf *json, const char *path, Err *err) {
    const size_t n = strlen(path);
    if (n == 0) return err_set(err, ERR_ARGUMENT, "out: an empty path");
    if (path[n - 1] != '/' && !file_is_dir(path)) return file_save(path, json->data, json->len, err);
    TRY(file_mkdirs(path, err));
    char *inside = file_join(path, "eval.json");
    if (!inside) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const ErrCode rc = file_save(inside, json->data, json->len, err);
    mem_free(inside);
    return rc;
}

static ErrCode write_report(const Eval *e, FILE *out, Err *err) {
    const Options *o = e->options;
    Buf json = {0}, table = {0};
    report_json(&json, &e->report);
    report_table(&table, &e->report);
    const Buf *shown = o->json ? &json : &table;
    ErrCode rc = buf_ok(&json, err);
    if (rc == ERR_OK) rc = buf_ok(&table, err);
    if (rc == ERR_OK && o->out) rc = save_json(&json, o->out, err);
    if (rc == ERR_OK && o->predictions) rc = save_predictions(e, o->predictions, err);
    if (rc == ERR_OK && fwrite(shown->data, 1, shown->len, out) != shown->len)
        rc = err_set(err, ERR_IO, "stdout: error %d while writing the report", errno);
    buf_free(&json);
    buf_free(&table);
    return rc;
}

/* ---- the command ---- */

static ErrCode open_all(Eval *e, const FlagList *arguments, Err *err) {
    const Options *o = e->options;
    if (!o->map_field != !o->label_map)
        return err_set(err, ERR_ARGUMENT, "--label-map and --map-field belong together: give both");
    if (o->label_map) TRY(rows_label_map(&e->map, o->label_map, err));
    TRY(threads_open(&e->threads, (int)o->threads, err));
    const PredictRule rule = {
        .backend = o->backend, .max_tokens = (int)o->max_length, .batch_rows = (int)o->batch};
    TRY(predict_open(&e->predictor, arguments->items[0], &rule, e->threads, err));
    TRY(read_rows(e, arguments, err));
    TRY(buf_ok(&e->set, err));
    if (e->rows.count == 0)
        return err_set(err, ERR_ARGUMENT, "%s: no rows to evaluate (%llu filtered, %llu with unknown labels)",
                       e->set.data, (unsigned long long)e->rows.filtered,
                       (unsigned long long)e->rows.skipped);
    if (o->baselines) TRY(read_train(e, arguments->items[0], err));
    TRY(rows_views(&e->texts, &e->labels, &e->rows, err));
    const size_t K = (size_t)predict_classes(e->predictor);
    TRY(mem_new(&e->p, e->rows.count * K, sizeof *e->p, "probabilities", err));
    TRY(mem_new(&e->other, o->baselines ? e->rows.count * K : 1, sizeof *e->other, "probabilities", err));
    return mem_new(&e->seen, e->rows.count, sizeof *e->seen, "token counts", err);
}

static ErrCode evaluate(Eval *e, const char *model, Err *err) {
    const Options *o = e->options;
    Report *r = &e->report;
    r->set = o->set ? o->set : e->set.data;
    r->model = model;
    r->labels = predict_labels(e->predictor);
    r->skipped = e->rows.skipped;
    r->train_n = e->train.count;
    TRY(predict_all(e->predictor, e->p, e->seen, e->texts, e->rows.count, "eval", err));
    for (size_t i = 0; i < e->rows.count; i++) r->truncated += e->seen[i].truncated;
    TRY(measure(&r->router, e, e->p, err));
    if (o->baselines) {
        TRY(majority_baseline(e, err));
        TRY(ngram_baseline(e, err));
    }
    return measure_sources(e, err);
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Eval e = {.options = options};
    progress_quiet(e.options->quiet);
    ErrCode rc = open_all(&e, arguments, err);
    if (rc == ERR_OK) rc = evaluate(&e, arguments->items[0], err);
    if (rc == ERR_OK) rc = write_report(&e, out, err);
    close_all(&e);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    {"data", NULL, FLAG_LIST, AT(data), NULL, 0, 0, "FILE",
     "#Rows\nJSONL file with labelled rows (.gz, .zst, or - for stdin)."},
    {"split", NULL, FLAG_STRING, AT(split), NULL, 0, 0, "NAME",
     "Split to evaluate: test in a run folder's shard; with --data all rows, unless a split is named."},
    {"filter", NULL, FLAG_LIST, AT(filter), NULL, 0, 0, "KEY=VALUE",
     "Only rows of --data whose JSON member KEY is VALUE."},
    {"text_field", NULL, FLAG_STRING, AT(text_field), NULL, 0, 0, "NAME",
     "Member with the text, where it is not one of the usual names."},
    {"label_field", NULL, FLAG_STRING, AT(label_field), NULL, 0, 0, "NAME",
     "Member with the label, where it is not one of the usual names."},
    {"map_field", NULL, FLAG_STRING, AT(map_field), NULL, 0, 0, "NAME",
     "Take the label from the label map, by the value of this member."},
    {"label_map", NULL, FLAG_STRING, AT(label_map), NULL, 0, 0, "FILE",
     "JSON object from values of --map-field to labels."},
    {"skip_unknown", NULL, FLAG_BOOL, AT(skip_unknown), NULL, 0, 0, NULL,
     "Leave out (and count) rows whose label the router does not know, instead of stopping."},
    {"baselines", NULL, FLAG_BOOL, AT(baselines), "true", 0, 0, NULL,
     "#Baselines\nCompare with the majority class and an n-gram model trained on the same rows."},
    {"train_data", NULL, FLAG_LIST, AT(train_data), NULL, 0, 0, "FILE",
     "The baselines' training rows (those of split train, or without a split); default: the run folder's."},
    {"seed", NULL, FLAG_INT, AT(seed), "0", 0, 9e15, NULL, "Seed of the bootstrap and the n-gram baseline."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "PATH",
     "#Output\nWrite the report as JSON to this file (in a folder: eval.json)."},
    {"predictions", NULL, FLAG_STRING, AT(predictions), NULL, 0, 0, "FILE",
     "Write one JSON line per row: id, label, predicted, probabilities, beginning of the text."},
    {"set", NULL, FLAG_STRING, AT(set), NULL, 0, 0, "NAME",
     "Name of the set in the report; default: the files."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    {"max_length", "max_seq_length", FLAG_INT, AT(max_length), "0", 0, 65536, NULL,
     "#Model\nTokens at which a folder's texts are cut; 0: the model's own rule."},
    {"backend", NULL, FLAG_STRING, AT(backend), NULL, 0, 0, "NAME",
     "Backend for a folder, in fp32: auto (the default), x86, blas or ref."},
    {"batch", "batch_size", FLAG_INT, AT(batch), "256", 1, 65536, NULL, "Rows handed to the model at once."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL, "Threads; 0: one per CPU."},
    {"quiet", NULL, FLAG_BOOL, AT(quiet), NULL, 0, 0, NULL, "No progress."},
};

const Command eval_cmd = {
    .name = "eval",
    .summary = "measure a router on labelled rows, beside two baselines",
    .usage = "eval MODEL [DATA...] [OPTIONS]",
    .details =
        "MODEL is a run folder (its test split is evaluated), a Hugging Face folder or an exported file.\n"
        "Reported are accuracy, macro F1, NLL, Brier score and calibration error (ECE) with 95 % intervals,\n"
        "precision, recall and F1 of each class, the confusion matrix, and each source's accuracy. A run\n"
        "folder's baselines learn from its train split.\n\n"
        "Examples:\n"
        "  router eval runs/first\n"
        "  router eval runs/first --data new.jsonl --json\n"
        "  router eval runs/first --data mmlu.jsonl.zst --filter split=test \\\n"
        "         --map-field subject --label-map mmlu_domains.json\n"
        "  router eval router.safetensors --data test.jsonl --train-data train.jsonl\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 100000,
    .takes_config = true,
    .run = run,
};
