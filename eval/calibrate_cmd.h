/* eval/calibrate_cmd.h - the subcommand `router calibrate`. */
#ifndef EVAL_CALIBRATE_CMD_H
#define EVAL_CALIBRATE_CMD_H

#include "core/flags.h"

extern const Command calibrate_cmd;

#endif
