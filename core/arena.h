/* core/arena.h - one aligned block, handed out front to back.
 *
 * A zeroed Arena only counts: run the layout code once on it to learn the size, arena_init with that, and run
 * the same code again. What is handed out is borrowed until arena_free, or until `used` is set back to an
 * earlier value. */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include <stddef.h>

#include "core/err.h"

typedef struct {
    char *base; /* NULL while counting */
    size_t size, used;
} Arena;

/* Zeroed block of `bytes`. */
ErrCode arena_init(Arena *arena, size_t bytes, const char *what, Err *err) ERR_CHECKED;
void arena_free(Arena *arena);

/* count * size bytes, 64-byte aligned; NULL while counting. Asking for more than was counted is a bug of ours
 * (assert). A count that overflows saturates `used`, which arena_init then refuses. */
void *arena_push(Arena *arena, size_t count, size_t size);

#endif
