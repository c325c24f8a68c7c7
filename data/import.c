#include "data/import.h"

#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/elements.h"
#include "data/import_row.h"
#include "data/inputs.h"
#include "data/jsonl.h"
#include "data/record.h"

enum { GROUP_UNITS = 2048, GROUP_BYTES = 8 << 20 };

/* ---- what the published names become ---- */

ErrCode import_map_read(ImportMap *map, const char *path, Err *err) {
    *map = (ImportMap){.path = path};
    TRY(json_read(&map->tree, path, err));
    ErrCode rc = ERR_OK;
    size_t count = 0, at;
    const cJSON *item;
    if (!cJSON_IsObject(map->tree))
        rc = err_set(err, ERR_FORMAT, "%s: found %s, expected an object such as {\"anatomy\": \"health\"}",
                     path, import_kind(map->tree));
    if (rc == ERR_OK)
        rc = mem_new(&map->labels, (size_t)cJSON_GetArraySize(map->tree) + 1, sizeof *map->labels,
                     "a label map", err);
    cJSON_ArrayForEach(item, map->tree) {
        if (rc != ERR_OK) break;
        if (!cJSON_IsString(item) || !item->valuestring[0])
            rc = err_set(err, ERR_FORMAT, "%s: %.100s: found %s, expected a label", path, item->string,
                         cJSON_IsString(item) ? "an empty string" : import_kind(item));
        else
            rc = names_add(&at, &map->names, item->string, err);
        if (rc == ERR_OK) map->labels[count++] = item->valuestring;
    }
    if (rc != ERR_OK) import_map_free(map);
    return rc;
}

void import_map_free(ImportMap *map) {
    names_free(&map->names);
    mem_free(map->labels);
    cJSON_Delete(map->tree);
    *map = (ImportMap){0};
}

/* ---- one element ---- */

typedef enum { WRITTEN, EMPTY, UNKNOWN } Fate;

/* What an element does not say itself. */
typedef struct {
    const ImportFormat *format;
    const char *source, *split, *subject; /* subject: of the file */
    const char *file;                     /* ids begin with it */
    uint64_t number;
    bool alone; /* the only element of its file */
} Origin;

/* What one thread needs for a row, kept from row to row. */
typedef struct {
    Record record;
    ImportRow row;
    CsvFields fields;
    Buf json;
} Scratch;

static void scratch_free(Scratch *s) {
    record_free(&s->record);
    buf_free(&s->row.text);
    buf_free(&s->row.choices);
    csv_free(&s->fields);
    buf_free(&s->json);
}

static ErrCode read_columns(Scratch *s, const ImportRule *rule, const char *json, size_t n, Err *err) {
    Record *r = &s->record;
    ImportRow *row = &s->row;
    TRY(record_parse(r, &(RecordRule){rule->text_field, rule->label_field, true}, json, n, err));
    buf_put(&row->text, r->text, r->text_len);
    row->id = r->id;
    row->label = r->label;
    row->source = r->source;
    row->split = r->split;
    row->subject = import_name(import_member(r->tree, "subject"), row->digits);
    import_add_choices(row, import_member(r->tree, "choices"));
    return ERR_OK;
}

static ErrCode read_published(Scratch *s, const ImportFormat *format, const ImportRule *rule,
                              const char *json, size_t n, Err *err) {
    Record *r = &s->record;
    ImportRow *row = &s->row;
    cJSON_Delete(r->tree);
    r->tree = NULL;
    TRY(json_parse(&r->tree, json, n, err));
    TRY(format->read(row, r->tree, rule, err));
    if (!row->id) row->id = import_name(import_member(r->tree, "id"), row->digits);
    if (rule->label_field) {
        cJSON *item = import_member(r->tree, rule->label_field);
        if (!item) return import_lacks(r->tree, rule->label_field, err);
        row->label = import_name(item, r->digits[0]);
        if (!row->label)
            return err_set(err, ERR_FORMAT, "%.100s: found %s, expected a string or an integer",
                           rule->label_field, import_kind(item));
    }
    return ERR_OK;
}

/* The label of a row: the one for all, what the map says, or the row's own. */
static ErrCode find_label(ImportRow *row, const ImportRule *rule, Fate *fate, Err *err) {
    if (rule->label) row->label = rule->label;
    if (rule->map) {
        const char *name = row->label ? row->label : row->subject;
        if (!name)
            return err_set(
                err, ERR_FORMAT,
                "nothing to look up in %s: the row has no subject; name the member by --label-field",
                rule->map->path);
        const size_t at = names_find(&rule->map->names, name);
        if (at == SIZE_MAX && rule->skip_unknown) {
            *fate = UNKNOWN;
        } else if (at == SIZE_MAX) {
            const char *near =
                text_nearest(name, (const char *const *)rule->map->names.items, rule->map->names.count);
            if (near)
                return err_set(err, ERR_FORMAT, "'%.100s' is not in %s; nearest is '%.100s'", name,
                               rule->map->path, near);
            return err_set(err, ERR_FORMAT, "'%.100s' is not in %s", name, rule->map->path);
        } else {
            row->label = rule->map->labels[at];
        }
    }
    if (row->label && strlen(row->label) > RECORD_NAME_MAX)
        return err_set(err, ERR_FORMAT, "a label of %zu bytes, expected at most %d", strlen(row->label),
                       RECORD_NAME_MAX);
    if (row->label && row->label[strspn(row->label, " \t\r\n\v\f")] == 0) row->label = NULL;
    return ERR_OK;
}

static void put_member(Buf *line, const char *key, const char *value) {
    if (!value) return;
    buf_printf(line, ",\"%s\":", key);
    text_put_json(line, value, strlen(value));
}

/* Any value; core/json.h carries NUL in strings as C0 80. */
static void put_value(Buf *line, const cJSON *item) {
    char *text = cJSON_PrintUnformatted(item);
    if (!text) {
        line->failed = true;
        return;
    }
    for (const char *s = text; *s;) {
        const char *nul = strstr(s, "\xc0\x80");
        const size_t n = nul ? (size_t)(nul - s) : strlen(s);
        buf_put(line, s, n);
        if (nul) buf_puts(line, "\\u0000");
        s += n + (nul ? 2 : 0);
    }
    cJSON_free(text);
}

static void put_line(Buf *line, const Scratch *s, const ImportRule *rule, const Origin *from) {
    const ImportRow *row = &s->row;
    char digits[24];
    const char *id =
        rule->id_field ? import_name(import_member(s->record.tree, rule->id_field), digits) : row->id;
    const char *split = rule->split ? rule->split : row->split ? row->split : from->split;
    buf_puts(line, "{\"text\":");
    text_put_json(line, row->text.data, row->text.len);
    put_member(line, "label", row->label);
    put_member(line, "source", rule->source ? rule->source : row->source ? row->source : from->source);
    put_member(line, "split", split);
    if (id) {
        put_member(line, "id", id);
    } else {
        buf_puts(line, ",\"id\":\"");
        const size_t at = line->len;
        text_put_json(line, from->file, strlen(from->file));
        if (!line->failed) { /* its quotes are not wanted: a number follows */
            memmove(line->data + at, line->data + at + 1, line->len - at - 1);
            line->len -= 2;
        }
        if (!from->alone) buf_printf(line, ":%llu", (unsigned long long)from->number);
        buf_puts(line, "\"");
    }
    buf_puts(line, ",\"kind\":\"real\"");
    if (row->choices.len) {
        buf_puts(line, ",\"choices\":[");
        buf_put(line, row->choices.data, row->choices.len);
        buf_puts(line, "]");
    }
    put_member(line, "subject", row->subject ? row->subject : from->subject);
    for (size_t i = 0; rule->keep && i < rule->keep->count; i++) {
        const cJSON *item = import_member(s->record.tree, rule->keep->items[i]);
        if (!item) continue;
        buf_puts(line, ",");
        text_put_json(line, rule->keep->items[i], strlen(rule->keep->items[i]));
        buf_puts(line, ":");
        put_value(line, item);
    }
    buf_puts(line, "}");
}

/* One element to one line (appended, nothing unless WRITTEN). */
static ErrCode convert(Scratch *s, Buf *line, Fate *fate, const ImportRule *rule, const Origin *from,
                       const char *json, size_t n, const char *key, Err *err) {
    ImportRow *row = &s->row;
    buf_clear(&row->text);
    buf_clear(&row->choices);
    *row = (ImportRow){.text = row->text, .choices = row->choices, .key = key};
    *fate = WRITTEN;
    TRY(from->format->read ? read_published(s, from->format, rule, json, n, err)
                           : read_columns(s, rule, json, n, err));
    if (!row->subject) row->subject = from->subject;
    TRY(find_label(row, rule, fate, err));
    if (*fate != WRITTEN) return ERR_OK;
    TRY(buf_ok(&row->text, err));
    if (rule->keep_wrappers)
        import_trim(&row->text);
    else
        import_unwrap(&row->text);
    if (row->text.len == 0) {
        *fate = EMPTY;
        return ERR_OK;
    }
    if (row->text.len > RECORD_TEXT_MAX)
        return err_set(err, ERR_FORMAT, "a text of %zu bytes, expected at most %zu", row->text.len,
                       RECORD_TEXT_MAX);
    TRY(buf_ok(&row->choices, err));
    put_line(line, s, rule, from);
    return buf_ok(line, err);
}

ErrCode import_element(Buf *line, const ImportFormat *format, const ImportRule *rule, const char *json,
                       size_t n, const char *key, Err *err) {
    Scratch scratch = {0};
    Fate fate;
    const Origin from = {.format = format, .source = format->name, .file = "element", .alone = true};
    ErrCode rc = convert(&scratch, line, &fate, rule, &from, json, n, key, err);
    if (rc == ERR_OK && fate == EMPTY) rc = err_set(err, ERR_FORMAT, "the text is empty");
    scratch_free(&scratch);
    return rc;
}

/* ---- texts seen before ---- */

typedef struct {
    uint64_t (*slots)[2]; /* two hashes of a text; zeros: free */
    size_t count, cap;    /* cap: a power of two */
} Seen;

static void hash_text(uint64_t out[2], const char *s, size_t n) {
    uint64_t a = rng_mix(n), b = rng_mix(~(uint64_t)n);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, s + i, n - i < 8 ? n - i : 8);
        a = rng_mix(a ^ word);
        b = rng_mix(b + word);
    }
    out[0] = a | 1;
    out[1] = b;
}

static uint64_t (*find_seen(const Seen *seen, const uint64_t hash[2]))[2] {
    size_t i = (size_t)hash[1] & (seen->cap - 1);
    while (seen->slots[i][0] && memcmp(seen->slots[i], hash, sizeof seen->slots[i]) != 0)
        i = (i + 1) & (seen->cap - 1);
    return &seen->slots[i];
}

static ErrCode add_seen(Seen *seen, const uint64_t hash[2], bool *is_new, Err *err) {
    if (2 * seen->count >= seen->cap) {
        Seen more = {.cap = seen->cap ? 2 * seen->cap : 4096};
        TRY(mem_new(&more.slots, more.cap, sizeof *more.slots, "the texts seen before", err));
        for (size_t i = 0; i < seen->cap; i++)
            if (seen->slots[i][0])
                memcpy(find_seen(&more, seen->slots[i]), seen->slots[i], sizeof *more.slots);
        more.count = seen->count;
        mem_free(seen->slots);
        *seen = more;
    }
    uint64_t(*slot)[2] = find_seen(seen, hash);
    *is_new = (*slot)[0] == 0;
    memcpy(*slot, hash, sizeof *slot);
    seen->count += *is_new;
    return ERR_OK;
}

/* ---- files ---- */

typedef struct {
    const ImportFormat *format;
    const char *name, *path; /* of the Inputs */
    const char *shown;       /* below the folder that was given: in ids */
    const char *split;       /* told by the path */
    char *subject, *source;  /* owned; NULL: not told by the name */
    FlagList columns;        /* of CSV */
} ImportFile;

typedef struct {
    Inputs inputs;
    ImportFile *items;
    size_t count;
} Files;

static void files_free(Files *f) {
    for (size_t i = 0; i < f->count; i++) {
        mem_free(f->items[i].subject);
        mem_free(f->items[i].source);
        flags_list_free(&f->items[i].columns);
    }
    mem_free(f->items);
    inputs_close(&f->inputs);
}

static ErrCode copy_name(char **out, const char *path, Err *err) {
    Buf name = {0};
    import_put_subject(&name, path);
    const ErrCode rc = buf_ok(&name, err);
    if (rc == ERR_OK && name.len) {
        *out = name.data;
        return ERR_OK;
    }
    buf_free(&name);
    return rc;
}

/* What the name of an input tells. `given`: the folder that it was found below, or NULL. */
static ErrCode add_file(Files *f, size_t at, const ImportFormat *format, const char *given, Err *err) {
    const Input *in = &f->inputs.items[at];
    ImportFile *file = &f->items[f->count++];
    *file = (ImportFile){.format = format, .name = in->name, .path = in->path, .shown = file_base(in->name)};
    const char *known = file->shown; /* the part of the path that may tell the split */
    if (given) {
        size_t n = strlen(given);
        while (n && given[n - 1] == '/') n--;
        file->shown = in->name + n;
        while (*file->shown == '/') file->shown++;
        while (n && given[n - 1] != '/') n--;
        known = in->name + n;
    }
    file->split = import_split_of(known);
    if (format->columns[0]) TRY(copy_name(&file->subject, file->shown, err));
    if (!format->read) TRY(copy_name(&file->source, file->shown, err));
    return ERR_OK;
}

static ErrCode list_inputs(Inputs *in, const char *path, const ImportFormat *format, const char *spool,
                           Err *err) {
    static const char *const ANY[] = {".json", ".json.gz", ".json.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst",
                                      ".csv",  ".csv.gz",  ".csv.zst",  ".tsv",   ".tsv.gz",   ".tsv.zst"};
    if (!file_is_dir(path)) return inputs_add(in, path, 1, spool, err);
    size_t n = 0;
    while (format && n < 12 && format->endings[n]) n++;
    return inputs_add_folder(in, path, 1, format ? format->endings : ANY, format ? n : 12, err);
}

/* Adds what one argument stands for. */
static ErrCode add_input(Files *f, const char *path, const ImportRule *rule, const char *spool, Err *err) {
    const ImportFormat *format = rule->format;
    const size_t before = f->inputs.count;
    const char *given = file_is_dir(path) ? path : NULL;
    if (!format && given) { /* all files of the format that the first one has */
        Inputs any = {0};
        ErrCode rc = list_inputs(&any, path, NULL, spool, err);
        if (rc == ERR_OK) rc = import_guess(&format, any.items[0].path, any.items[0].name, rule->csv, err);
        inputs_close(&any);
        if (rc != ERR_OK) return rc;
    }
    TRY(list_inputs(&f->inputs, path, format, spool, err));
    if (!format)
        TRY(import_guess(&format, f->inputs.items[before].path, f->inputs.items[before].name, rule->csv,
                         err));
    if (rule->text_field && format->read)
        return err_set(err, ERR_ARGUMENT,
                       "text_field: rows of %s have their own; it is for csv, tsv, json and jsonl",
                       format->name);
    ImportFile *items = mem_resize(f->items, f->inputs.count, sizeof *items);
    if (!items) return err_set(err, ERR_MEMORY, "out of memory for the inputs");
    f->items = items;
    for (size_t i = before; i < f->inputs.count; i++) TRY(add_file(f, i, format, given, err));
    return ERR_OK;
}

/* ---- groups of elements ---- */

typedef struct {
    size_t at, n, key; /* in Group.bytes; key: behind it, SIZE_MAX: none */
    const ImportFile *file;
    uint64_t line, index;
    ElementsShape shape;
    bool csv, alone;
    CsvRule rule;
    /* What became of it. */
    Fate fate;
    ErrCode code;
    char *why; /* owned */
    Buf out;   /* kept from group to group */
    uint64_t hash[2];
    char label[RECORD_NAME_MAX + 1], split[32];
} Unit;

typedef struct {
    const ImportRule *rule;
    ImportReport *report;
    Buf bytes;
    Unit *units;
    Scratch *scratch; /* one for each thread */
    size_t count;
    Seen seen;
    Jsonl out;
} Group;

static void copy_short(char *out, size_t n, const char *s) {
    (void)snprintf(out, n, "%s", s ? s : "");
}

static void convert_unit(void *arg, size_t i, int thread) {
    Group *g = arg;
    Unit *u = &g->units[i];
    Scratch *s = &g->scratch[thread];
    Err why = {0};
    const char *json = g->bytes.data + u->at;
    size_t n = u->n;
    const Origin from = {.format = u->file->format,
                         .source = u->file->source ? u->file->source : u->file->format->name,
                         .split = u->file->split,
                         .subject = u->file->subject,
                         .file = u->file->shown,
                         .number = u->csv || u->shape == ELEMENTS_LINES ? u->line : u->index,
                         .alone = u->alone};
    u->code = ERR_OK;
    buf_clear(&u->out);
    if (u->csv) {
        buf_clear(&s->json);
        u->code = csv_split(&s->fields, json, n, u->rule, &why);
        if (u->code == ERR_OK) u->code = import_put_fields(&s->json, &u->file->columns, &s->fields, &why);
        json = s->json.data;
        n = s->json.len;
    }
    if (u->code == ERR_OK)
        u->code = convert(s, &u->out, &u->fate, g->rule, &from, json, n,
                          u->key == SIZE_MAX ? NULL : g->bytes.data + u->key, &why);
    if (u->code != ERR_OK) {
        u->why = mem_strdup(why.msg);
        return;
    }
    if (u->fate != WRITTEN) return;
    hash_text(u->hash, s->row.text.data, s->row.text.len);
    copy_short(u->label, sizeof u->label, s->row.label);
    copy_short(u->split, sizeof u->split,
               g->rule->split ? g->rule->split
               : s->row.split ? s->row.split
                              : u->file->split);
}

static void put_place(Buf *out, const Unit *u) {
    if (u->alone)
        buf_printf(out, "%s", u->file->name);
    else if (u->csv || u->shape == ELEMENTS_LINES)
        buf_printf(out, "%s:%llu", u->file->name, (unsigned long long)u->line);
    else
        buf_printf(out, "%s: element %llu (line %llu)", u->file->name, (unsigned long long)u->index,
                   (unsigned long long)u->line);
}

static ErrCode note(Group *g, const Unit *u, const char *what, Err *err) {
    ImportReport *r = g->report;
    if (r->message_count == IMPORT_MESSAGES) return ERR_OK;
    Buf text = {0};
    put_place(&text, u);
    buf_printf(&text, ": %s", what);
    const ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK)
        r->messages[r->message_count++] = text.data;
    else
        buf_free(&text);
    return rc;
}

static ErrCode count_name(Names *names, uint64_t **rows, const char *name, Err *err) {
    size_t at;
    const size_t before = names->count;
    TRY(names_add(&at, names, name, err));
    if (names->count > before) {
        uint64_t *more = mem_resize(*rows, names->count, sizeof **rows);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for the report");
        *rows = more;
        more[at] = 0;
    }
    (*rows)[at]++;
    return ERR_OK;
}

static ErrCode bad_unit(Group *g, const Unit *u, Err *err) {
    if (u->code == ERR_MEMORY || !u->why) return err_set(err, ERR_MEMORY, "out of memory for a row");
    if (g->rule->skip_bad) {
        g->report->bad++;
        return note(g, u, u->why, err);
    }
    Buf place = {0};
    put_place(&place, u);
    const ErrCode rc = err_set(err, u->code, "%s: %s", place.data ? place.data : u->file->name, u->why);
    buf_free(&place);
    return rc;
}

static ErrCode take(Group *g, const Unit *u, Err *err) {
    ImportReport *r = g->report;
    r->read++;
    if (u->code != ERR_OK) return bad_unit(g, u, err);
    if (u->fate == UNKNOWN) {
        r->unknown++;
        return ERR_OK;
    }
    if (u->fate == EMPTY) {
        r->empty++;
        return note(g, u, "the text is empty", err);
    }
    bool is_new = true;
    if (!g->rule->keep_duplicates) TRY(add_seen(&g->seen, u->hash, &is_new, err));
    if (!is_new) {
        r->duplicates++;
        return ERR_OK;
    }
    r->rows++;
    jsonl_put(&g->out, u->out.data, u->out.len);
    TRY(count_name(&r->splits, &r->split_rows, u->split, err));
    return count_name(&r->labels, &r->label_rows, u->label, err);
}

static ErrCode flush(Group *g, Err *err) {
    ErrCode rc = ERR_OK;
    threads_run(g->rule->threads, convert_unit, g, g->count);
    for (size_t i = 0; i < g->count; i++) {
        if (rc == ERR_OK) rc = take(g, &g->units[i], err);
        mem_free(g->units[i].why);
        g->units[i].why = NULL;
    }
    g->count = 0;
    buf_clear(&g->bytes);
    if (rc != ERR_OK) return rc;
    if (g->rule->progress)
        progress_update(g->rule->progress, g->report->read, "%llu rows", (unsigned long long)g->report->rows);
    return stop_requested() ? err_set(err, ERR_INTERRUPTED, "interrupted; nothing was written") : ERR_OK;
}

/* Room for one more element, whose bytes are copied. */
static ErrCode add_unit(Group *g, const Unit *like, const char *bytes, size_t n, const char *key, Err *err) {
    if (g->count == GROUP_UNITS || (g->count && g->bytes.len + n > GROUP_BYTES)) TRY(flush(g, err));
    Unit *u = &g->units[g->count];
    u->file = like->file;
    u->line = like->line;
    u->index = like->index;
    u->shape = like->shape;
    u->csv = like->csv;
    u->alone = like->alone;
    u->rule = like->rule;
    u->at = g->bytes.len;
    u->n = n;
    buf_put(&g->bytes, bytes, n);
    u->key = key ? g->bytes.len : SIZE_MAX;
    if (key) buf_put(&g->bytes, key, strlen(key) + 1);
    TRY(buf_ok(&g->bytes, err));
    g->count++;
    return ERR_OK;
}

static ErrCode read_elements(Group *g, const ImportFile *file, Err *err) {
    Elements *elements;
    TRY(elements_open(&elements, file->path, file->format->members, err));
    ErrCode rc = ERR_OK;
    bool alone = false; /* the unit last added is the only one so far, and of a file that may have but one */
    const bool lines = strstr(file->name, ".jsonl") != NULL;
    for (;;) {
        Element e;
        bool more = false;
        rc = elements_next(elements, &e, &more, err);
        if (rc != ERR_OK || !more) break;
        const Unit like = {.file = file, .line = e.line, .index = e.index, .shape = elements_shape(elements)};
        if (alone) g->units[g->count - 1].alone = false;
        rc = add_unit(g, &like, e.json, e.n, e.key, err);
        if (rc != ERR_OK) break;
        const bool may = like.shape == ELEMENTS_DOCUMENTS || (like.shape == ELEMENTS_LINES && !lines);
        alone = may && e.index == 0;
        g->units[g->count - 1].alone = alone;
    }
    elements_close(elements);
    return rc;
}

static ErrCode find_columns(ImportFile *file, Csv *csv, const ImportRule *rule, Err *err) {
    const FlagList *given = rule->columns && rule->columns->count ? rule->columns : NULL;
    for (size_t i = 0; given && i < given->count; i++)
        TRY(flags_list_add(&file->columns, given->items[i], strlen(given->items[i]), err));
    for (size_t i = 0; !given && i < 7 && file->format->columns[i]; i++)
        TRY(flags_list_add(&file->columns, file->format->columns[i], strlen(file->format->columns[i]), err));
    if (file->columns.count) return ERR_OK;
    const char *record;
    size_t n;
    uint64_t line;
    bool more;
    CsvFields header = {0};
    TRY(csv_next(csv, &record, &n, &line, &more, err));
    if (!more) return ERR_OK;
    ErrCode rc = csv_split(&header, record, n, csv_rule(csv), err);
    if (rc == ERR_OK) rc = import_columns(&file->columns, &header, err);
    if (rc != ERR_OK) (void)err_context(err, rc, "%s:%llu", file->name, (unsigned long long)line);
    csv_free(&header);
    return rc;
}

static ErrCode read_csv(Group *g, ImportFile *file, Err *err) {
    CsvRule rule = g->rule->csv;
    if (!rule.separator && strcmp(file->format->name, "tsv") == 0) rule.separator = '\t';
    Csv *csv;
    TRY(csv_open(&csv, file->path, rule, err));
    ErrCode rc = find_columns(file, csv, g->rule, err);
    Unit like = {.file = file, .csv = true, .rule = csv_rule(csv)};
    while (rc == ERR_OK) {
        const char *record;
        size_t n;
        bool more = false;
        rc = csv_next(csv, &record, &n, &like.line, &more, err);
        if (rc != ERR_OK || !more) break;
        rc = add_unit(g, &like, record, n, NULL, err);
    }
    csv_close(csv);
    return rc;
}

static ErrCode read_files(Group *g, Files *files, Err *err) {
    for (size_t i = 0; i < files->count; i++) {
        ImportFile *file = &files->items[i];
        size_t at;
        TRY(names_add(&at, &g->report->formats, file->format->name, err));
        const bool only_csv =
            strcmp(file->format->name, "csv") == 0 || strcmp(file->format->name, "tsv") == 0;
        TRY(only_csv || import_is_csv(file->name) ? read_csv(g, file, err) : read_elements(g, file, err));
    }
    TRY(flush(g, err));
    const ImportReport *r = g->report;
    if (r->rows || files->count == 0) return ERR_OK;
    return err_set(err, ERR_FORMAT,
                   "%s: no row is left of %llu (bad %llu, empty %llu, unknown to the map %llu)",
                   files->items[0].name, (unsigned long long)r->read, (unsigned long long)r->bad,
                   (unsigned long long)r->empty, (unsigned long long)r->unknown);
}

ErrCode import_run(ImportReport *report, const char *out, const FlagList *inputs, const ImportRule *rule,
                   Err *err) {
    *report = (ImportReport){0};
    Files files = {0};
    Group g = {.rule = rule, .report = report};
    const int threads = threads_count(rule->threads);
    ErrCode rc = mem_new(&g.units, GROUP_UNITS, sizeof *g.units, "a group of rows", err);
    if (rc == ERR_OK) rc = mem_new(&g.scratch, (size_t)threads, sizeof *g.scratch, "a group of rows", err);
    for (size_t i = 0; rc == ERR_OK && i < inputs->count; i++)
        rc = add_input(&files, inputs->items[i], rule, out, err);
    if (rc == ERR_OK) rc = jsonl_create(&g.out, out, err);
    if (rc == ERR_OK) rc = read_files(&g, &files, err);
    if (rc == ERR_OK) rc = jsonl_commit(&g.out, err);
    jsonl_abort(&g.out);
    for (size_t i = 0; g.units && i < GROUP_UNITS; i++) {
        buf_free(&g.units[i].out);
        mem_free(g.units[i].why);
    }
    for (int i = 0; g.scratch && i < threads; i++) scratch_free(&g.scratch[i]);
    mem_free(g.units);
    mem_free(g.scratch);
    mem_free(g.seen.slots);
    buf_free(&g.bytes);
    files_free(&files);
    return rc;
}

void import_report_free(ImportReport *r) {
    for (size_t i = 0; i < r->message_count; i++) mem_free(r->messages[i]);
    names_free(&r->splits);
    names_free(&r->labels);
    names_free(&r->formats);
    mem_free(r->split_rows);
    mem_free(r->label_rows);
    *r = (ImportReport){0};
}
