/* eval/live_prompt.h - what experts and the judge are asked, and what their answers say.
 *
 * Zero-shot chain of thought in one user turn, without a system prompt: the question, its options, and the request to think
 * step by step and to end with "ANSWER: X". No role, no domain: each expert gets the same text for a question whoever
 * sends it, so that one answer serves the router and the single models.
 *
 * The letter of an answer. What stands in front of the last "</think>" is not looked at; nothing is where thinking has begun
 * and not ended. Of the rest count, the first that is there:
 *   1. the last statement: "answer", then nothing but words and signs such as ":", "is", "**", "(", "\boxed{", "option",
 *      then a letter by itself; unless the answer was cut, also the last "\boxed{X}"
 *   2. unless the answer was cut: the whole text, or its last line, is a letter with nothing but signs around it, or
 *      followed by ")", "." or ":" and a text
 * Several letters there ("A or C", "A, B") are none; so is a letter beyond the options.
 *
 * The verdict of a judge: "VERDICT: CORRECT" or "VERDICT: INCORRECT", in any case and between signs; or one of these words
 * alone. Anything else, and both of them, is a bad judgement. */
#ifndef EVAL_LIVE_PROMPT_H
#define EVAL_LIVE_PROMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "core/buf.h"
#include "eval/live_question.h"

#define LIVE_PROMPT_JUDGED_BYTES 12000 /* of an answer that a judge sees */

#define LIVE_PROMPT_NONE    (-1) /* no letter */
#define LIVE_PROMPT_SEVERAL (-2)

typedef enum { LIVE_VERDICT_INCORRECT, LIVE_VERDICT_CORRECT, LIVE_VERDICT_BAD } LiveVerdict;

void live_prompt_question(Buf *out, const LiveQuestions *questions, const LiveQuestion *q);

/* answer[0..n) without its thinking; of a long one the end is shown. */
void live_prompt_judge(Buf *out, const LiveQuestions *questions, const LiveQuestion *q, const char *answer,
                       size_t n);

/* Index of the letter that text[0..n) gives, below `options`; LIVE_PROMPT_NONE or LIVE_PROMPT_SEVERAL. cut: it reached its
 * limit of tokens. */
int live_prompt_letter(const char *text, size_t n, int options, bool cut);
LiveVerdict live_prompt_verdict(const char *text, size_t n);

/* Where the text behind the thinking begins; n where there is none. */
size_t live_prompt_thought(const char *text, size_t n);
/* Whether there is nothing but white space behind the thinking. */
bool live_prompt_blank(const char *text, size_t n);

/* First 16 digits of the SHA-256 of the wording. */
const char *live_prompt_digest(char out[17]);

#endif
