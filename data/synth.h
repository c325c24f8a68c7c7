/* data/synth.h - asks a model for prompts, many requests at once, within a budget.
 *
 * Limits: before a request is sent, the most that it can cost (chat_tokens_in, max_tokens, prices) is reserved together
 * with what is on its way, was spent, or may have been spent by requests that got no answer; one that does not fit is not sent.
 * So tokens and cost stay within the budget whatever the answers are, over all runs on one journal; the time is that of one run.
 * What a server counts beyond max_tokens or a token per byte is outside of that.
 *
 * Failures: as in data/ask.h. A request that is refused is not asked again. What ends the run leaves all that was answered in
 * the journal, and the next run goes on from there. */
#ifndef DATA_SYNTH_H
#define DATA_SYNTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"
#include "core/threads.h"
#include "data/synth_ledger.h"
#include "data/synth_plan.h"

typedef struct {
    SynthPlan *plan;          /* its models take their keys from the environment */
    const char *out;          /* .jsonl or .jsonl.zst; its journal is beside it: OUT.journal */
    const FlagList *examples; /* real rows with labels: shown to the model, and not to be repeated */
    const FlagList *against;  /* benchmarks, which no row may overlap */
    bool ask;                 /* false: only write what the journal has */
    Threads *threads;
} SynthOptions;

typedef struct {
    uint64_t wanted, rows;
    SynthTally *tallies;              /* of each domain; owned */
    uint64_t requests, answers, gone; /* of all runs */
    uint64_t retries, throttled, cut; /* of this one; throttled: 429s; cut: answers that reached max_tokens */
    ChatSpend spent, lost;
    bool complete;
    const char *stopped; /* the limit that ended the run: "tokens"; NULL: none */
} SynthReport;

/* Writes the rows to options->out when the plan is fulfilled or a limit is reached. ERR_INTERRUPTED and other
 * failures leave the journal, not the rows. Free the report in any case. */
ErrCode synth_run(SynthReport *report, const SynthOptions *options, Err *err) ERR_CHECKED;
void synth_report_free(SynthReport *report);

/* What would be sent: the bodies of the first `count` requests, and an estimate. Sends nothing, and leaves no journal. */
typedef struct {
    double requests, tokens_in, tokens_out,
        cost;    /* likely, the judge's included; if 4 of 5 rows are accepted */
    double most; /* the most one request can cost */
} SynthEstimate;
ErrCode synth_preview(Buf *bodies, SynthEstimate *estimate, const SynthOptions *options, size_t count,
                      Err *err) ERR_CHECKED;

/* Name of the environment variable that a model's key is taken from, or NULL: none is set. OPENAI_API_KEY goes to
 * api.openai.com alone, unless the plan names it. */
const char *synth_key_name(const Chat *model);

#endif
