"""Trains an adapter for 200 steps with PEFT and torch's AdamW, and writes down
the loss of every step.

    python -m venv v && v/bin/pip install -r families_requirements.txt
    v/bin/python curve.py

`cargo test curve` trains on the same rows in the same order from the same
adapter and compares. The base is the OLMo-2 of `families/`; the rows follow a
rule with noise, so that there is something to learn. curve.safetensors holds
tokens [steps, rows, length], the loss of every step, the adapter before
(before.NAME) and after (after.NAME).
"""

import math
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

STEPS, ROWS, LENGTH, VOCABULARY = 200, 4, 48, 64
# At twice this rate two of torch's own forms of attention end 1e-2 apart.
RATE, WARMUP, CLIP = 5e-3, 10, 1.0
HERE = Path(__file__).parent


def rows():
    """Each token follows from the two before it, but for one in eight."""
    tokens = torch.randint(3, VOCABULARY, (STEPS, ROWS, LENGTH))
    noise = torch.rand(tokens.shape) < 0.125
    for i in range(2, LENGTH):
        rule = 3 + (tokens[..., i - 1] + 2 * tokens[..., i - 2]) % 7
        tokens[..., i] = torch.where(noise[..., i], tokens[..., i], rule)
    return tokens


def factor(step):
    """Linear warm-up that ends at the peak, then half a cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def adapter(model, moment):
    return {
        f"{moment}.{name.replace('.default', '')}": p.detach().clone()
        for name, p in model.named_parameters()
        if "lora_" in name
    }


def main():
    transformers.logging.set_verbosity_error()
    torch.manual_seed(7)
    torch.set_num_threads(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        HERE / "families/olmo2", dtype=torch.float32, attn_implementation="eager"
    )
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    tokens = rows()
    tensors = {"tokens": tokens.to(torch.uint8), **adapter(model, "before")}
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses = []
    model.train()
    for batch in tokens:
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    tensors["losses"] = torch.tensor(losses)
    tensors.update(adapter(model, "after"))
    save_file({k: t.contiguous() for k, t in tensors.items()}, HERE / "curve.safetensors")
    print(f"loss {losses[0]:.4f} to {losses[-1]:.4f}")


main()
