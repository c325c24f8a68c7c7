#include "data/names.h"

#include <string.h>

#include "core/mem.h"
#include "core/rng.h"

/* The slot where a name is, or where it would go. */
static size_t slot_of(const Names *names, const char *name) {
    size_t at = (size_t)rng_key(0, name, 0);
    for (;; at++) {
        at &= names->slot_count - 1;
        const uint32_t item = names->slots[at];
        if (item == 0 || strcmp(names->items[item - 1], name) == 0) return at;
    }
}

size_t names_find(const Names *names, const char *name) {
    if (names->slot_count == 0) return SIZE_MAX;
    const uint32_t item = names->slots[slot_of(names, name)];
    return item ? item - 1 : SIZE_MAX;
}

static ErrCode grow(Names *names, Err *err) {
    const size_t cap = names->cap ? 2 * names->cap : 16;
    char **items = mem_resize(names->items, cap, sizeof *items);
    if (items) names->items = items;
    uint32_t *slots = items ? mem_alloc(2 * cap, sizeof *slots) : NULL;
    if (!slots) return err_set(err, ERR_MEMORY, "out of memory for %zu names", cap);
    mem_free(names->slots);
    names->slots = slots;
    names->slot_count = 2 * cap;
    names->cap = cap;
    for (size_t i = 0; i < names->count; i++) slots[slot_of(names, items[i])] = (uint32_t)i + 1;
    return ERR_OK;
}

ErrCode names_add(size_t *index, Names *names, const char *name, Err *err) {
    if (names->count == names->cap) TRY(grow(names, err));
    const size_t slot = slot_of(names, name);
    if (names->slots[slot] == 0) {
        char *copy = mem_strdup(name);
        if (!copy) return err_set(err, ERR_MEMORY, "out of memory for a name");
        names->items[names->count++] = copy;
        names->slots[slot] = (uint32_t)names->count;
    }
    *index = names->slots[slot] - 1;
    return ERR_OK;
}

void names_free(Names *names) {
    for (size_t i = 0; i < names->count; i++) mem_free(names->items[i]);
    mem_free(names->items);
    mem_free(names->slots);
    *names = (Names){0};
}
