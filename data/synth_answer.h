/* data/synth_answer.h - what a model answers: chat completions, whole or streamed, and the JSON list in their text, which is
 * repaired where that is safe.
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

#include "core/buf.h"
#include "core/err.h"

#define SYNTH_ANSWER_ITEMS_MAX 4096
#define SYNTH_ANSWER_TEXT_MAX  ((size_t)2 << 20) /* bytes of a completion's text */

/* Zeroed: ready for the first event. */
typedef struct {
    Buf content;
    int64_t tokens_in, tokens_out; /* as the server counts them, valid when counted */
    bool counted, ended, cut; /* ended: a stream said that it is over; cut: it reached its limit of tokens */
} SynthAnswer;

/* The body of a whole completion. ERR_FORMAT says what is wrong with it, in the server's words where it gives an error. */
ErrCode synth_answer_parse(SynthAnswer *answer, const char *body, size_t n, Err *err) ERR_CHECKED;
/* The data of one event of a streamed one. */
ErrCode synth_answer_event(SynthAnswer *answer, const char *data, size_t n, Err *err) ERR_CHECKED;
void synth_answer_free(SynthAnswer *answer);

/* The server's message in the body of an error, into out (cut to fit; "" without one); returns out. */
const char *synth_answer_error(char *out, size_t max, const char *body, size_t n);

/* The list that is member `key` of the object in a text, or the first list in it: *list becomes an array of strings and
 * objects (free it with cJSON_Delete). *whole: it was complete, and nothing was dropped. ERR_FORMAT when there is none. */
ErrCode synth_answer_list(cJSON **list, bool *whole, const char *text, size_t n, const char *key,
                          Err *err) ERR_CHECKED;

/* The text of an item of a list: a string, or the member of an object that is named by one of `names` (separated by '|');
 * NULL for anything else, and for a text with a NUL. */
const char *synth_answer_text(const cJSON *item, const char *names);

#endif
