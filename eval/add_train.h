/* eval/add_train.h - `router train` as `router add-domain` needs it: on its rows, from its start, by the parent's recipe and
 * held to the parent's answers. */
#ifndef EVAL_ADD_TRAIN_H
#define EVAL_ADD_TRAIN_H

#include "eval/add_job.h"

/* Trains, or goes on; with --head-only the start becomes model-best as it is. */
ErrCode add_train_run(const AddJob *a, Err *err) ERR_CHECKED;

#endif
