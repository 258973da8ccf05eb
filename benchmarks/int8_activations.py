"""What int8 activations cost: KL divergence from the original of a packed file run with them, and with float32 activations.

    python benchmarks/int8_activations.py TEXT ORIGINAL PACKED [ORIGINAL PACKED ...] --json OUT.json

All three run in the native engine, the original with float32 activations. Windows are those of `rwkvquant compare`: 512
tokens after token 0. KL is in nats a token, with 95 % intervals by the paired bootstrap over windows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roofline import conditions

from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.evaluation.windows import text_windows
from rwkvquant.runtime.session import Model, load

KINDS = ("float32", "int8")


def log_probabilities(model: Model, tokens: list[int]) -> NDArray[np.float64]:
    logits, _ = model.forward(tokens, logits="all")
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def measure(original: str, packed: str, text: str, max_tokens: int) -> dict[str, Any]:
    models = [load(packed, activations=kind) for kind in KINDS]
    base = load(original, activations="float32")
    cut = text_windows(text, models[0].tokenizer, max_tokens=max_tokens)
    sums, counts = np.zeros((len(KINDS), len(cut))), cut.mask.sum(axis=1)
    for w, length in enumerate(cut.lengths):
        tokens, counted = cut.inputs[w, :length].tolist(), cut.mask[w, :length]
        want = log_probabilities(base, tokens)[counted]
        for k, model in enumerate(models):
            sums[k, w] = (np.exp(want) * (want - log_probabilities(model, tokens)[counted])).sum()
    draws = resampled_means(sums, counts)
    means = sums.sum(axis=1) / counts.sum()
    return {
        "packed": Path(packed).name,
        "text": Path(text).name,
        "tokens": int(counts.sum()),
        "windows": len(cut),
        **{f"kl_{kind}": {"mean": means[k], "ci95": interval(draws[k], len(cut))} for k, kind in enumerate(KINDS)},
        "cost": {"mean": means[1] / means[0] - 1, "ci95": interval(draws[1] / draws[0] - 1, len(cut))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("files", nargs="+", help="pairs: an original checkpoint, then its packed file")
    parser.add_argument("--max-tokens", type=int, default=61_440)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for original, packed in zip(options.files[::2], options.files[1::2], strict=True):
        rows.append(row := measure(original, packed, options.text, options.max_tokens))
        kl = {kind: row[f"kl_{kind}"] for kind in KINDS}
        shown = ", ".join(f"{kind} {of['mean']:.3e} [{of['ci95'][0]:.3e}, {of['ci95'][1]:.3e}]" for kind, of in kl.items())
        cost = row["cost"]
        print(f"{row['packed']}: KL {shown}; int8 costs {cost['mean']:+.2%} [{cost['ci95'][0]:+.2%}, {cost['ci95'][1]:+.2%}]")
    if options.json:
        options.json.write_text(json.dumps({"conditions": conditions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
