#include "model/ops.h"

#include <string.h>

#include "model/ops_module.h"
#include "model/ops_x86.h"

static ErrCode fill_ref(Ops *o, bool bf16, Err *err) {
    (void)bf16;
    (void)err;
    ops_ref_fill(o);
    return ERR_OK;
}

static ErrCode fill_blas(Ops *o, bool bf16, Err *err) {
    (void)bf16;
    return ops_blas_fill(o, err);
}

static const struct {
    const char *name;
    bool has_bf16;
    ErrCode (*fill)(Ops *o, bool bf16, Err *err);
} BACKENDS[] = {{"blas", false, fill_blas}, {"ref", false, fill_ref}, {"x86", true, ops_x86_fill}};

static const char *const MODULES[] = {"cuda", "torch"};

const char *ops_names(void) {
    return "auto, blas, cuda, ref, torch, x86";
}

ErrCode ops_open(Ops *o, const char *name, const char *precision, Threads *threads, Err *err) {
    *o = (Ops){.threads = threads};
    const bool any = strcmp(precision, "auto") == 0;
    bool bf16 = strcmp(precision, "bf16") == 0;
    const bool tf32 = strcmp(precision, "tf32") == 0;
    if (!any && !bf16 && !tf32 && strcmp(precision, "fp32") != 0)
        return err_set(err, ERR_ARGUMENT, "precision: found '%s', expected auto, fp32, tf32 or bf16",
                       precision);
    for (size_t i = 0; i < sizeof MODULES / sizeof MODULES[0]; i++)
        if (strcmp(name, MODULES[i]) == 0) return ops_module_open(o, MODULES[i], precision, err);
    if (strcmp(name, "auto") == 0) name = bf16 || ops_x86_kernel(false) ? "x86" : "blas";
    for (size_t i = 0; i < sizeof BACKENDS / sizeof BACKENDS[0]; i++) {
        if (strcmp(name, BACKENDS[i].name) != 0) continue;
        if (tf32 || (bf16 && !BACKENDS[i].has_bf16))
            return err_set(err, ERR_ARGUMENT, "precision: found %s, but backend %s computes in fp32%s",
                           precision, name, BACKENDS[i].has_bf16 ? " or bf16" : "");
        if (any) bf16 = BACKENDS[i].has_bf16 && ops_x86_gains();
        TRY(BACKENDS[i].fill(o, bf16, err));
        o->name = BACKENDS[i].name;
        o->precision = bf16 ? "bf16" : "fp32";
        return ERR_OK;
    }
    return err_set(err, ERR_ARGUMENT, "backend: found '%s', expected one of %s", name, ops_names());
}

void ops_close(Ops *o) {
    if (o->close) o->close(o);
    *o = (Ops){0};
}
