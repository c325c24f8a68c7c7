/* tests/test_files.c - files written and read, JSON, and lines of plain and packed files. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/rng.h"
#include "tests/unit.h"

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

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_write),   cmocka_unit_test(test_file_read),
        cmocka_unit_test(test_file_dirs),    cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_changed), cmocka_unit_test(test_lines),
        cmocka_unit_test(test_lines_bomb),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
