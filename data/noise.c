#include "data/noise.h"

#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "core/text.h"

static const char *const NAMES[NOISE_COUNT] = {"typos",  "case",   "space", "punctuation",
                                               "prefix", "suffix", "quote"};

const char *noise_name(NoiseKind kind) {
    return NAMES[kind];
}

NoiseKind noise_find(const char *name) {
    NoiseKind kind = NOISE_TYPOS;
    while (kind < NOISE_COUNT && strcmp(NAMES[kind], name) != 0) kind++;
    return kind;
}

const char *noise_nearest(const char *name) {
    return text_nearest(name, NAMES, NOISE_COUNT);
}

/* ---- text as characters ---- */

typedef struct {
    uint32_t at; /* byte */
    bool kept;   /* code, a formula, an address: stays as it is */
    bool letter, space;
} Char;

typedef struct {
    const char *s;
    Char *chars; /* [count + 1], the last at the end */
    size_t count;
    double strength;
    uint64_t key;
    uint64_t draws; /* random numbers taken so far */
} Work;

static uint64_t draw(Work *w, uint64_t below) {
    return rng_bits(w->key, w->draws++) % below;
}

static bool happens(Work *w) {
    return rng_uniform(w->key, w->draws++) < w->strength;
}

static size_t length_of(const Work *w, size_t i) {
    return w->chars[i + 1].at - w->chars[i].at;
}

static bool is_at(const Work *w, size_t i, char c) {
    return i < w->count && w->s[w->chars[i].at] == c;
}

static void keep(Work *w, size_t from, size_t to) {
    for (size_t i = from; i < to && i < w->count; i++) w->chars[i].kept = true;
}

static bool is_space(uint32_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A letter for our purposes: those of ASCII, and what is beyond its signs and spaces. */
static bool is_letter(uint32_t c) {
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
    return c >= 0xc0 && c != 0xd7 && c != 0xf7 && !(c >= 0x2000 && c <= 0x2bff) &&
           !(c >= 0x3000 && c <= 0x303f) && !(c >= 0xfe00 && c <= 0xfe0f) && c < 0x1f000 && c != 0xfffd;
}

/* ---- what stays as it is ---- */

static bool begins(const Work *w, size_t i, const char *what) {
    for (; *what; i++, what++)
        if (!is_at(w, i, *what)) return false;
    return true;
}

/* Behind the first `what` at or behind i; count when there is none. */
static size_t behind(const Work *w, size_t i, const char *what) {
    while (i < w->count && !begins(w, i, what)) i++;
    return i < w->count ? i + strlen(what) : w->count;
}

/* The end of "$...$" that opens at i, or i: no space behind the first dollar and before the last, no digit behind it, no
 * empty line between them, so that prices are no formulas. */
static size_t end_of_formula(const Work *w, size_t i) {
    if (i + 1 >= w->count || w->chars[i + 1].space) return i;
    for (size_t k = i + 1; k < w->count; k++) {
        if (is_at(w, k, '\n') && is_at(w, k + 1, '\n')) return i;
        if (is_at(w, k, '\\')) {
            k++;
            continue;
        }
        if (!is_at(w, k, '$')) continue;
        const char next = k + 1 < w->count ? w->s[w->chars[k + 1].at] : ' ';
        return k == i + 1 || w->chars[k - 1].space || (next >= '0' && next <= '9') ? i : k + 1;
    }
    return i;
}

/* The end of code or formula that opens at i; i when none does. */
static size_t end_of_span(const Work *w, size_t i) {
    static const char *const PAIRS[][2] = {{"```", "```"}, {"$$", "$$"}, {"\\(", "\\)"}, {"\\[", "\\]"}};
    for (size_t k = 0; k < sizeof PAIRS / sizeof *PAIRS; k++)
        if (begins(w, i, PAIRS[k][0])) return behind(w, i + strlen(PAIRS[k][0]), PAIRS[k][1]);
    if (is_at(w, i, '$')) return end_of_formula(w, i);
    if (is_at(w, i, '`')) {
        size_t end = i + 1;
        while (end < w->count && !is_at(w, end, '`') && !is_at(w, end, '\n')) end++;
        return is_at(w, end, '`') ? end + 1 : i;
    }
    return i;
}

static void keep_code(Work *w) {
    for (size_t i = 0; i < w->count;) {
        const bool line_begins = i == 0 || is_at(w, i - 1, '\n');
        size_t end = i;
        if (line_begins && (is_at(w, i, '\t') || begins(w, i, "    "))) {
            while (end < w->count && !is_at(w, end, '\n')) end++;
        } else {
            end = end_of_span(w, i);
        }
        keep(w, i, end);
        i = end > i ? end : i + 1;
    }
}

static void keep_addresses(Work *w) {
    for (size_t i = 0; i < w->count;) {
        size_t end = i;
        bool address = false;
        for (; end < w->count && !w->chars[end].space; end++) {
            const bool inside = end > i && end + 1 < w->count && !w->chars[end + 1].space;
            address = address || begins(w, end, "://") || (inside && is_at(w, end, '@'));
        }
        if (address) keep(w, i, end);
        i = end + 1;
    }
}

static ErrCode read_chars(Work *w, size_t n, Err *err) {
    if (n >= UINT32_MAX) return err_set(err, ERR_ARGUMENT, "a text of %zu bytes", n);
    w->chars = mem_resize(NULL, n + 1, sizeof *w->chars);
    if (!w->chars) return err_set(err, ERR_MEMORY, "out of memory for a text of %zu bytes", n);
    for (size_t i = 0; i < n;) {
        uint32_t c;
        const size_t size = text_utf8_next(w->s + i, n - i, &c);
        w->chars[w->count++] = (Char){.at = (uint32_t)i, .letter = is_letter(c), .space = is_space(c)};
        i += size;
    }
    w->chars[w->count] = (Char){.at = (uint32_t)n};
    keep_code(w);
    keep_addresses(w);
    return ERR_OK;
}

static void put_chars(Buf *out, const Work *w, size_t from, size_t to) {
    buf_put(out, w->s + w->chars[from].at, w->chars[to].at - w->chars[from].at);
}

/* ---- places where something can change: one is chosen in any case ---- */

typedef bool IsPlace(const Work *w, size_t i);

static size_t count_places(const Work *w, IsPlace *is_place) {
    size_t places = 0;
    for (size_t i = 0; i < w->count; i++) places += is_place(w, i);
    return places;
}

typedef void ChangePlace(Buf *out, Work *w, size_t *i, int mode);

/* Copies the text but for the places that are chosen; `change` writes one and moves *i behind what it took. */
static void change_places(Buf *out, Work *w, IsPlace *is_place, ChangePlace *change, int mode) {
    const size_t places = count_places(w, is_place);
    if (!places) {
        put_chars(out, w, 0, w->count);
        return;
    }
    const size_t sure = (size_t)draw(w, places);
    size_t seen = 0;
    for (size_t i = 0; i < w->count;) {
        const bool place = is_place(w, i);
        if (place) {
            const bool chosen = happens(w);
            if (chosen || seen == sure) {
                seen++;
                change(out, w, &i, mode);
                continue;
            }
            seen++;
        }
        put_chars(out, w, i, i + 1);
        i++;
    }
}

/* A word of letters begins here, and none of it is kept. */
static bool is_word(const Work *w, size_t i) {
    return w->chars[i].letter && !w->chars[i].kept && (i == 0 || !w->chars[i - 1].letter);
}

static size_t end_of_word(const Work *w, size_t i) {
    while (i < w->count && w->chars[i].letter && !w->chars[i].kept) i++;
    return i;
}

static bool is_long_word(const Work *w, size_t i) {
    return is_word(w, i) && end_of_word(w, i) - i >= 2;
}

/* ---- typing ---- */

/* The keys beside each letter on a QWERTY keyboard. */
static char neighbour(Work *w, char c) {
    static const char *const BESIDE[26] = {"qwsz",   "vghn", "xdfv",   "serfcx", "wsdr",   "drtgvc", "ftyhbv",
                                           "gyujnb", "ujko", "huiknm", "jiolm",  "kop",    "njk",    "bhjm",
                                           "iklp",   "ol",   "wa",     "edft",   "awedxz", "rfgy",   "yhji",
                                           "cfgb",   "qase", "zsdc",   "tghu",   "asx"};
    const bool upper = c >= 'A' && c <= 'Z';
    const char *keys = BESIDE[(c | 32) - 'a'];
    const char key = keys[draw(w, strlen(keys))];
    return upper ? (char)(key - 32) : key;
}

static void change_typo(Buf *out, Work *w, size_t *i, int mode) {
    const size_t from = *i, to = end_of_word(w, from), letters = to - from;
    const size_t at = from + (size_t)draw(w, letters);
    enum { SWAP, DROP, DOUBLE, NEIGHBOUR, WAYS };
    uint64_t way = draw(w, WAYS);
    const bool ascii = length_of(w, at) == 1;
    if (way == NEIGHBOUR && !ascii) way = DROP;
    if (way == SWAP && at + 1 == to) way = DOUBLE;
    (void)mode;
    put_chars(out, w, from, at);
    *i = to;
    if (way == NEIGHBOUR) {
        const char key = neighbour(w, w->s[w->chars[at].at]);
        buf_put(out, &key, 1);
        put_chars(out, w, at + 1, to);
    } else if (way == SWAP) {
        put_chars(out, w, at + 1, at + 2);
        put_chars(out, w, at, at + 1);
        put_chars(out, w, at + 2, to);
    } else {
        if (way == DOUBLE) put_chars(out, w, at, at + 1);
        put_chars(out, w, way == DROP ? at + 1 : at, to);
    }
}

/* ---- case ---- */

enum { LOWER, UPPER, TITLE, MIXED, CASES };

static void change_case(Buf *out, Work *w, size_t *i, int mode) {
    const size_t from = *i, to = end_of_word(w, from);
    for (size_t k = from; k < to; k++) {
        const char c = w->s[w->chars[k].at];
        if (length_of(w, k) != 1) {
            put_chars(out, w, k, k + 1);
            continue;
        }
        const bool upper = mode == UPPER || (mode == TITLE && k == from) || (mode == MIXED && draw(w, 2));
        const char changed = (char)(upper ? c & ~32 : c | 32);
        buf_put(out, &changed, 1);
    }
    *i = to;
}

/* ---- white space ---- */

enum { DOUBLED, LOST, BROKEN, TRAILING, SPACINGS };

static bool is_digit_at(const Work *w, size_t i) {
    const char c = w->s[w->chars[i].at];
    return c >= '0' && c <= '9';
}

/* A single space inside a line, and not between two numbers, which would become one. */
static bool is_gap(const Work *w, size_t i) {
    if (i > 0 && i + 1 < w->count && is_digit_at(w, i - 1) && is_digit_at(w, i + 1)) return false;
    return is_at(w, i, ' ') && !w->chars[i].kept && i > 0 && i + 1 < w->count && !w->chars[i - 1].space &&
           !w->chars[i + 1].space && !w->chars[i - 1].kept && !w->chars[i + 1].kept;
}

static void change_gap(Buf *out, Work *w, size_t *i, int mode) {
    (*i)++;
    if (mode == DOUBLED) buf_puts(out, "  ");
    if (mode == BROKEN) buf_puts(out, "\n");
    (void)w;
}

static void change_spaces(Buf *out, Work *w) {
    static const char *const TAILS[] = {" ", "  ", "\n", "\n\n", " \n"};
    const int mode = (int)draw(w, SPACINGS);
    if (mode != TRAILING && count_places(w, is_gap) > 0) {
        change_places(out, w, is_gap, change_gap, mode);
        return;
    }
    put_chars(out, w, 0, w->count);
    buf_puts(out, TAILS[draw(w, sizeof TAILS / sizeof *TAILS)]);
}

/* ---- punctuation ---- */

/* A mark that can go without changing what a number or a word is: not in 3.5, 1,000 or don't. */
static bool is_mark(const Work *w, size_t i) {
    static const char MARKS[] = ".,;:!?\"'";
    const char c = w->s[w->chars[i].at];
    if (w->chars[i].kept || !c || !strchr(MARKS, c)) return false;
    const char before = i > 0 ? w->s[w->chars[i - 1].at] : ' ',
               after = i + 1 < w->count ? w->s[w->chars[i + 1].at] : ' ';
    const bool digit =
        (after >= '0' && after <= '9') ||
        (strchr(":.,", c) && before >= '0' && before <= '9' && i + 1 < w->count && !w->chars[i + 1].space);
    const bool inside =
        i > 0 && i + 1 < w->count && w->chars[i - 1].letter && w->chars[i + 1].letter && c != '\'';
    return !digit && !inside;
}

static void drop_mark(Buf *out, Work *w, size_t *i, int mode) {
    (void)out;
    (void)w;
    (void)mode;
    (*i)++;
}

/* ---- around the whole ---- */

static const char *const PREFIXES[] = {"hey, quick question: ",
                                       "hi! ",
                                       "Hello, ",
                                       "please help: ",
                                       "Can you help me with this? ",
                                       "so ",
                                       "ok so ",
                                       "Hi there,\n\n",
                                       "I was wondering: ",
                                       "quick one - ",
                                       "hey ",
                                       "Good morning! ",
                                       "um, ",
                                       "need help asap: ",
                                       "Question for you: ",
                                       "Could you please answer this: ",
                                       "not sure if you can help, but ",
                                       "yo "};
static const char *const SUFFIXES[] = {" thanks!",
                                       " thx",
                                       " Thank you in advance.",
                                       " please",
                                       " pls help",
                                       "\n\nThanks a lot!",
                                       " ???",
                                       " :)",
                                       " asap",
                                       " Any help would be great.",
                                       "\n\nSent from my phone",
                                       " cheers",
                                       " idk",
                                       " ty",
                                       "\n\nKind regards",
                                       "..."};

static void put_quoted_lines(Buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        const char *newline = memchr(s + i, '\n', n - i);
        const size_t end = newline ? (size_t)(newline - s) + 1 : n;
        buf_puts(out, "> ");
        buf_put(out, s + i, end - i);
        i = end;
    }
}

static void put_quote(Buf *out, const char *s, size_t n, uint64_t way) {
    static const char *const AROUND[][2] = {{"\"", "\""},
                                            {"\xe2\x80\x9c", "\xe2\x80\x9d"},
                                            {"'", "'"},
                                            {"\xc2\xab", "\xc2\xbb"},
                                            {"```\n", "\n```"},
                                            {"\"\"\"\n", "\n\"\"\""},
                                            {"Someone sent me this:\n\n\"", "\""}};
    const size_t count = sizeof AROUND / sizeof *AROUND;
    if (way % (count + 1) == count) {
        put_quoted_lines(out, s, n);
        return;
    }
    buf_puts(out, AROUND[way % (count + 1)][0]);
    buf_put(out, s, n);
    buf_puts(out, AROUND[way % (count + 1)][1]);
}

static void apply(Buf *out, Work *w, NoiseKind kind) {
    switch (kind) {
        case NOISE_TYPOS: change_places(out, w, is_long_word, change_typo, 0); break;
        case NOISE_CASE: change_places(out, w, is_word, change_case, (int)draw(w, CASES)); break;
        case NOISE_SPACE: change_spaces(out, w); break;
        case NOISE_PUNCTUATION: change_places(out, w, is_mark, drop_mark, 0); break;
        default: break; /* what goes around the whole needs no characters */
    }
}

/* Chance may leave a text as it was ("ll" swapped, lower case made lower): a few other keys are tried. */
static ErrCode apply_inside(Buf *out, size_t before, const char *text, size_t n, NoiseKind kind,
                            double strength, uint64_t key, Err *err) {
    enum { TRIES = 16 };
    Work w = {.s = text, .strength = strength};
    ErrCode rc = read_chars(&w, n, err);
    for (uint64_t i = 0; rc == ERR_OK && i < TRIES; i++) {
        w.key = rng_key(key, NAMES[kind], i);
        w.draws = 0;
        apply(out, &w, kind);
        rc = buf_ok(out, err);
        if (rc != ERR_OK || out->len - before != n || memcmp(out->data + before, text, n) != 0) break;
        out->len = before;
    }
    mem_free(w.chars);
    return rc;
}

ErrCode noise_apply(Buf *out, bool *changed, const char *text, size_t n, NoiseKind kind, double strength,
                    uint64_t key, Err *err) {
    const size_t before = out->len;
    *changed = false;
    if (n == 0) return ERR_OK;
    const uint64_t bits = rng_bits(rng_key(key, NAMES[kind], 0), 0);
    switch (kind) {
        case NOISE_PREFIX:
            buf_puts(out, PREFIXES[bits % (sizeof PREFIXES / sizeof *PREFIXES)]);
            buf_put(out, text, n);
            break;
        case NOISE_SUFFIX:
            buf_put(out, text, n);
            buf_puts(out, SUFFIXES[bits % (sizeof SUFFIXES / sizeof *SUFFIXES)]);
            break;
        case NOISE_QUOTE: put_quote(out, text, n, bits); break;
        default: TRY(apply_inside(out, before, text, n, kind, strength, key, err)); break;
    }
    TRY(buf_ok(out, err));
    *changed = out->len != before;
    bool blank = true; /* a text of one mark would be nothing without it */
    for (size_t i = before; i < out->len && blank; i++) blank = is_space((unsigned char)out->data[i]);
    if (*changed && !blank) return ERR_OK;
    *changed = false;
    out->len = before;
    if (out->data) out->data[before] = 0;
    return ERR_OK;
}
