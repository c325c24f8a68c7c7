#include "eval/add_train.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "train/train_cmd.h"
#include "train/trainer.h"

/* Evaluations on the dev rows, each of which is followed by a save. The rate falls to zero, so that a late one is the best. */
enum { EVALUATIONS = 4 };

/* Options of the parent's run that the child's takes over. Not label smoothing: the parent's answers are soft targets already,
 * and with both a new label is learnt worse. */
static const char *const INHERITED[] = {"learning_rate", "micro_batch_tokens", "gradient_checkpointing",
                                        "weight_decay",  "adam_beta1",         "adam_beta2",
                                        "adam_epsilon",  "max_grad_norm",      "dropout",
                                        "token_dropout", "layer_rate_decay"};

/* "--key=value"; a boolean is "--key" or "--no-key". */
static ErrCode put_option(FlagList *list, const char *key, const cJSON *value, Err *err) {
    Buf text = {0};
    if (cJSON_IsBool(value))
        buf_printf(&text, "--%s%s", cJSON_IsTrue(value) ? "" : "no-", key);
    else if (cJSON_IsString(value))
        buf_printf(&text, "--%s=%s", key, value->valuestring);
    else if (cJSON_IsNumber(value))
        buf_printf(&text, "--%s=%.17g", key, value->valuedouble);
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK && text.len) rc = flags_list_add(list, text.data, text.len, err);
    buf_free(&text);
    return rc;
}

static ErrCode put_text(FlagList *list, Err *err, const char *fmt, ...) ERR_PRINTF(3, 4);
static ErrCode put_text(FlagList *list, Err *err, const char *fmt, ...) {
    char text[4096 + 64];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        return err_set(err, ERR_ARGUMENT, "a path of more than 4096 bytes");
    return flags_list_add(list, text, (size_t)n, err);
}

/* The recipe: the parent's, where it is known, and what this command is told. */
static ErrCode put_recipe(FlagList *list, const AddJob *a, Err *err) {
    cJSON *parent = NULL, *model = NULL;
    char *config = file_join(a->start, "config.json");
    ErrCode rc =
        config ? json_read(&model, config, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (rc == ERR_OK && file_exists(a->parent_config)) rc = json_read(&parent, a->parent_config, err);
    for (size_t i = 0; rc == ERR_OK && parent && i < sizeof INHERITED / sizeof *INHERITED; i++)
        rc = put_option(list, INHERITED[i], cJSON_GetObjectItemCaseSensitive(parent, INHERITED[i]), err);
    const cJSON *length = cJSON_GetObjectItemCaseSensitive(model, "router_max_length");
    const cJSON *plain = cJSON_GetObjectItemCaseSensitive(model, "router_plain_text");
    if (rc == ERR_OK && length) rc = put_option(list, "max_length", length, err);
    if (rc == ERR_OK && plain) rc = put_option(list, "plain", plain, err);
    cJSON_Delete(parent);
    cJSON_Delete(model);
    mem_free(config);
    return rc;
}

static ErrCode put_arguments(FlagList *list, const AddJob *a, Err *err) {
    const AddDomainOptions *o = a->o;
    TRY(put_recipe(list, a, err));
    TRY(put_text(list, err, "--data=%s", a->rows_path));
    TRY(put_text(list, err, "--model=%s", a->start));
    TRY(put_text(list, err, "--out=%s", o->out));
    if (o->distill_weight > 0) TRY(put_text(list, err, "--teacher=%s", predict_path(a->parent)));
    TRY(put_text(list, err, "--distill_weight=%.17g", o->distill_weight));
    TRY(put_text(list, err, "--distill_temperature=%.17g", o->distill_temperature));
    TRY(put_text(list, err, "--new_token_rate=%.17g", o->new_token_rate));
    TRY(put_text(list, err, "--freeze_layers=%lld", (long long)o->freeze_layers));
    TRY(put_text(list, err, "--batch_size=%lld", (long long)o->batch_size));
    TRY(put_text(list, err, "--seed=%lld", (long long)o->seed));
    TRY(put_text(list, err, "--threads=%lld", (long long)o->threads));
    TRY(put_text(list, err, "--near=%.17g", o->near));
    TRY(put_text(list, err, "--metric_for_best_model=macro_f1"));
    TRY(put_text(list, err, "--eval_rows=0"));
    TRY(put_text(list, err, "--eval_steps=%lld",
                 (long long)((a->report.steps + EVALUATIONS - 1) / EVALUATIONS)));
    TRY(put_text(list, err, "--backend=%s", o->backend));
    TRY(put_text(list, err, "--precision=%s", o->precision));
    if (o->learning_rate > 0) TRY(put_text(list, err, "--learning_rate=%.17g", o->learning_rate));
    if (o->micro_batch_tokens)
        TRY(put_text(list, err, "--micro_batch_tokens=%lld", (long long)o->micro_batch_tokens));
    if (o->quiet) TRY(put_text(list, err, "--quiet"));
    return o->resume ? put_text(list, err, "--resume") : ERR_OK;
}

/* The options of `router train`, read as it reads them. */
static ErrCode train_options(TrainOptions *out, FlagList *rest, const AddJob *a, Err *err) {
    FlagList list = {0};
    bool help;
    *out = (TrainOptions){0};
    ErrCode rc = put_arguments(&list, a, err);
    if (rc == ERR_OK) rc = flags_parse(&train_cmd, out, rest, &help, (int)list.count, list.items, err);
    flags_list_free(&list);
    return rc;
}

/* For whoever adds a domain to this one. */
static ErrCode save_recipe(const AddJob *a, const TrainOptions *o, Err *err) {
    cJSON *options = flags_json(&train_cmd, o);
    const ErrCode rc = options ? json_save(a->train_config, options, err)
                               : err_set(err, ERR_MEMORY, "out of memory for the options");
    cJSON_Delete(options);
    return rc;
}

/* Without training: the start is the result, and the rows are packed for whoever measures it. */
static ErrCode keep_start(const AddJob *a, const TrainOptions *o, Err *err) {
    Tokenizer *tokenizer = NULL;
    CorpusRule rule = {0};
    char *shard = file_join(a->o->out, "data.shard");
    bool reused;
    ErrCode rc = shard ? corpus_rule(&rule, &o->corpus, &o->data, err)
                       : err_set(err, ERR_MEMORY, "out of memory for a path");
    rule.labels_closed = true;
    for (int k = 0; rc == ERR_OK && k < a->K; k++)
        rc = flags_list_add(&rule.labels, a->child_labels[k], strlen(a->child_labels[k]), err);
    if (rc == ERR_OK) rc = tokenizer_open(&tokenizer, a->start, err);
    if (rc == ERR_OK) rc = corpus_pack(shard, &rule, tokenizer, a->threads, &reused, err);
    if (rc == ERR_OK) rc = save_recipe(a, o, err);
    if (rc == ERR_OK) rc = grow_copy(a->best, a->start, err);
    tokenizer_close(tokenizer);
    corpus_rule_free(&rule);
    mem_free(shard);
    return rc;
}

ErrCode add_train_run(const AddJob *a, Err *err) {
    TrainOptions o;
    FlagList rest = {0};
    ErrCode rc = train_options(&o, &rest, a, err);
    if (rc == ERR_OK) rc = a->o->head_only ? keep_start(a, &o, err) : train_cmd.run(&o, &rest, NULL, err);
    flags_free(&train_cmd, &o, &rest);
    return rc;
}
