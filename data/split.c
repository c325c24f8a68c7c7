#include "data/split.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/sort.h"

struct SplitPlan {
    double share[SPLIT_COUNT]; /* of train: 0 */
    uint64_t seed;
    uint64_t *key;
    int32_t *label;
    uint8_t *side;   /* given split * 16 + assigned split */
    uint32_t *order; /* made by decide */
    size_t rows, cap;
    bool named[SPLIT_COUNT]; /* some row was given it */
    SplitReport report;
};

static const char *const NAMES[SPLIT_COUNT] = {"train", "dev", "calibration", "test"};

const char *split_name(Split split) {
    return (unsigned)split < SPLIT_COUNT ? NAMES[split] : "none";
}

Split split_find(const char *name) {
    static const struct {
        const char *name;
        Split split;
    } ALL[] = {{"train", SPLIT_TRAIN}, {"dev", SPLIT_DEV},          {"validation", SPLIT_DEV},
               {"valid", SPLIT_DEV},   {"val", SPLIT_DEV},          {"calibration", SPLIT_CALIBRATION},
               {"test", SPLIT_TEST},   {"calib", SPLIT_CALIBRATION}};
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
        if (strcmp(ALL[i].name, name) == 0) return ALL[i].split;
    return SPLIT_COUNT;
}

static bool is_filler(uint32_t cp) {
    if (cp < 0x80) return !((cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z'));
    return cp == 0xa0 || (cp >= 0x2000 && cp <= 0x206f) || (cp >= 0x3000 && cp <= 0x3003);
}

static uint64_t fnv(uint64_t h, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 'A' && c <= 'Z') c = (unsigned char)(c + 32);
        h = (h ^ c) * 0x100000001b3u;
    }
    return h;
}

uint64_t split_text_key(const char *text, size_t n) {
    const uint64_t start = 0xcbf29ce484222325u;
    uint64_t h = start;
    bool any = false;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t len = text_utf8_next(text + i, n - i, &cp);
        if (!is_filler(cp)) {
            h = fnv(h, text + i, len);
            any = true;
        }
        i += len;
    }
    return rng_mix(any ? h : fnv(start, text, n));
}

ErrCode split_open(SplitPlan **out, const SplitRule *rule, Err *err) {
    *out = NULL;
    const double share[SPLIT_COUNT] = {0, rule->dev, rule->calibration, rule->test};
    for (int s = 0; s < SPLIT_COUNT; s++)
        if (!(share[s] >= 0 && share[s] <= 0.5))
            return err_set(err, ERR_ARGUMENT, "share of %s: found %g, expected 0 to 0.5", NAMES[s], share[s]);
    if (rule->dev + rule->calibration + rule->test >= 1)
        return err_set(err, ERR_ARGUMENT,
                       "the shares of dev, calibration and test are %g together: nothing is left to train on",
                       rule->dev + rule->calibration + rule->test);
    SplitPlan *plan;
    TRY(mem_new(&plan, 1, sizeof *plan, "the split", err));
    memcpy(plan->share, share, sizeof share);
    plan->seed = rule->seed;
    *out = plan;
    return ERR_OK;
}

void split_close(SplitPlan *plan) {
    if (!plan) return;
    mem_free(plan->key);
    mem_free(plan->label);
    mem_free(plan->side);
    mem_free(plan->order);
    mem_free(plan);
}

static ErrCode grow(SplitPlan *plan, Err *err) {
    const size_t cap = plan->cap + plan->cap / 2 + 1024;
    uint64_t *key = mem_resize(plan->key, cap, sizeof *key);
    if (key) plan->key = key;
    int32_t *label = mem_resize(plan->label, cap, sizeof *label);
    if (label) plan->label = label;
    uint8_t *side = mem_resize(plan->side, cap, sizeof *side);
    if (side) plan->side = side;
    if (!key || !label || !side) return err_set(err, ERR_MEMORY, "out of memory for %zu rows", cap);
    plan->cap = cap;
    return ERR_OK;
}

ErrCode split_add(SplitPlan *plan, uint64_t key, int label, Split given, Err *err) {
    assert(!plan->order && label >= 0);
    if (plan->rows >= UINT32_MAX) return err_set(err, ERR_FORMAT, "more than %u rows", (unsigned)UINT32_MAX);
    if (plan->rows == plan->cap) TRY(grow(plan, err));
    plan->key[plan->rows] = key;
    plan->label[plan->rows] = label;
    plan->side[plan->rows] = (uint8_t)((unsigned)given << 4);
    plan->rows++;
    if (given != SPLIT_COUNT) {
        plan->named[given] = true;
        plan->report.given++;
    }
    return ERR_OK;
}

static bool by_key(const void *context, uint32_t a, uint32_t b) {
    const SplitPlan *p = context;
    return p->key[a] != p->key[b] ? p->key[a] < p->key[b] : a < b;
}

static bool by_label(const void *context, uint32_t a, uint32_t b) {
    const SplitPlan *p = context;
    return p->label[a] != p->label[b] ? p->label[a] < p->label[b] : by_key(p, a, b);
}

static Split given_of(const SplitPlan *plan, uint32_t row) {
    return (Split)(plan->side[row] >> 4);
}

static void assign(SplitPlan *plan, uint32_t row, Split split) {
    plan->side[row] = (uint8_t)((plan->side[row] & 0xf0u) | (unsigned)split);
}

/* End of the run of equal keys that begins at order[i]. */
static size_t run_end(const SplitPlan *plan, size_t i) {
    size_t end = i + 1;
    while (end < plan->rows && plan->key[plan->order[end]] == plan->key[plan->order[i]]) end++;
    return end;
}

/* What its files say about a group: SPLIT_COUNT nothing, SPLIT_TRAIN, or the first other split named. */
static Split group_given(const SplitPlan *plan, size_t from, size_t to) {
    Split given = SPLIT_COUNT;
    for (size_t i = from; i < to; i++) {
        const Split one = given_of(plan, plan->order[i]);
        if (one == SPLIT_TRAIN) given = SPLIT_TRAIN;
        if (one != SPLIT_TRAIN && one != SPLIT_COUNT) return one;
    }
    return given;
}

static bool may_move(const SplitPlan *plan, Split group, Split to) {
    return group == SPLIT_COUNT || (group == SPLIT_TRAIN && !plan->named[to]);
}

/* Gives every row of a group the label of its first. Rows are in the order of the files within a run. */
static void unite_labels(SplitPlan *plan) {
    for (size_t i = 0, end; i < plan->rows; i = end) {
        end = run_end(plan, i);
        const int32_t label = plan->label[plan->order[i]];
        bool mixed = false;
        for (size_t k = i + 1; k < end; k++) {
            mixed = mixed || plan->label[plan->order[k]] != label;
            plan->report.conflicting += mixed;
            plan->label[plan->order[k]] = label;
        }
        plan->report.duplicates += end - i - 1;
    }
}

/* How many groups of one label, order[from..to), go to each split. */
static void quotas(size_t want[SPLIT_COUNT], const SplitPlan *plan, size_t from, size_t to) {
    size_t eligible[SPLIT_COUNT] = {0}, movable = 0;
    for (size_t i = from, end; i < to; i = end) {
        end = run_end(plan, i);
        const Split group = group_given(plan, i, end);
        movable += group == SPLIT_COUNT || group == SPLIT_TRAIN;
        for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++) eligible[s] += may_move(plan, group, s);
    }
    size_t total = 0;
    want[SPLIT_TRAIN] = 0;
    for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++) {
        want[s] = (size_t)floor(plan->share[s] * (double)eligible[s] + 0.5);
        if (want[s] == 0 && plan->share[s] > 0 && eligible[s] >= 10) want[s] = 1;
        total += want[s];
    }
    for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++)
        while (total > 0 && total >= movable && want[s] > 0) want[s]--, total--;
}

static void assign_label(SplitPlan *plan, size_t from, size_t to) {
    static const Split TURN[] = {SPLIT_TEST, SPLIT_CALIBRATION, SPLIT_DEV};
    size_t want[SPLIT_COUNT];
    quotas(want, plan, from, to);
    for (size_t i = from, end; i < to; i = end) {
        end = run_end(plan, i);
        const Split group = group_given(plan, i, end);
        const bool fixed = group != SPLIT_COUNT && group != SPLIT_TRAIN;
        Split side = fixed ? group : SPLIT_TRAIN;
        for (int k = 0; k < 3 && !fixed; k++) {
            if (want[TURN[k]] == 0 || !may_move(plan, group, TURN[k])) continue;
            side = TURN[k];
            want[side]--;
            break;
        }
        bool crossing = false;
        uint64_t given_rows = 0;
        for (size_t k = i; k < end; k++) {
            const uint32_t row = plan->order[k];
            const Split given = given_of(plan, row);
            const Split final = fixed && given != SPLIT_COUNT ? given : side;
            assign(plan, row, final);
            plan->report.rows[final]++;
            crossing = crossing || final != side;
            given_rows += given != SPLIT_COUNT;
        }
        if (crossing) plan->report.crossing += given_rows;
    }
}

ErrCode split_decide(SplitPlan *plan, Err *err) {
    assert(!plan->order);
    TRY(mem_new(&plan->order, plan->rows, sizeof *plan->order, "the order of the rows", err));
    const uint64_t salt = rng_key(plan->seed, "split", 0);
    for (size_t i = 0; i < plan->rows; i++) {
        plan->order[i] = (uint32_t)i;
        plan->key[i] = rng_mix(plan->key[i] ^ salt); /* a bijection: equal keys stay equal, others differ */
    }
    sort_rows(plan->order, plan->rows, by_key, plan);
    unite_labels(plan);
    sort_rows(plan->order, plan->rows, by_label, plan);
    for (size_t i = 0, end; i < plan->rows; i = end) {
        for (end = i; end < plan->rows && plan->label[plan->order[end]] == plan->label[plan->order[i]];)
            end++;
        assign_label(plan, i, end);
    }
    return ERR_OK;
}

Split split_of(const SplitPlan *plan, uint64_t row) {
    assert(plan->order && row < plan->rows);
    return (Split)(plan->side[row] & 15u);
}

SplitReport split_report(const SplitPlan *plan) {
    return plan->report;
}
