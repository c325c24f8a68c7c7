#include "data/script.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/text.h"
#include "data/words.h"

static const char *const SCRIPTS[SCRIPT_COUNT] = {"none",   "Latin",  "Greek",      "Cyrillic",
                                                  "Hebrew", "Arabic", "Devanagari", "Thai",
                                                  "Hangul", "kana",   "Han",        "other"};
static const char *const LANGUAGES[LANGUAGE_COUNT] = {
    "unknown", "English", "German", "French", "Spanish", "Italian", "Portuguese", "Dutch",
    "Polish",  "Turkish", "Greek",  "Hebrew", "Thai",    "Korean",  "Japanese",   "Chinese"};

static const struct {
    uint32_t from, to; /* inclusive */
    Script script;
} RANGES[] = {
    {0x41, 0x5a, SCRIPT_LATIN},        {0x61, 0x7a, SCRIPT_LATIN},      {0xaa, 0xaa, SCRIPT_LATIN},
    {0xba, 0xba, SCRIPT_LATIN},        {0xc0, 0xd6, SCRIPT_LATIN},      {0xd8, 0xf6, SCRIPT_LATIN},
    {0xf8, 0x2af, SCRIPT_LATIN},       {0x370, 0x3ff, SCRIPT_GREEK},    {0x400, 0x52f, SCRIPT_CYRILLIC},
    {0x591, 0x5f4, SCRIPT_HEBREW},     {0x600, 0x6ff, SCRIPT_ARABIC},   {0x750, 0x77f, SCRIPT_ARABIC},
    {0x900, 0x97f, SCRIPT_DEVANAGARI}, {0xe00, 0xe7f, SCRIPT_THAI},     {0x1100, 0x11ff, SCRIPT_HANGUL},
    {0x1e00, 0x1eff, SCRIPT_LATIN},    {0x1f00, 0x1fff, SCRIPT_GREEK},  {0x3040, 0x30ff, SCRIPT_KANA},
    {0x3130, 0x318f, SCRIPT_HANGUL},   {0x31f0, 0x31ff, SCRIPT_KANA},   {0x3400, 0x4dbf, SCRIPT_HAN},
    {0x4e00, 0x9fff, SCRIPT_HAN},      {0xac00, 0xd7a3, SCRIPT_HANGUL}, {0xf900, 0xfaff, SCRIPT_HAN},
    {0xfb50, 0xfdff, SCRIPT_ARABIC},   {0xfe70, 0xfeff, SCRIPT_ARABIC}, {0xff66, 0xff9d, SCRIPT_KANA},
    {0x20000, 0x3ffff, SCRIPT_HAN},
};
enum { RANGE_COUNT = sizeof RANGES / sizeof *RANGES };

/* Words that are frequent in one of these languages and hardly occur in the others. */
static const struct {
    Language language;
    const char *words;
} FREQUENT[] = {
    {LANGUAGE_ENGLISH,
     " a the of and is to what how which that are for with you this from it does i my in do can have was "
     "not "},
    {LANGUAGE_GERMAN,
     " der das und ist nicht ein eine wie ich zu mit auf f\xc3\xbcr den von im sie wird kann "},
    {LANGUAGE_FRENCH, " le les des et est une dans pour que qui sur pas du au ce avec je vous comment "},
    {LANGUAGE_SPANISH,
     " el los las y es una por para que del con c\xc3\xb3mo qu\xc3\xa9 se lo m\xc3\xa1s en su "},
    {LANGUAGE_ITALIAN, " il gli che di \xc3\xa8 una non con della nel sono pi\xc3\xb9 questo del quanto "},
    {LANGUAGE_PORTUGUESE, " \xc3\xa9 uma n\xc3\xa3o para com da em um por que mais voc\xc3\xaa isso ser "},
    {LANGUAGE_DUTCH, " het een van en niet de op voor met zijn dat wat ik hoe aan je wordt naar "},
    {LANGUAGE_POLISH, " jest nie si\xc4\x99 jak czy dla jakie oraz przez kt\xc3\xb3ry s\xc4\x85 na "},
    {LANGUAGE_TURKISH, " bir ve bu i\xc3\xa7in ne ile nas\xc4\xb1l mi \xc3\xa7ok olarak nedir olan "},
};
enum { FREQUENT_COUNT = sizeof FREQUENT / sizeof *FREQUENT, WORD_MAX = 12 };

const char *script_name(Script script) {
    return (unsigned)script < SCRIPT_COUNT ? SCRIPTS[script] : "none";
}

const char *script_language_name(Language language) {
    return (unsigned)language < LANGUAGE_COUNT ? LANGUAGES[language] : "unknown";
}

static Script of_letter(uint32_t c) {
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z' ? SCRIPT_LATIN : SCRIPT_NONE;
    int low = 0, high = RANGE_COUNT - 1;
    while (low <= high) {
        const int middle = (low + high) / 2;
        if (c < RANGES[middle].from)
            high = middle - 1;
        else if (c > RANGES[middle].to)
            low = middle + 1;
        else
            return RANGES[middle].script;
    }
    /* letters of other scripts: what lies between the blocks above and is not punctuation or a symbol */
    return (c >= 0x530 && c < 0x2000) || (c >= 0x2c00 && c < 0x2e00) || (c >= 0xa000 && c < 0xabff)
               ? SCRIPT_OTHER
               : SCRIPT_NONE;
}

static bool holds(const char *list, const char *spaced) {
    return strstr(list, spaced) != NULL;
}

/* The language whose frequent words occur most; a word may be in the lists of several. */
static Language of_words(const char *text, size_t n) {
    unsigned hits[FREQUENT_COUNT] = {0};
    Words words = {.text = text, .n = n};
    Word word;
    for (int seen = 0; seen < 64 && words_next(&words, &word); seen++) {
        const size_t length = word.to - word.from;
        if (length > WORD_MAX) continue;
        char spaced[WORD_MAX + 3] = " ";
        for (size_t i = 0; i < length; i++) {
            const char c = text[word.from + i];
            spaced[1 + i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
        memcpy(spaced + 1 + length, " ", 2);
        for (int i = 0; i < FREQUENT_COUNT; i++) hits[i] += holds(FREQUENT[i].words, spaced);
    }
    int best = 0;
    bool tie = false;
    for (int i = 1; i < FREQUENT_COUNT; i++) {
        if (hits[i] >= hits[best]) {
            tie = hits[i] == hits[best];
            best = tie ? best : i;
        }
    }
    return hits[best] >= SCRIPT_HITS && !tie ? FREQUENT[best].language : LANGUAGE_UNKNOWN;
}

Script script_of(Language *language, const char *text, size_t n) {
    uint32_t count[SCRIPT_COUNT] = {0};
    if (n > SCRIPT_BYTES) n = SCRIPT_BYTES;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += text_utf8_next(text + i, n - i, &c);
        count[of_letter(c)]++;
    }
    Script best = SCRIPT_NONE;
    count[SCRIPT_NONE] = 0;
    for (Script s = SCRIPT_LATIN; s < SCRIPT_COUNT; s++)
        if (count[s] > count[best]) best = s;
    if (best == SCRIPT_HAN && count[SCRIPT_KANA]) best = SCRIPT_KANA; /* Japanese is written with both */
    switch (best) {
        case SCRIPT_LATIN: *language = of_words(text, n); break;
        case SCRIPT_GREEK: *language = LANGUAGE_GREEK; break;
        case SCRIPT_HEBREW: *language = LANGUAGE_HEBREW; break;
        case SCRIPT_THAI: *language = LANGUAGE_THAI; break;
        case SCRIPT_HANGUL: *language = LANGUAGE_KOREAN; break;
        case SCRIPT_KANA: *language = LANGUAGE_JAPANESE; break;
        case SCRIPT_HAN: *language = LANGUAGE_CHINESE; break;
        default: *language = LANGUAGE_UNKNOWN;
    }
    return best;
}
