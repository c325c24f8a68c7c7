#include "eval/predict.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/stop.h"
#include "export/blob_rule.h"
#include "export/decide_json.h"
#include "export/librouter.h"
#include "model/classifier.h"
#include "tokenizer/tokenizer.h"

enum { GROUP_ROWS = 256 };

struct Predictor {
    int K;
    const char *const *labels;
    Threads *threads;
    size_t group;
    char *path, *shard;
    DecideRule decide;
    /* a folder */
    Classifier classifier;
    Tokenizer *tokenizer;
    TokenizerRule rule;
    TokenizerJob *jobs; /* their ids' memory is used again */
    size_t job_count;
    /* or a blob */
    Router *router;
    const char **blob_labels;
};

int predict_classes(const Predictor *p) {
    return p->K;
}

const char *const *predict_labels(const Predictor *p) {
    return p->labels;
}

bool predict_is_blob(const Predictor *p) {
    return p->router != NULL;
}

const DecideRule *predict_rule(const Predictor *p) {
    return &p->decide;
}

int predict_width(const Predictor *p) {
    return p->router ? router_width(p->router) : p->classifier.config.hidden_size;
}

const char *predict_path(const Predictor *p) {
    return p->path;
}

const char *predict_shard(const Predictor *p) {
    return p->shard;
}

/* ---- opening ---- */

/* The model's folder, and of a run its shard. */
static ErrCode model_folder(Predictor *p, const char *path, Err *err) {
    bool run;
    TRY(config_folder(&p->path, &run, path, err));
    if (!run) return ERR_OK;
    p->shard = file_join(path, "data.shard");
    if (!p->shard) return err_set(err, ERR_MEMORY, "out of memory for a path");
    if (!file_exists(p->shard)) {
        mem_free(p->shard);
        p->shard = NULL;
    }
    return ERR_OK;
}

static ErrCode read_rule(TokenizerRule *out, const char *dir, int wanted, Err *err) {
    char *path = file_join(dir, "config.json");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    cJSON *root = NULL;
    int64_t most = 512, tokens = 0; /* DebertaV2Config's max_position_embeddings where absent */
    bool plain = true;
    ErrCode rc = json_read(&root, path, err);
    if (rc != ERR_OK) goto done;
    if ((rc = json_get_int(&most, root, "max_position_embeddings", 1, 65536, err)) ||
        (rc = json_get_int(&tokens, root, "router_max_length", 2, 65536, err)) ||
        (rc = json_get_bool(&plain, root, "router_plain_text", err))) {
        rc = err_context(err, rc, "%s", path);
        goto done;
    }
    if (wanted > 0)
        tokens = wanted;
    else if (tokens == 0)
        tokens = most < PREDICT_MAX_TOKENS ? most : PREDICT_MAX_TOKENS;
    if (tokens > most || tokens < 2) {
        rc = err_set(err, ERR_ARGUMENT, "%s: a maximum length of %d tokens, expected 2 to %d", path,
                     (int)tokens, (int)most);
        goto done;
    }
    *out = (TokenizerRule){.plain = plain, .max_tokens = (int)tokens};
done:
    cJSON_Delete(root);
    mem_free(path);
    return rc;
}

static ErrCode read_decide(Predictor *p, const char *dir, Err *err) {
    char *path = file_join(dir, "config.json");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    cJSON *root = NULL;
    ErrCode rc = json_read(&root, path, err);
    if (rc == ERR_OK) {
        rc = decide_json_read(&p->decide, root, p->labels, p->K, err);
        if (rc != ERR_OK) rc = err_context(err, rc, "%s", path);
    }
    cJSON_Delete(root);
    mem_free(path);
    return rc;
}

static ErrCode open_folder(Predictor *p, const char *path, const PredictRule *rule, Err *err) {
    TRY(model_folder(p, path, err));
    const char *dir = p->path;
    ErrCode rc = read_rule(&p->rule, dir, rule->max_tokens, err);
    if (rc == ERR_OK) rc = tokenizer_open(&p->tokenizer, dir, err);
    if (rc == ERR_OK)
        rc = classifier_open(&p->classifier, dir, rule->backend ? rule->backend : "auto", p->rule.max_tokens,
                             p->threads, err);
    const Config *config = &p->classifier.config;
    /* As plain text, [MASK] is never produced: it may lie behind the last embedding. */
    const bool no_mask = rc == ERR_OK && p->rule.plain &&
                         tokenizer_specials(p->tokenizer).mask == tokenizer_ids(p->tokenizer) - 1;
    if (rc == ERR_OK && tokenizer_ids(p->tokenizer) - no_mask > config->vocab_size)
        rc = err_set(err, ERR_FORMAT, "%s: spm.model makes ids up to %d, but the model knows only %d", dir,
                     tokenizer_ids(p->tokenizer) - 1, config->vocab_size);
    if (rc == ERR_OK && config->num_labels < 2)
        rc = err_set(err, ERR_ARGUMENT, "%s: a model with %d label, expected at least 2", dir,
                     config->num_labels);
    if (rc == ERR_OK) {
        p->K = config->num_labels;
        p->labels = (const char *const *)config->labels;
        rc = read_decide(p, dir, err);
    }
    return rc;
}

static const char *metadata(const void *router, const char *key) {
    return router_metadata(router, key);
}

static ErrCode open_blob(Predictor *p, const char *path, const PredictRule *rule, Err *err) {
    p->path = mem_strdup(path);
    if (!p->path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const RouterOptions options = {.max_tokens = rule->max_tokens};
    char message[ROUTER_ERROR_BYTES];
    const int rc = router_open(&p->router, path, &options, message, sizeof message);
    if (rc != ROUTER_OK) return err_set(err, (ErrCode)rc, "%s", message);
    p->K = router_label_count(p->router);
    const char **labels;
    TRY(mem_new(&labels, (size_t)p->K, sizeof *labels, "the labels", err));
    for (int k = 0; k < p->K; k++) labels[k] = router_label(p->router, k);
    p->labels = p->blob_labels = labels;
    return blob_rule_read(&p->decide, metadata, p->router, labels, p->K, err);
}

PredictRule predict_options_rule(const PredictOptions *options) {
    return (PredictRule){.backend = options->backend,
                         .max_tokens = (int)options->max_length,
                         .batch_rows = (int)options->batch};
}

ErrCode predict_open(Predictor **out, const char *path, const PredictRule *rule, Threads *threads, Err *err) {
    *out = NULL;
    Predictor *p;
    TRY(mem_new(&p, 1, sizeof *p, "the model", err));
    p->threads = threads;
    p->group = rule->batch_rows > 0 ? (size_t)rule->batch_rows : GROUP_ROWS;
    const ErrCode rc = file_is_dir(path) ? open_folder(p, path, rule, err) : open_blob(p, path, rule, err);
    if (rc == ERR_OK)
        *out = p;
    else
        predict_close(p);
    return rc;
}

void predict_close(Predictor *p) {
    if (!p) return;
    for (size_t i = 0; i < p->job_count; i++) buf_free(&p->jobs[i].ids);
    mem_free(p->jobs);
    mem_free(p->blob_labels);
    mem_free(p->path);
    mem_free(p->shard);
    decide_free(&p->decide);
    router_close(p->router);
    classifier_close(&p->classifier);
    tokenizer_close(p->tokenizer);
    mem_free(p);
}

/* ---- on disk ---- */

static ErrCode add_size(uint64_t *sum, const char *path, Err *err) {
    File file = {0};
    TRY(file_open(&file, path, err));
    *sum += file.size;
    file_close(&file);
    return ERR_OK;
}

static ErrCode folder_bytes(uint64_t *sum, const char *dir, Err *err) {
    char **names = NULL;
    size_t count = 0;
    TRY(file_list(&names, &count, dir, err));
    ErrCode rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        char *path = file_join(dir, names[i]);
        if (!path) rc = err_set(err, ERR_MEMORY, "out of memory for a path");
        if (rc == ERR_OK && !file_is_dir(path)) rc = add_size(sum, path, err);
        mem_free(path);
    }
    file_list_free(names, count);
    return rc;
}

ErrCode predict_bytes(uint64_t *bytes, const Predictor *p, Err *err) {
    *bytes = 0;
    return p->router ? add_size(bytes, p->path, err) : folder_bytes(bytes, p->path, err);
}

/* ---- a blob ---- */

typedef struct {
    Router *router;
    size_t K, width, most; /* most: tokens of a text */
    float *logits, *vectors;
    int32_t *ids; /* (threads, most) */
    PredictSeen *seen;
    const RowText *texts;
    Err *errors;    /* (threads): of the thread's first failing text */
    size_t *failed; /* (threads): that text, or SIZE_MAX */
} BlobTask;

static void blob_text(void *arg, size_t i, int thread) {
    const BlobTask *t = arg;
    int32_t *ids = t->ids + (size_t)thread * t->most;
    float *logits = t->logits + i * t->K;
    char message[ROUTER_ERROR_BYTES];
    size_t count = 0;
    int truncated;
    int rc = router_encode(t->router, t->texts[i].text, t->texts[i].n, ids, t->most, &count, &truncated,
                           message, sizeof message);
    if (rc == ROUTER_OK && t->vectors)
        rc = router_pooled(t->router, ids, count, logits, t->vectors + i * t->width, message, sizeof message);
    else if (rc == ROUTER_OK)
        rc = router_logits(t->router, ids, count, logits, message, sizeof message);
    if (rc == ROUTER_OK) {
        if (t->seen) t->seen[i] = (PredictSeen){(int)count, truncated != 0};
    } else if (i < t->failed[thread]) {
        t->failed[thread] = i;
        (void)err_set(&t->errors[thread], (ErrCode)rc, "%s", message);
    }
}

/* The library would share a batch among threads of its own; the program's one pool does it instead. */
static ErrCode blob_batch(Predictor *p, float *logits, float *vectors, PredictSeen *seen,
                          const RowText *texts, size_t count, Err *err) {
    const size_t threads = (size_t)threads_count(p->threads);
    BlobTask t = {.router = p->router,
                  .K = (size_t)p->K,
                  .width = (size_t)router_width(p->router),
                  .most = (size_t)router_max_tokens(p->router),
                  .logits = logits,
                  .vectors = vectors,
                  .seen = seen,
                  .texts = texts};
    ErrCode rc = mem_new(&t.ids, threads * t.most, sizeof *t.ids, "token ids", err);
    if (rc == ERR_OK) rc = mem_new(&t.errors, threads, sizeof *t.errors, "messages", err);
    if (rc == ERR_OK) rc = mem_new(&t.failed, threads, sizeof *t.failed, "messages", err);
    if (rc == ERR_OK) {
        for (size_t i = 0; i < threads; i++) t.failed[i] = SIZE_MAX;
        threads_run(p->threads, blob_text, &t, count);
        size_t first = 0;
        for (size_t i = 1; i < threads; i++)
            if (t.failed[i] < t.failed[first]) first = i;
        if (t.failed[first] != SIZE_MAX) {
            rc = t.errors[first].code;
            (void)err_set(err, rc, "text %zu: %s", t.failed[first] + 1, t.errors[first].msg);
        }
    }
    mem_free(t.ids);
    mem_free(t.errors);
    mem_free(t.failed);
    return rc;
}

/* ---- a folder ---- */

static ErrCode grow_jobs(Predictor *p, size_t count, Err *err) {
    if (count <= p->job_count) return ERR_OK;
    TokenizerJob *jobs = mem_resize(p->jobs, count, sizeof *jobs);
    if (!jobs) return err_set(err, ERR_MEMORY, "out of memory for %zu texts", count);
    for (size_t i = p->job_count; i < count; i++) jobs[i] = (TokenizerJob){0};
    p->jobs = jobs;
    p->job_count = count;
    return ERR_OK;
}

static ErrCode folder_batch(Predictor *p, float *logits, float *vectors, PredictSeen *seen,
                            const RowText *texts, size_t count, Err *err) {
    const int32_t **ids = NULL;
    int *lengths = NULL;
    ErrCode rc = grow_jobs(p, count, err);
    if (rc == ERR_OK) rc = mem_new(&ids, count, sizeof *ids, "token ids", err);
    if (rc == ERR_OK) rc = mem_new(&lengths, count, sizeof *lengths, "token ids", err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        p->jobs[i].text = texts[i].text;
        p->jobs[i].n = texts[i].n;
    }
    if (rc == ERR_OK) rc = tokenizer_encode_all(p->tokenizer, &p->rule, p->jobs, count, p->threads, err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        ids[i] = (const int32_t *)(const void *)p->jobs[i].ids.data;
        lengths[i] = (int)(p->jobs[i].ids.len / sizeof(int32_t));
    }
    if (rc == ERR_OK) rc = classifier_pooled(&p->classifier, logits, vectors, ids, lengths, count, err);
    for (size_t i = 0; rc == ERR_OK && seen && i < count; i++)
        seen[i] = (PredictSeen){lengths[i], p->jobs[i].whole > (size_t)lengths[i]};
    mem_free(ids);
    mem_free(lengths);
    return rc;
}

/* ---- both ---- */

ErrCode predict_logits(Predictor *p, float *logits, float *vectors, PredictSeen *seen, const RowText *texts,
                       size_t count, Err *err) {
    if (count == 0) return ERR_OK;
    return (p->router ? blob_batch : folder_batch)(p, logits, vectors, seen, texts, count, err);
}

ErrCode predict_batch(Predictor *p, double *probabilities, PredictSeen *seen, const RowText *texts,
                      size_t count, Err *err) {
    const size_t K = (size_t)p->K;
    float *logits;
    TRY(mem_new(&logits, count + 1, K * sizeof *logits, "logits", err));
    const ErrCode rc = predict_logits(p, logits, NULL, seen, texts, count, err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++)
        (void)decide_probabilities(probabilities + i * K, logits + i * K, p->K, &p->decide);
    mem_free(logits);
    return rc;
}

typedef struct {
    Predictor *p;
    double *probabilities; /* or */
    float *logits, *vectors;
    PredictSeen *seen;
    const RowText *texts;
} All;

static ErrCode group(const All *a, size_t at, size_t n, Err *err) {
    const size_t K = (size_t)a->p->K, width = (size_t)predict_width(a->p);
    PredictSeen *seen = a->seen ? a->seen + at : NULL;
    if (a->probabilities) return predict_batch(a->p, a->probabilities + at * K, seen, a->texts + at, n, err);
    float *vectors = a->vectors ? a->vectors + at * width : NULL;
    return predict_logits(a->p, a->logits + at * K, vectors, seen, a->texts + at, n, err);
}

static ErrCode in_groups(const All *a, size_t count, const char *what, Err *err) {
    const size_t most = a->p->group;
    Progress progress;
    progress_begin(&progress, what, count, 0);
    const double started = progress_clock();
    ErrCode rc = ERR_OK;
    for (size_t at = 0; rc == ERR_OK && at < count;) {
        const size_t n = count - at < most ? count - at : most;
        rc = group(a, at, n, err);
        at += n;
        if (progress_due(&progress))
            progress_update(&progress, at, "%.1f rows/s", (double)at / (progress_clock() - started));
        if (rc == ERR_OK && at < count && stop_requested())
            rc = err_set(err, ERR_INTERRUPTED, "stopped after %zu of %zu rows", at, count);
    }
    progress_end(&progress);
    return rc;
}

ErrCode predict_all(Predictor *p, double *probabilities, PredictSeen *seen, const RowText *texts,
                    size_t count, const char *what, Err *err) {
    const All all = {.p = p, .probabilities = probabilities, .seen = seen, .texts = texts};
    return in_groups(&all, count, what, err);
}

ErrCode predict_all_logits(Predictor *p, float *logits, float *vectors, PredictSeen *seen,
                           const RowText *texts, size_t count, const char *what, Err *err) {
    const All all = {.p = p, .logits = logits, .vectors = vectors, .seen = seen, .texts = texts};
    return in_groups(&all, count, what, err);
}
