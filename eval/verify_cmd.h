/* eval/verify_cmd.h - the subcommand `router verify`. */
#ifndef EVAL_VERIFY_CMD_H
#define EVAL_VERIFY_CMD_H

#include "core/flags.h"

extern const Command verify_cmd;

#endif
