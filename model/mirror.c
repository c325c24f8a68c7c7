#include "model/mirror.h"

ErrCode mirror_open(Mirror *m, Ops *ops, size_t bytes, bool view, const char *what, Err *err) {
    *m = (Mirror){.ops = ops};
    if (!ops->device) {
        TRY(arena_init(&m->at, bytes, what, err));
        if (view) m->host = m->at;
        return ERR_OK;
    }
    m->at = (Arena){.base = ops->alloc(ops, bytes), .size = bytes};
    if (!m->at.base)
        return err_set(err, ERR_MEMORY, "out of the device's memory: %zu bytes (%.2f GB) for %s", bytes,
                       (double)bytes / 1e9, what);
    const ErrCode rc = view ? arena_init(&m->host, bytes, what, err) : ERR_OK;
    if (rc != ERR_OK) mirror_close(m);
    return rc;
}

void mirror_close(Mirror *m) {
    if (m->ops && m->ops->device) {
        if (m->at.base) m->ops->release(m->ops, m->at.base);
        arena_free(&m->host);
    } else {
        arena_free(&m->at);
    }
    *m = (Mirror){0};
}

static char *twin(const Mirror *m, const void *host) {
    return m->at.base + ((const char *)host - m->host.base);
}

void mirror_put(const Mirror *m, const void *host, size_t bytes) {
    if (m->ops->device && bytes) m->ops->put(m->ops, twin(m, host), host, bytes);
}

void mirror_get(const Mirror *m, void *host, size_t bytes) {
    if (m->ops->device && bytes) m->ops->get(m->ops, host, twin(m, host), bytes);
}

void mirror_put_all(const Mirror *m) {
    mirror_put(m, m->host.base, m->at.used);
}

void mirror_get_all(const Mirror *m) {
    mirror_get(m, m->host.base, m->at.used);
}
