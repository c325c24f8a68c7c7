/* tests/golden_check.c - compares a backend with golden folders made by the published implementation.
 *
 * usage: golden_check [--backend NAME] [--precision P] [--threads N] [--micro-tokens N] DIR...
 *
 * A folder holds config.json, inputs.safetensors, expected.safetensors, meta.json, and weights in any form
 * that model/weights.h reads, or none: then they come from the formula with meta.json's case_seed and
 * exponents. For each group of tensors the worst error is printed beside its tolerance; the exit status is 1
 * when one is missed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/threads.h"
#include "model/buckets.h"
#include "model/config.h"
#include "model/deberta.h"
#include "model/formula.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "train/adamw.h"

typedef struct {
    const char *dir, *backend, *precision;
    Ops ops;
    Config config;
    Deberta model;
    Adamw adamw;
    cJSON *meta;
    Safetensors expected;
    ParamView *weights, *grads;
    size_t params;
    float *word_grad, *word;
    float *grad_copy; /* of the model's grad_block */ /* (V,H) dense copies */
    int B, padded, N; /* rows of the golden batch, their padded length, real tokens */
    int32_t *ids, *start, *seq;
    int *lengths;
    int64_t *labels;
    float *soft; /* (B,K) or NULL */
    int micro_tokens, failures, groups;
    char group[64], worst_name[200];
    double worst, worst_ratio, limit; /* of the group being compared */
    size_t elements, outside;
    bool all_hidden;                 /* else as training runs: the last layer for first tokens only */
    bool rounds;                     /* activations are in bfloat16: see group_end */
    char tensor[200], rms_name[200]; /* being compared; the worst one */
    double error2, want2, rms;       /* of `tensor`: sums of squares; of `rms_name` */
} Check;

static ErrCode path_of(char **out, const Check *c, const char *name, Err *err) {
    *out = file_join(c->dir, name);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
}

/* ---- groups: worst error against its tolerance ---- */

static void group_begin(Check *c, const char *name) {
    (void)snprintf(c->group, sizeof c->group, "%s", name);
    c->worst = c->worst_ratio = c->limit = 0;
    c->elements = c->outside = 0;
    c->worst_name[0] = c->tensor[0] = c->rms_name[0] = 0;
    c->error2 = c->want2 = c->rms = 0;
}

/* The tensor that was being compared is complete. */
static void tensor_end(Check *c) {
    const double rms = c->error2 > 0 ? sqrt(c->error2 / c->want2) : 0; /* infinite where zeros are wanted */
    if (c->tensor[0] && rms >= c->rms) {
        c->rms = rms;
        (void)snprintf(c->rms_name, sizeof c->rms_name, "%s", c->tensor);
    }
    c->error2 = c->want2 = 0;
}

/* One element; the error divided by its tolerance is what counts. A NaN is infinitely wrong. */
static void group_add(Check *c, const char *name, double got, double want, double tolerance) {
    double error = fabs(got - want);
    if (!(error >= 0)) error = HUGE_VAL;
    c->elements++;
    if (strcmp(c->tensor, name) != 0) {
        tensor_end(c);
        (void)snprintf(c->tensor, sizeof c->tensor, "%s", name);
    }
    c->error2 += error * error;
    c->want2 += want * want;
    if (!(error <= tolerance)) c->outside++;
    const double ratio = tolerance > 0 ? error / tolerance : error > 0 ? HUGE_VAL : 0;
    if (c->worst_name[0] && ratio <= c->worst_ratio) return;
    c->worst_ratio = ratio;
    c->worst = error;
    c->limit = tolerance;
    (void)snprintf(c->worst_name, sizeof c->worst_name, "%s", name);
}

/* With activations in bfloat16 each number of a layer is off by up to 2^-8 of itself, at random, so elements prove
 * little; the root mean square of a tensor's error, relative to that of the tensor, must stay below this many times
 * 2^-8: roundings in a row, amplified by random weights; transformers' own bfloat16 autocast has 21 in the worst tensor of
 * small-a. A wrong term or sign makes it 256. */
static const double RMS_LIMIT = 30.0 / 256;

/* allowed: share of elements that may lie outside. An empty group is a failure: nothing was compared. */
static void group_end(Check *c, double allowed) {
    int ok = c->elements > 0 && (double)c->outside <= allowed * (double)c->elements;
    tensor_end(c);
    if (c->rounds) {
        ok = c->elements > 0 && c->rms <= RMS_LIMIT;
        printf("  %-4s %-34s %10zu values  relative rms error %.2e of %.2e  %s\n", ok ? "ok" : "FAIL",
               c->group, c->elements, c->rms, RMS_LIMIT, c->rms_name);
        c->groups++;
        c->failures += !ok;
        return;
    }
    c->groups++;
    c->failures += !ok;
    printf("  %-4s %-34s %10zu values  worst %.2e of %.2e  outside %zu  %s\n", ok ? "ok" : "FAIL", c->group,
           c->elements, c->worst, c->limit, c->outside, c->worst_name);
}

static const SafetensorsEntry *entry(const Check *c, const char *name) {
    return safetensors_find(&c->expected.header, name);
}

/* The expected tensor as floats, or NULL when the folder has none of that name. Free with mem_free. */
static float *expected(Check *c, const char *name, size_t *n) {
    const SafetensorsEntry *e = entry(c, name);
    *n = 0;
    if (!e) return NULL;
    const size_t count = (size_t)(e->end - e->begin) / tensor_dtype_bytes(e->dtype);
    float *values = mem_alloc(count, sizeof *values);
    if (!values || safetensors_read_f32(&c->expected, e, values, NULL) != ERR_OK) {
        mem_free(values);
        return NULL;
    }
    *n = count;
    return values;
}

/* got[0..n) against the tensor: |error| <= absolute + relative * |want| + of_largest * max |want| */
static void compare(Check *c, const char *name, const float *got, size_t n, double absolute, double relative,
                    double of_largest) {
    size_t count;
    float *want = expected(c, name, &count);
    if (!want) return;
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)want[i]));
    if (count != n) group_add(c, "another size than expected", 1, 0, 0);
    for (size_t i = 0; i < count && i < n; i++)
        group_add(c, name, (double)got[i], (double)want[i],
                  absolute + relative * fabs((double)want[i]) + of_largest * largest);
    mem_free(want);
}

/* ---- inputs and weights ---- */

static ErrCode read_i64(int64_t **out, size_t *n, const Safetensors *st, const char *name, Err *err) {
    const SafetensorsEntry *e = safetensors_find(&st->header, name);
    if (!e || e->dtype != DTYPE_I64) return err_set(err, ERR_FORMAT, "inputs: no I64 tensor %s", name);
    *n = (size_t)(e->end - e->begin) / 8;
    TRY(mem_new(out, *n, 8, name, err));
    return safetensors_read(st, e, *out, err);
}

static ErrCode load_inputs(Check *c, Err *err) {
    char *path;
    TRY(path_of(&path, c, "inputs.safetensors", err));
    Safetensors st;
    ErrCode rc = safetensors_open(&st, path, err);
    mem_free(path);
    if (rc != ERR_OK) return rc;
    int64_t *ids = NULL, *mask = NULL;
    size_t n = 0, labels = 0;
    rc = read_i64(&ids, &n, &st, "input_ids", err);
    if (rc == ERR_OK) rc = read_i64(&mask, &n, &st, "attention_mask", err);
    const SafetensorsEntry *shape = safetensors_find(&st.header, "input_ids");
    if (rc == ERR_OK) {
        c->B = (int)shape->shape[0];
        c->padded = (int)shape->shape[1];
        rc = mem_new(&c->ids, n, sizeof *c->ids, "ids", err);
        if (rc == ERR_OK) rc = mem_new(&c->start, (size_t)c->B + 1, sizeof *c->start, "ids", err);
        if (rc == ERR_OK) rc = mem_new(&c->seq, (size_t)c->B, sizeof *c->seq, "ids", err);
        if (rc == ERR_OK) rc = mem_new(&c->lengths, (size_t)c->B, sizeof *c->lengths, "ids", err);
    }
    for (int b = 0; rc == ERR_OK && b < c->B; b++) {
        c->start[b] = c->N;
        c->seq[b] = b;
        for (int i = 0; i < c->padded; i++)
            if (mask[(size_t)b * (size_t)c->padded + (size_t)i])
                c->ids[c->N++] = (int32_t)ids[(size_t)b * (size_t)c->padded + (size_t)i];
        c->lengths[b] = c->N - c->start[b];
        c->start[b + 1] = c->N;
    }
    if (rc == ERR_OK && safetensors_find(&st.header, "labels"))
        rc = read_i64(&c->labels, &labels, &st, "labels", err);
    const SafetensorsEntry *soft = safetensors_find(&st.header, "soft_labels");
    if (rc == ERR_OK && soft) {
        rc = mem_new(&c->soft, (size_t)(soft->end - soft->begin) / 4, sizeof *c->soft, "soft labels", err);
        if (rc == ERR_OK) rc = safetensors_read_f32(&st, soft, c->soft, err);
    }
    mem_free(ids);
    mem_free(mask);
    safetensors_close(&st);
    return rc;
}

static int ends_with(const char *s, const char *tail) {
    const size_t a = strlen(s), b = strlen(tail);
    return a >= b && strcmp(s + a - b, tail) == 0;
}

static ErrCode load_weights(Check *c, Err *err) {
    static const char *const NAMES[] = {"model.safetensors", "model.safetensors.index.json",
                                        "pytorch_model.bin"};
    for (size_t i = 0; i < 3; i++) {
        char *path;
        TRY(path_of(&path, c, NAMES[i], err));
        const bool there = file_exists(path);
        mem_free(path);
        if (!there) continue;
        TRY(weights_load(&c->model.host_weights, &c->config, c->dir, 1, NULL, err));
        deberta_weights_changed(&c->model);
        return ERR_OK;
    }
    const cJSON *exponents = cJSON_GetObjectItem(c->meta, "exponents");
    int64_t seed = 0, qk = 0, cls = 0, other = 0;
    TRY(json_get_int(&seed, c->meta, "case_seed", 0, INT64_MAX, err));
    TRY(json_get_int(&qk, exponents, "qk", -60, 60, err));
    TRY(json_get_int(&cls, exponents, "cls", -60, 60, err));
    TRY(json_get_int(&other, exponents, "other", -60, 60, err));
    const FormulaRule rule = {(uint64_t)seed, (int)qk, (int)cls, (int)other};
    for (size_t i = 0; i < c->params; i++) formula_fill(&c->weights[i], &rule);
    deberta_weights_changed(&c->model);
    return ERR_OK;
}

/* ---- one step ---- */

/* The whole golden batch, cut into micro-batches of at most micro_tokens. Hidden states are compared while
 * there (compare_hidden). */
static double step(Check *c, const float *target, const float *weight, double divisor, int backward,
                   void (*look)(Check *, int first, const Packed *)) {
    Deberta *d = &c->model;
    int longest = 0;
    for (int b = 0; b < c->B; b++) longest = c->lengths[b] > longest ? c->lengths[b] : longest;
    deberta_begin(d, longest, false, 0);
    for (int from = 0; from < c->B;) {
        int to = from + 1, most = c->lengths[from];
        int32_t start[1024];
        for (; to < c->B && c->start[to + 1] - c->start[from] <= c->micro_tokens && to - from < 1000; to++)
            most = c->lengths[to] > most ? c->lengths[to] : most;
        for (int b = from; b <= to; b++) start[b - from] = c->start[b] - c->start[from];
        const Packed packed = {c->start[to] - c->start[from], to - from, most,
                               c->ids + c->start[from],       start,     c->seq + from};
        deberta_forward(d, &packed);
        if (look) look(c, from, &packed);
        if (target) {
            const size_t K = (size_t)c->config.num_labels;
            deberta_loss(d, target + (size_t)from * K, weight + from, (float)(1 / divisor));
            if (backward) deberta_backward(d);
        }
        from = to;
    }
    if (backward) deberta_end(d);
    return target ? deberta_loss_sum(d) / divisor : 0;
}

static float *seen_logits; /* (B,K), filled by look_logits */

static void look_logits(Check *c, int first, const Packed *packed) {
    const size_t K = (size_t)c->config.num_labels;
    memcpy(seen_logits + (size_t)first * K, deberta_logits(&c->model),
           (size_t)packed->S * K * sizeof *seen_logits);
}

/* Activations (n) as floats; free with mem_free */
static float *read_act(Check *c, const Act *act, size_t n) {
    Ops *o = &c->ops;
    float *x = mem_alloc(n, sizeof *x), *at = o->alloc(o, n * sizeof *x);
    if (x && at) {
        o->widen(o, at, act, n);
        o->get(o, x, at, n * sizeof *x);
    }
    o->release(o, at);
    return x;
}

/* (N,H) */
static float *hidden_state(Check *c, int k) {
    return read_act(c, k ? c->model.layers[k - 1].y : c->model.x0,
                    (size_t)c->model.packed.N * (size_t)c->config.hidden_size);
}

/* rows [B, padded, H] of expected hidden.k, real positions only */
static void look_hidden(Check *c, int first, const Packed *packed) {
    const size_t H = (size_t)c->config.hidden_size;
    look_logits(c, first, packed);
    for (int k = 0; k <= c->config.num_hidden_layers; k++) {
        char name[32];
        size_t n;
        (void)snprintf(name, sizeof name, "hidden.%d", k);
        float *want = expected(c, name, &n), *x = want ? hidden_state(c, k) : NULL;
        for (int s = 0; x && s < packed->S; s++)
            for (int i = packed->start[s]; i < packed->start[s + 1]; i++)
                for (size_t h = 0; h < H; h++) {
                    const size_t at =
                        ((size_t)(first + s) * (size_t)c->padded + (size_t)(i - packed->start[s])) * H + h;
                    group_add(c, name, (double)x[(size_t)i * H + h], (double)want[at],
                              1e-4 + 1e-4 * fabs((double)want[at]));
                }
        mem_free(want);
        mem_free(x);
    }
    size_t n_first, n_last, n_row0;
    float *at_first = expected(c, "hidden_first", &n_first), *at_last = expected(c, "hidden_last", &n_last);
    float *row0 = expected(c, "hidden_final_row0", &n_row0);
    for (int k = 0; at_first && at_last && k <= c->config.num_hidden_layers; k++) {
        float *x = hidden_state(c, k);
        for (int s = 0; x && s < packed->S; s++)
            for (size_t h = 0; h < H; h++) {
                const size_t at = ((size_t)k * (size_t)c->B + (size_t)(first + s)) * H + h;
                group_add(c, "hidden_first, _last", (double)x[(size_t)packed->start[s] * H + h],
                          (double)at_first[at], 1e-4 + 1e-4 * fabs((double)at_first[at]));
                group_add(c, "hidden_first, _last", (double)x[(size_t)(packed->start[s + 1] - 1) * H + h],
                          (double)at_last[at], 1e-4 + 1e-4 * fabs((double)at_last[at]));
            }
        mem_free(x);
    }
    float *final = row0 && first == 0 ? hidden_state(c, c->config.num_hidden_layers) : NULL;
    for (size_t i = 0; final && i < n_row0; i++)
        group_add(c, "hidden_final_row0", (double) final[i], (double)row0[i],
                  1e-4 + 1e-4 * fabs((double)row0[i]));
    mem_free(final);
    mem_free(at_first);
    mem_free(at_last);
    mem_free(row0);
}

static void dense_word_grad(Check *c) {
    const size_t H = (size_t)c->config.hidden_size;
    memset(c->word_grad, 0, (size_t)c->config.vocab_size * H * sizeof *c->word_grad);
    const DebertaTouched *t = &c->model.touched;
    Ops *o = &c->ops;
    for (int i = 0; i < t->count; i++)
        o->get(o, c->word_grad + (size_t)t->ids[i] * H, t->grad + (size_t)i * H, H * sizeof *c->word_grad);
    o->get(o, c->grad_copy, c->model.grad_block, c->model.grad_count * sizeof *c->grad_copy);
}

static const float *gradient(const Check *c, size_t i) {
    return c->grads[i].data ? c->grad_copy + (c->grads[i].data - c->model.grad_block) : c->word_grad;
}

/* grad.* (or soft.grad.*): 1e-3 of the tensor's largest value, as the golden README suggests */
static void compare_gradients(Check *c, const char *prefix) {
    dense_word_grad(c);
    for (size_t i = 0; i < c->params; i++) {
        char name[160];
        (void)snprintf(name, sizeof name, "%s%s", prefix, c->weights[i].name);
        compare(c, name, gradient(c, i), (size_t)param_count(&c->weights[i]), 0, 0, 1e-3);
    }
}

/* Sampled values: element floor(j n / 64), all where n < 64. */
static size_t sample_at(size_t j, size_t n) {
    return n < 64 ? j : j * n / 64;
}

static void compare_samples(Check *c, const char *prefix, int is_gradient, double absolute,
                            double of_largest) {
    for (size_t i = 0; i < c->params; i++) {
        char name[160];
        size_t count;
        const size_t n = (size_t)param_count(&c->weights[i]);
        (void)snprintf(name, sizeof name, "%s%s", prefix, c->weights[i].name);
        float *want = expected(c, name, &count);
        const float *got = is_gradient                                        ? gradient(c, i)
                           : c->weights[i].data == c->model.host_weights.word ? c->word
                                                                              : c->weights[i].data;
        double largest = 0;
        for (size_t j = 0; j < n; j++) largest = fmax(largest, fabs((double)got[j]));
        for (size_t j = 0; want && j < count; j++)
            group_add(c, name, (double)got[sample_at(j, n)], (double)want[j],
                      absolute + of_largest * largest);
        mem_free(want);
    }
}

static void compare_formula_gradients(Check *c) {
    size_t n, rows;
    float *want = expected(c, "grad_word_rows", &n);
    const SafetensorsEntry *e = entry(c, "grad_word_rows_ids");
    const size_t H = (size_t)c->config.hidden_size;
    group_begin(c, "gradient norms");
    for (size_t i = 0; i < c->params; i++) {
        char name[160];
        (void)snprintf(name, sizeof name, "grad_norm.%s", c->weights[i].name);
        double sum = 0;
        for (int64_t j = 0; j < param_count(&c->weights[i]); j++)
            sum += (double)gradient(c, i)[j] * (double)gradient(c, i)[j];
        const float norm = (float)sqrt(sum);
        compare(c, name, &norm, 1, 1e-9, 1e-3, 0);
    }
    group_end(c, 0);
    group_begin(c, "gradient samples");
    compare_samples(c, "grad_sample.", 1, 1e-9, 1e-3);
    group_end(c, 0);
    group_begin(c, "gradients of rows");
    if (want && e && e->dtype == DTYPE_I64) {
        rows = (size_t)(e->end - e->begin) / 8;
        int64_t *ids = mem_alloc(rows, 8);
        double largest = 0;
        for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
        if (ids && safetensors_read(&c->expected, e, ids, NULL) == ERR_OK)
            for (size_t r = 0; r < rows; r++)
                for (size_t h = 0; h < H; h++)
                    group_add(c, "grad_word_rows", (double)c->word_grad[(size_t)ids[r] * H + h],
                              (double)want[r * H + h], 1e-3 * largest);
        mem_free(ids);
    }
    for (size_t i = 0; i < c->params; i++)
        if (ends_with(c->weights[i].name, "rel_embeddings.weight"))
            compare(c, "grad_rel_embeddings", gradient(c, i), (size_t)param_count(&c->weights[i]), 0, 0,
                    1e-3);
    group_end(c, 0);
    mem_free(want);
}

/* ---- AdamW ---- */

static ErrCode optimise(Check *c, const char *run, double lr, int total, int steps, const float *target,
                        const float *weight, double divisor, const cJSON *losses, Err *err) {
    char group[64];
    TRY(load_weights(c, err));
    adamw_close(&c->adamw);
    TRY(adamw_open(&c->adamw, &c->model, c->model.touched.capacity, err));
    (void)snprintf(group, sizeof group, "%s losses", run);
    group_begin(c, group);
    for (int s = 0; s < steps; s++) {
        const double loss = step(c, target, weight, divisor, 1, NULL);
        const cJSON *want = cJSON_GetArrayItem(losses, s);
        /* after steps of lr 1e-3 from random weights the loss amplifies rounding: 1e-4 absolute and relative;
         * the first as elsewhere */
        if (want)
            group_add(c, group, loss, want->valuedouble,
                      s ? 1e-4 + 1e-4 * want->valuedouble : 1e-5 + 1e-5 * want->valuedouble);
        const AdamwRule rule = {lr * (total - s) / total, 0.9, 0.999, 1e-8, 0.01, 1.0, 1.0};
        double norm;
        TRY(adamw_step(&c->adamw, &rule, &norm, err));
        adamw_read(&c->adamw);
        adamw_word(&c->adamw, c->word);
        char prefix[64];
        (void)snprintf(prefix, sizeof prefix, "adamw.%s.step%d.", run, s + 1);
        int any = 0;
        for (size_t i = 0; i < c->params; i++) {
            char name[200];
            (void)snprintf(name, sizeof name, "%s%s", prefix, c->weights[i].name);
            any |= entry(c, name) != NULL;
        }
        if (!any) continue;
        group_end(c, 0);
        group_begin(c, prefix);
        /* 0.02 lr for 99.9 % of the elements: an element whose true gradient is at rounding level may go
         * either way. And half a unit in the last place per step, for a float32 weight is rounded once a
         * step: at lr 1e-5, 0.02 lr is less than one unit of a weight above 2. */
        for (size_t i = 0; i < c->params; i++) {
            char name[200];
            (void)snprintf(name, sizeof name, "%s%s", prefix, c->weights[i].name);
            const float *got =
                c->weights[i].data == c->model.host_weights.word ? c->word : c->weights[i].data;
            compare(c, name, got, (size_t)param_count(&c->weights[i]), 0.02 * lr, (s + 1) * 0x1p-24, 0);
        }
        group_end(c, 1e-3);
        (void)snprintf(group, sizeof group, "%s losses after step %d", run, s + 1);
        group_begin(c, group);
    }
    const cJSON *last = cJSON_GetArrayItem(losses, steps);
    const double final = step(c, target, weight, divisor, 0, look_logits);
    if (last) group_add(c, group, final, last->valuedouble, 1e-4 + 1e-4 * last->valuedouble);
    if (c->elements) group_end(c, 0);
    return ERR_OK;
}

static ErrCode all_optimisers(Check *c, const float *target, const float *weight, double divisor, Err *err) {
    const cJSON *adamw = cJSON_GetObjectItem(c->meta, "adamw"), *runs = cJSON_GetObjectItem(adamw, "runs"),
                *run;
    if (!adamw) return ERR_OK;
    int64_t total = 10, steps = 0;
    double lr = 0;
    TRY(json_get_int(&total, adamw, "total_steps_T", 1, 1000000, err));
    cJSON_ArrayForEach(run, runs) {
        TRY(json_get_int(&steps, adamw, "steps_run", 1, 1000, err));
        TRY(json_get_double(&lr, run, "lr", 0, 1, err));
        TRY(optimise(c, run->string, lr, (int)total, (int)steps, target, weight, divisor,
                     cJSON_GetObjectItem(run, "loss_per_step"), err));
    }
    if (runs) return ERR_OK;
    TRY(json_get_int(&steps, adamw, "steps", 1, 1000, err));
    TRY(json_get_double(&lr, adamw, "lr", 0, 1, err));
    TRY(optimise(c, "adamw", lr, (int)total, (int)steps, target, weight, divisor,
                 cJSON_GetObjectItem(adamw, "loss_per_step_then_final"), err));
    group_begin(c, "logits after AdamW");
    compare(c, "logits_after", seen_logits, (size_t)c->B * (size_t)c->config.num_labels, 1e-3, 1e-3, 0);
    group_end(c, 0);
    group_begin(c, "parameters after AdamW");
    adamw_word(&c->adamw, c->word);
    compare_samples(c, "param_after_sample.", 0, 0.02 * lr, 0);
    group_end(c, 1e-3);
    return ERR_OK;
}

/* ---- one folder ---- */

static void compare_forward(Check *c, double loss, int has_loss) {
    const size_t K = (size_t)c->config.num_labels;
    if (entry(c, "logits")) {
        group_begin(c, "logits");
        compare(c, "logits", seen_logits, (size_t)c->B * K, 1e-4, 1e-4, 0);
        group_end(c, 0);
    }
    if (has_loss) {
        const float value = (float)loss;
        group_begin(c, "loss");
        compare(c, "loss", &value, 1, 1e-5, 1e-5, 0);
        group_end(c, 0);
    }
    size_t n;
    float *rel = expected(c, "rel_embeddings_normed", &n);
    if (rel) {
        group_begin(c, "relative embeddings, normed");
        const size_t H = (size_t)c->config.hidden_size, count = (size_t)c->model.rel_rows * H;
        float *got = read_act(c, c->model.rel, count);
        for (size_t i = 0; got && i < count; i++) {
            const double want = (double)rel[(size_t)c->model.rel_first * H + i];
            group_add(c, "rel_embeddings_normed", (double)got[i], want, 1e-4 + 1e-4 * fabs(want));
        }
        group_end(c, 0);
        mem_free(got);
        mem_free(rel);
    }
    const SafetensorsEntry *e = entry(c, "relative_bucket");
    if (e && e->dtype == DTYPE_I64) {
        const size_t count = (size_t)(e->end - e->begin) / 8;
        int64_t *want = mem_alloc(count, 8);
        group_begin(c, "relative buckets");
        if (want && safetensors_read(&c->expected, e, want, NULL) == ERR_OK)
            for (size_t i = 0; i < count; i++) {
                const int distance = (int)(i / (size_t)e->shape[1]) - (int)(i % (size_t)e->shape[1]);
                group_add(c, "relative_bucket",
                          buckets_of(distance, c->config.position_buckets, c->config.max_relative_positions),
                          (double)want[i], 0);
            }
        group_end(c, 0);
        mem_free(want);
    }
}

static ErrCode run_checks(Check *c, Err *err) {
    const size_t K = (size_t)c->config.num_labels, B = (size_t)c->B;
    float *target = NULL, *weight = NULL, *ones = NULL;
    double divisor = 0;
    ErrCode rc = mem_new(&seen_logits, B * K, sizeof(float), "logits", err);
    if (rc == ERR_OK) rc = mem_new(&target, B * K, sizeof(float), "labels", err);
    if (rc == ERR_OK) rc = mem_new(&weight, B, sizeof(float), "labels", err);
    if (rc == ERR_OK) rc = mem_new(&ones, B, sizeof(float), "labels", err);
    for (size_t b = 0; rc == ERR_OK && b < B; b++) {
        ones[b] = 1;
        if (!c->labels || c->labels[b] < 0) continue; /* left out, also of the divisor */
        weight[b] = 1;
        divisor += 1;
        target[b * K + (size_t)c->labels[b]] = 1;
    }
    if (rc != ERR_OK) goto done;
    const int has_loss = c->labels != NULL;
    group_begin(c, "hidden states");
    const double loss = step(c, has_loss ? target : NULL, weight, divisor > 0 ? divisor : 1, has_loss,
                             c->all_hidden ? look_hidden : look_logits);
    if (c->all_hidden) group_end(c, 0);
    compare_forward(c, loss, has_loss);
    if (entry(c, "grad_rel_embeddings")) {
        dense_word_grad(c);
        compare_formula_gradients(c);
    } else if (has_loss) {
        group_begin(c, "gradients");
        compare_gradients(c, "grad.");
        group_end(c, 0);
    }
    if (c->soft) {
        const float value = (float)step(c, c->soft, ones, (double)c->B, 1, NULL);
        group_begin(c, "loss, soft labels");
        compare(c, "soft.loss", &value, 1, 1e-5, 1e-5, 0);
        group_end(c, 0);
        group_begin(c, "gradients, soft labels");
        compare_gradients(c, "soft.grad.");
        group_end(c, 0);
    }
    if (has_loss) rc = all_optimisers(c, target, weight, divisor, err);
done:
    mem_free(seen_logits);
    seen_logits = NULL;
    mem_free(target);
    mem_free(weight);
    mem_free(ones);
    return rc;
}

static ErrCode open_folder(Check *c, Threads *threads, Err *err) {
    TRY(config_read(&c->config, c->dir, err));
    if (c->config.num_labels < 1) {
        static const char *const TWO[] = {"a", "b"};
        TRY(config_set_labels(&c->config, TWO, 2, err));
    }
    TRY(load_inputs(c, err));
    char *path;
    TRY(path_of(&path, c, "meta.json", err));
    ErrCode rc = json_read(&c->meta, path, err);
    mem_free(path);
    if (rc != ERR_OK) return rc;
    TRY(path_of(&path, c, "expected.safetensors", err));
    rc = safetensors_open(&c->expected, path, err);
    mem_free(path);
    if (rc != ERR_OK) return rc;
    TRY(ops_open(&c->ops, c->backend, c->precision, threads, err));
    c->rounds = c->ops.act_bytes < sizeof(float);
    int longest = 1;
    for (int b = 0; b < c->B; b++) longest = c->lengths[b] > longest ? c->lengths[b] : longest;
    if (c->micro_tokens < longest) c->micro_tokens = longest;
    if (c->micro_tokens > c->N) c->micro_tokens = c->N;
    const DebertaLimits limits = {.micro_tokens = c->micro_tokens,
                                  .micro_sequences = c->B,
                                  .longest = longest,
                                  .step_tokens = c->N,
                                  .train = true,
                                  .all_hidden = c->all_hidden};
    TRY(deberta_open(&c->model, &c->config, &c->ops, &limits, err));
    c->weights = params_list(&c->model.host_weights, &c->config, &c->params);
    c->grads = params_list(&c->model.grads, &c->config, &c->params);
    if (!c->weights || !c->grads) return err_set(err, ERR_MEMORY, "out of memory");
    const size_t word = (size_t)c->config.vocab_size * (size_t)c->config.hidden_size;
    TRY(mem_new(&c->word_grad, word, sizeof(float), "the word gradient", err));
    TRY(mem_new(&c->grad_copy, c->model.grad_count, sizeof(float), "the gradients", err));
    TRY(mem_new(&c->word, word, sizeof(float), "the word embedding", err));
    return load_weights(c, err);
}

static void close_folder(Check *c) {
    adamw_close(&c->adamw);
    deberta_close(&c->model);
    if (c->ops.close) ops_close(&c->ops);
    safetensors_close(&c->expected);
    config_free(&c->config);
    cJSON_Delete(c->meta);
    mem_free(c->weights);
    mem_free(c->grads);
    mem_free(c->word_grad);
    mem_free(c->grad_copy);
    mem_free(c->word);
    mem_free(c->ids);
    mem_free(c->start);
    mem_free(c->seq);
    mem_free(c->lengths);
    mem_free(c->labels);
    mem_free(c->soft);
}

int main(int argc, char **argv) {
    const char *backend = "blas", *precision = "fp32";
    int threads_wanted = 0, micro = 1 << 28, failures = 0, folders = 0;
    Threads *threads = NULL;
    Err err = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--backend") == 0 && i + 1 < argc) {
            backend = argv[++i];
        } else if (strcmp(argv[i], "--precision") == 0 && i + 1 < argc) {
            precision = argv[++i];
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
            threads_wanted = (int)strtol(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--micro-tokens") == 0 && i + 1 < argc) {
            micro = (int)strtol(argv[++i], NULL, 10);
        } else {
            if (!threads && threads_open(&threads, threads_wanted, &err) != ERR_OK) break;
            for (int all = 0; all < 2; all++) {
                Check c = {.dir = argv[i],
                           .backend = backend,
                           .precision = precision,
                           .micro_tokens = micro,
                           .all_hidden = all};
                printf("%s (%s%s)\n", argv[i], backend, all ? ", all hidden states" : "");
                ErrCode rc = open_folder(&c, threads, &err);
                if (rc == ERR_OK) rc = run_checks(&c, &err);
                if (rc == ERR_BACKEND) {
                    printf("skipped: %s\n", err.msg);
                    close_folder(&c);
                    threads_close(threads);
                    return 77;
                }
                if (rc != ERR_OK) {
                    printf("  FAIL %s\n", err.msg);
                    failures++;
                }
                failures += c.failures;
                folders += c.groups > 0;
                close_folder(&c);
                (void)fflush(stdout);
            }
        }
    }
    threads_close(threads);
    if (!folders) {
        (void)fprintf(stderr,
                      "usage: golden_check [--backend NAME] [--precision P] [--threads N] [--micro-tokens N] "
                      "DIR...\n%s\n",
                      err.msg);
        return 2;
    }
    printf("%d folders, %d failures\n", folders, failures);
    return failures ? 1 : 0;
}
