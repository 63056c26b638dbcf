#!/bin/sh
# Scans app/ anew into reports/. Needs semgrep 1.182.0, bandit 1.9.4 and
# checkov 3.3.30 on PATH (pip install semgrep==1.182.0 bandit==1.9.4 checkov==3.3.30).
set -eu
cd "$(dirname "$0")"
rules="$PWD/rules" out="$PWD/reports" work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=CKV_DOCKER_2,CKV_DOCKER_3,CKV_DOCKER_4,CKV_DOCKER_7,CKV_GHA_2,CKV2_GHA_1
checks=$checks,CKV_K8S_14,CKV_K8S_16,CKV_K8S_20,CKV_K8S_22,CKV_K8S_40
checks=$checks,CKV_AWS_16,CKV_AWS_17,CKV_AWS_20

cp -R app "$work/app"
cd "$work/app"
# Semgrep and Bandit skip what version control ignores; the copy has none.
semgrep scan --metrics=off --disable-version-check --quiet --no-git-ignore \
    --config "$rules/jvm.yml" --sarif --output "$work/semgrep-jvm.sarif" .
semgrep scan --metrics=off --disable-version-check --quiet --no-git-ignore \
    --config "$rules/web.yml" --json --output "$work/semgrep-web.json" .
bandit --quiet --recursive --exit-zero --skip B403,B404,B405,B408 --format json --output "$work/bandit.json" worker
checkov --quiet --compact --soft-fail --skip-download --directory . --check "$checks" \
    --framework dockerfile github_actions kubernetes terraform --output json > "$work/checkov.json"
cd ..
python3 - "$work" "$out" <<'PY'
"""Keeps what a report says about the code; drops times, hosts and folders."""
import json, pathlib, sys

work, out = map(pathlib.Path, sys.argv[1:])
DROP = {"time", "generated_at", "resource_path", "repo_file_path", "file_abs_path", "evaluations",
        "invocations", "check_result", "paths", "fingerprints", "fingerprint", "is_ignored", "profile", "metrics"}
KEEP_EMPTY = {"paths", "metrics"}

def clean(value, top=False):
    if isinstance(value, dict):
        return {k: ({} if k in DROP else clean(v)) for k, v in sorted(value.items())
                if v is not None and (k not in DROP or (top and k in KEEP_EMPTY))}
    if isinstance(value, list):
        return [clean(v) for v in value]
    if isinstance(value, str):
        for prefix in (f"{work}/app/", f"{work}/", str(work)):
            value = value.replace(prefix, "")
        # Semgrep puts the folder of the rule file before the rule's name.
        return value.split("rules.")[-1] if value.endswith(NAMES) and "rules." in value else value
    return value

def rule_names(report):
    found = [r["id"] for run in report.get("runs", []) for r in run["tool"]["driver"]["rules"]] \
        if isinstance(report, dict) else []
    found += [r["check_id"] for r in report["results"] if "check_id" in r] if isinstance(report, dict) and "results" in report else []
    return tuple({name.split(".")[-1] for name in found}) or ("\0",)

def place(item):
    return json.dumps(item, sort_keys=True)

for path in sorted(work.glob("*.json")) + sorted(work.glob("*.sarif")):
    report = json.loads(path.read_text())
    NAMES = rule_names(report)
    report = clean(report, top=True)
    parts = report if isinstance(report, list) else [report]
    for part in parts:
        if "results" in part and isinstance(part["results"], dict):
            part["results"].pop("passed_checks", None)
            part.pop("url", None)
            part["results"]["failed_checks"].sort(key=lambda c: (c["file_path"], c["file_line_range"], c["check_id"]))
        elif "results" in part:
            part["results"].sort(key=place)
        for run in part.get("runs", []):
            order = sorted(run["tool"]["driver"]["rules"], key=lambda r: r["id"])
            run["tool"]["driver"]["rules"] = order
            run["results"].sort(key=place)
    parts.sort(key=lambda p: p.get("check_type", "")) if isinstance(report, list) else None
    (out / path.name).write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
PY
