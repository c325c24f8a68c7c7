#include "eval/policy.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

static const double COST_MAX = 1e12;

/* ---- costs ---- */

static int find(const char *const *labels, int K, const char *name) {
    for (int k = 0; k < K; k++)
        if (strcmp(labels[k], name) == 0) return k;
    return -1;
}

static ErrCode label_of(int *out, const char *const *labels, int K, const char *name, Err *err) {
    char shown[84];
    *out = find(labels, K, name);
    if (*out >= 0) return ERR_OK;
    text_excerpt(shown, 80, name, strlen(name));
    const char *near = text_nearest(name, labels, (size_t)K);
    if (near)
        return err_set(err, ERR_FORMAT, "'%s' is none of the router's labels; did you mean '%.80s'?", shown,
                       near);
    return err_set(err, ERR_FORMAT, "'%s' is none of the router's labels", shown);
}

static ErrCode cost_of(double *out, const cJSON *item, Err *err) {
    if (!cJSON_IsNumber(item) || !(fabs(item->valuedouble) <= COST_MAX))
        return err_set(err, ERR_FORMAT, "%.80s: expected a number between %g and %g",
                       item->string ? item->string : "a cost", -COST_MAX, COST_MAX);
    *out = item->valuedouble;
    return ERR_OK;
}

/* {label: cost} into out (K), and how many there were. */
static ErrCode cost_object(double *out, int *count, const cJSON *object, const char *const *labels, int K,
                           Err *err) {
    const cJSON *item;
    if (!cJSON_IsObject(object)) return err_set(err, ERR_FORMAT, "expected an object from labels to costs");
    cJSON_ArrayForEach(item, object) {
        int k;
        TRY(label_of(&k, labels, K, item->string, err));
        TRY(cost_of(&out[k], item, err));
        ++*count;
    }
    return ERR_OK;
}

static ErrCode read_abstain(Policy *p, const char *const *labels, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(p->tree, "abstain");
    int count = 0;
    if (!item)
        return err_set(err, ERR_FORMAT,
                       "abstain is missing: what not answering costs, such as 0.2 (a wrong "
                       "answer costs 1)");
    if (!cJSON_IsObject(item)) {
        TRY(cost_of(&p->abstain[0], item, err));
        for (int k = 1; k < p->K; k++) p->abstain[k] = p->abstain[0];
        return ERR_OK;
    }
    const ErrCode rc = cost_object(p->abstain, &count, item, labels, p->K, err);
    if (rc != ERR_OK) return err_context(err, rc, "abstain");
    if (count < p->K)
        return err_set(err, ERR_FORMAT, "abstain: costs for %d labels, expected one for each of %d", count,
                       p->K);
    return ERR_OK;
}

static ErrCode read_costs(Policy *p, const char *const *labels, Err *err) {
    static const char *const KEYS[] = {"abstain", "wrong", "right", "costs"};
    double wrong = 1, right = 0;
    const cJSON *item;
    if (!cJSON_IsObject(p->tree))
        return err_set(err, ERR_FORMAT, "expected a JSON object such as {\"abstain\": 0.2, \"wrong\": 1}");
    cJSON_ArrayForEach(item, p->tree) {
        const size_t count = sizeof KEYS / sizeof *KEYS;
        size_t i = 0;
        while (i < count && strcmp(KEYS[i], item->string) != 0) i++;
        char shown[84];
        if (i == count)
            return err_set(err, ERR_FORMAT, "unknown key '%s', expected abstain, wrong, right or costs",
                           text_excerpt(shown, 80, item->string, strlen(item->string)));
    }
    TRY(json_get_double(&wrong, p->tree, "wrong", -COST_MAX, COST_MAX, err));
    TRY(json_get_double(&right, p->tree, "right", -COST_MAX, COST_MAX, err));
    TRY(read_abstain(p, labels, err));
    for (int i = 0; i < p->K; i++)
        for (int j = 0; j < p->K; j++) p->cost[i * p->K + j] = i == j ? right : wrong;
    const cJSON *costs = cJSON_GetObjectItemCaseSensitive(p->tree, "costs");
    if (costs && !cJSON_IsObject(costs))
        return err_set(err, ERR_FORMAT, "costs: expected an object from true labels to objects");
    cJSON_ArrayForEach(item, costs) {
        int truth, count = 0;
        ErrCode rc = label_of(&truth, labels, p->K, item->string, err);
        if (rc == ERR_OK)
            rc = cost_object(p->cost + (size_t)truth * (size_t)p->K, &count, item, labels, p->K, err);
        if (rc != ERR_OK) return err_context(err, rc, "costs: %.80s", item->string);
    }
    return ERR_OK;
}

ErrCode policy_costs(Policy *out, cJSON *tree, const char *const *labels, int K, Err *err) {
    *out = (Policy){.kind = POLICY_COST, .score = DECIDE_MAX_PROBABILITY, .K = K, .tree = tree};
    const size_t n = (size_t)K;
    ErrCode rc = mem_new(&out->cost, n, n * sizeof *out->cost, "the costs", err);
    if (rc == ERR_OK) rc = mem_new(&out->abstain, n, sizeof *out->abstain, "the costs", err);
    if (rc == ERR_OK) rc = read_costs(out, labels, err);
    if (rc != ERR_OK) policy_free(out);
    return rc;
}

void policy_free(Policy *policy) {
    mem_free(policy->cost);
    mem_free(policy->abstain);
    cJSON_Delete(policy->tree);
    *policy = (Policy){0};
}

ErrCode policy_parse(Policy *out, const char *text, const char *const *labels, int K, Err *err) {
    static const struct {
        const char *name;
        PolicyKind kind;
    } KINDS[] = {{"precision=", POLICY_PRECISION}, {"coverage=", POLICY_COVERAGE}, {"cost=", POLICY_COST}};
    *out = (Policy){.score = DECIDE_MAX_PROBABILITY, .K = K};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        const size_t n = strlen(KINDS[i].name);
        if (strncmp(text, KINDS[i].name, n) != 0) continue;
        const char *value = text + n;
        if (KINDS[i].kind == POLICY_COST) {
            cJSON *tree;
            TRY(json_read(&tree, value, err));
            const ErrCode rc = policy_costs(out, tree, labels, K, err);
            return rc == ERR_OK ? rc : err_context(err, rc, "%s", value);
        }
        char *end;
        const double target = strtod(value, &end);
        if (end == value || *end || !(target > 0 && target < 1))
            return err_set(err, ERR_ARGUMENT,
                           "policy: found '%.80s', expected a number between 0 and 1 behind %s", text,
                           KINDS[i].name);
        out->kind = KINDS[i].kind;
        out->target = target;
        return ERR_OK;
    }
    return err_set(err, ERR_ARGUMENT, "policy: found '%.80s', expected precision=P, coverage=C or cost=FILE",
                   text);
}

/* ---- the exact binomial test ---- */

/* ln of n over k. */
static double log_choose(uint64_t n, uint64_t k) {
    double sum = 0;
    const uint64_t less = k < n - k ? k : n - k;
    for (uint64_t i = 1; i <= less; i++) sum += log((double)(n - less + i) / (double)i);
    return sum;
}

/* Probability of k or more hits among n of probability p each, for k >= n p. */
static double upper_tail(uint64_t k, uint64_t n, double p, double choose) {
    double term = exp(choose + (double)k * log(p) + (double)(n - k) * log1p(-p)), sum = term;
    for (uint64_t j = k; j < n && term > 1e-18 * sum; j++) {
        term *= (double)(n - j) / (double)(j + 1) * (p / (1 - p));
        sum += term;
    }
    return sum;
}

double policy_lower_bound(uint64_t hits, uint64_t n, double risk) {
    if (hits == 0) return 0;
    const double choose = log_choose(n, hits);
    double low = 0, high = (double)hits / (double)n; /* at which the tail is about a half */
    if (hits < n && upper_tail(hits, n, high, choose) < risk) return high;
    for (int i = 0; i < 100 && high - low > 1e-15; i++) {
        const double middle = (low + high) / 2;
        if (middle <= 0 || middle >= 1) break;
        if (upper_tail(hits, n, middle, choose) > risk)
            high = middle;
        else
            low = middle;
    }
    return low;
}

static bool shown(uint64_t right, uint64_t answered, double target, double risk) {
    if ((double)right <= target * (double)answered) return false;
    return upper_tail(right, answered, target, log_choose(answered, right)) <= risk;
}

/* ---- choosing ---- */

typedef struct {
    float score;
    bool right;
    double saved; /* cost of abstaining less cost of the answer */
} Row;

/* Rows of one choice, by falling score; ends[i] is how many have at least the i-th distinct score. */
typedef struct {
    Row *rows;
    size_t n, *ends, count;
} Ranking;

static int falling(const void *a, const void *b) {
    const float x = ((const Row *)a)->score, y = ((const Row *)b)->score;
    return (x < y) - (x > y);
}

/* Takes the rows whose label is `label`, or all for -1. */
static void rank(Ranking *r, const Policy *policy, const PolicyRows *from, int label) {
    r->n = r->count = 0;
    for (size_t i = 0; i < from->n; i++) {
        if (label >= 0 && from->label[i] != label) continue;
        Row *row = &r->rows[r->n++];
        *row = (Row){.score = from->score[i], .right = from->label[i] == from->truth[i]};
        if (policy->cost)
            row->saved =
                policy->abstain[from->truth[i]] - policy->cost[from->truth[i] * from->K + from->label[i]];
    }
    if (r->n) qsort(r->rows, r->n, sizeof *r->rows, falling);
    for (size_t i = 0; i < r->n; i++)
        if (i + 1 == r->n || r->rows[i + 1].score < r->rows[i].score) r->ends[r->count++] = i + 1;
}

static uint64_t right_of(const Ranking *r, size_t answered) {
    uint64_t right = 0;
    for (size_t i = 0; i < answered; i++) right += r->rows[i].right;
    return right;
}

/* How many of the surest rows are answered by try 1 .. POLICY_TRIES: at least that share of twentieths. */
static size_t attempt(const Ranking *r, size_t number) {
    size_t i = 0;
    while (r->ends[i] * POLICY_TRIES < number * r->n) i++;
    return r->ends[i];
}

static size_t by_precision(const Ranking *r, double target) {
    for (size_t i = POLICY_TRIES; r->n && i > 0; i--) {
        const size_t answered = attempt(r, i);
        if (shown(right_of(r, answered), answered, target, POLICY_RISK / POLICY_TRIES)) return answered;
    }
    return 0;
}

static size_t by_coverage(const Ranking *r, double target) {
    size_t i = 0;
    while (i + 1 < r->count && (double)r->ends[i] < target * (double)r->n) i++;
    return r->count ? r->ends[i] : 0;
}

/* Of equal costs, the most answers. */
static size_t by_cost(const Ranking *r) {
    double saved = 0, most = 0;
    size_t best = 0, at = 0;
    for (size_t i = 0; i < r->count; i++) {
        for (; at < r->ends[i]; at++) saved += r->rows[at].saved;
        if (saved >= most) {
            most = saved;
            best = r->ends[i];
        }
    }
    return best;
}

static float threshold_of(const Ranking *r, size_t answered) {
    if (answered == 0) return FLT_MAX;
    if (answered == r->n) return -FLT_MAX;
    const float lowest = r->rows[answered - 1].score, next = r->rows[answered].score;
    const float middle = (float)(((double)lowest + (double)next) / 2);
    return middle > next ? middle : lowest;
}

static PolicyChoice choose(Ranking *r, const Policy *policy, const PolicyRows *rows, int label) {
    PolicyChoice out = {0};
    rank(r, policy, rows, label);
    size_t answered;
    if (policy->kind == POLICY_PRECISION)
        answered = by_precision(r, policy->target);
    else
        answered = policy->kind == POLICY_COVERAGE ? by_coverage(r, policy->target) : by_cost(r);
    out.threshold = threshold_of(r, answered);
    out.rows = r->n;
    out.answered = answered;
    out.right = right_of(r, answered);
    if (policy->kind == POLICY_PRECISION && answered)
        out.bound = policy_lower_bound(out.right, answered, POLICY_RISK / POLICY_TRIES);
    return out;
}

/* The best that can be shown of a ranking. */
static double best_bound(const Ranking *r, size_t *answered) {
    double best = 0;
    for (size_t i = POLICY_TRIES; r->n && i > 0; i--) {
        const size_t n = attempt(r, i);
        const double bound = policy_lower_bound(right_of(r, n), n, POLICY_RISK / POLICY_TRIES);
        if (bound <= best) continue;
        best = bound;
        *answered = n;
    }
    return best;
}

static ErrCode refuse(Ranking *r, const Policy *policy, const PolicyRows *rows, Err *err) {
    double best = 0;
    size_t answered = 0, of = 0;
    for (int k = policy->per_class ? 0 : -1; k < (policy->per_class ? rows->K : 0); k++) {
        size_t n = 0;
        rank(r, policy, rows, k);
        const double bound = best_bound(r, &n);
        if (of && bound <= best) continue;
        best = bound;
        answered = n;
        of = r->n;
    }
    return err_set(
        err, ERR_GATE,
        "policy: no threshold%s shows a precision of %g with 95 %% confidence; the most that can be "
        "shown is %.4f, for the surest %zu of %zu rows: ask for less, or give more calibration rows",
        policy->per_class ? " of any label" : "", policy->target, best, answered, of);
}

ErrCode policy_choose(DecideRule *rule, PolicyChoice *choices, const Policy *policy, const PolicyRows *rows,
                      Err *err) {
    Ranking r = {0};
    const size_t K = (size_t)rows->K;
    if (rows->n == 0) return err_set(err, ERR_ARGUMENT, "policy: no rows to choose thresholds on");
    ErrCode rc = mem_new(&r.rows, rows->n, sizeof *r.rows, "the thresholds", err);
    if (rc == ERR_OK) rc = mem_new(&r.ends, rows->n, sizeof *r.ends, "the thresholds", err);
    if (rc == ERR_OK) {
        const PolicyChoice common = choose(&r, policy, rows, -1);
        bool any = !policy->per_class && common.answered > 0;
        if (choices && !policy->per_class) choices[0] = common;
        for (size_t k = 0; k < K; k++) rule->threshold[k] = common.threshold;
        for (int k = 0; policy->per_class && k < rows->K; k++) {
            PolicyChoice one = choose(&r, policy, rows, k);
            if (one.rows == 0 && policy->kind != POLICY_PRECISION) one.threshold = common.threshold;
            rule->threshold[k] = one.threshold;
            any = any || one.answered;
            if (choices) choices[k] = one;
        }
        rule->score = policy->score;
        rule->per_class = policy->per_class;
        if (!any && policy->kind == POLICY_PRECISION) rc = refuse(&r, policy, rows, err);
    }
    mem_free(r.rows);
    mem_free(r.ends);
    return rc;
}

PolicyOutcome policy_measure(const DecideRule *rule, const Policy *policy, const PolicyRows *rows) {
    PolicyOutcome out = {.rows = rows->n};
    for (size_t i = 0; i < rows->n; i++) {
        const int truth = rows->truth[i], label = rows->label[i];
        const bool answered = rows->score[i] >= rule->threshold[label];
        out.answered += answered;
        out.right += answered && truth == label;
        if (!policy->cost) continue;
        const double cost = policy->cost[truth * rows->K + label];
        out.cost_always += cost;
        out.cost += answered ? cost : policy->abstain[truth];
    }
    out.coverage = metrics_wilson(out.answered, out.rows);
    out.precision = metrics_wilson(out.right, out.answered);
    if (out.rows) {
        out.cost /= (double)out.rows;
        out.cost_always /= (double)out.rows;
    }
    return out;
}
