#include "eval/answers.h"

#include <string.h>

#include "core/file.h"
#include "core/mem.h"

ErrCode answers_open(Answers *out, const char *path, const PredictRule *rule, Threads *threads, Err *err) {
    *out = (Answers){.path = path};
    bool file = false;
    if (!file_is_dir(path)) TRY(predictions_recognise(&file, path, err));
    ErrCode rc = file ? predictions_read(&out->predictions, path, err)
                      : predict_open(&out->predictor, path, rule, threads, err);
    if (rc == ERR_OK && !file) rc = predict_bytes(&out->bytes, out->predictor, err);
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
