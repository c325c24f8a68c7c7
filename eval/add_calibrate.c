#include "eval/add_calibrate.h"

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"

enum { CALIBRATED_MIN = 5 }; /* rows of each label */

/* The parent's policy, as its config.json has it. Borrows from the tree. */
static CalibrateModelRule parent_policy(const cJSON *root, const AddJob *a) {
    const cJSON *decision = cJSON_GetObjectItemCaseSensitive(root, "router_decision");
    const cJSON *policy = cJSON_GetObjectItemCaseSensitive(decision, "policy");
    const DecideRule *rule = predict_rule(a->parent);
    CalibrateModelRule out = {.score = DECIDE_MAX_PROBABILITY, .vector = true, .seed = (uint64_t)a->o->seed};
    if (rule->score == DECIDE_ALWAYS || !cJSON_IsString(policy)) return out;
    out.policy = policy->valuestring;
    out.cost = cJSON_GetObjectItemCaseSensitive(decision, "cost");
    out.score = rule->score;
    out.per_class = rule->per_class;
    out.fallback = rule->fallback < 0 ? NULL : a->child_labels[rule->fallback];
    return out;
}

/* Before training: a policy that does not fit the child's labels. */
ErrCode add_calibrate_check(AddJob *a, Err *err) {
    Policy policy = {0};
    char *path = file_join(predict_path(a->parent), "config.json");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory for a path");
    ErrCode rc = json_read(&a->parent_tree, path, err);
    const CalibrateModelRule rule = parent_policy(a->parent_tree, a);
    if (rc == ERR_OK && rule.fallback && a->retired[predict_rule(a->parent)->fallback])
        rc = err_set(err, ERR_ARGUMENT, "retire: '%.100s' is the fallback of the parent's decisions (%s)",
                     rule.fallback, path);
    if (rc == ERR_OK && rule.cost) {
        cJSON *tree = cJSON_Duplicate(rule.cost, true);
        rc = tree ? policy_costs(&policy, tree, a->child_labels, a->K, err)
                  : err_set(err, ERR_MEMORY, "out of memory for the costs");
        if (rc != ERR_OK)
            rc = err_context(err, rc,
                             "%s: the costs that the parent was calibrated by are not of the child's labels",
                             path);
    }
    policy_free(&policy);
    mem_free(path);
    return rc;
}

/* A label that no row of the calibration split has would lose its bias to the others. */
static bool all_labels_occur(const AddJob *a, const Rows *rows) {
    for (int k = 0; k < a->K; k++) {
        size_t n = 0;
        for (size_t i = 0; i < rows->count; i++) n += rows->items[i].label == k;
        if (a->active[k] && n < CALIBRATED_MIN) return false;
    }
    return true;
}

/* On the calibration split; without such rows the child's probabilities stay as they are. */
ErrCode add_calibrate_run(AddJob *a, Err *err) {
    Rows fitted = {0};
    const PredictRule open = {.backend = a->o->backend};
    TRY(predict_open(&a->raw, a->o->out, &open, a->threads, err));
    const char *shard = predict_shard(a->raw);
    ErrCode rc = rows_read_shard(&fitted, shard, SPLIT_CALIBRATION, false, a->child_labels, a->K, err);
    if (rc == ERR_OK && fitted.count) {
        const Rows *rows[CALIBRATE_SETS] = {&fitted};
        const char *names[CALIBRATE_SETS] = {"data.shard (calibration)", "", ""};
        CalibrateModelRule rule = parent_policy(a->parent_tree, a);
        rule.vector = all_labels_occur(a, &fitted);
        rc = calibrate_model_fit(&a->calibration, a->raw, rows, names, &rule, a->threads, err);
        a->calibrated = rc == ERR_OK;
        if (rc == ERR_OK) rc = calibrate_model_save_folder(&a->calibration, predict_path(a->raw), err);
    } else if (rc == ERR_OK) {
        progress_note(NULL, "no rows to calibrate on");
    }
    rows_free(&fitted);
    return rc;
}
