"""What a state loses in few bits: at rest, rounded once, and in the step, rounded after each token (docs/methods/state.md).

    python benchmarks/state.py MODEL.pth --tokenizer tokenizer.json --text eval.txt --work-dir WORK --json OUT.json

Both parts compare logits with those of the exact state, token by token, on the same text: KL divergence in nats, and the share of tokens
whose likeliest next token is another one. Everything else is exact: weights as in the checkpoint, float32 activations. A place is where
reading begins in the text; intervals are 95 %, by bootstrap over places, or over runs of 1,000 tokens where there is one place. `rest`:
after 1k, 8k and 25k tokens the state is rounded once, and 2,000 more tokens are read; what is shipped at all places, the other schemes at
the first ones. `step`: 25k tokens are read; what the engine does by itself at several places, other schemes one token at a time at one,
and those of less interest for 8k tokens. With --schemes only these are read, for --step-tokens at --step-places, and all other rows of the
JSON stay. `repeat`: a text, then one token a thousand times, then the text again. Each place is a file in the work directory: an
interrupted run goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from state_schemes import REST, STEP, Step, nearest

import rwkvquant
from rwkvquant import Model, State
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.kernels import rwkv7
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.weights import checkpoint_weights

Array = NDArray[np.float32]
LENGTHS = (1000, 8000, 25000)
AFTER = (16, 64, 256, 1024, 2000)  # tokens after the rounding; the mean over each stretch is kept
CHUNK = 8  # tokens of each sequence that are read at once in `rest`
BIN = 250  # tokens of a point of the curve in `step`
RUN = 4  # points of a curve that are drawn together, where there is one place only
SHIPPED = "as shipped"
ENGINE = {  # slots(state_bits=...), with a float32 step for each row
    12: Step("12 bits, in the engine", 12.5, lambda S, random, columns: S),
    8: Step("8 bits, in the engine", 8.5, lambda S, random, columns: S),
}
OF_ENGINE = ("int8 + residual of 4 bits", "int8 rotated, stochastic")
REPEATED = (5, 300)  # tokens of `repeat`
NAIVE = Step("int8, nearest, before the output", 8.25, lambda S, random, columns: nearest(S, 127))  # RWKV-7 only: o = round(S_t) r


def divergence(exact: Array, other: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logits (..., V) -> KL(exact || other) in nats, and whether the largest is another one.

    KL = log sum_v p_v exp(e_v), where e is other - exact minus its mean under p. So small divergences keep their digits.
    """
    p = np.exp(exact - exact.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    e = other - exact
    e -= (p * e).sum(-1, keepdims=True)
    return np.log1p((p * np.expm1(e)).sum(-1, dtype=np.float64)), exact.argmax(-1) != other.argmax(-1)


def shipped_states(state: State) -> dict[str, State]:
    return {f"{SHIPPED}, {bits} bits": state.packed(bits).state() for bits in (8, 4)}


def rounded_states(state: State) -> dict[str, State]:
    """By the names of the schemes. Those of REST round `wkv` only, the last ones the token shift only."""
    found = {}
    for bits, n in ((8, 127), (4, 7)):
        for scheme in REST:
            copy = state.copy()
            copy.recurrent.wkv[:] = scheme.apply(state.recurrent.wkv, n)
            found[f"{scheme.name}, {bits} bits"] = copy
    packed = state.packed(8).state().recurrent
    for bits in (8, 16):
        copy = state.copy()
        for array in ("att_shift", "ffn_shift"):
            own = getattr(copy.recurrent, array)
            own[:] = getattr(packed, array) if bits == 8 else own.astype(np.float16)
        found[f"token shift alone, {bits} bits"] = copy
    return found


def bits_of(name: str) -> float:
    """Bits for each value of `wkv`."""
    for scheme in REST:
        for bits in (8, 4):
            if name == f"{scheme.name}, {bits} bits":
                return bits + scheme.side_bits
    return {f"{SHIPPED}, 8 bits": 4356 * 8 / 4096, f"{SHIPPED}, 4 bits": 2308 * 8 / 4096}.get(name, 32)


def rest_place(model: Model, tokens: Sequence[int], make: Callable[[State], dict[str, State]]) -> dict[str, Any]:
    """After each length: name -> mean KL of each stretch, and how many likeliest tokens changed."""
    state: State | None = None
    read, result = 0, {}
    for length in LENGTHS:
        _, state = model.forward(tokens[read:length], state)
        read = length
        states = make(state)
        slots = model.slots(1 + len(states))
        exact, own = slots.add(state), {name: slots.add(value) for name, value in states.items()}
        kl, changed = {name: [] for name in own}, dict.fromkeys(own, 0)
        for begin in range(length, length + AFTER[-1], CHUNK):
            chunk = list(tokens[begin : min(begin + CHUNK, length + AFTER[-1])])
            logits = slots.forward(dict.fromkeys([exact, *own.values()], chunk), "all")
            for name, slot in own.items():
                values, moved = divergence(logits[exact], logits[slot])
                kl[name].append(values)
                changed[name] += int(moved.sum())
        cut = {name: np.split(np.concatenate(values), AFTER[:-1]) for name, values in kl.items()}
        result[str(length)] = {
            name: {"kl": [float(f"{part.mean():.4g}") for part in parts], "changed": changed[name]} for name, parts in cut.items()
        }
    return result


def static_columns(model: Model, tokens: Sequence[int]) -> torch.Tensor:
    """The roots of the largest value of each column of `wkv` after 1,000 tokens of another place: (L, H, 1, N)."""
    _, state = model.forward(tokens[:1000])
    return torch.from_numpy(state.recurrent.wkv[:, 0]).abs().amax(-2, keepdim=True).sqrt().clamp_(min=1e-15)


def step_place(model: Model, tokens: Sequence[int], columns: torch.Tensor, schemes: Sequence[Step]) -> dict[str, Any]:
    """Name -> mean KL of each stretch of BIN tokens, and how many likeliest tokens changed in it."""
    slots = model.slots(1 + len(schemes))
    every = [slots.add() for _ in range(1 + len(schemes))]
    wkv = torch.from_numpy(slots._recurrent.wkv)  # (L, B, H, N, N), the memory of the slots
    random = torch.Generator().manual_seed(0)
    kl = np.zeros((len(schemes), len(tokens)))
    changed = np.zeros((len(schemes), len(tokens)), bool)
    for at, token in enumerate(tokens):
        logits = slots.forward({slot: [token] for slot in every})
        stacked = np.stack(list(logits.values()))
        kl[:, at], changed[:, at] = divergence(stacked[:1], stacked[1:])
        for slot, scheme in enumerate(schemes, 1):
            if (at + 1) % scheme.every == 0:
                wkv[:, slot] = scheme.apply(wkv[:, slot], random, columns)
    return {scheme.name: in_bins(kl[row], changed[row]) for row, scheme in enumerate(schemes)}


def engine_place(model: Model, tokens: Sequence[int], bits: int) -> dict[str, Any]:
    """The same for slots that the engine rounds after each token."""
    exact, small = model.slots(1), model.slots(1, state_bits=bits)
    first, second = exact.add(), small.add()
    kl, changed = [], []
    for begin in range(0, len(tokens), BIN):
        chunk = list(tokens[begin : begin + BIN])
        values, moved = divergence(exact.forward({first: chunk}, "all")[first], small.forward({second: chunk}, "all")[second])
        kl.append(float(f"{values.mean():.4g}"))
        changed.append(int(moved.sum()))
    return {ENGINE[bits].name: {"kl": kl, "changed": changed}}


def repeat_place(model: Model, text: Sequence[int], columns: torch.Tensor, token: int) -> dict[str, Any]:
    """Name -> mean KL of each stretch of BIN tokens: 1,000 of the text, `token` 1,000 times, and one more stretch of the text.

    The schemes that the engine has, by the engine, and by this script with other random numbers.
    """
    tokens = [0, *text[:999], *[token] * 1000, *text[999 : 999 + BIN]]
    found = step_place(model, tokens, columns, [scheme for scheme in STEP if scheme.name in OF_ENGINE])
    for bits in ENGINE:
        found |= engine_place(model, tokens, bits)
    return found


def naive_place(model: Model, tokens: Sequence[int]) -> dict[str, Any]:
    """The same where the output of a token reads its rounded state too; by the engine in NumPy, beside an exact slot."""
    slots = model.slots(2)
    exact, rounded = slots.add(), slots.add()
    kl, changed = np.zeros(len(tokens)), np.zeros(len(tokens), bool)
    plain = rwkv7.wkv7

    def wkv7(S: Array, r: Array, *rest: Array) -> tuple[Array, Array]:
        o, S = plain(S, r, *rest)
        S[1:] = nearest(torch.from_numpy(S[1:]), 127).numpy()
        return np.concatenate([o[:1], (S[1:] @ r[1:, ..., None])[..., 0]]), S

    rwkv7.wkv7 = wkv7
    try:
        for at, token in enumerate(tokens):
            logits = slots.forward({exact: [token], rounded: [token]})
            kl[at], changed[at] = divergence(logits[exact], logits[rounded])
    finally:
        rwkv7.wkv7 = plain
    return {NAIVE.name: in_bins(kl, changed)}


def in_bins(kl: NDArray[np.float64], changed: NDArray[np.bool_]) -> dict[str, Any]:
    cuts = range(BIN, len(kl), BIN)
    return {
        "kl": [float(f"{part.mean():.4g}") for part in np.split(kl, cuts)],
        "changed": [int(part.sum()) for part in np.split(changed, cuts)],
    }


def interval(values: Sequence[float]) -> list[float]:
    """95 % of the mean, by bootstrap over `values`: of places, or of runs of one place."""
    random = np.random.default_rng(0)
    means = np.asarray(values)[random.integers(0, len(values), (4000, len(values)))].mean(-1)
    return [float(f"{bound:.3g}") for bound in np.quantile(means, (0.025, 0.975))]


def summary_of_rest(places: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    weights = np.diff([0, *AFTER]) / AFTER[-1]
    rows = []
    for length in LENGTHS:
        for name in places[0][str(length)]:
            found = [place[str(length)][name] for place in places]
            kl = [float(np.dot(weights, one["kl"])) for one in found]
            moved = [one["changed"] / AFTER[-1] for one in found]
            rows.append(
                {
                    "scheme": name,
                    "bits": round(bits_of(name), 3),
                    "after": length,
                    "places": len(places),
                    "kl": float(f"{np.mean(kl):.3g}"),
                    "kl_ci95": interval(kl),
                    "kl_stretches": [float(f"{value:.3g}") for value in np.mean([one["kl"] for one in found], 0)],
                    "changed": float(f"{np.mean(moved):.3g}"),
                    "changed_ci95": interval(moved),
                }
            )
    return rows


def parts_of(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    """kl (places, bins) -> what is drawn for an interval: means of places, or of one place's runs of RUN bins."""
    if len(kl) > 1 or kl.shape[1] < 2 * RUN:
        return kl.mean(1)
    return kl[0, : kl.shape[1] // RUN * RUN].reshape(-1, RUN).mean(1)


def summary_of_step(places: Sequence[Mapping[str, Any]], schemes: Sequence[Step], tokens: int) -> list[dict[str, Any]]:
    rows = []
    for scheme in schemes:
        kl = np.array([place[scheme.name]["kl"] for place in places])  # (places, bins)
        moved = np.array([place[scheme.name]["changed"] for place in places]) / BIN
        rows.append(
            {
                "scheme": scheme.name,
                "bits": round(scheme.bits, 3),
                "places": len(places),
                "tokens": tokens,
                "kl": float(f"{kl.mean():.3g}"),
                "kl_ci95": interval(parts_of(kl)),
                "last_fifth": float(f"{kl[:, -kl.shape[1] // 5 :].mean():.3g}"),
                "last_fifth_ci95": interval(parts_of(kl[:, -kl.shape[1] // 5 :])),
                "changed": float(f"{moved.mean():.3g}"),
                "curve": [float(f"{value:.3g}") for value in kl.mean(0)],
            }
        )
    return rows


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier run left, or what `make` gives."""
    if not file.exists():
        started = time.perf_counter()
        found = make()
        file.write_text(json.dumps(found))
        print(f"  {file.stem}: {time.perf_counter() - started:.0f} s", flush=True)
    return dict(json.loads(file.read_text()))


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    files = [path for path in (args.model, args.text) if path]
    hashes = {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in files}
    return {"rwkvquant": commit, "cpu": cpu, "sha256": hashes, "threads": args.threads, "numpy": np.__version__, "torch": torch.__version__}


def begins(count: int, total: int, room: int) -> list[int]:
    """Where reading begins, evenly over the text."""
    return [int(value) for value in np.linspace(0, total - room, count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--tokenizer")
    parser.add_argument("--text")
    parser.add_argument("--parts", nargs="+", default=["rest", "step", "repeat"], choices=["rest", "step", "repeat"])
    parser.add_argument("--places", type=int, default=8, help="places of `rest`")
    parser.add_argument("--other-places", type=int, default=2, help="of these, for schemes that are not shipped")
    parser.add_argument("--step-places", type=int, default=1)
    parser.add_argument("--schemes", nargs="+", help=f"of `step`, by name: only these; {NAIVE.name!r} is for RWKV-7")
    parser.add_argument("--engine-places", type=int, default=4, help="places of `step` for what the engine does by itself")
    parser.add_argument("--step-tokens", type=int, default=25000)
    parser.add_argument("--short-tokens", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work-dir", help="one file for each place")
    parser.add_argument("--json", required=True, help="write rows and conditions here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.json)
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    parts = [(name, run) for name, run in (("rest", rest), ("step", step), ("repeat", repeat)) if name in args.parts]
    if parts:
        work = Path(args.work_dir)
        work.mkdir(parents=True, exist_ok=True)
        model = rwkvquant.load(args.model, tokenizer=args.tokenizer, threads=args.threads)
        text = model.tokenizer.encode(Path(args.text).read_text(encoding="utf-8"))
        facts = conditions(args) | {"backend": model.backend, "tokens_of_text": len(text)}
        for name, run in parts:
            if name == "step" and args.schemes:
                chosen_steps(result, model, text, args, work, facts)
            else:
                result[name] = {"conditions": facts} | run(model, text, args, work)
    out.write_text(json.dumps(result, indent=1) + "\n")


def rest(model: Model, text: Sequence[int], args: argparse.Namespace, work: Path) -> dict[str, Any]:
    room = LENGTHS[-1] + AFTER[-1]
    places = begins(args.places, len(text), room)
    rows = []
    for name, make, count in (("shipped", shipped_states, args.places), ("other", rounded_states, args.other_places)):
        read = partial(rest_place, model, make=make)
        chosen = places[:: -(-len(places) // count)] if count < len(places) else places
        found = [kept(work / f"{name}_{begin}.json", partial(read, [0, *text[begin : begin + room]])) for begin in chosen]
        rows += summary_of_rest(found)
    return {"tokens_after": AFTER[-1], "stretches": AFTER, "rows": rows}


def step(model: Model, text: Sequence[int], args: argparse.Namespace, work: Path) -> dict[str, Any]:
    columns = static_columns(model, text[len(text) // 2 :])
    places = begins(args.engine_places, len(text), args.step_tokens)
    rows = []
    for bits, scheme in ENGINE.items():
        read = partial(engine_place, model, bits=bits)
        texts = [[0, *text[begin : begin + args.step_tokens - 1]] for begin in places]
        own = [kept(work / f"engine_{bits}_{begin}.json", partial(read, one)) for begin, one in zip(places, texts, strict=True)]
        rows += summary_of_step(own, [scheme], args.step_tokens)
    for name, tokens, count in (("long", args.step_tokens, args.step_places), ("short", args.short_tokens, 1)):
        schemes = [scheme for scheme in STEP if scheme.long == (name == "long")]
        read = partial(step_place, model, columns=columns, schemes=schemes)
        places = begins(count, len(text), args.step_tokens)
        found = [kept(work / f"{name}_{begin}.json", partial(read, [0, *text[begin : begin + tokens - 1]])) for begin in places]
        rows += summary_of_step(found, schemes, tokens)
    return {"bin": BIN, "rows": rows}


def repeat(model: Model, text: Sequence[int], args: argparse.Namespace, work: Path) -> dict[str, Any]:
    columns = static_columns(model, text[len(text) // 2 :])
    rows = []
    for token in REPEATED:
        found = kept(work / f"repeat_{token}.json", partial(repeat_place, model, text, columns, token))
        rows += [{"token": token, "scheme": name, "kl": row["kl"]} for name, row in found.items()]
    return {"bin": BIN, "rows": rows}


def chosen_steps(
    result: dict[str, Any], model: Model, text: Sequence[int], args: argparse.Namespace, work: Path, facts: dict[str, Any]
) -> None:
    """Measure --schemes in place of their rows in the JSON, with the conditions of these rows beside them."""
    columns = static_columns(model, text[len(text) // 2 :])
    places = begins(args.step_places, len(text), args.step_tokens)
    found = result.setdefault("step", {"conditions": facts, "bin": BIN, "rows": []})
    engines = {scheme.name: bits for bits, scheme in ENGINE.items()}
    for scheme in (scheme for scheme in [*ENGINE.values(), *STEP, NAIVE] if scheme.name in args.schemes):
        if scheme is NAIVE:
            slow = rwkvquant.load(args.model, tokenizer=args.tokenizer)
            slow._engine = ReferenceEngine(checkpoint_weights(open_checkpoint(args.model)))
            read = partial(naive_place, slow)
        elif scheme.name in engines:
            read = partial(engine_place, model, bits=engines[scheme.name])
        else:
            read = partial(step_place, model, columns=columns, schemes=[scheme])
        files = [work / f"{scheme.name.replace(' ', '_')}_{begin}_{args.step_tokens}.json" for begin in places]
        tokens = [[0, *text[begin : begin + args.step_tokens - 1]] for begin in places]
        own = summary_of_step([kept(file, partial(read, one)) for file, one in zip(files, tokens, strict=True)], [scheme], args.step_tokens)
        found["rows"] = [row for row in found["rows"] if row["scheme"] != scheme.name] + own
        found["conditions_of_chosen"] = facts


if __name__ == "__main__":
    main()
