/* eval/experts.h - the models that a router sends prompts to: what each costs, how large it is, how often it is right.
 *
 * experts.json is an object; keys that begin with "_" are comments:
 *   experts        array of objects:
 *     name           unique
 *     parameters_b   billions of parameters, at least 0.001; counted in whole millions
 *     price_in, price_out   for a million tokens of prompt and of answer
 *     accuracy       share of prompts answered well: a number, or {"math": 0.84, ...} with every label of the router; or
 *     correctness    a JSONL file (beside experts.json unless absolute) with {"id": ..., "correct": true | 0 .. 1} for
 *                    every row, and where known "input_tokens" and "output_tokens" of that prompt
 *     input_tokens, output_tokens   of a typical prompt and answer, where the file of correctness does not say
 *     base_url, model, ...   where it can be asked (experts_chat); `router live` needs that, and neither parameters_b nor
 *                    accuracy nor correctness
 *   input_tokens   the same for all experts; 0, the default, takes a prompt's bytes / EXPERTS_TOKEN_BYTES, rounded up
 *   output_tokens  the same; default EXPERTS_OUTPUT_TOKENS
 *   routes         {"math": "name of an expert", ...} with every label of the router: a hand-made map; optional
 *   fallback       name of the expert for prompts that the router is not sure of; optional
 *   router         {parameters_b, price_in}: the router's own size and price; default 0
 *   judge          {base_url, model, ..., price_in, price_out}: a model that grades answers, at no price by default; it may be one
 *                  of the experts only if "may_be_expert" is true
 *   currency       default "USD"
 * Unknown keys, labels and experts are errors (ERR_ARGUMENT) that name the file and the nearest known name. */
#ifndef EVAL_EXPERTS_H
#define EVAL_EXPERTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "data/chat.h"
#include "eval/rows.h"

#define EXPERTS_MAX           256
#define EXPERTS_TOKEN_BYTES   4 /* of English text in a token, about */
#define EXPERTS_OUTPUT_TOKENS 500

typedef struct {
    char *name;
    int64_t parameters; /* millions; 0: not said */
    double price_in, price_out;
    double input_tokens, output_tokens; /* 0 tokens in: by the prompt's bytes */
    double *accuracy;                   /* (K), or NULL: */
    char *correctness;                  /* path of the file; or NULL, if it has an endpoint */
    Chat chat;                          /* url NULL: none */
} Expert;

/* Zeroed: empty, valid to free. */
typedef struct {
    char *path, *currency;
    Expert *items;
    int count, K;
    int *routes;  /* (K) expert of each label, or NULL */
    int fallback; /* -1: none named */
    int64_t router_parameters;
    double router_price_in;
    bool per_prompt;      /* every expert has a file of correctness */
    Chat judge;           /* url NULL: none */
    bool judge_is_expert; /* one of the experts, as the file allows */
} Experts;

/* labels (K): the router's. Files of correctness are not read yet. */
ErrCode experts_read(Experts *out, const char *path, const char *const *labels, int K, Err *err) ERR_CHECKED;
void experts_free(Experts *experts);

/* Where a model is and how it is asked: base_url ("http://127.0.0.1:8000/v1") and what data/chat.h says, but for what would
 * change the protocol (top_p, json, stream, send_seed). The error
 * names the member; free it after failures too. */
ErrCode experts_chat(Chat *out, const cJSON *object, Err *err) ERR_CHECKED;

/* What sending each row to each expert would give: quality (n, E), a share from 0 to 1, and cost (n, E) of a call. */
typedef struct {
    size_t n;
    int E;
    double *quality;
    double *cost, *router_cost; /* (n, E); (n) of the router's own tokens */
} ExpertsOutcome;

/* ERR_ARGUMENT where an expert has no size, or neither accuracy nor correctness. Reads the files of correctness; each row is found by its id (by its text's bytes only for the number of tokens). */
ErrCode experts_outcome(ExpertsOutcome *out, const Experts *experts, const Rows *rows, Err *err) ERR_CHECKED;
void experts_outcome_free(ExpertsOutcome *outcome);

#endif
