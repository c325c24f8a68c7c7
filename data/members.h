/* data/members.h - the members of a JSON object where they stand in its text: for rewriting a row without touching a byte
 * of what is not meant to change. */
#ifndef DATA_MEMBERS_H
#define DATA_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>

/* text[key..key_end): the key with its quotes; text[value..end): the value. */
typedef struct {
    size_t key, key_end, value, end;
} Member;

typedef struct {
    const char *text;
    size_t n, at;
    size_t count; /* members returned so far */
    size_t
        tail; /* where one more could be inserted: behind the last value, or behind the brace of an empty object */
} Members;

/* text[0..n): an object that json_parse accepts; a byte order mark may stand before it. Of other bytes some members are
 * found, or none, within the text. */
void members_open(Members *m, const char *text, size_t n);

/* The next in their order; false when there is none. */
bool members_next(Members *m, Member *out);

#endif
