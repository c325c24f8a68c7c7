#include "core/sha256.h"

#include <string.h>

#include "core/file.h"
#include "core/mem.h"

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static void compress(uint32_t state[8], const unsigned char *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t a = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
        const uint32_t b = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    /* Eight variables, not an array that is moved along: they stay in registers, which doubles the speed. */
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        const uint32_t s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25), choose = (e & f) ^ (~e & g);
        const uint32_t t1 = h + s1 + choose + K[i] + w[i];
        const uint32_t s0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22), majority = (a & b) ^ (a & c) ^ (b & c);
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + s0 + majority;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void sha256_init(Sha256 *s) {
    static const uint32_t START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memset(s, 0, sizeof *s);
    memcpy(s->state, START, sizeof START);
}

void sha256_add(Sha256 *s, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    size_t have = (size_t)(s->total & 63);
    s->total += n;
    if (have) {
        const size_t take = n < 64 - have ? n : 64 - have;
        if (take) memcpy(s->block + have, p, take);
        p += take;
        n -= take;
        if (have + take < 64) return;
        compress(s->state, s->block);
    }
    for (; n >= 64; p += 64, n -= 64) compress(s->state, p);
    if (n) memcpy(s->block, p, n);
}

void sha256_end(Sha256 *s, unsigned char digest[SHA256_BYTES]) {
    const uint64_t bits = s->total * 8;
    unsigned char tail[72] = {0x80};
    const size_t have = (size_t)(s->total & 63), pad = have < 56 ? 56 - have : 120 - have;
    for (int i = 0; i < 8; i++) tail[pad + (size_t)i] = (unsigned char)(bits >> (56 - 8 * i));
    sha256_add(s, tail, pad + 8);
    for (int i = 0; i < 32; i++) digest[i] = (unsigned char)(s->state[i / 4] >> (24 - 8 * (i % 4)));
}

void sha256_hex(char out[SHA256_HEX], const unsigned char digest[SHA256_BYTES]) {
    static const char HEX[] = "0123456789abcdef";
    for (int i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = HEX[digest[i] >> 4];
        out[2 * i + 1] = HEX[digest[i] & 15];
    }
    out[64] = 0;
}

void sha256_hex_of(char out[SHA256_HEX], const void *bytes, size_t n) {
    Sha256 s;
    unsigned char digest[SHA256_BYTES];
    sha256_init(&s);
    sha256_add(&s, bytes, n);
    sha256_end(&s, digest);
    sha256_hex(out, digest);
}

ErrCode sha256_file(unsigned char digest[SHA256_BYTES], uint64_t *size, const char *path, Err *err) {
    enum { CHUNK = 1 << 20 };
    File file;
    char *chunk = NULL;
    Sha256 s;
    TRY(file_open(&file, path, err));
    ErrCode rc = mem_new(&chunk, CHUNK, 1, "a part of a file", err);
    sha256_init(&s);
    for (uint64_t at = 0; rc == ERR_OK && at < file.size;) {
        const size_t n = file.size - at < CHUNK ? (size_t)(file.size - at) : CHUNK;
        rc = file_read_at(&file, chunk, at, n, err);
        if (rc == ERR_OK) sha256_add(&s, chunk, n);
        at += n;
    }
    sha256_end(&s, digest);
    if (size) *size = file.size;
    mem_free(chunk);
    file_close(&file);
    return rc;
}
