/* eval/add_domain_cmd.h - `router add-domain`. */
#ifndef EVAL_ADD_DOMAIN_CMD_H
#define EVAL_ADD_DOMAIN_CMD_H

#include "core/flags.h"

extern const Command add_domain_cmd;

#endif
