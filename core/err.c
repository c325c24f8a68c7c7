#include "core/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void sanitize(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) *s = '?';
}

ErrCode(err_set)(Err *err, ErrCode code, const char *fmt, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    err->code = code;
    (void)vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    sanitize(err->msg);
    return code;
}

ErrCode(err_context)(Err *err, ErrCode code, const char *fmt, ...) {
    if (!err) return code;
    char head[ERR_MESSAGE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    sanitize(head);
    char tail[ERR_MESSAGE_BYTES];
    memcpy(tail, err->msg, sizeof tail);
    const size_t n = strlen(head);
    const size_t room = sizeof err->msg - 1;
    memcpy(err->msg, head, n);
    size_t at = n;
    if (at + 2 < room) {
        err->msg[at++] = ':';
        err->msg[at++] = ' ';
    }
    for (size_t i = 0; tail[i] && at < room; i++) err->msg[at++] = tail[i];
    err->msg[at] = 0;
    err->code = code;
    return code;
}
