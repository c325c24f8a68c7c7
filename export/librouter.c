#include "export/librouter.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "export/forward.h"
#include "tokenizer/tokenizer.h"

_Static_assert((int)ERR_ARGUMENT == (int)ROUTER_ARGUMENT && (int)ERR_IO == (int)ROUTER_IO &&
                   (int)ERR_FORMAT == (int)ROUTER_FORMAT && (int)ERR_MEMORY == (int)ROUTER_MEMORY &&
                   (int)ERR_NUMERIC == (int)ROUTER_NUMERIC && (int)ERR_BACKEND == (int)ROUTER_BACKEND,
               "the public status codes are the internal ones");

/* What one text needs while it is worked on; kept for the next one. */
typedef struct Desk {
    struct Desk *next;
    ForwardSpace space;
    Buf ids;
    float *logits; /* (2 K): logits, and probabilities where the caller wants none */
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
        rc = path ? blob_open(&r->blob, path, o->trust != 0, r->threads, err)
                  : blob_open_memory(&r->blob, bytes, n, o->trust != 0, r->threads, err);
    if (rc == ERR_OK &&
        (o->max_tokens < 0 || o->max_tokens == 1 || o->max_tokens > r->blob.config.max_tokens))
        rc = err_set(err, ERR_ARGUMENT, "max_tokens: found %d, expected 2 to the blob's %d, or 0",
                     o->max_tokens, r->blob.config.max_tokens);
    if (rc == ERR_OK) rc = open_tokenizer(r, err);
    if (rc == ERR_OK) rc = forward_init(&r->forward, &r->blob, err);
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

/* ---- one text ---- */

static ErrCode desk_take(Desk **out, Router *r, Err *err) {
    pthread_mutex_lock(&r->desk_lock);
    Desk *desk = r->desks;
    if (desk) r->desks = desk->next;
    pthread_mutex_unlock(&r->desk_lock);
    *out = desk;
    if (desk) return ERR_OK;
    TRY(mem_new(&desk, 1, sizeof *desk, "a text", err));
    const ErrCode rc = mem_new(&desk->logits, 2 * (size_t)r->blob.config.num_labels, sizeof *desk->logits,
                               "the logits", err);
    if (rc == ERR_OK)
        *out = desk;
    else
        desk_free(desk);
    return rc;
}

static void desk_return(Router *r, Desk *desk) {
    pthread_mutex_lock(&r->desk_lock);
    desk->next = r->desks;
    r->desks = desk;
    pthread_mutex_unlock(&r->desk_lock);
}

static ErrCode encode(Router *r, Desk *desk, const char *text, size_t n, size_t *count, int *truncated,
                      Err *err) {
    size_t whole;
    if (!text && n) return err_set(err, ERR_ARGUMENT, "text is NULL");
    if (n == ROUTER_TERMINATED) n = strlen(text);
    buf_clear(&desk->ids);
    TRY(tokenizer_encode(r->tokenizer, &r->rule, text ? text : "", n, &desk->ids, &whole, err));
    *count = desk->ids.len / sizeof(int32_t);
    *truncated = whole > *count;
    return ERR_OK;
}

static ErrCode classify(Router *r, const char *text, size_t n, RouterAnswer *answer, float *probabilities,
                        Err *err) {
    Desk *desk;
    size_t count;
    TRY(desk_take(&desk, r, err));
    const int K = r->blob.config.num_labels;
    float *p = probabilities ? probabilities : desk->logits + K;
    ErrCode rc = encode(r, desk, text, n, &count, &answer->truncated, err);
    if (rc == ERR_OK)
        rc = forward_run(&r->forward, &desk->space, desk->logits,
                         (const int32_t *)(const void *)desk->ids.data, (int)count, err);
    if (rc == ERR_OK) {
        answer->label = forward_softmax(p, desk->logits, K, r->blob.config.temperature);
        answer->probability = p[answer->label];
        answer->tokens = (int)count;
    }
    desk_return(r, desk);
    return rc;
}

int router_classify(Router *r, const char *text, size_t n, RouterAnswer *answer, float *probabilities,
                    char *error, size_t error_bytes) {
    Err err = {0};
    const ErrCode rc = r && answer ? classify(r, text, n, answer, probabilities, &err)
                                   : err_set(&err, ERR_ARGUMENT, "router or answer is NULL");
    return answer_of(rc, &err, error, error_bytes);
}

/* ---- many texts ---- */

typedef struct {
    Router *router;
    const char *const *texts;
    const size_t *lengths;
    RouterAnswer *answers;
    float *probabilities;
    pthread_mutex_t lock; /* of what follows */
    size_t failed;        /* the first text that did */
    ErrCode rc;
    Err err;
} BatchJob;

static void classify_task(void *arg, size_t i, int thread) {
    (void)thread;
    BatchJob *job = arg;
    Err err = {0};
    const size_t K = (size_t)job->router->blob.config.num_labels;
    float *p = job->probabilities ? job->probabilities + i * K : NULL;
    const ErrCode rc =
        classify(job->router, job->texts[i], job->lengths ? job->lengths[i] : ROUTER_TERMINATED,
                 &job->answers[i], p, &err);
    if (rc == ERR_OK) return;
    pthread_mutex_lock(&job->lock);
    if (job->rc == ERR_OK || i < job->failed) {
        job->failed = i;
        job->rc = rc;
        job->err = err;
    }
    pthread_mutex_unlock(&job->lock);
}

int router_classify_batch(Router *r, const char *const *texts, const size_t *lengths, size_t count,
                          RouterAnswer *answers, float *probabilities, char *error, size_t error_bytes) {
    Err err = {0};
    if (!r || (count && (!texts || !answers)))
        return answer_of(err_set(&err, ERR_ARGUMENT, "router, texts or answers is NULL"), &err, error,
                         error_bytes);
    BatchJob job = {
        .router = r, .texts = texts, .lengths = lengths, .answers = answers, .probabilities = probabilities};
    pthread_mutex_init(&job.lock, NULL);
    const int pool = r->threads && pthread_mutex_trylock(&r->threads_lock) == 0;
    threads_run(pool ? r->threads : NULL, classify_task, &job, count);
    if (pool) pthread_mutex_unlock(&r->threads_lock);
    pthread_mutex_destroy(&job.lock);
    if (job.rc != ERR_OK) (void)err_context(&job.err, job.rc, "text %zu", job.failed);
    return answer_of(job.rc, &job.err, error, error_bytes);
}

/* ---- the halves, and questions ---- */

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
    rc = encode(r, desk, text, n, count, &cut, &err);
    if (rc == ERR_OK && truncated) *truncated = cut;
    const size_t stored = rc != ERR_OK ? 0 : *count < capacity ? *count : capacity;
    if (stored) memcpy(ids, desk->ids.data, stored * sizeof *ids);
    desk_return(r, desk);
    return answer_of(rc, &err, error, error_bytes);
}

int router_logits(Router *r, const int32_t *ids, size_t n, float *logits, char *error, size_t error_bytes) {
    Err err = {0};
    Desk *desk;
    if (!r || !ids || !logits)
        return answer_of(err_set(&err, ERR_ARGUMENT, "router, ids or logits is NULL"), &err, error,
                         error_bytes);
    ErrCode rc = desk_take(&desk, r, &err);
    if (rc != ERR_OK) return answer_of(rc, &err, error, error_bytes);
    rc = forward_run(&r->forward, &desk->space, logits, ids, n > INT_MAX ? INT_MAX : (int)n, &err);
    desk_return(r, desk);
    return answer_of(rc, &err, error, error_bytes);
}

int router_label_count(const Router *r) {
    return r ? r->blob.config.num_labels : 0;
}

const char *router_label(const Router *r, int label) {
    return r && label >= 0 && label < r->blob.config.num_labels ? r->blob.labels[label] : NULL;
}

int router_max_tokens(const Router *r) {
    return r ? r->rule.max_tokens : 0;
}

const char *router_metadata(const Router *r, const char *key) {
    return r && key ? blob_metadata(&r->blob, key) : NULL;
}

const char *router_version(void) {
    return LIBROUTER_VERSION;
}
