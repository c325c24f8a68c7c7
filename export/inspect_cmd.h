/* export/inspect_cmd.h - `router inspect`: what a blob says about itself. */
#ifndef EXPORT_INSPECT_CMD_H
#define EXPORT_INSPECT_CMD_H

#include "core/flags.h"

extern const Command inspect_cmd;

#endif
