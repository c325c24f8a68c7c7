/* tests/test_shard.c - files of tokens, and the batches that are read from them. */
#include "core/file.h"
#include "core/mem.h"
#include "core/rng.h"
#include "data/batch.h"
#include "data/shard.h"
#include "data/split.h"
#include "tests/unit.h"
#include "tests/whole_shard.h"

/* ---- shard ---- */

static const char *const LABEL_NAMES[] = {"math", "health", "\xc3\xa4rger \"x\""};
static const char *const FILE_NAMES[] = {"a.jsonl", "b\xff.jsonl"};
static const char *const SOURCE_NAMES[] = {"", "forum"};
static const char *const MESSAGES[] = {"a.jsonl:3: bad"};

typedef struct {
    ShardRow row;
    int32_t ids[300];
    char text[400];
} Made;

static void make_row(Made *m, uint64_t i, int longest) {
    const uint64_t r = rng_key(seed, "row", i);
    m->row = (ShardRow){.ids = m->ids,
                        .tokens = 1 + (int)(r % (uint64_t)longest),
                        .truncated = r >> 20 & 1,
                        .label = (int)(r >> 21) % 3 < 0 ? 0 : (int)((r >> 21) % 3),
                        .weight = (float)((r >> 24) % 8 + 1) / 4,
                        .split = (Split)((r >> 28) % SPLIT_COUNT),
                        .file = (uint32_t)(r >> 31) % 2,
                        .line = (uint32_t)i + 1,
                        .source = (uint32_t)(r >> 32) % 2,
                        .text = m->text,
                        .text_len = (size_t)(r >> 33) % 60};
    for (int k = 0; k < m->row.tokens; k++) m->ids[k] = (int32_t)(rng_bits(r, (uint64_t)k) % 1000);
    for (size_t k = 0; k < m->row.text_len; k++) m->text[k] = (char)rng_bits(r + 1, k);
}

static ShardInfo make_info(int max_tokens) {
    return (ShardInfo){.tokenizer_digest = "aa",
                       .content_digest = "bb",
                       .max_tokens = max_tokens,
                       .vocabulary = 1000,
                       .labels = LABEL_NAMES,
                       .label_count = 3,
                       .files = FILE_NAMES,
                       .file_count = 2,
                       .sources = SOURCE_NAMES,
                       .source_count = 2,
                       .split = {.given = 1, .duplicates = 2, .crossing = 3, .conflicting = 4},
                       .skipped = 5,
                       .truncated = 6,
                       .messages = MESSAGES,
                       .message_count = 1};
}

/* Rows 0 .. rows-1 of make_row; with `split` below SPLIT_COUNT all of them there. */
static void write_shard(const char *path, uint64_t rows, int longest, Split split, float weight) {
    ShardWriter *w;
    Err err = {0};
    Made made;
    ok(shard_create(&w, path, &err), &err);
    for (uint64_t i = 0; i < rows; i++) {
        make_row(&made, i, longest);
        if (split != SPLIT_COUNT) made.row.split = split;
        if (weight > 0) made.row.weight = weight;
        ok(shard_append(w, &made.row, &err), &err);
    }
    const ShardInfo info = make_info(longest);
    ok(shard_finish(w, &info, &err), &err);
}

static void test_shard(void **state) {
    (void)state;
    const char *path = in_folder("round.shard");
    const uint64_t rows = 30000;
    write_shard(path, rows, 40, SPLIT_COUNT, 0);
    Shard *s;
    Err err = {0};
    ok(shard_open(&s, path, &err), &err);
    const ShardInfo *info = shard_info(s);
    assert_string_equal(info->tokenizer_digest, "aa");
    assert_string_equal(info->content_digest, "bb");
    assert_int_equal(info->max_tokens, 40);
    assert_int_equal(info->vocabulary, 1000);
    assert_int_equal(info->label_count, 3);
    assert_string_equal(info->labels[2], LABEL_NAMES[2]);
    assert_string_equal(info->files[1], "b\xef\xbf\xbd.jsonl");
    assert_string_equal(info->sources[1], "forum");
    assert_string_equal(info->messages[0], MESSAGES[0]);
    assert_true(info->split.given == 1 && info->split.duplicates == 2 && info->split.crossing == 3 &&
                info->split.conflicting == 4 && info->skipped == 5 && info->truncated == 6);
    assert_int_equal(shard_longest(s), 40);
    ShardBlock block = {0};
    uint64_t seen = 0;
    size_t blocks = 0;
    for (Split split = SPLIT_TRAIN; split < SPLIT_COUNT; split++) {
        uint64_t number = 0, next = 0, tokens = 0, by_label[3] = {0};
        for (size_t k = 0; k < shard_blocks(s, split); k++, blocks++) {
            ok(shard_read(s, &block, split, k, true, &err), &err);
            assert_int_equal(block.first, number);
            assert_in_range(block.count, 1, SHARD_BLOCK_ROWS);
            for (size_t i = 0; i < block.count; i++, number++) {
                const ShardRow *got = &block.rows[i];
                Made made;
                do make_row(&made, next++, 40); /* the next one of this split, in the order of appending */
                while (made.row.split != split);
                assert_int_equal(got->tokens, made.row.tokens);
                assert_memory_equal(got->ids, made.ids, 4 * (size_t)got->tokens);
                assert_int_equal(got->text_len, made.row.text_len);
                assert_memory_equal(got->text, made.text, got->text_len);
                assert_true(got->truncated == made.row.truncated && got->label == made.row.label &&
                            got->weight == made.row.weight && got->split == split &&
                            got->file == made.row.file && got->line == made.row.line &&
                            got->source == made.row.source);
                tokens += (uint64_t)got->tokens;
                by_label[got->label]++;
            }
        }
        assert_int_equal(number, shard_rows(s, split));
        assert_int_equal(tokens, shard_tokens(s, split));
        for (int k = 0; k < 3; k++) assert_int_equal(by_label[k], shard_label_rows(s, split, k));
        seen += number;
    }
    assert_int_equal(seen, rows);
    assert_true(blocks >= 8);
    ok(shard_read(s, &block, SPLIT_TRAIN, 0, false, &err), &err);
    assert_null(block.rows[0].text);
    shard_block_free(&block);
    shard_block_free(&block);
    shard_close(s);

    Buf first = {0}, second = {0}; /* the same rows give the same bytes */
    ok(file_read(&first, path, 1 << 26, &err), &err);
    write_shard(path, rows, 40, SPLIT_COUNT, 0);
    ok(file_read(&second, path, 1 << 26, &err), &err);
    assert_int_equal(first.len, second.len);
    assert_memory_equal(first.data, second.data, first.len);
    buf_free(&first);
    buf_free(&second);
}

/* Long rows end a block early: by tokens, and by bytes of text. */
static void test_shard_blocks(void **state) {
    (void)state;
    const char *path = in_folder("long.shard");
    const size_t tokens = SHARD_ROW_TOKENS, bytes = 3 << 20;
    int32_t *ids = mem_alloc(tokens, sizeof *ids);
    char *text = mem_alloc(bytes, 1);
    assert_true(ids && text);
    ShardWriter *w;
    Err err = {0};
    ok(shard_create(&w, path, &err), &err);
    ShardRow row = {.ids = ids, .tokens = (int)tokens, .weight = 1, .text = text};
    for (int i = 0; i < 9; i++) ok(shard_append(w, &row, &err), &err); /* 4 in a block */
    row.tokens = 1;
    row.text_len = bytes;
    row.split = SPLIT_TEST;
    for (int i = 0; i < 3; i++) ok(shard_append(w, &row, &err), &err); /* 1 in a block */
    row.tokens = SHARD_ROW_TOKENS + 1;
    assert_int_equal(shard_append(w, &row, &err), ERR_ARGUMENT);
    const ShardInfo info = make_info(SHARD_ROW_TOKENS);
    ok(shard_finish(w, &info, &err), &err);
    Shard *s;
    ok(shard_open(&s, path, &err), &err);
    assert_int_equal(shard_blocks(s, SPLIT_TRAIN), 3);
    assert_int_equal(shard_blocks(s, SPLIT_TEST), 3);
    ShardBlock block = {0};
    for (size_t i = 0; i < 3; i++) {
        ok(shard_read(s, &block, SPLIT_TRAIN, i, true, &err), &err);
        assert_int_equal(block.count, i < 2 ? 4 : 1);
        ok(shard_read(s, &block, SPLIT_TEST, i, true, &err), &err);
        assert_int_equal(block.rows[0].text_len, bytes);
    }
    shard_block_free(&block);
    shard_close(s);

    static const struct {
        int label, tokens;
        uint32_t file, source;
        int32_t id;
    } ODD[] = {{3, 1, 0, 0, 0}, {0, 6, 0, 0, 0}, {0, 1, 2, 0, 0}, {0, 1, 0, 2, 0}, {0, 1, 0, 0, 1000}};
    for (size_t i = 0; i < sizeof ODD / sizeof *ODD;
         i++) { /* rows that do not fit what shard_finish is told */
        ok(shard_create(&w, path, &err), &err);
        ids[0] = ODD[i].id;
        row = (ShardRow){.ids = ids,
                         .tokens = ODD[i].tokens,
                         .label = ODD[i].label,
                         .weight = 1,
                         .file = ODD[i].file,
                         .source = ODD[i].source,
                         .text = ""};
        ok(shard_append(w, &row, &err), &err);
        const ShardInfo five = make_info(5);
        assert_int_equal(shard_finish(w, &five, &err), ERR_ARGUMENT);
    }
    ok(shard_open(&s, path, &err), &err); /* and the file is still the one from before */
    shard_close(s);
    mem_free(ids);
    mem_free(text);
}

static void test_shard_damaged(void **state) {
    (void)state;
    const char *path = in_folder("small.shard");
    write_shard(path, 12, 9, SPLIT_COUNT, 0);
    Buf bytes = {0};
    Err err = {0};
    ok(file_read(&bytes, path, 1 << 20, &err), &err);
    ok(read_whole(path, &err), &err);
    char start[300];
    (void)snprintf(start, sizeof start, "%s: ", path);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    for (size_t i = 0; i < bytes.len; i++) { /* every byte, with one bit flipped and as another value */
        for (int k = 0; k < 2; k++) {
            const int changed = k ? (bytes.data[i] ^ (1 << pick("bit", i, 8))) & 0xff
                                  : (unsigned char)(bytes.data[i] + 1 + (int)pick("add", i, 255));
            assert_int_equal(fseek(f, (long)i, SEEK_SET), 0);
            assert_true(fputc(changed, f) == changed && fflush(f) == 0);
            const ErrCode rc = read_whole(path, &err);
            if (rc != ERR_FORMAT)
                fail_msg("byte %zu of %zu changed to %d: %d", i, bytes.len, changed, (int)rc);
            assert_memory_equal(err.msg, start, strlen(start));
        }
        assert_int_equal(fseek(f, (long)i, SEEK_SET), 0);
        assert_true(fputc((unsigned char)bytes.data[i], f) != EOF && fflush(f) == 0);
    }
    ok(read_whole(path, &err), &err);
    (void)fclose(f);
    for (size_t n = bytes.len; n-- > 0;) { /* every shorter file, and longer ones */
        assert_int_equal(truncate(path, (off_t)n), 0);
        assert_int_equal(read_whole(path, &err), ERR_FORMAT);
    }
    (void)snprintf(start, sizeof start, "%s: not a shard: it has only 0 bytes", path);
    assert_string_equal(err.msg, start);
    buf_put(&bytes, "x", 1);
    assert_int_equal(read_whole(save_bytes("more.shard", bytes.data, bytes.len), &err), ERR_FORMAT);
    bytes.data[6] = '2';
    path = save_bytes("v2.shard", bytes.data, bytes.len - 1);
    assert_int_equal(read_whole(path, &err), ERR_FORMAT);
    (void)snprintf(start, sizeof start, "%s: shard version '2', expected version 1; pack it again", path);
    assert_string_equal(err.msg, start);
    path = save("text.shard", "{\"text\":1}\n{\"text\":2}\n");
    assert_int_equal(read_whole(path, &err), ERR_FORMAT);
    (void)snprintf(start, sizeof start, "%s: not a shard: it does not begin with RSHARD", path);
    assert_string_equal(err.msg, start);
    buf_free(&bytes);
    const char *good = in_folder("small2.shard");
    write_shard(good, 12, 9, SPLIT_COUNT, 0);
    EACH_ALLOCATION_FAILS(1000, read_whole(good, NULL));
}

/* ---- batch ---- */

static void check_batch(Batcher *b, const Batch *batch) {
    const Packed *p = &batch->packed;
    Made made;
    assert_null(p->seq);
    assert_int_equal(p->start[0], 0);
    assert_int_equal(p->start[p->S], p->N);
    for (int i = 0; i < p->S; i++) {
        const ShardRow *row = &batch->rows[i];
        make_row(&made, row->line - 1, 40);
        assert_int_equal(p->start[i + 1] - p->start[i], made.row.tokens);
        assert_memory_equal(p->ids + p->start[i], made.ids, 4 * (size_t)made.row.tokens);
        assert_ptr_equal(row->ids, p->ids + p->start[i]);
        assert_int_equal(batch->label[i], made.row.label);
        if (row->text) assert_memory_equal(row->text, made.text, made.row.text_len);
        assert_true(i == 0 || row->tokens >= batch->rows[i - 1].tokens);
    }
    assert_int_equal(p->longest, batch->rows[p->S - 1].tokens);
    const int budget = 1 + (int)pick("budget", (uint64_t)p->N, 400);
    for (int from = 0, next; from < p->S; from = next) {
        Packed micro;
        batch_micro(b, batch, from, budget, &micro, &next);
        assert_true(next > from && micro.S == next - from && micro.start[0] == 0 &&
                    micro.start[micro.S] == micro.N);
        assert_true(micro.N <= budget || micro.S == 1);
        assert_true(next == p->S || p->start[next + 1] - p->start[from] > budget); /* as many as fit */
        assert_ptr_equal(micro.ids, p->ids + p->start[from]);
        int longest = 0;
        for (int i = 0; i < micro.S; i++) {
            const int n = micro.start[i + 1] - micro.start[i];
            assert_int_equal(n, p->start[from + i + 1] - p->start[from + i]);
            assert_int_equal(micro.seq[i], from + i);
            if (n > longest) longest = n;
        }
        assert_int_equal(micro.longest, longest);
    }
}

/* Exactly so many rows, one of each stretch; another seed draws others. */
static void check_samples(Shard *s, uint64_t rows) {
    Batcher *b;
    Err err = {0};
    const uint64_t sizes[] = {1, 2, 1 + pick("sample", 0, rows - 1), rows - 1, rows, rows + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const uint64_t m = sizes[i], want = m < rows ? m : rows;
        BatchRule rule = {.split = SPLIT_TRAIN, .batch_rows = 1, .ordered = true, .seed = seed, .sample = m};
        ok(batch_open(&b, s, &rule, &err), &err);
        Epoch taken = read_epoch(b, 0, 0, NULL);
        uint64_t count;
        ok(batch_count(b, 0, &count, &err), &err);
        assert_int_equal(taken.rows, want);
        assert_int_equal(count, want);
        for (uint64_t j = 0; j < want; j++) {
            assert_true(taken.number[j] >= j * rows / want);
            assert_true(taken.number[j] < (j + 1) * rows / want);
        }
        batch_close(b);
        rule.seed++;
        ok(batch_open(&b, s, &rule, &err), &err);
        Epoch other = read_epoch(b, 0, 0, NULL);
        assert_int_equal(other.rows, want);
        if (m > 100 && m < rows - 100)
            assert_true(memcmp(other.number, taken.number, want * sizeof *taken.number) != 0);
        batch_close(b);
        epoch_free(&taken);
        epoch_free(&other);
    }
}

static void test_batch_order(void **state) {
    (void)state;
    const char *path = in_folder("batch.shard");
    const uint64_t rows = 39001; /* more than two windows */
    write_shard(path, rows, 40, SPLIT_TRAIN, 1);
    Shard *s;
    Batcher *b;
    Err err = {0};
    ok(shard_open(&s, path, &err), &err);
    const BatchRule rule = {.split = SPLIT_TRAIN, .batch_rows = 64, .seed = seed, .with_text = true};
    ok(batch_open(&b, s, &rule, &err), &err);
    Epoch first = read_epoch(b, 0, 0, check_batch);
    assert_int_equal(first.rows, rows);
    uint8_t *seen = mem_alloc(rows, 1);
    assert_non_null(seen);
    for (uint64_t i = 0; i < rows; i++) { /* each row once; only the last batch is small */
        assert_true(first.number[i] < rows && !seen[first.number[i]]);
        seen[first.number[i]] = 1;
    }
    for (uint64_t i = 0; i < first.batches; i++)
        assert_int_equal(first.size[i], i + 1 < first.batches ? 64 : rows % 64);
    double distance =
        0; /* neighbours in a batch come from anywhere, though blocks lie together in a window */
    for (uint64_t i = 1; i < rows; i++)
        distance += fabs((double)first.number[i] - (double)first.number[i - 1]);
    assert_true(distance / (double)rows > 2000);

    Epoch again = read_epoch(b, 0, 0, NULL), second = read_epoch(b, 1, 0, NULL);
    assert_memory_equal(first.number, again.number, rows * sizeof *first.number);
    assert_true(memcmp(first.number, second.number, 1000 * sizeof *first.number) != 0);
    epoch_free(&again);
    for (uint64_t i = 0; i < 20; i++) { /* going to a place gives what comes there */
        const uint64_t skip = i == 0   ? 0
                              : i == 1 ? first.batches
                              : i == 2 ? first.batches + 5
                                       : pick("skip", i, first.batches);
        again = read_epoch(b, 0, skip, NULL);
        const uint64_t at = skip * 64 < rows ? skip * 64 : rows;
        assert_int_equal(again.rows, rows - at);
        assert_memory_equal(first.number + at, again.number, again.rows * sizeof *first.number);
        epoch_free(&again);
    }
    batch_close(b);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 64, .seed = seed + 1}, &err), &err);
    again = read_epoch(b, 0, 0, NULL);
    assert_true(memcmp(first.number, again.number, 1000 * sizeof *first.number) != 0);
    epoch_free(&again);
    batch_close(b);

    /* In file order: batches are runs, sorted inside. A steady state allocates nothing. */
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 100, .ordered = true}, &err), &err);
    again = read_epoch(b, 0, 0, check_batch);
    assert_int_equal(again.rows, rows);
    for (uint64_t i = 0; i < rows; i++) assert_int_equal(again.number[i] / 100, i / 100);
    epoch_free(&again);
    ok(batch_seek(b, 0, 0, &err), &err);
    const size_t allocations = mem_count();
    for (Batch batch = {.packed = {.S = 1}}; batch.packed.S;) ok(batch_next(b, &batch, &err), &err);
    assert_int_equal(mem_count(), allocations);
    batch_close(b);
    check_samples(s, rows);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TEST, .batch_rows = 3}, &err),
       &err); /* an empty split */
    Batch none;
    ok(batch_next(b, &none, &err), &err);
    assert_int_equal(none.packed.S, 0);
    batch_close(b);
    assert_int_equal(batch_open(&b, s, &(BatchRule){.batch_rows = 0}, &err), ERR_ARGUMENT);
    assert_string_equal(err.msg, "batch size: found 0, expected 1 to 65536");
    epoch_free(&first);
    epoch_free(&second);
    mem_free(seen);
    shard_close(s);
}

/* Small corpora, batch sizes around them, every position of batch_seek. */
static void test_batch_small(void **state) {
    (void)state;
    const char *path = in_folder("tiny.shard");
    for (uint64_t round = 0; round < 12; round++) {
        const uint64_t rows = 1 + pick("rows", round, 120);
        write_shard(path, rows, 40, SPLIT_DEV, 1);
        Shard *s;
        Batcher *b;
        Err err = {0};
        ok(shard_open(&s, path, &err), &err);
        const int size = 1 + (int)pick("size", round, 50);
        ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_DEV, .batch_rows = size, .seed = round}, &err),
           &err);
        Epoch all = read_epoch(b, 3, 0, check_batch);
        assert_int_equal(all.rows, rows);
        for (uint64_t skip = 0; skip <= all.batches; skip++) {
            Epoch rest = read_epoch(b, 3, skip, NULL);
            assert_int_equal(rest.batches, all.batches - skip);
            assert_memory_equal(rest.number, all.number + (rows - rest.rows), rest.rows * sizeof *all.number);
            epoch_free(&rest);
        }
        epoch_free(&all);
        batch_close(b);
        shard_close(s);
    }
}

static void test_batch_weights(void **state) {
    (void)state;
    const char *path = in_folder("weights.shard");
    const uint64_t rows = 12000; /* weights 0.25 to 2 */
    write_shard(path, rows, 40, SPLIT_TRAIN, 0);
    Shard *s;
    Batcher *b;
    Err err = {0};
    ok(shard_open(&s, path, &err), &err);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 32, .seed = seed}, &err), &err);
    static unsigned visits[12000];
    memset(visits, 0, sizeof visits);
    const int epochs = 8;
    for (int epoch = 0; epoch < epochs; epoch++) {
        Epoch e = read_epoch(b, (uint64_t)epoch, 0, epoch == 0 ? check_batch : NULL);
        unsigned now[12000] = {0};
        for (uint64_t i = 0; i < e.rows; i++) now[e.number[i]]++;
        for (uint64_t i = 0; i < rows; i++) {
            Made made;
            make_row(&made, i, 40);
            const unsigned whole = (unsigned)made.row.weight;
            assert_in_range(now[i], whole, whole + (made.row.weight > (float)whole));
            visits[i] += now[i];
        }
        epoch_free(&e);
    }
    double expected = 0, got = 0;
    for (uint64_t i = 0; i < rows; i++) {
        Made made;
        make_row(&made, i, 40);
        expected += (double)made.row.weight * epochs;
        got += visits[i];
    }
    /* Each fractional visit has a variance below 1/4: 6 standard errors. */
    assert_true(fabs(got - expected) < 6 * sqrt(0.25 * (double)rows * epochs));
    batch_close(b);
    shard_close(s);
    write_shard(path, 70, 40, SPLIT_TRAIN, 1000); /* more visits than rows by far, over several windows */
    ok(shard_open(&s, path, &err), &err);
    ok(batch_open(&b, s, &(BatchRule){.split = SPLIT_TRAIN, .batch_rows = 77, .with_text = true}, &err),
       &err);
    Epoch e = read_epoch(b, 0, 0, check_batch);
    assert_int_equal(e.rows, 70000);
    unsigned count[70] = {0};
    for (uint64_t i = 0; i < e.rows; i++) count[e.number[i]]++;
    for (int i = 0; i < 70; i++) assert_int_equal(count[i], 1000);
    epoch_free(&e);
    batch_close(b);
    shard_close(s);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shard),         cmocka_unit_test(test_shard_blocks),
        cmocka_unit_test(test_shard_damaged), cmocka_unit_test(test_batch_order),
        cmocka_unit_test(test_batch_small),   cmocka_unit_test(test_batch_weights),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
