#include "eval/rows.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/text.h"

static int find(const char *const *names, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static ErrCode unknown_label(const char *name, const char *const *labels, int K, Err *err) {
    char shown[84], list[256] = "";
    text_excerpt(shown, 80, name, strlen(name));
    const char *near = text_nearest(name, labels, (size_t)K);
    if (near)
        return err_set(err, ERR_FORMAT, "label '%s' is not one of the router's; did you mean '%s'?", shown,
                       near);
    size_t at = 0;
    for (int k = 0; k < K && at + 48 < sizeof list; k++) {
        char label[44];
        text_excerpt(label, 40, labels[k], strlen(labels[k]));
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", k ? ", " : "", label);
        if (k + 1 < K && at + 48 >= sizeof list) (void)snprintf(list + at, sizeof list - at, ", ...");
    }
    return err_set(
        err, ERR_FORMAT,
        "label '%s' is not one of the router's %d labels (%s); --skip-unknown leaves such rows out", shown, K,
        list);
}

/* ---- adding ---- */

static ErrCode source_index(int *out, Rows *rows, const char *name, Err *err) {
    *out = -1;
    if (!name || !name[0]) return ERR_OK;
    FlagList *s = &rows->sources;
    /* rows of one source follow each other as a rule */
    if (rows->count && rows->items[rows->count - 1].source >= 0 &&
        strcmp(s->items[rows->items[rows->count - 1].source], name) == 0) {
        *out = rows->items[rows->count - 1].source;
        return ERR_OK;
    }
    for (size_t i = 0; i < s->count && *out < 0; i++)
        if (strcmp(s->items[i], name) == 0) *out = (int)i;
    if (*out >= 0) return ERR_OK;
    if (s->count == ROWS_SOURCES_MAX) {
        *out = ROWS_SOURCES_MAX - 1;
        return ERR_OK;
    }
    if (s->count == ROWS_SOURCES_MAX - 1) name = "(further sources)";
    TRY(flags_list_add(s, name, strlen(name), err));
    *out = (int)s->count - 1;
    return ERR_OK;
}

/* What is added. */
typedef struct {
    const char *text;
    size_t n;
    cJSON *choices; /* NULL: none */
    const char *source, *id;
    int label, file;
    uint64_t line;
    int32_t tags[ROWS_MEMBERS_MAX];
} New;

/* The options as people write them below a question. */
static ErrCode put_choices(Buf *out, cJSON *choices, Err *err) {
    cJSON *choice;
    char letter = 'A';
    if (!cJSON_IsArray(choices)) return err_set(err, ERR_FORMAT, "choices: expected an array");
    cJSON_ArrayForEach(choice, choices) {
        if (letter > 'Z') return err_set(err, ERR_FORMAT, "choices: expected at most 26");
        if (cJSON_IsNumber(choice)) {
            buf_printf(out, "\n%c. %.15g", letter++, choice->valuedouble);
            continue;
        }
        if (!cJSON_IsString(choice))
            return err_set(err, ERR_FORMAT, "choices: option %c is neither a string nor a number", letter);
        size_t n;
        const char *text = json_text(choice, &n);
        buf_printf(out, "\n%c. ", letter++);
        buf_put(out, text, n);
    }
    return ERR_OK;
}

static ErrCode add(Rows *rows, const New *new, Err *err) {
    if (rows->count == rows->cap) {
        const size_t cap = rows->cap ? rows->cap * 2 : 1024;
        Row *items = mem_resize(rows->items, cap, sizeof *items);
        if (!items) return err_set(err, ERR_MEMORY, "out of memory for %zu rows", cap);
        rows->items = items;
        rows->cap = cap;
    }
    Row row = {.text_at = rows->bytes.len, .label = new->label, .file = new->file, .line = new->line};
    TRY(source_index(&row.source, rows, new->source, err));
    buf_put(&rows->bytes, new->text, new->n);
    if (new->choices) TRY(put_choices(&rows->bytes, new->choices, err));
    row.text_len = rows->bytes.len - row.text_at;
    row.id_at = rows->bytes.len;
    buf_put(&rows->bytes, new->id, strlen(new->id) + 1);
    buf_put(&rows->tags, new->tags, rows->member_count * sizeof *new->tags);
    TRY(buf_ok(&rows->bytes, err));
    TRY(buf_ok(&rows->tags, err));
    rows->items[rows->count++] = row;
    return ERR_OK;
}

/* ---- JSONL ---- */

/* Whether a member has this value, written as in JSON (strings without their quotes). */
static bool member_is(const cJSON *item, const char *value) {
    if (cJSON_IsString(item)) return strcmp(item->valuestring, value) == 0;
    if (cJSON_IsBool(item)) return strcmp(cJSON_IsTrue(item) ? "true" : "false", value) == 0;
    if (cJSON_IsNull(item)) return strcmp("null", value) == 0;
    if (!cJSON_IsNumber(item)) return false;
    char number[40];
    (void)snprintf(number, sizeof number, "%.15g", item->valuedouble);
    return strcmp(number, value) == 0;
}

static ErrCode passes(bool *out, const cJSON *tree, const RowsRule *rule, Err *err) {
    *out = false;
    for (size_t i = 0; i < rule->filters.count; i++) {
        const char *filter = rule->filters.items[i], *equals = strchr(filter, '=');
        char key[RECORD_NAME_MAX];
        const size_t n = equals ? (size_t)(equals - filter) : 0;
        if (n == 0 || n >= sizeof key)
            return err_set(err, ERR_ARGUMENT, "filter: found '%s', expected key=value", filter);
        memcpy(key, filter, n);
        key[n] = 0;
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(tree, key);
        if (!item || !member_is(item, equals + 1)) return ERR_OK;
    }
    *out = true;
    return ERR_OK;
}

static bool in_split(const Record *record, const RowsRule *rule) {
    if (rule->split == SPLIT_COUNT) return true;
    if (!record->split) return rule->split_default;
    return split_find(record->split) == rule->split;
}

/* The label's name: the record's own, or label_map[member map_field]; NULL when the map does not have it. */
static ErrCode label_of(const char **out, const Record *record, const RowsRule *rule, Err *err) {
    *out = record->label;
    if (!rule->map_field) return ERR_OK;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(record->tree, rule->map_field);
    if (!cJSON_IsString(item))
        return err_set(err, ERR_FORMAT, "%.100s: found %s, expected a string to look up in the label map",
                       rule->map_field, item ? "something else" : "no such member");
    const cJSON *label = cJSON_GetObjectItemCaseSensitive(rule->label_map, item->valuestring);
    *out = label ? label->valuestring : NULL;
    if (label || rule->skip_unknown || rule->unlabelled) return ERR_OK;
    char shown[84];
    text_excerpt(shown, 80, item->valuestring, strlen(item->valuestring));
    return err_set(err, ERR_FORMAT,
                   "%.100s '%s' is not in the label map; --skip-unknown leaves such rows out",
                   rule->map_field, shown);
}

static ErrCode value_index(int32_t *out, Names *values, const cJSON *item, const char *key, Err *err) {
    *out = -1;
    if (!item || cJSON_IsNull(item)) return ERR_OK;
    char shown[RECORD_NAME_MAX + 4];
    if (cJSON_IsString(item))
        (void)text_excerpt(shown, RECORD_NAME_MAX, item->valuestring, strlen(item->valuestring));
    else if (cJSON_IsBool(item))
        (void)snprintf(shown, sizeof shown, "%s", cJSON_IsTrue(item) ? "true" : "false");
    else if (cJSON_IsNumber(item))
        (void)snprintf(shown, sizeof shown, "%.15g", item->valuedouble);
    else
        return err_set(err, ERR_FORMAT, "%.100s: found %s, expected a string, a number or a boolean", key,
                       cJSON_IsArray(item) ? "an array" : "an object");
    size_t index = names_find(values, shown);
    if (index == SIZE_MAX)
        TRY(names_add(&index, values, values->count + 1 < ROWS_VALUES_MAX ? shown : "(further values)", err));
    *out = (int32_t)index;
    return ERR_OK;
}

static ErrCode add_record(Rows *rows, const Record *record, const RowsRule *rule, const char *const *labels,
                          int K, const char *place, uint64_t line, Err *err) {
    bool pass;
    TRY(passes(&pass, record->tree, rule, err));
    if (!pass || !in_split(record, rule)) {
        rows->filtered++;
        return ERR_OK;
    }
    const char *name;
    TRY(label_of(&name, record, rule, err));
    const int label = name ? find(labels, K, name) : -1;
    if (label < 0 && !rule->unlabelled) {
        if (!name && !rule->skip_unknown)
            return err_set(err, ERR_FORMAT, "no label; --skip-unknown leaves such rows out");
        if (!rule->skip_unknown) return unknown_label(name, labels, K, err);
        rows->skipped++;
        return ERR_OK;
    }
    RowText text = {record->text, record->text_len};
    if (rule->take) TRY(rule->take(rule->arg, record, &text, err));
    if (!text.text) {
        rows->skipped++;
        return ERR_OK;
    }
    New new = {.text = text.text,
               .n = text.n,
               .label = label,
               .source = record->source,
               .id = record->id ? record->id : place,
               .file = (int)rows->files.count - 1,
               .line = line};
    if (rule->with_choices) {
        new.choices = cJSON_GetObjectItemCaseSensitive(record->tree, "choices");
        if (cJSON_IsNull(new.choices)) new.choices = NULL;
    }
    for (size_t m = 0; m < rows->member_count; m++) {
        const char *key = rule->members.items[m];
        TRY(value_index(&new.tags[m], &rows->values[m], cJSON_GetObjectItemCaseSensitive(record->tree, key),
                        key, err));
    }
    rows->train += record->split && split_find(record->split) == SPLIT_TRAIN;
    return add(rows, &new, err);
}

ErrCode rows_read(Rows *rows, const char *path, const RowsRule *rule, const char *const *labels, int K,
                  Err *err) {
    Lines *lines = NULL;
    Record record = {0};
    /* rows that the filters leave out may have no label: it is asked for afterwards */
    RecordRule optional = rule->record;
    optional.label_optional = true;
    assert(rule->members.count <= ROWS_MEMBERS_MAX &&
           (rows->count == 0 || rows->member_count == rule->members.count));
    rows->member_count = rule->members.count;
    ErrCode rc = lines_open(&lines, path, err);
    if (rc == ERR_OK) rc = flags_list_add(&rows->files, lines_path(lines), strlen(lines_path(lines)), err);
    while (rc == ERR_OK) {
        const char *text;
        size_t n;
        bool more;
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        if (text_is_blank(text, n)) continue;
        char place[512];
        (void)snprintf(place, sizeof place, "%.480s:%zu", lines_path(lines), lines_number(lines));
        rc = record_parse(&record, &optional, text, n, err);
        if (rc == ERR_OK) rc = add_record(rows, &record, rule, labels, K, place, lines_number(lines), err);
        if (rc == ERR_FORMAT) rc = err_context(err, rc, "%s", place);
    }
    record_free(&record);
    lines_close(lines);
    return rc;
}

/* ---- shard ---- */

static ErrCode add_block(Rows *rows, const ShardBlock *block, const ShardInfo *info, int first_file,
                         const int *label_of_shard, bool skip_unknown, const char *const *labels, int K,
                         Err *err) {
    for (size_t i = 0; i < block->count; i++) {
        const ShardRow *r = &block->rows[i];
        char place[512];
        const char *file = r->file < info->file_count ? info->files[r->file] : "?";
        (void)snprintf(place, sizeof place, "%.480s:%lu", file, (unsigned long)r->line);
        const int label = label_of_shard[r->label];
        if (label < 0) {
            if (!skip_unknown)
                return err_context(err, unknown_label(info->labels[r->label], labels, K, err), "%s", place);
            rows->skipped++;
            continue;
        }
        const New new = {.text = r->text,
                         .n = r->text_len,
                         .label = label,
                         .source = r->source < info->source_count ? info->sources[r->source] : NULL,
                         .id = place,
                         .file = r->file < info->file_count ? first_file + (int)r->file : first_file,
                         .line = r->line};
        TRY(add(rows, &new, err));
        rows->train += r->split == SPLIT_TRAIN;
    }
    return ERR_OK;
}

static ErrCode read_splits(Rows *rows, Shard *shard, Split split, bool skip_unknown,
                           const char *const *labels, int K, Err *err) {
    const ShardInfo *info = shard_info(shard);
    int *label_of_shard = NULL;
    ShardBlock block = {0};
    ErrCode rc =
        mem_new(&label_of_shard, (size_t)info->label_count + 1, sizeof *label_of_shard, "labels", err);
    for (int k = 0; rc == ERR_OK && k < info->label_count; k++)
        label_of_shard[k] = find(labels, K, info->labels[k]);
    const int first_file = (int)rows->files.count;
    for (size_t i = 0; rc == ERR_OK && i < info->file_count; i++)
        rc = flags_list_add(&rows->files, info->files[i], strlen(info->files[i]), err);
    for (Split s = 0; s < SPLIT_COUNT; s++) {
        const size_t blocks = split == SPLIT_COUNT || split == s ? shard_blocks(shard, s) : 0;
        for (size_t b = 0; rc == ERR_OK && b < blocks; b++) {
            rc = shard_read(shard, &block, s, b, true, err);
            if (rc == ERR_OK)
                rc = add_block(rows, &block, info, first_file, label_of_shard, skip_unknown, labels, K, err);
        }
    }
    shard_block_free(&block);
    mem_free(label_of_shard);
    return rc;
}

ErrCode rows_read_shard(Rows *rows, const char *path, Split split, bool skip_unknown,
                        const char *const *labels, int K, Err *err) {
    Shard *shard;
    TRY(shard_open(&shard, path, err));
    const ErrCode rc = read_splits(rows, shard, split, skip_unknown, labels, K, err);
    shard_close(shard);
    return rc;
}

/* ---- the rest ---- */

ErrCode rows_views(RowText **texts, int **labels, const Rows *rows, Err *err) {
    *texts = NULL;
    *labels = NULL;
    TRY(mem_new(texts, rows->count + 1, sizeof **texts, "the rows", err));
    const ErrCode rc = mem_new(labels, rows->count + 1, sizeof **labels, "the rows", err);
    if (rc != ERR_OK) {
        mem_free(*texts);
        *texts = NULL;
        return rc;
    }
    for (size_t i = 0; i < rows->count; i++) {
        (*texts)[i] = (RowText){rows->bytes.data + rows->items[i].text_at, rows->items[i].text_len};
        (*labels)[i] = rows->items[i].label;
    }
    return ERR_OK;
}

const char *rows_id(const Rows *rows, size_t i) {
    return rows->bytes.data + rows->items[i].id_at;
}

int rows_tag(const Rows *rows, size_t i, size_t member) {
    int32_t tag;
    memcpy(&tag, rows->tags.data + (i * rows->member_count + member) * sizeof tag, sizeof tag);
    return tag;
}

void rows_free(Rows *rows) {
    mem_free(rows->items);
    buf_free(&rows->bytes);
    buf_free(&rows->tags);
    flags_list_free(&rows->sources);
    flags_list_free(&rows->files);
    for (size_t m = 0; m < ROWS_MEMBERS_MAX; m++) names_free(&rows->values[m]);
    *rows = (Rows){0};
}

ErrCode rows_label_map(cJSON **out, const char *path, Err *err) {
    *out = NULL;
    cJSON *root;
    TRY(json_read(&root, path, err));
    ErrCode rc = ERR_OK;
    if (!cJSON_IsObject(root))
        rc = err_set(err, ERR_FORMAT, "%s: expected a JSON object such as {\"anatomy\": \"health\"}", path);
    cJSON *next = rc == ERR_OK ? root->child : NULL;
    while (next && rc == ERR_OK) {
        cJSON *item = next;
        next = item->next;
        if (item->string[0] == '_')
            cJSON_Delete(cJSON_DetachItemViaPointer(root, item));
        else if (!cJSON_IsString(item))
            rc = err_set(err, ERR_FORMAT, "%s: %.100s: expected a string, the name of a label", path,
                         item->string);
    }
    if (rc == ERR_OK)
        *out = root;
    else
        cJSON_Delete(root);
    return rc;
}
