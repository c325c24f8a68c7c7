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
    return (Attention){
        &d->packed, d->config.num_attention_heads, D,   d->maps.index, d->step_longest, d->rel_rows,
        d->pairs,   (real)(1 / sqrt(3.0 * D)),     drop};
}

int deberta_first_learnt(const Deberta *d) {
    return d->limits.frozen ? d->limits.frozen - 1 : 0;
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

static DebertaLayer layer_layout(Arena *a, const Deberta *d, const Sizes *z, bool train) {
    DebertaLayer y = {0};
    y.q = acts(a, d, z->N, z->H);
    y.k = acts(a, d, z->N, z->H);
    y.v = acts(a, d, z->N, z->H);
    y.context = acts(a, d, z->N, z->H);
    y.a = acts(a, d, z->N, z->H);
    y.up_pre = acts(a, d, z->N, z->F);
    y.up = train ? acts(a, d, z->N, z->F) : y.up_pre; /* gelu in place when nothing is kept */
    if (!train) return y;
    y.attn_xhat = acts(a, d, z->N, z->H);
    y.attn_rstd = numbers(a, z->N, 1);
    y.ffn_xhat = acts(a, d, z->N, z->H);
    y.ffn_rstd = numbers(a, z->N, 1);
    return y;
}

/* The same code counts (the arena is zero) and allocates. Without a gradient, and where they are computed again, layers
 * share their activations; the output is a layer's own where anything follows from it later. */
static void layers_layout(Deberta *d, Arena *a, const Sizes *z) {
    const size_t first = (size_t)deberta_first_learnt(d);
    DebertaLayer shared = {0};
    for (size_t l = 0; l < z->layers; l++) {
        const bool train = d->limits.train && l >= first;
        DebertaLayer y = shared;
        if (l == 0 || (train && (l == first || !d->limits.recompute))) y = layer_layout(a, d, z, train);
        if (l == 0 || train) y.y = acts(a, d, z->N, z->H);
        shared = y;
        y.qr = acts(a, d, z->R, z->H);
        y.kr = acts(a, d, z->R, z->H);
        if (train) {
            y.dqr = numbers(a, z->R, z->H);
            y.dkr = numbers(a, z->R, z->H);
        }
        d->layers[l] = y;
    }
}

static void work_layout(Deberta *d, Arena *a) {
    const Sizes z = sizes_of(&d->config, &d->limits);
    layers_layout(d, a, &z);
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
    if (!d->limits.train) return;
    d->dlogits = numbers(a, z.S, z.K);
    d->loss = numbers(a, z.S, 1);
    for (int i = 0; i < 8; i++) d->scratch[i] = numbers(a, rows, i == 3 ? z.F : z.H);
    if (d->limits.frozen) return;
    d->x0_xhat = acts(a, d, z.N, z.H);
    d->x0_rstd = numbers(a, z.N, 1);
    d->rel_xhat = acts(a, d, z.R, z.H);
    d->rel_rstd = numbers(a, z.R, 1);
    d->drel = numbers(a, z.R, z.H);
    d->touched.grad = numbers(a, (size_t)d->touched.capacity, z.H);
}

static void maps_layout(const Deberta *d, DebertaMaps *m, Arena *a) {
    const Sizes z = sizes_of(&d->config, &d->limits);
    *m = (DebertaMaps){0};
    m->token_row = arena_push(a, z.N, sizeof *m->token_row);
    m->first_row = arena_push(a, z.S, sizeof *m->first_row);
    m->seq_row = arena_push(a, z.S, sizeof *m->seq_row);
    m->ids = arena_push(a, z.N, sizeof *m->ids);
    m->start = arena_push(a, z.S + 1, sizeof *m->start);
    m->first_token = arena_push(a, z.S, sizeof *m->first_token);
    m->slots = arena_push(a, z.N, sizeof *m->slots);
    m->rel_row = arena_push(a, z.R, sizeof *m->rel_row);
    m->rel_ids = arena_push(a, z.R, sizeof *m->rel_ids);
    m->index = arena_push(a, 2 * (size_t)d->limits.longest, sizeof *m->index);
    m->target = numbers(a, z.S, z.K);
    m->weight = numbers(a, z.S, 1);
}

size_t deberta_bytes(const Deberta *d) {
    return d->weight_memory.at.used + d->grad_memory.at.used + d->work_memory.at.used + d->map_memory.at.used;
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
    mirror_put_all(&d->weight_memory);
    d->ops->weights_changed(d->ops);
}

void deberta_read_weights(const Deberta *d) {
    mirror_get_all(&d->weight_memory);
}

static ErrCode open_weights(Deberta *d, Err *err) {
    const Config *c = &d->config;
    const size_t layers = (size_t)c->num_hidden_layers;
    TRY(mem_new(&d->tables, 3 * layers, sizeof *d->tables, "the layers", err));
    Arena count = {0};
    params_layout(&d->weights, &count, c, true, d->tables);
    TRY(mirror_open(&d->weight_memory, d->ops, count.used, true, "the weights", err));
    params_layout(&d->weights, &d->weight_memory.at, c, true, d->tables);
    params_layout(&d->host_weights, &d->weight_memory.host, c, true, d->tables + layers);
    if (!d->limits.train) return ERR_OK;
    count = (Arena){0};
    params_layout_learnt(&d->grads, &count, c, d->limits.frozen, d->tables + 2 * layers);
    TRY(mirror_open(&d->grad_memory, d->ops, count.used, false, "the gradients", err));
    params_layout_learnt(&d->grads, &d->grad_memory.at, c, d->limits.frozen, d->tables + 2 * layers);
    d->grad_block = (real *)(void *)d->grad_memory.at.base; /* paddings between tensors stay zero */
    d->grad_count = count.used / sizeof(real);
    return ERR_OK;
}

static ErrCode open_work(Deberta *d, Err *err) {
    const Sizes z = sizes_of(&d->config, &d->limits);
    const size_t step = (size_t)d->limits.step_tokens;
    TRY(mem_new(&d->layers, z.layers, sizeof *d->layers, "the layers", err));
    d->touched.capacity = d->limits.frozen ? 0 : (int)(z.V < step ? z.V : step);
    Arena count = {0};
    work_layout(d, &count);
    TRY(mirror_open(&d->work_memory, d->ops, count.used, false, "the activations", err));
    work_layout(d, &d->work_memory.at);
    count = (Arena){0};
    maps_layout(d, &d->maps, &count);
    TRY(mirror_open(&d->map_memory, d->ops, count.used, true, "a batch's integers", err));
    maps_layout(d, &d->maps, &d->map_memory.at);
    maps_layout(d, &d->host_maps, &d->map_memory.host);
    for (int r = 0; r < (int)z.R; r++) {
        d->host_maps.rel_row[r] = (uint64_t)r;
        d->host_maps.rel_ids[r] = r;
    }
    mirror_put_all(&d->map_memory);
    TRY(mem_new(&d->host_logits, z.S * z.K, sizeof *d->host_logits, "logits", err));
    TRY(mem_new(&d->host_loss, z.S, sizeof *d->host_loss, "losses", err));
    TRY(mem_new(&d->log_p, 2 * z.K, sizeof *d->log_p, "probabilities", err));
    if (!d->limits.train) return ERR_OK;
    TRY(mem_new(&d->touched.slot, z.V, sizeof *d->touched.slot, "touched rows", err));
    TRY(mem_new(&d->touched.ids, (size_t)d->touched.capacity, sizeof *d->touched.ids, "touched rows", err));
    for (size_t v = 0; v < z.V; v++) d->touched.slot[v] = -1;
    return ERR_OK;
}

ErrCode deberta_open(Deberta *d, const Config *config, Ops *ops, const DebertaLimits *limits, Err *err) {
    *d = (Deberta){.ops = ops, .limits = *limits};
    assert(limits->longest >= 1 && limits->micro_tokens >= limits->longest && limits->micro_sequences >= 1);
    assert(limits->frozen >= 0 && limits->frozen <= config->num_hidden_layers + 1);
    if (config->num_labels < 1) return err_set(err, ERR_ARGUMENT, "the model has no labels");
    const int R = 2 * config->position_buckets, A = config->num_attention_heads;
    ErrCode rc = config_copy(&d->config, config, err);
    if (rc == ERR_OK) rc = open_weights(d, err);
    if (rc == ERR_OK) rc = open_work(d, err);
    if (rc == ERR_OK)
        rc = ops->prepare(ops, limits->micro_tokens > R ? limits->micro_tokens : R, limits->longest, A,
                          config->hidden_size / A, err);
    if (rc == ERR_OK) rc = bind_weights(d, err);
    if (rc != ERR_OK) deberta_close(d);
    return rc;
}

void deberta_close(Deberta *d) {
    if (d->ops) (void)d->ops->bind(d->ops, NULL, 0, false, NULL);
    mirror_close(&d->weight_memory);
    mirror_close(&d->grad_memory);
    mirror_close(&d->work_memory);
    mirror_close(&d->map_memory);
    mem_free(d->tables);
    mem_free(d->layers);
    mem_free(d->touched.slot);
    mem_free(d->touched.ids);
    mem_free(d->host_logits);
    mem_free(d->host_loss);
    mem_free(d->log_p);
    config_free(&d->config);
    *d = (Deberta){0};
}

/* ---- forward ---- */

static void reset_gradients(Deberta *d) {
    Ops *o = d->ops;
    if (d->grads_used) o->zero(o, d->grad_block, d->grad_count * sizeof(real));
    d->grads_used = false;
    if (d->limits.frozen) return;
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
        d->host_maps.index[i] = buckets_row(i - (longest - 1), B, P) - d->rel_first;
    mirror_put(&d->map_memory, d->host_maps.index, (size_t)(2 * longest - 1) * sizeof *d->host_maps.index);
    d->losses = 0;
    const int R = d->rel_rows;
    const Dropout none = {0};
    o->embed(o, d->sum, d->weights.rel, d->maps.rel_ids + d->rel_first, R, H);
    o->norm(o, d->rel, d->rel_xhat, d->rel_rstd, d->sum, NULL, d->weights.rel_norm_w, d->weights.rel_norm_b,
            &none, R, H, (real)c->layer_norm_eps);
    for (int l = 0; l < c->num_hidden_layers; l++) {
        const LayerParams *w = &d->weights.layer[l];
        DebertaLayer *y = &d->layers[l];
        const Dropout drop =
            deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_REL, d->maps.rel_row + d->rel_first);
        o->dropout(o, d->sum, d->rel, &drop, R, H);
        o->linear_group(o, (Act *const[]){y->qr, y->kr}, d->sum, (const real *const[]){w->q_w, w->k_w},
                        (const real *const[]){w->q_b, w->k_b}, 2, R, H, H);
        if (!y->dkr) continue; /* no gradient follows */
        o->zero(o, y->dkr, (size_t)R * (size_t)H * sizeof(real));
        o->zero(o, y->dqr, (size_t)R * (size_t)H * sizeof(real));
    }
    if (d->limits.train) reset_gradients(d);
}

/* The batch, row identities of its tokens and sequences, and where each sequence begins, in the backend's memory. */
static void take_batch(Deberta *d, const Packed *p) {
    DebertaMaps *m = &d->host_maps;
    d->pairs = 0;
    for (int s = 0; s < p->S; s++) {
        const double L = p->start[s + 1] - p->start[s];
        d->pairs += L * L;
        const uint64_t seq = p->seq ? (uint64_t)p->seq[s] : (uint64_t)s;
        m->seq_row[s] = seq;
        m->first_token[s] = p->start[s];
        for (int n = p->start[s]; n < p->start[s + 1]; n++)
            m->token_row[n] = seq << 24 | (uint64_t)(n - p->start[s]);
        m->first_row[s] = m->token_row[p->start[s]];
    }
    memcpy(m->ids, p->ids, (size_t)p->N * sizeof *m->ids);
    memcpy(m->start, p->start, (size_t)(p->S + 1) * sizeof *m->start);
    mirror_put(&d->map_memory, m->token_row, (size_t)((char *)m->slots - (char *)m->token_row));
    d->packed = *p;
    d->packed.ids = d->maps.ids;
    d->packed.start = d->maps.start;
    d->packed.seq = NULL;
}

DebertaRows deberta_rows(const Deberta *d, int l) {
    if (l < d->config.num_hidden_layers - 1 || d->limits.all_hidden)
        return (DebertaRows){false, d->packed.N, d->maps.token_row};
    return (DebertaRows){true, d->packed.S, d->maps.first_row};
}

void deberta_layer_forward(Deberta *d, int l, const Act *x) {
    Ops *o = d->ops;
    const Config *c = &d->config;
    const LayerParams *w = &d->weights.layer[l];
    DebertaLayer *y = &d->layers[l];
    const int N = d->packed.N, H = c->hidden_size, F = c->intermediate_size;
    const real eps = (real)c->layer_norm_eps;
    const Dropout probs =
        deberta_dropout(d, c->attention_probs_dropout_prob, l, DEBERTA_SITE_PROBS, d->maps.token_row);
    const DebertaRows rows = deberta_rows(d, l);
    const Dropout attn = deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_ATTENTION, rows.row);
    const Dropout ffn = deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_FFN, rows.row);
    const Attention shape = deberta_attention(d, &probs);
    o->linear_group(o, (Act *const[]){y->q, y->k, y->v}, x, (const real *const[]){w->q_w, w->k_w, w->v_w},
                    (const real *const[]){w->q_b, w->k_b, w->v_b}, 3, N, H, H);
    o->attention(o, y->context, y->q, y->k, y->v, y->kr, y->qr, &shape);
    const Act *context = y->context;
    if (rows.first) {
        o->gather(o, d->last_context, context, d->maps.first_token, rows.N, H);
        o->gather(o, d->last_x, x, d->maps.first_token, rows.N, H);
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
    take_batch(d, packed);
    const Dropout none = {0};
    const Dropout embed =
        deberta_dropout(d, c->hidden_dropout_prob, -1, DEBERTA_SITE_EMBEDDING, d->maps.token_row);
    o->embed(o, d->sum, d->weights.word, d->packed.ids, N, H);
    o->norm(o, d->x0, d->x0_xhat, d->x0_rstd, d->sum, NULL, d->weights.embed_norm_w, d->weights.embed_norm_b,
            &none, N, H, (real)c->layer_norm_eps);
    if (embed.p > 0) o->dropout(o, d->x0, d->x0, &embed, N, H);
    const Act *x = d->x0;
    for (int l = 0; l < c->num_hidden_layers; l++) {
        deberta_layer_forward(d, l, x);
        x = d->layers[l].y;
    }
    const Dropout pool = deberta_dropout(d, c->pooler_dropout, -1, DEBERTA_SITE_POOL, d->maps.seq_row);
    const Dropout head = deberta_dropout(d, c->cls_dropout, -1, DEBERTA_SITE_HEAD, d->maps.seq_row);
    if (d->limits.all_hidden) {
        o->gather(o, d->last_x, x, d->maps.first_token, S, H);
        x = d->last_x;
    }
    o->widen(o, d->cls, x, (size_t)S * (size_t)H);
    o->dropout_real(o, d->pool_in, d->cls, &pool, S, H);
    o->linear_real(o, d->pooled, d->pool_pre, d->pool_in, d->weights.pool_w, d->weights.pool_b, S, H, H);
    o->dropout_real(o, d->pooled_drop, d->pooled, &head, S, H);
    o->linear_real(o, d->logits, NULL, d->pooled_drop, d->weights.head_w, d->weights.head_b, S, c->num_labels,
                   H);
}

const real *deberta_logits(const Deberta *d) {
    d->ops->get(d->ops, d->host_logits, d->logits,
                (size_t)d->packed.S * (size_t)d->config.num_labels * sizeof *d->logits);
    return d->host_logits;
}

void deberta_pooled(const Deberta *d, real *out) {
    d->ops->get(d->ops, out, d->pooled_drop,
                (size_t)d->packed.S * (size_t)d->config.hidden_size * sizeof *out);
}

void deberta_loss(Deberta *d, const real *target, const real *weight, real scale) {
    const int S = d->packed.S, K = d->config.num_labels;
    assert(d->losses + S <= d->limits.micro_sequences);
    DebertaMaps *m = &d->host_maps;
    memcpy(m->target, target, (size_t)S * (size_t)K * sizeof *target);
    mirror_put(&d->map_memory, m->target, (size_t)S * (size_t)K * sizeof *target);
    for (int s = 0; s < S; s++) m->weight[s] = weight ? weight[s] : 1;
    mirror_put(&d->map_memory, m->weight, (size_t)S * sizeof *m->weight);
    d->ops->loss(d->ops, d->loss + d->losses, d->dlogits, d->logits, d->maps.target, d->maps.weight, scale, S,
                 K);
    d->losses += S;
}

double deberta_loss_sum(Deberta *d) {
    d->ops->get(d->ops, d->host_loss, d->loss, (size_t)d->losses * sizeof *d->loss);
    double sum = 0;
    for (int s = 0; s < d->losses; s++) sum += (double)d->host_loss[s];
    d->losses = 0;
    return sum;
}

/* log softmax(z / T) of n logits, into out. */
static void log_softmax(double *out, const real *z, int n, double T) {
    double most = (double)z[0], sum = 0;
    for (int k = 1; k < n; k++) most = (double)z[k] > most ? (double)z[k] : most;
    for (int k = 0; k < n; k++) sum += exp(out[k] = ((double)z[k] - most) / T);
    const double log_sum = log(sum);
    for (int k = 0; k < n; k++) out[k] -= log_sum;
}

double deberta_distill(Deberta *d, const real *teacher, int classes, double temperature, double share,
                       const real *weight, real scale) {
    const int S = d->packed.S, K = d->config.num_labels;
    const double T = temperature;
    assert(classes >= 1 && classes <= K && T > 0);
    const real *logits = deberta_logits(d);
    real *term = d->host_maps.target; /* the loss has read it */
    double *log_p = d->log_p, *log_q = d->log_p + K, sum = 0;
    for (int s = 0; s < S; s++) {
        const double w = weight ? (double)weight[s] : 1;
        log_softmax(log_p, teacher + (ptrdiff_t)s * classes, classes, T);
        log_softmax(log_q, logits + (ptrdiff_t)s * K, classes, T);
        double divergence = 0;
        real *out = term + (ptrdiff_t)s * K;
        for (int k = 0; k < K; k++) {
            out[k] = 0;
            if (k >= classes) continue;
            const double p = exp(log_p[k]);
            divergence += p * (log_p[k] - log_q[k]);
            out[k] = (real)((double)scale * w * share * T * (exp(log_q[k]) - p));
        }
        sum += w * T * T * divergence;
    }
    mirror_put(&d->map_memory, term, (size_t)S * (size_t)K * sizeof *term);
    d->ops->add(d->ops, d->dlogits, d->maps.target, (size_t)S * (size_t)K);
    return sum;
}
