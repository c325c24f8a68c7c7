/* eval/grow.h - a classifier with more labels than its parent. The head grows at its end and nothing is renumbered, so
 * that whoever knows the parent's ids knows the child's.
 *
 * The head's row of a label that must not win, be it new and untrained or retired, is
 *   w = mean of the rows w_k,  b = mean of the b_k - margin
 * over the other labels k that are active: its logit is their mean logit less the margin, which is below the largest of
 * them whatever the prompt, and it says so from the first step on while it can still be trained. A label that is split
 * from an old one takes the old one's row instead of the mean. The margin of a new one is GROW_MARGIN_NEW times the
 * parent's temperature, where that is above 1: e^-20 changes the probabilities of the others by less than float32 shows. */
#ifndef EVAL_GROW_H
#define EVAL_GROW_H

#include "core/err.h"
#include "model/config.h"
#include "model/params.h"

#define GROW_MARGIN_NEW 20.0
#define GROW_MARGIN_RETIRED \
    30.0 /* what training adds to a head in a few thousand steps does not make up for it */

typedef struct {
    const char *name, *description; /* description NULL: none */
} GrowLabel;

typedef struct {
    const char *old, *new;
} GrowRename;

/* Names of old labels are those before any renaming. */
typedef struct {
    const GrowLabel *labels; /* appended in this order */
    int label_count;
    const char *split_from; /* the old label whose prompts the new ones are taken from; NULL: none */
    const GrowRename *renames;
    size_t rename_count;
    const char *const *retired;
    size_t retired_count;
} GrowRule;

/* Writes the folder `to`: config.json with the labels, a taxonomy of the next revision and the parent's decision rule, in
 * which the new labels have no part; the weights, all of the parent's bit for bit but for the rows of retired labels; the
 * tokenizer's files. `from` is a Hugging Face folder. A folder that is there is replaced. ERR_ARGUMENT names a label that
 * there is already, or that is not there, or a result that no router can have. */
ErrCode grow_folder(const char *to, const char *from, const GrowRule *rule, Err *err) ERR_CHECKED;

/* The classifier's weights w (K, H) and biases b (K) of a folder; K and H are those of *config, which is the caller's to
 * free with the arrays (mem_free). */
ErrCode grow_head_read(Config *config, float **w, float **b, const char *folder, Err *err) ERR_CHECKED;

/* Puts others in their place. */
ErrCode grow_head_write(const char *folder, const float *w, const float *b, Err *err) ERR_CHECKED;

/* All files of a folder, in the place of what is at `to`. */
ErrCode grow_copy(const char *to, const char *from, Err *err) ERR_CHECKED;

/* The row above, into row `k` of w (K, H) and b (K); rows[0..count) are those whose mean it is. */
void grow_mute(float *w, float *b, int H, int k, const int *rows, int count, double margin);

#endif
