"""As many rows at once as were asked for, fewer if they do not fit, and at least one."""

from __future__ import annotations

from rwkvquant.calibration.batches import fitting_batch


def test_batches_fit_and_are_never_larger_than_asked_for() -> None:
    assert fitting_batch(8, 512 * 256, 1 << 21) == 8
    assert fitting_batch(8, 512 * 2048, 1 << 21) == 2
    assert fitting_batch(8, 512 * 4096 * 10, 1 << 21) == 1
