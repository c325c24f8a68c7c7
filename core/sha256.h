/* core/sha256.h - SHA-256 (FIPS 180-4), own because librouter depends on libc, sentencepiece and zstd alone.
 */
#ifndef CORE_SHA256_H
#define CORE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define SHA256_BYTES 32
#define SHA256_HEX   65 /* with the final NUL */

typedef struct {
    uint32_t state[8];
    uint64_t total;
    unsigned char block[64];
} Sha256;

void sha256_init(Sha256 *s);
void sha256_add(Sha256 *s, const void *bytes, size_t n);
void sha256_end(Sha256 *s, unsigned char digest[SHA256_BYTES]);

void sha256_hex(char out[SHA256_HEX], const unsigned char digest[SHA256_BYTES]);
void sha256_hex_of(char out[SHA256_HEX], const void *bytes, size_t n);

/* Of a file's bytes; *size (may be NULL) is their number. ERR_IO names the path. */
ErrCode sha256_file(unsigned char digest[SHA256_BYTES], uint64_t *size, const char *path,
                    Err *err) ERR_CHECKED;

#endif
