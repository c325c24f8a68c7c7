/* train/teacher.h - a trained router whose answers a run keeps while it learns more (deberta_distill): its folder's
 * weights on the run's backend, without gradients. Its labels are the first of the run's, in order; its sizes are its
 * own, its tokenizer must be the run's. */
#ifndef TRAIN_TEACHER_H
#define TRAIN_TEACHER_H

#include "core/err.h"
#include "core/sha256.h"
#include "model/deberta.h"
#include "tokenizer/tokenizer.h"

typedef struct {
    char *dir; /* of config.json and weights; NULL: there is no teacher */
    Config config;
    Ops ops; /* its own: a backend is bound to one model's weights */
    Deberta model;
    char digest[SHA256_HEX]; /* of config and weights, in whichever file they are */
} Teacher;

/* Reads the configuration of `path`, a Hugging Face folder or a run folder (its model-best, else its model-last), and
 * compares its tokenizer: quick, so that a wrong path is told before the data is packed. */
ErrCode teacher_open(Teacher *t, const char *path, const Tokenizer *tokenizer, Err *err) ERR_CHECKED;

/* Loads the weights, for the batches that the student is opened for, on a backend of the same name and precision.
 * Labels of another name are told as a note. */
ErrCode teacher_load(Teacher *t, const Deberta *student, Err *err) ERR_CHECKED;
void teacher_close(Teacher *t);

/* Logits (S, config.num_labels) without dropout, borrowed until the next call; waits. ERR_NUMERIC where one is not
 * finite, ERR_FORMAT for a token that the teacher does not have. */
ErrCode teacher_logits(Teacher *t, const real **logits, const Packed *packed, Err *err) ERR_CHECKED;

#endif
