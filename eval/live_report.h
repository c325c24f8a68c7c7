/* eval/live_report.h - what `router live` found: a table for people, JSON, and files for what comes after.
 *
 * JSON, keys stable (an interval is {"value", "low", "high"}; shares from 0 to 1; cost of 1,000 prompts; seconds):
 *   set, rows (asked for), n (with all answers: what is reported), stopped (limit, or null), sample (rows drawn, or null), seed
 *   router       {path, kind, labels, threshold (or null), abstained, sees_options}
 *   protocol     {wording (digest), options_shuffled, grade, stripped (rows that held metadata), skipped, judge: null or {model,
 *                is_expert}}
 *   currency
 *   systems      [{system: routed | single | labels | oracle, expert (or null), right, accuracy, gain (intervals), cost,
 *                tokens_in, tokens_out (of a prompt), latency {p50, p90, p99}, cut, no_letter, bad_judgements, refused, uncounted}]
 *   best_single  name or null
 *   regret       accuracy of the oracle - the router's, or null
 *   domains      [{label, n, right, best_right, oracle_right (or null), misrouted, lost (or null), sent: {expert: rows}}]
 *   spent        {requests, answers (of all runs), experts, judge, lost: {tokens_in, tokens_out, cost}; of this run: run_requests,
 *                retries, throttled, refused, gone, seconds}
 *
 * Files in the folder: results.json (the above); rows.jsonl, the reported rows as the router saw them: {"id", "text", "label",
 * "predicted", "score", "expert", "abstained"}; answers.jsonl, a line for each of their answers: {"id", "expert", "right", "said",
 * "cut", "refused", "bad_judgement", "tokens_in", "tokens_out", "cost", "seconds"} (texts are in journal.jsonl); and, where every
 * expert was asked everything, correctness-N.jsonl for each of them and experts.json, for
 *   router system MODEL --experts DIR/experts.json --data DIR/rows.jsonl */
#ifndef EVAL_LIVE_REPORT_H
#define EVAL_LIVE_REPORT_H

#include "core/buf.h"
#include "eval/live.h"
#include "eval/live_score.h"

typedef struct {
    const char *path, *kind; /* of the router */
    const char *const *labels;
    const char *set;
    const Rows *rows; /* those that were drawn */
    const double *p;  /* (n, K) */
    double threshold; /* negative: never abstains */
    int64_t sample;   /* 0: all rows */
    uint64_t seed, skipped;
    const LiveQuestions *questions;
    const Experts *experts;
    const LiveBook *book;
    const LiveRoutes *routes;
    const AskRun *run;
    const LiveScore *score;
} LiveReport;

void live_report_table(Buf *out, const LiveReport *report);
void live_report_json(Buf *out, const LiveReport *report);

/* The files; json is what live_report_json gave. */
ErrCode live_report_save(const LiveReport *report, const char *folder, const Buf *json, Err *err) ERR_CHECKED;

#endif
