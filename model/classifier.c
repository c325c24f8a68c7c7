#include "model/classifier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "model/config.h"
#include "model/weights.h"

enum { BATCH_TOKENS = 4096, BATCH_SEQUENCES = 256 };

ErrCode classifier_open(Classifier *c, const char *dir, const char *backend, int longest, Threads *threads,
                        Err *err) {
    *c = (Classifier){0};
    WeightsReport report = {0};
    ErrCode rc = config_read(&c->config, dir, err);
    if (rc != ERR_OK) goto done;
    if (c->config.num_labels < 1) {
        rc = err_set(err, ERR_ARGUMENT, "%s: the model has no labels: it is not a trained classifier", dir);
        goto done;
    }
    rc = ops_open(&c->ops, backend, "fp32", threads, err);
    if (rc != ERR_OK) goto done;
    if (longest <= 0 || longest > c->config.max_position_embeddings)
        longest = c->config.max_position_embeddings;
    const DebertaLimits limits = {.micro_tokens = longest > BATCH_TOKENS ? longest : BATCH_TOKENS,
                                  .micro_sequences = BATCH_SEQUENCES,
                                  .longest = longest};
    rc = deberta_open(&c->model, &c->config, &c->ops, &limits, err);
    if (rc != ERR_OK) goto done;
    rc = weights_load(&c->model.host_weights, &c->config, dir, 0, &report, err);
    if (rc == ERR_OK && report.initialised.count)
        rc = err_set(err, ERR_ARGUMENT, "%s: the tensor %s is missing: it is not a trained classifier", dir,
                     report.initialised.items[0]);
    if (rc == ERR_OK) deberta_weights_changed(&c->model);
done:
    weights_report_free(&report);
    if (rc != ERR_OK) classifier_close(c);
    return rc;
}

void classifier_close(Classifier *c) {
    deberta_close(&c->model);
    if (c->ops.close) ops_close(&c->ops);
    config_free(&c->config);
    *c = (Classifier){0};
}

typedef struct {
    int length;
    uint32_t index;
} Order;

static int by_length(const void *a, const void *b) {
    const Order *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

typedef struct {
    Order *order;
    int32_t *ids, *start;
    float *vectors; /* (micro_sequences, H): of a batch, where they are wanted */
} Packing;

/* Packs sequences of `order` from `from` on, as many as fit; returns the next. */
static size_t pack(Packed *out, const Packing *p, const Deberta *d, const int32_t *const *ids, size_t from,
                   size_t count) {
    int N = 0, S = 0;
    size_t i = from;
    for (; i < count && S < d->limits.micro_sequences && N + p->order[i].length <= d->limits.micro_tokens;
         i++) {
        memcpy(p->ids + N, ids[p->order[i].index], (size_t)p->order[i].length * sizeof *p->ids);
        p->start[S++] = N;
        N += p->order[i].length;
    }
    p->start[S] = N;
    *out = (Packed){.N = N, .S = S, .longest = p->order[i - 1].length, .ids = p->ids, .start = p->start};
    return i;
}

/* Puts a batch's answers, of the sequences order[0 .. packed->S-1], into their places. */
static ErrCode scatter(const Classifier *c, const Packing *p, const Order *order, int S, float *logits,
                       float *vectors, Err *err) {
    const size_t K = (size_t)c->config.num_labels, H = (size_t)c->config.hidden_size;
    const real *found = deberta_logits(&c->model);
    if (vectors) deberta_pooled(&c->model, p->vectors);
    for (size_t i = 0; i < (size_t)S; i++) {
        float *out = logits + order[i].index * K;
        memcpy(out, found + i * K, K * sizeof *out);
        if (vectors) memcpy(vectors + order[i].index * H, p->vectors + i * H, H * sizeof *vectors);
        for (size_t k = 0; k < K; k++)
            if (!isfinite(out[k]))
                return err_set(err, ERR_NUMERIC, "sequence %u: logit %zu is not finite", order[i].index, k);
    }
    return ERR_OK;
}

ErrCode classifier_logits(Classifier *c, float *logits, const int32_t *const *ids, const int *lengths,
                          size_t count, Err *err) {
    return classifier_pooled(c, logits, NULL, ids, lengths, count, err);
}

ErrCode classifier_pooled(Classifier *c, float *logits, float *vectors, const int32_t *const *ids,
                          const int *lengths, size_t count, Err *err) {
    Deberta *d = &c->model;
    Packing p = {0};
    ErrCode rc = mem_new(&p.order, count, sizeof *p.order, "sequences", err);
    if (rc == ERR_OK) rc = mem_new(&p.ids, (size_t)d->limits.micro_tokens, sizeof *p.ids, "sequences", err);
    if (rc == ERR_OK)
        rc = mem_new(&p.start, (size_t)d->limits.micro_sequences + 1, sizeof *p.start, "sequences", err);
    if (rc == ERR_OK && vectors)
        rc = mem_new(&p.vectors, (size_t)d->limits.micro_sequences,
                     (size_t)c->config.hidden_size * sizeof *p.vectors, "vectors", err);
    if (rc != ERR_OK) goto done;
    for (size_t i = 0; i < count; i++) p.order[i] = (Order){lengths[i], (uint32_t)i};
    qsort(p.order, count, sizeof *p.order, by_length);
    if (!c->ready) deberta_begin(d, d->limits.longest, false, 0);
    c->ready = true;
    for (size_t at = 0; at < count && rc == ERR_OK;) {
        Packed packed;
        const size_t next = pack(&packed, &p, d, ids, at, count);
        deberta_forward(d, &packed);
        rc = scatter(c, &p, p.order + at, packed.S, logits, vectors, err);
        at = next;
    }
    if (rc == ERR_OK) rc = c->ops.sync(&c->ops, err);
done:
    mem_free(p.order);
    mem_free(p.ids);
    mem_free(p.start);
    mem_free(p.vectors);
    return rc;
}
