/* model/unpickle.h - a restricted unpickler: what model/pickle.c needs of Python's pickle to read tensors, and nothing that
 * could do harm. It constructs numbers, strings, tuples, lists, dicts, OrderedDicts, and tensors over storages that are
 * named but not read; any other opcode, global or argument is ERR_FORMAT that names it. Limits: 16 M opcodes, 1 M values
 * on the stack and memo slots; nothing recurses. */
#ifndef MODEL_UNPICKLE_H
#define MODEL_UNPICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/file.h"
#include "core/tensor.h"

#define UNPICKLE_STACK_MAX ((size_t)1 << 20)

/* Bytes of a file, or of memory (then borrowed). */
typedef struct {
    File file;
    const unsigned char *bytes; /* instead of file */
    uint64_t size;
} UnpickleSource;

/* A stream of opcodes: memory, or a window that slides over the file. */
typedef struct {
    const UnpickleSource *source; /* NULL: memory alone */
    const unsigned char *data;
    uint64_t data_at; /* place of data[0] in the stream */
    size_t data_n;
    uint64_t at, end;
    Buf window;
} UnpickleReader;

/* ---- values ----
 *
 * Numbered nodes in one pool; a container is a chain of links. So nothing recurses, sharing and cycles cost
 * nothing, and all of it is freed at once. */

typedef enum {
    UNPICKLE_NONE,
    UNPICKLE_BOOL,
    UNPICKLE_INT,
    UNPICKLE_BIG, /* an integer of more than 8 bytes */
    UNPICKLE_FLOAT,
    UNPICKLE_STRING,
    UNPICKLE_TUPLE,
    UNPICKLE_LIST,
    UNPICKLE_DICT,
    UNPICKLE_GLOBAL,
    UNPICKLE_STORAGE,
    UNPICKLE_TENSOR
} UnpickleType;

typedef struct {
    size_t at, len; /* in Unpickler.strings */
} UnpickleText;

typedef struct {
    UnpickleType type;
    union {
        int64_t i; /* also bool, and number of a global */
        double f;
        UnpickleText text;
        struct {
            uint32_t first, last, count; /* links; a dict has two for each pair, count counts links */
        } chain;
        struct {
            uint32_t key;
            Dtype dtype;
            int64_t numel;
        } storage;
        struct {
            uint32_t storage, sizes, strides;
            int64_t offset;
        } tensor;
    } u;
} UnpickleNode;

typedef struct {
    uint32_t value, next;
} UnpickleLink;

/* Zeroed, but for reader and err, before the first run. */
typedef struct {
    UnpickleReader reader; /* where the pickle is; behind its end after a run */
    UnpickleNode *nodes;
    UnpickleLink *links;
    uint32_t *stack, *marks, *memo;
    uint32_t *storages; /* nodes of type UNPICKLE_STORAGE, in order of occurrence */
    size_t node_count, node_cap, link_count, link_cap, stack_count, stack_cap, mark_count, mark_cap;
    size_t memo_count, memo_cap, memo_used, storage_count, storage_cap;
    uint64_t ops;
    Buf strings;
    Err *err; /* borrowed: takes the message of a failure */
} Unpickler;

/* Runs one pickle to its STOP; *root is the node that it leaves. May be called again for a pickle that follows; nodes and
 * strings stay. */
ErrCode unpickle_run(Unpickler *vm, uint32_t *root) ERR_CHECKED;
void unpickle_free(Unpickler *vm);

/* Text of a string, long integer or global, with a NUL behind it. */
const char *unpickle_text(const Unpickler *vm, uint32_t node);
bool unpickle_is_text(const Unpickler *vm, uint32_t node, const char *text);
/* "a list" */
const char *unpickle_type_name(const Unpickler *vm, uint32_t node);
/* The first `max` values of a tuple or list into out. */
void unpickle_chain(const Unpickler *vm, uint32_t container, uint32_t *out, size_t max);

/* n bytes at a place of the source. */
ErrCode unpickle_read(const UnpickleSource *s, void *out, uint64_t at, size_t n, Err *err) ERR_CHECKED;
/* The next n <= 8 bytes of the stream, a little-endian number. */
ErrCode unpickle_take_uint(UnpickleReader *r, size_t n, uint64_t *out, Err *err) ERR_CHECKED;

#endif
