#include "eval/eval_cmd.h"

#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/ngram.h"
#include "data/script.h"
#include "eval/curves.h"
#include "eval/folds.h"
#include "eval/head_fit.h"
#include "eval/held_out.h"
#include "eval/listing.h"
#include "eval/metrics.h"
#include "eval/page.h"
#include "eval/predict.h"
#include "eval/provenance.h"
#include "eval/report.h"
#include "eval/robust.h"
#include "eval/rowset.h"
#include "eval/slices.h"
#include "train/card.h"

typedef struct {
    RowsetOptions rows;
    FlagList train_data, slice, also;
    char *set, *out, *predictions, *report, *system, *suspects;
    bool with_choices, baselines, robust, card, json;
    int64_t robust_rows, mistakes, seed, folds;
    PredictOptions model;
} Options;

/* What is sliced by: a member of the rows, or what is computed of them. */
enum { SLICE_SOURCE, SLICE_LENGTH, SLICE_CHARACTERS, SLICE_SCRIPT, SLICE_MEMBER };
static const char *const SLICE_NAMES[SLICE_MEMBER] = {"source", "length", "characters", "script"};

/* Everything of one evaluation; freed by close_all. */
typedef struct {
    const Options *options;
    Threads *threads;
    Predictor *predictor;
    cJSON *map_file, *provenance;
    FlagList files, slices, members; /* read; sliced by; of these the rows' own members */
    Rowset set, train, all; /* measured; for the baselines; of all splits, where suspects are among those */
    float *logits;          /* (n, K) */
    double *p, *other;      /* (n, K): of the router; of a baseline */
    double *score;          /* (n): of the decision */
    bool *abstained;        /* (n) */
    PredictSeen *seen;
    float *vectors; /* (n, width), or NULL: in front of the classifier, where the folds need them */
    Report report;
} Eval;

static void close_all(Eval *e) {
    report_free(&e->report);
    mem_free(e->logits);
    mem_free(e->p);
    mem_free(e->other);
    mem_free(e->score);
    mem_free(e->abstained);
    mem_free(e->seen);
    mem_free(e->vectors);
    rowset_free(&e->set);
    rowset_free(&e->train);
    rowset_free(&e->all);
    cJSON_Delete(e->map_file);
    cJSON_Delete(e->provenance);
    flags_list_free(&e->files);
    flags_list_free(&e->slices);
    flags_list_free(&e->members);
    predict_close(e->predictor);
    threads_close(e->threads);
}

/* ---- slices ---- */

static int slice_kind(const char *key) {
    for (int i = 0; i < SLICE_MEMBER; i++)
        if (strcmp(key, SLICE_NAMES[i]) == 0) return i;
    return SLICE_MEMBER;
}

static bool listed(const FlagList *list, const char *text) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], text) == 0) return true;
    return false;
}

/* Those asked for, and what the label map maps. */
static ErrCode plan_slices(Eval *e, Err *err) {
    const Options *o = e->options;
    for (size_t i = 0; i <= o->slice.count; i++) {
        const char *key = i < o->slice.count ? o->slice.items[i] : o->rows.map_field;
        if (!key || listed(&e->slices, key)) continue;
        TRY(flags_list_add(&e->slices, key, strlen(key), err));
        if (slice_kind(key) == SLICE_MEMBER) TRY(flags_list_add(&e->members, key, strlen(key), err));
    }
    if (e->members.count > ROWS_MEMBERS_MAX)
        return err_set(err, ERR_ARGUMENT, "--slice: found %zu members, expected at most %d", e->members.count,
                       ROWS_MEMBERS_MAX);
    return ERR_OK;
}

static void group_rows(int *group, const Eval *e, int kind, size_t member) {
    Language language;
    for (size_t i = 0; i < e->set.rows.count; i++) {
        switch (kind) {
            case SLICE_SOURCE: group[i] = e->set.rows.items[i].source; break;
            case SLICE_LENGTH: group[i] = slices_tokens(e->seen[i].tokens); break;
            case SLICE_CHARACTERS: group[i] = slices_characters(e->set.texts[i]); break;
            case SLICE_SCRIPT:
                group[i] = (int)script_of(&language, e->set.texts[i].text, e->set.texts[i].n);
                break;
            default: group[i] = rows_tag(&e->set.rows, i, member);
        }
    }
}

/* e->other holds the n-gram's probabilities. */
static ErrCode slice_by(Slices *out, const Eval *e, const char *key, int *group, Err *err) {
    const int kind = slice_kind(key);
    size_t member = 0;
    while (kind == SLICE_MEMBER && strcmp(e->members.items[member], key) != 0) member++;
    group_rows(group, e, kind, member);
    const char *scripts[SCRIPT_COUNT];
    for (Script i = 0; i < SCRIPT_COUNT; i++) scripts[i] = script_name(i);
    const struct {
        const char *const *names;
        size_t count;
    } ALL[] = {{(const char *const *)e->set.rows.sources.items, e->set.rows.sources.count},
               {SLICES_TOKENS, SLICES_LENGTHS},
               {SLICES_CHARACTERS, SLICES_LENGTHS},
               {scripts, SCRIPT_COUNT},
               {(const char *const *)e->set.rows.values[member].items, e->set.rows.values[member].count}};
    const SlicesRows rows = {.p = e->p,
                             .baseline = e->train.rows.count ? e->other : NULL,
                             .labels = e->set.labels,
                             .n = e->set.rows.count,
                             .K = predict_classes(e->predictor)};
    return slices_compute(out, key, ALL[kind].names, ALL[kind].count, group, &rows, err);
}

static ErrCode measure_slices(Eval *e, Err *err) {
    Report *r = &e->report;
    int *group;
    TRY(mem_new(&group, e->set.rows.count, sizeof *group, "the slices", err));
    ErrCode rc = slice_by(&r->sources, e, "source", group, err);
    if (rc == ERR_OK) rc = mem_new(&r->slices, e->slices.count + 1, sizeof *r->slices, "the slices", err);
    for (size_t i = 0; rc == ERR_OK && i < e->slices.count; i++) {
        rc = slice_by(&r->slices[i], e, e->slices.items[i], group, err);
        r->slice_count += rc == ERR_OK;
    }
    mem_free(group);
    return rc;
}

/* ---- rows ---- */

/* Those of --data, then of the arguments; else the test split of a run folder. */
static ErrCode read_rows(Eval *e, const FlagList *arguments, Err *err) {
    const Options *o = e->options;
    for (size_t i = 0; i < o->rows.data.count; i++)
        TRY(flags_list_add(&e->files, o->rows.data.items[i], strlen(o->rows.data.items[i]), err));
    for (size_t i = 1; i < arguments->count; i++)
        TRY(flags_list_add(&e->files, arguments->items[i], strlen(arguments->items[i]), err));
    const RowsetRule rule = {.model = arguments->items[0],
                             .shard = predict_shard(e->predictor),
                             .files = &e->files,
                             .members = &e->members,
                             .with_choices = o->with_choices};
    TRY(rowset_open(&e->set, &o->rows, &rule, predict_labels(e->predictor), predict_classes(e->predictor),
                    err));
    for (size_t m = 0; m < e->members.count; m++)
        if (e->set.rows.values[m].count == 0)
            return err_set(
                err, ERR_ARGUMENT,
                "--slice: no row has a value of '%s'; expected a member of the rows, source, length, "
                "characters or script",
                e->members.items[m]);
    return ERR_OK;
}

/* Labels are the rows' own: the label map is for what is measured. */
static ErrCode read_train(Eval *e, const char *model, Err *err) {
    const FlagList *data = &e->options->train_data;
    const char *shard = predict_shard(e->predictor);
    RowsetOptions rows = e->options->rows;
    rows.map_field = rows.label_map = NULL;
    rows.remap = (FlagList){0};
    if (data->count == 0) rows.skip_unknown = true;
    if (data->count == 0 && !shard)
        return err_set(err, ERR_ARGUMENT,
                       "%s: no run folder with a data.shard: give the baselines' training rows with "
                       "--train-data FILE, or leave them out with --no-baselines",
                       model);
    return rowset_open_chosen(&e->train, &rows, data, "train", shard, predict_labels(e->predictor),
                              predict_classes(e->predictor), err);
}

/* ---- numbers ---- */

static ErrCode measure(Metrics *out, const Eval *e, const double *p, Err *err) {
    return metrics_compute(out, p, e->set.labels, e->set.rows.count, predict_classes(e->predictor), 0,
                           (uint64_t)e->options->seed, e->threads, err);
}

/* The majority class's probabilities are the shares of the training rows. */
static ErrCode majority_baseline(Eval *e, Err *err) {
    const size_t K = (size_t)predict_classes(e->predictor);
    double *share;
    TRY(mem_new(&share, K, sizeof *share, "class shares", err));
    for (size_t i = 0; i < e->train.rows.count; i++)
        share[e->train.labels[i]] += 1 / (double)e->train.rows.count;
    for (size_t i = 0; i < e->set.rows.count; i++) memcpy(e->other + i * K, share, K * sizeof *share);
    e->report.majority_label = metrics_best(share, (int)K);
    mem_free(share);
    return measure(&e->report.majority, e, e->other, err);
}

static ErrCode ngram_baseline(Eval *e, Err *err) {
    const NgramRule rule = {.seed = (uint64_t)e->options->seed};
    Ngram *ngram = NULL;
    ErrCode rc = ngram_train(&ngram, e->train.texts, e->train.labels, e->train.rows.count,
                             predict_classes(e->predictor), &rule, e->threads, err);
    if (rc == ERR_OK) rc = ngram_predict(ngram, e->other, e->set.texts, e->set.rows.count, e->threads, err);
    if (rc == ERR_OK) rc = measure(&e->report.ngram, e, e->other, err);
    ngram_free(ngram);
    return rc;
}

static ErrCode measure_decisions(Eval *e, Err *err) {
    Report *r = &e->report;
    const DecideRule *rule = predict_rule(e->predictor);
    const size_t n = e->set.rows.count, K = (size_t)predict_classes(e->predictor);
    int *said = NULL;
    float *score = NULL;
    bool *right = NULL;
    ErrCode rc = mem_new(&said, n, sizeof *said, "the decisions", err);
    if (rc == ERR_OK) rc = mem_new(&score, n, sizeof *score, "the decisions", err);
    if (rc == ERR_OK) rc = mem_new(&right, n, sizeof *right, "the decisions", err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        const DecideAnswer answer = decide(e->p + i * K, e->logits + i * K, (int)K, rule);
        said[i] = answer.label;
        score[i] = answer.score;
        e->score[i] = (double)answer.score;
        e->abstained[i] = answer.abstained;
        right[i] = answer.label == e->set.labels[i];
    }
    const char *name = decide_score_name(rule->score == DECIDE_ALWAYS ? DECIDE_MAX_PROBABILITY : rule->score);
    if (rc == ERR_OK) rc = curves_risk(&r->risk, name, e->score, right, n, err);
    if (rc == ERR_OK && rule->score != DECIDE_ALWAYS) {
        const Policy none = {0};
        const PolicyRows rows = {.truth = e->set.labels, .label = said, .score = score, .n = n, .K = (int)K};
        r->outcome = policy_measure(rule, &none, &rows);
    }
    mem_free(said);
    mem_free(score);
    mem_free(right);
    return rc;
}

/* What the same logits say without the router's own calibration; e->other is scratch. */
static ErrCode measure_uncalibrated(Eval *e, Err *err) {
    Report *r = &e->report;
    const DecideRule *rule = predict_rule(e->predictor);
    const int K = predict_classes(e->predictor);
    if (rule->temperature == 1.0F && !rule->vector) return ERR_OK;
    const DecideRule plain = {.temperature = 1};
    for (size_t i = 0; i < e->set.rows.count; i++)
        (void)decide_probabilities(e->other + i * (size_t)K, e->logits + i * (size_t)K, K, &plain);
    curves_reliability(&r->reliability_before, e->other, e->set.labels, e->set.rows.count, K);
    return measure(&r->uncalibrated, e, e->other, err);
}

/* ---- labels that may be wrong ---- */

/* Of the rows that are measured, with the router's own answers. */
static Listing listing_of(const Eval *e) {
    const DecideRule *rule = predict_rule(e->predictor);
    return (Listing){.rows = &e->set.rows,
                     .texts = e->set.texts,
                     .label = e->set.labels,
                     .p = e->p,
                     .abstained = rule->score == DECIDE_ALWAYS ? NULL : e->abstained,
                     .labels = predict_labels(e->predictor),
                     .K = predict_classes(e->predictor)};
}

/* Among which suspects are looked for. */
static const Rowset *doubted(const Eval *e) {
    return e->all.rows.count ? &e->all : &e->set;
}

/* A router agrees with what it was taught: rows of its training are refused unless they were asked for by name, or heads
 * are fitted that did not see them. */
static ErrCode check_held_out(Eval *e, Err *err) {
    const Options *o = e->options;
    const Rowset *set = doubted(e);
    const char *shard = predict_shard(e->predictor);
    uint64_t known = set->rows.train;
    size_t first = 0;
    if (!o->suspects) return ERR_OK;
    if (shard && !known) TRY(held_out_check(&known, &first, shard, set->texts, set->rows.count, err));
    e->report.held_out = known ? REPORT_TRAINED : shard ? REPORT_HELD_OUT : REPORT_UNKNOWN;
    e->report.trained = known;
    if (known == 0 || o->folds) return ERR_OK;
    if (o->rows.split && strcmp(o->rows.split, "train") == 0) {
        progress_note(
            NULL,
            "warning: %llu of %zu rows are of the training split: the router has learnt their labels, "
            "right or wrong, and doubts too few of them",
            (unsigned long long)known, e->set.rows.count);
        return ERR_OK;
    }
    if (e->set.rows.train)
        return err_set(err, ERR_ARGUMENT,
                       "--suspects: %llu of %zu rows are of the training split, whose labels the router has "
                       "learnt, right or wrong: name another with --split, or train with --split train",
                       (unsigned long long)known, e->set.rows.count);
    return err_set(
        err, ERR_ARGUMENT,
        "--suspects: %llu of %zu rows (the first: %.100s) are in %s as training rows, whose labels the "
        "router has learnt, right or wrong: leave them out, or name them with --split train",
        (unsigned long long)known, e->set.rows.count, rows_id(&e->set.rows, first), shard);
}

/* Probabilities (n, K) of the doubted rows by heads that are fitted to the other folds. */
static ErrCode cross_validate(double *p, Eval *e, uint8_t *folds, Err *err) {
    const Options *o = e->options;
    const Rowset *set = doubted(e);
    const HeadFitRows rows = {.vectors = e->vectors,
                              .labels = set->labels,
                              .n = set->rows.count,
                              .H = predict_width(e->predictor),
                              .K = predict_classes(e->predictor)};
    const HeadFitRule rule = {.lambda = HEAD_FIT_FOLDS_LAMBDA, .relative = true};
    TRY(folds_assign(folds, set->texts, set->rows.count, (int)o->folds, (uint64_t)o->seed, e->threads, err));
    return head_fit_folds(p, &rows, &rule, folds, (int)o->folds, e->threads, err);
}

/* Vectors of rows that are not those measured; their logits are not asked for. */
static ErrCode encode_all(Eval *e, Err *err) {
    const size_t n = e->all.rows.count;
    float *logits = NULL;
    ErrCode rc = mem_new(&logits, n, (size_t)predict_classes(e->predictor) * sizeof *logits, "logits", err);
    if (rc == ERR_OK)
        rc = predict_all_logits(e->predictor, logits, e->vectors, NULL, e->all.texts, n, "vectors", err);
    mem_free(logits);
    return rc;
}

static ErrCode find_suspects(Eval *e, Err *err) {
    const Options *o = e->options;
    const Rowset *set = doubted(e);
    const size_t n = set->rows.count, K = (size_t)predict_classes(e->predictor);
    Listing listing = listing_of(e);
    double *p = NULL;
    uint8_t *folds = NULL;
    ErrCode rc = ERR_OK;
    if (o->folds) {
        rc = mem_new(&p, n, K * sizeof *p, "probabilities", err);
        if (rc == ERR_OK) rc = mem_new(&folds, n, sizeof *folds, "the folds", err);
        if (rc == ERR_OK && set == &e->all) rc = encode_all(e, err);
        if (rc == ERR_OK) rc = cross_validate(p, e, folds, err);
        if (rc == ERR_INTERRUPTED) rc = err_context(err, rc, "--folds");
        listing.rows = &set->rows;
        listing.texts = set->texts;
        listing.label = set->labels;
        listing.p = p;
        listing.abstained = NULL;
    }
    if (rc == ERR_OK) rc = listing_suspects(&e->report.suspects, &listing, o->suspects, err);
    e->report.suspects_path = o->suspects;
    e->report.suspects_set = set->name.data;
    e->report.folds = (int)o->folds;
    mem_free(p);
    mem_free(folds);
    return rc;
}

/* ---- output ---- */

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

static ErrCode attach(cJSON *to, const char *key, cJSON *item, Err *err) {
    if (item && cJSON_AddItemToObject(to, key, item)) return ERR_OK;
    cJSON_Delete(item);
    return err_set(err, ERR_MEMORY, "out of memory for the report");
}

/* The tree of the JSON report, and what only the page shows. */
static ErrCode full_report(cJSON **out, const Eval *e, const Buf *json, const char *model, Err *err) {
    const Options *o = e->options;
    const Listing listing = listing_of(e);
    cJSON *root, *item = NULL, *also = NULL;
    *out = NULL;
    TRY(json_parse(&root, json->data, json->len, err));
    ErrCode rc = listing_mistakes(&item, &listing, (size_t)o->mistakes, err);
    if (rc == ERR_OK) rc = attach(root, "mistakes", item, err);
    if (rc == ERR_OK) rc = provenance_training(&item, model, err);
    if (rc == ERR_OK) rc = attach(root, "training", item ? item : cJSON_CreateNull(), err);
    item = NULL;
    if (rc == ERR_OK && o->system) rc = json_read(&item, o->system, err);
    if (rc == ERR_OK) rc = attach(root, "system", item ? item : cJSON_CreateNull(), err);
    if (rc == ERR_OK) rc = attach(root, "also", also = cJSON_CreateArray(), err);
    for (size_t i = 0; rc == ERR_OK && i < o->also.count; i++) {
        rc = json_read(&item, o->also.items[i], err);
        if (rc != ERR_OK) break;
        rc = page_check(item, err);
        if (rc != ERR_OK) rc = err_context(err, rc, "%s", o->also.items[i]);
        if (rc == ERR_OK && cJSON_AddItemToArray(also, item)) continue;
        cJSON_Delete(item);
        if (rc == ERR_OK) rc = err_set(err, ERR_MEMORY, "out of memory for the report");
    }
    if (rc == ERR_OK)
        *out = root;
    else
        cJSON_Delete(root);
    return rc;
}

/* The page, and beside it the JSON that it shows: FILE.html and FILE.json. */
static ErrCode save_page(const cJSON *tree, const char *path, Err *err) {
    const size_t n = strlen(path), stem = n > 5 && strcmp(path + n - 5, ".html") == 0 ? n - 5 : n;
    Buf page = {0}, name = {0};
    page_put(&page, tree);
    buf_put(&name, path, stem);
    buf_puts(&name, ".json");
    ErrCode rc = buf_ok(&page, err);
    if (rc == ERR_OK) rc = buf_ok(&name, err);
    if (rc == ERR_OK) rc = json_save(name.data, tree, err);
    if (rc == ERR_OK) rc = file_save(path, page.data, page.len, err);
    buf_free(&page);
    buf_free(&name);
    return rc;
}

static double share(const cJSON *report, const char *key, const char *part) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(report, key), part);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static CardResult card_result(const cJSON *report) {
    return (CardResult){.set = cJSON_GetObjectItemCaseSensitive(report, "set")->valuestring,
                        .n = (uint64_t)cJSON_GetObjectItemCaseSensitive(report, "n")->valuedouble,
                        .accuracy = share(report, "accuracy", "value"),
                        .low = share(report, "accuracy", "low"),
                        .high = share(report, "accuracy", "high"),
                        .macro_f1 = share(report, "macro_f1", "value"),
                        .ece = share(report, "ece", "value")};
}

/* This set and the others, in the card beside the weights. */
static ErrCode save_card(const Eval *e, const cJSON *tree, Err *err) {
    const cJSON *also = cJSON_GetObjectItemCaseSensitive(tree, "also"), *other;
    CardResult *results;
    size_t count = 0;
    TRY(mem_new(&results, 1 + e->options->also.count, sizeof *results, "the results", err));
    results[count++] = card_result(tree);
    cJSON_ArrayForEach(other, also) results[count++] = card_result(other);
    const ErrCode rc = card_set_results(predict_path(e->predictor), results, count, err);
    mem_free(results);
    return rc;
}

static ErrCode save_tree(const Eval *e, const Buf *json, const char *model, Err *err) {
    const Options *o = e->options;
    cJSON *tree;
    TRY(full_report(&tree, e, json, model, err));
    ErrCode rc = o->report ? save_page(tree, o->report, err) : ERR_OK;
    if (rc == ERR_OK && o->card) rc = save_card(e, tree, err);
    cJSON_Delete(tree);
    return rc;
}

static ErrCode write_report(const Eval *e, const char *model, FILE *out, Err *err) {
    const Options *o = e->options;
    const Listing listing = listing_of(e);
    Buf json = {0}, table = {0};
    report_json(&json, &e->report);
    report_table(&table, &e->report);
    ErrCode rc = buf_ok(&json, err);
    if (rc == ERR_OK) rc = buf_ok(&table, err);
    if (rc == ERR_OK && o->out) rc = save_json(&json, o->out, err);
    if (rc == ERR_OK && o->predictions) rc = listing_predictions(&listing, o->predictions, err);
    if (rc == ERR_OK && (o->report || o->card)) rc = save_tree(e, &json, model, err);
    if (rc == ERR_OK) rc = buf_print(o->json ? &json : &table, out, err);
    buf_free(&json);
    buf_free(&table);
    return rc;
}

/* ---- the command ---- */

/* What the label map says for people. */
static ErrCode read_context(Eval *e, const char *path, Err *err) {
    TRY(json_read(&e->map_file, path, err));
    e->report.context = cJSON_GetObjectItemCaseSensitive(e->map_file, "_context");
    const ErrCode rc = report_context_check(e->report.context, err);
    return rc == ERR_OK ? rc : err_context(err, rc, "%s", path);
}

static ErrCode open_all(Eval *e, const FlagList *arguments, Err *err) {
    const Options *o = e->options;
    if ((o->also.count && !o->card && !o->report) || (o->system && !o->report))
        return err_set(err, ERR_ARGUMENT, "--also and --system show in the page: give --report FILE.html");
    if (o->card && !file_is_dir(arguments->items[0]))
        return err_set(err, ERR_ARGUMENT, "--card: %s is no folder with a model card", arguments->items[0]);
    if (o->folds && !o->suspects)
        return err_set(err, ERR_ARGUMENT, "--folds ranks labels that may be wrong: give --suspects FILE");
    if (o->folds && o->folds < FOLDS_MIN)
        return err_set(err, ERR_ARGUMENT, "folds: found %d, expected 0 (none) or %d to %d", (int)o->folds,
                       FOLDS_MIN, FOLDS_MAX);
    if (o->rows.label_map && o->rows.map_field) TRY(read_context(e, o->rows.label_map, err));
    TRY(plan_slices(e, err));
    TRY(threads_open(&e->threads, (int)o->model.threads, err));
    const PredictRule rule = predict_options_rule(&o->model);
    TRY(predict_open(&e->predictor, arguments->items[0], &rule, e->threads, err));
    TRY(read_rows(e, arguments, err));
    if (o->folds && !e->files.count && !o->rows.split)
        TRY(rowset_open_shard(&e->all, predict_shard(e->predictor), o->rows.skip_unknown,
                              predict_labels(e->predictor), predict_classes(e->predictor), err));
    if (o->baselines) TRY(read_train(e, arguments->items[0], err));
    const size_t K = (size_t)predict_classes(e->predictor);
    TRY(mem_new(&e->p, e->set.rows.count * K, sizeof *e->p, "probabilities", err));
    TRY(mem_new(&e->other, e->set.rows.count * K, sizeof *e->other, "probabilities", err));
    TRY(mem_new(&e->logits, e->set.rows.count * K, sizeof *e->logits, "logits", err));
    TRY(mem_new(&e->score, e->set.rows.count, sizeof *e->score, "scores", err));
    TRY(mem_new(&e->abstained, e->set.rows.count, sizeof *e->abstained, "scores", err));
    TRY(mem_new(&e->seen, e->set.rows.count, sizeof *e->seen, "token counts", err));
    TRY(check_held_out(e, err));
    if (o->folds)
        TRY(mem_new(&e->vectors, doubted(e)->rows.count, (size_t)predict_width(e->predictor) * sizeof(float),
                    "the vectors of all rows", err));
    return ERR_OK;
}

static ErrCode evaluate(Eval *e, const char *model, Err *err) {
    const Options *o = e->options;
    Report *r = &e->report;
    r->set = o->set ? o->set : e->set.name.data;
    r->model = model;
    r->labels = predict_labels(e->predictor);
    r->skipped = e->set.rows.skipped;
    r->train_n = e->train.rows.count;
    r->rule = predict_rule(e->predictor);
    TRY(provenance_collect(&e->provenance, model, e->predictor, &e->files, err));
    r->provenance = e->provenance;
    TRY(predict_all_logits(e->predictor, e->logits, e->all.rows.count ? NULL : e->vectors, e->seen,
                           e->set.texts, e->set.rows.count, "eval", err));
    for (size_t i = 0; i < e->set.rows.count; i++) r->truncated += e->seen[i].truncated;
    TRY(measure_decisions(e, err));
    TRY(measure(&r->router, e, e->p, err));
    curves_reliability(&r->reliability, e->p, e->set.labels, e->set.rows.count, r->router.K);
    TRY(measure_uncalibrated(e, err));
    if (o->baselines) {
        TRY(majority_baseline(e, err));
        TRY(ngram_baseline(e, err));
    }
    TRY(measure_slices(e, err));
    if (o->suspects) TRY(find_suspects(e, err));
    if (!o->robust) return ERR_OK;
    const RobustRule rule = {.rows = (size_t)o->robust_rows,
                             .seed = (uint64_t)o->seed,
                             .predictor = e->predictor,
                             .path = model,
                             .rule = predict_options_rule(&o->model),
                             .threads = e->threads};
    return robust_run(&r->robust, &rule, e->set.texts, e->set.labels, e->p, e->seen, e->set.rows.count, err);
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Eval e = {.options = options};
    progress_quiet(e.options->model.quiet);
    ErrCode rc = open_all(&e, arguments, err);
    if (rc == ERR_OK) rc = evaluate(&e, arguments->items[0], err);
    if (rc == ERR_OK) rc = write_report(&e, arguments->items[0], out, err);
    close_all(&e);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    ROWSET_FLAGS(Options, rows),
    {"with_choices", NULL, FLAG_BOOL, AT(with_choices), NULL, 0, 0, NULL,
     "Ask with the options: those of member `choices` as lettered lines behind the text."},
    {"slice", NULL, FLAG_LIST, AT(slice), NULL, 0, 0, "KEY",
     "#Parts\nAccuracy by source, length (in tokens), characters, script, or any member of the rows; may be "
     "given "
     "again. --map-field is always one."},
    {"robust", NULL, FLAG_BOOL, AT(robust), NULL, 0, 0, NULL,
     "Ask a sample again with typing errors, other case, small talk around, misleading label words, ..."},
    {"robust_rows", NULL, FLAG_INT, AT(robust_rows), "2000", 1, 1e9, NULL, "Rows of that sample."},
    {"suspects", NULL, FLAG_STRING, AT(suspects), NULL, 0, 0, "FILE",
     "Write the rows whose label the router doubts as JSONL, most doubted first; not of rows that it was "
     "trained "
     "on, unless --split train or --folds."},
    {"folds", NULL, FLAG_INT, AT(folds), "0", 0, FOLDS_MAX, NULL,
     "Doubt by cross-validation: classifiers fitted to the router's vectors of the other folds, 2 to 20 of "
     "them; "
     "without --data and --split among all rows of the run. The encoder is not trained again: among rows "
     "that it "
     "was trained on data check finds more. Memory: 4 bytes x hidden size a row. 0: by the router's own "
     "answers."},
    {"baselines", NULL, FLAG_BOOL, AT(baselines), "true", 0, 0, NULL,
     "#Baselines\nCompare with the majority class and an n-gram model trained on the same rows."},
    {"train_data", NULL, FLAG_LIST, AT(train_data), NULL, 0, 0, "FILE",
     "The baselines' training rows (those of split train, or without a split); default: the run folder's."},
    {"seed", NULL, FLAG_INT, AT(seed), "0", 0, 9e15, NULL,
     "Seed of the bootstrap, the n-gram baseline and --robust."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "PATH",
     "#Output\nWrite the report as JSON to this file (in a folder: eval.json)."},
    {"predictions", NULL, FLAG_STRING, AT(predictions), NULL, 0, 0, "FILE",
     "Write one line per row: id, label, predicted, all probabilities, beginning of the text; JSONL, or CSV "
     "by "
     "its name."},
    {"report", NULL, FLAG_STRING, AT(report), NULL, 0, 0, "FILE.html",
     "Write the report as one HTML page that needs nothing else, and what it shows as FILE.json."},
    {"also", NULL, FLAG_LIST, AT(also), NULL, 0, 0, "FILE",
     "Show another set in the page or the card: JSON that an earlier --out wrote; may be given again."},
    {"card", NULL, FLAG_BOOL, AT(card), NULL, 0, 0, NULL,
     "Put the results into the model card, README.md beside the weights."},
    {"system", NULL, FLAG_STRING, AT(system), NULL, 0, 0, "FILE",
     "Show the cost and quality of the whole system in the page: JSON that router system --out wrote."},
    {"mistakes", NULL, FLAG_INT, AT(mistakes), "30", 0, 10000, NULL,
     "Wrong answers that the page shows, with their texts."},
    {"set", NULL, FLAG_STRING, AT(set), NULL, 0, 0, "NAME",
     "Name of the set in the report; default: the files."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    PREDICT_FLAGS(Options, model),
};

const Command eval_cmd = {
    .name = "eval",
    .summary = "measure a router on labelled rows, beside two baselines",
    .usage = "eval MODEL [DATA...] [OPTIONS]",
    .details =
        "MODEL is a run folder (its test split is evaluated), a Hugging Face folder or an exported file.\n"
        "Reported are accuracy, macro F1, NLL, Brier score and calibration errors with 95 % intervals,\n"
        "precision, recall and F1 of each class, the confusion matrix, and each source's accuracy. A run\n"
        "folder's baselines learn from its train split.\n\n"
        "Examples:\n"
        "  router eval runs/first\n"
        "  router eval runs/first --data new.jsonl --json\n"
        "  router eval runs/first --data mmlu.jsonl.zst --filter split=test \\\n"
        "         --map-field subject --label-map configs/mmlu-domains.json --with-choices --out mmlu.json\n"
        "  router eval runs/first --robust --slice length --report report.html --also mmlu.json\n"
        "  router eval runs/first --suspects suspects.jsonl --folds 5\n"
        "  router eval router.safetensors --data test.jsonl --train-data train.jsonl\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 100000,
    .takes_config = true,
    .run = run,
};
