#include "export/check.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/buf.h"
#include "core/mem.h"
#include "export/hexfloat.h"

enum { GOLDEN_MAX = 4096 };

typedef struct {
    Router *router;
    int K;
    float *stated, *computed, *floats; /* (K) */
    int32_t *ids;                      /* (max tokens) */
    Buf text;                          /* ids as text */
} Check;

static ErrCode field(const char **out, const Check *c, size_t i, const char *name, Err *err) {
    char key[64];
    (void)snprintf(key, sizeof key, "router.golden.%zu.%s", i, name);
    *out = router_metadata(c->router, key);
    return *out ? ERR_OK : err_set(err, ERR_FORMAT, "metadata %s is missing", key);
}

static ErrCode numbers(float *out, const Check *c, size_t i, const char *name, Err *err) {
    const char *p;
    TRY(field(&p, c, i, name, err));
    for (int k = 0; k < c->K; k++) {
        const ErrCode rc = hexfloat_parse(&out[k], p, &p, err);
        if (rc != ERR_OK) return err_context(err, rc, "metadata router.golden.%zu.%s", i, name);
        if (*p != (k + 1 < c->K ? ' ' : 0))
            return err_set(err, ERR_FORMAT, "metadata router.golden.%zu.%s: expected %d numbers", i, name,
                           c->K);
        p += *p == ' ';
    }
    return ERR_OK;
}

static int best_of(const float *x, int K) {
    int best = 0;
    for (int k = 1; k < K; k++)
        if (x[k] > x[best]) best = k;
    return best;
}

double check_difference(const float *x, const float *stated, int K) {
    double size = 1, worst = 0;
    for (int k = 0; k < K; k++) {
        const double d = fabs((double)x[k] - (double)stated[k]);
        if (fabs((double)stated[k]) > size) size = fabs((double)stated[k]);
        if (d > worst) worst = d;
    }
    return worst / size;
}

static ErrCode check_vector(CheckReport *out, Check *c, size_t i, Err *err) {
    char message[ROUTER_ERROR_BYTES];
    const char *text, *ids;
    TRY(field(&text, c, i, "text", err));
    TRY(field(&ids, c, i, "ids", err));
    TRY(numbers(c->stated, c, i, "logits", err));
    TRY(numbers(c->floats, c, i, "float_logits", err));
    size_t count;
    int rc = router_encode(c->router, text, ROUTER_TERMINATED, c->ids, (size_t)router_max_tokens(c->router),
                           &count, NULL, message, sizeof message);
    if (rc == ROUTER_OK) rc = router_logits(c->router, c->ids, count, c->computed, message, sizeof message);
    if (rc != ROUTER_OK) return err_set(err, (ErrCode)rc, "golden vector %zu: %s", i, message);
    buf_clear(&c->text);
    for (size_t n = 0; n < count; n++) buf_printf(&c->text, "%s%d", n ? " " : "", (int)c->ids[n]);
    TRY(buf_ok(&c->text, err));
    if (strcmp(c->text.data, ids) != 0)
        return err_set(
            err, ERR_GATE,
            "golden vector %zu: the text is other tokens than the blob says: found %.100s, expected "
            "%.100s",
            i, c->text.data, ids);
    const double found = check_difference(c->computed, c->stated, c->K);
    if (!(found <= out->tolerance))
        return err_set(
            err, ERR_GATE,
            "golden vector %zu: a logit differs by %.3g of the largest, more than the %.3g that the "
            "blob allows",
            i, found, out->tolerance);
    if (found > out->worst) out->worst = found;
    out->exact += memcmp(c->computed, c->stated, (size_t)c->K * sizeof *c->stated) == 0;
    const double rounding = check_difference(c->stated, c->floats, c->K);
    if (rounding > out->float_worst) out->float_worst = rounding;
    out->float_mean += rounding;
    out->float_agree += best_of(c->stated, c->K) == best_of(c->floats, c->K);
    out->golden++;
    return ERR_OK;
}

ErrCode check_golden_count(size_t *out, const Router *router, Err *err) {
    const char *text = router_metadata(router, "router.golden.count");
    if (!text) return err_set(err, ERR_FORMAT, "metadata router.golden.count is missing");
    size_t v = 0, n = 0;
    for (; text[n] >= '0' && text[n] <= '9' && n < 5; n++) v = v * 10 + (size_t)(text[n] - '0');
    if (n == 0 || text[n] || v > GOLDEN_MAX)
        return err_set(err, ERR_FORMAT,
                       "metadata router.golden.count: found \"%.40s\", expected an integer from 0 to %d",
                       text, GOLDEN_MAX);
    *out = v;
    return ERR_OK;
}

ErrCode check_router(CheckReport *out, Router *router, Err *err) {
    *out = (CheckReport){0};
    Check c = {.router = router, .K = router_label_count(router)};
    size_t count;
    TRY(check_golden_count(&count, router, err));
    const char *text = router_metadata(router, "router.golden.tolerance");
    float tolerance;
    ErrCode rc = hexfloat_only(&tolerance, text ? text : "nothing", err);
    if (rc != ERR_OK) return err_context(err, rc, "metadata router.golden.tolerance");
    out->tolerance = (double)tolerance;
    const size_t K = (size_t)c.K;
    rc = mem_new(&c.stated, 3 * K, sizeof *c.stated, "golden vectors", err);
    if (rc == ERR_OK)
        rc = mem_new(&c.ids, (size_t)router_max_tokens(router), sizeof *c.ids, "golden vectors", err);
    c.computed = c.stated ? c.stated + K : NULL;
    c.floats = c.stated ? c.stated + 2 * K : NULL;
    for (size_t i = 0; rc == ERR_OK && i < count; i++) rc = check_vector(out, &c, i, err);
    if (out->golden) out->float_mean /= (double)out->golden;
    mem_free(c.stated);
    mem_free(c.ids);
    buf_free(&c.text);
    return rc;
}

ErrCode check_blob(CheckReport *out, const char *path, Err *err) {
    char message[ROUTER_ERROR_BYTES];
    Router *router;
    *out = (CheckReport){0};
    const int status = router_open(&router, path, NULL, message, sizeof message);
    if (status != ROUTER_OK) return err_set(err, (ErrCode)status, "%s", message);
    ErrCode rc = check_router(out, router, err);
    if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    router_close(router);
    return rc;
}
