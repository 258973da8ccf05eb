"""Reading the fields of a JSON request. A field that is null was not said. Each mistake is an ApiError that names its field."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.stopping import stop_strings
from rwkvquant.serve.errors import ApiError

MAX_STOPS, MAX_STOP_LENGTH = 16, 1000


def parse(raw: bytes) -> Fields:
    """The body of a request, which is a JSON object. Raises ApiError for anything else."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:  # a number with thousands of digits is a ValueError too
        detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(f"the body of a request is a JSON object; this one cannot be read: {detail}") from None
    if not isinstance(values, dict):
        raise ApiError(f"the body of a request is a JSON object; got {kind(values)}")
    return Fields(values)


class Fields:
    """The fields of one JSON object. `where` is its own name in messages: "messages[2]."."""

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self.values, self.where = values, where

    def get(self, name: str) -> Any:
        """The value as it came; None if it was not said."""
        return self.values.get(name)

    def error(self, name: str, rule: str) -> ApiError:
        return ApiError(f"{self.where}{name} {rule}; got {shown(self.values.get(name))}", param=f"{self.where}{name}")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or not math.isfinite(value):
            raise self.error(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"must be a whole number from {low} to {high}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "must be a string")
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise self.error(name, f"must be one of {', '.join(allowed)}")
        return value

    def fields(self, name: str) -> Fields:
        """An object inside; one without fields if it was not said."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "must be an object")
        return Fields(value or {}, f"{self.where}{name}.")

    def objects(self, name: str, least: int = 0) -> list[Fields]:
        """A list of objects."""
        value = self.get(name)
        if value is None:
            value = []
        if not isinstance(value, list) or len(value) < least or not all(isinstance(each, dict) for each in value):
            raise self.error(name, f"must be a list of at least {least} objects" if least else "must be a list of objects")
        return [Fields(each, f"{self.where}{name}[{index}].") for index, each in enumerate(value)]

    def stops(self) -> tuple[str, ...]:
        """`stop`: a string or a list of strings. Empty ones are ignored, as some clients send them."""
        value = self.get("stop")
        texts = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(texts, list) or len(texts) > MAX_STOPS or not all(isinstance(text, str) for text in texts):
            raise self.error("stop", f"must be a string, or a list of at most {MAX_STOPS} strings")
        if any(len(text) > MAX_STOP_LENGTH for text in texts):
            raise ApiError(f"a stop string has at most {MAX_STOP_LENGTH} characters", param="stop")
        try:
            return stop_strings([text for text in texts if text])
        except RwkvQuantError as error:
            raise ApiError(str(error), param="stop") from None

    def bias(self, vocab: int) -> dict[int, float]:
        """`logit_bias`: {token id: -100 to 100}."""
        value = self.get("logit_bias")
        if value is None:
            return {}
        rule = f"must be an object from token ids, 0 to {vocab - 1}, to numbers from -100 to 100"
        if not isinstance(value, dict):
            raise self.error("logit_bias", rule)
        bias = {}
        for key, amount in value.items():
            right = not isinstance(amount, bool) and isinstance(amount, int | float) and -100 <= amount <= 100
            if not (right and key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab):
                raise ApiError(f"logit_bias {rule}; got {shown(key)}: {shown(amount)}", param="logit_bias")
            bias[int(key)] = float(amount)
        return bias


def kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def shown(value: Any) -> str:
    """A value in a message, never long."""
    text = repr(value) if not isinstance(value, dict | list) else f"{kind(value)} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:60]}..."
