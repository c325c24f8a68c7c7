/* eval/live.h - asks experts and the judge what a LiveBook needs: data/ask.h says how, and what happens where servers fail.
 *
 * A question that is refused counts as a wrong answer, also in the runs to come, once its model has answered others: a model that
 * refuses everything is asked in a way it does not understand. One that got no answer in all attempts is left for the next
 * run. */
#ifndef EVAL_LIVE_H
#define EVAL_LIVE_H

#include "core/err.h"
#include "data/ask.h"
#include "eval/live_book.h"

/* rule: its models and words are set here. ERR_OK also when a limit was reached. ERR_INTERRUPTED when stopped by a signal. */
ErrCode live_run(AskRun *run, LiveBook *book, const AskRule *rule, const AskLimits *limits,
                 Err *err) ERR_CHECKED;

#endif
