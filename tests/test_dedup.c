/* tests/test_dedup.c - signatures estimate what they should, groups hold what they should, whatever the rows. */
#include "core/buf.h"
#include "core/mem.h"
#include "core/rng.h"
#include "data/dedup.h"
#include "data/split.h"
#include "tests/unit.h"

/* Word number i of a vocabulary; the same word for the same i. */
static void put_word(Buf *out, uint64_t i) {
    buf_printf(out, "%sw%llx", out->len ? " " : "", (unsigned long long)(rng_mix(i) & 0xffffffff));
}

static DedupSignature signature_of(const char *text) {
    DedupSignature s;
    dedup_signature(&s, text, strlen(text));
    return s;
}

/* A text of `words` words that no other `number` has, of which those from `same` on are those of `twin`. */
static DedupSignature planted(uint64_t number, uint64_t twin, size_t words, size_t same) {
    Buf text = {0};
    for (size_t i = 0; i < words; i++) put_word(&text, (i < same ? twin : number) << 20 | i);
    assert_int_equal(buf_ok(&text, NULL), ERR_OK);
    DedupSignature s;
    dedup_signature(&s, text.data, text.len);
    buf_free(&text);
    return s;
}

/* How alike two such texts are: they share the same - 1 first pairs of words. */
static double jaccard(size_t words, size_t same) {
    const double shared = (double)same - 1, all = 2 * ((double)words - 1) - shared;
    return shared / all;
}

static void test_words(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        double similarity, off;
    } PAIRS[] = {
        {"Why is the sky blue?", "why  is the SKY blue", 1, 0},
        {"", "", 1, 0},
        {"?!", "?!", 1, 0},
        {"?!", "...", 0, 0.02},
        {"word", "Word!", 1, 0},
        {"word", "other", 0, 0.02},
        {"don't", "dont", 1, 0}, /* one key */
        {"one two", "two one", 0, 0.02},
        {"one two three", "one two three four", 2.0 / 3, 0.1},
        {"one two one two one two", "one two one", 1, 0}, /* sets */
        {"a b c d e f g h i j", "a b c d e f g h i k", 8.0 / 10, 0.08},
        {"\xe6\x88\x91\xe7\x88\xb1\xe4\xbd\xa0\xe4\xbb\xac", /* four Han characters, the last another one: 2 of 4 */
         "\xe6\x88\x91\xe7\x88\xb1\xe4\xbd\xa0\xe5\xa5\xbd", 0.5, 0.1},
        {"\xff\xfe broken", "\xff\xfe broken bytes", 0.5, 0.1},
    };
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++) {
        const DedupSignature a = signature_of(PAIRS[i].a), b = signature_of(PAIRS[i].b);
        const double got = dedup_similarity(&a, &b);
        if (fabs(got - PAIRS[i].similarity) > PAIRS[i].off + 1e-12)
            fail_msg("'%s' and '%s': found %g, expected %g", PAIRS[i].a, PAIRS[i].b, got,
                     PAIRS[i].similarity);
        assert_true(dedup_similarity(&b, &a) == got);
    }
}

/* The estimate's mean is the similarity and its spread what theory says, for few shingles and for many (which are not
 * kept, but walked again). */
static void test_estimate(void **state) {
    (void)state;
    static const size_t WORDS[] = {3, 8, 20, 100, 513, 514, 2000};
    for (size_t w = 0; w < sizeof WORDS / sizeof *WORDS; w++) {
        const size_t words = WORDS[w], same = words - (words + 7) / 8;
        const double expected = jaccard(words, same);
        double sum = 0, square = 0;
        enum { TIMES = 200 };
        for (uint64_t i = 0; i < TIMES; i++) {
            const DedupSignature a = planted(2 * i + 1, 2 * i + 1, words, 0),
                                 b = planted(2 * i + 2, 2 * i + 1, words, same);
            const double off = dedup_similarity(&a, &b) - expected;
            sum += off;
            square += off * off;
        }
        const double sigma = sqrt(expected * (1 - expected) / DEDUP_VALUES);
        /* four standard errors of the mean; the spread's own error at 200 is 5 %, and chance agreement adds 1/256 */
        if (fabs(sum / TIMES) > 4 * sigma / sqrt(TIMES) || sqrt(square / TIMES) > 1.25 * sigma + 0.002)
            fail_msg("%zu words, similarity %g: off by %g, spread %g, expected %g", words, expected,
                     sum / TIMES, sqrt(square / TIMES), sigma);
    }
}

static Dedup *opened(double threshold) {
    Dedup *d;
    Err err = {0};
    ok(dedup_open(&d, threshold, &err), &err);
    return d;
}

static void add(Dedup *d, DedupSignature s) {
    Err err = {0};
    ok(dedup_add(d, &s, &err), &err);
}

static void group(Dedup *d, Threads *threads) {
    Err err = {0};
    ok(dedup_group(d, threads, &err), &err);
    for (uint32_t i = 0; i < dedup_rows(d); i++) {
        const uint32_t first = dedup_first(d, i);
        assert_true(first <= i && dedup_first(d, first) == first);
    }
}

/* Pairs of a known similarity among strangers: found 0.1 above the threshold, not joined 0.15 below it. */
static void test_recall(void **state) {
    (void)state;
    enum { PAIRS_OF = 400, WORDS = 60 };
    for (int tenths = 5; tenths <= 9; tenths++) {
        const double threshold = tenths / 10.0;
        Dedup *d = opened(threshold);
        size_t above = WORDS, below = WORDS;
        while (above > 2 && jaccard(WORDS, above - 1) >= threshold + 0.1) above--;
        if (above > WORDS - 1) above = WORDS - 1; /* 0.9: all but the last word, 0.967 */
        while (jaccard(WORDS, below) > threshold - 0.15) below--;
        for (uint64_t i = 0; i < PAIRS_OF; i++) { /* rows 3i, 3i + 1: above; 3i + 2: below */
            add(d, planted(4 * i + 1, 4 * i + 1, WORDS, 0));
            add(d, planted(4 * i + 2, 4 * i + 1, WORDS, above));
            add(d, planted(4 * i + 3, 4 * i + 1, WORDS, below));
        }
        group(d, NULL);
        uint32_t found = 0, wrong = 0;
        for (uint32_t i = 0; i < PAIRS_OF; i++) {
            found += dedup_first(d, 3 * i + 1) == 3 * i;
            wrong += dedup_first(d, 3 * i + 2) != 3 * i + 2 || dedup_first(d, 3 * i) != 3 * i;
        }
        if (found < 0.95 * PAIRS_OF || wrong > 0)
            fail_msg("threshold %g: %u of %d pairs found, %u joined wrongly", threshold, found, PAIRS_OF,
                     wrong);
        dedup_close(d);
    }
}

static void test_groups(void **state) {
    (void)state;
    static const char *const ROWS[] = {
        "the quick brown fox jumps over the lazy dog and then it sleeps for a whole day in the warm sun",
        "what is the capital of france",
        "THE quick brown fox jumps over the lazy dog and then it sleeps for a whole day in the warm sun!",
        "the quick brown fox jumps over the lazy dog and then it sleeps for a whole day in the warm rain",
        "now quick brown fox jumps over the lazy dog and then it sleeps for a whole day in the warm rain",
        "What is the capital of France?",
        "now quick brown fox jumps over the lazy dog and then it sleeps for a whole day in the hot rain",
        "what is the capital of spain",
    };
    static const uint32_t EXACT[] = {0, 1, 0, 3, 4, 1, 6, 7}, NEAR[] = {0, 1, 0, 0, 0, 1, 0, 7};
    for (int exact = 0; exact < 2; exact++) {
        Dedup *d = opened(exact ? 1 : 0.75);
        for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) add(d, signature_of(ROWS[i]));
        group(d, NULL);
        for (uint32_t i = 0; i < 8; i++) assert_int_equal(dedup_first(d, i), exact ? EXACT[i] : NEAR[i]);
        assert_int_equal(exact ? dedup_compared(d) : 0, 0);
        assert_int_equal(dedup_at(d, 5)->key, dedup_at(d, 1)->key);
        dedup_close(d);
    }
    Dedup *none = opened(0.8);
    group(none, NULL);
    assert_int_equal(dedup_rows(none), 0);
    dedup_close(none);
    dedup_close(NULL);
    for (int i = 0; i < 3; i++) {
        Dedup *d;
        Err err = {0};
        assert_int_equal(dedup_open(&d, (const double[]){0.49, 1.01, (double)NAN}[i], &err), ERR_ARGUMENT);
        assert_null(d);
        assert_non_null(strstr(err.msg, "expected 0.5 to 1"));
    }
}

/* Clusters, chains, copies and templates: the same groups and the same work with 1, 2, 3 and 9 threads, and in any order
 * of the rows. */
static void test_threads(void **state) {
    (void)state;
    enum { ROWS = 6000 };
    uint32_t *first;
    uint64_t compared = 0;
    assert_int_equal(mem_new(&first, ROWS, sizeof *first, "rows", NULL), ERR_OK);
    static const int COUNTS[] = {1, 2, 3, 9};
    for (size_t c = 0; c < 4; c++) {
        Threads *threads;
        Err err = {0};
        ok(threads_open(&threads, COUNTS[c], &err), &err);
        Dedup *d = opened(0.7);
        for (uint64_t at = 0; at < ROWS; at++) {
            const uint64_t i = c == 2 ? ROWS - 1 - at : at;
            const uint64_t kind = rng_key(7, "kind", i) % 4, twin = rng_key(7, "twin", i) % 500;
            const size_t words = 12 + (size_t)(twin % 20);
            DedupSignature s = planted(1000 + i, kind == 3 ? 999 : twin, words,
                                       kind == 0 ? words : words - (size_t)kind - 1);
            if (kind == 0) s.values[rng_key(7, "where", i) % DEDUP_VALUES] ^= 1; /* one key, other words */
            add(d, s);
        }
        group(d, threads);
        uint32_t groups = 0;
        for (uint32_t i = 0; i < ROWS; i++) {
            const uint32_t at = c == 2 ? ROWS - 1 - i : i;
            groups += dedup_first(d, i) == i;
            if (c == 0) first[i] = dedup_first(d, i);
            if (c == 2)
                assert_int_equal(dedup_first(d, at), dedup_first(d, ROWS - 1 - first[i]));
            else
                assert_int_equal(dedup_first(d, i), first[i]);
        }
        assert_in_range(groups, 100, ROWS / 2);
        if (c == 0) compared = dedup_compared(d);
        assert_int_equal(dedup_compared(d), compared);
        dedup_close(d);
        threads_close(threads);
    }
    mem_free(first);
}

/* A template: all rows share the first band's bucket and large ones of the others, none alike enough, but for pairs
 * planted far from each other. Bounded work, pairs found. */
static void test_one_bucket(void **state) {
    (void)state;
    enum { ROWS = 20000, TWINS = 500 };
    Dedup *d = opened(0.8);
    for (uint32_t i = 0; i < ROWS; i++) {
        DedupSignature s = {.key = i};
        const uint32_t of = i >= ROWS - TWINS ? i - (ROWS - TWINS) : i;
        for (uint32_t k = 0; k < DEDUP_VALUES; k++) { /* half of the values are common to two rows */
            const uint64_t h = rng_bits(rng_key(of, "value", 0), k);
            s.values[k] = (uint8_t)(k < 9 || h % 100 < 70 ? k : h >> 32);
            if (of != i && rng_bits(rng_key(i, "twin", 0), k) % 100 < 4)
                s.values[k] = (uint8_t)rng_bits(rng_key(i, "other", 0), k);
        }
        add(d, s);
    }
    group(d, NULL);
    uint32_t found = 0, wrong = 0;
    for (uint32_t i = 0; i < ROWS; i++) {
        if (i >= ROWS - TWINS)
            found += dedup_first(d, i) == i - (ROWS - TWINS);
        else
            wrong += dedup_first(d, i) != i;
    }
    assert_true(dedup_compared(d) < (uint64_t)ROWS * 256 * 24);
    assert_true(found >= 0.95 * TWINS);
    assert_int_equal(wrong, 0);
    dedup_close(d);

    d = opened(0.8); /* one cluster of near copies: one comparison for each row and band joins it */
    for (uint32_t i = 0; i < ROWS; i++) {
        DedupSignature s = {.key = i};
        s.values[i % DEDUP_VALUES] = (uint8_t)(i / DEDUP_VALUES);
        add(d, s);
    }
    group(d, NULL);
    for (uint32_t i = 0; i < ROWS; i++) assert_int_equal(dedup_first(d, i), 0);
    assert_true(dedup_compared(d) < (uint64_t)ROWS * 24);
    dedup_close(d);

    d = opened(0.8); /* keys that differ in their upper halves alone */
    for (uint32_t i = 0; i < ROWS; i++) {
        DedupSignature s = {.key = (uint64_t)(i % 1000) << 32};
        for (uint32_t k = 0; k < DEDUP_VALUES; k++)
            s.values[k] = (uint8_t)rng_bits(rng_key(i % 1000, "value", 0), k);
        add(d, s);
    }
    group(d, NULL);
    for (uint32_t i = 0; i < ROWS; i++) assert_int_equal(dedup_first(d, i), i % 1000);
    dedup_close(d);
}

static ErrCode all_of_it(Threads *threads, Err *err) {
    Dedup *d;
    TRY(dedup_open(&d, 0.8, err));
    ErrCode rc = ERR_OK;
    for (uint32_t i = 0; i < 5000 && rc == ERR_OK; i++) {
        DedupSignature s = {.key = i / 2, .values = {(uint8_t)(i / 4)}};
        rc = dedup_add(d, &s, err);
    }
    if (rc == ERR_OK) rc = dedup_group(d, threads, err);
    dedup_close(d);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    Threads *threads;
    Err err = {0};
    ok(threads_open(&threads, 2, &err), &err);
    const size_t before = mem_count();
    ok(all_of_it(threads, &err), &err);
    const size_t allocations = mem_count() - before;
    assert_in_range(allocations, 8, 100);
    for (size_t n = 1; n <= allocations; n++) {
        mem_fail_at(n);
        err = (Err){0};
        assert_int_equal(all_of_it(threads, &err), ERR_MEMORY);
        assert_true(err.msg[0]);
    }
    mem_fail_at(0);
    threads_close(threads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),  cmocka_unit_test(test_estimate), cmocka_unit_test(test_recall),
        cmocka_unit_test(test_groups), cmocka_unit_test(test_threads),  cmocka_unit_test(test_one_bucket),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("dedup", tests, NULL, NULL);
}
