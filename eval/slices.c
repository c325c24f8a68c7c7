#include "eval/slices.h"

#include <string.h>

#include "core/mem.h"
#include "core/text.h"
#include "eval/grid.h"

const char *const SLICES_TOKENS[SLICES_LENGTHS] = {"1-16",    "17-32",   "33-64",    "65-128",
                                                   "129-256", "257-512", "513-1024", "1025 and more"};
const char *const SLICES_CHARACTERS[SLICES_LENGTHS] = {"1-32",    "33-64",    "65-128",    "129-256",
                                                       "257-512", "513-1024", "1025-2048", "2049 and more"};

static int bin_of(size_t length, size_t first) {
    int bin = 0;
    for (size_t end = first; length > end && bin + 1 < SLICES_LENGTHS; end *= 2) bin++;
    return bin;
}

int slices_tokens(int tokens) {
    return bin_of(tokens > 0 ? (size_t)tokens : 0, 16);
}

int slices_characters(RowText text) {
    size_t count = 0;
    for (size_t i = 0; i < text.n; count++) {
        uint32_t c;
        i += text_utf8_next(text.text + i, text.n - i, &c);
    }
    return bin_of(count, 32);
}

/* ---- counting ---- */

/* Of one name; those without rows are dropped afterwards. */
typedef struct {
    uint64_t n, correct, baseline_correct;
    double confidence;
    uint64_t *labels, *answers, *right; /* (K) */
} Tally;

static void count_rows(Tally *tallies, uint64_t *without, const int *group, const SlicesRows *r) {
    for (size_t i = 0; i < r->n; i++) {
        if (group[i] < 0) {
            (*without)++;
            continue;
        }
        Tally *t = &tallies[group[i]];
        const double *p = r->p + i * (size_t)r->K;
        const int best = metrics_best(p, r->K), label = r->labels[i];
        t->n++;
        t->correct += best == label;
        t->right[label] += best == label;
        t->labels[label]++;
        t->answers[best]++;
        t->confidence += p[best];
        if (r->baseline) t->baseline_correct += metrics_best(r->baseline + i * (size_t)r->K, r->K) == label;
    }
}

static double recall_of(const Tally *t, int K) {
    double sum = 0;
    int classes = 0;
    for (int k = 0; k < K; k++) {
        if (!t->labels[k]) continue;
        sum += (double)t->right[k] / (double)t->labels[k];
        classes++;
    }
    return sum / classes;
}

static void fill_groups(Slices *out, const Tally *tallies, const char *const *names, size_t name_count,
                        const SlicesRows *r) {
    double sum = 0, baseline = 0;
    for (size_t g = 0; g < name_count; g++) {
        const Tally *t = &tallies[g];
        if (t->n == 0) continue;
        out->groups[out->count++] = (SlicesGroup){.name = names[g],
                                                  .n = t->n,
                                                  .correct = t->correct,
                                                  .baseline_correct = t->baseline_correct,
                                                  .accuracy = metrics_wilson(t->correct, t->n),
                                                  .macro_recall = recall_of(t, r->K),
                                                  .confidence = t->confidence / (double)t->n,
                                                  .labels = t->labels,
                                                  .answers = t->answers};
        sum += (double)t->correct / (double)t->n;
        baseline += (double)t->baseline_correct / (double)t->n;
    }
    const double groups = out->count ? (double)out->count : 1;
    out->mean_accuracy = sum / groups;
    out->baseline_mean = r->baseline ? baseline / groups : -1;
}

ErrCode slices_compute(Slices *out, const char *key, const char *const *names, size_t name_count,
                       const int *group, const SlicesRows *rows, Err *err) {
    *out = (Slices){.key = key, .K = rows->K};
    const size_t K = (size_t)rows->K;
    Tally *tallies = NULL;
    ErrCode rc = mem_new(&tallies, name_count + 1, sizeof *tallies, "the slices", err);
    if (rc == ERR_OK)
        rc = mem_new(&out->counts, name_count + 1, 3 * K * sizeof *out->counts, "the slices", err);
    if (rc == ERR_OK) rc = mem_new(&out->groups, name_count + 1, sizeof *out->groups, "the slices", err);
    if (rc == ERR_OK) {
        for (size_t g = 0; g < name_count; g++) {
            tallies[g].labels = out->counts + 3 * K * g;
            tallies[g].answers = tallies[g].labels + K;
            tallies[g].right = tallies[g].answers + K;
        }
        count_rows(tallies, &out->without, group, rows);
        fill_groups(out, tallies, names, name_count, rows);
    }
    mem_free(tallies);
    if (rc != ERR_OK) slices_free(out);
    return rc;
}

void slices_free(Slices *s) {
    mem_free(s->groups);
    mem_free(s->counts);
    *s = (Slices){0};
}

static bool worse(const SlicesGroup *a, const SlicesGroup *b) {
    return a->accuracy.high < b->accuracy.high;
}

size_t slices_worst(size_t worst[SLICES_WORST], const Slices *s) {
    size_t count = 0;
    for (size_t g = 0; g < s->count; g++) {
        size_t at = count < SLICES_WORST ? count++ : SLICES_WORST;
        if (at == SLICES_WORST && !worse(&s->groups[g], &s->groups[worst[SLICES_WORST - 1]])) continue;
        if (at == SLICES_WORST) at--;
        for (; at > 0 && worse(&s->groups[g], &s->groups[worst[at - 1]]); at--) worst[at] = worst[at - 1];
        worst[at] = g;
    }
    return count;
}

/* ---- JSON ---- */

static void put_text(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_counts(Buf *out, const char *key, const uint64_t *counts, const char *const *labels, int K) {
    bool first = true;
    buf_printf(out, ", \"%s\": {", key);
    for (int k = 0; k < K; k++) {
        if (!counts[k]) continue;
        buf_puts(out, first ? "" : ", ");
        put_text(out, labels[k]);
        buf_printf(out, ": %llu", (unsigned long long)counts[k]);
        first = false;
    }
    buf_puts(out, "}");
}

void slices_json(Buf *out, const Slices *s, const char *const *labels) {
    buf_puts(out, "{\"key\": ");
    put_text(out, s->key);
    buf_printf(out, ", \"groups\": %zu, \"without\": %llu, \"mean_accuracy\": %.10g", s->count,
               (unsigned long long)s->without, s->mean_accuracy);
    if (s->baseline_mean >= 0) buf_printf(out, ", \"ngram_mean_accuracy\": %.10g", s->baseline_mean);
    buf_puts(out, ", \"worst\": [");
    size_t worst[SLICES_WORST];
    const size_t count = slices_worst(worst, s);
    for (size_t i = 0; i < count; i++) {
        buf_puts(out, i ? ", " : "");
        put_text(out, s->groups[worst[i]].name);
    }
    buf_puts(out, "], \"rows\": [");
    for (size_t g = 0; g < s->count; g++) {
        const SlicesGroup *group = &s->groups[g];
        buf_printf(out, "%s\n      {\"name\": ", g ? "," : "");
        put_text(out, group->name);
        buf_printf(out, ", \"n\": %llu, ", (unsigned long long)group->n);
        metrics_put_json(out, "accuracy", &group->accuracy);
        buf_printf(out, ", \"macro_recall\": %.10g, \"confidence\": %.10g", group->macro_recall,
                   group->confidence);
        if (s->baseline_mean >= 0)
            buf_printf(out, ", \"ngram_accuracy\": %.10g",
                       (double)group->baseline_correct / (double)group->n);
        put_counts(out, "labels", group->labels, labels, s->K);
        put_counts(out, "answers", group->answers, labels, s->K);
        buf_puts(out, "}");
    }
    buf_puts(out, s->count ? "\n    ]}" : "]}");
}

/* ---- table ---- */

/* "other 62, health 5": the most frequent first. */
static void put_destinations(Buf *out, const SlicesGroup *g, const char *const *labels, int K) {
    uint64_t below = UINT64_MAX;
    int last = -1;
    for (int shown = 0; shown < 3; shown++) {
        int best = -1;
        for (int k = 0; k < K; k++) {
            const uint64_t c = g->answers[k];
            const bool later = c < below || (c == below && k > last);
            if (c && later && (best < 0 || c > g->answers[best])) best = k;
        }
        if (best < 0) return;
        char label[36];
        text_excerpt(label, 32, labels[best], strlen(labels[best]));
        buf_printf(out, "%s%s %llu", shown ? ", " : "", label, (unsigned long long)g->answers[best]);
        below = g->answers[best];
        last = best;
    }
}

static void put_group(Grid *grid, const SlicesGroup *g, bool baseline) {
    char n[32];
    grid_put_text(grid, g->name, strlen(g->name), 34);
    grid_put(grid, "%s", grid_count(n, g->n));
    grid_put(grid, "%.2f %%", 100 * g->accuracy.value);
    grid_put(grid, "[%.2f, %.2f]", 100 * g->accuracy.low, 100 * g->accuracy.high);
    grid_put(grid, "%.2f %%", 100 * g->confidence);
    if (baseline) grid_put(grid, "%.2f %%", 100 * (double)g->baseline_correct / (double)g->n);
}

void slices_table(Buf *out, const Slices *s, const char *const *labels, size_t most) {
    const bool baseline = s->baseline_mean >= 0;
    const size_t shown = most && most < s->count ? most : s->count;
    Grid grid;
    char n[32], key[44];
    grid_init(&grid, baseline ? "lrrrrr" : "lrrrr");
    grid_put(&grid, "%s", text_excerpt(key, 40, s->key, strlen(s->key)));
    grid_put(&grid, "rows");
    grid_put(&grid, "accuracy");
    grid_put(&grid, "[95 %% interval]");
    grid_put(&grid, "confidence");
    if (baseline) grid_put(&grid, "n-gram");
    for (size_t g = 0; g < shown; g++) put_group(&grid, &s->groups[g], baseline);
    buf_puts(out, "\n");
    grid_text(out, &grid);
    grid_free(&grid);
    if (shown < s->count) buf_printf(out, "  and %zu more, in the JSON\n", s->count - shown);
    if (s->without) buf_printf(out, "  %s rows without a value\n", grid_count(n, s->without));
    if (s->count < 2) return;
    buf_printf(out, "  mean over %zu groups: %.2f %%", s->count, 100 * s->mean_accuracy);
    if (baseline) buf_printf(out, "  (n-gram %.2f %%)", 100 * s->baseline_mean);
    buf_puts(out, "\n");
    if (s->count <= SLICES_WORST) return;
    size_t worst[SLICES_WORST];
    const size_t count = slices_worst(worst, s);
    buf_puts(out, "  worst:\n");
    grid_init(&grid, "lrl");
    grid_put(&grid, "%s", text_excerpt(key, 40, s->key, strlen(s->key)));
    grid_put(&grid, "accuracy");
    grid_put(&grid, "answers");
    for (size_t i = 0; i < count; i++) {
        const SlicesGroup *g = &s->groups[worst[i]];
        Buf to = {0};
        put_destinations(&to, g, labels, s->K);
        grid_put_text(&grid, g->name, strlen(g->name), 34);
        grid_put(&grid, "%.2f %%", 100 * g->accuracy.value);
        grid_put_text(&grid, to.data ? to.data : "", to.len, 45);
        out->failed |= to.failed;
        buf_free(&to);
    }
    grid_text(out, &grid);
    grid_free(&grid);
}
