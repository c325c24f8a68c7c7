#include "export/decide.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/mem.h"

/* The two sum to ln 2 with 80 bits; the first ends in 22 zero bits, so that its product with an exponent is exact. */
static const double LN2 = 0x1.62e42fec00000p-1, LN2_REST = 0x1.d1cf79abc9e3bp-32;

/* e^x = 2^n e^r, |r| <= ln(2) / 2; the Taylor series up to r^13 / 13! leaves 5e-18. */
double decide_exp(double x) {
    static const double SERIES[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                                    1.0 / 362880,     1.0 / 40320,     1.0 / 5040,     1.0 / 720,
                                    1.0 / 120,        1.0 / 24,        1.0 / 6,        0.5};
    if (x < -746) return 0;
    const double n = floor(x * 1.4426950408889634 + 0.5);
    const double r = (x - n * LN2) - n * LN2_REST;
    double sum = SERIES[0];
    for (size_t i = 1; i < sizeof SERIES / sizeof *SERIES; i++) sum = sum * r + SERIES[i];
    return ldexp(1 + (r + r * r * sum), (int)n);
}

/* x = 2^n (1 + u), 1 + u in [sqrt(1/2), sqrt(2)). With s = u / (2 + u), |s| < 0.172, ln(1 + u) = 2 artanh s = s (2 + R),
 * R the series 2 s^2 / 3 + 2 s^4 / 5 + ...; as 2 s = u - s u, that is u less a small term, so that only u's own last
 * place is lost. */
double decide_log(double x) {
    int n;
    double m = frexp(x, &n);
    if (m < 0.70710678118654752) {
        m *= 2;
        n--;
    }
    const double u = m - 1, s = u / (2 + u), square = s * s;
    double R = 0;
    for (int i = 23; i >= 3; i -= 2) R = (R + 2.0 / i) * square;
    return n * LN2 + (u - (s * (u - R) - n * LN2_REST));
}

/* ---- the rule ---- */

ErrCode decide_alloc(DecideRule *rule, int K, Err *err) {
    *rule = (DecideRule){.temperature = 1, .fallback = -1};
    TRY(mem_new(&rule->scale, 3 * (size_t)K, sizeof *rule->scale, "the decision rule", err));
    rule->bias = rule->scale + K;
    rule->threshold = rule->bias + K;
    for (int k = 0; k < K; k++) rule->scale[k] = 1;
    return ERR_OK;
}

void decide_free(DecideRule *rule) {
    mem_free(rule->scale);
    *rule = (DecideRule){0};
}

ErrCode decide_copy(DecideRule *out, const DecideRule *from, int K, Err *err) {
    TRY(decide_alloc(out, K, err));
    if (from->scale) memcpy(out->scale, from->scale, 3 * (size_t)K * sizeof *out->scale);
    out->temperature = from->temperature;
    out->vector = from->vector;
    out->score = from->score;
    out->per_class = from->per_class;
    out->fallback = from->fallback;
    return ERR_OK;
}

static const char *const NAMES[DECIDE_SCORES] = {[DECIDE_MAX_PROBABILITY] = "max_probability",
                                                 [DECIDE_MARGIN] = "margin",
                                                 [DECIDE_ENTROPY] = "entropy",
                                                 [DECIDE_ENERGY] = "energy"};

void decide_extend(DecideRule *to, const DecideRule *from, int K, int more) {
    const double scale = from->score == DECIDE_ENTROPY && K > 1 ? decide_log(K) / decide_log(K + more) : 1;
    float least = 0, greatest = -INFINITY;
    to->temperature = from->temperature;
    to->vector = from->vector;
    to->score = from->score;
    to->per_class = from->per_class;
    to->fallback = from->fallback;
    for (int k = 0; k < K; k++) {
        to->scale[k] = from->scale[k];
        to->bias[k] = from->bias[k];
        to->threshold[k] =
            scale < 1 ? (float)(1 - (1 - (double)from->threshold[k]) * scale) : from->threshold[k];
        least = from->bias[k] < least ? from->bias[k] : least;
        greatest = to->threshold[k] > greatest ? to->threshold[k] : greatest;
    }
    for (int k = K; k < K + more; k++) {
        to->scale[k] = 1;
        to->bias[k] = least;
        to->threshold[k] = greatest;
    }
}

const char *decide_score_name(DecideScore score) {
    return score < DECIDE_SCORES ? NAMES[score] : NULL;
}

DecideScore decide_score_find(const char *name) {
    DecideScore score = DECIDE_MAX_PROBABILITY;
    while (score < DECIDE_SCORES && strcmp(NAMES[score], name) != 0) score++;
    return score;
}

/* ---- probabilities, scores ---- */

int decide_probabilities(double *p, const float *logits, int K, const DecideRule *rule) {
    const double temperature = (double)rule->temperature;
    int best = 0;
    for (int k = 0; k < K; k++) {
        p[k] = (double)logits[k] / temperature;
        if (rule->vector) p[k] = p[k] * (double)rule->scale[k] + (double)rule->bias[k];
        if (p[k] > p[best]) best = k;
    }
    const double top = p[best];
    double total = 0;
    for (int k = 0; k < K; k++) total += p[k] = decide_exp(p[k] - top);
    for (int k = 0; k < K; k++) p[k] /= total;
    return best;
}

static double margin(const double *p, int label, int K) {
    double second = 0;
    for (int k = 0; k < K; k++)
        if (k != label && p[k] > second) second = p[k];
    return K > 1 ? p[label] - second : 0;
}

/* p ln p tends to 0 with p; below 1e-300 it is. -ln p is ln(1 / p), and 1 / p is at least 1. */
static double certainty(const double *p, int K) {
    double entropy = 0;
    for (int k = 0; k < K; k++)
        if (p[k] > 1e-300) entropy += p[k] * decide_log(1 / p[k]);
    return K > 1 ? 1 - entropy / decide_log(K) : 1;
}

static double energy(const float *logits, int K) {
    double top = (double)logits[0], total = 0;
    for (int k = 1; k < K; k++) top = (double)logits[k] > top ? (double)logits[k] : top;
    for (int k = 0; k < K; k++) total += decide_exp((double)logits[k] - top);
    return top + decide_log(total);
}

float decide_score(DecideScore score, const double *p, int label, const float *logits, int K) {
    switch (score) {
        case DECIDE_MARGIN: return (float)margin(p, label, K);
        case DECIDE_ENTROPY: return (float)certainty(p, K);
        case DECIDE_ENERGY: return (float)energy(logits, K);
        default: return (float)p[label];
    }
}

DecideAnswer decide(double *p, const float *logits, int K, const DecideRule *rule) {
    DecideAnswer answer = {.label = decide_probabilities(p, logits, K, rule)};
    answer.score = decide_score(rule->score, p, answer.label, logits, K);
    answer.abstained = rule->score != DECIDE_ALWAYS && answer.score < rule->threshold[answer.label];
    return answer;
}
