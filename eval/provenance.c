#include "eval/provenance.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/sha256.h"
#include "data/shard.h"

static ErrCode out_of_memory(Err *err) {
    return err_set(err, ERR_MEMORY, "out of memory for the provenance");
}

/* Adds item (owned in any case) to an object or, without a key, to an array. */
static ErrCode put(cJSON *to, const char *key, cJSON *item, Err *err) {
    const bool added = item && (key ? cJSON_AddItemToObject(to, key, item) : cJSON_AddItemToArray(to, item));
    if (added) return ERR_OK;
    cJSON_Delete(item);
    return out_of_memory(err);
}

static ErrCode put_text(cJSON *to, const char *key, const char *text, Err *err) {
    return put(to, key, cJSON_CreateString(text), err);
}

static ErrCode put_number(cJSON *to, const char *key, double value, Err *err) {
    return put(to, key, cJSON_CreateNumber(value), err);
}

/* ---- files ---- */

static ErrCode digest(char hex[SHA256_HEX], uint64_t *bytes, const char *path, Err *err) {
    unsigned char sum[SHA256_BYTES];
    TRY(sha256_file(sum, bytes, path, err));
    sha256_hex(hex, sum);
    return ERR_OK;
}

/* {name or path, bytes, sha256} behind the others of a list. */
static ErrCode put_file(cJSON *list, const char *key, const char *name, const char *path, Err *err) {
    char hex[SHA256_HEX];
    uint64_t bytes;
    cJSON *entry = cJSON_CreateObject();
    TRY(put(list, NULL, entry, err));
    TRY(put_text(entry, key, name, err));
    const ErrCode rc = strcmp(path, "-") == 0 ? ERR_IO : digest(hex, &bytes, path, err);
    if (rc == ERR_IO) { /* a pipe cannot be read again */
        TRY(put(entry, "bytes", cJSON_CreateNull(), err));
        return put(entry, "sha256", cJSON_CreateNull(), err);
    }
    if (rc != ERR_OK) return rc;
    TRY(put_number(entry, "bytes", (double)bytes, err));
    return put_text(entry, "sha256", hex, err);
}

static ErrCode put_if_there(cJSON *list, const char *dir, const char *name, Err *err) {
    char *path = file_join(dir, name);
    if (!path) return out_of_memory(err);
    const ErrCode rc = file_exists(path) ? put_file(list, "name", name, path, err) : ERR_OK;
    mem_free(path);
    return rc;
}

static ErrCode put_model(cJSON *root, const char *model, const Predictor *p, Err *err) {
    static const char *const NAMES[] = {"config.json", "model.safetensors", "pytorch_model.bin", "spm.model"};
    const bool blob = predict_is_blob(p), run = !blob && strcmp(predict_path(p), model) != 0;
    cJSON *entry = cJSON_CreateObject(), *files = NULL;
    TRY(put(root, "model", entry, err));
    TRY(put_text(entry, "kind", blob ? "blob" : run ? "run folder" : "folder", err));
    TRY(put(entry, "files", files = cJSON_CreateArray(), err));
    if (blob) {
        return put_file(files, "name", file_base(model), model, err);
    }
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        TRY(put_if_there(files, predict_path(p), NAMES[i], err));
    return ERR_OK;
}

/* ---- run and shard ---- */

static ErrCode put_config(cJSON *root, const char *run, Err *err) {
    char hex[SHA256_HEX], *path = file_join(run, "train_config.json");
    if (!path) return out_of_memory(err);
    cJSON *options = NULL, *entry = NULL;
    uint64_t bytes;
    ErrCode rc = ERR_OK;
    if (file_exists(path)) {
        rc = json_read(&options, path, err);
        if (rc == ERR_OK) rc = digest(hex, &bytes, path, err);
        if (rc == ERR_OK) rc = put(root, "train_config", entry = cJSON_CreateObject(), err);
        if (rc == ERR_OK) rc = put_text(entry, "sha256", hex, err);
        if (rc == ERR_OK)
            rc = put(entry, "options", options, err);
        else
            cJSON_Delete(options);
    } else {
        rc = put(root, "train_config", cJSON_CreateNull(), err);
    }
    mem_free(path);
    return rc;
}

static ErrCode put_shard(cJSON *root, const char *path, Err *err) {
    if (!path) return put(root, "shard", cJSON_CreateNull(), err);
    Shard *shard = NULL;
    TRY(shard_open(&shard, path, err));
    const ShardInfo *info = shard_info(shard);
    const struct {
        const char *key;
        uint64_t value;
    } counts[] = {{"max_tokens", (uint64_t)info->max_tokens},
                  {"given", info->split.given},
                  {"duplicates", info->split.duplicates},
                  {"crossing", info->split.crossing},
                  {"conflicting", info->split.conflicting},
                  {"skipped", info->skipped},
                  {"truncated", info->truncated}};
    cJSON *entry = cJSON_CreateObject(), *rows = NULL;
    ErrCode rc = put(root, "shard", entry, err);
    if (rc == ERR_OK) rc = put_text(entry, "content", info->content_digest, err);
    if (rc == ERR_OK) rc = put_text(entry, "tokenizer", info->tokenizer_digest, err);
    for (size_t i = 0; rc == ERR_OK && i < sizeof counts / sizeof *counts; i++)
        rc = put_number(entry, counts[i].key, (double)counts[i].value, err);
    if (rc == ERR_OK) rc = put(entry, "rows", rows = cJSON_CreateObject(), err);
    for (Split s = 0; rc == ERR_OK && s < SPLIT_COUNT; s++)
        rc = put_number(rows, split_name(s), (double)shard_rows(shard, s), err);
    shard_close(shard);
    return rc;
}

ErrCode provenance_collect(cJSON **out, const char *model, const Predictor *predictor, const FlagList *data,
                           Err *err) {
    *out = NULL;
    cJSON *root = cJSON_CreateObject(), *list = NULL;
    if (!root) return out_of_memory(err);
    ErrCode rc = put_model(root, model, predictor, err);
    if (rc == ERR_OK) rc = put_config(root, model, err);
    if (rc == ERR_OK) rc = put_shard(root, predict_shard(predictor), err);
    if (rc == ERR_OK) rc = put(root, "data", list = cJSON_CreateArray(), err);
    for (size_t i = 0; rc == ERR_OK && i < data->count; i++)
        rc = put_file(list, "path", data->items[i], data->items[i], err);
    if (rc == ERR_OK)
        *out = root;
    else
        cJSON_Delete(root);
    return rc;
}

/* ---- training curves ---- */

enum { STEP, LOSS, ACCURACY, COLUMNS };

typedef struct {
    double *values; /* (count, COLUMNS) */
    size_t count, cap;
} Series;

static ErrCode append(Series *s, const double point[COLUMNS], Err *err) {
    if (s->count == s->cap) {
        const size_t cap = 2 * s->cap + 256;
        double *values = mem_resize(s->values, cap, COLUMNS * sizeof *values);
        if (!values) return out_of_memory(err);
        s->values = values;
        s->cap = cap;
    }
    memcpy(s->values + COLUMNS * s->count++, point, COLUMNS * sizeof *point);
    return ERR_OK;
}

/* A line that does not hold all the keys as numbers is none of this series. */
static ErrCode take(Series *s, const cJSON *line, const char *const *keys, int count, Err *err) {
    double point[COLUMNS] = {0};
    for (int i = 0; i < count; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(line, keys[i]);
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) return ERR_OK;
        point[i] = item->valuedouble;
    }
    return append(s, point, err);
}

static ErrCode put_series(cJSON *root, const char *key, const Series *s, int columns, Err *err) {
    cJSON *list = cJSON_CreateArray();
    TRY(put(root, key, list, err));
    const size_t points = s->count < PROVENANCE_POINTS ? s->count : PROVENANCE_POINTS;
    for (size_t i = 0; i < points; i++) {
        const size_t from = i * s->count / points, to = (i + 1) * s->count / points;
        cJSON *point = cJSON_CreateArray();
        TRY(put(list, NULL, point, err));
        for (int c = 0; c < columns; c++) {
            double sum = 0;
            for (size_t j = from; j < to; j++) sum += s->values[COLUMNS * j + (size_t)c];
            TRY(put_number(point, NULL, sum / (double)(to - from), err));
        }
    }
    return ERR_OK;
}

static ErrCode read_series(Series *train, Series *dev, const char *path, Err *err) {
    static const char *const TRAIN[] = {"step", "loss"}, *const DEV[] = {"step", "dev_loss", "dev_accuracy"};
    Lines *lines = NULL;
    ErrCode rc = lines_open(&lines, path, err);
    while (rc == ERR_OK) {
        const char *text;
        size_t n;
        bool more;
        cJSON *line;
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        if (json_parse(&line, text, n, NULL) != ERR_OK) continue;
        rc = take(train, line, TRAIN, 2, err);
        if (rc == ERR_OK) rc = take(dev, line, DEV, 3, err);
        cJSON_Delete(line);
    }
    lines_close(lines);
    return rc;
}

ErrCode provenance_training(cJSON **out, const char *run, Err *err) {
    *out = NULL;
    char *path = file_join(run, "metrics.jsonl");
    if (!path) return out_of_memory(err);
    Series train = {0}, dev = {0};
    cJSON *root = NULL;
    ErrCode rc = ERR_OK;
    if (file_exists(path)) {
        rc = read_series(&train, &dev, path, err);
        root = rc == ERR_OK ? cJSON_CreateObject() : NULL;
        if (rc == ERR_OK && !root) rc = out_of_memory(err);
        if (rc == ERR_OK) rc = put_series(root, "train", &train, 2, err);
        if (rc == ERR_OK) rc = put_series(root, "dev", &dev, 3, err);
    }
    if (rc == ERR_OK)
        *out = root;
    else
        cJSON_Delete(root);
    mem_free(train.values);
    mem_free(dev.values);
    mem_free(path);
    return rc;
}
