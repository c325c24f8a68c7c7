#include "core/sha1.h"

#include <string.h>

static uint32_t rotl(uint32_t x, int n) {
    return x << n | x >> (32 - n);
}

static void compress(uint32_t state[5], const unsigned char *block) {
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        static const uint32_t K[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
        const int round = i / 20;
        const uint32_t f = round == 0   ? (b & c) | (~b & d)
                           : round == 2 ? (b & c) | (b & d) | (c & d)
                                        : b ^ c ^ d;
        const uint32_t next = rotl(a, 5) + f + e + K[round] + w[i];
        e = d, d = c, c = rotl(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

void sha1_init(Sha1 *s) {
    static const uint32_t START[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memset(s, 0, sizeof *s);
    memcpy(s->state, START, sizeof START);
}

void sha1_add(Sha1 *s, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    while (n) {
        const size_t have = (size_t)(s->total & 63), take = n < 64 - have ? n : 64 - have;
        memcpy(s->block + have, p, take);
        s->total += take;
        p += take;
        n -= take;
        if (have + take == 64) compress(s->state, s->block);
    }
}

void sha1_end(Sha1 *s, char out[SHA1_HEX]) {
    static const char HEX[] = "0123456789abcdef";
    const uint64_t bits = s->total * 8;
    unsigned char tail[72] = {0x80};
    const size_t have = (size_t)(s->total & 63), pad = have < 56 ? 56 - have : 120 - have;
    for (int i = 0; i < 8; i++) tail[pad + (size_t)i] = (unsigned char)(bits >> (56 - 8 * i));
    sha1_add(s, tail, pad + 8);
    for (int i = 0; i < 40; i++) out[i] = HEX[s->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    out[40] = 0;
}
