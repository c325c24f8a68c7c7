#include "data/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/http.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/sse.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/scan.h"
#include "data/synth_answer.h"
#include "data/synth_rows.h"

enum {
    BARREN_MAX = 20,
    GONE_MAX = 5,
    REFUSED_MAX = 5,
    EXAMPLES_MAX = 5000,
    EXAMPLE_BYTES = 4000,
    KEY_HIDDEN_MIN = 8
};
#define ANSWER_MAX ((size_t)16 << 20) /* bytes on the wire: a streamed token takes some 250 */

/* A job from the moment it is taken until it is answered or given up. */
typedef struct {
    SynthJob job;
    int attempts; /* begun */
    double not_before;
    bool used, flying;
    Buf body;
    SynthSpend most;
    /* Of a streamed answer. */
    Sse sse;
    SynthAnswer streamed;
    Buf whole; /* an answer that is not a stream */
    bool has_events;
} Flight;

typedef struct {
    const SynthPlan *plan;
    SynthLedger *ledger;
    Http *http;
    Flight flights[SYNTH_PLAN_CONCURRENCY_MAX];
    char *secrets[2], *urls[2]; /* of writer and judge */
    double allowed, pause_until,
        lowered_at; /* requests at a time; nothing is sent before; when that was halved */
    double started, mean_s;
    uint64_t retries, throttled, cut;
    int barren, gone, refused; /* in a row */
    const char *stopped;
    Progress progress;
} Engine;

static const SynthModel *model_of(const Engine *e, const SynthJob *job) {
    return job->kind == SYNTH_JOB_JUDGE ? &e->plan->judge : &e->plan->writer;
}

/* ---- keys ---- */

static const char *environment(const char *name) {
    const char *value = getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody sets the environment */
    return value && *value ? value : NULL;
}

const char *synth_key_name(const SynthModel *m) {
    if (m->key_env) return environment(m->key_env) ? m->key_env : NULL;
    if (environment("ROUTER_API_KEY")) return "ROUTER_API_KEY";
    if (environment("OPENAI_API_KEY") && http_same_origin(m->base_url, "https://api.openai.com"))
        return "OPENAI_API_KEY";
    return NULL;
}

static ErrCode make_secret(char **out, const SynthModel *m, Err *err) {
    const char *name = synth_key_name(m);
    *out = NULL;
    if (!name && m->key_env)
        return err_set(err, ERR_ARGUMENT, "the plan takes its key from %s, which is not set", m->key_env);
    if (!name) return ERR_OK; /* local servers need none */
    Buf text = {0};
    buf_printf(&text, "Authorization: Bearer %s", environment(name));
    *out = text.data;
    return buf_ok(&text, err);
}

/* A server may repeat the key that it was sent ("incorrect key sk-..."). */
static void hide(const char *secret, Buf *text) {
    const char *key = secret ? secret + strlen("Authorization: Bearer ") : "";
    const size_t n = strlen(key);
    if (n < KEY_HIDDEN_MIN) return; /* "none", "EMPTY": what local servers are given is no secret */
    for (size_t i = 0; i + n <= text->len;) {
        if (memcmp(text->data + i, key, n) == 0) {
            memset(text->data + i, '*', n);
            i += n;
        } else {
            i++;
        }
    }
}

/* ---- sending ---- */

static ErrCode take_piece(void *arg, const HttpAnswer *answer, const char *bytes, size_t n, Err *err);

static HttpRequest request_of(Engine *e, Flight *f) {
    static const char *const HEADERS[] = {"Content-Type: application/json",
                                          "Accept: application/json, text/event-stream"};
    const SynthModel *m = model_of(e, &f->job);
    const int judge = f->job.kind == SYNTH_JOB_JUDGE;
    return (HttpRequest){.method = "POST",
                         .url = e->urls[judge],
                         .headers = HEADERS,
                         .header_count = 2,
                         .secret = e->secrets[judge],
                         .body = f->body.data,
                         .body_bytes = f->body.len,
                         .max_bytes = ANSWER_MAX,
                         .sink = take_piece,
                         .arg = f,
                         .redirect = HTTP_REDIRECT_ORIGIN,
                         .connect_s = m->connect_s,
                         .total_s = m->timeout_s,
                         .once = true, /* so that none is paid twice */
                         .tag = f};
}

static ErrCode take_event(void *arg, const char *data, size_t n, Err *err) {
    Flight *f = arg;
    f->has_events = true;
    return synth_answer_event(&f->streamed, data, n, err);
}

static ErrCode take_piece(void *arg, const HttpAnswer *answer, const char *bytes, size_t n, Err *err) {
    Flight *f = arg;
    const char *type = http_header(answer, "Content-Type");
    if (type && strncmp(type, "text/event-stream", 17) == 0)
        return sse_feed(&f->sse, bytes, n, take_event, f, err);
    buf_put(&f->whole, bytes, n);
    return buf_ok(&f->whole, err);
}

static void forget_answer(Flight *f) {
    sse_free(&f->sse);
    synth_answer_free(&f->streamed);
    buf_clear(&f->whole);
    f->has_events = false;
}

static void free_flight(Flight *f) {
    forget_answer(f);
    buf_free(&f->whole);
    buf_free(&f->body);
    *f = (Flight){0};
}

/* The limit that one more such request would break, or NULL. */
static const char *over_limit(const Engine *e, const SynthSpend *most) {
    const SynthPlan *p = e->plan;
    const SynthView *v = synth_ledger_view(e->ledger);
    const SynthSpend parts[] = {v->spent, v->lost, v->reserved, *most};
    double tokens = 0, cost = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        tokens += (double)parts[i].in + (double)parts[i].out;
        cost += parts[i].cost;
    }
    if (p->max_requests && v->requests >= (uint64_t)p->max_requests) return "requests";
    if (p->max_tokens && tokens > (double)p->max_tokens) return "tokens";
    if (p->max_cost > 0 && cost > p->max_cost) return "cost";
    /* One that would probably not be answered in time would be paid for nothing. */
    if (p->max_minutes > 0 && progress_clock() + e->mean_s - e->started > 60 * p->max_minutes) return "time";
    return NULL;
}

static size_t count_flights(const Engine *e, bool flying) {
    size_t n = 0;
    for (size_t i = 0; i < SYNTH_PLAN_CONCURRENCY_MAX; i++)
        n += e->flights[i].used && (!flying || e->flights[i].flying);
    return n;
}

static Flight *free_slot(Engine *e) {
    for (size_t i = 0; i < SYNTH_PLAN_CONCURRENCY_MAX; i++)
        if (!e->flights[i].used) return &e->flights[i];
    return NULL;
}

static ErrCode prepare(Engine *e, Flight *f, const SynthJob *job, Err *err) {
    const SynthModel *m = model_of(e, job);
    *f = (Flight){.job = *job, .used = true};
    TRY(synth_ledger_body(e->ledger, job, &f->body, err));
    f->most.in = synth_prompt_tokens(&f->body);
    f->most.out = m->max_tokens;
    f->most.cost = synth_plan_cost(m, (double)f->most.in, (double)f->most.out);
    return ERR_OK;
}

/* The one that waits longest of those whose pause is over, or NULL. */
static Flight *next_ready(Engine *e, double now) {
    Flight *first = NULL;
    for (size_t i = 0; i < SYNTH_PLAN_CONCURRENCY_MAX; i++) {
        Flight *f = &e->flights[i];
        if (f->used && !f->flying && f->not_before <= now && (!first || f->not_before < first->not_before))
            first = f;
    }
    return first;
}

/* Takes jobs as far as limits allow. */
static ErrCode take_jobs(Engine *e, size_t limit, double now, Err *err) {
    SynthJob job;
    while (count_flights(e, false) < limit && synth_ledger_next(e->ledger, &job)) {
        Flight *f = free_slot(e);
        const ErrCode rc = prepare(e, f, &job, err);
        const char *limit_name = rc == ERR_OK ? over_limit(e, &f->most) : NULL;
        if (rc != ERR_OK || limit_name) {
            synth_ledger_return(e->ledger, &job);
            free_flight(f);
            if (rc != ERR_OK) return rc;
            e->stopped =
                limit_name; /* unless what is on its way turns out cheaper: asked again when it is here */
            break;
        }
        e->stopped = NULL;
        f->not_before = now;
    }
    return ERR_OK;
}

/* Writes down what is about to be sent, makes that durable, and sends it. */
static ErrCode send_some(Engine *e, Err *err) {
    const size_t limit = (size_t)fmax(1, floor(e->allowed)), flying = count_flights(e, true);
    const double now = progress_clock();
    if (now < e->pause_until) return ERR_OK;
    TRY(take_jobs(e, limit, now, err));
    Flight *ready[SYNTH_PLAN_CONCURRENCY_MAX], *f;
    size_t count = 0;
    while (flying + count < limit && (f = next_ready(e, now)) != NULL) {
        const char *limit_name = over_limit(e, &f->most);
        if (limit_name) { /* a retry that the budget has no room for */
            e->stopped = limit_name;
            synth_ledger_return(e->ledger, &f->job);
            free_flight(f);
            continue;
        }
        TRY(synth_ledger_sent(e->ledger, &f->job, f->most, err));
        f->flying = true;
        ready[count++] = f;
    }
    if (count) TRY(synth_ledger_sync(e->ledger, err));
    for (size_t i = 0; i < count; i++) {
        const HttpRequest request = request_of(e, ready[i]);
        ready[i]->attempts++;
        TRY(http_start(e->http, &request, err));
    }
    return ERR_OK;
}

/* ---- answers ---- */

static const char *key_of_list(SynthJobKind kind) {
    return kind == SYNTH_JOB_TOPICS ? "topics" : kind == SYNTH_JOB_ROWS ? "prompts" : "labels";
}

static void on_success(Engine *e, double seconds) {
    e->gone = 0;
    e->refused = 0;
    e->mean_s = e->mean_s > 0 ? 0.8 * e->mean_s + 0.2 * seconds : seconds;
    e->allowed = fmin((double)e->plan->concurrency, e->allowed + 1 / e->allowed);
}

/* Writes down a completion. A text without a list was paid like any other and is not asked for again. */
static ErrCode settle_completion(Engine *e, Flight *f, SynthAnswer *a, double seconds, Err *err) {
    const SynthModel *m = model_of(e, &f->job);
    cJSON *list = NULL;
    bool whole = false;
    Err why = {0};
    SynthSpend spent = f->most;
    if (a->counted) {
        spent = (SynthSpend){a->tokens_in, a->tokens_out, 0};
        spent.cost = synth_plan_cost(m, (double)a->tokens_in, (double)a->tokens_out);
    }
    hide(e->secrets[f->job.kind == SYNTH_JOB_JUDGE], &a->content);
    ErrCode rc =
        synth_answer_list(&list, &whole, a->content.data, a->content.len, key_of_list(f->job.kind), &why);
    if (rc == ERR_MEMORY) return err_set(err, rc, "%s", why.msg);
    e->cut += a->cut;
    e->barren = list ? 0 : e->barren + 1;
    rc = synth_ledger_answered(e->ledger, &f->job, spent, list, why.msg, err);
    cJSON_Delete(list);
    if (rc == ERR_OK && e->barren >= BARREN_MAX) {
        char shown[204];
        text_excerpt(shown, 200, a->content.data ? a->content.data : "", a->content.len);
        rc = err_set(err, ERR_FORMAT,
                     "%d answers in a row hold no JSON list; is \"%s\" able to give one? The last begins: %s",
                     e->barren, m->model, shown);
    }
    on_success(e, seconds);
    free_flight(f);
    return rc;
}

/* Whether the flight holds a completion: whole, or a stream that was lost behind some whole items (it was paid). Else *why is
 * what is wrong. */
static bool find_completion(Flight *f, const HttpAnswer *a, SynthAnswer *out, Err *why) {
    const bool answered = a->outcome == HTTP_DONE && a->status >= 200 && a->status <= 299;
    *out = (SynthAnswer){0};
    if (!f->has_events) {
        if (answered) return synth_answer_parse(out, f->whole.data, f->whole.len, why) == ERR_OK;
        return false;
    }
    if (!(answered && f->streamed.ended)) {
        cJSON *list = NULL;
        bool whole = false;
        const Buf *text = &f->streamed.content;
        const ErrCode rc =
            synth_answer_list(&list, &whole, text->data, text->len, key_of_list(f->job.kind), why);
        const int items = cJSON_GetArraySize(list);
        cJSON_Delete(list);
        if (rc != ERR_OK || items == 0 || f->job.kind == SYNTH_JOB_JUDGE) {
            if (a->outcome != HTTP_DONE)
                *why = a->why;
            else
                (void)err_set(why, ERR_FORMAT, "the stream ended before the answer did");
            return false;
        }
    }
    *out = f->streamed;
    f->streamed = (SynthAnswer){0};
    return true;
}

static double backoff(const Engine *e, const Flight *f) {
    const double grown = fmin(e->plan->longest_s, e->plan->first_s * pow(2, f->attempts - 1));
    const uint64_t key = rng_key((uint64_t)e->plan->seed, "backoff", f->job.i * 31 + (uint64_t)f->job.kind);
    return grown * (0.5 + 0.5 * rng_uniform(key, (uint64_t)f->attempts));
}

static void slow_down(Engine *e, double pause) {
    const double now = progress_clock();
    e->throttled++;
    e->pause_until = fmax(e->pause_until, now + pause);
    if (now - e->lowered_at < fmax(1, e->mean_s)) return; /* one storm, one halving */
    e->lowered_at = now;
    e->allowed = fmax(1, e->allowed / 2);
}

/* What the server says about a failure, after "HTTP 500: ". */
static void describe(Err *why, const HttpAnswer *a) {
    char shown[304];
    synth_answer_error(shown, 300, a->body.data, a->body.len);
    Buf url = {0};
    http_put_url(&url, a->url ? a->url : "");
    (void)err_set(why, ERR_IO, "%s answers with status %d%s%s", url.failed ? "the endpoint" : url.data,
                  a->status, shown[0] ? ": " : "", shown);
    buf_free(&url);
}

/* Failures that no later request can escape. */
static bool is_fatal(const HttpAnswer *a) {
    if (a->outcome != HTTP_DONE) return a->outcome == HTTP_REFUSED || a->outcome == HTTP_FAILED;
    const int s = a->status;
    if (s == 429 && a->body.data && strstr(a->body.data, "insufficient_quota")) return true;
    return s == 401 || s == 402 || s == 403 || s == 404 || s == 405 || (s >= 300 && s <= 399);
}

static ErrCode give_up(Engine *e, Flight *f, const Err *why, Err *err) {
    const SynthJob job = f->job;
    free_flight(f);
    TRY(synth_ledger_gone(e->ledger, &job, err));
    progress_note(&e->progress, "given up after %lld attempts: %s", (long long)e->plan->attempts, why->msg);
    if (++e->gone < GONE_MAX) return ERR_OK;
    return err_set(err, ERR_IO,
                   "%d requests in a row failed in all attempts: %s; the same command goes on later", e->gone,
                   why->msg);
}

/* An answer that is not a completion. */
static ErrCode settle_failure(Engine *e, Flight *f, const HttpAnswer *a, const Err *why, Err *err) {
    const bool answered = a->outcome == HTTP_DONE;
    const bool garbled = (answered && a->status >= 200 && a->status <= 299) || a->outcome == HTTP_SINK ||
                         a->outcome == HTTP_TOO_LARGE;
    /* Servers charge for answers, not for errors and for connections that were never made. */
    const bool lost = garbled || a->outcome == HTTP_TIMEOUT || a->outcome == HTTP_CUT;
    TRY(synth_ledger_failed(e->ledger, &f->job, lost, err));
    if (why->code == ERR_MEMORY) return err_set(err, ERR_MEMORY, "%s", why->msg);
    if (is_fatal(a)) {
        const bool key = answered && (a->status == 401 || a->status == 403);
        return err_set(err, ERR_IO, "%s%s", why->msg,
                       !key ? ""
                       : e->secrets[f->job.kind == SYNTH_JOB_JUDGE]
                           ? " (is the key the right one?)"
                           : " (no key was sent: set ROUTER_API_KEY)");
    }
    if (!garbled && !http_may_retry(a)) { /* this request is refused; others may not be */
        const SynthJob job = f->job;
        free_flight(f);
        TRY(synth_ledger_gone(e->ledger, &job, err));
        if (++e->refused < REFUSED_MAX) return ERR_OK;
        return err_set(err, ERR_IO, "%d requests in a row were refused: %s", e->refused, why->msg);
    }
    const double asked = answered ? http_retry_after(a) : -1;
    if (asked > e->plan->retry_after_s)
        return err_set(err, ERR_IO,
                       "%s; it asks to wait for %.0f s, the plan allows %.0f; the same command goes on later",
                       why->msg, asked, e->plan->retry_after_s);
    if (f->attempts >= e->plan->attempts) return give_up(e, f, why, err);
    const double pause = fmax(backoff(e, f), asked);
    if (answered && a->status == 429) slow_down(e, asked > 0 ? asked : 0);
    e->retries++;
    f->not_before = progress_clock() + pause;
    return ERR_OK;
}

static ErrCode settle(Engine *e, HttpAnswer *a, Err *err) {
    Flight *f = a->tag;
    SynthAnswer completion;
    Err why = {0};
    f->flying = false;
    hide(e->secrets[f->job.kind == SYNTH_JOB_JUDGE], &a->body);
    hide(e->secrets[f->job.kind == SYNTH_JOB_JUDGE], &f->whole);
    ErrCode rc;
    if (find_completion(f, a, &completion, &why)) {
        rc = settle_completion(e, f, &completion, a->seconds, err);
    } else {
        if (a->outcome != HTTP_DONE)
            why = a->why;
        else if (a->status < 200 || a->status > 299)
            describe(&why, a);
        else
            (void)err_context(&why, why.code, "%s", e->urls[f->job.kind == SYNTH_JOB_JUDGE]);
        forget_answer(f);
        rc = settle_failure(e, f, a, &why, err);
    }
    synth_answer_free(&completion);
    return rc;
}

/* ---- the run ---- */

static void show(Engine *e) {
    if (!progress_due(&e->progress)) return;
    const SynthView *v = synth_ledger_view(e->ledger);
    const double seconds = progress_clock() - e->progress.started;
    progress_update(&e->progress, v->row_count,
                    "%llu rows  %.1f rows/s  cost %.4f  %llu requests, %zu at a time",
                    (unsigned long long)v->row_count,
                    (double)(v->row_count - e->progress.start_done) / fmax(seconds, 1e-3),
                    v->spent.cost + v->lost.cost, (unsigned long long)v->requests, count_flights(e, true));
}

/* Seconds until something can be sent that cannot now. */
static double next_start(const Engine *e) {
    const double now = progress_clock();
    double wait = 0.25;
    for (size_t i = 0; i < SYNTH_PLAN_CONCURRENCY_MAX; i++) {
        const Flight *f = &e->flights[i];
        if (f->used && !f->flying) wait = fmin(wait, fmax(fmax(f->not_before, e->pause_until) - now, 0.002));
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
        any ? synth_ledger_sync(e->ledger, &sync) : ERR_OK; /* also before a failure is reported */
    if (rc == ERR_OK && synced != ERR_OK) rc = err_set(err, synced, "%s", sync.msg);
    return rc;
}

static ErrCode check_topics(const Engine *e, Err *err) {
    const size_t d = synth_ledger_without_topics(e->ledger);
    if (d == SIZE_MAX) return ERR_OK;
    return err_set(err, ERR_FORMAT,
                   "the model gave no list of topics for \"%s\" in %d attempts; name them in the plan",
                   e->plan->domains[d].name, SYNTH_LEDGER_TOPIC_TRIES);
}

static ErrCode work(Engine *e, Err *err) {
    for (;;) {
        TRY(synth_ledger_advance(e->ledger, false, err));
        if (synth_ledger_complete(e->ledger)) {
            e->stopped = NULL;
            return ERR_OK;
        }
        TRY(check_topics(e, err));
        if (e->plan->max_minutes > 0 && progress_clock() - e->started > 60 * e->plan->max_minutes) {
            e->stopped = "time";
            return ERR_OK;
        }
        TRY(send_some(e, err));
        if (count_flights(e, false) == 0) { /* a limit, or nothing is worth asking */
            if (e->stopped || progress_clock() >= e->pause_until) return ERR_OK;
        }
        show(e);
        TRY(receive(e, next_start(e), err));
    }
}

static ErrCode open_endpoint(Engine *e, int which, const SynthModel *m, Err *err) {
    Buf url = {0};
    size_t n = strlen(m->base_url);
    while (n && m->base_url[n - 1] == '/') n--;
    buf_put(&url, m->base_url, n);
    buf_puts(&url, "/chat/completions");
    e->urls[which] = url.data;
    TRY(buf_ok(&url, err));
    return make_secret(&e->secrets[which], m, err);
}

static ErrCode ask(Engine *e, SynthReport *report, Err *err) {
    const SynthView *v = synth_ledger_view(e->ledger);
    TRY(open_endpoint(e, 0, &e->plan->writer, err));
    if (e->plan->votes) TRY(open_endpoint(e, 1, &e->plan->judge, err));
    TRY(http_open(&e->http, (size_t)e->plan->concurrency, err));
    e->allowed = (double)e->plan->concurrency;
    e->started = progress_clock();
    TRY(synth_ledger_advance(e->ledger, false, err));
    progress_begin(&e->progress, "synth", report->wanted, v->row_count);
    ErrCode rc = work(e, err);
    progress_end(&e->progress);
    Err sync = {0};
    if (synth_ledger_sync(e->ledger, &sync) != ERR_OK && rc == ERR_OK)
        rc = err_set(err, sync.code, "%s", sync.msg);
    if (rc == ERR_INTERRUPTED)
        return err_set(err, rc,
                       "interrupted; %llu rows are in the journal, and the same command goes on from there",
                       (unsigned long long)v->row_count);
    return rc;
}

static void close_engine(Engine *e) {
    http_close(e->http);
    for (size_t i = 0; i < SYNTH_PLAN_CONCURRENCY_MAX; i++) free_flight(&e->flights[i]);
    for (int i = 0; i < 2; i++) {
        mem_free(e->secrets[i]);
        mem_free(e->urls[i]);
    }
    mem_free(e);
}

/* ---- what is given ---- */

typedef struct {
    const SynthPlan *plan;
    FlagList *examples; /* of each domain */
    uint64_t *seen;
    Near *near;
    const Inputs *inputs;
} Given;

static void sign_example(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)arg;
    (void)thread;
    if (row->record) dedup_signature(slot, row->record->text, row->record->text_len);
}

/* All rows are not to be repeated; of each label up to EXAMPLES_MAX are kept to be shown, each with the same chance. */
static ErrCode take_example(void *arg, const ScanRow *row, const void *slot, Err *err) {
    Given *g = arg;
    const Record *r = row->record;
    if (!r) return scan_bad_row(g->inputs, row, err);
    TRY(near_add(g->near, slot, err));
    if (!r->label || r->text_len > EXAMPLE_BYTES || memchr(r->text, 0, r->text_len)) return ERR_OK;
    for (size_t d = 0; d < g->plan->domain_count; d++) {
        if (strcmp(g->plan->domains[d].name, r->label) != 0) continue;
        FlagList *list = &g->examples[d];
        const uint64_t n = g->seen[d]++;
        if (list->count < EXAMPLES_MAX) return flags_list_add(list, r->text, r->text_len, err);
        const uint64_t at = rng_bits(rng_key((uint64_t)g->plan->seed, "examples", d), n) % (n + 1);
        if (at >= EXAMPLES_MAX) return ERR_OK;
        char *copy = mem_strndup(r->text, r->text_len);
        if (!copy) return err_set(err, ERR_MEMORY, "out of memory for an example");
        mem_free(list->items[at]);
        list->items[at] = copy;
        return ERR_OK;
    }
    return ERR_OK;
}

static ErrCode read_examples(Given *g, const SynthOptions *o, Err *err) {
    Inputs inputs = {0};
    g->inputs = &inputs;
    ErrCode rc = inputs_open(&inputs, o->examples, o->out, err);
    if (rc == ERR_OK)
        rc = scan_rows(&(Scan){.inputs = &inputs,
                               .record.label_optional = true,
                               .slot_bytes = sizeof(DedupSignature),
                               .work = sign_example,
                               .take = take_example,
                               .arg = g,
                               .threads = o->threads},
                       err);
    inputs_close(&inputs);
    g->inputs = NULL;
    return rc;
}

typedef struct {
    Given given;
    Inputs benchmarks;
    Overlap *overlap;
} Material;

static void close_material(Material *m) {
    for (size_t d = 0; m->given.examples && d < m->given.plan->domain_count; d++)
        flags_list_free(&m->given.examples[d]);
    mem_free(m->given.examples);
    mem_free(m->given.seen);
    near_close(m->given.near);
    overlap_close(m->overlap);
    inputs_close(&m->benchmarks);
}

static ErrCode open_material(Material *m, const SynthOptions *o, Err *err) {
    Given *g = &m->given;
    g->plan = o->plan;
    TRY(mem_new(&g->examples, o->plan->domain_count, sizeof *g->examples, "the examples", err));
    TRY(mem_new(&g->seen, o->plan->domain_count, sizeof *g->seen, "the examples", err));
    TRY(near_open(&g->near, o->plan->near, err));
    if (o->examples && o->examples->count) TRY(read_examples(g, o, err));
    if (!o->against || !o->against->count) return ERR_OK;
    Progress progress;
    TRY(inputs_open(&m->benchmarks, o->against, o->out, err));
    progress_begin(&progress, "benchmarks", 0, 0);
    const ErrCode rc =
        overlap_open(&m->overlap, &m->benchmarks, NULL, o->plan->near, o->threads, &progress, err);
    progress_end(&progress);
    return rc;
}

/* ---- results ---- */

static ErrCode fill_report(SynthReport *r, const Engine *e, Err *err) {
    const SynthView *v = synth_ledger_view(e->ledger);
    r->rows = v->row_count;
    r->requests = v->requests;
    r->answers = v->answers;
    r->gone = v->gone;
    r->retries = e->retries;
    r->throttled = e->throttled;
    r->cut = e->cut;
    r->spent = v->spent;
    r->lost = v->lost;
    r->lost.in += v->reserved.in; /* left on its way */
    r->lost.out += v->reserved.out;
    r->lost.cost += v->reserved.cost;
    r->complete = synth_ledger_complete(e->ledger);
    r->stopped = e->stopped;
    TRY(mem_new(&r->tallies, e->plan->domain_count, sizeof *r->tallies, "the report", err));
    memcpy(r->tallies, v->tallies, e->plan->domain_count * sizeof *r->tallies);
    return ERR_OK;
}

static uint64_t rows_wanted(const SynthPlan *p) {
    uint64_t sum = 0;
    for (size_t d = 0; d < p->domain_count; d++) sum += (uint64_t)p->domains[d].rows;
    return p->max_rows && sum > (uint64_t)p->max_rows ? (uint64_t)p->max_rows : sum;
}

static ErrCode check_prices(const SynthPlan *p, Err *err) {
    const bool priced = p->writer.price_in + p->writer.price_out + p->judge.price_in + p->judge.price_out > 0;
    if (!(p->max_cost > 0) || priced) return ERR_OK;
    return err_set(err, ERR_ARGUMENT,
                   "a limit of cost needs the prices of a million tokens: endpoint.price_in and .price_out");
}

ErrCode synth_run(SynthReport *report, const SynthOptions *o, Err *err) {
    *report = (SynthReport){.wanted = rows_wanted(o->plan)};
    Material material = {0};
    Buf journal = {0};
    Engine *e;
    TRY(check_prices(o->plan, err));
    TRY(mem_new(&e, 1, sizeof *e, "the requests", err));
    e->plan = o->plan;
    buf_printf(&journal, "%s.journal", o->out);
    ErrCode rc = buf_ok(&journal, err);
    if (rc == ERR_OK) rc = open_material(&material, o, err);
    if (rc == ERR_OK)
        rc = synth_ledger_open(&e->ledger, o->plan, material.given.examples, material.given.near,
                               material.overlap, journal.data, err);
    if (rc == ERR_OK && o->ask) rc = ask(e, report, err);
    if (rc == ERR_OK) rc = synth_ledger_advance(e->ledger, true, err);
    if (rc == ERR_OK) rc = synth_rows_write(o->out, synth_ledger_view(e->ledger), err);
    if (rc == ERR_OK) rc = fill_report(report, e, err);
    synth_ledger_close(e->ledger);
    close_engine(e);
    close_material(&material);
    buf_free(&journal);
    return rc;
}

void synth_report_free(SynthReport *r) {
    mem_free(r->tallies);
    *r = (SynthReport){0};
}

/* ---- previews ---- */

/* Tokens of English text: about four bytes each. */
static double likely_tokens(size_t bytes) {
    return (double)bytes / 4;
}

static ErrCode preview(Buf *bodies, SynthEstimate *est, SynthLedger *ledger, const SynthOptions *o,
                       size_t count, Err *err) {
    enum { SAMPLE = 200 };
    const SynthPlan *p = o->plan;
    const SynthView *v = synth_ledger_view(ledger);
    Buf body = {0};
    double bytes = 0;
    ErrCode rc = ERR_OK;
    for (size_t d = 0; d < p->domain_count && rc == ERR_OK; d++) /* topics that only the model knows */
        if (p->domains[d].ask_topics && !v->material.topics[d].count)
            rc = flags_list_add(&v->material.topics[d], "(a topic that the model names)", 30, err);
    for (uint64_t i = 0; i < SAMPLE && rc == ERR_OK; i++) {
        const SynthJob job = {SYNTH_JOB_ROWS, i, 0};
        rc = synth_ledger_body(ledger, &job, &body, err);
        if (rc != ERR_OK) break;
        bytes += (double)body.len / SAMPLE;
        est->most = fmax(est->most, synth_plan_cost(&p->writer, (double)synth_prompt_tokens(&body),
                                                    (double)p->writer.max_tokens));
        if (i < count) {
            buf_put(bodies, body.data, body.len);
            buf_puts(bodies, "\n");
        }
    }
    buf_free(&body);
    TRY(rc);
    const double each = (double)p->rows_per_request,
                 row_tokens = 45; /* measured on the built-in prompts: 30 to 60 */
    est->requests = ceil((double)rows_wanted(p) / (0.8 * each));
    est->tokens_in = est->requests * likely_tokens((size_t)bytes);
    est->tokens_out = est->requests * fmin(each * row_tokens, (double)p->writer.max_tokens);
    est->cost = synth_plan_cost(&p->writer, est->tokens_in, est->tokens_out);
    if (!p->votes) return buf_ok(bodies, err);
    const double votes = est->requests * (double)p->votes, in = votes * (400 + each * row_tokens),
                 out = votes * each * 5;
    est->requests += votes;
    est->tokens_in += in;
    est->tokens_out += out;
    est->cost += synth_plan_cost(&p->judge, in, out);
    return buf_ok(bodies, err);
}

ErrCode synth_preview(Buf *bodies, SynthEstimate *estimate, const SynthOptions *o, size_t count, Err *err) {
    *estimate = (SynthEstimate){0};
    Material material = {0};
    SynthLedger *ledger = NULL;
    SynthOptions options = *o;
    options.against = NULL; /* changes no request */
    TRY(check_prices(o->plan, err));
    ErrCode rc = open_material(&material, &options, err);
    if (rc == ERR_OK)
        rc = synth_ledger_open(&ledger, o->plan, material.given.examples, material.given.near, NULL, NULL,
                               err);
    if (rc == ERR_OK) rc = preview(bodies, estimate, ledger, o, count, err);
    synth_ledger_close(ledger);
    close_material(&material);
    return rc;
}
