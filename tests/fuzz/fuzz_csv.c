/* tests/fuzz/fuzz_csv.c - any bytes as a table: its first byte chooses the separator and whether quotes count. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/csv.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char SEPARATORS[] = {0, ',', '\t', ';'};
    const uint8_t way = size ? data[0] : 0;
    const CsvRule rule = {SEPARATORS[way & 3], (way & 4) != 0};
    Csv *csv;
    CsvFields fields = {0};
    Err err = {0};
    ErrCode rc = csv_open(&csv, scratch_file(size ? data + 1 : data, size ? size - 1 : 0), rule, &err);
    if (rc != ERR_OK) {
        require(rc == ERR_FORMAT); /* a damaged compressed stream */
        return 0;
    }
    uint64_t last = 0;
    size_t total = 0;
    while (total < (size_t)4 << 20) { /* a few compressed bytes can stand for very many records */
        const char *record;
        size_t n;
        uint64_t line;
        bool more;
        rc = csv_next(csv, &record, &n, &line, &more, &err);
        require(rc == ERR_OK || (rc == ERR_FORMAT && err.msg[0]));
        if (rc != ERR_OK || !more) break;
        require(n > 0 && line > last);
        last = line;
        total += n;
        rc = csv_split(&fields, record, n, csv_rule(csv), &err);
        require(rc == ERR_OK || rc == ERR_FORMAT);
        if (rc != ERR_OK) continue;
        require(fields.count >= 1 && fields.at[0] == 0 && fields.at[fields.count] == fields.bytes.len);
        for (size_t i = 0; i < fields.count; i++) require(fields.at[i] <= fields.at[i + 1]);
    }
    csv_free(&fields);
    csv_close(csv);
    return 0;
}
