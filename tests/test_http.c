/* tests/test_http.c - requests to a server that does everything wrong: core/http, core/sse. */
#include <signal.h>

#include "core/http.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/sse.h"
#include "tests/http_server.h"
#include "tests/unit.h"

static HttpServer *server, *elsewhere; /* two origins */
static Http *http;
static int elsewhere_secrets, elsewhere_plain;

static bool is(const HttpSeen *seen, const char *target) {
    return strcmp(seen->target, target) == 0;
}

/* Replies by target. */
static void handle(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    char header[256];
    http_reply_text(r, "hello");
    if (is(seen, "/echo")) {
        http_reply_text(r, "%s [%s] %s", seen->method, http_server_header(header, sizeof header, seen, "X-A"),
                        seen->body);
        http_reply_header(r, "ETag: \"one\"");
        http_reply_header(r, "etag:   \"two\"  ");
    } else if (is(seen, "/slow")) {
        r->delay_s = 0.05;
    } else if (is(seen, "/drip")) {
        r->piece_bytes = 1;
        r->pause_s = 0.6;
        r->repeat = 100;
    } else if (is(seen, "/hang")) {
        r->hang = true;
    } else if (is(seen, "/cut")) {
        r->cut = true;
        r->cut_after = 3;
    } else if (is(seen, "/cut-chunk")) {
        r->cut = r->chunked = true;
        r->cut_after = 3;
    } else if (is(seen, "/reset")) {
        r->cut = r->reset = true;
    } else if (is(seen, "/long")) {
        r->claimed_length = 500;
        r->cut = true;
        r->cut_after = 5;
    } else if (is(seen, "/short")) {
        r->claimed_length = 2;
    } else if (is(seen, "/garbage")) {
        r->bare = true;
    } else if (is(seen, "/huge") || is(seen, "/huge-error")) {
        static char block[1 << 16];
        memset(block, 'x', sizeof block);
        http_reply_body(r, block, sizeof block);
        r->repeat = 1 << 20; /* 64 GiB */
        r->chunked = is(seen, "/huge");
        r->status = is(seen, "/huge") ? 200 : 500;
    } else if (is(seen, "/huge-header")) {
        static char block[70000];
        memset(block, 'x', sizeof block - 1);
        for (int i = 0; i < 4; i++) http_reply_header(r, "X-%d: %.30000s", i, block);
    } else if (is(seen, "/chunks")) {
        r->chunked = true;
        r->piece_bytes = 2;
    } else if (is(seen, "/no-length")) {
        r->no_length = true;
    } else if (is(seen, "/busy")) {
        r->status = 429;
        http_reply_header(r, "Retry-After: 7");
    } else if (strncmp(seen->target, "/to-", 4) == 0) {
        r->status = is(seen, "/to-303") ? 303 : 307;
        http_reply_header(r, "X-Repo-Commit: abc");
        if (is(seen, "/to-loop"))
            http_reply_header(r, "Location: /to-loop");
        else if (is(seen, "/to-file"))
            http_reply_header(r, "Location: file:///etc/passwd");
        else if (is(seen, "/to-elsewhere"))
            http_reply_header(r, "Location: %s/landed?token=1", http_server_url(elsewhere));
        else
            http_reply_header(r, "Location: /echo");
    }
}

static void handle_elsewhere(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    char header[256];
    http_server_header(header, sizeof header, seen, "Authorization");
    if (header[0])
        elsewhere_secrets++;
    else
        elsewhere_plain++;
    http_reply_text(r, "landed");
}

static const char *url(const char *path) {
    static char urls[8][128];
    static int turn;
    turn = (turn + 1) % 8;
    (void)snprintf(urls[turn], sizeof urls[turn], "%s%s", http_server_url(server), path);
    return urls[turn];
}

static HttpAnswer get(const HttpRequest *request) {
    HttpAnswer a;
    Err err = {0};
    ok(http_get(http, request, &a, &err), &err);
    return a;
}

static void expect(HttpRequest request, HttpOutcome outcome, int status, const char *body_or_why) {
    request.connect_s = 5;
    HttpAnswer a = get(&request);
    if (a.outcome != outcome || a.status != status)
        fail_msg("%s: outcome %d status %d: %s", request.url, (int)a.outcome, a.status, a.why.msg);
    if (outcome == HTTP_DONE) {
        assert_int_equal(a.body.len, strlen(body_or_why));
        assert_memory_equal(a.body.data, body_or_why, a.body.len);
        assert_int_equal(a.received, a.body.len);
    } else if (!strstr(a.why.msg, body_or_why)) {
        fail_msg("found '%s', expected '%s'", a.why.msg, body_or_why);
    }
    http_answer_free(&a);
}

static void test_plain(void **state) {
    (void)state;
    const char *headers[] = {"X-A: b"};
    const HttpRequest echo = {.url = url("/echo"), .headers = headers, .header_count = 1};
    HttpAnswer a = get(&echo);
    assert_int_equal(a.outcome, HTTP_DONE);
    assert_string_equal(a.body.data, "GET [b] ");
    assert_string_equal(http_header(&a, "eTaG"), "\"two\"");
    assert_null(http_header(&a, "ETa"));
    assert_string_equal(http_header(&a, "content-length"), "8");
    assert_true(http_retry_after(&a) < 0);
    http_answer_free(&a);
    expect((HttpRequest){.url = url("/echo"), .method = "POST", .body = "{}", .body_bytes = 2}, HTTP_DONE,
           200, "POST [] {}");
    expect((HttpRequest){.url = url("/echo"), .method = "POST"}, HTTP_DONE, 200, "POST [] ");
    expect((HttpRequest){.url = url("/echo"), .method = "HEAD"}, HTTP_DONE, 200, "");
    expect((HttpRequest){.url = url("/chunks")}, HTTP_DONE, 200, "hello");
    expect((HttpRequest){.url = url("/no-length")}, HTTP_DONE, 200, "hello");
    expect((HttpRequest){.url = url("/short"), .once = true}, HTTP_DONE, 200, "he");
    a = get(&(HttpRequest){.url = url("/busy")});
    assert_int_equal(a.status, 429);
    assert_true(http_retry_after(&a) == 7 && http_may_retry(&a)); /* exact: small integers */
    http_answer_free(&a);
}

static void test_misbehaviour(void **state) {
    (void)state;
    expect((HttpRequest){.url = url("/cut")}, HTTP_CUT, 200, "/cut");
    expect((HttpRequest){.url = url("/cut-chunk")}, HTTP_CUT, 200, "");
    expect((HttpRequest){.url = url("/long")}, HTTP_CUT, 200, "");
    expect((HttpRequest){.url = url("/garbage")}, HTTP_CUT, 0, "");
    expect((HttpRequest){.url = url("/hang"), .total_s = 0.2}, HTTP_TIMEOUT, 0, "");
    expect((HttpRequest){.url = url("/drip"), .slow_s = 1, .slow_bytes = 100}, HTTP_TIMEOUT, 200, "");
    expect((HttpRequest){.url = url("/drip"), .total_s = 0.3}, HTTP_TIMEOUT, 200, "");
    expect((HttpRequest){.url = url("/huge"), .max_bytes = 100000}, HTTP_TOO_LARGE, 200,
           "longer than the 100000 bytes");
    expect((HttpRequest){.url = url("/huge")}, HTTP_TOO_LARGE, 200, "16777216");
    expect((HttpRequest){.url = url("/huge-header")}, HTTP_TOO_LARGE, 200, "headers");
    HttpAnswer a = get(&(HttpRequest){.url = url("/huge-error")});
    assert_int_equal(a.outcome, HTTP_DONE);
    assert_int_equal(a.status, 500);
    assert_int_equal(a.body.len, HTTP_ERROR_MAX);
    assert_true(http_may_retry(&a));
    http_answer_free(&a);
    a = get(&(HttpRequest){.url = url("/reset")});
    assert_int_equal(a.outcome, HTTP_CUT);
    assert_true(http_may_retry(&a));
    http_answer_free(&a);
    expect((HttpRequest){.url = "http://127.0.0.1:1/x?key=s3cret"}, HTTP_UNREACHABLE, 0,
           "GET http://127.0.0.1:1/x?...: ");
    expect((HttpRequest){.url = url("/echo")}, HTTP_DONE, 200, "GET [] "); /* and all is well again */
}

static ErrCode take(void *arg, const HttpAnswer *answer, const char *bytes, size_t n, Err *err) {
    Buf *to = arg;
    assert_int_equal(answer->status, 200);
    buf_put(to, bytes, n);
    return to->len > 1000000 ? err_set(err, ERR_IO, "the disk is full") : ERR_OK;
}

static void test_sink(void **state) {
    (void)state;
    Buf taken = {0};
    expect((HttpRequest){.url = url("/huge"), .sink = take, .arg = &taken}, HTTP_SINK, 200,
           "the disk is full");
    buf_clear(&taken);
    expect((HttpRequest){.url = url("/huge"), .sink = take, .arg = &taken, .max_bytes = 70000},
           HTTP_TOO_LARGE, 200, "70000");
    assert_true(taken.len <= 70000);
    buf_clear(&taken);
    HttpAnswer a = get(&(HttpRequest){.url = url("/chunks"), .sink = take, .arg = &taken});
    assert_string_equal(taken.data, "hello");
    assert_int_equal(a.body.len, 0);
    http_answer_free(&a);
    buf_clear(&taken);
    a = get(&(HttpRequest){.url = url("/busy"), .sink = take, .arg = &taken}); /* an error is no data */
    assert_int_equal(taken.len, 0);
    assert_string_equal(a.body.data, "hello");
    http_answer_free(&a);
    buf_free(&taken);
}

static ErrCode follow(void *arg, const HttpAnswer *answer, const char *to, bool same, Err *err) {
    assert_int_equal(answer->status, 307);
    assert_string_equal(http_header(answer, "x-repo-commit"), "abc");
    assert_false(same);
    assert_non_null(strstr(to, "/landed?token=1"));
    return *(bool *)arg ? ERR_OK : err_set(err, ERR_ARGUMENT, "not there");
}

static void test_redirects(void **state) {
    (void)state;
    const char *secret = "Authorization: Bearer s3cret";
    expect((HttpRequest){.url = url("/to-echo")}, HTTP_DONE, 307, "hello");
    const HttpRedirect origin = HTTP_REDIRECT_ORIGIN;
    expect((HttpRequest){.url = url("/to-echo"), .redirect = origin}, HTTP_DONE, 200, "GET [] ");
    expect(
        (HttpRequest){
            .url = url("/to-echo"), .redirect = origin, .method = "POST", .body = "b", .body_bytes = 1},
        HTTP_DONE, 200, "POST [] b");
    expect((HttpRequest){.url = url("/to-303"), .redirect = origin, .method = "POST"}, HTTP_DONE, 303,
           "hello");
    expect((HttpRequest){.url = url("/to-loop"), .redirect = origin}, HTTP_REFUSED, 307,
           "more than 10 times");
    expect((HttpRequest){.url = url("/to-file"), .redirect = origin}, HTTP_REFUSED, 307, "refused");
    expect((HttpRequest){.url = url("/to-elsewhere"), .redirect = origin, .secret = secret}, HTTP_REFUSED,
           307, "redirected to another host, which was refused: http://127.0.0.1:");
    assert_int_equal(elsewhere_secrets + elsewhere_plain, 0);
    bool may = false;
    HttpRequest ask = {.url = url("/to-elsewhere"),
                       .secret = secret,
                       .redirect = HTTP_REDIRECT_ASK,
                       .follow = follow,
                       .arg = &may};
    expect(ask, HTTP_SINK, 307, "not there");
    assert_int_equal(elsewhere_plain, 0);
    may = true;
    HttpAnswer a = get(&ask);
    assert_int_equal(a.outcome, HTTP_DONE);
    assert_string_equal(a.body.data, "landed");
    assert_non_null(strstr(a.url, "/landed?token=1"));
    http_answer_free(&a);
    assert_int_equal(elsewhere_secrets, 0); /* the key stays with its host */
    assert_int_equal(elsewhere_plain, 1);
}

static void test_many(void **state) {
    (void)state;
    enum { COUNT = 60, LIMIT = 5 };
    Err err = {0};
    Http *h;
    ok(http_open(&h, LIMIT, &err), &err);
    static int tags[COUNT];
    HttpServer *mine = http_server_start(handle, NULL);
    char slow[128];
    (void)snprintf(slow, sizeof slow, "%s/slow", http_server_url(mine));
    for (int i = 0; i < COUNT; i++)
        ok(http_start(h, &(HttpRequest){.url = slow, .tag = &tags[i], .once = i % 2}, &err), &err);
    HttpAnswer a;
    bool got = true;
    while (got) {
        ok(http_wait(h, 20, &a, &got, &err), &err);
        if (!got) break;
        assert_int_equal(a.outcome, HTTP_DONE);
        (*(int *)a.tag)++;
        http_answer_free(&a);
    }
    assert_int_equal(http_pending(h), 0);
    for (int i = 0; i < COUNT; i++) assert_int_equal(tags[i], 1);
    assert_int_equal(http_server_requests(mine), COUNT);
    assert_in_range(http_server_most_at_once(mine), 2, LIMIT);
    for (int i = 0; i < 9; i++) /* closed while some run and some wait */
        ok(http_start(h, &(HttpRequest){.url = slow}, &err), &err);
    ok(http_wait(h, 0, &a, &got, &err), &err);
    http_close(h);
    http_server_stop(mine);
}

static void test_bad_requests(void **state) {
    (void)state;
    static const char *const URLS[] = {"",
                                       "x",
                                       "ftp://host/x",
                                       "file:///etc/passwd",
                                       "http://",
                                       "://",
                                       "http://user:pw@127.0.0.1/",
                                       "http://u@127.0.0.1/"};
    Err err = {0};
    for (size_t i = 0; i < sizeof URLS / sizeof *URLS; i++) {
        assert_int_equal(http_start(http, &(HttpRequest){.url = URLS[i]}, &err), ERR_ARGUMENT);
        assert_null(strstr(err.msg, "pw"));
    }
    const char *bad[] = {"No colon", ": x", "A: b\r\nC: d", "A b: c"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(
            http_start(http, &(HttpRequest){.url = url("/"), .headers = &bad[i], .header_count = 1}, &err),
            ERR_ARGUMENT);
        assert_int_equal(http_start(http, &(HttpRequest){.url = url("/"), .secret = bad[i]}, &err),
                         ERR_ARGUMENT);
        assert_null(strstr(err.msg, bad[i]));
    }
    assert_true(http_same_origin("http://a.b/x", "HTTP://A.B:80/y?z"));
    assert_false(http_same_origin("http://a.b/x", "https://a.b/x"));
    assert_false(http_same_origin("http://a.b/x", "http://a.b:81/x"));
    assert_false(http_same_origin("http://a.b/x", "http://a.b.c/x"));
    Buf shown = {0};
    http_put_url(&shown, "https://u:secret@h.org:444/p?token=secret#f");
    assert_string_equal(shown.data, "https://h.org:444/p?...");
    buf_free(&shown);
}

static void test_retry_after(void **state) {
    (void)state;
    static const struct {
        const char *value, *date;
        double seconds;
    } CASES[] = {
        {"0", NULL, 0},
        {"2.5", NULL, 2.5},
        {"120", NULL, 120},
        {"-3", NULL, -1},
        {"soon", NULL, -1},
        {"", NULL, -1},
        {"1e300", NULL, -1},
        {"Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 30},
        {"Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:29:00 GMT", 0},
        {"Wed, 21 Oct 2015 07:28:30 GMT", NULL, 0}, /* long ago by our clock */
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        HttpAnswer a = {0};
        buf_puts(&a.headers, "Retry-After");
        buf_put(&a.headers, "", 1);
        buf_put(&a.headers, CASES[i].value, strlen(CASES[i].value) + 1);
        if (CASES[i].date) {
            buf_put(&a.headers, "date", 5);
            buf_put(&a.headers, CASES[i].date, strlen(CASES[i].date) + 1);
        }
        assert_true(http_retry_after(&a) == CASES[i].seconds); /* exact: small numbers */
        http_answer_free(&a);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    for (size_t n = 1; n < 100; n++) {
        Err err = {0};
        HttpAnswer a = {0};
        mem_fail_at(n);
        const ErrCode rc = http_get(
            http, &(HttpRequest){.url = url("/to-echo"), .redirect = HTTP_REDIRECT_ORIGIN}, &a, &err);
        mem_fail_at(0);
        const bool done = rc == ERR_OK && a.outcome == HTTP_DONE;
        if (rc != ERR_OK) assert_int_equal(rc, ERR_MEMORY);
        if (rc == ERR_OK && !done) assert_int_equal(a.why.code, ERR_MEMORY);
        if (done) assert_string_equal(a.body.data, "GET [] ");
        http_answer_free(&a);
        if (done) {
            assert_true(n > 5);
            return;
        }
    }
    fail_msg("still failing");
}

/* ---- events ---- */

static ErrCode note(void *arg, const char *data, size_t n, Err *err) {
    Buf *to = arg;
    assert_int_equal(data[n], 0);
    buf_printf(to, "<%.*s>", (int)n, data);
    return n == 4 && memcmp(data, "stop", 4) == 0 ? err_set(err, ERR_FORMAT, "stopped") : ERR_OK;
}

static void test_events(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *events;
    } CASES[] = {
        {"data: a\n\ndata:b\n\n", "<a><b>"},
        {"data: a\r\n\r\ndata: b\r\rdata: c\n\r\n", "<a><b><c>"},
        {"\xef\xbb\xbf"
         "data: a\n\n",
         "<a>"},
        {": ping\n\ndata: a\ndata:  b\ndata\n\n", "<a\n b\n>"},
        {"event: x\nid: 1\nretry: 5\ndatas: no\n\ndata: y\n\n", "<y>"},
        {"\n\n\ndata: {\"a\":\"\xc3\xa4\"}\n\ndata: cut", "<{\"a\":\"\xc3\xa4\"}>"},
    };
    Err err = {0};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        for (size_t piece = 1; piece < 8; piece++) {
            Sse sse = {0};
            Buf events = {0};
            const size_t n = strlen(CASES[i].bytes);
            for (size_t at = 0; at < n; at += piece)
                ok(sse_feed(&sse, CASES[i].bytes + at, n - at < piece ? n - at : piece, note, &events, &err),
                   &err);
            assert_string_equal(events.data, CASES[i].events);
            buf_free(&events);
            sse_free(&sse);
        }
    }
    Sse sse = {0};
    Buf events = {0};
    assert_int_equal(sse_feed(&sse, "data: stop\n\ndata: no\n\n", 22, note, &events, &err), ERR_FORMAT);
    assert_string_equal(events.data, "<stop>");
    sse_free(&sse);
    static char endless[1 << 16];
    memset(endless, 'a', sizeof endless);
    ErrCode rc = ERR_OK;
    int pieces = 0;
    for (; rc == ERR_OK && pieces < 1000; pieces++)
        rc = sse_feed(&sse, endless, sizeof endless, note, &events, &err);
    assert_int_equal(rc, ERR_FORMAT);
    assert_int_equal(pieces, 65);
    sse_free(&sse);
    buf_free(&events);
}

int main(void) {
    (void)signal(SIGPIPE, SIG_IGN);
    Err err = {0};
    server = http_server_start(handle, NULL);
    elsewhere = http_server_start(handle_elsewhere, NULL);
    if (!server || !elsewhere || http_open(&http, 4, &err) != ERR_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),       cmocka_unit_test(test_misbehaviour),
        cmocka_unit_test(test_sink),        cmocka_unit_test(test_redirects),
        cmocka_unit_test(test_many),        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_retry_after), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_events),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    http_close(http);
    http_server_stop(server);
    http_server_stop(elsewhere);
    return failed;
}
