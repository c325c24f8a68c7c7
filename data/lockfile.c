#include "data/lockfile.h"

#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/hub.h"

static const char FORMAT[] = "router-lock-1";

static ErrCode copy_string(char **out, const char *s, Err *err) {
    *out = mem_strdup(s);
    return *out ? ERR_OK : err_set(err, ERR_MEMORY, "out of memory for a lock file");
}

ErrCode lockfile_add(Lockfile *lock, const char *path, uint64_t size, const char *sha256, Err *err) {
    LockedFile *files = mem_resize(lock->files, lock->count + 1, sizeof *files);
    if (!files) return err_set(err, ERR_MEMORY, "out of memory for a lock file");
    lock->files = files;
    LockedFile *file = &files[lock->count];
    *file = (LockedFile){.size = size};
    memcpy(file->sha256, sha256, 65);
    TRY(copy_string(&file->path, path, err));
    lock->count++;
    return ERR_OK;
}

const LockedFile *lockfile_find(const Lockfile *lock, const char *path) {
    for (size_t i = 0; i < lock->count; i++)
        if (strcmp(lock->files[i].path, path) == 0) return &lock->files[i];
    return NULL;
}

static ErrCode read_file(Lockfile *out, const cJSON *item, Err *err) {
    const char *path = NULL, *sha256 = NULL;
    int64_t size = -1;
    if (!cJSON_IsObject(item)) return err_set(err, ERR_FORMAT, "files: expected objects");
    TRY(json_get_string(&path, item, "path", err));
    TRY(json_get_string(&sha256, item, "sha256", err));
    TRY(json_get_int(&size, item, "size", 0, (int64_t)1 << 53, err));
    if (!path || !sha256 || size < 0 || !hub_is_hex(sha256, 64))
        return err_set(err, ERR_FORMAT, "files: expected a path, a size and a sha256 of 64 digits");
    TRY(hub_check_path(path, err));
    if (lockfile_find(out, path)) return err_set(err, ERR_FORMAT, "files: '%.200s' is there twice", path);
    return lockfile_add(out, path, (uint64_t)size, sha256, err);
}

static ErrCode read_lock(Lockfile *out, const cJSON *json, Err *err) {
    const char *format = NULL, *url = NULL, *revision = NULL, *commit = NULL;
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(json, "files"), *item;
    if (!cJSON_IsObject(json)) return err_set(err, ERR_FORMAT, "no lock file: expected an object");
    TRY(json_get_string(&format, json, "format", err));
    TRY(json_get_string(&url, json, "url", err));
    TRY(json_get_string(&revision, json, "revision", err));
    TRY(json_get_string(&commit, json, "commit", err));
    if (!format || strcmp(format, FORMAT) != 0)
        return err_set(err, ERR_FORMAT, "no lock file: expected \"format\": \"%s\"", FORMAT);
    if (!url || !cJSON_IsArray(files) || cJSON_GetArraySize(files) == 0 ||
        cJSON_GetArraySize(files) > HUB_FILES_MAX)
        return err_set(err, ERR_FORMAT, "no lock file: expected url and files");
    if (!revision != !commit || (commit && !hub_is_hex(commit, 40)))
        return err_set(err, ERR_FORMAT, "commit: expected 40 hexadecimal digits, and a revision");
    TRY(copy_string(&out->url, url, err));
    if (revision) TRY(copy_string(&out->revision, revision, err));
    if (commit) memcpy(out->commit, commit, 41);
    cJSON_ArrayForEach(item, files) TRY(read_file(out, item, err));
    return ERR_OK;
}

ErrCode lockfile_parse(Lockfile *out, const char *text, size_t n, Err *err) {
    *out = (Lockfile){0};
    cJSON *json;
    TRY(json_parse(&json, text, n, err));
    const ErrCode rc = read_lock(out, json, err);
    cJSON_Delete(json);
    if (rc != ERR_OK) lockfile_free(out);
    return rc;
}

ErrCode lockfile_read(Lockfile *out, const char *path, Err *err) {
    *out = (Lockfile){0};
    Buf text = {0};
    ErrCode rc = file_read(&text, path, JSON_FILE_MAX, err);
    if (rc == ERR_OK) {
        rc = lockfile_parse(out, text.data ? text.data : "", text.len, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    buf_free(&text);
    return rc;
}

static void put_member(Buf *out, const char *key, const char *value) {
    buf_printf(out, ",\n  \"%s\": ", key);
    text_put_json(out, value, strlen(value));
}

ErrCode lockfile_save(const Lockfile *lock, const char *path, Err *err) {
    Buf text = {0};
    buf_printf(&text, "{\n  \"format\": \"%s\"", FORMAT);
    put_member(&text, "url", lock->url);
    if (lock->revision) put_member(&text, "revision", lock->revision);
    if (lock->revision) put_member(&text, "commit", lock->commit);
    buf_puts(&text, ",\n  \"files\": [");
    for (size_t i = 0; i < lock->count; i++) {
        buf_printf(&text, "%s\n    {\"path\": ", i ? "," : "");
        text_put_json(&text, lock->files[i].path, strlen(lock->files[i].path));
        buf_printf(&text, ", \"size\": %llu, \"sha256\": \"%s\"}", (unsigned long long)lock->files[i].size,
                   lock->files[i].sha256);
    }
    buf_puts(&text, "\n  ]\n}\n");
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) rc = file_save(path, text.data, text.len, err);
    buf_free(&text);
    return rc;
}

void lockfile_free(Lockfile *lock) {
    for (size_t i = 0; i < lock->count; i++) mem_free(lock->files[i].path);
    mem_free(lock->files);
    mem_free(lock->url);
    mem_free(lock->revision);
    *lock = (Lockfile){0};
}
