#include "data/synth.h"

#include <math.h>
#include <string.h>

#include "core/http.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/ask.h"
#include "data/chat.h"
#include "data/scan.h"
#include "data/synth_answer.h"
#include "data/synth_rows.h"

enum { BARREN_MAX = 20, EXAMPLES_MAX = 5000, EXAMPLE_BYTES = 4000 };

typedef struct {
    SynthPlan *plan;
    SynthLedger *ledger;
    SynthJob jobs[ASK_AT_ONCE_MAX]; /* by slot; what each can cost at most */
    ChatSpend most[ASK_AT_ONCE_MAX];
    AskRun run;
    uint64_t cut;
    int barren; /* answers in a row without a list */
    Progress progress;
} Engine;

static const Chat *model_of(const Engine *e, const SynthJob *job) {
    return job->kind == SYNTH_JOB_JUDGE ? &e->plan->judge : &e->plan->writer;
}

const char *synth_key_name(const Chat *m) {
    if (m->key_env) return chat_has_variable(m->key_env) ? m->key_env : NULL;
    if (chat_has_variable("ROUTER_API_KEY")) return "ROUTER_API_KEY";
    if (chat_has_variable("OPENAI_API_KEY") && http_same_origin(m->url, "https://api.openai.com"))
        return "OPENAI_API_KEY";
    return NULL;
}

/* Local servers need no key. */
static ErrCode unlock(Chat *m, Err *err) {
    return chat_unlock_from(m, m->key_env ? m->key_env : synth_key_name(m), err);
}

/* ---- requests ---- */

static ErrCode next_job(void *arg, size_t slot, AskJob *job, bool *got, Err *err) {
    Engine *e = arg;
    SynthJob *taken = &e->jobs[slot];
    *got = synth_ledger_next(e->ledger, taken);
    if (!*got) return ERR_OK;
    job->chat = model_of(e, taken);
    job->key = taken->i * 31 + (uint64_t)taken->kind;
    TRY(synth_ledger_body(e->ledger, taken, &job->body, err));
    e->most[slot] = chat_spend(job->chat, chat_tokens_in(&job->body), job->chat->max_tokens);
    return ERR_OK;
}

static const char *limit_of(void *arg, size_t slot) {
    const Engine *e = arg;
    const SynthPlan *p = e->plan;
    const SynthView *v = synth_ledger_view(e->ledger);
    ChatSpend sum = e->most[slot];
    chat_add(&sum, &v->spent, 1);
    chat_add(&sum, &v->lost, 1);
    chat_add(&sum, &v->reserved, 1);
    return ask_limit(&(AskLimits){p->max_requests, p->max_tokens, p->max_cost}, v->requests, &sum);
}

static void put_back(void *arg, size_t slot, bool tried) {
    Engine *e = arg;
    (void)tried;
    synth_ledger_return(e->ledger, &e->jobs[slot]);
}

static ErrCode write_sent(void *arg, size_t slot, Err *err) {
    Engine *e = arg;
    return synth_ledger_sent(e->ledger, &e->jobs[slot], e->most[slot], err);
}

static ErrCode write_failed(void *arg, size_t slot, bool lost, Err *err) {
    Engine *e = arg;
    return synth_ledger_failed(e->ledger, &e->jobs[slot], lost, err);
}

static ErrCode sync_ledger(void *arg, Err *err) {
    Engine *e = arg;
    return synth_ledger_sync(e->ledger, err);
}

/* ---- answers ---- */

static const char *key_of_list(SynthJobKind kind) {
    return kind == SYNTH_JOB_TOPICS ? "topics" : kind == SYNTH_JOB_ROWS ? "prompts" : "labels";
}

/* A text without a list was paid like any other and is not asked for again. */
static ErrCode take_answer(void *arg, size_t slot, const ChatAnswer *a, double seconds, Err *err) {
    Engine *e = arg;
    const SynthJob *job = &e->jobs[slot];
    const Chat *m = model_of(e, job);
    const ChatSpend spent = a->counted ? chat_spend(m, a->tokens_in, a->tokens_out) : e->most[slot];
    cJSON *list = NULL;
    bool whole = false;
    Err why = {0};
    (void)seconds;
    ErrCode rc =
        synth_answer_list(&list, &whole, a->content.data, a->content.len, key_of_list(job->kind), &why);
    if (rc == ERR_MEMORY) return err_set(err, rc, "%s", why.msg);
    e->cut += a->cut;
    e->barren = list ? 0 : e->barren + 1;
    rc = synth_ledger_answered(e->ledger, job, spent, list, why.msg, err);
    cJSON_Delete(list);
    if (rc != ERR_OK || e->barren < BARREN_MAX) return rc;
    char shown[204];
    text_excerpt(shown, 200, a->content.data ? a->content.data : "", a->content.len);
    return err_set(err, ERR_FORMAT,
                   "%d answers in a row hold no JSON list; is \"%s\" able to give one? The last begins: %s",
                   e->barren, m->model, shown);
}

/* Whole items of a stream that was lost; half a vote is none. */
static bool keeps(void *arg, size_t slot, const Buf *text) {
    const Engine *e = arg;
    const SynthJobKind kind = e->jobs[slot].kind;
    cJSON *list = NULL;
    bool whole = false;
    const ErrCode rc = synth_answer_list(&list, &whole, text->data, text->len, key_of_list(kind), NULL);
    const bool any = rc == ERR_OK && list->child && kind != SYNTH_JOB_JUDGE;
    cJSON_Delete(list);
    return any;
}

static ErrCode take_refusal(void *arg, size_t slot, const char *why, int in_a_row, bool keep, Err *err) {
    Engine *e = arg;
    (void)keep;
    TRY(synth_ledger_failed(e->ledger, &e->jobs[slot], false, err));
    TRY(synth_ledger_gone(e->ledger, &e->jobs[slot], err));
    if (in_a_row < ASK_IN_A_ROW_MAX) return ERR_OK;
    return err_set(err, ERR_IO, "%d requests in a row were refused: %s", in_a_row, why);
}

static ErrCode take_gone(void *arg, size_t slot, const char *why, int in_a_row, Err *err) {
    Engine *e = arg;
    TRY(synth_ledger_gone(e->ledger, &e->jobs[slot], err));
    progress_note(&e->progress, "given up after %lld attempts: %s", (long long)e->plan->attempts, why);
    if (in_a_row < ASK_IN_A_ROW_MAX) return ERR_OK;
    return err_set(err, ERR_IO,
                   "%d requests in a row failed in all attempts: %s; the same command goes on later",
                   in_a_row, why);
}

/* ---- the run ---- */

static ErrCode turn(void *arg, bool *done, Err *err) {
    Engine *e = arg;
    TRY(synth_ledger_advance(e->ledger, false, err));
    *done = synth_ledger_complete(e->ledger);
    const size_t d = synth_ledger_without_topics(e->ledger);
    if (*done || d == SIZE_MAX) return ERR_OK;
    return err_set(err, ERR_FORMAT,
                   "the model gave no list of topics for \"%s\" in %d attempts; name them in the plan",
                   e->plan->domains[d].name, SYNTH_LEDGER_TOPIC_TRIES);
}

static void show(void *arg, size_t flying) {
    Engine *e = arg;
    if (!progress_due(&e->progress)) return;
    const SynthView *v = synth_ledger_view(e->ledger);
    const double seconds = progress_clock() - e->progress.started;
    progress_update(&e->progress, v->row_count,
                    "%llu rows  %.1f rows/s  cost %.4f  %llu requests, %zu at a time",
                    (unsigned long long)v->row_count,
                    (double)(v->row_count - e->progress.start_done) / fmax(seconds, 1e-3),
                    v->spent.cost + v->lost.cost, (unsigned long long)v->requests, flying);
}

static ErrCode ask(Engine *e, SynthReport *report, Err *err) {
    const SynthView *v = synth_ledger_view(e->ledger);
    SynthPlan *p = e->plan;
    const AskRule rule = {.at_once = (size_t)p->concurrency,
                          .models = 1, /* writer and judge are paced as one: as a rule they share a server */
                          .attempts = p->attempts,
                          .minutes = p->max_minutes,
                          .pause_s = p->first_s,
                          .longest_s = p->longest_s,
                          .retry_after_s = p->retry_after_s,
                          .allows = "the plan allows",
                          .unkeyed = " (no key was sent: set ROUTER_API_KEY)",
                          .seed = (uint64_t)p->seed};
    const AskClient client = {.arg = e,
                              .turn = turn,
                              .next = next_job,
                              .limit = limit_of,
                              .put_back = put_back,
                              .sent = write_sent,
                              .failed = write_failed,
                              .answered = take_answer,
                              .refused = take_refusal,
                              .gone = take_gone,
                              .sync = sync_ledger,
                              .keeps = keeps,
                              .show = show};
    TRY(unlock(&p->writer, err));
    if (p->votes) TRY(unlock(&p->judge, err));
    TRY(synth_ledger_advance(e->ledger, false, err));
    progress_begin(&e->progress, "synth", report->wanted, v->row_count);
    const ErrCode rc = ask_run(&e->run, &rule, &client, err);
    progress_end(&e->progress);
    if (rc == ERR_INTERRUPTED)
        return err_set(err, rc,
                       "interrupted; %llu rows are in the journal, and the same command goes on from there",
                       (unsigned long long)v->row_count);
    /* A server that never answered is not a limit that was reached. */
    if (rc == ERR_OK && e->run.stopped && e->run.answers == 0 && e->run.failure.msg[0])
        return err_set(err, ERR_IO, "no answer within the limit of %s; the last failure: %s", e->run.stopped,
                       e->run.failure.msg);
    return rc;
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
    r->retries = e->run.retries;
    r->throttled = e->run.throttled;
    r->cut = e->cut;
    r->spent = v->spent;
    r->lost = v->lost;
    r->lost.in += v->reserved.in; /* left on its way */
    r->lost.out += v->reserved.out;
    r->lost.cost += v->reserved.cost;
    r->complete = synth_ledger_complete(e->ledger);
    r->stopped = e->run.stopped;
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
    mem_free(e);
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
        est->most = fmax(est->most,
                         chat_cost(&p->writer, (double)chat_tokens_in(&body), (double)p->writer.max_tokens));
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
    est->cost = chat_cost(&p->writer, est->tokens_in, est->tokens_out);
    if (!p->votes) return buf_ok(bodies, err);
    const double votes = est->requests * (double)p->votes, in = votes * (400 + each * row_tokens),
                 out = votes * each * 5;
    est->requests += votes;
    est->tokens_in += in;
    est->tokens_out += out;
    est->cost += chat_cost(&p->judge, in, out);
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
