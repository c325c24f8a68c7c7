/* eval/live_score.h - a router with its experts, asked for real, beside each single model: pure functions of grades.
 *
 * Only rows of which every needed answer has its grade count, the same ones in each line.
 *   accuracy   share of right answers, with Wilson's 95 % interval
 *   gain       paired difference to the best single model, with a normal 95 % interval: mean +- 1.96 standard errors
 *   cost       of 1,000 prompts by the tokens that the servers count; the router's own is added to its line
 *   latency    seconds from sending a request to its last byte, of the attempt that was answered: nearest-rank percentiles
 *   oracle     for each row the cheapest expert that is right, else the cheapest: no router can do better
 *   lost       of a row sent to expert m where its label's expert is l: right(l) - right(m); summed, over n */
#ifndef EVAL_LIVE_SCORE_H
#define EVAL_LIVE_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "eval/experts.h"
#include "eval/live_book.h"
#include "eval/metrics.h"

typedef enum { LIVE_ROUTED, LIVE_SINGLE, LIVE_LABELS, LIVE_ORACLE } LiveLineKind;

typedef struct {
    LiveLineKind kind;
    int expert; /* of LIVE_SINGLE, else -1 */
    uint64_t right;
    Interval accuracy, gain;
    double cost, tokens_in, tokens_out; /* of 1,000 prompts; tokens of one */
    double p50, p90, p99;
    uint64_t cut, no_letter, bad_judgements, refused, uncounted;
} LiveLine;

typedef struct {
    uint64_t n, right, best_right, oracle_right; /* of the router; of the best single model */
    uint64_t misrouted;                          /* to another expert than the label's */
    double lost; /* points of accuracy over all rows; NAN where not all was asked */
} LiveDomain;

/* Where rows go. */
typedef struct {
    const int *expert;         /* (n) that the router sends each row to, the fallback included */
    const bool *abstained;     /* (n) */
    const int *label;          /* (n) true ones */
    const bool *wanted;        /* (n, E) */
    const double *router_cost; /* (n) */
} LiveRoutes;

/* Zeroed: valid to free. */
typedef struct {
    size_t n, left_out; /* rows; those without all answers */
    int K, E;
    LiveLine *
        lines; /* the router, each single model that was asked everything, and, where all were, labels and oracle */
    size_t count;
    size_t best; /* line of the best single model (of equal ones the cheaper); 0: none was asked everything */
    size_t oracle;       /* its line; 0: none */
    double regret;       /* accuracy of the oracle - the router's; NAN */
    LiveDomain *domains; /* (K) */
    uint64_t *sent;      /* (K, E): rows of a label by the expert that they went to */
    bool *complete;      /* (n of the book) */
    uint64_t abstained;
} LiveScore;

/* ERR_GATE when no row has all its answers. */
ErrCode live_score_compute(LiveScore *out, const LiveBook *book, const Experts *experts,
                           const LiveRoutes *routes, int K, Err *err) ERR_CHECKED;
void live_score_free(LiveScore *score);

#endif
