#include "eval/distance.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "eval/covariance.h"

/* S in the lower triangle becomes the covariance. fourth: mean over the vectors of |x - mean|^4. */
static ErrCode shrink(Distance *d, double fourth, size_t n, Err *err) {
    const size_t H = (size_t)d->H;
    double trace = 0, square = 0;
    for (size_t i = 0; i < H; i++) {
        trace += d->factor[i * H + i];
        square += d->factor[i * H + i] * d->factor[i * H + i];
        for (size_t j = 0; j < i; j++) square += 2 * d->factor[i * H + j] * d->factor[i * H + j];
    }
    if (!(trace > 0)) return err_set(err, ERR_NUMERIC, "all vectors are equal to the means of their classes");
    const double middle = trace / (double)H, away = square - middle * trace;
    const double noise = (fourth - square) / (double)n;
    d->shrinkage = noise < away ? (noise > 0 ? noise / away : 0) : 1;
    for (size_t i = 0; i < H; i++) {
        for (size_t j = 0; j <= i; j++) d->factor[i * H + j] *= 1 - d->shrinkage;
        d->factor[i * H + i] += d->shrinkage * middle;
    }
    return ERR_OK;
}

/* Means, and vectors less their means. */
static ErrCode centre(Distance *d, double *x, const float *vectors, const int *labels, size_t n, Err *err) {
    const size_t H = (size_t)d->H;
    for (size_t i = 0; i < n; i++) {
        assert(labels[i] >= 0 && labels[i] < d->K);
        double *mean = d->mean + (size_t)labels[i] * H;
        d->count[labels[i]]++;
        for (size_t h = 0; h < H; h++) {
            if (!isfinite(vectors[i * H + h]))
                return err_set(err, ERR_NUMERIC, "value %zu of vector %zu is not finite", h, i);
            mean[h] += (double)vectors[i * H + h];
        }
    }
    for (size_t k = 0; k < (size_t)d->K; k++)
        for (size_t h = 0; d->count[k] && h < H; h++) d->mean[k * H + h] /= (double)d->count[k];
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < H; h++)
            x[i * H + h] = (double)vectors[i * H + h] - d->mean[(size_t)labels[i] * H + h];
    return ERR_OK;
}

ErrCode distance_fit(Distance *out, const float *vectors, const int *labels, size_t n, int H, int K,
                     Threads *threads, Err *err) {
    const size_t width = (size_t)H;
    double *x = NULL;
    *out = (Distance){.H = H, .K = K};
    if (n == 0) return err_set(err, ERR_ARGUMENT, "no vectors to measure distances from");
    ErrCode rc = mem_new(&x, n, width * sizeof *x, "the vectors", err);
    if (rc == ERR_OK) rc = mem_new(&out->mean, (size_t)K, width * sizeof *out->mean, "the means", err);
    if (rc == ERR_OK) rc = mem_new(&out->factor, width, width * sizeof *out->factor, "the covariance", err);
    if (rc == ERR_OK) rc = mem_new(&out->count, (size_t)K, sizeof *out->count, "the classes", err);
    if (rc == ERR_OK) rc = centre(out, x, vectors, labels, n, err);
    if (rc == ERR_OK) {
        covariance_of(out->factor, x, n, width, threads);
        double fourth = 0;
        for (size_t i = 0; i < n; i++) {
            double square = 0;
            for (size_t h = 0; h < width; h++) square += x[i * width + h] * x[i * width + h];
            fourth += square * square;
        }
        rc = shrink(out, fourth / (double)n, n, err);
    }
    if (rc == ERR_OK) covariance_factor(out->factor, width);
    mem_free(x);
    if (rc != ERR_OK) distance_free(out);
    return rc;
}

void distance_free(Distance *d) {
    mem_free(d->mean);
    mem_free(d->factor);
    mem_free(d->count);
    *d = (Distance){0};
}

/* ---- scores ---- */

typedef struct {
    const Distance *d;
    const double *whitened; /* (K, H): L^-1 mean */
    const float *vectors;
    double *score, *space; /* (n); (threads, H) */
} ScoreJob;

static void score_task(void *arg, size_t i, int thread) {
    const ScoreJob *job = arg;
    const Distance *d = job->d;
    const size_t H = (size_t)d->H;
    double *x = job->space + (size_t)thread * H, best = (double)INFINITY;
    for (size_t h = 0; h < H; h++) x[h] = (double)job->vectors[i * H + h];
    covariance_solve(x, d->factor, H);
    for (size_t k = 0; k < (size_t)d->K; k++) {
        const double *mean = job->whitened + k * H;
        double sum = 0;
        for (size_t h = 0; h < H; h++) sum += (x[h] - mean[h]) * (x[h] - mean[h]);
        if (d->count[k] && sum < best) best = sum;
    }
    job->score[i] = -best;
}

ErrCode distance_score(const Distance *d, double *score, const float *vectors, size_t n, Threads *threads,
                       Err *err) {
    const size_t H = (size_t)d->H, K = (size_t)d->K;
    double *whitened = NULL, *space = NULL;
    ErrCode rc = mem_new(&whitened, K, H * sizeof *whitened, "the means", err);
    if (rc == ERR_OK)
        rc = mem_new(&space, (size_t)threads_count(threads), H * sizeof *space, "a vector", err);
    if (rc == ERR_OK) {
        memcpy(whitened, d->mean, K * H * sizeof *whitened);
        for (size_t k = 0; k < K; k++) covariance_solve(whitened + k * H, d->factor, H);
        ScoreJob job = {d, whitened, vectors, score, space};
        threads_run(threads, score_task, &job, n);
    }
    mem_free(whitened);
    mem_free(space);
    return rc;
}
