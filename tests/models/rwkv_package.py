"""Logits of the `rwkv` package, an independent forward: `python rwkv_package.py rwkv7|rwkv6 JOBS.json`.

JOBS.json is a list of {"checkpoint": .pth, "tokens": [ids], "logits": .npy to write}. It is a separate program, because the package
chooses its architecture from the environment when it is imported.

The package normalises RWKV-6's embedding in the checkpoint's own dtype (in bf16 that costs 3e-3 of the largest logit), and
everything else in the requested dtype. So a checkpoint is first converted to float32, which changes no value.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np


def first_state(model, state_dict):
    """RWKV-6 reads its tuned state itself; RWKV-7 must be given it, between the two token shifts of each layer."""
    if "blocks.0.att.time_state" not in state_dict or not hasattr(model, "generate_zero_state"):
        return None
    state = model.generate_zero_state()
    state[1::3] = [state_dict[f"blocks.{layer}.att.time_state"] for layer in range(len(state) // 3)]
    return state


def main(arch: str, jobs_path: str) -> None:
    os.environ["RWKV_JIT_ON"] = "0"
    os.environ["RWKV_CUDA_ON"] = "0"
    os.environ.pop("RWKV_V7_ON", None)
    if arch == "rwkv7":
        os.environ["RWKV_V7_ON"] = "1"
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(1)
    for job in json.loads(Path(jobs_path).read_text()):
        state_dict = {name: tensor.float() for name, tensor in torch.load(job["checkpoint"], weights_only=True).items()}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state_dict, f"{folder}/model.pth")
            model = RWKV(model=f"{folder}/model", strategy="cpu fp32")  # without the suffix, which the package adds
            logits, _ = model.forward(job["tokens"], first_state(model, state_dict), full_output=True)
        np.save(job["logits"], logits.numpy())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
