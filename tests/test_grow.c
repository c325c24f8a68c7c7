/* tests/test_grow.c - a classifier that grows (eval/grow.h), on small models of random weights, labels and decision rules:
 * what is as it was, what is new, that what is muted never wins, what is refused, and that a failure leaves nothing. */
#include <float.h>

#include "core/json.h"
#include "core/text.h"
#include "eval/grow.h"
#include "export/decide_json.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/unit.h"

enum { ROUNDS = 40, LABELS_MAX = 12, MORE_MAX = 3, VECTORS = 60 };

static const char *const NAMES[] = {"math", "coding", "other",   "health", "humanities", "law \"x\"",
                                    "b=c",  "trips",  "finance", "d",      "e",          "\xc3\xa9t\xc3\xa9"};

static double between(double low, double high) {
    return low + (high - low) * (double)draw64(1u << 30) / (1u << 30);
}

/* ---- a parent ---- */

static void fill(float *out, size_t n, double scale) {
    for (size_t i = 0; i < n; i++) out[i] = (float)(scale * between(-1, 1));
}

static Config draw_config(int K) {
    Err err = {0};
    Config c = {.vocab_size = 8 + draw(20),
                .hidden_size = 4 * (1 + draw(5)),
                .num_hidden_layers = 1 + draw(2),
                .num_attention_heads = 2,
                .intermediate_size = 3 + draw(9),
                .max_position_embeddings = 16,
                .max_relative_positions = 16,
                .position_buckets = 4,
                .layer_norm_eps = 1e-7,
                .initializer_range = 0.3};
    OK(config_set_labels(&c, NAMES, K, &err));
    return c;
}

static void write_weights(const char *dir, const Config *c, double scale) {
    Err err = {0};
    Params params;
    Arena arena = {0};
    params_layout(&params, &arena, c, true, NULL);
    const size_t bytes = arena.used;
    arena = (Arena){0};
    OK(arena_init(&arena, bytes, "the weights", &err));
    params_layout(&params, &arena, c, true, NULL);
    weights_init(&params, c, draw64(1u << 30));
    fill(params.head_w, (size_t)c->num_labels * (size_t)c->hidden_size, scale);
    fill(params.head_b, (size_t)c->num_labels, scale);
    OK(weights_save(path_of("%s/model.safetensors", dir), &params, c, &err));
    arena_free(&arena);
}

static DecideRule draw_rule(int K) {
    Err err = {0};
    DecideRule rule;
    OK(decide_alloc(&rule, K, &err));
    if (draw(4)) rule.temperature = (float)between(0.3, 6);
    rule.vector = draw(2);
    rule.score = (DecideScore)draw(DECIDE_SCORES);
    rule.per_class = rule.score != DECIDE_ALWAYS && draw(2);
    if (rule.score != DECIDE_ALWAYS && draw(2)) rule.fallback = draw(K);
    const float common = (float)between(0.1, 0.9);
    for (int k = 0; k < K; k++) {
        if (rule.vector) {
            rule.scale[k] = (float)between(0.5, 2);
            rule.bias[k] = (float)between(-2, 2);
        }
        if (rule.score != DECIDE_ALWAYS) rule.threshold[k] = rule.per_class ? (float)between(0, 1) : common;
    }
    return rule;
}

/* A path that stays. */
typedef struct {
    char path[256];
} Dir;

static Dir dir_of(const char *name) {
    Dir dir;
    (void)snprintf(dir.path, sizeof dir.path, "%s/%s", folder, name);
    return dir;
}

/* Writes a folder of labels; config.json has keys of its own, and a decision rule where one is given. */
static void write_parent(const char *dir, const Config *c, const DecideRule *rule, double scale) {
    Err err = {0};
    cJSON *root;
    OK(file_mkdirs(dir, &err));
    write_weights(dir, c, scale);
    OK(config_json(&root, c, &err));
    cJSON_AddStringToObject(root, "_name_or_path", "a \"model\"");
    cJSON_AddNumberToObject(root, "router_max_length", draw(500));
    cJSON_AddBoolToObject(root, "router_plain_text", draw(2));
    cJSON_AddItemToObject(root, "router_calibration", cJSON_CreateIntArray((int[]){1, draw(100)}, 2));
    if (rule) {
        OK(decide_json_write(root, rule, (const char *const *)c->labels, c->num_labels, &err));
        cJSON *decision = cJSON_GetObjectItem(root, "router_decision");
        if (decision) {
            cJSON_AddStringToObject(decision, "policy", "cost=costs.json");
            cJSON_AddItemToObject(decision, "cost", cJSON_Parse("{\"abstain\": 0.25}"));
        }
    }
    OK(json_save(path_of("%s/config.json", dir), root, &err));
    cJSON_Delete(root);
    const char text[] = "not read here";
    OK(file_save(path_of("%s/spm.model", dir), text, sizeof text, &err));
    OK(file_save(path_of("%s/added_tokens.json", dir), "{}", 2, &err));
    OK(file_save(path_of("%s/optimizer.safetensors", dir), text, sizeof text, &err));
}

/* ---- a folder, read ---- */

typedef struct {
    Config config;
    float *w, *b;
    DecideRule rule;
    cJSON *root;
} Model;

static void model_open(Model *m, const char *dir) {
    Err err = {0};
    OK(grow_head_read(&m->config, &m->w, &m->b, dir, &err));
    OK(json_read(&m->root, path_of("%s/config.json", dir), &err));
    OK(decide_json_read(&m->rule, m->root, (const char *const *)m->config.labels, m->config.num_labels,
                        &err));
}

static void model_close(Model *m) {
    config_free(&m->config);
    mem_free(m->w);
    mem_free(m->b);
    decide_free(&m->rule);
    cJSON_Delete(m->root);
}

static bool retired(const Config *c, int k) {
    return c->taxonomy.count && c->taxonomy.labels[k].retired;
}

/* All tensors but the classifier's, bit for bit. */
static void compare_tensors(const char *parent, const char *child) {
    Err err = {0};
    Safetensors a, b;
    int same = 0;
    OK(safetensors_open(&a, path_of("%s/model.safetensors", parent), &err));
    OK(safetensors_open(&b, path_of("%s/model.safetensors", child), &err));
    assert_int_equal(a.header.count, b.header.count);
    for (size_t i = 0; i < a.header.count; i++) {
        const SafetensorsEntry *x = &a.header.entries[i], *y = safetensors_find(&b.header, x->name);
        assert_non_null(y);
        if (strncmp(x->name, "classifier.", 11) == 0) continue;
        const size_t n = (size_t)(x->end - x->begin);
        assert_int_equal(n, y->end - y->begin);
        char *p = malloc(n), *q = malloc(n);
        OK(safetensors_read(&a, x, p, &err));
        OK(safetensors_read(&b, y, q, &err));
        assert_memory_equal(p, q, n);
        free(p);
        free(q);
        same++;
    }
    assert_true(same > 20);
    safetensors_close(&a);
    safetensors_close(&b);
}

/* ---- what a rule asks for ---- */

typedef struct {
    GrowRule rule;
    GrowLabel labels[MORE_MAX];
    GrowRename renames[2];
    const char *retired[2];
    int split, muted[2], renamed[2];
} Wish;

/* Of labels that are different ones; at least two stay. */
static void draw_wish(Wish *w, const Config *c) {
    static int serial;
    const int K = c->num_labels;
    *w = (Wish){.split = -1};
    w->rule = (GrowRule){.labels = w->labels, .renames = w->renames, .retired = w->retired};
    w->rule.label_count = 1 + draw(MORE_MAX);
    for (int i = 0; i < w->rule.label_count; i++)
        w->labels[i] = (GrowLabel){NAMES[K + i], draw(2) ? path_of("about %d", draw(1000)) : NULL};
    int order[LABELS_MAX], next = 0, active = 0;
    for (int k = 0; k < K; k++) {
        const int at = draw(k + 1);
        order[k] = k;
        order[k] = order[at];
        order[at] = k;
        active += !retired(c, k);
    }
    for (int i = draw(3); i > 0 && active > 2 && next < K; next++) {
        if (retired(c, order[next])) continue;
        w->muted[w->rule.retired_count] = order[next];
        w->retired[w->rule.retired_count++] = c->labels[order[next]];
        i--;
        active--;
    }
    for (int i = draw(3); i > 0 && next < K; i--, next++) {
        w->renamed[w->rule.rename_count] = order[next];
        w->renames[w->rule.rename_count++] =
            (GrowRename){c->labels[order[next]], path_of("new name %d", ++serial)};
    }
    if (draw(2)) w->split = order[draw(K)];
    for (size_t i = 0; w->split >= 0 && i < w->rule.retired_count; i++)
        if (w->muted[i] == w->split) w->split = -1; /* its row is then muted: of no use to start from */
    if (w->split >= 0 && retired(c, w->split)) w->split = -1;
    if (w->split >= 0) w->rule.split_from = c->labels[w->split];
}

/* The row of a muted label, computed apart: the mean over `from`, less the margin. One rounding of a sum of a few floats
 * that double holds to 2^-50. */
static void check_muted(const Model *child, const Model *parent, int k, const int *from, int count,
                        double margin) {
    const int H = child->config.hidden_size;
    for (int h = 0; h <= H; h++) {
        double sum = 0;
        for (int i = 0; i < count; i++)
            sum += h < H ? (double)parent->w[from[i] * H + h] : (double)parent->b[from[i]];
        const double expected = sum / count - (h < H ? 0 : margin),
                     found = h < H ? (double)child->w[k * H + h] : (double)child->b[k];
        assert_near(found, expected, fabs(expected) * (double)FLT_EPSILON + 1e-30);
    }
}

static void check_head(const Model *child, const Model *parent, const Wish *w) {
    const int K = parent->config.num_labels, H = parent->config.hidden_size;
    int active[LABELS_MAX], count = 0;
    const double margin = GROW_MARGIN_NEW * fmax(1, (double)parent->rule.temperature);
    for (int k = 0; k < K; k++)
        if (!retired(&child->config, k)) active[count++] = k;
    for (int k = 0; k < child->config.num_labels; k++) {
        if (k >= K) {
            check_muted(child, parent, k, w->split < 0 ? active : &w->split, w->split < 0 ? count : 1,
                        margin);
        } else if (retired(&child->config, k) && !retired(&parent->config, k)) {
            check_muted(child, parent, k, active, count, GROW_MARGIN_RETIRED);
        } else {
            assert_memory_equal(child->w + k * H, parent->w + k * H, (size_t)H * sizeof(float));
            assert_memory_equal(&child->b[k], &parent->b[k], sizeof(float));
        }
    }
}

static void logits_of(double *out, const Model *m, const float *x) {
    const int H = m->config.hidden_size;
    for (int k = 0; k < m->config.num_labels; k++) {
        double sum = (double)m->b[k];
        for (int h = 0; h < H; h++) sum += (double)m->w[k * H + h] * (double)x[h];
        out[k] = sum;
    }
}

/* Vectors of any size, in the head's direction too; and of those that a model makes (tanh-like), the decisions. */
static void check_answers(const Model *child, const Model *parent, bool as_sure) {
    const int K = parent->config.num_labels, H = parent->config.hidden_size;
    for (int i = 0; i < VECTORS; i++) {
        float x[32], before[LABELS_MAX], after[LABELS_MAX];
        double p[LABELS_MAX], was[LABELS_MAX], is[LABELS_MAX]; /* floats of 1e9 would not show the margin */
        const double size = i % 2 ? 1 : pow(10, between(-3, 9));
        fill(x, (size_t)H, size);
        if (draw(4) == 0) {
            const int k = draw(child->config.num_labels);
            for (int h = 0; h < H; h++) x[h] = (float)(size * (double)child->w[k * H + h]);
        }
        logits_of(was, parent, x);
        logits_of(is, child, x);
        int best = 0;
        for (int k = 0; k < child->config.num_labels; k++) best = is[k] > is[best] ? k : best;
        assert_true(best < K && !(retired(&child->config, best) && !retired(&parent->config, best)));
        if (size > 1)
            continue; /* scales of a calibration can undo any margin of logits that are large enough */
        for (int k = 0; k < K; k++) before[k] = (float)was[k];
        for (int k = 0; k < child->config.num_labels; k++) after[k] = (float)is[k];
        const DecideAnswer a = decide(p, before, K, &parent->rule),
                           b = decide(p, after, child->config.num_labels, &child->rule);
        if (retired(&child->config, a.label)) continue;
        assert_int_equal(a.label, b.label);
        if (as_sure && a.abstained != b.abstained)
            fail_msg("score %s: %.9g, then %.9g", decide_score_name(parent->rule.score), (double)a.score,
                     (double)b.score);
    }
}

static void check_rule(const Model *child, const Model *parent) {
    const DecideRule *a = &parent->rule, *b = &child->rule;
    const int K = parent->config.num_labels, more = child->config.num_labels;
    float least = 0, greatest = -FLT_MAX;
    assert_true(a->temperature == b->temperature && a->vector == b->vector && a->score == b->score);
    assert_true(a->per_class == b->per_class && a->fallback == b->fallback);
    for (int k = 0; k < K; k++) {
        assert_true(a->scale[k] == b->scale[k] && a->bias[k] == b->bias[k]);
        if (a->score == DECIDE_ENTROPY) /* 1 - t is the entropy in units of ln K; rounded to float */
            assert_near((1 - (double)b->threshold[k]) * log(more), (1 - (double)a->threshold[k]) * log(K),
                        1e-6);
        else
            assert_true(a->threshold[k] == b->threshold[k]);
        least = fminf(least, b->bias[k]);
        greatest = fmaxf(greatest, b->threshold[k]);
    }
    for (int k = K; k < more; k++)
        assert_true(b->scale[k] == 1 && b->bias[k] == least && b->threshold[k] == greatest);
}

/* What others have put into config.json is there still. */
static void check_keys(const Model *child, const Model *parent) {
    static const char *const OURS[] = {"id2label",        "label2id",           "num_labels",
                                       "router_taxonomy", "router_temperature", "router_scale",
                                       "router_bias",     "router_decision"};
    cJSON *a = cJSON_Duplicate(parent->root, true), *b = cJSON_Duplicate(child->root, true);
    const cJSON *before = cJSON_GetObjectItem(a, "router_decision"),
                *after = cJSON_GetObjectItem(b, "router_decision");
    assert_true(!before == !after);
    for (int i = 0; before && i < 2; i++)
        assert_true(cJSON_Compare(cJSON_GetObjectItem(before, i ? "cost" : "policy"),
                                  cJSON_GetObjectItem(after, i ? "cost" : "policy"), true));
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++) {
        cJSON_DeleteItemFromObject(a, OURS[i]);
        cJSON_DeleteItemFromObject(b, OURS[i]);
    }
    if (!cJSON_Compare(a, b, true)) fail_msg("%s, then %s", cJSON_Print(a), cJSON_Print(b));
    assert_non_null(cJSON_GetObjectItem(b, "router_calibration"));
    cJSON_Delete(a);
    cJSON_Delete(b);
}

static void check_labels(const Model *child, const Model *parent, const Wish *w, const char *digest) {
    const Config *a = &parent->config, *b = &child->config;
    const Taxonomy *t = &b->taxonomy;
    const int revision = a->taxonomy.count ? a->taxonomy.revision : 1;
    assert_int_equal(b->num_labels, a->num_labels + w->rule.label_count);
    assert_int_equal(t->count, b->num_labels);
    assert_int_equal(t->revision, revision + 1);
    assert_string_equal(t->parent, digest);
    for (int k = 0; k < a->num_labels; k++) {
        const char *name = a->labels[k];
        bool gone = retired(a, k);
        for (size_t i = 0; i < w->rule.rename_count; i++)
            if (w->renamed[i] == k) name = w->renames[i].new;
        for (size_t i = 0; i < w->rule.retired_count; i++) gone |= w->muted[i] == k;
        assert_string_equal(b->labels[k], name);
        assert_int_equal(t->labels[k].retired, gone);
        assert_true(name == a->labels[k] || taxonomy_was(&t->labels[k], a->labels[k]));
        assert_int_equal(t->labels[k].since, a->taxonomy.count ? a->taxonomy.labels[k].since : 1);
    }
    for (int i = 0; i < w->rule.label_count; i++) {
        const int k = a->num_labels + i;
        const char *description = t->labels[k].description;
        assert_string_equal(b->labels[k], w->labels[i].name);
        assert_true(!description == !w->labels[i].description);
        if (description) assert_string_equal(description, w->labels[i].description);
        assert_true(!t->labels[k].retired && t->labels[k].since == revision + 1);
    }
}

static void check_files(const char *dir) {
    static const char *const EXPECTED[] = {"added_tokens.json", "config.json", "model.safetensors",
                                           "spm.model"};
    Err err = {0};
    char **names;
    size_t count;
    OK(file_list(&names, &count, dir, &err));
    assert_int_equal(count, 4);
    for (size_t i = 0; i < count; i++) assert_string_equal(names[i], EXPECTED[i]);
    file_list_free(names, count);
}

/* Some parents have a past: their own first labels were fewer, one is retired. */
static void test_grows(void **state) {
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        Err err = {0};
        Wish wish;
        Model parent, child;
        char digest[65];
        const int K = 2 + draw(4);
        Config c = draw_config(K);
        DecideRule rule = draw_rule(K);
        Dir from = dir_of(path_of("parent%d", round)), to = dir_of(path_of("child%d", round));
        write_parent(from.path, &c, draw(5) ? &rule : NULL, draw(3) ? between(0.3, 1) : between(0.01, 0.1));
        for (int past = draw(3); past >= 0; past--) {
            model_open(&parent, from.path);
            if (parent.config.num_labels + MORE_MAX > LABELS_MAX) {
                model_close(&parent);
                break;
            }
            draw_wish(&wish, &parent.config);
            OK(weights_digest(digest, from.path, &err));
            OK(grow_folder(to.path, from.path, &wish.rule, &err));
            model_open(&child, to.path);
            compare_tensors(from.path, to.path);
            check_head(&child, &parent, &wish);
            check_labels(&child, &parent, &wish, digest);
            check_rule(&child, &parent);
            check_keys(&child, &parent);
            check_answers(&child, &parent, wish.rule.retired_count == 0);
            check_files(to.path);
            assert_false(file_exists(path_of("%s.tmp", to.path)));
            model_close(&parent);
            model_close(&child);
            from = to;
            to = dir_of(path_of("child%d.%d", round, past));
        }
        config_free(&c);
        decide_free(&rule);
    }
}

/* ---- the parts by themselves ---- */

/* grow_mute leaves the other rows alone, and takes the rows that it is told. */
static void test_mute(void **state) {
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const int H = 1 + draw(40), K = 3 + draw(5), k = draw(K), count = 1 + draw(K - 1);
        float *w = malloc((size_t)(K * H) * sizeof *w), b[8], *w0 = malloc((size_t)(K * H) * sizeof *w),
              b0[8];
        int rows[8];
        fill(w, (size_t)(K * H), pow(10, between(-3, 3)));
        fill(b, (size_t)K, 5);
        memcpy(w0, w, (size_t)(K * H) * sizeof *w);
        memcpy(b0, b, sizeof b);
        for (int i = 0; i < count; i++) rows[i] = (k + 1 + i) % K;
        const double margin = between(5, 60);
        grow_mute(w, b, H, k, rows, count, margin);
        for (int j = 0; j < K; j++) {
            if (j == k) continue;
            assert_memory_equal(w + j * H, w0 + j * H, (size_t)H * sizeof *w);
            assert_true(b[j] == b0[j]);
        }
        double bias = 0;
        for (int i = 0; i < count; i++) bias += (double)b0[rows[i]];
        assert_near((double)b[k], bias / count - margin, 1e-5);
        for (int i = 0; i < VECTORS; i++) {
            double mean = 0, own = (double)b[k];
            for (int h = 0; h < H; h++) {
                const double x = between(-100, 100);
                own += x * (double)w[k * H + h];
                for (int j = 0; j < count; j++) mean += x * (double)w0[rows[j] * H + h] / count;
            }
            mean += bias / count;
            assert_near(own, mean - margin,
                        1e-5 * (fabs(mean) + margin + 1e5)); /* floats of 1e3, times 1e2 */
        }
        free(w);
        free(w0);
    }
}

static void test_extends(void **state) {
    (void)state;
    for (int round = 0; round < 200; round++) {
        Err err = {0};
        const int K = 1 + draw(6), more = draw(4);
        DecideRule a = draw_rule(K), b;
        OK(decide_alloc(&b, K + more, &err));
        for (int k = 0; k < K + more; k++) b.scale[k] = b.bias[k] = b.threshold[k] = NAN;
        decide_extend(&b, &a, K, more);
        for (int i = 0; i < 20; i++) {
            float logits[12];
            double p[12];
            fill(logits, (size_t)K, 12);
            for (int k = K; k < K + more; k++) logits[k] = -1e4F;
            const DecideAnswer x = decide(p, logits, K, &a), y = decide(p, logits, K + more, &b);
            assert_int_equal(x.label, y.label);
            assert_true(K == 1 || x.abstained == y.abstained);
        }
        decide_free(&a);
        decide_free(&b);
    }
}

static void test_head(void **state) {
    (void)state;
    Err err = {0};
    Config c = draw_config(4), read;
    const size_t n = 4 * (size_t)c.hidden_size;
    float *w, *b, *again, *bias;
    const char *dir = in_folder("head"), *copy = in_folder("copy");
    write_parent(dir, &c, NULL, 0.5);
    OK(grow_copy(copy, dir, &err));
    OK(grow_copy(copy, dir, &err)); /* in the place of the first */
    OK(grow_head_read(&read, &w, &b, copy, &err));
    assert_int_equal(read.num_labels, 4);
    config_free(&read);
    fill(w, n, 3);
    fill(b, 4, 3);
    OK(grow_head_write(copy, w, b, &err));
    OK(grow_head_read(&read, &again, &bias, copy, &err));
    assert_memory_equal(again, w, n * sizeof *w);
    assert_memory_equal(bias, b, 4 * sizeof *b);
    compare_tensors(dir, copy);
    Buf x = {0}, y = {0};
    read_file(&x, path_of("%s/config.json", dir));
    read_file(&y, path_of("%s/config.json", copy));
    assert_string_equal(x.data, y.data);
    read_file(&x, path_of("%s/optimizer.safetensors", dir));
    read_file(&y, path_of("%s/optimizer.safetensors", copy));
    assert_int_equal(x.len, y.len);
    buf_free(&x);
    buf_free(&y);
    config_free(&read);
    mem_free(w);
    mem_free(b);
    mem_free(again);
    mem_free(bias);
    config_free(&c);
}

/* ---- refusals ---- */

/* The message, and that nothing is at `to` or beside it. */
static void refused(const char *from, const GrowRule *rule, const char *expected) {
    Err err = {0};
    const char *to = in_folder("refused");
    assert_int_equal(grow_folder(to, from, rule, &err), ERR_ARGUMENT);
    assert_says(&err, expected);
    assert_false(file_exists(to) || file_exists(path_of("%s.tmp", to)));
}

static void test_refusals(void **state) {
    (void)state;
    Err err = {0};
    Config c = draw_config(3); /* math, coding, other */
    const Dir dirs[2] = {dir_of("plain"), dir_of("past")};
    const char *dir = dirs[0].path, *past = dirs[1].path;
    const GrowLabel law = {"law", NULL};
    write_parent(dir, &c, NULL, 0.5);
    OK(grow_folder(past, dir,
                   &(GrowRule){.labels = &law,
                               .label_count = 1,
                               .renames = &(GrowRename){"math", "maths"},
                               .rename_count = 1,
                               .retired = ARGS("coding"),
                               .retired_count = 1},
                   &err));
    refused(dir, &(GrowRule){.labels = &(GrowLabel){"other", NULL}, .label_count = 1},
            "there is a label 'other' already (id 2)");
    refused(dir, &(GrowRule){.labels = (GrowLabel[]){law, law}, .label_count = 2},
            "there is a label 'law' already (id 3)");
    refused(past, &(GrowRule){.labels = &(GrowLabel){"math", NULL}, .label_count = 1},
            "'math' is what the label 'maths' was called before: an old name does not come back with another "
            "meaning");
    refused(past, &(GrowRule){.labels = &(GrowLabel){"coding", NULL}, .label_count = 1},
            "there is a label 'coding' already (id 1)");
    refused(dir, &(GrowRule){.labels = &law, .label_count = 1, .split_from = "otter"},
            "split-from: 'otter' is none of the 3 labels; did you mean 'other'?");
    refused(past, &(GrowRule){.labels = &(GrowLabel){"x", NULL}, .label_count = 1, .split_from = "coding"},
            "split-from: the label 'coding' is retired");
    refused(past, &(GrowRule){.labels = &(GrowLabel){"x", NULL}, .label_count = 1, .split_from = "math"},
            "split-from: the label 'math' is called 'maths' today");
    refused(dir, &(GrowRule){.retired = ARGS("coding", "math"), .retired_count = 2},
            "the label 'math' cannot be retired: 2 labels are active, and a router needs 2");
    refused(dir, &(GrowRule){.retired = ARGS("coding", "coding"), .retired_count = 2},
            "the label 'coding' is retired already");
    refused(dir, &(GrowRule){.retired = ARGS("zzzzzzzz"), .retired_count = 1},
            "retire: 'zzzzzzzz' is none of the 3 labels");
    refused(dir, &(GrowRule){.renames = &(GrowRename){"zzzzzzzz", "x"}, .rename_count = 1},
            "rename: 'zzzzzzzz' is none of the 3 labels");
    refused(dir, &(GrowRule){.renames = &(GrowRename){"math", "other"}, .rename_count = 1},
            "there is a label 'other' already (id 2)");
    config_free(&c);
}

/* Folders that are no trained classifier. */
static void test_wrong_folders(void **state) {
    (void)state;
    Err err = {0};
    const GrowRule rule = {.labels = &(GrowLabel){"law", NULL}, .label_count = 1};
    assert_int_equal(grow_folder(in_folder("refused"), in_folder("nowhere"), &rule, &err), ERR_IO);
    assert_says(&err, "nowhere: cannot open: No such file or directory");
    Config c = draw_config(3);
    write_parent(in_folder("encoder"), &c, NULL, 0.5);
    OK(file_remove_dir(in_folder("encoder/model.safetensors"), &err));
    assert_int_equal(grow_folder(in_folder("refused"), in_folder("encoder"), &rule, &err), ERR_IO);
    assert_false(file_exists(in_folder("refused")) || file_exists(in_folder("refused.tmp")));
    Config one = draw_config(1);
    write_parent(in_folder("one"), &one, NULL, 0.5);
    assert_int_equal(grow_folder(in_folder("refused"), in_folder("one"), &rule, &err), ERR_ARGUMENT);
    assert_says(&err, "one: a model with 1 labels, expected a trained classifier");
    assert_int_equal(grow_copy(in_folder("refused"), in_folder("nowhere"), &err), ERR_IO);
    /* a copy that fails half way */
    OK(file_mkdirs(in_folder("plain2/a.folder"), &err));
    OK(file_save(in_folder("plain2/a"), "x", 1, &err));
    assert_int_equal(grow_copy(in_folder("refused"), in_folder("plain2"), &err), ERR_IO);
    assert_false(file_exists(in_folder("refused")) || file_exists(in_folder("refused.tmp")));
    config_free(&one);
    config_free(&c);
}

static ErrCode read_head(const char *dir) {
    Config config;
    float *w, *b;
    TRY(grow_head_read(&config, &w, &b, dir, NULL));
    config_free(&config);
    mem_free(w);
    mem_free(b);
    return ERR_OK;
}

/* grow_folder, and that a failure leaves no half of a folder: one that is there was finished before something failed. */
static ErrCode grow_or_nothing(const char *dir, const GrowRule *rule) {
    const char *to = in_folder("short");
    const ErrCode rc = grow_folder(to, dir, rule, NULL);
    mem_fail_at(0);
    if (file_exists(to)) check_files(to);
    assert_int_equal(file_remove_dir(to, NULL), ERR_OK);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    Err err = {0};
    Config c = draw_config(4);
    DecideRule rule = draw_rule(4);
    const Dir made = dir_of("memory");
    const char *dir = made.path;
    float w[4 * 32], b[4];
    const GrowRule wish = {.labels = &(GrowLabel){"law", "statutes"},
                           .label_count = 1,
                           .split_from = "other",
                           .renames = &(GrowRename){"math", "maths"},
                           .rename_count = 1,
                           .retired = ARGS("coding"),
                           .retired_count = 1};
    write_parent(dir, &c, &rule, 0.5);
    EACH_ALLOCATION_FAILS(3000, grow_or_nothing(dir, &wish));
    EACH_ALLOCATION_FAILS(1000, read_head(dir));
    EACH_ALLOCATION_FAILS(1000, grow_copy(in_folder("short2"), dir, NULL));
    fill(w, sizeof w / sizeof *w, 1);
    fill(b, 4, 1);
    EACH_ALLOCATION_FAILS(1000, grow_head_write(dir, w, b, NULL));
    OK(grow_folder(in_folder("short"), dir, &wish, &err));
    assert_false(file_exists(in_folder("short.tmp")) || file_exists(in_folder("short2.tmp")));
    config_free(&c);
    decide_free(&rule);
}

int main(void) {
    seed_open();
    if (!folder_open("/dev/shm") && !folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows),  cmocka_unit_test(test_mute),     cmocka_unit_test(test_extends),
        cmocka_unit_test(test_head),   cmocka_unit_test(test_refusals), cmocka_unit_test(test_wrong_folders),
        cmocka_unit_test(test_memory),
    };
    return folder_close(cmocka_run_group_tests_name("grow", tests, NULL, NULL));
}
