#!/usr/bin/env python3
"""datasets, pandas and pyarrow judge the rows of `data.import`, and it reads what they write.

    python3 -m venv venv && venv/bin/pip install -r tests/interop/rows_requirements.txt
    venv/bin/python tests/interop/rows.py target/release/retune

Out: 5,000 chat rows, 200 texts and 200 preferences are imported; `datasets.load_dataset`,
pandas and pyarrow must find the same rows in rows.jsonl and rows.parquet. In: the same rows
written by pandas and pyarrow (Parquet with every codec, with and without dictionaries, pages
of version 1 and 2, small row groups; CSV, TSV, JSON lines packed with gzip and zstd, a JSON
document) must be imported with the same ids.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

import datasets
import pandas
import pyarrow
import pyarrow.parquet

WORDS = ["alpha", "beta", "ge\u00e4ndert", "\u65e5\u672c\u8a9e", "\U0001f600", "line\nbreak", 'quo"te', "comma,", "tab\there", "\\back"]


def chat(rng, i):
    say = lambda n: " ".join(rng.choice(WORDS) for _ in range(n)) + f" {i}"
    return {
        "messages": [{"role": "user", "content": say(5)}, {"role": "assistant", "content": say(9)}],
        "severity": rng.choice(["low", "high"]), "line": i, "score": i / 7, "flag": i % 2 == 0,
    }


def build(program, folder, name, schema, files, extra=""):
    with open(f"{folder}/pipelines/{name}.toml", "w") as to:
        to.write(f'[pipeline]\nname = "{name}"\n[steps.rows]\nuses = "data.import"\nschema = "{schema}"\n'
                 f"files = {json.dumps(files)}\n{extra}")
    done = subprocess.run([program, "build", "--quiet", "-p", name], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = f"{folder}/cache/out/{name}/rows"
    return out, [json.loads(line) for line in open(f"{out}/rows.jsonl")]


def judge_output(out, rows):
    """Every reader finds in both files what the JSON lines say."""
    table = pyarrow.parquet.read_table(f"{out}/rows.parquet").to_pylist()
    frame = pandas.read_parquet(f"{out}/rows.parquet")
    cache = tempfile.mkdtemp()
    loaded = datasets.load_dataset("parquet", data_files=f"{out}/rows.parquet", split="train", cache_dir=cache)
    lines = datasets.load_dataset("json", data_files=f"{out}/rows.jsonl", split="train", cache_dir=cache)
    lined = pandas.read_json(f"{out}/rows.jsonl", lines=True)
    assert len(table) == len(frame) == len(loaded) == len(lines) == len(lined) == len(rows)
    for row, one, two, three, four in zip(rows, table, loaded, lines, lined.to_dict("records")):
        for name in ("id", "origin", "text", "messages", "prompt", "chosen", "rejected"):
            wanted = row.get(name)
            assert one[name] == wanted and two[name] == wanted, (name, wanted, one[name], two[name])
            if wanted is not None:
                assert three[name] == wanted and four[name] == wanted, (name, wanted, three[name])
        assert json.loads(one["meta"]) == row["meta"]
    assert list(frame["id"]) == [row["id"] for row in rows]


def main():
    program = os.path.abspath(sys.argv[1])
    rng = random.Random(5)
    chats = [chat(rng, i) for i in range(5000)]
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/pipelines")
        write = lambda name, items: open(f"{folder}/{name}", "w").writelines(json.dumps(i) + "\n" for i in items)
        write("chat.jsonl", chats)
        write("text.jsonl", [{"text": f"text {i} {rng.choice(WORDS)}"} for i in range(200)])
        write("pref.jsonl", [{"prompt": f"p {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(200)])
        out, rows = build(program, folder, "chat", "chat", ["chat.jsonl"])
        judge_output(out, rows)
        for name, schema in (("text", "text"), ("pref", "preference")):
            judge_output(*build(program, folder, name, schema, [f"{name}.jsonl"]))
        print("datasets, pandas and pyarrow read 5,000 chats, 200 texts and 200 preferences as they are")

        ids = [row["id"] for row in rows]
        table = pyarrow.Table.from_pylist(chats)
        cases = 0
        for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
            for dictionary in (True, False):
                for version in ("1.0", "2.0"):
                    name = f"in-{codec}-{dictionary}-{version}".replace(".", "")
                    pyarrow.parquet.write_table(table, f"{folder}/{name}.parquet", compression=codec,
                                                use_dictionary=dictionary, data_page_version=version, row_group_size=700)
                    _, again = build(program, folder, name, "chat", [f"{name}.parquet"])
                    assert [row["id"] for row in again] == ids, name
                    assert [row["meta"] for row in again] == [row["meta"] for row in rows], name
                    assert again[4999]["origin"] == f"{name}.parquet:5000"
                    cases += 1
        frame = pandas.DataFrame([{"prompt": c["messages"][0]["content"], "completion": c["messages"][1]["content"],
                                   "severity": c["severity"], "line": c["line"]} for c in chats])
        frame.to_csv(f"{folder}/a.csv", index=False)
        frame.to_csv(f"{folder}/b.tsv", index=False, sep="\t")
        frame.to_csv(f"{folder}/c.csv.gz", index=False)
        frame.to_json(f"{folder}/d.jsonl.gz", orient="records", lines=True)
        frame.to_json(f"{folder}/e.jsonl.zst", orient="records", lines=True)
        frame.to_json(f"{folder}/f.json", orient="records", indent=2)
        frame.to_parquet(f"{folder}/g.parquet")
        require = '[steps.rows.require]\nline = { type = "integer" }\nseverity = { one_of = ["low", "high"] }\n'
        for name in ("a.csv", "b.tsv", "c.csv.gz", "d.jsonl.gz", "e.jsonl.zst", "f.json", "g.parquet"):
            _, again = build(program, folder, name.replace(".", ""), "prompt-completion", [name], require)
            assert [row["id"] for row in again] == ids, name
            assert [row["meta"]["line"] for row in again] == list(range(5000)), name
            cases += 1
        print(f"{cases} files of theirs are imported with the same ids and metadata")


if __name__ == "__main__":
    main()
