/* tokenizer/tokenizer.h - exactly Hugging Face's slow DebertaV2Tokenizer.
 *
 * 1. The text is split at the literal strings [PAD] [CLS] [SEP] [UNK] [MASK]; each becomes its id. Text
 * between them is encoded on its own by sentencepiece. With `plain`, the strings are ordinary text: untrusted
 * prompts cannot smuggle special ids in. (Golden field `ids` is the first, `ids_plain` the second behaviour.)
 * 2. [CLS] ids [SEP]; truncation to max_tokens keeps the first max_tokens - 2 ids.
 * [MASK] is the number of pieces (128000 for the published model) unless it is a piece.
 *
 * Any bytes are accepted: invalid UTF-8, NUL, megabytes; time is linear in the length. */
#ifndef TOKENIZER_TOKENIZER_H
#define TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/threads.h"

typedef struct {
    int pad, cls, sep, unk, mask;
} TokenizerSpecials;

typedef struct Tokenizer Tokenizer;

/* From the bytes of spm.model (copied: tokenizer_model gives them back), from that file, or from a folder
 * holding it. */
ErrCode tokenizer_open_bytes(Tokenizer **out, const void *bytes, size_t n, Err *err) ERR_CHECKED;
ErrCode tokenizer_open(Tokenizer **out, const char *path, Err *err) ERR_CHECKED;
void tokenizer_close(Tokenizer *t);

TokenizerSpecials tokenizer_specials(const Tokenizer *t);
/* One more than the largest id that it can produce: 128001 for the published model. */
int tokenizer_ids(const Tokenizer *t);
/* Text of an id for people: "_the", "[CLS]". Borrowed. */
const char *tokenizer_piece(const Tokenizer *t, int id);
/* Bytes of spm.model, and the SHA-256 of them as hex (borrowed). */
const void *tokenizer_model(const Tokenizer *t, size_t *n);
const char *tokenizer_digest(const Tokenizer *t);

typedef struct {
    bool plain;       /* special strings in the text are text */
    bool no_specials; /* leave out [CLS] and [SEP] */
    int max_tokens;   /* 0: no truncation; counts [CLS] and [SEP] */
} TokenizerRule;

/* Appends the ids of text[0..n) to ids (a Buf of int32 values). *whole, if not NULL, is the number of ids
 * without truncation. Thread-safe. */
ErrCode tokenizer_encode(const Tokenizer *t, const TokenizerRule *rule, const char *text, size_t n, Buf *ids,
                         size_t *whole, Err *err) ERR_CHECKED;

typedef struct {
    const char *text;
    size_t n;
    Buf ids;      /* output; cleared first */
    size_t whole; /* output */
} TokenizerJob;

/* Many texts on all threads. */
ErrCode tokenizer_encode_all(const Tokenizer *t, const TokenizerRule *rule, TokenizerJob *jobs, size_t count,
                             Threads *threads, Err *err) ERR_CHECKED;

/* The files a Hugging Face folder needs beside the weights: spm.model, tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json. */
ErrCode tokenizer_save(const Tokenizer *t, const char *dir, int max_tokens, Err *err) ERR_CHECKED;

#endif
