/* tests/fuzz/fuzz_import.c - any bytes as a published data set: the first byte chooses the format (and whether wrappers are kept),
 * each element of the rest goes through it. What comes out must be a row that data/record.h reads. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "data/elements.h"
#include "data/import.h"
#include "data/import_row.h"
#include "data/record.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static void check_row(const Buf *line) {
    Record record = {0};
    Err err = {0};
    require(!memchr(line->data, '\n', line->len) && text_utf8_prefix(line->data, line->len) == line->len);
    require(record_parse(&record, &(RecordRule){NULL, NULL, true}, line->data, line->len, &err) == ERR_OK);
    require(record.source != NULL && record.id != NULL);
    record_free(&record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    static char keep_name[] = "a";
    char *keep_names[] = {keep_name};
    const FlagList keep = {keep_names, 1};
    const ImportFormat *format = import_find(import_name_at((data[0] & 0x7f) % IMPORT_FORMAT_COUNT));
    const ImportRule rule = {.keep_wrappers = data[0] >> 7, .all_turns = data[0] >> 7, .keep = &keep};
    const char *path = scratch_file(data + 1, size - 1);
    const ImportFormat *guessed;
    Elements *elements;
    Err err = {0};
    ErrCode rc = import_guess(&guessed, path, data[0] & 1 ? "x.csv" : "x.json", (CsvRule){0}, &err);
    require(rc == ERR_OK ? guessed != NULL : rc == ERR_FORMAT && err.msg[0]);
    rc = elements_open(&elements, path, format->members, &err);
    if (rc != ERR_OK) {
        require(rc == ERR_FORMAT);
        return 0;
    }
    Buf line = {0};
    for (uint64_t i = 0; i < 2000; i++) {
        Element e;
        bool more;
        rc = elements_next(elements, &e, &more, &err);
        require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
        if (rc != ERR_OK || !more) break;
        require(e.n > 0 && e.index == i && e.line >= 1);
        buf_clear(&line);
        rc = import_element(&line, format, &rule, e.json, e.n, e.key, &err);
        require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
        if (rc == ERR_OK && line.len) check_row(&line);
    }
    buf_free(&line);
    elements_close(elements);
    return 0;
}
