#include "model/ops.h"

#include <string.h>

static ErrCode fill_ref(Ops *o, Err *err) {
    (void)err;
    ops_ref_fill(o);
    return ERR_OK;
}

static const struct {
    const char *name;
    ErrCode (*fill)(Ops *o, Err *err);
} BACKENDS[] = {{"blas", ops_blas_fill}, {"ref", fill_ref}};

const char *ops_names(void) {
    return "blas, ref";
}

ErrCode ops_open(Ops *o, const char *name, Threads *threads, Err *err) {
    *o = (Ops){.threads = threads};
    for (size_t i = 0; i < sizeof BACKENDS / sizeof BACKENDS[0]; i++) {
        if (strcmp(name, BACKENDS[i].name) != 0) continue;
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
