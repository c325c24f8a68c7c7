#include "data/near.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/mem.h"
#include "core/rng.h"

enum { VALUES_MIN = 4, BUCKET_MAX = 512 };

struct Near {
    double threshold;
    unsigned bands, band_values;
    DedupSignature *texts;
    uint64_t *slots; /* key << 32 | text + 1, or 0; equal keys are different slots */
    size_t count, cap, slot_count, used;
};

/* As many values to a band (as few accidental candidates) as find 99 of 100 pairs that are just at the threshold. */
static void choose_bands(Near *n) {
    for (unsigned values = 32;; values--) {
        const unsigned bands = DEDUP_VALUES / values;
        const double missed = pow(1 - pow(n->threshold, values), bands);
        if (values > VALUES_MIN && missed > 0.01) continue;
        n->band_values = values;
        n->bands = n->threshold < 1 ? bands : 0;
        return;
    }
}

ErrCode near_open(Near **out, double threshold, Err *err) {
    *out = NULL;
    if (!(threshold >= 0.5 && threshold <= 1))
        return err_set(err, ERR_ARGUMENT, "similarity of near-duplicates: found %g, expected 0.5 to 1",
                       threshold);
    Near *n;
    TRY(mem_new(&n, 1, sizeof *n, "the texts", err));
    n->threshold = threshold;
    choose_bands(n);
    *out = n;
    return ERR_OK;
}

void near_close(Near *n) {
    if (!n) return;
    mem_free(n->texts);
    mem_free(n->slots);
    mem_free(n);
}

uint32_t near_count(const Near *n) {
    return (uint32_t)n->count;
}

/* Key of a band; the last one, behind the bands, is that of the whole text. */
static uint32_t key_of(const Near *n, const DedupSignature *s, unsigned band) {
    uint64_t h = band == n->bands ? s->key : band + 1;
    for (unsigned i = 0; band < n->bands && i < n->band_values; i++)
        h = (h ^ s->values[band * n->band_values + i]) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(rng_mix(h) >> 32);
}

uint32_t near_find(const Near *n, const DedupSignature *s) {
    uint32_t found = NEAR_NONE;
    if (!n->slot_count) return found;
    for (unsigned band = 0; band <= n->bands; band++) {
        const uint32_t key = key_of(n, s, band);
        unsigned seen = 0;
        for (size_t at = key & (n->slot_count - 1); n->slots[at]; at = (at + 1) & (n->slot_count - 1)) {
            const uint32_t text = (uint32_t)n->slots[at] - 1;
            if ((uint32_t)(n->slots[at] >> 32) != key || text >= found) continue;
            const DedupSignature *other = &n->texts[text];
            if (other->key == s->key || (band < n->bands && dedup_similarity(other, s) >= n->threshold))
                found = text;
            if (++seen == BUCKET_MAX && band < n->bands) break; /* a template's band: the others decide */
        }
    }
    return found;
}

static void put(uint64_t *slots, size_t count, uint64_t entry) {
    size_t at = (size_t)(entry >> 32) & (count - 1);
    while (slots[at]) at = (at + 1) & (count - 1);
    slots[at] = entry;
}

static ErrCode grow(Near *n, Err *err) {
    if (n->count == n->cap) {
        const size_t cap = n->cap + n->cap / 2 + 64;
        DedupSignature *more = mem_resize(n->texts, cap, sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for the signatures of %zu texts", cap);
        n->texts = more;
        n->cap = cap;
    }
    if (2 * (n->used + n->bands + 1) <= n->slot_count) return ERR_OK;
    const size_t count = n->slot_count ? 2 * n->slot_count : 1024;
    uint64_t *slots;
    TRY(mem_new(&slots, count, sizeof *slots, "the bands of texts", err));
    for (size_t i = 0; i < n->slot_count; i++)
        if (n->slots[i]) put(slots, count, n->slots[i]);
    mem_free(n->slots);
    n->slots = slots;
    n->slot_count = count;
    return ERR_OK;
}

ErrCode near_add(Near *n, const DedupSignature *s, Err *err) {
    if (n->count >= UINT32_MAX - 1) return err_set(err, ERR_FORMAT, "too many texts");
    TRY(grow(n, err));
    n->texts[n->count] = *s;
    for (unsigned band = 0; band <= n->bands; band++)
        put(n->slots, n->slot_count, (uint64_t)key_of(n, s, band) << 32 | (uint32_t)(n->count + 1));
    n->used += n->bands + 1;
    n->count++;
    return ERR_OK;
}
