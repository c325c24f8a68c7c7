#include "export/forward.h"

#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "export/approx.h"
#include "model/buckets.h"

/* ---- setting up ---- */

enum { LINEARS = 6, TABLES = 2 };

static const int LINEAR_AT[LINEARS] = {BLOB_Q, BLOB_K, BLOB_V, BLOB_O, BLOB_UP, BLOB_DOWN};
static const int TABLE_AT[TABLES] = {BLOB_POSITION_KEY, BLOB_POSITION_QUERY};

static Int8Linear linear_of(const Blob *b, size_t layer, int at) {
    BlobSpec spec;
    const size_t i = BLOB_LAYER + layer * BLOB_PER_LAYER + (size_t)at;
    blob_spec(&spec, &b->config, i);
    return (Int8Linear){b->data[i], b->data[i + 1], b->data[i + 2], (int)spec.shape[0], (int)spec.shape[1]};
}

typedef struct {
    Blob *blob;
    bool packs;
    char *scratch;
    size_t scratch_bytes; /* of one thread */
} PackJob;

/* (rows, cols) to (cols, rows), the rows last to first, by blocks that stay in the cache. */
static void turn(uint16_t *table, size_t rows, size_t cols, uint16_t *copy) {
    enum { BLOCK = 32 };
    memcpy(copy, table, rows * cols * sizeof *table);
    for (size_t r = 0; r < rows; r += BLOCK)
        for (size_t c = 0; c < cols; c += BLOCK)
            for (size_t k = c; k < cols && k < c + BLOCK; k++)
                for (size_t i = r; i < rows && i < r + BLOCK; i++)
                    table[k * rows + (rows - 1 - i)] = copy[i * cols + k];
}

static void pack_task(void *arg, size_t i, int thread) {
    const PackJob *job = arg;
    const BlobConfig *c = &job->blob->config;
    const size_t layer = i / (LINEARS + TABLES), which = i % (LINEARS + TABLES);
    char *scratch = job->scratch + (size_t)thread * job->scratch_bytes;
    void *const *data = job->blob->data + BLOB_LAYER + layer * BLOB_PER_LAYER;
    if (which >= LINEARS) {
        turn(data[TABLE_AT[which - LINEARS]], 2 * (size_t)c->position_buckets, (size_t)c->hidden_size,
             (uint16_t *)(void *)scratch);
    } else if (job->packs) {
        const Int8Linear l = linear_of(job->blob, layer, LINEAR_AT[which]);
        int8_pack(data[LINEAR_AT[which]], l.out, l.in, scratch);
    }
}

static ErrCode pack(Blob *blob, const Int8Kernels *kernels, Threads *threads, Err *err) {
    const BlobConfig *c = &blob->config;
    const size_t H = (size_t)c->hidden_size, F = (size_t)c->intermediate_size;
    const size_t panel = INT8_PANEL * (H > F ? H : F);
    const size_t table = 2 * (size_t)c->position_buckets * H * sizeof(uint16_t);
    const size_t most = panel > table ? panel : table;
    PackJob job = {.blob = blob,
                   .packs = kernels->packs,
                   .scratch_bytes = (most + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN};
    TRY(mem_new(&job.scratch, (size_t)threads_count(threads), job.scratch_bytes, "packing weights", err));
    threads_run(threads, pack_task, &job, (size_t)c->num_hidden_layers * (LINEARS + TABLES));
    mem_free(job.scratch);
    return ERR_OK;
}

static ForwardLayer layer_of(const Blob *blob, size_t layer) {
    void *const *data = blob->data + BLOB_LAYER + layer * BLOB_PER_LAYER;
    return (ForwardLayer){.q = linear_of(blob, layer, BLOB_Q),
                          .k = linear_of(blob, layer, BLOB_K),
                          .v = linear_of(blob, layer, BLOB_V),
                          .o = linear_of(blob, layer, BLOB_O),
                          .up = linear_of(blob, layer, BLOB_UP),
                          .down = linear_of(blob, layer, BLOB_DOWN),
                          .attn_norm_w = data[BLOB_ATTN_NORM_W],
                          .attn_norm_b = data[BLOB_ATTN_NORM_B],
                          .ffn_norm_w = data[BLOB_FFN_NORM_W],
                          .ffn_norm_b = data[BLOB_FFN_NORM_B],
                          .position_key = data[BLOB_POSITION_KEY],
                          .position_query = data[BLOB_POSITION_QUERY]};
}

ErrCode forward_init(Forward *out, Blob *blob, const Int8Kernels *kernels, Threads *threads, Err *err) {
    const BlobConfig *c = &blob->config;
    const int most = c->max_tokens - 1;
    *out = (Forward){.blob = blob, .kernels = kernels};
    ErrCode rc = mem_new(&out->layers, (size_t)c->num_hidden_layers, sizeof *out->layers, "the layers", err);
    if (rc == ERR_OK)
        rc = mem_new(&out->column, 2 * (size_t)most + 1, sizeof *out->column, "the positions", err);
    if (rc == ERR_OK) rc = pack(blob, kernels, threads, err);
    if (rc != ERR_OK) {
        forward_free(out);
        return rc;
    }
    for (int l = 0; l < c->num_hidden_layers; l++) out->layers[l] = layer_of(blob, (size_t)l);
    for (int t = 0; t <= 2 * most; t++)
        out->column[t] = 2 * c->position_buckets - 1 -
                         buckets_row(most - t, c->position_buckets, c->max_relative_positions);
    return ERR_OK;
}

void forward_free(Forward *forward) {
    mem_free(forward->layers);
    mem_free(forward->column);
    *forward = (Forward){0};
}

/* ---- working memory ---- */

/* Bytes from one token's 8-bit values to the next: an odd number of cache lines, because rows a power of
 * two apart would share a few cache sets. */
static size_t stride_of(int in) {
    return (((size_t)in + MEM_ALIGN - 1) / MEM_ALIGN | 1) * MEM_ALIGN;
}

/* The same code counts (arena zeroed) and allocates. */
static void space_layout(ForwardSpace *s, const Forward *f) {
    const BlobConfig *c = &f->blob->config;
    const int most = c->hidden_size > c->intermediate_size ? c->hidden_size : c->intermediate_size;
    const size_t N = (size_t)s->tokens, H = (size_t)c->hidden_size, F = (size_t)c->intermediate_size;
    const size_t attention =
        sizeof(float) * f->kernels->lanes->attention_scratch(
                            s->longest, c->hidden_size / c->num_attention_heads, 2 * c->position_buckets);
    const size_t linear = int8_scratch(most), scratch = attention > linear ? attention : linear;
    Arena *a = &s->arena;
    s->x = arena_push(a, N * H, sizeof(float));
    s->q = arena_push(a, N * H, sizeof(float));
    s->k = arena_push(a, N * H, sizeof(float));
    s->v = arena_push(a, N * H, sizeof(float));
    s->context = arena_push(a, N * H, sizeof(float));
    s->y = arena_push(a, N * H, sizeof(float));
    s->up = arena_push(a, N * F, sizeof(float));
    s->rows.q = arena_push(a, N, stride_of(most));
    s->rows.scale = arena_push(a, N, sizeof *s->rows.scale);
    s->rows.start = arena_push(a, N, sizeof *s->rows.start);
    s->ids = arena_push(a, N, sizeof *s->ids);
    s->first = arena_push(a, (size_t)s->texts, sizeof *s->first);
    s->scratch_bytes = (scratch + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    s->scratch = arena_push(a, (size_t)s->threads, s->scratch_bytes);
}

/* Room for `needed`; up to `usual` for twice that, so that sizes settle soon. */
static int grown(int has, int needed, int usual) {
    const int more = needed >= usual ? needed : 2 * needed < usual ? 2 * needed : usual;
    return needed <= has ? has : more;
}

static ErrCode space_grow(ForwardSpace *s, const Forward *f, int tokens, int texts, int longest, int threads,
                          Err *err) {
    if (tokens <= s->tokens && texts <= s->texts && longest <= s->longest && threads <= s->threads)
        return ERR_OK;
    const ForwardSpace sizes = {.tokens = grown(s->tokens, tokens, FORWARD_GROUP_TOKENS),
                                .texts = grown(s->texts, texts, FORWARD_GROUP_TOKENS),
                                .longest = grown(s->longest, longest, f->blob->config.max_tokens),
                                .threads = threads > s->threads ? threads : s->threads};
    forward_space_free(s);
    ForwardSpace space = sizes;
    space_layout(&space, f);
    const size_t bytes = space.arena.used;
    space = sizes;
    TRY(arena_init(&space.arena, bytes, "the activations", err));
    space_layout(&space, f);
    *s = space;
    return ERR_OK;
}

void forward_space_free(ForwardSpace *space) {
    arena_free(&space->arena);
    *space = (ForwardSpace){0};
}

/* ---- one group of texts ---- */

typedef struct {
    const Forward *forward;
    ForwardSpace *space;
    const ForwardText *texts;
    int count, tokens;
    Threads *threads;
} Run;

/* 8-bit rows of `in` values, in the space's memory. */
static Int8Rows rows_of(const Run *run, int in) {
    Int8Rows rows = run->space->rows;
    rows.stride = stride_of(in);
    return rows;
}

/* ---- linear layers: tasks are blocks of outputs ---- */

typedef struct {
    const Run *run;
    const Int8Linear *layer[3]; /* of one shape */
    float *y[3];
    const Int8Linear *after; /* what is multiplied next, or NULL */
    Int8Rows x;
    int count, rows, step;
    bool gelu;
} Product;

/* Block i of the layers of one kind. */
static Int8Next block_of(const Int8Linear *layer, size_t i, int step) {
    const size_t at = i * (size_t)step, out = (size_t)layer->out, in = (size_t)layer->in;
    if (at >= out) return (Int8Next){0};
    const size_t outputs = out - at < (size_t)step ? out - at : (size_t)step;
    return (Int8Next){(const char *)layer->w + at * in, outputs * in};
}

static void product_task(void *arg, size_t i, int thread) {
    const Product *p = arg;
    const Run *run = p->run;
    const Int8Kernels *k = run->forward->kernels;
    const size_t per_layer = ((size_t)p->layer[0]->out + (size_t)p->step - 1) / (size_t)p->step;
    const size_t which = i / per_layer, total = per_layer * (size_t)p->count;
    const int from = (int)(i % per_layer) * p->step, out = p->layer[which]->out;
    const int to = out - from < p->step ? out : from + p->step;
    /* With every thread at work, this one's next block is as many on as there are threads. */
    const size_t then = i + (size_t)threads_count(run->threads);
    const Int8Next next = then < total ? block_of(p->layer[then / per_layer], then % per_layer, p->step)
                          : p->after   ? block_of(p->after, then - total, p->step)
                                       : (Int8Next){0};
    k->linear(p->y[which], &p->x, p->rows, p->layer[which], from, to, next,
              run->space->scratch + (size_t)thread * run->space->scratch_bytes);
    if (!p->gelu) return;
    for (int n = 0; n < p->rows; n++)
        k->lanes->gelu(p->y[which] + (size_t)n * (size_t)out + (size_t)from, (size_t)(to - from));
}

/* Whole blocks, but smaller ones where there are many threads. */
static void multiply(Product *p) {
    const int threads = threads_count(p->run->threads), outputs = p->layer[0]->out * p->count;
    p->step = INT8_BLOCK;
    while (p->step > INT8_PANEL && outputs / p->step < 2 * threads) p->step /= 2;
    const size_t per_layer = ((size_t)p->layer[0]->out + (size_t)p->step - 1) / (size_t)p->step;
    threads_run(p->run->threads, product_task, p, per_layer * (size_t)p->count);
}

static void multiply_one(const Run *run, float *y, int rows, const Int8Linear *layer, const Int8Linear *after,
                         bool gelu) {
    multiply(&(Product){.run = run,
                        .layer = {layer},
                        .y = {y},
                        .after = after,
                        .x = rows_of(run, layer->in),
                        .count = 1,
                        .rows = rows,
                        .gelu = gelu});
}

/* ---- what is done row by row ---- */

typedef enum { ROW_EMBED, ROW_QUANTIZE, ROW_NORM } RowKind;

typedef struct {
    const Run *run;
    RowKind kind;
    const float *from; /* (rows, in): what is quantised, or added to x and normed first */
    const float *w, *b;
    Int8Rows to;
    int rows, in, per_task;
} RowJob;

static void row(const RowJob *job, int n) {
    const Lanes *lanes = job->run->forward->kernels->lanes;
    const Blob *blob = job->run->forward->blob;
    const float eps = blob->config.layer_norm_eps;
    const size_t in = (size_t)job->in;
    float *x = job->kind == ROW_QUANTIZE ? NULL : job->run->space->x + (size_t)n * in;
    const float *from = job->kind == ROW_EMBED ? NULL : job->from + (size_t)n * in;
    if (job->kind == ROW_EMBED) {
        const size_t id = (size_t)job->run->space->ids[n];
        const float *scale = blob->data[BLOB_WORD_SCALE];
        lanes->embed(x, (const int8_t *)blob->data[BLOB_WORD] + id * in, scale[id], job->in);
        lanes->norm(x, x, NULL, job->w, job->b, eps, job->in);
        from = x;
    } else if (job->kind == ROW_NORM) {
        lanes->norm(x, from, x, job->w, job->b, eps, job->in);
        from = x;
    }
    lanes->quantize(job->to.q + (size_t)n * job->to.stride, &job->to.scale[n], &job->to.start[n], from,
                    job->in);
}

static void row_task(void *arg, size_t i, int thread) {
    (void)thread;
    const RowJob *job = arg;
    const int first = (int)i * job->per_task;
    for (int n = first; n < job->rows && n < first + job->per_task; n++) row(job, n);
}

/* Leaves rows of `in` values in 8 bits, for the linear layer that follows. */
static void each_row(const Run *run, RowKind kind, const float *from, const float *w, const float *b,
                     int rows, int in) {
    enum { VALUES_MIN = 4096 }; /* of a task, which else is not worth another thread's while */
    const int threads = threads_count(run->threads), least = (VALUES_MIN + in - 1) / in;
    const int share = (rows + threads - 1) / threads;
    RowJob job = {.run = run,
                  .kind = kind,
                  .from = from,
                  .w = w,
                  .b = b,
                  .to = rows_of(run, in),
                  .rows = rows,
                  .in = in};
    job.per_task = share > least ? share : least;
    threads_run(run->threads, row_task, &job, (size_t)((rows + job.per_task - 1) / job.per_task));
}

/* ---- attention: tasks are heads of texts ---- */

typedef struct {
    const Run *run;
    const ForwardLayer *layer;
    bool last; /* only the first token of each text asks, and q and context have one row for each text */
} AttentionJob;

static void attention_task(void *arg, size_t i, int thread) {
    const AttentionJob *job = arg;
    const Run *run = job->run;
    const ForwardSpace *s = run->space;
    const Forward *f = run->forward;
    const BlobConfig *c = &f->blob->config;
    const size_t H = (size_t)c->hidden_size, A = (size_t)c->num_attention_heads, D = H / A;
    const size_t columns = 2 * (size_t)c->position_buckets, text = i / A, head = i % A;
    const size_t row = s->first[text] * H + head * D, query = job->last ? text * H + head * D : row;
    const int L = run->texts[text].n;
    const LanesHead h = {.q = s->q + query,
                         .k = s->k + row,
                         .v = s->v + row,
                         .out = s->context + query,
                         .position_key = job->layer->position_key + head * D * columns,
                         .position_query = job->layer->position_query + head * D * columns,
                         .column = f->column + (c->max_tokens - L),
                         .L = L,
                         .queries = job->last ? 1 : L,
                         .D = (int)D,
                         .columns = (int)columns,
                         .stride = H};
    f->kernels->lanes->attention(&h, (float *)(void *)(s->scratch + (size_t)thread * s->scratch_bytes));
}

/* ---- the model ---- */

/* On entry the rows x of all tokens are in 8 bits. Of the last layer only the first token of each text is
 * used, so only its query is asked and only its row goes on. */
static void run_layer(const Run *run, int l) {
    const Forward *f = run->forward;
    const BlobConfig *c = &f->blob->config;
    const ForwardLayer *layer = &f->layers[l];
    ForwardSpace *s = run->space;
    const int H = c->hidden_size, F = c->intermediate_size, N = run->tokens;
    const bool last = l == c->num_hidden_layers - 1;
    const int queries = last ? run->count : N;
    Product keys = {.run = run,
                    .layer = {&layer->k, &layer->v, &layer->q},
                    .y = {s->k, s->v, s->q},
                    .after = last ? &layer->q : &layer->o,
                    .x = rows_of(run, H),
                    .count = last ? 2 : 3,
                    .rows = N};
    multiply(&keys);
    if (last) {
        for (int i = 1; i < run->count; i++)
            memmove(s->x + (size_t)i * (size_t)H, s->x + s->first[i] * (size_t)H, (size_t)H * sizeof *s->x);
        each_row(run, ROW_QUANTIZE, s->x, NULL, NULL, queries, H);
        multiply_one(run, s->q, queries, &layer->q, &layer->o, false);
    }
    threads_run(run->threads, attention_task, &(AttentionJob){run, layer, last},
                (size_t)run->count * (size_t)c->num_attention_heads);
    each_row(run, ROW_QUANTIZE, s->context, NULL, NULL, queries, H);
    multiply_one(run, s->y, queries, &layer->o, &layer->up, false);
    each_row(run, ROW_NORM, s->y, layer->attn_norm_w, layer->attn_norm_b, queries, H);
    multiply_one(run, s->up, queries, &layer->up, &layer->down, true);
    each_row(run, ROW_QUANTIZE, s->up, NULL, NULL, queries, F);
    multiply_one(run, s->y, queries, &layer->down, last ? NULL : &layer[1].k, false);
    each_row(run, ROW_NORM, s->y, layer->ffn_norm_w, layer->ffn_norm_b, queries, H);
}

typedef struct {
    const Run *run;
    int per_task;
} PoolJob;

static void pool_task(void *arg, size_t i, int thread) {
    (void)thread;
    const PoolJob *job = arg;
    const Run *run = job->run;
    const Blob *b = run->forward->blob;
    const size_t top = blob_top(&b->config);
    const int H = b->config.hidden_size, first = (int)i * job->per_task;
    const float *w = b->data[top + BLOB_POOL_W], *bias = b->data[top + BLOB_POOL_B];
    for (int o = first; o < H && o < first + job->per_task; o++)
        for (size_t t = 0; t < (size_t)run->count; t++) {
            const float *x = run->space->x + t * (size_t)H, *row_w = w + (size_t)o * (size_t)H;
            run->space->y[t * (size_t)H + (size_t)o] =
                approx_gelu(run->forward->kernels->lanes->dot(x, row_w, H) + bias[o]);
        }
}

static void run_head(const Run *run, float *logits) {
    const Blob *b = run->forward->blob;
    const size_t top = blob_top(&b->config);
    const int H = b->config.hidden_size, K = b->config.num_labels, threads = threads_count(run->threads);
    PoolJob job = {run, (H + threads - 1) / threads};
    threads_run(run->threads, pool_task, &job, (size_t)((H + job.per_task - 1) / job.per_task));
    const float *w = b->data[top + BLOB_HEAD_W], *bias = b->data[top + BLOB_HEAD_B];
    for (int t = 0; t < run->count; t++)
        for (int k = 0; k < K; k++)
            *logits++ = run->forward->kernels->lanes->dot(run->space->y + (size_t)t * (size_t)H,
                                                          w + (size_t)k * (size_t)H, H) +
                        bias[k];
}

static ErrCode check_text(const Forward *f, const ForwardText *text, Err *err) {
    const BlobConfig *c = &f->blob->config;
    if (text->n < 1 || text->n > c->max_tokens)
        return err_set(err, ERR_ARGUMENT, "a sequence of %d tokens, expected 1 to %d", text->n,
                       c->max_tokens);
    for (int i = 0; i < text->n; i++)
        if (text->ids[i] < 0 || text->ids[i] >= c->vocab_size)
            return err_set(err, ERR_ARGUMENT, "token %d has the id %d, expected 0 to %d", i, text->ids[i],
                           c->vocab_size - 1);
    return ERR_OK;
}

static ErrCode check_logits(const float *logits, int K, Err *err) {
    for (int k = 0; k < K; k++)
        if (!isfinite(logits[k]))
            return err_set(err, ERR_NUMERIC, "logit %d is not a finite number: the blob's weights overflow",
                           k);
    return ERR_OK;
}

ErrCode forward_run(const Forward *f, ForwardSpace *space, float *logits, const ForwardText *texts, int count,
                    Threads *threads, int *failed, Err *err) {
    const BlobConfig *c = &f->blob->config;
    Run run = {.forward = f, .space = space, .texts = texts, .count = count, .threads = threads};
    int ignored, longest = 0;
    int *at = failed ? failed : &ignored;
    for (*at = 0; *at < count; (*at)++) {
        TRY(check_text(f, &texts[*at], err));
        run.tokens += texts[*at].n;
        longest = texts[*at].n > longest ? texts[*at].n : longest;
    }
    *at = 0;
    TRY(space_grow(space, f, run.tokens, count, longest, threads_count(threads), err));
    for (size_t t = 0, n = 0; t < (size_t)count; n += (size_t)texts[t++].n) {
        space->first[t] = n;
        memcpy(space->ids + n, texts[t].ids, (size_t)texts[t].n * sizeof *space->ids);
    }
    each_row(&run, ROW_EMBED, NULL, f->blob->data[BLOB_EMBED_NORM_W], f->blob->data[BLOB_EMBED_NORM_B],
             run.tokens, c->hidden_size);
    for (int l = 0; l < c->num_hidden_layers; l++) run_layer(&run, l);
    run_head(&run, logits);
    for (*at = 0; *at < count; (*at)++)
        TRY(check_logits(logits + (size_t)*at * (size_t)c->num_labels, c->num_labels, err));
    return ERR_OK;
}
