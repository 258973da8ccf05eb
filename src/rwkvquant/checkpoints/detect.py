"""Which architecture, and which sizes, from tensor names and shapes alone; file names and configs are not trusted.

`read_sizes` walks the architecture's table (tables.py): the first tensor that has a symbol in its shape gives it its size, and
every other tensor must agree. So a checkpoint that passes has every tensor of the table, in the right shape, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rwkvquant.architectures import GLOBAL, TABLES, Role, TensorSpec
from rwkvquant.errors import CheckpointError
from rwkvquant.kernels.state import Dims

Shape = tuple[int, ...]

SUPPORTED = "RWKV-7 (x070) and RWKV-6 (x060) checkpoints with BlinkDL's tensor names are supported"
BLOCK = re.compile(r"blocks\.([0-9]{1,5})\.(.+)")
RANKS = ("Rw", "Ra", "Rv", "Rg", "Rm", "Rd")

# The first pattern that some tensor's name holds decides, so newer architectures stand first: each has the tensors of an older one.
UNSUPPORTED = [
    (r"\brosa|ffn\.enn\.weight$", "RWKV-8"),
    (r"^(blocks\.\d+\.)?qkv\.", "RWKV-7b (v7b, with DeepEmbed and DEA)"),
    (r"\bffn\.s_emb", "RWKV-7a (v7a, with DeepEmbed)"),
]
SUPPORTED_MARKS = [(r"^blocks\.\d+\.att\.(r_k|k_k|x_[rwkvag])$", "rwkv7"), (r"^blocks\.\d+\.att\.time_maa_", "rwkv6")]
OLD_MARK = r"^blocks\.\d+\.att\.(time_mix_|time_decay$)"


def detect(shapes: Mapping[str, Shape]) -> tuple[str, Dims]:
    """("rwkv7" | "rwkv6", sizes). Raises CheckpointError for other architectures, and for tensors missing, unknown or misshapen."""
    arch = architecture(shapes)
    return arch, read_sizes(arch, shapes)


def architecture(shapes: Mapping[str, Shape]) -> str:
    """The name of a table in tables.py. Raises CheckpointError, naming the architecture if it is one we know of."""
    for pattern, title in UNSUPPORTED:
        if any(re.search(pattern, name) for name in shapes):
            raise CheckpointError(f"{title} is not supported; {SUPPORTED}")
    for pattern, arch in SUPPORTED_MARKS:
        if any(re.search(pattern, name) for name in shapes):
            return arch
    if any(re.search(OLD_MARK, name) for name in shapes):
        raise CheckpointError(f"{_old_version(shapes)} is not supported; {SUPPORTED}")
    if all(name.endswith("att.time_state") for name in shapes):
        raise CheckpointError("this file holds a tuned state (time_state) without its model; a checkpoint with all its weights is needed")
    raise CheckpointError(f"no tensor here has a name of an RWKV checkpoint (the first is {next(iter(shapes))!r}); {SUPPORTED}")


def _old_version(shapes: Mapping[str, Shape]) -> str:
    """RWKV-5 normalises each head (ln_x); 5.1 has a gate, and 5.2 a decay for each channel instead of each head."""
    if not any("att.ln_x." in name for name in shapes):
        return "RWKV-4"
    decay = next((shape for name, shape in shapes.items() if name.endswith("att.time_decay")), ())
    if len(decay) > 1 and decay[1] > 1:
        return "RWKV-5.2"
    return "RWKV-5.1" if any("att.gate." in name for name in shapes) else "RWKV-5"


class Sizes:
    """Symbols of tables.py -> sizes, each with the tensor that gave it."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.given_by: dict[str, str] = {}

    def match(self, name: str, spec: TensorSpec, shape: Shape) -> None:
        """Learn from one tensor, or raise CheckpointError if it contradicts the others."""
        fits = len(shape) == len(spec.shape)
        for wanted, size in zip(spec.shape, shape, strict=False):
            if isinstance(wanted, int):
                fits = fits and size == wanted
                continue
            factor, symbol = _factor(wanted)
            if fits and symbol not in self.known:
                self.known[symbol], self.given_by[symbol] = size // factor, name
            fits = fits and size == factor * self.known.get(symbol, -1)
        if not fits:
            raise CheckpointError(f"{name} must have the shape {self._wanted(name, spec)}; got {_written(shape)}")

    def dims(self, layers: int) -> Dims:
        C, F, V, H, N = (self.known[symbol] for symbol in "CFVHN")
        return Dims(layers, C, F, V, H, N, {rank: self.known[rank] for rank in RANKS if rank in self.known})

    def _wanted(self, name: str, spec: TensorSpec) -> str:
        symbols = [_factor(part)[1] for part in spec.shape if isinstance(part, str)]
        learnt = [s for s in dict.fromkeys(symbols) if self.given_by.get(s, name) != name]
        return _written(spec.shape) + ", ".join([""] + [f"{s} = {self.known[s]} as in {self.given_by[s]}" for s in learnt])


def read_sizes(arch: str, shapes: Mapping[str, Shape]) -> Dims:
    """All sizes of a checkpoint. Raises CheckpointError unless its tensors are exactly those of the table."""
    blocks = [int(match[1]) for name in shapes if (match := BLOCK.fullmatch(name))]
    layers = 1 + max(blocks, default=0)
    with_state = any(name.endswith(".att.time_state") for name in shapes)
    sizes = Sizes()
    unused: list[tuple[str, TensorSpec]] = []
    expected = set()
    for name, spec, layer in all_specs(arch, layers):
        if spec.role is Role.STATE and not with_state:
            continue
        expected.add(name)
        if is_unused(spec, layer):  # no other tensor may learn its rank from these
            unused.append((name, spec))
        elif name in shapes:
            sizes.match(name, spec, shapes[name])
        elif spec.role is Role.STATE:
            raise CheckpointError(f"a tuned state (time_state) has a tensor for every block; the checkpoint lacks {name}")
        else:
            raise CheckpointError(f"the checkpoint lacks {name}, which every {_title(arch)} of {layers} layers has")
    dims = sizes.dims(layers)
    for name, spec in unused:
        if name in shapes:
            sizes.match(name, spec, shapes[name])
    for name in shapes:
        if name not in expected:
            raise CheckpointError(f"{_title(arch)} has no tensor {name}; merge LoRA adapters and remove extras first")
    if dims.heads * dims.head_size != dims.width:
        raise CheckpointError(f"heads times head size must be the width; got {dims.heads} x {dims.head_size} and {dims.width}")
    return dims


def all_specs(arch: str, layers: int) -> Iterator[tuple[str, TensorSpec, int | None]]:
    """(full name, spec, layer or None) of every tensor that a checkpoint may have: embedding, blocks, ln_out, head."""
    embedding, *last = GLOBAL
    yield embedding.name, embedding, None
    for layer in range(layers):
        for spec in TABLES[arch]:
            if spec.layers != "first" or layer == 0:
                yield f"blocks.{layer}.{spec.name}", spec, layer
    for spec in last:
        yield spec.name, spec, None


def is_unused(spec: TensorSpec, layer: int | None) -> bool:
    """v0, v1, v2 of the first layer: the forward never touches them, so many checkpoints leave them out."""
    return spec.layers == "later" and layer == 0


def _factor(symbol: str) -> tuple[int, str]:
    """ "5*Rm" -> (5, "Rm")"""
    factor, star, name = symbol.partition("*")
    return (int(factor), name) if star else (1, symbol)


def _written(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _title(arch: str) -> str:
    return {"rwkv7": "RWKV-7 (x070)", "rwkv6": "RWKV-6 (x060)"}[arch]
