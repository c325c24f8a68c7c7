/* eval/eval_cmd.h - the subcommand `router eval`. */
#ifndef EVAL_EVAL_CMD_H
#define EVAL_EVAL_CMD_H

#include "core/flags.h"

extern const Command eval_cmd;

#endif
