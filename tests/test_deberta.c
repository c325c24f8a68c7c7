/* tests/test_deberta.c - the whole model: what may and what may not change its numbers.
 *
 * What holds: on both backends logits and gradients have the same bits for every number of threads. On ref a
 * sequence's logits have the same bits alone, in company, in any place of the pack and whatever the step's
 * longest sequence is; on blas they differ by rounding, as OpenBLAS adds in another order at the edge of a
 * block. Gradients of micro-batches differ from those of the whole batch by rounding, as they are added up in
 * another order. */
#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/threads.h"
#include "model/buckets.h"
#include "model/classifier.h"
#include "model/config.h"
#include "model/ops_x86.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/unit.h"

static const char *const BACKENDS[] = {"ref", "blas", "x86"};
static int backends = 2; /* 3 where the processor multiplies bfloat16 */
enum { VOCABULARY = 200, PAD = 3 };

/* Two layers, each with sums of at most a few hundred products of size 1: the largest value's 1e-5 is ample. */
static const double TOLERANCE = 1e-5;
/* In bfloat16 a sum that differs in its last bit may be rounded to the neighbour, 2^-8 away, before it is multiplied. */
static double tolerance_of(int backend) {
    return backend == 2 ? 4e-3 : TOLERANCE;
}

/* ---- a model and a batch ---- */

typedef struct {
    Config config;
    Threads *threads;
    Ops ops;
    Deberta d;
    ParamView *weights, *grads;
    size_t params;
} Model;

static char *const LABELS[] = {(char[]){"maths"}, (char[]){"health"}, (char[]){"coding"}, (char[]){"other"}};

static Config small_config(void) {
    return (Config){.vocab_size = VOCABULARY,
                    .hidden_size = 24, /* heads of 12: no whole number of vectors */
                    .num_hidden_layers = 2,
                    .num_attention_heads = 2,
                    .intermediate_size = 40,
                    .max_position_embeddings = 600,
                    .position_buckets = 256,
                    .max_relative_positions = 512,
                    .pad_token_id = PAD,
                    .num_labels = 4,
                    .layer_norm_eps = 1e-7,
                    .initializer_range = 0.02,
                    .hidden_dropout_prob = 0.1,
                    .attention_probs_dropout_prob = 0.1,
                    .pooler_dropout = 0.1,
                    .cls_dropout = 0.1,
                    .labels = (char **)(uintptr_t)LABELS}; /* borrowed */
}

static void open_model(Model *m, const Config *config, const char *backend, int threads,
                       const DebertaLimits *limits, uint64_t weights_key) {
    Err err = {0};
    *m = (Model){.config = *config};
    OK(threads_open(&m->threads, threads, &err));
    OK(ops_open(&m->ops, backend, strcmp(backend, "x86") == 0 ? "bf16" : "fp32", m->threads, &err));
    OK(deberta_open(&m->d, config, &m->ops, limits, &err));
    m->weights = params_list(&m->d.weights, config, &m->params);
    m->grads = limits->train ? params_list(&m->d.grads, config, &m->params) : NULL;
    for (size_t i = 0; i < m->params; i++) {
        const ParamView *w = &m->weights[i];
        const double spread = w->kind == PARAM_LINEAR ? 0.3 : w->kind == PARAM_EMBEDDING ? 1 : 0.2;
        for (int64_t k = 0; k < param_count(w); k++)
            w->data[k] = (float)((w->kind == PARAM_NORM_SCALE) +
                                 spread * rng_normal(rng_key(weights_key, w->name, 0), (uint64_t)k));
    }
}

static void close_model(Model *m) {
    mem_free(m->weights);
    mem_free(m->grads);
    deberta_close(&m->d);
    ops_close(&m->ops);
    threads_close(m->threads);
}

enum { MOST = 40 };

typedef struct {
    int32_t ids[MOST * 600], start[MOST + 1], seq[MOST];
    float target[MOST * 4];
    int S;
} Rows;

static void add_row(Rows *r, int length) {
    const int from = r->start[r->S];
    for (int i = 0; i < length; i++) {
        int id;
        do id = draw(VOCABULARY);
        while (id == PAD);
        r->ids[from + i] = id;
    }
    for (int k = 0; k < 4; k++) r->target[4 * r->S + k] = 0;
    r->target[4 * r->S + draw(4)] = 1;
    r->seq[r->S] = r->S;
    r->start[++r->S] = from + length;
}

/* Rows [from, to) as a pack; start is room for their offsets. */
static Packed pack(const Rows *r, int32_t *start, int from, int to) {
    Packed p = {.N = r->start[to] - r->start[from],
                .S = to - from,
                .ids = r->ids + r->start[from],
                .start = start,
                .seq = r->seq + from};
    for (int s = from; s <= to; s++) start[s - from] = r->start[s] - r->start[from];
    for (int s = 0; s < p.S; s++)
        p.longest = start[s + 1] - start[s] > p.longest ? start[s + 1] - start[s] : p.longest;
    return p;
}

/* One training step's gradients, the rows cut into micro-batches of `cut`; returns the sum of the losses. */
static double step(Model *m, const Rows *r, int cut, bool dropout, uint64_t key) {
    int32_t start[MOST + 1];
    deberta_begin(&m->d, pack(r, start, 0, r->S).longest, dropout, key);
    for (int from = 0; from < r->S; from += cut) {
        const Packed p = pack(r, start, from, from + cut < r->S ? from + cut : r->S);
        deberta_forward(&m->d, &p);
        deberta_loss(&m->d, r->target + (ptrdiff_t)4 * from, NULL, 1.0f / (float)r->S);
        deberta_backward(&m->d);
    }
    deberta_end(&m->d);
    return deberta_loss_sum(&m->d);
}

static DebertaLimits limits_of(const Rows *r, bool train) {
    int32_t start[MOST + 1];
    const Packed p = pack(r, start, 0, r->S);
    return (DebertaLimits){p.N, p.S, p.longest, p.N, train, false, false, 0};
}

static float *copy_of(const float *x, size_t n) {
    float *y = malloc((n + 1) * sizeof *y);
    if (!y) abort();
    memcpy(y, x, n * sizeof *y);
    return y;
}

/* All gradients as one array: those of the list, then dense rows of the word embedding. */
static float *gradients(const Model *m, size_t *n) {
    const size_t H = (size_t)m->config.hidden_size;
    *n = VOCABULARY * H;
    for (size_t i = 0; i < m->params; i++)
        if (m->grads[i].data) *n += (size_t)param_count(&m->grads[i]);
    float *all = calloc(*n, sizeof *all);
    if (!all) abort();
    const DebertaTouched *t = &m->d.touched;
    for (int i = 0; i < t->count; i++)
        memcpy(all + (size_t)t->ids[i] * H, t->grad + (size_t)i * H, H * sizeof *all);
    size_t at = VOCABULARY * H;
    for (size_t i = 0; i < m->params; i++) {
        if (!m->grads[i].data) continue;
        memcpy(all + at, m->grads[i].data, (size_t)param_count(&m->grads[i]) * sizeof *all);
        at += (size_t)param_count(&m->grads[i]);
    }
    return all;
}

static void assert_close(const char *what, const float *got, const float *want, size_t n, double tolerance) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)want[i]));
    assert_true(most > 0);
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * most))
            fail_msg("%s: [%zu] is %.9g, expected %.9g; the largest is %.3g", what, i, (double)got[i],
                     (double)want[i], most);
}

/* ---- training ---- */

static void test_micro_batches(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    for (int s = 0; s < 13; s++) add_row(r, 1 + draw(40));
    const DebertaLimits limits = limits_of(r, true);
    const Config config = small_config();
    for (int b = 0; b < backends; b++) {
        Model m;
        open_model(&m, &config, BACKENDS[b], 2, &limits, seed);
        size_t n;
        const double loss = step(&m, r, 13, true, 77);
        float *whole = gradients(&m, &n);
        static const int CUTS[] = {1, 2, 5, 12};
        for (int i = 0; i < 4; i++) {
            const double cut_loss = step(&m, r, CUTS[i], true, 77);
            float *cut = gradients(&m, &n);
            assert_true(fabs(cut_loss - loss) <= tolerance_of(b) * loss);
            assert_close("micro-batches", cut, whole, n, tolerance_of(b));
            free(cut);
        }
        /* the masks matter: another key, or none, is another gradient; the same key is the same bits */
        (void)step(&m, r, 13, true, 78);
        float *other = gradients(&m, &n);
        assert_memory_not_equal(other, whole, n * sizeof *whole);
        free(other);
        (void)step(&m, r, 13, true, 77);
        other = gradients(&m, &n);
        assert_memory_equal(other, whole, n * sizeof *whole);
        free(other);
        free(whole);
        close_model(&m);
    }
    free(r);
}

static void threads_on(const char *backend) {
    Rows *r = calloc(1, sizeof *r);
    for (int s = 0; s < 9; s++) add_row(r, 1 + draw(90));
    const DebertaLimits limits = limits_of(r, true);
    Config config = small_config();
    config.hidden_size = 264; /* more than one tile of a product */
    config.intermediate_size = 300;
    float *first = NULL, *first_logits = NULL;
    static const int COUNTS[] = {1, 2, 3, 5};
    for (int i = 0; i < 4; i++) {
        Model m;
        size_t n;
        open_model(&m, &config, backend, COUNTS[i], &limits, seed);
        (void)step(&m, r, r->S, true, 5);
        float *g = gradients(&m, &n);
        float *logits = copy_of(m.d.logits, (size_t)r->S * 4);
        if (i == 0) {
            first = g;
            first_logits = logits;
        } else {
            assert_memory_equal(logits, first_logits, (size_t)r->S * 4 * sizeof *logits);
            assert_memory_equal(g, first, n * sizeof *g);
            free(g);
            free(logits);
        }
        close_model(&m);
    }
    free(first);
    free(first_logits);
    free(r);
}

static void test_threads(void **state) {
    (void)state;
    for (int b = 1; b < backends; b++) threads_on(BACKENDS[b]);
}

static void test_padding_token(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    for (int s = 0; s < 3; s++) add_row(r, 5 + s);
    r->ids[2] = r->ids[3] = r->ids[9] = PAD;
    r->ids[4] = r->ids[10] = 17; /* and a token in two sequences has one row */
    const DebertaLimits limits = limits_of(r, true);
    const Config config = small_config();
    for (int b = 0; b < backends; b++) {
        Model m;
        open_model(&m, &config, BACKENDS[b], 1, &limits, seed);
        (void)step(&m, r, 2, true, 9);
        const DebertaTouched *t = &m.d.touched;
        assert_true(t->slot[PAD] == -1 && t->slot[17] >= 0);
        for (int i = 0; i < t->count; i++) {
            assert_int_equal(t->slot[t->ids[i]], i);
            for (int k = 0; k < i; k++) assert_int_not_equal(t->ids[i], t->ids[k]);
            bool there = false;
            for (int n = 0; n < r->start[3]; n++) there = there || r->ids[n] == t->ids[i];
            assert_true(there && t->ids[i] != PAD);
        }
        for (int v = 0; v < VOCABULARY; v++)
            if (t->slot[v] >= 0) assert_int_equal(t->ids[t->slot[v]], v);
        close_model(&m);
    }
    free(r);
}

static void test_allocates_nothing(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    for (int s = 0; s < 5; s++) add_row(r, 1 + draw(30));
    const DebertaLimits limits = limits_of(r, true);
    const Config config = small_config();
    for (int b = 0; b < backends; b++) {
        Model m;
        open_model(&m, &config, BACKENDS[b], 3, &limits, seed);
        const size_t count = mem_count();
        (void)step(&m, r, 2, true, 1);
        assert_int_equal(mem_count(), count);
        close_model(&m);
    }
    free(r);
}

/* Opening a backend and a model on it, with each allocation failing in turn: an error, and nothing is left. */
static void test_no_memory(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    add_row(r, 9);
    const DebertaLimits limits = limits_of(r, true);
    const Config config = small_config();
    for (int b = 0; b < backends; b++) {
        int failed = 0;
        for (size_t n = 1; n < 500; n++) {
            Ops ops = {0};
            Deberta d = {0};
            Err err = {0};
            mem_fail_at(n);
            ErrCode rc = ops_open(&ops, BACKENDS[b], b == 2 ? "bf16" : "fp32", NULL, &err);
            if (rc == ERR_OK) rc = deberta_open(&d, &config, &ops, &limits, &err);
            mem_fail_at(0);
            if (rc == ERR_OK) deberta_close(&d);
            if (ops.close) ops_close(&ops);
            if (rc == ERR_OK) break;
            assert_int_equal(rc, ERR_MEMORY);
            assert_true(strncmp(err.msg, "out of memory", 13) == 0);
            failed++;
        }
        assert_in_range(failed, 5, 498); /* some, and then it worked */
    }
    free(r);
}

/* ---- positions ---- */

static void test_bucket_rows(void **state) {
    (void)state;
    /* B = 256, P = 512: as it is up to 128, then 128 + ceil(127 ln(r/128) / ln(511/128)), which is 255 from 508 on
     * (126.46), and 256 from 512 on, where the row is clamped */
    static const struct {
        int distance, row;
    } KNOWN[] = {{0, 256},   {1, 257},    {127, 383},  {128, 384},  {129, 385},  {130, 386},
                 {132, 387}, {508, 511},  {510, 511},  {511, 511},  {512, 511},  {599, 511},
                 {-1, 255},  {-127, 129}, {-128, 128}, {-129, 127}, {-130, 126}, {-510, 1},
                 {-511, 1},  {-512, 0},   {-513, 0},   {-599, 0}};
    for (size_t i = 0; i < sizeof KNOWN / sizeof KNOWN[0]; i++)
        if (buckets_row(KNOWN[i].distance, 256, 512) != KNOWN[i].row)
            fail_msg("distance %d: row %d, expected %d", KNOWN[i].distance,
                     buckets_row(KNOWN[i].distance, 256, 512), KNOWN[i].row);
    for (int r = -2000; r < 2000; r++) {
        assert_true(buckets_row(r, 256, 512) <= buckets_row(r + 1, 256, 512));
        assert_int_equal(buckets_of(r, 256, 512), -buckets_of(-r, 256, 512));
    }
}

/* Gradient reaches those rows of the table that the longest sequence's distances use, and no others. */
static void test_position_rows(void **state) {
    (void)state;
    static const int LENGTHS[] = {1, 2, 127, 128, 129, 130, 131, 511, 512, 513, 514};
    const Config config = small_config(); /* two layers: in one alone only the first token would ask */
    for (size_t i = 0; i < sizeof LENGTHS / sizeof LENGTHS[0]; i++) {
        const int L = LENGTHS[i];
        Rows *r = calloc(1, sizeof *r);
        add_row(r, L);
        add_row(r, 1 + L / 3);
        if (L > 1)
            r->ids[1] = r->ids[0] == 7 ? 8 : 7; /* two equal tokens would not care whom they attend to */
        const DebertaLimits limits = limits_of(r, true);
        bool used[512] = {false};
        for (int d = 1 - L; d < L; d++) used[buckets_row(d, 256, 512)] = true;
        for (int b = 0; b < backends; b++) {
            Model m;
            open_model(&m, &config, BACKENDS[b], 2, &limits, seed);
            (void)step(&m, r, 2, false, 0);
            for (int row = 0; row < 512; row++) {
                double sum = 0;
                for (int h = 0; h < config.hidden_size; h++)
                    sum += fabs((double)m.d.grads.rel[row * config.hidden_size + h]);
                /* one token alone attends to itself whatever the scores: its gradient is 0 */
                if ((sum > 0) != (used[row] && L > 1))
                    fail_msg("L=%d, %s: row %d has a gradient of size %g", L, BACKENDS[b], row, sum);
            }
            close_model(&m);
        }
        free(r);
    }
}

/* ---- company ---- */

static void forward(Model *m, const Rows *r, const int *order, int count, float *logits) {
    static Rows shuffled;
    int32_t start[MOST + 1];
    shuffled.S = count;
    for (int i = 0; i < count; i++) {
        const int from = r->start[order[i]], length = r->start[order[i] + 1] - from;
        memcpy(shuffled.ids + shuffled.start[i], r->ids + from, (size_t)length * sizeof *r->ids);
        shuffled.start[i + 1] = shuffled.start[i] + length;
        shuffled.seq[i] = i;
    }
    const Packed p = pack(&shuffled, start, 0, count);
    deberta_forward(&m->d, &p);
    for (int i = 0; i < count; i++)
        memcpy(logits + (ptrdiff_t)4 * order[i], m->d.logits + (ptrdiff_t)4 * i, 4 * sizeof *logits);
}

static void test_company(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    for (int s = 0; s < 20; s++) add_row(r, 1 + draw(60));
    add_row(r, 129);
    const int S = r->S, longest = 129;
    DebertaLimits limits = limits_of(r, false);
    limits.longest = 400;
    limits.micro_tokens += 400;
    const Config config = small_config();
    for (int b = 0; b < backends; b++) {
        Model m;
        float together[MOST * 4], shuffled[MOST * 4], alone[MOST * 4], far[MOST * 4];
        int order[MOST];
        uint32_t random[MOST];
        open_model(&m, &config, BACKENDS[b], 2, &limits, seed);
        for (int s = 0; s < S; s++) order[s] = s;
        deberta_begin(&m.d, longest, false, 0);
        forward(&m, r, order, S, together);
        for (int s = 0; s < S; s++) forward(&m, r, &s, 1, alone);
        rng_shuffle(random, (size_t)S, seed);
        for (int s = 0; s < S; s++) order[s] = (int)random[s];
        forward(&m, r, order, S, shuffled);
        deberta_begin(&m.d, 400, false, 0);
        forward(&m, r, order, S, far);
        const float *const others[] = {alone, shuffled, far};
        static const char *const NAMES[] = {"alone", "shuffled", "with a longer step"};
        for (int i = 0; i < 3; i++) {
            if (b == 0)
                assert_memory_equal(others[i], together, (size_t)S * 4 * sizeof(float));
            else
                assert_close(NAMES[i], others[i], together, (size_t)S * 4, tolerance_of(b));
        }
        close_model(&m);
    }
    free(r);
}

/* Backends agree: the model on blas against the model on ref, forward and backward. */
static void test_backends_agree(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    for (int s = 0; s < 8; s++) add_row(r, 1 + draw(150));
    const DebertaLimits limits = limits_of(r, true);
    const Config config = small_config();
    float *g[2];
    size_t n = 0;
    for (int b = 0; b < 2; b++) {
        Model m;
        open_model(&m, &config, BACKENDS[b], 2, &limits, seed);
        (void)step(&m, r, 3, true, seed);
        g[b] = gradients(&m, &n);
        close_model(&m);
    }
    assert_close("gradients", g[1], g[0], n, 10 * TOLERANCE); /* erf and exp are approximated as well */
    free(g[0]);
    free(g[1]);
    free(r);
}

/* ---- NaN ---- */

static void test_nan_reaches_the_loss(void **state) {
    (void)state;
    Rows *r = calloc(1, sizeof *r);
    add_row(r, 7);
    add_row(r, 30);
    const DebertaLimits limits = limits_of(r, true);
    const Config config = small_config();
    for (int b = 0; b < backends; b++) {
        Model m;
        open_model(&m, &config, BACKENDS[b], 2, &limits, seed);
        assert_true(isfinite(step(&m, r, 2, true, 1)));
        for (size_t i = 0; i < m.params; i++) {
            const ParamView *w = &m.weights[i];
            size_t at = (size_t)draw((int)param_count(w));
            if (w->data == m.d.weights.word) at = (size_t)r->ids[3] * 24 + at % 24;
            if (w->data == m.d.weights.rel) at = 256 * 24 + at % 24; /* distance 0 */
            const float kept = w->data[at];
            w->data[at] = NAN;
            deberta_weights_changed(&m.d);
            if (isfinite(step(&m, r, 2, draw(2), 1)))
                fail_msg("%s: a NaN in %s did not reach the loss", BACKENDS[b], w->name);
            w->data[at] = kept;
            deberta_weights_changed(&m.d);
        }
        assert_true(isfinite(step(&m, r, 2, true, 1)));
        close_model(&m);
    }
    free(r);
}

/* ---- classifier ---- */

static void save_model(const Model *m) {
    Err err = {0};
    cJSON *json;
    OK(config_json(&json, &m->config, &err));
    OK(json_save(in_folder("config.json"), json, &err));
    cJSON_Delete(json);
    OK(weights_save(in_folder("model.safetensors"), &m->d.weights, &m->config, &err));
}

static void test_classifier(void **state) {
    (void)state;
    enum { COUNT = 700 }; /* several batches */
    Err err = {0};
    const Config config = small_config();
    const DebertaLimits limits = {600, 1, 600, 0, false, false, false, 0};
    int32_t *ids[COUNT];
    int lengths[COUNT];
    for (int i = 0; i < COUNT; i++) {
        lengths[i] = i == 5 ? 600 : i == 6 ? 1 : 1 + draw(30);
        ids[i] = malloc((size_t)lengths[i] * sizeof **ids);
        for (int n = 0; n < lengths[i]; n++) ids[i][n] = draw(VOCABULARY);
    }
    float *logits = calloc(COUNT * 4, sizeof *logits), *expected = calloc(COUNT * 4, sizeof *expected);
    for (int b = 0; b < 2; b++) {
        Model m;
        open_model(&m, &config, BACKENDS[b], 2, &limits, seed + (uint64_t)b);
        save_model(&m);
        deberta_begin(&m.d, 600, false, 0);
        for (int i = 0; i < COUNT; i++) {
            const int32_t start[] = {0, lengths[i]};
            deberta_forward(&m.d, &(Packed){lengths[i], 1, lengths[i], ids[i], start, NULL});
            memcpy(expected + (ptrdiff_t)4 * i, m.d.logits, 4 * sizeof *logits);
        }
        Classifier c;
        OK(classifier_open(&c, folder, BACKENDS[b], 0, m.threads, &err));
        OK(classifier_logits(&c, logits, (const int32_t *const *)ids, lengths, COUNT, &err));
        if (b == 0)
            assert_memory_equal(logits, expected, COUNT * 4 * sizeof *logits);
        else
            assert_close("classifier", logits, expected, (size_t)COUNT * 4, tolerance_of(b));
        OK(classifier_logits(&c, logits, (const int32_t *const *)ids, lengths, 0, &err)); /* none */
        OK(classifier_logits(&c, logits, (const int32_t *const *)ids + 9, lengths + 9, 1, &err));
        assert_close("one", logits, expected + (ptrdiff_t)9 * 4, 4, b ? tolerance_of(b) : 0);
        classifier_close(&c);
        close_model(&m);
    }
    for (int i = 0; i < COUNT; i++) free(ids[i]);
    free(logits);
    free(expected);
}

static void test_classifier_errors(void **state) {
    (void)state;
    Err err = {0};
    const Config config = small_config();
    const DebertaLimits limits = {20, 1, 20, 0, false, false, false, 0};
    Model m;
    Classifier c;
    open_model(&m, &config, "ref", 1, &limits, seed);
    /* weights that are finite, logits that are not */
    for (int h = 0; h < 24; h++) {
        m.d.weights.pool_b[h] = 1e30f;
        m.d.weights.head_w[2 * 24 + h] = 3e38f;
    }
    save_model(&m);
    const int32_t one[] = {1, 2, 5}, *const ids[] = {one, one};
    const int lengths[] = {3, 2};
    float logits[8];
    OK(classifier_open(&c, folder, "blas", 20, NULL, &err));
    assert_int_equal(classifier_logits(&c, logits, ids, lengths, 2, &err), ERR_NUMERIC);
    assert_string_equal(err.msg, "sequence 1: logit 2 is not finite"); /* the shortest comes first */
    classifier_close(&c);
    /* no classifier in the file */
    size_t kept = 0;
    SafetensorsItem items[64];
    for (size_t i = 0; i < m.params; i++) {
        const ParamView *w = &m.weights[i];
        if (strncmp(w->name, "classifier.", 11) == 0) continue;
        items[kept++] = (SafetensorsItem){w->name, {w->data, {w->rows, w->cols}, w->cols ? 2 : 1, DTYPE_F32}};
    }
    OK(safetensors_save(in_folder("model.safetensors"), items, kept, NULL, 0, &err));
    char expected[256];
    assert_int_equal(classifier_open(&c, folder, "ref", 20, NULL, &err), ERR_ARGUMENT);
    (void)snprintf(expected, sizeof expected,
                   "%s: the tensor classifier.weight is missing: it is not a trained classifier", folder);
    assert_string_equal(err.msg, expected);
    assert_int_equal(classifier_open(&c, folder, "cudo", 20, NULL, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "backend: found 'cudo', expected one of auto, blas, cuda, ref, torch, x86");
    close_model(&m);
}

/* What a user is told where a backend's module is missing, is no module, or does not compute in what was asked for. */
static void test_module_errors(void **state) {
    (void)state;
    Err err = {0};
    Ops ops;
    char expected[600];
    setenv("ROUTER_MODULES", folder, 1); /* NOLINT(concurrency-mt-unsafe): one thread */
    assert_int_equal(ops_open(&ops, "cuda", "auto", NULL, &err), ERR_BACKEND);
    (void)snprintf(expected, sizeof expected,
                   "backend cuda: there is no router_cuda.so in %s (ROUTER_MODULES); cmake -D ROUTER_CUDA=ON "
                   "builds it, or says what it misses",
                   folder);
    assert_string_equal(err.msg, expected);
    OK(file_save(in_folder("router_torch.so"), "not a library", 13, &err));
    assert_int_equal(ops_open(&ops, "torch", "fp32", NULL, &err), ERR_BACKEND);
    (void)snprintf(expected, sizeof expected, "backend torch: %s: ", in_folder("router_torch.so"));
    assert_int_equal(strncmp(err.msg, expected, strlen(expected)), 0); /* the system's words follow */
    assert_int_equal(remove(in_folder("router_torch.so")), 0);
    const char *build = getenv("ROUTER_BUILD"); /* NOLINT(concurrency-mt-unsafe) */
    char other[400];
    (void)snprintf(other, sizeof other, "%s/tests/other_version", build ? build : ".");
    setenv("ROUTER_MODULES", other, 1); /* NOLINT(concurrency-mt-unsafe) */
    if (build) {
        assert_int_equal(ops_open(&ops, "cuda", "auto", NULL, &err), ERR_BACKEND);
        (void)snprintf(
            expected, sizeof expected,
            "backend cuda: %s/router_cuda.so belongs to another version of this program: found 0.0.0, "
            "expected " ROUTER_VERSION,
            other);
        assert_string_equal(err.msg, expected);
    }
    unsetenv("ROUTER_MODULES"); /* NOLINT(concurrency-mt-unsafe) */
    static const char *const HOSTS[] = {"ref", "blas"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ops_open(&ops, HOSTS[i], "tf32", NULL, &err), ERR_ARGUMENT);
        (void)snprintf(expected, sizeof expected, "precision: found tf32, but backend %s computes in fp32",
                       HOSTS[i]);
        assert_string_equal(err.msg, expected);
    }
    assert_int_equal(ops_open(&ops, "ref", "fp64", NULL, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "precision: found 'fp64', expected auto, fp32, tf32 or bf16");
}

int main(void) {
    seed_open();
    if (ops_x86_kernel(true)) backends = 3;
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_micro_batches),  cmocka_unit_test(test_threads),
        cmocka_unit_test(test_padding_token),  cmocka_unit_test(test_allocates_nothing),
        cmocka_unit_test(test_no_memory),      cmocka_unit_test(test_bucket_rows),
        cmocka_unit_test(test_position_rows),  cmocka_unit_test(test_company),
        cmocka_unit_test(test_backends_agree), cmocka_unit_test(test_nan_reaches_the_loss),
        cmocka_unit_test(test_classifier),     cmocka_unit_test(test_classifier_errors),
        cmocka_unit_test(test_module_errors),
    };
    return folder_close(cmocka_run_group_tests_name("deberta", tests, NULL, NULL));
}
