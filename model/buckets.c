#include "model/buckets.h"

#include <math.h>

int buckets_of(int distance, int buckets, int positions) {
    const int mid = buckets / 2, size = distance < 0 ? -distance : distance;
    if (size <= mid || mid < 1 || positions - 1 <= mid) return distance;
    const float quotient = logf((float)size / (float)mid) / logf((float)(positions - 1) / (float)mid);
    const int bucket = (int)ceilf(quotient * (float)(mid - 1)) + mid;
    return distance < 0 ? -bucket : bucket;
}

int buckets_row(int distance, int buckets, int positions) {
    const int row = buckets_of(distance, buckets, positions) + buckets;
    return row < 0 ? 0 : row >= 2 * buckets ? 2 * buckets - 1 : row;
}
