#include "eval/calibrate_model.h"

#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"
#include "eval/distance.h"
#include "export/blob_rule.h"
#include "export/decide_json.h"

/* A set's answers. The labelled rows come first. */
typedef struct {
    size_t rows, n;
    RowText *texts;
    int *truth;     /* (rows); -1: none */
    float *logits;  /* (rows, K) */
    float *vectors; /* (rows, width), or NULL */
    double *p;      /* (rows, K) */
    int *said;      /* (rows) */
    float *score;   /* (rows) */
} Answers;

static void answers_free(Answers *a) {
    mem_free(a->texts);
    mem_free(a->truth);
    mem_free(a->logits);
    mem_free(a->vectors);
    mem_free(a->p);
    mem_free(a->said);
    mem_free(a->score);
    *a = (Answers){0};
}

static ErrCode answers_init(Answers *a, const Rows *rows, int K, int width, Err *err) {
    const size_t n = rows->count, classes = (size_t)K;
    a->rows = n;
    TRY(rows_views(&a->texts, &a->truth, rows, err));
    size_t labelled = 0;
    for (size_t i = 0; i < n; i++) {
        if (a->truth[i] < 0) continue;
        const RowText text = a->texts[i];
        const int truth = a->truth[i];
        a->texts[i] = a->texts[labelled];
        a->truth[i] = a->truth[labelled];
        a->texts[labelled] = text;
        a->truth[labelled++] = truth;
    }
    a->n = labelled;
    TRY(mem_new(&a->logits, n + 1, classes * sizeof *a->logits, "logits", err));
    TRY(mem_new(&a->p, n + 1, classes * sizeof *a->p, "probabilities", err));
    TRY(mem_new(&a->said, n + 1, sizeof *a->said, "answers", err));
    TRY(mem_new(&a->score, n + 1, sizeof *a->score, "scores", err));
    return width ? mem_new(&a->vectors, n + 1, (size_t)width * sizeof *a->vectors, "vectors", err) : ERR_OK;
}

/* Probabilities and labels by a rule, and the scores of a kind. */
static void answers_by(Answers *a, const DecideRule *rule, DecideScore score, int K) {
    for (size_t i = 0; i < a->rows; i++) {
        const float *logits = a->logits + i * (size_t)K;
        double *p = a->p + i * (size_t)K;
        a->said[i] = decide_probabilities(p, logits, K, rule);
        a->score[i] = decide_score(score, p, a->said[i], logits, K);
    }
}

/* ---- fitting ---- */

typedef struct {
    CalibrateModel *out;
    const CalibrateModelRule *rule;
    Threads *threads;
    Answers sets[CALIBRATE_SETS];
    double *held_out; /* (n, K) of CALIBRATE_FITTED */
} Fit;

static ErrCode find_fallback(DecideRule *rule, const char *name, const char *const *labels, int K, Err *err) {
    rule->fallback = -1;
    if (!name) return ERR_OK;
    for (int k = 0; k < K && rule->fallback < 0; k++)
        if (strcmp(labels[k], name) == 0) rule->fallback = k;
    if (rule->fallback >= 0) return ERR_OK;
    const char *near = text_nearest(name, labels, (size_t)K);
    return err_set(err, ERR_ARGUMENT, "fallback: '%.80s' is none of the router's labels%s%.80s%s", name,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static ErrCode read_policy(CalibrateModel *m, const CalibrateModelRule *rule, Err *err) {
    m->policy_text = rule->policy;
    if (!rule->policy) {
        if (rule->fallback)
            return err_set(err, ERR_ARGUMENT,
                           "fallback: without a policy nothing is left unanswered; give --policy");
        return ERR_OK;
    }
    if (rule->cost) {
        cJSON *tree = cJSON_Duplicate(rule->cost, true);
        if (!tree) return err_set(err, ERR_MEMORY, "out of memory for the costs");
        TRY(policy_costs(&m->policy, tree, m->labels, m->K, err));
    } else {
        TRY(policy_parse(&m->policy, rule->policy, m->labels, m->K, err));
    }
    m->policy.score = rule->score;
    m->policy.per_class = rule->per_class;
    return mem_new(&m->choices, rule->per_class ? (size_t)m->K : 1, sizeof *m->choices, "the thresholds",
                   err);
}

static PolicyRows policy_rows(const Answers *a, int K) {
    return (PolicyRows){a->truth, a->said, a->score, a->n, K};
}

static ErrCode measure(const Fit *f, Metrics *out, const Answers *a, const double *p, Err *err) {
    return metrics_compute(out, p, a->truth, a->n, f->out->K, 0, f->out->seed, f->threads, err);
}

/* Every score's view of right and wrong answers. a->p is by the fitted rule. */
static ErrCode measure_scores(Scores out[DECIDE_SCORES], const Answers *a, int K, Err *err) {
    double *score = NULL;
    bool *right = NULL;
    ErrCode rc = mem_new(&score, a->n, sizeof *score, "scores", err);
    if (rc == ERR_OK) rc = mem_new(&right, a->n, sizeof *right, "scores", err);
    for (int kind = DECIDE_MAX_PROBABILITY; rc == ERR_OK && kind < DECIDE_SCORES; kind++) {
        for (size_t i = 0; i < a->n; i++) {
            const size_t at = i * (size_t)K;
            score[i] = (double)decide_score((DecideScore)kind, a->p + at, a->said[i], a->logits + at, K);
            right[i] = a->said[i] == a->truth[i];
        }
        rc = scores_compute(&out[kind], score, right, a->n, err);
    }
    mem_free(score);
    mem_free(right);
    return rc;
}

static ErrCode measure_set(Fit *f, int which, Err *err) {
    static const DecideRule PLAIN = {.temperature = 1};
    CalibrateModel *m = f->out;
    CalibrateSet *set = &m->sets[which];
    Answers *a = &f->sets[which];
    set->rows = a->rows;
    set->n = a->n;
    if (a->n) {
        answers_by(a, &PLAIN, DECIDE_MAX_PROBABILITY, m->K);
        TRY(measure(f, &set->before, a, a->p, err));
    }
    answers_by(a, &m->rule, m->policy.score, m->K);
    if (a->n == 0) return ERR_OK;
    TRY(measure(f, &set->after, a, which == CALIBRATE_FITTED ? f->held_out : a->p, err));
    TRY(measure_scores(set->right, a, m->K, err));
    if (m->policy.kind == POLICY_NONE) return ERR_OK;
    const PolicyRows rows = policy_rows(a, m->K);
    if (which == CALIBRATE_FITTED) TRY(policy_choose(&m->rule, m->choices, &m->policy, &rows, err));
    set->outcome = policy_measure(&m->rule, &m->policy, &rows);
    return ERR_OK;
}

static ErrCode scores_of(double **out, const Answers *a, DecideScore kind, int K, Err *err) {
    TRY(mem_new(out, a->rows, sizeof **out, "scores", err));
    for (size_t i = 0; i < a->rows; i++) {
        const size_t at = i * (size_t)K;
        (*out)[i] = (double)decide_score(kind, a->p + at, a->said[i], a->logits + at, K);
    }
    return ERR_OK;
}

static ErrCode compare_scores(const Fit *f, const Answers *in, const Answers *ood, Err *err) {
    CalibrateModel *m = f->out;
    for (int kind = DECIDE_MAX_PROBABILITY; kind < DECIDE_SCORES; kind++) {
        double *good = NULL, *bad = NULL;
        ErrCode rc = scores_of(&good, in, (DecideScore)kind, m->K, err);
        if (rc == ERR_OK) rc = scores_of(&bad, ood, (DecideScore)kind, m->K, err);
        if (rc == ERR_OK) rc = scores_compare(&m->ood[kind], good, in->rows, bad, ood->rows, err);
        mem_free(good);
        mem_free(bad);
        TRY(rc);
    }
    m->has_ood = true;
    return ERR_OK;
}

/* Fitted on the calibration rows, so compared on others. */
static ErrCode compare_distance(const Fit *f, const Answers *in, const Answers *ood, int width, Err *err) {
    CalibrateModel *m = f->out;
    const Answers *fitted = &f->sets[CALIBRATE_FITTED];
    Distance d = {0};
    double *good = NULL, *bad = NULL;
    ErrCode rc = distance_fit(&d, fitted->vectors, fitted->truth, fitted->n, width, m->K, f->threads, err);
    if (rc == ERR_OK) rc = mem_new(&good, in->rows, sizeof *good, "distances", err);
    if (rc == ERR_OK) rc = mem_new(&bad, ood->rows, sizeof *bad, "distances", err);
    if (rc == ERR_OK) rc = distance_score(&d, good, in->vectors, in->rows, f->threads, err);
    if (rc == ERR_OK) rc = distance_score(&d, bad, ood->vectors, ood->rows, f->threads, err);
    if (rc == ERR_OK) rc = scores_compare(&m->distance, good, in->rows, bad, ood->rows, err);
    if (rc == ERR_OK) {
        m->has_distance = true;
        m->shrinkage = d.shrinkage;
    }
    mem_free(good);
    mem_free(bad);
    distance_free(&d);
    return rc;
}

static ErrCode answer_sets(Fit *f, Predictor *p, const Rows *const rows[CALIBRATE_SETS], Err *err) {
    static const char *const WHAT[CALIBRATE_SETS] = {"calibration rows", "test rows", "rows from elsewhere"};
    const bool ood = rows[CALIBRATE_OOD] && rows[CALIBRATE_OOD]->count;
    for (int s = 0; s < CALIBRATE_SETS; s++) {
        Answers *a = &f->sets[s];
        if (!rows[s] || rows[s]->count == 0) continue;
        TRY(answers_init(a, rows[s], f->out->K, ood ? predict_width(p) : 0, err));
        TRY(predict_all_logits(p, a->logits, a->vectors, NULL, a->texts, a->rows, WHAT[s], err));
    }
    return ERR_OK;
}

static ErrCode fit(Fit *f, Predictor *p, const Rows *const rows[CALIBRATE_SETS], Err *err) {
    CalibrateModel *m = f->out;
    Answers *fitted = &f->sets[CALIBRATE_FITTED];
    TRY(decide_alloc(&m->rule, m->K, err));
    TRY(find_fallback(&m->rule, f->rule->fallback, m->labels, m->K, err));
    TRY(read_policy(m, f->rule, err));
    TRY(answer_sets(f, p, rows, err));
    TRY(mem_new(&f->held_out, fitted->n + 1, (size_t)m->K * sizeof *f->held_out, "probabilities", err));
    TRY(calibrate_fit(&m->fit, &m->rule, f->held_out, fitted->logits, fitted->truth, fitted->n, m->K,
                      f->rule->vector, m->seed, err));
    for (int s = 0; s < CALIBRATE_SETS; s++)
        if (f->sets[s].rows) TRY(measure_set(f, s, err));
    const Answers *test = &f->sets[CALIBRATE_TEST], *ood = &f->sets[CALIBRATE_OOD];
    if (!ood->rows) return ERR_OK;
    TRY(compare_scores(f, test->rows ? test : fitted, ood, err));
    return test->rows ? compare_distance(f, test, ood, predict_width(p), err) : ERR_OK;
}

ErrCode calibrate_model_fit(CalibrateModel *out, Predictor *p, const Rows *const rows[CALIBRATE_SETS],
                            const char *const names[CALIBRATE_SETS], const CalibrateModelRule *rule,
                            Threads *threads, Err *err) {
    *out = (CalibrateModel){.model = predict_path(p),
                            .blob = predict_is_blob(p),
                            .labels = predict_labels(p),
                            .K = predict_classes(p),
                            .seed = rule->seed};
    for (int s = 0; s < CALIBRATE_SETS; s++) out->sets[s].name = names[s];
    Fit f = {.out = out, .rule = rule, .threads = threads};
    const ErrCode rc = fit(&f, p, rows, err);
    for (int s = 0; s < CALIBRATE_SETS; s++) answers_free(&f.sets[s]);
    mem_free(f.held_out);
    if (rc != ERR_OK) calibrate_model_free(out);
    return rc;
}

void calibrate_model_free(CalibrateModel *m) {
    for (int s = 0; s < CALIBRATE_SETS; s++) {
        metrics_free(&m->sets[s].before);
        metrics_free(&m->sets[s].after);
    }
    decide_free(&m->rule);
    policy_free(&m->policy);
    mem_free(m->choices);
    *m = (CalibrateModel){0};
}

ErrCode calibrate_model_rule(CalibrateModelRule *out, cJSON **cost, const Blob *blob, Err *err) {
    const DecideRule *rule = &blob->config.decide;
    *cost = NULL;
    *out = (CalibrateModelRule){.score = DECIDE_MAX_PROBABILITY, .vector = true};
    out->policy = blob_metadata(blob, "router.decision.policy");
    if (rule->score == DECIDE_ALWAYS || !out->policy) {
        out->policy = NULL; /* thresholds of unknown origin cannot be chosen again */
        return ERR_OK;
    }
    out->score = rule->score;
    out->per_class = rule->per_class;
    out->fallback = rule->fallback < 0 ? NULL : blob->labels[rule->fallback];
    const char *text = blob_metadata(blob, "router.decision.cost");
    if (text) TRY(json_parse(cost, text, strlen(text), err));
    out->cost = *cost;
    return ERR_OK;
}

/* ---- storing ---- */

static void put_measures(Buf *out, const char *key, const Metrics *m) {
    buf_printf(out, ", \"%s\": {\"nll\": %.10g, \"brier\": %.10g, \"ece\": %.10g, \"adaptive_ece\": %.10g}",
               key, m->nll.value, m->brier.value, m->ece.value, m->adaptive_ece.value);
}

static void put_record(Buf *out, const CalibrateModel *m) {
    const CalibrateSet *s = &m->sets[CALIBRATE_FITTED];
    buf_puts(out, "{\"set\": ");
    text_put_json(out, s->name, strlen(s->name));
    buf_printf(out, ", \"n\": %zu, \"precision\": \"%s\", \"method\": \"%s\", \"folds\": %d, \"seed\": %llu",
               s->n, m->blob ? "int8" : "fp32", calibrate_kind_name(m->fit.kind), m->fit.folds,
               (unsigned long long)m->seed);
    put_measures(out, "before", &s->before);
    put_measures(out, "after", &s->after);
    buf_puts(out, "}");
}

/* The record as a tree; free with cJSON_Delete. */
static ErrCode record_tree(cJSON **out, const CalibrateModel *m, Err *err) {
    Buf text = {0};
    put_record(&text, m);
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) rc = json_parse(out, text.data, text.len, err);
    buf_free(&text);
    return rc;
}

static ErrCode put_policy(cJSON *root, const CalibrateModel *m, Err *err) {
    cJSON *decision = cJSON_GetObjectItemCaseSensitive(root, "router_decision");
    if (m->policy.kind == POLICY_NONE) return ERR_OK;
    bool ok = cJSON_AddStringToObject(decision, "policy", m->policy_text) != NULL;
    if (ok && m->policy.tree) {
        cJSON *tree = cJSON_Duplicate(m->policy.tree, true);
        ok = tree && cJSON_AddItemToObject(decision, "cost", tree);
        if (!ok) cJSON_Delete(tree);
    }
    return ok ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for the policy");
}

static ErrCode change_config(cJSON *root, const CalibrateModel *m, Err *err) {
    cJSON *record;
    if (!cJSON_IsObject(root)) return err_set(err, ERR_FORMAT, "expected a JSON object");
    TRY(decide_json_write(root, &m->rule, m->labels, m->K, err));
    TRY(put_policy(root, m, err));
    TRY(record_tree(&record, m, err));
    cJSON_DeleteItemFromObjectCaseSensitive(root, "router_calibration");
    if (cJSON_AddItemToObject(root, "router_calibration", record)) return ERR_OK;
    cJSON_Delete(record);
    return err_set(err, ERR_MEMORY, "out of memory for config.json");
}

ErrCode calibrate_model_save_folder(const CalibrateModel *m, const char *folder, Err *err) {
    char *path = file_join(folder, "config.json");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    cJSON *root = NULL;
    ErrCode rc = json_read(&root, path, err);
    if (rc == ERR_OK) {
        rc = change_config(root, m, err);
        if (rc != ERR_OK) rc = err_context(err, rc, "%s", path);
    }
    if (rc == ERR_OK) rc = json_save(path, root, err);
    cJSON_Delete(root);
    mem_free(path);
    return rc;
}

ErrCode calibrate_model_save_blob(const CalibrateModel *m, const char *from, const char *to, Err *err) {
    Blob blob;
    Buf record = {0}, plain = {0}, packed = {0};
    TRY(blob_open(&blob, from, NULL, NULL, err));
    put_record(&record, m);
    char *cost = m->policy.tree ? cJSON_PrintUnformatted(m->policy.tree) : NULL;
    ErrCode rc = buf_ok(&record, err);
    if (rc == ERR_OK && m->policy.tree && !cost) rc = err_set(err, ERR_MEMORY, "out of memory for the costs");
    if (rc == ERR_OK) {
        const char *policy = m->policy.kind == POLICY_NONE ? NULL : m->policy_text;
        const SafetensorsPair more[] = {{"router.decision.policy", policy, 0},
                                        {"router.decision.cost", cost, 0},
                                        {"router.calibration", record.data, record.len}};
        rc = blob_rule_replace(&plain, &blob, &m->rule, more, sizeof more / sizeof *more, err);
    }
    if (rc == ERR_OK && blob.packed) rc = blob_pack(&packed, &plain, err);
    const Buf *file = blob.packed ? &packed : &plain;
    if (rc == ERR_OK) rc = file_save(to, file->data, file->len, err);
    cJSON_free(cost);
    buf_free(&record);
    buf_free(&plain);
    buf_free(&packed);
    blob_close(&blob);
    return rc;
}
