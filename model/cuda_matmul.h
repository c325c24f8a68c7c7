/* model/cuda_matmul.h - products of row-major matrices by cuBLASLt, and by our own kernel where that declines a shape.
 *
 * The same shape is computed in the same order in every run on the same kind of device: the algorithm is what the
 * library proposes for the shape with N rounded up, whatever came before, and none that sums in the order of arrival is
 * allowed. */
#ifndef MODEL_CUDA_MATMUL_H
#define MODEL_CUDA_MATMUL_H

#include <stdbool.h>

#include "core/err.h"
#include "model/cuda_lt.h"

typedef enum {
    CUDA_MATMUL_FORWARD, /* out (N,O) = a (N,I) b (O,I)^T + bias (O) */
    CUDA_MATMUL_GRAD_X,  /* out (N,I) = a (N,O) b (O,I) */
    CUDA_MATMUL_GRAD_W   /* out (O,I) = a (N,O)^T b (N,I) */
} CudaMatmulKind;

typedef enum {
    CUDA_MATMUL_BF16,  /* a, b and bias are bfloat16, and out going forward; it is float in gradients */
    CUDA_MATMUL_FLOAT, /* all float; products in tf32 where the backend was opened so */
    CUDA_MATMUL_REAL   /* all float, always */
} CudaMatmulType;
enum { CUDA_MATMUL_KINDS = 3, CUDA_MATMUL_TYPES = 3, CUDA_MATMUL_STREAMS = 2 };

typedef struct {
    CudaMatmulKind kind;
    CudaMatmulType type;
    void *out;
    const void *a, *b, *bias; /* bias: forward alone */
    int N, O, I;
    int stream; /* which of them it is queued on */
    bool add;   /* out is added to */
    int a_row;  /* numbers from one row of a to the next; 0: those of a row */
    /* Several products of one shape at once: their number (0: one), and numbers from one's out, a, b, bias to the next's. */
    int count;
    int64_t out_next, a_next, b_next, bias_next;
} CudaMatmul;

typedef struct CudaMatmulPlan CudaMatmulPlan;

/* A struct of zeros is valid to close. */
typedef struct {
    CudaLt lt;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc[CUDA_MATMUL_KINDS][CUDA_MATMUL_TYPES];
    cublasLtMatrixLayout_t layout[3]; /* of the library's A, B and D; C is D */
    cublasLtMatmulPreference_t preference;
    CudaMatmulPlan *plans; /* hashed */
    int planned;
    void *workspace[CUDA_MATMUL_STREAMS];
    size_t workspace_bytes;
    cudaStream_t stream[CUDA_MATMUL_STREAMS]; /* borrowed */
} CudaMatmuls;

ErrCode cuda_matmul_open(CudaMatmuls *m, const cudaStream_t stream[CUDA_MATMUL_STREAMS], bool tf32,
                         Err *err) ERR_CHECKED;
void cuda_matmul_close(CudaMatmuls *m);
/* Allocates nothing. */
ErrCode cuda_matmul_run(CudaMatmuls *m, const CudaMatmul *call, Err *err) ERR_CHECKED;

#endif
