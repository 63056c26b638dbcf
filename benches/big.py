#!/usr/bin/env python3
"""Times `retune build` on big data beside DVC, and its hashing beside b3sum (standard library only).

    cargo build --release
    python3 -m venv venv && venv/bin/pip install dvc        # optional
    python3 benches/big.py --generator DAG_GEN.py --retune target/release/retune [--dvc venv/bin/dvc]

DAG_GEN.py is the generator of `dag.py`; of it this uses

    DAG_GEN.py FOLDER --shape big --big-bytes N --dir-files N --formats dvc,toml

two steps, one that reads a file of N bytes and one that reads a folder of N files of 1 KiB
in subfolders of 1,000. It needs twice the big file's bytes on the disk and removes
everything at the end. What is measured, with what has to be read in the page cache:
  first     from nothing
  no-op     nothing changed
  touch     the time of the big file changed, its bytes did not
  change    one file of the folder changed
  hash      one build of a step that reads nothing but the big file, less the same build of
            a file of one byte, beside `b3sum` of that file (both on all cores)
  start-up  `--version`
CPU is user + sys of the tool and all its children (wait4), the figures are medians. The
peak is the kernel's maxrss, which is never below that of this script itself. Prints Markdown.
"""
import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from dag import convert, show

ONE = """[steps.one]
uses = "command"
run = "true ${inputs.data} > ${outputs.out}"
inputs = { data = "%s" }
outputs = { out = "out.txt" }
"""


def run(argv, folder):
    """Gives (CPU s, wall s, peak MiB)."""
    with open(f"{folder}/log", "wb") as out:
        start = time.perf_counter()
        child = subprocess.Popen(argv, cwd=folder, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        with open(f"{folder}/log", errors="replace") as file:
            sys.exit(f"{argv} failed in {folder}:\n{file.read()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def middle(runs):
    return [statistics.median(run[column] for run in runs) for column in range(3)]


def change(folder, number):
    with open(f"{folder}/many/{number % 10:03d}/{number % 10 * 1000 + 7:06d}.txt", "r+b") as file:
        file.write(random.randbytes(16))


def forget(folder):
    for name in ("cache", "pipelines/dag.lock", "dvc.lock", ".dvc", ".git"):
        path = f"{folder}/{name}"
        shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)


def measure(name, argv, folder, rounds, prepare):
    """{phase: medians}"""
    forget(folder)
    prepare(folder)
    found = {"first": middle([run(argv, folder)])}
    time.sleep(2.2)
    for _ in range(2):  # what was hashed within the clock's grain is hashed once more
        run(argv, folder)
    touch = lambda number: os.utime(f"{folder}/big.bin")
    for phase, edit in (("no-op", lambda _: None), ("touch", touch), ("change", lambda n: change(folder, n))):
        runs = []
        for number in range(rounds):
            edit(number)
            time.sleep(0.1)
            runs.append(run(argv, folder))
            run(argv, folder)
        found[phase] = middle(runs)
    return found


def dvc_start(dvc):
    def start(folder):
        os.makedirs(f"{folder}/out", exist_ok=True)
        subprocess.run([dvc, "init", "--no-scm", "-q"], cwd=folder, check=True)
        subprocess.run([dvc, "config", "cache.type", "reflink,hardlink,symlink"], cwd=folder, check=True)
    return start


def hashing(retune, b3sum, folder, rounds, size):
    """Prints bytes a second of CPU."""
    os.makedirs(f"{folder}/pipelines", exist_ok=True)
    with open(f"{folder}/byte", "wb") as file:
        file.write(b"x")
    for name, data in (("hash", "big.bin"), ("nothing", "byte")):
        with open(f"{folder}/pipelines/{name}.toml", "w") as file:
            file.write(ONE % data)
    build = lambda name: [retune, "build", "-p", name, "--cache", f"cache.{name}"]
    taken = {"hash": [], "nothing": [], "b3sum": []}
    for _ in range(rounds):
        for name in ("hash", "nothing"):
            shutil.rmtree(f"{folder}/cache.{name}", ignore_errors=True)
            taken[name].append(run(build(name), folder))
        taken["b3sum"].append(run([b3sum, "big.bin"], folder))
    for name in ("hash", "nothing"):
        shutil.rmtree(f"{folder}/cache.{name}", ignore_errors=True)
    cpu = {name: middle(runs)[0] for name, runs in taken.items()}
    own = size / (cpu["hash"] - cpu["nothing"]) / 1e9
    other = size / cpu["b3sum"] / 1e9
    print(f"\nhashing {size / 2**30:.2f} GiB: retune {own:.2f} GB/s of CPU, b3sum {other:.2f}, ratio {own / other:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", required=True, help="the generator of graphs")
    parser.add_argument("--retune", default="target/release/retune")
    parser.add_argument("--dvc", help="measured as well if given")
    parser.add_argument("--b3sum", default="b3sum", help="left out if it is not there")
    parser.add_argument("--big-bytes", type=int, default=4 << 30)
    parser.add_argument("--dir-files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work [default: a temporary one]")
    args = parser.parse_args()
    retune = os.path.abspath(args.retune)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, {args.big_bytes / 2**30:.2f} GiB "
          f"and {args.dir_files:,} files\n")
    with tempfile.TemporaryDirectory(prefix="retune-big-", dir=args.folder) as folder:
        start = [run([retune, "--version"], folder) for _ in range(11)]
        command = [sys.executable, args.generator, folder, "--shape", "big", "--formats", "dvc,toml"]
        subprocess.run([*command, "--big-bytes", str(args.big_bytes), "--dir-files", str(args.dir_files)], check=True)
        convert(folder)
        time.sleep(2.2)
        tools = [("retune", [retune, "build"], lambda _: None)]
        if args.dvc:
            dvc = os.path.abspath(args.dvc)
            tools.append(("DVC", [dvc, "repro", "-q"], dvc_start(dvc)))
        show(["tool", "build", "CPU s", "wall s", "peak MiB"])
        show(["---", "---", "---:", "---:", "---:"])
        for name, argv, prepare in tools:
            for phase, (cpu, wall, peak) in measure(name, argv, folder, args.rounds, prepare).items():
                show([name, phase, f"{cpu:.3f}", f"{wall:.2f}", f"{peak:.0f}"])
        forget(folder)
        if shutil.which(args.b3sum):
            hashing(retune, args.b3sum, folder, args.rounds, args.big_bytes)
        print(f"start-up: {middle(start)[0] * 1e3:.2f} ms of CPU")


if __name__ == "__main__":
    main()
