#include "eval/listing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"
#include "data/suspects.h"
#include "eval/metrics.h"

enum { EXCERPT = 80 };

static void put_text(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static const char *source_of(const Listing *l, size_t i) {
    const int source = l->rows->items[i].source;
    return source >= 0 ? l->rows->sources.items[source] : NULL;
}

/* ---- predictions ---- */

static void put_json(Buf *out, const Listing *l, size_t i) {
    const double *p = l->p + i * (size_t)l->K;
    const int best = metrics_best(p, l->K);
    char excerpt[EXCERPT + 4];
    buf_puts(out, "{\"id\": ");
    put_text(out, rows_id(l->rows, i));
    if (source_of(l, i)) {
        buf_puts(out, ", \"source\": ");
        put_text(out, source_of(l, i));
    }
    buf_puts(out, ", \"label\": ");
    put_text(out, l->labels[l->label[i]]);
    buf_puts(out, ", \"predicted\": ");
    put_text(out, l->labels[best]);
    buf_printf(out, ", \"score\": %.6g, \"probabilities\": {", p[best]);
    for (int k = 0; k < l->K; k++) {
        buf_puts(out, k ? ", " : "");
        put_text(out, l->labels[k]);
        buf_printf(out, ": %.6g", p[k]);
    }
    buf_puts(out, "}, ");
    if (l->abstained) buf_printf(out, "\"abstained\": %s, ", l->abstained[i] ? "true" : "false");
    text_excerpt(excerpt, EXCERPT, l->texts[i].text, l->texts[i].n);
    buf_puts(out, "\"text\": ");
    put_text(out, excerpt);
    buf_puts(out, "}\n");
}

static void put_field(Buf *out, const char *text) {
    if (!strpbrk(text, ",\"\r\n")) {
        buf_puts(out, text);
        return;
    }
    buf_puts(out, "\"");
    for (; *text; text++) {
        if (*text == '"') buf_puts(out, "\"");
        buf_put(out, text, 1);
    }
    buf_puts(out, "\"");
}

static void put_csv_head(Buf *out, const Listing *l) {
    buf_puts(out, "id,source,label,predicted,score,abstained,text");
    for (int k = 0; k < l->K; k++) {
        buf_puts(out, ",");
        put_field(out, l->labels[k]);
    }
    buf_puts(out, "\r\n");
}

static void put_csv(Buf *out, const Listing *l, size_t i) {
    const double *p = l->p + i * (size_t)l->K;
    const int best = metrics_best(p, l->K);
    char excerpt[EXCERPT + 4];
    put_field(out, rows_id(l->rows, i));
    buf_puts(out, ",");
    put_field(out, source_of(l, i) ? source_of(l, i) : "");
    buf_puts(out, ",");
    put_field(out, l->labels[l->label[i]]);
    buf_puts(out, ",");
    put_field(out, l->labels[best]);
    buf_printf(out, ",%.6g,%s,", p[best], l->abstained && l->abstained[i] ? "true" : "false");
    put_field(out, text_excerpt(excerpt, EXCERPT, l->texts[i].text, l->texts[i].n));
    for (int k = 0; k < l->K; k++) buf_printf(out, ",%.6g", p[k]);
    buf_puts(out, "\r\n");
}

ErrCode listing_predictions(const Listing *l, const char *path, Err *err) {
    const size_t n = strlen(path);
    const bool csv = n > 4 && strcmp(path + n - 4, ".csv") == 0;
    FileWriter writer = {0};
    Buf line = {0};
    ErrCode rc = file_create(&writer, path, err);
    if (csv) put_csv_head(&line, l);
    for (size_t i = 0; rc == ERR_OK && i < l->rows->count; i++) {
        (csv ? put_csv : put_json)(&line, l, i);
        rc = buf_ok(&line, err);
        if (rc == ERR_OK) file_write(&writer, line.data, line.len);
        buf_clear(&line);
    }
    if (rc == ERR_OK) rc = file_commit(&writer, err);
    file_abort(&writer);
    buf_free(&line);
    return rc;
}

/* ---- mistakes ---- */

typedef struct {
    size_t row;
    double score;
} Mistake;

static int by_score(const void *a, const void *b) {
    const Mistake *x = a, *y = b;
    if (x->score > y->score || x->score < y->score) return x->score > y->score ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void put_mistake(Buf *out, const Listing *l, const Mistake *m) {
    const double *p = l->p + m->row * (size_t)l->K;
    const RowText text = l->texts[m->row];
    buf_puts(out, "{\"id\": ");
    put_text(out, rows_id(l->rows, m->row));
    buf_puts(out, ", \"source\": ");
    if (source_of(l, m->row))
        put_text(out, source_of(l, m->row));
    else
        buf_puts(out, "null");
    buf_puts(out, ", \"label\": ");
    put_text(out, l->labels[l->label[m->row]]);
    buf_puts(out, ", \"predicted\": ");
    put_text(out, l->labels[metrics_best(p, l->K)]);
    buf_printf(out, ", \"score\": %.6g, \"label_score\": %.6g, \"text\": ", m->score, p[l->label[m->row]]);
    const bool cut = text.n > LISTING_TEXT;
    const size_t shown = cut ? text_utf8_prefix(text.text, LISTING_TEXT) : text.n;
    text_put_json(out, text.text, shown);
    if (cut && out->len) {
        out->len--; /* the closing quote */
        buf_puts(out, " ...\"");
    }
    buf_puts(out, "}");
}

ErrCode listing_mistakes(cJSON **out, const Listing *l, size_t most, Err *err) {
    const size_t n = l->rows->count;
    Mistake *all;
    Buf text = {0};
    size_t count = 0;
    *out = NULL;
    TRY(mem_new(&all, n + 1, sizeof *all, "the mistakes", err));
    for (size_t i = 0; i < n; i++) {
        const double *p = l->p + i * (size_t)l->K;
        const int best = metrics_best(p, l->K);
        if (best != l->label[i]) all[count++] = (Mistake){i, p[best]};
    }
    qsort(all, count, sizeof *all, by_score);
    buf_puts(&text, "[");
    for (size_t i = 0; i < count && i < most; i++) {
        if (i) buf_puts(&text, ",");
        put_mistake(&text, l, &all[i]);
    }
    buf_puts(&text, "]");
    ErrCode rc = buf_ok(&text, err);
    if (rc == ERR_OK) rc = json_parse(out, text.data, text.len, err);
    buf_free(&text);
    mem_free(all);
    return rc;
}

/* ---- suspects ---- */

static ErrCode save(const Listing *l, const Suspects *suspects, const char *path, Err *err) {
    FileWriter writer = {0};
    Buf line = {0};
    size_t count;
    const Suspect *s = suspects_all(suspects, &count);
    ErrCode rc = file_create(&writer, path, err);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        const Row *row = &l->rows->items[s[i].row];
        const SuspectsPlace place = {.file = l->rows->files.items[row->file],
                                     .line = row->line,
                                     .label = l->labels[s[i].label],
                                     .suggested = l->labels[s[i].suggested]};
        suspects_put(&line, suspects, &s[i], i + 1, &place);
        buf_puts(&line, "\n");
        rc = buf_ok(&line, err);
        if (rc == ERR_OK) file_write(&writer, line.data, line.len);
        buf_clear(&line);
    }
    if (rc == ERR_OK) rc = file_commit(&writer, err);
    file_abort(&writer);
    buf_free(&line);
    return rc;
}

/* The row's own id; NULL where rows_id only says where it is. */
static const char *own_id(const Rows *rows, size_t i) {
    char place[512];
    const Row *row = &rows->items[i];
    (void)snprintf(place, sizeof place, "%.480s:%llu", rows->files.items[row->file],
                   (unsigned long long)row->line);
    return strcmp(place, rows_id(rows, i)) == 0 ? NULL : rows_id(rows, i);
}

ErrCode listing_suspects(ListingSuspects *out, const Listing *l, const char *path, Err *err) {
    Suspects *suspects;
    const size_t n = l->rows->count;
    *out = (ListingSuspects){0};
    if (n > UINT32_MAX)
        return err_set(err, ERR_ARGUMENT, "found %zu rows, expected at most %u", n, UINT32_MAX);
    TRY(suspects_open_given(&suspects, l->p, l->label, n, l->K, err));
    ErrCode rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < n; i++) {
        const SuspectsRow row = {
            .row = (uint32_t)i, .label = l->label[i], .text = l->texts[i], .id = own_id(l->rows, i)};
        rc = suspects_judge(suspects, &row, l->p + i * (size_t)l->K, err);
    }
    if (rc == ERR_OK) rc = suspects_finish(suspects, NULL, err);
    if (rc == ERR_OK) rc = save(l, suspects, path, err);
    if (rc == ERR_OK) {
        size_t count;
        (void)suspects_all(suspects, &count);
        *out = (ListingSuspects){suspects_judged(suspects), count, suspects_confident(suspects)};
    }
    suspects_close(suspects);
    return rc;
}
