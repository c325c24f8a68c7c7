/* data/synth_prompt.h - what a model is asked: the i-th request as a function of (plan, seed, i), and its JSON body for
 * /v1/chat/completions. */
#ifndef DATA_SYNTH_PROMPT_H
#define DATA_SYNTH_PROMPT_H

#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/flags.h"
#include "data/synth_plan.h"

#define SYNTH_PROMPT_EXAMPLES_MAX 20

/* What the plan alone does not have: one list for each domain. */
typedef struct {
    FlagList *topics;   /* the plan's, or the model's */
    FlagList *examples; /* real prompts */
} SynthMaterial;

typedef struct {
    uint64_t key;
    size_t domain;
    const SynthNegative *negative;           /* NULL: none */
    const char *topic;                       /* NULL: none */
    const SynthChoice *traits[SYNTH_TRAITS]; /* NULL: not asked for */
    size_t examples[SYNTH_PROMPT_EXAMPLES_MAX];
    size_t example_count;
} SynthDraw;

/* Request i asks for rows of this domain. */
size_t synth_prompt_domain(const SynthPlan *plan, uint64_t i);

/* The rest of the combination; needs the topics of that domain. */
void synth_prompt_draw(SynthDraw *draw, const SynthPlan *plan, const SynthMaterial *material, uint64_t i);

/* Bodies of requests: rows of a draw; topics of a domain (attempt: 0, 1, ... ask with another seed); a vote on the labels
 * of some texts (count of them). Failures are sticky in *out. */
void synth_prompt_rows(Buf *out, const SynthPlan *plan, const SynthMaterial *material, const SynthDraw *draw);
void synth_prompt_topics(Buf *out, const SynthPlan *plan, size_t domain, int attempt);
void synth_prompt_judge(Buf *out, const SynthPlan *plan, const char *const *texts, size_t count, uint64_t i,
                        int vote);

/* First 16 digits of the SHA-256 of the built-in wording. */
const char *synth_prompt_digest(char out[17]);

#endif
