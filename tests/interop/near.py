#!/usr/bin/env python3
"""datasketch judges the near-duplicates of `data.check`.

    python3 -m venv venv && venv/bin/pip install -r tests/interop/near_requirements.txt
    venv/bin/python tests/interop/near.py target/release/retune

Makes 3,000 rows with planted near-duplicates, lets `data.check` list every cluster
(14 bands of 8, from 0.8 on), and compares with datasketch at the same parameters:
candidates of its MinHashLSH with params=(14, 8), confirmed by their exact Jaccard.
Its hash functions are others, so a pair near the limit that only one of the two
proposes is possible; what such pairs would join is listed, with the chance to miss
them all. The
estimates of both must lie within four standard errors of the exact similarity, and
their mean error within four of its own.
"""
import json
import math
import os
import random
import subprocess
import sys
import tempfile

from datasketch import MinHash, MinHashLSH

PIPELINE = """
[pipeline]
name = "near"

[steps.rows]
uses = "data.import"
schema = "text"
files = ["rows.jsonl"]

[steps.gate]
uses = "data.check"
rows = "@rows"
examples = 100000
distinct_prompts = { action = "off" }
duplicates = { action = "off" }
near_duplicates = { threshold = 0.8, bands = 14, rows = 8, max_share = 1.0 }
"""
LIMIT, BANDS, ROWS = 0.8, 14, 8


def rows():
    rng = random.Random(11)
    words = ["".join(rng.choice("abcdefghij") for _ in range(5)) for _ in range(3000)]
    texts = []
    while len(texts) < 3000:
        if texts and rng.random() < 0.35:
            text = rng.choice(texts).split()
            for _ in range(rng.randint(0, 4)):
                text[rng.randrange(len(text))] = rng.choice(words)
        else:
            text = rng.choices(words, k=rng.randint(40, 160))
        texts.append(" ".join(text))
    return texts


def shingles(text):
    words = text.split()
    return {" ".join(words[i:i + 5]) for i in range(len(words) - 4)}


def clusters(count, links):
    parent = list(range(count))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in links:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    found = {}
    for i in range(count):
        found.setdefault(root(i), []).append(i)
    return {tuple(group) for group in found.values() if len(group) > 1}


def ours(program, texts):
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/pipelines")
        with open(f"{folder}/pipelines/near.toml", "w") as to:
            to.write(PIPELINE)
        with open(f"{folder}/rows.jsonl", "w") as to:
            to.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        subprocess.run([program, "build", "--quiet", "-p", "near"], cwd=folder, check=True)
        report = json.load(open(f"{folder}/cache/out/near/gate/report.json"))
    check = next(c for c in report["checks"] if c["check"] == "near_duplicates")
    line = lambda origin: int(origin.rpartition(":")[2]) - 1
    groups, estimates = set(), []
    for example in check["examples"]:
        members = [line(example["origin"])] + [line(o) for o in example["cluster"]["origins"]]
        groups.add(tuple(sorted(members)))
        estimates.append((example["cluster"]["similarity"], example["cluster"]["estimate"], members[:2]))
    assert check["count"] == sum(len(g) - 1 for g in groups)
    return groups, estimates


def main():
    program = os.path.abspath(sys.argv[1])
    texts = rows()
    sets = [shingles(text) for text in texts]
    jaccard = lambda a, b: len(sets[a] & sets[b]) / len(sets[a] | sets[b])
    sketches = []
    index = MinHashLSH(num_perm=112, params=(BANDS, ROWS))
    links = []
    for i, shingled in enumerate(sets):
        sketch = MinHash(num_perm=112, seed=3)
        sketch.update_batch([s.encode() for s in shingled])
        sketches.append(sketch)
        links += [(j, i) for j in index.query(sketch) if jaccard(i, j) >= LIMIT]
        index.insert(i, sketch)
    theirs = clusters(len(texts), links)
    groups, estimates = ours(program, texts)
    print(f"clusters: retune {len(groups)}, datasketch {len(theirs)}, the same {len(groups & theirs)}")
    unexplained = 0
    whole = clusters(len(texts), [(g[0], i) for g in groups | theirs for i in g[1:]])
    for name, own in (("retune", groups), ("datasketch", theirs)):
        for both in sorted(whole - own):
            # What one side has together, cut as the other has it: the pairs across
            # the cut were missed, and could be.
            parts = [g for g in own if set(g) <= set(both)]
            parts += [(i,) for i in both if not any(i in g for g in parts)]
            # Pairs of one cut are much alike and missed together: the best one counts.
            chance = 1.0
            for at, part in enumerate(parts):
                others = [j for other in parts[:at] + parts[at + 1:] for j in other]
                best = max(jaccard(i, j) for i in part for j in others)
                chance = min(chance, (1 - best ** ROWS) ** BANDS)
            print(f"  {name} has {len(both)} rows in {len(parts)} parts: a chance of up to {chance:.4f}")
            unexplained += chance < 1e-3
    errors = {"retune": [], "datasketch": []}
    for similarity, estimate, (a, b) in estimates:
        assert abs(similarity - jaccard(a, b)) < 1e-12, (similarity, jaccard(a, b))
        error = math.sqrt(max(similarity * (1 - similarity), 1e-9) / 112)
        for name, value in (("retune", estimate), ("datasketch", sketches[a].jaccard(sketches[b]))):
            assert abs(value - similarity) <= max(4 * error, 1 / 112), (name, value, similarity)
            errors[name].append((value - similarity) / error if error > 1e-3 else 0.0)
    for name, values in errors.items():
        mean = sum(values) / len(values)
        print(f"estimates of {name}: {len(values)} pairs, mean error {mean:+.3f} standard errors")
        assert abs(mean) < 4 / math.sqrt(len(values)) + 0.15, name
    assert unexplained == 0, unexplained
    assert len(groups & theirs) >= 0.97 * max(len(groups), len(theirs))
    print("agreed")


if __name__ == "__main__":
    main()
