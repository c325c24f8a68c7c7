/* train/ckpt.h - a run folder on disk.
 *
 *   RUN/train_config.json    the effective options
 *   RUN/data.shard           the corpus as tokens (data/shard.h)
 *   RUN/metrics.jsonl        one line per report; RUN/events.out.tfevents.*: the same for TensorBoard
 *   RUN/model-best/          Hugging Face folder of the best dev evaluation
 *   RUN/model-last/          Hugging Face folder of the last saved step, and beside the model what continues it:
 *     optimizer.safetensors    "m.NAME" and "v.NAME" F32 per weight; for the word embedding "word.ids" I32 (rows),
 *                              "word.m", "word.v" F32 (rows, H): rows that were ever touched, the others are 0
 *     trainer_state.json       step, and the other fields of CkptState
 *   RUN/base_embeddings.safetensors
 *                            the word embedding before the first step, where it did not come from a seed: untouched
 *                            rows continue from these bits and `decay`, not from the rounded saved rows
 *
 * A folder is written beside its place and renamed into it, so that at any moment (kill -9, full disk) the old one or
 * the new one is there. The Hugging Face part is config.json, model.safetensors, spm.model, tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, README.md (model card). */
#ifndef TRAIN_CKPT_H
#define TRAIN_CKPT_H

#include <stdbool.h>

#include "core/err.h"
#include "tokenizer/tokenizer.h"
#include "train/adamw.h"

typedef struct {
    int64_t step, total_steps; /* done, planned */
    uint64_t epoch, batch;     /* the next batch is number `batch` of `epoch` */
    int64_t seed;
    double best_metric, best_loss; /* of model-best; best_step 0: none yet */
    int64_t best_step, bad_evaluations;
    int64_t metrics_bytes;   /* length of metrics.jsonl at this step: what is behind is cut off on resume */
    char data_digest[65];    /* of the shard's content */
    char teacher_digest[65]; /* Teacher.digest, or empty */
    char backend[16], precision[8]; /* that the run began with */
    double decay;                   /* Adamw.decay */
    double dev_accuracy, dev_loss;  /* of the last evaluation, for the card; NaN: none yet */
} CkptState;

/* What the card and config.json tell beside the model. All borrowed. */
typedef struct {
    const char *base; /* name of what it was fine-tuned from, or NULL */
    int max_tokens;
    bool plain;
    const char *data_digest;
    uint64_t train_rows;
    double dev_accuracy, dev_loss; /* NaN: not measured */
    int64_t step;
    double learning_rate;
    int batch_rows;
    int epochs;
} CkptCard;

/* Writes DIR as a Hugging Face folder. */
ErrCode ckpt_save_model(const char *dir, const Adamw *adamw, const Tokenizer *tokenizer, const CkptCard *card,
                        Err *err) ERR_CHECKED;

/* The same with optimiser and state beside it. */
ErrCode ckpt_save(const char *dir, const Adamw *adamw, const Tokenizer *tokenizer, const CkptCard *card,
                  const CkptState *state, Err *err) ERR_CHECKED;

/* Reads trainer_state.json of DIR; *found is false when there is no such folder. */
ErrCode ckpt_load_state(CkptState *state, bool *found, const char *dir, Err *err) ERR_CHECKED;

/* Weights and moments of DIR into an opened model and optimiser; the word embedding must hold the base rows:
 * the rows that were touched are overwritten, the others stay. */
ErrCode ckpt_load(Adamw *adamw, const CkptState *state, const char *dir, Err *err) ERR_CHECKED;

/* The word embedding before training. */
ErrCode ckpt_save_base(const char *path, const Adamw *adamw, Err *err) ERR_CHECKED;
ErrCode ckpt_load_base(Adamw *adamw, const char *path, Err *err) ERR_CHECKED;

#endif
