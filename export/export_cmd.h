/* export/export_cmd.h - `router export`: a trained model to one quantised, checked file. */
#ifndef EXPORT_EXPORT_CMD_H
#define EXPORT_EXPORT_CMD_H

#include "core/flags.h"

extern const Command export_cmd;

#endif
