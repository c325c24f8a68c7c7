/* data/check_cmd.h - `router data check`: what is wrong with a corpus. */
#ifndef DATA_CHECK_CMD_H
#define DATA_CHECK_CMD_H

#include "core/flags.h"

extern const Command check_cmd;

#endif
