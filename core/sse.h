/* core/sse.h - server-sent events (WHATWG HTML, section 9.2.6), as streaming answers send them: "data: ..." lines, an empty
 * line ends an event. Lines end with LF, CR or CRLF; comments and fields other than data are skipped; an event that is not
 * ended is never given. A zeroed Sse is ready; bytes may come in pieces of any size. */
#ifndef CORE_SSE_H
#define CORE_SSE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/buf.h"
#include "core/err.h"

#define SSE_EVENT_MAX ((size_t)4 << 20) /* bytes of an event, and of a line */

typedef struct {
    Buf line, data;
    bool after_cr, has_data, begun;
} Sse;

/* Data of an event, its lines joined by '\n'; borrowed, NUL-terminated. A failure ends sse_feed and is returned. */
typedef ErrCode SseEvent(void *arg, const char *data, size_t n, Err *err);

/* ERR_FORMAT for an event longer than SSE_EVENT_MAX. */
ErrCode sse_feed(Sse *sse, const char *bytes, size_t n, SseEvent *event, void *arg, Err *err) ERR_CHECKED;
void sse_free(Sse *sse);

#endif
