/* tests/test_core.c - what everything stands on: err, mem, arena, buf, file, text, json, lines, flags,
 * sha256, rng, threads. */
#define _GNU_SOURCE /* CPU affinity */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "core/arena.h"
#include "core/buf.h"
#include "core/err.h"
#include "core/file.h"
#include "core/flags.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "core/tensor.h"
#include "core/text.h"
#include "core/threads.h"
#include "tests/unit.h"

/* ---- err, mem, arena, buf ---- */

static void test_err(void **state) {
    (void)state;
    Err err = {0};
    assert_int_equal(err_set(&err, ERR_FORMAT, "found '%s'", "a\nb\x7f"), ERR_FORMAT);
    assert_string_equal(err.msg, "found 'a?b?'");
    assert_int_equal(err_context(&err, ERR_IO, "x.jsonl:%d", 7), ERR_IO);
    assert_string_equal(err.msg, "x.jsonl:7: found 'a?b?'");
    assert_int_equal(err.code, ERR_IO);
    assert_int_equal(err_set(NULL, ERR_SHAPE, "nobody listens"), ERR_SHAPE);
    assert_int_equal(err_context(NULL, ERR_SHAPE, "nobody"), ERR_SHAPE);
    char longer[3000];
    memset(longer, 'z', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    (void)err_set(&err, ERR_FORMAT, "%s", longer);
    assert_int_equal(strlen(err.msg), ERR_MESSAGE_BYTES - 1);
    (void)err_context(&err, ERR_FORMAT, "%s", longer);
    assert_int_equal(strlen(err.msg), ERR_MESSAGE_BYTES - 1);
}

static void test_mem(void **state) {
    (void)state;
    unsigned char *p = mem_alloc(100, 3);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % MEM_ALIGN, 0);
    for (int i = 0; i < 300; i++) assert_int_equal(p[i], 0);
    mem_free(p);
    assert_null(mem_alloc(SIZE_MAX / 2, 3));
    assert_null(mem_resize(NULL, SIZE_MAX, 2));
    assert_null(mem_strndup("x", SIZE_MAX));
    Err err = {0};
    void *out = &err;
    assert_int_equal(mem_new(&out, SIZE_MAX, 8, "a hat", &err), ERR_MEMORY);
    assert_null(out);
    assert_non_null(strstr(err.msg, "out of memory: a hat needs"));
    const size_t before = mem_count();
    mem_fail_at(2);
    char *a = mem_strdup("one"), *b = mem_strdup("two"), *c = mem_strdup("three");
    assert_string_equal(a, "one");
    assert_null(b);
    assert_string_equal(c, "three");
    assert_int_equal(mem_count() - before, 3);
    mem_fail_at(0);
    mem_free(a);
    mem_free(c);
}

static void test_arena(void **state) {
    (void)state;
    Arena count = {0}, real;
    for (int pass = 0; pass < 2; pass++) {
        Arena *arena = pass ? &real : &count;
        char *a = arena_push(arena, 3, 7), *b = arena_push(arena, 1, 1), *c = arena_push(arena, 0, 4);
        if (pass == 0) {
            assert_null(a);
            assert_int_equal(arena->used, 128);
            assert_int_equal(arena_init(&real, arena->used, "a test", NULL), ERR_OK);
        } else {
            assert_ptr_equal(b, a + 64);
            assert_ptr_equal(c, a + 128);
            assert_int_equal((uintptr_t)a % 64, 0);
        }
    }
    arena_free(&real);
    arena_free(&real);
    (void)arena_push(&count, SIZE_MAX / 2, 16);
    Err err = {0};
    assert_int_equal(arena_init(&real, count.used, "too much", &err), ERR_MEMORY);
}

static void test_buf(void **state) {
    (void)state;
    Buf buf = {0};
    char expected[4000];
    size_t n = 0;
    for (int i = 0; i < 300; i++) {
        buf_printf(&buf, "%d,", i);
        n += (size_t)snprintf(expected + n, sizeof expected - n, "%d,", i);
    }
    assert_int_equal(buf_ok(&buf, NULL), ERR_OK);
    assert_int_equal(buf.len, n);
    assert_string_equal(buf.data, expected);
    mem_fail_at(1);
    assert_null(buf_reserve(&buf, 1 << 20));
    mem_fail_at(0);
    buf_puts(&buf, "lost");
    Err err = {0};
    assert_int_equal(buf_ok(&buf, &err), ERR_MEMORY);
    assert_int_equal(buf.len, n);
    buf_clear(&buf);
    buf_put(&buf, "a\0b", 3);
    assert_int_equal(buf_ok(&buf, NULL), ERR_OK);
    assert_memory_equal(buf.data, "a\0b", 4);
    assert_null(buf_reserve(&buf, SIZE_MAX));
    buf_free(&buf);
}

/* ---- files ---- */

static size_t files_in(const char *dir) {
    char **names;
    size_t count;
    assert_int_equal(file_list(&names, &count, dir, NULL), ERR_OK);
    file_list_free(names, count);
    return count;
}

static void assert_holds(const char *path, const char *text) {
    Buf buf = {0};
    assert_int_equal(file_read(&buf, path, 1 << 20, NULL), ERR_OK);
    assert_string_equal(buf.data, text);
    buf_free(&buf);
}

static void test_file_write(void **state) {
    (void)state;
    const char *dir = in_folder("files/deep");
    assert_int_equal(file_mkdirs(dir, NULL), ERR_OK);
    char path[300];
    (void)snprintf(path, sizeof path, "%s/a.txt", dir);
    assert_int_equal(file_save(path, "old", 3, NULL), ERR_OK);
    assert_holds(path, "old");

    FileWriter w; /* given up: the old file stays, nothing else is left */
    assert_int_equal(file_create(&w, path, NULL), ERR_OK);
    file_write(&w, "new", 3);
    assert_int_equal(files_in(dir), 2);
    file_abort(&w);
    file_abort(&w);
    assert_holds(path, "old");
    assert_int_equal(files_in(dir), 1);

    struct rlimit limit, small; /* the disk is full: as good as a limit on the size of files */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 1000;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char *large = mem_alloc(200000, 1);
    assert_non_null(large);
    Err err = {0};
    const ErrCode rc = file_save(path, large, 200000, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(rc, ERR_IO);
    char expected[400];
    (void)snprintf(expected, sizeof expected, "%s: cannot write: File too large", path);
    assert_string_equal(err.msg, expected);
    assert_holds(path, "old");
    assert_int_equal(files_in(dir), 1);

    for (size_t i = 0; i < 200000; i++) large[i] = (char)('a' + i % 26); /* small and large writes mixed */
    assert_int_equal(file_create(&w, path, NULL), ERR_OK);
    size_t at = 0;
    for (uint64_t i = 0; at < 200000; i++) {
        size_t n = (size_t)(rng_bits(seed, i) % (i % 7 == 0 ? 90000 : 500));
        if (n > 200000 - at) n = 200000 - at;
        file_write(&w, large + at, n);
        at += n;
    }
    assert_int_equal(w.written, 200000);
    assert_int_equal(file_commit(&w, NULL), ERR_OK);
    Buf back = {0};
    assert_int_equal(file_read(&back, path, 200000, NULL), ERR_OK);
    assert_int_equal(back.len, 200000);
    assert_memory_equal(back.data, large, 200000);
    assert_int_equal(file_read(&back, path, 199999, &err), ERR_FORMAT);
    (void)snprintf(expected, sizeof expected, "%s: larger than the 199999 bytes that such a file may have",
                   path);
    assert_string_equal(err.msg, expected);
    buf_free(&back);
    mem_free(large);
    assert_int_equal(file_create(&w, in_folder("no/such/folder"), &err), ERR_IO);
    file_abort(&w);
}

static void test_file_read(void **state) {
    (void)state;
    const char *path = save("r.bin", "0123456789");
    File file;
    char four[5] = "";
    Err err = {0};
    assert_int_equal(file_open(&file, path, NULL), ERR_OK);
    assert_int_equal(file.size, 10);
    assert_int_equal(file_read_at(&file, four, 3, 4, NULL), ERR_OK);
    assert_string_equal(four, "3456");
    assert_int_equal(file_read_at(&file, four, 8, 4, &err), ERR_FORMAT);
    char expected[400];
    (void)snprintf(expected, sizeof expected, "%s: ends at byte 10 where 2 more bytes were expected", path);
    assert_string_equal(err.msg, expected);
    file_close(&file);
    file_close(&file);
    assert_int_equal(file_open(&file, folder, &err), ERR_IO);
    (void)snprintf(expected, sizeof expected, "%s: not a regular file", folder);
    assert_string_equal(err.msg, expected);
    assert_int_equal(file_open(&file, "/nonexistent", &err), ERR_IO);
    assert_string_equal(err.msg, "/nonexistent: cannot open: No such file or directory");
    const char *copy = in_folder("r2.bin");
    assert_int_equal(file_copy(copy, path, NULL), ERR_OK);
    assert_holds(copy, "0123456789");
}

static void test_file_dirs(void **state) {
    (void)state;
    char new_dir[300], path[300], file[400];
    (void)snprintf(new_dir, sizeof new_dir, "%s", in_folder("run.new"));
    (void)snprintf(path, sizeof path, "%s", in_folder("run"));
    for (int round = 0; round < 3; round++) {
        assert_int_equal(file_mkdirs(new_dir, NULL), ERR_OK);
        (void)snprintf(file, sizeof file, "%s/n", new_dir);
        char text[2] = {(char)('0' + round), 0};
        assert_int_equal(file_save(file, text, 1, NULL), ERR_OK);
        assert_int_equal(file_replace_dir(path, new_dir, NULL), ERR_OK);
        (void)snprintf(file, sizeof file, "%s/n", path);
        assert_holds(file, text);
        assert_false(file_exists(new_dir));
        assert_false(file_exists(in_folder("run.old")));
    }
    assert_int_equal(rename(path, in_folder("run.old")), 0); /* a crash between the two renames */
    assert_int_equal(file_recover_dir(path, NULL), ERR_OK);
    assert_holds(file, "2");
    assert_int_equal(symlink("/tmp", in_folder("run/link")), 0);
    assert_int_equal(file_remove_dir(path, NULL), ERR_OK);
    assert_false(file_exists(path));
    assert_true(file_is_dir("/tmp"));
    assert_int_equal(file_remove_dir(path, NULL), ERR_OK);
    Err err = {0};
    save("plain", "x");
    assert_int_equal(file_mkdirs(in_folder("plain"), &err), ERR_IO);
}

/* ---- text ---- */

static void test_text(void **state) {
    (void)state;
    static const char *const VALID[] = {
        "", "a", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xef\xbf\xbf"};
    static const char *const INVALID[] = {
        "\x80", "\xc0\x80", "\xc3",         "\xed\xa0\x80",     "\xe2\x82",        "\xf5\x80\x80\x80",
        "\xff", "\xc1\xbf", "\xe0\x9f\xbf", "\xf4\x90\x80\x80", "\xf0\x80\x80\x80"};
    for (size_t i = 0; i < sizeof VALID / sizeof *VALID; i++)
        assert_int_equal(text_utf8_prefix(VALID[i], strlen(VALID[i])), strlen(VALID[i]));
    for (size_t i = 0; i < sizeof INVALID / sizeof *INVALID; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "ab%s", INVALID[i]);
        assert_int_equal(text_utf8_prefix(text, strlen(text)), 2);
    }
    uint32_t cp;
    assert_int_equal(text_utf8_next("\xf0\x9f\x98\x80", 4, &cp), 4);
    assert_int_equal(cp, 0x1f600);
    for (uint64_t round = 0; round < 2000; round++) { /* any bytes: progress, and never past the end */
        unsigned char *bytes = malloc(12);
        assert_non_null(bytes);
        for (uint64_t i = 0; i < 12; i++)
            bytes[i] = (unsigned char)(rng_bits(seed + round, i) >> (round % 3));
        for (size_t i = 0; i < 12;) {
            const size_t len = text_utf8_next((char *)bytes + i, 12 - i, &cp);
            assert_true(len >= 1 && len <= 12 - i);
            i += len;
        }
        Buf json = {0};
        text_put_json(&json, (char *)bytes, 12);
        cJSON *tree;
        assert_int_equal(json_parse(&tree, json.data, json.len, NULL), ERR_OK);
        if (text_utf8_prefix((char *)bytes, 12) == 12) {
            size_t n;
            const char *s = json_text(tree, &n);
            assert_int_equal(n, 12);
            assert_memory_equal(s, bytes, 12);
        }
        cJSON_Delete(tree);
        buf_free(&json);
        free(bytes);
    }
    static const char *const NAMES[] = {"learning_rate", "batch_size", "seed"};
    assert_string_equal(text_nearest("learnig_rate", NAMES, 3), "learning_rate");
    assert_string_equal(text_nearest("sed", NAMES, 3), "seed");
    assert_null(text_nearest("banana", NAMES, 3));
    char out[16];
    assert_string_equal(text_excerpt(out, 8, "ab\ncd", 5), "ab?cd");
    assert_string_equal(text_excerpt(out, 4, "abcd\xc3\xa4", 6), "abcd...");
    assert_string_equal(text_excerpt(out, 5, "abcd\xc3\xa4", 6), "abcd...");
    assert_string_equal(text_excerpt(out, 6, "abcd\xc3\xa4", 6), "abcd\xc3\xa4");
}

/* ---- json ---- */

static void json_fails(const char *text, size_t n, const char *message) {
    cJSON *tree = NULL;
    Err err = {0};
    char *exact = malloc(n ? n : 1); /* the sanitizer sees a byte read behind it */
    assert_non_null(exact);
    memcpy(exact, text, n);
    assert_int_equal(json_parse(&tree, exact, n, &err), ERR_FORMAT);
    free(exact);
    assert_null(tree);
    assert_string_equal(err.msg, message);
}

static void test_json(void **state) {
    (void)state;
#define JSON_FAILS(text, message) json_fails(text, sizeof(text) - 1, message)
    JSON_FAILS("", "not valid JSON at line 1, column 1: empty");
    JSON_FAILS("{\"a\":1,", "not valid JSON at line 1, column 7: unexpected text");
    JSON_FAILS("{\n\"a\": nul}", "not valid JSON at line 2, column 6: unexpected text");
    JSON_FAILS("{} x", "not valid JSON at line 1, column 4: text behind the value");
    JSON_FAILS("{\"a\":1}{\"a\":1}", "not valid JSON at line 1, column 8: text behind the value");
    JSON_FAILS("{\"a\":1,\"b\":[{\"x\":1,\"y\":2,\"x\":3}]}", "the key \"x\" occurs twice in one object");
    JSON_FAILS("\"\xc3(\"", "not valid JSON at line 1, column 2: not UTF-8");
    JSON_FAILS("\"\xc0\x80\"", "not valid JSON at line 1, column 2: not UTF-8");
    JSON_FAILS("\"a\0b\"", "not valid JSON at line 1, column 3: a NUL byte");
    JSON_FAILS("\"\\ud800\"", "not valid JSON at line 1, column 2: unexpected text");
    JSON_FAILS("{\"a\":1 \"b\":2}", "not valid JSON at line 1, column 8: unexpected text");

    Buf deep = {0};
    for (int i = 0; i < 64; i++) buf_puts(&deep, "[");
    for (int i = 0; i < 64; i++) buf_puts(&deep, "]");
    cJSON *tree;
    assert_int_equal(json_parse(&tree, deep.data, deep.len, NULL), ERR_OK);
    cJSON_Delete(tree);
    buf_clear(&deep);
    for (int i = 0; i < 100000; i++) buf_puts(&deep, "{\"a\":[");
    json_fails(deep.data, deep.len, "not valid JSON at line 1, column 193: nested more than 64 deep");
    buf_free(&deep);

    const char *text =
        " {\"s\":\"a\\u0000b\\\\u0000\",\"i\":-7,\"d\":0.5,\"b\":true,\"big\":1e300,\"n\":null}\r\n";
    assert_int_equal(json_parse(&tree, text, strlen(text), NULL), ERR_OK);
    size_t n;
    const char *s = json_text(cJSON_GetObjectItemCaseSensitive(tree, "s"), &n);
    assert_int_equal(n, 9);
    assert_memory_equal(s, "a\0b\\u0000", 10);
    int64_t i = 3;
    double d = 0;
    bool b = false;
    const char *string = NULL;
    Err err = {0};
    assert_int_equal(json_get_int(&i, tree, "i", -10, 10, NULL), ERR_OK);
    assert_int_equal(i, -7);
    assert_int_equal(json_get_int(&i, tree, "missing", -10, 10, NULL), ERR_OK);
    assert_int_equal(i, -7);
    assert_int_equal(json_get_int(&i, tree, "i", 0, 10, &err), ERR_FORMAT);
    assert_string_equal(err.msg, "key \"i\": found -7, expected an integer from 0 to 10");
    assert_int_equal(json_get_int(&i, tree, "d", 0, 10, &err), ERR_FORMAT);
    assert_int_equal(json_get_int(&i, tree, "big", 0, INT64_MAX, &err), ERR_FORMAT);
    assert_int_equal(json_get_int(&i, tree, "s", 0, 10, &err), ERR_FORMAT);
    assert_string_equal(err.msg, "key \"s\": found a string, expected an integer");
    assert_int_equal(json_get_double(&d, tree, "d", 0, 1, NULL), ERR_OK);
    assert_true(d == 0.5);
    assert_int_equal(json_get_double(&d, tree, "i", 0, 1, &err), ERR_FORMAT);
    assert_string_equal(err.msg, "key \"i\": found -7, expected 0 to 1");
    assert_int_equal(json_get_bool(&b, tree, "b", NULL), ERR_OK);
    assert_true(b);
    assert_int_equal(json_get_bool(&b, tree, "n", &err), ERR_FORMAT);
    assert_string_equal(err.msg, "key \"n\": found null, expected true or false");
    assert_int_equal(json_get_string(&string, tree, "b", &err), ERR_FORMAT);
    assert_string_equal(err.msg, "key \"b\": found true or false, expected a string");
    cJSON_Delete(tree);

    const char *path = save("bad.json", "{\"a\":\n}");
    assert_int_equal(json_read(&tree, path, &err), ERR_FORMAT);
    char expected[300];
    (void)snprintf(expected, sizeof expected, "%s: not valid JSON at line 2, column 1: unexpected text",
                   path);
    assert_string_equal(err.msg, expected);
}

/* Random small changes of a valid text: accepted or refused, never a crash; exact-size blocks. */
static void test_json_changed(void **state) {
    (void)state;
    static const char TEXT[] =
        "{\"text\":\"a\\u0000\\\"\\ud83d\\ude00\",\"n\":[1,-2.5e3,true,null,{\"k\":\"v\"}]}";
    static const char PIECES[] = "{}[]\",:\\u0d8-+.eEtfn \n\xc3\xa4";
    for (uint64_t round = 0; round < 20000; round++) {
        const uint64_t r = rng_bits(seed, round);
        const size_t n = r % 3 == 0 ? (size_t)(r >> 8) % sizeof TEXT : sizeof TEXT - 1;
        char *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, TEXT, n);
        for (uint64_t k = 0; k < r % 4 && n; k++) {
            const uint64_t q = rng_bits(r, k);
            copy[q % n] = PIECES[(q >> 32) % (sizeof PIECES - 1)];
        }
        cJSON *tree;
        Err err = {0};
        const ErrCode rc = json_parse(&tree, copy, n, &err);
        assert_true(rc == ERR_OK ? tree != NULL : rc == ERR_FORMAT && !tree && err.msg[0]);
        cJSON_Delete(tree);
        free(copy);
    }
}

/* ---- lines ---- */

static size_t gzip_of(char *out, size_t cap, const char *text, size_t n) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)text;
    z.avail_in = (uInt)n;
    z.next_out = (unsigned char *)out;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    const size_t made = cap - z.avail_out;
    deflateEnd(&z);
    return made;
}

/* The lines of a file, each followed by '|', into out. */
static ErrCode all_lines(Buf *out, const char *path, Err *err) {
    Lines *lines;
    buf_clear(out);
    TRY(lines_open(&lines, path, err));
    bool more = true;
    ErrCode rc = ERR_OK;
    size_t number = 0;
    while (rc == ERR_OK) {
        const char *text;
        size_t n;
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        buf_put(out, text, n);
        buf_put(out, "|", 1);
        assert_int_equal(lines_number(lines), ++number);
        assert_string_equal(lines_path(lines), path);
    }
    lines_close(lines);
    return rc;
}

static void lines_are(const char *path, const char *expected, size_t n) {
    Buf got = {0};
    Err err = {0};
    OK(all_lines(&got, path, &err));
    assert_int_equal(got.len, n);
    if (n) assert_memory_equal(got.data, expected, n);
    buf_free(&got);
}

static void test_lines(void **state) {
    (void)state;
    lines_are(save("l1", ""), "", 0);
    lines_are(save("l2", "\n"), "|", 1);
    lines_are(save("l3", "a\r\nb\n\nc"), "a|b||c|", 7);
    lines_are(save_bytes("l4", "a\0b\n", 4), "a\0b|", 4);
    lines_are(save("l5", "\x1f"), "\x1f|", 2);

    Buf text = {0},
        expected = {0}; /* lines of 0 to 300,000 bytes, in each coding, and two streams in one file */
    for (uint64_t i = 0; i < 60; i++) {
        const uint64_t n = i == 30 ? 300000 : rng_bits(seed, i) % 5000;
        for (uint64_t k = 0; k < n; k++) {
            const char c = (char)('a' + rng_bits(seed + i, k) % 26);
            buf_put(&text, &c, 1);
            buf_put(&expected, &c, 1);
        }
        buf_puts(&text, i % 2 ? "\n" : "\r\n");
        buf_puts(&expected, "|");
    }
    const size_t cap = 2 * text.len + 10000;
    char *packed = mem_alloc(cap, 1);
    assert_non_null(packed);
    lines_are(save_bytes("plain.txt", text.data, text.len), expected.data, expected.len);
    for (int coding = 0; coding < 2; coding++) {
        const size_t half = text.len / 2;
        size_t n;
        if (coding == 0) {
            n = gzip_of(packed, cap, text.data, half);
            n += gzip_of(packed + n, cap - n, text.data + half, text.len - half);
        } else {
            n = ZSTD_compress(packed, cap, text.data, half, 1);
            assert_false(ZSTD_isError(n));
            n += ZSTD_compress(packed + n, cap - n, text.data + half, text.len - half, 3);
        }
        lines_are(save_bytes("packed", packed, n), expected.data, expected.len);
        for (int cut = 0; cut < 40; cut++) { /* cut off anywhere but between the streams: noticed */
            const size_t at = 5 + (size_t)(rng_bits(seed, (uint64_t)(1000 + cut)) % (n - 5));
            const char *path = save_bytes("cut", packed, at);
            Err err = {0};
            Buf got = {0};
            const ErrCode rc = all_lines(&got, path, &err);
            if (rc == ERR_OK) {
                assert_int_equal(got.len < expected.len, 1); /* exactly the first stream */
            } else {
                assert_int_equal(rc, ERR_FORMAT);
                char start[300];
                (void)snprintf(start, sizeof start, "%s: damaged %s stream behind line ", path,
                               coding ? "zstd" : "gzip");
                assert_memory_equal(err.msg, start, strlen(start));
                assert_memory_equal(got.data ? got.data : "", expected.data, got.len);
            }
            buf_free(&got);
        }
        memcpy(packed + n, "garbage", 7);
        Buf got = {0};
        assert_int_equal(all_lines(&got, save_bytes("tail", packed, n + 7), NULL), ERR_FORMAT);
        buf_free(&got);
    }
    Err err = {0};
    Lines *lines;
    assert_int_equal(lines_open(&lines, "/nonexistent/x", &err), ERR_IO);
    assert_string_equal(err.msg, "/nonexistent/x: cannot open: No such file or directory");
    mem_free(packed);
    buf_free(&text);
    buf_free(&expected);
}

/* A line that unpacks to more than LINES_MAX is refused before it takes more memory than that. */
static void test_lines_bomb(void **state) {
    (void)state;
    const size_t n = LINES_MAX + ((size_t)1 << 20), cap = 1 << 20;
    char *zeros = mem_alloc(n, 1), *packed = mem_alloc(cap, 1);
    assert_true(zeros && packed);
    const size_t made = ZSTD_compress(packed, cap, zeros, n, 1);
    assert_false(ZSTD_isError(made));
    const char *path = save_bytes("bomb.zst", packed, made);
    Err err = {0};
    Buf got = {0};
    assert_int_equal(all_lines(&got, path, &err), ERR_FORMAT);
    char expected[300];
    (void)snprintf(expected, sizeof expected, "%s:1: line longer than 67108864 bytes", path);
    assert_string_equal(err.msg, expected);
    buf_free(&got);
    mem_free(zeros);
    mem_free(packed);
}

/* ---- flags ---- */

typedef struct {
    double learning_rate;
    int64_t steps;
    bool fast, warm;
    char *name, *kind;
    FlagList list;
} Options;

static const Flag FLAGS[] = {
    {"learning_rate", "lr", FLAG_FLOAT, offsetof(Options, learning_rate), "1e-5", 0, 1, NULL,
     "#Main\nStep size."},
    {"steps", NULL, FLAG_INT, offsetof(Options, steps), "10", 1, 1000, NULL, "How many."},
    {"fast", NULL, FLAG_BOOL, offsetof(Options, fast), NULL, 0, 0, NULL, "Hurry."},
    {"warm", NULL, FLAG_BOOL, offsetof(Options, warm), "true", 0, 0, NULL, "Warm up."},
    {"name", NULL, FLAG_STRING, offsetof(Options, name), NULL, 0, 0, NULL, "A name."},
    {"kind", NULL, FLAG_CHOICE, offsetof(Options, kind), "linear", 0, 0, "linear|cosine", "Shape."},
    {"list", NULL, FLAG_LIST, offsetof(Options, list), NULL, 0, 0, NULL, "Several."},
};
static const Command COMMAND = {.name = "try",
                                .summary = "a command",
                                .usage = "try FILE",
                                .flags = FLAGS,
                                .flag_count = sizeof FLAGS / sizeof *FLAGS,
                                .options_bytes = sizeof(Options),
                                .positional_min = 1,
                                .positional_max = 2,
                                .takes_config = true};

static ErrCode parse(Options *o, FlagList *arguments, bool *help, Err *err, const char *const *args) {
    char *argv[16];
    int argc = 0;
    for (; args[argc]; argc++) argv[argc] = (char *)(uintptr_t)args[argc];
    *o = (Options){0};
    return flags_parse(&COMMAND, o, arguments, help, argc, argv, err);
}

static void flags_fail(const char *const *args, const char *message) {
    Options o;
    FlagList arguments;
    bool help;
    Err err = {0};
    assert_int_equal(parse(&o, &arguments, &help, &err, args), ERR_ARGUMENT);
    assert_string_equal(err.msg, message);
    flags_free(&COMMAND, &o, &arguments);
}

static void test_flags(void **state) {
    (void)state;
    Options o;
    FlagList arguments;
    bool help;
    assert_int_equal(parse(&o, &arguments, &help, NULL,
                           ARGS("--lr", "1e-3", "file", "--steps=7", "--fast", "--no-warm", "--name", "x=y",
                                "--kind", "cosine", "--list", "a", "--list=b", "--", "--odd")),
                     ERR_OK);
    assert_true(o.learning_rate == 1e-3 && o.steps == 7 && o.fast && !o.warm && !help);
    assert_string_equal(o.name, "x=y");
    assert_string_equal(o.kind, "cosine");
    assert_int_equal(o.list.count, 2);
    assert_string_equal(o.list.items[1], "b");
    assert_int_equal(arguments.count, 2);
    assert_string_equal(arguments.items[1], "--odd");
    cJSON *json = flags_json(&COMMAND, &o);
    char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text,
                        "{\"learning_rate\":0.001,\"steps\":7,\"fast\":true,\"warm\":false,\"name\":\"x=y\","
                        "\"kind\":\"cosine\",\"list\":[\"a\",\"b\"]}");
    const char *path = save("options.json", text); /* what was printed is read again */
    cJSON_free(text);
    cJSON_Delete(json);
    flags_free(&COMMAND, &o, &arguments);
    flags_free(&COMMAND, &o, &arguments);
    assert_int_equal(parse(&o, &arguments, &help, NULL, ARGS("f", "--config", path, "--steps", "9")), ERR_OK);
    assert_true(o.learning_rate == 0.001 && o.steps == 9 && o.fast && !o.warm && o.list.count == 2);
    flags_free(&COMMAND, &o, &arguments);
    assert_int_equal(parse(&o, &arguments, &help, NULL, ARGS("-")), ERR_OK);
    assert_true(o.learning_rate == 1e-5 && o.steps == 10 && !o.fast && o.warm && !o.name);
    flags_free(&COMMAND, &o, &arguments);
    assert_int_equal(parse(&o, &arguments, &help, NULL, ARGS("--nonsense", "-h")), ERR_OK);
    assert_true(help);
    flags_free(&COMMAND, &o, &arguments);

    flags_fail(ARGS("f", "--learnig-rate", "1"),
               "unknown option --learnig-rate; did you mean option --learning_rate?");
    flags_fail(ARGS("f", "--zzzzzz", "1"), "unknown option --zzzzzz; see 'router try --help'");
    flags_fail(ARGS("f", "--no-steps"), "unknown option --no-steps; did you mean option --steps?");
    flags_fail(ARGS("f", "--steps", "1001"), "steps: found '1001', expected an integer from 1 to 1000");
    flags_fail(ARGS("f", "--steps", "1.5"), "steps: found '1.5', expected an integer from 1 to 1000");
    flags_fail(ARGS("f", "--steps", "99999999999999999999"),
               "steps: found '99999999999999999999', expected an integer from 1 to 1000");
    flags_fail(ARGS("f", "--lr", "nan"), "learning_rate: found 'nan', expected a number from 0 to 1");
    flags_fail(ARGS("f", "--lr", ""), "learning_rate: found '', expected a number from 0 to 1");
    flags_fail(ARGS("f", "--kind", "lin"), "kind: found 'lin', expected one of linear|cosine");
    flags_fail(ARGS("f", "--fast=maybe"), "fast: found 'maybe', expected true or false");
    flags_fail(ARGS("f", "--steps"), "--steps: expected a value");
    flags_fail(ARGS("f", "-x"), "unknown option -x: options begin with two dashes");
    flags_fail(ARGS("--fast"), "try: found 0 arguments; usage: router try FILE");
    flags_fail(ARGS("a", "b", "c"), "try: found 3 arguments; usage: router try FILE");
    static const struct {
        const char *json, *message;
    } CONFIGS[] = {
        {"{\"stepps\":1}", "unknown key stepps; did you mean key steps?"},
        {"{\"steps\":\"1\"}", "steps: expected an integer"},
        {"{\"steps\":2.5}", "steps: found '2.5', expected an integer from 1 to 1000"},
        {"{\"fast\":1}", "fast: expected true or false"},
        {"{\"list\":[1]}", "list: expected an array of strings"},
        {"[1]", "expected a JSON object of options"},
        {"{", "not valid JSON at line 1, column 1: unexpected text"},
    };
    for (size_t i = 0; i < sizeof CONFIGS / sizeof *CONFIGS; i++) {
        path = save("bad_options.json", CONFIGS[i].json);
        char expected[400];
        (void)snprintf(expected, sizeof expected, "%s: %s", path, CONFIGS[i].message);
        flags_fail(ARGS("f", "--config", path), expected);
    }
    Buf out = {0};
    flags_help(&out, &COMMAND);
    assert_non_null(strstr(out.data, "--learning-rate X, --lr"));
    assert_non_null(strstr(out.data, "Main:"));
    assert_non_null(strstr(out.data, "[1 to 1000] [default: 10]"));
    buf_free(&out);
    for (size_t n = 1;; n++) { /* whichever allocation fails: an error, no leak */
        mem_fail_at(n);
        const ErrCode rc =
            parse(&o, &arguments, &help, NULL,
                  ARGS("--name", "n", "file", "--list", "a", "--kind", "cosine", "--config", path));
        mem_fail_at(0);
        flags_free(&COMMAND, &o, &arguments);
        if (rc == ERR_ARGUMENT) break; /* the bad file, at last */
        assert_int_equal(rc, ERR_MEMORY);
        assert_true(n < 1000);
    }
}

/* ---- numbers ---- */

static void test_sha256(void **state) {
    (void)state;
    char hex[SHA256_HEX];
    sha256_hex_of(hex, "", 0);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_hex_of(hex, "abc", 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha256_hex_of(hex, two, strlen(two));
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    Sha256 s;
    unsigned char digest[SHA256_BYTES];
    sha256_init(&s);
    for (int i = 0; i < 1000000; i++) sha256_add(&s, "a", 1);
    sha256_end(&s, digest);
    sha256_hex(hex, digest);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    unsigned char bytes[300]; /* cut anywhere, the same */
    for (uint64_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)rng_bits(seed, i);
    for (size_t n = 0; n <= sizeof bytes; n++) {
        char whole[SHA256_HEX];
        sha256_hex_of(whole, bytes, n);
        const size_t cut = n ? (size_t)(rng_bits(seed, 1000 + n) % n) : 0;
        sha256_init(&s);
        sha256_add(&s, bytes, cut);
        sha256_add(&s, bytes + cut, n - cut);
        sha256_end(&s, digest);
        sha256_hex(hex, digest);
        assert_string_equal(hex, whole);
    }
}

static void test_rng(void **state) {
    (void)state;
    const uint64_t key = rng_key(seed, "test", 1);
    assert_true(key == rng_key(seed, "test", 1) && key != rng_key(seed, "test", 2) &&
                key != rng_key(seed, "tesu", 1) && key != rng_key(seed + 1, "test", 1));
    double sum = 0, square = 0, normal = 0, normal_square = 0;
    const int n = 200000;
    for (int i = 0; i < n; i++) {
        const double u = rng_uniform(key, (uint64_t)i), z = rng_normal(key, (uint64_t)i);
        assert_true(u >= 0 && u < 1 && isfinite(z));
        sum += u;
        square += u * u;
        normal += z;
        normal_square += z * z;
    }
    assert_true(fabs(sum / n - 0.5) < 0.004); /* 6 standard errors of 0.289 / sqrt(n) */
    assert_true(fabs(square / n - 1.0 / 3) < 0.004);
    assert_true(fabs(normal / n) < 0.0135);           /* 6 / sqrt(n) */
    assert_true(fabs(normal_square / n - 1) < 0.019); /* 6 * sqrt(2 / n) */
    int counts[24] = {0};                             /* all orders of 4 equally often */
    for (uint64_t i = 0; i < 24000; i++) {
        uint32_t order[4];
        rng_shuffle(order, 4, rng_key(seed, "orders", i));
        unsigned mask = 0;
        for (int k = 0; k < 4; k++) mask |= 1u << order[k];
        assert_int_equal(mask, 15);
        const uint32_t *o = order;
        const uint32_t rank = o[0] * 6 + (o[1] - (o[1] > o[0])) * 2 + (o[2] > o[3]);
        counts[rank]++;
    }
    for (int i = 0; i < 24; i++) assert_in_range(counts[i], 800, 1200); /* 1000 +- 6 * sqrt(1000) */
}

static void test_tensor(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) { /* every half survives; rounding is to even */
        const float f = tensor_f16_to_f32((uint16_t)h);
        if (isnan(f)) continue;
        assert_int_equal(tensor_f32_to_f16(f), h);
        const float up = tensor_f16_to_f32((uint16_t)(h + 1));
        if ((h & 0x7fff) >= 0x7bff || isinf(up)) continue;
        const float middle = f + (up - f) / 2;
        assert_int_equal(tensor_f32_to_f16(middle), h & 1 ? h + 1 : h);
    }
    Tensor t = {.shape = {3, 5}, .rank = 2, .dtype = DTYPE_F32};
    assert_int_equal(tensor_count(&t), 15);
    t.shape[0] = INT64_MAX;
    assert_int_equal(tensor_count(&t), -1);
    t.shape[0] = -1;
    assert_int_equal(tensor_count(&t), -1);
    assert_int_equal(tensor_dtype_find("BF16", 4), DTYPE_BF16);
    assert_int_equal(tensor_dtype_find("BF1", 3), DTYPE_COUNT);
}

/* ---- threads ---- */

typedef struct {
    atomic_int *hits;
    int count;
    atomic_int bad;
} Tally;

static void hit(void *arg, size_t i, int thread) {
    Tally *t = arg;
    atomic_fetch_add(&t->hits[i], 1);
    if (thread < 0 || thread >= t->count) atomic_store(&t->bad, 1);
}

static void test_threads(void **state) {
    (void)state;
    static atomic_int hits[3000];
    for (int count = 1; count <= 5; count++) {
        Threads *threads;
        assert_int_equal(threads_open(&threads, count, NULL), ERR_OK);
        assert_int_equal(threads_count(threads), count);
        for (size_t round = 0; round < 300; round++) {
            const size_t tasks = (size_t)(rng_bits(seed, round) % (round % 10 == 0 ? 3000 : 8));
            Tally tally = {.hits = hits, .count = count};
            for (size_t i = 0; i < tasks; i++) atomic_store(&hits[i], 0);
            threads_run(threads, hit, &tally, tasks);
            for (size_t i = 0; i < tasks; i++) assert_int_equal(atomic_load(&hits[i]), 1);
            assert_int_equal(atomic_load(&tally.bad), 0);
        }
        threads_close(threads);
    }
    Threads *threads;
    Err err = {0};
    /* Short runs one after the other, and pauses in which the threads fall asleep: nothing is lost or done
     * twice. */
    assert_int_equal(threads_open(&threads, 4, NULL), ERR_OK);
    for (size_t run = 0; run < 3000; run++) {
        atomic_int few[8] = {0};
        Tally tally = {few, 4, 0};
        const size_t tasks = run % 8;
        if (run % 300 == 0) (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        threads_run(threads, hit, &tally, tasks);
        for (size_t i = 0; i < 8; i++) assert_int_equal(atomic_load(&few[i]), i < tasks);
    }
    threads_close(threads);
    assert_int_equal(threads_open(&threads, -1, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "threads: found -1, expected 0 (all CPUs) to 1024");
    assert_int_equal(threads_count(NULL), 1);
    assert_int_equal(threads_open(&threads, 0, NULL), ERR_OK);
    assert_true(threads_count(threads) >= 1);
    threads_close(threads);
    threads_close(NULL);
}

static void note_cpu(void *arg, size_t i, int thread) {
    atomic_int *cpus = arg;
    (void)i;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (pthread_getaffinity_np(pthread_self(), sizeof set, &set) != 0 || CPU_COUNT(&set) != 1)
        atomic_store(&cpus[thread], -2);
    else
        for (size_t c = 0; c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &set)) atomic_store(&cpus[thread], (int)c);
}

/* In a process of its own, as the caller is pinned as well. */
static void test_pin(void **state) {
    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        Threads *threads;
        Err err = {0};
        atomic_int cpus[3] = {-1, -1, -1};
        cpu_set_t usable;
        if (sched_getaffinity(0, sizeof usable, &usable) != 0) _exit(5);
        if (threads_open(&threads, 3, &err) != ERR_OK || threads_pin(threads, &err) != ERR_OK) _exit(1);
        for (int i = 0; i < 200; i++) threads_run(threads, note_cpu, cpus, 50);
        threads_close(threads);
        for (int i = 0; i < 3; i++)
            if (cpus[i] == -2) _exit(2);
        if (CPU_COUNT(&usable) > 1 && cpus[0] >= 0 && cpus[1] >= 0 && cpus[0] == cpus[1]) _exit(3);
        _exit(cpus[0] >= 0 ? 0 : 4);
    }
    int status = -1;
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),        cmocka_unit_test(test_mem),
        cmocka_unit_test(test_arena),      cmocka_unit_test(test_buf),
        cmocka_unit_test(test_file_write), cmocka_unit_test(test_file_read),
        cmocka_unit_test(test_file_dirs),  cmocka_unit_test(test_text),
        cmocka_unit_test(test_json),       cmocka_unit_test(test_json_changed),
        cmocka_unit_test(test_lines),      cmocka_unit_test(test_lines_bomb),
        cmocka_unit_test(test_flags),      cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_rng),        cmocka_unit_test(test_tensor),
        cmocka_unit_test(test_threads),    cmocka_unit_test(test_pin),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
