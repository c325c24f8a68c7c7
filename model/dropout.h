/* model/dropout.h - dropout masks: the one source of them for every backend, kernels of a GPU too. */
#ifndef MODEL_DROPOUT_H
#define MODEL_DROPOUT_H

#include <stdint.h>

#include "model/real.h"

#ifdef __CUDACC__
#define OPS_DEVICE_INLINE __host__ __device__ static inline
#else
#define OPS_DEVICE_INLINE static inline
#endif

/* Inverted dropout with a mask that is a function of (key, row[r], column) alone, so that backward makes it
 * again. Kept where ops_drop_bits(ops_drop_row(key, row[r]), column) >= p * 2^32, then times 1 / (1 - p). */
typedef struct {
    real p;              /* 0: no dropout, the rest is not read */
    uint64_t key;        /* (seed, step, site) */
    const uint64_t *row; /* identity of each row, independent of how the batch was cut */
} Dropout;

OPS_DEVICE_INLINE uint64_t ops_drop_row(uint64_t key, uint64_t row) {
    uint64_t x = key ^ (row * 0x9e3779b97f4a7c15u); /* SplitMix64's finaliser */
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* 32 bits per element by 32-bit arithmetic alone, so that it vectorises (the "lowbias32" mixer of C. Wellons,
 * keyed). */
OPS_DEVICE_INLINE uint32_t ops_drop_bits(uint64_t row_key, uint32_t column) {
    uint32_t x = (uint32_t)row_key + column * 0x9e3779b1u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x += (uint32_t)(row_key >> 32);
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

OPS_DEVICE_INLINE uint32_t ops_drop_limit(real p) {
    return (uint32_t)((double)p * 4294967296.0);
}

#endif
