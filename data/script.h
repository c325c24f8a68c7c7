/* data/script.h - which writing system a text is mostly in, and a guess at its language.
 *
 * The script is that of most letters, by the ranges of Unicode's blocks. Its name is all that is claimed for Cyrillic,
 * Arabic and Devanagari, which many languages share; Greek, Hebrew, Thai, Hangul, kana and ideographs without kana
 * name a language (Chinese, for the last). Latin letters are judged by short lists of the most frequent words: a
 * language needs SCRIPT_HITS of them and more than any other, else the language is not known. Good for the mix of a
 * corpus, not for one short text. */
#ifndef DATA_SCRIPT_H
#define DATA_SCRIPT_H

#include <stddef.h>

typedef enum {
    SCRIPT_NONE, /* no letters */
    SCRIPT_LATIN,
    SCRIPT_GREEK,
    SCRIPT_CYRILLIC,
    SCRIPT_HEBREW,
    SCRIPT_ARABIC,
    SCRIPT_DEVANAGARI,
    SCRIPT_THAI,
    SCRIPT_HANGUL,
    SCRIPT_KANA,
    SCRIPT_HAN,
    SCRIPT_OTHER,
    SCRIPT_COUNT
} Script;

typedef enum {
    LANGUAGE_UNKNOWN,
    LANGUAGE_ENGLISH,
    LANGUAGE_GERMAN,
    LANGUAGE_FRENCH,
    LANGUAGE_SPANISH,
    LANGUAGE_ITALIAN,
    LANGUAGE_PORTUGUESE,
    LANGUAGE_DUTCH,
    LANGUAGE_POLISH,
    LANGUAGE_TURKISH,
    LANGUAGE_GREEK,
    LANGUAGE_HEBREW,
    LANGUAGE_THAI,
    LANGUAGE_KOREAN,
    LANGUAGE_JAPANESE,
    LANGUAGE_CHINESE,
    LANGUAGE_COUNT
} Language;

#define SCRIPT_HITS 2

const char *script_name(Script script);
const char *script_language_name(Language language);

/* Any bytes; looks at the first SCRIPT_BYTES of them. */
#define SCRIPT_BYTES ((size_t)4096)
Script script_of(Language *language, const char *text, size_t n);

#endif
