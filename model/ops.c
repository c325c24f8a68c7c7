#include "model/ops.h"

#include <string.h>

#include "model/ops_x86.h"

static ErrCode fill_ref(Ops *o, Err *err) {
    (void)err;
    ops_ref_fill(o);
    return ERR_OK;
}

static const struct {
    const char *name, *precision;
    ErrCode (*fill)(Ops *o, Err *err);
} BACKENDS[] = {{"blas", "fp32", ops_blas_fill}, {"ref", "fp32", fill_ref}, {"x86", "bf16", ops_x86_fill}};

const char *ops_names(void) {
    return "auto, blas, ref, x86";
}

ErrCode ops_open(Ops *o, const char *name, const char *precision, Threads *threads, Err *err) {
    *o = (Ops){.threads = threads};
    const bool any = strcmp(precision, "auto") == 0;
    if (!any && strcmp(precision, "fp32") != 0 && strcmp(precision, "bf16") != 0)
        return err_set(err, ERR_ARGUMENT, "precision: found '%s', expected auto, fp32 or bf16", precision);
    if (strcmp(name, "auto") == 0) {
        const bool bf16 = any ? ops_x86_gains() : strcmp(precision, "bf16") == 0;
        name = bf16 ? "x86" : "blas";
    }
    for (size_t i = 0; i < sizeof BACKENDS / sizeof BACKENDS[0]; i++) {
        if (strcmp(name, BACKENDS[i].name) != 0) continue;
        if (!any && strcmp(precision, BACKENDS[i].precision) != 0)
            return err_set(err, ERR_ARGUMENT, "precision: found %s, but backend %s computes in %s", precision,
                           name, BACKENDS[i].precision);
        TRY(BACKENDS[i].fill(o, err));
        o->name = BACKENDS[i].name;
        return ERR_OK;
    }
    return err_set(err, ERR_ARGUMENT, "backend: found '%s', expected one of %s", name, ops_names());
}

void ops_close(Ops *o) {
    if (o->close) o->close(o);
    *o = (Ops){0};
}
