#include "eval/covariance.h"

#include <math.h>

/* Rows of the matrix that one task sums up, so that a vector is read once for all of them. */
enum { ROWS = 16 };

typedef struct {
    double *lower;
    const double *x;
    size_t n, H;
} Job;

static void sum_task(void *arg, size_t task, int thread) {
    (void)thread;
    const Job *job = arg;
    const size_t H = job->H, first = task * ROWS, end = first + ROWS < H ? first + ROWS : H;
    for (size_t i = 0; i < job->n; i++) {
        const double *x = job->x + i * H;
        for (size_t row = first; row < end; row++) {
            double *s = job->lower + row * H;
            const double value = x[row];
            for (size_t c = 0; c <= row; c++) s[c] += value * x[c];
        }
    }
    for (size_t row = first; row < end; row++)
        for (size_t c = 0; c <= row; c++) job->lower[row * H + c] /= (double)job->n;
}

void covariance_of(double *lower, const double *x, size_t n, size_t H, Threads *threads) {
    Job job = {lower, x, n, H};
    threads_run(threads, sum_task, &job, (H + ROWS - 1) / ROWS);
}

void covariance_factor(double *lower, size_t H) {
    for (size_t i = 0; i < H; i++) {
        double *a = lower + i * H;
        for (size_t j = 0; j <= i; j++) {
            const double *b = lower + j * H;
            double sum = a[j];
            for (size_t k = 0; k < j; k++) sum -= a[k] * b[k];
            const double least = 1e-12 * (a[j] > 0 ? a[j] : 1e-300);
            a[j] = i == j ? sqrt(sum > least ? sum : least) : sum / b[j];
        }
    }
}

void covariance_solve(double *x, const double *factor, size_t H) {
    for (size_t i = 0; i < H; i++) {
        const double *row = factor + i * H;
        double sum = x[i];
        for (size_t j = 0; j < i; j++) sum -= row[j] * x[j];
        x[i] = sum / row[i];
    }
}

void covariance_solve_transposed(double *x, const double *factor, size_t H) {
    for (size_t i = H; i-- > 0;) {
        const double *row = factor + i * H;
        x[i] /= row[i];
        for (size_t j = 0; j < i; j++) x[j] -= row[j] * x[i];
    }
}

void covariance_multiply_transposed(double *x, const double *factor, size_t H) {
    for (size_t i = 0; i < H; i++) { /* x[i] is not needed below row i any more */
        const double *row = factor + i * H;
        const double value = x[i];
        x[i] = row[i] * value;
        for (size_t j = 0; j < i; j++) x[j] += row[j] * value;
    }
}
