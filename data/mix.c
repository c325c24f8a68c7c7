#include "data/mix.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/dedup.h"
#include "data/inputs.h"
#include "data/jsonl.h"
#include "data/members.h"
#include "data/overlap.h"
#include "data/scan.h"
#include "data/sort.h"

/* A row that reached the benchmarks. */
typedef struct {
    uint64_t draw; /* rows with small ones are drawn first */
    uint32_t cell;
    uint16_t copies;
    uint8_t fate;
} Row;

/* Rows of one source and label. */
typedef struct {
    uint32_t source, label;
    uint64_t rows;          /* taken, before they are repeated or drawn */
    double target;          /* lines, or weight */
    uint64_t lines, copies; /* each row is taken `copies` times, the first `extra` once more */
    uint64_t extra;
} Cell;

typedef struct {
    const MixRule *rule;
    const Manifest *m;
    MixReport *report;
    Inputs *inputs; /* (sources) */
    Inputs benchmarks;
    Overlap *overlap;
    Dedup *dedup;
    Row *rows;
    size_t row_count, row_cap;
    uint64_t *first_row; /* (sources + 1) */
    Cell *cells;
    size_t cell_count, cell_cap;
    Names cell_names; /* "source label" */
    uint32_t *order;
    uint32_t source; /* being read */
    uint64_t salt, chain, taken, taken_chain;
    Jsonl out;
    Buf line;
} Job;

typedef struct {
    DedupSignature signature; /* the key alone where nothing else is needed */
    uint8_t fate;
} Slot;

/* ---- inputs ---- */

static ErrCode add_paths(Inputs *inputs, const ManifestPaths *paths, const char *spool, uint32_t *missing,
                         Err *err) {
    for (size_t i = 0; i < paths->paths.count; i++) {
        Err why = {0};
        const ErrCode rc = inputs_add(inputs, paths->paths.items[i], 1, spool, &why);
        if (rc == ERR_IO && paths->optional)
            ++*missing;
        else if (rc != ERR_OK)
            return err_set(err, rc, "%s", why.msg);
    }
    return ERR_OK;
}

static ErrCode open_inputs(Job *j, Err *err) {
    const Manifest *m = j->m;
    MixReport *r = j->report;
    TRY(mem_new(&j->inputs, m->source_count, sizeof *j->inputs, "the sources", err));
    TRY(mem_new(&j->first_row, m->source_count + 1, sizeof *j->first_row, "the sources", err));
    TRY(mem_new(&r->sources, m->source_count, sizeof *r->sources, "the sources", err));
    TRY(mem_new(&r->files, m->source_count, sizeof *r->files, "the sources", err));
    r->source_count = m->source_count;
    for (size_t i = 0; i < m->source_count; i++) {
        uint32_t missing = 0;
        const ErrCode rc = add_paths(&j->inputs[i], &m->sources[i].files, j->rule->out, &missing, err);
        if (rc != ERR_OK) return err_context(err, rc, "%s: sources[%zu]", m->path, i);
        r->files[i] = (uint32_t)j->inputs[i].count;
    }
    for (size_t i = 0; i < m->against_count; i++) {
        const ErrCode rc = add_paths(&j->benchmarks, &m->against[i], j->rule->out, &r->against_missing, err);
        if (rc != ERR_OK) return err_context(err, rc, "%s: against", m->path);
    }
    if (!j->benchmarks.count) return ERR_OK;
    TRY(overlap_open(&j->overlap, &j->benchmarks, NULL, m->near > 0 ? m->near : 1, j->rule->threads, NULL,
                     err));
    r->against = overlap_rows(j->overlap);
    return ERR_OK;
}

/* ---- rows ---- */

static MixFate filter(const ManifestSource *s, const Record *record) {
    if (!manifest_wants(s, record->tree)) return MIX_WHERE;
    const uint64_t length = text_characters(record->text, record->text_len);
    return length < s->min_chars || length > s->max_chars ? MIX_LENGTH : MIX_TAKEN;
}

static void judge_first(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)thread;
    const Job *j = arg;
    Slot *s = slot;
    if (!row->record) return;
    const Record *record = row->record;
    s->fate = (uint8_t)filter(&j->m->sources[j->source], record);
    if (s->fate != MIX_TAKEN) return;
    if (j->dedup || j->overlap)
        dedup_signature(&s->signature, record->text, record->text_len);
    else
        s->signature.key = split_text_key(record->text, record->text_len);
    if (j->overlap &&
        overlap_find(j->overlap, record->text, record->text_len, &s->signature).row != OVERLAP_NONE)
        s->fate = MIX_AGAINST;
}

static void judge_again(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)thread;
    const Job *j = arg;
    Slot *s = slot;
    if (!row->record) return;
    s->fate = (uint8_t)filter(&j->m->sources[j->source], row->record);
    if (s->fate == MIX_TAKEN) s->signature.key = split_text_key(row->record->text, row->record->text_len);
}

/* What became of a row before benchmarks and duplicates, and its label. */
static ErrCode judge(MixFate *fate, const char **label, const Job *j, const ScanRow *row, const Slot *slot,
                     Err *err) {
    const ManifestSource *s = &j->m->sources[j->source];
    const Inputs *inputs = &j->inputs[j->source];
    Err why = {0};
    ErrCode rc = ERR_OK;
    *label = NULL;
    *fate = row->record ? (MixFate)slot->fate : MIX_BAD;
    if (!row->record) rc = err_set(&why, ERR_FORMAT, "%s", row->why);
    if (*fate == MIX_WHERE || *fate == MIX_LENGTH) return ERR_OK;
    if (rc == ERR_OK) rc = manifest_label(label, s, row->record->label, &why);
    if (rc == ERR_OK && !*label) *fate = MIX_LABEL;
    if (rc == ERR_OK && row->record->split && s->split == SPLIT_COUNT && !s->drop_split &&
        split_find(row->record->split) == SPLIT_COUNT)
        rc = err_set(&why, ERR_FORMAT,
                     "split '%.100s' is not one of train, dev, calibration, test; \"split\": \"drop\" in "
                     "the manifest passes over them",
                     row->record->split);
    if (rc == ERR_OK) return ERR_OK;
    *fate = MIX_BAD;
    if (s->skip_bad) return ERR_OK;
    return err_set(err, rc, "%s:%llu: %s (sources[%u] of %s)", inputs->items[row->file].name,
                   (unsigned long long)row->line, why.msg, (unsigned)j->source, j->m->path);
}

static ErrCode cell_of(uint32_t *out, Job *j, const char *label, Err *err) {
    size_t at, domain;
    buf_clear(&j->line);
    buf_printf(&j->line, "%u %s", (unsigned)j->source, label);
    TRY(buf_ok(&j->line, err));
    TRY(names_add(&at, &j->cell_names, j->line.data, err));
    *out = (uint32_t)at;
    if (at < j->cell_count) return ERR_OK;
    TRY(names_add(&domain, &j->report->labels, label, err));
    if (at == j->cell_cap) {
        const size_t cap = 2 * j->cell_cap + 64;
        Cell *more = mem_resize(j->cells, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for the labels");
        j->cells = more;
        j->cell_cap = cap;
    }
    j->cells[j->cell_count++] = (Cell){.source = j->source, .label = (uint32_t)domain};
    return ERR_OK;
}

static uint64_t chain_of(uint64_t before, uint64_t key) {
    return rng_mix(before ^ key) + 1;
}

static ErrCode count_row(void *arg, const ScanRow *scanned, const void *slot, Err *err) {
    Job *j = arg;
    const Slot *s = slot;
    MixCount *count = &j->report->sources[j->source];
    MixFate fate;
    const char *label;
    TRY(judge(&fate, &label, j, scanned, s, err));
    count->in++;
    if (fate != MIX_TAKEN && fate != MIX_AGAINST) {
        count->fate[fate]++;
        return ERR_OK;
    }
    if (j->row_count >= UINT32_MAX)
        return err_set(err, ERR_FORMAT, "more than %u rows", (unsigned)UINT32_MAX);
    if (j->row_count == j->row_cap) {
        const size_t cap = j->row_cap + j->row_cap / 2 + 1024;
        Row *more = mem_resize(j->rows, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for %zu rows", cap);
        j->rows = more;
        j->row_cap = cap;
    }
    Row *row = &j->rows[j->row_count];
    *row = (Row){.draw = rng_mix(s->signature.key ^ j->salt), .fate = (uint8_t)fate};
    TRY(cell_of(&row->cell, j, label, err));
    j->row_count++;
    j->chain = chain_of(j->chain, s->signature.key);
    return j->dedup && fate == MIX_TAKEN ? dedup_add(j->dedup, &s->signature, err) : ERR_OK;
}

/* ---- the decision ---- */

static ErrCode drop_duplicates(Job *j, Err *err) {
    if (!j->dedup) return ERR_OK;
    TRY(dedup_group(j->dedup, j->rule->threads, err));
    uint32_t at = 0;
    for (size_t i = 0; i < j->row_count; i++) {
        if (j->rows[i].fate != MIX_TAKEN) continue;
        const uint32_t first = dedup_first(j->dedup, at);
        if (first != at)
            j->rows[i].fate =
                dedup_at(j->dedup, first)->key == dedup_at(j->dedup, at)->key ? MIX_EQUAL : MIX_ALIKE;
        at++;
    }
    dedup_close(j->dedup); /* the most of the memory */
    j->dedup = NULL;
    return ERR_OK;
}

static bool by_draw(const void *context, uint32_t a, uint32_t b) {
    const Job *j = context;
    return j->rows[a].draw != j->rows[b].draw ? j->rows[a].draw < j->rows[b].draw : a < b;
}

static bool by_cell(const void *context, uint32_t a, uint32_t b) {
    const Job *j = context;
    return j->rows[a].cell != j->rows[b].cell ? j->rows[a].cell < j->rows[b].cell : by_draw(j, a, b);
}

/* The rows from..to-1 that are still taken, into order; their number. */
static size_t list_taken(Job *j, uint64_t from, uint64_t to) {
    size_t n = 0;
    for (uint64_t i = from; i < to; i++)
        if (j->rows[i].fate == MIX_TAKEN) j->order[n++] = (uint32_t)i;
    return n;
}

static void drop_over_cap(Job *j) {
    for (size_t s = 0; s < j->m->source_count; s++) {
        const uint64_t cap = j->m->sources[s].cap;
        const size_t n = list_taken(j, j->first_row[s], j->first_row[s + 1]);
        if (n <= cap) continue;
        sort_rows(j->order, n, by_draw, j);
        for (size_t i = (size_t)cap; i < n; i++) j->rows[j->order[i]].fate = MIX_CAP;
    }
}

/* How many lines, or how much weight, each cell should have. */
static ErrCode set_targets(Job *j, Err *err) {
    const size_t labels = j->report->labels.count;
    double *mass = NULL, all = 0, tempered = 0;
    TRY(mem_new(&mass, labels, sizeof *mass, "the domains", err));
    for (size_t i = 0; i < j->cell_count; i++) {
        Cell *c = &j->cells[i];
        c->target = (double)c->rows * j->m->sources[c->source].weight;
        mass[c->label] += c->target;
        all += c->target;
    }
    for (size_t k = 0; k < labels; k++)
        if (mass[k] > 0) tempered += pow(mass[k] / all, 1 / j->m->temperature);
    const double total = j->m->total ? (double)j->m->total : all;
    const bool scaled = j->m->total || j->m->temperature < 1 || j->m->temperature > 1;
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < j->cell_count && scaled && rc == ERR_OK; i++) {
        Cell *c = &j->cells[i];
        if (!c->rows) continue;
        const double domain = total * pow(mass[c->label] / all, 1 / j->m->temperature) / tempered;
        c->target *= domain / mass[c->label];
        if (c->target > 1000 * (double)c->rows)
            rc = err_set(err, ERR_ARGUMENT,
                         "%s: each of the %llu rows of sources[%u] with the label '%.64s' would be taken "
                         "%.0f times, more than "
                         "1000: lower temperature or total",
                         j->m->path, (unsigned long long)c->rows, (unsigned)c->source,
                         j->report->labels.items[c->label], c->target / (double)c->rows);
    }
    mem_free(mass);
    return rc;
}

static double rest_of(const Cell *c) {
    return c->target - floor(c->target);
}

static bool by_rest(const void *context, uint32_t a, uint32_t b) {
    const Cell *cells = context;
    const double x = rest_of(&cells[a]), y = rest_of(&cells[b]);
    return x > y || (x >= y && a < b);
}

/* Whole lines for each cell, the rounding such that their sum is right. */
static ErrCode set_lines(Job *j, Err *err) {
    uint32_t *order;
    double sum = 0;
    uint64_t given = 0;
    TRY(mem_new(&order, j->cell_count, sizeof *order, "the labels", err));
    for (size_t i = 0; i < j->cell_count; i++) {
        order[i] = (uint32_t)i;
        sum += j->cells[i].target;
        given += j->cells[i].lines = (uint64_t)floor(j->cells[i].target);
    }
    sort_rows(order, j->cell_count, by_rest, j->cells);
    const uint64_t wanted = (uint64_t)floor(sum + 0.5);
    for (size_t i = 0; i < j->cell_count && given < wanted; i++) {
        Cell *c = &j->cells[order[i]];
        if (!c->rows) continue;
        c->lines++;
        given++;
    }
    for (size_t i = 0; i < j->cell_count; i++) {
        Cell *c = &j->cells[i];
        if (!c->rows) continue;
        c->copies = c->lines / c->rows;
        c->extra = c->lines % c->rows;
    }
    mem_free(order);
    return ERR_OK;
}

static ErrCode decide(Job *j, Err *err) {
    TRY(drop_duplicates(j, err));
    TRY(mem_new(&j->order, j->row_count, sizeof *j->order, "the order of the rows", err));
    drop_over_cap(j);
    const size_t n = list_taken(j, 0, j->row_count);
    if (n == 0) return err_set(err, ERR_FORMAT, "%s: no rows are left", j->m->path);
    for (size_t i = 0; i < n; i++) j->cells[j->rows[j->order[i]].cell].rows++;
    TRY(set_targets(j, err));
    if (j->rule->weights) {
        for (size_t i = 0; i < n; i++) j->rows[j->order[i]].copies = 1;
    } else {
        TRY(set_lines(j, err));
        sort_rows(j->order, n, by_cell, j);
        uint64_t place = 0;
        for (size_t i = 0; i < n; i++) {
            Row *row = &j->rows[j->order[i]];
            place = i > 0 && j->rows[j->order[i - 1]].cell == row->cell ? place + 1 : 0;
            row->copies = (uint16_t)(j->cells[row->cell].copies + (place < j->cells[row->cell].extra));
            if (row->copies == 0) row->fate = MIX_DRAWN;
        }
    }
    mem_free(j->order);
    j->order = NULL;
    return ERR_OK;
}

/* ---- writing ---- */

static void put_member(Buf *out, const char *key, const char *value) {
    buf_printf(out, ", \"%s\": ", key);
    text_put_json(out, value, strlen(value));
}

/* The name of a file for provenance: relative to the manifest's folder, where it is below it. */
static const char *short_name(const Job *j, const char *name) {
    const size_t n = strlen(j->m->folder);
    return strncmp(name, j->m->folder, n) == 0 ? name + n : name;
}

static bool is_synthetic(const ManifestSource *s, const Record *record) {
    const cJSON *kind = cJSON_GetObjectItemCaseSensitive(record->tree, "kind");
    if (s->kind != MANIFEST_AS_ROW) return s->kind == MANIFEST_SYNTHETIC;
    return cJSON_IsString(kind) && strcmp(kind->valuestring, "synthetic") == 0;
}

static void put_origin(Buf *out, const Job *j, const ScanRow *row) {
    const ManifestSource *s = &j->m->sources[j->source];
    const Record *record = row->record;
    const char *file = short_name(j, j->inputs[j->source].items[row->file].name);
    if (s->name || record->source) {
        put_member(out, "source", s->name ? s->name : record->source);
    } else {
        const char *base = file_base(file), *end = strstr(base, ".jsonl");
        buf_puts(out, ", \"source\": ");
        text_put_json(out, base, end && end > base ? (size_t)(end - base) : strlen(base));
    }
    if (record->id) {
        put_member(out, "id", record->id);
    } else {
        Buf id = {0};
        buf_printf(&id, "%s:%llu", file, (unsigned long long)row->line);
        out->failed = out->failed || id.failed;
        if (!id.failed) put_member(out, "id", id.data);
        buf_free(&id);
    }
    put_member(out, "kind", is_synthetic(s, record) ? "synthetic" : "real");
    if (s->drop_split) return;
    const Split split = s->split != SPLIT_COUNT ? s->split
                        : record->split         ? split_find(record->split)
                                                : SPLIT_COUNT;
    if (split != SPLIT_COUNT) put_member(out, "split", split_name(split));
}

/* Members that were not written under another name, or anew. */
static void put_others(Buf *out, const ScanRow *row) {
    static const char *const OWN[] = {"text", "label", "source", "id", "kind", "split", "sample_weight"};
    const Record *record = row->record;
    Members members;
    Member m;
    members_open(&members, row->json, row->json_len);
    for (const cJSON *item = record->tree->child; item && members_next(&members, &m); item = item->next) {
        bool own = item->string == record->text_member || item->string == record->label_member;
        for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++) own = own || strcmp(item->string, OWN[i]) == 0;
        if (own) continue;
        buf_puts(out, ", ");
        buf_put(out, row->json + m.key, m.key_end - m.key);
        buf_puts(out, ": ");
        buf_put(out, row->json + m.value, m.end - m.value);
    }
}

static ErrCode make_line(double *weight, Job *j, const ScanRow *row, const Cell *cell, Err *err) {
    const Record *record = row->record;
    *weight = j->rule->weights ? record->weight * cell->target / (double)cell->rows : record->weight;
    if (!(*weight <= 1000) || (float)*weight <= 0)
        return err_set(err, ERR_ARGUMENT,
                       "%s:%llu: sample_weight %g becomes %g, expected more than 0 and at most 1000",
                       j->inputs[j->source].items[row->file].name, (unsigned long long)row->line,
                       record->weight, *weight);
    buf_clear(&j->line);
    buf_puts(&j->line, "{\"text\": ");
    text_put_json(&j->line, record->text, record->text_len);
    put_member(&j->line, "label", j->report->labels.items[cell->label]);
    put_origin(&j->line, j, row);
    if (*weight < 1 || *weight > 1) buf_printf(&j->line, ", \"sample_weight\": %.9g", *weight);
    put_others(&j->line, row);
    buf_puts(&j->line, "}");
    return buf_ok(&j->line, err);
}

static ErrCode write_row(void *arg, const ScanRow *scanned, const void *slot, Err *err) {
    Job *j = arg;
    const Slot *s = slot;
    MixFate fate;
    const char *label;
    TRY(judge(&fate, &label, j, scanned, s, err));
    if (fate != MIX_TAKEN) return ERR_OK;
    if (j->taken == j->first_row[j->source + 1])
        return err_set(err, ERR_IO, "%s: changed while it was read",
                       j->inputs[j->source].items[scanned->file].name);
    const Row *row = &j->rows[j->taken++];
    const Cell *cell = &j->cells[row->cell];
    j->taken_chain = chain_of(j->taken_chain, s->signature.key);
    MixCount *counts[] = {&j->report->sources[j->source], &j->report->domains[cell->label]};
    counts[1]->in++;
    for (int k = 0; k < 2; k++) counts[k]->fate[row->fate]++;
    if (row->fate != MIX_TAKEN) return ERR_OK;
    double weight;
    TRY(make_line(&weight, j, scanned, cell, err));
    for (unsigned i = 0; i < row->copies; i++) jsonl_put(&j->out, j->line.data, j->line.len);
    const bool synthetic = is_synthetic(&j->m->sources[j->source], scanned->record);
    for (int k = 0; k < 2; k++) {
        counts[k]->lines += row->copies;
        counts[k]->synthetic += synthetic ? row->copies : 0;
        counts[k]->weight += weight * row->copies;
    }
    return ERR_OK;
}

/* ---- the passes ---- */

static ErrCode read_source(Job *j, bool again, Err *err) {
    const ManifestSource *s = &j->m->sources[j->source];
    const Scan scan = {.inputs = &j->inputs[j->source],
                       .record = {s->text_field, s->label_field, s->label != NULL},
                       .slot_bytes = sizeof(Slot),
                       .work = again ? judge_again : judge_first,
                       .take = again ? write_row : count_row,
                       .arg = j,
                       .threads = j->rule->threads,
                       .progress = NULL};
    TRY(scan_rows(&scan, err));
    if (j->rule->progress)
        progress_update(j->rule->progress, j->source + 1, "%zu sources, %zu rows", j->m->source_count,
                        j->row_count);
    return ERR_OK;
}

static ErrCode first_pass(Job *j, Err *err) {
    TRY(open_inputs(j, err));
    if (j->m->near > 0) TRY(dedup_open(&j->dedup, j->m->near, err));
    for (j->source = 0; j->source < j->m->source_count; j->source++) {
        TRY(read_source(j, false, err));
        j->first_row[j->source + 1] = j->row_count;
    }
    overlap_close(j->overlap);
    j->overlap = NULL;
    return decide(j, err);
}

static ErrCode second_pass(Job *j, Err *err) {
    MixReport *r = j->report;
    TRY(mem_new(&r->domains, r->labels.count, sizeof *r->domains, "the domains", err));
    TRY(jsonl_create(&j->out, j->rule->out, err));
    for (j->source = 0; j->source < j->m->source_count; j->source++) {
        TRY(read_source(j, true, err));
        if (j->taken != j->first_row[j->source + 1])
            return err_set(err, ERR_IO, "%s: sources[%u] changed while it was read; nothing was written",
                           j->m->path, (unsigned)j->source);
    }
    if (j->taken_chain != j->chain)
        return err_set(err, ERR_IO, "the sources changed while they were read; nothing was written");
    for (size_t i = 0; i < r->source_count; i++) {
        r->all.in += r->sources[i].in;
        for (int f = 0; f < MIX_FATES; f++) r->all.fate[f] += r->sources[i].fate[f];
        r->all.lines += r->sources[i].lines;
        r->all.synthetic += r->sources[i].synthetic;
        r->all.weight += r->sources[i].weight;
    }
    return jsonl_commit(&j->out, err);
}

static void job_free(Job *j) {
    for (size_t i = 0; j->inputs && i < j->m->source_count; i++) inputs_close(&j->inputs[i]);
    mem_free(j->inputs);
    inputs_close(&j->benchmarks);
    overlap_close(j->overlap);
    dedup_close(j->dedup);
    mem_free(j->rows);
    mem_free(j->first_row);
    mem_free(j->cells);
    names_free(&j->cell_names);
    mem_free(j->order);
    jsonl_abort(&j->out);
    buf_free(&j->line);
}

ErrCode mix_write(MixReport *report, const MixRule *rule, Err *err) {
    *report = (MixReport){0};
    Job j = {.rule = rule, .m = rule->manifest, .report = report};
    j.salt = rng_key(rule->manifest->seed, "mix", 0);
    if (rule->progress) progress_begin(rule->progress, "mix: read", rule->manifest->source_count, 0);
    ErrCode rc = first_pass(&j, err);
    if (rule->progress) progress_end(rule->progress);
    if (rule->progress && rc == ERR_OK)
        progress_begin(rule->progress, "mix: write", rule->manifest->source_count, 0);
    if (rc == ERR_OK) rc = second_pass(&j, err);
    if (rule->progress) progress_end(rule->progress);
    job_free(&j);
    if (rc != ERR_OK) mix_report_free(report);
    return rc;
}

void mix_report_free(MixReport *r) {
    mem_free(r->sources);
    mem_free(r->files);
    mem_free(r->domains);
    names_free(&r->labels);
    *r = (MixReport){0};
}
