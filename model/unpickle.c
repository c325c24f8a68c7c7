#include "model/unpickle.h"

#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"

#define OPS_MAX      ((uint64_t)16 << 20)
#define STRING_MAX   ((uint32_t)1 << 20)
#define NOTHING      UINT32_MAX
#define WINDOW_BYTES 65536

/* ---- bytes ---- */

ErrCode unpickle_read(const UnpickleSource *s, void *out, uint64_t at, size_t n, Err *err) {
    if (!s->bytes) return file_read_at(&s->file, out, at, n, err);
    if (n > s->size || at > s->size - n)
        return err_set(err, ERR_FORMAT, "ends at byte %llu", (unsigned long long)s->size);
    memcpy(out, s->bytes + at, n);
    return ERR_OK;
}

/* The next n bytes, borrowed until the next call. */
static ErrCode take(UnpickleReader *r, size_t n, const unsigned char **out, Err *err) {
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
        TRY(unpickle_read(r->source, to, r->at, want, err));
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

ErrCode unpickle_take_uint(UnpickleReader *r, size_t n, uint64_t *out, Err *err) {
    const unsigned char *b;
    TRY(take(r, n, &b, err));
    *out = little(b, n);
    return ERR_OK;
}

/* ---- values ---- */

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

void unpickle_free(Unpickler *vm) {
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

static ErrCode push(Unpickler *vm, uint32_t node) {
    if (vm->stack_count == UNPICKLE_STACK_MAX)
        return err_set(vm->err, ERR_FORMAT, "pickle: more than %zu values on the stack", UNPICKLE_STACK_MAX);
    TRY(grow(&vm->stack, &vm->stack_cap, vm->stack_count, sizeof *vm->stack, vm->err));
    vm->stack[vm->stack_count++] = node;
    return ERR_OK;
}

static ErrCode pop(Unpickler *vm, uint32_t *node) {
    *node = 0;
    const size_t floor = vm->mark_count ? vm->marks[vm->mark_count - 1] : 0;
    if (vm->stack_count <= floor) return err_set(vm->err, ERR_FORMAT, "pickle: the stack is empty");
    *node = vm->stack[--vm->stack_count];
    return ERR_OK;
}

static ErrCode top(Unpickler *vm, uint32_t *node) {
    TRY(pop(vm, node));
    vm->stack_count++;
    return ERR_OK;
}

/* Removes the topmost mark; the values above it are stack[*base .. stack_count). */
static ErrCode pop_mark(Unpickler *vm, size_t *base) {
    *base = 0;
    if (vm->mark_count == 0) return err_set(vm->err, ERR_FORMAT, "pickle: no mark on the stack");
    *base = vm->marks[--vm->mark_count];
    return ERR_OK;
}

static ErrCode add_node(Unpickler *vm, UnpickleNode node,
                        uint32_t *out) { /* at most one for each opcode: fits 32 bits */
    TRY(grow(&vm->nodes, &vm->node_cap, vm->node_count, sizeof node, vm->err));
    *out = (uint32_t)vm->node_count;
    vm->nodes[vm->node_count++] = node;
    return ERR_OK;
}

static ErrCode push_node(Unpickler *vm, UnpickleNode node) {
    uint32_t id;
    TRY(add_node(vm, node, &id));
    return push(vm, id);
}

static ErrCode push_int(Unpickler *vm, int64_t v) {
    return push_node(vm, (UnpickleNode){.type = UNPICKLE_INT, .u.i = v});
}

static ErrCode add_text(Unpickler *vm, const void *bytes, size_t n, UnpickleText *out) {
    *out = (UnpickleText){vm->strings.len, n};
    buf_put(&vm->strings, bytes, n);
    buf_put(&vm->strings, "", 1);
    return buf_ok(&vm->strings, vm->err);
}

static ErrCode push_text(Unpickler *vm, UnpickleType type, const void *bytes, size_t n) {
    UnpickleNode node = {.type = type};
    TRY(add_text(vm, bytes, n, &node.u.text));
    return push_node(vm, node);
}

const char *unpickle_text(const Unpickler *vm, uint32_t node) {
    return vm->strings.data + vm->nodes[node].u.text.at;
}

bool unpickle_is_text(const Unpickler *vm, uint32_t node, const char *text) {
    const UnpickleNode *n = &vm->nodes[node];
    return n->type == UNPICKLE_STRING && n->u.text.len == strlen(text) &&
           strcmp(unpickle_text(vm, node), text) == 0;
}

const char *unpickle_type_name(const Unpickler *vm, uint32_t node) {
    static const char *const NAMES[] = {"None",    "a bool",   "an integer", "a long integer",
                                        "a float", "a string", "a tuple",    "a list",
                                        "a dict",  "a global", "a storage",  "a tensor"};
    return NAMES[vm->nodes[node].type];
}

static ErrCode chain_add(Unpickler *vm, uint32_t container, uint32_t value) {
    if (vm->link_count >= NOTHING) return err_set(vm->err, ERR_FORMAT, "pickle: too many values");
    TRY(grow(&vm->links, &vm->link_cap, vm->link_count, sizeof *vm->links, vm->err));
    const uint32_t link = (uint32_t)vm->link_count++;
    vm->links[link] = (UnpickleLink){value, NOTHING};
    UnpickleNode *c = &vm->nodes[container];
    if (c->u.chain.count == 0)
        c->u.chain.first = link;
    else
        vm->links[c->u.chain.last].next = link;
    c->u.chain.last = link;
    c->u.chain.count++;
    return ERR_OK;
}

void unpickle_chain(const Unpickler *vm, uint32_t container, uint32_t *out, size_t max) {
    const UnpickleNode *c = &vm->nodes[container];
    uint32_t link = c->u.chain.first;
    for (size_t i = 0; i < max && i < c->u.chain.count; i++, link = vm->links[link].next)
        out[i] = vm->links[link].value;
}

/* A container of stack[base ..), which are removed. */
static ErrCode push_chain(Unpickler *vm, UnpickleType type, size_t base) {
    if (type == UNPICKLE_DICT && (vm->stack_count - base) % 2 != 0)
        return err_set(vm->err, ERR_FORMAT, "pickle: a dict with a key and no value");
    uint32_t id;
    TRY(add_node(vm, (UnpickleNode){.type = type}, &id));
    for (size_t i = base; i < vm->stack_count; i++) TRY(chain_add(vm, id, vm->stack[i]));
    vm->stack_count = base;
    return push(vm, id);
}

/* ---- opcodes ---- */

/* A text argument up to its newline. */
static ErrCode take_line(Unpickler *vm, char *out, size_t cap, size_t *len) {
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

static ErrCode take_line_int(Unpickler *vm, int64_t *out) {
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

static ErrCode op_long(Unpickler *vm) {
    const unsigned char *b;
    TRY(take(&vm->reader, 1, &b, vm->err));
    const size_t n = *b;
    TRY(take(&vm->reader, n, &b, vm->err));
    if (n > 8) return push_text(vm, UNPICKLE_BIG, b, n);
    uint64_t v = little(b, n);
    if (n > 0 && n < 8 && (b[n - 1] & 0x80)) v |= ~(uint64_t)0 << (8 * n);
    int64_t i;
    memcpy(&i, &v, sizeof i);
    return push_int(vm, i);
}

static ErrCode op_scalar(Unpickler *vm, unsigned char op) {
    UnpickleReader *r = &vm->reader;
    const unsigned char *b;
    uint64_t v;
    switch (op) {
        case 'N': return push_node(vm, (UnpickleNode){.type = UNPICKLE_NONE});
        case 0x88: return push_node(vm, (UnpickleNode){.type = UNPICKLE_BOOL, .u.i = 1});
        case 0x89: return push_node(vm, (UnpickleNode){.type = UNPICKLE_BOOL, .u.i = 0});
        case 'J':
            TRY(unpickle_take_uint(r, 4, &v, vm->err));
            return push_int(vm, v < 0x80000000u ? (int64_t)v : (int64_t)v - 0x100000000);
        case 'K': TRY(unpickle_take_uint(r, 1, &v, vm->err)); return push_int(vm, (int64_t)v);
        case 'M': TRY(unpickle_take_uint(r, 2, &v, vm->err)); return push_int(vm, (int64_t)v);
        case 'I': {
            TRY(take(r, 1, &b, vm->err));
            const bool zero = *b == '0';
            r->at--;
            const uint64_t start = r->at;
            int64_t i;
            TRY(take_line_int(vm, &i));
            if (zero && r->at - start == 3 && (i == 0 || i == 1)) /* "00" and "01" are the booleans */
                return push_node(vm, (UnpickleNode){.type = UNPICKLE_BOOL, .u.i = i});
            return push_int(vm, i);
        }
        case 'G': {
            TRY(take(r, 8, &b, vm->err));
            v = 0;
            for (int i = 0; i < 8; i++) v = v << 8 | b[i];
            UnpickleNode node = {.type = UNPICKLE_FLOAT};
            memcpy(&node.u.f, &v, sizeof v);
            return push_node(vm, node);
        }
        default: return op_long(vm); /* 0x8a */
    }
}

static ErrCode op_string(Unpickler *vm, unsigned char op) {
    if (op == 'V') {
        char line[1024];
        size_t len;
        TRY(take_line(vm, line, sizeof line, &len));
        if (memchr(line, '\\', len))
            return err_set(vm->err, ERR_FORMAT, "pickle: an escape in a string of opcode 'V'");
        return push_text(vm, UNPICKLE_STRING, line, len);
    }
    uint64_t n;
    const unsigned char *b;
    TRY(unpickle_take_uint(&vm->reader, op == 'X' || op == 'T' ? 4 : 1, &n, vm->err));
    if (n > STRING_MAX)
        return err_set(vm->err, ERR_FORMAT, "pickle: a string of %llu bytes, expected at most %u",
                       (unsigned long long)n, STRING_MAX);
    TRY(take(&vm->reader, (size_t)n, &b, vm->err));
    return push_text(vm, UNPICKLE_STRING, b, (size_t)n);
}

static ErrCode op_append(Unpickler *vm, unsigned char op) {
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
    if (vm->nodes[to].type != (dict ? UNPICKLE_DICT : UNPICKLE_LIST))
        return err_set(vm->err, ERR_FORMAT, "pickle: opcode '%c' on %s", op, unpickle_type_name(vm, to));
    for (size_t i = base; i < end; i++) TRY(chain_add(vm, to, vm->stack[i]));
    return ERR_OK;
}

static ErrCode op_container(Unpickler *vm, unsigned char op) {
    size_t base = vm->stack_count;
    switch (op) {
        case ')': return push_chain(vm, UNPICKLE_TUPLE, base);
        case ']': return push_chain(vm, UNPICKLE_LIST, base);
        case '}': return push_chain(vm, UNPICKLE_DICT, base);
        case 't': TRY(pop_mark(vm, &base)); return push_chain(vm, UNPICKLE_TUPLE, base);
        case 'l': TRY(pop_mark(vm, &base)); return push_chain(vm, UNPICKLE_LIST, base);
        case 'd': TRY(pop_mark(vm, &base)); return push_chain(vm, UNPICKLE_DICT, base);
        default: break;
    }
    const size_t n = (size_t)(op - 0x84), floor = vm->mark_count ? vm->marks[vm->mark_count - 1] : 0;
    if (vm->stack_count - floor < n) return err_set(vm->err, ERR_FORMAT, "pickle: the stack is empty");
    return push_chain(vm, UNPICKLE_TUPLE, base - n);
}

static ErrCode op_memo(Unpickler *vm, unsigned char op) {
    const bool put = op == 'q' || op == 'r' || op == 'p' || op == 0x94;
    uint64_t slot = vm->memo_used;
    if (op == 'q' || op == 'h') TRY(unpickle_take_uint(&vm->reader, 1, &slot, vm->err));
    if (op == 'r' || op == 'j') TRY(unpickle_take_uint(&vm->reader, 4, &slot, vm->err));
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
    if (slot >= UNPICKLE_STACK_MAX)
        return err_set(vm->err, ERR_FORMAT, "pickle: memo slot %llu, expected less than %zu",
                       (unsigned long long)slot, UNPICKLE_STACK_MAX);
    uint32_t node;
    TRY(top(vm, &node));
    TRY(grow(&vm->memo, &vm->memo_cap, (size_t)slot, sizeof *vm->memo, vm->err));
    while (vm->memo_count <= slot) vm->memo[vm->memo_count++] = NOTHING;
    if (vm->memo[slot] == NOTHING) vm->memo_used++;
    vm->memo[slot] = node;
    return ERR_OK;
}

static ErrCode push_global(Unpickler *vm, const char *module, const char *name) {
    char full[160], shown[164];
    const int n = snprintf(full, sizeof full, "%s.%s", module, name);
    for (size_t i = 0; i < sizeof GLOBALS / sizeof GLOBALS[0]; i++)
        if (n < (int)sizeof full && strcmp(GLOBALS[i].name, full) == 0)
            return push_node(vm, (UnpickleNode){.type = UNPICKLE_GLOBAL, .u.i = (int64_t)i});
    return err_set(vm->err, ERR_FORMAT, "pickle: the global \"%s\" is not allowed",
                   text_excerpt(shown, 160, full, strlen(full)));
}

static ErrCode op_global(Unpickler *vm, unsigned char op) {
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
    if (vm->nodes[a].type != UNPICKLE_STRING || vm->nodes[b].type != UNPICKLE_STRING)
        return err_set(vm->err, ERR_FORMAT, "pickle: a global named by %s and %s", unpickle_type_name(vm, a),
                       unpickle_type_name(vm, b));
    return push_global(vm, unpickle_text(vm, a), unpickle_text(vm, b));
}

/* ('storage', torch.FloatStorage, key, location, numel), in legacy files with a view behind it, which is None
 * since 2017. */
static ErrCode op_persistent(Unpickler *vm) {
    uint32_t id, part[6] = {0};
    TRY(pop(vm, &id));
    const UnpickleNode *n = &vm->nodes[id];
    const uint32_t count = n->type == UNPICKLE_TUPLE ? n->u.chain.count : 0;
    if (count == 5 || count == 6) unpickle_chain(vm, id, part, 6);
    const UnpickleNode *type = count == 5 || count == 6 ? &vm->nodes[part[1]] : NULL;
    if (!type || !unpickle_is_text(vm, part[0], "storage") || type->type != UNPICKLE_GLOBAL ||
        GLOBALS[type->u.i].kind != GLOBAL_STORAGE || vm->nodes[part[2]].type != UNPICKLE_STRING ||
        vm->nodes[part[3]].type != UNPICKLE_STRING || vm->nodes[part[4]].type != UNPICKLE_INT ||
        vm->nodes[part[4]].u.i < 0)
        return err_set(vm->err, ERR_FORMAT,
                       "pickle: a persistent id that is not ('storage', type, key, location, size)");
    if (count == 6 && vm->nodes[part[5]].type != UNPICKLE_NONE)
        return err_set(vm->err, ERR_FORMAT, "pickle: a storage that is a view of another is not supported");
    UnpickleNode node = {.type = UNPICKLE_STORAGE};
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
static ErrCode call_tensor(Unpickler *vm, const uint32_t *arg, uint32_t count) {
    static const UnpickleType TYPES[] = {UNPICKLE_STORAGE, UNPICKLE_INT,  UNPICKLE_TUPLE,
                                         UNPICKLE_TUPLE,   UNPICKLE_BOOL, UNPICKLE_DICT};
    if (count != 6 && count != 7)
        return err_set(vm->err, ERR_FORMAT, "pickle: _rebuild_tensor_v2 with %u arguments", count);
    for (size_t i = 0; i < 6; i++)
        if (vm->nodes[arg[i]].type != TYPES[i] && !(i == 5 && vm->nodes[arg[i]].type == UNPICKLE_NONE))
            return err_set(vm->err, ERR_FORMAT, "pickle: argument %zu of _rebuild_tensor_v2 is %s", i + 1,
                           unpickle_type_name(vm, arg[i]));
    UnpickleNode node = {.type = UNPICKLE_TENSOR};
    node.u.tensor.storage = arg[0];
    node.u.tensor.offset = vm->nodes[arg[1]].u.i;
    node.u.tensor.sizes = arg[2];
    node.u.tensor.strides = arg[3];
    return push_node(vm, node);
}

/* OrderedDict(), or of Python 2 OrderedDict([[key, value], ...]). */
static ErrCode call_dict(Unpickler *vm, const uint32_t *arg, uint32_t count) {
    uint32_t dict;
    TRY(add_node(vm, (UnpickleNode){.type = UNPICKLE_DICT}, &dict));
    if (count > 1 || (count == 1 && vm->nodes[arg[0]].type != UNPICKLE_LIST))
        return err_set(vm->err, ERR_FORMAT, "pickle: arguments of OrderedDict that are not a list of pairs");
    const uint32_t pairs = count ? vm->nodes[arg[0]].u.chain.count : 0;
    vm->ops += pairs; /* or a short file could copy a long list often */
    uint32_t link = count ? vm->nodes[arg[0]].u.chain.first : 0;
    for (uint32_t i = 0; i < pairs; i++, link = vm->links[link].next) {
        const uint32_t pair = vm->links[link].value;
        const UnpickleNode *n = &vm->nodes[pair];
        uint32_t both[2] = {0};
        if ((n->type != UNPICKLE_TUPLE && n->type != UNPICKLE_LIST) || n->u.chain.count != 2)
            return err_set(vm->err, ERR_FORMAT,
                           "pickle: arguments of OrderedDict that are not a list of pairs");
        unpickle_chain(vm, pair, both, 2);
        TRY(chain_add(vm, dict, both[0]));
        TRY(chain_add(vm, dict, both[1]));
    }
    return push(vm, dict);
}

static ErrCode op_reduce(Unpickler *vm) {
    uint32_t args, callee, arg[7] = {0};
    TRY(pop(vm, &args));
    TRY(pop(vm, &callee));
    const UnpickleNode *f = &vm->nodes[callee], *a = &vm->nodes[args];
    if (f->type != UNPICKLE_GLOBAL || a->type != UNPICKLE_TUPLE)
        return err_set(vm->err, ERR_FORMAT, "pickle: a call of %s with %s", unpickle_type_name(vm, callee),
                       unpickle_type_name(vm, args));
    const uint32_t count = a->u.chain.count;
    unpickle_chain(vm, args, arg, 7);
    switch (GLOBALS[f->u.i].kind) {
        case GLOBAL_DICT: return call_dict(vm, arg, count);
        case GLOBAL_TENSOR: return call_tensor(vm, arg, count);
        case GLOBAL_PARAMETER:
            if (count == 3 && vm->nodes[arg[0]].type == UNPICKLE_TENSOR) return push(vm, arg[0]);
            return err_set(vm->err, ERR_FORMAT, "pickle: _rebuild_parameter without a tensor");
        case GLOBAL_STORAGE: break;
    }
    return err_set(vm->err, ERR_FORMAT, "pickle: a call of \"%s\" is not allowed", GLOBALS[f->u.i].name);
}

/* torch hangs _metadata on the state dict; it says nothing about the values. */
static ErrCode op_build(Unpickler *vm) {
    uint32_t state, object;
    TRY(pop(vm, &state));
    TRY(top(vm, &object));
    if (vm->nodes[object].type == UNPICKLE_DICT && vm->nodes[state].type == UNPICKLE_DICT) return ERR_OK;
    return err_set(vm->err, ERR_FORMAT, "pickle: BUILD of %s from %s is not allowed",
                   unpickle_type_name(vm, object), unpickle_type_name(vm, state));
}

static ErrCode op_object(Unpickler *vm, unsigned char op) {
    if (op == 'Q') return op_persistent(vm);
    return op == 'R' ? op_reduce(vm) : op_build(vm);
}

static ErrCode op_other(Unpickler *vm, unsigned char op) {
    uint64_t v;
    uint32_t node;
    size_t base;
    switch (op) {
        case 0x80:
            TRY(unpickle_take_uint(&vm->reader, 1, &v, vm->err));
            if (v <= 5) return ERR_OK;
            return err_set(vm->err, ERR_FORMAT, "pickle: protocol %llu, expected at most 5",
                           (unsigned long long)v);
        case 0x95: /* FRAME is a hint about reading */
            TRY(unpickle_take_uint(&vm->reader, 8, &v, vm->err));
            if (v <= vm->reader.end - vm->reader.at) return ERR_OK;
            return err_set(vm->err, ERR_FORMAT, "pickle: a frame of %llu bytes in the last %llu",
                           (unsigned long long)v, (unsigned long long)(vm->reader.end - vm->reader.at));
        case '(':
            if (vm->mark_count == UNPICKLE_STACK_MAX)
                return err_set(vm->err, ERR_FORMAT, "pickle: more than %zu marks", UNPICKLE_STACK_MAX);
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
    ErrCode (*run)(Unpickler *vm, unsigned char op);
} OPCODES[] = {
    {"NIJKMG\x88\x89\x8a", op_scalar},
    {"XVTU\x8c", op_string},
    {"aesu", op_append},
    {")]}tld\x85\x86\x87", op_container},
    {"qrphjg\x94", op_memo},
    {"c\x93", op_global},
    {"QRb", op_object},
};

static ErrCode step(Unpickler *vm, unsigned char op) {
    for (size_t i = 0; i < sizeof OPCODES / sizeof OPCODES[0]; i++)
        if (op && strchr(OPCODES[i].ops, op)) return OPCODES[i].run(vm, op);
    return op_other(vm, op);
}

ErrCode unpickle_run(Unpickler *vm, uint32_t *root) {
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
