#!/usr/bin/env python3
"""Times `retune build` beside ninja on the same synthetic graphs (standard library only).

    cargo build --release
    python3 -m venv venv && venv/bin/pip install ninja
    python3 benches/dag.py --generator DAG_GEN.py --ninja venv/bin/ninja --retune target/release/retune

DAG_GEN.py writes a graph of shell commands as `build.ninja` and as a neutral list of
`[[step]]` tables in `pipeline.toml`:

    DAG_GEN.py FOLDER --shape wide|layered|cutoff --n N --formats ninja,toml,sh

wide: N times `cat SOURCE > OUT`. layered: ten layers of N/10 steps, each reading three
outputs of the layer above (`cat INPUTS | cksum > OUT`). cutoff: the same, but the first
layer keeps only the first 512 bytes of its source.

Both tools work in one folder on the same sources, with two jobs, output into a file.
What is measured, in rounds in which the tools take turns at going first:
  full     everything, from nothing (`sh` runs the same commands one by one, without a tool)
  no-op    nothing changed
  touch    the time of one source changed, its bytes did not
  cutoff   one source changed where the first step does not look (shape cutoff only)
  change   one source changed
A full build runs in a copy of the folder that is as new as it can be: a file system may
be slow in making files where many were removed a moment ago, as ext4 without a journal is.
A retune that has just built does not trust digests of files that changed within the
clock's granularity of being hashed: it is run until its stat cache settles before the
no-ops are measured. CPU is user + sys of the tool and all its children (wait4), the
figures are medians. Prints Markdown.
"""
import argparse
import itertools
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

JOBS = "2"


def convert(folder):
    """Turns the neutral list of steps into a pipeline of `command` steps."""
    with open(f"{folder}/pipeline.toml", "rb") as file:
        steps = tomllib.load(file)["step"]
    made_by = {step["outputs"][0]: step["name"] for step in steps}
    text = ["[pipeline]\nname = \"dag\"\n"]
    for step in steps:
        labels = {path: f"i{n}" for n, path in enumerate(step["inputs"])}
        words = {path: f"${{inputs.{label}}}" for path, label in labels.items()}
        words[step["outputs"][0]] = "${outputs.out}"
        run = " ".join(words.get(word, word) for word in step["cmd"].split(" "))
        inputs = ", ".join(
            f'{label} = "{"@" + made_by[path] if path in made_by else path}"'
            for path, label in labels.items()
        )
        text.append(
            f'\n[steps.{step["name"]}]\nuses = "command"\nrun = "{run}"\n'
            f'inputs = {{ {inputs} }}\noutputs = {{ out = "out.txt" }}\n'
        )
    os.makedirs(f"{folder}/pipelines", exist_ok=True)
    with open(f"{folder}/pipelines/dag.toml", "w") as file:
        file.writelines(text)


class Tool:
    """A build tool in a folder."""

    def __init__(self, name, argv, count):
        self.name, self.argv, self.count = name, argv, count

    def run(self, folder):
        """Runs it; gives (CPU ms, wall ms, steps run, peak MiB)."""
        log = f"{folder}/{self.name}.log"
        with open(log, "wb") as out:
            start = time.perf_counter()
            child = subprocess.Popen(self.argv, cwd=folder, stdout=out, stderr=out)
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
        with open(log, errors="replace") as file:
            text = file.read()
        if child.returncode != 0:
            sys.exit(f"{self.name} failed in {folder}:\n{text[-2000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        return cpu * 1e3, wall * 1e3, self.count(text), usage.ru_maxrss / 1024


def ninja_count(text):
    done = re.findall(r"^\[(\d+)/\d+\]", text, re.M)
    return int(done[-1]) if done else 0


def retune_count(text):
    ran = re.search(r"(\d+) ran", text)
    return int(ran.group(1)) if ran else 0


def edit(folder, source, at, byte):
    with open(f"{folder}/{source}", "r+b") as file:
        file.seek(at)
        file.write(byte)


def phases(shape):
    """What is done to source number `n` before each kind of build, by phase."""
    letter = lambda n: b"ghijklmnopqrstuvwxyz"[n % 20 : n % 20 + 1]
    table = {
        "no-op": lambda folder, n: None,
        "touch": lambda folder, n: os.utime(f"{folder}/in/{n}.txt"),
        "cutoff": lambda folder, n: edit(folder, f"in/{n}.txt", 900, letter(n)),
        "change": lambda folder, n: edit(folder, f"in/{n}.txt", 10, letter(n)),
    }
    if shape != "cutoff":
        del table["cutoff"]
    return table


def settle(tool, folder):
    """Runs retune until its stat cache stays as it is."""
    time.sleep(2.2)
    stamp = None
    for _ in range(5):
        tool.run(folder)
        now = os.stat(f"{folder}/cache/stat").st_mtime_ns
        if now == stamp:
            return
        stamp = now


def in_turns(tools, number):
    return tools if number % 2 == 0 else tools[::-1]


def measure(folder, shape, tools, full_rounds, rounds):
    """{(phase, tool): [(cpu, wall, steps, peak)]} for one graph."""
    found = {}

    def note(phase, tool):
        found.setdefault((phase, tool.name), []).append(tool.run(folder))

    shell = Tool("sh", ["sh", "all.sh"], lambda _: 0)
    for number in range(full_rounds):
        for tool in in_turns([*tools, shell], number):
            fresh = f"{folder}.{tool.name}{number}"
            shutil.copytree(folder, fresh)
            os.makedirs(f"{fresh}/out", exist_ok=True)
            found.setdefault(("full", tool.name), []).append(tool.run(fresh))
    for tool in tools:
        os.makedirs(f"{folder}/out", exist_ok=True)
        tool.run(folder)
    for phase, prepare in phases(shape).items():
        settle(tools[1], folder)
        for tool in tools:
            tool.run(folder)
        for number in range(rounds):
            prepare(folder, number % 10)
            for tool in in_turns(tools, number):
                note(phase, tool)
            if phase == "change":
                # A value never seen before, so that nothing is put back from the store.
                edit(folder, f"in/{number % 10}.txt", 20 + number, b"x")
                for tool in tools:
                    tool.run(folder)
    return found


def middle(runs, column):
    return statistics.median(run[column] for run in runs)


def rows(shape, n, found):
    for phase in ("full", "no-op", "touch", "cutoff", "change"):
        if (phase, "retune") not in found:
            continue
        ninja, retune = found[phase, "ninja"], found[phase, "retune"]
        ratio = middle(retune, 0) / max(middle(ninja, 0), 1e-9)
        figures = [f"{middle(runs, column):.1f}" for column in (0, 1) for runs in (ninja, retune)]
        steps = [f"{middle(runs, 2):.0f}" for runs in (ninja, retune)]
        yield [shape, f"{n:,}", phase, *steps, *figures[:2], f"{ratio:.2f}", *figures[2:], f"{middle(retune, 3):.0f}"]


HEAD = ["shape", "steps", "build", "ninja ran", "retune ran", "ninja CPU ms", "retune CPU ms", "ratio",
        "ninja wall ms", "retune wall ms", "retune peak MiB"]


def show(row):
    print("| " + " | ".join(row) + " |", flush=True)


def overhead(n, found):
    runs = {name: middle(found["full", name], 0) / n for name in ("sh", "ninja", "retune")}
    return (f"{runs['sh']:.2f} ms CPU a step for `sh` alone, "
            f"{runs['ninja'] - runs['sh']:+.2f} ms with ninja, {runs['retune'] - runs['sh']:+.2f} ms with retune")


def version(argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip().splitlines()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", required=True, help="the generator of graphs")
    parser.add_argument("--ninja", default="ninja")
    parser.add_argument("--retune", default="target/release/retune")
    parser.add_argument("--folder", help="where the graphs are made; /tmp if it is not given")
    parser.add_argument("--shapes", default="layered,cutoff,wide")
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--rounds", type=int, default=9, help="of the incremental builds")
    parser.add_argument("--full-rounds", type=int, default=3, help="of the full builds; 1 from 10,000 steps on")
    args = parser.parse_args()
    ninja, retune = shutil.which(args.ninja), shutil.which(args.retune)
    if not ninja or not retune:
        sys.exit("failed to find " + (args.retune if ninja else args.ninja))
    ninja, retune = os.path.abspath(ninja), os.path.abspath(retune)
    tools = [
        Tool("ninja", [ninja, "-j", JOBS], ninja_count),
        Tool("retune", [retune, "build", "--jobs", JOBS], retune_count),
    ]
    print(f"ninja {version([ninja, '--version'])}, {version([retune, '--version'])}, "
          f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    show(HEAD)
    show(["---"] * 3 + ["---:"] * (len(HEAD) - 3))
    notes = []
    # All is removed at the very end, see above.
    with tempfile.TemporaryDirectory(prefix="retune-dag-", dir=args.folder) as parent:
        for shape, n in itertools.product(args.shapes.split(","), map(int, args.sizes.split(","))):
            folder = f"{parent}/{shape}{n}"
            command = [sys.executable, args.generator, folder, "--shape", shape, "--n", str(n)]
            subprocess.run([*command, "--formats", "ninja,toml,sh"], check=True)
            convert(folder)
            found = measure(folder, shape, tools, 1 if n >= 10000 else args.full_rounds, args.rounds)
            for row in rows(shape, n, found):
                show(row)
            notes.append(f"- {shape}, {n:,} steps: {overhead(n, found)}")
    print("\nFull builds:\n\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
