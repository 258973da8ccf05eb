"""KL by the position of a token in the native engine: a packed file as it ships against its original with float32 activations.

    python benchmarks/positions.py TEXT ORIGINAL TOKENIZER PACKED --json OUT.json

Windows of 8192 tokens. `rows`: ranges of positions with 95 % intervals over windows; `growth_since_512`: the KL of each range over that of
positions 257 to 512, paired. The engine reads long windows several times as fast as the torch forward of `compare --positions`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rwkvquant.evaluation.divergence import compare
from rwkvquant.evaluation.native_model import NativeModel
from rwkvquant.evaluation.windows import text_windows
from rwkvquant.runtime.session import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("text", "original", "tokenizer", "packed"):
        parser.add_argument(name)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--max-tokens", type=int, default=65_536)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    quantized = load(options.packed, threads=1, activations="int8")
    base = load(options.original, options.tokenizer, threads=1, activations="float32")
    cut = text_windows(options.text, quantized.tokenizer, context=options.context, max_tokens=options.max_tokens)
    compared = compare(NativeModel(base), NativeModel(quantized), cut)
    sums = compared.by_position()
    growth = {last: {"value": value, "ci95": ci95} for last, (value, ci95) in sums.growth(512).items()}
    result = {
        "packed": Path(options.packed).name,
        "context": options.context,
        "tokens": cut.tokens,
        "windows": len(cut),
        "windows_sha256": cut.sha256(),
        "kl_mean": float(compared.kl.mean()),
        "rows": [vars(row) for row in sums.rows()],
        "growth_since_512": growth,
        "sums": sums.to_json(),
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    for row in sums.rows():
        ratio = growth[row.last]
        print(f"{row.first} to {row.last}: {1000 * row.kl_mean:.3f} {row.kl_ci95}  x {ratio['value']:.3f} {ratio['ci95']}")


if __name__ == "__main__":
    main()
