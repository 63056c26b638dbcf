"""Models of the right shape with weights of noise, and a Hub that has them.

    python -m venv v && v/bin/pip install -r standins_requirements.txt
    v/bin/python standins.py FOLDER [--only NAME]

makes a stand-in for each model of the pipelines in FOLDER (2.5 GB for OLMo-2
1B), serves them as the Hub would, prints the endpoint and goes on until it is
stopped. A pipeline then runs end to end without the Hub:

    HF_ENDPOINT=http://127.0.0.1:PORT HF_HOME=$(mktemp -d) retune build -p olmo2-1b

`config.json` is that of the published model but for the ids of special tokens;
the tokenizer is trained on this
repository's documents, much smaller, with the same special tokens and a
template of the same form. Nothing that comes out means anything.
"""

import hashlib
import http.server
import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TULU = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{{ '<|assistant|>\n' + message.content + eos_token }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% else %}{{ '<|' + message.role + '|>\n' + message.content + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# Repository, commit, config.json, special tokens, ends of an answer, template.
MODELS = {
    "olmo2-1b": (
        "allenai/OLMo-2-0425-1B-Instruct",
        "48d788eca847d4d7548f375ad03d3c9312f6139e",
        {
            "architectures": ["Olmo2ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": 1,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "model_type": "olmo2",
            "num_attention_heads": 16,
            "num_hidden_layers": 16,
            "num_key_value_heads": 16,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": False,
            "vocab_size": 100352,
        },
        ["<|pad|>", "<|endoftext|>"],
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
        TULU,
    ),
    "qwen-coder": (
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "ea3f2471cf1b1f0db85067f1ef93848e38e88c25",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 896,
            "initializer_range": 0.02,
            "intermediate_size": 4864,
            "max_position_embeddings": 32768,
            "max_window_layers": 21,
            "model_type": "qwen2",
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        CHATML,
    ),
}


def shapes(config):
    """Names and shapes of the tensors, as transformers names them."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    width = hidden // heads
    keys = config["num_key_value_heads"] * width
    olmo, qwen = (config["model_type"] == m for m in ("olmo2", "qwen2"))
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            yield f"{layer}self_attn.{name}_proj.weight", (rows, hidden)
            if qwen:
                yield f"{layer}self_attn.{name}_proj.bias", (rows,)
            if olmo and name != "v":
                yield f"{layer}self_attn.{name}_norm.weight", (rows,)
        yield f"{layer}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}mlp.gate_proj.weight", (wide, hidden)
        yield f"{layer}mlp.up_proj.weight", (wide, hidden)
        yield f"{layer}mlp.down_proj.weight", (hidden, wide)
        second = "post_feedforward" if olmo else "input"
        yield f"{layer}post_attention_layernorm.weight", (hidden,)
        yield f"{layer}{second}_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def values(name, shape, generator):
    """The upper halves of f32: ones for norms, noise of deviation 0.02 elsewhere."""
    if "norm" in name:
        floats = np.ones(shape, np.float32)
    else:
        floats = generator.standard_normal(shape, np.float32) * np.float32(0.02)
    return (floats.view(np.uint32) >> 16).astype(np.uint16)


def write_weights(path, config):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    generator = np.random.default_rng(7)
    with open(path, "wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name, shape in shapes(config):
            out.write(values(name, shape, generator).tobytes())


def write_tokenizer(folder, special, names, template):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = sorted(map(str, [*ROOT.glob("docs/*.md"), *ROOT.glob("data/**/*.md")]))
    tokenizer.train(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        **names,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def make(folder, config, special, names, template):
    done = folder / "done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    end = special.index(names["eos_token"])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    write_tokenizer(folder, special, names, template)
    write_weights(folder / "model.safetensors", config)
    done.touch()


class Hub(http.server.BaseHTTPRequestHandler):
    """What `model.fetch` asks of the Hub, for repositories of one commit."""

    protocol_version = "HTTP/1.1"
    repositories = {}

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        path = self.path.split("?")[0]
        for name, (commit, folder) in self.repositories.items():
            files = [f for f in sorted(folder.iterdir()) if f.name != "done"]
            if path == f"/api/models/{name}/revision/{commit}":
                siblings = [{"rfilename": f.name} for f in files]
                return self.json({**INFO, "id": name, "sha": commit, "siblings": siblings})
            if path.startswith(f"/api/models/{name}/tree/{commit}"):
                return self.json(
                    [
                        {"type": "file", "oid": oid(f), "size": f.stat().st_size, "path": f.name}
                        for f in files
                    ]
                )
            for f in files:
                if path == f"/{name}/resolve/{commit}/{f.name}":
                    return self.file(f, commit, with_body)
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, path, commit, with_body):
        size, start = path.stat().st_size, 0
        wanted = self.headers.get("Range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{oid(path)}"')
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if not with_body:
            return
        with open(path, "rb") as data:
            data.seek(start)
            while chunk := data.read(1 << 20):
                self.wfile.write(chunk)


INFO = {
    "private": False,
    "gated": False,
    "tags": [],
    "downloads": 0,
    "likes": 0,
    "author": "stand-in",
}


def oid(path):
    return hashlib.sha1(str(path).encode()).hexdigest()


def main():
    only = sys.argv[3] if len(sys.argv) > 3 else None
    for name, (repository, commit, *rest) in MODELS.items():
        if only in (None, name):
            folder = Path(sys.argv[1]) / name
            make(folder, *rest)
            Hub.repositories[repository] = (commit, folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


main()
