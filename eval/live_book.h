/* eval/live_book.h - which questions are asked of which models, what was answered, and what all of it cost.
 *
 * An ask is one request body for one endpoint; its key is the beginning of the SHA-256 of both (64 bits: with a million asks
 * two share a key with a chance of 3 in 10^8). Cells (row, expert) with the same body share an ask, and so do runs: the
 * journal (data/journal.h) is a store of answers by key. A changed prompt, model, address or limit of tokens is another key;
 * more rows, other experts, labels or another router leave the keys, and the answers, as they are. Its entries:
 *   kind "sent"     key, judge, in, out, cost: a request that is about to be sent, with the most it can cost; lost where neither
 *                   an answer nor a failure follows before the next one or the end
 *   kind "answer"   key, id, model, in, out, counted, cost, seconds, cut, text: of a long text the end
 *   kind "refused"  key, id, model, why: the server will not answer this one; counts as a wrong answer
 *   kind "failed"   key, lost: a request without an answer; lost: it may have been paid nevertheless
 * Texts are graded when they are read, so that a better reading of letters asks nothing again. Keys never occur in it.
 *
 * Limits: before a request is sent the most that it can cost is reserved beside what is on its way, was spent, or was lost; one
 * that does not fit is not sent. So requests, tokens and cost stay within their limits over all runs on one journal. What a
 * server counts beyond max_tokens, or beyond a token for each byte of a prompt, is outside of that. */
#ifndef EVAL_LIVE_BOOK_H
#define EVAL_LIVE_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "data/ask.h"
#include "data/chat.h"
#include "eval/experts.h"
#include "eval/live_question.h"
#include "eval/rows.h"

#define LIVE_BOOK_TEXT_MAX ((size_t)256 << 10) /* bytes of an answer that are kept */
#define LIVE_BOOK_NO_ASK   UINT32_MAX

typedef enum {
    LIVE_ASK_OPEN,
    LIVE_ASK_DONE,
    LIVE_ASK_GONE
} LiveAskState; /* gone: not asked again in this run */

typedef struct {
    uint64_t key;
    LiveAskState state;
    bool judge, known;          /* known: this run needs it, rather than another one on the journal */
    bool sending;               /* sent, and neither answered nor failed */
    bool counted, cut, refused; /* counted: the server says how many tokens; else they are upper bounds */
    int said;                   /* letter or LIVE_PROMPT_..., or LiveVerdict */
    uint32_t cell;              /* the first that it is for: row * E + expert; then LiveView.next */
    ChatSpend spent, most;
    double seconds;
    char *text; /* of an expert's answer that the judge grades; owned */
} LiveAsk;

/* To look at; everything is the book's. */
typedef struct {
    LiveAsk *asks;
    size_t ask_count;
    uint32_t *cell, *judge; /* (n, E): index of an ask, or LIVE_BOOK_NO_ASK */
    uint32_t *next;         /* (n, E): the next cell of the same expert's ask, or LIVE_BOOK_NO_ASK */
    size_t n;
    int E;
    uint64_t requests, answers; /* sent, of all runs; answered */
    uint64_t wanted,
        done; /* asks that this run needs, known so far (judges' come with the answers); that have answers */
    ChatSpend spent, judged, lost, reserved; /* spent: of experts */
} LiveView;

typedef struct LiveBook LiveBook;

/* Rows are those of `questions` and `rows`, in their order. wanted (n, E): which cells are needed. All are borrowed. journal:
 * NULL reads none and leaves none (a look at what would be sent). */
ErrCode live_book_open(LiveBook **out, const Experts *experts, const LiveQuestions *questions,
                       const Rows *rows, const bool *wanted, const char *journal, Err *err) ERR_CHECKED;
void live_book_close(LiveBook *book);
const LiveView *live_book_view(const LiveBook *book);

/* The next ask that nobody works on: judges' first, then in the order of rows; false when there is none for now. */
bool live_book_next(LiveBook *book, uint32_t *ask);
void live_book_return(LiveBook *book, uint32_t ask); /* one that was not sent: it is the next again */

const Chat *live_book_chat(const LiveBook *book, uint32_t ask);
/* Body of its request; sets what it can cost at most. */
ErrCode live_book_body(LiveBook *book, uint32_t ask, Buf *body, Err *err) ERR_CHECKED;
/* The limit that sending it would break, or NULL. */
const char *live_book_limit(const LiveBook *book, uint32_t ask, const AskLimits *limits);

/* Entries; durable after live_book_sync. */
ErrCode live_book_sent(LiveBook *book, uint32_t ask, Err *err) ERR_CHECKED;
typedef struct {
    const char *text;
    size_t n;
    int64_t in, out; /* as counted */
    bool counted, cut;
    double seconds;
} LiveSaid;
ErrCode live_book_answered(LiveBook *book, uint32_t ask, const LiveSaid *said, Err *err) ERR_CHECKED;
ErrCode live_book_failed(LiveBook *book, uint32_t ask, bool lost, Err *err) ERR_CHECKED;
/* durable: also for the runs to come. */
ErrCode live_book_refused(LiveBook *book, uint32_t ask, const char *why, bool durable, Err *err) ERR_CHECKED;
void live_book_gone(LiveBook *book, uint32_t ask);
ErrCode live_book_sync(LiveBook *book, Err *err) ERR_CHECKED;

/* Whether a cell has its grade, and what it is. */
typedef struct {
    bool graded, right;
    bool refused, cut, no_letter, bad_judgement, counted;
    int64_t in, out;
    double cost, seconds, judge_cost; /* at the prices of now; judge_cost: 0 without a judge */
} LiveGraded;
LiveGraded live_book_grade(const LiveBook *book, size_t row, int expert);

#endif
