/* train/train_cmd.h - `router train`. Other commands that train run it with `out` NULL: then nothing is printed. */
#ifndef TRAIN_TRAIN_CMD_H
#define TRAIN_TRAIN_CMD_H

#include "core/flags.h"

extern const Command train_cmd;

/* Removes the models and event files of a run; what else is in its folder is written anew or used again. */
ErrCode train_cmd_remove(const char *dir, Err *err) ERR_CHECKED;

#endif
