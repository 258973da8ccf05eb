"""Values that are not quantised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DenseTensor:
    """Values that are not quantised: float16, or float32 where float16 would lose something."""

    values: NDArray[np.float16] | NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def decode(self) -> NDArray[np.float32]:
        return self.values.astype(np.float32)
