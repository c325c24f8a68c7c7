/* data/synth_plan.h - the plan file of `router data synth`: which prompts to ask which model for.
 *
 * One JSON object. Keys that begin with '_' are comments; an unknown key is an error that names the nearest known one.
 *
 *   endpoint   base_url ("http://127.0.0.1:8000/v1"), and what data/chat.h says of a model
 *   judge      optional; votes, agree, and any key of endpoint that differs
 *   seed, rows (of each domain), rows_per_request, examples_per_request, concurrency
 *   domains    [{name, description, not, rows, topics}]; topics: a tree of arrays, objects and strings, or
 *              {"ask": 40, "subtopics": 5}: the model is asked; without it the domain has no topics
 *   styles, lengths, difficulties, personas, languages: [name | {name, text, weight}]; text is what the model is told
 *   hard_negatives  [{label, near, share, hint}]: a share of label's requests asks for prompts that look like near's
 *   filter     near (similarity from which a row repeats another), min_chars, max_chars
 *   budget     rows, requests, tokens, cost, minutes; 0: no limit
 *   retry      attempts, first_seconds, longest_seconds, retry_after_seconds (the most that is waited for)
 *
 * A key never stands in a plan. */
#ifndef DATA_SYNTH_PLAN_H
#define DATA_SYNTH_PLAN_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/flags.h"
#include "core/sha256.h"
#include "data/chat.h"

#define SYNTH_PLAN_VOTES_MAX   9
#define SYNTH_PLAN_ROWS_MAX    100 /* of one request */
#define SYNTH_PLAN_DOMAINS_MAX 256

typedef struct {
    const char *name, *text;
    double weight;
} SynthChoice;

typedef struct {
    SynthChoice *items;
    size_t count;
} SynthChoices;

typedef struct {
    const char *name, *description, *excludes; /* the last two: "" without */
    int64_t rows;
    FlagList topics; /* "geometry: circles" */
    int64_t ask_topics, ask_subtopics;
} SynthDomain;

typedef struct {
    size_t label, near; /* domains */
    double share;
    const char *hint; /* "" without */
} SynthNegative;

typedef enum {
    SYNTH_STYLE,
    SYNTH_LENGTH,
    SYNTH_DIFFICULTY,
    SYNTH_PERSONA,
    SYNTH_LANGUAGE,
    SYNTH_TRAITS
} SynthTrait;
const char *synth_plan_trait(SynthTrait trait); /* "style" */

typedef struct {
    Chat writer, judge;   /* key_env NULL: ROUTER_API_KEY, then OPENAI_API_KEY */
    int64_t votes, agree; /* votes 0: no judge */
    int64_t seed, rows_per_request, examples_per_request, concurrency;
    SynthDomain *domains;
    size_t domain_count;
    SynthChoices traits[SYNTH_TRAITS]; /* an empty one is not asked for */
    SynthNegative *negatives;
    size_t negative_count;
    double near;
    int64_t min_chars, max_chars;
    int64_t max_rows, max_requests, max_tokens; /* 0: no limit */
    double max_cost, max_minutes;
    int64_t attempts;
    double first_s, longest_s, retry_after_s;
    char digest
        [SHA256_HEX]; /* of what decides what is asked: not of endpoints' addresses, prices, limits, retries */
    cJSON *tree;      /* owned */
} SynthPlan;

/* Parses text[0..n). *plan is zeroed first; free it after failures too. ERR_ARGUMENT names the key. */
ErrCode synth_plan_parse(SynthPlan *plan, const char *text, size_t n, Err *err) ERR_CHECKED;
/* The same from a file; errors begin with its path. */
ErrCode synth_plan_read(SynthPlan *plan, const char *path, Err *err) ERR_CHECKED;
void synth_plan_free(SynthPlan *plan);

#endif
