"""Which engine reads tokens, and what environment variables say about it. Benchmarks and tests use most of these; results do not change.

RWKVQUANT_ACTIVATIONS   int8, or float32: the reference
RWKVQUANT_SHARES        of the work, for each thread: measured, or equal
RWKVQUANT_PREFETCH      how far ahead products ask for memory: measured, table, or bytes, such as 8192 or 8192,2048
RWKVQUANT_COLUMNS       of a matrix stored by columns: used, or all, also those that are multiplied by zero
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rwkvquant.architectures import architecture
from rwkvquant.errors import ConfigError
from rwkvquant.kernels import dispatch
from rwkvquant.runtime.engines.base import Engine
from rwkvquant.runtime.engines.cached import CachedEngine
from rwkvquant.runtime.engines.native import COLUMNS, MOST_AHEAD, PREFETCH, SHARES, NativeEngine, chosen_activations
from rwkvquant.runtime.engines.reference import ReferenceEngine, step_of
from rwkvquant.runtime.threads import choose_threads
from rwkvquant.runtime.weights import Weights


def make_engine(weights: Weights, threads: int | None = None, activations: str | None = None) -> Engine:
    """The native engine if there is a native module; otherwise the reference, and `dispatch` warns. A growing state has its own.

    Raises ConfigError for a value of a variable that is none of its own.
    """
    threads = choose_threads(threads)
    activations = chosen_activations(activations)
    shares, columns, prefetch = _variable("SHARES", SHARES), _variable("COLUMNS", COLUMNS), _prefetch()
    step_of(weights.arch)  # first, because its message for an architecture that cannot run says more
    if architecture(weights.arch).grows:
        return CachedEngine(weights, activations)
    if dispatch.native_module() is None:
        return ReferenceEngine(weights)
    return NativeEngine(weights, threads, activations, shares, prefetch, columns)


def _variable(name: str, values: Sequence[str]) -> str:
    """The first of `values` if the variable is not set."""
    asked = os.environ.get(f"RWKVQUANT_{name}", values[0])
    if asked not in values:
        raise ConfigError(f"RWKVQUANT_{name} must be one of {', '.join(values)}; got {asked}")
    return asked


def _prefetch() -> str | tuple[int, int]:
    asked = os.environ.get("RWKVQUANT_PREFETCH", PREFETCH[0])
    if asked in PREFETCH:
        return asked
    far, comma, near = asked.partition(",")
    distances = (far, near) if comma else (far,)
    if not all(distance.isdecimal() and int(distance) <= MOST_AHEAD for distance in distances):
        raise ConfigError(
            f"RWKVQUANT_PREFETCH must be {', '.join(PREFETCH)}, or 0 to {MOST_AHEAD} bytes, or two such numbers with a comma; got {asked}"
        )
    return int(far), int(near) if comma else 0
