"""The recurrence of both time mixes, in two forms: token by token (the definition) and chunk by chunk (fast).

    B  sequences    T  tokens    H  heads    N  head size    S  (B, H, N, N) state, indexed [value, key]

    RWKV-7   S_t = S_{t-1} (diag(w_t) - kappa_t^T (a_t * kappa_t)) + v_t^T k_t         o_t = r_t S_t^T
    RWKV-6   S_t = S_{t-1} diag(w_t) + v_t^T k_t                                       o_t = r_t (S_{t-1} + v_t^T (u * k_t))^T

All vectors are rows. The chunked forms are derived in docs/methods/wkv_chunked.md; they loop over chunks, but not inside a chunk.
Every function computes in the dtype of its input, so that float64 can be the reference for float32, and does not change the given state.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 16  # tokens. In RWKV-7 1/P reaches 0.545**-16 = 1.6e4, and rounding errors grow with the chunk; 32 is not faster on a CPU


def wkv7_stepwise(r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The definition. r, w, k, v, kappa, a (B, T, H, N); S (B, H, N, N) -> outputs (B, T, H, N), last state."""
    outputs = []
    for t in range(r.shape[1]):
        removed = torch.einsum("bhvk,bhk->bhv", S, kappa[:, t])  # what the state has stored for the removal key
        S = (
            S * w[:, t, :, None, :]
            - removed[..., :, None] * (a[:, t] * kappa[:, t])[..., None, :]
            + v[:, t, :, :, None] * k[:, t, :, None, :]
        )
        outputs.append(torch.einsum("bhvk,bhk->bhv", S, r[:, t]))
    return torch.stack(outputs, dim=1), S


def wkv6_stepwise(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The definition. r, log_w, k, v (B, T, H, N); u (H, N); S (B, H, N, N) -> outputs (B, T, H, N), last state."""
    w = log_w.exp()
    outputs = []
    for t in range(r.shape[1]):
        vk = v[:, t, :, :, None] * k[:, t, :, None, :]
        outputs.append(torch.einsum("bhvk,bhk->bhv", S + vk * u[:, None, :], r[:, t]))
        S = S * w[:, t, :, None, :] + vk
    return torch.stack(outputs, dim=1), S


def wkv7_chunked(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor, S: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """As wkv7_stepwise. Needs w above exp(-exp(-1/2)) = 0.545, which the model guarantees, because it divides by products of w."""
    tokens = r.shape[1]
    chunk = min(chunk, tokens)
    R, K, V, A, B = (_chunks(x, chunk) for x in (r, k, v, -kappa, a * kappa))  # (chunks, B, H, chunk, N)
    W = _chunks(w, chunk, padding=1.0)

    P = W.cumprod(-2)  # P_t = w_1 * ... * w_t, from the start of the chunk
    P_end = P[..., -1:, :]
    R, A = R * P, A * (P / W)  # A multiplies the state before token t, so it has the factor P_{t-1}
    K, B = K / P, B / P
    AB, AK = (A @ B.mT).tril(-1), (A @ K.mT).tril(-1)  # Eq. (5); strictly before t
    RB, RK = (R @ B.mT).tril(), (R @ K.mT).tril()  # Eq. (6); t included

    # U = (1 - AB)^-1 (A S^T + AK V), Eq. (5): inverted for all chunks at once, before their S is known.
    one = torch.eye(AB.shape[-1], dtype=AB.dtype, device=AB.device)
    inverse = torch.linalg.solve_triangular(-AB, one.expand_as(AB), upper=False, unitriangular=True)
    from_state, from_values = inverse @ A, inverse @ (AK @ V)
    R = R + RB @ from_state
    Y = RB @ from_values + RK @ V
    BK = torch.cat([B, K], dim=-2) * P_end
    for i in range(len(R)):
        Y[i] += R[i] @ S.mT  # Eq. (6)
        U = from_state[i] @ S.mT + from_values[i]
        S = S * P_end[i] + torch.cat([U, V[i]], dim=-2).mT @ BK[i]  # Eq. (7)
    return _tokens(Y, tokens), S


def wkv6_chunked(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, S: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """As wkv6_stepwise; log_w may be anything from -inf to 0. `chunk` is a power of two."""
    tokens = r.shape[1]
    chunk = min(chunk, 1 << (tokens - 1).bit_length())
    R, W, K, V = (_chunks(x, chunk) for x in (r, log_w, k, v))  # (chunks, B, H, chunk, N)

    Y = (R * K * u[:, None, :]).sum(-1, keepdim=True) * V  # each token to itself, with its bonus u
    half = 1
    while half < chunk:  # from the first half of each pair to the second, through the border between them
        Rp, Kp, Vp, Wp, Yp = (_pairs(x, half) for x in (R, K, V, W, Y))
        received = Rp[..., 1, :, :] * _since_border(Wp[..., 1, :, :])
        sent = Kp[..., 0, :, :] * _until_border(Wp[..., 0, :, :])
        Yp[..., 1, :, :] += (received @ sent.mT) @ Vp[..., 0, :, :]  # Eq. (9); Yp is a view of Y
        half *= 2

    R, K = R * _since_border(W), K * _until_border(W)
    decay = W.sum(-2, keepdim=True).exp()
    for i in range(len(R)):
        Y[i] += R[i] @ S.mT  # Eq. (10)
        S = S * decay[i] + V[i].mT @ K[i]
    return _tokens(Y, tokens), S


def _since_border(log_w: Tensor) -> Tensor:
    """(..., n, N) -> the decay from before the first token to before each token: exp of sums of 0..n-1 terms, never above 1."""
    return functional.pad(log_w[..., :-1, :], (0, 0, 1, 0)).cumsum(-2).exp()


def _until_border(log_w: Tensor) -> Tensor:
    """(..., n, N) -> the decay from after each token to after the last.

    Summed from the border, not as a difference of cumulative sums: a difference would cancel, and be NaN between two infinities.
    """
    return functional.pad(log_w[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2).exp()


def _chunks(x: Tensor, chunk: int, padding: float = 0.0) -> Tensor:
    """(B, T, H, N) -> (chunks, B, H, chunk, N), the last one filled up with tokens that change nothing."""
    batch, tokens, heads, size = x.shape
    x = functional.pad(x, (0, 0, 0, 0, 0, -tokens % chunk), value=padding)
    return x.reshape(batch, -1, chunk, heads, size).permute(1, 0, 3, 2, 4).contiguous()


def _tokens(x: Tensor, tokens: int) -> Tensor:
    """The inverse: (chunks, B, H, chunk, N) -> (B, T, H, N)."""
    _, batch, heads, _, size = x.shape
    return x.permute(1, 0, 3, 2, 4).reshape(batch, -1, heads, size)[:, :tokens]


def _pairs(x: Tensor, half: int) -> Tensor:
    """(..., chunk, N) -> a view (..., pairs, 2, half, N)."""
    return x.view(*x.shape[:-2], -1, 2, half, x.shape[-1])
