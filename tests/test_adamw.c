/* tests/test_adamw.c - the optimiser against a plain dense AdamW in double, the schedule against Hugging Face's
 * formulas, and TensorBoard's file read back. */
#include "core/file.h"
#include "core/mem.h"
#include "core/rng.h"
#include "tests/unit.h"
#include "train/adamw.h"
#include "train/events.h"
#include "train/schedule.h"

static const char *const BACKENDS[] = {"ref", "blas"};
enum { VOCABULARY = 150, HIDDEN = 20, LAYERS = 3, STEPS = 60 };

static float normal(void) {
    return (float)rng_normal(seed, drawn++);
}

typedef struct {
    Config config;
    Threads *threads;
    Ops ops;
    Deberta model;
    Adamw adamw;
    float boost[VOCABULARY];
    double *p[80], *m[80], *v[80], *g[80]; /* the dense optimiser, in the order of the list */
} Fixture;

static char *const LABELS[] = {(char[]){"a"}, (char[]){"b"}, (char[]){"c"}};

static void open_fixture(Fixture *f, const char *backend) {
    Err err = {0};
    *f = (Fixture){.config = {.vocab_size = VOCABULARY,
                              .hidden_size = HIDDEN,
                              .num_hidden_layers = LAYERS,
                              .num_attention_heads = 2,
                              .intermediate_size = 28,
                              .max_position_embeddings = 64,
                              .position_buckets = 8,
                              .max_relative_positions = 64,
                              .num_labels = 3,
                              .layer_norm_eps = 1e-7,
                              .labels = (char **)(uintptr_t)LABELS}};
    const DebertaLimits limits = {64, 8, 64, 100, true, false, false, 0};
    OK(threads_open(&f->threads, 2, &err));
    OK(ops_open(&f->ops, backend, "auto", f->threads, &err));
    OK(deberta_open(&f->model, &f->config, &f->ops, &limits, &err));
    OK(adamw_open(&f->adamw, &f->model, 120, &err));
    for (size_t i = 0; i < f->adamw.params; i++) {
        const ParamView *w = &f->adamw.weights[i];
        const size_t n = (size_t)param_count(w);
        double **const lists[] = {&f->p[i], &f->m[i], &f->v[i], &f->g[i]};
        for (int k = 0; k < 4; k++)
            if (!(*lists[k] = calloc(n, sizeof(double)))) abort();
        for (size_t k = 0; k < n; k++) f->p[i][k] = (double)(w->data[k] = normal());
    }
}

static void close_fixture(Fixture *f) {
    for (size_t i = 0; i < f->adamw.params; i++) {
        free(f->p[i]);
        free(f->m[i]);
        free(f->v[i]);
        free(f->g[i]);
    }
    adamw_close(&f->adamw);
    deberta_close(&f->model);
    ops_close(&f->ops);
    threads_close(f->threads);
}

/* Random gradients in the model and, dense, in g: rows of the word embedding only for some tokens, among them now
 * and then one that was never touched. Tokens from 120 on never occur. */
static void draw_gradients(Fixture *f, int step, double size) {
    DebertaTouched *t = &f->model.touched;
    for (int i = 0; i < t->count; i++) t->slot[t->ids[i]] = -1;
    t->count = 0;
    for (size_t i = 0; i < f->adamw.params; i++) {
        const ParamView *w = &f->adamw.weights[i];
        const size_t n = (size_t)param_count(w);
        if (w->data != f->model.weights.word) {
            for (size_t k = 0; k < n; k++)
                f->g[i][k] = (double)(f->adamw.tensors[i - 1].g[k] = (float)size * normal());
            continue;
        }
        memset(f->g[i], 0, n * sizeof *f->g[i]);
        for (int id = 0; id < 120; id++) {
            const int begin = id / 3; /* step at which it may first occur: up to 39 */
            if (step < begin || draw(id % 5 + 1) != 0) continue; /* then often or rarely */
            t->slot[id] = t->count;
            t->ids[t->count] = id;
            for (int h = 0; h < HIDDEN; h++)
                f->g[i][id * HIDDEN + h] = (double)(t->grad[t->count * HIDDEN + h] = (float)size * normal());
            if (++t->count == t->capacity) break;
        }
    }
}

/* How far below the top a weight is, by its name. */
static int depth_of(const char *name) {
    static const char EMBEDDINGS[] = "deberta.embeddings.", LAYER[] = "deberta.encoder.layer.";
    if (strncmp(name, EMBEDDINGS, sizeof EMBEDDINGS - 1) == 0) return LAYERS + 1;
    if (strncmp(name, LAYER, sizeof LAYER - 1) == 0) return LAYERS - (name[sizeof LAYER - 1] - '0');
    return 0;
}

static bool ends_with(const char *s, const char *tail) {
    return strlen(s) >= strlen(tail) && strcmp(s + strlen(s) - strlen(tail), tail) == 0;
}

/* What PyTorch's AdamW does, element by element; decay by name, as transformers' Trainer groups them. */
static double dense_step(Fixture *f, const AdamwRule *r, int t) {
    double squares = 0;
    for (size_t i = 0; i < f->adamw.params; i++)
        for (int64_t k = 0; k < param_count(&f->adamw.weights[i]); k++) squares += f->g[i][k] * f->g[i][k];
    const double norm = sqrt(squares);
    const double clip = r->max_grad_norm > 0 ? fmin(1, r->max_grad_norm / (norm + 1e-6)) : 1;
    for (size_t i = 0; i < f->adamw.params; i++) {
        const char *name = f->adamw.weights[i].name;
        const double rate = r->learning_rate * pow(r->layer_rate_decay, depth_of(name));
        const double decay = ends_with(name, ".bias") || strstr(name, "LayerNorm") ? 0 : r->weight_decay;
        const bool boosted = f->adamw.boosts && f->adamw.weights[i].data == f->model.weights.word;
        for (int64_t k = 0; k < param_count(&f->adamw.weights[i]); k++) {
            const double g = f->g[i][k] * clip, step = rate * (boosted ? (double)f->boost[k / HIDDEN] : 1);
            f->p[i][k] *= 1 - rate * decay;
            f->m[i][k] = r->beta1 * f->m[i][k] + (1 - r->beta1) * g;
            f->v[i][k] = r->beta2 * f->v[i][k] + (1 - r->beta2) * g * g;
            f->p[i][k] -= step * (f->m[i][k] / (1 - pow(r->beta1, t))) /
                          (sqrt(f->v[i][k] / (1 - pow(r->beta2, t))) + r->epsilon);
        }
    }
    return norm;
}

/* Each step rounds a weight of size up to 4 once, to 2^-24 of it, and moments likewise. */
static void compare(Fixture *f, const float *word) {
    const Adamw *a = &f->adamw;
    const double tolerance = STEPS * 4 * 6e-8;
    for (size_t i = 0; i < a->params; i++) {
        const bool is_word = a->weights[i].data == f->model.weights.word;
        for (int64_t k = 0; k < param_count(&a->weights[i]); k++) {
            const int32_t row = is_word ? a->row[k / HIDDEN] : 0;
            const int64_t at = is_word ? (int64_t)row * HIDDEN + k % HIDDEN : k;
            const double p = (double)(is_word ? word[k] : a->weights[i].data[k]);
            const double m = row < 0 ? 0 : (double)(is_word ? a->word_m[at] : a->ms[i].data[k]);
            const double v = row < 0 ? 0 : (double)(is_word ? a->word_v[at] : a->vs[i].data[k]);
            if (!(fabs(p - f->p[i][k]) <= tolerance &&
                  fabs(m - f->m[i][k]) <= 1e-5 * (0.1 + fabs(f->m[i][k])) &&
                  fabs(v - f->v[i][k]) <= 1e-5 * f->v[i][k]))
                fail_msg("%s[%lld]: p %.9g m %.9g v %.9g, dense has %.9g %.9g %.9g", a->weights[i].name,
                         (long long)k, p, m, v, f->p[i][k], f->m[i][k], f->v[i][k]);
        }
    }
}

static void test_dense(void **state) {
    (void)state;
    Err err = {0};
    for (int kind = 0; kind < 6; kind++) {
        Fixture f;
        open_fixture(&f, BACKENDS[kind % 2]);
        for (int id = 0; id < VOCABULARY; id++) f.boost[id] = draw(2) ? 1 : 0.1f * (float)(1 + draw(40));
        if (kind >= 4) f.adamw.boosts = f.boost;
        float *word = malloc(sizeof *word * VOCABULARY * HIDDEN),
              *before = malloc(sizeof *word * VOCABULARY * HIDDEN);
        memcpy(before, f.model.weights.word, sizeof *word * VOCABULARY * HIDDEN);
        AdamwRule rule = {.beta1 = 0.9,
                          .beta2 = 0.99,
                          .epsilon = 1e-8,
                          .weight_decay = kind % 4 < 2 ? 0.1 : 0,
                          .max_grad_norm = kind < 2 ? 1 : 0,
                          .layer_rate_decay = kind < 2 ? 0.8 : 1};
        for (int t = 1; t <= STEPS; t++) {
            rule.learning_rate =
                1e-2 * schedule_factor(SCHEDULE_LINEAR, t - 1, 10, STEPS); /* the first step: 0 */
            draw_gradients(&f, t - 1, t % 7 ? 1 : 1e-3);                   /* clipped, and now and then not */
            const double expected = dense_step(&f, &rule, t);
            double norm;
            OK(adamw_step(&f.adamw, &rule, &norm, &err));
            assert_true(fabs(norm - expected) <= 1e-12 * expected); /* both in double */
            assert_int_equal(f.adamw.step, t);
            /* making the dense copy changes nothing, at any step */
            if (t % 9 == 0) adamw_word(&f.adamw, word);
        }
        adamw_word(&f.adamw, word);
        compare(&f, word);
        assert_in_range(f.adamw.rows, 80, 120);
        for (int id = 0; id < VOCABULARY; id++) {
            assert_true(id < 120 || f.adamw.row[id] == -1);
            if (f.adamw.row[id] >= 0) continue; /* never touched: the bits of the start */
            assert_memory_equal(f.model.weights.word + (ptrdiff_t)id * HIDDEN,
                                before + (ptrdiff_t)id * HIDDEN, HIDDEN * sizeof *word);
        }
        assert_true(kind % 4 < 2 ? f.adamw.decay < 1 : f.adamw.decay == 1);
        free(word);
        free(before);
        close_fixture(&f);
    }
}

static void test_clipping(void **state) {
    (void)state;
    Err err = {0};
    static const double LIMITS[] = {0, 1e-3, 1e9};
    for (int i = 0; i < 3; i++) {
        Fixture f;
        open_fixture(&f, "blas");
        draw_gradients(&f, 50, 1);
        const AdamwRule rule = {1e-3, 0.9, 0.999, 1e-8, 0, LIMITS[i], 1};
        double norm;
        OK(adamw_step(&f.adamw, &rule, &norm, &err));
        const double scale = i == 1 ? 1e-3 / (norm + 1e-6) : 1;
        double squares = 0; /* of (1 - beta1) times what was used */
        for (size_t p = 0; p < f.adamw.params; p++)
            for (int64_t k = 0; f.adamw.ms[p].data && k < param_count(&f.adamw.ms[p]); k++)
                squares += (double)f.adamw.ms[p].data[k] * (double)f.adamw.ms[p].data[k];
        for (int k = 0; k < f.adamw.rows * HIDDEN; k++)
            squares += (double)f.adamw.word_m[k] * (double)f.adamw.word_m[k];
        const double used = 10 * sqrt(squares);
        assert_true(fabs(used - scale * norm) <= 1e-6 * used);
        close_fixture(&f);
    }
}

/* A gradient that is not finite changes nothing at all. */
static void test_not_finite(void **state) {
    (void)state;
    Err err = {0};
    for (int kind = 0; kind < 4; kind++) {
        Fixture f;
        open_fixture(&f, BACKENDS[kind % 2]);
        const AdamwRule rule = {1e-3, 0.9, 0.999, 1e-8, 0.1, 1, 1};
        double norm;
        draw_gradients(&f, 20, 1);
        OK(adamw_step(&f.adamw, &rule, &norm, &err));
        const size_t bytes = f.model.weight_memory.at.used, moments = f.adamw.m_memory.at.used;
        void *weights = malloc(bytes), *m = malloc(moments);
        memcpy(weights, f.model.weight_memory.at.base, bytes);
        memcpy(m, f.adamw.m_memory.at.base, moments);
        const int rows = f.adamw.rows;
        const double decay = f.adamw.decay;
        draw_gradients(&f, 50, 1); /* with new rows */
        if (kind < 2)
            f.model.grads.layer[1].k_w[7] = NAN;
        else
            f.model.touched.grad[HIDDEN + 3] = INFINITY;
        assert_int_equal(adamw_step(&f.adamw, &rule, &norm, &err), ERR_NUMERIC);
        assert_string_equal(err.msg, kind < 2 ? "the gradient's norm is nan" : "the gradient's norm is inf");
        assert_memory_equal(weights, f.model.weight_memory.at.base, bytes);
        assert_memory_equal(m, f.adamw.m_memory.at.base, moments);
        assert_true(f.adamw.step == 1 && f.adamw.rows == rows && f.adamw.decay == decay);
        free(weights);
        free(m);
        close_fixture(&f);
    }
}

/* ---- schedule ---- */

/* transformers.optimization, written out: get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup (half
 * a cycle), get_constant_schedule_with_warmup. */
static double published(ScheduleType type, double step, double warmup, double total) {
    if (step < warmup) return step / fmax(1, warmup);
    if (type == SCHEDULE_CONSTANT) return 1;
    if (type == SCHEDULE_LINEAR) return fmax(0, (total - step) / fmax(1, total - warmup));
    const double progress = (step - warmup) / fmax(1, total - warmup);
    return fmax(0, 0.5 * (1 + cos(acos(-1.0) * 0.5 * 2 * progress)));
}

static void test_schedule(void **state) {
    (void)state;
    static const ScheduleType TYPES[] = {SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT};
    static const char *const NAMES[] = {"linear", "cosine", "constant"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(schedule_find(NAMES[i]), TYPES[i]);
        for (int round = 0; round < 50; round++) {
            const int total = 1 + draw(300), warmup = round == 0 ? 0 : round == 1 ? total : draw(total);
            for (int step = 0; step < total; step++) {
                const double found = schedule_factor(TYPES[i], step, warmup, total);
                const double expected = published(TYPES[i], step, warmup, total);
                if (!(fabs(found - expected) <= 1e-14)) /* a few roundings of numbers up to 1 */
                    fail_msg("%s step %d of %d, warm-up %d: %.17g, expected %.17g", NAMES[i], step, total,
                             warmup, found, expected);
            }
            if (i < 2 && warmup < total)
                assert_true(fabs(schedule_factor(TYPES[i], total, warmup, total)) <= 1e-14);
        }
    }
    assert_true(schedule_factor(SCHEDULE_LINEAR, 0, 0, 10) == 1 &&
                schedule_factor(SCHEDULE_LINEAR, 0, 5, 10) == 0);
}

/* ---- TensorBoard ---- */

static uint32_t crc_table[256];

static uint32_t crc32c(const unsigned char *p, size_t n) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        crc_table[i] = c;
    }
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) crc = crc >> 8 ^ crc_table[(crc ^ p[i]) & 0xff];
    return ~crc;
}

static uint32_t word_at(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unmasked(uint32_t masked) {
    const uint32_t rotated = masked - 0xa282ead8u;
    return rotated >> 17 | rotated << 15;
}

typedef struct {
    double time;
    uint64_t step;
    char version[32], tag[128];
    float value;
} Event;

static uint64_t varint(const unsigned char *p, size_t *at) {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        const unsigned char c = p[(*at)++];
        v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) return v;
    }
}

/* Any order of fields; `depth` 0 is Event, 1 Summary, 2 Value. */
static void parse(Event *e, const unsigned char *p, size_t n, int depth) { /* NOLINT(misc-no-recursion) */
    for (size_t at = 0; at < n;) {
        const uint64_t key = varint(p, &at), field = key >> 3, type = key & 7;
        if (type == 0) {
            e->step = varint(p, &at);
            assert_true(depth == 0 && field == 2);
        } else if (type == 1) {
            assert_true(depth == 0 && field == 1);
            memcpy(&e->time, p + at, 8);
            at += 8;
        } else if (type == 5) {
            assert_true(depth == 2 && field == 2);
            memcpy(&e->value, p + at, 4);
            at += 4;
        } else {
            assert_int_equal(type, 2);
            const uint64_t length = varint(p, &at);
            assert_true(length <= n - at);
            if ((depth == 0 && field == 5) || (depth == 1 && field == 1))
                parse(e, p + at, length, depth + 1);
            else if (depth == 0 && field == 3)
                memcpy(e->version, p + at, length < 31 ? length : 31);
            else if (depth == 2 && field == 1)
                memcpy(e->tag, p + at, length < 127 ? length : 127);
            else
                fail_msg("field %llu at depth %d", (unsigned long long)field, depth);
            at += length;
        }
    }
}

static size_t read_events(Event *out, size_t most, const char *path) {
    Buf file = {0};
    Err err = {0};
    OK(file_read(&file, path, 1 << 20, &err));
    const unsigned char *p = (const unsigned char *)file.data;
    size_t count = 0;
    for (size_t at = 0; at < file.len; count++) {
        assert_true(file.len - at >= 16 && count < most);
        const size_t n = word_at(p + at);
        assert_int_equal(word_at(p + at + 4), 0);
        assert_int_equal(unmasked(word_at(p + at + 8)), crc32c(p + at, 8));
        assert_true(n <= file.len - at - 16);
        assert_int_equal(unmasked(word_at(p + at + 12 + n)), crc32c(p + at + 12, n));
        out[count] = (Event){0};
        parse(&out[count], p + at + 12, n, 0);
        at += n + 16;
    }
    buf_free(&file);
    return count;
}

static void test_events(void **state) {
    (void)state;
    assert_int_equal(crc32c((const unsigned char *)"123456789", 9),
                     0xe3069283u); /* the published check value */
    Err err = {0};
    Events e;
    char tag[101];
    memset(tag, 't', 100);
    tag[100] = 0;
    const double before = (double)time(NULL);
    OK(events_open(&e, folder, &err));
    static const int64_t STEP[] = {0, 1, 127, 128, 300, 1000000007, (int64_t)1 << 40};
    static const double VALUE[] = {0, -1.5, 1e-30, 3.25e7, (double)NAN, (double)INFINITY, 0.1};
    for (int i = 0; i < 7; i++) events_add(&e, STEP[i], i == 3 ? tag : i == 4 ? "" : "train/loss", VALUE[i]);
    events_close(&e);
    events_add(&e, 1, "closed", 1); /* nothing happens */
    char **names;
    size_t count;
    OK(file_list(&names, &count, folder, &err));
    assert_int_equal(count, 1);
    assert_true(strncmp(names[0], "events.out.tfevents.", 20) == 0 && ends_with(names[0], ".router"));
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, names[0]);
    file_list_free(names, count);
    Event events[16];
    assert_int_equal(read_events(events, 16, path), 8);
    assert_string_equal(events[0].version, "brain.Event:2");
    for (int i = 0; i < 7; i++) {
        const Event *v = &events[i + 1];
        assert_true(v->step == (uint64_t)STEP[i] && v->time >= before && v->time <= before + 60);
        assert_string_equal(v->tag, i == 3 ? tag : i == 4 ? "" : "train/loss");
        assert_true(v->value == (float)VALUE[i] || (isnan(v->value) && isnan(VALUE[i])));
    }
    /* a run that is resumed within the second adds to the file, it does not begin it anew */
    OK(events_open(&e, folder, &err));
    events_add(&e, 9, "train/loss", 9);
    events_close(&e);
    OK(file_list(&names, &count, folder, &err));
    size_t all = 0;
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        all += read_events(events, 16, path);
    }
    assert_int_equal(all, 10);
    file_list_free(names, count);
    char missing[128], expected[256];
    (void)snprintf(missing, sizeof missing, "%s/missing", folder);
    assert_int_equal(events_open(&e, missing, &err), ERR_IO);
    (void)snprintf(expected, sizeof expected, "%s/events.out.tfevents.", missing);
    assert_true(strncmp(err.msg, expected, strlen(expected)) == 0 &&
                ends_with(err.msg, ".router: cannot create"));
    assert_null(e.file);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),    cmocka_unit_test(test_clipping), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_schedule), cmocka_unit_test(test_events),
    };
    return folder_close(cmocka_run_group_tests_name("adamw", tests, NULL, NULL));
}
