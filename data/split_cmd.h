/* data/split_cmd.h - router data split: rows into train, dev, calibration and test. */
#ifndef DATA_SPLIT_CMD_H
#define DATA_SPLIT_CMD_H

#include "core/flags.h"

extern const Command split_cmd;

#endif
