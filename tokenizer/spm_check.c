#include "tokenizer/spm_check.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"

/* ---- protobuf's wire format ---- */

typedef struct {
    const unsigned char *at, *end;
    const char *where; /* for messages: "the trainer's settings" */
} Wire;

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

typedef struct {
    uint64_t number;
    int type;
    uint64_t value; /* VARINT, FIXED32 */
    const unsigned char *bytes;
    size_t n; /* BYTES */
} Field;

static bool take_varint(Wire *w, uint64_t *value) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70 && w->at < w->end; shift += 7) {
        const unsigned char c = *w->at++;
        v |= shift < 64 ? (uint64_t)(c & 0x7f) << shift : 0;
        if (c < 0x80) {
            *value = v;
            return true;
        }
    }
    return false;
}

static uint32_t take_u32(const unsigned char *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* The next field; *more is false at the end. */
static ErrCode wire_next(Wire *w, Field *f, bool *more, Err *err) {
    *more = w->at < w->end;
    if (!*more) return ERR_OK;
    uint64_t tag, n = 0;
    /* A tag is 32 bits; sentencepiece's protobuf refuses longer ones too. */
    bool ok = take_varint(w, &tag) && tag <= UINT32_MAX && tag >> 3 != 0;
    *f = (Field){.number = ok ? tag >> 3 : 0, .type = ok ? (int)(tag & 7) : -1};
    switch (f->type) {
        case VARINT: ok = take_varint(w, &f->value); break;
        case BYTES: ok = take_varint(w, &n); break;
        case FIXED32: n = 4; break;
        case FIXED64: n = 8; break;
        default: ok = false;
    }
    if (!ok || n > (uint64_t)(w->end - w->at))
        return err_set(err, ERR_FORMAT, "damaged protobuf in %s", w->where);
    f->bytes = w->at;
    f->n = (size_t)n;
    if (f->type == FIXED32) f->value = take_u32(w->at);
    w->at += n;
    return ERR_OK;
}

/* A field that is read must have its type and occur once: protobuf would treat another type as unknown and
 * merge or overwrite repetitions, which no writer produces. */
static ErrCode field_once(uint64_t *seen, const Field *f, int type, const Wire *w, Err *err) {
    const uint64_t bit = (uint64_t)1 << f->number; /* all fields read here have numbers below 64 */
    if (f->type != type)
        return err_set(err, ERR_FORMAT, "field %d of %s: found wire type %d, expected %d", (int)f->number,
                       w->where, f->type, type);
    if (*seen & bit) return err_set(err, ERR_FORMAT, "field %d of %s occurs twice", (int)f->number, w->where);
    *seen |= bit;
    return ERR_OK;
}

/* ---- pieces ---- */

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

typedef struct {
    int pieces, normal, bytes;
    bool pad, cls, sep, unk;
    bool inner_mark; /* or user-defined */
    const unsigned char *trainer, *normalizer;
    size_t trainer_n, normalizer_n;
} Model;

static bool is_text(const unsigned char *bytes, size_t n, const char *text) {
    return n == strlen(text) && memcmp(bytes, text, n) == 0;
}

static ErrCode check_special(Model *m, const Field *name, uint64_t type, Err *err) {
    static const char *const NAMES[] = {"[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"};
    bool ignored = false;
    bool *const found[] = {&m->pad, &m->cls, &m->sep, &m->unk, &ignored};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        if (!is_text(name->bytes, name->n, NAMES[i])) continue;
        if (type != (i == 3 ? UNKNOWN : CONTROL))
            return err_set(err, ERR_FORMAT, "piece %s: found type %d, expected %d", NAMES[i], (int)type,
                           i == 3 ? UNKNOWN : CONTROL);
        *found[i] = true;
        return ERR_OK;
    }
    if (type == UNKNOWN) return err_set(err, ERR_FORMAT, "the unknown piece is not named [UNK]");
    return ERR_OK;
}

static ErrCode check_piece(Model *m, const Field *message, Err *err) {
    Wire w = {message->bytes, message->bytes + message->n, "a piece"};
    Field f, name = {0};
    uint64_t seen = 0, type = NORMAL;
    float score = 0;
    for (;;) {
        bool more;
        TRY(wire_next(&w, &f, &more, err));
        if (!more) break;
        if (f.number == 1) {
            TRY(field_once(&seen, &f, BYTES, &w, err));
            name = f;
        } else if (f.number == 2) {
            TRY(field_once(&seen, &f, FIXED32, &w, err));
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        } else if (f.number == 3) {
            TRY(field_once(&seen, &f, VARINT, &w, err));
            type = f.value;
        }
    }
    const char *s = (const char *)name.bytes;
    const int id = m->pieces;
    if (type < NORMAL || type > BYTE)
        return err_set(err, ERR_FORMAT, "piece %d: found type %llu, expected 1 to 6", id,
                       (unsigned long long)type);
    /* User-defined ones are searched with a buffer of 64 prefixes. */
    const size_t longest = type == USER_DEFINED ? 64 : SPM_CHECK_PIECE;
    if (name.n == 0 || name.n > longest)
        return err_set(err, ERR_FORMAT, "piece %d: found %zu bytes, expected 1 to %zu", id, name.n, longest);
    if (memchr(s, 0, name.n) || text_utf8_prefix(s, name.n) != name.n)
        return err_set(err, ERR_FORMAT, "piece %d: not UTF-8 text", id);
    if (!isfinite(score)) return err_set(err, ERR_FORMAT, "piece %d: its score is not finite", id);
    if (type == USER_DEFINED) m->inner_mark = true;
    if (type == NORMAL) m->normal++;
    if (type == BYTE) m->bytes++;
    for (size_t i = 1; i + 3 <= name.n; i++)
        if (memcmp(s + i, "\xe2\x96\x81", 3) == 0) m->inner_mark = true;
    m->pieces++;
    return check_special(m, &name, type, err);
}

/* ---- charsmap ---- */

/* darts-clone: unit = 32 bits; bit 31 marks a value; else label = bits 0..7, bit 8 "has a value", and
 * children at (own index ^ offset) ^ byte. */
static bool unit_is_value(uint32_t unit) {
    return unit >> 31;
}
static uint32_t unit_base(uint32_t unit, uint32_t index) {
    return index ^ ((unit >> 10) << ((unit & (1u << 9)) >> 6));
}

enum { KEY_MAX = 32, TRIE_UNITS_MAX = 1 << 18, NONE = -1 };

typedef struct {
    const unsigned char *trie, *strings;
    uint32_t units;
    size_t strings_n;
    /* Children by base: head[b], then next[unit]. level[b] is the last depth at which base b was reached. */
    int32_t *head, *next, *level;
    uint32_t *frontier, *coming;
    unsigned char *judged;
} Charsmap;

static uint32_t unit_at(const Charsmap *c, uint32_t i) {
    return take_u32(c->trie + 4 * (size_t)i);
}

static ErrCode check_units(Charsmap *c, Err *err) {
    if (unit_is_value(unit_at(c, 0))) return err_set(err, ERR_FORMAT, "normaliser: the trie has no root");
    for (uint32_t i = 0; i < c->units; i++) c->head[i] = NONE;
    for (uint32_t i = 0; i < c->units; i++) {
        const uint32_t unit = unit_at(c, i);
        if (unit_is_value(unit)) continue;
        /* units is a multiple of 256, so the base's whole block is inside when the base is */
        if (unit_base(unit, i) >= c->units)
            return err_set(err, ERR_FORMAT, "normaliser: unit %u of the trie points outside of its %u units",
                           i, c->units);
        const uint32_t parent_base = i ^ (unit & 0xff);
        c->next[i] = c->head[parent_base];
        c->head[parent_base] = (int32_t)i;
    }
    return ERR_OK;
}

/* The replacement of the key of `depth` bytes that ends in a unit with this base; depth is the least one. */
static ErrCode check_replacement(const Charsmap *c, uint32_t base, size_t depth, Err *err) {
    const uint32_t value = unit_at(c, base) & 0x7fffffff;
    if (value >= c->strings_n)
        return err_set(err, ERR_FORMAT, "normaliser: a replacement begins at byte %u of %zu", value,
                       c->strings_n);
    const char *s = (const char *)c->strings + value;
    size_t n = 0, spaces = 0;
    while (s[n] && n <= SPM_CHECK_GROWTH * depth) spaces += s[n++] == ' '; /* the strings end with a NUL */
    if (n + 2 * spaces > SPM_CHECK_GROWTH * depth) /* a space becomes the three bytes of U+2581 */
        return err_set(err, ERR_FORMAT, "normaliser: a replacement is more than %d times as long as its key",
                       SPM_CHECK_GROWTH);
    if (text_utf8_prefix(s, n) != n)
        return err_set(err, ERR_FORMAT, "normaliser: a replacement is not UTF-8");
    return ERR_OK;
}

/* Visits what can be reached, one key byte at a time. A cycle looks like an endless key. */
static ErrCode check_keys(Charsmap *c, bool *spaces, Err *err) {
    size_t count = 1;
    c->frontier[0] = unit_base(unit_at(c, 0), 0);
    for (int32_t depth = 1; count > 0; depth++) {
        size_t coming = 0;
        for (size_t k = 0; k < count; k++) {
            for (int32_t i = c->head[c->frontier[k]]; i != NONE; i = c->next[i]) {
                if (depth > KEY_MAX)
                    return err_set(err, ERR_FORMAT, "normaliser: a key is longer than %d bytes", KEY_MAX);
                const uint32_t unit = unit_at(c, (uint32_t)i), base = unit_base(unit, (uint32_t)i);
                if ((unit & 0xff) == ' ') *spaces = true;
                if ((unit >> 8 & 1) && !c->judged[i]) TRY(check_replacement(c, base, (size_t)depth, err));
                c->judged[i] = 1;
                if (c->level[base] == depth) continue;
                c->level[base] = depth;
                c->coming[coming++] = base;
            }
        }
        uint32_t *swap = c->frontier;
        c->frontier = c->coming;
        c->coming = swap;
        count = coming;
    }
    return ERR_OK;
}

static ErrCode check_charsmap(const Field *f, bool *spaces, Err *err) {
    if (f->n == 0) return ERR_OK;
    const size_t trie_n = f->n > 4 ? take_u32(f->bytes) : 0;
    if (trie_n == 0 || trie_n % 1024 != 0 || trie_n / 4 > TRIE_UNITS_MAX || trie_n >= f->n - 4)
        return err_set(err, ERR_FORMAT,
                       "normaliser: found a trie of %zu bytes in %zu, expected a multiple of 1024 up to %d",
                       trie_n, f->n, 4 * TRIE_UNITS_MAX);
    if (f->bytes[f->n - 1] != 0)
        return err_set(err, ERR_FORMAT, "normaliser: the last replacement is not ended by a NUL");
    Charsmap c = {.trie = f->bytes + 4,
                  .strings = f->bytes + 4 + trie_n,
                  .units = (uint32_t)(trie_n / 4),
                  .strings_n = f->n - 4 - trie_n};
    const char *what = "checking the normaliser";
    ErrCode rc = mem_new(&c.head, c.units, sizeof *c.head, what, err);
    if (rc == ERR_OK) rc = mem_new(&c.next, c.units, sizeof *c.next, what, err);
    if (rc == ERR_OK) rc = mem_new(&c.level, c.units, sizeof *c.level, what, err);
    if (rc == ERR_OK) rc = mem_new(&c.frontier, c.units, sizeof *c.frontier, what, err);
    if (rc == ERR_OK) rc = mem_new(&c.coming, c.units, sizeof *c.coming, what, err);
    if (rc == ERR_OK) rc = mem_new(&c.judged, c.units, sizeof *c.judged, what, err);
    if (rc == ERR_OK) rc = check_units(&c, err);
    if (rc == ERR_OK) rc = check_keys(&c, spaces, err);
    mem_free(c.head);
    mem_free(c.next);
    mem_free(c.level);
    mem_free(c.frontier);
    mem_free(c.coming);
    mem_free(c.judged);
    return rc;
}

/* ---- the settings ---- */

static ErrCode check_normalizer(const Model *m, bool *standard, Err *err) {
    Wire w = {m->normalizer, m->normalizer + m->normalizer_n, "the normaliser's settings"};
    uint64_t seen = 0;
    bool spaces = false, prefix = true, collapse = true, escape = true; /* sentencepiece's defaults */
    for (;;) {
        Field f;
        bool more;
        TRY(wire_next(&w, &f, &more, err));
        if (!more) break;
        if (f.number == 2) {
            TRY(field_once(&seen, &f, BYTES, &w, err));
            TRY(check_charsmap(&f, &spaces, err));
        } else if (f.number >= 3 && f.number <= 5) {
            TRY(field_once(&seen, &f, VARINT, &w, err));
            bool *const to[] = {&prefix, &collapse, &escape};
            *to[f.number - 3] = f.value != 0;
        }
    }
    *standard = prefix && collapse && escape && !spaces;
    return ERR_OK;
}

static ErrCode check_trainer(const Model *m, bool *standard, Err *err) {
    Wire w = {m->trainer, m->trainer + m->trainer_n, "the trainer's settings"};
    uint64_t seen = 0, kind = 1, byte_fallback = 0, suffix = 0;
    for (;;) {
        Field f;
        bool more;
        TRY(wire_next(&w, &f, &more, err));
        if (!more) break;
        uint64_t *to = f.number == 3    ? &kind
                       : f.number == 24 ? &suffix
                       : f.number == 35 ? &byte_fallback
                                        : NULL;
        if (!to) continue;
        TRY(field_once(&seen, &f, VARINT, &w, err));
        *to = f.value;
    }
    if (kind != 1)
        return err_set(err, ERR_FORMAT, "found model type %llu, expected 1 (unigram)",
                       (unsigned long long)kind);
    if (!byte_fallback)
        return err_set(err, ERR_FORMAT, "it has no byte fallback, which DeBERTa-v3's tokenizer has");
    *standard = !suffix;
    return ERR_OK;
}

static ErrCode check_model(Model *m, const void *bytes, size_t n, Err *err) {
    Wire w = {bytes, (const unsigned char *)bytes + n, "the model"};
    uint64_t seen = 0;
    for (;;) {
        Field f;
        bool more;
        TRY(wire_next(&w, &f, &more, err));
        if (!more) return ERR_OK;
        if (f.number == 1) {
            if (f.type != BYTES) return err_set(err, ERR_FORMAT, "damaged protobuf in the pieces");
            TRY(check_piece(m, &f, err));
        } else if (f.number <= 5) {
            TRY(field_once(&seen, &f, BYTES, &w, err));
            if (f.number == 2) {
                m->trainer = f.bytes;
                m->trainer_n = f.n;
            } else if (f.number == 3) {
                m->normalizer = f.bytes;
                m->normalizer_n = f.n;
            } else if (f.number == 4 && f.n > 0) {
                return err_set(err, ERR_FORMAT, "it has self tests, which are not accepted");
            } else if (f.number == 5 && f.n > 0) {
                return err_set(err, ERR_FORMAT, "it has a denormaliser, which is not accepted");
            }
        }
    }
}

ErrCode spm_check(SpmFacts *out, const void *bytes, size_t n, Err *err) {
    if (n == 0 || n > SPM_CHECK_BYTES)
        return err_set(err, ERR_FORMAT, "found %zu bytes, expected 1 to %zu", n, SPM_CHECK_BYTES);
    Model m = {.trainer = bytes, .normalizer = bytes}; /* empty: a missing one has the defaults */
    TRY(check_model(&m, bytes, n, err));
    if (m.pieces == 0) return err_set(err, ERR_FORMAT, "it has no pieces");
    bool by_trainer = false, by_normalizer = false;
    TRY(check_trainer(&m, &by_trainer, err));
    TRY(check_normalizer(&m, &by_normalizer, err));
    if (!m.pad || !m.cls || !m.sep || !m.unk)
        return err_set(err, ERR_FORMAT, "it has no piece %s",
                       !m.pad   ? "[PAD]"
                       : !m.cls ? "[CLS]"
                       : !m.sep ? "[SEP]"
                                : "[UNK]");
    if (m.bytes != 256) return err_set(err, ERR_FORMAT, "found %d byte pieces, expected 256", m.bytes);
    if (m.normal == 0) return err_set(err, ERR_FORMAT, "it has no normal piece");
    *out = (SpmFacts){.pieces = m.pieces, .cuts_at_space = by_trainer && by_normalizer && !m.inner_mark};
    return ERR_OK;
}
