/* core/mem.h - every allocation of the program goes through here, so that sizes are checked for overflow,
 * tests can count allocations (a training step makes none) and can make the n-th one fail. */
#ifndef CORE_MEM_H
#define CORE_MEM_H

#include <stddef.h>

#include "core/err.h"

#define MEM_ALIGN 64 /* one cache line, one AVX-512 register */

/* count * size bytes, zeroed, 64-byte aligned. NULL on overflow or exhaustion. Free with mem_free. */
void *mem_alloc(size_t count, size_t size);

/* Grows or shrinks p (from mem_alloc or mem_resize, or NULL); new bytes are undefined and the alignment is
 * malloc's. NULL on overflow or exhaustion, p then stays valid. */
void *mem_resize(void *p, size_t count, size_t size);

/* As mem_alloc, into *out (any object pointer's address); ERR_MEMORY names `what` and the size. */
ErrCode mem_new(void *out, size_t count, size_t size, const char *what, Err *err) ERR_CHECKED;

char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);

void mem_free(void *p);

/* Allocations so far, and (for tests) the n-th from now fails: n >= 1; 0 switches it off. */
size_t mem_count(void);
void mem_fail_at(size_t n);

#endif
