#include "train/adamw.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"

static ErrCode moments(Arena *arena, Params *params, ParamView **list, size_t *count, const Config *config,
                       Err *err) {
    Arena counting = {0};
    params_layout(params, &counting, config, false);
    TRY(arena_init(arena, counting.used, "the optimiser's moments", err));
    params_layout(params, arena, config, false);
    *list = params_list(params, config, count);
    return *list ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the list of weights");
}

ErrCode adamw_open(Adamw *a, Deberta *model, int capacity, Err *err) {
    *a = (Adamw){.model = model, .decay = 1, .capacity = capacity};
    const Config *c = &model->config;
    const size_t H = (size_t)c->hidden_size, rows = (size_t)capacity;
    ErrCode rc = moments(&a->m_arena, &a->m, &a->ms, &a->params, c, err);
    if (rc == ERR_OK) rc = moments(&a->v_arena, &a->v, &a->vs, &a->params, c, err);
    a->weights = params_list(&model->weights, c, &a->params);
    a->grads = params_list(&model->grads, c, &a->params);
    if (rc == ERR_OK && (!a->weights || !a->grads))
        rc = err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    if (rc == ERR_OK) rc = mem_new(&a->row, (size_t)c->vocab_size, sizeof *a->row, "the optimiser", err);
    if (rc == ERR_OK) rc = mem_new(&a->ids, rows, sizeof *a->ids, "the optimiser", err);
    if (rc == ERR_OK)
        rc = mem_new(&a->word_m, rows * H, sizeof *a->word_m, "the word embedding's moments", err);
    if (rc == ERR_OK)
        rc = mem_new(&a->word_v, rows * H, sizeof *a->word_v, "the word embedding's moments", err);
    for (int v = 0; rc == ERR_OK && v < c->vocab_size; v++) a->row[v] = -1;
    if (rc != ERR_OK) adamw_close(a);
    return rc;
}

void adamw_close(Adamw *a) {
    arena_free(&a->m_arena);
    arena_free(&a->v_arena);
    mem_free(a->weights);
    mem_free(a->grads);
    mem_free(a->ms);
    mem_free(a->vs);
    mem_free(a->row);
    mem_free(a->ids);
    mem_free(a->word_m);
    mem_free(a->word_v);
    *a = (Adamw){0};
}

/* Rows that this step touches for the first time pay what they owe and get moments. */
static void admit_rows(Adamw *a) {
    const DebertaTouched *t = &a->model->touched;
    const size_t H = (size_t)a->model->config.hidden_size;
    for (int i = 0; i < t->count; i++) {
        const int32_t id = t->ids[i];
        if (a->row[id] >= 0) continue;
        assert(a->rows < a->capacity);
        a->row[id] = a->rows;
        a->ids[a->rows++] = id;
        real *p = a->model->weights.word + (size_t)id * H;
        for (size_t h = 0; h < H && a->decay != 1; h++) p[h] = (real)((double)p[h] * a->decay);
    }
}

ErrCode adamw_step(Adamw *a, const AdamwRule *rule, double *norm, Err *err) {
    Deberta *d = a->model;
    Ops *o = d->ops;
    const int H = d->config.hidden_size, layers = d->config.num_hidden_layers;
    const double dense = o->sumsq(o, d->grad_block, d->grad_count);
    const double sparse = o->sumsq(o, d->touched.grad, (size_t)d->touched.count * (size_t)H);
    TRY(o->sync(o, err));
    *norm = sqrt(dense + sparse);
    if (!isfinite(*norm)) return err_set(err, ERR_NUMERIC, "the gradient's norm is %g", *norm);
    const double clip = rule->max_grad_norm > 0 ? rule->max_grad_norm / (*norm + 1e-6) : 1;
    a->step++;
    const AdamwStep base = {.beta1 = rule->beta1,
                            .beta2 = rule->beta2,
                            .eps = rule->epsilon,
                            .clip = clip < 1 ? clip : 1,
                            .bias1 = 1 - pow(rule->beta1, (double)a->step),
                            .bias2 = 1 - pow(rule->beta2, (double)a->step)};
    admit_rows(a);
    for (size_t i = 0; i < a->params; i++) {
        const ParamView *w = &a->weights[i];
        AdamwStep step = base;
        step.lr = rule->learning_rate * pow(rule->layer_rate_decay, layers - w->layer);
        step.decay = param_decays(w->kind) ? step.lr * rule->weight_decay : 0;
        if (w->data != d->weights.word) {
            o->adamw(o, w->data, a->ms[i].data, a->vs[i].data, a->grads[i].data, (size_t)param_count(w),
                     &step);
            continue;
        }
        o->adamw_rows(o, &(AdamwRows){.table = w->data,
                                      .m = a->word_m,
                                      .v = a->word_v,
                                      .grad = d->touched.grad,
                                      .ids = a->ids,
                                      .slot = d->touched.slot,
                                      .rows = a->rows,
                                      .H = H,
                                      .step = &step});
        a->decay *= 1 - step.decay;
    }
    d->grads_used = false;
    return o->sync(o, err);
}

void adamw_word(const Adamw *a, real *out) {
    const size_t H = (size_t)a->model->config.hidden_size;
    const real *word = a->model->weights.word;
    for (int v = 0; v < a->model->config.vocab_size; v++) {
        const size_t at = (size_t)v * H;
        const double factor = a->row[v] < 0 ? a->decay : 1;
        for (size_t h = 0; h < H; h++)
            out[at + h] = factor == 1 ? word[at + h] : (real)((double)word[at + h] * factor);
    }
}
