/* export/int8_panel.h - what the kernels that read panels (int8.h) have in common; compiled into each of
 * them for its instruction set. */
#ifndef EXPORT_INT8_PANEL_H
#define EXPORT_INT8_PANEL_H

#include "export/int8.h"

/* Weights to be fetched while others are multiplied, `pace` bytes per step. */
typedef struct {
    const char *at;
    ptrdiff_t left; /* bytes */
    size_t pace;
} PanelFetch;

static inline void panel_fetch(PanelFetch *f) {
    for (size_t done = 0; done < f->pace && f->left > 0; done += 64, f->left -= 64, f->at += 64)
        __builtin_prefetch(f->at, 0, 2);
}

/* While outputs [o, o + width) of [.., end) are computed in `steps` steps: what follows them, else `next`. */
static inline PanelFetch panel_fetch_begin(const Int8Linear *layer, int o, int width, int end, Int8Next next,
                                           size_t steps) {
    const size_t in = (size_t)layer->in;
    if (o + width < end)
        next = (Int8Next){(const char *)layer->w + (size_t)(o + width) * in, (size_t)width * in};
    const size_t bytes = next.w ? next.bytes : 0, pace = bytes / (steps ? steps : 1);
    return (PanelFetch){next.w, (ptrdiff_t)bytes, (pace + 63) / 64 * 64};
}

/* From sums (tokens, outputs) of the first `done` inputs to y of these tokens, from n on, and outputs,
 * from o on: adds the other inputs and the start, and goes back to float. outputs is a multiple of
 * INT8_PANEL, done of 4. */
static inline void panel_finish(float *y, const Int8Rows *x, int n, const Int8Linear *layer, int o,
                                int tokens, int outputs, int done, int32_t *restrict sums) {
    const size_t in = (size_t)layer->in;
    const float *restrict scale = layer->scale + o, *restrict bias = layer->bias + o;
    for (int t = 0; t < tokens; t++, sums += outputs) {
        const int8_t *q = x->q + (size_t)(n + t) * x->stride;
        if (done < layer->in)
            int8_tail(sums, q, (const uint8_t *)layer->w + (size_t)o * in, layer->in, done, outputs);
        const float of_token = x->scale[n + t];
        const int32_t start = x->start[n + t];
        float *restrict to = y + (size_t)(n + t) * (size_t)layer->out + (size_t)o;
        for (int k = 0; k < outputs; k++) to[k] = (float)(sums[k] + start) * (of_token * scale[k]) + bias[k];
    }
}

#endif
