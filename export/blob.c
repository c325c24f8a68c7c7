#include "export/blob.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zstd.h>

#include "core/mem.h"
#include "core/sha256.h"
#include "core/text.h"
#include "export/blob_rule.h"
#include "export/blob_taxonomy.h"
#include "export/hexfloat.h"

#define DIGEST_KEY "router.header_sha256"
#define DIGEST_AT  (8 + sizeof HEAD - 1)

static const char HEAD[] = "{\"__metadata__\":{\"" DIGEST_KEY "\":\"";
static const char ZEROS[] = "0000000000000000000000000000000000000000000000000000000000000000";
static const unsigned char ZSTD_MAGIC[4] = {0x28, 0xb5, 0x2f, 0xfd};

enum { PACK_LEVEL = 9, PACK_RATIO_MAX = 64, PACK_FREE_BYTES = 16 << 20 };

/* ---- the list of tensors ---- */

typedef struct {
    const char *name;
    Dtype dtype;
    char rows, cols; /* a letter of the specification; cols 0: a vector; P is 2B, * is any */
} Line;

#define LINEAR(name, rows, cols)                                                          \
    {name ".weight", DTYPE_I8, rows, cols}, {name ".weight_scale", DTYPE_F32, rows, 0}, { \
        name ".bias", DTYPE_F32, rows, 0                                                  \
    }
#define NORM(name)                         \
    {name ".weight", DTYPE_F32, 'H', 0}, { \
        name ".bias", DTYPE_F32, 'H', 0    \
    }

static const Line FIRST[BLOB_LAYER] = {
    {"deberta.embeddings.word_embeddings.weight", DTYPE_I8, 'V', 'H'},
    {"deberta.embeddings.word_embeddings.weight_scale", DTYPE_F32, 'V', 0},
    NORM("deberta.embeddings.LayerNorm"),
};
static const Line LAYER[BLOB_PER_LAYER] = {
    LINEAR("attention.self.query_proj", 'H', 'H'),
    LINEAR("attention.self.key_proj", 'H', 'H'),
    LINEAR("attention.self.value_proj", 'H', 'H'),
    {"attention.self.position_key", DTYPE_F16, 'P', 'H'},
    {"attention.self.position_query", DTYPE_F16, 'P', 'H'},
    LINEAR("attention.output.dense", 'H', 'H'),
    NORM("attention.output.LayerNorm"),
    LINEAR("intermediate.dense", 'F', 'H'),
    LINEAR("output.dense", 'H', 'F'),
    NORM("output.LayerNorm"),
};
static const Line TOP[BLOB_TOP] = {
    {"pooler.dense.weight", DTYPE_F32, 'H', 'H'}, {"pooler.dense.bias", DTYPE_F32, 'H', 0},
    {"classifier.weight", DTYPE_F32, 'K', 'H'},   {"classifier.bias", DTYPE_F32, 'K', 0},
    {"tokenizer.spm", DTYPE_U8, '*', 0},
};

static int64_t dimension(const BlobConfig *c, char letter) {
    switch (letter) {
        case 'V': return c->vocab_size;
        case 'H': return c->hidden_size;
        case 'F': return c->intermediate_size;
        case 'P': return 2 * (int64_t)c->position_buckets;
        case 'K': return c->num_labels;
        default: return -1;
    }
}

size_t blob_top(const BlobConfig *config) {
    return BLOB_LAYER + (size_t)config->num_hidden_layers * BLOB_PER_LAYER;
}

size_t blob_count(const BlobConfig *config) {
    return blob_top(config) + BLOB_TOP;
}

void blob_spec(BlobSpec *out, const BlobConfig *config, size_t i) {
    const size_t top = blob_top(config);
    const Line *line;
    char prefix[48] = "";
    if (i < BLOB_LAYER) {
        line = &FIRST[i];
    } else if (i < top) {
        line = &LAYER[(i - BLOB_LAYER) % BLOB_PER_LAYER];
        (void)snprintf(prefix, sizeof prefix, "deberta.encoder.layer.%zu.",
                       (i - BLOB_LAYER) / BLOB_PER_LAYER);
    } else {
        assert(i - top < BLOB_TOP);
        line = &TOP[i - top];
    }
    *out = (BlobSpec){.dtype = line->dtype, .rank = line->cols ? 2 : 1};
    (void)snprintf(out->name, sizeof out->name, "%s%s", prefix, line->name);
    out->shape[0] = dimension(config, line->rows);
    if (line->cols) out->shape[1] = dimension(config, line->cols);
}

/* ---- metadata: one table for reading and writing ---- */

#define NUMBER(field, key, min, max) \
    { "router." key, offsetof(BlobConfig, field), min, max }

static const struct {
    const char *key;
    size_t offset;
    int min, max;
} NUMBERS[] = {
    NUMBER(vocab_size, "vocab_size", 1, 4 << 20),
    NUMBER(hidden_size, "hidden_size", 1, 8192),
    NUMBER(num_hidden_layers, "num_hidden_layers", 1, 256),
    NUMBER(num_attention_heads, "num_attention_heads", 1, 8192),
    NUMBER(intermediate_size, "intermediate_size", 1, 65536),
    NUMBER(position_buckets, "position_buckets", 2, 65536),
    NUMBER(max_relative_positions, "max_relative_positions", 1, 65536),
    NUMBER(num_labels, "num_labels", 1, 4096),
    NUMBER(max_tokens, "max_tokens", 2, BLOB_TOKENS_MAX),
    NUMBER(pad, "special.pad", 0, 4 << 20),
    NUMBER(cls, "special.cls", 0, 4 << 20),
    NUMBER(sep, "special.sep", 0, 4 << 20),
    NUMBER(unk, "special.unk", 0, 4 << 20),
    NUMBER(mask, "special.mask", 0, 4 << 20),
};

static const struct {
    const char *key;
    size_t offset;
} FLOATS[] = {
    {"router.layer_norm_eps", offsetof(BlobConfig, layer_norm_eps)},
};

static const struct {
    const char *key, *value;
} FIXED[] = {
    {"router.architecture", "deberta-v3"},
    {"router.byte_order", "little"},
    {"router.activation", "gelu-erf"},
    {"router.attention", "c2c c2p p2c shared-key"},
    {"router.pooler", "first-token dense gelu"},
    {"router.truncation", "head"},
    {"router.tokenizer", "sentencepiece"},
    {"router.weights", "int8 symmetric per output row"},
    {"router.activations", "int8 symmetric per token, dynamic"},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int by_key(const void *a, const void *b) {
    return strcmp(((const SafetensorsPair *)a)->key, ((const SafetensorsPair *)b)->key);
}

const char *blob_metadata(const Blob *blob, const char *key) {
    const SafetensorsPair wanted = {.key = key};
    if (!blob->header.metadata_count) return NULL;
    const SafetensorsPair *found =
        bsearch(&wanted, blob->header.metadata, blob->header.metadata_count, sizeof wanted, by_key);
    return found ? found->value : NULL;
}

static const char *metadata(const void *blob, const char *key) {
    return blob_metadata(blob, key);
}

static ErrCode need(const char **out, const Blob *blob, const char *key, Err *err) {
    *out = blob_metadata(blob, key);
    return *out ? ERR_OK : err_set(err, ERR_FORMAT, "metadata %s is missing", key);
}

ErrCode blob_number(int *out, const char *key, const char *text, int min, int max, Err *err) {
    int v = 0;
    size_t n = 0;
    for (; text[n] >= '0' && text[n] <= '9' && n < 9; n++) v = v * 10 + (text[n] - '0');
    if (n == 0 || text[n] || (n > 1 && text[0] == '0') || v < min || v > max)
        return err_set(err, ERR_FORMAT, "metadata %s: found \"%.40s\", expected an integer from %d to %d",
                       key, text, min, max);
    *out = v;
    return ERR_OK;
}

static ErrCode get_number(int *out, const Blob *blob, const char *key, int min, int max, Err *err) {
    const char *text;
    TRY(need(&text, blob, key, err));
    return blob_number(out, key, text, min, max, err);
}

static ErrCode get_positive(float *out, const Blob *blob, const char *key, Err *err) {
    const char *text;
    TRY(need(&text, blob, key, err));
    ErrCode rc = hexfloat_only(out, text, err);
    if (rc == ERR_OK && !(*out > 0))
        rc = err_set(err, ERR_FORMAT, "found \"%.40s\", expected a number above 0", text);
    return rc == ERR_OK ? rc : err_context(err, rc, "metadata %s", key);
}

static ErrCode check_format(const Blob *blob, Err *err) {
    const char *text;
    TRY(need(&text, blob, "router.format", err));
    if (strncmp(text, "1.", 2) != 0 || !text[2] || strspn(text + 2, "0123456789") != strlen(text + 2))
        return err_set(
            err, ERR_FORMAT,
            "metadata router.format: found \"%.40s\", expected 1.x (this program writes " BLOB_FORMAT
            "); a newer router may read it",
            text);
    return ERR_OK;
}

/* What a later minor version extends is a word of router.required (export/blob_rule.c); these must be as they
 * are. */
static ErrCode check_fixed(const Blob *blob, Err *err) {
    for (size_t i = 0; i < COUNT(FIXED); i++) {
        const char *text;
        TRY(need(&text, blob, FIXED[i].key, err));
        if (strcmp(text, FIXED[i].value) != 0)
            return err_set(err, ERR_FORMAT, "metadata %s: found \"%.80s\", expected \"%s\"", FIXED[i].key,
                           text, FIXED[i].value);
    }
    return ERR_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ErrCode check_label(const char *key, const char *label, Err *err) {
    const size_t n = strlen(label);
    if (n < 1 || n > BLOB_LABEL_MAX)
        return err_set(err, ERR_FORMAT, "metadata %s: a label of %zu bytes, expected 1 to %d", key, n,
                       BLOB_LABEL_MAX);
    for (size_t at = 0; at < n;) {
        uint32_t cp;
        at += text_utf8_next(label + at, n - at, &cp);
        if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0))
            return err_set(err, ERR_FORMAT, "metadata %s: a control character in a label", key);
    }
    return ERR_OK;
}

static ErrCode read_labels(Blob *blob, Err *err) {
    const size_t K = (size_t)blob->config.num_labels;
    if (K > blob->header.metadata_count)
        return err_set(err, ERR_FORMAT, "metadata router.num_labels: found %zu, but there are fewer labels",
                       K);
    TRY(mem_new(&blob->labels, 2 * K, sizeof *blob->labels, "the labels", err));
    for (size_t i = 0; i < K; i++) {
        char key[40];
        (void)snprintf(key, sizeof key, "router.label.%zu", i);
        TRY(need(&blob->labels[i], blob, key, err));
        TRY(check_label(key, blob->labels[i], err));
    }
    const char **sorted = blob->labels + K;
    memcpy(sorted, blob->labels, K * sizeof *sorted);
    qsort(sorted, K, sizeof *sorted, by_text);
    for (size_t i = 1; i < K; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            return err_set(err, ERR_FORMAT, "the label \"%.80s\" occurs twice", sorted[i]);
    return ERR_OK;
}

static ErrCode read_config(Blob *blob, Err *err) {
    BlobConfig *c = &blob->config;
    TRY(check_format(blob, err));
    TRY(check_fixed(blob, err));
    for (size_t i = 0; i < COUNT(NUMBERS); i++)
        TRY(get_number((int *)(void *)((char *)c + NUMBERS[i].offset), blob, NUMBERS[i].key, NUMBERS[i].min,
                       NUMBERS[i].max, err));
    for (size_t i = 0; i < COUNT(FLOATS); i++)
        TRY(get_positive((float *)(void *)((char *)c + FLOATS[i].offset), blob, FLOATS[i].key, err));
    if (c->hidden_size % c->num_attention_heads)
        return err_set(err, ERR_FORMAT,
                       "metadata router.num_attention_heads: %d does not divide the %d of "
                       "router.hidden_size",
                       c->num_attention_heads, c->hidden_size);
    const char *plain;
    TRY(need(&plain, blob, "router.plain_text", err));
    c->plain_text = strcmp(plain, "true") == 0;
    if (!c->plain_text && strcmp(plain, "false") != 0)
        return err_set(err, ERR_FORMAT, "metadata router.plain_text: found \"%.40s\", expected true or false",
                       plain);
    const int specials[] = {c->pad, c->cls, c->sep, c->unk, c->plain_text ? 0 : c->mask};
    for (size_t i = 0; i < COUNT(specials); i++)
        if (specials[i] >= c->vocab_size)
            return err_set(err, ERR_FORMAT, "a special id is %d, but there are %d embeddings", specials[i],
                           c->vocab_size);
    TRY(read_labels(blob, err));
    TRY(blob_taxonomy_read(&c->taxonomy, metadata, blob, blob->labels, c->num_labels, err));
    return blob_rule_read(&c->decide, metadata, blob, blob->labels, c->num_labels, err);
}

/* ---- the tensor table ---- */

static ErrCode check_entry(const SafetensorsEntry *e, const BlobSpec *spec, Err *err) {
    char found[96], expected[96];
    bool same = e->dtype == spec->dtype && e->rank == spec->rank;
    for (int d = 0; same && d < spec->rank; d++)
        same = spec->shape[d] < 0 ? e->shape[d] >= 1 : e->shape[d] == spec->shape[d];
    if (same) return ERR_OK;
    return err_set(err, ERR_FORMAT, "tensor %s: found %s %s, expected %s %s", spec->name,
                   tensor_dtype_name(e->dtype), tensor_shape_text(found, e->shape, e->rank),
                   tensor_dtype_name(spec->dtype), tensor_shape_text(expected, spec->shape, spec->rank));
}

static ErrCode check_table(Blob *blob, Err *err) {
    const SafetensorsHeader *h = &blob->header;
    const size_t count = blob_count(&blob->config);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        BlobSpec spec;
        blob_spec(&spec, &blob->config, i);
        if (at >= h->count) return err_set(err, ERR_FORMAT, "tensor %s is missing", spec.name);
        const SafetensorsEntry *e = &h->entries[at++];
        if (strcmp(e->name, spec.name) != 0)
            return err_set(err, ERR_FORMAT, "tensor %zu is \"%.96s\", expected %s", i, e->name, spec.name);
        TRY(check_entry(e, &spec, err));
        const uint64_t pad = (0 - e->end) % BLOB_ALIGN;
        if (!pad) continue;
        BlobSpec filler = {.dtype = DTYPE_U8, .rank = 1, .shape = {(int64_t)pad}};
        (void)snprintf(filler.name, sizeof filler.name, "router.pad.%zu", i);
        if (at >= h->count || strcmp(h->entries[at].name, filler.name) != 0)
            return err_set(err, ERR_FORMAT, "tensor %s is missing behind %s", filler.name, spec.name);
        TRY(check_entry(&h->entries[at++], &filler, err));
    }
    if (at < h->count)
        return err_set(err, ERR_FORMAT, "tensor \"%.96s\" is none of a blob's", h->entries[at].name);
    return ERR_OK;
}

/* ---- header bytes ---- */

static uint64_t get_u64(const char *bytes) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | (unsigned char)bytes[i];
    return v;
}

static void header_digest(char hex[SHA256_HEX], const char *head, size_t n) {
    unsigned char digest[SHA256_BYTES];
    Sha256 s;
    sha256_init(&s);
    sha256_add(&s, head, DIGEST_AT);
    sha256_add(&s, ZEROS, 64);
    sha256_add(&s, head + DIGEST_AT + 64, n - DIGEST_AT - 64);
    sha256_end(&s, digest);
    sha256_hex(hex, digest);
}

/* Bytes of length word and JSON of a file of `size` bytes that begins with `word`. */
static ErrCode header_bytes(size_t *out, const char word[8], uint64_t size, Err *err) {
    const uint64_t n = get_u64(word);
    if (n > BLOB_HEADER_MAX || n > size - 8)
        return err_set(err, ERR_FORMAT, "not a blob, or cut short: a header of %llu bytes in a file of %llu",
                       (unsigned long long)n, (unsigned long long)size);
    if (n < DIGEST_AT + 64 || n % BLOB_ALIGN != BLOB_ALIGN - 8)
        return err_set(err, ERR_FORMAT,
                       "not a blob: a header of %llu bytes, expected a multiple of 64, less 8",
                       (unsigned long long)n);
    *out = (size_t)n + 8;
    return ERR_OK;
}

/* All that can be judged before the data is there. head: n bytes, length word included. */
static ErrCode read_header(Blob *blob, const char *head, size_t n, uint64_t size, bool trust, Err *err) {
    if (memcmp(head + 8, HEAD, sizeof HEAD - 1) != 0)
        return err_set(err, ERR_FORMAT,
                       "not a blob of this program: the header does not begin with its digest (a safetensors "
                       "file of another kind, or saved again by another program)");
    char hex[SHA256_HEX];
    header_digest(hex, head, n);
    if (!trust && memcmp(hex, head + DIGEST_AT, 64) != 0)
        return err_set(err, ERR_FORMAT, "the header is damaged: its SHA-256 is not the stated one");
    TRY(safetensors_parse(&blob->header, head + 8, n - 8, size - n, err));
    qsort(blob->header.metadata, blob->header.metadata_count, sizeof *blob->header.metadata, by_key);
    TRY(read_config(blob, err));
    TRY(check_table(blob, err));
    blob->data_start = n;
    blob->size = (size_t)size;
    return ERR_OK;
}

/* ---- the data ---- */

typedef struct {
    const Blob *blob;
    bool *damaged;
} DigestJob;

static void check_digest(void *arg, size_t i, int thread) {
    (void)thread;
    const DigestJob *job = arg;
    const SafetensorsEntry *e = &job->blob->header.entries[i];
    const char *bytes = job->blob->bytes + job->blob->data_start + e->begin;
    const size_t n = (size_t)(e->end - e->begin);
    if (strncmp(e->name, "router.pad.", 11) == 0) {
        for (size_t k = 0; k < n; k++) job->damaged[i] = job->damaged[i] || bytes[k] != 0;
        return;
    }
    char key[BLOB_NAME_MAX + 16], hex[SHA256_HEX];
    (void)snprintf(key, sizeof key, "router.sha256.%s", e->name);
    const char *stated = blob_metadata(job->blob, key);
    sha256_hex_of(hex, bytes, n);
    job->damaged[i] = !stated || strcmp(stated, hex) != 0;
}

static ErrCode check_digests(const Blob *blob, Threads *threads, Err *err) {
    DigestJob job = {.blob = blob};
    const size_t count = blob->header.count;
    TRY(mem_new(&job.damaged, count, sizeof *job.damaged, "the digests", err));
    threads_run(threads, check_digest, &job, count);
    ErrCode rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < count; i++)
        if (job.damaged[i])
            rc = err_set(err, ERR_FORMAT, "tensor %s is damaged: its SHA-256 is not the stated one",
                         blob->header.entries[i].name);
    mem_free(job.damaged);
    return rc;
}

static ErrCode check_values(const BlobSpec *spec, const void *data, size_t n, Err *err) {
    if (spec->dtype == DTYPE_F32) {
        const float *x = data;
        const size_t len = strlen(spec->name);
        const bool scale = len > 6 && strcmp(spec->name + len - 6, "_scale") == 0;
        for (size_t i = 0; i < n; i++)
            if (!isfinite(x[i]) || (scale && !(x[i] > 0)))
                return err_set(err, ERR_FORMAT, "tensor %s: value %zu is %g, expected a finite number%s",
                               spec->name, i, (double)x[i], scale ? " above 0" : "");
    } else if (spec->dtype == DTYPE_F16) {
        const uint16_t *x = data;
        for (size_t i = 0; i < n; i++)
            if ((x[i] & 0x7c00u) == 0x7c00u)
                return err_set(err, ERR_FORMAT, "tensor %s: value %zu is not a finite number", spec->name, i);
    }
    return ERR_OK;
}

/* Sets blob->data and checks what only the bytes can tell. */
static ErrCode read_data(Blob *blob, bool trust, Threads *threads, Err *err) {
    const uint16_t one = 1;
    if (*(const unsigned char *)&one != 1)
        return err_set(err, ERR_BACKEND, "this machine is big-endian; blobs are little-endian");
    if (!trust) TRY(check_digests(blob, threads, err));
    const size_t count = blob_count(&blob->config);
    TRY(mem_new(&blob->data, count, sizeof *blob->data, "the tensor table", err));
    const SafetensorsEntry *e = blob->header.entries;
    for (size_t i = 0; i < count; i++, e++) {
        if (strncmp(e->name, "router.pad.", 11) == 0) e++;
        BlobSpec spec;
        blob_spec(&spec, &blob->config, i);
        blob->data[i] = blob->bytes + blob->data_start + e->begin;
        const size_t bytes = (size_t)(e->end - e->begin);
        TRY(check_values(&spec, blob->data[i], bytes / tensor_dtype_bytes(spec.dtype), err));
        if (spec.shape[0] < 0) blob->spm_bytes = bytes;
    }
    return ERR_OK;
}

/* ---- opening ---- */

static bool is_packed(const void *bytes, size_t n) {
    return n >= sizeof ZSTD_MAGIC && memcmp(bytes, ZSTD_MAGIC, sizeof ZSTD_MAGIC) == 0;
}

static ErrCode check_size(uint64_t size, Err *err) {
    if (size < 8)
        return err_set(err, ERR_FORMAT, "has %llu bytes, too few for a blob", (unsigned long long)size);
    if (size > BLOB_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "has %llu bytes, more than the %llu that a blob may have",
                       (unsigned long long)size, (unsigned long long)BLOB_BYTES_MAX);
    return ERR_OK;
}

/* Header of a plain file in memory or, with `own`, of bytes that become the blob's. */
static ErrCode take_memory(Blob *blob, const char *bytes, size_t n, bool trust, Err *err) {
    size_t head;
    TRY(check_size(n, err));
    TRY(header_bytes(&head, bytes, n, err));
    return read_header(blob, bytes, head, n, trust, err);
}

static ErrCode unpack(Blob *blob, const void *bytes, size_t n, bool trust, Err *err) {
    const unsigned long long size = ZSTD_getFrameContentSize(bytes, n);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN)
        return err_set(err, ERR_FORMAT, "a zstd frame that does not state its content size");
    TRY(check_size(size, err));
    if (size > PACK_FREE_BYTES && size / PACK_RATIO_MAX > n)
        return err_set(err, ERR_FORMAT, "a zstd frame of %zu bytes that claims to hold %llu", n, size);
    if (ZSTD_findFrameCompressedSize(bytes, n) != n)
        return err_set(err, ERR_FORMAT, "the zstd frame is damaged, cut short or followed by other bytes");
    TRY(mem_new(&blob->bytes, (size_t)size, 1, "the unpacked blob", err));
    const size_t got = ZSTD_decompress(blob->bytes, (size_t)size, bytes, n);
    if (ZSTD_isError(got) || got != size)
        return err_set(err, ERR_FORMAT, "the zstd frame is damaged: %s",
                       ZSTD_isError(got) ? ZSTD_getErrorName(got) : "it is shorter than stated");
    blob->packed = true;
    return take_memory(blob, blob->bytes, (size_t)size, trust, err);
}

/* The bytes of a plain file whose header, n bytes, has been read. */
static ErrCode take_file(Blob *blob, const File *file, const char *head, size_t n, bool map, Err *err) {
    if (map) {
        void *bytes = mmap(NULL, blob->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file->fd_plus_1 - 1, 0);
        if (bytes == MAP_FAILED)
            return err_set(err, ERR_IO, "%s: cannot map its %zu bytes into memory", file->path, blob->size);
        blob->bytes = bytes;
        blob->mapped = true;
        return ERR_OK;
    }
    TRY(mem_new(&blob->bytes, blob->size, 1, "the blob", err));
    memcpy(blob->bytes, head, n);
    return file_read_at(file, blob->bytes + n, n, blob->size - n, err);
}

static ErrCode open_file(Blob *blob, const File *file, const BlobOptions *options, Threads *threads,
                         Err *err) {
    const bool trust = options && options->trust;
    char word[8];
    TRY(check_size(file->size, err));
    TRY(file_read_at(file, word, 0, sizeof word, err));
    char *head = NULL;
    size_t n;
    ErrCode rc;
    if (is_packed(word, sizeof word)) {
        n = (size_t)file->size;
        rc = mem_new(&head, n, 1, "the packed blob", err);
        if (rc == ERR_OK) rc = file_read_at(file, head, 0, n, err);
        if (rc == ERR_OK) rc = unpack(blob, head, n, trust, err);
    } else {
        TRY(header_bytes(&n, word, file->size, err));
        rc = mem_new(&head, n, 1, "the blob's header", err);
        if (rc == ERR_OK) rc = file_read_at(file, head, 0, n, err);
        if (rc == ERR_OK && memcmp(head, word, sizeof word) != 0)
            rc = err_set(err, ERR_IO, "the file changes while it is read");
        if (rc == ERR_OK) rc = read_header(blob, head, n, file->size, trust, err);
        if (rc == ERR_OK) rc = take_file(blob, file, head, n, options && options->map, err);
    }
    mem_free(head);
    return rc == ERR_OK ? read_data(blob, trust, threads, err) : rc;
}

ErrCode blob_open(Blob *out, const char *path, const BlobOptions *options, Threads *threads, Err *err) {
    *out = (Blob){0};
    File file;
    TRY(file_open(&file, path, err));
    ErrCode rc = open_file(out, &file, options, threads, err);
    if (rc != ERR_OK) {
        if (rc != ERR_IO) (void)err_context(err, rc, "%s", path);
        blob_close(out);
    }
    file_close(&file);
    return rc;
}

ErrCode blob_open_memory(Blob *out, const void *bytes, size_t n, bool trust, Threads *threads, Err *err) {
    *out = (Blob){0};
    ErrCode rc;
    if (is_packed(bytes, n)) {
        rc = unpack(out, bytes, n, trust, err);
    } else {
        rc = take_memory(out, bytes, n, trust, err);
        if (rc == ERR_OK) rc = mem_new(&out->bytes, n, 1, "the blob", err);
        if (rc == ERR_OK) memcpy(out->bytes, bytes, n);
    }
    if (rc == ERR_OK) rc = read_data(out, trust, threads, err);
    if (rc != ERR_OK) {
        (void)err_context(err, rc, "blob");
        blob_close(out);
    }
    return rc;
}

void blob_close(Blob *blob) {
    safetensors_header_free(&blob->header);
    if (blob->mapped)
        (void)munmap(blob->bytes, blob->size);
    else
        mem_free(blob->bytes);
    mem_free(blob->data);
    mem_free(blob->labels);
    decide_free(&blob->config.decide);
    taxonomy_free(&blob->config.taxonomy);
    *blob = (Blob){0};
}

bool blob_is(const char *path) {
    File file;
    char head[DIGEST_AT];
    if (file_open(&file, path, NULL) != ERR_OK) return false;
    const size_t n = file.size < sizeof head ? (size_t)file.size : sizeof head;
    const bool read = file_read_at(&file, head, 0, n, NULL) == ERR_OK;
    file_close(&file);
    return read && (is_packed(head, n) || (n == sizeof head && memcmp(head + 8, HEAD, n - 8) == 0));
}

/* ---- writing ---- */

/* Strings of the metadata and names of tensors, kept until the header is made. */
typedef struct {
    SafetensorsPair *pairs;
    size_t pair_count;
    SafetensorsItem *items;
    size_t item_count;
    char **strings;
    size_t string_count, string_max;
    bool failed;
} Draft;

static const char *keep(Draft *d, const char *text) {
    char *copy = d->string_count < d->string_max ? mem_strdup(text) : NULL;
    if (!copy) {
        d->failed = true;
        return "";
    }
    d->strings[d->string_count++] = copy;
    return copy;
}

static void put_pair(Draft *d, const char *key, const char *value) {
    d->pairs[d->pair_count++] = (SafetensorsPair){keep(d, key), keep(d, value), 0};
}

static void put_given_pair(void *draft, const char *key, const char *value) {
    put_pair(draft, key, value);
}

bool blob_writes(const char *key) {
    static const char *const OTHERS[] = {DIGEST_KEY, "router.format", "router.plain_text"};
    static const char *const BEGINNINGS[] = {"router.label.", "router.sha256.", "router.taxonomy."};
    for (size_t i = 0; i < COUNT(OTHERS); i++)
        if (strcmp(key, OTHERS[i]) == 0) return true;
    for (size_t i = 0; i < COUNT(BEGINNINGS); i++)
        if (strncmp(key, BEGINNINGS[i], strlen(BEGINNINGS[i])) == 0) return true;
    for (size_t i = 0; i < COUNT(FIXED); i++)
        if (strcmp(key, FIXED[i].key) == 0) return true;
    for (size_t i = 0; i < COUNT(NUMBERS); i++)
        if (strcmp(key, NUMBERS[i].key) == 0) return true;
    for (size_t i = 0; i < COUNT(FLOATS); i++)
        if (strcmp(key, FLOATS[i].key) == 0) return true;
    return blob_rule_writes(key);
}

static void put_config(Draft *d, const BlobConfig *c, const char *const *labels) {
    put_pair(d, DIGEST_KEY, ZEROS);
    put_pair(d, "router.format", BLOB_FORMAT);
    for (size_t i = 0; i < COUNT(FIXED); i++) put_pair(d, FIXED[i].key, FIXED[i].value);
    char text[48];
    for (size_t i = 0; i < COUNT(NUMBERS); i++) {
        int v;
        memcpy(&v, (const char *)c + NUMBERS[i].offset, sizeof v);
        (void)snprintf(text, sizeof text, "%d", v);
        put_pair(d, NUMBERS[i].key, text);
    }
    for (size_t i = 0; i < COUNT(FLOATS); i++) {
        float v;
        Buf buf = {0};
        memcpy(&v, (const char *)c + FLOATS[i].offset, sizeof v);
        hexfloat_put(&buf, v);
        d->failed = d->failed || buf.failed;
        put_pair(d, FLOATS[i].key, buf.data ? buf.data : "");
        buf_free(&buf);
    }
    if (!blob_rule_write(&c->decide, labels, c->num_labels, put_given_pair, d)) d->failed = true;
    put_pair(d, "router.plain_text", c->plain_text ? "true" : "false");
    for (int i = 0; i < c->num_labels; i++) {
        (void)snprintf(text, sizeof text, "router.label.%d", i);
        put_pair(d, text, labels[i]);
    }
    blob_taxonomy_write(&c->taxonomy, put_given_pair, d);
}

static void put_tensors(Draft *d, const BlobConfig *c, const void *const *data, size_t spm_bytes) {
    static const char NOTHING[BLOB_ALIGN];
    uint64_t end = 0;
    for (size_t i = 0; i < blob_count(c); i++) {
        BlobSpec spec;
        blob_spec(&spec, c, i);
        if (spec.shape[0] < 0) spec.shape[0] = (int64_t)spm_bytes;
        Tensor t = {.data = (void *)data[i], .rank = spec.rank, .dtype = spec.dtype}; /* read only */
        t.shape[0] = spec.shape[0];
        t.shape[1] = spec.rank > 1 ? spec.shape[1] : 0;
        const size_t bytes = (size_t)tensor_count(&t) * tensor_dtype_bytes(t.dtype);
        char key[BLOB_NAME_MAX + 16], hex[SHA256_HEX];
        (void)snprintf(key, sizeof key, "router.sha256.%s", spec.name);
        sha256_hex_of(hex, data[i], bytes);
        put_pair(d, key, hex);
        d->items[d->item_count++] = (SafetensorsItem){keep(d, spec.name), t};
        end += bytes;
        const uint64_t pad = (0 - end) % BLOB_ALIGN;
        if (!pad) continue;
        (void)snprintf(key, sizeof key, "router.pad.%zu", i);
        const Tensor filler = {
            .data = (void *)NOTHING, .rank = 1, .shape = {(int64_t)pad}, .dtype = DTYPE_U8};
        d->items[d->item_count++] = (SafetensorsItem){keep(d, key), filler};
        end += pad;
    }
}

static ErrCode put_file(Buf *out, const Draft *d, Err *err) {
    Buf head = {0};
    ErrCode rc = safetensors_header(&head, d->items, d->item_count, d->pairs, d->pair_count, BLOB_ALIGN, err);
    if (rc == ERR_OK && head.len - 8 > BLOB_HEADER_MAX)
        rc = err_set(err, ERR_ARGUMENT,
                     "the header would have %zu bytes, more than the %llu that a blob allows", head.len,
                     (unsigned long long)BLOB_HEADER_MAX);
    if (rc == ERR_OK) {
        assert(memcmp(head.data + 8, HEAD, sizeof HEAD - 1) == 0);
        char hex[SHA256_HEX];
        header_digest(hex, head.data, head.len);
        memcpy(head.data + DIGEST_AT, hex, 64);
        size_t total = head.len;
        for (size_t i = 0; i < d->item_count; i++)
            total += (size_t)tensor_count(&d->items[i].tensor) * tensor_dtype_bytes(d->items[i].tensor.dtype);
        buf_clear(out);
        (void)buf_reserve(out, total);
        buf_put(out, head.data, head.len);
        for (size_t i = 0; i < d->item_count; i++) {
            const Tensor *t = &d->items[i].tensor;
            buf_put(out, t->data, (size_t)tensor_count(t) * tensor_dtype_bytes(t->dtype));
        }
        rc = buf_ok(out, err);
    }
    buf_free(&head);
    return rc;
}

ErrCode blob_write(Buf *out, const BlobConfig *config, const char *const *labels, const void *const *data,
                   size_t spm_bytes, const SafetensorsPair *metadata, size_t metadata_count, Err *err) {
    const size_t tensors = blob_count(config);
    const size_t K = (size_t)config->num_labels;
    const size_t own = 8 + COUNT(FIXED) + COUNT(NUMBERS) + COUNT(FLOATS) + K + blob_rule_pairs(K) +
                       blob_taxonomy_pairs(&config->taxonomy) + tensors;
    Draft d = {.string_max = 2 * own + 2 * tensors};
    ErrCode rc = mem_new(&d.pairs, own + metadata_count, sizeof *d.pairs, "the blob's metadata", err);
    if (rc != ERR_OK) goto done;
    rc = mem_new(&d.items, 2 * tensors, sizeof *d.items, "the blob's tensor table", err);
    if (rc != ERR_OK) goto done;
    rc = mem_new(&d.strings, d.string_max, sizeof *d.strings, "the blob's metadata", err);
    if (rc != ERR_OK) goto done;
    put_config(&d, config, labels);
    for (size_t i = 0; i < metadata_count; i++) d.pairs[d.pair_count++] = metadata[i];
    put_tensors(&d, config, data, spm_bytes);
    rc =
        d.failed ? err_set(err, ERR_MEMORY, "out of memory for the blob's metadata") : put_file(out, &d, err);
done:
    for (size_t i = 0; i < d.string_count; i++) mem_free(d.strings[i]);
    mem_free(d.strings);
    mem_free(d.pairs);
    mem_free(d.items);
    return rc;
}

ErrCode blob_pack(Buf *out, const Buf *blob, Err *err) {
    buf_clear(out);
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    const size_t bound = ZSTD_compressBound(blob->len);
    ErrCode rc = ERR_OK;
    if (!zstd || !buf_reserve(out, bound)) {
        rc = err_set(err, ERR_MEMORY, "out of memory packing %zu bytes", blob->len);
    } else {
        (void)ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, PACK_LEVEL);
        (void)ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
        const size_t n = ZSTD_compress2(zstd, out->data, bound, blob->data, blob->len);
        if (ZSTD_isError(n))
            rc = err_set(err, ERR_BACKEND, "zstd: %s", ZSTD_getErrorName(n));
        else
            out->len = n;
    }
    ZSTD_freeCCtx(zstd);
    return rc;
}
