/* data/record.h - one labelled prompt from one line of JSONL.
 *
 * The text is the first of these members that is there and is neither null nor blank: text, prompt, query,
 * sentence, question, instruction, input, messages; the label is the first of label, domain, category,
 * target, intent, class that is there and is not null. Either may be named instead. A text is a string, or a
 * chat (an array of {"role", "content"}: the contents of the user turns, joined by newlines; content is a
 * string or an array of parts, of which those with {"type": "text", "text": ...} count). A label is a string
 * of at most RECORD_NAME_MAX bytes; an integer or boolean is taken as its digits or name. Also read when
 * present: split, source, id, and sample_weight, a number above 0 and at most 1000: how often the row is seen in
 * an epoch of training, once where there is none. Other members are ignored. A line that is not a JSON object is
 * an error, never taken as plain text. */
#ifndef DATA_RECORD_H
#define DATA_RECORD_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "core/buf.h"
#include "core/err.h"

#define RECORD_TEXT_MAX ((size_t)16 << 20) /* bytes */
#define RECORD_NAME_MAX 256                /* bytes of a label */

/* A text somewhere else. */
typedef struct {
    const char *text; /* any bytes; invalid UTF-8 counts as U+FFFD */
    size_t n;
} RowText;

typedef struct {
    const char *text_field, *label_field; /* NULL: the aliases */
    bool label_optional;                  /* predict and tokenize: label stays NULL when absent */
} RecordRule;

/* The two in a command's table of flags (core/flags.h): strings at these offsets of its options; `group` is "#Title\n",
 * or "" inside a group. */
/* clang-format off */
#define RECORD_FLAGS(group, text_at, label_at) \
    {"text_field", NULL, FLAG_STRING, text_at, NULL, 0, 0, "MEMBER", \
     group "Member that holds the prompt [default: the first of text, prompt, query, sentence, question, " \
     "instruction, input, messages]."}, \
    {"label_field", NULL, FLAG_STRING, label_at, NULL, 0, 0, "MEMBER", \
     "Member that holds the label [default: the first of label, domain, category, target, intent, class]."}
/* clang-format on */

/* Everything is borrowed from the Record until the next record_parse or record_free. */
typedef struct {
    const char *text; /* any valid UTF-8, NUL possible */
    size_t text_len;
    const char *label, *split, *source, *id; /* NULL when absent */
    const char *text_member,
        *label_member;  /* the members that those are from; label_member NULL when absent */
    double weight;      /* sample_weight, or 1 */
    cJSON *tree;        /* owned */
    Buf joined;         /* owned: the turns of a chat */
    char digits[4][24]; /* integers as text: label, split, source, id */
} Record;

/* line[0..n) into *record, a zeroed one or one parsed before (its memory is used again). Errors: ERR_FORMAT,
 * without file:line (the caller adds it). An empty or all-blank text is an error. */
ErrCode record_parse(Record *record, const RecordRule *rule, const char *line, size_t n,
                     Err *err) ERR_CHECKED;
void record_free(Record *record);

#endif
