#include "data/shard.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <zstd.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/sha256.h"
#include "core/text.h"

static const char HEAD[8] = {'R', 'S', 'H', 'A', 'R', 'D', '1', '\n'};
static const char END[8] = {'R', 'S', 'H', 'A', 'R', 'D', 'E', '\n'};

enum {
    TAIL_BYTES = 64,
    ROW_BYTES = 25,         /* of the token part, beside the ids */
    COLUMNS = 6,            /* of 4 bytes: tokens, label, file, line, source, weight */
    INDEX_MAX = 16 << 20,   /* bytes: about 70,000 blocks */
    ROW_TEXT_MAX = 16 << 20 /* bytes */
};
#define COUNT_MAX ((uint64_t)1 << 53) /* what a JSON number holds exactly */

static void put_u32(unsigned char *to, uint32_t v) {
    for (int i = 0; i < 4; i++) to[i] = (unsigned char)(v >> (8 * i));
}

static uint32_t get_u32(const unsigned char *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void put_u64(unsigned char *to, uint64_t v) {
    put_u32(to, (uint32_t)v);
    put_u32(to + 4, (uint32_t)(v >> 32));
}

static uint64_t get_u64(const unsigned char *from) {
    return get_u32(from) | (uint64_t)get_u32(from + 4) << 32;
}

/* ---- writing ---- */

typedef struct {
    uint32_t column[COLUMNS], text_bytes;
    unsigned char flags;
} PendingRow;

typedef struct {
    PendingRow *rows; /* SHARD_BLOCK_ROWS of them */
    size_t count;
    Buf ids, text; /* ids as int32 */
} Pending;

struct ShardWriter {
    FileWriter out;
    Pending pending[SPLIT_COUNT];
    ZSTD_CCtx *zstd;
    Buf raw, packed, blocks; /* blocks: the JSON of the index, as far as it is known */
    uint64_t *label_rows[SPLIT_COUNT], *label_tokens[SPLIT_COUNT];
    size_t label_cap;
    uint32_t labels, files, sources, longest; /* one more than the largest seen; longest row */
    int32_t largest_id;
};

ErrCode shard_create(ShardWriter **out, const char *path, Err *err) {
    *out = NULL;
    ShardWriter *w;
    TRY(mem_new(&w, 1, sizeof *w, "the shard writer", err));
    ErrCode rc = ERR_OK;
    for (int s = 0; s < SPLIT_COUNT && rc == ERR_OK; s++)
        rc = mem_new(&w->pending[s].rows, SHARD_BLOCK_ROWS, sizeof(PendingRow), "a block of rows", err);
    if (rc == ERR_OK && !(w->zstd = ZSTD_createCCtx()))
        rc = err_set(err, ERR_MEMORY, "out of memory for zstd");
    if (rc == ERR_OK) rc = file_create(&w->out, path, err);
    if (rc != ERR_OK) {
        shard_abort(w);
        return rc;
    }
    file_write(&w->out, HEAD, sizeof HEAD);
    *out = w;
    return ERR_OK;
}

void shard_abort(ShardWriter *w) {
    if (!w) return;
    file_abort(&w->out);
    for (int s = 0; s < SPLIT_COUNT; s++) {
        mem_free(w->pending[s].rows);
        buf_free(&w->pending[s].ids);
        buf_free(&w->pending[s].text);
        mem_free(w->label_rows[s]);
        mem_free(w->label_tokens[s]);
    }
    ZSTD_freeCCtx(w->zstd);
    buf_free(&w->raw);
    buf_free(&w->packed);
    buf_free(&w->blocks);
    mem_free(w);
}

/* `raw` as one zstd frame into `packed`. One thread, so that the bytes are the same everywhere. */
static ErrCode compress(ShardWriter *w, Err *err) {
    TRY(buf_ok(&w->raw, err));
    buf_clear(&w->packed);
    const size_t bound = ZSTD_compressBound(w->raw.len);
    char *to = buf_reserve(&w->packed, bound);
    if (!to) return buf_ok(&w->packed, err);
    const size_t n = ZSTD_compressCCtx(w->zstd, to, bound, w->raw.data ? w->raw.data : "", w->raw.len, 3);
    if (ZSTD_isError(n)) return err_set(err, ERR_BACKEND, "zstd: %s", ZSTD_getErrorName(n));
    w->packed.len = n;
    return ERR_OK;
}

static ErrCode write_part(ShardWriter *w, Err *err) {
    TRY(compress(w, err));
    file_write(&w->out, w->packed.data, w->packed.len);
    char hex[SHA256_HEX];
    sha256_hex_of(hex, w->packed.data, w->packed.len);
    buf_printf(&w->blocks, ",%zu,\"%s\"", w->packed.len, hex);
    return ERR_OK;
}

static ErrCode flush(ShardWriter *w, Split split, Err *err) {
    Pending *p = &w->pending[split];
    if (p->count == 0) return ERR_OK;
    TRY(buf_ok(&p->ids, err));
    TRY(buf_ok(&p->text, err));
    const size_t tokens = p->ids.len / 4;
    buf_printf(&w->blocks, "%s[%d,%zu,%zu", w->blocks.len ? ",\n" : "", (int)split, p->count, tokens);

    buf_clear(&w->raw);
    unsigned char *to = (unsigned char *)buf_reserve(&w->raw, 4 * tokens + ROW_BYTES * p->count);
    if (!to) return buf_ok(&w->raw, err);
    for (size_t i = 0; i < tokens; i++, to += 4) {
        uint32_t id;
        memcpy(&id, p->ids.data + 4 * i, 4);
        put_u32(to, id);
    }
    for (int c = 0; c < COLUMNS; c++)
        for (size_t i = 0; i < p->count; i++, to += 4) put_u32(to, p->rows[i].column[c]);
    for (size_t i = 0; i < p->count; i++) *to++ = p->rows[i].flags;
    w->raw.len = 4 * tokens + ROW_BYTES * p->count;
    TRY(write_part(w, err));

    buf_clear(&w->raw);
    to = (unsigned char *)buf_reserve(&w->raw, 4 * p->count + p->text.len);
    if (!to) return buf_ok(&w->raw, err);
    for (size_t i = 0; i < p->count; i++) put_u32(to + 4 * i, p->rows[i].text_bytes);
    if (p->text.len) memcpy(to + 4 * p->count, p->text.data, p->text.len);
    w->raw.len = 4 * p->count + p->text.len;
    buf_printf(&w->blocks, ",%zu", p->text.len);
    TRY(write_part(w, err));
    buf_puts(&w->blocks, "]");

    p->count = 0;
    buf_clear(&p->ids);
    buf_clear(&p->text);
    return w->out.failed == ERR_OK ? ERR_OK : err_set(err, w->out.failed, "%s", w->out.why.msg);
}

static ErrCode grow_labels(ShardWriter *w, size_t label, Err *err) {
    if (label < w->label_cap) return ERR_OK;
    if (label >= SHARD_LABELS) return err_set(err, ERR_ARGUMENT, "more than %d labels", SHARD_LABELS);
    const size_t cap = label + label / 2 + 16;
    for (int s = 0; s < SPLIT_COUNT; s++) {
        uint64_t **tables[2] = {&w->label_rows[s], &w->label_tokens[s]};
        for (int k = 0; k < 2; k++) {
            uint64_t *more = mem_resize(*tables[k], cap, sizeof *more);
            if (!more) return err_set(err, ERR_MEMORY, "out of memory for %zu labels", cap);
            memset(more + w->label_cap, 0, (cap - w->label_cap) * sizeof *more);
            *tables[k] = more;
        }
    }
    w->label_cap = cap;
    return ERR_OK;
}

ErrCode shard_append(ShardWriter *w, const ShardRow *row, Err *err) {
    assert((unsigned)row->split < SPLIT_COUNT && row->tokens > 0 && row->label >= 0 && row->text);
    assert(row->weight > 0);
    if (row->tokens > SHARD_ROW_TOKENS || row->text_len > ROW_TEXT_MAX)
        return err_set(err, ERR_ARGUMENT, "a row of %d tokens and %zu bytes, expected at most %d and %d",
                       row->tokens, row->text_len, SHARD_ROW_TOKENS, ROW_TEXT_MAX);
    TRY(grow_labels(w, (size_t)row->label, err));
    Pending *p = &w->pending[row->split];
    if (p->count == SHARD_BLOCK_ROWS || p->ids.len / 4 + (size_t)row->tokens > SHARD_BLOCK_TOKENS ||
        p->text.len + row->text_len > SHARD_BLOCK_TEXT)
        TRY(flush(w, row->split, err));
    for (int i = 0; i < row->tokens; i++) {
        if (row->ids[i] < 0) return err_set(err, ERR_ARGUMENT, "token id %d is negative", (int)row->ids[i]);
        if (row->ids[i] > w->largest_id) w->largest_id = row->ids[i];
    }
    PendingRow *to = &p->rows[p->count];
    *to = (PendingRow){
        .column = {(uint32_t)row->tokens, (uint32_t)row->label, row->file, row->line, row->source},
        .text_bytes = (uint32_t)row->text_len,
        .flags = row->truncated};
    memcpy(&to->column[COLUMNS - 1], &row->weight, 4);
    buf_put(&p->ids, row->ids, 4 * (size_t)row->tokens);
    buf_put(&p->text, row->text, row->text_len);
    TRY(buf_ok(&p->ids, err));
    TRY(buf_ok(&p->text, err));
    p->count++;
    w->label_rows[row->split][row->label]++;
    w->label_tokens[row->split][row->label] += (uint64_t)row->tokens;
    if ((uint32_t)row->label >= w->labels) w->labels = (uint32_t)row->label + 1;
    if (row->file >= w->files) w->files = row->file + 1;
    if (row->source >= w->sources) w->sources = row->source + 1;
    if ((uint32_t)row->tokens > w->longest) w->longest = (uint32_t)row->tokens;
    return ERR_OK;
}

static void put_strings(Buf *out, const char *key, const char *const *items, size_t count) {
    buf_printf(out, "\"%s\":[", key);
    for (size_t i = 0; i < count; i++) {
        if (i) buf_puts(out, ",");
        text_put_json(out, items[i], strlen(items[i]));
    }
    buf_puts(out, "],\n");
}

static void put_label_counts(Buf *out, const char *key, uint64_t *const *table, size_t cap, int labels) {
    buf_printf(out, "\"%s\":[", key);
    for (int s = 0; s < SPLIT_COUNT; s++) {
        buf_puts(out, s ? ",[" : "[");
        for (int i = 0; i < labels; i++)
            buf_printf(out, "%s%llu", i ? "," : "", (unsigned long long)((size_t)i < cap ? table[s][i] : 0));
        buf_puts(out, "]");
    }
    buf_puts(out, "],\n");
}

static void put_index(Buf *out, const ShardWriter *w, const ShardInfo *info) {
    buf_puts(out, "{\"tokenizer\":");
    text_put_json(out, info->tokenizer_digest, strlen(info->tokenizer_digest));
    buf_puts(out, ",\n\"content\":");
    text_put_json(out, info->content_digest, strlen(info->content_digest));
    buf_printf(out,
               ",\n\"max_tokens\":%d,\"vocabulary\":%d,\"longest\":%u,\"skipped\":%llu,\"truncated\":%llu,\n",
               info->max_tokens, info->vocabulary, (unsigned)w->longest, (unsigned long long)info->skipped,
               (unsigned long long)info->truncated);
    put_strings(out, "labels", info->labels, (size_t)info->label_count);
    put_strings(out, "files", info->files, info->file_count);
    put_strings(out, "sources", info->sources, info->source_count);
    put_strings(out, "messages", info->messages, info->message_count);
    buf_printf(out,
               "\"report\":{\"given\":%llu,\"duplicates\":%llu,\"crossing\":%llu,\"conflicting\":%llu,"
               "\"joined\":%llu},\n",
               (unsigned long long)info->split.given, (unsigned long long)info->split.duplicates,
               (unsigned long long)info->split.crossing, (unsigned long long)info->split.conflicting,
               (unsigned long long)info->split.joined);
    put_label_counts(out, "label_rows", w->label_rows, w->label_cap, info->label_count);
    put_label_counts(out, "label_tokens", w->label_tokens, w->label_cap, info->label_count);
    buf_puts(out, "\"blocks\":[");
    if (w->blocks.len) buf_put(out, w->blocks.data, w->blocks.len);
    buf_puts(out, "]}\n");
    if (w->blocks.failed) out->failed = true;
}

static ErrCode finish(ShardWriter *w, const ShardInfo *info, Err *err) {
    if (info->label_count < (int)w->labels || info->label_count > SHARD_LABELS ||
        info->file_count < w->files || info->source_count < w->sources)
        return err_set(err, ERR_ARGUMENT, "rows with label %u, file %u, source %u of %d, %zu, %zu",
                       (unsigned)w->labels, (unsigned)w->files, (unsigned)w->sources, info->label_count,
                       info->file_count, info->source_count);
    if (info->max_tokens < (int)w->longest || info->max_tokens < 1 || info->max_tokens > SHARD_ROW_TOKENS ||
        info->vocabulary <= w->largest_id)
        return err_set(err, ERR_ARGUMENT,
                       "a row of %u tokens and id %d, beyond max_tokens %d and vocabulary %d",
                       (unsigned)w->longest, (int)w->largest_id, info->max_tokens, info->vocabulary);
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) TRY(flush(w, s, err));
    buf_clear(&w->raw);
    put_index(&w->raw, w, info);
    TRY(compress(w, err));
    if (w->raw.len > INDEX_MAX)
        return err_set(err, ERR_FORMAT, "%s: too large for one shard: its index takes %zu bytes of %d",
                       w->out.path, w->raw.len, INDEX_MAX);
    unsigned char tail[TAIL_BYTES];
    put_u64(tail, w->out.written);
    put_u64(tail + 8, w->packed.len);
    put_u64(tail + 16, w->raw.len);
    Sha256 sha;
    sha256_init(&sha);
    sha256_add(&sha, w->packed.data, w->packed.len);
    sha256_end(&sha, tail + 24);
    memcpy(tail + 56, END, sizeof END);
    file_write(&w->out, w->packed.data, w->packed.len);
    file_write(&w->out, tail, sizeof tail);
    return file_commit(&w->out, err);
}

ErrCode shard_finish(ShardWriter *w, const ShardInfo *info, Err *err) {
    const ErrCode rc = finish(w, info, err);
    shard_abort(w);
    return rc;
}

/* ---- reading ---- */

typedef struct {
    uint64_t offset; /* of its frame in the file */
    size_t bytes, packed;
    unsigned char sha[SHA256_BYTES];
} Part;

typedef struct {
    Split split;
    uint32_t rows, tokens;
    uint64_t first; /* number of its first row within the split */
    Part ids, text;
} Block;

struct Shard {
    File file;
    cJSON *index; /* owns the strings of info */
    ShardInfo info;
    const char **strings[4];             /* labels, files, sources, messages */
    uint64_t *label_rows, *label_tokens; /* (SPLIT_COUNT, labels) */
    int longest;
    Block *blocks;
    size_t block_count, split_blocks[SPLIT_COUNT];
    size_t *of_split[SPLIT_COUNT]; /* block numbers */
    uint64_t tokens[SPLIT_COUNT];
    ZSTD_DCtx *zstd;
    void *packed; /* scratch for one compressed part */
    size_t packed_cap;
};

static ErrCode bad(const Shard *s, const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "%s: damaged shard: %s; pack it again", s->file.path, what);
}

/* At least n elements of `size` bytes at *memory; the old contents are lost. */
static ErrCode reserve(void **memory, size_t *cap, size_t n, size_t size, Err *err) {
    if (n != 0 && size > SIZE_MAX / n) return err_set(err, ERR_MEMORY, "out of memory for a block");
    const size_t need = n * size;
    if (*memory && *cap >= need) return ERR_OK;
    mem_free(*memory);
    *cap = 0;
    *memory = mem_resize(NULL, need, 1);
    if (!*memory) return err_set(err, ERR_MEMORY, "out of memory for a block of %zu bytes", need);
    *cap = need;
    return ERR_OK;
}

/* The frame of a part, checked against its hash and its size, decompressed to `to` (part->bytes). */
static ErrCode read_part(Shard *s, void *to, const Part *part, const char *what, Err *err) {
    TRY(reserve(&s->packed, &s->packed_cap, part->packed, 1, err));
    TRY(file_read_at(&s->file, s->packed, part->offset, part->packed, err));
    unsigned char digest[SHA256_BYTES];
    Sha256 sha;
    sha256_init(&sha);
    sha256_add(&sha, s->packed, part->packed);
    sha256_end(&sha, digest);
    if (memcmp(digest, part->sha, sizeof digest) != 0)
        return err_set(err, ERR_FORMAT, "%s: damaged shard: %s does not match its checksum; pack it again",
                       s->file.path, what);
    const size_t n = ZSTD_decompressDCtx(s->zstd, to, part->bytes, s->packed, part->packed);
    if (ZSTD_isError(n) || n != part->bytes)
        return err_set(err, ERR_FORMAT, "%s: damaged shard: %s: %s, expected %zu bytes", s->file.path, what,
                       ZSTD_isError(n) ? ZSTD_getErrorName(n) : "too short", part->bytes);
    return ERR_OK;
}

static ErrCode read_index(Shard *s, uint64_t *index_offset, Err *err) {
    unsigned char head[8], tail[TAIL_BYTES];
    const uint64_t size = s->file.size;
    if (size < sizeof head)
        return err_set(err, ERR_FORMAT, "%s: not a shard: it has only %llu bytes", s->file.path,
                       (unsigned long long)size);
    TRY(file_read_at(&s->file, head, 0, sizeof head, err));
    if (memcmp(head, HEAD, 6) != 0)
        return err_set(err, ERR_FORMAT, "%s: not a shard: it does not begin with RSHARD", s->file.path);
    if (memcmp(head, HEAD, sizeof head) != 0)
        return err_set(err, ERR_FORMAT, "%s: shard version '%c', expected version 1; pack it again",
                       s->file.path, head[6]);
    if (size < sizeof head + sizeof tail) return bad(s, "it is cut off", err);
    TRY(file_read_at(&s->file, tail, size - sizeof tail, sizeof tail, err));
    if (memcmp(tail + 56, END, sizeof END) != 0) return bad(s, "it is cut off: no end mark", err);
    Part part = {.offset = get_u64(tail)};
    const uint64_t packed = get_u64(tail + 8), bytes = get_u64(tail + 16);
    if (part.offset < sizeof head || part.offset > size || packed > size - part.offset ||
        size - part.offset - packed != sizeof tail || packed == 0 || packed > 2 * (uint64_t)INDEX_MAX ||
        bytes == 0 || bytes > INDEX_MAX)
        return bad(s, "its index is not where the end says", err);
    part.packed = (size_t)packed;
    part.bytes = (size_t)bytes;
    memcpy(part.sha, tail + 24, sizeof part.sha);
    char *text;
    TRY(mem_new(&text, part.bytes, 1, "the index of a shard", err));
    ErrCode rc = read_part(s, text, &part, "the index", err);
    if (rc == ERR_OK) {
        rc = json_parse(&s->index, text, part.bytes, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s: damaged shard: index", s->file.path);
    }
    mem_free(text);
    *index_offset = part.offset;
    return rc;
}

static const cJSON *member(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static bool count_of(uint64_t *out, const cJSON *item, uint64_t max) {
    if (!cJSON_IsNumber(item)) return false;
    const double v = item->valuedouble;
    if (!(v >= 0 && v <= (double)COUNT_MAX) || v != floor(v) || (uint64_t)v > max) return false;
    *out = (uint64_t)v;
    return true;
}

static ErrCode get_count(uint64_t *out, const Shard *s, const cJSON *object, const char *key, uint64_t max,
                         Err *err) {
    if (count_of(out, member(object, key), max)) return ERR_OK;
    return err_set(err, ERR_FORMAT, "%s: damaged shard: index: \"%s\" is no integer from 0 to %llu",
                   s->file.path, key, (unsigned long long)max);
}

static ErrCode get_strings(Shard *s, int slot, const char *key, size_t *count, Err *err) {
    const cJSON *list = member(s->index, key), *item;
    size_t n = 0;
    bool ok = cJSON_IsArray(list);
    cJSON_ArrayForEach(item, list) {
        ok = ok && cJSON_IsString(item);
        n++;
    }
    if (!ok)
        return err_set(err, ERR_FORMAT, "%s: damaged shard: index: \"%s\" is no array of strings",
                       s->file.path, key);
    TRY(mem_new(&s->strings[slot], n, sizeof *s->strings[slot], "the names in a shard", err));
    n = 0;
    cJSON_ArrayForEach(item, list) s->strings[slot][n++] = item->valuestring;
    *count = n;
    return ERR_OK;
}

static const cJSON *after(const cJSON *item) {
    return item ? item->next : NULL;
}

static ErrCode get_label_counts(uint64_t **out, const Shard *s, const char *key, Err *err) {
    const size_t labels = (size_t)s->info.label_count;
    const cJSON *table = member(s->index, key);
    bool ok = cJSON_IsArray(table);
    TRY(mem_new(out, SPLIT_COUNT * labels, sizeof **out, "the label counts", err));
    const cJSON *list = ok ? table->child : NULL;
    for (size_t split = 0; split < SPLIT_COUNT && ok; split++, list = after(list)) {
        ok = list && cJSON_IsArray(list);
        const cJSON *item = ok ? list->child : NULL;
        for (size_t i = 0; i < labels && ok; i++, item = after(item))
            ok = item && count_of(*out + split * labels + i, item, COUNT_MAX / SHARD_LABELS);
        ok = ok && !item;
    }
    if (ok && !list) return ERR_OK;
    return err_set(err, ERR_FORMAT, "%s: damaged shard: index: \"%s\" is no table of 4 x %zu integers",
                   s->file.path, key, labels);
}

static ErrCode get_info(Shard *s, Err *err) {
    ShardInfo *info = &s->info;
    const struct {
        const char *key;
        const char **to;
    } TEXTS[] = {{"tokenizer", &info->tokenizer_digest}, {"content", &info->content_digest}};
    for (int i = 0; i < 2; i++) {
        const cJSON *item = member(s->index, TEXTS[i].key);
        if (!cJSON_IsString(item))
            return err_set(err, ERR_FORMAT, "%s: damaged shard: index: \"%s\" is no string", s->file.path,
                           TEXTS[i].key);
        *TEXTS[i].to = item->valuestring;
    }
    uint64_t max_tokens, vocabulary, longest;
    TRY(get_count(&max_tokens, s, s->index, "max_tokens", SHARD_ROW_TOKENS, err));
    TRY(get_count(&vocabulary, s, s->index, "vocabulary", INT32_MAX, err));
    TRY(get_count(&longest, s, s->index, "longest", max_tokens, err));
    TRY(get_count(&info->skipped, s, s->index, "skipped", COUNT_MAX, err));
    TRY(get_count(&info->truncated, s, s->index, "truncated", COUNT_MAX, err));
    info->max_tokens = (int)max_tokens;
    info->vocabulary = (int)vocabulary;
    s->longest = (int)longest;
    size_t labels;
    TRY(get_strings(s, 0, "labels", &labels, err));
    TRY(get_strings(s, 1, "files", &info->file_count, err));
    TRY(get_strings(s, 2, "sources", &info->source_count, err));
    TRY(get_strings(s, 3, "messages", &info->message_count, err));
    if (labels > SHARD_LABELS) return bad(s, "index: too many labels", err);
    info->label_count = (int)labels;
    info->labels = s->strings[0];
    info->files = s->strings[1];
    info->sources = s->strings[2];
    info->messages = s->strings[3];
    const cJSON *report = member(s->index, "report");
    TRY(get_count(&info->split.given, s, report, "given", COUNT_MAX, err));
    TRY(get_count(&info->split.duplicates, s, report, "duplicates", COUNT_MAX, err));
    TRY(get_count(&info->split.crossing, s, report, "crossing", COUNT_MAX, err));
    TRY(get_count(&info->split.conflicting, s, report, "conflicting", COUNT_MAX, err));
    if (member(report, "joined")) TRY(get_count(&info->split.joined, s, report, "joined", COUNT_MAX, err));
    TRY(get_label_counts(&s->label_rows, s, "label_rows", err));
    return get_label_counts(&s->label_tokens, s, "label_tokens", err);
}

static bool digest_of(unsigned char out[SHA256_BYTES], const cJSON *item) {
    static const char HEX[] = "0123456789abcdef";
    if (!cJSON_IsString(item) || strlen(item->valuestring) != SHA256_HEX - 1) return false;
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        const char *high = strchr(HEX, item->valuestring[2 * i]);
        const char *low = strchr(HEX, item->valuestring[2 * i + 1]);
        if (!high || !low) return false;
        out[i] = (unsigned char)((high - HEX) * 16 + (low - HEX));
    }
    return true;
}

/* One entry of "blocks"; *at is the offset behind the block before and becomes the one behind this. */
static bool get_block(Block *b, const cJSON *entry, uint64_t *at, uint64_t end) {
    const cJSON *item[8];
    const cJSON *next = cJSON_IsArray(entry) ? entry->child : NULL;
    for (int i = 0; i < 8; i++) {
        if (!next) return false;
        item[i] = next;
        next = next->next;
    }
    uint64_t split, rows, tokens, ids_packed, text, text_packed;
    if (next || !count_of(&split, item[0], SPLIT_COUNT - 1) || !count_of(&rows, item[1], SHARD_BLOCK_ROWS) ||
        !count_of(&tokens, item[2], SHARD_BLOCK_TOKENS) || !count_of(&ids_packed, item[3], end - *at) ||
        !count_of(&text, item[5], ROW_TEXT_MAX) || !count_of(&text_packed, item[6], end - *at - ids_packed) ||
        rows == 0 || tokens < rows || ids_packed == 0 || text_packed == 0 ||
        !digest_of(b->ids.sha, item[4]) || !digest_of(b->text.sha, item[7]))
        return false;
    b->split = (Split)split;
    b->rows = (uint32_t)rows;
    b->tokens = (uint32_t)tokens;
    b->ids.bytes = (size_t)(4 * tokens + ROW_BYTES * rows);
    b->text.bytes = (size_t)(4 * rows + text);
    b->ids.packed = (size_t)ids_packed;
    b->text.packed = (size_t)text_packed;
    /* Nobody's zstd makes more than this of so few bytes: a larger claim would only cost memory. */
    if (ids_packed > 2 * b->ids.bytes + 1024 || text_packed > 2 * b->text.bytes + 1024) return false;
    b->ids.offset = *at;
    b->text.offset = *at + ids_packed;
    *at += ids_packed + text_packed;
    return true;
}

static ErrCode get_blocks(Shard *s, uint64_t index_offset, Err *err) {
    const cJSON *list = member(s->index, "blocks"), *entry;
    if (!cJSON_IsArray(list)) return bad(s, "index: no blocks", err);
    size_t n = 0;
    cJSON_ArrayForEach(entry, list) n++;
    TRY(mem_new(&s->blocks, n, sizeof *s->blocks, "the list of blocks", err));
    uint64_t at = sizeof HEAD, rows[SPLIT_COUNT] = {0};
    cJSON_ArrayForEach(entry, list) {
        Block *b = &s->blocks[s->block_count];
        if (!get_block(b, entry, &at, index_offset))
            return err_set(err, ERR_FORMAT, "%s: damaged shard: index: block %zu is not valid", s->file.path,
                           s->block_count);
        b->first = rows[b->split];
        rows[b->split] += b->rows;
        s->tokens[b->split] += b->tokens;
        s->split_blocks[b->split]++;
        s->block_count++;
    }
    if (at != index_offset) return bad(s, "its blocks do not fill the file", err);
    for (Split p = SPLIT_TRAIN; p < SPLIT_COUNT; p++) {
        s->info.split.rows[p] = rows[p];
        TRY(mem_new(&s->of_split[p], s->split_blocks[p], sizeof(size_t), "the list of blocks", err));
        size_t k = 0;
        for (size_t i = 0; i < s->block_count; i++)
            if (s->blocks[i].split == p) s->of_split[p][k++] = i;
        uint64_t sum = 0, sum_tokens = 0;
        for (int i = 0; i < s->info.label_count; i++) {
            sum += shard_label_rows(s, p, i);
            sum_tokens += shard_label_tokens(s, p, i);
        }
        if (sum != rows[p] || sum_tokens != s->tokens[p])
            return bad(s, "index: the labels do not add up to the rows", err);
    }
    return ERR_OK;
}

ErrCode shard_open(Shard **out, const char *path, Err *err) {
    *out = NULL;
    Shard *s;
    TRY(mem_new(&s, 1, sizeof *s, "a shard", err));
    uint64_t index_offset = 0;
    ErrCode rc = file_open(&s->file, path, err);
    if (rc == ERR_OK && !(s->zstd = ZSTD_createDCtx()))
        rc = err_set(err, ERR_MEMORY, "out of memory for zstd");
    if (rc == ERR_OK) rc = read_index(s, &index_offset, err);
    if (rc == ERR_OK) rc = get_info(s, err);
    if (rc == ERR_OK) rc = get_blocks(s, index_offset, err);
    if (rc != ERR_OK) {
        shard_close(s);
        return rc;
    }
    *out = s;
    return ERR_OK;
}

void shard_close(Shard *s) {
    if (!s) return;
    file_close(&s->file);
    cJSON_Delete(s->index);
    for (int i = 0; i < 4; i++) mem_free(s->strings[i]);
    for (int i = 0; i < SPLIT_COUNT; i++) mem_free(s->of_split[i]);
    mem_free(s->label_rows);
    mem_free(s->label_tokens);
    mem_free(s->blocks);
    ZSTD_freeDCtx(s->zstd);
    mem_free(s->packed);
    mem_free(s);
}

const ShardInfo *shard_info(const Shard *s) {
    return &s->info;
}

uint64_t shard_rows(const Shard *s, Split split) {
    return s->info.split.rows[split];
}

uint64_t shard_tokens(const Shard *s, Split split) {
    return s->tokens[split];
}

int shard_longest(const Shard *s) {
    return s->longest;
}

uint64_t shard_label_rows(const Shard *s, Split split, int label) {
    return s->label_rows[(size_t)split * (size_t)s->info.label_count + (size_t)label];
}

uint64_t shard_label_tokens(const Shard *s, Split split, int label) {
    return s->label_tokens[(size_t)split * (size_t)s->info.label_count + (size_t)label];
}

size_t shard_blocks(const Shard *s, Split split) {
    return s->split_blocks[split];
}

/* Row i of the decoded token part: its numbers checked, ids pointing into `ids`, of which `left` remain. */
static bool get_row(ShardRow *row, const Shard *s, const Block *b, const unsigned char *columns, size_t i,
                    const int32_t *ids, uint64_t left) {
    uint32_t v[COLUMNS];
    for (size_t c = 0; c < COLUMNS; c++) v[c] = get_u32(columns + 4 * (c * b->rows + i));
    const unsigned char flags = columns[4 * (size_t)COLUMNS * b->rows + i];
    *row = (ShardRow){.ids = ids,
                      .tokens = (int)v[0],
                      .truncated = flags == 1,
                      .label = (int)v[1],
                      .split = b->split,
                      .file = v[2],
                      .line = v[3],
                      .source = v[4]};
    memcpy(&row->weight, &v[5], 4);
    if (v[0] == 0 || v[0] > (uint32_t)s->longest || v[0] > left || v[1] >= (uint32_t)s->info.label_count ||
        v[2] >= s->info.file_count || v[4] >= s->info.source_count || flags > 1 || !(row->weight > 0) ||
        !(row->weight <= 1000))
        return false;
    for (uint32_t k = 0; k < v[0]; k++)
        if (ids[k] < 0 || ids[k] >= s->info.vocabulary) return false;
    return true;
}

static ErrCode bad_block(const Shard *s, size_t index, const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "%s: damaged shard: block %zu: %s; pack it again", s->file.path, index,
                   what);
}

static ErrCode read_tokens(Shard *s, ShardBlock *block, const Block *b, size_t number, Err *err) {
    char what[64];
    (void)snprintf(what, sizeof what, "the token part of block %zu", number);
    TRY(reserve(&block->memory[0], &block->memory_cap[0], b->rows, sizeof(ShardRow), err));
    TRY(reserve(&block->memory[1], &block->memory_cap[1], b->ids.bytes, 1, err));
    TRY(read_part(s, block->memory[1], &b->ids, what, err));
    ShardRow *rows = block->memory[0];
    int32_t *ids = block->memory[1];
    const unsigned char *bytes = block->memory[1];
    for (uint32_t i = 0; i < b->tokens; i++) { /* in place: both are 4 bytes */
        const uint32_t id = get_u32(bytes + 4 * (size_t)i);
        memcpy(ids + i, &id, 4);
    }
    uint32_t at = 0;
    for (size_t i = 0; i < b->rows; i++) {
        if (!get_row(&rows[i], s, b, bytes + 4 * (size_t)b->tokens, i, ids + at, b->tokens - at))
            return bad_block(s, number, "a row outside of what the index allows", err);
        at += (uint32_t)rows[i].tokens;
    }
    return at == b->tokens ? ERR_OK : bad_block(s, number, "its rows do not add up to its tokens", err);
}

static ErrCode read_texts(Shard *s, ShardBlock *block, const Block *b, size_t number, Err *err) {
    char what[64];
    (void)snprintf(what, sizeof what, "the text part of block %zu", number);
    TRY(reserve(&block->memory[2], &block->memory_cap[2], b->text.bytes, 1, err));
    TRY(read_part(s, block->memory[2], &b->text, what, err));
    ShardRow *rows = block->memory[0];
    const unsigned char *bytes = block->memory[2];
    size_t at = 4 * (size_t)b->rows;
    for (size_t i = 0; i < b->rows; i++) {
        const uint32_t n = get_u32(bytes + 4 * i);
        if (n > b->text.bytes - at) return bad_block(s, number, "a text longer than the block", err);
        rows[i].text = (const char *)bytes + at;
        rows[i].text_len = n;
        at += n;
    }
    return at == b->text.bytes ? ERR_OK : bad_block(s, number, "bytes behind the last text", err);
}

ErrCode shard_read(Shard *s, ShardBlock *block, Split split, size_t index, bool with_text, Err *err) {
    assert(index < s->split_blocks[split]);
    const size_t number = s->of_split[split][index];
    const Block *b = &s->blocks[number];
    block->rows = NULL;
    block->count = 0;
    TRY(read_tokens(s, block, b, number, err));
    if (with_text) TRY(read_texts(s, block, b, number, err));
    block->rows = block->memory[0];
    block->count = b->rows;
    block->first = b->first;
    return ERR_OK;
}

void shard_block_free(ShardBlock *block) {
    for (int i = 0; i < 3; i++) mem_free(block->memory[i]);
    *block = (ShardBlock){0};
}
