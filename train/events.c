#include "train/events.h"

#include <assert.h>
#include <string.h>
#include <time.h>

#include "core/buf.h"
#include "core/file.h"
#include "core/mem.h"

static uint32_t crc32c(const unsigned char *p, size_t n) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
    }
    return crc ^ 0xffffffffu;
}

static uint32_t masked(const unsigned char *p, size_t n) {
    const uint32_t c = crc32c(p, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static size_t put_le(unsigned char *p, uint64_t v, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(v >> (8 * i));
    return n;
}

static size_t put_varint(unsigned char *p, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) p[n++] = (unsigned char)(v | 0x80);
    p[n++] = (unsigned char)v;
    return n;
}

static void put_record(Events *e, const unsigned char *data, size_t n) {
    unsigned char head[12], tail[4];
    put_le(head, n, 8);
    put_le(head + 8, masked(head, 8), 4);
    put_le(tail, masked(data, n), 4);
    if (fwrite(head, 1, 12, e->file) == 12 && fwrite(data, 1, n, e->file) == n)
        (void)fwrite(tail, 1, 4, e->file);
}

static size_t put_time(unsigned char *p) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    const double seconds = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    p[0] = 0x09; /* field 1, 64 bits */
    return 1 + put_le(p + 1, bits, 8);
}

ErrCode events_open(Events *e, const char *dir, Err *err) {
    *e = (Events){0};
    Buf name = {0};
    buf_printf(&name, "events.out.tfevents.%lld.router", (long long)time(NULL));
    char *path = name.failed ? NULL : file_join(dir, name.data);
    buf_free(&name);
    if (!path) return err_set(err, ERR_MEMORY, "out of memory");
    e->file = fopen(path, "abe"); /* a run that is resumed within the second goes on in its file */
    const ErrCode rc = e->file ? ERR_OK : err_set(err, ERR_IO, "%s: cannot create", path);
    mem_free(path);
    if (rc != ERR_OK) return rc;
    static const char VERSION[] = "brain.Event:2";
    unsigned char data[64];
    size_t n = put_time(data);
    data[n++] = 0x1a; /* field 3, bytes */
    data[n++] = sizeof VERSION - 1;
    memcpy(data + n, VERSION, sizeof VERSION - 1);
    put_record(e, data, n + sizeof VERSION - 1);
    return ERR_OK;
}

void events_add(Events *e, int64_t step, const char *tag, double value) {
    if (!e->file) return;
    const size_t tag_n = strlen(tag);
    assert(tag_n <= 100);
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    unsigned char data[192];
    size_t n = put_time(data);
    data[n++] = 0x10; /* field 2, varint */
    n += put_varint(data + n, (uint64_t)step);
    data[n++] = 0x2a; /* field 5: a summary of tag_n + 9 bytes, holding one value of tag_n + 7 */
    n += put_varint(data + n, tag_n + 9);
    data[n++] = 0x0a;
    n += put_varint(data + n, tag_n + 7);
    data[n++] = 0x0a;
    n += put_varint(data + n, tag_n);
    memcpy(data + n, tag, tag_n);
    n += tag_n;
    data[n++] = 0x15; /* field 2, 32 bits */
    n += put_le(data + n, bits, 4);
    put_record(e, data, n);
}

void events_flush(Events *e) {
    if (e->file) (void)fflush(e->file);
}

void events_close(Events *e) {
    if (e->file) (void)fclose(e->file);
    *e = (Events){0};
}
