/* data/elements.h - a file of JSON, one element after the other: what data sets are published as, however large.
 *
 * The shape is told by the first bytes:
 *   lines      one value a line (JSONL); blank lines are passed over; a bad line does not spoil the next
 *   documents  values that span lines, one after the other, with white space between: most often only one
 *   array      [element, ...]
 *   members    {"key": element, ...}, where the caller asked for it and the first member is an object or an array; of
 *              a member that is an array, the elements are given one by one, each with the member's key
 * Elements are found by their brackets and strings alone; what is inside is for core/json.h to judge. Plain, gzip, zstd.
 * Memory: the longest element, at most ELEMENTS_MAX bytes. */
#ifndef DATA_ELEMENTS_H
#define DATA_ELEMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define ELEMENTS_MAX ((size_t)32 << 20)

typedef enum { ELEMENTS_LINES, ELEMENTS_DOCUMENTS, ELEMENTS_ARRAY, ELEMENTS_MEMBERS } ElementsShape;

/* Borrowed until the next call. */
typedef struct {
    const char *json;
    size_t n;
    const char *key; /* members: as written between its quotes, escapes and all; else NULL */
    uint64_t index;  /* from 0 */
    uint64_t line;   /* where it begins, from 1 */
} Element;

typedef struct Elements Elements;

/* members: an object at the top may be taken apart. */
ErrCode elements_open(Elements **out, const char *path, bool members, Err *err) ERR_CHECKED;

/* *more is false at the end. ERR_FORMAT "file:line: ..." where the brackets end too early, do not match or are nested
 * more than JSON_DEPTH_MAX deep, where something else than a comma is between elements, and for too long ones: the rest
 * of the file is lost then. */
ErrCode elements_next(Elements *elements, Element *out, bool *more, Err *err) ERR_CHECKED;
ElementsShape elements_shape(const Elements *elements);
void elements_close(Elements *elements);

#endif
