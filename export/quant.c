#include "export/quant.h"

#include <math.h>

#include "core/tensor.h"

static void note(QuantError *e, float weight, double restored) {
    const double difference = (double)weight - restored;
    e->error += difference * difference;
    e->total += (double)weight * (double)weight;
    if (fabs(difference) > e->worst) e->worst = fabs(difference);
}

ErrCode quant_rows(int8_t *q, float *scale, const float *w, size_t rows, size_t cols, QuantError *error,
                   Err *err) {
    for (size_t r = 0; r < rows; r++, w += cols, q += cols) {
        float max = 0;
        for (size_t c = 0; c < cols; c++) {
            if (!isfinite(w[c]))
                return err_set(err, ERR_NUMERIC, "row %zu, column %zu is not a finite number", r, c);
            if (fabsf(w[c]) > max) max = fabsf(w[c]);
        }
        scale[r] = max < 1e-30f ? 1.0f : max / 127.0f;
        for (size_t c = 0; c < cols; c++) {
            float v = rintf(w[c] / scale[r]);
            v = v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v;
            q[c] = (int8_t)v;
            note(error, w[c], (double)v * (double)scale[r]);
        }
    }
    return ERR_OK;
}

ErrCode quant_f16(uint16_t *out, const float *x, size_t n, QuantError *error, Err *err) {
    for (size_t i = 0; i < n; i++) {
        out[i] = tensor_f32_to_f16(x[i]);
        if ((out[i] & 0x7c00u) == 0x7c00u)
            return err_set(err, ERR_NUMERIC, "value %zu is %g, which 16 bits cannot hold", i, (double)x[i]);
        note(error, x[i], (double)tensor_f16_to_f32(out[i]));
    }
    return ERR_OK;
}

double quant_relative(const QuantError *error) {
    return error->total > 0 ? sqrt(error->error / error->total) : 0;
}
