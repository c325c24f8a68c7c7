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
    bool whole;
    uint64_t *key;
    int32_t *label;
    uint32_t *above; /* union-find: a smaller row of the group, or itself; from decide on the group's first */
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

bool split_is_filler(uint32_t cp) {
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
        if (!split_is_filler(cp)) {
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
    plan->whole = rule->whole;
    *out = plan;
    return ERR_OK;
}

void split_close(SplitPlan *plan) {
    if (!plan) return;
    mem_free(plan->key);
    mem_free(plan->label);
    mem_free(plan->above);
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
    uint32_t *above = mem_resize(plan->above, cap, sizeof *above);
    if (above) plan->above = above;
    if (!key || !label || !side || !above) return err_set(err, ERR_MEMORY, "out of memory for %zu rows", cap);
    plan->cap = cap;
    return ERR_OK;
}

ErrCode split_add(SplitPlan *plan, uint64_t key, int label, Split given, Err *err) {
    assert(!plan->order && label >= 0);
    if (plan->rows >= UINT32_MAX) return err_set(err, ERR_FORMAT, "more than %u rows", (unsigned)UINT32_MAX);
    if (plan->rows == plan->cap) TRY(grow(plan, err));
    plan->key[plan->rows] = key;
    plan->label[plan->rows] = label;
    plan->above[plan->rows] = (uint32_t)plan->rows;
    plan->side[plan->rows] = (uint8_t)((unsigned)given << 4);
    plan->rows++;
    if (given != SPLIT_COUNT) {
        plan->named[given] = true;
        plan->report.given++;
    }
    return ERR_OK;
}

static uint32_t root_of(SplitPlan *plan, uint32_t row) {
    while (plan->above[row] != row) row = plan->above[row] = plan->above[plan->above[row]];
    return row;
}

void split_join(SplitPlan *plan, uint64_t a, uint64_t b) {
    assert(!plan->order && a < plan->rows && b < plan->rows);
    const uint32_t x = root_of(plan, (uint32_t)a), y = root_of(plan, (uint32_t)b);
    plan->above[x > y ? x : y] = x > y ? y : x;
}

static bool by_key(const void *context, uint32_t a, uint32_t b) {
    const SplitPlan *p = context;
    return p->key[a] != p->key[b] ? p->key[a] < p->key[b] : a < b;
}

static bool by_group(const void *context, uint32_t a, uint32_t b) {
    const SplitPlan *p = context;
    if (p->above[a] != p->above[b]) return p->above[a] < p->above[b];
    return p->label[a] != p->label[b] ? p->label[a] < p->label[b] : a < b;
}

/* Keys and labels are those of the groups by then. */
static bool by_label(const void *context, uint32_t a, uint32_t b) {
    const SplitPlan *p = context;
    if (p->label[a] != p->label[b]) return p->label[a] < p->label[b];
    return p->key[a] != p->key[b] ? p->key[a] < p->key[b] : a < b;
}

static Split given_of(const SplitPlan *plan, uint32_t row) {
    return (Split)(plan->side[row] >> 4);
}

static void assign(SplitPlan *plan, uint32_t row, Split split) {
    plan->side[row] = (uint8_t)((plan->side[row] & 0xf0u) | (unsigned)split);
}

/* ---- groups ---- */

/* Joins rows with equal keys. Rows are in the order of the files within a run. */
static void join_keys(SplitPlan *plan) {
    for (size_t i = 0, end; i < plan->rows; i = end) {
        const uint32_t first = plan->order[i];
        bool mixed = false;
        for (end = i + 1; end < plan->rows && plan->key[plan->order[end]] == plan->key[first]; end++) {
            const uint32_t row = plan->order[end];
            mixed = mixed || plan->label[row] != plan->label[first];
            plan->report.conflicting += mixed;
            const uint32_t x = root_of(plan, first), y = root_of(plan, row);
            plan->above[x > y ? x : y] = x > y ? y : x;
        }
        plan->report.duplicates += end - i - 1;
    }
}

/* Gives the rows order[from..to) of a group, sorted by label, the label of most of them; the first row's where two
 * are as many and it is one of them. */
static void unite_labels(SplitPlan *plan, size_t from, size_t to) {
    const int32_t first = plan->label[plan->above[plan->order[from]]];
    int32_t best = first;
    size_t most = 0;
    for (size_t i = from, end; i < to; i = end) {
        const int32_t label = plan->label[plan->order[i]];
        for (end = i + 1; end < to && plan->label[plan->order[end]] == label;) end++;
        if (end - i < most || (end - i == most && label != first)) continue;
        best = label;
        most = end - i;
    }
    for (size_t i = from; i < to; i++) plan->label[plan->order[i]] = best;
}

/* End of the group that begins at order[i], of rows order[0..n). */
static size_t group_end(const SplitPlan *plan, size_t i, size_t n) {
    size_t end = i + 1;
    while (end < n && plan->above[plan->order[end]] == plan->above[plan->order[i]]) end++;
    return end;
}

/* One key, the smallest, and one label for each group. */
static void unite_groups(SplitPlan *plan) {
    size_t groups = 0, n = 0;
    for (size_t i = 0; i < plan->rows; i++) { /* what is above is smaller, and known */
        const uint32_t first = plan->above[i] = plan->above[plan->above[i]];
        groups += first == i;
        if (plan->key[i] < plan->key[first]) plan->key[first] = plan->key[i];
        assign(plan, (uint32_t)i,
               first != i ? 1 : 0); /* marks those in groups of several, until sides are known */
        if (first != i) assign(plan, first, 1);
    }
    for (size_t i = 0; i < plan->rows; i++) {
        plan->key[i] = plan->key[plan->above[i]];
        if (split_of(plan, i)) plan->order[n++] = (uint32_t)i;
    }
    sort_rows(plan->order, n, by_group, plan);
    for (size_t i = 0, end; i < n; i = end) {
        end = group_end(plan, i, n);
        unite_labels(plan, i, end);
    }
    plan->report.joined = plan->rows - groups - plan->report.duplicates;
}

/* What its files say about a group: SPLIT_COUNT nothing, SPLIT_TRAIN, or another split: the first that is named, with
 * whole the most held out. */
static Split group_given(const SplitPlan *plan, size_t from, size_t to) {
    Split given = SPLIT_COUNT;
    for (size_t i = from; i < to; i++) {
        const Split one = given_of(plan, plan->order[i]);
        if (one == SPLIT_COUNT) continue;
        if (given == SPLIT_COUNT || given == SPLIT_TRAIN || (plan->whole && one > given)) given = one;
    }
    return given;
}

static bool may_move(const SplitPlan *plan, Split group, Split to) {
    return group == SPLIT_COUNT || (group == SPLIT_TRAIN && !plan->named[to]);
}

/* ---- sides ---- */

/* Of one label. */
typedef struct {
    size_t rows[SPLIT_COUNT], groups[SPLIT_COUNT], smallest[SPLIT_COUNT]; /* that may go there */
    size_t movable_rows, movable_groups;
    size_t want[SPLIT_COUNT], have[SPLIT_COUNT]; /* rows, without those that are fixed */
} Quota;

static size_t with_slack(size_t want) {
    return want + want / 4;
}

static void count_groups(Quota *q, const SplitPlan *plan, size_t from, size_t to) {
    for (size_t i = from, end; i < to; i = end) {
        end = group_end(plan, i, to);
        const Split group = group_given(plan, i, end);
        if (group != SPLIT_COUNT && group != SPLIT_TRAIN) continue;
        q->movable_rows += end - i;
        q->movable_groups++;
        for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++) {
            if (!may_move(plan, group, s)) continue;
            if (q->groups[s]++ == 0 || end - i < q->smallest[s]) q->smallest[s] = end - i;
            q->rows[s] += end - i;
        }
    }
}

static void set_quotas(Quota *q, const SplitPlan *plan) {
    size_t total = 0;
    for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++) {
        size_t want = (size_t)floor(plan->share[s] * (double)q->rows[s] + 0.5);
        if (plan->share[s] > 0 && q->groups[s] > 0 && q->smallest[s] > with_slack(want) &&
            (q->groups[s] >= 10 || 2 * want >= q->smallest[s]))
            want = q->smallest[s];
        q->want[s] = want;
        total += want;
    }
    for (Split s = SPLIT_DEV; s < SPLIT_COUNT; s++)
        while (total > 0 && total >= q->movable_rows && q->want[s] > 0) q->want[s]--, total--;
}

/* The side of a group of `rows` rows that is not fixed; `last`: nothing is left to train on otherwise. */
static Split choose_side(Quota *q, const SplitPlan *plan, Split group, size_t rows, bool last) {
    static const Split TURN[] = {SPLIT_TEST, SPLIT_CALIBRATION, SPLIT_DEV};
    Split side = SPLIT_TRAIN;
    for (int k = 0; k < 3 && side == SPLIT_TRAIN && !last; k++) {
        const Split s = TURN[k];
        if (q->have[s] < q->want[s] && q->have[s] + rows <= with_slack(q->want[s]) &&
            may_move(plan, group, s))
            side = s;
    }
    q->have[side] += rows;
    return side;
}

static void assign_group(SplitPlan *plan, size_t from, size_t to, Split side, bool fixed) {
    bool crossing = false;
    uint64_t given_rows = 0;
    for (size_t k = from; k < to; k++) {
        const uint32_t row = plan->order[k];
        const Split given = given_of(plan, row);
        const Split final = fixed && given != SPLIT_COUNT && !plan->whole ? given : side;
        assign(plan, row, final);
        plan->report.rows[final]++;
        crossing = crossing || final != side;
        given_rows += given != SPLIT_COUNT;
        if (plan->whole) plan->report.crossing += split_moved(plan, row);
    }
    if (crossing) plan->report.crossing += given_rows;
}

static void assign_label(SplitPlan *plan, size_t from, size_t to) {
    Quota q = {{0}, {0}, {0}, 0, 0, {0}, {0}};
    count_groups(&q, plan, from, to);
    set_quotas(&q, plan);
    for (size_t i = from, end; i < to; i = end) {
        end = group_end(plan, i, to);
        Split side = group_given(plan, i, end);
        const bool fixed = side != SPLIT_COUNT && side != SPLIT_TRAIN;
        if (!fixed) {
            const bool last = --q.movable_groups == 0 && q.have[SPLIT_TRAIN] == 0;
            side = choose_side(&q, plan, side, end - i, last);
        }
        assign_group(plan, i, end, side, fixed);
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
    join_keys(plan);
    unite_groups(plan);
    for (size_t i = 0; i < plan->rows; i++) plan->order[i] = (uint32_t)i;
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

uint64_t split_group(const SplitPlan *plan, uint64_t row) {
    assert(plan->order && row < plan->rows);
    return plan->above[row];
}

bool split_moved(const SplitPlan *plan, uint64_t row) {
    const Split given = given_of(plan, (uint32_t)row), side = split_of(plan, row);
    return given != SPLIT_COUNT && given != side && plan->named[side];
}

SplitReport split_report(const SplitPlan *plan) {
    return plan->report;
}
