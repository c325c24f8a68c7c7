/* eval/add_calibrate.h - the temperature and thresholds of a router with more domains, by its parent's policy. */
#ifndef EVAL_ADD_CALIBRATE_H
#define EVAL_ADD_CALIBRATE_H

#include "eval/add_job.h"

/* Before training: ERR_ARGUMENT or ERR_FORMAT where the policy does not fit the child's labels. */
ErrCode add_calibrate_check(AddJob *a, Err *err) ERR_CHECKED;

/* On the calibration split of the run; without such rows the child's probabilities stay as they are. ERR_GATE: the policy
 * cannot be kept. */
ErrCode add_calibrate_run(AddJob *a, Err *err) ERR_CHECKED;

#endif
