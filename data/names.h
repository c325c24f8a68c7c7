/* data/names.h - a growing list of different strings, found by hash: labels, sources. */
#ifndef DATA_NAMES_H
#define DATA_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

/* Zeroed: empty, valid to free. items[0..count) are in the order of adding. */
typedef struct {
    char **items;
    size_t count, cap;
    uint32_t *slots; /* item + 1, or 0; a power of two of them, at most half in use */
    size_t slot_count;
} Names;

/* Index of a name, or SIZE_MAX. */
size_t names_find(const Names *names, const char *name);

/* Index of a name, added (copied) when it is new. */
ErrCode names_add(size_t *index, Names *names, const char *name, Err *err) ERR_CHECKED;
void names_free(Names *names);

#endif
