#include "train/teacher.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "model/config.h"
#include "model/weights.h"

/* ---- opening ---- */

static ErrCode check_tokenizer(const Teacher *t, const Tokenizer *tokenizer, Err *err) {
    Tokenizer *own;
    TRY(tokenizer_open(&own, t->dir, err));
    ErrCode rc = ERR_OK;
    if (strcmp(tokenizer_digest(own), tokenizer_digest(tokenizer)) != 0)
        rc = err_set(err, ERR_ARGUMENT,
                     "--teacher: %s has another tokenizer (digest %.12s, this run's is %.12s)", t->dir,
                     tokenizer_digest(own), tokenizer_digest(tokenizer));
    tokenizer_close(own);
    return rc;
}

ErrCode teacher_open(Teacher *t, const char *path, const Tokenizer *tokenizer, Err *err) {
    *t = (Teacher){0};
    bool run;
    ErrCode rc = config_folder(&t->dir, &run, path, err);
    if (rc != ERR_OK) return err_context(err, rc, "--teacher");
    rc = config_read(&t->config, t->dir, err);
    if (rc == ERR_OK && t->config.num_labels < 2)
        rc = err_set(err, ERR_ARGUMENT,
                     "--teacher: %s: found a model with %d label%s, expected a trained classifier with at "
                     "least 2",
                     t->dir, t->config.num_labels, t->config.num_labels == 1 ? "" : "s");
    if (rc == ERR_OK) rc = check_tokenizer(t, tokenizer, err);
    if (rc != ERR_OK) teacher_close(t);
    return rc;
}

void teacher_close(Teacher *t) {
    deberta_close(&t->model);
    if (t->ops.close) ops_close(&t->ops);
    config_free(&t->config);
    mem_free(t->dir);
    *t = (Teacher){0};
}

/* ---- loading ---- */

static ErrCode check_student(const Teacher *t, const Deberta *student, Err *err) {
    const Config *own = &t->config, *run = &student->config;
    if (own->num_labels > run->num_labels)
        return err_set(err, ERR_ARGUMENT,
                       "--teacher: %s has %d labels, but this run has %d: expected the first of the run's "
                       "labels, in their order",
                       t->dir, own->num_labels, run->num_labels);
    if (student->limits.longest > own->max_position_embeddings)
        return err_set(err, ERR_ARGUMENT,
                       "--teacher: %s: max_position_embeddings is %d, but the data has prompts of %d tokens",
                       t->dir, own->max_position_embeddings, student->limits.longest);
    for (int k = 0; k < own->num_labels; k++)
        if (strcmp(own->labels[k], run->labels[k]) != 0)
            progress_note(NULL, "teacher: label %d is \"%s\" there and \"%s\" here", k, own->labels[k],
                          run->labels[k]);
    return ERR_OK;
}

static ErrCode load_weights(Teacher *t, Err *err) {
    WeightsReport report = {0};
    ErrCode rc = weights_load(&t->model.host_weights, &t->config, t->dir, 0, &report, err);
    if (rc == ERR_OK && report.initialised.count)
        rc = err_set(err, ERR_ARGUMENT, "%s: the tensor %s is missing: it is not a trained classifier",
                     t->dir, report.initialised.items[0]);
    weights_report_free(&report);
    if (rc == ERR_OK) deberta_weights_changed(&t->model);
    return rc;
}

typedef struct {
    ParamView *list;
    unsigned char (*digest)[SHA256_BYTES]; /* of each tensor */
} Digests;

static void digest_task(void *arg, size_t i, int thread) {
    const Digests *d = arg;
    (void)thread;
    Sha256 s;
    sha256_init(&s);
    sha256_add(&s, d->list[i].data, (size_t)param_count(&d->list[i]) * sizeof(real));
    sha256_end(&s, d->digest[i]);
}

/* Of config.json's meaning and of the digests of all tensors, which threads share. */
static ErrCode take_digest(Teacher *t, Err *err) {
    size_t count = 0;
    cJSON *config = NULL;
    Digests d = {.list = params_list(&t->model.host_weights, &t->config, &count)};
    ErrCode rc = d.list ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    if (rc == ERR_OK) rc = mem_new(&d.digest, count, sizeof *d.digest, "the teacher's digest", err);
    if (rc == ERR_OK) rc = config_json(&config, &t->config, err);
    char *text = rc == ERR_OK ? cJSON_PrintUnformatted(config) : NULL;
    if (rc == ERR_OK && !text) rc = err_set(err, ERR_MEMORY, "out of memory for the teacher's digest");
    if (rc == ERR_OK) {
        threads_run(t->ops.threads, digest_task, &d, count);
        unsigned char digest[SHA256_BYTES];
        Sha256 s;
        sha256_init(&s);
        sha256_add(&s, text, strlen(text));
        sha256_add(&s, d.digest, count * sizeof *d.digest);
        sha256_end(&s, digest);
        sha256_hex(t->digest, digest);
    }
    cJSON_free(text);
    cJSON_Delete(config);
    mem_free(d.digest);
    mem_free(d.list);
    return rc;
}

ErrCode teacher_load(Teacher *t, const Deberta *student, Err *err) {
    const Ops *o = student->ops;
    TRY(check_student(t, student, err));
    const DebertaLimits limits = {.micro_tokens = student->limits.micro_tokens,
                                  .micro_sequences = student->limits.micro_sequences,
                                  .longest = student->limits.longest};
    TRY(ops_open(&t->ops, o->name, o->precision, o->threads, err));
    ErrCode rc = deberta_open(&t->model, &t->config, &t->ops, &limits, err);
    if (rc == ERR_OK) rc = load_weights(t, err);
    if (rc == ERR_OK) rc = take_digest(t, err);
    if (rc != ERR_OK) return err_context(err, rc, "--teacher");
    deberta_begin(&t->model, limits.longest, false, 0); /* once: its position tables stay */
    progress_note(NULL, "teacher: %s, %d of %d labels; %.2f GB in memory", t->dir, t->config.num_labels,
                  student->config.num_labels, (double)(deberta_bytes(&t->model) + t->ops.kept_bytes) / 1e9);
    return ERR_OK;
}

/* ---- answering ---- */

ErrCode teacher_logits(Teacher *t, const real **logits, const Packed *packed, Err *err) {
    for (int n = 0; n < packed->N; n++)
        if (packed->ids[n] >= t->config.vocab_size)
            return err_set(err, ERR_FORMAT, "--teacher: %s: vocab_size is %d, but the data holds token %d",
                           t->dir, t->config.vocab_size, packed->ids[n]);
    deberta_forward(&t->model, packed);
    *logits = deberta_logits(&t->model);
    TRY(t->ops.sync(&t->ops, err));
    const size_t K = (size_t)t->config.num_labels;
    for (size_t i = 0; i < (size_t)packed->S * K; i++)
        if (!isfinite((*logits)[i]))
            return err_set(err, ERR_NUMERIC, "--teacher: %s: logit %zu of a prompt is %g", t->dir, i % K,
                           (double)(*logits)[i]);
    return ERR_OK;
}
