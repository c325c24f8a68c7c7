/* tests/fuzz/fuzz_config.c - any bytes as config.json: refused, or written and read back to the same. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/json.h"
#include "model/config.h"

static void check_taxonomy(const Config *c, const Config *back) {
    const Taxonomy *t = &c->taxonomy, *u = &back->taxonomy;
    assert(t->count == c->num_labels && u->count == t->count);
    assert((t->revision >= 1 || t->count == 0) && u->revision == t->revision &&
           strcmp(u->parent, t->parent) == 0);
    assert((t->revision > 1) == (strlen(t->parent) == 64) && (t->revision > 1 || !t->parent[0]));
    assert(t->count < 2 || taxonomy_active(t) >= 2);
    for (int i = 0; i < t->count; i++) {
        const TaxonomyLabel *a = &t->labels[i], *b = &u->labels[i];
        assert(a->since >= 1 && a->since <= t->revision && a->since == b->since && a->retired == b->retired);
        assert(!a->description == !b->description && a->former_count == b->former_count);
        assert(!a->description || strcmp(a->description, b->description) == 0);
        for (int k = 0; k < a->former_count; k++) assert(strcmp(a->former[k], b->former[k]) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Err err = {0};
    cJSON *root = NULL, *again = NULL;
    Config c = {0}, back = {0};
    if (json_parse(&root, (const char *)data, size, &err) == ERR_OK &&
        config_parse(&c, root, &err) == ERR_OK && config_json(&again, &c, &err) == ERR_OK) {
        const ErrCode rc = config_parse(&back, again, &err);
        assert(rc == ERR_OK);
        assert(back.num_labels == c.num_labels && back.hidden_size == c.hidden_size);
        assert(back.max_relative_positions == c.max_relative_positions);
        for (int i = 0; i < c.num_labels; i++) assert(strcmp(back.labels[i], c.labels[i]) == 0);
        check_taxonomy(&c, &back);
        (void)rc;
    } else {
        assert(err.msg[0]);
    }
    config_free(&c);
    config_free(&back);
    cJSON_Delete(root);
    cJSON_Delete(again);
    return 0;
}
