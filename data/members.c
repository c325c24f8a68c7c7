#include "data/members.h"

#include <string.h>

/* What cJSON passes over between values: more than JSON's white space. */
static bool is_space(char c) {
    return (unsigned char)c <= ' ';
}

static void skip_space(Members *m) {
    while (m->at < m->n && is_space(m->text[m->at])) m->at++;
}

static bool is_at(const Members *m, char c) {
    return m->at < m->n && m->text[m->at] == c;
}

void members_open(Members *m, const char *text, size_t n) {
    *m = (Members){.text = text, .n = n};
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) m->at = 3;
    skip_space(m);
    if (is_at(m, '{'))
        m->at++;
    else
        m->at = n;
    m->tail = m->at;
}

static void skip_string(Members *m) {
    for (m->at++; m->at < m->n && m->text[m->at] != '"'; m->at++)
        if (m->text[m->at] == '\\') m->at++;
    m->at = m->at < m->n ? m->at + 1 : m->n;
}

static void skip_value(Members *m) {
    size_t depth = 0;
    while (m->at < m->n) {
        const char c = m->text[m->at];
        if (c == '"') {
            skip_string(m);
            if (depth == 0) return;
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || is_space(c))) return;
        m->at++;
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && --depth == 0) return;
    }
}

bool members_next(Members *m, Member *out) {
    skip_space(m);
    if (m->count && is_at(m, ',')) m->at++;
    skip_space(m);
    if (!is_at(m, '"')) return false;
    out->key = m->at;
    skip_string(m);
    out->key_end = m->at;
    skip_space(m);
    if (!is_at(m, ':')) return false;
    m->at++;
    skip_space(m);
    out->value = m->at;
    skip_value(m);
    out->end = m->tail = m->at;
    m->count++;
    return out->end > out->value;
}
