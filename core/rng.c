#include "core/rng.h"

#include <math.h>

uint64_t rng_mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t rng_key(uint64_t seed, const char *purpose, uint64_t index) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *purpose; purpose++) h = (h ^ (unsigned char)*purpose) * 0x100000001b3u;
    return rng_mix(rng_mix(seed + 0x9e3779b97f4a7c15u) ^ h) + rng_mix(index ^ 0xd1b54a32d192ed03u);
}

uint64_t rng_bits(uint64_t key, uint64_t i) {
    return rng_mix(key + (i + 1) * 0x9e3779b97f4a7c15u);
}

double rng_uniform(uint64_t key, uint64_t i) {
    return (double)(rng_bits(key, i) >> 11) * 0x1p-53;
}

double rng_normal(uint64_t key, uint64_t i) {
    const double u = 1.0 - rng_uniform(key, 2 * i); /* in (0, 1] */
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * rng_uniform(key, 2 * i + 1));
}

void rng_shuffle(uint32_t *order, size_t n, uint64_t key) {
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        const size_t j = (size_t)(rng_bits(key, i) % i); /* bias below 2^-32 */
        const uint32_t t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}
