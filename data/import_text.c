/* The wrappers around prompts. They are cut only where they stand at the very beginning or end, or where a line begins,
 * so that a prompt which speaks of an answer keeps its words. */
#include <string.h>
#include <strings.h>

#include "data/import_row.h"

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f';
}

static void cut_front(Buf *t, size_t n) {
    memmove(t->data, t->data + n, t->len - n);
    t->len -= n;
    t->data[t->len] = 0;
}

static void cut_to(Buf *t, size_t n) {
    t->len = n;
    t->data[n] = 0;
}

void import_trim(Buf *t) {
    size_t n = t->len, i = 0;
    while (n && is_space(t->data[n - 1])) n--;
    while (i < n && is_space(t->data[i])) i++;
    if (!t->data) return;
    cut_to(t, n);
    cut_front(t, i);
}

static bool begins(const Buf *t, size_t at, const char *with) {
    const size_t n = strlen(with);
    return at <= t->len && t->len - at >= n && strncasecmp(t->data + at, with, n) == 0;
}

/* Where `what` is first found at or behind `from`; t->len when it is not. Texts may hold NULs. */
static size_t find(const Buf *t, size_t from, const char *what) {
    const size_t n = strlen(what);
    for (size_t i = from; i + n <= t->len; i++)
        if (memcmp(t->data + i, what, n) == 0) return i;
    return t->len;
}

/* "Below is an instruction ... ### Instruction:\nI\n\n### Input:\nJ\n\n### Response:" to "I\nJ". */
static void cut_alpaca(Buf *t) {
    static const char INSTRUCTION[] = "### Instruction:", INPUT[] = "### Input:",
                      RESPONSE[] = "### Response:";
    if (!begins(t, 0, "Below is an instruction that describes a task") && !begins(t, 0, INSTRUCTION)) return;
    size_t from = find(t, 0, INSTRUCTION);
    if (from == t->len) return;
    from += sizeof INSTRUCTION - 1;
    const size_t response = find(t, from, RESPONSE);
    cut_to(t, response);
    cut_front(t, from);
    const size_t input = find(t, 0, INPUT);
    if (input < t->len) {
        size_t end = input, next = input + sizeof INPUT - 1;
        while (end && is_space(t->data[end - 1])) end--;
        while (next < t->len && is_space(t->data[next])) next++;
        t->data[end] = '\n';
        memmove(t->data + end + 1, t->data + next, t->len - next);
        cut_to(t, t->len - (next - end - 1));
    }
    import_trim(t);
}

static void cut_prefixes(Buf *t) {
    static const char *const PREFIXES[] = {
        "Please choose the correct answer to the question:",
        "Please choose the correct answer to fill in the blank to complete the given sentence:",
        "Please choose the correct ending to complete the given sentence:",
        "Please choose the correct solution to the question:",
        "Please choose the correct answer:",
        "Please answer the following question with true or false, question:",
        "Please answer the following question:",
        "Answer the following question:",
        "Question:",
        "Q:"};
    if (begins(t, 0, "The following are multiple choice questions")) {
        const size_t blank = find(t, 0, "\n\n");
        if (blank < t->len) cut_front(t, blank + 2);
        import_trim(t);
    }
    for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES; i++) {
        const size_t n = strlen(PREFIXES[i]);
        if (!begins(t, 0, PREFIXES[i]) || t->len == n) continue;
        cut_front(t, n);
        import_trim(t);
    }
}

/* Where lines "A. ..." and "B. ..." (or "A) ...", "(A) ...") begin; t->len when there are none. */
static size_t find_lettered(const Buf *t) {
    static const char *const FIRST[] = {"\nA. ", "\nA) ", "\n(A) "}, *const SECOND[] = {"\nB. ", "\nB) ",
                                                                                        "\n(B) "};
    for (size_t i = 0; i < 3; i++) {
        const size_t at = find(t, 0, FIRST[i]);
        if (at < t->len && find(t, at, SECOND[i]) < t->len) return at;
    }
    return t->len;
}

static void cut_suffixes(Buf *t) {
    static const char *const ENDS[] = {"Answer:", "A:", "The answer is:", "### Response:"};
    static const char *const FROM[] = {
        "Answer Choices:", "Answer1:", "Answer 1:", "Solution1:",    "Ending1:",
        "Option1:",        "Options:", "Choices:",  "Answer format:"};
    bool asked = false;
    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++) {
        const size_t n = strlen(ENDS[i]);
        if (t->len <= n || !is_space(t->data[t->len - n - 1]) || !begins(t, t->len - n, ENDS[i])) continue;
        cut_to(t, t->len - n);
        import_trim(t);
        asked = true;
    }
    size_t end = t->len;
    for (size_t at = 1; at < end; at++) {
        const char before = t->data[at - 1];
        if (!is_space(before)) continue;
        for (size_t i = 0; i < sizeof FROM / sizeof *FROM; i++)
            if ((before == '\n' || i == 0) && begins(t, at, FROM[i]) && at < end) end = at;
    }
    const size_t lettered = asked ? find_lettered(t) : t->len;
    end = lettered < end ? lettered : end;
    if (end == t->len) return;
    cut_to(t, end);
    import_trim(t);
}

void import_unwrap(Buf *t) {
    import_trim(t);
    if (!t->len) return;
    cut_alpaca(t);
    cut_prefixes(t);
    if (t->len) cut_suffixes(t);
}
