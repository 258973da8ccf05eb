"""Models as they are in the wild: our small ones, edited so that they have what released checkpoints have, and still compute the same.

    python benchmarks/wild_models.py CHECKPOINT OUT.pth [--edit output --edit value ...]

Released models have one input channel of the first layer's `att.output` whose mean square is some millions of times the median, and
`ffn.value` with a large share of the loss. Small models have neither. An edit multiplies what makes a channel by a number, and divides
the column that reads it by the same number, so the model computes the same: exactly in real numbers, and nearly in floating point,
since the numbers are powers of two.

| edit | multiplied | divided |
|---|---|---|
| output | channel of `att.g2` (RWKV-7) or of `att.ln_x` (RWKV-6), first layer, by 4,096 | column of `att.output` |
| norm | four channels of `ln1`, and four of `ln2`, in every layer, by 64 | columns of all that read them, LoRA factors too |
| value | 16 rows of `ffn.key` in every layer, by 8; relu^2 makes it 64 | columns of `ffn.value`, by 64 |
| head | four channels of `ln_out`, by 64 | columns of `head` |
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Weights = dict[str, Tensor]
OUTPUT, NORM, KEY = 4096.0, 64.0, 8.0


def edited(weights: Weights, edits: tuple[str, ...], seed: int = 0) -> Weights:
    """The weights in float32, with edits by name. Channels are drawn from the seed. The model computes the same."""
    changed = {name: weight.to(torch.float32, copy=True) for name, weight in weights.items()}
    draws = torch.Generator().manual_seed(seed)
    for name in edits:
        EDITS[name](changed, draws)
    return changed


def _output(weights: Weights, draws: torch.Generator) -> None:
    column = _some(1, weights["blocks.0.att.output.weight"].shape[1], draws)
    if "blocks.0.att.g2" in weights:
        weights["blocks.0.att.g2"][:, column] *= OUTPUT
    else:  # RWKV-6 passes the gate through silu, which is not linear; its norm is
        weights["blocks.0.att.ln_x.weight"][column] *= OUTPUT
        weights["blocks.0.att.ln_x.bias"][column] *= OUTPUT
    weights["blocks.0.att.output.weight"][:, column] /= OUTPUT


def _norm(weights: Weights, draws: torch.Generator) -> None:
    for layer in _layers(weights):
        for norm, part in (("ln1", "att"), ("ln2", "ffn")):
            channels = _some(4, weights[f"{layer}.{norm}.weight"].shape[0], draws)
            weights[f"{layer}.{norm}.weight"][channels] *= NORM
            weights[f"{layer}.{norm}.bias"][channels] *= NORM
            for name in (name for name in weights if name.startswith(f"{layer}.{part}.")):
                if name.endswith(("receptance.weight", "key.weight", "att.value.weight", "gate.weight")):
                    weights[name][:, channels] /= NORM
                elif name.endswith(("w1", "a1", "v1", "g1")):  # LoRA factors are stored (in, out)
                    weights[name][channels] /= NORM


def _value(weights: Weights, draws: torch.Generator) -> None:
    for layer in _layers(weights):
        rows = _some(16, weights[f"{layer}.ffn.key.weight"].shape[0], draws)
        weights[f"{layer}.ffn.key.weight"][rows] *= KEY
        weights[f"{layer}.ffn.value.weight"][:, rows] /= KEY**2


def _head(weights: Weights, draws: torch.Generator) -> None:
    channels = _some(4, weights["ln_out.weight"].shape[0], draws)
    weights["ln_out.weight"][channels] *= NORM
    weights["ln_out.bias"][channels] *= NORM
    weights["head.weight"][:, channels] /= NORM


EDITS: dict[str, Callable[[Weights, torch.Generator], None]] = {"output": _output, "norm": _norm, "value": _value, "head": _head}


def _some(count: int, of: int, draws: torch.Generator) -> Tensor:
    return torch.randperm(of, generator=draws)[:count]


def _layers(weights: Weights) -> list[str]:
    return sorted({".".join(name.split(".")[:2]) for name in weights if name.startswith("blocks.")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--edit", action="append", choices=sorted(EDITS), help="may be repeated; all of them if not said")
    arguments = parser.parse_args()
    weights = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    torch.save(edited(weights, tuple(arguments.edit or EDITS)), arguments.out)


if __name__ == "__main__":
    main()
