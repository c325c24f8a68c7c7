#include "export/sample.h"

#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/mem.h"
#include "core/rng.h"
#include "tokenizer/tokenizer.h"

/* Half the width of an even spread around `middle`, by what a tensor is. */
typedef struct {
    float middle, spread;
} Spread;

static bool ends(const char *name, const char *end) {
    const size_t n = strlen(name), e = strlen(end);
    return n >= e && strcmp(name + n - e, end) == 0;
}

static Spread spread_of(const BlobSpec *spec) {
    if (ends(spec->name, ".weight_scale"))
        return (Spread){0.02f / 73, 0.005f / 73}; /* bytes have a deviation of 73 */
    if (ends(spec->name, "LayerNorm.weight")) return (Spread){1.0f, 0.2f};
    if (spec->dtype == DTYPE_F16) return (Spread){0.0f, 1.0f};
    return (Spread){0.0f, 0.04f};
}

typedef struct {
    const BlobConfig *config;
    void **data;
    uint64_t seed;
} FillJob;

static void fill(void *arg, size_t i, int thread) {
    (void)thread;
    const FillJob *job = arg;
    BlobSpec spec;
    blob_spec(&spec, job->config, i);
    if (spec.shape[0] < 0) return; /* the tokenizer */
    const size_t n = (size_t)(spec.shape[0] * (spec.rank > 1 ? spec.shape[1] : 1));
    const uint64_t key = rng_key(job->seed, "sample", i);
    if (spec.dtype == DTYPE_I8) {
        int8_t *to = job->data[i];
        for (size_t k = 0; k < n; k += 8) {
            const uint64_t bits = rng_bits(key, k);
            for (size_t b = 0; b < 8 && k + b < n; b++) {
                const int v = (int)(bits >> (8 * b) & 255) - 128;
                to[k + b] = (int8_t)(v < -127 ? 127 : v);
            }
        }
        return;
    }
    const Spread spread = spread_of(&spec);
    for (size_t k = 0; k < n; k++) {
        const float v = spread.middle + spread.spread * (float)(2 * rng_uniform(key, k) - 1);
        if (spec.dtype == DTYPE_F16)
            ((uint16_t *)job->data[i])[k] = tensor_f32_to_f16(v);
        else
            ((float *)job->data[i])[k] = v;
    }
}

/* The same code counts (arena zeroed) and lays out. */
static void layout(void **data, Arena *arena, const BlobConfig *config) {
    for (size_t i = 0; i < blob_count(config); i++) {
        BlobSpec spec;
        blob_spec(&spec, config, i);
        if (spec.shape[0] < 0) continue;
        const size_t n = (size_t)(spec.shape[0] * (spec.rank > 1 ? spec.shape[1] : 1));
        data[i] = arena_push(arena, n, tensor_dtype_bytes(spec.dtype));
    }
}

static ErrCode take_specials(BlobConfig *config, const void *spm, size_t spm_bytes, Err *err) {
    Tokenizer *tokenizer;
    TRY(tokenizer_open_bytes(&tokenizer, spm, spm_bytes, err));
    const TokenizerSpecials special = tokenizer_specials(tokenizer);
    const int ids = tokenizer_ids(tokenizer);
    tokenizer_close(tokenizer);
    config->pad = special.pad;
    config->cls = special.cls;
    config->sep = special.sep;
    config->unk = special.unk;
    config->mask = special.mask;
    config->plain_text = true;
    config->temperature = 1.0f;
    if (config->vocab_size < ids) config->vocab_size = ids;
    return ERR_OK;
}

ErrCode sample_blob(Buf *out, const BlobConfig *config, const void *spm, size_t spm_bytes, uint64_t seed,
                    Threads *threads, Err *err) {
    enum { LABEL_BYTES = 24 };
    BlobConfig c = *config;
    Arena arena = {0};
    void **data = NULL;
    char(*names)[LABEL_BYTES] = NULL;
    const char **labels = NULL;
    TRY(take_specials(&c, spm, spm_bytes, err));
    const size_t count = blob_count(&c), K = (size_t)c.num_labels;
    ErrCode rc = mem_new(&data, count, sizeof *data, "the tensor table", err);
    if (rc == ERR_OK) rc = mem_new(&names, K, sizeof *names, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&labels, K, sizeof *labels, "the labels", err);
    if (rc != ERR_OK) goto done;
    layout(data, &arena, &c);
    const size_t bytes = arena.used;
    rc = arena_init(&arena, bytes, "random weights", err);
    if (rc != ERR_OK) goto done;
    layout(data, &arena, &c);
    threads_run(threads, fill, &(FillJob){&c, data, seed}, count);
    data[blob_top(&c) + BLOB_SPM] = (void *)spm; /* read only */
    for (size_t k = 0; k < K; k++) {
        (void)snprintf(names[k], LABEL_BYTES, "%zu", k);
        labels[k] = names[k];
    }
    rc = blob_write(out, &c, labels, (const void *const *)data, spm_bytes, NULL, 0, err);
done:
    arena_free(&arena);
    mem_free(data);
    mem_free(names);
    mem_free(labels);
    return rc;
}
