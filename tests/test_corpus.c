/* tests/test_corpus.c - files and folders of rows to a shard: corpus, and `router data pack`. */
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "core/file.h"
#include "core/flags.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/text.h"
#include "data/batch.h"
#include "data/corpus.h"
#include "data/pack_cmd.h"
#include "data/record.h"
#include "data/shard.h"
#include "data/split.h"
#include "tests/unit.h"
#include "tests/whole_shard.h"
#include "tokenizer/spm.h"
#include "tokenizer/tokenizer.h"

static Tokenizer *tokenizer;

/* ---- corpus ---- */

static void add_json_row(Buf *out, const char *text, const char *label, const char *more) {
    buf_puts(out, "{\"text\":");
    text_put_json(out, text, strlen(text));
    buf_printf(out, ",\"label\":\"%s\"%s}\n", label, more);
}

static const char *const WORDS[] = {"sum", "triangle", "fever", "dose", "loop", "stack", "film", "river",
                                    "of",  "the",      "a",     "what", "is",   "how",   "to",   "please"};

static void add_rows(Buf *out, const char *where, size_t rows, const char *more) {
    static const char *const NAMES[] = {"math", "health", "coding"};
    for (size_t i = 0; i < rows; i++) {
        Buf text = {0};
        const size_t n = 4 + pick(where, 100 * i, 12);
        for (size_t k = 0; k < n; k++)
            buf_printf(&text, "%s%s", k ? " " : "",
                       WORDS[pick(where, 100 * i + k + 1, sizeof WORDS / sizeof *WORDS)]);
        buf_printf(&text, " %zu", i);
        add_json_row(out, text.data, NAMES[i % 3], more);
        buf_free(&text);
    }
}

static int open_tokenizer(void **state) {
    (void)state;
    char sentences[200][96];
    const char *texts[200];
    size_t lengths[200];
    for (size_t i = 0; i < 200; i++) {
        size_t n = 0;
        for (size_t k = 0; k < 6; k++)
            n += (size_t)snprintf(sentences[i] + n, sizeof sentences[i] - n, "%s ",
                                  WORDS[(i * 7 + k * k * 3 + i / 16) % (sizeof WORDS / sizeof *WORDS)]);
        texts[i] = sentences[i];
        lengths[i] = n;
    }
    Buf model = {0};
    Err err = {0};
    ErrCode rc = spm_train(&model, texts, lengths, 200, 330, 1, &err);
    if (rc == ERR_OK) rc = file_save(in_folder("spm.model"), model.data, model.len, &err);
    if (rc == ERR_OK) rc = tokenizer_open_bytes(&tokenizer, model.data, model.len, &err);
    if (rc != ERR_OK) (void)fprintf(stderr, "%s\n", err.msg);
    buf_free(&model);
    return rc != ERR_OK;
}

static int close_tokenizer(void **state) {
    (void)state;
    tokenizer_close(tokenizer);
    tokenizer = NULL;
    return 0;
}

static CorpusRule rule_for(FlagList *inputs, ...) {
    va_list ap;
    va_start(ap, inputs);
    for (const char *input; (input = va_arg(ap, const char *)) != NULL;)
        assert_int_equal(flags_list_add(inputs, input, strlen(input), NULL), ERR_OK);
    va_end(ap);
    return (CorpusRule){.inputs = *inputs,
                        .split = {0.1, 0.1, 0.2, seed, false},
                        .near = 0.8,
                        .max_tokens = 16,
                        .plain = true};
}

static void assert_same_file(const char *a, const char *b, bool same) {
    Buf x = {0}, y = {0};
    assert_int_equal(file_read(&x, a, 1 << 26, NULL), ERR_OK);
    assert_int_equal(file_read(&y, b, 1 << 26, NULL), ERR_OK);
    assert_int_equal(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, same);
    buf_free(&x);
    buf_free(&y);
}

/* Every row of test_corpus is there once, with its text, its tokens, its place. */
static void check_corpus_rows(const char *shard, const char *input) {
    Buf raw = {0};
    Err err = {0};
    Shard *s;
    ok(shard_open(&s, shard, &err), &err);
    const ShardInfo *info = shard_info(s);
    assert_int_equal(info->label_count, 3);
    assert_string_equal(info->labels[0], "coding");
    assert_string_equal(info->labels[1], "health");
    assert_string_equal(info->labels[2], "math");
    assert_string_equal(info->tokenizer_digest, tokenizer_digest(tokenizer));
    assert_int_equal(info->vocabulary, tokenizer_ids(tokenizer));
    assert_string_equal(info->files[0], input);
    static bool seen[5004];
    memset(seen, 0, sizeof seen);
    ShardBlock block = {0};
    uint64_t truncated = 0;
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++) {
        for (size_t k = 0; k < shard_blocks(s, split); k++) {
            ok(shard_read(s, &block, split, k, true, &err), &err);
            for (size_t i = 0; i < block.count; i++) {
                const ShardRow *row = &block.rows[i];
                assert_true(row->line >= 1 && row->line <= 5003 && !seen[row->line]);
                seen[row->line] = true;
                assert_string_equal(info->sources[row->source], row->line <= 5000 ? "made" : "");
                const char *const labels[] = {"math", "health", "coding"};
                assert_string_equal(info->labels[row->label],
                                    row->line <= 5000 ? labels[(row->line - 1) % 3] : "math");
                buf_clear(&raw);
                size_t whole;
                const TokenizerRule how = {.plain = true, .max_tokens = 16};
                ok(tokenizer_encode(tokenizer, &how, row->text, row->text_len, &raw, &whole, &err), &err);
                assert_int_equal(raw.len, 4 * (size_t)row->tokens);
                assert_memory_equal(raw.data, row->ids, raw.len);
                assert_int_equal(row->truncated, whole > 16);
                truncated += whole > 16;
            }
        }
    }
    assert_true(seen[1] && seen[5000] && !seen[5001] && !seen[5002] && seen[5003]);
    assert_true(truncated > 0 && truncated == info->truncated);
    shard_block_free(&block);
    shard_close(s);
    buf_free(&raw);
}

/* The digest knows each option. */
static void check_digest(const CorpusRule *rule, const char *shard) {
    const char *other = in_folder("c2.shard");
    Err err = {0};
    bool reused;
    Shard *s;
    for (int i = 0; i < 8; i++) {
        CorpusRule changed = *rule;
        FlagList labels = {0};
        if (i == 0) changed.max_tokens++;
        if (i == 1) changed.split.seed++;
        if (i == 2) changed.split.dev = 0.11;
        if (i == 3) changed.plain = false;
        if (i == 4) changed.skip_bad = true;
        if (i == 5) changed.record.text_field = "text";
        if (i == 6) {
            ok(flags_list_add(&labels, "math", 4, &err), &err);
            changed.labels = labels;
        }
        if (i == 7) changed.record.label_field = "label";
        ok(corpus_pack(other, &changed, tokenizer, NULL, &reused, &err), &err);
        assert_false(reused);
        assert_same_file(shard, other, false);
        ok(shard_open(&s, other, &err), &err);
        if (i == 6) {
            assert_string_equal(shard_info(s)->labels[0], "math");
            assert_string_equal(shard_info(s)->labels[1], "coding");
        }
        shard_close(s);
        flags_list_free(&labels);
    }
}

static void test_corpus(void **state) {
    (void)state;
    Buf rows = {0};
    Err err = {0};
    add_rows(&rows, "corpus", 5000, ",\"source\":\"made\"");
    buf_puts(&rows, "\n  \t\r\n");
    add_json_row(&rows, "[CLS] is a word 7", "math", "");
    const char *plain = save_bytes("c.jsonl", rows.data, rows.len);
    const size_t cap = ZSTD_compressBound(rows.len);
    char *packed = mem_alloc(cap, 1);
    assert_non_null(packed);
    const size_t n = ZSTD_compress(packed, cap, rows.data, rows.len, 3);
    const char *zst = save_bytes("c.jsonl.zst", packed, n);
    gzFile gz = gzopen(in_folder("c.jsonl.gz"), "wb");
    assert_int_equal(gzwrite(gz, rows.data, (unsigned)rows.len), (int)rows.len);
    assert_int_equal(gzclose(gz), Z_OK);
    mem_free(packed);

    FlagList inputs = {0}, inputs_z = {0}, inputs_g = {0};
    CorpusRule rule = rule_for(&inputs, plain, NULL);
    const char *shard = in_folder("c.shard"), *other = in_folder("c2.shard");
    bool reused;
    for (int threads = 1; threads <= 3; threads++) { /* the same bytes on any number of threads */
        Threads *pool;
        ok(threads_open(&pool, threads, &err), &err);
        const char *path = threads == 1 ? shard : other;
        (void)unlink(path);
        ok(corpus_pack(path, &rule, tokenizer, pool, &reused, &err), &err);
        assert_false(reused);
        assert_same_file(shard, path, true);
        threads_close(pool);
    }
    ok(corpus_pack(shard, &rule, tokenizer, NULL, &reused, &err), &err);
    assert_true(reused);

    check_corpus_rows(shard, plain);

    /* Compressed files give the same rows. */
    CorpusRule rule_z = rule_for(&inputs_z, zst, NULL),
               rule_g = rule_for(&inputs_g, in_folder("c.jsonl.gz"), NULL);
    ok(corpus_pack(other, &rule_z, tokenizer, NULL, &reused, &err), &err);
    assert_false(reused);
    ok(corpus_pack(in_folder("c3.shard"), &rule_g, tokenizer, NULL, &reused, &err), &err);
    Shard *z, *g;
    ok(shard_open(&z, other, &err), &err);
    ok(shard_open(&g, in_folder("c3.shard"), &err), &err);
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++) {
        assert_int_equal(shard_rows(z, split), shard_rows(g, split));
        assert_int_equal(shard_tokens(z, split), shard_tokens(g, split));
    }
    shard_close(z);
    shard_close(g);
    check_digest(&rule, shard);

    FILE *f = fopen(shard, "r+b"); /* a damaged shard is packed again */
    assert_non_null(f);
    assert_true(fseek(f, 100, SEEK_SET) == 0 && fputc(0xee, f) == 0xee && fclose(f) == 0);
    ok(corpus_pack(shard, &rule, tokenizer, NULL, &reused, &err), &err);
    assert_false(reused);
    ok(read_whole(shard, &err), &err);
    flags_list_free(&inputs);
    flags_list_free(&inputs_z);
    flags_list_free(&inputs_g);
    buf_free(&rows);
}

static size_t count_files(const char *dir) {
    char **names;
    size_t count;
    assert_int_equal(file_list(&names, &count, dir, NULL), ERR_OK);
    file_list_free(names, count);
    return count;
}

/* Near-duplicates share a side unless only equal texts count; a row's weight is that of its file times its own. */
static void test_corpus_near(void **state) {
    (void)state;
    enum { FAMILIES = 120, OF = 3 };
    Buf rows = {0};
    for (uint64_t i = 0; i < FAMILIES; i++)
        for (int k = 0; k < OF; k++) {
            buf_puts(&rows, "{\"text\":\"");
            for (uint64_t w = 0; w < 24; w++) buf_printf(&rows, "w%zu ", pick("near", i * 100 + w, 100000));
            buf_printf(&rows, "%d\",\"label\":\"%s\",\"sample_weight\":%s}\n", k, i % 2 ? "a" : "b",
                       k ? "0.5" : "3");
        }
    const char *plain = save_bytes("near.jsonl", rows.data, rows.len);
    Buf weighted = {0};
    buf_printf(&weighted, "%s=2", plain);
    for (int exact = 0; exact < 2; exact++) {
        FlagList inputs = {0};
        CorpusRule rule = rule_for(&inputs, weighted.data, NULL);
        rule.near = exact ? 1 : 0.8;
        rule.max_tokens = 64;
        const char *path = in_folder(exact ? "exact.shard" : "near.shard");
        Err err = {0};
        bool reused;
        ok(corpus_pack(path, &rule, tokenizer, NULL, &reused, &err), &err);
        Shard *s;
        ShardBlock block = {0};
        ok(shard_open(&s, path, &err), &err);
        int side[FAMILIES * OF], crossing = 0;
        for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++)
            for (size_t b = 0; b < shard_blocks(s, split); b++) {
                ok(shard_read(s, &block, split, b, false, &err), &err);
                for (size_t r = 0; r < block.count; r++) {
                    side[block.rows[r].line - 1] = (int)split;
                    const double expected = (block.rows[r].line - 1) % OF ? 1 : 6;
                    assert_true((double)block.rows[r].weight == expected);
                }
            }
        for (int i = 0; i < FAMILIES * OF; i++) crossing += side[i] != side[i / OF * OF];
        assert_int_equal(crossing > 0, exact);
        assert_int_equal(shard_info(s)->split.joined, exact ? 0 : FAMILIES * (OF - 1));
        shard_block_free(&block);
        shard_close(s);
        flags_list_free(&inputs);
    }
    buf_free(&weighted);
    buf_free(&rows);
    const char *const BAD[] = {"0", "-1", "1001", "\"1\"", "1e-60"};
    Record record = {0};
    for (size_t i = 0; i < 5; i++) {
        char line[96];
        Err err = {0};
        (void)snprintf(line, sizeof line, "{\"text\":\"a\",\"label\":\"b\",\"sample_weight\":%s}", BAD[i]);
        assert_int_equal(record_parse(&record, &(RecordRule){0}, line, strlen(line), &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "sample_weight: found "));
    }
}

static void test_corpus_inputs(void **state) {
    (void)state;
    Err err = {0};
    ok(file_mkdirs(in_folder("in/b/deep"), &err), &err);
    Buf rows = {0};
    add_json_row(&rows, "one", "x", ",\"split\":\"train\"");
    save_bytes("in/z.jsonl", rows.data, rows.len);
    save_bytes("in/b/deep/a.jsonl", rows.data, rows.len);
    save_bytes("in/b.jsonl", rows.data, rows.len);
    save("in/b/notes.txt", "no");
    save("in/.hidden.jsonl", "no");
    save_bytes("in/odd=2.jsonl", rows.data, rows.len);
    save_bytes("in/w=3", rows.data, rows.len);
    assert_int_equal(symlink(in_folder("in"), in_folder("in/b/circle")), 0);
    char weighted[300], odd[300], same[300];
    (void)snprintf(weighted, sizeof weighted, "%s=2.5", in_folder("in/z.jsonl"));
    (void)snprintf(odd, sizeof odd, "%s", in_folder("in/odd=2.jsonl"));
    (void)snprintf(same, sizeof same, "%s", in_folder("in/w=3"));
    int pipe_ends[2]; /* stdin is read twice, though it can be read only once */
    assert_int_equal(pipe(pipe_ends), 0);
    assert_int_equal(write(pipe_ends[1], rows.data, rows.len), (ssize_t)rows.len);
    close(pipe_ends[1]);
    const int saved = dup(STDIN_FILENO);
    assert_true(dup2(pipe_ends[0], STDIN_FILENO) == STDIN_FILENO);
    FlagList inputs = {0};
    CorpusRule rule = rule_for(&inputs, in_folder("in"), weighted, odd, same, "-", NULL);
    const size_t before = count_files(folder);
    const char *path = in_folder("in.shard");
    bool reused;
    ok(corpus_pack(path, &rule, tokenizer, NULL, &reused, &err), &err);
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
    close(pipe_ends[0]);
    assert_int_equal(count_files(folder), before + 1); /* the spool is gone */
    static const char *const NAMES[] = {"in/b.jsonl", "in/b/deep/a.jsonl", "in/odd=2.jsonl", "in/z.jsonl",
                                        "in/z.jsonl", "in/odd=2.jsonl",    "in/w=3",         NULL};
    Shard *s;
    ok(shard_open(&s, path, &err), &err);
    assert_int_equal(shard_info(s)->file_count, 8);
    for (size_t i = 0; i < 7; i++) assert_string_equal(shard_info(s)->files[i], in_folder("%s", NAMES[i]));
    assert_string_equal(shard_info(s)->files[7], "stdin");
    assert_int_equal(shard_info(s)->split.duplicates, 7);
    ShardBlock block = {0};
    ok(shard_read(s, &block, SPLIT_TRAIN, 0, true, &err), &err);
    for (size_t i = 0; i < 8; i++) assert_true(block.rows[i].weight == (i == 4 ? 2.5F : 1.0F));
    shard_block_free(&block);
    shard_close(s);
    flags_list_free(&inputs);
    buf_free(&rows);
}

static void pack_fails(const CorpusRule *rule, ErrCode code, const char *message) {
    Err err = {0};
    bool reused;
    const char *path = in_folder("never.shard");
    assert_int_equal(corpus_pack(path, rule, tokenizer, NULL, &reused, &err), code);
    assert_string_equal(err.msg, message);
    assert_false(file_exists(path));
}

static void test_corpus_bad(void **state) {
    (void)state;
    static const char ROWS_TEXT[] =
        "{\"text\":\"one\",\"label\":\"math\"}\n"
        "{\"text\":\"\",\"label\":\"math\"}\n"
        "{\"text\":\"two\",\"label\":\"maths\"}\n"
        "{\"text\":\"three\",\"label\":\"math\",\"split\":\"extra\"}\n"
        "nonsense\n"
        "{\"text\":\"four\",\"label\":\"health\"}\n";
    char expected[700];
    const char *path = save_bytes("bad.jsonl", ROWS_TEXT, sizeof ROWS_TEXT - 1);
    FlagList inputs = {0}, none = {0}, labels = {0};
    CorpusRule rule = rule_for(&inputs, path, NULL);
    (void)snprintf(expected, sizeof expected, "%s:2: text: the text is empty", path);
    pack_fails(&rule, ERR_FORMAT, expected);
    Err err = {0};
    ok(flags_list_add(&labels, "math", 4, &err), &err);
    ok(flags_list_add(&labels, "health", 6, &err), &err);
    rule.labels = labels;
    rule.labels_closed = true;
    rule.skip_bad = true;
    bool reused;
    ok(corpus_pack(in_folder("skip.shard"), &rule, tokenizer, NULL, &reused, &err), &err);
    Shard *s;
    ok(shard_open(&s, in_folder("skip.shard"), &err), &err);
    assert_int_equal(shard_info(s)->skipped, 4);
    assert_int_equal(shard_info(s)->message_count, 3);
    (void)snprintf(expected, sizeof expected,
                   "%s:3: label 'maths' is not one of the 2: math, health; did you mean 'math'?", path);
    assert_string_equal(shard_info(s)->messages[1], expected);
    (void)snprintf(expected, sizeof expected,
                   "%s:4: split 'extra' is not one of train, dev, calibration, test", path);
    assert_string_equal(shard_info(s)->messages[2], expected);
    assert_int_equal(shard_rows(s, SPLIT_TRAIN), 2);
    shard_close(s);

    rule = rule_for(&none, NULL);
    pack_fails(&rule, ERR_ARGUMENT, "no input files");
    flags_list_free(&none);
    rule = rule_for(&none, "/nonexistent.jsonl", NULL);
    pack_fails(&rule, ERR_IO, "/nonexistent.jsonl: cannot open: No such file or directory");
    flags_list_free(&none);
    rule = rule_for(&none, "x.jsonl=1001", NULL);
    pack_fails(&rule, ERR_ARGUMENT, "x.jsonl=1001: found weight 1001, expected more than 0 and at most 1000");
    flags_list_free(&none);
    path = save("empty.jsonl", "\n\n");
    rule = rule_for(&none, path, NULL);
    (void)snprintf(expected, sizeof expected, "%s: no rows", path);
    pack_fails(&rule, ERR_FORMAT, expected);
    rule.max_tokens = 2;
    pack_fails(&rule, ERR_ARGUMENT, "max_length: found 2, expected 3 to 65536");
    flags_list_free(&none);
    ok(file_mkdirs(in_folder("void"), &err), &err);
    rule = rule_for(&none, in_folder("void"), NULL);
    (void)snprintf(expected, sizeof expected, "%s: no *.jsonl, *.jsonl.gz or *.jsonl.zst in this folder",
                   in_folder("void"));
    pack_fails(&rule, ERR_ARGUMENT, expected);
    flags_list_free(&none);
    rule = rule_for(&none, "-", "-", NULL);
    const int saved = dup(STDIN_FILENO);
    assert_non_null(freopen("/dev/null", "r", stdin));
    pack_fails(&rule, ERR_ARGUMENT, "stdin can be read only once");
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
    flags_list_free(&none);

    /* Never over a file that is no shard. */
    path = in_folder("bad.jsonl");
    assert_int_equal(corpus_pack(path, &(CorpusRule){.inputs = inputs, .max_tokens = 8, .near = 0.8},
                                 tokenizer, NULL, &reused, &err),
                     ERR_ARGUMENT);
    (void)snprintf(expected, sizeof expected, "%s: is there already and is no shard: choose another name",
                   path);
    assert_string_equal(err.msg, expected);
    struct stat st;
    assert_true(stat(path, &st) == 0 && st.st_size == sizeof ROWS_TEXT - 1);

    /* Whichever allocation fails: an error, no leak, no file or a whole one (only the sync of the folder
     * comes after the renaming). */
    path = save("two.jsonl", "{\"text\":\"one\",\"label\":\"a\"}\n{\"text\":\"two\",\"label\":\"b\"}\n");
    rule = rule_for(&none, path, NULL);
    for (size_t n = 1;; n++) {
        mem_fail_at(n);
        const ErrCode rc = corpus_pack(in_folder("never.shard"), &rule, tokenizer, NULL, &reused, NULL);
        mem_fail_at(0);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
        if (file_exists(in_folder("never.shard"))) ok(read_whole(in_folder("never.shard"), &err), &err);
        (void)unlink(in_folder("never.shard"));
        assert_true(n < 10000);
    }
    flags_list_free(&none);
    flags_list_free(&inputs);
    flags_list_free(&labels);
}

/* ---- pack ---- */

static void test_pack(void **state) {
    (void)state;
    Buf rows = {0}, out = {0};
    Err err = {0};
    add_rows(&rows, "pack", 300, "");
    buf_puts(&rows, "broken\n");
    const char *data = save_bytes("p.jsonl", rows.data, rows.len);
    const char *model = in_folder("spm.model"), *shard = in_folder("p.shard");
    progress_quiet(true);
    assert_int_equal(run_command(&pack_cmd, &out, &err, ARGS(data, "--model", model, "--out", shard)),
                     ERR_FORMAT);
    char expected[400];
    (void)snprintf(expected, sizeof expected, "%s:301: not valid JSON at line 1, column 1: unexpected text",
                   data);
    assert_string_equal(err.msg, expected);
    ok(run_command(&pack_cmd, &out, &err,
                   ARGS(data, "--model", model, "--out", shard, "--skip-bad", "--max-seq-length", "12")),
       &err);
    assert_non_null(strstr(out.data, "300 rows"));
    assert_non_null(strstr(out.data, "bad rows left out"));
    ok(run_command(&pack_cmd, &out, &err,
                   ARGS(data, "--model", folder, "--out", shard, "--skip-bad", "--max-length=12", "--json",
                        "--threads", "2")),
       &err);
    cJSON *json;
    ok(json_parse(&json, out.data, out.len, &err), &err);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(json, "reused")));
    int64_t skipped = 0, train = 0, test = 0;
    ok(json_get_int(&skipped, json, "skipped", 0, 1000, &err), &err);
    assert_int_equal(skipped, 1);
    ok(json_get_int(&train, cJSON_GetObjectItem(json, "rows"), "train", 0, 1000, &err), &err);
    ok(json_get_int(&test, cJSON_GetObjectItem(json, "rows"), "test", 0, 1000, &err), &err);
    assert_true(train == 240 && test == 30);
    cJSON_Delete(json);
    ok(run_command(&pack_cmd, &out, &err,
                   ARGS(data, "--model", model, "--out", shard, "--skip-bad", "--labels", "coding,math",
                        "--labels", "health")),
       &err);
    Shard *s;
    ok(shard_open(&s, shard, &err), &err);
    assert_string_equal(shard_info(s)->labels[0], "coding");
    assert_string_equal(shard_info(s)->labels[1], "math");
    shard_close(s);
    assert_int_equal(run_command(&pack_cmd, &out, &err, ARGS(data, "--out", shard)), ERR_ARGUMENT);
    assert_string_equal(err.msg, "--model: expected spm.model or a folder that holds it");
    assert_int_equal(
        run_command(&pack_cmd, &out, &err, ARGS(data, "--model", model, "--out", shard, "--labels", "a,,b")),
        ERR_ARGUMENT);
    assert_string_equal(err.msg, "labels: an empty label");
    assert_int_equal(
        run_command(&pack_cmd, &out, &err, ARGS(data, "--model", model, "--out", shard, "--labels", "a,b,a")),
        ERR_ARGUMENT);
    assert_string_equal(err.msg, "labels: 'a' is given twice");
    progress_quiet(false);
    buf_free(&rows);
    buf_free(&out);
}

/* The real corpus, where it is there: every file of it packs, and each batch of an epoch comes. */
static void test_real_corpus(void **state) {
    (void)state;
    const char *corpus = need_shared("corpus/math"), *model = need_shared("deberta-v3-tokenizer");
    Err err = {0};
    Tokenizer *t;
    Threads *threads;
    ok(tokenizer_open(&t, model, &err), &err);
    ok(threads_open(&threads, 0, &err), &err);
    FlagList inputs = {0};
    CorpusRule rule = rule_for(&inputs, corpus, NULL);
    rule.max_tokens = 128;
    bool reused;
    ok(corpus_pack(in_folder("math.shard"), &rule, t, threads, &reused, &err), &err);
    Shard *s;
    Batcher *b;
    ok(shard_open(&s, in_folder("math.shard"), &err), &err);
    assert_int_equal(shard_rows(s, SPLIT_TEST), 4182); /* as its README says */
    assert_int_equal(shard_rows(s, SPLIT_TRAIN) + shard_rows(s, SPLIT_DEV) + shard_rows(s, SPLIT_CALIBRATION),
                     20670);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 32}, &err), &err);
    Epoch e = read_epoch(b, 0, 0, NULL);
    assert_int_equal(e.rows, shard_rows(s, SPLIT_TRAIN));
    epoch_free(&e);
    batch_close(b);
    shard_close(s);
    threads_close(threads);
    tokenizer_close(t);
    flags_list_free(&inputs);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corpus),        cmocka_unit_test(test_corpus_near),
        cmocka_unit_test(test_corpus_inputs), cmocka_unit_test(test_corpus_bad),
        cmocka_unit_test(test_pack),          cmocka_unit_test(test_real_corpus),
    };
    return folder_close(cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer));
}
