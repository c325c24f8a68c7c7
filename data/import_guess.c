/* What a file is, by its name and its first element. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "data/elements.h"
#include "data/import_row.h"

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

bool import_is_csv(const char *name) {
    static const char *const ENDINGS[] = {".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst"};
    for (size_t i = 0; i < sizeof ENDINGS / sizeof *ENDINGS; i++)
        if (ends_with(name, ENDINGS[i])) return true;
    return false;
}

/* ---- names of files ---- */

/* The names of splits (see split_find), in any case; they stay as they are published. */
static const char *known_split(const char *word, size_t n) {
    static const char *const NAMES[] = {"train", "dev",         "validation", "valid",
                                        "val",   "calibration", "calib",      "test"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strlen(NAMES[i]) == n && strncasecmp(NAMES[i], word, n) == 0) return NAMES[i];
    return NULL;
}

static size_t last_word(const char *s, size_t n) {
    while (n && !strchr("_-. ", s[n - 1])) n--;
    return n;
}

/* "data/anatomy_test.csv.gz": where "anatomy_test" begins, and its length. "train-00000-of-00008" counts as "train". */
static const char *stem_of(const char *path, size_t *n) {
    const char *name = file_base(path), *of = strstr(name, "-of-");
    *n = strcspn(name, ".");
    if (of && (size_t)(of - name) < *n) {
        size_t at = (size_t)(of - name);
        while (at && name[at - 1] >= '0' && name[at - 1] <= '9') at--;
        if (at > 1 && name[at - 1] == '-') *n = at - 1;
    }
    return name;
}

const char *import_split_of(const char *path) {
    size_t n;
    const char *stem = stem_of(path, &n);
    const size_t last = last_word(stem, n);
    const char *found = known_split(stem + last, n - last);
    if (!found) found = known_split(stem, strcspn(stem, "_-. "));
    while (!found && stem > path) { /* the folder before */
        const char *end = --stem;
        while (stem > path && stem[-1] != '/') stem--;
        const size_t at = last_word(stem, (size_t)(end - stem));
        found = known_split(stem + at, (size_t)(end - stem) - at);
    }
    return found;
}

void import_put_subject(Buf *out, const char *path) {
    size_t n;
    const char *stem = stem_of(path, &n);
    const size_t last = last_word(stem, n);
    if (known_split(stem + last, n - last)) n = last ? last - 1 : 0;
    buf_put(out, stem, n);
}

/* ---- columns ---- */

ErrCode import_columns(FlagList *out, const CsvFields *header, Err *err) {
    for (size_t i = 0; i < header->count; i++) {
        const char *s = header->bytes.data ? header->bytes.data + header->at[i] : "";
        size_t n = header->at[i + 1] - header->at[i];
        while (n && (s[0] == ' ' || s[0] == '\t')) s++, n--;
        while (n && (s[n - 1] == ' ' || s[n - 1] == '\t')) n--;
        if (memchr(s, 0, n)) return err_set(err, ERR_FORMAT, "a NUL in the name of column %zu", i + 1);
        char number[32];
        (void)snprintf(number, sizeof number, "column%zu",
                       i + 1); /* an unnamed one: a table's row numbers, say */
        TRY(flags_list_add(out, n ? s : number, n ? n : strlen(number), err));
        for (size_t k = 0; k < i; k++)
            if (strcmp(out->items[k], out->items[i]) == 0)
                return err_set(err, ERR_FORMAT, "two columns are named '%.100s'", out->items[i]);
    }
    return ERR_OK;
}

ErrCode import_put_fields(Buf *out, const FlagList *columns, const CsvFields *f, Err *err) {
    if (f->count != columns->count)
        return err_set(err, ERR_FORMAT, "%zu fields, expected %zu (%.100s, ... %.100s)", f->count,
                       columns->count, columns->items[0], columns->items[columns->count - 1]);
    buf_puts(out, "{");
    for (size_t i = 0; i < f->count; i++) {
        if (i) buf_puts(out, ",");
        text_put_json(out, columns->items[i], strlen(columns->items[i]));
        buf_puts(out, ":");
        text_put_json(out, f->bytes.data ? f->bytes.data + f->at[i] : "", f->at[i + 1] - f->at[i]);
    }
    buf_puts(out, "}");
    return buf_ok(out, err);
}

/* ---- formats ---- */

static const ImportFormat *by_members(const cJSON *json, bool members) {
    for (size_t i = 0; i < IMPORT_FORMAT_COUNT; i++) {
        const ImportFormat *f = &IMPORT_FORMATS[i];
        bool all = f->members || (f->keys[0] && !members);
        if (members && !f->members) continue;
        for (size_t k = 0; k < 4 && f->keys[k]; k++) all = all && import_member(json, f->keys[k]);
        if (all && (!f->is || f->is(json))) return f;
    }
    return NULL;
}

static bool has_text(const cJSON *json) {
    static const char *const NAMES[] = {"text",     "prompt",      "query", "sentence",
                                        "question", "instruction", "input", "messages"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (import_member(json, NAMES[i])) return true;
    return false;
}

/* The file's first element, taken apart or not; *json NULL where it has none or is none. */
static ErrCode first_element(cJSON **json, ElementsShape *shape, const char *path, bool members, Err *err) {
    Elements *elements;
    Element element = {0};
    bool more = false;
    *json = NULL;
    TRY(elements_open(&elements, path, members, err));
    ErrCode rc = elements_next(elements, &element, &more, err);
    if (rc == ERR_OK && more) {
        rc = json_parse(json, element.json, element.n, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s:%llu", path, (unsigned long long)element.line);
    }
    *shape = elements_shape(elements);
    elements_close(elements);
    return rc;
}

static ErrCode guess_json(const ImportFormat **out, const char *path, const char *name, Err *err) {
    cJSON *json;
    ElementsShape shape;
    TRY(first_element(&json, &shape, path, true, err));
    *out = shape == ELEMENTS_MEMBERS ? by_members(json, true) : NULL;
    if (!*out) {
        cJSON_Delete(json);
        TRY(first_element(&json, &shape, path, false, err));
        *out = by_members(json, false);
    }
    ErrCode rc = ERR_OK;
    if (!*out && (!json || has_text(json))) *out = import_find(shape == ELEMENTS_LINES ? "jsonl" : "json");
    if (!*out) {
        rc = import_lacks(json, "member that tells a format", err);
        (void)err_context(err, rc, "%s", name);
    }
    cJSON_Delete(json);
    return rc;
}

static bool is_mmlu(const CsvFields *f) {
    if (f->count != 6 || f->at[6] - f->at[5] != 1) return false;
    const char answer = f->bytes.data[f->at[5]];
    return answer >= 'A' && answer <= 'D';
}

/* By a header's names alone, as if each were a member. */
static ErrCode by_columns(const ImportFormat **out, const CsvFields *fields, bool tabs, Err *err) {
    FlagList columns = {0};
    Buf text = {0};
    cJSON *json = NULL;
    ErrCode rc = import_columns(&columns, fields, err);
    if (rc == ERR_OK) rc = import_put_fields(&text, &columns, fields, err);
    if (rc == ERR_OK) rc = json_parse(&json, text.data, text.len, err);
    if (rc == ERR_OK) *out = by_members(json, false);
    if (rc == ERR_OK && !*out) *out = import_find(tabs ? "tsv" : "csv");
    cJSON_Delete(json);
    buf_free(&text);
    flags_list_free(&columns);
    return rc;
}

static ErrCode guess_csv(const ImportFormat **out, const char *path, const char *name, CsvRule rule,
                         Err *err) {
    Csv *csv;
    CsvFields fields = {0};
    const char *record = NULL;
    size_t n = 0;
    uint64_t line = 0;
    bool more = false;
    TRY(csv_open(&csv, path, rule, err));
    ErrCode rc = csv_next(csv, &record, &n, &line, &more, err);
    if (rc == ERR_OK && !more) rc = err_set(err, ERR_FORMAT, "%s: the file is empty", name);
    if (rc == ERR_OK) rc = csv_split(&fields, record, n, csv_rule(csv), err);
    if (rc == ERR_OK && is_mmlu(&fields))
        *out = import_find("mmlu");
    else if (rc == ERR_OK)
        rc = by_columns(out, &fields, csv_rule(csv).separator == '\t', err);
    if (rc == ERR_FORMAT && more) (void)err_context(err, rc, "%s:%llu", name, (unsigned long long)line);
    csv_close(csv);
    csv_free(&fields);
    return rc;
}

ErrCode import_guess(const ImportFormat **out, const char *path, const char *name, CsvRule csv, Err *err) {
    *out = NULL;
    return import_is_csv(name) ? guess_csv(out, path, name, csv, err) : guess_json(out, path, name, err);
}
