#include "data/leak.h"

#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "data/words.h"

enum { NAME_WORDS = 6, START_MIN = 3, START_MAX = 4, EACH_MAX = 48, EACH_MIN = 4, SUPPORT = 3 };

/* One n-gram of one label in the sample. */
typedef struct {
    uint64_t hash;
    uint32_t label, count;
} Pair;

typedef struct {
    uint64_t hash;
    double score; /* in the sample, until the rows are counted */
} Candidate;

typedef struct {
    uint64_t all, own, stamp; /* stamp: the last row that had it */
} Count;

typedef struct {
    uint64_t *hashes; /* 0: free */
    uint32_t *items;
    size_t slots;
} Lookup;

struct Leak {
    int K, threads;
    size_t each;          /* candidates of a label at most */
    LeakGram *grams;      /* (K, each) then the names (K) */
    size_t *count;        /* (K) */
    uint64_t *label_rows; /* (K) */
    uint64_t rows;
    Lookup lookup;
    Count *counts;     /* (threads, K * each + K) */
    uint64_t *serials; /* (threads): rows that the thread has counted */
    unsigned lengths;  /* bit m: some label's name has m words */
};

static size_t gram_count(const Leak *l) {
    return (size_t)l->K * l->each + (size_t)l->K;
}

/* ---- the n-grams of a text ---- */

static uint64_t salted(LeakKind kind) {
    return rng_mix(0x6c65616b00u + (uint64_t)kind);
}

/* from, to: the bytes that an n-gram came from. */
typedef void Emit(void *arg, uint64_t hash, LeakKind kind, size_t from, size_t to);

static void each_gram(const char *text, size_t n, unsigned name_lengths, Emit *emit, void *arg) {
    Words words = {.text = text, .n = n};
    Word word;
    uint64_t last[NAME_WORDS] = {0}, start = salted(LEAK_START);
    size_t first = 0, previous = 0;
    for (size_t seen = 0; seen < LEAK_WORDS && words_next(&words, &word); seen++) {
        if (seen == 0) first = word.from;
        emit(arg, words_join(salted(LEAK_WORD), word.hash), LEAK_WORD, word.from, word.to);
        if (seen)
            emit(arg, words_join(words_join(salted(LEAK_PAIR), last[(seen - 1) % NAME_WORDS]), word.hash),
                 LEAK_PAIR, previous, word.to);
        start = words_join(start, word.hash);
        if (seen + 1 >= START_MIN && seen + 1 <= START_MAX) emit(arg, start, LEAK_START, first, word.to);
        last[seen % NAME_WORDS] = word.hash;
        previous = word.from;
        for (size_t m = 1; m <= NAME_WORDS && m <= seen + 1; m++) {
            if (!(name_lengths >> m & 1)) continue;
            uint64_t h = salted(LEAK_NAME);
            for (size_t i = m; i-- > 0;) h = words_join(h, last[(seen - i) % NAME_WORDS]);
            emit(arg, h, LEAK_NAME, 0, 0);
        }
    }
}

/* ---- candidates from the sample ---- */

typedef struct {
    Pair *pairs;           /* (slots), a power of two up to 2 * LEAK_TABLE; count 0: free */
    size_t used, slots;    /* at most half of them are used */
    uint32_t label, floor; /* entries counted no more often than floor are dropped when the table is full */
    uint64_t *seen;        /* hashes of the row at hand, open addressing by stamp */
    uint32_t *stamps, stamp;
} Sampling;

enum { SEEN_SLOTS = 4096 }; /* a row has at most 2 * LEAK_WORDS + 1 n-grams */

static bool seen_in_row(Sampling *s, uint64_t hash) {
    size_t at = (size_t)hash & (SEEN_SLOTS - 1);
    for (; s->stamps[at] == s->stamp; at = (at + 1) & (SEEN_SLOTS - 1))
        if (s->seen[at] == hash) return true;
    s->stamps[at] = s->stamp;
    s->seen[at] = hash;
    return false;
}

static Pair *pair_at(Pair *pairs, size_t slots, uint64_t hash, uint32_t label) {
    size_t at = (size_t)rng_mix(hash + label) & (slots - 1);
    while (pairs[at].count && (pairs[at].hash != hash || pairs[at].label != label))
        at = (at + 1) & (slots - 1);
    return &pairs[at];
}

/* Makes room: twice the slots, or, when the table is as large as it may be, without the entries that are counted least. */
static ErrCode make_room(Sampling *s, Err *err) {
    const size_t slots = s->slots < 2 * LEAK_TABLE ? 2 * s->slots : s->slots;
    size_t kept = s->used;
    while (slots == s->slots && kept > LEAK_TABLE / 2) {
        s->floor++;
        kept = 0;
        for (size_t i = 0; i < s->slots; i++) kept += s->pairs[i].count > s->floor;
    }
    Pair *pairs;
    TRY(mem_new(&pairs, slots, sizeof *pairs, "counts of n-grams", err));
    for (size_t i = 0; i < s->slots; i++) {
        const Pair *p = &s->pairs[i];
        if (p->count > s->floor) *pair_at(pairs, slots, p->hash, p->label) = *p;
    }
    mem_free(s->pairs);
    s->pairs = pairs;
    s->slots = slots;
    s->used = kept;
    return ERR_OK;
}

static void count_pair(void *arg, uint64_t hash, LeakKind kind, size_t from, size_t to) {
    (void)kind;
    (void)from;
    (void)to;
    Sampling *s = arg;
    if (seen_in_row(s, hash)) return;
    Pair *p = pair_at(s->pairs, s->slots, hash, s->label);
    if (!p->count) {
        *p = (Pair){hash, s->label, s->floor};
        s->used++;
    }
    p->count++;
}

static ErrCode sample_pairs(Sampling *s, const RowText *texts, const int *labels, size_t count, Err *err) {
    s->slots = 4 * SEEN_SLOTS; /* a row's n-grams fit into the free half */
    TRY(mem_new(&s->pairs, s->slots, sizeof *s->pairs, "counts of n-grams", err));
    TRY(mem_new(&s->seen, SEEN_SLOTS, sizeof *s->seen, "counts of n-grams", err));
    TRY(mem_new(&s->stamps, SEEN_SLOTS, sizeof *s->stamps, "counts of n-grams", err));
    for (size_t i = 0; i < count; i++) {
        s->label = (uint32_t)labels[i];
        s->stamp++;
        each_gram(texts[i].text, texts[i].n, 0, count_pair, s);
        if (2 * (s->used + SEEN_SLOTS) > s->slots) TRY(make_room(s, err));
    }
    return ERR_OK;
}

static int by_hash(const void *a, const void *b) {
    const Pair *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->label < y->label ? -1 : x->label > y->label;
}

static double score_of(double share, double precision, double prior) {
    if (!(prior < 1) || precision <= prior) return 0;
    const double excess = (precision - prior) / (1 - prior);
    return share * excess * excess;
}

/* Into the label's list, which is kept sorted: better score, then smaller hash, first. */
static void offer(Leak *l, Candidate *lists, int label, Candidate c) {
    Candidate *list = lists + (size_t)label * l->each;
    size_t n = l->count[label], at = n;
    while (at > 0 &&
           (c.score > list[at - 1].score || (!(c.score < list[at - 1].score) && c.hash < list[at - 1].hash)))
        at--;
    if (at == l->each) return;
    if (n == l->each) n--;
    memmove(list + at + 1, list + at, (n - at) * sizeof *list);
    list[at] = c;
    l->count[label] = n + 1;
}

/* The n-grams of one hash, one entry a label: the label of the best score gets it. */
static void judge(Leak *l, Candidate *lists, const Pair *pairs, size_t n, const uint64_t *sampled) {
    double total = 0, best = 0;
    int label = -1;
    for (size_t i = 0; i < n; i++)
        total += pairs[i].count * (double)l->label_rows[pairs[i].label] / (double)sampled[pairs[i].label];
    for (size_t i = 0; i < n; i++) {
        const uint32_t k = pairs[i].label;
        if (pairs[i].count < SUPPORT) continue;
        const double share = pairs[i].count / (double)sampled[k], all = (double)l->label_rows[k];
        const double score = score_of(share, share * all / total, all / (double)l->rows);
        if (score > best) {
            best = score;
            label = (int)k;
        }
    }
    if (label >= 0) offer(l, lists, label, (Candidate){pairs[0].hash, best});
}

static ErrCode choose(Leak *l, Candidate *lists, Sampling *s, const int *labels, size_t count, Err *err) {
    uint64_t *sampled;
    TRY(mem_new(&sampled, (size_t)l->K, sizeof *sampled, "counts of n-grams", err));
    for (size_t i = 0; i < count; i++) sampled[labels[i]]++;
    size_t n = 0;
    for (size_t i = 0; i < s->slots; i++)
        if (s->pairs[i].count) s->pairs[n++] = s->pairs[i];
    if (n) qsort(s->pairs, n, sizeof *s->pairs, by_hash);
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && s->pairs[to].hash == s->pairs[from].hash;) to++;
        judge(l, lists, s->pairs + from, to - from, sampled);
    }
    mem_free(sampled);
    return ERR_OK;
}

/* ---- the grams that are counted ---- */

static uint32_t *lookup_at(const Lookup *t, uint64_t hash) {
    size_t at = (size_t)hash & (t->slots - 1);
    while (t->hashes[at] && t->hashes[at] != hash) at = (at + 1) & (t->slots - 1);
    return t->hashes[at] ? &t->items[at] : NULL;
}

static void lookup_add(const Lookup *t, uint64_t hash, uint32_t item) {
    size_t at = (size_t)hash & (t->slots - 1);
    while (t->hashes[at] && t->hashes[at] != hash) at = (at + 1) & (t->slots - 1);
    if (t->hashes[at]) return; /* two labels that differ only in case: the first has the name */
    t->hashes[at] = hash;
    t->items[at] = item;
}

static uint64_t name_hash(const char *name, size_t *count) {
    Words words = {.text = name, .n = strlen(name)};
    Word word;
    uint64_t h = salted(LEAK_NAME);
    for (*count = 0; words_next(&words, &word); ++*count) h = words_join(h, word.hash);
    return h;
}

static ErrCode put_text(LeakGram *gram, const char *text, size_t n, Err *err) {
    Buf low = {0};
    words_put(&low, text, n);
    ErrCode rc = buf_ok(&low, err);
    if (rc == ERR_OK && !(gram->text = mem_strndup(low.data ? low.data : "", low.len)))
        rc = err_set(err, ERR_MEMORY, "out of memory for n-grams");
    buf_free(&low);
    return rc;
}

static ErrCode add_names(Leak *l, const Names *labels, Err *err) {
    for (int k = 0; k < l->K; k++) {
        const size_t at = (size_t)l->K * l->each + (size_t)k;
        size_t words;
        const uint64_t hash = name_hash(labels->items[k], &words);
        l->grams[at] = (LeakGram){.kind = LEAK_NAME, .label = k};
        TRY(put_text(&l->grams[at], labels->items[k], strlen(labels->items[k]), err));
        if (words < 1 || words > NAME_WORDS) continue;
        l->lengths |= 1u << words;
        lookup_add(&l->lookup, hash, (uint32_t)at);
    }
    return ERR_OK;
}

typedef struct {
    Leak *leak;
    const char *text;
    size_t left; /* candidates without a text */
    ErrCode rc;
    Err *err;
} Naming;

static void name_gram(void *arg, uint64_t hash, LeakKind kind, size_t from, size_t to) {
    Naming *n = arg;
    const uint32_t *item = lookup_at(&n->leak->lookup, hash);
    if (!item || n->rc != ERR_OK || n->leak->grams[*item].text) return;
    n->leak->grams[*item].kind = kind;
    n->rc = put_text(&n->leak->grams[*item], n->text + from, to - from, n->err);
    n->left--;
}

static ErrCode add_candidates(Leak *l, const Candidate *lists, const RowText *texts, size_t count, Err *err) {
    Naming naming = {.leak = l, .err = err};
    for (int k = 0; k < l->K; k++) {
        for (size_t i = 0; i < l->count[k]; i++) {
            const size_t at = (size_t)k * l->each + i;
            l->grams[at].label = k;
            lookup_add(&l->lookup, lists[at].hash, (uint32_t)at);
            naming.left++;
        }
    }
    for (size_t i = 0; i < count && naming.left && naming.rc == ERR_OK; i++) {
        naming.text = texts[i].text;
        each_gram(texts[i].text, texts[i].n, 0, name_gram, &naming);
    }
    return naming.rc;
}

static ErrCode allocate(Leak *l, Err *err) {
    const size_t n = gram_count(l);
    l->lookup.slots = 64;
    while (l->lookup.slots < 4 * n) l->lookup.slots *= 2;
    TRY(mem_new(&l->grams, n, sizeof *l->grams, "n-grams", err));
    TRY(mem_new(&l->count, (size_t)l->K, sizeof *l->count, "n-grams", err));
    TRY(mem_new(&l->label_rows, (size_t)l->K, sizeof *l->label_rows, "n-grams", err));
    TRY(mem_new(&l->lookup.hashes, l->lookup.slots, sizeof(uint64_t), "n-grams", err));
    TRY(mem_new(&l->lookup.items, l->lookup.slots, sizeof(uint32_t), "n-grams", err));
    TRY(mem_new(&l->counts, (size_t)l->threads * n, sizeof *l->counts, "counts of n-grams", err));
    return mem_new(&l->serials, (size_t)l->threads, sizeof *l->serials, "counts of n-grams", err);
}

ErrCode leak_open(Leak **out, const RowText *texts, const int *text_labels, size_t count, const Names *labels,
                  const uint64_t *label_rows, int threads, Err *err) {
    *out = NULL;
    Leak *l;
    TRY(mem_new(&l, 1, sizeof *l, "n-grams", err));
    *l = (Leak){.K = (int)labels->count, .threads = threads};
    l->each = LEAK_CANDIDATES / (labels->count ? labels->count : 1);
    l->each = l->each > EACH_MAX ? EACH_MAX : l->each < EACH_MIN ? EACH_MIN : l->each;
    Candidate *lists = NULL;
    Sampling sampling = {0};
    ErrCode rc = allocate(l, err);
    if (rc == ERR_OK) rc = mem_new(&lists, (size_t)l->K * l->each + 1, sizeof *lists, "n-grams", err);
    for (int k = 0; rc == ERR_OK && k < l->K; k++) l->rows += l->label_rows[k] = label_rows[k];
    if (rc == ERR_OK) rc = sample_pairs(&sampling, texts, text_labels, count, err);
    if (rc == ERR_OK) rc = choose(l, lists, &sampling, text_labels, count, err);
    if (rc == ERR_OK) rc = add_names(l, labels, err);
    if (rc == ERR_OK) rc = add_candidates(l, lists, texts, count, err);
    mem_free(lists);
    mem_free(sampling.pairs);
    mem_free(sampling.seen);
    mem_free(sampling.stamps);
    if (rc == ERR_OK)
        *out = l;
    else
        leak_close(l);
    return rc;
}

void leak_close(Leak *l) {
    if (!l) return;
    for (size_t i = 0; l->grams && i < gram_count(l); i++) mem_free(l->grams[i].text);
    mem_free(l->grams);
    mem_free(l->count);
    mem_free(l->label_rows);
    mem_free(l->lookup.hashes);
    mem_free(l->lookup.items);
    mem_free(l->counts);
    mem_free(l->serials);
    mem_free(l);
}

/* ---- counting all rows ---- */

typedef struct {
    const Leak *leak;
    Count *counts;
    uint64_t serial;
    int label;
} Counting;

static void count_gram(void *arg, uint64_t hash, LeakKind kind, size_t from, size_t to) {
    (void)kind;
    (void)from;
    (void)to;
    const Counting *c = arg;
    const uint32_t *item = lookup_at(&c->leak->lookup, hash);
    if (!item) return;
    Count *count = &c->counts[*item];
    if (count->stamp == c->serial) return;
    count->stamp = c->serial;
    count->all++;
    count->own += c->leak->grams[*item].label == c->label;
}

void leak_count(Leak *l, int label, const char *text, size_t n, int thread) {
    Counting counting = {.leak = l,
                         .counts = l->counts + (size_t)thread * gram_count(l),
                         .serial = ++l->serials[thread],
                         .label = label};
    each_gram(text, n, l->lengths, count_gram, &counting);
}

static int by_score(const void *a, const void *b) {
    const LeakGram *x = a, *y = b;
    if (x->score > y->score || x->score < y->score) return x->score > y->score ? -1 : 1;
    if (x->rows != y->rows) return x->rows > y->rows ? -1 : 1;
    return strcmp(x->text, y->text);
}

void leak_finish(Leak *l) {
    for (size_t i = 0; i < gram_count(l); i++) {
        LeakGram *g = &l->grams[i];
        g->rows = g->rows_own = 0;
        for (int t = 0; t < l->threads; t++) {
            g->rows += l->counts[(size_t)t * gram_count(l) + i].all;
            g->rows_own += l->counts[(size_t)t * gram_count(l) + i].own;
        }
        const double own = (double)l->label_rows[g->label];
        g->share = own > 0 ? (double)g->rows_own / own : 0;
        g->precision = g->rows ? (double)g->rows_own / (double)g->rows : 0;
        g->score = l->rows ? score_of(g->share, g->precision, own / (double)l->rows) : 0;
    }
    for (int k = 0; k < l->K; k++)
        qsort(l->grams + (size_t)k * l->each, l->count[k], sizeof *l->grams, by_score);
}

const LeakGram *leak_of(const Leak *l, int label, size_t *count) {
    *count = l->count[label];
    return l->grams + (size_t)label * l->each;
}

LeakGram leak_name(const Leak *l, int label) {
    return l->grams[(size_t)l->K * l->each + (size_t)label];
}

const char *leak_kind_name(LeakKind kind) {
    static const char *const NAMES[] = {"word", "pair", "beginning", "label name"};
    return (unsigned)kind <= LEAK_NAME ? NAMES[kind] : "none";
}
