#include "train/ckpt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "train/card.h"

static ErrCode join(char **out, const char *dir, const char *name, Err *err) {
    *out = file_join(dir, name);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
}

/* ---- the Hugging Face part ---- */

static ErrCode save_config(const char *dir, const Config *config, const CkptCard *card, Err *err) {
    cJSON *root;
    TRY(config_json(&root, config, err));
    ErrCode rc = ERR_OK;
    char *path = NULL;
    if (!cJSON_AddNumberToObject(root, "router_max_length", card->max_tokens) ||
        !cJSON_AddBoolToObject(root, "router_plain_text", card->plain))
        rc = err_set(err, ERR_MEMORY, "out of memory");
    if (rc == ERR_OK) rc = join(&path, dir, "config.json", err);
    if (rc == ERR_OK) rc = json_save(path, root, err);
    mem_free(path);
    cJSON_Delete(root);
    return rc;
}

/* Dense rows of the word embedding are made in a copy: the running rows must not be rounded by a save. */
static ErrCode save_weights(const char *dir, const Adamw *adamw, Err *err) {
    const Config *c = &adamw->model->config;
    char *path = NULL;
    real *word = NULL;
    ErrCode rc = mem_new(&word, (size_t)c->vocab_size * (size_t)c->hidden_size, sizeof *word,
                         "a copy of the word embedding", err);
    if (rc == ERR_OK) rc = join(&path, dir, "model.safetensors", err);
    if (rc == ERR_OK) {
        adamw_word(adamw, word);
        Params params = adamw->model->host_weights;
        params.word = word;
        rc = weights_save(path, &params, c, err);
    }
    mem_free(path);
    mem_free(word);
    return rc;
}

static ErrCode write_model(const char *dir, const Adamw *adamw, const Tokenizer *tokenizer,
                           const CkptCard *card, Err *err) {
    TRY(file_mkdirs(dir, err));
    TRY(save_config(dir, &adamw->model->config, card, err));
    TRY(save_weights(dir, adamw, err));
    TRY(tokenizer_save(tokenizer, dir, card->max_tokens, err));
    return card_save(dir, &adamw->model->config, card, err);
}

/* ---- the optimiser ---- */

static ErrCode prefixed(char **out, const char *prefix, const char *name, Err *err) {
    Buf buf = {0};
    buf_printf(&buf, "%s%s", prefix, name);
    *out = buf.data;
    return buf_ok(&buf, err);
}

static ErrCode save_optimizer(const char *dir, const Adamw *a, Err *err) {
    const size_t count = 2 * (a->params - 1) + 3;
    SafetensorsItem *items = NULL;
    char **names = NULL, *path = NULL;
    size_t n = 0, named = 0;
    ErrCode rc = mem_new(&items, count, sizeof *items, "the optimiser's file", err);
    if (rc == ERR_OK) rc = mem_new(&names, count, sizeof *names, "the optimiser's file", err);
    for (size_t i = 0; i < a->params && rc == ERR_OK; i++) {
        const ParamView *views[2] = {&a->ms[i], &a->vs[i]};
        for (int k = 0; k < 2 && views[k]->data && rc == ERR_OK; k++) {
            rc = prefixed(&names[named], k ? "v." : "m.", views[k]->name, err);
            items[n++] =
                (SafetensorsItem){names[named++], {views[k]->data, {param_count(views[k])}, 1, DTYPE_F32}};
        }
    }
    const int64_t rows = a->rows, H = a->model->config.hidden_size;
    if (rc == ERR_OK) {
        items[n++] = (SafetensorsItem){"word.ids", {a->ids, {rows}, 1, DTYPE_I32}};
        items[n++] = (SafetensorsItem){"word.m", {a->word_m, {rows, H}, 2, DTYPE_F32}};
        items[n++] = (SafetensorsItem){"word.v", {a->word_v, {rows, H}, 2, DTYPE_F32}};
        rc = join(&path, dir, "optimizer.safetensors", err);
    }
    if (rc == ERR_OK) rc = safetensors_save(path, items, n, NULL, 0, err);
    for (size_t i = 0; i < named; i++) mem_free(names[i]);
    mem_free(names);
    mem_free(items);
    mem_free(path);
    return rc;
}

static ErrCode read_exact(const Safetensors *st, const char *path, const char *name, Dtype dtype, int64_t n,
                          void *out, Err *err) {
    const SafetensorsEntry *e = safetensors_find(&st->header, name);
    if (!e) return err_set(err, ERR_FORMAT, "%s: the tensor %s is missing", path, name);
    if (e->dtype != dtype || (int64_t)(e->end - e->begin) != n * (int64_t)tensor_dtype_bytes(dtype))
        return err_set(err, ERR_SHAPE, "%s: tensor %s: found %llu bytes of %s, expected %lld of %s", path,
                       name, (unsigned long long)(e->end - e->begin), tensor_dtype_name(e->dtype),
                       (long long)(n * (int64_t)tensor_dtype_bytes(dtype)), tensor_dtype_name(dtype));
    return safetensors_read(st, e, out, err);
}

static ErrCode load_rows(Adamw *a, const Safetensors *st, const char *path, Err *err) {
    const SafetensorsEntry *e = safetensors_find(&st->header, "word.ids");
    const int64_t rows = e && e->rank == 1 ? e->shape[0] : -1, H = a->model->config.hidden_size;
    if (rows < 0 || rows > a->capacity)
        return err_set(err, ERR_FORMAT, "%s: tensor word.ids: found %lld rows, expected 0 to %d", path,
                       (long long)rows, a->capacity);
    TRY(read_exact(st, path, "word.ids", DTYPE_I32, rows, a->ids, err));
    TRY(read_exact(st, path, "word.m", DTYPE_F32, rows * H, a->word_m, err));
    TRY(read_exact(st, path, "word.v", DTYPE_F32, rows * H, a->word_v, err));
    for (int64_t r = 0; r < rows; r++) {
        const int32_t id = a->ids[r];
        if (id < 0 || id >= a->model->config.vocab_size || a->row[id] >= 0)
            return err_set(err, ERR_FORMAT, "%s: tensor word.ids: row %lld holds %d", path, (long long)r, id);
        a->row[id] = (int32_t)r;
    }
    a->rows = (int)rows;
    return ERR_OK;
}

static ErrCode load_optimizer(Adamw *a, const char *dir, Err *err) {
    char *path;
    TRY(join(&path, dir, "optimizer.safetensors", err));
    Safetensors st;
    ErrCode rc = safetensors_open(&st, path, err);
    if (rc != ERR_OK) {
        mem_free(path);
        return rc;
    }
    for (size_t i = 0; i < a->params && rc == ERR_OK; i++) {
        const ParamView *views[2] = {&a->ms[i], &a->vs[i]};
        for (int k = 0; k < 2 && views[k]->data && rc == ERR_OK; k++) {
            char *name = NULL;
            rc = prefixed(&name, k ? "v." : "m.", views[k]->name, err);
            if (rc == ERR_OK)
                rc = read_exact(&st, path, name, DTYPE_F32, param_count(views[k]), views[k]->data, err);
            mem_free(name);
        }
    }
    if (rc == ERR_OK) rc = load_rows(a, &st, path, err);
    safetensors_close(&st);
    mem_free(path);
    return rc;
}

/* ---- the state ---- */

/* Doubles travel as hexadecimal text: bit for bit. */
static bool add_hex(cJSON *root, const char *key, double v) {
    char text[48];
    (void)snprintf(text, sizeof text, "%a", v);
    return cJSON_AddStringToObject(root, key, text) != NULL;
}

static ErrCode get_hex(double *out, const cJSON *root, const char *key, Err *err) {
    const char *text = NULL;
    TRY(json_get_string(&text, root, key, err));
    char *end = NULL;
    if (text) *out = strtod(text, &end);
    if (!text || end == text || *end)
        return err_set(err, ERR_FORMAT, "key \"%s\": expected a hexadecimal number", key);
    return ERR_OK;
}

static ErrCode save_state(const char *dir, const CkptState *s, Err *err) {
    char *path = NULL;
    cJSON *root = cJSON_CreateObject();
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"global_step", s->step},
                   {"max_steps", s->total_steps},
                   {"epoch", (int64_t)s->epoch},
                   {"batch", (int64_t)s->batch},
                   {"seed", s->seed},
                   {"best_step", s->best_step},
                   {"bad_evaluations", s->bad_evaluations},
                   {"metrics_bytes", s->metrics_bytes}};
    bool good = root != NULL;
    for (size_t i = 0; good && i < sizeof numbers / sizeof numbers[0]; i++)
        good = cJSON_AddNumberToObject(root, numbers[i].key, (double)numbers[i].value) != NULL;
    good = good && add_hex(root, "best_metric", s->best_metric) && add_hex(root, "best_loss", s->best_loss) &&
           add_hex(root, "decay", s->decay) && cJSON_AddStringToObject(root, "data_digest", s->data_digest) &&
           cJSON_AddStringToObject(root, "backend", s->backend) &&
           cJSON_AddStringToObject(root, "precision", s->precision);
    if (s->teacher_digest[0])
        good = good && cJSON_AddStringToObject(root, "teacher_digest", s->teacher_digest);
    if (isfinite(s->dev_accuracy))
        good =
            good && add_hex(root, "dev_accuracy", s->dev_accuracy) && add_hex(root, "dev_loss", s->dev_loss);
    ErrCode rc = good ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
    if (rc == ERR_OK) rc = join(&path, dir, "trainer_state.json", err);
    if (rc == ERR_OK) rc = json_save(path, root, err);
    mem_free(path);
    cJSON_Delete(root);
    return rc;
}

static ErrCode parse_digest(char out[65], const cJSON *root, const char *key, Err *err) {
    const char *text = NULL;
    TRY(json_get_string(&text, root, key, err));
    if (!text || strlen(text) != 64)
        return err_set(err, ERR_FORMAT, "key \"%s\": expected 64 hexadecimal digits", key);
    memcpy(out, text, 65);
    return ERR_OK;
}

static ErrCode parse_state(CkptState *s, const cJSON *root, Err *err) {
    const int64_t most = (int64_t)1 << 53;
    int64_t epoch = -1, batch = -1;
    s->step = s->total_steps = s->metrics_bytes = -1;
    TRY(json_get_int(&s->step, root, "global_step", 0, most, err));
    TRY(json_get_int(&s->total_steps, root, "max_steps", 0, most, err));
    TRY(json_get_int(&epoch, root, "epoch", 0, most, err));
    TRY(json_get_int(&batch, root, "batch", 0, most, err));
    TRY(json_get_int(&s->seed, root, "seed", 0, most, err));
    TRY(json_get_int(&s->best_step, root, "best_step", 0, most, err));
    TRY(json_get_int(&s->bad_evaluations, root, "bad_evaluations", 0, most, err));
    TRY(json_get_int(&s->metrics_bytes, root, "metrics_bytes", 0, most, err));
    if (s->step < 0 || s->total_steps < 0 || epoch < 0 || batch < 0 || s->metrics_bytes < 0)
        return err_set(err, ERR_FORMAT,
                       "one of the keys global_step, max_steps, epoch, batch, metrics_bytes is missing");
    s->epoch = (uint64_t)epoch;
    s->batch = (uint64_t)batch;
    TRY(get_hex(&s->best_metric, root, "best_metric", err));
    TRY(get_hex(&s->best_loss, root, "best_loss", err));
    TRY(get_hex(&s->decay, root, "decay", err));
    if (!(s->decay > 0 && s->decay <= 1))
        return err_set(err, ERR_FORMAT, "key \"decay\": found %g, expected a number in (0, 1]", s->decay);
    s->dev_accuracy = s->dev_loss = (double)NAN;
    if (cJSON_HasObjectItem(root, "dev_accuracy")) {
        TRY(get_hex(&s->dev_accuracy, root, "dev_accuracy", err));
        TRY(get_hex(&s->dev_loss, root, "dev_loss", err));
    }
    const char *backend = "blas"; /* what every run had before there was a choice */
    if (cJSON_HasObjectItem(root, "backend")) TRY(json_get_string(&backend, root, "backend", err));
    (void)snprintf(s->backend, sizeof s->backend, "%s", backend);
    const char *precision = "fp32";
    if (cJSON_HasObjectItem(root, "precision")) TRY(json_get_string(&precision, root, "precision", err));
    (void)snprintf(s->precision, sizeof s->precision, "%s", precision);
    if (cJSON_HasObjectItem(root, "teacher_digest"))
        TRY(parse_digest(s->teacher_digest, root, "teacher_digest", err));
    return parse_digest(s->data_digest, root, "data_digest", err);
}

ErrCode ckpt_load_state(CkptState *state, bool *found, const char *dir, Err *err) {
    *state = (CkptState){0};
    TRY(file_recover_dir(dir, err));
    *found = file_exists(dir);
    if (!*found) return ERR_OK;
    char *path;
    cJSON *root = NULL;
    TRY(join(&path, dir, "trainer_state.json", err));
    ErrCode rc = json_read(&root, path, err);
    if (rc == ERR_OK) {
        rc = parse_state(state, root, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    cJSON_Delete(root);
    mem_free(path);
    return rc;
}

/* ---- whole folders ---- */

static ErrCode temporary_name(char **out, const char *dir, Err *err) {
    Buf name = {0};
    buf_printf(&name, "%s.%ld.tmp", dir, (long)getpid());
    *out = name.data;
    return buf_ok(&name, err);
}

static ErrCode save(const char *dir, const Adamw *adamw, const Tokenizer *tokenizer, const CkptCard *card,
                    const CkptState *state, Err *err) {
    char *temporary;
    TRY(temporary_name(&temporary, dir, err));
    adamw_read(adamw);
    ErrCode rc = write_model(temporary, adamw, tokenizer, card, err);
    if (rc == ERR_OK && state) rc = save_optimizer(temporary, adamw, err);
    if (rc == ERR_OK && state) rc = save_state(temporary, state, err);
    if (rc == ERR_OK) rc = file_replace_dir(dir, temporary, err);
    if (rc != ERR_OK) {
        Err ignored;
        (void)(file_remove_dir(temporary, &ignored) == ERR_OK); /* the first failure is the one to tell */
        (void)err_context(err, rc, "saving %s", dir);
    }
    mem_free(temporary);
    return rc;
}

ErrCode ckpt_save_model(const char *dir, const Adamw *adamw, const Tokenizer *tokenizer, const CkptCard *card,
                        Err *err) {
    return save(dir, adamw, tokenizer, card, NULL, err);
}

ErrCode ckpt_save(const char *dir, const Adamw *adamw, const Tokenizer *tokenizer, const CkptCard *card,
                  const CkptState *state, Err *err) {
    return save(dir, adamw, tokenizer, card, state, err);
}

ErrCode ckpt_load(Adamw *a, const CkptState *state, const char *dir, Err *err) {
    const Config *c = &a->model->config;
    const size_t H = (size_t)c->hidden_size;
    real *running = a->model->host_weights.word, *saved = NULL;
    TRY(mem_new(&saved, (size_t)c->vocab_size * H, sizeof *saved, "a copy of the word embedding", err));
    Params params = a->model->host_weights;
    params.word = saved;
    ErrCode rc = weights_load(&params, c, dir, 0, NULL, err);
    if (rc == ERR_OK) rc = load_optimizer(a, dir, err);
    for (int r = 0; rc == ERR_OK && r < a->rows; r++)
        memcpy(running + (size_t)a->ids[r] * H, saved + (size_t)a->ids[r] * H, H * sizeof *saved);
    a->decay = state->decay;
    a->step = state->step;
    adamw_written(a);
    mem_free(saved);
    return rc;
}

ErrCode ckpt_save_base(const char *path, const Adamw *a, Err *err) {
    const Config *c = &a->model->config;
    const SafetensorsItem item = {
        "word", {a->model->host_weights.word, {c->vocab_size, c->hidden_size}, 2, DTYPE_F32}};
    return safetensors_save(path, &item, 1, NULL, 0, err);
}

ErrCode ckpt_load_base(Adamw *a, const char *path, Err *err) {
    const Config *c = &a->model->config;
    Safetensors st;
    TRY(safetensors_open(&st, path, err));
    const ErrCode rc = read_exact(&st, path, "word", DTYPE_F32, (int64_t)c->vocab_size * c->hidden_size,
                                  a->model->host_weights.word, err);
    safetensors_close(&st);
    return rc;
}
