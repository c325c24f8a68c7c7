#include "train/schedule.h"

#include <math.h>
#include <string.h>

double schedule_factor(ScheduleType type, int64_t step, int64_t warmup, int64_t total) {
    if (step < warmup) return (double)step / (double)warmup;
    if (type == SCHEDULE_CONSTANT || total <= warmup) return 1;
    const double done = (double)(step - warmup) / (double)(total - warmup);
    if (done >= 1) return 0;
    return type == SCHEDULE_LINEAR ? 1 - done : 0.5 * (1 + cos(3.14159265358979323846 * done));
}

ScheduleType schedule_find(const char *name) {
    if (strcmp(name, "cosine") == 0) return SCHEDULE_COSINE;
    return strcmp(name, "constant") == 0 ? SCHEDULE_CONSTANT : SCHEDULE_LINEAR;
}
