#include "eval/rowset.h"

#include <string.h>

#include "core/mem.h"
#include "data/split.h"

typedef struct {
    const RowsetOptions *options;
    const RowsetRule *rule;
    const FlagList *files, *filter;
    Split split; /* SPLIT_COUNT: all */
    bool split_default;
    const char *const *labels;
    int K;
} Wanted;

static ErrCode find_split(Split *out, const char *name, Split initial, Err *err) {
    *out = name ? split_find(name) : initial;
    if (!name || *out != SPLIT_COUNT || strcmp(name, "all") == 0) return ERR_OK;
    return err_set(err, ERR_ARGUMENT,
                   "split: found '%.80s', expected train, dev, calibration, test or (with --data) all", name);
}

static ErrCode read_shard(Rowset *out, const Wanted *w, Err *err) {
    const RowsetRule *rule = w->rule;
    if (w->filter->count || w->options->map_field || rule->with_choices ||
        (rule->members && rule->members->count))
        return err_set(err, ERR_ARGUMENT, "%s need --data: a shard keeps no other members",
                       rule->members ? "--filter, --map-field, --with-choices and --slice by a member"
                                     : "--filter and --map-field");
    if (w->split == SPLIT_COUNT) return err_set(err, ERR_ARGUMENT, "split: all needs --data");
    buf_printf(&out->name, "%s (%s)", rule->shard, split_name(w->split));
    return rows_read_shard(&out->rows, rule->shard, w->split, w->options->skip_unknown, w->labels, w->K, err);
}

RowsRule rowset_plain_rule(const RowsetOptions *options) {
    return (RowsRule){.record = {.text_field = options->text_field, .label_field = options->label_field},
                      .split = SPLIT_COUNT,
                      .skip_unknown = options->skip_unknown};
}

/* VALUE=LABEL in the place of what the map says of that value, or beside the others. */
static ErrCode remap(cJSON *map, const FlagList *list, Err *err) {
    for (size_t i = 0; i < list->count; i++) {
        const char *text = list->items[i], *equals = strrchr(text, '=');
        if (!equals || !map)
            return err_set(err, ERR_ARGUMENT,
                           "remap: found '%.100s', expected VALUE=LABEL beside a --label-map", text);
        char *value = mem_strndup(text, (size_t)(equals - text));
        if (!value) return err_set(err, ERR_MEMORY, "out of memory for the label map");
        cJSON_DeleteItemFromObjectCaseSensitive(map, value);
        const bool added = cJSON_AddStringToObject(map, value, equals + 1) != NULL;
        mem_free(value);
        if (!added) return err_set(err, ERR_MEMORY, "out of memory for the label map");
    }
    return ERR_OK;
}

static ErrCode read_files(Rowset *out, const Wanted *w, Err *err) {
    const RowsetOptions *o = w->options;
    if (o->label_map) TRY(rows_label_map(&out->map, o->label_map, err));
    TRY(remap(out->map, &o->remap, err));
    RowsRule rule = rowset_plain_rule(o);
    rule.map_field = o->map_field;
    rule.label_map = out->map;
    rule.filters = *w->filter;
    rule.split = w->split;
    rule.split_default = w->split_default;
    if (w->rule->members) rule.members = *w->rule->members;
    rule.with_choices = w->rule->with_choices;
    rule.take = w->rule->take;
    rule.arg = w->rule->arg;
    for (size_t i = 0; i < w->files->count; i++) {
        TRY(rows_read(&out->rows, w->files->items[i], &rule, w->labels, w->K, err));
        buf_printf(&out->name, "%s%s", i ? ", " : "", w->files->items[i]);
    }
    for (size_t i = 0; i < w->filter->count; i++)
        buf_printf(&out->name, "%s%s%s", i ? ", " : " (", w->filter->items[i],
                   i + 1 == w->filter->count ? ")" : "");
    if (w->split != SPLIT_COUNT) buf_printf(&out->name, " (%s)", split_name(w->split));
    if (rule.with_choices) buf_puts(&out->name, " with their choices");
    return ERR_OK;
}

static ErrCode read_all(Rowset *out, const Wanted *w, Err *err) {
    if (!w->options->map_field != !w->options->label_map)
        return err_set(err, ERR_ARGUMENT, "--label-map and --map-field belong together: give both");
    TRY(w->files->count ? read_files(out, w, err) : read_shard(out, w, err));
    TRY(buf_ok(&out->name, err));
    if (out->rows.count == 0)
        return err_set(err, ERR_ARGUMENT,
                       "%s: no rows (%llu outside the split or the filters, %llu with unknown labels)",
                       out->name.data, (unsigned long long)out->rows.filtered,
                       (unsigned long long)out->rows.skipped);
    return rows_views(&out->texts, &out->labels, &out->rows, err);
}

/* Opens what is wanted, of the split that is named. */
static ErrCode open_wanted(Rowset *out, Wanted *w, const char *split, Split initial, Err *err) {
    TRY(find_split(&w->split, split, initial, err));
    const ErrCode rc = read_all(out, w, err);
    if (rc != ERR_OK) rowset_free(out);
    return rc;
}

ErrCode rowset_open(Rowset *out, const RowsetOptions *options, const RowsetRule *rule,
                    const char *const *labels, int K, Err *err) {
    *out = (Rowset){0};
    Wanted w = {.options = options,
                .rule = rule,
                .files = rule->files ? rule->files : &options->data,
                .filter = &options->filter,
                .labels = labels,
                .K = K};
    if (!w.files->count && rule->take)
        return err_set(err, ERR_ARGUMENT, "no rows: give them with --data FILE");
    if (!w.files->count && !rule->shard)
        return err_set(err, ERR_ARGUMENT,
                       "%s%sno run folder with a data.shard: give the rows with --data FILE",
                       rule->model ? rule->model : "", rule->model ? ": " : "");
    return open_wanted(out, &w, options->split, w.files->count ? SPLIT_COUNT : SPLIT_TEST, err);
}

ErrCode rowset_open_chosen(Rowset *out, const RowsetOptions *options, const FlagList *data, const char *split,
                           const char *shard, const char *const *labels, int K, Err *err) {
    *out = (Rowset){0};
    const FlagList none = {0};
    const RowsetRule rule = {.shard = shard};
    Wanted w = {.options = options,
                .rule = &rule,
                .files = data,
                .filter = &none,
                .split_default = true,
                .labels = labels,
                .K = K};
    return open_wanted(out, &w, split, SPLIT_COUNT, err);
}

ErrCode rowset_open_shard(Rowset *out, const char *shard, bool skip_unknown, const char *const *labels, int K,
                          Err *err) {
    *out = (Rowset){0};
    buf_printf(&out->name, "%s (all splits)", shard);
    ErrCode rc = buf_ok(&out->name, err);
    if (rc == ERR_OK) rc = rows_read_shard(&out->rows, shard, SPLIT_COUNT, skip_unknown, labels, K, err);
    if (rc == ERR_OK && out->rows.count == 0) rc = err_set(err, ERR_ARGUMENT, "%s: no rows", shard);
    if (rc == ERR_OK) rc = rows_views(&out->texts, &out->labels, &out->rows, err);
    if (rc != ERR_OK) rowset_free(out);
    return rc;
}

void rowset_free(Rowset *rowset) {
    rows_free(&rowset->rows);
    mem_free(rowset->texts);
    mem_free(rowset->labels);
    buf_free(&rowset->name);
    cJSON_Delete(rowset->map);
    *rowset = (Rowset){0};
}
