#include "model/params.h"

#include <stdio.h>

#include "core/mem.h"

typedef struct {
    size_t V, H, F, R, K;
} Dims;

static Dims dims_of(const Config *c) {
    return (Dims){(size_t)c->vocab_size, (size_t)c->hidden_size, (size_t)c->intermediate_size,
                  2 * (size_t)c->position_buckets, (size_t)c->num_labels};
}

static real *place(Arena *arena, size_t rows, size_t cols) {
    return arena_push(arena, rows * (cols ? cols : 1), sizeof(real));
}

static void layout(Params *out, Arena *arena, const Config *config, bool with_word, int frozen,
                   LayerParams *table) {
    const Dims d = dims_of(config);
    const size_t V = with_word ? d.V : 0, H = d.H, F = d.F, R = d.R, K = d.K;
    *out = (Params){0};
    out->layer = table ? table : arena_push(arena, (size_t)config->num_hidden_layers, sizeof *out->layer);
#define PLACE(field, name, kind, rows, cols)        out->field = place(arena, rows, cols);
#define PLACE_LEARNT(field, name, kind, rows, cols) out->field = frozen ? NULL : place(arena, rows, cols);
    PARAMS_EMBEDDINGS(PLACE_LEARNT)
    for (int l = 0; l < config->num_hidden_layers; l++) {
        LayerParams layer = {0};
#define PLACE_LAYER(field, name, kind, rows, cols) layer.field = place(arena, rows, cols);
        if (l + 1 >= frozen) {
            PARAMS_LAYER(PLACE_LAYER)
        }
        if (out->layer) out->layer[l] = layer;
    }
    PARAMS_POSITIONS(PLACE_LEARNT)
    PARAMS_HEAD(PLACE)
    if (!with_word) out->word = NULL;
    (void)V;
}

void params_layout(Params *out, Arena *arena, const Config *config, bool with_word, LayerParams *table) {
    layout(out, arena, config, with_word, 0, table);
}

void params_layout_learnt(Params *out, Arena *arena, const Config *config, int frozen, LayerParams *table) {
    layout(out, arena, config, false, frozen, table);
}

static ParamView view(const char *prefix, const char *name, real *data, ParamKind kind, size_t rows,
                      size_t cols, int layer) {
    ParamView v = {.data = data, .rows = (int64_t)rows, .cols = (int64_t)cols, .kind = kind, .layer = layer};
    (void)snprintf(v.name, sizeof v.name, "%s%s", prefix, name);
    return v;
}

ParamView *params_list(const Params *p, const Config *config, size_t *count) {
#define ONE(field, name, kind, rows, cols) +1
    const size_t layers = (size_t)config->num_hidden_layers;
    const size_t total =
        (size_t)(0 PARAMS_EMBEDDINGS(ONE) PARAMS_TOP(ONE)) + layers * (size_t)(0 PARAMS_LAYER(ONE));
    ParamView *list = mem_alloc(total, sizeof *list);
    *count = list ? total : 0;
    if (!list) return NULL;
    const Dims d = dims_of(config);
    const size_t V = d.V, H = d.H, F = d.F, R = d.R, K = d.K;
    size_t n = 0;
#define VIEW(field, name, kind, rows, cols) list[n++] = view("", name, p->field, kind, rows, cols, -1);
    PARAMS_EMBEDDINGS(VIEW)
    for (size_t l = 0; l < layers; l++) {
        char prefix[48];
        (void)snprintf(prefix, sizeof prefix, "deberta.encoder.layer.%zu.", l);
        LayerParams *layer = &p->layer[l];
#define VIEW_LAYER(field, name, kind, rows, cols) \
    list[n++] = view(prefix, name, layer->field, kind, rows, cols, (int)l);
        PARAMS_LAYER(VIEW_LAYER)
    }
#define VIEW_TOP(field, name, kind, rows, cols) \
    list[n++] = view("", name, p->field, kind, rows, cols, (int)layers);
    PARAMS_TOP(VIEW_TOP)
    (void)V;
    return list;
}
