/* tests/tiny_spm.h - writes small spm.model files by hand, so that tests can make them wrong in one place.
 *
 * Pieces: 0..3 the special ones, 4..259 the byte pieces, then those of TINY_PIECES. The charsmap has one
 * rule, A -> a, in a trie of two blocks: the root's children are at base 256, the rule's value is unit 257.
 */
#ifndef TESTS_TINY_SPM_H
#define TESTS_TINY_SPM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/buf.h"

enum { TINY_UNITS = 512, TINY_ROOT = 4, TINY_RULE = 4 + 4 * (256 ^ 'A'), TINY_VALUE = 4 + 4 * 257 };
enum { TINY_CHARSMAP = 4 + 4 * TINY_UNITS + 2, TINY_FREE = (int)0xff000000 };

typedef struct {
    const Buf *charsmap; /* NULL: none */
    int kind;            /* model type; 0: unigram, written */
    bool no_fallback;    /* leave trainer field 35 out */
    const char *skip;    /* a special piece to leave out */
    int bytes;           /* how many byte pieces are missing */
    bool no_normal;      /* leave TINY_PIECES out */
    const Buf *pieces;   /* more pieces, made with tiny_piece */
    const Buf *settings; /* more normaliser fields */
    const Buf *tail;     /* bytes behind everything */
} TinySpm;

static inline void tiny_varint(Buf *out, uint64_t v) {
    for (; v >= 0x80; v >>= 7) {
        const unsigned char c = (unsigned char)(v | 0x80);
        buf_put(out, &c, 1);
    }
    const unsigned char c = (unsigned char)v;
    buf_put(out, &c, 1);
}

static inline void tiny_number(Buf *out, unsigned field, uint64_t v) {
    tiny_varint(out, field << 3);
    tiny_varint(out, v);
}

static inline void tiny_bytes(Buf *out, unsigned field, const void *bytes, size_t n) {
    tiny_varint(out, field << 3 | 2);
    tiny_varint(out, n);
    buf_put(out, bytes, n);
}

static inline void tiny_piece(Buf *out, const char *name, size_t n, float score, int type) {
    Buf message = {0};
    tiny_bytes(&message, 1, name, n);
    tiny_varint(&message, 2 << 3 | 5);
    buf_put(&message, &score, sizeof score); /* little endian, as the machines that tests run on */
    if (type != 1) tiny_number(&message, 3, (uint64_t)type);
    tiny_bytes(out, 1, message.data, message.len);
    buf_free(&message);
}

static inline void tiny_poke(Buf *charsmap, size_t at, uint32_t v) {
    for (int i = 0; i < 4; i++) charsmap->data[at + (size_t)i] = (char)(v >> (8 * i));
}

static inline void tiny_charsmap(Buf *out) {
    char *to = buf_reserve(out, TINY_CHARSMAP);
    if (!to) return;
    out->len += TINY_CHARSMAP;
    tiny_poke(out, 0, 4 * TINY_UNITS);
    for (size_t i = 0; i < TINY_UNITS; i++) tiny_poke(out, 4 + 4 * i, (uint32_t)TINY_FREE);
    tiny_poke(out, TINY_ROOT, 256u << 10);
    tiny_poke(out, TINY_RULE, ((256u ^ 'A') ^ 257u) << 10 | 1u << 8 | 'A');
    tiny_poke(out, TINY_VALUE, 0x80000000u | 0u);
    memcpy(to + 4 + 4 * TINY_UNITS, "a", 2);
}

static const char *const TINY_PIECES[] = {"\xe2\x96\x81",
                                          "a",
                                          "b",
                                          "c",
                                          "ab",
                                          "abc",
                                          "\xe2\x96\x81"
                                          "a",
                                          "\xe2\x96\x81"
                                          "the",
                                          "e",
                                          "\xc3\xa9"};
enum { TINY_FIRST = 260, TINY_COUNT = 10 };

static inline void tiny_spm(Buf *out, const TinySpm *m) {
    static const char *const SPECIAL[] = {"[PAD]", "[CLS]", "[SEP]", "[UNK]"};
    for (int i = 0; i < 4; i++)
        if (!m->skip || strcmp(m->skip, SPECIAL[i]) != 0)
            tiny_piece(out, SPECIAL[i], 5, 0.0f, i == 3 ? 2 : 3);
    for (int i = m->bytes; i < 256; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "<0x%02X>", (unsigned)i & 0xff);
        tiny_piece(out, name, 6, 0.0f, 6);
    }
    for (int i = 0; i < TINY_COUNT && !m->no_normal; i++)
        tiny_piece(out, TINY_PIECES[i], strlen(TINY_PIECES[i]), -1.0f - (float)i / 8, 1);
    if (m->pieces) buf_put(out, m->pieces->data, m->pieces->len);
    Buf message = {0};
    tiny_number(&message, 3, m->kind ? (uint64_t)m->kind : 1);
    if (!m->no_fallback) tiny_number(&message, 35, 1);
    tiny_bytes(out, 2, message.data, message.len);
    buf_clear(&message);
    if (m->charsmap) tiny_bytes(&message, 2, m->charsmap->data, m->charsmap->len);
    if (m->settings) buf_put(&message, m->settings->data, m->settings->len);
    tiny_bytes(out, 3, message.data, message.len);
    buf_free(&message);
    if (m->tail) buf_put(out, m->tail->data, m->tail->len);
}

#endif
