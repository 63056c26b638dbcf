"""Checks that a card's front matter is YAML of the types the Hub expects.

    python card.py README.md
"""

import sys

import yaml

STRINGS = {"license", "library_name", "base_model", "base_model_relation", "pipeline_tag"}
LISTS = {"language", "datasets", "tags"}


def main(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    start, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front) or {}
    faults = [] if start == "" and body.strip() else ["the front matter does not open the card"]
    for key, value in data.items():
        if key in STRINGS:
            good = isinstance(value, str)
        elif key in LISTS:
            good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        else:
            good = False
        if not good:
            faults.append(f"{key}: {value!r}")
    print(data)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
