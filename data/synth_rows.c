#include "data/synth_rows.h"

#include <string.h>
#include <zstd.h>

#include "core/file.h"
#include "core/text.h"

static void put_member(Buf *out, const char *key, const char *text) {
    if (!text) return;
    buf_printf(out, ",\"%s\":", key);
    text_put_json(out, text, strlen(text));
}

static void put_row(Buf *out, const SynthView *v, const SynthRow *row) {
    char wording[17];
    SynthDraw draw;
    const SynthPlan *p = v->plan;
    synth_prompt_draw(&draw, p, &v->material, row->request);
    buf_puts(out, "{\"text\":");
    text_put_json(out, row->text, strlen(row->text));
    put_member(out, "label", p->domains[draw.domain].name);
    buf_printf(out, ",\"kind\":\"synthetic\",\"source\":\"synth\",\"id\":\"%.8s-%llu-%u\"", p->digest,
               (unsigned long long)row->request, (unsigned)row->item);
    put_member(out, "model", p->writer.model);
    put_member(out, "template", synth_prompt_digest(wording));
    put_member(out, "topic", draw.topic);
    for (SynthTrait t = SYNTH_STYLE; t < SYNTH_TRAITS; t++)
        put_member(out, synth_plan_trait(t), draw.traits[t] ? draw.traits[t]->name : NULL);
    put_member(out, "near", draw.negative ? p->domains[draw.negative->near].name : NULL);
    put_member(out, "time", row->time);
    buf_puts(out, "}\n");
}

typedef struct {
    FileWriter file;
    ZSTD_CStream *zstd; /* NULL: plain */
    Buf out;
} Writer;

/* With `end` the frame is closed. */
static ErrCode put(Writer *w, const Buf *text, bool end, Err *err) {
    if (!w->zstd) {
        file_write(&w->file, text->data, text->len);
        return ERR_OK;
    }
    ZSTD_inBuffer in = {text->data, text->len, 0};
    size_t left = 1;
    while (in.pos < in.size || (end && left)) {
        char *to = buf_reserve(&w->out, ZSTD_CStreamOutSize());
        if (!to) return buf_ok(&w->out, err);
        ZSTD_outBuffer out = {to, ZSTD_CStreamOutSize(), 0};
        left = ZSTD_compressStream2(w->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left)) return err_set(err, ERR_BACKEND, "zstd: %s", ZSTD_getErrorName(left));
        file_write(&w->file, to, out.pos);
    }
    return ERR_OK;
}

ErrCode synth_rows_write(const char *path, const SynthView *v, Err *err) {
    Writer w = {0};
    Buf text = {0};
    const size_t n = strlen(path);
    ErrCode rc = file_create(&w.file, path, err);
    if (rc == ERR_OK && n > 4 && strcmp(path + n - 4, ".zst") == 0) {
        w.zstd = ZSTD_createCStream();
        if (!w.zstd) rc = err_set(err, ERR_MEMORY, "out of memory for zstd");
    }
    for (uint64_t i = 0; rc == ERR_OK && i < v->row_count; i++) {
        buf_clear(&text);
        put_row(&text, v, &v->rows[i]);
        rc = buf_ok(&text, err);
        if (rc == ERR_OK) rc = put(&w, &text, false, err);
    }
    buf_clear(&text);
    if (rc == ERR_OK && w.zstd) rc = put(&w, &text, true, err);
    if (rc == ERR_OK) rc = file_commit(&w.file, err);
    file_abort(&w.file);
    (void)ZSTD_freeCStream(w.zstd);
    buf_free(&w.out);
    buf_free(&text);
    return rc;
}
