#include "core/tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} DTYPES[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 4},   [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_F64] = {"F64", 8},   [DTYPE_I64] = {"I64", 8}, [DTYPE_I32] = {"I32", 4},
    [DTYPE_I16] = {"I16", 2},   [DTYPE_I8] = {"I8", 1},   [DTYPE_U8] = {"U8", 1},
    [DTYPE_BOOL] = {"BOOL", 1},
};

size_t tensor_dtype_bytes(Dtype dtype) {
    return DTYPES[dtype].bytes;
}

const char *tensor_dtype_name(Dtype dtype) {
    return DTYPES[dtype].name;
}

Dtype tensor_dtype_find(const char *name, size_t len) {
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (strlen(DTYPES[d].name) == len && memcmp(DTYPES[d].name, name, len) == 0) return (Dtype)d;
    return DTYPE_COUNT;
}

int64_t tensor_count(const Tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] < 0) return -1;
        if (t->shape[i] != 0 && n > (INT64_MAX / 8) / t->shape[i]) return -1;
        n *= t->shape[i];
    }
    return n;
}

const char *tensor_shape_text(char out[96], const int64_t *shape, int rank) {
    size_t at = 0;
    out[at++] = '[';
    for (int i = 0; i < rank && at < 70; i++)
        at += (size_t)snprintf(out + at, 96 - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    out[at++] = ']';
    out[at] = 0;
    return out;
}

float tensor_bf16_to_f32(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float tensor_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 31u, mantissa = h & 1023u, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else if (mantissa == 0) {
        bits = sign;
    } else { /* subnormal: shift the leading one into place */
        exponent = 113;
        while (!(mantissa & 1024u)) {
            mantissa <<= 1;
            exponent--;
        }
        bits = sign | (exponent << 23) | ((mantissa & 1023u) << 13);
    }
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t tensor_f32_to_f16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 65536 or more */
    if (magnitude < 0x33000001u) return sign; /* at most half of the smallest subnormal */
    const uint32_t exponent = magnitude >> 23;
    uint32_t mantissa = magnitude & 0x7fffffu, shift = 13, base = 0;
    if (exponent < 113) { /* subnormal result */
        mantissa |= 0x800000u;
        shift = 126 - exponent;
    } else {
        base = (exponent - 112) << 10;
    }
    uint32_t half = base + (mantissa >> shift);
    const uint32_t rest = mantissa & ((1u << shift) - 1), middle = 1u << (shift - 1);
    if (rest > middle || (rest == middle && (half & 1u))) half++;
    return (uint16_t)(sign | half);
}

int tensor_to_f32(float *out, const void *in, Dtype dtype, size_t n) {
    const unsigned char *bytes = in;
    uint16_t h;
    double d;
    switch (dtype) {
        case DTYPE_F32: memcpy(out, in, n * sizeof *out); return 1;
        case DTYPE_F16:
            for (size_t i = 0; i < n; i++) memcpy(&h, bytes + 2 * i, 2), out[i] = tensor_f16_to_f32(h);
            return 1;
        case DTYPE_BF16:
            for (size_t i = 0; i < n; i++) memcpy(&h, bytes + 2 * i, 2), out[i] = tensor_bf16_to_f32(h);
            return 1;
        case DTYPE_F64:
            for (size_t i = 0; i < n; i++) memcpy(&d, bytes + 8 * i, 8), out[i] = (float)d;
            return 1;
        default: return 0;
    }
}
