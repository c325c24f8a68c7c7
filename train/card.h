/* train/card.h - README.md of a checkpoint folder: a model card with the front matter that the Hugging Face
 * hub reads. */
#ifndef TRAIN_CARD_H
#define TRAIN_CARD_H

#include <stddef.h>
#include <stdint.h>

#include "train/ckpt.h"

ErrCode card_save(const char *dir, const Config *config, const CkptCard *card, Err *err) ERR_CHECKED;

/* What a model reaches on a set; shares from 0 to 1, low and high the ends of a 95 % interval. */
typedef struct {
    const char *set;
    uint64_t n;
    double accuracy, low, high, macro_f1, ece;
} CardResult;

/* Puts results in the place of what DIR/README.md says in its section "## Evaluation" and as "model-index" in its front
 * matter (those are added where they are missing; the rest stays as it is). ERR_IO, ERR_FORMAT: no card, or one without front
 * matter. */
ErrCode card_set_results(const char *dir, const CardResult *results, size_t count, Err *err) ERR_CHECKED;

#endif
