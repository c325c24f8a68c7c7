/* core/text.h - small questions about text. */
#ifndef CORE_TEXT_H
#define CORE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"

/* Length of the valid UTF-8 prefix of s; equals n when all of it is valid (no overlong forms, no surrogates).
 */
size_t text_utf8_prefix(const char *s, size_t n);

/* Decodes the character at s[0..n), n >= 1: its length in bytes and, in *cp, its code point; an invalid byte
 * counts as one character U+FFFD. */
size_t text_utf8_next(const char *s, size_t n, uint32_t *cp);

/* Nothing but spaces, tabs and carriage returns: a line to pass over. */
bool text_is_blank(const char *s, size_t n);

/* The name nearest to `word` by edit distance, or NULL when none is near enough to be a misspelling of it. */
const char *text_nearest(const char *word, const char *const *names, size_t count);

/* Up to `max` bytes of s for a message: cut at a character, control characters and invalid bytes as '?',
 * "..." when cut. out holds at least max + 4 bytes; returns out. */
const char *text_excerpt(char *out, size_t max, const char *s, size_t n);

/* "1,234,567"; returns out. A number of 64 bits takes 26 characters. */
const char *text_grouped(char out[32], uint64_t v);

/* Characters of valid UTF-8. */
size_t text_characters(const char *s, size_t n);

/* Columns of valid UTF-8 on a terminal, one for each character. */
int text_columns(const char *s);

/* A JSON string literal with its quotes; invalid UTF-8 becomes U+FFFD. */
void text_put_json(Buf *out, const char *s, size_t n);

#endif
