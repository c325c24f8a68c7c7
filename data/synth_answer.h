/* data/synth_answer.h - the JSON list in the text of a model's answer, which is repaired where that is safe.
 *
 * Repaired: text around the list, code fences, reasoning in front of it (<think> ... </think>), commas at an end, line breaks
 * and wrong escapes within strings (\( of LaTeX), quotes within strings that cannot end them, a list that is cut off (its
 * whole items are kept). What cannot be told apart safely is dropped, item by item. */
#ifndef DATA_SYNTH_ANSWER_H
#define DATA_SYNTH_ANSWER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define SYNTH_ANSWER_ITEMS_MAX 4096

/* The list that is member `key` of the object in a text, or the first list in it: *list becomes an array of strings and
 * objects (free it with cJSON_Delete). *whole: it was complete, and nothing was dropped. ERR_FORMAT when there is none. */
ErrCode synth_answer_list(cJSON **list, bool *whole, const char *text, size_t n, const char *key,
                          Err *err) ERR_CHECKED;

/* The text of an item of a list: a string, or the member of an object that is named by one of `names` (separated by '|');
 * NULL for anything else, and for a text with a NUL. */
const char *synth_answer_text(const cJSON *item, const char *names);

#endif
