/* tests/test_check.c - the audit of a corpus: overlaps, n-grams, suspects, reports, and planted faults. */
#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/check_cmd.h"
#include "data/doctor.h"
#include "data/overlap.h"
#include "data/scan.h"
#include "data/words.h"
#include "tests/tiny_spm.h"
#include "tests/unit.h"

/* ---- a corpus with planted faults ---- */

enum { FILES = 2, LINES_EACH = 400, LABELS = 3 };
static const char *const LABEL[LABELS] = {"alpha", "beta", "gamma ray"};

typedef struct {
    char *text[FILES][LINES_EACH + 1]; /* by line, from 1 */
    char *raw[FILES][LINES_EACH + 1];  /* instead of a row */
    int label[FILES][LINES_EACH + 1];
    const char *split[FILES][LINES_EACH + 1];
} Corpus;

static Corpus corpus;

/* A word of four syllables that depends on (where, i). */
static void put_word(Buf *out, const char *where, uint64_t i) {
    static const char VOWELS[] = "aeiou", OTHERS[] = "bdfgklmnprstvz";
    const uint64_t key = rng_key(11, where, i);
    for (unsigned s = 0; s < 4; s++) {
        const char two[2] = {OTHERS[rng_bits(key, 2 * s) % 14], VOWELS[rng_bits(key, 2 * s + 1) % 5]};
        buf_put(out, two, 2);
    }
}

/* `count` words, of which every second one is of the label's own 60. */
static char *sentence(int label, uint64_t number, unsigned count) {
    Buf out = {0};
    for (unsigned i = 0; i < count; i++) {
        if (i) buf_puts(&out, " ");
        const uint64_t r = rng_bits(rng_key(5, "sentence", number), i);
        if (i % 2)
            put_word(&out, LABEL[label], r % 60);
        else
            put_word(&out, "common", r % 3000);
    }
    assert_int_equal(buf_ok(&out, NULL), ERR_OK);
    return out.data;
}

static char *changed(const char *text, const char *head, const char *tail) {
    Buf out = {0};
    buf_printf(&out, "%s%s%s", head, text, tail);
    assert_int_equal(buf_ok(&out, NULL), ERR_OK);
    return out.data;
}

static void set_text(int file, int line, char *text) {
    mem_free(corpus.text[file][line]);
    corpus.text[file][line] = text;
}

static void set_raw(int file, int line, const char *raw) {
    corpus.raw[file][line] = mem_strdup(raw);
}

static void save_corpus(void) {
    static const char *const NAMES[FILES] = {"a.jsonl", "b.jsonl"};
    for (int f = 0; f < FILES; f++) {
        Buf out = {0};
        for (int l = 1; l <= LINES_EACH; l++) {
            if (corpus.raw[f][l]) {
                buf_printf(&out, "%s\n", corpus.raw[f][l]);
                continue;
            }
            buf_puts(&out, "{\"text\":");
            text_put_json(&out, corpus.text[f][l], strlen(corpus.text[f][l]));
            buf_printf(&out, ",\"label\":\"%s\",\"split\":\"%s\",\"id\":\"%d-%d\"}\n",
                       LABEL[corpus.label[f][l]], corpus.split[f][l], f, l);
        }
        assert_int_equal(buf_ok(&out, NULL), ERR_OK);
        assert_int_equal(file_save(in_folder("%s", NAMES[f]), out.data, out.len, NULL), ERR_OK);
        buf_free(&out);
    }
}

/* What every kind of finding is expected to be. */
typedef struct {
    DoctorKind kind;
    int file, line, other_file, other_line; /* other_line 0: none */
} Planted;

static const Planted PLANTED[] = {
    {DOCTOR_BAD, 0, 5, 0, 0},
    {DOCTOR_BAD, 0, 9, 0, 0},
    {DOCTOR_BAD, 0, 12, 0, 0},
    {DOCTOR_BAD, 1, 400, 0, 0},
    {DOCTOR_DEFECT + 0, 0, 20, 0, 0},
    {DOCTOR_DEFECT + 1, 0, 22, 0, 0},
    {DOCTOR_DEFECT + 2, 0, 24, 0, 0},
    {DOCTOR_DEFECT + 3, 0, 26, 0, 0},
    {DOCTOR_DEFECT + 4, 0, 28, 0, 0},
    {DOCTOR_DEFECT + 5, 0, 30, 0, 0},
    {DOCTOR_SPLIT, 0, 32, 0, 0},
    {DOCTOR_EXACT, 0, 41, 0, 40},
    {DOCTOR_EXACT, 1, 7, 0, 50},
    {DOCTOR_EXACT, 1, 9, 0, 52},
    {DOCTOR_EXACT, 1, 13, 0, 56},
    {DOCTOR_NEAR, 0, 74, 0, 73},
    {DOCTOR_NEAR, 1, 11, 0, 54},
    {DOCTOR_NEAR, 1, 15, 0, 58},
    {DOCTOR_NEAR, 1, 16, 0, 59},
    {DOCTOR_CROSSING, 1, 9, 0, 52},
    {DOCTOR_CROSSING, 1, 16, 0, 59},
    {DOCTOR_CONFLICT, 1, 13, 0, 56},
    {DOCTOR_NEAR_CONFLICT, 1, 15, 0, 58},
    {DOCTOR_OVERLAP, 1, 17, 0, 2},
    {DOCTOR_OVERLAP, 1, 19, 0, 3},
    {DOCTOR_OVERLAP, 1, 21, 0, 4},
};
enum { PLANTED_COUNT = sizeof PLANTED / sizeof *PLANTED, FLIPS = 12 };
/* Rows with another label than their words tell. */
static const int FLIPPED[FLIPS][2] = {{0, 101}, {0, 131}, {0, 166}, {0, 202}, {0, 243}, {0, 301},
                                      {1, 101}, {1, 140}, {1, 177}, {1, 223}, {1, 264}, {1, 391}};

static void plant(void) {
    for (int f = 0; f < FILES; f++) {
        for (int l = 1; l <= LINES_EACH; l++) {
            const int label = l % LABELS;
            corpus.label[f][l] = label;
            corpus.split[f][l] = "train";
            char *text = sentence(label, (uint64_t)(f * LINES_EACH + l), 20);
            /* what gives labels away: a word in two of five rows of alpha, a template in half of beta's, gamma's name */
            const char *head = label == 1 && l / 3 % 2 ? "please answer this now " : "";
            const char *tail = label == 0 && l / 3 % 5 < 2     ? " zyxxqq"
                               : label == 2 && l / 3 % 10 == 0 ? " Gamma-RAY"
                                                               : "";
            corpus.text[f][l] = changed(text, head, tail);
            mem_free(text);
        }
    }
    set_raw(0, 5, "not json");
    set_raw(0, 9, "{\"text\":\" \",\"label\":\"alpha\"}");
    set_raw(0, 12, "{\"text\":\"no label here\"}");
    set_raw(1, 400, "{\"text\":\"cut off\",\"lab");
    set_raw(0, 20, "{\"text\":\"a nul \\u0000 inside of this one\",\"label\":\"alpha\"}");
    set_raw(0, 22, "{\"text\":\"a bell \\u0007 rings in here\",\"label\":\"beta\"}");
    set_raw(0, 24, "{\"text\":\"damaged by a wrong enc\\ufffdding somewhere\",\"label\":\"gamma ray\"}");
    set_text(0, 26,
             mem_strdup("aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQgYW5kIGl0IGlzIGxvbmcgZW5vdWdoIGZvciB1cw=="));
    set_raw(0, 28, "{\"text\":\"!? ... --\",\"label\":\"beta\"}");
    set_text(0, 30, sentence(0, 100030, 300));
    corpus.split[0][32] = "tset";
    set_text(0, 41, changed(corpus.text[0][40], "", "!"));
    corpus.label[0][41] = corpus.label[0][40];
    set_text(1, 7, changed(corpus.text[0][50], "", ""));
    corpus.label[1][7] = corpus.label[0][50];
    set_text(1, 9, changed(corpus.text[0][52], " ", ""));
    corpus.label[1][9] = corpus.label[0][52];
    corpus.split[1][9] = "test";
    const int near[4][4] = {{0, 54, 1, 11}, {0, 58, 1, 15}, {0, 59, 1, 16}, {0, 73, 0, 74}};
    for (int i = 0; i < 4; i++) {
        const int *n = near[i];
        set_text(n[0], n[1], sentence(corpus.label[n[0]][n[1]], (uint64_t)(90000 + i), 80));
        set_text(n[2], n[3], changed(corpus.text[n[0]][n[1]], "", " otherend"));
        corpus.label[n[2]][n[3]] = corpus.label[n[0]][n[1]];
    }
    corpus.label[1][15] = (corpus.label[0][58] + 1) % LABELS;
    corpus.split[1][16] = "dev";
    set_text(1, 13, changed(corpus.text[0][56], "", ""));
    corpus.label[1][13] = (corpus.label[0][56] + 1) % LABELS;
    set_text(0, 70, mem_strdup("\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c"));
    set_text(0, 71, mem_strdup("Wie hoch ist der Berg, und wo ist das Haus?"));
    for (int i = 0; i < FLIPS; i++) corpus.label[FLIPPED[i][0]][FLIPPED[i][1]] = (FLIPPED[i][1] + 1) % LABELS;
}

/* Benchmark rows, and rows of the corpus that are in them. */
static void plant_benchmark(void) {
    char *line[5] = {NULL, sentence(0, 70001, 30), sentence(1, 70002, 40), sentence(2, 70003, 80),
                     mem_strdup("Evaluate the log of 8")};
    Words words = {.text = line[2], .n = strlen(line[2])};
    Word word, first = {0}, last = {0};
    for (int i = 0; i < 10 + OVERLAP_WORDS && words_next(&words, &word); i++) {
        if (i == 10) first = word;
        last = word;
    }
    char *part = mem_strndup(line[2] + first.from, last.to - first.from);
    char *tail = sentence(corpus.label[1][17], 70017, 40), *head = sentence(corpus.label[1][17], 70018, 20);
    Buf text = {0};
    buf_printf(&text, "%s, %s? %s", head, part, tail);
    set_text(1, 17, text.data);
    set_text(1, 19, changed(line[3], "", " otherend"));
    set_text(1, 21, mem_strdup("evaluate: the LOG of 8"));
    Buf out = {0};
    for (int i = 1; i <= 4; i++) {
        buf_puts(&out, "{\"question\":");
        text_put_json(&out, line[i], strlen(line[i]));
        buf_puts(&out, "}\n");
        mem_free(line[i]);
    }
    mem_free(part);
    mem_free(head);
    mem_free(tail);
    assert_int_equal(file_save(in_folder("bench.jsonl"), out.data, out.len, NULL), ERR_OK);
    buf_free(&out);
}

static int setup(void **state) {
    (void)state;
    progress_quiet(true);
    plant();
    plant_benchmark();
    save_corpus();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int f = 0; f < FILES; f++) {
        for (int l = 1; l <= LINES_EACH; l++) {
            mem_free(corpus.text[f][l]);
            mem_free(corpus.raw[f][l]);
        }
    }
    return 0;
}

typedef struct {
    Inputs inputs, against;
    Threads *threads;
    DoctorRule rule;
    Doctor *doctor;
} Check;

static void check_open(Check *c, int threads) {
    Err err = {0};
    *c = (Check){0};
    ok(inputs_add(&c->inputs, in_folder("a.jsonl"), 1, "spool", &err), &err);
    ok(inputs_add(&c->inputs, in_folder("b.jsonl"), 1, "spool", &err), &err);
    ok(inputs_add(&c->against, in_folder("bench.jsonl"), 1, "spool", &err), &err);
    ok(threads_open(&c->threads, threads, &err), &err);
    c->rule = (DoctorRule){.inputs = &c->inputs,
                           .against = &c->against,
                           .threshold = 0.8,
                           .characters_max = 2000,
                           .list = 100,
                           .sample_rows = 100000,
                           .suspects = true,
                           .seed = 42,
                           .threads = c->threads};
}

static void check_run(Check *c) {
    Err err = {0};
    ok(doctor_run(&c->doctor, &c->rule, &err), &err);
}

static void check_close(Check *c) {
    doctor_free(c->doctor);
    threads_close(c->threads);
    inputs_close(&c->inputs);
    inputs_close(&c->against);
}

static bool is_found(const Doctor *d, const Planted *p) {
    const DoctorFindings *found = &d->found[p->kind];
    for (size_t i = 0; i < found->listed_count; i++) {
        const DoctorFinding *f = &found->listed[i];
        if (f->place.file == (uint32_t)p->file && f->place.line == (uint64_t)p->line &&
            f->other.line == (uint64_t)p->other_line &&
            (!p->other_line || f->other.file == (uint32_t)p->other_file))
            return f->text && f->text[0];
    }
    return false;
}

/* Each planted fault is found where it is, and nothing else. */
static void test_planted(void **state) {
    (void)state;
    Check c;
    check_open(&c, 2);
    check_run(&c);
    const Doctor *d = c.doctor;
    assert_int_equal(d->row_count, FILES * LINES_EACH - 4);
    assert_int_equal(d->labels.count, LABELS);
    uint64_t expected[DOCTOR_KINDS] = {0};
    for (int i = 0; i < PLANTED_COUNT; i++) {
        const Planted *p = &PLANTED[i];
        expected[p->kind]++;
        if (!is_found(d, p))
            fail_msg("not found: %s at %d:%d, other %d:%d", doctor_kind_name(p->kind), p->file, p->line,
                     p->other_file, p->other_line);
    }
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        if (d->found[k].count != expected[k])
            fail_msg("%s: found %llu, planted %llu", doctor_kind_name(k),
                     (unsigned long long)d->found[k].count, (unsigned long long)expected[k]);
        assert_int_equal(d->found[k].listed_count, expected[k]);
    }
    assert_string_equal(d->found[DOCTOR_BAD].listed[0].text,
                        "not valid JSON at line 1, column 1: unexpected text");
    assert_string_equal(d->found[DOCTOR_SPLIT].listed[0].text, "tset");
    assert_int_equal(d->exact.within_file, 1);
    assert_int_equal(d->exact.across_files, 2);
    assert_int_equal(d->exact.across_splits, 1);
    assert_int_equal(d->near.within_file, 1);
    assert_int_equal(d->near.across_files, 2);
    assert_int_equal(d->near.across_splits, 1);
    const DoctorFinding *words = &d->found[DOCTOR_OVERLAP].listed[0];
    assert_true(words[0].shares_words && !words[1].shares_words && words[1].similarity >= 0.8);
    assert_true(words[2].similarity >= 1);
    assert_int_equal(d->all.script[SCRIPT_HAN], 1);
    assert_int_equal(d->all.language[LANGUAGE_CHINESE], 1);
    assert_int_equal(d->all.language[LANGUAGE_GERMAN], 1);
    assert_int_equal(d->all.script[SCRIPT_NONE], 1);
    check_close(&c);
}

/* Balance, lengths and cuts, against a count of the rows one by one. */
static void test_counts(void **state) {
    (void)state;
    Check c;
    check_open(&c, 1);
    c.rule.suspects = false;
    c.rule.list = 1;
    check_run(&c);
    const Doctor *d = c.doctor;
    uint64_t rows[LABELS] = {0}, sum = 0, longer = 0, lost = 0, splits[SPLIT_COUNT + 1] = {0}, bins = 0;
    for (uint32_t i = 0; i < d->row_count; i++) {
        const DoctorRow *r = &d->rows[i];
        rows[r->label]++;
        splits[r->split]++;
        sum += r->length;
        longer += r->length > 64;
        lost += r->length > 64 ? r->length - 64 : 0;
        if (!corpus.raw[r->file][r->line]) {
            Words w = {.text = corpus.text[r->file][r->line], .n = strlen(corpus.text[r->file][r->line])};
            Word word;
            uint32_t n = 0;
            while (words_next(&w, &word)) n++;
            assert_int_equal(r->length, n);
            assert_string_equal(d->labels.items[r->label], LABEL[corpus.label[r->file][r->line]]);
        }
    }
    assert_int_equal(d->all.lengths.rows, d->row_count);
    assert_int_equal(d->all.lengths.sum, sum);
    assert_int_equal(d->all.lengths.cut_rows[0], longer);
    assert_int_equal(d->all.lengths.cut_sum[0], lost);
    assert_int_equal(d->all.lengths.max, 300);
    assert_int_equal(d->all.lengths.p50, 20);
    for (int k = 0; k < LABELS; k++) assert_int_equal(d->label[k].lengths.rows, rows[k]);
    for (int s = 0; s <= SPLIT_COUNT; s++) assert_int_equal(d->all.split[s], splits[s]);
    assert_int_equal(splits[SPLIT_TEST], 1);
    for (int b = 0; b < DOCTOR_BINS; b++) bins += d->histogram[b];
    assert_int_equal(bins, d->row_count);
    assert_int_equal(d->file_rows[0] + d->file_rows[1], d->row_count);
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++)
        assert_int_equal(d->found[k].listed_count, d->found[k].count ? 1 : 0);
    assert_null(d->suspects);
    assert_string_equal(d->suspects_why, "switched off");
    check_close(&c);
}

static const LeakGram *gram(const Doctor *d, int label, const char *text, size_t *rank) {
    size_t n;
    const LeakGram *grams = leak_of(d->leak, label, &n);
    for (*rank = 0; *rank < n; ++*rank)
        if (strcmp(grams[*rank].text, text) == 0) return &grams[*rank];
    fail_msg("%s is not among the n-grams of %s", text, d->labels.items[label]);
    return NULL;
}

/* Rows of a label whose text holds something, and of all: what the exact counts have to be. */
static void count_rows(const Doctor *d, int label, const char *part, uint64_t *own, uint64_t *all) {
    *own = *all = 0;
    for (uint32_t i = 0; i < d->row_count; i++) {
        const DoctorRow *r = &d->rows[i];
        if (corpus.raw[r->file][r->line] || !strstr(corpus.text[r->file][r->line], part)) continue;
        ++*all;
        *own += r->label == label;
    }
}

static void test_leaks(void **state) {
    (void)state;
    Check c;
    check_open(&c, 2);
    c.rule.suspects = false;
    check_run(&c);
    const Doctor *d = c.doctor;
    size_t rank;
    uint64_t own, all;
    const int alpha = (int)names_find(&d->labels, "alpha"), beta = (int)names_find(&d->labels, "beta"),
              gamma = (int)names_find(&d->labels, "gamma ray");
    const LeakGram *word = gram(d, alpha, "zyxxqq", &rank);
    count_rows(d, alpha, "zyxxqq", &own, &all);
    assert_true(rank == 0 && word->kind == LEAK_WORD && word->rows == all && word->rows_own == own &&
                own > 90);
    assert_true(word->precision > 0.95 && word->share > 0.3);
    const LeakGram *start = gram(d, beta, "please answer this now", &rank);
    count_rows(d, beta, "please answer this now", &own, &all);
    assert_true(rank < 8 && start->kind == LEAK_START && start->rows == all && start->rows_own == own &&
                own > 110);
    const LeakGram *pair = gram(d, beta, "answer this", &rank);
    assert_true(rank < 8 && pair->kind == LEAK_PAIR && pair->rows == all);
    const LeakGram name = leak_name(d->leak, gamma);
    count_rows(d, gamma, "Gamma-RAY", &own, &all);
    assert_true(name.rows == all && name.rows_own == own && own >= 20);
    assert_string_equal(name.text, "gamma ray");
    assert_int_equal(leak_name(d->leak, alpha).rows, 0);
    DoctorLimit limits[DOCTOR_LIMITS];
    assert_true(doctor_limits(d, limits) > 0);
    bool given_away = false;
    for (int i = 0; i < DOCTOR_LIMITS; i++)
        given_away = given_away || (strstr(limits[i].what, "give a label away") && limits[i].over);
    assert_true(given_away);
    check_close(&c);
}

/* All flipped labels are at the top of the list, with the true label suggested. */
static void test_suspects(void **state) {
    (void)state;
    Check c;
    check_open(&c, 2);
    check_run(&c);
    const Doctor *d = c.doctor;
    size_t n;
    const Suspect *s = suspects_all(d->suspects, &n);
    assert_int_equal(suspects_judged(d->suspects), d->row_count);
    for (int i = 0; i < FLIPS; i++) {
        size_t rank = 0;
        while (rank < n && (d->rows[s[rank].row].file != (uint32_t)FLIPPED[i][0] ||
                            d->rows[s[rank].row].line != (uint64_t)FLIPPED[i][1]))
            rank++;
        if (rank >= 2 * FLIPS)
            fail_msg("row %d:%d has rank %zu of %zu", FLIPPED[i][0], FLIPPED[i][1], rank, n);
        assert_string_equal(d->labels.items[s[rank].suggested], LABEL[FLIPPED[i][1] % LABELS]);
        char id[32];
        (void)snprintf(id, sizeof id, "%d-%d", FLIPPED[i][0], FLIPPED[i][1]);
        assert_int_equal(s[rank].id_len, strlen(id));
        assert_memory_equal(suspects_text(d->suspects, &s[rank]) + s[rank].text_len, id, strlen(id));
    }
    uint64_t off = 0;
    for (int i = 0; i < LABELS * LABELS; i++)
        if (i / LABELS != i % LABELS) off += suspects_joint(d->suspects)[i];
    assert_int_equal(off, suspects_confident(d->suspects));
    check_close(&c);
}

/* ---- reports ---- */

static void put_json(Buf *out, int threads, size_t sample) {
    Check c;
    check_open(&c, threads);
    c.rule.sample_rows = sample;
    check_run(&c);
    doctor_put_json(out, c.doctor);
    check_close(&c);
}

static void test_json(void **state) {
    (void)state;
    Buf one = {0}, three = {0}, sampled = {0};
    put_json(&one, 1, 100000);
    put_json(&three, 3, 100000);
    assert_string_equal(one.data, three.data);
    put_json(&sampled, 2, 300);
    assert_string_not_equal(one.data, sampled.data);
    cJSON *tree;
    Err err = {0};
    ok(json_parse(&tree, one.data, one.len, &err), &err);
    const cJSON *found = cJSON_GetObjectItem(tree, "findings");
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        const cJSON *kind = cJSON_GetObjectItem(found, doctor_kind_key(k));
        assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(kind, "first")),
                         cJSON_GetObjectItem(kind, "count")->valueint);
    }
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(tree, "labels")), LABELS);
    cJSON_Delete(tree);
    buf_free(&one);
    buf_free(&three);
    buf_free(&sampled);
}

static void test_command(void **state) {
    (void)state;
    Buf out = {0}, page = {0};
    Err err = {0};
    const char *a = in_folder("a.jsonl"), *b = in_folder("b.jsonl"), *bench = in_folder("bench.jsonl");
    const char *suspects = in_folder("suspects.jsonl"), *report = in_folder("report.html");
    ok(run_command(&check_cmd, &out, &err,
                   ARGS(a, b, "--against", bench, "--suspects", suspects, "--report", report)),
       &err);
    static const char *const LINES[] = {
        "796 rows in 2 files, 3 labels; 4 bad lines",
        "a.jsonl:5: not valid JSON at line 1, column 1: unexpected text",
        "a.jsonl:9: text: the text is empty",
        "repeat the text of an earlier row",
        "of these 1 within a file, 2 across files, 1 across splits",
        "(13 words)",
        "zyxxqq",
        "Labels that are probably wrong",
        "bad lines (limit 0)",
    };
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++)
        if (!strstr(out.data, LINES[i])) fail_msg("'%s' is not in the report", LINES[i]);
    Lines *lines;
    ok(lines_open(&lines, suspects, &err), &err);
    size_t count = 0;
    for (;;) {
        const char *line;
        size_t n;
        bool more;
        ok(lines_next(lines, &line, &n, &more, &err), &err);
        if (!more) break;
        cJSON *row;
        ok(json_parse(&row, line, n, &err), &err);
        assert_int_equal(cJSON_GetObjectItem(row, "rank")->valueint, ++count);
        static const char *const KEYS[] = {"file",    "line",        "label",     "suggested",
                                           "p_label", "p_suggested", "confident", "text"};
        for (int k = 0; k < 8; k++) assert_non_null(cJSON_GetObjectItem(row, KEYS[k]));
        cJSON_Delete(row);
    }
    lines_close(lines);
    assert_true(count >= FLIPS);
    ok(file_read(&page, report, 1 << 24, &err), &err);
    assert_non_null(strstr(page.data, "<svg"));
    assert_null(strstr(page.data, "<script"));
    assert_null(strstr(page.data, "http://"));
    assert_non_null(strstr(page.data, "zyxxqq"));
    assert_int_equal(run_command(&check_cmd, &out, &err, ARGS(a, b, "--no-suspects", "--strict", "--json")),
                     ERR_GATE);
    assert_non_null(strstr(err.msg, "limits exceeded, the first: 4 bad lines (limit 0)"));
    cJSON *tree;
    ok(json_parse(&tree, out.data, out.len, &err), &err);
    cJSON_Delete(tree);
    assert_int_equal(run_command(&check_cmd, &out, &err, ARGS(a, b, "--no-suspects", "--suspects", suspects)),
                     ERR_ARGUMENT);
    buf_free(&out);
    buf_free(&page);
}

/* Lengths in tokens: each is what the tokenizer says. */
static void test_tokens(void **state) {
    (void)state;
    Buf model = {0};
    Tokenizer *tokenizer;
    Err err = {0};
    tiny_spm(&model, &(TinySpm){0});
    ok(tokenizer_open_bytes(&tokenizer, model.data, model.len, &err), &err);
    Check c;
    check_open(&c, 2);
    c.rule.suspects = false;
    c.rule.tokenizer = tokenizer;
    check_run(&c);
    for (uint32_t i = 0; i < c.doctor->row_count; i++) {
        const DoctorRow *r = &c.doctor->rows[i];
        if (corpus.raw[r->file][r->line]) continue;
        Buf ids = {0};
        size_t whole;
        const char *text = corpus.text[r->file][r->line];
        ok(tokenizer_encode(tokenizer, &(TokenizerRule){.plain = true}, text, strlen(text), &ids, &whole,
                            &err),
           &err);
        assert_int_equal(r->length, whole);
        buf_free(&ids);
    }
    check_close(&c);
    tokenizer_close(tokenizer);
    buf_free(&model);
}

/* ---- odd corpora, and no memory ---- */

static Doctor *run_on(const char *text, Inputs *inputs, DoctorRule *rule) {
    Doctor *d;
    Err err = {0};
    *inputs = (Inputs){0};
    const char *path = in_folder("odd.jsonl");
    ok(file_save(path, text, strlen(text), &err), &err);
    ok(inputs_add(inputs, path, 1, "spool", &err), &err);
    *rule = (DoctorRule){.inputs = inputs,
                         .threshold = 0.8,
                         .characters_max = 100,
                         .list = 3,
                         .sample_rows = 1000,
                         .suspects = true};
    ok(doctor_run(&d, rule, &err), &err);
    Buf out = {0};
    doctor_put_text(&out, d);
    doctor_put_json(&out, d);
    doctor_put_html(&out, d);
    ok(buf_ok(&out, &err), &err);
    buf_free(&out);
    return d;
}

static void test_odd(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t rows;
        size_t labels;
        uint64_t bad;
    } CASES[] = {
        {"", 0, 0, 0},
        {"\n\n", 0, 0, 0},
        {"x\ny\n", 0, 0, 2},
        {"{\"text\":\"a\",\"label\":\"x\"}", 1, 1, 0},
        {"{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"a\",\"label\":\"X\"}\n", 2, 2, 0},
        {"{\"text\":\"+\",\"label\":\"+\"}\n\n{\"text\":\"-\",\"label\":\"-\"}\nbad\n", 2, 2, 1},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Inputs inputs;
        DoctorRule rule;
        Doctor *d = run_on(CASES[i].text, &inputs, &rule);
        assert_int_equal(d->row_count, CASES[i].rows);
        assert_int_equal(d->labels.count, CASES[i].labels);
        assert_int_equal(d->found[DOCTOR_BAD].count, CASES[i].bad);
        assert_true((d->leak != NULL) == (CASES[i].labels > 1));
        doctor_free(d);
        inputs_close(&inputs);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    Check c;
    check_open(&c, 1);
    Buf rows = {0};
    for (int i = 0; i < 60; i++)
        buf_printf(&rows, "{\"text\":\"row %d of %s words\",\"label\":\"%s\"}\n", i / 2,
                   i % 2 ? "some" : "many", i % 2 ? "p" : "q");
    assert_int_equal(file_save(in_folder("odd.jsonl"), rows.data, rows.len, NULL), ERR_OK);
    buf_free(&rows);
    Inputs inputs = {0};
    assert_int_equal(inputs_add(&inputs, in_folder("odd.jsonl"), 1, "spool", NULL), ERR_OK);
    c.rule.inputs = &inputs;
    c.rule.threads = NULL;
    for (size_t n = 1;; n += 1 + n / 40) {
        Buf text = {0};
        Doctor *d = NULL;
        mem_fail_at(n);
        ErrCode rc = doctor_run(&d, &c.rule, NULL);
        if (rc == ERR_OK) {
            doctor_put_text(&text, d);
            doctor_put_json(&text, d);
            doctor_put_html(&text, d);
            rc = buf_ok(&text, NULL);
        }
        mem_fail_at(0);
        buf_free(&text);
        doctor_free(d);
        if (rc == ERR_OK) break;
        assert_int_equal(rc, ERR_MEMORY);
        assert_true(n < 100000);
    }
    inputs_close(&inputs);
    check_close(&c);
}

static void test_against(void **state) {
    (void)state;
    Check c;
    Err err = {0};
    check_open(&c, 1);
    assert_int_equal(file_save(in_folder("bench2.jsonl"), "{\"text\":\"a\"}\n[1]\n", 17, NULL), ERR_OK);
    ok(inputs_add(&c.against, in_folder("bench2.jsonl"), 1, "spool", &err), &err);
    assert_int_equal(doctor_run(&c.doctor, &c.rule, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "bench2.jsonl:2: found an array"));
    check_close(&c);
}

/* ---- real prompts ---- */

enum { REAL_EVERY = 16, REAL_MAX = 12000 };

typedef struct {
    Buf out;
    uint64_t rows;
    uint8_t flipped[REAL_MAX];
} Real;

/* Every sixteenth row of the corpus; one label in twenty is another one. */
static ErrCode take_real(void *arg, const ScanRow *row, const void *slot, Err *err) {
    (void)slot;
    static const char *const DOMAINS[] = {"math", "health", "science", "coding", "other"};
    Real *real = arg;
    if (!row->record) return err_set(err, ERR_FORMAT, "a bad row");
    if (row->number % REAL_EVERY || real->rows == REAL_MAX) return ERR_OK;
    const uint64_t key = rng_key(3, "flip", row->number);
    const char *label = row->record->label;
    size_t k = 0;
    while (strcmp(DOMAINS[k], label) != 0) k++;
    real->flipped[real->rows] = rng_uniform(key, 0) < 0.05;
    if (real->flipped[real->rows]) label = DOMAINS[(k + 1 + rng_bits(key, 1) % 4) % 5];
    real->rows++;
    buf_puts(&real->out, "{\"text\":");
    text_put_json(&real->out, row->record->text, row->record->text_len);
    buf_printf(&real->out, ",\"label\":\"%s\"}\n", label);
    return buf_ok(&real->out, err);
}

static void test_real_flips(void **state) {
    (void)state;
    static const char *const DOMAINS[] = {"corpus/math", "corpus/health", "corpus/science", "corpus/coding",
                                          "corpus/other"};
    Inputs inputs = {0}, all = {0};
    Err err = {0};
    for (int i = 0; i < 5; i++) (void)need_shared(DOMAINS[i]);
    for (int i = 0; i < 5; i++) ok(inputs_add(&all, shared(DOMAINS[i]), 1, "spool", &err), &err);
    Real *real = mem_alloc(1, sizeof *real);
    Threads *threads;
    ok(threads_open(&threads, 2, &err), &err);
    ok(scan_rows(&(Scan){.inputs = &all, .take = take_real, .arg = real, .threads = threads}, &err), &err);
    ok(file_save(in_folder("real.jsonl"), real->out.data, real->out.len, &err), &err);
    ok(inputs_add(&inputs, in_folder("real.jsonl"), 1, "spool", &err), &err);
    const DoctorRule rule = {.inputs = &inputs,
                             .threshold = 0.8,
                             .characters_max = 20000,
                             .sample_rows = 100000,
                             .suspects = true,
                             .seed = 42,
                             .threads = threads};
    Doctor *d;
    ok(doctor_run(&d, &rule, &err), &err);
    size_t n, flips = 0, hit = 0;
    const Suspect *s = suspects_all(d->suspects, &n);
    for (uint64_t i = 0; i < real->rows; i++) flips += real->flipped[i];
    for (size_t i = 0; i < n && i < (size_t)(0.07 * (double)real->rows); i++) hit += real->flipped[s[i].row];
    print_message("%llu rows, %zu flipped labels: %zu of them (%.1f %%) in the top 7 %% of the list\n",
                  (unsigned long long)real->rows, flips, hit, 100 * (double)hit / (double)flips);
    assert_true((double)hit >= 0.8 * (double)flips);
    doctor_free(d);
    threads_close(threads);
    buf_free(&real->out);
    mem_free(real);
    inputs_close(&inputs);
    inputs_close(&all);
}

int main(void) {
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planted),  cmocka_unit_test(test_counts),     cmocka_unit_test(test_leaks),
        cmocka_unit_test(test_suspects), cmocka_unit_test(test_json),       cmocka_unit_test(test_command),
        cmocka_unit_test(test_tokens),   cmocka_unit_test(test_odd),        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_against),  cmocka_unit_test(test_real_flips),
    };
    return folder_close(cmocka_run_group_tests(tests, setup, teardown));
}
