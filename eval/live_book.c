#include "eval/live_book.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/sha256.h"
#include "core/text.h"
#include "data/journal.h"
#include "eval/live_prompt.h"

enum { KEY_DIGITS = 16 };

struct LiveBook {
    LiveView view;
    const Experts *experts;
    const LiveQuestions *questions;
    const Rows *rows;
    Journal *journal;
    size_t ask_cap;
    uint32_t *slots; /* ask + 1, or 0, by key; a power of two of them, at most half in use */
    size_t slot_count;
    uint32_t expert_count; /* asks below are experts' of this run, in the order of rows */
    uint32_t expert_at;    /* the next of them */
    uint32_t *judges;      /* asks for the judge, in the order of the answers */
    size_t judge_count, judge_cap, judge_at;
};

const LiveView *live_book_view(const LiveBook *b) {
    return &b->view;
}

/* ---- asks by key ---- */

static uint64_t key_of(const Chat *c, const Buf *body) {
    Sha256 sha;
    unsigned char digest[SHA256_BYTES];
    sha256_init(&sha);
    sha256_add(&sha, c->url, strlen(c->url) + 1);
    sha256_add(&sha, body->data, body->len);
    sha256_end(&sha, digest);
    uint64_t key = 0;
    for (int i = 0; i < 8; i++) key = key << 8 | digest[i];
    return key;
}

/* The key is a digest: its bits are mixed. */
static uint32_t *slot_of(const LiveBook *b, uint64_t key) {
    for (size_t i = (size_t)key;; i++) {
        uint32_t *slot = &b->slots[i & (b->slot_count - 1)];
        if (!*slot || b->view.asks[*slot - 1].key == key) return slot;
    }
}

static ErrCode grow_slots(LiveBook *b, Err *err) {
    uint32_t *old = b->slots;
    const size_t count = b->slot_count ? 2 * b->slot_count : 1024;
    uint32_t *slots;
    TRY(mem_new(&slots, count, sizeof *slots, "the questions to ask", err));
    b->slots = slots;
    b->slot_count = count;
    for (size_t i = 0; i < b->view.ask_count; i++) *slot_of(b, b->view.asks[i].key) = (uint32_t)i + 1;
    mem_free(old);
    return ERR_OK;
}

/* The ask of a key, made when it is new. */
static ErrCode find_ask(uint32_t *out, LiveBook *b, uint64_t key, Err *err) {
    LiveView *v = &b->view;
    if (2 * (v->ask_count + 1) > b->slot_count) TRY(grow_slots(b, err));
    uint32_t *slot = slot_of(b, key);
    if (!*slot) {
        if (v->ask_count == b->ask_cap) {
            const size_t cap = b->ask_cap ? 2 * b->ask_cap : 512;
            LiveAsk *asks = cap < UINT32_MAX ? mem_resize(v->asks, cap, sizeof *asks) : NULL;
            if (!asks) return err_set(err, ERR_MEMORY, "out of memory for %zu questions to ask", cap);
            v->asks = asks;
            b->ask_cap = cap;
        }
        v->asks[v->ask_count++] = (LiveAsk){.key = key, .cell = LIVE_BOOK_NO_ASK};
        *slot = (uint32_t)v->ask_count;
    }
    *out = *slot - 1;
    return ERR_OK;
}

static void want(LiveBook *b, LiveAsk *a) {
    if (a->known) return;
    a->known = true;
    b->view.wanted++;
    b->view.done += a->state == LIVE_ASK_DONE;
}

static int expert_of(const LiveBook *b, const LiveAsk *a) {
    return (int)(a->cell % (uint32_t)b->view.E);
}

static const LiveQuestion *question_of(const LiveBook *b, const LiveAsk *a) {
    return &b->questions->items[a->cell / (uint32_t)b->view.E];
}

/* ---- bodies and prices ---- */

const Chat *live_book_chat(const LiveBook *b, uint32_t ask) {
    const LiveAsk *a = &b->view.asks[ask];
    return a->judge ? &b->experts->judge : &b->experts->items[expert_of(b, a)].chat;
}

static ErrCode make_expert_body(Buf *body, const LiveBook *b, size_t row, int expert, Err *err) {
    Buf user = {0};
    buf_clear(body);
    live_prompt_question(&user, b->questions, &b->questions->items[row]);
    chat_body(body, &b->experts->items[expert].chat, user.data, user.len);
    body->failed |= user.failed;
    buf_free(&user);
    return buf_ok(body, err);
}

static ErrCode make_judge_body(Buf *body, const LiveBook *b, uint32_t cell, const char *text, Err *err) {
    Buf user = {0};
    buf_clear(body);
    live_prompt_judge(&user, b->questions, &b->questions->items[cell / (uint32_t)b->view.E], text,
                      strlen(text));
    chat_body(body, &b->experts->judge, user.data, user.len);
    body->failed |= user.failed;
    buf_free(&user);
    return buf_ok(body, err);
}

ErrCode live_book_body(LiveBook *b, uint32_t ask, Buf *body, Err *err) {
    LiveAsk *a = &b->view.asks[ask];
    if (a->judge)
        TRY(make_judge_body(body, b, a->cell, b->view.asks[b->view.cell[a->cell]].text, err));
    else
        TRY(make_expert_body(body, b, a->cell / (uint32_t)b->view.E, expert_of(b, a), err));
    const Chat *chat = live_book_chat(b, ask);
    a->most = chat_spend(chat, chat_tokens_in(body), chat->max_tokens);
    return ERR_OK;
}

/* ---- answers ---- */

static void release(LiveBook *b, LiveAsk *a, bool lost) {
    if (!a->sending) return;
    a->sending = false;
    chat_add(&b->view.reserved, &a->most, -1);
    if (lost) chat_add(&b->view.lost, &a->most, 1);
}

static void complete(LiveBook *b, LiveAsk *a) {
    if (a->state == LIVE_ASK_DONE) return;
    a->state = LIVE_ASK_DONE;
    b->view.done += a->known;
}

static ErrCode push_judge(LiveBook *b, uint32_t ask, Err *err) {
    if (b->judge_count == b->judge_cap) {
        const size_t cap = b->judge_cap ? 2 * b->judge_cap : 256;
        uint32_t *judges = mem_resize(b->judges, cap, sizeof *judges);
        if (!judges) return err_set(err, ERR_MEMORY, "out of memory for %zu judgements", cap);
        b->judges = judges;
        b->judge_cap = cap;
    }
    b->judges[b->judge_count++] = ask;
    return ERR_OK;
}

/* An answer that the judge has to grade, for one of its cells. */
static ErrCode ask_judge(LiveBook *b, uint32_t cell, const char *text, Err *err) {
    Buf body = {0};
    uint32_t ask = 0;
    ErrCode rc = make_judge_body(&body, b, cell, text, err);
    if (rc == ERR_OK) rc = find_ask(&ask, b, key_of(&b->experts->judge, &body), err);
    buf_free(&body);
    TRY(rc);
    b->view.judge[cell] = ask;
    LiveAsk *a = &b->view.asks[ask];
    if (a->known) return ERR_OK; /* another cell's is the same */
    a->judge = true;
    a->cell = cell;
    want(b, a);
    return push_judge(b, ask, err);
}

/* Letters, or what the judge is asked. Asks that another run needed have no cell. */
static ErrCode grade_expert(LiveBook *b, uint32_t ask, const LiveSaid *said, Err *err) {
    LiveAsk *a = &b->view.asks[ask];
    if (a->cell == LIVE_BOOK_NO_ASK) return ERR_OK;
    const LiveQuestion *q = question_of(b, a);
    const bool blank = live_prompt_blank(said->text, said->n);
    if (q->options) a->said = live_prompt_letter(said->text, said->n, q->options, said->cut);
    bool judged = false;
    for (uint32_t c = a->cell; c != LIVE_BOOK_NO_ASK; c = b->view.next[c])
        judged |= b->questions->items[c / (uint32_t)b->view.E].right < 0;
    if (!judged || blank) return ERR_OK;
    char *text = mem_strndup(said->text, said->n);
    if (!text) return err_set(err, ERR_MEMORY, "out of memory for an answer");
    mem_free(a->text);
    a->text = text;
    const uint32_t first = a->cell;
    for (uint32_t c = first; c != LIVE_BOOK_NO_ASK; c = b->view.next[c]) /* (asks may move) */
        if (b->questions->items[c / (uint32_t)b->view.E].right < 0) TRY(ask_judge(b, c, text, err));
    return ERR_OK;
}

static ErrCode take_answer(LiveBook *b, uint32_t ask, const LiveSaid *said, double cost, bool judge,
                           Err *err) {
    LiveAsk *a = &b->view.asks[ask];
    release(b, a, false);
    const ChatSpend spent = {said->in, said->out, cost};
    chat_add(judge ? &b->view.judged : &b->view.spent, &spent, 1);
    b->view.answers++;
    if (a->state == LIVE_ASK_DONE) return ERR_OK; /* two runs on a copied journal: the first answer counts */
    a->spent = spent;
    a->seconds = said->seconds;
    a->counted = said->counted;
    a->cut = said->cut;
    complete(b, a);
    if (!judge) return grade_expert(b, ask, said, err);
    a->said = (int)live_prompt_verdict(said->text, said->n);
    return ERR_OK;
}

/* ---- the journal ---- */

static ErrCode wrong(const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "not an entry of `router live`: %s", what);
}

static ErrCode read_key(uint64_t *key, const cJSON *entry, Err *err) {
    const char *text = NULL;
    TRY(json_get_string(&text, entry, "key", err));
    if (!text || strlen(text) != KEY_DIGITS || strspn(text, "0123456789abcdef") != KEY_DIGITS)
        return wrong("key: expected 16 hexadecimal digits", err);
    *key = strtoull(text, NULL, 16);
    return ERR_OK;
}

static ErrCode read_spend(ChatSpend *s, const cJSON *entry, Err *err) {
    const int64_t many = (int64_t)1 << 40;
    *s = (ChatSpend){-1, -1, -1};
    TRY(json_get_int(&s->in, entry, "in", 0, many, err));
    TRY(json_get_int(&s->out, entry, "out", 0, many, err));
    TRY(json_get_double(&s->cost, entry, "cost", 0, 1e15, err));
    return s->in < 0 || s->out < 0 || s->cost < 0 ? wrong("expected in, out and cost", err) : ERR_OK;
}

static ErrCode read_answer(LiveBook *b, uint32_t ask, const cJSON *entry, bool judge, Err *err) {
    LiveSaid said = {0};
    ChatSpend spent;
    const char *text = NULL;
    TRY(read_spend(&spent, entry, err));
    TRY(json_get_string(&text, entry, "text", err));
    TRY(json_get_double(&said.seconds, entry, "seconds", 0, 1e9, err));
    TRY(json_get_bool(&said.counted, entry, "counted", err));
    TRY(json_get_bool(&said.cut, entry, "cut", err));
    if (!text || strlen(text) > LIVE_BOOK_TEXT_MAX)
        return wrong("text: expected a string of an answer's length", err);
    said.text = text;
    said.n = strlen(text);
    said.in = spent.in;
    said.out = spent.out;
    return take_answer(b, ask, &said, spent.cost, judge, err);
}

static ErrCode take_entry(void *arg, cJSON *entry, Err *err) {
    LiveBook *b = arg;
    const char *kind = NULL;
    uint64_t key;
    uint32_t ask;
    bool judge = false, lost = false;
    if (!cJSON_IsObject(entry)) return wrong("expected an object", err);
    TRY(json_get_string(&kind, entry, "kind", err));
    TRY(read_key(&key, entry, err));
    TRY(json_get_bool(&judge, entry, "judge", err));
    TRY(find_ask(&ask, b, key, err));
    LiveAsk *a = &b->view.asks[ask];
    if (!kind) return wrong("no kind", err);
    if (strcmp(kind, "answer") == 0) return read_answer(b, ask, entry, judge, err);
    if (strcmp(kind, "sent") == 0) {
        release(b, a, true);
        TRY(read_spend(&a->most, entry, err));
        a->sending = true;
        chat_add(&b->view.reserved, &a->most, 1);
        b->view.requests++;
    } else if (strcmp(kind, "failed") == 0) {
        TRY(json_get_bool(&lost, entry, "lost", err));
        release(b, a, lost);
    } else if (strcmp(kind, "refused") == 0) {
        release(b, a, false);
        a->refused = true;
        complete(b, a);
    } else {
        return wrong("an unknown kind", err);
    }
    return ERR_OK;
}

static cJSON *new_entry(const LiveBook *b, const char *kind, const LiveAsk *a, bool named) {
    char key[KEY_DIGITS + 1];
    (void)snprintf(key, sizeof key, "%016llx", (unsigned long long)a->key);
    cJSON *entry = cJSON_CreateObject();
    const char *model = a->judge ? "judge" : b->experts->items[expert_of(b, a)].name;
    const char *id = rows_id(b->rows, a->cell / (uint32_t)b->view.E);
    if (entry && cJSON_AddStringToObject(entry, "kind", kind) && cJSON_AddStringToObject(entry, "key", key) &&
        cJSON_AddBoolToObject(entry, "judge", a->judge) &&
        (!named ||
         (cJSON_AddStringToObject(entry, "id", id) && cJSON_AddStringToObject(entry, "model", model))))
        return entry;
    cJSON_Delete(entry);
    return NULL;
}

static bool add_spent(cJSON *entry, const ChatSpend *s) {
    return cJSON_AddNumberToObject(entry, "in", (double)s->in) &&
           cJSON_AddNumberToObject(entry, "out", (double)s->out) &&
           cJSON_AddNumberToObject(entry, "cost", s->cost);
}

/* `good` false: a member could not be added. */
static ErrCode write_entry(LiveBook *b, cJSON *entry, bool good, Err *err) {
    const ErrCode rc = journal_add(b->journal, good ? entry : NULL, err);
    cJSON_Delete(entry);
    return rc;
}

ErrCode live_book_sent(LiveBook *b, uint32_t ask, Err *err) {
    LiveAsk *a = &b->view.asks[ask];
    cJSON *entry = new_entry(b, "sent", a, false);
    TRY(write_entry(b, entry, entry && add_spent(entry, &a->most), err));
    a->sending = true;
    chat_add(&b->view.reserved, &a->most, 1);
    b->view.requests++;
    return ERR_OK;
}

ErrCode live_book_answered(LiveBook *b, uint32_t ask, const LiveSaid *given, Err *err) {
    const LiveAsk *a = &b->view.asks[ask];
    LiveSaid said = *given;
    if (said.n > LIVE_BOOK_TEXT_MAX) { /* what counts is at its end */
        said.text += said.n - LIVE_BOOK_TEXT_MAX;
        said.n = LIVE_BOOK_TEXT_MAX;
        while (said.n && ((unsigned char)said.text[0] & 0xc0) == 0x80) {
            said.text++;
            said.n--;
        }
    }
    if (!said.counted) {
        said.in = a->most.in;
        said.out = a->most.out;
    }
    const ChatSpend spent = chat_spend(live_book_chat(b, ask), said.in, said.out);
    char *text = mem_strndup(said.text, said.n);
    cJSON *entry = new_entry(b, "answer", a, true);
    const bool good =
        entry && text && add_spent(entry, &spent) && cJSON_AddBoolToObject(entry, "counted", said.counted) &&
        cJSON_AddNumberToObject(entry, "seconds", said.seconds) &&
        cJSON_AddBoolToObject(entry, "cut", said.cut) && cJSON_AddStringToObject(entry, "text", text);
    mem_free(text);
    TRY(write_entry(b, entry, good, err));
    return take_answer(b, ask, &said, spent.cost, a->judge, err);
}

ErrCode live_book_failed(LiveBook *b, uint32_t ask, bool lost, Err *err) {
    LiveAsk *a = &b->view.asks[ask];
    cJSON *entry = new_entry(b, "failed", a, false);
    TRY(write_entry(b, entry, entry && cJSON_AddBoolToObject(entry, "lost", lost), err));
    release(b, a, lost);
    return ERR_OK;
}

ErrCode live_book_refused(LiveBook *b, uint32_t ask, const char *why, bool durable, Err *err) {
    LiveAsk *a = &b->view.asks[ask];
    if (durable) {
        cJSON *entry = new_entry(b, "refused", a, true);
        TRY(write_entry(b, entry, entry && cJSON_AddStringToObject(entry, "why", why), err));
        release(b, a, false);
    } else {
        TRY(live_book_failed(b, ask, false, err));
    }
    a->refused = true;
    complete(b, a);
    return ERR_OK;
}

void live_book_gone(LiveBook *b, uint32_t ask) {
    b->view.asks[ask].state = LIVE_ASK_GONE;
}

ErrCode live_book_sync(LiveBook *b, Err *err) {
    return journal_sync(b->journal, err);
}

/* ---- what is next ---- */

bool live_book_next(LiveBook *b, uint32_t *ask) {
    while (b->judge_at < b->judge_count) {
        *ask = b->judges[b->judge_at++];
        if (b->view.asks[*ask].state == LIVE_ASK_OPEN) return true;
    }
    while (b->expert_at < b->expert_count) {
        *ask = b->expert_at++;
        if (b->view.asks[*ask].state == LIVE_ASK_OPEN) return true;
    }
    return false;
}

void live_book_return(LiveBook *b, uint32_t ask) {
    if (b->view.asks[ask].judge)
        b->judge_at--;
    else
        b->expert_at--;
}

const char *live_book_limit(const LiveBook *b, uint32_t ask, const AskLimits *limits) {
    const LiveView *v = &b->view;
    ChatSpend sum = v->asks[ask].most;
    chat_add(&sum, &v->spent, 1);
    chat_add(&sum, &v->judged, 1);
    chat_add(&sum, &v->lost, 1);
    chat_add(&sum, &v->reserved, 1);
    const AskLimits slack = {limits->requests, limits->tokens,
                             limits->cost * (1 + 1e-12)}; /* sums of doubles are not exact */
    return ask_limit(&slack, v->requests, &sum);
}

/* ---- opening ---- */

static ErrCode make_cells(LiveBook *b, const bool *wanted, Err *err) {
    LiveView *v = &b->view;
    const size_t cells = v->n * (size_t)v->E;
    if (cells >= UINT32_MAX / 4)
        return err_set(err, ERR_ARGUMENT, "%zu questions for %d experts are too many", v->n, v->E);
    TRY(mem_new(&v->cell, cells, sizeof *v->cell, "the questions to ask", err));
    TRY(mem_new(&v->judge, cells, sizeof *v->judge, "the questions to ask", err));
    TRY(mem_new(&v->next, cells, sizeof *v->next, "the questions to ask", err));
    memset(v->cell, 0xff, cells * sizeof *v->cell);
    memset(v->judge, 0xff, cells * sizeof *v->judge);
    memset(v->next, 0xff, cells * sizeof *v->next);
    Buf body = {0};
    ErrCode rc = ERR_OK;
    for (size_t c = 0; rc == ERR_OK && c < cells; c++) {
        if (!wanted[c]) continue;
        const int x = (int)(c % (size_t)v->E);
        uint32_t ask = 0;
        rc = make_expert_body(&body, b, c / (size_t)v->E, x, err);
        if (rc == ERR_OK) rc = find_ask(&ask, b, key_of(&b->experts->items[x].chat, &body), err);
        if (rc != ERR_OK) break;
        LiveAsk *a = &v->asks[ask];
        v->cell[c] = ask;
        if (a->cell != LIVE_BOOK_NO_ASK) {
            v->next[c] = v->next[a->cell]; /* behind the first one */
            v->next[a->cell] = (uint32_t)c;
        } else {
            a->cell = (uint32_t)c;
        }
        want(b, a);
    }
    buf_free(&body);
    b->expert_count = (uint32_t)v->ask_count;
    return rc;
}

static ErrCode check_endpoints(const Experts *x, const LiveQuestions *q, const bool *wanted, Err *err) {
    const size_t E = (size_t)x->count;
    for (size_t c = 0; c < q->count * E; c++) {
        const Expert *expert = &x->items[c % E];
        if (wanted[c] && !expert->chat.url)
            return err_set(err, ERR_ARGUMENT, "%s: '%.80s' has no base_url and model: it cannot be asked",
                           x->path, expert->name);
    }
    for (size_t i = 0; i < q->count; i++)
        if (q->items[i].right < 0 && !x->judge.url)
            return err_set(
                err, ERR_ARGUMENT,
                "%s: no judge, which rows without options (and all, with --grade judge) are graded by",
                x->path);
    return ERR_OK;
}

ErrCode live_book_open(LiveBook **out, const Experts *experts, const LiveQuestions *questions,
                       const Rows *rows, const bool *wanted, const char *journal, Err *err) {
    *out = NULL;
    LiveBook *b;
    uint64_t entries;
    TRY(check_endpoints(experts, questions, wanted, err));
    TRY(mem_new(&b, 1, sizeof *b, "the questions to ask", err));
    b->experts = experts;
    b->questions = questions;
    b->rows = rows;
    b->view.n = questions->count;
    b->view.E = experts->count;
    ErrCode rc = make_cells(b, wanted, err);
    if (rc == ERR_OK && journal) rc = journal_open(&b->journal, journal, take_entry, b, &entries, err);
    if (rc != ERR_OK) {
        live_book_close(b);
        return rc;
    }
    for (size_t i = 0; i < b->view.ask_count; i++) release(b, &b->view.asks[i], true);
    *out = b;
    return ERR_OK;
}

void live_book_close(LiveBook *b) {
    if (!b) return;
    journal_close(b->journal);
    for (size_t i = 0; i < b->view.ask_count; i++) mem_free(b->view.asks[i].text);
    mem_free(b->view.asks);
    mem_free(b->view.cell);
    mem_free(b->view.judge);
    mem_free(b->view.next);
    mem_free(b->slots);
    mem_free(b->judges);
    mem_free(b);
}

/* ---- grades ---- */

LiveGraded live_book_grade(const LiveBook *b, size_t row, int expert) {
    const LiveView *v = &b->view;
    const size_t c = row * (size_t)v->E + (size_t)expert;
    const LiveAsk *a = v->cell[c] != LIVE_BOOK_NO_ASK ? &v->asks[v->cell[c]] : NULL;
    if (!a || a->state != LIVE_ASK_DONE) return (LiveGraded){0};
    const LiveQuestion *q = &b->questions->items[row];
    LiveGraded g = {.graded = true,
                    .refused = a->refused,
                    .cut = a->cut,
                    .counted = a->counted || a->refused,
                    .in = a->spent.in,
                    .out = a->spent.out,
                    .seconds = a->seconds,
                    .cost = chat_spend(&b->experts->items[expert].chat, a->spent.in, a->spent.out).cost};
    if (a->refused) return g;
    if (q->right >= 0) {
        g.right = a->said == q->right;
        g.no_letter = a->said < 0;
        return g;
    }
    const LiveAsk *j = v->judge[c] != LIVE_BOOK_NO_ASK ? &v->asks[v->judge[c]] : NULL;
    g.no_letter = !j; /* an empty answer: no judge was asked */
    if (!j) return g;
    g.graded = j->state == LIVE_ASK_DONE;
    g.bad_judgement = g.graded && (j->refused || j->said == LIVE_VERDICT_BAD);
    g.right = g.graded && !j->refused && j->said == LIVE_VERDICT_CORRECT;
    g.judge_cost = chat_spend(&b->experts->judge, j->spent.in, j->spent.out).cost;
    return g;
}
