/* core/tensor.h - a view of numbers: contiguous, row-major, owns nothing. And the 16-bit float formats. */
#ifndef CORE_TENSOR_H
#define CORE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPE_COUNT
} Dtype;

#define TENSOR_RANK_MAX 4

typedef struct {
    void *data;
    int64_t shape[TENSOR_RANK_MAX];
    int rank; /* 0 is a scalar */
    Dtype dtype;
} Tensor;

size_t tensor_dtype_bytes(Dtype dtype);
const char *tensor_dtype_name(Dtype dtype); /* the safetensors name: "F32", "BF16", ... */

/* Dtype of a safetensors name, or DTYPE_COUNT. */
Dtype tensor_dtype_find(const char *name, size_t len);

/* Product of the shape; -1 if it is negative somewhere or its size in bytes overflows. */
int64_t tensor_count(const Tensor *t);

/* "[128100, 1024]" into out; returns out. */
const char *tensor_shape_text(char out[96], const int64_t *shape, int rank);

float tensor_f16_to_f32(uint16_t h);
uint16_t tensor_f32_to_f16(float f); /* round to nearest even; overflow gives infinity */
float tensor_bf16_to_f32(uint16_t h);

/* n values of a floating dtype to float32; other dtypes give 0 and leave out untouched. */
int tensor_to_f32(float *out, const void *in, Dtype dtype, size_t n);

#endif
