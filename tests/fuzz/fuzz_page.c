/* tests/fuzz/fuzz_page.c - any JSON as a report of another set in a page, and as figures of others beside a label map. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/text.h"
#include "eval/page.h"
#include "eval/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void check_context(const cJSON *context) {
    Err err = {0};
    if (report_context_check(context, &err) != ERR_OK) {
        require(err.code == ERR_FORMAT && err.msg[0]);
        return;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, context) {
        ReportContext c;
        report_context(&c, item);
        require(c.what && c.source && c.accuracy.value >= 0 && c.accuracy.value <= 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *tree;
    Err err = {0};
    Buf page = {0};
    if (json_parse(&tree, (const char *)data, size, &err) != ERR_OK) return 0;
    check_context(tree);
    if (page_check(tree, &err) == ERR_OK) {
        page_put(&page, tree);
        require(buf_ok(&page, &err) == ERR_OK);
        require(strlen(page.data) == page.len && text_utf8_prefix(page.data, page.len) == page.len);
        require(!strstr(page.data, "<script"));
    }
    buf_free(&page);
    cJSON_Delete(tree);
    return 0;
}
