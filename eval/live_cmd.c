#include "eval/live_cmd.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/threads.h"
#include "data/names.h"
#include "eval/answers.h"
#include "eval/live.h"
#include "eval/live_prompt.h"
#include "eval/live_report.h"
#include "eval/rowset.h"

typedef struct {
    RowsetOptions rows;
    FlagList against;
    char *experts, *out, *grade, *choices_field, *answer_field;
    double threshold, max_cost, max_minutes, pause;
    bool route_options, shuffle_options, skip_ungradable, dry_run, json;
    int64_t sample, seed, max_requests, max_tokens, concurrency, attempts;
    PredictOptions model;
} Options;

typedef struct {
    const Options *options;
    Threads *threads;
    Answers answers;
    Experts experts;
    Rowset set;
    LiveQuestions questions;
    LiveBook *book;
    double *p; /* (n, K) */
    int *sent; /* (n) experts */
    bool *abstained, *wanted;
    double *router_cost;
    char *journal;
} Live;

static void close_all(Live *l) {
    live_book_close(l->book);
    live_question_free(&l->questions);
    rowset_free(&l->set);
    experts_free(&l->experts);
    answers_close(&l->answers);
    threads_close(l->threads);
    mem_free(l->p);
    mem_free(l->sent);
    mem_free(l->abstained);
    mem_free(l->wanted);
    mem_free(l->router_cost);
    mem_free(l->journal);
}

static size_t row_count(const Live *l) {
    return l->set.rows.count;
}

/* ---- rows ---- */

static LiveGrade grade_of(const char *name) {
    if (strcmp(name, "letter") == 0) return LIVE_GRADE_LETTER;
    return strcmp(name, "judge") == 0 ? LIVE_GRADE_JUDGE : LIVE_GRADE_AUTO;
}

/* Draws the rows, and puts all into the order of the draw: where a limit ends the run early, what was asked is a random
 * sample. With the same seed the first n rows are the same for any larger n. */
static ErrCode draw(Live *l, Err *err) {
    Rowset *set = &l->set;
    const size_t n = set->rows.count, sample = (size_t)l->options->sample;
    const size_t kept = sample && sample < n ? sample : n;
    uint32_t *order = NULL;
    Row *rows = NULL;
    LiveQuestion *questions = NULL;
    if (n >= UINT32_MAX) return err_set(err, ERR_ARGUMENT, "too many rows");
    ErrCode rc = mem_new(&order, n, sizeof *order, "the rows", err);
    if (rc == ERR_OK) rc = mem_new(&rows, n, sizeof *rows, "the rows", err);
    if (rc == ERR_OK) rc = mem_new(&questions, n, sizeof *questions, "the rows", err);
    for (size_t i = 0; rc == ERR_OK && i < n; i++) order[i] = (uint32_t)i;
    if (rc == ERR_OK) rng_shuffle(order, n, rng_key((uint64_t)l->options->seed, "live sample", 0));
    for (size_t i = 0; rc == ERR_OK && i < kept; i++) {
        rows[i] = set->rows.items[order[i]];
        questions[i] = l->questions.items[order[i]];
    }
    mem_free(order);
    if (rc != ERR_OK) {
        mem_free(rows);
        mem_free(questions);
        return rc;
    }
    mem_free(set->rows.items);
    mem_free(l->questions.items);
    set->rows.items = rows;
    set->rows.cap = n;
    l->questions.items = questions;
    l->questions.cap = n;
    set->rows.count = l->questions.count = kept;
    mem_free(set->texts);
    mem_free(set->labels);
    set->texts = NULL;
    set->labels = NULL;
    return rows_views(&set->texts, &set->labels, &set->rows, err);
}

static ErrCode check_ids(const Live *l, Err *err) {
    Names ids = {0};
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < row_count(l) && rc == ERR_OK; i++) {
        size_t at;
        rc = names_add(&at, &ids, rows_id(&l->set.rows, i), err);
        if (rc == ERR_OK && at != i)
            rc = err_set(err, ERR_FORMAT, "two rows have the id '%.80s': answers are told apart by it",
                         rows_id(&l->set.rows, i));
    }
    names_free(&ids);
    return rc;
}

static ErrCode open_rows(Live *l, Err *err) {
    const Options *o = l->options;
    l->questions.rule = (LiveQuestionRule){.choices_field = o->choices_field,
                                           .answer_field = o->answer_field,
                                           .grade = grade_of(o->grade),
                                           .with_options = o->route_options,
                                           .shuffle = o->shuffle_options,
                                           .skip = o->skip_ungradable,
                                           .seed = (uint64_t)o->seed};
    const RowsetRule rule = {.take = live_question_take, .arg = &l->questions};
    TRY(rowset_open(&l->set, &o->rows, &rule, answers_labels(&l->answers), answers_classes(&l->answers),
                    err));
    TRY(check_ids(l, err));
    return draw(l, err);
}

/* ---- who is asked what ---- */

/* The bare questions, nothing else, are what the router is given. */
static ErrCode route(Live *l, Err *err) {
    const Options *o = l->options;
    const size_t n = row_count(l), K = (size_t)l->experts.K;
    if (!l->experts.routes)
        return err_set(err, ERR_ARGUMENT,
                       "%s: routes: expected the expert of each label, {\"label\": \"expert\", ...}",
                       l->experts.path);
    if (o->threshold > 0 && l->experts.fallback < 0)
        return err_set(err, ERR_ARGUMENT, "%s: --threshold needs a fallback: the name of an expert",
                       l->experts.path);
    TRY(mem_new(&l->p, n * K, sizeof *l->p, "probabilities", err));
    TRY(mem_new(&l->sent, n, sizeof *l->sent, "the routes", err));
    TRY(mem_new(&l->abstained, n, sizeof *l->abstained, "the routes", err));
    TRY(mem_new(&l->router_cost, n, sizeof *l->router_cost, "the routes", err));
    TRY(answers_match(&l->answers, &l->set.rows, err));
    TRY(answers_all(&l->answers, l->p, NULL, l->set.texts, n, "route", err));
    for (size_t i = 0; i < n; i++) {
        const double *p = l->p + i * K;
        const int best = metrics_best(p, (int)K);
        l->abstained[i] = o->threshold > 0 && p[best] < o->threshold;
        l->sent[i] = l->abstained[i] ? l->experts.fallback : l->experts.routes[best];
        l->router_cost[i] =
            1e-6 * ceil((double)l->set.texts[i].n / EXPERTS_TOKEN_BYTES) * l->experts.router_price_in;
    }
    return ERR_OK;
}

static ErrCode mark_single(Live *l, const char *name, Err *err) {
    const bool all = strcmp(name, "all") == 0;
    bool found = all;
    for (int x = 0; x < l->experts.count; x++) {
        if (!all && strcmp(l->experts.items[x].name, name) != 0) continue;
        found = true;
        for (size_t i = 0; i < row_count(l); i++) l->wanted[i * (size_t)l->experts.count + (size_t)x] = true;
    }
    if (found) return ERR_OK;
    return err_set(err, ERR_ARGUMENT, "--against: '%.80s' is no expert of %s; expected a name, all or none",
                   name, l->experts.path);
}

static ErrCode mark_wanted(Live *l, Err *err) {
    const FlagList *against = &l->options->against;
    const size_t n = row_count(l), E = (size_t)l->experts.count;
    TRY(mem_new(&l->wanted, n * E, sizeof *l->wanted, "the questions to ask", err));
    for (size_t i = 0; i < n; i++) l->wanted[i * E + (size_t)l->sent[i]] = true;
    if (!against->count) return mark_single(l, "all", err);
    for (size_t i = 0; i < against->count; i++)
        if (strcmp(against->items[i], "none") != 0) TRY(mark_single(l, against->items[i], err));
    return ERR_OK;
}

/* Keys of all that may be asked, and a limit where that costs money. */
static ErrCode check_spending(Live *l, Err *err) {
    const Options *o = l->options;
    const size_t n = row_count(l), E = (size_t)l->experts.count;
    bool judge = false, priced = false;
    for (size_t i = 0; i < n; i++) judge |= l->questions.items[i].right < 0;
    for (size_t x = 0; x < E; x++) {
        Expert *expert = &l->experts.items[x];
        bool used = false;
        for (size_t i = 0; i < n && !used; i++) used = l->wanted[i * E + x];
        if (!used) continue;
        priced |= expert->price_in + expert->price_out > 0;
        if (!o->dry_run) TRY(chat_unlock(&expert->chat, err));
    }
    if (judge && !o->dry_run) TRY(chat_unlock(&l->experts.judge, err));
    if (judge) priced |= l->experts.judge.price_in + l->experts.judge.price_out > 0;
    if (o->max_cost > 0 && !priced)
        return err_set(err, ERR_ARGUMENT, "--max-cost needs prices: price_in and price_out of %s",
                       l->experts.path);
    if (!priced || o->dry_run || o->max_cost > 0 || o->max_tokens || o->max_requests) return ERR_OK;
    return err_set(err, ERR_ARGUMENT,
                   "the answers cost money: give --max-cost (or --max-tokens, --max-requests); --dry-run "
                   "says what they cost at "
                   "most");
}

static ErrCode open_all(Live *l, const char *model, Err *err) {
    const Options *o = l->options;
    if (!o->experts)
        return err_set(err, ERR_ARGUMENT, "--experts: expected the JSON file that describes them");
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected a folder for answers and results");
    TRY(threads_open(&l->threads, (int)o->model.threads, err));
    const PredictRule rule = predict_options_rule(&o->model);
    TRY(answers_open(&l->answers, model, &rule, l->threads, err));
    TRY(experts_read(&l->experts, o->experts, answers_labels(&l->answers), answers_classes(&l->answers),
                     err));
    TRY(open_rows(l, err));
    TRY(route(l, err));
    TRY(mark_wanted(l, err));
    TRY(check_spending(l, err));
    if (!o->dry_run) TRY(file_mkdirs(o->out, err));
    l->journal = file_join(o->out, "journal.jsonl");
    if (!l->journal) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const bool read = !o->dry_run || file_exists(l->journal);
    return live_book_open(&l->book, &l->experts, &l->questions, &l->set.rows, l->wanted,
                          read ? l->journal : NULL, err);
}

/* ---- what comes out ---- */

static ErrCode dry_run(Live *l, FILE *out, Err *err) {
    const LiveView *v = live_book_view(l->book);
    const Chat *judge = &l->experts.judge;
    Buf body = {0}, first = {0}, text = {0};
    uint32_t ask;
    uint64_t asks = 0, judged = 0;
    ChatSpend most = {0};
    ErrCode rc = ERR_OK;
    while (rc == ERR_OK && live_book_next(l->book, &ask)) {
        rc = live_book_body(l->book, ask, &body, err);
        if (rc == ERR_OK && !asks++) buf_put(&first, body.data, body.len);
        chat_add(&most, &v->asks[ask].most, 1);
        const LiveQuestion *q = &l->questions.items[v->asks[ask].cell / (uint32_t)v->E];
        if (v->asks[ask].judge || q->right >= 0) continue;
        buf_clear(&body);
        live_prompt_judge(&body, &l->questions, q, "", 0);
        const ChatSpend more =
            chat_spend(judge, chat_tokens_in(&body) + LIVE_PROMPT_JUDGED_BYTES, judge->max_tokens);
        chat_add(&most, &more, 1);
        judged++;
    }
    buf_printf(
        &text,
        "%zu rows, %d experts: %llu requests have an answer, %llu would be sent, and %llu to the judge.\n"
        "At most %lld tokens in and %lld out, for %.4f %s; as a rule a small part of it.\n",
        v->n, v->E, (unsigned long long)v->done, (unsigned long long)asks, (unsigned long long)judged,
        (long long)most.in, (long long)most.out, most.cost, l->experts.currency);
    if (first.len)
        buf_printf(&text, "\nThe first:\n%.*s\n", (int)(first.len < 4000 ? first.len : 4000), first.data);
    if (rc == ERR_OK) rc = buf_print(&text, out, err);
    buf_free(&body);
    buf_free(&first);
    buf_free(&text);
    return rc;
}

static ErrCode unfinished(const Live *l, const AskRun *run, size_t n, Err *err) {
    if (run->stopped)
        return err_set(err, ERR_GATE,
                       "the limit of %s was reached: %zu of %zu rows have all their answers; raise it, and "
                       "the same command goes on",
                       run->stopped, n, row_count(l));
    return err_set(
        err, ERR_GATE,
        "%zu of %zu rows have all their answers: servers failed; the same command asks for the rest", n,
        row_count(l));
}

static ErrCode report(const Live *l, const AskRun *run, FILE *out, Err *err) {
    const Options *o = l->options;
    const LiveRoutes routes = {l->sent, l->abstained, l->set.labels, l->wanted, l->router_cost};
    LiveScore score = {0};
    Buf json = {0}, table = {0};
    ErrCode rc = live_score_compute(&score, l->book, &l->experts, &routes, l->experts.K, err);
    if (rc == ERR_GATE) return unfinished(l, run, 0, err);
    TRY(rc);
    const LiveReport r = {.path = l->answers.path,
                          .kind = answers_kind(&l->answers),
                          .labels = answers_labels(&l->answers),
                          .set = l->set.name.data,
                          .rows = &l->set.rows,
                          .p = l->p,
                          .threshold = o->threshold > 0 ? o->threshold : -1,
                          .sample = o->sample,
                          .seed = (uint64_t)o->seed,
                          .skipped = l->set.rows.skipped,
                          .questions = &l->questions,
                          .experts = &l->experts,
                          .book = l->book,
                          .routes = &routes,
                          .run = run,
                          .score = &score};
    live_report_json(&json, &r);
    live_report_table(&table, &r);
    rc = buf_ok(&json, err);
    if (rc == ERR_OK) rc = live_report_save(&r, o->out, &json, err);
    if (rc == ERR_OK) rc = buf_print(o->json ? &json : &table, out, err);
    if (rc == ERR_OK && score.left_out) rc = unfinished(l, run, score.n, err);
    live_score_free(&score);
    buf_free(&json);
    buf_free(&table);
    return rc;
}

static ErrCode run_all(Live *l, const char *model, FILE *out, Err *err) {
    const Options *o = l->options;
    const AskLimits limits = {o->max_requests, o->max_tokens, o->max_cost};
    const AskRule rule = {.at_once = (size_t)o->concurrency,
                          .attempts = o->attempts,
                          .minutes = o->max_minutes,
                          .pause_s = o->pause,
                          .longest_s = fmax(60, o->pause),
                          .retry_after_s = 600,
                          .seed = (uint64_t)o->seed};
    AskRun run;
    TRY(open_all(l, model, err));
    if (o->dry_run) return dry_run(l, out, err);
    const ErrCode rc = live_run(&run, l->book, &rule, &limits, err);
    if (rc == ERR_INTERRUPTED) {
        const LiveView *v = live_book_view(l->book);
        return err_set(err, rc,
                       "interrupted; %llu of %llu answers are in %s, and the same command goes on from there",
                       (unsigned long long)v->done, (unsigned long long)v->wanted, l->journal);
    }
    return rc == ERR_OK ? report(l, &run, out, err) : rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Live l = {.options = options};
    progress_quiet(l.options->model.quiet);
    const ErrCode rc = run_all(&l, arguments->items[0], out, err);
    close_all(&l);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    ROWSET_FLAGS(Options, rows),
    {"choices_field", NULL, FLAG_STRING, AT(choices_field), NULL, 0, 0, "NAME",
     "Member with the options; default choices or options."},
    {"answer_field", NULL, FLAG_STRING, AT(answer_field), NULL, 0, 0, "NAME",
     "Member with the right one, or with the text to compare with; default answer, answer_key, reference or "
     "solution."},
    {"skip_ungradable", NULL, FLAG_BOOL, AT(skip_ungradable), NULL, 0, 0, NULL,
     "Leave out rows without a right answer, instead of stopping."},
    {"sample", NULL, FLAG_INT, AT(sample), "0", 0, 1e9, NULL,
     "Draw so many rows; 0: all. A larger sample begins with a smaller one."},
    {"seed", NULL, FLAG_INT, AT(seed), "0", 0, 9007199254740992.0, NULL,
     "Of the draw and of shuffled options."},
    {"experts", NULL, FLAG_STRING, AT(experts), NULL, 0, 0, "FILE",
     "#Experts\nJSON file: each expert's endpoint and prices, routes and the judge (see below)."},
    {"against", NULL, FLAG_LIST, AT(against), NULL, 0, 0, "NAME",
     "Single models to compare with, which are then asked every question: all (the default), none, or names "
     "of experts."},
    {"threshold", NULL, FLAG_FLOAT, AT(threshold), "0", 0, 1, NULL,
     "Where the router's highest probability is below it, the fallback expert answers."},
    {"route_options", NULL, FLAG_BOOL, AT(route_options), NULL, 0, 0, NULL,
     "#Protocol\nThe router sees the options, too; by default the bare question alone."},
    {"shuffle_options", NULL, FLAG_BOOL, AT(shuffle_options), NULL, 0, 0, NULL,
     "Show options in an order drawn by seed and row."},
    {"grade", NULL, FLAG_CHOICE, AT(grade), "auto", 0, 0, "auto|letter|judge",
     "By the letter that is named, or by the judge; auto: by letter where a row has options."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "DIR",
     "#Run\nFolder for the journal of all answers and for the results; the same command goes on from it."},
    {"dry_run", NULL, FLAG_BOOL, AT(dry_run), NULL, 0, 0, NULL,
     "Say what would be sent and what it costs at most; send nothing."},
    {"max_cost", NULL, FLAG_FLOAT, AT(max_cost), "0", 0, 1e12, NULL,
     "Money, by the prices, of all runs on this folder; a request that could exceed it is not sent. 0: no "
     "limit."},
    {"max_tokens", NULL, FLAG_INT, AT(max_tokens), "0", 0, 1e15, NULL, "Likewise tokens, in and out."},
    {"max_requests", NULL, FLAG_INT, AT(max_requests), "0", 0, 1e12, NULL,
     "Likewise requests, failed ones included."},
    {"max_minutes", NULL, FLAG_FLOAT, AT(max_minutes), "0", 0, 1e7, NULL,
     "Minutes, of this run; requests are cut off then."},
    {"concurrency", NULL, FLAG_INT, AT(concurrency), "8", 1, ASK_AT_ONCE_MAX, NULL, "Requests at a time."},
    {"attempts", NULL, FLAG_INT, AT(attempts), "5", 1, 100, NULL, "Of each request, in a run."},
    {"pause", NULL, FLAG_FLOAT, AT(pause), "1", 0.001, 3600, NULL,
     "Seconds before the second attempt; each further pause is twice as long, up to a minute."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    PREDICT_FLAGS(Options, model),
};

const Command live_cmd = {
    .name = "live",
    .summary = "ask the experts for real: the routed system against each single model",
    .usage = "live MODEL --experts FILE --data FILE --out DIR [OPTIONS]",
    .details =
        "MODEL is a run folder, a Hugging Face folder, an exported file, or a file of answers (eval "
        "--predictions, predict). Each\n"
        "row has a text, a label and the right answer: {\"id\", \"text\", \"label\", \"choices\": [...], "
        "\"answer\": \"B\"}, or a\n"
        "text to compare with for a judge. The experts speak OpenAI's chat completions:\n"
        "  {\"experts\": [{\"name\": \"math-7b\", \"base_url\": \"http://127.0.0.1:8000/v1\", \"model\": "
        "\"math-7b\",\n"
        "                \"price_in\": 0.2, \"price_out\": 0.2, \"api_key_env\": \"MATH_KEY\", "
        "\"max_tokens\": 2048}, ...],\n"
        "   \"routes\": {\"math\": \"math-7b\", ...}, \"fallback\": \"general-8b\",\n"
        "   \"judge\": {\"base_url\": ..., \"model\": ..., \"price_in\": ..., \"price_out\": ...}}\n"
        "Further members: tokens_field (max_completion_tokens), temperature (0; null sends none), extra, "
        "timeout_seconds,\n"
        "connect_seconds. A key is read from the variable that api_key_env names, and is written nowhere.\n\n"
        "Zero-shot chain of thought at temperature 0, in one user turn. The router is given the bare "
        "question: subject lines,\n"
        "wrappers and other members of the row never reach it. Every question is asked of every expert once, "
        "and the same answers\n"
        "serve the router, each single model and the oracle. All answers are in DIR/journal.jsonl: a run "
        "that was ended, in any\n"
        "way, goes on with the same command, and pays for nothing twice that has been answered.\n\n"
        "Examples:\n"
        "  router live runs/first --experts experts.json --data mmlu.jsonl --map-field subject --label-map "
        "mmlu_domains.json \\\n"
        "         --split test --sample 500 --out live-mmlu --dry-run\n"
        "  ... the same with --max-cost 5 instead of --dry-run\n"
        "  router system runs/first --experts live-mmlu/experts.json --data live-mmlu/rows.jsonl\n\n"
        "Exit status 3: a limit was reached, or servers failed, before every row had its answers.\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 1,
    .takes_config = true,
    .run = run,
};
