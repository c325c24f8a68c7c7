#include "core/sse.h"

#include <string.h>

static ErrCode end_event(Sse *s, SseEvent *event, void *arg, Err *err) {
    ErrCode rc = ERR_OK;
    if (s->has_data) rc = event(arg, s->data.data ? s->data.data : "", s->data.len, err);
    buf_clear(&s->data);
    s->has_data = false;
    return rc;
}

static ErrCode end_line(Sse *s, SseEvent *event, void *arg, Err *err) {
    const char *line = s->line.data ? s->line.data : "";
    size_t n = s->line.len;
    if (!s->begun && n >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) line += 3, n -= 3;
    s->begun = true;
    if (n == 0) return end_event(s, event, arg, err);
    if (n >= 4 && memcmp(line, "data", 4) == 0 && (n == 4 || line[4] == ':')) {
        size_t at = n == 4 ? 4 : 5;
        if (at < n && line[at] == ' ') at++;
        if (s->has_data) buf_put(&s->data, "\n", 1);
        buf_put(&s->data, line + at, n - at);
        s->has_data = true;
        if (s->data.len > SSE_EVENT_MAX)
            return err_set(err, ERR_FORMAT, "an event of the stream is longer than %zu bytes", SSE_EVENT_MAX);
    }
    return buf_ok(&s->data, err);
}

ErrCode sse_feed(Sse *s, const char *bytes, size_t n, SseEvent *event, void *arg, Err *err) {
    for (size_t i = 0; i < n;) {
        if (s->after_cr && bytes[i] == '\n') { /* the second half of CRLF */
            s->after_cr = false;
            i++;
            continue;
        }
        s->after_cr = false;
        size_t end = i;
        while (end < n && bytes[end] != '\n' && bytes[end] != '\r') end++;
        buf_put(&s->line, bytes + i, end - i);
        TRY(buf_ok(&s->line, err));
        if (s->line.len > SSE_EVENT_MAX)
            return err_set(err, ERR_FORMAT, "a line of the stream is longer than %zu bytes", SSE_EVENT_MAX);
        if (end < n) {
            s->after_cr = bytes[end] == '\r';
            TRY(end_line(s, event, arg, err));
            buf_clear(&s->line);
            end++;
        }
        i = end;
    }
    return ERR_OK;
}

void sse_free(Sse *s) {
    buf_free(&s->line);
    buf_free(&s->data);
    *s = (Sse){0};
}
