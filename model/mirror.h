/* model/mirror.h - a block in the backend's memory and, where the program has to read or write it, the program's view of
 * it: the same bytes on a host backend, a copy of them beside a device. Both are arenas, so that one layout function
 * serves both. */
#ifndef MODEL_MIRROR_H
#define MODEL_MIRROR_H

#include "core/arena.h"
#include "model/ops.h"

typedef struct {
    Ops *ops;   /* borrowed */
    Arena at;   /* the backend's */
    Arena host; /* the program's; base NULL without a view */
} Mirror;

/* Zeroed, `bytes` of it. view: with the program's side. */
ErrCode mirror_open(Mirror *m, Ops *ops, size_t bytes, bool view, const char *what, Err *err) ERR_CHECKED;
void mirror_close(Mirror *m);

/* `bytes` that begin at `host`, a place in the program's side, to the backend's side; and back, which waits. Nothing to do
 * on a host backend. */
void mirror_put(const Mirror *m, const void *host, size_t bytes);
void mirror_get(const Mirror *m, void *host, size_t bytes);

/* All that was handed out of it. */
void mirror_put_all(const Mirror *m);
void mirror_get_all(const Mirror *m);

#endif
