/* eval/bench_cmd.h - `router bench`. */
#ifndef EVAL_BENCH_CMD_H
#define EVAL_BENCH_CMD_H

#include "core/flags.h"

extern const Command bench_cmd;

#endif
