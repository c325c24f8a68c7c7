#include "core/arena.h"

#include <assert.h>
#include <stdint.h>

#include "core/mem.h"

ErrCode arena_init(Arena *arena, size_t bytes, const char *what, Err *err) {
    *arena = (Arena){0};
    TRY(mem_new(&arena->base, bytes, 1, what, err));
    arena->size = bytes;
    return ERR_OK;
}

void arena_free(Arena *arena) {
    mem_free(arena->base);
    *arena = (Arena){0};
}

void *arena_push(Arena *arena, size_t count, size_t size) {
    const size_t limit = SIZE_MAX - MEM_ALIGN;
    const size_t bytes = size != 0 && count > limit / size ? limit : count * size;
    const size_t padded = (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    if (!arena->base) {
        arena->used = arena->used > SIZE_MAX - padded ? SIZE_MAX : arena->used + padded;
        return NULL;
    }
    assert(padded <= arena->size - arena->used);
    char *p = arena->base + arena->used;
    arena->used += padded;
    return p;
}
