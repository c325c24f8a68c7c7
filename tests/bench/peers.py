"""Measures the router and its peers in turns on one machine: A B A B, medians and ratios of neighbours.

Peers: Hugging Face transformers' DebertaV2 on PyTorch (fp32; bf16 by autocast; with its own attention and with one that
calls scaled_dot_product_attention, which transformers does not offer for this model) and ONNX Runtime (the usual export
and one whose projected position tables are constants; fp32 and dynamically quantised int8). All weights are random:
speed does not depend on them. See NOTES.md for what was found, peers.sh for how to run this.
"""
import argparse
import contextlib
import copy
import gc
import glob
import io
import json
import math
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types

import torch
import torch.nn.functional as F
import transformers
from transformers.models.deberta_v2 import modeling_deberta_v2 as hf

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# hidden, layers, heads, feed-forward, vocabulary, position buckets: as in eval/bench_cmd.c
SHAPES = {
    "mini": (256, 4, 4, 1024, 16000, 64),
    "xsmall": (384, 12, 6, 1536, 128100, 256),
    "small": (768, 6, 12, 3072, 128100, 256),
    "base": (768, 12, 12, 3072, 128100, 256),
    "large": (1024, 24, 16, 4096, 128100, 256),
}
LENGTHS = (16, 32, 64, 128, 512)
BATCH_LENGTHS, BATCH_ROWS = (32, 64), 32


def note(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median_time(work, seconds, most=400):
    """Median seconds of work() after one run that is not counted."""
    work()
    took = []
    begin = time.perf_counter()
    while len(took) < 3 or (time.perf_counter() - begin < seconds and len(took) < most):
        took.append(timed(work))
    return statistics.median(took)


def percentiles(work, seconds, most=400):
    work()
    took = []
    begin = time.perf_counter()
    while len(took) < 5 or (time.perf_counter() - begin < seconds and len(took) < most):
        took.append(1e3 * timed(work))
    took.sort()
    return {p: took[min(len(took) - 1, len(took) * p // 100)] for p in (50, 95, 99)}


def busy_seconds():
    """Of all processors, by everybody; what a hypervisor took away counts."""
    with open("/proc/stat") as f:
        ticks = [int(n) for n in f.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


class Steady:
    """Takes a measurement again when other processes used the processors meanwhile: spinning threads of OpenMP lose
    whole scheduler ticks then, and both sides their caches."""

    def __init__(self, allowed, retries):
        self.allowed, self.retries, self.measured, self.disturbed = allowed, retries, 0, 0

    def __call__(self, work):
        self.measured += 1
        for attempt in range(self.retries + 1):
            busy, own, begin = busy_seconds(), own_seconds(), time.perf_counter()
            value = work()
            seconds = time.perf_counter() - begin
            # the kernel counts in ticks: two of them are no one's fault
            others = max(0.0, busy_seconds() - busy - (own_seconds() - own) - 0.02) / seconds
            if others <= self.allowed:
                return value
            if attempt < self.retries:
                note(f"others used {others:.2f} processors meanwhile: again")
                time.sleep(2)
        self.disturbed += 1
        return value


class Table:
    """Values by row and round. Rows that begin with "router" are ours; a ratio is that of one round, and the median of
    these is told: how many times as fast as the peer we are."""

    def __init__(self, title, unit, higher_is_better=False):
        self.title, self.unit, self.higher = title, unit, higher_is_better
        self.values = {}  # (group, row) -> [value of each round]

    def add(self, group, row, value):
        self.values.setdefault((group, row), []).append(value)

    def rows(self):
        groups = list(dict.fromkeys(group for group, _ in self.values))
        for (group, row), values in sorted(self.values.items(), key=lambda item: groups.index(item[0][0])):
            out = {"group": group, "row": row, "median": statistics.median(values), "rounds": len(values), "times": {}}
            for (g, base), ours in self.values.items():
                if g == group and base.startswith("router") and not row.startswith("router"):
                    ratios = [p / o if not self.higher else o / p for p, o in zip(values, ours)]
                    out["times"][base] = statistics.median(ratios)
            yield out

    def markdown(self):
        bases = []
        for _, row in self.values:
            if row.startswith("router") and row not in bases:
                bases.append(row)
        lines = [f"### {self.title}", "", f"| | | {self.unit} | " + " | ".join(f"{b} is better by" for b in bases) + " |",
                 "|---|---|---:|" + "---:|" * len(bases)]
        for r in self.rows():
            times = " | ".join(f"{r['times'][b]:.2f}x" if b in r["times"] else "" for b in bases)
            lines.append(f"| {r['group']} | {r['row']} | {r['median']:.4g} | {times} |")
        return "\n".join(lines) + "\n"


# ---- ours ----------------------------------------------------------------------------------------------------------------


def router(o, only, *more, seconds=0.05, threads=None, precision=None):
    """The JSON of one run of `router bench`."""
    command = [o.router, "bench", "--size", o.size, "--only", only, "--json", "--quiet", "--seconds", str(seconds),
               "--threads", str(threads or o.threads), *more]
    if o.layers:
        command += ["--layers", str(o.layers)]
    if precision and precision != "auto":
        command += ["--precision", precision]
    done = o.steady(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def ours_name(precision):
    return "router" if precision == "auto" else f"router {precision}"


# ---- lengths -------------------------------------------------------------------------------------------------------------


def drawn_lengths(o):
    """Token counts of --rows prompts drawn at random from the corpus' training rows, cut to --max-length."""
    texts = []
    for path in sorted(glob.glob(os.path.join(o.corpus, "*", "*.jsonl.zst"))):
        if os.path.basename(os.path.dirname(path)) == "eval":
            continue
        lines = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout.split(b"\n")
        texts += [line for line in lines if b'"split": "train"' in line]
    if not texts:
        sys.exit(f"{o.corpus}: no prompts; use --equal ROWSxTOKENS")
    picked = random.Random(o.seed).sample(texts, o.rows)
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as f:
        f.write(b"\n".join(picked) + b"\n")
        f.flush()
        done = subprocess.run([o.router, "tokenize", "--json", "--input", f.name, "--max-tokens", str(o.max_length),
                               "--model", o.tokenizer], capture_output=True, text=True, check=True)
    return [len(json.loads(line)["ids"]) for line in done.stdout.splitlines()]


def batch_lengths(o):
    if o.equal:
        rows, tokens = (int(n) for n in o.equal.split("x"))
        return [tokens] * rows
    return drawn_lengths(o)


# ---- Hugging Face --------------------------------------------------------------------------------------------------------


def make_config(o):
    H, layers, heads, ff, vocabulary, buckets = SHAPES[o.size]
    return transformers.DebertaV2Config(
        vocab_size=vocabulary, hidden_size=H, num_hidden_layers=o.layers or layers, num_attention_heads=heads,
        intermediate_size=ff, hidden_act="gelu", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        max_position_embeddings=512, type_vocab_size=0, initializer_range=0.02, layer_norm_eps=1e-7,
        relative_attention=True, max_relative_positions=-1, pad_token_id=0, position_biased_input=False,
        pos_att_type=["p2c", "c2p"], position_buckets=buckets, share_att_key=True, norm_rel_ebd="layer_norm",
        pooler_dropout=0, pooler_hidden_act="gelu", pooler_hidden_size=H, num_labels=5)


def make_model(o):
    torch.manual_seed(1)
    return hf.DebertaV2ForSequenceClassification(make_config(o))


EAGER = hf.DisentangledSelfAttention.forward


def sdpa_forward(self, hidden_states, attention_mask, output_attentions=False, query_states=None, relative_pos=None,
                 rel_embeddings=None):
    """The same attention, with softmax and the two products left to scaled_dot_product_attention."""
    B, N, H = hidden_states.shape
    A, D = self.num_attention_heads, self.attention_head_size
    split = lambda x: x.view(B, N, A, D).transpose(1, 2)
    states = hidden_states if query_states is None else query_states
    q, k, v = split(self.query_proj(states)), split(self.key_proj(hidden_states)), split(self.value_proj(hidden_states))
    bias = self.disentangled_attention_bias(q.reshape(B * A, N, D), k.reshape(B * A, N, D), relative_pos,
                                            self.pos_dropout(rel_embeddings), 3).view(B, A, N, N)
    bias = bias.masked_fill(~attention_mask.bool(), torch.finfo(bias.dtype).min)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1 / math.sqrt(3 * D),
                                         dropout_p=self.dropout.p if self.training else 0.0)
    return out.transpose(1, 2).reshape(B, N, H), None


@contextlib.contextmanager
def variant(name):
    """eager or sdpa, fp32 or bf16: "bf16 sdpa"."""
    precision, attention = name.split()
    hf.DisentangledSelfAttention.forward = sdpa_forward if attention == "sdpa" else EAGER
    context = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    try:
        with context:
            yield
    finally:
        hf.DisentangledSelfAttention.forward = EAGER


def check_sdpa(o):
    """The patched attention gives what the original gives."""
    config = make_config(argparse.Namespace(size="mini", layers=2))
    torch.manual_seed(2)
    model = hf.DebertaV2ForSequenceClassification(config).eval()
    ids = torch.randint(1, 16000, (3, 70))
    mask = torch.ones_like(ids)
    mask[1, 40:] = 0
    with torch.no_grad():
        with variant("fp32 eager"):
            a = model(input_ids=ids, attention_mask=mask).logits
        with variant("fp32 sdpa"):
            b = model(input_ids=ids, attention_mask=mask).logits
    if not torch.allclose(a, b, atol=1e-5):
        sys.exit(f"the patched attention differs by {(a - b).abs().max()}")


# ---- training ------------------------------------------------------------------------------------------------------------


def make_optimizer(model):
    """PyTorch's AdamW, the faster of its two fast forms, with the decay that Hugging Face's Trainer gives."""
    best = None
    probe = torch.nn.Parameter(torch.randn(1 << 23))
    probe.grad = torch.randn_like(probe)
    for kind in ("fused", "foreach"):
        optimizer = torch.optim.AdamW([probe], lr=1e-5, **{kind: True})
        seconds = median_time(optimizer.step, 0.2)
        if best is None or seconds < best[0]:
            best = seconds, kind
    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-5, **{best[1]: True}), best[1]


def micro_batches(o, lengths):
    """Padded to the longest of each micro-batch of --micro-rows rows, in the order drawn, or by length with --sort."""
    lengths = sorted(lengths) if o.sort else lengths
    batches = []
    for at in range(0, len(lengths), o.micro_rows):
        part = lengths[at:at + o.micro_rows]
        ids = torch.randint(1, SHAPES[o.size][4], (len(part), max(part)))
        mask = torch.zeros_like(ids)
        for row, n in enumerate(part):
            mask[row, :n] = 1
        batches.append((ids * mask, mask, torch.randint(0, 5, (len(part),))))
    return batches


def train_step(model, optimizer, batches, rows, name):
    model.train()
    for ids, mask, labels in batches:
        with variant(name):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss * (len(ids) / rows)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(o, result):
    lengths = batch_lengths(o)
    tokens, rows = sum(lengths), len(lengths)
    batches = micro_batches(o, lengths)
    padded = sum(ids.numel() for ids, _, _ in batches)
    model = make_model(o)
    optimizer, kind = make_optimizer(model)
    text = ",".join(str(n) for n in lengths)
    result["train"] = {"lengths": lengths, "tokens": tokens, "padded_tokens": padded, "micro_rows": o.micro_rows,
                       "optimizer": kind}
    title = (f"Training step, {o.size}{f' of {o.layers} layers' if o.layers else ''}: {rows} prompts, {tokens} tokens "
             f"(mean {tokens / rows:.1f}, longest {max(lengths)}); the peer computes {padded} with padding, "
             f"{o.micro_rows} rows at a time; {kind} AdamW")
    note(title)
    table, memory = Table(title, "seconds"), Table("Peak memory of training", "GB")
    for name in o.variants:  # buffers, primitives and moments are made in the first step
        train_step(model, optimizer, batches, rows, name)
    for r in range(o.rounds):
        for name in o.variants if r % 2 == 0 else o.variants[::-1]:
            seconds = o.steady(lambda name=name: timed(lambda: train_step(model, optimizer, batches, rows, name)))
            table.add("step", f"transformers {name}", seconds)
            note(f"transformers {name}: {seconds:.2f} s")
        for precision in o.ours:
            j = router(o, "train", "--lengths", text, "--steps", str(o.steps), precision=precision)["train"]
            table.add("step", ours_name(precision), j["step_seconds"])
            note(f"{ours_name(precision)}: {j['step_seconds']:.2f} s, {j['peak_bytes'] / 1e9:.2f} GB")
            memory.add("process", ours_name(precision), j["peak_bytes"] / 1e9)
    memory.add("process", "transformers (all variants)", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9)
    return [table, memory]


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------------


def folded(model):
    """A copy whose projected position tables are constants: as our blob has them."""
    model = copy.deepcopy(model).eval()
    encoder = model.deberta.encoder
    with torch.no_grad():
        rel = encoder.get_rel_embedding()
        for layer in encoder.layer:
            attention = layer.attention.self
            A = attention.num_attention_heads
            rows = rel[0:attention.pos_ebd_size * 2, :].unsqueeze(0)
            attention.register_buffer("pos_query", attention.transpose_for_scores(attention.query_proj(rows), A).clone())
            attention.register_buffer("pos_key", attention.transpose_for_scores(attention.key_proj(rows), A).clone())
            attention.disentangled_attention_bias = types.MethodType(folded_bias, attention)
    return model


def folded_bias(self, query_layer, key_layer, relative_pos, rel_embeddings, scale_factor):
    """Tables (A, 2B, D) are shared by the prompts of a batch: broadcast, not copied."""
    span, A = self.pos_ebd_size, self.num_attention_heads
    N, D = query_layer.size(-2), query_layer.size(-1)
    relative_pos = relative_pos.to(torch.long)
    index = torch.clamp(relative_pos + span, 0, span * 2 - 1).expand(query_layer.size(0), -1, -1)
    back = torch.clamp(-relative_pos + span, 0, span * 2 - 1).expand(query_layer.size(0), -1, -1)
    c2p = torch.matmul(query_layer.view(-1, A, N, D), self.pos_key.transpose(-1, -2)).view(-1, N, span * 2)
    p2c = torch.matmul(key_layer.view(-1, A, N, D), self.pos_query.transpose(-1, -2)).view(-1, N, span * 2)
    return (torch.gather(c2p, -1, index) + torch.gather(p2c, -1, back).transpose(-1, -2)) / math.sqrt(D * scale_factor)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def export_onnx(model, path):
    ids = torch.randint(1, 1000, (1, 24))
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        torch.onnx.export(Logits(model.eval()), (ids, torch.ones_like(ids)), path, dynamo=False, opset_version=17,
                          input_names=["input_ids", "attention_mask"], output_names=["logits"],
                          dynamic_axes={"input_ids": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "tokens"}},
                          do_constant_folding=True)


def make_onnx(o, model, folder):
    """Paths of the four files by name; what an export of another length answers is compared with the model."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    paths = {}
    ids = torch.randint(1, 1000, (1, 50))
    with torch.no_grad():
        want = model.eval()(input_ids=ids).logits.numpy()
    for name in ("usual", "folded"):
        paths[f"fp32 {name}"] = os.path.join(folder, f"{name}.onnx")
        export_onnx(folded(model) if name == "folded" else model, paths[f"fp32 {name}"])
        gc.collect()
        paths[f"int8 {name}"] = os.path.join(folder, f"{name}.int8.onnx")
        quantize_dynamic(paths[f"fp32 {name}"], paths[f"int8 {name}"], weight_type=QuantType.QInt8)
        gc.collect()
    for name, path in paths.items():
        session = onnxruntime.InferenceSession(path)
        got = session.run(None, {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()})[0]
        error = abs(got - want).max()
        note(f"ONNX {name}: {os.path.getsize(path) / 1e6:.0f} MB, logits differ by {error:.2g}")
        if name.startswith("fp32") and error > 1e-4:
            sys.exit(f"the {name} export answers otherwise: {error}")
        del session
        gc.collect()
    return paths


def onnx_latency(o, table, loads, batches, name, path, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    begin = time.perf_counter()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loads.add("load", f"ONNX Runtime {name}", 1e3 * (time.perf_counter() - begin))
    for n in o.tokens:
        ids = torch.randint(1, 1000, (1, n)).numpy()
        feed = {"input_ids": ids, "attention_mask": torch.ones(1, n, dtype=torch.long).numpy()}
        table.add(f"{n} tokens, {threads}t", f"ONNX Runtime {name}",
                  o.steady(lambda feed=feed: percentiles(lambda: session.run(None, feed), o.seconds))[50])
    for n in BATCH_LENGTHS if threads == o.threads else ():
        feed = {"input_ids": torch.randint(1, 1000, (BATCH_ROWS, n)).numpy(),
                "attention_mask": torch.ones(BATCH_ROWS, n, dtype=torch.long).numpy()}
        seconds = o.steady(lambda feed=feed: median_time(lambda: session.run(None, feed), o.seconds))
        batches.add(f"{n} tokens", f"ONNX Runtime {name}", BATCH_ROWS / seconds)


# ---- inference -----------------------------------------------------------------------------------------------------------


def torch_latency(o, table, batches, model, name, threads):
    torch.set_num_threads(threads)
    model.eval()
    for n in o.tokens:
        ids = torch.randint(1, SHAPES[o.size][4], (1, n))
        mask = torch.ones_like(ids)
        with torch.inference_mode(), variant(f"fp32 {name.split()[1]}"):
            table.add(f"{n} tokens, {threads}t", f"transformers {name}",
                      o.steady(lambda ids=ids, mask=mask: percentiles(
                          lambda: model(input_ids=ids, attention_mask=mask), o.seconds))[50])
    for n in BATCH_LENGTHS if threads == o.threads else ():
        ids = torch.randint(1, SHAPES[o.size][4], (BATCH_ROWS, n))
        mask = torch.ones_like(ids)
        with torch.inference_mode(), variant(f"fp32 {name.split()[1]}"):
            seconds = o.steady(lambda ids=ids, mask=mask: median_time(
                lambda: model(input_ids=ids, attention_mask=mask), o.seconds))
        batches.add(f"{n} tokens", f"transformers {name}", BATCH_ROWS / seconds)
    torch.set_num_threads(o.threads)


def router_latency(o, table, loads, batches):
    j = router(o, "int8", seconds=o.seconds / 4)["infer"]
    for threads in sorted({1, o.threads}):
        for n in o.tokens:  # a version that computes one prompt on one thread only reports that one
            rows = [row for row in j["latency"] if row["tokens"] == n and row["threads"] <= threads]
            table.add(f"{n} tokens, {threads}t", "router int8", max(rows, key=lambda row: row["threads"])["p50_ms"])
    for row in j["batch"]:
        if row["threads"] == o.threads:
            batches.add(f"{row['tokens']} tokens", "router int8", row["prompts_per_second"])
    loads.add("load", "router int8", j["load"]["checked_ms"])


def infer(o, result):
    model_name = f"{o.size}{f' of {o.layers} layers' if o.layers else ''}"
    table = Table(f"One prompt, {model_name}, p50", "milliseconds")
    batches = Table(f"Many prompts, {model_name}, {o.threads} threads; the peer computes {BATCH_ROWS} at a time",
                    "prompts/s", higher_is_better=True)
    loads = Table("Opening", "milliseconds")
    model = make_model(o).eval()
    models = {"fp32": model}
    if any(name.startswith("bf16") for name in o.variants) and "torch" in o.infer_peers:
        models["bf16"] = copy.deepcopy(model).to(torch.bfloat16)  # faster than autocast, which converts at each call
    folder = o.keep or tempfile.mkdtemp(prefix="router-peers-")
    os.makedirs(folder, exist_ok=True)
    paths = make_onnx(o, model, folder) if "onnx" in o.infer_peers else {}
    for r in range(o.rounds):
        router_latency(o, table, loads, batches)
        for threads in sorted({1, o.threads}):
            note(f"round {r + 1}, {threads} threads")
            for name in o.variants if "torch" in o.infer_peers else ():
                torch_latency(o, table, batches, models[name.split()[0]], name, threads)
            for name, path in paths.items():
                onnx_latency(o, table, loads, batches, name, path, threads)
                gc.collect()
    if not o.keep:
        for path in glob.glob(os.path.join(folder, "*")):
            os.unlink(path)
        os.rmdir(folder)
    return [table, batches, loads]


# ---- GEMM ----------------------------------------------------------------------------------------------------------------


def gemm(o, result):
    """Forward and gradients of single linear layers; weights in turn, so that none is in a cache, as in a model."""
    H, _, _, ff, _, _ = SHAPES[o.size]
    table = Table(f"Linear layers of {o.size}", "GFLOP/s", higher_is_better=True)
    for r in range(o.rounds):
        for M in o.gemm_rows:
            note(f"round {r + 1}, {M} tokens")
            for precision in o.ours:
                j = router(o, "linear", "--rows", "1" if M < 2 else "2", "--tokens", str(max(2, M // 2)),
                           seconds=o.seconds / 2, precision=precision) if M <= 1024 else \
                    router(o, "linear", "--rows", str(M // 64), "--tokens", "64", seconds=o.seconds / 2, precision=precision)
                for row in j["ops"]["linear"]:
                    if row["tokens"] != M:
                        continue
                    shape = f"{M} x {row['out']} x {row['in']}"
                    for what in ("forward", "gradients", "dw"):
                        if len(table.values.get((f"{shape} {what}", ours_name(precision)), ())) <= r:
                            table.add(f"{shape} {what}", ours_name(precision), row[what]["median"] / 1e9)
            for O, I in ((H, H), (ff, H), (H, ff)):
                for dtype in (torch.float32, torch.bfloat16):
                    torch_linear(o, table, M, O, I, dtype)
    return [table]


def torch_linear(o, table, M, O, I, dtype):
    copies = max(1, (1 << 24) // (O * I))
    weights = [torch.randn(O, I, dtype=dtype) * 0.03 for _ in range(copies)]
    x, dy, bias = torch.randn(M, I, dtype=dtype), torch.randn(M, O, dtype=dtype), torch.zeros(O, dtype=dtype)
    turn = [0]

    def weight():
        turn[0] = (turn[0] + 1) % copies
        return weights[turn[0]]

    name = f"PyTorch {'bf16' if dtype == torch.bfloat16 else 'fp32'}"
    flops = 2e-9 * M * O * I
    with torch.no_grad():
        forward = o.steady(lambda: median_time(lambda: F.linear(x, weight(), bias), o.seconds / 2))
        dx = o.steady(lambda: median_time(lambda: dy @ weight(), o.seconds / 2))
        dw = o.steady(lambda: median_time(lambda: dy.t() @ x, o.seconds / 2))
    table.add(f"{M} x {O} x {I} forward", name, flops / forward)
    table.add(f"{M} x {O} x {I} gradients", name, 2 * flops / (dx + dw))
    table.add(f"{M} x {O} x {I} dw", name, flops / dw)


# ---- attention -----------------------------------------------------------------------------------------------------------


class Given(torch.nn.Module):
    """Stands for a projection that was made already, of the content or (batch 1) of the positions."""

    def __init__(self, content, positions):
        super().__init__()
        self.content, self.positions = content, positions

    def forward(self, x):
        return self.positions if x.size(0) == 1 else self.content


def torch_attention(o, table, n, name):
    config = make_config(o)
    precision = name.split()[0]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    module = hf.DisentangledSelfAttention(config).to(dtype)
    H, A, B = config.hidden_size, config.num_attention_heads, 2048 // n
    make = lambda *shape: torch.randn(*shape, dtype=dtype).requires_grad_()
    q, k, v = make(B, n, H), make(B, n, H), make(B, n, H)
    kr, qr = make(1, 2 * config.position_buckets, H), make(1, 2 * config.position_buckets, H)
    module.query_proj, module.key_proj, module.value_proj = Given(q, qr), Given(k, kr), Given(v, v)
    rel = torch.zeros(2 * config.position_buckets, H, dtype=dtype)
    mask = torch.ones(B, 1, n, n, dtype=torch.bool)
    pos = hf.build_relative_position(q, q, bucket_size=config.position_buckets, max_position=512)
    dout = torch.randn(B, n, H, dtype=dtype)

    def forward():
        return module(q, mask, relative_pos=pos, rel_embeddings=rel)[0]

    def both():
        forward().backward(dout)

    with variant(f"fp32 {name.split()[1]}"):  # the numbers are of the type already: no autocast
        module.eval()
        with torch.no_grad():
            table.add(f"{n} tokens, forward", f"transformers {name}", 1e6 / B / A * o.steady(lambda: median_time(forward, o.seconds)))
        module.train()
        table.add(f"{n} tokens, with gradient", f"transformers {name}", 1e6 / B / A * o.steady(lambda: median_time(both, o.seconds)))


def attention(o, result):
    table = Table(f"Attention of {o.size}, 2048 tokens, projections left out", "microseconds for a sequence and head")
    for r in range(o.rounds):
        note(f"round {r + 1}")
        for precision in o.ours:
            for row in router(o, "attention", seconds=o.seconds, precision=precision)["ops"]["attention"]:
                if row["tokens"] in o.attention_tokens:
                    table.add(f"{row['tokens']} tokens, forward", ours_name(precision), row["forward"]["microseconds"])
                    table.add(f"{row['tokens']} tokens, with gradient", ours_name(precision), row["both"]["microseconds"])
        for n in o.attention_tokens:
            for name in o.variants:
                torch_attention(o, table, n, name)
    return [table]


# ---- the report ----------------------------------------------------------------------------------------------------------


def machine():
    cpu = "unknown"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    out = {"cpu": cpu, "cpus": os.cpu_count(), "load": os.getloadavg()[0], "system": platform.platform(),
           "torch": torch.__version__, "transformers": transformers.__version__}
    try:
        import onnxruntime
        out["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        out["onnxruntime"] = None
    git = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    out["router"] = git.stdout.strip()
    return out


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: [t.strip() for t in text.split(",") if t.strip()]
    numbers = lambda text: [int(t) for t in text.split(",")]
    p.add_argument("--only", type=names, default=["train", "infer", "gemm", "attention"])
    p.add_argument("--size", choices=SHAPES, default="small")
    p.add_argument("--layers", type=int, default=0, help="only so many; 0: all")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=1.0, help="of each measurement but training steps")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--router", default=os.path.join(ROOT, "build/release/router"))
    p.add_argument("--ours", type=names, default=["auto"],
                   help="precisions of ours, as `router bench --precision` takes them")
    p.add_argument("--variants", type=names, default=["fp32 eager", "bf16 eager", "fp32 sdpa", "bf16 sdpa"])
    p.add_argument("--equal", help="training: ROWSxTOKENS instead of drawn prompts")
    p.add_argument("--rows", type=int, default=32)
    p.add_argument("--max-length", type=int, default=256)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--corpus", default=os.path.join(ROOT, "../shared/corpus"))
    p.add_argument("--tokenizer", default=os.path.join(ROOT, "../shared/deberta-v3-tokenizer/spm.model"))
    p.add_argument("--micro-rows", type=int, default=8, help="the peer's rows at a time, padded to their longest")
    p.add_argument("--sort", action="store_true", help="the peer's rows by length: less padding")
    p.add_argument("--steps", type=int, default=2, help="ours: timed steps of one round")
    p.add_argument("--tokens", type=numbers, default=list(LENGTHS), help="inference: lengths")
    p.add_argument("--infer-peers", type=names, default=["torch", "onnx"])
    p.add_argument("--keep", help="folder for the ONNX files, kept")
    p.add_argument("--gemm-rows", type=numbers, default=[2048, 512, 128, 32])
    p.add_argument("--attention-tokens", type=numbers, default=[64, 128, 512])
    p.add_argument("--others", type=float, default=0.1, help="processors that others may use during a measurement")
    p.add_argument("--retries", type=int, default=2, help="times that a disturbed measurement is taken again")
    p.add_argument("--json", help="file for everything measured")
    p.add_argument("--markdown", help="file for the tables, which stdout gets anyway")
    return p.parse_args()


def main():
    o = options()
    torch.set_num_threads(o.threads)
    torch.set_num_interop_threads(1)
    result = {"machine": machine(), "command": " ".join(sys.argv[1:]), "threads": o.threads}
    check_sdpa(o)
    o.steady = Steady(o.others, o.retries)
    text = ["Measured on " + ", ".join(f"{k} {v}" for k, v in result["machine"].items()) +
            f"; {o.threads} threads; `tests/bench/peers.sh {result['command']}`; medians of {o.rounds} rounds in turns.\n"]
    sections = {"train": train, "infer": infer, "gemm": gemm, "attention": attention}
    for name in o.only:
        if name not in sections:
            sys.exit(f"--only: {name} is none of {', '.join(sections)}")
        for table in sections[name](o, result):
            text.append(table.markdown())
            result.setdefault("tables", []).append({"title": table.title, "unit": table.unit, "rows": list(table.rows()),
                                                    "values": {f"{g} | {r}": v for (g, r), v in table.values.items()}})
        gc.collect()
    result["measured"], result["disturbed"] = o.steady.measured, o.steady.disturbed
    text.append(f"{o.steady.disturbed} of {o.steady.measured} measurements were disturbed by other processes.\n")
    print("\n".join(text))
    if o.markdown:
        with open(o.markdown, "w") as f:
            f.write("\n".join(text))
    if o.json:
        with open(o.json, "w") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
