/* tests/fuzz/fuzz_hub.c - any bytes as a hub's answer, as the name of a repository, and as a lock file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/hub.h"
#include "data/lockfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void check_path(const char *path) {
    require(path[0] && path[0] != '/' && strlen(path) <= HUB_PATH_MAX && !strchr(path, '\\'));
    for (const char *s = path; *s;) { /* no part may lead up */
        const size_t n = strcspn(s, "/");
        require(n > 0 && !(n == 1 && s[0] == '.') && !(n == 2 && s[0] == '.' && s[1] == '.'));
        s += n + (s[n] == '/');
    }
}

static void try_name(const uint8_t *data, size_t size) {
    char spec[512];
    HubRepo repo;
    if (size >= sizeof spec) return;
    memcpy(spec, data, size);
    spec[size] = 0;
    if (hub_parse(&repo, spec, NULL) != ERR_OK) return;
    Buf url = {0};
    hub_put_api(&url, "https://h", &repo, repo.revision);
    hub_put_file(&url, "https://h", &repo, "c", "a b");
    require(!strstr(url.data, "..") && !strchr(url.data, ' ') && !strchr(url.data, '\n'));
    buf_free(&url);
    hub_repo_free(&repo);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    HubListing listing;
    Lockfile lock;
    Err err = {0};
    if (hub_listing(&listing, (const char *)data, size, &err) == ERR_OK) {
        require(listing.count > 0 && hub_is_hex(listing.commit, 40));
        size_t wanted = 0;
        for (size_t i = 0; i < listing.count; i++) {
            check_path(listing.files[i].path);
            require(listing.files[i].size >= -1);
            wanted += hub_wanted(&listing, i, NULL, false);
        }
        require(wanted > 0);
        hub_listing_free(&listing);
    } else {
        require(err.code == ERR_FORMAT && err.msg[0]);
    }
    if (lockfile_parse(&lock, (const char *)data, size, &err) == ERR_OK) {
        for (size_t i = 0; i < lock.count; i++) check_path(lock.files[i].path);
        lockfile_free(&lock);
    }
    try_name(data, size);
    return 0;
}
