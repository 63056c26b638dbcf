#!/bin/sh
# Scans app/ anew into reports/. Needs semgrep 1.182.0, bandit 1.9.4 and
# checkov 3.3.30 on PATH (pip install semgrep==1.182.0 bandit==1.9.4 checkov==3.3.30).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=CKV_DOCKER_2,CKV_DOCKER_3,CKV_DOCKER_4,CKV_DOCKER_7,CKV_GHA_2,CKV2_GHA_1
checks=$checks,CKV_K8S_14,CKV_K8S_16,CKV_K8S_20,CKV_K8S_22,CKV_K8S_40
checks=$checks,CKV_AWS_16,CKV_AWS_17,CKV_AWS_20

cp -R "$here/app" "$here/rules" "$work"
cd "$work/app"
# Semgrep and Bandit skip what version control ignores; the copy has none.
semgrep scan --metrics=off --disable-version-check --quiet --no-git-ignore \
    --config "../rules/jvm.yml" --sarif --output "$work/semgrep-jvm.sarif" .
semgrep scan --metrics=off --disable-version-check --quiet --no-git-ignore \
    --config "../rules/web.yml" --json --output "$work/semgrep-web.json" .
bandit --quiet --recursive --exit-zero --skip B403,B404,B405,B408 --format json --output "$work/bandit.json" worker
checkov --quiet --compact --soft-fail --skip-download --directory . --check "$checks" \
    --framework dockerfile github_actions kubernetes terraform --output json > "$work/checkov.json"
cd ..
python3 "$here/tidy_reports.py" "$work" "$here/reports"
