#include "data/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/sha256.h"

#define HEAD   "{\"sum\":\""
#define MIDDLE "\",\"entry\":"
enum {
    SUM = 16,
    HEAD_BYTES = sizeof HEAD - 1,
    MIDDLE_BYTES = sizeof MIDDLE - 1,
    BEFORE = HEAD_BYTES + SUM + MIDDLE_BYTES
};

struct Journal {
    int fd;
    char *path;
    Buf pending;
    bool failed;
};

static ErrCode io_error(const Journal *j, const char *verb, Err *err) {
    char why[128] = "";
    if (strerror_r(errno, why, sizeof why) != 0) why[0] = 0;
    return err_set(err, ERR_IO, "%s: cannot %s: %s", j->path, verb, why);
}

const char *journal_line(const char *line, size_t n, size_t *entry_bytes) {
    char sum[SHA256_HEX];
    if (n < BEFORE + 2 || line[n - 1] != '}' || memcmp(line, HEAD, HEAD_BYTES) != 0 ||
        memcmp(line + HEAD_BYTES + SUM, MIDDLE, MIDDLE_BYTES) != 0)
        return NULL;
    *entry_bytes = n - BEFORE - 1;
    sha256_hex_of(sum, line + BEFORE, *entry_bytes);
    return memcmp(line + HEAD_BYTES, sum, SUM) == 0 ? line + BEFORE : NULL;
}

typedef struct {
    JournalEntry *take;
    void *arg;
    uint64_t lines, good_bytes;
    bool torn; /* the line before was wrong: fine only if it is the last */
} Reading;

static ErrCode read_line(const Journal *j, Reading *r, const char *line, size_t n, Err *err) {
    r->lines++;
    if (r->torn)
        return err_set(err, ERR_FORMAT, "%s:%llu: damaged: the line's sum is not that of its entry", j->path,
                       (unsigned long long)r->lines - 1);
    size_t bytes;
    const char *entry = journal_line(line, n, &bytes);
    if (!entry) {
        r->torn = true;
        return ERR_OK;
    }
    cJSON *tree = NULL;
    ErrCode rc = json_parse(&tree, entry, bytes, err);
    if (rc == ERR_OK) rc = r->take(r->arg, tree, err);
    cJSON_Delete(tree);
    if (rc != ERR_OK && rc != ERR_MEMORY)
        return err_context(err, rc, "%s:%llu", j->path, (unsigned long long)r->lines);
    r->good_bytes += n + 1;
    return rc;
}

static ErrCode read_all(Journal *j, Reading *r, Err *err) {
    Buf text = {0};
    ErrCode rc = ERR_OK;
    size_t at = 0;
    while (rc == ERR_OK) {
        const char *newline = text.len > at ? memchr(text.data + at, '\n', text.len - at) : NULL;
        if (newline) {
            const size_t n = (size_t)(newline - text.data) - at;
            rc = read_line(j, r, text.data + at, n, err);
            at += n + 1;
            continue;
        }
        if (at) memmove(text.data, text.data + at, text.len - at);
        text.len -= at;
        at = 0;
        if (text.len > JOURNAL_LINE_MAX)
            rc = err_set(err, ERR_FORMAT, "%s:%llu: longer than any line of a journal", j->path,
                         (unsigned long long)r->lines + 1);
        char *to = rc == ERR_OK ? buf_reserve(&text, 1 << 16) : NULL;
        if (rc == ERR_OK && !to) rc = buf_ok(&text, err);
        const ssize_t n = rc == ERR_OK ? read(j->fd, to, 1 << 16) : 0;
        if (n < 0 && errno != EINTR) rc = io_error(j, "read", err);
        if (n > 0) text.len += (size_t)n;
        if (n == 0) break; /* what is left has no newline: torn */
    }
    buf_free(&text);
    return rc;
}

/* So that the new file's name survives, too. */
static void sync_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    char *dir = slash ? mem_strndup(path, (size_t)(slash - path) + 1) : mem_strdup(".");
    const int fd = dir ? open(dir, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    mem_free(dir);
}

static ErrCode open_file(Journal *j, Err *err) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;
    j->fd = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (j->fd < 0) return io_error(j, "open", err);
    if (fcntl(j->fd, F_SETLK, &lock) != 0) {
        if (errno != EACCES && errno != EAGAIN) return io_error(j, "lock", err);
        return err_set(err, ERR_IO, "%s: another process is working on this journal", j->path);
    }
    if (fstat(j->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return err_set(err, ERR_IO, "%s: not a regular file", j->path);
    if (st.st_size == 0) sync_folder(j->path);
    return ERR_OK;
}

ErrCode journal_open(Journal **out, const char *path, JournalEntry *take, void *arg, uint64_t *entries,
                     Err *err) {
    *out = NULL;
    *entries = 0;
    Journal *j;
    Reading reading = {take, arg, 0, 0, false};
    TRY(mem_new(&j, 1, sizeof *j, "a journal", err));
    j->fd = -1;
    j->path = mem_strdup(path);
    ErrCode rc = j->path ? open_file(j, err) : err_set(err, ERR_MEMORY, "out of memory opening %s", path);
    if (rc == ERR_OK) rc = read_all(j, &reading, err);
    if (rc == ERR_OK && ftruncate(j->fd, (off_t)reading.good_bytes) != 0) rc = io_error(j, "cut", err);
    if (rc == ERR_OK && lseek(j->fd, 0, SEEK_END) < 0) rc = io_error(j, "seek", err);
    if (rc != ERR_OK) {
        journal_close(j);
        return rc;
    }
    *entries = reading.lines - reading.torn;
    *out = j;
    return ERR_OK;
}

ErrCode journal_add(Journal *j, const cJSON *entry, Err *err) {
    char *text = entry ? cJSON_PrintUnformatted(entry) : NULL;
    if (!text) return err_set(err, ERR_MEMORY, "out of memory for an entry of %s", j->path);
    char sum[SHA256_HEX];
    const size_t before = j->pending.len;
    sha256_hex_of(sum, text, strlen(text));
    buf_printf(&j->pending, HEAD "%.*s" MIDDLE "%s}\n", SUM, sum, text);
    cJSON_free(text);
    if (!j->pending.failed) return ERR_OK;
    j->pending.len = before; /* what was added before is whole */
    j->pending.failed = false;
    return err_set(err, ERR_MEMORY, "out of memory for an entry of %s", j->path);
}

ErrCode journal_sync(Journal *j, Err *err) {
    if (j->failed) return err_set(err, ERR_IO, "%s: an earlier write failed", j->path);
    j->failed = true;
    for (size_t at = 0; at < j->pending.len;) {
        const ssize_t n = write(j->fd, j->pending.data + at, j->pending.len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_error(j, "write", err);
        at += (size_t)n;
    }
    if (j->pending.len && fsync(j->fd) != 0) return io_error(j, "sync", err);
    buf_clear(&j->pending);
    j->failed = false;
    return ERR_OK;
}

void journal_close(Journal *j) {
    if (!j) return;
    if (j->fd >= 0) (void)close(j->fd);
    buf_free(&j->pending);
    mem_free(j->path);
    mem_free(j);
}
