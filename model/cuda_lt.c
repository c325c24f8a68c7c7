#define _GNU_SOURCE /* dladdr */
#include "model/cuda_lt.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096, OLDEST = 12 };

/* Of a major version: the names of our functions are the same from 12 on. */
static void *open_library(int major) {
    char path[PATH_BYTES], name[32];
    Dl_info self;
    (void)snprintf(name, sizeof name, "libcublasLt.so.%d", major);
    const char *slash = NULL;
    static const char here = 0;
    if (dladdr(&here, &self) != 0 && self.dli_fname) slash = strrchr(self.dli_fname, '/');
    if (slash) {
        const int folder = (int)(slash - self.dli_fname);
        (void)snprintf(path, sizeof path, "%.*s/%s", folder, self.dli_fname, name);
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle) return handle;
    }
    return dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

static bool find(void *handle, void *function, size_t bytes, const char *name, const char **missing) {
    void *p = dlsym(handle, name);
    if (!p) *missing = name;
    memcpy(function, &p, bytes);
    return p != NULL;
}

/* The assignment is never made: it is there for the compiler to compare the types. */
#define FIND(member, name) \
    ((void)sizeof(lt->member = (name)), find(handle, &lt->member, sizeof lt->member, #name, &missing))

ErrCode cuda_lt_open(CudaLt *lt, Err *err) {
    void *handle = open_library(CUBLAS_VER_MAJOR);
    for (int major = CUBLAS_VER_MAJOR + 1; !handle && major >= OLDEST; major--) handle = open_library(major);
    if (!handle)
        return err_set(
            err, ERR_BACKEND,
            "backend cuda: libcublasLt.so.%d was not found: install NVIDIA's cuBLAS %d (or put its "
            "folder in LD_LIBRARY_PATH)",
            CUBLAS_VER_MAJOR, CUBLAS_VER_MAJOR);
    const char *missing = NULL;
    if (!FIND(version, cublasLtGetVersion) || !FIND(create, cublasLtCreate) ||
        !FIND(destroy, cublasLtDestroy) || !FIND(desc_create, cublasLtMatmulDescCreate) ||
        !FIND(desc_destroy, cublasLtMatmulDescDestroy) || !FIND(desc_set, cublasLtMatmulDescSetAttribute) ||
        !FIND(layout_create, cublasLtMatrixLayoutCreate) ||
        !FIND(layout_destroy, cublasLtMatrixLayoutDestroy) ||
        !FIND(layout_set, cublasLtMatrixLayoutSetAttribute) ||
        !FIND(preference_create, cublasLtMatmulPreferenceCreate) ||
        !FIND(preference_destroy, cublasLtMatmulPreferenceDestroy) ||
        !FIND(preference_set, cublasLtMatmulPreferenceSetAttribute) ||
        !FIND(heuristic, cublasLtMatmulAlgoGetHeuristic) || !FIND(matmul, cublasLtMatmul))
        return err_set(err, ERR_BACKEND, "backend cuda: %s is missing in libcublasLt", missing);
    if (lt->version() < OLDEST * 10000)
        return err_set(err, ERR_BACKEND, "backend cuda: found version %zu of cuBLASLt, expected %d or later",
                       lt->version(), OLDEST * 10000);
    return ERR_OK;
}
