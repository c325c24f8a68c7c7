/* train/train_cmd.h - `router train`. */
#ifndef TRAIN_TRAIN_CMD_H
#define TRAIN_TRAIN_CMD_H

#include "core/flags.h"

extern const Command train_cmd;

#endif
