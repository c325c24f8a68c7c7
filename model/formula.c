#include "model/formula.h"

#include <math.h>
#include <string.h>

#include "core/mem.h"

static bool ends_with(const char *s, const char *tail) {
    const size_t a = strlen(s), b = strlen(tail);
    return a >= b && strcmp(s + a - b, tail) == 0;
}

/* Base and exponent; the first line that fits. */
static int exponent(real *base, const ParamView *p, const FormulaRule *rule) {
    *base = ends_with(p->name, "LayerNorm.weight") ? 1 : 0;
    if (ends_with(p->name, "LayerNorm.weight") || ends_with(p->name, "LayerNorm.bias")) return -3;
    if (p->kind == PARAM_EMBEDDING) return -1;
    if (ends_with(p->name, ".bias")) return -4;
    if (ends_with(p->name, "query_proj.weight") || ends_with(p->name, "key_proj.weight")) return rule->qk;
    return strcmp(p->name, "classifier.weight") == 0 ? rule->head : rule->other;
}

FormulaRule formula_rule(const Config *config, uint64_t seed) {
    /* A uniform number in [-1, 1) has the variance 1/3. */
    const int e = (int)lrint(log2(sqrt(3.0 / config->hidden_size)));
    return (FormulaRule){seed, e, e, e};
}

void formula_range(real *out, const ParamView *parameter, size_t from, size_t n, const FormulaRule *rule) {
    uint64_t h = 0xcbf29ce484222325u;
    for (const char *p = parameter->name; *p; p++) h = (h ^ (unsigned char)*p) * 0x100000001b3u;
    real base;
    const real scale = (real)ldexp(1, exponent(&base, parameter, rule) - 23); /* products with it are exact */
    const uint64_t s = h ^ rule->seed;
    for (size_t i = 0; i < n; i++) {
        uint64_t z = s + ((uint64_t)(from + i) + 1) * 0x9e3779b97f4a7c15u;
        z ^= z >> 30;
        z *= 0xbf58476d1ce4e5b9u;
        z ^= z >> 27;
        z *= 0x94d049bb133111ebu;
        z ^= z >> 31;
        out[i] = base + (real)((int32_t)(z >> 40) - (1 << 23)) * scale;
    }
}

void formula_fill(const ParamView *parameter, const FormulaRule *rule) {
    formula_range(parameter->data, parameter, 0, (size_t)param_count(parameter), rule);
}

ErrCode formula_weights(const Params *params, const Config *config, const FormulaRule *rule, Err *err) {
    size_t count;
    ParamView *list = params_list(params, config, &count);
    if (!list) return err_set(err, ERR_MEMORY, "out of memory for the list of weights");
    for (size_t i = 0; i < count; i++)
        if (list[i].data) formula_fill(&list[i], rule);
    mem_free(list);
    return ERR_OK;
}
