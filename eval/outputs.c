#include "eval/outputs.h"

#include "core/file.h"

ErrCode outputs_write(const Outputs *outputs, const char *json_path, const char *page_path, bool print_json,
                      FILE *out, Err *err) {
    const Buf *json = &outputs->json, *table = &outputs->table, *page = &outputs->page;
    TRY(buf_ok(json, err));
    TRY(buf_ok(table, err));
    TRY(buf_ok(page, err));
    if (json_path) TRY(file_save(json_path, json->data, json->len, err));
    if (page_path) TRY(file_save(page_path, page->data, page->len, err));
    return buf_print(print_json ? json : table, out, err);
}

void outputs_free(Outputs *outputs) {
    buf_free(&outputs->json);
    buf_free(&outputs->table);
    buf_free(&outputs->page);
}
