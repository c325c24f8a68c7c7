/* tests/test_import.c - public data sets to rows, and noise variants of rows: csv, elements, jsonl, import, noise, augment. */
#include <strings.h>

#include "core/file.h"
#include "core/flags.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/augment_cmd.h"
#include "data/csv.h"
#include "data/elements.h"
#include "data/import.h"
#include "data/import_cmd.h"
#include "data/import_row.h"
#include "data/jsonl.h"
#include "data/noise.h"
#include "tests/unit.h"

#define SAMPLES ROUTER_SOURCE_DIR "/tests/import/"
static void same_files(const char *a, const char *b) {
    Buf x = {0}, y = {0};
    Err err = {0};
    ok(file_read(&x, a, 1 << 24, &err), &err);
    ok(file_read(&y, b, 1 << 24, &err), &err);
    assert_string_equal(x.data, y.data);
    buf_free(&x);
    buf_free(&y);
}

/* ---- formats ---- */

static const struct {
    const char *name, *format, *input;
    bool guessed; /* auto finds the same */
    const char *extra[9];
} SETS[] = {
    {"gsm8k", "gsm8k", "gsm8k", true, {"--label", "math"}},
    {"math", "math", "math", true, {0}},
    {"mathqa", "mathqa", "mathqa", true, {0}},
    {"aqua", "aqua", "aqua", true, {0}},
    {"medmcqa", "medmcqa", "medmcqa", true, {0}},
    {"medqa", "medqa", "medqa", true, {0}},
    {"pubmedqa", "pubmedqa", "pubmedqa", true, {0}},
    {"sciq", "sciq", "sciq/valid.json", true, {0}},
    {"arc", "arc", "arc", true, {0}},
    {"openbookqa", "openbookqa", "openbookqa", true, {0}},
    {"humaneval", "humaneval", "humaneval/HumanEval.jsonl", true, {0}},
    {"mbpp", "mbpp", "mbpp", true, {0}},
    {"alpaca", "alpaca", "alpaca", true, {0}},
    {"codealpaca", "codealpaca", "codealpaca", false, {"--label", "coding", "--split", "train"}},
    {"dolly", "dolly", "dolly", true, {0}},
    {"sharegpt", "sharegpt", "sharegpt", true, {0}},
    {"messages", "messages", "messages", true, {"--turns", "all"}},
    {"mmlu", "mmlu", "mmlu/data", true, {"--label-map", SAMPLES "mmlu/map.json"}},
    {"clinc150", "clinc150", "clinc150", true, {0}},
    {"csv",
     "csv",
     "csv/tickets.csv",
     true,
     {"--text-field=body", "--label-field=queue", "--id-field=ticket", "--keep=urgency", "--source=desk"}},
    {"semicolons", "csv", "csv/semicolons.csv", true, {0}},
    {"tsv", "tsv", "tsv/dev.tsv", true, {0}},
    {"json", "json", "json", true, {"--keep", "note"}},
    {"jsonl", "jsonl", "jsonl", true, {0}},
};

static void test_formats(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    for (size_t i = 0; i < sizeof SETS / sizeof *SETS; i++) {
        for (int way = 0; way < 3; way++) { /* named; with threads; guessed */
            char input[512], expected[512];
            const char *args[16] = {way < 2 ? SETS[i].format : "auto", input, "--out",
                                    in_folder("rows.jsonl"), way == 1 ? "--threads=3" : "--threads=1"};
            if (way == 2 && !SETS[i].guessed) continue;
            (void)snprintf(input, sizeof input, SAMPLES "%s", SETS[i].input);
            (void)snprintf(expected, sizeof expected, SAMPLES "expected/%s.jsonl", SETS[i].name);
            for (size_t k = 0, at = 5; SETS[i].extra[k]; k++) args[at++] = SETS[i].extra[k];
            ok(run_command(&import_cmd, &out, &err, args), &err);
            same_files(in_folder("rows.jsonl"), expected);
        }
    }
    for (size_t i = 0; import_name_at(i);
         i++) { /* the help names every format, and a file of each was read */
        bool tested = false;
        for (size_t k = 0; k < sizeof SETS / sizeof *SETS; k++)
            tested = tested || strcmp(SETS[k].format, import_name_at(i)) == 0;
        assert_true(tested && strstr(import_cmd.details, import_name_at(i)));
    }
    buf_free(&out);
}

static void test_report(void **state) {
    (void)state;
    Buf out = {0};
    Err err = {0};
    ok(run_command(
           &import_cmd, &out, &err,
           ARGS("gsm8k", SAMPLES "gsm8k", "--out", in_folder("rows.jsonl.zst"), "--label", "math", "--json")),
       &err);
    char expected[1024];
    (void)snprintf(
        expected, sizeof expected,
        "{\"out\":\"%s\",\"formats\":[\"gsm8k\"],\"read\":5,\"rows\":3,\"duplicates\":1,\"unknown\":0,"
        "\"empty\":1,\"bad\":0,\"splits\":{\"test\":1,\"train\":2},\"labels\":{\"math\":3},"
        "\"skipped_first\":[\"" SAMPLES "gsm8k/train.jsonl:4: the text is empty\"]}\n",
        in_folder("rows.jsonl.zst"));
    assert_string_equal(out.data, expected);
    Lines *lines;
    const char *line;
    size_t n, rows = 0;
    bool more = true;
    ok(lines_open(&lines, in_folder("rows.jsonl.zst"), &err), &err); /* compressed by its name */
    for (; more; rows += more) ok(lines_next(lines, &line, &n, &more, &err), &err);
    lines_close(lines);
    assert_int_equal(rows, 3);
    ok(run_command(&import_cmd, &out, &err,
                   ARGS("gsm8k", SAMPLES "gsm8k", "--out", in_folder("rows.jsonl"), "--keep-duplicates")),
       &err);
    assert_non_null(strstr(out.data, ": 4 rows of 5, read as gsm8k\n  splits: test 1, train 3\n"));
    buf_free(&out);
}

static void test_bad(void **state) {
    (void)state;
    static const struct {
        const char *name, *content, *message; /* message: behind the folder */
        const char *args[8];
        ErrCode code;
    } BAD[] = {
        {"a.jsonl",
         "{\"question\":\"a\"}\n\n{\"questoin\":\"b\"}\n",
         "a.jsonl:3: no question: found only questoin",
         {"gsm8k"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"question\":5}\n",
         "a.jsonl:1: question: found a number, expected a string",
         {"gsm8k"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"question\":\"a\"}\n{\"question\":\"a\"",
         "a.jsonl:2: not valid JSON at line 1, column 15: unexpected text",
         {"gsm8k"},
         ERR_FORMAT},
        {"a.jsonl",
         "[1]",
         "a.jsonl: element 0 (line 1): found a number, expected an object with question",
         {"gsm8k"},
         ERR_FORMAT},
        {"a.json",
         "[\n {\"Problem\":\"p\"},\n {\"Problem\":\"q\"} \n {\"Problem\":\"r\"}]",
         "a.json:4: found '{', expected ',' or ']'",
         {"mathqa"},
         ERR_FORMAT},
        {"a.json", "[{\"Problem\":\"p\"},]", "a.json:1: found ']', expected a value", {"mathqa"}, ERR_FORMAT},
        {"a.json",
         "[\n{\"Problem\":\"p\"},\n{\"Problem\":\"q\"",
         "a.json:3: the file ends in the middle of the element that begins here",
         {"mathqa"},
         ERR_FORMAT},
        {"a.json",
         "[\n{\"Problem\":\"p\"}\n",
         "a.json:3: the file ends behind 1 elements, expected ',' or ']'",
         {"mathqa"},
         ERR_FORMAT},
        {"a.json",
         "[{\"Problem\":\"p\"}] x",
         "a.json:1: found 'x', expected nothing behind the last bracket",
         {"mathqa"},
         ERR_FORMAT},
        {"a.json", "[{\"Problem\":[1}]", "a.json:1: found '}', expected ']'", {"mathqa"}, ERR_FORMAT},
        {"a.json",
         "{\n\"problem\": 3\n}",
         "a.json: problem: found a number, expected a string",
         {"math"},
         ERR_FORMAT},
        {"a.json",
         "{\"1\":{\"QUESTION\":\"q\"},\"2\":{\"CONTEXTS\":[]}}",
         "a.json: element 1 (line 1): no question: found only CONTEXTS",
         {"pubmedqa"},
         ERR_FORMAT},
        {"a.json",
         "{\"train\":[[\"a\",\"b\"],[\"a\"]]}",
         "a.json: element 1 (line 1): found an array, expected {\"train\": [[\"text\", \"intent\"], ...], "
         "...}",
         {"clinc150"},
         ERR_FORMAT},
        {"a.json",
         "{\"train\":[],\"val\" [[\"a\",\"b\"]]}",
         "a.json:1: found '[', expected ':'",
         {"clinc150"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"question\":{\"choices\":[]},\"answerKey\":\"A\"}",
         "a.jsonl:1: question: no stem: found only choices",
         {"arc"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"conversations\":[{\"value\":\"x\"}]}",
         "a.jsonl:1: turn 1: found neither from nor role",
         {"sharegpt"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"conversations\":\"x\"}",
         "a.jsonl:1: conversations: found a string, expected an array of turns",
         {"sharegpt"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"messages\":[{\"role\":\"user\",\"content\":3}]}",
         "a.jsonl:1: turn 1: found a number, expected a string or an array of parts",
         {"messages"},
         ERR_FORMAT},
        {"a_test.csv",
         "q,1,2,3,4,A\nq,1,2,3,4\n",
         "a_test.csv:2: 5 fields, expected 6 (question, ... answer)",
         {"mmlu"},
         ERR_FORMAT},
        {"a.csv",
         "text,label\n\"a\"b,c\n",
         "a.csv:2: field 1: something is behind the closing quote",
         {"csv"},
         ERR_FORMAT},
        {"a.csv",
         "text,label\nx,y\nz,\"a\nb\nc",
         "a.csv:3: a quote opens here and is never closed",
         {"csv"},
         ERR_FORMAT},
        {"a.csv", "text,label,text\nx,y,z\n", "a.csv:1: two columns are named 'text'", {"csv"}, ERR_FORMAT},
        {"a.csv",
         "body,label\nx,y\n",
         "a.csv:2: no text: expected one of text, prompt, query, sentence, question, instruction, input or "
         "messages, found "
         "only body, label",
         {"csv"},
         ERR_FORMAT},
        {"a.csv", "text,label\n,y\n", "a.csv:2: text: the text is empty", {"csv"}, ERR_FORMAT},
        {"a.csv",
         "",
         "a.csv: no row is left of 0 (bad 0, empty 0, unknown to the map 0)",
         {"csv"},
         ERR_FORMAT},
        {"a.csv", "", "a.csv: the file is empty", {"auto"}, ERR_FORMAT},
        {"a.jsonl",
         "{\"a\":1}",
         "a.jsonl: no member that tells a format: found only a",
         {"auto"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"question\":\" \"}",
         "a.jsonl: no row is left of 1 (bad 0, empty 1, unknown to the map 0)",
         {"gsm8k"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"text\":\"a\",\"label\":\"anatmoy\"}",
         "a.jsonl:1: 'anatmoy' is not in " SAMPLES "mmlu/map.json; nearest is 'anatomy'",
         {"jsonl", "--label-map", SAMPLES "mmlu/map.json"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"question\":\"a\"}",
         "a.jsonl:1: nothing to look up in " SAMPLES
         "mmlu/map.json: the row has no subject; name the member by --label-field",
         {"gsm8k", "--label-map", SAMPLES "mmlu/map.json"},
         ERR_FORMAT},
        {"a.jsonl",
         "{\"question\":\"a\",\"answer\":\"b\"}",
         "a.jsonl:1: no kind: found only question, answer",
         {"gsm8k", "--label-field", "kind"},
         ERR_FORMAT},
        {"a.jsonl", "x", "no format is named 'gsm8l'; did you mean 'gsm8k'?", {"gsm8l"}, ERR_ARGUMENT},
        {"a.jsonl",
         "x",
         "no format is named 'parquet'; 'router data import --help' lists them",
         {"parquet"},
         ERR_ARGUMENT},
        {"a.jsonl",
         "{}",
         "text_field: rows of gsm8k have their own; it is for csv, tsv, json and jsonl",
         {"gsm8k", "--text-field", "q"},
         ERR_ARGUMENT},
        {"a.jsonl", "{}", "keep: 'id' is written anyway", {"jsonl", "--keep", "id"}, ERR_ARGUMENT},
        {"a.jsonl",
         "{}",
         "columns: found 'a,,b', expected names with commas between them",
         {"csv", "--columns", "a,,b"},
         ERR_ARGUMENT},
        {"a.jsonl",
         "{}",
         "--label is for all rows; --label_field and --label_map are not",
         {"jsonl", "--label", "x", "--label-field", "y"},
         ERR_ARGUMENT},
    };
    Buf out = {0};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Err err = {0};
        const char *path = save(BAD[i].name, BAD[i].content);
        const char *args[16] = {BAD[i].args[0], path, "--out", in_folder("never.jsonl")};
        for (size_t k = 1; BAD[i].args[k]; k++) args[3 + k] = BAD[i].args[k];
        assert_int_equal(run_command(&import_cmd, &out, &err, args), BAD[i].code);
        assert_says(&err, BAD[i].message);
        assert_false(file_exists(in_folder("never.jsonl")));
    }
    static const char MIXED[] =
        "{\"question\":\"one\"}\nnonsense\n{\"question\":null}\n{\"question\":\"two\"}\n";
    Err err = {0};
    const char *path = save_bytes("a.jsonl", MIXED, sizeof MIXED - 1);
    ok(run_command(&import_cmd, &out, &err,
                   ARGS("gsm8k", path, "--out", in_folder("rows.jsonl"), "--skip-bad", "--json")),
       &err);
    assert_non_null(
        strstr(out.data, "\"read\":4,\"rows\":2,\"duplicates\":0,\"unknown\":0,\"empty\":0,\"bad\":2,"));
    assert_non_null(strstr(out.data, "a.jsonl:2: not valid JSON at line 1, column 1: unexpected text"));
    ok(run_command(&import_cmd, &out, &err,
                   ARGS("mmlu", SAMPLES "mmlu/data", "--out", in_folder("rows.jsonl"), "--skip-unknown",
                        "--label-map", save("map.json", "{\"anatomy\":\"health\"}"))),
       &err);
    assert_non_null(strstr(out.data, "left out: 2 that the label map does not know"));
    assert_int_equal(run_command(&import_cmd, &out, &err,
                                 ARGS("mmlu", SAMPLES "mmlu/data", "--out", in_folder("never.jsonl"),
                                      "--label-map", save("map.json", "{\"anatomy\":5}"))),
                     ERR_FORMAT);
    assert_non_null(strstr(err.msg, "map.json: anatomy: found a number, expected a label"));
    assert_int_equal(unlink(in_folder("rows.jsonl")), 0);
    buf_free(&out);
}

static void test_wrappers(void **state) {
    (void)state;
    static const char *const WRAPPED[][2] = {
        {" plain text \n", "plain text"},
        {"", ""},
        {" \n\t", ""},
        {"Question: Why?", "Why?"},
        {"Question: Why?\nAnswer:", "Why?"},
        {"Q: Why?\nA:", "Why?"},
        {"Question:", "Question:"},
        {"The question: why? Answer: because", "The question: why? Answer: because"},
        {"Is \"Answer Choices:\" a heading?", "Is \"Answer Choices:\" a heading?"},
        {"A sum? Answer Choices: (A) 1 (B) 2", "A sum?"},
        {"A sum?\nOptions:\n- 1\n- 2", "A sum?"},
        {"My options: none", "My options: none"},
        {"What is it?\nA. one\nB. two\nAnswer:", "What is it?"},
        {"What is it?\nA. one\nB. two", "What is it?\nA. one\nB. two"},
        {"Please answer the following question with true or false, question: is tea hot?\n\nAnswer format: "
         "true/false",
         "is tea hot?"},
        {"Please choose the correct solution to the question: Dry a plate.\n\nSolution1: Wipe it. Solution2: "
         "Wet it.",
         "Dry a plate."},
        {"The following are multiple choice questions (with answers) about tea.\n\nWhat is tea?\nA. a\nB. "
         "b\nAnswer:",
         "What is tea?"},
        {"Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nAdd.\n\n### "
         "Response:\n",
         "Add."},
        {"Below is an instruction that describes a task, paired with an input.\n\n### "
         "Instruction:\nAdd.\n\n### Input:\n"
         "1 2\n\n### Response:",
         "Add.\n1 2"},
        {"Below is an instruction that describes a task without more",
         "Below is an instruction that describes a task without more"},
    };
    for (size_t i = 0; i < sizeof WRAPPED / sizeof *WRAPPED; i++) {
        Buf text = {0};
        buf_puts(&text, WRAPPED[i][0]);
        import_unwrap(&text);
        assert_string_equal(text.data ? text.data : "", WRAPPED[i][1]);
        assert_int_equal(text.len, strlen(WRAPPED[i][1]));
        buf_free(&text);
    }
    static const char *const SPLITS[][2] = {{"train.jsonl", "train"},
                                            {"anatomy_dev.csv", "dev"},
                                            {"train-00000-of-00008.json", "train"},
                                            {"ARC-Easy-Test.jsonl", "Test"},
                                            {"test/algebra/7.json", "test"},
                                            {"auxiliary_train/law.csv", "train"},
                                            {"latest.json", NULL},
                                            {"contest/x.json", NULL},
                                            {"validation_matched.json", "validation"},
                                            {"training.json", NULL}};
    for (size_t i = 0; i < sizeof SPLITS / sizeof *SPLITS; i++) {
        const char *split = import_split_of(SPLITS[i][0]);
        if (!SPLITS[i][1])
            assert_null(split);
        else
            assert_true(split && strcasecmp(split, SPLITS[i][1]) == 0);
    }
}

/* ---- csv ---- */

static void put_field(Buf *out, const char *s, size_t n, char separator, uint64_t i) {
    bool quote = n == 0 || s[0] == '"' || pick("quote", i, 3) == 0;
    for (size_t k = 0; k < n; k++) quote = quote || s[k] == separator || s[k] == '\n' || s[k] == '\r';
    if (quote) buf_puts(out, "\"");
    for (size_t k = 0; k < n; k++) {
        if (quote && s[k] == '"') buf_puts(out, "\"");
        buf_put(out, s + k, 1);
    }
    if (quote) buf_puts(out, "\"");
}

/* Random tables come back as they were, whatever the separator and the line ends. */
static void test_csv(void **state) {
    (void)state;
    enum { RECORDS = 400, FIELDS = 5 };
    static const char LETTERS[] = "ab,\t;\"\n\r '", SEPARATORS[] = ",\t;";
    for (uint64_t round = 0; round < 12; round++) {
        const char separator = SEPARATORS[round % 3];
        Buf file = {0}, all = {0};
        size_t at[RECORDS * FIELDS + 1];
        if (round & 1) buf_puts(&file, "\xef\xbb\xbf");
        for (uint64_t i = 0; i < RECORDS * FIELDS; i++) {
            const uint64_t where = round << 32 | i;
            const size_t n = i < FIELDS ? 3 : i == 12 ? 300000 : pick("length", where, 9);
            at[i] = all.len;
            for (size_t k = 0; k < n; k++)
                buf_put(&all,
                        i < FIELDS ? "x" : &LETTERS[pick("letter", where << 20 | k, sizeof LETTERS - 1)], 1);
            put_field(&file, all.data + at[i], all.len - at[i], separator, where);
            buf_puts(&file, i % FIELDS < FIELDS - 1 ? (char[2]){separator, 0}
                            : round % 4 < 2         ? "\n"
                                                    : "\r\n");
            if (i % FIELDS == FIELDS - 1 && pick("blank", where, 9) == 0) buf_puts(&file, "\n");
        }
        at[RECORDS * FIELDS] = all.len;
        const char *path = save_bytes("table.csv", file.data, file.len);
        Csv *csv;
        CsvFields fields = {0};
        Err err = {0};
        ok(csv_open(&csv, path, (CsvRule){0}, &err), &err);
        assert_int_equal(csv_rule(csv).separator, separator);
        for (size_t i = 0; i < RECORDS; i++) {
            const char *record;
            size_t n;
            uint64_t line;
            bool more;
            ok(csv_next(csv, &record, &n, &line, &more, &err), &err);
            assert_true(more);
            ok(csv_split(&fields, record, n, csv_rule(csv), &err), &err);
            assert_int_equal(fields.count, FIELDS);
            for (size_t k = 0; k < FIELDS; k++) {
                const size_t from = at[i * FIELDS + k], size = at[i * FIELDS + k + 1] - from;
                assert_int_equal(fields.at[k + 1] - fields.at[k], size);
                assert_memory_equal(fields.bytes.data + fields.at[k], all.data + from, size);
            }
        }
        csv_close(csv);
        csv_free(&fields);
        buf_free(&file);
        buf_free(&all);
    }
}

/* ---- elements ---- */

/* An array on one line that is longer than a line may be, and of the same elements as lines. */
static void test_elements_large(void **state) {
    (void)state;
    enum { COUNT = 700, BYTES = 100000 };
    FileWriter w;
    Err err = {0};
    Buf element = {0};
    ok(file_create(&w, in_folder("large.json"), &err), &err);
    for (size_t i = 0; i < COUNT; i++) {
        buf_clear(&element);
        buf_printf(&element, "%s{\"n\":%zu,\"s\":\"[\\\"\\\\", i ? "," : " [", i);
        char *s = buf_reserve(&element, BYTES);
        memset(s, (int)('a' + i % 26), BYTES);
        element.len += BYTES;
        buf_puts(&element, "\"}");
        file_write(&w, element.data, element.len);
    }
    file_write(&w, "]", 1);
    assert_true(w.written > LINES_MAX);
    ok(file_commit(&w, &err), &err);
    Elements *elements;
    ok(elements_open(&elements, in_folder("large.json"), true, &err), &err);
    assert_int_equal(elements_shape(elements), ELEMENTS_ARRAY);
    Element e;
    bool more = true;
    for (size_t i = 0; i <= COUNT; i++) {
        ok(elements_next(elements, &e, &more, &err), &err);
        assert_int_equal(more, i < COUNT);
        if (!more) break;
        char begin[64];
        const int n =
            snprintf(begin, sizeof begin, "{\"n\":%zu,\"s\":\"[\\\"\\\\%c", i, (char)('a' + i % 26));
        assert_memory_equal(e.json, begin, (size_t)n);
        assert_int_equal(e.n, (size_t)n - 1 + BYTES + 2);
        assert_true(e.index == i && e.line == 1 && !e.key);
    }
    elements_close(elements);
    buf_free(&element);
    assert_int_equal(unlink(in_folder("large.json")), 0);
}

static void test_elements_shapes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool members;
        ElementsShape shape;
        const char *expected; /* key=element@line, with | between them */
    } GOOD[] = {
        {"", false, ELEMENTS_LINES, ""},
        {" \n\n", false, ELEMENTS_LINES, ""},
        {"{}\n\n [1] \r\nx y\n", false, ELEMENTS_LINES, "{}@1|[1]@3|x y@4"},
        {"\xef\xbb\xbf{\"a\":1}", false, ELEMENTS_LINES, "{\"a\":1}@1"},
        {"{\n\"a\": \"}\"\n}\n{\"b\":1} 3 \"x\"", false, ELEMENTS_DOCUMENTS,
         "{\n\"a\": \"}\"\n}@1|{\"b\":1}@4|3@4|\"x\"@4"},
        {"[]", false, ELEMENTS_ARRAY, ""},
        {" [ 1,\n\"a,]\\\"\" , [[{}]],null ]\n", false, ELEMENTS_ARRAY, "1@1|\"a,]\\\"\"@2|[[{}]]@2|null@2"},
        {"{\"a\":{},\"b\":{\"c\":1}}", true, ELEMENTS_MEMBERS, "a={}@1|b={\"c\":1}@1"},
        {"{\"a\\\"\" : [1,\n2], \"e\":[] ,\"b\" : 3}", true, ELEMENTS_MEMBERS, "a\\\"=1@1|a\\\"=2@2|b=3@2"},
        {"{\"a\":1,\"b\":{}}\n{\"a\":2}", true, ELEMENTS_LINES, "{\"a\":1,\"b\":{}}@1|{\"a\":2}@2"},
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        Elements *elements;
        Err err = {0};
        Buf got = {0};
        bool more = true;
        ok(elements_open(&elements, save("e.json", GOOD[i].text), GOOD[i].members, &err), &err);
        assert_int_equal(elements_shape(elements), GOOD[i].shape);
        for (uint64_t k = 0;; k++) {
            Element e;
            ok(elements_next(elements, &e, &more, &err), &err);
            if (!more) break;
            assert_int_equal(e.index, k);
            buf_printf(&got, "%s%s%s%.*s@%llu", k ? "|" : "", e.key ? e.key : "", e.key ? "=" : "", (int)e.n,
                       e.json, (unsigned long long)e.line);
        }
        assert_string_equal(got.data ? got.data : "", GOOD[i].expected);
        elements_close(elements);
        buf_free(&got);
    }
    Buf deep = {0};
    Elements *elements;
    Element e;
    Err err = {0};
    bool more;
    for (int i = 0; i < 100; i++) buf_puts(&deep, "[");
    ok(elements_open(&elements, save_bytes("e.json", deep.data, deep.len), false, &err), &err);
    assert_int_equal(elements_next(elements, &e, &more, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "e.json:1: nested more than 64 deep"));
    elements_close(elements);
    buf_free(&deep);
}

/* ---- noise ---- */

static const char *const TEXTS[] = {
    "Why is the sky blue?",
    "Solve $x^2 + 1 = 5$ for x, please. It costs $5 or $10!",
    "What does `grep -v foo` do?\n```\nif (a == b) return 1;\n```\nThanks.",
    "Gr\xc3\xbc\xc3\x9f"
    "e aus K\xc3\xb6ln, \xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xf0\x9f\x98\x80 "
    "\xe4\xbd\xa0\xe5\xa5\xbd\xe3\x80\x82",
    "1234 + 5.5 = ?",
    "Sort 17 23 5 now",
    "a",
    "?",
    "def f(x):\n    return x + 1\n",
    "See https://example.org/a,b?c=d or mail me@example.org now.",
    "llll",
    "   ",
};

static void check_digits(const char *a, size_t n, const char *b, size_t m) {
    size_t i = 0, k = 0;
    for (;;) {
        while (i < n && (a[i] < '0' || a[i] > '9')) i++;
        while (k < m && (b[k] < '0' || b[k] > '9')) k++;
        if (i == n || k == m) break;
        assert_int_equal(a[i++], b[k++]);
    }
    assert_true(i == n && k == m);
}

static void test_noise(void **state) {
    (void)state;
    size_t made[NOISE_COUNT] = {0};
    for (size_t t = 0; t < sizeof TEXTS / sizeof *TEXTS; t++) {
        for (uint64_t i = 0; i < 600; i++) {
            const NoiseKind kind = (NoiseKind)(i % NOISE_COUNT);
            const double strength = (double)(i % 5) / 4;
            const uint64_t key = rng_key(seed, "noise", i);
            Buf out = {0}, again = {0};
            bool changed, twice;
            buf_puts(&out, "kept");
            assert_int_equal(
                noise_apply(&out, &changed, TEXTS[t], strlen(TEXTS[t]), kind, strength, key, NULL), ERR_OK);
            assert_int_equal(
                noise_apply(&again, &twice, TEXTS[t], strlen(TEXTS[t]), kind, strength, key, NULL), ERR_OK);
            assert_true(twice == changed && again.len == out.len - 4);
            if (changed) {
                made[kind]++;
                const char *s = out.data + 4;
                assert_memory_equal(s, again.data, again.len);
                assert_true(text_utf8_prefix(s, again.len) == again.len);
                assert_true(again.len != strlen(TEXTS[t]) || memcmp(s, TEXTS[t], again.len) != 0);
                check_digits(TEXTS[t], strlen(TEXTS[t]), s, again.len);
                if (t == 1 && kind != NOISE_QUOTE) assert_non_null(strstr(s, "$x^2 + 1 = 5$"));
                if (t == 2 && kind != NOISE_QUOTE)
                    assert_non_null(strstr(s, "```\nif (a == b) return 1;\n```"));
                if (t == 2) assert_non_null(strstr(s, "`grep -v foo`"));
                if (t == 8 && kind != NOISE_QUOTE) assert_non_null(strstr(s, "    return x + 1"));
                if (t == 5) assert_non_null(strstr(s, "17 23 5"));
                if (t == 9) assert_non_null(strstr(s, "https://example.org/a,b?c=d"));
                if (t == 9) assert_non_null(strstr(s, "me@example.org"));
            } else {
                assert_string_equal(out.data, "kept");
            }
            buf_free(&out);
            buf_free(&again);
        }
    }
    for (int kind = 0; kind < NOISE_COUNT; kind++) {
        assert_true(made[kind] > 200);
        assert_int_equal(noise_find(noise_name((NoiseKind)kind)), kind);
    }
    assert_int_equal(noise_find("typo"), NOISE_COUNT);
    assert_string_equal(noise_nearest("typo"), "typos");
}

/* The share of changed words follows the strength. */
static void test_noise_strength(void **state) {
    (void)state;
    enum { WORDS = 2000 };
    Buf text = {0};
    for (int i = 0; i < WORDS; i++) buf_puts(&text, i ? " abcdefgh" : "abcdefgh");
    for (int tenths = 0; tenths <= 10; tenths += 2) {
        Buf out = {0};
        bool changed;
        size_t same = 0;
        assert_int_equal(
            noise_apply(&out, &changed, text.data, text.len, NOISE_TYPOS, 0.1 * tenths, seed, NULL), ERR_OK);
        for (const char *s = out.data; (s = strstr(s, "abcdefgh")) != NULL; s += 8)
            same += (s == out.data || s[-1] == ' ') && (s[8] == ' ' || s[8] == 0);
        const double share = 1 - (double)same / WORDS;
        assert_true(changed && share > 0);
        /* binomial: six standard deviations are at most 0.07; one more is changed in any case */
        assert_true(share > 0.1 * tenths - 0.07 && share < 0.1 * tenths + 0.07);
        buf_free(&out);
    }
    buf_free(&text);
}

/* ---- augment ---- */

static const char ROWS[] =
    "{\"text\":\"Why is the sky "
    "blue?\",\"label\":\"science\",\"split\":\"train\",\"id\":\"q1\",\"source\":\"s\"}\n"
    "{\"text\":\"Is it a test?\",\"label\":\"other\",\"split\":\"test\",\"id\":\"q2\"}\n"
    "{\"text\":\"Is it unsplit?\",\"label\":\"other\"}\n"
    "{\"text\":\"How do I cook rice, quickly?\",\"split\":\"train\"}\n"
    "{\"text\":\"Calibrate it?\",\"label\":\"other\",\"split\":\"calibration\"}\n";

static void test_augment(void **state) {
    (void)state;
    Buf out = {0}, rows = {0}, alone = {0};
    Err err = {0};
    const char *in = save_bytes("rows.jsonl", ROWS, sizeof ROWS - 1), *to = in_folder("noise.jsonl");
    ok(run_command(&augment_cmd, &out, &err,
                   ARGS(in, "--out", to, "--copies", "5", "--threads", "3", "--json")),
       &err);
    assert_non_null(strstr(
        out.data, "\"variants\":10,\"augmented\":2,\"read\":5,\"held_out\":2,\"unsplit\":1,\"not_made\":0"));
    ok(file_read(&rows, to, 1 << 20, &err), &err);
    size_t lines = 0;
    for (const char *s = rows.data; *s; s = strchr(s, '\n') + 1) {
        cJSON *json;
        ok(json_parse(&json, s, strcspn(s, "\n"), &err), &err);
        const char *parent = cJSON_GetObjectItem(json, "parent")->valuestring;
        const char *text = cJSON_GetObjectItem(json, "text")->valuestring;
        assert_string_equal(cJSON_GetObjectItem(json, "kind")->valuestring, "synthetic");
        assert_string_equal(cJSON_GetObjectItem(json, "split")->valuestring, "train");
        assert_non_null(strstr(cJSON_GetObjectItem(json, "augmentation")->valuestring, ":0.1"));
        assert_true(strncmp(cJSON_GetObjectItem(json, "id")->valuestring, parent, strlen(parent)) == 0);
        assert_true(strcmp(parent, "q1") == 0 || strstr(parent, "rows.jsonl:4"));
        assert_string_not_equal(text, "Why is the sky blue?");
        assert_string_not_equal(text, "How do I cook rice, quickly?");
        lines++;
        cJSON_Delete(json);
    }
    assert_int_equal(lines, 10);
    const char *one = in_folder("one.jsonl"); /* of one thread, and of the first row alone */
    ok(run_command(&augment_cmd, &out, &err, ARGS(in, "--out", one, "--copies", "5", "--threads", "1")),
       &err);
    same_files(to, one);
    ok(run_command(&augment_cmd, &out, &err,
                   ARGS(save_bytes("first.jsonl", ROWS, (size_t)(strchr(ROWS, '\n') - ROWS)), "--out", one,
                        "--copies", "5")),
       &err);
    ok(file_read(&alone, one, 1 << 20, &err), &err);
    assert_memory_equal(alone.data, rows.data, alone.len);
    ok(run_command(&augment_cmd, &out, &err,
                   ARGS(in, "--out", one, "--kinds", "typos,quote", "--unsplit", "--seed", "7")),
       &err);
    assert_non_null(strstr(out.data, "one.jsonl: 3 variants of 3 rows, of 5 read\n  kinds: typos "));
    buf_free(&out);
    buf_free(&rows);
    buf_free(&alone);
}

static void test_augment_bad(void **state) {
    (void)state;
    static const struct {
        const char *content, *args[3], *message;
        ErrCode code;
    } BAD[] = {
        {"{\"text\":\"a\"}\n",
         {0},
         "none of 1 rows has \"split\": \"train\", and 1 name no split; split them first, or give --unsplit "
         "where all of "
         "them are for training",
         ERR_ARGUMENT},
        {"{\"text\":\"a\",\"split\":\"dev\"}\n",
         {0},
         "none of 1 rows has \"split\": \"train\"",
         ERR_ARGUMENT},
        {"{\"text\":\"a\"}\n",
         {"--kinds", "typo"},
         "kinds: found 'typo'; did you mean 'typos'?",
         ERR_ARGUMENT},
        {"{\"text\":\"a\"}\n", {"--kinds", "case,case"}, "kinds: found 'case' twice", ERR_ARGUMENT},
        {"{\"text\":\"a\"}\n",
         {"--kinds", "rot13!!!"},
         "kinds: found 'rot13!!!', expected typos, case, space, punctuation, prefix, suffix or quote",
         ERR_ARGUMENT},
        {"{\"text\":\"a\"}\n",
         {"--strength", "1.5"},
         "strength: found '1.5', expected a number from 0 to 1",
         ERR_ARGUMENT},
        {"\nno\n", {0}, "bad.jsonl:2: not valid JSON at line 1, column 1: unexpected text", ERR_FORMAT},
    };
    Buf out = {0};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        Err err = {0};
        const char *path = save("bad.jsonl", BAD[i].content);
        const char *args[8] = {path, "--out", in_folder("never.jsonl"), BAD[i].args[0], BAD[i].args[1]};
        assert_int_equal(run_command(&augment_cmd, &out, &err, args), BAD[i].code);
        assert_says(&err, BAD[i].message);
        assert_false(file_exists(in_folder("never.jsonl")));
    }
    buf_free(&out);
}

/* ---- no memory ---- */

static ErrCode import_something(void) {
    ImportReport report;
    char *inputs[] = {(char *)(uintptr_t)SAMPLES "mmlu/data", (char *)(uintptr_t)SAMPLES "clinc150"};
    const FlagList list = {inputs, 2};
    const ErrCode rc = import_run(&report, in_folder("memory.jsonl.zst"), &list, &(ImportRule){0}, NULL);
    import_report_free(&report);
    return rc;
}

static ErrCode map_something(void) {
    ImportMap map;
    const ErrCode rc = import_map_read(&map, SAMPLES "mmlu/map.json", NULL);
    import_map_free(&map);
    return rc;
}

static ErrCode noise_something(void) {
    Buf out = {0};
    bool changed;
    const ErrCode rc = noise_apply(&out, &changed, TEXTS[1], strlen(TEXTS[1]), NOISE_TYPOS, 1, 1, NULL);
    buf_free(&out);
    return rc;
}

static ErrCode augment_something(void) {
    Err err = {0};
    return run_command(&augment_cmd, NULL, &err,
                       ARGS(in_folder("rows.jsonl"), "--out", in_folder("memory.jsonl"), "--threads", "1"));
}

static void test_no_memory(void **state) {
    (void)state;
    static ErrCode (*const ALL[])(void) = {import_something, map_something, noise_something,
                                           augment_something};
    (void)save_bytes("rows.jsonl", ROWS, sizeof ROWS - 1);
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++) {
        EACH_ALLOCATION_FAILS(2000, ALL[i]());
    }
}

/* ---- real prompts ---- */

static void test_real_corpus(void **state) {
    (void)state;
    const char *path = need_shared("corpus/math/gsm8k.jsonl.zst");
    Buf out = {0};
    Err err = {0};
    ok(run_command(&import_cmd, &out, &err, ARGS("auto", path, "--out", in_folder("real.jsonl"))), &err);
    assert_non_null(
        strstr(out.data, ": 8789 rows of 8789, read as jsonl\n  splits: train 7470, test 1319\n"));
    ok(run_command(&augment_cmd, &out, &err,
                   ARGS(in_folder("real.jsonl"), "--out", in_folder("real.noise.jsonl.zst"))),
       &err);
    assert_non_null(strstr(out.data, ": 7470 variants of 7470 rows, of 8789 read\n"));
    buf_free(&out);
}

int main(void) {
    seed_open();
    progress_quiet(true);
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_wrappers),
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_elements_shapes),
        cmocka_unit_test(test_elements_large),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_noise_strength),
        cmocka_unit_test(test_augment),
        cmocka_unit_test(test_augment_bad),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_real_corpus),
    };
    return folder_close(cmocka_run_group_tests(tests, NULL, NULL));
}
