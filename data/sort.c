#include "data/sort.h"

static void sift_down(uint32_t *order, size_t at, size_t n, SortLess *less, const void *context) {
    const uint32_t moving = order[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && less(context, order[child], order[child + 1])) child++;
        if (!less(context, moving, order[child])) break;
        order[at] = order[child];
    }
    order[at] = moving;
}

void sort_rows(uint32_t *order, size_t n, SortLess *less, const void *context) {
    for (size_t i = n / 2; i > 0; i--) sift_down(order, i - 1, n, less, context);
    for (size_t end = n; end > 1; end--) {
        const uint32_t largest = order[0];
        order[0] = order[end - 1];
        order[end - 1] = largest;
        sift_down(order, 0, end - 1, less, context);
    }
}
