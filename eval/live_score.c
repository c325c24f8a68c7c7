#include "eval/live_score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"

/* Choice of an expert for each row: a line's. */
typedef struct {
    const LiveBook *book;
    const LiveRoutes *routes;
    const Experts *experts;
    const LiveScore *score;
    double *seconds; /* (n) */
    size_t rows;     /* of the book */
} Input;

static int cmp_seconds(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank. */
static double percentile(const double *sorted, size_t n, double share) {
    if (!n) return (double)NAN;
    const size_t rank = (size_t)fmax(1, ceil(share * (double)n));
    return sorted[rank - 1];
}

static int oracle_of(const Input *in, size_t row) {
    int best = -1;
    LiveGraded of_best = {0};
    for (int x = 0; x < in->score->E; x++) {
        const LiveGraded g = live_book_grade(in->book, row, x);
        if (best >= 0 && (g.right != of_best.right ? !g.right : g.cost >= of_best.cost)) continue;
        best = x;
        of_best = g;
    }
    return best;
}

static int expert_of(const Input *in, const LiveLine *line, size_t row) {
    switch (line->kind) {
        case LIVE_ROUTED: return in->routes->expert[row];
        case LIVE_SINGLE: return line->expert;
        case LIVE_LABELS: return in->experts->routes[in->routes->label[row]];
        default: return oracle_of(in, row);
    }
}

static void measure(LiveLine *line, const Input *in) {
    const LiveScore *s = in->score;
    double cost = 0, tokens_in = 0, tokens_out = 0;
    size_t timed = 0;
    for (size_t i = 0; i < in->rows; i++) {
        if (!s->complete[i]) continue;
        const LiveGraded g = live_book_grade(in->book, i, expert_of(in, line, i));
        line->right += g.right;
        line->cut += g.cut;
        line->no_letter += g.no_letter;
        line->bad_judgements += g.bad_judgement;
        line->refused += g.refused;
        line->uncounted += !g.counted;
        cost += g.cost + (line->kind == LIVE_ROUTED ? in->routes->router_cost[i] : 0);
        tokens_in += (double)g.in;
        tokens_out += (double)g.out;
        if (!g.refused) in->seconds[timed++] = g.seconds;
    }
    qsort(in->seconds, timed, sizeof *in->seconds, cmp_seconds);
    line->accuracy = metrics_wilson(line->right, s->n);
    line->cost = 1000 * cost / (double)s->n;
    line->tokens_in = tokens_in / (double)s->n;
    line->tokens_out = tokens_out / (double)s->n;
    line->p50 = percentile(in->seconds, timed, 0.5);
    line->p90 = percentile(in->seconds, timed, 0.9);
    line->p99 = percentile(in->seconds, timed, 0.99);
}

/* Pairs that differ decide: n01 rows only a has right, n10 only b. */
static Interval paired_gain(const Input *in, const LiveLine *a, const LiveLine *b) {
    const double n = (double)in->score->n;
    double sum = 0, squares = 0;
    for (size_t i = 0; i < in->rows; i++) {
        if (!in->score->complete[i]) continue;
        const int d = (int)live_book_grade(in->book, i, expert_of(in, a, i)).right -
                      (int)live_book_grade(in->book, i, expert_of(in, b, i)).right;
        sum += d;
        squares += d * d;
    }
    const double mean = sum / n, variance = n > 1 ? (squares - n * mean * mean) / (n - 1) : 0;
    const double half = 1.959963984540054 * sqrt(fmax(variance, 0) / n);
    return (Interval){mean, mean - half, mean + half};
}

static void find_complete(LiveScore *s, const Input *in) {
    for (size_t i = 0; i < in->rows; i++) {
        bool all = true;
        for (int x = 0; all && x < s->E; x++)
            if (in->routes->wanted[i * (size_t)s->E + (size_t)x])
                all = live_book_grade(in->book, i, x).graded;
        s->complete[i] = all;
        s->n += all;
    }
    s->left_out = in->rows - s->n;
}

/* Whether every row was to be asked of an expert. */
static bool asked_all(const Input *in, int x) {
    for (size_t i = 0; i < in->rows; i++)
        if (!in->routes->wanted[i * (size_t)in->score->E + (size_t)x]) return false;
    return true;
}

static void fill_lines(LiveScore *s, const Input *in) {
    bool everything = true;
    s->lines[s->count++] = (LiveLine){.kind = LIVE_ROUTED, .expert = -1};
    for (int x = 0; x < s->E; x++) {
        if (asked_all(in, x))
            s->lines[s->count++] = (LiveLine){.kind = LIVE_SINGLE, .expert = x};
        else
            everything = false;
    }
    if (everything) {
        s->lines[s->count++] = (LiveLine){.kind = LIVE_LABELS, .expert = -1};
        s->oracle = s->count;
        s->lines[s->count++] = (LiveLine){.kind = LIVE_ORACLE, .expert = -1};
    }
    for (size_t l = 0; l < s->count; l++) {
        LiveLine *line = &s->lines[l];
        measure(line, in);
        if (line->kind != LIVE_SINGLE) continue;
        const LiveLine *best = s->best ? &s->lines[s->best] : NULL;
        if (!best || line->right > best->right || (line->right == best->right && line->cost < best->cost))
            s->best = l;
    }
    for (size_t l = 0; l < s->count; l++)
        s->lines[l].gain = s->best ? paired_gain(in, &s->lines[l], &s->lines[s->best])
                                   : (Interval){(double)NAN, (double)NAN, (double)NAN};
    s->regret = s->oracle ? s->lines[s->oracle].accuracy.value - s->lines[0].accuracy.value : (double)NAN;
}

static void fill_domains(LiveScore *s, const Input *in) {
    for (size_t i = 0; i < in->rows; i++) {
        if (!s->complete[i]) continue;
        const int label = in->routes->label[i], sent = in->routes->expert[i],
                  own = in->experts->routes[label];
        LiveDomain *d = &s->domains[label];
        const bool right = live_book_grade(in->book, i, sent).right;
        s->sent[(size_t)label * (size_t)s->E + (size_t)sent]++;
        s->abstained += in->routes->abstained[i];
        d->n++;
        d->right += right;
        d->misrouted += sent != own;
        if (s->best) d->best_right += live_book_grade(in->book, i, s->lines[s->best].expert).right;
        if (!s->oracle) continue;
        d->oracle_right += live_book_grade(in->book, i, oracle_of(in, i)).right;
        d->lost += ((double)live_book_grade(in->book, i, own).right - (double)right) / (double)s->n;
    }
    for (int k = 0; k < s->K && !s->oracle; k++) s->domains[k].lost = (double)NAN;
}

ErrCode live_score_compute(LiveScore *out, const LiveBook *book, const Experts *experts,
                           const LiveRoutes *routes, int K, Err *err) {
    const LiveView *v = live_book_view(book);
    *out = (LiveScore){.K = K, .E = v->E};
    Input in = {.book = book, .routes = routes, .experts = experts, .score = out, .rows = v->n};
    const size_t labels = (size_t)K, count = (size_t)v->E;
    ErrCode rc = mem_new(&in.seconds, v->n, sizeof *in.seconds, "the results", err);
    if (rc == ERR_OK) rc = mem_new(&out->complete, v->n, sizeof *out->complete, "the results", err);
    if (rc == ERR_OK) rc = mem_new(&out->lines, count + 3, sizeof *out->lines, "the results", err);
    if (rc == ERR_OK) rc = mem_new(&out->domains, labels, sizeof *out->domains, "the results", err);
    if (rc == ERR_OK) rc = mem_new(&out->sent, labels * count, sizeof *out->sent, "the results", err);
    if (rc == ERR_OK) {
        find_complete(out, &in);
        if (!out->n) rc = err_set(err, ERR_GATE, "no row has all its answers");
    }
    if (rc == ERR_OK) {
        fill_lines(out, &in);
        fill_domains(out, &in);
    }
    mem_free(in.seconds);
    if (rc != ERR_OK) live_score_free(out);
    return rc;
}

void live_score_free(LiveScore *s) {
    mem_free(s->lines);
    mem_free(s->domains);
    mem_free(s->sent);
    mem_free(s->complete);
    *s = (LiveScore){0};
}
