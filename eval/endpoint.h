/* eval/endpoint.h - a model behind a server that speaks OpenAI's chat completions: where it is and how it is asked.
 *
 * Members of a JSON object:
 *   base_url          "http://127.0.0.1:8000/v1"; "/chat/completions" is added
 *   model             as the server names it
 *   api_key_env       name of the environment variable that holds the key; default: no key is sent
 *   max_tokens        of an answer; default ENDPOINT_MAX_TOKENS
 *   tokens_field      "max_tokens" (default) or "max_completion_tokens"
 *   temperature       default 0; null: not sent
 *   timeout_seconds, connect_seconds   default 300 and 20
 *   extra             an object: further members of each request
 *
 * A key never stands in a file: it goes from the environment into one header of the requests, and endpoint_hide blots it
 * out where a server's answer repeats it. */
#ifndef EVAL_ENDPOINT_H
#define EVAL_ENDPOINT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

#define ENDPOINT_MAX_TOKENS      2048
#define ENDPOINT_TEMPLATE_TOKENS 128 /* that a chat template adds to a prompt, at most */

/* The members above, for tables of known keys. */
#define ENDPOINT_KEYS                                                                                   \
    "base_url", "model", "api_key_env", "max_tokens", "tokens_field", "temperature", "timeout_seconds", \
        "connect_seconds", "extra"

/* Zeroed: none (url NULL), valid to free. */
typedef struct {
    char *url, *model, *key_env; /* key_env: NULL without a key */
    char *extra;                 /* JSON members without their braces; NULL: none */
    char *secret;                /* "Authorization: Bearer ...", after endpoint_unlock */
    int64_t max_tokens;
    double temperature; /* NAN: not sent */
    double timeout_s, connect_s;
    bool completion_tokens; /* the field is max_completion_tokens */
} Endpoint;

/* Whether an object has any of the members. */
bool endpoint_there(const cJSON *object);

/* ERR_ARGUMENT names the member. Free it after failures too. */
ErrCode endpoint_read(Endpoint *out, const cJSON *object, Err *err) ERR_CHECKED;
void endpoint_free(Endpoint *endpoint);

/* Takes the key from the environment; ERR_ARGUMENT naming the variable when it is not set. */
ErrCode endpoint_unlock(Endpoint *endpoint, Err *err) ERR_CHECKED;

/* Whether both are the same model, by its name, wherever it is served. */
bool endpoint_same(const Endpoint *a, const Endpoint *b);

/* Body of a request: one user turn, no system prompt. Failures are sticky in *out. */
void endpoint_body(Buf *out, const Endpoint *endpoint, const char *user, size_t n);

/* The most tokens that a body's prompt can have: a token of a byte-level vocabulary has at least one byte. */
int64_t endpoint_tokens_in(const Buf *body);

/* In place; text may be NULL where n is 0. */
void endpoint_hide(const Endpoint *endpoint, char *text, size_t n);

#endif
