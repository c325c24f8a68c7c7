/* tests/test_torch.cpp - the whole model against one of libtorch's functions and their automatic gradients, on random
 * shapes.
 *
 * usage: test_torch [CASES]
 *
 * The peer is written from the formulas of model/deberta.h, in double precision, one sequence at a time and without a
 * backward pass of its own. It shares with the model the configuration, the list of weights, and the two functions that
 * make a dropout mask's bits. Compared are logits (training and inference), loss, and the gradient of every weight, rows
 * of the word embedding included. Built twice: with the model in float (backends blas, x86 and torch as a module), and in
 * double (ref, and torch linked). */
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

extern "C" {
#include "core/mem.h"
#include "core/rng.h"
#include "core/threads.h"
#include "model/deberta.h"
#include "model/ops_module.h"
extern const OpsModule ops_module; /* in double: linked */
}

using at::Tensor;

namespace {

#ifdef ROUTER_DOUBLE
/* Both sides are double: what is left is 1e-16, times the length of sums and what sharp attention and small deviations in
 * a norm make of it. A wrong term is larger by far. */
const double LOGITS = 1e-11, LOSS = 1e-11, GRADS = 1e-10;
const char *const BACKENDS[] = {"ref", "torch"};
#else
/* Float has 6e-8. A few hundred products to a sum, about ten sums in a row to a layer, and softmax of scores up to about
 * ten, whose error it multiplies by their size, give 1e-5 of the largest; gradients go the same way twice. */
const double LOGITS = 2e-5, LOSS = 2e-5, GRADS = 3e-4;
const char *const BACKENDS[] = {"blas", "x86", "torch"};
#endif

const double INF = std::numeric_limits<double>::infinity();
uint64_t seed, drawn;
int failures;

int draw(int below) {
    return static_cast<int>(rng_bits(seed, drawn++) % static_cast<uint64_t>(below));
}
int pick(std::initializer_list<int> list) {
    return list.begin()[draw(static_cast<int>(list.size()))];
}
double normal() {
    return rng_normal(seed, drawn++);
}

/* ---- a case ---- */

struct Case {
    Config config;
    std::vector<char *> labels;
    std::vector<int32_t> ids, start;
    std::vector<int> cuts; /* micro-batches: sequences cuts[i] .. cuts[i+1]-1 */
    std::vector<real> target, weight;
    bool dropping, weighted, all_hidden, recompute;
    uint64_t key;
    real scale;
    int longest;
};

void random_config(Case *c) {
    static char label[] = "label";
    const int A = pick({1, 2, 3, 4, 6}), D = pick({4, 5, 8, 16, 24, 32}), B = pick({2, 4, 7, 8, 16, 64});
    c->labels.assign(8, label);
    c->config = {};
    c->config.vocab_size = pick({7, 50, 300});
    c->config.hidden_size = A * D;
    c->config.num_attention_heads = A;
    c->config.num_hidden_layers = pick({1, 2, 3, 5});
    c->config.intermediate_size = pick({1, 6, 33, 64, 130});
    c->config.position_buckets = B;
    c->config.max_relative_positions = B / 2 + 2 + pick({0, 1, 5, 30, 500});
    c->config.max_position_embeddings = 512;
    c->config.pad_token_id = pick({0, 3});
    c->config.num_labels = pick({1, 1, 2, 3, 8});
    c->config.layer_norm_eps = 1e-7;
    c->config.initializer_range = 0.02;
    c->dropping = draw(3) > 0;
    c->config.hidden_dropout_prob = pick({0, 10, 30}) / 100.0;
    c->config.attention_probs_dropout_prob = pick({0, 10, 40}) / 100.0;
    c->config.pooler_dropout = pick({0, 15}) / 100.0;
    c->config.cls_dropout = pick({0, 25}) / 100.0;
    c->config.labels = c->labels.data(); /* borrowed */
}

void random_targets(Case *c, int S) {
    const int K = c->config.num_labels, kind = draw(3); /* hard, smoothed, soft */
    c->weighted = draw(2);
    for (int s = 0; s < S; s++) {
        std::vector<double> row(static_cast<size_t>(K));
        const int label = draw(K);
        double sum = 0;
        for (int k = 0; k < K; k++) {
            double &t = row[static_cast<size_t>(k)];
            t = kind == 2 ? std::exp(normal()) : kind == 1 ? (k == label) * 0.9 + 0.1 / K : (k == label);
            sum += t;
        }
        for (double t : row) c->target.push_back(static_cast<real>(K == 1 ? normal() : t / sum));
        c->weight.push_back(static_cast<real>(std::exp(normal())));
    }
}

void random_case(Case *c) {
    random_config(c);
    const int S = pick({1, 2, 5, 9}), kind = draw(4);
    c->start = {0};
    c->cuts = {0};
    for (int s = 0; s < S; s++) {
        const int L = kind == 0   ? 1 + draw(300)
                      : kind == 1 ? 1 + draw(6)
                      : kind == 2 ? pick({1, 1, 64})
                                  : 1 + draw(70);
        c->longest = std::max(c->longest, L);
        for (int i = 0; i < L; i++) c->ids.push_back(draw(c->config.vocab_size));
        c->start.push_back(static_cast<int32_t>(c->ids.size()));
        if (s + 1 < S && draw(3) == 0) c->cuts.push_back(s + 1);
    }
    c->cuts.push_back(S);
    if (draw(2)) c->longest += draw(20); /* of a step whose longest sequence is another's */
    random_targets(c, S);
    c->all_hidden = draw(3) == 0;
    c->recompute = draw(2);
    c->key = rng_bits(seed, drawn++);
    c->scale = static_cast<real>(1.0 / (1 + draw(8)));
}

/* ---- the peer ---- */

class Peer {
   public:
    std::map<std::string, Tensor> weights; /* as leaves of the graph */

    explicit Peer(const Case &given) : c(given), config(given.config) {}

    void take(const ParamView &view, const real *data) {
        const int64_t rows = view.rows, cols = view.cols;
        const Tensor t = at::from_blob(const_cast<real *>(data), {param_count(&view)},
                                       sizeof(real) == 8 ? at::kDouble : at::kFloat)
                             .to(at::kDouble, false, true);
        weights[view.name] = (cols ? t.view({rows, cols}) : t).set_requires_grad(true);
    }

    /* (S,K) */
    Tensor logits(bool drops) {
        dropping = drops;
        rel = norm(weight("deberta.encoder.rel_embeddings"), "deberta.encoder.LayerNorm");
        std::vector<Tensor> rows;
        for (size_t s = 0; s + 1 < c.start.size(); s++) rows.push_back(sequence(s));
        return at::cat(rows, 0);
    }

    /* not scaled */
    Tensor loss(const Tensor &z) const {
        Tensor total = at::zeros({}, at::kDouble);
        for (int64_t s = 0; s < z.size(0); s++) {
            Tensor one;
            for (int64_t k = 0; k < z.size(1); k++) {
                const double t = static_cast<double>(c.target[static_cast<size_t>(s * z.size(1) + k)]);
                const Tensor part =
                    z.size(1) == 1 ? (z[s][0] - t).square() : -t * at::log_softmax(z[s], 0)[k];
                one = one.defined() ? one + part : part;
            }
            total = total + (c.weighted ? static_cast<double>(c.weight[static_cast<size_t>(s)]) : 1) * one;
        }
        return total;
    }

   private:
    const Case &c;
    const Config &config;
    bool dropping = false;
    Tensor rel;

    Tensor weight(const std::string &of) const { return weights.at(of + ".weight"); }
    Tensor bias(const std::string &of) const { return weights.at(of + ".bias"); }
    Tensor norm(const Tensor &x, const std::string &of) const {
        return at::layer_norm(x, {x.size(1)}, weight(of), bias(of), config.layer_norm_eps);
    }
    Tensor linear(const Tensor &x, const std::string &of) const {
        return at::linear(x, weight(of), bias(of));
    }

    /* 0 or 1 / (1 - p), (rows, cols) */
    Tensor keep(const std::vector<uint64_t> &rows, int64_t cols, double given, int layer, int site) const {
        const real p = static_cast<real>(given);
        const uint64_t key = ops_drop_row(c.key, static_cast<uint64_t>(8 * (layer + 1) + site));
        std::vector<double> mask;
        for (uint64_t row : rows)
            for (int64_t j = 0; j < cols; j++) {
                const bool kept =
                    ops_drop_bits(ops_drop_row(key, row), static_cast<uint32_t>(j)) >= ops_drop_limit(p);
                mask.push_back(!dropping || p <= 0 ? 1 : kept ? 1 / (1 - static_cast<double>(p)) : 0);
            }
        return at::from_blob(mask.data(), {static_cast<int64_t>(rows.size()), cols}, at::kDouble).clone();
    }
    Tensor drop(const Tensor &x, const std::vector<uint64_t> &rows, double p, int layer, int site) const {
        return x * keep(rows, x.size(1), p, layer, site);
    }

    /* As published: log buckets beyond the half, by logarithms in float. */
    int64_t row_of_distance(int64_t d) const {
        const int64_t B = config.position_buckets, mid = B / 2, P = config.max_relative_positions;
        const int64_t size = std::abs(d);
        int64_t bucket = d;
        if (size > mid) {
            const float far = std::log(static_cast<float>(size) / static_cast<float>(mid)),
                        most = std::log(static_cast<float>(P - 1) / static_cast<float>(mid));
            bucket = static_cast<int64_t>(std::ceil(far / most * static_cast<float>(mid - 1))) + mid;
            bucket = d < 0 ? -bucket : bucket;
        }
        return std::min(std::max<int64_t>(bucket + B, 0), 2 * B - 1);
    }

    Tensor attention(const Tensor &x, const std::string &at_layer, int l,
                     const std::vector<uint64_t> &rows) const {
        const int64_t L = x.size(0), A = config.num_attention_heads, D = config.hidden_size / A,
                      R = rel.size(0);
        const auto heads = [&](const Tensor &y) { return y.view({y.size(0), A, D}).transpose(0, 1); };
        std::vector<uint64_t> table_rows;
        for (int64_t r = 0; r < R; r++) table_rows.push_back(static_cast<uint64_t>(r));
        const Tensor table = drop(rel, table_rows, config.hidden_dropout_prob, l, DEBERTA_SITE_REL);
        const Tensor q = heads(linear(x, at_layer + "query_proj")),
                     k = heads(linear(x, at_layer + "key_proj")),
                     v = heads(linear(x, at_layer + "value_proj"));
        const Tensor kr = heads(linear(table, at_layer + "key_proj")),
                     qr = heads(linear(table, at_layer + "query_proj"));
        std::vector<int64_t> list;
        for (int64_t i = 0; i < L; i++)
            for (int64_t j = 0; j < L; j++) list.push_back(row_of_distance(i - j));
        const Tensor index = at::from_blob(list.data(), {L, L}, at::kLong).clone();
        const Tensor content = at::matmul(q, k.transpose(1, 2)),
                     to_position = at::matmul(q, kr.transpose(1, 2)).gather(2, index.expand({A, L, L})),
                     from_position = at::matmul(k, qr.transpose(1, 2)).gather(2, index.t().expand({A, L, L}));
        const Tensor scores = content + to_position + from_position.transpose(1, 2);
        std::vector<uint64_t> by_head;
        for (int64_t a = 0; a < A; a++)
            for (uint64_t row : rows)
                by_head.push_back(row * static_cast<uint64_t>(A) + static_cast<uint64_t>(a));
        const Tensor mask =
            keep(by_head, L, config.attention_probs_dropout_prob, l, DEBERTA_SITE_PROBS).view({A, L, L});
        const Tensor p = at::softmax(scores / std::sqrt(3.0 * static_cast<double>(D)), 2) * mask;
        return at::matmul(p, v).transpose(0, 1).reshape({L, A * D});
    }

    /* logits (1,K) */
    Tensor sequence(size_t s) const {
        const int64_t L = c.start[s + 1] - c.start[s];
        const double p = config.hidden_dropout_prob;
        std::vector<uint64_t> rows;
        for (int64_t i = 0; i < L; i++)
            rows.push_back(static_cast<uint64_t>(s) << 24 | static_cast<uint64_t>(i));
        const Tensor ids =
            at::from_blob(const_cast<int32_t *>(&c.ids[static_cast<size_t>(c.start[s])]), {L}, at::kInt)
                .to(at::kLong);
        Tensor x = at::embedding(weight("deberta.embeddings.word_embeddings"), ids, config.pad_token_id);
        x = drop(norm(x, "deberta.embeddings.LayerNorm"), rows, p, -1, DEBERTA_SITE_EMBEDDING);
        for (int l = 0; l < config.num_hidden_layers; l++) {
            const std::string layer = "deberta.encoder.layer." + std::to_string(l) + ".";
            const Tensor context =
                linear(attention(x, layer + "attention.self.", l, rows), layer + "attention.output.dense");
            const Tensor a = norm(drop(context, rows, p, l, DEBERTA_SITE_ATTENTION) + x,
                                  layer + "attention.output.LayerNorm");
            const Tensor up = at::gelu(linear(a, layer + "intermediate.dense"));
            x = norm(drop(linear(up, layer + "output.dense"), rows, p, l, DEBERTA_SITE_FFN) + a,
                     layer + "output.LayerNorm");
        }
        const std::vector<uint64_t> row = {static_cast<uint64_t>(s)};
        const Tensor first = drop(x.narrow(0, 0, 1), row, config.pooler_dropout, -1, DEBERTA_SITE_POOL);
        const Tensor pooled = at::gelu(linear(first, "pooler.dense"));
        return linear(drop(pooled, row, config.cls_dropout, -1, DEBERTA_SITE_HEAD), "classifier");
    }
};

/* ---- the model ---- */

struct Found {
    std::vector<double> logits, inference;
    double loss = 0;
    std::map<std::string, std::vector<double>> grads;
};

void fail(const char *what, const char *why) {
    failures++;
    std::printf("FAIL %s: %s\n", what, why);
}

std::vector<double> doubles_of(Ops *o, const real *p, size_t n) {
    std::vector<real> here(n);
    o->get(o, here.data(), p, n * sizeof *p);
    return {here.begin(), here.end()};
}

void run_batches(Deberta *d, const Case &c, bool train, Found *out) {
    const auto K = static_cast<size_t>(c.config.num_labels);
    deberta_begin(d, c.longest, train && c.dropping, c.key);
    for (size_t i = 0; i + 1 < c.cuts.size(); i++) {
        const auto from = static_cast<size_t>(c.cuts[i]), to = static_cast<size_t>(c.cuts[i + 1]);
        std::vector<int32_t> start, seq;
        Packed p = {};
        for (size_t s = from; s <= to; s++) start.push_back(c.start[s] - c.start[from]);
        for (size_t s = from; s < to; s++) {
            seq.push_back(static_cast<int32_t>(s));
            p.longest = std::max(p.longest, c.start[s + 1] - c.start[s]);
        }
        p.N = start.back();
        p.S = static_cast<int>(to - from);
        p.ids = &c.ids[static_cast<size_t>(c.start[from])];
        p.start = start.data();
        p.seq = seq.data();
        deberta_forward(d, &p);
        const real *logits = deberta_logits(d);
        std::vector<double> &list = train ? out->logits : out->inference;
        list.insert(list.end(), logits, logits + (to - from) * K);
        if (!train) continue;
        deberta_loss(d, &c.target[from * K], c.weighted ? &c.weight[from] : nullptr, c.scale);
        out->loss += deberta_loss_sum(d);
        deberta_backward(d);
    }
    if (train) deberta_end(d);
}

void read_grads(Deberta *d, Found *out) {
    size_t count;
    ParamView *list = params_list(&d->grads, &d->config, &count);
    const auto H = static_cast<size_t>(d->config.hidden_size);
    for (size_t i = 0; i < count; i++)
        if (list[i].data)
            out->grads[list[i].name] =
                doubles_of(d->ops, list[i].data, static_cast<size_t>(param_count(&list[i])));
    std::vector<double> word(static_cast<size_t>(d->config.vocab_size) * H);
    for (int i = 0; i < d->touched.count; i++) {
        const auto row = doubles_of(d->ops, d->touched.grad + static_cast<size_t>(i) * H, H);
        std::copy(row.begin(), row.end(), word.begin() + static_cast<std::ptrdiff_t>(H) * d->touched.ids[i]);
    }
    out->grads["deberta.embeddings.word_embeddings.weight"] = word;
    mem_free(list);
}

/* Weights of about the size that keeps activations at 1, drawn anew the same for every backend. */
void fill_weights(Deberta *d, uint64_t key, Peer *peer) {
    size_t count;
    uint64_t n = 0;
    ParamView *list = params_list(&d->host_weights, &d->config, &count);
    for (size_t i = 0; i < count; i++) {
        const ParamView &v = list[i];
        const double size = v.kind == PARAM_EMBEDDING ? 1
                            : v.kind == PARAM_LINEAR  ? 1 / std::sqrt(static_cast<double>(v.cols))
                                                      : 0.3;
        for (int64_t k = 0; k < param_count(&v); k++)
            v.data[k] = static_cast<real>((v.kind == PARAM_NORM_SCALE) + size * rng_normal(key, n++));
        if (peer) peer->take(v, v.data);
    }
    mem_free(list);
    deberta_weights_changed(d);
}

bool run_model(Ops *o, const Case &c, uint64_t weights, bool train, Peer *peer, Found *out) {
    Deberta d;
    Err err = {};
    DebertaLimits limits = {};
    limits.micro_tokens = std::max(c.start.back(), c.longest);
    limits.micro_sequences = static_cast<int>(c.start.size()) - 1;
    limits.longest = c.longest;
    limits.step_tokens = c.start.back();
    limits.train = train;
    limits.recompute = train && c.recompute;
    limits.all_hidden = c.all_hidden;
    if (deberta_open(&d, &c.config, o, &limits, &err) != ERR_OK) {
        fail("deberta_open", err.msg);
        return false;
    }
    fill_weights(&d, weights, peer);
    run_batches(&d, c, train, out);
    if (train) read_grads(&d, out);
    const bool good = o->sync(o, &err) == ERR_OK;
    if (!good) fail(o->name, err.msg);
    deberta_close(&d);
    return good;
}

/* ---- comparison ---- */

/* Largest difference, as a part of the largest number (of at least `least`). */
double difference(const std::vector<double> &got, const Tensor &want, double least) {
    const Tensor list = want.detach().reshape({-1}).contiguous();
    if (list.numel() != static_cast<int64_t>(got.size())) return INF;
    const double *w = list.data_ptr<double>();
    double most = least, worst = 0;
    for (size_t i = 0; i < got.size(); i++) {
        most = std::max(most, std::fabs(w[i]));
        const double off = std::fabs(got[i] - w[i]);
        worst = off <= worst ? worst : std::isnan(off) ? INF : off;
    }
    return worst / most;
}

struct Worst {
    double logits = 0, loss = 0, grads = 0;
    std::string name;
};

/* Some gradients are sums of parts that cancel (that of the key's bias nearly, as softmax does not see what is added to
 * a row), so that an error counts against a hundredth of the largest gradient at least. */
Worst compare(const Found &found, const Peer &peer, const Tensor &logits, const Tensor &inference,
              double loss) {
    Worst w;
    double most = 0;
    for (const auto &[name, t] : peer.weights)
        if (t.grad().defined()) most = std::max(most, t.grad().abs().max().item<double>());
    w.logits = std::max(difference(found.logits, logits, 1), difference(found.inference, inference, 1));
    w.loss = std::fabs(found.loss - loss) / (1 + std::fabs(loss));
    for (const auto &[name, t] : peer.weights) {
        const Tensor grad = t.grad().defined() ? t.grad() : at::zeros_like(t);
        const auto at = found.grads.find(name);
        const double off = at == found.grads.end() ? INF : difference(at->second, grad, 0.01 * most + 1e-30);
        if (off < w.grads) continue;
        w.grads = off;
        w.name = name;
    }
    return w;
}

void describe(char *out, size_t bytes, const Case &c) {
    const Config &f = c.config;
    (void)std::snprintf(
        out, bytes, "H=%d A=%d F=%d layers=%d B=%d P=%d V=%d K=%d S=%zu N=%d longest=%d parts=%zu%s%s%s%s",
        f.hidden_size, f.num_attention_heads, f.intermediate_size, f.num_hidden_layers, f.position_buckets,
        f.max_relative_positions, f.vocab_size, f.num_labels, c.start.size() - 1, c.start.back(), c.longest,
        c.cuts.size() - 1, c.dropping ? " dropout" : "", c.weighted ? " weighted" : "",
        c.all_hidden ? " all" : "", c.recompute ? " recompute" : "");
}

void check_case(int number, std::map<std::string, Ops> &backends, std::map<std::string, Worst> *worst) {
    Case c = {};
    random_case(&c);
    char text[256];
    describe(text, sizeof text, c);
    Peer peer(c);
    const uint64_t weights = rng_bits(seed, drawn++);
    Tensor logits, inference;
    double loss = 0;
    std::printf("%3d %s\n", number, text);
    for (auto &[name, ops] : backends) {
        Found found;
        const bool first = !logits.defined();
        if (!run_model(&ops, c, weights, true, first ? &peer : nullptr, &found) ||
            !run_model(&ops, c, weights, false, nullptr, &found))
            continue;
        if (first) {
            logits = peer.logits(c.dropping);
            const Tensor sum = peer.loss(logits);
            (sum * static_cast<double>(c.scale)).backward();
            loss = sum.item<double>();
            const c10::NoGradGuard none;
            inference = peer.logits(false);
        }
        const Worst w = compare(found, peer, logits, inference, loss);
        std::printf("    %-6s logits %.1e  loss %.1e  gradients %.1e (%s)\n", name.c_str(), w.logits, w.loss,
                    w.grads, w.name.c_str());
        if (!(w.logits <= LOGITS)) fail(text, "the logits differ");
        if (!(w.loss <= LOSS)) fail(text, "the loss differs");
        if (!(w.grads <= GRADS)) fail(text, "a gradient differs");
        Worst &all = (*worst)[name];
        all.logits = std::max(all.logits, w.logits);
        all.loss = std::max(all.loss, w.loss);
        all.grads = std::max(all.grads, w.grads);
    }
}

ErrCode open_backend(Ops *o, const char *name, Threads *threads, Err *err) {
#ifdef ROUTER_DOUBLE
    *o = {};
    o->threads = threads;
    if (std::strcmp(name, "torch") == 0) return ops_module.fill(o, "fp32", err);
    ops_ref_fill(o);
    return ERR_OK;
#else
    return ops_open(o, name, "fp32", threads, err);
#endif
}

} // namespace

int main(int argc, char **argv) {
    const char *given = std::getenv("TEST_SEED");
    const int cases = argc > 1 ? static_cast<int>(std::strtol(argv[1], nullptr, 10)) : 60;
    seed = given ? std::strtoull(given, nullptr, 10) : static_cast<uint64_t>(getpid());
    std::printf("TEST_SEED=%" PRIu64 "\n", seed);
    Err err = {};
    Threads *threads = nullptr;
    if (threads_open(&threads, 2, &err) != ERR_OK) {
        std::printf("FAIL %s\n", err.msg);
        return 1;
    }
    std::map<std::string, Ops> backends;
    std::map<std::string, Worst> worst;
    for (const char *name : BACKENDS) {
        const ErrCode rc = open_backend(&backends[name], name, threads, &err);
        if (rc == ERR_OK) continue;
        std::printf("%s %s: %s\n", rc == ERR_BACKEND ? "without" : "FAIL", name, err.msg);
        failures += rc != ERR_BACKEND;
        backends.erase(name);
    }
    for (int i = 0; i < cases; i++) check_case(i, backends, &worst);
    for (auto &[name, w] : worst)
        std::printf("%-6s %d cases, largest difference: logits %.2e, loss %.2e, gradients %.2e\n",
                    name.c_str(), cases, w.logits, w.loss, w.grads);
    for (auto &[name, ops] : backends)
        if (ops.close) ops.close(&ops);
    threads_close(threads);
    std::printf("%d failures\n", failures);
    return failures != 0;
}
