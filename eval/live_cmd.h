/* eval/live_cmd.h - the subcommand `router live`. */
#ifndef EVAL_LIVE_CMD_H
#define EVAL_LIVE_CMD_H

#include "core/flags.h"

extern const Command live_cmd;

#endif
