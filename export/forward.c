#include "export/forward.h"

#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "export/approx.h"
#include "model/buckets.h"

/* LANES sums run side by side, whatever the width of the machine's vectors, and are then added in one fixed
 * order: the compiler may vectorise, and the result is the same everywhere. */
enum { LANES = 16 };

static float add_lanes(const float lane[LANES]) {
    float eight[8], four[4];
    for (int c = 0; c < 8; c++) eight[c] = lane[c] + lane[c + 8];
    for (int c = 0; c < 4; c++) four[c] = eight[c] + eight[c + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

static float dot(const float *a, const float *b, int n) {
    float lane[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int c = 0; c < LANES; c++) lane[c] += a[i + c] * b[i + c];
    for (int c = 0; i + c < n; c++) lane[c] += a[i + c] * b[i + c];
    return add_lanes(lane);
}

static float sum(const float *x, int n) {
    float lane[LANES] = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int c = 0; c < LANES; c++) lane[c] += x[i + c];
    for (int c = 0; i + c < n; c++) lane[c] += x[i + c];
    return add_lanes(lane);
}

/* y = LN(x + r); r may be NULL, y may be x. (rows, H) */
static void norm(float *y, const float *x, const float *r, const float *w, const float *b, float eps,
                 int rows, int H) {
    for (int n = 0; n < rows; n++, y += H, x += H) {
        for (int i = 0; i < H; i++) y[i] = r ? x[i] + r[i] : x[i];
        if (r) r += H;
        const float mean = sum(y, H) / (float)H;
        for (int i = 0; i < H; i++) y[i] -= mean;
        const float rstd = 1.0f / sqrtf(dot(y, y, H) / (float)H + eps);
        for (int i = 0; i < H; i++) y[i] = y[i] * rstd * w[i] + b[i];
    }
}

/* ---- setting up ---- */

static Int8Linear linear_of(const Blob *b, size_t at, int out, int in) {
    return (Int8Linear){b->data[at], b->data[at + 1], b->data[at + 2], out, in};
}

ErrCode forward_init(Forward *out, const Blob *blob, Err *err) {
    const BlobConfig *c = &blob->config;
    const int H = c->hidden_size, F = c->intermediate_size;
    *out = (Forward){.blob = blob, .kernels = int8_kernels()};
    ErrCode rc = mem_new(&out->layers, (size_t)c->num_hidden_layers, sizeof *out->layers, "the layers", err);
    if (rc == ERR_OK)
        rc = mem_new(&out->row, 2 * (size_t)c->max_tokens - 1, sizeof *out->row, "the positions", err);
    if (rc != ERR_OK) {
        forward_free(out);
        return rc;
    }
    for (int l = 0; l < c->num_hidden_layers; l++) {
        const size_t at = BLOB_LAYER + (size_t)l * BLOB_PER_LAYER;
        out->layers[l] = (ForwardLayer){.q = linear_of(blob, at + BLOB_Q, H, H),
                                        .k = linear_of(blob, at + BLOB_K, H, H),
                                        .v = linear_of(blob, at + BLOB_V, H, H),
                                        .o = linear_of(blob, at + BLOB_O, H, H),
                                        .up = linear_of(blob, at + BLOB_UP, F, H),
                                        .down = linear_of(blob, at + BLOB_DOWN, H, F),
                                        .attn_norm_w = blob->data[at + BLOB_ATTN_NORM_W],
                                        .attn_norm_b = blob->data[at + BLOB_ATTN_NORM_B],
                                        .ffn_norm_w = blob->data[at + BLOB_FFN_NORM_W],
                                        .ffn_norm_b = blob->data[at + BLOB_FFN_NORM_B],
                                        .position_key = blob->data[at + BLOB_POSITION_KEY],
                                        .position_query = blob->data[at + BLOB_POSITION_QUERY]};
    }
    for (int i = 0; i < 2 * c->max_tokens - 1; i++)
        out->row[i] = buckets_row(i - (c->max_tokens - 1), c->position_buckets, c->max_relative_positions);
    return ERR_OK;
}

void forward_free(Forward *forward) {
    mem_free(forward->layers);
    mem_free(forward->row);
    *forward = (Forward){0};
}

static size_t padded(size_t n) {
    return (n + LANES - 1) / LANES * LANES;
}

/* Numbers from one row of a transposed matrix to the next: an odd number of cache lines, because rows a power
 * of two apart would share a few cache sets. */
static size_t stride_of(size_t columns) {
    return (padded(columns) / LANES | 1) * LANES;
}

/* The same code counts (arena zeroed) and allocates. */
static void space_layout(ForwardSpace *s, const BlobConfig *c, int longest) {
    const size_t L = (size_t)longest, H = (size_t)c->hidden_size, F = (size_t)c->intermediate_size;
    const size_t D = H / (size_t)c->num_attention_heads, wide = H > F ? H : F;
    Arena *a = &s->arena;
    s->x = arena_push(a, L * H, sizeof(float));
    s->q = arena_push(a, L * H, sizeof(float));
    s->k = arena_push(a, L * H, sizeof(float));
    s->v = arena_push(a, L * H, sizeof(float));
    s->context = arena_push(a, L * H, sizeof(float));
    s->y = arena_push(a, L * H, sizeof(float));
    s->up = arena_push(a, L * F, sizeof(float));
    s->rows.q = arena_push(a, L * wide, sizeof *s->rows.q);
    s->rows.scale = arena_push(a, L, sizeof *s->rows.scale);
    s->scratch = arena_push(a, int8_scratch((int)wide), 1);
    s->key = arena_push(a, D * stride_of(L), sizeof(float));
    s->position_key = arena_push(a, D * stride_of(2 * padded(L)), sizeof(float));
    s->position_query = arena_push(a, D * stride_of(2 * padded(L)), sizeof(float));
    s->score = arena_push(a, padded(L), sizeof(float));
}

static ErrCode space_grow(ForwardSpace *s, const BlobConfig *c, int longest, Err *err) {
    if (longest <= s->longest) return ERR_OK;
    forward_space_free(s);
    const int most = longest < c->max_tokens / 2 ? 2 * longest : c->max_tokens; /* so that it settles soon */
    ForwardSpace count = {0};
    space_layout(&count, c, most);
    TRY(arena_init(&s->arena, count.arena.used, "the activations", err));
    space_layout(s, c, most);
    s->longest = most;
    return ERR_OK;
}

void forward_space_free(ForwardSpace *space) {
    arena_free(&space->arena);
    *space = (ForwardSpace){0};
}

/* ---- attention ---- */

/* Half precision to float for finite values: the exponent is moved by a multiplication, which also gets
 * subnormals right, so that the loop has no branches. */
static float half(uint16_t h) {
    const uint32_t bits = (uint32_t)(h & 0x7fffu) << 13, sign = (uint32_t)(h & 0x8000u) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;
    uint32_t out;
    memcpy(&out, &f, sizeof out);
    out |= sign;
    memcpy(&f, &out, sizeof f);
    return f;
}

/* Keys of one head, and (as far as the first `queries` tokens need them) its part of the position tables for
 * column t = j - i + L - 1, transposed so that the scores of one query are contiguous in j. */
static void head_layout(const Forward *f, const ForwardSpace *s, const ForwardLayer *layer, int head,
                        int queries, int L) {
    const BlobConfig *c = &f->blob->config;
    const int H = c->hidden_size, D = H / c->num_attention_heads;
    const size_t stride = stride_of((size_t)L), wide = stride_of(2 * padded((size_t)L));
    const size_t first = (size_t)head * (size_t)D, last = 2 * (size_t)L - 2;
    const int32_t *row = f->row + c->max_tokens - 1;
    for (int d = 0; d < D; d++) {
        float *key = s->key + (size_t)d * stride;
        for (int j = 0; j < L; j++) key[j] = s->k[(size_t)j * (size_t)H + first + (size_t)d];
        for (size_t j = (size_t)L; j < stride; j++) key[j] = 0;
    }
    for (size_t t = (size_t)(L - queries); t < wide; t++) {
        /* Columns behind the last distance are read, for scores that are then left out: any number will do.
         */
        const size_t from = (size_t)row[L - 1 - (int)(t < last ? t : last)] * (size_t)H + first;
        const uint16_t *key = layer->position_key + from, *query = layer->position_query + from;
        for (size_t d = 0; d < (size_t)D; d++) {
            s->position_key[d * wide + t] = half(key[d]);
            s->position_query[d * wide + t] = half(query[d]);
        }
    }
}

/* score[0 .. L-1] of query i; what lies behind, up to the next multiple of LANES, is written as well. */
static void scores(const ForwardSpace *s, const float *q, int i, int L, int D) {
    const size_t stride = stride_of((size_t)L), wide = stride_of(2 * padded((size_t)L));
    const float scale = 1.0f / sqrtf(3.0f * (float)D);
    for (size_t j = 0; j < (size_t)L; j += LANES) {
        float acc[LANES] = {0};
        const float *key = s->key + j;
        const float *position_key = s->position_key + (size_t)(L - 1 - i) + j;
        const float *position_query = s->position_query + (size_t)(L - 1 - i) + j;
        for (int d = 0; d < D; d++) {
            for (int c = 0; c < LANES; c++)
                acc[c] += q[d] * (key[c] + position_key[c]) + key[c] * position_query[c];
            key += stride;
            position_key += wide;
            position_query += wide;
        }
        for (int c = 0; c < LANES; c++) s->score[j + (size_t)c] = acc[c] * scale;
    }
}

/* Turns x[0 .. n-1] into e^(x - max); returns their sum. */
static float exponentials(float *x, int n) {
    float max = x[0];
    for (int j = 1; j < n; j++) max = x[j] > max ? x[j] : max;
    for (int j = 0; j < n; j++) x[j] = approx_exp(x[j] - max);
    return sum(x, n);
}

/* out[d] = sum_j p[j] v(j,d) over j = 0 .. L-1 in that order. v (L,H), columns 0 .. D-1 */
static void mix(float *out, const float *p, const float *v, int L, int D, int H) {
    int d = 0;
    for (; d + LANES <= D; d += LANES) {
        float acc[LANES] = {0};
        const float *from = v + d;
        for (int j = 0; j < L; j++, from += H)
            for (int c = 0; c < LANES; c++) acc[c] += p[j] * from[c];
        memcpy(out + d, acc, sizeof acc);
    }
    for (; d < D; d++) {
        float acc = 0;
        for (int j = 0; j < L; j++) acc += p[j] * v[(size_t)j * (size_t)H + (size_t)d];
        out[d] = acc;
    }
}

/* Context of the first `queries` tokens. */
static void attention(const Forward *f, const ForwardSpace *s, const ForwardLayer *layer, int queries,
                      int L) {
    const BlobConfig *c = &f->blob->config;
    const int H = c->hidden_size, D = H / c->num_attention_heads;
    for (int head = 0; head < c->num_attention_heads; head++) {
        head_layout(f, s, layer, head, queries, L);
        for (int i = 0; i < queries; i++) {
            const size_t at = (size_t)i * (size_t)H + (size_t)head * (size_t)D;
            scores(s, s->q + at, i, L, D);
            const float inverse = 1.0f / exponentials(s->score, L);
            float *out = s->context + at;
            mix(out, s->score, s->v + (size_t)head * (size_t)D, L, D, H);
            for (int d = 0; d < D; d++) out[d] *= inverse;
        }
    }
}

/* ---- the model ---- */

static void embed(const Forward *f, float *x, const int32_t *ids, int L) {
    const Blob *b = f->blob;
    const int H = b->config.hidden_size;
    const int8_t *word = b->data[BLOB_WORD];
    const float *scale = b->data[BLOB_WORD_SCALE];
    for (int n = 0; n < L; n++) {
        const int8_t *row = word + (size_t)ids[n] * (size_t)H;
        for (int i = 0; i < H; i++) x[(size_t)n * (size_t)H + (size_t)i] = (float)row[i] * scale[ids[n]];
    }
    norm(x, x, NULL, b->data[BLOB_EMBED_NORM_W], b->data[BLOB_EMBED_NORM_B], b->config.layer_norm_eps, L, H);
}

/* Of the last layer only the first token is used, so only its query is asked and only its row goes on. */
static void run_layer(const Forward *f, ForwardSpace *s, const ForwardLayer *layer, int L, int queries) {
    const BlobConfig *c = &f->blob->config;
    const Int8Kernels *k = f->kernels;
    const int H = c->hidden_size, F = c->intermediate_size;
    k->quantize(&s->rows, s->x, L, H);
    k->linear(s->k, &s->rows, L, &layer->k, s->scratch);
    k->linear(s->v, &s->rows, L, &layer->v, s->scratch);
    k->linear(s->q, &s->rows, queries, &layer->q, s->scratch);
    attention(f, s, layer, queries, L);
    k->quantize(&s->rows, s->context, queries, H);
    k->linear(s->y, &s->rows, queries, &layer->o, s->scratch);
    norm(s->x, s->y, s->x, layer->attn_norm_w, layer->attn_norm_b, c->layer_norm_eps, queries, H);
    k->quantize(&s->rows, s->x, queries, H);
    k->linear(s->up, &s->rows, queries, &layer->up, s->scratch);
    const size_t n = (size_t)queries * (size_t)F;
    for (size_t i = 0; i < n; i++) s->up[i] = approx_gelu(s->up[i]);
    k->quantize(&s->rows, s->up, queries, F);
    k->linear(s->y, &s->rows, queries, &layer->down, s->scratch);
    norm(s->x, s->y, s->x, layer->ffn_norm_w, layer->ffn_norm_b, c->layer_norm_eps, queries, H);
}

static void head(const Forward *f, ForwardSpace *s, float *logits) {
    const Blob *b = f->blob;
    const size_t top = blob_top(&b->config);
    const int H = b->config.hidden_size, K = b->config.num_labels;
    const float *w = b->data[top + BLOB_POOL_W], *bias = b->data[top + BLOB_POOL_B];
    for (int o = 0; o < H; o++, w += H) s->y[o] = approx_gelu(dot(s->x, w, H) + bias[o]);
    w = b->data[top + BLOB_HEAD_W];
    bias = b->data[top + BLOB_HEAD_B];
    for (int o = 0; o < K; o++, w += H) logits[o] = dot(s->y, w, H) + bias[o];
}

ErrCode forward_run(const Forward *f, ForwardSpace *space, float *logits, const int32_t *ids, int n,
                    Err *err) {
    const BlobConfig *c = &f->blob->config;
    if (n < 1 || n > c->max_tokens)
        return err_set(err, ERR_ARGUMENT, "a sequence of %d tokens, expected 1 to %d", n, c->max_tokens);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab_size)
            return err_set(err, ERR_ARGUMENT, "token %d has the id %d, expected 0 to %d", i, ids[i],
                           c->vocab_size - 1);
    TRY(space_grow(space, c, n, err));
    embed(f, space->x, ids, n);
    for (int l = 0; l < c->num_hidden_layers; l++)
        run_layer(f, space, &f->layers[l], n, l == c->num_hidden_layers - 1 ? 1 : n);
    head(f, space, logits);
    for (int k = 0; k < c->num_labels; k++)
        if (!isfinite(logits[k]))
            return err_set(err, ERR_NUMERIC, "logit %d is not a finite number: the blob's weights overflow",
                           k);
    return ERR_OK;
}

int forward_softmax(float *p, const float *logits, int K, float temperature) {
    int best = 0;
    for (int k = 0; k < K; k++) {
        p[k] = logits[k] / temperature;
        if (logits[k] > logits[best]) best = k;
    }
    const float total = exponentials(p, K);
    for (int k = 0; k < K; k++) p[k] /= total;
    return best;
}
