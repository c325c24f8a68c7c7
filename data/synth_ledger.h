/* data/synth_ledger.h - what was asked, answered and spent, and the rows that follow from it.
 *
 * All of it is in a journal (data/journal.h), whose entries are objects with these members:
 *   kind "plan"    version, plan, examples, wording: digests of what the requests depend on; the first entry
 *   kind "open"    a run begins; what was sent before it and has no answer is lost
 *   kind "sent"    job, i, n, in, out, cost: a request that is about to be sent, with the most it can cost
 *   kind "answer"  job, i, n, in, out, cost, time, list (or why there is none): a request that was paid
 *   kind "failed"  job, i, n, lost: a request without an answer; lost: it may have been paid nevertheless
 *   kind "gone"    job, i, n: it is not asked again
 * Jobs: "topics" of domain i (n: attempt), "rows" of request i, "judge" of the answer to request i (n: vote).
 *
 * Answers arrive in any order and rows are accepted in the order of requests, so that the rows are a function of the answers
 * alone: a run that was killed and resumed ends with the same rows as one that was not. */
#ifndef DATA_SYNTH_LEDGER_H
#define DATA_SYNTH_LEDGER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "data/chat.h"
#include "data/near.h"
#include "data/overlap.h"
#include "data/synth_plan.h"
#include "data/synth_prompt.h"

#define SYNTH_LEDGER_TOPIC_TRIES 3
#define SYNTH_LEDGER_WINDOW      1024 /* requests at most beyond the first without an answer */
#define SYNTH_LEDGER_STALE       30   /* so many requests without a new row: a domain is exhausted */

typedef enum { SYNTH_JOB_TOPICS, SYNTH_JOB_ROWS, SYNTH_JOB_JUDGE } SynthJobKind;

typedef struct {
    SynthJobKind kind;
    uint64_t i;
    int n;
} SynthJob;

typedef enum {
    SYNTH_DROP_UNFIT,   /* no text, too short or too long */
    SYNTH_DROP_AGAINST, /* in a benchmark */
    SYNTH_DROP_REPEAT,  /* like a row that was given or accepted before */
    SYNTH_DROP_JUDGED,  /* the judge sees another label */
    SYNTH_DROP_SURPLUS, /* its domain was complete */
    SYNTH_DROPS
} SynthDrop;
const char *synth_ledger_drop(SynthDrop drop); /* "in a benchmark" */

typedef struct {
    uint64_t rows, requests, items; /* accepted; requests consumed, and what they gave */
    uint64_t dropped[SYNTH_DROPS];
    uint64_t stale; /* requests since the last accepted row */
    bool exhausted;
} SynthTally;

typedef struct {
    char *text;
    uint64_t request;
    uint32_t item;
    char time[24];
} SynthRow;

/* To look at; everything is the ledger's. */
typedef struct {
    const SynthPlan *plan;
    SynthMaterial material;
    SynthTally *tallies; /* of each domain */
    SynthRow *rows;
    uint64_t row_count;
    uint64_t requests, answers, gone; /* requests sent, of all runs */
    ChatSpend spent, lost, reserved;  /* answered; sent and never answered; on its way (the most it can be) */
} SynthView;

typedef struct SynthLedger SynthLedger;

/* examples: lists for each domain. near: holds what was given, and takes the accepted rows. overlap: NULL or the benchmarks.
 * All are borrowed. ERR_ARGUMENT when the journal is of another plan. */
ErrCode synth_ledger_open(SynthLedger **out, const SynthPlan *plan, FlagList *examples, Near *near,
                          const Overlap *overlap, const char *journal, Err *err) ERR_CHECKED;
void synth_ledger_close(SynthLedger *ledger);
const SynthView *synth_ledger_view(const SynthLedger *ledger);

/* The next job worth asking, marked as taken; false when there is none for now. */
bool synth_ledger_next(SynthLedger *ledger, SynthJob *job);
/* Body of its request. */
ErrCode synth_ledger_body(const SynthLedger *ledger, const SynthJob *job, Buf *body, Err *err) ERR_CHECKED;
/* Gives a job back that was not sent. */
void synth_ledger_return(SynthLedger *ledger, const SynthJob *job);

/* Entries; durable after synth_ledger_sync. most: the most a request can cost. list: of the answer, NULL with why. */
ErrCode synth_ledger_sent(SynthLedger *ledger, const SynthJob *job, ChatSpend most, Err *err) ERR_CHECKED;
ErrCode synth_ledger_answered(SynthLedger *ledger, const SynthJob *job, ChatSpend spent, cJSON *list,
                              const char *why, Err *err) ERR_CHECKED;
ErrCode synth_ledger_failed(SynthLedger *ledger, const SynthJob *job, bool lost, Err *err) ERR_CHECKED;
/* Not asked again in this run; and in none, once a later request is answered (a server that is down fails all). */
ErrCode synth_ledger_gone(SynthLedger *ledger, const SynthJob *job, Err *err) ERR_CHECKED;
ErrCode synth_ledger_sync(SynthLedger *ledger, Err *err) ERR_CHECKED;

/* Accepts rows as far as the answers reach; with `all`, past requests without an answer. */
ErrCode synth_ledger_advance(SynthLedger *ledger, bool all, Err *err) ERR_CHECKED;
/* Every domain has its rows (or is exhausted), or the plan's limit of rows is reached. */
bool synth_ledger_complete(const SynthLedger *ledger);
/* Topics were asked for SYNTH_LEDGER_TOPIC_TRIES times in vain: the domain, or SIZE_MAX. */
size_t synth_ledger_without_topics(const SynthLedger *ledger);

#endif
