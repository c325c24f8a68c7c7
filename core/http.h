/* core/http.h - HTTP and HTTPS requests over libcurl, many at once from one thread.
 *
 * An Http runs up to `limit` requests at a time; more wait their turn. http_start takes one, http_wait gives the answers in
 * the order in which they end. What a server does wrong is told in the answer, never by a crash, a hang or unbounded memory.
 *
 * Security: http and https only; certificates are verified; no cookies, no .netrc, no user:password in a URL; no
 * decompression. A proxy is used where the environment names one (https_proxy, http_proxy, all_proxy, no_proxy: libcurl's
 * rules), but never for a loopback host. Redirects are followed only as the request says, never from https to http, and the
 * request's `secret` header goes to the origin (scheme, host, port) of its first URL alone. Secrets and the query of
 * a URL never occur in messages.
 *
 * An Http and its answers belong to one thread. */
#ifndef CORE_HTTP_H
#define CORE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

#define HTTP_BODY_MAX      ((size_t)16 << 20) /* of an answer kept in memory, unless the request says otherwise */
#define HTTP_HEADERS_MAX   ((size_t)64 << 10) /* of an answer */
#define HTTP_ERROR_MAX     ((size_t)64 << 10) /* what is kept of the body of an answer that is not 2xx */
#define HTTP_REDIRECTS_MAX 10

typedef enum {
    HTTP_DONE,        /* a whole answer, of any status */
    HTTP_TIMEOUT,     /* too slow to connect, in all, or too few bytes a second */
    HTTP_UNREACHABLE, /* no such host, nobody listens */
    HTTP_CUT,         /* the connection ended too early, or what came is not HTTP */
    HTTP_TOO_LARGE,   /* more than max_bytes, or headers of more than HTTP_HEADERS_MAX */
    HTTP_REFUSED,     /* by us: a redirect that may not be followed, a certificate that does not verify */
    HTTP_SINK,        /* the caller's sink or follow failed; `why` is its error */
    HTTP_FAILED       /* memory, or something unforeseen in libcurl */
} HttpOutcome;

typedef struct {
    void *tag; /* the request's */
    HttpOutcome outcome;
    Err why;           /* unless HTTP_DONE: names method and URL */
    int status;        /* 200; 0 when none came */
    uint64_t received; /* bytes of body */
    Buf body;          /* without a sink; with one, only of an answer that is not 2xx (its beginning) */
    Buf headers;       /* of the last answer: name NUL value NUL ...; see http_header */
    char *url;         /* the last one asked, after redirects */
    double seconds;    /* from start (leaving the queue) to end */
} HttpAnswer;

typedef enum {
    HTTP_REDIRECT_NONE,   /* a 3xx is the answer */
    HTTP_REDIRECT_ORIGIN, /* followed within the origin; HTTP_REFUSED elsewhere */
    HTTP_REDIRECT_ASK     /* `follow` decides; the secret stays behind when the origin changes */
} HttpRedirect;

/* Zeroes are defaults. Everything but `tag` and `arg` is copied. A POST is redirected only by 307 and 308; other 3xx are then
 * the answer. */
typedef struct {
    const char *method;         /* "GET" (default), "HEAD", "POST" */
    const char *url;            /* http://... or https://... */
    const char *const *headers; /* "Name: value" */
    size_t header_count;
    const char *secret; /* one more header, such as "Authorization: Bearer ..." */
    const void *body;   /* of a POST */
    size_t body_bytes;
    size_t max_bytes; /* of a 2xx body; 0: HTTP_BODY_MAX, without limit where there is a sink */
    /* Takes the body of a 2xx answer (look at answer->status: 200 or 206?) piece by piece; others' go to answer->body. NULL:
     * all of it goes there. */
    ErrCode (*sink)(void *arg, const HttpAnswer *answer, const char *bytes, size_t n, Err *err);
    /* HTTP_REDIRECT_ASK: may `to` be asked next? answer is the 3xx one. Not ERR_OK: the request ends as HTTP_SINK. */
    ErrCode (*follow)(void *arg, const HttpAnswer *answer, const char *to, bool same_origin, Err *err);
    void *arg; /* of sink and follow */
    HttpRedirect redirect;
    double connect_s; /* 0: 20 */
    double total_s;   /* of one hop, connecting included; 0: no limit */
    double
        slow_s; /* HTTP_TIMEOUT after so many (whole) seconds of fewer than slow_bytes a second; 0: never */
    uint32_t slow_bytes; /* 0: 1 */
    bool once; /* a connection of its own: libcurl then never sends the request twice, as it does where a kept
                            connection turns out to be closed */
    void *tag;
} HttpRequest;

typedef struct Http Http;

/* limit: requests at a time, 1 to 1024. */
ErrCode http_open(Http **out, size_t limit, Err *err) ERR_CHECKED;
void http_limit(Http *http, size_t limit); /* those already running go on */

/* Ends what still runs. */
void http_close(Http *http);

/* Errors: ERR_ARGUMENT for a URL or header that is none, ERR_MEMORY. */
ErrCode http_start(Http *http, const HttpRequest *request, Err *err) ERR_CHECKED;

/* The next answer, into *answer (overwritten; free it with http_answer_free); *got is false when none ended within `seconds`
 * or none is left. ERR_INTERRUPTED, at once, when a stop was requested; what runs goes on at the next call. */
ErrCode http_wait(Http *http, double seconds, HttpAnswer *answer, bool *got, Err *err) ERR_CHECKED;

/* Requests started whose answer http_wait has not given yet. */
size_t http_pending(const Http *http);

/* One request, all of it. Only what http_start and http_wait return is an error: look at answer->outcome. */
ErrCode http_get(Http *http, const HttpRequest *request, HttpAnswer *answer, Err *err) ERR_CHECKED;

void http_answer_free(HttpAnswer *answer);

/* Value of the last header of that name (any case), or NULL. */
const char *http_header(const HttpAnswer *answer, const char *name);

/* What Retry-After asks for, in seconds from now (a date is taken relative to the server's own Date); -1 without one. */
double http_retry_after(const HttpAnswer *answer);

/* Whether the same request may succeed later: timeouts, lost connections, 408, 425, 429, 5xx but 501 and 505. */
bool http_may_retry(const HttpAnswer *answer);

/* Whether two URLs have the same scheme, host and port; false where one is no URL. */
bool http_same_origin(const char *a, const char *b);

/* A URL for messages: scheme, host, port and path; "?..." stands for a query. */
void http_put_url(Buf *out, const char *url);

#endif
