#include "eval/predictions.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/text.h"

/* ---- reading ---- */

static ErrCode grow(Predictions *out, Err *err) {
    if (out->count < out->cap) return ERR_OK;
    const size_t cap = out->cap ? 2 * out->cap : 1024;
    Prediction *items = mem_resize(out->items, cap, sizeof *items);
    if (items) out->items = items;
    double *p = items && out->labels.count <= SIZE_MAX / sizeof *p / cap
                    ? mem_resize(out->p, cap * out->labels.count, sizeof *p)
                    : NULL;
    if (!p) return err_set(err, ERR_MEMORY, "out of memory for %zu predictions", cap);
    out->p = p;
    out->cap = cap;
    return ERR_OK;
}

static ErrCode keep_text(size_t *at, Predictions *out, const char *text, size_t n, Err *err) {
    *at = out->bytes.len;
    buf_put(&out->bytes, text, n);
    buf_put(&out->bytes, "", 1);
    return buf_ok(&out->bytes, err);
}

static ErrCode read_id(size_t *at, Predictions *out, const cJSON *line, Err *err) {
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(line, "id");
    char digits[32];
    *at = SIZE_MAX;
    if (!id || cJSON_IsNull(id)) return ERR_OK;
    if (cJSON_IsString(id)) return keep_text(at, out, id->valuestring, strlen(id->valuestring), err);
    if (!cJSON_IsNumber(id) || id->valuedouble != floor(id->valuedouble) || fabs(id->valuedouble) > 0x1p53)
        return err_set(err, ERR_FORMAT, "id: expected a string or an integer");
    (void)snprintf(digits, sizeof digits, "%.0f", id->valuedouble);
    return keep_text(at, out, digits, strlen(digits), err);
}

/* The text as eval would have written it, which an already written one is. */
static ErrCode read_text(size_t *at, Predictions *out, const cJSON *line, Err *err) {
    cJSON *text = cJSON_GetObjectItemCaseSensitive(line, "text");
    *at = SIZE_MAX;
    if (!cJSON_IsString(text)) return ERR_OK;
    size_t n;
    const char *s = json_text(text, &n);
    char shown[PREDICTIONS_EXCERPT + 4];
    if (n > PREDICTIONS_EXCERPT + 3) {
        text_excerpt(shown, PREDICTIONS_EXCERPT, s, n);
        s = shown;
        n = strlen(shown);
    }
    return keep_text(at, out, s, n, err);
}

static ErrCode unknown_class(const Predictions *out, const char *name, Err *err) {
    char shown[84];
    text_excerpt(shown, 80, name, strlen(name));
    const char *near = text_nearest(name, (const char *const *)out->labels.items, out->labels.count);
    return err_set(err, ERR_FORMAT, "the class '%s' is not among the %zu of the first line%s%.80s%s", shown,
                   out->labels.count, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static ErrCode read_scores(Predictions *out, const cJSON *line, Err *err) {
    const cJSON *scores = cJSON_GetObjectItemCaseSensitive(line, "scores"), *item;
    if (!scores) scores = cJSON_GetObjectItemCaseSensitive(line, "probabilities");
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(line, "error");
    if (!scores && cJSON_IsString(error))
        return err_set(err, ERR_FORMAT, "no answer but an error (%.200s): such rows cannot be compared",
                       error->valuestring);
    if (!cJSON_IsObject(scores))
        return err_set(err, ERR_FORMAT,
                       "expected an object scores or probabilities, {\"class\": probability, ...}, found %s",
                       cJSON_IsArray(scores) ? "an array, which does not name the classes"
                       : scores              ? "something else"
                                             : "none");
    const bool first = out->count == 0;
    size_t seen = 0;
    double sum = 0;
    if (first) cJSON_ArrayForEach(item, scores) {
            size_t at;
            TRY(names_add(&at, &out->labels, item->string, err));
        }
    const size_t K = out->labels.count;
    if (first && (K < 2 || K > INT16_MAX))
        return err_set(err, ERR_FORMAT, "found %zu classes, expected 2 to %d", K, INT16_MAX);
    TRY(grow(out, err));
    double *p = out->p + out->count * K;
    cJSON_ArrayForEach(item, scores) {
        const size_t k = names_find(&out->labels, item->string);
        if (k == SIZE_MAX) return unknown_class(out, item->string, err);
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 1))
            return err_set(err, ERR_FORMAT, "the probability of '%.80s' must be a number from 0 to 1",
                           item->string);
        sum += p[k] = item->valuedouble;
        seen++; /* json.h lets no key occur twice */
    }
    if (seen != K)
        return err_set(err, ERR_FORMAT, "found %zu of the %zu classes (predict needs --top 0, its default)",
                       seen, K);
    if (fabs(sum - 1) > PREDICTIONS_SUM)
        return err_set(err, ERR_FORMAT, "the probabilities sum to %.6g, expected 1", sum);
    return ERR_OK;
}

/* The answer that the line states has the highest probability, by a hair where rounding made it a tie. */
static ErrCode check_answer(Predictions *out, const cJSON *line, Err *err) {
    const cJSON *answer = cJSON_GetObjectItemCaseSensitive(line, "predicted");
    if (!answer) answer = cJSON_GetObjectItemCaseSensitive(line, "label");
    if (!answer || cJSON_IsNull(answer)) return ERR_OK;
    if (!cJSON_IsString(answer))
        return err_set(err, ERR_FORMAT, "predicted: expected a string, the name of a class");
    const size_t K = out->labels.count, k = names_find(&out->labels, answer->valuestring);
    if (k == SIZE_MAX) return unknown_class(out, answer->valuestring, err);
    double *p = out->p + out->count * K;
    size_t best = 0;
    for (size_t i = 1; i < K; i++)
        if (p[i] > p[best]) best = i;
    if (best == k) return ERR_OK;
    if (p[best] - p[k] > 1e-5)
        return err_set(err, ERR_FORMAT, "the answer is '%.80s' with %.6g, but '%.80s' has %.6g",
                       answer->valuestring, p[k], out->labels.items[best], p[best]);
    p[k] = nextafter(p[best], 2);
    return ERR_OK;
}

static ErrCode read_line(Predictions *out, const char *text, size_t n, size_t number, Err *err) {
    cJSON *line;
    TRY(json_parse(&line, text, n, err));
    Prediction item = {.line = number};
    ErrCode rc = ERR_OK;
    if (!cJSON_IsObject(line))
        rc = err_set(err, ERR_FORMAT, "expected a JSON object such as {\"id\": ..., \"scores\": {...}}");
    if (rc == ERR_OK) rc = read_scores(out, line, err);
    if (rc == ERR_OK) rc = check_answer(out, line, err);
    if (rc == ERR_OK) rc = read_id(&item.id_at, out, line, err);
    if (rc == ERR_OK) rc = read_text(&item.text_at, out, line, err);
    const cJSON *cut = cJSON_GetObjectItemCaseSensitive(line, "truncated");
    item.truncated = cJSON_IsTrue(cut);
    out->truncation = cJSON_IsBool(cut) && (out->count == 0 || out->truncation);
    cJSON_Delete(line);
    if (rc == ERR_OK) out->items[out->count++] = item;
    return rc;
}

ErrCode predictions_read(Predictions *out, const char *path, Err *err) {
    *out = (Predictions){0};
    Lines *lines = NULL;
    ErrCode rc = ERR_OK;
    out->path = mem_strdup(path);
    if (!out->path) rc = err_set(err, ERR_MEMORY, "out of memory for a path");
    if (rc == ERR_OK) rc = lines_open(&lines, path, err);
    while (rc == ERR_OK) {
        const char *text;
        size_t n;
        bool more;
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK || !more) break;
        if (text_is_blank(text, n)) continue;
        rc = read_line(out, text, n, lines_number(lines), err);
        if (rc == ERR_FORMAT) (void)err_context(err, rc, "%s:%zu", path, lines_number(lines));
    }
    lines_close(lines);
    if (rc == ERR_OK && out->count == 0) rc = err_set(err, ERR_FORMAT, "%s: no predictions", path);
    if (rc != ERR_OK) predictions_free(out);
    return rc;
}

void predictions_free(Predictions *predictions) {
    mem_free(predictions->path);
    names_free(&predictions->labels);
    mem_free(predictions->items);
    mem_free(predictions->p);
    buf_free(&predictions->bytes);
    *predictions = (Predictions){0};
}

ErrCode predictions_recognise(bool *out, const char *path, Err *err) {
    enum { HEAD = 8 }; /* of a blob: its header's length, which ends in NULs */
    Lines *lines;
    const char *text;
    size_t n = 0;
    bool more = true;
    *out = false;
    TRY(lines_open(&lines, path, err));
    ErrCode rc = ERR_OK;
    do {
        rc = lines_next(lines, &text, &n, &more, err);
    } while (rc == ERR_OK && more && text_is_blank(text, n));
    if (rc == ERR_OK && more) *out = n >= HEAD && !memchr(text, 0, HEAD);
    lines_close(lines);
    return rc == ERR_FORMAT ? ERR_OK : rc; /* what cannot be read as lines may still be a blob */
}

/* ---- matching ---- */

static const char *text_at(const Predictions *p, size_t at) {
    return at == SIZE_MAX ? NULL : p->bytes.data + at;
}

static bool same_text(const Predictions *p, const Prediction *item, const Rows *rows, size_t row) {
    const Row *r = &rows->items[row];
    char shown[PREDICTIONS_EXCERPT + 4];
    text_excerpt(shown, PREDICTIONS_EXCERPT, rows->bytes.data + r->text_at, r->text_len);
    if (strcmp(shown, text_at(p, item->text_at)) == 0) return true;
    /* a text that another program wrote, whole and short */
    char again[PREDICTIONS_EXCERPT + 4];
    const char *text = text_at(p, item->text_at);
    return strcmp(shown, text_excerpt(again, PREDICTIONS_EXCERPT, text, strlen(text))) == 0;
}

static bool agree_in_order(const Predictions *p, const Rows *rows) {
    if (p->count != rows->count) return false;
    for (size_t i = 0; i < rows->count; i++) {
        const Prediction *item = &p->items[i];
        const bool by_id = item->id_at != SIZE_MAX, by_text = item->text_at != SIZE_MAX;
        if (by_text ? !same_text(p, item, rows, i)
                    : by_id && strcmp(text_at(p, item->id_at), rows_id(rows, i)) != 0)
            return false;
    }
    return true;
}

static ErrCode match_by_id(size_t *at, const Predictions *p, const Rows *rows, Names *ids, Err *err) {
    char shown[84];
    for (size_t i = 0; i < p->count; i++) {
        const char *id = text_at(p, p->items[i].id_at);
        size_t index;
        if (!id)
            return err_set(err, ERR_FORMAT,
                           "%s:%zu: no id, and the %zu predictions are not the %zu rows in order", p->path,
                           p->items[i].line, p->count, rows->count);
        TRY(names_add(&index, ids, id, err));
        if (index != i)
            return err_set(err, ERR_FORMAT, "%s:%zu: the id '%s' is that of line %zu", p->path,
                           p->items[i].line, text_excerpt(shown, 80, id, strlen(id)), p->items[index].line);
    }
    for (size_t i = 0; i < rows->count; i++) {
        const char *id = rows_id(rows, i);
        at[i] = names_find(ids, id);
        text_excerpt(shown, 80, id, strlen(id));
        if (at[i] == SIZE_MAX)
            return err_set(err, ERR_FORMAT, "%s: no prediction has the id '%s' of row %zu of the data",
                           p->path, shown, i + 1);
        const Prediction *item = &p->items[at[i]];
        if (item->text_at != SIZE_MAX && !same_text(p, item, rows, i))
            return err_set(err, ERR_FORMAT,
                           "%s:%zu: the text \"%.90s\" is not that of the row with the id '%s'", p->path,
                           item->line, text_at(p, item->text_at), shown);
    }
    return ERR_OK;
}

ErrCode predictions_match(size_t *at, const Predictions *predictions, const Rows *rows, Err *err) {
    if (agree_in_order(predictions, rows)) {
        for (size_t i = 0; i < rows->count; i++) at[i] = i;
        return ERR_OK;
    }
    Names ids = {0};
    const ErrCode rc = match_by_id(at, predictions, rows, &ids, err);
    names_free(&ids);
    return rc;
}
