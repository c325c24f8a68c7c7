#include "data/overlap.h"

#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "data/scan.h"
#include "data/words.h"

/* Keys to rows: runs of words, and bands of signatures. Open addressing, at most half full; of equal keys the first
 * added comes first. */
typedef struct {
    uint64_t *keys; /* 0: free */
    uint32_t *rows;
    size_t count, slots;
} Table;

typedef struct {
    uint32_t file;
    uint64_t line;
} Place;

struct Overlap {
    Table runs, bands;
    int band_values; /* of a signature in one band */
    double threshold;
    Place *places;
    DedupSignature *signatures;
    uint32_t count, cap;
    const Inputs *inputs; /* while reading */
};

/* ---- tables ---- */

static void place_key(Table *t, uint64_t key, uint32_t row) {
    size_t at = (size_t)rng_mix(key) & (t->slots - 1);
    while (t->keys[at]) at = (at + 1) & (t->slots - 1);
    t->keys[at] = key;
    t->rows[at] = row;
}

static ErrCode grow(Table *t, Err *err) {
    Table new = {.slots = t->slots ? 2 * t->slots : 1024};
    ErrCode rc = mem_new(&new.keys, new.slots, sizeof *new.keys, "the words of the benchmarks", err);
    if (rc == ERR_OK)
        rc = mem_new(&new.rows, new.slots, sizeof *new.rows, "the words of the benchmarks", err);
    if (rc != ERR_OK) {
        mem_free(new.keys);
        return rc;
    }
    for (size_t i = 0; i < t->slots; i++)
        if (t->keys[i]) place_key(&new, t->keys[i], t->rows[i]);
    new.count = t->count;
    mem_free(t->keys);
    mem_free(t->rows);
    *t = new;
    return ERR_OK;
}

static uint32_t first_row(const Table *t, uint64_t key) {
    if (!t->slots) return OVERLAP_NONE;
    uint32_t first = OVERLAP_NONE;
    for (size_t at = (size_t)rng_mix(key) & (t->slots - 1); t->keys[at]; at = (at + 1) & (t->slots - 1))
        if (t->keys[at] == key && t->rows[at] < first) first = t->rows[at];
    return first;
}

static ErrCode add(Table *t, uint64_t key, uint32_t row, bool once, Err *err) {
    if (once && first_row(t, key) != OVERLAP_NONE) return ERR_OK;
    if (2 * t->count >= t->slots) TRY(grow(t, err));
    place_key(t, key, row);
    t->count++;
    return ERR_OK;
}

/* ---- keys ---- */

/* Runs of OVERLAP_WORDS words, one for each word from that one on: a polynomial of the words' hashes, mod 2^64. */
typedef struct {
    Words words;
    uint64_t last[OVERLAP_WORDS], sum;
    size_t seen;
} Runs;

#define RUN_BASE 0x9e3779b97f4a7c15u

static bool next_run(Runs *r, uint64_t *key) {
    uint64_t top = 1; /* RUN_BASE^OVERLAP_WORDS; the compiler computes it */
    for (int i = 0; i < OVERLAP_WORDS; i++) top *= RUN_BASE;
    Word word;
    while (words_next(&r->words, &word)) {
        const size_t at = r->seen++ % OVERLAP_WORDS;
        r->sum = r->sum * RUN_BASE + word.hash - (r->seen > OVERLAP_WORDS ? r->last[at] * top : 0);
        r->last[at] = word.hash;
        if (r->seen < OVERLAP_WORDS) continue;
        *key = r->sum ? r->sum : 1;
        return true;
    }
    return false;
}

static uint64_t band_key(const Overlap *o, const DedupSignature *s, int band) {
    uint64_t h = (uint64_t)band + 1;
    for (int i = 0; i < o->band_values; i++)
        h = rng_mix(h ^ s->values[band * o->band_values + i]) * 0x100000001b3u;
    return h ? h : 1;
}

/* ---- reading ---- */

static void sign(void *arg, const ScanRow *row, void *slot, int thread) {
    (void)arg;
    (void)thread;
    if (row->record) dedup_signature(slot, row->record->text, row->record->text_len);
}

static ErrCode take(void *arg, const ScanRow *row, const void *slot, Err *err) {
    Overlap *o = arg;
    if (!row->record) return scan_bad_row(o->inputs, row, err);
    if (o->count >= OVERLAP_NONE) return err_set(err, ERR_FORMAT, "more than %u rows", OVERLAP_NONE);
    if (o->count == o->cap) {
        const uint32_t cap = o->cap < UINT32_MAX / 2 ? 2 * o->cap + 256 : UINT32_MAX;
        Place *places = mem_resize(o->places, cap, sizeof *places);
        if (places) o->places = places;
        DedupSignature *signatures = mem_resize(o->signatures, cap, sizeof *signatures);
        if (signatures) o->signatures = signatures;
        if (!places || !signatures) return err_set(err, ERR_MEMORY, "out of memory for the benchmarks");
        o->cap = cap;
    }
    o->places[o->count] = (Place){row->file, row->line};
    memcpy(&o->signatures[o->count], slot, sizeof *o->signatures);
    Runs runs = {.words = {.text = row->record->text, .n = row->record->text_len}};
    for (uint64_t key; next_run(&runs, &key);) TRY(add(&o->runs, key, o->count, true, err));
    const DedupSignature *signature = &o->signatures[o->count];
    /* equal texts add nothing: they would make one chain of slots long */
    if (first_row(&o->bands, signature->key | 1) == OVERLAP_NONE) {
        TRY(add(&o->bands, signature->key | 1, o->count, true, err));
        for (int band = 0; band < DEDUP_VALUES / o->band_values; band++)
            TRY(add(&o->bands, band_key(o, signature, band), o->count, false, err));
    }
    o->count++;
    return ERR_OK;
}

ErrCode overlap_open(Overlap **out, const Inputs *benchmarks, const char *text_field, double threshold,
                     Threads *threads, Progress *progress, Err *err) {
    *out = NULL;
    Overlap *o;
    TRY(mem_new(&o, 1, sizeof *o, "the benchmarks", err));
    o->threshold = threshold;
    /* bands of 4 are met by all but 1 in 400 pairs of similarity 0.75, bands of 2 by all but 1 in 10,000 of 0.5 */
    o->band_values = threshold >= 0.75 ? 4 : 2;
    o->inputs = benchmarks;
    const Scan scan = {.inputs = benchmarks,
                       .record = {.text_field = text_field, .label_optional = true},
                       .slot_bytes = sizeof(DedupSignature),
                       .work = sign,
                       .take = take,
                       .arg = o,
                       .threads = threads,
                       .progress = progress};
    const ErrCode rc = scan_rows(&scan, err);
    o->inputs = NULL;
    if (rc == ERR_OK)
        *out = o;
    else
        overlap_close(o);
    return rc;
}

void overlap_close(Overlap *o) {
    if (!o) return;
    mem_free(o->runs.keys);
    mem_free(o->runs.rows);
    mem_free(o->bands.keys);
    mem_free(o->bands.rows);
    mem_free(o->places);
    mem_free(o->signatures);
    mem_free(o);
}

/* ---- finding ---- */

/* The most similar row of those that share a band. */
static OverlapHit near_duplicate(const Overlap *o, const DedupSignature *s) {
    OverlapHit best = {.row = first_row(&o->bands, s->key | 1)};
    if (best.row != OVERLAP_NONE && o->signatures[best.row].key == s->key) {
        best.similarity = 1;
        return best;
    }
    best.row = OVERLAP_NONE;
    const Table *t = &o->bands;
    for (int band = 0; t->slots && band < DEDUP_VALUES / o->band_values; band++) {
        const uint64_t key = band_key(o, s, band);
        for (size_t at = (size_t)rng_mix(key) & (t->slots - 1); t->keys[at]; at = (at + 1) & (t->slots - 1)) {
            if (t->keys[at] != key) continue;
            const double similarity = dedup_similarity(s, &o->signatures[t->rows[at]]);
            const bool nearer = similarity > (double)best.similarity ||
                                (similarity >= (double)best.similarity && t->rows[at] < best.row);
            if (similarity >= o->threshold && nearer)
                best = (OverlapHit){.row = t->rows[at], .similarity = (float)similarity};
        }
    }
    return best;
}

OverlapHit overlap_find(const Overlap *o, const char *text, size_t n, const DedupSignature *signature) {
    OverlapHit hit = near_duplicate(o, signature);
    if (hit.row != OVERLAP_NONE) return hit;
    Runs runs = {.words = {.text = text, .n = n}};
    for (uint64_t key; next_run(&runs, &key);) {
        const uint32_t row = first_row(&o->runs, key);
        if (row == OVERLAP_NONE) continue;
        return (OverlapHit){row, (float)dedup_similarity(signature, &o->signatures[row]), true};
    }
    return hit;
}

uint32_t overlap_rows(const Overlap *o) {
    return o->count;
}

void overlap_place(const Overlap *o, uint32_t row, uint32_t *file, uint64_t *line) {
    *file = o->places[row].file;
    *line = o->places[row].line;
}
