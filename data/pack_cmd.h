/* data/pack_cmd.h - `router pack`: JSONL to a shard, with a summary. */
#ifndef DATA_PACK_CMD_H
#define DATA_PACK_CMD_H

#include "core/flags.h"

extern const Command pack_cmd;

#endif
