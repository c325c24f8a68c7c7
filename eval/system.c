#include "eval/system.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"

double system_confidence(const double *p, int K) {
    return p[metrics_best(p, K)];
}

/* What a choice of experts gives: sums over rows. */
typedef struct {
    double quality, cost, active;
} Sums;

static void add_row(Sums *sums, const Experts *e, const ExpertsOutcome *o, size_t row, int expert,
                    double sign) {
    const size_t at = row * (size_t)o->E + (size_t)expert;
    sums->quality += sign * o->quality[at];
    sums->cost += sign * o->cost[at];
    sums->active += sign * (double)e->items[expert].parameters;
}

/* ---- one line ---- */

static Interval mean_of(const double *values, size_t n, double low, double high) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    const double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += (values[i] - mean) * (values[i] - mean);
    const double half = n > 1 ? 1.959963984540054 * sqrt(squares / (double)(n - 1) / (double)n) : 0;
    return (Interval){mean, fmax(mean - half, low), fmin(mean + half, high)};
}

static int perfect_expert(const ExpertsOutcome *o, size_t row) {
    const double *q = o->quality + row * (size_t)o->E, *cost = o->cost + row * (size_t)o->E;
    int best = 0;
    for (int e = 1; e < o->E; e++)
        if (q[e] > q[best] || (q[e] == q[best] && cost[e] < cost[best])) best = e;
    return best;
}

static int expert_for(const System *s, const SystemLine *line, const SystemRows *rows, size_t i) {
    const double *p = rows->p + i * (size_t)rows->K;
    switch (line->kind) {
        case SYSTEM_SINGLE: return line->expert;
        case SYSTEM_LABELS: return s->maps[line->map][rows->labels[i]];
        case SYSTEM_PERFECT: return perfect_expert(rows->outcome, i);
        case SYSTEM_ROBUST:
            if (system_confidence(p, rows->K) < line->threshold) return line->expert;
            break;
        case SYSTEM_ROUTED: break;
    }
    return s->maps[line->map][metrics_best(p, rows->K)];
}

static double total_of(const System *s, const SystemLine *line, const Experts *e) {
    bool open[EXPERTS_MAX] = {false};
    if (line->kind == SYSTEM_PERFECT)
        for (int x = 0; x < e->count; x++) open[x] = true;
    else if (line->kind != SYSTEM_SINGLE)
        for (int k = 0; k < s->K; k++) open[s->maps[line->map][k]] = true;
    if (line->expert >= 0) open[line->expert] = true;
    int64_t sum = line->kind == SYSTEM_SINGLE ? 0 : e->router_parameters;
    for (int x = 0; x < e->count; x++) sum += open[x] ? e->items[x].parameters : 0;
    return (double)sum;
}

/* values (n): scratch; becomes the quality of each row. */
static void fill_line(SystemLine *line, const System *s, const Experts *e, const SystemRows *rows,
                      double *values) {
    const ExpertsOutcome *o = rows->outcome;
    Sums sums = {0};
    size_t routed = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const int expert = expert_for(s, line, rows, i);
        add_row(&sums, e, o, i, expert, 1);
        if (line->kind != SYSTEM_SINGLE) sums.cost += o->router_cost[i];
        values[i] = o->quality[i * (size_t)o->E + (size_t)expert];
        routed += line->kind != SYSTEM_ROBUST ||
                  system_confidence(rows->p + i * (size_t)rows->K, rows->K) >= line->threshold;
    }
    const double n = (double)rows->n;
    line->accuracy = mean_of(values, rows->n, 0, 1);
    line->cost = 1000 * sums.cost / n;
    line->active = sums.active / n + (line->kind == SYSTEM_SINGLE ? 0 : (double)e->router_parameters);
    line->total = total_of(s, line, e);
    line->routed = (double)routed / n;
}

/* ---- thresholds ---- */

typedef struct {
    double score;
    size_t row;
} Ranked;

static int by_score(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

static ErrCode rank_rows(Ranked **out, const SystemRows *rows, const int *map, int strong, Err *err) {
    TRY(mem_new(out, rows->n, sizeof **out, "the rows' scores", err));
    for (size_t i = 0; i < rows->n; i++) {
        const double *p = rows->p + i * (size_t)rows->K;
        double score = 0;
        if (strong < 0)
            score = system_confidence(p, rows->K);
        else
            for (int k = 0; k < rows->K; k++) score += map[k] == strong ? p[k] : 0;
        (*out)[i] = (Ranked){score, i};
    }
    qsort(*out, rows->n, sizeof **out, by_score);
    return ERR_OK;
}

/* Whether the first m rows can be parted from the rest, and a score to part them by. */
static bool can_part(const Ranked *ranked, size_t n, size_t m, double *threshold) {
    if (m == 0)
        *threshold = 0;
    else if (m == n)
        *threshold = 2; /* no score reaches it */
    else
        *threshold = ranked[m - 1].score + (ranked[m].score - ranked[m - 1].score) / 2;
    /* the middle of two neighbours may round to the lower one */
    if (m > 0 && m < n && !(*threshold > ranked[m - 1].score)) *threshold = ranked[m].score;
    return m == 0 || m == n || ranked[m].score > ranked[m - 1].score;
}

typedef struct {
    int fallback;
    double threshold, objective, accuracy, cost;
} Robust;

/* The best threshold for one fallback: rows move to it from the least sure up. */
static void try_fallback(Robust *best, const Experts *e, const SystemRows *rows, const Ranked *ranked,
                         const int *map, int fallback, double lambda) {
    const ExpertsOutcome *o = rows->outcome;
    const double n = (double)rows->n;
    Sums sums = {0};
    for (size_t i = 0; i < rows->n; i++) {
        add_row(&sums, e, o, i, map[metrics_best(rows->p + i * (size_t)rows->K, rows->K)], 1);
        sums.cost += o->router_cost[i];
    }
    for (size_t m = 0; m <= rows->n; m++) {
        double threshold;
        if (can_part(ranked, rows->n, m, &threshold)) {
            const double accuracy = sums.quality / n, cost = 1000 * sums.cost / n;
            const double objective = 100 * accuracy - lambda * cost;
            /* what sums' rounding can differ by is no improvement */
            if (objective > best->objective + 1e-9)
                *best = (Robust){fallback, threshold, objective, accuracy, cost};
        }
        if (m == rows->n) break;
        const size_t row = ranked[m].row;
        add_row(&sums, e, o, row, map[metrics_best(rows->p + row * (size_t)rows->K, rows->K)], -1);
        add_row(&sums, e, o, row, fallback, 1);
    }
}

/* A CoE map's experts and its fallback together must keep the budget. */
static bool may_fall_back(const System *s, SystemMap map, int fallback, const Experts *e, int64_t budget) {
    if (e->fallback >= 0 && e->fallback != fallback) return false;
    const SystemLine line = {.kind = SYSTEM_ROBUST, .map = map, .expert = fallback};
    return map != SYSTEM_COE || budget < 0 || (int64_t)total_of(s, &line, e) - e->router_parameters <= budget;
}

static ErrCode choose_fallback(SystemLine *line, const System *s, const Experts *e, const SystemRows *rows,
                               SystemMap map, const SystemRule *rule, bool *found, Err *err) {
    Ranked *ranked;
    TRY(rank_rows(&ranked, rows, NULL, -1, err));
    Robust best = {.fallback = -1, .objective = -HUGE_VAL};
    for (int x = 0; x < e->count; x++)
        if (may_fall_back(s, map, x, e, rule->budget))
            try_fallback(&best, e, rows, ranked, s->maps[map], x, rule->lambda);
    mem_free(ranked);
    *found = best.fallback >= 0;
    *line = (SystemLine){.kind = SYSTEM_ROBUST,
                         .map = map,
                         .expert = best.fallback,
                         .threshold = best.threshold,
                         .chosen_accuracy = best.accuracy,
                         .chosen_cost = best.cost};
    return ERR_OK;
}

/* ---- curves ---- */

/* Rows from the lowest score up move from the map's expert to `fallback`, or (strong >= 0) from strong to weak. At most
 * SYSTEM_POINTS points, at even shares of the rows as far as ties allow. */
static size_t walk_curve(SystemPoint *points, const Experts *e, const SystemRows *rows, const Ranked *ranked,
                         const int *map, int strong, int fallback) {
    const ExpertsOutcome *o = rows->outcome;
    const double n = (double)rows->n, router = (double)e->router_parameters;
    Sums sums = {0};
    for (size_t i = 0; i < rows->n; i++) {
        const int expert = strong >= 0 ? strong : map[metrics_best(rows->p + i * (size_t)rows->K, rows->K)];
        add_row(&sums, e, o, i, expert, 1);
        sums.cost += o->router_cost[i];
    }
    size_t count = 0;
    for (size_t m = 0; m <= rows->n; m++) {
        double threshold;
        const bool due = m == rows->n || m * (SYSTEM_POINTS - 1) >= count * rows->n;
        if (due && can_part(ranked, rows->n, m, &threshold) && count < SYSTEM_POINTS)
            points[count++] = (SystemPoint){threshold, 1 - (double)m / n, sums.quality / n,
                                            1000 * sums.cost / n, sums.active / n + router};
        if (m == rows->n) break;
        const size_t row = ranked[m].row;
        const int from = strong >= 0 ? strong : map[metrics_best(rows->p + row * (size_t)rows->K, rows->K)];
        add_row(&sums, e, o, row, from, -1);
        add_row(&sums, e, o, row, fallback, 1);
    }
    return count;
}

/* PGR over all shares that ties allow, linear between them. */
static void measure_two(SystemTwo *two, const SystemRows *rows, const Ranked *ranked) {
    const ExpertsOutcome *o = rows->outcome;
    const double n = (double)rows->n;
    double weak = 0, strong = 0;
    for (size_t i = 0; i < rows->n; i++) {
        weak += o->quality[i * (size_t)o->E + (size_t)two->weak];
        strong += o->quality[i * (size_t)o->E + (size_t)two->strong];
    }
    double sum = weak, last_share = 0, last = 0;
    two->apgr = 0;
    two->cpt50 = two->cpt80 = (double)NAN;
    for (size_t m = 1; m <= rows->n; m++) { /* the m rows of the highest scores go to the stronger */
        const size_t row = ranked[rows->n - m].row;
        sum += o->quality[row * (size_t)o->E + (size_t)two->strong] -
               o->quality[row * (size_t)o->E + (size_t)two->weak];
        double threshold;
        if (!can_part(ranked, rows->n, rows->n - m, &threshold)) continue;
        const double share = (double)m / n, pgr = (sum - weak) / (strong - weak);
        two->apgr += (share - last_share) * (pgr + last) / 2;
        if (isnan(two->cpt50) && pgr >= 0.5 - 1e-12) two->cpt50 = share;
        if (isnan(two->cpt80) && pgr >= 0.8 - 1e-12) two->cpt80 = share;
        last_share = share;
        last = pgr;
    }
}

static ErrCode two_models(System *s, const Experts *e, const SystemRows *rows, Err *err) {
    const SystemLine *line = &s->lines[s->main];
    const int *map = s->maps[line->map];
    int other = -1;
    for (int k = 0; k < s->K; k++) {
        if (map[k] == map[0] || map[k] == other) continue;
        if (other >= 0) return ERR_OK;
        other = map[k];
    }
    if (other < 0) return ERR_OK;
    const double first = s->lines[map[0]].accuracy.value, second = s->lines[other].accuracy.value;
    if (first == second) return ERR_OK;
    s->two.there = true;
    s->two.strong = first > second ? map[0] : other;
    s->two.weak = first > second ? other : map[0];
    Ranked *ranked;
    TRY(rank_rows(&ranked, rows, map, s->two.strong, err));
    s->two.count = walk_curve(s->two.points, e, rows, ranked, map, s->two.strong, s->two.weak);
    measure_two(&s->two, rows, ranked);
    mem_free(ranked);
    return ERR_OK;
}

static ErrCode main_curve(System *s, const Experts *e, const SystemRows *rows, Err *err) {
    const SystemMap map = s->lines[s->main].map;
    s->curve_fallback = e->fallback >= 0 ? e->fallback : s->best_single;
    for (size_t i = 0; i < s->count; i++)
        if (s->lines[i].kind == SYSTEM_ROBUST && s->lines[i].map == map)
            s->curve_fallback = s->lines[i].expert;
    Ranked *ranked;
    TRY(rank_rows(&ranked, rows, NULL, -1, err));
    s->point_count = walk_curve(s->points, e, rows, ranked, s->maps[map], -1, s->curve_fallback);
    mem_free(ranked);
    return ERR_OK;
}

/* ---- maps ---- */

/* Share of each label and mean quality of each expert on it; a label without rows has share 0. */
static void label_means(double *share, double *quality, const SystemRows *rows) {
    const ExpertsOutcome *o = rows->outcome;
    for (size_t i = 0; i < rows->n; i++) {
        share[rows->labels[i]] += 1;
        for (int x = 0; x < o->E; x++)
            quality[rows->labels[i] * o->E + x] += o->quality[i * (size_t)o->E + (size_t)x];
    }
    for (int k = 0; k < rows->K; k++) {
        for (int x = 0; x < o->E && share[k] > 0; x++)
            quality[k * o->E + x] = fmin(quality[k * o->E + x] / share[k], 1);
        share[k] /= (double)rows->n;
    }
}

static ErrCode choose_maps(System *s, const Experts *e, const SystemRows *rows, int64_t budget, Err *err) {
    const size_t K = (size_t)s->K, E = (size_t)s->E;
    double *share = NULL, *quality = NULL;
    int64_t *size = NULL, *weight = NULL;
    ErrCode rc = mem_new(&share, K, sizeof *share, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&quality, K * E, sizeof *quality, "the labels", err);
    if (rc == ERR_OK) rc = mem_new(&size, E, sizeof *size, "the experts", err);
    if (rc == ERR_OK) rc = mem_new(&weight, K * E, sizeof *weight, "the labels", err);
    if (rc == ERR_OK) {
        label_means(share, quality, rows);
        for (size_t x = 0; x < E; x++) size[x] = e->items[x].parameters;
        coe_weights(weight, share, quality, s->K, s->E);
        const CoeProblem problem = {s->K, s->E, size, weight};
        rc = coe_frontier(&s->frontier, &problem, budget, err);
    }
    if (rc == ERR_OK) rc = mem_new(&s->maps[SYSTEM_COE], K, sizeof(int), "a map of experts", err);
    if (rc == ERR_OK)
        memcpy(s->maps[SYSTEM_COE], s->frontier.points[s->frontier.count - 1].expert, K * sizeof(int));
    if (rc == ERR_OK && e->routes) {
        rc = mem_new(&s->maps[SYSTEM_BY_HAND], K, sizeof(int), "a map of experts", err);
        if (rc == ERR_OK) memcpy(s->maps[SYSTEM_BY_HAND], e->routes, K * sizeof(int));
    }
    mem_free(share);
    mem_free(quality);
    mem_free(size);
    mem_free(weight);
    return rc;
}

/* ---- all of it ---- */

static void misrouting(System *s, const SystemRows *rows) {
    const ExpertsOutcome *o = rows->outcome;
    const int *map = s->maps[s->lines[s->main].map];
    for (size_t i = 0; i < rows->n; i++) {
        const int label = rows->labels[i], sent = metrics_best(rows->p + i * (size_t)rows->K, rows->K);
        const double *q = o->quality + i * (size_t)o->E;
        s->confusion[label * s->K + sent]++;
        s->misrouting[label * s->K + sent] += (q[map[label]] - q[map[sent]]) / (double)rows->n;
    }
}

/* What each line is against the best single model and against those that cannot be had. values: (n) scratch. */
static void relate_lines(System *s, const Experts *e, const SystemRows *rows, double *values) {
    const ExpertsOutcome *o = rows->outcome;
    const SystemLine *best = &s->lines[s->best_single];
    double perfect = 0, known[SYSTEM_MAPS] = {0};
    for (size_t l = 0; l < s->count; l++) {
        if (s->lines[l].kind == SYSTEM_PERFECT) perfect = s->lines[l].accuracy.value;
        if (s->lines[l].kind == SYSTEM_LABELS) known[s->lines[l].map] = s->lines[l].accuracy.value;
    }
    for (size_t l = 0; l < s->count; l++) {
        SystemLine *line = &s->lines[l];
        fill_line(line, s, e, rows, values);
        for (size_t i = 0; i < rows->n; i++)
            values[i] -= o->quality[i * (size_t)o->E + (size_t)s->best_single];
        line->gain = mean_of(values, rows->n, -1, 1);
        line->cost_ratio = best->cost > 0 ? line->cost / best->cost : (double)NAN;
        line->regret_perfect = perfect - line->accuracy.value;
        if (line->kind == SYSTEM_ROUTED || line->kind == SYSTEM_ROBUST)
            line->regret_labels = known[line->map] - line->accuracy.value;
    }
}

static ErrCode add_lines(System *s, const Experts *e, const SystemRows *rows, const SystemRows *chosen,
                         const SystemRule *rule, double *values, Err *err) {
    for (int x = 0; x < e->count; x++) {
        s->lines[s->count++] = (SystemLine){.kind = SYSTEM_SINGLE, .expert = x};
        fill_line(&s->lines[x], s, e, rows, values);
        const SystemLine *line = &s->lines[x], *best = &s->lines[s->best_single];
        if (line->accuracy.value > best->accuracy.value ||
            (line->accuracy.value == best->accuracy.value && line->cost < best->cost))
            s->best_single = x;
    }
    s->main = s->count;
    for (SystemMap m = 0; m < SYSTEM_MAPS; m++)
        if (s->maps[m]) s->lines[s->count++] = (SystemLine){.kind = SYSTEM_ROUTED, .map = m, .expert = -1};
    for (SystemMap m = 0; chosen && m < SYSTEM_MAPS; m++) {
        bool found = false;
        if (!s->maps[m]) continue;
        TRY(choose_fallback(&s->lines[s->count], s, e, chosen, m, rule, &found, err));
        s->count += found;
    }
    for (SystemMap m = 0; m < SYSTEM_MAPS; m++)
        if (s->maps[m]) s->lines[s->count++] = (SystemLine){.kind = SYSTEM_LABELS, .map = m, .expert = -1};
    s->lines[s->count++] = (SystemLine){.kind = SYSTEM_PERFECT, .expert = -1};
    for (size_t l = 0; l < s->count; l++) fill_line(&s->lines[l], s, e, rows, values);
    relate_lines(s, e, rows, values);
    return ERR_OK;
}

ErrCode system_compute(System *out, const Experts *experts, const SystemRows *rows, const SystemRows *chosen,
                       const SystemRule *rule, Err *err) {
    *out = (System){.K = rows->K, .E = experts->count, .chosen_apart = chosen != NULL};
    const size_t cells = (size_t)rows->K * (size_t)rows->K;
    assert(rows->n > 0 && rows->K == experts->K && (!chosen || chosen->n > 0));
    double *values = NULL;
    ErrCode rc = mem_new(&values, rows->n, sizeof *values, "the rows", err);
    if (rc == ERR_OK) rc = mem_new(&out->misrouting, cells, sizeof *out->misrouting, "misrouting", err);
    if (rc == ERR_OK) rc = mem_new(&out->confusion, cells, sizeof *out->confusion, "misrouting", err);
    if (rc == ERR_OK)
        rc = mem_new(&out->lines, (size_t)experts->count + 3 * SYSTEM_MAPS + 1, sizeof *out->lines,
                     "the table", err);
    if (rc == ERR_OK) rc = choose_maps(out, experts, chosen ? chosen : rows, rule->budget, err);
    if (rc == ERR_OK) rc = add_lines(out, experts, rows, chosen, rule, values, err);
    if (rc == ERR_OK) {
        misrouting(out, rows);
        rc = main_curve(out, experts, rows, err);
    }
    if (rc == ERR_OK) rc = two_models(out, experts, rows, err);
    mem_free(values);
    if (rc != ERR_OK) system_free(out);
    return rc;
}

void system_free(System *sys) {
    for (int m = 0; m < SYSTEM_MAPS; m++) mem_free(sys->maps[m]);
    coe_free(&sys->frontier);
    mem_free(sys->lines);
    mem_free(sys->misrouting);
    mem_free(sys->confusion);
    *sys = (System){0};
}
