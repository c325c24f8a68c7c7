#include "eval/live_question.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "core/text.h"

enum { LINE_MAX = 240, VALUE_MAX = 100 };

/* ---- what a router must not see ---- */

typedef struct {
    const char *s;
    size_t n;
} Part;

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static Part trim(Part p, const char *also) {
    while (p.n && (is_space(p.s[0]) || (p.s[0] && strchr(also, p.s[0])))) {
        p.s++;
        p.n--;
    }
    while (p.n && (is_space(p.s[p.n - 1]) || (p.s[p.n - 1] && strchr(also, p.s[p.n - 1])))) p.n--;
    return p;
}

static bool begins(Part p, const char *word) {
    const size_t n = strlen(word);
    return p.n >= n && strncasecmp(p.s, word, n) == 0;
}

static bool begins_any(Part p, const char *const *words, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (begins(p, words[i])) return true;
    return false;
}

/* Bytes of a "Question:" or "Q12." that p begins with, spaces behind it included; else 0. */
static size_t question_word(Part p) {
    const char *const WORDS[] = {"question", "q"};
    for (size_t i = 0; i < 2; i++) {
        if (!begins(p, WORDS[i])) continue;
        size_t at = strlen(WORDS[i]);
        while (at < p.n && p.s[at] == ' ') at++;
        while (at < p.n && p.s[at] >= '0' && p.s[at] <= '9') at++;
        while (at < p.n && p.s[at] == '*') at++;
        if (at == p.n || p.s[at] != ':') continue;
        at++;
        while (at < p.n && (is_space(p.s[at]) || p.s[at] == '*')) at++;
        return at;
    }
    return 0;
}

/* "Subject: high school biology" */
static bool names_subject(Part line) {
    static const char *const KEYS[] = {"subject", "topic",  "category",   "domain", "course",
                                       "exam",    "source", "difficulty", "level",  "dataset"};
    const char *colon = memchr(line.s, ':', line.n);
    if (!colon) return false;
    const Part key = trim((Part){line.s, (size_t)(colon - line.s)}, "*#[(_");
    const Part value = trim((Part){colon + 1, line.n - (size_t)(colon - line.s) - 1}, "*_");
    if (value.n > VALUE_MAX) return false;
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (key.n == strlen(KEYS[i]) && begins(key, KEYS[i])) return true;
    return false;
}

static bool is_wrapper(Part line) {
    static const char *const OPENINGS[] = {"the following are multiple choice",
                                           "the following are multiple-choice",
                                           "the following is a multiple choice",
                                           "the following is a multiple-choice",
                                           "below is a multiple choice",
                                           "below is a multiple-choice",
                                           "answer the following multiple choice",
                                           "answer the following multiple-choice",
                                           "you are an expert"};
    static const char *const WHOLE[] = {"answer the following question", "answer the following questions",
                                        "please answer the following question",
                                        "you are a helpful assistant"};
    const Part p = trim(line, "*#[(_");
    const Part words = trim(p, ".:");
    bool whole = false;
    for (size_t i = 0; i < sizeof WHOLE / sizeof *WHOLE; i++)
        whole |= words.n == strlen(WHOLE[i]) && begins(words, WHOLE[i]);
    return whole || names_subject(p) || begins_any(p, OPENINGS, sizeof OPENINGS / sizeof *OPENINGS);
}

static bool is_request(Part line) {
    static const char *const OPENINGS[] = {"let's think step",
                                           "let us think step",
                                           "think step by step",
                                           "please think step",
                                           "answer with the letter",
                                           "answer with only the letter",
                                           "answer with a single letter",
                                           "respond with the letter",
                                           "respond with only the letter",
                                           "please answer with the letter",
                                           "the answer is:",
                                           "the correct answer is:"};
    const Part p = trim(line, "*#_");
    if (p.n > LINE_MAX) return false;
    if (begins_any(p, OPENINGS, sizeof OPENINGS / sizeof *OPENINGS)) return true;
    return (p.n == 7 && begins(p, "answer:")) || (p.n == 2 && begins(p, "a:")) ||
           (p.n == 13 && begins(p, "final answer:"));
}

static size_t line_end(const char *text, size_t at, size_t n) {
    const char *newline = memchr(text + at, '\n', n - at);
    return newline ? (size_t)(newline - text) : n;
}

static size_t skip_space(const char *text, size_t at, size_t n) {
    while (at < n && is_space(text[at])) at++;
    return at;
}

/* A subject and its question on one line: where "Question:" is; else 0. */
static size_t question_within(Part line) {
    for (size_t i = 1; i < line.n && i <= LINE_MAX; i++)
        if (is_space(line.s[i - 1]) && question_word((Part){line.s + i, line.n - i})) return i;
    return 0;
}

static size_t bare_begin(const char *text, size_t n) {
    size_t begin = skip_space(text, 0, n);
    bool stripped = false;
    while (begin < n) {
        const size_t word = question_word((Part){text + begin, n - begin});
        if (word && begin + word < n) return begin + word;
        const size_t end = line_end(text, begin, n), next = skip_space(text, end, n);
        const Part line = {text + begin, end - begin};
        const size_t within = question_within(line);
        if (within && is_wrapper((Part){line.s, within})) {
            begin += within;
        } else if (line.n <= LINE_MAX && next < n && is_wrapper(line)) {
            begin = next;
        } else {
            break;
        }
        stripped = true;
    }
    return stripped ? begin : 0;
}

static size_t bare_end(const char *text, size_t begin, size_t n) {
    size_t end = n, kept = n;
    begin = skip_space(text, begin, n); /* something remains */
    for (;;) {
        while (end > begin && is_space(text[end - 1])) end--;
        size_t line = end;
        while (line > begin && text[line - 1] != '\n') line--;
        if (line <= begin || !is_request((Part){text + line, end - line})) return kept;
        end = line;
        while (end > begin && is_space(text[end - 1])) end--;
        kept = end;
    }
}

/* ---- options within a text ---- */

/* Bytes of the mark of an option, "A. " or "(A) ", at the beginning of a line; *letter is its index. */
static size_t option_mark(Part line, int *letter) {
    size_t at = 0;
    while (at < line.n && (line.s[at] == ' ' || line.s[at] == '\t')) at++;
    const bool open = at < line.n && line.s[at] == '(';
    at += open;
    if (at + 1 >= line.n || line.s[at] < 'A' || line.s[at] > 'Z') return 0;
    *letter = line.s[at] - 'A';
    const char close = line.s[at + 1];
    if (close != ')' && (open || (close != '.' && close != ':'))) return 0;
    at += 2;
    if (at < line.n && !is_space(line.s[at])) return 0;
    while (at < line.n && (line.s[at] == ' ' || line.s[at] == '\t')) at++;
    return at;
}

/* Where the options begin that the text ends with; `end` without at least two. */
static size_t find_options(const char *text, size_t begin, size_t end) {
    size_t first = end;
    int next = 0;
    for (size_t at = begin; at < end;) {
        const size_t stop = line_end(text, at, end);
        int letter;
        if (option_mark((Part){text + at, stop - at}, &letter)) {
            if (letter == 0) {
                first = at;
                next = 1;
            } else if (letter == next && first < end) {
                next++;
            } else {
                first = end;
                next = 0;
            }
        }
        at = stop + 1;
    }
    return next >= 2 ? first : end;
}

void live_question_bare(const char *text, size_t n, size_t *begin, size_t *end, size_t *options) {
    *begin = bare_begin(text, n);
    *end = bare_end(text, *begin, n);
    if (!options) return;
    *options = find_options(text, *begin, *end);
    if (*options == *end) return;
    size_t kept = *options;
    while (kept > *begin && is_space(text[kept - 1])) kept--;
    if (kept == *begin)
        *options = *end; /* nothing but options: they are the question */
    else
        *end = kept;
}

/* ---- rows ---- */

typedef struct {
    Part options[LIVE_QUESTION_OPTIONS], labels[LIVE_QUESTION_OPTIONS];
    int count, labelled;
} Options;

static cJSON *find_member(const Record *r, const char *field, const char *const *names, size_t count) {
    cJSON *found = field ? cJSON_GetObjectItemCaseSensitive(r->tree, field) : NULL;
    for (size_t i = 0; i < count && !field && !found; i++) {
        found = cJSON_GetObjectItemCaseSensitive(r->tree, names[i]);
        if (found && cJSON_IsNull(found)) found = NULL;
    }
    return found && !cJSON_IsNull(found) ? found : NULL;
}

static ErrCode read_texts(Part *out, int *count, const cJSON *list, Err *err) {
    cJSON *item;
    *count = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > LIVE_QUESTION_OPTIONS)
        return err_set(err, ERR_FORMAT, "options: expected an array of 2 to %d strings",
                       LIVE_QUESTION_OPTIONS);
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item)) return err_set(err, ERR_FORMAT, "options: expected strings");
        Part *p = &out[(*count)++];
        p->s = json_text(item, &p->n);
    }
    return ERR_OK;
}

static ErrCode read_options(Options *o, const cJSON *item, Err *err) {
    if (!item) return ERR_OK;
    const cJSON *list = cJSON_IsObject(item) ? cJSON_GetObjectItemCaseSensitive(item, "text") : item;
    TRY(read_texts(o->options, &o->count, list, err));
    if (list != item) {
        TRY(read_texts(o->labels, &o->labelled, cJSON_GetObjectItemCaseSensitive(item, "label"), err));
        if (o->labelled != o->count)
            return err_set(err, ERR_FORMAT, "options: %d texts and %d labels", o->count, o->labelled);
    }
    if (o->count == 1) return err_set(err, ERR_FORMAT, "options: found one, expected at least two");
    return ERR_OK;
}

/* Those that end the text; continued lines belong to the option above. */
static void parse_options(Options *o, const char *text, size_t begin, size_t end) {
    for (size_t at = begin; at < end && o->count <= LIVE_QUESTION_OPTIONS;) {
        const size_t stop = line_end(text, at, end);
        int letter;
        const size_t mark = option_mark((Part){text + at, stop - at}, &letter);
        if (mark && o->count < LIVE_QUESTION_OPTIONS)
            o->options[o->count++] = (Part){text + at + mark, stop - at - mark};
        else if (o->count)
            o->options[o->count - 1].n = (size_t)(text + stop - o->options[o->count - 1].s);
        at = stop + 1;
    }
    for (int i = 0; i < o->count; i++) o->options[i] = trim(o->options[i], "");
}

static bool same(Part a, Part b) {
    a = trim(a, "");
    b = trim(b, "");
    return a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
}

static int letter_of(Part answer) {
    const Part p = trim(answer, "().*:");
    if (p.n != 1) return -1;
    const char c = p.s[0];
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' : -1;
}

/* Index of the right option, or -1 with an error. */
static ErrCode find_right(int *right, const Options *o, const cJSON *item, Part answer, Err *err) {
    char shown[64];
    *right = -1;
    if (cJSON_IsNumber(item)) {
        if (item->valuedouble >= 0 && item->valuedouble < o->count &&
            item->valuedouble == floor(item->valuedouble))
            *right = (int)item->valuedouble;
    } else {
        for (int i = 0; i < o->labelled && *right < 0; i++)
            if (same(o->labels[i], answer)) *right = i;
        if (*right < 0) *right = letter_of(answer);
        if (*right >= o->count) *right = -1;
        int equal = 0;
        for (int i = 0; i < o->count && *right < 0; i++) equal += same(o->options[i], answer);
        for (int i = 0; i < o->count && equal == 1 && *right < 0; i++)
            if (same(o->options[i], answer)) *right = i;
    }
    if (*right >= 0) return ERR_OK;
    return err_set(err, ERR_FORMAT,
                   "answer: found '%s', expected a letter from A to %c, an index from 0 to %d, or the text "
                   "of one option",
                   text_excerpt(shown, 60, answer.s, answer.n), 'A' + o->count - 1, o->count - 1);
}

/* A copy without NULs, which the formats behind cannot carry, and a NUL behind it. */
static size_t keep(LiveQuestions *q, Part p) {
    const size_t at = q->bytes.len;
    buf_put(&q->bytes, p.s, p.n);
    for (size_t i = at; i < q->bytes.len; i++)
        if (!q->bytes.data[i]) q->bytes.data[i] = ' ';
    buf_put(&q->bytes, "", 1);
    return at;
}

static void order_options(uint32_t *order, const LiveQuestions *q, const Record *r, int count) {
    for (int i = 0; i < count; i++) order[i] = (uint32_t)i;
    if (!q->rule.shuffle) return;
    char hex[SHA256_HEX], digits[9];
    sha256_hex_of(hex, r->id ? r->id : r->text, r->id ? strlen(r->id) : r->text_len);
    memcpy(digits, hex, 8);
    digits[8] = 0;
    uint64_t index = 0;
    for (int i = 0; i < 8; i++)
        index = index * 16 + (uint64_t)(digits[i] <= '9' ? digits[i] - '0' : digits[i] - 'a' + 10);
    rng_shuffle(order, (size_t)count, rng_key(q->rule.seed, "live options", index));
}

static ErrCode add(LiveQuestions *q, const LiveQuestion *question, Err *err) {
    TRY(buf_ok(&q->bytes, err));
    if (q->count == q->cap) {
        const size_t cap = q->cap ? 2 * q->cap : 256;
        LiveQuestion *items = mem_resize(q->items, cap, sizeof *items);
        if (!items) return err_set(err, ERR_MEMORY, "out of memory for %zu questions", cap);
        q->items = items;
        q->cap = cap;
    }
    q->items[q->count++] = *question;
    return ERR_OK;
}

static ErrCode route_text(LiveQuestions *q, const LiveQuestion *question, Part bare, RowText *text,
                          Err *err) {
    *text = (RowText){bare.s, bare.n};
    if (!q->rule.with_options || !question->options) return ERR_OK;
    buf_clear(&q->routed);
    buf_put(&q->routed, bare.s, bare.n);
    for (int i = 0; i < question->options; i++)
        buf_printf(&q->routed, "\n%c. %s", 'A' + i, live_question_option(q, question, i));
    TRY(buf_ok(&q->routed, err));
    *text = (RowText){q->routed.data, q->routed.len};
    return ERR_OK;
}

/* The reference that a judge sees: with options, the letter and the text of the right one. */
static ErrCode take_reference(LiveQuestions *q, LiveQuestion *out, Part answer, int right, Err *err) {
    if (right < 0) {
        out->reference_at = keep(q, trim(answer, ""));
        return ERR_OK;
    }
    Buf text = {0};
    buf_printf(&text, "%c. %s", 'A' + right, live_question_option(q, out, right));
    const ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) out->reference_at = keep(q, (Part){text.data, text.len});
    buf_free(&text);
    return rc;
}

static ErrCode take_answer(LiveQuestions *q, LiveQuestion *out, const Options *o, const Record *r,
                           const cJSON *item, Part answer, Err *err) {
    uint32_t order[LIVE_QUESTION_OPTIONS];
    int right = -1;
    out->right = -1;
    if (!o->count && q->rule.grade == LIVE_GRADE_LETTER)
        return err_set(err, ERR_FORMAT, "no options: expected the members choices and answer");
    if (trim(answer, "").n == 0) return err_set(err, ERR_FORMAT, "answer: empty");
    if (o->count) TRY(find_right(&right, o, item, answer, err));
    order_options(order, q, r, o->count);
    out->options = o->count;
    out->options_at = q->bytes.len;
    for (int i = 0; i < o->count; i++) (void)keep(q, o->options[order[i]]);
    for (int i = 0; i < o->count && right >= 0; i++)
        if (order[i] == (uint32_t)right) {
            right = i;
            break;
        }
    TRY(buf_ok(&q->bytes, err));
    TRY(take_reference(q, out, answer, right, err));
    if (q->rule.grade != LIVE_GRADE_JUDGE) out->right = right;
    return ERR_OK;
}

/* The bare question. Options at the end of the text are not part of it where they are those of the row, or where the row has
 * none and its answer is a letter; then they become the row's. Others are what is asked about. */
static Part find_question(Options *o, const Record *r, bool letter) {
    size_t begin, end, options;
    Options found = {0};
    live_question_bare(r->text, r->text_len, &begin, &end, &options);
    if (options != end) {
        parse_options(&found, r->text, options, bare_end(r->text, options, r->text_len));
        bool use = o->count ? found.count == o->count : letter;
        for (int i = 0; use && i < o->count; i++) use = same(o->options[i], found.options[i]);
        if (!use)
            live_question_bare(r->text, r->text_len, &begin, &end, NULL);
        else if (!o->count)
            *o = found;
    }
    return (Part){r->text + begin, end - begin};
}

static ErrCode take_row(LiveQuestions *q, const Record *r, RowText *text, Err *err) {
    static const char *const CHOICES[] = {"choices", "options"};
    static const char *const ANSWERS[] = {"answer", "answer_key", "answerKey", "reference", "solution"};
    cJSON *choices = find_member(r, q->rule.choices_field, CHOICES, sizeof CHOICES / sizeof *CHOICES);
    cJSON *item = find_member(r, q->rule.answer_field, ANSWERS, sizeof ANSWERS / sizeof *ANSWERS);
    char digits[40];
    Part answer = {digits, 0};
    Options o = {0};
    LiveQuestion question = {0};
    if (!item)
        return err_set(err, ERR_FORMAT, "no %.80s: expected the right option, or a text to compare with",
                       q->rule.answer_field ? q->rule.answer_field : "answer");
    if (cJSON_IsString(item))
        answer.s = json_text(item, &answer.n);
    else if (cJSON_IsNumber(item))
        answer.n = (size_t)snprintf(digits, sizeof digits, "%.15g", item->valuedouble);
    else
        return err_set(err, ERR_FORMAT, "answer: expected a string or a number");
    TRY(read_options(&o, choices, err));
    const bool letter = cJSON_IsString(item) && letter_of(answer) >= 0;
    const Part bare = find_question(&o, r, letter);
    q->stripped += bare.n < r->text_len;
    question.question_at = keep(q, bare);
    question.question_len = bare.n;
    TRY(take_answer(q, &question, &o, r, item, answer, err));
    TRY(route_text(q, &question, bare, text, err));
    return add(q, &question, err);
}

ErrCode live_question_take(void *arg, const Record *record, RowText *text, Err *err) {
    LiveQuestions *q = arg;
    const size_t before = q->bytes.len;
    const ErrCode rc = take_row(q, record, text, err);
    if (rc != ERR_FORMAT || !q->rule.skip) return rc;
    q->bytes.len = before;
    q->skipped++;
    *text = (RowText){NULL, 0};
    return ERR_OK;
}

const char *live_question_option(const LiveQuestions *questions, const LiveQuestion *q, int option) {
    const char *at = questions->bytes.data + q->options_at;
    for (int i = 0; i < option; i++) at += strlen(at) + 1;
    return at;
}

void live_question_free(LiveQuestions *q) {
    mem_free(q->items);
    buf_free(&q->bytes);
    buf_free(&q->routed);
    q->items = NULL;
    q->count = q->cap = 0;
}
