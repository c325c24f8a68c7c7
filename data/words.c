#include "data/words.h"

#include "core/rng.h"
#include "core/text.h"

typedef enum { BETWEEN, LETTER, SIGN } Kind;

static Kind kind_of(uint32_t c) {
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ? LETTER : BETWEEN;
    if (c < 0xc0) return c == 0xaa || c == 0xb5 || c == 0xba ? LETTER : BETWEEN;
    if (c == 0xd7 || c == 0xf7) return BETWEEN;
    if (c < 0x2000) return LETTER;
    if (c < 0x2c00 || (c >= 0x2e00 && c < 0x3040))
        return BETWEEN; /* punctuation, symbols, arrows, radicals */
    if (c < 0x2e00 || (c >= 0xac00 && c <= 0xd7a3)) return LETTER;
    return (c >= 0xff00 && c < 0xff10) || (c >= 0xfe00 && c < 0xfe70) ? BETWEEN : SIGN;
}

uint32_t words_lower(uint32_t c) {
    if (c >= 'A' && c <= 'Z') return c + 32;
    if ((c >= 0xc0 && c <= 0xde && c != 0xd7) || (c >= 0x391 && c <= 0x3a9) || (c >= 0x410 && c <= 0x42f))
        return c + 32;
    return c >= 0x400 && c <= 0x40f ? c + 80 : c;
}

bool words_next(Words *w, Word *out) {
    uint64_t h = 0xcbf29ce484222325u;
    bool inside = false;
    while (w->at < w->n) {
        uint32_t c;
        const size_t len = text_utf8_next(w->text + w->at, w->n - w->at, &c);
        const Kind kind = kind_of(c);
        if (inside && kind != LETTER) break;
        w->at += len;
        if (kind == BETWEEN) continue;
        if (!inside) out->from = w->at - len;
        inside = true;
        h = (h ^ words_lower(c)) * 0x100000001b3u;
        if (kind == SIGN) break;
    }
    out->to = w->at;
    out->hash = rng_mix(h) | 1;
    return inside;
}

uint64_t words_join(uint64_t run, uint64_t word) {
    return rng_mix(run * 0x9e3779b97f4a7c15u + word);
}

static void put_lower(Buf *out, uint32_t c, const char *s, size_t len) {
    const uint32_t low = words_lower(c);
    if (low == c) {
        buf_put(out, s, len);
    } else if (low < 0x80) {
        const char one = (char)low;
        buf_put(out, &one, 1);
    } else { /* the scripts that words_lower knows take two bytes a letter */
        const char two[2] = {(char)(0xc0 | (low >> 6)), (char)(0x80 | (low & 0x3f))};
        buf_put(out, two, 2);
    }
}

void words_put(Buf *out, const char *text, size_t n) {
    Words words = {.text = text, .n = n};
    Word word;
    for (bool first = true; words_next(&words, &word); first = false) {
        if (!first) buf_put(out, " ", 1);
        for (size_t i = word.from; i < word.to;) {
            uint32_t c;
            const size_t len = text_utf8_next(text + i, n - i, &c);
            if (len == 1 && c == 0xfffd)
                buf_puts(out, "\xef\xbf\xbd");
            else
                put_lower(out, c, text + i, len);
            i += len;
        }
    }
}
