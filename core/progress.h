/* core/progress.h - what a person watches while work goes on; the only library file that prints, always to
 * stderr. On a terminal one line is redrawn; elsewhere plain lines appear now and then. NO_COLOR and --quiet
 * are honoured. */
#ifndef CORE_PROGRESS_H
#define CORE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

typedef struct {
    const char *what; /* "train", "pack" */
    uint64_t total;   /* units of `done`; 0 when unknown */
    bool terminal;
    double started, drawn; /* seconds */
    uint64_t start_done;   /* units already done when it began (a resumed run) */
} Progress;

/* Seconds on a clock that never goes back. */
double progress_clock(void);

void progress_quiet(bool quiet); /* for the whole program */

void progress_begin(Progress *p, const char *what, uint64_t total, uint64_t done);

/* Draws at most ten times a second on a terminal, every 10 s elsewhere; `text` (printf) goes behind the bar:
 * "loss 0.31 lr 1e-05 41.2 rows/s". Share done and ETA are added here. */
void progress_update(Progress *p, uint64_t done, const char *fmt, ...) ERR_PRINTF(3, 4);
bool progress_due(const Progress *p); /* whether progress_update would draw: skip making its text otherwise */

/* Clears the bar, so that a line can be printed; then one line of information. */
void progress_note(Progress *p, const char *fmt, ...) ERR_PRINTF(2, 3);
void progress_end(Progress *p);

#endif
