from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwkvquant import Model, load
from tests.serve.servers import MODEL, Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running
        assert running.process.poll() is None, running.said()
        assert "Traceback" not in running.said(), running.said()


@pytest.fixture(scope="session")
def model() -> Model:
    return load(MODEL, threads=1)
