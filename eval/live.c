#include "eval/live.h"

#include "core/progress.h"

typedef struct {
    LiveBook *book;
    const AskRule *rule;
    const AskLimits *limits;
    uint32_t asks[ASK_AT_ONCE_MAX]; /* by slot */
    Progress progress;
} Engine;

static ErrCode next_ask(void *arg, size_t slot, AskJob *job, bool *got, Err *err) {
    Engine *e = arg;
    const LiveView *v = live_book_view(e->book);
    uint32_t *ask = &e->asks[slot];
    *got = live_book_next(e->book, ask);
    if (!*got) return ERR_OK;
    job->chat = live_book_chat(e->book, *ask);
    job->model = v->asks[*ask].judge ? (size_t)v->E : v->asks[*ask].cell % (uint32_t)v->E;
    job->key = *ask;
    return live_book_body(e->book, *ask, &job->body, err);
}

static const char *limit_of(void *arg, size_t slot) {
    const Engine *e = arg;
    return live_book_limit(e->book, e->asks[slot], e->limits);
}

static void put_back(void *arg, size_t slot, bool tried) {
    Engine *e = arg;
    if (tried)
        live_book_gone(e->book, e->asks[slot]); /* in the next run there may be room for it */
    else
        live_book_return(e->book, e->asks[slot]);
}

static ErrCode write_sent(void *arg, size_t slot, Err *err) {
    Engine *e = arg;
    return live_book_sent(e->book, e->asks[slot], err);
}

static ErrCode write_failed(void *arg, size_t slot, bool lost, Err *err) {
    Engine *e = arg;
    return live_book_failed(e->book, e->asks[slot], lost, err);
}

static ErrCode take_answer(void *arg, size_t slot, const ChatAnswer *answer, double seconds, Err *err) {
    Engine *e = arg;
    const LiveSaid said = {.text = answer->content.data ? answer->content.data : "",
                           .n = answer->content.len,
                           .in = answer->tokens_in,
                           .out = answer->tokens_out,
                           .counted = answer->counted,
                           .cut = answer->cut,
                           .seconds = seconds};
    return live_book_answered(e->book, e->asks[slot], &said, err);
}

static ErrCode take_refusal(void *arg, size_t slot, const char *why, int in_a_row, bool keep, Err *err) {
    Engine *e = arg;
    TRY(live_book_refused(e->book, e->asks[slot], why, keep, err));
    if (in_a_row < ASK_IN_A_ROW_MAX) return ERR_OK;
    return err_set(err, ERR_IO, "%d questions in a row were refused: %s", in_a_row, why);
}

static ErrCode take_gone(void *arg, size_t slot, const char *why, int in_a_row, Err *err) {
    Engine *e = arg;
    live_book_gone(e->book, e->asks[slot]);
    if (in_a_row < ASK_IN_A_ROW_MAX) return ERR_OK;
    return err_set(err, ERR_IO, "%d questions in a row got no answer in %lld attempts: %s", in_a_row,
                   (long long)e->rule->attempts, why);
}

static ErrCode sync_book(void *arg, Err *err) {
    Engine *e = arg;
    return live_book_sync(e->book, err);
}

static void show(void *arg, size_t flying) {
    Engine *e = arg;
    if (!progress_due(&e->progress)) return;
    const LiveView *v = live_book_view(e->book);
    e->progress.total = v->wanted; /* grows: judgements come as answers do */
    progress_update(&e->progress, v->done, "%llu of %llu answers  cost %.4f  %llu requests, %zu at a time",
                    (unsigned long long)v->done, (unsigned long long)v->wanted,
                    v->spent.cost + v->judged.cost + v->lost.cost, (unsigned long long)v->requests, flying);
}

ErrCode live_run(AskRun *run, LiveBook *book, const AskRule *given, const AskLimits *limits, Err *err) {
    const LiveView *v = live_book_view(book);
    AskRule rule = *given;
    Engine e = {.book = book, .rule = &rule, .limits = limits};
    const AskClient client = {.arg = &e,
                              .next = next_ask,
                              .limit = limit_of,
                              .put_back = put_back,
                              .sent = write_sent,
                              .failed = write_failed,
                              .answered = take_answer,
                              .refused = take_refusal,
                              .gone = take_gone,
                              .sync = sync_book,
                              .show = show};
    rule.models = (size_t)v->E + 1; /* the experts, and the judge behind them */
    rule.allows = "more than";
    rule.unkeyed = " (no key was sent: name its variable in api_key_env)";
    progress_begin(&e.progress, "live", v->wanted, v->done);
    const ErrCode rc = ask_run(run, &rule, &client, err);
    progress_end(&e.progress);
    return rc;
}
