"""Makes tests/fixtures/peft: small bases, adapters that PEFT wrote for them, PEFT's logits, and
of those in GRADIENTS its loss and gradients.

    python peft_fixture.py tests/fixtures/peft
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = dict(
    vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
    tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
)
TOKENS = [1, 7, 13, 2, 40, 5, 22]

# Each way of saying where an adapter sits, and with what rank.
ADAPTERS = {
    "names": dict(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"], use_rslora=True),
    "pattern": dict(r=2, lora_alpha=4, target_modules=r".*layers\.1\..*\.(up|down)_proj"),
    "all": dict(
        r=2, lora_alpha=4, target_modules="all-linear", exclude_modules=["gate_proj"],
        rank_pattern={r"layers\.0\..*": 3, "o_proj": 1}, alpha_pattern={"down_proj": 7},
    ),
    "layers": dict(
        r=2, lora_alpha=4, target_modules=["k_proj", "mlp.up_proj"], layers_to_transform=[1],
        layers_pattern="layers",
    ),
    "dora": dict(
        r=2, lora_alpha=3, target_modules="all-linear", use_dora=True, use_rslora=True,
    ),
}

# Stored as bf16.
ROUNDED = {"layers"}
GRADIENTS = {"dora"}


def gradients(model):
    """The loss of the tokens as labels, and the gradient of every tensor of the adapter."""
    tokens = torch.tensor([TOKENS])
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    tensors = {"loss": loss.detach().reshape(1)}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            name = name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
            tensors[name] = parameter.grad.clone()
    return tensors


def main(out):
    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(1)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_theta=10000.0)).eval()
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3)
    base.save_pretrained(out / "base")
    (out / "base/generation_config.json").unlink(missing_ok=True)
    logits = {}
    for name, settings in ADAPTERS.items():
        model = LlamaForCausalLM.from_pretrained(out / "base")
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
        lora = [p for parameter, p in model.named_parameters() if "lora_" in parameter]
        if name in ROUNDED:
            for parameter in lora:
                parameter.data = parameter.data.bfloat16().float()
        with torch.no_grad():
            found = model(torch.tensor([TOKENS])).logits[0, -1]
        logits[name] = [float(x) for x in found]
        if name in GRADIENTS:
            save_file(gradients(model), out / f"{name}.safetensors")
        if name in ROUNDED:
            for parameter in lora:
                parameter.data = parameter.data.bfloat16()
        model.peft_config["default"].base_model_name_or_path = "owner/tiny"
        model.save_pretrained(out / name)
        (out / name / "README.md").unlink(missing_ok=True)
    (out / "logits.json").write_text(json.dumps({"tokens": TOKENS, "last": logits}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
