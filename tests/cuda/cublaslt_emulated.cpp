/* tests/cuda/cublaslt_emulated.cpp - NVIDIA's matrix library in plain loops, so that the cuda backend's host code runs
 * without a GPU: what a description, layout or pointer says wrongly gives wrong results here, too. Matrices are stored by
 * columns. Some shapes are refused, as the library may: those whose alignment it would need, and (so that the way out is
 * taken) algorithms that were proposed for more columns when there are 3 more than a multiple of 7. */
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <new>

#include "model/cuda_lt.h"

struct cublasLtContext {
    int unused;
};

struct cublasLtMatmulDescOpaque {
    cublasComputeType_t compute;
    int32_t a, b, epilogue; /* operations */
    const void *bias;
    int64_t bias_next;
};

struct cublasLtMatrixLayoutOpaque {
    uint32_t type;
    uint64_t rows, columns;
    int64_t ld;
    int32_t count;
    int64_t next; /* matrix of the batch */
};

struct cublasLtMatmulPreferenceOpaque {
    uint64_t workspace;
    uint32_t reduction, alignment[4];
};

namespace {

const uint64_t MAGIC = 0xa190a190a190a190u;
enum { SPLITS = 1000 }; /* bytes of workspace that an algorithm needs here */

bool is_bf16(const cublasLtMatrixLayoutOpaque *x) {
    return x->type == CUDA_R_16BF;
}

struct Product {
    cublasLtMatmulDescOpaque desc;
    cublasLtMatrixLayoutOpaque a, b, d;
    const void *pa, *pb, *pc;
    void *pd;
    float alpha, beta;
};

/* As the tensor cores read a float in tf32: 10 bits behind the point. */
float tf32(float x) {
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}

float element(const void *p, const cublasLtMatrixLayoutOpaque *x, uint64_t row, uint64_t column) {
    const size_t at = (size_t)(row + column * (uint64_t)x->ld);
    return is_bf16(x) ? __bfloat162float(((const __nv_bfloat16 *)p)[at]) : ((const float *)p)[at];
}

void multiply(Product p) {
    const uint64_t depth = p.desc.a ? p.a.rows : p.a.columns;
    const bool rounds = p.desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    for (uint64_t j = 0; j < p.d.columns; j++)
        for (uint64_t i = 0; i < p.d.rows; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < depth; k++) {
                float x = p.desc.a ? element(p.pa, &p.a, k, i) : element(p.pa, &p.a, i, k);
                float y = p.desc.b ? element(p.pb, &p.b, j, k) : element(p.pb, &p.b, k, j);
                if (rounds) x = tf32(x), y = tf32(y);
                sum += (double)x * (double)y;
            }
            float z = p.alpha * (float)sum;
            if (p.beta != 0) z += p.beta * element(p.pc, &p.d, i, j);
            if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS)
                z += is_bf16(&p.d) ? __bfloat162float(((const __nv_bfloat16 *)p.desc.bias)[i])
                                   : ((const float *)p.desc.bias)[i];
            const size_t at = (size_t)(i + j * (uint64_t)p.d.ld);
            if (is_bf16(&p.d))
                ((__nv_bfloat16 *)p.pd)[at] = __float2bfloat16_rn(z);
            else
                ((float *)p.pd)[at] = z;
        }
}

const void *behind(const void *p, int64_t numbers, bool half) {
    return (const char *)p + numbers * (half ? 2 : 4);
}

void multiply_all(Product p) {
    for (int i = 0; i < p.d.count; i++) {
        Product one = p;
        one.pa = behind(p.pa, i * p.a.next, is_bf16(&p.a));
        one.pb = behind(p.pb, i * p.b.next, is_bf16(&p.b));
        one.pc = behind(p.pc, i * p.d.next, is_bf16(&p.d));
        one.pd = (void *)(uintptr_t)behind(p.pd, i * p.d.next, is_bf16(&p.d));
        one.desc.bias = behind(p.desc.bias, i * p.desc.bias_next, is_bf16(&p.d));
        multiply(one);
    }
}

bool fits(const cublasLtMatmulDescOpaque *desc, const cublasLtMatrixLayoutOpaque *a,
          const cublasLtMatrixLayoutOpaque *b, const cublasLtMatrixLayoutOpaque *d) {
    const cublasLtMatrixLayoutOpaque *const all[] = {a, b, d};
    for (const cublasLtMatrixLayoutOpaque *x : all)
        if (!x || x->rows < 1 || x->columns < 1 || x->ld < (int64_t)x->rows ||
            (x->type != CUDA_R_32F && x->type != CUDA_R_16BF))
            return false;
    if (a->count != d->count || b->count != d->count || d->count < 1) return false;
    if (a->type != b->type || (!is_bf16(a) && is_bf16(d))) return false;
    if (is_bf16(a) && desc->compute != CUBLAS_COMPUTE_32F) return false;
    const uint64_t m = desc->a ? a->columns : a->rows, k = desc->a ? a->rows : a->columns;
    const uint64_t n = desc->b ? b->rows : b->columns, k_b = desc->b ? b->columns : b->rows;
    return k == k_b && d->rows == m && d->columns == n;
}

bool aligned(const void *p, uint64_t bytes) {
    return (uintptr_t)p % bytes == 0;
}

template <class T>
cublasStatus_t take(T *to, const void *value, size_t bytes) {
    if (bytes != sizeof *to || !value) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t make(T **out) {
    *out = new (std::nothrow) T();
    return *out ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

} // namespace

extern "C" {

size_t cublasLtGetVersion(void) {
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    return make(handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    const cublasStatus_t status = make(desc);
    if (status == CUBLAS_STATUS_SUCCESS)
        **desc = {compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL, 0};
    return status;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA: return take(&desc->a, value, bytes);
        case CUBLASLT_MATMUL_DESC_TRANSB: return take(&desc->b, value, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return take(&desc->epilogue, value, bytes);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return take(&desc->bias, value, bytes);
        case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return take(&desc->bias_next, value, bytes);
        default: return CUBLAS_STATUS_INVALID_VALUE;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    const cublasStatus_t status = make(layout);
    if (status == CUBLAS_STATUS_SUCCESS) **layout = {(uint32_t)type, rows, columns, ld, 1, 0};
    return status;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATRIX_LAYOUT_TYPE: return take(&layout->type, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_ROWS: return take(&layout->rows, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_COLS: return take(&layout->columns, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_LD: return take(&layout->ld, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return take(&layout->count, value, bytes);
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return take(&layout->next, value, bytes);
        default: return CUBLAS_STATUS_INVALID_VALUE;
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    const cublasStatus_t status = make(preference);
    if (status == CUBLAS_STATUS_SUCCESS)
        **preference = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    return status;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return take(&preference->workspace, value, bytes);
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return take(&preference->reduction, value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
            return take(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
                        bytes);
        default: return CUBLAS_STATUS_INVALID_VALUE;
    }
}

/* An algorithm remembers what it was asked for: columns of D, depth, the pointers' alignment. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
    *found = 0;
    if (!handle || requested < 1 || c != d || !fits(desc, a, b, d)) return CUBLAS_STATUS_INVALID_VALUE;
    uint64_t least = 256;
    for (uint32_t x : preference->alignment) least = x < least ? x : least;
    if (is_bf16(a) && (least < 16 || a->ld % 8 || b->ld % 8 || d->ld % 8)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (least < 4 || preference->workspace < SPLITS ||
        (preference->reduction & CUBLASLT_REDUCTION_SCHEME_INPLACE) ||
        (desc->epilogue == CUBLASLT_EPILOGUE_BIAS && !aligned(desc->bias, least)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const uint64_t depth = desc->a ? a->rows : a->columns;
    results[0] = {};
    results[0].algo = {
        {MAGIC, d->rows, d->columns, depth, least, a->type, d->type, (uint64_t)desc->epilogue}};
    results[0].workspaceSize = SPLITS;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    const uint64_t *made = algo->data;
    if (!handle || !fits(desc, a_layout, b_layout, d_layout) || c_layout != d_layout || c != d ||
        made[0] != MAGIC || !workspace || workspace_bytes < SPLITS)
        return CUBLAS_STATUS_INVALID_VALUE;
    const uint64_t depth = desc->a ? a_layout->rows : a_layout->columns;
    const bool biased = desc->epilogue == CUBLASLT_EPILOGUE_BIAS;
    if (made[1] != d_layout->rows || made[5] != a_layout->type || made[6] != d_layout->type ||
        made[7] != (uint64_t)desc->epilogue || !aligned(a, made[4]) || !aligned(b, made[4]) ||
        !aligned(d, made[4]) || (biased && (!desc->bias || !aligned(desc->bias, made[4]))))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool more = made[2] != d_layout->columns || made[3] != depth;
    if (more && (d_layout->columns % 7 == 3 || depth % 7 == 3)) return CUBLAS_STATUS_NOT_SUPPORTED;
    const Product product = {
        *desc, *a_layout, *b_layout, *d_layout, a, b, c, d, *(const float *)alpha, *(const float *)beta};
    emulator_launch(multiply_all, 1, 1, 0, stream, product);
    return CUBLAS_STATUS_SUCCESS;
}

ErrCode cuda_lt_open(CudaLt *lt, Err *) {
    *lt = {cublasLtGetVersion,
           cublasLtCreate,
           cublasLtDestroy,
           cublasLtMatmulDescCreate,
           cublasLtMatmulDescDestroy,
           cublasLtMatmulDescSetAttribute,
           cublasLtMatrixLayoutCreate,
           cublasLtMatrixLayoutDestroy,
           cublasLtMatrixLayoutSetAttribute,
           cublasLtMatmulPreferenceCreate,
           cublasLtMatmulPreferenceDestroy,
           cublasLtMatmulPreferenceSetAttribute,
           cublasLtMatmulAlgoGetHeuristic,
           cublasLtMatmul};
    return ERR_OK;
}
}
