#include "data/corpus.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/dedup.h"
#include "data/inputs.h"
#include "data/names.h"
#include "data/scan.h"

enum {
    GROUP_ROWS = 2048,
    GROUP_BYTES = 8 << 20,
    KEEP_BYTES = 1 << 20, /* a larger id buffer is not kept for the next group */
    MESSAGES = 3,
    LABELS_MAX = 4096
};
static const char VERSION[] = "router shard content 2";

typedef struct {
    uint64_t row;
    uint32_t file, line, source;
    int label;
    float weight;
    size_t text_at;
} Waiting;

typedef struct {
    const char *path;
    const CorpusRule *rule;
    const Tokenizer *tokenizer;
    Threads *threads;
    Inputs inputs;
    char digest[SHA256_HEX];
    Names labels, sources;
    size_t given_labels;
    int *place; /* of a label in the shard, by its index in labels */
    const char **ordered;
    SplitPlan *plan;
    Dedup *dedup;                             /* during the first pass, unless only equal texts count */
    bool second;                              /* pass */
    uint64_t rows, taken, chain, taken_chain; /* of the first pass, of the second */
    uint64_t skipped, truncated;
    char *messages[MESSAGES];
    size_t message_count;
    Waiting *waiting;
    TokenizerJob *jobs;
    size_t waiting_count;
    Buf text;
    ShardWriter *writer;
} Job;

typedef struct {
    const Record *record;
    const DedupSignature *signature; /* its values in the first pass only, see Job.dedup */
    uint32_t file, line;
    int label;
    float weight;
    Split given;
} Row;

/* ---- options ---- */

ErrCode corpus_rule(CorpusRule *out, const CorpusOptions *o, const FlagList *inputs, Err *err) {
    *out = (CorpusRule){
        .inputs = *inputs,
        .record = {o->text_field, o->label_field, false},
        .labels_closed = o->labels.count > 0,
        .split = {o->dev_share, o->calibration_share, o->test_share, (uint64_t)o->seed, false},
        .near = o->near,
        .max_tokens = (int)o->max_length,
        .plain = o->plain,
        .skip_bad = o->skip_bad,
    };
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < o->labels.count && rc == ERR_OK; i++) {
        for (const char *at = o->labels.items[i];;) {
            const size_t n = strcspn(at, ",");
            rc = flags_list_add(&out->labels, at, n, err);
            if (rc != ERR_OK || at[n] == 0) break;
            at += n + 1;
        }
    }
    if (rc != ERR_OK) corpus_rule_free(out);
    return rc;
}

void corpus_rule_free(CorpusRule *rule) {
    flags_list_free(&rule->labels);
    flags_list_free(&rule->retired);
}

/* ---- digest ---- */

/* With its length, so that no two lists of texts look alike; NULL differs from "". */
static void add_text(Sha256 *sha, const char *text) {
    char head[32];
    const size_t n = text ? strlen(text) : 0;
    const int len = snprintf(head, sizeof head, text ? "%zu:" : "none;", n);
    sha256_add(sha, head, (size_t)len);
    if (n) sha256_add(sha, text, n);
}

static ErrCode add_file(Sha256 *sha, const char *path, Err *err) {
    unsigned char digest[SHA256_BYTES];
    TRY(sha256_file(digest, NULL, path, err));
    sha256_add(sha, digest, sizeof digest);
    return ERR_OK;
}

static ErrCode make_digest(Job *j, Err *err) {
    const CorpusRule *r = j->rule;
    Sha256 sha;
    sha256_init(&sha);
    add_text(&sha, VERSION);
    add_text(&sha, tokenizer_digest(j->tokenizer));
    add_text(&sha, r->record.text_field);
    add_text(&sha, r->record.label_field);
    char numbers[256];
    (void)snprintf(numbers, sizeof numbers, "%.17g %.17g %.17g %.17g %llu %d %d %d %d %zu", r->split.dev,
                   r->split.calibration, r->split.test, r->near, (unsigned long long)r->split.seed,
                   r->max_tokens, r->plain, r->skip_bad, r->labels_closed, r->labels.count);
    add_text(&sha, numbers);
    for (size_t i = 0; i < r->labels.count; i++) add_text(&sha, r->labels.items[i]);
    if (r->retired.count) add_text(&sha, "retired"); /* without any the digest is what it always was */
    for (size_t i = 0; i < r->retired.count; i++) add_text(&sha, r->retired.items[i]);
    for (size_t i = 0; i < j->inputs.count; i++) {
        (void)snprintf(numbers, sizeof numbers, "%.9g", (double)j->inputs.items[i].weight);
        add_text(&sha, numbers);
        TRY(add_file(&sha, j->inputs.items[i].path, err));
    }
    unsigned char digest[SHA256_BYTES];
    sha256_end(&sha, digest);
    sha256_hex(j->digest, digest);
    return ERR_OK;
}

/* Whether `path` holds this very content, every block of it undamaged. */
static bool is_current(const Job *j) {
    Shard *shard;
    if (shard_open(&shard, j->path, NULL) != ERR_OK) return false;
    bool same = strcmp(shard_info(shard)->content_digest, j->digest) == 0;
    ShardBlock block = {0};
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
        for (size_t i = 0; i < shard_blocks(shard, s) && same; i++)
            same = shard_read(shard, &block, s, i, true, NULL) == ERR_OK;
    shard_block_free(&block);
    shard_close(shard);
    return same;
}

static ErrCode check_target(const char *path, Err *err) {
    if (!file_exists(path)) return ERR_OK;
    File file;
    char head[6] = "";
    TRY(file_open(&file, path, err));
    ErrCode rc = ERR_OK;
    if (file.size >= sizeof head) rc = file_read_at(&file, head, 0, sizeof head, err);
    if (rc == ERR_OK && file.size > 0 && memcmp(head, "RSHARD", sizeof head) != 0)
        rc = err_set(err, ERR_ARGUMENT, "%s: is there already and is no shard: choose another name", path);
    file_close(&file);
    return rc;
}

/* ---- rows ---- */

static ErrCode unknown_label(const Job *j, const char *label, Err *err) {
    const size_t n = j->given_labels;
    char shown[104], list[200] = "";
    text_excerpt(shown, 100, label, strlen(label));
    const char *near = text_nearest(label, (const char *const *)j->labels.items, n);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (at + strlen(j->labels.items[i]) + 8 > sizeof list) {
            (void)snprintf(list + at, sizeof list - at, ", ...");
            break;
        }
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", j->labels.items[i]);
    }
    return err_set(err, ERR_FORMAT, "label '%s' is not one of the %zu: %s%s%s%s", shown, n, list,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static ErrCode refuse_retired(const Job *j, const char *label, Err *err) {
    const FlagList *retired = &j->rule->retired;
    char shown[104];
    for (size_t i = 0; i < retired->count; i++)
        if (strcmp(retired->items[i], label) == 0)
            return err_set(err, ERR_FORMAT, "label '%s' is retired (router_taxonomy): no row may have it",
                           text_excerpt(shown, 100, label, strlen(label)));
    return ERR_OK;
}

/* What else can be wrong with a row: ERR_FORMAT. */
static ErrCode judge(Row *row, Job *j, Err *err) {
    const Record *record = row->record;
    row->given = record->split ? split_find(record->split) : SPLIT_COUNT;
    if (record->split && row->given == SPLIT_COUNT)
        return err_set(err, ERR_FORMAT, "split '%.100s' is not one of train, dev, calibration, test",
                       record->split);
    row->weight = (float)((double)j->inputs.items[row->file].weight * record->weight);
    if (!(row->weight > 0 && row->weight <= 1000))
        return err_set(err, ERR_FORMAT,
                       "sample_weight %g times the file's weight %g is %g, expected at most 1000",
                       record->weight, (double)j->inputs.items[row->file].weight, (double)row->weight);
    size_t label = names_find(&j->labels, record->label);
    if (label == SIZE_MAX && j->rule->labels_closed) return unknown_label(j, record->label, err);
    TRY(refuse_retired(j, record->label, err));
    if (label == SIZE_MAX && j->second)
        return err_set(err, ERR_IO, "label '%.100s' was not there when the file was read before",
                       record->label);
    if (label == SIZE_MAX && j->labels.count == LABELS_MAX)
        return err_set(err, ERR_ARGUMENT, "more than %d different labels: is this really the label?",
                       LABELS_MAX);
    if (label == SIZE_MAX) TRY(names_add(&label, &j->labels, record->label, err));
    row->label = (int)label;
    return ERR_OK;
}

static ErrCode note_skipped(Job *j, const Err *why, Err *err) {
    if (j->second) return ERR_OK;
    j->skipped++;
    if (j->message_count == MESSAGES) return ERR_OK;
    char *copy = mem_strdup(why->msg);
    if (!copy) return err_set(err, ERR_MEMORY, "out of memory for a message");
    j->messages[j->message_count++] = copy;
    return ERR_OK;
}

static void sign_row(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)thread;
    const Job *j = arg;
    DedupSignature *signature = slot;
    if (!row->record) return;
    if (j->dedup)
        dedup_signature(signature, row->record->text, row->record->text_len);
    else
        signature->key = split_text_key(row->record->text, row->record->text_len);
}

static ErrCode count_row(Job *j, const Row *row, Err *err);
static ErrCode take_row(Job *j, const Row *row, Err *err);

static ErrCode scan_row(void *arg, const ScanRow *scanned, const void *slot, Err *err) {
    Job *j = arg;
    Row row = {.record = scanned->record,
               .signature = slot,
               .file = scanned->file,
               .line = scanned->line < UINT32_MAX ? (uint32_t)scanned->line : UINT32_MAX};
    Err why = {0};
    ErrCode rc = row.record ? judge(&row, j, &why) : err_set(&why, ERR_FORMAT, "%s", scanned->why);
    if (rc == ERR_OK) return j->second ? take_row(j, &row, err) : count_row(j, &row, err);
    const ErrCode kind = rc;
    (void)err_context(&why, kind, "%s:%llu", j->inputs.items[row.file].name,
                      (unsigned long long)scanned->line);
    return kind == ERR_FORMAT && j->rule->skip_bad ? note_skipped(j, &why, err)
                                                   : err_set(err, kind, "%s", why.msg);
}

static ErrCode read_inputs(Job *j, Progress *progress, Err *err) {
    const Scan scan = {.inputs = &j->inputs,
                       .record = {j->rule->record.text_field, j->rule->record.label_field, false},
                       .slot_bytes = sizeof(DedupSignature),
                       .work = sign_row,
                       .take = scan_row,
                       .arg = j,
                       .threads = j->threads,
                       .progress = progress};
    return scan_rows(&scan, err);
}

static uint64_t chain(uint64_t before, uint64_t key, const Row *row) {
    return rng_mix(before ^ key) + rng_mix((uint64_t)row->label << 8 | (uint64_t)row->given);
}

static ErrCode count_row(Job *j, const Row *row, Err *err) {
    TRY(split_add(j->plan, row->signature->key, row->label, row->given, err));
    if (j->dedup) TRY(dedup_add(j->dedup, row->signature, err));
    j->rows++;
    j->chain = chain(j->chain, row->signature->key, row);
    return ERR_OK;
}

static ErrCode write_group(Job *j, Err *err) {
    if (j->waiting_count == 0) return ERR_OK;
    if (stop_requested()) return err_set(err, ERR_INTERRUPTED, "interrupted; nothing was written");
    for (size_t i = 0; i < j->waiting_count; i++) j->jobs[i].text = j->text.data + j->waiting[i].text_at;
    const TokenizerRule rule = {.plain = j->rule->plain, .max_tokens = j->rule->max_tokens};
    TRY(tokenizer_encode_all(j->tokenizer, &rule, j->jobs, j->waiting_count, j->threads, err));
    for (size_t i = 0; i < j->waiting_count; i++) {
        TokenizerJob *job = &j->jobs[i];
        const Waiting *w = &j->waiting[i];
        const size_t tokens = job->ids.len / sizeof(int32_t);
        const ShardRow row = {.ids = (const int32_t *)(const void *)job->ids.data,
                              .tokens = (int)tokens,
                              .truncated = job->whole > tokens,
                              .label = w->label,
                              .weight = w->weight,
                              .split = split_of(j->plan, w->row),
                              .file = w->file,
                              .line = w->line,
                              .source = w->source,
                              .text = job->text,
                              .text_len = job->n};
        j->truncated += row.truncated;
        TRY(shard_append(j->writer, &row, err));
        if (job->ids.cap > KEEP_BYTES) buf_free(&job->ids);
    }
    j->waiting_count = 0;
    buf_clear(&j->text);
    if (j->rule->progress)
        progress_update(j->rule->progress, j->taken, "%llu rows", (unsigned long long)j->taken);
    return ERR_OK;
}

static ErrCode source_of(uint32_t *source, Job *j, const char *name, Err *err) {
    if (!name) name = "";
    size_t at = names_find(&j->sources, name);
    if (at == SIZE_MAX)
        TRY(names_add(&at, &j->sources, j->sources.count < CORPUS_SOURCES ? name : "(other)", err));
    *source = (uint32_t)at;
    return ERR_OK;
}

static ErrCode take_row(Job *j, const Row *row, Err *err) {
    const Record *r = row->record;
    j->taken_chain = chain(j->taken_chain, row->signature->key, row);
    if (j->taken == j->rows)
        return err_set(err, ERR_IO, "%s: grew while it was read", j->inputs.items[row->file].name);
    if (j->waiting_count == GROUP_ROWS || j->text.len + r->text_len > GROUP_BYTES) TRY(write_group(j, err));
    Waiting *w = &j->waiting[j->waiting_count];
    *w = (Waiting){.row = j->taken++,
                   .file = row->file,
                   .line = row->line,
                   .label = j->place[row->label],
                   .weight = row->weight,
                   .text_at = j->text.len};
    TRY(source_of(&w->source, j, r->source, err));
    j->jobs[j->waiting_count].n = r->text_len;
    buf_put(&j->text, r->text, r->text_len);
    TRY(buf_ok(&j->text, err));
    j->waiting_count++;
    return ERR_OK;
}

/* ---- the two passes ---- */

static ErrCode start_labels(Job *j, Err *err) {
    const FlagList *given = &j->rule->labels;
    for (size_t i = 0; i < given->count; i++) {
        const char *label = given->items[i];
        size_t at;
        if (text_is_blank(label, strlen(label))) return err_set(err, ERR_ARGUMENT, "labels: an empty label");
        TRY(names_add(&at, &j->labels, label, err));
        if (at != i) return err_set(err, ERR_ARGUMENT, "labels: '%.100s' is given twice", label);
    }
    if (given->count > LABELS_MAX)
        return err_set(err, ERR_ARGUMENT, "labels: found %zu, expected at most %d", given->count, LABELS_MAX);
    j->given_labels = given->count;
    return ERR_OK;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The labels of the shard: those given in their order, then the others by bytes. */
static ErrCode order_labels(Job *j, Err *err) {
    const size_t n = j->labels.count;
    TRY(mem_new(&j->ordered, n, sizeof *j->ordered, "the labels", err));
    TRY(mem_new(&j->place, n, sizeof *j->place, "the labels", err));
    for (size_t i = 0; i < n; i++) j->ordered[i] = j->labels.items[i];
    if (n > j->given_labels)
        qsort(j->ordered + j->given_labels, n - j->given_labels, sizeof *j->ordered, by_bytes);
    for (size_t i = 0; i < n; i++) j->place[names_find(&j->labels, j->ordered[i])] = (int)i;
    return ERR_OK;
}

/* Near-duplicates share a side. Their signatures, the most that is kept of a row, go first. */
static ErrCode join_near(Job *j, Err *err) {
    if (!j->dedup) return ERR_OK;
    TRY(dedup_group(j->dedup, j->threads, err));
    for (uint32_t i = 0; i < dedup_rows(j->dedup); i++) split_join(j->plan, i, dedup_first(j->dedup, i));
    dedup_close(j->dedup);
    j->dedup = NULL;
    return ERR_OK;
}

static ErrCode first_pass(Job *j, Err *err) {
    TRY(start_labels(j, err));
    TRY(split_open(&j->plan, &j->rule->split, err));
    if (j->rule->near < 1) TRY(dedup_open(&j->dedup, j->rule->near, err));
    if (j->rule->progress) progress_begin(j->rule->progress, "read", 0, 0);
    const ErrCode rc = read_inputs(j, j->rule->progress, err);
    if (j->rule->progress) progress_end(j->rule->progress);
    TRY(rc);
    if (j->rows == 0)
        return err_set(err, ERR_FORMAT, "%s%s: no rows%s%s", j->inputs.items[0].name,
                       j->inputs.count > 1 ? " and the other inputs" : "",
                       j->message_count ? "; the first bad one: " : "",
                       j->message_count ? j->messages[0] : "");
    TRY(join_near(j, err));
    TRY(split_decide(j->plan, err));
    return order_labels(j, err);
}

static ErrCode second_pass(Job *j, Err *err) {
    j->second = true;
    TRY(mem_new(&j->waiting, GROUP_ROWS, sizeof *j->waiting, "a group of rows", err));
    TRY(mem_new(&j->jobs, GROUP_ROWS, sizeof *j->jobs, "a group of rows", err));
    TRY(shard_create(&j->writer, j->path, err));
    if (j->rule->progress) progress_begin(j->rule->progress, "pack", j->rows, 0);
    TRY(read_inputs(j, NULL, err));
    TRY(write_group(j, err));
    if (j->taken != j->rows || j->taken_chain != j->chain)
        return err_set(err, ERR_IO, "the inputs changed while they were read; nothing was written");
    const char **files;
    TRY(mem_new(&files, j->inputs.count, sizeof *files, "the names of the inputs", err));
    for (size_t i = 0; i < j->inputs.count; i++) files[i] = j->inputs.items[i].name;
    const ShardInfo info = {.tokenizer_digest = tokenizer_digest(j->tokenizer),
                            .content_digest = j->digest,
                            .max_tokens = j->rule->max_tokens,
                            .vocabulary = tokenizer_ids(j->tokenizer),
                            .labels = j->ordered,
                            .label_count = (int)j->labels.count,
                            .files = files,
                            .file_count = j->inputs.count,
                            .sources = (const char *const *)j->sources.items,
                            .source_count = j->sources.count,
                            .split = split_report(j->plan),
                            .skipped = j->skipped,
                            .truncated = j->truncated,
                            .messages = (const char *const *)j->messages,
                            .message_count = j->message_count};
    const ErrCode rc = shard_finish(j->writer, &info, err);
    j->writer = NULL; /* freed in any case */
    mem_free(files);
    return rc;
}

static void job_free(Job *j) {
    inputs_close(&j->inputs);
    names_free(&j->labels);
    names_free(&j->sources);
    mem_free(j->place);
    mem_free(j->ordered);
    split_close(j->plan);
    dedup_close(j->dedup);
    for (size_t i = 0; i < j->message_count; i++) mem_free(j->messages[i]);
    mem_free(j->waiting);
    for (size_t i = 0; j->jobs && i < GROUP_ROWS; i++) buf_free(&j->jobs[i].ids);
    mem_free(j->jobs);
    buf_free(&j->text);
    shard_abort(j->writer);
}

ErrCode corpus_pack(const char *path, const CorpusRule *rule, const Tokenizer *tokenizer, Threads *threads,
                    bool *reused, Err *err) {
    *reused = false;
    Job job = {.path = path, .rule = rule, .tokenizer = tokenizer, .threads = threads};
    if (rule->max_tokens < 3 || rule->max_tokens > SHARD_ROW_TOKENS)
        return err_set(err, ERR_ARGUMENT, "max_length: found %d, expected 3 to %d", rule->max_tokens,
                       SHARD_ROW_TOKENS);
    ErrCode rc = check_target(path, err);
    if (rc == ERR_OK) rc = inputs_open(&job.inputs, &rule->inputs, path, err);
    if (rc == ERR_OK) rc = make_digest(&job, err);
    if (rc == ERR_OK && file_exists(path) && is_current(&job)) {
        *reused = true;
    } else {
        if (rc == ERR_OK) rc = first_pass(&job, err);
        if (rc == ERR_OK) rc = second_pass(&job, err);
        if (rule->progress && job.second) progress_end(rule->progress);
    }
    job_free(&job);
    return rc;
}
