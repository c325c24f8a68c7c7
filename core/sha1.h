/* core/sha1.h - SHA-1 (FIPS 180-4), for git's names of files alone: it finds damage, but proves nothing against malice. */
#ifndef CORE_SHA1_H
#define CORE_SHA1_H

#include <stddef.h>
#include <stdint.h>

#define SHA1_BYTES 20
#define SHA1_HEX   41 /* with the final NUL */

typedef struct {
    uint32_t state[5];
    uint64_t total;
    unsigned char block[64];
} Sha1;

void sha1_init(Sha1 *s);
void sha1_add(Sha1 *s, const void *bytes, size_t n);
void sha1_end(Sha1 *s, char out[SHA1_HEX]); /* in hexadecimal digits */

#endif
