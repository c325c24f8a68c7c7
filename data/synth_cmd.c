#include "data/synth_cmd.h"

#include <string.h>

#include "core/file.h"
#include "core/http.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/text.h"
#include "data/ask.h"
#include "data/synth.h"

typedef struct {
    char *out;
    FlagList examples, against;
    int64_t dry_run, concurrency, max_rows, max_requests, max_tokens, threads;
    double max_cost, max_minutes;
    bool finish, overwrite, json, quiet;
} SynthCmdOptions;

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, offsetof(SynthCmdOptions, out), NULL, 0, 0, "FILE",
     "Where the rows go: .jsonl, or .jsonl.zst. Its journal, FILE.journal, keeps every answer; the same "
     "command goes on from "
     "it."},
    {"examples", NULL, FLAG_LIST, offsetof(SynthCmdOptions, examples), NULL, 0, 0, "PATH",
     "#Given\nReal rows with labels (repeatable): some are shown to the model, and none is to be repeated."},
    {"against", NULL, FLAG_LIST, offsetof(SynthCmdOptions, against), NULL, 0, 0, "PATH",
     "Benchmarks (repeatable), with which no row may share 13 words in a row or be a near-duplicate."},
    {"max_rows", NULL, FLAG_INT, offsetof(SynthCmdOptions, max_rows), "0", 0, 1e12, NULL,
     "#Limits (0: as the plan says)\nAccepted rows."},
    {"max_requests", NULL, FLAG_INT, offsetof(SynthCmdOptions, max_requests), "0", 0, 1e12, NULL,
     "Requests sent, of all runs on this journal."},
    {"max_tokens", NULL, FLAG_INT, offsetof(SynthCmdOptions, max_tokens), "0", 0, 1e15, NULL,
     "Tokens, in and out, of all runs; a request that could exceed it is not sent."},
    {"max_cost", NULL, FLAG_FLOAT, offsetof(SynthCmdOptions, max_cost), "0", 0, 1e12, NULL,
     "Cost by the plan's prices, of all runs; a request that could exceed it is not sent."},
    {"max_minutes", NULL, FLAG_FLOAT, offsetof(SynthCmdOptions, max_minutes), "0", 0, 1e7, NULL,
     "Minutes, of this run."},
    {"concurrency", NULL, FLAG_INT, offsetof(SynthCmdOptions, concurrency), "0", 0, ASK_AT_ONCE_MAX, NULL,
     "Requests at a time."},
    {"dry_run", NULL, FLAG_INT, offsetof(SynthCmdOptions, dry_run), "0", 0, 200, NULL,
     "#Run\nShow so many requests and what all would cost; send nothing."},
    {"finish", NULL, FLAG_BOOL, offsetof(SynthCmdOptions, finish), NULL, 0, 0, NULL,
     "Ask nothing more: write the rows that the journal has."},
    {"overwrite", NULL, FLAG_BOOL, offsetof(SynthCmdOptions, overwrite), NULL, 0, 0, NULL,
     "Begin anew: an old journal is kept as FILE.journal.old."},
    {"threads", NULL, FLAG_INT, offsetof(SynthCmdOptions, threads), "0", 0, 1024, NULL,
     "Threads that read examples and benchmarks; 0 is one for each CPU."},
    {"json", NULL, FLAG_BOOL, offsetof(SynthCmdOptions, json), NULL, 0, 0, NULL,
     "Print the summary as one JSON object."},
    {"quiet", NULL, FLAG_BOOL, offsetof(SynthCmdOptions, quiet), NULL, 0, 0, NULL, "No progress."},
};

static void override(SynthPlan *p, const SynthCmdOptions *o) {
    if (o->max_rows) p->max_rows = o->max_rows;
    if (o->max_requests) p->max_requests = o->max_requests;
    if (o->max_tokens) p->max_tokens = o->max_tokens;
    if (o->max_cost > 0) p->max_cost = o->max_cost;
    if (o->max_minutes > 0) p->max_minutes = o->max_minutes;
    if (o->concurrency) p->concurrency = o->concurrency;
}

/* ---- summaries ---- */

static bool add(cJSON *object, const char *key, double v) {
    return cJSON_AddNumberToObject(object, key, v) != NULL;
}

static cJSON *spend_json(ChatSpend s) {
    cJSON *o = cJSON_CreateObject();
    if (o && add(o, "tokens_in", (double)s.in) && add(o, "tokens_out", (double)s.out) &&
        add(o, "cost", s.cost))
        return o;
    cJSON_Delete(o);
    return NULL;
}

static cJSON *domain_json(const SynthDomain *d, const SynthTally *t) {
    static const char *const DROPS[] = {"unfit", "against", "repeat", "judged", "surplus"};
    cJSON *o = cJSON_CreateObject(), *dropped = cJSON_AddObjectToObject(o, "dropped");
    bool good = dropped && cJSON_AddStringToObject(o, "name", d->name) && add(o, "wanted", (double)d->rows) &&
                add(o, "rows", (double)t->rows) && add(o, "requests", (double)t->requests) &&
                add(o, "items", (double)t->items) && cJSON_AddBoolToObject(o, "exhausted", t->exhausted);
    for (int i = 0; i < SYNTH_DROPS; i++) good = good && add(dropped, DROPS[i], (double)t->dropped[i]);
    if (good) return o;
    cJSON_Delete(o);
    return NULL;
}

static bool add_item(cJSON *array, cJSON *item) {
    return item && cJSON_AddItemToArray(array, item);
}

static bool add_member(cJSON *object, const char *key, cJSON *item) {
    return item && cJSON_AddItemToObject(object, key, item);
}

static void put_json(Buf *out, const SynthPlan *p, const SynthReport *r, const char *path) {
    cJSON *o = cJSON_CreateObject();
    bool good =
        o && cJSON_AddStringToObject(o, "out", path) && add(o, "wanted", (double)r->wanted) &&
        add(o, "rows", (double)r->rows) && cJSON_AddBoolToObject(o, "complete", r->complete) &&
        add_member(o, "stopped_by", r->stopped ? cJSON_CreateString(r->stopped) : cJSON_CreateNull()) &&
        add(o, "requests", (double)r->requests) && add(o, "answers", (double)r->answers) &&
        add(o, "given_up", (double)r->gone) && add(o, "retries", (double)r->retries) &&
        add(o, "throttled", (double)r->throttled) && add(o, "cut", (double)r->cut) &&
        add_member(o, "spent", spend_json(r->spent)) && add_member(o, "lost", spend_json(r->lost));
    cJSON *domains = cJSON_AddArrayToObject(o, "domains");
    for (size_t d = 0; domains && d < p->domain_count; d++)
        good = good && add_item(domains, domain_json(&p->domains[d], &r->tallies[d]));
    if (good && domains)
        json_print(out, o);
    else
        out->failed = true;
    cJSON_Delete(o);
}

static void put_spend(Buf *out, const char *what, ChatSpend s) {
    buf_printf(out, "  %-34s %12lld in %12lld out", what, (long long)s.in, (long long)s.out);
    if (s.cost > 0) buf_printf(out, "   cost %.4f", s.cost);
    buf_puts(out, "\n");
}

static void put_table(Buf *out, const SynthPlan *p, const SynthReport *r, const char *path) {
    uint64_t dropped[SYNTH_DROPS] = {0};
    buf_printf(out, "%s: %llu of %llu rows", path, (unsigned long long)r->rows,
               (unsigned long long)r->wanted);
    if (r->stopped) buf_printf(out, "; stopped by the limit of %s", r->stopped);
    buf_printf(out, "\n\n  %-20s %10s %10s %10s %10s\n", "domain", "wanted", "rows", "requests", "answered");
    for (size_t d = 0; d < p->domain_count; d++) {
        const SynthTally *t = &r->tallies[d];
        char name[28];
        buf_printf(out, "  %-20s %10lld %10llu %10llu %10llu%s\n",
                   text_excerpt(name, 20, p->domains[d].name, strlen(p->domains[d].name)),
                   (long long)p->domains[d].rows, (unsigned long long)t->rows,
                   (unsigned long long)t->requests, (unsigned long long)t->items,
                   t->exhausted ? "  exhausted: the model only repeats itself" : "");
        for (int i = 0; i < SYNTH_DROPS; i++) dropped[i] += t->dropped[i];
    }
    buf_puts(out, "\n");
    for (SynthDrop i = SYNTH_DROP_UNFIT; i < SYNTH_DROPS; i++)
        if (dropped[i])
            buf_printf(out, "  %12llu  dropped: %s\n", (unsigned long long)dropped[i], synth_ledger_drop(i));
    buf_printf(out, "  %12llu  requests, %llu answered", (unsigned long long)r->requests,
               (unsigned long long)r->answers);
    if (r->gone) buf_printf(out, ", %llu given up", (unsigned long long)r->gone);
    if (r->retries) buf_printf(out, ", %llu retries in this run", (unsigned long long)r->retries);
    buf_puts(out, "\n\n");
    put_spend(out, "tokens", r->spent);
    if (r->lost.in) put_spend(out, "at most, of requests without answer", r->lost);
    if (r->cut)
        buf_printf(out,
                   "\n  %llu answers were cut at max_tokens = %lld: raise it, or lower rows_per_request\n",
                   (unsigned long long)r->cut, (long long)p->writer.max_tokens);
}

/* ---- dry runs ---- */

/* A body as a person reads it: the messages with their line breaks, then the other members. */
static ErrCode put_request(Buf *out, const char *line, size_t n, size_t number, Err *err) {
    cJSON *tree = NULL;
    ErrCode rc = json_parse(&tree, line, n, err);
    if (rc != ERR_OK) return rc;
    cJSON *messages = cJSON_DetachItemFromObjectCaseSensitive(tree, "messages"), *m;
    buf_printf(out, "---- request %zu ----\n", number);
    cJSON_ArrayForEach(m, messages) {
        const char *role = "", *content = "";
        rc = json_get_string(&role, m, "role", err);
        if (rc == ERR_OK) rc = json_get_string(&content, m, "content", err);
        if (rc != ERR_OK) break;
        buf_printf(out, "[%s]\n%s\n\n", role, content);
    }
    char *rest = cJSON_PrintUnformatted(tree);
    if (rest)
        buf_printf(out, "[parameters]\n%s\n\n", rest);
    else
        out->failed = true;
    cJSON_free(rest);
    cJSON_Delete(messages);
    cJSON_Delete(tree);
    return rc;
}

static ErrCode put_requests(Buf *out, const Buf *bodies, Err *err) {
    size_t number = 0;
    for (size_t at = 0; at < bodies->len;) {
        const char *newline = memchr(bodies->data + at, '\n', bodies->len - at);
        const size_t n = (size_t)(newline - bodies->data) - at;
        TRY(put_request(out, bodies->data + at, n, ++number, err));
        at += n + 1;
    }
    return ERR_OK;
}

static void put_estimate(Buf *out, const SynthPlan *p, const SynthEstimate *e) {
    const char *key = synth_key_name(&p->writer);
    Buf url = {0};
    http_put_url(&url, p->writer.url);
    buf_printf(out, "Nothing was sent. To %s, model %s, key from %s%s:\n",
               url.failed ? "the endpoint" : url.data, p->writer.model,
               key                 ? key
               : p->writer.key_env ? p->writer.key_env
                                   : "none",
               !key && p->writer.key_env ? " (which is not set)" : "");
    buf_printf(out, "  about %.0f requests, %.0f tokens in, %.0f tokens out", e->requests, e->tokens_in,
               e->tokens_out);
    if (e->cost > 0) buf_printf(out, ", cost %.4f", e->cost);
    buf_puts(out, "\n  (if 4 of 5 rows are accepted, at 4 bytes a token and 45 tokens a row)\n");
    if (e->most > 0) buf_printf(out, "  the most that one request can cost: %.6f\n", e->most);
    buf_free(&url);
}

static ErrCode dry_run(const SynthOptions *o, const SynthCmdOptions *c, FILE *out, Err *err) {
    Buf bodies = {0}, text = {0};
    SynthEstimate estimate;
    ErrCode rc = synth_preview(&bodies, &estimate, o, (size_t)c->dry_run, err);
    if (rc == ERR_OK && c->json) { /* one request a line, the estimate last */
        buf_put(&text, bodies.data, bodies.len);
        buf_printf(&text,
                   "{\"requests\":%.0f,\"tokens_in\":%.0f,\"tokens_out\":%.0f,\"cost\":%.6f,\"most\":%.6f}\n",
                   estimate.requests, estimate.tokens_in, estimate.tokens_out, estimate.cost, estimate.most);
    } else if (rc == ERR_OK) {
        rc = put_requests(&text, &bodies, err);
        put_estimate(&text, o->plan, &estimate);
    }
    if (rc == ERR_OK) rc = buf_print(&text, out, err);
    buf_free(&bodies);
    buf_free(&text);
    return rc;
}

/* ---- runs ---- */

/* What is already at --out and beside it. */
static ErrCode check_out(const SynthCmdOptions *o, Err *err) {
    Buf journal = {0}, old = {0};
    buf_printf(&journal, "%s.journal", o->out);
    buf_printf(&old, "%s.journal.old", o->out);
    ErrCode rc = buf_ok(&journal, err);
    if (rc == ERR_OK) rc = buf_ok(&old, err);
    const bool has = rc == ERR_OK && file_exists(journal.data);
    if (rc == ERR_OK && o->overwrite) {
        if (has && rename(journal.data, old.data) != 0)
            rc = err_set(err, ERR_IO, "%s: cannot be renamed", journal.data);
    } else if (rc == ERR_OK && !has && o->finish) {
        rc = err_set(err, ERR_ARGUMENT, "--finish: there is no journal %s", journal.data);
    } else if (rc == ERR_OK && !has && file_exists(o->out)) {
        rc = err_set(err, ERR_ARGUMENT, "%s exists and has no journal beside it; --overwrite replaces it",
                     o->out);
    }
    buf_free(&journal);
    buf_free(&old);
    return rc;
}

static ErrCode run(const SynthOptions *o, const SynthCmdOptions *c, FILE *out, Err *err) {
    SynthReport report;
    Buf text = {0};
    TRY(check_out(c, err));
    ErrCode rc = synth_run(&report, o, err);
    if (rc == ERR_OK) {
        if (c->json)
            put_json(&text, o->plan, &report, c->out);
        else
            put_table(&text, o->plan, &report, c->out);
        rc = buf_print(&text, out, err);
    }
    synth_report_free(&report);
    buf_free(&text);
    return rc;
}

static ErrCode synth_command(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const SynthCmdOptions *c = options;
    SynthPlan plan;
    SynthOptions o = {
        .plan = &plan, .out = c->out, .examples = &c->examples, .against = &c->against, .ask = !c->finish};
    progress_quiet(c->quiet);
    if (!c->out && !c->dry_run) return err_set(err, ERR_ARGUMENT, "--out is missing: where do the rows go?");
    if (!c->out) o.out = "router-synth"; /* beginning of the names of copies of pipes */
    ErrCode rc = synth_plan_read(&plan, arguments->items[0], err);
    if (rc == ERR_OK) {
        override(&plan, c);
        rc = threads_open(&o.threads, (int)c->threads, err);
    }
    if (rc == ERR_OK) rc = c->dry_run ? dry_run(&o, c, out, err) : run(&o, c, out, err);
    threads_close(o.threads);
    synth_plan_free(&plan);
    return rc;
}

const Command synth_cmd = {
    .name = "data synth",
    .summary = "ask a language model for synthetic prompts, within a budget",
    .usage = "data synth PLAN.json --out FILE [--examples PATH]... [--against PATH]...",
    .details =
        "The plan (configs/synth-modem.json is one to start from) names an OpenAI-compatible endpoint, the\n"
        "domains, topics, styles, lengths, difficulties, personas and languages to combine, hard negatives "
        "between\n"
        "domains, how many rows are wanted, a judge, and limits of rows, requests, tokens, cost and "
        "minutes.\n\n"
        "The key comes from the environment: from the variable that the plan names (api_key_env), else from\n"
        "ROUTER_API_KEY, for api.openai.com also from OPENAI_API_KEY. It is written nowhere. Redirects to\n"
        "other hosts are refused. A proxy is used where the environment names one, but not for this "
        "machine.\n\n"
        "Every answer is in FILE.journal before it counts. After Ctrl-C, kill -9 or a power cut the same "
        "command\n"
        "goes on: nothing that was answered is asked or paid again, and the rows are those of an unbroken "
        "run.\n"
        "Limits hold whatever happens: what a request can cost at most is set aside before it is sent.\n\n"
        "A row is dropped that is too short or long, resembles a row given or accepted before, overlaps a\n"
        "benchmark, or (with a judge) gets too few votes for its label.\n\n"
        "Examples:\n"
        "  router data synth configs/synth-modem.json --dry-run 2\n"
        "  router data synth plan.json --out synth.jsonl --examples real.jsonl --against mmlu.jsonl "
        "--max-cost 5\n"
        "  router data synth plan.json --out synth.jsonl --finish\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(SynthCmdOptions),
    .positional_min = 1,
    .positional_max = 1,
    .run = synth_command,
};
