/* model/deberta_grad.c - the gradients of deberta.c, read bottom to top. */
#include "model/deberta.h"

#include <assert.h>

/* A row of the compact gradient for every token of the batch; the padding token gets none (padding_idx of the
 * published embedding). */
static void touch_tokens(Deberta *d) {
    DebertaTouched *t = &d->touched;
    const DebertaMaps *m = &d->host_maps;
    for (int n = 0; n < d->packed.N; n++) {
        const int32_t id = m->ids[n];
        if (id != d->config.pad_token_id && t->slot[id] < 0) {
            assert(t->count < t->capacity);
            t->slot[id] = t->count;
            t->ids[t->count++] = id;
        }
        m->slots[n] = id == d->config.pad_token_id ? -1 : t->slot[id];
    }
    mirror_put(&d->map_memory, m->slots, (size_t)d->packed.N * sizeof *m->slots);
}

/* dy comes in scratch[1], dx goes out there, unless nothing below has a gradient. */
static void layer_backward(Deberta *d, int l, const Act *x) {
    Ops *o = d->ops;
    const Config *c = &d->config;
    const LayerParams *w = &d->weights.layer[l];
    const LayerParams *g = &d->grads.layer[l];
    DebertaLayer *y = &d->layers[l];
    const int N = d->packed.N, H = c->hidden_size, F = c->intermediate_size;
    const DebertaRows rows = deberta_rows(d, l);
    const Dropout probs =
        deberta_dropout(d, c->attention_probs_dropout_prob, l, DEBERTA_SITE_PROBS, d->maps.token_row);
    const Dropout attn = deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_ATTENTION, rows.row);
    const Dropout ffn = deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_FFN, rows.row);
    const Attention shape = deberta_attention(d, &probs);
    real *dy = d->scratch[1], *dt = d->scratch[0], *da = d->scratch[2], *dup = d->scratch[3];
    o->norm_grad(o, dt, da, g->ffn_norm_w, g->ffn_norm_b, dy, y->ffn_xhat, y->ffn_rstd, w->ffn_norm_w, &ffn,
                 rows.N, H);
    o->linear_grad(o, dup, 0, g->down_w, g->down_b, dt, y->up, w->down_w, NULL, rows.N, H, F);
    o->linear_grad(o, da, 1, g->up_w, g->up_b, dup, y->a, w->up_w, y->up_pre, rows.N, F, H);
    const bool lowest = d->limits.frozen && l == deberta_first_learnt(d);
    real *dx = lowest ? NULL : d->scratch[1]; /* dy is spent */
    real *dcontext = d->scratch[4], *dq = d->scratch[5], *dk = d->scratch[6], *dv = d->scratch[7];
    real *residual = rows.first && dx ? dq : dx,
         *dfirst = rows.first ? dk : dcontext; /* free until attention_grad */
    o->norm_grad(o, dt, residual, g->attn_norm_w, g->attn_norm_b, da, y->attn_xhat, y->attn_rstd,
                 w->attn_norm_w, &attn, rows.N, H);
    o->linear_grad(o, dfirst, 0, g->o_w, g->o_b, dt, rows.first ? d->last_context : y->context, w->o_w, NULL,
                   rows.N, H, H);
    if (rows.first) {
        if (dx) o->scatter(o, dx, residual, d->maps.first_token, N, rows.N, H);
        o->scatter(o, dcontext, dfirst, d->maps.first_token, N, rows.N, H);
    }
    o->attention_grad(o, dq, dk, dv, y->dkr, y->dqr, dcontext, y->q, y->k, y->v, y->kr, y->qr, &shape);
    o->linear_group_grad(o, dx, 1, (real *const[]){g->q_w, g->k_w, g->v_w},
                         (real *const[]){g->q_b, g->k_b, g->v_b}, (real *const[]){dq, dk, dv}, x,
                         (const real *const[]){w->q_w, w->k_w, w->v_w}, 3, N, H, H);
}

void deberta_backward(Deberta *d) {
    Ops *o = d->ops;
    const Config *c = &d->config;
    const int N = d->packed.N, S = d->packed.S, H = c->hidden_size, layers = c->num_hidden_layers;
    const Dropout pool = deberta_dropout(d, c->pooler_dropout, -1, DEBERTA_SITE_POOL, d->maps.seq_row);
    const Dropout head = deberta_dropout(d, c->cls_dropout, -1, DEBERTA_SITE_HEAD, d->maps.seq_row);
    const int first = deberta_first_learnt(d);
    real *dpooled = d->scratch[2], *dcls = first < layers ? d->scratch[4] : NULL;
    d->grads_used = true;
    o->linear_real_grad(o, dpooled, 0, d->grads.head_w, d->grads.head_b, d->dlogits, d->pooled_drop,
                        d->weights.head_w, NULL, S, c->num_labels, H);
    o->dropout_real(o, dpooled, dpooled, &head, S, H);
    o->linear_real_grad(o, dcls, 0, d->grads.pool_w, d->grads.pool_b, dpooled, d->pool_in, d->weights.pool_w,
                        d->pool_pre, S, H, H);
    if (!dcls) return;
    o->dropout_real(o, d->limits.all_hidden ? dcls : d->scratch[1], dcls, &pool, S, H);
    if (d->limits.all_hidden) o->scatter(o, d->scratch[1], dcls, d->maps.first_token, N, S, H);
    for (int l = layers - 1; l >= first; l--) {
        const Act *x = l ? d->layers[l - 1].y : d->x0;
        if (d->limits.recompute && l < layers - 1) deberta_layer_forward(d, l, x);
        layer_backward(d, l, x);
    }
    if (d->limits.frozen) return;
    const Dropout none = {0};
    const Dropout embed =
        deberta_dropout(d, c->hidden_dropout_prob, -1, DEBERTA_SITE_EMBEDDING, d->maps.token_row);
    if (embed.p > 0) o->dropout_real(o, d->scratch[1], d->scratch[1], &embed, N, H);
    o->norm_grad(o, d->scratch[2], NULL, d->grads.embed_norm_w, d->grads.embed_norm_b, d->scratch[1],
                 d->x0_xhat, d->x0_rstd, d->weights.embed_norm_w, &none, N, H);
    touch_tokens(d);
    o->embed_grad(o, d->touched.grad, d->maps.slots, d->scratch[2], N, H);
}

void deberta_end(Deberta *d) {
    Ops *o = d->ops;
    const Config *c = &d->config;
    const int R = d->rel_rows, H = c->hidden_size;
    const bool learnt =
        !d->limits.frozen; /* the table itself; where it is not, the layers' projections still are */
    if (learnt) o->zero(o, d->drel, (size_t)R * (size_t)H * sizeof(real));
    Act *dropped = d->sum;
    real *ddropped = learnt ? d->scratch[1] : NULL, *dtable = d->scratch[0];
    for (int l = deberta_first_learnt(d); l < c->num_hidden_layers; l++) {
        const LayerParams *w = &d->weights.layer[l];
        const LayerParams *g = &d->grads.layer[l];
        DebertaLayer *y = &d->layers[l];
        const Dropout drop =
            deberta_dropout(d, c->hidden_dropout_prob, l, DEBERTA_SITE_REL, d->maps.rel_row + d->rel_first);
        o->dropout(o, dropped, d->rel, &drop, R, H);
        o->linear_group_grad(o, ddropped, 0, (real *const[]){g->q_w, g->k_w}, (real *const[]){g->q_b, g->k_b},
                             (real *const[]){y->dqr, y->dkr}, dropped, (const real *const[]){w->q_w, w->k_w},
                             2, R, H, H);
        if (!learnt) continue;
        o->dropout_real(o, ddropped, ddropped, &drop, R, H);
        o->add(o, d->drel, ddropped, (size_t)R * (size_t)H);
    }
    if (!learnt) return;
    const Dropout none = {0};
    o->norm_grad(o, dtable, NULL, d->grads.rel_norm_w, d->grads.rel_norm_b, d->drel, d->rel_xhat, d->rel_rstd,
                 d->weights.rel_norm_w, &none, R, H);
    o->add(o, d->grads.rel + (size_t)d->rel_first * (size_t)H, dtable, (size_t)R * (size_t)H);
}
