/* tests/test_live.c - `router live`: what routers and experts are given, what their answers say, and whole runs of the program
 * against a server that speaks the protocol of chat completions and does everything wrong. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/rng.h"
#include "eval/live.h"
#include "eval/live_prompt.h"
#include "eval/live_report.h"
#include "eval/live_score.h"
#include "tests/http_server.h"
#include "tests/unit.h"

#define GENERAL_KEY "sk-general-0123456789abcdef"
#define JUDGE_KEY   "sk-judge-fedcba9876543210"

enum { ROWS = 40, EXPERTS = 3, LABELS = 3 };

static const char *const NAMES[EXPERTS] = {"general", "mathy", "healthy"};
static const char *const LABEL_NAMES[LABELS] = {"other", "math",
                                                "health"}; /* that the expert of the same number is for */

static void write_file(const char *path, const Buf *text) {
    Err err = {0};
    ok(buf_ok(text, &err), &err);
    ok(file_save(path, text->data, text->len, &err), &err);
}

/* ---- the truth ---- */

/* Whether an expert knows the answer to question n. */
static bool knows(int expert, int n) {
    static const int SKILL[EXPERTS][LABELS] = {{8, 5, 6}, {3, 9, 4}, {2, 4, 9}};
    return rng_bits(41 + (uint64_t)expert, (uint64_t)n) % 10 < (uint64_t)SKILL[expert][n % LABELS];
}

static int right_option(int n) {
    return n * 7 % 4;
}

/* What the router thinks: wrong now and then, unsure now and then. */
static int predicted(int n) {
    return n % 7 == 3 ? (n + 1) % LABELS : n % LABELS;
}

static double confidence(int n) {
    return n % 5 == 2 ? 0.5 : 0.9;
}

/* ---- the server ---- */

typedef enum {
    FINE,
    THROTTLED,
    BROKEN,
    CUT,
    GARBAGE,
    WRONG_JSON,
    HANG,
    TOO_SHORT,
    HUGE,
    RESET,
    EMPTY,
    FAULTS
} Fault;

typedef struct {
    /* What it does. */
    bool faults, usage_missing, echo_key;
    int refuse, refuse_expert, refuse_row; /* a status, for an expert (-1: all), for a row (-1: all) */
    double delay_s;
    const char *retry_after;
    const char *verdict; /* of the judge, instead of its own */
    /* What it saw. */
    int asked[EXPERTS + 1][ROWS], answered[EXPERTS + 1][ROWS];
    int wrong_keys, unknown, leaked; /* prompts with metadata in them */
    int64_t tokens;                  /* of all answers begun, as this server charges for them */
    char last[4096];                 /* prompt */
} Model;

static Model model;
static HttpServer *server;

/* How an expert says that it is option `letter`; some ways are none. */
static void put_answer(Buf *out, int expert, int n, char letter) {
    switch ((n + expert) % 6) {
        case 0: buf_printf(out, "Let me think.\\nANSWER: %c", letter); break;
        case 1:
            buf_printf(out, "<think>ANSWER: Z</think>Because of this, the answer is **(%c)**.", letter);
            break;
        case 2: buf_printf(out, "We get $\\\\boxed{\\\\text{%c}}$", letter); break;
        case 3: buf_printf(out, "Compare all.\\n\\n**Answer:** %c) that one", letter); break;
        case 4: buf_printf(out, "%c", letter); break;
        default:
            for (int i = 0; i < 20000; i++) buf_puts(out, "It goes on. "); /* longer than what is kept */
            buf_printf(out, "ANSWER: %c", letter);
    }
}

/* Of question n, in the order in which the options are shown; one that is wrong where `right` is false. */
static char find_letter(const char *content, int n, bool right) {
    char wanted[64];
    (void)snprintf(wanted, sizeof wanted, ". thing %d-%d\\n", n, (right_option(n) + !right) % 4);
    const char *found = strstr(content, wanted);
    if (!found) {
        wanted[strlen(wanted) - 2] = 0; /* the last one */
        found = strstr(content, wanted);
    }
    return found ? found[-1] : '?';
}

static void reply_completion(HttpReply *r, const char *content, int64_t in, int64_t out, const char *finish) {
    Buf body = {0};
    buf_printf(&body,
               "{\"id\":\"x\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
               "\"assistant\","
               "\"content\":\"%s\"},\"finish_reason\":\"%s\"}]",
               content, finish);
    if (!model.usage_missing)
        buf_printf(&body, ",\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld}", (long long)in,
                   (long long)out);
    buf_puts(&body, "}");
    http_reply_body(r, body.data, body.len);
    buf_free(&body);
    model.tokens += in + out;
}

static bool reply_fault(HttpReply *r, int expert, int n, int count) {
    const Fault fault = model.faults ? (Fault)((n * 3 + expert) % (FAULTS + 3)) : FINE;
    if (count > 1 + (n & 1) || fault == FINE || fault >= FAULTS) return false;
    switch (fault) {
        case THROTTLED:
            r->status = 429;
            http_reply_header(r, "Retry-After: 0");
            http_reply_text(r, "{\"error\":{\"message\":\"slow down\"}}");
            break;
        case BROKEN: r->status = 503; break;
        case CUT:
            reply_completion(r, "ANSWER: A", 1, 1, "stop");
            r->cut = true;
            r->cut_after = 20;
            break;
        case GARBAGE:
            r->bare = true;
            http_reply_text(r, "\x01\x02 this is not HTTP");
            break;
        case WRONG_JSON: http_reply_text(r, "{\"object\":\"list\",\"data\":[]}"); break;
        case HANG: r->hang = true; break;
        case TOO_SHORT:
            http_reply_text(r, "{\"choices\"");
            r->claimed_length = 1000;
            r->close = true;
            break;
        case HUGE:
            http_reply_text(r, "%65536s", "x");
            r->repeat = 400;
            r->chunked = true;
            break;
        case RESET: r->cut = r->reset = true; break;
        default: http_reply_text(r, "{\"choices\":[]}"); break;
    }
    return true;
}

static void reply_judge(HttpReply *r, const char *content, int n) {
    char right[64];
    (void)snprintf(right, sizeof right, "ANSWER: %d", n * 11);
    const char *answer = strstr(content, "<answer>");
    const bool correct = answer && strstr(answer, right);
    if (n == 5)
        reply_completion(r, "Hard to say.", 30, 5, "stop");
    else
        reply_completion(r, correct ? "They agree.\\nVERDICT: CORRECT" : "**VERDICT:** incorrect", 30, 5,
                         "stop");
}

static void check_key(const HttpSeen *seen, int expert) {
    char header[256];
    const char *wanted = expert == 0 ? "Bearer " GENERAL_KEY : expert == EXPERTS ? "Bearer " JUDGE_KEY : "";
    if (strcmp(http_server_header(header, sizeof header, seen, "Authorization"), wanted) != 0)
        model.wrong_keys++;
}

static void answer_question(HttpReply *r, const HttpSeen *seen, int expert, int n) {
    char header[256];
    Buf text = {0};
    const bool right = knows(expert, n);
    if (model.echo_key)
        buf_printf(&text, "[%s] ", http_server_header(header, sizeof header, seen, "Authorization"));
    if (!strstr(seen->body, "Options:"))
        buf_printf(&text, "I compute.\\nANSWER: %d", right ? n * 11 : n);
    else if (n == 11 && expert == 1)
        buf_puts(&text, "I do not know.");
    else if (n == 12 && expert == 0)
        buf_puts(&text, "The answer is A or C.");
    else if (n != 13)
        put_answer(&text, expert, n, find_letter(seen->body, n, right));
    else
        buf_puts(&text, "Let us consider the first case, in which");
    reply_completion(r, text.data, 50 + n, 20 + expert, n == 13 ? "length" : "stop");
    buf_free(&text);
}

static void handle(void *arg, const HttpSeen *seen, HttpReply *r) {
    (void)arg;
    int expert = EXPERTS, n = -1;
    char header[256];
    for (int x = 0; x < EXPERTS; x++) {
        char target[64];
        (void)snprintf(target, sizeof target, "/%s/v1/chat/completions", NAMES[x]);
        if (strcmp(seen->target, target) == 0) expert = x;
    }
    const char *question = strstr(seen->body, "question number ");
    if (question) n = (int)strtol(question + 16, NULL, 10);
    r->delay_s = model.delay_s;
    if (n < 0 || n >= ROWS ||
        (expert == EXPERTS && strcmp(seen->target, "/judge/v1/chat/completions") != 0)) {
        model.unknown++;
        r->status = 404;
        return;
    }
    if (strstr(seen->body, "anatomy") || strstr(seen->body, "multiple choice")) model.leaked++;
    (void)snprintf(model.last, sizeof model.last, "%.4000s", seen->body);
    check_key(seen, expert);
    const int count = ++model.asked[expert][n];
    if (model.refuse && (model.refuse_expert < 0 || model.refuse_expert == expert) &&
        (model.refuse_row < 0 || model.refuse_row == n)) {
        r->status = model.refuse;
        if (model.retry_after) http_reply_header(r, "Retry-After: %s", model.retry_after);
        http_reply_text(r, "{\"error\":{\"message\":\"no: %s\"}}",
                        http_server_header(header, sizeof header, seen, "Authorization"));
        return;
    }
    if (reply_fault(r, expert, n, count)) return;
    model.answered[expert][n]++;
    if (expert == EXPERTS && model.verdict)
        reply_completion(r, model.verdict, 30, 5, "stop");
    else if (expert == EXPERTS)
        reply_judge(r, seen->body, n);
    else
        answer_question(r, seen, expert, n);
}

static void reset_model(void) {
    model = (Model){.refuse_expert = -1, .refuse_row = -1};
}

static int sum_asked(void) {
    int sum = 0;
    for (int x = 0; x <= EXPERTS; x++)
        for (int n = 0; n < ROWS; n++) sum += model.asked[x][n];
    return sum;
}

/* ---- files ---- */

/* With wrappers and subjects that nobody may see. */
static void write_rows(const char *path, bool choices) {
    Buf text = {0};
    for (int n = 0; n < ROWS; n++) {
        const char *const FRONT[] = {
            "", "Subject: anatomy\\n",
            "The following are multiple choice questions about anatomy.\\n\\nQuestion: ", "Q: "};
        buf_printf(&text,
                   "{\"id\": \"row-%d\", \"subject\": \"anatomy\", \"source\": \"multiple choice\", "
                   "\"label\": \"%s\", \"text\": \"%s",
                   n, LABEL_NAMES[n % LABELS], FRONT[n % 4]);
        buf_printf(&text, "This is question number %d of them.", n);
        if (choices && n % 5 == 4) { /* within the text */
            for (int o = 0; o < 4; o++) buf_printf(&text, "\\n(%c) thing %d-%d", 'A' + o, n, o);
            buf_printf(&text, "\\nAnswer:\", \"answer\": \"%c\"}\n", 'A' + right_option(n));
        } else if (choices) {
            buf_printf(&text, "\", \"choices\": [");
            for (int o = 0; o < 4; o++) buf_printf(&text, "%s\"thing %d-%d\"", o ? ", " : "", n, o);
            if (n % 5 == 1)
                buf_printf(&text, "], \"answer\": %d}\n", right_option(n));
            else if (n % 5 == 2)
                buf_printf(&text, "], \"answer\": \"thing %d-%d\"}\n", n, right_option(n));
            else
                buf_printf(&text, "], \"answer\": \"%c\"}\n", 'A' + right_option(n));
        } else {
            buf_printf(&text, "\", \"reference\": \"%d\"}\n", n * 11);
        }
    }
    write_file(path, &text);
    buf_free(&text);
}

/* The router's answers, with the beginning of the texts that it may see: a file of predictions refuses any other text. */
static void write_router(const char *path, bool stripped) {
    Buf text = {0};
    for (int n = 0; n < ROWS; n++) {
        buf_printf(&text,
                   "{\"id\": \"row-%d\", \"text\": \"%sThis is question number %d of them.\", \"scores\": {",
                   n, !stripped && n % 4 == 1 ? "Subject: anatomy\\n" : "", n);
        for (int k = 0; k < LABELS; k++)
            buf_printf(&text, "%s\"%s\": %.4f", k ? ", " : "", LABEL_NAMES[k],
                       k == predicted(n) ? confidence(n) : (1 - confidence(n)) / (LABELS - 1));
        buf_puts(&text, "}}\n");
    }
    write_file(path, &text);
    buf_free(&text);
}

static void write_experts(const char *path, const char *judge, double timeout_s) {
    Buf text = {0};
    buf_puts(&text, "{\"experts\": [");
    for (int x = 0; x < EXPERTS; x++)
        buf_printf(&text,
                   "%s{\"name\": \"%s\", \"parameters_b\": %d, \"price_in\": %d, \"price_out\": %d, "
                   "\"base_url\": \"%s/%s/v1/\", \"model\": "
                   "\"m-%s\", \"max_tokens\": 100, \"timeout_seconds\": %g%s}",
                   x ? ", " : "", NAMES[x], x + 1, 10 * (x + 1), 20 * (x + 1), http_server_url(server),
                   NAMES[x], NAMES[x], timeout_s, x ? "" : ", \"api_key_env\": \"TEST_LIVE_GENERAL\"");
    buf_puts(&text,
             "],\n \"routes\": {\"other\": \"general\", \"math\": \"mathy\", \"health\": \"healthy\"}, "
             "\"fallback\": \"general\"");
    if (judge)
        buf_printf(&text,
                   ",\n \"judge\": {\"base_url\": \"%s/judge/v1\", \"model\": \"judge\", \"price_in\": 1, "
                   "\"price_out\": 1, \"max_tokens\": 50, "
                   "\"api_key_env\": \"TEST_LIVE_JUDGE\"%s}",
                   http_server_url(server), judge);
    buf_puts(&text, "}\n");
    write_file(path, &text);
    buf_free(&text);
}

/* ---- the program ---- */

#define WITH(...) ((const char *const[]){__VA_ARGS__, NULL})

static pid_t start(const char *out, const char *const *options) {
    const char *args[64] = {ROUTER_PROGRAM,
                            "live",
                            in_folder("router.jsonl"),
                            "--experts",
                            in_folder("experts.json"),
                            "--out",
                            out,
                            "--quiet",
                            "--pause",
                            "0.001",
                            "--data"};
    int n = 11;
    for (; *options; options++) args[n++] = *options;
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0) fail_msg("fork failed");
    if (pid != 0) return pid;
    const int log = open(in_folder("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0600),
              result = open(in_folder("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (log < 0 || result < 0 || dup2(log, 2) < 0 || dup2(result, 1) < 0) _exit(99);
    (void)execv(ROUTER_PROGRAM, (char *const *)(uintptr_t)args);
    _exit(98);
}

static const char *messages(void) {
    static Buf text;
    read_file(&text, in_folder("stderr"));
    return text.data;
}

static void expect(int status, const char *out, const char *const *options) {
    const int found = finish(start(out, options));
    if (found != status) fail_msg("exit status %d, expected %d: %s", found, status, messages());
}

static void expect_message(const char *part) {
    if (!strstr(messages(), part)) fail_msg("expected \"%s\" in: %s", part, messages());
}

static cJSON *results(const char *out) {
    cJSON *root = NULL;
    Err err = {0};
    char path[600];
    (void)snprintf(path, sizeof path, "%s/results.json", out);
    ok(json_read(&root, path, &err), &err);
    return root;
}

static const cJSON *get(const cJSON *root, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
    if (!item) fail_msg("no \"%s\"", key);
    return item;
}

static double number(const cJSON *root, const char *key) {
    return get(root, key)->valuedouble;
}

/* The line of a system: "routed", "oracle", or an expert's name. */
static const cJSON *line_of(const cJSON *root, const char *name) {
    const cJSON *line;
    cJSON_ArrayForEach(line, get(root, "systems")) {
        const cJSON *expert = get(line, "expert");
        if (strcmp(cJSON_IsString(expert) ? expert->valuestring : get(line, "system")->valuestring, name) ==
            0)
            return line;
    }
    fail_msg("no line %s", name);
    return NULL;
}

/* Whether a graded answer is right: as the server means it, but for what no letter can be read from. */
static bool is_right(int x, int n) {
    if (n == 13 || (n == 11 && x == 1) || (n == 12 && x == 0)) return false;
    return knows(x, n);
}

static void check_accuracy(const cJSON *root, double threshold) {
    int routed = 0, single[EXPERTS] = {0}, oracle = 0;
    for (int n = 0; n < ROWS; n++) {
        const int x = confidence(n) < threshold ? 0 : predicted(n);
        bool any = false;
        routed += is_right(x, n);
        for (int e = 0; e < EXPERTS; e++) {
            single[e] += is_right(e, n);
            any |= is_right(e, n);
        }
        oracle += any;
    }
    assert_int_equal(number(root, "n"), ROWS);
    assert_int_equal(number(line_of(root, "routed"), "right"), routed);
    for (int e = 0; e < EXPERTS; e++) assert_int_equal(number(line_of(root, NAMES[e]), "right"), single[e]);
    assert_int_equal(number(line_of(root, "oracle"), "right"), oracle);
    assert_true(fabs(number(root, "regret") - (double)(oracle - routed) / ROWS) < 1e-9);
    const Interval w = metrics_wilson((uint64_t)routed, ROWS);
    const cJSON *a = get(line_of(root, "routed"), "accuracy");
    assert_true(fabs(number(a, "low") - w.low) < 1e-9 && fabs(number(a, "high") - w.high) < 1e-9);
}

/* ---- parts ---- */

static void test_bare(void **state) {
    (void)state;
    static const struct {
        const char *text, *bare;
    } CASES[] = {
        {"Why is the sky blue?", "Why is the sky blue?"},
        {"  Why?  ", "  Why?  "},
        {"Subject: anatomy\nWhich bone?", "Which bone?"},
        {"**Subject:** high school biology\n\nQuestion: What?\n", "What?\n"},
        {"Subject: anatomy Question: Which bone?", "Which bone?"},
        {"The following are multiple choice questions (with answers) about college law.\n\nWho?\nAnswer:",
         "Who?"},
        {"You are an expert in medicine.\nWhat helps?\n\nLet's think step by step.", "What helps?"},
        {"Question 12: What?\nA. one\nB. two\nC. three\nAnswer:", "What?"},
        {"What?\n(A) one\n(B) two", "What?"},
        {"What?\nA. one", "What?\nA. one"},
        {"What?\nB. one\nC. two", "What?\nB. one\nC. two"},
        {"What?\nA. one\nC. two", "What?\nA. one\nC. two"},
        {"A. one\nB. two", "A. one\nB. two"},
        {"Subject: anatomy", "Subject: anatomy"},
        {"Question:", "Question:"},
        {"Translate:\nSubject: lunch", "Translate:\nSubject: lunch"},
        {"Domain: x\nTopic: y\nQ: z", "z"},
        {"Answer the following question in French.\nWho?", "Answer the following question in French.\nWho?"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *text = CASES[i].text;
        size_t begin, end, options;
        live_question_bare(text, strlen(text), &begin, &end, &options);
        if (end - begin != strlen(CASES[i].bare) || memcmp(text + begin, CASES[i].bare, end - begin) != 0)
            fail_msg("of \"%s\": \"%.*s\"", text, (int)(end - begin), text + begin);
    }
}

static void test_letters(void **state) {
    (void)state;
    enum { NONE = LIVE_PROMPT_NONE, MORE = LIVE_PROMPT_SEVERAL };
    static const struct {
        const char *text;
        int letter;
        bool cut;
    } CASES[] = {
        {"ANSWER: C", 2, false},
        {"Step 1.\nANSWER: b", 1, false},
        {"answer: **D**", 3, false},
        {"The correct answer is therefore option (B), since A is too small.", 1, false},
        {"The answer is\n\n$\\boxed{\\text{C}}$.", 2, false},
        {"Final answer: \\(\\mathrm{A}\\)", 0, false},
        {"so \\boxed{D}", 3, false},
        {"so \\boxed{D}", NONE, true},
        {"ANSWER: A\nWait.\nANSWER: B", 1, false},
        {"I will end with ANSWER: X\n...\nANSWER: A", 0, false},
        {"ANSWER: B", 1, true},
        {"B", 1, false},
        {" (c) ", 2, false},
        {"**B.**", 1, false},
        {"B) the heart, because", 1, false},
        {"Option D", 3, false},
        {"After some thought:\nC", 2, false},
        {"After some thought:\nC", NONE, true},
        {"<think>the answer is A</think>The answer is B.", 1, false},
        {"<think>the answer is A", NONE, false},
        {"the answer is A</think>", NONE, false},
        {"The tag <think> begins thought. ANSWER: D", 3, false},
        {"The answer is A or C.", MORE, false},
        {"ANSWER: A, B", MORE, false},
        {"Answer: A and D", MORE, false},
        {"ANSWER: A/B", MORE, false},
        {"ANSWER: A, because it is", 0, false},
        {"ANSWER: E", NONE, false},
        {"The answer is a prime number", NONE, false},
        {"The answer is not A", NONE, false},
        {"I think A is wrong", NONE, false},
        {"A good answer needs more facts", NONE, false},
        {"None of them", NONE, false},
        {"The answer is Apple", NONE, false},
        {"answer: A-level", NONE, false},
        {"ANSWER: \xc3\x84", NONE, false},
        {"", NONE, false},
        {"   \n", NONE, false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const int found = live_prompt_letter(CASES[i].text, strlen(CASES[i].text), 4, CASES[i].cut);
        if (found != CASES[i].letter)
            fail_msg("of \"%s\": %d, expected %d", CASES[i].text, found, CASES[i].letter);
    }
    Buf text = {0}; /* the time stays linear */
    for (int i = 0; i < 40000; i++) buf_puts(&text, "answer {{");
    assert_int_equal(live_prompt_letter(text.data, text.len, 4, false), NONE);
    buf_free(&text);
}

static void test_verdicts(void **state) {
    (void)state;
    enum { YES = LIVE_VERDICT_CORRECT, NO = LIVE_VERDICT_INCORRECT, BAD = LIVE_VERDICT_BAD };
    static const struct {
        const char *text;
        int verdict;
    } CASES[] = {
        {"VERDICT: CORRECT", YES},
        {"They agree.\n**Verdict:** correct.", YES},
        {"verdict is INCORRECT", NO},
        {"Incorrect", NO},
        {"**CORRECT**\n", YES},
        {"VERDICT: CORRECT\n...\nVERDICT: INCORRECT", BAD},
        {"VERDICT: correctly so", BAD},
        {"VERDICT: maybe", BAD},
        {"The answer is correct.", BAD},
        {"yes", BAD},
        {"", BAD},
        {"<think>VERDICT: CORRECT</think>VERDICT: INCORRECT", NO},
        {"<think>VERDICT: CORRECT", BAD},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        if ((int)live_prompt_verdict(CASES[i].text, strlen(CASES[i].text)) != CASES[i].verdict)
            fail_msg("of \"%s\"", CASES[i].text);
}

/* The row of a line of JSON; false with its error. */
static bool take(LiveQuestions *q, const char *line, RowText *text, Err *err) {
    static Record record;
    ok(record_parse(&record, &(RecordRule){.label_optional = true}, line, strlen(line), err), err);
    const ErrCode rc = live_question_take(q, &record, text, err);
    assert_true(rc == ERR_OK || rc == ERR_FORMAT);
    static char copy[512]; /* of what the router gets */
    if (rc == ERR_OK && text->text) {
        assert_true(text->n < sizeof copy);
        memcpy(copy, text->text, text->n);
        copy[text->n] = 0;
        text->text = copy;
    }
    record_free(&record);
    return rc == ERR_OK;
}

static void test_questions(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int options, right;
        const char *routed, *error;
    } CASES[] = {
        {"{\"text\":\"Subject: "
         "law\\nWho?\",\"subject\":\"law\",\"choices\":[\"x\",\"y\",\"z\"],\"answer\":\"C\"}",
         3, 2, "Who?", NULL},
        {"{\"text\":\"Who?\",\"choices\":[\"x\",\"y\"],\"answer\":1}", 2, 1, "Who?", NULL},
        {"{\"text\":\"Who?\",\"choices\":[\"x\",\"y\"],\"answer\":\"y\"}", 2, 1, "Who?", NULL},
        {"{\"text\":\"Who?\",\"choices\":[\"x\",\"y\"],\"answer\":\"(b)\"}", 2, 1, "Who?", NULL},
        {"{\"text\":\"Who?\",\"choices\":{\"text\":[\"x\",\"y\"],\"label\":[\"1\",\"2\"]},\"answerKey\":"
         "\"2\"}",
         2, 1, "Who?", NULL},
        {"{\"text\":\"Who?\\nA. x\\nB. y\\nAnswer:\",\"answer\":\"B\"}", 2, 1, "Who?", NULL},
        {"{\"text\":\"Who?\\nA. x\\nB. y\",\"choices\":[\"x\",\"y\"],\"answer\":\"B\"}", 2, 1, "Who?", NULL},
        {"{\"text\":\"Who?\\nA. x\\nB. y\",\"choices\":[\"A only\",\"B only\"],\"answer\":\"B\"}", 2, 1,
         "Who?\nA. x\nB. y", NULL},
        {"{\"text\":\"Fix:\\nA. x\\nB. y\",\"reference\":\"z z\"}", 0, -1, "Fix:\nA. x\nB. y", NULL},
        {"{\"text\":\"2+2?\",\"answer\":4}", 0, -1, "2+2?", NULL},
        {"{\"text\":\"Who?\",\"choices\":[\"x\",\"y\"],\"answer\":\"C\"}", 0, 0, NULL,
         "expected a letter from A to B"},
        {"{\"text\":\"Who?\",\"choices\":[\"x\",\"y\"],\"answer\":2}", 0, 0, NULL, "an index from 0 to 1"},
        {"{\"text\":\"Who?\",\"choices\":[\"xx\",\"xx\"],\"answer\":\"xx\"}", 0, 0, NULL,
         "answer: found 'xx'"},
        {"{\"text\":\"Who?\",\"choices\":[\"x\"],\"answer\":\"A\"}", 0, 0, NULL, "at least two"},
        {"{\"text\":\"Who?\",\"choices\":\"x\",\"answer\":\"A\"}", 0, 0, NULL, "expected an array"},
        {"{\"text\":\"Who?\",\"choices\":[\"x\",1],\"answer\":\"A\"}", 0, 0, NULL, "expected strings"},
        {"{\"text\":\"Who?\"}", 0, 0, NULL, "no answer"},
        {"{\"text\":\"Who?\",\"answer\":[1]}", 0, 0, NULL, "a string or a number"},
        {"{\"text\":\"Who?\",\"answer\":\" \"}", 0, 0, NULL, "empty"},
    };
    LiveQuestions q = {0};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        RowText text;
        Err err = {0};
        const size_t before = q.count;
        const bool good = take(&q, CASES[i].line, &text, &err);
        if (CASES[i].error ? good || !strstr(err.msg, CASES[i].error) : !good)
            fail_msg("of %s: %s", CASES[i].line, err.msg);
        assert_int_equal(q.count, before + good);
        if (!good) continue;
        assert_string_equal(text.text, CASES[i].routed);
        assert_int_equal(q.items[before].options, CASES[i].options);
        assert_int_equal(q.items[before].right, CASES[i].right);
    }
    live_question_free(&q);
    /* Other rules. */
    static const char LINE[] =
        "{\"id\":\"7\",\"text\":\"Who?\",\"choices\":[\"x\",\"y\",\"z\",\"w\"],\"answer\":\"C\"}";
    Err err = {0};
    RowText text;
    q = (LiveQuestions){.rule = {.with_options = true, .grade = LIVE_GRADE_JUDGE}};
    assert_true(take(&q, LINE, &text, &err));
    assert_string_equal(text.text, "Who?\nA. x\nB. y\nC. z\nD. w");
    assert_true(q.items[0].right == -1 && strcmp(q.bytes.data + q.items[0].reference_at, "C. z") == 0);
    live_question_free(&q);
    q = (LiveQuestions){.rule = {.skip = true}};
    assert_true(take(&q, "{\"text\":\"Who?\"}", &text, &err) && !text.text && q.skipped == 1 && q.count == 0);
    live_question_free(&q);
    bool moved = false;
    for (uint64_t order = 0; order < 20; order++) {
        int right[2];
        for (int i = 0; i < 2; i++) { /* the order is a function of the seed and the row */
            q = (LiveQuestions){.rule = {.shuffle = true, .seed = order}};
            assert_true(take(&q, LINE, &text, &err));
            right[i] = q.items[0].right;
            assert_string_equal(live_question_option(&q, &q.items[0], right[i]), "z");
            live_question_free(&q);
        }
        assert_int_equal(right[0], right[1]);
        moved |= right[0] != 2;
    }
    assert_true(moved);
}

static void test_endpoints(void **state) {
    (void)state;
    static const struct {
        const char *json, *error;
    } CASES[] = {
        {"{\"base_url\":\"http://h/v1\",\"model\":\"m\"}", NULL},
        {"{\"model\":\"m\"}", "base_url"},
        {"{\"base_url\":\"ftp://h\",\"model\":\"m\"}", "base_url"},
        {"{\"base_url\":\"http://u:p@h/v1\",\"model\":\"m\"}", "without a name"},
        {"{\"base_url\":\"http://h/v1\"}", "no model"},
        {"{\"base_url\":\"http://h/v1\",\"model\":\"m\",\"max_tokens\":0}", "max_tokens"},
        {"{\"base_url\":\"http://h/v1\",\"model\":\"m\",\"tokens_field\":\"x\"}", "tokens_field"},
        {"{\"base_url\":\"http://h/v1\",\"model\":\"m\",\"extra\":{\"stream\":true}}", "\"stream\" is set"},
        {"{\"base_url\":\"http://h/v1\",\"model\":\"m\",\"extra\":1}", "extra"},
        {"{\"base_url\":\"http://h/v1\",\"model\":\"m\",\"temperature\":9}", "temperature"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Chat e;
        Err err = {0};
        cJSON *tree = cJSON_Parse(CASES[i].json);
        const ErrCode rc = experts_chat(&e, tree, &err);
        if (CASES[i].error ? rc == ERR_OK || !strstr(err.msg, CASES[i].error) : rc != ERR_OK)
            fail_msg("of %s: %s", CASES[i].json, err.msg);
        chat_free(&e);
        cJSON_Delete(tree);
    }
    Chat e;
    Err err = {0};
    Buf body = {0}, text = {0};
    cJSON *tree = cJSON_Parse(
        "{\"base_url\":\"https://h/v1//"
        "\",\"model\":\"m\\\"\",\"max_tokens\":7,\"tokens_field\":\"max_completion_tokens\","
        "\"temperature\":null,\"extra\":{\"top_k\":1},\"api_key_env\":\"TEST_LIVE_UNSET\"}");
    ok(experts_chat(&e, tree, &err), &err);
    cJSON_Delete(tree);
    assert_string_equal(e.url, "https://h/v1/chat/completions");
    chat_body(&body, &e, "hi\n", 3);
    assert_string_equal(body.data,
                        "{\"model\":\"m\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\\n\"}],"
                        "\"max_completion_tokens\":7,\"top_k\":1}");
    assert_int_equal(chat_unlock(&e, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "TEST_LIVE_UNSET"));
    assert_int_equal(setenv("TEST_LIVE_UNSET", GENERAL_KEY, 1), 0);
    ok(chat_unlock(&e, &err), &err);
    buf_puts(&text, "my key " GENERAL_KEY "," GENERAL_KEY " is no secret");
    chat_hide(&e, text.data, text.len);
    assert_null(strstr(text.data, "0123456789"));
    assert_int_equal(unsetenv("TEST_LIVE_UNSET"), 0);
    buf_free(&body);
    buf_free(&text);
    chat_free(&e);
}

static void test_judge_is_expert(void **state) {
    (void)state;
    Experts e;
    Err err = {0};
    Buf text = {0};
    for (int may = 0; may < 2; may++) {
        buf_clear(&text);
        buf_printf(&text,
                   "{\"experts\":[{\"name\":\"x\",\"price_in\":0,\"price_out\":0,\"base_url\":\"http://h/"
                   "v1\",\"model\":\"m\"}],"
                   "\"judge\":{\"base_url\":\"http://elsewhere/v1/\",\"model\":\"m\"%s}}",
                   may ? ",\"may_be_expert\":true" : "");
        write_file(in_folder("judge.json"), &text);
        const ErrCode rc = experts_read(&e, in_folder("judge.json"), LABEL_NAMES, LABELS, &err);
        assert_int_equal(rc, may ? ERR_OK : ERR_ARGUMENT);
        if (!may) assert_non_null(strstr(err.msg, "would grade itself"));
        if (may) assert_true(e.judge_is_expert);
        experts_free(&e);
    }
    buf_free(&text);
    static const char *const DOMAINS[] = {"math", "health", "science", "coding", "other"};
    ok(experts_read(&e, ROUTER_SOURCE_DIR "/configs/live-example.json", DOMAINS, 5, &err), &err);
    assert_true(e.count == 3 && e.judge.url && !e.judge_is_expert && e.fallback == 0);
    experts_free(&e);
}

/* ---- whole runs ---- */

/* What the router was given is what rows.jsonl has; its predictions file would have refused any other text. */
static void check_routed(const char *out) {
    Buf text = {0};
    read_file(&text, in_folder("%s/rows.jsonl", out));
    assert_null(strstr(text.data, "anatomy"));
    assert_null(strstr(text.data, "thing"));
    assert_null(strstr(text.data, "Question:"));
    for (int n = 0; n < ROWS; n++)
        assert_non_null(
            strstr(text.data, in_folder("This is question number %d of them.\"", n) + strlen(folder) + 1));
    buf_free(&text);
}

static void test_run(void **state) {
    (void)state;
    reset_model();
    expect(0, in_folder("plain"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--concurrency", "5"));
    assert_int_equal(sum_asked(), ROWS * EXPERTS);
    assert_true(http_server_most_at_once(server) <= 5);
    assert_int_equal(model.wrong_keys + model.unknown + model.leaked, 0);
    assert_non_null(strstr(model.last, "\"temperature\":0,\"max_tokens\":100"));
    assert_non_null(strstr(model.last, "Think step by step"));
    assert_null(strstr(model.last, "\"system\""));
    cJSON *root = results(in_folder("plain"));
    check_accuracy(root, 0);
    check_routed("plain");
    assert_int_equal(number(line_of(root, "mathy"), "cut"), 1);
    assert_int_equal(number(line_of(root, "mathy"), "no_letter"), 2);
    assert_int_equal(number(line_of(root, "general"), "no_letter"), 2);
    double in = 0, cost = 0;
    for (int n = 0; n < ROWS; n++) {
        in += 50 + n;
        cost += 1e-6 * ((50 + n) * 20 + (20 + 1) * 40);
    }
    assert_true(fabs(number(line_of(root, "mathy"), "tokens_in") - in / ROWS) < 1e-6);
    assert_true(fabs(number(line_of(root, "mathy"), "cost") - 1000 * cost / ROWS) < 1e-6);
    assert_int_equal(number(get(root, "spent"), "requests"), ROWS * EXPERTS);
    const cJSON *experts = get(get(root, "spent"), "experts");
    assert_int_equal(number(experts, "tokens_in") + number(experts, "tokens_out"), model.tokens);
    int stripped = 0;
    for (int n = 0; n < ROWS; n++) stripped += n % 4 != 0 || n % 5 == 4;
    assert_int_equal(number(get(root, "protocol"), "stripped"), stripped);
    int misrouted = 0;
    const cJSON *domain;
    cJSON_ArrayForEach(domain, get(root, "domains")) misrouted += (int)number(domain, "misrouted");
    int wrong = 0;
    for (int n = 0; n < ROWS; n++) wrong += predicted(n) != n % LABELS;
    assert_int_equal(misrouted, wrong);
    cJSON_Delete(root);
    /* Everything is there: nothing is asked again, even with another router, threshold and sample. */
    expect(0, in_folder("plain"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--threshold", "0.7"));
    root = results(in_folder("plain"));
    check_accuracy(root, 0.7);
    assert_int_equal(number(get(root, "router"), "abstained"), ROWS / 5);
    cJSON_Delete(root);
    expect(0, in_folder("plain"),
           WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--sample", "7", "--against", "none", "--json"));
    root = results(in_folder("plain"));
    assert_int_equal(number(root, "n"), 7);
    assert_true(cJSON_IsNull(get(root, "best_single")) && cJSON_IsNull(get(root, "regret")));
    assert_int_equal(number(get(root, "spent"), "run_requests"), 0);
    cJSON_Delete(root);
    assert_int_equal(sum_asked(), ROWS * EXPERTS);
    /* A router that saw subject lines saw other texts. */
    assert_int_equal(rename(in_folder("router.jsonl"), in_folder("router.bare")), 0);
    write_router(in_folder("router.jsonl"), false);
    expect(1, in_folder("plain"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    assert_int_equal(rename(in_folder("router.bare"), in_folder("router.jsonl")), 0);
}

static void test_system(void **state) {
    (void)state;
    reset_model();
    expect(0, in_folder("system"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    const char *args[] = {ROUTER_PROGRAM,
                          "system",
                          in_folder("router.jsonl"),
                          "--experts",
                          in_folder("system/experts.json"),
                          "--data",
                          in_folder("system/rows.jsonl"),
                          "--json",
                          "--quiet",
                          NULL};
    const pid_t pid = fork();
    if (pid == 0) {
        const int result = open(in_folder("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (result < 0 || dup2(result, 1) < 0) _exit(99);
        (void)execv(ROUTER_PROGRAM, (char *const *)(uintptr_t)args);
        _exit(98);
    }
    assert_int_equal(finish(pid), 0);
    Err err = {0};
    cJSON *system = NULL, *live = results(in_folder("system"));
    ok(json_read(&system, in_folder("stdout"), &err), &err);
    const cJSON *line;
    int seen = 0;
    cJSON_ArrayForEach(line, get(system, "systems")) {
        const cJSON *kind = get(line, "system"), *map = get(line, "map"), *expert = get(line, "expert");
        const bool routed =
            strcmp(kind->valuestring, "routed") == 0 && strcmp(map->valuestring, "by_hand") == 0;
        if (!routed && strcmp(kind->valuestring, "single") != 0) continue;
        const cJSON *same = line_of(live, routed ? "routed" : expert->valuestring);
        assert_true(fabs(number(get(line, "accuracy"), "value") - number(get(same, "accuracy"), "value")) <
                    1e-9);
        assert_true(fabs(number(line, "cost") - number(same, "cost")) < 1e-6);
        seen++;
    }
    assert_int_equal(seen, 1 + EXPERTS);
    cJSON_Delete(system);
    cJSON_Delete(live);
}

static void test_shuffled(void **state) {
    (void)state;
    reset_model();
    expect(0, in_folder("shuffled"),
           WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--shuffle-options", "--seed", "5"));
    cJSON *root = results(in_folder("shuffled"));
    check_accuracy(root, 0);
    cJSON_Delete(root);
}

static void test_judged(void **state) {
    (void)state;
    reset_model();
    expect(2, in_folder("unjudged"), WITH(in_folder("free.jsonl"), "--max-cost", "10"));
    expect_message("no judge");
    assert_int_equal(sum_asked(), 0);
    write_experts(in_folder("experts.json"), "", 10);
    expect(0, in_folder("judged"), WITH(in_folder("free.jsonl"), "--max-cost", "10"));
    cJSON *root = results(in_folder("judged"));
    int right = 0, judgements = 0; /* one for each different answer */
    for (int n = 0; n < ROWS; n++) {
        right += n != 5 && knows(1, n);
        judgements += 1 + (n > 0 && (knows(0, n) != knows(1, n) || knows(1, n) != knows(2, n)));
    }
    assert_int_equal(number(line_of(root, "mathy"), "right"), right + !knows(1, 0)); /* 0 is 0 * 11, too */
    assert_int_equal(number(line_of(root, "mathy"), "bad_judgements"), 1);
    assert_int_equal(sum_asked(), ROWS * EXPERTS + judgements);
    assert_int_equal(model.wrong_keys, 0);
    assert_int_equal(number(get(get(root, "spent"), "judge"), "tokens_in"), 30 * judgements);
    cJSON_Delete(root);
    /* Letters by the judge, too. */
    reset_model();
    model.verdict = "VERDICT: CORRECT";
    expect(0, in_folder("judged-letters"),
           WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--grade", "judge", "--sample", "6"));
    assert_non_null(strstr(model.last, "<reference>"));
    root = results(in_folder("judged-letters"));
    assert_int_equal(number(line_of(root, "routed"), "right"), 6);
    cJSON_Delete(root);
    write_experts(in_folder("experts.json"), NULL, 10);
}

/* Everything that servers do wrong, and still the same results; each request that failed is made again, no other. */
static void test_faults(void **state) {
    (void)state;
    reset_model();
    model.faults = true;
    write_experts(in_folder("experts.json"), NULL, 0.7);
    expect(0, in_folder("faults"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--concurrency", "32"));
    cJSON *root = results(in_folder("faults"));
    check_accuracy(root, 0);
    for (int x = 0; x < EXPERTS; x++)
        for (int n = 0; n < ROWS; n++) {
            const int fault = (n * 3 + x) % (FAULTS + 3);
            assert_int_equal(model.asked[x][n], fault == FINE || fault >= FAULTS ? 1 : 2 + (n & 1));
            assert_int_equal(model.answered[x][n], 1);
        }
    assert_int_equal(number(get(root, "spent"), "requests"), sum_asked());
    assert_true(number(get(get(root, "spent"), "lost"), "tokens_out") > 0);
    cJSON_Delete(root);
    write_experts(in_folder("experts.json"), NULL, 10);
}

static void test_refusals(void **state) {
    (void)state;
    /* One question is refused: a wrong answer, also in the next run. */
    reset_model();
    model.refuse = 400;
    model.refuse_row = 8;
    expect(0, in_folder("refused"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--concurrency", "1"));
    cJSON *root = results(in_folder("refused"));
    assert_int_equal(number(line_of(root, "general"), "refused"), 1);
    assert_int_equal(number(root, "n"), ROWS);
    cJSON_Delete(root);
    reset_model();
    expect(0, in_folder("refused"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    assert_true(sum_asked() <=
                EXPERTS); /* those that were refused before their model had answered anything */
    /* A model that refuses everything, and other things that no other question would change. */
    static const struct {
        int status, most;
        const char *message;
    } CASES[] = {{400, 200, "5 questions in a row were refused"},
                 {401, 8, "api_key_env"},
                 {404, 8, "status 404"},
                 {302, 8, "status 302"}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        reset_model();
        model.refuse = CASES[i].status;
        model.refuse_expert = 1;
        expect(1, in_folder("refused-%d", CASES[i].status),
               WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
        expect_message(CASES[i].message);
        int asked = 0;
        for (int n = 0; n < ROWS; n++) asked += model.asked[1][n];
        assert_true(asked >= 1 && asked <= CASES[i].most);
        /* ... and none of it is kept */
        reset_model();
        expect(0, in_folder("refused-%d", CASES[i].status),
               WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
        root = results(in_folder("refused-%d", CASES[i].status));
        check_accuracy(root, 0);
        cJSON_Delete(root);
    }
    /* A server that is down, or that wants to be left alone for long. */
    reset_model();
    model.refuse = 500;
    model.refuse_expert = 2;
    expect(1, in_folder("down"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--attempts", "2"));
    expect_message("5 questions in a row got no answer in 2 attempts");
    reset_model();
    model.refuse = 429;
    model.retry_after = "86400";
    expect(1, in_folder("later"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    expect_message("asks to wait for 86400 s");
    /* One question that never gets an answer is left out, and the run says so. */
    reset_model();
    model.refuse = 500;
    model.refuse_row = 8;
    model.refuse_expert = 1;
    expect(3, in_folder("gone"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--attempts", "3"));
    expect_message("39 of 40 rows");
    assert_int_equal(model.asked[1][8], 3);
}

static int64_t worst(void) { /* tokens that a request of these rows can have at most */
    return 1200 + 100;
}

static void test_limits(void **state) {
    (void)state;
    for (int concurrency = 1; concurrency <= 8; concurrency += 7) {
        char at_a_time[16], out[32];
        (void)snprintf(at_a_time, sizeof at_a_time, "%d", concurrency);
        /* Requests: exactly so many, over two runs. */
        reset_model();
        (void)snprintf(out, sizeof out, "requests-%d", concurrency);
        expect(3, in_folder("%s", out),
               WITH(in_folder("rows.jsonl"), "--max-requests", "7", "--concurrency", at_a_time));
        expect_message("limit of requests");
        assert_int_equal(sum_asked(), 7);
        expect(3, in_folder("%s", out),
               WITH(in_folder("rows.jsonl"), "--max-requests", "20", "--concurrency", at_a_time));
        assert_int_equal(sum_asked(), 20);
        cJSON *root = results(in_folder("%s", out));
        assert_int_equal(number(root, "n"), 6); /* row by row */
        assert_string_equal(get(root, "stopped")->valuestring, "requests");
        cJSON_Delete(root);
        /* Tokens and money: never more, and no room for one more request. */
        reset_model();
        (void)snprintf(out, sizeof out, "tokens-%d", concurrency);
        expect(3, in_folder("%s", out),
               WITH(in_folder("rows.jsonl"), "--max-tokens", "5000", "--concurrency", at_a_time));
        expect_message("limit of tokens");
        assert_true(model.tokens <= 5000 && model.tokens > 5000 - worst());
        reset_model();
        (void)snprintf(out, sizeof out, "cost-%d", concurrency);
        expect(3, in_folder("%s", out),
               WITH(in_folder("rows.jsonl"), "--max-cost", "0.1", "--concurrency", at_a_time));
        expect_message("limit of cost");
        root = results(in_folder("%s", out));
        const double cost = number(get(get(root, "spent"), "experts"), "cost");
        assert_true(cost <= 0.1 && cost > 0.1 - 1e-6 * 60 * (double)worst());
        cJSON_Delete(root);
    }
    /* Answers that are lost count as if they had been paid in full. */
    reset_model();
    model.refuse = 200; /* "error", that is, without a completion */
    expect(3, in_folder("lost"), WITH(in_folder("rows.jsonl"), "--max-tokens", "3000", "--concurrency", "1"));
    expect_message("0 of 40 rows");
    assert_true(sum_asked() >= 1 && sum_asked() <= 6);
    /* Time. */
    reset_model();
    model.delay_s = 0.2;
    expect(3, in_folder("time"),
           WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--max-minutes", "0.01", "--concurrency", "2"));
    expect_message("limit of time");
    assert_true(sum_asked() < ROWS * EXPERTS);
    reset_model();
    model.refuse = 503; /* pauses end with the time */
    expect(3, in_folder("pauses"),
           WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--max-minutes", "0.01", "--pause", "3000"));
    expect_message("limit of time");
    /* No limit where there are prices is a mistake; a dry run sends nothing. */
    reset_model();
    expect(2, in_folder("unlimited"), WITH(in_folder("rows.jsonl")));
    expect_message("--max-cost");
    expect(0, in_folder("dry"), WITH(in_folder("rows.jsonl"), "--dry-run"));
    assert_false(file_exists(in_folder("dry")));
    Buf text = {0};
    read_file(&text, in_folder("stdout"));
    assert_non_null(strstr(text.data, "120 would be sent"));
    buf_free(&text);
    assert_int_equal(sum_asked(), 0);
}

static void test_uncounted(void **state) {
    (void)state;
    reset_model();
    model.usage_missing = true;
    expect(0, in_folder("uncounted"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--sample", "4"));
    cJSON *root = results(in_folder("uncounted"));
    assert_int_equal(number(line_of(root, "mathy"), "uncounted"), 4);
    assert_int_equal(number(line_of(root, "mathy"), "tokens_out"), 100); /* the upper bound */
    cJSON_Delete(root);
}

/* ---- killed ---- */

typedef struct {
    int asked[EXPERTS][ROWS]; /* when an answer was found in the journal; 0: none yet */
} Known;

static void read_journal(Known *known, const char *path) {
    Lines *lines;
    Err err = {0};
    const char *text;
    size_t n;
    bool more = true;
    ok(lines_open(&lines, path, &err), &err);
    while (lines_next(lines, &text, &n, &more, &err) == ERR_OK && more) {
        if (n == 0 || text[n - 1] != '}') break; /* torn */
        const char *kind = strstr(text, "\"kind\":\"answer\""), *id = strstr(text, "\"id\":\"row-"),
                   *name = strstr(text, "\"model\":\"");
        if (!kind || !id || !name) continue;
        const int row = (int)strtol(id + 10, NULL, 10);
        for (int x = 0; x < EXPERTS; x++)
            if (strncmp(name + 9, NAMES[x], strlen(NAMES[x])) == 0 && !known->asked[x][row])
                known->asked[x][row] = model.asked[x][row];
    }
    lines_close(lines);
}

static void read_answers(Buf *out, const char *path) {
    Buf text = {0};
    read_file(&text, path);
    for (char *line = text.data; *line; line = strchr(line, '\n') + 1) { /* all but the time they took */
        const char *end = strstr(line, ", \"seconds\"");
        buf_put(out, line, (size_t)(end - line));
        buf_puts(out, "\n");
    }
    buf_free(&text);
}

static void test_kill(void **state) {
    (void)state;
    enum { KILLS = 12, AT_A_TIME = 4 };
    char rows[600]; /* what in_folder() gives does not last */
    (void)snprintf(rows, sizeof rows, "%s", in_folder("rows.jsonl"));
    const char *const *options = WITH(rows, "--max-cost", "10", "--concurrency", "4");
    Known known = {0};
    Buf a = {0}, b = {0};
    reset_model();
    expect(0, in_folder("whole"), options);
    reset_model();
    model.delay_s = 0.01;
    int killed = 0;
    for (int run = 0; run < KILLS; run++) {
        const pid_t pid = start(in_folder("killed"), options);
        const struct timespec nap = {0, 30000000 + (long)(rng_bits(9, (uint64_t)run) % 60000000)};
        (void)nanosleep(&nap, NULL);
        (void)kill(pid, run == KILLS / 2 ? SIGINT : SIGKILL);
        const int status = finish(pid);
        killed += status == -SIGKILL;
        if (run == KILLS / 2 && status != 0 && status != 130 && status != -SIGINT)
            fail_msg("status %d: %s", status, messages());
        if (file_exists(in_folder("killed/journal.jsonl")))
            read_journal(&known, in_folder("killed/journal.jsonl"));
    }
    assert_true(killed > 0);
    expect(0, in_folder("killed"), options);
    for (int x = 0; x < EXPERTS; x++)
        for (int n = 0; n < ROWS; n++)
            if (known.asked[x][n]) assert_int_equal(model.asked[x][n], known.asked[x][n]); /* never again */
    assert_true(sum_asked() >= ROWS * EXPERTS && sum_asked() <= ROWS * EXPERTS + KILLS * AT_A_TIME);
    cJSON *root = results(in_folder("killed"));
    check_accuracy(root, 0);
    const double requests =
        number(get(root, "spent"), "requests"); /* a request may be written down and never leave */
    assert_true(requests >= sum_asked() && requests <= sum_asked() + KILLS * AT_A_TIME);
    cJSON_Delete(root);
    read_answers(&a, in_folder("whole/answers.jsonl"));
    read_answers(&b, in_folder("killed/answers.jsonl"));
    assert_string_equal(a.data, b.data);
    buf_free(&a);
    buf_free(&b);
}

/* ---- keys ---- */

static void assert_no_key(const char *path) {
    Buf text = {0};
    read_file(&text, path);
    for (size_t i = 0; i + 16 <= text.len; i++)
        if (memcmp(text.data + i, "0123456789abcdef", 16) == 0) fail_msg("%s has a key", path);
    buf_free(&text);
}

static void test_keys(void **state) {
    (void)state;
    reset_model();
    model.echo_key = true;
    assert_int_equal(setenv("OPENAI_API_KEY", "sk-openai-not-for-anyone", 1), 0);
    expect(0, in_folder("keys"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    assert_int_equal(unsetenv("OPENAI_API_KEY"), 0);
    assert_int_equal(model.wrong_keys, 0); /* each its own; none where none is named */
    char **names;
    size_t count;
    Err err = {0};
    ok(file_list(&names, &count, in_folder("keys"), &err), &err);
    assert_int_equal(count, 5 + EXPERTS);
    for (size_t i = 0; i < count; i++) assert_no_key(in_folder("keys/%s", names[i]));
    file_list_free(names, count);
    reset_model();
    model.refuse = 401;
    expect(1, in_folder("keys-refused"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    assert_no_key(in_folder("stderr"));
    assert_no_key(in_folder("keys-refused/journal.jsonl"));
    assert_int_equal(unsetenv("TEST_LIVE_GENERAL"), 0);
    expect(2, in_folder("keyless"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    expect_message("TEST_LIVE_GENERAL, which api_key_env names, is not set");
    assert_int_equal(setenv("TEST_LIVE_GENERAL", GENERAL_KEY, 1), 0);
}

/* ---- mistakes ---- */

static void test_mistakes(void **state) {
    (void)state;
    Buf text = {0};
    reset_model();
    expect(2, in_folder("bad"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--against", "nobody"));
    expect_message("'nobody' is no expert");
    buf_puts(&text, "{\"id\": \"row-1\", \"text\": \"x\", \"label\": \"math\"}\n");
    write_file(in_folder("bad.jsonl"), &text);
    expect(1, in_folder("bad"), WITH(in_folder("bad.jsonl"), "--max-cost", "10"));
    expect_message("bad.jsonl:1: no answer");
    buf_clear(&text);
    for (int i = 0; i < 2; i++)
        buf_puts(&text,
                 "{\"id\": \"row-1\", \"text\": \"This is question number 1 of them.\", \"label\": \"math\", "
                 "\"choices\": [\"x\", \"y\"], \"answer\": 0}\n");
    write_file(in_folder("bad.jsonl"), &text);
    expect(1, in_folder("bad"), WITH(in_folder("bad.jsonl"), "--max-cost", "10"));
    expect_message("two rows have the id 'row-1'");
    expect(2, in_folder("bad"), WITH(in_folder("rows.jsonl"), "--max-cost", "10", "--threshold", "2"));
    /* A journal of something else, and a damaged one. */
    Err err = {0};
    ok(file_mkdirs(in_folder("bad"), &err), &err);
    buf_clear(&text);
    buf_puts(&text, "hello\nhello\n");
    write_file(in_folder("bad/journal.jsonl"), &text);
    expect(1, in_folder("bad"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    expect_message("journal.jsonl:1: damaged");
    assert_int_equal(sum_asked(), 0);
    buf_free(&text);
}

/* ---- memory ---- */

static ErrCode everything(const Experts *experts, const char *journal, Err *err) {
    Rows rows = {0};
    LiveQuestions q = {0};
    LiveBook *book = NULL;
    LiveScore score = {0};
    Buf json = {0};
    const RowsRule rule = {.split = SPLIT_COUNT, .take = live_question_take, .arg = &q};
    static int expert[ROWS], label[ROWS];
    static bool abstained[ROWS], wanted[ROWS * EXPERTS];
    static double router_cost[ROWS], p[ROWS * LABELS];
    memset(wanted, 1, sizeof wanted);
    for (int n = 0; n < ROWS; n++) {
        p[n * LABELS + predicted(n)] = 1;
        expert[n] = predicted(n);
        label[n] = n % LABELS;
    }
    const LiveRoutes routes = {expert, abstained, label, wanted, router_cost};
    ErrCode rc = rows_read(&rows, in_folder("rows.jsonl"), &rule, LABEL_NAMES, LABELS, err);
    if (rc == ERR_OK) rc = live_book_open(&book, experts, &q, &rows, wanted, journal, err);
    if (rc == ERR_OK) rc = live_score_compute(&score, book, experts, &routes, LABELS, err);
    if (rc == ERR_OK) {
        const AskRun run = {0};
        const LiveReport r = {.path = "router",
                              .kind = "blob",
                              .labels = LABEL_NAMES,
                              .set = "rows",
                              .rows = &rows,
                              .p = p,
                              .threshold = -1,
                              .questions = &q,
                              .experts = experts,
                              .book = book,
                              .routes = &routes,
                              .run = &run,
                              .score = &score};
        live_report_json(&json, &r);
        live_report_table(&json, &r);
        rc = buf_ok(&json, err);
        if (rc == ERR_OK) rc = live_report_save(&r, in_folder("memory"), &json, err);
    }
    live_score_free(&score);
    live_book_close(book);
    live_question_free(&q);
    rows_free(&rows);
    buf_free(&json);
    return rc;
}

static void test_memory(void **state) {
    (void)state;
    Experts experts;
    Err err = {0};
    reset_model();
    expect(0, in_folder("memory"), WITH(in_folder("rows.jsonl"), "--max-cost", "10"));
    ok(experts_read(&experts, in_folder("experts.json"), LABEL_NAMES, LABELS, &err), &err);
    ok(everything(&experts, in_folder("memory/journal.jsonl"), &err), &err);
    const size_t before = mem_count();
    ok(everything(&experts, in_folder("memory/journal.jsonl"), &err), &err);
    const size_t all = mem_count() - before;
    for (size_t n = 1; n <= all; n += 1 + n / 12) {
        err = (Err){0};
        mem_fail_at(n);
        const ErrCode rc = everything(&experts, in_folder("memory/journal.jsonl"), &err);
        mem_fail_at(0);
        assert_int_equal(rc, ERR_MEMORY);
        assert_true(err.msg[0] != 0);
    }
    experts_free(&experts);
    for (size_t n = 1; n < 60; n++) {
        mem_fail_at(n);
        const ErrCode rc = experts_read(&experts, in_folder("experts.json"), LABEL_NAMES, LABELS, &err);
        mem_fail_at(0);
        assert_true(rc == ERR_OK || rc == ERR_MEMORY);
        experts_free(&experts);
    }
}

static int set_up(void **state) {
    (void)state;
    server = http_server_start(handle, NULL);
    if (!server) return -1;
    if (setenv("TEST_LIVE_GENERAL", GENERAL_KEY, 1) != 0 || setenv("TEST_LIVE_JUDGE", JUDGE_KEY, 1) != 0)
        return -1;
    write_rows(in_folder("rows.jsonl"), true);
    write_rows(in_folder("free.jsonl"), false);
    write_router(in_folder("router.jsonl"), true);
    write_experts(in_folder("experts.json"), NULL, 10);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    http_server_stop(server);
    return 0;
}

int main(void) {
    if (!folder_open("/tmp")) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bare),      cmocka_unit_test(test_letters),
        cmocka_unit_test(test_verdicts),  cmocka_unit_test(test_questions),
        cmocka_unit_test(test_endpoints), cmocka_unit_test(test_judge_is_expert),
        cmocka_unit_test(test_run),       cmocka_unit_test(test_system),
        cmocka_unit_test(test_shuffled),  cmocka_unit_test(test_judged),
        cmocka_unit_test(test_faults),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_uncounted),
        cmocka_unit_test(test_kill),      cmocka_unit_test(test_keys),
        cmocka_unit_test(test_mistakes),  cmocka_unit_test(test_memory),
    };
    return folder_close(cmocka_run_group_tests(tests, set_up, tear_down));
}
