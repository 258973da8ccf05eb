"""Chooses what runs the operations: a body of the native module (code for one instruction set), or NumPy where it is not built.

    RWKVQUANT_KERNELS=reference              everything in NumPy, slow but right
    RWKVQUANT_ISA=plain | avx2 | avxvnni | avx512      a native body other than the best one for this CPU; on ARM: plain | neon | i8mm

Both are read at the first call. Callers do not choose a body, and all bodies give the same bits.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

from rwkvquant.errors import ConfigError


def backend() -> str:
    """What runs the native operations: "avx512", "avxvnni", "avx2", "plain" (on ARM "i8mm", "neon", "plain"), or "reference" for NumPy."""
    native = native_module()
    return "reference" if native is None else str(native.isa())


@functools.cache
def native_module() -> ModuleType | None:
    """The native module, set to the chosen body; None where NumPy is used instead, with one warning if that was not asked for.

    Raises ConfigError for a body that cannot run on this machine.
    """
    kernels, isa = os.environ.get("RWKVQUANT_KERNELS", "native"), os.environ.get("RWKVQUANT_ISA")
    if kernels not in ("native", "reference"):
        raise ConfigError(f"RWKVQUANT_KERNELS must be native or reference; got {kernels}")
    if kernels == "reference":
        return None
    try:
        native = importlib.import_module("rwkvquant._native")  # by name: importing the package itself would be an upward import
    except ImportError as error:
        if isa:
            raise ConfigError(f"RWKVQUANT_ISA={isa} needs the native module, which cannot be imported ({error}). Reinstall it.") from None
        warnings.warn(f"rwkvquant runs on NumPy alone, slowly: its native module cannot be imported ({error})", stacklevel=3)
        return None
    if isa:
        try:
            native.set_isa(isa)
        except ValueError as error:
            raise ConfigError(f"RWKVQUANT_ISA: {error}") from None
    return native
