/* eval/add_start.h - what comes before training in `router add-domain`: the rows, the grown model, old rows that look like
 * a new domain, and the head that training starts from. */
#ifndef EVAL_ADD_START_H
#define EVAL_ADD_START_H

#include "eval/add_job.h"

/* All of it, into the run's folder; the folder `start` is the last that appears. ERR_GATE: an old prompt's answer changed
 * before anything was trained. */
ErrCode add_start_prepare(AddJob *a, Err *err) ERR_CHECKED;

/* The child's labels, from the configuration in a folder: for a run that goes on. */
ErrCode add_start_read(AddJob *a, const char *folder, Err *err) ERR_CHECKED;

/* What add_start_prepare found and left in prepared.json, into the report. */
ErrCode add_start_facts(AddJob *a, Err *err) ERR_CHECKED;

#endif
