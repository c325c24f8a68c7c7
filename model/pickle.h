/* model/pickle.h - pytorch_model.bin, both formats (zip since 1.6, and the legacy stream), through the restricted
 * unpickler of model/unpickle.h: nothing in the file is executed. Sizes are validated against the file before memory is
 * allocated. */
#ifndef MODEL_PICKLE_H
#define MODEL_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/tensor.h"

typedef struct Pickle Pickle;

typedef struct {
    const char *name;
    Dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
} PickleEntry;

/* Opens a state dict: a dict (or a dict with one key "state_dict" or "model") from names to tensors; other
 * values in it are ignored. */
ErrCode pickle_open(Pickle **out, const char *path, Err *err) ERR_CHECKED;

/* The same for a file in memory; `bytes` is borrowed until pickle_close. */
ErrCode pickle_open_bytes(Pickle **out, const void *bytes, size_t n, Err *err) ERR_CHECKED;

size_t pickle_count(const Pickle *p);
PickleEntry pickle_entry(const Pickle *p, size_t i);

/* Tensor i as float32, contiguous (strides in the file are honoured). ERR_FORMAT when its dtype is no float.
 */
ErrCode pickle_read_f32(Pickle *p, size_t i, float *out, Err *err) ERR_CHECKED;
void pickle_close(Pickle *p);

#endif
