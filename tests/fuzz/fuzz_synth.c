/* tests/fuzz/fuzz_synth.c - any bytes as what `router data synth` reads; the first says what the others are: a plan, a model's
 * text, a completion, a stream of events, a journal, or the entries of a journal whose sums are right. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/sha256.h"
#include "core/sse.h"
#include "core/text.h"
#include "data/journal.h"
#include "data/synth_answer.h"
#include "data/synth_ledger.h"
#include "data/synth_plan.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void try_plan(const char *text, size_t n) {
    SynthPlan plan;
    Err err = {0};
    const ErrCode rc = synth_plan_parse(&plan, text, n, &err);
    require(rc == ERR_OK || (rc == ERR_ARGUMENT && err.msg[0]));
    if (rc == ERR_OK) {
        require(plan.domain_count >= 2 && plan.rows_per_request >= 1 && plan.near >= 0.5 &&
                strlen(plan.digest) == 64);
        FlagList *empty = calloc(plan.domain_count, sizeof *empty);
        require(empty != NULL);
        const SynthMaterial material = {empty, empty};
        for (uint64_t i = 0; i < 3; i++) {
            SynthDraw draw;
            Buf body = {0};
            synth_prompt_draw(&draw, &plan, &material, i);
            require(draw.domain < plan.domain_count && plan.domains[draw.domain].rows > 0);
            synth_prompt_rows(&body, &plan, &material, &draw);
            require(!body.failed && text_utf8_prefix(body.data, body.len) == body.len);
            buf_free(&body);
        }
        free(empty);
    }
    synth_plan_free(&plan);
}

static void try_list(const char *text, size_t n) {
    cJSON *list;
    bool whole;
    Err err = {0};
    const ErrCode rc = synth_answer_list(&list, &whole, text, n, "prompts", &err);
    require(rc == ERR_OK ? list != NULL : rc == ERR_FORMAT && !list && err.msg[0]);
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        const char *one = synth_answer_text(item, "text|prompt");
        if (one) require(text_utf8_prefix(one, strlen(one)) == strlen(one));
    }
    cJSON_Delete(list);
}

static void try_completion(const char *text, size_t n) {
    ChatAnswer answer;
    char shown[304];
    Err err = {0};
    const ErrCode rc = chat_answer(&answer, text, n, &err);
    require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
    if (rc == ERR_OK) {
        require(!answer.counted || (answer.tokens_in >= 0 && answer.tokens_out >= 0));
        if (answer.content.len) try_list(answer.content.data, answer.content.len);
        chat_answer_free(&answer);
    }
    require(strlen(chat_error(shown, 300, text, n)) < sizeof shown);
}

static ErrCode take_event(void *arg, const char *bytes, size_t n, Err *err) {
    require(bytes[n] == 0);
    return chat_event(arg, bytes, n, err);
}

static void try_stream(const char *text, size_t n) {
    Sse sse = {0};
    ChatAnswer answer = {0};
    Err err = {0};
    ErrCode rc = ERR_OK;
    for (size_t at = 0, piece = 1; rc == ERR_OK && at < n; at += piece, piece = piece % 7 + 1) {
        if (piece > n - at) piece = n - at;
        rc = sse_feed(&sse, text + at, piece, take_event, &answer, &err);
    }
    require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
    sse_free(&sse);
    chat_answer_free(&answer);
}

static ErrCode ignore(void *arg, cJSON *entry, Err *err) {
    (void)err;
    require(entry != NULL);
    (*(int *)arg)++;
    return ERR_OK;
}

static void try_journal(const char *text, size_t n) {
    const char *path = scratch_file(text, n);
    for (int pass = 0, first = 0; pass < 2; pass++) { /* what is left after the first opening opens again */
        Journal *journal;
        Err err = {0};
        int count = 0;
        uint64_t entries;
        const ErrCode rc = journal_open(&journal, path, ignore, &count, &entries, &err);
        require(rc == ERR_OK ? entries == (uint64_t)count : rc == ERR_FORMAT && err.msg[0] && pass == 0);
        if (rc != ERR_OK) return;
        require(pass == 0 || count == first);
        first = count;
        journal_close(journal);
    }
}

static void put_entry(Buf *out, const char *entry, size_t n) {
    char sum[SHA256_HEX];
    sha256_hex_of(sum, entry, n);
    buf_printf(out, "{\"sum\":\"%.16s\",\"entry\":%.*s}\n", sum, (int)n, entry);
}

/* Each line becomes an entry behind that of a fixed plan. */
static void try_ledger(const char *text, size_t n) {
    static const char PLAN[] =
        "{\"endpoint\":{\"base_url\":\"http://h/v1\",\"model\":\"m\"},\"judge\":{\"votes\":2},\"rows\":4,"
        "\"rows_per_request\":3,\"domains\":[{\"name\":\"a\",\"topics\":{\"ask\":2}},{\"name\":\"b\"}]}";
    SynthPlan plan;
    SynthLedger *ledger = NULL;
    Near *near;
    FlagList examples[2] = {{0}};
    Buf file = {0}, head = {0};
    char wording[17], digest[SHA256_HEX];
    static const char NOTHING[16] = {0}; /* two lists of no examples */
    Err err = {0};
    require(synth_plan_parse(&plan, PLAN, strlen(PLAN), &err) == ERR_OK &&
            near_open(&near, 0.7, &err) == ERR_OK);
    sha256_hex_of(digest, NOTHING, sizeof NOTHING);
    buf_printf(&head,
               "{\"kind\":\"plan\",\"version\":1,\"plan\":\"%s\",\"examples\":\"%s\",\"wording\":\"%s\"}",
               plan.digest, digest, synth_prompt_digest(wording));
    put_entry(&file, head.data, head.len);
    for (size_t at = 0; at < n;) {
        const char *newline = memchr(text + at, '\n', n - at);
        const size_t length = newline ? (size_t)(newline - text) - at : n - at;
        if (memchr(text + at, 0, length)) break;
        put_entry(&file, text + at, length);
        at += length + 1;
    }
    const ErrCode rc =
        synth_ledger_open(&ledger, &plan, examples, near, NULL, scratch_file(file.data, file.len), &err);
    require(rc == ERR_OK || ((rc == ERR_FORMAT || rc == ERR_ARGUMENT) && err.msg[0]));
    if (rc == ERR_OK) {
        SynthJob job;
        Buf body = {0};
        require(synth_ledger_advance(ledger, false, &err) == ERR_OK);
        for (int i = 0; i < 5 && synth_ledger_next(ledger, &job); i++)
            require(synth_ledger_body(ledger, &job, &body, &err) == ERR_OK);
        require(synth_ledger_advance(ledger, true, &err) == ERR_OK);
        require(synth_ledger_view(ledger)->row_count <= 8);
        buf_free(&body);
    }
    synth_ledger_close(ledger);
    near_close(near);
    synth_plan_free(&plan);
    buf_free(&file);
    buf_free(&head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const TRIES[])(const char *, size_t) = {try_plan,   try_list,    try_completion,
                                                          try_stream, try_journal, try_ledger};
    if (size == 0) return 0;
    const size_t which = (size_t)(data[0] - '0') % (sizeof TRIES / sizeof *TRIES);
    TRIES[data[0] >= '0' ? which : 0]((const char *)data + 1, size - 1);
    return 0;
}
