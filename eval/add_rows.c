#include "eval/add_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/jsonl.h"
#include "data/partition.h"

static const char *const ORIGINS[] = {"old", "new"};
enum { OLD, NEW };

/* ---- reading ---- */

/* What a row must say of its label. */
typedef struct {
    const char *const *labels;
    int K;
    const char *missing; /* the message for none; NULL: there may be none */
    const bool *active;  /* (K): which of them; NULL: rows of any */
} Want;

/* rows_read gives -1 to rows without a label and to those with a label that nobody knows; only the first are wanted. */
static ErrCode check_label(void *arg, const Record *record, RowText *text, Err *err) {
    const Want *w = arg;
    (void)text;
    if (!record->label) return w->missing ? err_set(err, ERR_FORMAT, "%s", w->missing) : ERR_OK;
    char shown[84];
    text_excerpt(shown, 80, record->label, strlen(record->label));
    for (int k = 0; k < w->K; k++) {
        if (strcmp(w->labels[k], record->label) != 0) continue;
        return !w->active || w->active[k] ? ERR_OK : err_set(err, ERR_FORMAT, "label '%s' is retired", shown);
    }
    const char *near = text_nearest(record->label, w->labels, (size_t)w->K);
    return err_set(err, ERR_FORMAT, "label '%s' is neither one of the router's nor one that is added%s%s%s",
                   shown, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static ErrCode read_files(Rows *rows, const FlagList *files, const AddRowsRule *r, Want *want, Err *err) {
    static char *members[] = {"split"};
    const RowsRule rule = {.record = r->record,
                           .split = SPLIT_COUNT,
                           .unlabelled = true,
                           .members = {members, 1},
                           .take = check_label,
                           .arg = want};
    for (size_t i = 0; i < files->count; i++)
        TRY(rows_read(rows, files->items[i], &rule, want->labels, want->K, err));
    return ERR_OK;
}

/* Of member `split`, the first that is kept; SPLIT_COUNT when the row names none. */
static ErrCode split_tag(Split *out, const Rows *rows, size_t i, Err *err) {
    const int tag = rows->member_count ? rows_tag(rows, i, 0) : -1;
    *out = tag < 0 ? SPLIT_COUNT : split_find(rows->values[0].items[tag]);
    if (tag < 0 || *out != SPLIT_COUNT) return ERR_OK;
    return err_set(err, ERR_FORMAT, "%s:%llu: split '%.100s' is not one of train, dev, calibration, test",
                   rows->files.items[rows->items[i].file], (unsigned long long)rows->items[i].line,
                   rows->values[0].items[tag]);
}

/* ---- one file of all rows, to be divided ---- */

static void put_row(Buf *line, const Rows *rows, size_t i, const char *label, Split split) {
    const Row *row = &rows->items[i];
    buf_clear(line);
    buf_puts(line, "{\"text\": ");
    text_put_json(line, rows->bytes.data + row->text_at, row->text_len);
    buf_puts(line, ", \"label\": ");
    text_put_json(line, label, strlen(label));
    if (split != SPLIT_COUNT) buf_printf(line, ", \"split\": \"%s\"", split_name(split));
    if (row->source >= 0) {
        buf_puts(line, ", \"source\": ");
        text_put_json(line, rows->sources.items[row->source], strlen(rows->sources.items[row->source]));
    }
    buf_puts(line, ", \"id\": ");
    text_put_json(line, rows_id(rows, i), strlen(rows_id(rows, i)));
}

static ErrCode put_line(Jsonl *file, Buf *line, Err *err) {
    buf_puts(line, "}");
    TRY(buf_ok(line, err));
    jsonl_put(file, line->data, line->len);
    return ERR_OK;
}

static ErrCode put_origin(Jsonl *file, Buf *line, const Rows *rows, size_t i, const char *label, Split split,
                          int origin, Err *err) {
    put_row(line, rows, i, label, split);
    buf_printf(line, ", \"origin\": \"%s\"", ORIGINS[origin]);
    return put_line(file, line, err);
}

/* ---- the replay ---- */

/* How many of each label's rows[k] are taken so that they are `most` together, by the square root of their number; what a
 * label lacks goes to the others. */
static void share_out(uint64_t *take, const uint64_t *rows, int K, uint64_t most) {
    uint64_t left = most;
    memset(take, 0, (size_t)K * sizeof *take);
    for (bool moved = true; left && moved;) {
        double sum = 0;
        const uint64_t round = left;
        moved = false;
        for (int k = 0; k < K; k++)
            if (take[k] < rows[k]) sum += sqrt((double)rows[k]);
        for (int k = 0; k < K && left; k++) {
            if (take[k] >= rows[k]) continue;
            uint64_t more = (uint64_t)ceil((double)round * sqrt((double)rows[k]) / sum);
            if (more > rows[k] - take[k]) more = rows[k] - take[k];
            if (more > left) more = left;
            take[k] += more;
            left -= more;
            moved |= more > 0;
        }
    }
}

/* Which of n rows are dev rows that choosing the step can do without, a sample being as good: keep[i] becomes false. */
static void thin_dev(bool *keep, const Split *own, size_t n, uint64_t seed) {
    const uint64_t key = rng_key(seed, "dev", 0);
    size_t dev = 0;
    for (size_t i = 0; i < n; i++) dev += own[i] == SPLIT_DEV;
    for (size_t i = 0; i < n; i++)
        if (own[i] == SPLIT_DEV) keep[i] = rng_uniform(key, i) * (double)dev < ADD_ROWS_DEV;
}

/* Rows that are held out are no part of the replay; those that name no split mostly are. */
static bool may_train(Split own) {
    return own == SPLIT_TRAIN || own == SPLIT_COUNT;
}

/* keep (rows->count): the sample of those that may train. own (rows->count): their splits. */
static ErrCode sample(bool *keep, const Rows *rows, const Split *own, const AddRowsRule *r, uint64_t most,
                      Err *err) {
    uint64_t *count = NULL, *take = NULL;
    uint32_t *order = NULL;
    const size_t n = rows->count;
    ErrCode rc = mem_new(&count, 2 * (size_t)r->old, sizeof *count, "the replay", err);
    if (rc == ERR_OK) rc = mem_new(&order, n + 1, sizeof *order, "the replay", err);
    if (rc == ERR_OK) {
        take = count + r->old;
        for (size_t i = 0; i < n; i++) {
            order[i] = (uint32_t)i;
            if (!r->active[rows->items[i].label] || !may_train(own[i])) continue;
            count[rows->items[i].label]++;
        }
        share_out(take, count, r->old, most);
        rng_shuffle(order, n, rng_key(r->split.seed, "replay", 0));
        for (size_t j = 0; j < n; j++) {
            uint64_t *left = &take[rows->items[order[j]].label];
            if (!may_train(own[order[j]])) continue;
            keep[order[j]] = *left > 0;
            *left -= keep[order[j]];
        }
    }
    mem_free(count);
    mem_free(order);
    return rc;
}

/* ---- gathering ---- */

typedef struct {
    AddRows *out;
    const AddRowsRule *rule;
    Jsonl file;
    Buf line;
    SplitRule split; /* with the shares that are still to be cut */
    uint64_t *keys;  /* (key_count) of the new texts, ascending; see split_text_key */
    size_t key_count;
    uint64_t new_train; /* new rows that will probably be train rows */
} Gather;

/* A split that some new row names takes no others. The rest are cut from the new rows that name none, and from those of
 * train: without new rows to choose the step by, and to calibrate on, the new label would be trained away again. */
static void plan_splits(Gather *g, const Split *own, size_t n) {
    double *const shares[SPLIT_COUNT] = {NULL, &g->split.dev, &g->split.calibration, &g->split.test};
    g->split = g->rule->split;
    for (size_t i = 0; i < n; i++)
        if (!may_train(own[i])) *shares[own[i]] = 0;
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t key_of(const Rows *rows, size_t i) {
    return split_text_key(rows->bytes.data + rows->items[i].text_at, rows->items[i].text_len);
}

static ErrCode keep_keys(Gather *g, const Rows *rows, Err *err) {
    TRY(mem_new(&g->keys, rows->count + 1, sizeof *g->keys, "the new rows", err));
    g->key_count = rows->count;
    for (size_t i = 0; i < rows->count; i++) g->keys[i] = key_of(rows, i);
    qsort(g->keys, g->key_count, sizeof *g->keys, ascending);
    return ERR_OK;
}

static bool is_new_too(const Gather *g, const Rows *rows, size_t i) {
    const uint64_t key = key_of(rows, i);
    return bsearch(&key, g->keys, g->key_count, sizeof *g->keys, ascending) != NULL;
}

static ErrCode put_new(Gather *g, Err *err) {
    const AddRowsRule *r = g->rule;
    Rows rows = {0};
    Split *own = NULL;
    Want want = {r->labels, r->K, NULL, r->active};
    if (r->K - r->old > 1)
        want.missing = "no label: several domains are added, and the row must say which it belongs to";
    double expected = 0;
    ErrCode rc = read_files(&rows, r->data, r, &want, err);
    if (rc == ERR_OK) rc = mem_new(&own, rows.count + 1, sizeof *own, "the new rows", err);
    for (size_t i = 0; rc == ERR_OK && i < rows.count; i++) rc = split_tag(&own[i], &rows, i, err);
    if (rc == ERR_OK) plan_splits(g, own, rows.count);
    if (rc == ERR_OK) rc = keep_keys(g, &rows, err);
    const double train = 1 - g->split.dev - g->split.calibration - g->split.test;
    for (size_t i = 0; rc == ERR_OK && i < rows.count; i++) {
        const int label = rows.items[i].label < 0 ? r->old : rows.items[i].label;
        const Split split = own[i] == SPLIT_TRAIN && train < 1 ? SPLIT_COUNT : own[i];
        if (label >= r->old && may_train(split)) expected += split == SPLIT_COUNT ? train : 1;
        rc = put_origin(&g->file, &g->line, &rows, i, r->labels[label], split, NEW, err);
    }
    g->new_train = (uint64_t)expected;
    mem_free(own);
    rows_free(&rows);
    return rc;
}

/* How much of what is seen is new, and how many steps there are: when it is known how many train rows are old. */
static void plan(Gather *g) {
    const AddRowsRule *r = g->rule;
    AddRows *a = g->out;
    const double rows = (double)g->new_train, least = ADD_ROWS_SHARE_MIN * (r->K - r->old);
    const double occurs = rows / (rows + (double)a->old_train);
    a->new_share = r->new_share > 0 ? r->new_share : fmin(fmax(occurs, least), ADD_ROWS_SHARE_MAX);
    a->steps = r->steps;
    if (a->steps) return;
    a->steps = (int64_t)ceil(ADD_ROWS_VISITS * rows / ((double)r->batch * a->new_share));
    if (a->steps > ADD_ROWS_STEPS_MAX) a->steps = ADD_ROWS_STEPS_MAX;
}

/* Rows [0, count) of one split, or where it is SPLIT_COUNT of the split that each names. */
static ErrCode put_old(Gather *g, const Rows *rows, Split split, Err *err) {
    const AddRowsRule *r = g->rule;
    bool *keep;
    Split *own = NULL;
    TRY(mem_new(&keep, rows->count + 1, sizeof *keep, "the replay", err));
    ErrCode rc = mem_new(&own, rows->count + 1, sizeof *own, "the replay", err);
    for (size_t i = 0; rc == ERR_OK && i < rows->count; i++) {
        own[i] = split;
        if (split == SPLIT_COUNT) rc = split_tag(&own[i], rows, i, err);
    }
    for (size_t i = 0; rc == ERR_OK && i < rows->count; i++) {
        keep[i] = !may_train(own[i]);
        g->out->old_train += !keep[i] && r->active[rows->items[i].label];
    }
    if (!g->out->steps) plan(g);
    const double seen = (double)(g->out->steps * r->batch) * (1 - g->out->new_share);
    if (rc == ERR_OK) thin_dev(keep, own, rows->count, r->split.seed);
    if (rc == ERR_OK)
        rc = sample(keep, rows, own, r, r->replay_rows ? (uint64_t)r->replay_rows : (uint64_t)seen, err);
    for (size_t i = 0; rc == ERR_OK && i < rows->count; i++) {
        const int label = rows->items[i].label;
        g->out->retired += !r->active[label];
        if (!r->active[label] || !keep[i]) continue;
        if (may_train(own[i]) && is_new_too(g, rows, i))
            g->out->replaced++;
        else
            rc = put_origin(&g->file, &g->line, rows, i, r->labels[label], own[i], OLD, err);
    }
    mem_free(keep);
    mem_free(own);
    return rc;
}

/* The parent's answers to rows that say no label. */
static ErrCode label_rows(AddRows *out, Rows *rows, Predictor *parent, Err *err) {
    RowText *texts;
    int *labels;
    float *logits = NULL;
    size_t n = 0;
    const size_t K = (size_t)predict_classes(parent);
    TRY(rows_views(&texts, &labels, rows, err));
    for (size_t i = 0; i < rows->count; i++)
        if (labels[i] < 0) texts[n++] = texts[i];
    ErrCode rc = mem_new(&logits, n * K + 1, sizeof *logits, "logits", err);
    if (rc == ERR_OK && n) rc = predict_all_logits(parent, logits, NULL, NULL, texts, n, "label", err);
    for (size_t i = 0, at = 0; rc == ERR_OK && i < rows->count; i++) {
        if (rows->items[i].label >= 0) continue;
        const float *l = logits + at++ * K;
        int best = 0;
        for (size_t k = 1; k < K; k++)
            if (l[k] > l[best]) best = (int)k;
        rows->items[i].label = best;
    }
    out->pseudo += n;
    mem_free(texts);
    mem_free(labels);
    mem_free(logits);
    return rc;
}

/* Rows of --replay carry the labels' names of today or, where a label is renamed now, its old one. */
static ErrCode put_files(Gather *g, Err *err) {
    const AddRowsRule *r = g->rule;
    const size_t old = (size_t)r->old;
    const char **names;
    Rows rows = {0};
    TRY(mem_new(&names, 2 * old, sizeof *names, "the labels", err));
    for (size_t k = 0; k < old; k++) {
        names[k] = r->labels[k];
        names[old + k] = predict_labels(r->parent)[k];
    }
    Want want = {names, 2 * r->old, NULL, NULL};
    ErrCode rc = read_files(&rows, r->replay, r, &want, err);
    for (size_t i = 0; rc == ERR_OK && i < rows.count; i++)
        if (rows.items[i].label >= r->old) rows.items[i].label -= r->old;
    if (rc == ERR_OK) rc = label_rows(g->out, &rows, r->parent, err);
    if (rc == ERR_OK) rc = put_old(g, &rows, SPLIT_COUNT, err);
    rows_free(&rows);
    mem_free(names);
    return rc;
}

static ErrCode put_replay(Gather *g, Err *err) {
    const AddRowsRule *r = g->rule;
    const char *shard = predict_shard(r->parent);
    ErrCode rc = ERR_OK;
    if (r->replay->count) return put_files(g, err);
    if (!shard)
        return err_set(err, ERR_ARGUMENT,
                       "the parent's data are gone (no data.shard beside %s): name old rows with --replay, "
                       "or any prompts "
                       "such as data/corpus without labels, which the parent then labels",
                       predict_path(r->parent));
    for (int s = SPLIT_TRAIN; rc == ERR_OK && s < SPLIT_COUNT; s++) {
        Rows rows = {0};
        rc = rows_read_shard(&rows, shard, (Split)s, false, predict_labels(r->parent), r->old, err);
        if (rc == ERR_OK) rc = put_old(g, &rows, (Split)s, err);
        rows_free(&rows);
    }
    return rc;
}

static ErrCode divide(const char *to, char *from, const SplitRule *split, const AddRowsRule *r, Err *err) {
    PartitionReport report = {0};
    const PartitionRule rule = {.inputs = {&from, 1},
                                .split = *split,
                                .near = r->near,
                                .given = PARTITION_KEEP,
                                .out = to,
                                .threads = r->threads};
    const ErrCode rc = partition_write(&report, &rule, err);
    partition_report_free(&report);
    return rc;
}

/* What was divided, into memory. */
static ErrCode read_divided(AddRows *a, const char *path, const AddRowsRule *r, Err *err) {
    static char *members[] = {"split", "origin"};
    const RowsRule rule = {.split = SPLIT_COUNT, .members = {members, 2}};
    TRY(rows_read(&a->rows, path, &rule, r->labels, r->K, err));
    const size_t n = a->count = a->rows.count;
    TRY(rows_views(&a->texts, &a->labels, &a->rows, err));
    TRY(mem_new(&a->was, n + 1, sizeof *a->was, "the rows", err));
    TRY(mem_new(&a->new, n + 1, sizeof *a->new, "the rows", err));
    TRY(mem_new(&a->split, n + 1, sizeof *a->split, "the rows", err));
    TRY(mem_new(&a->weight, n + 1, sizeof *a->weight, "the rows", err));
    for (size_t i = 0; i < n; i++) {
        a->was[i] = -1;
        a->weight[i] = 1;
        TRY(split_tag(&a->split[i], &a->rows, i, err));
        a->new[i] = strcmp(a->rows.values[1].items[rows_tag(&a->rows, i, 1)], ORIGINS[NEW]) == 0;
    }
    return ERR_OK;
}

static ErrCode check_counts(const AddRows *a, const AddRowsRule *r, Err *err) {
    uint64_t old = 0;
    for (int k = r->old; k < r->K; k++) {
        uint64_t train = 0;
        for (size_t i = 0; i < a->count; i++) train += a->labels[i] == k && a->split[i] == SPLIT_TRAIN;
        if (train < ADD_ROWS_MIN)
            return err_set(err, ERR_ARGUMENT,
                           "domain '%.100s' has %llu train rows, expected at least %d: a label cannot be "
                           "learnt from fewer",
                           r->labels[k], (unsigned long long)train, ADD_ROWS_MIN);
    }
    for (size_t i = 0; i < a->count; i++) old += !a->new[i] && a->split[i] == SPLIT_TRAIN;
    return old ? ERR_OK : err_set(err, ERR_ARGUMENT, "there are no old train rows to replay");
}

static ErrCode gather(Gather *g, char *mixed, const char *divided, Err *err) {
    const AddRowsRule *r = g->rule;
    TRY(jsonl_create(&g->file, mixed, err));
    TRY(put_new(g, err));
    TRY(put_replay(g, err));
    TRY(jsonl_commit(&g->file, err));
    TRY(divide(divided, mixed, &g->split, r, err));
    TRY(read_divided(g->out, divided, r, err));
    return check_counts(g->out, r, err);
}

ErrCode add_rows_gather(AddRows *out, const AddRowsRule *rule, Err *err) {
    Gather g = {.out = out, .rule = rule};
    *out = (AddRows){0};
    char *mixed = file_join(rule->folder, "mixed.jsonl.tmp"),
         *divided = file_join(rule->folder, "divided.jsonl.tmp");
    ErrCode rc = mixed && divided ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (rc == ERR_OK) rc = gather(&g, mixed, divided, err);
    jsonl_abort(&g.file);
    buf_free(&g.line);
    mem_free(g.keys);
    if (mixed) (void)remove(mixed);
    if (divided) (void)remove(divided);
    mem_free(mixed);
    mem_free(divided);
    if (rc != ERR_OK) add_rows_free(out);
    return rc;
}

void add_rows_free(AddRows *a) {
    rows_free(&a->rows);
    mem_free(a->texts);
    mem_free(a->labels);
    mem_free(a->was);
    mem_free(a->new);
    mem_free(a->split);
    mem_free(a->weight);
    *a = (AddRows){0};
}

/* ---- what training reads ---- */

static double visits(double wanted, uint64_t rows) {
    const double each = rows ? wanted / (double)rows : 0;
    return each > ADD_ROWS_VISITS ? ADD_ROWS_VISITS : each;
}

void add_rows_weigh(AddRows *a, const AddRowsRule *r) {
    const double seen = (double)(a->steps * r->batch), each_new = seen * a->new_share / (r->K - r->old);
    uint64_t old = 0;
    double left = seen;
    for (int k = r->old; k < r->K; k++) {
        uint64_t rows = 0;
        for (size_t i = 0; i < a->count; i++) rows += a->labels[i] == k && a->split[i] == SPLIT_TRAIN;
        const double weight = visits(each_new, rows);
        for (size_t i = 0; i < a->count; i++)
            if (a->labels[i] == k) a->weight[i] = weight;
        left -= weight * (double)rows;
    }
    for (size_t i = 0; i < a->count; i++) old += a->labels[i] < r->old && a->split[i] == SPLIT_TRAIN;
    for (size_t i = 0; i < a->count; i++)
        if (a->labels[i] < r->old) a->weight[i] = visits(left, old);
}

ErrCode add_rows_save(const AddRows *a, const char *const *labels, const char *path, Err *err) {
    Jsonl file = {0};
    Buf line = {0};
    ErrCode rc = jsonl_create(&file, path, err);
    for (size_t i = 0; rc == ERR_OK && i < a->count; i++) {
        put_row(&line, &a->rows, i, labels[a->labels[i]], a->split[i]);
        buf_printf(&line, ", \"origin\": \"%s\"", ORIGINS[a->new[i]]);
        if (a->split[i] == SPLIT_TRAIN) buf_printf(&line, ", \"sample_weight\": %.9g", a->weight[i]);
        if (a->was[i] >= 0) {
            buf_puts(&line, ", \"was\": ");
            text_put_json(&line, labels[a->was[i]], strlen(labels[a->was[i]]));
        }
        rc = put_line(&file, &line, err);
    }
    if (rc == ERR_OK) rc = jsonl_commit(&file, err);
    jsonl_abort(&file);
    buf_free(&line);
    return rc;
}
