/* core/buf.h - growable bytes. Failures are sticky: write freely, ask buf_ok (or buf_err) once at the end.
 * A Buf of zeros is empty and valid to free. data is always NUL-terminated when not NULL. */
#ifndef CORE_BUF_H
#define CORE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "core/err.h"

typedef struct {
    char *data;
    size_t len, cap;
    bool failed;
} Buf;

void buf_put(Buf *buf, const void *bytes, size_t n);
void buf_puts(Buf *buf, const char *s);
void buf_printf(Buf *buf, const char *fmt, ...) ERR_PRINTF(2, 3);

/* Room for n more bytes at data + len (the caller writes them and advances len); NULL on failure. */
char *buf_reserve(Buf *buf, size_t n);

/* ERR_MEMORY if any write failed. */
ErrCode buf_ok(const Buf *buf, Err *err) ERR_CHECKED;

/* buf_ok, and all bytes to a command's `out`. Nothing is flushed: router.c asks at the end whether stdout failed. */
ErrCode buf_print(const Buf *buf, FILE *out, Err *err) ERR_CHECKED;

void buf_clear(Buf *buf); /* empty, keeps the memory */
void buf_free(Buf *buf);

#endif
