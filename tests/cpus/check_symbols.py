"""No file of a body shares a function with another body, also where the compiler inlines nothing. It takes minutes: `make test-cpus`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.test_bodies import BODIES, NATIVE, shared_symbols, uninlined


@pytest.mark.parametrize("body", BODIES)
def test_no_weak_symbol_leaves_a_body_without_inlining(body: str, tmp_path: Path) -> None:
    shared = {source: shared_symbols(uninlined(NATIVE / source, body, tmp_path)) for source in BODIES[body][1]}
    assert not any(shared.values()), {source: symbols for source, symbols in shared.items() if symbols}
