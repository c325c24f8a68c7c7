/* train/trainer.h - fine-tuning: the loop, and all that it needs. trainer.c is the place that knows the order
 * of things.
 *
 * A step takes one batch of rows whatever the memory: it is cut into micro-batches of at most
 * micro_batch_tokens, and each row's loss is divided by the whole batch's weight, so gradients add up to the
 * batch's mean exactly. Everything random is a function of (seed, step, place): two runs are bit-equal, and
 * so are a run and one that was stopped and resumed. After trainer_open a step allocates nothing. */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "core/flags.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/batch.h"
#include "data/corpus.h"
#include "train/ckpt.h"
#include "train/events.h"
#include "train/schedule.h"
#include "train/teacher.h"

/* Options of `router train`; the table in train_cmd.c tells what each is. */
typedef struct {
    CorpusOptions corpus; /* first: see CORPUS_FLAGS */
    FlagList data, class_weights;
    char *model, *tokenizer, *teacher, *out, *backend, *precision, *lr_scheduler_type, *metric_for_best_model;
    int64_t num_train_epochs, max_steps, batch_size, micro_batch_tokens, warmup_steps, threads;
    int64_t logging_steps, eval_steps, eval_rows, save_steps, early_stopping_patience;
    double learning_rate, warmup_ratio, weight_decay, adam_beta1, adam_beta2, adam_epsilon, max_grad_norm;
    double label_smoothing_factor, layer_rate_decay, new_token_rate, dropout, token_dropout;
    double distill_weight, distill_temperature;
    int64_t freeze_layers; /* -1: nothing is frozen */
    bool resume, overwrite, quiet, json, pin_threads, gradient_checkpointing;
} TrainOptions;

typedef struct {
    double loss, accuracy, macro_f1; /* macro_f1: mean over the labels that occur or are answered */
    uint64_t rows;
} TrainerScore;

typedef struct {
    const TrainOptions *options; /* borrowed */
    Threads *threads;
    Ops ops;
    Tokenizer *tokenizer;
    Shard *shard;
    Batcher *batcher, *dev; /* dev NULL: no dev rows */
    Config config;
    Deberta model;
    Teacher teacher; /* zeros: there is none */
    Adamw adamw;
    Events events;
    FILE *metrics;
    CkptState state;
    CkptCard card;
    TrainerScore last_score;
    double distill_loss;    /* of the last step, before its weight: the batch's mean of T^2 KL */
    int32_t *ids;           /* (tokens of a batch) with some replaced by [MASK]: see token_dropout */
    float *target, *weight; /* (rows of a batch, K) and (rows) */
    float *class_weight;    /* (K) */
    float *boosts;          /* (V): see new_token_rate; or NULL */
    uint64_t *label_rows, *label_said, *label_right; /* (K): of the dev evaluation */
    char *best_dir, *last_dir, *base_path, *metrics_path;
    bool scratch; /* weights began from the seed */
    int64_t warmup;
    double started, busy_seconds;    /* busy: in steps, without evaluations */
    uint64_t rows_seen, tokens_seen; /* since `started` */
    Progress progress;
} Trainer;

/* Reads, packs, loads and allocates. `data`: inputs of the command line, behind those of options->data. */
ErrCode trainer_open(Trainer *t, const TrainOptions *options, const FlagList *data, Err *err) ERR_CHECKED;

/* Trains to the end, saving on the way. ERR_INTERRUPTED after a signal and a save; ERR_NUMERIC names the rows
 * of a batch whose loss or gradient was not finite: no weight has changed by then and the last good state is
 * saved. */
ErrCode trainer_run(Trainer *t, Err *err) ERR_CHECKED;

/* One step on the next batch: its mean loss and the gradient's norm; *end at the end of the epoch (nothing
 * done then). */
ErrCode trainer_step(Trainer *t, double *loss, double *norm, bool *end, Err *err) ERR_CHECKED;

void trainer_close(Trainer *t);

#endif
