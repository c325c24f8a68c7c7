/* tests/test_words.c - words, scripts and defects of a text. */
#include "data/doctor.h"
#include "data/words.h"
#include "tests/unit.h"

static void test_words(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } CASES[] = {
        {"", ""},
        {" ,;- ", ""},
        {"What's up, Doc_2?", "what s up doc 2"},
        {"\xc3\x84RGER \xce\xa9mega \xd0\x9f\xd1\x80\xd0\x81",
         "\xc3\xa4rger \xcf\x89mega \xd0\xbf\xd1\x80\xd1\x91"},
        {"\xe4\xbd\xa0\xe5\xa5\xbd"
         "abc\xe3\x81\x82",
         "\xe4\xbd\xa0 \xe5\xa5\xbd abc \xe3\x81\x82"},
        {"\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4 \xe2\x80\x9cx\xe2\x80\x9d",
         "\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4 x"},
        {"a\xff"
         "b",
         "a \xef\xbf\xbd b"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Buf out = {0};
        words_put(&out, CASES[i].text, strlen(CASES[i].text));
        assert_string_equal(out.data ? out.data : "", CASES[i].words);
        buf_free(&out);
    }
    Words a = {.text = "Good DAY", .n = 8}, b = {.text = "good-day", .n = 8};
    Word x, y;
    while (words_next(&a, &x)) {
        assert_true(words_next(&b, &y));
        assert_true(x.hash == y.hash && x.hash != 0);
    }
    assert_false(words_next(&b, &y));
    assert_true(words_join(words_join(0, 5), 7) != words_join(words_join(0, 7), 5));
}

static void test_script(void **state) {
    (void)state;
    static const struct {
        const char *text;
        Script script;
        Language language;
    } CASES[] = {
        {"12 + 3 = ?", SCRIPT_NONE, LANGUAGE_UNKNOWN},
        {"What is the capital of France?", SCRIPT_LATIN, LANGUAGE_ENGLISH},
        {"Wie hoch ist der Berg, und wo ist das?", SCRIPT_LATIN, LANGUAGE_GERMAN},
        {"Quelle est la hauteur de la tour, et pour qui est-elle dans la ville?", SCRIPT_LATIN,
         LANGUAGE_FRENCH},
        {"xylophone zebra", SCRIPT_LATIN, LANGUAGE_UNKNOWN},
        {"\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82", SCRIPT_CYRILLIC, LANGUAGE_UNKNOWN},
        {"\xce\xb1\xce\xb2\xce\xb3 x", SCRIPT_GREEK, LANGUAGE_GREEK},
        {"\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c", SCRIPT_HAN, LANGUAGE_CHINESE},
        {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe3\x81\xae", SCRIPT_KANA, LANGUAGE_JAPANESE},
        {"\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4", SCRIPT_HANGUL, LANGUAGE_KOREAN},
        {"\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d", SCRIPT_HEBREW, LANGUAGE_HEBREW},
        {"\xd8\xb3\xd9\x84\xd8\xa7\xd9\x85", SCRIPT_ARABIC, LANGUAGE_UNKNOWN},
        {"\xe0\xb8\xaa\xe0\xb8\xa7\xe0\xb8\xb1", SCRIPT_THAI, LANGUAGE_THAI},
        {"\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8", SCRIPT_DEVANAGARI, LANGUAGE_UNKNOWN},
        {"\xe0\xae\xa4\xe0\xae\xae\xe0\xae\xbf", SCRIPT_OTHER, LANGUAGE_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Language language;
        assert_int_equal(script_of(&language, CASES[i].text, strlen(CASES[i].text)), CASES[i].script);
        assert_int_equal(language, CASES[i].language);
    }
    for (int s = -1; s <= SCRIPT_COUNT; s++) assert_non_null(script_name((Script)s));
    for (int l = -1; l <= LANGUAGE_COUNT; l++) assert_non_null(script_language_name((Language)l));
}

static void test_defects(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n, characters;
        unsigned defects;
    } CASES[] = {
        {"plain\ttext\r\n\xc2\x85.", 14, 13, 0},
        {"a\0b", 3, 3, DEFECT_NUL},
        {"a\x1b[0m", 5, 5, DEFECT_CONTROL},
        {"a\xc2\x9d", 3, 2, DEFECT_CONTROL},
        {"a\xef\xbf\xbd", 4, 2, DEFECT_REPLACEMENT},
        {"a\xff", 2, 2, DEFECT_REPLACEMENT},
        {"...?!", 5, 5, DEFECT_WORDLESS},
        {"see aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQgYW5kIGl0IGlzIGxvbmcgZW5vdWdoIGZvciB1cw==", 80, 80,
         DEFECT_BASE64},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 80, 80, 0},
        {"0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 "
         "0123456789",
         109, 109, DEFECT_LONG},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        size_t characters;
        assert_int_equal(defects_of(&characters, CASES[i].text, CASES[i].n, 100), CASES[i].defects);
        assert_int_equal(characters, CASES[i].characters);
    }
    for (int i = -1; i <= DEFECTS_COUNT; i++) assert_non_null(defects_name(i));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_script),
        cmocka_unit_test(test_defects),
    };
    return cmocka_run_group_tests_name("words", tests, NULL, NULL);
}
