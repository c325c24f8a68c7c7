#include "data/hub.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

bool hub_is_hex(const char *s, size_t digits) {
    return strlen(s) == digits && strspn(s, "0123456789abcdef") == digits;
}

/* ---- names ---- */

static bool is_name(const char *s, size_t n) {
    if (n == 0 || n > 96 || s[0] == '.' || s[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        const char c = s[i];
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '-' && c != '_' && c != '.') return false;
        if (c == '.' && i + 1 < n && s[i + 1] == '.') return false;
    }
    return true;
}

static bool is_revision(const char *s) {
    const size_t n = strlen(s);
    if (n == 0 || n > 256 || strstr(s, "..") || s[0] == '/') return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f || strchr("\\?#%~^:*[", s[i])) return false;
    return true;
}

ErrCode hub_parse(HubRepo *repo, const char *spec, Err *err) {
    *repo = (HubRepo){0};
    char shown[128];
    text_excerpt(shown, 120, spec, strlen(spec));
    const char *s = strncmp(spec, "hf:", 3) == 0 ? spec + 3 : spec;
    repo->dataset = strncmp(s, "datasets/", 9) == 0;
    if (repo->dataset) s += 9;
    const size_t n = strcspn(s, "@"), owner = strcspn(s, "/@");
    const char *revision = s[n] ? s + n + 1 : "main";
    const bool good = owner == n ? is_name(s, n) : is_name(s, owner) && is_name(s + owner + 1, n - owner - 1);
    if (s == spec || !good)
        return err_set(err, ERR_ARGUMENT, "found '%s', expected hf:ORG/NAME or hf:datasets/ORG/NAME", shown);
    if (!is_revision(revision))
        return err_set(err, ERR_ARGUMENT, "found '%s', expected a branch, tag or commit behind '@'", shown);
    repo->id = mem_strndup(s, n);
    repo->revision = mem_strdup(revision);
    if (repo->id && repo->revision) return ERR_OK;
    hub_repo_free(repo);
    return err_set(err, ERR_MEMORY, "out of memory for a name");
}

void hub_repo_free(HubRepo *repo) {
    mem_free(repo->id);
    mem_free(repo->revision);
    *repo = (HubRepo){0};
}

/* Percent-encoded but for what needs it not; slashes too where they are no part of the path. */
static void put_encoded(Buf *out, const char *s, bool slashes) {
    for (; *s; s++) {
        const char c = *s;
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                           (c && strchr("-_.~", c)) || (c == '/' && !slashes);
        if (plain)
            buf_put(out, s, 1);
        else
            buf_printf(out, "%%%02X", (unsigned)(unsigned char)c);
    }
}

void hub_put_api(Buf *out, const char *endpoint, const HubRepo *repo, const char *revision) {
    buf_printf(out, "%s/api/%s/%s/revision/", endpoint, repo->dataset ? "datasets" : "models", repo->id);
    put_encoded(out, revision, true);
    buf_puts(out, "?blobs=true");
}

void hub_put_file(Buf *out, const char *endpoint, const HubRepo *repo, const char *commit, const char *path) {
    buf_printf(out, "%s/%s%s/resolve/%s/", endpoint, repo->dataset ? "datasets/" : "", repo->id, commit);
    put_encoded(out, path, false);
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

ErrCode hub_check_path(const char *path, Err *err) {
    const size_t n = strlen(path);
    const char *bad = NULL;
    int depth = 0;
    if (n == 0 || n > HUB_PATH_MAX) bad = "its length";
    if (!bad && text_utf8_prefix(path, n) != n) bad = "not UTF-8";
    for (size_t i = 0; i < n && !bad; i++)
        if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f || path[i] == '\\')
            bad = "a control character or backslash";
    for (const char *s = path; !bad; s++) {
        const size_t part = strcspn(s, "/");
        if (part == 0 || part > 255 || (part == 1 && s[0] == '.') ||
            (part == 2 && s[0] == '.' && s[1] == '.'))
            bad = "a part that is empty, a dot or two, or too long";
        if (++depth > HUB_DEPTH_MAX) bad = "too many folders";
        s += part;
        if (!*s) break;
    }
    if (!bad && (ends_with(path, ".part") || ends_with(path, ".part.etag")))
        bad = "a name of unfinished downloads";
    if (!bad) return ERR_OK;
    char shown[128];
    text_excerpt(shown, 120, path, n);
    return err_set(err, ERR_FORMAT, "the server names a file '%s', which is refused: %s", shown, bad);
}

/* ---- listing ---- */

static int by_path(const void *a, const void *b) {
    return strcmp(((const HubFile *)a)->path, ((const HubFile *)b)->path);
}

static ErrCode read_size(int64_t *out, const cJSON *object, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, "size");
    return !item || cJSON_IsNull(item) ? ERR_OK : json_get_int(out, object, "size", 0, (int64_t)1 << 53, err);
}

static ErrCode read_digest(char *out, size_t digits, const cJSON *object, const char *key, Err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item || cJSON_IsNull(item)) return ERR_OK;
    if (!cJSON_IsString(item) || !hub_is_hex(item->valuestring, digits))
        return err_set(err, ERR_FORMAT, "%s: expected %zu hexadecimal digits", key, digits);
    memcpy(out, item->valuestring, digits + 1);
    return ERR_OK;
}

static ErrCode read_file(HubFile *file, const cJSON *item, Err *err) {
    const char *path = NULL;
    file->size = -1;
    if (!cJSON_IsObject(item)) return err_set(err, ERR_FORMAT, "siblings: expected objects with rfilename");
    TRY(json_get_string(&path, item, "rfilename", err));
    if (!path) return err_set(err, ERR_FORMAT, "siblings: one has no rfilename");
    TRY(hub_check_path(path, err));
    file->path = mem_strdup(path);
    if (!file->path) return err_set(err, ERR_MEMORY, "out of memory for a listing");
    TRY(read_size(&file->size, item, err));
    TRY(read_digest(file->git_sha1, 40, item, "blobId", err));
    const cJSON *lfs = cJSON_GetObjectItemCaseSensitive(item, "lfs");
    if (!cJSON_IsObject(lfs)) return ERR_OK;
    file->git_sha1[0] = 0; /* it is that of the pointer */
    TRY(read_size(&file->size, lfs, err));
    return read_digest(file->sha256, 64, lfs, "sha256", err);
}

static ErrCode read_listing(HubListing *out, const cJSON *json, Err *err) {
    const cJSON *siblings = cJSON_GetObjectItemCaseSensitive(json, "siblings"), *item;
    TRY(read_digest(out->commit, 40, json, "sha", err));
    if (!cJSON_IsObject(json) || !out->commit[0] || !cJSON_IsArray(siblings))
        return err_set(err, ERR_FORMAT, "the answer is no listing: expected an object with sha and siblings");
    const size_t count = (size_t)cJSON_GetArraySize(siblings);
    if (count == 0 || count > HUB_FILES_MAX)
        return err_set(err, ERR_FORMAT, "the listing has %zu files, expected 1 to %d", count, HUB_FILES_MAX);
    TRY(mem_new(&out->files, count, sizeof *out->files, "a listing", err));
    cJSON_ArrayForEach(item, siblings) TRY(read_file(&out->files[out->count++], item, err));
    qsort(out->files, out->count, sizeof *out->files, by_path);
    for (size_t i = 1; i < out->count; i++)
        if (strcmp(out->files[i - 1].path, out->files[i].path) == 0)
            return err_set(err, ERR_FORMAT, "the listing names '%.200s' twice", out->files[i].path);
    return ERR_OK;
}

ErrCode hub_listing(HubListing *out, const char *text, size_t n, Err *err) {
    *out = (HubListing){0};
    cJSON *json;
    TRY(json_parse(&json, text, n, err));
    const ErrCode rc = read_listing(out, json, err);
    cJSON_Delete(json);
    if (rc != ERR_OK) hub_listing_free(out);
    return rc;
}

void hub_listing_free(HubListing *l) {
    for (size_t i = 0; i < l->count; i++) mem_free(l->files[i].path);
    mem_free(l->files);
    *l = (HubListing){0};
}

/* ---- what is wanted ---- */

enum { SAFETENSORS, PYTORCH, OTHER_WEIGHTS, NO_WEIGHTS };

static int kind_of(const char *path) {
    static const char *const OTHERS[] = {".msgpack", ".h5", ".ot",     ".onnx",   ".onnx_data",
                                         ".gguf",    ".pb", ".tflite", ".mlmodel"};
    static const char *const FOLDERS[] = {"onnx/", "openvino/", "coreml/"};
    if (ends_with(path, ".safetensors") || ends_with(path, ".safetensors.index.json")) return SAFETENSORS;
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        if (strncmp(path, FOLDERS[i], strlen(FOLDERS[i])) == 0) return OTHER_WEIGHTS;
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS; i++)
        if (ends_with(path, OTHERS[i])) return OTHER_WEIGHTS;
    const bool torch = ends_with(path, ".bin") || ends_with(path, ".bin.index.json") ||
                       ends_with(path, ".pt") || ends_with(path, ".pth");
    return torch ? PYTORCH : NO_WEIGHTS;
}

bool hub_wanted(const HubListing *l, size_t file, const FlagList *include, bool dataset) {
    const char *path = l->files[file].path;
    for (size_t i = 0; include && i < include->count; i++)
        if (fnmatch(include->items[i], path, 0) == 0) return true;
    if (include && include->count) return false;
    const int kind = kind_of(path);
    if (dataset || kind == NO_WEIGHTS) return true;
    int best = NO_WEIGHTS;
    for (size_t i = 0; i < l->count; i++) {
        const int other = kind_of(l->files[i].path);
        best = other < best ? other : best;
    }
    return kind == best;
}
