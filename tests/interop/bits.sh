#!/usr/bin/env bash
# bits.sh RETUNE…: the same bits from every binary given (a debug and a release
# build, say), with 1, 2, 3, 5 and 8 threads, after kills, twice in a row by an
# audit, and on processors that Debian's qemu-user pretends to be. What agrees is
# named; the first difference ends the script. Takes about ten minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
space=$(mktemp -d)
trap 'rm -rf "$space"' EXIT

project() {
    mkdir -p "$1/pipelines" "$1/data"
    for i in $(seq 40); do
        printf '{"prompt":"what next %s?","completion":"number %s, of course"}\n' "$i" "$((i % 7))"
    done >"$1/data/rows.jsonl"
    cat >"$1/pipelines/main.toml" <<'TOML'
[steps.rows]
uses = "data.import"
files = ["data/rows.jsonl"]
schema = "prompt-completion"

[steps.tokenizer]
uses = "tokenizer.train"
text = ["@rows"]
vocab_size = 290

[steps.init]
uses = "model.init"
tokenizer = "@tokenizer"
hidden_size = 48
intermediate_size = 96
num_hidden_layers = 3
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 128

[steps.base]
uses = "model.train"
model = "@init"
tokenizer = "@tokenizer"
train = ["@rows"]
max_steps = 30
max_length = 64
batch_tokens = 256

[steps.adapter]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "@rows"
dropout = 0.1
max_steps = 60
epochs = 0
max_length = 64
batch_tokens = 256
accumulation = 2

[steps.other]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "@rows"
dtype = "bf16"
dora = true
optimizer = "adamw8bit"
neftune_alpha = 5
gradient_checkpointing = true
save_every = 10
max_steps = 30
epochs = 0
max_length = 64
batch_tokens = 256

[steps.answers]
uses = "eval.generate"
model = "@base"
tokenizer = "@tokenizer"
adapters = { tuned = "@adapter", other = "@other" }
rows = "@rows"
max_new_tokens = 12

[steps.merged]
uses = "adapter.merge"
model = "@base"
adapter = "@adapter"
tokenizer = "@tokenizer"
TOML
}

built() { # FOLDER RETUNE ARGUMENT…
    local folder=$1 retune=$2
    shift 2
    (cd "$folder" && "$retune" build -q "$@")
}

same() { # WHAT FOLDER: as the first build's lock file
    cmp "$space/first/pipelines/main.lock" "$2/pipelines/main.lock"
    echo "same bits: $1"
}

project "$space/first"
built "$space/first" "$(realpath "$1")" --cpus 1
for given in "$@"; do
    retune=$(realpath "$given")
    for threads in 1 2 3 5 8; do
        project "$space/now"
        built "$space/now" "$retune" --cpus "$threads"
        same "$given, $threads threads" "$space/now"
        rm -rf "$space/now"
    done
    project "$space/killed"
    kills=0
    # Later each time, so that a slow machine comes to an end too.
    { until (cd "$space/killed" && timeout -s KILL "$((kills / 5)).$((RANDOM % 90 + 10))" \
        "$retune" build -q); do
        kills=$((kills + 1))
    done; } 2>/dev/null
    same "$given, killed $kills times" "$space/killed"
    rm -rf "$space/killed"
    (cd "$space/first" && "$retune" audit >/dev/null 2>&1)
    echo "same bits: $given, audited"
done

if command -v qemu-x86_64 >/dev/null; then
    # A step is a process of its own, which would not be emulated: so the tests
    # that know the bits of training run there, not the whole program.
    tests=$(cargo test --lib --no-run 2>&1 | sed -n 's/.*(\(.*\))$/\1/p')
    for cpu in Haswell Nehalem; do
        qemu-x86_64 -cpu "$cpu" "$tests" -q ml::tests::the_bits ml::tests::bits_do \
            ml::tests::bf16::bits 2>/dev/null | grep 'test result: ok'
        echo "same bits: an emulated $cpu"
    done
else
    echo 'not shown: other processors (qemu-user is not there)'
fi
