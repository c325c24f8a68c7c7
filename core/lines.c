#include "core/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "core/mem.h"

enum { CHUNK = 1 << 17 };

typedef enum { PLAIN, GZIP, ZSTANDARD } Coding;

struct Lines {
    char *path;
    int fd;
    bool owns_fd, sniffed, input_end, inside; /* inside: in the middle of a compressed frame */
    Coding coding;
    z_stream gz;
    ZSTD_DStream *zst;
    unsigned char in[CHUNK];
    size_t in_at, in_len;
    char *text; /* decoded bytes [at, len) not yet returned */
    size_t at, len, cap, number;
};

ErrCode lines_open(Lines **out, const char *path, Err *err) {
    *out = NULL;
    Lines *l;
    TRY(mem_new(&l, 1, sizeof *l, "a line reader", err));
    const bool is_stdin = strcmp(path, "-") == 0;
    l->fd = -1;
    l->path = mem_strdup(is_stdin ? "stdin" : path);
    l->text = mem_resize(NULL, l->cap = 2 * (size_t)CHUNK, 1);
    if (!l->path || !l->text) {
        lines_close(l);
        return err_set(err, ERR_MEMORY, "out of memory opening %s", path);
    }
    l->owns_fd = !is_stdin;
    l->fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0) {
        char why[128] = "";
        if (strerror_r(errno, why, sizeof why) != 0) why[0] = 0;
        lines_close(l);
        return err_set(err, ERR_IO, "%s: cannot open: %s", path, why);
    }
    *out = l;
    return ERR_OK;
}

static ErrCode refill(Lines *l, Err *err) {
    while (l->in_at == l->in_len && !l->input_end) {
        const ssize_t n = read(l->fd, l->in, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, ERR_IO, "%s: cannot read behind line %zu", l->path, l->number);
        l->in_at = 0;
        l->in_len = (size_t)n;
        l->input_end = n == 0;
    }
    return ERR_OK;
}

static ErrCode sniff(Lines *l, Err *err) {
    while (l->in_len < 4 && !l->input_end) { /* a pipe may give one byte at a time */
        const ssize_t n = read(l->fd, l->in + l->in_len, CHUNK - l->in_len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, ERR_IO, "%s: cannot read", l->path);
        l->in_len += (size_t)n;
        l->input_end = n == 0;
    }
    if (l->in_len >= 2 && l->in[0] == 0x1f && l->in[1] == 0x8b) {
        l->coding = GZIP;
        if (inflateInit2(&l->gz, 15 + 16) != Z_OK) {
            l->coding = PLAIN; /* so that close does not end what never began */
            return err_set(err, ERR_MEMORY, "out of memory for gzip");
        }
    } else if (l->in_len >= 4 && memcmp(l->in, "\x28\xb5\x2f\xfd", 4) == 0) {
        l->coding = ZSTANDARD;
        l->zst = ZSTD_createDStream();
        if (!l->zst) return err_set(err, ERR_MEMORY, "out of memory for zstd");
    }
    l->sniffed = true;
    return ERR_OK;
}

static ErrCode damaged(const Lines *l, const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "%s: damaged %s stream behind line %zu: %s", l->path,
                   l->coding == GZIP ? "gzip" : "zstd", l->number, what);
}

static ErrCode decode_gzip(Lines *l, size_t room, size_t *made, Err *err) {
    if (!l->inside && l->in_at < l->in_len && inflateReset(&l->gz) != Z_OK) return damaged(l, "reset", err);
    l->inside = true;
    l->gz.next_in = l->in + l->in_at;
    l->gz.avail_in = (uInt)(l->in_len - l->in_at);
    l->gz.next_out = (unsigned char *)l->text + l->len;
    l->gz.avail_out = (uInt)room;
    const int rc = inflate(&l->gz, Z_NO_FLUSH);
    l->in_at = l->in_len - l->gz.avail_in;
    *made = room - l->gz.avail_out;
    if (rc == Z_STREAM_END) l->inside = false;
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return damaged(l, l->gz.msg ? l->gz.msg : "bad data", err);
    return ERR_OK;
}

static ErrCode decode_zstd(Lines *l, size_t room, size_t *made, Err *err) {
    ZSTD_inBuffer in = {l->in + l->in_at, l->in_len - l->in_at, 0};
    ZSTD_outBuffer out = {l->text + l->len, room, 0};
    const size_t rc = ZSTD_decompressStream(l->zst, &out, &in);
    if (ZSTD_isError(rc)) return damaged(l, ZSTD_getErrorName(rc), err);
    l->in_at += in.pos;
    l->inside = rc != 0;
    *made = out.pos;
    return ERR_OK;
}

/* Adds decoded bytes behind l->len; *end when there are none left. */
static ErrCode decode_more(Lines *l, bool *end, Err *err) {
    *end = false;
    if (!l->sniffed) TRY(sniff(l, err));
    if (l->at > 0) {
        memmove(l->text, l->text + l->at, l->len - l->at);
        l->len -= l->at;
        l->at = 0;
    }
    if (l->cap - l->len < CHUNK) {
        if (l->len > LINES_MAX)
            return err_set(err, ERR_FORMAT, "%s:%zu: line longer than %zu bytes", l->path, l->number + 1,
                           LINES_MAX);
        const size_t cap = l->len + l->len / 2 + 2 * (size_t)CHUNK;
        char *text = mem_resize(l->text, cap, 1);
        if (!text) return err_set(err, ERR_MEMORY, "out of memory for a line of %s", l->path);
        l->text = text;
        l->cap = cap;
    }
    for (;;) {
        TRY(refill(l, err));
        if (l->in_at == l->in_len && l->input_end && !l->inside) {
            *end = true;
            return ERR_OK;
        }
        size_t made = 0;
        if (l->coding == PLAIN) {
            made = l->in_len - l->in_at;
            memcpy(l->text + l->len, l->in + l->in_at, made);
            l->in_at = l->in_len;
        } else {
            const bool starved = l->in_at == l->in_len && l->input_end;
            TRY(l->coding == GZIP ? decode_gzip(l, l->cap - l->len, &made, err)
                                  : decode_zstd(l, l->cap - l->len, &made, err));
            if (starved && made == 0 && l->inside) return damaged(l, "it ends too early", err);
        }
        l->len += made;
        if (made) return ERR_OK;
    }
}

ErrCode lines_next(Lines *l, const char **text, size_t *n, bool *more, Err *err) {
    size_t scanned = 0;
    bool end = false;
    *more = true;
    for (;;) {
        const char *from = l->text + l->at;
        const size_t have = l->len - l->at;
        const char *newline = have > scanned ? memchr(from + scanned, '\n', have - scanned) : NULL;
        if (newline || end) {
            size_t size = newline ? (size_t)(newline - from) : have;
            if (!newline && size == 0) {
                *more = false;
                return ERR_OK;
            }
            l->at += size + (newline ? 1 : 0);
            l->number++;
            if (size && from[size - 1] == '\r') size--;
            *text = from;
            *n = size;
            return ERR_OK;
        }
        scanned = have;
        TRY(decode_more(l, &end, err));
    }
}

ErrCode lines_peek(Lines *l, size_t least, const char **bytes, size_t *n, Err *err) {
    bool end = false;
    while (l->len - l->at < least && !end) TRY(decode_more(l, &end, err));
    *bytes = l->text + l->at;
    *n = l->len - l->at;
    return ERR_OK;
}

void lines_skip(Lines *l, size_t n) {
    l->at += n;
}

size_t lines_number(const Lines *l) {
    return l->number;
}

const char *lines_path(const Lines *l) {
    return l->path;
}

void lines_close(Lines *l) {
    if (!l) return;
    if (l->coding == GZIP) inflateEnd(&l->gz);
    ZSTD_freeDStream(l->zst);
    if (l->owns_fd && l->fd >= 0) close(l->fd);
    mem_free(l->text);
    mem_free(l->path);
    mem_free(l);
}
