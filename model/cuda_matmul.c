#include "model/cuda_matmul.h"

#include <cuda_runtime.h>
#include <stdint.h>

#include "core/mem.h"
#include "model/cuda.h"

enum {
    PLANS = 8192, /* more shapes than a training meets; beyond 3/4 of them the library is asked each time */
    VECTOR = 16 /* bytes that pointers and, in bfloat16, rows are aligned to for the library's fast kernels */
};
static const size_t WORKSPACE = (size_t)64 << 20;

struct CudaMatmulPlan {
    uint32_t key[4]; /* key[0] is 0 where there is none */
    bool own;        /* the library has nothing for this shape */
    cublasLtMatmulAlgo_t algo;
};

static ErrCode refused(Err *err, const char *what, cublasStatus_t status) {
    return err_set(err, ERR_BACKEND, "backend cuda: cuBLASLt: %s: status %d%s", what, (int)status,
                   status == CUBLAS_STATUS_ALLOC_FAILED      ? " (out of memory)"
                   : status == CUBLAS_STATUS_ARCH_MISMATCH   ? " (not for this device)"
                   : status == CUBLAS_STATUS_NOT_SUPPORTED   ? " (not supported)"
                   : status == CUBLAS_STATUS_NOT_INITIALIZED ? " (not initialised)"
                                                             : "");
}

static ErrCode open_desc(CudaMatmuls *m, CudaMatmulKind kind, CudaMatmulType type, bool tf32, Err *err) {
    const CudaLt *lt = &m->lt;
    const cublasComputeType_t compute =
        type == CUDA_MATMUL_FLOAT && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasLtMatmulDesc_t *desc = &m->desc[kind][type];
    cublasStatus_t status = lt->desc_create(desc, compute, CUDA_R_32F);
    const int32_t transposed = CUBLAS_OP_T, bias = CUBLASLT_EPILOGUE_BIAS;
    /* row-major is column-major of the transposed: out^T = op(b^T) op(a^T) */
    if (status == CUBLAS_STATUS_SUCCESS && kind == CUDA_MATMUL_FORWARD)
        status = lt->desc_set(*desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS && kind == CUDA_MATMUL_FORWARD)
        status = lt->desc_set(*desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof bias);
    if (status == CUBLAS_STATUS_SUCCESS && kind == CUDA_MATMUL_GRAD_W)
        status = lt->desc_set(*desc, CUBLASLT_MATMUL_DESC_TRANSB, &transposed, sizeof transposed);
    return status == CUBLAS_STATUS_SUCCESS ? ERR_OK : refused(err, "a description", status);
}

static ErrCode open_parts(CudaMatmuls *m, bool tf32, Err *err) {
    const CudaLt *lt = &m->lt;
    cublasStatus_t status = lt->create(&m->handle);
    if (status != CUBLAS_STATUS_SUCCESS) return refused(err, "its start", status);
    for (int kind = 0; kind < CUDA_MATMUL_KINDS; kind++)
        for (int type = 0; type < CUDA_MATMUL_TYPES; type++)
            TRY(open_desc(m, (CudaMatmulKind)kind, (CudaMatmulType)type, tf32, err));
    for (int i = 0; i < 3 && status == CUBLAS_STATUS_SUCCESS; i++)
        status = lt->layout_create(&m->layout[i], CUDA_R_32F, 1, 1, 1);
    if (status == CUBLAS_STATUS_SUCCESS) status = lt->preference_create(&m->preference);
    /* partial sums in float, added up in a step of its own; INPLACE takes them as they come */
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->preference_set(m->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                    sizeof reduction);
    m->workspace_bytes = WORKSPACE;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->preference_set(m->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                    &m->workspace_bytes, sizeof m->workspace_bytes);
    if (status != CUBLAS_STATUS_SUCCESS) return refused(err, "its preferences", status);
    TRY(mem_new(&m->plans, PLANS, sizeof *m->plans, "the plans of products", err));
    for (int i = 0; i < CUDA_MATMUL_STREAMS; i++) {
        if (cudaMalloc(&m->workspace[i], m->workspace_bytes) == cudaSuccess) continue;
        (void)cudaGetLastError();
        m->workspace[i] = NULL;
        return err_set(err, ERR_MEMORY, "out of memory on the device: cuBLASLt needs %zu bytes",
                       m->workspace_bytes);
    }
    return ERR_OK;
}

ErrCode cuda_matmul_open(CudaMatmuls *m, const cudaStream_t stream[CUDA_MATMUL_STREAMS], bool tf32,
                         Err *err) {
    *m = (CudaMatmuls){0};
    for (int i = 0; i < CUDA_MATMUL_STREAMS; i++) m->stream[i] = stream[i];
    TRY(cuda_lt_open(&m->lt, err));
    const ErrCode rc = open_parts(m, tf32, err);
    if (rc != ERR_OK) cuda_matmul_close(m);
    return rc;
}

void cuda_matmul_close(CudaMatmuls *m) {
    for (int kind = 0; kind < CUDA_MATMUL_KINDS; kind++)
        for (int type = 0; type < CUDA_MATMUL_TYPES; type++)
            if (m->desc[kind][type]) (void)m->lt.desc_destroy(m->desc[kind][type]);
    for (int i = 0; i < 3; i++)
        if (m->layout[i]) (void)m->lt.layout_destroy(m->layout[i]);
    if (m->preference) (void)m->lt.preference_destroy(m->preference);
    if (m->handle) (void)m->lt.destroy(m->handle);
    for (int i = 0; i < CUDA_MATMUL_STREAMS; i++)
        if (m->workspace[i]) (void)cudaFree(m->workspace[i]);
    mem_free(m->plans);
    *m = (CudaMatmuls){0};
}

static bool is_bf16(const CudaMatmul *c) {
    return c->type == CUDA_MATMUL_BF16;
}

/* What all pointers are multiples of: VECTOR, or else a number. */
static uint32_t alignment_of(const CudaMatmul *c) {
    const uintptr_t next = (uintptr_t)(c->out_next | c->a_next | c->b_next | c->bias_next | c->a_row),
                    bits = (uintptr_t)c->out | (uintptr_t)c->a | (uintptr_t)c->b | (uintptr_t)c->bias |
                           next * (is_bf16(c) ? 2 : 4);
    return bits % VECTOR == 0 ? VECTOR : is_bf16(c) ? 2 : 4;
}

/* The matrices as the library sees them. */
static cublasStatus_t set_layouts(const CudaMatmuls *m, const CudaMatmul *c, int N) {
    const int sizes[CUDA_MATMUL_KINDS][3][2] = {{{c->I, c->O}, {c->I, N}, {c->O, N}},
                                                {{c->I, c->O}, {c->O, N}, {c->I, N}},
                                                {{c->I, N}, {c->O, N}, {c->I, c->O}}};
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 3 && status == CUBLAS_STATUS_SUCCESS; i++) {
        const bool half = is_bf16(c) && (i < 2 || c->kind == CUDA_MATMUL_FORWARD);
        const uint32_t type = half ? CUDA_R_16BF : CUDA_R_32F;
        const uint64_t rows = (uint64_t)sizes[c->kind][i][0], columns = (uint64_t)sizes[c->kind][i][1];
        const int64_t ld = i == 1 && c->a_row ? c->a_row : (int64_t)rows;
        const int32_t count = c->count ? c->count : 1;
        const int64_t next = i == 0 ? c->b_next : i == 1 ? c->a_next : c->out_next;
        status = m->lt.layout_set(m->layout[i], CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof type);
        if (status == CUBLAS_STATUS_SUCCESS)
            status = m->lt.layout_set(m->layout[i], CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, sizeof rows);
        if (status == CUBLAS_STATUS_SUCCESS)
            status = m->lt.layout_set(m->layout[i], CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns);
        if (status == CUBLAS_STATUS_SUCCESS)
            status = m->lt.layout_set(m->layout[i], CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld);
        if (status == CUBLAS_STATUS_SUCCESS)
            status = m->lt.layout_set(m->layout[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
        if (status == CUBLAS_STATUS_SUCCESS)
            status = m->lt.layout_set(m->layout[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next,
                                      sizeof next);
    }
    return status;
}

static cublasStatus_t set_bias(const CudaMatmuls *m, const CudaMatmul *c, const void *bias) {
    if (c->kind != CUDA_MATMUL_FORWARD) return CUBLAS_STATUS_SUCCESS;
    cublasLtMatmulDesc_t desc = m->desc[c->kind][c->type];
    const cublasStatus_t status = m->lt.desc_set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return m->lt.desc_set(desc, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &c->bias_next, sizeof c->bias_next);
}

/* What the library proposes for N rows. */
static ErrCode ask(const CudaMatmuls *m, const CudaMatmul *c, int N, CudaMatmulPlan *plan, Err *err) {
    static const cublasLtMatmulPreferenceAttributes_t ALIGNMENTS[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    static _Alignas(VECTOR) const char places[VECTOR];
    const uint32_t alignment = alignment_of(c);
    cublasStatus_t status = set_layouts(m, c, N);
    for (int i = 0; i < 4 && status == CUBLAS_STATUS_SUCCESS; i++)
        status = m->lt.preference_set(m->preference, ALIGNMENTS[i], &alignment, sizeof alignment);
    /* It looks how this pointer is aligned: every bias of the shape as badly, so that the answer is one for all. */
    if (status == CUBLAS_STATUS_SUCCESS) status = set_bias(m, c, places + alignment % VECTOR);
    if (status != CUBLAS_STATUS_SUCCESS) return refused(err, "a shape", status);
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    status = m->lt.heuristic(m->handle, m->desc[c->kind][c->type], m->layout[0], m->layout[1], m->layout[2],
                             m->layout[2], m->preference, 1, &result, &found);
    plan->own = status != CUBLAS_STATUS_SUCCESS || found < 1 || result.state != CUBLAS_STATUS_SUCCESS;
    if (!plan->own) plan->algo = result.algo;
    return ERR_OK;
}

/* Ragged batches have another N each: they share a plan within a sixteenth. */
static int rounded(int N) {
    int step = 64;
    while (step * 16 < N && step < 1 << 20) step *= 2;
    return N <= INT32_MAX - step ? (N + step - 1) / step * step : N;
}

static ErrCode plan_of(CudaMatmuls *m, const CudaMatmul *c, int N, CudaMatmulPlan *out, Err *err) {
    const uint32_t key[4] = {1u | (uint32_t)c->kind << 1 | (uint32_t)c->type << 3 | (c->add ? 1u << 5 : 0) |
                                 alignment_of(c) << 6 | (uint32_t)c->count << 12 | (c->a_row ? 1u << 20 : 0),
                             (uint32_t)N, (uint32_t)c->O, (uint32_t)c->I};
    uint32_t hash = 2166136261u;
    for (int i = 0; i < 4; i++) hash = (hash ^ key[i]) * 16777619u ^ hash >> 15;
    for (uint32_t at = hash % PLANS;; at = (at + 1) % PLANS) {
        CudaMatmulPlan *p = &m->plans[at];
        if (p->key[0] == key[0] && p->key[1] == key[1] && p->key[2] == key[2] && p->key[3] == key[3]) {
            *out = *p;
            return ERR_OK;
        }
        if (p->key[0] != 0) continue;
        TRY(ask(m, c, N, out, err));
        if (m->planned >= PLANS / 4 * 3) return ERR_OK;
        for (int i = 0; i < 4; i++) out->key[i] = key[i];
        *p = *out;
        m->planned++;
        return ERR_OK;
    }
}

static cublasStatus_t run_plan(const CudaMatmuls *m, const CudaMatmul *c, const CudaMatmulPlan *plan) {
    const float one = 1, beta = c->add ? 1 : 0;
    cublasStatus_t status = set_layouts(m, c, c->N);
    if (status == CUBLAS_STATUS_SUCCESS) status = set_bias(m, c, c->bias);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return m->lt.matmul(m->handle, m->desc[c->kind][c->type], &one, c->b, m->layout[0], c->a, m->layout[1],
                        &beta, c->out, m->layout[2], c->out, m->layout[2], &plan->algo,
                        m->workspace[c->stream], m->workspace_bytes, m->stream[c->stream]);
}

static const void *behind(const void *p, int64_t numbers, bool half) {
    return p ? (const char *)p + numbers * (half ? 2 : 4) : NULL;
}

/* Number i of the products. */
static void run_own(const CudaMatmuls *m, const CudaMatmul *c, int i) {
    const size_t O = (size_t)c->O, I = (size_t)c->I;
    const bool half = is_bf16(c), half_out = half && c->kind == CUDA_MATMUL_FORWARD;
    const size_t row = c->a_row ? (size_t)c->a_row : c->kind == CUDA_MATMUL_FORWARD ? I : O;
    CudaProduct p = {.a = behind(c->a, i * c->a_next, half),
                     .b = behind(c->b, i * c->b_next, half),
                     .c = (char *)c->out + i * c->out_next * (half_out ? 2 : 4),
                     .bias = behind(c->bias, i * c->bias_next, half),
                     .in_bf16 = half,
                     .out_bf16 = half_out,
                     .add = c->add};
    if (c->kind == CUDA_MATMUL_FORWARD) {
        p.M = c->N, p.N = c->O, p.K = c->I;
        p.a_row = row, p.a_column = 1, p.b_row = 1, p.b_column = I;
    } else if (c->kind == CUDA_MATMUL_GRAD_X) {
        p.M = c->N, p.N = c->I, p.K = c->O;
        p.a_row = row, p.a_column = 1, p.b_row = I, p.b_column = 1;
    } else {
        p.M = c->O, p.N = c->I, p.K = c->N;
        p.a_row = 1, p.a_column = row, p.b_row = I, p.b_column = 1;
    }
    cuda_product(m->stream[c->stream], &p);
}

static void run_all_own(const CudaMatmuls *m, const CudaMatmul *c) {
    for (int i = 0; i == 0 || i < c->count; i++) run_own(m, c, i);
}

ErrCode cuda_matmul_run(CudaMatmuls *m, const CudaMatmul *call, Err *err) {
    if (call->N == 0) return ERR_OK;
    if (is_bf16(call) && (alignment_of(call) < VECTOR || call->O % 8 || call->I % 8)) {
        run_all_own(m, call);
        return ERR_OK;
    }
    CudaMatmulPlan plan = {0};
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    const int sizes[] = {rounded(call->N), call->N}; /* the latter where a plan for more rows does not fit */
    for (int i = 0; i < 2; i++) {
        TRY(plan_of(m, call, sizes[i], &plan, err));
        if (plan.own) break;
        status = run_plan(m, call, &plan);
        if (status == CUBLAS_STATUS_SUCCESS) return ERR_OK;
        if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE)
            return refused(err, "a product", status);
    }
    run_all_own(m, call);
    return ERR_OK;
}
