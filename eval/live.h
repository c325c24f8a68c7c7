/* eval/live.h - asks experts and the judge what a LiveBook needs, many requests at once.
 *
 * Failures: timeouts, lost connections, 408, 425, 429, 5xx and answers that are no completions are tried again with growing,
 * jittered pauses, after Retry-After where that is longer; a 429 also halves the number of requests at a time to that model,
 * which answers raise again. What has failed `attempts` times is left for the next run. Any other 4xx refuses one question: a wrong
 * answer. Keys and addresses that do not work (401, 403, 404, redirects), models that refuse everything and servers that are
 * down end the run; what was answered is in the journal.
 *
 * Each attempt is made durable before it is sent, over a connection of its own, so that no library repeats it behind our
 * back. The limit of time is that of one run: nothing is sent after it, and what is on its way then is cut off. */
#ifndef EVAL_LIVE_H
#define EVAL_LIVE_H

#include <stdint.h>

#include "core/err.h"
#include "eval/live_book.h"

#define LIVE_CONCURRENCY_MAX 256

typedef struct {
    LiveLimits limits;
    double minutes; /* 0: no limit */
    int64_t concurrency, attempts;
    double pause_s, longest_s; /* first pause between attempts, and the longest */
    double retry_after_s;      /* the most that a server may ask to wait; more ends the run */
    uint64_t seed;             /* of the jitter */
} LiveRule;

typedef struct {
    uint64_t requests, retries, throttled, refused, gone; /* of this run */
    double seconds;
    const char *stopped; /* the limit that ended it: "requests", "tokens", "cost", "time"; NULL: none */
} LiveRun;

/* ERR_OK also when a limit was reached. ERR_INTERRUPTED when stopped by a signal. */
ErrCode live_run(LiveRun *run, LiveBook *book, const LiveRule *rule, Err *err) ERR_CHECKED;

#endif
