/* tests/fuzz/fuzz_record.c - any bytes as a line of JSONL, read by each kind of rule. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/record.h"
#include "data/split.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void check_name(const char *name) {
    if (name) require(text_utf8_prefix(name, strlen(name)) == strlen(name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const RecordRule RULES[] = {{NULL, NULL, false}, {"prompt", "a", true}, {"a", "a", false}};
    Record record = {0};
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++) {
        Err err = {0};
        const ErrCode rc = record_parse(&record, &RULES[i], (const char *)data, size, &err);
        if (rc != ERR_OK) {
            require(rc == ERR_FORMAT && err.msg[0] && !record.tree);
            continue;
        }
        require(record.text_len > 0 && record.text_len <= RECORD_TEXT_MAX &&
                record.text[record.text_len] == 0);
        require(text_utf8_prefix(record.text, record.text_len) == record.text_len);
        require(record.label ? record.label[0] && strlen(record.label) <= RECORD_NAME_MAX
                             : RULES[i].label_optional);
        check_name(record.label);
        check_name(record.split);
        check_name(record.source);
        check_name(record.id);
        (void)split_text_key(record.text, record.text_len);
    }
    record_free(&record);
    return 0;
}
