/* export/sample.h - a blob of a given shape with random weights, for measuring speed and memory without a
 * trained model. Its answers mean nothing. */
#ifndef EXPORT_SAMPLE_H
#define EXPORT_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "export/blob.h"

/* out is a whole file as blob_write makes it, a function of the other arguments but threads. Of config the
 * sizes are read (vocab_size: at least so many); special ids follow from the tokenizer spm (spm_bytes
 * bytes of a spm.model); labels are "0", "1" ... Values are spread as in a trained model, so that nothing
 * overflows. Takes about twice the file's size in memory while it runs. ERR_FORMAT: not a tokenizer;
 * ERR_ARGUMENT, ERR_MEMORY. */
ErrCode sample_blob(Buf *out, const BlobConfig *config, const void *spm, size_t spm_bytes, uint64_t seed,
                    Threads *threads, Err *err) ERR_CHECKED;

#endif
