#include "data/partition.h"

#include <stdio.h>
#include <string.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/mem.h"
#include "core/rng.h"
#include "data/dedup.h"
#include "data/inputs.h"
#include "data/jsonl.h"
#include "data/members.h"
#include "data/scan.h"

/* One member of --group-by: its values, and the first row that has each. */
typedef struct {
    const char *member;
    Names values;
    uint32_t *first;
    size_t cap;
} GroupBy;

/* One value of --hold-out. */
typedef struct {
    char *member, *value;
    Split split;
    uint64_t rows;
} HoldOut;

/* What groups and labels are made from; of the inputs, and then of what was written. */
typedef struct {
    const PartitionRule *rule;
    const Inputs *inputs;
    PartitionGiven given;
    SplitPlan *plan;
    Dedup *dedup; /* NULL: only equal texts count */
    GroupBy *by;  /* (rule->group_by.count) */
    HoldOut *hold_out;
    size_t hold_out_count;
    Names labels;
    uint64_t (*label_rows)[SPLIT_COUNT]; /* (labels): rows that say their split */
    size_t label_cap;
    Buf value; /* of a member, as text */
    uint64_t rows, skipped, chain;
} Gather;

typedef struct {
    Gather gather;
    Inputs inputs;
    Jsonl file[SPLIT_COUNT];
    char *path[SPLIT_COUNT];
    size_t file_count; /* 1: all splits in one */
    Buf line;
    uint64_t taken, chain, left_out; /* of the second pass */
} Job;

/* ---- values ---- */

/* A member's value as text, into g->value; false when there is none. */
static ErrCode value_of(bool *found, Gather *g, const cJSON *tree, const char *member, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(tree, member);
    *found = item && !cJSON_IsNull(item);
    buf_clear(&g->value);
    if (!*found) return ERR_OK;
    if (cJSON_IsString(item)) {
        buf_puts(&g->value, item->valuestring);
    } else {
        char *text = cJSON_PrintUnformatted(item);
        if (!text) return err_set(err, ERR_MEMORY, "out of memory for a value");
        buf_puts(&g->value, text);
        cJSON_free(text);
    }
    buf_put(&g->value, "", 0); /* "" is a string too */
    return buf_ok(&g->value, err);
}

static ErrCode join_by(Gather *g, const cJSON *tree, Err *err) {
    for (size_t i = 0; i < g->rule->group_by.count; i++) {
        GroupBy *by = &g->by[i];
        bool found;
        TRY(value_of(&found, g, tree, by->member, err));
        if (!found) continue;
        const size_t before = by->values.count;
        size_t at;
        TRY(names_add(&at, &by->values, g->value.data, err));
        if (by->values.count == before) {
            split_join(g->plan, by->first[at], g->rows);
            continue;
        }
        if (at == by->cap) {
            const size_t cap = 2 * by->cap + 64;
            uint32_t *more = mem_resize(by->first, cap, sizeof *more);
            if (!more) return err_set(err, ERR_MEMORY, "out of memory for the values of %.100s", by->member);
            by->first = more;
            by->cap = cap;
        }
        by->first[at] = (uint32_t)g->rows;
    }
    return ERR_OK;
}

static ErrCode held_out(Split *out, Gather *g, const cJSON *tree, Err *err) {
    for (size_t i = 0; i < g->hold_out_count; i++) {
        bool found;
        TRY(value_of(&found, g, tree, g->hold_out[i].member, err));
        if (!found || strcmp(g->value.data, g->hold_out[i].value) != 0) continue;
        g->hold_out[i].rows++;
        *out = g->hold_out[i].split;
        return ERR_OK;
    }
    return ERR_OK;
}

/* ---- first pass, and the proof ---- */

static void sign_row(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)thread;
    const Gather *g = arg;
    DedupSignature *signature = slot;
    if (!row->record) return;
    if (g->dedup)
        dedup_signature(signature, row->record->text, row->record->text_len);
    else
        signature->key = split_text_key(row->record->text, row->record->text_len);
}

static uint64_t chain_of(uint64_t before, uint64_t key) {
    return rng_mix(before ^ key) + 1;
}

static ErrCode given_of(Split *out, const Gather *g, const ScanRow *row, Err *err) {
    *out = SPLIT_COUNT;
    const char *name = row->record->split;
    if (g->given == PARTITION_ANEW || !name) return ERR_OK;
    *out = split_find(name);
    if (*out != SPLIT_COUNT) return ERR_OK;
    return err_set(err, ERR_FORMAT, "%s:%llu: split '%.100s' is not one of train, dev, calibration, test",
                   g->inputs->items[row->file].name, (unsigned long long)row->line, name);
}

static ErrCode count_label(size_t *label, Gather *g, const char *name, Err *err) {
    TRY(names_add(label, &g->labels, name ? name : "", err));
    if (*label < g->label_cap) return ERR_OK;
    const size_t cap = 2 * g->label_cap + 16;
    uint64_t(*more)[SPLIT_COUNT] = mem_resize(g->label_rows, cap, sizeof *more);
    if (!more) return err_set(err, ERR_MEMORY, "out of memory for the labels");
    memset(more + g->label_cap, 0, (cap - g->label_cap) * sizeof *more);
    g->label_rows = more;
    g->label_cap = cap;
    return ERR_OK;
}

static ErrCode gather_row(void *arg, const ScanRow *row, const void *slot, Err *err) {
    Gather *g = arg;
    const DedupSignature *signature = slot;
    if (!row->record) {
        if (!g->rule->skip_bad) return scan_bad_row(g->inputs, row, err);
        g->skipped++;
        return ERR_OK;
    }
    size_t label;
    Split given;
    TRY(count_label(&label, g, row->record->label, err));
    TRY(given_of(&given, g, row, err));
    if (given != SPLIT_COUNT) g->label_rows[label][given]++;
    TRY(held_out(&given, g, row->record->tree, err));
    TRY(split_add(g->plan, signature->key, (int)label, given, err));
    if (g->dedup) TRY(dedup_add(g->dedup, signature, err));
    TRY(join_by(g, row->record->tree, err));
    g->rows++;
    g->chain = chain_of(g->chain, signature->key);
    return ERR_OK;
}

static ErrCode scan(const Inputs *inputs, const PartitionRule *rule,
                    void (*work)(void *, const ScanRow *, void *, int),
                    ErrCode (*take)(void *, const ScanRow *, const void *, Err *), void *arg,
                    const char *what, Err *err) {
    if (rule->progress) progress_begin(rule->progress, what, 0, 0);
    const Scan s = {.inputs = inputs,
                    .record = {rule->record.text_field, rule->record.label_field, true},
                    .slot_bytes = sizeof(DedupSignature),
                    .work = work,
                    .take = take,
                    .arg = arg,
                    .threads = rule->threads,
                    .progress = rule->progress};
    const ErrCode rc = scan_rows(&s, err);
    if (rule->progress) progress_end(rule->progress);
    return rc;
}

/* Rows, groups and sides. */
static ErrCode gather(Gather *g, const char *what, Err *err) {
    const PartitionRule *rule = g->rule;
    if (rule->near < 1) TRY(dedup_open(&g->dedup, rule->near, err));
    if (rule->group_by.count) TRY(mem_new(&g->by, rule->group_by.count, sizeof *g->by, "the groups", err));
    for (size_t i = 0; i < rule->group_by.count; i++) g->by[i].member = rule->group_by.items[i];
    TRY(scan(g->inputs, rule, sign_row, gather_row, g, what, err));
    if (g->dedup) TRY(dedup_group(g->dedup, rule->threads, err));
    for (uint32_t i = 0; g->dedup && i < dedup_rows(g->dedup); i++)
        split_join(g->plan, i, dedup_first(g->dedup, i));
    dedup_close(g->dedup); /* the most of the memory */
    g->dedup = NULL;
    return split_decide(g->plan, err);
}

static void gather_free(Gather *g) {
    split_close(g->plan);
    dedup_close(g->dedup);
    for (size_t i = 0; g->by && i < g->rule->group_by.count; i++) {
        names_free(&g->by[i].values);
        mem_free(g->by[i].first);
    }
    mem_free(g->by);
    for (size_t i = 0; i < g->hold_out_count; i++) {
        mem_free(g->hold_out[i].member);
        mem_free(g->hold_out[i].value);
    }
    mem_free(g->hold_out);
    names_free(&g->labels);
    mem_free(g->label_rows);
    buf_free(&g->value);
}

/* ---- options ---- */

static ErrCode add_hold_out(Gather *g, const char *member, size_t member_len, const char *value,
                            size_t value_len, Split split, Err *err) {
    HoldOut *more = mem_resize(g->hold_out, g->hold_out_count + 1, sizeof *more);
    if (!more) return err_set(err, ERR_MEMORY, "out of memory for what is held out");
    g->hold_out = more;
    HoldOut *new = &more[g->hold_out_count++];
    *new = (HoldOut){mem_strndup(member, member_len), mem_strndup(value, value_len), split, 0};
    return new->member &&new->value ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for what is held out");
}

/* "source=a,b", "dev:source=a". */
static ErrCode read_hold_out(Gather *g, const char *given, Err *err) {
    const char *colon = strchr(given, ':'), *member = given, *equals = strchr(given, '=');
    Split split = SPLIT_TEST;
    if (colon && equals && colon < equals) {
        char name[32];
        (void)snprintf(name, sizeof name, "%.*s", (int)(colon - given < 31 ? colon - given : 31), given);
        const Split found = split_find(name);
        if (found != SPLIT_COUNT) {
            split = found;
            member = colon + 1;
        }
    }
    if (!equals || equals == member || !equals[1])
        return err_set(err, ERR_ARGUMENT,
                       "--hold-out: found '%.200s', expected MEMBER=VALUE[,VALUE...] or SPLIT:MEMBER=...",
                       given);
    for (const char *at = equals + 1;;) {
        const size_t n = strcspn(at, ",");
        TRY(add_hold_out(g, member, (size_t)(equals - member), at, n, split, err));
        if (!at[n]) return ERR_OK;
        at += n + 1;
    }
}

static ErrCode check_hold_out(const Gather *g, Err *err) {
    for (size_t i = 0; i < g->hold_out_count; i++)
        if (g->hold_out[i].rows == 0)
            return err_set(err, ERR_ARGUMENT, "--hold-out: no row has %.100s = '%.200s'",
                           g->hold_out[i].member, g->hold_out[i].value);
    return ERR_OK;
}

/* ---- second pass ---- */

static void key_row(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)arg;
    (void)thread;
    if (row->record) ((DedupSignature *)slot)->key = split_text_key(row->record->text, row->record->text_len);
}

/* The line with its split: members of the text and of the parsed tree are in one order. */
static void set_split(Buf *out, const ScanRow *row, const char *split) {
    Members members;
    Member m = {0};
    const cJSON *item = row->record->tree->child;
    members_open(&members, row->json, row->json_len);
    const size_t begin = row->json_len >= 3 && memcmp(row->json, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    buf_clear(out);
    for (; item && members_next(&members, &m); item = item->next) {
        if (strcmp(item->string, "split") != 0) continue;
        buf_put(out, row->json + begin, m.value - begin);
        buf_printf(out, "\"%s\"", split);
        buf_put(out, row->json + m.end, row->json_len - m.end);
        return;
    }
    const bool spaced = m.value > m.key_end + 1; /* as its other members are written */
    buf_put(out, row->json + begin, members.tail - begin);
    buf_printf(out, "%s\"split\":%s\"%s\"",
               members.count == 0 ? ""
               : spaced           ? ", "
                                  : ",",
               spaced ? " " : "", split);
    buf_put(out, row->json + members.tail, row->json_len - members.tail);
}

static ErrCode write_row(void *arg, const ScanRow *row, const void *slot, Err *err) {
    Job *j = arg;
    if (!row->record) return j->gather.rule->skip_bad ? ERR_OK : scan_bad_row(&j->inputs, row, err);
    if (j->taken == j->gather.rows)
        return err_set(err, ERR_IO, "%s: grew while it was read", j->inputs.items[row->file].name);
    const uint64_t number = j->taken++;
    j->chain = chain_of(j->chain, ((const DedupSignature *)slot)->key);
    if (j->gather.rule->given == PARTITION_CLEAN && split_moved(j->gather.plan, number)) {
        j->left_out++;
        return ERR_OK;
    }
    const Split split = split_of(j->gather.plan, number);
    set_split(&j->line, row, split_name(split));
    TRY(buf_ok(&j->line, err));
    jsonl_put(&j->file[j->file_count == 1 ? 0 : (size_t)split], j->line.data, j->line.len);
    return ERR_OK;
}

static ErrCode name_outputs(Job *j, Err *err) {
    const PartitionRule *rule = j->gather.rule;
    j->file_count = rule->folder ? SPLIT_COUNT : 1;
    if (rule->folder) TRY(file_mkdirs(rule->out, err));
    for (size_t i = 0; i < j->file_count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%s.jsonl%s", split_name((Split)i), rule->zstd ? ".zst" : "");
        j->path[i] = rule->folder ? file_join(rule->out, name) : mem_strdup(rule->out);
        if (!j->path[i]) return err_set(err, ERR_MEMORY, "out of memory for a name");
    }
    return ERR_OK;
}

static ErrCode write_outputs(Job *j, Err *err) {
    TRY(name_outputs(j, err));
    for (size_t i = 0; i < j->file_count; i++) TRY(jsonl_create(&j->file[i], j->path[i], err));
    TRY(scan(&j->inputs, j->gather.rule, key_row, write_row, j, "write", err));
    if (j->taken != j->gather.rows || j->chain != j->gather.chain)
        return err_set(err, ERR_IO, "the inputs changed while they were read; nothing was written");
    for (size_t i = 0; i < j->file_count; i++) TRY(jsonl_commit(&j->file[i], err));
    return ERR_OK;
}

/* ---- the proof ---- */

/* Which groups of the rows that were written are in more than one split. */
static ErrCode count_groups(PartitionReport *out, const Gather *g, Err *err) {
    uint32_t *rows = NULL; /* of a group, by its first row */
    uint8_t *crosses = NULL;
    ErrCode rc = mem_new(&rows, g->rows, sizeof *rows, "the groups", err);
    if (rc == ERR_OK) rc = mem_new(&crosses, g->rows, 1, "the groups", err);
    for (uint64_t i = 0; rc == ERR_OK && i < g->rows; i++) {
        const uint64_t first = split_group(g->plan, i);
        out->groups += first == i;
        if (++rows[first] > out->largest) out->largest = rows[first];
        if (split_of(g->plan, i) != split_of(g->plan, first)) crosses[first] = 1;
    }
    for (uint64_t i = 0; rc == ERR_OK && i < g->rows; i++) {
        if (!crosses[i]) continue;
        out->crossing_groups++;
        out->crossing_rows += rows[i];
    }
    mem_free(rows);
    mem_free(crosses);
    return rc;
}

/* A plan that cuts nothing, and keeps what each row says, has the splits and the groups of what was written. */
static ErrCode prove(PartitionReport *out, const Job *j, Err *err) {
    const PartitionRule *rule = j->gather.rule;
    Inputs written = {0};
    Gather again = {.rule = rule, .inputs = &written, .given = PARTITION_KEEP};
    ErrCode rc = split_open(&again.plan, &(SplitRule){.seed = rule->split.seed}, err);
    for (size_t i = 0; i < j->file_count && rc == ERR_OK; i++)
        rc = inputs_add(&written, j->path[i], 1, j->path[i], err);
    if (rc == ERR_OK) rc = gather(&again, "prove", err);
    if (rc == ERR_OK &&
        (again.rows + j->left_out != j->gather.rows || split_report(again.plan).given != again.rows))
        rc = err_set(err, ERR_IO, "%s: changed while it was read", rule->out);
    if (rc == ERR_OK) rc = count_groups(out, &again, err);
    if (rc == ERR_OK) {
        memcpy(out->rows, split_report(again.plan).rows, sizeof out->rows);
        out->labels = again.labels;
        out->label_rows = again.label_rows;
        again.labels = (Names){0};
        again.label_rows = NULL;
    }
    gather_free(&again);
    inputs_close(&written);
    return rc;
}

/* ---- all of it ---- */

static ErrCode plan(Job *j, Err *err) {
    const PartitionRule *rule = j->gather.rule;
    SplitRule split = rule->split;
    split.whole = rule->given != PARTITION_KEEP;
    TRY(inputs_open(&j->inputs, &rule->inputs, rule->out, err));
    for (size_t i = 0; i < rule->hold_out.count; i++)
        TRY(read_hold_out(&j->gather, rule->hold_out.items[i], err));
    TRY(split_open(&j->gather.plan, &split, err));
    TRY(gather(&j->gather, "read", err));
    TRY(check_hold_out(&j->gather, err));
    return j->gather.rows ? ERR_OK : err_set(err, ERR_FORMAT, "%s: no rows", j->inputs.items[0].name);
}

ErrCode partition_write(PartitionReport *out, const PartitionRule *rule, Err *err) {
    *out = (PartitionReport){0};
    Job j = {.gather = {.rule = rule, .given = rule->given}};
    j.gather.inputs = &j.inputs;
    ErrCode rc = plan(&j, err);
    if (rc == ERR_OK) rc = write_outputs(&j, err);
    if (rc == ERR_OK) {
        out->rows_in = j.gather.rows;
        out->skipped = j.gather.skipped;
        out->left_out = j.left_out;
        out->plan = split_report(j.gather.plan);
        rc = prove(out, &j, err);
    }
    for (size_t i = 0; i < SPLIT_COUNT; i++) {
        jsonl_abort(&j.file[i]);
        mem_free(j.path[i]);
    }
    gather_free(&j.gather);
    inputs_close(&j.inputs);
    buf_free(&j.line);
    if (rc != ERR_OK) partition_report_free(out);
    return rc;
}

void partition_report_free(PartitionReport *report) {
    names_free(&report->labels);
    mem_free(report->label_rows);
    *report = (PartitionReport){0};
}
