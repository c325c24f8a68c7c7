/* tests/fuzz/fuzz_json.c - any bytes as JSON. What is accepted is UTF-8 and shallow, and its strings are
 * UTF-8. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void walk(cJSON *item, int depth) {
    require(depth <= JSON_DEPTH_MAX);
    if (cJSON_IsString(item)) {
        size_t n;
        const char *s = json_text(item, &n);
        require(text_utf8_prefix(s, n) == n && s[n] == 0);
    }
    for (cJSON *child = item->child; child; child = child->next) walk(child, depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *tree;
    Err err = {0};
    const char *text = (const char *)data;
    const ErrCode rc = json_parse(&tree, text, size, &err);
    if (rc != ERR_OK) {
        require(!tree && rc == ERR_FORMAT && err.msg[0]);
        return 0;
    }
    require(tree && text_utf8_prefix(text, size) == size);
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    require(json_get_int(&i, tree, "a", -5, 5, &err) == ERR_OK || err.code == ERR_FORMAT);
    require(i >= -5 && i <= 5);
    require(json_get_double(&d, tree, "a", -0.5, 0.5, &err) == ERR_OK || err.code == ERR_FORMAT);
    require(d >= -0.5 && d <= 0.5);
    require(json_get_bool(&b, tree, "a", &err) == ERR_OK || err.code == ERR_FORMAT);
    require(json_get_string(&s, tree, "a", &err) == ERR_OK || err.code == ERR_FORMAT);
    walk(tree, 0);
    cJSON_Delete(tree);
    return 0;
}
