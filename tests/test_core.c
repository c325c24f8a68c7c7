/* tests/test_core.c - what everything stands on: err, mem, arena, buf, text, flags, sha256, rng, tensor, threads. */
#define _GNU_SOURCE /* CPU affinity */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "core/arena.h"
#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"
#include "core/json.h"
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
        cmocka_unit_test(test_err),     cmocka_unit_test(test_mem),  cmocka_unit_test(test_arena),
        cmocka_unit_test(test_buf),     cmocka_unit_test(test_text), cmocka_unit_test(test_flags),
        cmocka_unit_test(test_sha256),  cmocka_unit_test(test_rng),  cmocka_unit_test(test_tensor),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_pin),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
