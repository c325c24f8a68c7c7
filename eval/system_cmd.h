/* eval/system_cmd.h - the subcommand `router system`. */
#ifndef EVAL_SYSTEM_CMD_H
#define EVAL_SYSTEM_CMD_H

#include "core/flags.h"

extern const Command system_cmd;

#endif
