#include "data/defects.h"

#include <stdbool.h>
#include <stdint.h>

#include "core/text.h"
#include "data/words.h"

static const char *const NAMES[DEFECTS_COUNT] = {
    "NUL characters",       "control characters", "replacement characters (a wrong encoding)",
    "base64 or other data", "no letter or digit", "longer than allowed"};

const char *defects_name(int i) {
    return i >= 0 && i < DEFECTS_COUNT ? NAMES[i] : "none";
}

typedef struct {
    size_t length;
    bool upper, lower, digit;
} Run;

static bool extend(Run *run, uint32_t c) {
    const bool upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
    if (!upper && !lower && !digit && c != '+' && c != '/' && c != '=' && c != '-' && c != '_') {
        *run = (Run){0};
        return false;
    }
    run->length++;
    run->upper = run->upper || upper;
    run->lower = run->lower || lower;
    run->digit = run->digit || digit;
    return run->length >= DEFECTS_RUN && run->upper && run->lower && run->digit;
}

static unsigned of_character(uint32_t c) {
    if (c == 0) return DEFECT_NUL;
    if (c < 0x20) return c == '\t' || c == '\n' || c == '\r' ? 0 : DEFECT_CONTROL;
    if (c >= 0x7f && c <= 0x9f) return c == 0x85 ? 0 : DEFECT_CONTROL;
    return c == 0xfffd ? DEFECT_REPLACEMENT : 0;
}

unsigned defects_of(size_t *characters, const char *text, size_t n, size_t characters_max) {
    unsigned found = 0;
    Run run = {0};
    size_t count = 0;
    for (size_t i = 0; i < n; count++) {
        uint32_t c;
        i += text_utf8_next(text + i, n - i, &c);
        found |= of_character(c);
        if (extend(&run, c)) found |= DEFECT_BASE64;
    }
    Words words = {.text = text, .n = n};
    Word word;
    if (!words_next(&words, &word)) found |= DEFECT_WORDLESS;
    if (count > characters_max) found |= DEFECT_LONG;
    *characters = count;
    return found;
}
