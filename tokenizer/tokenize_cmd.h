/* tokenizer/tokenize_cmd.h - `router tokenize`: shows or writes the ids of texts; with --train, learns a
 * tokenizer. */
#ifndef TOKENIZER_TOKENIZE_CMD_H
#define TOKENIZER_TOKENIZE_CMD_H

#include "core/flags.h"

extern const Command tokenize_cmd;

#endif
