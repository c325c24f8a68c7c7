/* data/shard.h - a corpus as tokens: what `router pack` writes and training streams.
 *
 * File, version 1; integers and floats little-endian, no padding, no gaps:
 *   8 bytes   "RSHARD1\n" (another digit is another, incompatible version: a reader refuses it)
 *   blocks    one behind the other, in the order of the index; each is two zstd frames, both with their content
 *             size: the token part, then the text part
 *   index     one zstd frame: JSON, below
 *   tail      u64 offset of the index, u64 its compressed bytes, u64 its bytes, 32 bytes SHA-256 of the compressed
 *             index, 8 bytes "RSHARDE\n"; the tail is the end of the file
 *
 * Token part of a block with R rows and T tokens, 4T + 25R bytes: i32 ids[T] (the rows end to end), then for
 * each row in the same order u32 tokens[R], u32 label[R], u32 file[R], u32 line[R], u32 source[R], f32
 * weight[R], u8 flags[R] (bit 0: truncated; others 0).
 * Text part, 4R + B bytes: u32 bytes[R], then the B bytes of the texts end to end (any bytes, no NUL
 * between).
 *
 * Index, one JSON object; all members are required, readers ignore others:
 *   tokenizer   string: SHA-256 of spm.model, hex        content  string: SHA-256, hex, see data/corpus.h
 *   max_tokens  integer: no row is longer                vocabulary  integer: no id is this large or larger
 *   longest     integer: tokens of the longest row       skipped, truncated  integers: see ShardInfo
 *   labels, files, sources  arrays of strings: what label, file and source count through from 0
 *   messages    array of strings: why the first skipped rows were bad
 *   report      object of integers: given, duplicates, crossing, conflicting, and joined, 0 if missing (SplitReport)
 *   label_rows, label_tokens  four arrays (train, dev, calibration, test) of one integer per label
 *   blocks      array of arrays: [split 0..3, R, T, compressed bytes of the token part, "SHA-256 of these",
 *               B, compressed bytes of the text part, "SHA-256 of these"]
 *
 * A block holds rows of one split only, 1 to SHARD_BLOCK_ROWS of them, with at most SHARD_BLOCK_TOKENS
 * tokens, and SHARD_BLOCK_TEXT bytes of text unless a single row is longer, so that memory is bounded however
 * large the corpus. Rows of a split are numbered 0, 1, ... in the order of the file. Every size is validated
 * before it is used. Not one byte of the file can change without being noticed. */
#ifndef DATA_SHARD_H
#define DATA_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/flags.h"
#include "data/split.h"

#define SHARD_BLOCK_ROWS   4096
#define SHARD_BLOCK_TOKENS (1 << 18)
#define SHARD_BLOCK_TEXT   (4 << 20) /* bytes */
#define SHARD_ROW_TOKENS   (1 << 16) /* largest max_tokens */
#define SHARD_LABELS       65536     /* most labels */

typedef struct {
    const int32_t *ids; /* [CLS] ... [SEP], `tokens` of them */
    int tokens;
    bool truncated;
    int label;    /* index into the shard's labels */
    float weight; /* expected visits per epoch: its input's weight times its own */
    Split split;
    uint32_t file, line; /* where it came from: shard_file(file), 1-based line */
    uint32_t source;     /* index into the shard's sources */
    const char *text;    /* NULL unless the block was read with text */
    size_t text_len;
} ShardRow;

/* ---- writing ---- */
typedef struct {
    const char *tokenizer_digest, *content_digest; /* hex */
    int max_tokens;                                /* 1 to SHARD_ROW_TOKENS */
    int vocabulary;                                /* one more than the largest id that the tokenizer gives */
    const char *const *labels;
    int label_count;
    const char *const *files;
    size_t file_count;
    const char *const *sources; /* names of sources */
    size_t source_count;
    SplitReport split;
    uint64_t skipped, truncated; /* bad rows left out; rows cut at max_tokens */
    const char *const *messages; /* "file:line: what" of the first skipped ones */
    size_t message_count;
} ShardInfo;

typedef struct ShardWriter ShardWriter;
ErrCode shard_create(ShardWriter **out, const char *path, Err *err) ERR_CHECKED;

/* Copies the row; its text is required. Rows of different splits may come in any order. */
ErrCode shard_append(ShardWriter *w, const ShardRow *row, Err *err) ERR_CHECKED;

/* Writes the index and commits; w is freed in any case. ERR_ARGUMENT when a row does not fit info (a label,
 * file, source, id or length out of its range). */
ErrCode shard_finish(ShardWriter *w, const ShardInfo *info, Err *err) ERR_CHECKED;
void shard_abort(ShardWriter *w);

/* ---- reading ---- */
typedef struct Shard Shard;

/* Reads and checks the index, not the blocks: shard_read does that one by one. Errors: ERR_FORMAT for
 * whatever is not such a file, a damaged or a truncated one; they begin with the path. */
ErrCode shard_open(Shard **out, const char *path, Err *err) ERR_CHECKED;
void shard_close(Shard *shard);
const ShardInfo *shard_info(const Shard *shard); /* borrowed */
uint64_t shard_rows(const Shard *shard, Split split);
uint64_t shard_tokens(const Shard *shard, Split split);
int shard_longest(const Shard *shard); /* tokens of the longest row */
uint64_t shard_label_rows(const Shard *shard, Split split, int label);
uint64_t shard_label_tokens(const Shard *shard, Split split, int label);

/* Blocks of one split, numbered 0 .. count-1. */
size_t shard_blocks(const Shard *shard, Split split);

/* A decoded block: rows and what they point to, owned by the block. A zeroed one is valid to free and to read
 * into again. */
typedef struct {
    ShardRow *rows;
    size_t count;
    uint64_t first; /* number of its first row within the split: rows of a split are numbered 0 ..
                       shard_rows-1 in file order */
    void *memory[3];
    size_t memory_cap[3];
} ShardBlock;

/* Block `index` of a split. Errors: ERR_FORMAT naming the block. Not thread-safe on one Shard. */
ErrCode shard_read(Shard *shard, ShardBlock *block, Split split, size_t index, bool with_text,
                   Err *err) ERR_CHECKED;
void shard_block_free(ShardBlock *block);

#endif
