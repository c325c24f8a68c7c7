#include "tests/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_MAX = 16 << 20 };

typedef struct Connection Connection;
struct Connection {
    HttpServer *server;
    int fd;
    pthread_t thread;
    char *in; /* bytes received, NUL behind them */
    size_t in_len, in_cap;
    Connection *next;
};

struct HttpServer {
    HttpHandler *handler;
    void *arg;
    int listener, stop[2], port, busy, most; /* stop: a pipe, readable once the server stops */
    char url[64];
    pthread_t thread;
    pthread_mutex_t mutex; /* connections, count, busy, most, and the handler's own */
    uint64_t count;
    Connection *connections;
};

static void need(bool holds, const char *what) {
    if (holds) return;
    (void)fprintf(stderr, "http_server: %s: %s\n", what, strerror(errno));
    abort();
}

/* ---- waiting ---- */

/* Waits for fd (or, with fd -1, only for time); false once the server stops. seconds < 0: for ever. */
static bool wait_for(const Connection *c, int fd, short events, double seconds, bool *ready) {
    struct pollfd polled[2] = {{.fd = c->server->stop[0], .events = POLLIN}, {.fd = fd, .events = events}};
    const int n = poll(polled, fd < 0 ? 1 : 2, seconds < 0 ? -1 : (int)(1e3 * seconds + 0.5));
    *ready = n > 0 && fd >= 0 && polled[1].revents != 0;
    return n >= 0 && !polled[0].revents;
}

static bool nap(const Connection *c, double seconds) {
    bool ready;
    return seconds <= 0 || wait_for(c, -1, 0, seconds, &ready);
}

/* ---- requests ---- */

/* Receives more; false at the end, also at the server's. */
static bool receive(Connection *c) {
    bool ready = false;
    if (!wait_for(c, c->fd, POLLIN, -1, &ready) || !ready || c->in_len > REQUEST_MAX) return false;
    if (c->in_cap - c->in_len < 65537) {
        c->in_cap = 2 * c->in_cap + 65537;
        c->in = realloc(c->in, c->in_cap);
        need(c->in != NULL, "memory");
    }
    const ssize_t n = recv(c->fd, c->in + c->in_len, 65536, 0);
    if (n <= 0) return false;
    c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    return true;
}

static const char *find_header(const char *lines, const char *name, size_t *n) {
    const size_t length = strlen(name);
    for (const char *line = lines; *line;) {
        const char *end = strstr(line, "\r\n");
        if (!end) break;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            const char *value = line + length + 1;
            while (*value == ' ') value++;
            *n = (size_t)(end - value);
            return value;
        }
        line = end + 2;
    }
    return NULL;
}

char *http_server_header(char *out, size_t n, const HttpSeen *seen, const char *name) {
    size_t length = 0;
    const char *value = find_header(seen->headers, name, &length);
    (void)snprintf(out, n, "%.*s", value ? (int)length : 0, value ? value : "");
    return out;
}

/* Takes one request from the connection, whose parts are cut in place; false when there is none. *whole: its bytes. */
static bool next_request(Connection *c, HttpSeen *seen, size_t *whole, char **headers) {
    char *end;
    while (!c->in || !(end = strstr(c->in, "\r\n\r\n")))
        if (!receive(c)) return false;
    const size_t head = (size_t)(end - c->in) + 4;
    size_t length = 0, body = 0;
    char *line_end = strstr(c->in, "\r\n");
    *headers = strndup(line_end + 2, head - 2 - (size_t)(line_end + 2 - c->in));
    need(*headers != NULL, "memory");
    const char *value = find_header(*headers, "Content-Length", &length);
    if (value) body = (size_t)strtoul(value, NULL, 10);
    while (c->in_len < head + body)
        if (!receive(c)) return false;
    *line_end = 0;
    char *target = strchr(c->in, ' ');
    if (!target) return false;
    *target++ = 0;
    char *version = strchr(target, ' ');
    if (!version) return false;
    *version = 0;
    *seen = (HttpSeen){.method = c->in, .target = target, .headers = *headers, .body_bytes = body};
    *whole = head + body;
    return true;
}

/* ---- replies ---- */

static void append(char **to, const char *fmt, va_list ap, const char *end) {
    char *text = NULL;
    va_list again;
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    const size_t before = *to ? strlen(*to) : 0;
    need(n >= 0, "format");
    text = realloc(*to, before + (size_t)n + strlen(end) + 1);
    need(text != NULL, "memory");
    (void)vsnprintf(text + before, (size_t)n + 1, fmt, ap);
    memcpy(text + before + n, end, strlen(end) + 1);
    *to = text;
}

void http_reply_header(HttpReply *reply, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    append(&reply->headers, fmt, ap, "\r\n");
    va_end(ap);
}

void http_reply_body(HttpReply *reply, const void *bytes, size_t n) {
    char *body = malloc(n + 1);
    need(body != NULL, "memory");
    memcpy(body, bytes, n);
    body[n] = 0;
    free(reply->body);
    reply->body = body;
    reply->body_bytes = n;
}

void http_reply_text(HttpReply *reply, const char *fmt, ...) {
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    append(&text, fmt, ap, "");
    va_end(ap);
    http_reply_body(reply, text, strlen(text));
    free(text);
}

static bool send_all(const Connection *c, const char *bytes, size_t n) {
    while (n) {
        bool ready = false;
        if (!wait_for(c, c->fd, POLLOUT, -1, &ready)) return false;
        const ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (sent <= 0) return false;
        bytes += sent;
        n -= (size_t)sent;
    }
    return true;
}

static bool send_head(const Connection *c, const HttpReply *r, uint64_t length) {
    char *head = NULL;
    char line[128];
    size_t n = (size_t)snprintf(line, sizeof line, "HTTP/1.1 %d Whatever\r\n", r->status);
    const char *extra = r->headers ? r->headers : "";
    head = malloc(n + strlen(extra) + 256);
    need(head != NULL, "memory");
    memcpy(head, line, n);
    memcpy(head + n, extra, strlen(extra));
    n += strlen(extra);
    if (r->chunked)
        n += (size_t)snprintf(head + n, 128, "Transfer-Encoding: chunked\r\n");
    else if (!r->no_length)
        n += (size_t)snprintf(head + n, 128, "Content-Length: %lld\r\n",
                              r->claimed_length ? (long long)r->claimed_length : (long long)length);
    n += (size_t)snprintf(head + n, 64, "%s\r\n", r->close || r->no_length ? "Connection: close\r\n" : "");
    const bool sent = send_all(c, head, n);
    free(head);
    return sent;
}

/* One piece, as a chunk where chunks are asked for. */
static bool send_piece(const Connection *c, const HttpReply *r, const char *bytes, size_t n) {
    char size[32];
    if (!r->chunked) return send_all(c, bytes, n);
    const int length = snprintf(size, sizeof size, "%zx\r\n", n);
    return send_all(c, size, (size_t)length) && send_all(c, bytes, n) && send_all(c, "\r\n", 2);
}

/* False when the connection is over. */
static bool send_body(const Connection *c, const HttpReply *r) {
    uint64_t left = r->cut ? r->cut_after : UINT64_MAX;
    for (uint64_t k = 0; k < (r->repeat ? r->repeat : 1); k++) {
        for (size_t i = 0; i < r->body_bytes;) {
            size_t n = r->body_bytes - i;
            if (r->piece_bytes && n > r->piece_bytes) n = r->piece_bytes;
            if (n > left) n = (size_t)left;
            if (n == 0) return false;
            if (!send_piece(c, r, r->body + i, n)) return false;
            i += n;
            left -= n;
            if (r->piece_bytes && !nap(c, r->pause_s)) return false;
        }
    }
    return !r->cut && (!r->chunked || send_all(c, "0\r\n\r\n", 5));
}

/* Before the first byte of the reply, whose end a client may see before this thread does. */
static bool wait_before(const Connection *c, const HttpReply *r) {
    bool ready, go = false;
    if (r->hang)
        (void)wait_for(c, c->fd, POLLIN, -1, &ready);
    else
        go = nap(c, r->delay_s);
    (void)pthread_mutex_lock(&c->server->mutex);
    c->server->busy--;
    (void)pthread_mutex_unlock(&c->server->mutex);
    return go;
}

/* Sends the reply; false when the connection is to be closed. */
static bool answer(const Connection *c, const HttpSeen *seen, const HttpReply *r) {
    if (!wait_before(c, r)) return false;
    if (r->bare) {
        (void)send_all(c, r->body, r->body_bytes);
        return false;
    }
    const uint64_t length = r->body_bytes * (r->repeat ? r->repeat : 1);
    if (!send_head(c, r, length)) return false;
    if (strcmp(seen->method, "HEAD") == 0 || r->status == 304 || r->status == 204) return !r->close;
    return send_body(c, r) && !r->close && !r->no_length && !r->claimed_length;
}

static void *serve(void *arg) {
    Connection *c = arg;
    HttpServer *s = c->server;
    bool open = true, reset = false;
    while (open) {
        HttpSeen seen;
        HttpReply reply = {.status = 200};
        size_t whole = 0;
        char *headers = NULL;
        if (!next_request(c, &seen, &whole, &headers)) {
            free(headers);
            break;
        }
        char *body = malloc(seen.body_bytes + 1);
        need(body != NULL, "memory");
        memcpy(body, c->in + whole - seen.body_bytes, seen.body_bytes);
        body[seen.body_bytes] = 0;
        seen.body = body;
        (void)pthread_mutex_lock(&s->mutex);
        seen.number = s->count++;
        if (++s->busy > s->most) s->most = s->busy;
        s->handler(s->arg, &seen, &reply);
        (void)pthread_mutex_unlock(&s->mutex);
        open = answer(c, &seen, &reply);
        reset = reply.reset;
        c->in_len -= whole;
        memmove(c->in, c->in + whole, c->in_len + 1);
        free(body);
        free(headers);
        free(reply.headers);
        free(reply.body);
    }
    if (reset) (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    (void)pthread_mutex_lock(&s->mutex); /* so that http_server_stop never meets a number used again */
    (void)close(c->fd);
    c->fd = -1;
    (void)pthread_mutex_unlock(&s->mutex);
    free(c->in);
    return NULL;
}

/* ---- the server ---- */

static void *accept_all(void *arg) {
    HttpServer *s = arg;
    for (;;) {
        struct pollfd polled[2] = {{.fd = s->stop[0], .events = POLLIN},
                                   {.fd = s->listener, .events = POLLIN}};
        if (poll(polled, 2, -1) < 0 || polled[0].revents) return NULL;
        const int fd = accept(s->listener, NULL, NULL);
        if (fd < 0) continue;
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* a program that a test starts must not keep it open */
        Connection *c = calloc(1, sizeof *c);
        need(c != NULL, "memory");
        c->server = s;
        c->fd = fd;
        pthread_attr_t small; /* threads are joined at the end: there may be thousands */
        need(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 256 << 10) == 0 &&
                 pthread_create(&c->thread, &small, serve, c) == 0,
             "thread");
        (void)pthread_attr_destroy(&small);
        c->next = s->connections; /* read only when this thread has ended */
        s->connections = c;
    }
}

HttpServer *http_server_start(HttpHandler *handler, void *arg) {
    HttpServer *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->handler = handler;
    s->arg = arg;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    s->listener = socket(AF_INET, SOCK_STREAM, 0);
    need(s->listener >= 0 && pipe(s->stop) == 0, "socket");
    (void)fcntl(s->listener, F_SETFD, FD_CLOEXEC);
    (void)fcntl(s->stop[0], F_SETFD, FD_CLOEXEC);
    (void)fcntl(s->stop[1], F_SETFD, FD_CLOEXEC);
    need(bind(s->listener, (struct sockaddr *)&address, sizeof address) == 0 &&
             listen(s->listener, 128) == 0 &&
             getsockname(s->listener, (struct sockaddr *)&address, &size) == 0,
         "listen");
    s->port = ntohs(address.sin_port);
    (void)snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", s->port);
    need(pthread_mutex_init(&s->mutex, NULL) == 0, "mutex");
    need(pthread_create(&s->thread, NULL, accept_all, s) == 0, "thread");
    return s;
}

void http_server_stop(HttpServer *s) {
    if (!s) return;
    need(write(s->stop[1], "x", 1) == 1, "pipe");
    (void)pthread_join(s->thread, NULL);
    while (s->connections) {
        Connection *c = s->connections;
        s->connections = c->next;
        (void)pthread_join(c->thread, NULL);
        free(c);
    }
    (void)close(s->listener);
    (void)close(s->stop[0]);
    (void)close(s->stop[1]);
    (void)pthread_mutex_destroy(&s->mutex);
    free(s);
}

int http_server_port(const HttpServer *s) {
    return s->port;
}

const char *http_server_url(const HttpServer *s) {
    return s->url;
}

uint64_t http_server_requests(HttpServer *s) {
    (void)pthread_mutex_lock(&s->mutex);
    const uint64_t n = s->count;
    (void)pthread_mutex_unlock(&s->mutex);
    return n;
}

int http_server_most_at_once(HttpServer *s) {
    (void)pthread_mutex_lock(&s->mutex);
    const int n = s->most;
    (void)pthread_mutex_unlock(&s->mutex);
    return n;
}
