"""One name for each operation, and the body that runs it: the native module where it is built, else NumPy.

    RWKVQUANT_KERNELS=reference              everything in NumPy, slowly and rightly
    RWKVQUANT_ISA=plain | avx2 | avx512      a native body other than the best one for this CPU; on ARM: plain | neon | i8mm

Both are read at the first call. Callers never say which body; results are the same bits in all of them.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

from rwkvquant.errors import ConfigError


def backend() -> str:
    """What runs the native operations: "avx512", "avx2", "plain" (on ARM "i8mm", "neon", "plain"), or "reference" for NumPy."""
    native = native_module()
    return "reference" if native is None else str(native.isa())


@functools.cache
def native_module() -> ModuleType | None:
    """The native module set to the body asked for; None, after one warning, where NumPy has to do.

    Raises ConfigError for a body that cannot run here.
    """
    kernels, isa = os.environ.get("RWKVQUANT_KERNELS", "native"), os.environ.get("RWKVQUANT_ISA")
    if kernels not in ("native", "reference"):
        raise ConfigError(f"RWKVQUANT_KERNELS must be native or reference; got {kernels}")
    if kernels == "reference":
        return None
    try:
        native = importlib.import_module("rwkvquant._native")  # by name: an import of the package would reach up to the pipeline
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
