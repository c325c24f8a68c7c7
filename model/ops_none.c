/* model/ops_none.c - in place of ops_blas.c and ops_x86.c where there is no OpenBLAS: the checks on a bare machine with a
 * GPU, which need ref and the module alone. */
#include "model/ops_blas.h"
#include "model/ops_x86.h"

ErrCode ops_blas_fill(Ops *o, Err *err) {
    (void)o;
    return err_set(err, ERR_BACKEND, "backend blas is not in this build");
}

ErrCode ops_x86_fill(Ops *o, bool bf16, Err *err) {
    (void)o;
    (void)bf16;
    return err_set(err, ERR_BACKEND, "backend x86 is not in this build");
}

OpsBlasMeter ops_blas_meter(const Ops *o) {
    (void)o;
    return (OpsBlasMeter){0};
}

const char *ops_x86_kernel(bool bf16) {
    (void)bf16;
    return NULL;
}

bool ops_x86_gains(void) {
    return false;
}
