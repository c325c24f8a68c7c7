#include "model/weights.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "core/text.h"
#include "model/pickle.h"
#include "model/safetensors.h"

#define SHARDS_MAX 1000

/* ---- the tensors of a folder, whatever their files ---- */

typedef struct {
    char *name, *path; /* in the folder; of the file */
    Safetensors st;
    Pickle *pickle; /* instead of st */
} Shard;

typedef struct {
    const char *name; /* borrowed from its shard */
    const Shard *shard;
    size_t index; /* in the shard */
    Dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
    bool used;
} Item;

typedef struct {
    const char *dir;
    Shard *shards;
    size_t shard_count;
    Item *items; /* sorted by name */
    size_t item_count;
} Source;

static void source_close(Source *s) {
    for (size_t i = 0; i < s->shard_count; i++) {
        mem_free(s->shards[i].name);
        mem_free(s->shards[i].path);
        safetensors_close(&s->shards[i].st);
        pickle_close(s->shards[i].pickle);
    }
    mem_free(s->shards);
    mem_free(s->items);
    *s = (Source){0};
}

static ErrCode no_memory(Err *err) {
    return err_set(err, ERR_MEMORY, "out of memory reading the weights");
}

static ErrCode open_shard(Shard *out, const char *dir, const char *name, bool pickle, Err *err) {
    out->path = file_join(dir, name);
    out->name = mem_strdup(name);
    if (!out->path || !out->name) return no_memory(err);
    return pickle ? pickle_open(&out->pickle, out->path, err) : safetensors_open(&out->st, out->path, err);
}

static size_t shard_tensors(const Shard *shard) {
    return shard->pickle ? pickle_count(shard->pickle) : shard->st.header.count;
}

static Item shard_item(const Shard *shard, size_t i) {
    Item item = {.shard = shard, .index = i};
    if (shard->pickle) {
        const PickleEntry e = pickle_entry(shard->pickle, i);
        item.name = e.name;
        item.dtype = e.dtype;
        item.rank = e.rank;
        memcpy(item.shape, e.shape, sizeof item.shape);
    } else {
        const SafetensorsEntry *e = &shard->st.header.entries[i];
        item.name = e->name;
        item.dtype = e->dtype;
        item.rank = e->rank;
        memcpy(item.shape, e->shape, sizeof item.shape);
    }
    return item;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Item *)a)->name, ((const Item *)b)->name);
}

static Item *find_item(const Source *s, const char *name) {
    const Item want = {.name = name};
    return s->item_count ? bsearch(&want, s->items, s->item_count, sizeof want, by_name) : NULL;
}

static ErrCode list_items(Source *s, Err *err) {
    size_t n = 0;
    for (size_t i = 0; i < s->shard_count; i++) n += shard_tensors(&s->shards[i]);
    TRY(mem_new(&s->items, n, sizeof *s->items, "the list of tensors", err));
    for (size_t i = 0; i < s->shard_count; i++)
        for (size_t k = 0; k < shard_tensors(&s->shards[i]); k++)
            s->items[s->item_count++] = shard_item(&s->shards[i], k);
    if (n) qsort(s->items, n, sizeof *s->items, by_name);
    for (size_t i = 1; i < n; i++) {
        char shown[104];
        const char *name = s->items[i].name;
        if (strcmp(s->items[i - 1].name, name) == 0)
            return err_set(err, ERR_FORMAT, "%s: tensor \"%s\" is in two files", s->dir,
                           text_excerpt(shown, 100, name, strlen(name)));
    }
    return ERR_OK;
}

static ErrCode add_shard(Source *s, const char *name, bool pickle, Err *err) {
    for (size_t i = 0; i < s->shard_count; i++)
        if (strcmp(s->shards[i].name, name) == 0) return ERR_OK;
    if (s->shard_count == SHARDS_MAX)
        return err_set(err, ERR_FORMAT, "weight_map: more than %d files", SHARDS_MAX);
    if (!name[0] || strchr(name, '/') || strcmp(name, "..") == 0) {
        char shown[104];
        return err_set(err, ERR_FORMAT, "weight_map: found \"%s\", expected a file in the same folder",
                       text_excerpt(shown, 100, name, strlen(name)));
    }
    Shard *more = mem_resize(s->shards, s->shard_count + 1, sizeof *more);
    if (!more) return no_memory(err);
    s->shards = more;
    s->shards[s->shard_count] = (Shard){0};
    return open_shard(&s->shards[s->shard_count++], s->dir, name, pickle, err);
}

/* {"weight_map": {tensor: file, ...}, ...} */
static ErrCode open_index(Source *s, const char *path, bool pickle, Err *err) {
    cJSON *root;
    TRY(json_read(&root, path, err));
    const cJSON *item, *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
    ErrCode rc = ERR_OK;
    if (!cJSON_IsObject(map))
        rc = err_set(err, ERR_FORMAT, "key \"weight_map\": expected an object from tensor to file");
    cJSON_ArrayForEach(item, map) {
        if (rc != ERR_OK) break;
        rc = cJSON_IsString(item) ? add_shard(s, item->valuestring, pickle, err)
                                  : err_set(err, ERR_FORMAT, "weight_map: a file's name is not a string");
    }
    if (rc == ERR_OK) rc = list_items(s, err);
    cJSON_ArrayForEach(item, map) { /* a shard that lacks what the index promises is not the right one */
        if (rc != ERR_OK) break;
        const Item *found = find_item(s, item->string);
        char shown[104];
        if (!found || strcmp(found->shard->name, item->valuestring) != 0)
            rc = err_set(err, ERR_FORMAT, "tensor \"%s\" is not in %.100s",
                         text_excerpt(shown, 100, item->string, strlen(item->string)), item->valuestring);
    }
    cJSON_Delete(root);
    return rc == ERR_OK ? rc : err_context(err, rc, "%s", path);
}

/* What the weights of a folder are in. */
static const struct {
    const char *name;
    bool index, pickle;
} FILES[] = {{"model.safetensors.index.json", true, false},
             {"model.safetensors", false, false},
             {"pytorch_model.bin.index.json", true, true},
             {"pytorch_model.bin", false, true}};

/* Which of FILES, and its path. */
static ErrCode find_file(size_t *which, char **path, const char *dir, Err *err) {
    for (size_t i = 0; i < sizeof FILES / sizeof FILES[0]; i++) {
        *path = file_join(dir, FILES[i].name);
        *which = i;
        if (!*path) return no_memory(err);
        if (file_exists(*path)) return ERR_OK;
        mem_free(*path);
    }
    *path = NULL;
    return err_set(err, ERR_IO,
                   "%s: no weights: expected model.safetensors, pytorch_model.bin or an index of either",
                   dir);
}

static ErrCode source_open(Source *s, const char *dir, char source[64], Err *err) {
    size_t i;
    char *path;
    *s = (Source){.dir = dir};
    TRY(find_file(&i, &path, dir, err));
    (void)snprintf(source, 64, "%s", FILES[i].name);
    ErrCode rc;
    if (FILES[i].index) {
        rc = open_index(s, path, FILES[i].pickle, err);
    } else {
        rc = add_shard(s, FILES[i].name, FILES[i].pickle, err);
        if (rc == ERR_OK) rc = list_items(s, err);
    }
    mem_free(path);
    return rc;
}

ErrCode weights_digest(char hex[65], const char *dir, Err *err) {
    unsigned char digest[SHA256_BYTES];
    size_t i;
    char *path;
    TRY(find_file(&i, &path, dir, err));
    hex[0] = 0;
    ErrCode rc = ERR_OK;
    if (!FILES[i].index) rc = sha256_file(digest, NULL, path, err);
    if (rc == ERR_OK && !FILES[i].index) sha256_hex(hex, digest);
    mem_free(path);
    return rc;
}

/* ---- one weight ---- */

/* A checkpoint of the encoder alone has no "deberta." before its names. */
static Item *find_param(const Source *s, const char *name) {
    static const char PREFIX[] = "deberta.";
    const size_t n = sizeof PREFIX - 1;
    Item *item = find_item(s, name);
    if (!item && strncmp(name, PREFIX, n) == 0) item = find_item(s, name + n);
    return item;
}

static ErrCode check_shape(const Item *item, const ParamView *v, const Config *config, Err *err) {
    const int64_t want[2] = {v->rows, v->cols};
    const int rank = v->cols ? 2 : 1;
    if (item->rank == rank && memcmp(item->shape, want, (size_t)rank * sizeof *want) == 0) return ERR_OK;
    char found[96], expected[96];
    tensor_shape_text(found, item->shape, item->rank);
    tensor_shape_text(expected, want, rank);
    if (strncmp(v->name, "classifier.", 11) == 0 && item->rank == rank && item->shape[0] != want[0])
        return err_set(
            err, ERR_SHAPE,
            "%s: tensor \"%s\" is for %lld labels, but the configuration has %d; use the labels of "
            "the checkpoint, or one without a classifier",
            item->shard->path, item->name, (long long)item->shape[0], config->num_labels);
    return err_set(err, ERR_SHAPE, "%s: tensor \"%s\" has shape %s, expected %s from config.json",
                   item->shard->path, item->name, found, expected);
}

static ErrCode read_values(const Item *item, float *out, Err *err) {
    const Shard *s = item->shard;
    if (s->pickle) return pickle_read_f32(s->pickle, item->index, out, err);
    return safetensors_read_f32(&s->st, &s->st.header.entries[item->index], out, err);
}

static ErrCode load_param(const ParamView *v, Item *item, const Config *config, Err *err) {
    TRY(check_shape(item, v, config, err));
    item->used = true;
    const size_t n = (size_t)param_count(v);
#ifdef ROUTER_DOUBLE
    float *values;
    TRY(mem_new(&values, n, sizeof *values, v->name, err));
    ErrCode rc = read_values(item, values, err);
    for (size_t i = 0; i < n && rc == ERR_OK; i++) v->data[i] = (real)values[i];
    mem_free(values);
#else
    ErrCode rc = read_values(item, v->data, err);
#endif
    for (size_t i = 0; i < n && rc == ERR_OK; i++)
        if (!isfinite(v->data[i]))
            rc = err_set(err, ERR_NUMERIC, "%s: tensor \"%s\" holds %g at index %zu, expected finite numbers",
                         item->shard->path, item->name, (double)v->data[i], i);
    return rc;
}

static void init_param(const ParamView *v, const Config *config, uint64_t seed) {
    const size_t n = (size_t)param_count(v);
    const uint64_t key = rng_key(seed, v->name, 0);
    for (size_t i = 0; i < n; i++) {
        if (param_decays(v->kind)) /* through float, so that the double build starts from the same model */
            v->data[i] = (real)(float)(config->initializer_range * rng_normal(key, i));
        else
            v->data[i] = v->kind == PARAM_NORM_SCALE ? 1 : 0;
    }
    if (strcmp(v->name, "deberta.embeddings.word_embeddings.weight") == 0)
        for (size_t i = 0; i < (size_t)v->cols; i++)
            v->data[(size_t)config->pad_token_id * (size_t)v->cols + i] = 0;
}

/* pooler and classifier: what a checkpoint of the encoder alone has not. */
static bool is_head(const ParamView *v) {
    return strncmp(v->name, "pooler.", 7) == 0 || strncmp(v->name, "classifier.", 11) == 0;
}

/* Half a head would train from a bias that belongs to other weights. */
static ErrCode check_partner(const Source *s, const ParamView *v, Err *err) {
    const char *dot = strrchr(v->name, '.');
    char partner[PARAM_NAME_MAX];
    (void)snprintf(partner, sizeof partner, "%.*s.%s", (int)(dot - v->name), v->name,
                   strcmp(dot, ".weight") == 0 ? "bias" : "weight");
    if (!find_item(s, partner)) return ERR_OK;
    return err_set(err, ERR_FORMAT, "%s: has a tensor \"%s\" but no \"%s\"", s->dir, partner, v->name);
}

static ErrCode load_all(Source *s, const Params *params, const Config *config, uint64_t seed,
                        WeightsReport *report, Err *err) {
    size_t count;
    ParamView *list = params_list(params, config, &count);
    if (!list) return no_memory(err);
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        const ParamView *v = &list[i];
        if (param_count(v) == 0) continue; /* no labels: no classifier */
        Item *item = find_param(s, v->name);
        if (item) {
            rc = load_param(v, item, config, err);
        } else if (!is_head(v)) {
            rc = err_set(err, ERR_FORMAT, "%s: no tensor \"%s\" among its %zu", s->dir, v->name,
                         s->item_count);
        } else {
            rc = check_partner(s, v, err);
            if (rc == ERR_OK) init_param(v, config, seed);
            if (rc == ERR_OK) rc = flags_list_add(&report->initialised, v->name, strlen(v->name), err);
        }
    }
    for (size_t i = 0; i < s->item_count && rc == ERR_OK; i++) {
        const char *name = s->items[i].name;
        if (!s->items[i].used) rc = flags_list_add(&report->ignored, name, strlen(name), err);
    }
    mem_free(list);
    return rc;
}

ErrCode weights_load(const Params *params, const Config *config, const char *dir, uint64_t seed,
                     WeightsReport *report, Err *err) {
    assert(params->word);
    WeightsReport own = {0};
    Source source = {0};
    if (report) *report = (WeightsReport){0};
    ErrCode rc = source_open(&source, dir, own.source, err);
    if (rc == ERR_OK) rc = load_all(&source, params, config, seed, &own, err);
    source_close(&source);
    if (rc == ERR_OK && report)
        *report = own;
    else
        weights_report_free(&own);
    return rc;
}

void weights_report_free(WeightsReport *report) {
    flags_list_free(&report->initialised);
    flags_list_free(&report->ignored);
    *report = (WeightsReport){0};
}

static void init_named(ParamView v, const char *prefix, const char *name, const Config *config,
                       uint64_t seed) {
    (void)snprintf(v.name, sizeof v.name, "%s%s", prefix, name);
    init_param(&v, config, seed);
}

/* The list itself rather than params_list: without an allocation nothing can fail. */
void weights_init(const Params *params, const Config *config, uint64_t seed) {
    assert(params->word);
    const size_t V = (size_t)config->vocab_size, H = (size_t)config->hidden_size;
    const size_t F = (size_t)config->intermediate_size, R = 2 * (size_t)config->position_buckets;
    const size_t K = (size_t)config->num_labels;
#define VIEW(at, kind_, rows_, cols_) \
    (ParamView){.data = (at), .rows = (int64_t)(rows_), .cols = (int64_t)(cols_), .kind = (kind_)}
#define INIT(field, name, kind, rows, cols) \
    init_named(VIEW(params->field, kind, rows, cols), "", name, config, seed);
    PARAMS_EMBEDDINGS(INIT)
    PARAMS_TOP(INIT)
    for (int l = 0; l < config->num_hidden_layers; l++) {
        char prefix[48];
        (void)snprintf(prefix, sizeof prefix, "deberta.encoder.layer.%d.", l);
#define INIT_LAYER(field, name, kind, rows, cols) \
    init_named(VIEW(params->layer[l].field, kind, rows, cols), prefix, name, config, seed);
        PARAMS_LAYER(INIT_LAYER)
    }
}

/* ---- writing ---- */

static void write_values(FileWriter *w, const real *data, size_t n) {
#ifdef ROUTER_DOUBLE
    float piece[4096];
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        for (; k < 4096 && i < n; k++, i++) piece[k] = (float)data[i];
        file_write(w, piece, k * sizeof *piece);
    }
#else
    file_write(w, data, n * sizeof *data);
#endif
}

ErrCode weights_save(const char *path, const Params *params, const Config *config, Err *err) {
    assert(params->word);
    const SafetensorsPair format = {.key = "format", .value = "pt", .value_len = 2};
    size_t count, n = 0;
    ParamView *list = params_list(params, config, &count);
    SafetensorsItem *items = NULL;
    Buf header = {0};
    FileWriter w = {0};
    ErrCode rc = list ? mem_new(&items, count, sizeof *items, "the list of tensors", err) : no_memory(err);
    if (rc != ERR_OK) goto done;
    for (size_t i = 0; i < count; i++) {
        const ParamView *v = &list[i];
        if (param_count(v) == 0) continue;
        items[n].name = v->name;
        items[n++].tensor =
            (Tensor){.shape = {v->rows, v->cols}, .rank = v->cols ? 2 : 1, .dtype = DTYPE_F32};
    }
    rc = safetensors_header(&header, items, n, &format, 1, 8, err);
    if (rc == ERR_OK) rc = file_create(&w, path, err);
    if (rc != ERR_OK) goto done;
    file_write(&w, header.data, header.len);
    for (size_t i = 0; i < count; i++) write_values(&w, list[i].data, (size_t)param_count(&list[i]));
    rc = file_commit(&w, err);
done:
    file_abort(&w);
    buf_free(&header);
    mem_free(items);
    mem_free(list);
    return rc;
}
