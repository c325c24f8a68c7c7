/* tests/test_grad.c - gradients against finite differences, with the model's code built in double
 * (ROUTER_DOUBLE).
 *
 * For a function L and a random direction u of length 1, g.u must be
 *   (8 (L(h) - L(-h)) - (L(2h) - L(-2h))) / 12h.
 * With h = 2e-4 the formula's own error is of the order h^4 = 2e-15 and rounding gives 1e-16 |L| / h, so that
 * a tolerance of 1e-7 of |g| / sqrt(n), the size of g.u, leaves no room for a wrong term. */
#include "core/mem.h"
#include "core/rng.h"
#include "model/deberta.h"
#include "tests/unit.h"

#ifndef ROUTER_DOUBLE
#error "this test belongs to the build in double"
#endif

static const double H_STEP = 2e-4, TOLERANCE = 1e-7;

static double normal(void) {
    return rng_normal(seed, drawn++);
}
static real *normals(size_t n, double scale) {
    real *p = calloc(n + 1, sizeof *p);
    for (size_t i = 0; p && i < n; i++) p[i] = scale * normal();
    if (!p) abort();
    return p;
}

/* ---- differences ---- */

static double inner(const real *a, const real *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

typedef double Loss(void *context);

/* g: gradient of loss(context) by x (n), which is put back. */
static void check_gradient(const char *what, Loss *loss, void *context, real *x, const real *g, size_t n) {
    static const double AT[4] = {1, -1, 2, -2}, FACTOR[4] = {8, -8, -1, 1};
    real *kept = normals(n, 0), *u = normals(n, 1);
    memcpy(kept, x, n * sizeof *x);
    double found = 0, expected = 0, length = 0, size = 0;
    const double unit = 1 / sqrt(inner(u, u, n));
    for (size_t i = 0; i < n; i++) {
        u[i] *= unit;
        found += g[i] * u[i];
        length += g[i] * g[i];
    }
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < n; i++) x[i] = kept[i] + AT[k] * H_STEP * u[i];
        const double value = loss(context);
        expected += FACTOR[k] * value / (12 * H_STEP);
        size = fabs(value);
    }
    memcpy(x, kept, n * sizeof *x);
    free(kept);
    free(u);
    if (!(fabs(found - expected) <= TOLERANCE * sqrt(length / (double)n) + 1e-11 * (1 + size)))
        fail_msg("%s: along a direction the gradient is %.12g, differences give %.12g, |g| is %.3g", what,
                 found, expected, sqrt(length));
}

/* ---- the whole model ---- */

enum { LONGEST = 12, SEQUENCES = 5, VOCABULARY = 23 };

typedef struct {
    Config config;
    Ops ops;
    Deberta model;
    int32_t ids[SEQUENCES * LONGEST], start[SEQUENCES + 1];
    int lengths_sum, cut; /* sequences [0, cut) are one micro-batch, the others another */
    bool dropping;
    uint64_t key;
    real *target, *weight, scale;
    real *word_grad; /* (V,H) */
    real *teacher;   /* (SEQUENCES,classes), or NULL: none */
    int classes;
    double temperature, share;
} Fixture;

static Packed part(const Fixture *f, int32_t *start, int32_t *seq, int from, int to) {
    Packed p = {.N = f->start[to] - f->start[from],
                .S = to - from,
                .ids = f->ids + f->start[from],
                .start = start,
                .seq = seq};
    for (int s = from; s <= to; s++) start[s - from] = f->start[s] - f->start[from];
    for (int s = from; s < to; s++) {
        seq[s - from] = s;
        const int length = f->start[s + 1] - f->start[s];
        p.longest = length > p.longest ? length : p.longest;
    }
    return p;
}

static double pass(Fixture *f, bool backward) {
    Deberta *d = &f->model;
    const int cuts[3] = {0, f->cut, SEQUENCES};
    double kept = 0;
    deberta_begin(d, LONGEST, f->dropping, f->key);
    for (int i = 0; i < 2; i++) {
        int32_t start[SEQUENCES + 1], seq[SEQUENCES];
        const Packed p = part(f, start, seq, cuts[i], cuts[i + 1]);
        deberta_forward(d, &p);
        deberta_loss(d, f->target + cuts[i] * f->config.num_labels, f->weight ? f->weight + cuts[i] : NULL,
                     f->scale);
        if (f->teacher)
            kept += deberta_distill(d, f->teacher + cuts[i] * f->classes, f->classes, f->temperature,
                                    f->share, f->weight ? f->weight + cuts[i] : NULL, f->scale);
        if (backward) deberta_backward(d);
    }
    if (backward) deberta_end(d);
    return (deberta_loss_sum(d) + f->share * kept) * f->scale;
}

static double model_loss(void *context) {
    return pass(context, false);
}

static void set_config(Config *c, int K) {
    static char name[] = "label";
    static char *names[8] = {name, name, name, name, name, name, name, name};
    *c = (Config){.vocab_size = VOCABULARY,
                  .hidden_size = 8,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 2,
                  .intermediate_size = 12,
                  .max_position_embeddings = 32,
                  .position_buckets = 4, /* so that distances beyond 2 are in log buckets */
                  .max_relative_positions = 16,
                  .pad_token_id = 0,
                  .num_labels = K,
                  .layer_norm_eps = 1e-7,
                  .initializer_range = 0.02,
                  .hidden_dropout_prob = 0.2,
                  .attention_probs_dropout_prob = 0.3,
                  .pooler_dropout = 0.15,
                  .cls_dropout = 0.25,
                  .labels = names}; /* borrowed */
}

typedef enum { HARD, SMOOTHED, SOFT } Targets;

static void fill_targets(Fixture *f, Targets kind) {
    const int K = f->config.num_labels;
    for (int s = 0; s < SEQUENCES; s++) {
        real *row = f->target + s * K, sum = 0;
        const int label = draw(K);
        for (int k = 0; k < K; k++) {
            row[k] = kind == SOFT       ? exp(normal())
                     : kind == SMOOTHED ? (k == label) * 0.9 + 0.1 / K
                                        : k == label;
            sum += row[k];
        }
        for (int k = 0; k < K; k++) row[k] = K == 1 ? normal() : row[k] / sum;
    }
}

static void open_frozen(Fixture *f, int K, Targets kind, bool weighted, bool dropping, int frozen,
                        bool recompute) {
    *f = (Fixture){
        .cut = 1 + draw(SEQUENCES - 1), .dropping = dropping, .key = rng_bits(seed, drawn++), .scale = 0.21};
    Err err = {0};
    set_config(&f->config, K);
    ops_ref_fill(&f->ops);
    const DebertaLimits limits = {SEQUENCES * LONGEST, SEQUENCES, LONGEST, SEQUENCES * LONGEST, true,
                                  recompute,           false,     frozen};
    OK(deberta_open(&f->model, &f->config, &f->ops, &limits, &err));
    for (int s = 0; s < SEQUENCES; s++)
        f->start[s + 1] = f->start[s] + (s == 2 ? LONGEST : 1 + draw(LONGEST));
    for (int n = 0; n < f->start[SEQUENCES]; n++)
        f->ids[n] = draw(VOCABULARY - 3); /* the last are never there */
    f->target = normals((size_t)(SEQUENCES * K), 0);
    fill_targets(f, kind);
    f->weight = weighted ? normals(SEQUENCES, 0) : NULL;
    for (int s = 0; weighted && s < SEQUENCES; s++) f->weight[s] = exp(normal());
    f->word_grad = normals(VOCABULARY * 8, 0);
    size_t count;
    ParamView *list = params_list(&f->model.weights, &f->config, &count);
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < param_count(&list[i]); k++)
            list[i].data[k] =
                (list[i].kind == PARAM_NORM_SCALE) + normal() * (list[i].kind == PARAM_EMBEDDING ? 1 : 0.4);
    mem_free(list);
}

static void open_fixture(Fixture *f, int K, Targets kind, bool weighted, bool dropping) {
    open_frozen(f, K, kind, weighted, dropping, 0, false);
}

static void close_fixture(Fixture *f) {
    deberta_close(&f->model);
    f->ops.close(&f->ops);
    free(f->target);
    free(f->weight);
    free(f->word_grad);
    free(f->teacher);
}

/* Dense rows of the word embedding's gradient; the padding token must have none, though it occurs. */
static void spread_word_grad(Fixture *f) {
    const DebertaTouched *t = &f->model.touched;
    const size_t H = (size_t)f->config.hidden_size;
    memset(f->word_grad, 0, VOCABULARY * H * sizeof *f->word_grad);
    for (int i = 0; i < t->count; i++) {
        assert_int_not_equal(t->ids[i], f->config.pad_token_id);
        assert_int_equal(t->slot[t->ids[i]], i);
        memcpy(f->word_grad + (size_t)t->ids[i] * H, t->grad + (size_t)i * H, H * sizeof *t->grad);
    }
}

/* Gradients of all weights that learn; what is frozen has none. */
static void check_fixture(Fixture *f, const char *kind) {
    const double with = pass(f, true), without = pass(f, false);
    assert_true(with == without && isfinite(with));
    (void)pass(f, true);
    spread_word_grad(f);
    size_t count;
    ParamView *weights = params_list(&f->model.weights, &f->config, &count);
    ParamView *grads = params_list(&f->model.grads, &f->config, &count);
    const int frozen = f->model.limits.frozen;
    for (size_t i = 0; i < count; i++) {
        char what[200];
        (void)snprintf(what, sizeof what, "%s: %s", kind, weights[i].name);
        const bool word = weights[i].data == f->model.weights.word,
                   position = strncmp(weights[i].name, "deberta.encoder.", 16) == 0 &&
                              weights[i].layer == f->config.num_hidden_layers;
        if (frozen && (word || position || weights[i].layer < frozen - 1)) {
            assert_null(grads[i].data);
            continue;
        }
        const size_t n = (size_t)param_count(&weights[i]), H = (size_t)f->config.hidden_size;
        real *g = normals(n, 0); /* a copy: passes of the differences zero the model's */
        if (!word) {
            memcpy(g, grads[i].data, n * sizeof *g);
            check_gradient(what, model_loss, f, weights[i].data, g, n);
        } else { /* from behind the padding row, 0 here */
            memcpy(g, f->word_grad, n * sizeof *g);
            check_gradient(what, model_loss, f, weights[i].data + H, g + H, n - H);
        }
        if (inner(g, g, n) == 0) fail_msg("%s: the gradient is 0", what);
        free(g);
        (void)pass(f, true);
    }
    mem_free(weights);
    mem_free(grads);
}

static void check_model(int K, Targets kind, bool weighted, bool dropping) {
    Fixture f;
    char what[80];
    (void)snprintf(what, sizeof what, "K=%d targets %d%s%s", K, kind, weighted ? " weighted" : "",
                   dropping ? " dropout" : "");
    open_fixture(&f, K, kind, weighted, dropping);
    check_fixture(&f, what);
    close_fixture(&f);
}

static void test_model_hard(void **state) {
    (void)state;
    for (int K = 2; K <= 7; K++) check_model(K, HARD, false, K % 2);
}
static void test_model_soft(void **state) {
    (void)state;
    check_model(3, SOFT, false, true);
    check_model(5, SOFT, true, false);
    check_model(4, SMOOTHED, true, true);
    check_model(2, SMOOTHED, false, false);
}
static void test_model_weighted(void **state) {
    (void)state;
    check_model(4, HARD, true, true);
}
static void test_model_regression(void **state) {
    (void)state;
    check_model(1, HARD, false, false);
    check_model(1, HARD, true, true);
}

static void test_model_frozen(void **state) {
    (void)state;
    for (int frozen = 1; frozen <= 3; frozen++)
        for (int recompute = 0; recompute < 2; recompute++) {
            Fixture f;
            char what[80];
            (void)snprintf(what, sizeof what, "frozen %d%s", frozen, recompute ? " recomputed" : "");
            open_frozen(&f, 2 + draw(4), HARD, draw(2), draw(2), frozen, recompute);
            check_fixture(&f, what);
            close_fixture(&f);
        }
}

/* ---- a teacher ---- */

static void draw_teacher(Fixture *f, int classes, double spread) {
    f->classes = classes;
    f->temperature = exp(normal());
    f->share = exp(normal());
    f->teacher = normals((size_t)(SEQUENCES * classes), spread);
}

static void test_distill(void **state) {
    (void)state;
    for (int i = 0; i < 6; i++) {
        Fixture f;
        const int K = 2 + draw(6), classes = i ? 1 + draw(K) : 1; /* 1: nothing to tell apart, no term */
        open_fixture(&f, K, i % 2 ? HARD : SOFT, i % 3, draw(2));
        draw_teacher(&f, classes, 2);
        char what[120];
        (void)snprintf(what, sizeof what, "K=%d, teacher of %d at T=%g, W=%g", K, classes, f.temperature,
                       f.share);
        check_fixture(&f, what);
        close_fixture(&f);
    }
}

/* The term by its formula, with softmax as exp over sum: of the order of 1, so that 1e-12 is rounding. */
static double plain_term(const Fixture *f, const real *logits, int from, int rows) {
    const int K = f->config.num_labels, n = f->classes;
    const double T = f->temperature;
    double sum = 0;
    for (int s = 0; s < rows; s++) {
        const real *z = logits + s * K, *t = f->teacher + (from + s) * n;
        double all_z = 0, all_t = 0, divergence = 0;
        for (int k = 0; k < n; k++) {
            all_z += exp(z[k] / T);
            all_t += exp(t[k] / T);
        }
        for (int k = 0; k < n; k++)
            divergence += exp(t[k] / T) / all_t * log(exp(t[k] / T) / all_t / (exp(z[k] / T) / all_z));
        sum += (f->weight ? f->weight[from + s] : 1) * T * T * divergence;
    }
    return sum;
}

static void test_distill_term(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        Fixture f;
        const int K = 2 + draw(6);
        open_fixture(&f, K, SOFT, draw(2), draw(2));
        draw_teacher(&f, 1 + draw(K), 1);
        f.temperature = 0.5 + draw(8);
        Deberta *d = &f.model;
        int32_t start[SEQUENCES + 1], seq[SEQUENCES];
        const Packed p = part(&f, start, seq, 0, SEQUENCES);
        real before[SEQUENCES * 8];
        deberta_begin(d, LONGEST, f.dropping, f.key);
        deberta_forward(d, &p);
        deberta_loss(d, f.target, f.weight, f.scale);
        memcpy(before, d->dlogits, sizeof(real) * (size_t)(SEQUENCES * K));
        const double found =
            deberta_distill(d, f.teacher, f.classes, f.temperature, f.share, f.weight, f.scale);
        assert_near(found, plain_term(&f, d->logits, 0, SEQUENCES), 1e-12 * (1 + fabs(found)) * 64);
        assert_true(found > 0 || f.classes == 1);
        for (int s = 0; s < SEQUENCES; s++) { /* later labels keep theirs; the others' changes cancel */
            double sum = 0;
            for (int k = 0; k < K; k++) {
                const double change = d->dlogits[s * K + k] - before[s * K + k];
                if (k >= f.classes) assert_true(change == 0);
                sum += change;
            }
            assert_near(sum, 0, 1e-13 * f.share * f.temperature * 8);
        }
        /* a teacher that answers as the student does: no term, and the gradient's bits */
        real *own = normals((size_t)(SEQUENCES * f.classes), 0);
        for (int s = 0; s < SEQUENCES; s++)
            for (int k = 0; k < f.classes; k++) own[s * f.classes + k] = d->logits[s * K + k];
        memcpy(d->dlogits, before, sizeof(real) * (size_t)(SEQUENCES * K));
        assert_true(deberta_distill(d, own, f.classes, f.temperature, f.share, f.weight, f.scale) == 0);
        for (int k = 0; k < SEQUENCES * K; k++) assert_true(d->dlogits[k] == before[k]);
        free(own);
        close_fixture(&f);
    }
}

/* Logits as far apart as float numbers can be: finite, at the least temperature that the program takes. */
static void test_distill_extremes(void **state) {
    (void)state;
    Fixture f;
    open_fixture(&f, 3, HARD, false, false);
    draw_teacher(&f, 3, 3e38);
    f.temperature = 0.01;
    const double loss = pass(&f, true);
    assert_true(isfinite(loss) && loss > 0);
    for (size_t i = 0; i < f.model.grad_count; i++) assert_true(isfinite(f.model.grad_block[i]));
    close_fixture(&f);
}

/* ---- single operations: L = c . y for a random c ---- */

typedef struct Single Single;
struct Single {
    Ops ops;
    real *y, *pre, *x, *r, *w, *b, *c, *xhat, *rstd, *q, *k, *v, *kr, *qr;
    int N, O, I, H;
    size_t outputs;
    Dropout drop;
    Attention shape;
    real *target, *weight;
    void (*forward)(Single *s);
};

static double single_loss(void *context) {
    Single *s = context;
    s->forward(s);
    return inner(s->c, s->y, s->outputs);
}

static void forward_linear(Single *s) {
    s->ops.linear(&s->ops, s->y, s->pre, s->x, s->w, s->b, s->N, s->O, s->I);
}

static void test_linear(void **state) {
    (void)state;
    for (int gelu = 0; gelu < 2; gelu++) {
        Single s = {.N = 5, .O = 7, .I = 11, .forward = forward_linear};
        const size_t nx = 5 * 11, nw = 7 * 11, ny = 5 * 7;
        ops_ref_fill(&s.ops);
        s.x = normals(nx, 1);
        s.w = normals(nw, 0.5);
        s.b = normals(7, 1);
        s.y = normals(ny, 0);
        s.pre = gelu ? normals(ny, 0) : NULL;
        s.c = normals(ny, 1);
        s.outputs = ny;
        s.forward(&s);
        real *dx = normals(nx, 1), *more = normals(nx, 0), *dw = normals(nw, 0), *db = normals(7, 0),
             *dy = normals(ny, 0);
        real *pre = normals(ny, 0); /* the differences write s.pre anew */
        if (gelu) memcpy(pre, s.pre, ny * sizeof *pre);
        memcpy(dy, s.c, ny * sizeof *dy);
        s.ops.linear_grad(&s.ops, dx, 0, dw, db, dy, s.x, s.w, gelu ? pre : NULL, s.N, s.O, s.I);
        check_gradient("linear x", single_loss, &s, s.x, dx, nx);
        check_gradient("linear w", single_loss, &s, s.w, dw, nw);
        check_gradient("linear b", single_loss, &s, s.b, db, 7);
        /* once more, added: twice the gradients of weights and input */
        memcpy(more, dx, nx * sizeof *more);
        memcpy(dy, s.c, ny * sizeof *dy);
        real *first = normals(nw, 0);
        memcpy(first, dw, nw * sizeof *first);
        s.ops.linear_grad(&s.ops, more, 1, dw, db, dy, s.x, s.w, gelu ? pre : NULL, s.N, s.O, s.I);
        for (size_t i = 0; i < nx; i++) assert_true(fabs(more[i] - 2 * dx[i]) <= 1e-14 * (1 + fabs(dx[i])));
        for (size_t i = 0; i < nw; i++)
            assert_true(fabs(dw[i] - 2 * first[i]) <= 1e-14 * (1 + fabs(first[i])));
        real *all[] = {s.x, s.w, s.b, s.y, s.pre, s.c, dx, more, dw, db, dy, pre, first};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    }
}

static void forward_norm(Single *s) {
    s->ops.norm(&s->ops, s->y, s->xhat, s->rstd, s->x, s->r, s->w, s->b, &s->drop, s->N, s->H, 1e-7);
}

static void test_norm(void **state) {
    (void)state;
    static const uint64_t ROW[4] = {7, 1, 1ull << 40, 3};
    for (int kind = 0; kind < 4; kind++) {
        Single s = {.N = 4,
                    .H = 9,
                    .forward = forward_norm,
                    .drop = {kind & 1 ? 0.3 : 0, rng_bits(seed, drawn++), ROW}};
        const size_t n = 4 * 9;
        ops_ref_fill(&s.ops);
        s.x = normals(n, 1);
        s.r = kind & 2 ? normals(n, 1) : NULL;
        s.w = normals(9, 1);
        s.b = normals(9, 1);
        s.y = normals(n, 0);
        s.xhat = normals(n, 0);
        s.rstd = normals(4, 0);
        s.c = normals(n, 1);
        s.outputs = n;
        s.forward(&s);
        real *dx = normals(n, 1), *dr = normals(n, 1), *dw = normals(9, 0), *db = normals(9, 0);
        s.ops.norm_grad(&s.ops, dx, s.r ? dr : NULL, dw, db, s.c, s.xhat, s.rstd, s.w, &s.drop, s.N, s.H);
        check_gradient("norm x", single_loss, &s, s.x, dx, n);
        if (s.r) check_gradient("norm r", single_loss, &s, s.r, dr, n);
        check_gradient("norm w", single_loss, &s, s.w, dw, 9);
        check_gradient("norm b", single_loss, &s, s.b, db, 9);
        real *all[] = {s.x, s.r, s.w, s.b, s.y, s.xhat, s.rstd, s.c, dx, dr, dw, db};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    }
}

static void forward_attention(Single *s) {
    s->ops.attention(&s->ops, s->y, s->q, s->k, s->v, s->kr, s->qr, &s->shape);
}

static void test_attention(void **state) {
    (void)state;
    enum { A = 2, D = 3, L = 6, R = 4 };
    static const int32_t START[] = {0, 1, 1 + L, 4 + L};
    const Packed packed = {.N = 4 + L, .S = 3, .longest = L, .start = START};
    int32_t index[2 * L + 1]; /* for a longest of L + 1 */
    uint64_t row[4 + L];
    for (int i = 0; i < 2 * L + 1; i++) index[i] = draw(R); /* any table will do, and rows are shared */
    for (int n = 0; n < 4 + L; n++) row[n] = rng_bits(seed, drawn++) >> 20;
    for (int dropping = 0; dropping < 2; dropping++) {
        Single s = {.forward = forward_attention, .drop = {dropping ? 0.3 : 0, rng_bits(seed, drawn++), row}};
        s.shape = (Attention){.packed = &packed,
                              .A = A,
                              .D = D,
                              .index = index,
                              .longest = L + 1,
                              .R = R,
                              .scale = 1 / sqrt(3.0 * D),
                              .drop = &s.drop};
        const size_t n = (4 + L) * A * D, nr = R * A * D;
        ops_ref_fill(&s.ops);
        Err err = {0};
        OK(s.ops.prepare(&s.ops, 1, L + 1, A, D, &err));
        real **inputs[] = {&s.q, &s.k, &s.v, &s.kr, &s.qr};
        real *grads[5];
        static const char *const NAMES[] = {"attention q", "attention k", "attention v", "attention kr",
                                            "attention qr"};
        for (int i = 0; i < 5; i++) {
            *inputs[i] = normals(i < 3 ? n : nr, 1.5);
            grads[i] = normals(i < 3 ? n : nr, i < 3 ? 1 : 0);
        }
        s.y = normals(n, 0);
        s.c = normals(n, 1);
        s.outputs = n;
        s.ops.attention_grad(&s.ops, grads[0], grads[1], grads[2], grads[3], grads[4], s.c, s.q, s.k, s.v,
                             s.kr, s.qr, &s.shape);
        for (int i = 0; i < 5; i++) {
            check_gradient(NAMES[i], single_loss, &s, *inputs[i], grads[i], i < 3 ? n : nr);
            free(grads[i]);
        }
        for (int i = 0; i < 5; i++) free(*inputs[i]);
        free(s.y);
        free(s.c);
        s.ops.close(&s.ops);
    }
}

/* y is the loss of each row; its gradient by the logits is for the sum, so c is 1. */
static void forward_loss(Single *s) {
    real dlogits[6 * 7];
    s->ops.loss(&s->ops, s->y, dlogits, s->x, s->target, s->weight, 1, s->N, s->O);
}

static void test_loss(void **state) {
    (void)state;
    for (int K = 1; K <= 7; K++)
        for (int weighted = 0; weighted < 2; weighted++) {
            Single s = {.N = 6, .O = K, .outputs = 6, .forward = forward_loss};
            const size_t n = 6 * (size_t)K;
            ops_ref_fill(&s.ops);
            s.x = normals(n, 3);
            s.y = normals(6, 0);
            s.c = normals(6, 0);
            s.target = normals(n, 1); /* any numbers: rows need not sum to 1 */
            s.weight = weighted ? normals(6, 1) : NULL;
            for (int i = 0; i < 6; i++) s.c[i] = 1;
            real *loss = normals(6, 0), *dlogits = normals(n, 1);
            s.ops.loss(&s.ops, loss, dlogits, s.x, s.target, s.weight, 1, s.N, s.O);
            check_gradient("loss", single_loss, &s, s.x, dlogits, n);
            real *all[] = {s.x, s.y, s.c, s.target, s.weight, loss, dlogits};
            for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
        }
}

int main(void) {
    seed_open();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),         cmocka_unit_test(test_norm),
        cmocka_unit_test(test_attention),      cmocka_unit_test(test_loss),
        cmocka_unit_test(test_model_hard),     cmocka_unit_test(test_model_soft),
        cmocka_unit_test(test_model_weighted), cmocka_unit_test(test_model_regression),
        cmocka_unit_test(test_model_frozen),   cmocka_unit_test(test_distill),
        cmocka_unit_test(test_distill_term),   cmocka_unit_test(test_distill_extremes),
    };
    return cmocka_run_group_tests_name("grad", tests, NULL, NULL);
}
