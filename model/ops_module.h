/* model/ops_module.h - backends that are loaded when they are asked for: cuda and torch. Each is a file
 * router_NAME.so, which the program neither needs to be built nor to start.
 *
 * Looked for in the folder that the environment variable ROUTER_MODULES names, or else beside the program, then in
 * ../lib/router of it. A module holds its own copy of core; what it shares with the program is the struct Ops. */
#ifndef MODEL_OPS_MODULE_H
#define MODEL_OPS_MODULE_H

#include "model/ops.h"

/* What a module exports as `ops_module`. */
typedef struct {
    size_t ops_bytes;    /* sizeof(Ops) and ... */
    const char *version; /* ... of the program that it was built with: no other loads it */
    /* Fills every entry, `precision`, `device` and act_bytes: precision is "auto", "fp32" or "bf16". ERR_BACKEND where
     * there is no device or a library is missing: the message says which, and what to do. */
    ErrCode (*fill)(Ops *o, const char *precision, Err *err);
} OpsModule;

/* name is kept. A module stays loaded until the process ends: the libraries that it stands on do not survive being unloaded. */
ErrCode ops_module_open(Ops *o, const char *name, const char *precision, Err *err) ERR_CHECKED;

#endif
