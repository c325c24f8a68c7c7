/* eval/export_cmd.h - `router export`: a trained model to one quantised, checked file, which is then calibrated on its
 * own logits; hence here, above export/ and beside eval/calibrate_model.h. */
#ifndef EVAL_EXPORT_CMD_H
#define EVAL_EXPORT_CMD_H

#include "core/flags.h"

extern const Command export_cmd;

#endif
