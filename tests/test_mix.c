/* tests/test_mix.c - corpora that are mixed and divided: members, manifests, mixes, partitions. */
#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/rng.h"
#include "data/manifest.h"
#include "data/members.h"
#include "data/mix.h"
#include "data/mix_cmd.h"
#include "data/partition.h"
#include "data/split_cmd.h"
#include "tests/unit.h"

static void save_buf(const char *name, Buf *text) {
    assert_int_equal(buf_ok(text, NULL), ERR_OK);
    save_bytes(name, text->data, text->len);
    buf_free(text);
}

/* All lines of a file, each with '\n'. */
static Buf read_lines(const char *path) {
    Lines *lines;
    Err err = {0};
    Buf out = {0};
    ok(lines_open(&lines, path, &err), &err);
    for (;;) {
        const char *line;
        size_t n;
        bool more;
        ok(lines_next(lines, &line, &n, &more, &err), &err);
        if (!more) break;
        buf_put(&out, line, n);
        buf_puts(&out, "\n");
    }
    buf_put(&out, "", 0);
    assert_int_equal(buf_ok(&out, NULL), ERR_OK);
    lines_close(lines);
    return out;
}

static void expect_lines(const char *path, const char *expected) {
    Buf got = read_lines(path);
    assert_string_equal(got.data, expected);
    buf_free(&got);
}

static size_t count_of(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part)) n++;
    return n;
}

static void expect_same_file(const char *a, const char *b, bool same) {
    Buf x = {0}, y = {0};
    assert_int_equal(file_read(&x, a, (size_t)1 << 28, NULL), ERR_OK);
    assert_int_equal(file_read(&y, b, (size_t)1 << 28, NULL), ERR_OK);
    assert_int_equal(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, same);
    buf_free(&x);
    buf_free(&y);
}

/* ---- members ---- */

static void test_members(void **state) {
    (void)state;
    static const char TEXT[] =
        "\xef\xbb\xbf {\"a\" : [1,{\"x\":\"]}\"}], \"b\\\"\":\"}\\\\\" ,\n\"c\":-1e9,\"d\":{\"e\":null} , "
        "\"f\":true } ";
    static const char *const KEYS[] = {"\"a\"", "\"b\\\"\"", "\"c\"", "\"d\"", "\"f\""};
    static const char *const VALUES[] = {"[1,{\"x\":\"]}\"}]", "\"}\\\\\"", "-1e9", "{\"e\":null}", "true"};
    Members m;
    Member one;
    members_open(&m, TEXT, strlen(TEXT));
    for (size_t i = 0; i < 5; i++) {
        assert_true(members_next(&m, &one));
        assert_int_equal(one.key_end - one.key, strlen(KEYS[i]));
        assert_memory_equal(TEXT + one.key, KEYS[i], strlen(KEYS[i]));
        assert_int_equal(one.end - one.value, strlen(VALUES[i]));
        assert_memory_equal(TEXT + one.value, VALUES[i], strlen(VALUES[i]));
    }
    assert_false(members_next(&m, &one));
    assert_int_equal(m.count, 5);
    assert_string_equal(TEXT + m.tail, " } ");
    members_open(&m, "{ }", 3);
    assert_false(members_next(&m, &one));
    assert_int_equal(m.tail, 1);
    for (size_t n = 0; n < sizeof TEXT; n++) { /* cut anywhere: nothing is read behind the end */
        char *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, TEXT, n);
        members_open(&m, cut, n);
        while (members_next(&m, &one))
            assert_true(one.key < one.key_end && one.value < one.end && one.end <= n);
        free(cut);
    }
    static const char *const ODD[] = {"", "[1]", "{]", "{\"a\"", "{\"a\":", "{\"a\":]", "{\"a\\", "null"};
    for (size_t i = 0; i < sizeof ODD / sizeof *ODD; i++) {
        members_open(&m, ODD[i], strlen(ODD[i]));
        (void)members_next(&m, &one);
        assert_true(m.at <= strlen(ODD[i]) && m.tail <= strlen(ODD[i]));
    }
}

/* ---- manifests ---- */

static void test_manifest(void **state) {
    (void)state;
    static const char TEXT[] =
        "{\"about\":\"x\",\"seed\":7,\"near\":false,\"temperature\":2.5,\"total\":10,\n"
        "\"against\":[\"b.jsonl\",{\"path\":[\"/c\",\"d\"],\"optional\":true}],\n"
        "\"sources\":[{\"path\":\"a.jsonl\",\"label\":\"math\"},{\"path\":[\"/x/"
        "*\",\"y\"],\"optional\":true,\"name\":\"n\","
        "\"kind\":\"synthetic\",\"text_field\":\"t\",\"label_field\":\"l\",\"label_map\":{\"a\":\"b\",\"c\":"
        "null},"
        "\"split\":\"validation\",\"weight\":0.5,\"cap\":3,\"where\":{\"lang\":[\"en\",null],\"ok\":true},"
        "\"min_chars\":1,"
        "\"max_chars\":9,\"skip_bad\":true,\"license\":\"MIT\"}]}";
    Manifest m;
    Err err = {0};
    ok(manifest_parse(&m, "some/dir/mix.json", TEXT, strlen(TEXT), &err), &err);
    assert_int_equal(m.source_count, 2);
    assert_int_equal(m.seed, 7);
    assert_int_equal(m.total, 10);
    assert_true(m.near == 0 && m.temperature == 2.5);
    assert_int_equal(m.against_count, 2);
    assert_string_equal(m.against[0].paths.items[0], "some/dir/b.jsonl");
    assert_string_equal(m.against[1].paths.items[1], "some/dir/d");
    assert_true(m.against[1].optional && !m.against[0].optional);
    const ManifestSource *a = &m.sources[0], *b = &m.sources[1];
    assert_string_equal(a->files.paths.items[0], "some/dir/a.jsonl");
    assert_string_equal(a->label, "math");
    assert_true(a->weight == 1 && a->kind == MANIFEST_AS_ROW && a->split == SPLIT_COUNT && !a->drop_split &&
                !a->licence);
    assert_true(a->cap == UINT64_MAX && a->max_chars == UINT64_MAX && a->min_chars == 0);
    assert_string_equal(b->files.paths.items[0], "/x/*");
    assert_true(b->files.optional && b->kind == MANIFEST_SYNTHETIC && b->split == SPLIT_DEV && b->skip_bad);
    assert_true(b->weight == 0.5 && b->cap == 3 && b->min_chars == 1 && b->max_chars == 9);
    assert_string_equal(b->licence, "MIT");
    const char *label = "";
    ok(manifest_label(&label, a, NULL, &err), &err);
    assert_string_equal(label, "math");
    ok(manifest_label(&label, b, "a", &err), &err);
    assert_string_equal(label, "b");
    ok(manifest_label(&label, b, "c", &err), &err);
    assert_null(label);
    assert_int_equal(manifest_label(&label, b, "d", &err), ERR_FORMAT);
    assert_string_equal(
        err.msg, "label 'd' is not in label_map: map it to a label, or to null to leave such rows out");
    static const struct {
        const char *row;
        bool wanted;
    } ROWS[] = {{"{\"lang\":\"en\",\"ok\":true}", true},   {"{\"ok\":true}", true},
                {"{\"lang\":null,\"ok\":true}", true},     {"{\"lang\":\"de\",\"ok\":true}", false},
                {"{\"lang\":\"en\",\"ok\":false}", false}, {"{\"lang\":\"en\"}", false},
                {"{\"lang\":[\"en\"],\"ok\":true}", false}};
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        cJSON *tree;
        ok(json_parse(&tree, ROWS[i].row, strlen(ROWS[i].row), &err), &err);
        assert_int_equal(manifest_wants(b, tree), ROWS[i].wanted);
        assert_true(manifest_wants(a, tree));
        cJSON_Delete(tree);
    }
    manifest_free(&m);
    manifest_free(&m);
}

static void test_manifest_bad(void **state) {
    (void)state;
    static const struct {
        const char *text, *why;
    } BAD[] = {
        {"[]", "m.json: found an array, expected an object"},
        {"{}", "m.json: sources: found none, expected an array of objects"},
        {"{\"sources\":[]}", "m.json: sources: found 0, expected 1 to 4096"},
        {"{\"sources\":[1]}", "m.json: sources[0]: found a number, expected an object"},
        {"{\"sourcs\":[]}", "m.json: unknown key 'sourcs'; did you mean 'sources'?"},
        {"{\"sources\":[{\"path\":\"a\"},{\"path\":\"a\",\"lable\":\"x\"}]}",
         "m.json: sources[1]: unknown key 'lable'; did you mean 'label'?"},
        {"{\"sources\":[{}]}", "m.json: sources[0]: no path: expected the file, or files, of the source"},
        {"{\"sources\":[{\"path\":[]}]}",
         "m.json: sources[0]: path: found an empty array, expected names of files"},
        {"{\"sources\":[{\"path\":\"\"}]}",
         "m.json: sources[0]: path: found an empty string, expected the name of a file"},
        {"{\"sources\":[{\"path\":[\"a\",1]}]}",
         "m.json: sources[0]: path: found a number, expected a string"},
        {"{\"sources\":[{\"path\":\"a\",\"label\":\" \"}]}", "m.json: sources[0]: label: an empty label"},
        {"{\"sources\":[{\"path\":\"a\",\"label\":\"x\",\"label_map\":{}}]}",
         "m.json: sources[0]: label and label_map: expected one of them"},
        {"{\"sources\":[{\"path\":\"a\",\"label_map\":{\"k\":1}}]}",
         "m.json: sources[0]: label_map: 'k': found a number, expected a label or null"},
        {"{\"sources\":[{\"path\":\"a\",\"label_map\":[]}]}",
         "m.json: sources[0]: label_map: found an array, expected an object"},
        {"{\"sources\":[{\"path\":\"a\",\"where\":{\"k\":{}}}]}",
         "m.json: sources[0]: where: 'k': expected a string, number, true, false or null, or an array of "
         "these"},
        {"{\"sources\":[{\"path\":\"a\",\"kind\":\"fake\"}]}",
         "m.json: sources[0]: kind: found 'fake', expected real or synthetic"},
        {"{\"sources\":[{\"path\":\"a\",\"split\":\"best\"}]}",
         "m.json: sources[0]: split: found 'best', expected keep, drop, train, dev, calibration or test"},
        {"{\"sources\":[{\"path\":\"a\",\"weight\":0}]}",
         "m.json: sources[0]: weight: found 0, expected more than 0"},
        {"{\"sources\":[{\"path\":\"a\",\"min_chars\":2,\"max_chars\":1}]}",
         "m.json: sources[0]: min_chars is more than max_chars: no text fits"},
        {"{\"sources\":[{\"path\":\"a\",\"licence\":\"x\",\"license\":\"x\"}]}",
         "m.json: sources[0]: licence and license: expected one of them"},
        {"{\"against\":[{\"path\":\"a\",\"weight\":1}],\"sources\":[]}",
         "m.json: against: unknown key 'weight'"},
    };
    Manifest m;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Err err = {0};
        assert_int_equal(manifest_parse(&m, "m.json", BAD[i].text, strlen(BAD[i].text), &err), ERR_FORMAT);
        assert_string_equal(err.msg, BAD[i].why);
        assert_null(m.tree);
    }
    static const char *const RANGES[] = {"\"near\":0.4",      "\"near\":\"x\"", "\"near\":true",
                                         "\"temperature\":0", "\"total\":0",    "\"total\":1e12",
                                         "\"seed\":-1",       "\"seed\":0.5"};
    for (size_t i = 0; i < sizeof RANGES / sizeof *RANGES; i++) {
        Err err = {0};
        char text[128];
        (void)snprintf(text, sizeof text, "{%s,\"sources\":[{\"path\":\"a\"}]}", RANGES[i]);
        assert_int_equal(manifest_parse(&m, "m.json", text, strlen(text), &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "m.json: "));
    }
    Err err = {0};
    assert_int_equal(manifest_read(&m, in_folder("absent.json"), &err), ERR_IO);
    save("rows.json", "{\"text\":\"a\",\"label\":\"b\"}\n{\"text\":\"c\",\"label\":\"d\"}\n");
    save("one.json", "\n {\"sources\":[]}");
    save("many.json", "{\n \"sources\": oops\n");
    save("list.json", "[\n]");
    save("one.jsonl", "{\"sources\":[]}");
    assert_false(manifest_is(in_folder("rows.json")));
    assert_true(manifest_is(in_folder("one.json")));
    assert_true(manifest_is(in_folder("many.json"))); /* so that what is wrong with it is told */
    assert_false(manifest_is(in_folder("list.json")));
    assert_false(manifest_is(in_folder("one.jsonl")));
    assert_false(manifest_is(in_folder("absent.json")));
}

/* ---- mixes ---- */

/* A mix of `text`, a manifest in the folder, into `out`. */
static ErrCode mix_to(MixReport *report, const char *out, const char *text, bool weights, Threads *threads,
                      Err *err) {
    Manifest m;
    *report = (MixReport){0};
    TRY(manifest_parse(&m, in_folder("mix.json"), text, strlen(text), err));
    const MixRule rule = {.manifest = &m, .out = out, .weights = weights, .threads = threads};
    ErrCode rc = mix_write(report, &rule, err);
    if (rc == ERR_OK) {
        Buf shown = {0};
        cJSON *tree = NULL;
        mix_report_json(&shown, report, &rule);
        rc = buf_ok(&shown, err);
        if (rc == ERR_OK) rc = json_parse(&tree, shown.data, shown.len, err);
        if (rc == ERR_OK) {
            mix_report_text(&shown, report, &rule);
            rc = buf_ok(&shown, err);
        }
        cJSON_Delete(tree);
        buf_free(&shown);
        if (rc != ERR_OK) mix_report_free(report);
    }
    manifest_free(&m);
    return rc;
}

static void save_small(void) {
    save("a.jsonl",
         "{\"prompt\":\"How many apples are left in the "
         "basket?\",\"topic\":\"kind\",\"n\":1e400,\"split\":\"val\"}\n"
         "\n"
         "{\"text\": \"how MANY apples are left, in the basket\", \"id\": 7}\n"
         "{\"text\": \"short\"}\n"
         "{\"text\":\"The derivative of the sine is the cosine, is it?\",\"id\":\"x-1\",\"source\":\"own\"}\n"
         "{\"text\":\"A question that every benchmark has, word by word\"}\n");
    save("b.jsonl",
         "{\"body\":\"My invoice of May is "
         "wrong\",\"queue\":\"billing\",\"lang\":\"en\",\"queue2\":{\"deep\":[1, 2]}}\n"
         "{\"body\":\"Buy cheap watches now\",\"queue\":\"spam\",\"lang\":\"en\"}\n"
         "{\"body\":\"Meine Rechnung ist falsch\",\"queue\":\"billing\",\"lang\":\"de\"}\n"
         "not json\n"
         "{\"body\":\"My arm hurts since I fell off the ladder last week and the doctor has no time for me "
         "until June\","
         "\"queue\":\"health\",\"lang\":\"en\",\"kind\":\"synthetic\",\"sample_weight\":2}\n"
         "{\"body\":\"my arm hurts since I fell off the ladder last week and the doctor has no time for me "
         "until july\","
         "\"queue\":\"health\",\"lang\":\"en\"}\n");
    save("bench.jsonl", "{\"question\":\"a question, that every benchmark has word by word!\"}\n");
}

#define SMALL                                                                                                \
    "{\"against\":\"bench.jsonl\",\"sources\":[{\"path\":\"a.jsonl\",\"label\":\"math\",\"min_chars\":6,"    \
    "\"licence\":\"MIT\"},"                                                                                  \
    "{\"path\":\"missing-*.jsonl\",\"optional\":true},"                                                      \
    "{\"path\":\"b.jsonl\",\"name\":\"tickets\",\"text_field\":\"body\",\"label_field\":\"queue\",\"skip_"   \
    "bad\":true,"                                                                                            \
    "\"label_map\":{\"billing\":\"other\",\"health\":\"health\",\"spam\":null},\"where\":{\"lang\":\"en\"}," \
    "\"split\":\"train\"}]}"

static void test_mix(void **state) {
    (void)state;
    save_small();
    MixReport r;
    Err err = {0};
    ok(mix_to(&r, in_folder("small.jsonl"), SMALL, false, NULL, &err), &err);
    expect_lines(
        in_folder("small.jsonl"),
        "{\"text\": \"How many apples are left in the basket?\", \"label\": \"math\", \"source\": \"a\", "
        "\"id\": \"a.jsonl:1\", \"kind\": \"real\", \"split\": \"dev\", \"topic\": \"kind\", \"n\": 1e400}\n"
        "{\"text\": \"The derivative of the sine is the cosine, is it?\", \"label\": \"math\", "
        "\"source\": \"own\", \"id\": \"x-1\", \"kind\": \"real\"}\n"
        "{\"text\": \"My invoice of May is wrong\", \"label\": \"other\", \"source\": \"tickets\", "
        "\"id\": \"b.jsonl:1\", \"kind\": \"real\", \"split\": \"train\", \"lang\": \"en\", "
        "\"queue2\": {\"deep\":[1, 2]}}\n"
        "{\"text\": \"My arm hurts since I fell off the ladder last week and the doctor has no time for me "
        "until "
        "June\", \"label\": \"health\", \"source\": \"tickets\", \"id\": \"b.jsonl:5\", \"kind\": "
        "\"synthetic\", "
        "\"split\": \"train\", \"sample_weight\": 2, \"lang\": \"en\"}\n");
    assert_int_equal(r.source_count, 3);
    assert_int_equal(r.files[1], 0);
    assert_int_equal(r.against, 1);
    const MixCount *a = &r.sources[0], *b = &r.sources[2];
    assert_int_equal(a->in, 5);
    assert_int_equal(a->fate[MIX_LENGTH], 1);
    assert_int_equal(a->fate[MIX_EQUAL], 1);
    assert_int_equal(a->fate[MIX_AGAINST], 1);
    assert_int_equal(a->lines, 2);
    assert_int_equal(b->in, 6);
    assert_int_equal(b->fate[MIX_BAD], 1);
    assert_int_equal(b->fate[MIX_LABEL], 1);
    assert_int_equal(b->fate[MIX_WHERE], 1);
    assert_int_equal(b->fate[MIX_ALIKE], 1);
    assert_int_equal(b->synthetic, 1);
    assert_int_equal(r.all.in, 11);
    assert_int_equal(r.all.lines, 4);
    assert_int_equal(r.labels.count, 3);
    mix_report_free(&r);
    mix_report_free(&r);
    for (int f = 0; f < MIX_FATES; f++) assert_true(mix_fate_name((MixFate)f)[0]);
}

static void test_mix_bad(void **state) {
    (void)state;
    save_small();
    static const struct {
        const char *manifest, *why;
        ErrCode code;
    } BAD[] = {
        {"{\"sources\":[{\"path\":\"a.jsonl\",\"label\":\"x\"},{\"path\":\"missing.jsonl\"}]}",
         "sources[1]: ", ERR_IO},
        {"{\"against\":\"missing.jsonl\",\"sources\":[{\"path\":\"a.jsonl\",\"label\":\"x\"}]}",
         "against: ", ERR_IO},
        {"{\"sources\":[{\"path\":\"a.jsonl\"}]}", "a.jsonl:1: no label: expected one of label, domain",
         ERR_FORMAT},
        {"{\"sources\":[{\"path\":\"b.jsonl\",\"text_field\":\"body\",\"label_field\":\"queue\"}]}",
         "b.jsonl:4: ", ERR_FORMAT},
        {"{\"sources\":[{\"path\":\"b.jsonl\",\"text_field\":\"body\",\"label_field\":\"queue\",\"label_"
         "map\":{\"a\":\"b\"}}]}",
         "b.jsonl:1: label 'billing' is not in label_map: map it to a label, or to null to leave such rows "
         "out "
         "(sources[0] of ",
         ERR_FORMAT},
        {"{\"sources\":[{\"path\":\"a.jsonl\",\"label\":\"x\",\"min_chars\":1000}]}",
         "mix.json: no rows are left", ERR_FORMAT},
        {"{\"sources\":[{\"path\":\"missing.jsonl\",\"optional\":true}]}", "mix.json: no rows are left",
         ERR_FORMAT},
        {"{\"total\":100000,\"sources\":[{\"path\":\"a.jsonl\",\"label\":\"x\"}]}",
         "each of the 4 rows of sources[0] with the label 'x' would be taken 25000 times", ERR_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        MixReport r;
        Err err = {0};
        assert_int_equal(mix_to(&r, in_folder("bad.jsonl"), BAD[i].manifest, false, NULL, &err), BAD[i].code);
        if (!strstr(err.msg, BAD[i].why)) fail_msg("found '%s', expected '%s'", err.msg, BAD[i].why);
        assert_false(file_exists(in_folder("bad.jsonl")));
    }
}

/* 900 rows of "big", 90 of "small", 10 of "tiny", no two alike. */
static void save_domains(void) {
    static const char *const NAMES[] = {"big", "small", "tiny"};
    static const uint64_t COUNTS[] = {900, 90, 10};
    for (uint64_t k = 0; k < 3; k++) {
        Buf text = {0};
        char name[32];
        for (uint64_t i = 0; i < COUNTS[k]; i++) {
            buf_puts(&text, "{\"text\":\"");
            for (uint64_t w = 0; w < 8; w++)
                buf_printf(&text, "w%llu ",
                           (unsigned long long)(rng_bits(rng_key(3, NAMES[k], i), w) % 100000));
            buf_printf(&text, "\",\"label\":\"%s\"}\n", NAMES[k]);
        }
        (void)snprintf(name, sizeof name, "%s.jsonl", NAMES[k]);
        save_buf(name, &text);
    }
}

#define DOMAINS "\"sources\":[{\"path\":\"big.jsonl\"},{\"path\":\"small.jsonl\"},{\"path\":\"tiny.jsonl\"}]}"

static void expect_domains(const char *manifest, const uint64_t lines[3], const uint64_t rows[3]) {
    MixReport r;
    Err err = {0};
    ok(mix_to(&r, in_folder("domains.jsonl"), manifest, false, NULL, &err), &err);
    Buf got = read_lines(in_folder("domains.jsonl"));
    static const char *const LABELS[] = {"\"label\": \"big\"", "\"label\": \"small\"", "\"label\": \"tiny\""};
    for (size_t k = 0; k < 3; k++) {
        assert_int_equal(r.domains[k].lines, lines[k]);
        assert_int_equal(r.domains[k].fate[MIX_TAKEN], rows[k]);
        assert_int_equal(count_of(got.data, LABELS[k]), lines[k]);
    }
    buf_free(&got);
    mix_report_free(&r);
    /* the same in expectation when rows are written once, with their weights */
    ok(mix_to(&r, in_folder("domains.jsonl"), manifest, true, NULL, &err), &err);
    for (size_t k = 0; k < 3; k++) assert_true(fabs(r.domains[k].weight - (double)lines[k]) <= 1);
    mix_report_free(&r);
}

static void test_mix_shares(void **state) {
    (void)state;
    save_domains();
    expect_domains("{" DOMAINS, (const uint64_t[]){900, 90, 10}, (const uint64_t[]){900, 90, 10});
    /* roots 30, 9.4868, 3.1623: of 42.6491, of 1,000 lines */
    expect_domains("{\"temperature\":2," DOMAINS, (const uint64_t[]){703, 223, 74},
                   (const uint64_t[]){703, 90, 10});
    expect_domains("{\"temperature\":1000,\"total\":300," DOMAINS, (const uint64_t[]){100, 100, 100},
                   (const uint64_t[]){100, 90, 10});
    expect_domains("{\"total\":100," DOMAINS, (const uint64_t[]){90, 9, 1}, (const uint64_t[]){90, 9, 1});
    expect_domains("{\"total\":2500," DOMAINS, (const uint64_t[]){2250, 225, 25},
                   (const uint64_t[]){900, 90, 10});
    expect_domains(
        "{\"sources\":[{\"path\":\"big.jsonl\",\"weight\":0.5},{\"path\":\"small.jsonl\",\"cap\":40},"
        "{\"path\":\"tiny.jsonl\",\"weight\":2.5}]}",
        (const uint64_t[]){450, 40, 25}, (const uint64_t[]){450, 40, 10});
}

static void test_mix_repeats(void **state) {
    (void)state;
    static const char *const FORM[] = {"{\"seed\":1,\"temperature\":3," DOMAINS,
                                       "{\"seed\":2,\"temperature\":3," DOMAINS};
    save_domains();
    MixReport r;
    Err err = {0};
    for (int i = 0; i < 4; i++) {
        static const char *const OUT[] = {"t1.jsonl.zst", "t2.jsonl.zst", "t3.jsonl.zst", "t4.jsonl.zst"};
        static const int THREADS[] = {1, 2, 3, 1};
        Threads *threads;
        ok(threads_open(&threads, THREADS[i], &err), &err);
        ok(mix_to(&r, in_folder("%s", OUT[i]), FORM[i == 3], false, threads, &err), &err);
        threads_close(threads);
        mix_report_free(&r);
        expect_same_file(in_folder("%s", OUT[0]), in_folder("%s", OUT[i]), i < 3);
    }
    Buf got = read_lines(in_folder("t1.jsonl.zst")); /* which lines() opens: compressed, and whole */
    assert_int_equal(count_of(got.data, "\n"), 1000);
    buf_free(&got);
}

/* ---- partitions ---- */

static ErrCode divide(PartitionReport *report, PartitionRule rule, const char *input, Err *err) {
    *report = (PartitionReport){0};
    rule.record.label_optional = true;
    if (rule.near == 0) rule.near = 0.8;
    rule.split = (SplitRule){0.1, 0.1, 0.2, 5, false};
    ErrCode rc = flags_list_add(&rule.inputs, input, strlen(input), err);
    if (rc == ERR_OK) rc = partition_write(report, &rule, err);
    flags_list_free(&rule.inputs);
    return rc;
}

static FlagList list_of(const char *a, const char *b) {
    FlagList list = {0};
    if (a) assert_int_equal(flags_list_add(&list, a, strlen(a), NULL), ERR_OK);
    if (b) assert_int_equal(flags_list_add(&list, b, strlen(b), NULL), ERR_OK);
    return list;
}

enum { FAMILIES = 300 };

/* Families of one to four rows that are alike: another last word each; topics of ten families; the first row of each
 * says a split, which the others contradict in every fifth family. */
static void save_families(const char *name) {
    Buf text = {0};
    for (uint64_t f = 0; f < FAMILIES; f++)
        for (uint64_t i = 0; i <= f % 4; i++) {
            buf_puts(&text, f % 2 ? "{ \"text\" : \"" : "{\"text\":\"");
            for (uint64_t w = 0; w < 20; w++)
                buf_printf(&text, "w%llu ",
                           (unsigned long long)(rng_bits(rng_key(9, "family", f), w) % 100000));
            buf_printf(
                &text,
                "last%llu\",\"label\":\"%c\",\"topic\":\"t%llu\"%s,\"big\":123456789012345678901234567890}\n",
                (unsigned long long)i, f % 3 ? 'x' : 'y', (unsigned long long)(f / 10),
                f % 7    ? ""
                : i == 0 ? ",\"split\":\"train\""
                : f % 5  ? ",\"split\" : \"train\""
                         : ",\"spl\\u0069t\":\"test\"");
        }
    save_buf(name, &text);
}

/* The output is the input but for the splits: without them both are the same. */
static void expect_faithful(const char *in, const char *out) {
    Buf a = read_lines(in), b = read_lines(out);
    static const char *const SPLITS[] = {"\"train\"", "\"dev\"", "\"calibration\"", "\"test\""};
    const char *x = a.data, *y = b.data;
    while (*x || *y) {
        if (*x == *y && strncmp(x, "\"train\"", 7) != 0 && strncmp(x, "\"test\"", 6) != 0) {
            x++;
            y++;
            continue;
        }
        static const char *const ADDED[] = {",\"split\":", ", \"split\": "};
        for (size_t i = 0; i < 2; i++) /* a member that the input has not */
            if (*x == '}' && strncmp(y, ADDED[i], strlen(ADDED[i])) == 0) y += strlen(ADDED[i]);
        size_t n = 0;
        for (size_t i = 0; i < 4 && n == 0; i++)
            if (strncmp(y, SPLITS[i], strlen(SPLITS[i])) == 0) n = strlen(SPLITS[i]);
        if (n == 0) fail_msg("'%.60s' became '%.60s'", x, y);
        y += n;
        if (*x == '"') x += strncmp(x, "\"train\"", 7) == 0 ? 7 : 6;
    }
    buf_free(&a);
    buf_free(&b);
}

static void test_partition(void **state) {
    (void)state;
    save_families("families.jsonl");
    PartitionReport r;
    Err err = {0};
    const uint64_t rows = FAMILIES / 4 * 10;
    ok(divide(&r, (PartitionRule){.out = in_folder("anew.jsonl")}, in_folder("families.jsonl"), &err), &err);
    assert_int_equal(r.rows_in, rows);
    assert_int_equal(r.groups, FAMILIES);
    assert_int_equal(r.largest, 4);
    assert_int_equal(r.crossing_groups + r.crossing_rows + r.left_out + r.plan.given, 0);
    assert_int_equal(r.plan.joined, rows - FAMILIES);
    assert_in_range(r.rows[SPLIT_TEST], rows / 5 - 8, rows / 5 + 8);
    assert_in_range(r.rows[SPLIT_DEV], rows / 10 - 8, rows / 10 + 8);
    assert_int_equal(r.labels.count, 2);
    uint64_t sum = 0;
    for (size_t k = 0; r.label_rows && k < 2; k++)
        for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) sum += r.label_rows[k][s];
    assert_int_equal(sum, rows);
    partition_report_free(&r);
    expect_faithful(in_folder("families.jsonl"), in_folder("anew.jsonl"));

    /* Only equal texts are groups: near-duplicates cross then, which one that looks for them would find. */
    ok(divide(&r, (PartitionRule){.out = in_folder("exact.jsonl"), .near = 1}, in_folder("families.jsonl"),
              &err),
       &err);
    assert_int_equal(r.groups, rows);
    partition_report_free(&r);
    ok(divide(&r, (PartitionRule){.out = in_folder("again.jsonl"), .given = PARTITION_KEEP},
              in_folder("exact.jsonl"), &err),
       &err);
    assert_in_range(r.crossing_groups, FAMILIES / 4, FAMILIES);
    assert_true(r.crossing_rows >= 2 * r.crossing_groups);
    partition_report_free(&r);
    ok(divide(&r, (PartitionRule){.out = in_folder("clean.jsonl"), .given = PARTITION_CLEAN},
              in_folder("exact.jsonl"), &err),
       &err);
    assert_int_equal(r.crossing_groups, 0);
    assert_true(r.left_out > 0);
    assert_int_equal(r.rows[0] + r.rows[1] + r.rows[2] + r.rows[3] + r.left_out, rows);
    partition_report_free(&r);

    /* What rows say is kept where groups agree; others are found to cross. */
    ok(divide(&r, (PartitionRule){.out = in_folder("keep.jsonl"), .given = PARTITION_KEEP},
              in_folder("families.jsonl"), &err),
       &err);
    uint64_t crossing = 0;
    for (int f = 0; f < FAMILIES; f++) crossing += f % 7 == 0 && f % 5 == 0 && f % 4 > 0;
    assert_int_equal(r.crossing_groups, crossing);
    partition_report_free(&r);
}

static void test_partition_groups(void **state) {
    (void)state;
    save_families("families.jsonl");
    PartitionReport r;
    Err err = {0};
    PartitionRule rule = {.out = in_folder("topics.jsonl"), .group_by = list_of("topic", NULL)};
    ok(divide(&r, rule, in_folder("families.jsonl"), &err), &err);
    assert_int_equal(r.groups, FAMILIES / 10);
    assert_int_equal(r.crossing_groups, 0);
    assert_true(r.rows[SPLIT_TEST] > 0 && r.rows[SPLIT_TRAIN] > r.rows[SPLIT_TEST]);
    partition_report_free(&r);
    flags_list_free(&rule.group_by);

    rule = (PartitionRule){
        .out = in_folder("held"), .folder = true, .hold_out = list_of("topic=t3,t4", "dev:topic=t5")};
    ok(divide(&r, rule, in_folder("families.jsonl"), &err), &err);
    assert_int_equal(r.crossing_groups, 0);
    Buf test = read_lines(in_folder("held/test.jsonl")), dev = read_lines(in_folder("held/dev.jsonl")),
        train = read_lines(in_folder("held/train.jsonl")), all = read_lines(in_folder("families.jsonl"));
    assert_int_equal(count_of(test.data, "\"t3\"") + count_of(test.data, "\"t4\""),
                     count_of(all.data, "\"t3\"") + count_of(all.data, "\"t4\""));
    assert_int_equal(count_of(dev.data, "\"t5\""), count_of(all.data, "\"t5\""));
    assert_int_equal(count_of(train.data, "\n"), r.rows[SPLIT_TRAIN]);
    assert_int_equal(count_of(test.data, "\n"), r.rows[SPLIT_TEST]);
    buf_free(&test);
    buf_free(&dev);
    buf_free(&train);
    buf_free(&all);
    partition_report_free(&r);
    flags_list_free(&rule.hold_out);

    static const struct {
        const char *hold_out, *why;
    } BAD[] = {
        {"topic=t3,none", "--hold-out: no row has topic = 'none'"},
        {"topic", "--hold-out: found 'topic', expected MEMBER=VALUE[,VALUE...] or SPLIT:MEMBER=..."},
        {"=x", "--hold-out: found '=x', expected MEMBER=VALUE[,VALUE...] or SPLIT:MEMBER=..."},
        {"topic=", "--hold-out: found 'topic=', expected MEMBER=VALUE[,VALUE...] or SPLIT:MEMBER=..."}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        err = (Err){0};
        rule = (PartitionRule){.out = in_folder("none.jsonl"), .hold_out = list_of(BAD[i].hold_out, NULL)};
        assert_int_equal(divide(&r, rule, in_folder("families.jsonl"), &err), ERR_ARGUMENT);
        assert_string_equal(err.msg, BAD[i].why);
        flags_list_free(&rule.hold_out);
    }
    save("odd.jsonl", "{\"text\":\"a\",\"split\":\"best\"}\n{}\n");
    err = (Err){0};
    rule = (PartitionRule){.out = in_folder("none.jsonl"), .given = PARTITION_KEEP};
    assert_int_equal(divide(&r, rule, in_folder("odd.jsonl"), &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "odd.jsonl:1: split 'best' is not one of train, dev, calibration, test"));
    rule.given = PARTITION_ANEW;
    assert_int_equal(divide(&r, rule, in_folder("odd.jsonl"), &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "odd.jsonl:2: no text"));
    assert_false(file_exists(in_folder("none.jsonl")));
    rule.skip_bad = true;
    ok(divide(&r, rule, in_folder("odd.jsonl"), &err), &err);
    assert_int_equal(r.skipped, 1);
    assert_int_equal(r.rows[SPLIT_TRAIN], 1);
    expect_lines(in_folder("none.jsonl"), "{\"text\":\"a\",\"split\":\"train\"}\n");
    partition_report_free(&r);
}

static void test_partition_repeats(void **state) {
    (void)state;
    save_families("families.jsonl");
    static const char *const OUT[] = {"p1.jsonl", "p2.jsonl", "p3.jsonl"};
    for (int i = 0; i < 3; i++) {
        PartitionReport r;
        Err err = {0};
        Threads *threads;
        ok(threads_open(&threads, i + 1, &err), &err);
        ok(divide(&r, (PartitionRule){.out = in_folder("%s", OUT[i]), .threads = threads},
                  in_folder("families.jsonl"), &err),
           &err);
        expect_same_file(in_folder("%s", OUT[0]), in_folder("%s", OUT[i]), true);
        partition_report_free(&r);
        threads_close(threads);
    }
}

/* ---- the commands ---- */

static void test_commands(void **state) {
    (void)state;
    progress_quiet(true);
    save_small();
    save_families("families.jsonl");
    save("mix.json", SMALL);
    Buf out = {0};
    Err err = {0};
    char mixed[256], report[256], manifest[256], divided[256], input[256];
    (void)snprintf(mixed, sizeof mixed, "%s", in_folder("cmd.jsonl"));
    (void)snprintf(report, sizeof report, "%s", in_folder("report.json"));
    (void)snprintf(manifest, sizeof manifest, "%s", in_folder("mix.json"));
    (void)snprintf(divided, sizeof divided, "%s", in_folder("divided.jsonl"));
    (void)snprintf(input, sizeof input, "%s", in_folder("families.jsonl"));
    ok(run_command(&mix_cmd, &out, &err, ARGS(manifest, "--out", mixed, "--report", report)), &err);
    assert_non_null(strstr(out.data, "11 rows in, 4 out, 4 of them different"));
    assert_non_null(strstr(out.data, "not there; optional"));
    assert_non_null(strstr(out.data, "1  dropped: in a benchmark"));
    cJSON *tree = NULL;
    ok(json_read(&tree, report, &err), &err);
    assert_true(cJSON_GetObjectItem(tree, "out")->valuedouble == 4);
    assert_true(cJSON_GetObjectItem(cJSON_GetObjectItem(tree, "licences"), "MIT")->valuedouble == 2);
    cJSON_Delete(tree);
    ok(run_command(&split_cmd, &out, &err, ARGS(input, "--out", divided)), &err);
    assert_non_null(
        strstr(out.data, "Read again from what was written: 0 groups are in more than one split."));
    ok(run_command(&split_cmd, &out, &err, ARGS(input, "--out", divided, "--json")), &err);
    ok(json_parse(&tree, out.data, out.len, &err), &err);
    assert_true(cJSON_GetObjectItem(tree, "groups_crossing")->valuedouble == 0);
    assert_true(cJSON_GetObjectItem(tree, "groups")->valuedouble == FAMILIES);
    cJSON_Delete(tree);
    assert_int_equal(run_command(&split_cmd, &out, &err, ARGS(input, "--out", folder)), ERR_ARGUMENT);
    assert_int_equal(run_command(&split_cmd, &out, &err, ARGS(input, "--out", divided, "--zstd")),
                     ERR_ARGUMENT);
    assert_int_equal(run_command(&split_cmd, &out, &err, ARGS(input)), ERR_ARGUMENT);
    assert_int_equal(run_command(&mix_cmd, &out, &err, ARGS(manifest, "--out", "x.gz")), ERR_ARGUMENT);
    assert_int_equal(run_command(&mix_cmd, &out, &err, ARGS(manifest)), ERR_ARGUMENT);
    buf_free(&out);
}

/* ---- memory that runs out ---- */

static ErrCode mix_small(Err *err) {
    MixReport r;
    const ErrCode rc = mix_to(&r, in_folder("memory.jsonl.zst"), SMALL, false, NULL, err);
    mix_report_free(&r);
    return rc;
}

static ErrCode divide_small(Err *err) {
    PartitionReport r;
    PartitionRule rule = {.out = in_folder("memory.jsonl"), .folder = false};
    ErrCode rc = flags_list_add(&rule.group_by, "topic", 5, err);
    if (rc == ERR_OK) rc = flags_list_add(&rule.hold_out, "topic=t0", 8, err);
    if (rc == ERR_OK) rc = divide(&r, rule, in_folder("few.jsonl"), err);
    if (rc == ERR_OK) partition_report_free(&r);
    flags_list_free(&rule.group_by);
    flags_list_free(&rule.hold_out);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    save_small();
    save("few.jsonl",
         "{\"text\":\"one\",\"topic\":\"t0\"}\n{\"text\":\"two\",\"topic\":\"t1\"}\n{\"text\":\"three\"}\n");
    static ErrCode (*const ALL[])(Err *) = {mix_small, divide_small};
    for (size_t k = 0; k < 2; k++) {
        Err err = {0};
        const size_t before = mem_count();
        ok(ALL[k](&err), &err);
        const size_t allocations = mem_count() - before;
        assert_in_range(allocations, 20, 2000);
        for (size_t n = 1; n <= allocations; n++) {
            err = (Err){0};
            mem_fail_at(n);
            const ErrCode rc = ALL[k](&err);
            mem_fail_at(0);
            if (rc != ERR_MEMORY)
                fail_msg("allocation %zu of %zu: code %d '%s'", n, allocations, (int)rc, err.msg);
        }
    }
}

/* ---- real corpora ---- */

static void test_configs(void **state) {
    (void)state;
    static const struct {
        const char *config;
        uint64_t at_least;
    } MIXES[] = {{"modem-mix.json", 5000}, {"corpus-mix.json", 100000}};
    for (size_t i = 0; i < 2; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, ROUTER_SOURCE_DIR "/configs/%s", MIXES[i].config);
        assert_true(manifest_is(path));
        Manifest m;
        Err err = {0};
        ok(manifest_read(&m, path, &err), &err);
        if (i == 1 && !file_exists(m.sources[0].files.paths.items[0])) {
            print_message("skipped: %s is absent\n", m.sources[0].files.paths.items[0]);
            manifest_free(&m);
            continue;
        }
        Threads *threads;
        ok(threads_open(&threads, 2, &err), &err);
        MixReport r;
        const MixRule rule = {
            .manifest = &m, .out = in_folder("config.jsonl.zst"), .weights = i == 0, .threads = threads};
        ok(mix_write(&r, &rule, &err), &err);
        assert_true(r.all.lines >= MIXES[i].at_least);
        assert_int_equal(r.labels.count, 5);
        uint64_t fates = 0, lines = 0;
        for (int f = 0; f < MIX_FATES; f++) fates += r.all.fate[f];
        for (size_t k = 0; k < r.labels.count; k++) lines += r.domains[k].lines;
        assert_int_equal(fates, r.all.in);
        assert_int_equal(lines, r.all.lines);
        if (i == 1) { /* AGIEval's questions are from MATH and AQuA */
            assert_int_equal(r.all.in, 161251);
            assert_true(r.all.fate[MIX_AGAINST] > 900 && r.all.fate[MIX_ALIKE] > 5000);
        }
        mix_report_free(&r);
        threads_close(threads);
        manifest_free(&m);
    }
}

int main(void) {
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),          cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_manifest_bad),     cmocka_unit_test(test_mix),
        cmocka_unit_test(test_mix_bad),          cmocka_unit_test(test_mix_shares),
        cmocka_unit_test(test_mix_repeats),      cmocka_unit_test(test_partition),
        cmocka_unit_test(test_partition_groups), cmocka_unit_test(test_partition_repeats),
        cmocka_unit_test(test_commands),         cmocka_unit_test(test_memory),
        cmocka_unit_test(test_configs),
    };
    return folder_close(cmocka_run_group_tests_name("mix", tests, NULL, NULL));
}
