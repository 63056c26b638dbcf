"""Compares retune's chrF, intervals and tests with sacrebleu and scipy.

Without arguments: prints the reference values that are pinned in the unit
tests of `src/eval/chrf.rs` and `src/eval/stats.rs`.

With a generations file and the scores made of it: recomputes every overall
chrF, share, Wilson interval and McNemar p-value, and fails on a difference.

    python -m venv v && v/bin/pip install -r eval_requirements.txt
    v/bin/python eval_reference.py [generations.jsonl scores.json]
"""

import json
import sys

from sacrebleu.metrics import CHRF
from scipy.stats import binomtest

PAIRS = [
    ("Upgrade netty to 4.1.124.Final", "Upgrade netty to 4.1.118.Final"),
    ("the cat sat on the mat", "the cat is on the mat"),
    ("", "abc"),
    ("abc", ""),
    ("ab", "abcdefgh"),
    ("Größe über 10 µm — ok", "Grösse über 10 μm - ok"),
    ("fun <T> f() {}", "fun <T> f(): T {\n}\n"),
    ("same", "same"),
    ("xyz", "abc"),
]
DISCORDANT = [(5, 15), (0, 0), (0, 6), (10, 10), (3, 100), (121, 59), (1000, 1200)]
SHARES = [(0, 10), (10, 10), (3, 25), (81, 263), (1, 1), (500, 1000)]


def mcnemar(gained, lost):
    n = gained + lost
    return float(binomtest(min(gained, lost), n, 0.5).pvalue) if n else 1.0


def wilson(count, n):
    interval = binomtest(count, n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def print_references():
    chrf = CHRF()
    for hypothesis, reference in PAIRS:
        score = chrf.sentence_score(hypothesis, [reference]).score
        print(f"chrF {hypothesis!r} {reference!r} {score!r}")
    hypotheses, references = zip(*PAIRS)
    corpus = chrf.corpus_score(list(hypotheses), [list(references)]).score
    print(f"chrF of all {corpus!r} ({chrf.get_signature()})")
    for gained, lost in DISCORDANT:
        print(f"McNemar {gained} {lost} {mcnemar(gained, lost)!r}")
    for count, n in SHARES:
        print(f"Wilson {count} {n} {wilson(count, n)!r}")


def close(a, b):
    return abs(a - b) <= 2e-5 * max(abs(a), abs(b), 1e-12)


def judgements(rows):
    normal = lambda text: " ".join(text.split()).lower()
    return {
        "exact_match": [g["text"].strip() == g["expected"].strip() for g in rows],
        "normalised_match": [normal(g["text"]) == normal(g["expected"]) for g in rows],
        "truncated": [g["finish"] == "length" for g in rows],
    }


def check(generations_path, scores_path):
    with open(generations_path, encoding="utf-8") as lines:
        generations = [json.loads(line) for line in lines]
    with open(scores_path, encoding="utf-8") as file:
        scores = json.load(file)
    by_model = {}
    for generation in generations:
        by_model.setdefault(generation["model"], []).append(generation)
    faults, compared = [], 0

    def compare(what, ours, theirs):
        nonlocal compared
        compared += 1
        if not close(ours, theirs):
            faults.append(f"{what}: {ours} here, {theirs} there")

    base = judgements(by_model[scores["baseline"]])
    for model in scores["models"]:
        rows = by_model[model["model"]]
        judged = judgements(rows)
        for score in model["overall"]["metrics"]:
            what = f"{model['model']} {score['name']}"
            if score["name"] == "chrf":
                texts, answers = [g["text"] for g in rows], [g["expected"] for g in rows]
                compare(what, score["value"], CHRF().corpus_score(texts, [answers]).score)
            elif score["name"] in judged:
                hits = judged[score["name"]]
                compare(what, score["value"], sum(hits) / len(hits))
                low, high = wilson(sum(hits), len(hits))
                compare(what + " low", score["interval"]["low"], low)
                compare(what + " high", score["interval"]["high"], high)
                if "change" in score:
                    pairs = list(zip(hits, base[score["name"]]))
                    gained = sum(a and not b for a, b in pairs)
                    lost = sum(b and not a for a, b in pairs)
                    compare(what + " p", score["change"]["p"], mcnemar(gained, lost))
            elif score["name"] == "loss":
                tokens = sum(g["answer_tokens"] for g in rows)
                nats = sum(g["loss"] * g["answer_tokens"] for g in rows)
                compare(what, score["value"], nats / tokens)
    print(f"{compared} values compared, {len(faults)} differ")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(check(*sys.argv[1:]) if len(sys.argv) == 3 else print_references())
