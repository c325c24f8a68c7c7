/* data/chat.h - a model behind a server that speaks OpenAI's chat completions: where it is, how it is asked, what it costs,
 * and what it answers.
 *
 * Members of a JSON object that chat_read takes; what is missing keeps the value it has:
 *   model             as the server names it
 *   api_key_env       name of the environment variable that holds the key
 *   max_tokens        of an answer
 *   tokens_field      the member that says so: "max_tokens" or "max_completion_tokens"
 *   temperature       0 to 5; null: not sent
 *   top_p             1: not sent
 *   json              "off", "object", "schema": response_format
 *   stream, send_seed whether the answer comes in pieces; whether requests carry a seed
 *   price_in, price_out   of a million tokens
 *   connect_seconds, timeout_seconds
 *   extra             an object: further members of each request
 *
 * A key never stands in a file: it goes from the environment into one header of the requests and nowhere else, and chat_hide
 * blots it out where a server's answer repeats it. */
#ifndef DATA_CHAT_H
#define DATA_CHAT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

#define CHAT_TEMPLATE_TOKENS 128               /* that a chat template adds to a prompt, at most */
#define CHAT_TEXT_MAX        ((size_t)2 << 20) /* bytes of a completion's text */

typedef enum { CHAT_JSON_OFF, CHAT_JSON_OBJECT, CHAT_JSON_SCHEMA } ChatJson;

/* Zeroed: none (url NULL), valid to free. Owns its strings, but for tokens_field. */
typedef struct {
    char *url, *model, *key_env;
    char *extra;  /* JSON members without their braces; NULL: none */
    char *secret; /* "Authorization: Bearer ...", after chat_unlock; NULL: no key is sent */
    const char *tokens_field;
    ChatJson json;
    bool stream, send_seed;
    double temperature; /* NAN: not sent */
    double top_p, price_in, price_out, connect_s, timeout_s;
    int64_t max_tokens;
} Chat;

/* 2048 tokens at temperature 0, free of charge, within 300 seconds; to be filled and freed. */
Chat chat_default(void);
void chat_free(Chat *chat);

/* Takes the members above. Errors name the member; those of core/json are ERR_FORMAT, others ERR_ARGUMENT. */
ErrCode chat_read(Chat *chat, const cJSON *object, Err *err) ERR_CHECKED;
/* base: "http://127.0.0.1:8000/v1", to which "/chat/completions" is added. */
ErrCode chat_set_url(Chat *chat, const char *base, Err *err) ERR_CHECKED;

/* Takes the key from the environment variable key_env; nothing to do without one. ERR_ARGUMENT when it is not set. */
ErrCode chat_unlock(Chat *chat, Err *err) ERR_CHECKED;
/* From another variable; NULL: no key is sent. */
ErrCode chat_unlock_from(Chat *chat, const char *variable, Err *err) ERR_CHECKED;
/* Whether the environment has such a variable, and it is not empty. */
bool chat_has_variable(const char *name);
/* In place; text may be NULL where n is 0. */
void chat_hide(const Chat *chat, char *text, size_t n);

/* ---- requests ---- */

/* Failures are sticky in *out. */
typedef struct {
    const char *system; /* NULL: no such turn */
    const char *user;
    size_t user_bytes;
    uint64_t seed; /* where the model takes one */
    const char
        *list; /* the answer is an object whose one member, of this name, is an array; NULL: it is text */
    const char *item; /* JSON schema of the array's items; NULL: strings */
} ChatTurn;
void chat_turn(Buf *out, const Chat *chat, const ChatTurn *turn);
/* One user turn, nothing else. */
void chat_body(Buf *out, const Chat *chat, const char *user, size_t n);

/* The most tokens that a body's prompt can have: a token of a byte-level vocabulary has at least one byte. */
int64_t chat_tokens_in(const Buf *body);

typedef struct {
    int64_t in, out; /* tokens */
    double cost;
} ChatSpend;

double chat_cost(const Chat *chat, double tokens_in, double tokens_out);
/* With its cost. */
ChatSpend chat_spend(const Chat *chat, int64_t in, int64_t out);
void chat_add(ChatSpend *sum, const ChatSpend *spend, int sign);

/* ---- answers ---- */

/* Zeroed: ready for the first event. */
typedef struct {
    Buf content;
    int64_t tokens_in, tokens_out; /* as the server counts them, valid when counted */
    bool counted, ended, cut; /* ended: a stream said that it is over; cut: it reached its limit of tokens */
} ChatAnswer;

/* The body of a whole completion. ERR_FORMAT says what is wrong with it, in the server's words where it gives an error. */
ErrCode chat_answer(ChatAnswer *answer, const char *body, size_t n, Err *err) ERR_CHECKED;
/* The data of one event of a streamed one. */
ErrCode chat_event(ChatAnswer *answer, const char *data, size_t n, Err *err) ERR_CHECKED;
void chat_answer_free(ChatAnswer *answer);

/* The server's message in the body of an error, into out (cut to fit; "" without one); returns out. */
const char *chat_error(char *out, size_t max, const char *body, size_t n);

#endif
