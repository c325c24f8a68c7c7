/* tests/test_new_tokens.c - which tokens come with new labels, against a count by hand, and a run that lets them learn
 * faster. tests/test_adamw.c has what a boost does to a step. */
#include "data/shard.h"
#include "tests/unit.h"
#include "train/new_tokens.h"

enum { VOCABULARY = 60, LABELS = 4, LONGEST = 9, ROWS = 400 };

static const char *const NAMES[LABELS] = {"a", "b", "c", "d"};

static Config config_of(TaxonomyLabel labels[LABELS], int revision, const int since[LABELS]) {
    for (int k = 0; k < LABELS; k++) labels[k] = (TaxonomyLabel){.since = since[k]};
    return (Config){.vocab_size = VOCABULARY,
                    .num_labels = LABELS,
                    .taxonomy = {.revision = revision, .count = LABELS, .labels = labels}};
}

typedef struct {
    int32_t ids[ROWS][LONGEST];
    ShardRow rows[ROWS];
    int count;
} Drawn;

static void add_row(Drawn *d, int label, Split split, int tokens) {
    d->rows[d->count] = (ShardRow){.ids = d->ids[d->count],
                                   .tokens = tokens,
                                   .label = label,
                                   .weight = 1,
                                   .split = split,
                                   .line = (uint32_t)d->count + 1,
                                   .text = ""};
    d->count++;
}

static void write_rows(const Drawn *d, const char *path) {
    static const char *const NOTHING[] = {""};
    Err err = {0};
    ShardWriter *w;
    const ShardInfo info = {.tokenizer_digest = "aa",
                            .content_digest = "bb",
                            .max_tokens = LONGEST,
                            .vocabulary = VOCABULARY,
                            .labels = NAMES,
                            .label_count = LABELS,
                            .files = NOTHING,
                            .file_count = 1,
                            .sources = NOTHING,
                            .source_count = 1};
    OK(shard_create(&w, path, &err));
    for (int i = 0; i < d->count; i++) OK(shard_append(w, &d->rows[i], &err));
    OK(shard_finish(w, &info, &err));
}

/* Tokens that are rarer where they are larger, and other ones with each label; first and last ones alike. */
static void draw_rows(Drawn *d) {
    d->count = 0;
    while (d->count < ROWS) {
        const int label = draw(LABELS), tokens = 1 + draw(LONGEST);
        int32_t *ids = d->ids[d->count];
        for (int i = 0; i < tokens; i++)
            ids[i] =
                (int32_t)(i == 0 || i + 1 == tokens ? 1 : 2 + draw(1 + draw(VOCABULARY - 20)) + 6 * label);
        add_row(d, label, draw(4) ? SPLIT_TRAIN : SPLIT_DEV, tokens);
    }
}

static void test_counts(void **state) {
    (void)state;
    static const int SINCE[][LABELS] = {{1, 1, 1, 2}, {1, 1, 3, 3}, {1, 2, 2, 3}};
    static Drawn d;
    Err err = {0};
    const char *path = in_folder("drawn.shard");
    for (int round = 0; round < 30; round++) {
        const int *since = SINCE[round % 3];
        TaxonomyLabel labels[LABELS];
        const Config config = config_of(labels, since[LABELS - 1], since);
        double count[2][VOCABULARY] = {{0}}, all[2] = {0};
        float boost[VOCABULARY];
        int boosted, expected = 0;
        Shard *shard;
        draw_rows(&d);
        write_rows(&d, path);
        for (int i = 0; i < d.count; i++)
            for (int t = 1; t < d.rows[i].tokens - 1 && d.rows[i].split == SPLIT_TRAIN; t++) {
                const int new = since[d.rows[i].label] == since[LABELS - 1];
                count[new][d.ids[i][t]]++;
                all[new]++;
            }
        for (int id = 0; id < VOCABULARY; id++) boost[id] = NAN;
        OK(shard_open(&shard, path, &err));
        OK(new_tokens_boost(boost, &boosted, shard, &config, 2.5, &err));
        for (int id = 0; id < VOCABULARY; id++) {
            const bool new = count[1][id] > 0 && count[1][id] * all[0] >= 4 * count[0][id] * all[1];
            if (boost[id] != (new ? 2.5f : 1.0f))
                fail_msg("token %d: %g; %g of %g new and %g of %g old", id, (double)boost[id], count[1][id],
                         all[1], count[0][id], all[0]);
            expected += new;
        }
        assert_int_equal(boosted, expected);
        assert_in_range(boosted, 1, VOCABULARY - 10);
        assert_true(boost[1] == 1); /* first and last */
        shard_close(shard);
    }
}

static void test_no_new_labels(void **state) {
    (void)state;
    static const int SINCE[][LABELS] = {{1, 1, 1, 1}, {1, 1, 2, 2}};
    static Drawn d;
    Err err = {0};
    Shard *shard;
    float boost[VOCABULARY];
    int boosted;
    draw_rows(&d);
    write_rows(&d, in_folder("none.shard"));
    OK(shard_open(&shard, in_folder("none.shard"), &err));
    for (int i = 0; i < 2; i++) { /* all of one revision; none of the last, which retired something */
        TaxonomyLabel labels[LABELS];
        const Config config = config_of(labels, 1 + 2 * i, SINCE[i]);
        assert_int_equal(new_tokens_boost(boost, &boosted, shard, &config, 5, &err), ERR_ARGUMENT);
        assert_string_equal(err.msg,
                            "new_token_rate: no label of the model is newer than another "
                            "(router_taxonomy): 'router add-domain' makes such a model");
    }
    TaxonomyLabel labels[LABELS];
    const Config config = config_of(labels, 2, SINCE[1]);
    EACH_ALLOCATION_FAILS(20, new_tokens_boost(boost, &boosted, shard, &config, 5, &err));
    shard_close(shard);
}

int main(void) {
    seed_open();
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_no_new_labels)};
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
