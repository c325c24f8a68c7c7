#include "data/batch.h"

#include <assert.h>
#include <string.h>

#include "core/buf.h"
#include "core/mem.h"
#include "core/rng.h"
#include "data/sort.h"

enum { GROUP_BATCHES = 16 };

/* A row kept in the window: where its tokens and text are, and what the shard said of it. */
typedef struct {
    ShardRow row; /* ids and text are set only when a batch is made */
    uint64_t number;
    size_t ids_at, text_at;
} Kept;

struct Batcher {
    Shard *shard;
    BatchRule rule;
    uint64_t epoch;

    /* Where filling stands. */
    uint32_t *blocks; /* order of the blocks */
    size_t block_count, block_next;
    ShardBlock block;
    size_t at, repeat; /* row of the block; how often it still occurs, SIZE_MAX: not yet asked */
    uint64_t window;   /* number of the window in the epoch */

    /* The window: visit[order[0 .. visits-1]] are numbers of kept rows; the first `batches` * batch_rows of
     * them are cut into batches, the rest is left over. */
    Kept *kept;
    size_t kept_count, visit_cap;
    uint32_t *visit, *order;
    size_t visits;
    int32_t *ids;
    size_t ids_len, ids_cap;
    Buf text;
    uint32_t *batch_order;
    size_t batches, batch_next;
    bool last;

    /* The batch handed out. */
    int32_t *out_ids, *start, *label, *micro_start, *seq;
    uint32_t *pick;
    ShardRow *rows;
    uint64_t *number;
};

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static ErrCode allocate(Batcher *b, Err *err) {
    const size_t rows = (size_t)b->rule.batch_rows, longest = (size_t)shard_longest(b->shard);
    const uint64_t all = shard_tokens(b->shard, b->rule.split);
    const size_t four = 4 * rows > BATCH_WINDOW_ROWS ? 4 * rows : BATCH_WINDOW_ROWS;
    const size_t two = 2 * rows * longest > BATCH_WINDOW_TOKENS ? 2 * rows * longest : BATCH_WINDOW_TOKENS;
    /* Every row once, and once more each one left over from the window before and one cut by its end. */
    const uint64_t most = all + (rows + 1) * (uint64_t)longest;
    b->visit_cap = four;
    b->ids_cap = most < two ? (size_t)most : two;
    TRY(mem_new(&b->blocks, b->block_count, sizeof *b->blocks, "the order of blocks", err));
    TRY(mem_new(&b->kept, b->visit_cap, sizeof *b->kept, "the window of rows", err));
    TRY(mem_new(&b->visit, b->visit_cap, sizeof *b->visit, "the window of rows", err));
    TRY(mem_new(&b->order, b->visit_cap, sizeof *b->order, "the window of rows", err));
    TRY(mem_new(&b->batch_order, b->visit_cap, sizeof *b->batch_order, "the order of batches", err));
    TRY(mem_new(&b->ids, b->ids_cap, sizeof *b->ids, "the window of tokens", err));
    TRY(mem_new(&b->out_ids, rows * longest, sizeof *b->out_ids, "a batch of tokens", err));
    TRY(mem_new(&b->start, rows + 1, sizeof *b->start, "a batch", err));
    TRY(mem_new(&b->label, rows, sizeof *b->label, "a batch", err));
    TRY(mem_new(&b->micro_start, rows + 1, sizeof *b->micro_start, "a batch", err));
    TRY(mem_new(&b->seq, rows, sizeof *b->seq, "a batch", err));
    TRY(mem_new(&b->pick, rows, sizeof *b->pick, "a batch", err));
    TRY(mem_new(&b->rows, rows, sizeof *b->rows, "a batch", err));
    return mem_new(&b->number, rows, sizeof *b->number, "a batch", err);
}

ErrCode batch_open(Batcher **out, Shard *shard, const BatchRule *rule, Err *err) {
    *out = NULL;
    if (rule->batch_rows < 1 || rule->batch_rows > BATCH_ROWS_MAX)
        return err_set(err, ERR_ARGUMENT, "batch size: found %d, expected 1 to %d", rule->batch_rows,
                       BATCH_ROWS_MAX);
    if ((uint64_t)rule->batch_rows * (uint64_t)shard_longest(shard) > INT32_MAX)
        return err_set(err, ERR_ARGUMENT, "a batch of %d rows of up to %d tokens is more than 2^31 tokens",
                       rule->batch_rows, shard_longest(shard));
    Batcher *b;
    TRY(mem_new(&b, 1, sizeof *b, "the batches", err));
    b->shard = shard;
    b->rule = *rule;
    b->block_count = shard_blocks(shard, rule->split);
    ErrCode rc = allocate(b, err);
    if (rc == ERR_OK) rc = batch_seek(b, 0, 0, err);
    if (rc != ERR_OK) {
        batch_close(b);
        return rc;
    }
    *out = b;
    return ERR_OK;
}

void batch_close(Batcher *b) {
    if (!b) return;
    void *const owned[] = {b->blocks, b->kept,  b->visit,       b->order, b->ids,  b->batch_order, b->out_ids,
                           b->start,  b->label, b->micro_start, b->seq,   b->pick, b->rows,        b->number};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    buf_free(&b->text);
    shard_block_free(&b->block);
    mem_free(b);
}

/* Is row `number` of n the one that its stretch gives the sample? Stretch j of the m is [j * n / m, (j + 1) * n / m). */
static bool sampled(const BatchRule *rule, uint64_t n, uint64_t number) {
    const uint64_t m = rule->sample;
    if (m == 0 || m >= n || n > UINT32_MAX) return true; /* below, products fit 64 bits */
    const uint64_t j = ((number + 1) * m + n - 1) / n - 1, low = j * n / m, high = (j + 1) * n / m;
    return number == low + rng_bits(rng_key(rule->seed, "sample", 0), j) % (high - low);
}

/* How often a row occurs in an epoch. */
static size_t visits_of(const Batcher *b, uint64_t epoch, float weight, uint64_t number) {
    const BatchRule *rule = &b->rule;
    if (rule->ordered) return sampled(rule, shard_rows(b->shard, rule->split), number);
    const size_t whole = (size_t)weight; /* at most 1000: shard_read checks it */
    const double part = (double)weight - (double)whole;
    return whole + (part > 0 && rng_uniform(rng_key(rule->seed, "visits", epoch), number) < part);
}

ErrCode batch_count(Batcher *b, uint64_t epoch, uint64_t *count, Err *err) {
    const uint64_t rows = (uint64_t)b->rule.batch_rows;
    uint64_t visits = 0;
    ErrCode rc = ERR_OK;
    ShardBlock block = {0};
    for (size_t i = 0; i < b->block_count && rc == ERR_OK; i++) {
        rc = shard_read(b->shard, &block, b->rule.split, i, false, err);
        for (size_t k = 0; k < block.count; k++)
            visits += visits_of(b, epoch, block.rows[k].weight, block.first + k);
    }
    shard_block_free(&block);
    *count = (visits + rows - 1) / rows;
    return rc;
}

static ErrCode keep(Batcher *b, const ShardRow *row, uint64_t number, Err *err) {
    assert(b->kept_count < b->visit_cap && b->ids_len + (size_t)row->tokens <= b->ids_cap);
    Kept *k = &b->kept[b->kept_count++];
    *k = (Kept){.row = *row, .number = number, .ids_at = b->ids_len, .text_at = b->text.len};
    memcpy(b->ids + b->ids_len, row->ids, (size_t)row->tokens * sizeof *b->ids);
    b->ids_len += (size_t)row->tokens;
    if (!row->text) return ERR_OK;
    buf_put(&b->text, row->text, row->text_len);
    return buf_ok(&b->text, err);
}

static bool by_number(const void *context, uint32_t a, uint32_t b) {
    (void)context;
    return a < b;
}

/* Moves the rows behind the full batches to the front of the window: all that the next one needs of it. Taken
 * in the order in which they lie, they only move towards the front. */
static void keep_rest(Batcher *b) {
    const size_t used = b->batches * (size_t)b->rule.batch_rows, rest = b->visits - used;
    for (size_t i = 0; i < rest; i++) b->pick[i] = b->visit[b->order[used + i]];
    sort_rows(b->pick, rest, by_number, NULL);
    size_t count = 0, ids_at = 0, text_at = 0;
    for (size_t i = 0; i < rest; i++) {
        if (i == 0 || b->pick[i] != b->pick[i - 1]) {
            Kept *to = &b->kept[count++];
            *to = b->kept[b->pick[i]];
            memmove(b->ids + ids_at, b->ids + to->ids_at, (size_t)to->row.tokens * sizeof *b->ids);
            if (to->row.text) memmove(b->text.data + text_at, b->text.data + to->text_at, to->row.text_len);
            to->ids_at = ids_at;
            to->text_at = text_at;
            ids_at += (size_t)to->row.tokens;
            if (to->row.text) text_at += to->row.text_len;
        }
        b->visit[i] = (uint32_t)(count - 1);
    }
    b->visits = rest;
    b->kept_count = count;
    b->ids_len = ids_at;
    b->text.len = text_at;
}

/* Puts rows into the window until it is full or the epoch ends. */
static ErrCode fill(Batcher *b, Err *err) {
    const size_t longest = (size_t)shard_longest(b->shard);
    while (b->visits < b->visit_cap && b->ids_len + longest <= b->ids_cap) {
        if (b->at == b->block.count) {
            b->last = b->block_next == b->block_count;
            if (b->last) return ERR_OK;
            TRY(shard_read(b->shard, &b->block, b->rule.split, b->blocks[b->block_next++], b->rule.with_text,
                           err));
            b->at = 0;
        }
        const ShardRow *row = &b->block.rows[b->at];
        const uint64_t number = b->block.first + b->at;
        if (b->repeat == SIZE_MAX) b->repeat = visits_of(b, b->epoch, row->weight, number);
        const size_t take = least(b->repeat, b->visit_cap - b->visits);
        if (take) TRY(keep(b, row, number, err));
        for (size_t i = 0; i < take; i++) b->visit[b->visits++] = (uint32_t)(b->kept_count - 1);
        b->repeat -= take;
        if (b->repeat == 0) {
            b->at++;
            b->repeat = SIZE_MAX;
        }
    }
    return ERR_OK;
}

typedef struct {
    const Batcher *b;
    uint64_t key;
} ByLength;

/* Equal lengths in random order: the order in the file may follow the labels. */
static bool by_length(const void *context, uint32_t x, uint32_t y) {
    const ByLength *c = context;
    const Batcher *b = c->b;
    const int p = b->kept[b->visit[x]].row.tokens, q = b->kept[b->visit[y]].row.tokens;
    if (p != q) return p < q;
    if (b->rule.ordered) return x < y;
    const uint64_t u = rng_bits(c->key, x), v = rng_bits(c->key, y);
    return u != v ? u < v : x < y;
}

static ByLength length_order(const Batcher *b) {
    return (ByLength){b, rng_key(rng_key(b->rule.seed, "ties", b->epoch), "window", b->window)};
}

static ErrCode next_window(Batcher *b, Err *err) {
    keep_rest(b);
    TRY(fill(b, err));
    b->window++;
    b->batch_next = 0;
    b->batches = b->visits / (size_t)b->rule.batch_rows;
    assert(b->batches > 0 || b->last);
    if (b->rule.ordered) {
        for (size_t i = 0; i < b->visits; i++) b->order[i] = (uint32_t)i;
        for (size_t i = 0; i < b->batches; i++) b->batch_order[i] = (uint32_t)i;
        return ERR_OK;
    }
    rng_shuffle(b->order, b->visits, rng_key(rng_key(b->rule.seed, "rows", b->epoch), "window", b->window));
    rng_shuffle(b->batch_order, b->batches,
                rng_key(rng_key(b->rule.seed, "batches", b->epoch), "window", b->window));
    const ByLength context = length_order(b);
    const size_t used = b->batches * (size_t)b->rule.batch_rows;
    const size_t group = (size_t)GROUP_BATCHES * (size_t)b->rule.batch_rows;
    for (size_t i = 0; i < used; i += group)
        sort_rows(b->order + i, least(group, used - i), by_length, &context);
    return ERR_OK;
}

/* The next batch is order[*from .. *from + *count); *count is 0 at the end of the epoch. */
static ErrCode next_range(Batcher *b, size_t *from, size_t *count, Err *err) {
    const size_t rows = (size_t)b->rule.batch_rows;
    while (b->batch_next == b->batches && !b->last) TRY(next_window(b, err));
    *count = 0;
    if (b->batch_next < b->batches) {
        *from = b->batch_order[b->batch_next] * rows;
        *count = rows;
    } else if (b->batch_next == b->batches) {
        *from = b->batches * rows;
        *count = b->visits - *from;
    }
    b->batch_next += *count > 0;
    return ERR_OK;
}

ErrCode batch_seek(Batcher *b, uint64_t epoch, uint64_t skip, Err *err) {
    b->epoch = epoch;
    b->block_next = b->at = b->block.count = 0;
    b->repeat = SIZE_MAX;
    b->window = 0;
    b->kept_count = b->visits = b->ids_len = b->batches = b->batch_next = 0;
    b->last = false;
    buf_clear(&b->text);
    if (b->rule.ordered)
        for (size_t i = 0; i < b->block_count; i++) b->blocks[i] = (uint32_t)i;
    else
        rng_shuffle(b->blocks, b->block_count, rng_key(b->rule.seed, "blocks", epoch));
    for (uint64_t i = 0; i < skip; i++) {
        size_t from, count;
        TRY(next_range(b, &from, &count, err));
        if (count == 0) break;
    }
    return ERR_OK;
}

ErrCode batch_next(Batcher *b, Batch *out, Err *err) {
    *out = (Batch){0};
    size_t from = 0, count;
    TRY(next_range(b, &from, &count, err));
    const ByLength context = length_order(b);
    if (count) memcpy(b->pick, b->order + from, count * sizeof *b->pick);
    sort_rows(b->pick, count, by_length, &context);
    int32_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const Kept *k = &b->kept[b->visit[b->pick[i]]];
        b->rows[i] = k->row;
        b->rows[i].ids = b->out_ids + at;
        if (k->row.text) b->rows[i].text = b->text.data + k->text_at;
        memcpy(b->out_ids + at, b->ids + k->ids_at, (size_t)k->row.tokens * sizeof *b->ids);
        b->start[i] = at;
        b->label[i] = k->row.label;
        b->number[i] = k->number;
        at += k->row.tokens;
    }
    b->start[count] = at;
    out->packed = (Packed){.N = at,
                           .S = (int)count,
                           .longest = count ? b->rows[count - 1].tokens : 0,
                           .ids = b->out_ids,
                           .start = b->start};
    out->label = b->label;
    out->rows = b->rows;
    out->number = b->number;
    return ERR_OK;
}

void batch_micro(Batcher *b, const Batch *batch, int from, int max_tokens, Packed *out, int *next) {
    const int32_t *start = batch->packed.start;
    assert(from >= 0 && from < batch->packed.S);
    int to = from + 1;
    while (to < batch->packed.S && start[to + 1] - start[from] <= max_tokens) to++;
    *out = (Packed){.N = start[to] - start[from],
                    .S = to - from,
                    .longest = start[to] - start[to - 1], /* lengths ascend */
                    .ids = batch->packed.ids + start[from],
                    .start = b->micro_start,
                    .seq = b->seq};
    for (int i = from; i <= to; i++) b->micro_start[i - from] = start[i] - start[from];
    for (int i = from; i < to; i++) b->seq[i - from] = i;
    *next = to;
}
