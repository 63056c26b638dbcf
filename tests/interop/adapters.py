"""Judges what adapter.convert and adapter.merge write, with other people's readers.

    python adapters.py FOLDER

FOLDER holds `base` (a model), `peft` (an adapter of it), and what was made of
them: `mlx`, `f32.gguf`, `f16.gguf`, `merged`. Judges that are not installed are
named and left out; adapter_requirements.txt lists them.
"""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
PERMUTED = {"llama", "smollm3"}
TOKENS = [[1, 5, 9, 2, 7, 3, 8, 30, 41, 6]]


def peft_pairs(folder):
    """Module path to (A, B)."""
    tensors = load_file(folder / "adapter_model.safetensors")
    paths = {name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for name in tensors}
    matrix = lambda path, part: tensors[f"base_model.model.{path}.lora_{part}.weight"]
    return {path: (matrix(path, "A"), matrix(path, "B")) for path in sorted(paths)}


def scale(config):
    root = math.sqrt(config["r"]) if config["use_rslora"] else config["r"]
    return config["lora_alpha"] / root


def check_gguf(folder, file, dtype):
    from gguf import GGUFReader

    reader = GGUFReader(folder / file)
    field = lambda key: reader.get_field(key).contents()
    base = json.loads((folder / "base/config.json").read_text())
    config = json.loads((folder / "peft/adapter_config.json").read_text())
    assert field("general.type") == "adapter" and field("adapter.type") == "lora"
    assert np.float32(field("adapter.lora.alpha")) == np.float32(scale(config) * config["r"])
    arch = field("general.architecture")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    pairs = peft_pairs(folder / "peft")
    assert len(tensors) == 2 * len(pairs), sorted(tensors)
    for path, (a, b) in pairs.items():
        _, _, layer, module = path.split(".", 3)
        heads = {
            "self_attn.q_proj": base["num_attention_heads"],
            "self_attn.k_proj": base["num_key_value_heads"],
        }.get(module)
        if heads and arch in PERMUTED:
            b = b.reshape(heads, 2, b.shape[0] // heads // 2, b.shape[1])
            b = b.swapaxes(1, 2).reshape(-1, b.shape[-1])
        for part, wanted in (("a", a), ("b", b)):
            tensor = tensors[f"blk.{layer}.{NAMES[module]}.weight.lora_{part}"]
            # llama.cpp wants a.ne = [in, rank], b.ne = [rank, out].
            assert list(tensor.shape) == list(wanted.shape)[::-1], tensor.name
            assert tensor.data.dtype == dtype, tensor.data.dtype
            assert np.array_equal(tensor.data, wanted.astype(dtype)), tensor.name
    print(f"gguf: {file}: {len(tensors)} tensors of {arch} are as they should be")


def check_mlx_file(folder):
    tensors = load_file(folder / "mlx/adapters.safetensors")
    pairs = peft_pairs(folder / "peft")
    assert len(tensors) == 2 * len(pairs)
    for path, (a, b) in pairs.items():
        assert np.array_equal(tensors[f"{path}.lora_a"], a.T), path
        assert np.array_equal(tensors[f"{path}.lora_b"], b.T), path
    print(f"safetensors: {len(tensors)} transposed matrices for MLX")


def mlx_logits(model, adapter=None):
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    loaded, _ = load_model(model)
    if adapter:
        load_adapters(loaded, str(adapter))
    return np.array(loaded(mx.array(TOKENS)).astype(mx.float32))


def peft_logits(model, adapter=None):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    with torch.no_grad():
        return loaded.eval()(torch.tensor(TOKENS)).logits.numpy()


def check_fields(folder):
    from peft import LoraConfig

    written = json.loads((folder / "peft/adapter_config.json").read_text())
    expected = LoraConfig().to_dict()
    assert set(written) == set(expected), set(written) ^ set(expected)
    assert list(written) == sorted(written)
    print(f"peft: {len(written)} fields of adapter_config.json")


def near(what, ours, theirs, least=1e-4):
    difference = np.abs(ours - theirs).max()
    print(f"{what}: logits differ by {difference:.1e}")
    assert difference < least, what


def main(folder):
    has = lambda *names: all(importlib.util.find_spec(name) for name in names)
    check_mlx_file(folder)
    if has("gguf"):
        check_gguf(folder, "f32.gguf", np.float32)
        check_gguf(folder, "f16.gguf", np.float16)
    else:
        print("gguf is not installed: left out")
    found = {}
    if has("mlx", "mlx_lm"):
        found["mlx"] = mlx_logits(folder / "base", folder / "mlx")
        near("mlx-lm, adapter and merged", found["mlx"], mlx_logits(folder / "merged"))
    else:
        print("mlx is not installed: left out")
    if has("peft", "torch", "transformers"):
        check_fields(folder)
        found["peft"] = peft_logits(folder / "base", folder / "peft")
        plain = peft_logits(folder / "base")
        assert np.abs(found["peft"] - plain).max() > 1e-2, "the adapter does nothing"
        near("PEFT, adapter and merged", found["peft"], peft_logits(folder / "merged"))
    else:
        print("peft is not installed: left out")
    if len(found) == 2:
        near("mlx-lm and PEFT", found["mlx"], found["peft"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
