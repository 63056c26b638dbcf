#!/usr/bin/env bash
# adapters.sh RETUNE PYTHON: trains a small adapter, converts and merges it, and
# lets PYTHON's readers judge. What PYTHON needs is in adapter_requirements.txt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
retune=$(realpath "$1") python=$2
space=$(mktemp -d)
trap 'rm -rf "$space"' EXIT
mkdir -p "$space/pipelines" "$space/data"
for i in 1 2 3 4; do
    printf '{"prompt":"what next %s?","completion":"number %s"}\n' "$i" "$((i % 4 + 1))"
done >"$space/data/rows.jsonl"
for model_type in llama olmo2; do
    for target in '"all-linear"' '"*.self_attn.*", "model.layers.0.mlp.down_proj"'; do
        cat >"$space/pipelines/main.toml" <<TOML
[steps.rows]
uses = "data.import"
files = ["data/rows.jsonl"]
schema = "prompt-completion"
[steps.tokenizer]
uses = "tokenizer.train"
text = ["@rows"]
vocab_size = 280
[steps.base]
uses = "model.init"
tokenizer = "@tokenizer"
model_type = "$model_type"
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
initializer_range = 0.1
[steps.peft]
uses = "lora.train"
model = "@base"
tokenizer = "@tokenizer"
train = "@rows"
rank = 3
rslora = true
target_modules = [$target]
learning_rate = 2e-2
epochs = 0
max_steps = 30
max_length = 64
[steps.mlx]
uses = "adapter.convert"
adapter = "@peft"
model = "@base"
to = "mlx"
[steps.f32]
uses = "adapter.convert"
adapter = "@peft"
model = "@base"
to = "gguf"
[steps.f16]
uses = "adapter.convert"
adapter = "@peft"
model = "@base"
to = "gguf"
dtype = "f16"
[steps.merged]
uses = "adapter.merge"
model = "@base"
adapter = "@peft"
tokenizer = "@tokenizer"
TOML
        "$retune" -C "$space" build >/dev/null
        out=$space/cache/out/main
        rm -rf "$space/judged"
        mkdir "$space/judged"
        cp -r "$out/base/model" "$space/judged/base"
        cp -r "$out/peft/adapter" "$space/judged/peft"
        cp -r "$out/mlx/mlx" "$space/judged/mlx"
        cp -r "$out/merged/model" "$space/judged/merged"
        for width in f32 f16; do cp "$out/$width/adapter.gguf" "$space/judged/$width.gguf"; done
        printf '== %s, %s\n' "$model_type" "$target"
        "$python" "$here/adapters.py" "$space/judged"
    done
done
