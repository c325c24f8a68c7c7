/* data/mix_cmd.h - router data mix: a manifest of sources to one corpus, with a report. */
#ifndef DATA_MIX_CMD_H
#define DATA_MIX_CMD_H

#include "core/flags.h"

extern const Command mix_cmd;

#endif
