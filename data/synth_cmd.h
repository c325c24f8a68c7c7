/* data/synth_cmd.h - router data synth: synthetic prompts from any OpenAI-compatible endpoint. */
#ifndef DATA_SYNTH_CMD_H
#define DATA_SYNTH_CMD_H

#include "core/flags.h"

extern const Command synth_cmd;

#endif
