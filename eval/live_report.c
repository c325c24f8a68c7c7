#include "eval/live_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/text.h"
#include "eval/grid.h"
#include "eval/live_prompt.h"

static const char *const KIND_KEYS[] = {"routed", "single", "labels", "oracle"};
static const char *const GRADE_KEYS[] = {"auto", "letter", "judge"};

static const char *expert_name(const LiveReport *r, int expert) {
    return r->experts->items[expert].name;
}

static int classes(const LiveReport *r) {
    return r->score->K;
}

/* ---- JSON ---- */

static void put_string(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_named(Buf *out, const char *key, const char *value) {
    buf_printf(out, "\"%s\": ", key);
    if (value)
        put_string(out, value);
    else
        buf_puts(out, "null");
}

static void put_number(Buf *out, const char *key, double value) {
    buf_printf(out, "\"%s\": ", key);
    if (isfinite(value))
        buf_printf(out, "%.10g", value);
    else
        buf_puts(out, "null");
}

static void put_interval(Buf *out, const char *key, const Interval *i) {
    if (isfinite(i->value))
        buf_printf(out, "\"%s\": {\"value\": %.10g, \"low\": %.10g, \"high\": %.10g}", key, i->value, i->low,
                   i->high);
    else
        buf_printf(out, "\"%s\": null", key);
}

static void put_line(Buf *out, const LiveReport *r, const LiveLine *l) {
    buf_printf(out, "\n    {\"system\": \"%s\", ", KIND_KEYS[l->kind]);
    put_named(out, "expert", l->kind == LIVE_SINGLE ? expert_name(r, l->expert) : NULL);
    buf_printf(out, ", \"right\": %llu, ", (unsigned long long)l->right);
    put_interval(out, "accuracy", &l->accuracy);
    buf_puts(out, ", ");
    put_interval(out, "gain", &l->gain);
    buf_puts(out, ",\n     ");
    put_number(out, "cost", l->cost);
    buf_puts(out, ", ");
    put_number(out, "tokens_in", l->tokens_in);
    buf_puts(out, ", ");
    put_number(out, "tokens_out", l->tokens_out);
    buf_puts(out, ", \"latency\": {");
    put_number(out, "p50", l->p50);
    buf_puts(out, ", ");
    put_number(out, "p90", l->p90);
    buf_puts(out, ", ");
    put_number(out, "p99", l->p99);
    buf_printf(out,
               "}, \"cut\": %llu, \"no_letter\": %llu, \"bad_judgements\": %llu, \"refused\": %llu, "
               "\"uncounted\": %llu}",
               (unsigned long long)l->cut, (unsigned long long)l->no_letter,
               (unsigned long long)l->bad_judgements, (unsigned long long)l->refused,
               (unsigned long long)l->uncounted);
}

static void put_domains(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    buf_puts(out, "  \"domains\": [");
    for (int k = 0; k < s->K; k++) {
        const LiveDomain *d = &s->domains[k];
        buf_puts(out, k ? ",\n    {" : "\n    {");
        put_named(out, "label", r->labels[k]);
        buf_printf(out, ", \"n\": %llu, \"right\": %llu, ", (unsigned long long)d->n,
                   (unsigned long long)d->right);
        put_number(out, "best_right", s->best ? (double)d->best_right : (double)NAN);
        buf_puts(out, ", ");
        put_number(out, "oracle_right", s->oracle ? (double)d->oracle_right : (double)NAN);
        buf_printf(out, ", \"misrouted\": %llu, ", (unsigned long long)d->misrouted);
        put_number(out, "lost", d->lost);
        buf_puts(out, ", \"sent\": {");
        bool first = true;
        for (int x = 0; x < s->E; x++) {
            const uint64_t sent = s->sent[(size_t)k * (size_t)s->E + (size_t)x];
            if (!sent) continue;
            if (!first) buf_puts(out, ", ");
            first = false;
            put_string(out, expert_name(r, x));
            buf_printf(out, ": %llu", (unsigned long long)sent);
        }
        buf_puts(out, "}}");
    }
    buf_puts(out, "\n  ],\n");
}

static void put_spend(Buf *out, const char *key, const ChatSpend *s) {
    buf_printf(out, ", \"%s\": {\"tokens_in\": %lld, \"tokens_out\": %lld, \"cost\": %.10g}", key,
               (long long)s->in, (long long)s->out, s->cost);
}

static void put_head(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    const LiveQuestionRule *q = &r->questions->rule;
    const Experts *x = r->experts;
    char digest[17];
    buf_puts(out, "{\n  ");
    put_named(out, "set", r->set);
    buf_printf(out, ",\n  \"rows\": %zu, \"n\": %zu, ", r->rows->count, s->n);
    put_named(out, "stopped", r->run->stopped);
    buf_puts(out, ", ");
    put_number(out, "sample", r->sample ? (double)r->sample : (double)NAN);
    buf_printf(out, ", \"seed\": %llu,\n  \"router\": {", (unsigned long long)r->seed);
    put_named(out, "path", r->path);
    buf_puts(out, ", ");
    put_named(out, "kind", r->kind);
    buf_puts(out, ", \"labels\": [");
    for (int k = 0; k < s->K; k++) {
        if (k) buf_puts(out, ", ");
        put_string(out, r->labels[k]);
    }
    buf_puts(out, "], ");
    put_number(out, "threshold", r->threshold >= 0 ? r->threshold : (double)NAN);
    buf_printf(out, ", \"abstained\": %llu, \"sees_options\": %s},\n  \"protocol\": {",
               (unsigned long long)s->abstained, q->with_options ? "true" : "false");
    put_named(out, "wording", live_prompt_digest(digest));
    buf_printf(
        out,
        ", \"options_shuffled\": %s, \"grade\": \"%s\", \"stripped\": %llu, \"skipped\": %llu, \"judge\": ",
        q->shuffle ? "true" : "false", GRADE_KEYS[q->grade], (unsigned long long)r->questions->stripped,
        (unsigned long long)r->skipped);
    if (x->judge.url) {
        buf_puts(out, "{");
        put_named(out, "model", x->judge.model);
        buf_printf(out, ", \"is_expert\": %s}},\n  ", x->judge_is_expert ? "true" : "false");
    } else {
        buf_puts(out, "null},\n  ");
    }
    put_named(out, "currency", x->currency);
    buf_puts(out, ",\n");
}

void live_report_json(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    const LiveView *v = live_book_view(r->book);
    put_head(out, r);
    buf_puts(out, "  \"systems\": [");
    for (size_t i = 0; i < s->count; i++) {
        if (i) buf_puts(out, ",");
        put_line(out, r, &s->lines[i]);
    }
    buf_puts(out, "\n  ],\n  ");
    put_named(out, "best_single", s->best ? expert_name(r, s->lines[s->best].expert) : NULL);
    buf_puts(out, ",\n  ");
    put_number(out, "regret", s->regret);
    buf_puts(out, ",\n");
    put_domains(out, r);
    buf_printf(out, "  \"spent\": {\"requests\": %llu, \"answers\": %llu", (unsigned long long)v->requests,
               (unsigned long long)v->answers);
    put_spend(out, "experts", &v->spent);
    put_spend(out, "judge", &v->judged);
    put_spend(out, "lost", &v->lost);
    buf_printf(out,
               ",\n    \"run_requests\": %llu, \"retries\": %llu, \"throttled\": %llu, \"refused\": %llu, "
               "\"gone\": %llu, "
               "\"seconds\": %.3f}\n}\n",
               (unsigned long long)r->run->requests, (unsigned long long)r->run->retries,
               (unsigned long long)r->run->throttled, (unsigned long long)r->run->refused,
               (unsigned long long)r->run->gone, r->run->seconds);
}

/* ---- for people ---- */

static void line_name(char *out, size_t n, const LiveReport *r, const LiveLine *l) {
    char name[44];
    switch (l->kind) {
        case LIVE_ROUTED: (void)snprintf(out, n, "router"); return;
        case LIVE_LABELS: (void)snprintf(out, n, "(labels known)"); return;
        case LIVE_ORACLE: (void)snprintf(out, n, "(oracle)"); return;
        default: break;
    }
    const char *expert = expert_name(r, l->expert);
    (void)snprintf(out, n, "%s%s", text_excerpt(name, 40, expert, strlen(expert)),
                   r->score->best && l == &r->score->lines[r->score->best] ? " *" : "");
}

static void put_systems(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    Grid g;
    grid_init(&g, "lrrrrrrrrrr");
    const char *const HEAD[] = {"",      "accuracy %", "gain, points", "cost/1,000", "tokens in", "out",
                                "p50 s", "p90 s",      "cut",          "no letter",  "bad judg."};
    for (size_t i = 0; i < sizeof HEAD / sizeof *HEAD; i++) grid_put(&g, "%s", HEAD[i]);
    for (size_t i = 0; i < s->count; i++) {
        const LiveLine *l = &s->lines[i];
        char name[64];
        line_name(name, sizeof name, r, l);
        grid_put(&g, "%s", name);
        grid_put(&g, "%.2f [%.2f, %.2f]", 100 * l->accuracy.value, 100 * l->accuracy.low,
                 100 * l->accuracy.high);
        if (isfinite(l->gain.value) && i != s->best)
            grid_put_interval(&g, 2, 100, &l->gain);
        else
            grid_put(&g, "-");
        grid_put(&g, "%.4f", l->cost);
        grid_put(&g, "%.0f", l->tokens_in);
        grid_put(&g, "%.0f", l->tokens_out);
        grid_put(&g, "%.3g", l->p50);
        grid_put(&g, "%.3g", l->p90);
        grid_put(&g, "%llu", (unsigned long long)l->cut);
        grid_put(&g, "%llu", (unsigned long long)l->no_letter);
        grid_put(&g, "%llu", (unsigned long long)l->bad_judgements);
    }
    grid_text(out, &g);
    grid_free(&g);
    if (s->best)
        buf_puts(out, "  * the best single model on these rows, which favours it; gain is over it\n");
}

static void put_domain_table(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    Grid g;
    grid_init(&g, s->oracle ? "lrrrrrr" : s->best ? "lrrrr" : "lrrr");
    grid_put(&g, "domain");
    grid_put(&g, "n");
    grid_put(&g, "router %%");
    if (s->best) grid_put(&g, "best single %%");
    if (s->oracle) grid_put(&g, "oracle %%");
    grid_put(&g, "misrouted");
    if (s->oracle) grid_put(&g, "lost, points");
    for (int k = 0; k < s->K; k++) {
        const LiveDomain *d = &s->domains[k];
        if (!d->n) continue;
        const double n = (double)d->n / 100;
        grid_put_name(&g, r->labels[k]);
        grid_put(&g, "%llu", (unsigned long long)d->n);
        grid_put(&g, "%.2f", (double)d->right / n);
        if (s->best) grid_put(&g, "%.2f", (double)d->best_right / n);
        if (s->oracle) grid_put(&g, "%.2f", (double)d->oracle_right / n);
        grid_put(&g, "%llu", (unsigned long long)d->misrouted);
        if (s->oracle) grid_put(&g, "%.3f", 100 * d->lost);
    }
    grid_text(out, &g);
    grid_free(&g);
}

static void put_notes(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    const LiveLine *routed = &s->lines[0];
    if (s->oracle) buf_printf(out, "\nregret to the oracle: %.2f points\n", 100 * s->regret);
    if (s->abstained)
        buf_printf(out, "not sure enough (below %g): %llu rows went to the fallback %s\n", r->threshold,
                   (unsigned long long)s->abstained, expert_name(r, r->experts->fallback));
    if (r->questions->stripped)
        buf_printf(out, "subject lines and wrappers were taken off %llu rows before routing\n",
                   (unsigned long long)r->questions->stripped);
    if (s->left_out) buf_printf(out, "left out: %zu rows without all answers\n", s->left_out);
    if (r->experts->judge_is_expert)
        buf_puts(out, "the judge is one of the experts, and may favour itself\n");
    if (routed->uncounted)
        buf_puts(out, "a server does not count tokens: its costs are upper bounds (uncounted in the JSON)\n");
}

static void put_spent(Buf *out, const LiveReport *r) {
    const LiveView *v = live_book_view(r->book);
    const struct {
        const char *what;
        const ChatSpend *s;
    } parts[] = {{"experts", &v->spent}, {"judge", &v->judged}, {"lost requests, at most", &v->lost}};
    buf_printf(out, "\nspent in all runs: %llu requests", (unsigned long long)v->requests);
    for (size_t i = 0; i < 3; i++) {
        const ChatSpend *s = parts[i].s;
        if (s->in + s->out == 0) continue;
        buf_printf(out, "; %s %lld tokens, %.4f %s", parts[i].what, (long long)(s->in + s->out), s->cost,
                   r->experts->currency);
    }
    buf_printf(out, "\nthis run: %llu requests, %llu retries, %.1f s\n", (unsigned long long)r->run->requests,
               (unsigned long long)r->run->retries, r->run->seconds);
}

void live_report_table(Buf *out, const LiveReport *r) {
    const LiveScore *s = r->score;
    buf_printf(out, "%s with %d experts on %zu rows of %s", r->path, s->E, s->n, r->set);
    if (r->run->stopped) buf_printf(out, "; stopped by the limit of %s", r->run->stopped);
    buf_printf(out, " (costs in %s)\n\n", r->experts->currency);
    put_systems(out, r);
    buf_puts(out, "\n");
    put_domain_table(out, r);
    put_notes(out, r);
    put_spent(out, r);
}

/* ---- files ---- */

static void put_row(Buf *out, const LiveReport *r, size_t i) {
    const Row *row = &r->rows->items[i];
    const double *p = r->p + i * (size_t)classes(r);
    const int best = metrics_best(p, classes(r));
    buf_puts(out, "{");
    put_named(out, "id", rows_id(r->rows, i));
    buf_puts(out, ", \"text\": ");
    text_put_json(out, r->rows->bytes.data + row->text_at, row->text_len);
    buf_puts(out, ", ");
    put_named(out, "label", r->labels[row->label]);
    if (row->source >= 0) {
        buf_puts(out, ", ");
        put_named(out, "source", r->rows->sources.items[row->source]);
    }
    buf_puts(out, ", ");
    put_named(out, "predicted", r->labels[best]);
    buf_printf(out, ", \"score\": %.6g, ", p[best]);
    put_named(out, "expert", expert_name(r, r->routes->expert[i]));
    buf_printf(out, ", \"abstained\": %s}\n", r->routes->abstained[i] ? "true" : "false");
}

static void put_said(Buf *out, const LiveReport *r, size_t i, int x, const LiveGraded *g) {
    const LiveView *v = live_book_view(r->book);
    const LiveQuestion *q = &r->questions->items[i];
    const LiveAsk *a = &v->asks[v->cell[i * (size_t)v->E + (size_t)x]];
    buf_puts(out, "{");
    put_named(out, "id", rows_id(r->rows, i));
    buf_puts(out, ", ");
    put_named(out, "expert", expert_name(r, x));
    buf_printf(out, ", \"right\": %s, ", g->right ? "true" : "false");
    const char letter[2] = {(char)('A' + (a->said >= 0 ? a->said : 0)), 0};
    const bool lettered = q->right >= 0 && !g->refused;
    put_named(out, "said",
              !lettered                        ? NULL
              : a->said >= 0                   ? letter
              : a->said == LIVE_PROMPT_SEVERAL ? "several"
                                               : "nothing");
    buf_printf(
        out,
        ", \"cut\": %s, \"refused\": %s, \"bad_judgement\": %s, \"tokens_in\": %lld, \"tokens_out\": %lld, "
        "\"cost\": %.10g, \"seconds\": %.6g}\n",
        g->cut ? "true" : "false", g->refused ? "true" : "false", g->bad_judgement ? "true" : "false",
        (long long)g->in, (long long)g->out, g->cost, g->seconds);
}

static void put_correctness(Buf *out, const LiveReport *r, size_t i, const LiveGraded *g) {
    buf_puts(out, "{");
    put_named(out, "id", rows_id(r->rows, i));
    buf_printf(out, ", \"correct\": %s", g->right ? "true" : "false");
    if (!g->refused)
        buf_printf(out, ", \"input_tokens\": %lld, \"output_tokens\": %lld", (long long)g->in,
                   (long long)g->out);
    buf_puts(out, "}\n");
}

static void put_table(Buf *out, const LiveReport *r) {
    const Experts *e = r->experts;
    buf_puts(out, "{\n  ");
    put_named(out, "currency", e->currency);
    buf_puts(out, ",\n  \"routes\": {");
    for (int k = 0; k < classes(r); k++) {
        if (k) buf_puts(out, ", ");
        put_string(out, r->labels[k]);
        buf_puts(out, ": ");
        put_string(out, expert_name(r, e->routes[k]));
    }
    buf_puts(out, "},\n");
    if (e->fallback >= 0) {
        buf_puts(out, "  ");
        put_named(out, "fallback", expert_name(r, e->fallback));
        buf_puts(out, ",\n");
    }
    if (e->router_parameters)
        buf_printf(out, "  \"router\": {\"parameters_b\": %.10g, \"price_in\": %.17g},\n",
                   (double)e->router_parameters / 1000, e->router_price_in);
    buf_puts(out, "  \"experts\": [");
    for (int x = 0; x < e->count; x++) {
        const Expert *expert = &e->items[x];
        buf_puts(out, x ? ",\n    {" : "\n    {");
        put_named(out, "name", expert->name);
        if (expert->parameters)
            buf_printf(out, ", \"parameters_b\": %.10g", (double)expert->parameters / 1000);
        buf_printf(out,
                   ", \"price_in\": %.17g, \"price_out\": %.17g, \"correctness\": \"correctness-%d.jsonl\"}",
                   expert->price_in, expert->price_out, x);
    }
    buf_puts(out, "\n  ]\n}\n");
}

static ErrCode save(const char *folder, const char *name, const Buf *bytes, Err *err) {
    TRY(buf_ok(bytes, err));
    char *path = file_join(folder, name);
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    const ErrCode rc = file_save(path, bytes->data ? bytes->data : "", bytes->len, err);
    mem_free(path);
    return rc;
}

static ErrCode save_correctness(const LiveReport *r, const char *folder, Buf *text, Err *err) {
    for (int x = 0; x < r->score->E; x++) {
        char name[48];
        buf_clear(text);
        for (size_t i = 0; i < r->rows->count; i++) {
            if (!r->score->complete[i]) continue;
            const LiveGraded g = live_book_grade(r->book, i, x);
            put_correctness(text, r, i, &g);
        }
        (void)snprintf(name, sizeof name, "correctness-%d.jsonl", x);
        TRY(save(folder, name, text, err));
    }
    buf_clear(text);
    put_table(text, r);
    return save(folder, "experts.json", text, err);
}

ErrCode live_report_save(const LiveReport *r, const char *folder, const Buf *json, Err *err) {
    Buf text = {0};
    for (size_t i = 0; i < r->rows->count; i++)
        if (r->score->complete[i]) put_row(&text, r, i);
    ErrCode rc = save(folder, "rows.jsonl", &text, err);
    buf_clear(&text);
    for (size_t i = 0; i < r->rows->count && rc == ERR_OK; i++) {
        for (int x = 0; x < r->score->E && r->score->complete[i]; x++) {
            if (!r->routes->wanted[i * (size_t)r->score->E + (size_t)x]) continue;
            const LiveGraded g = live_book_grade(r->book, i, x);
            put_said(&text, r, i, x, &g);
        }
    }
    if (rc == ERR_OK) rc = save(folder, "answers.jsonl", &text, err);
    if (rc == ERR_OK && r->score->oracle) rc = save_correctness(r, folder, &text, err);
    if (rc == ERR_OK) rc = save(folder, "results.json", json, err);
    buf_free(&text);
    return rc;
}
