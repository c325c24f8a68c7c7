#include "data/synth_ledger.h"

#include <math.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/journal.h"
#include "data/synth_answer.h"

enum { VERSION = 1, TOPIC_BYTES = 400, REQUESTS_MAX = 1 << 22 };

typedef struct {
    char *text;
    uint32_t item;  /* its place in the answer */
    uint32_t agree; /* votes for the label */
    bool against;   /* in a benchmark */
} Item;

typedef enum { OPEN, ANSWERED, GONE } State;

typedef struct {
    State state;
    bool taken;              /* a job of it is on its way */
    uint16_t votes, judging; /* bits: votes that are in, and on their way */
    Item *items;
    size_t count;
    char time[24];
} Request;

typedef struct {
    SynthJob job;
    ChatSpend most;
} Flight;

typedef struct {
    bool taken;
    int tries;
} Topics;

struct SynthLedger {
    SynthView view;
    const SynthPlan *plan;
    Near *near;
    const Overlap *overlap;
    Journal *journal;
    Request *requests;
    size_t count, cap; /* requests known */
    uint64_t frontier; /* the first that is not consumed */
    size_t row_cap;
    Topics *topics;
    double *expected; /* rows of each domain, for one call of next */
    Flight *flights;
    size_t flight_count, flight_cap;
    SynthJob *gone; /* not in the journal yet */
    size_t gone_count, gone_cap;
    char examples_digest[SHA256_HEX];
    bool has_plan;
};

const char *synth_ledger_drop(SynthDrop drop) {
    static const char *const NAMES[] = {"unfit (no text, too short, too long)", "in a benchmark",
                                        "like a row given or accepted before", "the judge sees another label",
                                        "surplus of a complete domain"};
    return NAMES[drop];
}

const SynthView *synth_ledger_view(const SynthLedger *l) {
    return &l->view;
}

/* ---- requests ---- */

static ErrCode request_at(Request **out, SynthLedger *l, uint64_t i, Err *err) {
    if (i >= l->frontier + (REQUESTS_MAX))
        return err_set(err, ERR_FORMAT, "request %llu is too far ahead", (unsigned long long)i);
    if (i >= l->cap) {
        const size_t cap = (size_t)i + (size_t)i / 2 + 256;
        Request *more = mem_resize(l->requests, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for %zu requests", cap);
        memset(more + l->cap, 0, (cap - l->cap) * sizeof *more);
        l->requests = more;
        l->cap = cap;
    }
    if (i >= l->count) l->count = (size_t)i + 1;
    *out = &l->requests[i];
    return ERR_OK;
}

static void free_items(Request *r) {
    for (size_t k = 0; k < r->count; k++) mem_free(r->items[k].text);
    mem_free(r->items);
    r->items = NULL;
    r->count = 0;
}

static bool is_full(const SynthLedger *l, size_t domain) {
    const SynthTally *t = &l->view.tallies[domain];
    return t->exhausted || t->rows >= (uint64_t)l->plan->domains[domain].rows ||
           (l->plan->max_rows && l->view.row_count >= (uint64_t)l->plan->max_rows);
}

bool synth_ledger_complete(const SynthLedger *l) {
    for (size_t d = 0; d < l->plan->domain_count; d++)
        if (!is_full(l, d)) return false;
    return true;
}

static bool has_topics(const SynthLedger *l, size_t domain) {
    return !l->plan->domains[domain].ask_topics || l->view.material.topics[domain].count > 0;
}

size_t synth_ledger_without_topics(const SynthLedger *l) {
    for (size_t d = 0; d < l->plan->domain_count; d++)
        if (!has_topics(l, d) && l->plan->domains[d].rows && l->topics[d].tries >= SYNTH_LEDGER_TOPIC_TRIES)
            return d;
    return SIZE_MAX;
}

/* ---- answers ---- */

static bool is_fit(const SynthLedger *l, const char *text) {
    const size_t chars = text_characters(text, strlen(text));
    return chars >= (size_t)l->plan->min_chars && chars <= (size_t)l->plan->max_chars;
}

static bool is_against(const SynthLedger *l, const char *text) {
    DedupSignature signature;
    if (!l->overlap) return false;
    const size_t n = strlen(text);
    dedup_signature(&signature, text, n);
    return overlap_find(l->overlap, text, n, &signature).row != OVERLAP_NONE;
}

static char *trimmed(const char *text) {
    if (!text) return NULL;
    text += strspn(text, " \t\r\n");
    size_t n = strlen(text);
    while (n && strchr(" \t\r\n", text[n - 1])) n--;
    return mem_strndup(text, n);
}

static ErrCode take_rows(SynthLedger *l, const SynthJob *job, const cJSON *list, const char *time_text,
                         Err *err) {
    Request *r;
    TRY(request_at(&r, l, job->i, err));
    if (r->state == ANSWERED)
        return err_set(err, ERR_FORMAT, "request %llu is answered twice", (unsigned long long)job->i);
    SynthTally *tally = &l->view.tallies[synth_prompt_domain(l->plan, job->i)];
    const int given = cJSON_GetArraySize(list);
    const size_t count =
        given < l->plan->rows_per_request ? (size_t)given : (size_t)l->plan->rows_per_request;
    r->state = ANSWERED;
    (void)snprintf(r->time, sizeof r->time, "%s", time_text);
    if (job->i < l->frontier) return ERR_OK; /* came too late: its domain is complete */
    if (count) TRY(mem_new(&r->items, count, sizeof *r->items, "the rows of an answer", err));
    const cJSON *item;
    uint32_t place = 0;
    cJSON_ArrayForEach(item, list) {
        if (place == count) break;
        const char *text = synth_answer_text(item, "text|prompt|message|query|question|content");
        char *copy = trimmed(text ? text : "");
        if (!copy) return err_set(err, ERR_MEMORY, "out of memory for the rows of an answer");
        tally->items++;
        if (is_fit(l, copy)) { /* what a judge is asked about depends on the answer and the plan alone */
            r->items[r->count++] = (Item){copy, place, 0, is_against(l, copy)};
        } else {
            tally->dropped[SYNTH_DROP_UNFIT]++;
            mem_free(copy);
        }
        place++;
    }
    return ERR_OK;
}

/* "topic: subtopic", or the topic alone. */
static ErrCode add_topic(FlagList *out, const char *topic, const char *sub, Err *err) {
    Buf path = {0};
    buf_printf(&path, "%s%s%s", topic, sub ? ": " : "", sub ? sub : "");
    ErrCode rc = buf_ok(&path, err);
    for (size_t i = 0; i < path.len; i++)
        if ((unsigned char)path.data[i] < 0x20) path.data[i] = ' ';
    if (rc == ERR_OK && path.len <= TOPIC_BYTES && path.data[strspn(path.data, " :")])
        rc = flags_list_add(out, path.data, path.len, err);
    buf_free(&path);
    return rc;
}

static ErrCode take_topics(SynthLedger *l, const SynthJob *job, const cJSON *list, Err *err) {
    if (job->i >= l->plan->domain_count) return err_set(err, ERR_FORMAT, "topics of an unknown domain");
    FlagList *out = &l->view.material.topics[job->i];
    l->topics[job->i].tries = job->n + 1;
    if (out->count) return ERR_OK;
    const cJSON *item, *child;
    cJSON_ArrayForEach(item, list) {
        const char *topic = synth_answer_text(item, "topic|name|title");
        const cJSON *subs = cJSON_IsObject(item) ? cJSON_GetObjectItemCaseSensitive(item, "subtopics") : NULL;
        bool any = false;
        if (!topic) continue;
        if (cJSON_IsArray(subs)) {
            cJSON_ArrayForEach(child, subs) {
                const char *sub = synth_answer_text(child, "subtopic|topic|name|title");
                if (sub) TRY(add_topic(out, topic, sub, err));
                any |= sub != NULL;
            }
        }
        if (!any) TRY(add_topic(out, topic, NULL, err));
    }
    return ERR_OK;
}

static bool same_label(const char *found, const char *name) {
    const size_t n = strlen(name);
    found += strspn(found, " \t\r\n\"'");
    return strncasecmp(found, name, n) == 0 && !found[n + strspn(found + n, " \t\r\n\"'.")];
}

/* A vote that does not give one label for each row is void. */
static ErrCode take_vote(SynthLedger *l, const SynthJob *job, const cJSON *list, Err *err) {
    Request *r;
    if (job->n < 0 || job->n >= l->plan->votes)
        return err_set(err, ERR_FORMAT, "vote %d: there are none", job->n);
    TRY(request_at(&r, l, job->i, err));
    if (r->votes >> job->n & 1) return err_set(err, ERR_FORMAT, "vote %d is given twice", job->n);
    r->votes = (uint16_t)(r->votes | 1u << job->n);
    if (!list || r->count == 0 || cJSON_GetArraySize(list) != (int)r->count) return ERR_OK;
    const char *name = l->plan->domains[synth_prompt_domain(l->plan, job->i)].name;
    const cJSON *item = list->child;
    for (size_t k = 0; k < r->count; k++, item = item->next) {
        const char *label = synth_answer_text(item, "label|domain|name");
        r->items[k].agree += label && same_label(label, name);
    }
    return ERR_OK;
}

static ErrCode take_answer(SynthLedger *l, const SynthJob *job, const cJSON *list, const char *time_text,
                           Err *err) {
    switch (job->kind) {
        case SYNTH_JOB_TOPICS: return take_topics(l, job, list, err);
        case SYNTH_JOB_ROWS: return take_rows(l, job, list, time_text, err);
        case SYNTH_JOB_JUDGE: break;
    }
    return take_vote(l, job, list, err);
}

static ErrCode take_gone(SynthLedger *l, const SynthJob *job, Err *err) {
    Request *r;
    l->view.gone++;
    if (job->kind == SYNTH_JOB_TOPICS || job->kind == SYNTH_JOB_JUDGE)
        return take_answer(l, job, NULL, "", err);
    TRY(request_at(&r, l, job->i, err));
    if (r->state == OPEN) r->state = GONE;
    return ERR_OK;
}

/* ---- what is spent ---- */

static bool same_job(const SynthJob *a, const SynthJob *b) {
    return a->kind == b->kind && a->i == b->i && a->n == b->n;
}

static ErrCode take_sent(SynthLedger *l, const SynthJob *job, ChatSpend most, Err *err) {
    if (l->flight_count == l->flight_cap) {
        const size_t cap = 2 * l->flight_cap + 16;
        Flight *more = mem_resize(l->flights, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for the requests on their way");
        l->flights = more;
        l->flight_cap = cap;
    }
    l->flights[l->flight_count++] = (Flight){*job, most};
    l->view.requests++;
    chat_add(&l->view.reserved, &most, 1);
    return ERR_OK;
}

/* The reservation of a job ends; its last flight, into *most. */
static bool end_flight(SynthLedger *l, const SynthJob *job, ChatSpend *most) {
    for (size_t i = l->flight_count; i-- > 0;) {
        if (!same_job(&l->flights[i].job, job)) continue;
        *most = l->flights[i].most;
        l->flights[i] = l->flights[--l->flight_count];
        chat_add(&l->view.reserved, most, -1);
        if (l->flight_count == 0) l->view.reserved = (ChatSpend){0}; /* no rest of rounding */
        return true;
    }
    return false;
}

static void lose_flights(SynthLedger *l) {
    for (size_t i = 0; i < l->flight_count; i++) chat_add(&l->view.lost, &l->flights[i].most, 1);
    l->flight_count = 0;
    l->view.reserved = (ChatSpend){0};
}

/* ---- the journal ---- */

static const char *const JOBS[] = {"topics", "rows", "judge"};

static ErrCode read_job(SynthJob *job, const cJSON *entry, Err *err) {
    const char *kind = "";
    int64_t i = -1, n = 0;
    TRY(json_get_string(&kind, entry, "job", err));
    TRY(json_get_int(&i, entry, "i", 0, (int64_t)1 << 40, err));
    TRY(json_get_int(&n, entry, "n", 0, 1000, err));
    for (size_t k = 0; k < sizeof JOBS / sizeof *JOBS && i >= 0; k++) {
        if (strcmp(kind, JOBS[k]) != 0) continue;
        *job = (SynthJob){(SynthJobKind)k, (uint64_t)i, (int)n};
        return ERR_OK;
    }
    return err_set(err, ERR_FORMAT, "an entry of no known job");
}

static ErrCode read_spend(ChatSpend *s, const cJSON *entry, Err *err) {
    *s = (ChatSpend){0};
    TRY(json_get_int(&s->in, entry, "in", 0, (int64_t)1 << 40, err));
    TRY(json_get_int(&s->out, entry, "out", 0, (int64_t)1 << 40, err));
    return json_get_double(&s->cost, entry, "cost", 0, 1e12, err);
}

static ErrCode read_plan(SynthLedger *l, const cJSON *entry, Err *err) {
    const char *plan = "", *examples = "", *wording = "";
    char mine[17];
    int64_t version = 0;
    TRY(json_get_int(&version, entry, "version", 0, 1 << 30, err));
    TRY(json_get_string(&plan, entry, "plan", err));
    TRY(json_get_string(&examples, entry, "examples", err));
    TRY(json_get_string(&wording, entry, "wording", err));
    const char *what = version != VERSION                          ? "another version of this program"
                       : strcmp(plan, l->plan->digest) != 0        ? "another plan"
                       : strcmp(examples, l->examples_digest) != 0 ? "other examples"
                       : strcmp(wording, synth_prompt_digest(mine)) != 0
                           ? "another version of this program's wording"
                           : NULL;
    l->has_plan = true;
    if (!what) return ERR_OK;
    return err_set(err, ERR_ARGUMENT,
                   "this journal is of %s; give another --out, or --overwrite to begin anew", what);
}

static ErrCode read_entry(void *arg, cJSON *entry, Err *err) {
    SynthLedger *l = arg;
    SynthJob job = {0};
    ChatSpend spend;
    const char *kind = "", *time_text = "";
    TRY(json_get_string(&kind, entry, "kind", err));
    if (strcmp(kind, "plan") == 0) return read_plan(l, entry, err);
    if (!l->has_plan)
        return err_set(err, ERR_FORMAT, "not a journal of 'router data synth': the plan is missing");
    if (strcmp(kind, "open") == 0) {
        lose_flights(l);
        return ERR_OK;
    }
    TRY(read_job(&job, entry, err));
    TRY(read_spend(&spend, entry, err));
    if (strcmp(kind, "sent") == 0) return take_sent(l, &job, spend, err);
    if (strcmp(kind, "gone") == 0) return take_gone(l, &job, err);
    ChatSpend most;
    if (!end_flight(l, &job, &most)) return err_set(err, ERR_FORMAT, "an answer to what was not sent");
    if (strcmp(kind, "failed") == 0) {
        bool lost = true;
        TRY(json_get_bool(&lost, entry, "lost", err));
        if (lost) chat_add(&l->view.lost, &most, 1);
        return ERR_OK;
    }
    if (strcmp(kind, "answer") != 0) return err_set(err, ERR_FORMAT, "an entry of no known kind");
    TRY(json_get_string(&time_text, entry, "time", err));
    chat_add(&l->view.spent, &spend, 1);
    l->view.answers++;
    return take_answer(l, &job, cJSON_GetObjectItemCaseSensitive(entry, "list"), time_text, err);
}

static cJSON *new_entry(const char *kind, const SynthJob *job) {
    cJSON *e = cJSON_CreateObject();
    bool good = e && cJSON_AddStringToObject(e, "kind", kind);
    if (job)
        good = good && cJSON_AddStringToObject(e, "job", JOBS[job->kind]) &&
               cJSON_AddNumberToObject(e, "i", (double)job->i) &&
               (!job->n || cJSON_AddNumberToObject(e, "n", job->n));
    if (good) return e;
    cJSON_Delete(e);
    return NULL;
}

static bool put_spend(cJSON *e, ChatSpend s) {
    return cJSON_AddNumberToObject(e, "in", (double)s.in) &&
           cJSON_AddNumberToObject(e, "out", (double)s.out) &&
           (!(s.cost > 0) || cJSON_AddNumberToObject(e, "cost", s.cost));
}

static ErrCode add_entry(SynthLedger *l, cJSON *entry, bool good, Err *err) {
    const ErrCode rc = journal_add(l->journal, good ? entry : NULL, err);
    cJSON_Delete(entry);
    return rc;
}

static ErrCode write_plan(SynthLedger *l, Err *err) {
    char wording[17];
    cJSON *e = new_entry("plan", NULL);
    const bool good = e && cJSON_AddNumberToObject(e, "version", VERSION) &&
                      cJSON_AddStringToObject(e, "plan", l->plan->digest) &&
                      cJSON_AddStringToObject(e, "examples", l->examples_digest) &&
                      cJSON_AddStringToObject(e, "wording", synth_prompt_digest(wording));
    return add_entry(l, e, good, err);
}

ErrCode synth_ledger_sync(SynthLedger *l, Err *err) {
    return journal_sync(l->journal, err);
}

ErrCode synth_ledger_sent(SynthLedger *l, const SynthJob *job, ChatSpend most, Err *err) {
    cJSON *e = new_entry("sent", job);
    TRY(add_entry(l, e, e && put_spend(e, most), err));
    return take_sent(l, job, most, err);
}

static void untake(SynthLedger *l, const SynthJob *job) {
    if (job->kind == SYNTH_JOB_TOPICS)
        l->topics[job->i].taken = false;
    else if (job->kind == SYNTH_JOB_ROWS)
        l->requests[job->i].taken = false;
    else
        l->requests[job->i].judging = (uint16_t)(l->requests[job->i].judging & ~(1u << job->n));
}

void synth_ledger_return(SynthLedger *l, const SynthJob *job) {
    untake(l, job);
}

static ErrCode write_gone(SynthLedger *l, Err *err) {
    for (size_t i = 0; i < l->gone_count; i++) {
        cJSON *e = new_entry("gone", &l->gone[i]);
        TRY(add_entry(l, e, e != NULL, err));
    }
    l->gone_count = 0;
    return ERR_OK;
}

ErrCode synth_ledger_answered(SynthLedger *l, const SynthJob *job, ChatSpend spent, cJSON *list,
                              const char *why, Err *err) {
    char now[24] = "";
    const time_t seconds = time(NULL);
    struct tm utc;
    ChatSpend most;
    if (gmtime_r(&seconds, &utc)) (void)strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
    TRY(write_gone(l, err));
    cJSON *e = new_entry("answer", job);
    bool good = e && put_spend(e, spent) && cJSON_AddStringToObject(e, "time", now);
    if (good && list)
        good = cJSON_AddItemReferenceToObject(e, "list", list);
    else if (good)
        good = cJSON_AddStringToObject(e, "why", why) != NULL;
    TRY(add_entry(l, e, good, err));
    untake(l, job);
    (void)end_flight(l, job, &most);
    chat_add(&l->view.spent, &spent, 1);
    l->view.answers++;
    return take_answer(l, job, list, now, err);
}

ErrCode synth_ledger_failed(SynthLedger *l, const SynthJob *job, bool lost, Err *err) {
    ChatSpend most;
    cJSON *e = new_entry("failed", job);
    TRY(add_entry(l, e, e && cJSON_AddBoolToObject(e, "lost", lost), err));
    if (end_flight(l, job, &most) && lost) chat_add(&l->view.lost, &most, 1);
    return ERR_OK;
}

ErrCode synth_ledger_gone(SynthLedger *l, const SynthJob *job, Err *err) {
    if (l->gone_count == l->gone_cap) {
        const size_t cap = 2 * l->gone_cap + 16;
        SynthJob *more = mem_resize(l->gone, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for the requests given up");
        l->gone = more;
        l->gone_cap = cap;
    }
    l->gone[l->gone_count++] = *job;
    untake(l, job);
    return take_gone(l, job, err);
}

/* ---- what to ask next ---- */

/* Rows that a request of the domain is likely to give. */
static double likely_rows(const SynthLedger *l, size_t domain) {
    const SynthTally *t = &l->view.tallies[domain];
    const double each = (double)l->plan->rows_per_request;
    const double share = ((double)t->rows + each) / ((double)t->requests * each + each);
    return each * fmin(1, fmax(share, 0.05));
}

/* Whether a vote could still change something: some row of the answer is new, as far as is known now. Rows that
 * are accepted later can only make that fewer. */
static bool worth_judging(const SynthLedger *l, const Request *r, size_t domain) {
    if (is_full(l, domain)) return false;
    for (size_t k = 0; k < r->count; k++) {
        DedupSignature s;
        if (r->items[k].against) continue;
        dedup_signature(&s, r->items[k].text, strlen(r->items[k].text));
        if (near_find(l->near, &s) == NEAR_NONE) return true;
    }
    return false;
}

static bool next_vote(SynthLedger *l, SynthJob *job, uint64_t i, size_t domain) {
    Request *r = &l->requests[i];
    const uint16_t busy = (uint16_t)(r->votes | r->judging);
    for (int n = 0; n < l->plan->votes; n++) {
        if (busy >> n & 1) continue;
        if (!worth_judging(l, r, domain)) return false;
        r->judging = (uint16_t)(r->judging | 1u << n);
        *job = (SynthJob){SYNTH_JOB_JUDGE, i, n};
        return true;
    }
    return false;
}

static bool next_topics(SynthLedger *l, SynthJob *job) {
    for (size_t d = 0; d < l->plan->domain_count; d++) {
        Topics *t = &l->topics[d];
        if (t->taken || has_topics(l, d) || is_full(l, d) || t->tries >= SYNTH_LEDGER_TOPIC_TRIES) continue;
        t->taken = true;
        *job = (SynthJob){SYNTH_JOB_TOPICS, d, t->tries};
        return true;
    }
    return false;
}

bool synth_ledger_next(SynthLedger *l, SynthJob *job) {
    if (next_topics(l, job)) return true;
    memset(l->expected, 0, l->plan->domain_count * sizeof *l->expected);
    for (uint64_t i = l->frontier; i < l->frontier + SYNTH_LEDGER_WINDOW; i++) {
        const size_t d = synth_prompt_domain(l->plan, i);
        Request *r;
        if (is_full(l, d) || request_at(&r, l, i, NULL) != ERR_OK) continue;
        if (r->state == ANSWERED) {
            if (r->count && next_vote(l, job, i, d)) return true;
            l->expected[d] += fmin((double)r->count, likely_rows(l, d));
        } else if (r->taken) {
            l->expected[d] += likely_rows(l, d);
        } else if (r->state == OPEN && has_topics(l, d)) {
            /* What is on its way will probably do: wait for it, unless all of it was in vain. */
            const double missing = (double)l->plan->domains[d].rows - (double)l->view.tallies[d].rows;
            if (l->expected[d] >= missing && i != l->frontier) continue;
            r->taken = true;
            *job = (SynthJob){SYNTH_JOB_ROWS, i, 0};
            return true;
        }
    }
    return false;
}

ErrCode synth_ledger_body(const SynthLedger *l, const SynthJob *job, Buf *body, Err *err) {
    buf_clear(body);
    if (job->kind == SYNTH_JOB_TOPICS) {
        synth_prompt_topics(body, l->plan, (size_t)job->i, job->n);
    } else if (job->kind == SYNTH_JOB_ROWS) {
        SynthDraw draw;
        synth_prompt_draw(&draw, l->plan, &l->view.material, job->i);
        synth_prompt_rows(body, l->plan, &l->view.material, &draw);
    } else {
        const Request *r = &l->requests[job->i];
        const char **texts;
        TRY(mem_new(&texts, r->count + 1, sizeof *texts, "the texts to judge", err));
        for (size_t k = 0; k < r->count; k++) texts[k] = r->items[k].text;
        synth_prompt_judge(body, l->plan, texts, r->count, job->i, job->n);
        mem_free(texts);
    }
    return buf_ok(body, err);
}

/* ---- rows, in the order of requests ---- */

static ErrCode accept_item(SynthLedger *l, Request *r, uint64_t i, Item *item, size_t domain, Err *err) {
    SynthTally *t = &l->view.tallies[domain];
    DedupSignature s;
    if (is_full(l, domain)) {
        t->dropped[SYNTH_DROP_SURPLUS]++;
        return ERR_OK;
    }
    if (item->against) {
        t->dropped[SYNTH_DROP_AGAINST]++;
        return ERR_OK;
    }
    dedup_signature(&s, item->text, strlen(item->text));
    if (near_find(l->near, &s) != NEAR_NONE) {
        t->dropped[SYNTH_DROP_REPEAT]++;
        return ERR_OK;
    }
    if (l->plan->votes && item->agree < (uint32_t)l->plan->agree) {
        t->dropped[SYNTH_DROP_JUDGED]++;
        return ERR_OK;
    }
    if (l->view.row_count == l->row_cap) {
        const size_t cap = l->row_cap + l->row_cap / 2 + 256;
        SynthRow *more = mem_resize(l->view.rows, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for %zu rows", cap);
        l->view.rows = more;
        l->row_cap = cap;
    }
    TRY(near_add(l->near, &s, err));
    SynthRow *row = &l->view.rows[l->view.row_count++];
    *row = (SynthRow){.text = item->text, .request = i, .item = item->item};
    memcpy(row->time, r->time, sizeof row->time);
    item->text = NULL;
    t->rows++;
    t->stale = 0;
    return ERR_OK;
}

static ErrCode consume(SynthLedger *l, Request *r, uint64_t i, size_t domain, Err *err) {
    SynthTally *t = &l->view.tallies[domain];
    if (!is_full(l, domain)) {
        t->requests++;
        t->stale++;
    }
    for (size_t k = 0; k < r->count; k++) TRY(accept_item(l, r, i, &r->items[k], domain, err));
    t->exhausted = t->exhausted || t->stale >= SYNTH_LEDGER_STALE;
    free_items(r);
    return ERR_OK;
}

ErrCode synth_ledger_advance(SynthLedger *l, bool all, Err *err) {
    const uint16_t votes = (uint16_t)((1u << l->plan->votes) - 1);
    while (!synth_ledger_complete(l)) {
        Request *r;
        if (all && l->frontier >= l->count) break;
        const size_t d = synth_prompt_domain(l->plan, l->frontier);
        TRY(request_at(&r, l, l->frontier, err));
        if (r->state == OPEN && !all && !is_full(l, d)) break;
        if (r->state == ANSWERED) {
            if (!all && r->count && r->votes != votes && worth_judging(l, r, d)) break;
            TRY(consume(l, r, l->frontier, d, err));
        }
        l->frontier++;
    }
    return ERR_OK;
}

/* ---- opening ---- */

static void digest_examples(SynthLedger *l) {
    Sha256 sha;
    unsigned char digest[SHA256_BYTES];
    sha256_init(&sha);
    for (size_t d = 0; d < l->plan->domain_count; d++) {
        const FlagList *list = &l->view.material.examples[d];
        sha256_add(&sha, &(uint64_t){list->count}, sizeof(uint64_t));
        for (size_t i = 0; i < list->count; i++) sha256_add(&sha, list->items[i], strlen(list->items[i]) + 1);
    }
    sha256_end(&sha, digest);
    sha256_hex(l->examples_digest, digest);
}

static ErrCode allocate(SynthLedger *l, Err *err) {
    const size_t count = l->plan->domain_count;
    TRY(mem_new(&l->view.tallies, count, sizeof *l->view.tallies, "the domains", err));
    TRY(mem_new(&l->topics, count, sizeof *l->topics, "the domains", err));
    TRY(mem_new(&l->expected, count, sizeof *l->expected, "the domains", err));
    TRY(mem_new(&l->view.material.topics, count, sizeof *l->view.material.topics, "the topics", err));
    for (size_t d = 0; d < count; d++) {
        const FlagList *from = &l->plan->domains[d].topics;
        for (size_t i = 0; i < from->count; i++)
            TRY(flags_list_add(&l->view.material.topics[d], from->items[i], strlen(from->items[i]), err));
    }
    return ERR_OK;
}

ErrCode synth_ledger_open(SynthLedger **out, const SynthPlan *plan, FlagList *examples, Near *near,
                          const Overlap *overlap, const char *journal, Err *err) {
    *out = NULL;
    SynthLedger *l;
    uint64_t entries = 0;
    TRY(mem_new(&l, 1, sizeof *l, "the ledger", err));
    l->plan = l->view.plan = plan;
    l->near = near;
    l->overlap = overlap;
    l->view.material.examples = examples;
    digest_examples(l);
    ErrCode rc = allocate(l, err);
    if (rc == ERR_OK && journal) {
        rc = journal_open(&l->journal, journal, read_entry, l, &entries, err);
        if (rc == ERR_OK && !entries) rc = write_plan(l, err);
        if (rc == ERR_OK) {
            cJSON *e = new_entry("open", NULL);
            lose_flights(l);
            rc = add_entry(l, e, e != NULL, err);
        }
        if (rc == ERR_OK) rc = journal_sync(l->journal, err);
    }
    if (rc != ERR_OK) {
        synth_ledger_close(l);
        return rc;
    }
    *out = l;
    return ERR_OK;
}

void synth_ledger_close(SynthLedger *l) {
    if (!l) return;
    for (size_t i = 0; i < l->count; i++) free_items(&l->requests[i]);
    for (uint64_t i = 0; i < l->view.row_count; i++) mem_free(l->view.rows[i].text);
    for (size_t d = 0; l->view.material.topics && d < l->plan->domain_count; d++)
        flags_list_free(&l->view.material.topics[d]);
    journal_close(l->journal);
    mem_free(l->view.rows);
    mem_free(l->view.material.topics);
    mem_free(l->view.tallies);
    mem_free(l->requests);
    mem_free(l->topics);
    mem_free(l->expected);
    mem_free(l->flights);
    mem_free(l->gone);
    mem_free(l);
}
