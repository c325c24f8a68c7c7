/* data/augment_cmd.h - `router data augment`: noise variants of rows for training. */
#ifndef DATA_AUGMENT_CMD_H
#define DATA_AUGMENT_CMD_H

#include "core/flags.h"

extern const Command augment_cmd;

#endif
