#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/mix.h"
#include "model/config.h"
#include "model/ops_blas.h"
#include "model/weights.h"
#include "train/new_tokens.h"

enum { DEV_BATCH = 64 };

/* ---- opening ---- */

static ErrCode run_path(char **out, const Trainer *t, const char *name, Err *err) {
    *out = file_join(t->options->out, name);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
}

static bool is_shard(const char *path) {
    File f;
    char magic[8] = {0};
    if (file_open(&f, path, NULL) != ERR_OK) return false;
    const bool is =
        f.size >= 8 && file_read_at(&f, magic, 0, 8, NULL) == ERR_OK && memcmp(magic, "RSHARD1\n", 8) == 0;
    file_close(&f);
    return is;
}

/* Names of the form LABEL_3 were made up by the library that wrote the file. */
static bool labels_are_named(const Config *c) {
    for (int k = 0; k < c->num_labels; k++)
        if (strncmp(c->labels[k], "LABEL_", 6) != 0) return true;
    return false;
}

/* Mixes what the manifest says into the run's folder, each row once, with its weight; the report is beside it. */
static ErrCode mix_manifest(const Trainer *t, const char *path, const char *out, const char *report,
                            Err *err) {
    Manifest manifest;
    TRY(manifest_read(&manifest, path, err));
    MixReport counts = {0};
    Progress progress = {0};
    Buf json = {0};
    const MixRule rule = {
        .manifest = &manifest, .out = out, .weights = true, .threads = t->threads, .progress = &progress};
    ErrCode rc = mix_write(&counts, &rule, err);
    if (rc == ERR_OK) {
        mix_report_json(&json, &counts, &rule);
        rc = buf_ok(&json, err);
    }
    if (rc == ERR_OK) rc = file_save(report, json.data, json.len, err);
    if (rc == ERR_OK)
        progress_note(NULL, "%s: %llu rows of %llu in %s; what became of the others is in %s", path,
                      (unsigned long long)counts.all.lines, (unsigned long long)counts.all.in, out, report);
    buf_free(&json);
    mix_report_free(&counts);
    manifest_free(&manifest);
    return rc;
}

/* Puts mix.jsonl.zst, mix-2.jsonl.zst ... in the place of manifests. They are made anew by a run that goes on: the same
 * sources give the same bytes, others are refused later by the shard's digest. */
static ErrCode mix_inputs(const Trainer *t, FlagList *inputs, Err *err) {
    int number = 0;
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < inputs->count && rc == ERR_OK; i++) {
        if (!manifest_is(inputs->items[i])) continue;
        char name[32] = "mix", file[64];
        char *out = NULL, *report = NULL;
        if (++number > 1) (void)snprintf(name, sizeof name, "mix-%d", number);
        (void)snprintf(file, sizeof file, "%s.jsonl.zst", name);
        rc = run_path(&out, t, file, err);
        (void)snprintf(file, sizeof file, "%s.json", name);
        if (rc == ERR_OK) rc = run_path(&report, t, file, err);
        if (rc == ERR_OK) rc = mix_manifest(t, inputs->items[i], out, report, err);
        mem_free(report);
        if (rc == ERR_OK) {
            mem_free(inputs->items[i]);
            inputs->items[i] = out;
        } else {
            mem_free(out);
        }
    }
    return rc;
}

/* Where the rule is for the labels of --model: its retired ones get no rows. */
static ErrCode retire_labels(CorpusRule *rule, const Config *c, Err *err) {
    if (!config_has_labels(c, (const char *const *)rule->labels.items, (int)rule->labels.count))
        return ERR_OK;
    for (int k = 0; k < c->taxonomy.count; k++)
        if (c->taxonomy.labels[k].retired)
            TRY(flags_list_add(&rule->retired, c->labels[k], strlen(c->labels[k]), err));
    return ERR_OK;
}

/* A trained classifier's labels stay in their order; otherwise the data's are taken. */
static ErrCode pack_data(Trainer *t, const FlagList *inputs, Err *err) {
    const TrainOptions *o = t->options;
    CorpusRule rule = {0};
    char *path = NULL;
    bool reused = false;
    ErrCode rc = run_path(&path, t, "data.shard", err);
    if (rc == ERR_OK) rc = corpus_rule(&rule, &o->corpus, inputs, err);
    if (rc == ERR_OK && !rule.labels_closed && !t->scratch && labels_are_named(&t->config)) {
        rule.labels_closed = true;
        for (int k = 0; k < t->config.num_labels && rc == ERR_OK; k++)
            rc = flags_list_add(&rule.labels, t->config.labels[k], strlen(t->config.labels[k]), err);
    }
    if (rc == ERR_OK && !t->scratch) rc = retire_labels(&rule, &t->config, err);
    if (rc == ERR_OK) {
        Progress packing;
        progress_begin(&packing, "pack", 0, 0);
        rule.progress = &packing;
        rc = corpus_pack(path, &rule, t->tokenizer, t->threads, &reused, err);
        progress_end(&packing);
    }
    if (rc == ERR_OK) rc = shard_open(&t->shard, path, err);
    corpus_rule_free(&rule);
    mem_free(path);
    return rc;
}

static ErrCode open_data(Trainer *t, const FlagList *arguments, Err *err) {
    const TrainOptions *o = t->options;
    FlagList inputs = {0};
    char *path = NULL;
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < o->data.count && rc == ERR_OK; i++)
        rc = flags_list_add(&inputs, o->data.items[i], strlen(o->data.items[i]), err);
    for (size_t i = 0; i < arguments->count && rc == ERR_OK; i++)
        rc = flags_list_add(&inputs, arguments->items[i], strlen(arguments->items[i]), err);
    if (rc == ERR_OK) rc = run_path(&path, t, "data.shard", err);
    if (rc == ERR_OK) {
        if (inputs.count == 0 && o->resume && file_exists(path))
            rc = shard_open(&t->shard, path, err);
        else if (inputs.count == 0)
            rc = err_set(err, ERR_ARGUMENT, "no data: name JSONL files, or a shard of 'router pack'");
        else if (inputs.count == 1 && is_shard(inputs.items[0])) {
            rc = shard_open(&t->shard, inputs.items[0], err);
            if (rc == ERR_OK && strcmp(inputs.items[0], path) != 0)
                rc = file_copy(path, inputs.items[0], err);
        } else {
            rc = mix_inputs(t, &inputs, err);
            if (rc == ERR_OK) rc = pack_data(t, &inputs, err);
        }
    }
    flags_list_free(&inputs);
    mem_free(path);
    if (rc != ERR_OK) return rc;
    const ShardInfo *info = shard_info(t->shard);
    if (strcmp(info->tokenizer_digest, tokenizer_digest(t->tokenizer)) != 0)
        return err_set(err, ERR_ARGUMENT,
                       "the shard was packed with another tokenizer (digest %.12s, this model's is %.12s)",
                       info->tokenizer_digest, tokenizer_digest(t->tokenizer));
    if (info->label_count < 2)
        return err_set(err, ERR_ARGUMENT, "the data has %d label%s, a router needs at least 2",
                       info->label_count, info->label_count == 1 ? "" : "s");
    if (shard_rows(t->shard, SPLIT_TRAIN) == 0)
        return err_set(err, ERR_ARGUMENT, "the data has no train rows");
    if (info->skipped) progress_note(NULL, "skipped %llu bad rows", (unsigned long long)info->skipped);
    for (size_t i = 0; i < info->message_count; i++) progress_note(NULL, "  %s", info->messages[i]);
    return ERR_OK;
}

/* --model is a folder with weights, or a config.json (file or folder without weights): then training is from
 * scratch. */
static ErrCode open_config(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    TRY(config_read(&t->config, o->model, err));
    static const char *const WEIGHTS[] = {"model.safetensors", "model.safetensors.index.json",
                                          "pytorch_model.bin", "pytorch_model.bin.index.json"};
    t->scratch = true;
    for (size_t i = 0; i < 4 && t->scratch && file_is_dir(o->model); i++) {
        char *path = file_join(o->model, WEIGHTS[i]);
        if (!path) return err_set(err, ERR_MEMORY, "out of memory");
        t->scratch = !file_exists(path);
        mem_free(path);
    }
    if (!o->tokenizer && !file_is_dir(o->model))
        return err_set(err, ERR_ARGUMENT,
                       "--tokenizer: expected a spm.model, because --model %s is no folder that holds one",
                       o->model);
    TRY(tokenizer_open(&t->tokenizer, o->tokenizer ? o->tokenizer : o->model, err));
    const int ids = tokenizer_ids(t->tokenizer);
    if (t->scratch) t->config.vocab_size = (ids + 7) / 8 * 8;
    if (t->config.vocab_size < ids)
        return err_set(err, ERR_ARGUMENT, "%s: vocab_size is %d, but the tokenizer produces ids up to %d",
                       o->model, t->config.vocab_size, ids - 1);
    if (o->dropout >= 0)
        t->config.hidden_dropout_prob = t->config.attention_probs_dropout_prob = t->config.cls_dropout =
            o->dropout;
    if (o->freeze_layers > t->config.num_hidden_layers)
        return err_set(err, ERR_ARGUMENT,
                       "freeze_layers: found %lld, but the model's num_hidden_layers is %d",
                       (long long)o->freeze_layers, t->config.num_hidden_layers);
    if (o->corpus.max_length > t->config.max_position_embeddings)
        return err_set(err, ERR_ARGUMENT,
                       "max_length: found %lld, but the model's max_position_embeddings is %d",
                       (long long)o->corpus.max_length, t->config.max_position_embeddings);
    return ERR_OK;
}

/* "LABEL=X" with a label of the data; -1: it is something else. */
static int label_value(double *value, const Trainer *t, const char *text) {
    const char *equals = strrchr(text, '=');
    char *end = NULL;
    if (!equals) return -1;
    *value = strtod(equals + 1, &end);
    if (end == equals + 1 || *end) return -1;
    for (int k = 0; k < t->config.num_labels; k++)
        if (strlen(t->config.labels[k]) == (size_t)(equals - text) &&
            strncmp(t->config.labels[k], text, (size_t)(equals - text)) == 0)
            return k;
    return -1;
}

/* "balanced": rows / (K * rows of the label), over the train rows; or label=weight, others 1. */
static ErrCode class_weights(Trainer *t, Err *err) {
    const FlagList *given = &t->options->class_weights;
    const int K = t->config.num_labels;
    TRY(mem_new(&t->class_weight, (size_t)K, sizeof(float), "class weights", err));
    for (int k = 0; k < K; k++) t->class_weight[k] = 1;
    for (size_t i = 0; i < given->count; i++) {
        const char *text = given->items[i];
        if (strcmp(text, "balanced") == 0) {
            for (int k = 0; k < K; k++) {
                const double rows = (double)shard_label_rows(t->shard, SPLIT_TRAIN, k);
                if (rows > 0)
                    t->class_weight[k] = (float)((double)shard_rows(t->shard, SPLIT_TRAIN) / (K * rows));
            }
            continue;
        }
        double w = 0;
        const int k = label_value(&w, t, text);
        if (k < 0 || !(w > 0 && w <= 1e6))
            return err_set(
                err, ERR_ARGUMENT,
                "class_weights: found '%s', expected 'balanced' or LABEL=WEIGHT with a label of the data",
                text);
        t->class_weight[k] = (float)w;
    }
    return ERR_OK;
}

/* Different tokens in the train rows: what the optimiser must have room for. */
static ErrCode count_tokens(const Trainer *t, int *count, Err *err) {
    unsigned char *seen;
    TRY(mem_new(&seen, (size_t)t->config.vocab_size, 1, "the vocabulary", err));
    ShardBlock block = {0};
    ErrCode rc = ERR_OK;
    *count = 0;
    for (size_t b = 0; b < shard_blocks(t->shard, SPLIT_TRAIN) && rc == ERR_OK; b++) {
        rc = shard_read(t->shard, &block, SPLIT_TRAIN, b, false, err);
        for (size_t r = 0; rc == ERR_OK && r < block.count; r++)
            for (int i = 0; i < block.rows[r].tokens; i++) {
                const int32_t id = block.rows[r].ids[i];
                if (id < 0 || id >= t->config.vocab_size) {
                    rc = err_set(err, ERR_FORMAT, "the shard holds token %d, but vocab_size is %d", id,
                                 t->config.vocab_size);
                    break;
                }
                *count += !seen[id];
                seen[id] = 1;
            }
    }
    shard_block_free(&block);
    mem_free(seen);
    return rc;
}

/* What is frozen is not boosted. */
static ErrCode boost_words(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    int tokens = 0;
    if (o->new_token_rate == 1 || o->freeze_layers >= 0) return ERR_OK;
    TRY(mem_new(&t->boosts, (size_t)t->config.vocab_size, sizeof *t->boosts, "the vocabulary", err));
    TRY(new_tokens_boost(t->boosts, &tokens, t->shard, &t->config, o->new_token_rate, err));
    progress_note(NULL, "%d tokens of new labels learn at %g times the rate", tokens, o->new_token_rate);
    t->adamw.boosts = t->boosts;
    return ERR_OK;
}

static void name_backend(CkptState *state, const Ops *ops) {
    (void)snprintf(state->backend, sizeof state->backend, "%s", ops->name);
    (void)snprintf(state->precision, sizeof state->precision, "%s", ops->precision);
}

/* A continued run keeps the backend that "auto" was when it began. */
static ErrCode open_backend(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    CkptState saved = {0};
    bool found = false;
    if (o->resume) TRY(ckpt_load_state(&saved, &found, t->last_dir, err));
    const char *backend = found && strcmp(o->backend, "auto") == 0 ? saved.backend : o->backend;
    const char *precision = found && strcmp(o->precision, "auto") == 0 ? saved.precision : o->precision;
    const ErrCode rc = ops_open(&t->ops, backend, precision, t->threads, err);
    if (rc == ERR_BACKEND && found)
        return err_context(
            err, rc,
            "the run in %s began on backend %s in %s: continue it where it began, or begin anew with "
            "--overwrite",
            o->out, saved.backend, saved.precision);
    if (rc != ERR_OK) return rc;
    name_backend(&t->state, &t->ops);
    return ERR_OK;
}

/* The data's labels. Where they are the model's, its taxonomy goes on, and a shard that was packed before may have no
 * rows of what it has retired; where not, or from scratch, this is another router. */
static ErrCode set_labels(Trainer *t, Err *err) {
    const ShardInfo *info = shard_info(t->shard);
    Config *c = &t->config;
    if (t->scratch || !config_has_labels(c, info->labels, info->label_count)) {
        if (taxonomy_says(&c->taxonomy))
            progress_note(NULL, "%s: the taxonomy (revision %d) stays behind: %s", t->options->model,
                          c->taxonomy.revision,
                          t->scratch ? "training is from scratch" : "the data's labels are not the model's");
        taxonomy_free(&c->taxonomy);
    }
    TRY(config_set_labels(c, info->labels, info->label_count, err));
    for (int k = 0; k < c->num_labels; k++) {
        uint64_t rows = 0;
        for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) rows += shard_label_rows(t->shard, s, k);
        char shown[84];
        if (c->taxonomy.labels[k].retired && rows)
            return err_set(err, ERR_ARGUMENT,
                           "the shard has %llu rows of the label '%s', which the model has retired "
                           "(router_taxonomy): pack the data without them",
                           (unsigned long long)rows,
                           text_excerpt(shown, 80, c->labels[k], strlen(c->labels[k])));
    }
    return ERR_OK;
}

static ErrCode open_model(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    TRY(set_labels(t, err));
    const int rows = (int)o->batch_size, longest = shard_longest(t->shard);
    const DebertaLimits limits = {
        .micro_tokens = o->micro_batch_tokens > longest ? (int)o->micro_batch_tokens : longest,
        .micro_sequences = rows > DEV_BATCH ? rows : DEV_BATCH,
        .longest = longest,
        .step_tokens = rows * longest,
        .train = true,
        .recompute = o->gradient_checkpointing,
        .frozen = (int)o->freeze_layers + 1};
    TRY(open_backend(t, err));
    int tokens = 0;
    TRY(count_tokens(t, &tokens, err));
    ErrCode rc = deberta_open(&t->model, &t->config, &t->ops, &limits, err);
    if (rc == ERR_OK) rc = adamw_open(&t->adamw, &t->model, tokens + 1, err); /* and [MASK] */
    if (rc == ERR_MEMORY)
        return err_context(err, rc,
                           "a smaller micro_batch_tokens (now %d) or gradient_checkpointing needs less",
                           limits.micro_tokens);
    if (rc != ERR_OK) return rc;
    TRY(boost_words(t, err));
    TRY(mem_new(&t->target, (size_t)(rows > DEV_BATCH ? rows : DEV_BATCH) * (size_t)t->config.num_labels,
                sizeof(float), "targets", err));
    TRY(mem_new(&t->weight, (size_t)(rows > DEV_BATCH ? rows : DEV_BATCH), sizeof(float), "row weights",
                err));
    TRY(mem_new(&t->ids, (size_t)limits.step_tokens, sizeof *t->ids, "a batch", err));
    TRY(class_weights(t, err));
    TRY(mem_new(&t->label_rows, 3 * (size_t)t->config.num_labels, sizeof *t->label_rows, "the labels", err));
    t->label_said = t->label_rows + t->config.num_labels;
    t->label_right = t->label_said + t->config.num_labels;
    size_t count = 0;
    double numbers = 0, learnt = 0;
    ParamView *list = params_list(&t->model.host_weights, &t->config, &count);
    for (size_t i = 0; list && i < count; i++) numbers += (double)param_count(&list[i]);
    mem_free(list);
    for (size_t i = 0; i < t->adamw.tensor_count; i++) learnt += (double)t->adamw.tensors[i].n;
    char part[48] = "";
    if (limits.frozen) (void)snprintf(part, sizeof part, ", of which %.1f M learn", learnt / 1e6);
    progress_note(
        NULL, "model: %d layers of %d, vocabulary %d, %.1f M parameters%s; %.2f GB in memory; backend %s, %s",
        t->config.num_hidden_layers, t->config.hidden_size, t->config.vocab_size, numbers / 1e6, part,
        (double)(deberta_bytes(&t->model) + t->ops.kept_bytes) / 1e9, t->ops.name, t->ops.precision);
    return ERR_OK;
}

static ErrCode initial_weights(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    if (t->scratch) {
        weights_init(&t->model.host_weights, &t->config, (uint64_t)o->corpus.seed);
        deberta_weights_changed(&t->model);
        return ERR_OK;
    }
    WeightsReport report = {0};
    const ErrCode rc =
        weights_load(&t->model.host_weights, &t->config, o->model, (uint64_t)o->corpus.seed, &report, err);
    if (rc == ERR_OK) {
        progress_note(NULL, "weights: %s/%s, %zu tensors initialised, %zu ignored", o->model, report.source,
                      report.initialised.count, report.ignored.count);
        for (size_t i = 0; i < report.initialised.count; i++)
            progress_note(NULL, "  initialised %s", report.initialised.items[i]);
        for (size_t i = 0; i < report.ignored.count; i++)
            progress_note(NULL, "  ignored %s", report.ignored.items[i]);
    }
    weights_report_free(&report);
    deberta_weights_changed(&t->model);
    return rc;
}

/* Steps of all epochs, or max_steps. */
static ErrCode plan_steps(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    t->state.total_steps = o->max_steps;
    for (int64_t e = 0; o->max_steps == 0 && e < o->num_train_epochs; e++) {
        uint64_t count;
        TRY(batch_count(t->batcher, (uint64_t)e, &count, err));
        t->state.total_steps += (int64_t)count;
    }
    t->warmup =
        o->warmup_steps > 0 ? o->warmup_steps : (int64_t)ceil(o->warmup_ratio * (double)t->state.total_steps);
    return ERR_OK;
}

/* metrics.jsonl continues at the byte where the saved step left it. */
static ErrCode open_metrics(Trainer *t, int64_t bytes, Err *err) {
    t->metrics = fopen(t->metrics_path, bytes ? "r+e" : "we");
    if (!t->metrics) return err_set(err, ERR_IO, "%s: cannot open", t->metrics_path);
    if (ftruncate(fileno(t->metrics), (off_t)bytes) != 0 || fseek(t->metrics, 0, SEEK_END) != 0)
        return err_set(err, ERR_IO, "%s: cannot cut at byte %lld", t->metrics_path, (long long)bytes);
    return events_open(&t->events, t->options->out, err);
}

static ErrCode begin_or_resume(Trainer *t, Err *err) {
    const TrainOptions *o = t->options;
    const char *digest = shard_info(t->shard)->content_digest;
    CkptState saved = {0};
    bool found = false;
    if (o->resume) TRY(ckpt_load_state(&saved, &found, t->last_dir, err));
    if (!found) {
        TRY(initial_weights(t, err));
        if (!t->scratch) TRY(ckpt_save_base(t->base_path, &t->adamw, err));
        t->state.seed = o->corpus.seed;
        (void)snprintf(t->state.teacher_digest, sizeof t->state.teacher_digest, "%s", t->teacher.digest);
        (void)snprintf(t->state.data_digest, sizeof t->state.data_digest, "%s", digest);
        t->state.best_metric = -(double)INFINITY;
        return open_metrics(t, 0, err);
    }
    if (strcmp(saved.data_digest, digest) != 0)
        return err_set(err, ERR_ARGUMENT, "%s was trained on other data (content digest %.12s, now %.12s)",
                       o->out, saved.data_digest, digest);
    if (strcmp(saved.teacher_digest, t->teacher.digest) != 0)
        return err_set(err, ERR_ARGUMENT,
                       "--teacher: %s is not the model that the run in %s began with (digest %.12s, then "
                       "%.12s): put that one back, or begin anew with --overwrite",
                       t->teacher.dir ? t->teacher.dir : "none", o->out, t->teacher.digest,
                       saved.teacher_digest);
    if (saved.total_steps != t->state.total_steps)
        return err_set(err, ERR_ARGUMENT, "%s was planned for %lld steps, now there are %lld", o->out,
                       (long long)saved.total_steps, (long long)t->state.total_steps);
    if (t->scratch)
        weights_init(&t->model.host_weights, &t->config, (uint64_t)o->corpus.seed);
    else
        TRY(ckpt_load_base(&t->adamw, t->base_path, err));
    TRY(ckpt_load(&t->adamw, &saved, t->last_dir, err));
    name_backend(&saved, &t->ops);
    t->state = saved;
    t->last_score = (TrainerScore){.loss = saved.dev_loss, .accuracy = saved.dev_accuracy};
    progress_note(NULL, "resumed at step %lld of %lld", (long long)saved.step, (long long)saved.total_steps);
    TRY(batch_seek(t->batcher, saved.epoch, saved.batch, err));
    return open_metrics(t, saved.metrics_bytes, err);
}

/* What a killed run had not finished writing. */
static ErrCode remove_leftovers(const char *dir, Err *err) {
    char **names;
    size_t count;
    TRY(file_list(&names, &count, dir, err));
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        const size_t n = strlen(names[i]);
        if (n < 4 || strcmp(names[i] + n - 4, ".tmp") != 0) continue;
        char *path = file_join(dir, names[i]);
        rc = path ? file_remove_dir(path, err) : err_set(err, ERR_MEMORY, "out of memory");
        mem_free(path);
    }
    file_list_free(names, count);
    return rc;
}

ErrCode trainer_open(Trainer *t, const TrainOptions *options, const FlagList *data, Err *err) {
    *t = (Trainer){.options = options, .last_score = {(double)NAN, (double)NAN, (double)NAN, 0}};
    const TrainOptions *o = options;
    ErrCode rc = file_mkdirs(o->out, err);
    if (rc == ERR_OK) rc = remove_leftovers(o->out, err);
    if (rc == ERR_OK) rc = run_path(&t->best_dir, t, "model-best", err);
    if (rc == ERR_OK) rc = run_path(&t->last_dir, t, "model-last", err);
    if (rc == ERR_OK) rc = run_path(&t->base_path, t, "base_embeddings.safetensors", err);
    if (rc == ERR_OK) rc = run_path(&t->metrics_path, t, "metrics.jsonl", err);
    if (rc == ERR_OK) rc = threads_open(&t->threads, (int)o->threads, err);
    if (rc == ERR_OK && o->pin_threads) rc = threads_pin(t->threads, err);
    if (rc == ERR_OK) rc = open_config(t, err);
    if (rc == ERR_OK && o->teacher) rc = teacher_open(&t->teacher, o->teacher, t->tokenizer, err);
    if (rc == ERR_OK) rc = open_data(t, data, err);
    if (rc == ERR_OK) rc = open_model(t, err);
    if (rc == ERR_OK && o->teacher) rc = teacher_load(&t->teacher, &t->model, err);
    const BatchRule train = {
        .split = SPLIT_TRAIN, .batch_rows = (int)o->batch_size, .seed = (uint64_t)o->corpus.seed};
    const BatchRule dev = {
        .split = SPLIT_DEV, .batch_rows = DEV_BATCH, .ordered = true, .sample = (uint64_t)o->eval_rows};
    if (rc == ERR_OK) rc = batch_open(&t->batcher, t->shard, &train, err);
    if (rc == ERR_OK && shard_rows(t->shard, SPLIT_DEV)) rc = batch_open(&t->dev, t->shard, &dev, err);
    if (rc == ERR_OK) rc = plan_steps(t, err);
    if (rc == ERR_OK) rc = begin_or_resume(t, err);
    if (rc == ERR_OK) {
        t->card = (CkptCard){.base = t->scratch ? NULL : o->model,
                             .max_tokens = shard_info(t->shard)->max_tokens,
                             .plain = o->corpus.plain,
                             .data_digest = t->state.data_digest,
                             .train_rows = shard_rows(t->shard, SPLIT_TRAIN),
                             .learning_rate = o->learning_rate,
                             .batch_rows = (int)o->batch_size,
                             .epochs = (int)o->num_train_epochs};
    } else {
        trainer_close(t);
    }
    return rc;
}

void trainer_close(Trainer *t) {
    batch_close(t->batcher);
    batch_close(t->dev);
    adamw_close(&t->adamw);
    teacher_close(&t->teacher);
    deberta_close(&t->model);
    if (t->ops.close) ops_close(&t->ops);
    config_free(&t->config);
    shard_close(t->shard);
    tokenizer_close(t->tokenizer);
    threads_close(t->threads);
    events_close(&t->events);
    if (t->metrics) (void)fclose(t->metrics);
    mem_free(t->ids);
    mem_free(t->target);
    mem_free(t->weight);
    mem_free(t->boosts);
    mem_free(t->class_weight);
    mem_free(t->label_rows);
    mem_free(t->best_dir);
    mem_free(t->last_dir);
    mem_free(t->base_path);
    mem_free(t->metrics_path);
    *t = (Trainer){0};
}

/* ---- one step ---- */

/* Targets and weights of a batch; returns the sum of the weights. */
static double fill_targets(Trainer *t, const Batch *batch, double smoothing) {
    const int K = t->config.num_labels;
    double sum = 0;
    for (int s = 0; s < batch->packed.S; s++) {
        for (int k = 0; k < K; k++) t->target[s * K + k] = (float)(smoothing / K);
        t->target[s * K + batch->label[s]] += (float)(1 - smoothing);
        t->weight[s] = t->class_weight[batch->label[s]];
        sum += (double)t->weight[s];
    }
    return sum;
}

/* Names up to five rows of the batch, so that the user can look at them. */
static ErrCode blame(const Trainer *t, const Batch *batch, ErrCode rc, const char *what, double value,
                     Err *err) {
    const ShardInfo *info = shard_info(t->shard);
    Buf rows = {0};
    for (int s = 0; s < batch->packed.S && s < 5; s++)
        buf_printf(&rows, "%s%s:%u", s ? ", " : "", info->files[batch->rows[s].file], batch->rows[s].line);
    if (batch->packed.S > 5) buf_printf(&rows, " and %d more", batch->packed.S - 5);
    rc = err_set(err, rc,
                 "step %lld: %s is %g; no weight was changed. Rows of the batch: %s. A lower learning rate "
                 "or more warm-up is the usual cure",
                 (long long)t->state.step + 1, what, value, rows.data ? rows.data : "?");
    buf_free(&rows);
    return rc;
}

/* The batch with tokens replaced, each by a decision of its own; [CLS] and [SEP] stay. */
static void drop_tokens(Trainer *t, Batch *batch) {
    const double share = t->options->token_dropout;
    if (!(share > 0)) return;
    const uint64_t key = rng_key((uint64_t)t->options->corpus.seed, "token dropout", (uint64_t)t->state.step);
    const int32_t mask = tokenizer_specials(t->tokenizer).mask;
    memcpy(t->ids, batch->packed.ids, (size_t)batch->packed.N * sizeof *t->ids);
    for (int s = 0; s < batch->packed.S; s++)
        for (int n = batch->packed.start[s] + 1; n < batch->packed.start[s + 1] - 1; n++)
            if (rng_uniform(key, (uint64_t)n) < share) t->ids[n] = mask;
    batch->packed.ids = t->ids;
}

/* Adds to the micro-batch's gradient what keeps the teacher's answers, and its loss to *sum. The teacher reads the
 * prompts' own tokens: `ids`, where none is dropped. */
static ErrCode keep_answers(Trainer *t, Packed micro, const int32_t *ids, const float *weight, float scale,
                            double *sum, Err *err) {
    const TrainOptions *o = t->options;
    if (!t->teacher.dir) return ERR_OK;
    const real *answers;
    micro.ids = ids;
    const ErrCode rc = teacher_logits(&t->teacher, &answers, &micro, err);
    if (rc != ERR_OK)
        return err_context(err, rc, "step %lld, no weight was changed", (long long)t->state.step + 1);
    *sum += deberta_distill(&t->model, answers, t->teacher.config.num_labels, o->distill_temperature,
                            o->distill_weight, weight, scale);
    return ERR_OK;
}

ErrCode trainer_step(Trainer *t, double *loss, double *norm, bool *end, Err *err) {
    const TrainOptions *o = t->options;
    Deberta *d = &t->model;
    Batch batch;
    TRY(batch_next(t->batcher, &batch, err));
    *end = batch.packed.S == 0;
    if (*end) return ERR_OK;
    const int32_t *ids = batch.packed.ids;
    drop_tokens(t, &batch);
    const double total = fill_targets(t, &batch, o->label_smoothing_factor);
    deberta_begin(d, batch.packed.longest, true,
                  rng_key((uint64_t)o->corpus.seed, "dropout", (uint64_t)t->state.step));
    double kept = 0;
    for (int from = 0, next; from < batch.packed.S; from = next) {
        Packed micro;
        batch_micro(t->batcher, &batch, from, d->limits.micro_tokens, &micro, &next);
        deberta_forward(d, &micro);
        deberta_loss(d, t->target + (size_t)from * (size_t)t->config.num_labels, t->weight + from,
                     (float)(1 / total));
        TRY(keep_answers(t, micro, ids + batch.packed.start[from], t->weight + from, (float)(1 / total),
                         &kept, err));
        deberta_backward(d);
    }
    deberta_end(d);
    const AdamwRule rule = {
        .learning_rate = o->learning_rate * schedule_factor(schedule_find(o->lr_scheduler_type),
                                                            t->state.step, t->warmup, t->state.total_steps),
        .beta1 = o->adam_beta1,
        .beta2 = o->adam_beta2,
        .epsilon = o->adam_epsilon,
        .weight_decay = o->weight_decay,
        .max_grad_norm = o->max_grad_norm,
        .layer_rate_decay = o->layer_rate_decay};
    const ErrCode rc = adamw_step(&t->adamw, &rule, norm, err);
    *loss = (deberta_loss_sum(d) + o->distill_weight * kept) /
            total; /* read at the end, so that a device need not wait before the update */
    t->distill_loss = kept / total;
    if (rc == ERR_NUMERIC && !isfinite(*loss)) return blame(t, &batch, rc, "the loss", *loss, err);
    if (rc == ERR_NUMERIC) return blame(t, &batch, rc, "the gradient's norm", *norm, err);
    if (rc != ERR_OK) return rc;
    t->state.step++;
    t->state.batch++;
    t->rows_seen += (uint64_t)batch.packed.S;
    t->tokens_seen += (uint64_t)batch.packed.N;
    return ERR_OK;
}

/* ---- evaluation ---- */

static ErrCode evaluate(Trainer *t, TrainerScore *out, Err *err) {
    Deberta *d = &t->model;
    const int K = t->config.num_labels;
    double loss = 0, f1 = 0;
    uint64_t right = 0;
    int labels = 0;
    *out = (TrainerScore){0};
    memset(t->label_rows, 0, 3 * (size_t)K * sizeof *t->label_rows);
    TRY(batch_seek(t->dev, 0, 0, err));
    deberta_begin(d, shard_longest(t->shard), false, 0);
    for (;;) {
        Batch batch;
        TRY(batch_next(t->dev, &batch, err));
        if (batch.packed.S == 0) break;
        for (int s = 0; s < batch.packed.S; s++) t->weight[s] = 1;
        memset(t->target, 0, (size_t)batch.packed.S * (size_t)K * sizeof *t->target);
        for (int s = 0; s < batch.packed.S; s++) t->target[s * K + batch.label[s]] = 1;
        for (int from = 0, next; from < batch.packed.S; from = next) {
            Packed micro;
            batch_micro(t->dev, &batch, from, d->limits.micro_tokens, &micro, &next);
            deberta_forward(d, &micro);
            deberta_loss(d, t->target + (size_t)from * (size_t)K, NULL, 1);
            loss += deberta_loss_sum(d);
            const real *logits = deberta_logits(d);
            for (int s = 0; s < micro.S; s++) {
                const float *z = logits + (size_t)s * (size_t)K;
                int best = 0;
                for (int k = 1; k < K; k++) best = z[k] > z[best] ? k : best;
                const int label = batch.label[from + s];
                right += best == label;
                t->label_rows[label]++;
                t->label_said[best]++;
                t->label_right[label] += best == label;
            }
        }
        out->rows += (uint64_t)batch.packed.S;
    }
    TRY(t->ops.sync(&t->ops, err));
    out->loss = loss / (double)out->rows;
    out->accuracy = (double)right / (double)out->rows;
    for (int k = 0; k < K; k++) {
        const uint64_t both = t->label_rows[k] + t->label_said[k];
        if (!both) continue;
        f1 += 2 * (double)t->label_right[k] / (double)both;
        labels++;
    }
    out->macro_f1 = f1 / labels;
    return ERR_OK;
}

/* ---- reports and saves ---- */

static ErrCode flush_metrics(Trainer *t, Err *err) {
    if (fflush(t->metrics) != 0 || ferror(t->metrics)) /* a line that was lost earlier counts as well */
        return err_set(err, ERR_IO, "%s: cannot write", t->metrics_path);
    t->state.metrics_bytes = (int64_t)ftell(t->metrics);
    events_flush(&t->events);
    return ERR_OK;
}

static void report_step(Trainer *t, double loss, double norm, double rate) {
    const int64_t step = t->state.step;
    (void)fprintf(
        t->metrics,
        "{\"step\": %lld, \"epoch\": %llu, \"loss\": %.9g, \"grad_norm\": %.9g, \"learning_rate\": %.9g",
        (long long)step, (unsigned long long)t->state.epoch, loss, norm, rate);
    if (t->teacher.dir) (void)fprintf(t->metrics, ", \"distill_loss\": %.9g", t->distill_loss);
    (void)fprintf(t->metrics, "}\n");
    events_add(&t->events, step, "train/loss", loss);
    if (t->teacher.dir) events_add(&t->events, step, "train/distill_loss", t->distill_loss);
    events_add(&t->events, step, "train/grad_norm", norm);
    events_add(&t->events, step, "train/learning_rate", rate);
}

static ErrCode save_last(Trainer *t, Err *err) {
    TRY(flush_metrics(t, err));
    t->state.decay = t->adamw.decay;
    t->card.step = t->state.step;
    t->card.dev_accuracy = t->state.dev_accuracy = t->last_score.accuracy;
    t->card.dev_loss = t->state.dev_loss = t->last_score.loss;
    return ckpt_save(t->last_dir, &t->adamw, t->tokenizer, &t->card, &t->state, err);
}

static ErrCode evaluate_and_keep(Trainer *t, Err *err) {
    TrainerScore score;
    TRY(evaluate(t, &score, err));
    t->last_score = score;
    const char *chosen = t->options->metric_for_best_model;
    const double metric = strcmp(chosen, "loss") == 0       ? -score.loss
                          : strcmp(chosen, "macro_f1") == 0 ? score.macro_f1
                                                            : score.accuracy;
    (void)fprintf(t->metrics,
                  "{\"step\": %lld, \"dev_loss\": %.9g, \"dev_accuracy\": %.9g, \"dev_macro_f1\": %.9g, "
                  "\"dev_rows\": %llu}\n",
                  (long long)t->state.step, score.loss, score.accuracy, score.macro_f1,
                  (unsigned long long)score.rows);
    events_add(&t->events, t->state.step, "dev/loss", score.loss);
    events_add(&t->events, t->state.step, "dev/accuracy", score.accuracy);
    events_add(&t->events, t->state.step, "dev/macro_f1", score.macro_f1);
    const bool better = t->state.best_step == 0 || metric > t->state.best_metric ||
                        (metric == t->state.best_metric && score.loss < t->state.best_loss);
    progress_note(&t->progress, "step %lld: dev accuracy %.4f, dev loss %.4f%s", (long long)t->state.step,
                  score.accuracy, score.loss, better ? " (best so far)" : "");
    if (!better) {
        t->state.bad_evaluations++;
        return ERR_OK;
    }
    t->state.best_metric = metric;
    t->state.best_loss = score.loss;
    t->state.best_step = t->state.step;
    t->state.bad_evaluations = 0;
    t->card.step = t->state.step;
    t->card.dev_accuracy = score.accuracy;
    t->card.dev_loss = score.loss;
    return ckpt_save_model(t->best_dir, &t->adamw, t->tokenizer, &t->card, err);
}

/* ---- the loop ---- */

static int64_t every(int64_t given, int64_t total, int64_t parts) {
    if (given > 0) return given;
    return total / parts > 0 ? total / parts : 1;
}

static void show(Trainer *t, double loss, double rate) {
    if (!progress_due(&t->progress)) return;
    const double seconds = t->busy_seconds > 0 ? t->busy_seconds : 1e-9;
    char dev[32] = "";
    if (isfinite(t->last_score.accuracy))
        (void)snprintf(dev, sizeof dev, " dev %.4f", t->last_score.accuracy);
    progress_update(&t->progress, (uint64_t)t->state.step,
                    "step %lld/%lld loss %.4f lr %.2e %.1f rows/s %.0f tok/s%s", (long long)t->state.step,
                    (long long)t->state.total_steps, loss, rate, (double)t->rows_seen / seconds,
                    (double)t->tokens_seen / seconds, dev);
}

static ErrCode interrupted(Trainer *t, Err *err) {
    TRY(save_last(t, err));
    return err_set(err, ERR_INTERRUPTED,
                   "interrupted after step %lld of %lld, saved in %s; continue with --resume",
                   (long long)t->state.step, (long long)t->state.total_steps, t->last_dir);
}

/* What follows a step: reports, evaluation, saves. *stop when early stopping says so. */
static ErrCode after_step(Trainer *t, double loss, double norm, bool *stop, Err *err) {
    const TrainOptions *o = t->options;
    const int64_t step = t->state.step, total = t->state.total_steps;
    const double rate = t->adamw.step
                            ? o->learning_rate * schedule_factor(schedule_find(o->lr_scheduler_type),
                                                                 step - 1, t->warmup, total)
                            : 0;
    const bool last = step == total;
    if (step % o->logging_steps == 0 || last) report_step(t, loss, norm, rate);
    show(t, loss, rate);
    const bool evaluating = t->dev && (step % every(o->eval_steps, total, 10) == 0 || last);
    if (evaluating) {
        TRY(evaluate_and_keep(t, err));
        *stop = o->early_stopping_patience > 0 && t->state.bad_evaluations >= o->early_stopping_patience;
    }
    if (o->save_steps > 0 ? step % o->save_steps == 0 : evaluating) TRY(save_last(t, err));
    return ERR_OK;
}

ErrCode trainer_run(Trainer *t, Err *err) {
    ErrCode rc = ERR_OK;
    bool stop = t->options->early_stopping_patience > 0 &&
                t->state.bad_evaluations >= t->options->early_stopping_patience;
    double loss = 0, norm = 0;
    t->started = progress_clock();
    progress_begin(&t->progress, "train", (uint64_t)t->state.total_steps, (uint64_t)t->state.step);
    while (rc == ERR_OK && !stop && t->state.step < t->state.total_steps) {
        bool end = false;
        const double from = progress_clock();
        rc = trainer_step(t, &loss, &norm, &end, err);
        t->busy_seconds += progress_clock() - from;
        if (rc == ERR_NUMERIC) { /* the state is that of the last good step: keep it */
            Err kept = err ? *err : (Err){0};
            if (save_last(t, err) == ERR_OK && err) *err = kept;
            break;
        }
        if (rc == ERR_OK && end) {
            t->state.epoch++;
            t->state.batch = 0;
            rc = batch_seek(t->batcher, t->state.epoch, 0, err);
        } else if (rc == ERR_OK) {
            rc = after_step(t, loss, norm, &stop, err);
        }
        if (rc == ERR_OK && stop_requested() && t->state.step < t->state.total_steps)
            rc = interrupted(t, err);
    }
    progress_end(&t->progress);
    if (rc == ERR_OK) rc = save_last(t, err);
    if (rc == ERR_OK && !t->dev) {
        t->card.step = t->state.step;
        rc = ckpt_save_model(t->best_dir, &t->adamw, t->tokenizer, &t->card, err);
    }
    return rc;
}
