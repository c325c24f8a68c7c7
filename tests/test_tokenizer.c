/* tests/test_tokenizer.c - tokenizer/: published ids, threads, truncation, training, hostile models, the
 * command. */
#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/threads.h"
#include "tests/tiny_spm.h"
#include "tests/unit.h"
#include "tokenizer/spm.h"
#include "tokenizer/spm_check.h"
#include "tokenizer/tokenize_cmd.h"
#include "tokenizer/tokenizer.h"

static Tokenizer *published; /* NULL where ../shared is missing */
static Tokenizer *trained;   /* on made-up words */
static Buf trained_model;

static void need_published(void) {
    if (published) return;
    print_message("%s is missing; ROUTER_SHARED names another folder\n", shared("deberta-v3-tokenizer"));
    skip();
}

static int32_t id_at(const Buf *ids, size_t i) {
    int32_t id;
    memcpy(&id, ids->data + i * sizeof id, sizeof id);
    return id;
}

static void assert_same_ids(const Buf *got, const Buf *want) {
    assert_int_equal(got->len, want->len);
    if (want->len) assert_memory_equal(got->data, want->data, want->len);
}

static void encode(const Tokenizer *t, TokenizerRule rule, const char *text, size_t n, Buf *ids,
                   size_t *whole) {
    Err err = {0};
    buf_clear(ids);
    OK(tokenizer_encode(t, &rule, text, n, ids, whole, &err));
}

/* ---- published ids ---- */

static void assert_ids(const Buf *ids, const cJSON *want, const char *what, size_t line) {
    const size_t count = ids->len / sizeof(int32_t);
    if ((int)count != cJSON_GetArraySize(want))
        fail_msg("line %zu, %s: %zu ids, expected %d", line, what, count, cJSON_GetArraySize(want));
    const cJSON *item;
    size_t i = 0;
    cJSON_ArrayForEach(item, want) {
        if (id_at(ids, i) != item->valueint)
            fail_msg("line %zu, %s: id %zu is %d, expected %d", line, what, i, id_at(ids, i), item->valueint);
        i++;
    }
}

/* One line of tokenizer.jsonl; returns how many lists of ids it compared. */
static int check_golden(cJSON *root, size_t line) {
    Buf ids = {0};
    size_t n, whole, part;
    int compared = 0;
    const char *text = json_text(cJSON_GetObjectItemCaseSensitive(root, "text"), &n);
    const cJSON *want = cJSON_GetObjectItemCaseSensitive(root, "ids");
    encode(published, (TokenizerRule){0}, text, n, &ids, &whole);
    assert_ids(&ids, want, "ids", line);
    compared++;
    assert_int_equal(whole, cJSON_GetArraySize(want));
    const cJSON *tokens = cJSON_GetObjectItemCaseSensitive(root, "tokens"), *token;
    size_t i = 0;
    cJSON_ArrayForEach(token, tokens) {
        assert_string_equal(tokenizer_piece(published, id_at(&ids, i)), token->valuestring);
        i++;
    }
    const cJSON *plain = cJSON_GetObjectItemCaseSensitive(root, "ids_plain");
    encode(published, (TokenizerRule){.plain = true}, text, n, &ids, NULL);
    assert_ids(&ids, plain ? plain : want, "ids_plain", line);
    compared++;
    const cJSON *cut = cJSON_GetObjectItemCaseSensitive(root, "ids_trunc512");
    if (cut || whole <= 512) {
        encode(published, (TokenizerRule){.max_tokens = 512}, text, n, &ids, &part);
        assert_ids(&ids, cut ? cut : want, "ids_trunc512", line);
        assert_int_equal(part, whole);
        encode(published, (TokenizerRule){.max_tokens = 512}, text, n, &ids, NULL);
        assert_ids(&ids, cut ? cut : want, "ids_trunc512, stopping early", line);
        compared += 2;
    }
    buf_free(&ids);
    return compared;
}

static void test_golden_texts(void **state) {
    (void)state;
    need_published();
    Lines *lines;
    assert_int_equal(lines_open(&lines, shared("golden/tokenizer.jsonl"), NULL), ERR_OK);
    int compared = 0;
    for (;;) {
        const char *text;
        size_t n;
        bool more;
        assert_int_equal(lines_next(lines, &text, &n, &more, NULL), ERR_OK);
        if (!more) break;
        cJSON *root;
        assert_int_equal(json_parse(&root, text, n, NULL), ERR_OK);
        compared += check_golden(root, lines_number(lines));
        cJSON_Delete(root);
    }
    assert_int_equal(lines_number(lines), 400);
    assert_true(compared > 1500);
    lines_close(lines);
}

static void test_golden_bytes(void **state) {
    (void)state;
    need_published();
    Lines *lines;
    assert_int_equal(lines_open(&lines, shared("golden/tokenizer_bytes.jsonl"), NULL), ERR_OK);
    for (;;) {
        const char *text;
        size_t n;
        bool more;
        assert_int_equal(lines_next(lines, &text, &n, &more, NULL), ERR_OK);
        if (!more) break;
        cJSON *root;
        assert_int_equal(json_parse(&root, text, n, NULL), ERR_OK);
        const char *hex = cJSON_GetObjectItemCaseSensitive(root, "hex")->valuestring;
        Buf bytes = {0}, ids = {0};
        for (size_t i = 0; hex[i]; i += 2) {
            const char pair[3] = {hex[i], hex[i + 1], 0};
            const char c = (char)strtol(pair, NULL, 16);
            buf_put(&bytes, &c, 1);
        }
        encode(published, (TokenizerRule){.plain = true}, bytes.data ? bytes.data : "", bytes.len, &ids,
               NULL);
        assert_ids(&ids, cJSON_GetObjectItemCaseSensitive(root, "ids"), hex, lines_number(lines));
        buf_free(&bytes);
        buf_free(&ids);
        cJSON_Delete(root);
    }
    assert_int_equal(lines_number(lines), 30);
    lines_close(lines);
}

static void test_published(void **state) {
    (void)state;
    need_published();
    const TokenizerSpecials s = tokenizer_specials(published);
    assert_int_equal(s.pad, 0);
    assert_int_equal(s.cls, 1);
    assert_int_equal(s.sep, 2);
    assert_int_equal(s.unk, 3);
    assert_int_equal(s.mask, 128000);
    assert_int_equal(tokenizer_ids(published), 128001);
    assert_string_equal(tokenizer_digest(published),
                        "c679fbf93643d19aab7ee10c0b99e460bdbc02fedf34b92b05af343b4af586fd");
    size_t n;
    assert_non_null(tokenizer_model(published, &n));
    assert_int_equal(n, 2464616);
    assert_string_equal(tokenizer_piece(published, 262), "\xe2\x96\x81the");
    assert_string_equal(tokenizer_piece(published, 128000), "[MASK]");
    assert_string_equal(tokenizer_piece(published, 128001), "");
    assert_string_equal(tokenizer_piece(published, -1), "");
    SpmFacts facts;
    assert_int_equal(spm_check(&facts, tokenizer_model(published, &n), n, NULL), ERR_OK);
    assert_true(facts.cuts_at_space);
    assert_int_equal(facts.pieces, 128000);
}

/* ---- made-up text ---- */

static const char *const SYLLABLES[] = {"ka", "lo", "mi", "ter", "ing", "sa", "du", "ver", "o", "en"};

static void put_words(Buf *out, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i) buf_puts(out, " ");
        for (size_t k = 1 + draw64(4); k > 0; k--) buf_puts(out, SYLLABLES[draw64(10)]);
    }
}

/* Bytes of all kinds: words, special strings, characters of several bytes, anything. */
static void put_noise(Buf *out, size_t count) {
    static const char *const PARTS[] = {"[CLS]",
                                        "[MASK]",
                                        "[SEP",
                                        "[",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\xc3\xa9",
                                        "\xe4\xb8\xad\xe6\x96\x87",
                                        "\xf0\x9f\x98\x80",
                                        "\xef\xb7\xba",
                                        "\xe2\x96\x81",
                                        "\xff",
                                        "\xe2\x96",
                                        "e\xcc\x81",
                                        "\xc2\xa0"};
    for (size_t i = 0; i < count; i++) {
        const uint64_t what = draw64(4);
        if (what == 0) {
            buf_puts(out, PARTS[draw64(16)]);
        } else if (what == 1) {
            const char c = (char)draw64(256);
            buf_put(out, &c, 1);
        } else {
            put_words(out, 1);
            buf_puts(out, " ");
        }
    }
}

static void train(Buf *out, uint64_t words, int threads) {
    enum { COUNT = 300 };
    Buf texts[COUNT] = {{0}};
    const char *sentences[COUNT];
    size_t lengths[COUNT];
    const uint64_t old = seed;
    seed = rng_key(words, "train", 0);
    drawn = 0;
    for (size_t i = 0; i < COUNT; i++) {
        put_words(&texts[i], 12);
        sentences[i] = texts[i].data;
        lengths[i] = texts[i].len;
    }
    seed = old;
    Err err = {0};
    OK(spm_train(out, sentences, lengths, COUNT, 400, threads, &err));
    for (size_t i = 0; i < COUNT; i++) buf_free(&texts[i]);
}

static void test_training(void **state) {
    (void)state;
    Buf again = {0};
    train(&again, 7, 3);
    assert_same_ids(&again, &trained_model);
    buf_free(&again);
    train(&again, 8, 1);
    assert_true(again.len != trained_model.len || memcmp(again.data, trained_model.data, again.len) != 0);
    buf_free(&again);

    static const char *const FIRST[] = {"[PAD]", "[CLS]", "[SEP]", "[UNK]", "<0x00>", "<0x01>"};
    for (int i = 0; i < 6; i++) assert_string_equal(tokenizer_piece(trained, i), FIRST[i]);
    assert_string_equal(tokenizer_piece(trained, 259), "<0xFF>");
    const TokenizerSpecials s = tokenizer_specials(trained);
    assert_int_equal(s.pad * 1000 + s.cls * 100 + s.sep * 10 + s.unk, 123);
    assert_int_equal(s.mask, 400);
    assert_int_equal(tokenizer_ids(trained), 401);
    SpmFacts facts;
    assert_int_equal(spm_check(&facts, trained_model.data, trained_model.len, NULL), ERR_OK);
    assert_true(facts.cuts_at_space);
}

static void test_round_trip(void **state) {
    (void)state;
    size_t tokens = 0, bytes = 0;
    for (int round = 0; round < 50; round++) {
        Buf text = {0}, ids = {0}, back = {0};
        put_words(&text, 1 + draw64(30));
        size_t whole;
        encode(trained, (TokenizerRule){.no_specials = true}, text.data, text.len, &ids, &whole);
        assert_int_equal(ids.len, whole * sizeof(int32_t));
        assert_true(whole <=
                    text.len + 1); /* a word that it has not learnt: its characters and the mark before it */
        tokens += whole;
        bytes += text.len;
        for (size_t i = 0; i < whole; i++) {
            const char *p = tokenizer_piece(trained, id_at(&ids, i));
            const bool mark = strncmp(p, "\xe2\x96\x81", 3) == 0;
            if (mark) buf_puts(&back, " ");
            buf_puts(&back, p + (mark ? 3 : 0));
        }
        assert_string_equal(back.data + 1, text.data);
        buf_free(&text);
        buf_free(&ids);
        buf_free(&back);
    }
    assert_true(3 * tokens <
                bytes); /* it has learnt longer pieces than characters, though not of every word */
}

static void expect_train(const char *text, size_t n, int pieces, ErrCode want, const char *message) {
    Buf out = {0};
    Err err = {0};
    const ErrCode rc = spm_train(&out, &text, &n, 1, pieces, 1, &err);
    if (rc != want) fail_msg("training on '%s': %d %s", text, rc, err.msg);
    if (message) assert_string_equal(err.msg, message);
    if (rc == ERR_OK) {
        Tokenizer *t;
        OK(tokenizer_open_bytes(&t, out.data, out.len, &err));
        tokenizer_close(t);
    }
    buf_free(&out);
}

static void test_odd_corpora(void **state) {
    (void)state;
    expect_train("a", 1, 8000, ERR_OK, NULL);
    expect_train("ab ab", 5, 261 + 5, ERR_OK, NULL);
    expect_train("[CLS][CLS][CLS] <0x41> [MASK]", 29, 300, ERR_OK, NULL);
    expect_train("a\0b\xff\xfe \t\n c\xe2\x96\x85 d", 15, 300, ERR_OK, NULL);
    expect_train("\xf0\x9f\x98\x80", 4, 300, ERR_OK, NULL);
    const char *nothing = "nothing to train a tokenizer on: no letters, digits or signs in 1 texts";
    expect_train("", 0, 300, ERR_ARGUMENT, nothing);
    expect_train("\1\2 \t\n\xe2\x80\x8b", 8, 300, ERR_ARGUMENT, nothing);
    expect_train("\0\0", 2, 300, ERR_ARGUMENT, nothing);
    expect_train("abc", 3, 260, ERR_ARGUMENT, "vocab_size: found 260, expected 261 to 1000000");
    expect_train("abcdef", 6, 262, ERR_ARGUMENT, "vocab_size: found 262, this text needs at least 267");
    Buf word = {0}; /* one word longer than a slice */
    for (size_t i = 0; i < 20000; i++) buf_puts(&word, draw64(2) ? "a" : "\xc3\xa9");
    expect_train(word.data, word.len, 300, ERR_OK, NULL);
    buf_free(&word);
    for (int round = 0; round < 20; round++) {
        Buf text = {0};
        put_noise(&text, 1 + draw64(20));
        buf_puts(&text, "x");
        expect_train(text.data, text.len, 400, ERR_OK, NULL);
        buf_free(&text);
    }
}

/* ---- truncation and threads ---- */

static void check_truncation(const Tokenizer *t) {
    Buf text = {0}, all = {0}, late = {0}, early = {0};
    put_noise(&text, 1 + draw64(4000));
    const TokenizerRule rule = {
        .plain = draw64(2), .no_specials = draw64(2), .max_tokens = 2 + (int)draw64(300)};
    const TokenizerRule untruncated = {.plain = rule.plain, .no_specials = rule.no_specials};
    const char *s = text.data ? text.data : "";
    size_t whole, counted;
    encode(t, untruncated, s, text.len, &all, &whole);
    encode(t, rule, s, text.len, &late, &counted);
    encode(t, rule, s, text.len, &early, NULL);
    assert_int_equal(counted, whole);
    assert_same_ids(&early, &late);
    const size_t kept = whole < (size_t)rule.max_tokens ? whole : (size_t)rule.max_tokens;
    assert_int_equal(late.len, kept * sizeof(int32_t));
    const size_t same = kept - (rule.no_specials ? 0 : 1);
    if (same) assert_memory_equal(late.data, all.data, same * sizeof(int32_t));
    if (!rule.no_specials) assert_int_equal(id_at(&late, kept - 1), tokenizer_specials(t).sep);
    buf_free(&text);
    buf_free(&all);
    buf_free(&late);
    buf_free(&early);
}

static void test_truncation(void **state) {
    (void)state;
    for (int i = 0; i < 60; i++) check_truncation(trained);
    for (int i = 0; i < 20 && published; i++) check_truncation(published);
    Buf ids = {0};
    Err err = {0};
    assert_int_equal(tokenizer_encode(trained, &(TokenizerRule){.max_tokens = 1}, "a", 1, &ids, NULL, &err),
                     ERR_ARGUMENT);
    assert_string_equal(err.msg, "max_tokens: found 1, expected 0 (no truncation) or at least 2");
    encode(trained, (TokenizerRule){.max_tokens = 2}, "a", 1, &ids, NULL);
    assert_int_equal(ids.len, 2 * sizeof(int32_t));
    encode(trained, (TokenizerRule){.max_tokens = 1, .no_specials = true}, "ka lo", 5, &ids, NULL);
    assert_int_equal(ids.len, sizeof(int32_t));
    buf_free(&ids);
}

static void test_specials(void **state) {
    (void)state;
    Buf ids = {0};
    const TokenizerSpecials s = tokenizer_specials(trained);
    static const char TEXT[] = "[PAD][CLS] [SEP][[UNK][MASK][mask]";
    encode(trained, (TokenizerRule){.no_specials = true}, TEXT, sizeof TEXT - 1, &ids, NULL);
    assert_int_equal(id_at(&ids, 0), s.pad);
    assert_int_equal(id_at(&ids, 1), s.cls);
    assert_int_equal(id_at(&ids, 2), s.sep); /* a segment of spaces gives nothing */
    assert_true(id_at(&ids, 3) > s.unk);     /* the lone bracket */
    encode(trained, (TokenizerRule){.plain = true, .no_specials = true}, TEXT, sizeof TEXT - 1, &ids, NULL);
    for (size_t i = 0; i < ids.len / sizeof(int32_t); i++)
        assert_true(id_at(&ids, i) > s.unk && id_at(&ids, i) != s.mask);
    encode(trained, (TokenizerRule){0}, "", 0, &ids, NULL);
    assert_int_equal(ids.len, 2 * sizeof(int32_t));
    buf_free(&ids);
}

static void test_threads(void **state) {
    (void)state;
    enum { COUNT = 200 };
    const Tokenizer *t = published ? published : trained;
    const TokenizerRule rule = {.max_tokens = 64};
    Buf texts[COUNT] = {{0}}, ids = {0};
    TokenizerJob jobs[COUNT] = {{0}};
    for (size_t i = 0; i < COUNT; i++) {
        put_noise(&texts[i], draw64(50));
        jobs[i].text = texts[i].data ? texts[i].data : "";
        jobs[i].n = texts[i].len;
    }
    for (int count = 1; count <= 4; count++) {
        Threads *threads;
        assert_int_equal(threads_open(&threads, count, NULL), ERR_OK);
        assert_int_equal(tokenizer_encode_all(t, &rule, jobs, COUNT, threads, NULL), ERR_OK);
        for (size_t i = 0; i < COUNT; i++) {
            size_t whole;
            encode(t, rule, jobs[i].text, jobs[i].n, &ids, &whole);
            assert_same_ids(&jobs[i].ids, &ids);
            assert_int_equal(jobs[i].whole, whole);
        }
        jobs[3].n = jobs[5].n = SPM_TEXT_MAX + 1; /* refused before it is read */
        Err err = {0};
        assert_int_equal(tokenizer_encode_all(t, &(TokenizerRule){.plain = true}, jobs, COUNT, threads, &err),
                         ERR_ARGUMENT);
        assert_string_equal(err.msg,
                            "text 4 of 200: text of 16777217 bytes: at most 16777216 can be encoded at once");
        jobs[3].n = texts[3].len;
        jobs[5].n = texts[5].len;
        threads_close(threads);
    }
    for (size_t i = 0; i < COUNT; i++) {
        buf_free(&texts[i]);
        buf_free(&jobs[i].ids);
    }
    buf_free(&ids);
}

/* Hours, if time were quadratic. */
static void test_long_texts(void **state) {
    (void)state;
    static const char *const UNITS[] = {"a", "\xff", " ", "[", "\xf0\x9f\x98\x80", "ka lo ", "[CLS]"};
    Buf text = {0}, ids = {0};
    for (size_t k = 0; k < sizeof UNITS / sizeof *UNITS; k++) {
        buf_clear(&text);
        while (text.len < 400000) buf_puts(&text, UNITS[k]);
        size_t whole;
        encode(trained, (TokenizerRule){.no_specials = true, .max_tokens = 512}, text.data, text.len, &ids,
               &whole);
        if (k == 1) assert_int_equal(whole, 3 * text.len + 1); /* U+FFFD, as bytes, and the word mark */
        if (k == 2) assert_int_equal(whole, 0);
        if (k == 6) assert_int_equal(whole, text.len / 5);
        assert_int_equal(ids.len, whole < 512 ? whole * sizeof(int32_t) : 512 * sizeof(int32_t));
    }
    buf_free(&text);
    buf_free(&ids);
}

/* ---- hostile models ---- */

static void expect_model(const TinySpm *m, const char *message) {
    Buf bytes = {0};
    Err err = {0};
    Tokenizer *t = NULL;
    tiny_spm(&bytes, m);
    const ErrCode rc = tokenizer_open_bytes(&t, bytes.data, bytes.len, &err);
    if (message) {
        assert_int_equal(rc, ERR_FORMAT);
        assert_string_equal(err.msg, message);
        assert_null(t);
    } else if (rc != ERR_OK) {
        fail_msg("%s", err.msg);
    }
    tokenizer_close(t);
    buf_free(&bytes);
}

static void test_tiny_model(void **state) {
    (void)state;
    Buf charsmap = {0}, bytes = {0}, ids = {0};
    Tokenizer *t;
    tiny_charsmap(&charsmap);
    tiny_spm(&bytes, &(TinySpm){.charsmap = &charsmap});
    Err err = {0};
    OK(tokenizer_open_bytes(&t, bytes.data, bytes.len, &err));
    encode(t, (TokenizerRule){0}, "ABC abc", 7, &ids, NULL);
    /* The rule makes A an a; B and C are no pieces and become bytes. */
    const int32_t want[] = {1, TINY_FIRST + 6, 4 + 'B', 4 + 'C', TINY_FIRST + 0, TINY_FIRST + 5, 2};
    assert_int_equal(ids.len, sizeof want);
    assert_memory_equal(ids.data, want, sizeof want);
    tokenizer_close(t);
    buf_free(&charsmap);
    buf_free(&bytes);
    buf_free(&ids);
}

static void expect_piece(const char *name, size_t n, float score, int type, const char *message) {
    Buf piece = {0};
    tiny_piece(&piece, name, n, score, type);
    expect_model(&(TinySpm){.pieces = &piece}, message);
    buf_free(&piece);
}

#define BAD "not a usable spm.model: "

static void test_bad_models(void **state) {
    (void)state;
    expect_model(&(TinySpm){0}, NULL);
    expect_model(&(TinySpm){.kind = 2}, BAD "found model type 2, expected 1 (unigram)");
    expect_model(&(TinySpm){.no_fallback = true},
                 BAD "it has no byte fallback, which DeBERTa-v3's tokenizer has");
    expect_model(&(TinySpm){.skip = "[CLS]"}, BAD "it has no piece [CLS]");
    expect_model(&(TinySpm){.skip = "[UNK]"}, BAD "it has no piece [UNK]");
    expect_model(&(TinySpm){.bytes = 1}, BAD "found 255 byte pieces, expected 256");
    expect_model(&(TinySpm){.no_normal = true}, BAD "it has no normal piece");
    expect_piece("xyz", 3, -1, 1, NULL);
    expect_piece("xyz", 3, -1, 7, BAD "piece 270: found type 7, expected 1 to 6");
    expect_piece("", 0, -1, 1, BAD "piece 270: found 0 bytes, expected 1 to 256");
    expect_piece("a\0b", 3, -1, 1, BAD "piece 270: not UTF-8 text");
    expect_piece("\xe2\x96", 2, -1, 1, BAD "piece 270: not UTF-8 text");
    expect_piece("xyz", 3, strtof("nan", NULL), 1, BAD "piece 270: its score is not finite");
    expect_piece("[CLS]", 5, -1, 1, BAD "piece [CLS]: found type 1, expected 3");
    expect_piece("[MASK]", 6, -1, 4, BAD "piece [MASK]: found type 4, expected 3");
    expect_piece("<unk>", 5, 0, 2, BAD "the unknown piece is not named [UNK]");
    expect_piece("[UNK]", 5, 0, 2, BAD "[UNK] is already defined.");
    expect_piece("abc", 3, -1, 1, BAD "abc is already defined.");
    char longest[257];
    memset(longest, 'x', sizeof longest);
    expect_piece(longest, 256, -1, 1, NULL);
    expect_piece(longest, 257, -1, 1, BAD "piece 270: found 257 bytes, expected 1 to 256");
    expect_piece(longest, 65, -1, 4, BAD "piece 270: found 65 bytes, expected 1 to 64");

    Buf tail = {0};
    buf_puts(&tail, "\x0a\x7f");
    expect_model(&(TinySpm){.tail = &tail}, BAD "damaged protobuf in the model");
    buf_clear(&tail);
    tiny_bytes(&tail, 2, "", 0);
    expect_model(&(TinySpm){.tail = &tail}, BAD "field 2 of the model occurs twice");
    buf_clear(&tail);
    tiny_number(&tail, 4, 1);
    expect_model(&(TinySpm){.tail = &tail}, BAD "field 4 of the model: found wire type 0, expected 2");
    buf_clear(&tail);
    tiny_bytes(&tail, 4, "x", 1);
    expect_model(&(TinySpm){.tail = &tail}, BAD "it has self tests, which are not accepted");
    buf_clear(&tail);
    tiny_bytes(&tail, 5, "x", 1);
    expect_model(&(TinySpm){.tail = &tail}, BAD "it has a denormaliser, which is not accepted");
    buf_clear(&tail);
    tiny_bytes(&tail, 200, "unknown fields are skipped", 26);
    expect_model(&(TinySpm){.tail = &tail}, NULL);
    buf_free(&tail);

    Err err = {0};
    Tokenizer *t;
    assert_int_equal(tokenizer_open_bytes(&t, "", 0, &err), ERR_FORMAT);
    assert_string_equal(err.msg, BAD "found 0 bytes, expected 1 to 67108864");
    assert_int_equal(tokenizer_open(&t, "/nowhere/spm.model", &err), ERR_IO);
    assert_string_equal(err.msg, "/nowhere/spm.model: cannot open: No such file or directory");
}

/* A charsmap with one word, or one byte, changed. */
static void expect_poke(size_t at, uint32_t word, const char *message) {
    Buf charsmap = {0};
    tiny_charsmap(&charsmap);
    if (at < 4 + 4 * (size_t)TINY_UNITS)
        tiny_poke(&charsmap, at, word);
    else
        charsmap.data[at] = (char)word;
    expect_model(&(TinySpm){.charsmap = &charsmap}, message);
    buf_free(&charsmap);
}

static void test_bad_charsmaps(void **state) {
    (void)state;
    const size_t string = 4 + 4 * (size_t)TINY_UNITS;
    const uint32_t rule = ((256u ^ 'A') ^ 257u) << 10 | 1u << 8 | 'A';
    expect_poke(TINY_RULE, rule, NULL); /* unchanged */
    const char *size =
        BAD "normaliser: found a trie of %u bytes in 2054, expected a multiple of 1024 up to 1048576";
    const uint32_t sizes[] = {0, 1000, 1024 * 1025, 0xfffffc00, 2048 + 1024};
    for (size_t i = 0; i < 5; i++) {
        char message[200];
        (void)snprintf(message, sizeof message, size, sizes[i]);
        expect_poke(0, sizes[i], message);
    }
    expect_poke(TINY_ROOT, 0x80000000u, BAD "normaliser: the trie has no root");
    expect_poke(TINY_ROOT, 512u << 10, BAD "normaliser: unit 0 of the trie points outside of its 512 units");
    expect_poke(TINY_RULE, (0x1ffffu << 10) | 1u << 9 | 'A',
                BAD "normaliser: unit 321 of the trie points outside of its 512 units");
    expect_poke(TINY_VALUE, 0x80000000u | 2, BAD "normaliser: a replacement begins at byte 2 of 2");
    expect_poke(TINY_VALUE, 0xffffffff, BAD "normaliser: a replacement begins at byte 2147483647 of 2");
    expect_poke(string, 0xff, BAD "normaliser: a replacement is not UTF-8");
    expect_poke(string + 1, 'b', BAD "normaliser: the last replacement is not ended by a NUL");
    /* children of A at base 256 again: the keys A, AA, AAA ... */
    expect_poke(TINY_RULE, (uint32_t)'A' << 10 | 'A', BAD "normaliser: a key is longer than 32 bytes");

    Buf charsmap = {0};
    tiny_charsmap(&charsmap);
    charsmap.len--;
    for (int i = 0; i < 32; i++) buf_puts(&charsmap, "x");
    buf_put(&charsmap, "", 1);
    expect_model(&(TinySpm){.charsmap = &charsmap},
                 BAD "normaliser: a replacement is more than 32 times as long as its key");
    buf_free(&charsmap);
}

/* Whether it cuts at spaces must follow from the model. */
static void expect_cuts(const TinySpm *m, bool want) {
    Buf bytes = {0};
    SpmFacts facts;
    tiny_spm(&bytes, m);
    assert_int_equal(spm_check(&facts, bytes.data, bytes.len, NULL), ERR_OK);
    assert_int_equal(facts.cuts_at_space, want);
    buf_free(&bytes);
}

static void test_cuts_at_space(void **state) {
    (void)state;
    Buf more = {0};
    expect_cuts(&(TinySpm){0}, true);
    tiny_piece(&more,
               "a\xe2\x96\x81"
               "b",
               5, -1, 1);
    expect_cuts(&(TinySpm){.pieces = &more}, false);
    buf_clear(&more);
    tiny_piece(&more, "user", 4, -1, 4);
    expect_cuts(&(TinySpm){.pieces = &more}, false);
    for (unsigned field = 3; field <= 5; field++) {
        buf_clear(&more);
        tiny_number(&more, field, 0);
        expect_cuts(&(TinySpm){.settings = &more}, false);
    }
    buf_clear(&more);
    tiny_charsmap(&more); /* a rule for a space */
    tiny_poke(&more, TINY_RULE, (uint32_t)TINY_FREE);
    tiny_poke(&more, 4 + 4 * (256 ^ ' '), ((256u ^ ' ') ^ 257u) << 10 | 1u << 8 | ' ');
    expect_cuts(&(TinySpm){.charsmap = &more}, false);
    buf_free(&more);
}

/* Whatever is changed in a good model, it is refused or works. */
static void test_changed_models(void **state) {
    (void)state;
    Buf charsmap = {0}, good = {0}, bytes = {0}, ids = {0};
    tiny_charsmap(&charsmap);
    tiny_spm(&good, &(TinySpm){.charsmap = &charsmap});
    int opened = 0;
    enum { ROUNDS = 1500 };
    for (int round = 0; round < ROUNDS; round++) {
        buf_clear(&bytes);
        buf_put(&bytes, good.data, good.len);
        for (uint64_t k = draw64(4) + 1; k > 0; k--) bytes.data[draw64(bytes.len)] ^= (char)(1u << draw64(8));
        if (draw64(10) == 0) bytes.len = draw64(bytes.len);
        Tokenizer *t = NULL;
        const ErrCode rc = tokenizer_open_bytes(&t, bytes.data, bytes.len, NULL);
        assert_true(rc == ERR_OK || rc == ERR_FORMAT);
        if (rc == ERR_OK) {
            encode(t, (TokenizerRule){0}, "the abcABC AAA\xff [CLS]\0 e", 23, &ids, NULL);
            opened++;
        }
        tokenizer_close(t);
    }
    assert_true(opened > 0 && opened < ROUNDS);
    buf_free(&charsmap);
    buf_free(&good);
    buf_free(&bytes);
    buf_free(&ids);
}

/* ---- memory ---- */

static ErrCode use_all(const Buf *model, const char *dir, Err *err) {
    Tokenizer *t = NULL;
    TokenizerJob jobs[2] = {{.text = "ABC abc", .n = 7}, {.text = "the [MASK]", .n = 10}};
    ErrCode rc = tokenizer_open_bytes(&t, model->data, model->len, err);
    if (rc == ERR_OK) rc = tokenizer_encode_all(t, &(TokenizerRule){0}, jobs, 2, NULL, err);
    if (rc == ERR_OK) rc = tokenizer_save(t, dir, 512, err);
    for (int i = 0; i < 2; i++) buf_free(&jobs[i].ids);
    tokenizer_close(t);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    Buf charsmap = {0}, model = {0};
    tiny_charsmap(&charsmap);
    tiny_spm(&model, &(TinySpm){.charsmap = &charsmap});
    const char *dir = in_folder("memory");
    size_t n = 1;
    for (;; n++) {
        Err err = {0};
        mem_fail_at(n);
        const ErrCode rc = use_all(&model, dir, &err);
        mem_fail_at(0);
        if (rc == ERR_OK) break;
        if (rc != ERR_MEMORY) fail_msg("allocation %zu: %d %s", n, rc, err.msg);
    }
    assert_true(n > 15);
    buf_free(&charsmap);
    buf_free(&model);
}

/* ---- files ---- */

static void test_save(void **state) {
    (void)state;
    const char *dir = in_folder("saved");
    Err err = {0};
    OK(tokenizer_save(trained, dir, 256, &err));
    Tokenizer *t;
    OK(tokenizer_open(&t, dir, &err));
    assert_string_equal(tokenizer_digest(t), tokenizer_digest(trained));
    tokenizer_close(t);
    cJSON *root;
    assert_int_equal(json_read(&root, path_of("%s/%s", dir, "tokenizer_config.json"), NULL), ERR_OK);
    const char *text = NULL;
    assert_int_equal(json_get_string(&text, root, "tokenizer_class", NULL), ERR_OK);
    assert_string_equal(text, "DebertaV2Tokenizer");
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(root, "model_max_length")->valueint, 256);
    const cJSON *added = cJSON_GetObjectItemCaseSensitive(root, "added_tokens_decoder");
    assert_int_equal(json_get_string(&text, cJSON_GetObjectItemCaseSensitive(added, "400"), "content", NULL),
                     ERR_OK);
    assert_string_equal(text, "[MASK]");
    cJSON_Delete(root);
    assert_int_equal(json_read(&root, path_of("%s/%s", dir, "special_tokens_map.json"), NULL), ERR_OK);
    assert_int_equal(cJSON_GetArraySize(root), 7);
    cJSON_Delete(root);
    assert_int_equal(json_read(&root, path_of("%s/%s", dir, "added_tokens.json"), NULL), ERR_OK);
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(root, "[MASK]")->valueint, 400);
    cJSON_Delete(root);
    if (!published) return;
    /* the same as transformers saved */
    dir = in_folder("published");
    assert_int_equal(tokenizer_save(published, dir, 512, NULL), ERR_OK);
    static const char *const NAMES[] = {"special_tokens_map.json", "added_tokens.json"};
    for (int i = 0; i < 2; i++) {
        cJSON *want;
        assert_int_equal(json_read(&root, path_of("%s/%s", dir, NAMES[i]), NULL), ERR_OK);
        assert_int_equal(json_read(&want, path_of("%s/%s", shared("deberta-v3-tokenizer"), NAMES[i]), NULL),
                         ERR_OK);
        assert_true(cJSON_Compare(root, want, true));
        cJSON_Delete(root);
        cJSON_Delete(want);
    }
}

#define COMMAND(out, err, ...) run_command(&tokenize_cmd, out, err, ARGS(__VA_ARGS__))

static void test_command(void **state) {
    (void)state;
    Buf out = {0}, model = {0};
    Err err = {0};
    tiny_spm(&model, &(TinySpm){0});
    char spm[256];
    (void)snprintf(spm, sizeof spm, "%s/tiny.model", folder);
    assert_int_equal(file_save(spm, model.data, model.len, NULL), ERR_OK);

    ok(COMMAND(&out, &err, "a abc", "--model", spm), &err);
    assert_string_equal(out.data,
                        "\"a abc\"\n"
                        "  [CLS]  \xe2\x96\x81"
                        "a   \xe2\x96\x81    abc  [SEP]\n"
                        "  1      266  260  265  2    \n"
                        "  5 tokens\n\n");
    ok(COMMAND(&out, &err, "a abc", "--model", spm, "--no-specials", "--max-tokens", "1"), &err);
    assert_string_equal(out.data,
                        "\"a abc\"\n  \xe2\x96\x81"
                        "a \n  266\n  1 tokens of 3\n\n");

    const char *lines = save("a.jsonl", "{\"text\": \"a\\u0000\"}\n\n{\"text\": \"[MASK]\", \"x\": 1}\n");
    ok(COMMAND(&out, &err, "--json", "--input", lines, "--model", spm, "--threads", "2"), &err);
    assert_string_equal(out.data, "{\"ids\": [1, 266, 4, 2]}\n{\"ids\": [1, 270, 2]}\n");

    char want[512];
    lines = save("b.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n");
    assert_int_equal(COMMAND(&out, &err, "--json", "--input", lines, "--model", spm), ERR_FORMAT);
    (void)snprintf(want, sizeof want, "%s:2: expected an object with a string \"text\", found another type",
                   lines);
    assert_string_equal(err.msg, want);
    lines = save("c.jsonl", "{\"body\": \"a\"}\nnope\n");
    assert_int_equal(COMMAND(&out, &err, "--json", "--input", lines, "--model", spm), ERR_FORMAT);
    (void)snprintf(want, sizeof want, "%s:1: expected an object with a string \"text\", found no such member",
                   lines);
    assert_string_equal(err.msg, want);
    assert_int_equal(COMMAND(&out, &err, "--json", "--input", lines, "--model", spm, "--text-field", "body"),
                     ERR_FORMAT);
    (void)snprintf(want, sizeof want, "%s:2: not valid JSON at line 1, column 1: unexpected text", lines);
    assert_string_equal(err.msg, want);
    assert_int_equal(COMMAND(&out, &err, "a"), ERR_ARGUMENT);
    assert_string_equal(err.msg, "--model: expected spm.model or a folder that holds it");
    assert_int_equal(COMMAND(&out, &err, "a", "--model", spm, "--max-tokens", "1"), ERR_ARGUMENT);
    assert_string_equal(err.msg,
                        "text 1 of 1: max_tokens: found 1, expected 0 (no truncation) or at least 2");

    lines = save("d.jsonl", "{\"text\": \"a\\u0000 the\"}\n");
    ErrCode rc = ERR_MEMORY;
    size_t fail_at = 1;
    for (; rc != ERR_OK; fail_at++) {
        mem_fail_at(fail_at);
        rc = COMMAND(&out, &err, "--json", "--input", lines, "--model", spm, "--threads", "2");
        if (rc != ERR_OK && rc != ERR_MEMORY) fail_msg("allocation %zu: %d %s", fail_at, rc, err.msg);
    }
    assert_true(fail_at > 20);
    buf_free(&model);
    buf_free(&out);
}

static void test_train_command(void **state) {
    (void)state;
    Buf out = {0}, text = {0}, a = {0}, b = {0};
    Err err = {0};
    for (int i = 0; i < 100; i++) {
        buf_puts(&text, "{\"text\": \"");
        put_words(&text, 10);
        buf_puts(&text, "\"}\n");
    }
    const char *jsonl = save("t.jsonl", text.data), *plain = save("t.txt", "ka lo mi\nka lo\n");
    char model[2][256];
    for (int i = 0; i < 2; i++) {
        (void)snprintf(model[i], sizeof model[i], "%s/train%d.model", folder, i);
        ok(COMMAND(&out, &err, "--train", "--input", jsonl, "--vocab-size", "300", "--out", model[i],
                   "--threads", i ? "1" : "2"),
           &err);
    }
    char want[400];
    (void)snprintf(want, sizeof want, "%s: 300 pieces from 100 texts\n", model[1]);
    assert_string_equal(out.data, want);
    assert_int_equal(file_read(&a, model[0], 1 << 20, NULL), ERR_OK);
    assert_int_equal(file_read(&b, model[1], 1 << 20, NULL), ERR_OK);
    assert_same_ids(&a, &b);
    /* a folder gets all the files; the second input is one of plain lines */
    ok(COMMAND(&out, &err, "--train", "--text-lines", "--input", plain, "--input", jsonl, "--out", folder),
       &err);
    assert_true(file_exists(in_folder("spm.model")));
    assert_true(file_exists(in_folder("tokenizer_config.json")));
    ok(COMMAND(&out, &err, "ka", "--model", folder, "--json"), &err);
    assert_int_equal(COMMAND(&out, &err, "--train", "--input", jsonl), ERR_ARGUMENT);
    assert_string_equal(err.msg, "--out: expected the spm.model to write");
    assert_int_equal(COMMAND(&out, &err, "--train", "--out", model[0], "text"), ERR_ARGUMENT);
    assert_string_equal(err.msg, "--train: texts come from --input FILE");
    assert_int_equal(COMMAND(&out, &err, "--train", "--input", plain, "--out", model[0]), ERR_FORMAT);
    (void)snprintf(want, sizeof want, "%s:1: not valid JSON at line 1, column 1: unexpected text", plain);
    assert_string_equal(err.msg, want);
    buf_free(&out);
    buf_free(&text);
    buf_free(&a);
    buf_free(&b);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    Err err = {0};
    if (file_exists(shared("deberta-v3-tokenizer/spm.model")) &&
        tokenizer_open(&published, shared("deberta-v3-tokenizer"), &err) != ERR_OK) {
        (void)printf("%s\n", err.msg);
        return 1;
    }
    train(&trained_model, 7, 1);
    if (tokenizer_open_bytes(&trained, trained_model.data, trained_model.len, &err) != ERR_OK) {
        (void)printf("%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_texts),   cmocka_unit_test(test_golden_bytes),
        cmocka_unit_test(test_published),      cmocka_unit_test(test_training),
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_odd_corpora),
        cmocka_unit_test(test_truncation),     cmocka_unit_test(test_specials),
        cmocka_unit_test(test_threads),        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_tiny_model),     cmocka_unit_test(test_bad_models),
        cmocka_unit_test(test_bad_charsmaps),  cmocka_unit_test(test_cuts_at_space),
        cmocka_unit_test(test_changed_models), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_save),           cmocka_unit_test(test_command),
        cmocka_unit_test(test_train_command),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(published);
    tokenizer_close(trained);
    buf_free(&trained_model);
    return folder_close(failed);
}
