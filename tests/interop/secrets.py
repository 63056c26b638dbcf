#!/usr/bin/env python3
"""detect-secrets judges `data.scan`: what it finds in a planted file, the scan must find.

    python3 -m venv venv && venv/bin/pip install -r tests/interop/secrets_requirements.txt
    venv/bin/python tests/interop/secrets.py target/release/retune

Every kind of secret is made at random here, ten of each, in lines as code and configuration
have them, among lines that hold none. detect-secrets runs with its default plugins. Listed are
rows that only one of the two finds; a planted row that detect-secrets finds and the scan does
not is a failure, and so is a clean row that the scan takes for a secret.
"""
import base64
import json
import os
import random
import string
import subprocess
import sys
import tempfile

from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings

RNG = random.Random(20)
ALNUM, HEX = string.ascii_letters + string.digits, "0123456789abcdef"
draw = lambda alphabet, n: "".join(RNG.choice(alphabet) for _ in range(n))
segment = lambda data: base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def pem(kind):
    body = "\n".join(draw(ALNUM + "+/", 64) for _ in range(6))
    return f"-----BEGIN {kind} KEY-----\n{body}\n-----END {kind} KEY-----"


KINDS = {
    "aws key": lambda: f'aws_access_key_id = {"AKIA"}{draw(string.ascii_uppercase + "234567", 16)}',
    "aws secret": lambda: f'aws_secret_access_key = "{draw(ALNUM + "/+", 40)}"',
    "github": lambda: f'TOKEN = "{"gh"}p_{draw(ALNUM, 36)}"',
    "github fine": lambda: f'export GH={"github"}_pat_{draw(ALNUM, 22)}_{draw(ALNUM, 59)}',
    "gitlab": lambda: f'git clone https://oauth2:{"gl"}pat-{draw(ALNUM, 20)}@gitlab.com/x/y',
    "slack": lambda: f'slack_token: {"xox"}b-{draw(string.digits, 12)}-{draw(string.digits, 12)}-{draw(ALNUM, 24)}',
    "slack hook": lambda: f'https://hooks.slack.com/services/T{draw(string.ascii_uppercase, 8)}/B{draw(string.ascii_uppercase, 8)}/{draw(ALNUM, 24)}',
    "discord": lambda: f'client.run("M{draw(ALNUM, 23)}.{draw(ALNUM, 6)}.{draw(ALNUM, 27)}")',
    "telegram": lambda: f'BOT="{draw("123456789", 9)}:{draw(ALNUM + "_-", 35)}"',
    "hugging face": lambda: f'login(token="{"h"}f_{draw(string.ascii_letters, 34)}")',
    "openai": lambda: f'openai.api_key = "{"s"}k-{draw(ALNUM, 20)}T3BlbkFJ{draw(ALNUM, 20)}"',
    "anthropic": lambda: f'key={"sk"}-ant-api03-{draw(ALNUM, 60)}',
    "google": lambda: f'const KEY = "{"AI"}za{draw(ALNUM, 35)}";',
    "azure": lambda: f'AccountName=x;AccountKey={draw(ALNUM + "+/", 86)}==;EndpointSuffix=core.windows.net',
    "stripe": lambda: f'stripe.api_key = "{"sk"}_live_{draw(ALNUM, 24)}"',
    "square": lambda: f'{"sq0"}csp-{draw(ALNUM + "_-", 43)}',
    "twilio": lambda: f'TWILIO = "{"S"}K{draw(HEX, 32)}"',
    "sendgrid": lambda: f'{"S"}G.{draw(ALNUM, 22)}.{draw(ALNUM, 43)}',
    "mailchimp": lambda: f'mc = "{draw(HEX, 32)}-us12"',
    "npm": lambda: f'//registry.npmjs.org/:_authToken={"np"}m_{draw(ALNUM, 36)}',
    "npmrc": lambda: f'//npm.corp/:_authToken={draw(HEX, 8)}-{draw(HEX, 4)}-{draw(HEX, 4)}-{draw(HEX, 4)}-{draw(HEX, 12)}',
    "pypi": lambda: f'password = {"py"}pi-AgEIcHlwaS5vcmc{draw(ALNUM + "_-", 80)}',
    "jwt": lambda: f'Cookie: session={segment({"alg": "HS256", "typ": "JWT"})}.{segment({"sub": draw(HEX, 12), "iat": 1})}.{draw(ALNUM + "_-", 43)}',
    "bearer": lambda: f'curl -H "Authorization: Bearer {draw(ALNUM, 40)}" https://api.corp',
    "basic url": lambda: f'postgres://app:{draw(ALNUM, 14)}@db.corp:5432/x',
    "ftp url": lambda: f'ftp://backup:{draw(ALNUM, 10)}@files.corp/a',
    "rsa": lambda: pem("RSA PRIVATE"),
    "openssh": lambda: pem("OPENSSH PRIVATE"),
    "ec": lambda: pem("EC PRIVATE"),
    "pkcs8": lambda: pem("PRIVATE"),
    "password": lambda: f'db_password = "{draw(ALNUM + "!#%", 16)}"',
    "secret": lambda: f"client_secret: '{draw(ALNUM, 32)}'",
    "api key": lambda: f'"apiKey": "{draw(HEX, 40)}",',
    "env": lambda: f'SECRET_KEY={draw(ALNUM, 50)}',
    "yaml token": lambda: f'  auth_token: "{draw(ALNUM + "-_", 40)}"',
    "cloudant": lambda: f'cloudant_password = "{draw(HEX, 64)}"',
    "artifactory": lambda: f'artif-key: {"AK"}C{draw(ALNUM, 30)}',
    "ibm cloud": lambda: f'ibm_cloud_api_key = "{draw(ALNUM + "_-", 44)}"',
    "softlayer": lambda: f'softlayer_api_key = "{draw(HEX, 64)}"',
}
CLEAN = [
    lambda: f"def handler(event): return event['{draw(string.ascii_lowercase, 6)}']",
    lambda: f"The function reads {draw(string.ascii_lowercase, 7)} and returns {RNG.randrange(999)}.",
    lambda: 'password = os.environ["DB_PASSWORD"]',
    lambda: "token: ${{ secrets.GITHUB_TOKEN }}",
    lambda: f'git checkout {draw(string.ascii_lowercase, 9)} && make test',
    lambda: "Never write a secret into the source; read it from the environment.",
]
PIPELINE = """
[pipeline]
name = "secrets"
[steps.rows]
uses = "data.import"
schema = "text"
files = ["rows.jsonl"]
[steps.scan]
uses = "data.scan"
rows = "@rows"
secrets = "report"
personal = "off"
"""


def theirs(folder, texts):
    """For each row the types that detect-secrets finds, the rows being lines of one file."""
    path, owner = f"{folder}/planted.txt", []
    with open(path, "w") as to:
        for i, text in enumerate(texts):
            to.write(text + "\n")
            owner += [i] * (text.count("\n") + 1)
    found = {}
    collection = SecretsCollection()
    with default_settings():
        collection.scan_file(path)
    for _, secret in collection:
        found.setdefault(owner[secret.line_number - 1], set()).add(secret.type)
    return found


def ours(program, folder, texts):
    os.mkdir(f"{folder}/pipelines")
    with open(f"{folder}/pipelines/secrets.toml", "w") as to:
        to.write(PIPELINE)
    with open(f"{folder}/rows.jsonl", "w") as to:
        to.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    subprocess.run([program, "build", "--quiet", "-p", "secrets"], cwd=folder, check=True)
    found = {}
    for line in open(f"{folder}/cache/out/secrets/scan/hits.jsonl"):
        hit = json.loads(line)
        found.setdefault(int(hit["origin"].rpartition(":")[2]) - 1, set()).add(hit["rule"])
    return found


def main():
    planted = [(kind, make()) for kind, make in KINDS.items() for _ in range(10)]
    planted += [(None, RNG.choice(CLEAN)()) for _ in range(200)]
    RNG.shuffle(planted)
    texts = [text for _, text in planted]
    with tempfile.TemporaryDirectory() as folder:
        judge, scan = theirs(folder, texts), ours(os.path.abspath(sys.argv[1]), folder, texts)
    count = lambda found: sum(1 for i in found if planted[i][0])
    print(f"{len(KINDS)} kinds, 10 of each: data.scan finds {count(scan)}, detect-secrets {count(judge)}")
    missed, invented = [], []
    for i, (kind, text) in enumerate(planted):
        if kind and i in judge and i not in scan:
            missed.append((kind, sorted(judge[i]), text))
        if kind is None and i in scan:
            invented.append((sorted(scan[i]), text))
    only = {}
    for i in set(scan) - set(judge):
        if planted[i][0]:
            only[planted[i][0]] = only.get(planted[i][0], 0) + 1
    neither = {}
    for i, (kind, _) in enumerate(planted):
        if kind and i not in scan and i not in judge:
            neither[kind] = neither.get(kind, 0) + 1
    print(f"only data.scan: {only}")
    print(f"neither: {neither}")
    print(f"clean rows that detect-secrets takes for secrets: {sum(1 for i in judge if planted[i][0] is None)} of 200")
    for kind, types, text in missed:
        print(f"  missed {kind} ({', '.join(types)}): {text[:100]}")
    for rules, text in invented:
        print(f"  invented {rules}: {text[:100]}")
    assert not missed and not invented
    print("agreed")


if __name__ == "__main__":
    main()
