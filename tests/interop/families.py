"""Makes a tiny random model of every family with transformers and PEFT, and
writes down what torch computes with it.

    python -m venv v && v/bin/pip install -r families_requirements.txt
    v/bin/python families.py [--large] [FOLDER]

The folders beside this script are what it wrote without arguments; `cargo
test families` compares the decoder with them, and with those of another folder
when RETUNE_FAMILIES names it. With --large the models are of hidden size 64,
four layers and 256 tokens; those are not committed.

A folder holds the model as transformers saves it (config.json and safetensors
in one of three types, one of them sharded) and reference.safetensors: tokens
[2, 48], labels, loss, logits, adapter (lora.NAME), gradients of the adapter
and of embeddings, norms and biases (grad.NAME), and a greedy continuation of
the first 24 tokens.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

LARGE = "--large" in sys.argv
ROWS, LENGTH, PROMPT, NEW = 2, 48, 24, 16
LAYERS = 4 if LARGE else 3


def common(**more):
    sizes = dict(
        vocab_size=256 if LARGE else 64,
        hidden_size=64 if LARGE else 32,
        intermediate_size=96 if LARGE else 40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return {**sizes, **more}


def layer_types(pattern):
    return [
        "sliding_attention" if pattern[i % len(pattern)] else "full_attention"
        for i in range(LAYERS)
    ]


def rope(kind, theta, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


LLAMA3 = dict(
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
GEMMA = dict(head_dim=12, query_pre_attn_scalar=10, sliding_window=12)
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# Name, configuration class, its arguments, type of the weights, bytes of a shard.
FAMILIES = [
    ("olmo2", "Olmo2Config", common(), F32, None),
    (
        "llama3",
        "LlamaConfig",
        common(rope_parameters=rope("llama3", 10_000.0, **LLAMA3)),
        BF16,
        None,
    ),
    (
        "llama-linear",
        "LlamaConfig",
        common(
            rope_parameters=rope("linear", 500.0, factor=4.0),
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
        ),
        F16,
        None,
    ),
    ("mistral", "MistralConfig", common(sliding_window=12, head_dim=16), BF16, 20_000),
    (
        "qwen2",
        "Qwen2Config",
        common(use_sliding_window=True, sliding_window=16, max_window_layers=1),
        BF16,
        None,
    ),
    ("qwen3", "Qwen3Config", common(head_dim=16, tie_word_embeddings=True), BF16, None),
    (
        "smollm3",
        "SmolLM3Config",
        common(
            no_rope_layer_interval=2,
            use_sliding_window=True,
            sliding_window=20,
            rope_parameters=rope("default", 5_000_000.0),
        ),
        BF16,
        None,
    ),
    (
        "gemma2",
        "Gemma2Config",
        common(
            **GEMMA,
            layer_types=layer_types([True, False]),
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
        BF16,
        None,
    ),
    (
        "gemma3",
        "Gemma3TextConfig",
        common(
            **GEMMA,
            layer_types=layer_types([True, True, False]),
            rope_parameters={
                "full_attention": rope("linear", 100_000.0, factor=8.0),
                "sliding_attention": rope("default", 1_000.0),
            },
        ),
        BF16,
        None,
    ),
]


def randomize(model, dtype):
    """Random weights that the type of the files can hold."""
    gemma = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.normal_(0.0 if gemma else 1.0, 0.2)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.2)
            else:
                p.normal_(0.0, 0.5 if "embed" in name and not gemma else 0.15)
            p.copy_(p.to(dtype).to(F32))


def short(name):
    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return name.replace(".default", "")


def greedy(model, tokens):
    out = model.generate(
        tokens[:1, :PROMPT],
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return out[0, PROMPT:].to(torch.int32)


def reference(model, tokens, labels):
    # Gemma 2 caps scores, which only this form of attention does.
    peft = get_peft_model(
        model, LoraConfig(r=2, lora_alpha=3, target_modules="all-linear")
    )
    for name, p in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, 0.0, 0.2)
        else:
            p.requires_grad_(p.dim() == 1 or "embed_tokens" in name)
    peft.eval()
    out = peft(input_ids=tokens, labels=labels)
    out.loss.backward()
    tensors = {
        "tokens": tokens.to(torch.int32),
        "labels": labels.to(torch.int32),
        "loss": out.loss.detach().reshape(1),
        "logits": out.logits.detach(),
        "greedy": greedy(peft, tokens),
    }
    for name, p in peft.named_parameters():
        if "lora_" in name:
            tensors["lora." + short(name)] = p.detach()
        if p.grad is not None:
            tensors["grad." + short(name)] = p.grad
    return {name: t.contiguous().clone() for name, t in tensors.items()}


def make(folder, name, config, arguments, dtype, shard):
    torch.manual_seed(sum(map(ord, name)))
    config = getattr(transformers, config)(**arguments)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).to(F32)
    randomize(model, dtype)
    model.tie_weights()
    shutil.rmtree(folder, ignore_errors=True)
    files = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    files.load_state_dict(model.state_dict())
    files.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = torch.randint(3, config.vocab_size, (ROWS, LENGTH))
    labels = tokens.clone()
    labels[0, :20] = -100
    tensors = reference(model, tokens, labels)
    save_file(tensors, folder / "reference.safetensors")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: loss {tensors['loss'].item():.6f}, {size // 1024} KiB")


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    here = Path(__file__).parent / "families"
    folder = Path(arguments[0]) if arguments else here
    for name, *rest in FAMILIES:
        make(folder / name, name, *rest)
    versions = {m.__name__: m.__version__ for m in (torch, transformers)}
    (folder / "versions.json").write_text(json.dumps(versions) + "\n")


main()
