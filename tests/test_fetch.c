/* tests/test_fetch.c - downloads from a server laid out like a hub, which does everything wrong: fetch, hub, lockfile, sha1. */
#include "core/file.h"
#include "core/flags.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/sha1.h"
#include "core/sha256.h"
#include "data/fetch_cmd.h"
#include "data/hub.h"
#include "data/lockfile.h"
#include "tests/http_server.h"
#include "tests/unit.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define TOKEN  "hf_secretsecretsecret"

enum { WEIGHTS = 300000, CONFIG = 40 };

static HttpServer *hub, *cdn;
static char weights[WEIGHTS], config[CONFIG + 1], weights_sha256[65], config_sha1[41];

/* What the servers do wrong, and what they saw; set by each test. */
static struct {
    int cuts, cut_bytes;      /* connections that the cdn still cuts, after so many bytes */
    int errors, error_status; /* answers of that status that come first */
    bool ignore_range, no_etag, wrong_bytes, wrong_size, wrong_commit, no_hashes, need_token, endless, loop,
        range_lies;
    bool other_etag;     /* the cdn's file is replaced after the first answer */
    int status;          /* of the hub, for everything */
    const char *listing; /* instead of the true one */
    int hub_requests, cdn_requests, ranges, cdn_secrets;
} wrong;

static void git_sha1(char out[41], const char *bytes, size_t n) {
    Sha1 s;
    char head[32];
    sha1_init(&s);
    sha1_add(&s, head, (size_t)snprintf(head, sizeof head, "blob %zu", n) + 1);
    sha1_add(&s, bytes, n);
    sha1_end(&s, out);
}

static bool has(const HttpSeen *seen, const char *name, const char *value) {
    char header[256];
    return strcmp(http_server_header(header, sizeof header, seen, name), value) == 0;
}

/* A file with what goes wrong on the way; etag with its quotes. */
static void serve(const HttpSeen *seen, HttpReply *r, const char *bytes, size_t n, const char *etag) {
    char range[256], condition[256];
    http_server_header(range, sizeof range, seen, "Range");
    http_server_header(condition, sizeof condition, seen, "If-Range");
    size_t from = 0;
    if (range[0] && !wrong.ignore_range && (!condition[0] || strcmp(condition, etag) == 0))
        from = (size_t)strtoul(range + strlen("bytes="), NULL, 10);
    wrong.ranges += range[0] != 0;
    if (range[0] && from >= n) {
        r->status = 416;
        http_reply_header(r, "Content-Range: bytes */%zu", n);
        return;
    }
    if (!wrong.no_etag) http_reply_header(r, "ETag: %s", etag);
    if (from) {
        r->status = 206;
        http_reply_header(r, "Content-Range: bytes %zu-%zu/%zu", from + (wrong.range_lies ? 1 : 0), n - 1, n);
    }
    http_reply_body(r, bytes + from, n - from);
    if (wrong.cuts > 0) {
        wrong.cuts--;
        r->cut = true;
        r->cut_after = (uint64_t)wrong.cut_bytes;
    }
    if (wrong.endless) {
        r->repeat = 1 << 20;
        r->chunked = true;
    }
}

static void handle_cdn(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    char header[256];
    wrong.cdn_requests++;
    wrong.cdn_secrets += http_server_header(header, sizeof header, seen, "Authorization")[0] != 0;
    if (wrong.errors > 0) {
        wrong.errors--;
        r->status = wrong.error_status;
        return;
    }
    static char other[WEIGHTS];
    memcpy(other, weights, WEIGHTS);
    if (wrong.wrong_bytes) other[WEIGHTS / 2] ^= 1;
    const bool later = wrong.other_etag && wrong.cdn_requests > 1;
    serve(seen, r, other, WEIGHTS - (wrong.wrong_size ? 1 : 0), later ? "\"later\"" : "\"cdn-etag\"");
}

static void list(HttpReply *r) {
    if (wrong.listing) {
        http_reply_text(r, "%s", wrong.listing);
        return;
    }
    char lfs[200] = "", blob[80] = "";
    if (!wrong.no_hashes) {
        (void)snprintf(lfs, sizeof lfs,
                       ",\"size\":%d,\"lfs\":{\"sha256\":\"%s\",\"size\":%d,\"pointerSize\":134}", WEIGHTS,
                       weights_sha256, WEIGHTS);
        (void)snprintf(blob, sizeof blob, ",\"size\":%d,\"blobId\":\"%s\"", CONFIG, config_sha1);
    }
    http_reply_text(r,
                    "{\"id\":\"org/name\",\"sha\":\"" COMMIT
                    "\",\"siblings\":[{\"rfilename\":\"sub dir/config.json\"%s},"
                    "{\"rfilename\":\"model.safetensors\"%s},{\"rfilename\":\"pytorch_model.bin\"},"
                    "{\"rfilename\":\"onnx/model.onnx\"}]}",
                    blob, lfs);
}

static void handle_hub(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    wrong.hub_requests++;
    const bool api = strncmp(seen->target, "/api/models/org/name/revision/", 30) == 0;
    const char *resolve = "/org/name/resolve/" COMMIT "/";
    if (wrong.status) {
        r->status = wrong.status;
    } else if (wrong.need_token && !has(seen, "Authorization", "Bearer " TOKEN)) {
        r->status = 401;
    } else if (api) {
        list(r);
    } else if (strcmp(seen->target, "/plain/file%20a.txt?x=1") == 0) {
        serve(seen, r, config, CONFIG, "\"plain\"");
    } else if (strncmp(seen->target, resolve, strlen(resolve)) == 0) {
        const char *path = seen->target + strlen(resolve);
        http_reply_header(r, "X-Repo-Commit: %s",
                          wrong.wrong_commit ? "fedcba9876543210fedcba9876543210fedcba98" : COMMIT);
        if (strcmp(path, "sub%20dir/config.json") == 0) {
            char etag[64];
            (void)snprintf(etag, sizeof etag, "\"%s\"", config_sha1);
            serve(seen, r, config, CONFIG, etag);
        } else if (wrong.loop) {
            r->status = 302;
            http_reply_header(r, "Location: %s", seen->target);
        } else if (strcmp(path, "model.safetensors") == 0) {
            r->status = 302;
            http_reply_header(r, "X-Linked-Size: %d", WEIGHTS);
            http_reply_header(r, "X-Linked-Etag: \"%s\"", weights_sha256);
            http_reply_header(r, "Location: %s/lfs/weights?signature=1", http_server_url(cdn));
        } else {
            r->status = 404;
        }
    } else {
        r->status = 404;
    }
}

static ErrCode run(Buf *out, Err *err, const char *const *args) {
    const char *argv[32] = {0};
    int argc = 0;
    for (; args[argc]; argc++) argv[argc] = args[argc];
    argv[argc] = "--backoff=0.001";
    return run_command(&fetch_cmd, out, err, argv);
}

static void remove_out(void) {
    assert_int_equal(file_remove_dir(in_folder("out"), NULL), ERR_OK);
}

static int fresh(void **state) {
    (void)state;
    memset(&wrong, 0, sizeof wrong);
    unsetenv("HF_HUB_OFFLINE");
    unsetenv("HF_TOKEN");
    return setenv("HF_ENDPOINT", http_server_url(hub), 1) == 0 &&
                   file_remove_dir(in_folder("out"), NULL) == ERR_OK
               ? 0
               : -1;
}

static void check_file(const char *name, const char *bytes, size_t n) {
    Buf got = {0};
    Err err = {0};
    ok(file_read(&got, in_folder("%s", name), 1 << 24, &err), &err);
    assert_int_equal(got.len, n);
    assert_memory_equal(got.data, bytes, n);
    buf_free(&got);
}

static void check_model(void) {
    check_file("out/model.safetensors", weights, WEIGHTS);
    check_file("out/sub dir/config.json", config, CONFIG);
    assert_false(file_exists(in_folder("out/model.safetensors.part")));
    assert_false(file_exists(in_folder("out/model.safetensors.part.etag")));
    assert_false(file_exists(in_folder("out/pytorch_model.bin")));
}

/* Fetches the model: no failure, or a failure with this message. */
static void fetch_model(const char *message) {
    Buf out = {0};
    Err err = {0};
    const ErrCode rc = run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out")));
    if (!message) {
        ok(rc, &err);
        check_model();
    } else {
        assert_true(rc != ERR_OK);
        assert_string_equal(err.msg, message);
        assert_false(file_exists(in_folder("out/model.safetensors")));
    }
    assert_int_equal(wrong.cdn_secrets, 0);
    buf_free(&out);
}

/* ---- digests, names, listings ---- */

static void test_sha1(void **state) {
    (void)state;
    char hex[41];
    git_sha1(hex, "", 0);
    assert_string_equal(hex, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"); /* git's empty blob */
    git_sha1(hex, "hello\n", 6);
    assert_string_equal(
        hex, "ce013625030ba8dba906f756967f9e9ca394464a"); /* echo hello | git hash-object --stdin */
    Sha1 s;
    sha1_init(&s);
    for (int i = 0; i < 1000000; i++) sha1_add(&s, "a", 1);
    sha1_end(&s, hex);
    assert_string_equal(hex, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"); /* FIPS 180 */
}

static void test_names(void **state) {
    (void)state;
    static const char *const GOOD[] = {"hf:org/name", "hf:gpt2", "hf:datasets/a/b-c_d.e",
                                       "hf:org/name@refs/pr/1", "hf:a/b@v1.0"};
    static const char *const BAD[] = {"hf:",       "hf:/name", "hf:org/",     "hf:a/b/c",    "hf:../x",
                                      "hf:a..b/c", "hf:a/b@",  "hf:a/b@x y",  "hf:a/b@../c", "hf:a b/c",
                                      "hf:.a/b",   "hf:a/b?c", "hf:datasets/"};
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        HubRepo repo;
        Err err = {0};
        ok(hub_parse(&repo, GOOD[i], &err), &err);
        hub_repo_free(&repo);
    }
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        HubRepo repo;
        assert_int_equal(hub_parse(&repo, BAD[i], NULL), ERR_ARGUMENT);
    }
    HubRepo repo;
    Buf url = {0};
    Err err = {0};
    ok(hub_parse(&repo, "hf:datasets/a/b@refs/pr/1", &err), &err);
    hub_put_api(&url, "https://h", &repo, repo.revision);
    buf_puts(&url, " ");
    hub_put_file(&url, "https://h", &repo, COMMIT, "x y/\xc3\xa4?#%.txt");
    assert_string_equal(
        url.data,
        "https://h/api/datasets/a/b/revision/refs%2Fpr%2F1?blobs=true https://h/datasets/a/b/resolve/" COMMIT
        "/x%20y/%C3%A4%3F%23%25.txt");
    buf_free(&url);
    hub_repo_free(&repo);
}

static void test_paths(void **state) {
    (void)state;
    static const char *const BAD[] = {"",
                                      "/etc/passwd",
                                      "../x",
                                      "a/../b",
                                      "a/..",
                                      "./a",
                                      "a//b",
                                      "a/",
                                      "a\\b",
                                      "a\nb",
                                      "a\xff",
                                      ".",
                                      "..",
                                      "x.part",
                                      "x.part.etag",
                                      "a\x7f",
                                      "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        assert_int_equal(hub_check_path(BAD[i], NULL), ERR_FORMAT);
    char longest[HUB_PATH_MAX + 2];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_int_equal(hub_check_path(longest, NULL), ERR_FORMAT);
    longest[256] = 0;
    assert_int_equal(hub_check_path(longest, NULL), ERR_FORMAT);
    longest[255] = 0;
    assert_int_equal(hub_check_path(longest, NULL), ERR_OK);
    assert_int_equal(hub_check_path("..a/b../.c/d e\xc3\xa4", NULL), ERR_OK);
}

static void test_hostile_listings(void **state) {
    (void)state;
    static const char *const LISTINGS[][2] = {
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[{\"rfilename\":\"../../x\"}]}",
         "hf:org/name: the server names a file '../../x', which is refused: a part that is empty, a dot or "
         "two, or too long"},
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[{\"rfilename\":\"/tmp/x\"}]}",
         "hf:org/name: the server names a file '/tmp/x', which is refused: a part that is empty, a dot or "
         "two, or too long"},
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[{\"rfilename\":\"a\\u0000b\"}]}",
         "hf:org/name: the server names a file 'a??b', which is refused: not UTF-8"},
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[{\"rfilename\":\"a\"},{\"rfilename\":\"a\"}]}",
         "hf:org/name: the listing names 'a' twice"},
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[]}",
         "hf:org/name: the listing has 0 files, expected 1 to 100000"},
        {"{\"sha\":\"main\",\"siblings\":[{\"rfilename\":\"a\"}]}",
         "hf:org/name: sha: expected 40 hexadecimal digits"},
        {"{\"siblings\":[{\"rfilename\":\"a\"}]}",
         "hf:org/name: the answer is no listing: expected an object with sha and siblings"},
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[{\"path\":\"a\"}]}",
         "hf:org/name: siblings: one has no rfilename"},
        {"{\"sha\":\"" COMMIT "\",\"siblings\":[{\"rfilename\":\"a\",\"size\":-1}]}",
         "hf:org/name: key \"size\": found -1, expected an integer from 0 to 9007199254740992"},
        {"<html>", "hf:org/name: not valid JSON at line 1, column 1: unexpected text"},
        {"{\"sha\":\"" COMMIT
         "\",\"siblings\":[{\"rfilename\":\"model.safetensors/x\"},{\"rfilename\":\"gone.txt\"}]}",
         "gone.txt: 404: org/name has no such file or revision, or is not there"},
    };
    for (size_t i = 0; i < sizeof LISTINGS / sizeof *LISTINGS; i++) {
        wrong.listing = LISTINGS[i][0];
        fetch_model(LISTINGS[i][1]);
    }
}

/* ---- transfers ---- */

static void test_fetch(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--json")), &err);
    check_model();
    char expected[1024];
    (void)snprintf(
        expected, sizeof expected,
        "{\"out\":\"%s\",\"url\":\"hf:org/name\",\"revision\":\"main\",\"commit\":\"" COMMIT
        "\",\"bytes\":%d,\"received\":%d,\"kept\":0,\"files\":[{\"path\":\"model.safetensors\",\"size\":%d,"
        "\"sha256\":\"%s\"},{\"path\":\"sub dir/config.json\",\"size\":%d,\"sha256\":",
        in_folder("out"), WEIGHTS + CONFIG, WEIGHTS + CONFIG, WEIGHTS, weights_sha256, CONFIG);
    assert_true(strncmp(out.data, expected, strlen(expected)) == 0);
    assert_non_null(strstr(out.data, "\"left_out\":[\"onnx/model.onnx\",\"pytorch_model.bin\"]"));
    const int before = wrong.cdn_requests;
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), &err); /* all of it is there */
    assert_non_null(strstr(out.data, "; 2 were there already\n"));
    assert_int_equal(wrong.cdn_requests, before);
    assert_int_equal(file_save(in_folder("out/model.safetensors"), weights, 100, NULL),
                     ERR_OK); /* damaged: once more */
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--include", "*.safetensors")), &err);
    check_model();
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--include", "*.gguf")),
                     ERR_ARGUMENT);
    assert_string_equal(err.msg, "hf:org/name: none of its 4 files is wanted by --include");
    buf_free(&out);
}

static void test_cuts(void **state) {
    (void)state;
    wrong.cuts = 20; /* more than may fail in a row: each brings something */
    wrong.cut_bytes = 9000;
    fetch_model(NULL);
    assert_true(wrong.ranges >= 20);
    assert_int_equal(wrong.cdn_requests, 21);
}

static void test_cut_before_any_byte(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    wrong.cuts = 1000;
    wrong.cut_bytes = 0;
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--attempts", "3")),
                     ERR_IO);
    assert_non_null(strstr(err.msg, "model.safetensors: given up after 3 attempts: GET http://127.0.0.1:"));
    assert_null(strstr(err.msg, "signature"));
    assert_int_equal(wrong.cdn_requests, 3);
    buf_free(&out);
}

/* What one run left, the next goes on from. */
static void test_resume_later(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    wrong.cuts = 1;
    wrong.cut_bytes = 100000;
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--attempts", "1")),
                     ERR_IO);
    assert_true(file_exists(in_folder("out/model.safetensors.part")));
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--json")), &err);
    check_model();
    char received[64];
    (void)snprintf(received, sizeof received, "\"received\":%d,", WEIGHTS - 100000 + CONFIG);
    assert_non_null(strstr(out.data, received));
    buf_free(&out);
}

static void test_range_ignored(void **state) {
    (void)state;
    wrong.cuts = 2;
    wrong.cut_bytes = 50000;
    wrong.ignore_range = true;
    fetch_model(NULL);
}

static void test_replaced_while_cut(void **state) {
    (void)state;
    wrong.cuts = 1;
    wrong.cut_bytes = 50000;
    wrong.other_etag = true; /* If-Range does not hold any more: all of it comes again */
    fetch_model(NULL);
    assert_int_equal(wrong.ranges, 1);
}

static void test_without_etag(void **state) {
    (void)state;
    wrong.cuts = 2;
    wrong.cut_bytes = 50000;
    wrong.no_etag = true; /* the SHA-256 is known, so going on is safe */
    fetch_model(NULL);
    assert_int_equal(wrong.ranges, 2);
}

static void test_range_lies(void **state) {
    (void)state;
    wrong.cuts = 1;
    wrong.cut_bytes = 50000;
    wrong.range_lies = true;
    fetch_model("model.safetensors: the server sent another part of the file than it was asked for");
}

static void put_part(const char *bytes, size_t n, const char *etag) {
    Err err = {0};
    ok(file_mkdirs(in_folder("out"), &err), &err);
    ok(file_save(in_folder("out/model.safetensors.part"), bytes, n, &err), &err);
    ok(file_save(in_folder("out/model.safetensors.part.etag"), etag, strlen(etag), &err), &err);
}

/* Of an unfinished file: all is there; too much; other bytes; and names of bytes that are none. */
static void test_parts(void **state) {
    (void)state;
    static char more[WEIGHTS + 10];
    put_part(weights, WEIGHTS, "\"cdn-etag\"");
    fetch_model(NULL);
    assert_int_equal(wrong.cdn_requests, 0);
    (void)fresh(NULL);
    memcpy(more, weights, WEIGHTS);
    put_part(more, sizeof more, "\"cdn-etag\""); /* 416 */
    fetch_model(NULL);
    assert_int_equal(wrong.cdn_requests, 2);
    (void)fresh(NULL);
    memset(more, 'z', sizeof more);
    put_part(more, 1000, "\"cdn-etag\""); /* the digest tells */
    fetch_model(NULL);
    (void)fresh(NULL);
    put_part(weights, 1000, "\"a\r\nX-Evil: 1\"");
    fetch_model(NULL);
}

static void test_wrong_files(void **state) {
    (void)state;
    char message[256];
    wrong.wrong_bytes = true;
    Buf out = {0};
    Err err = {0};
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), ERR_FORMAT);
    assert_true(strncmp(err.msg, "model.safetensors: the SHA-256 is ", 34) == 0 &&
                strstr(err.msg, weights_sha256));
    assert_false(file_exists(in_folder("out/model.safetensors")));
    assert_false(file_exists(in_folder("out/model.safetensors.part")));
    buf_free(&out);
    (void)fresh(NULL);
    wrong.no_hashes = wrong.wrong_bytes = true; /* X-Linked-Etag is the hash then */
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), ERR_FORMAT);
    assert_non_null(strstr(err.msg, weights_sha256));
    buf_free(&out);
    (void)fresh(NULL);
    wrong.wrong_size = true;
    fetch_model("model.safetensors: the server answers with status 416");
    (void)fresh(NULL);
    wrong.endless = true;
    (void)snprintf(message, sizeof message,
                   "model.safetensors: the server sends more than the %d bytes that were expected", WEIGHTS);
    fetch_model(message);
    (void)fresh(NULL);
    wrong.wrong_commit = true;
    fetch_model(
        "model.safetensors: the server gives it of commit 'fedcba9876543210fedcba9876543210fedcba98', "
        "expected " COMMIT);
    (void)fresh(NULL);
    wrong.loop = true;
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), ERR_IO);
    assert_non_null(strstr(err.msg, "redirect"));
    buf_free(&out);
}

static void test_statuses(void **state) {
    (void)state;
    wrong.errors = 3;
    wrong.error_status = 503;
    fetch_model(NULL);
    static const struct {
        int status;
        const char *token, *message;
    } ALL[] = {
        {401, NULL,
         "hf:org/name: 401: org/name is private, gated or not there; put a token that may read it into the "
         "environment as "
         "HF_TOKEN"},
        {401, TOKEN,
         "hf:org/name: 401: the server does not know the token in HF_TOKEN, or it may not read org/name"},
        {403, TOKEN,
         "hf:org/name: 403: org/name is gated: accept its terms on its page, and let HF_TOKEN hold a token "
         "that may read "
         "it"},
        {404, NULL, "hf:org/name: 404: org/name has no such file or revision, or is not there"},
        {418, NULL, "hf:org/name: the server answers with status 418"},
        {500, NULL, "hf:org/name: the server answers with status 500"},
    };
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++) {
        (void)fresh(NULL);
        if (ALL[i].token) assert_int_equal(setenv("HF_TOKEN", ALL[i].token, 1), 0);
        wrong.status = ALL[i].status;
        fetch_model(ALL[i].message);
    }
    (void)fresh(NULL);
    wrong.need_token = true;
    assert_int_equal(setenv("HF_TOKEN", TOKEN, 1), 0);
    fetch_model(NULL); /* and never to the cdn: see fetch_model */
    assert_int_equal(setenv("HF_TOKEN", "a\nb", 1), 0);
    remove_out();
    fetch_model("HF_TOKEN holds a space or another character that no token has");
}

static void test_url(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    char url[256], sha256[65];
    (void)snprintf(url, sizeof url, "%s/plain/file%%20a.txt?x=1", http_server_url(hub));
    sha256_hex_of(sha256, config, CONFIG);
    ok(run(&out, &err, ARGS(url, "--out", in_folder("out"), "--sha256", sha256)), &err);
    check_file("out/file a.txt", config, CONFIG);
    assert_int_equal(run(&out, &err, ARGS(url, "--out", in_folder("out"), "--sha256", weights_sha256)),
                     ERR_FORMAT);
    check_file("out/file a.txt", config, CONFIG); /* what was there stays */
    static const char *const BAD[][2] = {
        {"ftp://x/y",
         "found 'ftp://x/y', expected http://..., https://..., hf:ORG/NAME or hf:datasets/ORG/NAME"},
        {"http://127.0.0.1:1/", "the URL's last part is no name for a file"},
        {"http://127.0.0.1:1/a/%2e%2e", "the URL's last part is no name for a file"},
        {"http://127.0.0.1:1/%2fetc", "the URL's last part is no name for a file"},
        {"http://127.0.0.1:1/a%00b", "the URL's last part is no name for a file"},
        {"hf:a/b/c/d", "found 'hf:a/b/c/d', expected hf:ORG/NAME or hf:datasets/ORG/NAME"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(run(&out, &err, ARGS(BAD[i][0], "--out", in_folder("out"))), ERR_ARGUMENT);
        assert_string_equal(err.msg, BAD[i][1]);
    }
    buf_free(&out);
}

/* ---- lock files ---- */

static void test_lock(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    const char *lock = in_folder("lock.json");
    (void)unlink(lock);
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--lock", lock)), &err);
    Lockfile read;
    ok(lockfile_read(&read, lock, &err), &err);
    assert_string_equal(read.url, "hf:org/name");
    assert_string_equal(read.commit, COMMIT);
    assert_int_equal(read.count, 2);
    assert_string_equal(lockfile_find(&read, "model.safetensors")->sha256, weights_sha256);
    assert_null(lockfile_find(&read, "other"));
    lockfile_free(&read);
    remove_out();
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--lock", lock)),
       &err); /* the same again */
    check_model();
    assert_int_equal(run(&out, &err, ARGS("hf:org/other", "--out", in_folder("out"), "--lock", lock)),
                     ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "lock.json is the lock file of hf:org/name, not of hf:org/other"));
    assert_int_equal(run(&out, &err, ARGS("hf:org/name@v2", "--out", in_folder("out"), "--lock", lock)),
                     ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "lock.json holds revision main (commit " COMMIT "), not v2; remove it"));
    /* Another file under the same name is refused. */
    remove_out();
    char config_before[CONFIG + 1], sha1_before[41];
    memcpy(config_before, config, sizeof config);
    memcpy(sha1_before, config_sha1, sizeof config_sha1);
    config[3] ^= 1;
    git_sha1(config_sha1, config, CONFIG);
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--lock", lock)),
                     ERR_FORMAT);
    assert_true(strncmp(err.msg, "sub dir/config.json: the SHA-256 is ", 36) == 0);
    memcpy(config, config_before, sizeof config);
    memcpy(config_sha1, sha1_before, sizeof config_sha1);
    wrong.listing = "{\"sha\":\"" COMMIT "\",\"siblings\":[{\"rfilename\":\"model.safetensors\"}]}";
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--lock", lock)),
                     ERR_FORMAT);
    assert_string_equal(err.msg, "hf:org/name: the server has 1 of the 2 files of the lock file");
    buf_free(&out);
}

static void test_offline(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    fetch_model(NULL);
    const int before = wrong.hub_requests + wrong.cdn_requests;
    assert_int_equal(setenv("HF_HUB_OFFLINE", "1", 1), 0);
    ok(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), &err);
    assert_non_null(
        strstr(out.data, "2 files of hf:org/name at main (0123456789ab), 0.3 MB; 2 were there already\n"));
    assert_int_equal(file_save(in_folder("out/model.safetensors"), weights, 100, NULL), ERR_OK);
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), ERR_IO);
    assert_non_null(strstr(
        err.msg,
        "out/model.safetensors: is not what the lock file says, and HF_HUB_OFFLINE forbids to fetch it"));
    assert_int_equal(unlink(in_folder("out/model.safetensors")), 0);
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"))), ERR_IO);
    assert_non_null(
        strstr(err.msg, "out/model.safetensors: is not there, and HF_HUB_OFFLINE forbids to fetch it"));
    assert_int_equal(run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out2"))), ERR_IO);
    assert_non_null(
        strstr(err.msg, "HF_HUB_OFFLINE forbids to fetch hf:org/name, and there is no lock file "));
    assert_int_equal(wrong.hub_requests + wrong.cdn_requests, before);
    buf_free(&out);
}

static void test_bad_locks(void **state) {
    (void)state;
    static const char *const BAD[][2] = {
        {"[]", "no lock file: expected an object"},
        {"{}", "no lock file: expected \"format\": \"router-lock-1\""},
        {"{\"format\":\"router-lock-1\",\"url\":\"u\",\"files\":[]}", "no lock file: expected url and files"},
        {"{\"format\":\"router-lock-1\",\"url\":\"u\",\"commit\":\"x\",\"files\":[1]}",
         "commit: expected 40 hexadecimal digits, and a revision"},
        {"{\"format\":\"router-lock-1\",\"url\":\"u\",\"files\":[{\"path\":\"a\"}]}",
         "files: expected a path, a size and a sha256 of 64 digits"},
        {"{\"format\":\"router-lock-1\",\"url\":\"u\",\"files\":[{\"path\":\"../a\",\"size\":1,\"sha256\":"
         "\"0000000000000000000000000000000000000000000000000000000000000000\"}]}",
         "the server names a file '../a', which is refused: a part that is empty, a dot or two, or too long"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Lockfile lock;
        Err err = {0};
        assert_int_equal(lockfile_parse(&lock, BAD[i][0], strlen(BAD[i][0]), &err), ERR_FORMAT);
        assert_string_equal(err.msg, BAD[i][1]);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    Buf out = {0};
    size_t n = 1;
    for (;; n++) {
        remove_out();
        Err err = {0};
        mem_fail_at(n);
        const ErrCode rc = run(&out, &err, ARGS("hf:org/name", "--out", in_folder("out"), "--attempts", "1"));
        if (rc == ERR_OK) break;
        assert_true(rc == ERR_MEMORY || rc == ERR_IO); /* ERR_IO: memory that a request had too little of */
        assert_true(n < 1000);
    }
    assert_true(n > 20);
    check_model();
    buf_free(&out);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    for (size_t i = 0; i < WEIGHTS; i++) weights[i] = (char)rng_bits(seed, i);
    for (size_t i = 0; i < CONFIG; i++) config[i] = (char)('a' + rng_bits(seed + 1, i) % 26);
    sha256_hex_of(weights_sha256, weights, WEIGHTS);
    git_sha1(config_sha1, config, CONFIG);
    hub = http_server_start(handle_hub, NULL);
    cdn = http_server_start(handle_cdn, NULL);
    if (!hub || !cdn || !folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha1),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_paths),
        cmocka_unit_test_setup(test_hostile_listings, fresh),
        cmocka_unit_test_setup(test_fetch, fresh),
        cmocka_unit_test_setup(test_cuts, fresh),
        cmocka_unit_test_setup(test_cut_before_any_byte, fresh),
        cmocka_unit_test_setup(test_resume_later, fresh),
        cmocka_unit_test_setup(test_range_ignored, fresh),
        cmocka_unit_test_setup(test_replaced_while_cut, fresh),
        cmocka_unit_test_setup(test_without_etag, fresh),
        cmocka_unit_test_setup(test_range_lies, fresh),
        cmocka_unit_test_setup(test_parts, fresh),
        cmocka_unit_test_setup(test_wrong_files, fresh),
        cmocka_unit_test_setup(test_statuses, fresh),
        cmocka_unit_test_setup(test_url, fresh),
        cmocka_unit_test_setup(test_lock, fresh),
        cmocka_unit_test_setup(test_offline, fresh),
        cmocka_unit_test(test_bad_locks),
        cmocka_unit_test_setup(test_no_memory, fresh),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    http_server_stop(hub);
    http_server_stop(cdn);
    return folder_close(failed);
}
