/* eval/calibrate_model.h - calibrates a whole model: its logits of labelled rows, the fit of eval/calibrate.h, the
 * thresholds of eval/policy.h, what both do to rows that nothing was fitted on, and the result stored where the model is.
 *
 * A folder's fit is for its logits in fp32; a blob's, from the blob's own logits, for those in int8: each precision is
 * calibrated by itself. Fitting begins from the logits, so whatever calibration the model had before is replaced, and
 * doing it twice is doing it once.
 *
 * Stored are, in a folder's config.json or a blob's metadata, the rule (export/decide_json.h, export/blob.h) with
 *   router_decision.policy, .cost or          the policy as it was given, and its costs as JSON: what an export fits
 *   router.decision.policy, .cost             again
 *   router_calibration or router.calibration  {"set", "n", "precision", "method", "folds", "seed",
 *                                             "before": {"nll", "brier", "ece", "adaptive_ece"}, "after": {...}}
 *                                             measured on the rows that were fitted, each by a fit without it
 * Everything else in these files stays; they are replaced atomically. */
#ifndef EVAL_CALIBRATE_MODEL_H
#define EVAL_CALIBRATE_MODEL_H

#include "eval/calibrate.h"
#include "eval/policy.h"
#include "eval/predict.h"
#include "eval/scores.h"
#include "export/blob.h"

/* The sets of rows. */
enum { CALIBRATE_FITTED, CALIBRATE_TEST, CALIBRATE_OOD, CALIBRATE_SETS };

typedef struct {
    const char *name;
    size_t rows, n;              /* all; those with a label, which the rest is about */
    Metrics before, after;       /* n = 0: not measured; of CALIBRATE_FITTED, after is of rows held out */
    Scores right[DECIDE_SCORES]; /* right against wrong answers, by each score */
    PolicyOutcome outcome;       /* with a policy */
} CalibrateSet;

typedef struct {
    const char *model, *policy_text; /* borrowed; the latter NULL without a policy */
    bool blob;
    const char *const *labels;
    int K;
    uint64_t seed;
    Calibration fit;
    DecideRule rule;
    Policy policy;
    PolicyChoice *choices; /* (K, or 1) */
    CalibrateSet sets[CALIBRATE_SETS];
    Scores ood[DECIDE_SCORES],
        distance; /* rows of CALIBRATE_TEST, or else CALIBRATE_FITTED, against CALIBRATE_OOD */
    bool has_ood, has_distance;
    double shrinkage; /* of the distance's covariance */
} CalibrateModel;

typedef struct {
    const char *policy; /* "precision=0.98" ..., or NULL */
    const cJSON *cost;  /* not NULL: the costs of "cost=...", which is then not read from its file */
    DecideScore score;  /* what thresholds are compared with */
    bool per_class;
    const char *fallback; /* a label, or NULL */
    bool vector;          /* try it */
    uint64_t seed;        /* of folds and bootstrap */
} CalibrateModelRule;

/* rows[set]: labelled rows; of CALIBRATE_OOD labels may be missing (-1); NULL or empty where there are none, but of
 * CALIBRATE_FITTED. names[set]: what they are. Everything borrowed lives as long as *out. ERR_GATE: the policy cannot be
 * kept. */
ErrCode calibrate_model_fit(CalibrateModel *out, Predictor *p, const Rows *const rows[CALIBRATE_SETS],
                            const char *const names[CALIBRATE_SETS], const CalibrateModelRule *rule,
                            Threads *threads, Err *err) ERR_CHECKED;
void calibrate_model_free(CalibrateModel *m);

/* The policy that a blob's thresholds were chosen by, to choose them again. *cost (or NULL) is freed with cJSON_Delete; it
 * and the blob live as long as *out. */
ErrCode calibrate_model_rule(CalibrateModelRule *out, cJSON **cost, const Blob *blob, Err *err) ERR_CHECKED;

/* Into config.json of `folder`; into the blob at `from`, written to `to`, which may be the same. */
ErrCode calibrate_model_save_folder(const CalibrateModel *m, const char *folder, Err *err) ERR_CHECKED;
ErrCode calibrate_model_save_blob(const CalibrateModel *m, const char *from, const char *to,
                                  Err *err) ERR_CHECKED;

#endif
