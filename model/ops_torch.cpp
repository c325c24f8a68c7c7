/* model/ops_torch.cpp - the backend "torch": every operation of model/ops.h by ATen, libtorch's tensor functions, on the
 * processor or on a CUDA device. A module (model/ops_module.h): the program needs libtorch neither to build nor to start.
 *
 * Tensors are views of the given buffers; results go there by ATen's out-variants, in-place functions, or a copy where
 * there are none. Gradients are ATen's own backward functions. Of temporaries ATen's allocator takes care: "no operation
 * allocates" does not hold here, nor does independence of the number of threads, which ATen and the BLAS below it do not
 * promise. With the same number of threads on a processor, results are the same. Nothing that ATen throws leaves this
 * file.
 *
 * The environment variable ROUTER_TORCH_DEVICE is cpu, cuda (the default where libtorch has it and there is a device) or
 * emulated: a processor whose memory is treated as a device's, which is how tests without a device reach that code.
 *
 * libtorch has threads of its own (OpenMP, and OpenBLAS or MKL), as many as the program's pool, which makes the dropout
 * masks alone. model/ops_module.c keeps those of OpenMP from spinning. */
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

extern "C" {
#include "core/mem.h"
#include "model/ops_module.h"
}

namespace {

using at::Tensor;

constexpr at::ScalarType REAL = c10::CppTypeToScalarType<real>::value;

struct Torch {
    at::Device device;
    bool on_host; /* memory is the program's own */
    int threads;
    std::unordered_map<void *, Tensor> held; /* what alloc gave, where it is not */

    Tensor view(const void *p, at::IntArrayRef sizes, at::ScalarType type) const {
        return at::for_blob(const_cast<void *>(p), sizes)
            .options(at::TensorOptions().dtype(type).device(device))
            .target_device(device)
            .make_tensor();
    }
    Tensor reals(const void *p, at::IntArrayRef sizes) const { return view(p, sizes, REAL); }
    Tensor bytes(const void *p, size_t n) const { return view(p, {static_cast<int64_t>(n)}, at::kByte); }
    /* Indices, as wide as ATen wants them. */
    Tensor indices(const int32_t *p, int64_t n) const { return view(p, {n}, at::kInt).to(at::kLong); }
    Tensor identities(const uint64_t *p, int64_t n) const { return view(p, {n}, at::kLong); }
    at::TensorOptions options(at::ScalarType type) const {
        return at::TensorOptions().dtype(type).device(device);
    }
    Tensor upload(const std::vector<int64_t> &list) const {
        return at::from_blob(const_cast<int64_t *>(list.data()), {static_cast<int64_t>(list.size())},
                             at::TensorOptions().dtype(at::kLong))
            .to(device, at::kLong, false, true);
    }
    /* Reads: on a device that waits. */
    std::vector<int32_t> download(const int32_t *p, int64_t n) const {
        const Tensor here = view(p, {n}, at::kInt).cpu();
        const int32_t *data = here.data_ptr<int32_t>();
        return {data, data + n};
    }
};

Torch &torch_of(const Ops *o) {
    return *static_cast<Torch *>(o->context);
}

/* ---- threads ---- */

/* The number is the process's: for ATen, OpenMP and MKL by ATen's function, which leaves OpenBLAS as it is. */
void use_threads(int count) {
    static int last = 0;
    if (count == last) return;
    at::set_num_threads(count);
    using Set = void (*)(int);
    const auto set = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
    if (set) set(count);
    last = count;
}

/* ---- failures ---- */

ErrCode tell(Err *err, ErrCode code, const char *what) {
    const char *end = std::strchr(what, '\n'); /* what follows is for those who build libtorch */
    const std::string line = end ? std::string(what, end) : std::string(what);
    return err_set(err, code, "libtorch: %s", line.c_str());
}

/* Runs body; what it throws becomes an error. */
template <class Body>
ErrCode caught(Err *err, Body &&body) noexcept {
    try {
        const c10::InferenceMode no_gradients;
        body();
        return ERR_OK;
    } catch (const std::bad_alloc &) {
        return err_set(err, ERR_MEMORY, "libtorch: out of memory");
    } catch (const c10::Error &e) {
        return tell(err, ERR_BACKEND, e.what_without_backtrace());
    } catch (const std::exception &e) {
        return tell(err, ERR_BACKEND, e.what());
    } catch (...) {
        return err_set(err, ERR_BACKEND, "libtorch failed without saying why");
    }
}

/* Runs an operation; after the first failure there are no more. */
template <class Body>
void run(Ops *o, Body &&body) noexcept {
    if (o->failed != ERR_OK) return;
    Err err = {};
    const ErrCode rc = caught(&err, [&] {
        const Torch &t = torch_of(o);
        use_threads(t.threads);
        body(t);
    });
    if (rc == ERR_OK) return;
    o->failed = rc;
    o->why = err;
}

/* ---- dropout masks: 0 or 1 / (1 - p) for every row and column ---- */

struct MaskTask {
    real *out;
    const int64_t *rows;
    int64_t count, cols, chunk;
    real factor;
    uint64_t key;
    uint32_t limit;
};

extern "C" void ops_torch_mask_rows(void *arg, size_t i, int thread) {
    (void)thread;
    const MaskTask &m = *static_cast<const MaskTask *>(arg);
    const int64_t from = static_cast<int64_t>(i) * m.chunk, to = std::min(from + m.chunk, m.count);
    for (int64_t r = from; r < to; r++) {
        const uint64_t key = ops_drop_row(m.key, static_cast<uint64_t>(m.rows[r]));
        real *out = m.out + r * m.cols;
        for (int64_t c = 0; c < m.cols; c++)
            out[c] = ops_drop_bits(key, static_cast<uint32_t>(c)) >= m.limit ? m.factor : 0;
    }
}

int64_t signed_of(uint64_t bits) {
    int64_t n;
    std::memcpy(&n, &bits, sizeof n);
    return n;
}
int64_t signed_of(uint32_t bits) {
    int32_t n;
    std::memcpy(&n, &bits, sizeof n);
    return n;
}

/* x ^= x >> n, x being unsigned numbers of `bits` bits in tensors of signed ones. */
void fold(Tensor &x, int n, int bits) {
    x.bitwise_xor_(x.bitwise_right_shift(n).bitwise_and_((int64_t{1} << (bits - n)) - 1));
}

/* ops_drop_row and ops_drop_bits, as tensors: what wraps around there wraps around in ATen's integers. */
Tensor mask_of_tensors(const Torch &t, const Tensor &rows, int64_t cols, real p, uint64_t key) {
    Tensor k = rows.mul(signed_of(uint64_t{0x9e3779b97f4a7c15u})).bitwise_xor_(signed_of(key));
    fold(k, 30, 64);
    k.mul_(signed_of(uint64_t{0xbf58476d1ce4e5b9u}));
    fold(k, 27, 64);
    k.mul_(signed_of(uint64_t{0x94d049bb133111ebu}));
    fold(k, 31, 64);
    const Tensor halves = k.view(at::kInt).view({rows.numel(), 2}); /* low, high */
    const Tensor column = at::arange(cols, t.options(at::kInt)).mul_(signed_of(0x9e3779b1u));
    Tensor x = halves.narrow(1, 0, 1) + column;
    fold(x, 16, 32);
    x.mul_(signed_of(0x7feb352du)).add_(halves.narrow(1, 1, 1));
    fold(x, 15, 32);
    x.mul_(signed_of(0x846ca68bu));
    fold(x, 16, 32);
    const uint32_t sign = 0x80000000u; /* turned, so that signed numbers compare as unsigned ones */
    x.bitwise_xor_(signed_of(sign));
    return x.ge(signed_of(ops_drop_limit(p) ^ sign)).to(REAL).mul_(1 / (1 - p));
}

/* (rows, cols) */
Tensor mask(const Torch &t, Threads *threads, const Tensor &rows, int64_t cols, real p, uint64_t key) {
    if (!t.on_host) return mask_of_tensors(t, rows, cols, p, key);
    Tensor out = at::empty({rows.numel(), cols}, t.options(REAL));
    const int64_t chunk = 1 + 16384 / cols;
    MaskTask task = {
        out.data_ptr<real>(), rows.data_ptr<int64_t>(), rows.numel(), cols, chunk, 1 / (1 - p), key,
        ops_drop_limit(p)};
    threads_run(threads, ops_torch_mask_rows, &task, static_cast<size_t>((task.count + chunk - 1) / chunk));
    return out;
}

Tensor mask_of(const Torch &t, Threads *threads, const Dropout *drop, int N, int H) {
    return mask(t, threads, t.identities(drop->row, N), H, drop->p, drop->key);
}

/* ---- attention ---- */

/* Consecutive sequences that are computed at once, padded to the longest. */
struct Group {
    int count;
    int64_t begin, tokens, L;
    Tensor token; /* (count L) of each place in (count, L), a padding place that of the last token before */
    Tensor place; /* (tokens) and back; undefined: all */
    Tensor past;  /* (count, 1, 1, L) is padding; undefined: none */
};

Group group_of(const Torch &t, const int32_t *start, int count, int64_t L) {
    Group g = {count, start[0], start[count] - start[0], L, {}, {}, {}};
    std::vector<int64_t> token, place, past;
    for (int s = 0; s < count; s++)
        for (int64_t i = 0; i < L; i++) {
            const int64_t length = start[s + 1] - start[s];
            if (i < length) place.push_back(s * L + i);
            past.push_back(i >= length);
            token.push_back(start[s] + std::min(i, length - 1));
        }
    g.token = t.upload(token);
    if (place.size() == token.size()) return g;
    g.place = t.upload(place);
    g.past = t.upload(past).to(at::kBool).view({count, 1, 1, L});
    return g;
}

/* How many sequences from the first one on make a group, and their longest: not too much padding, and scores (numbers of
 * all heads) that stay in a processor's cache, or in a part of a device's memory. */
int group_size(const Torch &t, const int32_t *start, int sequences, int A, int64_t *longest) {
    const int64_t most = t.on_host ? 1 << 18 : 1 << 26;
    int64_t L = 0;
    int count = 0;
    while (count < sequences) {
        const int64_t wide = std::max<int64_t>(L, start[count + 1] - start[count]), rows = (count + 1) * wide;
        if (count && (4 * rows > 5 * (start[count + 1] - start[0]) || rows * wide * A > most)) break;
        L = wide;
        count++;
    }
    *longest = L;
    return count;
}

struct Heads {
    const Torch &t;
    Threads *threads;
    const Attention *s;
    int64_t A, D, H, span; /* span: distances, 2 longest - 1 */
    Tensor down;   /* rows of the tables for the distances from the largest to the smallest, and ... */
    Tensor up;     /* ... the other way around (span) */
    Tensor kr, qr; /* by distance down and up (A,span,D) */

    Heads(const Torch &torch, Threads *pool, const Attention *shape, const void *key_table,
          const void *query_table)
        : t(torch),
          threads(pool),
          s(shape),
          A(shape->A),
          D(shape->D),
          H(A * D),
          span(2 * static_cast<int64_t>(shape->longest) - 1) {
        up = t.indices(s->index, span);
        down = up.flip(0);
        kr = rows_of(key_table, down);
        qr = rows_of(query_table, up);
    }
    Tensor rows_of(const void *table, const Tensor &rows) const {
        return t.reals(table, {s->R, H}).index_select(0, rows).view({span, A, D}).transpose(0, 1);
    }
    /* (count,A,L,D) from (N,H), and back to the group's rows of it */
    Tensor take(const void *x, const Group &g) const {
        const Tensor rows = t.reals(x, {s->packed->N, H}).index_select(0, g.token);
        return rows.view({g.count, g.L, A, D}).transpose(1, 2);
    }
    void give(void *x, const Group &g, const Tensor &from) const {
        const Tensor rows = from.transpose(1, 2).reshape({g.count * g.L, H});
        t.reals(x, {s->packed->N, H})
            .narrow(0, g.begin, g.tokens)
            .copy_(g.place.defined() ? rows.index_select(0, g.place) : rows);
    }
    /* The distances that L positions have, of a table of all. */
    Tensor within(const Tensor &table, const Group &g) const {
        return table.narrow(1, s->longest - g.L, 2 * g.L - 1);
    }
    /* Of a contiguous (count,A,L,2L-1) that has a column for each distance from -(L-1) on, the entry of row i and
     * distance j - i as [i,j]: each row begins one column earlier than the one before. No two entries are one. */
    Tensor skewed(const Tensor &x, const Group &g) const {
        const int64_t rows = g.L * (2 * g.L - 1);
        return x.as_strided({g.count, A, g.L, g.L}, {A * rows, rows, 2 * g.L - 2, 1}, g.L - 1);
    }
    Tensor probabilities(const Tensor &q, const Tensor &k, const Group &g) const {
        Tensor scores = at::matmul(q, k.transpose(2, 3));
        scores.add_(skewed(at::matmul(q, within(kr, g).transpose(1, 2)).contiguous(), g));
        scores.add_(skewed(at::matmul(k, within(qr, g).transpose(1, 2)).contiguous(), g).transpose(2, 3));
        scores.mul_(s->scale);
        if (g.past.defined()) scores.masked_fill_(g.past, -std::numeric_limits<double>::infinity());
        return at::_softmax(scores, 3, false);
    }
    /* (count,A,L,L) */
    Tensor dropped(const Group &g) const {
        const Tensor row = t.identities(s->drop->row, s->packed->N).index_select(0, g.token);
        const Tensor head = at::arange(A, t.options(at::kLong)).view({1, A, 1});
        const Tensor rows = row.view({g.count, 1, g.L}).mul(A).add(head).reshape({-1});
        return mask(t, threads, rows, g.L, s->drop->p, s->drop->key).view({g.count, A, g.L, g.L});
    }
    template <class Body>
    void groups(Body &&body) const {
        const int S = s->packed->S;
        const std::vector<int32_t> start = t.download(s->packed->start, S + 1);
        for (int from = 0; from < S;) {
            int64_t L;
            const int count = group_size(t, &start[static_cast<size_t>(from)], S - from, s->A, &L);
            body(group_of(t, &start[static_cast<size_t>(from)], count, L));
            from += count;
        }
    }
};

void attend(const Heads &h, void *out, const void *q, const void *k, const void *v) {
    h.groups([&](const Group &g) {
        Tensor p = h.probabilities(h.take(q, g), h.take(k, g), g);
        if (h.s->drop->p > 0) p.mul_(h.dropped(g));
        h.give(out, g, at::matmul(p, h.take(v, g)));
    });
}

struct HeadGrads {
    real *dq, *dk, *dv, *dkr, *dqr;
    const real *dout;
};

void attend_grad(const Heads &h, const HeadGrads &d, const void *q_rows, const void *k_rows,
                 const void *v_rows) {
    Tensor dkr = at::zeros({h.A, h.span, h.D}, h.t.options(REAL)), dqr = at::zeros_like(dkr);
    h.groups([&](const Group &g) {
        const Tensor q = h.take(q_rows, g), k = h.take(k_rows, g), v = h.take(v_rows, g);
        Tensor dout = h.take(d.dout, g);
        /* the padding would be counted as the token that it repeats */
        if (g.past.defined()) dout = dout.masked_fill(g.past.transpose(2, 3), 0);
        const Tensor p = h.probabilities(q, k, g);
        Tensor dp = at::matmul(dout, v.transpose(2, 3));
        if (h.s->drop->p > 0) {
            const Tensor keep = h.dropped(g);
            dp.mul_(keep);
            h.give(d.dv, g, at::matmul(p.mul(keep).transpose(2, 3), dout));
        } else {
            h.give(d.dv, g, at::matmul(p.transpose(2, 3), dout));
        }
        const Tensor ds = at::_softmax_backward_data(dp, p, 3, REAL).mul_(h.s->scale);
        const Tensor by_query = at::zeros({g.count, h.A, g.L, 2 * g.L - 1}, h.t.options(REAL)),
                     by_key = at::zeros_like(by_query);
        h.skewed(by_query, g).copy_(ds);
        h.skewed(by_key, g).copy_(ds.transpose(2, 3));
        h.give(d.dq, g, at::matmul(ds, k).add_(at::matmul(by_query, h.within(h.kr, g))));
        h.give(d.dk, g, at::matmul(ds.transpose(2, 3), q).add_(at::matmul(by_key, h.within(h.qr, g))));
        h.within(dkr, g).add_(at::matmul(by_query.transpose(2, 3), q).sum(0));
        h.within(dqr, g).add_(at::matmul(by_key.transpose(2, 3), k).sum(0));
    });
    const auto add = [&](real *table, const Tensor &rows, const Tensor &x) {
        h.t.reals(table, {h.s->R, h.H}).index_add_(0, rows, x.transpose(0, 1).reshape({h.span, h.H}));
    };
    add(d.dkr, h.down, dkr);
    add(d.dqr, h.up, dqr);
}

/* ---- pieces of operations ---- */

void linear_into(const Torch &t, void *y, void *pre, const void *x, const real *w, const real *b, int N,
                 int O, int I) {
    Tensor z = t.reals(pre ? pre : y, {N, O});
    at::addmm_out(z, t.reals(b, {O}), t.reals(x, {N, I}), t.reals(w, {O, I}).t());
    if (!pre) return;
    Tensor out = t.reals(y, {N, O});
    at::gelu_out(out, z);
}

void linear_gradients(const Torch &t, real *dx, int add_dx, real *dw, real *db, real *dy, const void *x,
                      const real *w, const void *pre, int N, int O, int I) {
    Tensor dz = t.reals(dy, {N, O});
    if (pre) at::gelu_backward_out(dz, dz, t.reals(pre, {N, O}));
    if (dx) {
        Tensor to = t.reals(dx, {N, I});
        if (add_dx)
            to.addmm_(dz, t.reals(w, {O, I}));
        else
            at::mm_out(to, dz, t.reals(w, {O, I}));
    }
    t.reals(dw, {O, I}).addmm_(dz.t(), t.reals(x, {N, I}));
    t.reals(db, {O}).add_(dz.sum(0));
}

/* y[i] = x[at[i]]. How many rows x has is not said; that it has those is. */
void take_rows(const Torch &t, void *y, const void *x, const int32_t *at, int rows, int H) {
    const Tensor index = t.indices(at, rows);
    Tensor to = t.reals(y, {rows, H});
    at::index_select_out(to, t.reals(x, {index.max().item<int64_t>() + 1, H}), 0, index);
}

void drop_into(const Torch &t, Threads *threads, void *y, const void *x, const Dropout *drop, int N, int H) {
    Tensor to = t.reals(y, {N, H});
    if (drop->p > 0)
        at::mul_out(to, t.reals(x, {N, H}), mask_of(t, threads, drop, N, H));
    else if (x != y)
        to.copy_(t.reals(x, {N, H}));
}

Tensor norm_of(const Torch &t, const OpsNorm *norm) {
    static_assert(sizeof(OpsNorm) == 3 * sizeof(double), "sum, norm, clip");
    return t.view(norm, {3}, at::kDouble);
}

/* p, m and v with the gradient g, which is used up. */
void step_weights(const Tensor &p, const Tensor &m, const Tensor &v, const Tensor &g, const AdamwRates &a,
                  const Tensor &boost = Tensor()) {
    if (a.clip != 1) g.mul_(a.clip);
    m.mul_(a.beta1).add_(g, 1 - a.beta1);
    v.mul_(a.beta2).addcmul_(g, g, 1 - a.beta2);
    const Tensor step = m.div(v.div(a.bias2).sqrt_().add_(a.eps)).mul_(a.lr / a.bias1);
    if (boost.defined()) step.mul_(boost);
    if (a.decay != 0) step.add_(p, a.decay);
    p.sub_(step);
}

/* Rates with the clip of the device, which may wait. */
AdamwRates rates_of(const Torch &t, const AdamwStep *step, double rate, bool decays) {
    OpsNorm here = {0, 0, norm_of(t, step->norm)[2].item<double>()};
    AdamwStep s = *step;
    s.norm = &here;
    return ops_adamw_rates(&s, rate, decays);
}

} // namespace

/* ---- the entries ---- */

extern "C" {

static void *torch_alloc(Ops *o, size_t bytes) noexcept {
    Torch &t = torch_of(o);
    if (t.on_host) return mem_alloc(bytes, 1);
    void *p = nullptr;
    const ErrCode rc = caught(nullptr, [&] {
        const Tensor block = at::zeros({static_cast<int64_t>(bytes ? bytes : 1)}, t.options(at::kByte));
        t.held.emplace(block.data_ptr(), block);
        p = block.data_ptr();
    });
    return rc == ERR_OK ? p : nullptr;
}

static void torch_release(Ops *o, void *p) noexcept {
    Torch &t = torch_of(o);
    if (t.on_host)
        mem_free(p);
    else
        t.held.erase(p);
}

static void torch_put(Ops *o, void *device, const void *host, size_t bytes) noexcept {
    if (bytes == 0) return;
    run(o, [&](const Torch &t) {
        if (t.on_host)
            std::memcpy(device, host, bytes);
        else
            t.bytes(device, bytes)
                .copy_(at::from_blob(const_cast<void *>(host), {static_cast<int64_t>(bytes)}, at::kByte));
    });
}

static void torch_get(Ops *o, void *host, const void *device, size_t bytes) noexcept {
    if (bytes == 0) return;
    run(o, [&](const Torch &t) {
        if (t.on_host)
            std::memcpy(host, device, bytes);
        else
            at::from_blob(host, {static_cast<int64_t>(bytes)}, at::kByte).copy_(t.bytes(device, bytes));
    });
}

static void torch_zero(Ops *o, void *device, size_t bytes) noexcept {
    if (bytes == 0) return;
    run(o, [&](const Torch &t) {
        if (t.on_host)
            std::memset(device, 0, bytes);
        else
            t.bytes(device, bytes).zero_();
    });
}

static ErrCode torch_sync(Ops *o, Err *err) noexcept {
    run(o, [&](const Torch &t) { /* a copy from the device waits for what was called before it */
                                 if (!t.on_host) (void)at::zeros({1}, t.options(at::kByte)).cpu();
    });
    if (o->failed != ERR_OK && err) *err = o->why;
    return o->failed;
}

static void torch_close(Ops *o) noexcept {
    delete static_cast<Torch *>(o->context);
    o->context = nullptr;
}

static ErrCode torch_prepare(Ops *o, int tokens, int longest, int A, int D, Err *err) noexcept {
    (void)o, (void)tokens, (void)longest, (void)A, (void)D, (void)err;
    return ERR_OK;
}

static ErrCode torch_bind(Ops *o, const ParamView *list, size_t count, bool train, Err *err) noexcept {
    (void)o, (void)list, (void)count, (void)train, (void)err;
    return ERR_OK;
}

static void torch_weights_changed(Ops *o) noexcept {
    (void)o;
}

static void torch_widen(Ops *o, real *y, const Act *x, size_t n) noexcept {
    if (n) run(o, [&](const Torch &t) { t.bytes(y, n * sizeof *y).copy_(t.bytes(x, n * sizeof *y)); });
}

static void torch_embed(Ops *o, Act *y, const real *table, const int32_t *ids, int N, int H) noexcept {
    if (N) run(o, [&](const Torch &t) { take_rows(t, y, table, ids, N, H); });
}

static void torch_embed_grad(Ops *o, real *dtable, const int32_t *slot, const real *dy, int N,
                             int H) noexcept {
    if (N == 0) return;
    run(o, [&](const Torch &t) {
        const Tensor slots = t.indices(slot, N), at = slots.ge(0).nonzero().squeeze(1);
        if (at.numel() == 0) return;
        const Tensor row = slots.index_select(0, at), x = t.reals(dy, {N, H}).index_select(0, at);
        const Tensor to = t.reals(dtable, {row.max().item<int64_t>() + 1, H});
        if (t.device.is_cpu())
            to.index_add_(0, row, x);
        else
            to.index_put_({row}, x, true); /* sorts; index_add would add in an order of chance */
    });
}

static void torch_linear(Ops *o, Act *y, Act *pre, const Act *x, const real *w, const real *b, int N, int O,
                         int I) noexcept {
    if (N) run(o, [&](const Torch &t) { linear_into(t, y, pre, x, w, b, N, O, I); });
}

static void torch_linear_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const Act *x,
                              const real *w, const Act *pre, int N, int O, int I) noexcept {
    if (N) run(o, [&](const Torch &t) { linear_gradients(t, dx, add_dx, dw, db, dy, x, w, pre, N, O, I); });
}

static void torch_linear_group(Ops *o, Act *const *y, const Act *x, const real *const *w,
                               const real *const *b, int count, int N, int O, int I) noexcept {
    for (int i = 0; i < count; i++) torch_linear(o, y[i], nullptr, x, w[i], b[i], N, O, I);
}

static void torch_linear_group_grad(Ops *o, real *dx, int add_dx, real *const *dw, real *const *db,
                                    real *const *dy, const Act *x, const real *const *w, int count, int N,
                                    int O, int I) noexcept {
    for (int i = 0; i < count; i++)
        torch_linear_grad(o, dx, add_dx || i, dw[i], db[i], dy[i], x, w[i], nullptr, N, O, I);
}

static void torch_linear_real(Ops *o, real *y, real *pre, const real *x, const real *w, const real *b, int N,
                              int O, int I) noexcept {
    torch_linear(o, y, pre, x, w, b, N, O, I);
}

static void torch_linear_real_grad(Ops *o, real *dx, int add_dx, real *dw, real *db, real *dy, const real *x,
                                   const real *w, const real *pre, int N, int O, int I) noexcept {
    torch_linear_grad(o, dx, add_dx, dw, db, dy, x, w, pre, N, O, I);
}

static void torch_norm(Ops *o, Act *y, Act *xhat, real *rstd, const Act *x, const Act *r, const real *w,
                       const real *b, const Dropout *drop, int N, int H, real eps) noexcept {
    if (N == 0) return;
    run(o, [&](const Torch &t) {
        Tensor s = t.reals(x, {N, H});
        if (drop->p > 0) s = s.mul(mask_of(t, o->threads, drop, N, H));
        if (r) s = s.add(t.reals(r, {N, H}));
        const auto [unused, mean, inverse] =
            at::native_layer_norm(s, {H}, c10::nullopt, c10::nullopt, static_cast<double>(eps));
        /* what is given out for s is s inverse - mean inverse, in which a small deviation is lost */
        const Tensor normed = s.sub(mean).mul_(inverse);
        if (xhat) t.reals(xhat, {N, H}).copy_(normed);
        if (rstd) t.reals(rstd, {N, 1}).copy_(inverse);
        Tensor to = t.reals(y, {N, H});
        at::addcmul_out(to, t.reals(b, {H}), normed, t.reals(w, {H}));
    });
}

static void torch_norm_grad(Ops *o, real *dx, real *dr, real *dw, real *db, const real *dy, const Act *xhat,
                            const real *rstd, const real *w, const Dropout *drop, int N, int H) noexcept {
    if (N == 0) return;
    run(o, [&](const Torch &t) {
        /* of an input that is normalised already; then by what normalised it */
        const Tensor mean = at::zeros({N, 1}, t.options(REAL)), one = at::ones({N, 1}, t.options(REAL));
        const auto [ds, scale, bias] =
            at::native_layer_norm_backward(t.reals(dy, {N, H}), t.reals(xhat, {N, H}), {H}, mean, one,
                                           t.reals(w, {H}), t.reals(w, {H}), {true, true, true});
        ds.mul_(t.reals(rstd, {N, 1}));
        Tensor to = t.reals(dx, {N, H});
        if (dr) t.reals(dr, {N, H}).copy_(ds);
        if (drop->p > 0)
            at::mul_out(to, ds, mask_of(t, o->threads, drop, N, H));
        else
            to.copy_(ds);
        t.reals(dw, {H}).add_(scale);
        t.reals(db, {H}).add_(bias);
    });
}

static void torch_dropout(Ops *o, Act *y, const Act *x, const Dropout *drop, int N, int H) noexcept {
    if (N) run(o, [&](const Torch &t) { drop_into(t, o->threads, y, x, drop, N, H); });
}

static void torch_dropout_real(Ops *o, real *y, const real *x, const Dropout *drop, int N, int H) noexcept {
    torch_dropout(o, y, x, drop, N, H);
}

static void torch_attention(Ops *o, Act *out, const Act *q, const Act *k, const Act *v, const Act *kr,
                            const Act *qr, const Attention *shape) noexcept {
    if (shape->packed->S == 0) return;
    run(o, [&](const Torch &t) { attend(Heads(t, o->threads, shape, kr, qr), out, q, k, v); });
}

static void torch_attention_grad(Ops *o, real *dq, real *dk, real *dv, real *dkr, real *dqr, const real *dout,
                                 const Act *q, const Act *k, const Act *v, const Act *kr, const Act *qr,
                                 const Attention *shape) noexcept {
    if (shape->packed->S == 0) return;
    run(o, [&](const Torch &t) {
        attend_grad(Heads(t, o->threads, shape, kr, qr), {dq, dk, dv, dkr, dqr, dout}, q, k, v);
    });
}

static void torch_gather(Ops *o, Act *y, const Act *x, const int32_t *at, int S, int H) noexcept {
    if (S) run(o, [&](const Torch &t) { take_rows(t, y, x, at, S, H); });
}

static void torch_scatter(Ops *o, real *dx, const real *dy, const int32_t *at, int N, int S, int H) noexcept {
    if (N == 0) return;
    run(o, [&](const Torch &t) {
        t.reals(dx, {N, H}).zero_().index_copy_(0, t.indices(at, S), t.reals(dy, {S, H}));
    });
}

static void torch_add(Ops *o, real *y, const real *x, size_t n) noexcept {
    const auto count = static_cast<int64_t>(n);
    if (n) run(o, [&](const Torch &t) { t.reals(y, {count}).add_(t.reals(x, {count})); });
}

static void torch_loss(Ops *o, real *loss, real *dlogits, const real *logits, const real *target,
                       const real *weight, real scale, int S, int K) noexcept {
    if (S == 0) return;
    run(o, [&](const Torch &t) {
        /* few numbers, and a sure prediction's gradient is what is left of 1 - 1: in double */
        const auto wide = [&](const real *p, int cols) { return t.reals(p, {S, cols}).to(at::kDouble); };
        const Tensor z = wide(logits, K), wanted = wide(target, K);
        const Tensor w = weight ? wide(weight, 1) : at::ones({S, 1}, z.options()); /* of each row */
        Tensor to = t.reals(loss, {S, 1}), dz = t.reals(dlogits, {S, K});
        if (K == 1) {
            to.copy_(at::mse_loss(z, wanted, at::Reduction::None).mul_(w));
            dz.copy_(at::mse_loss_backward(w.mul(scale), z, wanted, at::Reduction::None));
            return;
        }
        const Tensor logs = at::_log_softmax(z, 1, false);
        to.copy_(logs.mul(wanted).sum(1, true).neg_().mul_(w));
        dz.copy_(at::_log_softmax_backward_data(wanted.mul(w).mul_(-scale), logs, 1, at::kDouble));
    });
}

static void torch_sumsq(Ops *o, OpsNorm *norm, const real *x, size_t n) noexcept {
    run(o, [&](const Torch &t) {
        const int64_t block = 4096, slab = 256 * block, count = static_cast<int64_t>(n);
        Tensor sum = norm_of(t, norm)[0];
        for (int64_t at = 0; at < count; at += slab) { /* a temporary of doubles no larger than that */
            const int64_t here = std::min(slab, count - at), whole = here / block * block;
            const Tensor squares = t.reals(x + at, {here}).to(at::kDouble, false, true).square_();
            if (whole) sum.add_(squares.narrow(0, 0, whole).view({-1, block}).sum(1).sum());
            if (whole < here) sum.add_(squares.narrow(0, whole, here - whole).sum());
        }
    });
}

static void torch_clip(Ops *o, OpsNorm *norm, double most) noexcept {
    run(o, [&](const Torch &t) {
        const Tensor all = norm_of(t, norm), sum = all[0], root = all[1], clip = all[2];
        root.copy_(sum.sqrt());
        sum.zero_();
        const Tensor none = at::full({}, std::numeric_limits<double>::quiet_NaN(), t.options(at::kDouble));
        const Tensor factor =
            most > 0 ? root.add(1e-6).reciprocal_().mul_(most).clamp_max_(1) : at::ones_like(root);
        clip.copy_(at::where(root.isfinite(), factor, none));
    });
}

static void torch_adamw(Ops *o, const AdamwTensor *list, size_t count, const AdamwStep *step) noexcept {
    run(o, [&](const Torch &t) {
        AdamwRates rates = rates_of(t, step, 1, false);
        if (std::isnan(rates.clip)) return;
        for (size_t i = 0; i < count; i++) {
            const AdamwTensor &a = list[i];
            const auto n = static_cast<int64_t>(a.n);
            rates.lr = step->lr * a.rate;
            rates.decay = a.decays ? rates.lr * step->weight_decay : 0;
            const Tensor g = t.reals(a.g, {n});
            step_weights(t.reals(a.p, {n}), t.reals(a.m, {n}), t.reals(a.v, {n}), g, rates);
            g.zero_();
        }
    });
}

static void torch_adamw_rows(Ops *o, const AdamwRows *a) noexcept {
    if (a->rows == 0) return;
    run(o, [&](const Torch &t) {
        const AdamwRates rates = rates_of(t, a->step, a->rate, true);
        if (std::isnan(rates.clip)) return;
        const int64_t rows = a->rows, H = a->H, fresh = std::min<int64_t>(a->fresh, rows);
        const Tensor ids = t.indices(a->ids, rows), slot = t.indices(a->slot, rows);
        const Tensor table = t.reals(a->table, {ids.max().item<int64_t>() + 1, H});
        const Tensor p = table.index_select(0, ids);
        Tensor g = at::zeros({rows, H}, t.options(REAL));
        const int64_t slots = slot.max().item<int64_t>() + 1;
        if (slots > 0) {
            g = t.reals(a->grad, {slots, H}).index_select(0, slot.clamp_min(0));
            g.masked_fill_(slot.lt(0).unsqueeze(1), 0);
        }
        if (fresh < rows) p.narrow(0, fresh, rows - fresh).mul_(a->owed);
        const Tensor boost = a->boost ? t.view(a->boost, {rows, 1}, at::kFloat).to(REAL) : Tensor();
        step_weights(p, t.reals(a->m, {rows, H}), t.reals(a->v, {rows, H}), g, rates, boost);
        table.index_copy_(0, ids, p);
    });
}

static ErrCode choose_device(Torch *t, Err *err) {
    const char *given = std::getenv("ROUTER_TORCH_DEVICE");
    const std::string name = given ? given : "";
    const bool cuda = at::hasCUDA();
    if (name != "" && name != "cpu" && name != "cuda" && name != "emulated")
        return err_set(err, ERR_ARGUMENT,
                       "ROUTER_TORCH_DEVICE: found '%s', expected cpu, cuda or emulated (tests)", given);
    if (name == "cuda" && !cuda)
        return err_set(
            err, ERR_BACKEND,
            "backend torch: this libtorch finds no CUDA device; ROUTER_TORCH_DEVICE=cpu goes without");
    if (cuda && (name == "" || name == "cuda")) t->device = at::Device(at::kCUDA, 0);
    t->on_host = t->device.is_cpu() && name != "emulated";
    return ERR_OK;
}

static void fill_entries(Ops *o) {
    o->alloc = torch_alloc;
    o->release = torch_release;
    o->put = torch_put;
    o->get = torch_get;
    o->zero = torch_zero;
    o->sync = torch_sync;
    o->close = torch_close;
    o->prepare = torch_prepare;
    o->bind = torch_bind;
    o->weights_changed = torch_weights_changed;
    o->widen = torch_widen;
    o->embed = torch_embed;
    o->embed_grad = torch_embed_grad;
    o->linear = torch_linear;
    o->linear_grad = torch_linear_grad;
    o->linear_group = torch_linear_group;
    o->linear_group_grad = torch_linear_group_grad;
    o->linear_real = torch_linear_real;
    o->linear_real_grad = torch_linear_real_grad;
    o->norm = torch_norm;
    o->norm_grad = torch_norm_grad;
    o->dropout = torch_dropout;
    o->dropout_real = torch_dropout_real;
    o->attention = torch_attention;
    o->attention_grad = torch_attention_grad;
    o->gather = torch_gather;
    o->scatter = torch_scatter;
    o->add = torch_add;
    o->loss = torch_loss;
    o->sumsq = torch_sumsq;
    o->clip = torch_clip;
    o->adamw = torch_adamw;
    o->adamw_rows = torch_adamw_rows;
}

static ErrCode torch_fill(Ops *o, const char *precision, Err *err) noexcept {
    if (std::strcmp(precision, "auto") != 0 && std::strcmp(precision, "fp32") != 0)
        return err_set(err, ERR_ARGUMENT, "precision: found %s, but backend torch computes in fp32",
                       precision);
    Torch *t = new (std::nothrow) Torch{at::Device(at::kCPU), true, threads_count(o->threads), {}};
    if (!t) return err_set(err, ERR_MEMORY, "out of memory for the torch backend");
    ErrCode chosen = ERR_OK;
    ErrCode rc = caught(err, [&] {
        chosen = choose_device(t, err);
        use_threads(t->threads);
    });
    if (rc == ERR_OK) rc = chosen;
    if (rc != ERR_OK) {
        delete t;
        return rc;
    }
    fill_entries(o);
    o->context = t;
    o->name = "torch";
    o->precision = "fp32";
    o->device = !t->on_host;
    (void)std::snprintf(o->hardware, sizeof o->hardware, "%s", t->device.is_cpu() ? "emulated" : "CUDA");
    o->act_bytes = sizeof(real);
    return ERR_OK;
}

extern __attribute__((visibility("default"))) const OpsModule ops_module;
const OpsModule ops_module = {sizeof(Ops), ROUTER_VERSION, torch_fill};
}
