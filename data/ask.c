#include "data/ask.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "core/http.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/sse.h"
#include "core/stop.h"

#define ANSWER_MAX   ((size_t)16 << 20) /* bytes on the wire: a streamed token takes some 250 */
#define LONGEST_WAIT 0.25

/* A question from the moment it is taken until it is answered or given up. */
typedef struct {
    size_t slot;
    AskJob job;
    int attempts; /* begun */
    double not_before;
    bool used, flying;
    Sse sse; /* of a streamed answer */
    ChatAnswer streamed;
    bool has_events;
    Buf whole; /* an answer that is not a stream */
} Flight;

/* How fast a model is asked. */
typedef struct {
    double allowed, pause_until, lowered_at; /* requests at a time; none before; when that was halved */
    double mean_s;                           /* of an answer */
    int gone, refused;                       /* in a row */
    uint64_t answers;
    size_t flying;
} Pace;

typedef struct {
    const AskRule *rule;
    const AskClient *client;
    AskRun *run;
    Http *http;
    Flight flights[ASK_AT_ONCE_MAX];
    Pace *paces;             /* of each model */
    double started, sent_at; /* sent_at: when last something was sent, or looked at */
} Engine;

static Pace *pace_of(const Engine *e, const Flight *f) {
    return &e->paces[f->job.model];
}

static void forget_answer(Flight *f) {
    sse_free(&f->sse);
    chat_answer_free(&f->streamed);
    buf_clear(&f->whole);
    f->has_events = false;
}

static void free_flight(Flight *f) {
    forget_answer(f);
    buf_free(&f->whole);
    buf_free(&f->job.body);
    *f = (Flight){.slot = f->slot};
}

static size_t count_used(const Engine *e) {
    size_t n = 0;
    for (size_t i = 0; i < e->rule->at_once; i++) n += e->flights[i].used;
    return n;
}

static size_t count_flying(const Engine *e) {
    size_t n = 0;
    for (size_t m = 0; m < e->rule->models; m++) n += e->paces[m].flying;
    return n;
}

/* ---- limits ---- */

const char *ask_limit(const AskLimits *l, uint64_t requests, const ChatSpend *sum) {
    if (l->requests && requests >= (uint64_t)l->requests) return "requests";
    if (l->tokens && sum->in + sum->out > l->tokens) return "tokens";
    return l->cost > 0 && sum->cost > l->cost ? "cost" : NULL;
}

static double time_left(const Engine *e) {
    return e->rule->minutes > 0 ? 60 * e->rule->minutes - (progress_clock() - e->started) : HUGE_VAL;
}

/* One that would probably not be answered in time would be paid for nothing. */
static const char *limit_of(const Engine *e, const Flight *f) {
    const char *limit = e->client->limit(e->client->arg, f->slot);
    return limit ? limit : time_left(e) <= pace_of(e, f)->mean_s ? "time" : NULL;
}

/* ---- sending ---- */

static ErrCode take_event(void *arg, const char *data, size_t n, Err *err) {
    Flight *f = arg;
    f->has_events = true;
    return chat_event(&f->streamed, data, n, err);
}

static ErrCode take_piece(void *arg, const HttpAnswer *answer, const char *bytes, size_t n, Err *err) {
    Flight *f = arg;
    const char *type = http_header(answer, "Content-Type");
    if (type && strncmp(type, "text/event-stream", 17) == 0)
        return sse_feed(&f->sse, bytes, n, take_event, f, err);
    buf_put(&f->whole, bytes, n);
    return buf_ok(&f->whole, err);
}

static ErrCode start(Engine *e, Flight *f, Err *err) {
    const Chat *c = f->job.chat;
    const char *const headers[] = {
        "Content-Type: application/json",
        c->stream ? "Accept: application/json, text/event-stream" : "Accept: application/json"};
    const HttpRequest request = {.method = "POST",
                                 .url = c->url,
                                 .headers = headers,
                                 .header_count = 2,
                                 .secret = c->secret,
                                 .body = f->job.body.data,
                                 .body_bytes = f->job.body.len,
                                 .max_bytes = ANSWER_MAX,
                                 .sink = take_piece,
                                 .arg = f,
                                 .redirect = HTTP_REDIRECT_ORIGIN,
                                 .connect_s = c->connect_s,
                                 .total_s = fmin(c->timeout_s, fmax(time_left(e), 1e-3)),
                                 .once = true,
                                 .tag = f};
    TRY(http_start(e->http, &request, err));
    f->attempts++;
    e->run->requests++;
    return ERR_OK;
}

/* Takes questions as far as slots are free; run->stopped names the limit that is in the way. */
static ErrCode take_jobs(Engine *e, double now, Err *err) {
    for (size_t i = 0; i < e->rule->at_once; i++) {
        Flight *f = &e->flights[i];
        bool got = false;
        if (f->used) continue;
        const ErrCode rc = e->client->next(e->client->arg, i, &f->job, &got, err);
        f->used = rc == ERR_OK && got;
        f->not_before = now;
        const char *limit = f->used ? limit_of(e, f) : NULL;
        if (f->used && !limit) continue;
        if (limit) e->client->put_back(e->client->arg, i, false);
        free_flight(f);
        TRY(rc);
        if (limit)
            e->run->stopped = limit; /* unless what is on its way turns out cheaper: asked again then */
        break;
    }
    return ERR_OK;
}

/* A retry for which the limits have no room. */
static void abandon(Engine *e, Flight *f, const char *limit) {
    e->run->stopped = limit;
    e->client->put_back(e->client->arg, f->slot, true);
    free_flight(f);
}

/* The one that has waited longest of those that may be sent, or NULL; where time is up, nobody waits for it. */
static Flight *next_ready(Engine *e, double now) {
    Flight *first = NULL;
    const bool up = time_left(e) <= 0;
    for (size_t i = 0; i < e->rule->at_once; i++) {
        Flight *f = &e->flights[i];
        if (!f->used || f->flying || (first && f->not_before >= first->not_before)) continue;
        const Pace *p = pace_of(e, f);
        const bool room = (double)p->flying < fmax(1, floor(p->allowed));
        if (up || (room && f->not_before <= now && p->pause_until <= now)) first = f;
    }
    return first;
}

/* Writes down what is about to be sent, makes that durable, and sends it. */
static ErrCode send_some(Engine *e, Err *err) {
    const double now = progress_clock();
    Flight *ready[ASK_AT_ONCE_MAX], *f;
    size_t count = 0;
    e->sent_at = now;
    e->run->stopped = NULL;
    TRY(take_jobs(e, now, err));
    while ((f = next_ready(e, now)) != NULL) {
        const char *limit = limit_of(e, f);
        if (limit) {
            e->run->stopped = limit;
            if (count_flying(e) && time_left(e) > 0) break; /* what is on its way may turn out cheaper */
            abandon(e, f, limit);
            continue;
        }
        TRY(e->client->sent(e->client->arg, f->slot, err));
        f->flying = true;
        pace_of(e, f)->flying++;
        ready[count++] = f;
    }
    if (count) TRY(e->client->sync(e->client->arg, err));
    for (size_t i = 0; i < count; i++) TRY(start(e, ready[i], err));
    return ERR_OK;
}

/* ---- answers ---- */

static bool is_success(const HttpAnswer *a) {
    return a->outcome == HTTP_DONE && a->status >= 200 && a->status <= 299;
}

/* Nothing that is asked there can be answered. */
static bool is_fatal(const HttpAnswer *a) {
    if (a->outcome != HTTP_DONE) return a->outcome == HTTP_REFUSED || a->outcome == HTTP_FAILED;
    const int s = a->status;
    if (s == 429 && a->body.data && strstr(a->body.data, "insufficient_quota")) return true;
    return (s >= 300 && s <= 399) || (s >= 401 && s <= 405) || s == 501 || s == 505;
}

/* What went wrong, where, and what the server says about it. */
static void describe(Err *why, const HttpAnswer *a) {
    char shown[304];
    if (a->outcome != HTTP_DONE) {
        *why = a->why;
        return;
    }
    Buf url = {0};
    http_put_url(&url, a->url ? a->url : "");
    const char *where = url.failed ? "the endpoint" : url.data;
    if (is_success(a)) {
        (void)err_context(why, why->code, "%s", where);
    } else {
        chat_error(shown, 300, a->body.data, a->body.len);
        (void)err_set(why, ERR_IO, "%s answers with status %d%s%s", where, a->status, shown[0] ? ": " : "",
                      shown);
    }
    buf_free(&url);
}

/* Whether the flight holds a completion: whole, or a stream that was lost behind something of use (it was paid). Else *why is
 * what is wrong with it. */
static bool find_completion(const Engine *e, Flight *f, const HttpAnswer *a, ChatAnswer *out, Err *why) {
    *out = (ChatAnswer){0};
    if (!f->has_events) {
        if (!is_success(a) || chat_answer(out, f->whole.data, f->whole.len, why) != ERR_OK) return false;
        if (out->content.len || out->ended) return true;
        (void)err_set(why, ERR_FORMAT, "a completion without a text and without a reason why it ends");
        return false;
    }
    const bool ended = is_success(a) && f->streamed.ended;
    if (!ended && !(e->client->keeps && e->client->keeps(e->client->arg, f->slot, &f->streamed.content))) {
        (void)err_set(why, ERR_FORMAT, "the stream ended before the answer did");
        return false;
    }
    *out = f->streamed;
    f->streamed = (ChatAnswer){0};
    return true;
}

static double backoff(const Engine *e, const Flight *f) {
    const double grown = fmin(e->rule->longest_s, e->rule->pause_s * pow(2, f->attempts - 1));
    const uint64_t key = rng_key(e->rule->seed, "backoff", f->job.key);
    return grown * (0.5 + 0.5 * rng_uniform(key, (uint64_t)f->attempts));
}

static void slow_down(Engine *e, Pace *p, double pause) {
    const double now = progress_clock();
    e->run->throttled++;
    p->pause_until = fmax(p->pause_until, now + pause);
    if (now - p->lowered_at < fmax(1, p->mean_s)) return; /* one storm, one halving */
    p->lowered_at = now;
    p->allowed = fmax(1, p->allowed / 2);
}

static ErrCode settle_completion(Engine *e, Flight *f, ChatAnswer *answer, double seconds, Err *err) {
    Pace *p = pace_of(e, f);
    chat_hide(f->job.chat, answer->content.data, answer->content.len);
    TRY(e->client->answered(e->client->arg, f->slot, answer, seconds, err));
    free_flight(f);
    p->gone = p->refused = 0;
    p->answers++;
    e->run->answers++;
    p->mean_s = p->mean_s > 0 ? 0.8 * p->mean_s + 0.2 * seconds : seconds;
    p->allowed = fmin((double)e->rule->at_once, p->allowed + 1 / p->allowed);
    return ERR_OK;
}

static ErrCode settle_refusal(Engine *e, Flight *f, const Err *why, Err *err) {
    Pace *p = pace_of(e, f);
    free_flight(f);
    e->run->refused++;
    p->refused++;
    return e->client->refused(e->client->arg, f->slot, why->msg, p->refused,
                              p->answers > 0 && p->refused < ASK_IN_A_ROW_MAX, err);
}

static ErrCode give_up(Engine *e, Flight *f, const Err *why, Err *err) {
    Pace *p = pace_of(e, f);
    free_flight(f);
    e->run->gone++;
    p->gone++;
    return e->client->gone(e->client->arg, f->slot, why->msg, p->gone, err);
}

/* An answer that is not a completion. */
static ErrCode settle_failure(Engine *e, Flight *f, const HttpAnswer *a, const Err *why, Err *err) {
    const bool answered = a->outcome == HTTP_DONE;
    const bool garbled = is_success(a) || a->outcome == HTTP_SINK || a->outcome == HTTP_TOO_LARGE;
    /* Servers charge for answers, not for errors and for connections that were never made. */
    const bool lost = garbled || a->outcome == HTTP_TIMEOUT || a->outcome == HTTP_CUT;
    if (why->code == ERR_MEMORY) return err_set(err, ERR_MEMORY, "%s", why->msg);
    if (!garbled && !is_fatal(a) && !http_may_retry(a)) return settle_refusal(e, f, why, err);
    TRY(e->client->failed(e->client->arg, f->slot, lost, err));
    if (is_fatal(a)) {
        const bool key = answered && (a->status == 401 || a->status == 403);
        return err_set(err, ERR_IO, "%s%s", why->msg,
                       !key                  ? ""
                       : f->job.chat->secret ? " (is the key the right one?)"
                                             : e->rule->unkeyed);
    }
    const double asked = answered ? http_retry_after(a) : -1;
    if (asked > e->rule->retry_after_s)
        return err_set(err, ERR_IO, "%s; it asks to wait for %.0f s, %s %.0f; the same command goes on later",
                       why->msg, asked, e->rule->allows, e->rule->retry_after_s);
    if (time_left(e) <= 0) { /* cut off by the limit of time: not the server's fault */
        abandon(e, f, "time");
        return ERR_OK;
    }
    if (f->attempts >= e->rule->attempts) return give_up(e, f, why, err);
    if (answered && a->status == 429) slow_down(e, pace_of(e, f), fmax(asked, 0));
    e->run->retries++;
    e->run->failure = *why;
    f->not_before = progress_clock() + fmax(backoff(e, f), asked);
    return ERR_OK;
}

static ErrCode settle(Engine *e, HttpAnswer *a, Err *err) {
    Flight *f = a->tag;
    const Chat *c = f->job.chat;
    ChatAnswer completion;
    Err why = {0};
    ErrCode rc;
    f->flying = false;
    pace_of(e, f)->flying--;
    chat_hide(c, a->body.data, a->body.len);
    chat_hide(c, f->whole.data, f->whole.len);
    if (find_completion(e, f, a, &completion, &why)) {
        rc = settle_completion(e, f, &completion, a->seconds, err);
    } else {
        forget_answer(f);
        describe(&why, a);
        chat_hide(c, why.msg, strlen(why.msg)); /* escaped in JSON it looked otherwise */
        rc = settle_failure(e, f, a, &why, err);
    }
    chat_answer_free(&completion);
    return rc;
}

/* ---- the run ---- */

/* Seconds until something can be sent that cannot now; what waits for an answer to make room is woken by that. */
static double next_start(const Engine *e) {
    const double now = progress_clock();
    const bool flying = count_flying(e) > 0;
    double wait = fmax(fmin(LONGEST_WAIT, time_left(e)), 0.002);
    for (size_t i = 0; i < e->rule->at_once; i++) {
        const Flight *f = &e->flights[i];
        if (!f->used || f->flying) continue;
        const double when = fmax(f->not_before, pace_of(e, f)->pause_until);
        if (when > e->sent_at || !flying) wait = fmin(wait, fmax(when - now, 0.002));
    }
    return wait;
}

/* Also before a failure is reported, which is the one that counts. */
static ErrCode sync_after(Engine *e, ErrCode rc, Err *err) {
    Err sync = {0};
    const ErrCode synced = e->client->sync(e->client->arg, &sync);
    return rc == ERR_OK && synced != ERR_OK ? err_set(err, synced, "%s", sync.msg) : rc;
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
    return any ? sync_after(e, rc, err) : rc;
}

static ErrCode work(Engine *e, Err *err) {
    const AskClient *c = e->client;
    for (;;) {
        bool done = false;
        if (c->turn) TRY(c->turn(c->arg, &done, err));
        if (done) {
            e->run->stopped = NULL;
            return ERR_OK;
        }
        TRY(send_some(e, err));
        if (count_used(e) == 0) return ERR_OK; /* all is asked, or a limit */
        c->show(c->arg, count_flying(e));
        TRY(receive(e, next_start(e), err));
    }
}

ErrCode ask_run(AskRun *run, const AskRule *rule, const AskClient *client, Err *err) {
    *run = (AskRun){0};
    Engine *e;
    TRY(mem_new(&e, 1, sizeof *e, "the requests", err));
    e->rule = rule;
    e->client = client;
    e->run = run;
    e->started = progress_clock();
    ErrCode rc = mem_new(&e->paces, rule->models, sizeof *e->paces, "the requests", err);
    for (size_t m = 0; rc == ERR_OK && m < rule->models; m++) e->paces[m].allowed = (double)rule->at_once;
    for (size_t i = 0; i < rule->at_once; i++) e->flights[i].slot = i;
    if (rc == ERR_OK) rc = http_open(&e->http, rule->at_once, err);
    if (rc == ERR_OK) rc = sync_after(e, work(e, err), err);
    run->seconds = progress_clock() - e->started;
    http_close(e->http);
    for (size_t i = 0; i < rule->at_once; i++) free_flight(&e->flights[i]);
    mem_free(e->paces);
    mem_free(e);
    return rc;
}
