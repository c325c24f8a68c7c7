#include "train/adamw.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"

/* Moments of all weights but the word embedding: the backend's in `at`, a list of the program's view of them. */
static ErrCode open_moments(Mirror *memory, Params *at, LayerParams *tables, ParamView **list,
                            const Deberta *d, Err *err) {
    const Config *c = &d->config;
    Arena count = {0};
    Params host;
    size_t n;
    params_layout_learnt(at, &count, c, d->limits.frozen, tables);
    TRY(mirror_open(memory, d->ops, count.used, true, "the optimiser's moments", err));
    params_layout_learnt(&host, &memory->host, c, d->limits.frozen, tables);
    *list = params_list(&host, c, &n);
    params_layout_learnt(at, &memory->at, c, d->limits.frozen, tables);
    return *list ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the list of weights");
}

typedef struct {
    real *m, *v;
    int32_t *ids, *slot;
    float *boost;
} RowArrays;

static RowArrays rows_layout(Arena *a, size_t capacity, size_t H) {
    RowArrays r;
    r.m = arena_push(a, capacity * H, sizeof *r.m);
    r.v = arena_push(a, capacity * H, sizeof *r.v);
    r.ids = arena_push(a, capacity, sizeof *r.ids);
    r.slot = arena_push(a, capacity, sizeof *r.slot);
    r.boost = arena_push(a, capacity, sizeof *r.boost);
    return r;
}

static ErrCode open_rows(Adamw *a, Err *err) {
    const Deberta *d = a->model;
    const size_t H = (size_t)d->config.hidden_size, capacity = (size_t)a->capacity,
                 V = (size_t)d->config.vocab_size;
    TRY(mem_new(&a->row, V, sizeof *a->row, "the optimiser", err));
    for (size_t v = 0; v < V; v++) a->row[v] = -1;
    Arena count = {0};
    (void)rows_layout(&count, capacity, H);
    TRY(mirror_open(&a->row_memory, d->ops, count.used, true, "the word embedding's moments", err));
    const RowArrays host = rows_layout(&a->row_memory.host, capacity, H),
                    at = rows_layout(&a->row_memory.at, capacity, H);
    a->word_m = host.m;
    a->word_v = host.v;
    a->ids = host.ids;
    a->slot = host.slot;
    a->boost = host.boost;
    a->at.m = at.m;
    a->at.v = at.v;
    a->at.ids = at.ids;
    a->at.slot = at.slot;
    a->at.boost = at.boost;
    a->at.table = d->weights.word;
    a->at.grad = d->touched.grad;
    a->at.H = d->config.hidden_size;
    return ERR_OK;
}

static ErrCode list_tensors(Adamw *a, const Params *m, const Params *v, Err *err) {
    const Deberta *d = a->model;
    const Config *c = &d->config;
    size_t n;
    ParamView *p = params_list(&d->weights, c, &n), *g = params_list(&d->grads, c, &n),
              *ms = params_list(m, c, &n), *vs = params_list(v, c, &n);
    ErrCode rc =
        p && g && ms && vs ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    if (rc == ERR_OK) rc = mem_new(&a->tensors, n, sizeof *a->tensors, "the list of weights", err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++)
        if (ms[i].data)
            a->tensors[a->tensor_count++] = (AdamwTensor){p[i].data,
                                                          ms[i].data,
                                                          vs[i].data,
                                                          g[i].data,
                                                          (size_t)param_count(&p[i]),
                                                          1,
                                                          param_decays(p[i].kind)};
    mem_free(p);
    mem_free(g);
    mem_free(ms);
    mem_free(vs);
    return rc;
}

ErrCode adamw_open(Adamw *a, Deberta *model, int capacity, Err *err) {
    *a = (Adamw){.model = model, .decay = 1, .capacity = model->limits.frozen ? 1 : capacity};
    Ops *o = model->ops;
    const size_t layers = (size_t)model->config.num_hidden_layers;
    Params m, v;
    ErrCode rc = mem_new(&a->tables, 2 * layers, sizeof *a->tables, "the layers", err);
    if (rc == ERR_OK) rc = open_moments(&a->m_memory, &m, a->tables, &a->ms, model, err);
    if (rc == ERR_OK) rc = open_moments(&a->v_memory, &v, a->tables + layers, &a->vs, model, err);
    if (rc == ERR_OK) rc = list_tensors(a, &m, &v, err);
    if (rc == ERR_OK) rc = open_rows(a, err);
    if (rc == ERR_OK) {
        a->weights = params_list(&model->host_weights, &model->config, &a->params);
        a->norm = o->alloc(o, sizeof *a->norm);
        if (!a->weights || !a->norm) rc = err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    }
    if (rc != ERR_OK) adamw_close(a);
    return rc;
}

void adamw_close(Adamw *a) {
    if (a->norm) a->model->ops->release(a->model->ops, a->norm);
    mirror_close(&a->m_memory);
    mirror_close(&a->v_memory);
    mirror_close(&a->row_memory);
    mem_free(a->tables);
    mem_free(a->tensors);
    mem_free(a->weights);
    mem_free(a->ms);
    mem_free(a->vs);
    mem_free(a->row);
    *a = (Adamw){0};
}

size_t adamw_bytes(const Adamw *a) {
    return a->m_memory.at.used + a->v_memory.at.used + a->row_memory.at.used;
}

static void boost_rows(Adamw *a, int from) {
    for (int r = from; r < a->rows; r++) a->boost[r] = a->boosts ? a->boosts[a->ids[r]] : 1;
}

/* Rows that this step touches for the first time get moments, and each row the place of its gradient. */
static void admit_rows(Adamw *a) {
    const DebertaTouched *t = &a->model->touched;
    a->at.fresh = a->rows;
    a->at.owed = a->decay;
    for (int i = 0; i < t->count; i++) {
        const int32_t id = t->ids[i];
        if (a->row[id] >= 0) continue;
        assert(a->rows < a->capacity);
        a->row[id] = a->rows;
        a->ids[a->rows++] = id;
    }
    boost_rows(a, a->at.fresh);
    for (int r = 0; r < a->rows; r++) a->slot[r] = t->slot[a->ids[r]];
    a->at.rows = a->rows;
    mirror_put(&a->row_memory, a->ids + a->at.fresh, (size_t)(a->rows - a->at.fresh) * sizeof *a->ids);
    mirror_put(&a->row_memory, a->boost + a->at.fresh, (size_t)(a->rows - a->at.fresh) * sizeof *a->boost);
    mirror_put(&a->row_memory, a->slot, (size_t)a->rows * sizeof *a->slot);
}

/* The word embedding's part of a step. */
static void step_rows(Adamw *a, const AdamwRule *rule, const AdamwStep *step) {
    Ops *o = a->model->ops;
    admit_rows(a);
    a->at.rate = pow(rule->layer_rate_decay, a->model->config.num_hidden_layers + 1);
    a->at.step = step;
    o->adamw_rows(o, &a->at);
    a->decay *= 1 - step->lr * a->at.rate * step->weight_decay;
}

/* It was not taken: rows are as they were, and what they owe. */
static void dismiss_rows(Adamw *a) {
    while (a->rows > a->at.fresh) a->row[a->ids[--a->rows]] = -1;
    a->decay = a->at.owed;
}

ErrCode adamw_step(Adamw *a, const AdamwRule *rule, double *norm, Err *err) {
    Deberta *d = a->model;
    Ops *o = d->ops;
    const int layers = d->config.num_hidden_layers;
    a->step++;
    const AdamwStep step = {.lr = rule->learning_rate,
                            .beta1 = rule->beta1,
                            .beta2 = rule->beta2,
                            .eps = rule->epsilon,
                            .weight_decay = rule->weight_decay,
                            .bias1 = 1 - pow(rule->beta1, (double)a->step),
                            .bias2 = 1 - pow(rule->beta2, (double)a->step),
                            .norm = a->norm};
    o->sumsq(o, a->norm, d->grad_block, d->grad_count);
    const bool frozen = d->limits.frozen > 0;
    if (!frozen)
        o->sumsq(o, a->norm, d->touched.grad, (size_t)d->touched.count * (size_t)d->config.hidden_size);
    o->clip(o, a->norm, rule->max_grad_norm);
    if (!frozen) step_rows(a, rule, &step);
    for (size_t i = 0, k = 0; i < a->params; i++)
        if (a->ms[i].data) a->tensors[k++].rate = pow(rule->layer_rate_decay, layers - a->weights[i].layer);
    o->adamw(o, a->tensors, a->tensor_count, &step);
    OpsNorm found = {0};
    o->get(o, &found, a->norm, sizeof found);
    ErrCode rc = o->sync(o, err);
    *norm = found.norm;
    if (rc == ERR_OK && !isfinite(*norm)) rc = err_set(err, ERR_NUMERIC, "the gradient's norm is %g", *norm);
    if (rc == ERR_OK) {
        d->grads_used = false;
    } else {
        if (!frozen) dismiss_rows(a);
        a->step--;
    }
    return rc;
}

void adamw_read(const Adamw *a) {
    deberta_read_weights(a->model);
    mirror_get_all(&a->m_memory);
    mirror_get_all(&a->v_memory);
    mirror_get(&a->row_memory, a->word_m, (size_t)a->rows * (size_t)a->at.H * sizeof *a->word_m);
    mirror_get(&a->row_memory, a->word_v, (size_t)a->rows * (size_t)a->at.H * sizeof *a->word_v);
}

void adamw_written(Adamw *a) {
    boost_rows(a, 0);
    deberta_weights_changed(a->model);
    mirror_put_all(&a->m_memory);
    mirror_put_all(&a->v_memory);
    mirror_put_all(&a->row_memory);
}

void adamw_word(const Adamw *a, real *out) {
    const size_t H = (size_t)a->model->config.hidden_size;
    const real *word = a->model->host_weights.word;
    for (int v = 0; v < a->model->config.vocab_size; v++) {
        const size_t at = (size_t)v * H;
        const double factor = a->row[v] < 0 ? a->decay : 1;
        for (size_t h = 0; h < H; h++)
            out[at + h] = factor == 1 ? word[at + h] : (real)((double)word[at + h] * factor);
    }
}
