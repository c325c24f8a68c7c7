#include "model/ops_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"

enum { PATH_BYTES = 4096 };

/* A module's libraries take their functions from each other before the program's. Debian's libtorch needs that: its
 * protobuf would otherwise call the parts of another protobuf that libsentencepiece carries, and crash. Sanitizers refuse
 * it. */
#if defined(RTLD_DEEPBIND) && !defined(__SANITIZE_ADDRESS__)
#define DEEPBIND RTLD_DEEPBIND
#else
#define DEEPBIND 0
#endif

/* The folder of the running program, or "." where the system does not tell. */
static void program_folder(char out[PATH_BYTES]) {
    const ssize_t n = readlink("/proc/self/exe", out, PATH_BYTES - 1);
    out[n > 0 ? n : 0] = 0;
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = 0;
    else
        (void)snprintf(out, PATH_BYTES, ".");
}

/* Where the module is, or, when it is nowhere, where it was looked for. */
static bool find(char path[3 * PATH_BYTES], const char *name) {
    const char *given = getenv("ROUTER_MODULES"); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
    char folder[PATH_BYTES];
    const size_t most = 3 * (size_t)PATH_BYTES;
    if (given && *given) {
        (void)snprintf(path, most, "%s/router_%s.so", given, name);
        if (file_exists(path)) return true;
        (void)snprintf(path, most, "%s (ROUTER_MODULES)", given);
        return false;
    }
    program_folder(folder);
    static const char *const BESIDE[] = {"", "/../lib/router"};
    for (size_t i = 0; i < sizeof BESIDE / sizeof BESIDE[0]; i++) {
        (void)snprintf(path, most, "%s%s/router_%s.so", folder, BESIDE[i], name);
        if (file_exists(path)) return true;
    }
    (void)snprintf(path, most, "%s and %s%s", folder, folder, BESIDE[1]);
    return false;
}

ErrCode ops_module_open(Ops *o, const char *name, const char *precision, Err *err) {
    char path[3 * PATH_BYTES];
    if (!find(path, name))
        return err_set(
            err, ERR_BACKEND,
            "backend %s: there is no router_%s.so in %s; cmake -D ROUTER_%s=ON builds it, or says what it "
            "misses",
            name, name, path, strcmp(name, "cuda") == 0 ? "CUDA" : "TORCH");
    /* Threads of OpenMP that spin while they wait take the processors from those that work: libtorch's became five to
     * fifteen times slower on a machine with other work. OpenMP looks at it when it is loaded. */
    (void)setenv("OMP_WAIT_POLICY", "PASSIVE",
                 0); /* NOLINT(concurrency-mt-unsafe): nobody reads it meanwhile */
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | DEEPBIND);
    if (!handle) return err_set(err, ERR_BACKEND, "backend %s: %s", name, dlerror());
    const OpsModule *module = dlsym(handle, "ops_module");
    if (!module) return err_set(err, ERR_BACKEND, "backend %s: %s is no module of this program", name, path);
    if (module->ops_bytes != sizeof(Ops) || strcmp(module->version, ROUTER_VERSION) != 0)
        return err_set(err, ERR_BACKEND,
                       "backend %s: %s belongs to another version of this program: found %.20s, "
                       "expected " ROUTER_VERSION,
                       name, path, module->version);
    TRY(module->fill(o, precision, err));
    o->name = name;
    return ERR_OK;
}
