/* data/sort.h - sorting of row numbers in place: heapsort, which needs no memory and has no bad case. */
#ifndef DATA_SORT_H
#define DATA_SORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef bool SortLess(const void *context, uint32_t a, uint32_t b);

/* Not stable: `less` breaks ties (by a < b) where the result has to be unique. */
void sort_rows(uint32_t *order, size_t n, SortLess *less, const void *context);

#endif
