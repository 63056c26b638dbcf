#!/usr/bin/env python3
"""Times import, statistics, gate, split and decontamination beside Polars with datasketch.

    python3 -m venv venv && venv/bin/pip install polars datasketch
    cargo build --release
    venv/bin/python benches/data.py --retune target/release/retune --rows 10000,100000,1000000

Makes chat rows (about 1 kB each; 5 % exact and 5 % near duplicates, 0.1 % placeholders,
0.1 % that hold an evaluation row) and lets both sides do the same job in turns, each in
processes of its own, from the same JSON lines file:

  import         every line checked (roles, texts), rows written in one form with an id
  stats          rows, lengths, duplicates, distinct prompts, rows by topic
  check          placeholders, exact and near duplicates (MinHash 112, LSH 14 x 8 over word
                 5-grams, candidates confirmed by their exact Jaccard of 0.8 and more)
  split          groups and near-duplicate clusters stay together, 80 / 10 / 10
  decontaminate  13-grams and 8-grams of 2,000 evaluation rows

The other side is what a careful user writes: Polars for what Polars can do, datasketch in
as many processes as there are CPUs, n-grams in Python sets. Wall and CPU (user + sys, all
processes) are of the whole job; memory is the largest resident set of any one process.
"""
import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

WORDS, TOPICS = 30_000, 40
EVALUATION = 2_000

PIPELINE = """
[pipeline]
name = "data"
seed = 7

[steps.import]
uses = "data.import"
schema = "chat"
files = ["rows.jsonl"]

[steps.eval]
uses = "data.import"
schema = "chat"
files = ["eval.jsonl"]

[steps.stats]
uses = "data.stats"
datasets = { all = "@import" }
by = ["topic"]

[steps.check]
uses = "data.check"
CHECK

[steps.split]
uses = "data.split"
rows = "@import"
group = ["repo"]
near = 0.8

[steps.clean]
uses = "data.decontaminate"
rows = "@split.train"
against = { eval = "@eval" }
"""


def vocabulary():
    """Pronounceable words; the frequent ones short, drawn with a Zipf-like weight."""
    rng = random.Random(1)
    letters = ["ka", "lo", "mi", "ten", "ra", "su", "vel", "do", "pri", "an", "ge", "bor", "ix", "ul"]
    words = set()
    while len(words) < WORDS:
        words.add("".join(rng.choice(letters) for _ in range(rng.randint(2, 5))))
    words = sorted(words, key=lambda w: (len(w), w))
    weights = [1 / (i + 10) for i in range(WORDS)]
    return words, weights


def generate(folder, rows):
    """Writes rows.jsonl and eval.jsonl."""
    rng = random.Random(rows)
    words, weights = vocabulary()
    cumulative, total = [], 0.0
    for weight in weights:
        total += weight
        cumulative.append(total)
    say = lambda n: rng.choices(words, cum_weights=cumulative, k=n)
    chat = lambda prompt, answer, **meta: json.dumps({"messages": [
        {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **meta})
    evaluation = [(" ".join(say(40)), " ".join(say(15))) for _ in range(EVALUATION)]
    with open(f"{folder}/eval.jsonl", "w") as to:
        to.writelines(chat(q, a, topic="eval", repo="eval") + "\n" for q, a in evaluation)
    kept = []
    with open(f"{folder}/rows.jsonl", "w") as to:
        for i in range(rows):
            draw = rng.random()
            if kept and draw < 0.05:
                prompt, answer = kept[rng.randrange(len(kept))]
            elif kept and draw < 0.10:
                prompt, answer = kept[rng.randrange(len(kept))]
                parts = answer.split(" ")
                parts[rng.randrange(len(parts))] = rng.choice(words)
                answer = " ".join(parts)
            elif draw < 0.101:
                prompt, answer = " ".join(say(50)), "TODO: " + " ".join(say(90))
            elif draw < 0.102:
                question, right = evaluation[rng.randrange(EVALUATION)]
                prompt, answer = " ".join(say(10)) + " " + question, right + " " + " ".join(say(80))
            else:
                prompt, answer = " ".join(say(50)), " ".join(say(95))
                if len(kept) < 20_000:
                    kept.append((prompt, answer))
            to.write(chat(prompt, answer, topic=f"t{rng.randrange(TOPICS)}", repo=f"r{i // 3}") + "\n")


# The other side.

def grams(text, n):
    words = text.lower().split()
    return {" ".join(words[i:i + n]) for i in range(max(len(words) - n + 1, 1))}


def sketch(text):
    import numpy
    from datasketch import MinHash
    minhash = MinHash(num_perm=112, seed=1)
    minhash.update_batch([gram.encode() for gram in grams(text, 5)])
    return minhash.hashvalues.astype(numpy.uint32)


def peer(folder):
    """The same job with Polars and datasketch; prints seconds by part and what was found."""
    import multiprocessing
    import numpy
    import polars
    from datasketch import LeanMinHash, MinHash, MinHashLSH
    spent, begun = {}, time.perf_counter()

    def lap(name):
        nonlocal begun
        now = time.perf_counter()
        spent[name], begun = now - begun, now

    table = polars.read_ndjson(f"{folder}/rows.jsonl")
    prompt = polars.col("messages").list.get(0).struct.field("content").alias("prompt")
    answer = polars.col("messages").list.get(1).struct.field("content").alias("answer")
    roles = polars.col("messages").list.eval(polars.element().struct.field("role"))
    wrong = table.filter((polars.col("messages").list.len() != 2) | (roles.list.get(0) != "user") | (roles.list.get(1) != "assistant"))
    assert wrong.height == 0
    table = table.with_columns(prompt, answer).with_columns((polars.col("prompt") + "\n" + polars.col("answer")).alias("text"))
    assert table.filter((polars.col("prompt").str.strip_chars() == "") | (polars.col("answer").str.strip_chars() == "")).height == 0
    table = table.with_columns(polars.col("text").hash(seed=1).alias("id"))
    table.write_parquet(f"{folder}/rows.parquet")
    table.select("id", "messages", "topic", "repo").write_ndjson(f"{folder}/canonical.jsonl")
    lap("import")

    lengths = table.select(polars.col("text").str.len_chars().alias("n"))
    found = {"rows": table.height, "distinct": table["id"].n_unique(), "prompts": table["prompt"].n_unique()}
    lengths.select([polars.col("n").quantile(q).alias(str(q)) for q in (0.5, 0.9, 0.95, 0.99)]).row(0)
    table.group_by("topic").len().sort("topic")
    lap("stats")

    found["placeholders"] = table.filter(polars.col("answer").str.contains(r"\b(TODO|FIXME)\b")).height
    texts = table["text"].to_list()
    with multiprocessing.Pool(os.cpu_count()) as pool:
        sketches = pool.map(sketch, texts, chunksize=1000)
    index = MinHashLSH(num_perm=112, params=(14, 8))
    scheme = MinHash(num_perm=112, seed=1).scheme
    parent = list(range(len(texts)))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    shingles, near = {}, 0

    def of(i):
        if i not in shingles:
            shingles[i] = grams(texts[i], 5)
        return shingles[i]

    for i, values in enumerate(sketches):
        minhash = LeanMinHash(seed=1, hashvalues=values, scheme=scheme)
        for j in index.query(minhash):
            if root(i) != root(j):
                a, b = of(i), of(j)
                if len(a & b) / len(a | b) >= 0.8:
                    parent[max(root(i), root(j))] = min(root(i), root(j))
                    near += 1
        index.insert(i, minhash)
    found["near"] = near
    lap("check")

    first = {}
    for i, repo in enumerate(table["repo"].to_list()):
        j = first.setdefault(repo, i)
        parent[max(root(i), root(j))] = min(root(i), root(j))
    units = {}
    for i in range(len(texts)):
        units.setdefault(root(i), []).append(i)
    order = sorted(units)
    random.Random(7).shuffle(order)
    parts, sizes = numpy.zeros(len(texts), dtype=numpy.int8), [0, 0, 0]
    shares = (0.8, 0.1, 0.1)
    for unit in order:
        to = min(range(3), key=lambda k: sizes[k] / shares[k])
        parts[units[unit]] = to
        sizes[to] += len(units[unit])
    split = table.with_columns(polars.Series("part", parts))
    for part, name in enumerate(("train", "validation", "test")):
        split.filter(polars.col("part") == part).select("id", "messages", "topic", "repo").write_ndjson(f"{folder}/{name}.jsonl")
    lap("split")

    long, middle = set(), {}
    for i, line in enumerate(open(f"{folder}/eval.jsonl")):
        messages = json.loads(line)["messages"]
        for message in messages:
            long |= grams(message["content"], 13)
        for gram in grams(messages[0]["content"], 8):
            middle.setdefault(gram, []).append(i)
    held = 0
    with open(f"{folder}/clean.jsonl", "w") as to:
        for line in open(f"{folder}/train.jsonl"):
            text = "\n".join(m["content"] for m in json.loads(line)["messages"])
            counts = {}
            for gram in grams(text, 8):
                for i in middle.get(gram, ()):
                    counts[i] = counts.get(i, 0) + 1
            if not long.isdisjoint(grams(text, 13)) or any(n >= 0.7 * 33 for n in counts.values()):
                held += 1
            else:
                to.write(line)
    found["contaminated"] = held
    lap("decontaminate")
    print(json.dumps({"parts": spent, "found": found}))


# Both, in turns.

def measured(command, **options):
    """Wall and CPU seconds and the largest resident set in MiB of a command."""
    code = "import resource,subprocess,sys,time;t=time.perf_counter();r=subprocess.run(sys.argv[1:],stdout=subprocess.PIPE);" \
           "u=resource.getrusage(resource.RUSAGE_CHILDREN);sys.stdout.buffer.write(r.stdout);" \
           "print('\\n@',time.perf_counter()-t,u.ru_utime+u.ru_stime,u.ru_maxrss/1024);sys.exit(r.returncode)"
    done = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}")
    out, _, figures = done.stdout.rpartition("\n@")
    wall, cpu, memory = map(float, figures.split())
    return out, wall, cpu, memory


def retune(program, folder):
    project = f"{folder}/project"
    os.makedirs(f"{project}/pipelines", exist_ok=True)
    with open(f"{project}/pipelines/data.toml", "w") as to:
        to.write(PIPELINE.replace("CHECK", CHECK))
    for name in ("rows.jsonl", "eval.jsonl"):
        if not os.path.exists(f"{project}/{name}"):
            os.link(f"{folder}/{name}", f"{project}/{name}")
    subprocess.run(["rm", "-rf", f"{project}/cache"], check=True)
    _, wall, cpu, memory = measured([program, "build", "--quiet", "-p", "data"], cwd=project)
    out = f"{project}/cache/out/data"
    stats = json.load(open(f"{out}/stats/stats.json"))["total"]
    clean = json.load(open(f"{out}/clean/report.json"))
    checks = {c["check"]: c["count"] for c in json.load(open(f"{out}/check/report.json"))["checks"]}
    found = {"rows": stats["rows"], "distinct": stats["rows"] - stats["duplicates"],
             "prompts": stats["distinct_prompts"], "placeholders": checks["placeholders"],
             "near": checks["near_duplicates"], "contaminated": clean["contaminated"]}
    return found, wall, cpu, memory


# The checks that the other side makes too; what is planted must not end the build.
CHECK = '''rows = "@import"
boilerplate = 1.0
distinct_prompts = { min_share = 0.0 }
duplicates = { max_share = 1.0 }
near_duplicates = { max_share = 1.0 }
placeholders = { usual = false, patterns = { TODO = '\\b(TODO|FIXME)\\b' }, max_share = 1.0 }
copies = { action = "off" }
encoding = { action = "off" }
'''


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--retune", default="target/release/retune")
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("retune", "peer"))
    parser.add_argument("--folder", help="where to keep what is generated")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer)
    program = os.path.abspath(options.retune)
    print(f"{'rows':>9} {'':8} {'wall s':>8} {'CPU s':>8} {'us a row':>9} {'MiB':>6}")
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            generate(folder, rows)
            size = os.path.getsize(f"{folder}/rows.jsonl")
            runs = {"retune": [], "peer": []}
            for _ in range(options.rounds):
                if options.only != "peer":
                    runs["retune"].append(retune(program, folder))
                if options.only != "retune":
                    out, *figures = measured([sys.executable, __file__, "--peer", folder])
                    last = json.loads(out.strip().splitlines()[-1])
                    print(" " * 10 + "peer: " + ", ".join(f"{k} {v:.1f} s" for k, v in last["parts"].items()))
                    runs["peer"].append((last["found"], *figures))
            for name, of in runs.items():
                if of:
                    wall, cpu, memory = (statistics.median(run[k] for run in of) for k in (1, 2, 3))
                    print(f"{rows:9} {name:8} {wall:8.1f} {cpu:8.1f} {cpu / rows * 1e6:9.0f} {memory:6.0f}   {of[-1][0]}")
            if all(runs.values()):
                ratio = lambda k: statistics.median(b[k] / a[k] for a, b in zip(runs["retune"], runs["peer"]))
                print(f"{'':9} {'ratio':8} {ratio(1):8.2f} {ratio(2):8.2f}   ({size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
