"""VPTQ: vectors of neighbouring rows in one column, rounded column by column with error feedback (arXiv:2409.17066).

    W  (out, in)   weight         H  (in, in)   X^T X / tokens, damped         U  upper triangular, H^-1 = U^T U
    w  (v,)        v neighbouring rows of one column        C  (K, v)  table of the matrix        R  (L, v)  table of what C leaves

    C = weighted k-means of all vectors of W, those of column q with the weight H_qq        R = the same of  w - nearest of C
    Q_q = C_i + R_j       i = argmin |w - C_i|^2,   j = argmin |w - C_i - R_j|^2             one column at a time
    delta_F = -(w_q - Q_q) / U_qq * U_q,F                                                   as in GPTQ (uniform/gptq.py)

All components of a vector are in one column, so that an error in any of them is paid for by the same later columns. Vectors along a row,
as in GPTVQ, would have to choose v columns at once, before the errors of any of them are fed back: hence "channel-independent".

Gives up: the tables stay as they were fitted; the authors also train them afterwards. No columns have tables of their own ("outliers").
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import VectorsConfig, VectorsTensor
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.factor import InverseFactor
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.vectors.clustering import nearest_vectors, vector_kmeans

BLOCK = 128  # columns between products with all later ones

Tables = list[Tensor]  # C, and R if there is one


def quantize_kmeans(W: Tensor, hessian: Hessian | None, codec: VectorsConfig, options: QuantizerOptions) -> VectorsTensor:
    """The nearest entries, without feedback. Without a Hessian all columns weigh the same."""
    tables = fit_tables(W, codec, None if hessian is None else hessian.diagonal)
    codes, _ = encode(vectors_of(W, codec.length).reshape(-1, codec.length), tables)
    return _tensor([part.view(-1, W.shape[1]) for part in codes], tables, len(W))


def quantize_vptq(W: Tensor, hessian: Hessian, codec: VectorsConfig, options: QuantizerOptions) -> VectorsTensor:
    tables = fit_tables(W, codec, hessian.diagonal)
    return _tensor(feedback_codes(hessian.factor(options), W, tables), tables, len(W))


def vectors_of(W: Tensor, length: int) -> Tensor:
    """W (rows, cols) -> (vectors, cols, length). The last row is repeated where a vector ends beyond it."""
    missing = -len(W) % length
    whole = torch.cat([W, W[-1:].expand(missing, -1)])
    return whole.view(-1, length, W.shape[1]).transpose(1, 2)


def fit_tables(W: Tensor, codec: VectorsConfig, diagonal: Tensor | None) -> Tables:
    """W (rows, cols), diagonal (cols,) of H -> the tables, with values that float16 holds."""
    x = vectors_of(W, codec.length)
    p = (torch.ones_like(W[0]) if diagonal is None else diagonal.to(W)).expand(x.shape[:2]).reshape(-1)
    x, tables = x.reshape(-1, codec.length), Tables()
    for bits in filter(None, (codec.table_bits, codec.residual_bits)):
        table = vector_kmeans(x, p, 2**bits).clamp(-65504, 65504).half().to(W)
        x = x - table[nearest_vectors(x, table)]
        tables.append(table)
    return tables


def encode(x: Tensor, tables: Tables) -> tuple[list[Tensor], Tensor]:
    """x (n, v) -> codes (n,) for each table, each for what those before it leave, and the sum of the entries (n, v)."""
    codes, decoded = [], torch.zeros_like(x)
    for table in tables:
        codes.append(nearest_vectors(x - decoded, table))
        decoded = decoded + table[codes[-1]]
    return codes, decoded


def feedback_codes(factor: InverseFactor, W: Tensor, tables: Tables) -> list[Tensor]:
    """Codes (vectors, cols) for each table, with the columns in the order of the factor."""
    (rows, cols), length, U = W.shape, tables[0].shape[1], factor.U
    codes = [torch.empty(-(-rows // length), cols, dtype=torch.int64, device=W.device) for _ in tables]
    W = W[:, factor.order]  # a copy, corrected in place
    for start in range(0, cols, BLOCK):
        stop = min(start + BLOCK, cols)
        block = W[:, start:stop].T.contiguous()  # (columns, rows)
        errors = torch.empty_like(block)
        for i in range(stop - start):
            column = int(factor.order[start + i])
            of_tables, decoded = encode(vectors_of(block[i][:, None], length)[:, 0], tables)
            for each, code in zip(codes, of_tables, strict=True):
                each[:, column] = code
            errors[i] = (block[i] - decoded.flatten()[:rows]) / U[start + i, start + i]
            block[i + 1 :].addr_(U[start + i, start + i + 1 : stop], errors[i], alpha=-1)
        W[:, stop:].addmm_(errors.T, U[start:stop, stop:], alpha=-1)
    return codes


def _tensor(codes: list[Tensor], tables: Tables, rows: int) -> VectorsTensor:
    stored = [part.to(torch.uint8).cpu().numpy() for part in codes]
    halves = [table.half().cpu().numpy() for table in tables]
    second = len(tables) > 1
    return VectorsTensor(stored[0], halves[0], stored[1] if second else None, halves[1] if second else None, rows)
