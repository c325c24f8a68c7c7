/* data/fetch_cmd.h - `router fetch`: a file, a model or a data set from the network, checked. */
#ifndef DATA_FETCH_CMD_H
#define DATA_FETCH_CMD_H

#include "core/flags.h"

extern const Command fetch_cmd;

#endif
