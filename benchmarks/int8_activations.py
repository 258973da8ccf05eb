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
from roofline import conditions

from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.evaluation.divergence import compare_many
from rwkvquant.evaluation.native_model import NativeModel
from rwkvquant.evaluation.windows import text_windows
from rwkvquant.runtime.session import load

KINDS = ("float32", "int8")


def measure(original: str, packed: str, text: str, max_tokens: int) -> dict[str, Any]:
    engines = {kind: load(packed, activations=kind) for kind in KINDS}
    cut = text_windows(text, engines[KINDS[0]].tokenizer, max_tokens=max_tokens)
    base = NativeModel(load(original, activations="float32"))
    compared = compare_many(base, {kind: NativeModel(engine) for kind, engine in engines.items()}, cut)
    sums = np.stack([compared[kind].window_sums[0] for kind in KINDS])
    draws = resampled_means(sums, cut.tokens_each)
    means = sums.sum(axis=1) / cut.tokens
    return {
        "packed": Path(packed).name,
        "text": Path(text).name,
        "tokens": cut.tokens,
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
