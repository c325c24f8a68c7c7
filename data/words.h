/* data/words.h - the words of a text, as the audits of a corpus count and compare them.
 *
 * A word is a run of letters and digits of any script, compared in lower case (ASCII, Latin-1, Greek, Cyrillic); an
 * ideograph, a kana or any other sign from U+3040 on is a word by itself, Hangul syllables excepted. Everything else
 * separates words, also '_' and apostrophes. Invalid UTF-8 is a sign like any other. */
#ifndef DATA_WORDS_H
#define DATA_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"

typedef struct {
    const char *text;
    size_t n, at; /* at: where the next word is looked for; begins with 0 */
} Words;

typedef struct {
    size_t from, to; /* bytes of the text */
    uint64_t hash;   /* well mixed, never 0 */
} Word;

/* The next word; false at the end. */
bool words_next(Words *words, Word *out);

/* Hash of a run of words from the hashes of its beginning (0 for none) and of one more word. */
uint64_t words_join(uint64_t run, uint64_t word);

/* Appends the words in text[0..n), in lower case, with a space between two. */
void words_put(Buf *out, const char *text, size_t n);

uint32_t words_lower(uint32_t cp);

#endif
