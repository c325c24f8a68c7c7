#include "data/elements.h"

#include <string.h>

#include "core/buf.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"

struct Elements {
    Lines *lines;
    ElementsShape shape;
    bool inside;  /* an array or object at the top that is not closed yet */
    bool in_list; /* members: in an array that is a member */
    bool first;   /* nothing in the innermost of these yet */
    size_t held;  /* bytes of the element last given out: skipped when the next is asked for */
    uint64_t line, index;
    Buf key;
};

/* The byte `offset` behind the place that was read up to; -1 at the end. */
static ErrCode byte_at(Elements *e, size_t offset, int *byte, Err *err) {
    const char *s;
    size_t n;
    TRY(lines_peek(e->lines, offset + 1, &s, &n, err));
    *byte = offset < n ? (unsigned char)s[offset] : -1;
    return ERR_OK;
}

static void skip(Elements *e, const char *s, size_t n) {
    for (const char *p = s; (p = memchr(p, '\n', n - (size_t)(p - s))) != NULL; p++) e->line++;
    lines_skip(e->lines, n);
}

static bool is_space(int c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* To the next byte that is no white space; -1 at the end. */
static ErrCode next_byte(Elements *e, int *byte, Err *err) {
    for (;;) {
        const char *s;
        size_t n, i = 0;
        TRY(lines_peek(e->lines, 1, &s, &n, err));
        while (i < n && is_space((unsigned char)s[i])) i++;
        skip(e, s, i);
        if (i < n || n == 0) {
            *byte = n ? (unsigned char)s[i] : -1;
            return ERR_OK;
        }
    }
}

static ErrCode unexpected(const Elements *e, int found, const char *expected, Err *err) {
    const char *path = lines_path(e->lines);
    const unsigned long long line = e->line;
    if (found < 0)
        return err_set(err, ERR_FORMAT, "%s:%llu: the file ends behind %llu elements, expected %s", path,
                       line, (unsigned long long)e->index, expected);
    if (found < 0x20 || found > 0x7e)
        return err_set(err, ERR_FORMAT, "%s:%llu: found the byte 0x%02x, expected %s", path, line,
                       (unsigned)found, expected);
    return err_set(err, ERR_FORMAT, "%s:%llu: found '%c', expected %s", path, line, found, expected);
}

/* ---- one value ---- */

typedef struct {
    unsigned depth;
    uint64_t objects; /* bit d: the bracket at depth d is a '{' */
    bool in_string;
    const char *bad;
} Nest;

/* Bytes of s[0..n) that still belong to the value; *done when the last of them ends it. */
static size_t scan_nest(Nest *nest, const char *s, size_t n, bool *done) {
    size_t i = 0;
    while (i < n) {
        const char c = s[i++];
        if (nest->in_string) {
            if (c == '\\') {
                if (i == n) return n - 1; /* the two are looked at together */
                i++;
            } else if (c == '"') {
                nest->in_string = false;
                *done = nest->depth == 0;
            }
        } else if (c == '"') {
            nest->in_string = true;
        } else if (c == '{' || c == '[') {
            if (nest->depth >= JSON_DEPTH_MAX) {
                nest->bad = "nested more than 64 deep";
                return i;
            }
            const uint64_t bit = (uint64_t)1 << nest->depth++;
            nest->objects = c == '{' ? nest->objects | bit : nest->objects & ~bit;
        } else if (c == '}' || c == ']') {
            const unsigned inner = nest->depth - 1; /* a value never begins with these: depth is not 0 */
            const bool object = inner < JSON_DEPTH_MAX && (nest->objects >> inner & 1);
            if (object != (c == '}')) {
                nest->bad = object ? "found ']', expected '}'" : "found '}', expected ']'";
                return i;
            }
            nest->depth = inner;
            *done = inner == 0;
        }
        if (*done) return i;
    }
    return n;
}

static size_t scan_scalar(const char *s, size_t n, bool *done) {
    size_t i = 0;
    while (i < n && !is_space((unsigned char)s[i]) && !strchr(",]}", s[i] ? s[i] : 'x')) i++;
    *done = i < n;
    return i;
}

static ErrCode too_long(const Elements *e, Err *err) {
    return err_set(err, ERR_FORMAT, "%s:%llu: an element of more than %zu bytes begins here",
                   lines_path(e->lines), (unsigned long long)e->line, ELEMENTS_MAX);
}

/* The value that begins at the place that was read up to (a byte `first` that is there). */
static ErrCode read_value(Elements *e, int first, Element *out, Err *err) {
    Nest nest = {0};
    const bool scalar = first != '{' && first != '[' && first != '"';
    bool done = false, grown = true;
    const char *s = NULL;
    size_t at = 0, n = 0;
    if (first == ',' || first == ']' || first == '}' || first == ':')
        return unexpected(e, first, "a value", err);
    while (!done && grown) {
        const size_t before = n;
        TRY(lines_peek(e->lines, n + 1, &s, &n, err));
        grown = n > before;
        at += scalar ? scan_scalar(s + at, n - at, &done) : scan_nest(&nest, s + at, n - at, &done);
        if (nest.bad) {
            skip(e, s, at - 1);
            return err_set(err, ERR_FORMAT, "%s:%llu: %s", lines_path(e->lines), (unsigned long long)e->line,
                           nest.bad);
        }
        if (at > ELEMENTS_MAX) return too_long(e, err);
    }
    if (!done && !scalar)
        return err_set(err, ERR_FORMAT,
                       "%s:%llu: the file ends in the middle of the element that begins here",
                       lines_path(e->lines), (unsigned long long)e->line);
    *out = (Element){.json = s, .n = at, .index = e->index++, .line = e->line};
    e->held = at;
    return ERR_OK;
}

/* ---- the shapes ---- */

static ErrCode next_line(Elements *e, Element *out, bool *more, Err *err) {
    for (;;) {
        const char *s = NULL, *newline = NULL;
        size_t n = 0, before;
        do {
            before = n;
            TRY(lines_peek(e->lines, n + 1, &s, &n, err));
            newline = n > before ? memchr(s + before, '\n', n - before) : NULL;
            if (!newline && n > ELEMENTS_MAX) return too_long(e, err);
        } while (!newline && n > before);
        size_t size = newline ? (size_t)(newline - s) : n, from = 0;
        const size_t whole = size + (newline != NULL);
        if (whole == 0) {
            *more = false;
            return ERR_OK;
        }
        while (size && is_space((unsigned char)s[size - 1])) size--;
        while (from < size && is_space((unsigned char)s[from])) from++;
        if (from == size) {
            skip(e, s, whole);
            continue;
        }
        *out = (Element){.json = s + from, .n = size - from, .index = e->index++, .line = e->line};
        e->held = whole;
        return ERR_OK;
    }
}

static ErrCode next_document(Elements *e, Element *out, bool *more, Err *err) {
    int c;
    TRY(next_byte(e, &c, err));
    *more = c >= 0;
    return *more ? read_value(e, c, out, err) : ERR_OK;
}

/* Past a comma where one is due; *closed past the bracket that closes what is open. */
static ErrCode next_in(Elements *e, char close, int *c, bool *closed, Err *err) {
    TRY(next_byte(e, c, err));
    *closed = *c == close;
    if (*closed) {
        lines_skip(e->lines, 1);
        return ERR_OK;
    }
    if (!e->first) {
        if (*c != ',') return unexpected(e, *c, close == ']' ? "',' or ']'" : "',' or '}'", err);
        lines_skip(e->lines, 1);
        TRY(next_byte(e, c, err));
    }
    e->first = false;
    return *c < 0 ? unexpected(e, *c, close == ']' ? "a value or ']'" : "a member or '}'", err) : ERR_OK;
}

static ErrCode at_end(Elements *e, bool *more, Err *err) {
    int c;
    e->inside = false;
    *more = false;
    TRY(next_byte(e, &c, err));
    return c < 0 ? ERR_OK : unexpected(e, c, "nothing behind the last bracket", err);
}

static ErrCode next_of_array(Elements *e, Element *out, bool *more, Err *err) {
    bool closed;
    int c;
    TRY(next_in(e, ']', &c, &closed, err));
    return closed ? at_end(e, more, err) : read_value(e, c, out, err);
}

/* The key of a member into e->key, and past its colon to the value's first byte. */
static ErrCode read_key(Elements *e, int c, int *value, Err *err) {
    Element key;
    if (c != '"') return unexpected(e, c, "the name of a member", err);
    TRY(read_value(e, c, &key, err));
    e->index--;
    buf_clear(&e->key);
    buf_put(&e->key, key.json + 1, key.n - 2);
    TRY(buf_ok(&e->key, err));
    skip(e, key.json, e->held);
    e->held = 0;
    TRY(next_byte(e, value, err));
    if (*value != ':') return unexpected(e, *value, "':'", err);
    lines_skip(e->lines, 1);
    TRY(next_byte(e, value, err));
    return *value < 0 ? unexpected(e, *value, "a value", err) : ERR_OK;
}

static ErrCode next_of_members(Elements *e, Element *out, bool *more, Err *err) {
    for (;;) {
        bool closed;
        int c;
        TRY(next_in(e, e->in_list ? ']' : '}', &c, &closed, err));
        if (closed && !e->in_list) return at_end(e, more, err);
        if (closed) {
            e->in_list = e->first = false;
            continue;
        }
        if (!e->in_list) {
            TRY(read_key(e, c, &c, err));
            e->in_list = e->first = c == '[';
            if (e->in_list) {
                lines_skip(e->lines, 1);
                continue;
            }
        }
        TRY(read_value(e, c, out, err));
        out->key = e->key.data ? e->key.data : "";
        return ERR_OK;
    }
}

ErrCode elements_next(Elements *e, Element *out, bool *more, Err *err) {
    if (e->held) {
        const char *s;
        size_t n;
        TRY(lines_peek(e->lines, e->held, &s, &n, err));
        skip(e, s, e->held);
        e->held = 0;
    }
    *more = true;
    switch (e->shape) {
        case ELEMENTS_LINES: return next_line(e, out, more, err);
        case ELEMENTS_DOCUMENTS: return next_document(e, out, more, err);
        case ELEMENTS_ARRAY:
        case ELEMENTS_MEMBERS: break;
    }
    if (!e->inside) {
        *more = false;
        return ERR_OK;
    }
    return e->shape == ELEMENTS_ARRAY ? next_of_array(e, out, more, err) : next_of_members(e, out, more, err);
}

/* ---- what shape ---- */

static ErrCode skip_spaces_at(Elements *e, size_t *offset, int *c, Err *err) {
    do TRY(byte_at(e, (*offset)++, c, err));
    while (is_space(*c) && *offset < ELEMENTS_MAX);
    return ERR_OK;
}

/* Whether {"key": is followed by an object or an array. */
static ErrCode looks_like_members(Elements *e, bool *yes, Err *err) {
    size_t at = 1;
    int c;
    *yes = false;
    TRY(skip_spaces_at(e, &at, &c, err));
    if (c != '"') return ERR_OK;
    do {
        TRY(byte_at(e, at++, &c, err));
        if (c == '\\') at++;
    } while (c >= 0 && c != '"' && at < ELEMENTS_MAX);
    TRY(skip_spaces_at(e, &at, &c, err));
    if (c != ':') return ERR_OK;
    TRY(skip_spaces_at(e, &at, &c, err));
    *yes = c == '{' || c == '[';
    return ERR_OK;
}

/* The first line of a document that goes on ends inside it; a line of JSONL, even a bad one, seldom does so. */
static ErrCode looks_like_document(Elements *e, bool *yes, Err *err) {
    int c = 0, last = 0;
    for (size_t at = 0; c >= 0 && c != '\n' && at < ELEMENTS_MAX; at++) {
        TRY(byte_at(e, at, &c, err));
        if (c >= 0 && !is_space(c)) last = c;
    }
    *yes = c == '\n' && (last == '{' || last == '[' || last == ',' || last == ':');
    return ERR_OK;
}

static ErrCode find_shape(Elements *e, bool members, Err *err) {
    const char *s;
    size_t n;
    int c;
    bool yes = false;
    TRY(lines_peek(e->lines, 3, &s, &n, err));
    if (n >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0) lines_skip(e->lines, 3);
    TRY(next_byte(e, &c, err));
    e->shape = ELEMENTS_LINES;
    if (c == '[') e->shape = ELEMENTS_ARRAY;
    if (c == '{' && members) {
        TRY(looks_like_members(e, &yes, err));
        if (yes) e->shape = ELEMENTS_MEMBERS;
    }
    if (c == '{' && !yes) {
        TRY(looks_like_document(e, &yes, err));
        if (yes) e->shape = ELEMENTS_DOCUMENTS;
    }
    e->inside = e->first = e->shape == ELEMENTS_ARRAY || e->shape == ELEMENTS_MEMBERS;
    if (e->inside) lines_skip(e->lines, 1);
    return ERR_OK;
}

ErrCode elements_open(Elements **out, const char *path, bool members, Err *err) {
    *out = NULL;
    Elements *e;
    TRY(mem_new(&e, 1, sizeof *e, "a reader of JSON", err));
    e->line = 1;
    ErrCode rc = lines_open(&e->lines, path, err);
    if (rc == ERR_OK) rc = find_shape(e, members, err);
    if (rc != ERR_OK) {
        elements_close(e);
        return rc;
    }
    *out = e;
    return ERR_OK;
}

ElementsShape elements_shape(const Elements *e) {
    return e->shape;
}

void elements_close(Elements *e) {
    if (!e) return;
    lines_close(e->lines);
    buf_free(&e->key);
    mem_free(e);
}
