"""What a method is: a name, its options, and a function from what was said to a recipe. All methods that are registered are here.

    register(Method("rtn", "round to nearest", OPTIONS, build))

makes `--method rtn` known to the command line and its help, to error messages, and to Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rwkvquant.config import STYLES, QuantizeRequest
from rwkvquant.errors import ConfigError
from rwkvquant.recipes.recipe import Recipe

# Options of every method.
ALWAYS = ("method", "own_options", "tensor_bits", "calibration", "tokenizer", "adapter", "forward_dtype", "device", "seed")


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high, both included; with `open_low`, low itself is not."""

    low: float
    high: float
    open_low: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and (self.low < value if self.open_low else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"above {self.low:g} and at most {self.high:g}" if self.open_low else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Option:
    """One option of one method. `default` may depend on the style: {"tuned": 0.05, "paper": 0.01}."""

    name: str
    allowed: Any  # a tuple, a range or an Interval
    help: str
    default: Any = None  # None: nothing, or what the help says

    def value(self, style: str) -> Any:
        return self.default[style] if isinstance(self.default, Mapping) else self.default

    @property
    def values(self) -> str:
        """What is allowed, in words."""
        if isinstance(self.allowed, tuple):
            return " | ".join("yes | no" if value is True else str(value) for value in self.allowed if value is not False)
        return f"{self.allowed[0]} to {self.allowed[-1]}" if isinstance(self.allowed, range) else str(self.allowed)

    def read(self, word: str) -> Any:
        """The value that a word means, such as "yes" or "0.5"; the word itself where it means none, for `check` to refuse."""
        if isinstance(self.allowed, tuple):
            return next((value for value in self.allowed if word == {True: "yes", False: "no"}.get(value, str(value))), word)
        for kind in (int,) if isinstance(self.allowed, range) else (int, float):
            with contextlib.suppress(ValueError):
                return kind(word)
        return word

    def check(self, value: Any, method: str) -> None:
        if value not in self.allowed:
            raise ConfigError(f"{self.name} must be {self.values.replace(' | ', ' or ')} for the method {method}; got {value}")


@dataclass(frozen=True)
class Method:
    """`options` are those besides ALWAYS. `build` gets the checked options, with defaults for those that the user left out."""

    name: str
    about: str
    options: tuple[Option, ...]
    build: Callable[[Said], Recipe]

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)


class Said:
    """A request as a method reads it: `said.damping` is what was said, or the default of the method in this style."""

    def __init__(self, request: QuantizeRequest, method: Method) -> None:
        self.request, self.method = request, method
        self.own = _own(request, method)

    def given(self, *names: str) -> list[str]:
        """Those of `names` that the user gave."""
        return [name for name in names if self._said(name) is not None]

    @property
    def style(self) -> str:
        option = self.method.option("style")
        return str(self.request.style or (option.default if option else STYLES[0]))

    def always(self) -> dict[str, Any]:
        """The fields of a recipe that every method has, as they were said."""
        request = self.request
        return {
            "method": self.method.name,
            "tensor_bits": request.tensor_bits,
            "calibration": request.calibration,
            "tokenizer": request.tokenizer or "",
            "adapter": request.adapter or "",
            "forward_dtype": request.forward_dtype,
            "device": request.device,
            "seed": request.seed,
        }

    def __getattr__(self, name: str) -> Any:
        value = self._said(name)
        if value is not None:
            return value
        option = self.method.option(name)
        return None if option is None else option.value(self.style)

    def _said(self, name: str) -> Any:
        return self.own[name] if name in self.own else getattr(self.request, name, None)


_REGISTERED: dict[str, Method] = {}
METHODS: Mapping[str, Method] = MappingProxyType(_REGISTERED)  # by name, in the order of registration


def register(method: Method) -> Method:
    """Make a method known under its name. Raises ConfigError for a name that is taken."""
    if method.name in _REGISTERED:
        raise ConfigError(f"there is a method {method.name} already")
    _REGISTERED[method.name] = method
    return method


def unregister(name: str) -> None:
    """Remove a method: for tests that define one."""
    del _REGISTERED[name]


def recipe_for(request: QuantizeRequest) -> Recipe:
    """What will run. Raises ConfigError for an option or a value that the method does not have, or options that do not fit."""
    method = METHODS.get(request.method)
    if method is None:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}; got {request.method}")
    for name in _said(request):
        _option(method, name).check(getattr(request, name), method.name)
    return method.build(Said(request, method))


def _option(method: Method, name: str) -> Option:
    option = method.option(name)
    if option is None:
        raise ConfigError(f"{name} is {_of(name)}; the method {method.name} does not have it")
    return option


def _own(request: QuantizeRequest, method: Method) -> dict[str, Any]:
    """What `own_options` say, by name. Raises ConfigError as `recipe_for` does."""
    fields, said = [each.name for each in dataclasses.fields(request)], {}
    for text in request.own_options:
        name, equals, word = text.partition("=")
        if not (name and equals and word):
            raise ConfigError(f"a method's own option is given as NAME=VALUE; got {text!r}")
        if name in fields:
            raise ConfigError(
                f"{name} is not given as NAME=VALUE, but by the option {name} (on the command line --{name.replace('_', '-')})"
            )
        option = _option(method, name)
        option.check(option.read(word), method.name)
        said[name] = option.read(word)
    return said


def owners(name: str) -> list[str]:
    """The methods that have this option."""
    return [method.name for method in METHODS.values() if name in ALWAYS or method.option(name)]


def _said(request: QuantizeRequest) -> Iterator[str]:
    for each in dataclasses.fields(request):
        if each.name not in ALWAYS and getattr(request, each.name) is not None:
            yield each.name


def _of(name: str) -> str:
    methods = owners(name)
    return f"an option of {in_words(methods)}" if methods else "an option of no method"


def in_words(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
