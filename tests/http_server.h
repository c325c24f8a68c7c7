/* tests/http_server.h - an HTTP/1.1 server for tests, on 127.0.0.1 and a port of its own, that does what a handler says: also
 * what no good server does. A thread for each connection; handlers are called one at a time, so that they need no locks of
 * their own (but wait for no other request). Connections are kept open unless a reply ends them. */
#ifndef TESTS_HTTP_SERVER_H
#define TESTS_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t number;     /* of the request, in order of arrival, from 0 */
    const char *method;  /* "GET" */
    const char *target;  /* "/path?query" */
    const char *headers; /* lines as received, each ending with "\r\n"; see http_server_header */
    const char *body;    /* NUL behind it */
    size_t body_bytes;
} HttpSeen;

typedef struct {
    int status;    /* 200 unless set */
    char *headers; /* owned: further lines, made by http_reply_header */
    char *body;    /* owned, made by http_reply_body */
    size_t body_bytes;
    uint64_t repeat; /* the body so many times (endless bodies in little memory); 0: once */
    /* What goes wrong. */
    double delay_s;     /* before the first byte */
    size_t piece_bytes; /* written in such pieces, with pause_s between them; 0: at once */
    double pause_s;
    uint64_t cut_after; /* the connection is closed after so many bytes of the body and `cut` is set */
    bool cut, reset;    /* reset: by RST rather than FIN */
    bool chunked;       /* Transfer-Encoding: chunked, one chunk for each piece */
    bool bare;      /* the body alone is sent: no status line, no headers; then the connection is closed */
    bool hang;      /* nothing is sent until the server stops or the client leaves */
    bool no_length; /* neither Content-Length nor chunks: the end of the connection is the end of the body */
    int64_t claimed_length; /* Content-Length, where not 0, rather than the right one */
    bool close;             /* the connection is closed afterwards */
} HttpReply;

typedef void HttpHandler(void *arg, const HttpSeen *seen, HttpReply *reply);

typedef struct HttpServer HttpServer;

/* NULL on failure. */
HttpServer *http_server_start(HttpHandler *handler, void *arg);
/* Ends all connections and threads. */
void http_server_stop(HttpServer *server);

int http_server_port(const HttpServer *server);
/* "http://127.0.0.1:PORT", the server's. */
const char *http_server_url(const HttpServer *server);
uint64_t http_server_requests(HttpServer *server); /* that arrived whole, so far */
/* The most requests that waited for the first byte of their answer at one time. */
int http_server_most_at_once(HttpServer *server);

/* Value of a header (any case) into out, "" where it is not there; returns out. */
char *http_server_header(char *out, size_t n, const HttpSeen *seen, const char *name);

void http_reply_header(HttpReply *reply, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void http_reply_body(HttpReply *reply, const void *bytes, size_t n);
void http_reply_text(HttpReply *reply, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
