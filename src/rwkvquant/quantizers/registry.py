"""Which quantiser a method's name means for each codec. NumPy only: a quantiser's module is imported at its first call.

A quantiser is a pure function of a weight, of what is known of its input, and of options:

    W (out, in) float32 | float64, Hessian | None, parameters of the codec, QuantizerOptions   ->   the codec's logical tensor

The `__init__` of every folder here registers its quantisers. Another package, or a test, registers those of its own codec in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.quantizers.options import QuantizerOptions

WORK = 10_000  # of grids with error feedback
Quantize = Callable[[Any, Any, Any, QuantizerOptions], Any]
Errors = Callable[[Any, Sequence[Any], QuantizerOptions], list[float]]


@dataclass(frozen=True)
class Quantizer:
    """One method for one codec.

    function: the quantiser, or "module:function" that says where it is. feedback: whether it needs the Hessian of the input.
    drift: whether it also needs to know how far that input has moved from the full-precision model's (shared/drift.py).
    plain: the method of the same codec without error feedback, which a tensor falls back to; a method without feedback names itself.
    errors: W (rows, cols) and many parameters -> sum (W - Q)^2 for each, without a Hessian; for methods that can do this faster
    than by one Q after the other. work: the time that a weight takes besides products with the Hessian, in multiply-adds
    of such products, about (docs/cluster.md). It only says which tasks of a cluster are long.
    """

    name: str
    params: type
    function: Quantize | str
    feedback: bool
    plain: str
    errors: Errors | str | None = None
    drift: bool = False
    work: int = WORK

    def __call__(self, W: Any, hessian: Any, params: Any, options: QuantizerOptions) -> Any:
        assert hessian is not None or not self.feedback, f"{self.name} needs the Hessian of the input"
        return _load(self.function)(W, hessian, params, options)

    def rounding_errors(self, W: Any, params: Sequence[Any], options: QuantizerOptions) -> list[float]:
        """W (rows, cols), a torch tensor on the CPU -> sum (W - Q)^2 for each of the parameters, without a Hessian."""
        if self.errors is not None:
            errors: list[float] = _load(self.errors)(W, params, options)
            return errors
        decoded = (self(W, None, each, options).decode() for each in params)
        return [float((W - W.new_tensor(Q)).double().square().sum()) for Q in decoded]


def _load(function: Callable[..., Any] | str) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), name)
    return loaded


_QUANTIZERS: dict[tuple[str, type], Quantizer] = {}


def register(
    name: str,
    params: type,
    function: Quantize | str,
    *,
    feedback: bool = False,
    plain: str | None = None,
    errors: Errors | str | None = None,
    drift: bool = False,
    work: int = WORK,
) -> Quantizer:
    """Make `name` a method for matrices whose codec has the parameters `params`. A method with feedback names its plain one.

    A second registration of the same name and parameters replaces the first.
    """
    assert not feedback or plain is not None, f"{name} chooses codes with feedback: name the plain method"
    _QUANTIZERS[name, params] = quantizer = Quantizer(name, params, function, feedback, plain or name, errors, drift, work)
    return quantizer


def unregister(quantizer: Quantizer) -> None:
    """Remove a registration, as a test does at its end."""
    del _QUANTIZERS[quantizer.name, quantizer.params]


def quantizer_for(method: str, params: Any) -> Quantizer:
    """The quantiser of a method for the codec with these parameters (an object, or its class).

    Raises ConfigError for a pair that is not registered.
    """
    kind = params if isinstance(params, type) else type(params)
    if (method, kind) not in _QUANTIZERS:
        known = ", ".join(methods_for(kind)) or "none"
        raise ConfigError(f"the method {method} does not quantise to {kind.__name__}; methods that do: {known}")
    return _QUANTIZERS[method, kind]


def methods_for(params: type) -> tuple[str, ...]:
    """The methods of the codec with these parameters, in the order of registration."""
    return tuple(name for name, of in _QUANTIZERS if of is params)


def quantizers() -> tuple[Quantizer, ...]:
    """All quantisers, in the order of registration."""
    return tuple(_QUANTIZERS.values())
