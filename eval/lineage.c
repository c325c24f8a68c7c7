#include "eval/lineage.h"

#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "core/text.h"
#include "export/blob_taxonomy.h"
#include "export/check.h"

enum { SHOWN = 80, TEXT_SHOWN = 60 };

static const char MODEL_DIGEST[] = "router.source.model_sha256";

static const char *shown(char out[SHOWN + 4], const char *text) {
    return text_excerpt(out, SHOWN, text, strlen(text));
}

/* ---- the two files ---- */

static const char *metadata(const void *router, const char *key) {
    return router_metadata(router, key);
}

static ErrCode open_one(Router **router, Taxonomy *taxonomy, const char *path, Err *err) {
    char message[ROUTER_ERROR_BYTES];
    const int status = router_open(router, path, NULL, message, sizeof message);
    if (status != ROUTER_OK) return err_set(err, (ErrCode)status, "%s", message);
    const int K = router_label_count(*router);
    const char **labels;
    TRY(mem_new(&labels, (size_t)K, sizeof *labels, "the labels", err));
    for (int k = 0; k < K; k++) labels[k] = router_label(*router, k);
    const ErrCode rc = blob_taxonomy_read(taxonomy, metadata, *router, labels, K, err);
    mem_free(labels);
    return rc;
}

static ErrCode check_labels(const Lineage *l, Err *err) {
    const Taxonomy *new = &l->taxonomy, *old = &l->parent_taxonomy;
    char a[SHOWN + 4], b[SHOWN + 4];
    if (new->count < old->count)
        return err_set(err, ERR_GATE, "%s has %d labels, fewer than the %d of its parent %s", l->path,
                       new->count, old->count, l->parent_path);
    for (int k = 0; k < old->count; k++) {
        const char *was = router_label(l->parent, k), *is = router_label(l->router, k);
        if (strcmp(was, is) != 0 && !taxonomy_was(&new->labels[k], was))
            return err_set(err, ERR_GATE,
                           "label %d of %s is '%s', but %s has '%s' there, which was never called so: an id "
                           "keeps its meaning",
                           k, l->parent_path, shown(a, was), l->path, shown(b, is));
    }
    return ERR_OK;
}

static ErrCode check_parent(Lineage *l, Err *err) {
    const Taxonomy *new = &l->taxonomy, *old = &l->parent_taxonomy;
    if (new->revision <= old->revision)
        return err_set(err, ERR_GATE, "%s is revision %d, but its parent %s is %d: expected a later one",
                       l->path, new->revision, l->parent_path, old->revision);
    const char *digest = router_metadata(l->parent, MODEL_DIGEST);
    l->digest = "not checked";
    if (new->revision > old->revision + 1) return ERR_OK;
    l->digest = "not stated";
    if (!digest) return ERR_OK;
    l->digest = "same";
    if (strcmp(digest, new->parent) == 0) return ERR_OK;
    return err_set(err, ERR_GATE, "%s was made from the model file %.16s..., but %s is of %.16s...", l->path,
                   new->parent, l->parent_path, digest);
}

/* ---- golden prompts ---- */

static ErrCode ask(RouterAnswer *answer, float *p, Router *router, const char *text, Err *err) {
    char message[ROUTER_ERROR_BYTES];
    const int status = router_classify(router, text, ROUTER_TERMINATED, answer, p, message, sizeof message);
    return status == ROUTER_OK ? ERR_OK : err_set(err, (ErrCode)status, "%s", message);
}

static ErrCode ask_both(Lineage *l, size_t i, float *p, Err *err) {
    char key[64];
    RouterAnswer old, new;
    (void)snprintf(key, sizeof key, "router.golden.%zu.text", i);
    const char *text = router_metadata(l->parent, key);
    if (!text) return err_set(err, ERR_FORMAT, "%s: metadata %s is missing", l->parent_path, key);
    ErrCode rc = ask(&old, NULL, l->parent, text, err);
    if (rc == ERR_OK) rc = ask(&new, p, l->router, text, err);
    if (rc != ERR_OK) return err_context(err, rc, "golden prompt %zu", i);
    l->prompts++;
    if (old.label != new.label)
        l->flips[l->flip_count++] = (LineageFlip){.golden = i,
                                                  .text = text,
                                                  .from = old.label,
                                                  .to = new.label,
                                                  .from_p = old.probability,
                                                  .to_p = new.probability,
                                                  .kept_p = p[old.label]};
    return ERR_OK;
}

static ErrCode ask_all(Lineage *l, Err *err) {
    size_t count;
    float *p = NULL;
    ErrCode rc = check_golden_count(&count, l->parent, err);
    if (rc != ERR_OK) return err_context(err, rc, "%s", l->parent_path);
    if (!count) return ERR_OK;
    TRY(mem_new(&l->flips, count, sizeof *l->flips, "the golden prompts", err));
    TRY(mem_new(&p, (size_t)l->taxonomy.count, sizeof *p, "probabilities", err));
    for (size_t i = 0; i < count && rc == ERR_OK; i++) rc = ask_both(l, i, p, err);
    mem_free(p);
    return rc;
}

ErrCode lineage_open(Lineage *out, const char *path, const char *parent_path, int64_t max_flips, Err *err) {
    *out = (Lineage){.path = path, .parent_path = parent_path, .max_flips = max_flips};
    TRY(open_one(&out->router, &out->taxonomy, path, err));
    TRY(open_one(&out->parent, &out->parent_taxonomy, parent_path, err));
    TRY(check_labels(out, err));
    TRY(check_parent(out, err));
    return ask_all(out, err);
}

void lineage_free(Lineage *l) {
    router_close(l->router);
    router_close(l->parent);
    taxonomy_free(&l->taxonomy);
    taxonomy_free(&l->parent_taxonomy);
    mem_free(l->flips);
    *l = (Lineage){0};
}

static bool passed(const Lineage *l) {
    return (int64_t)l->flip_count <= l->max_flips;
}

ErrCode lineage_judge(const Lineage *l, Err *err) {
    if (passed(l)) return ERR_OK;
    return err_set(err, ERR_GATE,
                   "%s: %zu of the %zu golden prompts of %s get another label, allowed are %lld (max_flips)",
                   l->path, l->flip_count, l->prompts, l->parent_path, (long long)l->max_flips);
}

/* ---- what became of the labels ---- */

typedef enum { ADDED, RENAMED, RETIRED, CHANGES } Change;

/* Whether label k of the child has changed so since the parent. */
static bool has_changed(const Lineage *l, int k, Change change) {
    const bool old = k < l->parent_taxonomy.count;
    if (change == ADDED) return !old;
    if (!old) return false;
    if (change == RENAMED) return strcmp(router_label(l->parent, k), router_label(l->router, k)) != 0;
    return l->taxonomy.labels[k].retired && !l->parent_taxonomy.labels[k].retired;
}

static void put_json_text(Buf *out, const char *text) {
    text_put_json(out, text, strlen(text));
}

static void put_changes_json(Buf *out, const Lineage *l) {
    static const char *const NAMES[CHANGES] = {"added", "renamed", "retired"};
    for (Change c = ADDED; c < CHANGES; c++) {
        bool first = true;
        buf_printf(out, "\"%s\": [", NAMES[c]);
        for (int k = 0; k < l->taxonomy.count; k++) {
            if (!has_changed(l, k, c)) continue;
            if (!first) buf_puts(out, ", ");
            first = false;
            if (c == RENAMED) {
                buf_puts(out, "{\"from\": ");
                put_json_text(out, router_label(l->parent, k));
                buf_puts(out, ", \"to\": ");
            }
            put_json_text(out, router_label(l->router, k));
            if (c == RENAMED) buf_puts(out, "}");
        }
        buf_puts(out, "], ");
    }
}

void lineage_json(Buf *out, const Lineage *l) {
    buf_puts(out, "{\"parent\": ");
    put_json_text(out, l->parent_path);
    buf_printf(out,
               ", \"revision\": %d, \"parent_revision\": %d, \"digest\": \"%s\", \"labels\": %d, "
               "\"parent_labels\": %d, ",
               l->taxonomy.revision, l->parent_taxonomy.revision, l->digest, l->taxonomy.count,
               l->parent_taxonomy.count);
    put_changes_json(out, l);
    buf_printf(out, "\"prompts\": %zu, \"same\": %zu, \"max_flips\": %lld, \"passed\": %s, \"flips\": [",
               l->prompts, l->prompts - l->flip_count, (long long)l->max_flips, passed(l) ? "true" : "false");
    for (size_t i = 0; i < l->flip_count; i++) {
        const LineageFlip *f = &l->flips[i];
        char text[TEXT_SHOWN + 4];
        buf_printf(out, "%s\n{\"golden\": %zu, \"text\": ", i ? "," : "", f->golden);
        put_json_text(out, text_excerpt(text, TEXT_SHOWN, f->text, strlen(f->text)));
        buf_puts(out, ", \"from\": ");
        put_json_text(out, router_label(l->parent, f->from));
        buf_printf(out, ", \"from_probability\": %.6g, \"to\": ", (double)f->from_p);
        put_json_text(out, router_label(l->router, f->to));
        buf_printf(out, ", \"to_probability\": %.6g, \"kept_probability\": %.6g}", (double)f->to_p,
                   (double)f->kept_p);
    }
    buf_puts(out, "]}");
}

static void put_changes(Buf *out, const Lineage *l) {
    static const char *const NAMES[CHANGES] = {"added", "renamed", "retired"};
    char a[SHOWN + 4];
    for (Change c = ADDED; c < CHANGES; c++) {
        const char *between = "";
        for (int k = 0; k < l->taxonomy.count; k++) {
            if (!has_changed(l, k, c)) continue;
            if (!*between) buf_printf(out, "  %-20s ", NAMES[c]);
            buf_puts(out, between);
            if (c == RENAMED) buf_printf(out, "%s -> ", shown(a, router_label(l->parent, k)));
            buf_puts(out, shown(a, router_label(l->router, k)));
            between = ", ";
        }
        if (*between) buf_puts(out, "\n");
    }
}

void lineage_table(Buf *out, const Lineage *l) {
    const bool between = l->taxonomy.revision > l->parent_taxonomy.revision + 1;
    buf_printf(out, "%s comes from %s\n", l->path, l->parent_path);
    buf_printf(out, "  %-20s %d, the parent's is %d\n", "revision", l->taxonomy.revision,
               l->parent_taxonomy.revision);
    buf_printf(out, "  %-20s %s\n", "parent's model file",
               between ? "not checked: there are revisions between"
               : strcmp(l->digest, "same") == 0
                   ? "the very one, by its SHA-256"
                   : "not checked: the parent does not state its SHA-256 (router.source.model_sha256)");
    buf_printf(out, "  %-20s %d, the first %d as in the parent\n", "labels", l->taxonomy.count,
               l->parent_taxonomy.count);
    put_changes(out, l);
    buf_printf(out, "  %-20s %zu of the parent's %zu get the same label; %lld may change\n", "golden prompts",
               l->prompts - l->flip_count, l->prompts, (long long)l->max_flips);
    for (size_t i = 0; i < l->flip_count; i++) {
        const LineageFlip *f = &l->flips[i];
        char text[TEXT_SHOWN + 4], a[SHOWN + 4], b[SHOWN + 4];
        buf_printf(out, "  %4zu  %s %.3f -> %s %.3f (%s %.3f%s)  \"%s\"\n", f->golden,
                   shown(a, router_label(l->parent, f->from)), (double)f->from_p,
                   shown(b, router_label(l->router, f->to)), (double)f->to_p, a, (double)f->kept_p,
                   l->taxonomy.labels[f->from].retired ? ", retired" : "",
                   text_excerpt(text, TEXT_SHOWN, f->text, strlen(f->text)));
    }
}
