#include "eval/head_fit.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/mem.h"
#include "core/minimise.h"
#include "core/progress.h"
#include "core/stop.h"
#include "eval/covariance.h"

enum { LANES = 4, GROUP = 16 }; /* rows whose columns are made doubles at once: 128 KB for 1,024 of them */

/* Rows for each column whose covariance is a good enough picture of that of all rows: eigenvalues are off by a factor of
 * two at most (Marchenko, Pastur), which costs a few steps. */
enum { SAMPLE = 8 };

/* What all passes over the rows share. `stride` is H in whole LANES; the columns behind H are zeros everywhere. */
typedef struct {
    const HeadFitRows *rows;
    size_t H, K, stride, parts, part_rows, free_count, out_stride;
    size_t counted; /* rows of weight > 0 */
    double total;   /* of their weights */
    double *middle; /* (stride): mean of each column */
    double *factor; /* (H, H): L */
    double *count;  /* (K): weight of each label */
    size_t *free;   /* (free_count): labels */
    double *w, *c;  /* (K, stride), (K): W; b + W middle */
    double *start;  /* (K, stride): W0 */
    double *space;  /* (threads, space_stride): rows, and d (GROUP, K) behind them */
    double *out;    /* (parts, out_stride): what a part adds up */
    size_t space_stride;
    double lambda, loss;
    size_t *bad; /* (parts): first value that is not finite, or SIZE_MAX */
} Job;

static double weight_of(const HeadFitRows *rows, size_t i) {
    return rows->use && !rows->use[i] ? 0 : rows->weights ? (double)rows->weights[i] : 1;
}

static size_t part_end(const Job *job, size_t part) {
    const size_t end = (part + 1) * job->part_rows;
    return end < job->rows->n ? end : job->rows->n;
}

/* Sums of the parts, in their order, into the first one. */
static void add_parts(const Job *job, size_t count) {
    for (size_t part = 1; part < job->parts; part++) {
        const double *from = job->out + part * job->out_stride;
        for (size_t i = 0; i < count; i++) job->out[i] += from[i];
    }
}

/* ---- columns ---- */

/* Weighted sums and squares of the columns less `middle`, which is the first row: near enough for nothing to cancel. */
static void column_task(void *arg, size_t part, int thread) {
    (void)thread;
    const Job *job = arg;
    const HeadFitRows *rows = job->rows;
    double *sum = job->out + part * job->out_stride, *square = sum + job->stride;
    memset(sum, 0, 2 * job->stride * sizeof *sum);
    job->bad[part] = SIZE_MAX;
    for (size_t i = part * job->part_rows; i < part_end(job, part); i++) {
        const double weight = weight_of(rows, i);
        const float *x = rows->vectors + i * job->H;
        if (!(weight > 0)) continue;
        for (size_t h = 0; h < job->H; h++) {
            if (!isfinite(x[h]) && job->bad[part] == SIZE_MAX) job->bad[part] = i * job->H + h;
            const double d = (double)x[h] - job->middle[h];
            sum[h] += weight * d;
            square[h] += weight * d * d;
        }
    }
}

/* Up to SAMPLE H of the rows that count, at even steps, less the means. */
static ErrCode factor_columns(Job *job, Threads *threads, Err *err) {
    const size_t H = job->H, most = SAMPLE * H < job->counted ? SAMPLE * H : job->counted;
    double *x;
    size_t n = 0, seen = 0;
    TRY(mem_new(&x, most, H * sizeof *x, "a sample of the vectors", err));
    for (size_t i = 0; n < most; i++) {
        if (!(weight_of(job->rows, i) > 0)) continue;
        if (seen++ * most / job->counted < n)
            continue; /* (n-th of the sample: row n * counted / most, rounded up) */
        for (size_t h = 0; h < H; h++) x[n * H + h] = (double)job->rows->vectors[i * H + h] - job->middle[h];
        n++;
    }
    covariance_of(job->factor, x, n, H, threads);
    for (size_t h = 0; h < H; h++) job->factor[h * H + h] += 4 * job->lambda;
    covariance_factor(job->factor, H);
    mem_free(x);
    return ERR_OK;
}

static ErrCode measure_columns(Job *job, const HeadFitRule *rule, Threads *threads, Err *err) {
    const HeadFitRows *rows = job->rows;
    size_t first = 0;
    while (!(weight_of(rows, first) > 0)) first++;
    for (size_t h = 0; h < job->H; h++) job->middle[h] = (double)rows->vectors[first * job->H + h];
    threads_run(threads, column_task, job, job->parts);
    for (size_t part = 0; part < job->parts; part++)
        if (job->bad[part] != SIZE_MAX)
            return err_set(err, ERR_NUMERIC, "value %zu of vector %zu is not finite", job->bad[part] % job->H,
                           job->bad[part] / job->H);
    add_parts(job, 2 * job->stride);
    const double *sum = job->out, *square = sum + job->stride;
    double variance = 0;
    for (size_t h = 0; h < job->H; h++) {
        const double mean = sum[h] / job->total, spread = square[h] / job->total - mean * mean;
        job->middle[h] += mean;
        variance += spread > 0 ? spread / (double)job->H : 0;
    }
    job->lambda = rule->relative ? rule->lambda * variance : rule->lambda;
    return factor_columns(job, threads, err);
}

/* ---- value and slope ---- */

/* sum_h x_r[h] w[h] of LANES rows. */
static void dots(double *out, const double *x, size_t stride, const double *w) {
    double sum[LANES][LANES] = {{0}};
    for (size_t h = 0; h < stride; h += LANES)
        for (size_t r = 0; r < LANES; r++)
            for (size_t l = 0; l < LANES; l++) sum[r][l] += x[r * stride + h + l] * w[h + l];
    for (size_t r = 0; r < LANES; r++) out[r] = (sum[r][0] + sum[r][2]) + (sum[r][1] + sum[r][3]);
}

/* g += sum_r d[r] x_r of LANES rows. */
static void add_rows(double *restrict g, const double *restrict x, size_t stride, const double *d) {
    const double *a = x, *b = a + stride, *c = b + stride, *e = c + stride;
    for (size_t h = 0; h < stride; h++) g[h] += (d[0] * a[h] + d[1] * b[h]) + (d[2] * c[h] + d[3] * e[h]);
}

/* z (K, at intervals of GROUP) becomes weight (softmax(z) - one at label); the loss. */
static double softmax(double *z, size_t K, size_t label, double weight) {
    double top = -(double)INFINITY, total = 0;
    for (size_t k = 0; k < K; k++) top = z[k * GROUP] > top ? z[k * GROUP] : top;
    const double own = z[label * GROUP] - top;
    for (size_t k = 0; k < K; k++) total += z[k * GROUP] = exp(z[k * GROUP] - top);
    for (size_t k = 0; k < K; k++) z[k * GROUP] = weight * (z[k * GROUP] / total - (k == label));
    return weight * (log(total) - own);
}

/* Up to GROUP rows that count, from *at on, as doubles; the rest up to whole LANES as zeros. Their number. */
static size_t take_rows(const Job *job, double *x, size_t *taken, size_t *at, size_t end) {
    size_t n = 0;
    for (; n < GROUP && *at < end; (*at)++) {
        if (!(weight_of(job->rows, *at) > 0)) continue;
        const float *from = job->rows->vectors + *at * job->H;
        double *to = x + n * job->stride;
        for (size_t h = 0; h < job->H; h++) to[h] = (double)from[h] - job->middle[h];
        taken[n++] = *at;
    }
    for (size_t i = n; i % LANES; i++) memset(x + i * job->stride, 0, job->stride * sizeof *x);
    return n;
}

/* A part's loss, and its slope in W and c of the free labels: (free_count, stride + 1), the loss behind. */
static void slope_task(void *arg, size_t part, int thread) {
    const Job *job = arg;
    const size_t stride = job->stride, K = job->K, end = part_end(job, part);
    double *g = job->out + part * job->out_stride, loss = 0;
    double *x = job->space + (size_t)thread * job->space_stride, *d = x + GROUP * stride;
    size_t at = part * job->part_rows, taken[GROUP], n;
    memset(g, 0, job->out_stride * sizeof *g);
    while ((n = take_rows(job, x, taken, &at, end))) {
        for (size_t r = 0; r < n; r += LANES)
            for (size_t k = 0; k < K; k++)
                dots(d + k * GROUP + r, x + r * stride, stride, job->w + k * stride);
        for (size_t r = 0; r < n; r++) {
            for (size_t k = 0; k < K; k++) d[k * GROUP + r] += job->c[k];
            loss += softmax(d + r, K, (size_t)job->rows->labels[taken[r]], weight_of(job->rows, taken[r]));
        }
        for (size_t r = n; r % LANES; r++)
            for (size_t k = 0; k < K; k++) d[k * GROUP + r] = 0;
        for (size_t r = 0; r < n; r += LANES)
            for (size_t f = 0; f < job->free_count; f++) {
                const double *own = d + job->free[f] * GROUP + r;
                double *to = g + f * (stride + 1);
                add_rows(to, x + r * stride, stride, own);
                to[stride] += (own[0] + own[1]) + (own[2] + own[3]);
            }
    }
    g[job->free_count * (stride + 1)] = loss;
}

typedef struct {
    Job *job;
    Threads *threads;
} Fit;

/* W of a free label from what is solved for, and the slope of the first to that of the second. */
typedef struct {
    Job *job;
    const double *x;
    double *g;
} Label;

static void unfold_task(void *arg, size_t f, int thread) {
    (void)thread;
    const Label *label = arg;
    const Job *job = label->job;
    const double *x = label->x + f * (job->H + 1);
    double *w = job->w + job->free[f] * job->stride;
    memcpy(w, x, job->H * sizeof *w);
    covariance_solve_transposed(w, job->factor, job->H);
    job->c[job->free[f]] = x[job->H];
}

static void fold_task(void *arg, size_t f, int thread) {
    (void)thread;
    const Label *label = arg;
    const Job *job = label->job;
    const double *from = job->out + f * (job->stride + 1);
    const double *w = job->w + job->free[f] * job->stride, *start = job->start + job->free[f] * job->stride;
    double *g = label->g + f * (job->H + 1);
    for (size_t h = 0; h < job->H; h++) g[h] = from[h] / job->total + job->lambda * (w[h] - start[h]);
    covariance_solve(g, job->factor, job->H);
    g[job->H] = from[job->stride] / job->total;
}

/* Of x: (free_count, H + 1), L^T W and c of each free label. */
static double value_of(void *arg, double *g, const double *x) {
    const Fit *fit = arg;
    Job *job = fit->job;
    const size_t count = job->free_count * (job->stride + 1);
    Label label = {job, x, g};
    double penalty = 0;
    threads_run(fit->threads, unfold_task, &label, job->free_count);
    threads_run(fit->threads, slope_task, job, job->parts);
    add_parts(job, count + 1);
    threads_run(fit->threads, fold_task, &label, job->free_count);
    for (size_t f = 0; f < job->free_count; f++)
        for (size_t h = 0; h < job->H; h++) {
            const size_t at = job->free[f] * job->stride + h;
            penalty += (job->w[at] - job->start[at]) * (job->w[at] - job->start[at]);
        }
    job->loss = job->out[count] / job->total;
    return job->loss + job->lambda / 2 * penalty;
}

/* ---- the fit ---- */

/* Weights of the labels, which of them are fitted, and that everything given is a number. */
static ErrCode check(Job *job, const HeadFitRule *rule, Err *err) {
    const HeadFitRows *rows = job->rows;
    for (size_t i = 0; i < rows->n; i++) {
        const double weight = weight_of(rows, i);
        assert(rows->labels[i] >= 0 && rows->labels[i] < rows->K);
        if (!isfinite(weight) || weight < 0)
            return err_set(err, ERR_NUMERIC, "the weight of vector %zu is %g, expected 0 or more", i, weight);
        job->count[rows->labels[i]] += weight;
        job->counted += weight > 0;
        job->total += weight;
    }
    if (!(job->total > 0)) return err_set(err, ERR_ARGUMENT, "no rows to fit a classifier to");
    for (size_t i = 0; rule->w0 && i < job->K * job->H; i++)
        if (!isfinite(rule->w0[i]))
            return err_set(err, ERR_NUMERIC, "weight %zu of label %zu is not finite", i % job->H, i / job->H);
    for (size_t k = 0; k < job->K; k++) {
        if (rule->w0 && !isfinite(rule->b0[k]))
            return err_set(err, ERR_NUMERIC, "the bias of label %zu is not finite", k);
        if (rule->free && !rule->free[k]) continue;
        if (job->count[k] > 0)
            job->free[job->free_count++] = k;
        else if (rule->complete)
            return err_set(err, ERR_ARGUMENT, "label %zu has no rows that a classifier could be fitted to",
                           k);
    }
    return ERR_OK;
}

static void begin(Job *job, const HeadFitRule *rule) {
    for (size_t k = 0; k < job->K; k++) {
        double *w = job->w + k * job->stride;
        job->c[k] = rule->w0 ? (double)rule->b0[k] : 0;
        for (size_t h = 0; rule->w0 && h < job->H; h++) {
            w[h] = (double)rule->w0[k * job->H + h];
            job->c[k] += w[h] * job->middle[h];
        }
        memcpy(job->start + k * job->stride, w, job->stride * sizeof *w);
        if (!rule->w0 && !(job->count[k] > 0) && (!rule->free || rule->free[k]))
            job->c[k] = -(double)INFINITY;
    }
}

/* W and b: those that were given where they were not fitted. */
static void finish(HeadFit *out, const Job *job, const HeadFitRule *rule) {
    for (size_t k = 0; k < job->K; k++) {
        memcpy(out->w + k * job->H, job->w + k * job->stride, job->H * sizeof *out->w);
        out->b[k] = rule->w0 ? (double)rule->b0[k] : isfinite(job->c[k]) ? 0 : job->c[k];
    }
    for (size_t f = 0; f < job->free_count; f++) {
        const size_t k = job->free[f];
        out->b[k] = job->c[k];
        for (size_t h = 0; h < job->H; h++) out->b[k] -= job->w[k * job->stride + h] * job->middle[h];
    }
}

static ErrCode solve(HeadFit *out, Job *job, const HeadFitRule *rule, Threads *threads, Err *err) {
    const MinimiseRule ends = {.steps = HEAD_FIT_STEPS,
                               .slope = rule->slope > 0 ? rule->slope : HEAD_FIT_SLOPE};
    const size_t width = job->H + 1, count = job->free_count * width;
    Fit fit = {job, threads};
    Minimum minimum;
    double *x;
    TRY(mem_new(&x, 2, (count + 1) * sizeof *x, "the classifier", err));
    for (size_t f = 0; f < job->free_count; f++) {
        memcpy(x + f * width, job->w + job->free[f] * job->stride, job->H * sizeof *x);
        covariance_multiply_transposed(x + f * width, job->factor, job->H);
        x[f * width + job->H] = job->c[job->free[f]];
    }
    const ErrCode rc = minimise(&minimum, x, count, value_of, &fit, &ends, err);
    if (rc == ERR_OK) {
        out->value = value_of(&fit, x + count + 1, x);
        out->loss = job->loss;
        out->slope = minimum.slope;
        out->steps = minimum.steps;
        finish(out, job, rule);
    }
    mem_free(x);
    return rc;
}

static ErrCode job_init(Job *job, const HeadFitRows *rows, Threads *threads, Err *err) {
    const size_t H = (size_t)rows->H, K = (size_t)rows->K, stride = (H + LANES - 1) / LANES * LANES;
    const size_t wide = K > 2 ? K : 2; /* two sums of columns, or the slopes of the labels */
    *job = (Job){.rows = rows, .H = H, .K = K, .stride = stride};
    job->part_rows = (rows->n + HEAD_FIT_PARTS - 1) / HEAD_FIT_PARTS;
    if (job->part_rows < GROUP) job->part_rows = GROUP;
    job->parts = (rows->n + job->part_rows - 1) / job->part_rows;
    job->out_stride = wide * (stride + 1) + 1;
    job->space_stride = GROUP * (stride + K);
    const size_t double_bytes = sizeof(double);
    TRY(mem_new(&job->middle, stride, double_bytes, "the classifier", err));
    TRY(mem_new(&job->factor, H, H * double_bytes, "the covariance", err));
    TRY(mem_new(&job->w, K, (2 * stride + 2) * double_bytes, "the classifier", err));
    job->start = job->w + K * stride;
    job->c = job->start + K * stride;
    job->count = job->c + K;
    TRY(mem_new(&job->free, K, sizeof *job->free, "the classifier", err));
    TRY(mem_new(&job->bad, job->parts + 1, sizeof *job->bad, "the classifier", err));
    TRY(mem_new(&job->out, job->parts + 1, job->out_stride * double_bytes, "the classifier", err));
    return mem_new(&job->space, (size_t)threads_count(threads), job->space_stride * double_bytes,
                   "the classifier", err);
}

static void job_free(Job *job) {
    mem_free(job->middle);
    mem_free(job->factor);
    mem_free(job->w);
    mem_free(job->free);
    mem_free(job->bad);
    mem_free(job->out);
    mem_free(job->space);
}

ErrCode head_fit(HeadFit *out, const HeadFitRows *rows, const HeadFitRule *rule, Threads *threads, Err *err) {
    const size_t H = (size_t)rows->H, K = (size_t)rows->K;
    Job job;
    assert(rows->H > 0 && rows->K > 0 && rule->lambda >= 0 && !rule->w0 == !rule->b0);
    *out = (HeadFit){.H = rows->H, .K = rows->K};
    ErrCode rc = job_init(&job, rows, threads, err);
    if (rc == ERR_OK) rc = check(&job, rule, err);
    if (rc == ERR_OK) rc = measure_columns(&job, rule, threads, err);
    if (rc == ERR_OK) rc = mem_new(&out->w, K, H * sizeof *out->w, "the classifier", err);
    if (rc == ERR_OK) rc = mem_new(&out->b, K, sizeof *out->b, "the classifier", err);
    if (rc == ERR_OK) {
        begin(&job, rule);
        rc = solve(out, &job, rule, threads, err);
    }
    job_free(&job);
    if (rc != ERR_OK) head_fit_free(out);
    return rc;
}

void head_fit_free(HeadFit *head) {
    mem_free(head->w);
    mem_free(head->b);
    *head = (HeadFit){0};
}

/* ---- its answers ---- */

typedef struct {
    const HeadFit *head;
    double *p;
    const float *vectors;
    const bool *use;
} ApplyJob;

static void apply_task(void *arg, size_t i, int thread) {
    (void)thread;
    const ApplyJob *job = arg;
    const size_t H = (size_t)job->head->H, K = (size_t)job->head->K;
    const float *x = job->vectors + i * H;
    double *p = job->p + i * K, top = -(double)INFINITY, total = 0;
    if (job->use && !job->use[i]) return;
    for (size_t k = 0; k < K; k++) {
        const double *w = job->head->w + k * H;
        p[k] = job->head->b[k];
        for (size_t h = 0; h < H; h++) p[k] += w[h] * (double)x[h];
        top = p[k] > top ? p[k] : top;
    }
    for (size_t k = 0; k < K; k++) total += p[k] = exp(p[k] - top);
    for (size_t k = 0; k < K; k++) p[k] /= total;
}

void head_fit_apply(const HeadFit *head, double *p, const float *vectors, const bool *use, size_t n,
                    Threads *threads) {
    ApplyJob job = {head, p, vectors, use};
    threads_run(threads, apply_task, &job, n);
}

/* ---- folds ---- */

static ErrCode fit_fold(HeadFit *head, const HeadFitRows *rows, const HeadFitRule *rule, const uint8_t *folds,
                        int fold, bool *mark, double *p, Threads *threads, Err *err) {
    HeadFitRows others = *rows;
    size_t own = 0, left = 0;
    others.use = mark;
    for (size_t i = 0; i < rows->n; i++) {
        mark[i] = folds[i] != fold && weight_of(rows, i) > 0;
        own += folds[i] == fold;
        left += mark[i];
    }
    if (own == 0) return ERR_OK;
    if (left == 0)
        return err_set(err, ERR_ARGUMENT,
                       "no rows to fit a classifier to outside of fold %d, which has %zu of %zu", fold + 1,
                       own, rows->n);
    TRY(head_fit(head, &others, rule, threads, err));
    for (size_t i = 0; i < rows->n; i++) mark[i] = folds[i] == fold;
    head_fit_apply(head, p, rows->vectors, mark, rows->n, threads);
    return ERR_OK;
}

ErrCode head_fit_folds(double *p, const HeadFitRows *rows, const HeadFitRule *rule, const uint8_t *folds,
                       int count, Threads *threads, Err *err) {
    bool *mark;
    Progress progress;
    TRY(mem_new(&mark, rows->n + 1, sizeof *mark, "the folds", err));
    progress_begin(&progress, "folds", (uint64_t)count, 0);
    ErrCode rc = ERR_OK;
    for (int fold = 0; rc == ERR_OK && fold < count; fold++) {
        HeadFit head = {0};
        if (stop_requested()) rc = err_set(err, ERR_INTERRUPTED, "stopped");
        if (rc == ERR_OK) rc = fit_fold(&head, rows, rule, folds, fold, mark, p, threads, err);
        if (rc == ERR_INTERRUPTED)
            rc = err_set(err, ERR_INTERRUPTED, "stopped after %d of %d folds", fold, count);
        if (rc == ERR_OK && progress_due(&progress))
            progress_update(&progress, (uint64_t)fold + 1, "loss %.4f in %d steps", head.loss, head.steps);
        head_fit_free(&head);
    }
    progress_end(&progress);
    mem_free(mark);
    return rc;
}
