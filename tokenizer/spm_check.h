/* tokenizer/spm_check.h - judges the bytes of a spm.model before sentencepiece reads them.
 *
 * A blob carries its tokenizer, so these bytes are as untrusted as any file, and sentencepiece follows
 * offsets of its normaliser table unchecked. Accepted are unigram models with byte fallback and DeBERTa's
 * special pieces: protobuf    well-formed, no groups, the fields read here once each and of their declared
 * type; unknown fields are skipped (the published file has some) pieces      1 .. 256 bytes of UTF-8 without
 * NUL, finite score; [PAD] [CLS] [SEP] control, [UNK] the only unknown one, 256 byte pieces, at least one
 * normal piece; no normal piece is named as a special charsmap    uint32 bytes of the trie, trie (darts-clone
 * double array in blocks of 256 units), strings; every unit's children lie inside the trie, every value
 * inside the strings, keys are at most 32 bytes long (sentencepiece's buffer holds 32 prefixes; and no
 * cycles), replacements valid UTF-8 and at most SPM_CHECK_GROWTH times as long as their key no self tests, no
 * denormaliser What is left to sentencepiece are duplicates and the names of byte pieces, which it reports.
 */
#ifndef TOKENIZER_SPM_CHECK_H
#define TOKENIZER_SPM_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/err.h"

#define SPM_CHECK_GROWTH 32
#define SPM_CHECK_PIECE  256 /* bytes; bounds the time of encoding: at most so many steps a byte */
#define SPM_CHECK_BYTES  ((size_t)64 << 20) /* of the whole file */

typedef struct {
    int pieces;
    /* Encoding a text's beginning up to a space gives the beginning of its ids. It holds when
     *  - no rule of the charsmap has a space in its key, so that normalising up to the space does not see it,
     *    and the space itself becomes a word mark U+2581, or vanishes beside another;
     *  - the normaliser adds a leading mark, escapes spaces as marks, and removes extra ones;
     *  - no piece has a mark behind its first character and none is user-defined, so that every path of the
     *    Viterbi search passes the position before a mark, and the best path to it, being computed left to
     *    right, does not depend on what follows. */
    bool cuts_at_space;
} SpmFacts;

/* ERR_FORMAT says what is wrong. */
ErrCode spm_check(SpmFacts *out, const void *bytes, size_t n, Err *err) ERR_CHECKED;

#ifdef __cplusplus
}
#endif
#endif
