/* model/weights.h - weights of a Hugging Face folder into a block, and back.
 *
 * Looked for, in this order: model.safetensors.index.json (shards), model.safetensors,
 * pytorch_model.bin.index.json, pytorch_model.bin. Names may lack the leading "deberta."; names of the
 * pre-training heads (lm_predictions., mask_predictions., cls.) and other tensors that this model does not
 * have are ignored and listed. A missing encoder weight is an error naming it; a missing pooler or classifier
 * is initialised (normal with std initializer_range, biases 0) and listed; half of one is an error. Without
 * labels there is no classifier, and one in the file is ignored and listed. A classifier of another size than
 * config->num_labels is an error that names both. Values must be finite. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "core/err.h"
#include "core/flags.h"
#include "model/params.h"

typedef struct {
    FlagList initialised, ignored; /* names of tensors */
    char source[64];               /* the file's name that the weights came from */
} WeightsReport;

/* Fills params (laid out with word embeddings) from `dir`. report may be NULL. */
ErrCode weights_load(const Params *params, const Config *config, const char *dir, uint64_t seed,
                     WeightsReport *report, Err *err) ERR_CHECKED;
void weights_report_free(WeightsReport *report);

/* SHA-256 of the file that weights_load takes from `dir`, by which a router names its parent (model/taxonomy.h); ""
 * where they are in several files. ERR_IO: there are none. */
ErrCode weights_digest(char hex[65], const char *dir, Err *err) ERR_CHECKED;

/* A fresh model: normal(0, initializer_range) for matrices (row pad_token_id of the word embeddings 0), 1 and
 * 0 for norms, 0 for biases; a function of (seed, name, index) alone. */
void weights_init(const Params *params, const Config *config, uint64_t seed);

/* model.safetensors with Hugging Face's names, F32, metadata {"format": "pt"}. */
ErrCode weights_save(const char *path, const Params *params, const Config *config, Err *err) ERR_CHECKED;

#endif
