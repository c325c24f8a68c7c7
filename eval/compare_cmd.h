/* eval/compare_cmd.h - the subcommand `router compare`. */
#ifndef EVAL_COMPARE_CMD_H
#define EVAL_COMPARE_CMD_H

#include "core/flags.h"

extern const Command compare_cmd;

#endif
