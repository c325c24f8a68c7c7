/* data/import_cmd.h - `router data import`: public data sets as they are published to rows of JSONL. */
#ifndef DATA_IMPORT_CMD_H
#define DATA_IMPORT_CMD_H

#include "core/flags.h"

extern const Command import_cmd;

#endif
