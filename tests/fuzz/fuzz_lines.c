/* tests/fuzz/fuzz_lines.c - any bytes as a text file: plain, gzip or zstd. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/lines.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Lines *lines;
    Err err = {0};
    if (lines_open(&lines, scratch_file(data, size), &err) != ERR_OK) abort();
    size_t count = 0, total = 0, sum = 0;
    while (total < (size_t)4 << 20) { /* a few bytes can stand for very many lines */
        const char *text = NULL;
        size_t n = 0;
        bool more = false;
        const ErrCode rc = lines_next(lines, &text, &n, &more, &err);
        if (rc != ERR_OK) {
            require(rc == ERR_FORMAT && err.msg[0]);
            break;
        }
        if (!more) break;
        require(lines_number(lines) == ++count && !memchr(text, '\n', n));
        for (size_t i = 0; i < n; i++) sum += (unsigned char)text[i];
        total += n + 1;
    }
    lines_close(lines);
    return sum == SIZE_MAX; /* so that the bytes are really read */
}
