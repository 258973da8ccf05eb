"""Operations of a Hadamard transform of every product's input, over those of the products, for released shapes. Nothing is measured.

    python benchmarks/transform_flops.py --json benchmarks/results/transform_flops.json

A product with a matrix of `out` x `n` takes 2 out n operations a token; all projections, LoRA factors and the head are counted. What its
transform takes is counted in four ways. Inputs whose rotation is folded into the matrix before (a2 and v2 of RWKV-7) take nothing.

    shared      the fast transform, once for all products with the same input: what the engine does, and `inspect` counts
    each        the fast transform, once for each product
    dense       each product's input times a full n x n matrix, 2 n^2
    square      the same, but not for ffn.value, whose input is four times as wide

"blocked" is another count: the share of the weights of projections and LoRA factors whose input's scale cannot be folded into what makes
the input (docs/methods/awq.md), so that AWQ applies it at run time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rwkvquant.architectures import QUANTIZED_ROLES, Role, architecture
from rwkvquant.bench.shapes import RELEASED
from rwkvquant.transforms import transform_named


def counted(shape: str) -> dict[str, Any]:
    arch, dims = RELEASED[shape]
    own, hadamard = architecture(arch), transform_named("hadamard")
    products = each = dense = square = weights = folded = 0
    shared: dict[Any, int] = {}
    for _, spec, layer in own.used(dims.layers):
        if spec.role not in (*QUANTIZED_ROLES, Role.HEAD):
            continue
        out, width = spec.part_shape(dims)
        for part in spec.parts:
            products += 2 * out * width
            if spec.role not in QUANTIZED_ROLES:
                continue
            producer = own.producers.get(spec.input or "")
            weights, folded = weights + out * width, folded + (out * width if producer else 0)
            if producer and producer.mixes:
                continue
            fast = hadamard.flops(width, {})
            shared[layer, spec.input or part] = fast
            each, dense = each + fast, dense + 2 * width * width
            square += 2 * width * width if width <= dims.width else 0
    shares = {"shared": sum(shared.values()), "each": each, "dense": dense, "square": square}
    return {"products": products, **{name: flops / products for name, flops in shares.items()}, "blocked": 1 - folded / weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {shape: counted(shape) for shape, (arch, _) in sorted(RELEASED.items()) if architecture(arch).modality == "text"}
    for shape, row in found.items():
        ways = "  ".join(f"{name} {100 * row[name]:7.2f} %" for name in ("shared", "each", "dense", "square"))
        print(f"{shape:12} {row['products'] / 1e9:8.3f} GFLOPs a token  {ways}  blocked {100 * row['blocked']:.0f} %")
    if options.json:
        options.json.write_text(json.dumps({"shapes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
