/* tests/fuzz/fuzz_predictions.c - any bytes as a file of predictions: refused with a message, or probabilities that add
 * up, which are then matched with two rows. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/predictions.h"
#include "tests/scratch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char bytes[] = "text\0a\0b";
    static Row items[] = {{.text_len = 4, .id_at = 5}, {.text_len = 4, .id_at = 7}};
    const Rows rows = {.items = items, .count = 2, .bytes = {.data = bytes, .len = sizeof bytes}};
    const char *path = scratch_file(data, size);
    Predictions p = {0};
    Err err = {0};
    bool is;
    const ErrCode rc = predictions_read(&p, path, &err);
    if (rc != ERR_OK) {
        require(rc == ERR_FORMAT && err.msg[0] && !p.items && !p.p);
        return 0;
    }
    const size_t K = p.labels.count;
    require(p.count > 0 && K >= 2);
    require(predictions_recognise(&is, path, &err) == ERR_OK && is);
    for (size_t i = 0; i < p.count; i++) {
        double sum = 0;
        for (size_t k = 0; k < K; k++) sum += p.p[i * K + k];
        require(fabs(sum - 1) <= PREDICTIONS_SUM + 2e-5);
        if (p.items[i].id_at != SIZE_MAX) require(p.items[i].id_at < p.bytes.len);
    }
    size_t at[2];
    if (predictions_match(at, &p, &rows, &err) == ERR_OK)
        require(at[0] < p.count && at[1] < p.count && at[0] != at[1]);
    else
        require(err.msg[0] != 0);
    predictions_free(&p);
    return 0;
}
