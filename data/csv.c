#include "data/csv.h"

#include <string.h>

#include "core/lines.h"
#include "core/mem.h"

enum { SEPARATOR_BYTES = 65536 }; /* of the first record, that its separator is looked for in */

struct Csv {
    Lines *lines;
    CsvRule rule;
    size_t held; /* bytes of the record last given out */
    uint64_t line;
};

/* Where a record is read up to. */
typedef struct {
    size_t at;
    bool started; /* the next byte is not the first of a field */
    bool quoted;  /* the field began with a quote */
    bool inside;  /* and that is not closed */
    size_t quote; /* where it opened */
} Place;

/* On to the line end that ends the record: true when it is s[place->at]. A quote closes a field and opens it again where
 * it is doubled, so pairs need no attention here. */
static bool find_end(Place *p, const char *s, size_t n, CsvRule rule) {
    for (; p->at < n; p->at++) {
        const char c = s[p->at];
        if (p->inside) {
            p->inside = c != '"';
        } else if (c == '\n') {
            return true;
        } else if (c == '"' && !rule.plain && (!p->started || (p->quoted && s[p->at - 1] == '"'))) {
            if (!p->started) p->quote = p->at;
            p->started = p->quoted = p->inside = true;
        } else {
            p->started = c != rule.separator;
            p->quoted = p->quoted && p->started;
        }
    }
    return false;
}

static uint64_t count_lines(const char *s, size_t n) {
    uint64_t lines = 0;
    for (const char *p = s; (p = memchr(p, '\n', n - (size_t)(p - s))) != NULL; p++) lines++;
    return lines;
}

/* The next record in *s: *n bytes and its line end. */
static ErrCode find_record(const Csv *c, const char **s, size_t *n, size_t *whole, Err *err) {
    Place p = {0};
    size_t have = 0, before;
    bool ended = false;
    do {
        before = have;
        TRY(lines_peek(c->lines, have + 1, s, &have, err));
        ended = find_end(&p, *s, have, c->rule);
        if (p.at > CSV_MAX)
            return err_set(err, ERR_FORMAT, "%s:%llu: a record of more than %zu bytes begins here%s",
                           lines_path(c->lines), (unsigned long long)c->line, CSV_MAX,
                           p.inside ? "; is a quote never closed?" : "");
    } while (!ended && have > before);
    if (p.inside)
        return err_set(err, ERR_FORMAT, "%s:%llu: a quote opens here and is never closed",
                       lines_path(c->lines), (unsigned long long)(c->line + count_lines(*s, p.quote)));
    *whole = p.at + ended;
    *n = p.at - (p.at && (*s)[p.at - 1] == '\r');
    return ERR_OK;
}

static void find_separator(CsvRule *rule, const char *s, size_t n) {
    static const char SEPARATORS[] = ",\t;";
    size_t counts[3] = {0}, best = 0;
    bool inside = false;
    for (size_t i = 0; i < n && (inside || s[i] != '\n'); i++) {
        if (s[i] == '"' && !rule->plain) inside = !inside;
        const char *which = inside || !s[i] ? NULL : strchr(SEPARATORS, s[i]);
        if (which) counts[which - SEPARATORS]++;
    }
    for (size_t i = 1; i < 3; i++)
        if (counts[i] > counts[best]) best = i;
    rule->separator = SEPARATORS[best];
}

ErrCode csv_open(Csv **out, const char *path, CsvRule rule, Err *err) {
    *out = NULL;
    Csv *c;
    TRY(mem_new(&c, 1, sizeof *c, "a reader of CSV", err));
    c->rule = rule;
    c->line = 1;
    const char *s = NULL;
    size_t n = 0;
    ErrCode rc = lines_open(&c->lines, path, err);
    if (rc == ERR_OK) rc = lines_peek(c->lines, 3, &s, &n, err);
    if (rc == ERR_OK && n >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0) lines_skip(c->lines, 3);
    if (rc == ERR_OK && !rule.separator) rc = lines_peek(c->lines, SEPARATOR_BYTES, &s, &n, err);
    if (rc == ERR_OK && !rule.separator) find_separator(&c->rule, s, n);
    if (rc != ERR_OK) {
        csv_close(c);
        return rc;
    }
    *out = c;
    return ERR_OK;
}

ErrCode csv_next(Csv *c, const char **record, size_t *n, uint64_t *line, bool *more, Err *err) {
    for (;;) {
        const char *s;
        size_t whole;
        if (c->held) {
            TRY(lines_peek(c->lines, c->held, &s, &whole, err));
            c->line += count_lines(s, c->held);
            lines_skip(c->lines, c->held);
            c->held = 0;
        }
        TRY(find_record(c, record, n, &whole, err));
        *more = whole > 0;
        *line = c->line;
        c->held = whole;
        if (!*more || *n > 0) return ERR_OK;
    }
}

CsvRule csv_rule(const Csv *c) {
    return c->rule;
}

void csv_close(Csv *c) {
    if (!c) return;
    lines_close(c->lines);
    mem_free(c);
}

static ErrCode begin_field(CsvFields *f, Err *err) {
    if (f->count + 1 >= f->cap) {
        const size_t cap = f->cap ? 2 * f->cap : 16;
        size_t *at = mem_resize(f->at, cap, sizeof *at);
        if (!at) return err_set(err, ERR_MEMORY, "out of memory for %zu fields", cap);
        f->at = at;
        f->cap = cap;
    }
    f->at[f->count++] = f->bytes.len;
    return ERR_OK;
}

/* A quoted field from behind its opening quote; what is behind the closing one. */
static size_t put_quoted(CsvFields *f, const char *s, size_t i, size_t n) {
    for (;;) {
        const char *quote = i < n ? memchr(s + i, '"', n - i) : NULL;
        const size_t end = quote ? (size_t)(quote - s) : n;
        buf_put(&f->bytes, s + i, end - i);
        if (end == n) return n;
        i = end + 1;
        if (i == n || s[i] != '"') return i;
        buf_put(&f->bytes, "\"", 1);
        i++;
    }
}

ErrCode csv_split(CsvFields *f, const char *s, size_t n, CsvRule rule, Err *err) {
    buf_clear(&f->bytes);
    f->count = 0;
    for (size_t i = 0;; i++) { /* i: where a field begins, then its separator */
        TRY(begin_field(f, err));
        if (i < n && s[i] == '"' && !rule.plain) {
            i = put_quoted(f, s, i + 1, n);
            if (i < n && s[i] != rule.separator)
                return err_set(err, ERR_FORMAT, "field %zu: something is behind the closing quote", f->count);
        } else {
            const char *end = i < n ? memchr(s + i, rule.separator, n - i) : NULL;
            const size_t to = end ? (size_t)(end - s) : n;
            buf_put(&f->bytes, s + i, to - i);
            i = to;
        }
        if (i >= n) break;
    }
    TRY(buf_ok(&f->bytes, err));
    f->at[f->count] = f->bytes.len;
    return ERR_OK;
}

void csv_free(CsvFields *f) {
    buf_free(&f->bytes);
    mem_free(f->at);
    *f = (CsvFields){0};
}
