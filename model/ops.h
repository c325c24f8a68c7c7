/* model/ops.h - the backend contract: what a device has to be able to do for DeBERTa.
 *
 * Memory. Every array that an operation reads or writes (integers, dropout identities and position indices too) lies in
 * memory of the backend, from alloc. On a host backend that is the program's own memory, and any other will do; where
 * `device` is set, the program reaches it by put, get and zero alone. Structs that are passed (Dropout, Attention,
 * AdamwStep ...) and lists of tensors are the program's. Operations run in the order in which they were called, and a
 * device need not have finished when they return: get and sync wait.
 *
 * Sizes: N tokens of the packed batch, S sequences, L length of one, H hidden, A heads, D = H / A, O outputs
 * and I inputs of a linear layer, R rows of the position tables, K classes. All arrays are contiguous and
 * row-major. Weight gradients (dw, db, dtable, dkr, dqr) are ADDED to; activation gradients are WRITTEN
 * unless said otherwise. Forward activations are Act: `real`, or bfloat16 in a backend that says so; weights and
 * all gradients are `real`. Results do not depend on the number of threads. Functions return nothing: the first
 * failure is kept in the Ops and given back by ops_sync, which the trainer calls before any weight changes.
 *
 * ops_ref_fill fills every entry; a host backend calls it first and overrides what it does better. A device backend is a
 * module: model/ops_module.h.
 * tests/test_ops compares every entry of every backend with ref. */
#ifndef MODEL_OPS_H
#define MODEL_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/threads.h"
#include "model/dropout.h"
#include "model/packed.h"
#include "model/params.h"
#include "model/real.h"

/* Numbers of o->act_bytes bytes each: real, or 2 for bfloat16 (the upper half of a float, rounded half to even). */
typedef void Act;

typedef struct {
    const Packed *packed; /* ids and start in the backend's memory */
    int A, D;
    /* Row of kr and qr for the distance i - j (query minus key) is index[i - j + longest - 1]; longest >=
     * packed->longest. */
    const int32_t *index;
    int longest, R;
    double pairs;        /* of tokens: the sum of the squares of the lengths */
    real scale;          /* 1 / sqrt(3 D) */
    const Dropout *drop; /* on the probabilities: row identity of query i in head a is drop->row[i] * A + a,
                            column is j */
} Attention;

/* The gradient's norm and what comes of it, in memory of the backend. */
typedef struct {
    double sum;  /* of squares so far */
    double norm; /* of the last step */
    double clip; /* times its gradients; NaN where the norm is not finite: nothing is updated */
} OpsNorm;

typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    double bias1, bias2; /* 1 - beta^t */
    const OpsNorm *norm; /* its clip counts */
} AdamwStep;

/* What a step comes to for one tensor, on a host backend. */
typedef struct {
    double lr, decay, clip, beta1, beta2, eps, bias1, bias2; /* decay: lr times weight decay, or 0 */
} AdamwRates;

static inline AdamwRates ops_adamw_rates(const AdamwStep *s, double rate, bool decays) {
    const double lr = s->lr * rate;
    const AdamwRates rates = {
        lr, decays ? lr * s->weight_decay : 0, s->norm->clip, s->beta1, s->beta2, s->eps, s->bias1, s->bias2};
    return rates;
}

/* One weight for adamw. */
typedef struct {
    real *p, *m, *v, *g; /* (n) */
    size_t n;
    double rate; /* times lr */
    bool decays;
} AdamwTensor;

/* AdamW on the rows of an embedding that were ever touched. */
typedef struct {
    real *table;         /* (V,H) */
    real *m, *v;         /* (rows,H) */
    const real *grad;    /* (slots,H) */
    const int32_t *ids;  /* (rows) row of the table */
    const int32_t *slot; /* (rows) row of grad, or -1: the gradient is zero in this step */
    const float *boost;  /* (rows) times lr in the step, not in the decay; NULL: 1 */
    int rows, H;
    int fresh; /* rows from this one on are multiplied by `owed` first: what earlier steps' decay left to do */
    double owed, rate; /* rate: times lr */
    const AdamwStep *step;
} AdamwRows;

enum { OPS_GROUP = 3 };

typedef struct Ops Ops;
struct Ops {
    const char *name, *precision; /* "fp32", "tf32" or "bf16" */
    Threads *threads;
    void *context;
    ErrCode failed;
    Err why;
    char hardware[64]; /* for people, where `device` is set: "NVIDIA H200" */
    bool device;       /* alloc gives memory that the program cannot touch */
    size_t act_bytes;  /* of one number of an Act array */
    size_t kept_bytes; /* memory that the backend holds for the weights it was bound to */

    /* ---- memory ---- */
    void *(*alloc)(Ops *o, size_t bytes); /* zeroed, 64-byte aligned; NULL when there is none */
    void (*release)(Ops *o, void *p);
    void (*put)(Ops *o, void *device, const void *host,
                size_t bytes); /* the host's may change when it returns */
    void (*get)(Ops *o, void *host, const void *device, size_t bytes); /* waits */
    void (*zero)(Ops *o, void *device, size_t bytes);
    ErrCode (*sync)(Ops *o, Err *err); /* waits; returns the first failure */
    void (*close)(Ops *o);
    /* Scratch for operations on up to so many rows, and for attention up to these sizes; after it and bind, no operation
     * allocates. To be called before bind. */
    ErrCode (*prepare)(Ops *o, int tokens, int longest, int A, int D, Err *err);
    /* Names the weights that linear and linear_grad will be called with (those of kind PARAM_LINEAR in the list;
     * data and the list's shapes stay until the next call; count 0 lets go of them), so that a backend may keep
     * them in a form of its own. train: gradients follow. */
    ErrCode (*bind)(Ops *o, const ParamView *list, size_t count, bool train, Err *err);
    /* Bound weights were written by something else than adamw. */
    void (*weights_changed)(Ops *o);

    /* ---- y = x (n), activations as real numbers */
    void (*widen)(Ops *o, real *y, const Act *x, size_t n);

    /* ---- y[n] = table[ids[n]]          y (N,H) table (V,H) ids (N) */
    void (*embed)(Ops *o, Act *y, const real *table, const int32_t *ids, int N, int H);
    /* dtable[slot[n]] += dy[n]; slot < 0 is left out.  dtable (slots,H) */
    void (*embed_grad)(Ops *o, real *dtable, const int32_t *slot, const real *dy, int N, int H);

    /* ---- z = x w^T + b; pre NULL: y = z; else pre = z, y = gelu(z) (exact, with erf).  x (N,I) w (O,I) b
     * (O) y, pre (N,O) */
    void (*linear)(Ops *o, Act *y, Act *pre, const Act *x, const real *w, const real *b, int N, int O, int I);
    /* dz = pre ? dy * gelu'(pre) : dy, which uses dy up; dx = dz w (added when add_dx; left out when dx is NULL);
     * dw += dz^T x; db += column sums of dz. */
    void (*linear_grad)(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const Act *x,
                        const real *w, const Act *pre, int N, int O, int I);
    /* Several layers of one input, such as queries, keys and values, count <= OPS_GROUP: y[i] = x w[i]^T + b[i]; and dx (+)=
     * the sum of dy[i] w[i], dw[i] += dy[i]^T x, db[i] += column sums. One product to a backend that makes it one. */
    void (*linear_group)(Ops *o, Act *const *y, const Act *x, const real *const *w, const real *const *b,
                         int count, int N, int O, int I);
    void (*linear_group_grad)(Ops *o, real *dx, int add_dx, real *const *dw, real *const *db, real *const *dy,
                              const Act *x, const real *const *w, int count, int N, int O, int I);
    /* linear and linear_grad on real numbers: pooler and classifier, whose rows are few and whose rounding would show */
    void (*linear_real)(Ops *o, real *y, real *pre, const real *x, const real *w, const real *b, int N, int O,
                        int I);
    void (*linear_real_grad)(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const real *x,
                             const real *w, const real *pre, int N, int O, int I);

    /* ---- s = dropout(x) + r (r may be NULL); xhat = (s - mean) * rstd; y = xhat * w + b.  eps is inside the
     * root. x, r, y, xhat (N,H); rstd (N); w, b (H).  xhat and rstd may be NULL when no gradient follows; y
     * may be x. */
    void (*norm)(Ops *o, Act *y, Act *xhat, real *rstd, const Act *x, const Act *r, const real *w,
                 const real *b, const Dropout *drop, int N, int H, real eps);
    /* ds from dy; dr = ds (NULL: left out), dx = dropout'(ds); dw, db added.  dx and dr differ from dy and
     * each other. */
    void (*norm_grad)(Ops *o, real *dx, real *dr, real *dw, real *db, const real *dy, const Act *xhat,
                      const real *rstd, const real *w, const Dropout *drop, int N, int H);

    /* ---- y = dropout(x) over rows; on real numbers also its own gradient.  y may be x.  (N,H) */
    void (*dropout)(Ops *o, Act *y, const Act *x, const Dropout *drop, int N, int H);
    void (*dropout_real)(Ops *o, real *y, const real *x, const Dropout *drop, int N, int H);

    /* ---- disentangled attention, one sequence and head at a time:
     * score(i,j) = (q_i.k_j + q_i.kr[idx(i-j)] + k_j.qr[idx(i-j)]) * scale, probabilities by softmax over j,
     * dropout, out_i = sum_j p(i,j) v_j.   q, k, v, out (N,H), kr, qr (R,H), head a in columns a*D .. a*D+D-1
     */
    void (*attention)(Ops *o, Act *out, const Act *q, const Act *k, const Act *v, const Act *kr,
                      const Act *qr, const Attention *shape);
    /* dkr and dqr are added to; probabilities are computed again from q, k, kr, qr. */
    void (*attention_grad)(Ops *o, real *dq, real *dk, real *dv, real *dkr, real *dqr, const real *dout,
                           const Act *q, const Act *k, const Act *v, const Act *kr, const Act *qr,
                           const Attention *shape);

    /* ---- rows: y[s] = x[at[s]]; and its gradient dx[n] = 0, then dx[at[s]] = dy[s].  (S,H) and (N,H) */
    void (*gather)(Ops *o, Act *y, const Act *x, const int32_t *at, int S, int H);
    void (*scatter)(Ops *o, real *dx, const real *dy, const int32_t *at, int N, int S, int H);

    /* ---- y += x (n) */
    void (*add)(Ops *o, real *y, const real *x, size_t n);

    /* ---- loss of row s: -weight[s] * sum_k target[s,k] log softmax(logits[s])_k, and dlogits = scale *
     * weight * (sum(target) softmax - target); K = 1: squared error weight * (logit - target)^2.  loss (S) is
     * not scaled.  weight NULL: 1. */
    void (*loss)(Ops *o, real *loss, real *dlogits, const real *logits, const real *target,
                 const real *weight, real scale, int S, int K);

    /* ---- norm->sum += sum of squares, in double, by fixed blocks.  x (n) */
    void (*sumsq)(Ops *o, OpsNorm *norm, const real *x, size_t n);
    /* norm->norm = sqrt(sum); clip = most / (norm + 1e-6) where that is less than 1, else 1 (most 0: always), NaN where
     * the norm is not finite; sum = 0 */
    void (*clip)(Ops *o, OpsNorm *norm, double most);
    /* ---- for each tensor, with lr' = lr rate and decay = decays ? lr' weight_decay : 0:
     *      g' = g * clip; m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2;
     *      p -= decay * p + lr' * (m / bias1) / (sqrt(v / bias2) + eps): one rounding of p a step.
     * g is zero afterwards. Where clip is NaN, all stay as they are. */
    void (*adamw)(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step);
    /* the same, with decay, for rows table[ids[r]] with moments r and the gradient of their slot, which is kept */
    void (*adamw_rows)(Ops *o, const AdamwRows *rows);
};

/* Opens a backend by name on a pool that outlives it; an unknown name lists those that this program has. "auto" takes
 * the fastest of this machine in the precision that is asked for. precision: "auto" (bf16 where the backend has it and is
 * measured to be faster with it), "fp32", "tf32" or "bf16", refused where the backend does not compute in it. */
ErrCode ops_open(Ops *o, const char *name, const char *precision, Threads *threads, Err *err) ERR_CHECKED;
void ops_close(Ops *o);
const char *ops_names(void); /* "auto, blas, cuda, ref, torch, x86" */

void ops_ref_fill(Ops *o);
ErrCode ops_blas_fill(Ops *o, Err *err) ERR_CHECKED;
ErrCode ops_x86_fill(Ops *o, bool bf16, Err *err) ERR_CHECKED;

#endif
