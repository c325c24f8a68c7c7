/* core/rng.h - counter-based randomness: a value is a function of (seed, where it is used), never of what was
 * drawn before, so that runs repeat, resume exactly, and do not depend on the number of threads. Mixing
 * function: the finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
#ifndef CORE_RNG_H
#define CORE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* 64 well-mixed bits of one word. */
uint64_t rng_mix(uint64_t x);

/* A key for a purpose: rng_key(seed, "shuffle", epoch). */
uint64_t rng_key(uint64_t seed, const char *purpose, uint64_t index);

/* The i-th value of the stream of a key: 64 bits; uniform in [0, 1); standard normal. */
uint64_t rng_bits(uint64_t key, uint64_t i);
double rng_uniform(uint64_t key, uint64_t i);
double rng_normal(uint64_t key, uint64_t i);

/* Order 0..n-1 shuffled (Fisher-Yates), n < 2^32. */
void rng_shuffle(uint32_t *order, size_t n, uint64_t key);

#endif
