#include "model/deberta.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "model/buckets.h"

static uint64_t site_key(const Deberta *d, int layer, int site) {
    return ops_drop_row(d->drop_key, (uint64_t)(8 * (layer + 1) + site));
}

Dropout deberta_dropout(const Deberta *d, double p, int layer, int site, const uint64_t *row) {
    return (Dropout){d->dropping ? (real)p : 0, site_key(d, layer, site), row};
}

Attention deberta_attention(const Deberta *d, const Dropout *drop) {
    const int D = d->config.hidden_size / d->config.num_attention_heads;
    return (Attention){&d->packed,  d->config.num_attention_heads, D,   d->index, d->step_longest,
                       d->rel_rows, (real)(1 / sqrt(3.0 * D)),     drop};
}

/* ---- memory ---- */

typedef struct {
    size_t N, S, H, F, K, R, V, layers;
} Sizes;

static Sizes sizes_of(const Config *c, const DebertaLimits *l) {
    return (Sizes){(size_t)l->micro_tokens,      (size_t)l->micro_sequences,  (size_t)c->hidden_size,
                   (size_t)c->intermediate_size, (size_t)c->num_labels,       2 * (size_t)c->position_buckets,
                   (size_t)c->vocab_size,        (size_t)c->num_hidden_layers};
}

static real *numbers(Arena *a, size_t rows, size_t cols) {
    return arena_push(a, rows * cols, sizeof(real));
}

static Act *acts(Arena *a, const Deberta *d, size_t rows, size_t cols) {
    return arena_push(a, rows * cols, d->ops->act_bytes);
}

static DebertaLayer layer_layout(Arena *a, const Deberta *d, const Sizes *z) {
    const bool train = d->limits.train;
    DebertaLayer y = {0};
    y.q = acts(a, d, z->N, z->H);
    y.k = acts(a, d, z->N, z->H);
    y.v = acts(a, d, z->N, z->H);
    y.context = acts(a, d, z->N, z->H);
    y.a = acts(a, d, z->N, z->H);
    y.up_pre = acts(a, d, z->N, z->F);
    y.up = train ? acts(a, d, z->N, z->F) : y.up_pre; /* gelu in place when nothing is kept */
    y.y = acts(a, d, z->N, z->H);
    if (!train) return y;
    y.attn_xhat = acts(a, d, z->N, z->H);
    y.attn_rstd = numbers(a, z->N, 1);
    y.ffn_xhat = acts(a, d, z->N, z->H);
    y.ffn_rstd = numbers(a, z->N, 1);
    y.dkr = numbers(a, z->R, z->H);
    y.dqr = numbers(a, z->R, z->H);
    return y;
}

/* The same code counts (d->work_arena zeroed) and allocates. */
static void work_layout(Deberta *d) {
    Arena *a = &d->work_arena;
    const Sizes z = sizes_of(&d->config, &d->limits);
    const bool train = d->limits.train;
    d->layers = arena_push(a, z.layers, sizeof *d->layers);
    DebertaLayer shared = {0};
    for (size_t l = 0; l < z.layers; l++) {
        if (train || l == 0) shared = layer_layout(a, d, &z);
        shared.kr = acts(a, d, z.R, z.H);
        shared.qr = acts(a, d, z.R, z.H);
        if (d->layers) d->layers[l] = shared;
    }
    const size_t rows = z.N > z.R ? z.N : z.R;
    d->x0 = acts(a, d, z.N, z.H);
    d->rel = acts(a, d, z.R, z.H);
    d->sum = acts(a, d, rows, z.H);
    d->last_context = acts(a, d, z.S, z.H);
    d->last_x = acts(a, d, z.S, z.H);
    d->cls = numbers(a, z.S, z.H);
    d->pool_in = numbers(a, z.S, z.H);
    d->pool_pre = numbers(a, z.S, z.H);
    d->pooled = numbers(a, z.S, z.H);
    d->pooled_drop = numbers(a, z.S, z.H);
    d->logits = numbers(a, z.S, z.K);
    d->first_token = arena_push(a, z.S, sizeof *d->first_token);
    d->slots = arena_push(a, z.N, sizeof *d->slots);
    d->token_row = arena_push(a, z.N, sizeof *d->token_row);
    d->first_row = arena_push(a, z.S, sizeof *d->first_row);
    d->seq_row = arena_push(a, z.S, sizeof *d->seq_row);
    d->rel_row = arena_push(a, z.R, sizeof *d->rel_row);
    d->rel_ids = arena_push(a, z.R, sizeof *d->rel_ids);
    d->index = arena_push(a, 2 * (size_t)d->limits.longest, sizeof *d->index);
    if (!train) return;
    d->x0_xhat = acts(a, d, z.N, z.H);
    d->x0_rstd = numbers(a, z.N, 1);
    d->rel_xhat = acts(a, d, z.R, z.H);
    d->rel_rstd = numbers(a, z.R, 1);
    d->drel = numbers(a, z.R, z.H);
    d->dlogits = numbers(a, z.S, z.K);
    d->loss = numbers(a, z.S, 1);
    for (int i = 0; i < 8; i++) d->scratch[i] = numbers(a, rows, i == 3 ? z.F : z.H);
    const size_t step = (size_t)d->limits.step_tokens;
    d->touched.capacity = (int)(z.V < step ? z.V : step);
    d->touched.slot = arena_push(a, z.V, sizeof *d->touched.slot);
    d->touched.ids = arena_push(a, (size_t)d->touched.capacity, sizeof *d->touched.ids);
    d->touched.grad = numbers(a, (size_t)d->touched.capacity, z.H);
}

size_t deberta_bytes(const Deberta *d) {
    return d->weight_arena.used + d->grad_arena.used + d->work_arena.used;
}

static ErrCode bind_weights(Deberta *d, Err *err) {
    size_t count;
    ParamView *list = params_list(&d->weights, &d->config, &count);
    if (!list) return err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    const ErrCode rc = d->ops->bind(d->ops, list, count, d->limits.train, err);
    mem_free(list);
    return rc;
}

void deberta_weights_changed(Deberta *d) {
    d->ops->weights_changed(d->ops);
}

ErrCode deberta_open(Deberta *d, const Config *config, Ops *ops, const DebertaLimits *limits, Err *err) {
    *d = (Deberta){.ops = ops, .limits = *limits};
    assert(limits->longest >= 1 && limits->micro_tokens >= limits->longest && limits->micro_sequences >= 1);
    if (config->num_labels < 1) return err_set(err, ERR_ARGUMENT, "the model has no labels");
    ErrCode rc = config_copy(&d->config, config, err);
    if (rc != ERR_OK) goto done;
    Arena count = {0};
    params_layout(&d->weights, &count, &d->config, true);
    rc = arena_init(&d->weight_arena, count.used, "the weights", err);
    if (rc != ERR_OK) goto done;
    params_layout(&d->weights, &d->weight_arena, &d->config, true);
    if (limits->train) {
        count = (Arena){0};
        params_layout(&d->grads, &count, &d->config, false);
        rc = arena_init(&d->grad_arena, count.used, "the gradients", err);
        if (rc != ERR_OK) goto done;
        params_layout(&d->grads, &d->grad_arena, &d->config, false);
        d->grad_block = d->grads.embed_norm_w; /* the first number; paddings between tensors stay zero */
        d->grad_count =
            (size_t)(d->grad_arena.base + d->grad_arena.used - (char *)d->grad_block) / sizeof(real);
    }
    work_layout(d); /* counts: the arena is still zero */
    const size_t bytes = d->work_arena.used;
    rc = arena_init(&d->work_arena, bytes, "the activations", err);
    if (rc != ERR_OK) goto done;
    work_layout(d);
    for (int v = 0; limits->train && v < d->config.vocab_size; v++) d->touched.slot[v] = -1;
    for (int r = 0; r < 2 * d->config.position_buckets; r++) {
        d->rel_row[r] = (uint64_t)r;
        d->rel_ids[r] = r;
    }
    const int R = 2 * d->config.position_buckets;
    rc = ops->prepare(ops, limits->micro_tokens > R ? limits->micro_tokens : R, limits->longest,
                      d->config.num_attention_heads, d->config.hidden_size / d->config.num_attention_heads,
                      err);
    if (rc == ERR_OK) rc = bind_weights(d, err);
done:
    if (rc != ERR_OK) deberta_close(d);
    return rc;
}

void deberta_close(Deberta *d) {
    if (d->ops) (void)d->ops->bind(d->ops, NULL, 0, false, NULL);
    arena_free(&d->weight_arena);
    arena_free(&d->grad_arena);
    arena_free(&d->work_arena);
    config_free(&d->config);
    *d = (Deberta){0};
}

/* ---- forward ---- */

static void reset_gradients(Deberta *d) {
    Ops *o = d->ops;
    if (d->grads_used) o->zero(o, d->grad_block, d->grad_count * sizeof(real));
    d->grads_used = false;
    DebertaTouched *t = &d->touched;
    o->zero(o, t->grad, (size_t)t->count * (size_t)d->config.hidden_size * sizeof(real));
    for (int i = 0; i < t->count; i++) t->slot[t->ids[i]] = -1;
    t->count = 0;
}

void deberta_begin(Deberta *d, int longest, bool dropout, uint64_t drop_key) {
    assert(longest >= 1 && longest <= d->limits.longest);
    Ops *o = d->ops;
    const Config *c = &d->config;
    const int H = c->hidden_size, B = c->position_buckets, P = c->max_relative_positions;
    d->dropping = dropout;
    d->drop_key = drop_key;
    d->step_longest = longest;
    d->rel_first = buckets_row(-(longest - 1), B, P);
    d->rel_rows = buckets_row(longest - 1, B, P) - d->rel_first + 1;
    for (int i = 0; i < 2 * longest - 1; i++)
        d->index[i] = buckets_row(i - (longest - 1), B, P) - d->rel_first;
    const int R = d->rel_rows;
    const Dropout none = {0};
    o->embed(o, d->sum, d->weights.rel, d->rel_ids + d->rel_first, R, H);
    o->norm(o, d->rel, d->rel_xhat, d->rel_rstd, d->sum, NULL, d->weights.rel_norm_w, d->weights.rel_norm_b,
            &none, R, H, (real)c->layer_norm_eps);
    for (int l = 0; l < c->num_hidden_layers; l++) {
        const LayerParams *w = &d->weights.layer[l];
        DebertaLayer *y = &d->layers[l];
        const Dropout drop =
            deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_REL, d->rel_row + d->rel_first);
        o->dropout(o, d->sum, d->rel, &drop, R, H);
        o->linear(o, y->kr, NULL, d->sum, w->k_w, w->k_b, R, H, H);
        o->linear(o, y->qr, NULL, d->sum, w->q_w, w->q_b, R, H, H);
        if (!d->limits.train) continue;
        o->zero(o, y->dkr, (size_t)R * (size_t)H * sizeof(real));
        o->zero(o, y->dqr, (size_t)R * (size_t)H * sizeof(real));
    }
    if (d->limits.train) reset_gradients(d);
}

/* Row identities of tokens and sequences, and where each sequence begins. */
static void identify(Deberta *d) {
    const Packed *p = &d->packed;
    for (int s = 0; s < p->S; s++) {
        const uint64_t seq = p->seq ? (uint64_t)p->seq[s] : (uint64_t)s;
        d->seq_row[s] = seq;
        d->first_token[s] = p->start[s];
        for (int n = p->start[s]; n < p->start[s + 1]; n++)
            d->token_row[n] = seq << 24 | (uint64_t)(n - p->start[s]);
        d->first_row[s] = d->token_row[p->start[s]];
    }
}

DebertaRows deberta_rows(const Deberta *d, int l) {
    if (l < d->config.num_hidden_layers - 1 || d->limits.all_hidden)
        return (DebertaRows){false, d->packed.N, d->token_row};
    return (DebertaRows){true, d->packed.S, d->first_row};
}

static void layer_forward(Deberta *d, int l, const Act *x) {
    Ops *o = d->ops;
    const Config *c = &d->config;
    const LayerParams *w = &d->weights.layer[l];
    DebertaLayer *y = &d->layers[l];
    const int N = d->packed.N, H = c->hidden_size, F = c->intermediate_size;
    const real eps = (real)c->layer_norm_eps;
    const Dropout probs =
        deberta_dropout(d, c->attention_probs_dropout_prob, l, DEBERTA_SITE_PROBS, d->token_row);
    const DebertaRows rows = deberta_rows(d, l);
    const Dropout attn = deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_ATTENTION, rows.row);
    const Dropout ffn = deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_FFN, rows.row);
    const Attention shape = deberta_attention(d, &probs);
    o->linear(o, y->q, NULL, x, w->q_w, w->q_b, N, H, H);
    o->linear(o, y->k, NULL, x, w->k_w, w->k_b, N, H, H);
    o->linear(o, y->v, NULL, x, w->v_w, w->v_b, N, H, H);
    o->attention(o, y->context, y->q, y->k, y->v, y->kr, y->qr, &shape);
    const Act *context = y->context;
    if (rows.first) {
        o->gather(o, d->last_context, context, d->first_token, rows.N, H);
        o->gather(o, d->last_x, x, d->first_token, rows.N, H);
        context = d->last_context;
        x = d->last_x;
    }
    o->linear(o, d->sum, NULL, context, w->o_w, w->o_b, rows.N, H, H);
    o->norm(o, y->a, y->attn_xhat, y->attn_rstd, d->sum, x, w->attn_norm_w, w->attn_norm_b, &attn, rows.N, H,
            eps);
    o->linear(o, y->up, y->up_pre, y->a, w->up_w, w->up_b, rows.N, F, H);
    o->linear(o, d->sum, NULL, y->up, w->down_w, w->down_b, rows.N, H, F);
    o->norm(o, y->y, y->ffn_xhat, y->ffn_rstd, d->sum, y->a, w->ffn_norm_w, w->ffn_norm_b, &ffn, rows.N, H,
            eps);
}

void deberta_forward(Deberta *d, const Packed *packed) {
    assert(packed->N <= d->limits.micro_tokens && packed->S <= d->limits.micro_sequences &&
           packed->longest <= d->step_longest);
    Ops *o = d->ops;
    const Config *c = &d->config;
    const int N = packed->N, S = packed->S, H = c->hidden_size;
    d->packed = *packed;
    identify(d);
    const Dropout none = {0};
    const Dropout embed =
        deberta_dropout(d, c->hidden_dropout_prob, -1, DEBERTA_SITE_EMBEDDING, d->token_row);
    o->embed(o, d->sum, d->weights.word, packed->ids, N, H);
    o->norm(o, d->x0, d->x0_xhat, d->x0_rstd, d->sum, NULL, d->weights.embed_norm_w, d->weights.embed_norm_b,
            &none, N, H, (real)c->layer_norm_eps);
    if (embed.p > 0) o->dropout(o, d->x0, d->x0, &embed, N, H);
    const Act *x = d->x0;
    for (int l = 0; l < c->num_hidden_layers; l++) {
        layer_forward(d, l, x);
        x = d->layers[l].y;
    }
    const Dropout pool = deberta_dropout(d, c->pooler_dropout, -1, DEBERTA_SITE_POOL, d->seq_row);
    const Dropout head = deberta_dropout(d, c->cls_dropout, -1, DEBERTA_SITE_HEAD, d->seq_row);
    if (d->limits.all_hidden) {
        o->gather(o, d->last_x, x, d->first_token, S, H);
        x = d->last_x;
    }
    o->get_act(o, d->cls, x, (size_t)S * (size_t)H);
    o->dropout_real(o, d->pool_in, d->cls, &pool, S, H);
    o->linear_real(o, d->pooled, d->pool_pre, d->pool_in, d->weights.pool_w, d->weights.pool_b, S, H, H);
    o->dropout_real(o, d->pooled_drop, d->pooled, &head, S, H);
    o->linear_real(o, d->logits, NULL, d->pooled_drop, d->weights.head_w, d->weights.head_b, S, c->num_labels,
                   H);
}

double deberta_loss(Deberta *d, const real *target, const real *weight, real scale) {
    d->ops->loss(d->ops, d->loss, d->dlogits, d->logits, target, weight, scale, d->packed.S,
                 d->config.num_labels);
    double sum = 0;
    for (int s = 0; s < d->packed.S; s++) sum += (double)d->loss[s];
    return sum;
}
