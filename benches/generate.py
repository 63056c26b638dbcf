"""Times answers beside transformers and candle-transformers: greedy, f32, 64 tokens read, 128 written.

    cargo build --release --bench generate
    python benches/generate.py PATH/TO/generate FOLDER [50m] [300m]

PATH/TO/generate is the program that cargo names. FOLDER is for the random
models. The engines take turns, each a process of its own that has answered once
before; the medians of all rounds are printed, as new tokens a second, with
their ratio to transformers. Needs torch and transformers
(tests/interop/families_requirements.txt).
"""

import pathlib
import statistics
import subprocess
import sys
import time

PROMPT, NEW, ROUNDS = 64, 128, 5
CASES = [(1, 1), (1, 2), (8, 1), (8, 2)]


def serve_transformers(folder, batch, threads):
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    tokens = [
        [300 + (i * 7919 + s * 104729) % 15000 for i in range(PROMPT)] for s in range(batch)
    ]
    tokens = torch.tensor(tokens)

    def answer():
        with torch.inference_mode():
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                pad_token_id=0,
            )
        return out.numel() - tokens.numel()

    answer()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        count = answer()
        print(time.perf_counter() - start, count, flush=True)


def start(engine, program, folder, batch, threads):
    if engine == "transformers":
        command = [sys.executable, __file__, "serve", folder, str(batch), str(threads)]
    else:
        command = [program, engine, folder, str(batch), str(threads), str(PROMPT), str(NEW)]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline().strip() == "ready", engine
    return process


def peak(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def main(program, folder, shapes):
    print("| shape | batch | threads | engine | tokens/s | of transformers | peak MiB |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for shape in shapes:
        place = pathlib.Path(folder) / shape
        if not (place / "config.json").exists():
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run([program, "make", shape, place], check=True)
        for batch, threads in CASES:
            engines = ["transformers", "retune", "candle"]
            running = {e: start(e, program, str(place), batch, threads) for e in engines}
            speeds = {engine: [] for engine in engines}
            for _ in range(ROUNDS):
                for engine, process in running.items():
                    process.stdin.write("go\n")
                    process.stdin.flush()
                    seconds, count = process.stdout.readline().split()
                    assert int(count) == batch * NEW, f"{engine} wrote {count} tokens"
                    speeds[engine].append(int(count) / float(seconds))
            medians = {engine: statistics.median(all) for engine, all in speeds.items()}
            for engine, process in running.items():
                ratio = medians[engine] / medians["transformers"]
                row = f"{medians[engine]:.1f} | {ratio:.2f} | {peak(process)}"
                print(f"| {shape} | {batch} | {threads} | {engine} | {row} |", flush=True)
                process.stdin.close()
                process.wait()


if sys.argv[1] == "serve":
    serve_transformers(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    main(sys.argv[1], sys.argv[2], sys.argv[3:] or ["50m", "300m"])
