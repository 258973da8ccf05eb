"""A whole checkpoint as a packed file by plain rounding, without the pipeline (and its torch): every tensor that a session reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import QUANTIZED_ROLES, Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import DenseTensor, QTensor, UniformTensor
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.formats.tokenizer_data import TokenizerData


def pack_checkpoint(source: Path, target: Path, tokenizer: TokenizerData, bits: int | None = None, leave_out: str | None = None) -> Path:
    """Matrices, embedding and head on a symmetric grid of `bits`, all others float32; everything float32 for None."""
    checkpoint = open_checkpoint(source)
    matrices = {
        matrix.source: [m for m in checkpoint.logical_matrices() if m.source == matrix.source] for matrix in checkpoint.logical_matrices()
    }
    with ContainerWriter(target) as writer:
        for name, spec, _ in checkpoint.specs():
            if name == leave_out:
                continue
            if name not in matrices:
                values, rows_layout = checkpoint.read(name), spec.role is Role.EMBEDDING
                packed = rounded(values, bits) if rows_layout and bits else DenseTensor(values)
                layout = f"uniform{bits}.rows" if rows_layout and bits else None
                writer.add(name, packed, role=spec.role, method="rtn", source_shape=values.shape, layout=layout)
                continue
            for matrix in matrices[name]:
                values = checkpoint.read_matrix(matrix.name)
                quantised = bits and spec.role in (*QUANTIZED_ROLES, Role.HEAD)
                stored = values.shape[::-1] if spec.transposed else values.shape
                packed = rounded(values, bits) if quantised else DenseTensor(values)
                writer.add(matrix.name, packed, role=spec.role, method="rtn", source_shape=stored, transposed=spec.transposed)
        model = {"arch": checkpoint.arch, "dims": checkpoint.dims}
        writer.finish(model=model, quantization_config={"bits": bits}, tokenizer=tokenizer, provenance={})
    return target


def rounded(W: NDArray[np.float32], bits: int) -> QTensor:
    """One float16 scale per group of 32."""
    groups = -(-W.shape[1] // 32)
    group = np.arange(W.shape[1]) // 32
    largest = np.stack([np.abs(W[:, group == g]).max(axis=1) for g in range(groups)], axis=1)
    scales = (largest / (2 ** (bits - 1) - 1)).astype(np.float16)
    codes = np.rint(W / np.maximum(scales[:, group].astype(np.float32), 1e-12)) + 2 ** (bits - 1)
    return UniformTensor(codes.clip(0, 2**bits - 1).astype(np.uint8), bits, 32, scales=scales)
