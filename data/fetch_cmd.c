#include "data/fetch_cmd.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/text.h"
#include "data/fetch.h"
#include "data/hub.h"
#include "data/lockfile.h"

static const char LOCK_NAME[] = "fetch.lock.json"; /* in the folder, always */

typedef struct {
    char *out, *lock, *sha256;
    FlagList include;
    double backoff;
    int64_t attempts;
    bool json;
} FetchOptions;

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, offsetof(FetchOptions, out), ".", 0, 0, "DIR",
     "#Files\nThe folder to put them in."},
    {"include", NULL, FLAG_LIST, offsetof(FetchOptions, include), NULL, 0, 0, "GLOB",
     "Files of a hub's folder to fetch, '*' also matching '/'; may be repeated [default: all, but of a "
     "model's weights "
     "only one format: safetensors, else PyTorch's]."},
    {"sha256", NULL, FLAG_STRING, offsetof(FetchOptions, sha256), NULL, 0, 0, "HEX",
     "What the SHA-256 of a URL's file must be."},
    {"lock", NULL, FLAG_STRING, offsetof(FetchOptions, lock), NULL, 0, 0, "FILE",
     "A lock file: where it exists, exactly its revision, files, sizes and digests are fetched or refused; "
     "else it is "
     "written."},
    {"attempts", NULL, FLAG_INT, offsetof(FetchOptions, attempts), "6", 1, 100, NULL,
     "#Network\nAttempts that may fail in a row without a new byte."},
    {"backoff", NULL, FLAG_FLOAT, offsetof(FetchOptions, backoff), "1", 0.001, 60, NULL,
     "Seconds before the second attempt, doubled each time; a server may ask for more."},
    {"json", NULL, FLAG_BOOL, offsetof(FetchOptions, json), NULL, 0, 0, NULL,
     "#Run\nPrint the report as one JSON object."},
};

/* What is fetched, from whom, and what came of it. */
typedef struct {
    const FetchOptions *options;
    const char *url;           /* as given */
    bool hub, offline, locked; /* locked: `given` binds */
    HubRepo repo;
    char *endpoint, *secret; /* secret: a header, or NULL */
    HubListing listing;      /* of a hub */
    Lockfile given, made;
    FlagList left_out;
    Http *http;
    Progress progress;
    uint64_t total, done, received, kept; /* bytes, bytes over the network; files that were there already */
} Job;

/* ---- the environment ---- */

static const char *variable(const char *name) {
    const char *value = getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody sets the environment */
    return value && value[0] ? value : NULL;
}

static bool is_offline(void) {
    static const char *const YES[] = {"1", "on", "ON", "yes", "YES", "true", "TRUE", "True"};
    const char *value = variable("HF_HUB_OFFLINE");
    for (size_t i = 0; value && i < sizeof YES / sizeof *YES; i++)
        if (strcmp(value, YES[i]) == 0) return true;
    return false;
}

static ErrCode read_environment(Job *j, Err *err) {
    const char *endpoint = variable("HF_ENDPOINT"), *token = variable("HF_TOKEN");
    j->offline = is_offline();
    if (!j->hub) return ERR_OK;
    j->endpoint = mem_strdup(endpoint ? endpoint : "https://huggingface.co");
    if (!j->endpoint) return err_set(err, ERR_MEMORY, "out of memory");
    for (size_t n = strlen(j->endpoint); n && j->endpoint[n - 1] == '/'; n--) j->endpoint[n - 1] = 0;
    if (!token) return ERR_OK;
    for (const char *s = token; *s; s++)
        if (*s <= ' ' || *s >= 0x7f)
            return err_set(err, ERR_ARGUMENT,
                           "HF_TOKEN holds a space or another character that no token has");
    Buf header = {0};
    buf_printf(&header, "Authorization: Bearer %s", token);
    j->secret = header.data;
    return buf_ok(&header, err);
}

/* ---- one file ---- */

static ErrCode path_of(char **out, const Job *j, const char *name, Err *err) {
    *out = file_join(j->options->out, name);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a path");
}

/* The folder that a file is to be in. */
static ErrCode make_folder(const char *path, Err *err) {
    char *dir = mem_strdup(path);
    if (!dir) return err_set(err, ERR_MEMORY, "out of memory for a path");
    char *slash = strrchr(dir, '/');
    if (slash) *slash = 0;
    const ErrCode rc = slash && slash > dir ? file_mkdirs(dir, err) : ERR_OK;
    mem_free(dir);
    return rc;
}

/* Whether the file is there already and is what it must be. */
static ErrCode is_there(bool *yes, FetchResult *result, const FetchRule *rule, Err *err) {
    char git_sha1[41];
    *yes = false;
    const bool known = (rule->sha256 && rule->sha256[0]) || (rule->git_sha1 && rule->git_sha1[0]);
    if (!known || !file_exists(rule->path)) return ERR_OK;
    TRY(fetch_digest(&result->size, result->sha256, git_sha1, rule->path, err));
    *yes = rule->sha256 && rule->sha256[0] ? strcmp(rule->sha256, result->sha256) == 0
                                           : strcmp(rule->git_sha1, git_sha1) == 0;
    return ERR_OK;
}

/* One file by `rule` but for what all have in common. */
static ErrCode fetch_one(Job *j, const char *name, FetchRule rule, Err *err) {
    char *path;
    FetchResult result = {0};
    bool there = false;
    TRY(path_of(&path, j, name, err));
    rule.path = path;
    rule.name = name;
    rule.backoff_s = j->options->backoff;
    rule.attempts = (int)j->options->attempts;
    rule.progress = &j->progress;
    rule.done_before = j->done;
    ErrCode rc = make_folder(path, err);
    if (rc == ERR_OK) rc = is_there(&there, &result, &rule, err);
    if (rc == ERR_OK && !there && j->offline)
        rc = err_set(err, ERR_IO, "%s: %s, and HF_HUB_OFFLINE forbids to fetch it", path,
                     file_exists(path) ? "is not what the lock file says" : "is not there");
    if (rc == ERR_OK && !there) rc = fetch_file(&result, j->http, &rule, err);
    if (rc == ERR_OK) rc = lockfile_add(&j->made, name, result.size, result.sha256, err);
    j->kept += there;
    j->received += result.received;
    j->done += result.size;
    mem_free(path);
    return rc;
}

/* ---- a plain URL ---- */

static int hex_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f') return (c | 32) - 'a' + 10;
    return -1;
}

/* The last part of the path of a URL, decoded. */
static ErrCode name_of_url(char **out, const char *url, Err *err) {
    Buf name = {0};
    const char *scheme = strstr(url, "://"), *host = scheme ? scheme + 3 : url;
    const char *end = host + strcspn(host, "?#"), *from = end;
    while (from > host && from[-1] != '/') from--;
    for (const char *s = from; s < end && from > host; s++) {
        const int high = *s == '%' && s + 2 < end ? hex_of(s[1]) : -1, low = high >= 0 ? hex_of(s[2]) : -1;
        const char c = low >= 0 ? (char)(16 * high + low) : *s;
        buf_put(&name, &c, 1);
        if (low >= 0) s += 2;
    }
    ErrCode rc = buf_ok(&name, err);
    if (rc == ERR_OK && (name.len == 0 || strlen(name.data) != name.len || strchr(name.data, '/') ||
                         hub_check_path(name.data, NULL) != ERR_OK))
        rc = err_set(err, ERR_ARGUMENT, "the URL's last part is no name for a file");
    if (rc == ERR_OK)
        *out = name.data;
    else
        buf_free(&name);
    return rc;
}

static ErrCode fetch_url(Job *j, Err *err) {
    char *name = NULL;
    TRY(name_of_url(&name, j->url, err));
    const LockedFile *locked = j->locked ? lockfile_find(&j->given, name) : NULL;
    const char *sha256 = locked ? locked->sha256 : j->options->sha256;
    ErrCode rc = ERR_OK;
    if (j->locked && (!locked || j->given.count != 1))
        rc = err_set(err, ERR_FORMAT, "the lock file holds other files than '%s'", name);
    if (rc == ERR_OK && locked && j->options->sha256 && strcmp(locked->sha256, j->options->sha256) != 0)
        rc = err_set(err, ERR_ARGUMENT, "--sha256 and the lock file differ");
    const FetchRule rule = {.url = j->url, .sha256 = sha256, .size = locked ? (int64_t)locked->size : -1};
    progress_begin(&j->progress, "fetch", locked ? locked->size : 0, 0);
    if (rc == ERR_OK) rc = fetch_one(j, name, rule, err);
    progress_end(&j->progress);
    mem_free(name);
    return rc;
}

/* ---- a hub's folder ---- */

static ErrCode list_files(Job *j, Err *err) {
    Buf url = {0}, text = {0};
    hub_put_api(&url, j->endpoint, &j->repo, j->locked ? j->given.commit : j->repo.revision);
    const FetchRule rule = {.url = url.data,
                            .name = j->url,
                            .secret = j->secret,
                            .token_variable = "HF_TOKEN",
                            .repo = j->repo.id,
                            .backoff_s = j->options->backoff,
                            .attempts = (int)j->options->attempts,
                            .progress = &j->progress};
    ErrCode rc = buf_ok(&url, err);
    if (rc == ERR_OK) rc = fetch_text(&text, j->http, &rule, err);
    if (rc == ERR_OK) {
        rc = hub_listing(&j->listing, text.data ? text.data : "", text.len, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", j->url);
    }
    if (rc == ERR_OK && j->locked && strcmp(j->listing.commit, j->given.commit) != 0)
        rc = err_set(err, ERR_FORMAT, "%s: the server lists commit %s, expected %s", j->url,
                     j->listing.commit, j->given.commit);
    buf_free(&url);
    buf_free(&text);
    return rc;
}

/* Offline, the lock file is the listing. */
static ErrCode list_locked(Job *j, Err *err) {
    memcpy(j->listing.commit, j->given.commit, sizeof j->listing.commit);
    TRY(mem_new(&j->listing.files, j->given.count, sizeof *j->listing.files, "a listing", err));
    for (size_t i = 0; i < j->given.count; i++) {
        HubFile *file = &j->listing.files[j->listing.count++];
        file->size = (int64_t)j->given.files[i].size;
        memcpy(file->sha256, j->given.files[i].sha256, sizeof file->sha256);
        file->path = mem_strdup(j->given.files[i].path);
        if (!file->path) return err_set(err, ERR_MEMORY, "out of memory for a listing");
    }
    return ERR_OK;
}

/* What is wanted of the listing: files[i].path stays, that of others goes to left_out. */
static ErrCode choose_files(Job *j, Err *err) {
    HubListing *l = &j->listing;
    size_t kept = 0;
    bool *wanted;
    TRY(mem_new(&wanted, l->count, sizeof *wanted, "a listing", err));
    for (size_t i = 0; i < l->count; i++)
        wanted[i] = j->locked ? lockfile_find(&j->given, l->files[i].path) != NULL
                              : hub_wanted(l, i, &j->options->include, j->repo.dataset);
    ErrCode rc = ERR_OK;
    for (size_t i = 0; i < l->count; i++) {
        const HubFile file = l->files[i];
        if (wanted[i] && strcmp(file.path, LOCK_NAME) != 0) {
            l->files[kept++] = file;
            if (file.size > 0) j->total += (uint64_t)file.size;
            continue;
        }
        if (rc == ERR_OK) rc = flags_list_add(&j->left_out, file.path, strlen(file.path), err);
        mem_free(file.path);
    }
    l->count = kept;
    mem_free(wanted);
    if (rc == ERR_OK && j->locked && kept != j->given.count)
        return err_set(err, ERR_FORMAT, "%s: the server has %zu of the %zu files of the lock file", j->url,
                       kept, j->given.count);
    if (rc == ERR_OK && kept == 0)
        return err_set(err, ERR_ARGUMENT, "%s: none of its %zu files is wanted by --include", j->url,
                       j->left_out.count);
    return rc;
}

static ErrCode fetch_listed(Job *j, const HubFile *file, Err *err) {
    const LockedFile *locked = j->locked ? lockfile_find(&j->given, file->path) : NULL;
    if (locked && file->sha256[0] && strcmp(file->sha256, locked->sha256) != 0)
        return err_set(err, ERR_FORMAT, "%s: the server says SHA-256 %s, the lock file %s", file->path,
                       file->sha256, locked->sha256);
    if (locked && file->size >= 0 && (uint64_t)file->size != locked->size)
        return err_set(err, ERR_FORMAT, "%s: the server says %lld bytes, the lock file %llu", file->path,
                       (long long)file->size, (unsigned long long)locked->size);
    Buf url = {0};
    hub_put_file(&url, j->endpoint, &j->repo, j->listing.commit, file->path);
    const FetchRule rule = {.url = url.data,
                            .secret = j->secret,
                            .token_variable = "HF_TOKEN",
                            .repo = j->repo.id,
                            .commit = j->listing.commit,
                            .sha256 = locked ? locked->sha256 : file->sha256,
                            .git_sha1 = file->git_sha1,
                            .size = locked ? (int64_t)locked->size : file->size};
    ErrCode rc = buf_ok(&url, err);
    if (rc == ERR_OK) rc = fetch_one(j, file->path, rule, err);
    buf_free(&url);
    return rc;
}

static ErrCode fetch_hub(Job *j, Err *err) {
    progress_begin(&j->progress, "fetch", 0, 0);
    ErrCode rc = j->offline ? list_locked(j, err) : list_files(j, err);
    if (rc == ERR_OK) rc = choose_files(j, err);
    progress_begin(&j->progress, "fetch", j->total, 0);
    for (size_t i = 0; i < j->listing.count && rc == ERR_OK; i++)
        rc = fetch_listed(j, &j->listing.files[i], err);
    progress_end(&j->progress);
    if (rc != ERR_OK) return rc;
    memcpy(j->made.commit, j->listing.commit, sizeof j->made.commit);
    j->made.revision = mem_strdup(j->locked ? j->given.revision : j->repo.revision);
    return j->made.revision ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
}

/* ---- lock files ---- */

/* The lock file that binds: the one that was named, or offline the folder's. */
static ErrCode read_lock(Job *j, Err *err) {
    const char *path = j->options->lock;
    char *own = NULL;
    if (!path && j->offline) {
        TRY(path_of(&own, j, LOCK_NAME, err));
        path = own;
    }
    ErrCode rc = ERR_OK;
    if (path && file_exists(path)) {
        rc = lockfile_read(&j->given, path, err);
        j->locked = rc == ERR_OK;
    }
    const HubRepo *repo = &j->repo;
    const char *asked = j->hub && strchr(j->url, '@') ? repo->revision : NULL;
    if (rc == ERR_OK && j->locked && strcmp(j->given.url, j->made.url) != 0)
        rc = err_set(err, ERR_ARGUMENT, "%s is the lock file of %s, not of %s", path, j->given.url,
                     j->made.url);
    if (rc == ERR_OK && j->locked && j->hub && !j->given.revision)
        rc = err_set(err, ERR_FORMAT, "%s: no revision", path);
    if (rc == ERR_OK && j->locked && asked && strcmp(asked, j->given.revision) != 0 &&
        strcmp(asked, j->given.commit) != 0)
        rc =
            err_set(err, ERR_ARGUMENT, "%s holds revision %s (commit %s), not %s; remove it to fetch another",
                    path, j->given.revision, j->given.commit, asked);
    if (rc == ERR_OK && j->offline && !j->locked)
        rc = err_set(err, ERR_IO, "HF_HUB_OFFLINE forbids to fetch %s, and there is no lock file %s", j->url,
                     path);
    mem_free(own);
    return rc;
}

static ErrCode save_locks(const Job *j, Err *err) {
    char *own;
    TRY(path_of(&own, j, LOCK_NAME, err));
    ErrCode rc = lockfile_save(&j->made, own, err);
    if (rc == ERR_OK && j->options->lock && !j->locked) rc = lockfile_save(&j->made, j->options->lock, err);
    mem_free(own);
    return rc;
}

/* ---- report ---- */

static void put_report(Buf *out, const Job *j) {
    const size_t n = j->made.count;
    buf_printf(out, "%s: %zu file%s of %s", j->options->out, n, n == 1 ? "" : "s", j->made.url);
    if (j->made.revision) buf_printf(out, " at %s (%.12s)", j->made.revision, j->made.commit);
    buf_printf(out, ", %.1f MB", 1e-6 * (double)j->done);
    if (j->kept) buf_printf(out, "; %llu were there already", (unsigned long long)j->kept);
    buf_puts(out, "\n");
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "  %s  %12llu  %s\n", j->made.files[i].sha256,
                   (unsigned long long)j->made.files[i].size, j->made.files[i].path);
    if (j->left_out.count && !j->locked) buf_puts(out, "  left out:");
    for (size_t i = 0; i < j->left_out.count && !j->locked; i++)
        buf_printf(out, "%s %s", i ? "," : "", j->left_out.items[i]);
    if (j->left_out.count && !j->locked) buf_puts(out, " (--include '*' takes all)\n");
}

static void put_json(Buf *out, const Job *j) {
    buf_puts(out, "{\"out\":");
    text_put_json(out, j->options->out, strlen(j->options->out));
    buf_puts(out, ",\"url\":");
    text_put_json(out, j->made.url, strlen(j->made.url));
    if (j->made.revision) {
        buf_puts(out, ",\"revision\":");
        text_put_json(out, j->made.revision, strlen(j->made.revision));
        buf_printf(out, ",\"commit\":\"%s\"", j->made.commit);
    }
    buf_printf(out, ",\"bytes\":%llu,\"received\":%llu,\"kept\":%llu,\"files\":[",
               (unsigned long long)j->done, (unsigned long long)j->received, (unsigned long long)j->kept);
    for (size_t i = 0; i < j->made.count; i++) {
        buf_puts(out, i ? ",{\"path\":" : "{\"path\":");
        text_put_json(out, j->made.files[i].path, strlen(j->made.files[i].path));
        buf_printf(out, ",\"size\":%llu,\"sha256\":\"%s\"}", (unsigned long long)j->made.files[i].size,
                   j->made.files[i].sha256);
    }
    buf_puts(out, "],\"left_out\":[");
    for (size_t i = 0; i < j->left_out.count && !j->locked; i++) {
        if (i) buf_puts(out, ",");
        text_put_json(out, j->left_out.items[i], strlen(j->left_out.items[i]));
    }
    buf_puts(out, "]}\n");
}

static ErrCode report(const Job *j, FILE *out, Err *err) {
    Buf text = {0};
    if (j->options->json)
        put_json(&text, j);
    else
        put_report(&text, j);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

/* ---- the command ---- */

/* What is to be fetched, and the name that lock files have for it. */
static ErrCode read_url(Job *j, Err *err) {
    j->hub = strncmp(j->url, "hf:", 3) == 0;
    const bool http = strncmp(j->url, "http://", 7) == 0 || strncmp(j->url, "https://", 8) == 0;
    const char *sha256 = j->options->sha256;
    if (!j->hub && !http) {
        char shown[128];
        text_excerpt(shown, 120, j->url, strlen(j->url));
        return err_set(err, ERR_ARGUMENT,
                       "found '%s', expected http://..., https://..., hf:ORG/NAME or "
                       "hf:datasets/ORG/NAME",
                       shown);
    }
    if (sha256 && (j->hub || !hub_is_hex(sha256, 64)))
        return err_set(err, ERR_ARGUMENT,
                       "--sha256: expected 64 hexadecimal digits (0-9a-f), of the file of a URL");
    if (!j->hub && j->options->include.count)
        return err_set(err, ERR_ARGUMENT, "--include is for folders of a hub");
    if (j->hub) TRY(hub_parse(&j->repo, j->url, err));
    j->made.url = mem_strndup(j->url, j->hub ? strcspn(j->url, "@") : strlen(j->url));
    return j->made.url ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory");
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Job j = {.options = options, .url = arguments->items[0]};
    ErrCode rc = read_url(&j, err);
    if (rc == ERR_OK) rc = read_environment(&j, err);
    if (rc == ERR_OK) rc = read_lock(&j, err);
    if (rc == ERR_OK) rc = file_mkdirs(j.options->out, err);
    if (rc == ERR_OK) rc = http_open(&j.http, 1, err);
    if (rc == ERR_OK) rc = j.hub ? fetch_hub(&j, err) : fetch_url(&j, err);
    if (rc == ERR_OK) rc = save_locks(&j, err);
    if (rc == ERR_OK) rc = report(&j, out, err);
    http_close(j.http);
    hub_repo_free(&j.repo);
    hub_listing_free(&j.listing);
    lockfile_free(&j.given);
    lockfile_free(&j.made);
    flags_list_free(&j.left_out);
    mem_free(j.endpoint);
    mem_free(j.secret);
    return rc;
}

const Command fetch_cmd = {
    .name = "fetch",
    .summary = "a model, a data set or a file from the network, resumed and checked",
    .usage = "fetch URL|hf:[datasets/]ORG/NAME[@REVISION] [--out DIR]",
    .details =
        "Interrupted downloads go on where they ended. A file gets its name only when its size and digest "
        "(SHA-256, or\n"
        "git's SHA-1 for a hub's small files) are right. DIR/fetch.lock.json records the commit, sizes and "
        "SHA-256 of what\n"
        "was fetched; --lock FILE with such a file fetches exactly the same again, or fails.\n\n"
        "Environment:\n"
        "  HF_ENDPOINT     the hub [default: https://huggingface.co]\n"
        "  HF_TOKEN        a token for private and gated repositories; sent to the hub alone, never printed\n"
        "  HF_HUB_OFFLINE  1: the network is not used; what is in DIR is checked against its lock file\n"
        "  https_proxy     as for curl\n\n"
        "Examples:\n"
        "  router fetch hf:microsoft/deberta-v3-small --out models/deberta-v3-small\n"
        "  router fetch hf:datasets/openai/gsm8k@main --include '*.jsonl' --out data/gsm8k --lock "
        "gsm8k.lock.json\n"
        "  router fetch https://example.org/data_full.json --sha256 9f86d081... --out data\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(FetchOptions),
    .positional_min = 1,
    .positional_max = 1,
    .takes_config = false,
    .run = run,
};
