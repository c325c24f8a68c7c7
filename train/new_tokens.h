/* train/new_tokens.h - the words that come with new labels, for --new_token_rate. An encoder that is adapted in few steps
 * has hardly met them, and its old prompts hardly have them: their embeddings may learn faster than all that it knows. */
#ifndef TRAIN_NEW_TOKENS_H
#define TRAIN_NEW_TOKENS_H

#include "core/err.h"
#include "data/shard.h"
#include "model/config.h"

/* How much more often than elsewhere a token has to occur in the train rows of new labels: a share of all tokens there,
 * first and last of a prompt aside. */
enum { NEW_TOKENS_TIMES = 4 };

/* Labels are new that came with the last revision of config->taxonomy. boost (vocab_size), for Adamw.boosts: `rate`
 * for their tokens, of which there are *count, and 1 for others. The shard's ids are below vocab_size. ERR_ARGUMENT: no
 * label is newer than another. */
ErrCode new_tokens_boost(float *boost, int *count, Shard *shard, const Config *config, double rate,
                         Err *err) ERR_CHECKED;

#endif
