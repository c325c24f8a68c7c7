#include "export/librouter.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu.h"
#include "core/mem.h"
#include "export/decide.h"
#include "export/forward.h"
#include "tokenizer/tokenizer.h"

_Static_assert((int)ERR_ARGUMENT == (int)ROUTER_ARGUMENT && (int)ERR_IO == (int)ROUTER_IO &&
                   (int)ERR_FORMAT == (int)ROUTER_FORMAT && (int)ERR_MEMORY == (int)ROUTER_MEMORY &&
                   (int)ERR_NUMERIC == (int)ROUTER_NUMERIC && (int)ERR_BACKEND == (int)ROUTER_BACKEND,
               "the public status codes are the internal ones");

enum {
    GROUP_TEXTS = 128, /* at most in one group */
    SHARED_TEXTS = 4,  /* for each thread: a batch of fewer is computed by all threads together */
};

/* What a group of texts needs while it is worked on; kept for the next one. */
typedef struct Desk {
    struct Desk *next;
    ForwardSpace space;
    Buf ids; /* of all texts */
    ForwardText texts[GROUP_TEXTS];
    size_t which[GROUP_TEXTS]; /* their numbers in the batch */
    int count, room;           /* texts; that logits has room for */
    float *logits;             /* (room, K) */
    double *p;                 /* (K): probabilities of one text */
} Desk;

struct Router {
    Blob blob;
    Forward forward;
    Tokenizer *tokenizer;
    TokenizerRule rule;
    Threads *threads;
    pthread_mutex_t desk_lock, threads_lock;
    Desk *desks; /* free ones */
};

static int answer_of(ErrCode rc, const Err *err, char *error, size_t error_bytes) {
    if (error && error_bytes) (void)snprintf(error, error_bytes, "%s", rc == ERR_OK ? "" : err->msg);
    return (int)rc;
}

/* ---- opening ---- */

static ErrCode open_tokenizer(Router *r, Err *err) {
    const BlobConfig *c = &r->blob.config;
    const void *spm = r->blob.data[blob_top(c) + BLOB_SPM];
    ErrCode rc = tokenizer_open_bytes(&r->tokenizer, spm, r->blob.spm_bytes, err);
    if (rc != ERR_OK) return err_context(err, rc, "blob: tensor tokenizer.spm");
    const TokenizerSpecials has = tokenizer_specials(r->tokenizer);
    if (has.pad != c->pad || has.cls != c->cls || has.sep != c->sep || has.unk != c->unk ||
        has.mask != c->mask)
        return err_set(
            err, ERR_FORMAT,
            "blob: the tokenizer's special ids are %d %d %d %d %d, but router.special says %d %d %d %d %d",
            has.pad, has.cls, has.sep, has.unk, has.mask, c->pad, c->cls, c->sep, c->unk, c->mask);
    /* As text, [MASK] is never produced: it may lie behind the last embedding. */
    const int ids = tokenizer_ids(r->tokenizer);
    const int produced = c->plain_text && has.mask == ids - 1 ? ids - 1 : ids;
    if (produced > c->vocab_size)
        return err_set(err, ERR_FORMAT, "blob: the tokenizer has %d ids, but there are only %d embeddings",
                       produced, c->vocab_size);
    return ERR_OK;
}

static ErrCode open_router(Router **out, const char *path, const void *bytes, size_t n,
                           const RouterOptions *options, Err *err) {
    const RouterOptions none = {0}, *o = options ? options : &none;
    Router *r;
    if (o->threads < -1)
        return err_set(err, ERR_ARGUMENT, "threads: found %d, expected -1 (one per CPU) or more", o->threads);
    TRY(mem_new(&r, 1, sizeof *r, "a router", err));
    pthread_mutex_init(&r->desk_lock, NULL);
    pthread_mutex_init(&r->threads_lock, NULL);
    ErrCode rc = ERR_OK;
    if (o->threads == -1 || o->threads > 1)
        rc = threads_open(&r->threads, o->threads < 0 ? 0 : o->threads, err);
    if (rc == ERR_OK)
        rc = path ? blob_open(&r->blob, path, &(BlobOptions){o->trust != 0, o->map != 0}, r->threads, err)
                  : blob_open_memory(&r->blob, bytes, n, o->trust != 0, r->threads, err);
    if (rc == ERR_OK &&
        (o->max_tokens < 0 || o->max_tokens == 1 || o->max_tokens > r->blob.config.max_tokens))
        rc = err_set(err, ERR_ARGUMENT, "max_tokens: found %d, expected 2 to the blob's %d, or 0",
                     o->max_tokens, r->blob.config.max_tokens);
    if (rc == ERR_OK) rc = open_tokenizer(r, err);
    if (rc == ERR_OK) rc = forward_init(&r->forward, &r->blob, int8_pick(cpu_features()), r->threads, err);
    if (rc != ERR_OK) {
        router_close(r);
        return rc;
    }
    r->rule = (TokenizerRule){.plain = r->blob.config.plain_text,
                              .max_tokens = o->max_tokens ? o->max_tokens : r->blob.config.max_tokens};
    *out = r;
    return ERR_OK;
}

int router_open(Router **out, const char *path, const RouterOptions *options, char *error,
                size_t error_bytes) {
    Err err = {0};
    if (!out) return answer_of(err_set(&err, ERR_ARGUMENT, "out is NULL"), &err, error, error_bytes);
    *out = NULL;
    const ErrCode rc =
        path ? open_router(out, path, NULL, 0, options, &err) : err_set(&err, ERR_ARGUMENT, "path is NULL");
    return answer_of(rc, &err, error, error_bytes);
}

int router_open_memory(Router **out, const void *bytes, size_t n, const RouterOptions *options, char *error,
                       size_t error_bytes) {
    Err err = {0};
    if (!out) return answer_of(err_set(&err, ERR_ARGUMENT, "out is NULL"), &err, error, error_bytes);
    *out = NULL;
    const ErrCode rc = bytes ? open_router(out, NULL, bytes, n, options, &err)
                             : err_set(&err, ERR_ARGUMENT, "bytes is NULL");
    return answer_of(rc, &err, error, error_bytes);
}

static void desk_free(Desk *desk) {
    if (!desk) return;
    forward_space_free(&desk->space);
    buf_free(&desk->ids);
    mem_free(desk->logits);
    mem_free(desk->p);
    mem_free(desk);
}

void router_close(Router *r) {
    if (!r) return;
    threads_close(r->threads);
    for (Desk *desk = r->desks, *next; desk; desk = next) {
        next = desk->next;
        desk_free(desk);
    }
    forward_free(&r->forward);
    tokenizer_close(r->tokenizer);
    blob_close(&r->blob);
    pthread_mutex_destroy(&r->desk_lock);
    pthread_mutex_destroy(&r->threads_lock);
    mem_free(r);
}

/* ---- desks and threads ---- */

static ErrCode desk_take(Desk **out, Router *r, Err *err) {
    pthread_mutex_lock(&r->desk_lock);
    Desk *desk = r->desks;
    if (desk) r->desks = desk->next;
    pthread_mutex_unlock(&r->desk_lock);
    *out = desk;
    return desk ? ERR_OK : mem_new(out, 1, sizeof **out, "a text", err);
}

static void desk_return(Router *r, Desk *desk) {
    pthread_mutex_lock(&r->desk_lock);
    desk->next = r->desks;
    r->desks = desk;
    pthread_mutex_unlock(&r->desk_lock);
}

static ErrCode desk_room(Desk *desk, const Router *r, Err *err) {
    const size_t K = (size_t)r->blob.config.num_labels;
    if (!desk->p) TRY(mem_new(&desk->p, K, sizeof *desk->p, "the probabilities", err));
    if (desk->logits && desk->count <= desk->room) return ERR_OK;
    const int room = desk->count < 2 ? 1 : GROUP_TEXTS;
    mem_free(desk->logits);
    desk->logits = NULL;
    TRY(mem_new(&desk->logits, (size_t)room, K * sizeof *desk->logits, "the logits", err));
    desk->room = room;
    return ERR_OK;
}

/* The router's threads, or NULL while another caller has them: this one then computes alone. */
static Threads *threads_take(Router *r) {
    return r->threads && pthread_mutex_trylock(&r->threads_lock) == 0 ? r->threads : NULL;
}

static void threads_return(Router *r, const Threads *taken) {
    if (taken) pthread_mutex_unlock(&r->threads_lock);
}

/* ---- classifying ---- */

static ErrCode encode(Router *r, Desk *desk, const char *text, size_t n, size_t *count, int *truncated,
                      Err *err) {
    size_t whole;
    const size_t before = desk->ids.len;
    if (!text && n) return err_set(err, ERR_ARGUMENT, "text is NULL");
    if (n == ROUTER_TERMINATED) n = strlen(text);
    TRY(tokenizer_encode(r->tokenizer, &r->rule, text ? text : "", n, &desk->ids, &whole, err));
    *count = (desk->ids.len - before) / sizeof(int32_t);
    *truncated = whole > *count;
    return ERR_OK;
}

/* Texts that are shared out one by one, so that each worker gathers groups of its own. */
typedef struct {
    Router *router;
    const char *const *texts;
    const size_t *lengths;
    size_t count;
    RouterAnswer *answers;
    float *probabilities;
    int workers;
    Threads *threads; /* that one worker's groups are computed on */
    atomic_size_t next;
    pthread_mutex_t lock; /* of what follows */
    size_t failed;        /* the first text that did */
    ErrCode rc;
    Err err;
} Batch;

static void batch_fail(Batch *b, size_t i, ErrCode rc, const Err *err) {
    pthread_mutex_lock(&b->lock);
    if (b->rc == ERR_OK || i < b->failed) {
        b->failed = i;
        b->rc = rc;
        b->err = *err;
    }
    pthread_mutex_unlock(&b->lock);
}

/* Fills the desk with the next texts, as ids; false when there are none. Groups become smaller towards the
 * end, so that all workers end together. */
static bool gather(Batch *b, Desk *desk) {
    const size_t taken = atomic_load_explicit(&b->next, memory_order_relaxed);
    const size_t left = taken < b->count ? b->count - taken : 0, workers = (size_t)b->workers;
    const size_t share = (left + workers - 1) / workers, most = share < GROUP_TEXTS ? share : GROUP_TEXTS;
    desk->count = 0;
    buf_clear(&desk->ids);
    size_t i = 0, count = 0;
    while ((size_t)desk->count < most && desk->ids.len < FORWARD_GROUP_TOKENS * sizeof(int32_t) &&
           (i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed)) < b->count) {
        Err err = {0};
        const ErrCode rc =
            encode(b->router, desk, b->texts[i], b->lengths ? b->lengths[i] : ROUTER_TERMINATED, &count,
                   &b->answers[i].truncated, &err);
        if (rc != ERR_OK) {
            batch_fail(b, i, rc, &err);
            continue;
        }
        b->answers[i].tokens = (int)count;
        desk->which[desk->count] = i;
        desk->texts[desk->count++].n = (int)count;
    }
    const int32_t *ids = (const int32_t *)(const void *)desk->ids.data;
    for (int t = 0; t < desk->count; ids += desk->texts[t++].n) desk->texts[t].ids = ids;
    return desk->count > 0 || (most > 0 && i < b->count);
}

/* Everything of the answer but tokens and truncated. p (K): working memory; probabilities may be NULL. */
static void answer_logits(const Router *r, RouterAnswer *answer, double *p, float *probabilities,
                          const float *logits) {
    const DecideRule *rule = &r->blob.config.decide;
    const int K = r->blob.config.num_labels;
    const DecideAnswer decided = decide(p, logits, K, rule);
    answer->label = decided.label;
    answer->probability = (float)p[decided.label];
    answer->abstained = decided.abstained;
    answer->fallback = rule->fallback;
    answer->score = decided.score;
    for (int k = 0; probabilities && k < K; k++) probabilities[k] = (float)p[k];
}

static void answer_group(Batch *b, Desk *desk) {
    const Router *r = b->router;
    const size_t K = (size_t)r->blob.config.num_labels;
    Err err = {0};
    int at = 0;
    ErrCode rc = desk_room(desk, r, &err);
    if (rc == ERR_OK)
        rc = forward_run(&r->forward, &desk->space, desk->logits, desk->texts, desk->count, b->threads, &at,
                         &err);
    if (rc != ERR_OK) {
        batch_fail(b, desk->which[at], rc, &err);
        return;
    }
    for (size_t t = 0; t < (size_t)desk->count; t++) {
        const size_t i = desk->which[t];
        answer_logits(r, &b->answers[i], desk->p, b->probabilities ? b->probabilities + i * K : NULL,
                      desk->logits + t * K);
    }
}

static void work(void *arg, size_t i, int thread) {
    (void)i;
    (void)thread;
    Batch *b = arg;
    Desk *desk;
    Err err = {0};
    const ErrCode rc = desk_take(&desk, b->router, &err);
    if (rc != ERR_OK) {
        const size_t first = atomic_exchange(&b->next, b->count); /* nobody else shall go on */
        batch_fail(b, first < b->count ? first : b->count - 1, rc, &err);
        return;
    }
    while (gather(b, desk))
        if (desk->count) answer_group(b, desk);
    desk_return(b->router, desk);
}

/* Few texts: one group after the other, each on all threads. Many: each thread computes groups of its own,
 * which needs no waiting for one another. */
static void classify(Batch *b) {
    Router *r = b->router;
    Threads *threads = threads_take(r);
    const size_t count = (size_t)threads_count(threads);
    pthread_mutex_init(&b->lock, NULL);
    b->workers = 1;
    b->threads = threads;
    if (b->count >= SHARED_TEXTS * count) {
        b->workers = (int)count;
        b->threads = NULL;
    }
    threads_run(b->workers > 1 ? threads : NULL, work, b, (size_t)b->workers);
    threads_return(r, threads);
    pthread_mutex_destroy(&b->lock);
}

int router_classify(Router *r, const char *text, size_t n, RouterAnswer *answer, float *probabilities,
                    char *error, size_t error_bytes) {
    Err err = {0};
    if (!r || !answer)
        return answer_of(err_set(&err, ERR_ARGUMENT, "router or answer is NULL"), &err, error, error_bytes);
    Batch b = {.router = r,
               .texts = &text,
               .lengths = &n,
               .count = 1,
               .answers = answer,
               .probabilities = probabilities};
    classify(&b);
    return answer_of(b.rc, &b.err, error, error_bytes);
}

int router_classify_batch(Router *r, const char *const *texts, const size_t *lengths, size_t count,
                          RouterAnswer *answers, float *probabilities, char *error, size_t error_bytes) {
    Err err = {0};
    if (!r || (count && (!texts || !answers)))
        return answer_of(err_set(&err, ERR_ARGUMENT, "router, texts or answers is NULL"), &err, error,
                         error_bytes);
    Batch b = {.router = r,
               .texts = texts,
               .lengths = lengths,
               .count = count,
               .answers = answers,
               .probabilities = probabilities};
    if (count) classify(&b);
    if (b.rc != ERR_OK) (void)err_context(&b.err, b.rc, "text %zu", b.failed);
    return answer_of(b.rc, &b.err, error, error_bytes);
}

/* ---- the parts, and questions ---- */

int router_encode(Router *r, const char *text, size_t n, int32_t *ids, size_t capacity, size_t *count,
                  int *truncated, char *error, size_t error_bytes) {
    Err err = {0};
    Desk *desk;
    int cut = 0;
    if (!r || !count || (!ids && capacity))
        return answer_of(err_set(&err, ERR_ARGUMENT, "router, ids or count is NULL"), &err, error,
                         error_bytes);
    ErrCode rc = desk_take(&desk, r, &err);
    if (rc != ERR_OK) return answer_of(rc, &err, error, error_bytes);
    buf_clear(&desk->ids);
    rc = encode(r, desk, text, n, count, &cut, &err);
    if (rc == ERR_OK && truncated) *truncated = cut;
    const size_t stored = rc != ERR_OK ? 0 : *count < capacity ? *count : capacity;
    if (stored) memcpy(ids, desk->ids.data, stored * sizeof *ids);
    desk_return(r, desk);
    return answer_of(rc, &err, error, error_bytes);
}

static int compute(Router *r, const int32_t *ids, size_t n, float *logits, float *pooled, char *error,
                   size_t error_bytes) {
    Err err = {0};
    Desk *desk;
    if (!r || !ids || !logits)
        return answer_of(err_set(&err, ERR_ARGUMENT, "router, ids or logits is NULL"), &err, error,
                         error_bytes);
    ErrCode rc = desk_take(&desk, r, &err);
    if (rc != ERR_OK) return answer_of(rc, &err, error, error_bytes);
    Threads *threads = threads_take(r);
    const ForwardText one = {ids, n > INT_MAX ? INT_MAX : (int)n};
    rc = forward_run(&r->forward, &desk->space, logits, &one, 1, threads, NULL, &err);
    threads_return(r, threads);
    if (rc == ERR_OK && pooled)
        memcpy(pooled, desk->space.y, (size_t)r->blob.config.hidden_size * sizeof *pooled);
    desk_return(r, desk);
    return answer_of(rc, &err, error, error_bytes);
}

int router_logits(Router *r, const int32_t *ids, size_t n, float *logits, char *error, size_t error_bytes) {
    return compute(r, ids, n, logits, NULL, error, error_bytes);
}

int router_pooled(Router *r, const int32_t *ids, size_t n, float *logits, float *pooled, char *error,
                  size_t error_bytes) {
    Err err = {0};
    if (!pooled) return answer_of(err_set(&err, ERR_ARGUMENT, "pooled is NULL"), &err, error, error_bytes);
    return compute(r, ids, n, logits, pooled, error, error_bytes);
}

int router_width(const Router *r) {
    return r ? r->blob.config.hidden_size : 0;
}

int router_decide(Router *r, const float *logits, RouterAnswer *answer, float *probabilities, char *error,
                  size_t error_bytes) {
    Err err = {0};
    Desk *desk;
    ErrCode rc =
        r && logits && answer ? ERR_OK : err_set(&err, ERR_ARGUMENT, "router, logits or answer is NULL");
    for (int k = 0; rc == ERR_OK && k < r->blob.config.num_labels; k++)
        if (!isfinite(logits[k])) rc = err_set(&err, ERR_ARGUMENT, "logit %d is not a finite number", k);
    if (rc == ERR_OK) rc = desk_take(&desk, r, &err);
    if (rc != ERR_OK) return answer_of(rc, &err, error, error_bytes);
    desk->count = 1;
    rc = desk_room(desk, r, &err);
    *answer = (RouterAnswer){0};
    if (rc == ERR_OK) answer_logits(r, answer, desk->p, probabilities, logits);
    desk_return(r, desk);
    return answer_of(rc, &err, error, error_bytes);
}

int router_label_count(const Router *r) {
    return r ? r->blob.config.num_labels : 0;
}

const char *router_label(const Router *r, int label) {
    return r && label >= 0 && label < r->blob.config.num_labels ? r->blob.labels[label] : NULL;
}

int router_revision(const Router *r) {
    return r ? r->blob.config.taxonomy.revision : 0;
}

static const TaxonomyLabel *label_of(const Router *r, int label) {
    return router_label(r, label) ? &r->blob.config.taxonomy.labels[label] : NULL;
}

const char *router_label_description(const Router *r, int label) {
    const TaxonomyLabel *l = label_of(r, label);
    return l ? l->description : NULL;
}

int router_label_active(const Router *r, int label) {
    const TaxonomyLabel *l = label_of(r, label);
    return l && !l->retired;
}

int router_max_tokens(const Router *r) {
    return r ? r->rule.max_tokens : 0;
}

const char *router_metadata(const Router *r, const char *key) {
    return r && key ? blob_metadata(&r->blob, key) : NULL;
}

const char *router_kernels(const Router *r) {
    return r ? r->forward.kernels->name : NULL;
}

const char *router_version(void) {
    return LIBROUTER_VERSION;
}
