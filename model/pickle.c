#include "model/pickle.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/mem.h"
#include "core/text.h"

#define OPS_MAX    ((uint64_t)16 << 20)
#define STACK_MAX  ((size_t)1 << 20)
#define STRING_MAX ((uint32_t)1 << 20)
#define PICKLE_MAX ((uint64_t)256 << 20) /* of data.pkl inside a zip */
#define NOTHING    UINT32_MAX

typedef struct {
    PickleEntry entry;
    int64_t stride[TENSOR_RANK_MAX];
    int64_t offset, numel; /* in elements: where the tensor begins in its storage, and the storage's size */
    uint64_t at;           /* of the storage: byte in a legacy file, index of the entry in a zip */
} Item;

struct Pickle {
    File file;
    const unsigned char *bytes; /* instead of file */
    uint64_t size;
    char *path; /* for messages */
    zip_t *zip; /* NULL: legacy */
    Buf strings;
    Item *items;
    size_t count;
};

/* ---- bytes ---- */

static ErrCode raw_read(const Pickle *p, void *out, uint64_t at, size_t n, Err *err) {
    if (!p->bytes) return file_read_at(&p->file, out, at, n, err);
    if (n > p->size || at > p->size - n)
        return err_set(err, ERR_FORMAT, "ends at byte %llu", (unsigned long long)p->size);
    memcpy(out, p->bytes + at, n);
    return ERR_OK;
}

/* A stream of opcodes: memory, or a window that slides over the file. */
typedef struct {
    const Pickle *file; /* NULL: memory alone */
    const unsigned char *data;
    uint64_t data_at; /* place of data[0] in the stream */
    size_t data_n;
    uint64_t at, end;
    Buf window;
} Reader;

#define WINDOW_BYTES 65536

/* The next n bytes, borrowed until the next call. */
static ErrCode take(Reader *r, size_t n, const unsigned char **out, Err *err) {
    *out = NULL;
    if (n > r->end - r->at)
        return err_set(err, ERR_FORMAT, "pickle ends at byte %llu where %zu more bytes were expected",
                       (unsigned long long)r->end, n);
    if (r->at < r->data_at || r->at - r->data_at > r->data_n || n > r->data_n - (r->at - r->data_at)) {
        const uint64_t left = r->end - r->at;
        const size_t want = n > WINDOW_BYTES ? n : left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES;
        buf_clear(&r->window);
        char *to = buf_reserve(&r->window, want);
        if (!to) return err_set(err, ERR_MEMORY, "out of memory for %zu bytes of a pickle", want);
        TRY(raw_read(r->file, to, r->at, want, err));
        r->data = (const unsigned char *)to;
        r->data_at = r->at;
        r->data_n = want;
    }
    *out = r->data + (r->at - r->data_at);
    r->at += n;
    return ERR_OK;
}

static uint64_t little(const unsigned char *b, size_t n) {
    uint64_t v = 0;
    while (n > 0) v = v << 8 | b[--n];
    return v;
}

static ErrCode take_uint(Reader *r, size_t n, uint64_t *out, Err *err) {
    const unsigned char *b;
    TRY(take(r, n, &b, err));
    *out = little(b, n);
    return ERR_OK;
}

/* ---- values ----
 * Numbered nodes in one pool; a container is a chain of links. So nothing recurses, sharing and cycles cost
 * nothing, and all of it is freed at once. */

typedef enum {
    NODE_NONE,
    NODE_BOOL,
    NODE_INT,
    NODE_BIG, /* an integer of more than 8 bytes */
    NODE_FLOAT,
    NODE_STRING,
    NODE_TUPLE,
    NODE_LIST,
    NODE_DICT,
    NODE_GLOBAL,
    NODE_STORAGE,
    NODE_TENSOR
} NodeType;

typedef struct {
    size_t at, len; /* in Vm.strings */
} Text;

typedef struct {
    NodeType type;
    union {
        int64_t i; /* also bool, and index into GLOBALS */
        double f;
        Text text;
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
} Node;

typedef struct {
    uint32_t value, next;
} Link;

typedef enum { GLOBAL_DICT, GLOBAL_TENSOR, GLOBAL_PARAMETER, GLOBAL_STORAGE } GlobalKind;

static const struct {
    const char *name;
    GlobalKind kind;
    Dtype dtype;
} GLOBALS[] = {
    {"collections.OrderedDict", GLOBAL_DICT, DTYPE_COUNT},
    {"torch._utils._rebuild_tensor_v2", GLOBAL_TENSOR, DTYPE_COUNT},
    {"torch._utils._rebuild_parameter", GLOBAL_PARAMETER, DTYPE_COUNT},
    {"torch.FloatStorage", GLOBAL_STORAGE, DTYPE_F32},
    {"torch.HalfStorage", GLOBAL_STORAGE, DTYPE_F16},
    {"torch.BFloat16Storage", GLOBAL_STORAGE, DTYPE_BF16},
    {"torch.DoubleStorage", GLOBAL_STORAGE, DTYPE_F64},
    {"torch.LongStorage", GLOBAL_STORAGE, DTYPE_I64},
    {"torch.IntStorage", GLOBAL_STORAGE, DTYPE_I32},
    {"torch.ShortStorage", GLOBAL_STORAGE, DTYPE_I16},
    {"torch.CharStorage", GLOBAL_STORAGE, DTYPE_I8},
    {"torch.ByteStorage", GLOBAL_STORAGE, DTYPE_U8},
    {"torch.BoolStorage", GLOBAL_STORAGE, DTYPE_BOOL},
};

typedef struct {
    Reader reader;
    Node *nodes;
    Link *links;
    uint32_t *stack, *marks, *memo, *storages;
    size_t node_count, node_cap, link_count, link_cap, stack_count, stack_cap, mark_count, mark_cap;
    size_t memo_count, memo_cap, memo_used, storage_count, storage_cap;
    uint64_t ops;
    Buf strings;
    Err *err;
} Vm;

static void vm_free(Vm *vm) {
    buf_free(&vm->reader.window);
    mem_free(vm->nodes);
    mem_free(vm->links);
    mem_free(vm->stack);
    mem_free(vm->marks);
    mem_free(vm->memo);
    mem_free(vm->storages);
    buf_free(&vm->strings);
}

/* Room for element `count` of an array; array is the address of its pointer. */
static ErrCode grow(void *array, size_t *cap, size_t count, size_t size, Err *err) {
    if (count < *cap) return ERR_OK;
    const size_t more = count < 32 ? 64 : count * 2;
    void *p;
    memcpy(&p, array, sizeof p);
    p = mem_resize(p, more, size);
    if (!p) return err_set(err, ERR_MEMORY, "out of memory for %zu values of a pickle", more);
    memcpy(array, &p, sizeof p);
    *cap = more;
    return ERR_OK;
}

static ErrCode push(Vm *vm, uint32_t node) {
    if (vm->stack_count == STACK_MAX)
        return err_set(vm->err, ERR_FORMAT, "pickle: more than %zu values on the stack", STACK_MAX);
    TRY(grow(&vm->stack, &vm->stack_cap, vm->stack_count, sizeof *vm->stack, vm->err));
    vm->stack[vm->stack_count++] = node;
    return ERR_OK;
}

static ErrCode pop(Vm *vm, uint32_t *node) {
    *node = 0;
    const size_t floor = vm->mark_count ? vm->marks[vm->mark_count - 1] : 0;
    if (vm->stack_count <= floor) return err_set(vm->err, ERR_FORMAT, "pickle: the stack is empty");
    *node = vm->stack[--vm->stack_count];
    return ERR_OK;
}

static ErrCode top(Vm *vm, uint32_t *node) {
    TRY(pop(vm, node));
    vm->stack_count++;
    return ERR_OK;
}

/* Removes the topmost mark; the values above it are stack[*base .. stack_count). */
static ErrCode pop_mark(Vm *vm, size_t *base) {
    *base = 0;
    if (vm->mark_count == 0) return err_set(vm->err, ERR_FORMAT, "pickle: no mark on the stack");
    *base = vm->marks[--vm->mark_count];
    return ERR_OK;
}

static ErrCode add_node(Vm *vm, Node node, uint32_t *out) { /* at most one for each opcode: fits 32 bits */
    TRY(grow(&vm->nodes, &vm->node_cap, vm->node_count, sizeof node, vm->err));
    *out = (uint32_t)vm->node_count;
    vm->nodes[vm->node_count++] = node;
    return ERR_OK;
}

static ErrCode push_node(Vm *vm, Node node) {
    uint32_t id;
    TRY(add_node(vm, node, &id));
    return push(vm, id);
}

static ErrCode push_int(Vm *vm, int64_t v) {
    return push_node(vm, (Node){.type = NODE_INT, .u.i = v});
}

static ErrCode add_text(Vm *vm, const void *bytes, size_t n, Text *out) {
    *out = (Text){vm->strings.len, n};
    buf_put(&vm->strings, bytes, n);
    buf_put(&vm->strings, "", 1);
    return buf_ok(&vm->strings, vm->err);
}

static ErrCode push_text(Vm *vm, NodeType type, const void *bytes, size_t n) {
    Node node = {.type = type};
    TRY(add_text(vm, bytes, n, &node.u.text));
    return push_node(vm, node);
}

static const char *text_of(const Vm *vm, uint32_t node) {
    return vm->strings.data + vm->nodes[node].u.text.at;
}

static bool is_text(const Vm *vm, uint32_t node, const char *text) {
    const Node *n = &vm->nodes[node];
    return n->type == NODE_STRING && n->u.text.len == strlen(text) && strcmp(text_of(vm, node), text) == 0;
}

static const char *type_name(const Vm *vm, uint32_t node) {
    static const char *const NAMES[] = {"None",    "a bool",   "an integer", "a long integer",
                                        "a float", "a string", "a tuple",    "a list",
                                        "a dict",  "a global", "a storage",  "a tensor"};
    return NAMES[vm->nodes[node].type];
}

static ErrCode chain_add(Vm *vm, uint32_t container, uint32_t value) {
    if (vm->link_count >= NOTHING) return err_set(vm->err, ERR_FORMAT, "pickle: too many values");
    TRY(grow(&vm->links, &vm->link_cap, vm->link_count, sizeof *vm->links, vm->err));
    const uint32_t link = (uint32_t)vm->link_count++;
    vm->links[link] = (Link){value, NOTHING};
    Node *c = &vm->nodes[container];
    if (c->u.chain.count == 0)
        c->u.chain.first = link;
    else
        vm->links[c->u.chain.last].next = link;
    c->u.chain.last = link;
    c->u.chain.count++;
    return ERR_OK;
}

/* The first `max` values of a tuple or list into out. */
static void chain_get(const Vm *vm, uint32_t container, uint32_t *out, size_t max) {
    const Node *c = &vm->nodes[container];
    uint32_t link = c->u.chain.first;
    for (size_t i = 0; i < max && i < c->u.chain.count; i++, link = vm->links[link].next)
        out[i] = vm->links[link].value;
}

/* A container of stack[base ..), which are removed. */
static ErrCode push_chain(Vm *vm, NodeType type, size_t base) {
    if (type == NODE_DICT && (vm->stack_count - base) % 2 != 0)
        return err_set(vm->err, ERR_FORMAT, "pickle: a dict with a key and no value");
    uint32_t id;
    TRY(add_node(vm, (Node){.type = type}, &id));
    for (size_t i = base; i < vm->stack_count; i++) TRY(chain_add(vm, id, vm->stack[i]));
    vm->stack_count = base;
    return push(vm, id);
}

/* ---- opcodes ---- */

/* A text argument up to its newline. */
static ErrCode take_line(Vm *vm, char *out, size_t cap, size_t *len) {
    for (*len = 0;;) {
        const unsigned char *c;
        TRY(take(&vm->reader, 1, &c, vm->err));
        if (*c == '\n') break;
        if (*len + 1 == cap) return err_set(vm->err, ERR_FORMAT, "pickle: a line of over %zu bytes", cap - 1);
        out[(*len)++] = (char)*c;
    }
    out[*len] = 0;
    return ERR_OK;
}

static ErrCode take_line_int(Vm *vm, int64_t *out) {
    char line[32];
    size_t n;
    TRY(take_line(vm, line, sizeof line, &n));
    const bool negative = line[0] == '-';
    int64_t v = 0;
    for (size_t i = negative; i < n; i++) {
        if (line[i] < '0' || line[i] > '9' || v > (INT64_MAX - 9) / 10) n = 0;
        if (n) v = v * 10 + (line[i] - '0');
    }
    char shown[36];
    if (n == (size_t)negative || n == 0)
        return err_set(vm->err, ERR_FORMAT, "pickle: found '%s', expected an integer",
                       text_excerpt(shown, 32, line, strlen(line)));
    *out = negative ? -v : v;
    return ERR_OK;
}

static ErrCode op_long(Vm *vm) {
    const unsigned char *b;
    TRY(take(&vm->reader, 1, &b, vm->err));
    const size_t n = *b;
    TRY(take(&vm->reader, n, &b, vm->err));
    if (n > 8) return push_text(vm, NODE_BIG, b, n);
    uint64_t v = little(b, n);
    if (n > 0 && n < 8 && (b[n - 1] & 0x80)) v |= ~(uint64_t)0 << (8 * n);
    int64_t i;
    memcpy(&i, &v, sizeof i);
    return push_int(vm, i);
}

static ErrCode op_scalar(Vm *vm, unsigned char op) {
    Reader *r = &vm->reader;
    const unsigned char *b;
    uint64_t v;
    switch (op) {
        case 'N': return push_node(vm, (Node){.type = NODE_NONE});
        case 0x88: return push_node(vm, (Node){.type = NODE_BOOL, .u.i = 1});
        case 0x89: return push_node(vm, (Node){.type = NODE_BOOL, .u.i = 0});
        case 'J':
            TRY(take_uint(r, 4, &v, vm->err));
            return push_int(vm, v < 0x80000000u ? (int64_t)v : (int64_t)v - 0x100000000);
        case 'K': TRY(take_uint(r, 1, &v, vm->err)); return push_int(vm, (int64_t)v);
        case 'M': TRY(take_uint(r, 2, &v, vm->err)); return push_int(vm, (int64_t)v);
        case 'I': {
            TRY(take(r, 1, &b, vm->err));
            const bool zero = *b == '0';
            r->at--;
            const uint64_t start = r->at;
            int64_t i;
            TRY(take_line_int(vm, &i));
            if (zero && r->at - start == 3 && (i == 0 || i == 1)) /* "00" and "01" are the booleans */
                return push_node(vm, (Node){.type = NODE_BOOL, .u.i = i});
            return push_int(vm, i);
        }
        case 'G': {
            TRY(take(r, 8, &b, vm->err));
            v = 0;
            for (int i = 0; i < 8; i++) v = v << 8 | b[i];
            Node node = {.type = NODE_FLOAT};
            memcpy(&node.u.f, &v, sizeof v);
            return push_node(vm, node);
        }
        default: return op_long(vm); /* 0x8a */
    }
}

static ErrCode op_string(Vm *vm, unsigned char op) {
    if (op == 'V') {
        char line[1024];
        size_t len;
        TRY(take_line(vm, line, sizeof line, &len));
        if (memchr(line, '\\', len))
            return err_set(vm->err, ERR_FORMAT, "pickle: an escape in a string of opcode 'V'");
        return push_text(vm, NODE_STRING, line, len);
    }
    uint64_t n;
    const unsigned char *b;
    TRY(take_uint(&vm->reader, op == 'X' || op == 'T' ? 4 : 1, &n, vm->err));
    if (n > STRING_MAX)
        return err_set(vm->err, ERR_FORMAT, "pickle: a string of %llu bytes, expected at most %u",
                       (unsigned long long)n, STRING_MAX);
    TRY(take(&vm->reader, (size_t)n, &b, vm->err));
    return push_text(vm, NODE_STRING, b, (size_t)n);
}

static ErrCode op_append(Vm *vm, unsigned char op) {
    const bool dict = op == 's' || op == 'u';
    size_t base;
    if (op == 'e' || op == 'u') {
        TRY(pop_mark(vm, &base));
    } else {
        const size_t n = dict ? 2 : 1, floor = vm->mark_count ? vm->marks[vm->mark_count - 1] : 0;
        if (vm->stack_count - floor < n) return err_set(vm->err, ERR_FORMAT, "pickle: the stack is empty");
        base = vm->stack_count - n;
    }
    const size_t end = vm->stack_count;
    if (dict && (end - base) % 2 != 0)
        return err_set(vm->err, ERR_FORMAT, "pickle: a dict with a key and no value");
    vm->stack_count = base;
    uint32_t to;
    TRY(top(vm, &to));
    if (vm->nodes[to].type != (dict ? NODE_DICT : NODE_LIST))
        return err_set(vm->err, ERR_FORMAT, "pickle: opcode '%c' on %s", op, type_name(vm, to));
    for (size_t i = base; i < end; i++) TRY(chain_add(vm, to, vm->stack[i]));
    return ERR_OK;
}

static ErrCode op_container(Vm *vm, unsigned char op) {
    size_t base = vm->stack_count;
    switch (op) {
        case ')': return push_chain(vm, NODE_TUPLE, base);
        case ']': return push_chain(vm, NODE_LIST, base);
        case '}': return push_chain(vm, NODE_DICT, base);
        case 't': TRY(pop_mark(vm, &base)); return push_chain(vm, NODE_TUPLE, base);
        case 'l': TRY(pop_mark(vm, &base)); return push_chain(vm, NODE_LIST, base);
        case 'd': TRY(pop_mark(vm, &base)); return push_chain(vm, NODE_DICT, base);
        default: break;
    }
    const size_t n = (size_t)(op - 0x84), floor = vm->mark_count ? vm->marks[vm->mark_count - 1] : 0;
    if (vm->stack_count - floor < n) return err_set(vm->err, ERR_FORMAT, "pickle: the stack is empty");
    return push_chain(vm, NODE_TUPLE, base - n);
}

static ErrCode op_memo(Vm *vm, unsigned char op) {
    const bool put = op == 'q' || op == 'r' || op == 'p' || op == 0x94;
    uint64_t slot = vm->memo_used;
    if (op == 'q' || op == 'h') TRY(take_uint(&vm->reader, 1, &slot, vm->err));
    if (op == 'r' || op == 'j') TRY(take_uint(&vm->reader, 4, &slot, vm->err));
    if (op == 'p' || op == 'g') {
        int64_t i;
        TRY(take_line_int(vm, &i));
        slot = i < 0 ? UINT64_MAX : (uint64_t)i;
    }
    if (!put) {
        if (slot >= vm->memo_count || vm->memo[slot] == NOTHING)
            return err_set(vm->err, ERR_FORMAT, "pickle: memo slot %llu is empty", (unsigned long long)slot);
        return push(vm, vm->memo[slot]);
    }
    if (slot >= STACK_MAX)
        return err_set(vm->err, ERR_FORMAT, "pickle: memo slot %llu, expected less than %zu",
                       (unsigned long long)slot, STACK_MAX);
    uint32_t node;
    TRY(top(vm, &node));
    TRY(grow(&vm->memo, &vm->memo_cap, (size_t)slot, sizeof *vm->memo, vm->err));
    while (vm->memo_count <= slot) vm->memo[vm->memo_count++] = NOTHING;
    if (vm->memo[slot] == NOTHING) vm->memo_used++;
    vm->memo[slot] = node;
    return ERR_OK;
}

static ErrCode push_global(Vm *vm, const char *module, const char *name) {
    char full[160], shown[164];
    const int n = snprintf(full, sizeof full, "%s.%s", module, name);
    for (size_t i = 0; i < sizeof GLOBALS / sizeof GLOBALS[0]; i++)
        if (n < (int)sizeof full && strcmp(GLOBALS[i].name, full) == 0)
            return push_node(vm, (Node){.type = NODE_GLOBAL, .u.i = (int64_t)i});
    return err_set(vm->err, ERR_FORMAT, "pickle: the global \"%s\" is not allowed",
                   text_excerpt(shown, 160, full, strlen(full)));
}

static ErrCode op_global(Vm *vm, unsigned char op) {
    char module[128], name[128];
    size_t n;
    if (op == 'c') {
        TRY(take_line(vm, module, sizeof module, &n));
        TRY(take_line(vm, name, sizeof name, &n));
        return push_global(vm, module, name);
    }
    uint32_t a, b;
    TRY(pop(vm, &b));
    TRY(pop(vm, &a));
    if (vm->nodes[a].type != NODE_STRING || vm->nodes[b].type != NODE_STRING)
        return err_set(vm->err, ERR_FORMAT, "pickle: a global named by %s and %s", type_name(vm, a),
                       type_name(vm, b));
    return push_global(vm, text_of(vm, a), text_of(vm, b));
}

/* ('storage', torch.FloatStorage, key, location, numel), in legacy files with a view behind it, which is None
 * since 2017. */
static ErrCode op_persistent(Vm *vm) {
    uint32_t id, part[6] = {0};
    TRY(pop(vm, &id));
    const Node *n = &vm->nodes[id];
    const uint32_t count = n->type == NODE_TUPLE ? n->u.chain.count : 0;
    if (count == 5 || count == 6) chain_get(vm, id, part, 6);
    const Node *type = count == 5 || count == 6 ? &vm->nodes[part[1]] : NULL;
    if (!type || !is_text(vm, part[0], "storage") || type->type != NODE_GLOBAL ||
        GLOBALS[type->u.i].kind != GLOBAL_STORAGE || vm->nodes[part[2]].type != NODE_STRING ||
        vm->nodes[part[3]].type != NODE_STRING || vm->nodes[part[4]].type != NODE_INT ||
        vm->nodes[part[4]].u.i < 0)
        return err_set(vm->err, ERR_FORMAT,
                       "pickle: a persistent id that is not ('storage', type, key, location, size)");
    if (count == 6 && vm->nodes[part[5]].type != NODE_NONE)
        return err_set(vm->err, ERR_FORMAT, "pickle: a storage that is a view of another is not supported");
    Node node = {.type = NODE_STORAGE};
    node.u.storage.key = part[2];
    node.u.storage.dtype = GLOBALS[type->u.i].dtype;
    node.u.storage.numel = vm->nodes[part[4]].u.i;
    uint32_t storage;
    TRY(add_node(vm, node, &storage));
    TRY(grow(&vm->storages, &vm->storage_cap, vm->storage_count, sizeof *vm->storages, vm->err));
    vm->storages[vm->storage_count++] = storage;
    return push(vm, storage);
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks [, metadata]): sizes are checked
 * when the tensor's name is known. */
static ErrCode call_tensor(Vm *vm, const uint32_t *arg, uint32_t count) {
    static const NodeType TYPES[] = {NODE_STORAGE, NODE_INT, NODE_TUPLE, NODE_TUPLE, NODE_BOOL, NODE_DICT};
    if (count != 6 && count != 7)
        return err_set(vm->err, ERR_FORMAT, "pickle: _rebuild_tensor_v2 with %u arguments", count);
    for (size_t i = 0; i < 6; i++)
        if (vm->nodes[arg[i]].type != TYPES[i] && !(i == 5 && vm->nodes[arg[i]].type == NODE_NONE))
            return err_set(vm->err, ERR_FORMAT, "pickle: argument %zu of _rebuild_tensor_v2 is %s", i + 1,
                           type_name(vm, arg[i]));
    Node node = {.type = NODE_TENSOR};
    node.u.tensor.storage = arg[0];
    node.u.tensor.offset = vm->nodes[arg[1]].u.i;
    node.u.tensor.sizes = arg[2];
    node.u.tensor.strides = arg[3];
    return push_node(vm, node);
}

/* OrderedDict(), or of Python 2 OrderedDict([[key, value], ...]). */
static ErrCode call_dict(Vm *vm, const uint32_t *arg, uint32_t count) {
    uint32_t dict;
    TRY(add_node(vm, (Node){.type = NODE_DICT}, &dict));
    if (count > 1 || (count == 1 && vm->nodes[arg[0]].type != NODE_LIST))
        return err_set(vm->err, ERR_FORMAT, "pickle: arguments of OrderedDict that are not a list of pairs");
    const uint32_t pairs = count ? vm->nodes[arg[0]].u.chain.count : 0;
    vm->ops += pairs; /* or a short file could copy a long list often */
    uint32_t link = count ? vm->nodes[arg[0]].u.chain.first : 0;
    for (uint32_t i = 0; i < pairs; i++, link = vm->links[link].next) {
        const uint32_t pair = vm->links[link].value;
        const Node *n = &vm->nodes[pair];
        uint32_t both[2];
        if ((n->type != NODE_TUPLE && n->type != NODE_LIST) || n->u.chain.count != 2)
            return err_set(vm->err, ERR_FORMAT,
                           "pickle: arguments of OrderedDict that are not a list of pairs");
        chain_get(vm, pair, both, 2);
        TRY(chain_add(vm, dict, both[0]));
        TRY(chain_add(vm, dict, both[1]));
    }
    return push(vm, dict);
}

static ErrCode op_reduce(Vm *vm) {
    uint32_t args, callee, arg[7] = {0};
    TRY(pop(vm, &args));
    TRY(pop(vm, &callee));
    const Node *f = &vm->nodes[callee], *a = &vm->nodes[args];
    if (f->type != NODE_GLOBAL || a->type != NODE_TUPLE)
        return err_set(vm->err, ERR_FORMAT, "pickle: a call of %s with %s", type_name(vm, callee),
                       type_name(vm, args));
    const uint32_t count = a->u.chain.count;
    chain_get(vm, args, arg, 7);
    switch (GLOBALS[f->u.i].kind) {
        case GLOBAL_DICT: return call_dict(vm, arg, count);
        case GLOBAL_TENSOR: return call_tensor(vm, arg, count);
        case GLOBAL_PARAMETER:
            if (count == 3 && vm->nodes[arg[0]].type == NODE_TENSOR) return push(vm, arg[0]);
            return err_set(vm->err, ERR_FORMAT, "pickle: _rebuild_parameter without a tensor");
        case GLOBAL_STORAGE: break;
    }
    return err_set(vm->err, ERR_FORMAT, "pickle: a call of \"%s\" is not allowed", GLOBALS[f->u.i].name);
}

/* torch hangs _metadata on the state dict; it says nothing about the values. */
static ErrCode op_build(Vm *vm) {
    uint32_t state, object;
    TRY(pop(vm, &state));
    TRY(top(vm, &object));
    if (vm->nodes[object].type == NODE_DICT && vm->nodes[state].type == NODE_DICT) return ERR_OK;
    return err_set(vm->err, ERR_FORMAT, "pickle: BUILD of %s from %s is not allowed", type_name(vm, object),
                   type_name(vm, state));
}

static ErrCode op_object(Vm *vm, unsigned char op) {
    if (op == 'Q') return op_persistent(vm);
    return op == 'R' ? op_reduce(vm) : op_build(vm);
}

static ErrCode op_other(Vm *vm, unsigned char op) {
    uint64_t v;
    uint32_t node;
    size_t base;
    switch (op) {
        case 0x80:
            TRY(take_uint(&vm->reader, 1, &v, vm->err));
            if (v <= 5) return ERR_OK;
            return err_set(vm->err, ERR_FORMAT, "pickle: protocol %llu, expected at most 5",
                           (unsigned long long)v);
        case 0x95: /* FRAME is a hint about reading */
            TRY(take_uint(&vm->reader, 8, &v, vm->err));
            if (v <= vm->reader.end - vm->reader.at) return ERR_OK;
            return err_set(vm->err, ERR_FORMAT, "pickle: a frame of %llu bytes in the last %llu",
                           (unsigned long long)v, (unsigned long long)(vm->reader.end - vm->reader.at));
        case '(':
            if (vm->mark_count == STACK_MAX)
                return err_set(vm->err, ERR_FORMAT, "pickle: more than %zu marks", STACK_MAX);
            TRY(grow(&vm->marks, &vm->mark_cap, vm->mark_count, sizeof *vm->marks, vm->err));
            vm->marks[vm->mark_count++] = (uint32_t)vm->stack_count;
            return ERR_OK;
        case '0': return pop(vm, &node);
        case '1':
            TRY(pop_mark(vm, &base));
            vm->stack_count = base;
            return ERR_OK;
        default:
            return err_set(vm->err, ERR_FORMAT, "pickle: opcode 0x%02x ('%c') is not allowed", op,
                           op >= 0x20 && op < 0x7f ? op : '?');
    }
}

static const struct {
    const char *ops;
    ErrCode (*run)(Vm *vm, unsigned char op);
} OPCODES[] = {
    {"NIJKMG\x88\x89\x8a", op_scalar},
    {"XVTU\x8c", op_string},
    {"aesu", op_append},
    {")]}tld\x85\x86\x87", op_container},
    {"qrphjg\x94", op_memo},
    {"c\x93", op_global},
    {"QRb", op_object},
};

static ErrCode step(Vm *vm, unsigned char op) {
    for (size_t i = 0; i < sizeof OPCODES / sizeof OPCODES[0]; i++)
        if (op && strchr(OPCODES[i].ops, op)) return OPCODES[i].run(vm, op);
    return op_other(vm, op);
}

/* Runs one pickle to its STOP; *root is what it leaves. */
static ErrCode run(Vm *vm, uint32_t *root) {
    vm->stack_count = vm->mark_count = vm->memo_count = vm->memo_used = 0;
    for (;;) {
        const uint64_t at = vm->reader.at;
        const unsigned char *b;
        if (++vm->ops > OPS_MAX)
            return err_set(vm->err, ERR_FORMAT, "pickle of more than %llu opcodes",
                           (unsigned long long)OPS_MAX);
        TRY(take(&vm->reader, 1, &b, vm->err));
        const unsigned char op = *b;
        ErrCode rc = op == '.' ? pop(vm, root) : step(vm, op);
        if (rc != ERR_OK) return err_context(vm->err, rc, "byte %llu", (unsigned long long)at);
        if (op == '.') return ERR_OK;
    }
}

/* ---- the state dict ---- */

/* A dict, or the dict below "state_dict" or "model". */
static ErrCode find_state(const Vm *vm, uint32_t root, uint32_t *out) {
    *out = root;
    if (vm->nodes[root].type != NODE_DICT)
        return err_set(vm->err, ERR_FORMAT, "holds %s, expected a dict of tensors", type_name(vm, root));
    uint32_t link = vm->nodes[root].u.chain.first;
    for (uint32_t i = 0; i < vm->nodes[root].u.chain.count; i += 2) {
        const Link key = vm->links[link], value = vm->links[key.next];
        if ((is_text(vm, key.value, "state_dict") || is_text(vm, key.value, "model")) &&
            vm->nodes[value.value].type == NODE_DICT)
            *out = value.value;
        link = value.next;
    }
    return ERR_OK;
}

static ErrCode get_dims(const Vm *vm, uint32_t tuple, int64_t out[TENSOR_RANK_MAX], const char *what) {
    uint32_t ids[TENSOR_RANK_MAX];
    const uint32_t n = vm->nodes[tuple].u.chain.count;
    if (n > TENSOR_RANK_MAX)
        return err_set(vm->err, ERR_FORMAT, "has %u %s, expected at most %d", n, what, TENSOR_RANK_MAX);
    chain_get(vm, tuple, ids, TENSOR_RANK_MAX);
    for (uint32_t i = 0; i < n; i++) {
        const Node *d = &vm->nodes[ids[i]];
        if (d->type != NODE_INT || d->u.i < 0)
            return err_set(vm->err, ERR_FORMAT, "its %s are not all integers of at least 0", what);
        out[i] = d->u.i;
    }
    return ERR_OK;
}

/* Every element that shape and strides reach lies in the storage. */
static ErrCode check_reach(const Item *item, Err *err) {
    Tensor t = {.rank = item->entry.rank, .dtype = item->entry.dtype};
    memcpy(t.shape, item->entry.shape, sizeof t.shape);
    const int64_t count = tensor_count(&t);
    char shape[96];
    tensor_shape_text(shape, t.shape, t.rank);
    if (count < 0) return err_set(err, ERR_FORMAT, "the shape %s overflows", shape);
    int64_t last = item->offset;
    bool inside = last >= 0 && (count == 0 ? last <= item->numel : last < item->numel);
    for (int d = 0; d < t.rank && inside && count > 0; d++) {
        const int64_t steps = t.shape[d] - 1, stride = item->stride[d];
        inside = steps == 0 || stride <= (item->numel - 1 - last) / steps;
        if (inside && steps) last += steps * stride;
    }
    if (inside) return ERR_OK;
    return err_set(err, ERR_FORMAT, "%s from element %lld on reaches past its storage of %lld elements",
                   shape, (long long)item->offset, (long long)item->numel);
}

static ErrCode make_item(const Vm *vm, uint32_t node, Item *item) {
    const Node *n = &vm->nodes[node], *storage = &vm->nodes[n->u.tensor.storage];
    item->entry.dtype = storage->u.storage.dtype;
    item->numel = storage->u.storage.numel;
    item->offset = n->u.tensor.offset;
    if (item->numel > INT64_MAX / 8)
        return err_set(vm->err, ERR_FORMAT, "its storage of %lld elements overflows", (long long)item->numel);
    const uint32_t rank = vm->nodes[n->u.tensor.sizes].u.chain.count;
    if (rank != vm->nodes[n->u.tensor.strides].u.chain.count)
        return err_set(vm->err, ERR_FORMAT, "has %u dimensions and %u strides", rank,
                       vm->nodes[n->u.tensor.strides].u.chain.count);
    TRY(get_dims(vm, n->u.tensor.sizes, item->entry.shape, "dimensions"));
    TRY(get_dims(vm, n->u.tensor.strides, item->stride, "strides"));
    item->entry.rank = (int)rank;
    return check_reach(item, vm->err);
}

static ErrCode name_tensor(Err *err, ErrCode rc, const char *name, size_t n) {
    char shown[104];
    return err_context(err, rc, "tensor \"%s\"", text_excerpt(shown, 100, name, n));
}

/* ---- where the storages are ---- */

typedef struct {
    const char *key;
    size_t len;
    Dtype dtype;
    int64_t numel;
    uint64_t at;
    bool found;
} Storage;

static int by_key(const void *a, const void *b) {
    const Storage *x = a, *y = b;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return memcmp(x->key, y->key, x->len);
}

typedef struct {
    Storage *list; /* sorted by key */
    size_t count;
    char *prefix; /* of the names in a zip, with its '/' */
} Storages;

static ErrCode storage_error(Err *err, const Storage *s, const char *what) {
    char shown[44];
    return err_set(err, ERR_FORMAT, "storage \"%s\" %s", text_excerpt(shown, 40, s->key, s->len), what);
}

/* One of each key; the same key must mean the same storage everywhere. */
static ErrCode list_storages(Storages *out, const Vm *vm) {
    TRY(mem_new(&out->list, vm->storage_count, sizeof *out->list, "the list of storages", vm->err));
    for (size_t i = 0; i < vm->storage_count; i++) {
        const Node *n = &vm->nodes[vm->storages[i]];
        const Node *key = &vm->nodes[n->u.storage.key];
        out->list[i] = (Storage){.key = vm->strings.data + key->u.text.at,
                                 .len = key->u.text.len,
                                 .dtype = n->u.storage.dtype,
                                 .numel = n->u.storage.numel};
    }
    if (vm->storage_count) qsort(out->list, vm->storage_count, sizeof *out->list, by_key);
    for (size_t i = 0; i < vm->storage_count; i++) {
        const Storage *s = &out->list[i], *last = out->count ? &out->list[out->count - 1] : NULL;
        if (!last || by_key(last, s) != 0)
            out->list[out->count++] = *s;
        else if (last->dtype != s->dtype || last->numel != s->numel)
            return storage_error(vm->err, s, "occurs with two types or sizes");
    }
    return ERR_OK;
}

static Storage *find_storage(const Storages *all, const Vm *vm, uint32_t key) {
    const Storage want = {.key = text_of(vm, key), .len = vm->nodes[key].u.text.len};
    if (!all->count) return NULL;
    return bsearch(&want, all->list, all->count, sizeof want, by_key);
}

static ErrCode zip_failure(const Pickle *p, const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "%s: %s", what, zip_error_strerror(zip_get_error(p->zip)));
}

/* Size of an entry that can be read here: plain or deflated, and not larger than the file can hold (deflate
 * makes at most 1032 bytes of one). */
static ErrCode zip_size(const Pickle *p, uint64_t index, uint64_t *out, Err *err) {
    zip_stat_t st;
    const zip_uint64_t need = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_NAME;
    if (zip_stat_index(p->zip, index, 0, &st) != 0) return zip_failure(p, "a zip entry", err);
    if ((st.valid & need) != need) return err_set(err, ERR_FORMAT, "a zip entry without a size");
    char shown[84];
    text_excerpt(shown, 80, st.name, strlen(st.name));
    if ((st.valid & ZIP_STAT_ENCRYPTION_METHOD) && st.encryption_method != ZIP_EM_NONE)
        return err_set(err, ERR_FORMAT, "%s: is encrypted", shown);
    if (st.comp_method != ZIP_CM_STORE && st.comp_method != ZIP_CM_DEFLATE)
        return err_set(err, ERR_FORMAT, "%s: compression method %u, expected stored or deflated", shown,
                       st.comp_method);
    if (st.comp_size > p->size || (st.comp_method == ZIP_CM_STORE && st.size != st.comp_size) ||
        st.size / 1032 > st.comp_size)
        return err_set(err, ERR_FORMAT, "%s: %llu bytes packed in %llu, in a file of %llu", shown,
                       (unsigned long long)st.size, (unsigned long long)st.comp_size,
                       (unsigned long long)p->size);
    *out = st.size;
    return ERR_OK;
}

static ErrCode place_in_zip(const Pickle *p, Storage *s, const char *prefix, Err *err) {
    Buf name = {0};
    buf_printf(&name, "%sdata/", prefix);
    buf_put(&name, s->key, s->len);
    const ErrCode rc = buf_ok(&name, err);
    const bool plain = rc == ERR_OK && strlen(name.data) == name.len; /* no NUL in the key */
    const zip_int64_t index = plain ? zip_name_locate(p->zip, name.data, 0) : -1;
    buf_free(&name);
    if (rc != ERR_OK) return rc;
    if (index < 0) return storage_error(err, s, "is not in the zip");
    uint64_t size;
    TRY(zip_size(p, (uint64_t)index, &size, err));
    if (size != (uint64_t)s->numel * tensor_dtype_bytes(s->dtype))
        return storage_error(err, s, "has another size in the zip than in data.pkl");
    s->at = (uint64_t)index;
    s->found = true;
    return ERR_OK;
}

/* Behind the pickles of a legacy file: for each key of a list, a count (u64) and the values. */
static ErrCode place_in_stream(Vm *vm, const Storages *all, uint32_t keys) {
    if (vm->nodes[keys].type != NODE_LIST)
        return err_set(vm->err, ERR_FORMAT, "holds %s where the list of storages was expected",
                       type_name(vm, keys));
    Reader *r = &vm->reader;
    uint32_t link = vm->nodes[keys].u.chain.first;
    for (uint32_t i = 0; i < vm->nodes[keys].u.chain.count; i++, link = vm->links[link].next) {
        const uint32_t key = vm->links[link].value;
        Storage *s = vm->nodes[key].type == NODE_STRING ? find_storage(all, vm, key) : NULL;
        if (!s || s->found)
            return err_set(vm->err, ERR_FORMAT, "the list of storages does not fit the tensors");
        uint64_t count;
        TRY(take_uint(r, 8, &count, vm->err));
        if (count != (uint64_t)s->numel)
            return storage_error(vm->err, s, "has another size than its tensors say");
        const uint64_t size = tensor_dtype_bytes(s->dtype);
        if (count > (r->end - r->at) / size) return storage_error(vm->err, s, "is cut short");
        s->at = r->at;
        s->found = true;
        r->at += count * size;
    }
    if (r->at == r->end) return ERR_OK;
    return err_set(vm->err, ERR_FORMAT, "%llu bytes behind the last storage",
                   (unsigned long long)(r->end - r->at));
}

/* ---- opening ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ErrCode refuse_equal_names(const Pickle *p, Err *err) {
    const char **names;
    TRY(mem_new(&names, p->count, sizeof *names, "the names of tensors", err));
    for (size_t i = 0; i < p->count; i++) names[i] = p->items[i].entry.name;
    if (p->count) qsort(names, p->count, sizeof *names, by_name);
    ErrCode rc = ERR_OK;
    for (size_t i = 1; i < p->count && rc == ERR_OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = name_tensor(err, err_set(err, ERR_FORMAT, "occurs twice"), names[i], strlen(names[i]));
    mem_free(names);
    return rc;
}

static ErrCode collect(Pickle *p, Vm *vm, uint32_t root, const Storages *all) {
    uint32_t state;
    TRY(find_state(vm, root, &state));
    const uint32_t pairs = vm->nodes[state].u.chain.count / 2;
    if (pairs > STACK_MAX)
        return err_set(vm->err, ERR_FORMAT, "a dict of %u values, expected at most %zu", pairs, STACK_MAX);
    TRY(mem_new(&p->items, pairs, sizeof *p->items, "the list of tensors", vm->err));
    p->strings = vm->strings; /* names point into it; nothing is added from here on */
    vm->strings = (Buf){0};
    uint32_t link = vm->nodes[state].u.chain.first;
    for (uint32_t i = 0; i < pairs; i++) {
        const Link key = vm->links[link], value = vm->links[key.next];
        const Node *name = &vm->nodes[key.value];
        link = value.next;
        if (vm->nodes[value.value].type != NODE_TENSOR) continue;
        if (name->type != NODE_STRING)
            return err_set(vm->err, ERR_FORMAT, "a tensor is named by %s", type_name(vm, key.value));
        const char *text = p->strings.data + name->u.text.at;
        Item *item = &p->items[p->count];
        item->entry.name = text;
        ErrCode rc = ERR_OK;
        if (strlen(text) != name->u.text.len || text_utf8_prefix(text, name->u.text.len) != name->u.text.len)
            rc = err_set(vm->err, ERR_FORMAT, "its name is not UTF-8 without NUL");
        if (rc == ERR_OK) rc = make_item(vm, value.value, item);
        if (rc == ERR_OK) {
            const Node *n = &vm->nodes[vm->nodes[value.value].u.tensor.storage];
            const Node *k = &vm->nodes[n->u.storage.key];
            const Storage want = {.key = p->strings.data + k->u.text.at, .len = k->u.text.len};
            Storage *s = bsearch(&want, all->list, all->count, sizeof want, by_key);
            if (s && !s->found && p->zip) rc = place_in_zip(p, s, all->prefix, vm->err);
            if (rc == ERR_OK && (!s || !s->found)) rc = storage_error(vm->err, &want, "is not in the file");
            if (rc == ERR_OK) item->at = s->at;
        }
        if (rc != ERR_OK) return name_tensor(vm->err, rc, text, name->u.text.len);
        p->count++;
    }
    return refuse_equal_names(p, vm->err);
}

static ErrCode open_legacy(Pickle *p, Vm *vm) {
    static const unsigned char MAGIC[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    uint32_t node, system, root, keys;
    Storages all = {0};
    vm->reader =
        (Reader){.file = p, .data = p->bytes, .data_n = p->bytes ? (size_t)p->size : 0, .end = p->size};
    TRY(run(vm, &node));
    if (vm->nodes[node].type != NODE_BIG || vm->nodes[node].u.text.len != sizeof MAGIC ||
        memcmp(text_of(vm, node), MAGIC, sizeof MAGIC) != 0)
        return err_set(vm->err, ERR_FORMAT, "a pickle, but not of torch.save: the magic number is missing");
    TRY(run(vm, &node));
    if (vm->nodes[node].type != NODE_INT || vm->nodes[node].u.i != 1001)
        return err_set(vm->err, ERR_FORMAT, "a version of the legacy format other than 1001");
    TRY(run(vm, &system));
    bool is_little = false;
    const Node *s = &vm->nodes[system];
    uint32_t link = s->type == NODE_DICT ? s->u.chain.first : 0;
    for (uint32_t i = 0; s->type == NODE_DICT && i < s->u.chain.count; i += 2) {
        const Link key = vm->links[link], value = vm->links[key.next];
        if (is_text(vm, key.value, "little_endian"))
            is_little = vm->nodes[value.value].type == NODE_BOOL && vm->nodes[value.value].u.i == 1;
        link = value.next;
    }
    if (!is_little) return err_set(vm->err, ERR_FORMAT, "its numbers are not little-endian");
    TRY(run(vm, &root));
    TRY(run(vm, &keys));
    ErrCode rc = list_storages(&all, vm);
    if (rc == ERR_OK) rc = place_in_stream(vm, &all, keys);
    /* collect moves the strings out of the VM; the keys of `all` stay where they are in memory */
    if (rc == ERR_OK) rc = collect(p, vm, root, &all);
    mem_free(all.list);
    return rc;
}

/* A small entry of the zip as a whole. */
static ErrCode zip_slurp(const Pickle *p, uint64_t index, uint64_t max, Buf *out, Err *err) {
    uint64_t size;
    buf_clear(out);
    TRY(zip_size(p, index, &size, err));
    if (size > max)
        return err_set(err, ERR_FORMAT, "a zip entry of %llu bytes, expected at most %llu",
                       (unsigned long long)size, (unsigned long long)max);
    zip_file_t *f = zip_fopen_index(p->zip, index, 0);
    if (!f) return zip_failure(p, "a zip entry", err);
    ErrCode rc = ERR_OK;
    for (;;) { /* to the end, where the checksum is compared; memory grows with what is really there */
        char *to = buf_reserve(out, WINDOW_BYTES);
        const zip_int64_t n = to ? zip_fread(f, to, WINDOW_BYTES) : 0;
        if (n < 0)
            rc = err_set(err, ERR_FORMAT, "a zip entry: %s", zip_error_strerror(zip_file_get_error(f)));
        if (n <= 0) break;
        out->len += (size_t)n;
        if (out->len > size) break;
    }
    if (rc == ERR_OK) rc = buf_ok(out, err);
    if (rc == ERR_OK && out->len != size)
        rc = err_set(err, ERR_FORMAT, "a zip entry has %zu bytes, expected %llu", out->len,
                     (unsigned long long)size);
    (void)zip_fclose(f);
    return rc;
}

/* The one folder "NAME/" that holds a data.pkl, into a new string. */
static ErrCode find_prefix(const Pickle *p, char **out, uint64_t *index, Err *err) {
    const zip_int64_t count = zip_get_num_entries(p->zip, 0);
    int found = 0;
    for (zip_int64_t i = 0; i < count; i++) {
        const char *name = zip_get_name(p->zip, (zip_uint64_t)i, 0);
        const char *slash = name ? strchr(name, '/') : NULL;
        if (!slash || strcmp(slash, "/data.pkl") != 0) continue;
        if (found++) break;
        *index = (uint64_t)i;
        *out = mem_strndup(name, (size_t)(slash - name) + 1);
        if (!*out) return err_set(err, ERR_MEMORY, "out of memory opening a zip");
    }
    if (found == 1) return ERR_OK;
    return err_set(err, ERR_FORMAT, "a zip with %s data.pkl, expected one as torch.save writes it",
                   found ? "more than one" : "no");
}

static ErrCode check_byteorder(const Pickle *p, const char *prefix, Err *err) {
    Buf text = {0};
    buf_printf(&text, "%sbyteorder", prefix);
    ErrCode rc = buf_ok(&text, err);
    const zip_int64_t index = rc == ERR_OK ? zip_name_locate(p->zip, text.data, 0) : -1;
    if (index >= 0) rc = zip_slurp(p, (uint64_t)index, 16, &text, err);
    if (index >= 0 && rc == ERR_OK && (text.len < 6 || memcmp(text.data, "little", 6) != 0))
        rc = err_set(err, ERR_FORMAT, "its numbers are not little-endian");
    buf_free(&text);
    return rc;
}

static ErrCode open_zip(Pickle *p, Vm *vm) {
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = p->bytes ? zip_source_buffer_create(p->bytes, p->size, 0, &why)
                                    : zip_source_file_create(p->path, 0, -1, &why);
    p->zip = source ? zip_open_from_source(source, ZIP_RDONLY, &why) : NULL;
    ErrCode rc = ERR_OK;
    if (!p->zip) {
        rc = err_set(vm->err, ERR_FORMAT, "not a whole zip file: %s", zip_error_strerror(&why));
        if (source) zip_source_free(source);
    }
    zip_error_fini(&why);
    if (rc != ERR_OK) return rc;
    Storages all = {0};
    Buf code = {0};
    uint64_t index = 0;
    uint32_t root = 0;
    rc = find_prefix(p, &all.prefix, &index, vm->err);
    if (rc == ERR_OK) rc = check_byteorder(p, all.prefix, vm->err);
    if (rc == ERR_OK) rc = zip_slurp(p, index, PICKLE_MAX, &code, vm->err);
    if (rc == ERR_OK) {
        vm->reader = (Reader){.data = (const unsigned char *)code.data, .data_n = code.len, .end = code.len};
        rc = run(vm, &root);
    }
    if (rc == ERR_OK) rc = list_storages(&all, vm);
    if (rc == ERR_OK) rc = collect(p, vm, root, &all);
    mem_free(all.list);
    mem_free(all.prefix);
    buf_free(&code);
    return rc;
}

static ErrCode open_any(Pickle *p, Err *err) {
    unsigned char head[23] = {0};
    static const char LFS[] = "version https://git-lfs";
    TRY(raw_read(p, head, 0, p->size < sizeof head ? (size_t)p->size : sizeof head, err));
    Vm vm = {.err = err};
    ErrCode rc;
    if (memcmp(head, "PK\3\4", 4) == 0)
        rc = open_zip(p, &vm);
    else if (head[0] == 0x80)
        rc = open_legacy(p, &vm);
    else if (memcmp(head, LFS, sizeof head) == 0)
        rc = err_set(err, ERR_FORMAT, "a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'");
    else
        rc = err_set(err, ERR_FORMAT, "neither a zip nor a pickle of torch.save");
    vm_free(&vm);
    return rc;
}

ErrCode pickle_open(Pickle **out, const char *path, Err *err) {
    Pickle *p = NULL;
    *out = NULL;
    TRY(mem_new(&p, 1, sizeof *p, "a checkpoint", err));
    ErrCode rc = file_open(&p->file, path, err);
    if (rc == ERR_OK) {
        p->size = p->file.size;
        p->path = mem_strdup(path);
        rc = p->path ? open_any(p, err) : err_set(err, ERR_MEMORY, "out of memory");
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    if (rc == ERR_OK)
        *out = p;
    else
        pickle_close(p);
    return rc;
}

ErrCode pickle_open_bytes(Pickle **out, const void *bytes, size_t n, Err *err) {
    Pickle *p = NULL;
    *out = NULL;
    TRY(mem_new(&p, 1, sizeof *p, "a checkpoint", err));
    p->bytes = bytes;
    p->size = n;
    const ErrCode rc = open_any(p, err);
    if (rc == ERR_OK)
        *out = p;
    else
        pickle_close(p);
    return rc;
}

void pickle_close(Pickle *p) {
    if (!p) return;
    if (p->zip) zip_discard(p->zip);
    file_close(&p->file);
    mem_free(p->path);
    mem_free(p->items);
    buf_free(&p->strings);
    mem_free(p);
}

size_t pickle_count(const Pickle *p) {
    return p->count;
}

PickleEntry pickle_entry(const Pickle *p, size_t i) {
    return p->items[i].entry;
}

/* ---- values ---- */

/* Fills piece with n bytes of a zip entry. */
static ErrCode zip_piece(zip_file_t *f, unsigned char *piece, size_t n, Err *err) {
    for (size_t have = 0; have < n;) {
        const zip_int64_t got = zip_fread(f, piece + have, n - have);
        if (got < 0) return err_set(err, ERR_FORMAT, "%s", zip_error_strerror(zip_file_get_error(f)));
        if (got == 0) return err_set(err, ERR_FORMAT, "is cut short");
        have += (size_t)got;
    }
    return ERR_OK;
}

/* Elements first .. first + count of a storage. A zip entry is read from end to end, so that its checksum is
 * compared. */
static ErrCode read_span(const Pickle *p, const Item *item, int64_t first, int64_t count, float *out,
                         Err *err) {
    unsigned char piece[16384];
    const int64_t size = (int64_t)tensor_dtype_bytes(item->entry.dtype);
    const int64_t most = (int64_t)sizeof piece / size;
    zip_file_t *f = p->zip ? zip_fopen_index(p->zip, item->at, 0) : NULL;
    if (p->zip && !f) return zip_failure(p, "a zip entry", err);
    ErrCode rc = ERR_OK;
    const int64_t stop = p->zip ? item->numel : first + count;
    for (int64_t at = p->zip ? 0 : first; at < stop && rc == ERR_OK;) {
        const int64_t n = stop - at < most ? stop - at : most;
        rc = f ? zip_piece(f, piece, (size_t)(n * size), err)
               : raw_read(p, piece, item->at + (uint64_t)(at * size), (size_t)(n * size), err);
        const int64_t from = at > first ? at : first;
        const int64_t to = at + n < first + count ? at + n : first + count;
        if (rc == ERR_OK && from < to)
            (void)tensor_to_f32(out + (from - first), piece + (from - at) * size, item->entry.dtype,
                                (size_t)(to - from));
        at += n;
    }
    if (f && rc == ERR_OK) {
        const zip_int64_t more = zip_fread(f, piece, 1);
        if (more != 0)
            rc = err_set(err, ERR_FORMAT, "%s",
                         more < 0 ? zip_error_strerror(zip_file_get_error(f)) : "is longer than it says");
    }
    if (f) (void)zip_fclose(f);
    return rc;
}

static bool is_contiguous(const Item *item) {
    int64_t step = 1;
    for (int d = item->entry.rank - 1; d >= 0; d--) {
        if (item->entry.shape[d] != 1 && item->stride[d] != step) return false;
        step *= item->entry.shape[d];
    }
    return true;
}

static ErrCode read_strided(const Pickle *p, const Item *item, int64_t count, float *out, Err *err) {
    int64_t span = 1, at[TENSOR_RANK_MAX] = {0};
    for (int d = 0; d < item->entry.rank; d++) span += (item->entry.shape[d] - 1) * item->stride[d];
    float *values;
    TRY(mem_new(&values, (size_t)span, sizeof *values, "a strided tensor", err));
    const ErrCode rc = read_span(p, item, item->offset, span, values, err);
    for (int64_t i = 0; rc == ERR_OK && i < count; i++) {
        int64_t from = 0;
        for (int d = 0; d < item->entry.rank; d++) from += at[d] * item->stride[d];
        out[i] = values[from];
        for (int d = item->entry.rank - 1; d >= 0 && ++at[d] == item->entry.shape[d]; d--) at[d] = 0;
    }
    mem_free(values);
    return rc;
}

ErrCode pickle_read_f32(Pickle *p, size_t i, float *out, Err *err) {
    const Item *item = &p->items[i];
    const PickleEntry *e = &item->entry;
    Tensor t = {.rank = e->rank, .dtype = e->dtype};
    memcpy(t.shape, e->shape, sizeof t.shape);
    const int64_t count = tensor_count(&t);
    ErrCode rc = ERR_OK;
    const unsigned char none = 0;
    if (!tensor_to_f32(out, &none, e->dtype, 0))
        rc = err_set(err, ERR_FORMAT, "is %s, expected a floating type", tensor_dtype_name(e->dtype));
    else if (count > 0)
        rc = is_contiguous(item) ? read_span(p, item, item->offset, count, out, err)
                                 : read_strided(p, item, count, out, err);
    if (rc == ERR_OK) return ERR_OK;
    (void)name_tensor(err, rc, e->name, strlen(e->name));
    return err_context(err, rc, "%s", p->path ? p->path : "checkpoint");
}
