"""Products of every length with every layout, which take a minute. `make test` has every length with some of the layouts."""

from __future__ import annotations

from tests.kernels.test_product import check_every_length


def test_every_length_up_to_two_tiles_with_every_layout() -> None:
    check_every_length(1)
