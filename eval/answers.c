#include "eval/answers.h"

#include <string.h>

#include "core/file.h"
#include "core/mem.h"

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

/* Of a blob, or of the folder that predict.h opens: the one given, else a run's model-best, else its model-last. */
static ErrCode model_bytes(uint64_t *sum, const char *path, Err *err) {
    static const char *const NAMES[] = {"config.json", "model-best", "model-last"};
    *sum = 0;
    if (!file_is_dir(path)) return add_size(sum, path, err);
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        char *inside = file_join(path, NAMES[i]);
        if (!inside) return err_set(err, ERR_MEMORY, "out of memory for a path");
        const bool there = file_exists(inside);
        const ErrCode rc = there ? folder_bytes(sum, i ? inside : path, err) : ERR_OK;
        mem_free(inside);
        if (there) return rc;
    }
    return ERR_OK;
}

ErrCode answers_open(Answers *out, const char *path, const PredictRule *rule, Threads *threads, Err *err) {
    *out = (Answers){.path = path};
    bool file = false;
    if (!file_is_dir(path)) TRY(predictions_recognise(&file, path, err));
    ErrCode rc = file ? predictions_read(&out->predictions, path, err)
                      : predict_open(&out->predictor, path, rule, threads, err);
    if (rc == ERR_OK && !file) rc = model_bytes(&out->bytes, path, err);
    if (rc != ERR_OK) answers_close(out);
    return rc;
}

void answers_close(Answers *answers) {
    predict_close(answers->predictor);
    predictions_free(&answers->predictions);
    mem_free(answers->at);
    *answers = (Answers){0};
}

int answers_classes(const Answers *answers) {
    return answers->predictor ? predict_classes(answers->predictor) : (int)answers->predictions.labels.count;
}

const char *const *answers_labels(const Answers *answers) {
    return answers->predictor ? predict_labels(answers->predictor)
                              : (const char *const *)answers->predictions.labels.items;
}

const char *answers_shard(const Answers *answers) {
    return answers->predictor ? predict_shard(answers->predictor) : NULL;
}

const char *answers_kind(const Answers *answers) {
    if (!answers->predictor) return "predictions";
    if (predict_is_blob(answers->predictor)) return "blob";
    return predict_shard(answers->predictor) ? "run folder" : "folder";
}

bool answers_sees(const Answers *answers) {
    return answers->predictor || answers->predictions.truncation;
}

ErrCode answers_match(Answers *answers, const Rows *rows, Err *err) {
    if (answers->predictor) return ERR_OK;
    mem_free(answers->at);
    answers->at = NULL;
    TRY(mem_new(&answers->at, rows->count + 1, sizeof *answers->at, "the predictions", err));
    return predictions_match(answers->at, &answers->predictions, rows, err);
}

ErrCode answers_batch(Answers *answers, double *p, PredictSeen *seen, const RowText *texts, size_t first,
                      size_t count, Err *err) {
    if (answers->predictor) return predict_batch(answers->predictor, p, seen, texts + first, count, err);
    const Predictions *all = &answers->predictions;
    const size_t K = all->labels.count;
    for (size_t i = 0; i < count; i++) {
        const size_t at = answers->at[first + i];
        memcpy(p + i * K, all->p + at * K, K * sizeof *p);
        if (seen) seen[i] = (PredictSeen){.truncated = all->items[at].truncated};
    }
    return ERR_OK;
}

ErrCode answers_all(Answers *answers, double *p, PredictSeen *seen, const RowText *texts, size_t count,
                    const char *what, Err *err) {
    if (answers->predictor) return predict_all(answers->predictor, p, seen, texts, count, what, err);
    return answers_batch(answers, p, seen, texts, 0, count, err);
}
