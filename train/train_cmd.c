#include "train/train_cmd.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "model/ops_blas.h"
#include "train/trainer.h"

#define AT(field) offsetof(TrainOptions, field)

static const Flag FLAGS[] = {
    {"data", NULL, FLAG_LIST, AT(data), NULL, 0, 0, "FILE",
     "#Run\nMore inputs, besides the arguments: JSONL (.gz, .zst), a folder, or FILE=WEIGHT."},
    {"model", NULL, FLAG_STRING, AT(model), NULL, 0, 0, "DIR|FILE",
     "A Hugging Face DeBERTa-v3 folder to fine-tune, or a config.json to train from scratch (vocab_size is "
     "then the tokenizer's)."},
    {"tokenizer", NULL, FLAG_STRING, AT(tokenizer), NULL, 0, 0, "PATH",
     "spm.model or a folder that holds it [default: --model]."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "DIR", "The run folder."},
    {"resume", "resume_from_checkpoint", FLAG_BOOL, AT(resume), NULL, 0, 0, NULL,
     "Continue the run in --out where it was saved, to the same bits."},
    {"overwrite", "overwrite_output_dir", FLAG_BOOL, AT(overwrite), NULL, 0, 0, NULL,
     "Begin anew although --out holds a run."},
    {"backend", NULL, FLAG_STRING, AT(backend), "auto", 0, 0, "NAME",
     "Who computes: x86 (own kernels), blas (any processor, fp32), ref (plain and slow), auto, the fastest "
     "of these; cuda (a GPU) or torch (libtorch) where their modules were built."},
    {"precision", NULL, FLAG_CHOICE, AT(precision), "auto", 0, 0, "auto|fp32|tf32|bf16",
     "Numbers that are multiplied; weights, sums and moments are float32 always. auto is bf16 where this "
     "processor "
     "has AMX or AVX512-BF16 and is measured to be faster with it."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU. Results do not depend on it."},
    {"pin_threads", NULL, FLAG_BOOL, AT(pin_threads), NULL, 0, 0, NULL,
     "Keep each thread on a CPU of its own: for machines that do nothing else."},
    {"quiet", NULL, FLAG_BOOL, AT(quiet), NULL, 0, 0, NULL, "No progress."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print the summary as one JSON object."},
    {"num_train_epochs", "epochs", FLAG_INT, AT(num_train_epochs), "1", 1, 10000, NULL,
     "#Recipe\nTimes that each row is seen."},
    {"max_steps", NULL, FLAG_INT, AT(max_steps), "0", 0, 1e9, NULL,
     "Steps in all; 0: as many as the epochs have."},
    {"batch_size", "per_device_train_batch_size", FLAG_INT, AT(batch_size), "32", 1, 4096, NULL,
     "Rows of one step."},
    {"micro_batch_tokens", NULL, FLAG_INT, AT(micro_batch_tokens), "4096", 1, 1 << 20, NULL,
     "Tokens computed at once; bounds memory; the result differs by rounding only."},
    {"gradient_checkpointing", NULL, FLAG_BOOL, AT(gradient_checkpointing), NULL, 0, 0, NULL,
     "Keep of each layer its output alone and compute the rest again for the gradients: less memory, a third "
     "more work, the same bits."},
    {"learning_rate", "lr", FLAG_FLOAT, AT(learning_rate), "1e-5", 0, 1, NULL, "Peak learning rate."},
    {"lr_scheduler_type", NULL, FLAG_CHOICE, AT(lr_scheduler_type), "linear", 0, 0, "linear|cosine|constant",
     "How it falls after the warm-up."},
    {"warmup_ratio", NULL, FLAG_FLOAT, AT(warmup_ratio), "0.06", 0, 1, NULL,
     "Share of the steps over which the rate rises."},
    {"warmup_steps", NULL, FLAG_INT, AT(warmup_steps), "0", 0, 1e9, NULL, "The same in steps, if not 0."},
    {"weight_decay", NULL, FLAG_FLOAT, AT(weight_decay), "0.01", 0, 1, NULL,
     "AdamW's decay, not for biases and LayerNorm."},
    {"adam_beta1", NULL, FLAG_FLOAT, AT(adam_beta1), "0.9", 0, 0.99999, NULL, "AdamW."},
    {"adam_beta2", NULL, FLAG_FLOAT, AT(adam_beta2), "0.999", 0, 0.99999999, NULL, "AdamW."},
    {"adam_epsilon", NULL, FLAG_FLOAT, AT(adam_epsilon), "1e-8", 1e-16, 1, NULL, "AdamW."},
    {"max_grad_norm", NULL, FLAG_FLOAT, AT(max_grad_norm), "1.0", 0, 1e9, NULL,
     "Gradients are clipped to this L2 norm; 0: not."},
    {"label_smoothing_factor", "label_smoothing", FLAG_FLOAT, AT(label_smoothing_factor), "0", 0, 0.9, NULL,
     "Share of the target spread over all labels."},
    {"class_weights", NULL, FLAG_LIST, AT(class_weights), NULL, 0, 0, "balanced|LABEL=W",
     "Weights of the labels in the loss."},
    {"dropout", NULL, FLAG_FLOAT, AT(dropout), "-1", -1, 0.9, NULL,
     "Replaces the config's dropout probabilities; -1: as the config says."},
    {"token_dropout", NULL, FLAG_FLOAT, AT(token_dropout), "0", 0, 0.9, NULL,
     "Share of a training prompt's tokens replaced by [MASK]: keeps a small model from leaning on single "
     "words."},
    {"layer_rate_decay", "llrd", FLAG_FLOAT, AT(layer_rate_decay), "1.0", 0.1, 1, NULL,
     "Each layer below learns at this share of the rate above."},
    {"new_token_rate", NULL, FLAG_FLOAT, AT(new_token_rate), "1", 0.01, 1000, NULL,
     "Embeddings of tokens that occur 4 times as often with labels of the model's last revision as with "
     "older ones learn at so many times the rate."},
    {"freeze_layers", NULL, FLAG_INT, AT(freeze_layers), "-1", -1, 256, NULL,
     "Keep the embeddings, the position table and so many of the lowest layers as they are; all of them "
     "leave "
     "the pooler and the classifier to learn. -1: everything learns."},
    {"teacher", NULL, FLAG_STRING, AT(teacher), NULL, 0, 0, "DIR",
     "A trained router (a run or a Hugging Face folder) whose answers are kept: its labels are the first of "
     "this run's, in order; the loss grows by the divergence from its probabilities over these."},
    {"distill_weight", NULL, FLAG_FLOAT, AT(distill_weight), "1", 0, 100, NULL,
     "Weight of that divergence beside the labels' loss."},
    {"distill_temperature", NULL, FLAG_FLOAT, AT(distill_temperature), "2", 0.01, 100, NULL,
     "Logits of both are divided by it before probabilities are compared."},
    {"logging_steps", NULL, FLAG_INT, AT(logging_steps), "10", 1, 1e9, NULL,
     "#Watching and saving\nSteps between lines of metrics.jsonl."},
    {"eval_steps", NULL, FLAG_INT, AT(eval_steps), "0", 0, 1e9, NULL,
     "Steps between dev evaluations; 0: ten in the run."},
    {"eval_rows", NULL, FLAG_INT, AT(eval_rows), "2000", 0, 1e12, NULL,
     "Dev rows of one evaluation, drawn evenly from all of them; 0: all."},
    {"save_steps", NULL, FLAG_INT, AT(save_steps), "0", 0, 1e9, NULL,
     "Steps between saves of model-last; 0: at each evaluation."},
    {"early_stopping_patience", NULL, FLAG_INT, AT(early_stopping_patience), "0", 0, 1e9, NULL,
     "Stop after so many evaluations without a better one; 0: never."},
    {"metric_for_best_model", NULL, FLAG_CHOICE, AT(metric_for_best_model), "accuracy", 0, 0,
     "accuracy|macro_f1|loss", "What model-best is chosen by, on dev."},
    CORPUS_FLAGS,
};

/* Options that may differ between a run and its continuation. */
static const char *const FREE_KEYS[] = {"resume", "overwrite", "threads", "pin_threads",
                                        "quiet",  "json",      "data",    "out"};

/* --overwrite must not remove what is to be read: the run's folder itself, or what lies in it. */
static ErrCode check_inside(const char *flag, const char *path, const char *out, Err *err) {
    char *above = path ? file_join(path, "..") : NULL;
    if (path && !above) return err_set(err, ERR_MEMORY, "out of memory");
    struct stat run, at;
    bool inside = false;
    for (int i = 0; path && stat(out, &run) == 0 && i < 2; i++)
        inside = inside ||
                 (stat(i ? above : path, &at) == 0 && at.st_dev == run.st_dev && at.st_ino == run.st_ino);
    mem_free(above);
    if (!inside) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "--%s: %s is in the folder %s, which --overwrite empties", flag, path,
                   out);
}

ErrCode train_cmd_remove(const char *dir, Err *err) {
    char **names;
    size_t count;
    TRY(file_list(&names, &count, dir, err));
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        if (strncmp(names[i], "model-", 6) != 0 && strncmp(names[i], "events.out.tfevents.", 20) != 0)
            continue;
        char *path = file_join(dir, names[i]);
        rc = path ? file_remove_dir(path, err) : err_set(err, ERR_MEMORY, "out of memory");
        mem_free(path);
    }
    file_list_free(names, count);
    return rc;
}

/* Whether there is something to lose: a run that was refused at its start has saved no model. */
static ErrCode holds_models(bool *out, const char *dir, Err *err) {
    static const char *const NAMES[] = {"model-last", "model-best"};
    *out = false;
    for (int i = 0; i < 2; i++) {
        char *path = file_join(dir, NAMES[i]);
        if (!path) return err_set(err, ERR_MEMORY, "out of memory");
        *out = *out || file_exists(path);
        mem_free(path);
    }
    return ERR_OK;
}

static ErrCode begin_run(const TrainOptions *o, const FlagList *arguments, Err *err) {
    bool models = false;
    TRY(holds_models(&models, o->out, err));
    char *path = file_join(o->out, "train_config.json");
    cJSON *now = flags_json(&train_cmd, o);
    cJSON *data = now ? cJSON_GetObjectItem(now, "data") : NULL;
    ErrCode rc = path && data ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
    for (size_t i = 0; rc == ERR_OK && i < arguments->count; i++)
        if (!cJSON_AddItemToArray(data, cJSON_CreateString(arguments->items[i])))
            rc = err_set(err, ERR_MEMORY, "out of memory");
    if (rc == ERR_OK && file_exists(path)) {
        if (o->resume)
            rc = flags_compare(now, path, FREE_KEYS, sizeof FREE_KEYS / sizeof *FREE_KEYS, err);
        else if (!o->overwrite && models)
            rc = err_set(err, ERR_ARGUMENT,
                         "%s holds a run already: continue it with --resume, or begin anew with --overwrite",
                         o->out);
    }
    if (rc == ERR_OK && o->overwrite && !o->resume && file_exists(o->out)) {
        rc = check_inside("model", o->model, o->out, err);
        if (rc == ERR_OK) rc = check_inside("teacher", o->teacher, o->out, err);
        if (rc == ERR_OK) rc = train_cmd_remove(o->out, err);
    }
    if (rc == ERR_OK) rc = file_mkdirs(o->out, err);
    if (rc == ERR_OK && !(o->resume && file_exists(path))) rc = json_save(path, now, err);
    cJSON_Delete(now);
    mem_free(path);
    return rc;
}

static void summary(const Trainer *t, FILE *out) {
    const TrainOptions *o = t->options;
    const double seconds = progress_clock() - t->started, busy = t->busy_seconds > 0 ? t->busy_seconds : 1e-9;
    const bool measured = strcmp(t->ops.name, "ref") != 0;
    const OpsBlasMeter meter = measured ? ops_blas_meter(&t->ops) : (OpsBlasMeter){0};
    const char *metric = o->metric_for_best_model;
    const double best = strcmp(metric, "loss") == 0 ? -t->state.best_metric : t->state.best_metric;
    const bool scored = t->state.best_step > 0;
    if (o->json) {
        (void)fprintf(out,
                      "{\"steps\": %lld, \"rows\": %llu, \"tokens\": %llu, \"seconds\": %.3f, "
                      "\"rows_per_second\": %.3f, \"tokens_per_second\": %.1f",
                      (long long)t->state.step, (unsigned long long)t->rows_seen,
                      (unsigned long long)t->tokens_seen, seconds, (double)t->rows_seen / busy,
                      (double)t->tokens_seen / busy);
        if (scored)
            (void)fprintf(out, ", \"best_step\": %lld, \"best_dev_%s\": %.6f", (long long)t->state.best_step,
                          metric, best);
        (void)fprintf(out, "}\n");
        return;
    }
    (void)fprintf(out, "trained %lld steps, %llu rows, %llu tokens in %.1f s: %.1f rows/s, %.0f tokens/s\n",
                  (long long)t->state.step, (unsigned long long)t->rows_seen,
                  (unsigned long long)t->tokens_seen, seconds, (double)t->rows_seen / busy,
                  (double)t->tokens_seen / busy);
    if (measured && meter.seconds > 0)
        (void)fprintf(
            out,
            "matrix products: %.0f %% of the threads' time, %.1f GFLOP/s per thread; other kernels: %s\n",
            100 * meter.seconds / (seconds * threads_count(t->threads)), 1e-9 * meter.flops / meter.seconds,
            meter.kernels);
    if (scored)
        (void)fprintf(out, "best dev %s %.4f at step %lld (dev chose it; 'router eval %s' measures test)\n",
                      metric, best, (long long)t->state.best_step, o->out);
    (void)fprintf(out, "saved %s and %s\n", t->best_dir, t->last_dir);
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const TrainOptions *o = options;
    if (!o->model)
        return err_set(err, ERR_ARGUMENT, "--model: expected a DeBERTa-v3 folder or a config.json");
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected the run folder");
    if (o->dropout < 0 && o->dropout > -1)
        return err_set(err, ERR_ARGUMENT, "dropout: found %g, expected -1 or 0 to 0.9", o->dropout);
    progress_quiet(o->quiet);
    TRY(begin_run(o, arguments, err));
    Trainer t;
    TRY(trainer_open(&t, o, arguments, err));
    const ErrCode rc = trainer_run(&t, err);
    if (rc == ERR_OK && out) summary(&t, out);
    trainer_close(&t);
    return rc;
}

const Command train_cmd = {
    .name = "train",
    .summary = "fine-tune a DeBERTa-v3 router on labelled prompts",
    .usage = "train DATA... --model DIR|CONFIG --out DIR [options]",
    .details =
        "DATA is JSONL (plain, .gz, .zst, '-' for stdin; FILE=2 counts its rows twice), a folder of such "
        "files, a shard of 'router pack', or\n"
        "a manifest of 'router data mix' (MANIFEST.json): it is mixed by weights into OUT/mix.jsonl.zst, its "
        "report "
        "into OUT/mix.json.\n"
        "The defaults are MoDEM's recipe: one epoch, batches of 32, learning rate 1e-5.\n\n"
        "Examples:\n"
        "  router train prompts.jsonl --model deberta-v3-large --out runs/large\n"
        "  router train data/corpus --model configs/model-small.json --tokenizer spm.model --lr 5e-4 "
        "--epochs 8 --out runs/small\n"
        "  router train configs/modem-mix.json --model deberta-v3-base --out runs/modem\n"
        "  router train --config configs/modem-large.json --out runs/large --resume\n\n"
        "Ctrl-C saves and stops (exit status 130); --resume continues to the same bits.\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(TrainOptions),
    .positional_min = 0,
    .positional_max = 100000,
    .takes_config = true,
    .run = run,
};
