"""Writes tests/fixtures/sampling.json: what transformers' processors make of logits.

python tests/interop/sampling.py tests/fixtures/sampling.json
(torch and transformers as in families_requirements.txt)
"""

import json
import sys

import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

# The order of GenerationMixin._get_logits_processor.
ORDER = [
    ("repetition_penalty", RepetitionPenaltyLogitsProcessor),
    ("temperature", TemperatureLogitsWarper),
    ("top_k", TopKLogitsWarper),
    ("top_p", TopPLogitsWarper),
    ("min_p", MinPLogitsWarper),
]
CASES = [
    {},
    {"temperature": 0.7},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.1},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 0.3},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1},
    {"temperature": 1.5, "min_p": 0.1},
    {"repetition_penalty": 1.1, "temperature": 0.8, "top_p": 0.9},
    {"repetition_penalty": 1.2, "top_k": 8, "top_p": 0.6, "min_p": 0.2},
    {"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 0.2, "top_k": 40, "top_p": 0.99, "min_p": 0.01},
]


def run(options, logits, seen):
    scores = torch.tensor([logits], dtype=torch.float32)
    ids = torch.tensor([seen], dtype=torch.long)
    for name, processor in ORDER:
        if name in options:
            scores = processor(options[name])(ids, scores)
    return torch.softmax(scores, -1)[0].tolist()


def main(out):
    torch.manual_seed(7)
    written = []
    for number, options in enumerate(CASES):
        logits = (torch.randn(40) * 2.5).to(torch.float16).float().tolist()
        if number % 3 == 0:  # equal logits
            logits[3] = logits[17] = logits[30]
        seen = torch.randint(0, 40, (12,)).tolist() + [3, 3]
        probabilities = [float(f"{p:.9g}") for p in run(options, logits, seen)]
        written.append(
            {"options": options, "logits": logits, "seen": seen, "probabilities": probabilities}
        )
    with open(out, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in written) + "\n]\n")


main(sys.argv[1])
