#include "eval/rowset.h"

#include <string.h>

#include "core/mem.h"
#include "data/shard.h"
#include "data/split.h"

typedef struct {
    const RowsetOptions *options;
    const FlagList *data, *filter;
    Split split; /* SPLIT_COUNT: all */
    bool split_default;
    const char *shard;
    const char *const *labels;
    int K;
    ErrCode (*take)(void *arg, const Record *record, RowText *text, Err *err);
    void *arg;
} Wanted;

static ErrCode find_split(Split *out, const char *name, Split initial, Err *err) {
    *out = name ? split_find(name) : initial;
    if (!name || *out != SPLIT_COUNT || strcmp(name, "all") == 0) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "split: found '%.80s', expected train, dev, calibration, test or all",
                   name);
}

static ErrCode read_shard(Rowset *out, const Wanted *w, Err *err) {
    if (w->filter->count || w->options->map_field)
        return err_set(err, ERR_ARGUMENT,
                       "--filter and --map-field need --data: a shard keeps no other members");
    if (w->split == SPLIT_COUNT) return err_set(err, ERR_ARGUMENT, "split: all needs --data");
    Shard *shard = NULL;
    TRY(shard_open(&shard, w->shard, err));
    const ErrCode rc =
        rows_read_shard(&out->rows, shard, w->split, w->options->skip_unknown, w->labels, w->K, err);
    shard_close(shard);
    buf_printf(&out->name, "%s (%s)", w->shard, split_name(w->split));
    return rc;
}

static ErrCode read_files(Rowset *out, const Wanted *w, Err *err) {
    const RowsetOptions *o = w->options;
    if (!o->map_field != !o->label_map)
        return err_set(err, ERR_ARGUMENT, "--label-map and --map-field belong together: give both");
    if (o->label_map) TRY(rows_label_map(&out->map, o->label_map, err));
    const RowsRule rule = {.record = {.text_field = o->text_field, .label_field = o->label_field},
                           .map_field = o->map_field,
                           .label_map = out->map,
                           .filters = *w->filter,
                           .split = w->split,
                           .split_default = w->split_default,
                           .skip_unknown = o->skip_unknown,
                           .take = w->take,
                           .arg = w->arg};
    for (size_t i = 0; i < w->data->count; i++) {
        TRY(rows_read(&out->rows, w->data->items[i], &rule, w->labels, w->K, err));
        buf_printf(&out->name, "%s%s", i ? ", " : "", w->data->items[i]);
    }
    for (size_t i = 0; i < w->filter->count; i++)
        buf_printf(&out->name, "%s%s%s", i ? ", " : " (", w->filter->items[i],
                   i + 1 == w->filter->count ? ")" : "");
    if (w->split != SPLIT_COUNT) buf_printf(&out->name, " (%s)", split_name(w->split));
    return ERR_OK;
}

static ErrCode read_all(Rowset *out, const Wanted *w, Err *err) {
    TRY(w->data->count ? read_files(out, w, err) : read_shard(out, w, err));
    TRY(buf_ok(&out->name, err));
    if (out->rows.count == 0)
        return err_set(err, ERR_ARGUMENT,
                       "%s: no rows (%llu outside the split or the filters, %llu with unknown labels)",
                       out->name.data, (unsigned long long)out->rows.filtered,
                       (unsigned long long)out->rows.skipped);
    return rows_views(&out->texts, &out->labels, &out->rows, err);
}

ErrCode rowset_open(Rowset *out, const RowsetOptions *options, const char *shard, const char *const *labels,
                    int K, Err *err) {
    *out = (Rowset){0};
    const bool files = options->data.count > 0;
    if (!files && !shard)
        return err_set(err, ERR_ARGUMENT, "no run folder with a data.shard: give the rows with --data FILE");
    Wanted w = {.options = options,
                .data = &options->data,
                .filter = &options->filter,
                .shard = shard,
                .labels = labels,
                .K = K};
    TRY(find_split(&w.split, options->split, files ? SPLIT_COUNT : SPLIT_TEST, err));
    const ErrCode rc = read_all(out, &w, err);
    if (rc != ERR_OK) rowset_free(out);
    return rc;
}

ErrCode rowset_open_taking(Rowset *out, const RowsetOptions *options,
                           ErrCode (*take)(void *arg, const Record *record, RowText *text, Err *err),
                           void *arg, const char *const *labels, int K, Err *err) {
    *out = (Rowset){0};
    if (!options->data.count) return err_set(err, ERR_ARGUMENT, "no rows: give them with --data FILE");
    Wanted w = {.options = options,
                .data = &options->data,
                .filter = &options->filter,
                .labels = labels,
                .K = K,
                .take = take,
                .arg = arg};
    TRY(find_split(&w.split, options->split, SPLIT_COUNT, err));
    const ErrCode rc = read_all(out, &w, err);
    if (rc != ERR_OK) rowset_free(out);
    return rc;
}

ErrCode rowset_open_chosen(Rowset *out, const RowsetOptions *options, const FlagList *data, const char *split,
                           const char *shard, const char *const *labels, int K, Err *err) {
    *out = (Rowset){0};
    const FlagList none = {0};
    Wanted w = {.options = options,
                .data = data,
                .filter = &none,
                .split_default = true,
                .shard = shard,
                .labels = labels,
                .K = K};
    TRY(find_split(&w.split, split, SPLIT_COUNT, err));
    const ErrCode rc = read_all(out, &w, err);
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
