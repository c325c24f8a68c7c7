#include "data/dedup.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "core/mem.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/sort.h"
#include "data/split.h"

/* ---- words and shingles ---- */

typedef struct {
    const char *text;
    size_t n, at, words;
    uint64_t last; /* word */
} Walk;

/* One multiplication forth, one back: enough for hashes that only have to look independent. */
static inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

/* Scripts that put no spaces between words: Thai, Lao; Myanmar; Khmer; kana; Han. */
static bool is_word_alone(uint32_t cp) {
    return cp >= 0xe00 && (cp <= 0xeff || (cp >= 0x1000 && cp <= 0x109f) || (cp >= 0x1780 && cp <= 0x17ff) ||
                           (cp >= 0x3040 && cp <= 0x30ff) || (cp >= 0x3400 && cp <= 0x4dbf) ||
                           (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0xf900 && cp <= 0xfaff) ||
                           (cp >= 0x20000 && cp <= 0x3ffff));
}

static bool next_word(Walk *w, uint64_t *out) {
    uint64_t h = 0;
    bool any = false;
    while (w->at < w->n) {
        uint32_t cp = (unsigned char)w->text[w->at];
        size_t len = 1;
        if (cp >= 0x80) len = text_utf8_next(w->text + w->at, w->n - w->at, &cp);
        const bool filler = split_is_filler(cp), alone = is_word_alone(cp);
        if (any && (filler || alone)) break;
        w->at += len;
        if (filler) continue;
        if (cp >= 'A' && cp <= 'Z') cp += 32;
        h = (h ^ cp) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
        any = true;
        if (alone) break;
    }
    *out = mix(h);
    return any;
}

/* The next shingle; a text of one word has that word as its only one. */
static bool next_shingle(Walk *w, uint64_t *out) {
    uint64_t word;
    while (next_word(w, &word)) {
        const uint64_t before = w->last;
        w->last = word;
        *out = mix(before * 3 + word);
        if (w->words++ > 0) return true;
    }
    if (w->words != 1) return false;
    w->words = DEDUP_SHINGLE;
    *out = w->last;
    return true;
}

/* ---- signatures ---- */

/* Fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): in each round every shingle throws a value into one
 * bin, a bin keeps the smallest value of the first round that reached it, and rounds go on until no bin is empty. Long
 * texts need one round, short ones as many as fill the bins: about 1,600 throws, where MinHash takes 256 for each
 * shingle. Each bin agrees with the probability of the Jaccard similarity, and the bins are as good as independent. */
enum { PAIRS = 127, DISTINCT = 512, SLOTS = 1024 };
#define EMPTY UINT32_MAX /* rounds end at 253, so that no bin holds it */

typedef struct {
    uint32_t best[DEDUP_VALUES]; /* round << 24 | value */
    int filled;
} Sketch;

static inline void throw_into(Sketch *s, unsigned bin, uint32_t value) {
    if (value >= s->best[bin]) return;
    s->filled += s->best[bin] == EMPTY;
    s->best[bin] = value;
}

/* Two rounds: one hash has bits for both. */
static inline void throw_pair(Sketch *s, uint64_t shingle, unsigned pair) {
    const uint64_t h = mix(shingle + pair * 0x9e3779b97f4a7c15u);
    throw_into(s, (unsigned)(h & 255), (2 * pair) << 24 | (uint32_t)(h >> 8 & 0xffffff));
    throw_into(s, (unsigned)(h >> 32 & 255), (2 * pair + 1) << 24 | (uint32_t)(h >> 40));
}

/* What the rounds left empty: every shingle throws into each such bin. */
static void throw_at_empty(Sketch *s, const uint64_t *shingles, size_t count) {
    for (unsigned bin = 0; bin < DEDUP_VALUES; bin++) {
        if (s->best[bin] != EMPTY) continue;
        for (size_t i = 0; i < count; i++) {
            const uint64_t h = mix(shingles[i] + (PAIRS + 1 + bin) * 0x9e3779b97f4a7c15u);
            const uint32_t value = (uint32_t)(h >> 33); /* below EMPTY */
            if (value < s->best[bin]) s->best[bin] = value;
        }
    }
}

/* The different shingles of a text, as long as there are at most DISTINCT. False: there are more. */
static bool collect(uint64_t *shingles, size_t *count, Walk walk) {
    uint16_t slots[SLOTS] = {0}; /* index into shingles + 1 */
    uint64_t one;
    *count = 0;
    while (next_shingle(&walk, &one)) {
        size_t at = (size_t)(one & (SLOTS - 1));
        while (slots[at] && shingles[slots[at] - 1] != one) at = (at + 1) & (SLOTS - 1);
        if (slots[at]) continue;
        if (*count == DISTINCT) return false;
        shingles[(*count)++] = one;
        slots[at] = (uint16_t)*count;
    }
    return true;
}

void dedup_signature(DedupSignature *out, const char *text, size_t n) {
    uint64_t shingles[DISTINCT];
    size_t count;
    Sketch s = {.filled = 0};
    memset(s.best, 0xff, sizeof s.best);
    const Walk walk = {.text = text, .n = n};
    const bool few = collect(shingles, &count, walk);
    out->key = split_text_key(text, n);
    if (count == 0) shingles[count++] = out->key; /* nothing but punctuation */
    for (unsigned pair = 0; pair < PAIRS && s.filled < DEDUP_VALUES; pair++) {
        if (few) {
            for (size_t i = 0; i < count; i++) throw_pair(&s, shingles[i], pair);
        } else { /* so many fill the bins in a few rounds: the text is walked again rather than kept */
            Walk again = walk;
            uint64_t one;
            while (next_shingle(&again, &one)) throw_pair(&s, one, pair);
        }
    }
    throw_at_empty(&s, shingles, count);
    for (size_t i = 0; i < DEDUP_VALUES; i++) out->values[i] = (uint8_t)s.best[i];
}

double dedup_similarity(const DedupSignature *a, const DedupSignature *b) {
    if (a->key == b->key) return 1;
    int equal = 0;
    for (size_t i = 0; i < DEDUP_VALUES; i += 64) {
        uint8_t part = 0;
        for (size_t k = i; k < i + 64; k++) part = (uint8_t)(part + (a->values[k] == b->values[k]));
        equal += part;
    }
    /* one in 256 of the values that differ is the same byte */
    const double share = (double)equal / DEDUP_VALUES, chance = 1.0 / 256;
    return share <= chance ? 0 : (share - chance) / (1 - chance);
}

/* ---- groups ---- */

enum {
    BLOCK_ROWS = 4096,
    LANES_MAX = 8,
    NEIGHBOURS_MIN = 16,
    NEIGHBOURS_MAX = 256,
    BANDS_GOOD = 24,
    BANDS_MAX = 64
};
#define BAND_WORK ((uint32_t)1 << 25) /* comparisons in a band that are always allowed */

typedef struct {
    uint32_t key, row;
} Entry;

/* What one thread works with. */
typedef struct {
    Entry *entries, *spare;
    uint32_t *set; /* groups within a bucket: positions, a root points to itself */
    uint64_t compared;
} Lane;

struct Dedup {
    double threshold;
    uint32_t bands, band_values, neighbours;
    DedupSignature **blocks; /* of BLOCK_ROWS each */
    size_t block_count, block_cap;
    uint32_t rows, heads;
    uint32_t *head;           /* (heads): one row for each key, in the order of the keys' lower halves */
    _Atomic uint32_t *parent; /* (rows), made by group; the smallest row of a group is its root */
    uint32_t lanes;
    Lane lane[LANES_MAX];
    atomic_bool stopped;
};

/* The most values to a band (the fewest accidental candidates) with which some 24 bands find 95 of 100 pairs that are
 * just at the threshold; for low thresholds four, which are what keeps unrelated texts apart, and more bands. */
static void choose_bands(Dedup *d) {
    for (uint32_t values = 16;; values--) {
        const double all = pow(d->threshold, (double)values);
        const double bands = all < 1 ? ceil(log(0.05) / log(1 - all)) : 1;
        if (values > 4 && (bands > BANDS_GOOD || bands * values > DEDUP_VALUES)) continue;
        d->band_values = values;
        d->bands = bands < BANDS_MAX ? (uint32_t)bands : BANDS_MAX;
        return;
    }
}

ErrCode dedup_open(Dedup **out, double threshold, Err *err) {
    *out = NULL;
    if (!(threshold >= 0.5 && threshold <= 1))
        return err_set(err, ERR_ARGUMENT, "similarity of near-duplicates: found %g, expected 0.5 to 1",
                       threshold);
    Dedup *d;
    TRY(mem_new(&d, 1, sizeof *d, "near-duplicates", err));
    d->threshold = threshold;
    choose_bands(d);
    *out = d;
    return ERR_OK;
}

void dedup_close(Dedup *d) {
    if (!d) return;
    for (size_t i = 0; i < d->block_count; i++) mem_free(d->blocks[i]);
    mem_free(d->blocks);
    mem_free(d->head);
    mem_free(d->parent);
    mem_free(d);
}

ErrCode dedup_add(Dedup *d, const DedupSignature *signature, Err *err) {
    assert(!d->parent);
    if (d->rows == UINT32_MAX) return err_set(err, ERR_FORMAT, "more than %u rows", (unsigned)UINT32_MAX);
    if (d->rows == d->block_count * BLOCK_ROWS) {
        if (d->block_count == d->block_cap) {
            const size_t cap = 2 * d->block_cap + 16;
            DedupSignature **more = mem_resize(d->blocks, cap, sizeof(DedupSignature *));
            if (!more)
                return err_set(err, ERR_MEMORY, "out of memory for the signatures of %u rows", d->rows);
            d->blocks = more;
            d->block_cap = cap;
        }
        TRY(mem_new(&d->blocks[d->block_count], BLOCK_ROWS, sizeof *signature, "signatures of rows", err));
        d->block_count++;
    }
    d->blocks[d->rows / BLOCK_ROWS][d->rows % BLOCK_ROWS] = *signature;
    d->rows++;
    return ERR_OK;
}

const DedupSignature *dedup_at(const Dedup *d, uint32_t row) {
    assert(row < d->rows);
    return &d->blocks[row / BLOCK_ROWS][row % BLOCK_ROWS];
}

uint32_t dedup_rows(const Dedup *d) {
    return d->rows;
}

uint32_t dedup_first(const Dedup *d, uint32_t row) {
    assert(d->parent && row < d->rows);
    return atomic_load_explicit(&d->parent[row], memory_order_relaxed);
}

uint64_t dedup_compared(const Dedup *d) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < LANES_MAX; i++) sum += d->lane[i].compared;
    return sum;
}

static uint32_t root_of(Dedup *d, uint32_t row) {
    for (;;) {
        const uint32_t above = atomic_load_explicit(&d->parent[row], memory_order_relaxed);
        if (above == row) return row;
        row = above;
    }
}

/* The larger root goes below the smaller one, whoever comes first: the groups do not depend on who that was. */
static void unite(Dedup *d, uint32_t a, uint32_t b) {
    for (;;) {
        a = root_of(d, a);
        b = root_of(d, b);
        if (a == b) return;
        if (a > b) {
            const uint32_t t = a;
            a = b;
            b = t;
        }
        uint32_t expected = b;
        if (atomic_compare_exchange_weak(&d->parent[b], &expected, a)) return;
    }
}

/* Sorts by key, rows with equal keys in their order (radix, three passes); entries and spare change places. */
static void sort_entries(Entry **entries, Entry **spare, size_t n) {
    enum { DIGIT = 11, SIZE = 1 << DIGIT };
    for (unsigned shift = 0; shift < 32; shift += DIGIT) {
        size_t at[SIZE] = {0}, sum = 0;
        const Entry *from = *entries;
        Entry *to = *spare;
        for (size_t i = 0; i < n; i++) at[from[i].key >> shift & (SIZE - 1)]++;
        for (size_t i = 0; i < SIZE; i++) {
            const size_t count = at[i];
            at[i] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++) to[at[from[i].key >> shift & (SIZE - 1)]++] = from[i];
        *spare = *entries;
        *entries = to;
    }
}

/* ---- exact duplicates ---- */

static bool by_key(const void *context, uint32_t a, uint32_t b) {
    const uint64_t ka = dedup_at(context, a)->key, kb = dedup_at(context, b)->key;
    return ka != kb ? ka < kb : a < b;
}

/* Rows of one key share a signature but for where words begin ("dont", "don't"): the smallest one stands for all, so that
 * groups do not depend on the order of the rows. */
static void add_head(Dedup *d, const uint32_t *rows, size_t n) {
    uint32_t head = rows[0];
    for (size_t i = 1; i < n; i++)
        if (memcmp(dedup_at(d, rows[i])->values, dedup_at(d, head)->values, DEDUP_VALUES) < 0) head = rows[i];
    d->head[d->heads++] = head;
}

/* Rows whose keys have the same lower half, which nearly always means the same key. */
static void join_equal(Dedup *d, Lane *lane, const Entry *run, size_t n) {
    bool same = true;
    for (size_t i = 0; i < n; i++) {
        lane->set[i] = run[i].row;
        same = same && dedup_at(d, run[i].row)->key == dedup_at(d, run[0].row)->key;
    }
    if (!same) sort_rows(lane->set, n, by_key, d);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && dedup_at(d, lane->set[end])->key == dedup_at(d, lane->set[i])->key; end++)
            atomic_store_explicit(&d->parent[lane->set[end]], lane->set[i], memory_order_relaxed);
        add_head(d, lane->set + i, end - i);
    }
}

static void join_exact(Dedup *d, Lane *lane) {
    for (uint32_t i = 0; i < d->rows; i++) lane->entries[i] = (Entry){(uint32_t)dedup_at(d, i)->key, i};
    sort_entries(&lane->entries, &lane->spare, d->rows);
    for (size_t i = 0, end; i < d->rows; i = end) {
        for (end = i + 1; end < d->rows && lane->entries[end].key == lane->entries[i].key;) end++;
        join_equal(d, lane, lane->entries + i, end - i);
    }
}

/* ---- near-duplicates ---- */

static uint32_t band_key(const Dedup *d, uint32_t row, uint32_t band) {
    const uint8_t *values = dedup_at(d, row)->values + (size_t)band * d->band_values;
    uint64_t h = 0;
    for (uint32_t i = 0; i < d->band_values; i++) h = (h ^ values[i]) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

/* Four values behind the band's, of `from` on. */
static uint32_t next_values(const Dedup *d, uint32_t row, uint32_t band, uint32_t from) {
    const uint8_t *values = dedup_at(d, row)->values;
    uint32_t key = 0;
    for (uint32_t i = 0; i < 4; i++)
        key = key << 8 | values[((band + 1) * d->band_values + from + i) % DEDUP_VALUES];
    return key;
}

/* The rows of a bucket in the order of the eight values behind the band's: the more alike two rows are, the nearer. */
static void sort_bucket(const Dedup *d, uint32_t band, Entry *bucket, Entry *spare, size_t n) {
    for (uint32_t from = 8; from > 0; from -= 4) {
        Entry *a = bucket, *b = spare;
        for (size_t i = 0; i < n; i++) a[i].key = next_values(d, a[i].row, band, from - 4);
        sort_entries(&a, &b, n); /* an odd number of passes: they end in spare */
        memcpy(bucket, a, n * sizeof *bucket);
    }
}

static uint32_t set_of(uint32_t *set, uint32_t i) {
    while (set[i] != i) i = set[i] = set[set[i]];
    return i;
}

/* Compares each row of a bucket with the `neighbours` before it, but not where that could join nothing new. What is
 * already joined is judged by this bucket alone: other bands run at the same time. */
static void join_bucket(Dedup *d, Lane *lane, uint32_t band, size_t at, uint32_t n) {
    Entry *bucket = lane->entries + at;
    if (n > d->neighbours) sort_bucket(d, band, bucket, lane->spare + at, n);
    uint32_t *set = lane->set;
    for (uint32_t i = 0; i < n; i++) {
        set[i] = i;
        const DedupSignature *mine = dedup_at(d, bucket[i].row);
        const uint32_t last = i > d->neighbours ? i - d->neighbours : 0;
        for (uint32_t k = i; k > last; k--) {
            const uint32_t a = set_of(set, i), b = set_of(set, k - 1);
            if (a == b) continue;
            lane->compared++;
            if (dedup_similarity(mine, dedup_at(d, bucket[k - 1].row)) < d->threshold) continue;
            set[a > b ? a : b] = a > b ? b : a;
            unite(d, bucket[i].row, bucket[k - 1].row);
        }
    }
}

static void join_band(Dedup *d, Lane *lane, uint32_t band) {
    for (uint32_t i = 0; i < d->heads; i++)
        lane->entries[i] = (Entry){band_key(d, d->head[i], band), d->head[i]};
    sort_entries(&lane->entries, &lane->spare, d->heads);
    for (uint32_t i = 0, end; i < d->heads; i = end) {
        for (end = i + 1; end < d->heads && lane->entries[end].key == lane->entries[i].key;) end++;
        if (end - i > 1) join_bucket(d, lane, band, i, end - i);
    }
}

static void lane_task(void *arg, size_t i, int thread) {
    (void)thread;
    Dedup *d = arg;
    for (uint32_t band = (uint32_t)i; band < d->bands; band += d->lanes) {
        if (stop_requested()) atomic_store(&d->stopped, true);
        if (atomic_load(&d->stopped)) return;
        join_band(d, &d->lane[i], band);
    }
}

static ErrCode open_lane(Lane *lane, uint32_t rows, Err *err) {
    TRY(mem_new(&lane->entries, rows, sizeof *lane->entries, "the bands of rows", err));
    TRY(mem_new(&lane->spare, rows, sizeof *lane->spare, "the bands of rows", err));
    return mem_new(&lane->set, rows, sizeof *lane->set, "the bands of rows", err);
}

static ErrCode join_near(Dedup *d, Threads *threads, Err *err) {
    const uint32_t wanted = BAND_WORK / d->heads;
    d->neighbours = wanted < NEIGHBOURS_MIN   ? NEIGHBOURS_MIN
                    : wanted < NEIGHBOURS_MAX ? wanted
                                              : NEIGHBOURS_MAX;
    d->lanes = (uint32_t)threads_count(threads);
    if (d->lanes > LANES_MAX) d->lanes = LANES_MAX;
    if (d->lanes > d->bands) d->lanes = d->bands;
    for (uint32_t i = 1; i < d->lanes; i++) TRY(open_lane(&d->lane[i], d->heads, err));
    threads_run(threads, lane_task, d, d->lanes);
    return atomic_load(&d->stopped) ? err_set(err, ERR_INTERRUPTED, "interrupted; nothing was written")
                                    : ERR_OK;
}

ErrCode dedup_group(Dedup *d, Threads *threads, Err *err) {
    assert(!d->parent);
    ErrCode rc = mem_new(&d->parent, d->rows ? d->rows : 1, sizeof *d->parent, "the groups of rows", err);
    if (rc == ERR_OK && d->rows) rc = mem_new(&d->head, d->rows, sizeof *d->head, "the different rows", err);
    if (rc == ERR_OK && d->rows) rc = open_lane(&d->lane[0], d->rows, err);
    if (rc == ERR_OK && d->rows) join_exact(d, &d->lane[0]);
    if (rc == ERR_OK && d->rows && d->threshold < 1) rc = join_near(d, threads, err);
    for (uint32_t i = 0; i < LANES_MAX; i++) {
        mem_free(d->lane[i].entries);
        mem_free(d->lane[i].spare);
        mem_free(d->lane[i].set);
        d->lane[i].entries = d->lane[i].spare = NULL;
        d->lane[i].set = NULL;
    }
    for (uint32_t i = 0; rc == ERR_OK && i < d->rows; i++) /* a parent is smaller: its own root is known */
        atomic_store_explicit(&d->parent[i], dedup_first(d, dedup_first(d, i)), memory_order_relaxed);
    return rc;
}
