#include "core/text.h"

#include <stdio.h>
#include <string.h>

size_t text_utf8_next(const char *s, size_t n, uint32_t *cp) {
    const unsigned char *b = (const unsigned char *)s;
    *cp = 0xfffd;
    if (b[0] < 0x80) {
        *cp = b[0];
        return 1;
    }
    const size_t len = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    static const uint32_t LEAST[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (b[0] < 0xc2 || b[0] > 0xf4 || len > n) return 1;
    uint32_t c = b[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((b[i] & 0xc0) != 0x80) return 1;
        c = c << 6 | (b[i] & 0x3fu);
    }
    if (c < LEAST[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 1;
    *cp = c;
    return len;
}

size_t text_utf8_prefix(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        const size_t len = text_utf8_next(s + i, n - i, &cp);
        if (len == 1 && (unsigned char)s[i] >= 0x80) return i;
        i += len;
    }
    return n;
}

bool text_is_blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

const char *text_nearest(const char *word, const char *const *names, size_t count) {
    const size_t n = strlen(word);
    size_t best = n / 3 + 1; /* more edits than that is another word */
    const char *nearest = NULL;
    if (n > 63) return NULL;
    for (size_t k = 0; k < count; k++) {
        const char *name = names[k];
        const size_t m = strlen(name);
        if (m > 63) continue;
        size_t row[64];
        for (size_t j = 0; j <= m; j++) row[j] = j;
        for (size_t i = 1; i <= n; i++) {
            size_t diagonal = row[0];
            row[0] = i;
            for (size_t j = 1; j <= m; j++) {
                const size_t keep = diagonal + (word[i - 1] != name[j - 1]);
                diagonal = row[j];
                size_t least = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
                row[j] = keep < least ? keep : least;
            }
        }
        if (row[m] <= best && (row[m] < best || !nearest)) {
            best = row[m];
            nearest = name;
        }
    }
    return nearest;
}

const char *text_excerpt(char *out, size_t max, const char *s, size_t n) {
    size_t i = 0, at = 0;
    while (i < n) {
        uint32_t cp;
        const size_t len = text_utf8_next(s + i, n - i, &cp);
        if (at + len > max) {
            memcpy(out + at, "...", 3);
            at += 3;
            break;
        }
        if (cp < 0x20 || cp == 0x7f || (len == 1 && cp == 0xfffd)) {
            out[at++] = '?';
        } else {
            memcpy(out + at, s + i, len);
            at += len;
        }
        i += len;
    }
    out[at] = 0;
    return out;
}

const char *text_grouped(char out[32], uint64_t v) {
    char digits[24];
    const int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)v);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

size_t text_characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

int text_columns(const char *s) {
    return (int)text_characters(s, strlen(s));
}

void text_put_json(Buf *out, const char *s, size_t n) {
    static const char HEX[] = "0123456789abcdef";
    buf_put(out, "\"", 1);
    for (size_t i = 0; i < n;) {
        size_t run = i; /* plain bytes are copied in runs */
        while (run < n && (unsigned char)s[run] >= 0x20 && (unsigned char)s[run] < 0x7f && s[run] != '"' &&
               s[run] != '\\')
            run++;
        buf_put(out, s + i, run - i);
        i = run;
        if (i == n) break;
        uint32_t cp;
        const size_t len = text_utf8_next(s + i, n - i, &cp);
        if (cp == '"' || cp == '\\') {
            const char pair[2] = {'\\', (char)cp};
            buf_put(out, pair, 2);
        } else if (cp == '\n') {
            buf_put(out, "\\n", 2);
        } else if (cp == '\t') {
            buf_put(out, "\\t", 2);
        } else if (cp < 0x20 || cp == 0x7f) {
            const char escape[6] = {'\\', 'u', '0', '0', HEX[cp >> 4], HEX[cp & 15]};
            buf_put(out, escape, 6);
        } else if (len == 1) {
            buf_put(out, "\\ufffd", 6);
        } else {
            buf_put(out, s + i, len);
        }
        i += len;
    }
    buf_put(out, "\"", 1);
}
