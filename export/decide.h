/* export/decide.h - from logits to an answer: calibrated probabilities, a score of how sure they are, and
 * whether that is enough to answer at all. One definition for the exported file, librouter, checkpoints and
 * the evaluation; export/blob.h says how a file carries the rule, and export/decide_json.h how config.json does.
 *
 * For logits l (K), all in double precision, e and ln being exact to about one unit in the last place:
 *
 *   z_k = l_k / temperature * scale_k + bias_k       (scale 1 and bias 0 where there is no calibration vector)
 *   p_k = e^(z_k - max z) / sum_j e^(z_j - max z)
 *   label = the first k with the largest z_k
 *   score, rounded to float32; the higher, the surer:
 *     max_probability   p_label
 *     margin            p_label - the largest p of the others (0 where K = 1)
 *     entropy           1 + sum_k p_k ln p_k / ln K (1 where K = 1): 1 is certain, 0 knows nothing
 *     energy            max l + ln sum_k e^(l_k - max l): of the logits as they are, before any calibration
 *   abstain where score < threshold_label
 *
 * An abstention is a decision, not a class: the label remains what the router would have said, and the rule
 * may name a fallback label, which callers send such prompts to.
 *
 * exp and ln are computed from +, -, *, / alone (no libm, no fused multiply-add: compile with
 * -ffp-contract=off), so that a rule gives the same bits on every machine. Another implementation's libm may
 * differ in the last bit of a double, which the rounding to float32 hides but for one score in some 10^8. */
#ifndef EXPORT_DECIDE_H
#define EXPORT_DECIDE_H

#include <stdbool.h>

#include "core/err.h"

typedef enum {
    DECIDE_ALWAYS, /* never abstains */
    DECIDE_MAX_PROBABILITY,
    DECIDE_MARGIN,
    DECIDE_ENTROPY,
    DECIDE_ENERGY,
    DECIDE_SCORES
} DecideScore;

/* A rule of zeros with a temperature is valid: a softmax that always answers. decide_alloc gives the arrays. */
typedef struct {
    float temperature;   /* > 0 */
    bool vector;         /* scale and bias count */
    DecideScore score;   /* what threshold is compared with */
    bool per_class;      /* the thresholds differ */
    int fallback;        /* a label, or -1; only where it may abstain */
    float *scale, *bias; /* (K); scale > 0 */
    float *threshold;    /* (K): of each label */
} DecideRule;

typedef struct {
    int label;
    bool abstained;
    float score; /* of the rule's kind; max_probability where it always answers */
} DecideAnswer;

/* The temperature 1, scales of 1, biases and thresholds of 0. */
ErrCode decide_alloc(DecideRule *rule, int K, Err *err) ERR_CHECKED;
void decide_free(DecideRule *rule);
ErrCode decide_copy(DecideRule *out, const DecideRule *from, int K, Err *err) ERR_CHECKED;

/* `to` (allocated, of more labels) becomes the rule of `from` (K labels) with labels added that it does not favour: their
 * bias is the least of the others', their threshold the greatest. The entropy's thresholds are put to the scale of so many
 * labels, so that probabilities that keep to the old ones are answered as they were. */
void decide_extend(DecideRule *to, const DecideRule *from, int K, int more);

/* Names as in files: "max_probability"; NULL for DECIDE_ALWAYS. DECIDE_SCORES for a name that is none. */
const char *decide_score_name(DecideScore score);
DecideScore decide_score_find(const char *name);

/* p (K) from logits (K), which must be finite; the label. */
int decide_probabilities(double *p, const float *logits, int K, const DecideRule *rule);

/* Probabilities and decision. */
DecideAnswer decide(double *p, const float *logits, int K, const DecideRule *rule);

/* The score alone, from what decide_probabilities made of the logits. */
float decide_score(DecideScore score, const double *p, int label, const float *logits, int K);

/* e^x for x <= 0; ln x for x >= 1. Error: about one unit in the last place. */
double decide_exp(double x);
double decide_log(double x);

#endif
