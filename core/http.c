#include "core/http.h"

#include <curl/curl.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "core/mem.h"
#include "core/progress.h"
#include "core/stop.h"

enum { TICK_MS = 50, LIMIT_MAX = 1024 };

typedef struct Transfer Transfer;
struct Transfer {
    CURL *easy;
    struct curl_slist *headers;
    HttpRequest request; /* its pointers are to what follows */
    char *method, *url;
    Buf body;
    HttpAnswer answer;
    char error[CURL_ERROR_SIZE];
    double started;
    int redirects;
    bool enough; /* the rest of a body is not wanted */
    Transfer *next;
};

struct Http {
    CURLM *multi;
    Transfer *waiting, *running; /* waiting: in the order of http_start */
    Transfer *ended, *last_ended;
    size_t limit, running_count, pending;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global_rc;

static void init_library(void) {
    global_rc = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- URLs ---- */

typedef struct {
    char *scheme, *host, *port, *path, *query, *user, *password;
} Parts;

static void free_parts(Parts *p) {
    curl_free(p->scheme);
    curl_free(p->host);
    curl_free(p->port);
    curl_free(p->path);
    curl_free(p->query);
    curl_free(p->user);
    curl_free(p->password);
}

/* False where url is no http or https URL. */
static bool split_url(Parts *p, const char *url) {
    *p = (Parts){0};
    CURLU *u = curl_url();
    if (!u) return false;
    bool good = curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
                curl_url_get(u, CURLUPART_SCHEME, &p->scheme, 0) == CURLUE_OK &&
                (strcasecmp(p->scheme, "http") == 0 || strcasecmp(p->scheme, "https") == 0) &&
                curl_url_get(u, CURLUPART_HOST, &p->host, 0) == CURLUE_OK &&
                curl_url_get(u, CURLUPART_PORT, &p->port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                curl_url_get(u, CURLUPART_PATH, &p->path, 0) == CURLUE_OK;
    if (good) {
        (void)curl_url_get(u, CURLUPART_QUERY, &p->query, 0);
        (void)curl_url_get(u, CURLUPART_USER, &p->user, 0);
        (void)curl_url_get(u, CURLUPART_PASSWORD, &p->password, 0);
    }
    curl_url_cleanup(u);
    return good;
}

bool http_same_origin(const char *a, const char *b) {
    Parts x, y;
    const bool first = split_url(&x, a), second = split_url(&y, b); /* both, since both are freed */
    const bool same = first && second && strcasecmp(x.scheme, y.scheme) == 0 &&
                      strcasecmp(x.host, y.host) == 0 && strcmp(x.port, y.port) == 0;
    free_parts(&x);
    free_parts(&y);
    return same;
}

void http_put_url(Buf *out, const char *url) {
    Parts p;
    if (split_url(&p, url)) {
        const bool usual = strcmp(p.port, strcasecmp(p.scheme, "https") == 0 ? "443" : "80") == 0;
        buf_printf(out, "%s://%s%s%s%s%s", p.scheme, p.host, usual ? "" : ":", usual ? "" : p.port, p.path,
                   p.query ? "?..." : "");
    } else {
        buf_puts(out, "(not an http or https URL)");
    }
    free_parts(&p);
}

static bool is_loopback(const char *host) {
    return strcasecmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0;
}

static bool is_https(const char *url) {
    return strncasecmp(url, "https:", 6) == 0;
}

/* ---- one transfer ---- */

static void free_transfer(Transfer *t) {
    if (!t) return;
    if (t->easy) curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    mem_free(t->method);
    mem_free(t->url);
    buf_free(&t->body);
    http_answer_free(&t->answer);
    mem_free(t);
}

void http_answer_free(HttpAnswer *a) {
    buf_free(&a->body);
    buf_free(&a->headers);
    mem_free(a->url);
    *a = (HttpAnswer){0};
}

/* Keeps the first failure. */
static void fail(Transfer *t, HttpOutcome outcome, ErrCode code, const char *what) {
    if (t->answer.outcome != HTTP_DONE) return;
    Buf url = {0};
    http_put_url(&url, t->answer.url);
    t->answer.outcome = outcome;
    (void)err_set(&t->answer.why, code, "%s %s: %s", t->method, url.failed ? "" : url.data, what);
    buf_free(&url);
}

static void fail_sink(Transfer *t, ErrCode rc) {
    if (t->answer.why.code == ERR_OK) (void)err_set(&t->answer.why, rc, "the answer was not taken");
    t->answer.outcome = HTTP_SINK;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *arg) {
    Transfer *t = arg;
    size_t n = size * count;
    Buf *to = &t->answer.headers;
    if (n >= 5 && memcmp(bytes, "HTTP/", 5) == 0) { /* also behind an interim answer such as 100 */
        const char *space = memchr(bytes, ' ', n);
        int status = 0;
        for (const char *c = space ? space + 1 : bytes + n; c < bytes + n && *c >= '0' && *c <= '9'; c++)
            if (status < 1000) status = 10 * status + (*c - '0');
        buf_clear(to);
        t->answer.status = status;
        return size * count;
    }
    while (n && (bytes[n - 1] == '\r' || bytes[n - 1] == '\n' || bytes[n - 1] == ' ')) n--;
    const char *colon = memchr(bytes, ':', n);
    if (!colon || memchr(bytes, 0, n)) return size * count;
    if (to->len + n + 2 > HTTP_HEADERS_MAX) {
        fail(t, HTTP_TOO_LARGE, ERR_FORMAT, "the headers of the answer are longer than 64 KiB");
        return 0;
    }
    buf_put(to, bytes, (size_t)(colon - bytes));
    buf_put(to, "", 1);
    const char *value = colon + 1;
    while (value < bytes + n && (*value == ' ' || *value == '\t')) value++;
    buf_put(to, value, (size_t)(bytes + n - value));
    buf_put(to, "", 1);
    if (!to->failed) return size * count;
    fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
    return 0;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
    Transfer *t = arg;
    HttpAnswer *a = &t->answer;
    const size_t n = size * count;
    if (!n) return 0;
    a->received += n;
    if (a->status < 200 || a->status > 299) {
        const size_t room = HTTP_ERROR_MAX - a->body.len;
        buf_put(&a->body, bytes, n < room ? n : room);
        t->enough = n > room;
        if (a->body.failed) fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
        return a->body.failed || t->enough ? 0 : n;
    }
    const HttpRequest *r = &t->request;
    const size_t max = r->max_bytes || r->sink ? r->max_bytes : HTTP_BODY_MAX;
    if (max && a->received > max) {
        char what[96];
        (void)snprintf(what, sizeof what, "the answer is longer than the %zu bytes that it may have", max);
        fail(t, HTTP_TOO_LARGE, ERR_FORMAT, what);
        return 0;
    }
    if (r->sink) {
        const ErrCode rc = r->sink(r->arg, a, bytes, n, &a->why);
        if (rc == ERR_OK) return n;
        fail_sink(t, rc);
        return 0;
    }
    buf_put(&a->body, bytes, n);
    if (!a->body.failed) return n;
    fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
    return 0;
}

/* Visible ASCII, spaces, and bytes of UTF-8: no line end that would begin another header. */
static bool is_header(const char *s) {
    const char *colon = strchr(s, ':');
    if (!colon || colon == s) return false;
    for (; *s; s++)
        if (((unsigned char)*s < 0x20 && *s != '\t') || *s == 0x7f || (*s == ' ' && s < colon)) return false;
    return true;
}

static bool add_header(Transfer *t, const char *text) {
    struct curl_slist *more = curl_slist_append(t->headers, text);
    if (more) t->headers = more;
    return more != NULL;
}

/* Headers for the next hop; with the secret or without it. curl sends "Expect:" for large bodies of its own accord, which
 * costs a second where the server does not know it. */
static bool make_headers(Transfer *t, const HttpRequest *r, bool with_secret) {
    bool good = add_header(t, "Expect:");
    for (size_t i = 0; i < r->header_count; i++) good &= add_header(t, r->headers[i]);
    if (with_secret && r->secret) good &= add_header(t, r->secret);
    return good;
}

/* The secret is the last header. */
static bool drop_secret(Transfer *t) {
    struct curl_slist *kept = NULL;
    bool good = true;
    for (const struct curl_slist *h = t->headers; h && h->next && good; h = h->next) {
        struct curl_slist *more = curl_slist_append(kept, h->data);
        good = more != NULL;
        if (more) kept = more;
    }
    curl_slist_free_all(t->headers);
    t->headers = kept;
    return good && curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK;
}

static ErrCode check(const HttpRequest *r, Err *err) {
    Parts p;
    const bool good = r->url && split_url(&p, r->url);
    const bool named = good && (p.user || p.password);
    if (r->url) free_parts(&p);
    if (!good) return err_set(err, ERR_ARGUMENT, "the URL is not one, or not of http or https");
    if (named)
        return err_set(err, ERR_ARGUMENT, "the URL holds a name or a password: expected one without them");
    for (size_t i = 0; i < r->header_count; i++)
        if (!is_header(r->headers[i])) return err_set(err, ERR_ARGUMENT, "a header is not 'Name: value'");
    if (r->secret && !is_header(r->secret))
        return err_set(err, ERR_ARGUMENT, "the key holds a character that no header may have");
    return ERR_OK;
}

#if LIBCURL_VERSION_NUM >= 0x075500
static CURLcode allow_protocols(CURL *easy) {
    return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
}
#else
static CURLcode allow_protocols(CURL *easy) {
    return curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
}
#endif

static long to_ms(double seconds, double otherwise) {
    const double s = seconds > 0 ? seconds : otherwise;
    return (long)fmin(1e3 * s + 0.5, 2e9);
}

static bool set_url(Transfer *t, const char *url) {
    Parts p;
    const bool local = split_url(&p, url) && is_loopback(p.host);
    free_parts(&p);
    mem_free(t->answer.url);
    t->answer.url = mem_strdup(url);
    return t->answer.url && curl_easy_setopt(t->easy, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(t->easy, CURLOPT_PROXY, local ? "" : NULL) == CURLE_OK;
}

static bool set_method(Transfer *t) {
    if (strcmp(t->method, "HEAD") == 0) return curl_easy_setopt(t->easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
    if (strcmp(t->method, "POST") != 0) return curl_easy_setopt(t->easy, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    return curl_easy_setopt(t->easy, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->body.len) == CURLE_OK &&
           curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->body.data) == CURLE_OK;
}

static bool set_options(Transfer *t) {
    CURL *e = t->easy;
    const HttpRequest *r = &t->request;
    CURLcode rc = allow_protocols(e);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_PRIVATE, (void *)t);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->error);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_USERAGENT, "router/" ROUTER_VERSION);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_HEADERDATA, (void *)t);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_WRITEDATA, (void *)t);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_HTTPHEADER, t->headers);
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, to_ms(r->connect_s, 20));
    if (!rc) rc = curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, to_ms(r->total_s, 0));
    if (!rc && r->slow_s > 0) {
        rc = curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)fmin(ceil(r->slow_s), 1e9));
        if (!rc) rc = curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, r->slow_bytes ? (long)r->slow_bytes : 1L);
    }
    if (!rc && r->once) {
        rc = curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
        if (!rc) rc = curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L);
    }
    return !rc && set_method(t);
}

static ErrCode make_transfer(Transfer **out, const HttpRequest *request, Err *err) {
    TRY(check(request, err));
    Transfer *t;
    TRY(mem_new(&t, 1, sizeof *t, "a request", err));
    t->request = *request;
    t->answer.tag = request->tag;
    t->method = mem_strdup(request->method ? request->method : "GET");
    t->url = mem_strdup(request->url);
    t->easy = curl_easy_init();
    buf_put(&t->body, request->body, request->body_bytes);
    if (!t->method || !t->url || !t->easy || t->body.failed || !make_headers(t, request, true) ||
        !set_options(t) || !set_url(t, t->url)) {
        free_transfer(t);
        return err_set(err, ERR_MEMORY, "out of memory for a request");
    }
    t->request.headers = NULL; /* libcurl has its copies */
    t->request.body = NULL;
    *out = t;
    return ERR_OK;
}

/* ---- what becomes of it ---- */

static void judge(Transfer *t, CURLcode rc) {
    if (rc == CURLE_OK || t->enough) return; /* or on_header, on_body know better */
    const char *what = t->error[0] ? t->error : curl_easy_strerror(rc);
    switch (rc) {
        case CURLE_OPERATION_TIMEDOUT: fail(t, HTTP_TIMEOUT, ERR_IO, what); break;
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_RESOLVE_PROXY:
        case CURLE_COULDNT_CONNECT: fail(t, HTTP_UNREACHABLE, ERR_IO, what); break;
        case CURLE_GOT_NOTHING:
        case CURLE_PARTIAL_FILE:
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_WEIRD_SERVER_REPLY:
        case CURLE_UNSUPPORTED_PROTOCOL: /* an answer of HTTP/0.9, that is: anything at all */
        case CURLE_HTTP2:
        case CURLE_HTTP2_STREAM: fail(t, HTTP_CUT, ERR_IO, what); break;
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_SSL_CACERT_BADFILE: fail(t, HTTP_REFUSED, ERR_IO, what); break;
        case CURLE_OUT_OF_MEMORY: fail(t, HTTP_FAILED, ERR_MEMORY, what); break;
        default: fail(t, HTTP_FAILED, ERR_IO, what); break;
    }
}

static bool is_redirect(const Transfer *t) {
    const int s = t->answer.status;
    const bool kept = s == 307 || s == 308;
    return kept || ((s == 301 || s == 302 || s == 303) && strcmp(t->method, "POST") != 0);
}

/* Points the transfer to where it is redirected; false where its answer is the last one. */
static bool redirect(Transfer *t) {
    const HttpRequest *r = &t->request;
    char *to = NULL;
    if (t->answer.outcome != HTTP_DONE || r->redirect == HTTP_REDIRECT_NONE || !is_redirect(t)) return false;
    if (curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &to) != CURLE_OK || !to) return false;
    const bool same = http_same_origin(t->answer.url, to);
    char *url = mem_strdup(to); /* `to` is the handle's, whose URL is about to change */
    if (!url) {
        fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
        return false;
    }
    if (++t->redirects > HTTP_REDIRECTS_MAX) {
        fail(t, HTTP_REFUSED, ERR_IO, "redirected more than 10 times");
    } else if (is_https(t->answer.url) && !is_https(url)) {
        fail(t, HTTP_REFUSED, ERR_IO, "redirected from https to a URL without it, which was refused");
    } else if (r->redirect == HTTP_REDIRECT_ORIGIN && !same) {
        Buf what = {0};
        buf_puts(&what, "redirected to another host, which was refused: ");
        http_put_url(&what, url);
        fail(t, HTTP_REFUSED, ERR_IO, what.failed ? "redirected to another host" : what.data);
        buf_free(&what);
    } else if (r->redirect == HTTP_REDIRECT_ASK) {
        const ErrCode rc = r->follow(r->arg, &t->answer, url, same, &t->answer.why);
        if (rc != ERR_OK) fail_sink(t, rc);
    }
    if (t->answer.outcome == HTTP_DONE) {
        const bool away = !same && t->request.secret;
        if (away) t->request.secret = NULL;
        if (!set_url(t, url) || (away && !drop_secret(t))) fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
        buf_clear(&t->answer.headers);
        buf_clear(&t->answer.body);
        t->answer.received = 0;
        t->answer.status = 0;
        t->enough = false;
        t->error[0] = 0;
    }
    mem_free(url);
    return t->answer.outcome == HTTP_DONE;
}

/* ---- all of them ---- */

ErrCode http_open(Http **out, size_t limit, Err *err) {
    *out = NULL;
    (void)pthread_once(&once, init_library);
    if (global_rc != CURLE_OK)
        return err_set(err, ERR_BACKEND, "libcurl does not start: %s", curl_easy_strerror(global_rc));
    Http *h;
    TRY(mem_new(&h, 1, sizeof *h, "the requests", err));
    h->multi = curl_multi_init();
    if (!h->multi) {
        mem_free(h);
        return err_set(err, ERR_MEMORY, "out of memory for the requests");
    }
    http_limit(h, limit);
    *out = h;
    return ERR_OK;
}

void http_limit(Http *h, size_t limit) {
    h->limit = limit < 1 ? 1 : limit > LIMIT_MAX ? LIMIT_MAX : limit;
}

size_t http_pending(const Http *h) {
    return h->pending;
}

static void free_list(Transfer *t) {
    while (t) {
        Transfer *next = t->next;
        free_transfer(t);
        t = next;
    }
}

void http_close(Http *h) {
    if (!h) return;
    for (Transfer *t = h->running; t; t = t->next) (void)curl_multi_remove_handle(h->multi, t->easy);
    free_list(h->running);
    free_list(h->waiting);
    free_list(h->ended);
    (void)curl_multi_cleanup(h->multi);
    mem_free(h);
}

ErrCode http_start(Http *h, const HttpRequest *request, Err *err) {
    Transfer *t;
    TRY(make_transfer(&t, request, err));
    Transfer **at = &h->waiting;
    while (*at) at = &(*at)->next;
    *at = t;
    h->pending++;
    return ERR_OK;
}

static void end(Http *h, Transfer *t) {
    t->answer.seconds = progress_clock() - t->started;
    t->next = NULL;
    if (h->ended)
        h->last_ended->next = t;
    else
        h->ended = t;
    h->last_ended = t;
}

static void begin_waiting(Http *h) {
    while (h->waiting && h->running_count < h->limit) {
        Transfer *t = h->waiting;
        h->waiting = t->next;
        t->started = progress_clock();
        if (curl_multi_add_handle(h->multi, t->easy) != CURLM_OK) {
            fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
            end(h, t);
            continue;
        }
        t->next = h->running;
        h->running = t;
        h->running_count++;
    }
}

static void take_ended(Http *h) {
    int left;
    const CURLMsg *m;
    while ((m = curl_multi_info_read(h->multi, &left)) != NULL) {
        if (m->msg != CURLMSG_DONE) continue;
        const CURLcode rc = m->data.result; /* m is gone once the handle is removed */
        CURL *easy = m->easy_handle;
        Transfer *t = NULL;
        (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&t);
        (void)curl_multi_remove_handle(h->multi, easy);
        judge(t, rc);
        if (redirect(t)) {
            if (curl_multi_add_handle(h->multi, easy) == CURLM_OK) continue;
            fail(t, HTTP_FAILED, ERR_MEMORY, "out of memory");
        }
        Transfer **at = &h->running;
        while (*at != t) at = &(*at)->next;
        *at = t->next;
        h->running_count--;
        end(h, t);
    }
}

static void give(Http *h, HttpAnswer *answer) {
    Transfer *t = h->ended;
    h->ended = t->next;
    h->pending--;
    *answer = t->answer;
    t->answer = (HttpAnswer){0};
    free_transfer(t);
}

ErrCode http_wait(Http *h, double seconds, HttpAnswer *answer, bool *got, Err *err) {
    *answer = (HttpAnswer){0};
    *got = false;
    const double until = progress_clock() + seconds;
    for (;;) {
        if (stop_requested()) return err_set(err, ERR_INTERRUPTED, "interrupted");
        begin_waiting(h);
        int running;
        const CURLMcode rc = curl_multi_perform(h->multi, &running);
        if (rc != CURLM_OK)
            return err_set(err, rc == CURLM_OUT_OF_MEMORY ? ERR_MEMORY : ERR_BACKEND, "libcurl: %s",
                           curl_multi_strerror(rc));
        take_ended(h);
        if (h->ended) {
            give(h, answer);
            *got = true;
            return ERR_OK;
        }
        const double left = until - progress_clock();
        if (h->pending == 0 || left <= 0) return ERR_OK;
        /* Short naps, since a signal does not end this one. */
        (void)curl_multi_poll(h->multi, NULL, 0, (int)fmin(ceil(1e3 * left), TICK_MS), NULL);
    }
}

ErrCode http_get(Http *h, const HttpRequest *request, HttpAnswer *answer, Err *err) {
    *answer = (HttpAnswer){0};
    TRY(http_start(h, request, err));
    bool got = false;
    while (!got) TRY(http_wait(h, 3600, answer, &got, err));
    return ERR_OK;
}

/* ---- answers ---- */

const char *http_header(const HttpAnswer *a, const char *name) {
    const char *found = NULL;
    for (size_t i = 0; i < a->headers.len;) {
        const char *key = a->headers.data + i, *value = key + strlen(key) + 1;
        if (strcasecmp(key, name) == 0) found = value;
        i = (size_t)(value - a->headers.data) + strlen(value) + 1;
    }
    return found;
}

double http_retry_after(const HttpAnswer *a) {
    const char *value = http_header(a, "Retry-After");
    if (!value || !*value) return -1;
    char *end_of;
    const double seconds = strtod(value, &end_of);
    if (end_of != value && !*end_of) return seconds >= 0 && seconds <= 1e9 ? seconds : -1;
    const time_t then = curl_getdate(value, NULL);
    if (then < 0) return -1;
    const char *date = http_header(a, "Date");
    time_t now = date ? curl_getdate(date, NULL) : -1;
    if (now < 0) now = time(NULL);
    return then > now ? (double)(then - now) : 0;
}

bool http_may_retry(const HttpAnswer *a) {
    if (a->outcome != HTTP_DONE)
        return a->outcome == HTTP_TIMEOUT || a->outcome == HTTP_UNREACHABLE || a->outcome == HTTP_CUT;
    const int s = a->status;
    return s == 408 || s == 425 || s == 429 || (s >= 500 && s <= 599 && s != 501 && s != 505);
}
