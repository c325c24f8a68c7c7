#include "data/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/sha1.h"
#include "core/sha256.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/hub.h"

enum { ATTEMPTS = 6, ETAG_MAX = 512, RETRY_AFTER_MAX = 300 };

typedef struct {
    const FetchRule *rule;
    char *part, *etag_path;
    int fd_plus_1;
    uint64_t have;   /* bytes in the .part */
    uint64_t offset; /* asked for from here */
    uint64_t most;   /* that was ever there: an attempt that adds to it has not failed for nothing */
    bool begun;      /* this attempt's first byte was looked at */
    int64_t size;    /* expected; -1: not known yet */
    char sha256[65], git_sha1[41];
    char etag[ETAG_MAX]; /* of the .part; "": none that is strong */
    FetchResult *result;
} Fetch;

static ErrCode io_error(Err *err, const char *path, const char *verb) {
    char why[128];
    if (strerror_r(errno, why, sizeof why) != 0) (void)snprintf(why, sizeof why, "error %d", errno);
    return err_set(err, ERR_IO, "%s: cannot %s: %s", path, verb, why);
}

static ErrCode interrupted(Err *err) {
    return err_set(err, ERR_INTERRUPTED, "interrupted; the same command goes on from here");
}

/* ---- digests ---- */

ErrCode fetch_digest(uint64_t *size, char sha256[65], char git_sha1[41], const char *path, Err *err) {
    File file;
    TRY(file_open(&file, path, err));
    Sha256 two;
    Sha1 one;
    char head[40], *block = NULL;
    unsigned char digest[SHA256_BYTES];
    const int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)file.size);
    sha256_init(&two);
    sha1_init(&one);
    sha1_add(&one, head, (size_t)n + 1);
    ErrCode rc = mem_new(&block, 1 << 20, 1, "a block of a file", err);
    for (uint64_t at = 0; rc == ERR_OK && at < file.size;) {
        const size_t take = file.size - at < (1 << 20) ? (size_t)(file.size - at) : (size_t)1 << 20;
        rc = file_read_at(&file, block, at, take, err);
        if (rc == ERR_OK && stop_requested()) rc = interrupted(err);
        if (rc != ERR_OK) break;
        sha256_add(&two, block, take);
        sha1_add(&one, block, take);
        at += take;
    }
    *size = file.size;
    sha256_end(&two, digest);
    sha256_hex(sha256, digest);
    sha1_end(&one, git_sha1);
    mem_free(block);
    file_close(&file);
    return rc;
}

/* ---- what an answer says about the file ---- */

/* Without its quotes and a "W/" before them. */
static void bare_etag(char *out, size_t n, const char *value) {
    if (value && strncmp(value, "W/", 2) == 0) value += 2;
    if (value && *value == '"') value++;
    const size_t len = value ? strcspn(value, "\"") : 0;
    (void)snprintf(out, n, "%.*s", (int)(len < n ? len : 0), value ? value : "");
}

/* The hub's own headers, of the answer that sends us elsewhere or of the file's: they must not contradict what is known. */
static ErrCode read_hub_headers(Fetch *f, const HttpAnswer *a, Err *err) {
    const FetchRule *r = f->rule;
    if (!r->repo) return ERR_OK;
    const char *commit = http_header(a, "X-Repo-Commit"), *linked_size = http_header(a, "X-Linked-Size");
    const char *linked = http_header(a, "X-Linked-Etag");
    char etag[ETAG_MAX];
    if (commit && r->commit && strcmp(commit, r->commit) != 0)
        return err_set(err, ERR_FORMAT, "%s: the server gives it of commit '%.40s', expected %s", r->name,
                       commit, r->commit);
    if (linked_size) {
        char *end = NULL;
        const long long size = strtoll(linked_size, &end, 10);
        if (end == linked_size || *end || size < 0)
            return err_set(err, ERR_FORMAT, "%s: X-Linked-Size: found '%.40s', expected a number", r->name,
                           linked_size);
        if (f->size >= 0 && f->size != size)
            return err_set(err, ERR_FORMAT, "%s: the server says %lld bytes, expected %lld", r->name, size,
                           (long long)f->size);
        f->size = size;
    }
    if (!linked && !commit) return ERR_OK; /* the one that it sent us to has ETags of its own */
    bare_etag(etag, sizeof etag, linked ? linked : http_header(a, "ETag"));
    char *known = hub_is_hex(etag, 64) ? f->sha256 : hub_is_hex(etag, 40) ? f->git_sha1 : NULL;
    if (!known) return ERR_OK;
    if (known[0] && strcmp(known, etag) != 0)
        return err_set(err, ERR_FORMAT, "%s: the server says digest %.64s, expected %s", r->name, etag,
                       known);
    memcpy(known, etag, strlen(etag) + 1);
    return ERR_OK;
}

static ErrCode follow(void *arg, const HttpAnswer *answer, const char *to, bool same_origin, Err *err) {
    (void)to;
    (void)same_origin;
    return read_hub_headers(arg, answer, err);
}

/* ---- the unfinished file ---- */

static ErrCode open_part(Fetch *f, Err *err) {
    const int fd = open(f->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return io_error(err, f->part, "open");
    f->fd_plus_1 = fd + 1;
    const off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0) return io_error(err, f->part, "read");
    f->have = f->most = (uint64_t)end;
    Buf etag = {0};
    f->etag[0] = 0;
    if (f->have && file_exists(f->etag_path) &&
        file_read(&etag, f->etag_path, ETAG_MAX - 1, NULL) == ERR_OK && etag.len)
        (void)snprintf(f->etag, sizeof f->etag, "%s", etag.data);
    buf_free(&etag);
    if (f->etag[0] != '"') f->etag[0] = 0;
    for (const char *s = f->etag; *s; s++)
        if (*s < 0x20 || *s == 0x7f) f->etag[0] = 0; /* would be no header */
    return ERR_OK;
}

static ErrCode empty_part(Fetch *f, Err *err) {
    if (ftruncate(f->fd_plus_1 - 1, 0) != 0) return io_error(err, f->part, "truncate");
    f->have = 0;
    f->etag[0] = 0;
    if (unlink(f->etag_path) != 0 && errno != ENOENT) return io_error(err, f->etag_path, "remove");
    return ERR_OK;
}

static void remove_part(Fetch *f) {
    (void)unlink(f->part);
    (void)unlink(f->etag_path);
    f->have = 0;
}

/* "bytes 100-199/200": whether it goes on where we are. */
static bool goes_on(const Fetch *f, const HttpAnswer *a) {
    const char *range = http_header(a, "Content-Range");
    unsigned long long from = 0;
    char *end = NULL;
    if (!range || strncmp(range, "bytes ", 6) != 0 || range[6] < '0' || range[6] > '9') return false;
    from = strtoull(range + 6, &end, 10);
    if (*end != '-' || from != f->offset) return false;
    const char *slash = strchr(end, '/');
    if (!slash || slash[1] == '*') return true;
    return f->size < 0 || strtoll(slash + 1, NULL, 10) == f->size;
}

/* At an attempt's first byte: is it the one that we wait for, or the first of the file? */
static ErrCode begin(Fetch *f, const HttpAnswer *a, Err *err) {
    f->begun = true;
    TRY(read_hub_headers(f, a, err));
    if (a->status == 206 && f->offset > 0 && goes_on(f, a)) {
        f->result->resumed = true;
        return ERR_OK;
    }
    if (a->status == 206)
        return err_set(err, ERR_FORMAT, "%s: the server sent another part of the file than it was asked for",
                       f->rule->name);
    TRY(empty_part(f, err));
    const char *etag = http_header(a, "ETag");
    if (!etag || etag[0] != '"' || strlen(etag) >= ETAG_MAX)
        return ERR_OK; /* a weak one does not name the bytes */
    (void)snprintf(f->etag, sizeof f->etag, "%s", etag);
    return file_save(f->etag_path, etag, strlen(etag), err);
}

static void show(Fetch *f) {
    const FetchRule *r = f->rule;
    if (!r->progress || !progress_due(r->progress)) return;
    const double seconds = progress_clock() - r->progress->started;
    const uint64_t done = r->done_before + f->have;
    const double new_bytes = (double)(done > r->progress->start_done ? done - r->progress->start_done : 0);
    progress_update(r->progress, done, "%.60s %.1f MB/s", r->name,
                    seconds > 0 ? 1e-6 * new_bytes / seconds : 0);
}

static ErrCode sink(void *arg, const HttpAnswer *a, const char *bytes, size_t n, Err *err) {
    Fetch *f = arg;
    if (!f->begun) TRY(begin(f, a, err));
    if (f->size >= 0 && f->have + n > (uint64_t)f->size)
        return err_set(err, ERR_FORMAT, "%s: the server sends more than the %lld bytes that were expected",
                       f->rule->name, (long long)f->size);
    for (size_t at = 0; at < n;) {
        const ssize_t put = pwrite(f->fd_plus_1 - 1, bytes + at, n - at, (off_t)(f->have + at));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return io_error(err, f->part, "write");
        at += (size_t)put;
    }
    f->have += n;
    f->result->received += n;
    show(f);
    return ERR_OK;
}

/* ---- refusals ---- */

static ErrCode refused(const FetchRule *r, const HttpAnswer *a, Err *err) {
    const char *v = r->token_variable ? r->token_variable : "";
    if (r->repo && a->status == 401 && r->secret)
        return err_set(err, ERR_IO, "%s: 401: %s does not know the token in %s, or it may not read %s",
                       r->name, "the server", v, r->repo);
    if (r->repo && a->status == 401)
        return err_set(
            err, ERR_IO,
            "%s: 401: %s is private, gated or not there; put a token that may read it into the environment "
            "as %s",
            r->name, r->repo, v);
    if (r->repo && a->status == 403)
        return err_set(err, ERR_IO,
                       "%s: 403: %s is gated: accept its terms on its page, and let %s hold a token that "
                       "may read it",
                       r->name, r->repo, v);
    if (r->repo && a->status == 404)
        return err_set(err, ERR_IO, "%s: 404: %s has no such file or revision, or is not there", r->name,
                       r->repo);
    if (a->status == 401 || a->status == 403)
        return err_set(err, ERR_IO, "%s: the server refuses it with status %d", r->name, a->status);
    if (a->status == 404) return err_set(err, ERR_IO, "%s: 404: the server has no such file", r->name);
    return err_set(err, ERR_IO, "%s: the server answers with status %d", r->name, a->status);
}

/* ---- attempts ---- */

static ErrCode pause_for(double seconds, Err *err) {
    for (const double until = progress_clock() + seconds;;) {
        const double left = until - progress_clock();
        if (stop_requested()) return interrupted(err);
        if (left <= 0) return ERR_OK;
        const double nap = left < 0.1 ? left : 0.1;
        (void)nanosleep(&(struct timespec){0, (long)(1e9 * nap)}, NULL);
    }
}

/* Waits before the next attempt, or gives up with why the last one failed. */
static ErrCode again(const FetchRule *r, const HttpAnswer *a, int failed, Err *err) {
    const int most = r->attempts ? r->attempts : ATTEMPTS;
    if (failed >= most) {
        if (a->outcome == HTTP_DONE) return refused(r, a, err);
        return err_set(err, ERR_IO, "%s: given up after %d attempts: %s", r->name, failed,
                       a->why.msg[0] ? a->why.msg : "the connection ended too early");
    }
    double wait = r->backoff_s > 0 ? r->backoff_s : 1;
    for (int i = 1; i < failed; i++) wait *= 2;
    const double asked = a->outcome == HTTP_DONE ? http_retry_after(a) : -1;
    if (asked > RETRY_AFTER_MAX)
        return err_set(err, ERR_IO, "%s: the server asks to come back in %.0f s", r->name, asked);
    if (asked > wait) wait = asked;
    if (r->progress)
        progress_note(r->progress, "%s: %s; next attempt in %.1f s", r->name,
                      a->why.msg[0] ? a->why.msg : "the connection ended too early", wait);
    return pause_for(wait, err);
}

/* One request for what is missing. */
static ErrCode attempt(Fetch *f, Http *http, HttpAnswer *a, Err *err) {
    char range[64], condition[ETAG_MAX + 16];
    const char *headers[2];
    const FetchRule *r = f->rule;
    HttpRequest q = {.url = r->url,
                     .headers = headers,
                     .secret = r->secret,
                     .sink = sink,
                     .follow = follow,
                     .arg = f,
                     .redirect = HTTP_REDIRECT_ASK,
                     .slow_s = 60};
    f->begun = false;
    if (f->have && !f->etag[0] && !f->sha256[0]) TRY(empty_part(f, err)); /* of what is unknown */
    f->offset = f->have;
    if (f->have) {
        (void)snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)f->have);
        (void)snprintf(condition, sizeof condition, "If-Range: %s", f->etag);
        headers[q.header_count++] = range;
        if (f->etag[0]) headers[q.header_count++] = condition;
    }
    f->result->attempts++;
    return http_get(http, &q, a, err);
}

/* What to do about an answer: *done, or another attempt (after `failed` in a row). */
static ErrCode judge(Fetch *f, const HttpAnswer *a, bool *done, int *failed, Err *err) {
    if (a->outcome == HTTP_SINK) {
        if (err) *err = a->why;
        return a->why.code;
    }
    if (a->outcome == HTTP_REFUSED || a->outcome == HTTP_FAILED || a->outcome == HTTP_TOO_LARGE)
        return err_set(err, ERR_IO, "%s: %s", f->rule->name, a->why.msg);
    if (a->outcome == HTTP_DONE && a->status == 416 && f->offset > 0) {
        if (f->size >= 0 && f->have == (uint64_t)f->size) { /* all of it was there already */
            *done = true;
            return ERR_OK;
        }
        TRY(empty_part(f, err));
        ++*failed;
        return *failed > 2 ? refused(f->rule, a, err) : ERR_OK;
    }
    if (a->outcome == HTTP_DONE && a->status >= 200 && a->status <= 299) {
        if (!f->begun) TRY(begin(f, a, err)); /* a file of no bytes */
        *done = f->size < 0 || f->have == (uint64_t)f->size;
        if (*done) return ERR_OK;
    } else if (!http_may_retry(a)) {
        return refused(f->rule, a, err);
    }
    *failed = f->have > f->most ? 1 : *failed + 1;
    if (f->have > f->most) f->most = f->have;
    return again(f->rule, a, *failed, err);
}

static ErrCode check_digests(Fetch *f, Err *err) {
    char git_sha1[41];
    FetchResult *out = f->result;
    const FetchRule *r = f->rule;
    TRY(fetch_digest(&out->size, out->sha256, git_sha1, f->part, err));
    if (f->size >= 0 && out->size != (uint64_t)f->size)
        return err_set(err, ERR_FORMAT, "%s: %llu bytes, expected %lld", r->name,
                       (unsigned long long)out->size, (long long)f->size);
    if (f->sha256[0] && strcmp(out->sha256, f->sha256) != 0)
        return err_set(err, ERR_FORMAT, "%s: the SHA-256 is %s, expected %s", r->name, out->sha256,
                       f->sha256);
    if (f->git_sha1[0] && strcmp(git_sha1, f->git_sha1) != 0)
        return err_set(err, ERR_FORMAT, "%s: git's SHA-1 is %s, expected %s", r->name, git_sha1, f->git_sha1);
    return ERR_OK;
}

static ErrCode transfer(Fetch *f, Http *http, Err *err) {
    bool done = f->have && f->size >= 0 && f->have == (uint64_t)f->size && (f->sha256[0] || f->git_sha1[0]);
    int failed = 0;
    ErrCode rc = ERR_OK;
    while (rc == ERR_OK && !done) {
        HttpAnswer a = {0};
        rc = attempt(f, http, &a, err);
        if (rc == ERR_OK) rc = judge(f, &a, &done, &failed, err);
        http_answer_free(&a);
    }
    return rc == ERR_INTERRUPTED ? interrupted(err) : rc;
}

/* All bytes are there: are they the right ones? Those that an earlier run left may not be: then once more from the start. */
static ErrCode finish(Fetch *f, Http *http, Err *err) {
    const bool old = f->result->resumed || f->result->attempts == 0;
    ErrCode rc = check_digests(f, err);
    if (rc == ERR_FORMAT && old) {
        TRY(empty_part(f, err));
        TRY(transfer(f, http, err));
        rc = check_digests(f, err);
    }
    if (rc != ERR_OK) return rc;
    if (fsync(f->fd_plus_1 - 1) != 0 && errno != EINVAL) return io_error(err, f->part, "sync");
    if (rename(f->part, f->rule->path) != 0) return io_error(err, f->rule->path, "rename to");
    if (unlink(f->etag_path) != 0 && errno != ENOENT) return io_error(err, f->etag_path, "remove");
    return ERR_OK;
}

static char *with_ending(const char *path, const char *ending) {
    Buf name = {0};
    buf_printf(&name, "%s%s", path, ending);
    if (name.failed) buf_free(&name);
    return name.data;
}

ErrCode fetch_file(FetchResult *out, Http *http, const FetchRule *rule, Err *err) {
    *out = (FetchResult){0};
    Fetch f = {.rule = rule, .size = rule->size, .result = out};
    if (rule->sha256) (void)snprintf(f.sha256, sizeof f.sha256, "%s", rule->sha256);
    if (rule->git_sha1) (void)snprintf(f.git_sha1, sizeof f.git_sha1, "%s", rule->git_sha1);
    f.part = with_ending(rule->path, ".part");
    f.etag_path = with_ending(rule->path, ".part.etag");
    ErrCode rc = f.part && f.etag_path ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (rc == ERR_OK) rc = open_part(&f, err);
    if (rc == ERR_OK) rc = transfer(&f, http, err);
    if (rc == ERR_OK) rc = finish(&f, http, err);
    if (f.fd_plus_1) close(f.fd_plus_1 - 1);
    if (rc == ERR_FORMAT || (rc != ERR_OK && f.fd_plus_1 && f.have == 0)) remove_part(&f);
    mem_free(f.part);
    mem_free(f.etag_path);
    return rc;
}

ErrCode fetch_text(Buf *out, Http *http, const FetchRule *rule, Err *err) {
    for (int failed = 1;; failed++) {
        HttpAnswer a = {0};
        const HttpRequest q = {
            .url = rule->url, .secret = rule->secret, .redirect = HTTP_REDIRECT_ORIGIN, .total_s = 120};
        ErrCode rc = http_get(http, &q, &a, err);
        const bool good = rc == ERR_OK && a.outcome == HTTP_DONE && a.status >= 200 && a.status <= 299;
        if (good) {
            buf_put(out, a.body.data, a.body.len);
            rc = buf_ok(out, err);
        } else if (rc == ERR_OK && a.outcome == HTTP_DONE && !http_may_retry(&a)) {
            rc = refused(rule, &a, err);
        } else if (rc == ERR_OK && a.outcome != HTTP_DONE && !http_may_retry(&a)) {
            rc = err_set(err, ERR_IO, "%s: %s", rule->name, a.why.msg);
        } else if (rc == ERR_OK) {
            rc = again(rule, &a, failed, err);
        }
        http_answer_free(&a);
        if (rc != ERR_OK || good) return rc;
    }
}
