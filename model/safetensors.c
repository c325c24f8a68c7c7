#include "model/safetensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"

/* ---- the scanner ---- */

typedef struct {
    const char *json;
    size_t n, at;
    char *strings; /* n + 1 bytes: decoding never lengthens a string, and its quotes pay for its NUL */
    size_t used;
    size_t entry_cap, pair_cap;
    Err *err;
} Scan;

static ErrCode unexpected(const Scan *s, const char *expected) {
    if (s->at >= s->n)
        return err_set(s->err, ERR_FORMAT, "header ends at byte %zu, expected %s", s->n, expected);
    char shown[8];
    return err_set(s->err, ERR_FORMAT, "header byte %zu: found '%s', expected %s", s->at,
                   text_excerpt(shown, 4, s->json + s->at, 1), expected);
}

static void skip_space(Scan *s) {
    while (s->at < s->n && (s->json[s->at] == ' ' || s->json[s->at] == '\n' || s->json[s->at] == '\t' ||
                            s->json[s->at] == '\r'))
        s->at++;
}

static bool accept(Scan *s, char c) {
    skip_space(s);
    if (s->at >= s->n || s->json[s->at] != c) return false;
    s->at++;
    return true;
}

static ErrCode expect(Scan *s, char c) {
    const char text[4] = {'\'', c, '\'', 0};
    return accept(s, c) ? ERR_OK : unexpected(s, text);
}

/* The four digits of a \u escape. */
static ErrCode scan_hex(Scan *s, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        const char c = s->at < s->n ? s->json[s->at] : 0;
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (uint32_t)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (uint32_t)(c - 'A') + 10;
        else
            return unexpected(s, "a hexadecimal digit");
        *out = *out << 4 | digit;
    }
    return ERR_OK;
}

static ErrCode scan_unicode(Scan *s) {
    uint32_t cp, low;
    TRY(scan_hex(s, &cp));
    if (cp == 0) return err_set(s->err, ERR_FORMAT, "header byte %zu: a NUL in a string", s->at - 4);
    if (cp >= 0xd800 && cp < 0xe000) {
        const bool pair = cp < 0xdc00 && s->n - s->at >= 2 && memcmp(s->json + s->at, "\\u", 2) == 0;
        if (pair) s->at += 2;
        if (pair) TRY(scan_hex(s, &low));
        if (!pair || low < 0xdc00 || low > 0xdfff)
            return err_set(s->err, ERR_FORMAT, "header byte %zu: half of a surrogate pair", s->at);
        cp = 0x10000 + ((cp - 0xd800) << 10 | (low - 0xdc00));
    }
    char *to = s->strings + s->used;
    size_t n = 0;
    if (cp < 0x80) {
        to[n++] = (char)cp;
    } else {
        if (cp >= 0x10000) to[n++] = (char)(0xf0 | cp >> 18);
        if (cp >= 0x10000) to[n++] = (char)(0x80 | (cp >> 12 & 63));
        if (cp >= 0x800 && cp < 0x10000) to[n++] = (char)(0xe0 | cp >> 12);
        to[n++] = (char)(cp >= 0x800 ? 0x80 | (cp >> 6 & 63) : 0xc0 | cp >> 6);
        to[n++] = (char)(0x80 | (cp & 63));
    }
    s->used += n;
    return ERR_OK;
}

static ErrCode scan_escape(Scan *s) {
    static const char FROM[] = "\"\\/bfnrt", TO[] = "\"\\/\b\f\n\r\t";
    s->at++; /* the backslash */
    const char c = s->at < s->n ? s->json[s->at] : 0;
    if (c == 'u') {
        s->at++;
        return scan_unicode(s);
    }
    const char *found = c ? strchr(FROM, c) : NULL;
    if (!found) return unexpected(s, "an escape of JSON");
    s->strings[s->used++] = TO[found - FROM];
    s->at++;
    return ERR_OK;
}

static ErrCode scan_string(Scan *s, const char **out, size_t *len) {
    *out = "";
    *len = 0;
    if (!accept(s, '"')) return unexpected(s, "a string");
    const size_t start = s->used;
    for (;;) {
        if (s->at >= s->n) return unexpected(s, "the end of a string");
        const unsigned char c = (unsigned char)s->json[s->at];
        if (c == '"') break;
        if (c < 0x20) return unexpected(s, "no control character in a string");
        if (c == '\\') {
            TRY(scan_escape(s));
            continue;
        }
        uint32_t cp;
        const size_t n = text_utf8_next(s->json + s->at, s->n - s->at, &cp);
        if (n == 1 && c >= 0x80) return unexpected(s, "UTF-8");
        memcpy(s->strings + s->used, s->json + s->at, n);
        s->used += n;
        s->at += n;
    }
    s->at++;
    *out = s->strings + start;
    *len = s->used - start;
    s->strings[s->used++] = 0;
    return ERR_OK;
}

static ErrCode scan_size(Scan *s, int64_t *out) {
    skip_space(s);
    const size_t start = s->at;
    int64_t v = 0;
    for (; s->at < s->n && s->json[s->at] >= '0' && s->json[s->at] <= '9'; s->at++) {
        const int digit = s->json[s->at] - '0';
        if (v > (INT64_MAX - digit) / 10) return unexpected(s, "a number below 2^63");
        v = v * 10 + digit;
    }
    if (s->at == start) return unexpected(s, "a whole number");
    if (s->at > start + 1 && s->json[start] == '0') {
        s->at = start;
        return unexpected(s, "a number without a leading zero");
    }
    *out = v;
    return ERR_OK;
}

static ErrCode grow(void *array, size_t *cap, size_t count, size_t size, Err *err) {
    if (count < *cap) return ERR_OK;
    const size_t more = *cap ? *cap * 2 : 64;
    void *p;
    memcpy(&p, array, sizeof p);
    p = mem_resize(p, more, size);
    if (!p) return err_set(err, ERR_MEMORY, "out of memory for %zu header entries", more);
    memcpy(array, &p, sizeof p);
    *cap = more;
    return ERR_OK;
}

/* ---- the header's grammar ---- */

static ErrCode scan_shape(Scan *s, SafetensorsEntry *e) {
    TRY(expect(s, '['));
    if (accept(s, ']')) return ERR_OK;
    do {
        if (e->rank == TENSOR_RANK_MAX) return unexpected(s, "at most 4 dimensions");
        TRY(scan_size(s, &e->shape[e->rank++]));
    } while (accept(s, ','));
    return expect(s, ']');
}

static ErrCode scan_offsets(Scan *s, SafetensorsEntry *e) {
    int64_t begin, end;
    TRY(expect(s, '['));
    TRY(scan_size(s, &begin));
    TRY(expect(s, ','));
    TRY(scan_size(s, &end));
    e->begin = (uint64_t)begin;
    e->end = (uint64_t)end;
    return expect(s, ']');
}

static ErrCode scan_field(Scan *s, SafetensorsEntry *e, unsigned *seen) {
    static const char *const FIELDS[] = {"dtype", "shape", "data_offsets"};
    const size_t start = s->at, kept = s->used;
    const char *text;
    size_t len;
    unsigned k = 0;
    TRY(scan_string(s, &text, &len));
    while (k < 3 && strcmp(text, FIELDS[k]) != 0) k++;
    s->used = kept; /* the field's name is not needed again */
    if (k == 3 || (*seen & 1u << k)) {
        s->at = start;
        return unexpected(s, "dtype, shape and data_offsets, each once");
    }
    *seen |= 1u << k;
    TRY(expect(s, ':'));
    if (k == 1) return scan_shape(s, e);
    if (k == 2) return scan_offsets(s, e);
    TRY(scan_string(s, &text, &len));
    s->used = kept;
    e->dtype = tensor_dtype_find(text, len);
    if (e->dtype != DTYPE_COUNT) return ERR_OK;
    char shown[40];
    return err_set(s->err, ERR_FORMAT, "unknown dtype \"%s\"", text_excerpt(shown, 32, text, len));
}

static ErrCode check_entry(const SafetensorsEntry *e, uint64_t data_bytes, Err *err) {
    Tensor t = {.rank = e->rank, .dtype = e->dtype};
    memcpy(t.shape, e->shape, sizeof t.shape);
    const int64_t count = tensor_count(&t);
    char shape[96];
    tensor_shape_text(shape, e->shape, e->rank);
    if (count < 0) return err_set(err, ERR_FORMAT, "the shape %s overflows", shape);
    const uint64_t bytes = (uint64_t)count * tensor_dtype_bytes(e->dtype);
    if (e->begin > e->end || e->end > data_bytes)
        return err_set(err, ERR_FORMAT, "bytes %llu to %llu lie outside the %llu bytes of data",
                       (unsigned long long)e->begin, (unsigned long long)e->end,
                       (unsigned long long)data_bytes);
    if (e->end - e->begin != bytes)
        return err_set(err, ERR_FORMAT, "has %llu bytes, expected %llu for %s %s",
                       (unsigned long long)(e->end - e->begin), (unsigned long long)bytes,
                       tensor_dtype_name(e->dtype), shape);
    return ERR_OK;
}

static ErrCode name_tensor(Err *err, ErrCode rc, const char *name) {
    char shown[104];
    return err_context(err, rc, "tensor \"%s\"", text_excerpt(shown, 100, name, strlen(name)));
}

static ErrCode scan_entry(Scan *s, SafetensorsHeader *h, const char *name, uint64_t data_bytes) {
    SafetensorsEntry e = {.name = name};
    unsigned seen = 0;
    ErrCode rc = expect(s, '{');
    if (rc == ERR_OK) {
        do rc = scan_field(s, &e, &seen);
        while (rc == ERR_OK && accept(s, ','));
    }
    if (rc == ERR_OK) rc = expect(s, '}');
    if (rc == ERR_OK && seen != 7) rc = err_set(s->err, ERR_FORMAT, "expected dtype, shape and data_offsets");
    if (rc == ERR_OK) rc = check_entry(&e, data_bytes, s->err);
    if (rc != ERR_OK) return name_tensor(s->err, rc, name);
    TRY(grow(&h->entries, &s->entry_cap, h->count, sizeof e, s->err));
    h->entries[h->count++] = e;
    return ERR_OK;
}

static ErrCode scan_metadata(Scan *s, SafetensorsHeader *h) {
    TRY(expect(s, '{'));
    if (accept(s, '}')) return ERR_OK;
    do {
        SafetensorsPair p;
        size_t len;
        TRY(scan_string(s, &p.key, &len));
        TRY(expect(s, ':'));
        TRY(scan_string(s, &p.value, &p.value_len));
        TRY(grow(&h->metadata, &s->pair_cap, h->metadata_count, sizeof p, s->err));
        h->metadata[h->metadata_count++] = p;
    } while (accept(s, ','));
    return expect(s, '}');
}

static ErrCode scan_header(Scan *s, SafetensorsHeader *h, uint64_t data_bytes) {
    bool metadata = false;
    if (s->n == 0 || s->json[0] != '{') return unexpected(s, "'{'");
    s->at = 1;
    if (!accept(s, '}')) {
        do {
            const char *name;
            size_t len;
            TRY(scan_string(s, &name, &len));
            TRY(expect(s, ':'));
            if (strcmp(name, "__metadata__") != 0) {
                TRY(scan_entry(s, h, name, data_bytes));
                continue;
            }
            if (metadata) return err_set(s->err, ERR_FORMAT, "\"__metadata__\" occurs twice");
            metadata = true;
            TRY(scan_metadata(s, h));
        } while (accept(s, ','));
        TRY(expect(s, '}'));
    }
    skip_space(s);
    return s->at == s->n ? ERR_OK : unexpected(s, "the end of the header");
}

/* ---- what only shows when all entries are there ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const SafetensorsEntry *)a)->name, ((const SafetensorsEntry *)b)->name);
}

static int by_place(const void *a, const void *b) { /* empty tensors before what begins at the same byte */
    const SafetensorsEntry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const SafetensorsPair *)a)->key, ((const SafetensorsPair *)b)->key);
}

static ErrCode check_all(SafetensorsHeader *h, uint64_t data_bytes, Err *err) {
    char shown[104];
    if (h->metadata_count) qsort(h->metadata, h->metadata_count, sizeof *h->metadata, by_key);
    for (size_t i = 1; i < h->metadata_count; i++) {
        const char *key = h->metadata[i].key;
        if (strcmp(h->metadata[i - 1].key, key) == 0)
            return err_set(err, ERR_FORMAT, "metadata key \"%s\" occurs twice",
                           text_excerpt(shown, 100, key, strlen(key)));
    }
    if (h->count) qsort(h->entries, h->count, sizeof *h->entries, by_name);
    for (size_t i = 1; i < h->count; i++)
        if (strcmp(h->entries[i - 1].name, h->entries[i].name) == 0)
            return name_tensor(err, err_set(err, ERR_FORMAT, "occurs twice"), h->entries[i].name);
    if (h->count) qsort(h->entries, h->count, sizeof *h->entries, by_place);
    uint64_t at = 0;
    for (size_t i = 0; i < h->count; i++) {
        const SafetensorsEntry *e = &h->entries[i];
        if (e->begin != at) {
            const ErrCode rc =
                err_set(err, ERR_FORMAT, "begins at byte %llu, expected %llu (%s)",
                        (unsigned long long)e->begin, (unsigned long long)at,
                        e->begin < at ? "it overlaps another tensor" : "a hole lies before it");
            return name_tensor(err, rc, e->name);
        }
        at = e->end;
    }
    if (at == data_bytes) return ERR_OK;
    return err_set(err, ERR_FORMAT, "the tensors end at byte %llu of %llu bytes of data",
                   (unsigned long long)at, (unsigned long long)data_bytes);
}

ErrCode safetensors_parse(SafetensorsHeader *out, const char *json, size_t n, uint64_t data_bytes, Err *err) {
    *out = (SafetensorsHeader){0};
    if (n > SAFETENSORS_HEADER_MAX)
        return err_set(err, ERR_FORMAT, "header of %zu bytes, expected at most %llu", n,
                       (unsigned long long)SAFETENSORS_HEADER_MAX);
    SafetensorsHeader h = {0};
    TRY(mem_new(&h.strings, n + 1, 1, "the header's strings", err));
    Scan s = {.json = json, .n = n, .strings = h.strings, .err = err};
    ErrCode rc = scan_header(&s, &h, data_bytes);
    if (rc == ERR_OK) rc = check_all(&h, data_bytes, err);
    if (rc == ERR_OK)
        *out = h;
    else
        safetensors_header_free(&h);
    return rc;
}

void safetensors_header_free(SafetensorsHeader *header) {
    mem_free(header->entries);
    mem_free(header->metadata);
    mem_free(header->strings);
    *header = (SafetensorsHeader){0};
}

const SafetensorsEntry *safetensors_find(const SafetensorsHeader *header, const char *name) {
    for (size_t i = 0; i < header->count; i++)
        if (strcmp(header->entries[i].name, name) == 0) return &header->entries[i];
    return NULL;
}

const char *safetensors_metadata(const SafetensorsHeader *header, const char *key) {
    for (size_t i = 0; i < header->metadata_count; i++)
        if (strcmp(header->metadata[i].key, key) == 0) return header->metadata[i].value;
    return NULL;
}

/* ---- a file ---- */

static uint64_t get_u64(const unsigned char b[8]) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | b[i];
    return v;
}

static ErrCode read_header(Safetensors *st, const char *path, Err *err) {
    unsigned char word[8];
    if (st->file.size < sizeof word)
        return err_set(err, ERR_FORMAT, "%s: has %llu bytes, too few for a safetensors file", path,
                       (unsigned long long)st->file.size);
    TRY(file_read_at(&st->file, word, 0, sizeof word, err));
    const uint64_t n = get_u64(word), rest = st->file.size - sizeof word;
    if (n > SAFETENSORS_HEADER_MAX || n > rest)
        return err_set(err, ERR_FORMAT,
                       "%s: not a safetensors file, or cut short: a header of %llu bytes in a file of %llu",
                       path, (unsigned long long)n, (unsigned long long)st->file.size);
    char *json;
    TRY(mem_new(&json, (size_t)n, 1, "a safetensors header", err));
    ErrCode rc = file_read_at(&st->file, json, sizeof word, (size_t)n, err);
    if (rc == ERR_OK) {
        rc = safetensors_parse(&st->header, json, (size_t)n, rest - n, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    st->data_start = sizeof word + n;
    mem_free(json);
    return rc;
}

ErrCode safetensors_open(Safetensors *out, const char *path, Err *err) {
    *out = (Safetensors){0};
    TRY(file_open(&out->file, path, err));
    const ErrCode rc = read_header(out, path, err);
    if (rc != ERR_OK) safetensors_close(out);
    return rc;
}

void safetensors_close(Safetensors *st) {
    safetensors_header_free(&st->header);
    file_close(&st->file);
    *st = (Safetensors){0};
}

ErrCode safetensors_read(const Safetensors *st, const SafetensorsEntry *entry, void *out, Err *err) {
    return file_read_at(&st->file, out, st->data_start + entry->begin, (size_t)(entry->end - entry->begin),
                        err);
}

ErrCode safetensors_read_f32(const Safetensors *st, const SafetensorsEntry *entry, float *out, Err *err) {
    if (entry->dtype == DTYPE_F32) return safetensors_read(st, entry, out, err);
    unsigned char piece[16384]; /* so that a half-precision model needs no second copy */
    const size_t size = tensor_dtype_bytes(entry->dtype), most = sizeof piece / size;
    if (!tensor_to_f32(out, piece, entry->dtype, 0)) {
        char shown[104];
        return err_set(err, ERR_FORMAT, "%s: tensor \"%s\" is %s, expected a floating type", st->file.path,
                       text_excerpt(shown, 100, entry->name, strlen(entry->name)),
                       tensor_dtype_name(entry->dtype));
    }
    const size_t count = (size_t)(entry->end - entry->begin) / size;
    for (size_t i = 0; i < count;) {
        const size_t n = count - i < most ? count - i : most;
        TRY(file_read_at(&st->file, piece, st->data_start + entry->begin + i * size, n * size, err));
        (void)tensor_to_f32(out + i, piece, entry->dtype, n);
        i += n;
    }
    return ERR_OK;
}

/* ---- writing ---- */

static ErrCode put_item(Buf *out, const SafetensorsItem *item, uint64_t *at, Err *err) {
    const Tensor *t = &item->tensor;
    const int64_t count = tensor_count(t);
    const uint64_t bytes = count < 0 ? 0 : (uint64_t)count * tensor_dtype_bytes(t->dtype);
    if (count < 0 || bytes > (uint64_t)INT64_MAX - *at)
        return name_tensor(err, err_set(err, ERR_ARGUMENT, "its size overflows"), item->name);
    text_put_json(out, item->name, strlen(item->name));
    buf_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", tensor_dtype_name(t->dtype));
    for (int d = 0; d < t->rank; d++) buf_printf(out, "%s%lld", d ? "," : "", (long long)t->shape[d]);
    const uint64_t begin = *at;
    *at += bytes;
    buf_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin, (unsigned long long)*at);
    return ERR_OK;
}

ErrCode safetensors_header(Buf *out, const SafetensorsItem *items, size_t count,
                           const SafetensorsPair *metadata, size_t metadata_count, size_t align, Err *err) {
    assert(align >= 8 && (align & (align - 1)) == 0);
    buf_clear(out);
    buf_put(out, "\0\0\0\0\0\0\0\0{", 9);
    for (size_t i = 0; i < metadata_count; i++) {
        buf_puts(out, i ? "," : "\"__metadata__\":{");
        text_put_json(out, metadata[i].key, strlen(metadata[i].key));
        buf_puts(out, ":");
        text_put_json(out, metadata[i].value, strlen(metadata[i].value));
    }
    if (metadata_count) buf_puts(out, "}");
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (i || metadata_count) buf_puts(out, ",");
        TRY(put_item(out, &items[i], &at, err));
    }
    buf_puts(out, "}");
    while (out->len % align != 0 && !out->failed) buf_puts(out, " ");
    TRY(buf_ok(out, err));
    const uint64_t n = out->len - 8;
    for (int i = 0; i < 8; i++) out->data[i] = (char)(n >> (8 * i) & 255);
    /* Nothing is written that would be refused when read: names twice, a header too long. */
    SafetensorsHeader check;
    TRY(safetensors_parse(&check, out->data + 8, (size_t)n, at, err));
    safetensors_header_free(&check);
    return ERR_OK;
}

ErrCode safetensors_save(const char *path, const SafetensorsItem *items, size_t count,
                         const SafetensorsPair *metadata, size_t metadata_count, Err *err) {
    Buf header = {0};
    FileWriter w = {0};
    ErrCode rc = safetensors_header(&header, items, count, metadata, metadata_count, 8, err);
    if (rc == ERR_OK) rc = file_create(&w, path, err);
    if (rc == ERR_OK) {
        file_write(&w, header.data, header.len);
        for (size_t i = 0; i < count; i++) {
            const Tensor *t = &items[i].tensor;
            file_write(&w, t->data, (size_t)tensor_count(t) * tensor_dtype_bytes(t->dtype));
        }
        rc = file_commit(&w, err);
    }
    file_abort(&w);
    buf_free(&header);
    return rc;
}
