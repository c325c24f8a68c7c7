/* eval/live_question.h - rows as questions that can be asked and graded: the bare question, its options, the right answer.
 *
 * Read from a row's members: `choices` or `options` (an array of strings, or {"text": [...], "label": [...]}) and `answer`,
 * `answer_key`, `answerKey`, `reference` or `solution`. With options the answer is a letter, one of the labels, an index from
 * 0, or the very text of one option, tried in this order. Without, a text that a judge compares with. Where the answer
 * is a letter and the row has no options, they are looked for at the end of the text: lines "A. ...", "B) ...", "(C) ...".
 *
 * What a router must not see is taken away, from the beginning of the text: lines such as "Subject: anatomy", "The
 * following are multiple choice questions about anatomy.", "You are an expert in medicine.", and "Question:"; and from its
 * end: options, "Answer:", "Let's think step by step." and the like. Nothing within a question is touched. Other members
 * (subject, source, label) never come near it. */
#ifndef EVAL_LIVE_QUESTION_H
#define EVAL_LIVE_QUESTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "data/record.h"

#define LIVE_QUESTION_OPTIONS 26

typedef enum { LIVE_GRADE_AUTO, LIVE_GRADE_LETTER, LIVE_GRADE_JUDGE } LiveGrade;

typedef struct {
    const char *choices_field, *answer_field; /* NULL: the names above */
    LiveGrade grade;                          /* auto: by letter where there are options, else by the judge */
    bool with_options;                        /* the router sees them, too */
    bool shuffle;                             /* their order, by seed and the row's id or text */
    bool skip; /* rows that cannot be graded are left out, instead of an error */
    uint64_t seed;
} LiveQuestionRule;

/* Places in LiveQuestions.bytes. */
typedef struct {
    size_t question_at, question_len;
    size_t options_at;   /* `options` texts, each with a NUL behind it */
    size_t reference_at; /* what a judge compares with, NUL-terminated */
    int options;         /* 0: none */
    int right;           /* index among them, as shown; -1: graded by the judge */
} LiveQuestion;

/* Zeroed, but for the rule: empty. In the order of the rows. */
typedef struct {
    LiveQuestionRule rule;
    LiveQuestion *items;
    size_t count, cap;
    Buf bytes, routed;          /* routed: the text of the last row */
    uint64_t stripped, skipped; /* rows from which something was taken away; left out */
} LiveQuestions;

/* For RowsRule.take: arg is a LiveQuestions. ERR_FORMAT where the row cannot be graded. */
ErrCode live_question_take(void *arg, const Record *record, RowText *text, Err *err) ERR_CHECKED;
void live_question_free(LiveQuestions *questions);

const char *live_question_option(const LiveQuestions *questions, const LiveQuestion *q, int option);

/* The bare question within text[0..n), as [begin, end); the whole text where there is nothing to take away. options, when not
 * NULL, is where a block of at least two of them begins that ends the text; else it is `end`. */
void live_question_bare(const char *text, size_t n, size_t *begin, size_t *end, size_t *options);

#endif
