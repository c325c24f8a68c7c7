#include "model/pickle.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "core/buf.h"
#include "core/mem.h"
#include "core/text.h"
#include "model/unpickle.h"

#define PICKLE_MAX   ((uint64_t)256 << 20) /* of data.pkl inside a zip */
#define WINDOW_BYTES 65536

typedef struct {
    PickleEntry entry;
    int64_t stride[TENSOR_RANK_MAX];
    int64_t offset, numel; /* in elements: where the tensor begins in its storage, and the storage's size */
    uint64_t at;           /* of the storage: byte in a legacy file, index of the entry in a zip */
} Item;

struct Pickle {
    UnpickleSource source;
    char *path; /* for messages */
    zip_t *zip; /* NULL: legacy */
    Buf strings;
    Item *items;
    size_t count;
};

/* ---- the state dict ---- */

/* A dict, or the dict below "state_dict" or "model". */
static ErrCode find_state(const Unpickler *vm, uint32_t root, uint32_t *out) {
    *out = root;
    if (vm->nodes[root].type != UNPICKLE_DICT)
        return err_set(vm->err, ERR_FORMAT, "holds %s, expected a dict of tensors",
                       unpickle_type_name(vm, root));
    uint32_t link = vm->nodes[root].u.chain.first;
    for (uint32_t i = 0; i < vm->nodes[root].u.chain.count; i += 2) {
        const UnpickleLink key = vm->links[link], value = vm->links[key.next];
        if ((unpickle_is_text(vm, key.value, "state_dict") || unpickle_is_text(vm, key.value, "model")) &&
            vm->nodes[value.value].type == UNPICKLE_DICT)
            *out = value.value;
        link = value.next;
    }
    return ERR_OK;
}

static ErrCode get_dims(const Unpickler *vm, uint32_t tuple, int64_t out[TENSOR_RANK_MAX], const char *what) {
    uint32_t ids[TENSOR_RANK_MAX];
    const uint32_t n = vm->nodes[tuple].u.chain.count;
    if (n > TENSOR_RANK_MAX)
        return err_set(vm->err, ERR_FORMAT, "has %u %s, expected at most %d", n, what, TENSOR_RANK_MAX);
    unpickle_chain(vm, tuple, ids, TENSOR_RANK_MAX);
    for (uint32_t i = 0; i < n; i++) {
        const UnpickleNode *d = &vm->nodes[ids[i]];
        if (d->type != UNPICKLE_INT || d->u.i < 0)
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

static ErrCode make_item(const Unpickler *vm, uint32_t node, Item *item) {
    const UnpickleNode *n = &vm->nodes[node], *storage = &vm->nodes[n->u.tensor.storage];
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
static ErrCode list_storages(Storages *out, const Unpickler *vm) {
    TRY(mem_new(&out->list, vm->storage_count, sizeof *out->list, "the list of storages", vm->err));
    for (size_t i = 0; i < vm->storage_count; i++) {
        const UnpickleNode *n = &vm->nodes[vm->storages[i]];
        const UnpickleNode *key = &vm->nodes[n->u.storage.key];
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

static Storage *find_storage(const Storages *all, const Unpickler *vm, uint32_t key) {
    const Storage want = {.key = unpickle_text(vm, key), .len = vm->nodes[key].u.text.len};
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
    if (st.comp_size > p->source.size || (st.comp_method == ZIP_CM_STORE && st.size != st.comp_size) ||
        st.size / 1032 > st.comp_size)
        return err_set(err, ERR_FORMAT, "%s: %llu bytes packed in %llu, in a file of %llu", shown,
                       (unsigned long long)st.size, (unsigned long long)st.comp_size,
                       (unsigned long long)p->source.size);
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
static ErrCode place_in_stream(Unpickler *vm, const Storages *all, uint32_t keys) {
    if (vm->nodes[keys].type != UNPICKLE_LIST)
        return err_set(vm->err, ERR_FORMAT, "holds %s where the list of storages was expected",
                       unpickle_type_name(vm, keys));
    UnpickleReader *r = &vm->reader;
    uint32_t link = vm->nodes[keys].u.chain.first;
    for (uint32_t i = 0; i < vm->nodes[keys].u.chain.count; i++, link = vm->links[link].next) {
        const uint32_t key = vm->links[link].value;
        Storage *s = vm->nodes[key].type == UNPICKLE_STRING ? find_storage(all, vm, key) : NULL;
        if (!s || s->found)
            return err_set(vm->err, ERR_FORMAT, "the list of storages does not fit the tensors");
        uint64_t count;
        TRY(unpickle_take_uint(r, 8, &count, vm->err));
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

static ErrCode collect(Pickle *p, Unpickler *vm, uint32_t root, const Storages *all) {
    uint32_t state;
    TRY(find_state(vm, root, &state));
    const uint32_t pairs = vm->nodes[state].u.chain.count / 2;
    if (pairs > UNPICKLE_STACK_MAX)
        return err_set(vm->err, ERR_FORMAT, "a dict of %u values, expected at most %zu", pairs,
                       UNPICKLE_STACK_MAX);
    TRY(mem_new(&p->items, pairs, sizeof *p->items, "the list of tensors", vm->err));
    p->strings = vm->strings; /* names point into it; nothing is added from here on */
    vm->strings = (Buf){0};
    uint32_t link = vm->nodes[state].u.chain.first;
    for (uint32_t i = 0; i < pairs; i++) {
        const UnpickleLink key = vm->links[link], value = vm->links[key.next];
        const UnpickleNode *name = &vm->nodes[key.value];
        link = value.next;
        if (vm->nodes[value.value].type != UNPICKLE_TENSOR) continue;
        if (name->type != UNPICKLE_STRING)
            return err_set(vm->err, ERR_FORMAT, "a tensor is named by %s", unpickle_type_name(vm, key.value));
        const char *text = p->strings.data + name->u.text.at;
        Item *item = &p->items[p->count];
        item->entry.name = text;
        ErrCode rc = ERR_OK;
        if (strlen(text) != name->u.text.len || text_utf8_prefix(text, name->u.text.len) != name->u.text.len)
            rc = err_set(vm->err, ERR_FORMAT, "its name is not UTF-8 without NUL");
        if (rc == ERR_OK) rc = make_item(vm, value.value, item);
        if (rc == ERR_OK) {
            const UnpickleNode *n = &vm->nodes[vm->nodes[value.value].u.tensor.storage];
            const UnpickleNode *k = &vm->nodes[n->u.storage.key];
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

static ErrCode open_legacy(Pickle *p, Unpickler *vm) {
    static const unsigned char MAGIC[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    uint32_t node, system, root, keys;
    Storages all = {0};
    vm->reader = (UnpickleReader){.source = &p->source,
                                  .data = p->source.bytes,
                                  .data_n = p->source.bytes ? (size_t)p->source.size : 0,
                                  .end = p->source.size};
    TRY(unpickle_run(vm, &node));
    if (vm->nodes[node].type != UNPICKLE_BIG || vm->nodes[node].u.text.len != sizeof MAGIC ||
        memcmp(unpickle_text(vm, node), MAGIC, sizeof MAGIC) != 0)
        return err_set(vm->err, ERR_FORMAT, "a pickle, but not of torch.save: the magic number is missing");
    TRY(unpickle_run(vm, &node));
    if (vm->nodes[node].type != UNPICKLE_INT || vm->nodes[node].u.i != 1001)
        return err_set(vm->err, ERR_FORMAT, "a version of the legacy format other than 1001");
    TRY(unpickle_run(vm, &system));
    bool is_little = false;
    const UnpickleNode *s = &vm->nodes[system];
    uint32_t link = s->type == UNPICKLE_DICT ? s->u.chain.first : 0;
    for (uint32_t i = 0; s->type == UNPICKLE_DICT && i < s->u.chain.count; i += 2) {
        const UnpickleLink key = vm->links[link], value = vm->links[key.next];
        if (unpickle_is_text(vm, key.value, "little_endian"))
            is_little = vm->nodes[value.value].type == UNPICKLE_BOOL && vm->nodes[value.value].u.i == 1;
        link = value.next;
    }
    if (!is_little) return err_set(vm->err, ERR_FORMAT, "its numbers are not little-endian");
    TRY(unpickle_run(vm, &root));
    TRY(unpickle_run(vm, &keys));
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

static ErrCode open_zip(Pickle *p, Unpickler *vm) {
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = p->source.bytes
                               ? zip_source_buffer_create(p->source.bytes, p->source.size, 0, &why)
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
        vm->reader =
            (UnpickleReader){.data = (const unsigned char *)code.data, .data_n = code.len, .end = code.len};
        rc = unpickle_run(vm, &root);
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
    TRY(unpickle_read(&p->source, head, 0,
                      p->source.size < sizeof head ? (size_t)p->source.size : sizeof head, err));
    Unpickler vm = {.err = err};
    ErrCode rc;
    if (memcmp(head, "PK\3\4", 4) == 0)
        rc = open_zip(p, &vm);
    else if (head[0] == 0x80)
        rc = open_legacy(p, &vm);
    else if (memcmp(head, LFS, sizeof head) == 0)
        rc = err_set(err, ERR_FORMAT, "a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'");
    else
        rc = err_set(err, ERR_FORMAT, "neither a zip nor a pickle of torch.save");
    unpickle_free(&vm);
    return rc;
}

ErrCode pickle_open(Pickle **out, const char *path, Err *err) {
    Pickle *p = NULL;
    *out = NULL;
    TRY(mem_new(&p, 1, sizeof *p, "a checkpoint", err));
    ErrCode rc = file_open(&p->source.file, path, err);
    if (rc == ERR_OK) {
        p->source.size = p->source.file.size;
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
    p->source.bytes = bytes;
    p->source.size = n;
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
    file_close(&p->source.file);
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
               : unpickle_read(&p->source, piece, item->at + (uint64_t)(at * size), (size_t)(n * size), err);
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
