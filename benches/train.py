#!/usr/bin/env python3
"""Times LoRA training beside torch with PEFT, on random weights of the same shapes.

    python3 -m venv venv && venv/bin/pip install torch transformers peft
    cargo bench --bench train --no-run              # says where the program is
    venv/bin/python benches/train.py --program target/release/deps/train-… --sizes 5m,50m,300m

Both train an adapter of rank 16 on all linear layers of an OLMo-2 with AdamW, 4
sequences of 256 random tokens a step, no dropout, SDPA attention in torch, which is
left as it comes (`--dtypes bf16` casts the model; PEFT keeps the adapter f32, as
retune does). In each round every program runs as a process of its own, in turns at
going first; a process does two steps that do not count and then STEPS that do, and
gives their medians and its peak memory (VmHWM, the making of the weights included).
The table has the medians over the rounds. CPU is user + sys of the process: on a
machine with other work it is what can be compared, wall time is not.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = {
    "5m": (256, 4, 704, 4, 4096),
    "50m": (512, 10, 1408, 8, 16384),
    "300m": (1024, 16, 2816, 16, 32768),
    "1b": (2048, 16, 8192, 16, 100352),
}
BATCH, LENGTH = 4, 256


def torch_run(size, dtype, threads, steps):
    """The child: trains with torch and PEFT and prints what one line of the program has."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Olmo2Config, Olmo2ForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden, layers, middle, heads, vocabulary = SIZES[size]
    config = Olmo2Config(
        hidden_size=hidden, num_hidden_layers=layers, intermediate_size=middle,
        num_attention_heads=heads, num_key_value_heads=heads, vocab_size=vocabulary,
        max_position_embeddings=4096, tie_word_embeddings=False, pad_token_id=0,
        eos_token_id=1, bos_token_id=2,
    )
    torch.set_default_dtype(torch.bfloat16 if dtype == "bf16" else torch.float32)
    model = Olmo2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear",
                      task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    batches = [torch.randint(0, vocabulary, (BATCH, LENGTH)) for _ in range(4)]
    wall, cpu = [], []
    for step in range(steps + 2):
        start, before = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        tokens = batches[step % 4]
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        if step >= 2:
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - before)
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    print(json.dumps({
        "wall_s": statistics.median(wall), "cpu_s": statistics.median(cpu),
        "rss_mb": int(peak.split()[1]) // 1024,
    }))


def run(command, threads):
    variables = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                     HF_HUB_OFFLINE="1")
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(options, folder, size, dtype, threads):
    """One row: the medians of all rounds."""
    ours = [options.program, "run", folder, "--dtype", dtype, "--threads", str(threads),
            "--steps", str(options.steps)]
    if options.isa:
        ours += ["--isa", options.isa]
    theirs = [sys.executable, __file__, "--child", size, dtype, str(threads), str(options.steps)]
    results = {"torch": [], "retune": []}
    for turn in range(options.rounds):
        order = [("torch", theirs), ("retune", ours)]
        for name, command in order if turn % 2 == 0 else reversed(order):
            results[name].append(run(command, threads))
    middle = lambda name, field: statistics.median(r[field] for r in results[name])
    torch_cpu, our_cpu = middle("torch", "cpu_s"), middle("retune", "cpu_s")
    torch_wall, our_wall = middle("torch", "wall_s"), middle("retune", "wall_s")
    torch_mb, our_mb = middle("torch", "rss_mb"), middle("retune", "rss_mb")
    print(f"| {size} | {dtype} | {threads} | {torch_cpu:.3f} | {our_cpu:.3f} "
          f"| {torch_cpu / our_cpu:.2f} | {torch_wall:.3f} | {our_wall:.3f} "
          f"| {middle('retune', 'share_of_peak'):.2f} | {torch_mb:.0f} | {our_mb:.0f} "
          f"| {our_mb / torch_mb:.2f} |", flush=True)


def main():
    if "--child" in sys.argv:
        size, dtype, threads, steps = sys.argv[sys.argv.index("--child") + 1:][:4]
        return torch_run(size, dtype, int(threads), int(steps))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--sizes", default="5m,50m,300m")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--isa", default="", help="AVX2, AVX-512 or AVX-512 BF16; retune only")
    options = parser.parse_args()
    print("| size | dtype | threads | torch CPU s | retune CPU s | ratio | torch wall s "
          "| retune wall s | share of peak | torch MiB | retune MiB | share |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in options.sizes.split(","):
        for dtype in options.dtypes.split(","):
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([options.program, "make", folder, "--size", size, "--dtype", dtype],
                               check=True)
                for threads in options.threads.split(","):
                    measure(options, folder, size, dtype, int(threads))


main()
