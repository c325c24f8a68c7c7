#include "core/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "core/mem.h"

char *buf_reserve(Buf *buf, size_t n) {
    if (buf->failed || n > SIZE_MAX / 4 - buf->len) {
        buf->failed = true;
        return NULL;
    }
    const size_t need = buf->len + n + 1;
    if (need > buf->cap) {
        const size_t cap = need < 256 ? 256 : need + need / 2;
        char *data = mem_resize(buf->data, cap, 1);
        if (!data) {
            buf->failed = true;
            return NULL;
        }
        buf->data = data;
        buf->cap = cap;
    }
    return buf->data + buf->len;
}

void buf_put(Buf *buf, const void *bytes, size_t n) {
    char *to = buf_reserve(buf, n);
    if (!to) return;
    if (n) memcpy(to, bytes, n);
    buf->len += n;
    buf->data[buf->len] = 0;
}

void buf_puts(Buf *buf, const char *s) {
    buf_put(buf, s, strlen(s));
}

void buf_printf(Buf *buf, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n >= 0 ? buf_reserve(buf, (size_t)n) : NULL;
    if (to) {
        (void)vsnprintf(to, (size_t)n + 1, fmt, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

ErrCode buf_ok(const Buf *buf, Err *err) {
    return buf->failed ? err_set(err, ERR_MEMORY, "out of memory for a text of %zu bytes", buf->len) : ERR_OK;
}

ErrCode buf_print(const Buf *buf, FILE *out, Err *err) {
    char why[128];
    TRY(buf_ok(buf, err));
    errno = 0;
    if (buf->len == 0 || fwrite(buf->data, 1, buf->len, out) == buf->len) return ERR_OK;
    if (strerror_r(errno, why, sizeof why) != 0) (void)snprintf(why, sizeof why, "error %d", errno);
    return err_set(err, ERR_IO, "stdout: %s", why);
}

void buf_clear(Buf *buf) {
    buf->len = 0;
    buf->failed = false;
    if (buf->data) buf->data[0] = 0;
}

void buf_free(Buf *buf) {
    mem_free(buf->data);
    *buf = (Buf){0};
}
