/* tests/fuzz/fuzz_doctor.c - any bytes as a corpus, and as a benchmark of itself: the whole audit and its reports. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/doctor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds) {
    if (!holds) abort();
}

static char path[64];

static void remove_file(void) {
    (void)unlink(path);
}

static void check(const Inputs *inputs, const Inputs *against) {
    Err err = {0};
    Buf text = {0}, json = {0};
    Doctor *d;
    const DoctorRule rule = {.inputs = inputs,
                             .against = against,
                             .threshold = 0.7,
                             .characters_max = 50,
                             .list = 4,
                             .sample_rows = 20,
                             .suspects = !against, /* once is enough: it takes most of the time */
                             .seed = 1};
    const ErrCode rc = doctor_run(&d, &rule, &err);
    if (rc != ERR_OK) { /* a line that is no row, as a benchmark; bytes that look compressed and are not */
        require(rc == ERR_FORMAT && err.msg[0] && !d);
        return;
    }
    uint64_t rows = 0;
    for (size_t k = 0; k < d->labels.count; k++) rows += d->label[k].lengths.rows;
    require(rows == d->row_count && d->all.lengths.rows == rows);
    for (DoctorKind k = DOCTOR_BAD; k < DOCTOR_KINDS; k++) {
        require(d->found[k].listed_count <= rule.list && d->found[k].listed_count <= d->found[k].count);
        for (size_t i = 0; i < d->found[k].listed_count; i++) require(d->found[k].listed[i].text != NULL);
    }
    doctor_put_text(&text, d);
    doctor_put_html(&text, d);
    doctor_put_json(&json, d);
    require(buf_ok(&text, &err) == ERR_OK && buf_ok(&json, &err) == ERR_OK);
    cJSON *tree;
    require(json_parse(&tree, json.data, json.len, &err) == ERR_OK);
    cJSON_Delete(tree);
    buf_free(&text);
    buf_free(&json);
    doctor_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!path[0]) {
        (void)snprintf(path, sizeof path, "/tmp/fuzz_doctor.%ld", (long)getpid());
        require(atexit(remove_file) == 0);
        progress_quiet(true);
    }
    FILE *file = fopen(path, "wb"); /* not file_save: what it does against power cuts takes milliseconds */
    require(file && fwrite(data, 1, size, file) == size && fclose(file) == 0);
    Inputs inputs = {0};
    require(inputs_add(&inputs, path, 1, path, NULL) == ERR_OK);
    check(&inputs, NULL);
    check(&inputs, &inputs);
    inputs_close(&inputs);
    return 0;
}
