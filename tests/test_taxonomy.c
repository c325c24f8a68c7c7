/* tests/test_taxonomy.c - what a router's labels are, over time: changes and what refuses them; config.json, model card,
 * exported file, librouter and the peer's reader tell the same; training carries it on; `router verify --parent`. */
#include <fcntl.h>

#include "core/json.h"
#include "core/progress.h"
#include "core/sha256.h"
#include "eval/lineage.h"
#include "eval/verify_cmd.h"
#include "export/blob_taxonomy.h"
#include "export/exporter.h"
#include "export/inspect_cmd.h"
#include "model/config.h"
#include "model/weights.h"
#include "tests/tiny_blob.h"
#include "tests/unit.h"
#include "train/card.h"
#include "train/train_cmd.h"

#define REFUSED(call, kind, text)           \
    do {                                    \
        assert_int_equal((call), (kind));   \
        assert_string_equal(err.msg, text); \
    } while (0)

static const char DIGEST[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* ---- routers with a past ---- */

static Config small_config(int K) {
    static const char *const NAMES[] = {"math", "coding", "other", "health", "humanities"};
    Err err = {0};
    Config c = {.vocab_size = 280,
                .hidden_size = 24,
                .num_hidden_layers = 2,
                .num_attention_heads = 3,
                .intermediate_size = 40,
                .max_position_embeddings = 40,
                .max_relative_positions = 40,
                .position_buckets = 8,
                .layer_norm_eps = 1e-7,
                .initializer_range = 0.3};
    OK(config_set_labels(&c, NAMES, K, &err));
    return c;
}

static const char *const *names_of(const Config *c) {
    return (const char *const *)c->labels;
}

/* Text of any characters that may stand in a name or description, from..to bytes; no two calls give the same. */
static const char *draw_text(int from, int to) {
    static const char *const PIECES[] = {"law",          "maths & \"more\" ", "\\", "|", "\xc3\xa9",
                                         "\xe6\x97\xa5", "\xf0\x9f\x8e\x89",  "/",  " "};
    static char texts[16][TAXONOMY_DESCRIPTION_MAX + 64];
    static int next;
    static unsigned serial;
    char *text = texts[next++ % 16];
    const size_t n = (size_t)(from + draw(to - from + 1));
    (void)snprintf(text, 32, "%u", ++serial);
    for (size_t at = strlen(text); at < n; at = strlen(text)) {
        const char *piece = PIECES[draw(9)];
        memcpy(text + at, at + strlen(piece) > n ? "x" : piece,
               at + strlen(piece) > n ? 2 : strlen(piece) + 1);
    }
    return text;
}

static void draw_digest(char out[65]) {
    for (int i = 0; i < 64; i++) out[i] = "0123456789abcdef"[draw(16)];
    out[64] = 0;
}

/* Some revisions of random changes. */
static void draw_history(Config *c) {
    Err err = {0};
    for (int n = draw(4); n > 0; n--) {
        char parent[65];
        draw_digest(parent);
        OK(taxonomy_begin(&c->taxonomy, parent, &err));
        const char *names[3], *descriptions[3];
        const int more = draw(4);
        for (int i = 0; i < more; i++) {
            names[i] = draw_text(1, TAXONOMY_NAME_MAX);
            descriptions[i] = draw(2) ? draw_text(1, TAXONOMY_DESCRIPTION_MAX) : NULL;
        }
        OK(config_grow_labels(c, names, draw(3) ? descriptions : NULL, more, &err));
        for (int i = draw(3); i > 0; i--)
            OK(config_rename_label(c, draw(c->num_labels), draw_text(1, TAXONOMY_NAME_MAX), &err));
        const int id = draw(c->num_labels);
        if (!c->taxonomy.labels[id].retired && taxonomy_active(&c->taxonomy) > 2)
            OK(taxonomy_retire(&c->taxonomy, names_of(c), id, &err));
    }
    for (int i = draw(3); i > 0; i--)
        OK(taxonomy_describe(&c->taxonomy, names_of(c), draw(c->num_labels),
                             draw(4) ? draw_text(1, TAXONOMY_DESCRIPTION_MAX) : NULL, &err));
    OK(taxonomy_check(&c->taxonomy, names_of(c), &err));
}

static void assert_same(const Taxonomy *a, const Taxonomy *b) {
    assert_int_equal(a->revision, b->revision);
    assert_string_equal(a->parent, b->parent);
    assert_int_equal(a->count, b->count);
    for (int k = 0; k < a->count; k++) {
        const TaxonomyLabel *x = &a->labels[k], *y = &b->labels[k];
        assert_int_equal(x->retired, y->retired);
        assert_int_equal(x->since, y->since);
        assert_int_equal(!x->description, !y->description);
        if (x->description) assert_string_equal(x->description, y->description);
        assert_int_equal(x->former_count, y->former_count);
        for (int i = 0; i < x->former_count; i++) assert_string_equal(x->former[i], y->former[i]);
    }
}

/* ---- changes ---- */

static void test_changes(void **state) {
    (void)state;
    Err err = {0};
    Config c = small_config(3), before;
    Taxonomy *t = &c.taxonomy;
    int id = -7;
    assert_false(taxonomy_says(t));
    assert_int_equal(t->revision, 1);
    assert_int_equal(taxonomy_active(t), 3);
    REFUSED(taxonomy_begin(t, "0123", &err), ERR_ARGUMENT,
            "the parent's digest: found \"0123\", expected 64 hexadecimal digits in lower case");
    OK(taxonomy_begin(t, DIGEST, &err));
    assert_true(taxonomy_says(t));
    OK(config_copy(&before, &c, &err));

    const char *law[] = {"law", "finance"}, *said[] = {"Courts, contracts.", NULL};
    OK(config_grow_labels(&c, law, said, 2, &err));
    assert_int_equal(c.num_labels, 5);
    assert_int_equal(t->count, 5);
    assert_int_equal(t->labels[3].since, 2);
    assert_int_equal(t->labels[2].since, 1);
    assert_string_equal(t->labels[3].description, "Courts, contracts.");
    assert_null(t->labels[4].description);
    OK(config_rename_label(&c, 0, "maths", &err));
    assert_string_equal(c.labels[0], "maths");
    assert_string_equal(t->labels[0].former[0], "math");
    OK(taxonomy_find(&id, t, names_of(&c), "finance", &err));
    assert_int_equal(id, 4);
    REFUSED(taxonomy_find(&id, t, names_of(&c), "math", &err), ERR_ARGUMENT,
            "the label 'math' is called 'maths' today");
    REFUSED(taxonomy_find(&id, t, names_of(&c), "finanse", &err), ERR_ARGUMENT,
            "'finanse' is none of the 5 labels; did you mean 'finance'?");
    REFUSED(taxonomy_find(&id, t, names_of(&c), "zzzzzzzzz", &err), ERR_ARGUMENT,
            "'zzzzzzzzz' is none of the 5 labels");

    const char *old[] = {"math"}, *again[] = {"coding"}, *twice[] = {"a", "a"}, *none[] = {""},
               *bad[] = {"a\nb"};
    REFUSED(config_grow_labels(&c, old, NULL, 1, &err), ERR_ARGUMENT,
            "'math' is what the label 'maths' was called before: an old name does not come back with another "
            "meaning");
    REFUSED(config_grow_labels(&c, again, NULL, 1, &err), ERR_ARGUMENT,
            "there is a label 'coding' already (id 1)");
    REFUSED(config_grow_labels(&c, twice, NULL, 2, &err), ERR_ARGUMENT,
            "there is a label 'a' already (id 5)");
    REFUSED(config_grow_labels(&c, none, NULL, 1, &err), ERR_ARGUMENT,
            "label '': a name of 0 bytes, expected 1 to 256");
    REFUSED(config_grow_labels(&c, bad, NULL, 1, &err), ERR_ARGUMENT,
            "label 'a?b': a name with a control character");
    REFUSED(config_grow_labels(&c, law + 1, bad, 1, &err), ERR_ARGUMENT,
            "there is a label 'finance' already (id 4)");
    REFUSED(config_grow_labels(&c, (const char *[]){"tax"}, bad, 1, &err), ERR_ARGUMENT,
            "label 'tax': a description with a control character");
    assert_int_equal(config_grow_labels(&c, law, NULL, CONFIG_LABELS_MAX - 4, &err), ERR_ARGUMENT);
    REFUSED(config_rename_label(&c, 1, "math", &err), ERR_ARGUMENT,
            "'math' is what the label 'maths' was called before: an old name does not come back with another "
            "meaning");
    REFUSED(config_rename_label(&c, 1, "coding", &err), ERR_ARGUMENT,
            "there is a label 'coding' already (id 1)");
    REFUSED(config_rename_label(&c, 1, "\xff", &err), ERR_ARGUMENT,
            "label '?': a name that holds a NUL or is no valid UTF-8");
    OK(config_rename_label(&c, 0, "math", &err)); /* its own old name */
    assert_int_equal(t->labels[0].former_count, 1);
    assert_string_equal(t->labels[0].former[0], "maths");

    OK(taxonomy_retire(t, names_of(&c), 2, &err));
    REFUSED(taxonomy_retire(t, names_of(&c), 2, &err), ERR_ARGUMENT, "the label 'other' is retired already");
    OK(taxonomy_retire(t, names_of(&c), 0, &err));
    OK(taxonomy_retire(t, names_of(&c), 4, &err));
    REFUSED(taxonomy_retire(t, names_of(&c), 1, &err), ERR_ARGUMENT,
            "the label 'coding' cannot be retired: 2 labels are active, and a router needs 2");
    assert_int_equal(taxonomy_active(t), 2);
    OK(taxonomy_check(t, names_of(&c), &err));
    for (int i = 1; i < TAXONOMY_FORMER_MAX; i++) OK(config_rename_label(&c, 0, path_of("m%d", i), &err));
    OK(taxonomy_check(t, names_of(&c), &err));
    REFUSED(config_rename_label(&c, 0, "m", &err), ERR_ARGUMENT,
            "the label 'm63' has had 64 other names, and more are not kept");
    t->revision = TAXONOMY_REVISION_MAX;
    REFUSED(taxonomy_begin(t, DIGEST, &err), ERR_ARGUMENT, "revision 1000000 is the last that there can be");

    /* the same labels keep it, others are another router */
    OK(config_set_labels(&before, names_of(&before), 3, &err));
    assert_int_equal(before.taxonomy.revision, 2);
    OK(config_set_labels(&before, names_of(&before), 2, &err));
    assert_int_equal(before.taxonomy.revision, 1);
    assert_int_equal(before.taxonomy.count, 2);
    config_free(&before);
    config_free(&c);
}

/* ---- config.json ---- */

static ErrCode parse_text(Config *out, const char *taxonomy, Err *err) {
    Config c = small_config(3);
    cJSON *root, *value = NULL;
    *out = (Config){0};
    ok(config_json(&root, &c, err), err);
    assert_null(cJSON_GetObjectItemCaseSensitive(root, "router_taxonomy"));
    config_free(&c);
    ok(json_parse(&value, taxonomy, strlen(taxonomy), err), err);
    assert_true(cJSON_AddItemToObject(root, "router_taxonomy", value));
    const ErrCode rc = config_parse(out, root, err);
    cJSON_Delete(root);
    return rc;
}

#define PARENT "\"parent\":\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\""

static void test_config(void **state) {
    (void)state;
    Err err = {0};
    Config c;
    OK(parse_text(&c,
                  "{\"revision\":3," PARENT
                  ",\"labels\":[{\"name\":\"math\",\"formerly\":[\"maths\",\"sums\"]},"
                  "{\"name\":\"coding\",\"description\":\"Programs.\"},{\"name\":\"other\",\"since\":2}]}",
                  &err));
    const Taxonomy *t = &c.taxonomy;
    assert_int_equal(t->revision, 3);
    assert_string_equal(t->parent, DIGEST);
    assert_string_equal(t->labels[0].former[1], "sums");
    assert_string_equal(t->labels[1].description, "Programs.");
    assert_int_equal(t->labels[2].since, 2);
    assert_int_equal(taxonomy_active(t), 3);
    config_free(&c);
    OK(parse_text(&c, "{}", &err));
    assert_false(taxonomy_says(&c.taxonomy));
    assert_int_equal(c.taxonomy.count, 3);
    config_free(&c);
    OK(parse_text(&c, "{\"revision\":2," PARENT "}", &err));
    assert_true(taxonomy_says(&c.taxonomy));
    config_free(&c);

    for (int round = 0; round < 60; round++) {
        Config from = small_config(2 + draw(4)), back, copy;
        draw_history(&from);
        cJSON *root;
        Buf text = {0}, second = {0};
        OK(config_json(&root, &from, &err));
        json_print(&text, root);
        assert_int_equal(cJSON_HasObjectItem(root, "router_taxonomy"), taxonomy_says(&from.taxonomy));
        cJSON_Delete(root);
        OK(json_parse(&root, text.data, text.len, &err));
        OK(config_parse(&back, root, &err));
        cJSON_Delete(root);
        assert_true(config_has_labels(&back, names_of(&from), from.num_labels));
        assert_same(&back.taxonomy, &from.taxonomy);
        OK(config_copy(&copy, &back, &err));
        assert_same(&copy.taxonomy, &from.taxonomy);
        OK(config_json(&root, &copy, &err));
        json_print(&second, root);
        cJSON_Delete(root);
        assert_string_equal(second.data, text.data);
        buf_free(&text);
        buf_free(&second);
        config_free(&from);
        config_free(&back);
        config_free(&copy);
    }
}

static void test_config_refusals(void **state) {
    (void)state;
#define THREE(first) \
    "{\"labels\":[{\"name\":\"math\"" first "},{\"name\":\"coding\"},{\"name\":\"other\",\"since\":1}]}"
#define AT   "key \"router_taxonomy\": "
#define AT_0 AT "labels[0]: "
    Buf long_text = {0}, many = {0};
    buf_puts(&long_text, "{\"labels\":[{\"name\":\"math\",\"description\":\"");
    for (int i = 0; i <= TAXONOMY_DESCRIPTION_MAX; i++) buf_puts(&long_text, "d");
    buf_puts(&long_text, "\"},{\"name\":\"coding\"},{\"name\":\"other\"}]}");
    buf_puts(&many, "{\"labels\":[{\"name\":\"math\",\"formerly\":[");
    for (int i = 0; i <= TAXONOMY_FORMER_MAX; i++) buf_printf(&many, "%s\"f%d\"", i ? "," : "", i);
    buf_puts(&many, "]},{\"name\":\"coding\"},{\"name\":\"other\"}]}");
    const struct {
        const char *text, *message;
    } BAD[] = {
        {"null", AT "expected an object"},
        {"[]", AT "expected an object"},
        {"7", AT "expected an object"},
        {"{\"revison\":2}", AT "unknown key \"revison\"; did you mean \"revision\"?"},
        {"{\"note\\n\":2}", AT "unknown key \"note?\""},
        {"{\"revision\":0}", AT "key \"revision\": found 0, expected an integer from 1 to 1000000"},
        {"{\"revision\":1e300}", AT "key \"revision\": found 1e+300, expected an integer from 1 to 1000000"},
        {"{\"revision\":1.5}", AT "key \"revision\": found 1.5, expected an integer from 1 to 1000000"},
        {"{\"revision\":\"2\"}", AT "key \"revision\": found a string, expected an integer"},
        {"{\"revision\":2}",
         AT "parent: found \"\" at revision 2, expected 64 hexadecimal digits in lower case"},
        {"{" PARENT "}", AT "revision 1 has a parent, expected none"},
        {"{\"revision\":2,\"parent\":\"12\"}",
         AT "key \"parent\": found 2 characters, expected 64 hexadecimal digits in lower case"},
        {"{\"revision\":2,\"parent\":\"0011223344556677X899aabbccddeeff00112233445566778899aabbccddeeff\"}",
         AT
         "parent: found \"0011223344556677X899aabbccddeeff00112233445566778899aabbccddeeff\" at revision 2, "
         "expected 64 hexadecimal digits in lower case"},
        {"{\"revision\":2,\"parent\":[]}", AT "key \"parent\": found an array, expected a string"},
        {"{\"labels\":{}}", AT "key \"labels\": expected an array of 3 objects, one for each label"},
        {"{\"labels\":[]}", AT "key \"labels\": expected an array of 3 objects, one for each label"},
        {"{\"labels\":[1,2,3]}", AT_0 "expected an object"},
        {"{\"labels\":[{},{},{}]}", AT_0 "key \"name\": found nothing, but id2label says \"math\""},
        {"{\"labels\":[{\"name\":\"maths\"},{},{}]}",
         AT_0 "key \"name\": found \"maths\", but id2label says \"math\""},
        {"{\"labels\":[{\"name\":\"math\\u0000\"},{},{}]}",
         AT_0 "key \"name\": found \"math??\", but id2label says \"math\""},
        {"{\"labels\":[{\"name\":4},{},{}]}", AT_0 "key \"name\": found a number, expected a string"},
        {THREE(",\"desription\":\"\""), AT_0 "unknown key \"desription\"; did you mean \"description\"?"},
        {THREE(",\"description\":\"\""),
         AT "label 0 (\"math\"): a description of 0 bytes, expected 1 to 1000"},
        {long_text.data, AT "label 0 (\"math\"): a description of 1001 bytes, expected 1 to 1000"},
        {THREE(",\"description\":\"a\\u0000b\""),
         AT "label 0 (\"math\"): a description that holds a NUL or is no valid UTF-8"},
        {THREE(",\"description\":\"a\\u0085\""),
         AT "label 0 (\"math\"): a description with a control character"},
        {THREE(",\"description\":false"), AT_0 "key \"description\": found true or false, expected a string"},
        {THREE(",\"active\":\"no\""), AT_0 "key \"active\": found a string, expected true or false"},
        {THREE(",\"since\":2"),
         AT "label 0 (\"math\"): since: found 2, expected 1 (of the label before it) to 1 "
            "(the revision)"},
        {THREE(",\"since\":-1"), AT_0 "key \"since\": found -1, expected an integer from 1 to 1000000"},
        {"{\"revision\":2," PARENT
         ",\"labels\":[{\"name\":\"math\",\"since\":2},{\"name\":\"coding\"},{\"name\":"
         "\"other\"}]}",
         AT "label 1 (\"coding\"): since: found 1, expected 2 (of the label before it) to 2 (the revision)"},
        {THREE(",\"formerly\":\"maths\""), AT_0 "key \"formerly\": expected an array of at most 64 names"},
        {many.data, AT_0 "key \"formerly\": expected an array of at most 64 names"},
        {THREE(",\"formerly\":[null]"), AT_0 "key \"formerly\": element 0 is not a string"},
        {THREE(",\"formerly\":[\"a\",\"\"]"),
         AT "label 0 (\"math\"): a former name of 0 bytes, expected 1 to 256"},
        {THREE(",\"formerly\":[\"coding\"]"),
         AT "\"coding\" is or was the name of the labels 0 and 1, expected different ones"},
        {THREE(",\"formerly\":[\"a\",\"a\"]"),
         AT "\"a\" is or was the name of the labels 0 and 0, expected different ones"},
        {"{\"labels\":[{\"name\":\"math\",\"active\":false},{\"name\":\"coding\",\"active\":false},{\"name\":"
         "\"other\"}]}",
         AT "1 of 3 labels are active, expected at least 2"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Err err = {0};
        Config c;
        REFUSED(parse_text(&c, BAD[i].text, &err), ERR_FORMAT, BAD[i].message);
        assert_null(c.labels);
        assert_null(c.taxonomy.labels);
    }
    buf_free(&long_text);
    buf_free(&many);
    Err err = {0};
    Config encoder = {0};
    cJSON *value = cJSON_CreateObject();
    REFUSED(taxonomy_parse(&encoder.taxonomy, value, NULL, 0, &err), ERR_FORMAT,
            AT "the model has no labels, expected none either");
    OK(taxonomy_parse(&encoder.taxonomy, NULL, NULL, 0, &err));
    assert_int_equal(encoder.taxonomy.count, 0);
    cJSON_Delete(value);
}

/* ---- the blob's metadata ---- */

static Buf tiny; /* of tiny_blob.h: math, coding, other */

static void test_blob(void **state) {
    (void)state;
    Err err = {0};
    Blob blob;
    OK(blob_open_memory(&blob, tiny.data, tiny.len, false, NULL, &err));
    assert_int_equal(blob.config.taxonomy.revision, 1);
    assert_false(taxonomy_says(&blob.config.taxonomy));
    for (int round = 0; round < 30; round++) {
        Config c = {0};
        static const char *const NAMES[] = {"math", "coding", "other"};
        OK(config_set_labels(&c, NAMES, 3, &err));
        draw_history(&c);
        while (c.num_labels > 3) { /* the tiny blob has three rows; those of later revisions go */
            Taxonomy *t = &c.taxonomy;
            t->count = --c.num_labels;
            mem_free(c.labels[c.num_labels]);
            mem_free(t->labels[t->count].description);
            for (int i = 0; i < t->labels[t->count].former_count; i++)
                mem_free(t->labels[t->count].former[i]);
            mem_free(t->labels[t->count].former);
        }
        if (taxonomy_active(&c.taxonomy) < 2)
            c.taxonomy.labels[0].retired = c.taxonomy.labels[1].retired = false;
        BlobConfig config = blob.config;
        config.taxonomy = c.taxonomy;
        Buf first = {0}, second = {0};
        Blob back;
        OK(blob_write(&first, &config, names_of(&c), (const void *const *)blob.data, blob.spm_bytes, NULL, 0,
                      &err));
        OK(blob_open_memory(&back, first.data, first.len, false, NULL, &err));
        assert_same(&back.config.taxonomy, &c.taxonomy);
        for (int k = 0; k < 3; k++) assert_string_equal(back.labels[k], c.labels[k]);
        /* another rule leaves it as it is */
        OK(blob_rule_replace(&second, &back, &back.config.decide, NULL, 0, &err));
        assert_int_equal(second.len, first.len);
        assert_memory_equal(second.data, first.data, first.len);
        blob_close(&back);
        buf_free(&first);
        buf_free(&second);
        config_free(&c);
    }
    blob_close(&blob);
}

static void test_blob_refusals(void **state) {
    (void)state;
    static const char DIGITS[] =
        "\"router.taxonomy.parent\":\"00112233445566778899aabbccddeeff00112233445566778899"
        "aabbccddeeff\",";
    const struct {
        const char *keys, *message;
    } CASES[] = {
        {"\"router.taxonomy.revision\":\"1\",", NULL},
        {"\"router.taxonomy.note\":\"1\",\"router.label.9.active\":\"x\",\"router.label.0.formerly.1\":\"\",",
         NULL},
        {"\"router.label.1.active\":\"true\",\"router.label.1.since\":\"1\",", NULL},
        {path_of("\"router.taxonomy.revision\":\"2\",%s", DIGITS), NULL},
        {"\"router.taxonomy.revision\":\"0\",",
         "metadata router.taxonomy.revision: found \"0\", expected an integer from 1 to 1000000"},
        {"\"router.taxonomy.revision\":\"02\",",
         "metadata router.taxonomy.revision: found \"02\", expected an integer from 1 to 1000000"},
        {"\"router.taxonomy.revision\":\"99999999999999999999\",",
         "metadata router.taxonomy.revision: found \"99999999999999999999\", expected an integer from 1 to "
         "1000000"},
        {"\"router.taxonomy.revision\":\"2\",",
         "taxonomy: parent: found \"\" at revision 2, expected 64 "
         "hexadecimal digits in lower case"},
        {path_of("%s", DIGITS), "taxonomy: revision 1 has a parent, expected none"},
        {"\"router.taxonomy.parent\":\"1\",",
         "metadata router.taxonomy.parent: found 1 characters, expected 64 hexadecimal digits in lower case"},
        {"\"router.label.0.active\":\"no\",",
         "metadata router.label.0.active: found \"no\", expected true or false"},
        {"\"router.label.0.active\":\"false\",\"router.label.2.active\":\"false\",",
         "taxonomy: 1 of 3 labels are active, expected at least 2"},
        {"\"router.label.2.since\":\"2\",",
         "taxonomy: label 2 (\"other\"): since: found 2, expected 1 (of the label "
         "before it) to 1 (the revision)"},
        {"\"router.label.2.since\":\"\",",
         "metadata router.label.2.since: found \"\", expected an integer from 1 to 1000000"},
        {"\"router.label.1.description\":\"\",",
         "taxonomy: label 1 (\"coding\"): a description of 0 bytes, expected 1 to 1000"},
        {"\"router.label.1.description\":\"a\\u001b[2J\",",
         "taxonomy: label 1 (\"coding\"): a description with a control character"},
        {"\"router.label.1.formerly.0\":\"math\",",
         "taxonomy: \"math\" is or was the name of the labels 0 and 1, expected different ones"},
        {"\"router.label.1.formerly.0\":\"a\",\"router.label.2.formerly.0\":\"a\",",
         "taxonomy: \"a\" is or was the name of the labels 1 and 2, expected different ones"},
        {"\"router.label.1.formerly.0\":\"\\n\",",
         "taxonomy: label 1 (\"coding\"): a former name with a control character"},
    };
    Buf changed = {0};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Err err = {0};
        Blob blob;
        assert_true(tiny_replace(&changed, &tiny, "\"router.format\"",
                                 path_of("%s\"router.format\"", CASES[i].keys)));
        const ErrCode rc = blob_open_memory(&blob, changed.data, changed.len, false, NULL, &err);
        assert_int_equal(rc, CASES[i].message ? ERR_FORMAT : ERR_OK);
        if (CASES[i].message) assert_string_equal(err.msg, path_of("blob: %s", CASES[i].message));
        blob_close(&blob);
    }
    Buf many = {0};
    for (int i = 0; i <= TAXONOMY_FORMER_MAX; i++)
        buf_printf(&many, "\"router.label.0.formerly.%d\":\"f%d\",", i, i);
    buf_puts(&many, "\"router.format\"");
    Err err = {0};
    Blob blob;
    assert_true(tiny_replace(&changed, &tiny, "\"router.format\"", many.data));
    REFUSED(blob_open_memory(&blob, changed.data, changed.len, false, NULL, &err), ERR_FORMAT,
            "blob: metadata router.label.0.formerly.64: expected at most 64 former names");
    buf_free(&many);
    buf_free(&changed);
    /* a file from before */
    OK(blob_open(&blob, ROUTER_SOURCE_DIR "/tests/corpus/blob/good", NULL, NULL, &err));
    assert_string_equal(blob_metadata(&blob, "router.format"), "1.0");
    assert_false(taxonomy_says(&blob.config.taxonomy));
    assert_int_equal(blob.config.taxonomy.count, blob.config.num_labels);
    blob_close(&blob);
}

/* ---- whole models ---- */

static void save_config(const char *path, const Config *c) {
    Err err = {0};
    cJSON *root;
    OK(config_json(&root, c, &err));
    assert_non_null(cJSON_AddNumberToObject(root, "router_max_length", 33));
    OK(json_save(path, root, &err));
    cJSON_Delete(root);
}

/* Weights are the same for the same labels, whatever is behind them; rows from `grown` on have the bias, retired ones
 * cannot win. */
static const char *write_model(const char *name, const Config *c, int grown, float bias) {
    Err err = {0};
    const char *dir = in_folder("%s", name);
    Buf spm = {0};
    Arena arena = {0};
    Params p;
    OK(file_mkdirs(dir, &err));
    save_config(path_of("%s/config.json", dir), c);
    params_layout(&p, &arena, c, true, NULL);
    const size_t bytes = arena.used;
    OK(arena_init(&arena, bytes, "a test", &err));
    params_layout(&p, &arena, c, true, NULL);
    weights_init(&p, c, seed);
    for (int k = grown; k < c->num_labels; k++) p.head_b[k] = (real)bias;
    for (int k = 0; k < c->num_labels; k++)
        if (c->taxonomy.labels[k].retired) p.head_b[k] = (real)-1000;
    OK(weights_save(path_of("%s/model.safetensors", dir), &p, c, &err));
    tiny_spm(&spm, &(TinySpm){0});
    OK(file_save(path_of("%s/spm.model", dir), spm.data, spm.len, &err));
    buf_free(&spm);
    arena_free(&arena);
    return dir;
}

static const char *export_model(const char *dir) {
    Err err = {0};
    ExporterReport report;
    const char *path = path_of("%s.safetensors", dir);
    OK(exporter_run(&report, path, dir, &(ExporterOptions){0}, NULL, &err));
    return path;
}

#ifdef ROUTER_BLOB_PEER
/* What the peer's reader says about the labels. */
static void ask_peer(Buf *out, const char *path) {
    const char *to = in_folder("peer.txt");
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        char *const arguments[] = {(char[]){"blob_peer"}, (char *)(uintptr_t)path, (char[]){"--labels"},
                                   NULL};
        if (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0)
            (void)execv(ROUTER_BLOB_PEER, (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    assert_int_equal(finish(child), 0);
    read_file(out, to);
}

static void put_expected(Buf *out, const Config *c, const char *model) {
    const Taxonomy *t = &c->taxonomy;
    buf_printf(out, "%d %s %s\n", t->revision, t->revision > 1 ? t->parent : "-", model);
    for (int k = 0; k < t->count; k++) {
        const TaxonomyLabel *l = &t->labels[k];
        buf_printf(out, "%d\t%d\t%d\t%s\t%s", k, !l->retired, l->since, c->labels[k],
                   l->description ? l->description : "");
        for (int i = 0; i < l->former_count; i++) buf_printf(out, "\t%s", l->former[i]);
        buf_puts(out, "\n");
    }
}
#endif

/* config.json -> exported file -> librouter, and the reader that shares no code with us. */
static void test_chain(void **state) {
    (void)state;
    for (int round = 0; round < 6; round++) {
        Err err = {0};
        char error[ROUTER_ERROR_BYTES], model[65];
        Config c = small_config(2 + draw(4));
        if (round) draw_history(&c);
        const char *dir = write_model(path_of("chain%d", round), &c, c.num_labels, 0);
        const char *path = export_model(dir);
        Router *router;
        OK(weights_digest(model, dir, &err));
        assert_int_equal(router_open(&router, path, NULL, error, sizeof error), ROUTER_OK);
        assert_int_equal(router_revision(router), c.taxonomy.revision);
        assert_int_equal(router_label_count(router), c.num_labels);
        for (int k = 0; k < c.num_labels; k++) {
            const char *said = router_label_description(router, k),
                       *wanted = c.taxonomy.labels[k].description;
            assert_string_equal(router_label(router, k), c.labels[k]);
            assert_int_equal(router_label_active(router, k), !c.taxonomy.labels[k].retired);
            assert_int_equal(!said, !wanted);
            if (said) assert_string_equal(said, wanted);
        }
        assert_null(router_label_description(router, -1));
        assert_null(router_label_description(router, c.num_labels));
        assert_int_equal(router_label_active(router, -1), 0);
        assert_int_equal(router_label_active(router, c.num_labels), 0);
        assert_string_equal(router_metadata(router, "router.source.model_sha256"), model);
        const char *parent = router_metadata(router, "router.taxonomy.parent");
        assert_string_equal(parent ? parent : "", c.taxonomy.parent);
        RouterAnswer a;
        assert_int_equal(router_classify(router, "abc the", 7, &a, NULL, error, sizeof error), ROUTER_OK);
        assert_int_equal(router_label_active(router, a.label), 1);
        router_close(router);
#ifdef ROUTER_BLOB_PEER
        Buf said = {0}, wanted = {0};
        ask_peer(&said, path);
        put_expected(&wanted, &c, model);
        const char *behind = strchr(said.data, '\n'); /* what it says of the digests */
        assert_non_null(behind);
        assert_string_equal(behind + 1, wanted.data);
        buf_free(&said);
        buf_free(&wanted);
#endif
        config_free(&c);
    }
    assert_int_equal(router_revision(NULL), 0);
    assert_int_equal(router_label_active(NULL, 0), 0);
    assert_null(router_label_description(NULL, 0));
}

static void test_digest(void **state) {
    (void)state;
    Err err = {0};
    char hex[65], same[65];
    unsigned char digest[SHA256_BYTES];
    uint64_t size = 7;
    Buf bytes = {0};
    for (int n = 1000000 + draw(200000); n > 0; n--)
        buf_put(&bytes, (char[]){(char)draw(256)}, 1); /* two chunks, often */
    const char *path = save_bytes("bytes", bytes.data, bytes.len);
    OK(sha256_file(digest, &size, path, &err));
    sha256_hex(hex, digest);
    sha256_hex_of(same, bytes.data, bytes.len);
    assert_string_equal(hex, same);
    assert_int_equal(size, bytes.len);
    assert_int_equal(sha256_file(digest, NULL, in_folder("none"), &err), ERR_IO);
    OK(file_mkdirs(in_folder("digest"), &err));
    REFUSED(
        weights_digest(hex, in_folder("digest"), &err), ERR_IO,
        path_of("%s/digest: no weights: expected model.safetensors, pytorch_model.bin or an index of either",
                folder));
    (void)save_bytes("digest/pytorch_model.bin", bytes.data, bytes.len);
    OK(weights_digest(hex, in_folder("digest"), &err));
    assert_string_equal(hex, same);
    (void)save("digest/model.safetensors", "abc");
    OK(weights_digest(hex, in_folder("digest"), &err));
    assert_string_equal(hex,
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); /* FIPS 180-4 */
    (void)save("digest/model.safetensors.index.json", "{}");
    OK(weights_digest(hex, in_folder("digest"), &err));
    assert_string_equal(hex, "");
    buf_free(&bytes);
}

/* ---- verify --parent, inspect ---- */

static Config parent_config, child_config;
static char *parent_file, *child_file; /* of the test */

/* A parent of three labels, and a child that has law and calls math maths. */
static int write_family(void **state) {
    (void)state;
    Err err = {0};
    char digest[65];
    parent_config = small_config(3);
    const char *dir = write_model("parent", &parent_config, 3, 0);
    parent_file = mem_strdup(export_model(dir));
    OK(weights_digest(digest, dir, &err));
    OK(config_copy(&child_config, &parent_config, &err));
    OK(taxonomy_begin(&child_config.taxonomy, digest, &err));
    OK(config_grow_labels(&child_config, (const char *[]){"law"}, (const char *[]){"Courts and contracts."},
                          1, &err));
    OK(config_rename_label(&child_config, 0, "maths", &err));
    child_file = mem_strdup(export_model(write_model("child", &child_config, 3, -20)));
    return parent_file && child_file ? 0 : -1;
}

static int free_family(void **state) {
    (void)state;
    config_free(&parent_config);
    config_free(&child_config);
    mem_free(parent_file);
    mem_free(child_file);
    return 0;
}

static cJSON *lineage_of(const Buf *out) {
    Err err = {0};
    cJSON *root;
    OK(json_parse(&root, out->data, out->len, &err));
    return root;
}

static double number(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

static void test_verify(void **state) {
    (void)state;
    Err err = {0};
    Buf out = {0};
    OK(run_command(&verify_cmd, &out, &err, ARGS(child_file, "--parent", parent_file, "--json", "--quiet")));
    cJSON *root = lineage_of(&out);
    const cJSON *l = cJSON_GetObjectItemCaseSensitive(root, "lineage");
    assert_true(number(l, "revision") == 2 && number(l, "parent_revision") == 1);
    assert_true(number(l, "labels") == 4 && number(l, "parent_labels") == 3);
    assert_true(number(l, "prompts") == 16 && number(l, "same") == 16 && number(l, "max_flips") == 0);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(l, "digest")->valuestring, "same");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(l, "passed")));
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(l, "added")->child->valuestring, "law");
    const cJSON *renamed = cJSON_GetObjectItemCaseSensitive(l, "renamed")->child;
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(renamed, "from")->valuestring, "math");
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(renamed, "to")->valuestring, "maths");
    assert_null(cJSON_GetObjectItemCaseSensitive(l, "retired")->child);
    cJSON_Delete(root);
    OK(run_command(&verify_cmd, &out, &err, ARGS(child_file, "--parent", parent_file, "--quiet")));
    assert_non_null(strstr(out.data, "  revision             2, the parent's is 1\n"));
    assert_non_null(strstr(out.data, "  parent's model file  the very one, by its SHA-256\n"));
    assert_non_null(strstr(out.data, "  added                law\n  renamed              math -> maths\n"));
    assert_non_null(
        strstr(out.data, "  golden prompts       16 of the parent's 16 get the same label; 0 may change\n"));

    /* a row that wins everything: each golden prompt of the parent flips */
    const char *greedy = export_model(write_model("greedy", &child_config, 3, 1000));
    REFUSED(run_command(&verify_cmd, &out, &err,
                        ARGS(greedy, "--parent", parent_file, "--max-flips", "15", "--quiet")),
            ERR_GATE,
            path_of("%s: 16 of the 16 golden prompts of %s get another label, allowed are 15 (max_flips)",
                    greedy, parent_file));
    assert_non_null(strstr(out.data, " -> law 1.000 (")); /* the report is there all the same */
    OK(run_command(&verify_cmd, &out, &err,
                   ARGS(greedy, "--parent", parent_file, "--max-flips", "16", "--json", "--quiet")));
    root = lineage_of(&out);
    l = cJSON_GetObjectItemCaseSensitive(root, "lineage");
    const cJSON *flips = cJSON_GetObjectItemCaseSensitive(l, "flips");
    assert_int_equal(cJSON_GetArraySize(flips), 16);
    assert_true(number(flips->child, "to_probability") > 0.999 &&
                number(flips->child, "kept_probability") < 1e-3);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(flips->child, "to")->valuestring, "law");
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(flips->child, "text")->valuestring,
                        "What is the derivative of x^2 sin(x)?");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(l, "passed")));
    cJSON_Delete(root);
    buf_free(&out);
}

/* No later revision of that file: what is said, and exit status 3. */
static void test_verify_refusals(void **state) {
    (void)state;
    Err err = {0};
    REFUSED(
        run_command(&verify_cmd, NULL, &err, ARGS(parent_file, "--parent", parent_file, "--quiet")), ERR_GATE,
        path_of("%s is revision 1, but its parent %s is 1: expected a later one", parent_file, parent_file));
    REFUSED(run_command(&verify_cmd, NULL, &err, ARGS(parent_file, "--parent", child_file, "--quiet")),
            ERR_GATE, path_of("%s has 3 labels, fewer than the 4 of its parent %s", parent_file, child_file));
    REFUSED(run_command(&verify_cmd, NULL, &err, ARGS(parent_file, "--max-flips", "1")), ERR_ARGUMENT,
            "--max-flips needs --parent FILE");
    REFUSED(
        run_command(&verify_cmd, NULL, &err,
                    ARGS(in_folder("child"), "--parent", parent_file, "--against", parent_file)),
        ERR_ARGUMENT,
        path_of("%s: a folder has no golden vectors: --parent needs an exported file", in_folder("child")));
    assert_int_equal(
        run_command(&verify_cmd, NULL, &err, ARGS(child_file, "--parent", in_folder("none"), "--quiet")),
        ERR_IO);

    Config c;
    OK(config_copy(&c, &child_config, &err));
    OK(config_set_labels(&c, (const char *[]){"math", "other", "coding", "law"}, 4, &err));
    OK(taxonomy_begin(&c.taxonomy, child_config.taxonomy.parent, &err));
    const char *mixed = export_model(write_model("mixed", &c, 4, 0));
    REFUSED(
        run_command(&verify_cmd, NULL, &err, ARGS(mixed, "--parent", parent_file, "--quiet")), ERR_GATE,
        path_of(
            "label 1 of %s is 'coding', but %s has 'other' there, which was never called so: an id keeps its "
            "meaning",
            parent_file, mixed));
    config_free(&c);

    OK(config_copy(&c, &child_config, &err));
    memcpy(c.taxonomy.parent, DIGEST, sizeof c.taxonomy.parent);
    const char *foreign = export_model(write_model("foreign", &c, 3, -20));
    const char *parent = child_config.taxonomy.parent;
    REFUSED(run_command(&verify_cmd, NULL, &err, ARGS(foreign, "--parent", parent_file, "--quiet")), ERR_GATE,
            path_of("%s was made from the model file 0011223344556677..., but %s is of %.16s...", foreign,
                    parent_file, parent));
    /* with revisions between, the digest is another one's */
    OK(taxonomy_begin(&c.taxonomy, DIGEST, &err));
    OK(taxonomy_retire(&c.taxonomy, names_of(&c), 2, &err));
    const char *later = export_model(write_model("later", &c, 3, -20));
    Buf out = {0};
    const ErrCode rc = run_command(&verify_cmd, &out, &err,
                                   ARGS(later, "--parent", parent_file, "--max-flips", "16", "--quiet"));
    ok(rc, &err);
    assert_non_null(strstr(out.data, "not checked: there are revisions between\n"));
    assert_non_null(strstr(out.data, "  retired              other\n"));
    config_free(&c);

    /* a parent that was exported before digests of model files were */
    Buf old = {0}, blob = {0};
    read_file(&blob, parent_file);
    assert_true(tiny_replace(&old, &blob, "router.source.model_sha256", "router.source.model_sha999"));
    const char *before = save_bytes("before.safetensors", old.data, old.len);
    OK(run_command(&verify_cmd, &out, &err, ARGS(child_file, "--parent", before, "--quiet")));
    assert_non_null(strstr(out.data, "not checked: the parent does not state its SHA-256"));
    buf_free(&old);
    buf_free(&blob);
    buf_free(&out);
}

static void test_inspect(void **state) {
    (void)state;
    Err err = {0};
    Buf out = {0};
    OK(run_command(&inspect_cmd, &out, &err, ARGS(child_file)));
    assert_non_null(
        strstr(out.data, path_of("labels (4)\n  revision             2\n  parent               %s\n"
                                 "     0  maths  formerly math\n     1  coding\n     2  other\n"
                                 "     3  law  since revision 2\n        Courts and contracts.\n",
                                 child_config.taxonomy.parent)));
    OK(run_command(&inspect_cmd, &out, &err, ARGS(parent_file)));
    assert_non_null(strstr(out.data, "  revision             1, without a parent\n     0  math\n"));
    OK(run_command(&inspect_cmd, &out, &err, ARGS(child_file, "--json")));
    cJSON *root = lineage_of(&out);
    Taxonomy t;
    OK(taxonomy_parse(&t, cJSON_GetObjectItemCaseSensitive(root, "taxonomy"), names_of(&child_config), 4,
                      &err));
    assert_same(&t, &child_config.taxonomy);
    taxonomy_free(&t);
    cJSON_Delete(root);
    buf_free(&out);
}

/* ---- model card, training ---- */

static void test_card(void **state) {
    (void)state;
    Err err = {0};
    Buf text = {0};
    CkptCard card = {.base = "a base",
                     .max_tokens = 33,
                     .data_digest = DIGEST,
                     .dev_accuracy = (double)NAN,
                     .dev_loss = (double)NAN};
    OK(file_mkdirs(in_folder("card"), &err));
    OK(card_save(in_folder("card"), &parent_config, &card, &err));
    read_file(&text, in_folder("card/README.md"));
    assert_non_null(strstr(text.data, "one of 3 domains:\n\n- `math`\n- `coding`\n- `other`\n\n## Input"));
    Config c;
    OK(config_copy(&c, &child_config, &err));
    OK(taxonomy_retire(&c.taxonomy, names_of(&c), 1, &err));
    OK(taxonomy_describe(&c.taxonomy, names_of(&c), 2, "a|b", &err));
    OK(card_save(in_folder("card"), &c, &card, &err));
    read_file(&text, in_folder("card/README.md"));
    assert_non_null(strstr(text.data,
                           "one of 3 domains:\n\n"
                           "| id | label | what belongs there | answered | since revision | formerly |\n"
                           "| ---: | --- | --- | --- | ---: | --- |\n"
                           "| 0 | maths |  | yes | 1 | math |\n"
                           "| 1 | coding |  | no, retired | 1 |  |\n"
                           "| 2 | other | a\\|b | yes | 1 |  |\n"
                           "| 3 | law | Courts and contracts. | yes | 2 |  |\n"
                           "\nRevision 2 of this router's labels; it was made from the model file with "
                           "SHA-256 `"));
    config_free(&c);
    buf_free(&text);
}

/* Rows of the labels by turns. */
static const char *write_rows(const char *name, const char *const *labels, int n, int rows) {
    Buf text = {0};
    for (int i = 0; i < rows; i++)
        buf_printf(&text, "{\"text\": \"abc the %d x%d\", \"label\": \"%s\"}\n", i, draw(1000),
                   labels[i % n]);
    const char *path = save(name, text.data);
    buf_free(&text);
    return path;
}

#define TRAIN(data, model, out, ...)                                                                 \
    ARGS(data, "--model", model, "--out", out, "--quiet", "--max_length", "20", "--batch_size", "8", \
         "--epochs", "1", "--dev_share", "0.2", "--threads", "1", __VA_ARGS__)

static void test_train(void **state) {
    (void)state;
    Err err = {0};
    Config c, trained;
    OK(config_copy(&c, &child_config, &err));
    OK(taxonomy_retire(&c.taxonomy, names_of(&c), 1, &err));
    const char *model = write_model("to-train", &c, 3, -1);
    static const char *const LEFT[] = {"maths", "other", "law"}, *const ALL[] = {"maths", "coding", "other",
                                                                                 "law"};
    const char *good = write_rows("good.jsonl", LEFT, 3, 60), *bad = write_rows("bad.jsonl", ALL, 4, 80);
    OK(run_command(&train_cmd, NULL, &err, TRAIN(good, model, in_folder("run-good"), "--lr", "1e-4")));
    for (int last = 0; last < 2; last++) {
        OK(config_read(&trained, in_folder("run-good/%s", last ? "model-last" : "model-best"), &err));
        assert_true(config_has_labels(&trained, names_of(&c), 4));
        assert_same(&trained.taxonomy, &c.taxonomy);
        config_free(&trained);
    }
    Buf readme = {0};
    read_file(&readme, in_folder("run-good/model-best/README.md"));
    assert_non_null(strstr(readme.data, "| 1 | coding |  | no, retired | 1 |  |\n"));
    buf_free(&readme);

    REFUSED(run_command(&train_cmd, NULL, &err, TRAIN(bad, model, in_folder("run-bad"), "--lr", "1e-4")),
            ERR_FORMAT,
            path_of("%s:2: label 'coding' is retired (router_taxonomy): no row may have it", bad));
    /* the same where the labels are named */
    REFUSED(run_command(&train_cmd, NULL, &err,
                        TRAIN(bad, model, in_folder("run-bad2"), "--labels", "maths,coding,other,law")),
            ERR_FORMAT,
            path_of("%s:2: label 'coding' is retired (router_taxonomy): no row may have it", bad));
    OK(run_command(&train_cmd, NULL, &err, TRAIN(bad, model, in_folder("run-skip"), "--skip_bad")));
    OK(config_read(&trained, in_folder("run-skip/model-last"), &err));
    assert_same(&trained.taxonomy, &c.taxonomy);
    config_free(&trained);

    /* a shard that was packed for a router that had not retired it */
    OK(run_command(&train_cmd, NULL, &err,
                   TRAIN(bad, in_folder("child"), in_folder("run-child"), "--lr", "1e-4")));
    REFUSED(
        run_command(&train_cmd, NULL, &err,
                    TRAIN(in_folder("run-child/data.shard"), model, in_folder("run-shard"), "--lr", "1e-4")),
        ERR_ARGUMENT,
        "the shard has 20 rows of the label 'coding', which the model has retired (router_taxonomy): pack "
        "the data "
        "without them");
    /* from scratch it is another router */
    const char *scratch = in_folder("to-train/config.json"), *spm = in_folder("to-train/spm.model");
    OK(run_command(&train_cmd, NULL, &err,
                   TRAIN(bad, scratch, in_folder("run-scratch"), "--tokenizer", spm)));
    OK(config_read(&trained, in_folder("run-scratch/model-last"), &err));
    assert_int_equal(trained.num_labels, 4);
    assert_false(taxonomy_says(&trained.taxonomy));
    config_free(&trained);
    config_free(&c);
}

/* ---- memory ---- */

static ErrCode change_all(const Config *from, Err *err) {
    Config c;
    TRY(config_copy(&c, from, err));
    const int labels = c.num_labels, active = taxonomy_active(&c.taxonomy);
    ErrCode rc = taxonomy_begin(&c.taxonomy, DIGEST, err);
    if (rc == ERR_OK)
        rc = config_grow_labels(&c, (const char *[]){"one", "two"}, (const char *[]){"first", "second"}, 2,
                                err);
    if (rc != ERR_OK) assert_true(c.num_labels == labels && c.taxonomy.count == labels);
    if (rc == ERR_OK) rc = config_rename_label(&c, 0, "new", err);
    if (rc != ERR_OK) assert_true(taxonomy_active(&c.taxonomy) >= active);
    if (rc == ERR_OK) rc = taxonomy_describe(&c.taxonomy, names_of(&c), 0, "described", err);
    if (rc == ERR_OK) rc = config_set_labels(&c, names_of(&c), 3, err);
    if (rc != ERR_OK && c.taxonomy.count == c.num_labels) {
        const size_t none = 0;
        mem_fail_at(none);
        assert_int_equal(taxonomy_check(&c.taxonomy, names_of(&c), NULL), ERR_OK); /* nothing is half done */
    }
    config_free(&c);
    return rc;
}

static ErrCode parse_tree(const cJSON *root, Err *err) {
    Config c;
    TRY(config_parse(&c, root, err));
    config_free(&c);
    return ERR_OK;
}

static ErrCode open_blob(const Buf *bytes, Err *err) {
    Blob blob;
    TRY(blob_open_memory(&blob, bytes->data, bytes->len, true, NULL, err));
    Buf again = {0};
    const ErrCode rc = blob_rule_replace(&again, &blob, &blob.config.decide, NULL, 0, err);
    buf_free(&again);
    blob_close(&blob);
    return rc;
}

static ErrCode open_lineage(Err *err) {
    Lineage lineage;
    Buf json = {0}, table = {0};
    ErrCode rc = lineage_open(&lineage, child_file, parent_file, 0, err);
    if (rc == ERR_OK) {
        lineage_json(&json, &lineage);
        lineage_table(&table, &lineage);
        rc = buf_ok(&json, err);
        if (rc == ERR_OK) rc = buf_ok(&table, err);
    }
    lineage_free(&lineage);
    buf_free(&json);
    buf_free(&table);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    Err err = {0};
    Config c;
    cJSON *root;
    OK(config_copy(&c, &child_config, &err));
    EACH_ALLOCATION_FAILS(400, change_all(&c, &err));
    OK(config_json(&root, &c, &err));
    EACH_ALLOCATION_FAILS(400, parse_tree(root, &err));
    cJSON_Delete(root);
    config_free(&c);
    Buf bytes = {0};
    read_file(&bytes, child_file);
    EACH_ALLOCATION_FAILS(4000, open_blob(&bytes, &err));
    buf_free(&bytes);
    ErrCode rc = ERR_MEMORY;
    for (size_t n = 1; rc == ERR_MEMORY;
         n += 1 + n / 8) { /* hundreds, most of them sentencepiece's and the model's */
        mem_fail_at(n);
        rc = open_lineage(&err);
        mem_fail_at(0);
    }
    ok(rc, &err);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const BlobConfig config = tiny_config();
    if (tiny_blob(&tiny, &config, seed, NULL) != ERR_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_refusals),
        cmocka_unit_test(test_blob),
        cmocka_unit_test(test_blob_refusals),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_verify_refusals),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_card),
        cmocka_unit_test(test_train),
        cmocka_unit_test(test_memory),
    };
    const int failed = cmocka_run_group_tests(tests, write_family, free_family);
    buf_free(&tiny);
    return folder_close(failed);
}
