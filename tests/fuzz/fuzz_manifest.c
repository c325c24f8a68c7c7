/* tests/fuzz/fuzz_manifest.c - any bytes as a manifest, and as the members of an object. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "data/manifest.h"
#include "data/members.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void check_source(const ManifestSource *s, const cJSON *tree) {
    require(s->files.paths.count > 0);
    for (size_t i = 0; i < s->files.paths.count; i++) require(s->files.paths.items[i][0] != 0);
    require(s->weight > 0 && s->weight <= 1000 && s->cap >= 1 && s->min_chars <= s->max_chars);
    require(!(s->label && s->label_map) && (unsigned)s->split <= SPLIT_COUNT);
    const char *label = NULL;
    if (manifest_label(&label, s, "x", NULL) == ERR_OK && s->label) require(label == s->label);
    (void)manifest_wants(s, tree);
}

/* Members of text that parses are those of the tree; of other bytes they lie within. */
static void check_members(const char *text, size_t size) {
    cJSON *tree = NULL;
    const int parses = json_parse(&tree, text, size, NULL) == ERR_OK && cJSON_IsObject(tree);
    Members m;
    Member one;
    size_t before = 0;
    members_open(&m, text, size);
    while (members_next(&m, &one)) {
        require(one.key >= before && one.key < one.key_end && one.key_end < one.value &&
                one.value < one.end && one.end <= size && text[one.key] == '"');
        before = one.end;
    }
    require(m.tail <= size);
    if (parses) require(m.count == (size_t)cJSON_GetArraySize(tree));
    cJSON_Delete(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    Manifest m;
    Err err = {0};
    const ErrCode rc = manifest_parse(&m, "some/mix.json", text, size, &err);
    if (rc == ERR_OK) {
        require(m.source_count > 0 && m.source_count <= MANIFEST_SOURCES);
        require((m.near <= 0 || m.near >= 0.5) && m.near <= 1 && isfinite(m.temperature) &&
                m.temperature > 0);
        for (size_t i = 0; i < m.source_count; i++) check_source(&m.sources[i], m.tree);
    } else {
        require(rc == ERR_FORMAT && strncmp(err.msg, "some/mix.json: ", 15) == 0);
    }
    manifest_free(&m);
    check_members(text, size);
    return 0;
}
