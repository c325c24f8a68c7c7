/* eval/calibrate.h - makes probabilities mean what they say: a temperature, and where that is not enough a scale and a
 * bias for each class, fitted to logits of labelled rows that training did not see.
 *
 *   temperature   minimises the NLL of softmax(l / T) (Guo et al. 2017). With b = 1 / T the NLL is convex and its slope
 *                 b -> mean(sum_k p_k l_k - l_label) rises: Newton's steps inside a bracket that bisection narrows. T stays
 *                 within CALIBRATE_T_MIN .. CALIBRATE_T_MAX: rows that are all right would ask for 0, rows that are no
 *                 better than chance for infinity
 *   vector        z_k = l_k / T * scale_k + bias_k, T from before: minimises
 *                 sum of -ln p_label + CALIBRATE_PENALTY / 2 * sum_k ((scale_k - 1)^2 + bias_k^2)
 *                 by L-BFGS. The penalty (a prior with a spread of 1/2 around the temperature alone) makes the minimum
 *                 unique and few rows careful. Scales stay above 0
 *
 * What is taken is judged on rows that the fit did not see: CALIBRATE_FOLDS folds of the same rows, each predicted by a fit
 * on the others.
 *   vector        if its NLL is lower than the temperature's by more than noise: mean difference a row > 1.96 standard
 *                 errors; and its ECE is not above that of the logits as they are
 *   temperature   else, if its NLL is below that of the logits as they are, and its ECE not above theirs
 *   nothing       else: T = 1
 *
 * Everything is in double precision, sequential, and a function of (logits, labels, seed). */
#ifndef EVAL_CALIBRATE_H
#define EVAL_CALIBRATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "export/decide.h"

#define CALIBRATE_T_MIN   0.05
#define CALIBRATE_T_MAX   20.0
#define CALIBRATE_PENALTY 4.0
#define CALIBRATE_FOLDS   5 /* as many as there are rows, if they are fewer */

/* logits (n, K), labels (n); the fitted T. ERR_ARGUMENT: n = 0; ERR_NUMERIC: a logit that is not finite. */
ErrCode calibrate_temperature(double *temperature, const float *logits, const int *labels, size_t n, int K,
                              Err *err) ERR_CHECKED;

/* scale (K) and bias (K) beside that temperature. */
ErrCode calibrate_vector(double *scale, double *bias, const float *logits, const int *labels, size_t n, int K,
                         double temperature, Err *err) ERR_CHECKED;

typedef enum { CALIBRATE_NOTHING, CALIBRATE_TEMPERATURE, CALIBRATE_VECTOR, CALIBRATE_KINDS } CalibrateKind;

typedef struct {
    CalibrateKind kind;
    int folds;
    double temperature; /* fitted on all rows, even where it is not taken */
    bool vector_tried;
    double nll[CALIBRATE_KINDS], ece[CALIBRATE_KINDS]; /* on the rows held out */
    double gain, gain_error; /* of the vector over the temperature: nats a row, and the standard error */
} Calibration;

/* Fits `rule` (allocated; its temperature, vector, scale and bias are set, its thresholds are not touched). `vector`: try
 * it. held_out (n, K): probabilities of each row, from the kind that was taken, fitted without the row's fold; they and
 * the rule's float32 numbers are as the router would answer. ERR_ARGUMENT: n = 0. */
ErrCode calibrate_fit(Calibration *out, DecideRule *rule, double *held_out, const float *logits,
                      const int *labels, size_t n, int K, bool vector, uint64_t seed, Err *err) ERR_CHECKED;

const char *calibrate_kind_name(CalibrateKind kind); /* "none", "temperature", "vector" */

#endif
