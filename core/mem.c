#define _GNU_SOURCE /* madvise */
#include "core/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Matrices are walked down their columns as well: with small pages each row would be a miss of the address cache (a
 * tenth of a product's time). */
enum { HUGE_PAGE = 2 << 20, HUGE_FROM = 1 << 20 };

static atomic_size_t allocations;
static atomic_size_t fail_at; /* 0: never */

static int must_fail(void) {
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    size_t left = atomic_load_explicit(&fail_at, memory_order_relaxed);
    while (left != 0)
        if (atomic_compare_exchange_weak(&fail_at, &left, left - 1)) return left == 1;
    return 0;
}

static int product(size_t *out, size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX - HUGE_PAGE) / size) return 0;
    *out = count * size;
    return 1;
}

void *mem_alloc(size_t count, size_t size) {
    size_t bytes;
    if (!product(&bytes, count, size) || must_fail()) return NULL;
    const size_t align = bytes < HUGE_FROM ? MEM_ALIGN : HUGE_PAGE,
                 padded = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, padded ? padded : align);
#ifdef MADV_HUGEPAGE
    if (p && align == HUGE_PAGE)
        (void)madvise(p, padded, MADV_HUGEPAGE); /* a wish: small pages are right as well */
#endif
    if (p) memset(p, 0, bytes);
    return p;
}

void *mem_resize(void *p, size_t count, size_t size) {
    size_t bytes;
    if (!product(&bytes, count, size) || must_fail()) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

ErrCode mem_new(void *out, size_t count, size_t size, const char *what, Err *err) {
    void *p = mem_alloc(count, size);
    memcpy(out, &p, sizeof p);
    if (p) return ERR_OK;
    return err_set(err, ERR_MEMORY, "out of memory: %s needs %zu x %zu bytes", what, count, size);
}

char *mem_strndup(const char *s, size_t n) {
    char *copy = n < SIZE_MAX ? mem_resize(NULL, n + 1, 1) : NULL;
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *mem_strdup(const char *s) {
    return mem_strndup(s, strlen(s));
}

void mem_free(void *p) {
    free(p);
}

size_t mem_count(void) {
    return atomic_load(&allocations);
}

void mem_fail_at(size_t n) {
    atomic_store(&fail_at, n);
}
