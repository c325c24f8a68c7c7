#include "eval/live.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "core/http.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/stop.h"
#include "data/synth_answer.h"

enum { GONE_MAX = 5, REFUSED_MAX = 5 };
#define LONGEST_WAIT 0.25

/* An ask from the moment it is taken until it is answered or given up. */
typedef struct {
    uint32_t ask;
    int attempts; /* begun */
    double not_before;
    bool used, flying;
    Buf body;
} Flight;

typedef struct {
    LiveBook *book;
    const LiveRule *rule;
    LiveRun *run;
    Http *http;
    Flight flights[LIVE_CONCURRENCY_MAX];
    double started;
    struct {
        double allowed, pause_until, lowered_at; /* requests at a time; none before; when that was halved */
        double mean_s;                           /* of an answer */
        int gone, refused;                       /* in a row */
        uint64_t answers;
    } models[EXPERTS_MAX + 1]; /* in this run: the experts, and the judge behind them */
    Progress progress;
} Engine;

static const LiveView *view_of(const Engine *e) {
    return live_book_view(e->book);
}

static const Endpoint *endpoint_of(const Engine *e, const Flight *f) {
    return live_book_endpoint(e->book, f->ask);
}

static size_t model_of(const Engine *e, uint32_t ask) {
    const LiveView *v = view_of(e);
    return v->asks[ask].judge ? EXPERTS_MAX : v->asks[ask].cell % (uint32_t)v->E;
}

static void free_flight(Flight *f) {
    buf_free(&f->body);
    *f = (Flight){0};
}

static size_t count_flights(const Engine *e, bool flying) {
    size_t n = 0;
    for (size_t i = 0; i < LIVE_CONCURRENCY_MAX; i++)
        n += e->flights[i].used && (!flying || e->flights[i].flying);
    return n;
}

static double time_left(const Engine *e) {
    return e->rule->minutes > 0 ? 60 * e->rule->minutes - (progress_clock() - e->started) : HUGE_VAL;
}

static const char *limit_of(const Engine *e, uint32_t ask) {
    const char *limit = live_book_limit(e->book, ask, &e->rule->limits);
    return limit ? limit : time_left(e) <= 0 ? "time" : NULL;
}

/* ---- sending ---- */

static ErrCode start(Engine *e, Flight *f, Err *err) {
    static const char *const HEADERS[] = {"Content-Type: application/json", "Accept: application/json"};
    const Endpoint *p = endpoint_of(e, f);
    const HttpRequest request = {.method = "POST",
                                 .url = p->url,
                                 .headers = HEADERS,
                                 .header_count = 2,
                                 .secret = p->secret,
                                 .body = f->body.data,
                                 .body_bytes = f->body.len,
                                 .connect_s = p->connect_s,
                                 .total_s = fmin(p->timeout_s, fmax(time_left(e), 1e-3)),
                                 .once = true,
                                 .tag = f};
    TRY(http_start(e->http, &request, err));
    f->flying = true;
    f->attempts++;
    e->run->requests++;
    return ERR_OK;
}

/* Takes asks as far as flights are free; *e->run->stopped names the limit that is in the way. */
static ErrCode take_asks(Engine *e, Err *err) {
    const size_t allowed = (size_t)e->rule->concurrency;
    uint32_t ask;
    for (size_t i = 0; i < LIVE_CONCURRENCY_MAX && count_flights(e, false) < allowed; i++) {
        Flight *f = &e->flights[i];
        if (f->used) continue;
        if (!live_book_next(e->book, &ask)) break;
        *f = (Flight){.ask = ask, .used = true};
        const ErrCode rc = live_book_body(e->book, ask, &f->body, err);
        const char *limit = rc == ERR_OK ? limit_of(e, ask) : NULL;
        if (rc == ERR_OK && !limit) continue;
        live_book_return(e->book, ask);
        free_flight(f);
        TRY(rc);
        e->run->stopped =
            limit; /* unless what is on its way turns out cheaper: asked again when it is here */
        break;
    }
    return ERR_OK;
}

/* A retry for which the limits have no room; in the next run it may have. */
static void abandon(Engine *e, Flight *f, const char *limit) {
    e->run->stopped = limit;
    live_book_gone(e->book, f->ask);
    free_flight(f);
}

/* Whether a flight's time has come; where time is up, that of all has. */
static bool is_ready(const Engine *e, const Flight *f, double now) {
    if (!f->used || f->flying) return false;
    return time_left(e) <= 0 || (f->not_before <= now && e->models[model_of(e, f->ask)].pause_until <= now);
}

static ErrCode send_ready(Engine *e, Err *err) {
    const double now = progress_clock();
    Flight *ready[LIVE_CONCURRENCY_MAX];
    size_t count = 0, flying = 0, of[EXPERTS_MAX + 1] = {0};
    for (size_t i = 0; i < LIVE_CONCURRENCY_MAX; i++) {
        if (!e->flights[i].flying) continue;
        flying++;
        of[model_of(e, e->flights[i].ask)]++;
    }
    for (size_t i = 0; i < LIVE_CONCURRENCY_MAX; i++) {
        Flight *f = &e->flights[i];
        if (!is_ready(e, f, now)) continue;
        const size_t x = model_of(e, f->ask);
        const char *limit = limit_of(e, f->ask);
        if (limit) {
            e->run->stopped = limit; /* what is on its way may turn out cheaper */
            if (flying + count == 0 || time_left(e) <= 0) abandon(e, f, limit);
            continue;
        }
        if ((double)of[x] >= fmax(1, floor(e->models[x].allowed))) continue;
        TRY(live_book_sent(e->book, f->ask, err));
        ready[count++] = f;
        of[x]++;
    }
    if (count) TRY(live_book_sync(e->book, err));
    for (size_t i = 0; i < count; i++) TRY(start(e, ready[i], err));
    return ERR_OK;
}

/* Writes down what is about to be sent, makes that durable, and sends it. */
static ErrCode send_some(Engine *e, Err *err) {
    e->run->stopped = NULL;
    TRY(take_asks(e, err));
    return send_ready(e, err);
}

/* ---- answers ---- */

/* The endpoint, the status and what the server says. */
static void describe(Err *why, const Endpoint *p, HttpAnswer *a) {
    if (a->outcome != HTTP_DONE) {
        *why = a->why;
        return;
    }
    char shown[304];
    synth_answer_error(shown, 300, a->body.data, a->body.len);
    (void)err_set(why, ERR_IO, "%s answers with status %d%s%s", p->url, a->status, shown[0] ? ": " : "",
                  shown);
}

static bool is_success(const HttpAnswer *a) {
    return a->outcome == HTTP_DONE && a->status >= 200 && a->status <= 299;
}

/* Nothing that is asked there can be answered. */
static bool is_fatal(const HttpAnswer *a) {
    if (a->outcome == HTTP_REFUSED || a->outcome == HTTP_FAILED) return true;
    if (a->outcome != HTTP_DONE) return false;
    return a->status == 401 || a->status == 403 || a->status == 404 || a->status == 405 ||
           (a->status >= 300 && a->status <= 399) || a->status == 501 || a->status == 505;
}

static void slow_down(Engine *e, size_t x, double pause) {
    const double now = progress_clock();
    e->run->throttled++;
    e->models[x].pause_until = fmax(e->models[x].pause_until, now + pause);
    if (now - e->models[x].lowered_at < fmax(1, e->models[x].mean_s)) return; /* one storm, one halving */
    e->models[x].lowered_at = now;
    e->models[x].allowed = fmax(1, e->models[x].allowed / 2);
}

static double backoff(const Engine *e, const Flight *f) {
    const double grown = fmin(e->rule->longest_s, e->rule->pause_s * pow(2, f->attempts - 1));
    const uint64_t key = rng_key(e->rule->seed, "live backoff", f->ask);
    return grown * (0.5 + 0.5 * rng_uniform(key, (uint64_t)f->attempts));
}

/* A model that has refused everything so far is asked in a way it does not understand: not a matter of one question, and
 * not to be kept. */
static ErrCode settle_refusal(Engine *e, Flight *f, const Err *why, Err *err) {
    const uint32_t ask = f->ask;
    const size_t x = model_of(e, ask);
    free_flight(f);
    TRY(live_book_refused(e->book, ask, why->msg,
                          e->models[x].answers > 0 && e->models[x].refused + 1 < REFUSED_MAX, err));
    e->run->refused++;
    if (++e->models[x].refused < REFUSED_MAX) return ERR_OK;
    return err_set(err, ERR_IO, "%d questions in a row were refused: %s", REFUSED_MAX, why->msg);
}

static ErrCode give_up(Engine *e, Flight *f, const Err *why, Err *err) {
    const size_t x = model_of(e, f->ask);
    live_book_gone(e->book, f->ask);
    free_flight(f);
    e->run->gone++;
    if (++e->models[x].gone < GONE_MAX) return ERR_OK;
    return err_set(err, ERR_IO, "%d questions in a row got no answer in %lld attempts: %s", GONE_MAX,
                   (long long)e->rule->attempts, why->msg);
}

static ErrCode settle_failure(Engine *e, Flight *f, HttpAnswer *a, const Err *why, Err *err) {
    const bool answered = a->outcome == HTTP_DONE;
    const bool garbled = is_success(a) || a->outcome == HTTP_TOO_LARGE;
    /* Servers charge for answers, not for errors and for connections that were never made. */
    const bool lost = garbled || a->outcome == HTTP_TIMEOUT || a->outcome == HTTP_CUT;
    const Endpoint *p = endpoint_of(e, f);
    if (why->code == ERR_MEMORY) return err_set(err, ERR_MEMORY, "%s", why->msg);
    if (!garbled && !is_fatal(a) && !http_may_retry(a)) return settle_refusal(e, f, why, err);
    TRY(live_book_failed(e->book, f->ask, lost, err));
    if (is_fatal(a)) {
        const bool key = answered && (a->status == 401 || a->status == 403);
        return err_set(err, ERR_IO, "%s%s", why->msg,
                       !key        ? ""
                       : p->secret ? " (is the key the right one?)"
                                   : " (no key was sent: name its variable in api_key_env)");
    }
    const double asked = answered ? http_retry_after(a) : -1;
    if (asked > e->rule->retry_after_s)
        return err_set(err, ERR_IO,
                       "%s; it asks to wait for %.0f s, more than %.0f; the same command goes on later",
                       why->msg, asked, e->rule->retry_after_s);
    if (time_left(e) <= 0) { /* cut off by the limit of time: not the server's fault */
        abandon(e, f, "time");
        return ERR_OK;
    }
    if (f->attempts >= e->rule->attempts) return give_up(e, f, why, err);
    if (answered && a->status == 429) slow_down(e, model_of(e, f->ask), fmax(asked, 0));
    e->run->retries++;
    f->not_before = progress_clock() + fmax(backoff(e, f), asked);
    return ERR_OK;
}

static ErrCode settle_completion(Engine *e, Flight *f, SynthAnswer *answer, double seconds, Err *err) {
    endpoint_hide(endpoint_of(e, f), answer->content.data, answer->content.len);
    const LiveSaid said = {.text = answer->content.data ? answer->content.data : "",
                           .n = answer->content.len,
                           .in = answer->tokens_in,
                           .out = answer->tokens_out,
                           .counted = answer->counted,
                           .cut = answer->cut,
                           .seconds = seconds};
    const uint32_t ask = f->ask;
    const size_t x = model_of(e, ask);
    TRY(live_book_answered(e->book, ask, &said, err));
    free_flight(f);
    e->models[x].gone = e->models[x].refused = 0;
    e->models[x].answers++;
    e->models[x].mean_s += 0.1 * (seconds - e->models[x].mean_s);
    e->models[x].allowed =
        fmin((double)e->rule->concurrency, e->models[x].allowed + 1 / e->models[x].allowed);
    return ERR_OK;
}

static ErrCode settle(Engine *e, HttpAnswer *a, Err *err) {
    Flight *f = a->tag;
    const Endpoint *p = endpoint_of(e, f);
    SynthAnswer answer = {0};
    Err why = {0};
    f->flying = false;
    endpoint_hide(p, a->body.data, a->body.len);
    ErrCode rc = is_success(a) ? synth_answer_parse(&answer, a->body.data, a->body.len, &why) : ERR_IO;
    if (is_success(a) && rc == ERR_OK && !answer.content.len && !answer.ended)
        rc = err_set(&why, ERR_FORMAT, "a completion without a text and without a reason why it ends");
    if (is_success(a) && rc == ERR_OK) {
        rc = settle_completion(e, f, &answer, a->seconds, err);
    } else {
        if (is_success(a))
            (void)err_context(&why, why.code, "%s", p->url);
        else
            describe(&why, p, a);
        endpoint_hide(p, why.msg, strlen(why.msg)); /* escaped in JSON it looked otherwise */
        rc = settle_failure(e, f, a, &why, err);
    }
    synth_answer_free(&answer);
    return rc;
}

/* ---- the run ---- */

static void show(Engine *e) {
    if (!progress_due(&e->progress)) return;
    const LiveView *v = view_of(e);
    e->progress.total = v->wanted; /* grows: judgements come as answers do */
    progress_update(&e->progress, v->done, "%llu of %llu answers  cost %.4f  %llu requests, %zu at a time",
                    (unsigned long long)v->done, (unsigned long long)v->wanted,
                    v->spent.cost + v->judged.cost + v->lost.cost, (unsigned long long)v->requests,
                    count_flights(e, true));
}

/* Seconds until something can be sent that cannot now. */
static double next_start(const Engine *e) {
    const double now = progress_clock();
    double wait = fmax(fmin(LONGEST_WAIT, time_left(e)), 0.002);
    for (size_t i = 0; i < LIVE_CONCURRENCY_MAX; i++) {
        const Flight *f = &e->flights[i];
        if (!f->used || f->flying) continue;
        const double when = fmax(f->not_before, e->models[model_of(e, f->ask)].pause_until);
        wait = fmin(wait, fmax(when - now, 0.002));
    }
    return wait;
}

/* Takes what has arrived, waiting for some time for the first. */
static ErrCode receive(Engine *e, double seconds, Err *err) {
    HttpAnswer answer;
    bool got = true, any = false;
    ErrCode rc = ERR_OK;
    if (http_pending(e->http) == 0) { /* all wait for their next attempt; a signal ends the nap */
        const struct timespec nap = {0, (long)(1e9 * fmin(seconds, 0.9))};
        (void)nanosleep(&nap, NULL);
        return stop_requested() ? err_set(err, ERR_INTERRUPTED, "interrupted") : ERR_OK;
    }
    while (rc == ERR_OK && got) {
        rc = http_wait(e->http, any ? 0 : seconds, &answer, &got, err);
        if (rc != ERR_OK || !got) break;
        any = true;
        rc = settle(e, &answer, err);
        http_answer_free(&answer);
    }
    Err sync = {0};
    const ErrCode synced =
        any ? live_book_sync(e->book, &sync) : ERR_OK; /* also before a failure is reported */
    if (rc == ERR_OK && synced != ERR_OK) rc = err_set(err, synced, "%s", sync.msg);
    return rc;
}

static ErrCode work(Engine *e, Err *err) {
    for (;;) {
        TRY(send_some(e, err));
        if (count_flights(e, false) == 0) return ERR_OK; /* done, or a limit */
        show(e);
        TRY(receive(e, next_start(e), err));
    }
}

ErrCode live_run(LiveRun *run, LiveBook *book, const LiveRule *rule, Err *err) {
    *run = (LiveRun){0};
    Engine *e;
    TRY(mem_new(&e, 1, sizeof *e, "the requests", err));
    e->book = book;
    e->rule = rule;
    e->run = run;
    for (size_t x = 0; x <= EXPERTS_MAX; x++) e->models[x].allowed = (double)rule->concurrency;
    e->started = progress_clock();
    ErrCode rc = http_open(&e->http, (size_t)rule->concurrency, err);
    if (rc == ERR_OK) {
        const LiveView *v = view_of(e);
        progress_begin(&e->progress, "live", v->wanted, v->done);
        rc = work(e, err);
        progress_end(&e->progress);
        Err sync = {0};
        if (live_book_sync(book, &sync) != ERR_OK && rc == ERR_OK)
            rc = err_set(err, sync.code, "%s", sync.msg);
    }
    run->seconds = progress_clock() - e->started;
    http_close(e->http);
    for (size_t i = 0; i < LIVE_CONCURRENCY_MAX; i++) free_flight(&e->flights[i]);
    mem_free(e);
    return rc;
}
