"""Keeps what scanner reports say about the code; drops times, hosts and folders.

Usage: tidy_reports.py FROM TO
"""

import json
import pathlib
import re
import sys

# Times, places on the machine, and what differs from run to run.
DROP = {
    "check_result", "evaluations", "file_abs_path", "fingerprint", "fingerprints", "generated_at",
    "invocations", "is_ignored", "passed_checks", "profile", "repo_file_path", "resource_path",
    "time", "url",
}
# Emptied rather than dropped: they tell the formats of Semgrep and Bandit apart.
EMPTY = {"metrics", "paths"}


def clean(value, folder):
    """A value without the dropped fields, the scanned folder and the folder of the rules."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in DROP and item is not None}
        return {name: {} if name in EMPTY else clean(item, folder) for name, item in kept.items()}
    if isinstance(value, list):
        return [clean(item, folder) for item in value]
    if isinstance(value, str):
        value = value.replace(f"{folder}/app/", "").replace(f"{folder}/", "")
        return re.sub(r"\brules\.(?=(jvm|java|kt|ts|py)-)", "", value)
    return value


def arrange(report):
    """Brings lists whose order depends on the run into one order."""
    by_text = lambda item: json.dumps(item, sort_keys=True)
    for run in report.get("runs", []):
        run["tool"]["driver"]["rules"].sort(key=lambda rule: rule["id"])
        run["results"].sort(key=by_text)
    results = report.get("results", [])
    checks = results["failed_checks"] if isinstance(results, dict) else results
    checks.sort(key=by_text)


def main(source, target):
    for path in [*source.glob("*.json"), *source.glob("*.sarif")]:
        report = clean(json.loads(path.read_text()), source)
        parts = report if isinstance(report, list) else [report]
        for part in parts:
            arrange(part)
        parts.sort(key=lambda part: part.get("check_type", ""))
        text = json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False)
        (target / path.name).write_text(text + "\n")


main(*map(pathlib.Path, sys.argv[1:]))
