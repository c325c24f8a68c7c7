"""Measures the router and PyTorch with Hugging Face transformers on one NVIDIA GPU, in one run: peaks, attention, training
steps, latencies. One table, and how many times as fast as the peer we are.

The peer: transformers' DebertaV2, bf16 by autocast over float32 weights as its Trainer does, fused AdamW; with its own
attention and with one that calls scaled_dot_product_attention, as it is or compiled. Its batch is padded to the longest
prompt. Weights are random: speed does not depend on them. See gpu.sh for how to run this.
"""
import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time

import torch

import peers
from peers import Table, hf, note


def seconds_of(work, least=5, budget=1.0):
    """Median seconds of work(), the device waited for, after three runs that are not counted."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    took = []
    begin = time.perf_counter()
    while len(took) < least or time.perf_counter() - begin < budget:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        took.append(1e-3 * start.elapsed_time(end))
    return statistics.median(took)


def latency_of(work):
    """Median seconds that a caller waits, from asking to having the answer."""
    for _ in range(5):
        work()
        torch.cuda.synchronize()
    took = []
    for _ in range(50):
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


@contextlib.contextmanager
def attention_form(name):
    hf.DisentangledSelfAttention.forward = peers.sdpa_forward if name == "sdpa" else peers.EAGER
    try:
        yield
    finally:
        hf.DisentangledSelfAttention.forward = peers.EAGER


def router(o, only, *more):
    command = [o.router, "bench", "--backend", "cuda", "--size", o.size, "--only", only, "--json", "--quiet", "--seconds",
               "0.2", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        note(f"{' '.join(command)}\n{done.stderr}")
        return None
    return json.loads(done.stdout)


# ---- training --------------------------------------------------------------------------------------------------------


def make_batch(o, lengths):
    ids = torch.randint(1, peers.SHAPES[o.size][4], (len(lengths), max(lengths)))
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        mask[row, :n] = 1
    return (ids * mask).cuda(), mask.cuda(), torch.randint(0, 5, (len(lengths),)).cuda()


def peer_step(o, form, lengths):
    model = peers.make_model(o).cuda().train()
    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
                                  lr=1e-5, fused=True)
    ids, mask, labels = make_batch(o, lengths)
    run = torch.compile(model, dynamic=False) if form.startswith("compiled") else model

    def step():
        with attention_form(form.split()[-1]), torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    torch.cuda.reset_peak_memory_stats()
    took = seconds_of(step)
    return took, torch.cuda.max_memory_allocated()


def train(o, tables):
    table, memory = Table("Training step, bf16", "ms"), Table("Device memory of training", "GB")
    rng = random.Random(o.seed)
    batches = {"32 x 64": [64] * 32, "32 x 128": [128] * 32,
               "32 of 16-128": sorted(rng.randint(16, 128) for _ in range(32))}
    batches = {name: batches[name] for name in o.batches.split(",")}
    for name, lengths in batches.items():
        ours = router(o, "train", "--lengths", ",".join(str(n) for n in lengths), "--steps", "10", "--micro_batch_tokens",
                      "16384")
        if ours:
            t = ours["train"]
            rate = ours["device_peaks"]["operations_per_second"]
            table.add(name, "router", 1e3 * t["step_seconds"])
            memory.add(name, "router", 1e-9 * t["peak_bytes"])
            note(f"{name}: router {1e3 * t['step_seconds']:.2f} ms, {100 * t['of_peak']:.0f} % of {1e-12 * rate:.0f} TFLOP/s, "
                 f"{len(lengths) / t['step_seconds']:.0f} prompts/s")
        for form in o.forms:
            try:
                took, held = peer_step(o, form, lengths)
            except Exception as e:  # a form that does not work here is told and left out
                note(f"{form}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}")
                continue
            table.add(name, f"transformers {form}", 1e3 * took)
            memory.add(name, f"transformers {form}", 1e-9 * held)
            note(f"{name}: {form} {1e3 * took:.2f} ms")
            torch.cuda.empty_cache()
    tables += [table, memory]


# ---- attention -------------------------------------------------------------------------------------------------------


def peer_attention(o, n, form):
    config = peers.make_config(o)
    module = hf.DisentangledSelfAttention(config).bfloat16().cuda()
    H, B = config.hidden_size, 2048 // n
    make = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16, device="cuda").requires_grad_()
    q, k, v = make(B, n, H), make(B, n, H), make(B, n, H)
    kr, qr = make(1, 2 * config.position_buckets, H), make(1, 2 * config.position_buckets, H)
    module.query_proj, module.key_proj, module.value_proj = (peers.Given(q, qr), peers.Given(k, kr), peers.Given(v, v))
    rel = torch.zeros(2 * config.position_buckets, H, dtype=torch.bfloat16, device="cuda")
    mask = torch.ones(B, 1, n, n, dtype=torch.bool, device="cuda")
    pos = hf.build_relative_position(q, q, bucket_size=config.position_buckets, max_position=512)
    dout = torch.randn(B, n, H, dtype=torch.bfloat16, device="cuda")

    def forward():
        return module(q, mask, relative_pos=pos, rel_embeddings=rel)[0]

    with attention_form(form):
        module.eval()
        with torch.no_grad():
            alone = seconds_of(forward, budget=0.2)
        module.train()
        both = seconds_of(lambda: forward().backward(dout), budget=0.2)
    return alone, both


def attention(o, tables):
    table = Table("Attention of 2048 tokens, bf16, projections left out", "us")
    ours = router(o, "attention")
    for row in ours["ops"]["attention"] if ours else []:
        if row["tokens"] in (64, 128, 512):
            each = row["sequences"] * peers.SHAPES[o.size][2]
            table.add(f"{row['tokens']} tokens, forward", "router", row["forward"]["microseconds"] * each)
            table.add(f"{row['tokens']} tokens, with gradient", "router", row["both"]["microseconds"] * each)
    for n in (64, 128, 512):
        for form in ("eager", "sdpa"):
            alone, both = peer_attention(o, n, form)
            table.add(f"{n} tokens, forward", f"transformers {form}", 1e6 * alone)
            table.add(f"{n} tokens, with gradient", f"transformers {form}", 1e6 * both)
    tables.append(table)


# ---- latency ---------------------------------------------------------------------------------------------------------


def latency(o, tables):
    table = Table("One prompt, bf16", "ms")
    ours = router(o, "checkpoint")
    for row in ours["infer"]["latency"] if ours else []:
        if row["tokens"] in (64, 512):
            table.add(f"{row['tokens']} tokens", "router", row["p50_ms"])
    model = peers.make_model(o).bfloat16().cuda().eval()
    for n in (64, 512):
        ids = torch.randint(1, 1000, (1, n), device="cuda")
        mask = torch.ones_like(ids)
        for form in [f for f in o.forms if not f.startswith("compiled")]:
            with torch.no_grad(), attention_form(form):
                table.add(f"{n} tokens", f"transformers {form}",
                          1e3 * latency_of(lambda: model(input_ids=ids, attention_mask=mask).logits))
    tables.append(table)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--router", default=os.path.join(peers.ROOT, "build", "release", "router"))
    p.add_argument("--size", default="large", choices=sorted(peers.SHAPES))
    p.add_argument("--sections", default="train,attention,latency")
    p.add_argument("--forms", default="eager,sdpa", help="of the peer: eager, sdpa, 'compiled eager', 'compiled sdpa' (minutes)")
    p.add_argument("--batches", default="32 x 64,32 x 128,32 of 16-128")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", help="write all numbers here")
    o = p.parse_args()
    o.layers = 0
    o.forms = o.forms.split(",")
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU")
    note(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, transformers {peers.transformers.__version__}")
    side = 8192
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    note(f"PyTorch: product of {side} in bf16 {2e-12 * side ** 3 / seconds_of(lambda: a @ b, budget=0.3):.0f} TFLOP/s, "
         f"copy {4e-9 * a.numel() / seconds_of(lambda: b.copy_(a), budget=0.3):.0f} GB/s")
    tables = []
    for section in o.sections.split(","):
        {"train": train, "attention": attention, "latency": latency}[section](o, tables)
    for t in tables:
        print(t.markdown())
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump({t.title: list(t.rows()) for t in tables}, f, indent=1)


if __name__ == "__main__":
    main()
