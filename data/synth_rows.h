/* data/synth_rows.h - the file of synthetic rows: one JSON object a line, also as data/record.h reads them.
 *
 * {"text", "label", "kind": "synthetic", "source": "synth", "id", "model", "template", "topic", "style", "length",
 * "difficulty", "persona", "language", "near", "time"}; what was not asked for is left out. id: first 8 digits of the
 * plan's digest, request, place in its answer. template: digest of the built-in wording. near: the domain that a hard negative
 * looks like. time: of the answer, UTC. A name that ends with .zst is compressed. */
#ifndef DATA_SYNTH_ROWS_H
#define DATA_SYNTH_ROWS_H

#include "core/err.h"
#include "data/synth_ledger.h"

/* Complete or not at all. */
ErrCode synth_rows_write(const char *path, const SynthView *view, Err *err) ERR_CHECKED;

#endif
