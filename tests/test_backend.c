/* tests/test_backend.c - the whole model on a backend: against ref, and against itself.
 *
 * usage: test_backend [--backend NAME] [--precision P]
 *
 * Random small models and batches with dropout: logits, loss and every gradient as ref has them; bit-equal when run
 * again and when activations are computed again; nearly equal when cut into micro-batches; steps of AdamW lead where they
 * lead ref, and where a run that was stopped and moved to another model leads, to the bit; a gradient that is not finite
 * changes nothing. Needs core and model alone: it runs on machines that have a GPU and little else. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/rng.h"
#include "model/deberta.h"
#include "train/adamw.h"

enum { VOCABULARY = 97, ROWS = 9, LONGEST = 150, STEPS = 6 };

static const char *backend = "blas", *precision = "fp32";
static uint64_t seed, drawn;
static int checks, failures;
static bool rounds; /* the backend's activations are bfloat16 */
static bool tf32;   /* its products are */

static int draw(int below) {
    return (int)(rng_bits(seed, drawn++) % (uint64_t)below);
}

static void must(ErrCode rc, const Err *err) {
    if (rc == ERR_OK) return;
    printf("%s%s\n", rc == ERR_BACKEND ? "skipped: " : "FAIL ", err->msg);
    exit(rc == ERR_BACKEND ? 77 : 1); /* NOLINT(concurrency-mt-unsafe) */
}

static void expect(bool good, const char *what, const char *detail) {
    checks++;
    if (good) return;
    failures++;
    printf("FAIL %s%s%s\n", what, *detail ? ": " : "", detail);
}

/* ---- models and batches ---- */

typedef struct {
    Ops ops;
    Threads *threads;
    Deberta d;
    Adamw adamw;
    ParamView *weights; /* the program's view */
    size_t params;
} Model;

typedef struct {
    int32_t ids[ROWS * LONGEST], start[ROWS + 1], seq[ROWS];
    float target[ROWS * 8], weight[ROWS];
} Batch;

static Config draw_config(void) {
    static char *labels[8] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    static const int SHAPES[][5] = {/* H, A, F, layers, buckets */
                                    {24, 2, 40, 2, 8},
                                    {128, 2, 256, 3, 32},
                                    {64, 1, 200, 1, 256},
                                    {40, 5, 64, 2, 16}};
    const int *s = SHAPES[draw(4)];
    return (Config){.vocab_size = VOCABULARY,
                    .hidden_size = s[0],
                    .num_attention_heads = s[1],
                    .intermediate_size = s[2],
                    .num_hidden_layers = s[3],
                    .position_buckets = s[4],
                    .max_position_embeddings = 512,
                    .max_relative_positions = 512,
                    .pad_token_id = 0,
                    .num_labels = draw(4) ? 2 + draw(6) : 1,
                    .layer_norm_eps = 1e-7,
                    .initializer_range = 0.02,
                    .hidden_dropout_prob = 0.1,
                    .attention_probs_dropout_prob = 0.1,
                    .pooler_dropout = 0.1,
                    .cls_dropout = 0.1,
                    .labels = labels};
}

static void draw_batch(Batch *b, int K) {
    memset(b, 0, sizeof *b);
    for (int s = 0; s < ROWS; s++) {
        const int length = s == 4 ? LONGEST : s == 0 ? 1 : 1 + draw(draw(3) ? 40 : LONGEST);
        for (int i = 0; i < length; i++)
            b->ids[b->start[s] + i] = 1 + draw(VOCABULARY - 7); /* some never occur */
        b->start[s + 1] = b->start[s] + length;
        b->seq[s] = s;
        b->weight[s] = 0.5f + (float)draw(3);
        b->target[s * K + draw(K)] = 1;
    }
}

static void open_frozen(Model *m, const Config *config, bool ref, bool train, bool recompute,
                        int micro_tokens, int frozen) {
    Err err = {0};
    *m = (Model){0};
    must(threads_open(&m->threads, 2, &err), &err);
    must(ops_open(&m->ops, ref ? "ref" : backend, ref ? "fp32" : precision, m->threads, &err), &err);
    const DebertaLimits limits = {.micro_tokens = micro_tokens,
                                  .micro_sequences = ROWS,
                                  .longest = LONGEST,
                                  .step_tokens = ROWS * LONGEST,
                                  .train = train,
                                  .recompute = recompute,
                                  .frozen = frozen};
    must(deberta_open(&m->d, config, &m->ops, &limits, &err), &err);
    if (train) must(adamw_open(&m->adamw, &m->d, VOCABULARY, &err), &err);
    m->weights = params_list(&m->d.host_weights, config, &m->params);
    if (!m->weights) abort();
    for (size_t i = 0; i < m->params; i++) {
        const ParamView *w = &m->weights[i];
        const double spread = w->kind == PARAM_LINEAR      ? 1.5 / sqrt((double)w->cols)
                              : w->kind == PARAM_EMBEDDING ? 1
                                                           : 0.2;
        for (int64_t k = 0; k < param_count(w); k++)
            w->data[k] = (float)((w->kind == PARAM_NORM_SCALE) +
                                 spread * rng_normal(rng_key(seed, w->name, 0), (uint64_t)k));
    }
    deberta_weights_changed(&m->d);
}

static void open_model(Model *m, const Config *config, bool ref, bool train, bool recompute,
                       int micro_tokens) {
    open_frozen(m, config, ref, train, recompute, micro_tokens, 0);
}

static void close_model(Model *m) {
    mem_free(m->weights);
    if (m->d.limits.train) adamw_close(&m->adamw);
    deberta_close(&m->d);
    ops_close(&m->ops);
    threads_close(m->threads);
}

/* A forward and backward pass over the batch in micro-batches of `cut` rows; its loss, and logits (ROWS, K). */
static double pass(Model *m, const Batch *b, int cut, bool dropout, uint64_t key, float *logits) {
    Deberta *d = &m->d;
    const int K = d->config.num_labels;
    deberta_begin(d, LONGEST, dropout, key);
    for (int from = 0; from < ROWS; from += cut) {
        const int to = from + cut < ROWS ? from + cut : ROWS;
        int32_t start[ROWS + 1];
        int longest = 0;
        for (int s = from; s <= to; s++) {
            start[s - from] = b->start[s] - b->start[from];
            if (s > from && b->start[s] - b->start[s - 1] > longest) longest = b->start[s] - b->start[s - 1];
        }
        const Packed p = {start[to - from],        to - from, longest,
                          b->ids + b->start[from], start,     b->seq + from};
        deberta_forward(d, &p);
        if (logits)
            memcpy(logits + (ptrdiff_t)from * K, deberta_logits(d), (size_t)(p.S * K) * sizeof *logits);
        if (!d->limits.train) continue;
        deberta_loss(d, b->target + (ptrdiff_t)from * K, b->weight + from, 1.0f / ROWS);
        deberta_backward(d);
    }
    if (!d->limits.train) return 0;
    deberta_end(d);
    return deberta_loss_sum(d) / ROWS;
}

/* ---- comparing ---- */

/* Gradients of the list, then dense rows of the word embedding; free it. */
static float *gradients(Model *m, size_t *n) {
    Deberta *d = &m->d;
    const size_t H = (size_t)d->config.hidden_size;
    *n = d->grad_count + VOCABULARY * H;
    float *all = calloc(*n, sizeof *all);
    if (!all) abort();
    m->ops.get(&m->ops, all, d->grad_block, d->grad_count * sizeof *all);
    for (int i = 0; i < d->touched.count; i++)
        m->ops.get(&m->ops, all + d->grad_count + (size_t)d->touched.ids[i] * H,
                   d->touched.grad + (size_t)i * H, H * sizeof *all);
    return all;
}

/* Relative root mean square of the difference of two arrays; infinite where a number is not finite. */
static double distance(const float *got, const float *want, size_t n) {
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        all += (double)want[i] * (double)want[i];
    }
    if (!isfinite(off)) return (double)INFINITY;
    return all > 0 ? sqrt(off / all) : sqrt(off);
}

/* Gradients tensor by tensor. A bias' gradient is a sum over rows that may cancel to nothing while its rounding does not
 * (a regression's one bias; keys' biases, which move all scores of a query alike, always), so it counts at the size of
 * its weight's, the same terms times inputs. The smallest tensors count by their share of the largest: at least a
 * thousandth, or a tenth where numbers are rounded to 8 bits. */
static void compare_gradients(const char *what, Model *m, const float *got, const float *want, double limit) {
    const Deberta *d = &m->d;
    const double share = rounds ? 0.1 : tf32 ? 0.02 : 1e-3;
    size_t count;
    ParamView *list = params_list(&d->grads, &d->config, &count);
    double largest = 0;
    for (int round = 0; list && round < 2; round++) {
        double before = 0;
        for (size_t i = 0; i < count; i++) {
            const bool word = !list[i].data;
            const size_t n = (size_t)param_count(&list[i]),
                         at = word ? d->grad_count : (size_t)(list[i].data - d->grad_block);
            double size = 0;
            for (size_t k = 0; k < n; k++) size += (double)want[at + k] * (double)want[at + k];
            size = sqrt(size / (double)n);
            largest = fmax(largest, size);
            const double scale =
                fmax(list[i].kind == PARAM_BIAS ? fmax(size, before) : size, share * largest);
            before = size;
            if (!round) continue;
            const double off = distance(got + at, want + at, n) * (size > 0 ? size : 1) / scale;
            char detail[200];
            (void)snprintf(detail, sizeof detail, "%s is off by %.3g of its scale, at most %.3g",
                           list[i].name, off, limit);
            expect(off <= limit, what, detail);
        }
    }
    mem_free(list);
}

static void expect_near(const char *what, const float *got, const float *want, size_t n, double limit) {
    const double off = distance(got, want, n);
    char detail[100];
    (void)snprintf(detail, sizeof detail, "off by %.3g, at most %.3g", off, limit);
    expect(off <= limit, what, detail);
}

/* ---- the checks ---- */

/* Float32: sums of up to 300 products in another order, through three layers; ref sums in double: among 150,000 gradients
 * of random models none was off by more than 1.1e-5. bfloat16: each layer rounds to 2^-9 of itself on average some ten times; gradients come through all of them twice, and where an answer is
 * nearly right (softmax or a regression's difference cancels) the head's error scales them all: among 1,200 random
 * models no answer was off by more than 0.042 and no tensor by 0.3; what is computed wrongly is off by 0.5 and more. Golden
 * files have the closer limit. */
static double limit_of(bool gradient) {
    if (tf32)
        return gradient ? 0.02
                        : 5e-3; /* operands of 11 bits: an eighth of bfloat16's rounding, of products alone */
    return !rounds ? (gradient ? 3e-5 : 1e-4) : gradient ? 0.3 : 0.06;
}

static void check_case(int number) {
    char what[160];
    Batch *b = malloc(sizeof *b);
    if (!b) abort();
    const Config config = draw_config();
    const int K = config.num_labels;
    draw_batch(b, K);
    const int tokens = b->start[ROWS];
    Model m, ref, again;
    size_t n;
    float logits[ROWS * 8], want[ROWS * 8], same[ROWS * 8];
    (void)snprintf(what, sizeof what, "case %d: H %d A %d F %d layers %d buckets %d K %d tokens %d", number,
                   config.hidden_size, config.num_attention_heads, config.intermediate_size,
                   config.num_hidden_layers, config.position_buckets, K, tokens);
    open_model(&ref, &config, true, true, false, tokens);
    open_model(&m, &config, false, true, false, tokens);
    rounds = m.ops.act_bytes == 2;
    tf32 = strcmp(m.ops.precision, "tf32") == 0;
    const double wanted = pass(&ref, b, ROWS, true, 11, want), loss = pass(&m, b, ROWS, true, 11, logits);
    float *g_ref = gradients(&ref, &n), *g = gradients(&m, &n);
    expect_near(what, logits, want, (size_t)(ROWS * K), limit_of(false));
    expect(fabs(loss - wanted) <= limit_of(true) * (0.1 + fabs(wanted)), what, "the loss is another");
    compare_gradients(what, &m, g, g_ref, limit_of(true));
    /* the same again */
    const double second = pass(&m, b, ROWS, true, 11, same);
    float *g2 = gradients(&m, &n);
    expect(second == loss && memcmp(same, logits, (size_t)(ROWS * K) * sizeof *same) == 0 &&
               memcmp(g, g2, n * sizeof *g) == 0,
           what, "is not the same when run again");
    /* activations computed again */
    open_model(&again, &config, false, true, true, tokens);
    const double recomputed = pass(&again, b, ROWS, true, 11, same);
    float *g3 = gradients(&again, &n);
    expect(recomputed == loss && memcmp(g, g3, n * sizeof *g) == 0, what,
           "is not the same when activations are computed again");
    /* micro-batches: rows do not see each other, so only sums are cut differently */
    const double cut = pass(&m, b, 4, true, 11, same);
    float *g4 = gradients(&m, &n);
    expect_near(what, same, logits, (size_t)(ROWS * K), rounds ? 4.0 / 256 : tf32 ? 1e-3 : 1e-5);
    expect(fabs(cut - loss) <= (rounds ? 4.0 / 256
                                : tf32 ? 1e-3
                                       : 1e-5) *
                                   (0.1 + fabs(loss)),
           what, "micro-batches change the loss");
    compare_gradients("micro-batches", &m, g4, g, rounds ? 8.0 / 256 : tf32 ? 5e-3 : 1e-4);
    close_model(&again);
    /* without training: the same logits */
    open_model(&again, &config, false, false, false, tokens);
    (void)pass(&again, b, ROWS, false, 0, same);
    (void)pass(&m, b, ROWS, false, 0, logits);
    expect_near(what, same, logits, (size_t)(ROWS * K), 1e-6);
    close_model(&again);
    close_model(&m);
    close_model(&ref);
    float *const owned[] = {g_ref, g, g2, g3, g4};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(b);
}

static double train(Model *m, const Batch *b, int step) {
    const AdamwRule rule = {1e-3, 0.9, 0.999, 1e-8, 0.01, 1, 0.9};
    double norm;
    Err err = {0};
    const double loss = pass(m, b, 5, true, (uint64_t)step, NULL);
    must(adamw_step(&m->adamw, &rule, &norm, &err), &err);
    return loss;
}

/* With the lower part frozen: the gradients of the others are the same bits, and after steps only these have moved. */
static void check_frozen(int frozen, bool recompute) {
    char what[80];
    Batch *b = malloc(sizeof *b);
    if (!b) abort();
    Config config = draw_config();
    if (frozen > config.num_hidden_layers + 1) frozen = config.num_hidden_layers + 1;
    draw_batch(b, config.num_labels);
    (void)snprintf(what, sizeof what, "frozen %d of %d layers%s", frozen - 1, config.num_hidden_layers,
                   recompute ? ", recomputed" : "");
    Model all, some;
    open_model(&all, &config, false, true, recompute, b->start[ROWS]);
    open_frozen(&some, &config, false, true, recompute, b->start[ROWS], frozen);
    const double want = pass(&all, b, 5, true, 3, NULL), loss = pass(&some, b, 5, true, 3, NULL);
    expect(loss == want, what, "the loss is another");
    size_t n, count;
    float *g = gradients(&all, &n);
    ParamView *theirs = params_list(&all.d.grads, &config, &count),
              *own = params_list(&some.d.grads, &config, &count);
    float **before = calloc(count, sizeof *before);
    if (!theirs || !own || !before) abort();
    for (size_t i = 0; i < count; i++) {
        const size_t size = (size_t)param_count(&own[i]);
        before[i] = malloc(size * sizeof *g);
        memcpy(before[i], some.weights[i].data, size * sizeof *g);
        if (!own[i].data) continue;
        float *found = malloc(size * sizeof *g);
        some.ops.get(&some.ops, found, own[i].data, size * sizeof *g);
        expect(memcmp(found, g + (theirs[i].data - all.d.grad_block), size * sizeof *g) == 0, what,
               own[i].name);
        free(found);
    }
    for (int step = 0; step < 3; step++) (void)train(&some, b, step);
    adamw_read(&some.adamw);
    for (size_t i = 0; i < count; i++) {
        const size_t size = (size_t)param_count(&own[i]);
        expect((memcmp(before[i], some.weights[i].data, size * sizeof *g) == 0) == !own[i].data, what,
               some.weights[i].name);
        free(before[i]);
    }
    expect(some.adamw.rows == 0 && some.adamw.decay == 1, what, "the word embedding has moments");
    free(before);
    free(g);
    mem_free(theirs);
    mem_free(own);
    close_model(&all);
    close_model(&some);
    free(b);
}

/* A teacher that is the model itself changes no bit; another moves the gradient as ref's does. */
static void check_teacher(void) {
    Batch *b = malloc(sizeof *b);
    if (!b) abort();
    Config config = draw_config();
    config.num_labels = 2 + draw(6);
    const int K = config.num_labels, classes = 2 + draw(K - 1);
    draw_batch(b, K);
    Model m[2];
    float dlogits[2][ROWS * 8], before[ROWS * 8], own[ROWS * 8], teacher[ROWS * 8], logits[ROWS * 8];
    double kept[2];
    for (int i = 0; i < ROWS * classes; i++) teacher[i] = (float)rng_normal(seed, (uint64_t)i);
    for (int i = 0; i < 2; i++) {
        open_model(&m[i], &config, i == 1, true, false, b->start[ROWS]);
        (void)pass(&m[i], b, ROWS, false, 0, logits);
        const size_t bytes = (size_t)(ROWS * K) * sizeof(float);
        Deberta *d = &m[i].d;
        deberta_loss(d, b->target, b->weight, 1.0f / ROWS);
        m[i].ops.get(&m[i].ops, before, d->dlogits, bytes);
        for (int s = 0; s < ROWS; s++)
            memcpy(own + (ptrdiff_t)s * classes, logits + (ptrdiff_t)s * K, (size_t)classes * sizeof *own);
        expect(deberta_distill(d, own, classes, 2, 3, b->weight, 1.0f / ROWS) == 0, "teacher",
               "the model differs from itself");
        m[i].ops.get(&m[i].ops, dlogits[i], d->dlogits, bytes);
        expect(memcmp(before, dlogits[i], bytes) == 0, "teacher", "the model changes its own gradient");
        kept[i] = deberta_distill(d, teacher, classes, 2, 3, b->weight, 1.0f / ROWS);
        m[i].ops.get(&m[i].ops, dlogits[i], d->dlogits, bytes);
        expect(memcmp(before, dlogits[i], bytes) != 0, "teacher", "another changes nothing");
    }
    expect(fabs(kept[0] - kept[1]) <= limit_of(true) * (0.1 + fabs(kept[1])), "teacher",
           "the loss is another");
    expect_near("teacher", dlogits[0], dlogits[1], (size_t)(ROWS * K), limit_of(true));
    close_model(&m[0]);
    close_model(&m[1]);
    free(b);
}

/* All that a checkpoint would hold, from one model to another. */
static void move(Model *to, Model *from) {
    Adamw *a = &to->adamw;
    const Adamw *f = &from->adamw;
    adamw_read(f);
    for (size_t i = 0; i < from->params; i++) {
        const size_t bytes = (size_t)param_count(&from->weights[i]) * sizeof(float);
        memcpy(to->weights[i].data, from->weights[i].data, bytes);
        if (!f->ms[i].data) continue;
        memcpy(a->ms[i].data, f->ms[i].data, bytes);
        memcpy(a->vs[i].data, f->vs[i].data, bytes);
    }
    const size_t bytes = (size_t)f->rows * (size_t)f->at.H * sizeof(float);
    memcpy(a->word_m, f->word_m, bytes);
    memcpy(a->word_v, f->word_v, bytes);
    memcpy(a->ids, f->ids, (size_t)f->rows * sizeof *f->ids);
    memcpy(a->row, f->row, VOCABULARY * sizeof *f->row);
    a->rows = f->rows;
    a->step = f->step;
    a->decay = f->decay;
    adamw_written(a);
}

static void check_training(void) {
    Batch *batches = malloc(3 * sizeof *batches);
    if (!batches) abort();
    const Config config = draw_config();
    int tokens = 0;
    for (int i = 0; i < 3; i++) {
        draw_batch(&batches[i], config.num_labels);
        tokens = batches[i].start[ROWS] > tokens ? batches[i].start[ROWS] : tokens;
    }
    Model m, ref, moved;
    open_model(&m, &config, false, true, false, tokens);
    open_model(&ref, &config, true, true, false, tokens);
    open_model(&moved, &config, false, true, false, tokens);
    for (int step = 0; step < STEPS; step++) {
        const Batch *b = &batches[step % 3];
        if (step == STEPS / 2) move(&moved, &m);
        const double loss = train(&m, b, step), want = train(&ref, b, step);
        char detail[120];
        (void)snprintf(detail, sizeof detail, "step %d: loss %.6g, ref has %.6g", step, loss, want);
        /* steps of a learning rate of 1e-3 amplify rounding */
        expect(fabs(loss - want) <= (rounds ? 0.25
                                     : tf32 ? 0.05
                                            : 2e-3) *
                                        (0.1 + fabs(want)),
               "training", detail);
        if (step >= STEPS / 2)
            expect(train(&moved, b, step) == loss, "training",
                   "a run that was moved does not go on as the first");
    }
    adamw_read(&m.adamw);
    adamw_read(&moved.adamw);
    for (size_t i = 0; i < m.params; i++)
        expect(memcmp(m.weights[i].data, moved.weights[i].data,
                      (size_t)param_count(&m.weights[i]) * sizeof(float)) == 0,
               "a run that was moved ends with other weights", m.weights[i].name);
    /* not finite: nothing changes */
    Err err = {0};
    double norm;
    const AdamwRule rule = {1e-3, 0.9, 0.999, 1e-8, 0.01, 1, 1};
    const float kept = m.d.host_weights.pool_b[0];
    m.d.host_weights.pool_b[0] = NAN;
    deberta_weights_changed(&m.d);
    (void)pass(&m, &batches[0], ROWS, true, 1, NULL);
    const int rows = m.adamw.rows;
    expect(adamw_step(&m.adamw, &rule, &norm, &err) == ERR_NUMERIC && m.adamw.step == STEPS &&
               m.adamw.rows == rows,
           "a gradient that is not finite", "is no failure");
    adamw_read(&m.adamw);
    m.d.host_weights.pool_b[0] = kept;
    for (size_t i = 0; i < m.params; i++)
        expect(memcmp(m.weights[i].data, moved.weights[i].data,
                      (size_t)param_count(&m.weights[i]) * sizeof(float)) == 0,
               "a gradient that is not finite changes", m.weights[i].name);
    close_model(&m);
    close_model(&ref);
    close_model(&moved);
    free(batches);
}

int main(int argc, char **argv) {
    const char *given = getenv("TEST_SEED"); /* NOLINT(concurrency-mt-unsafe) */
    int cases = 6;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--backend") == 0 && i + 1 < argc) {
            backend = argv[++i];
        } else if (strcmp(argv[i], "--precision") == 0 && i + 1 < argc) {
            precision = argv[++i];
        } else if (strcmp(argv[i], "--cases") == 0 && i + 1 < argc) {
            cases = (int)strtol(argv[++i], NULL, 10);
        } else {
            printf("usage: test_backend [--backend NAME] [--precision fp32|tf32|bf16] [--cases N]\n");
            return 2;
        }
    }
    seed = given ? (uint64_t)strtoull(given, NULL, 10) : (uint64_t)getpid();
    printf("TEST_SEED=%llu\n", (unsigned long long)seed);
    for (int i = 0; i < cases; i++) check_case(i);
    for (int frozen = 1; frozen <= 4; frozen++)
        if (frozen % 2 || cases > 1) check_frozen(frozen, draw(2));
    check_teacher();
    check_training();
    printf("%s %s: %d checks, %d failures\n", backend, precision, checks, failures);
    return failures != 0;
}
