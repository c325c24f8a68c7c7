/* data/noise.h - what people and programs do to prompts on the way: typing errors, lost capitals and punctuation, pasted
 * quotes, small talk around them. What is meant stays the same, so a router should still find the right label.
 *
 * Everything is a function of the text, the kind, the strength and a key. Strength, in [0, 1], is the share of the places where
 * a kind may change something (words, spaces, marks) that it changes; at least one is changed where there is any. For
 * prefix, suffix and quote there is one place. Letters are changed by code point and never cut; of other alphabets than
 * ASCII they move and vanish, but have neither neighbours on the keyboard nor another case. Digits stay.
 *
 * Left alone are code in fences (```) or `ticks`, lines that begin with four spaces or a tab, formulas between dollars,
 * \( \) or \[ \], and words that look like addresses (with "://" or "@"). Prefix, suffix and quote go around everything. */
#ifndef DATA_NOISE_H
#define DATA_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

typedef enum {
    NOISE_TYPOS,       /* letters swapped, dropped, doubled or replaced by a neighbour on the keyboard */
    NOISE_CASE,        /* words in lower case, in upper case, with a capital, or with random capitals */
    NOISE_SPACE,       /* spaces doubled, lost, or line breaks; or white space at the end */
    NOISE_PUNCTUATION, /* marks lost */
    NOISE_PREFIX,      /* "hey, quick question: " */
    NOISE_SUFFIX,      /* " thanks!" */
    NOISE_QUOTE,       /* in quotes, as quoted mail, in a code fence */
    NOISE_COUNT
} NoiseKind;

const char *noise_name(NoiseKind kind); /* "typos" */
NoiseKind noise_find(const char *name); /* NOISE_COUNT: none */
/* The name that `name` may be a misspelling of, or NULL. */
const char *noise_nearest(const char *name);

/* Appends text[0..n), changed, to *out; *changed is false, and nothing is appended, where this kind cannot change this text.
 * Any bytes are taken; valid UTF-8 gives valid UTF-8. */
ErrCode noise_apply(Buf *out, bool *changed, const char *text, size_t n, NoiseKind kind, double strength,
                    uint64_t key, Err *err) ERR_CHECKED;

#endif
