/* train/card.h - README.md of a checkpoint folder: a model card with the front matter that the Hugging Face
 * hub reads. */
#ifndef TRAIN_CARD_H
#define TRAIN_CARD_H

#include "train/ckpt.h"

ErrCode card_save(const char *dir, const Config *config, const CkptCard *card, Err *err) ERR_CHECKED;

#endif
