/* data/ask.h - asks models many questions at once, within limits, and again where servers fail.
 *
 * The client says what is asked next, writes down what happens (so that a run that is ended goes on where it was), and takes
 * the answers; all of it is called from the thread of ask_run. A question has a slot from `next` until it is answered, refused,
 * gone or put back: a number below the questions at a time, at which the client keeps what it has to know of it.
 *
 * Failures: timeouts, lost connections, 408, 425, 429, 5xx and answers that are no completions are tried again with growing,
 * jittered pauses, after Retry-After where that is longer; a 429 also halves the number of requests at a time to that model,
 * which answers raise again. Any other 4xx refuses one question. Wrong keys, used up quotas, wrong addresses and redirects to
 * another host (401, 402, 403, 404, 405, 3xx) end the run, and so does the client when refused or gone tells it that too many
 * were in a row.
 *
 * Each attempt is made durable before it is sent, over a connection of its own, so that no library repeats it behind our back.
 * The limit of time is that of one run: nothing is sent that would probably not be answered within it, and what is on its way
 * when it ends is cut off. */
#ifndef DATA_ASK_H
#define DATA_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "data/chat.h"

#define ASK_AT_ONCE_MAX  256
#define ASK_IN_A_ROW_MAX 5 /* questions of a model that are refused, or get no answer */

typedef struct {
    size_t at_once, models;    /* requests at a time, up to ASK_AT_ONCE_MAX; models that are paced apart */
    int64_t attempts;          /* of a question */
    double minutes;            /* 0: no limit */
    double pause_s, longest_s; /* first pause between attempts, and the longest */
    double retry_after_s;      /* the most that a server may ask to wait; more ends the run */
    const char *allows,
        *unkeyed;  /* words of messages: "the plan allows" (600 seconds); " (what to do without a key)" */
    uint64_t seed; /* of the jitter */
} AskRule;

typedef struct {
    const Chat *chat; /* borrowed until the slot is free */
    size_t model;     /* below AskRule.models */
    uint64_t key;     /* of the jitter: one for each question */
    Buf body;         /* taken over */
} AskJob;

typedef struct {
    void *arg;
    /* At each turn, before more is asked; NULL: nothing to do. *done ends the run. */
    ErrCode (*turn)(void *arg, bool *done, Err *err);
    /* *got false: there is nothing to ask for now. */
    ErrCode (*next)(void *arg, size_t slot, AskJob *job, bool *got, Err *err);
    /* The limit that sending it would break, or NULL. */
    const char *(*limit)(void *arg, size_t slot);
    /* It is not asked, or (tried) not again, in this run: a limit is in the way. */
    void (*put_back)(void *arg, size_t slot, bool tried);
    /* Entries; durable after sync. lost: it may have been paid nevertheless. */
    ErrCode (*sent)(void *arg, size_t slot, Err *err);
    ErrCode (*failed)(void *arg, size_t slot, bool lost, Err *err);
    ErrCode (*answered)(void *arg, size_t slot, const ChatAnswer *answer, double seconds, Err *err);
    /* keep: its model has answered others, so that the refusal is one of this question. */
    ErrCode (*refused)(void *arg, size_t slot, const char *why, int in_a_row, bool keep, Err *err);
    /* All attempts have failed. */
    ErrCode (*gone)(void *arg, size_t slot, const char *why, int in_a_row, Err *err);
    ErrCode (*sync)(void *arg, Err *err);
    /* Whether a stream that was lost is worth keeping for the text it gave; NULL: never. */
    bool (*keeps)(void *arg, size_t slot, const Buf *text);
    void (*show)(void *arg, size_t on_their_way);
} AskClient;

typedef struct {
    uint64_t requests, answers, retries, throttled, refused, gone; /* throttled: 429s */
    double seconds;
    Err failure;         /* what the last request that was tried again died of; no message: none was */
    const char *stopped; /* the limit that ended it: what `limit` says, or "time"; NULL: none */
} AskRun;

/* ERR_OK also when a limit was reached; ERR_INTERRUPTED when stopped by a signal. Everything that was written down is durable
 * then. */
ErrCode ask_run(AskRun *run, const AskRule *rule, const AskClient *client, Err *err) ERR_CHECKED;

/* Limits of all runs on one journal. */
typedef struct {
    int64_t requests, tokens; /* 0: no limit */
    double cost;
} AskLimits;
/* The one that one more request would break, or NULL. requests: that were sent; sum: the new one's included. */
const char *ask_limit(const AskLimits *limits, uint64_t requests, const ChatSpend *sum);

#endif
