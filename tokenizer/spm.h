/* tokenizer/spm.h - sentencepiece behind a C face: the only file pair that sees it. No exception leaves
 * spm.cpp. Models are untrusted: spm_check judges their bytes before sentencepiece does. */
#ifndef TOKENIZER_SPM_H
#define TOKENIZER_SPM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/buf.h"
#include "core/err.h"

/* Longest text that can be encoded at once. sentencepiece needs about 65 bytes of memory for a byte of prose,
 * 540 for a byte that is not UTF-8; it counts in int, and a model that passed spm_check makes at most 32
 * bytes (SPM_CHECK_GROWTH) of one. */
#define SPM_TEXT_MAX ((size_t)16 << 20)

typedef struct Spm Spm;

/* From the bytes of a spm.model; hostile bytes are ERR_FORMAT. */
ErrCode spm_open(Spm **out, const void *bytes, size_t n, Err *err) ERR_CHECKED;
void spm_close(Spm *spm);

int spm_pieces(const Spm *spm);
/* Piece of an id in [0, spm_pieces): NUL-terminated, borrowed. */
const char *spm_piece(const Spm *spm, int id);
/* Id of a piece, or -1 when it is not in the model (never the unknown id). */
int spm_find(const Spm *spm, const char *piece);

/* Whether the ids of a text's beginning, cut before a space (0x20), are always the beginning of its ids.
 * True for the published model and for those of spm_train; spm_check.h says why. */
bool spm_cuts_at_space(const Spm *spm);

/* Appends the ids of text[0..n), any bytes, to ids (int32 values in a Buf). Thread-safe. Time and memory are
 * linear in n; ERR_ARGUMENT when n > SPM_TEXT_MAX. */
ErrCode spm_encode(const Spm *spm, const char *text, size_t n, Buf *ids, Err *err) ERR_CHECKED;

/* Trains a unigram model with DeBERTa-v3's rules on sentences[0..count) and appends the bytes of spm.model to
 * out. The pieces: 0 [PAD], 1 [CLS], 2 [SEP], 3 [UNK], then 256 byte pieces, then learnt ones; `pieces` in
 * all, or fewer when the text does not hold so many. The same sentences give the same bytes with the same
 * version of sentencepiece. Its sums depend on how many workers it has, so it always gets the same number;
 * `threads` changes nothing.
 * ERR_ARGUMENT when the text has no letters, digits or signs, or more different characters than `pieces`. */
ErrCode spm_train(Buf *out, const char *const *sentences, const size_t *lengths, size_t count, int pieces,
                  int threads, Err *err) ERR_CHECKED;

#ifdef __cplusplus
}
#endif
#endif
