/* tests/fuzz/fuzz_live.c - any bytes as the answer of an expert, as a judgement, and as a row's text: the first byte says how
 * many options there are, and whether the answer was cut. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "eval/live_prompt.h"
#include "eval/live_question.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void read_answer(const char *text, size_t n, int options, bool cut) {
    const int letter = live_prompt_letter(text, n, options, cut);
    require(letter == LIVE_PROMPT_NONE || letter == LIVE_PROMPT_SEVERAL || (letter >= 0 && letter < options));
    if (letter >= 0) { /* it stands there */
        const char upper = (char)('A' + letter), lower = (char)('a' + letter);
        require(memchr(text, upper, n) || memchr(text, lower, n));
        require(!live_prompt_blank(text, n));
    }
    const LiveVerdict verdict = live_prompt_verdict(text, n);
    require(verdict == LIVE_VERDICT_BAD || n >= 7);
    require(live_prompt_thought(text, n) <= n);
    if (live_prompt_blank(text, n)) require(letter == LIVE_PROMPT_NONE && verdict == LIVE_VERDICT_BAD);
}

static void read_text(const char *text, size_t n) {
    size_t begin, end, options;
    live_question_bare(text, n, &begin, &end, &options);
    require(begin <= end && end <= options && options <= n && (n == 0 || end > 0));
    live_question_bare(text, n, &begin, &end, NULL);
    require(begin <= end && end <= n);
}

static void read_row(const char *line, size_t n) {
    Record record = {0};
    Err err = {0};
    if (record_parse(&record, &(RecordRule){.label_optional = true}, line, n, &err) == ERR_OK) {
        LiveQuestions q = {.rule = {.with_options = true, .shuffle = true}};
        RowText text;
        const ErrCode rc = live_question_take(&q, &record, &text, &err);
        require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
        if (rc == ERR_OK) {
            Buf prompt = {0};
            require(q.count == 1 && text.text && q.items[0].right < q.items[0].options);
            live_prompt_question(&prompt, &q, &q.items[0]);
            live_prompt_judge(&prompt, &q, &q.items[0], line, n);
            require(!prompt.failed);
            buf_free(&prompt);
        }
        live_question_free(&q);
    }
    record_free(&record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const size_t n = size - 1;
    char *text = mem_strndup((const char *)data + 1, n); /* its end is where it can be seen to be overrun */
    if (!text) abort();
    read_answer(text, n, 2 + data[0] % 25, data[0] & 128);
    read_text(text, n);
    read_row(text, n);
    mem_free(text);
    return 0;
}
