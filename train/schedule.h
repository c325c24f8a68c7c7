/* train/schedule.h - the learning rate of a step, as Hugging Face's schedulers of the same names compute it.
 */
#ifndef TRAIN_SCHEDULE_H
#define TRAIN_SCHEDULE_H

#include <stdint.h>

#include "core/err.h"

typedef enum { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT } ScheduleType;

/* Factor in [0, 1] of step = 0 .. total-1: it rises linearly over `warmup` steps (step / warmup), then falls
 * linearly or along half a cosine to 0 at `total`, or stays at 1. */
double schedule_factor(ScheduleType type, int64_t step, int64_t warmup, int64_t total);

/* "linear", "cosine", "constant" (checked by the table of flags). */
ScheduleType schedule_find(const char *name);

#endif
