#include "eval/add_start.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/jsonl.h"
#include "eval/add_calibrate.h"
#include "eval/head_fit.h"

enum { STEP0_ROWS = 512, SEEN_OLD = 5000, FOLDS = 3 };

/* A step-0 logit of an old label may differ by rounding alone: products of another width add in another order. */
#define STEP0_TOLERANCE 1e-4

ErrCode add_start_read(AddJob *a, const char *folder, Err *err) {
    TRY(config_read(&a->config, folder, err));
    a->K = a->config.num_labels;
    a->old = predict_classes(a->parent);
    a->child_labels = (const char *const *)a->config.labels;
    TRY(mem_new(&a->active, (size_t)a->K, sizeof *a->active, "the labels", err));
    TRY(mem_new(&a->retired, (size_t)a->K, sizeof *a->retired, "the labels", err));
    for (int k = 0; k < a->K; k++) {
        a->retired[k] = a->config.taxonomy.count && a->config.taxonomy.labels[k].retired;
        a->active[k] = !a->retired[k];
    }
    return add_calibrate_check(a, err);
}

static ErrCode grow(const AddJob *a, Err *err) {
    const AddDomainOptions *o = a->o;
    const GrowRule rule = {.labels = a->labels,
                           .label_count = (int)a->label_count,
                           .split_from = o->split_from,
                           .renames = a->renames,
                           .rename_count = a->rename_count,
                           .retired = (const char *const *)o->retire.items,
                           .retired_count = o->retire.count};
    return grow_folder(a->grown, predict_path(a->parent), &rule, err);
}

/* ---- before training: the parent's vectors, and what they tell ---- */

/* Train rows, with what the parent makes of them. Arrays are (n). */
typedef struct {
    size_t *at; /* in a->rows */
    RowText *texts;
    int *labels;
    float *weights, *logits, *vectors; /* (n), (n, old), (n, H) */
    size_t n;
    int H;
} Seen;

static void seen_free(Seen *s) {
    mem_free(s->at);
    mem_free(s->texts);
    mem_free(s->labels);
    mem_free(s->weights);
    mem_free(s->logits);
    mem_free(s->vectors);
}

/* All new train rows, and of the old ones at most SEEN_OLD or so: what the parent makes of them costs as much as a third of
 * training on them. */
static ErrCode see_rows(Seen *s, const AddJob *a, Err *err) {
    const AddRows *r = &a->rows;
    const uint64_t key = rng_key((uint64_t)a->o->seed, "seen", 0);
    size_t most = 0, old = 0;
    *s = (Seen){.H = predict_width(a->parent)};
    for (size_t i = 0; i < r->count; i++) {
        most += r->split[i] == SPLIT_TRAIN;
        old += r->split[i] == SPLIT_TRAIN && r->labels[i] < a->old;
    }
    const double share = old > SEEN_OLD ? (double)SEEN_OLD / (double)old : 1;
    TRY(mem_new(&s->at, most, sizeof *s->at, "the train rows", err));
    for (size_t i = 0; i < r->count; i++)
        if (r->split[i] == SPLIT_TRAIN && (r->labels[i] >= a->old || rng_uniform(key, i) < share))
            s->at[s->n++] = i;
    TRY(mem_new(&s->texts, s->n, sizeof *s->texts, "the train rows", err));
    TRY(mem_new(&s->labels, s->n, sizeof *s->labels, "the train rows", err));
    TRY(mem_new(&s->weights, s->n, sizeof *s->weights, "the train rows", err));
    TRY(mem_new(&s->logits, s->n * (size_t)a->old, sizeof *s->logits, "logits", err));
    TRY(mem_new(&s->vectors, s->n * (size_t)s->H, sizeof *s->vectors, "the vectors of the train rows", err));
    for (size_t i = 0; i < s->n; i++) {
        s->texts[i] = r->texts[s->at[i]];
        s->labels[i] = r->labels[s->at[i]];
    }
    return predict_all_logits(a->parent, s->logits, s->vectors, NULL, s->texts, s->n, "read", err);
}

/* Old rows through both models: the child must decide as its parent does. Without a label that is retired now the others are
 * surer than they were, and some are answered that were not. */
static ErrCode check_step0(AddJob *a, Err *err) {
    RowText *texts;
    float *before = NULL, *after = NULL;
    double *p = NULL;
    size_t n = 0;
    const size_t K = (size_t)a->K, old = (size_t)a->old;
    TRY(mem_new(&texts, STEP0_ROWS, sizeof *texts, "old rows", err));
    for (size_t i = 0; i < a->rows.count && n < STEP0_ROWS; i++)
        if (!a->rows.new[i] && a->rows.split[i] == SPLIT_TRAIN) texts[n++] = a->rows.texts[i];
    ErrCode rc = mem_new(&before, n * old, sizeof *before, "logits", err);
    if (rc == ERR_OK) rc = mem_new(&after, n * K, sizeof *after, "logits", err);
    if (rc == ERR_OK) rc = mem_new(&p, K, sizeof *p, "probabilities", err);
    if (rc == ERR_OK) rc = predict_logits(a->parent, before, NULL, NULL, texts, n, err);
    if (rc == ERR_OK) rc = predict_logits(a->child, after, NULL, NULL, texts, n, err);
    a->report.step0_rows = rc == ERR_OK ? n : 0;
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        const DecideAnswer x = decide(p, before + i * old, a->old, predict_rule(a->parent));
        const DecideAnswer y = decide(p, after + i * K, a->K, predict_rule(a->child));
        const bool as_sure = a->o->retire.count || x.abstained == y.abstained;
        a->report.step0_same += a->retired[x.label] || (x.label == y.label && as_sure);
        for (size_t k = 0; k < old; k++)
            if (a->active[k])
                a->report.step0_difference = fmax(
                    a->report.step0_difference, fabs((double)before[i * old + k] - (double)after[i * K + k]));
    }
    if (rc == ERR_OK && (a->report.step0_same != n || !(a->report.step0_difference <= STEP0_TOLERANCE)))
        rc = err_set(err, ERR_GATE,
                     "before any training %llu of %zu old prompts get another decision, and an old label's "
                     "logit differs by "
                     "%g: the grown head is not the parent's",
                     (unsigned long long)(n - a->report.step0_same), n, a->report.step0_difference);
    mem_free(texts);
    mem_free(before);
    mem_free(after);
    mem_free(p);
    return rc;
}

/* An old row that looks like a new domain. */
typedef struct {
    size_t row; /* in a->rows */
    int label, suggested;
    double p_label, p_suggested;
} Suspect;

static int surest_first(const void *x, const void *y) {
    const Suspect *a = x, *b = y;
    if (a->p_suggested > b->p_suggested) return -1;
    if (a->p_suggested < b->p_suggested) return 1;
    return (a->row > b->row) - (a->row < b->row);
}

static ErrCode save_suspects(const AddJob *a, const Suspect *list, size_t count, Err *err) {
    Jsonl file = {0};
    Buf line = {0};
    ErrCode rc = jsonl_create(&file, a->suspects_path, err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        const Suspect *s = &list[i];
        const char *id = rows_id(&a->rows.rows, s->row);
        buf_clear(&line);
        buf_printf(&line, "{\"rank\": %zu, \"id\": ", i + 1);
        text_put_json(&line, id, strlen(id));
        buf_puts(&line, ", \"label\": ");
        text_put_json(&line, a->child_labels[s->label], strlen(a->child_labels[s->label]));
        buf_puts(&line, ", \"suggested\": ");
        text_put_json(&line, a->child_labels[s->suggested], strlen(a->child_labels[s->suggested]));
        buf_printf(&line,
                   ", \"p_label\": %.6g, \"p_suggested\": %.6g, \"relabelled\": %s, \"text\": ", s->p_label,
                   s->p_suggested, s->p_suggested >= a->relabel ? "true" : "false");
        text_put_json(&line, a->rows.texts[s->row].text, a->rows.texts[s->row].n);
        buf_puts(&line, "}");
        rc = buf_ok(&line, err);
        if (rc == ERR_OK) jsonl_put(&file, line.data, line.len);
    }
    if (rc == ERR_OK) rc = jsonl_commit(&file, err);
    jsonl_abort(&file);
    buf_free(&line);
    return rc;
}

/* Rows of other labels than one that is split are not in question. */
static bool may_move(const AddJob *a, const Seen *s, size_t i) {
    return s->labels[i] < a->old &&
           (!a->o->split_from || strcmp(predict_labels(a->parent)[s->labels[i]], a->o->split_from) == 0);
}

/* Lists the suspects of out-of-fold probabilities p (n, K), and moves those that are asked for. */
static ErrCode judge(AddJob *a, Seen *s, const double *p, Err *err) {
    Suspect *list;
    size_t count = 0;
    TRY(mem_new(&list, s->n, sizeof *list, "suspects", err));
    for (size_t i = 0; i < s->n; i++) {
        const double *own = p + i * (size_t)a->K;
        int best = a->old;
        for (int k = a->old + 1; k < a->K; k++) best = own[k] > own[best] ? k : best;
        if (!may_move(a, s, i) || own[best] < ADD_SUSPECT_MIN) continue;
        list[count++] = (Suspect){s->at[i], s->labels[i], best, own[s->labels[i]], own[best]};
        if (own[best] < a->relabel) continue;
        a->rows.was[s->at[i]] = s->labels[i];
        a->rows.labels[s->at[i]] = s->labels[i] = best;
        a->report.relabelled++;
    }
    qsort(list, count, sizeof *list, surest_first);
    const ErrCode rc = save_suspects(a, list, count, err);
    mem_free(list);
    if (rc == ERR_OK && count)
        progress_note(NULL, "%zu old rows look like a new domain: %s%s", count, a->suspects_path,
                      a->o->relabel ? "" : "; --relabel above=0.9 moves the surest");
    return rc;
}

static HeadFitRows head_rows(const AddJob *a, const Seen *s) {
    return (HeadFitRows){
        .vectors = s->vectors, .labels = s->labels, .weights = s->weights, .n = s->n, .H = s->H, .K = a->K};
}

/* Weights of the train rows for training, and of those here for the head: as often as they occur, not as they will be shown.
 * A new label's logit then begins low, and it is the encoder that has to raise it: fitted to what is shown, the head does so
 * itself, and a label of few rows is learnt worse. */
static void weigh(AddJob *a, Seen *s) {
    size_t old = 0;
    add_rows_weigh(&a->rows, &a->rule);
    for (size_t i = 0; i < s->n; i++) old += s->labels[i] < a->old;
    for (size_t i = 0; i < s->n; i++)
        s->weights[i] = s->labels[i] < a->old ? (float)((double)a->rows.old_train / (double)old) : 1;
}

static ErrCode look_for_suspects(AddJob *a, Seen *s, Err *err) {
    static const HeadFitRule RULE = {
        .lambda = HEAD_FIT_FOLDS_LAMBDA, .relative = true, .slope = HEAD_FIT_SLOPE_ROUGH};
    const uint64_t key = rng_key((uint64_t)a->o->seed, "suspects", 0);
    HeadFitRows rows = head_rows(a, s);
    rows.weights = NULL; /* what training shows more often is no more likely for that */
    uint8_t *folds;
    double *p = NULL;
    TRY(mem_new(&folds, s->n, sizeof *folds, "folds", err));
    ErrCode rc = mem_new(&p, s->n * (size_t)a->K, sizeof *p, "probabilities", err);
    for (size_t i = 0; i < s->n; i++) folds[i] = (uint8_t)(rng_bits(key, i) % FOLDS);
    if (rc == ERR_OK) rc = head_fit_folds(p, &rows, &RULE, folds, FOLDS, a->threads, err);
    if (rc == ERR_OK) rc = judge(a, s, p, err);
    mem_free(folds);
    mem_free(p);
    return rc;
}

/* The new rows of the head on the parent's vectors; with --head-only all of it. */
static ErrCode fit_head(const AddJob *a, const Seen *s, Err *err) {
    Config config;
    HeadFit fit = {0};
    float *w, *b;
    bool *free_rows = NULL;
    TRY(grow_head_read(&config, &w, &b, a->grown, err));
    ErrCode rc = mem_new(&free_rows, (size_t)a->K, sizeof *free_rows, "the classifier", err);
    for (int k = 0; rc == ERR_OK && k < a->K; k++)
        free_rows[k] = a->active[k] && (k >= a->old || a->o->head_only);
    const HeadFitRows rows = head_rows(a, s);
    const HeadFitRule rule = {.w0 = w,
                              .b0 = b,
                              .free = free_rows,
                              .lambda = HEAD_FIT_FOLDS_LAMBDA,
                              .relative = true,
                              .slope = a->o->head_only ? HEAD_FIT_SLOPE : HEAD_FIT_SLOPE_ROUGH};
    if (rc == ERR_OK) rc = head_fit(&fit, &rows, &rule, a->threads, err);
    for (size_t i = 0; rc == ERR_OK && i < (size_t)fit.K * (size_t)fit.H; i++) w[i] = (float)fit.w[i];
    for (int k = 0; rc == ERR_OK && k < fit.K; k++) b[k] = (float)fit.b[k];
    if (rc == ERR_OK) rc = grow_head_write(a->grown, w, b, err);
    head_fit_free(&fit);
    mem_free(free_rows);
    mem_free(w);
    mem_free(b);
    config_free(&config);
    return rc;
}

static AddRowsRule rows_rule(const AddJob *a) {
    const AddDomainOptions *o = a->o;
    return (AddRowsRule){
        .data = &o->data,
        .replay = &o->replay,
        .record = {o->rows.text_field, o->rows.label_field, false},
        .labels = a->child_labels,
        .active = a->active,
        .K = a->K,
        .old = a->old,
        .parent = a->parent,
        .steps = o->max_steps,
        .batch = o->batch_size,
        .replay_rows = o->replay_rows,
        .new_share = o->new_share,
        .near = o->near,
        .split = {o->dev_share, o->calibration_share, o->test_share, (uint64_t)o->seed, false},
        .folder = o->out,
        .threads = a->threads};
}

/* An epoch of these weights: fewer than planned, where new rows are shown as often as they may be. */
static int64_t count_steps(const AddJob *a) {
    double seen = 0;
    for (size_t i = 0; i < a->rows.count; i++)
        if (a->rows.split[i] == SPLIT_TRAIN) seen += a->rows.weight[i];
    return (int64_t)ceil(seen / (double)a->o->batch_size);
}

/* What a run that goes on cannot find out again. */
static ErrCode save_facts(const AddJob *a, Err *err) {
    const AddReport *r = &a->report;
    Buf text = {0};
    buf_printf(
        &text,
        "{\"step0_rows\": %llu, \"step0_same\": %llu, \"step0_difference\": %.17g, \"relabelled\": %llu, "
        "\"pseudo\": %llu, \"retired\": %llu, \"replaced\": %llu, \"steps\": %lld}\n",
        (unsigned long long)r->step0_rows, (unsigned long long)r->step0_same, r->step0_difference,
        (unsigned long long)r->relabelled, (unsigned long long)a->rows.pseudo,
        (unsigned long long)a->rows.retired, (unsigned long long)a->rows.replaced, (long long)count_steps(a));
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) rc = file_save(a->facts_path, text.data, text.len, err);
    buf_free(&text);
    return rc;
}

static ErrCode get_count(uint64_t *out, const cJSON *root, const char *key, Err *err) {
    int64_t value = 0;
    TRY(json_get_int(&value, root, key, 0, INT64_C(1) << 53, err));
    *out = (uint64_t)value;
    return ERR_OK;
}

ErrCode add_start_facts(AddJob *a, Err *err) {
    const char *path = a->facts_path;
    AddReport *r = &a->report;
    cJSON *root;
    TRY(json_read(&root, path, err));
    ErrCode rc = get_count(&r->step0_rows, root, "step0_rows", err);
    if (rc == ERR_OK) rc = get_count(&r->step0_same, root, "step0_same", err);
    if (rc == ERR_OK) rc = json_get_double(&r->step0_difference, root, "step0_difference", 0, 1, err);
    if (rc == ERR_OK) rc = get_count(&r->relabelled, root, "relabelled", err);
    if (rc == ERR_OK) rc = get_count(&r->pseudo, root, "pseudo", err);
    if (rc == ERR_OK) rc = get_count(&r->left_out, root, "retired", err);
    if (rc == ERR_OK) rc = get_count(&r->replaced, root, "replaced", err);
    if (rc == ERR_OK) rc = json_get_int(&r->steps, root, "steps", 1, INT64_C(1) << 53, err);
    cJSON_Delete(root);
    return rc == ERR_OK ? rc : err_context(err, rc, "%s", path);
}

/* What is found missing after training is found too late. */
static ErrCode check_test(const AddJob *a, Err *err) {
    uint64_t rows = 0, old = 0;
    for (size_t i = 0; i < a->rows.count; i++) {
        rows += a->rows.split[i] == SPLIT_TEST;
        old += a->rows.split[i] == SPLIT_TEST && a->rows.labels[i] < a->old;
    }
    if (rows == 0)
        return err_set(err, ERR_ARGUMENT, "there are no test rows to report on: give --test-share");
    if (old == 0 && a->o->max_regression >= 0)
        return err_set(err, ERR_ARGUMENT, "--max-regression: there are no old test rows to measure it on");
    return ERR_OK;
}

/* start is what --resume goes on from: it is the last that appears. */
ErrCode add_start_prepare(AddJob *a, Err *err) {
    Seen seen = {0};
    const PredictRule rule = {.backend = a->o->backend};
    TRY(grow(a, err));
    TRY(add_start_read(a, a->grown, err));
    a->rule = rows_rule(a);
    TRY(add_rows_gather(&a->rows, &a->rule, err));
    TRY(check_test(a, err));
    TRY(predict_open(&a->child, a->grown, &rule, a->threads, err));
    TRY(check_step0(a, err));
    predict_close(a->child);
    a->child = NULL;
    ErrCode rc = see_rows(&seen, a, err);
    if (rc == ERR_OK) weigh(a, &seen);
    if (rc == ERR_OK) rc = look_for_suspects(a, &seen, err);
    if (rc == ERR_OK) weigh(a, &seen);
    if (rc == ERR_OK) rc = add_rows_save(&a->rows, a->child_labels, a->rows_path, err);
    if (rc == ERR_OK) rc = fit_head(a, &seen, err);
    if (rc == ERR_OK) rc = save_facts(a, err);
    if (rc == ERR_OK) rc = file_replace_dir(a->start, a->grown, err);
    seen_free(&seen);
    return rc;
}
