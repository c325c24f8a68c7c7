/* eval/predict_cmd.h - the subcommand `router predict`. */
#ifndef EVAL_PREDICT_CMD_H
#define EVAL_PREDICT_CMD_H

#include "core/flags.h"

extern const Command predict_cmd;

#endif
